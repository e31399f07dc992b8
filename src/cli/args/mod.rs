//! The tree of verbs and flags. Doc comments are the help.

#[cfg(feature = "pijul")]
pub mod blame;
pub mod config;
#[cfg(feature = "pijul")]
pub mod pijul;
pub mod purge;
pub mod retention;
pub mod undo;
pub mod wal;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgAction, Args as Group, Parser, Subcommand};

use crate::cli::output::style::Choice;
use crate::cli::session::Session;
use crate::cli::verbs;
use crate::engine::undo::line::Way;
use crate::error::Result;

#[cfg(feature = "pijul")]
pub use blame::BlameArgs;
pub use config::{ConfigGetArgs, ConfigListArgs, ConfigSetArgs, ConfigUnsetArgs, ConfigVerb, Scope as ConfigScope};
#[cfg(feature = "pijul")]
pub use pijul::{PijulRebuildArgs, PijulVerb};
pub use purge::PurgeArgs;
pub use retention::{ThinArgs, UsageArgs, UsageBy};
pub use undo::UndoArgs;
pub use wal::{WalInspectArgs, WalPruneArgs, WalRepairArgs, WalVerb, WalVerifyArgs};

/// A mounted directory in which nothing is ever lost.
///
/// Every operation in the mount is in a log before the program gets its answer; the log becomes versions, and changes in a Pijul
/// repository. Any earlier state can be read and restored.
#[derive(Debug, Parser)]
#[command(name = "ize", version, arg_required_else_help = true, subcommand_required = true, after_help = WORDS, max_term_width = 100)]
pub struct Args {
    /// Flags that every verb takes.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

// Paragraphs are single lines: clap breaks them where the terminal ends.
const WORDS: &str = "\
Where a verb takes words, a first word that names a project is the project; it may be left out inside a mount, and wherever a path \
inside a mount is given. -p NAME always wins, ./NAME is always a path.

Exit codes: 0 ok, 1 failed or no match or differs, 2 usage, 3 not found, 4 torn tail, 5 damage, 6 I/O error, 7 busy or locked, 8 full \
or quota, 9 refused or needs --yes, 10 daemon gone.";

/// Flags that every verb takes.
#[derive(Debug, Clone, Default, Group)]
pub struct Global {
    /// Directory that holds the projects [default: central-dir of config.toml, else ~/.local/share/ize]
    #[arg(long, global = true, env = "IZE_CENTRAL_DIR", value_name = "DIR", hide_env_values = true)]
    pub central_dir: Option<PathBuf>,
    /// The project, by name or id; every other word is then a path
    #[arg(short, long, global = true, value_name = "NAME")]
    pub project: Option<OsString>,
    /// Colours: where a terminal shows them (and NO_COLOR does not say no), always, never
    #[arg(long, global = true, value_enum, value_name = "WHEN", default_value_t = Choice::Auto, hide_possible_values = true)]
    pub color: Choice,
    /// Write long output straight to the terminal [otherwise through IZE_PAGER, PAGER or less]
    #[arg(long, global = true)]
    pub no_pager: bool,
    /// Say more on stderr: -v info, -vv debug, -vvv trace (or IZE_LOG=FILTER)
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Create a project
    Init(InitArgs),
    /// List the projects and where they are mounted
    List(ListArgs),
    /// Mount a project, creating it on the way if asked to
    #[cfg(feature = "fuse")]
    Mount(MountArgs),
    /// Make everything durable and take a mount away
    Unmount(UnmountArgs),
    /// Make everything that was answered so far durable
    Sync(SyncArgs),
    /// Say how a project stands and how far back its history reaches
    Status(StatusArgs),
    /// End the version that is being gathered, with a message
    Commit(CommitArgs),
    /// List the changes, of everything or of one path
    History(HistoryArgs),
    /// Say of each line of a text which change it is from
    #[cfg(feature = "pijul")]
    Blame(BlameArgs),
    /// Write a file as it was at a moment
    Cat(CatArgs),
    /// Write everything, as it is or was at a moment, into a new directory
    Export(ExportArgs),
    /// Bring paths back to what they were at a moment
    Restore(RestoreArgs),
    /// Take one change back, the last or any other, and keep all later ones
    #[command(after_help = undo::UNDO_HELP)]
    Undo(UndoArgs),
    /// Make again what was undone last
    #[command(after_help = undo::REDO_HELP)]
    Redo(UndoArgs),
    /// Take something out of every version, the log and the packs, for good
    Purge(PurgeArgs),
    /// Check everything that is kept: log, packs, versions and what they name
    Fsck(FsckArgs),
    /// Say what takes the space, by path, program or class
    Usage(UsageArgs),
    /// Drop versions, by age or until the store fits
    Thin(ThinArgs),
    /// Look at the settings and change them
    #[command(subcommand, after_help = config::HELP)]
    Config(ConfigVerb),
    /// Mend the Pijul repository
    #[cfg(feature = "pijul")]
    #[command(subcommand)]
    Pijul(PijulVerb),
    /// Look at the log, check it, prune it, mend it
    #[command(subcommand, after_help = wal::HELP)]
    Wal(WalVerb),
}

impl Verb {
    /// Does it.
    ///
    /// # Errors
    /// What the verb says.
    pub fn run(self, session: &mut Session) -> Result<()> {
        match self {
            Self::Init(args) => verbs::init::run(&args, session),
            Self::List(args) => verbs::list::run(&args, session),
            #[cfg(feature = "fuse")]
            Self::Mount(args) => verbs::mount::run(&args, session),
            Self::Unmount(args) => verbs::unmount::run(&args, session),
            Self::Sync(args) => verbs::sync::run(&args, session),
            Self::Status(args) => verbs::status::run(&args, session),
            Self::Commit(args) => verbs::commit::run(&args, session),
            Self::History(args) => verbs::history::run(&args, session),
            #[cfg(feature = "pijul")]
            Self::Blame(args) => verbs::blame::run(&args, session),
            Self::Cat(args) => verbs::cat::run(&args, session),
            Self::Export(args) => verbs::export::run(&args, session),
            Self::Restore(args) => verbs::restore::run(&args, session),
            Self::Undo(args) => verbs::undo::run(&args, Way::Undo, session),
            Self::Redo(args) => verbs::undo::run(&args, Way::Redo, session),
            Self::Purge(args) => verbs::purge::run(&args, session),
            Self::Fsck(args) => verbs::fsck::run(&args, session),
            Self::Usage(args) => verbs::usage::run(&args, session),
            Self::Thin(args) => verbs::thin::run(&args, session),
            Self::Config(verb) => verbs::config::run(&verb, session),
            #[cfg(feature = "pijul")]
            Self::Pijul(PijulVerb::Rebuild(args)) => verbs::pijul::rebuild::run(&args, session),
            Self::Wal(WalVerb::Inspect(args)) => verbs::wal::inspect::run(&args, session),
            Self::Wal(WalVerb::Verify(args)) => verbs::wal::verify::run(&args, session),
            Self::Wal(WalVerb::Prune(args)) => verbs::wal::prune::run(&args, session),
            Self::Wal(WalVerb::Repair(args)) => verbs::wal::repair::run(&args, session),
        }
    }

    /// True when the answer, and so an error too, is wanted as JSON.
    #[must_use]
    pub fn json(&self) -> bool {
        match self {
            Self::Init(args) => args.json,
            Self::Export(args) => args.json,
            Self::List(args) => args.json,
            Self::Status(args) => args.json,
            Self::History(args) => args.json,
            #[cfg(feature = "pijul")]
            Self::Blame(args) => args.json,
            Self::Undo(args) | Self::Redo(args) => args.json,
            Self::Purge(args) => args.json,
            Self::Fsck(args) => args.json,
            Self::Usage(args) => args.json,
            Self::Thin(args) => args.json,
            Self::Config(ConfigVerb::List(args)) => args.json,
            #[cfg(feature = "pijul")]
            Self::Pijul(PijulVerb::Rebuild(args)) => args.json,
            Self::Wal(WalVerb::Inspect(args)) => args.json,
            Self::Wal(WalVerb::Verify(args)) => args.json,
            Self::Wal(WalVerb::Prune(args)) => args.json,
            Self::Wal(WalVerb::Repair(args)) => args.json,
            #[cfg(feature = "fuse")]
            Self::Mount(_) => false,
            Self::Config(_) | Self::Unmount(_) | Self::Sync(_) | Self::Commit(_) | Self::Cat(_) | Self::Restore(_) => false,
        }
    }
}

/// `ize init`.
#[derive(Debug, Group)]
#[command(
    after_help = "Examples:\n  ize init notes\n  ize mount notes ~/notes --create\n  ize init photos --from ~/photos       (again, if it was interrupted: it goes on)\n  ize init back --from-pijul clone --blobs /backup/blobs"
)]
pub struct InitArgs {
    /// Name: 1 to 64 letters, digits, `.`, `_`, `-`, the first one a letter, a digit or `_`
    pub name: OsString,
    /// Take what is in this directory into it, with all attributes; other file systems below are left out
    #[arg(long, value_name = "DIR", group = "origin")]
    pub from: Option<PathBuf>,
    /// Take what the head of this Pijul repository holds: a `pijul clone` of a project, or any other. Each path gets the time of the last change
    /// that touched it
    #[cfg(feature = "pijul")]
    #[arg(long, value_name = "DIR", group = "origin")]
    pub from_pijul: Option<PathBuf>,
    /// With --from-pijul: where the chunks of large and binary files are, a project's directory, its blobs/, or a copy of that [default: of
    /// the repository itself, or of what it was cloned from]
    #[cfg(feature = "pijul")]
    #[arg(long, value_name = "DIR", requires = "from_pijul")]
    pub blobs: Option<PathBuf>,
    /// With --from-pijul: leave out files of which chunks are missing, and list them
    #[cfg(feature = "pijul")]
    #[arg(long, requires = "from_pijul")]
    pub allow_missing: bool,
    /// With --from and --from-pijul: one JSON object a line, how far it is, what is wrong with which path, and at the end a summary
    #[arg(long, requires = "origin")]
    pub json: bool,
}

/// `ize list`.
#[derive(Debug, Group)]
pub struct ListArgs {
    /// One JSON object a project: name, id, dir, created, mounted
    #[arg(long)]
    pub json: bool,
}

/// `ize mount`.
#[derive(Debug, Group)]
#[command(
    after_help = "Examples:\n  ize mount notes ~/notes --create\n  ize mount notes          (where it was last)\n  ize mount notes /srv/notes -o allow_other,noatime"
)]
pub struct MountArgs {
    /// The project [default: that of -p]
    pub name: Option<OsString>,
    /// An empty directory [default: where the project was mounted last]
    pub mountpoint: Option<PathBuf>,
    /// Create the mount point, and the project too, if they are missing
    #[arg(long)]
    pub create: bool,
    /// Stay in the foreground until it is unmounted
    #[arg(long, short)]
    pub foreground: bool,
    /// Options as mount(8) writes them, e.g. allow_other,noexec
    #[arg(short = 'o', value_name = "OPTIONS", action = ArgAction::Append)]
    pub options: Vec<OsString>,
    /// Mount over a directory that is not empty, hiding what is in it
    #[arg(long)]
    pub over: bool,
    /// Change nothing, in the mount and in the store: no recovery, what is sound is shown (the same as -o ro)
    #[arg(long)]
    pub read_only: bool,
}

/// `ize unmount`.
#[derive(Debug, Group)]
#[command(after_help = "Examples:\n  ize unmount notes\n  ize unmount ~/notes")]
pub struct UnmountArgs {
    /// The project or its mount point [default: the mount of the current directory]
    #[arg(value_name = "NAME|MOUNTPOINT")]
    pub word: Option<OsString>,
    /// While it is in use, try again for so long, e.g. 30s
    #[arg(long, value_name = "TIME", value_parser = crate::project::units::duration)]
    pub wait: Option<std::time::Duration>,
    /// Take the name away now, although something is open; that is served until it is closed
    #[arg(long)]
    pub lazy: bool,
}

/// `ize sync`.
#[derive(Debug, Group)]
pub struct SyncArgs {
    /// The project, or a path in its mount [default: that of the current directory]
    #[arg(value_name = "PROJECT")]
    pub word: Option<OsString>,
}

/// `ize status`.
#[derive(Debug, Group)]
#[command(
    after_help = "Examples:\n  ize status notes\n  ize status --check || echo 'look at it'\n  ize status notes --prometheus > /var/lib/node_exporter/notes.prom"
)]
pub struct StatusArgs {
    /// The project, or a path in its mount [default: that of the current directory]
    #[arg(value_name = "PROJECT")]
    pub word: Option<OsString>,
    /// As one JSON object
    #[arg(long)]
    pub json: bool,
    /// As text that Prometheus reads
    #[arg(long, conflicts_with = "json")]
    pub prometheus: bool,
    /// Only whether it keeps up, also as exit code: 0 ok, 1 lagging, 6 stuck, 10 not mounted
    #[arg(long)]
    pub check: bool,
}

/// `ize commit`.
#[derive(Debug, Group)]
#[command(after_help = "Examples:\n  ize commit -m 'before the rewrite'\n  ize commit notes")]
pub struct CommitArgs {
    /// The project, or a path in its mount [default: that of the current directory]
    #[arg(value_name = "PROJECT")]
    pub word: Option<OsString>,
    /// What to remember about it
    #[arg(short, long, value_name = "TEXT")]
    pub message: Option<String>,
}

/// `ize history`.
#[derive(Debug, Group)]
#[command(
    after_help = "Examples:\n  ize history                 (inside a mount)\n  ize history notes a.txt\n  ize history -n 5 --json ~/notes/a.txt"
)]
pub struct HistoryArgs {
    /// The project, then a path in it
    #[arg(value_name = "[PROJECT] PATH")]
    pub words: Vec<OsString>,
    /// One JSON object a change: id, time, lsn, process, message, paths
    #[arg(long)]
    pub json: bool,
    /// At most so many changes
    #[arg(short = 'n', value_name = "N")]
    pub count: Option<u64>,
    /// Oldest first
    #[arg(long)]
    pub reverse: bool,
}

const MOMENTS: &str = "\
WHEN is an LSN (@1a2f), a change id or the start of one, now, now~3 (three versions back), a time (2026-01-02 15:04, RFC 3339, \
yesterday) or a distance (2h ago).";

/// `ize cat`.
#[derive(Debug, Group)]
#[command(after_help = MOMENTS)]
pub struct CatArgs {
    /// The project, then a file in it
    #[arg(value_name = "[PROJECT] PATH", required = true)]
    pub words: Vec<OsString>,
    /// The moment
    #[arg(long, value_name = "WHEN", default_value = "now")]
    pub at: OsString,
}

/// `ize export`.
#[derive(Debug, Group)]
#[command(before_help = MOMENTS, after_help = "Examples:\n  ize export notes /tmp/notes\n  ize export notes /tmp/before --at yesterday")]
pub struct ExportArgs {
    /// The project, then a new or empty directory
    #[arg(value_name = "PROJECT DIR", required = true, num_args = 1..=2)]
    pub words: Vec<OsString>,
    /// The moment
    #[arg(long, value_name = "WHEN", default_value = "now")]
    pub at: OsString,
    /// One JSON object a line: how far it is, what is wrong with which path, and at the end a summary
    #[arg(long)]
    pub json: bool,
}

/// `ize restore`.
#[derive(Debug, Group)]
#[command(before_help = MOMENTS, after_help = "Examples:\n  ize restore a.txt --at '2h ago'\n  ize restore notes a.txt 1a2f     (project, path, change)")]
pub struct RestoreArgs {
    /// The project, then the paths to bring back; without --at the last word is the moment
    #[arg(value_name = "[PROJECT] PATH... [CHANGE]", required = true)]
    pub words: Vec<OsString>,
    /// The moment
    #[arg(long, value_name = "WHEN")]
    pub at: Option<OsString>,
    /// Only say what would be done
    #[arg(long)]
    pub dry_run: bool,
    /// Answer every question with yes
    #[arg(long)]
    pub yes: bool,
}

/// `ize fsck`.
#[derive(Debug, Group)]
#[command(
    after_help = "Needs no mount, works beside a live one, never writes. Exit codes: 0 clean, 4 only what the next mount mends by itself or what may be removed, 5 damage, 6 I/O error.\n\nExamples:\n  ize fsck notes\n  ize fsck notes --deep\n  ize fsck /backup/ize/projects/67e55044-10b1-426f-9247-bb680e5fe0c8 --json"
)]
pub struct FsckArgs {
    /// A project, or a project's directory wherever it is [default: the project of the current directory]
    #[arg(value_name = "PROJECT|DIR")]
    pub word: Option<OsString>,
    /// Read and hash every byte of the packs, too, and make every version again that the log still holds (else only the newest)
    #[arg(long)]
    pub deep: bool,
    /// One JSON object a finding, after a summary
    #[arg(long)]
    pub json: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_tree_of_verbs_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn the_verbs_of_the_issue_parse_as_it_writes_them() {
        for line in [
            "ize mount notes /mnt --create --foreground -o allow_other,ro -o noexec",
            "ize mount",
            "ize history notes a.txt --json -n 3 --reverse",
            "ize history -p notes",
            "ize -p notes history",
            "ize cat a.txt --at now~3",
            "ize init notes --from /x --json",
            "ize export notes /x --at now~3 --json",
            "ize -p notes export /x",
            "ize restore a b --at yesterday --dry-run --yes",
            "ize restore notes a 1a2f",
            "ize undo",
            "ize undo notes 1a2f --dry-run --yes --json",
            "ize redo -p notes 1a2f",
            "ize status notes --json --check",
            "ize status --prometheus",
            "ize unmount notes --wait 30s --lazy",
            "ize config get log.sync-interval",
            "ize config set group.idle 5s --user",
            "ize config set group.idle 5s --project notes",
            "ize config unset group.idle --central",
            "ize config list --origin --json",
            "ize fsck notes --deep --json",
            "ize fsck",
            "ize usage notes --by class --json",
            "ize usage --by path --depth 0 -n 5",
            "ize usage --class-of a --class-of b",
            "ize thin notes --keep-all 7d --keep-hourly 30d --keep-daily 1w --max-store 20% --dry-run --json",
            "ize purge notes keys/id_rsa --dry-run --json",
            "ize purge notes --blob 00000000000000000000000000000000000000000000000000000000000000ff --confirm notes --reason x",
            "ize -p notes purge a b --everywhere",
            "ize purge notes a --keep-current",
            "ize purge notes --garbage --dry-run",
            "ize purge notes a --leave-others",
            "ize wal inspect notes --json",
            "ize wal verify",
            "ize wal repair notes --yes --dry-run --json",
            "ize wal prune --max-age 7d --max-size 0 --dry-run --json",
            "ize wal inspect notes --path a --path b* --kind write,chmod --kind create --process vim --lsn @1..@5 --since yesterday",
            "ize wal inspect --ino 7 --json --color never --no-pager -n 5 --reverse",
            "ize wal inspect notes --stats --json",
            "ize wal inspect --follow --hex --color=always",
            "ize wal verify notes --central-dir /x -vv",
        ] {
            if cfg!(feature = "fuse") || !line.starts_with("ize mount") {
                Args::try_parse_from(line.split(' ')).map_err(|e| e.to_string()).unwrap();
            }
        }
        for line in [
            "ize cat",
            "ize export",
            "ize export a b c",
            "ize purge notes --garbage --everywhere",
            "ize purge notes a --leave-others --everywhere",
            "ize init notes --json",
            "ize restore",
            "ize undo notes 1a2f a.txt",
            "ize wal prune --max-age 7",
            "ize wal prune --max-size big",
            "ize wal",
            "ize mount a b c",
            "ize config",
            "ize config set a b --user --central",
        ] {
            assert!(Args::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }
}

//! The verbs of the log. Doc comments are the help.

use std::ffi::OsString;
use std::time::Duration;

use clap::{ArgAction, Args as Group, Subcommand};

use crate::project::units;

/// What `ize wal --help` ends with.
pub const HELP: &str = "\
These need no mount and no Pijul, and work beside a live writer; inspect and verify never write. A word is a project, a path inside a mount, \
a project's directory wherever it is, a directory of segments, or (inspect, verify) one segment file.

Examples:
  ize wal inspect notes --path drafts/ --kind write --since '2h ago'
  ize wal inspect notes --follow
  ize wal verify notes
  ize wal verify /backup/ize/projects/67e55044-10b1-426f-9247-bb680e5fe0c8
  ize wal prune notes --dry-run
  ize wal repair notes --dry-run";

/// `ize wal`.
#[derive(Debug, Subcommand)]
pub enum WalVerb {
    /// Show segments and records
    Inspect(WalInspectArgs),
    /// Check the chain, every checksum, every blob
    Verify(WalVerifyArgs),
    /// Drop the oldest segments that are committed, by age or by size
    Prune(WalPruneArgs),
    /// Cut a damaged log where the damage begins, keeping what is cut
    Repair(WalRepairArgs),
}

const INSPECT: &str = "\
Examples:
  ize wal inspect notes                             (inside a mount: ize wal inspect)
  ize wal inspect notes --path 'src/**/*.rs' --kind write,truncate
  ize wal inspect notes --since 'yesterday 9:00' --until '2h ago' --process vim
  ize wal inspect notes --lsn @1a2f --hex
  ize wal inspect notes --lsn @1a00..@1aff --json
  ize wal inspect notes --stats --since '1d ago'
  ize wal inspect notes --follow --path build/
  ize wal inspect /backup/wal                       (a copy, also without its project)
  ize wal inspect ./0000000000000003.seg

An LSN is hexadecimal with `@`, as it is shown, and decimal without, as it is in JSON. Filters of one kind are alternatives; of different \
kinds, all must hold. With a filter only records are shown. The exit code says whether the log is whole: 4 torn tail, 5 damage, 6 I/O error.";

/// `ize wal inspect`.
#[derive(Debug, Default, Group)]
#[command(after_help = INSPECT)]
pub struct WalInspectArgs {
    /// A project, a directory of segments, or one segment [default: the project of the current directory]
    #[arg(value_name = "PROJECT|DIR|SEGMENT")]
    pub word: Option<OsString>,
    /// One JSON object a segment or record
    #[arg(long)]
    pub json: bool,
    /// Show the bytes of each record
    #[arg(long)]
    pub hex: bool,
    /// Only the list of segments
    #[arg(long, visible_alias = "no-records", conflicts_with_all = ["stats", "follow", "hex"])]
    pub segments: bool,
    /// Operations and bytes per kind and per process, instead of records
    #[arg(long, conflicts_with_all = ["follow", "hex", "reverse"])]
    pub stats: bool,
    /// Show the last ten records (or as many as -n says), then those to come, until Ctrl-C
    #[arg(short, long, conflicts_with = "reverse")]
    pub follow: bool,
    /// Only this path and what is in it, or paths that a pattern matches: *, ?, [a-z], **; #12 is inode 12
    #[arg(long, value_name = "PATH|GLOB", action = ArgAction::Append)]
    pub path: Vec<OsString>,
    /// Only this inode, under whatever name
    #[arg(long, value_name = "N", action = ArgAction::Append)]
    pub ino: Vec<u64>,
    /// Only these kinds of record: create, mkdir, mknod, symlink, link, unlink, rmdir, rename, write, truncate, fallocate, clone, chmod,
    /// chown, utimens, setxattr, removexattr, forget, marker, process, mark, or a number
    #[arg(long, value_name = "KIND", action = ArgAction::Append, value_delimiter = ',')]
    pub kind: Vec<String>,
    /// Only what this process did, by pid or by name; `unknown` is write-back and processes of elsewhere
    #[arg(long, value_name = "PID|NAME", action = ArgAction::Append)]
    pub process: Vec<OsString>,
    /// Only from this moment on: a time, `2h ago`, @LSN, a change (see `ize cat --help`)
    #[arg(long, value_name = "WHEN")]
    pub since: Option<OsString>,
    /// Only up to this moment
    #[arg(long, value_name = "WHEN")]
    pub until: Option<OsString>,
    /// Only these records: @1a, @1a..@2f, @1a.., ..@2f
    #[arg(long, value_name = "A..B")]
    pub lsn: Option<String>,
    /// At most so many records
    #[arg(short = 'n', long, value_name = "N")]
    pub limit: Option<u64>,
    /// The newest record first
    #[arg(long)]
    pub reverse: bool,
}

const VERIFY: &str = "\
Examples:
  ize wal verify notes
  ize wal verify /backup/wal              (a copy; blobs are checked where they stand beside it)

Exit codes: 0 clean, 4 torn tail, 5 damage, 6 I/O error; the worst finding decides.";

/// `ize wal verify`.
#[derive(Debug, Group)]
#[command(after_help = VERIFY)]
pub struct WalVerifyArgs {
    /// A project, a directory of segments, or one segment [default: the project of the current directory]
    #[arg(value_name = "PROJECT|DIR|SEGMENT")]
    pub word: Option<OsString>,
    /// One JSON object a finding, then one that sums up
    #[arg(long)]
    pub json: bool,
}

const PRUNE: &str = "\
Examples:
  ize wal prune notes --dry-run
  ize wal prune --max-age 7d --max-size 4GiB
  ize wal prune --max-size 0

Never goes: the last segment, what no version holds yet, what somebody still reads. --max-age 0 or --max-size 0 leave only that. Without \
limits those of the settings hold: prune.max-age, prune.max-size, prune.min-free.";

/// `ize wal prune`.
#[derive(Debug, Group)]
#[command(after_help = PRUNE)]
pub struct WalPruneArgs {
    /// A project, a path in its mount, its directory or its wal/ [default: the project of the current directory]
    #[arg(value_name = "PROJECT|DIR")]
    pub word: Option<OsString>,
    /// Drop what is older: 7d, 12h, 30m [default: prune.max-age]
    #[arg(long, value_name = "AGE", value_parser = units::duration)]
    pub max_age: Option<Duration>,
    /// Leave at most so much, blobs that only segments name included: 4GiB, 500MB, 0 [default: prune.max-size]
    #[arg(long, value_name = "SIZE", value_parser = units::size)]
    pub max_size: Option<u64>,
    /// Only say what would be dropped
    #[arg(long)]
    pub dry_run: bool,
    /// One JSON object
    #[arg(long)]
    pub json: bool,
}

const REPAIR: &str = "\
Examples:
  ize wal repair notes --dry-run          (what would be cut, which operations would be lost)
  ize wal repair notes
  ize wal repair /backup/wal --yes

Every file that changes or goes is copied to wal/repaired/ first. For a log that mounts, a repair is not needed: recovery cuts a torn tail \
by itself. An intact copy of the damaged file, put in its place, is better than any repair.";

/// `ize wal repair`.
#[derive(Debug, Group)]
#[command(after_help = REPAIR)]
pub struct WalRepairArgs {
    /// A project that nobody has open, or a directory of segments [default: the project of the current directory]
    #[arg(value_name = "PROJECT|DIR")]
    pub word: Option<OsString>,
    /// Answer every question with yes
    #[arg(long, short)]
    pub yes: bool,
    /// Only say what would be cut
    #[arg(long)]
    pub dry_run: bool,
    /// One JSON object a finding, cut file and lost record, then one that sums up
    #[arg(long)]
    pub json: bool,
}

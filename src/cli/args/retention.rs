//! The verbs about what stays and what it takes. Doc comments are the help.

use std::ffi::OsString;
use std::time::Duration;

use clap::{ArgAction, Args as Group, ValueEnum};

use crate::project::config::MaxStore;
use crate::project::units;

const USAGE: &str = "\
Examples:
  ize usage notes
  ize usage --by path --depth 0 -n 50       (single files)
  ize usage --by class
  ize usage --class-of target/debug         (which class a path has, and who decided it)

Each blob is counted once, with what it takes of its pack: for the newest state if that names it (present), else for the newest version that \
does (history), under the first path where it is met. By process: bytes written, as versions record them. Works beside a live mount, and \
takes about 60 bytes of memory a blob.";

/// `ize usage`.
#[derive(Debug, Group)]
#[command(after_help = USAGE)]
pub struct UsageArgs {
    /// The project, or a path in its mount [default: that of the current directory]
    #[arg(value_name = "PROJECT", conflicts_with = "class_of")]
    pub word: Option<OsString>,
    /// What the rows are
    #[arg(long, value_enum, value_name = "WHAT", default_value_t = UsageBy::Path)]
    pub by: UsageBy,
    /// With --by path: join what is deeper; 0 shows single files
    #[arg(long, value_name = "N", default_value = "1")]
    pub depth: Option<usize>,
    /// At most so many rows, the largest; 0 shows all
    #[arg(short = 'n', value_name = "N", default_value_t = 20)]
    pub rows: usize,
    /// Only say which class this path has now, and who decided it
    #[arg(long, value_name = "PATH", action = ArgAction::Append)]
    pub class_of: Vec<OsString>,
    /// One JSON object that sums up, then one a row
    #[arg(long)]
    pub json: bool,
}

impl UsageArgs {
    /// Rows that are shown at most.
    #[must_use]
    pub fn count(&self) -> usize {
        if self.rows == 0 { usize::MAX } else { self.rows }
    }
}

/// What the rows of `ize usage` are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum UsageBy {
    /// Directories or files
    Path,
    /// Programs
    Process,
    /// keep, recent and none
    Class,
}

impl UsageBy {
    /// As it is written.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Path => "path",
            Self::Process => "process",
            Self::Class => "class",
        }
    }
}

const THIN: &str = "\
Examples:
  ize thin notes --dry-run
  ize thin --max-store 2GiB
  ize thin --keep-all 7d --keep-hourly 30d      (by age, whatever the size)

Without flags the settings hold: nothing goes while the project's directory is within retention.max-store. Of each hour or day the last version \
stays, and stands for the others. Never goes: the newest version, one with a message (`ize commit -m`), one that Pijul does not have yet, one from which the log goes on (`ize wal prune` shortens the log). Paths \
without history (classes none and recent) are taken out of versions first.";

/// `ize thin`.
#[derive(Debug, Group)]
#[command(after_help = THIN)]
pub struct ThinArgs {
    /// The project, or a path in its mount [default: that of the current directory]
    #[arg(value_name = "PROJECT")]
    pub word: Option<OsString>,
    /// Age up to which all versions stay [default: retention.keep-all]
    #[arg(long, value_name = "AGE", value_parser = units::duration)]
    pub keep_all: Option<Duration>,
    /// Age up to which one an hour stays [default: retention.keep-hourly]
    #[arg(long, value_name = "AGE", value_parser = units::duration)]
    pub keep_hourly: Option<Duration>,
    /// Age up to which one a day stays, beyond it one a week [default: retention.keep-daily]
    #[arg(long, value_name = "AGE", value_parser = units::duration)]
    pub keep_daily: Option<Duration>,
    /// What the project's directory may take: 4GiB, 20% of its file system [default: retention.max-store]
    #[arg(long, value_name = "SIZE", value_parser = MaxStore::parse)]
    pub max_store: Option<MaxStore>,
    /// Only say what would be dropped
    #[arg(long)]
    pub dry_run: bool,
    /// One JSON object
    #[arg(long)]
    pub json: bool,
}

//! What can be wrong with the version log: findings (reported, the rest goes on) and errors (the call failed).

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::PathBuf;

use crate::error::{Class, Error};
use crate::ids::{Lsn, StoreId, VersionSeq};

/// Damage in the version log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFinding {
    /// The file.
    pub file: PathBuf,
    /// The bytes concerned.
    pub bytes: Range<u64>,
    /// The versions that stood there, as far as their neighbours or the checkpoint tell; empty when none is missing.
    pub versions: Range<u64>,
    /// What it is.
    pub what: LogFault,
}

/// Kind of a [`LogFinding`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFault {
    /// The file's header fails its check.
    Header,
    /// No valid record, or one out of order.
    Record,
    /// The log ends before the version that the checkpoint names.
    Missing,
}

impl fmt::Display for LogFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "version log `{}`, offset {}: ", self.file.display(), self.bytes.start)?;
        match self.what {
            LogFault::Header => f.write_str("the header fails its check")?,
            LogFault::Record => write!(f, "{} bytes are no valid record", self.bytes.end - self.bytes.start)?,
            LogFault::Missing => f.write_str("the log ends before the checkpoint's version")?,
        }
        if !self.versions.is_empty() {
            write!(f, " (versions {} to {})", self.versions.start, self.versions.end - 1)?;
        }
        Ok(())
    }
}

/// Why a call of the version log failed.
#[derive(Debug, thiserror::Error)]
pub enum VersionLogError {
    /// Bytes fail their check.
    #[error("{0}")]
    Damaged(LogFinding),
    /// The file is of another store.
    #[error("version log `{file}` belongs to store {found}")]
    Foreign {
        /// The file.
        file: PathBuf,
        /// Store in the file.
        found: StoreId,
    },
    /// Written by a later ize.
    #[error("version log `{file}`, offset {offset}: format version {version}, feature bits {features:#x}, unknown to this ize")]
    Unsupported {
        /// The file.
        file: PathBuf,
        /// Where the version stands.
        offset: u64,
        /// Format version of the file or of a record's body.
        version: u32,
        /// Feature bits of the file.
        features: u32,
    },
    /// The operating system refused.
    #[error("cannot {doing} `{file}`: {source}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On which file.
        file: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// No such version.
    #[error("there is no version {0}")]
    NotFound(VersionSeq),
    /// The version to append does not follow the last one.
    #[error("version {seq} ({first} to {last}) does not follow version {last_seq} (up to {last_lsn})")]
    NotContiguous {
        /// Its number.
        seq: VersionSeq,
        /// Its first record.
        first: Lsn,
        /// Its last record.
        last: Lsn,
        /// Number of the last version in the log.
        last_seq: VersionSeq,
        /// Its last record.
        last_lsn: Lsn,
    },
    /// The version is larger than a record may be.
    #[error("version {0} is larger than a record may be")]
    TooLong(VersionSeq),
    /// A sync failed earlier.
    #[error("the version log takes no more versions: {0}")]
    Poisoned(String),
    /// The log was opened for reading.
    #[error("version log `{0}` is open for reading only")]
    ReadOnly(PathBuf),
}

impl From<VersionLogError> for Error {
    fn from(e: VersionLogError) -> Self {
        use VersionLogError as V;
        let (class, hint) = match &e {
            V::Damaged(_) | V::Foreign { .. } => (Class::Damage, Some("`ize wal verify` says what of the versions is sound")),
            V::Unsupported { .. } => (Class::Refused, Some("use the ize that wrote it, or a later one")),
            V::Io { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => (Class::Full, Some("make room on the disk")),
                _ => (Class::Io, None),
            },
            V::NotFound(_) => (Class::NotFound, Some("`ize history` lists the versions")),
            V::NotContiguous { .. } | V::TooLong(_) | V::ReadOnly(_) => (Class::Failed, None),
            V::Poisoned(_) => (Class::Io, Some("unmount and mount again: recovery keeps what is known to be on the disk")),
        };
        let error = Error::new(class, e.to_string()).source(e);
        match hint {
            Some(h) => error.hint(h),
            None => error,
        }
    }
}

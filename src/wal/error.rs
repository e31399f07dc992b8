//! What can go wrong in the log, with the file, the offset and the LSN.

use std::io;
use std::path::PathBuf;

use crate::error::{Class, Error};
use crate::ids::{Lsn, SegmentId};

/// Result with [`WalError`].
pub type Result<T, E = WalError> = std::result::Result<T, E>;

/// A failure of the log.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
    /// The disk refused; `doing` says what was tried on which file.
    #[error("{doing}: {source}")]
    Io {
        /// What was tried.
        doing: String,
        /// What the disk said.
        source: io::Error,
    },
    /// Bytes fail their check where no crash explains it.
    #[error("damage in {} at offset {offset}, LSN {lsn}: {what}", file.display())]
    Damage {
        /// The segment file.
        file: PathBuf,
        /// Where in it, in bytes.
        offset: u64,
        /// First LSN concerned.
        lsn: Lsn,
        /// Which check failed.
        what: String,
    },
    /// A segment that must be there is not.
    #[error("segment {segment} is missing ({}); it held LSN {lsn} and what follows", file.display())]
    Missing {
        /// The file that is not there.
        file: PathBuf,
        /// Its number.
        segment: SegmentId,
        /// First LSN that is missing.
        lsn: Lsn,
    },
    /// The file was written by a version of ize that does what this one cannot.
    #[error("cannot use {}: {what}", file.display())]
    Unsupported {
        /// The segment file.
        file: PathBuf,
        /// The version or the feature, by name.
        what: String,
    },
    /// A record or batch that fits no segment.
    #[error("a batch of {bytes} bytes does not fit the log (limit {limit})")]
    TooLarge {
        /// Bytes asked for, framed.
        bytes: u64,
        /// Bytes that fit.
        limit: u64,
    },
    /// An earlier write or sync failed; nothing is accepted until the log is opened again.
    #[error("the log refuses writes since an earlier failure: {reason}")]
    Poisoned {
        /// The earlier failure.
        reason: String,
    },
}

impl WalError {
    pub(crate) fn io(doing: impl Into<String>, source: io::Error) -> Self {
        Self::Io { doing: doing.into(), source }
    }

    /// The errno that a program gets: ENOSPC when the disk or a quota is full, otherwise EIO.
    #[must_use]
    pub fn errno(&self) -> i32 {
        match self {
            Self::Io { source, .. } => match source.raw_os_error() {
                Some(libc::ENOSPC | libc::EDQUOT) => libc::ENOSPC,
                Some(_) | None => libc::EIO,
            },
            // The caller bounds what it appends: a record that does not fit is a failure of ours, not of the program's argument.
            Self::TooLarge { .. } | Self::Poisoned { .. } | Self::Damage { .. } | Self::Missing { .. } | Self::Unsupported { .. } => {
                libc::EIO
            }
        }
    }

    /// True when the simulated disk's power went.
    #[must_use]
    pub fn is_simulated_crash(&self) -> bool {
        match self {
            Self::Io { source, .. } => crate::storage::sim::is_crash(source),
            Self::Damage { .. } | Self::Missing { .. } | Self::Unsupported { .. } | Self::TooLarge { .. } | Self::Poisoned { .. } => false,
        }
    }
}

/// Gives an `io::Result` its noun as a [`WalError`].
pub(crate) trait WalContext<T> {
    fn wal(self, doing: impl FnOnce() -> String) -> Result<T>;
}

impl<T> WalContext<T> for io::Result<T> {
    fn wal(self, doing: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| WalError::Io { doing: doing(), source })
    }
}

impl From<WalError> for Error {
    fn from(error: WalError) -> Self {
        let message = error.to_string();
        match error {
            WalError::Io { doing, source } => Error::io(doing, source),
            WalError::Damage { .. } => Error::new(Class::Damage, message).hint(
                "nothing was changed; put an intact copy of this file in its place, or look at what `ize wal repair --dry-run` would cut \
                 and lose",
            ),
            WalError::Missing { .. } => Error::new(Class::Damage, message).hint(
                "nothing was changed; put the file back in its place, under its own name, from a copy, or look at what `ize wal repair \
                     --dry-run` would cut and lose",
            ),
            WalError::Unsupported { .. } => {
                Error::new(Class::Refused, message).hint("use the version of ize that wrote this store, or a later one")
            }
            WalError::TooLarge { .. } => Error::new(Class::Failed, message),
            WalError::Poisoned { .. } => Error::new(Class::Io, message)
                .hint("look at the disk (dmesg, free space); then unmount and mount again: recovery keeps what reached the disk"),
        }
    }
}

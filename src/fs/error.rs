//! Why an operation is refused, and the one place where that becomes an errno.

use super::journal::JournalError;
use crate::tree::TreeError;

/// Why the file system says no.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FsError {
    /// No such name or inode.
    #[error("no such file or directory")]
    NotFound,
    /// The name is taken.
    #[error("the name exists")]
    Exists,
    /// The kernel believed that the name was free, and it is not: it shall look again.
    #[error("the kernel's view of the name is out of date")]
    Stale,
    /// A directory is needed.
    #[error("not a directory")]
    NotDirectory,
    /// A directory is not allowed here.
    #[error("is a directory")]
    IsDirectory,
    /// The directory has entries.
    #[error("directory not empty")]
    NotEmpty,
    /// The name or link target is too long.
    #[error("name too long")]
    NameTooLong,
    /// The arguments make no sense.
    #[error("invalid argument")]
    Invalid,
    /// Not allowed to anybody.
    #[error("operation not permitted")]
    NotPermitted,
    /// The inode has as many names as it can have.
    #[error("too many links")]
    TooManyLinks,
    /// The file would become too long.
    #[error("file too large")]
    TooLarge,
    /// No space for the log or the blobs, or an inode's attributes take too much.
    #[error("no space: {0}")]
    NoSpace(String),
    /// Reading or writing the store failed.
    #[error("input/output error: {0}")]
    Io(String),
    /// Log and tree no longer agree; nothing is changed until the next mount.
    #[error("the file system is stopped: {0}")]
    Broken(String),
    /// No such extended attribute.
    #[error("no such attribute")]
    NoAttribute,
    /// The caller's buffer is too small.
    #[error("result too large for the buffer")]
    Range,
    /// The attribute's value is too long.
    #[error("attribute too large")]
    AttributeTooLarge,
    /// Not offered.
    #[error("operation not supported")]
    NotSupported,
    /// Nothing of the wanted kind follows the offset.
    #[error("no data or hole there")]
    NothingThere,
    /// The inode is of a kind that cannot do that.
    #[error("no such device")]
    WrongKind,
}

impl FsError {
    /// The errno that the program gets.
    #[must_use]
    pub fn errno(&self) -> i32 {
        match self {
            FsError::NotFound => libc::ENOENT,
            FsError::Exists => libc::EEXIST,
            // The kernel takes this as the order to walk the path again without its caches.
            FsError::Stale => libc::ESTALE,
            FsError::NotDirectory => libc::ENOTDIR,
            FsError::IsDirectory => libc::EISDIR,
            FsError::NotEmpty => libc::ENOTEMPTY,
            FsError::NameTooLong => libc::ENAMETOOLONG,
            FsError::Invalid => libc::EINVAL,
            FsError::NotPermitted => libc::EPERM,
            FsError::TooManyLinks => libc::EMLINK,
            FsError::TooLarge => libc::EFBIG,
            FsError::NoSpace(_) => libc::ENOSPC,
            // Not EROFS: the program must not believe that an administrator wanted this.
            FsError::Io(_) | FsError::Broken(_) => libc::EIO,
            FsError::NoAttribute => libc::ENODATA,
            FsError::Range => libc::ERANGE,
            FsError::AttributeTooLarge => libc::E2BIG,
            FsError::NotSupported => libc::EOPNOTSUPP,
            FsError::NothingThere => libc::ENXIO,
            FsError::WrongKind => libc::ENODEV,
        }
    }
}

impl From<TreeError> for FsError {
    fn from(e: TreeError) -> Self {
        match e {
            TreeError::NoInode(_) => FsError::NotFound,
            TreeError::NotDirectory(_) => FsError::NotDirectory,
            TreeError::NotFile(_) => FsError::Invalid,
            TreeError::Blob { full: true, .. } => FsError::NoSpace(e.to_string()),
            TreeError::Blob { .. }
            | TreeError::Purged { .. }
            | TreeError::Malformed { .. }
            | TreeError::LaterState { .. }
            | TreeError::Log { .. } => {
                tracing::error!("{e}");
                FsError::Io(e.to_string())
            }
        }
    }
}

impl From<JournalError> for FsError {
    fn from(e: JournalError) -> Self {
        match e {
            JournalError::Full(why) => FsError::NoSpace(why),
            JournalError::Io(why) => FsError::Io(why),
        }
    }
}

impl From<FsError> for crate::error::Error {
    fn from(e: FsError) -> Self {
        use crate::error::{Class, Error};
        let class = match &e {
            FsError::NotFound | FsError::NoAttribute | FsError::NothingThere => Class::NotFound,
            FsError::NoSpace(_) => Class::Full,
            FsError::Io(_) | FsError::Broken(_) => Class::Io,
            FsError::Exists
            | FsError::Stale
            | FsError::NotDirectory
            | FsError::IsDirectory
            | FsError::NotEmpty
            | FsError::NameTooLong
            | FsError::Invalid
            | FsError::NotPermitted
            | FsError::TooManyLinks
            | FsError::TooLarge
            | FsError::Range
            | FsError::AttributeTooLarge
            | FsError::NotSupported
            | FsError::WrongKind => Class::Failed,
        };
        Error::new(class, e.to_string()).source(e)
    }
}

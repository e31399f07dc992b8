//! What can be wrong with the blob store: findings (seen and reported, the rest goes on) and errors (the call failed).

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Class, Error};
use crate::ids::{BlobId, PackId, StoreId};

/// What is wrong at one place of a pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The pack's header fails its check; its entries are found without it.
    PackHeader,
    /// The header is sound but says another store or pack; the file is left alone.
    Foreign {
        /// Store in the header.
        store: StoreId,
        /// Pack in the header.
        pack: PackId,
    },
    /// No valid entry where one should start.
    Entry,
    /// The pack ends before its entries do (or goes on behind them).
    Length {
        /// Length that its successor's header names.
        expected: u64,
    },
    /// The head of this blob's entry, sound when it was indexed, is not sound any more.
    Head,
    /// A 64 KiB block of this blob fails its CRC, or cannot be decompressed.
    Block,
    /// All CRCs are right, but the bytes have another hash.
    Hash,
    /// The last pack's end, which nothing proves durable, is no valid entry: what a crash leaves.
    TornTail,
    /// The disk refused to read.
    Unreadable(io::ErrorKind),
}

/// Something wrong in a pack, with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The pack's file.
    pub file: PathBuf,
    /// Where it starts, in bytes from the file's start.
    pub offset: u64,
    /// How many bytes it concerns.
    pub len: u64,
    /// The blob, where it is known.
    pub id: Option<BlobId>,
    /// What it is.
    pub fault: Fault,
}

impl Finding {
    /// Whether it is what a crash leaves, and no damage.
    #[must_use]
    pub fn is_torn_tail(&self) -> bool {
        self.fault == Fault::TornTail
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pack `{}`, offset {}", self.file.display(), self.offset)?;
        if let Some(id) = &self.id {
            write!(f, ", blob {id}")?;
        }
        match &self.fault {
            Fault::PackHeader => f.write_str(": the header fails its check"),
            Fault::Foreign { store, pack } => write!(f, ": belongs to store {store}, pack {pack}"),
            Fault::Entry => write!(f, ": {} bytes are no valid entry", self.len),
            Fault::Length { expected } => write!(f, ": the pack was {expected} bytes long when it was closed"),
            Fault::Head => f.write_str(": the entry's head fails its check"),
            Fault::Block => f.write_str(": stored bytes fail their check"),
            Fault::Hash => f.write_str(": the bytes have another hash"),
            Fault::TornTail => write!(f, ": torn tail of {} bytes", self.len),
            Fault::Unreadable(kind) => write!(f, ": cannot be read: {kind}"),
        }
    }
}

/// A failed call of the blob store.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// No such blob.
    #[error("blob {0} is not in the store")]
    Missing(BlobId),
    /// The blob's bytes fail their check.
    #[error("{0}")]
    Damaged(Finding),
    /// The operating system refused.
    #[error("cannot {doing}: {source}")]
    Io {
        /// What was tried, on which file.
        doing: String,
        /// Why it failed.
        source: io::Error,
    },
    /// More than 16 MiB.
    #[error("a blob of {0} bytes is too long (limit {max})", max = super::pack::MAX_BLOB_LEN)]
    TooLong(usize),
    /// A sync failed earlier: nothing is known about the bytes since the one before.
    #[error("the blob store takes no more bytes: {0}")]
    Poisoned(String),
    /// More packs than the index can name.
    #[error("the blob store has {max} packs, and takes no more", max = super::table::MAX_ORDINAL)]
    TooManyPacks,
    /// The store was opened for reading.
    #[error("the blob store `{0}` is open for reading only")]
    ReadOnly(PathBuf),
    /// Written by a later ize.
    #[error("pack `{file}` has format version {version}, feature bits {features:#x}, unknown to this ize")]
    Unsupported {
        /// The pack's file.
        file: PathBuf,
        /// Format version.
        version: u32,
        /// Feature bits.
        features: u32,
    },
}

impl BlobError {
    pub(super) fn io(doing: impl fmt::Display, source: io::Error) -> Self {
        Self::Io { doing: doing.to_string(), source }
    }

    /// Whether the disk is full; the store is then as it was before the call.
    #[must_use]
    pub fn is_full(&self) -> bool {
        match self {
            BlobError::Io { source, .. } => is_full(source),
            _ => false,
        }
    }
}

pub(super) fn is_full(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

pub(super) trait Doing<T> {
    fn doing(self, verb: &str, file: &Path) -> Result<T, BlobError>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, verb: &str, file: &Path) -> Result<T, BlobError> {
        self.map_err(|e| BlobError::io(format!("{verb} `{}`", file.display()), e))
    }
}

impl From<BlobError> for Error {
    fn from(e: BlobError) -> Self {
        let (class, hint) = match &e {
            BlobError::Missing(_) => (Class::Damage, Some("`ize wal verify` lists everything that is missing or damaged")),
            BlobError::Damaged(Finding { fault: Fault::Unreadable(_), .. }) => (Class::Io, None),
            BlobError::Damaged(_) => (Class::Damage, Some("`ize wal verify` lists everything that is missing or damaged")),
            BlobError::Io { .. } if e.is_full() => (Class::Full, Some("make room on the disk, or `ize wal prune`")),
            BlobError::Io { .. } => (Class::Io, None),
            BlobError::TooLong(_) | BlobError::ReadOnly(_) => (Class::Failed, None),
            BlobError::TooManyPacks => (Class::Full, Some("`ize wal prune` drops packs of which little is named")),
            BlobError::Poisoned(_) => (Class::Io, Some("unmount and mount again: recovery keeps what is known to be on the disk")),
            BlobError::Unsupported { .. } => (Class::Refused, Some("use the ize that wrote it, or a later one")),
        };
        let error = Error::new(class, e.to_string()).source(e);
        match hint {
            Some(h) => error.hint(h),
            None => error,
        }
    }
}

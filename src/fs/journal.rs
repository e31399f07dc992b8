//! What the file system needs of the log: one operation recorded, in order, before it is applied and answered.

use std::sync::Arc;

use crate::blobs::Hold;
use crate::ids::{BlobId, Lsn};
use crate::op::{Entry, Operation};
use crate::tree::LogBytes;

/// Who asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// Process id; 0 when unknown.
    pub pid: u32,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// Why the log refuses.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum JournalError {
    /// No space is left.
    #[error("no space is left for the log: {0}")]
    Full(String),
    /// The disk failed; the log takes nothing more until the project is mounted again.
    #[error("the log cannot be written: {0}")]
    Io(String),
}

/// An operation that is in the log.
#[derive(Debug)]
pub struct Recorded {
    /// Its record.
    pub lsn: Lsn,
    /// The operation with its stamp.
    pub entry: Entry,
    /// Where the bytes of an inline write are.
    pub payload: Option<(Arc<dyn LogBytes>, u64)>,
}

/// Chunks that are stored.
#[derive(Debug)]
pub struct Chunks<'a> {
    /// Their addresses, in order.
    pub ids: Vec<BlobId>,
    /// Keeps every sweep from beginning, where there are sweeps.
    pub hold: Option<Hold<'a>>,
}

/// Space on the disk beneath, in bytes and inodes, for statfs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// Size of the file system.
    pub total: u64,
    /// Free bytes.
    pub free: u64,
    /// Free bytes for unprivileged users.
    pub available: u64,
    /// Free inodes.
    pub inodes_free: u64,
}

/// The log, as the file system sees it. The caller holds the tree's lock, so that the order of records is the order of application.
pub trait Journal: Send + Sync {
    /// Appends one operation; `payload` holds the bytes of an inline write. After Ok the record survives the death of this process.
    ///
    /// # Errors
    /// [`JournalError`]; then nothing was recorded.
    fn record(&self, caller: &Caller, op: Operation, payload: Option<&[u8]>, link: Option<Lsn>) -> Result<Recorded, JournalError>;
    /// Stores the bytes of a large write.
    ///
    /// # Errors
    /// [`JournalError`].
    fn put_blob(&self, bytes: &[u8]) -> Result<BlobId, JournalError>;
    /// Stores the chunks that `next` finds, of `bytes` bytes together or less, as a commit would store them. Until what it gives is dropped
    /// nobody takes them away although no record names them yet.
    ///
    /// # Errors
    /// [`JournalError`].
    fn put_chunks<'b>(&self, bytes: usize, next: &mut dyn FnMut() -> Option<&'b [u8]>) -> Result<Chunks<'_>, JournalError> {
        let _ = bytes;
        let mut ids = Vec::new();
        while let Some(chunk) = next() {
            ids.push(self.put_blob(chunk)?);
        }
        Ok(Chunks { ids, hold: None })
    }
    /// Makes everything recorded so far durable; blocks.
    ///
    /// # Errors
    /// [`JournalError`]; then nothing more can be recorded.
    fn sync(&self) -> Result<(), JournalError>;
    /// Space on the disk beneath.
    fn space(&self) -> Space;
}

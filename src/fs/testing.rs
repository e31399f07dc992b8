//! A log in memory, for tests of this crate and of `tests/`: real bodies through the real codec, no disk. Not part of the interface.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Fs;
use super::journal::{Caller, Journal, JournalError, Recorded, Space};
use crate::ids::{BlobId, Ino, Lsn, SegmentId, Time};
use crate::op::{self, Data, Decoded, Entry, Operation, ProcessKey, Stamp};
use crate::tree::{ApplyError, BlobRead, LogBytes, Tree, TreeError};

/// Bytes that grow at the end.
#[derive(Debug, Default)]
struct Segment(Mutex<Vec<u8>>);

impl LogBytes for Segment {
    fn segment(&self) -> SegmentId {
        SegmentId(1)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let bytes = lock(&self.0);
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let found = start.checked_add(buf.len()).and_then(|end| bytes.get(start..end));
        buf.copy_from_slice(found.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?);
        Ok(())
    }
}

/// Blobs in memory.
#[derive(Debug, Default)]
pub struct MemoryBlobs(Mutex<HashMap<BlobId, Vec<u8>>>);

impl MemoryBlobs {
    fn with<T>(&self, id: &BlobId, f: impl FnOnce(&[u8]) -> Option<T>) -> Result<T, TreeError> {
        let missing = || TreeError::Blob { id: *id, why: "missing or short".to_owned(), damaged: true, full: false };
        lock(&self.0).get(id).and_then(|b| f(b)).ok_or_else(missing)
    }
}

impl BlobRead for MemoryBlobs {
    fn get(&self, id: &BlobId) -> Result<Vec<u8>, TreeError> {
        self.with(id, |b| Some(b.to_vec()))
    }

    fn read_at(&self, id: &BlobId, offset: u64, buf: &mut [u8]) -> Result<(), TreeError> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        self.with(id, |b| {
            buf.copy_from_slice(b.get(start..start.checked_add(buf.len())?)?);
            Some(())
        })
    }
}

/// What the log holds of one record.
type Body = (Lsn, u16, u8, Vec<u8>, u64);

/// A log in memory.
#[derive(Debug, Default)]
pub struct MemoryJournal {
    segment: Arc<Segment>,
    blobs: Arc<MemoryBlobs>,
    records: Mutex<Vec<Body>>,
    refusal: Mutex<Option<JournalError>>,
    next: AtomicU64,
    synced: AtomicU64,
    syncs: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MemoryJournal {
    /// Refuses everything from now on; `None` lets it work again.
    pub fn refuse(&self, why: Option<JournalError>) {
        *lock(&self.refusal) = why;
    }

    /// The blobs that it stores.
    #[must_use]
    pub fn blobs(&self) -> Arc<MemoryBlobs> {
        Arc::clone(&self.blobs)
    }

    /// How many times it was synced.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::SeqCst)
    }

    /// The last record that was synced.
    #[must_use]
    pub fn durable(&self) -> Lsn {
        Lsn(self.synced.load(Ordering::SeqCst))
    }

    /// Kinds of the records so far, by name.
    #[must_use]
    pub fn kinds(&self) -> Vec<&'static str> {
        lock(&self.records).iter().map(|(_, kind, ..)| op::kind_name(*kind).unwrap_or("unknown")).collect()
    }

    /// A tree made from the log alone, as recovery makes it.
    ///
    /// # Errors
    /// When a record does not apply.
    pub fn replayed(&self) -> Result<Tree, ApplyError> {
        let opened = Tree::open(self.blobs(), None, Ino(2), Lsn::ZERO, Time::default());
        let mut tree = opened.map_err(|error| ApplyError::Tree { lsn: Lsn::ZERO, error })?;
        for (lsn, kind, version, body, at) in lock(&self.records).iter() {
            let misfit = |why: String| ApplyError::Misfit { lsn: *lsn, op: "body", why };
            match op::decode(*kind, *version, body).map_err(|e| misfit(e.to_string()))? {
                Decoded::Operation { entry, payload } => {
                    let inline = matches!(&entry.op, Operation::Write(w) if matches!(w.data, Data::Inline(_)));
                    let offset = at + (body.len() - payload.len()) as u64;
                    tree.apply(*lsn, &entry, inline.then(|| (Arc::clone(&self.segment) as Arc<dyn LogBytes>, offset)))?;
                }
                Decoded::Process(_) | Decoded::Mark | Decoded::Skipped => {}
            }
        }
        Ok(tree)
    }

    fn check(&self) -> Result<(), JournalError> {
        lock(&self.refusal).clone().map_or(Ok(()), Err)
    }
}

impl Journal for MemoryJournal {
    fn record(&self, caller: &Caller, op: Operation, payload: Option<&[u8]>, link: Option<Lsn>) -> Result<Recorded, JournalError> {
        self.check()?;
        let stamp = Stamp { time: Time::now(), behind: 0, process: ProcessKey { pid: caller.pid, start: 0 }, link };
        let entry = Entry { stamp, op };
        let (kind, version, mut body) = op::encode(&entry).map_err(|e| JournalError::Io(e.to_string()))?;
        let head = body.len();
        body.extend_from_slice(payload.unwrap_or_default());
        let mut bytes = lock(&self.segment.0);
        let at = bytes.len() as u64;
        bytes.extend_from_slice(&body);
        let lsn = Lsn(self.next.fetch_add(1, Ordering::SeqCst) + 1);
        lock(&self.records).push((lsn, kind, version, body, at));
        let payload = payload.map(|_| (Arc::clone(&self.segment) as Arc<dyn LogBytes>, at + head as u64));
        Ok(Recorded { lsn, entry, payload })
    }

    fn put_blob(&self, bytes: &[u8]) -> Result<BlobId, JournalError> {
        self.check()?;
        let id = BlobId::of(bytes);
        lock(&self.blobs.0).insert(id, bytes.to_vec());
        Ok(id)
    }

    fn sync(&self) -> Result<(), JournalError> {
        self.check()?;
        self.syncs.fetch_add(1, Ordering::SeqCst);
        self.synced.store(self.next.load(Ordering::SeqCst), Ordering::SeqCst);
        Ok(())
    }

    fn space(&self) -> Space {
        Space { total: 1 << 40, free: 1 << 39, available: 1 << 38, inodes_free: 1 << 20 }
    }
}

/// A new file system over a log in memory. The root belongs to root, mode 0755.
///
/// # Errors
/// Never, but for a bug.
pub fn memory_fs() -> Result<(Arc<Fs>, Arc<MemoryJournal>), TreeError> {
    let journal = Arc::new(MemoryJournal::default());
    let tree = Tree::open(journal.blobs(), None, Ino(2), Lsn::ZERO, Time::default())?;
    let fs = Fs::new(tree, Arc::clone(&journal) as Arc<dyn Journal>).with_project(&b"/somewhere/projects/one"[..]);
    Ok((Arc::new(fs), journal))
}

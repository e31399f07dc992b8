//! Blobs: content-addressed bytes in append-only packs, `blobs/{id:016x}.pack`. Payloads of 64 KiB and more go here before the log names
//! them; replay puts chunks, directories and tables here.
//!
//! Rules:
//! - A pack is closed and synced before its successor takes an entry: only the last pack can hold bytes that the disk does not.
//! - Packs describe themselves. The index in memory says where a blob may be and takes eight bytes a slot; every hit is confirmed at the
//!   entry's head. A closed pack has an index file, so that an open need not walk it; it may go at any time.
//! - A blob may stand in several packs (after a sweep, or a copy found wrong); the youngest copy counts.
//! - After one failed sync the store takes no more bytes: nothing is known of those since the last good one.
//!
//! Locks, in the order in which they are taken: `sweeping`, `sync_turn`, `tail`, then `gate` or `index` (short, never over I/O).
//! `sync_turn` is held over a sync, so that one sync answers everybody who waits for it; readers and appenders do not need it, unless a
//! pack is full.

mod append;
mod check;
mod compression;
mod contents;
mod error;
mod find;
mod hashing;
mod in_place;
mod index;
mod open;
pub mod pack;
pub mod purged;
mod read;
mod sweep;
mod table;
mod walk;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

pub use check::PacksVerified;
pub use error::{BlobError, Fault, Finding};
pub use read::BlobState;
pub use sweep::{Sweep, SweepOptions, SweepReport};

use crate::ids::{BlobId, PackId, StoreId, Time};
use crate::storage::{FileRef, Storage};
use index::Index;

/// How [`Blobs::put`] stores bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// As they are: the way before an answer.
    Raw,
    /// zstd level 1, where that saves at least an eighth: the way of replay and sweep.
    Compress,
}

/// How [`Blobs::open`] opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// Never writes; may stand beside a live writer.
    ReadOnly,
    /// The only writer of the store (the caller holds the project's lock).
    Write {
        /// Whether the last writer synced everything and said so; else the last pack is written afresh.
        clean: bool,
    },
}

/// What [`Blobs::open`] and [`Blobs::refresh`] saw and did.
#[derive(Debug, Default)]
pub struct BlobsReport {
    /// Everything wrong: torn tails, damage, other stores' packs.
    pub findings: Vec<Finding>,
    /// The pack that was written afresh after an unclean stop.
    pub rewritten: Option<Rewritten>,
}

/// A pack written afresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rewritten {
    /// The pack.
    pub pack: PackId,
    /// Entries kept.
    pub kept: u64,
    /// Entries left out because their bytes fail their check.
    pub dropped: u64,
    /// Bytes behind the last valid entry, cut.
    pub cut: u64,
}

/// Sizes of the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Pack files.
    pub packs: u64,
    /// Their length together, in bytes: what the store takes of the disk.
    pub pack_bytes: u64,
    /// Blobs in the index.
    pub blobs: u64,
    /// Their raw bytes.
    pub raw: u64,
    /// Their stored bytes, without heads.
    pub stored: u64,
}

/// What was put to be kept (and not only for as long as the log names it) since the store was opened, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// All of it.
    pub offered: u64,
    /// What the store did not have.
    pub new: u64,
    /// What that takes, compressed where it shrinks.
    pub stored: u64,
}

/// The counters of [`Kept`].
#[derive(Debug, Default)]
struct KeptCounters {
    offered: AtomicU64,
    new: AtomicU64,
    stored: AtomicU64,
    /// Stored for the log, and not put to be kept so far: when that comes, they are new. At most [`PAYLOADS_MAX`].
    payloads: Mutex<HashSet<BlobId>>,
}

/// Payloads remembered at most; 32 bytes each.
const PAYLOADS_MAX: usize = 1 << 16;

impl KeptCounters {
    /// So many bytes were put to be kept; stored as so many, unless they were there.
    fn count(&self, id: &BlobId, len: usize, stored: Option<usize>) {
        self.offered.fetch_add(len as u64, Ordering::Relaxed);
        let stored = stored.or_else(|| lock(&self.payloads).remove(id).then_some(len));
        if let Some(stored) = stored {
            self.new.fetch_add(len as u64, Ordering::Relaxed);
            self.stored.fetch_add(stored as u64, Ordering::Relaxed);
        }
    }

    fn payload(&self, id: BlobId) {
        let mut payloads = lock(&self.payloads);
        if payloads.len() >= PAYLOADS_MAX {
            payloads.clear();
        }
        payloads.insert(id);
    }
}

/// The blob store of one project.
#[derive(Debug)]
pub struct Blobs {
    storage: Arc<dyn Storage>,
    dir: PathBuf,
    store: StoreId,
    writable: bool,
    /// A full pack is one of at least this many bytes; the format's target but in tests.
    target_len: AtomicU64,
    index: RwLock<Index>,
    handles: Mutex<HashMap<PackId, FileRef>>,
    inflated: Mutex<read::Inflated>,
    tail: Mutex<append::Tail>,
    /// Held over a sync of the store.
    sync_turn: Mutex<()>,
    /// `synced <= appended` (in [`append::Tail`]): entry bytes known to be on the disk, counted since the open.
    synced: AtomicU64,
    poison: OnceLock<String>,
    /// Why a pack could not be read to its end when it was indexed: what is not found then may be there all the same.
    unread: OnceLock<String>,
    /// What `meta/purged` says, once somebody asked.
    purged: OnceLock<HashMap<BlobId, (Time, u32)>>,
    kept: KeptCounters,
    gate: Mutex<Gate>,
    gate_moved: Condvar,
    sweeping: Mutex<()>,
}

/// Who may rely on a blob that a sweep does not see yet.
#[derive(Debug, Default)]
struct Gate {
    /// While a sweep runs: blobs put since it began.
    touched: Option<HashSet<BlobId>>,
    /// Grows with each sweep.
    generation: u64,
    /// Holds by the generation in which they began.
    holds: BTreeMap<u64, usize>,
    /// A sweep waits for those that began before it.
    waits: bool,
}

/// While it lives, no sweep begins. Take one before a put and drop it when the put's id stands where the sweep's roots are read from (in
/// the log): else a sweep that begins in between could drop the blob.
#[derive(Debug)]
pub struct Hold<'a> {
    blobs: &'a Blobs,
    generation: u64,
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        let mut gate = lock(&self.blobs.gate);
        if let Some(n) = gate.holds.get_mut(&self.generation) {
            *n -= 1;
            if *n == 0 {
                gate.holds.remove(&self.generation);
                self.blobs.gate_moved.notify_all();
            }
        }
    }
}

impl Blobs {
    /// The directory of the packs.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Length of a blob in raw bytes, if the store has it: its entry's head was read and is sound. Its bytes are not looked at.
    ///
    /// # Errors
    /// `Damaged` when the head where it should be is not sound, `Io`.
    pub fn contains(&self, id: &BlobId) -> Result<Option<u64>, BlobError> {
        match self.with_place(id, |place, _| Ok(u64::from(place.entry.raw_len))) {
            Ok(len) => Ok(Some(len)),
            Err(BlobError::Missing(_)) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Closes packs from now on when they have so many bytes, but not below 1 MiB and not above the usual 64 MiB: a sweep that writes a pack
    /// anew takes that much room for a moment.
    pub fn limit_packs(&self, bytes: u64) {
        self.target_len.store(bytes.clamp(1 << 20, pack::PACK_TARGET_LEN), Ordering::Relaxed);
    }

    /// Sizes of the store.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.index().packs.values().fold(Usage::default(), |sum, pack| Usage {
            packs: sum.packs + 1,
            pack_bytes: sum.pack_bytes + pack.end,
            blobs: sum.blobs + pack.live.blobs,
            raw: sum.raw + pack.live.raw,
            stored: sum.stored + pack.live.stored,
        })
    }

    /// What was put since the store was opened.
    #[must_use]
    pub fn kept(&self) -> Kept {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Kept { offered: load(&self.kept.offered), new: load(&self.kept.new), stored: load(&self.kept.stored) }
    }

    /// Bytes of heap that the index takes.
    #[must_use]
    pub fn index_bytes(&self) -> u64 {
        self.index().table.heap_bytes()
    }

    /// Bytes put, but not known to be on the disk.
    #[must_use]
    pub fn unsynced_bytes(&self) -> u64 {
        let appended = lock(&self.tail).appended;
        appended.saturating_sub(self.synced.load(Ordering::Acquire))
    }

    /// Why the store takes no more bytes, after a failed sync.
    #[must_use]
    pub fn poisoned(&self) -> Option<&str> {
        self.poison.get().map(String::as_str)
    }

    /// Keeps every sweep from beginning; see [`Hold`]. A put may be made under a hold; a sweep may not be begun by its holder.
    pub fn hold(&self) -> Hold<'_> {
        let mut gate = lock(&self.gate);
        let generation = gate.generation;
        *gate.holds.entry(generation).or_default() += 1;
        Hold { blobs: self, generation }
    }

    /// Does a sweep wait for holds to end? Whoever has one must then wait for nothing that the sweep's caller may keep from happening.
    #[must_use]
    pub fn sweep_waits(&self) -> bool {
        lock(&self.gate).waits
    }

    /// Says that `id` is in use, if a sweep runs.
    fn touch(&self, id: &BlobId) {
        if let Some(touched) = lock(&self.gate).touched.as_mut() {
            touched.insert(*id);
        }
    }

    fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn index_mut(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn pack_path(&self, pack: PackId) -> PathBuf {
        self.dir.join(pack::pack_file_name(pack))
    }

    fn check_poison(&self) -> Result<(), BlobError> {
        match self.poison.get() {
            Some(why) => Err(BlobError::Poisoned(why.clone())),
            None => Ok(()),
        }
    }
}

/// A lock whose holder panicked is taken all the same: every critical section here leaves its state whole at each step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

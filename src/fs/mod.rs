//! The file system: check, log, apply, answer; testable without a kernel.
//!
//! Every mutation goes through [`Writer::log`] under one lock: the record is appended first, then the interpreter applies it, so the order
//! of records is the order of application. A check may refuse, the log may refuse; applying cannot fail. If it does all the same, log and
//! tree no longer agree: the file system is *broken*, reads go on, and every later mutation answers EIO until the next mount recovers from
//! the log. Reads plan under the lock and read outside of it.

mod attrs;
mod cache;
mod data;
mod dirs;
mod error;
pub mod journal;
pub mod latency;
mod names;
pub mod pressure;
mod stream;
#[doc(hidden)]
pub mod testing;
mod xattrs;

#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

pub use attrs::{SetAttributes, SetTime};
pub use cache::{CacheFigures, DEFAULT_LIMIT as DEFAULT_CACHE_LIMIT};
pub use data::Written;
pub use dirs::{DirEntry, DirHandle};
pub use error::FsError;
pub use names::RenameFlags;
pub use xattrs::{PROJECT_XATTR, TOTAL_MAX as XATTRS_MAX};

use crate::ids::{Ino, InoMap, Lsn};
use crate::op::{Forget, Operation, RenameMode};
use crate::tree::{BlobRead, Tree};
use journal::{Caller, Journal, Space};

/// Result of an operation.
pub type FsResult<T = ()> = Result<T, FsError>;

/// Told when the daemon itself changes what the kernel may have cached. Call it without the lock held: the kernel may be waiting, with
/// the directory locked, for an answer that needs the lock.
pub trait Notify: Send + Sync {
    /// Attributes and pages of the inode are no longer what the kernel was told.
    fn inval_inode(&self, ino: Ino);
    /// What the name means is no longer what the kernel was told (also that nothing was there).
    fn inval_entry(&self, dir: Ino, name: &[u8]);
}

/// How the kernel holds an inode: while either is above 0, an inode without a name stays.
#[derive(Clone, Copy, Debug, Default)]
struct Held {
    lookups: u64,
    opens: u64,
}

#[derive(Debug)]
struct Inner {
    tree: Tree,
    held: InoMap<Held>,
    cache: cache::Cache,
    /// Where each open directory ended when its reader began.
    dir_ends: HashMap<DirHandle, u64>,
    next_handle: u64,
    streams: stream::Streams,
}

/// The file system over one tree and its log.
pub struct Fs {
    inner: Mutex<Inner>,
    journal: Arc<dyn Journal>,
    blobs: Arc<dyn BlobRead>,
    /// What [`PROJECT_XATTR`] answers.
    project: Vec<u8>,
    broken: OnceLock<String>,
    /// The mount has ended: programs change nothing any more, even where a connection outlives it.
    ended: AtomicBool,
    notify: RwLock<Option<Arc<dyn Notify>>>,
    /// Times that the kernel was told to forget something.
    invalidations: Arc<AtomicU64>,
    latency: latency::Latency,
    pressure: pressure::Pressure,
}

impl Fs {
    /// A file system over `tree`, whose changes go to `journal`.
    #[must_use]
    pub fn new(tree: Tree, journal: Arc<dyn Journal>) -> Self {
        let blobs = Arc::clone(tree.blobs());
        Fs {
            inner: Mutex::new(Inner {
                tree,
                held: InoMap::default(),
                cache: cache::Cache::new(DEFAULT_CACHE_LIMIT),
                dir_ends: HashMap::new(),
                next_handle: 0,
                streams: stream::Streams::default(),
            }),
            journal,
            blobs,
            project: Vec::new(),
            broken: OnceLock::new(),
            ended: AtomicBool::new(false),
            notify: RwLock::new(None),
            invalidations: Arc::default(),
            latency: latency::Latency::default(),
            pressure: pressure::Pressure::default(),
        }
    }

    /// The same, with so many inodes that stay in memory although they are as committed.
    #[must_use]
    pub fn with_cache_limit(mut self, inodes: usize) -> Self {
        self.inner.get_mut().unwrap_or_else(PoisonError::into_inner).cache = cache::Cache::new(inodes);
        self
    }

    /// The same, with the bytes that [`PROJECT_XATTR`] of the root answers (the project's directory); empty bytes switch it off.
    #[must_use]
    pub fn with_project(mut self, directory: impl Into<Vec<u8>>) -> Self {
        self.project = directory.into();
        self
    }

    /// Locks the tree for reading and changing it from inside the daemon. Hold it shortly: every request of the kernel waits for it.
    pub fn locked(&self) -> Writer<'_> {
        let guard = self.inner.lock().unwrap_or_else(|poisoned| {
            // Whoever panicked may have left half an operation in the tree.
            self.mark_broken("a request stopped in the middle of a change");
            PoisonError::into_inner(poisoned)
        });
        Writer { fs: self, guard }
    }

    /// How long the kernel's requests take.
    #[must_use]
    pub fn latency(&self) -> &latency::Latency {
        &self.latency
    }

    /// Who waits for room.
    #[must_use]
    pub fn pressure(&self) -> &pressure::Pressure {
        &self.pressure
    }

    /// Why nothing is changed any more, if that is so.
    #[must_use]
    pub fn broken(&self) -> Option<String> {
        self.broken.get().cloned()
    }

    /// Refuses every later mutation with EIO. The first reason is kept.
    pub fn mark_broken(&self, why: impl Into<String>) {
        let why = why.into();
        if self.broken.set(why.clone()).is_ok() {
            tracing::error!("the file system is stopped: {why}");
        }
    }

    fn check_whole(&self) -> FsResult {
        match self.broken.get() {
            Some(why) => Err(FsError::Broken(why.clone())),
            None => Ok(()),
        }
    }

    /// Makes everything answered so far durable; blocks.
    ///
    /// # Errors
    /// As the log says.
    pub fn sync(&self) -> FsResult {
        self.check_whole()?;
        Ok(self.journal.sync()?)
    }

    /// Space of the disk beneath, and an upper bound of the inodes in use.
    #[must_use]
    pub fn space(&self) -> (Space, u64) {
        (self.journal.space(), self.locked().tree().inodes_used())
    }

    /// Sets who tells the kernel of changes that it did not ask for; `None` when the mount ends.
    pub fn set_notify(&self, notify: Option<Arc<dyn Notify>>) {
        *self.notify.write().unwrap_or_else(PoisonError::into_inner) =
            notify.map(|notify| Arc::new(cache::Counted { notify, count: Arc::clone(&self.invalidations) }) as Arc<dyn Notify>);
    }

    /// Who tells the kernel of changes that it did not ask for. Do not hold [`Fs::locked`] while calling it.
    #[must_use]
    pub fn notify(&self) -> Option<Arc<dyn Notify>> {
        self.notify.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The kernel lets `count` lookups of the inode go.
    pub fn forget(&self, ino: Ino, count: u64) {
        let mut writer = self.locked();
        if let Some(held) = writer.guard.held.get_mut(&ino) {
            held.lookups = held.lookups.saturating_sub(count);
        }
        writer.released(ino);
        writer.trim();
    }

    /// An open file or directory was closed for the last time.
    pub fn release(&self, ino: Ino) {
        let mut writer = self.locked();
        if let Some(held) = writer.guard.held.get_mut(&ino) {
            held.opens = held.opens.saturating_sub(1);
            if held.opens == 0 {
                writer.guard.streams.closed(ino);
            }
        }
        writer.released(ino);
        writer.trim();
    }

    /// The mount is gone: the kernel holds nothing any more, so inodes without a name go too. From now on every change that a program asks
    /// for is refused.
    pub fn end_session(&self) {
        let mut writer = self.locked();
        self.ended.store(true, Ordering::Release);
        writer.guard.held.clear();
        writer.guard.dir_ends.clear();
        for ino in writer.guard.tree.orphans() {
            writer.reap(ino, None);
        }
    }
}

impl std::fmt::Debug for Fs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fs").field("broken", &self.broken.get()).finish_non_exhaustive()
    }
}

/// The lock over the tree, and the one way to change it.
pub struct Writer<'a> {
    fs: &'a Fs,
    guard: MutexGuard<'a, Inner>,
}

impl Writer<'_> {
    /// The tree. Change it through [`Writer::log`] only.
    pub fn tree(&mut self) -> &mut Tree {
        &mut self.guard.tree
    }

    /// Records an operation and applies it. `payload` holds the bytes of an inline write; `link` names the record that it is part of. The
    /// operation must fit the tree (the caller checked); an inode that loses its last name and that nobody holds is forgotten with it.
    ///
    /// # Errors
    /// As the log says; then nothing has happened. [`FsError::Broken`] when the tree could not follow the log.
    pub fn log(&mut self, caller: &Caller, op: Operation, payload: Option<&[u8]>, link: Option<Lsn>) -> FsResult<Lsn> {
        let loses_name = match &op {
            Operation::Unlink(op) => Some(op.ino),
            Operation::Rmdir(op) => Some(op.ino),
            Operation::Rename(op) => match op.mode {
                RenameMode::Replace(old) => Some(old),
                RenameMode::Free | RenameMode::Exchange(_) => None,
            },
            _ => None,
        };
        let lsn = self.record(caller, op, payload, link)?;
        if let Some(ino) = loses_name {
            self.reap(ino, link);
        }
        Ok(lsn)
    }

    /// Stores the bytes of a large write; the operation that names them must be logged under the same lock.
    ///
    /// # Errors
    /// As the blob store says.
    pub fn put_blob(&self, bytes: &[u8]) -> FsResult<crate::ids::BlobId> {
        Ok(self.fs.journal.put_blob(bytes)?)
    }

    fn record(&mut self, caller: &Caller, op: Operation, payload: Option<&[u8]>, link: Option<Lsn>) -> FsResult<Lsn> {
        self.fs.check_whole()?;
        if self.fs.ended.load(Ordering::Acquire) && !matches!(op, Operation::Mark(_) | Operation::Forget(_)) {
            return Err(FsError::Broken("the mount has ended".to_owned()));
        }
        // What applying will look at is loaded before anything is recorded, so that an unreadable base refuses and does not break.
        self.preload(&op)?;
        self.guard.streams.changing(&op);
        let recorded = self.fs.journal.record(caller, op, payload, link)?;
        match self.guard.tree.apply(recorded.lsn, &recorded.entry, recorded.payload) {
            Ok(()) => Ok(recorded.lsn),
            Err(e) => {
                let why = e.to_string();
                self.fs.mark_broken(why.clone());
                Err(FsError::Broken(why))
            }
        }
    }

    fn preload(&mut self, op: &Operation) -> FsResult {
        let tree = &mut self.guard.tree;
        if let Some(why) = tree.misfit(op)? {
            // A mistake of the caller's. It must not reach the log, where every later recovery would stumble over it.
            return Err(FsError::Broken(format!("{} is refused: {why}", op.name())));
        }
        let (at, to) = op.names();
        for (dir, _) in [at, to].into_iter().flatten() {
            tree.dir(dir)?;
        }
        match op {
            Operation::Create(_) | Operation::Mkdir(_) | Operation::Mknod(_) | Operation::Symlink(_) | Operation::Mark(_) => {}
            Operation::Rmdir(op) => {
                tree.dir(op.ino)?;
            }
            Operation::Rename(op) => {
                tree.inode(op.ino)?;
                if let RenameMode::Replace(other) | RenameMode::Exchange(other) = op.mode
                    && tree.inode(other)?.kind == crate::versions::node::FileKind::Directory
                {
                    tree.dir(other)?;
                }
            }
            Operation::Clone(op) => {
                tree.inode(op.ino)?;
                tree.read_plan(op.from, op.from_offset, op.len)?;
            }
            other => {
                if let Some(ino) = other.ino() {
                    tree.inode(ino)?;
                }
            }
        }
        Ok(())
    }

    fn hold_lookup(&mut self, ino: Ino) {
        self.guard.held.entry(ino).or_default().lookups += 1;
    }

    fn hold_open(&mut self, ino: Ino) {
        self.guard.held.entry(ino).or_default().opens += 1;
    }

    /// A count went down: drops the entry at zero, and the inode if it has no name.
    fn released(&mut self, ino: Ino) {
        if self.guard.held.get(&ino).is_some_and(|held| held.lookups == 0 && held.opens == 0) {
            self.guard.held.remove(&ino);
            self.guard.streams.closed(ino);
            self.reap(ino, None);
        }
    }

    /// Forgets the inode if it has no name and nobody holds it. A failure leaves it to the end of the session or to recovery.
    fn reap(&mut self, ino: Ino, link: Option<Lsn>) {
        let unnamed = self.guard.tree.peek(ino).is_some_and(|inode| inode.nlink == 0);
        if unnamed && !self.guard.held.contains_key(&ino) {
            let forget = Forget { ino };
            if let Err(e) = self.record(&Caller::default(), forget.into(), None, link) {
                tracing::debug!("inode {ino} is not forgotten yet: {e}");
            }
        }
    }
}

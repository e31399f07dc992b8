//! A disk in memory that knows what was synced and what was not, for tests.
//!
//! Every file has two contents: what a reader sees (*current*) and what a power cut leaves (*durable*), and the list of changes between
//! them. Names have the same. [`SimDisk::crash`] makes one of the disks that a power cut could leave, chosen by a seed: of each unsynced
//! write any granules (512 bytes or 4 KiB, the seed says), in any order; of each unsynced cut or growth the old length, the new, or one in
//! between, with or without the bytes; each unsynced change of a name kept or dropped, a rename being wholly done or not at all, and kept
//! even where the file's bytes are not. What was synced is always kept. [`SimDisk::kill`] is the death of the process only: everything
//! written stays readable, and still unsynced. Directories are durable when made.
//!
//! Faults at single calls are said beforehand: by number ([`SimDisk::at_call`], [`SimDisk::crash_at_call`]), by kind
//! ([`SimDisk::fail_sync`] and its like) or by a script that sees each call ([`SimDisk::script`]). After a failed sync pages are clean:
//! reads return the new bytes, the next sync succeeds, a power cut returns the old ones; a failed sync of a directory does the same to names.
//! Everything that chance decides is decided by seeds, so a case that fails can be run again, and made small by [`shrink()`].

mod calls;
mod content;
mod fault;
mod names;
mod seeded;
mod shrink;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use content::Content;
use names::Names;

pub use fault::{Call, CallKind, Effect, Fault, Script, SimCrash, is_crash};
pub use seeded::Seeded;
pub use shrink::shrink;

use super::Storage;

/// Bytes that reach the medium together or not at all, on an old disk and on a new one; each power cut takes one of them.
pub const GRANULES: [usize; 2] = [512, 4096];

#[derive(Clone, Debug, Default)]
struct State {
    files: BTreeMap<u64, Content>,
    dirs: BTreeSet<PathBuf>,
    names: Names,
    next_file: u64,
    /// Calls that change something, and all.
    changes: u64,
    calls: u64,
    crashed: bool,
    crash_at: Option<u64>,
    planned: BTreeMap<u64, Fault>,
    fired: u64,
    countdowns: fault::Countdowns,
    bad: BTreeSet<PathBuf>,
    capacity: Option<u64>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    script: Mutex<Option<Script>>,
}

/// A disk in memory. Clones share it.
#[derive(Clone, Default)]
pub struct SimDisk(Arc<Shared>);

impl std::fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("SimDisk").field(&*self.state()).finish()
    }
}

fn errno(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

impl State {
    fn content(&mut self, file: u64) -> io::Result<&mut Content> {
        self.files.get_mut(&file).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn used(&self) -> u64 {
        let named: BTreeSet<u64> = self.names.current.values().copied().collect();
        named.iter().filter_map(|id| self.files.get(id)).map(|c| c.current.len() as u64).sum()
    }

    /// Bytes that may still be added; `None` when there is no end of them.
    fn room(&self) -> Option<u64> {
        self.capacity.map(|capacity| capacity.saturating_sub(self.used()))
    }

    fn parent_exists(&self, path: &Path) -> io::Result<()> {
        match path.parent() {
            Some(dir) if self.dirs.contains(dir) => Ok(()),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

impl SimDisk {
    /// An empty disk with the root directory `/`.
    #[must_use]
    pub fn new() -> Self {
        let disk = Self::default();
        disk.state().dirs.insert(PathBuf::from("/"));
        disk
    }

    /// The disk as a shared trait object.
    #[must_use]
    pub fn shared(&self) -> Arc<dyn Storage> {
        Arc::new(self.clone())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A disk with these files and names, and without faults (but as full, and with the same bad files).
    fn fresh(state: State) -> Self {
        let state = State {
            files: state.files,
            dirs: state.dirs,
            names: state.names,
            next_file: state.next_file,
            bad: state.bad,
            capacity: state.capacity,
            ..State::default()
        };
        Self(Arc::new(Shared { state: Mutex::new(state), script: Mutex::default() }))
    }

    /// The disk after a power cut now, one of many, chosen by `seed`. This one stays as it is.
    #[must_use]
    pub fn crash(&self, seed: u64) -> SimDisk {
        let mut state = self.state().clone();
        let mut rng = Seeded::new(seed);
        let granule = GRANULES[rng.below(GRANULES.len() as u64) as usize];
        state.names = state.names.after_power_cut(&mut rng);
        let named: BTreeSet<u64> = state.names.current.values().copied().collect();
        state.files.retain(|id, _| named.contains(id));
        for content in state.files.values_mut() {
            *content = Content::settled(content.after_power_cut(&mut rng, granule));
        }
        Self::fresh(state)
    }

    /// The disk after the death of the process alone: everything written is there, and what was unsynced still is. This one stays.
    #[must_use]
    pub fn kill(&self) -> SimDisk {
        let mut state = self.state().clone();
        let names = &state.names;
        state.files.retain(|id, _| names.may_name(*id));
        Self::fresh(state)
    }

    /// Calls so far that change something (see [`CallKind::changes`]).
    #[must_use]
    #[allow(clippy::misnamed_getters, reason = "`all_calls` is the other one")]
    pub fn calls(&self) -> u64 {
        self.state().changes
    }

    /// Calls so far of every kind, reads included.
    #[must_use]
    pub fn all_calls(&self) -> u64 {
        self.state().calls
    }

    /// Crashes at the `n`-th changing call from now (1 is the next): it may or may not have its effect, or have some of it, and every call
    /// from then on fails with [`SimCrash`].
    pub fn crash_at_call(&self, n: u64) {
        let mut state = self.state();
        state.crash_at = Some(state.changes + n);
    }

    /// True once the crash has happened.
    #[must_use]
    pub fn crashed(&self) -> bool {
        self.state().crashed
    }

    /// `fault` at the `n`-th call of any kind from now (1 is the next).
    pub fn at_call(&self, n: u64, fault: Fault) {
        let mut state = self.state();
        let at = state.calls + n;
        state.planned.insert(at, fault);
    }

    /// Asks `script` at every call from now on, after what was said otherwise.
    pub fn script(&self, script: impl FnMut(&Call) -> Option<Fault> + Send + 'static) {
        *self.0.script.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(script));
    }

    /// Faults that have happened, for want of room too.
    #[must_use]
    pub fn faults(&self) -> u64 {
        self.state().fired
    }

    /// Takes back every fault that was said and did not happen, but not the capacity.
    pub fn disarm(&self) {
        *self.0.script.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let mut state = self.state();
        state.crash_at = None;
        state.planned.clear();
        state.countdowns = fault::Countdowns::default();
        state.bad.clear();
    }

    /// Fails the `n`-th file sync from now with EIO. What was unsynced then is lost without a further word: reads go on returning it, the
    /// next sync succeeds, a power cut returns the old bytes.
    pub fn fail_sync(&self, n: u64) {
        self.state().countdowns.sync = Some(n);
    }

    /// Fails the `n`-th directory sync from now with EIO. The names are lost as bytes are by a failed file sync.
    pub fn fail_sync_dir(&self, n: u64) {
        self.state().countdowns.sync_dir = Some(n);
    }

    /// Fails the `n`-th write from now with `errno`, after half of its bytes.
    pub fn fail_write(&self, n: u64, errno: i32) {
        self.state().countdowns.write = Some((n, errno));
    }

    /// Fails the `n`-th read from now with EIO.
    pub fn fail_read(&self, n: u64) {
        self.state().countdowns.read = Some(n);
    }

    /// Fails every read of the file at `path` with EIO, also after crashes, until [`SimDisk::disarm`].
    pub fn fail_reads_of(&self, path: &Path) {
        self.state().bad.insert(path.to_path_buf());
    }

    /// Bytes that all named files together may hold; a write or extension past it fails with ENOSPC, and so does a creation when none are
    /// left.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity = bytes;
    }

    /// Bytes that all named files hold.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.state().used()
    }

    /// Puts a file with these bytes at `path`, on the medium too, as if it had been there and synced for ever; what had the name is gone.
    /// Missing parents are made.
    pub fn put_file(&self, path: &Path, bytes: &[u8]) {
        let mut state = self.state();
        state.dirs.extend(path.ancestors().skip(1).map(Path::to_path_buf));
        state.next_file += 1;
        let file = state.next_file;
        state.files.insert(file, Content::settled(bytes.to_vec()));
        state.names.settle(path, file);
    }

    /// The bytes of a file as a reader sees them; `None` when there is no such file. No call is counted, no fault applies.
    #[must_use]
    pub fn file_bytes(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.state();
        state.names.current.get(path).and_then(|id| state.files.get(id)).map(|content| content.current.clone())
    }

    /// Cuts a file to `len` bytes, on the medium too; false when there is no such file or it is not longer.
    pub fn truncate(&self, path: &Path, len: u64) -> bool {
        let mut state = self.state();
        let Some(id) = state.names.current.get(path).copied() else { return false };
        let Some(content) = state.files.get_mut(&id) else { return false };
        if content.current.len() as u64 <= len {
            return false;
        }
        content.current.truncate(len as usize);
        content.durable.truncate(len as usize);
        content.unsynced.clear();
        true
    }

    /// Flips the bits of `mask` in the byte at `offset` of a file, on the medium too; false when there is no such byte.
    pub fn flip(&self, path: &Path, offset: u64, mask: u8) -> bool {
        let mut state = self.state();
        let Some(id) = state.names.current.get(path).copied() else { return false };
        let Some(content) = state.files.get_mut(&id) else { return false };
        let at = offset as usize;
        let Some(byte) = content.current.get_mut(at) else { return false };
        *byte ^= mask;
        if let Some(byte) = content.durable.get_mut(at) {
            *byte ^= mask;
        }
        true
    }
}

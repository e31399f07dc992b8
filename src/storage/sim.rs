//! A disk in memory that knows what was synced and what was not, for tests.
//!
//! Every file has two contents: what a reader sees (*current*) and what a power cut leaves (*durable*), and the list of changes between
//! them. Names have the same. [`SimDisk::crash`] makes one of the disks that a power cut could leave, chosen by a seed: each unsynced
//! write dropped, kept or torn in 512-byte granules, in any combination; each unsynced name operation kept or dropped, a rename being
//! wholly done or not at all. What was synced is always kept. [`SimDisk::kill`] is the death of the process only: everything written
//! stays readable, and still unsynced. Directories are durable when made.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{FileRef, Storage, StorageFile};

/// Bytes that reach the medium together or not at all.
pub const GRANULE: usize = 512;

/// A small deterministic generator (splitmix64), so that a seed names a crash for ever.
#[derive(Clone, Debug)]
pub struct Seeded(u64);

impl Seeded {
    /// The generator of `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n` (0 when `n` is 0).
    pub fn below(&mut self, n: u64) -> u64 {
        if n == 0 { 0 } else { self.draw() % n }
    }
}

/// The error of every call at and after the simulated crash.
#[derive(Debug, thiserror::Error)]
#[error("simulated crash")]
pub struct SimCrash;

/// True for the error of a call at or after the simulated crash.
#[must_use]
pub fn is_crash(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|e| e.is::<SimCrash>())
}

#[derive(Clone, Debug)]
enum Change {
    Write { offset: u64, bytes: Vec<u8> },
    SetLen(u64),
}

#[derive(Clone, Debug, Default)]
struct Content {
    current: Vec<u8>,
    durable: Vec<u8>,
    /// What made `current` of `durable`, oldest first; empty of what a failed sync lost.
    unsynced: Vec<Change>,
}

#[derive(Clone, Debug)]
enum NameChange {
    Link { path: PathBuf, file: u64 },
    Unlink { path: PathBuf },
    Rename { from: PathBuf, to: PathBuf, file: u64 },
}

#[derive(Clone, Debug, Default)]
struct Faults {
    /// Calls until the fault; 1 is the next.
    sync: Option<u64>,
    sync_dir: Option<u64>,
    write: Option<(u64, i32)>,
    read: Option<u64>,
    capacity: Option<u64>,
}

#[derive(Clone, Debug, Default)]
struct State {
    files: BTreeMap<u64, Content>,
    dirs: BTreeSet<PathBuf>,
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    unsynced_names: Vec<NameChange>,
    next_file: u64,
    calls: u64,
    crash_at: Option<u64>,
    crashed: bool,
    faults: Faults,
}

/// A disk in memory. Clones share it.
#[derive(Clone, Debug)]
pub struct SimDisk(Arc<Mutex<State>>);

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    file: u64,
    writable: bool,
}

fn apply(content: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Write { offset, bytes } => {
            let (start, end) = (*offset as usize, *offset as usize + bytes.len());
            if content.len() < end {
                content.resize(end, 0);
            }
            content[start..end].copy_from_slice(bytes);
        }
        Change::SetLen(len) => content.resize(*len as usize, 0),
    }
}

fn apply_name(names: &mut BTreeMap<PathBuf, u64>, change: &NameChange) {
    match change {
        NameChange::Link { path, file } => {
            names.insert(path.clone(), *file);
        }
        NameChange::Unlink { path } => {
            names.remove(path);
        }
        NameChange::Rename { from, to, file } => {
            if names.get(from) == Some(file) {
                names.remove(from);
            }
            names.insert(to.clone(), *file);
        }
    }
}

impl NameChange {
    fn touches(&self, dir: &Path) -> bool {
        match self {
            NameChange::Link { path, .. } | NameChange::Unlink { path } => path.parent() == Some(dir),
            NameChange::Rename { from, to, .. } => from.parent() == Some(dir) || to.parent() == Some(dir),
        }
    }
}

/// The write in pieces that end at granule boundaries of the file.
fn granules(offset: u64, bytes: &[u8]) -> Vec<(u64, &[u8])> {
    let mut pieces = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let inside = (offset as usize + at) % GRANULE;
        let n = (GRANULE - inside).min(bytes.len() - at);
        pieces.push((offset + at as u64, &bytes[at..at + n]));
        at += n;
    }
    pieces
}

impl Content {
    /// What a power cut leaves of this file.
    fn after_power_cut(&self, rng: &mut Seeded) -> Vec<u8> {
        let mut left = self.durable.clone();
        let mut pieces = Vec::new();
        for change in &self.unsynced {
            match change {
                Change::Write { offset, bytes } => {
                    pieces.extend(granules(*offset, bytes).into_iter().map(|(o, b)| Change::Write { offset: o, bytes: b.to_vec() }));
                }
                Change::SetLen(_) => pieces.push(change.clone()),
            }
        }
        // How a cut chooses: none, all, the first few, or each by itself with some bias.
        let (mode, prefix, bias) = (rng.below(6), rng.below(pieces.len() as u64 + 1), 1 + rng.below(15));
        for (i, piece) in pieces.iter().enumerate() {
            let keep = match mode {
                0 => false,
                1 => true,
                2 => (i as u64) < prefix,
                3 => i as u64 >= prefix,
                _ => rng.below(16) < bias,
            };
            if keep {
                apply(&mut left, piece);
            }
        }
        // The length is metadata: it may arrive without the bytes under it.
        if rng.below(2) == 0 && left.len() < self.current.len() && !self.unsynced.is_empty() {
            left.resize(self.current.len(), 0);
        }
        left
    }
}

impl State {
    /// Counts a call that changes something; true when the power goes at this very call.
    fn count(&mut self) -> io::Result<bool> {
        self.alive()?;
        self.calls += 1;
        if self.crash_at == Some(self.calls) {
            self.crashed = true;
            return Ok(true);
        }
        Ok(false)
    }

    fn alive(&self) -> io::Result<()> {
        if self.crashed { Err(io::Error::other(SimCrash)) } else { Ok(()) }
    }

    fn finish(&self) -> io::Result<()> {
        self.alive()
    }

    fn content(&mut self, file: u64) -> io::Result<&mut Content> {
        self.files.get_mut(&file).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn used(&self) -> u64 {
        let named: BTreeSet<u64> = self.names.values().copied().collect();
        named.iter().filter_map(|id| self.files.get(id)).map(|c| c.current.len() as u64).sum()
    }

    fn change_names(&mut self, change: NameChange) {
        apply_name(&mut self.names, &change);
        self.unsynced_names.push(change);
    }

    fn parent_exists(&self, path: &Path) -> io::Result<()> {
        match path.parent() {
            Some(dir) if self.dirs.contains(dir) => Ok(()),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

/// Counts `left` down; true when it reaches its call.
fn due(left: &mut Option<u64>) -> bool {
    match left {
        Some(1) => {
            *left = None;
            true
        }
        Some(n) => {
            *n -= 1;
            false
        }
        None => false,
    }
}

fn errno(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

impl Default for SimDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl SimDisk {
    /// An empty disk with the root directory `/`.
    #[must_use]
    pub fn new() -> Self {
        let mut state = State::default();
        state.dirs.insert(PathBuf::from("/"));
        Self(Arc::new(Mutex::new(state)))
    }

    /// The disk as a shared trait object.
    #[must_use]
    pub fn shared(&self) -> Arc<dyn Storage> {
        Arc::new(self.clone())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fresh(mut state: State) -> Self {
        state.calls = 0;
        state.crash_at = None;
        state.crashed = false;
        state.faults = Faults { capacity: state.faults.capacity, ..Faults::default() };
        Self(Arc::new(Mutex::new(state)))
    }

    /// The disk after a power cut now, one of many, chosen by `seed`. This one stays as it is.
    #[must_use]
    pub fn crash(&self, seed: u64) -> SimDisk {
        let mut state = self.state().clone();
        let mut rng = Seeded::new(seed);
        let mut names = state.durable_names.clone();
        // Per directory a mode of its own: none, all, the first few, or each by itself.
        let mut modes: BTreeMap<PathBuf, (u64, u64)> = BTreeMap::new();
        let total = state.unsynced_names.len() as u64;
        for (i, change) in state.unsynced_names.iter().enumerate() {
            let path = match change {
                NameChange::Link { path, .. } | NameChange::Unlink { path } => path,
                NameChange::Rename { to, .. } => to,
            };
            let dir = path.parent().unwrap_or(Path::new("/")).to_path_buf();
            let (mode, prefix) = *modes.entry(dir).or_insert_with(|| (rng.below(4), rng.below(total + 1)));
            let keep = match mode {
                0 => false,
                1 => true,
                2 => (i as u64) < prefix,
                _ => rng.below(2) == 0,
            };
            if keep {
                apply_name(&mut names, change);
            }
        }
        let named: BTreeSet<u64> = names.values().copied().collect();
        state.files.retain(|id, _| named.contains(id));
        for content in state.files.values_mut() {
            let left = content.after_power_cut(&mut rng);
            *content = Content { current: left.clone(), durable: left, unsynced: Vec::new() };
        }
        state.durable_names.clone_from(&names);
        state.names = names;
        state.unsynced_names.clear();
        Self::fresh(state)
    }

    /// The disk after the death of the process alone: everything written is there, and what was unsynced still is. This one stays.
    #[must_use]
    pub fn kill(&self) -> SimDisk {
        let mut state = self.state().clone();
        let named: BTreeSet<u64> = state.names.values().chain(state.durable_names.values()).copied().collect();
        let linked: BTreeSet<u64> = state
            .unsynced_names
            .iter()
            .filter_map(|c| match c {
                NameChange::Link { file, .. } | NameChange::Rename { file, .. } => Some(*file),
                NameChange::Unlink { .. } => None,
            })
            .collect();
        state.files.retain(|id, _| named.contains(id) || linked.contains(id));
        Self::fresh(state)
    }

    /// Calls so far that change something (create, rename, remove, write, cut, sync).
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.state().calls
    }

    /// Crashes at the `n`-th changing call from now (1 is the next): it may or may not have its effect, and every call from then on
    /// fails with [`SimCrash`].
    pub fn crash_at_call(&self, n: u64) {
        let mut state = self.state();
        state.crash_at = Some(state.calls + n);
    }

    /// True once the crash has happened.
    #[must_use]
    pub fn crashed(&self) -> bool {
        self.state().crashed
    }

    /// Fails the `n`-th file sync from now with EIO. What was unsynced then is lost without a further word: reads go on returning it, the
    /// next sync succeeds, a power cut returns the old bytes.
    pub fn fail_sync(&self, n: u64) {
        self.state().faults.sync = Some(n);
    }

    /// Fails the `n`-th directory sync from now with EIO; the names stay unsynced.
    pub fn fail_sync_dir(&self, n: u64) {
        self.state().faults.sync_dir = Some(n);
    }

    /// Fails the `n`-th write from now with `errno`, after half of its bytes.
    pub fn fail_write(&self, n: u64, errno: i32) {
        self.state().faults.write = Some((n, errno));
    }

    /// Fails the `n`-th read from now with EIO.
    pub fn fail_read(&self, n: u64) {
        self.state().faults.read = Some(n);
    }

    /// Bytes that all named files together may hold; a write or extension past it fails with ENOSPC.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().faults.capacity = bytes;
    }

    /// Bytes that all named files hold.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.state().used()
    }

    /// Flips the bits of `mask` in the byte at `offset` of a file, on the medium too; false when there is no such byte.
    pub fn flip(&self, path: &Path, offset: u64, mask: u8) -> bool {
        let mut state = self.state();
        let Some(id) = state.names.get(path).copied() else { return false };
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

impl Storage for SimDisk {
    fn create_new(&self, path: &Path) -> io::Result<FileRef> {
        let mut state = self.state();
        state.count()?;
        state.parent_exists(path)?;
        if state.names.contains_key(path) || state.dirs.contains(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        state.next_file += 1;
        let file = state.next_file;
        state.files.insert(file, Content::default());
        state.change_names(NameChange::Link { path: path.to_path_buf(), file });
        state.finish()?;
        Ok(Arc::new(SimFile { disk: self.clone(), file, writable: true }))
    }

    fn open(&self, path: &Path) -> io::Result<FileRef> {
        let state = self.state();
        state.alive()?;
        let file = *state.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(SimFile { disk: self.clone(), file, writable: true }))
    }

    fn open_read(&self, path: &Path) -> io::Result<FileRef> {
        let state = self.state();
        state.alive()?;
        let file = *state.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(SimFile { disk: self.clone(), file, writable: false }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.count()?;
        state.parent_exists(to)?;
        let file = *state.names.get(from).ok_or(io::ErrorKind::NotFound)?;
        state.change_names(NameChange::Rename { from: from.to_path_buf(), to: to.to_path_buf(), file });
        state.finish()
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.count()?;
        if !state.names.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.change_names(NameChange::Unlink { path: path.to_path_buf() });
        state.finish()
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        let state = self.state();
        state.alive()?;
        if !state.dirs.contains(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let all = state.names.keys().chain(state.dirs.iter());
        let mut names: Vec<OsString> =
            all.filter(|p| p.parent() == Some(dir)).filter_map(|p| p.file_name().map(ToOwned::to_owned)).collect();
        names.sort();
        Ok(names)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.count()?;
        for ancestor in dir.ancestors() {
            if state.names.contains_key(ancestor) {
                return Err(errno(libc::ENOTDIR));
            }
            state.dirs.insert(ancestor.to_path_buf());
        }
        state.finish()
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        if state.count()? {
            return state.finish();
        }
        if due(&mut state.faults.sync_dir) {
            return Err(errno(libc::EIO));
        }
        if !state.dirs.contains(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let (done, rest) = std::mem::take(&mut state.unsynced_names).into_iter().partition::<Vec<_>, _>(|c| c.touches(dir));
        for change in &done {
            apply_name(&mut state.durable_names, change);
        }
        state.unsynced_names = rest;
        Ok(())
    }
}

impl StorageFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        let mut state = self.disk.state();
        state.alive()?;
        Ok(state.content(self.file)?.current.len() as u64)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.disk.state();
        state.alive()?;
        if due(&mut state.faults.read) {
            return Err(errno(libc::EIO));
        }
        let bytes = &state.content(self.file)?.current;
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        let n = buf.len().min(bytes.len() - start);
        buf[..n].copy_from_slice(&bytes[start..start + n]);
        Ok(n)
    }

    fn write_at(&self, parts: &[&[u8]], offset: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        let crash = state.count()?;
        if !self.writable {
            return Err(errno(libc::EBADF));
        }
        let mut bytes = parts.concat();
        let mut verdict = Ok(());
        if crash {
            // The process dies inside the call: some front part is in the page cache.
            let calls = state.calls;
            bytes.truncate(Seeded::new(calls).below(bytes.len() as u64 + 1) as usize);
            verdict = Err(io::Error::other(SimCrash));
        }
        if let Some((n, code)) = state.faults.write {
            let mut left = Some(n);
            if due(&mut left) {
                bytes.truncate(bytes.len() / 2);
                verdict = Err(errno(code));
            }
            state.faults.write = left.map(|n| (n, code));
        }
        if let Some(capacity) = state.faults.capacity {
            let len = state.content(self.file)?.current.len() as u64;
            let grows = (offset + bytes.len() as u64).saturating_sub(len);
            let room = capacity.saturating_sub(state.used());
            if grows > room {
                bytes.truncate(bytes.len().saturating_sub((grows - room) as usize));
                verdict = Err(errno(libc::ENOSPC));
            }
        }
        if !bytes.is_empty() {
            let change = Change::Write { offset, bytes };
            let content = state.content(self.file)?;
            apply(&mut content.current, &change);
            content.unsynced.push(change);
        }
        verdict
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.count()?;
        if !self.writable {
            return Err(errno(libc::EINVAL));
        }
        let content = state.content(self.file)?;
        apply(&mut content.current, &Change::SetLen(len));
        content.unsynced.push(Change::SetLen(len));
        state.finish()
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        if state.count()? {
            return state.finish();
        }
        let fails = due(&mut state.faults.sync);
        let content = state.content(self.file)?;
        let changes = std::mem::take(&mut content.unsynced);
        if fails {
            return Err(errno(libc::EIO));
        }
        for change in &changes {
            apply(&mut content.durable, change);
        }
        Ok(())
    }
}

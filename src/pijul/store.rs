//! Change files: `.pijul/changes/AB/REST.change`, as the real client has them, but bounded in memory and synced.
//!
//! Rule: a change file and its name are durable before the pristine names it. [`ChangeFiles::write`] writes and renames;
//! [`ChangeFiles::sync`] makes all that durable and is called before every commit. libpijul's own store does neither, and keeps 1-2 MB and
//! a file descriptor for each cached change.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use libpijul::Hash;
use libpijul::change::{Change, ChangeError, ChangeFile, ChangeHeader};
use libpijul::changestore::ChangeStore;
use libpijul::changestore::filesystem::push_filename;
use libpijul::pristine::{ChangeId, Position, Vertex};

use super::step;

/// Bytes of decoded changes kept, by estimate, beside the largest and the one last used. The largest stays as long as no larger one comes: the
/// first change of a large tree holds the first lines of every file, and each small change that is read would else put it out.
const CACHE_BYTES: u64 = 8 << 20;
/// Files that are synced at a time, by the thread that writes them, while others are still being recorded.
const UNSYNCED_MAX: usize = 128;
/// Threads that sync at a time.
const SYNCING: usize = 4;
/// Files for which a thread more is worth while.
const SYNCED_AT_A_TIME: usize = 16;
/// Begins the name of a change file being written.
pub(super) const TMP_PREFIX: &str = ".ize-tmp-";

/// What can go wrong with a change file.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoreError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Utf8(#[from] std::str::Utf8Error),
    #[error("{0}")]
    Change(#[from] ChangeError),
    #[error("no change with the internal number {0:?}")]
    Unknown(ChangeId),
    #[error("change {0}: {1:?} is out of its bounds")]
    Bounds(String, (u64, u64)),
}

#[derive(Default)]
struct Cache {
    changes: HashMap<Hash, (Arc<Change>, u64, u64)>,
    by_use: BTreeMap<u64, Hash>,
    tick: u64,
    bytes: u64,
}

impl Cache {
    fn get(&mut self, hash: &Hash) -> Option<Arc<Change>> {
        let (change, _, used) = self.changes.get_mut(hash)?;
        self.by_use.remove(used);
        self.tick += 1;
        *used = self.tick;
        self.by_use.insert(self.tick, *hash);
        Some(change.clone())
    }

    fn put(&mut self, hash: Hash, change: Arc<Change>, cost: u64) {
        self.remove(&hash);
        self.tick += 1;
        self.bytes += cost;
        self.by_use.insert(self.tick, hash);
        self.changes.insert(hash, (change, cost, self.tick));
        let Some((largest, over)) = self.changes.iter().max_by_key(|(_, (_, cost, tick))| (*cost, *tick)).map(|(h, c)| (*h, c.1)) else {
            return;
        };
        while self.bytes - over > CACHE_BYTES {
            let oldest = self.by_use.values().find(|h| **h != largest && **h != hash).copied();
            let Some(oldest) = oldest else { return };
            self.remove(&oldest);
        }
    }

    fn remove(&mut self, hash: &Hash) {
        if let Some((_, cost, used)) = self.changes.remove(hash) {
            self.bytes -= cost;
            self.by_use.remove(&used);
        }
    }
}

struct Inner {
    dir: PathBuf,
    cache: Mutex<Cache>,
    /// What is about to be written.
    waiting: Mutex<HashMap<Hash, Arc<Change>>>,
    unsynced: Mutex<Vec<(PathBuf, File)>>,
}

/// The change files of one repository. Clones share everything.
#[derive(Clone)]
pub(super) struct ChangeFiles(Arc<Inner>);

/// Starts writing what is dirty of a file, and does not wait for it.
fn start_writing(file: &File) {
    // SAFETY: the descriptor is open while `file` is borrowed, and the call takes no pointer. That it fails is no loss: the sync tells.
    let _ = unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) };
}

/// Makes files durable, several at a time: their flushes of the disk then become one.
fn sync_all(files: &[&File]) -> io::Result<()> {
    let part = files.len().div_ceil(SYNCING).max(SYNCED_AT_A_TIME);
    let sync = |part: &[&File]| part.iter().try_for_each(|file| file.sync_all());
    let mut parts = files.chunks(part);
    let first = parts.next().unwrap_or_default();
    std::thread::scope(|scope| {
        let others: Vec<_> = parts.map(|part| std::thread::Builder::new().spawn_scoped(scope, move || sync(part))).collect();
        let mut done = sync(first);
        for other in others {
            let synced = other.and_then(|thread| thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread that syncs has died"))));
            done = done.and(synced);
        }
        done
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic inside libpijul leaves both guarded structures whole: they are changed by our own code only.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ChangeFiles {
    /// The change files in `dir` (`.pijul/changes`), which exists.
    pub(super) fn new(dir: PathBuf) -> Self {
        Self(Arc::new(Inner { dir, cache: Mutex::default(), waiting: Mutex::default(), unsynced: Mutex::default() }))
    }

    /// Where they are.
    pub(super) fn dir(&self) -> &Path {
        &self.0.dir
    }

    pub(super) fn path(&self, hash: &Hash) -> PathBuf {
        let mut path = self.0.dir.clone();
        push_filename(&mut path, hash);
        path
    }

    pub(super) fn load(&self, hash: &Hash) -> Result<Arc<Change>, StoreError> {
        // First what waits: it leaves that when its file is there.
        if let Some(change) = self.waiting(hash).or_else(|| lock(&self.0.cache).get(hash)) {
            return Ok(change);
        }
        let path = self.path(hash);
        let on_disk = fs::metadata(&path)?.len();
        let change = Arc::new(Change::deserialize(&path.to_string_lossy(), Some(hash))?);
        // Decoded hunks take several times their compressed size.
        let cost = change.contents.len() as u64 + on_disk.saturating_mul(8);
        lock(&self.0.cache).put(*hash, change.clone(), cost);
        Ok(change)
    }

    fn waiting(&self, hash: &Hash) -> Option<Arc<Change>> {
        lock(&self.0.waiting).get(hash).cloned()
    }

    /// This change waits to be written; until [`is_written`](Self::is_written) it is read from memory.
    pub(super) fn waits(&self, hash: Hash, change: Arc<Change>) {
        lock(&self.0.waiting).insert(hash, change);
    }

    /// It waits no more: its file is there, or never will be.
    pub(super) fn is_written(&self, hash: &Hash) {
        lock(&self.0.waiting).remove(hash);
    }

    /// Writes a change file and gives it its name; [`sync`](Self::sync) makes it durable.
    pub(super) fn write(&self, change: &mut Change) -> Result<Hash, StoreError> {
        self.save(change, |_, _| Ok(()))
    }

    fn contents(&self, hash: &Hash, from: u64, to: u64, buf: &mut [u8]) -> Result<usize, StoreError> {
        let change = self.load(hash)?;
        let range = usize::try_from(from).ok().zip(usize::try_from(to).ok());
        let part = range.and_then(|(a, b)| change.contents.get(a..b)).filter(|p| p.len() == buf.len());
        let part = part.ok_or_else(|| StoreError::Bounds(libpijul::Base32::to_base32(hash), (from, to)))?;
        buf.copy_from_slice(part);
        Ok(part.len())
    }

    /// Makes everything saved so far durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        let files = std::mem::take(&mut *lock(&self.0.unsynced));
        // All are on their way before the first is waited for: the journal then commits once for all of them.
        files.iter().for_each(|(_, file)| start_writing(file));
        let mut dirs: BTreeSet<&Path> = files.iter().filter_map(|(path, _)| path.parent()).collect();
        if !dirs.is_empty() {
            // Their own names may be fresh.
            dirs.insert(&self.0.dir);
        }
        let dirs = dirs.into_iter().map(File::open).collect::<io::Result<Vec<_>>>()?;
        let all: Vec<&File> = files.iter().map(|(_, file)| file).chain(&dirs).collect();
        sync_all(&all)?;
        #[cfg(test)]
        files.iter().for_each(|(path, _)| super::tests::synced(path));
        Ok(())
    }

    fn save<E: From<StoreError> + From<ChangeError>>(
        &self,
        change: &mut Change,
        before_hash: impl FnOnce(&mut Change, &Hash) -> Result<(), E>,
    ) -> Result<Hash, E> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let io = |e: io::Error| E::from(StoreError::from(e));
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let tmp = self.0.dir.join(format!("{TMP_PREFIX}{}-{number}", std::process::id()));
        let mut file = File::create(&tmp).map_err(io)?;
        let mut writer = BufWriter::new(&mut file);
        let hash = change.serialize(&mut writer, before_hash)?;
        writer.flush().map_err(io)?;
        drop(writer);
        let path = self.path(&hash);
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).map_err(io)?;
        }
        step("a change file is written");
        fs::rename(&tmp, &path).map_err(io)?;
        #[cfg(test)]
        super::tests::unsynced(&path);
        step("a change file has its name");
        let full = {
            let mut unsynced = lock(&self.0.unsynced);
            unsynced.push((path, file));
            unsynced.len() >= UNSYNCED_MAX
        };
        if full {
            self.sync().map_err(io)?;
        }
        Ok(hash)
    }
}

impl ChangeStore for ChangeFiles {
    type Error = StoreError;

    fn has_contents(&self, hash: Hash, _: Option<ChangeId>) -> bool {
        self.load(&hash).is_ok_and(|c| !c.contents.is_empty())
    }

    fn get_contents<F: Fn(ChangeId) -> Option<Hash>>(&self, hash: F, key: Vertex<ChangeId>, buf: &mut [u8]) -> Result<usize, StoreError> {
        if key.end <= key.start || key.is_root() {
            return Ok(0);
        }
        let hash = hash(key.change).ok_or(StoreError::Unknown(key.change))?;
        self.contents(&hash, key.start.into(), key.end.into(), buf)
    }

    fn get_contents_ext(&self, key: Vertex<Option<Hash>>, buf: &mut [u8]) -> Result<usize, StoreError> {
        match key.change {
            Some(hash) if key.end > key.start => self.contents(&hash, key.start.into(), key.end.into(), buf),
            _ => Ok(0),
        }
    }

    fn get_header(&self, hash: &Hash) -> Result<ChangeHeader, StoreError> {
        if let Some(change) = self.waiting(hash) {
            return Ok(change.hashed.header.clone());
        }
        // Reads the hashed part only and leaves the cache alone: a walk of the log must not empty it.
        Ok(ChangeFile::open(*hash, &self.path(hash).to_string_lossy())?.hashed().header.clone())
    }

    fn get_dependencies(&self, hash: &Hash) -> Result<Vec<Hash>, StoreError> {
        Ok(self.load(hash)?.hashed.dependencies.clone())
    }

    fn knows(&self, hash0: &Hash, hash1: &Hash) -> Result<bool, StoreError> {
        Ok(self.load(hash0)?.knows(hash1))
    }

    fn has_edge(
        &self,
        change: Hash,
        from: Position<Option<Hash>>,
        to: Position<Option<Hash>>,
        flags: libpijul::EdgeFlags,
    ) -> Result<bool, StoreError> {
        Ok(self.load(&change)?.has_edge(change, from, to, flags))
    }

    fn change_deletes_position<F: Fn(ChangeId) -> Option<Hash>>(
        &self,
        hash: F,
        change: ChangeId,
        pos: Position<Option<Hash>>,
    ) -> Result<Vec<Hash>, StoreError> {
        let change = self.load(&hash(change).ok_or(StoreError::Unknown(change))?)?;
        Ok(change.hashed.changes.iter().flat_map(|hunk| hunk.iter()).flat_map(|atom| atom.deletes_pos(pos)).collect())
    }

    fn save_change<E: From<StoreError> + From<ChangeError>, F: FnOnce(&mut Change, &Hash) -> Result<(), E>>(
        &self,
        change: &mut Change,
        before_hash: F,
    ) -> Result<Hash, E> {
        self.save(change, before_hash)
    }

    fn del_change(&self, hash: &Hash) -> Result<bool, StoreError> {
        lock(&self.0.cache).remove(hash);
        match fs::remove_file(self.path(hash)) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    fn get_change(&self, hash: &Hash) -> Result<Change, StoreError> {
        Ok((*self.load(hash)?).clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_change_stays_while_small_ones_come_and_go_and_memory_is_bounded() {
        let change = Arc::new(crate::pijul::tests::some_change());
        let hash = |n: u64| {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&n.to_le_bytes());
            Hash::Blake3(bytes)
        };
        let (mut cache, large) = (Cache::default(), 4 * CACHE_BYTES);
        cache.put(hash(0), change.clone(), large);
        for n in 1..100 {
            cache.put(hash(n), change.clone(), CACHE_BYTES / 10);
            assert!(cache.get(&hash(n)).is_some() && cache.bytes <= large + CACHE_BYTES, "{n}: {}", cache.bytes);
        }
        // The latest are there too, the first ones not.
        assert!(cache.get(&hash(0)).is_some() && cache.get(&hash(95)).is_some() && cache.get(&hash(50)).is_none());
        // Another large one is kept while it is the last used, and goes before the largest.
        cache.put(hash(200), change.clone(), large - 1);
        assert!(cache.get(&hash(200)).is_some() && cache.changes.len() == 2);
        cache.put(hash(201), change, 1);
        assert!(cache.get(&hash(0)).is_some() && cache.get(&hash(200)).is_none() && cache.get(&hash(201)).is_some());
        assert_eq!(cache.by_use.len(), cache.changes.len());
    }
}

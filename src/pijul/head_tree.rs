//! What the head of a channel holds, path by path: written out by libpijul (whole, one thread: linear), into memory and one temporary file
//! instead of a working copy. So no length of a path, no odd name and no unrecorded edit is in the way.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use libpijul::changestore::ChangeStore;
use libpijul::pristine::sanakirja::MutTxn0;
use libpijul::pristine::{Base32, ChangeId, InodeMetadata, Position};
use libpijul::working_copy::{WorkingCopy, WorkingCopyRead};
use libpijul::{ArcTxn, ChannelRef, ChannelTxnT, Conflict, DepsTxnT, GraphTxnT, Hash, Inode, TreeTxnT};

use crate::error::{Class, Error, Result};
use crate::ids::{BlobId, Time};
use crate::pijul::apply::refused;
use crate::pijul::header;
use crate::pijul::spooled::Spooled;

/// Conflicts that are named.
const NAMED: usize = 20;

/// What a path holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// A directory.
    Directory,
    /// A file.
    File {
        /// Where its bytes are in the temporary file.
        at: u64,
        /// Their number.
        len: u64,
        /// Their hash.
        hash: BlobId,
        /// Pijul's x bit.
        executable: bool,
    },
}

/// See the module. Paths are Pijul's: see [`names`](crate::pijul::names).
#[derive(Debug, Default)]
pub struct HeadTree {
    /// Keys have a NUL for each slash, so that what is in a directory comes right behind it.
    paths: BTreeMap<String, (Held, Option<Time>)>,
    spool: Option<File>,
    conflicts: Vec<String>,
}

impl HeadTree {
    /// Every path, parents first, what is in a directory right behind it.
    pub fn iter(&self) -> impl Iterator<Item = (String, Held)> + '_ {
        self.paths.iter().map(|(key, (held, _))| (key.replace('\0', "/"), *held))
    }

    /// What a path holds.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<Held> {
        self.paths.get(&key(path)).map(|(held, _)| *held)
    }

    /// The same, which is then gone from here.
    pub fn take(&mut self, path: &str) -> Option<Held> {
        self.paths.remove(&key(path)).map(|(held, _)| held)
    }

    /// When a path last changed, where that was asked for: the time of the last change that touched it.
    #[must_use]
    pub fn time(&self, path: &str) -> Option<Time> {
        self.paths.get(&key(path)).and_then(|(_, time)| *time)
    }

    /// Where files are in conflict, in words; a tree that has any is not what anybody wrote.
    #[must_use]
    pub fn conflicts(&self) -> &[String] {
        &self.conflicts
    }

    /// Number of paths.
    #[must_use]
    pub fn len(&self) -> usize {
        self.paths.len()
    }

    /// Whether it holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    /// Bytes of a file from `offset` on.
    ///
    /// # Errors
    /// I/O errors; also when the tree was read without its bytes.
    pub fn read_at(&self, at: u64, buf: &mut [u8]) -> io::Result<()> {
        self.spool.as_ref().ok_or_else(|| io::Error::other("the tree was read without bytes"))?.read_exact_at(buf, at)
    }

    /// The bytes of a file; `None` for anything else.
    ///
    /// # Errors
    /// As [`read_at`](Self::read_at).
    pub fn bytes(&self, path: &str) -> io::Result<Option<Vec<u8>>> {
        let Some(Held::File { at, len, .. }) = self.get(path) else { return Ok(None) };
        let mut out = vec![0; usize::try_from(len).map_err(io::Error::other)?];
        self.read_at(at, &mut out)?;
        Ok(Some(out))
    }

    /// A tree from a directory as the client's clone leaves it: for tests, which must not take our word for what the client writes.
    #[cfg(test)]
    pub(super) fn of_directory(dir: &std::path::Path, tracked: &dyn Fn(&str) -> bool) -> Self {
        use std::os::unix::fs::PermissionsExt;
        let sink = Sink::new(Some(tempfile::tempfile().unwrap()));
        let mut stack = vec![String::new()];
        while let Some(at) = stack.pop() {
            for found in std::fs::read_dir(dir.join(&at)).unwrap() {
                let name = found.unwrap().file_name().into_string().unwrap();
                let path = if at.is_empty() { name } else { format!("{at}/{name}") };
                if path == libpijul::DOT_DIR || !tracked(&path) {
                    continue;
                }
                let meta = std::fs::symlink_metadata(dir.join(&path)).unwrap();
                if meta.is_dir() {
                    sink.create_dir_all(&path).unwrap();
                    stack.push(path);
                } else {
                    let mut out = sink.write_file(&path, Inode::ROOT).unwrap();
                    out.write_all(&std::fs::read(dir.join(&path)).unwrap()).unwrap();
                    drop(out);
                    sink.set_permissions(&path, u16::try_from(meta.permissions().mode() & 0o100).unwrap()).unwrap();
                }
            }
        }
        sink.tree().unwrap()
    }
}

fn key(path: &str) -> String {
    path.replace('/', "\0")
}

/// Reads the tree of a channel in a transaction with an empty tree table.
pub(super) fn read(txn: &ArcTxn<MutTxn0>, channel: &ChannelRef<MutTxn0>, changes: &Spooled, bytes: bool, times: bool) -> Result<HeadTree> {
    let spool = if bytes { Some(tempfile::tempfile().map_err(|e| Error::io("cannot create a temporary file", e))?) } else { None };
    let sink = Sink::new(spool);
    // One worker: a second only waits for the first.
    let conflicts = libpijul::output::output_repository_no_pending(&sink, changes, txn, channel, "", true, None, 1, 0);
    let conflicts = conflicts.map_err(refused("cannot write the tree out"))?;
    let mut tree = sink.tree()?;
    tree.conflicts = named(&conflicts);
    if times {
        Times { txn, channel, changes, known: HashMap::new() }.fill(&mut tree)?;
    }
    Ok(tree)
}

fn named(conflicts: &BTreeSet<Conflict>) -> Vec<String> {
    let paths: BTreeSet<&str> = conflicts
        .iter()
        .map(|conflict| match conflict {
            Conflict::Name { path, .. }
            | Conflict::ZombieFile { path, .. }
            | Conflict::MultipleNames { path, .. }
            | Conflict::Zombie { path, .. }
            | Conflict::Cyclic { path, .. }
            | Conflict::Order { path, .. } => path.as_str(),
        })
        .collect();
    paths.into_iter().take(NAMED).map(str::to_owned).collect()
}

/// Finds out when each path last changed.
struct Times<'a> {
    txn: &'a ArcTxn<MutTxn0>,
    channel: &'a ChannelRef<MutTxn0>,
    changes: &'a Spooled,
    known: HashMap<ChangeId, Time>,
}

impl Times<'_> {
    fn fill(&mut self, tree: &mut HeadTree) -> Result<()> {
        for (key, (_, time)) in &mut tree.paths {
            let inode = libpijul::fs::find_inode(&*self.txn.read(), &key.replace('\0', "/")).map_err(refused("cannot read the tree"))?;
            let position = self.txn.read().get_inodes(&inode, None).map_err(refused("cannot read the tree"))?.copied();
            if let Some(position) = position {
                *time = self.last(position)?;
            }
        }
        Ok(())
    }

    /// The time of the last change, in the order of the log, that touched a file.
    fn last(&mut self, position: Position<ChangeId>) -> Result<Option<Time>> {
        let mut last = None;
        {
            let (txn, channel) = (self.txn.read(), self.channel.read());
            for entry in txn.iter_touched(&position).map_err(refused("cannot read what was touched"))? {
                let (at, change) = entry.map_err(refused("cannot read what was touched"))?;
                if *at > position {
                    break;
                }
                let place = txn.get_changeset(txn.changes(&channel), change).map_err(refused("cannot read the log"))?;
                if *at == position
                    && let Some(place) = place
                {
                    last = last.max(Some((u64::from(*place), *change)));
                }
            }
        }
        last.map(|(_, change)| self.time(change)).transpose()
    }

    fn time(&mut self, change: ChangeId) -> Result<Time> {
        if let Some(time) = self.known.get(&change) {
            return Ok(*time);
        }
        let hash: Hash = self.txn.read().get_external(&change).map_err(refused("cannot read the log"))?.into();
        let header = self.changes.get_header(&hash);
        let header = header.map_err(|e| Error::new(Class::Damage, format!("change {}: its file cannot be read: {e}", hash.to_base32())))?;
        let time = header::time(&header);
        self.known.insert(change, time);
        Ok(time)
    }
}

#[derive(Debug)]
struct Inner {
    tree: HeadTree,
    end: u64,
    failed: Option<io::Error>,
}

/// Where libpijul writes to.
#[derive(Clone)]
struct Sink(Arc<Mutex<Inner>>);

impl Sink {
    fn new(spool: Option<File>) -> Self {
        Self(Arc::new(Mutex::new(Inner { tree: HeadTree { spool, ..HeadTree::default() }, end: 0, failed: None })))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tree(&self) -> Result<HeadTree> {
        let mut inner = self.inner();
        match inner.failed.take() {
            Some(e) => Err(Error::io("cannot write to a temporary file", e)),
            None => Ok(std::mem::take(&mut inner.tree)),
        }
    }
}

/// A file that is being written.
struct Out {
    sink: Sink,
    path: String,
    bytes: Vec<u8>,
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Out {
    fn drop(&mut self) {
        let mut inner = self.sink.inner();
        let at = inner.end;
        let len = self.bytes.len() as u64;
        if let Some(spool) = &inner.tree.spool {
            match spool.write_all_at(&self.bytes, at) {
                Ok(()) => inner.end += len,
                Err(e) => _ = inner.failed.get_or_insert(e),
            }
        }
        let held = Held::File { at, len, hash: BlobId::of(&self.bytes), executable: false };
        inner.tree.paths.insert(key(&self.path), (held, None));
    }
}

fn nothing<T>(path: &str) -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::NotFound, path.to_owned()))
}

impl WorkingCopyRead for Sink {
    type Error = io::Error;

    fn file_metadata(&self, path: &str) -> io::Result<InodeMetadata> {
        nothing(path)
    }

    fn read_file(&self, path: &str, _: &mut Vec<u8>) -> io::Result<()> {
        nothing(path)
    }

    fn modified_time(&self, path: &str) -> io::Result<SystemTime> {
        nothing(path)
    }
}

impl WorkingCopy for Sink {
    fn create_dir_all(&self, path: &str) -> io::Result<()> {
        let mut inner = self.inner();
        for (at, _) in path.match_indices('/').chain([(path.len(), "")]) {
            let above = path.get(..at).unwrap_or_default();
            inner.tree.paths.entry(key(above)).or_insert((Held::Directory, None));
        }
        Ok(())
    }

    fn remove_path(&self, path: &str, _: bool) -> io::Result<()> {
        self.inner().tree.paths.remove(&key(path));
        Ok(())
    }

    fn rename(&self, former: &str, new: &str) -> io::Result<()> {
        let mut inner = self.inner();
        let (former, new) = (key(former), key(new));
        let below = format!("{former}\0");
        let moved: Vec<String> =
            inner.tree.paths.range(former.clone()..).map(|(k, _)| k.clone()).take_while(|k| k.starts_with(&former)).collect();
        for old in moved.into_iter().filter(|k| *k == former || k.starts_with(&below)) {
            if let Some(held) = inner.tree.paths.remove(&old) {
                inner.tree.paths.insert(format!("{new}{}", old.get(former.len()..).unwrap_or_default()), held);
            }
        }
        Ok(())
    }

    fn set_permissions(&self, path: &str, permissions: u16) -> io::Result<()> {
        if let Some((Held::File { executable, .. }, _)) = self.inner().tree.paths.get_mut(&key(path)) {
            *executable = permissions & 0o100 != 0;
        }
        Ok(())
    }

    type Writer = Out;

    fn write_file(&self, path: &str, _: Inode) -> io::Result<Out> {
        Ok(Out { sink: self.clone(), path: path.to_owned(), bytes: Vec::new() })
    }
}

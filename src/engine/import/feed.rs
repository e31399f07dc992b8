//! From the walk to the queues: what is small goes in batches, what is large alone; what is there already is only passed on.

use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};

use super::read::{Item, Job, Task, What};
use super::walk::{Place, Visitor};
use super::{BATCH_BYTES, BATCH_DIRS, BATCH_ENTRIES};
use crate::engine::core::Core;
use crate::engine::outside::{Meta, Problems, Trouble};
use crate::error::{Class, Error, Result};
use crate::ids::Ino;
use crate::op::BLOB_THRESHOLD;
use crate::versions::node::FileKind;

/// Windows of one file, or runs of a few bytes between its holes, that may be read before their turn to be logged comes.
const PARTS_AHEAD: usize = 16;

/// Marks the error of a walk that goes on although nobody listens.
#[derive(Debug, thiserror::Error)]
#[error("nobody takes what is read")]
struct Over;

fn over() -> Error {
    Error::new(Class::Failed, "the import has stopped").source(Over)
}

/// True when `e` only says that the logging thread has stopped.
pub(super) fn is_over(e: &Error) -> bool {
    e.source.as_ref().is_some_and(|s| s.is::<Over>())
}

/// Feeds the queues.
pub(super) struct Feed<'a, 'b> {
    core: &'a Core,
    problems: &'b Problems,
    jobs: SyncSender<Job<'a>>,
    tasks: SyncSender<Task<'a>>,
    batch: Vec<Item>,
    bytes: u64,
    dirs: usize,
    /// Inodes with several names that were met, by device and inode.
    seen: HashSet<(u64, u64)>,
    /// Of an import that goes on: the directories from the root to here, where they were there before.
    there: Vec<Option<Ino>>,
    resumed: bool,
    /// Which of those stands for which inode of the source, where that has several names.
    claimed: HashMap<Ino, (u64, u64)>,
}

impl<'a, 'b> Feed<'a, 'b> {
    pub(super) fn new(
        core: &'a Core,
        problems: &'b Problems,
        jobs: SyncSender<Job<'a>>,
        tasks: SyncSender<Task<'a>>,
        resumed: bool,
    ) -> Self {
        let (batch, seen, there, claimed) = (Vec::new(), HashSet::new(), Vec::new(), HashMap::new());
        Self { core, problems, jobs, tasks, batch, bytes: 0, dirs: 0, seen, there, resumed, claimed }
    }

    /// Hands on what has gathered.
    pub(super) fn flush(&mut self) -> Result<()> {
        (self.bytes, self.dirs) = (0, 0);
        let items = std::mem::take(&mut self.batch);
        if items.is_empty() {
            return Ok(());
        }
        let (to, from) = sync_channel(1);
        self.jobs.send(Job::Batch(from)).map_err(|_| over())?;
        self.tasks.send(Task::Batch(items, to)).map_err(|_| over())
    }

    fn push(&mut self, item: Item) -> Result<()> {
        self.bytes += item.meta.size.min(BLOB_THRESHOLD as u64);
        self.dirs += usize::from(matches!(item.what, What::Enter(_)));
        self.batch.push(item);
        let full = self.bytes >= BATCH_BYTES || self.batch.len() >= BATCH_ENTRIES || self.dirs >= BATCH_DIRS;
        if full { self.flush() } else { Ok(()) }
    }

    fn large(&mut self, item: Item) -> Result<()> {
        self.flush()?;
        let (to, from) = sync_channel(PARTS_AHEAD);
        self.jobs.send(Job::Large(item.name.clone(), item.path.clone(), from)).map_err(|_| over())?;
        self.tasks.send(Task::Large(item, to)).map_err(|_| over())
    }

    /// Whether an earlier import took it whole: its times were set last.
    fn is_there(&mut self, name: &[u8], meta: &Meta) -> Result<bool> {
        let Some(Some(dir)) = self.there.last() else { return Ok(false) };
        let mut writer = self.core.fs.locked();
        let Some(child) = writer.tree().lookup(*dir, name)? else { return Ok(false) };
        let now = writer.tree().stat(child.ino)?;
        drop(writer);
        let attrs = &now.attrs;
        let sized = !matches!(meta.kind, FileKind::File | FileKind::Symlink) || now.size == meta.size;
        let same = now.kind == meta.kind
            && sized
            && (attrs.mode, attrs.uid, attrs.gid, attrs.mtime, attrs.rdev) == (meta.mode, meta.uid, meta.gid, meta.mtime, meta.rdev);
        // What are names of one inode there must be names of one inode here.
        let linked = if meta.nlink > 1 { *self.claimed.entry(child.ino).or_insert(meta.id) == meta.id } else { now.nlink == 1 };
        Ok(same && linked)
    }

    /// A directory begins.
    pub(super) fn begin(&mut self, name: &[u8], path: &[u8], meta: &Meta, what: What) -> Result<()> {
        let there = match self.there.last() {
            _ if !self.resumed => None,
            None => Some(Ino::ROOT),
            Some(None) => None,
            Some(Some(dir)) => {
                let child = self.core.fs.locked().tree().lookup(*dir, name)?;
                child.filter(|child| child.kind == FileKind::Directory).map(|child| child.ino)
            }
        };
        self.there.push(there);
        self.push(Item { name: name.to_vec(), path: path.to_vec(), meta: meta.clone(), what })
    }

    /// The directory that began last ends. `what` is given the names in it, where somebody must know them: only what was there before can
    /// hold names that must go.
    pub(super) fn end(&mut self, path: &[u8], meta: &Meta, what: impl FnOnce(bool) -> What) -> Result<()> {
        let there = self.there.pop().flatten();
        self.push(Item { name: Vec::new(), path: path.to_vec(), meta: meta.clone(), what: what(there.is_some()) })
    }

    /// Anything else; `take` is how to take it.
    pub(super) fn add(&mut self, name: &[u8], path: &[u8], meta: &Meta, take: What) -> Result<()> {
        let item = |what| Item { name: name.to_vec(), path: path.to_vec(), meta: meta.clone(), what };
        if meta.nlink > 1 && !self.seen.insert(meta.id) {
            return self.push(item(What::Link));
        }
        if self.resumed && self.is_there(name, meta)? {
            return self.push(item(What::Keep));
        }
        if meta.kind == FileKind::File && meta.size >= BLOB_THRESHOLD as u64 {
            if meta.size > crate::tree::SIZE_MAX {
                self.problems.add(Trouble::Missing, path, "it is longer than a file can be here");
                return Ok(());
            }
            return self.large(item(take));
        }
        self.push(item(take))
    }
}

impl Visitor for Feed<'_, '_> {
    fn enter(&mut self, at: Place<'_>, meta: &Meta, fd: &Arc<OwnedFd>) -> Result<()> {
        self.begin(at.name, at.path, meta, What::Enter(Arc::clone(fd)))
    }

    fn leave(&mut self, path: &[u8], meta: &Meta, fd: &Arc<OwnedFd>, names: Option<&[Vec<u8>]>) -> Result<()> {
        self.end(path, meta, |there| What::Leave(Arc::clone(fd), names.filter(|_| there).map(<[_]>::to_vec)))
    }

    fn entry(&mut self, at: Place<'_>, meta: &Meta) -> Result<()> {
        self.add(at.name, at.path, meta, What::Take(Arc::clone(at.dir)))
    }
}

//! Logging what was read, in the order of the walk.

use std::collections::{HashMap, HashSet};
use std::sync::mpsc::{Receiver, SyncSender};
use std::time::{Duration, Instant};

use super::read::{Job, Part, Taken, TakenBody};
use super::{Counters, Engine};
use crate::engine::core::Core;
use crate::engine::outside::{Meta, Problems, Trouble};
use crate::error::{Class, Error, Result};
use crate::fs::{FsError, journal::Caller};
use crate::ids::{Ino, Time};
use crate::op::{
    BLOB_THRESHOLD, Chmod, Chown, Create, Data, Link, Mkdir, Mknod, Operation, RemoveXattr, Rmdir, Symlink, Truncate, Unlink, Utimens,
    Write,
};
use crate::tree::LINK_MAX;
use crate::versions::node::{FileKind, Xattrs};

/// Operations after which it looks how far replay is.
const LOOK_EVERY: u64 = if cfg!(test) { 64 } else { 4096 };
/// Records that replay cannot see yet, because they are not durable, at most: it has work all the time.
const UNSYNCED_MAX: u64 = 16_384;
/// Records that replay may be behind: what no version holds yet stays in memory.
const BEHIND_MAX: u64 = if cfg!(test) { 3000 } else { 100_000 };
/// How long replay may make no progress while it is waited for.
const PATIENCE: Duration = Duration::from_secs(120);

/// A directory whose end has not come.
struct Open {
    ino: Ino,
    meta: Meta,
    xattrs: Xattrs,
}

/// Logs.
pub(super) struct Logging<'a, 'b> {
    engine: &'a Engine,
    core: &'a Core,
    caller: Caller,
    counters: &'b Counters,
    problems: &'b Problems,
    resumed: bool,
    /// Asks for what is logged to be made durable.
    syncs: SyncSender<()>,
    /// From the root to here.
    dirs: Vec<Open>,
    /// Inodes with several names, by device and inode of the source.
    links: HashMap<(u64, u64), Ino>,
    operations: u64,
}

impl<'a, 'b> Logging<'a, 'b> {
    pub(super) fn new(
        engine: &'a Engine,
        caller: Caller,
        counters: &'b Counters,
        problems: &'b Problems,
        resumed: bool,
        syncs: SyncSender<()>,
    ) -> Self {
        let core = engine.core();
        Self { engine, core, caller, counters, problems, resumed, syncs, dirs: Vec::new(), links: HashMap::new(), operations: 0 }
    }

    /// Logs everything that comes.
    pub(super) fn run(mut self, jobs: Receiver<Job<'_>>) -> Result<()> {
        for job in jobs {
            match job {
                Job::Batch(batch) => {
                    let mut batch = batch.recv().map_err(|_| died())?;
                    // Dropped, with its hold, when all of it is logged.
                    batch.items.drain(..).try_for_each(|taken| self.take(taken))?;
                }
                Job::Large(name, path, parts) => self.large(&name, &path, &parts)?,
            }
        }
        Ok(())
    }

    /// One operation, under the tree's lock for no longer than that.
    fn log(&mut self, op: impl Into<Operation>, payload: Option<&[u8]>) -> Result<()> {
        self.core.fs.locked().log(&self.caller, op.into(), payload, None)?;
        self.logged()
    }

    /// One more was logged.
    fn logged(&mut self) -> Result<()> {
        self.operations += 1;
        if self.operations.is_multiple_of(LOOK_EVERY) { self.give_way() } else { Ok(()) }
    }

    /// Waits for replay where it is far behind; not while a sweep waits for what is read and not logged: whoever sweeps keeps replay waiting.
    fn give_way(&self) -> Result<()> {
        let log = &self.core.log;
        if log.appended().0.saturating_sub(log.durable().0) > UNSYNCED_MAX {
            // Full: it is asked for already.
            let _ = self.syncs.try_send(());
        }
        let mut seen = self.core.history().checkpoint.lsn;
        let mut since = Instant::now();
        while log.appended().0.saturating_sub(seen.0) > BEHIND_MAX && !self.core.blobs.sweep_waits() {
            // Replay follows what is durable.
            self.core.sync()?;
            std::thread::sleep(Duration::from_millis(20));
            let now = self.core.history().checkpoint.lsn;
            if now != seen {
                (seen, since) = (now, Instant::now());
            } else if since.elapsed() > PATIENCE {
                let why = self.engine.replay_trouble().unwrap_or_else(|| "it makes no progress".to_owned());
                return Err(Error::new(Class::Failed, format!("what was taken is safe, but it does not become versions: {why}"))
                    .hint("the same command goes on from here"));
            }
        }
        Ok(())
    }

    fn next_ino(&self) -> Ino {
        self.core.fs.locked().tree().next_ino()
    }

    fn here(&self) -> Ino {
        self.dirs.last().map_or(Ino::ROOT, |dir| dir.ino)
    }

    fn take(&mut self, taken: Taken) -> Result<()> {
        let Taken { name, path, meta, xattrs, body } = taken;
        let mut bytes_taken = 0;
        match body {
            TakenBody::Enter => {
                let ino = self.directory(&name, &meta)?;
                self.dirs.push(Open { ino, meta, xattrs });
                return Ok(());
            }
            TakenBody::Leave(names) => {
                let Some(dir) = self.dirs.pop() else { return Ok(()) };
                if let Some(names) = names {
                    self.only(dir.ino, names)?;
                }
                self.settle(dir.ino, &dir.meta, &dir.xattrs, &path)?;
            }
            TakenBody::Keep => match self.lookup(&name)? {
                Some(ino) => {
                    self.counters.kept.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    bytes_taken = super::content_of(&meta);
                    self.remember(&meta, ino);
                }
                None => self.problems.add(Trouble::Missing, &path, "it went from the project while it was imported"),
            },
            TakenBody::Link => self.link(&name, &path, &meta)?,
            TakenBody::File(bytes, ranges) => {
                let ino = self.birth(&name, &meta, None)?;
                for (start, end) in &ranges {
                    // A file that has grown may be longer than what one record should hold.
                    for (i, piece) in bytes.get(*start..*end).unwrap_or_default().chunks(BLOB_THRESHOLD - 1).enumerate() {
                        let at = (start + i * (BLOB_THRESHOLD - 1)) as u64;
                        self.write(ino, at, piece)?;
                        bytes_taken += piece.len() as u64;
                    }
                }
                self.length(ino, bytes.len() as u64)?;
                self.settle(ino, &meta, &xattrs, &path)?;
                self.remember(&meta, ino);
            }
            TakenBody::Stored(id, len) => {
                let ino = self.birth(&name, &meta, None)?;
                self.core.fs.write_stored(&self.caller, ino, 0, id, len)?;
                self.logged()?;
                bytes_taken = u64::from(len);
                self.settle(ino, &meta, &xattrs, &path)?;
                self.remember(&meta, ino);
            }
            TakenBody::Symlink(target) => {
                let ino = self.birth(&name, &meta, Some(target))?;
                self.settle(ino, &meta, &xattrs, &path)?;
                self.remember(&meta, ino);
            }
            TakenBody::Special => {
                let ino = self.birth(&name, &meta, None)?;
                self.settle(ino, &meta, &xattrs, &path)?;
                self.remember(&meta, ino);
            }
        }
        self.counters.count(1, bytes_taken);
        Ok(())
    }

    fn remember(&mut self, meta: &Meta, ino: Ino) {
        if meta.nlink > 1 {
            self.links.insert(meta.id, ino);
        }
    }

    fn lookup(&self, name: &[u8]) -> Result<Option<Ino>> {
        Ok(self.core.fs.locked().tree().lookup(self.here(), name)?.map(|child| child.ino))
    }

    /// A large file, part by part.
    fn large(&mut self, name: &[u8], path: &[u8], parts: &Receiver<Part<'_>>) -> Result<()> {
        let mut file: Option<(Ino, Meta, Xattrs)> = None;
        let (mut complete, mut bytes) = (false, 0);
        for part in parts {
            match (part, &mut file) {
                (Part::Begin(meta, xattrs), None) => {
                    let ino = self.birth(name, &meta, None)?;
                    file = Some((ino, meta, xattrs));
                }
                (Part::Begin(meta, xattrs), Some((ino, was, had))) => {
                    // It has changed: from the beginning.
                    (*was, *had, complete) = (meta, xattrs, false);
                    self.counters.bytes.fetch_sub(std::mem::take(&mut bytes), std::sync::atomic::Ordering::Relaxed);
                    let ino = *ino;
                    self.length(ino, 0)?;
                }
                (Part::Inline(at, piece), Some((ino, ..))) => {
                    let ino = *ino;
                    self.write(ino, at, &piece)?;
                    bytes += piece.len() as u64;
                    self.counters.count(0, piece.len() as u64);
                }
                (Part::Window(stored), Some((ino, ..))) => {
                    // Dropped, with its hold, when all of it is logged.
                    let stored = stored.recv().map_err(|_| died())?.map_err(not_stored)?;
                    for (at, id, len) in &stored.chunks {
                        self.core.fs.write_stored(&self.caller, *ino, *at, *id, *len)?;
                        bytes += u64::from(*len);
                        self.counters.count(0, u64::from(*len));
                    }
                    self.operations += 1;
                    if self.operations.is_multiple_of(LOOK_EVERY / 16) {
                        self.give_way()?;
                    }
                }
                (Part::End(len), Some((ino, ..))) => {
                    let ino = *ino;
                    self.length(ino, len)?;
                    complete = true;
                }
                (Part::Failed(trouble, why), there) => {
                    // Half a file is worse than none.
                    self.problems.add(trouble, path, why);
                    if there.is_some() {
                        self.remove(self.here(), name)?;
                    }
                    self.counters.count(1, 0);
                    return Ok(());
                }
                (_, None) => return Err(died()),
            }
        }
        match file {
            Some((ino, meta, xattrs)) if complete => {
                self.settle(ino, &meta, &xattrs, path)?;
                self.remember(&meta, ino);
                self.counters.count(1, 0);
                Ok(())
            }
            _ => Err(died()),
        }
    }

    /// The directory of that name, which may be there.
    fn directory(&mut self, name: &[u8], meta: &Meta) -> Result<Ino> {
        if name.is_empty() {
            return Ok(Ino::ROOT);
        }
        let dir = self.here();
        let there = self.core.fs.locked().tree().lookup(dir, name)?;
        match there {
            Some(child) if child.kind == FileKind::Directory => return Ok(child.ino),
            Some(_) => self.remove(dir, name)?,
            None => {}
        }
        let ino = self.next_ino();
        self.log(Mkdir { dir, name: name.to_vec(), ino, mode: meta.mode, uid: meta.uid, gid: meta.gid }, None)?;
        Ok(ino)
    }

    /// Something new of that name, in the place of whatever was there.
    fn birth(&mut self, name: &[u8], meta: &Meta, target: Option<Vec<u8>>) -> Result<Ino> {
        let dir = self.here();
        if self.resumed && self.lookup(name)?.is_some() {
            self.remove(dir, name)?;
        }
        let ino = self.next_ino();
        let (name, &Meta { mode, uid, gid, .. }) = (name.to_vec(), meta);
        match (meta.kind, target) {
            (FileKind::Symlink, target) => self.log(Symlink { dir, name, ino, target: target.unwrap_or_default(), uid, gid }, None)?,
            (FileKind::File, _) => self.log(Create { dir, name, ino, mode, uid, gid }, None)?,
            (what, _) => self.log(Mknod { dir, name, ino, what, mode, uid, gid, rdev: meta.rdev }, None)?,
        }
        Ok(ino)
    }

    fn write(&mut self, ino: Ino, offset: u64, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let size = self.core.fs.locked().tree().inode(ino)?.size;
        let data = Data::Inline(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        let size_after = size.max(offset + bytes.len() as u64);
        self.log(Write { ino, offset, data, size_after, mode_after: None }, Some(bytes))
    }

    fn length(&mut self, ino: Ino, size: u64) -> Result<()> {
        let old_size = self.core.fs.locked().tree().inode(ino)?.size;
        if old_size == size { Ok(()) } else { self.log(Truncate { ino, old_size, size, mode_after: None }, None) }
    }

    fn link(&mut self, name: &[u8], path: &[u8], meta: &Meta) -> Result<()> {
        let Some(&ino) = self.links.get(&meta.id) else {
            self.problems.add(Trouble::Missing, path, "it is another name of something that could not be read");
            return Ok(());
        };
        let there = self.lookup(name)?;
        if there == Some(ino) {
            return Ok(());
        }
        let dir = self.here();
        if there.is_some() {
            self.remove(dir, name)?;
        }
        if self.core.fs.locked().tree().inode(ino)?.nlink >= LINK_MAX {
            self.problems.add(Trouble::Missing, path, format!("a file has at most {LINK_MAX} names here"));
            return Ok(());
        }
        self.log(Link { ino, dir, name: name.to_vec() }, None)
    }

    /// Attributes that are not yet those of the source; the times last.
    fn settle(&mut self, ino: Ino, meta: &Meta, xattrs: &Xattrs, path: &[u8]) -> Result<()> {
        let (is, has) = {
            let mut writer = self.core.fs.locked();
            let inode = writer.tree().inode(ino)?;
            (inode.attrs.clone(), inode.xattrs.clone())
        };
        if (is.uid, is.gid) != (meta.uid, meta.gid) {
            self.log(Chown { ino, old: (is.uid, is.gid), new: (meta.uid, meta.gid), mode_after: None }, None)?;
        }
        // A symbolic link has no bits of its own.
        if meta.kind != FileKind::Symlink && is.mode != meta.mode {
            self.log(Chmod { ino, old: is.mode, new: meta.mode }, None)?;
        }
        for (name, value) in xattrs.iter().filter(|(name, value)| has.get(*name) != Some(*value)) {
            match self.core.fs.setxattr(&self.caller, ino, name, value, 0) {
                Ok(()) => self.operations += 1,
                // An inode's attributes together have a limit of their own; else it is the disk that is full.
                Err(e @ FsError::NoSpace(_)) if !exceeds(xattrs) => return Err(e.into()),
                Err(e @ (FsError::Broken(_) | FsError::Io(_))) => return Err(e.into()),
                Err(e) => {
                    let why = format!("its attribute {} cannot be kept: {e}", name.escape_ascii());
                    self.problems.add(Trouble::Attribute, path, why);
                }
            }
        }
        for name in has.keys().filter(|name| !xattrs.contains_key(*name)) {
            self.log(RemoveXattr { ino, name: name.clone() }, None)?;
        }
        // Each operation since has moved them.
        let attrs = self.core.fs.locked().tree().inode(ino)?.attrs.clone();
        let old: (Time, Time) = (attrs.atime, attrs.mtime);
        if old != (meta.atime, meta.mtime) {
            self.log(Utimens { ino, old, atime: Some(meta.atime), mtime: Some(meta.mtime) }, None)?;
        }
        Ok(())
    }

    /// Takes away what a directory holds beyond these names.
    fn only(&mut self, dir: Ino, names: Vec<Vec<u8>>) -> Result<()> {
        let names: HashSet<Vec<u8>> = names.into_iter().collect();
        let all = self.core.fs.locked().tree().children(dir)?;
        for (name, ..) in all.into_iter().filter(|(name, ..)| !names.contains(name)) {
            self.remove(dir, &name)?;
        }
        Ok(())
    }

    /// Takes a name away, with all that is in it.
    fn remove(&mut self, dir: Ino, name: &[u8]) -> Result<()> {
        // Their depth is the user's choice: no recursion.
        let mut stack = vec![(dir, name.to_vec(), false)];
        while let Some((dir, name, emptied)) = stack.pop() {
            let Some(child) = self.core.fs.locked().tree().lookup(dir, &name)? else { continue };
            if child.kind != FileKind::Directory {
                self.log(Unlink { dir, name, ino: child.ino }, None)?;
            } else if emptied {
                self.log(Rmdir { dir, name, ino: child.ino }, None)?;
            } else {
                stack.push((dir, name, true));
                let below = self.core.fs.locked().tree().children(child.ino)?;
                stack.extend(below.into_iter().map(|(name, ..)| (child.ino, name, false)));
            }
        }
        Ok(())
    }
}

/// More than one inode can have.
fn exceeds(xattrs: &Xattrs) -> bool {
    xattrs.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() > crate::fs::XATTRS_MAX
}

fn died() -> Error {
    Error::new(Class::Failed, "a thread that read the source has died").hint("the same command goes on from here")
}

fn not_stored(e: crate::blobs::BlobError) -> Error {
    let class = if e.is_full() { Class::Full } else { Class::Io };
    Error::new(class, e.to_string()).hint("what was taken so far is kept: the same command goes on from here").source(e)
}

//! Export: a state is written into an empty directory, byte for byte, with all attributes that the caller may set.
//!
//! Everything is made relative to an open directory, new, and nothing is followed: no name in the state leads out of the target. First all
//! directories (open to their owner alone) and files are made; then, when nobody makes anything any more, further names of files, and the
//! attributes of directories, those of the innermost first.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use super::import::{Counters, check_apart};
use super::outside::{self, Handle, Meta, Problems, Trouble};
use super::states::Store;
use crate::error::{Class, Error, IoContext, Result};
use crate::ids::Ino;
use crate::tree::{Body, ReadPlan, Source, Tree, TreeError};
use crate::versions::node::{Attributes, FileKind, Xattrs};

/// Directories that are kept open above the one that is being written; those further up are found again through `..`.
const OPEN_ABOVE: usize = 32;
/// Files that wait to be written.
const WAITING: usize = 64;
/// Bytes that are written at a time.
const WINDOW: usize = 1 << 20;
/// Runs of zeros of so many bytes, where a block begins, can be holes.
const BLOCK: usize = 4096;
/// Threads that write at most.
const THREADS_MAX: usize = 8;
/// Names of a directory that is not empty, as far as they are shown.
const SHOWN: usize = 5;

/// The directory that is written into: empty, ours.
#[derive(Debug)]
pub struct Target {
    path: PathBuf,
    root: Arc<OwnedFd>,
}

impl Target {
    /// Makes the directory if it is missing.
    ///
    /// # Errors
    /// `Refused` when it is no directory, is not empty, or lies in the store; I/O errors.
    pub fn prepare(path: &Path, central: &Path) -> Result<Self> {
        let doing = || format!("cannot create {}", path.display());
        let absolute = std::path::absolute(path).doing(doing)?;
        let parent = absolute.parent().unwrap_or(&absolute);
        match std::fs::canonicalize(&absolute) {
            Ok(there) => check_apart(&there, central)?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let above = std::fs::canonicalize(parent).doing(doing)?;
                // It may lie beside the store, in what holds both.
                if central.exists() && std::fs::canonicalize(central).is_ok_and(|central| above.starts_with(central)) {
                    check_apart(&above, central)?;
                }
                std::fs::create_dir(&absolute).doing(doing)?;
                let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
                std::fs::set_permissions(&absolute, mode).doing(doing)?;
            }
            Err(e) => return Err(Error::io(doing(), e)),
        }
        let open = outside::open_dir(&absolute);
        if matches!(open, Err(Errno::NOTDIR)) {
            return Err(Error::new(Class::Refused, format!("{} is not a directory", path.display())).hint("name a new or empty directory"));
        }
        let root = open.map_err(std::io::Error::from).doing(|| format!("cannot open {}", path.display()))?;
        let listing = || format!("cannot list {}", path.display());
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&absolute).doing(listing)? {
            names.push(entry.doing(listing)?.file_name().to_string_lossy().into_owned());
        }
        if !names.is_empty() {
            names.sort_unstable();
            let more = names.len().saturating_sub(SHOWN);
            names.truncate(SHOWN);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            return Err(Error::new(Class::Refused, format!("{} is not empty: {}{more}", path.display(), names.join(", ")))
                .hint("name a new or empty directory"));
        }
        Ok(Self { path: path.to_owned(), root: Arc::new(root) })
    }
}

/// A file or special file that is to be made.
struct Job {
    dir: Arc<OwnedFd>,
    name: Vec<u8>,
    path: Vec<u8>,
    node: Node,
    body: JobBody,
}

enum JobBody {
    File(u64, ReadPlan),
    Symlink(Vec<u8>),
    Special,
}

/// Attributes that are to be set.
struct Node {
    kind: FileKind,
    attrs: Attributes,
    xattrs: Xattrs,
}

/// An export.
pub struct Export<'a> {
    store: &'a Store,
    tree: Tree,
    target: &'a Target,
    counters: &'a Counters,
    problems: &'a Problems,
    /// The first name of each inode that has several.
    first: HashMap<Ino, Vec<u8>>,
}

/// What a pass through the tree does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pass {
    Make,
    Finish,
}

struct Frame {
    ino: Ino,
    fd: Option<Arc<OwnedFd>>,
    id: (u64, u64),
    children: Vec<(Vec<u8>, Ino, FileKind)>,
    next: usize,
    path_len: usize,
}

impl<'a> Export<'a> {
    /// Of one state.
    #[must_use]
    pub fn new(store: &'a Store, tree: Tree, target: &'a Target, counters: &'a Counters, problems: &'a Problems) -> Self {
        Self { store, tree, target, counters, problems, first: HashMap::new() }
    }

    /// Counts what there is into `totals`.
    ///
    /// # Errors
    /// Damage or I/O errors.
    pub fn analyse(&mut self, totals: &Counters) -> Result<()> {
        let (mut stack, mut seen) = (vec![Ino::ROOT], std::collections::HashSet::new());
        while let Some(dir) = stack.pop() {
            totals.count(1, 0);
            for (_, ino, kind) in self.tree.children(dir)? {
                if kind == FileKind::Directory {
                    stack.push(ino);
                    continue;
                }
                let stat = self.tree.stat(ino)?;
                let again = stat.nlink > 1 && !seen.insert(ino);
                totals.count(1, if again { 0 } else { stat.size.min(stat.blocks * 512) });
            }
        }
        Ok(())
    }

    /// Writes everything and makes it durable.
    ///
    /// # Errors
    /// `Damage` when something cannot be read from the store (the rest is written, and it is named), I/O errors of the target. What cannot be
    /// made or set for lack of permission is no error: it is among the problems.
    pub fn run(mut self) -> Result<()> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
        let (jobs, waiting) = sync_channel(WAITING);
        let waiting = Mutex::new(waiting);
        let writer = Writer {
            store: self.store,
            counters: self.counters,
            problems: self.problems,
            fatal: Mutex::new(None),
            stopped: AtomicBool::new(false),
            damaged: AtomicBool::new(false),
            path: &self.target.path,
        };
        std::thread::scope(|scope| {
            for _ in 0..threads {
                std::thread::Builder::new()
                    .name("ize-export".to_owned())
                    .spawn_scoped(scope, || writer.work(&waiting))
                    .map_err(|e| Error::io("cannot start thread ize-export", e))?;
            }
            let made = self.pass(Pass::Make, &writer, Some(&jobs));
            drop(jobs);
            made
        })?;
        writer.check()?;
        self.pass(Pass::Finish, &writer, None)?;
        rustix::fs::syncfs(&*self.target.root)
            .map_err(std::io::Error::from)
            .doing(|| format!("cannot sync {}", self.target.path.display()))?;
        if writer.damaged.load(Ordering::Relaxed) {
            return Err(Error::new(Class::Damage, "some files cannot be read from the store; the rest is written")
                .hint("`ize wal verify` says what is damaged; an earlier state may have them: --at"));
        }
        Ok(())
    }

    fn pass(&mut self, pass: Pass, writer: &Writer<'_>, jobs: Option<&SyncSender<Job>>) -> Result<()> {
        let mut path = Vec::new();
        let mut stack = vec![self.frame(Ino::ROOT, Arc::clone(&self.target.root), 0)?];
        while let Some(frame) = stack.last_mut() {
            writer.check()?;
            let Some(fd) = frame.fd.clone() else {
                return Err(Error::new(Class::Failed, format!("somebody moves directories in {}", self.target.path.display())));
            };
            path.truncate(frame.path_len);
            let Some((name, ino, kind)) = frame.children.get(frame.next).cloned() else {
                let ino = frame.ino;
                stack.pop();
                if let Some(above) = stack.last_mut()
                    && above.fd.is_none()
                    && let Ok(found) = outside::open_quietly(&fd, b"..", OFlags::DIRECTORY)
                    && Meta::of_open(&found).is_ok_and(|meta| meta.id == above.id)
                {
                    above.fd = Some(Arc::new(found));
                }
                if pass == Pass::Finish {
                    let node = self.node(ino)?;
                    writer.attributes(&Made::Open(&fd), &node, &path);
                    self.counters.count(1, 0);
                }
                continue;
            };
            frame.next += 1;
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(&name);
            // ize makes no such names; somebody else may have written the store.
            if matches!(name.as_slice(), b"" | b"." | b"..") || name.contains(&b'/') || name.contains(&0) {
                if pass == Pass::Make {
                    self.problems.add(Trouble::Missing, &path, "such a name cannot be");
                }
                continue;
            }
            if kind == FileKind::Directory {
                if let Some(child) = writer.directory(&fd, &name, &path, pass)? {
                    let frame = self.frame(ino, Arc::new(child), path.len())?;
                    stack.push(frame);
                    if let Some(above) = stack.len().checked_sub(OPEN_ABOVE + 1)
                        && above > 0
                    {
                        stack[above].fd = None;
                    }
                }
                continue;
            }
            if self.tree.inode(ino)?.nlink > 1 {
                match self.first.get(&ino) {
                    None => _ = self.first.insert(ino, path.clone()),
                    Some(first) if pass == Pass::Finish && *first != path => {
                        let made = rustix::fs::linkat(&*self.target.root, first.as_slice(), &fd, name.as_slice(), AtFlags::empty());
                        if let Err(e) = made {
                            let why = format!("cannot make it a name of {}: {}", first.escape_ascii(), said(e));
                            self.problems.add(Trouble::Missing, &path, why);
                        }
                        self.counters.count(1, 0);
                        continue;
                    }
                    Some(_) => continue,
                }
            }
            if let Some(jobs) = jobs {
                let node = self.node(ino)?;
                let body = match &self.tree.inode(ino)?.body {
                    Body::Symlink(target) => JobBody::Symlink(target.to_vec()),
                    Body::Dir(_) | Body::Special => JobBody::Special,
                    Body::File(_) => {
                        let size = self.tree.inode(ino)?.size;
                        JobBody::File(size, self.tree.read_plan(ino, 0, size)?)
                    }
                };
                let job = Job { dir: fd, name, path: path.clone(), node, body };
                if jobs.send(job).is_err() {
                    return writer.check();
                }
            }
        }
        Ok(())
    }

    fn frame(&mut self, ino: Ino, fd: Arc<OwnedFd>, path_len: usize) -> Result<Frame> {
        let mut children = self.tree.children(ino)?;
        children.sort_unstable();
        let id = Meta::of_open(&fd).map_err(std::io::Error::from).doing(|| "cannot look at a directory that was just made".to_owned())?.id;
        Ok(Frame { ino, fd: Some(fd), id, children, next: 0, path_len })
    }

    fn node(&mut self, ino: Ino) -> Result<Node> {
        let inode = self.tree.inode(ino)?;
        Ok(Node { kind: inode.kind, attrs: inode.attrs.clone(), xattrs: inode.xattrs.clone() })
    }
}

fn said(e: Errno) -> std::io::Error {
    e.into()
}

/// What was made, for setting its attributes.
enum Made<'a> {
    Open(&'a OwnedFd),
    Name(&'a OwnedFd, &'a [u8]),
}

/// Makes files.
struct Writer<'a> {
    store: &'a Store,
    counters: &'a Counters,
    problems: &'a Problems,
    fatal: Mutex<Option<Error>>,
    stopped: AtomicBool,
    damaged: AtomicBool,
    path: &'a Path,
}

/// Why a file is not there.
enum Failure {
    Read(TreeError),
    Write(Errno),
}

impl From<Errno> for Failure {
    fn from(e: Errno) -> Self {
        Failure::Write(e)
    }
}

impl Writer<'_> {
    /// What stops everything.
    fn check(&self) -> Result<()> {
        self.fatal.lock().unwrap_or_else(PoisonError::into_inner).take().map_or(Ok(()), Err)
    }

    fn work(&self, waiting: &Mutex<Receiver<Job>>) {
        let mut buffer = Vec::new();
        loop {
            // Bound first: in a `while let` the lock would live on into the body.
            let job = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(job) = job else { return };
            // After a failure the rest is taken, so that nobody waits with it, and let fall.
            if !self.stopped.load(Ordering::Relaxed)
                && let Err(e) = self.make(&job, &mut buffer)
            {
                self.stopped.store(true, Ordering::Relaxed);
                *self.fatal.lock().unwrap_or_else(PoisonError::into_inner) = Some(e);
            }
        }
    }

    /// A failure that would be everybody's stops the export; else it is this file's.
    fn failed(&self, e: Errno, path: &[u8], what: &str) -> Result<()> {
        if matches!(e, Errno::NOSPC | Errno::DQUOT | Errno::IO | Errno::ROFS | Errno::NFILE | Errno::MFILE) {
            let shown = path.escape_ascii();
            return Err(
                Error::io(format!("{what} {}/{shown}", self.path.display()), e.into()).hint("what is there is not whole: remove it")
            );
        }
        self.problems.add(Trouble::Missing, path, format!("{what} it: {}", said(e)));
        Ok(())
    }

    fn directory(&self, dir: &OwnedFd, name: &[u8], path: &[u8], pass: Pass) -> Result<Option<OwnedFd>> {
        let made = if pass == Pass::Make { rustix::fs::mkdirat(dir, name, Mode::RWXU) } else { Ok(()) };
        match made.and_then(|()| outside::open_quietly(dir, name, OFlags::DIRECTORY)) {
            Ok(fd) => Ok(Some(fd)),
            Err(_) if pass == Pass::Finish => Ok(None),
            Err(e) => self.failed(e, path, "cannot create").map(|()| None),
        }
    }

    fn make(&self, job: &Job, buffer: &mut Vec<u8>) -> Result<()> {
        let Job { dir, name, path, node, body } = job;
        let name = name.as_slice();
        match body {
            JobBody::File(size, plan) => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let fd = match rustix::fs::openat(dir, name, flags, Mode::RUSR | Mode::WUSR) {
                    Ok(fd) => fd,
                    Err(e) => return self.failed(e, path, "cannot create"),
                };
                let file = File::from(fd);
                match self.content(&file, *size, plan, buffer) {
                    Ok(()) => self.attributes(&Made::Open(&file.into()), node, path),
                    Err(Failure::Write(e)) => {
                        // Half a file is worse than none.
                        let _ = rustix::fs::unlinkat(dir, name, AtFlags::empty());
                        self.failed(e, path, "cannot write")?;
                    }
                    Err(Failure::Read(e)) => {
                        let _ = rustix::fs::unlinkat(dir, name, AtFlags::empty());
                        self.damaged.store(true, Ordering::Relaxed);
                        self.problems.add(Trouble::Missing, path, format!("cannot read it from the store: {e}"));
                    }
                }
            }
            JobBody::Symlink(target) => match rustix::fs::symlinkat(target.as_slice(), dir, name) {
                Ok(()) => self.attributes(&Made::Name(dir, name), node, path),
                Err(e) => self.failed(e, path, "cannot create")?,
            },
            JobBody::Special => {
                let kind = match node.kind {
                    FileKind::Fifo => FileType::Fifo,
                    FileKind::Socket => FileType::Socket,
                    FileKind::CharDevice => FileType::CharacterDevice,
                    FileKind::BlockDevice => FileType::BlockDevice,
                    FileKind::File | FileKind::Directory | FileKind::Symlink => FileType::Unknown,
                };
                match rustix::fs::mknodat(dir, name, kind, Mode::RUSR | Mode::WUSR, node.attrs.rdev.into()) {
                    Ok(()) => self.attributes(&Made::Name(dir, name), node, path),
                    Err(e) => self.failed(e, path, "cannot create")?,
                }
            }
        }
        self.counters.count(1, 0);
        Ok(())
    }

    fn content(&self, file: &File, size: u64, plan: &ReadPlan, buffer: &mut Vec<u8>) -> std::result::Result<(), Failure> {
        // A commit may have made zeros of the rim of a hole: where there were holes, blocks of zeros become holes again.
        let sparse = plan.parts().iter().any(|(_, source)| matches!(source, Source::Hole)) || plan.len() < size;
        let (mut at, mut end) = (0, 0);
        buffer.clear();
        for (len, source) in plan.parts() {
            if matches!(source, Source::Hole) {
                end = self.put(file, at, buffer, sparse)?.max(end);
                at += len + buffer.len() as u64;
                buffer.clear();
                continue;
            }
            let start = buffer.len();
            buffer.resize(start + usize::try_from(*len).map_err(|_| Errno::FBIG)?, 0);
            let out = buffer.get_mut(start..).unwrap_or_default();
            self.read(*len, source, out).map_err(Failure::Read)?;
            if buffer.len() >= WINDOW {
                end = self.put(file, at, buffer, sparse)?;
                at += buffer.len() as u64;
                buffer.clear();
            }
        }
        end = self.put(file, at, buffer, sparse)?.max(end);
        if end < size {
            file.set_len(size).map_err(errno)?;
        }
        Ok(())
    }

    fn read(&self, len: u64, source: &Source, out: &mut [u8]) -> std::result::Result<(), TreeError> {
        let plan = ReadPlan::of(len, source.clone());
        let blobs = &**self.store.blobs();
        match plan.read(blobs, out) {
            // Beside a live daemon a sweep may just have moved it.
            Err(TreeError::Blob { damaged: true, .. }) if blobs.refresh().is_ok() => plan.read(blobs, out),
            done => done,
        }
    }

    /// Writes what has gathered; gives where it ends, 0 for nothing.
    fn put(&self, file: &File, at: u64, bytes: &[u8], sparse: bool) -> std::result::Result<u64, Failure> {
        if bytes.is_empty() {
            return Ok(0);
        }
        if sparse {
            // Blocks where the file has them, not the buffer.
            let first = BLOCK - (at as usize % BLOCK);
            let (head, rest) = bytes.split_at(first.min(bytes.len()));
            let mut here = at;
            for block in std::iter::once(head).chain(rest.chunks(BLOCK)) {
                if block.iter().any(|b| *b != 0) {
                    file.write_all_at(block, here).map_err(errno)?;
                }
                here += block.len() as u64;
            }
            self.counters.count(0, bytes.len() as u64);
            // The length is set at the end in any case.
            return Ok(0);
        }
        file.write_all_at(bytes, at).map_err(errno)?;
        self.counters.count(0, bytes.len() as u64);
        Ok(at + bytes.len() as u64)
    }

    /// Sets everything, in an order in which nothing undoes what was set before: a change of owner takes privileges away, a change of
    /// attributes moves times, and what one may not write to takes no attributes.
    fn attributes(&self, made: &Made<'_>, node: &Node, path: &[u8]) {
        let lacks = |what: String, e: Errno| self.problems.add(Trouble::Attribute, path, format!("cannot set {what}: {}", said(e)));
        let handle = match made {
            Made::Open(fd) => Handle::Open(fd),
            Made::Name(dir, name) => Handle::Path(outside::path_at(dir, name)),
        };
        let set = |security: bool| {
            for (name, value) in node.xattrs.iter().filter(|(name, _)| name.starts_with(b"security.") == security) {
                if let Err(e) = handle.set(name, value) {
                    lacks(format!("its attribute {}", name.escape_ascii()), e);
                }
            }
        };
        set(false);
        let attrs = &node.attrs;
        let owner = |uid: Option<u32>, gid: Option<u32>| {
            let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
            match made {
                Made::Open(fd) => rustix::fs::fchown(fd, uid, gid),
                Made::Name(dir, name) => rustix::fs::chownat(dir, *name, uid, gid, AtFlags::SYMLINK_NOFOLLOW),
            }
        };
        let mut mode = attrs.mode;
        if let Err(e) = owner(Some(attrs.uid), Some(attrs.gid)) {
            lacks(format!("its owner {}:{}", attrs.uid, attrs.gid), e);
            // The group may be one of the caller's. Privileges were not meant for whom it belongs to now.
            let _ = owner(None, Some(attrs.gid));
            mode &= !(libc::S_ISUID | libc::S_ISGID);
        }
        let moded = match made {
            Made::Open(fd) => rustix::fs::fchmod(fd, Mode::from_raw_mode(mode)),
            Made::Name(..) if node.kind == FileKind::Symlink => Ok(()),
            Made::Name(dir, name) => rustix::fs::chmodat(dir, *name, Mode::from_raw_mode(mode), AtFlags::empty()),
        };
        if let Err(e) = moded {
            lacks(format!("its mode {mode:04o}"), e);
        }
        set(true);
        let times = outside::timestamps(attrs.atime, attrs.mtime);
        let timed = match made {
            Made::Open(fd) => rustix::fs::futimens(fd, &times),
            Made::Name(dir, name) => rustix::fs::utimensat(dir, *name, &times, AtFlags::SYMLINK_NOFOLLOW),
        };
        if let Err(e) = timed {
            lacks("its times".to_owned(), e);
        }
    }
}

fn errno(e: std::io::Error) -> Errno {
    e.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error)
}

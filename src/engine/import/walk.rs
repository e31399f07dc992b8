//! The walk through the source: parents before children, a directory's end behind all that is in it, nothing followed, other file
//! systems left out, however deep it goes.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Dir, OFlags};
use rustix::io::Errno;

use crate::engine::outside::{self, Meta, Problems, Trouble};
use crate::error::{Class, Error, IoContext, Result};
use crate::project::mounts::{Mounts, relation};
use crate::versions::node::FileKind;

/// Directories that are kept open above the one that is being listed; those further up are found again through `..`.
const OPEN_ABOVE: usize = 32;

/// Names that are looked at before their turn, at most.
const AHEAD: usize = 1024;
/// With fewer on each, a second CPU is not worth waking.
const SPLIT_FROM: usize = 16;

/// A directory to take files from.
#[derive(Debug)]
pub struct Source {
    /// Absolute, without symbolic links.
    pub path: PathBuf,
    root: Arc<OwnedFd>,
    meta: Meta,
    /// The store's own directories, which must not be met, by device and inode.
    store: Vec<((u64, u64), PathBuf)>,
}

/// Where a name is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    /// Its directory; the root is in itself.
    pub(super) dir: &'a Arc<OwnedFd>,
    /// Its name; empty for the root.
    pub(super) name: &'a [u8],
    /// Its path from the root.
    pub(super) path: &'a [u8],
}

/// Is shown what there is, in order.
pub(super) trait Visitor {
    /// A directory, before what is in it; `fd` is itself.
    fn enter(&mut self, at: Place<'_>, meta: &Meta, fd: &Arc<OwnedFd>) -> Result<()>;
    /// The end of the directory that was entered last; `names` are those in it, `None` when that is not known.
    fn leave(&mut self, path: &[u8], meta: &Meta, fd: &Arc<OwnedFd>, names: Option<&[Vec<u8>]>) -> Result<()>;
    /// Anything else.
    fn entry(&mut self, at: Place<'_>, meta: &Meta) -> Result<()>;
}

impl Source {
    /// Opens a directory to import from into the store at `central` (which need not exist yet).
    ///
    /// # Errors
    /// `NotFound` when there is no such directory; `Refused`, with both paths, when it holds the store or lies in it; I/O errors.
    pub fn open(path: &Path, central: &Path) -> Result<Self> {
        let doing = || format!("cannot read {}", path.display());
        let path = std::fs::canonicalize(path).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => Error::new(Class::NotFound, format!("there is no directory {}", path.display())).source(e),
            _ => Error::io(doing(), e),
        })?;
        let root = match outside::open_dir(&path) {
            Err(Errno::NOTDIR) => {
                return Err(Error::new(Class::Refused, format!("{} is not a directory", path.display()))
                    .hint("name a directory; what is in it becomes what is in the project"));
            }
            other => other.map_err(std::io::Error::from).doing(doing)?,
        };
        let meta = Meta::of_open(&root).map_err(std::io::Error::from).doing(doing)?;
        check_apart(&path, central)?;
        let mut store = Vec::new();
        if let Ok(fd) = outside::open_dir(central)
            && let Ok(there) = Meta::of_open(&fd)
        {
            store.push((there.id, central.to_owned()));
        }
        Ok(Self { path, root: Arc::new(root), meta, store })
    }

    /// Walks through all of it.
    pub(super) fn walk(&self, problems: &Problems, visitor: &mut dyn Visitor) -> Result<()> {
        Walk { source: self, problems, path: Vec::new(), stack: Vec::new(), looks_ahead: false }.run(visitor)
    }

    /// The same for who opens nothing: some names are looked at before their turn, on two CPUs.
    pub(super) fn walk_ahead(&self, problems: &Problems, visitor: &mut dyn Visitor) -> Result<()> {
        Walk { source: self, problems, path: Vec::new(), stack: Vec::new(), looks_ahead: true }.run(visitor)
    }
}

/// Refuses `dir` when it is the store, lies in it, or holds it.
///
/// # Errors
/// `Refused`, with both paths; I/O errors.
pub fn check_apart(dir: &Path, central: &Path) -> Result<()> {
    let absolute = std::path::absolute(central).doing(|| format!("cannot find {}", central.display()))?;
    let Some(there) = absolute.ancestors().find(|p| p.exists()) else { return Ok(()) };
    let missing = there != absolute;
    let there = std::fs::canonicalize(there).doing(|| format!("cannot find {}", there.display()))?;
    let how = match relation(dir, &there, &Mounts::load()?)? {
        // The store will be made below it.
        Some("is") if missing => "holds",
        Some("lies in") if missing => return Ok(()),
        Some("lies above") => "holds",
        Some(how) => how,
        None => return Ok(()),
    };
    Err(Error::new(Class::Refused, format!("{} {how} the store {}", dir.display(), central.display()))
        .hint("name another directory, or keep the store somewhere else (--central-dir)"))
}

/// A directory that is being walked through.
struct Frame {
    /// `None` when it was closed for the sake of those below.
    fd: Option<Arc<OwnedFd>>,
    meta: Meta,
    names: Option<Vec<Vec<u8>>>,
    next: usize,
    /// What the next ones are, if they have been looked at.
    ahead: VecDeque<rustix::io::Result<Meta>>,
    path_len: usize,
}

struct Walk<'a> {
    source: &'a Source,
    problems: &'a Problems,
    path: Vec<u8>,
    stack: Vec<Frame>,
    looks_ahead: bool,
}

impl Walk<'_> {
    fn run(&mut self, visitor: &mut dyn Visitor) -> Result<()> {
        let root = Arc::clone(&self.source.root);
        self.enter(&root, b"", Arc::clone(&root), self.source.meta.clone(), visitor)?;
        while let Some(frame) = self.stack.last_mut() {
            let fd = match &frame.fd {
                Some(fd) => Arc::clone(fd),
                // Only when a directory moved away while we were in it.
                None => return Err(Error::new(Class::Failed, "a directory of the source is not found any more")),
            };
            self.path.truncate(frame.path_len);
            let names = frame.names.as_deref().unwrap_or_default().get(frame.next..).unwrap_or_default();
            let Some(name) = names.first().cloned() else {
                self.leave(&fd, visitor)?;
                continue;
            };
            if self.looks_ahead && frame.ahead.is_empty() {
                frame.ahead = metas(&fd, names.get(..names.len().min(AHEAD)).unwrap_or_default());
            }
            frame.next += 1;
            if !self.path.is_empty() {
                self.path.push(b'/');
            }
            self.path.extend_from_slice(&name);
            let meta = match frame.ahead.pop_front().unwrap_or_else(|| Meta::of_name(&fd, &name)) {
                Ok(meta) => meta,
                Err(e) => {
                    self.problems.add(trouble_of(e), &self.path, format!("cannot look at it: {}", std::io::Error::from(e)));
                    continue;
                }
            };
            if meta.kind != FileKind::Directory {
                visitor.entry(Place { dir: &fd, name: &name, path: &self.path }, &meta)?;
                continue;
            }
            match outside::open_quietly(&fd, &name, OFlags::DIRECTORY) {
                Ok(child) => self.enter(&fd, &name, Arc::new(child), meta, visitor)?,
                Err(e) => {
                    let why = format!("cannot open the directory: {}", std::io::Error::from(e));
                    self.problems.add(trouble_of(e), &self.path, why);
                }
            }
        }
        Ok(())
    }

    fn enter(&mut self, dir: &Arc<OwnedFd>, name: &[u8], fd: Arc<OwnedFd>, meta: Meta, visitor: &mut dyn Visitor) -> Result<()> {
        if let Some((_, store)) = self.source.store.iter().find(|(id, _)| *id == meta.id) {
            let here = String::from_utf8_lossy(&self.path).into_owned();
            return Err(Error::new(Class::Refused, format!("{}/{here} is the store {}", self.source.path.display(), store.display()))
                .hint("name another directory, or keep the store somewhere else (--central-dir)"));
        }
        visitor.enter(Place { dir, name, path: &self.path }, &meta, &fd)?;
        let names = if meta.id.0 != self.source.meta.id.0 {
            self.problems.add(Trouble::Skipped, &self.path, "another file system is mounted here; what is in it was left out");
            Some(Vec::new())
        } else {
            list(&fd).map_err(|e| self.problems.add(trouble_of(e), &self.path, format!("cannot list it: {}", std::io::Error::from(e)))).ok()
        };
        if let Some(above) = self.stack.len().checked_sub(OPEN_ABOVE)
            && above > 0
        {
            self.stack[above].fd = None;
        }
        self.stack.push(Frame { fd: Some(fd), meta, names, next: 0, ahead: VecDeque::new(), path_len: self.path.len() });
        Ok(())
    }

    fn leave(&mut self, fd: &Arc<OwnedFd>, visitor: &mut dyn Visitor) -> Result<()> {
        let Some(frame) = self.stack.pop() else { return Ok(()) };
        visitor.leave(&self.path, &frame.meta, fd, frame.names.as_deref())?;
        if let Some(above) = self.stack.last_mut()
            && above.fd.is_none()
            && let Ok(found) = outside::open_quietly(fd, b"..", OFlags::DIRECTORY)
            && Meta::of_open(&found).is_ok_and(|meta| meta.id == above.meta.id)
        {
            above.fd = Some(Arc::new(found));
        }
        Ok(())
    }
}

/// What these names are, in their order.
fn metas(dir: &OwnedFd, names: &[Vec<u8>]) -> VecDeque<rustix::io::Result<Meta>> {
    let look = |names: &[Vec<u8>]| names.iter().map(|name| Meta::of_name(dir, name)).collect::<Vec<_>>();
    let (front, back) = names.split_at(names.len() / 2);
    if front.len() < SPLIT_FROM {
        return look(names).into();
    }
    let (front, back) = rayon::join(|| look(front), || look(back));
    front.into_iter().chain(back).collect()
}

/// What vanished while we looked has changed; the rest is missing.
pub(super) fn trouble_of(e: Errno) -> Trouble {
    if e == Errno::NOENT { Trouble::Changed } else { Trouble::Missing }
}

/// The names in a directory, in the order of their inodes, in which a disk has them.
fn list(fd: &OwnedFd) -> std::result::Result<Vec<Vec<u8>>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::new(outside::open_quietly(fd, b".", OFlags::DIRECTORY)?)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push((entry.ino(), name.to_vec()));
        }
    }
    names.sort_unstable();
    Ok(names.into_iter().map(|(_, name)| name).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was shown, in order.
    #[derive(Default, PartialEq, Debug)]
    struct Shown(Vec<(char, Vec<u8>, u64)>);

    impl Visitor for Shown {
        fn enter(&mut self, at: Place<'_>, meta: &Meta, _: &Arc<OwnedFd>) -> Result<()> {
            self.0.push(('(', at.path.to_vec(), meta.id.1));
            Ok(())
        }
        fn leave(&mut self, path: &[u8], meta: &Meta, _: &Arc<OwnedFd>, names: Option<&[Vec<u8>]>) -> Result<()> {
            self.0.push((')', path.to_vec(), meta.id.1 ^ names.map_or(0, |names| names.len() as u64)));
            Ok(())
        }
        fn entry(&mut self, at: Place<'_>, meta: &Meta) -> Result<()> {
            self.0.push(('-', at.path.to_vec(), meta.id.1));
            Ok(())
        }
    }

    #[test]
    fn who_looks_ahead_sees_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("from");
        // Directories between files, above and below what is looked at before its turn.
        for (n, files) in [AHEAD + 200, 2 * SPLIT_FROM, 3, 0].into_iter().enumerate() {
            let below = from.join(format!("{n}"));
            std::fs::create_dir_all(below.join("empty")).unwrap();
            for file in 0..files {
                std::fs::write(below.join(format!("f{file}")), "x").unwrap();
                if file % 300 == 7 {
                    std::fs::create_dir(below.join(format!("d{file}"))).unwrap();
                    (0..50).for_each(|n| std::fs::write(below.join(format!("d{file}/{n}")), "y").unwrap());
                }
            }
        }
        let source = Source::open(&from, &dir.path().join("central")).unwrap();
        let (mut plain, mut ahead) = (Shown::default(), Shown::default());
        source.walk(&Problems::default(), &mut plain).unwrap();
        source.walk_ahead(&Problems::default(), &mut ahead).unwrap();
        assert!(plain == ahead && plain.0.len() > AHEAD + 200 + 4 * 52, "{}", plain.0.len());
    }
}

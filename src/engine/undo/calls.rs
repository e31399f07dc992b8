//! Steps as system calls through a mount point.

use std::collections::BTreeSet;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FallocateFlags, FileType, Gid, Mode, OFlags, RenameFlags, ResolveFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use super::hands::{Hands, Part, changed, each_part, path_of, shown};
use super::steps::{Attrs, Bytes, Expected, Made, Step};
use crate::engine::outside::{self, Handle, Meta};
use crate::error::{Class, Error, IoContext, Result};
use crate::ids::Time;
use crate::tree::path::split;
use crate::tree::{Tree, TreeError};
use crate::versions::node::FileKind;

/// By system calls.
pub(super) struct Calls {
    root: OwnedFd,
    uid: u32,
    groups: BTreeSet<u32>,
}

impl Calls {
    /// Through the mount at `point`.
    pub(super) fn new(point: &Path) -> Result<Self> {
        let root = outside::open_dir(point).map_err(std::io::Error::from).doing(|| format!("cannot open {}", point.display()))?;
        let mut groups: BTreeSet<u32> = BTreeSet::from([rustix::process::getegid().as_raw()]);
        groups.extend(rustix::process::getgroups().unwrap_or_default().into_iter().map(Gid::as_raw));
        Ok(Self { root, uid: rustix::process::geteuid().as_raw(), groups })
    }

    /// The directory of a path, and its name there. No symbolic link is followed: somebody may put one there at any time.
    fn open_dir_of<'p>(&self, path: &'p [u8]) -> Result<(OwnedFd, &'p [u8]), Errno> {
        let (dir, name) = split(path);
        let dir = if dir.is_empty() { b".".as_slice() } else { dir };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let fd = rustix::fs::openat2(&self.root, dir, flags, Mode::empty(), resolve)?;
        Ok((fd, if name.is_empty() { b"." } else { name }))
    }

    fn make(&self, path: &[u8], what: &Made, to: &mut Tree) -> Result<(), Failure> {
        let (dir, name) = self.open_dir_of(path)?;
        match what {
            Made::Dir => rustix::fs::mkdirat(&dir, name, Mode::RWXU)?,
            Made::Symlink(target) => rustix::fs::symlinkat(target.as_slice(), &dir, name)?,
            Made::Node(kind, rdev) => {
                let kind = match kind {
                    FileKind::Fifo => FileType::Fifo,
                    FileKind::Socket => FileType::Socket,
                    FileKind::CharDevice => FileType::CharacterDevice,
                    FileKind::BlockDevice => FileType::BlockDevice,
                    FileKind::File | FileKind::Directory | FileKind::Symlink => FileType::Unknown,
                };
                rustix::fs::mknodat(&dir, name, kind, Mode::RUSR | Mode::WUSR, (*rdev).into())?;
            }
            Made::File(bytes) => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let fd = rustix::fs::openat(&dir, name, flags, Mode::RUSR | Mode::WUSR)?;
                write(&fd, bytes, to)?;
            }
        }
        Ok(())
    }

    fn write(&self, path: &[u8], bytes: &Bytes, to: &mut Tree) -> Result<(), Failure> {
        let (dir, name) = self.open_dir_of(path)?;
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let open = || rustix::fs::openat(&dir, name, flags, Mode::empty());
        let (fd, mode) = match open() {
            // Its owner may write to it all the same, by way of its mode.
            Err(Errno::ACCESS) => {
                let mode = Meta::of_name(&dir, name)?.mode;
                chmod(&dir, name, mode | 0o200)?;
                (open()?, Some(mode))
            }
            fd => (fd?, None),
        };
        write(&fd, bytes, to)?;
        if let Some(mode) = mode {
            rustix::fs::fchmod(&fd, Mode::from_raw_mode(mode))?;
        }
        Ok(())
    }

    fn set(&self, path: &[u8], attrs: &Attrs, kind: FileKind) -> Result<(), Failure> {
        let (dir, name) = self.open_dir_of(path)?;
        if let Some((uid, gid)) = attrs.owner {
            let is = Meta::of_name(&dir, name)?;
            let (uid, gid) = ((is.uid != uid).then_some(uid), (is.gid != gid).then_some(gid));
            if uid.is_some() || gid.is_some() {
                rustix::fs::chownat(&dir, name, uid.map(Uid::from_raw), gid.map(Gid::from_raw), AtFlags::SYMLINK_NOFOLLOW)?;
            }
        }
        let path = outside::path_at(&dir, name);
        for (name, value) in &attrs.xattrs {
            match value {
                Some(value) => Handle::Path(path.clone()).set(name, value)?,
                None => rustix::fs::lremovexattr(path.as_slice(), name.as_slice())?,
            }
        }
        if let Some(mode) = attrs.mode
            && kind != FileKind::Symlink
        {
            chmod(&dir, name, mode)?;
        }
        if attrs.atime.is_some() || attrs.mtime.is_some() {
            let time = |t: Option<Time>| match t {
                Some(t) => Timespec { tv_sec: t.secs, tv_nsec: t.nanos.into() },
                None => Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
            };
            let times = Timestamps { last_access: time(attrs.atime), last_modification: time(attrs.mtime) };
            rustix::fs::utimensat(&dir, name, &times, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        Ok(())
    }

    fn try_step(&self, step: &Step, to: &mut Tree) -> Result<(), Failure> {
        match step {
            Step::Remove { path, is_dir } => {
                let (dir, name) = self.open_dir_of(path)?;
                rustix::fs::unlinkat(&dir, name, if *is_dir { AtFlags::REMOVEDIR } else { AtFlags::empty() })?;
            }
            Step::Rename { from, to } => {
                let ((dir, name), (to_dir, to_name)) = (self.open_dir_of(from)?, self.open_dir_of(to)?);
                rustix::fs::renameat_with(&dir, name, &to_dir, to_name, RenameFlags::NOREPLACE)?;
            }
            Step::Make { path, what } => self.make(path, what, to)?,
            Step::Link { from, path } => {
                let ((dir, name), (to_dir, to_name)) = (self.open_dir_of(from)?, self.open_dir_of(path)?);
                rustix::fs::linkat(&dir, name, &to_dir, to_name, AtFlags::empty())?;
            }
            Step::Write { path, bytes, .. } => self.write(path, bytes, to)?,
            Step::Set { path, attrs, kind, .. } => self.set(path, attrs, *kind)?,
        }
        Ok(())
    }

    /// Only root may do some things, and those are known before.
    fn check_allowed(&self, steps: &[Step]) -> Result<()> {
        if self.uid == 0 {
            return Ok(());
        }
        let refuse = |path: &[u8], what: &str| {
            Err(Error::new(Class::Refused, format!("`{}` {what}, which only root may do; nothing was done", shown(path)))
                .hint("run it as root, or unmount first: then ize does it without system calls"))
        };
        let made: BTreeSet<&[u8]> =
            steps.iter().filter_map(|s| if let Step::Make { path, .. } = s { Some(path.as_slice()) } else { None }).collect();
        for step in steps {
            match step {
                Step::Make { path, what: Made::Node(FileKind::CharDevice | FileKind::BlockDevice, _) } => {
                    return refuse(path, "is a device again");
                }
                Step::Set { path, attrs, .. } => {
                    if let Some((uid, gid)) = attrs.owner {
                        let is = if made.contains(path.as_slice()) { None } else { self.look(path).ok() };
                        let owner = is.as_ref().map_or(self.uid, |is| is.uid);
                        let same_group = is.as_ref().is_some_and(|is| is.gid == gid);
                        if owner != uid || owner != self.uid || !(same_group || self.groups.contains(&gid)) {
                            return refuse(path, "changes its owner or group");
                        }
                    }
                    if attrs.xattrs.iter().any(|(name, _)| name.starts_with(b"trusted.") || name.starts_with(b"security.")) {
                        return refuse(path, "changes an attribute of the system's");
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn look(&self, path: &[u8]) -> Result<Meta, Errno> {
        let (dir, name) = self.open_dir_of(path)?;
        Meta::of_name(&dir, name)
    }
}

/// Never follows a symbolic link.
fn chmod(dir: &OwnedFd, name: &[u8], mode: u32) -> Result<(), Errno> {
    let fd = rustix::fs::openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    rustix::fs::chmodat(CWD, path.as_str(), Mode::from_raw_mode(mode), AtFlags::empty())
}

enum Failure {
    Call(Errno),
    Read(TreeError),
}

impl From<Errno> for Failure {
    fn from(e: Errno) -> Self {
        Self::Call(e)
    }
}

impl From<TreeError> for Failure {
    fn from(e: TreeError) -> Self {
        Self::Read(e)
    }
}

/// Makes the bytes of an open file these.
fn write(fd: &OwnedFd, bytes: &Bytes, to: &mut Tree) -> Result<(), Failure> {
    let size = Meta::of_open(fd)?.size;
    let want = match bytes {
        Bytes::Held { bytes, same } => {
            write_all(fd, bytes.get(*same..).unwrap_or_default(), *same as u64)?;
            bytes.len() as u64
        }
        Bytes::Of { ino, size: want } => {
            each_part::<Failure>(to, *ino, *want, &mut |at, part| {
                match part {
                    Part::Bytes(bytes) => write_all(fd, bytes, at)?,
                    // Beyond the end there are zeros anyway.
                    Part::Hole(len) if at < size => {
                        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                        rustix::fs::fallocate(fd, flags, at, len.min(size - at))?;
                    }
                    Part::Hole(_) => {}
                }
                Ok(())
            })?;
            *want
        }
    };
    if Meta::of_open(fd)?.size != want {
        rustix::fs::ftruncate(fd, want)?;
    }
    Ok(())
}

fn write_all(fd: &OwnedFd, mut bytes: &[u8], mut at: u64) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::pwrite(fd, bytes, at) {
            Ok(0) => return Err(Errno::IO),
            Ok(n) => {
                bytes = bytes.get(n..).unwrap_or_default();
                at += n as u64;
            }
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

impl Hands for Calls {
    fn check(&mut self, expected: &[Expected], steps: &[Step]) -> Result<()> {
        for Expected { path, is } in expected {
            let found = match self.look(path) {
                Ok(meta) => Some(meta),
                Err(Errno::NOENT | Errno::NOTDIR) => None,
                Err(e) => return Err(Error::io(format!("cannot look at `{}`", shown(path)), e.into())),
            };
            let same = match (is, &found) {
                (None, None) => true,
                (Some((ino, size, ctime)), Some(m)) => {
                    m.id.1 == ino.0 && m.ctime == *ctime && (m.kind == FileKind::Directory || m.size == *size)
                }
                _ => false,
            };
            if !same {
                return Err(changed(path));
            }
        }
        self.check_allowed(steps)
    }

    fn step(&mut self, step: &Step, to: &mut Tree) -> Result<()> {
        self.try_step(step, to).map_err(|failure| match failure {
            Failure::Call(e) => Error::io(format!("cannot change `{}`", shown(path_of(step))), e.into()),
            Failure::Read(e) => e.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Ino;

    #[test]
    fn what_is_not_as_expected_is_refused_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir(at("d")).unwrap();
        std::fs::write(at("d/f"), "f").unwrap();
        std::os::unix::fs::symlink("d", at("link")).unwrap();
        let mut calls = Calls::new(dir.path()).unwrap();
        let meta = calls.look(b"d/f").unwrap();
        let is = |path: &[u8]| Expected { path: path.to_vec(), is: Some((Ino(meta.id.1), meta.size, meta.ctime)) };
        let free = |path: &[u8]| Expected { path: path.to_vec(), is: None };
        calls.check(&[is(b"d/f"), free(b"g"), free(b"d/g"), free(b"none/g")], &[]).unwrap();
        for wrong in [free(b"d/f"), is(b"d/g"), is(b"link"), is(b"d")] {
            assert_eq!(calls.check(std::slice::from_ref(&wrong), &[]).unwrap_err().class, Class::Refused, "{wrong:?}");
        }
        assert!(calls.check(&[is(b"link/f")], &[]).is_err());
        std::fs::write(at("d/f"), "g").unwrap();
        assert_eq!(calls.check(&[is(b"d/f")], &[]).unwrap_err().class, Class::Refused);
        let blobs = std::sync::Arc::new(crate::tree::testing::MemoryBlobs::default());
        let mut tree = Tree::open(blobs, None, Ino(2), crate::ids::Lsn::ZERO, Time::default()).unwrap();
        let write = |path: &[u8]| {
            let bytes = Bytes::Held { bytes: b"new".to_vec(), same: 0 };
            Step::Write { path: path.to_vec(), bytes, merged: false }
        };
        assert!(calls.step(&write(b"link/f"), &mut tree).is_err());
        // Its owner may write to it whatever its mode, which stays.
        let mode = |m: u32| std::fs::set_permissions(at("d/f"), std::os::unix::fs::PermissionsExt::from_mode(m)).unwrap();
        mode(0o444);
        calls.step(&write(b"d/f"), &mut tree).unwrap();
        assert_eq!((std::fs::read(at("d/f")).unwrap(), calls.look(b"d/f").unwrap().mode), (b"new".to_vec(), 0o444));
    }
}

//! Files outside of ize, as import reads and export writes them: attributes, extended attributes, and what could not be done.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::ids::Time;
use crate::versions::node::{FileKind, Xattrs};

/// Longest list of names, and longest value, that Linux gives (XATTR_LIST_MAX, XATTR_SIZE_MAX), in bytes.
const LIST_MAX: usize = 64 * 1024;
/// Problems that are kept one by one; the rest is counted.
const PROBLEMS_MAX: usize = 100_000;

/// What an inode on a disk says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// What it is.
    pub kind: FileKind,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number, as Linux encodes it in 32 bits.
    pub rdev: u32,
    /// Length in bytes.
    pub size: u64,
    /// Space on the disk, in units of 512 bytes.
    pub blocks: u64,
    /// Number of names.
    pub nlink: u64,
    /// Device and inode number.
    pub id: (u64, u64),
    /// Last access.
    pub atime: Time,
    /// Last change of content.
    pub mtime: Time,
    /// Last change of anything.
    pub ctime: Time,
}

impl Meta {
    /// From what the kernel says; `None` for a kind that nobody knows.
    #[must_use]
    #[allow(clippy::useless_conversion, clippy::unnecessary_cast, reason = "the fields have other types on other machines")]
    pub fn of(stat: &Stat) -> Option<Self> {
        let kind = match stat.st_mode & libc::S_IFMT {
            libc::S_IFREG => FileKind::File,
            libc::S_IFDIR => FileKind::Directory,
            libc::S_IFLNK => FileKind::Symlink,
            libc::S_IFIFO => FileKind::Fifo,
            libc::S_IFCHR => FileKind::CharDevice,
            libc::S_IFBLK => FileKind::BlockDevice,
            libc::S_IFSOCK => FileKind::Socket,
            _ => return None,
        };
        let device = matches!(kind, FileKind::CharDevice | FileKind::BlockDevice);
        let time = |secs, nanos| Time { secs, nanos };
        Some(Self {
            kind,
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            // The kernel has 12 bits of major and 20 of minor numbers; in the lower half, stat(2) puts them where the 32-bit encoding has them.
            rdev: if device { stat.st_rdev as u32 } else { 0 },
            size: u64::try_from(stat.st_size).unwrap_or(0),
            blocks: u64::try_from(stat.st_blocks).unwrap_or(0),
            nlink: stat.st_nlink as u64,
            id: (stat.st_dev as u64, stat.st_ino as u64),
            atime: time(stat.st_atime as i64, stat.st_atime_nsec as u32),
            mtime: time(stat.st_mtime as i64, stat.st_mtime_nsec as u32),
            ctime: time(stat.st_ctime as i64, stat.st_ctime_nsec as u32),
        })
    }

    /// Of an open file.
    ///
    /// # Errors
    /// The kernel's; EINVAL for an unknown kind.
    pub fn of_open(fd: impl AsFd) -> Result<Self, Errno> {
        Self::of(&rustix::fs::fstat(fd)?).ok_or(Errno::INVAL)
    }

    /// Of a name, which is not followed.
    ///
    /// # Errors
    /// As [`Meta::of_open`].
    pub fn of_name(dir: impl AsFd, name: &[u8]) -> Result<Self, Errno> {
        Self::of(&rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?).ok_or(Errno::INVAL)
    }

    /// Whether somebody wrote between two looks.
    #[must_use]
    pub fn changed_since(&self, before: &Self) -> bool {
        (self.size, self.mtime, self.ctime) != (before.size, before.mtime, before.ctime)
    }
}

/// Opens a name without following it and, where that is allowed, without moving its access time.
///
/// # Errors
/// The kernel's.
pub fn open_quietly(dir: impl AsFd, name: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    match rustix::fs::openat(&dir, name, flags | OFlags::NOATIME, Mode::empty()) {
        // Of files of others.
        Err(Errno::PERM) => rustix::fs::openat(&dir, name, flags, Mode::empty()),
        other => other,
    }
}

/// A path to `name` in an open directory, for the calls that take only paths.
#[must_use]
pub fn path_at(dir: impl AsFd, name: &[u8]) -> Vec<u8> {
    let mut path = format!("/proc/self/fd/{}/", dir.as_fd().as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    path
}

/// Attributes that cannot be read, and why.
pub type Missed = Vec<(Vec<u8>, Errno)>;

/// The extended attributes of an open file, or of a name that is not followed; those that cannot be read with the reason.
///
/// # Errors
/// When they cannot be listed. A file system that has none has none.
pub fn xattrs(of: &Handle<'_>) -> Result<(Xattrs, Missed), Errno> {
    // Nearly always there are none, or few. (Asked with an empty buffer, rustix says 0 instead of the length.)
    let mut names = vec![0; 256];
    let len = match of.list(&mut names) {
        Err(Errno::RANGE) => {
            names.resize(LIST_MAX, 0);
            of.list(&mut names)?
        }
        Err(Errno::OPNOTSUPP) | Ok(0) => return Ok(Default::default()),
        other => other?,
    };
    names.truncate(len);
    let (mut found, mut missed) = (Xattrs::new(), Vec::new());
    for name in names.split(|b| *b == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; LIST_MAX];
        match of.get(name, &mut value) {
            Ok(len) => {
                value.truncate(len);
                found.insert(name.to_vec(), value);
            }
            // It went meanwhile.
            Err(Errno::NODATA) => {}
            Err(e) => missed.push((name.to_vec(), e)),
        }
    }
    Ok((found, missed))
}

/// An open file, or a name that cannot or should not be opened.
#[derive(Debug)]
pub enum Handle<'a> {
    /// Open.
    Open(&'a OwnedFd),
    /// A path whose last component is not followed.
    Path(Vec<u8>),
}

impl Handle<'_> {
    fn list(&self, buf: &mut [u8]) -> Result<usize, Errno> {
        match self {
            Self::Open(fd) => rustix::fs::flistxattr(fd, buf),
            Self::Path(path) => rustix::fs::llistxattr(path.as_slice(), buf),
        }
    }

    fn get(&self, name: &[u8], buf: &mut [u8]) -> Result<usize, Errno> {
        match self {
            Self::Open(fd) => rustix::fs::fgetxattr(fd, name, buf),
            Self::Path(path) => rustix::fs::lgetxattr(path.as_slice(), name, buf),
        }
    }

    /// Sets an extended attribute.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set(&self, name: &[u8], value: &[u8]) -> Result<(), Errno> {
        let flags = rustix::fs::XattrFlags::empty();
        match self {
            Self::Open(fd) => rustix::fs::fsetxattr(fd, name, value, flags),
            Self::Path(path) => rustix::fs::lsetxattr(path.as_slice(), name, value, flags),
        }
    }
}

/// Times for utimensat(2).
#[must_use]
pub fn timestamps(atime: Time, mtime: Time) -> rustix::fs::Timestamps {
    let time = |t: Time| rustix::fs::Timespec { tv_sec: t.secs, tv_nsec: t.nanos.into() };
    rustix::fs::Timestamps { last_access: time(atime), last_modification: time(mtime) }
}

/// Opens a directory by its path, following symbolic links.
///
/// # Errors
/// The kernel's.
pub fn open_dir(path: &std::path::Path) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// What kind of thing went wrong with one path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trouble {
    /// Left out on purpose: another file system.
    Skipped,
    /// It changed while it was read, twice.
    Changed,
    /// One of its attributes is missing.
    Attribute,
    /// It could not be read, or made: it is missing.
    Missing,
}

impl Trouble {
    /// As JSON and lines have it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Skipped => "skipped",
            Self::Changed => "changed",
            Self::Attribute => "attribute",
            Self::Missing => "missing",
        }
    }
}

/// One path that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What kind.
    pub trouble: Trouble,
    /// The path from the root, as bytes; empty for the root.
    pub path: Vec<u8>,
    /// What and why, in words.
    pub why: String,
}

/// Collects problems, from all threads.
#[derive(Debug, Default)]
pub struct Problems(Mutex<(Vec<Problem>, [u64; 4])>);

impl Problems {
    /// Notes one.
    pub fn add(&self, trouble: Trouble, path: &[u8], why: impl Into<String>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.1[trouble as usize] += 1;
        if all.0.len() < PROBLEMS_MAX {
            all.0.push(Problem { trouble, path: path.to_vec(), why: why.into() });
        }
    }

    /// All that are kept, by path, and how many there were of each [`Trouble`].
    #[must_use]
    pub fn take(&self) -> (Vec<Problem>, [u64; 4]) {
        let mut all = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        all.0.sort_by(|a, b| a.path.cmp(&b.path));
        all
    }
}

//! Names: looking up, making, linking, removing, renaming.

use super::journal::Caller;
use super::{Fs, FsError, FsResult, Writer};
use crate::ids::Ino;
use crate::op::{Create, Link, Mkdir, Mknod, Rename, RenameMode, Rmdir, Symlink, Unlink};
use crate::tree::{Body, Child, LINK_MAX, NAME_MAX, Stat};
use crate::versions::node::FileKind;

/// Longest target of a symbolic link, in bytes (PATH_MAX without its NUL).
const TARGET_MAX: usize = 4095;
const S_ISGID: u32 = libc::S_ISGID;

/// Flags of renameat2(2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RenameFlags {
    /// RENAME_NOREPLACE.
    pub no_replace: bool,
    /// RENAME_EXCHANGE.
    pub exchange: bool,
}

impl RenameFlags {
    /// From the bits of the system call.
    ///
    /// # Errors
    /// [`FsError::Invalid`] for bits that are not known (RENAME_WHITEOUT among them) and for both at once.
    pub fn from_bits(bits: u32) -> FsResult<Self> {
        let flags = RenameFlags { no_replace: bits & libc::RENAME_NOREPLACE != 0, exchange: bits & libc::RENAME_EXCHANGE != 0 };
        let known = libc::RENAME_NOREPLACE | libc::RENAME_EXCHANGE;
        if bits & !known != 0 || (flags.no_replace && flags.exchange) { Err(FsError::Invalid) } else { Ok(flags) }
    }
}

fn check_name(name: &[u8]) -> FsResult {
    if name.len() > NAME_MAX {
        Err(FsError::NameTooLong)
    } else if name.is_empty() || name == b"." || name == b".." || name.contains(&0) || name.contains(&b'/') {
        Err(FsError::Invalid)
    } else {
        Ok(())
    }
}

impl Writer<'_> {
    /// The name must be free and its directory must exist.
    fn check_free(&mut self, dir: Ino, name: &[u8]) -> FsResult {
        check_name(name)?;
        self.check_alive(dir)?;
        if self.guard.tree.lookup(dir, name)?.is_some() { Err(FsError::Exists) } else { Ok(()) }
    }

    /// A removed directory takes no names.
    fn check_alive(&mut self, dir: Ino) -> FsResult {
        self.guard.tree.dir(dir)?;
        if self.guard.tree.inode(dir)?.nlink == 0 { Err(FsError::NotFound) } else { Ok(()) }
    }

    fn entry(&mut self, dir: Ino, name: &[u8]) -> FsResult<Child> {
        check_name(name)?;
        self.guard.tree.lookup(dir, name)?.ok_or(FsError::NotFound)
    }

    /// Group of a new inode, and whether the directory hands its group down.
    fn group(&mut self, dir: Ino, caller: &Caller) -> FsResult<(u32, bool)> {
        let attrs = &self.guard.tree.inode(dir)?.attrs;
        Ok(if attrs.mode & S_ISGID != 0 { (attrs.gid, true) } else { (caller.gid, false) })
    }

    /// The kernel gets an inode that was just made.
    fn born(&mut self, ino: Ino) -> FsResult<Stat> {
        let stat = self.guard.tree.stat(ino)?;
        self.hold_lookup(ino);
        Ok(stat)
    }

    fn make_file(&mut self, caller: &Caller, dir: Ino, name: &[u8], mode: u32) -> FsResult<Stat> {
        let (gid, _) = self.group(dir, caller)?;
        let ino = self.guard.tree.next_ino();
        self.log(caller, Create { dir, name: name.to_vec(), ino, mode: mode & 0o7777, uid: caller.uid, gid }.into(), None, None)?;
        self.born(ino)
    }
}

impl Fs {
    /// The inode behind a name, which the kernel holds from now on; `None` when there is none.
    ///
    /// # Errors
    /// ENAMETOOLONG, EINVAL, ENOTDIR, ENOENT (no such directory), EIO.
    pub fn lookup(&self, dir: Ino, name: &[u8]) -> FsResult<Option<Stat>> {
        check_name(name)?;
        let mut writer = self.locked();
        match writer.guard.tree.lookup(dir, name)? {
            Some(child) => {
                let stat = writer.born(child.ino)?;
                writer.trim();
                Ok(Some(stat))
            }
            None => Ok(None),
        }
    }

    /// Makes a regular file and opens it.
    ///
    /// # Errors
    /// EEXIST with `exclusive`, else ESTALE, when the name is taken; those of `mknod`.
    pub fn create(&self, caller: &Caller, dir: Ino, name: &[u8], mode: u32, exclusive: bool) -> FsResult<Stat> {
        let mut writer = self.locked();
        match writer.check_free(dir, name) {
            // Opening what is there needs a look at its permissions, and only the kernel looks at those.
            Err(FsError::Exists) if !exclusive => return Err(FsError::Stale),
            other => other?,
        }
        let stat = writer.make_file(caller, dir, name, mode)?;
        writer.hold_open(stat.ino);
        Ok(stat)
    }

    /// Makes a regular file, fifo, socket or device; `mode` holds the type bits of mknod(2).
    ///
    /// # Errors
    /// EEXIST, ENAMETOOLONG, EINVAL (type), ENOENT (the directory was removed), ENOSPC, EIO.
    pub fn mknod(&self, caller: &Caller, dir: Ino, name: &[u8], mode: u32, rdev: u32) -> FsResult<Stat> {
        let what = match mode & libc::S_IFMT {
            libc::S_IFREG | 0 => FileKind::File,
            libc::S_IFIFO => FileKind::Fifo,
            libc::S_IFSOCK => FileKind::Socket,
            libc::S_IFCHR => FileKind::CharDevice,
            libc::S_IFBLK => FileKind::BlockDevice,
            _ => return Err(FsError::Invalid),
        };
        let mut writer = self.locked();
        writer.check_free(dir, name)?;
        if what == FileKind::File {
            return writer.make_file(caller, dir, name, mode);
        }
        let rdev = if matches!(what, FileKind::CharDevice | FileKind::BlockDevice) { rdev } else { 0 };
        let (gid, _) = writer.group(dir, caller)?;
        let ino = writer.guard.tree.next_ino();
        let op = Mknod { dir, name: name.to_vec(), ino, what, mode: mode & 0o7777, uid: caller.uid, gid, rdev };
        writer.log(caller, op.into(), None, None)?;
        writer.born(ino)
    }

    /// Makes a directory.
    ///
    /// # Errors
    /// As `mknod`.
    pub fn mkdir(&self, caller: &Caller, dir: Ino, name: &[u8], mode: u32) -> FsResult<Stat> {
        let mut writer = self.locked();
        writer.check_free(dir, name)?;
        let (gid, inherits) = writer.group(dir, caller)?;
        let mode = (mode & 0o7777) | if inherits { S_ISGID } else { 0 };
        let ino = writer.guard.tree.next_ino();
        writer.log(caller, Mkdir { dir, name: name.to_vec(), ino, mode, uid: caller.uid, gid }.into(), None, None)?;
        writer.born(ino)
    }

    /// Makes a symbolic link.
    ///
    /// # Errors
    /// As `mknod`; ENAMETOOLONG also for a target above 4095 bytes, ENOENT for an empty one.
    pub fn symlink(&self, caller: &Caller, dir: Ino, name: &[u8], target: &[u8]) -> FsResult<Stat> {
        if target.len() > TARGET_MAX {
            return Err(FsError::NameTooLong);
        }
        if target.is_empty() {
            return Err(FsError::NotFound);
        }
        let mut writer = self.locked();
        writer.check_free(dir, name)?;
        let (gid, _) = writer.group(dir, caller)?;
        let ino = writer.guard.tree.next_ino();
        let op = Symlink { dir, name: name.to_vec(), ino, target: target.to_vec(), uid: caller.uid, gid };
        writer.log(caller, op.into(), None, None)?;
        writer.born(ino)
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// EINVAL when it is none; ENOENT, EIO.
    pub fn readlink(&self, ino: Ino) -> FsResult<Vec<u8>> {
        match &self.locked().tree().inode(ino)?.body {
            Body::Symlink(target) => Ok(target.to_vec()),
            Body::File(_) | Body::Dir(_) | Body::Special => Err(FsError::Invalid),
        }
    }

    /// Gives an inode one more name.
    ///
    /// # Errors
    /// EPERM for a directory, EMLINK, ENOENT for an inode that has no name any more; those of `mknod`.
    pub fn link(&self, caller: &Caller, ino: Ino, dir: Ino, name: &[u8]) -> FsResult<Stat> {
        let mut writer = self.locked();
        let inode = writer.guard.tree.inode(ino)?;
        match (inode.kind, inode.nlink) {
            (FileKind::Directory, _) => return Err(FsError::NotPermitted),
            (_, 0) => return Err(FsError::NotFound),
            (_, LINK_MAX..) => return Err(FsError::TooManyLinks),
            _ => {}
        }
        writer.check_free(dir, name)?;
        writer.log(caller, Link { ino, dir, name: name.to_vec() }.into(), None, None)?;
        writer.born(ino)
    }

    /// Removes a name of anything but a directory.
    ///
    /// # Errors
    /// ENOENT, EISDIR, ENOSPC, EIO.
    pub fn unlink(&self, caller: &Caller, dir: Ino, name: &[u8]) -> FsResult {
        let mut writer = self.locked();
        let child = writer.entry(dir, name)?;
        if child.kind == FileKind::Directory {
            return Err(FsError::IsDirectory);
        }
        writer.log(caller, Unlink { dir, name: name.to_vec(), ino: child.ino }.into(), None, None)?;
        Ok(())
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// ENOENT, ENOTDIR, ENOTEMPTY, ENOSPC, EIO.
    pub fn rmdir(&self, caller: &Caller, dir: Ino, name: &[u8]) -> FsResult {
        let mut writer = self.locked();
        let child = writer.entry(dir, name)?;
        if child.kind != FileKind::Directory {
            return Err(FsError::NotDirectory);
        }
        if !writer.guard.tree.dir(child.ino)?.is_empty() {
            return Err(FsError::NotEmpty);
        }
        writer.log(caller, Rmdir { dir, name: name.to_vec(), ino: child.ino }.into(), None, None)?;
        Ok(())
    }

    /// Moves a name, or lets two change places.
    ///
    /// # Errors
    /// ENOENT, EEXIST (NOREPLACE), EINVAL (a directory into itself), ENOTDIR, EISDIR, ENOTEMPTY, ENOSPC, EIO.
    pub fn rename(&self, caller: &Caller, from: (Ino, &[u8]), to: (Ino, &[u8]), flags: RenameFlags) -> FsResult {
        let mut writer = self.locked();
        check_name(to.1)?;
        let child = writer.entry(from.0, from.1)?;
        writer.check_alive(to.0)?;
        let target = writer.guard.tree.lookup(to.0, to.1)?;
        let is_dir = child.kind == FileKind::Directory;
        // A directory may not end up beneath itself, on either side.
        if is_dir && writer.guard.tree.is_within(to.0, child.ino)? {
            return Err(FsError::Invalid);
        }
        let mode = match target {
            None if flags.exchange => return Err(FsError::NotFound),
            None => RenameMode::Free,
            Some(_) if flags.no_replace => return Err(FsError::Exists),
            // Two names of one inode: POSIX has nothing happen.
            Some(target) if target.ino == child.ino => return Ok(()),
            Some(target) if flags.exchange => {
                if target.kind == FileKind::Directory && writer.guard.tree.is_within(from.0, target.ino)? {
                    return Err(FsError::Invalid);
                }
                RenameMode::Exchange(target.ino)
            }
            Some(target) => {
                match (is_dir, target.kind == FileKind::Directory) {
                    (true, false) => return Err(FsError::NotDirectory),
                    (false, true) => return Err(FsError::IsDirectory),
                    (true, true) if !writer.guard.tree.dir(target.ino)?.is_empty() => return Err(FsError::NotEmpty),
                    (true, true) | (false, false) => {}
                }
                RenameMode::Replace(target.ino)
            }
        };
        let op = Rename { dir: from.0, name: from.1.to_vec(), ino: child.ino, to_dir: to.0, to_name: to.1.to_vec(), mode };
        writer.log(caller, op.into(), None, None)?;
        Ok(())
    }
}

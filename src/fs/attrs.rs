//! Attributes: reading them, and the parts of setattr.

use super::journal::Caller;
use super::{Fs, FsError, FsResult};
use crate::ids::{Ino, Time};
use crate::op::{Chmod, Chown, Truncate, Utimens};
use crate::tree::{SIZE_MAX, Stat};
use crate::versions::node::FileKind;

/// A time to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// The time of the call.
    Now,
    /// This one.
    At(Time),
}

/// What setattr changes; `None` leaves it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetAttributes {
    /// Permission bits (higher bits are ignored).
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Length in bytes.
    pub size: Option<u64>,
    /// Access time.
    pub atime: Option<SetTime>,
    /// Modification time.
    pub mtime: Option<SetTime>,
}

/// The bits that stay when somebody without CAP_FSETID changes a file's content or anybody its owner: no setuid, and no setgid where the
/// group may execute (elsewhere it marks mandatory locking). `None` when nothing goes.
pub(super) fn without_privileges(kind: FileKind, mode: u32) -> Option<u32> {
    let mut kept = mode & !libc::S_ISUID;
    if mode & libc::S_IXGRP != 0 {
        kept &= !libc::S_ISGID;
    }
    (kind == FileKind::File && kept != mode).then_some(kept)
}

/// CAP_FSETID is not told by FUSE for every request; root has it.
pub(super) fn may_keep_privileges(caller: &Caller) -> bool {
    caller.uid == 0
}

impl Fs {
    /// Attributes of an inode.
    ///
    /// # Errors
    /// ENOENT, EIO.
    pub fn getattr(&self, ino: Ino) -> FsResult<Stat> {
        Ok(self.locked().tree().stat(ino)?)
    }

    /// Sets attributes: one operation each for owner, mode, length and times. Permissions are the kernel's work.
    ///
    /// # Errors
    /// EINVAL or EISDIR (length of what is no file), EFBIG, ENOSPC, EIO. What was logged before a failure stays.
    pub fn setattr(&self, caller: &Caller, ino: Ino, set: &SetAttributes) -> FsResult<Stat> {
        let mut writer = self.locked();
        let before = writer.guard.tree.stat(ino)?;
        if let Some(size) = set.size {
            match before.kind {
                FileKind::File if size > SIZE_MAX => return Err(FsError::TooLarge),
                FileKind::File => {}
                FileKind::Directory => return Err(FsError::IsDirectory),
                _ => return Err(FsError::Invalid),
            }
        }
        if *set == SetAttributes::default()
            && !may_keep_privileges(caller)
            && let Some(new) = without_privileges(before.kind, before.attrs.mode)
        {
            // With FUSE_HANDLE_KILLPRIV_V2 the kernel sends an empty setattr when a write, fallocate or copy by somebody without
            // CAP_FSETID is about to change a setuid file.
            writer.log(caller, Chmod { ino, old: before.attrs.mode, new }.into(), None, None)?;
        }
        if set.uid.is_some() || set.gid.is_some() {
            let old = (before.attrs.uid, before.attrs.gid);
            let new = (set.uid.unwrap_or(old.0), set.gid.unwrap_or(old.1));
            let mode_after = without_privileges(before.kind, before.attrs.mode);
            writer.log(caller, Chown { ino, old, new, mode_after }.into(), None, None)?;
        }
        if let Some(mode) = set.mode {
            let old = writer.guard.tree.inode(ino)?.attrs.mode;
            writer.log(caller, Chmod { ino, old, new: mode & 0o7777 }.into(), None, None)?;
        }
        if let Some(size) = set.size {
            writer.truncate(caller, ino, size)?;
        }
        if set.atime.is_some() || set.mtime.is_some() {
            let attrs = &writer.guard.tree.inode(ino)?.attrs;
            let old = (attrs.atime, attrs.mtime);
            let now = Time::now();
            let time = |t: SetTime| match t {
                SetTime::Now => now,
                SetTime::At(t) => t,
            };
            let op = Utimens { ino, old, atime: set.atime.map(time), mtime: set.mtime.map(time) };
            writer.log(caller, op.into(), None, None)?;
        }
        Ok(writer.guard.tree.stat(ino)?)
    }
}

impl super::Writer<'_> {
    /// Sets the length of a regular file; true when that took setuid or setgid away.
    pub(super) fn truncate(&mut self, caller: &Caller, ino: Ino, size: u64) -> FsResult<bool> {
        let inode = self.guard.tree.inode(ino)?;
        let old_size = inode.size;
        let mode_after = if may_keep_privileges(caller) { None } else { without_privileges(inode.kind, inode.attrs.mode) };
        self.log(caller, Truncate { ino, old_size, size, mode_after }.into(), None, None)?;
        Ok(mode_after.is_some())
    }
}

//! Attributes: reading them, and the parts of setattr.

use super::journal::Caller;
use super::{Fs, FsError, FsResult};
use crate::ids::{Ino, Time};
use crate::op::{Chmod, Chown, RemoveXattr, Truncate, Utimens};
use crate::tree::{SIZE_MAX, Stat};
use crate::versions::node::{Attributes, FileKind};

/// Where the capabilities of a program file are.
const CAPABILITY: &[u8] = b"security.capability";

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

/// The bits that stay when somebody without CAP_FSETID changes a file's content or anybody its owner: no setuid; no setgid where the group
/// may execute, or where the caller is not of the group (it would lend a group that is not the caller's). `None` when nothing goes.
pub(super) fn without_privileges(caller: &Caller, kind: FileKind, attrs: &Attributes) -> Option<u32> {
    let mut kept = attrs.mode & !libc::S_ISUID;
    if kept & libc::S_ISGID != 0 && (kept & libc::S_IXGRP != 0 || !is_of_group(caller, attrs.gid)) {
        kept &= !libc::S_ISGID;
    }
    (kind != FileKind::Directory && kept != attrs.mode).then_some(kept)
}

/// FUSE names one group of the caller; the others are in /proc. Who cannot be asked is not of the group.
fn is_of_group(caller: &Caller, gid: u32) -> bool {
    caller.uid == 0
        || caller.gid == gid
        || caller.pid != 0
            && std::fs::read_to_string(format!("/proc/{}/status", caller.pid)).is_ok_and(|status| {
                let groups = status.lines().find_map(|line| line.strip_prefix("Groups:"));
                groups.is_some_and(|list| list.split_ascii_whitespace().any(|group| group.parse() == Ok(gid)))
            })
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
        // With FUSE_HANDLE_KILLPRIV_V2 the kernel sends an empty setattr for chown(-1, -1), which takes privileges away and moves the ctime,
        // and before somebody without CAP_FSETID writes, allocates or copies into a setuid file; for the log both are a chown.
        if *set == SetAttributes::default() || set.uid.is_some() || set.gid.is_some() {
            writer.drop_capabilities(caller, ino)?;
            let old = (before.attrs.uid, before.attrs.gid);
            let new = (set.uid.unwrap_or(old.0), set.gid.unwrap_or(old.1));
            let mode_after = without_privileges(caller, before.kind, &before.attrs);
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
    /// A file's capabilities go before anybody, root too, changes its bytes or owner. (With FUSE_HANDLE_KILLPRIV_V2 that is not the kernel's
    /// work any more.) It is a record of its own: after a crash between the two only the capabilities are gone.
    pub(super) fn drop_capabilities(&mut self, caller: &Caller, ino: Ino) -> FsResult {
        if self.guard.tree.inode(ino)?.xattrs.contains_key(CAPABILITY) {
            self.log(caller, RemoveXattr { ino, name: CAPABILITY.to_vec() }.into(), None, None)?;
        }
        Ok(())
    }

    /// Sets the length of a regular file, which may take setuid and setgid away.
    fn truncate(&mut self, caller: &Caller, ino: Ino, size: u64) -> FsResult<()> {
        self.drop_capabilities(caller, ino)?;
        let inode = self.guard.tree.inode(ino)?;
        let old_size = inode.size;
        let mode_after = if may_keep_privileges(caller) { None } else { without_privileges(caller, inode.kind, &inode.attrs) };
        self.log(caller, Truncate { ino, old_size, size, mode_after }.into(), None, None)?;
        Ok(())
    }
}

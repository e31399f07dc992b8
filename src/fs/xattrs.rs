//! Extended attributes.

use super::journal::Caller;
use super::{Fs, FsError, FsResult};
use crate::ids::Ino;
use crate::op::{RemoveXattr, SetXattr};
use crate::tree::NAME_MAX;

/// On the root directory: answers the project's directory. Never logged, never listed, not to be set.
pub const PROJECT_XATTR: &[u8] = b"user.ize.project";

/// Longest value, in bytes (XATTR_SIZE_MAX of Linux).
const VALUE_MAX: usize = 64 * 1024;
/// Names and values of one inode together, in bytes: every version that changes the inode holds them all.
pub const TOTAL_MAX: usize = 256 * 1024;

/// `ls -l` asks for it of every file, a request each. It asks one file only when told that there are no labels here, which is so: where
/// the kernel runs SELinux, it answers for FUSE itself, and never asks.
const SELINUX_LABEL: &[u8] = b"security.selinux";

/// Which namespaces exist here. POSIX ACLs do not: the kernel would not obey them.
fn check_name(name: &[u8]) -> FsResult {
    if name.len() > NAME_MAX {
        return Err(FsError::Range);
    }
    let known = [&b"user."[..], b"trusted.", b"security."];
    match known.iter().find(|prefix| name.starts_with(prefix)) {
        Some(prefix) if name.len() == prefix.len() => Err(FsError::Invalid),
        Some(_) if name.contains(&0) => Err(FsError::Invalid),
        Some(_) => Ok(()),
        None => Err(FsError::NotSupported),
    }
}

impl Fs {
    fn is_project_xattr(&self, ino: Ino, name: &[u8]) -> bool {
        ino == Ino::ROOT && name == PROJECT_XATTR && !self.project.is_empty()
    }

    /// Sets an attribute; `flags` are those of setxattr(2).
    ///
    /// # Errors
    /// EEXIST (XATTR_CREATE), ENODATA (XATTR_REPLACE), E2BIG above 64 KiB, EOPNOTSUPP for unknown namespaces and ACLs, ERANGE for a long
    /// name, ENOSPC when the inode's attributes together exceed 256 KiB or the log is full, EPERM for the project's own, EIO.
    pub fn setxattr(&self, caller: &Caller, ino: Ino, name: &[u8], value: &[u8], flags: i32) -> FsResult {
        check_name(name)?;
        if value.len() > VALUE_MAX {
            return Err(FsError::AttributeTooLarge);
        }
        if flags & !(libc::XATTR_CREATE | libc::XATTR_REPLACE) != 0 {
            return Err(FsError::Invalid);
        }
        if self.is_project_xattr(ino, name) {
            return Err(FsError::NotPermitted);
        }
        let mut writer = self.locked();
        let xattrs = &writer.guard.tree.inode(ino)?.xattrs;
        let exists = xattrs.contains_key(name);
        if flags & libc::XATTR_CREATE != 0 && exists {
            return Err(FsError::Exists);
        }
        if flags & libc::XATTR_REPLACE != 0 && !exists {
            return Err(FsError::NoAttribute);
        }
        let others: usize = xattrs.iter().filter(|(n, _)| n.as_slice() != name).map(|(n, v)| n.len() + v.len()).sum();
        if others + name.len() + value.len() > TOTAL_MAX {
            return Err(FsError::NoSpace("the inode's attributes would exceed 256 KiB".to_owned()));
        }
        writer.log(caller, SetXattr { ino, name: name.to_vec(), value: value.to_vec() }.into(), None, None)?;
        Ok(())
    }

    /// Value of an attribute.
    ///
    /// # Errors
    /// ENODATA (EOPNOTSUPP for a label of SELinux), EOPNOTSUPP for unknown namespaces and ACLs, ENOENT, EIO.
    pub fn getxattr(&self, ino: Ino, name: &[u8]) -> FsResult<Vec<u8>> {
        check_name(name)?;
        if self.is_project_xattr(ino, name) {
            return Ok(self.project.clone());
        }
        let absent = || if name == SELINUX_LABEL { FsError::NotSupported } else { FsError::NoAttribute };
        self.locked().tree().inode(ino)?.xattrs.get(name).cloned().ok_or_else(absent)
    }

    /// Names of all attributes, each ended by NUL; `trusted.` ones for root only.
    ///
    /// # Errors
    /// ENOENT, EIO.
    pub fn listxattr(&self, caller: &Caller, ino: Ino) -> FsResult<Vec<u8>> {
        let mut out = Vec::new();
        for name in self.locked().tree().inode(ino)?.xattrs.keys() {
            if caller.uid == 0 || !name.starts_with(b"trusted.") {
                out.extend_from_slice(name);
                out.push(0);
            }
        }
        Ok(out)
    }

    /// Removes an attribute.
    ///
    /// # Errors
    /// ENODATA, EOPNOTSUPP, EPERM for the project's own, ENOSPC, EIO.
    pub fn removexattr(&self, caller: &Caller, ino: Ino, name: &[u8]) -> FsResult {
        check_name(name)?;
        if self.is_project_xattr(ino, name) {
            return Err(FsError::NotPermitted);
        }
        let mut writer = self.locked();
        if !writer.guard.tree.inode(ino)?.xattrs.contains_key(name) {
            return Err(FsError::NoAttribute);
        }
        writer.log(caller, RemoveXattr { ino, name: name.to_vec() }.into(), None, None)?;
        Ok(())
    }
}

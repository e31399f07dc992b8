//! Steps by the file system itself, where nothing is mounted.

use std::sync::Arc;

use super::hands::{Hands, Part, changed, each_part, path_of, shown};
use super::steps::{Attrs, Bytes, Expected, Made, Step};
use crate::error::{Error, Result};
use crate::fs::journal::Caller;
use crate::fs::{Fs, FsError, SetAttributes, SetTime};
use crate::ids::Ino;
use crate::tree::path::split;
use crate::tree::{Tree, TreeError};
use crate::versions::node::FileKind;

/// By the file system itself, where no kernel is in between.
pub(super) struct Inside {
    pub(super) fs: Arc<Fs>,
    pub(super) caller: Caller,
}

impl From<Failed> for Error {
    fn from(e: Failed) -> Self {
        match e {
            Failed::Fs(e) => e.into(),
            Failed::Tree(e) => e.into(),
        }
    }
}

enum Failed {
    Fs(FsError),
    Tree(TreeError),
}

impl From<FsError> for Failed {
    fn from(e: FsError) -> Self {
        Self::Fs(e)
    }
}

impl From<TreeError> for Failed {
    fn from(e: TreeError) -> Self {
        Self::Tree(e)
    }
}

impl Inside {
    fn resolve(&self, path: &[u8]) -> Result<Ino, Failed> {
        self.fs.locked().tree().resolve(path)?.ok_or(Failed::Fs(FsError::NotFound))
    }

    /// What `born` says is held by nobody.
    fn let_go(&self, ino: Ino) {
        self.fs.forget(ino, 1);
    }

    fn write(&self, ino: Ino, bytes: &Bytes, to: &mut Tree) -> Result<(), Failed> {
        let size = self.fs.getattr(ino)?.size;
        let want = match bytes {
            Bytes::Held { bytes, same } => {
                self.fs.write(&self.caller, ino, *same as u64, bytes.get(*same..).unwrap_or_default(), false)?;
                bytes.len() as u64
            }
            Bytes::Of { ino: source, size: want } => {
                each_part::<Failed>(to, *source, *want, &mut |at, part| {
                    match part {
                        Part::Bytes(bytes) => _ = self.fs.write(&self.caller, ino, at, bytes, false)?,
                        Part::Hole(len) if at < size => {
                            let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
                            self.fs.fallocate(&self.caller, ino, at, len.min(size - at), mode)?;
                        }
                        Part::Hole(_) => {}
                    }
                    Ok(())
                })?;
                *want
            }
        };
        if self.fs.getattr(ino)?.size != want {
            self.fs.setattr(&self.caller, ino, &SetAttributes { size: Some(want), ..SetAttributes::default() })?;
        }
        Ok(())
    }

    fn try_step(&self, step: &Step, to: &mut Tree) -> Result<(), Failed> {
        let (fs, caller) = (&self.fs, &self.caller);
        let place = |path: &[u8]| -> Result<(Ino, Vec<u8>), Failed> {
            let (dir, name) = split(path);
            Ok((self.resolve(dir)?, name.to_vec()))
        };
        match step {
            Step::Remove { path, is_dir } => {
                let (dir, name) = place(path)?;
                if *is_dir { fs.rmdir(caller, dir, &name)? } else { fs.unlink(caller, dir, &name)? }
            }
            Step::Rename { from, to } => {
                let ((dir, name), (to_dir, to_name)) = (place(from)?, place(to)?);
                let flags = crate::fs::RenameFlags { no_replace: true, exchange: false };
                fs.rename(caller, (dir, &name), (to_dir, &to_name), flags)?;
            }
            Step::Make { path, what } => {
                let (dir, name) = place(path)?;
                let stat = match what {
                    Made::Dir => fs.mkdir(caller, dir, &name, 0o700)?,
                    Made::Symlink(target) => fs.symlink(caller, dir, &name, target)?,
                    Made::Node(kind, rdev) => {
                        let format = match kind {
                            FileKind::Fifo => libc::S_IFIFO,
                            FileKind::Socket => libc::S_IFSOCK,
                            FileKind::CharDevice => libc::S_IFCHR,
                            FileKind::BlockDevice => libc::S_IFBLK,
                            FileKind::File | FileKind::Directory | FileKind::Symlink => libc::S_IFREG,
                        };
                        fs.mknod(caller, dir, &name, format | 0o600, *rdev)?
                    }
                    Made::File(bytes) => {
                        let stat = fs.mknod(caller, dir, &name, libc::S_IFREG | 0o600, 0)?;
                        self.write(stat.ino, bytes, to)?;
                        stat
                    }
                };
                self.let_go(stat.ino);
            }
            Step::Link { from, path } => {
                let (source, (dir, name)) = (self.resolve(from)?, place(path)?);
                let stat = fs.link(caller, source, dir, &name)?;
                self.let_go(stat.ino);
            }
            Step::Write { path, bytes, .. } => self.write(self.resolve(path)?, bytes, to)?,
            Step::Set { path, attrs, .. } => self.set(self.resolve(path)?, attrs)?,
        }
        Ok(())
    }

    fn set(&self, ino: Ino, attrs: &Attrs) -> Result<(), Failed> {
        let (fs, caller) = (&self.fs, &self.caller);
        let is = fs.getattr(ino)?.attrs;
        if let Some((uid, gid)) = attrs.owner.filter(|owner| *owner != (is.uid, is.gid)) {
            fs.setattr(caller, ino, &SetAttributes { uid: Some(uid), gid: Some(gid), ..SetAttributes::default() })?;
        }
        for (name, value) in &attrs.xattrs {
            match value {
                Some(value) => fs.setxattr(caller, ino, name, value, 0)?,
                None => fs.removexattr(caller, ino, name)?,
            }
        }
        let (mode, atime, mtime) = (attrs.mode, attrs.atime.map(SetTime::At), attrs.mtime.map(SetTime::At));
        if mode.is_some() || atime.is_some() || mtime.is_some() {
            fs.setattr(caller, ino, &SetAttributes { mode, atime, mtime, ..SetAttributes::default() })?;
        }
        Ok(())
    }
}

impl Hands for Inside {
    fn check(&mut self, expected: &[Expected], _: &[Step]) -> Result<()> {
        for Expected { path, is } in expected {
            let found = self.fs.locked().tree().resolve(path)?;
            let found = found.map(|ino| self.fs.getattr(ino)).transpose()?;
            let same = match (is, &found) {
                (None, None) => true,
                (Some((ino, _, ctime)), Some(stat)) => stat.ino == *ino && stat.attrs.ctime == *ctime,
                _ => false,
            };
            if !same {
                return Err(changed(path));
            }
        }
        Ok(())
    }

    fn step(&mut self, step: &Step, to: &mut Tree) -> Result<()> {
        self.try_step(step, to).map_err(|failed| {
            let e = Error::from(failed);
            Error { message: format!("cannot change `{}`: {}", shown(path_of(step)), e.message), ..e }
        })
    }
}

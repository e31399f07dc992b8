//! The interpreter: what each operation does to the tree. The live mount, recovery, replay and looks into the past all come through here.
//! Permissions and the rules of the system calls were checked before the operation was logged; here it is only carried out.

use std::sync::Arc;

use super::{Body, DirBody, FileBody, Inode, LogBytes, Name, Source, Tree, TreeError};
use crate::ids::{Ino, Lsn, Time};
use crate::op::{AllocateMode, Data, Entry, Operation, RenameMode};
use crate::versions::node::{Attributes, FileKind, Xattrs};

/// Why an operation could not be carried out: the state cannot be read, or the log contradicts it.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The state cannot be read.
    #[error("record {lsn}: {error}")]
    Tree {
        /// The record.
        lsn: Lsn,
        /// Why.
        error: TreeError,
    },
    /// The operation does not fit the state: damage or a bug, never a crash.
    #[error("record {lsn} ({op}) does not fit the state before it: {why}")]
    Misfit {
        /// The record.
        lsn: Lsn,
        /// Kind of operation.
        op: &'static str,
        /// What does not fit.
        why: String,
    },
}

impl From<ApplyError> for crate::error::Error {
    fn from(e: ApplyError) -> Self {
        use crate::error::{Class, Error};
        let class = match &e {
            ApplyError::Tree { error: TreeError::Log { .. } | TreeError::Blob { damaged: false, .. }, .. } => Class::Io,
            ApplyError::Tree { .. } | ApplyError::Misfit { .. } => Class::Damage,
        };
        Error::new(class, e.to_string()).source(e)
    }
}

/// What goes wrong inside one operation, before it gets its LSN.
enum Wrong {
    Tree(TreeError),
    Misfit(String),
}

impl From<TreeError> for Wrong {
    fn from(e: TreeError) -> Self {
        match e {
            TreeError::NoInode(_) | TreeError::NotDirectory(_) | TreeError::NotFile(_) => Wrong::Misfit(e.to_string()),
            TreeError::Blob { .. }
            | TreeError::Purged { .. }
            | TreeError::Malformed { .. }
            | TreeError::LaterState { .. }
            | TreeError::Log { .. } => Wrong::Tree(e),
        }
    }
}

type Done<T = ()> = Result<T, Wrong>;

/// Metadata of a new inode.
struct Birth<'a> {
    dir: Ino,
    name: &'a [u8],
    ino: Ino,
    mode: u32,
    uid: u32,
    gid: u32,
}

impl Tree {
    /// Carries out the operation of record `lsn`. `payload` says where the bytes of an inline write are: the segment and the offset of the
    /// payload in its file.
    ///
    /// # Errors
    /// [`ApplyError`]. The tree may then hold half of the operation and must not be used further.
    pub fn apply(&mut self, lsn: Lsn, entry: &Entry, payload: Option<(Arc<dyn LogBytes>, u64)>) -> Result<(), ApplyError> {
        let time = entry.stamp.time;
        self.carry_out(lsn, time, &entry.op, payload).map_err(|wrong| match wrong {
            Wrong::Tree(error) => ApplyError::Tree { lsn, error },
            Wrong::Misfit(why) => ApplyError::Misfit { lsn, op: entry.op.name(), why },
        })?;
        self.applied = self.applied.max(lsn);
        self.clock = self.clock.max(entry.stamp.clamped());
        Ok(())
    }

    /// Why a change of names would not fit the tree as it is; `None` when it does. Everything that it looks at is then in memory.
    ///
    /// # Errors
    /// What reading the base says.
    pub fn misfit(&mut self, op: &Operation) -> Result<Option<String>, TreeError> {
        let (at, _) = op.names();
        let Some((dir, name)) = at else { return Ok(None) };
        let here = self.lookup(dir, name)?;
        let taken = |name: &[u8]| Some(format!("the name `{}` is taken", name.escape_ascii()));
        let other = |name: &[u8]| Some(format!("the name `{}` is another inode's, or nobody's", name.escape_ascii()));
        Ok(match op {
            Operation::Unlink(op) if here.map(|c| c.ino) != Some(op.ino) => other(name),
            Operation::Rmdir(op) if here.map(|c| c.ino) != Some(op.ino) => other(name),
            Operation::Rmdir(op) if !self.dir(op.ino)?.is_empty() => Some("the directory is not empty".to_owned()),
            Operation::Rename(op) if here.map(|c| c.ino) != Some(op.ino) => other(name),
            Operation::Rename(op) => {
                let there = self.lookup(op.to_dir, &op.to_name)?.map(|c| c.ino);
                match op.mode {
                    RenameMode::Free if there.is_some() => taken(&op.to_name),
                    RenameMode::Replace(old) | RenameMode::Exchange(old) if there != Some(old) => other(&op.to_name),
                    RenameMode::Free | RenameMode::Replace(_) | RenameMode::Exchange(_) => None,
                }
            }
            Operation::Unlink(_) | Operation::Rmdir(_) => None,
            _ if here.is_some() => taken(name),
            Operation::Link(_) => None,
            op if op.ino().is_some_and(|ino| ino < self.next_ino) => Some("the inode number was used before".to_owned()),
            _ => None,
        })
    }

    fn carry_out(&mut self, lsn: Lsn, t: Time, op: &Operation, payload: Option<(Arc<dyn LogBytes>, u64)>) -> Done {
        match op {
            Operation::Create(op) => {
                let birth = Birth { dir: op.dir, name: &op.name, ino: op.ino, mode: op.mode, uid: op.uid, gid: op.gid };
                self.bear(lsn, t, &birth, FileKind::File, 0, Body::File(FileBody::empty()))
            }
            Operation::Mkdir(op) => {
                let birth = Birth { dir: op.dir, name: &op.name, ino: op.ino, mode: op.mode, uid: op.uid, gid: op.gid };
                self.bear(lsn, t, &birth, FileKind::Directory, 0, Body::Dir(DirBody { loaded: true, ..DirBody::default() }))
            }
            Operation::Mknod(op) => {
                let birth = Birth { dir: op.dir, name: &op.name, ino: op.ino, mode: op.mode, uid: op.uid, gid: op.gid };
                self.bear(lsn, t, &birth, op.what, op.rdev, Body::Special)
            }
            Operation::Symlink(op) => {
                let birth = Birth { dir: op.dir, name: &op.name, ino: op.ino, mode: 0o777, uid: op.uid, gid: op.gid };
                self.bear(lsn, t, &birth, FileKind::Symlink, 0, Body::Symlink(op.target.as_slice().into()))
            }
            Operation::Link(op) => {
                let kind = {
                    let inode = self.touch(lsn, op.ino)?;
                    inode.nlink += 1;
                    inode.attrs.ctime = t;
                    inode.names.push(Name { dir: op.dir, name: op.name.as_slice().into() });
                    inode.kind
                };
                self.enter(lsn, t, op.dir, &op.name, op.ino, kind)
            }
            Operation::Unlink(op) => {
                self.leave(lsn, t, op.dir, &op.name, op.ino)?;
                self.lose_name(lsn, t, op.ino, op.dir, &op.name)
            }
            Operation::Rmdir(op) => {
                self.leave(lsn, t, op.dir, &op.name, op.ino)?;
                self.remove_dir(lsn, t, op.dir, op.ino)
            }
            Operation::Rename(op) => self.rename(lsn, t, op),
            Operation::Write(op) => {
                let source = match (op.data, payload) {
                    (Data::Blob { id, .. }, _) => Source::Blob { id, offset: 0 },
                    (Data::Inline(_), Some((bytes, offset))) => Source::Log { bytes, offset },
                    (Data::Inline(0), None) => Source::Hole,
                    (Data::Inline(_), None) => return Err(Wrong::Misfit("its bytes are not at hand".to_owned())),
                };
                let (inode, file) = self.file(lsn, op.ino)?;
                file.put(op.offset, op.data.len(), source, lsn);
                written(inode, t, op.size_after, op.mode_after);
                Ok(())
            }
            Operation::Truncate(op) => {
                let (inode, file) = self.file(lsn, op.ino)?;
                file.truncate(*inode.size, op.size, lsn);
                written(inode, t, op.size, op.mode_after);
                Ok(())
            }
            Operation::Fallocate(op) => {
                let (inode, file) = self.file(lsn, op.ino)?;
                match op.mode {
                    AllocateMode::Allocate => {}
                    AllocateMode::PunchHole | AllocateMode::ZeroRange => {
                        let end = op.offset.saturating_add(op.len).min(op.size_after);
                        file.put(op.offset, end.saturating_sub(op.offset), Source::Hole, lsn);
                    }
                }
                written(inode, t, op.size_after, None);
                Ok(())
            }
            Operation::Clone(op) => {
                let parts = self.read_plan(op.from, op.from_offset, op.len)?;
                if parts.len() != op.len {
                    return Err(Wrong::Misfit(format!("the source holds {} of {} bytes", parts.len(), op.len)));
                }
                let (inode, file) = self.file(lsn, op.ino)?;
                let mut at = op.offset;
                for (len, source) in parts.parts() {
                    file.put(at, *len, source.clone(), lsn);
                    at += len;
                }
                written(inode, t, op.size_after, op.mode_after);
                Ok(())
            }
            Operation::Chmod(op) => {
                let inode = self.touch(lsn, op.ino)?;
                inode.attrs.mode = op.new;
                inode.attrs.ctime = t;
                Ok(())
            }
            Operation::Chown(op) => {
                let inode = self.touch(lsn, op.ino)?;
                (inode.attrs.uid, inode.attrs.gid) = op.new;
                inode.attrs.mode = op.mode_after.unwrap_or(inode.attrs.mode);
                inode.attrs.ctime = t;
                Ok(())
            }
            Operation::Utimens(op) => {
                let inode = self.touch(lsn, op.ino)?;
                inode.attrs.atime = op.atime.unwrap_or(inode.attrs.atime);
                inode.attrs.mtime = op.mtime.unwrap_or(inode.attrs.mtime);
                inode.attrs.ctime = t;
                Ok(())
            }
            Operation::SetXattr(op) => {
                let inode = self.touch(lsn, op.ino)?;
                inode.xattrs.insert(op.name.clone(), op.value.clone());
                inode.attrs.ctime = t;
                Ok(())
            }
            Operation::RemoveXattr(op) => {
                let inode = self.touch(lsn, op.ino)?;
                inode.xattrs.remove(&op.name);
                inode.attrs.ctime = t;
                Ok(())
            }
            Operation::Forget(op) => {
                if self.inode(op.ino)?.nlink != 0 {
                    return Err(Wrong::Misfit(format!("inode {} still has a name", op.ino)));
                }
                self.inodes.remove(&op.ino);
                self.orphans.remove(&op.ino);
                self.gone.insert(op.ino, lsn);
                self.dirty.insert(op.ino);
                Ok(())
            }
            Operation::Mark(_) => Ok(()),
        }
    }

    /// The inode, now changed by `lsn`.
    fn touch(&mut self, lsn: Lsn, ino: Ino) -> Done<&mut Inode> {
        self.load_inode(ino)?;
        self.dirty.insert(ino);
        let inode = self.inodes.get_mut(&ino).map(Box::as_mut).ok_or(TreeError::NoInode(ino))?;
        inode.changed = inode.changed.max(lsn);
        Ok(inode)
    }

    fn file(&mut self, lsn: Lsn, ino: Ino) -> Done<(FileMeta<'_>, &mut FileBody)> {
        let inode = self.touch(lsn, ino)?;
        match &mut inode.body {
            Body::File(file) => Ok((FileMeta { size: &mut inode.size, attrs: &mut inode.attrs }, file)),
            Body::Dir(_) | Body::Symlink(_) | Body::Special => Err(TreeError::NotFile(ino).into()),
        }
    }

    /// The directory's entries, now changed by `lsn` at `t`.
    fn entries(&mut self, lsn: Lsn, t: Time, dir: Ino) -> Done<&mut DirBody> {
        self.load_dir(dir)?;
        let (mtime, ctime) = self.sets_times(lsn, dir, true);
        let inode = self.touch(lsn, dir)?;
        if mtime {
            inode.attrs.mtime = t;
        }
        if ctime {
            inode.attrs.ctime = t;
        }
        match &mut inode.body {
            Body::Dir(body) => Ok(body),
            Body::File(_) | Body::Symlink(_) | Body::Special => Err(TreeError::NotDirectory(dir).into()),
        }
    }

    fn enter(&mut self, lsn: Lsn, t: Time, dir: Ino, name: &[u8], ino: Ino, kind: FileKind) -> Done {
        self.enter_at(lsn, t, (dir, name), ino, kind, None)
    }

    /// The same at an offset for readdir that was given up just before.
    fn enter_at(&mut self, lsn: Lsn, t: Time, (dir, name): (Ino, &[u8]), ino: Ino, kind: FileKind, cookie: Option<u64>) -> Done {
        let body = self.entries(lsn, t, dir)?;
        if body.get(name).is_some() {
            return Err(Wrong::Misfit(format!("the name `{}` is taken", name.escape_ascii())));
        }
        match cookie {
            Some(cookie) => body.insert_at(name.into(), ino, kind, cookie),
            None => body.insert(name.into(), ino, kind),
        }
        Ok(())
    }

    /// Takes a name out of its directory; gives the offset for readdir that it had.
    fn leave(&mut self, lsn: Lsn, t: Time, dir: Ino, name: &[u8], ino: Ino) -> Done<u64> {
        let body = self.entries(lsn, t, dir)?;
        match body.remove(name) {
            Some(child) if child.ino == ino => Ok(child.cookie),
            Some(child) => Err(Wrong::Misfit(format!("the name `{}` is inode {}, not {ino}", name.escape_ascii(), child.ino))),
            None => Err(Wrong::Misfit(format!("there is no name `{}` in inode {dir}", name.escape_ascii()))),
        }
    }

    fn bear(&mut self, lsn: Lsn, t: Time, birth: &Birth<'_>, kind: FileKind, rdev: u32, body: Body) -> Done {
        if !self.is_unused(birth.ino) {
            return Err(Wrong::Misfit(format!("inode number {} was used before", birth.ino)));
        }
        self.enter(lsn, t, birth.dir, birth.name, birth.ino, kind)?;
        let is_dir = kind == FileKind::Directory;
        let size = if let Body::Symlink(target) = &body { target.len() as u64 } else { 0 };
        let inode = Inode {
            kind,
            attrs: Attributes { mode: birth.mode, uid: birth.uid, gid: birth.gid, rdev, atime: t, mtime: t, ctime: t, birth: t },
            xattrs: Xattrs::new(),
            nlink: if is_dir { 2 } else { 1 },
            size,
            names: vec![Name { dir: birth.dir, name: birth.name.into() }],
            body,
            changed: lsn,
            in_table: false,
        };
        self.inodes.insert(birth.ino, Box::new(inode));
        self.dirty.insert(birth.ino);
        self.next_ino = self.next_ino.max(birth.ino.next());
        if is_dir {
            self.touch(lsn, birth.dir)?.nlink += 1;
        }
        Ok(())
    }

    /// A file's name has been taken out of its directory; here the inode loses it.
    fn lose_name(&mut self, lsn: Lsn, t: Time, ino: Ino, dir: Ino, name: &[u8]) -> Done {
        let inode = self.touch(lsn, ino)?;
        inode.attrs.ctime = t;
        inode.nlink = inode.nlink.saturating_sub(1);
        inode.names.retain(|n| n.dir != dir || *n.name != *name);
        if inode.nlink == 0 {
            self.orphans.insert(ino);
        }
        Ok(())
    }

    /// An empty directory has been taken out of `parent`; here it becomes an inode without a name.
    fn remove_dir(&mut self, lsn: Lsn, t: Time, parent: Ino, ino: Ino) -> Done {
        if !self.dir(ino)?.is_empty() {
            return Err(Wrong::Misfit(format!("directory {ino} is not empty")));
        }
        let inode = self.touch(lsn, ino)?;
        inode.nlink = 0;
        inode.names.clear();
        inode.attrs.ctime = t;
        self.orphans.insert(ino);
        let parent = self.touch(lsn, parent)?;
        parent.nlink = parent.nlink.saturating_sub(1);
        Ok(())
    }

    fn rename(&mut self, lsn: Lsn, t: Time, op: &crate::op::Rename) -> Done {
        let kind = self.inode(op.ino)?.kind;
        match op.mode {
            RenameMode::Exchange(other) => {
                let other_kind = self.inode(other)?.kind;
                self.entries(lsn, t, op.dir)?.replace(&op.name, other, other_kind);
                self.entries(lsn, t, op.to_dir)?.replace(&op.to_name, op.ino, kind);
                self.move_name(lsn, t, op.ino, (op.dir, &op.name), (op.to_dir, &op.to_name))?;
                self.move_name(lsn, t, other, (op.to_dir, &op.to_name), (op.dir, &op.name))?;
                if op.dir != op.to_dir {
                    self.count_subdirs(lsn, op.dir, i64::from(other_kind == FileKind::Directory) - i64::from(kind == FileKind::Directory))?;
                    self.count_subdirs(
                        lsn,
                        op.to_dir,
                        i64::from(kind == FileKind::Directory) - i64::from(other_kind == FileKind::Directory),
                    )?;
                }
            }
            RenameMode::Free | RenameMode::Replace(_) => {
                let left = self.leave(lsn, t, op.dir, &op.name, op.ino)?;
                let mut cookie = (op.dir == op.to_dir).then_some(left);
                if let RenameMode::Replace(old) = op.mode {
                    cookie = Some(self.leave(lsn, t, op.to_dir, &op.to_name, old)?);
                    if self.inode(old)?.kind == FileKind::Directory {
                        self.remove_dir(lsn, t, op.to_dir, old)?;
                    } else {
                        self.lose_name(lsn, t, old, op.to_dir, &op.to_name)?;
                    }
                }
                self.enter_at(lsn, t, (op.to_dir, &op.to_name), op.ino, kind, cookie)?;
                self.move_name(lsn, t, op.ino, (op.dir, &op.name), (op.to_dir, &op.to_name))?;
                if kind == FileKind::Directory && op.dir != op.to_dir {
                    self.count_subdirs(lsn, op.dir, -1)?;
                    self.count_subdirs(lsn, op.to_dir, 1)?;
                }
            }
        }
        Ok(())
    }

    fn count_subdirs(&mut self, lsn: Lsn, dir: Ino, by: i64) -> Done {
        let inode = self.touch(lsn, dir)?;
        inode.nlink = u32::try_from(i64::from(inode.nlink) + by).unwrap_or(inode.nlink);
        Ok(())
    }

    fn move_name(&mut self, lsn: Lsn, t: Time, ino: Ino, from: (Ino, &[u8]), to: (Ino, &[u8])) -> Done {
        let (_, ctime) = self.sets_times(lsn, ino, false);
        let inode = self.touch(lsn, ino)?;
        if ctime {
            inode.attrs.ctime = t;
        }
        match inode.names.iter_mut().find(|n| n.dir == from.0 && *n.name == *from.1) {
            Some(name) => *name = Name { dir: to.0, name: to.1.into() },
            None => return Err(Wrong::Misfit(format!("inode {ino} has no name `{}` in inode {}", from.1.escape_ascii(), from.0))),
        }
        Ok(())
    }
}

/// The part of an inode that a write changes beside its bytes.
struct FileMeta<'a> {
    size: &'a mut u64,
    attrs: &'a mut Attributes,
}

fn written(inode: FileMeta<'_>, t: Time, size: u64, mode: Option<u32>) {
    *inode.size = size;
    (inode.attrs.mtime, inode.attrs.ctime) = (t, t);
    inode.attrs.mode = mode.unwrap_or(inode.attrs.mode);
}

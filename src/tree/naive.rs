//! What operations mean, told a second time and as simply as can be: whole files as byte vectors, directories as maps. For tests; it shares
//! no code with the tree.

use std::collections::BTreeMap;

use crate::ids::{BlobId, Ino, Time};
use crate::op::{AllocateMode, Entry, Operation, RenameMode};
use crate::versions::node::{Attributes, FileKind, Xattrs};

#[derive(Clone, Debug)]
struct Thing {
    kind: FileKind,
    attrs: Attributes,
    xattrs: Xattrs,
    nlink: u32,
    /// Of a file or a link.
    bytes: Vec<u8>,
    /// Of a directory.
    entries: BTreeMap<Vec<u8>, Ino>,
}

/// A whole tree in memory.
#[derive(Clone, Debug)]
pub struct Naive(BTreeMap<Ino, Thing>);

impl Naive {
    /// An empty project.
    pub fn new() -> Self {
        let attrs = Attributes { mode: 0o755, ..Attributes::default() };
        let root = Thing { kind: FileKind::Directory, attrs, xattrs: Xattrs::new(), nlink: 2, bytes: Vec::new(), entries: BTreeMap::new() };
        Naive(BTreeMap::from([(Ino::ROOT, root)]))
    }

    fn at(&mut self, ino: Ino) -> &mut Thing {
        self.0.get_mut(&ino).unwrap_or_else(|| panic!("there is no inode {ino}"))
    }

    fn changed(&mut self, ino: Ino, t: Time) -> &mut Thing {
        let it = self.at(ino);
        it.attrs.ctime = t;
        it
    }

    fn written(&mut self, ino: Ino, t: Time, size: u64, mode: Option<u32>) -> &mut Thing {
        let it = self.changed(ino, t);
        it.attrs.mtime = t;
        it.attrs.mode = mode.unwrap_or(it.attrs.mode);
        it.bytes.resize(size as usize, 0);
        it
    }

    fn entries(&mut self, dir: Ino, t: Time) -> &mut BTreeMap<Vec<u8>, Ino> {
        let it = self.changed(dir, t);
        it.attrs.mtime = t;
        &mut it.entries
    }

    fn is_dir(&mut self, ino: Ino) -> bool {
        self.at(ino).kind == FileKind::Directory
    }

    fn birth(&mut self, (dir, name): (Ino, &[u8]), ino: Ino, kind: FileKind, (mode, uid, gid, rdev): (u32, u32, u32, u32), t: Time) {
        assert_eq!(self.entries(dir, t).insert(name.to_vec(), ino), None);
        let attrs = Attributes { mode, uid, gid, rdev, atime: t, mtime: t, ctime: t, birth: t };
        let nlink = if kind == FileKind::Directory { 2 } else { 1 };
        let thing = Thing { kind, attrs, xattrs: Xattrs::new(), nlink, bytes: Vec::new(), entries: BTreeMap::new() };
        assert!(self.0.insert(ino, thing).is_none());
        if kind == FileKind::Directory {
            self.at(dir).nlink += 1;
        }
    }

    /// The name has gone; so does one link, or the directory.
    fn lose(&mut self, dir: Ino, ino: Ino, t: Time) {
        if self.is_dir(ino) {
            assert!(self.at(ino).entries.is_empty());
            self.changed(ino, t).nlink = 0;
            self.at(dir).nlink -= 1;
        } else {
            self.changed(ino, t).nlink -= 1;
        }
    }

    /// Carries out an operation; `bytes` are those of a write.
    pub fn apply(&mut self, entry: &Entry, bytes: Option<&[u8]>) {
        let t = entry.stamp.time;
        match &entry.op {
            Operation::Create(o) => self.birth((o.dir, &o.name), o.ino, FileKind::File, (o.mode, o.uid, o.gid, 0), t),
            Operation::Mkdir(o) => self.birth((o.dir, &o.name), o.ino, FileKind::Directory, (o.mode, o.uid, o.gid, 0), t),
            Operation::Mknod(o) => self.birth((o.dir, &o.name), o.ino, o.what, (o.mode, o.uid, o.gid, o.rdev), t),
            Operation::Symlink(o) => {
                self.birth((o.dir, &o.name), o.ino, FileKind::Symlink, (0o777, o.uid, o.gid, 0), t);
                self.at(o.ino).bytes.clone_from(&o.target);
            }
            Operation::Link(o) => {
                self.changed(o.ino, t).nlink += 1;
                assert_eq!(self.entries(o.dir, t).insert(o.name.clone(), o.ino), None);
            }
            Operation::Unlink(o) => {
                assert_eq!(self.entries(o.dir, t).remove(&o.name), Some(o.ino));
                self.lose(o.dir, o.ino, t);
            }
            Operation::Rmdir(o) => {
                assert_eq!(self.entries(o.dir, t).remove(&o.name), Some(o.ino));
                self.lose(o.dir, o.ino, t);
            }
            Operation::Rename(o) => {
                assert_eq!(self.entries(o.dir, t).remove(&o.name), Some(o.ino));
                let there = self.entries(o.to_dir, t).insert(o.to_name.clone(), o.ino);
                self.changed(o.ino, t);
                if self.is_dir(o.ino) {
                    self.at(o.dir).nlink -= 1;
                    self.at(o.to_dir).nlink += 1;
                }
                match o.mode {
                    RenameMode::Free => assert_eq!(there, None),
                    RenameMode::Replace(old) => {
                        assert_eq!(there, Some(old));
                        self.lose(o.to_dir, old, t);
                    }
                    RenameMode::Exchange(other) => {
                        assert_eq!(there, Some(other));
                        self.entries(o.dir, t).insert(o.name.clone(), other);
                        self.changed(other, t);
                        if self.is_dir(other) {
                            self.at(o.to_dir).nlink -= 1;
                            self.at(o.dir).nlink += 1;
                        }
                    }
                }
            }
            Operation::Write(o) => {
                let (at, bytes) = (o.offset as usize, bytes.unwrap_or_default());
                self.written(o.ino, t, o.size_after, o.mode_after).bytes[at..at + bytes.len()].copy_from_slice(bytes);
            }
            Operation::Truncate(o) => _ = self.written(o.ino, t, o.size, o.mode_after),
            Operation::Fallocate(o) => {
                let it = self.written(o.ino, t, o.size_after, None);
                let end = (o.offset + o.len).min(o.size_after) as usize;
                if o.mode != AllocateMode::Allocate && (o.offset as usize) < end {
                    it.bytes[o.offset as usize..end].fill(0);
                }
            }
            Operation::Clone(o) => {
                let source = self.at(o.from).bytes[o.from_offset as usize..(o.from_offset + o.len) as usize].to_vec();
                let at = o.offset as usize;
                self.written(o.ino, t, o.size_after, o.mode_after).bytes[at..at + source.len()].copy_from_slice(&source);
            }
            Operation::Chmod(o) => self.changed(o.ino, t).attrs.mode = o.new,
            Operation::Chown(o) => {
                let attrs = &mut self.changed(o.ino, t).attrs;
                (attrs.uid, attrs.gid) = o.new;
                attrs.mode = o.mode_after.unwrap_or(attrs.mode);
            }
            Operation::Utimens(o) => {
                let attrs = &mut self.changed(o.ino, t).attrs;
                attrs.atime = o.atime.unwrap_or(attrs.atime);
                attrs.mtime = o.mtime.unwrap_or(attrs.mtime);
            }
            Operation::SetXattr(o) => _ = self.changed(o.ino, t).xattrs.insert(o.name.clone(), o.value.clone()),
            Operation::RemoveXattr(o) => _ = self.changed(o.ino, t).xattrs.remove(&o.name),
            Operation::Forget(o) => assert_eq!(self.0.remove(&o.ino).map(|it| it.nlink), Some(0)),
            Operation::Mark(_) => {}
        }
    }

    /// Every path with its inode.
    pub fn paths(&self) -> BTreeMap<Vec<u8>, Ino> {
        let mut out = BTreeMap::new();
        let mut work = vec![(Vec::new(), Ino::ROOT)];
        while let Some((path, ino)) = work.pop() {
            for (name, child) in &self.0[&ino].entries {
                let at = if path.is_empty() { name.clone() } else { [path.as_slice(), name].join(&b'/') };
                work.push((at, *child));
            }
            out.insert(path, ino);
        }
        out
    }

    /// The bytes of a file or link; none where there is no such inode.
    pub fn bytes(&self, ino: Ino) -> Vec<u8> {
        self.0.get(&ino).map(|it| it.bytes.clone()).unwrap_or_default()
    }

    /// What can be seen of an inode, as [`super::testing::dump`] shows it.
    pub fn show(&self, ino: Ino) -> String {
        let it = &self.0[&ino];
        show(ino, (it.kind, &it.attrs, it.nlink, &it.xattrs), &it.bytes)
    }

    /// Everything that can be seen, as [`super::testing::dump`] shows it.
    pub fn dump(&self) -> BTreeMap<Vec<u8>, String> {
        self.paths().into_iter().map(|(path, ino)| (path, self.show(ino))).collect()
    }
}

/// What can be seen of an inode with these attributes and bytes.
pub fn show(ino: Ino, (kind, attrs, nlink, xattrs): (FileKind, &Attributes, u32, &Xattrs), bytes: &[u8]) -> String {
    let hash = match kind {
        FileKind::File | FileKind::Symlink => BlobId::of(bytes).to_string(),
        _ => String::new(),
    };
    format!("{ino} {kind:?} {attrs:?} {nlink} {} {xattrs:?} {hash}", bytes.len())
}

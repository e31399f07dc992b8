//! Blobs and log bytes in memory, and random valid operations: for tests of everything that works on trees.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use rand::prelude::*;

use super::{BlobRead, BlobWrite, Body, LogBytes, Tree, TreeError};
use crate::ids::{BlobId, Ino, Lsn, SegmentId, Time};
use crate::op::{
    AllocateMode, BLOB_THRESHOLD, Chmod, Chown, Clone, Create, Data, Entry, Fallocate, Forget, Link, Mkdir, Mknod, Operation, RemoveXattr,
    Rename, RenameMode, Rmdir, SetXattr, Stamp, Symlink, Truncate, Unlink, Utimens, Write,
};
use crate::versions::node::FileKind;

/// Blobs in memory.
#[derive(Debug, Default)]
pub struct MemoryBlobs(Mutex<HashMap<BlobId, Vec<u8>>>);

impl MemoryBlobs {
    fn with<T>(&self, id: &BlobId, f: impl FnOnce(&[u8]) -> Option<T>) -> Result<T, TreeError> {
        let map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        map.get(id).and_then(|b| f(b)).ok_or(TreeError::Blob { id: *id, why: "missing".to_owned(), damaged: true, full: false })
    }
}

impl BlobRead for MemoryBlobs {
    fn get(&self, id: &BlobId) -> Result<Vec<u8>, TreeError> {
        self.with(id, |b| Some(b.to_vec()))
    }

    fn read_at(&self, id: &BlobId, offset: u64, buf: &mut [u8]) -> Result<(), TreeError> {
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        self.with(id, |b| b.get(at..at.checked_add(buf.len())?).map(|part| buf.copy_from_slice(part)))
    }
}

impl BlobWrite for MemoryBlobs {
    fn put(&self, bytes: &[u8]) -> Result<BlobId, TreeError> {
        let id = BlobId::of(bytes);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(id, bytes.to_vec());
        Ok(id)
    }
}

/// A log segment in memory: one payload.
#[derive(Debug)]
pub struct MemoryLog(pub Vec<u8>);

impl LogBytes for MemoryLog {
    fn segment(&self) -> SegmentId {
        SegmentId(1)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let at = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let part = self.0.get(at..at + buf.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(part);
        Ok(())
    }
}

/// One random operation that is valid in `tree`, on one of so many names in each directory, with the bytes of an inline write.
pub fn random_operation(tree: &mut Tree, blobs: &MemoryBlobs, rng: &mut StdRng, names: u32) -> (Operation, Option<Vec<u8>>) {
    loop {
        if let Some(op) = try_random(tree, blobs, rng, names) {
            return op;
        }
    }
}

fn try_random(tree: &mut Tree, blobs: &MemoryBlobs, rng: &mut StdRng, names: u32) -> Option<(Operation, Option<Vec<u8>>)> {
    let all = all_inodes(tree);
    let dirs: Vec<Ino> = all.iter().filter(|(_, k)| *k == FileKind::Directory).map(|(i, _)| *i).collect();
    let files: Vec<Ino> = all.iter().filter(|(_, k)| *k == FileKind::File).map(|(i, _)| *i).chain(tree.orphans()).collect();
    let dir = *dirs.choose(rng)?;
    let name = format!("n{}", rng.random_range(0..names)).into_bytes();
    let ino = tree.next_ino();
    let here = tree.lookup(dir, &name).ok()?;
    let (mode, uid, gid) = (rng.random_range(0..0o1000), rng.random_range(0..3), 0);
    let file = files.choose(rng).copied().filter(|f| matches!(tree.inode(*f).map(|i| &i.body), Ok(Body::File(_))));
    let any = all.choose(rng)?.0;
    Some((
        match rng.random_range(0..24) {
            0..=4 if here.is_none() => Create { dir, name, ino, mode, uid, gid }.into(),
            5 if here.is_none() => Mkdir { dir, name, ino, mode, uid, gid }.into(),
            6 if here.is_none() => Symlink { dir, name, ino, target: b"somewhere".to_vec(), uid, gid }.into(),
            7 if here.is_none() => Mknod { dir, name, ino, what: FileKind::Fifo, mode, uid, gid, rdev: 0 }.into(),
            8 if here.is_none() => {
                let ino = file?;
                if tree.inode(ino).ok()?.nlink == 0 {
                    return None;
                }
                Link { ino, dir, name }.into()
            }
            9 => {
                let child = here?;
                if child.kind == FileKind::Directory {
                    if !tree.dir(child.ino).ok()?.is_empty() {
                        return None;
                    }
                    Rmdir { dir, name, ino: child.ino }.into()
                } else {
                    Unlink { dir, name, ino: child.ino }.into()
                }
            }
            10 | 11 => return rename(tree, rng, &dirs, dir, name, names),
            12..=15 => {
                let ino = file?;
                let size = tree.inode(ino).ok()?.size;
                let big = rng.random_bool(0.2);
                let len = if big { rng.random_range(BLOB_THRESHOLD..400_000) } else { rng.random_range(1..5000) };
                let mut bytes = vec![0; len];
                rng.fill_bytes(&mut bytes);
                let offset = rng.random_range(0..=size + 1000);
                let data = if big { Data::Blob { id: blobs.put(&bytes).ok()?, len: len as u32 } } else { Data::Inline(len as u32) };
                let op = Write { ino, offset, data, size_after: size.max(offset + len as u64), mode_after: None };
                return Some((op.into(), (!big).then_some(bytes)));
            }
            16 => {
                let ino = file?;
                let old_size = tree.inode(ino).ok()?.size;
                Truncate { ino, old_size, size: rng.random_range(0..600_000), mode_after: None }.into()
            }
            17 => {
                let ino = file?;
                let size = tree.inode(ino).ok()?.size;
                let mode = *[AllocateMode::Allocate, AllocateMode::PunchHole, AllocateMode::ZeroRange].choose(rng)?;
                let (offset, len) = (rng.random_range(0..=size), rng.random_range(1..200_000));
                let size_after = if mode == AllocateMode::PunchHole { size } else { size.max(offset + len) };
                Fallocate { ino, mode, offset, len, size_after }.into()
            }
            18 => {
                let (from, ino) = (file?, *files.choose(rng)?);
                if from == ino || !matches!(tree.inode(ino).ok()?.body, Body::File(_)) {
                    return None;
                }
                let (from_size, size) = (tree.inode(from).ok()?.size, tree.inode(ino).ok()?.size);
                let from_offset = rng.random_range(0..=from_size);
                let len = rng.random_range(0..=from_size - from_offset);
                let offset = rng.random_range(0..=size + 10);
                Clone { from, from_offset, ino, offset, len, size_after: size.max(offset + len), mode_after: None }.into()
            }
            19 => Chmod { ino: any, old: tree.inode(any).ok()?.attrs.mode, new: mode }.into(),
            20 => Chown { ino: any, old: (0, 0), new: (uid, gid), mode_after: None }.into(),
            21 => Utimens {
                ino: any,
                old: (Time::default(), Time::default()),
                atime: None,
                mtime: Some(Time { secs: rng.random_range(-5..5), nanos: 7 }),
            }
            .into(),
            22 => SetXattr { ino: any, name: b"user.x".to_vec(), value: vec![1; rng.random_range(0..50)] }.into(),
            23 => match tree.orphans().choose(rng) {
                Some(ino) => Forget { ino: *ino }.into(),
                None => RemoveXattr { ino: any, name: b"user.x".to_vec() }.into(),
            },
            _ => return None,
        },
        None,
    ))
}

fn rename(tree: &mut Tree, rng: &mut StdRng, dirs: &[Ino], dir: Ino, name: Vec<u8>, names: u32) -> Option<(Operation, Option<Vec<u8>>)> {
    let child = tree.lookup(dir, &name).ok()??;
    let to_dir = *dirs.choose(rng)?;
    let to_name = format!("n{}", rng.random_range(0..names)).into_bytes();
    let there = tree.lookup(to_dir, &to_name).ok()?;
    if child.kind == FileKind::Directory && tree.is_within(to_dir, child.ino).ok()? {
        return None;
    }
    let mode = match there {
        None => RenameMode::Free,
        Some(t) if t.ino == child.ino => return None,
        Some(t) if rng.random_bool(0.4) => {
            if t.kind == FileKind::Directory && tree.is_within(dir, t.ino).ok()? {
                return None;
            }
            RenameMode::Exchange(t.ino)
        }
        Some(t) if (t.kind == FileKind::Directory) != (child.kind == FileKind::Directory) => return None,
        Some(t) if t.kind == FileKind::Directory && !tree.dir(t.ino).ok()?.is_empty() => return None,
        Some(t) => RenameMode::Replace(t.ino),
    };
    Some((Rename { dir, name, ino: child.ino, to_dir, to_name, mode }.into(), None))
}

/// Every inode that has a name, from the root down.
pub fn all_inodes(tree: &mut Tree) -> Vec<(Ino, FileKind)> {
    let mut found = vec![(Ino::ROOT, FileKind::Directory)];
    let mut at = 0;
    while let Some((ino, kind)) = found.get(at).copied() {
        at += 1;
        if kind == FileKind::Directory {
            let Ok(mut children) = tree.children(ino) else { continue };
            children.sort();
            for (_, ino, kind) in children {
                if !found.contains(&(ino, kind)) {
                    found.push((ino, kind));
                }
            }
        }
    }
    found
}

/// Applies an operation with the stamp of second `lsn`.
pub fn apply(tree: &mut Tree, lsn: Lsn, op: &Operation, bytes: Option<&[u8]>) {
    let entry = Entry { stamp: Stamp { time: Time { secs: 1_000_000 + lsn.0 as i64, nanos: 5 }, ..Stamp::default() }, op: op.clone() };
    let payload = bytes.map(|b| (Arc::new(MemoryLog(b.to_vec())) as Arc<dyn LogBytes>, 0));
    if let Err(e) = tree.apply(lsn, &entry, payload) {
        panic!("{e}");
    }
}

/// Everything that can be seen of a tree: path to attributes, links, size, bytes and xattrs.
pub fn dump(tree: &mut Tree) -> BTreeMap<Vec<u8>, String> {
    let mut out = BTreeMap::new();
    let mut work = vec![(Vec::new(), Ino::ROOT)];
    while let Some((path, ino)) = work.pop() {
        let inode = tree.inode(ino).unwrap();
        let (kind, text) =
            (inode.kind, format!("{ino} {:?} {:?} {} {} {:?}", inode.kind, inode.attrs, inode.nlink, inode.size, inode.xattrs));
        let bytes = match kind {
            FileKind::File | FileKind::Symlink => match tree.read_all(ino) {
                Err(TreeError::Purged { id, .. }) => format!("purged {id}"),
                bytes => BlobId::of(&bytes.unwrap()).to_string(),
            },
            _ => String::new(),
        };
        if kind == FileKind::Directory {
            for (name, child, _) in tree.children(ino).unwrap() {
                let at = if path.is_empty() { name } else { [path.as_slice(), &name].join(&b'/') };
                work.push((at, child));
            }
        }
        out.insert(path, format!("{text} {bytes}"));
    }
    out
}

//! Random histories over all operations against a model that shares no code with the tree: whole files as byte vectors, directories as maps,
//! attributes as plain numbers. After each history the log alone must give the same tree. `IZE_TEST_HISTORIES` says how many; what fails is
//! shrunk. The same through a mount and against another file system: tests/histories.rs.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::testing::memory_fs;
use super::*;
use crate::tree::SIZE_MAX;

use crate::ids::Time;
use crate::versions::node::FileKind;

const ROOT: Caller = Caller { pid: 0, uid: 0, gid: 0 };
const XATTRS: [&[u8]; 5] = [b"user.a", b"user.b", b"trusted.c", b"security.d", b"user.e"];
const NAMES: [&[u8]; 5] = [b"a", b"b", b"c", b"d", b"e"];
/// Files stay below this, so that the model can hold them.
const LIMIT: u64 = 300_000;

/// One step; indexes are taken modulo what there is.
#[derive(Clone, Debug)]
enum Step {
    Create(usize, usize),
    Mkdir(usize, usize),
    Unlink(usize, usize),
    Rmdir(usize, usize),
    Link(usize, usize, usize),
    Rename(usize, usize, usize, usize, u8),
    Write(usize, u64, usize, u8),
    Truncate(usize, u64),
    Punch(usize, u64, u64),
    Zero(usize, u64, u64, bool),
    Copy(usize, u64, usize, u64, u64),
    Close(usize),
    Symlink(usize, usize, usize),
    Mknod(usize, usize, u8),
    Readlink(usize),
    Chmod(usize, u32),
    Chown(usize, Option<u32>, Option<u32>),
    Utimens(usize, Option<i64>, Option<i64>),
    SetXattr(usize, usize, usize, i32),
    RemoveXattr(usize, usize),
    Allocate(usize, u64, u64, bool),
}

fn step() -> impl Strategy<Value = Step> {
    let offset = || prop_oneof![0..LIMIT, (0..8u64).prop_map(|i| i * 4096), Just(0)];
    let len = || prop_oneof![0..200_000u64, 0..5000u64, Just(4096)];
    let any = 0usize..100;
    let name = 0usize..5;
    prop_oneof![
        2 => (any.clone(), name.clone()).prop_map(|(d, n)| Step::Create(d, n)),
        2 => (any.clone(), name.clone()).prop_map(|(d, n)| Step::Mkdir(d, n)),
        1 => (any.clone(), name.clone()).prop_map(|(d, n)| Step::Unlink(d, n)),
        1 => (any.clone(), name.clone()).prop_map(|(d, n)| Step::Rmdir(d, n)),
        1 => (any.clone(), any.clone(), name.clone()).prop_map(|(f, d, n)| Step::Link(f, d, n)),
        2 => (any.clone(), name.clone(), any.clone(), name.clone(), 0u8..3).prop_map(|(d, n, e, m, k)| Step::Rename(d, n, e, m, k)),
        4 => (any.clone(), offset(), 0usize..100_000, 1u8..).prop_map(|(f, o, l, b)| Step::Write(f, o, l, b)),
        2 => (any.clone(), offset()).prop_map(|(f, s)| Step::Truncate(f, s)),
        1 => (any.clone(), offset(), len()).prop_map(|(f, o, l)| Step::Punch(f, o, l)),
        1 => (any.clone(), offset(), len(), proptest::bool::ANY).prop_map(|(f, o, l, k)| Step::Zero(f, o, l, k)),
        2 => (any.clone(), offset(), any.clone(), offset(), len()).prop_map(|(f, a, g, b, l)| Step::Copy(f, a, g, b, l)),
        1 => any.clone().prop_map(Step::Close),
        1 => (any.clone(), name.clone(), 1usize..300).prop_map(|(d, n, l)| Step::Symlink(d, n, l)),
        1 => (any.clone(), name.clone(), 0u8..4).prop_map(|(d, n, k)| Step::Mknod(d, n, k)),
        1 => any.clone().prop_map(Step::Readlink),
        1 => (any.clone(), 0u32..0o10000).prop_map(|(i, m)| Step::Chmod(i, m)),
        1 => (any.clone(), proptest::option::of(0u32..9), proptest::option::of(0u32..9)).prop_map(|(i, u, g)| Step::Chown(i, u, g)),
        1 => (any.clone(), proptest::option::of(-9i64..1 << 40), proptest::option::of(-9i64..9)).prop_map(|(i, a, m)| Step::Utimens(i, a, m)),
        2 => (any.clone(), name.clone(), 0usize..70_000, 0i32..3).prop_map(|(i, n, l, f)| Step::SetXattr(i, n, l, f)),
        1 => (any.clone(), name).prop_map(|(i, n)| Step::RemoveXattr(i, n)),
        1 => any.clone().prop_map(|f| Step::Truncate(f, 0)),
        1 => (any, offset(), len(), proptest::bool::ANY).prop_map(|(f, o, l, k)| Step::Allocate(f, o, l, k)),
    ]
}

#[derive(Debug, Default)]
struct Model {
    dirs: BTreeMap<Ino, BTreeMap<&'static [u8], Ino>>,
    /// Everything but directories: bytes (of a link its target) and number of names. One without a name is open.
    files: BTreeMap<Ino, (Vec<u8>, u32)>,
    metas: BTreeMap<Ino, Meta>,
}

#[derive(Clone, Debug)]
struct Meta {
    kind: FileKind,
    mode: u32,
    owner: (u32, u32),
    /// Where they were set by hand and not moved since.
    times: (Option<Time>, Option<Time>),
    xattrs: BTreeMap<&'static [u8], Vec<u8>>,
}

impl Meta {
    fn new(kind: FileKind, mode: u32) -> Self {
        Meta { kind, mode, owner: (0, 0), times: (None, None), xattrs: BTreeMap::new() }
    }
}

impl Model {
    fn dir(&self, index: usize) -> Ino {
        *self.dirs.keys().nth(index % self.dirs.len()).unwrap()
    }

    /// A regular file.
    fn file(&self, index: usize) -> Option<Ino> {
        let files: Vec<Ino> = self.files.keys().copied().filter(|i| self.metas[i].kind == FileKind::File).collect();
        if files.is_empty() { None } else { files.get(index % files.len()).copied() }
    }

    /// Anything but a directory.
    fn leaf(&self, index: usize) -> Option<Ino> {
        if self.files.is_empty() { None } else { self.files.keys().nth(index % self.files.len()).copied() }
    }

    /// Anything.
    fn any(&self, index: usize) -> Ino {
        *self.metas.keys().nth(index % self.metas.len()).unwrap()
    }

    fn make(&mut self, dir: Ino, name: &'static [u8], ino: Ino, kind: FileKind, mode: u32, bytes: Vec<u8>) {
        self.dirs.get_mut(&dir).unwrap().insert(name, ino);
        self.metas.insert(ino, Meta::new(kind, mode));
        self.names_change(dir);
        if kind == FileKind::Directory {
            self.dirs.insert(ino, BTreeMap::new());
        } else {
            self.files.insert(ino, (bytes, 1));
        }
    }

    /// What a directory's own times were set to is gone.
    fn names_change(&mut self, dir: Ino) {
        self.metas.get_mut(&dir).unwrap().times.1 = None;
    }

    /// The bytes of a file, which are about to change.
    fn bytes(&mut self, file: Ino) -> &mut Vec<u8> {
        self.metas.get_mut(&file).unwrap().times.1 = None;
        &mut self.files.get_mut(&file).unwrap().0
    }

    fn within(&self, below: Ino, dir: Ino) -> bool {
        below == dir || self.dirs[&dir].values().any(|child| self.dirs.contains_key(child) && self.within(below, *child))
    }

    fn drop_name(&mut self, ino: Ino) {
        if let Some((_, nlink)) = self.files.get_mut(&ino) {
            *nlink -= 1;
        }
    }

    /// Which errno a rename gives, 0 for none; checked in the order of Linux.
    fn rename(&mut self, (d, n): (Ino, &'static [u8]), (e, m): (Ino, &'static [u8]), kind: u8) -> i32 {
        let Some(&ino) = self.dirs[&d].get(n) else { return libc::ENOENT };
        let target = self.dirs[&e].get(m).copied();
        let is_dir = |i: Ino| self.dirs.contains_key(&i);
        if is_dir(ino) && self.within(e, ino) {
            return libc::EINVAL;
        }
        match (target, kind) {
            (None, 2) => return libc::ENOENT,
            (Some(_), 1) => return libc::EEXIST,
            (Some(t), _) if t == ino => return 0,
            (Some(t), 2) => {
                if is_dir(t) && self.within(d, t) {
                    return libc::EINVAL;
                }
                self.dirs.get_mut(&d).unwrap().insert(n, t);
                self.dirs.get_mut(&e).unwrap().insert(m, ino);
                self.names_change(d);
                self.names_change(e);
                return 0;
            }
            (Some(t), _) => match (is_dir(ino), is_dir(t)) {
                (true, false) => return libc::ENOTDIR,
                (false, true) => return libc::EISDIR,
                (true, true) if !self.dirs[&t].is_empty() => return libc::ENOTEMPTY,
                (true, true) => {
                    self.dirs.remove(&t);
                    self.metas.remove(&t);
                }
                (false, false) => self.drop_name(t),
            },
            (None, _) => {}
        }
        self.dirs.get_mut(&d).unwrap().remove(n);
        self.dirs.get_mut(&e).unwrap().insert(m, ino);
        self.names_change(d);
        self.names_change(e);
        0
    }
}

fn errno<T>(result: &FsResult<T>) -> i32 {
    result.as_ref().err().map_or(0, FsError::errno)
}

/// What is made in a directory with setgid gets its group.
fn inherit(model: &mut Model, dir: Ino, ino: Ino) {
    let above = &model.metas[&dir];
    if above.mode & 0o2000 != 0 {
        let group = above.owner.1;
        model.metas.get_mut(&ino).unwrap().owner.1 = group;
    }
}

fn put(bytes: &mut Vec<u8>, offset: u64, data: &[u8]) {
    let (start, end) = (offset as usize, offset as usize + data.len());
    if data.is_empty() {
        return;
    }
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[start..end].copy_from_slice(data);
}

fn run(fs: &Fs, model: &mut Model, step: &Step) {
    match *step {
        Step::Create(d, n) => {
            let (d, n) = (model.dir(d), NAMES[n]);
            let got = fs.create(&ROOT, d, n, 0o644, true);
            let want = if model.dirs[&d].contains_key(n) { libc::EEXIST } else { 0 };
            assert_eq!(errno(&got), want);
            if let Ok(stat) = got {
                model.make(d, n, stat.ino, FileKind::File, 0o644, Vec::new());
                inherit(model, d, stat.ino);
            }
        }
        Step::Mkdir(d, n) => {
            let (d, n) = (model.dir(d), NAMES[n]);
            let got = fs.mkdir(&ROOT, d, n, 0o755);
            assert_eq!(errno(&got), if model.dirs[&d].contains_key(n) { libc::EEXIST } else { 0 });
            if let Ok(stat) = got {
                // A directory with setgid hands it down, and its group.
                let above = model.metas[&d].mode & 0o2000;
                model.make(d, n, stat.ino, FileKind::Directory, 0o755 | above, Vec::new());
                inherit(model, d, stat.ino);
            }
        }
        Step::Unlink(d, n) => {
            let (d, n) = (model.dir(d), NAMES[n]);
            let want = match model.dirs[&d].get(n) {
                None => libc::ENOENT,
                Some(i) if model.dirs.contains_key(i) => libc::EISDIR,
                Some(_) => 0,
            };
            assert_eq!(errno(&fs.unlink(&ROOT, d, n)), want);
            if want == 0 {
                let ino = model.dirs.get_mut(&d).unwrap().remove(n).unwrap();
                model.drop_name(ino);
                model.names_change(d);
            }
        }
        Step::Rmdir(d, n) => {
            let (d, n) = (model.dir(d), NAMES[n]);
            let want = match model.dirs[&d].get(n) {
                None => libc::ENOENT,
                Some(i) => model.dirs.get(i).map_or(libc::ENOTDIR, |body| if body.is_empty() { 0 } else { libc::ENOTEMPTY }),
            };
            assert_eq!(errno(&fs.rmdir(&ROOT, d, n)), want);
            if want == 0 {
                let ino = model.dirs.get_mut(&d).unwrap().remove(n).unwrap();
                model.dirs.remove(&ino);
                model.metas.remove(&ino);
                model.names_change(d);
            }
        }
        Step::Link(f, d, n) => {
            let Some(f) = model.leaf(f) else { return };
            let (d, n) = (model.dir(d), NAMES[n]);
            let want = match (model.files[&f].1, model.dirs[&d].contains_key(n)) {
                (0, _) => libc::ENOENT,
                (_, true) => libc::EEXIST,
                (_, false) => 0,
            };
            assert_eq!(errno(&fs.link(&ROOT, f, d, n)), want);
            if want == 0 {
                model.dirs.get_mut(&d).unwrap().insert(n, f);
                model.files.get_mut(&f).unwrap().1 += 1;
                model.names_change(d);
            }
        }
        Step::Rename(d, n, e, m, kind) => {
            let (from, to) = ((model.dir(d), NAMES[n]), (model.dir(e), NAMES[m]));
            let flags = RenameFlags { no_replace: kind == 1, exchange: kind == 2 };
            let got = errno(&fs.rename(&ROOT, from, to, flags));
            assert_eq!(got, model.rename(from, to, kind));
        }
        Step::Write(f, offset, len, byte) => {
            let Some(f) = model.file(f) else { return };
            let data: Vec<u8> = (0..len).map(|i| byte.wrapping_add((i / 7) as u8)).collect();
            fs.write(&ROOT, f, offset, &data, false).unwrap();
            if len > 0 {
                put(model.bytes(f), offset, &data);
            }
        }
        Step::Truncate(f, size) => {
            let Some(f) = model.file(f) else { return };
            fs.setattr(&ROOT, f, &SetAttributes { size: Some(size), ..SetAttributes::default() }).unwrap();
            model.bytes(f).resize(size as usize, 0);
        }
        Step::Punch(f, offset, len) => {
            let Some(f) = model.file(f) else { return };
            let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
            assert_eq!(errno(&fs.fallocate(&ROOT, f, offset, len, mode)), if len == 0 { libc::EINVAL } else { 0 });
            if len == 0 {
                return;
            }
            let bytes = model.bytes(f);
            let end = bytes.len().min((offset + len) as usize);
            if let Some(range) = bytes.get_mut(offset as usize..end) {
                range.fill(0);
            }
        }
        Step::Zero(f, offset, len, keep) => {
            let Some(f) = model.file(f) else { return };
            let mode = libc::FALLOC_FL_ZERO_RANGE | if keep { libc::FALLOC_FL_KEEP_SIZE } else { 0 };
            assert_eq!(errno(&fs.fallocate(&ROOT, f, offset, len, mode)), if len == 0 { libc::EINVAL } else { 0 });
            if len == 0 {
                return;
            }
            let bytes = model.bytes(f);
            let before = bytes.len();
            put(bytes, offset, &vec![0; len as usize]);
            if keep {
                bytes.truncate(before);
            }
        }
        Step::Copy(f, from, g, to, len) => {
            let (Some(f), Some(g)) = (model.file(f), model.file(g)) else { return };
            let source = &model.files[&f].0;
            let data = source.get(from as usize..source.len().min((from + len) as usize)).unwrap_or_default().to_vec();
            let overlap = f == g && from < to + data.len() as u64 && to < from + data.len() as u64 && !data.is_empty();
            let got = fs.copy_range(&ROOT, (f, from), (g, to), len);
            if overlap {
                assert_eq!(errno(&got), libc::EINVAL);
            } else {
                assert_eq!(got.unwrap() as usize, data.len());
                if !data.is_empty() {
                    put(model.bytes(g), to, &data);
                }
            }
        }
        Step::Close(f) => {
            // Only one without a name goes.
            let Some(f) = model.leaf(f) else { return };
            if model.files[&f].1 == 0 {
                fs.release(f);
                fs.forget(f, u64::MAX);
                assert_eq!(fs.getattr(f).unwrap_err(), FsError::NotFound);
                model.files.remove(&f);
                model.metas.remove(&f);
            }
        }
        Step::Symlink(d, n, len) => {
            let (d, n, target) = (model.dir(d), NAMES[n], vec![b't'; len]);
            let got = fs.symlink(&ROOT, d, n, &target);
            assert_eq!(errno(&got), if model.dirs[&d].contains_key(n) { libc::EEXIST } else { 0 });
            if let Ok(stat) = got {
                model.make(d, n, stat.ino, FileKind::Symlink, 0o777, target);
                inherit(model, d, stat.ino);
            }
        }
        Step::Mknod(d, n, kind) => {
            let (d, n) = (model.dir(d), NAMES[n]);
            let (bits, kind) = [
                (libc::S_IFIFO, FileKind::Fifo),
                (libc::S_IFSOCK, FileKind::Socket),
                (libc::S_IFCHR, FileKind::CharDevice),
                (libc::S_IFREG, FileKind::File),
            ][usize::from(kind)];
            let got = fs.mknod(&ROOT, d, n, bits | 0o604, 0x0105);
            assert_eq!(errno(&got), if model.dirs[&d].contains_key(n) { libc::EEXIST } else { 0 });
            if let Ok(stat) = got {
                model.make(d, n, stat.ino, kind, 0o604, Vec::new());
                inherit(model, d, stat.ino);
            }
        }
        Step::Readlink(i) => {
            let i = model.any(i);
            let got = fs.readlink(i);
            match model.metas[&i].kind {
                FileKind::Symlink => assert_eq!(got.unwrap(), model.files[&i].0),
                _ => assert_eq!(errno(&got), libc::EINVAL),
            }
        }
        Step::Chmod(i, mode) => {
            let i = model.any(i);
            fs.setattr(&ROOT, i, &SetAttributes { mode: Some(mode), ..SetAttributes::default() }).unwrap();
            model.metas.get_mut(&i).unwrap().mode = mode;
        }
        Step::Chown(i, uid, gid) => {
            let i = model.any(i);
            fs.setattr(&ROOT, i, &SetAttributes { uid, gid, ..SetAttributes::default() }).unwrap();
            let meta = model.metas.get_mut(&i).unwrap();
            meta.owner = (uid.unwrap_or(meta.owner.0), gid.unwrap_or(meta.owner.1));
            if meta.kind != FileKind::Directory {
                // Also chown(-1, -1), which comes as an empty setattr.
                let keeps_group = meta.mode & 0o010 == 0;
                meta.mode &= if keeps_group { !0o4000 } else { !0o6000 };
            }
        }
        Step::Utimens(i, atime, mtime) => {
            let i = model.any(i);
            if atime.is_none() && mtime.is_none() {
                return;
            }
            let time = |t: Option<i64>| t.map(|secs| Time { secs, nanos: 999_999_999 });
            let at = |t: Option<i64>| time(t).map(SetTime::At);
            fs.setattr(&ROOT, i, &SetAttributes { atime: at(atime), mtime: at(mtime), ..SetAttributes::default() }).unwrap();
            let times = &mut model.metas.get_mut(&i).unwrap().times;
            *times = (time(atime).or(times.0), time(mtime).or(times.1));
        }
        Step::SetXattr(i, n, len, flags) => {
            let (i, name) = (model.any(i), XATTRS[n]);
            let xattrs = &mut model.metas.get_mut(&i).unwrap().xattrs;
            let others: usize = xattrs.iter().filter(|(n, _)| **n != name).map(|(n, v)| n.len() + v.len()).sum();
            let want = match (flags, xattrs.contains_key(name)) {
                _ if len > 65536 => libc::E2BIG,
                (libc::XATTR_CREATE, true) => libc::EEXIST,
                (libc::XATTR_REPLACE, false) => libc::ENODATA,
                _ if others + name.len() + len > 256 << 10 => libc::ENOSPC,
                _ => 0,
            };
            assert_eq!(errno(&fs.setxattr(&ROOT, i, name, &vec![n as u8; len], flags)), want);
            if want == 0 {
                xattrs.insert(name, vec![n as u8; len]);
            }
        }
        Step::RemoveXattr(i, n) => {
            let (i, name) = (model.any(i), XATTRS[n]);
            let was = model.metas.get_mut(&i).unwrap().xattrs.remove(name);
            assert_eq!(errno(&fs.removexattr(&ROOT, i, name)), if was.is_some() { 0 } else { libc::ENODATA });
        }
        Step::Allocate(f, offset, len, keep) => {
            let Some(f) = model.file(f) else { return };
            let got = fs.fallocate(&ROOT, f, offset, len, if keep { libc::FALLOC_FL_KEEP_SIZE } else { 0 });
            assert_eq!(errno(&got), if len == 0 { libc::EINVAL } else { 0 });
            if len > 0 {
                let bytes = model.bytes(f);
                let size = if keep { bytes.len() } else { bytes.len().max((offset + len) as usize) };
                bytes.resize(size, 0);
            }
        }
    }
}

/// All that can be seen of the tree, by the model's rules.
fn compare(fs: &Fs, model: &Model) {
    for (dir, entries) in &model.dirs {
        let mut got = BTreeMap::new();
        fs.readdir(*dir, DirHandle::default(), 2, |e| got.insert(e.name.to_vec(), e.ino).is_none()).unwrap();
        let want: BTreeMap<Vec<u8>, Ino> = entries.iter().map(|(n, i)| (n.to_vec(), *i)).collect();
        assert_eq!(got, want, "directory {dir}");
        let below = entries.values().filter(|i| model.dirs.contains_key(i)).count();
        assert_eq!(fs.getattr(*dir).unwrap().nlink as usize, 2 + below, "directory {dir}");
    }
    for (ino, meta) in &model.metas {
        let stat = fs.getattr(*ino).unwrap();
        assert_eq!((stat.kind, stat.attrs.mode, (stat.attrs.uid, stat.attrs.gid)), (meta.kind, meta.mode, meta.owner), "inode {ino}");
        for (got, want) in [(stat.attrs.atime, meta.times.0), (stat.attrs.mtime, meta.times.1)] {
            assert!(want.is_none_or(|want| want == got), "times of inode {ino}: {got:?} instead of {want:?}");
        }
        let names: Vec<u8> = fs.listxattr(&ROOT, *ino).unwrap();
        assert_eq!(names.split(|b| *b == 0).filter(|n| !n.is_empty()).count(), meta.xattrs.len(), "attributes of inode {ino}");
        for (name, value) in &meta.xattrs {
            assert!(fs.getxattr(*ino, name).unwrap() == *value, "attribute of inode {ino}");
        }
    }
    for (ino, (bytes, nlink)) in &model.files {
        if model.metas[ino].kind != FileKind::File {
            assert_eq!(fs.getattr(*ino).unwrap().nlink, *nlink, "inode {ino}");
            continue;
        }
        let stat = fs.getattr(*ino).unwrap();
        assert_eq!((stat.size, stat.nlink), (bytes.len() as u64, *nlink), "file {ino}");
        assert!(fs.read(*ino, 0, u32::MAX).unwrap() == *bytes, "bytes of file {ino}");
        assert!(bytes.len() as u64 <= SIZE_MAX);
        if let Ok(at) = fs.seek(*ino, 0, libc::SEEK_DATA) {
            assert!(bytes[..at as usize].iter().all(|b| *b == 0), "data before the first data of file {ino}");
        } else {
            assert!(bytes.iter().all(|b| *b == 0), "data where SEEK_DATA finds none in file {ino}");
        }
    }
}

fn histories() -> u32 {
    std::env::var("IZE_TEST_HISTORIES").ok().and_then(|n| n.parse().ok()).unwrap_or(96)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: histories(), max_shrink_iters: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_histories_agree_with_the_model_and_with_their_log(steps in proptest::collection::vec(step(), 1..120)) {
        let (fs, journal) = memory_fs().unwrap();
        let mut model = Model {
            dirs: BTreeMap::from([(Ino::ROOT, BTreeMap::new())]),
            metas: BTreeMap::from([(Ino::ROOT, Meta::new(FileKind::Directory, 0o755))]),
            ..Model::default()
        };
        for (i, step) in steps.iter().enumerate() {
            run(&fs, &mut model, step);
            if i % 16 == 0 {
                compare(&fs, &model);
            }
        }
        compare(&fs, &model);
        prop_assert_eq!(fs.broken(), None);
        let again = Fs::new(journal.replayed().unwrap(), journal);
        compare(&again, &model);
    }
}

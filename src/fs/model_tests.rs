//! Random histories against a model that shares no code with the tree: whole files as byte vectors, directories as maps. After each
//! history the log alone must give the same tree.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::testing::memory_fs;
use super::*;
use crate::tree::SIZE_MAX;

const ROOT: Caller = Caller { pid: 0, uid: 0, gid: 0 };
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
        2 => (any.clone(), name.clone(), any.clone(), name, 0u8..3).prop_map(|(d, n, e, m, k)| Step::Rename(d, n, e, m, k)),
        4 => (any.clone(), offset(), 0usize..100_000, 1u8..).prop_map(|(f, o, l, b)| Step::Write(f, o, l, b)),
        2 => (any.clone(), offset()).prop_map(|(f, s)| Step::Truncate(f, s)),
        1 => (any.clone(), offset(), len()).prop_map(|(f, o, l)| Step::Punch(f, o, l)),
        1 => (any.clone(), offset(), len(), proptest::bool::ANY).prop_map(|(f, o, l, k)| Step::Zero(f, o, l, k)),
        2 => (any.clone(), offset(), any.clone(), offset(), len()).prop_map(|(f, a, g, b, l)| Step::Copy(f, a, g, b, l)),
        1 => any.prop_map(Step::Close),
    ]
}

#[derive(Debug, Default)]
struct Model {
    dirs: BTreeMap<Ino, BTreeMap<&'static [u8], Ino>>,
    files: BTreeMap<Ino, (Vec<u8>, u32)>,
}

impl Model {
    fn dir(&self, index: usize) -> Ino {
        *self.dirs.keys().nth(index % self.dirs.len()).unwrap()
    }

    fn file(&self, index: usize) -> Option<Ino> {
        if self.files.is_empty() { None } else { self.files.keys().nth(index % self.files.len()).copied() }
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
                return 0;
            }
            (Some(t), _) => match (is_dir(ino), is_dir(t)) {
                (true, false) => return libc::ENOTDIR,
                (false, true) => return libc::EISDIR,
                (true, true) if !self.dirs[&t].is_empty() => return libc::ENOTEMPTY,
                (true, true) => drop(self.dirs.remove(&t)),
                (false, false) => self.drop_name(t),
            },
            (None, _) => {}
        }
        self.dirs.get_mut(&d).unwrap().remove(n);
        self.dirs.get_mut(&e).unwrap().insert(m, ino);
        0
    }
}

fn errno<T>(result: &FsResult<T>) -> i32 {
    result.as_ref().err().map_or(0, FsError::errno)
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
                model.dirs.get_mut(&d).unwrap().insert(n, stat.ino);
                model.files.insert(stat.ino, (Vec::new(), 1));
            }
        }
        Step::Mkdir(d, n) => {
            let (d, n) = (model.dir(d), NAMES[n]);
            let got = fs.mkdir(&ROOT, d, n, 0o755);
            assert_eq!(errno(&got), if model.dirs[&d].contains_key(n) { libc::EEXIST } else { 0 });
            if let Ok(stat) = got {
                model.dirs.get_mut(&d).unwrap().insert(n, stat.ino);
                model.dirs.insert(stat.ino, BTreeMap::new());
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
            }
        }
        Step::Link(f, d, n) => {
            let Some(f) = model.file(f) else { return };
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
            put(&mut model.files.get_mut(&f).unwrap().0, offset, &data);
        }
        Step::Truncate(f, size) => {
            let Some(f) = model.file(f) else { return };
            fs.setattr(&ROOT, f, &SetAttributes { size: Some(size), ..SetAttributes::default() }).unwrap();
            model.files.get_mut(&f).unwrap().0.resize(size as usize, 0);
        }
        Step::Punch(f, offset, len) => {
            let Some(f) = model.file(f) else { return };
            let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
            assert_eq!(errno(&fs.fallocate(&ROOT, f, offset, len, mode)), if len == 0 { libc::EINVAL } else { 0 });
            let bytes = &mut model.files.get_mut(&f).unwrap().0;
            let end = bytes.len().min((offset + len) as usize);
            if let Some(range) = bytes.get_mut(offset as usize..end) {
                range.fill(0);
            }
        }
        Step::Zero(f, offset, len, keep) => {
            let Some(f) = model.file(f) else { return };
            let mode = libc::FALLOC_FL_ZERO_RANGE | if keep { libc::FALLOC_FL_KEEP_SIZE } else { 0 };
            assert_eq!(errno(&fs.fallocate(&ROOT, f, offset, len, mode)), if len == 0 { libc::EINVAL } else { 0 });
            let bytes = &mut model.files.get_mut(&f).unwrap().0;
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
                put(&mut model.files.get_mut(&g).unwrap().0, to, &data);
            }
        }
        Step::Close(f) => {
            // Only one without a name goes.
            let Some(f) = model.file(f) else { return };
            if model.files[&f].1 == 0 {
                fs.release(f);
                fs.forget(f, u64::MAX);
                assert_eq!(fs.getattr(f).unwrap_err(), FsError::NotFound);
                model.files.remove(&f);
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
    for (ino, (bytes, nlink)) in &model.files {
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

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, max_shrink_iters: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_histories_agree_with_the_model_and_with_their_log(steps in proptest::collection::vec(step(), 1..120)) {
        let (fs, journal) = memory_fs().unwrap();
        let mut model = Model { dirs: BTreeMap::from([(Ino::ROOT, BTreeMap::new())]), ..Model::default() };
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

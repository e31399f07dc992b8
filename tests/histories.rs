//! Random histories of system calls through a mount and, step by step, in a directory of the file system beside it: the same answers, the same
//! trees. Some histories end with an unmount, some with a SIGKILL of the daemon; what is mounted again is the same to the nanosecond.
//! `IZE_TEST_HISTORIES` says how many. What fails is shrunk to the fewest steps.
#![cfg(feature = "fuse")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestError, TestRunner};
use rustix::fs::{AtFlags, CWD, FallocateFlags, Gid, Mode, RenameFlags, Timespec, Timestamps, Uid, XattrFlags};
use support::Home;

/// Files end below this, so that two of them are read in no time.
const LIMIT: u64 = 400_000;
const XATTRS: [&str; 3] = ["user.a", "user.b", "trusted.c"];

/// One system call. A path is one to three names of three; a held file is taken modulo those that are open.
#[derive(Clone, Debug)]
enum Step {
    Create(String, bool, bool, u32),
    Mkdir(String, u32),
    Mkfifo(String),
    Symlink(String, String),
    Link(String, String),
    Unlink(String),
    Rmdir(String),
    Rename(String, String, u8),
    Hold(String),
    LetGo(usize),
    Write(usize, u64, usize, u8),
    Append(String, usize, u8),
    Read(usize, u64, usize),
    Truncate(String, u64),
    Cut(usize, u64),
    Allocate(usize, u8, u64, u64),
    Copy(usize, u64, usize, u64, usize),
    Map(usize, u64, usize, u8),
    Sync(usize),
    SyncDir(String),
    Chmod(String, u32),
    Chown(String, Option<u32>, Option<u32>),
    Utimens(String, Option<i64>, Option<i64>),
    SetXattr(String, usize, usize, u8),
    RemoveXattr(String, usize),
    Stat(String),
    List(String),
    Readlink(String),
}

fn step() -> impl Strategy<Value = Step> {
    let path = || "[abc](/[abc]){0,2}";
    let offset = || prop_oneof![0..LIMIT, (0..20u64).prop_map(|i| i * 4096), Just(0)];
    let len = || prop_oneof![0usize..150_000, 0usize..5000, Just(4096)];
    let held = 0usize..50;
    prop_oneof![
        4 => (path(), any::<bool>(), any::<bool>(), 0u32..0o1000).prop_map(|(p, x, t, m)| Step::Create(p, x, t, m)),
        4 => (path(), 0u32..0o4000).prop_map(|(p, m)| Step::Mkdir(p, m)),
        1 => path().prop_map(Step::Mkfifo),
        2 => (path(), path()).prop_map(|(t, p)| Step::Symlink(t, p)),
        2 => (path(), path()).prop_map(|(p, q)| Step::Link(p, q)),
        2 => path().prop_map(Step::Unlink),
        2 => path().prop_map(Step::Rmdir),
        6 => (path(), path(), 0u8..3).prop_map(|(p, q, k)| Step::Rename(p, q, k)),
        4 => path().prop_map(Step::Hold),
        1 => held.clone().prop_map(Step::LetGo),
        5 => (held.clone(), offset(), len(), 1u8..).prop_map(|(f, o, l, b)| Step::Write(f, o, l, b)),
        2 => (path(), len(), 1u8..).prop_map(|(p, l, b)| Step::Append(p, l, b)),
        2 => (held.clone(), offset(), len()).prop_map(|(f, o, l)| Step::Read(f, o, l)),
        1 => (path(), offset()).prop_map(|(p, s)| Step::Truncate(p, s)),
        2 => (held.clone(), offset()).prop_map(|(f, s)| Step::Cut(f, s)),
        2 => (held.clone(), 0u8..5, offset(), 0..100_000u64).prop_map(|(f, k, o, l)| Step::Allocate(f, k, o, l)),
        3 => (held.clone(), offset(), held.clone(), offset(), len()).prop_map(|(f, o, g, p, l)| Step::Copy(f, o, g, p, l)),
        2 => (held.clone(), offset(), len(), 1u8..).prop_map(|(f, o, l, b)| Step::Map(f, o, l, b)),
        1 => held.prop_map(Step::Sync),
        1 => path().prop_map(Step::SyncDir),
        2 => (path(), 0u32..0o10000).prop_map(|(p, m)| Step::Chmod(p, m)),
        2 => (path(), proptest::option::of(0u32..5), proptest::option::of(0u32..5)).prop_map(|(p, u, g)| Step::Chown(p, u, g)),
        2 => (path(), proptest::option::of(-5i64..1 << 33), proptest::option::of(-5i64..5)).prop_map(|(p, a, m)| Step::Utimens(p, a, m)),
        2 => (path(), 0usize..3, 0usize..200, 0u8..3).prop_map(|(p, n, l, k)| Step::SetXattr(p, n, l, k)),
        1 => (path(), 0usize..3).prop_map(|(p, n)| Step::RemoveXattr(p, n)),
        2 => path().prop_map(Step::Stat),
        1 => path().prop_map(Step::List),
        1 => path().prop_map(Step::Readlink),
    ]
}

/// What each history finds: files, directories at all depths, something open; so that few steps run into the void.
fn beginning() -> Vec<Step> {
    let p = |text: &str| text.to_owned();
    let mut steps: Vec<Step> = ["a", "b", "a/a", "b/c", "a/a/b"].into_iter().map(|d| Step::Mkdir(p(d), 0o755)).collect();
    for f in ["c", "a/b", "b/a", "a/a/c", "b/c/a"] {
        steps.push(Step::Create(p(f), true, false, 0o644));
    }
    steps.extend([Step::Link(p("c"), p("b/b")), Step::Symlink(p("b/a"), p("a/c")), Step::Append(p("b/a"), 70_000, 3)]);
    steps.extend(["c", "a/b", "b/a"].into_iter().map(|f| Step::Hold(p(f))));
    steps
}

/// One of the two directories, with the files that are held open in it.
struct Side {
    dir: PathBuf,
    held: Vec<File>,
}

fn pattern(len: usize, byte: u8) -> Vec<u8> {
    (0..len).map(|i| byte.wrapping_add((i / 11) as u8)).collect()
}

fn hash(bytes: &[u8]) -> String {
    format!("{} bytes {}", bytes.len(), blake3::hash(bytes).to_hex().as_str().get(..12).unwrap_or_default())
}

/// What a step is answered: the value, or the errno.
fn said<T: Debug, E: Into<std::io::Error>>(result: Result<T, E>) -> String {
    match result {
        Ok(value) => format!("{value:?}"),
        Err(e) => {
            let e: std::io::Error = e.into();
            format!("errno {:?}", e.raw_os_error())
        }
    }
}

fn open(path: &Path) -> std::io::Result<File> {
    // A fifo without a reader must not hang.
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path)
}

/// What stat says that two file systems must agree on.
fn facts(path: &Path) -> String {
    said(fs::symlink_metadata(path).map(|m| (m.mode(), m.uid(), m.gid(), m.nlink(), (!m.is_dir()).then_some(m.len()))))
}

impl Side {
    fn file(&self, index: usize) -> Option<&File> {
        if self.held.is_empty() { None } else { self.held.get(index % self.held.len()) }
    }

    #[allow(clippy::too_many_lines, reason = "one arm a step")]
    fn run(&mut self, step: &Step) -> String {
        let at = |p: &String| self.dir.join(p);
        let none = || "nothing is open".to_owned();
        match step {
            Step::Create(p, exclusive, truncate, mode) => {
                let mut options = OpenOptions::new();
                options.write(true).mode(*mode).custom_flags(libc::O_NONBLOCK | libc::O_CREAT | if *exclusive { libc::O_EXCL } else { 0 });
                said(options.truncate(*truncate).open(at(p)).map(drop))
            }
            Step::Mkdir(p, mode) => said(rustix::fs::mkdir(at(p), Mode::from(*mode))),
            Step::Mkfifo(p) => said(rustix::fs::mknodat(CWD, at(p), rustix::fs::FileType::Fifo, Mode::from(0o640), 0)),
            Step::Symlink(target, p) => said(std::os::unix::fs::symlink(target, at(p))),
            Step::Link(p, q) => said(fs::hard_link(at(p), at(q))),
            Step::Unlink(p) => said(fs::remove_file(at(p))),
            Step::Rmdir(p) => said(fs::remove_dir(at(p))),
            Step::Rename(p, q, kind) => {
                let flags = [RenameFlags::empty(), RenameFlags::NOREPLACE, RenameFlags::EXCHANGE][usize::from(*kind)];
                said(rustix::fs::renameat_with(CWD, at(p), CWD, at(q), flags))
            }
            Step::Hold(p) => {
                let opened = open(&at(p));
                if let Ok(file) = &opened {
                    self.held.push(file.try_clone().unwrap());
                }
                said(opened.map(drop))
            }
            Step::LetGo(f) => {
                if !self.held.is_empty() {
                    self.held.swap_remove(f % self.held.len());
                }
                String::new()
            }
            Step::Write(f, offset, len, byte) => {
                self.file(*f).map_or_else(none, |file| said(file.write_at(&pattern(*len, *byte), *offset)))
            }
            Step::Append(p, len, byte) => {
                let opened = OpenOptions::new().append(true).custom_flags(libc::O_NONBLOCK).open(at(p));
                said(opened.and_then(|file| std::io::Write::write(&mut &file, &pattern(*len, *byte))))
            }
            Step::Read(f, offset, len) => self.file(*f).map_or_else(none, |file| {
                let mut bytes = vec![0; *len];
                said(file.read_at(&mut bytes, *offset).map(|n| hash(&bytes[..n])))
            }),
            Step::Truncate(p, size) => {
                said(OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(at(p)).and_then(|f| f.set_len(*size)))
            }
            Step::Cut(f, size) => self.file(*f).map_or_else(none, |file| said(file.set_len(*size))),
            Step::Allocate(f, kind, offset, len) => {
                let keep = FallocateFlags::KEEP_SIZE;
                let flags = match kind {
                    0 => FallocateFlags::empty(),
                    1 => keep,
                    2 => FallocateFlags::PUNCH_HOLE | keep,
                    3 => FallocateFlags::ZERO_RANGE,
                    _ => FallocateFlags::ZERO_RANGE | keep,
                };
                self.file(*f).map_or_else(none, |file| said(rustix::fs::fallocate(file, flags, *offset, *len)))
            }
            Step::Copy(f, from, g, to, len) => match (self.file(*f), self.file(*g)) {
                (Some(f), Some(g)) => said(rustix::fs::copy_file_range(f, Some(&mut from.clone()), g, Some(&mut to.clone()), *len)),
                _ => none(),
            },
            Step::Map(f, offset, len, byte) => self.file(*f).map_or_else(none, |file| {
                let (start, end) = (*offset as usize, *offset as usize + len);
                if !file.metadata().is_ok_and(|m| m.is_file() && m.len() as usize >= end && end > start) {
                    return "does not fit".to_owned();
                }
                // SAFETY: nobody else has the file, and it is as long as the mapping.
                let mut map = unsafe { memmap2::MmapOptions::new().len(end).map_mut(file) }.unwrap();
                map[start..end].copy_from_slice(&pattern(*len, *byte));
                said(map.flush())
            }),
            Step::Sync(f) => self.file(*f).map_or_else(none, |file| said(file.sync_all())),
            Step::SyncDir(p) => said(OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY).open(at(p)).and_then(|d| d.sync_all())),
            Step::Chmod(p, mode) => said(rustix::fs::chmod(at(p), Mode::from(*mode))),
            Step::Chown(p, uid, gid) => {
                let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
                said(rustix::fs::chownat(CWD, at(p), uid, gid, AtFlags::SYMLINK_NOFOLLOW))
            }
            Step::Utimens(p, atime, mtime) => {
                let time = |t: &Option<i64>| match t {
                    Some(secs) => Timespec { tv_sec: *secs, tv_nsec: 123_456_789 },
                    None => Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
                };
                let times = Timestamps { last_access: time(atime), last_modification: time(mtime) };
                let done = rustix::fs::utimensat(CWD, at(p), &times, AtFlags::SYMLINK_NOFOLLOW);
                let seen = fs::symlink_metadata(at(p))
                    .map(|m| (atime.map(|_| (m.atime(), m.atime_nsec())), mtime.map(|_| (m.mtime(), m.mtime_nsec()))));
                format!("{} {}", said(done), said(seen))
            }
            Step::SetXattr(p, n, len, kind) => {
                let flags = [XattrFlags::empty(), XattrFlags::CREATE, XattrFlags::REPLACE][usize::from(*kind)];
                said(rustix::fs::lsetxattr(at(p), XATTRS[*n], &vec![*kind; *len], flags))
            }
            Step::RemoveXattr(p, n) => said(rustix::fs::lremovexattr(at(p), XATTRS[*n])),
            Step::Stat(p) => facts(&at(p)),
            Step::List(p) => said(list(&at(p))),
            Step::Readlink(p) => said(fs::read_link(at(p))),
        }
    }

    /// Everything below, by path: what both sides must agree on.
    fn dump(&self) -> BTreeMap<PathBuf, String> {
        let mut out = BTreeMap::new();
        let mut inodes: BTreeMap<u64, PathBuf> = BTreeMap::new();
        let mut work = vec![PathBuf::new()];
        while let Some(below) = work.pop() {
            let path = self.dir.join(&below);
            let meta = fs::symlink_metadata(&path).unwrap();
            let bytes = if meta.is_dir() {
                let names = list(&path).unwrap();
                work.extend(names.iter().map(|n| below.join(n)));
                format!("{names:?}")
            } else if meta.is_symlink() {
                format!("{:?}", fs::read_link(&path).unwrap())
            } else if meta.file_type().is_fifo() {
                "fifo".to_owned()
            } else {
                hash(&fs::read(&path).unwrap())
            };
            let xattrs: Vec<String> = XATTRS.iter().map(|n| xattr(&path, n)).collect();
            out.insert(below.clone(), format!("{} {bytes} {xattrs:?}", facts(&path)));
            // Names of one inode are told by the first of them.
            if !meta.is_dir() {
                inodes.entry(meta.ino()).and_modify(|p| *p = p.clone().min(below.clone())).or_insert(below);
            }
        }
        for (path, text) in &mut out {
            let ino = fs::symlink_metadata(self.dir.join(path)).unwrap().ino();
            if let Some(first) = inodes.get(&ino) {
                text.push_str(&format!(" as {}", first.display()));
            }
        }
        out
    }

    /// The same with what only the file system itself can keep: inode numbers and all times. (Blocks may grow when bytes move from the log to
    /// the base, because small holes are stored there.)
    fn dump_fully(&self) -> BTreeMap<PathBuf, String> {
        let mut all = self.dump();
        for (path, text) in &mut all {
            let m = fs::symlink_metadata(self.dir.join(path)).unwrap();
            let times = [(m.atime(), m.atime_nsec()), (m.mtime(), m.mtime_nsec()), (m.ctime(), m.ctime_nsec())];
            text.push_str(&format!(" ino {} times {times:?}", m.ino()));
        }
        all
    }
}

fn list(dir: &Path) -> std::io::Result<Vec<OsString>> {
    let mut names = fs::read_dir(dir)?.map(|e| e.map(|e| e.file_name())).collect::<std::io::Result<Vec<_>>>()?;
    names.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
    Ok(names)
}

fn xattr(path: &Path, name: &str) -> String {
    let mut value = vec![0u8; 300];
    said(rustix::fs::lgetxattr(path, name, &mut value[..]).map(|n| hash(&value[..n])))
}

fn differences(ours: &BTreeMap<PathBuf, String>, theirs: &BTreeMap<PathBuf, String>) -> Option<String> {
    let paths: std::collections::BTreeSet<&PathBuf> = ours.keys().chain(theirs.keys()).collect();
    let wrong: Vec<String> = paths
        .into_iter()
        .filter(|p| ours.get(*p) != theirs.get(*p))
        .map(|p| format!("{}:\n  {:?}\n  {:?}", p.display(), ours.get(p), theirs.get(p)))
        .collect();
    (!wrong.is_empty()).then(|| wrong.join("\n"))
}

#[test]
fn random_histories_through_a_mount_are_those_of_a_disk_and_outlive_the_daemon() {
    let histories = std::env::var("IZE_TEST_HISTORIES").ok().and_then(|n| n.parse().ok()).unwrap_or(48);
    let home = Home::new();
    home.mount();
    let beside = home.path().join("beside");
    fs::create_dir(&beside).unwrap();
    // Modes are those that were asked for.
    rustix::process::umask(Mode::empty());
    let number = Cell::new(0u32);
    let config = Config { cases: histories, failure_persistence: None, max_shrink_iters: 400, ..Config::default() };
    let mut runner = TestRunner::new(config);
    let outcome = runner.run(&(proptest::collection::vec(step(), 1..150), 0u8..6), |(steps, end)| {
        number.set(number.get() + 1);
        let fresh = |base: &Path| {
            let dir = base.join(format!("h{}", number.get()));
            fs::create_dir(&dir).unwrap();
            Side { dir, held: Vec::new() }
        };
        let (mut ours, mut theirs) = (fresh(&home.mount), fresh(&beside));
        for (i, step) in beginning().iter().chain(&steps).enumerate() {
            let (a, b) = (ours.run(step), theirs.run(step));
            if a != b {
                return Err(TestCaseError::fail(format!("step {i}, {step:?}: {a} on the mount, {b} beside it")));
            }
        }
        if let Some(why) = differences(&ours.dump(), &theirs.dump()) {
            return Err(TestCaseError::fail(format!("mount and directory beside it:\n{why}")));
        }
        let before = ours.dump_fully();
        match end {
            0 => {
                ours.held.clear();
                // The kernel may still be letting go of what was just closed.
                let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
                while home.ize(&["unmount", "p"]).code != 0 {
                    assert!(std::time::Instant::now() < deadline, "the mount stays busy: {}", home.ize(&["unmount", "p"]).err);
                    std::thread::sleep(std::time::Duration::from_millis(20));
                }
                home.mount();
            }
            1 => {
                home.kill();
                ours.held.clear();
                home.mount();
            }
            _ => {}
        }
        if let Some(why) = differences(&before, &ours.dump_fully()) {
            return Err(TestCaseError::fail(format!("before and after the end of the daemon:\n{why}")));
        }
        fs::remove_dir_all(&ours.dir).unwrap();
        fs::remove_dir_all(&theirs.dir).unwrap();
        Ok(())
    });
    match outcome {
        Ok(()) => {}
        Err(TestError::Fail(why, (steps, end))) => panic!("{why}\nend {end}, {} steps: {steps:?}", steps.len()),
        Err(TestError::Abort(why)) => panic!("{why}"),
    }
    assert_eq!(home.status()["last_error"], serde_json::Value::Null);
    home.unmount();
    home.ok(&["wal", "verify", "p"]);
}

//! What programs see of a mount, with the kernel in the loop and the log in memory. Needs /dev/fuse.
#![cfg(feature = "fuse")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use ize::fs::Fs;
use ize::fs::testing::{MemoryJournal, memory_fs};
use ize::fuse::mount::Mounted;
use ize::fuse::{MountOptions, unmount};

/// A mount that goes away with the test, also when that fails.
struct Mount {
    dir: PathBuf,
    fs: Arc<Fs>,
    journal: Arc<MemoryJournal>,
    mounted: Option<Mounted>,
    _temp: tempfile::TempDir,
}

impl Mount {
    fn new() -> Mount {
        Self::with("")
    }

    fn with(options: &str) -> Mount {
        OpenOptions::new().read(true).write(true).open("/dev/fuse").expect("these tests need /dev/fuse");
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("mnt");
        fs::create_dir(&dir).unwrap();
        let (fs, journal) = memory_fs().unwrap();
        let options = MountOptions::parse([options]).unwrap();
        let mounted = Mounted::start(Arc::clone(&fs), "test", &dir, &options).unwrap();
        Mount { dir, fs, journal, mounted: Some(mounted), _temp: temp }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Unmounts in order and checks that the log alone gives the tree that was served.
    fn end(mut self) {
        unmount(&self.dir, false).unwrap();
        self.mounted.take().unwrap().wait().unwrap();
        assert_eq!(self.fs.broken(), None);
        let mut replayed = self.journal.replayed().unwrap();
        let mut writer = self.fs.locked();
        let live = writer.tree();
        assert_eq!(live.orphans(), vec![], "files without a name outlive the mount");
        assert_eq!(live.next_ino(), replayed.next_ino());
        for number in 1..live.next_ino().0 {
            let ino = ize::ids::Ino(number);
            match (live.stat(ino), replayed.stat(ino)) {
                (Ok(a), Ok(b)) => {
                    assert_eq!(a, b);
                    if a.kind == ize::versions::node::FileKind::File && a.size < 1 << 24 {
                        assert_eq!(live.read_all(ino).unwrap(), replayed.read_all(ino).unwrap());
                    }
                }
                (a, b) => assert_eq!(a.is_err(), b.is_err()),
            }
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.mounted.is_some() {
            let _ = unmount(&self.dir, true);
        }
    }
}

fn errno<T: std::fmt::Debug>(result: std::io::Result<T>) -> i32 {
    result.unwrap_err().raw_os_error().unwrap()
}

fn c(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap()
}

fn check(result: i64) -> std::io::Result<i64> {
    if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(result) }
}

fn renameat2(from: &Path, to: &Path, flags: u32) -> std::io::Result<i64> {
    let (from, to) = (c(from), c(to));
    // SAFETY: both strings end with NUL and outlive the call.
    check(i64::from(unsafe { libc::renameat2(libc::AT_FDCWD, from.as_ptr(), libc::AT_FDCWD, to.as_ptr(), flags) }))
}

fn names(dir: &Path) -> BTreeSet<String> {
    fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn files_directories_and_links_are_what_was_made() {
    let m = Mount::new();
    fs::create_dir_all(m.path("a/b")).unwrap();
    fs::write(m.path("a/b/f"), b"hello").unwrap();
    assert_eq!(fs::read(m.path("a/b/f")).unwrap(), b"hello");
    fs::hard_link(m.path("a/b/f"), m.path("g")).unwrap();
    assert_eq!(fs::metadata(m.path("g")).unwrap().nlink(), 2);
    assert_eq!(fs::metadata(m.path("a/b/f")).unwrap().ino(), fs::metadata(m.path("g")).unwrap().ino());
    symlink("a/b/f", m.path("s")).unwrap();
    assert_eq!(fs::read_link(m.path("s")).unwrap(), Path::new("a/b/f"));
    assert_eq!(fs::read(m.path("s")).unwrap(), b"hello");
    assert_eq!(fs::metadata(m.path("a")).unwrap().nlink(), 3);
    assert_eq!(errno(fs::remove_dir(m.path("a"))), libc::ENOTEMPTY);
    assert_eq!(errno(fs::hard_link(m.path("a"), m.path("b"))), libc::EPERM);
    assert_eq!(errno(fs::create_dir(m.path("g"))), libc::EEXIST);
    assert_eq!(errno(fs::write(m.path(&"n".repeat(256)), b"")), libc::ENAMETOOLONG);
    fs::write(m.path(&"n".repeat(255)), b"").unwrap();
    assert_eq!(errno(fs::metadata(m.path("g/x"))), libc::ENOTDIR);
    assert_eq!(fs::metadata(m.path("nothing")).unwrap_err().kind(), ErrorKind::NotFound);
    fs::write(m.path("nothing"), b"now it is").unwrap();
    assert_eq!(fs::read(m.path("nothing")).unwrap(), b"now it is");
    let fifo = c(&m.path("fifo"));
    // SAFETY: the descriptor is open for the call.
    assert_eq!(unsafe { libc::isatty(File::open(m.path("g")).unwrap().as_raw_fd()) }, 0);
    assert_eq!(std::io::Error::last_os_error().raw_os_error(), Some(libc::ENOTTY));
    // SAFETY: the string ends with NUL and outlives the call.
    check(i64::from(unsafe { libc::mkfifo(fifo.as_ptr(), 0o600) })).unwrap();
    assert!(names(&m.dir).contains("fifo"));
    m.end();
}

#[test]
fn a_mount_shows_its_project_and_type() {
    let m = Mount::new();
    let table = fs::read_to_string("/proc/mounts").unwrap();
    let line = table.lines().find(|l| l.contains(m.dir.to_str().unwrap())).unwrap();
    assert!(line.starts_with("ize:test ") && line.contains(" fuse.ize ") && line.contains("default_permissions"), "{line}");
    assert!(line.contains("nosuid") && line.contains("nodev"), "{line}");
    let mounts = ize::project::mounts::Mounts::load().unwrap();
    assert_eq!(mounts.at(&m.dir).unwrap().project_name().unwrap(), "test");
    let store = tempfile::tempdir().unwrap();
    let again = ize::fuse::prepare(&m.dir, store.path(), false).unwrap_err();
    assert_eq!(again.class, ize::error::Class::Busy);
    m.end();
}

#[test]
fn rename_replaces_exchanges_and_refuses_as_linux_does() {
    let m = Mount::new();
    fs::write(m.path("a"), b"a").unwrap();
    fs::write(m.path("b"), b"b").unwrap();
    fs::create_dir_all(m.path("d/sub")).unwrap();
    assert_eq!(errno(renameat2(&m.path("a"), &m.path("b"), libc::RENAME_NOREPLACE)), libc::EEXIST);
    renameat2(&m.path("a"), &m.path("b"), libc::RENAME_EXCHANGE).unwrap();
    assert_eq!((fs::read(m.path("a")).unwrap(), fs::read(m.path("b")).unwrap()), (b"b".to_vec(), b"a".to_vec()));
    renameat2(&m.path("a"), &m.path("d"), libc::RENAME_EXCHANGE).unwrap();
    assert!(m.path("a/sub").is_dir() && m.path("d").is_file());
    assert_eq!(errno(renameat2(&m.path("d"), &m.path("none"), libc::RENAME_EXCHANGE)), libc::ENOENT);
    assert_eq!(errno(renameat2(&m.path("d"), &m.path("w"), libc::RENAME_WHITEOUT)), libc::EINVAL);
    assert_eq!(errno(fs::rename(m.path("a"), m.path("a/sub/x"))), libc::EINVAL);
    assert_eq!(errno(fs::rename(m.path("b"), m.path("a"))), libc::EISDIR);
    assert_eq!(errno(fs::rename(m.path("a"), m.path("b"))), libc::ENOTDIR);
    fs::create_dir(m.path("empty")).unwrap();
    assert_eq!(errno(fs::rename(m.path("empty"), m.path("a"))), libc::ENOTEMPTY);
    fs::rename(m.path("a"), m.path("empty")).unwrap();
    assert_eq!(names(&m.path("empty")), BTreeSet::from(["sub".to_owned()]));
    fs::rename(m.path("d"), m.path("b")).unwrap();
    assert_eq!(fs::read(m.path("b")).unwrap(), b"b");
    fs::hard_link(m.path("b"), m.path("b2")).unwrap();
    fs::rename(m.path("b"), m.path("b2")).unwrap();
    assert_eq!(names(&m.dir), BTreeSet::from(["b", "b2", "empty"].map(str::to_owned)));
    m.end();
}

#[test]
fn attributes_are_kept_and_privileges_go_with_the_content() {
    let m = Mount::with("allow_other,suid");
    let file = m.path("f");
    fs::write(&file, b"x").unwrap();
    fs::set_permissions(&m.dir, fs::Permissions::from_mode(0o777)).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o4777)).unwrap();
    std::os::unix::fs::chown(&file, Some(1000), Some(1001)).unwrap();
    let meta = fs::metadata(&file).unwrap();
    assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (1000, 1001, 0o777), "chown takes setuid away");
    let path = c(&file);
    let times = [libc::timespec { tv_sec: -3, tv_nsec: 5 }, libc::timespec { tv_sec: 1_700_000_000, tv_nsec: 999_999_999 }];
    // SAFETY: the string ends with NUL, both times are there, and both outlive the call.
    check(i64::from(unsafe { libc::utimensat(libc::AT_FDCWD, path.as_ptr(), times.as_ptr(), 0) })).unwrap();
    let meta = fs::metadata(&file).unwrap();
    assert_eq!((meta.atime(), meta.atime_nsec(), meta.mtime(), meta.mtime_nsec()), (-3, 5, 1_700_000_000, 999_999_999));
    // Somebody else writes, truncates by O_TRUNC and by truncate: setuid is gone each time.
    for script in ["echo y >>\"$0\"", ": >\"$0\"", "truncate -s 9 \"$0\""] {
        fs::set_permissions(&file, fs::Permissions::from_mode(0o6777)).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o6777);
        let status =
            Command::new("setpriv").args(["--reuid", "1234", "--regid", "1234", "--clear-groups", "sh", "-c", script]).arg(&file).status();
        let Ok(status) = status else { break };
        assert!(status.success(), "{script}");
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o777, "{script}");
    }
    // A directory with setgid hands its group and the bit down.
    fs::create_dir(m.path("d")).unwrap();
    std::os::unix::fs::chown(m.path("d"), None, Some(77)).unwrap();
    fs::set_permissions(m.path("d"), fs::Permissions::from_mode(0o2775)).unwrap();
    fs::create_dir(m.path("d/e")).unwrap();
    fs::write(m.path("d/e/f"), b"").unwrap();
    let inner = fs::metadata(m.path("d/e")).unwrap();
    assert_eq!((inner.gid(), inner.mode() & 0o2000), (77, 0o2000));
    assert_eq!(fs::metadata(m.path("d/e/f")).unwrap().gid(), 77);
    m.end();
}

#[test]
fn permissions_hold_for_other_users() {
    let m = Mount::with("allow_other");
    fs::write(m.path("secret"), b"x").unwrap();
    fs::set_permissions(m.path("secret"), fs::Permissions::from_mode(0o600)).unwrap();
    let as_other = |script: &str| {
        Command::new("setpriv").args(["--reuid", "1234", "--regid", "1234", "--clear-groups", "sh", "-c", script]).arg(&m.dir).output()
    };
    let output = as_other("cat \"$0/secret\"; touch \"$0/new\"; rm -f \"$0/secret\"; ls \"$0\"").expect("setpriv is there");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "secret\n", "{}", String::from_utf8_lossy(&output.stderr));
    m.end();
}

#[test]
fn xattrs_follow_the_rules_of_setxattr() {
    let m = Mount::new();
    fs::write(m.path("f"), b"x").unwrap();
    let path = c(&m.path("f"));
    let set = |name: &str, value: &[u8], flags: i32| {
        let name = CString::new(name).unwrap();
        // SAFETY: the strings end with NUL, the value is as long as said, all outlive the call.
        check(i64::from(unsafe { libc::setxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), flags) }))
    };
    let get = |path: &CString, name: &str, room: usize| {
        let name = CString::new(name).unwrap();
        let mut buf = vec![0u8; room];
        // SAFETY: the strings end with NUL, the buffer is as long as said, all outlive the call.
        check(unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), buf.as_mut_ptr().cast(), room) } as i64).map(|n| {
            buf.truncate(n as usize);
            buf
        })
    };
    assert_eq!(errno(set("user.a", b"1", libc::XATTR_REPLACE)), libc::ENODATA);
    set("user.a", b"one", libc::XATTR_CREATE).unwrap();
    assert_eq!(errno(set("user.a", b"2", libc::XATTR_CREATE)), libc::EEXIST);
    set("user.a", b"three", 0).unwrap();
    assert_eq!(get(&path, "user.a", 100).unwrap(), b"three");
    assert_eq!(errno(get(&path, "user.a", 2)), libc::ERANGE);
    assert_eq!(errno(get(&path, "user.b", 2)), libc::ENODATA);
    set("user.big", &vec![7; 65536], 0).unwrap();
    assert_eq!(errno(set("user.bigger", &vec![7; 65537], 0)), libc::E2BIG);
    assert_eq!(errno(set("system.posix_acl_access", b"\x02\0\0\0", 0)), libc::EOPNOTSUPP);
    let mut list = [0u8; 256];
    // SAFETY: the string ends with NUL, the buffer is as long as said, both outlive the call.
    let n = check(unsafe { libc::listxattr(path.as_ptr(), list.as_mut_ptr().cast(), list.len()) } as i64).unwrap();
    assert_eq!(&list[..n as usize], b"user.a\0user.big\0");
    let name = CString::new("user.a").unwrap();
    // SAFETY: both strings end with NUL and outlive the call.
    check(i64::from(unsafe { libc::removexattr(path.as_ptr(), name.as_ptr()) })).unwrap();
    assert_eq!(errno(get(&path, "user.a", 100)), libc::ENODATA);
    assert_eq!(get(&c(&m.dir), "user.ize.project", 100).unwrap(), b"/somewhere/projects/one");
    m.end();
}

#[test]
fn a_file_without_a_name_lives_until_it_is_closed() {
    let m = Mount::new();
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(m.path("f")).unwrap();
    file.write_all(b"still here").unwrap();
    fs::remove_file(m.path("f")).unwrap();
    file.write_all(b", and growing").unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "still here, and growing");
    assert_eq!(file.metadata().unwrap().nlink(), 0);
    drop(file);
    // The kernel sends RELEASE and FORGET behind our back.
    let begun = std::time::Instant::now();
    while !m.journal.kinds().contains(&"forget") {
        assert!(begun.elapsed().as_secs() < 5, "the inode is never forgotten: {:?}", m.journal.kinds());
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    m.end();
}

#[test]
fn ten_thousand_entries_are_listed_and_removed_while_they_are_read() {
    let m = Mount::new();
    fs::create_dir(m.path("big")).unwrap();
    for i in 0..10_000 {
        File::create(m.path(&format!("big/entry-{i:05}"))).unwrap();
    }
    assert_eq!(names(&m.path("big")).len(), 10_000);
    // Remove each as it is read: the hard case for offsets.
    let mut seen = 0;
    for entry in fs::read_dir(m.path("big")).unwrap() {
        let entry = entry.unwrap();
        seen += 1;
        if seen % 2 == 0 {
            fs::remove_file(entry.path()).unwrap();
        }
    }
    assert_eq!(seen, 10_000);
    assert_eq!(names(&m.path("big")).len(), 5_000);
    let status = Command::new("rm").arg("-rf").arg(m.path("big")).status().unwrap();
    assert!(status.success());
    assert!(!m.path("big").exists());
    m.end();
}

#[test]
fn mappings_are_shared_with_the_file() {
    let m = Mount::new();
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(m.path("f")).unwrap();
    file.set_len(10_000).unwrap();
    file.write_all_at(b"written", 5_000).unwrap();
    // SAFETY: nobody else cuts the file while it is mapped.
    let mut map = unsafe { memmap2::MmapMut::map_mut(&file) }.unwrap();
    assert_eq!(&map[5_000..5_007], b"written");
    map[..6].copy_from_slice(b"mapped");
    map.flush().unwrap();
    let mut buf = [0; 6];
    file.read_exact_at(&mut buf, 0).unwrap();
    assert_eq!(&buf, b"mapped");
    drop(map);
    drop(file);
    assert!(m.journal.kinds().contains(&"write"));
    m.end();
}

#[test]
fn appends_of_two_processes_do_not_overwrite_each_other() {
    let m = Mount::new();
    let path = m.path("log");
    File::create(&path).unwrap();
    let script = "i=0; while [ $i -lt 500 ]; do echo \"$1 $i\" >>\"$0\"; i=$((i+1)); done";
    let spawn = |who: &str| Command::new("sh").arg("-c").arg(script).arg(&path).arg(who).spawn().unwrap();
    let (mut a, mut b) = (spawn("a"), spawn("b"));
    assert!(a.wait().unwrap().success() && b.wait().unwrap().success());
    let text = fs::read_to_string(&path).unwrap();
    let lines: BTreeSet<&str> = text.lines().collect();
    assert_eq!((text.lines().count(), lines.len()), (1000, 1000));
    m.end();
}

#[test]
fn sparse_files_have_holes_and_punching_makes_them() {
    let m = Mount::new();
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(m.path("f")).unwrap();
    file.set_len(1 << 30).unwrap();
    file.write_all_at(&[1; 8192], 1 << 20).unwrap();
    assert_eq!(file.metadata().unwrap().blocks(), 16);
    let seek = |at: i64, whence| {
        // SAFETY: the descriptor is open.
        check(unsafe { libc::lseek(file.as_raw_fd(), at, whence) })
    };
    assert_eq!(seek(0, libc::SEEK_DATA).unwrap(), 1 << 20);
    assert_eq!(seek(1 << 20, libc::SEEK_HOLE).unwrap(), (1 << 20) + 8192);
    assert_eq!(errno(seek((1 << 20) + 8192, libc::SEEK_DATA)), libc::ENXIO);
    assert_eq!(seek(0, libc::SEEK_HOLE).unwrap(), 0);
    let allocate = |mode, at, len| {
        // SAFETY: the descriptor is open.
        check(i64::from(unsafe { libc::fallocate(file.as_raw_fd(), mode, at, len) }))
    };
    allocate(libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, 1 << 20, 4096).unwrap();
    let mut buf = [9; 8192];
    file.read_exact_at(&mut buf, 1 << 20).unwrap();
    assert!(buf[..4096].iter().all(|b| *b == 0) && buf[4096..].iter().all(|b| *b == 1));
    assert_eq!(errno(allocate(libc::FALLOC_FL_COLLAPSE_RANGE, 0, 4096)), libc::EOPNOTSUPP);
    allocate(libc::FALLOC_FL_ZERO_RANGE, (1 << 20) + 4096, 100).unwrap();
    file.read_exact_at(&mut buf, 1 << 20).unwrap();
    assert!(buf[4096..4196].iter().all(|b| *b == 0) && buf[4196] == 1);
    allocate(0, 1 << 30, 10).unwrap();
    assert_eq!(file.metadata().unwrap().len(), (1 << 30) + 10);
    file.set_len((1 << 20) + 5000).unwrap();
    file.set_len(1 << 21).unwrap();
    file.read_exact_at(&mut buf, 1 << 20).unwrap();
    assert!(buf[5000..].iter().all(|b| *b == 0) && buf[4999] == 1, "what was cut off does not come back");
    drop(file);
    m.end();
}

#[test]
fn large_files_come_back_byte_for_byte_and_copies_share_them() {
    let m = Mount::new();
    let data: Vec<u8> = (0..5_000_000u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    fs::write(m.path("f"), &data).unwrap();
    assert!(fs::read(m.path("f")).unwrap() == data);
    // Drops the kernel's pages, so that the daemon answers.
    let file = File::open(m.path("f")).unwrap();
    // SAFETY: the descriptor is open.
    assert_eq!(unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) }, 0);
    assert!(fs::read(m.path("f")).unwrap() == data);
    let copied = fs::copy(m.path("f"), m.path("g")).unwrap();
    assert_eq!(copied, data.len() as u64);
    assert!(fs::read(m.path("g")).unwrap() == data);
    assert!(m.journal.kinds().contains(&"clone"), "copy_file_range is a clone");
    let odd = OpenOptions::new().write(true).open(m.path("g")).unwrap();
    odd.write_all_at(b"odd", 1_234_567).unwrap();
    let mut want = data.clone();
    want[1_234_567..1_234_570].copy_from_slice(b"odd");
    assert!(fs::read(m.path("g")).unwrap() == want && fs::read(m.path("f")).unwrap() == data);
    drop((file, odd));
    m.end();
}

#[test]
fn fsync_and_synchronous_writes_reach_the_log_before_they_return() {
    let m = Mount::new();
    let file = File::create(m.path("f")).unwrap();
    (&file).write_all(b"x").unwrap();
    assert_eq!(m.journal.syncs(), 0);
    let last = m.fs.locked().tree().applied();
    file.sync_all().unwrap();
    assert!(m.journal.durable() >= last);
    let before = m.journal.syncs();
    File::open(&m.dir).unwrap().sync_all().unwrap();
    assert!(m.journal.syncs() > before, "fsync of a directory");
    for flag in [libc::O_SYNC, libc::O_DSYNC] {
        let mut sync = OpenOptions::new().write(true).custom_flags(flag).open(m.path("f")).unwrap();
        sync.write_all(b"y").unwrap();
        assert_eq!(m.journal.durable(), m.fs.locked().tree().applied());
    }
    m.journal.refuse(Some(ize::fs::journal::JournalError::Io("pulled out".to_owned())));
    assert_eq!(errno(file.sync_all()), libc::EIO);
    assert_eq!(errno((&file).write_all(b"z")), libc::EIO);
    m.journal.refuse(Some(ize::fs::journal::JournalError::Full("full".to_owned())));
    assert_eq!(errno((&file).write_all(b"z")), libc::ENOSPC);
    assert_eq!(errno(File::create(m.path("new"))), libc::ENOSPC);
    m.journal.refuse(None);
    assert_eq!(fs::read(m.path("f")).unwrap(), b"y");
    File::create(m.path("new")).unwrap();
    drop(file);
    m.end();
}

#[test]
fn mounts_with_sync_or_dirsync_answer_when_it_is_durable() {
    for (options, attributes) in [("dirsync", false), ("sync", true)] {
        let m = Mount::with(options);
        // An inode without a name is forgotten some time later, unasked.
        let durable = || m.journal.kinds().iter().rposition(|kind| *kind != "forget") < Some(m.journal.durable().0 as usize);
        let names: [(&str, &dyn Fn()); 8] = [
            ("create", &|| drop(File::create(m.path("f")).unwrap())),
            ("mkdir", &|| fs::create_dir(m.path("d")).unwrap()),
            ("link", &|| fs::hard_link(m.path("f"), m.path("g")).unwrap()),
            ("symlink", &|| symlink("f", m.path("s")).unwrap()),
            ("mknod", &|| drop(std::os::unix::net::UnixListener::bind(m.path("n")).unwrap())),
            ("rename", &|| fs::rename(m.path("g"), m.path("d/g")).unwrap()),
            ("unlink", &|| fs::remove_file(m.path("d/g")).unwrap()),
            ("rmdir", &|| fs::remove_dir(m.path("d")).unwrap()),
        ];
        for (name, change) in names {
            change();
            assert!(durable(), "{name} with {options}");
        }
        fs::set_permissions(m.path("f"), fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(durable(), attributes, "chmod with {options}");
        fs::write(m.path("f"), b"x").unwrap();
        assert_eq!(durable(), attributes, "write with {options}");
        m.end();
    }
}

#[test]
fn statfs_tells_of_the_disk_beneath() {
    let m = Mount::new();
    let path = c(&m.dir);
    // SAFETY: statvfs is plain numbers, for which zero is valid.
    let mut stat: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: the string ends with NUL; both outlive the call.
    check(i64::from(unsafe { libc::statvfs(path.as_ptr(), &mut stat) })).unwrap();
    assert_eq!((stat.f_bsize * stat.f_blocks, stat.f_frsize * stat.f_bavail, stat.f_namemax), (1 << 40, 1 << 38, 255));
    m.end();
}

#[test]
fn a_change_made_by_the_daemon_is_seen_once_the_kernel_was_told() {
    use ize::fs::journal::Caller;
    use ize::ids::Ino;
    use ize::op::{Create, Truncate};
    let m = Mount::new();
    fs::write(m.path("f"), b"before").unwrap();
    assert!(!m.path("made").exists());
    let ino = Ino(fs::metadata(m.path("f")).unwrap().ino());
    {
        let mut writer = m.fs.locked();
        let caller = Caller::default();
        let made = writer.tree().next_ino();
        let create = Create { dir: Ino::ROOT, name: b"made".to_vec(), ino: made, mode: 0o644, uid: 0, gid: 0 };
        writer.log(&caller, create.into(), None, None).unwrap();
        writer.log(&caller, Truncate { ino, old_size: 6, size: 3, mode_after: None }.into(), None, None).unwrap();
    }
    let notify = m.fs.notify().unwrap();
    notify.inval_entry(Ino::ROOT, b"made");
    notify.inval_inode(ino);
    notify.inval_inode(Ino::ROOT);
    assert!(m.path("made").exists());
    assert_eq!(fs::read(m.path("f")).unwrap(), b"bef");
    assert_eq!(names(&m.dir), BTreeSet::from(["f", "made"].map(str::to_owned)));
    m.end();
}

#[test]
fn git_works_in_a_mount() {
    let m = Mount::new();
    let script = "set -e; cd \"$0\"; git init -q repo; cd repo; git config user.email a@b; git config user.name n; \
        mkdir -p src; for i in $(seq 200); do echo \"file $i\" >src/$i; done; git add .; git commit -qm one; \
        for i in $(seq 50); do echo more >>src/$i; done; git mv src/7 seven; git commit -qam two; git gc -q; git fsck --full --strict; \
        git stash list; test -z \"$(git status --porcelain)\"; git checkout -q HEAD~1; test -f src/7; test ! -f seven";
    let output = Command::new("sh").arg("-c").arg(script).arg(&m.dir).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    m.end();
}

#[test]
fn a_mount_in_use_is_busy_and_detaches_lazily() {
    let m = Mount::new();
    let mut file = File::create(m.path("f")).unwrap();
    let error = unmount(&m.dir, false).unwrap_err();
    assert_eq!(error.class, ize::error::Class::Busy);
    unmount(&m.dir, true).unwrap();
    file.write_all(b"served to the end").unwrap();
    drop(file);
    let mut m = m;
    m.mounted.take().unwrap().wait().unwrap();
    assert_eq!(names(&m.dir).len(), 0, "the directory beneath is empty again");
}

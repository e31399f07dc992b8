//! What the file system refuses, keeps and forgets, without a kernel.

use super::journal::JournalError;
use super::testing::{MemoryJournal, memory_fs};
use super::*;
use crate::ids::Time;
use crate::op::{Create, Unlink};
use crate::tree::{LINK_MAX, SIZE_MAX};

const ROOT: Caller = Caller { pid: 0, uid: 0, gid: 0 };
const USER: Caller = Caller { pid: 0, uid: 1000, gid: 1000 };

fn new() -> (Arc<Fs>, Arc<MemoryJournal>) {
    memory_fs().unwrap()
}

fn file(fs: &Fs, name: &[u8]) -> Ino {
    fs.create(&ROOT, Ino::ROOT, name, 0o644, true).unwrap().ino
}

#[test]
fn names_are_checked_before_anything_is_logged() {
    let (fs, journal) = new();
    for (name, why) in [
        (&b""[..], FsError::Invalid),
        (b".", FsError::Invalid),
        (b"..", FsError::Invalid),
        (b"a/b", FsError::Invalid),
        (b"a\0b", FsError::Invalid),
        (&[b'n'; 256], FsError::NameTooLong),
    ] {
        assert_eq!(fs.create(&ROOT, Ino::ROOT, name, 0o644, true).unwrap_err(), why);
        assert_eq!(fs.mkdir(&ROOT, Ino::ROOT, name, 0o755).unwrap_err(), why);
        assert_eq!(fs.symlink(&ROOT, Ino::ROOT, name, b"t").unwrap_err(), why);
        assert_eq!(fs.unlink(&ROOT, Ino::ROOT, name).unwrap_err(), why);
        assert_eq!(fs.rmdir(&ROOT, Ino::ROOT, name).unwrap_err(), why);
        let f = fs.lookup(Ino::ROOT, b"f").unwrap().map_or_else(|| file(&fs, b"f"), |s| s.ino);
        assert_eq!(fs.link(&ROOT, f, Ino::ROOT, name).unwrap_err(), why);
        assert_eq!(fs.rename(&ROOT, (Ino::ROOT, b"f"), (Ino::ROOT, name), RenameFlags::default()).unwrap_err(), why);
    }
    assert_eq!(journal.kinds(), ["create"]);
    assert_eq!(fs.symlink(&ROOT, Ino::ROOT, b"s", &[b't'; 4096]).unwrap_err(), FsError::NameTooLong);
    fs.symlink(&ROOT, Ino::ROOT, b"s", &[b't'; 4095]).unwrap();
    // Any other bytes are a name.
    fs.create(&ROOT, Ino::ROOT, b"\xff\n\x01", 0o644, true).unwrap();
}

#[test]
fn creating_what_exists_makes_the_kernel_look_again() {
    let (fs, _) = new();
    file(&fs, b"f");
    assert_eq!(fs.create(&ROOT, Ino::ROOT, b"f", 0o644, true).unwrap_err().errno(), libc::EEXIST);
    assert_eq!(fs.create(&ROOT, Ino::ROOT, b"f", 0o644, false).unwrap_err().errno(), libc::ESTALE);
}

#[test]
fn nothing_is_made_in_a_removed_directory() {
    let (fs, _) = new();
    let dir = fs.mkdir(&ROOT, Ino::ROOT, b"d", 0o755).unwrap().ino;
    fs.rmdir(&ROOT, Ino::ROOT, b"d").unwrap();
    assert_eq!(fs.create(&ROOT, dir, b"f", 0o644, true).unwrap_err(), FsError::NotFound);
    file(&fs, b"f");
    assert_eq!(fs.rename(&ROOT, (Ino::ROOT, b"f"), (dir, b"f"), RenameFlags::default()).unwrap_err(), FsError::NotFound);
}

#[test]
fn an_inode_without_a_name_is_forgotten_when_nobody_holds_it() {
    let (fs, journal) = new();
    let ino = file(&fs, b"f");
    fs.lookup(Ino::ROOT, b"f").unwrap();
    fs.unlink(&ROOT, Ino::ROOT, b"f").unwrap();
    fs.write(&ROOT, ino, 0, b"x", false).unwrap();
    fs.forget(ino, 2);
    assert!(fs.getattr(ino).is_ok(), "it is still open");
    fs.release(ino);
    assert_eq!(fs.getattr(ino).unwrap_err(), FsError::NotFound);
    // The other way round.
    let ino = file(&fs, b"g");
    fs.release(ino);
    fs.unlink(&ROOT, Ino::ROOT, b"g").unwrap();
    assert!(fs.getattr(ino).is_ok(), "the kernel still knows it");
    fs.forget(ino, 1);
    assert_eq!(fs.getattr(ino).unwrap_err(), FsError::NotFound);
    assert_eq!(journal.kinds(), ["create", "unlink", "write", "forget", "create", "unlink", "forget"]);
}

#[test]
fn what_the_kernel_never_saw_is_forgotten_with_its_name() {
    let (fs, journal) = new();
    let mut writer = fs.locked();
    let ino = writer.tree().next_ino();
    let create = Create { dir: Ino::ROOT, name: b"f".to_vec(), ino, mode: 0o644, uid: 0, gid: 0 };
    writer.log(&ROOT, create.into(), None, None).unwrap();
    let unlink = Unlink { dir: Ino::ROOT, name: b"f".to_vec(), ino };
    writer.log(&ROOT, unlink.into(), None, None).unwrap();
    assert!(writer.tree().orphans().is_empty());
    drop(writer);
    assert_eq!(journal.kinds(), ["create", "unlink", "forget"]);
}

#[test]
fn the_end_of_the_session_forgets_what_the_kernel_did_not() {
    let (fs, _) = new();
    let ino = file(&fs, b"f");
    fs.unlink(&ROOT, Ino::ROOT, b"f").unwrap();
    fs.end_session();
    assert_eq!(fs.getattr(ino).unwrap_err(), FsError::NotFound);
}

#[test]
fn a_refusing_log_changes_nothing() {
    let (fs, journal) = new();
    let ino = file(&fs, b"f");
    fs.write(&ROOT, ino, 0, b"before", false).unwrap();
    for (refusal, errno) in [(JournalError::Full("x".into()), libc::ENOSPC), (JournalError::Io("x".into()), libc::EIO)] {
        journal.refuse(Some(refusal));
        assert_eq!(fs.write(&ROOT, ino, 0, b"after", false).unwrap_err().errno(), errno);
        assert_eq!(fs.write(&ROOT, ino, 0, &[1; 70_000], false).unwrap_err().errno(), errno);
        assert_eq!(fs.unlink(&ROOT, Ino::ROOT, b"f").unwrap_err().errno(), errno);
        assert_eq!(fs.sync().unwrap_err().errno(), errno);
    }
    assert_eq!(fs.broken(), None);
    journal.refuse(None);
    assert_eq!(fs.read(ino, 0, 100).unwrap(), b"before");
    fs.unlink(&ROOT, Ino::ROOT, b"f").unwrap();
}

#[test]
fn what_does_not_fit_the_tree_is_refused_before_it_is_logged() {
    let (fs, journal) = new();
    let ino = file(&fs, b"f");
    let records = journal.kinds().len();
    let create = |name: &[u8], ino| Create { dir: Ino::ROOT, name: name.to_vec(), ino, mode: 0o644, uid: 0, gid: 0 };
    let next = fs.locked().tree().next_ino();
    for misfit in [
        create(b"g", ino).into(),
        create(b"f", next).into(),
        crate::op::Unlink { dir: Ino::ROOT, name: b"f".to_vec(), ino: next }.into(),
        crate::op::Link { ino, dir: Ino::ROOT, name: b"f".to_vec() }.into(),
    ] {
        assert_eq!(fs.locked().log(&ROOT, misfit, None, None).unwrap_err().errno(), libc::EIO);
    }
    assert_eq!(journal.kinds().len(), records, "it was logged");
    assert_eq!(fs.broken(), None);
    fs.unlink(&ROOT, Ino::ROOT, b"f").unwrap();
}

#[test]
fn when_the_tree_cannot_follow_the_log_nothing_is_changed_any_more() {
    let (fs, journal) = new();
    let ino = file(&fs, b"f");
    fs.write(&ROOT, ino, 0, b"kept", false).unwrap();
    // An operation that does not fit, and that only the interpreter notices: the inode still has a name.
    let error = fs.locked().log(&ROOT, crate::op::Forget { ino }.into(), None, None).unwrap_err();
    assert_eq!(error.errno(), libc::EIO);
    assert!(fs.broken().unwrap().contains("still has a name"));
    let records = journal.kinds().len();
    assert!(matches!(fs.write(&ROOT, ino, 0, b"lost", false).unwrap_err(), FsError::Broken(_)));
    assert!(matches!(fs.create(&ROOT, Ino::ROOT, b"h", 0o644, true).unwrap_err(), FsError::Broken(_)));
    assert!(matches!(fs.sync().unwrap_err(), FsError::Broken(_)));
    assert_eq!(journal.kinds().len(), records, "nothing more is logged");
    assert_eq!(fs.read(ino, 0, 100).unwrap(), b"kept", "reads go on");
}

#[test]
fn a_panic_under_the_lock_stops_changes() {
    let (fs, _) = new();
    let inner = Arc::clone(&fs);
    let _ = std::thread::spawn(move || {
        let _writer = inner.locked();
        panic!("on purpose");
    })
    .join();
    assert!(fs.getattr(Ino::ROOT).is_ok());
    assert_eq!(fs.mkdir(&ROOT, Ino::ROOT, b"d", 0o755).unwrap_err().errno(), libc::EIO);
}

#[test]
fn large_writes_become_blobs_and_small_ones_stay_in_the_log() {
    let (fs, journal) = new();
    let ino = file(&fs, b"f");
    let threshold = crate::op::BLOB_THRESHOLD;
    let small = vec![1; threshold - 1];
    let large = vec![2; threshold];
    fs.write(&ROOT, ino, 0, &small, false).unwrap();
    assert!(journal.blobs().get(&crate::ids::BlobId::of(&small)).is_err());
    fs.write(&ROOT, ino, threshold as u64, &large, false).unwrap();
    assert_eq!(journal.blobs().get(&crate::ids::BlobId::of(&large)).unwrap(), large);
    let got = fs.read(ino, 0, 1 << 20).unwrap();
    assert_eq!((got.len(), &got[threshold - 1..threshold + 1]), (2 * threshold, &[0, 2][..]));
}

#[test]
fn files_end_where_off_t_ends() {
    let (fs, _) = new();
    let ino = file(&fs, b"f");
    assert_eq!(fs.write(&ROOT, ino, SIZE_MAX, b"x", false).unwrap_err(), FsError::TooLarge);
    assert_eq!(fs.write(&ROOT, ino, u64::MAX, b"x", false).unwrap_err(), FsError::TooLarge);
    assert_eq!(fs.fallocate(&ROOT, ino, SIZE_MAX, 1, 0).unwrap_err(), FsError::TooLarge);
    fs.write(&ROOT, ino, SIZE_MAX - 1, b"x", false).unwrap();
    assert_eq!(fs.getattr(ino).unwrap().size, SIZE_MAX);
    assert_eq!(fs.read(ino, SIZE_MAX - 2, 10).unwrap(), [0, b'x']);
    assert_eq!(fs.seek(ino, 0, libc::SEEK_DATA).unwrap() as u64, SIZE_MAX - 1);
    let grow = SetAttributes { size: Some(SIZE_MAX + 1), ..SetAttributes::default() };
    assert_eq!(fs.setattr(&ROOT, ino, &grow).unwrap_err(), FsError::TooLarge);
}

#[test]
fn an_allocation_that_cannot_fit_is_refused() {
    let (fs, _) = new();
    let ino = file(&fs, b"f");
    assert_eq!(fs.fallocate(&ROOT, ino, 0, (1 << 38) + 1, 0).unwrap_err().errno(), libc::ENOSPC);
    fs.fallocate(&ROOT, ino, 0, 4096, libc::FALLOC_FL_KEEP_SIZE).unwrap();
    assert_eq!(fs.getattr(ino).unwrap().size, 0);
}

#[test]
fn copies_within_a_file_may_not_overlap_and_end_with_the_source() {
    let (fs, _) = new();
    let ino = file(&fs, b"f");
    fs.write(&ROOT, ino, 0, b"0123456789", false).unwrap();
    assert_eq!(fs.copy_range(&ROOT, (ino, 0), (ino, 5), 6).unwrap_err(), FsError::Invalid);
    assert_eq!(fs.copy_range(&ROOT, (ino, 5), (ino, 0), 6).unwrap(), 5, "shortened to five bytes, which do not overlap");
    assert_eq!(fs.copy_range(&ROOT, (ino, 0), (ino, 10), 10).unwrap(), 10);
    assert_eq!(fs.copy_range(&ROOT, (ino, 20), (ino, 0), 10).unwrap(), 0);
    assert_eq!(fs.read(ino, 0, 100).unwrap(), b"56789567895678956789");
}

#[test]
fn an_inode_has_so_many_names_and_no_more() {
    let (fs, _) = new();
    let ino = file(&fs, b"f");
    for i in 1..LINK_MAX {
        fs.link(&ROOT, ino, Ino::ROOT, format!("l{i}").as_bytes()).unwrap();
    }
    assert_eq!(fs.getattr(ino).unwrap().nlink, LINK_MAX);
    assert_eq!(fs.link(&ROOT, ino, Ino::ROOT, b"more").unwrap_err().errno(), libc::EMLINK);
}

#[test]
fn setuid_goes_when_others_change_a_file() {
    let (fs, _) = new();
    let ino = file(&fs, b"f");
    let chmod = |mode| {
        fs.setattr(&ROOT, ino, &SetAttributes { mode: Some(mode), ..SetAttributes::default() }).unwrap();
    };
    let mode = || fs.getattr(ino).unwrap().attrs.mode;
    let size = SetAttributes { size: Some(1), ..SetAttributes::default() };
    chmod(0o6755);
    fs.write(&ROOT, ino, 0, b"x", false).unwrap();
    fs.setattr(&ROOT, ino, &size).unwrap();
    assert_eq!(mode(), 0o6755, "root may");
    fs.write(&USER, ino, 0, b"x", true).unwrap();
    assert_eq!(mode(), 0o755);
    chmod(0o6745);
    fs.setattr(&USER, ino, &size).unwrap();
    assert_eq!(mode(), 0o745, "setgid of a foreign group");
    fs.setattr(&ROOT, ino, &SetAttributes { gid: Some(USER.gid), ..SetAttributes::default() }).unwrap();
    chmod(0o6745);
    fs.setattr(&USER, ino, &size).unwrap();
    assert_eq!(mode(), 0o2745, "setgid of one's own group, where it may not execute");
    chmod(0o6755);
    fs.setattr(&ROOT, ino, &SetAttributes::default()).unwrap();
    assert_eq!(mode(), 0o755, "chown(-1, -1), also by root");
    chmod(0o6755);
    fs.setattr(&USER, ino, &SetAttributes { size: Some(0), ..SetAttributes::default() }).unwrap();
    assert_eq!(mode(), 0o755, "O_TRUNC, as the kernel sends it");
    chmod(0o6755);
    fs.setattr(&USER, ino, &SetAttributes::default()).unwrap();
    assert_eq!(mode(), 0o755, "the kernel's empty setattr before a write");
    chmod(0o6755);
    fs.setattr(&ROOT, ino, &SetAttributes { gid: Some(5), ..SetAttributes::default() }).unwrap();
    assert_eq!(mode(), 0o755, "chown, also by root");
    let fifo = fs.mknod(&ROOT, Ino::ROOT, b"fifo", libc::S_IFIFO | 0o6711, 0).unwrap().ino;
    fs.setattr(&ROOT, fifo, &SetAttributes { uid: Some(5), ..SetAttributes::default() }).unwrap();
    assert_eq!(fs.getattr(fifo).unwrap().attrs.mode, 0o711, "chown takes them from everything but directories");
    let dir = fs.mkdir(&ROOT, Ino::ROOT, b"d", 0o2755).unwrap().ino;
    fs.setattr(&ROOT, dir, &SetAttributes { gid: Some(5), ..SetAttributes::default() }).unwrap();
    assert_eq!(fs.getattr(dir).unwrap().attrs.mode, 0o2755, "directories keep theirs");
}

#[test]
fn one_setattr_is_one_operation_a_kind() {
    let (fs, journal) = new();
    let ino = file(&fs, b"f");
    let at = Time { secs: -5, nanos: 7 };
    let set = SetAttributes {
        mode: Some(0o4700),
        uid: Some(3),
        gid: None,
        size: Some(9),
        atime: Some(SetTime::At(at)),
        mtime: Some(SetTime::At(at)),
    };
    let stat = fs.setattr(&ROOT, ino, &set).unwrap();
    assert_eq!((stat.attrs.mode, stat.attrs.uid, stat.attrs.gid, stat.size), (0o4700, 3, 0, 9));
    assert_eq!((stat.attrs.atime, stat.attrs.mtime), (at, at));
    assert_eq!(journal.kinds(), ["create", "chown", "chmod", "truncate", "utimens"]);
    assert_eq!(fs.setattr(&ROOT, Ino::ROOT, &SetAttributes { size: Some(0), ..set }).unwrap_err(), FsError::IsDirectory);
}

#[test]
fn listings_go_on_where_they_stopped_while_entries_come_and_go() {
    let (fs, _) = new();
    for i in 0..1000 {
        file(&fs, format!("f{i}").as_bytes());
    }
    let (mut cookie, mut seen) = (0, Vec::new());
    loop {
        let mut room = 7;
        let before = seen.len();
        fs.readdir(Ino::ROOT, DirHandle::default(), cookie, |entry| {
            if room > 0 {
                room -= 1;
                cookie = entry.cookie;
                seen.push(entry.name.to_vec());
            }
            room > 0
        })
        .unwrap();
        if seen.len() == before {
            break;
        }
        // Everything that was just read goes, and something new comes.
        for name in seen[before..].iter().filter(|n| n.starts_with(b"f")) {
            fs.unlink(&ROOT, Ino::ROOT, name).unwrap();
        }
        if seen.len() < 100 {
            file(&fs, format!("new{}", seen.len()).as_bytes());
        }
    }
    assert_eq!(&seen[..2], [b".".to_vec(), b"..".to_vec()]);
    let old = seen.iter().filter(|n| n.starts_with(b"f")).count();
    let unique: std::collections::BTreeSet<_> = seen.iter().collect();
    assert_eq!((old, unique.len()), (1000, seen.len()));
    assert!(seen.iter().any(|n| n.starts_with(b"new")));
}

/// The next entry after `cookie`, as a reader with a small buffer gets it.
fn next(fs: &Fs, handle: DirHandle, cookie: u64) -> Option<(String, u64)> {
    let mut found = None;
    fs.readdir(Ino::ROOT, handle, cookie, |entry| {
        found.get_or_insert_with(|| (String::from_utf8(entry.name.to_vec()).unwrap(), entry.cookie));
        false
    })
    .unwrap();
    found
}

#[test]
fn a_reader_that_makes_or_renames_an_entry_for_each_that_it_reads_comes_to_an_end() {
    let (fs, _) = new();
    for name in [b"a", b"b", b"c"] {
        file(&fs, name);
    }
    let handle = fs.opendir(Ino::ROOT).unwrap();
    for change in [0, 1] {
        let (mut cookie, mut seen) = (0, Vec::new());
        while let Some((name, at)) = next(&fs, handle, cookie) {
            cookie = at;
            if !name.starts_with('.') {
                let other = format!("{name}+").into_bytes();
                if change == 0 {
                    file(&fs, &other);
                } else {
                    fs.rename(&ROOT, (Ino::ROOT, name.as_bytes()), (Ino::ROOT, &other[..]), RenameFlags::default()).unwrap();
                }
                seen.push(name);
            }
            assert!(seen.len() <= 6, "the reader runs after its own entries: {seen:?}");
        }
        // The second round begins anew and meets what the first one made; the renames replace a+, b+ and c+.
        assert_eq!(seen, if change == 0 { vec!["a", "b", "c"] } else { vec!["a", "b", "c", "a+", "b+", "c+"] });
    }
    fs.releasedir(Ino::ROOT, handle);
}

#[test]
fn a_file_that_is_saved_anew_is_met_once_by_who_reads_meanwhile() {
    let (fs, _) = new();
    for name in [&b"first"[..], b"saved", b"other", b"moved", b"swapped"] {
        file(&fs, name);
    }
    let cookie_of = |wanted: &str| {
        let mut cookie = 0;
        while let Some((name, at)) = next(&fs, DirHandle::default(), cookie) {
            cookie = at;
            if name == wanted {
                return at;
            }
        }
        0
    };
    let rename = |from: &[u8], to: &[u8], exchange| {
        fs.rename(&ROOT, (Ino::ROOT, from), (Ino::ROOT, to), RenameFlags { exchange, ..RenameFlags::default() }).unwrap();
    };
    let (saved, moved, swapped) = (cookie_of("saved"), cookie_of("moved"), cookie_of("swapped"));
    file(&fs, b"saved.tmp");
    rename(b"saved.tmp", b"saved", false);
    rename(b"moved", b"moved-away", false);
    rename(b"first", b"swapped", true);
    assert_eq!((cookie_of("saved"), cookie_of("moved-away"), cookie_of("swapped")), (saved, moved, swapped));
    assert_eq!(cookie_of("saved.tmp"), 0);
}

#[test]
fn capabilities_of_a_file_go_before_its_bytes_or_owner_change() {
    const CAPS: &[u8] = b"security.capability";
    let (fs, journal) = new();
    let (f, g) = (file(&fs, b"f"), file(&fs, b"g"));
    fs.write(&ROOT, g, 0, b"12345678", false).unwrap();
    let change: [(&str, &dyn Fn()); 5] = [
        ("write", &|| {
            fs.write(&ROOT, f, 0, b"x", false).unwrap();
        }),
        ("truncate", &|| {
            fs.setattr(&ROOT, f, &SetAttributes { size: Some(5), ..SetAttributes::default() }).unwrap();
        }),
        ("chown", &|| {
            fs.setattr(&ROOT, f, &SetAttributes { uid: Some(7), ..SetAttributes::default() }).unwrap();
        }),
        ("fallocate", &|| fs.fallocate(&ROOT, f, 0, 100, 0).unwrap()),
        ("clone", &|| {
            fs.copy_range(&ROOT, (g, 0), (f, 0), 8).unwrap();
        }),
    ];
    for (kind, change) in change {
        fs.setxattr(&ROOT, f, CAPS, b"some", 0).unwrap();
        change();
        assert_eq!(fs.getxattr(f, CAPS).unwrap_err(), FsError::NoAttribute, "{kind}");
        assert!(journal.kinds().ends_with(&["removexattr", kind]), "first they go, then it happens: {:?}", journal.kinds());
    }
    // Neither the mode nor a time makes the program another one.
    fs.setxattr(&ROOT, f, CAPS, b"some", 0).unwrap();
    fs.setattr(&ROOT, f, &SetAttributes { mode: Some(0o755), mtime: Some(SetTime::Now), ..SetAttributes::default() }).unwrap();
    assert_eq!(fs.getxattr(f, CAPS).unwrap(), b"some");
}

#[test]
fn readdirplus_holds_what_was_taken_and_nothing_else() {
    let (fs, _) = new();
    let (a, b) = (file(&fs, b"a"), file(&fs, b"b"));
    for ino in [a, b] {
        fs.release(ino);
        fs.forget(ino, 1);
    }
    fs.readdirplus(Ino::ROOT, DirHandle::default(), 0, |entry, stat| {
        assert_eq!(entry.ino, stat.ino);
        entry.ino != b
    })
    .unwrap();
    fs.unlink(&ROOT, Ino::ROOT, b"a").unwrap();
    fs.unlink(&ROOT, Ino::ROOT, b"b").unwrap();
    assert!(fs.getattr(a).is_ok());
    assert_eq!(fs.getattr(b).unwrap_err(), FsError::NotFound);
    fs.forget(a, 1);
    assert_eq!(fs.getattr(a).unwrap_err(), FsError::NotFound);
}

#[test]
fn attributes_of_one_inode_together_have_a_limit() {
    let (fs, _) = new();
    let ino = file(&fs, b"f");
    for i in 0..3 {
        fs.setxattr(&ROOT, ino, format!("user.{i}").as_bytes(), &vec![0; 65_536], 0).unwrap();
    }
    assert_eq!(fs.setxattr(&ROOT, ino, b"user.more", &vec![0; 65_536], 0).unwrap_err().errno(), libc::ENOSPC);
    fs.setxattr(&ROOT, ino, b"user.2", &vec![1; 65_536], 0).unwrap();
}

#[test]
fn the_project_attribute_is_read_only_unlisted_and_unlogged() {
    let (fs, journal) = new();
    assert_eq!(fs.getxattr(Ino::ROOT, PROJECT_XATTR).unwrap(), b"/somewhere/projects/one");
    assert_eq!(fs.setxattr(&ROOT, Ino::ROOT, PROJECT_XATTR, b"x", 0).unwrap_err(), FsError::NotPermitted);
    assert_eq!(fs.removexattr(&ROOT, Ino::ROOT, PROJECT_XATTR).unwrap_err(), FsError::NotPermitted);
    assert_eq!(fs.listxattr(&ROOT, Ino::ROOT).unwrap(), b"");
    let ino = file(&fs, b"f");
    assert_eq!(fs.getxattr(ino, PROJECT_XATTR).unwrap_err(), FsError::NoAttribute);
    fs.setxattr(&ROOT, ino, b"trusted.t", b"", 0).unwrap();
    assert_eq!((fs.listxattr(&ROOT, ino).unwrap(), fs.listxattr(&USER, ino).unwrap()), (b"trusted.t\0".to_vec(), vec![]));
    for name in [&b"system.posix_acl_access"[..], b"system.posix_acl_default", b"nonsense"] {
        assert_eq!(fs.setxattr(&ROOT, ino, name, b"", 0).unwrap_err(), FsError::NotSupported);
    }
    assert_eq!(journal.kinds(), ["create", "setxattr"]);
}

/// What is said of an absent label makes `ls -l` ask no second file for one.
#[test]
fn there_are_no_labels_of_selinux_unless_somebody_sets_one() {
    let (fs, _) = new();
    let ino = file(&fs, b"f");
    assert_eq!(fs.getxattr(ino, b"security.selinux").unwrap_err(), FsError::NotSupported);
    assert_eq!(fs.getxattr(ino, b"security.other").unwrap_err(), FsError::NoAttribute);
    fs.setxattr(&ROOT, ino, b"security.selinux", b"label", 0).unwrap();
    assert_eq!(fs.getxattr(ino, b"security.selinux").unwrap(), b"label");
    fs.removexattr(&ROOT, ino, b"security.selinux").unwrap();
    assert_eq!(fs.removexattr(&ROOT, ino, b"security.selinux").unwrap_err(), FsError::NoAttribute);
}

#[test]
fn a_directory_cannot_get_beneath_itself_from_either_side() {
    let (fs, _) = new();
    let a = fs.mkdir(&ROOT, Ino::ROOT, b"a", 0o755).unwrap().ino;
    let b = fs.mkdir(&ROOT, a, b"b", 0o755).unwrap().ino;
    let f = fs.create(&ROOT, b, b"f", 0o644, true).unwrap().ino;
    let exchange = RenameFlags { exchange: true, ..RenameFlags::default() };
    let plain = RenameFlags::default();
    assert_eq!(fs.rename(&ROOT, (Ino::ROOT, b"a"), (b, b"x"), plain).unwrap_err(), FsError::Invalid);
    assert_eq!(fs.rename(&ROOT, (Ino::ROOT, b"a"), (a, b"x"), plain).unwrap_err(), FsError::Invalid);
    assert_eq!(fs.rename(&ROOT, (Ino::ROOT, b"a"), (a, b"b"), exchange).unwrap_err(), FsError::Invalid);
    assert_eq!(fs.rename(&ROOT, (a, b"b"), (Ino::ROOT, b"a"), exchange).unwrap_err(), FsError::Invalid);
    assert_eq!(fs.rename(&ROOT, (b, b"f"), (Ino::ROOT, b"a"), exchange).unwrap_err(), FsError::Invalid);
    assert_eq!(fs.rename(&ROOT, (a, b"b"), (Ino::ROOT, b"a"), plain).unwrap_err(), FsError::NotEmpty);
    fs.link(&ROOT, f, b, b"g").unwrap();
    fs.rename(&ROOT, (b, b"f"), (b, b"g"), plain).unwrap();
    assert_eq!(fs.getattr(f).unwrap().nlink, 2, "two names of one inode: nothing happens");
    assert!(RenameFlags::from_bits(libc::RENAME_WHITEOUT).is_err());
    assert!(RenameFlags::from_bits(libc::RENAME_NOREPLACE | libc::RENAME_EXCHANGE).is_err());
}

/// Blobs that are missing for the first so many readings, as when the sweep takes one between planning and reading.
#[derive(Debug)]
struct Vanishing {
    blobs: Arc<super::testing::MemoryBlobs>,
    misses: std::sync::atomic::AtomicUsize,
}

impl BlobRead for Vanishing {
    fn get(&self, id: &crate::ids::BlobId) -> Result<Vec<u8>, crate::tree::TreeError> {
        self.blobs.get(id)
    }

    fn read_at(&self, id: &crate::ids::BlobId, offset: u64, buf: &mut [u8]) -> Result<(), crate::tree::TreeError> {
        use std::sync::atomic::Ordering::SeqCst;
        if self.misses.fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1)).is_ok() {
            return Err(crate::tree::TreeError::Blob { id: *id, why: "missing".to_owned(), damaged: true, full: false });
        }
        self.blobs.read_at(id, offset, buf)
    }
}

#[test]
fn a_blob_that_vanished_meanwhile_is_planned_again_once() {
    let journal = Arc::new(MemoryJournal::default());
    let blobs = Arc::new(Vanishing { blobs: journal.blobs(), misses: 0.into() });
    let tree = Tree::open(Arc::clone(&blobs) as Arc<dyn BlobRead>, None, Ino(2), Lsn::ZERO, Time::default()).unwrap();
    let fs = Fs::new(tree, journal);
    let ino = file(&fs, b"f");
    fs.write(&ROOT, ino, 0, &[7; 100_000], false).unwrap();
    blobs.misses.store(1, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(fs.read(ino, 99_000, 4096).unwrap(), [7; 1000]);
    blobs.misses.store(2, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(fs.read(ino, 0, 4096).unwrap_err().errno(), libc::EIO);
}

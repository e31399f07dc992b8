//! The simulated disk keeps the rules of the storage trait, and nothing more.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};

use ize::storage::sim::{Call, CallKind, Effect, Fault, SimDisk, is_crash};
use ize::storage::{FileRef, Storage};

fn read(disk: &SimDisk, path: &str) -> Option<Vec<u8>> {
    let file = disk.open_read(Path::new(path)).ok()?;
    let mut buf = vec![0; file.len().unwrap() as usize];
    file.read_exact_at(&mut buf, 0).unwrap();
    Some(buf)
}

fn synced(disk: &SimDisk, path: &str, bytes: &[u8]) -> FileRef {
    let file = disk.create_new(Path::new(path)).unwrap();
    file.write_at(&[bytes], 0).unwrap();
    file.sync_data().unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    file
}

#[test]
fn synced_bytes_and_names_survive_every_power_cut() {
    let disk = SimDisk::new();
    let file = synced(&disk, "/a", &[7; 2000]);
    file.write_at(&[&[8; 600]], 700).unwrap();
    let mut seen = BTreeSet::new();
    for seed in 0..200 {
        let left = read(&disk.crash(seed), "/a").unwrap();
        assert_eq!(left[..700], [7; 700]);
        assert_eq!(left[1300..], [7; 700]);
        for granule in [700..1024, 1024..1300] {
            assert!(left[granule.clone()].iter().all(|b| *b == left[granule.start]), "a granule is torn");
        }
        seen.insert((left[700], left[1024]));
    }
    assert_eq!(seen.len(), 4, "every combination of the two granules comes up");
}

#[test]
fn unsynced_names_are_old_or_new_and_a_rename_is_atomic() {
    let disk = SimDisk::new();
    synced(&disk, "/a", b"old");
    let temp = disk.create_new(Path::new("/t")).unwrap();
    temp.write_at(&[b"new"], 0).unwrap();
    temp.sync_data().unwrap();
    disk.rename(Path::new("/t"), Path::new("/a")).unwrap();
    let mut seen = BTreeSet::new();
    for seed in 0..100 {
        seen.insert(read(&disk.crash(seed), "/a").unwrap());
    }
    assert_eq!(seen, BTreeSet::from([b"old".to_vec(), b"new".to_vec()]));
    disk.sync_dir(Path::new("/")).unwrap();
    assert!((0..100).all(|seed| read(&disk.crash(seed), "/a").unwrap() == b"new" && read(&disk.crash(seed), "/t").is_none()));
}

#[test]
fn a_failed_sync_loses_what_later_syncs_do_not_bring_back() {
    let disk = SimDisk::new();
    let file = synced(&disk, "/a", b"old");
    file.write_at(&[b"new"], 0).unwrap();
    disk.fail_sync(1);
    assert_eq!(file.sync_data().unwrap_err().raw_os_error(), Some(libc::EIO));
    assert_eq!(read(&disk, "/a").unwrap(), b"new");
    file.sync_data().unwrap();
    assert_eq!(read(&disk.kill(), "/a").unwrap(), b"new");
    assert!((0..20).all(|seed| read(&disk.crash(seed), "/a").unwrap() == b"old"));
}

#[test]
fn a_killed_process_loses_nothing_and_syncs_nothing() {
    let disk = SimDisk::new();
    let file = disk.create_new(Path::new("/a")).unwrap();
    file.write_at(&[b"x"], 0).unwrap();
    let killed = disk.kill();
    assert_eq!(read(&killed, "/a").unwrap(), b"x");
    assert!((0..50).any(|seed| read(&killed.crash(seed), "/a").is_none()), "the name was never synced");
}

#[test]
fn handles_survive_unlink_and_calls_stop_at_the_crash() {
    let disk = SimDisk::new();
    let file = synced(&disk, "/a", b"x");
    disk.remove(Path::new("/a")).unwrap();
    let mut buf = [0];
    file.read_exact_at(&mut buf, 0).unwrap();
    assert_eq!(&buf, b"x");
    disk.crash_at_call(1);
    assert!(is_crash(&file.sync_data().unwrap_err()));
    assert!(is_crash(&disk.list(Path::new("/")).unwrap_err()));
}

#[test]
fn a_full_disk_answers_enospc() {
    let disk = SimDisk::new();
    let file = synced(&disk, "/a", &[1; 100]);
    disk.set_capacity(Some(150));
    assert_eq!(file.write_at(&[&[2; 100]], 100).unwrap_err().raw_os_error(), Some(libc::ENOSPC));
    file.write_at(&[&[3; 100]], 0).unwrap();
}

#[test]
fn files_put_and_cut_by_hand_are_durable_at_once() {
    let disk = SimDisk::new();
    let path = Path::new("/store/wal/a");
    disk.put_file(path, b"one");
    assert_eq!(disk.list(Path::new("/store/wal")).unwrap(), ["a"]);
    disk.put_file(path, b"another");
    assert!(disk.truncate(path, 4) && !disk.truncate(path, 4) && !disk.truncate(Path::new("/b"), 0));
    assert!((0..20).all(|seed| disk.crash(seed).file_bytes(path).unwrap() == b"anot"));
    assert_eq!(disk.file_bytes(Path::new("/b")), None);
}

fn root() -> &'static Path {
    Path::new("/")
}

/// A new disk of 4 KiB granules must tear larger pieces than an old one of 512 bytes; both come up.
#[test]
fn a_cut_tears_at_granules_of_512_bytes_or_of_4_kib() {
    let disk = SimDisk::new();
    let file = synced(&disk, "/a", &[0; 16384]);
    file.write_at(&[&[1; 16384]], 0).unwrap();
    let (mut fine, mut coarse) = (0, 0);
    for seed in 0..300 {
        let left = read(&disk.crash(seed), "/a").unwrap();
        assert_eq!(left.len(), 16384);
        assert!(left.chunks(512).all(|g| g.iter().all(|b| *b == g[0])), "no granule is smaller than 512 bytes");
        let whole = left.chunks(4096).all(|g| g.iter().all(|b| *b == g[0]));
        let mixed = left.contains(&0) && left.contains(&1);
        fine += usize::from(mixed && !whole);
        coarse += usize::from(mixed && whole);
    }
    assert!(fine > 20 && coarse > 20, "{fine} fine, {coarse} coarse");
}

/// The length of a file is metadata: it reaches the disk before, after, with or without the bytes; a later write may arrive before an
/// earlier one.
#[test]
fn unsynced_bytes_and_lengths_arrive_in_any_order() {
    let disk = SimDisk::new();
    let file = synced(&disk, "/a", &[1; 1024]);
    file.write_at(&[&[2; 3072]], 1024).unwrap();
    file.set_len(2048).unwrap();
    file.write_at(&[&[3; 512]], 0).unwrap();
    let seen: BTreeSet<(usize, u8, Option<u8>)> = (0..500)
        .map(|seed| {
            let left = read(&disk.crash(seed), "/a").unwrap();
            (left.len(), left[0], left.get(1024).copied())
        })
        .collect();
    type Seen = (usize, u8, Option<u8>);
    let one = |wanted: fn(&Seen) -> bool, what: &str| assert!(seen.iter().any(wanted), "{what}: {seen:?}");
    one(|s| *s == (1024, 1, None), "nothing arrives");
    one(|s| *s == (2048, 3, Some(2)), "everything arrives");
    one(|s| s.0 == 4096, "the cut does not arrive");
    one(|s| s.0 == 1536, "growth stops on the way");
    one(|s| s.0 > 1024 && s.2 == Some(0), "the length arrives without the bytes");
    one(|s| s.0 == 1024 && s.1 == 3, "what was written last arrives alone");
    file.sync_data().unwrap();
    assert!((0..50).all(|seed| read(&disk.crash(seed), "/a").unwrap().len() == 2048));
}

#[test]
fn a_rename_may_outlive_a_power_cut_that_the_bytes_do_not() {
    let disk = SimDisk::new();
    let file = disk.create_new(Path::new("/t")).unwrap();
    file.write_at(&[&[1; 700]], 0).unwrap();
    disk.rename(Path::new("/t"), Path::new("/a")).unwrap();
    let left: Vec<_> = (0..100).map(|seed| disk.crash(seed)).collect();
    assert!(left.iter().any(|d| d.file_bytes(Path::new("/a")).is_some_and(|b| b != [1; 700])));
    assert!(left.iter().any(|d| d.file_bytes(Path::new("/t")).is_some()), "the first name without the second");
    assert!(left.iter().any(|d| d.list(root()).unwrap().is_empty()));
}

#[test]
fn a_failed_sync_of_a_directory_loses_its_names() {
    let disk = SimDisk::new();
    synced(&disk, "/a", b"old");
    let new = disk.create_new(Path::new("/b")).unwrap();
    new.sync_data().unwrap();
    disk.fail_sync_dir(1);
    assert_eq!(disk.sync_dir(root()).unwrap_err().raw_os_error(), Some(libc::EIO));
    disk.sync_dir(root()).unwrap();
    assert_eq!(disk.list(root()).unwrap(), ["a", "b"]);
    assert!((0..50).all(|seed| disk.crash(seed).list(root()).unwrap() == ["a"]));
}

/// A file whose sync fails loses its own bytes only, all of them or as many as the fault says; what is written later is synced again.
#[test]
fn a_failed_sync_is_the_matter_of_one_file() {
    let disk = SimDisk::new();
    let (a, b) = (synced(&disk, "/a", &[1; 2048]), synced(&disk, "/b", &[1; 2048]));
    a.write_at(&[&[2; 2048]], 0).unwrap();
    b.write_at(&[&[2; 2048]], 0).unwrap();
    disk.fail_sync(1);
    assert!(a.sync_data().is_err());
    b.sync_data().unwrap();
    a.write_at(&[&[3; 512]], 512).unwrap();
    a.sync_data().unwrap();
    let left = disk.crash(1);
    assert_eq!(left.file_bytes(Path::new("/b")).unwrap(), [2; 2048]);
    assert_eq!(left.file_bytes(Path::new("/a")).unwrap(), [[1; 512], [3; 512], [1; 512], [1; 512]].concat());
    b.write_at(&[&[4; 2048]], 0).unwrap();
    disk.at_call(1, Fault::Error { errno: libc::EIO, effect: Effect::All });
    assert!(b.sync_data().is_err());
    assert_eq!(disk.crash(1).file_bytes(Path::new("/b")).unwrap(), [4; 2048]);
}

#[test]
fn a_failing_write_leaves_nothing_some_or_all_of_its_bytes() {
    let mut seen = BTreeSet::new();
    for effect in [Effect::None, Effect::All].into_iter().chain((0..60).map(Effect::Some)) {
        let disk = SimDisk::new();
        let file = synced(&disk, "/a", &[0; 4096]);
        disk.at_call(1, Fault::Error { errno: libc::EDQUOT, effect });
        assert_eq!(file.write_at(&[&[1; 2000], &[1; 2096]], 0).unwrap_err().raw_os_error(), Some(libc::EDQUOT));
        let bytes = disk.file_bytes(Path::new("/a")).unwrap();
        let ones = bytes.iter().filter(|b| **b == 1).count();
        match effect {
            Effect::None => assert_eq!(ones, 0),
            Effect::All => assert_eq!(ones, 4096),
            Effect::Some(_) => _ = seen.insert((ones, bytes[0])),
        }
        file.write_at(&[&[2; 4096]], 0).unwrap();
    }
    assert!(seen.iter().any(|s| s.0 % 512 != 0) && seen.iter().any(|s| s.1 == 0 && s.0 > 0), "in front, and out of order: {seen:?}");
}

#[test]
fn reads_fail_once_or_for_good_or_come_short() {
    let disk = SimDisk::new();
    let (a, b) = (synced(&disk, "/a", &[5; 100]), synced(&disk, "/b", &[6; 100]));
    let mut buf = [0; 100];
    disk.fail_read(2);
    assert!(a.read_at(&mut buf, 0).is_ok() && a.read_at(&mut buf, 0).is_err() && a.read_at(&mut buf, 0).is_ok());
    disk.fail_reads_of(Path::new("/a"));
    disk.rename(Path::new("/b"), Path::new("/c")).unwrap();
    assert!((0..3).all(|_| a.read_at(&mut buf, 0).is_err()) && b.read_at(&mut buf, 0).is_ok());
    let left = disk.kill();
    assert!(left.open(Path::new("/a")).unwrap().read_at(&mut buf, 0).is_err(), "a bad sector stays bad");
    disk.disarm();
    disk.at_call(1, Fault::Short);
    assert_eq!(a.read_at(&mut buf, 0).unwrap(), 50);
    disk.at_call(1, Fault::Short);
    a.read_exact_at(&mut buf, 0).unwrap();
}

#[test]
fn a_script_sees_each_call_and_decides_what_becomes_of_it() {
    let disk = SimDisk::new();
    let seen = Arc::new(Mutex::new(Vec::<Call>::new()));
    let log = Arc::clone(&seen);
    disk.script(move |call| {
        log.lock().unwrap().push(call.clone());
        (call.kind == CallKind::Rename).then_some(Fault::Error { errno: libc::EIO, effect: Effect::All })
    });
    let file = disk.create_new(Path::new("/a")).unwrap();
    file.write_at(&[b"x"], 0).unwrap();
    assert!(disk.rename(Path::new("/a"), Path::new("/b")).is_err());
    file.sync_data().unwrap();
    let seen: Vec<_> = seen.lock().unwrap().iter().map(|c| (c.number, c.kind, c.path.to_str().unwrap().to_owned())).collect();
    let expected = [(1, CallKind::Create, "/a"), (2, CallKind::Write, "/a"), (3, CallKind::Rename, "/a"), (4, CallKind::Sync, "/b")];
    assert_eq!(seen, expected.map(|(n, kind, path)| (n, kind, path.to_owned())));
    assert_eq!((disk.faults(), disk.all_calls()), (1, 4));
    assert_eq!(disk.list(root()).unwrap(), ["b"], "it failed and happened");
}

/// Every call can be the last: without effect, with all of it, or with some.
#[test]
fn a_crash_comes_before_or_after_the_effect_of_its_call() {
    for kind in [CallKind::Create, CallKind::Write, CallKind::Rename, CallKind::Sync, CallKind::SyncDir, CallKind::SetLen, CallKind::Remove]
    {
        let after = |effect| {
            let disk = SimDisk::new();
            disk.script(move |call| (call.kind == kind).then_some(Fault::Crash(effect)));
            let run = || -> std::io::Result<()> {
                let file = disk.create_new(Path::new("/a"))?;
                file.write_at(&[b"xy"], 0)?;
                file.set_len(1)?;
                file.sync_data()?;
                disk.rename(Path::new("/a"), Path::new("/b"))?;
                disk.sync_dir(root())?;
                disk.remove(Path::new("/b"))
            };
            assert!(is_crash(&run().unwrap_err()) && disk.crashed());
            let bytes = |disk: &SimDisk| ["/a", "/b"].map(|path| disk.file_bytes(Path::new(path)));
            let sure: BTreeSet<_> = (0..60).map(|seed| bytes(&disk.crash(seed))).collect();
            let killed = disk.kill();
            (sure, bytes(&killed))
        };
        assert_ne!(after(Effect::None), after(Effect::All), "{kind:?}");
    }
}

#[test]
fn a_full_disk_refuses_creations_and_growth_but_not_what_is_there() {
    let disk = SimDisk::new();
    let file = synced(&disk, "/a", &[1; 100]);
    disk.set_capacity(Some(100));
    assert_eq!(disk.create_new(Path::new("/b")).unwrap_err().raw_os_error(), Some(libc::ENOSPC));
    assert_eq!(file.set_len(101).unwrap_err().raw_os_error(), Some(libc::ENOSPC));
    file.write_at(&[b"y"], 99).unwrap();
    file.set_len(50).unwrap();
    assert_eq!(file.write_at(&[&[2; 60]], 50).unwrap_err().raw_os_error(), Some(libc::ENOSPC));
    assert_eq!(file.len().unwrap(), 100, "as much as there is room for arrives");
    assert_eq!(disk.faults(), 3);
    disk.set_capacity(None);
    disk.create_new(Path::new("/b")).unwrap();
}

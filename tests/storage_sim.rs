//! The simulated disk keeps the rules of the storage trait, and nothing more.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::path::Path;

use ize::storage::sim::{SimDisk, is_crash};
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

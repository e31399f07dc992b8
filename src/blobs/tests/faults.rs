//! A disk that fails, fills up or loses power beneath the store.

use super::*;

/// Random puts and syncs, a crash at every call that changes the disk: what was synced is there, all that is there is right, and the
/// store works on. Packs roll every few entries; the recovery itself crashes too.
#[test]
fn a_crash_at_any_call_keeps_every_synced_blob() {
    for seed in 0..40 {
        for at in 1..70 {
            let disk = disk();
            disk.crash_at_call(at);
            let mut rng = Seeded::new(seed);
            let mut synced = Vec::new();
            let mut put = Vec::new();
            let _ = (|| -> Result<(), BlobError> {
                let (blobs, _) = try_open(&disk, UNCLEAN, 2048)?;
                for n in 0..30 {
                    let bytes = noise(seed * 1000 + n, rng.below(900) as usize);
                    put.push((blobs.put(&bytes, Encoding::Raw)?, bytes));
                    if rng.below(4) == 0 {
                        blobs.sync()?;
                        synced = put.clone();
                    }
                }
                Ok(())
            })();
            let mut after = disk.crash(seed ^ at);
            // A crash of the recovery, then one that is let through.
            after.crash_at_call(1 + rng.below(6));
            if let Ok((blobs, report)) = try_open(&after, UNCLEAN, 2048) {
                assert!(report.findings.iter().all(Finding::is_torn_tail), "{seed} {at} {report:?}");
                let _ = blobs.put(b"after", Encoding::Raw).and_then(|_| blobs.sync());
            }
            after = after.crash(seed + at);
            let (blobs, report) = try_open(&after, UNCLEAN, 2048).unwrap();
            assert!(report.findings.iter().all(Finding::is_torn_tail), "{seed} {at} {report:?}");
            for (id, bytes) in &synced {
                assert_eq!(&blobs.get(id).unwrap(), bytes, "seed {seed}, call {at}");
            }
            for (id, _) in list(&blobs) {
                assert_eq!(blobs.verify(&id), BlobState::Sound, "seed {seed}, call {at}");
            }
            let id = blobs.put(b"and on", Encoding::Raw).unwrap();
            blobs.sync().unwrap();
            let again = open(&after.crash(1), UNCLEAN);
            assert_eq!(again.get(&id).unwrap(), b"and on");
        }
    }
}

#[test]
fn after_a_failed_sync_the_store_takes_nothing_and_recovery_syncs_what_the_cache_holds() {
    let disk = disk();
    let blobs = open(&disk, UNCLEAN);
    let first = blobs.put(b"first", Encoding::Raw).unwrap();
    blobs.sync().unwrap();
    let second = blobs.put(b"second", Encoding::Raw).unwrap();
    disk.fail_sync(1);
    let error = Error::from(blobs.sync().unwrap_err());
    assert_eq!(error.class, Class::Io);
    assert!(blobs.poisoned().is_some());
    assert!(matches!(blobs.sync(), Err(BlobError::Poisoned(_))));
    assert!(matches!(blobs.put(b"third", Encoding::Raw), Err(BlobError::Poisoned(_))));
    assert_eq!(blobs.get(&first).unwrap(), b"first");
    // The process dies; the page cache still holds the second blob, the disk does not.
    let killed = disk.kill();
    assert_eq!(open(&killed.crash(1), UNCLEAN).contains(&second).unwrap(), None, "the failed sync has lost it");
    assert_eq!(open(&killed, UNCLEAN).get(&second).unwrap(), b"second");
    assert_eq!(open(&killed.crash(1), UNCLEAN).get(&second).unwrap(), b"second", "written afresh and synced by the recovery");
}

/// Of two syncs at once the first fails: the pages are clean then, and a sync that only waited for it would find nothing to complain of.
#[test]
fn a_sync_that_waited_for_one_that_failed_fails_too() {
    let disk = disk();
    let blobs = open(&disk, UNCLEAN);
    blobs.put(b"lost", Encoding::Raw).unwrap();
    let (begun, has_begun) = std::sync::mpsc::channel();
    let mut first = true;
    disk.script(move |call| {
        if call.kind != CallKind::Sync || !std::mem::take(&mut first) {
            return None;
        }
        begun.send(()).unwrap();
        // Time for the other to come and wait.
        std::thread::sleep(std::time::Duration::from_millis(300));
        Some(sim::Fault::EIO)
    });
    std::thread::scope(|scope| {
        let leader = scope.spawn(|| blobs.sync());
        has_begun.recv_timeout(std::time::Duration::from_secs(20)).unwrap();
        assert!(blobs.sync().is_err());
        assert!(leader.join().unwrap().is_err());
    });
}

/// While a pack that is not full is closed, for a sweep, an append to it fails and leaves bytes behind: whoever finds them in a closed pack
/// takes them for damage.
#[test]
fn what_a_failed_append_leaves_in_a_pack_that_is_being_closed_is_cut() {
    let disk = disk();
    let blobs = open(&disk, UNCLEAN);
    blobs.put(b"whole", Encoding::Raw).unwrap();
    let (begun, has_begun) = std::sync::mpsc::channel();
    let (mut sync, mut write, mut cut) = (true, true, true);
    disk.script(move |call| {
        let (what, effect) = match call.kind {
            CallKind::Sync => {
                if std::mem::take(&mut sync) {
                    begun.send(()).unwrap();
                    // Time for the append to come.
                    std::thread::sleep(std::time::Duration::from_millis(300));
                }
                return None;
            }
            CallKind::Write => (&mut write, sim::Effect::All),
            CallKind::SetLen => (&mut cut, sim::Effect::None),
            _ => return None,
        };
        std::mem::take(what).then_some(sim::Fault::Error { errno: libc::EIO, effect })
    });
    std::thread::scope(|scope| {
        let sweep = scope.spawn(|| blobs.begin_sweep().map(drop));
        has_begun.recv_timeout(std::time::Duration::from_secs(20)).unwrap();
        assert!(blobs.put(&noise(1, 3000), Encoding::Raw).is_err());
        sweep.join().unwrap().unwrap();
    });
    disk.disarm();
    blobs.sync().unwrap();
    drop(blobs);
    for disk in [disk.kill(), disk.crash(0), disk.crash(1)] {
        let (blobs, report) = try_open(&disk, CLEAN, SMALL).unwrap();
        assert!(report.findings.is_empty() && blobs.usage().packs == 2, "{report:?}");
    }
}

#[test]
fn a_failed_sync_of_the_directory_poisons() {
    let disk = disk();
    let blobs = open(&disk, UNCLEAN);
    blobs.put(b"first", Encoding::Raw).unwrap();
    disk.fail_sync_dir(1);
    assert!(blobs.sync().is_err());
    assert!(matches!(blobs.sync(), Err(BlobError::Poisoned(_))));
}

/// A pack may be begun and get no entry: another thread puts the same blob first.
#[test]
fn a_pack_without_an_entry_is_there_after_a_clean_stop_and_a_power_cut() {
    for seed in 0..40 {
        let disk = disk();
        let blobs = open(&disk, UNCLEAN);
        blobs.roll(None).unwrap();
        blobs.sync().unwrap();
        drop(blobs);
        let cut = disk.crash(seed);
        let header = cut.file_bytes(&path(1)).expect("a synced name is there");
        assert_eq!(header.len() as u64, PACK_HEADER_LEN, "seed {seed}");
        let _ = open(&cut, CLEAN);
    }
}

#[test]
fn a_failed_sync_of_a_full_pack_begins_no_other() {
    let disk = disk();
    let blobs = open(&disk, UNCLEAN);
    blobs.put(&noise(1, SMALL as usize), Encoding::Raw).unwrap();
    disk.fail_sync(1);
    assert!(blobs.put(b"next", Encoding::Raw).is_err());
    assert!(blobs.poisoned().is_some());
    assert_eq!(disk.shared().list(&dir()).unwrap().len(), 1);
}

#[test]
fn a_full_disk_is_an_error_and_no_end() {
    let disk = disk();
    let blobs = open(&disk, UNCLEAN);
    let first = blobs.put(b"first", Encoding::Raw).unwrap();
    disk.set_capacity(Some(disk.used() + 300));
    let error = blobs.put(&noise(1, 1000), Encoding::Raw).unwrap_err();
    assert!(error.is_full());
    assert_eq!(Error::from(error).class, Class::Full);
    let small = blobs.put(b"small", Encoding::Raw).unwrap();
    blobs.sync().unwrap();
    // A new pack finds no room either, at whichever byte.
    for more in 0..80 {
        let disk = disk.kill();
        disk.set_capacity(Some(disk.used() + 4096 + 128 + more));
        let blobs = open(&disk, CLEAN);
        blobs.put(&noise(2, 4096), Encoding::Raw).unwrap();
        assert!(blobs.put(&noise(3, 4096), Encoding::Raw).unwrap_err().is_full());
        assert!(blobs.put(&noise(3, 4096), Encoding::Raw).unwrap_err().is_full());
        disk.set_capacity(None);
        let third = blobs.put(&noise(3, 4096), Encoding::Raw).unwrap();
        blobs.sync().unwrap();
        assert_eq!(open(&disk.crash(more), UNCLEAN).get(&third).unwrap(), noise(3, 4096));
    }
    disk.set_capacity(None);
    let large = blobs.put(&noise(1, 1000), Encoding::Raw).unwrap();
    blobs.sync().unwrap();
    drop(blobs);
    let blobs = open(&disk.crash(3), CLEAN);
    for id in [first, small, large] {
        assert_eq!(blobs.verify(&id), BlobState::Sound);
    }
}

/// All in one pack.
const LARGE: u64 = 1 << 20;

/// A sync failed, the process died, and there is no room for a copy of the pack: what the page cache holds is made durable where it is.
#[test]
fn on_a_full_disk_the_last_pack_is_written_again_in_its_place() {
    for (cut, left) in [(0, 3), (1000, 2)] {
        let disk = disk();
        let (blobs, _) = try_open(&disk, UNCLEAN, LARGE).unwrap();
        let ids: Vec<_> = (0..3).map(|n| blobs.put(&noise(n, 5000), Encoding::Raw).unwrap()).collect();
        disk.fail_sync(1);
        blobs.sync().unwrap_err();
        drop(blobs);
        let disk = disk.kill();
        let len = disk.file_bytes(&path(1)).unwrap().len() as u64;
        assert!(cut == 0 || disk.truncate(&path(1), len - cut));
        disk.set_capacity(Some(disk.used() + 4000));
        let (blobs, report) = try_open(&disk, UNCLEAN, LARGE).unwrap();
        assert_eq!(report.rewritten.as_ref().map(|r| (r.kept, r.cut > 0)), Some((left as u64, cut > 0)), "{report:?}");
        drop(blobs);
        for seed in 0..50 {
            let disk = disk.crash(seed);
            disk.set_capacity(None);
            let (blobs, _) = try_open(&disk, UNCLEAN, LARGE).unwrap();
            for (n, id) in ids.iter().enumerate() {
                let state = blobs.verify(id);
                assert_eq!(state, if n < left { BlobState::Sound } else { BlobState::Missing }, "{n}, cut {cut}, seed {seed}");
            }
            let more = blobs.put(b"more", Encoding::Raw).unwrap();
            assert_eq!(blobs.get(&more).unwrap(), b"more");
        }
    }
}

/// Only a copy can leave out an entry that is wrong before the last.
#[test]
fn a_pack_with_a_wrong_entry_is_not_written_in_its_place() {
    let disk = disk();
    let (blobs, _) = try_open(&disk, UNCLEAN, LARGE).unwrap();
    let ids: Vec<_> = (0..3).map(|n| blobs.put(&noise(n, 5000), Encoding::Raw).unwrap()).collect();
    let place = place(&blobs, &ids[1]);
    drop(blobs);
    let disk = disk.kill();
    assert!(disk.flip(&path(1), place.entry.offset + 1000, 1));
    let before = disk.file_bytes(&path(1)).unwrap();
    disk.set_capacity(Some(disk.used() + 1000));
    assert!(try_open(&disk, UNCLEAN, LARGE).unwrap_err().is_full());
    assert_eq!(disk.file_bytes(&path(1)).unwrap(), before);
    disk.set_capacity(None);
    let (blobs, _) = try_open(&disk, UNCLEAN, LARGE).unwrap();
    let states: Vec<_> = ids.iter().map(|id| blobs.verify(id)).collect();
    assert_eq!(states, [BlobState::Sound, BlobState::Missing, BlobState::Sound]);
}

#[test]
fn a_read_error_is_neither_damage_nor_a_torn_tail() {
    let disk = disk();
    let blobs = open(&disk, UNCLEAN);
    let id = blobs.put(b"bytes", Encoding::Raw).unwrap();
    blobs.sync().unwrap();
    disk.fail_read(1);
    assert!(matches!(blobs.get(&id), Err(BlobError::Io { .. })));
    disk.fail_read(1);
    assert!(matches!(blobs.verify(&id), BlobState::Unreadable(_)));
    assert_eq!(blobs.verify(&id), BlobState::Sound);
    drop(blobs);
    for n in 1..4 {
        let disk = disk.kill();
        disk.fail_read(n);
        match try_open(&disk, UNCLEAN, SMALL) {
            Ok((blobs, report)) => assert!(report.findings.is_empty() && blobs.get(&id).is_ok()),
            Err(e) => assert!(matches!(e, BlobError::Io { .. }), "{e}"),
        }
        assert_eq!(open(&disk, CLEAN).verify(&id), BlobState::Sound, "nothing is cut that could not be read");
    }
}

/// A pack that could not be read to its end when the store was opened may hold what is not found: recovery must not take it for lost, and
/// cut the log.
#[test]
fn what_could_not_be_indexed_is_unreadable_and_not_missing() {
    let disk = disk();
    let blobs = try_open(&disk, UNCLEAN, SMALL).unwrap().0;
    let ids: Vec<BlobId> = (0..40u8).map(|n| blobs.put(&[n; 700], Encoding::Raw).unwrap()).collect();
    blobs.sync().unwrap();
    drop(blobs);
    let mut unreadable = 0;
    for n in 1..40 {
        let disk = disk.kill();
        for name in disk.list(&dir()).unwrap().iter().filter(|name| name.to_string_lossy().ends_with(".index")) {
            disk.remove(&dir().join(name)).unwrap();
        }
        disk.fail_read(n);
        let Ok((blobs, _)) = try_open(&disk, OpenMode::ReadOnly, SMALL) else { continue };
        for id in &ids {
            match blobs.verify(id) {
                BlobState::Sound => {}
                BlobState::Unreadable(_) => unreadable += 1,
                other => panic!("read {n}: {other:?}"),
            }
        }
    }
    assert!(unreadable > 0, "no read was one that indexes");
}

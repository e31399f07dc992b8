//! Sweeps: alone, crashing, on a full disk, against everything else at once.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

fn fill(blobs: &Blobs, from: u64, to: u64) -> Vec<BlobId> {
    (from..to).map(|n| blobs.put(&noise(n, 400), Encoding::Raw).unwrap()).collect()
}

#[test]
fn a_sweep_drops_what_nothing_names_and_keeps_the_rest() {
    let disk = disk();
    let blobs = open(&disk, UNCLEAN);
    let ids = fill(&blobs, 0, 60);
    blobs.sync().unwrap();
    let before = blobs.usage();
    let keep: Vec<BlobId> = ids.iter().copied().step_by(7).collect();
    let report = blobs.sweep(&|id| keep.contains(id)).unwrap();
    assert_eq!((report.blobs_dropped, report.blobs_moved), (60 - keep.len() as u64, keep.len() as u64), "{report:?}");
    assert!(blobs.usage().pack_bytes < before.pack_bytes / 2);
    for blobs in [blobs, open(&disk.crash(1), UNCLEAN)] {
        assert_eq!(list(&blobs).len(), keep.len());
        for id in &keep {
            assert_eq!(blobs.verify(id), BlobState::Sound);
        }
    }
    let blobs = open(&disk, UNCLEAN);
    let report = blobs.sweep(&|_| false).unwrap();
    assert!(report.packs_removed > 0);
    assert_eq!((blobs.usage().blobs, disk.shared().list(&dir()).unwrap().len()), (0, 1));
    // Numbers are not used again.
    let id = blobs.put(b"x", Encoding::Raw).unwrap();
    assert!(place(&blobs, &id).pack.0 > before.packs);
}

#[test]
fn a_pack_with_little_garbage_stays_and_so_does_a_damaged_one() {
    let disk = disk();
    let blobs = open(&disk, UNCLEAN);
    let ids = fill(&blobs, 0, 9);
    let report = blobs.sweep(&|id| ids[3..].contains(id)).unwrap();
    assert_eq!((report.packs_removed, report.blobs_dropped), (0, 0));
    assert!(report.garbage_left > 1200);
    assert_eq!(blobs.get(&ids[0]).unwrap(), noise(0, 400), "not dropped with its pack still there");
    let one = blobs
        .begin_sweep()
        .unwrap()
        .run(&|id| ids[3..].contains(id), SweepOptions { garbage_percent: 10, ..SweepOptions::default() })
        .unwrap();
    assert_eq!((one.packs_removed, one.blobs_dropped), (1, 3));
    blobs.sync().unwrap();
    drop(blobs);
    let place = place(&open(&disk, CLEAN), &ids[5]);
    assert!(disk.flip(&path(place.pack.0), place.entry.offset + 200, 1));
    let blobs = open(&disk, CLEAN);
    let report = blobs.sweep(&|id| *id == ids[5]).unwrap();
    assert_eq!((report.packs_removed, report.packs_damaged), (0, 1));
    assert!(disk.shared().open_read(&path(place.pack.0)).is_ok(), "kept for its evidence");
}

/// A blob has two copies, because the older one was found wrong, and the sweep drops the younger: the older is what an open would find.
#[test]
fn an_older_copy_that_stays_is_known_after_the_younger_was_dropped() {
    let disk = disk();
    let ids = {
        let blobs = open(&disk, UNCLEAN);
        let ids = fill(&blobs, 0, 12);
        blobs.sync().unwrap();
        ids
    };
    let older = place(&open(&disk, CLEAN), &ids[0]);
    assert!(disk.flip(&path(older.pack.0), older.entry.offset + 200, 1));
    let blobs = open(&disk, CLEAN);
    fill(&blobs, 0, 1);
    assert!(place(&blobs, &ids[0]).pack > older.pack);
    let report =
        blobs.begin_sweep().unwrap().run(&|id| *id != ids[0], SweepOptions { garbage_percent: 20, ..SweepOptions::default() }).unwrap();
    assert_eq!((report.packs_removed, report.blobs_dropped), (1, 1), "{report:?}");
    blobs.sync().unwrap();
    assert_eq!(place(&blobs, &ids[0]).entry, older.entry);
    assert_eq!((list(&blobs), blobs.usage()), (list(&open(&disk, CLEAN)), open(&disk, CLEAN).usage()));
}

#[test]
fn a_crash_at_any_call_of_a_sweep_loses_nothing_kept() {
    for at in 1..80 {
        for seed in 0..4 {
            let disk = disk();
            let blobs = open(&disk, UNCLEAN);
            let ids = fill(&blobs, 0, 40);
            blobs.sync().unwrap();
            let keep: Vec<BlobId> = ids.iter().copied().step_by(3).collect();
            disk.crash_at_call(at);
            let done = blobs.sweep(&|id| keep.contains(id)).is_ok();
            let after = disk.crash(seed);
            let (blobs, report) = try_open(&after, UNCLEAN, SMALL).unwrap();
            assert!(report.findings.iter().all(Finding::is_torn_tail), "{report:?}");
            for id in &keep {
                assert_eq!(blobs.verify(id), BlobState::Sound, "call {at}, seed {seed}");
            }
            assert!(done || disk.crashed());
        }
    }
}

#[test]
fn a_full_disk_is_swept_all_the_same() {
    let disk = disk();
    let blobs = open(&disk, UNCLEAN);
    let ids = fill(&blobs, 0, 40);
    let keep: Vec<BlobId> = ids[20..].iter().copied().step_by(3).collect();
    disk.set_capacity(Some(disk.used()));
    assert!(blobs.put(&noise(77, 400), Encoding::Raw).unwrap_err().is_full());
    let report = blobs.sweep(&|id| keep.contains(id)).unwrap();
    assert!(report.packs_removed > 1);
    blobs.put(&noise(77, 400), Encoding::Raw).unwrap();
    for id in &keep {
        assert_eq!(blobs.verify(id), BlobState::Sound);
    }
}

#[test]
fn what_is_put_or_found_while_a_sweep_runs_is_kept() {
    let disk = disk();
    let blobs = open(&disk, UNCLEAN);
    let ids = fill(&blobs, 0, 40);
    let sweep = blobs.begin_sweep().unwrap();
    assert_eq!(blobs.put(&noise(5, 400), Encoding::Raw).unwrap(), ids[5]);
    let fresh = blobs.put(b"fresh", Encoding::Raw).unwrap();
    sweep.run(&|_| false, SweepOptions::default()).unwrap();
    assert_eq!(blobs.get(&ids[5]).unwrap(), noise(5, 400));
    assert_eq!(blobs.get(&fresh).unwrap(), b"fresh");
    assert_eq!(blobs.usage().blobs, 2);
    blobs.sync().unwrap();
    assert_eq!(open(&disk.crash(0), UNCLEAN).get(&ids[5]).unwrap(), noise(5, 400));
}

#[test]
fn a_sweep_waits_for_a_hold_and_learns_its_roots_after_it() {
    let disk = disk();
    let blobs = Arc::new(open(&disk, UNCLEAN));
    fill(&blobs, 0, 20);
    let logged = Arc::new(Mutex::new(HashSet::new()));
    let hold = blobs.hold();
    let id = blobs.put(b"put, but not yet in the log", Encoding::Raw).unwrap();
    let sweeper = {
        let (blobs, logged) = (Arc::clone(&blobs), Arc::clone(&logged));
        std::thread::spawn(move || {
            let sweep = blobs.begin_sweep().unwrap();
            let roots = logged.lock().unwrap().clone();
            sweep.run(&|id| roots.contains(id), SweepOptions::default()).unwrap()
        })
    };
    std::thread::sleep(std::time::Duration::from_millis(30));
    logged.lock().unwrap().insert(id);
    drop(hold);
    sweeper.join().unwrap();
    assert_eq!(blobs.verify(&id), BlobState::Sound);
    assert_eq!(blobs.usage().blobs, 1);
}

/// Writers log what they put, a sweeper drops what is not logged any more, readers read what is: nothing logged is ever missing.
#[test]
fn sweeps_puts_syncs_and_reads_at_once_lose_nothing() {
    let disk = disk();
    let blobs = open(&disk, UNCLEAN);
    let logged: Mutex<BTreeMap<BlobId, u64>> = Mutex::default();
    let stop = AtomicBool::new(false);
    std::thread::scope(|s| {
        let writers: Vec<_> = (0..3u64)
            .map(|w| {
                let (blobs, logged) = (&blobs, &logged);
                s.spawn(move || {
                    let mut rng = Seeded::new(w);
                    for _ in 0..600 {
                        // Few different blobs, so that puts hit what a sweep is about to drop.
                        let n = rng.below(60);
                        let hold = blobs.hold();
                        let id = blobs.put(&noise(n, 400), if n.is_multiple_of(2) { Encoding::Raw } else { Encoding::Compress }).unwrap();
                        logged.lock().unwrap().insert(id, n);
                        drop(hold);
                        if rng.below(10) == 0 {
                            blobs.sync().unwrap();
                        }
                        if rng.below(3) == 0 {
                            let mut logged = logged.lock().unwrap();
                            let first = logged.keys().next().copied();
                            if let Some(first) = first {
                                logged.remove(&first);
                            }
                        }
                    }
                })
            })
            .collect();
        s.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let sweep = blobs.begin_sweep().unwrap();
                let roots: HashSet<BlobId> = logged.lock().unwrap().keys().copied().collect();
                sweep.run(&|id| roots.contains(id), SweepOptions { garbage_percent: 20, ..SweepOptions::default() }).unwrap();
            }
        });
        s.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let some: Vec<(BlobId, u64)> = logged.lock().unwrap().iter().map(|(id, n)| (*id, *n)).collect();
                for (id, n) in some {
                    match blobs.get(&id) {
                        Ok(bytes) => assert_eq!(bytes, noise(n, 400)),
                        // Taken from the log since.
                        Err(BlobError::Missing(_)) => {}
                        Err(e) => panic!("{e}"),
                    }
                }
            }
        });
        for w in writers {
            w.join().unwrap();
        }
        stop.store(true, Ordering::Relaxed);
    });
    for (id, n) in logged.lock().unwrap().iter() {
        assert_eq!(blobs.get(id).unwrap(), noise(*n, 400));
    }
    blobs.sync().unwrap();
    let again = open(&disk.crash(5), UNCLEAN);
    for id in logged.lock().unwrap().keys() {
        assert_eq!(again.verify(id), BlobState::Sound);
    }
}

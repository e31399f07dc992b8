//! The log on the real disk: many writers, readers beside them, the bytes on disk, the document.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ize::ids::{Lsn, SegmentId, StoreId};
use ize::storage::Disk;
use ize::wal::{Bounds, Log, Options, Record, RecoveryInput, for_each_record, scan};

const STORE: StoreId = StoreId([7; 16]);

fn open(dir: &Path, clean: bool, syncs: &Arc<AtomicU64>) -> Log {
    let syncs = Arc::clone(syncs);
    let mut verify = |_: &Record<'_>| Ok(true);
    let input = RecoveryInput {
        clean,
        before_sync: Box::new(move || {
            syncs.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }),
        ..RecoveryInput::new(&mut verify)
    };
    Log::recover(Disk::shared(), dir, STORE, input, Options { segment_size: 256 << 10, ..Options::default() }).unwrap().0
}

/// Each thread appends and syncs its own numbered records. All come back, each thread's in its own order, in one gapless row of LSNs, with
/// fewer syncs than records; readers beside the writers never see damage, and see all that was appended before they began.
#[test]
fn one_sync_answers_many_writers_while_readers_look_on() {
    const THREADS: u64 = 8;
    const EACH: u64 = 150;
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("wal");
    let syncs = Arc::new(AtomicU64::new(0));
    let log = open(&dir, true, &syncs);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut rounds = 0;
            while !done.load(Ordering::Acquire) {
                let before = log.appended();
                let seen = for_each_record(&Disk, &dir, STORE, Lsn(1), Lsn(u64::MAX), &mut |_, _| Ok(ControlFlow::Continue(()))).unwrap();
                assert!(seen >= before, "{seen} seen, {before} appended before");
                let scanned = scan(&Disk, &dir, STORE, Bounds::default()).unwrap();
                assert!(scanned.damage_above(Lsn::ZERO).is_none(), "{:?}", scanned.findings);
                rounds += 1;
            }
            rounds
        });
        let writers: Vec<_> = (0..THREADS)
            .map(|t| {
                let log = &log;
                scope.spawn(move || {
                    for n in 0..EACH {
                        let body = [t.to_le_bytes(), n.to_le_bytes()].concat();
                        let filler = vec![t as u8; (n as usize * 37) % 3000];
                        let out = log.append_with(4096, &mut |_, b| _ = b.push(9, 1, &[&body, &filler], 0)).unwrap();
                        let durable = log.sync_to(out[0].lsn).unwrap();
                        assert!(durable >= out[0].lsn && log.durable() >= out[0].lsn);
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.join().unwrap();
        }
        done.store(true, Ordering::Release);
        assert!(reader.join().unwrap() > 0);
    });
    assert!(syncs.load(Ordering::Relaxed) < THREADS * EACH, "syncs are shared");
    log.seal().unwrap();
    let last = log.appended();
    drop(log);
    let log = open(&dir, true, &syncs);
    let mut next = [0; THREADS as usize];
    let mut lsn = 0;
    let end = for_each_record(&Disk, &dir, STORE, Lsn(1), log.appended(), &mut |r, _| {
        lsn += 1;
        assert_eq!(r.lsn.0, lsn, "no gaps inside an epoch");
        if !r.is_mark() {
            let thread = u64::from_le_bytes(r.body[..8].try_into().unwrap());
            let n = u64::from_le_bytes(r.body[8..16].try_into().unwrap());
            assert_eq!(n, next[thread as usize]);
            next[thread as usize] += 1;
        }
        Ok(ControlFlow::Continue(()))
    })
    .unwrap();
    assert_eq!((end, next), (last, [EACH; THREADS as usize]));
    drop(log);
    let left: Vec<_> =
        std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name()).filter(|n| n.to_str().unwrap().ends_with(".tmp")).collect();
    assert!(left.is_empty(), "no spare is left behind: {left:?}");
}

#[test]
fn records_can_be_read_in_any_range_and_early_stops_are_kept() {
    let temp = tempfile::tempdir().unwrap();
    let log = open(temp.path(), true, &Arc::default());
    for n in 1..=60u64 {
        log.append_with(40_000, &mut |_, b| _ = b.push(9, 1, &[&vec![n as u8; 20_000]], 0)).unwrap();
    }
    let range = |from, to, stop| {
        let mut got = Vec::new();
        let end = for_each_record(&Disk, temp.path(), STORE, Lsn(from), Lsn(to), &mut |r, segment| {
            let mut body = vec![0; r.body.len()];
            segment.read_at(&mut body, r.body_offset).unwrap();
            assert!(body.iter().all(|b| u64::from(*b) == r.lsn.0));
            got.push(r.lsn.0);
            Ok(if r.lsn.0 == stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        });
        (end.unwrap().0, got)
    };
    for (from, to) in [(1, 60), (13, 14), (12, 41), (60, 99), (61, 99), (5, 4)] {
        let (end, got) = range(from, to, 0);
        let expected: Vec<u64> = (from..=to.min(60)).collect();
        assert_eq!(got, expected, "{from}..={to}");
        assert_eq!(end, expected.last().copied().unwrap_or(from - 1));
    }
    assert_eq!(range(10, 60, 17).0, 17);
    assert_eq!(range(0, 60, 0).1.len(), 60);
    // Once the oldest segment is gone, a range that begins in it is refused, and ZERO begins with what is left.
    std::fs::remove_file(temp.path().join(format!("{}.seg", SegmentId(1)))).unwrap();
    assert!(for_each_record(&Disk, temp.path(), STORE, Lsn(1), Lsn(60), &mut |_, _| Ok(ControlFlow::Continue(()))).is_err());
    assert!(range(0, 60, 0).1.len() < 60);
}

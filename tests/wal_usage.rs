//! The log's counters are those that a walk over its files finds, whatever happened.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;

use ize::ids::{Lsn, SegmentId, StoreId, Time};
use ize::storage::sim::{Seeded, SimDisk};
use ize::wal::prune::{Limits, plan};
use ize::wal::{Bounds, Log, Options, Record, RecoveryInput, Usage, scan};

const STORE: StoreId = StoreId([3; 16]);
const DIR: &str = "/wal";

fn open(disk: &SimDisk, bounds: Bounds, clean: bool, unsound: Lsn) -> Log {
    let mut verify = |record: &Record<'_>| Ok(record.lsn != unsound);
    let input = RecoveryInput { checkpoint: bounds.checkpoint, floor: bounds.floor, clean, ..RecoveryInput::new(&mut verify) };
    let options = Options { segment_size: 64 << 10, background: false, ..Options::default() };
    Log::recover(disk.shared(), Path::new(DIR), STORE, input, options).unwrap().0
}

/// Appends, syncs, seals, rolls, prunes, clean and unclean ends, power cuts, a record whose blob is not sound: after each, the counters of
/// the open log are those of a scan.
#[test]
fn usage_counters_equal_a_walk() {
    for seed in 0..60 {
        let mut rng = Seeded::new(seed);
        let mut disk = SimDisk::new();
        let mut bounds = Bounds { checkpoint: Lsn::ZERO, floor: SegmentId(1) };
        let mut log = open(&disk, bounds, true, Lsn::ZERO);
        for step in 0..60 {
            match rng.below(12) {
                0..=5 => {
                    for _ in 0..1 + rng.below(6) {
                        let body = vec![7; rng.below(12_000) as usize];
                        let payload = if rng.below(3) == 0 { rng.below(1 << 20) } else { 0 };
                        log.append_with(13_000, &mut |_, batch| _ = batch.push(7, 1, &[&body], payload)).unwrap();
                    }
                }
                6 | 7 => _ = log.sync().unwrap(),
                8 => {
                    log.seal().unwrap();
                    bounds.checkpoint = log.durable();
                }
                9 => {
                    let scanned = scan(&disk, Path::new(DIR), STORE, bounds).unwrap();
                    let limits = Limits { max_size: Some(rng.below(200_000)), ..Limits::default() };
                    let plan = plan(&scanned, bounds.checkpoint, limits, &mut |s| s.payload, Time::now());
                    log.prune(&plan, &mut |floor| {
                        bounds.floor = floor;
                        Ok(())
                    })
                    .unwrap();
                }
                10 => {
                    log.seal().unwrap();
                    drop(log);
                    log = open(&disk, bounds, true, Lsn::ZERO);
                }
                _ => {
                    let unsound = if rng.below(2) == 0 { log.appended() } else { Lsn::ZERO };
                    drop(log);
                    disk = if rng.below(2) == 0 { disk.kill() } else { disk.crash(rng.draw()) };
                    log = open(&disk, bounds, false, unsound);
                }
            }
            let walked = Usage::of(&scan(&disk, Path::new(DIR), STORE, bounds).unwrap().segments);
            assert_eq!(log.usage(), walked, "seed {seed}, step {step}");
        }
    }
}

/// A prune of a log whose syncs failed could leave nothing but a name that no disk has.
#[test]
fn a_poisoned_log_is_not_pruned() {
    let disk = SimDisk::new();
    let log = open(&disk, Bounds { checkpoint: Lsn::ZERO, floor: SegmentId(1) }, true, Lsn::ZERO);
    for _ in 0..3 {
        log.append_with(100, &mut |_, batch| _ = batch.push(7, 1, &[b"x"], 0)).unwrap();
        log.seal().unwrap();
    }
    let scanned = scan(&disk, Path::new(DIR), STORE, Bounds::default()).unwrap();
    let limits = Limits { max_size: Some(0), ..Limits::default() };
    let plan = plan(&scanned, log.durable(), limits, &mut |_| 0, Time::now());
    assert_eq!(plan.drop.len(), 2);
    log.append_with(100, &mut |_, batch| _ = batch.push(7, 1, &[b"x"], 0)).unwrap();
    disk.fail_sync(1);
    log.sync().unwrap_err();
    let mut asked = false;
    let refused = log.prune(&plan, &mut |_| {
        asked = true;
        Ok(())
    });
    assert!(refused.is_err() && !asked);
    assert_eq!(scan(&disk, Path::new(DIR), STORE, Bounds::default()).unwrap().segments.len(), 4);
}

/// A burst costs a small file of zeros, a stream few large ones.
#[test]
fn segments_double_while_they_fill_and_begin_small_after_a_pause() {
    let disk = SimDisk::new();
    let mut verify = |_: &Record<'_>| Ok(true);
    let options = Options { segment_size: 16 << 20, background: false, ..Options::default() };
    let log = Log::recover(disk.shared(), Path::new(DIR), STORE, RecoveryInput::new(&mut verify), options).unwrap().0;
    let allotted = |disk: &SimDisk, id: u64| {
        let path = ize::wal::format::segment_path(Path::new(DIR), SegmentId(id));
        ize::wal::format::Header::decode(&disk.file_bytes(&path).unwrap(), Some(STORE), SegmentId(id)).unwrap().allotted
    };
    let body = vec![7; 100_000];
    let put = |log: &Log, records: usize| {
        let mut build = |_, batch: &mut ize::wal::Batch<'_>| (0..records).for_each(|_| _ = batch.push(7, 1, &[&body], 0));
        log.append_with(records * (body.len() + 40), &mut build).unwrap()[0].segment.id
    };
    let fill = |log: &Log, upto: u64| while put(log, 10) < SegmentId(upto) {};
    fill(&log, 6);
    assert_eq!([1, 2, 3, 4, 5, 6].map(|id| allotted(&disk, id) >> 20), [1, 2, 4, 8, 16, 16]);
    log.seal().unwrap();
    fill(&log, 8);
    assert_eq!([7, 8].map(|id| allotted(&disk, id) >> 20), [1, 2]);
    let bounds = Bounds { checkpoint: Lsn::ZERO, floor: SegmentId(1) };
    assert_eq!(log.usage(), Usage::of(&scan(&disk, Path::new(DIR), STORE, bounds).unwrap().segments));

    // A record that fits no small segment gets a larger one at once; where that has no room, the log goes on in a smaller one.
    log.seal().unwrap();
    assert_eq!(put(&log, 53), SegmentId(9));
    assert_eq!(allotted(&disk, 9) >> 20, 5);
    fill(&log, 10);
    disk.set_capacity(Some(disk.used() + (5 << 20)));
    fill(&log, 11);
    assert_eq!([10, 11].map(|id| allotted(&disk, id) >> 20), [10, 1]);
}

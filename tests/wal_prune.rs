//! Prune: what may go by age, by size, for free space; what the clock has to do with it.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;
use std::time::Duration;

use ize::ids::{Lsn, StoreId, Time};
use ize::storage::sim::SimDisk;
use ize::wal::prune::{Keep, Limits, Plan, plan};
use ize::wal::{Bounds, Log, LogScan, Options, Record, RecoveryInput, scan};

const STORE: StoreId = StoreId([4; 16]);
const DIR: &str = "/wal";

/// Six sealed segments of one record each.
fn six() -> LogScan {
    let disk = SimDisk::new();
    let mut verify = |_: &Record<'_>| Ok(true);
    let input = RecoveryInput { clean: true, ..RecoveryInput::new(&mut verify) };
    let options = Options { segment_size: 64 << 10, background: false, ..Options::default() };
    let (log, _) = Log::recover(disk.shared(), Path::new(DIR), STORE, input, options).unwrap();
    for _ in 0..6 {
        log.append_with(2048, &mut |_, batch| _ = batch.push(7, 1, &[&[1; 1000]], 0)).unwrap();
        log.seal().unwrap();
    }
    scan(&disk, Path::new(DIR), STORE, Bounds::default()).unwrap()
}

fn later(seconds: i64) -> Time {
    Time { secs: Time::now().secs + seconds, nanos: 0 }
}

fn dropped(plan: &Plan) -> Vec<u64> {
    plan.drop.iter().map(|s| s.id.0).collect()
}

#[test]
fn an_age_of_zero_drops_all_but_the_last_at_once_and_whatever_the_clock_says() {
    let scanned = six();
    let limits = Limits { max_age: Some(Duration::ZERO), ..Limits::default() };
    assert_eq!(dropped(&plan(&scanned, Lsn(99), limits, &mut |_| 0, Time::now())), [1, 2, 3, 4, 5]);
    assert_eq!(dropped(&plan(&scanned, Lsn(99), limits, &mut |_| 0, later(-9 * 86_400))), [1, 2, 3, 4, 5]);
    let known = Limits { clock_jumped: true, ..limits };
    assert_eq!(dropped(&plan(&scanned, Lsn(99), known, &mut |_| 0, Time::now())), [1, 2, 3, 4, 5]);
    assert_eq!(dropped(&plan(&scanned, Lsn(4), limits, &mut |_| 0, Time::now())), [1, 2, 3, 4], "nothing above the checkpoint");
    assert_eq!(dropped(&plan(&scanned, Lsn(0), limits, &mut |_| 0, Time::now())), [0; 0], "nothing without a checkpoint");
}

#[test]
fn after_a_jump_of_the_clock_age_drops_nothing_and_says_so() {
    let scanned = six();
    let limits = Limits { max_age: Some(Duration::from_secs(60)), clock_jumped: true, ..Limits::default() };
    let waits = plan(&scanned, Lsn(99), limits, &mut |_| 0, later(7 * 86_400));
    assert!(waits.clock_jumped && waits.drop.is_empty());
    assert_eq!(waits.keep[0].1, Keep::ClockJumped);
    let limits = Limits { clock_jumped: false, ..limits };
    assert_eq!(dropped(&plan(&scanned, Lsn(99), limits, &mut |_| 0, later(7 * 86_400))).len(), 5);
}

#[test]
fn payload_counts_towards_the_size() {
    let scanned = six();
    let bytes: u64 = scanned.segments.iter().map(|s| s.bytes).sum();
    let limits = Limits { max_size: Some(bytes + 10_000), ..Limits::default() };
    assert!(plan(&scanned, Lsn(99), limits, &mut |_| 0, Time::now()).drop.is_empty());
    // 10,000 more than fits, half of it named by the first segment: two must go.
    let payload = &mut |s: &ize::wal::scan::SegmentInfo| if s.id.0 <= 2 { 10_000 } else { 0 };
    let plan = plan(&scanned, Lsn(99), limits, payload, Time::now());
    assert_eq!(dropped(&plan), [1]);
    assert_eq!(plan.bytes, scanned.segments[0].bytes + 10_000);
}

#[test]
fn what_the_file_system_lacks_is_freed_and_no_more() {
    let scanned = six();
    let one = scanned.segments[0].bytes;
    let free = |free_up| Limits { free_up, ..Limits::default() };
    assert!(plan(&scanned, Lsn(99), free(0), &mut |_| 0, Time::now()).drop.is_empty());
    assert_eq!(dropped(&plan(&scanned, Lsn(99), free(1), &mut |_| 0, Time::now())), [1]);
    assert_eq!(dropped(&plan(&scanned, Lsn(99), free(one), &mut |_| 0, Time::now())), [1]);
    assert_eq!(dropped(&plan(&scanned, Lsn(99), free(one + 1), &mut |_| 0, Time::now())), [1, 2]);
    assert_eq!(dropped(&plan(&scanned, Lsn(3), free(u64::MAX), &mut |_| 0, Time::now())), [1, 2, 3]);
}

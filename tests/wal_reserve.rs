//! The room that is kept back for a full disk: recovery takes it when it needs it.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;

use ize::ids::StoreId;
use ize::storage::Storage;
use ize::storage::sim::SimDisk;
use ize::wal::{Log, Need, Options, Record, RecoveryInput, RecoveryReport, WalError};

const DIR: &str = "/wal";
const RESERVE: u64 = 1 << 20;

fn open(disk: &SimDisk) -> Result<(Log, RecoveryReport), WalError> {
    let mut verify = |_: &Record<'_>| Ok(true);
    let input = RecoveryInput::new(&mut verify);
    let options = Options { segment_size: 64 << 10, background: false, reserve: RESERVE, ..Options::default() };
    Log::recover(disk.shared(), Path::new(DIR), StoreId([6; 16]), input, options)
}

fn put(log: &Log) -> Result<(), WalError> {
    log.append_with(20_000, &mut |_, batch| _ = batch.push(7, 1, &[&[7; 15_000]], 0)).map(drop)
}

fn reserve(disk: &SimDisk) -> Option<u64> {
    disk.open_read(&Path::new(DIR).join("reserve")).ok().map(|f| f.len().unwrap())
}

/// Appends fill the disk and leave the reserve alone; the process dies; recovery has no room for its fresh copy but the reserve.
#[test]
fn recovery_of_a_full_disk_takes_the_reserve() {
    let disk = SimDisk::new();
    let (log, _) = open(&disk).unwrap();
    assert_eq!(reserve(&disk), Some(RESERVE));
    disk.set_capacity(Some(disk.used() + 150_000));
    let mut count = 0;
    let full = loop {
        match put(&log) {
            Ok(()) => count += 1,
            Err(e) => break e,
        }
    };
    assert_eq!(full.errno(), libc::ENOSPC);
    assert_eq!(reserve(&disk), Some(RESERVE), "an append may not have it");
    log.sync().unwrap();
    drop(log);
    let disk = disk.kill();
    // Somebody else took what was left, and more.
    disk.set_capacity(Some(disk.used() - 100_000));
    let (log, report) = open(&disk).unwrap();
    assert_eq!(report.records, count);
    assert!(reserve(&disk) < Some(RESERVE), "there is no room for all of it yet");
    drop(log);
    // As soon as there is, it is kept back again.
    disk.set_capacity(None);
    drop(open(&disk).unwrap());
    assert_eq!(reserve(&disk), Some(RESERVE));
}

#[test]
fn the_reserve_is_given_once_and_made_again_on_request() {
    let disk = SimDisk::new();
    let (log, _) = open(&disk).unwrap();
    let mut loan = log.loan();
    assert!(loan.more());
    // What an opening and changes need stays: a segment and a little, an eighth.
    assert_eq!(reserve(&disk), Some((64 << 10) + (256 << 10) + RESERVE / 8));
    // Who has it is not robbed of it by an append that asks whether there is room.
    assert!(!log.has_room());
    assert!(reserve(&disk) < Some(RESERVE));
    // Whoever borrows beside gets the last of it, and gives nobody else's back.
    let mut other = log.loan();
    assert!(other.more() && !other.more());
    drop(other);
    assert_eq!(reserve(&disk), Some((64 << 10) + (256 << 10)));
    log.refill_reserve();
    assert_eq!(reserve(&disk), Some((64 << 10) + (256 << 10)));
    drop(loan);
    assert_eq!(reserve(&disk), Some(RESERVE));
    // Who borrowed nothing gives nothing back.
    let mut loan = log.loan();
    assert!(loan.more());
    drop(log.loan());
    assert!(reserve(&disk) < Some(RESERVE));
}

fn put_for(log: &Log, need: Need) -> Result<(), WalError> {
    log.append_for(need, 20_000, &mut |_, batch| _ = batch.push(7, 1, &[&[7; 15_000]], 0)).map(drop)
}

/// Fills the disk with appends of `need`, until they are refused.
fn fill(log: &Log, need: Need) -> u64 {
    let mut count = 0;
    loop {
        match put_for(log, need) {
            Ok(()) => count += 1,
            Err(e) => {
                assert_eq!(e.errno(), libc::ENOSPC);
                return count;
            }
        }
    }
}

/// Bytes of files get nothing of the reserve, names an eighth, removals more, and what was given to those bytes do not take.
#[test]
fn on_a_full_disk_names_and_removals_go_on_for_a_while() {
    let disk = SimDisk::new();
    let (log, _) = open(&disk).unwrap();
    disk.set_capacity(Some(disk.used() + 150_000));
    assert!(fill(&log, Need::Bytes) > 0);
    assert_eq!(reserve(&disk), Some(RESERVE));
    assert!(fill(&log, Need::Names) >= 3);
    let left = reserve(&disk).unwrap();
    assert!((RESERVE / 8 * 7..RESERVE).contains(&left), "{left}");
    assert_eq!(fill(&log, Need::Bytes), 0);
    assert!(!log.has_room());
    log.seal().unwrap();
    assert_eq!(fill(&log, Need::Bytes), 0, "nor a new segment");
    assert!(fill(&log, Need::Change) > 3);
    let left = reserve(&disk).unwrap();
    assert!((320 << 10..RESERVE / 2).contains(&left), "{left}");
    // Room again: bytes go on, in a segment of their own, and the reserve is whole.
    disk.set_capacity(None);
    std::thread::sleep(std::time::Duration::from_millis(120));
    put_for(&log, Need::Bytes).unwrap();
    assert!(log.has_room());
    assert_eq!(reserve(&disk), Some(RESERVE));
    log.seal().unwrap();
    drop(log);
    let (_, report) = open(&disk).unwrap();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
}

/// In the middle of a segment that was made of what is kept back, bytes are refused until there is room for another one.
#[test]
fn bytes_do_not_go_into_a_segment_made_of_the_reserve() {
    let disk = SimDisk::new();
    let (log, _) = open(&disk).unwrap();
    disk.set_capacity(Some(disk.used() + 150_000));
    fill(&log, Need::Bytes);
    log.seal().unwrap();
    put_for(&log, Need::Change).unwrap();
    let (kept, end) = (log.active(), log.appended());
    assert!(kept.is_some());
    assert_eq!(fill(&log, Need::Bytes), 0);
    assert_eq!((log.active(), log.appended()), (kept, end), "nothing was sealed for that");
    put_for(&log, Need::Change).unwrap();
    assert_eq!(log.active(), kept);
}

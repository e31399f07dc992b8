//! The room that is kept back for a full disk: recovery takes it when it needs it.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;

use ize::ids::StoreId;
use ize::storage::Storage;
use ize::storage::sim::SimDisk;
use ize::wal::{Log, Options, Record, RecoveryInput, RecoveryReport, WalError};

const DIR: &str = "/wal";
const RESERVE: u64 = 256 << 10;

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
    assert_eq!(reserve(&disk), None, "there is no room for it yet");
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
    assert!(log.release_reserve());
    assert!(!log.release_reserve());
    assert_eq!(reserve(&disk), None);
    log.restore_reserve();
    assert_eq!(reserve(&disk), Some(RESERVE));
}

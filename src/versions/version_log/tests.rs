//! The version log on the simulated disk.

use super::*;
use crate::error::{Class, Error};
use crate::ids::BlobId;
use crate::storage::sim::SimDisk;

const STORE: StoreId = StoreId(*b"a store of tests");

fn path() -> PathBuf {
    PathBuf::from("/p/meta/versions")
}

fn disk() -> SimDisk {
    let disk = SimDisk::new();
    disk.shared().create_dir_all(Path::new("/p/meta")).unwrap();
    disk
}

fn version(n: u64) -> Version {
    Version {
        seq: VersionSeq(n),
        first: Lsn(10 * (n - 1) + 1),
        last: Lsn(10 * n),
        begin: Time { secs: 100 * n as i64, nanos: 1 },
        end: Time { secs: 100 * n as i64 + 50, nanos: 2 },
        root: BlobId([n as u8; 32]),
        parent_root: (n > 1).then(|| BlobId([n as u8 - 1; 32])),
        paths: vec![
            PathChange { path: b"dir/\xff\xfe".to_vec(), what: What::Moved { from: b"old".to_vec() } },
            PathChange { path: vec![b'x'; n as usize], what: What::Modified },
        ],
        processes: vec![ProcessLabel { pid: 42, start: 7, comm: b"cargo".to_vec(), uid: 1000, session: 40 }],
        label: n.is_multiple_of(2).then(|| format!("label {n}")),
        operations: 10,
        bytes: 1 << 33,
        origin: if n.is_multiple_of(3) { Origin::Restore { at: Lsn(5) } } else { Origin::Burst },
    }
}

fn try_open(disk: &SimDisk, mode: LogMode, keep: Option<u64>) -> Result<(VersionLog, LogReport), VersionLogError> {
    VersionLog::open(disk.shared(), path(), STORE, mode, keep.map(VersionSeq))
}

fn open(disk: &SimDisk, mode: LogMode, keep: Option<u64>) -> VersionLog {
    let (log, report) = try_open(disk, mode, keep).unwrap();
    assert_eq!(report.findings, []);
    log
}

/// A disk with versions 1 to `n`, synced.
fn written(n: u64) -> SimDisk {
    let disk = disk();
    let log = open(&disk, LogMode::Write, Some(0));
    for v in 1..=n {
        log.append(&version(v)).unwrap();
    }
    log.sync().unwrap();
    disk
}

fn bytes_of(disk: &SimDisk) -> Vec<u8> {
    let file = disk.shared().open_read(&path()).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

fn all(log: &VersionLog) -> Vec<Version> {
    log.iter().collect::<Result<_, _>>().unwrap()
}

#[test]
fn versions_are_read_back_in_order_from_either_end_and_after_a_reopen() {
    let disk = written(9);
    let expected: Vec<Version> = (1..=9).map(version).collect();
    for (mode, keep) in [(LogMode::ReadOnly, None), (LogMode::ReadOnly, Some(9)), (LogMode::Write, Some(9)), (LogMode::Write, None)] {
        let log = open(&disk, mode, keep);
        assert_eq!(all(&log), expected);
        assert_eq!(log.iter().rev().map(|v| v.unwrap().seq.0).collect::<Vec<_>>(), (1..=9).rev().collect::<Vec<_>>());
        assert_eq!(log.last().unwrap(), Some(version(9)));
        assert_eq!(log.get(VersionSeq(4)).unwrap(), version(4));
        assert_eq!(Error::from(log.get(VersionSeq(10)).unwrap_err()).class, Class::NotFound);
    }
    let log = open(&disk, LogMode::Write, Some(9));
    log.append(&version(10)).unwrap();
    log.sync().unwrap();
    assert_eq!(all(&open(&disk.crash(1), LogMode::Write, Some(10))).len(), 10);
}

#[test]
fn a_missing_log_is_an_empty_one_and_reading_creates_nothing() {
    let disk = disk();
    assert!(open(&disk, LogMode::ReadOnly, None).is_empty());
    assert!(disk.shared().open_read(&path()).is_err());
    assert!(matches!(open(&disk, LogMode::ReadOnly, None).append(&version(1)), Err(VersionLogError::ReadOnly(_))));
    let (_, report) = try_open(&disk, LogMode::ReadOnly, Some(3)).unwrap();
    assert!(matches!(&report.findings[..], [LogFinding { what: LogFault::Missing, versions, .. }] if *versions == (1..4)));
    let (log, report) = try_open(&disk, LogMode::Write, Some(3)).unwrap();
    assert_eq!(report.findings.len(), 1);
    log.append(&version(4)).unwrap();
    assert_eq!(log.get(VersionSeq(4)).unwrap(), version(4), "history goes on behind what is lost");
}

#[test]
fn lookups_by_lsn_time_and_id() {
    let disk = written(5);
    let log = open(&disk, LogMode::ReadOnly, None);
    let at_lsn = |n| log.at_lsn(Lsn(n)).map(|e| e.seq.0);
    assert_eq!([at_lsn(0), at_lsn(9), at_lsn(10), at_lsn(19), at_lsn(20), at_lsn(999)], [None, None, Some(1), Some(1), Some(2), Some(5)]);
    let at_time = |secs, nanos| log.at_time(Time { secs, nanos }).map(|e| e.seq.0);
    assert_eq!([at_time(0, 0), at_time(150, 1), at_time(150, 2), at_time(9999, 0)], [None, None, Some(1), Some(5)]);
    let id = version(3).id(STORE);
    assert_eq!(log.by_id_prefix(&id.to_string()), Match::One(VersionSeq(3)));
    assert_eq!(log.by_id_prefix(&id.to_string().to_uppercase()), Match::One(VersionSeq(3)));
    assert_eq!(log.by_id_prefix("no hex"), Match::None);
    assert_eq!(log.by_id_prefix(""), Match::None);
    assert_eq!(log.entry(VersionSeq(3)).unwrap().id, id);
    let log = open(&written(40), LogMode::ReadOnly, None);
    assert!((0..16).any(|d| matches!(log.by_id_prefix(&format!("{d:x}")), Match::Ambiguous(v) if v.len() > 1)));
}

#[test]
fn a_change_id_is_sixteen_digits_and_bound_to_store_and_version() {
    let id = version(1).id(STORE);
    assert_eq!(id.to_string().len(), 16);
    assert_eq!(id.to_string().parse(), Ok(id));
    assert_eq!("+123456789abcdef".parse::<ChangeId>(), Err(BadChangeId));
    assert_eq!(ChangeId(0xab).to_string(), "00000000000000ab");
    assert!(ChangeId(0xab).has_prefix("000") && !ChangeId(0xab).has_prefix("ab") && !ChangeId(0xab).has_prefix(""));
    assert_ne!(id, version(1).id(StoreId([0; 16])));
    for other in [Version { last: Lsn(11), ..version(1) }, Version { root: BlobId([9; 32]), ..version(1) }] {
        assert_ne!(id, other.id(STORE));
    }
}

#[test]
fn a_version_that_does_not_follow_is_refused() {
    let disk = written(2);
    let log = open(&disk, LogMode::Write, Some(2));
    let before = bytes_of(&disk);
    for bad in [
        version(2),
        version(4),
        Version { first: Lsn(20), ..version(3) },
        Version { first: Lsn(22), ..version(3) },
        Version { last: Lsn(20), ..version(3) },
    ] {
        assert!(matches!(log.append(&bad), Err(VersionLogError::NotContiguous { .. })));
    }
    assert_eq!(bytes_of(&disk), before);
    log.append(&version(3)).unwrap();
}

#[test]
fn versions_beyond_the_checkpoint_are_cut_by_a_writer_and_passed_over_by_a_reader() {
    let disk = written(5);
    let (log, report) = try_open(&disk, LogMode::ReadOnly, Some(3)).unwrap();
    assert_eq!((log.len(), report.versions_cut, report.findings.len()), (3, 2, 0));
    assert_eq!(open(&disk, LogMode::ReadOnly, None).len(), 5, "nothing was cut");
    let (log, report) = try_open(&disk, LogMode::Write, Some(3)).unwrap();
    assert_eq!((log.len(), report.versions_cut), (3, 2));
    assert!(report.bytes_cut > 0);
    let other = Version { root: BlobId([99; 32]), ..version(4) };
    log.append(&other).unwrap();
    log.sync().unwrap();
    assert_eq!(open(&disk.crash(3), LogMode::ReadOnly, None).last().unwrap(), Some(other));
    assert_eq!(open(&disk, LogMode::Write, Some(0)).len(), 0);
}

#[test]
fn a_torn_tail_beyond_the_checkpoint_is_cut_without_a_finding() {
    let disk = written(3);
    let whole = bytes_of(&disk);
    let end = open(&disk, LogMode::ReadOnly, None).entry(VersionSeq(2)).map(|e| e.offset + e.total_len()).unwrap();
    for len in end..=whole.len() as u64 {
        let disk = disk.kill();
        disk.shared().open(&path()).unwrap().set_len(len).unwrap();
        for keep in [Some(2), None] {
            let log = open(&disk.kill(), LogMode::Write, keep);
            let kept = if keep.is_none() && len == whole.len() as u64 { 3 } else { 2 };
            assert_eq!(log.len(), kept);
            if kept == 2 {
                log.append(&version(3)).unwrap();
            }
            assert_eq!(log.get(VersionSeq(3)).unwrap(), version(3));
        }
    }
}

#[test]
fn damage_below_the_checkpoint_is_reported_and_the_other_versions_stay() {
    let disk = written(4);
    let log = open(&disk, LogMode::ReadOnly, None);
    let len = bytes_of(&disk).len() as u64;
    for at in 0..len {
        for bit in [at % 8, (at + 3) % 8] {
            let disk = disk.kill();
            assert!(disk.flip(&path(), at, 1 << bit));
            for mode in [LogMode::ReadOnly, LogMode::Write] {
                let hit = (1..=4).find(|n| log.entry(VersionSeq(*n)).is_some_and(|e| (e.offset..e.offset + e.total_len()).contains(&at)));
                let (log, report) = try_open(&disk, mode, Some(4)).unwrap();
                let mut noticed = !report.findings.is_empty();
                for n in 1..=4 {
                    match log.get(VersionSeq(n)) {
                        Ok(v) => assert_eq!(v, version(n)),
                        Err(_) => {
                            assert_eq!(hit, Some(n));
                            noticed = true;
                        }
                    }
                }
                assert!(noticed, "{mode:?}, byte {at}, bit {bit}");
                if let [finding] = &report.findings[..]
                    && let Some(n) = hit
                {
                    assert!(finding.versions.contains(&n) && finding.bytes.contains(&at), "{finding}");
                }
                if mode == LogMode::Write {
                    // Nothing of what is damaged is cut, and history goes on.
                    assert_eq!(report.bytes_cut, 0);
                    log.append(&version(5)).unwrap();
                    log.sync().unwrap();
                    assert_eq!(open_noting(&disk, Some(5)).get(VersionSeq(5)).unwrap(), version(5));
                }
            }
        }
    }
}

fn open_noting(disk: &SimDisk, keep: Option<u64>) -> VersionLog {
    try_open(disk, LogMode::ReadOnly, keep).unwrap().0
}

#[test]
fn every_truncation_below_the_checkpoint_is_reported() {
    let disk = written(3);
    let len = bytes_of(&disk).len() as u64;
    for cut in 0..len {
        let disk = disk.kill();
        disk.shared().open(&path()).unwrap().set_len(cut).unwrap();
        for mode in [LogMode::ReadOnly, LogMode::Write] {
            let (log, report) = try_open(&disk, mode, Some(3)).unwrap();
            assert!(!report.findings.is_empty(), "cut to {cut}");
            assert!(log.len() < 3);
            if mode == LogMode::Write {
                log.append(&version(4)).unwrap();
                assert_eq!(log.get(VersionSeq(4)).unwrap(), version(4));
                assert_eq!(open_noting(&disk, Some(4)).get(VersionSeq(4)).unwrap(), version(4));
            }
        }
    }
}

#[test]
fn a_log_of_another_store_or_of_a_later_version_is_refused_and_left_alone() {
    let disk = written(1);
    let before = bytes_of(&disk);
    let other = VersionLog::open(disk.shared(), path(), StoreId([0; 16]), LogMode::Write, Some(VersionSeq(0)));
    assert!(matches!(other, Err(VersionLogError::Foreign { found: STORE, .. })));
    assert_eq!(bytes_of(&disk), before);
    let mut later = before.clone();
    later[8] = 2;
    let crc = crc32fast::hash(&later[..60]);
    later[60..64].copy_from_slice(&crc.to_le_bytes());
    disk.shared().open(&path()).unwrap().write_at(&[&later], 0).unwrap();
    assert!(matches!(try_open(&disk, LogMode::Write, Some(0)), Err(VersionLogError::Unsupported { version: 2, .. })));
}

#[test]
fn the_bytes_of_version_1_stay() {
    let golden = include_bytes!("../../../tests/golden/versions-1.bin");
    let disk = written(3);
    if std::env::var_os("IZE_BLESS").is_some() {
        std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/versions-1.bin"), bytes_of(&disk)).unwrap();
        return;
    }
    assert_eq!(bytes_of(&disk), golden);
    assert_eq!(all(&open(&disk, LogMode::ReadOnly, Some(3))), [version(1), version(2), version(3)]);
}

#[test]
fn a_crash_at_any_call_keeps_every_synced_version() {
    for at in 1..30 {
        for seed in 0..25 {
            let disk = disk();
            disk.crash_at_call(at);
            let mut synced = 0;
            let _ = (|| -> Result<(), VersionLogError> {
                let log = try_open(&disk, LogMode::Write, Some(0))?.0;
                for n in 1..20 {
                    log.append(&version(n))?;
                    if (n + seed) % 3 == 0 {
                        log.sync()?;
                        synced = n;
                    }
                }
                Ok(())
            })();
            let after = disk.crash(seed);
            after.crash_at_call(1 + seed % 4);
            let _ =
                try_open(&after, LogMode::Write, Some(synced)).map(|(log, _)| log.append(&version(synced + 1)).and_then(|()| log.sync()));
            let after = after.crash(seed + 1);
            let log = open(&after, LogMode::Write, Some(synced));
            assert_eq!(all(&log), (1..=synced).map(version).collect::<Vec<_>>(), "call {at}, seed {seed}");
            log.append(&version(synced + 1)).unwrap();
            log.sync().unwrap();
            assert_eq!(all(&open(&after.crash(2), LogMode::Write, Some(synced + 1))).len() as u64, synced + 1);
        }
    }
}

#[test]
fn a_full_disk_refuses_a_version_and_a_failed_sync_poisons() {
    let disk = written(2);
    let log = open(&disk, LogMode::Write, Some(2));
    disk.set_capacity(Some(disk.used() + 100));
    assert_eq!(Error::from(log.append(&version(3)).unwrap_err()).class, Class::Full);
    disk.set_capacity(None);
    log.append(&version(3)).unwrap();
    disk.fail_sync(1);
    assert!(log.sync().is_err());
    assert!(matches!(log.sync(), Err(VersionLogError::Poisoned(_))));
    assert!(matches!(log.append(&version(4)), Err(VersionLogError::Poisoned(_))));
    disk.fail_read(1);
    assert!(matches!(log.get(VersionSeq(1)), Err(VersionLogError::Io { .. })), "an I/O error is no damage");
    assert_eq!(log.get(VersionSeq(1)).unwrap(), version(1));
}

#[test]
fn what_an_open_without_a_checkpoint_keeps_is_durable() {
    let disk = disk();
    let log = open(&disk, LogMode::Write, None);
    log.append(&version(1)).unwrap();
    // The process dies before the sync; what the next one builds on must not vanish.
    let killed = disk.kill();
    assert_eq!(open(&killed, LogMode::Write, None).len(), 1);
    for seed in 0..10 {
        assert_eq!(open(&killed.crash(seed), LogMode::ReadOnly, None).len(), 1);
    }
}

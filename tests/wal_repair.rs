//! Repair: a log that recovery refuses is cut at its first damage, everything that is cut is kept, and the log goes on.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod log_kit;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::PathBuf;

use ize::ids::{Lsn, SegmentId, StoreId};
use ize::storage::Storage;
use ize::storage::sim::SimDisk;
use ize::wal::format::FOOTER_LEN;
use ize::wal::repair::{self, Repair};
use ize::wal::scan::SegmentInfo;
use ize::wal::{Bounds, Log, Options, Record, RecoveryInput, RecoveryReport, WalError, for_each_record, scan};

const STORE: StoreId = StoreId(*b"repairrepairrepa");

fn dir() -> PathBuf {
    PathBuf::from("/store/wal")
}

fn open(disk: &SimDisk, checkpoint: Lsn) -> Result<(Log, RecoveryReport), WalError> {
    let mut verify = |_: &Record<'_>| Ok(true);
    let input = RecoveryInput { checkpoint, ..RecoveryInput::new(&mut verify) };
    Log::recover(disk.shared(), &dir(), STORE, input, Options { segment_size: 64 << 10, background: false, ..Options::default() })
}

/// Four sealed segments of 30 records each and an active one of 7, all synced.
fn filled() -> SimDisk {
    let disk = SimDisk::new();
    let (log, _) = open(&disk, Lsn::ZERO).unwrap();
    for n in 0..127u64 {
        let body = vec![n as u8; 100 + 13 * n as usize];
        log.append_with(4096, &mut |_, batch| {
            batch.push(7, 1, &[&body], 0);
        })
        .unwrap();
        if n % 30 == 29 {
            log.seal().unwrap();
        }
    }
    log.sync().unwrap();
    drop(log);
    disk
}

fn records(disk: &SimDisk) -> BTreeMap<u64, Vec<u8>> {
    log_kit::bodies(disk, &dir(), STORE)
}

fn segments(disk: &SimDisk) -> Vec<SegmentInfo> {
    scan(disk, &dir(), STORE, Bounds::default()).unwrap().segments
}

fn file(disk: &SimDisk, path: &std::path::Path) -> Vec<u8> {
    let file = disk.open_read(path).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

fn plan(disk: &SimDisk, checkpoint: Lsn) -> Repair {
    repair::plan(disk, &dir(), STORE, Bounds { checkpoint, floor: SegmentId(1) }, &mut |_| Ok(true)).unwrap()
}

/// Breaks the log, and says what must be left of `all`: the records before the damage.
type Break = fn(&SimDisk, &[SegmentInfo]) -> u64;

/// Where the `n`-th record of a segment stands.
fn offset_of(disk: &SimDisk, lsn: u64) -> u64 {
    let mut at = 0;
    for_each_record(disk, &dir(), STORE, Lsn(lsn), Lsn(lsn), &mut |r, _| {
        at = r.offset;
        Ok(ControlFlow::Break(()))
    })
    .unwrap();
    assert!(at > 0);
    at
}

/// Each kind of damage, and the last LSN that stays.
const BREAKS: &[(&str, Break)] = &[
    ("a record in the middle", |disk, s| {
        let lsn = s[1].first_lsn.0 + 10;
        assert!(disk.flip(&s[1].file, offset_of(disk, lsn) + 40, 4));
        lsn - 1
    }),
    ("the first record of a segment", |disk, s| {
        assert!(disk.flip(&s[2].file, 256 + 33, 1));
        s[1].last_lsn.0
    }),
    ("the first record of the log", |disk, s| {
        assert!(disk.flip(&s[0].file, 256 + 33, 1));
        0
    }),
    ("a header in the middle", |disk, s| {
        assert!(disk.flip(&s[2].file, 70, 1));
        s[1].last_lsn.0
    }),
    ("the first header", |disk, s| {
        assert!(disk.flip(&s[0].file, 3, 1));
        0
    }),
    ("a footer", |disk, s| {
        assert!(disk.flip(&s[1].file, s[1].bytes - FOOTER_LEN as u64 + 20, 1));
        s[1].last_lsn.0
    }),
    ("a segment is gone", |disk, s| {
        disk.remove(&s[2].file).unwrap();
        disk.sync_dir(&dir()).unwrap();
        s[1].last_lsn.0
    }),
    ("the first segment is gone", |disk, s| {
        disk.remove(&s[0].file).unwrap();
        disk.sync_dir(&dir()).unwrap();
        0
    }),
    ("a segment is empty", |disk, s| {
        let file = disk.open(&s[3].file).unwrap();
        file.set_len(0).unwrap();
        file.sync_data().unwrap();
        s[2].last_lsn.0
    }),
];

/// Whatever is damaged: recovery refuses; the repair names every later record as lost, keeps the changed files byte for byte, and recovery
/// then gives exactly the records before the damage, with an LSN for the next that nobody has seen.
#[test]
fn a_repair_cuts_at_the_first_damage_and_keeps_what_it_cuts() {
    for (name, damage) in BREAKS {
        let disk = filled();
        let all = records(&disk);
        let before = segments(&disk);
        let stays = damage(&disk, &before);
        assert!(open(&disk, Lsn::ZERO).is_err(), "{name}: recovery takes it");
        let plan = plan(&disk, Lsn::ZERO);
        assert!(plan.needed, "{name}");
        let cut = plan.cut.clone().unwrap();
        assert_eq!(cut.lsn, Lsn(stays + 1), "{name}");
        let changed: Vec<PathBuf> = plan.set_aside.iter().map(|(_, file, _)| file.clone()).collect();
        let originals: Vec<Vec<u8>> = changed.iter().map(|path| file(&disk, path)).collect();
        for lost in &plan.lost {
            assert_eq!(all.get(&lost.lsn.0), Some(&lost.body), "{name}");
        }
        assert_eq!(plan.lost_count, plan.lost.len() as u64);
        assert!(plan.lost.iter().all(|l| l.lsn.0 > stays), "{name}");

        let done = repair::execute(&disk, &dir(), STORE, &plan).unwrap();
        for (path, bytes) in changed.iter().zip(originals) {
            let copy = done.saved.join(path.file_name().unwrap());
            assert_eq!(file(&disk, &copy), bytes, "{name}: {} is kept", path.display());
        }
        // What was changed survives a power cut from here on.
        let disk = disk.crash(7);
        let (log, report) = open(&disk, Lsn::ZERO).unwrap_or_else(|e| panic!("{name}: {e}"));
        let expected: BTreeMap<u64, Vec<u8>> = all.range(..=stays).map(|(l, b)| (*l, b.clone())).collect();
        let found = records(&disk);
        assert!(found == expected, "{name}: {:?}", found.keys());
        assert!(report.next_lsn >= done.next_lsn && report.next_lsn.0 > *all.keys().last().unwrap(), "{name}");
        let lsn = log.append_with(100, &mut |_, batch| {
            batch.push(7, 1, &[b"after"], 0);
        });
        assert!(lsn.unwrap()[0].lsn >= done.next_lsn);
        drop(log);
        assert_eq!(records(&disk).len(), expected.len() + 1, "{name}");
        let again = self::plan(&disk, Lsn::ZERO);
        assert!(!again.needed || again.cut.is_none(), "{name}: {again:?}");
    }
}

/// The power goes at every call of a repair: afterwards either the repair is still to be done, and doing it gives the same log, or it is
/// done. Never does a mount take a log that holds only some of what the repair keeps, and whatever has left the log is in a copy.
#[test]
fn a_repair_that_is_cut_short_can_be_done_again() {
    for (name, damage) in BREAKS {
        let broken = filled();
        let all = records(&broken);
        let stays = damage(&broken, &segments(&filled()));
        let expected: BTreeMap<u64, Vec<u8>> = all.range(..=stays).map(|(l, b)| (*l, b.clone())).collect();
        let told = *all.keys().last().unwrap();
        let files: Vec<(PathBuf, Vec<u8>)> =
            broken.list(&dir()).unwrap().iter().map(|n| (dir().join(n), file(&broken, &dir().join(n)))).collect();
        // A mark behind the last sync is not the repair's to keep.
        files.iter().for_each(|(path, _)| broken.open(path).unwrap().sync_data().unwrap());
        let mut call = 0;
        loop {
            call += 1;
            for seed in 0..4 {
                let disk = broken.kill();
                let first = plan(&disk, Lsn::ZERO);
                disk.crash_at_call(call);
                let done = repair::execute(&disk, &dir(), STORE, &first);
                if done.is_ok() && !disk.crashed() {
                    assert!(call > 5, "{name}: the crash never comes");
                    call = u64::MAX;
                    break;
                }
                let disk = disk.crash(call * 31 + seed);
                let story = format!("{name}, call {call}, seed {seed}");
                for (path, bytes) in &files {
                    let copy = dir().join("repaired/1").join(path.file_name().unwrap());
                    let safe = [path, &copy].into_iter().any(|f| disk.file_bytes(f).as_ref() == Some(bytes));
                    assert!(safe, "{story}: the bytes of {} are nowhere", path.display());
                }
                let rest = plan(&disk, Lsn::ZERO);
                if rest.needed {
                    assert!(open(&disk, Lsn::ZERO).is_err() || rest.findings.iter().all(|f| !f.missing), "{story}");
                    repair::execute(&disk, &dir(), STORE, &rest).unwrap();
                }
                let (_log, report) = open(&disk, Lsn::ZERO).unwrap_or_else(|e| panic!("{story}: {e}"));
                let found = records(&disk);
                assert!(found == expected, "{story}: {:?}", found.keys());
                assert!(report.next_lsn.0 > told, "{story}");
            }
            if call == u64::MAX {
                break;
            }
        }
    }
}

/// Damage that lies wholly at or below the checkpoint stops no mount: there is nothing to repair.
#[test]
fn damage_below_the_checkpoint_needs_no_repair() {
    let disk = filled();
    let s = segments(&disk);
    assert!(disk.flip(&s[1].file, 300, 1));
    let plan = plan(&disk, s[3].last_lsn);
    assert!(!plan.needed);
    assert!(plan.cut.is_none());
    assert_eq!(plan.findings.len(), 1);
    open(&disk, s[3].last_lsn).unwrap();
}

/// A sound log is left alone.
#[test]
fn a_sound_log_needs_no_repair() {
    let disk = filled();
    let calls = disk.calls();
    let plan = plan(&disk, Lsn::ZERO);
    assert!(!plan.needed && plan.findings.is_empty());
    assert_eq!(disk.calls(), calls);
}

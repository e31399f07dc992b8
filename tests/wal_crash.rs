//! Crashes of the log on the simulated disk: random histories, a crash at every call that changes something, and again in the recovery.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ize::ids::{Lsn, SegmentId, StoreId, Time};
use ize::storage::Storage;
use ize::storage::sim::{Seeded, SimDisk};
use ize::wal::format::MAX_BODY;
use ize::wal::prune::{Limits, execute, plan};
use ize::wal::verify::{Worst, verify};
use ize::wal::{Bounds, Log, Options, Record, RecoveryInput, RecoveryReport, WalError, for_each_record, scan};

const STORE: StoreId = StoreId(*b"0123456789abcdef");

fn dir() -> PathBuf {
    PathBuf::from("/store/wal")
}

fn options() -> Options {
    Options { segment_size: 64 << 10, background: false, ..Options::default() }
}

/// What somebody outside the log knows, and what the checkpoint file would hold durably.
#[derive(Clone, Default)]
struct Model {
    /// Everything that may be in the log: answered, then (last) in flight.
    records: BTreeMap<u64, Vec<u8>>,
    answered: u64,
    durable: u64,
    /// The highest LSN anybody was told.
    told: u64,
    checkpoint: Lsn,
    floor: SegmentId,
}

fn open(disk: &SimDisk, model: &Model, clean: bool, same_boot: bool) -> Result<(Log, RecoveryReport), WalError> {
    let mut verify = |_: &Record<'_>| Ok(true);
    let input = RecoveryInput { checkpoint: model.checkpoint, floor: model.floor, clean, same_boot, ..RecoveryInput::new(&mut verify) };
    Log::recover(disk.shared(), &dir(), STORE, input, options())
}

fn contents(disk: &SimDisk) -> BTreeMap<u64, Vec<u8>> {
    let mut found = BTreeMap::new();
    for_each_record(disk, &dir(), STORE, Lsn::ZERO, Lsn(u64::MAX), &mut |r, segment| {
        let mut body = vec![0; r.body.len()];
        segment.read_at(&mut body, r.body_offset).unwrap();
        assert_eq!(body, r.body);
        if !r.is_mark() {
            found.insert(r.lsn.0, r.body.to_vec());
        }
        Ok(std::ops::ControlFlow::Continue(()))
    })
    .unwrap();
    found
}

/// Does one random thing; an error is the crash.
fn act(log: &Log, disk: &SimDisk, model: &mut Model, rng: &mut Seeded) -> Result<(), WalError> {
    match rng.below(20) {
        0..=10 => {
            let bodies: Vec<Vec<u8>> = (0..1 + rng.below(3))
                .map(|_| {
                    let len = if rng.below(4) == 0 { rng.below(20_000) } else { rng.below(900) };
                    (0..len).map(|_| rng.draw() as u8).collect()
                })
                .collect();
            let mut pushed = Vec::new();
            let out = log.append_with(64_000, &mut |_, batch| {
                pushed.clear();
                for body in &bodies {
                    pushed.push((batch.push(7, 1, &[body], 0).0, body.clone()));
                }
            });
            model.told = pushed.last().map_or(model.told, |p| p.0);
            model.records.extend(pushed);
            let out = out?;
            model.answered = out.last().unwrap().lsn.0;
            assert_eq!(model.answered, model.told);
        }
        11..=14 => {
            log.sync()?;
            model.durable = model.answered;
        }
        15..=16 => {
            log.seal()?;
            model.durable = model.answered;
            // Replay would now move the checkpoint behind what is sealed.
            if rng.below(2) == 0 {
                model.checkpoint = Lsn(model.answered);
            }
        }
        17 => {
            let bounds = Bounds { checkpoint: model.checkpoint, floor: model.floor };
            let scanned = scan(disk, &dir(), STORE, bounds)?;
            let limits = Limits { max_size: Some(rng.below(100_000)), ..Limits::default() };
            let plan = plan(&scanned, model.checkpoint, limits, &mut |_| 0, Time::now());
            let mut floor = model.floor;
            let pruned = execute(disk, &dir(), &plan, &mut |f| {
                floor = f;
                Ok(())
            });
            model.floor = floor;
            if pruned.is_err() {
                return Err(WalError::Io { doing: "prune".into(), source: io::Error::other("crash") });
            }
        }
        _ => {}
    }
    Ok(())
}

/// Checks what recovery made of the disk against the model, and moves the model to it.
fn check(disk: &SimDisk, model: &mut Model, killed: bool, log: &Log, report: &RecoveryReport, story: &str) {
    let found = contents(disk);
    let first = found.keys().next().copied();
    // Nothing above the checkpoint was pruned, and what is there is an unbroken stretch of what was appended.
    let from = first.unwrap_or(u64::MAX).min(model.checkpoint.0 + 1);
    let last = found.keys().next_back().copied().unwrap_or(0).max(model.checkpoint.0);
    let expected: BTreeMap<u64, Vec<u8>> = model
        .records
        .range(from..)
        .filter(|(lsn, _)| **lsn <= last && first.is_some_and(|f| **lsn >= f))
        .map(|(l, b)| (*l, b.clone()))
        .collect();
    assert!(found == expected, "{story}: not a prefix: {:?} of {:?}", found.keys(), expected.keys());
    assert!(last >= model.durable, "{story}: {last} recovered, {} was durable", model.durable);
    assert!(!killed || last >= model.answered, "{story}: {last} recovered after a kill, {} was answered", model.answered);
    assert!(report.next_lsn.0 > last, "{story}");
    // Whoever died alone, with an append in flight of which no byte arrived, told nobody.
    let told_and_lost = model.told > last && !(killed && report.cut.is_none());
    assert!(!told_and_lost || report.next_lsn.0 > model.told, "{story}: LSN {} would be used again", report.next_lsn);
    assert_eq!(log.durable(), report.last_lsn);
    let bounds = Bounds { checkpoint: model.checkpoint, floor: model.floor };
    let verified = verify(disk, &dir(), STORE, bounds, &mut |_| Ok(None)).unwrap();
    assert_eq!(verified.worst, Worst::Clean, "{story}: {:?}", verified.findings);
    model.records.retain(|lsn, _| *lsn <= last);
    model.answered = last;
    model.durable = last;
}

/// Opens, acts until the crash at call `at` (or `acts` times), and says whether the crash came.
fn round(disk: &SimDisk, model: &mut Model, rng: &mut Seeded, acts: u64, at: u64) -> bool {
    let (log, report) = open(disk, model, false, false).unwrap();
    check(disk, model, false, &log, &report, "opening");
    disk.crash_at_call(at);
    for _ in 0..acts {
        if act(&log, disk, model, rng).is_err() {
            assert!(disk.crashed(), "only the crash fails here");
            return true;
        }
    }
    false
}

#[test]
fn a_crash_at_every_call_leaves_a_prefix_with_everything_durable() {
    let mut crashes = 0;
    for seed in 0..3 {
        for at in 1.. {
            let disk = SimDisk::new();
            let mut model = Model::default();
            let crashed = round(&disk, &mut model, &mut Seeded::new(seed), 30, at);
            for variant in 0..4 {
                let story = format!("seed {seed}, call {at}, variant {variant}");
                let killed = variant == 0;
                let left = if killed { disk.kill() } else { disk.crash(seed * 1000 + at * 10 + variant) };
                let mut model = model.clone();
                let (log, report) = open(&left, &model, false, killed).unwrap_or_else(|e| panic!("{story}: {e}"));
                check(&left, &mut model, killed, &log, &report, &story);
                // Everything recovered is durable now, whatever the page cache held.
                drop(log);
                let again = left.crash(at);
                let (log, report) = open(&again, &model, false, false).unwrap_or_else(|e| panic!("{story}, again: {e}"));
                check(&again, &mut model, true, &log, &report, &format!("{story}, again"));
                crashes += 1;
            }
            if !crashed {
                break;
            }
        }
    }
    assert!(crashes > 500, "{crashes}");
}

#[test]
fn many_crashes_in_a_row_also_in_recovery_lose_nothing_durable() {
    for seed in 0..40 {
        let mut rng = Seeded::new(seed ^ 0x5eed);
        let mut disk = SimDisk::new();
        let mut model = Model::default();
        for life in 0..6 {
            let acts = 5 + rng.below(25);
            let at = 1 + rng.below(40);
            round(&disk, &mut model, &mut rng, acts, at);
            let mut killed = rng.below(3) == 0;
            let mut left = if killed { disk.kill() } else { disk.crash(rng.draw()) };
            for attempt in 0..rng.below(4) {
                let story = format!("seed {seed}, life {life}, attempt {attempt}");
                left.crash_at_call(1 + rng.below(12));
                match open(&left, &model, false, killed) {
                    Ok(_) => {}
                    Err(e) => assert!(left.crashed(), "{story}: {e}"),
                }
                if rng.below(2) == 0 {
                    left = left.kill();
                } else {
                    left = left.crash(rng.draw());
                    killed = false;
                }
            }
            let story = format!("seed {seed}, life {life}");
            let (log, report) = open(&left, &model, false, killed).unwrap_or_else(|e| panic!("{story}: {e}"));
            check(&left, &mut model, killed, &log, &report, &story);
            drop(log);
            disk = left;
        }
    }
}

fn put(log: &Log, body: &[u8]) -> Lsn {
    log.append_with(body.len() + 64, &mut |_, batch| {
        batch.push(7, 1, &[body], 0);
    })
    .unwrap()[0]
        .lsn
}

fn fresh() -> (SimDisk, Log) {
    let disk = SimDisk::new();
    let (log, report) = open(&disk, &Model::default(), true, true).unwrap();
    assert_eq!((report.next_lsn, report.epoch), (Lsn(1), 1));
    (disk, log)
}

#[test]
fn a_failed_sync_poisons_and_the_page_cache_is_not_believed() {
    let (disk, log) = fresh();
    let first = put(&log, b"synced");
    log.sync().unwrap();
    put(&log, b"lost by the sync");
    disk.fail_sync(1);
    assert_eq!(log.sync().unwrap_err().errno(), libc::EIO);
    assert!(log.poisoned().is_some());
    assert_eq!(log.append_with(100, &mut |_, _| panic!("poisoned")).unwrap_err().errno(), libc::EIO);
    assert!(log.sync_to(Lsn(99)).is_err() && log.seal().is_err());
    // The daemon dies; recovery reads the page cache, then the power goes.
    let left = disk.kill();
    let (log, report) = open(&left, &Model::default(), false, true).unwrap();
    let shown = contents(&left);
    assert_eq!(shown.len(), 2, "what the page cache still holds is kept");
    assert!(report.fresh_copied > 0 && report.epoch == 2);
    drop(log);
    for seed in 0..50 {
        let after = left.crash(seed);
        assert_eq!(contents(&after), shown, "what recovery showed is durable");
        assert!(shown.contains_key(&first.0));
    }
}

#[test]
fn a_full_disk_at_the_birth_of_a_segment_poisons_nothing() {
    let (disk, log) = fresh();
    put(&log, &[1; 40_000]);
    disk.set_capacity(Some(disk.used() + 1000));
    let full = log.append_with(40_000, &mut |_, _| panic!("no segment")).unwrap_err();
    assert_eq!(full.errno(), libc::ENOSPC);
    assert!(log.poisoned().is_none());
    disk.set_capacity(None);
    let lsn = put(&log, &[2; 30_000]);
    log.sync().unwrap();
    assert_eq!(contents(&disk)[&lsn.0], vec![2; 30_000]);
}

#[test]
fn a_failed_write_to_the_active_segment_poisons() {
    let (disk, log) = fresh();
    put(&log, b"one");
    disk.fail_write(1, libc::ENOSPC);
    assert!(log.append_with(100, &mut |_, b| _ = b.push(7, 1, &[b"two"], 0)).is_err());
    assert_eq!(log.append_with(100, &mut |_, b| _ = b.push(7, 1, &[b"three"], 0)).unwrap_err().errno(), libc::EIO);
    let left = disk.kill();
    let (_, report) = open(&left, &Model::default(), false, true).unwrap();
    assert_eq!(report.last_lsn, Lsn(1));
    let cut = report.cut.expect("half a record is a torn tail");
    assert_eq!(cut.lsn, Lsn(2));
    let saved = left.open_read(&cut.saved).unwrap();
    assert_eq!(saved.len().unwrap(), cut.bytes);
}

#[test]
fn too_large_is_refused_and_nothing_is_written() {
    let (disk, log) = fresh();
    assert!(matches!(log.append_with(1 << 20, &mut |_, _| panic!("built")), Err(WalError::TooLarge { .. })));
    let over = log.append_with(100, &mut |_, b| {
        b.push(7, 1, &[b"fits"], 0);
        b.push(7, 1, &[&[0; 100]], 0);
    });
    assert!(matches!(over, Err(WalError::TooLarge { .. })));
    let body = vec![0; MAX_BODY + 1];
    assert!(log.append_with(60_000, &mut |_, b| _ = b.push(7, 1, &[&body], 0)).is_err());
    assert_eq!(put(&log, b"first"), Lsn(1));
    assert_eq!(contents(&disk).len(), 1);
}

#[test]
fn marks_prove_what_a_sync_left_and_never_cause_another() {
    let (disk, log) = fresh();
    let lsn = put(&log, b"x");
    assert_eq!(log.sync().unwrap(), lsn);
    assert_eq!(log.appended(), lsn.next(), "the mark");
    let calls = disk.calls();
    for _ in 0..3 {
        log.sync().unwrap();
    }
    assert_eq!(disk.calls(), calls);
    assert_eq!(scan(&disk, &dir(), STORE, Bounds::default()).unwrap().bound, lsn);
    assert!(log.seal().unwrap());
    assert!(!log.seal().unwrap(), "an idle log seals nothing");
    assert_eq!(log.active(), None);
}

#[test]
fn unsynced_bytes_are_capped() {
    let disk = SimDisk::new();
    let mut verify = |_: &Record<'_>| Ok(true);
    let input = RecoveryInput { clean: true, ..RecoveryInput::new(&mut verify) };
    let (log, _) = Log::recover(disk.shared(), &dir(), STORE, input, Options { max_unsynced: 10_000, ..options() }).unwrap();
    let log = Arc::new(log);
    for _ in 0..40 {
        log.append_with(1000, &mut |_, b| _ = b.push(7, 1, &[b"small"], 4000)).unwrap();
        assert!(log.unsynced_bytes() < 15_000, "{}", log.unsynced_bytes());
    }
    assert!(log.durable() > Lsn::ZERO);
}

#[test]
fn a_clean_close_recovers_without_rewriting_and_goes_on_without_a_gap() {
    let (disk, log) = fresh();
    for i in 0..100u8 {
        put(&log, &[i; 1000]);
    }
    log.seal().unwrap();
    let last = log.appended();
    drop(log);
    let (log, report) = open(&disk, &Model::default(), true, false).unwrap();
    assert_eq!((report.fresh_copied, report.cut, report.next_lsn, report.epoch), (0, None, last.next(), 1));
    assert_eq!(put(&log, b"next"), last.next());
    log.seal().unwrap();
    assert_eq!(contents(&disk).len(), 101);
    // A killed daemon on the same boot loses nothing, so its LSNs go on too.
    let left = disk.kill();
    let (_, report) = open(&left, &Model::default(), false, true).unwrap();
    assert_eq!(report.epoch, 1);
}

#[test]
fn an_unsound_blob_above_the_bound_is_where_the_log_is_torn() {
    let (disk, log) = fresh();
    put(&log, b"durable");
    log.sync().unwrap();
    put(&log, b"whole");
    let bad = put(&log, b"names a blob that never reached the disk");
    put(&log, b"after");
    let left = disk.kill();
    let mut asked = Vec::new();
    let mut verify = |r: &Record<'_>| {
        asked.push(r.lsn);
        Ok(r.lsn != bad)
    };
    let input = RecoveryInput { same_boot: false, ..RecoveryInput::new(&mut verify) };
    let (_, report) = Log::recover(left.shared(), &dir(), STORE, input, options()).unwrap();
    let cut = report.cut.unwrap();
    assert!(cut.blob && cut.lsn == bad);
    assert_eq!(contents(&left).len(), 2);
    assert_eq!(asked, [Lsn(3), bad], "what is proven durable is not asked for");
    assert!(report.next_lsn.0 >= bad.0 + (1 << 21));
}

fn flip_all(disk: &SimDisk, checkpoint: Lsn, through: &mut dyn FnMut(u64, Result<RecoveryReport, WalError>)) {
    let path = dir().join(format!("{}.seg", SegmentId(1)));
    let len = disk.open_read(Path::new(&path)).unwrap().len().unwrap();
    for offset in 0..len {
        let hurt = disk.kill();
        assert!(hurt.flip(&path, offset, 1 << (offset % 8)));
        let model = Model { checkpoint, floor: SegmentId(1), ..Model::default() };
        through(offset, open(&hurt, &model, true, true).map(|(_, report)| report));
    }
}

#[test]
fn every_flipped_byte_above_the_checkpoint_stops_and_below_it_is_reported() {
    let (disk, log) = fresh();
    put(&log, b"one");
    let last = put(&log, b"two");
    log.seal().unwrap();
    let next = put(&log, b"in the next segment");
    log.seal().unwrap();
    flip_all(&disk, Lsn::ZERO, &mut |offset, opened| match opened {
        Err(WalError::Damage { file, offset: at, lsn, .. }) => {
            assert!(file.ends_with("0000000000000001.seg") && at <= offset && lsn <= last, "byte {offset}: at {at}, {lsn}");
        }
        other => panic!("byte {offset}: {other:?}"),
    });
    flip_all(&disk, last, &mut |offset, opened| {
        let report = opened.unwrap_or_else(|e| panic!("byte {offset}: {e}"));
        assert!(!report.findings.is_empty(), "byte {offset} is reported");
        assert_eq!(report.last_lsn, next);
    });
}

#[test]
fn damage_under_the_bound_of_the_last_segment_is_no_torn_tail() {
    let (disk, log) = fresh();
    put(&log, b"aaaaaaaa");
    log.sync().unwrap();
    put(&log, b"bbbbbbbb");
    let path = dir().join(format!("{}.seg", SegmentId(1)));
    // The mark behind the sync proves the first record; nothing proves the second.
    let (first, second) = (256 + 32, 256 + 40 + 32 + 32);
    let hurt = disk.kill();
    assert!(hurt.flip(&path, first, 1));
    assert!(matches!(open(&hurt, &Model::default(), false, true), Err(WalError::Damage { offset: 256, lsn: Lsn(1), .. })));
    assert!(for_each_record(&hurt, &dir(), STORE, Lsn(1), Lsn(9), &mut |_, _| Ok(std::ops::ControlFlow::Continue(()))).is_err());
    let hurt = disk.kill();
    assert!(hurt.flip(&path, second, 1));
    let (_, report) = open(&hurt, &Model::default(), false, true).unwrap();
    assert_eq!(report.cut.unwrap().lsn, Lsn(3));
    assert_eq!(report.last_lsn, Lsn(2));
}

#[test]
fn a_missing_segment_is_damage_above_the_floor_and_pruned_below() {
    let (disk, log) = fresh();
    for _ in 0..3 {
        put(&log, b"x");
        log.seal().unwrap();
    }
    let path = |n| dir().join(format!("{}.seg", SegmentId(n)));
    let hurt = disk.kill();
    hurt.remove(&path(2)).unwrap();
    assert!(matches!(open(&hurt, &Model::default(), false, true), Err(WalError::Missing { segment: SegmentId(2), lsn: Lsn(2), .. })));
    let hurt = disk.kill();
    hurt.remove(&path(1)).unwrap();
    let model = Model { checkpoint: Lsn(2), floor: SegmentId(3), ..Model::default() };
    let (_, report) = open(&hurt, &model, false, true).unwrap();
    assert_eq!(report.segments, 1);
    assert!(hurt.open_read(&path(2)).is_err(), "what an interrupted prune left below the floor goes");
    for n in 1..=3 {
        hurt.remove(&path(n)).ok();
    }
    assert!(matches!(open(&hurt, &model, false, true), Err(WalError::Missing { .. })));
}

#[test]
fn an_io_error_is_neither_torn_nor_damage_and_changes_nothing() {
    let (disk, log) = fresh();
    put(&log, b"x");
    let left = disk.kill();
    let before = left.calls();
    left.fail_read(2);
    let error = open(&left, &Model::default(), false, true).unwrap_err();
    assert!(matches!(error, WalError::Io { .. }), "{error}");
    assert!(left.calls() <= before + 1);
    assert_eq!(open(&left, &Model::default(), false, true).unwrap().1.last_lsn, Lsn(1));
}

#[test]
fn a_segment_of_another_version_is_refused_by_name() {
    let (disk, log) = fresh();
    put(&log, b"x");
    log.seal().unwrap();
    let path = dir().join(format!("{}.seg", SegmentId(1)));
    for (at, value, name) in [(8, 2u8, "version 2"), (16, 1, "encrypted"), (24, 4, "write feature bits 0x4")] {
        let other = disk.kill();
        let file = other.open(&path).unwrap();
        let mut header = [0; 256];
        file.read_exact_at(&mut header, 0).unwrap();
        header[at] = value;
        let crc = crc32fast::hash(&header[..252]);
        header[252..].copy_from_slice(&crc.to_le_bytes());
        file.write_at(&[&header], 0).unwrap();
        let error = open(&other, &Model::default(), false, true).unwrap_err();
        assert!(matches!(error, WalError::Unsupported { .. }) && error.to_string().contains(name), "{error}");
    }
}

#[test]
fn prune_keeps_what_is_above_the_checkpoint_and_the_last_segment() {
    let (disk, log) = fresh();
    for _ in 0..5 {
        put(&log, b"x");
        log.seal().unwrap();
    }
    let held = log.append_with(100, &mut |_, b| _ = b.push(7, 1, &[b"held"], 0)).unwrap().remove(0);
    log.seal().unwrap();
    let zero = Limits { max_size: Some(0), ..Limits::default() };
    let scanned = scan(&disk, &dir(), STORE, Bounds::default()).unwrap();
    let partly = plan(&scanned, Lsn(3), zero, &mut |_| 0, Time::now());
    assert_eq!(partly.floor(), Some(SegmentId(4)));
    assert!(plan(&scanned, Lsn(99), Limits::default(), &mut |_| 0, Time::now()).drop.is_empty());
    let all = plan(&scanned, Lsn(99), zero, &mut |_| 0, Time::now());
    assert_eq!(all.keep.iter().map(|(s, _)| s.id.0).collect::<Vec<_>>(), [6]);
    // By age: with a sane clock the old go; when the newest is a week ahead of the clock nothing does.
    let age = Limits { max_age: Some(std::time::Duration::from_secs(3600)), ..Limits::default() };
    let day = 86_400;
    let later = Time { secs: Time::now().secs + day, nanos: 0 };
    let earlier = Time { secs: Time::now().secs - 7 * day, nanos: 0 };
    assert_eq!(plan(&scanned, Lsn(99), age, &mut |_| 0, later).drop.len(), 5);
    assert!(plan(&scanned, Lsn(99), age, &mut |_| 0, Time::now()).drop.is_empty());
    let jumped = plan(&scanned, Lsn(99), age, &mut |_| 0, earlier);
    assert!(jumped.clock_jumped && jumped.drop.is_empty());
    let both = Limits { max_size: Some(0), ..age };
    assert_eq!(plan(&scanned, Lsn(99), both, &mut |_| 0, earlier).drop.len(), 5, "by size it goes on");
    // The floor first; a floor that cannot be made durable removes nothing.
    let refuse = execute(&disk, &dir(), &partly, &mut |_| Err(ize::error::Error::new(ize::error::Class::Io, "no")));
    assert!(refuse.is_err());
    assert_eq!(contents(&disk).len(), 6);
    let pruned = execute(&disk, &dir(), &partly, &mut |floor| {
        assert_eq!(floor, SegmentId(4));
        Ok(())
    });
    assert_eq!(pruned.unwrap().segments, 3);
    assert_eq!(contents(&disk).keys().copied().collect::<Vec<_>>(), [4, 5, 6]);
    let rest = execute(&disk, &dir(), &all, &mut |_| Ok(())).unwrap();
    assert_eq!(rest.segments, 2);
    // Gone by name, yet readable for whoever holds it.
    disk.remove(&dir().join(format!("{}.seg", SegmentId(6)))).unwrap();
    let mut body = [0; 4];
    held.segment.read_at(&mut body, held.body_offset).unwrap();
    assert_eq!(&body, b"held");
}

#[test]
fn verify_collects_everything_and_names_the_worst() {
    let (disk, log) = fresh();
    put(&log, b"x");
    put(&log, b"y");
    log.seal().unwrap();
    put(&log, b"z");
    let check = |disk: &SimDisk, bad: u64| {
        verify(disk, &dir(), STORE, Bounds::default(), &mut |r| Ok((r.lsn.0 == bad).then(|| "blob missing".into()))).unwrap()
    };
    let clean = check(&disk, 0);
    assert_eq!((clean.worst, clean.records, clean.segments), (Worst::Clean, 3, 2));
    assert_eq!(check(&disk, 1).worst, Worst::Damage);
    assert_eq!(check(&disk, 3).worst, Worst::TornTail);
    let hurt = disk.kill();
    assert!(hurt.flip(&dir().join(format!("{}.seg", SegmentId(1))), 300, 4));
    assert!(hurt.flip(&dir().join(format!("{}.seg", SegmentId(2))), 300, 4));
    let report = check(&hurt, 0);
    assert_eq!(report.worst, Worst::Damage);
    assert_eq!(report.findings.len(), 2);
    disk.fail_read(1 + 2);
    assert_eq!(check(&disk, 0).worst, Worst::IoError);
}

/// A hook that fails stands for a pack that could not be synced: then nothing that may name its blobs is reported durable.
#[test]
fn packs_are_synced_before_the_log_or_the_log_is_not() {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    for seal in [false, true] {
        let disk = SimDisk::new();
        let (called, fails) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let hook = {
            let (disk, called, fails) = (disk.clone(), Arc::clone(&called), Arc::clone(&fails));
            move || {
                called.store(disk.calls(), Ordering::SeqCst);
                if fails.load(Ordering::SeqCst) { Err(io::Error::from_raw_os_error(libc::EIO)) } else { Ok(()) }
            }
        };
        let mut verify = |_: &Record<'_>| Ok(true);
        let input = RecoveryInput { clean: true, before_sync: Box::new(hook), ..RecoveryInput::new(&mut verify) };
        let (log, _) = Log::recover(disk.shared(), &dir(), STORE, input, options()).unwrap();
        let make_durable = || if seal { log.seal().map(|_| ()) } else { log.sync().map(|_| ()) };
        let first = put(&log, b"x");
        let before = disk.calls();
        make_durable().unwrap();
        assert_eq!(called.load(Ordering::SeqCst), before, "before anything of the log's own");
        assert!(log.durable() == first && disk.calls() > before);
        put(&log, b"y");
        fails.store(true, Ordering::SeqCst);
        assert_eq!(make_durable().unwrap_err().errno(), libc::EIO);
        assert!(log.durable() == first && log.poisoned().is_some());
    }
}

/// Power is lost; recovery begins an epoch and is killed before anything is appended. On the same boot nothing looks lost any more, yet
/// the LSNs that were told and lost must not come back.
#[test]
fn the_jump_of_an_epoch_is_not_forgotten_before_its_first_record() {
    let (disk, log) = fresh();
    put(&log, b"durable");
    log.sync().unwrap();
    let told = put(&log, b"told, then lost");
    let left = (0..).map(|seed| disk.crash(seed)).find(|d| contents(d).len() == 1).unwrap();
    let (log, first) = open(&left, &Model::default(), false, false).unwrap();
    assert!(first.next_lsn > told && first.epoch == 2);
    drop(log);
    let (log, second) = open(&left.kill(), &Model::default(), false, true).unwrap();
    assert_eq!((second.next_lsn, second.epoch), (first.next_lsn, 2));
    assert_eq!(put(&log, b"after"), first.next_lsn);
    let left = left.kill();
    let (log, third) = open(&left, &Model::default(), true, true).unwrap();
    assert_eq!((third.next_lsn, third.epoch), (first.next_lsn, 2), "a clean flag keeps it too");
    assert_eq!(put(&log, b"after"), first.next_lsn);
    log.seal().unwrap();
    let verified = verify(&left, &dir(), STORE, Bounds::default(), &mut |_| Ok(None)).unwrap();
    assert_eq!((verified.worst, verified.scan.epoch), (Worst::Clean, 2), "{:?}", verified.findings);
}

/// A disk whose first large read misses the bytes of one record although it shows a later one, as a read beside a writer may.
#[derive(Debug)]
struct Racing {
    disk: SimDisk,
    misses: Arc<std::sync::atomic::AtomicU64>,
    range: std::ops::Range<usize>,
}

#[derive(Debug)]
struct RacingFile {
    file: ize::storage::FileRef,
    misses: Arc<std::sync::atomic::AtomicU64>,
    range: std::ops::Range<usize>,
}

impl Storage for Racing {
    fn create_new(&self, _: &Path) -> io::Result<ize::storage::FileRef> {
        unimplemented!()
    }
    fn open(&self, _: &Path) -> io::Result<ize::storage::FileRef> {
        unimplemented!()
    }
    fn open_read(&self, path: &Path) -> io::Result<ize::storage::FileRef> {
        let file = self.disk.open_read(path)?;
        Ok(Arc::new(RacingFile { file, misses: Arc::clone(&self.misses), range: self.range.clone() }))
    }
    fn rename(&self, _: &Path, _: &Path) -> io::Result<()> {
        unimplemented!()
    }
    fn remove(&self, _: &Path) -> io::Result<()> {
        unimplemented!()
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<std::ffi::OsString>> {
        self.disk.list(dir)
    }
    fn create_dir_all(&self, _: &Path) -> io::Result<()> {
        unimplemented!()
    }
    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        unimplemented!()
    }
}

impl ize::storage::StorageFile for RacingFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        use std::sync::atomic::Ordering::SeqCst;
        let n = self.file.read_at(buf, offset)?;
        if n > self.range.end && self.misses.fetch_update(SeqCst, SeqCst, |m| m.checked_sub(1)).is_ok() {
            buf[self.range.clone()].fill(0);
        }
        Ok(n)
    }
    fn write_at(&self, _: &[&[u8]], _: u64) -> io::Result<()> {
        unimplemented!()
    }
    fn set_len(&self, _: u64) -> io::Result<()> {
        unimplemented!()
    }
    fn sync_data(&self) -> io::Result<()> {
        unimplemented!()
    }
}

#[test]
fn a_record_half_written_while_it_is_read_is_no_damage() {
    let (disk, log) = fresh();
    put(&log, b"aaaaaaaa");
    log.sync().unwrap();
    put(&log, b"bbbbbbbb");
    // The first record is missed, the mark that proves it durable is seen.
    let misses = Arc::new(std::sync::atomic::AtomicU64::new(1));
    let racing = Racing { disk: disk.clone(), misses: Arc::clone(&misses), range: 256..296 };
    let scanned = scan(&racing, &dir(), STORE, Bounds::default()).unwrap();
    assert!(scanned.findings.is_empty() && scanned.end == Lsn(3), "{:?}", scanned.findings);
    misses.store(1, std::sync::atomic::Ordering::SeqCst);
    let end = for_each_record(&racing, &dir(), STORE, Lsn(1), Lsn(9), &mut |_, _| Ok(std::ops::ControlFlow::Continue(())));
    assert_eq!(end.unwrap(), Lsn(3));
    misses.store(99, std::sync::atomic::Ordering::SeqCst);
    assert!(scan(&racing, &dir(), STORE, Bounds::default()).unwrap().damage_above(Lsn::ZERO).is_some(), "what stays wrong is damage");
}

//! The version log on the simulated disk.

use super::record::FormatOne;
use super::*;
use crate::ids::BlobId;
use crate::storage::sim::{CallKind, Fault, SimDisk};
use crate::versions::check::log::{VersionFinding, check};

const STORE: StoreId = StoreId([5; 16]);

fn version(seq: u64) -> Version {
    Version {
        seq: VersionSeq(seq),
        first: Lsn(seq * 10 - 9),
        last: Lsn(seq * 10),
        begin: Time { secs: seq as i64 * 100, nanos: 0 },
        end: Time { secs: seq as i64 * 100 + 5, nanos: 0 },
        root: BlobId::of(&seq.to_le_bytes()),
        parent_root: None,
        paths: vec![PathChange { path: b"a\xff".to_vec(), what: What::Moved { from: b"b".to_vec() } }],
        processes: vec![ProcessLabel { pid: 1, start: 2, comm: b"c".to_vec(), uid: 3, session: 4 }],
        label: Some("l".to_owned()),
        operations: 9,
        bytes: 10,
        origin: Origin::Commit,
        id: ChangeId::of(STORE, VersionSeq(seq), Lsn(seq * 10 - 9), Lsn(seq * 10), &BlobId::of(&seq.to_le_bytes())),
        covers: Lsn(seq * 10 - 9),
        thinned: 0,
        part: 1,
        parts: 1,
    }
}

/// The same, naming the state of the one before, as real ones do.
fn chained(seq: u64) -> Version {
    let parent_root = (seq > 1).then(|| version(seq - 1).root);
    Version { parent_root, label: None, ..numbered(seq) }
}

/// Writes a log of format 1.
fn format_one(disk: &SimDisk, count: u64, version: fn(u64) -> Version) {
    let log = VersionLog::none(disk.shared(), PathBuf::from("/versions"), STORE);
    let mut bytes = log.header(Format::One);
    for seq in 1..=count {
        let body = FormatOne::encode(version(seq));
        let frame = log.frame(bytes.len() as u64, &body);
        bytes.extend_from_slice(&frame);
        bytes.extend_from_slice(&body);
    }
    disk.put_file(std::path::Path::new("/versions"), &bytes);
}

fn findings(disk: &SimDisk, keep: u64) -> Vec<VersionFinding> {
    check(&disk.shared(), PathBuf::from("/versions"), STORE, Some(VersionSeq(keep))).unwrap().findings
}

fn open(disk: &SimDisk, mode: Mode) -> Result<VersionLog> {
    VersionLog::open(disk.shared(), PathBuf::from("/versions"), STORE, mode)
}

fn write(keep: u64) -> Mode {
    Mode::Write { keep_up_to: VersionSeq(keep) }
}

#[test]
fn versions_are_found_by_number_lsn_time_and_id() {
    let disk = SimDisk::new();
    let mut log = open(&disk, write(0)).unwrap();
    for seq in 1..=20 {
        log.append(&version(seq)).unwrap();
    }
    assert!(log.append(&version(30)).is_err(), "a gap");
    log.sync().unwrap();
    let log = open(&disk, Mode::ReadOnly { keep_up_to: None }).unwrap();
    assert_eq!(log.iter().collect::<Result<Vec<_>>>().unwrap(), (1..=20).map(version).collect::<Vec<_>>());
    assert_eq!(log.at_lsn(Lsn(39)).unwrap().unwrap().seq, VersionSeq(3));
    assert_eq!(log.at_lsn(Lsn(40)).unwrap().unwrap().seq, VersionSeq(4));
    assert_eq!(log.at_lsn(Lsn(9)).unwrap(), None);
    assert_eq!(log.at_time(Time { secs: 705, nanos: 0 }).unwrap().unwrap().seq, VersionSeq(7));
    let id = version(5).id.to_string();
    assert_eq!(log.by_id_prefix(&id[..8]).unwrap().unwrap().seq, VersionSeq(5));
    assert_eq!(log.by_id_prefix("xyz").unwrap(), None);
    let clash =
        (1..=20).map(|s| version(s).id.to_string()).find(|a| (1..=20).filter(|s| version(*s).id.to_string()[..1] == a[..1]).count() > 1);
    assert!(log.by_id_prefix(&clash.unwrap()[..1]).is_err(), "ambiguous");
}

#[test]
fn what_the_checkpoint_does_not_name_is_cut_and_what_it_names_must_be_whole() {
    let disk = SimDisk::new();
    let mut log = open(&disk, write(0)).unwrap();
    (1..=3).for_each(|seq| log.append(&version(seq)).unwrap());
    log.sync().unwrap();
    drop(log);
    assert!(open(&disk, write(4)).is_err(), "a version is missing");
    let mut log = open(&disk, write(2)).unwrap();
    assert_eq!(log.len(), 2);
    log.append(&version(3)).unwrap();
    let end = log.end;
    for offset in 0..end {
        let flipped = disk.kill();
        assert!(flipped.flip(std::path::Path::new("/versions"), offset, 1));
        let error = open(&flipped, Mode::ReadOnly { keep_up_to: Some(VersionSeq(3)) }).map(drop);
        assert!(matches!(error, Err(e) if e.class == Class::Damage), "offset {offset}");
    }
}

/// Other bytes are another format, which needs another version number and a reader for this one.
#[test]
fn the_bytes_are_frozen() {
    let bytes = |disk: &SimDisk| disk.file_bytes(std::path::Path::new("/versions")).unwrap();
    let golden = |name: &str| std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    let disk = SimDisk::new();
    format_one(&disk, 3, version);
    assert_eq!(BlobId::of(&bytes(&disk)).to_string(), "3914002a5e0487a6fbf4463bf3d746209a42601b680e1f3e3504f7bd4ef049ee");
    assert_eq!(bytes(&disk), std::fs::read(golden("versions-1.bin")).unwrap());
    let disk = SimDisk::new();
    let mut log = open(&disk, write(0)).unwrap();
    (1..=6).for_each(|seq| log.append(&windowed(seq)).unwrap());
    log.rewrite(&mut |v| Ok(if v.seq == VersionSeq(2) { Action::Drop } else { Action::Keep })).unwrap();
    assert_eq!(bytes(&disk), std::fs::read(golden("versions-2.bin")).unwrap());
    assert_eq!(version(1).id.to_string(), "741da976e7f7ccac");
}

/// Versions 1, 2, 3, then 4 and 5, parts of one window, then 6.
fn windowed(seq: u64) -> Version {
    let (place, part, parts) = match seq {
        4 | 5 => (4, u32::try_from(seq - 3).unwrap(), 2),
        6.. => (seq - 1, 1, 1),
        _ => (seq, 1, 1),
    };
    let Version { first, last, begin, end, .. } = version(place);
    Version { first, last, begin, end, covers: first, part, parts, ..chained(seq) }
}

#[test]
fn a_log_of_format_one_is_read_and_written_anew_before_anything_is_appended() {
    let all = |log: &VersionLog| log.iter().collect::<Result<Vec<_>>>().unwrap();
    let disk = SimDisk::new();
    format_one(&disk, 20, chained);
    let expected: Vec<Version> = (1..=20).map(chained).collect();
    assert_eq!(all(&open(&disk, Mode::ReadOnly { keep_up_to: Some(VersionSeq(20)) }).unwrap()), expected);
    assert_eq!(findings(&disk, 20), []);
    let before = disk.file_bytes(std::path::Path::new("/versions")).unwrap();
    let mut log = open(&disk, write(19)).unwrap();
    assert_eq!(all(&log), expected[..19]);
    let bytes = disk.file_bytes(std::path::Path::new("/versions")).unwrap();
    assert_eq!(bytes, before[..bytes.len()], "an opening only cuts");
    assert!(log.append(&chained(21)).is_err(), "a gap");
    log.append(&chained(20)).unwrap();
    log.append(&chained(21)).unwrap();
    log.sync().unwrap();
    let after = open(&disk.crash(1), Mode::ReadOnly { keep_up_to: Some(VersionSeq(21)) }).unwrap();
    assert_eq!(all(&after), (1..=21).map(chained).collect::<Vec<_>>());
    assert_eq!((after.format, findings(&disk, 21)), (Format::Two, vec![]));
}

#[test]
fn windows_are_whole_and_looked_up_by_record_as_one() {
    let disk = SimDisk::new();
    let mut log = open(&disk, write(0)).unwrap();
    (1..=4).for_each(|seq| log.append(&windowed(seq)).unwrap());
    for wrong in [
        Version { part: 1, parts: 1, ..windowed(5) },
        Version { part: 3, parts: 3, ..windowed(5) },
        Version { covers: Lsn(1), ..windowed(5) },
        Version { seq: VersionSeq(5), ..windowed(6) },
    ] {
        assert!(log.append(&wrong).is_err(), "{wrong:?}");
    }
    assert!(findings(&disk, 4)[0].what.contains("window should follow"), "{:?}", findings(&disk, 4));
    (5..=6).for_each(|seq| log.append(&windowed(seq)).unwrap());
    assert!(log.append(&Version { part: 2, parts: 2, ..windowed(7) }).is_err(), "the first part is missing");
    assert_eq!(findings(&disk, 6), []);
    assert_eq!(log.at_lsn(Lsn(39)).unwrap().unwrap().seq, VersionSeq(3));
    for lsn in 40..=49 {
        assert_eq!(log.at_lsn(Lsn(lsn)).unwrap().unwrap().seq, VersionSeq(5));
    }
    assert_eq!(log.get(VersionSeq(4)).unwrap().unwrap(), windowed(4));
    assert_eq!(log.back(1).unwrap().unwrap().seq, VersionSeq(5));
    assert_eq!(log.back(6).unwrap(), None);
}

#[test]
fn what_is_thinned_out_is_covered_by_the_next_one_that_stays() {
    let disk = SimDisk::new();
    let mut log = open(&disk, write(0)).unwrap();
    (1..=9).for_each(|seq| log.append(&windowed(seq)).unwrap());
    log.rewrite(&mut |v| Ok(if [1, 2, 5, 8, 9].contains(&v.seq.0) { Action::Drop } else { Action::Keep })).unwrap();
    // Of the window a part stays, so its last one does too; the newest one always does.
    let numbers = |log: &VersionLog| log.numbers().map(|s| s.0).collect::<Vec<_>>();
    assert_eq!(numbers(&log), [3, 4, 5, 6, 7, 9]);
    let get = |log: &VersionLog, seq| log.get(VersionSeq(seq)).unwrap().unwrap();
    let three = get(&log, 3);
    assert_eq!((three.covers, three.thinned, three.parent_root, three.id), (Lsn(1), 2, None, windowed(3).id));
    assert_eq!(three.paths.len(), 3, "{:?}", three.paths);
    assert_eq!(get(&log, 5), windowed(5));
    assert_eq!((get(&log, 9).covers, get(&log, 9).thinned, get(&log, 9).parent_root), (Lsn(71 - 10), 1, Some(version(7).root)));
    assert_eq!(findings(&disk, 9), []);
    // Again, and before a window; its parts cover the same.
    log.rewrite(&mut |v| {
        Ok(match v.seq.0 {
            3 | 7 => Action::Drop,
            5 => Action::Change(Version { root: BlobId([1; 32]), ..v.clone() }),
            _ => Action::Keep,
        })
    })
    .unwrap();
    assert_eq!(numbers(&log), [4, 5, 6, 9]);
    assert_eq!([get(&log, 4), get(&log, 5)].map(|v| (v.covers, v.thinned)), [(Lsn(1), 3), (Lsn(1), 0)]);
    assert_eq!((get(&log, 6).parent_root, get(&log, 5).id), (Some(BlobId([1; 32])), windowed(5).id));
    assert_eq!((get(&log, 9).covers, get(&log, 9).thinned), (Lsn(51), 2));
    assert_eq!(findings(&disk, 9), []);
    assert!(log.rewrite(&mut |v| Ok(Action::Change(Version { seq: v.seq.next(), ..v.clone() }))).is_err());
    log.append(&windowed(10)).unwrap();
    log.sync().unwrap();
    assert_eq!(numbers(&open(&disk.crash(3), write(10)).unwrap()), [4, 5, 6, 9, 10]);
    assert!(open(&disk, write(8)).is_err(), "version 8 is not there");
    assert_eq!(log.after(VersionSeq(6)).unwrap().unwrap().seq, VersionSeq(9));
    assert_eq!(log.at_lsn(Lsn(79)).unwrap().unwrap().seq, VersionSeq(6));
    assert_eq!((log.get(VersionSeq(7)).unwrap(), log.len(), log.newest()), (None, 5, VersionSeq(10)));
}

#[test]
fn a_crash_at_any_call_of_a_rewriting_leaves_the_old_log_or_the_new_one() {
    let before = |disk: &SimDisk| {
        let mut log = open(disk, write(0)).unwrap();
        (1..=300).for_each(|seq| {
            log.append(&chained(seq)).unwrap();
            log.counted();
        });
        log.sync().unwrap();
        log
    };
    let thin = |log: &mut VersionLog| log.rewrite(&mut |v| Ok(if v.seq.0.is_multiple_of(3) { Action::Drop } else { Action::Keep }));
    let reference = SimDisk::new();
    let mut log = before(&reference);
    let start = reference.calls();
    thin(&mut log).unwrap();
    let calls = reference.calls() - start;
    for call in 1..=calls {
        let disk = SimDisk::new();
        let mut log = before(&disk);
        disk.crash_at_call(call);
        let done = thin(&mut log).is_ok();
        for seed in 0..10 {
            let crashed = disk.crash(seed);
            let mut log = open(&crashed, write(300)).unwrap();
            let count = log.iter().collect::<Result<Vec<_>>>().unwrap().len();
            assert!(count == 201 || (count == 300 && !done), "call {call}, seed {seed}: {count}");
            assert_eq!(findings(&crashed, 300), []);
            for seq in log.numbers() {
                assert!(log.may_touch(seq, &numbered(seq.0).paths[0].path), "call {call}, seed {seed}");
            }
            log.append(&chained(301)).unwrap();
        }
    }
    // Whether the new one took the old one's place, nobody knows: nothing may be appended to either.
    let disk = SimDisk::new();
    let mut log = before(&disk);
    disk.script(|call| (call.kind == CallKind::Rename).then_some(Fault::EIO));
    assert!(thin(&mut log).is_err());
    assert!(log.append(&chained(301)).is_err());
}

fn numbered(seq: u64) -> Version {
    let path = |n: u64| format!("d{}/e/f{n}", n % 7).into_bytes();
    let paths = vec![PathChange {
        path: path(seq),
        what: if seq.is_multiple_of(3) { What::Moved { from: path(seq + 1000) } } else { What::Added },
    }];
    Version { paths, ..version(seq) }
}

#[test]
fn the_index_file_says_what_the_versions_say_and_is_thrown_away_at_any_doubt() {
    let disk = SimDisk::new();
    let mut log = open(&disk, write(0)).unwrap();
    let index = std::path::Path::new("/versions.index");
    for seq in 1..=600 {
        log.append(&numbered(seq)).unwrap();
        log.counted();
    }
    assert_eq!(log.indexed, 512);
    let all = log.index.clone();
    let reads = |disk: &SimDisk| {
        let before = disk.all_calls();
        let log = open(disk, Mode::ReadOnly { keep_up_to: Some(VersionSeq(600)) }).unwrap();
        assert_eq!(log.index, all);
        disk.all_calls() - before
    };
    let (with, without) = (disk.kill(), disk.kill());
    without.shared().remove(index).unwrap();
    let (few, many) = (reads(&with), reads(&without));
    assert!(few * 4 < many, "{few} calls with the index, {many} without");
    // What an index says that was cut, changed, or belongs to a longer or another log, is not believed.
    let bytes = disk.file_bytes(index).unwrap();
    for offset in (0..bytes.len() as u64).step_by(37) {
        let flipped = disk.kill();
        assert!(flipped.flip(index, offset, 4));
        assert!(reads(&flipped) >= many, "offset {offset}");
        let cut = disk.kill();
        assert!(cut.truncate(index, offset));
        assert!(reads(&cut) >= many, "cut at {offset}");
    }
    let shorter = open(&disk.kill(), write(300)).unwrap();
    assert_eq!((shorter.len(), &shorter.index[..]), (300, &all[..300]));
    let other = disk.kill();
    let mut log = open(&other, write(400)).unwrap();
    (401..=600).for_each(|seq| log.append(&version(seq)).unwrap());
    drop(log);
    let log = open(&other, Mode::ReadOnly { keep_up_to: Some(VersionSeq(600)) }).unwrap();
    assert_eq!(log.get(VersionSeq(500)).unwrap().unwrap(), version(500));
    // Damage of a version that the index passes over is found when the version is read.
    let damaged = disk.kill();
    assert!(damaged.flip(std::path::Path::new("/versions"), all[99].offset + 20, 1));
    let log = open(&damaged, Mode::ReadOnly { keep_up_to: Some(VersionSeq(600)) }).unwrap();
    assert_eq!(log.get(VersionSeq(100)).unwrap_err().class, Class::Damage);
    assert_eq!(log.get(VersionSeq(101)).unwrap().unwrap(), numbered(101));
}

#[test]
fn versions_that_touch_a_path_are_found_and_most_others_passed_over() {
    let disk = SimDisk::new();
    let mut log = open(&disk, write(0)).unwrap();
    (1..=2000).for_each(|seq| log.append(&numbered(seq)).unwrap());
    for path in [&b"d3"[..], b"d3/e", b"d3/e/f10", b"d5/e/f1006", b"nowhere", b""] {
        let below = |p: &[u8]| path.is_empty() || p == path || p.starts_with(&[path, b"/"].concat());
        let touches = |v: &Version| v.paths.iter().any(|c| below(&c.path) || matches!(&c.what, What::Moved { from } if below(from)));
        let (mut missed, mut vain) = (0, 0);
        for seq in 1..=2000 {
            match (touches(&numbered(seq)), log.may_touch(VersionSeq(seq), path)) {
                (true, false) => missed += 1,
                (false, true) => vain += 1,
                _ => {}
            }
        }
        assert_eq!(missed, 0, "{}", path.escape_ascii());
        assert!(vain < 200, "{}: {vain} versions would be read in vain", path.escape_ascii());
    }
}

#[test]
fn a_crash_at_any_call_keeps_every_version_that_was_synced() {
    for call in 1..40 {
        let disk = SimDisk::new();
        disk.crash_at_call(call);
        let mut synced = 0;
        if let Ok(mut log) = open(&disk, write(0)) {
            for seq in 1..=6 {
                if log.append(&version(seq)).and_then(|()| log.sync()).is_err() {
                    break;
                }
                synced = seq;
            }
        }
        for seed in 0..10 {
            let mut log = open(&disk.crash(seed), write(synced)).unwrap();
            assert_eq!(log.len(), synced);
            log.append(&version(synced + 1)).unwrap();
        }
    }
}

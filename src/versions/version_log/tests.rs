//! The version log on the simulated disk.

use super::*;
use crate::storage::sim::SimDisk;

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
    }
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
    let id = version(5).id(STORE).to_string();
    assert_eq!(log.by_id_prefix(&id[..8]).unwrap().unwrap().seq, VersionSeq(5));
    assert_eq!(log.by_id_prefix("xyz").unwrap(), None);
    let clash = (1..=20)
        .map(|s| version(s).id(STORE).to_string())
        .find(|a| (1..=20).filter(|s| version(*s).id(STORE).to_string()[..1] == a[..1]).count() > 1);
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

/// Another hash is another format, which needs another version number and a reader for this one.
#[test]
fn the_bytes_are_frozen() {
    let disk = SimDisk::new();
    let mut log = open(&disk, write(0)).unwrap();
    (1..=3).for_each(|seq| log.append(&version(seq)).unwrap());
    let file = disk.shared().open_read(std::path::Path::new("/versions")).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(BlobId::of(&bytes).to_string(), "3914002a5e0487a6fbf4463bf3d746209a42601b680e1f3e3504f7bd4ef049ee");
    assert_eq!(version(1).id(STORE).to_string(), "741da976e7f7ccac");
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

//! The pack of the golden store: read to exactly what was written, and every single flipped bit and every truncation of it found, with the
//! verdict that wal-format.md gives. Where a flip or cut leaves a blob whole, it is given out as it was; where not, not at all.
//!
//! What is checked how: every bit of headers, heads, tables and padding, and one bit of every eighth stored byte, by reading the whole pack
//! ([`Blobs::verify_packs`]); every bit of every stored byte by checking the blob that it belongs to ([`Blobs::verify`]). Every length of
//! the pack by asking a store that was open before the cut for the last blob; every one in the frame and every third of the others by opening
//! it afresh; some of them with a verify of the log.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "golden/build.rs"]
#[allow(dead_code)]
mod build;

use std::path::{Path, PathBuf};

use build::STORE;
use ize::blobs::pack::PackHeader;
use ize::blobs::{BlobState, Blobs, Fault, OpenMode};
use ize::ids::{BlobId, Lsn, PackId, SegmentId};
use ize::op::{Decoded, decode};
use ize::storage::Storage;
use ize::storage::sim::SimDisk;
use ize::wal::Bounds;
use ize::wal::scan::Verdict;
use ize::wal::verify::{VerifyReport, verify};

fn golden(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/store-v1").join(name)).unwrap()
}

fn golden_pack() -> Vec<u8> {
    golden("blobs/0000000000000001.pack")
}

fn pack_path() -> PathBuf {
    PathBuf::from("/store/blobs/0000000000000001.pack")
}

fn put(disk: &SimDisk, path: &str, bytes: &[u8]) {
    disk.create_dir_all(Path::new(path).parent().unwrap()).unwrap();
    let file = disk.create_new(Path::new(path)).unwrap();
    file.write_at(&[bytes], 0).unwrap();
    file.sync_data().unwrap();
}

/// The golden store.
fn disk() -> SimDisk {
    let disk = SimDisk::new();
    for id in 1..=3 {
        let name = format!("wal/{id:016x}.seg");
        put(&disk, &format!("/store/{name}"), &golden(&name));
    }
    put(&disk, pack_path().to_str().unwrap(), &golden_pack());
    disk
}

/// The golden store with a successor of its pack: then all of the pack is proven durable.
fn disk_with_successor() -> SimDisk {
    let disk = disk();
    let previous_len = golden_pack().len() as u64;
    let header = PackHeader { store: STORE, pack: PackId(2), previous: PackId(1), previous_len, generation: 0 };
    put(&disk, "/store/blobs/0000000000000002.pack", &header.encode());
    disk
}

fn open(disk: &SimDisk) -> (Blobs, ize::blobs::BlobsReport) {
    Blobs::open(disk.shared(), "/store/blobs".into(), STORE, OpenMode::ReadOnly).unwrap()
}

/// An entry by the document's table, found without the crate's walk.
#[derive(Clone, Copy, Debug)]
struct Place {
    start: usize,
    data: usize,
    stored: usize,
    end: usize,
}

fn number(bytes: &[u8], at: usize, size: usize) -> usize {
    (0..size).rev().fold(0, |n, i| n << 8 | usize::from(bytes[at + i]))
}

fn places(bytes: &[u8]) -> Vec<Place> {
    let mut at = 64;
    let mut places = Vec::new();
    while at < bytes.len() {
        assert_eq!(bytes[at..at + 4], [0xb1, 0x5a, 0x45, 0x65]);
        let stored = number(bytes, at + 24, 8);
        let data = at + 64 + 4 * stored.div_ceil(65_536);
        let end = (data + stored).div_ceil(8) * 8;
        places.push(Place { start: at, data, stored, end });
        at = end;
    }
    places
}

/// Where verify says the fault is, by the document's rule: the entry, or the 64 KiB block of it.
fn fault_offset(places: &[Place], at: usize) -> usize {
    let Some(p) = places.iter().find(|p| p.start <= at && at < p.end) else { return 0 };
    // A flip in the table is a flip in the head.
    if at < p.data { p.start } else { p.data + ((at - p.data) / 65_536).min(p.stored.div_ceil(65_536) - 1) * 65_536 }
}

#[test]
fn todays_code_reads_the_golden_pack_to_what_was_written() {
    let disk = disk();
    let (blobs, report) = open(&disk);
    assert!(report.findings.is_empty());
    let wanted = build::blobs();
    assert_eq!(blobs.usage().blobs, wanted.len() as u64);
    let bytes = golden_pack();
    for (w, p) in wanted.iter().zip(places(&bytes)) {
        let id = BlobId::of(&w.raw);
        assert_eq!(bytes[p.start + 32..p.start + 64], id.0);
        assert_eq!((bytes[p.start + 8] == 1, number(&bytes, p.start + 16, 8)), (w.zstd, w.raw.len()));
        assert_eq!(blobs.get(&id).unwrap(), w.raw);
        assert_eq!(blobs.verify(&id), BlobState::Sound);
    }
    let seen = blobs.verify_packs(&mut |_| {}).unwrap();
    assert_eq!((seen.packs, seen.blobs, seen.bytes, seen.findings.len()), (1, 4, bytes.len() as u64, 0));
    let named: Vec<_> = log_check(&disk, &blobs).0;
    assert_eq!(named, [BlobId::of(&build::noise()), BlobId::of(&build::text())]);
}

/// `ize wal verify`, in short: the blobs that records name, in order, and the report.
fn log_check(disk: &SimDisk, blobs: &Blobs) -> (Vec<BlobId>, VerifyReport) {
    let mut named = Vec::new();
    let bounds = Bounds { checkpoint: Lsn::ZERO, floor: SegmentId(1) };
    let report = verify(disk, Path::new("/store/wal"), STORE, bounds, &mut |record| {
        let Ok(Decoded::Operation { entry, .. }) = decode(record.kind, record.version, record.body) else { return Ok(None) };
        let Some((id, _)) = entry.op.blob() else { return Ok(None) };
        named.push(id);
        Ok((blobs.verify(&id) != BlobState::Sound).then(|| "not sound".to_owned()))
    });
    (named, report.unwrap())
}

fn in_threads(n: usize, threads: usize, work: impl Fn(std::ops::Range<usize>) + Sync) {
    std::thread::scope(|scope| {
        for t in 0..threads {
            let work = &work;
            scope.spawn(move || work(n * t / threads..n * (t + 1) / threads));
        }
    });
}

/// Every blob is as it was, or is not given out; `whole` says which must be.
fn nothing_wrong_is_given_out(blobs: &Blobs, whole: impl Fn(usize) -> bool, story: &str) {
    for (i, w) in build::blobs().iter().enumerate() {
        let got = blobs.get(&BlobId::of(&w.raw));
        assert!(got.as_ref().map_or(true, |bytes| *bytes == w.raw), "{story}: blob {i} is given out and differs");
        assert!(got.is_ok() || !whole(i), "{story}: blob {i} is whole, but {:?}", got.unwrap_err());
    }
}

#[test]
fn every_flipped_bit_of_a_closed_pack_is_damage_at_its_place() {
    let bytes = golden_pack();
    let places = places(&bytes);
    let payload = |at: usize| places.iter().any(|p| p.data <= at && at < p.data + p.stored);
    in_threads(bytes.len(), 2, |part| {
        let disk = disk_with_successor();
        for at in part {
            let bits = if payload(at) { at / 8 % 8..at / 8 % 8 + usize::from(at % 8 == 3) } else { 0..8 };
            for bit in bits {
                assert!(disk.flip(&pack_path(), at as u64, 1 << bit));
                let (blobs, _) = open(&disk);
                let seen = blobs.verify_packs(&mut |_| {}).unwrap();
                let found: Vec<_> = seen.findings.iter().map(|f| (f.file.clone(), f.offset, f.is_torn_tail())).collect();
                assert_eq!(found, [(pack_path(), fault_offset(&places, at) as u64, false)], "byte {at:#x}, bit {bit}: {seen:?}");
                if at % 512 == 3 || !payload(at) {
                    let whole = |i: usize| !(places[i].start <= at && at < places[i].end);
                    nothing_wrong_is_given_out(&blobs, whole, &format!("byte {at:#x}, bit {bit}"));
                }
                assert!(disk.flip(&pack_path(), at as u64, 1 << bit));
            }
        }
    });
}

#[test]
fn every_flipped_bit_of_stored_bytes_is_damage_of_their_blob() {
    let bytes = golden_pack();
    for (p, w) in places(&bytes).iter().zip(build::blobs()) {
        let id = BlobId::of(&w.raw);
        in_threads(p.stored, 2, |part| {
            let disk = disk();
            let (blobs, _) = open(&disk);
            for at in part.start + p.data..part.end + p.data {
                for bit in 0..8 {
                    assert!(disk.flip(&pack_path(), at as u64, 1 << bit));
                    match blobs.verify(&id) {
                        BlobState::Damaged(f) => {
                            assert_eq!((f.fault, f.offset), (Fault::Block, fault_offset(std::slice::from_ref(p), at) as u64));
                        }
                        other => panic!("byte {at:#x}, bit {bit}: {other:?}"),
                    }
                    assert!(disk.flip(&pack_path(), at as u64, 1 << bit));
                }
                if at % 64 == 0 {
                    assert!(disk.flip(&pack_path(), at as u64, 1));
                    // In part: the block that is hurt is refused, every other is given out as it was.
                    let mut buf = vec![0; w.raw.len()];
                    for start in (0..w.raw.len()).step_by(65_536).filter(|_| !w.zstd) {
                        let n = (w.raw.len() - start).min(65_536);
                        let hurt = (at - p.data) / 65_536 == start / 65_536;
                        match blobs.read_at(&id, start as u64, &mut buf[..n]) {
                            Ok(got) => assert!(!hurt && buf[..got] == w.raw[start..start + n], "byte {at:#x}, block at {start}"),
                            Err(e) => assert!(hurt, "byte {at:#x}, block at {start}: {e}"),
                        }
                    }
                    assert!(disk.flip(&pack_path(), at as u64, 1));
                }
            }
            assert_eq!(blobs.verify(&id), BlobState::Sound);
        });
    }
}

/// Nothing proves the last pack durable: what is wrong in it is torn, but for its header, which is of one piece. What the log proves durable
/// and names a hurt blob is damage all the same.
#[test]
fn in_the_last_pack_a_flipped_bit_is_torn_and_damage_where_a_durable_record_names_the_blob() {
    let bytes = golden_pack();
    let places = places(&bytes);
    let payload = |at: usize| places.iter().any(|p| p.data <= at && at < p.data + p.stored);
    // Every byte of the frame, and some of what it holds. Many threads, because a look at the last pack waits for a writer.
    let tried: Vec<usize> = (0..bytes.len()).filter(|at| !payload(*at) || at % 61 == 0).collect();
    in_threads(tried.len(), 48, |part| {
        let disk = disk();
        for at in &tried[part] {
            let (bit, at) = (at % 8, *at);
            assert!(disk.flip(&pack_path(), at as u64, 1 << bit));
            let (blobs, _) = open(&disk);
            let seen = blobs.verify_packs(&mut |_| {}).unwrap();
            let found: Vec<_> = seen.findings.iter().map(|f| (f.offset, f.is_torn_tail())).collect();
            assert_eq!(found, [(fault_offset(&places, at) as u64, at >= 64)], "byte {at:#x}, bit {bit}: {seen:?}");
            let (_, report) = log_check(&disk, &blobs);
            let verdicts: Vec<_> = report.findings.iter().map(|f| (f.lsn.0, f.verdict)).collect();
            let expected: Vec<_> = [(3, 24), (2, 29 + build::JUMP + 4)]
                .iter()
                .filter(|(i, _): &&(usize, u64)| places[*i].start <= at && at < places[*i].end)
                .map(|(_, lsn)| (*lsn, Verdict::Damage))
                .collect();
            assert_eq!(verdicts, expected, "byte {at:#x}, bit {bit}");
            assert!(disk.flip(&pack_path(), at as u64, 1 << bit));
        }
    });
}

/// A pack cut at the end of an entry looks whole; but the log names what is gone.
#[test]
fn every_truncation_of_the_pack_is_found_by_what_names_its_blobs() {
    let bytes = golden_pack();
    let places = places(&bytes);
    in_threads(bytes.len(), 2, |part| {
        let disk = disk();
        let file = disk.open(&pack_path()).unwrap();
        let last = BlobId::of(&build::noise());
        let (before, _) = open(&disk);
        for length in part.rev() {
            file.set_len(length as u64).unwrap();
            file.sync_data().unwrap();
            // The log names the last blob of the pack.
            assert_ne!(before.verify(&last), BlobState::Sound, "cut to {length:#x}");
            if length >= places[3].data && length % 3 > 0 {
                continue;
            }
            let (blobs, report) = open(&disk);
            let looks_whole = places.iter().any(|p| p.start == length) || length == 0;
            // A pack being born beside a reader has no header yet: to the reader that is no finding.
            assert!(report.findings.is_empty() == (looks_whole || length < 64), "cut to {length:#x}: {:?}", report.findings);
            assert!(report.findings.iter().all(ize::blobs::Finding::is_torn_tail));
            assert_eq!(blobs.verify(&last), BlobState::Missing, "cut to {length:#x}");
            if length % 32 == 0 || length < places[3].data {
                let (_, log) = log_check(&disk, &blobs);
                let damaged = log.findings.iter().filter(|f| f.verdict == Verdict::Damage).count();
                let gone = places[2..].iter().filter(|p| p.end > length).count();
                assert_eq!((damaged, log.findings.len()), (gone, gone), "cut to {length:#x}: {:?}", log.findings);
                assert!(gone > 0);
            }
            if length % 256 == 0 || looks_whole {
                nothing_wrong_is_given_out(&blobs, |i| places[i].end <= length, &format!("cut to {length:#x}"));
            }
        }
    });
}

//! The golden store of version 1 (tests/golden/store-v1): read to exactly what was written, and every single flipped bit and every
//! truncation of every file of its log found, with the verdict that wal-format.md gives. The verdicts come from an oracle of this file's
//! own: it knows the document's offsets and its rule, and nothing of the crate's reader.
//!
//! Each flip and cut is one verify of the whole log; but of the half a million bits of the active segment's zeros one in eight is, and the
//! others are one verify of that segment with the floor set to it.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "golden/build.rs"]
#[allow(dead_code)]
mod build;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use build::{STORE, Wanted};
use ize::ids::{Lsn, SegmentId};
use ize::op::{Decoded, decode};
use ize::storage::Storage;
use ize::storage::sim::SimDisk;
use ize::wal::scan::Verdict;
use ize::wal::verify::{VerifyReport, verify};
use ize::wal::{Bounds, Record};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/store-v1").join(name)
}

fn segment_name(id: u64) -> String {
    format!("{id:016x}.seg")
}

fn sim_dir() -> PathBuf {
    PathBuf::from("/store/wal")
}

/// Writes the golden store. Only for a new version of the format: what is there is the contract.
#[test]
#[ignore = "writes the golden files"]
fn generate() {
    for (id, bytes) in build::log().0 {
        std::fs::write(golden("wal").join(segment_name(id)), bytes).unwrap();
    }
    std::fs::write(golden("blobs/0000000000000001.pack"), build::pack()).unwrap();
}

/// The golden files of the log.
fn files() -> Vec<(u64, Vec<u8>)> {
    (1..=3).map(|id| (id, std::fs::read(golden("wal").join(segment_name(id))).unwrap())).collect()
}

fn disk_with(files: &[(u64, Vec<u8>)]) -> SimDisk {
    let disk = SimDisk::new();
    disk.create_dir_all(&sim_dir()).unwrap();
    for (id, bytes) in files {
        let file = disk.create_new(&sim_dir().join(segment_name(*id))).unwrap();
        file.write_at(&[bytes], 0).unwrap();
        file.sync_data().unwrap();
    }
    disk
}

/// What verify says, and the LSNs of the records that it gave out. Panics when one of them differs from what was written.
fn check(disk: &SimDisk, bounds: Bounds, wanted: &BTreeMap<u64, Wanted>, story: &dyn Fn() -> String) -> (VerifyReport, Vec<u64>) {
    let mut given = Vec::new();
    let report = verify(disk, &sim_dir(), STORE, bounds, &mut |record: &Record<'_>| {
        let Some(w) = wanted.get(&record.lsn.0) else { panic!("{}: LSN {} was never written", story(), record.lsn) };
        let same = (w.durable, w.kind, w.version, w.payload, &*w.body)
            == (record.durable_lsn.0, record.kind, record.version, record.payload, record.body);
        assert!(same, "{}: LSN {} is given out and differs", story(), record.lsn);
        given.push(record.lsn.0);
        Ok(None)
    });
    (report.unwrap(), given)
}

fn bounds(checkpoint: u64, floor: u64) -> Bounds {
    Bounds { checkpoint: Lsn(checkpoint), floor: SegmentId(floor) }
}

fn all_wanted() -> BTreeMap<u64, Wanted> {
    build::log().1.into_iter().map(|w| (w.lsn, w)).collect()
}

#[test]
fn todays_code_writes_the_golden_segments() {
    for ((id, golden), (_, now)) in files().iter().zip(build::log().0) {
        assert!(*golden == now, "segment {id}");
    }
}

#[test]
fn todays_code_reads_the_golden_log_to_what_was_written() {
    let wanted = all_wanted();
    let (report, given) = check(&disk_with(&files()), bounds(0, 1), &wanted, &|| "golden".into());
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    assert_eq!(given, wanted.keys().copied().collect::<Vec<_>>());
    let mut kinds = std::collections::BTreeSet::new();
    for w in wanted.values() {
        kinds.insert(w.kind);
        let decoded = decode(w.kind, w.version, &w.body).unwrap_or_else(|e| panic!("LSN {}: {e}", w.lsn));
        assert_eq!(decoded == Decoded::Skipped, w.kind == 0x8001);
    }
    assert_eq!(kinds.len(), 19 + 3, "every operation, a process, a mark, one of a later version");
}

/// What a byte of a segment belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Header,
    Record {
        lsn: u64,
        durable: u64,
    },
    Footer,
    /// Zeros behind the last record of the active segment.
    Tail,
}

#[derive(Clone, Copy, Debug)]
struct Region {
    start: usize,
    end: usize,
    what: What,
}

fn number(bytes: &[u8], at: usize, size: usize) -> u64 {
    (0..size).rev().fold(0, |n, i| n << 8 | u64::from(bytes[at + i]))
}

/// The regions of a sound segment, by the document's tables.
fn regions(bytes: &[u8]) -> Vec<Region> {
    let mut regions = vec![Region { start: 0, end: 256, what: What::Header }];
    let mut at = 256;
    while at < bytes.len() {
        let (end, what) = if bytes[at..].starts_with(b"IZEEND\0\x01") {
            (at + 128, What::Footer)
        } else if number(bytes, at + 16, 8) == 0 {
            (bytes.len(), What::Tail)
        } else {
            let body = number(bytes, at + 4, 4) as usize;
            let (lsn, durable) = (number(bytes, at + 16, 8), number(bytes, at + 24, 8));
            (at + 32 + body.div_ceil(8) * 8, What::Record { lsn, durable })
        };
        regions.push(Region { start: at, end, what });
        at = end;
    }
    regions
}

/// A segment as the oracle sees it.
struct Known {
    id: u64,
    length: usize,
    regions: Vec<Region>,
    /// The LSN behind the last one of the segment before.
    follows: u64,
    /// Durable LSN of the header.
    durable: u64,
    /// LSN that the next record would have.
    next: u64,
    sealed: bool,
}

fn known() -> Vec<Known> {
    let mut follows = 1;
    let mut all = Vec::new();
    for (id, bytes) in files() {
        let regions = regions(&bytes);
        let first = number(&bytes, 64, 8);
        let next = first + regions.iter().filter(|r| matches!(r.what, What::Record { .. })).count() as u64;
        let sealed = regions.last().unwrap().what == What::Footer;
        all.push(Known { id, length: bytes.len(), durable: number(&bytes, 72, 8), regions, follows, next, sealed });
        follows = next;
    }
    all
}

/// The one finding that the rule gives: segment, offset, LSN, verdict; and which LSNs are still given out.
struct Expected {
    segment: u64,
    offset: u64,
    lsn: u64,
    verdict: Verdict,
    given: Vec<u64>,
}

/// Which bytes were changed.
enum Harm {
    Flip(usize),
    Cut(usize),
}

/// The rule of wal-format.md, "The end of the log", for one hurt segment of an otherwise sound log.
fn oracle(segments: &[Known], hurt: &Known, harm: &Harm, checkpoint: u64) -> Expected {
    let intact = |r: &Region| match *harm {
        Harm::Flip(at) => at < r.start || at >= r.end,
        Harm::Cut(length) => r.end <= length,
    };
    // A cut through the zeros leaves every record, and a file that is too short: the tail is what is hurt.
    let region = hurt.regions.iter().find(|r| !intact(r)).unwrap();
    // What the segment itself still proves durable.
    let mut bound = checkpoint;
    if region.what != What::Header {
        bound = bound.max(hurt.durable);
    }
    for r in hurt.regions.iter().filter(|r| intact(r)) {
        if let What::Record { durable, .. } = r.what {
            bound = bound.max(durable);
        }
    }
    if hurt.sealed {
        bound = u64::MAX;
    }
    let (lsn, verdict) = match region.what {
        // It was synced before the file had its name.
        What::Header => (hurt.follows, Verdict::Damage),
        What::Record { lsn, .. } => (lsn, if lsn <= bound { Verdict::Damage } else { Verdict::TornTail }),
        // Every record is there: what is lost is the proof of the last.
        What::Footer => (hurt.next - 1, Verdict::Damage),
        What::Tail => (hurt.next, Verdict::TornTail),
    };
    let given = segments.iter().flat_map(|s| s.regions.iter().map(move |r| (s.id, r))).filter_map(|(id, r)| match r.what {
        What::Record { lsn: this, .. } => {
            let lost = id == hurt.id && (!intact(r) || (verdict == Verdict::TornTail && this >= lsn));
            (!lost).then_some(this)
        }
        What::Header | What::Footer | What::Tail => None,
    });
    // Cut inside its header, nothing of the file is read.
    let given = given.collect();
    Expected { segment: hurt.id, offset: region.start as u64, lsn, verdict, given }
}

fn judge(report: &VerifyReport, given: &[u64], expected: &Expected, story: &dyn Fn() -> String) {
    let seen: Vec<_> = report.findings.iter().map(|f| (f.segment.0, f.offset, f.lsn.0, f.verdict)).collect();
    let first = (expected.segment, expected.offset, expected.lsn, expected.verdict);
    assert!(seen.first() == Some(&first), "{}: the rule gives {first:?}, verify {:?}", story(), report.findings);
    // A file without its header may be said to lack its records as well, nothing else.
    let more = if expected.offset == 0 { usize::MAX } else { 1 };
    assert!(seen.len() <= more && seen.iter().all(|f| f.0 == expected.segment), "{}: {:?}", story(), report.findings);
    assert!(given == expected.given, "{}: given out {given:?}, the rule gives {:?}", story(), expected.given);
}

/// Both cores: `work` gets a part of `0..n`.
fn in_parts(n: usize, work: impl Fn(std::ops::Range<usize>) + Sync) {
    std::thread::scope(|scope| {
        for half in [0..n / 2, n / 2..n] {
            let work = &work;
            scope.spawn(move || work(half));
        }
    });
}

/// Flips `bits(at)` of every byte in the range, one at a time. `floor` above 1: the segments below are not there.
fn flip_all(segment: usize, bytes: std::ops::Range<usize>, checkpoint: u64, floor: u64, bits: impl Fn(usize) -> Vec<usize> + Sync) {
    let (segments, wanted, bounds) = (known(), all_wanted(), bounds(checkpoint, floor));
    let (hurt, kept) = (&segments[segment - 1], &segments[floor as usize - 1..]);
    let path = sim_dir().join(segment_name(hurt.id));
    in_parts(bytes.len(), |part| {
        let disk = disk_with(&files()[floor as usize - 1..]);
        for at in part.start + bytes.start..part.end + bytes.start {
            let expected = oracle(kept, hurt, &Harm::Flip(at), checkpoint);
            for bit in bits(at) {
                let story = || format!("segment {segment}, byte {at:#x}, bit {bit}, {bounds:?}");
                assert!(disk.flip(&path, at as u64, 1 << bit));
                let (report, given) = check(&disk, bounds, &wanted, &story);
                judge(&report, &given, &expected, &story);
                assert!(disk.flip(&path, at as u64, 1 << bit));
            }
        }
        let (report, _) = check(&disk, bounds, &wanted, &|| "flipped back".into());
        assert!(report.findings.is_empty(), "{:?}", report.findings);
    });
}

fn every_bit(_: usize) -> Vec<usize> {
    (0..8).collect()
}

fn cut_all(segment: usize, checkpoint: u64) {
    let (segments, wanted, bounds) = (known(), all_wanted(), bounds(checkpoint, 1));
    let hurt = &segments[segment - 1];
    let path = sim_dir().join(segment_name(hurt.id));
    in_parts(hurt.length, |part| {
        let disk = disk_with(&files());
        let file = disk.open(&path).unwrap();
        for length in part.rev() {
            let story = || format!("segment {segment} cut to {length:#x} bytes, {bounds:?}");
            file.set_len(length as u64).unwrap();
            file.sync_data().unwrap();
            let expected = oracle(&segments, hurt, &Harm::Cut(length), checkpoint);
            let (report, given) = check(&disk, bounds, &wanted, &story);
            judge(&report, &given, &expected, &story);
        }
    });
}

fn length(segment: usize) -> usize {
    known()[segment - 1].length
}

/// Where the zeros of the active segment begin.
fn tail() -> usize {
    known()[2].regions.last().unwrap().start
}

#[test]
fn every_flipped_bit_of_a_sealed_segment_is_damage() {
    flip_all(1, 0..length(1), 0, 1, every_bit);
    flip_all(2, 0..length(2), 0, 1, every_bit);
}

#[test]
fn every_flipped_bit_of_the_active_segment_is_torn_or_damage_as_the_bound_says() {
    flip_all(3, 0..tail(), 0, 1, every_bit);
    let verdicts: Vec<_> = {
        let segments = known();
        let of = |at| oracle(&segments, &segments[2], &Harm::Flip(at), 0).verdict;
        (256..tail()).map(of).collect()
    };
    assert!(verdicts.contains(&Verdict::Damage) && verdicts.contains(&Verdict::TornTail), "both are in it");
}

#[test]
fn every_flipped_bit_of_the_zeros_is_a_torn_tail() {
    flip_all(3, tail()..length(3), 0, 1, |at| vec![at / 8 % 8]);
    flip_all(3, tail()..length(3), 0, 3, |at| (0..8).filter(|bit| *bit != at / 8 % 8).collect());
}

#[test]
fn under_a_checkpoint_every_flipped_bit_of_a_record_is_damage() {
    let last = *all_wanted().keys().next_back().unwrap();
    flip_all(3, 0..tail(), last, 1, every_bit);
}

#[test]
fn every_truncation_of_every_segment_is_found() {
    for segment in 1..=3 {
        cut_all(segment, 0);
    }
}

/// Segment 2 once more, valid in itself, with another byte in one of its records: only the chain can tell.
#[test]
fn a_segment_exchanged_for_another_valid_one_is_found_by_the_chain() {
    use ize::wal::format::{Framing, RecordHead};
    use ize::wal::reader::{Next, SegmentReader};
    let mut files = files();
    let old = files[1].1.clone();
    let framing = Framing::new(STORE, SegmentId(2));
    let mut new = old[..256].to_vec();
    let mut digest = blake3::Hasher::new();
    digest.update(&new);
    let mut reader = SegmentReader::new(&old, STORE, SegmentId(2), Some(Lsn(13)), Lsn(u64::MAX));
    let mut changed = 0;
    while let Some(next) = reader.step() {
        match next {
            Next::Record(r) => {
                let mut body = r.body.to_vec();
                if r.kind == 0x001c {
                    *body.last_mut().unwrap() ^= 1;
                    changed += 1;
                }
                let (kind, version, payload, lsn, durable_lsn) = (r.kind, r.version, r.payload, r.lsn, r.durable_lsn);
                let head = RecordHead { crc: 0, body_len: 0, kind, version, payload, lsn, durable_lsn };
                let at = new.len() as u64;
                digest.update(&framing.push(&mut new, at, &head, &[&body]).to_le_bytes());
            }
            Next::Sealed(mut footer, _) => {
                footer.digest = *digest.finalize().as_bytes();
                let at = new.len() as u64;
                new.extend_from_slice(&framing.footer(&footer, at));
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((changed, new.len()), (1, old.len()));
    files[1].1 = new;
    let report = verify(&disk_with(&files), &sim_dir(), STORE, bounds(0, 1), &mut |_| Ok(None)).unwrap();
    let seen: Vec<_> = report.findings.iter().map(|f| (f.segment.0, f.offset, f.verdict)).collect();
    assert_eq!(seen, [(3, 80, Verdict::Damage)]);
}

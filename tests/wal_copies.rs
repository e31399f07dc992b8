//! Payloads that are copies of the live segment itself, at every alignment, at other offsets and at the same ones: whatever a crash makes of
//! the log around them, they are never read as records.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod log_kit;

use std::collections::BTreeMap;
use std::path::PathBuf;

use ize::ids::{Lsn, SegmentId, StoreId};
use ize::storage::Storage;
use ize::storage::sim::{Seeded, SimDisk};
use ize::wal::format::{FOOTER_LEN, HEADER_LEN, Header, RECORD_HEADER_LEN, framed_len, segment_path};
use ize::wal::reader::{Next, SegmentReader};
use ize::wal::scan::Verdict;
use ize::wal::verify::verify;
use ize::wal::{Bounds, Log, Options, Record, RecoveryInput, RecoveryReport};

const STORE: StoreId = StoreId(*b"0123456789abcdef");
const SIZE: u64 = 64 << 10;

fn dir() -> PathBuf {
    PathBuf::from("/store/wal")
}

fn open(disk: &SimDisk, same_boot: bool) -> (Log, RecoveryReport) {
    let mut verify = |_: &Record<'_>| Ok(true);
    let input = RecoveryInput { same_boot, ..RecoveryInput::new(&mut verify) };
    let options = Options { segment_size: SIZE, background: false, ..Options::default() };
    Log::recover(disk.shared(), &dir(), STORE, input, options).unwrap()
}

fn append(log: &Log, body: &[u8]) -> Lsn {
    log.append_with(framed_len(body.len()), &mut |_, batch| _ = batch.push(7, 1, &[body], 0)).unwrap()[0].lsn
}

fn file(disk: &SimDisk, id: SegmentId) -> Vec<u8> {
    let file = disk.open_read(&segment_path(&dir(), id)).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

/// A copy of the active segment from byte `from` on, which the log is about to put at `at` of the same segment. Where the two are congruent,
/// each record in the copy stands at a multiple of 8, as real ones do.
fn copy_of(bytes: &[u8], from: usize, len: usize) -> Vec<u8> {
    bytes[from..].iter().copied().chain(std::iter::repeat(0)).take(len).collect()
}

fn contents(disk: &SimDisk) -> BTreeMap<u64, Vec<u8>> {
    log_kit::bodies(disk, &dir(), STORE)
}

/// Real appends, syncs and seals, most of whose bodies are the log's own bytes; then a power cut, recovery, and on.
#[test]
fn payloads_that_copy_live_segments_are_never_read_as_records() {
    let mut copies = 0;
    for seed in 0..60 {
        let mut rng = Seeded::new(seed);
        let mut disk = SimDisk::new();
        let (mut log, _) = open(&disk, true);
        let mut written: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        let mut durable = 0;
        for life in 0..4 {
            for _ in 0..1 + rng.below(14) {
                let body = match log.active() {
                    Some(id) if rng.below(4) > 0 => {
                        let bytes = file(&disk, id);
                        let whole = [0, HEADER_LEN, HEADER_LEN + RECORD_HEADER_LEN][rng.below(3) as usize];
                        copies += 1;
                        // At any alignment, or with its records at multiples of 8.
                        copy_of(&bytes, whole + if rng.below(2) == 0 { 0 } else { rng.below(40) as usize }, 1 + rng.below(20_000) as usize)
                    }
                    _ => (0..rng.below(300)).map(|_| rng.draw() as u8).collect(),
                };
                let lsn = append(&log, &body);
                written.insert(lsn.0, body);
                match rng.below(6) {
                    0 => durable = log.sync().unwrap().0,
                    1 => {
                        log.seal().unwrap();
                        durable = lsn.0;
                    }
                    _ => {}
                }
            }
            let story = format!("seed {seed}, life {life}");
            let killed = rng.below(3) == 0;
            disk = if killed { disk.kill() } else { disk.crash(rng.draw()) };
            let (recovered, report) = open(&disk, killed);
            log = recovered;
            let last = report.last_lsn.0;
            assert!(last >= durable, "{story}: {last} recovered, {durable} was durable");
            written.retain(|lsn, _| *lsn <= last);
            assert!(contents(&disk) == written, "{story}: what comes back is not what was written");
            durable = last;
        }
    }
    assert!(copies > 500, "{copies}");
}

/// The header of a record is lost, and its body is a copy of the whole segment so far, placed so that the copied records stand at multiples
/// of 8, once at the very distance at which they would be expected: none of them is taken for the next record, or for a proof.
#[test]
fn a_cut_through_payloads_that_copy_the_segment_loses_only_its_own_record() {
    for shift in 0..=16 {
        let disk = SimDisk::new();
        let (log, _) = open(&disk, true);
        for n in 0..20u8 {
            append(&log, &[n; 100]);
        }
        let first = log.sync().unwrap();
        // Some of the copied records and marks name a durable LSN and an LSN above that of the record that holds them.
        let bytes = file(&disk, SegmentId(1));
        let used = bytes.iter().rposition(|b| *b != 0).unwrap() + 1;
        let mut body = vec![0xaa; shift];
        body.extend_from_slice(&bytes[..used]);
        let holder = append(&log, &body);
        let after = append(&log, b"after");
        let start = used.next_multiple_of(8);
        let hurt = disk.kill();
        let path = segment_path(&dir(), SegmentId(1));
        assert!(hurt.flip(&path, start as u64 + 4, 0x80));
        let report = verify(&hurt, &dir(), STORE, Bounds { checkpoint: Lsn::ZERO, floor: SegmentId(1) }, &mut |r| {
            assert!(r.lsn < holder, "shift {shift}: {} is behind a torn place", r.lsn);
            Ok(None)
        });
        let findings = report.unwrap().findings;
        assert_eq!(findings.len(), 1);
        assert_eq!((findings[0].lsn, findings[0].offset, findings[0].verdict), (holder, start as u64, Verdict::TornTail), "shift {shift}");
        // Proven durable, it is damage, and the real record behind it is found: not one of the copies before that.
        log.sync().unwrap();
        let hurt = disk.kill();
        assert!(hurt.flip(&path, start as u64 + 4, 0x80));
        let mut given = Vec::new();
        let report = verify(&hurt, &dir(), STORE, Bounds { checkpoint: Lsn::ZERO, floor: SegmentId(1) }, &mut |r| {
            given.push((r.lsn, r.body.to_vec()));
            Ok(None)
        })
        .unwrap();
        assert_eq!(report.findings.len(), 1);
        assert_eq!((report.findings[0].lsn, report.findings[0].through, report.findings[0].verdict), (holder, holder, Verdict::Damage));
        let records: Vec<_> = given.iter().filter(|(_, body)| !body.is_empty()).collect();
        assert_eq!(records.len(), 21, "shift {shift}");
        assert_eq!(records[20], &(after, b"after".to_vec()));
        assert!(records[..20].iter().enumerate().all(|(n, (lsn, body))| lsn.0 == n as u64 + 1 && *body == [n as u8; 100]));
        assert!(first < holder);
    }
}

/// Everything from a record on is lost, up to a payload that holds copies of just what is lost: LSNs that fit, and proofs of durability. Only
/// their offsets say that they are copies.
#[test]
fn copies_of_the_records_that_were_lost_neither_replace_nor_prove_them() {
    for shift in 0..=16 {
        let disk = SimDisk::new();
        let (log, _) = open(&disk, true);
        for n in 0..20u8 {
            append(&log, &[n; 100]);
            if n == 14 {
                log.sync().unwrap();
            }
        }
        let bytes = file(&disk, SegmentId(1));
        let used = bytes.iter().rposition(|b| *b != 0).unwrap() + 1;
        let mut body = vec![0xaa; shift];
        body.extend_from_slice(&bytes[..used]);
        append(&log, &body);
        let lost = HEADER_LEN + 11 * framed_len(100);
        let hole = used.next_multiple_of(8) + RECORD_HEADER_LEN - lost;
        let hurt = disk.kill();
        hurt.open(&segment_path(&dir(), SegmentId(1))).unwrap().write_at(&[&vec![0; hole]], lost as u64).unwrap();
        let mut given = 0;
        let report = verify(&hurt, &dir(), STORE, Bounds { checkpoint: Lsn::ZERO, floor: SegmentId(1) }, &mut |r| {
            given = r.lsn.0;
            Ok(None)
        });
        let seen: Vec<_> = report.unwrap().findings.iter().map(|f| (f.lsn, f.offset, f.verdict)).collect();
        assert_eq!((seen, given), (vec![(Lsn(12), lost as u64, Verdict::TornTail)], 11), "shift {shift}");
        let (_, report) = open(&hurt, false);
        assert_eq!(report.last_lsn, Lsn(11));
    }
}

/// The tail of a segment is that of another segment of the same store, at the same offsets, with LSNs that fit: a reader that looked at
/// offset and store alone would go on into it.
#[test]
fn the_bytes_of_another_segment_at_the_same_offset_are_no_records() {
    let disk = SimDisk::new();
    let (log, _) = open(&disk, true);
    for n in 0..6u8 {
        append(&log, &[n; 200]);
        if n == 2 {
            log.seal().unwrap();
        }
    }
    log.seal().unwrap();
    let (first, second) = (file(&disk, SegmentId(1)), file(&disk, SegmentId(2)));
    assert_eq!(first.len(), second.len());
    let record = framed_len(200);
    for keep in 0..3 {
        let cut = HEADER_LEN + keep * record;
        let mixed = [&second[..cut], &first[cut..]].concat();
        let header = Header::decode(&mixed, Some(STORE), SegmentId(2)).unwrap();
        // Also where the reader would take any LSN for the first.
        for expected in [Some(header.first_lsn), None] {
            let mut reader = SegmentReader::new(&mixed, STORE, SegmentId(2), expected, Lsn::ZERO);
            let mut records = 0;
            while let Some(next) = reader.step() {
                match next {
                    Next::Record(r) => {
                        assert_eq!(r.lsn.0, 4 + records);
                        records += 1;
                    }
                    Next::TornTail(tear) => assert_eq!(tear.offset, cut as u64),
                    // Segment 2 began with everything before it durable.
                    Next::Corrupt(c) => assert!(expected.is_none() && keep == 0 && c.offset == cut as u64, "{c:?}"),
                    Next::Sealed(..) | Next::End(..) => panic!("keep {keep}"),
                }
            }
            assert_eq!(records, keep as u64);
        }
    }
    assert_eq!(second.len(), HEADER_LEN + 3 * record + FOOTER_LEN);
}

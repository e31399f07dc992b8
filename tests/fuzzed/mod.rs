//! What the fuzz targets do with any bytes. Here, and not in `fuzz/`, so that every input that once failed is run again by a normal test
//! (`tests/fuzz_regressions.rs`).

use std::path::{Path, PathBuf};

use ize::ids::{Lsn, SegmentId, StoreId, Time};
use ize::op::{Decoded, decode, encode};
use ize::storage::sim::SimDisk;
use ize::wal::format::{FOOTER_LEN, Footer, Framing, HEADER_LEN, Header, Predecessor, RecordHead, segment_path};
use ize::wal::reader::{Next, SegmentReader};
use ize::wal::verify::{Worst, verify};
use ize::wal::{Bounds, Log, Options, Record, RecoveryInput, WalError};

use crate::history;

const STORE: StoreId = StoreId([7; 16]);
const ID: SegmentId = SegmentId(1);

/// Takes numbers and stretches off the front of the input; zeros when it is used up.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, n: usize) -> &'a [u8] {
        let (front, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        front
    }

    fn u8(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    fn u16(&mut self) -> u16 {
        u16::from(self.u8()) << 8 | u16::from(self.u8())
    }

    fn u64(&mut self) -> u64 {
        (0..8).fold(0, |n, _| n << 8 | u64::from(self.u8()))
    }
}

/// A segment whose checksums are right, so that the reader gets deep: header, then records, marks, footers, zeros, junk and copies as the
/// input says, most of them consistent with one another.
fn dressed(input: &mut Bytes<'_>) -> Vec<u8> {
    let framing = Framing::new(STORE, ID);
    let first = 1 + u64::from(input.u8() % 4);
    let header = Header {
        store: STORE,
        segment: ID,
        epoch: u64::from(input.u8() % 3),
        first_lsn: Lsn(first),
        durable_lsn: Lsn(u64::from(input.u8() % 5)),
        prev: Predecessor::default(),
        created: Time::default(),
        allotted: 65536,
    };
    let mut out = header.encode().to_vec();
    let mut digest = blake3::Hasher::new();
    digest.update(&out);
    let (mut lsn, mut count) = (first, 0);
    while !input.0.is_empty() && out.len() < 60_000 {
        let what = input.u8();
        match what % 8 {
            0..=2 => {
                let n = usize::from(input.u8()) * if what & 0x40 == 0 { 1 } else { 40 };
                let body = input.take(n);
                let durable = lsn.saturating_sub(1).min(u64::from(input.u8()));
                let head = RecordHead {
                    crc: 0,
                    body_len: 0,
                    kind: if what & 0x80 == 0 { 0x18 } else { 0xff00 },
                    version: 1,
                    payload: u32::from(input.u8()),
                    lsn: Lsn(lsn),
                    durable_lsn: Lsn(durable),
                };
                let at = out.len() as u64;
                let crc = framing.push(&mut out, at, &head, &[body]);
                digest.update(&crc.to_le_bytes());
                lsn += 1;
                count += 1;
            }
            3 => {
                // A record with any fields, sound by its checksum.
                let head = RecordHead {
                    crc: 0,
                    body_len: 0,
                    kind: input.u16(),
                    version: input.u8(),
                    payload: 0,
                    lsn: Lsn(input.u64()),
                    durable_lsn: Lsn(input.u64()),
                };
                let at = out.len() as u64;
                framing.push(&mut out, at, &head, &[input.take(24)]);
            }
            4 => {
                let any = what & 0x80 != 0;
                let footer = Footer {
                    count,
                    first_lsn: Lsn(first),
                    last_lsn: if any { Lsn(input.u64()) } else { Lsn(lsn - 1) },
                    payload: 0,
                    last_time: Time::default(),
                    digest: *digest.finalize().as_bytes(),
                    durable_lsn: if any { Lsn(input.u64()) } else { Lsn(lsn - 1) },
                    next_lsn: if any { Lsn(input.u64()) } else { Lsn(lsn) },
                    next_epoch: u64::from(input.u8()),
                };
                let at = out.len() as u64;
                out.extend_from_slice(&framing.footer(&footer, at));
            }
            5 => out.resize(out.len() + usize::from(input.u8()) * 8, 0),
            6 => out.extend_from_slice(input.take(usize::from(what >> 3))),
            _ => {
                // A copy of what stands somewhere before, at another offset.
                let from = usize::from(input.u16()) % out.len();
                let to = (from + usize::from(input.u8()) * 8).min(out.len());
                out.extend_from_within(from..to);
            }
        }
    }
    for _ in 0..input.u8() % 4 {
        let at = usize::from(input.u16()) % out.len();
        out[at] ^= input.u8();
    }
    out
}

/// Any bytes as a segment. The first byte says how the rest is dressed up. Reading ends, gives only records whose checksum is right, in
/// order; recovery opens the log with what was readable, or refuses it with a name for the trouble, and then a second reading agrees.
pub fn segment(data: &[u8]) {
    let mut input = Bytes(data);
    let how = input.u8();
    let bytes = if how & 1 == 0 { input.0.to_vec() } else { dressed(&mut input) };
    let checkpoint = Lsn(if how & 2 == 0 { 0 } else { u64::from(how >> 2) });
    let first = Header::decode(&bytes, Some(STORE), ID).ok().map(|h| h.first_lsn);
    for first in [first, Some(Lsn(1)), None] {
        read(&bytes, first, checkpoint);
        read(&bytes, first, Lsn(u64::MAX));
    }
    let disk = SimDisk::new();
    let dir = PathBuf::from("/wal");
    let path = segment_path(&dir, ID);
    disk.put_file(&path, &bytes);
    let before = sound(&disk, checkpoint);
    let mut blobs = |_: &Record<'_>| Ok(true);
    let input = RecoveryInput { checkpoint, floor: ID, clean: how & 4 != 0, same_boot: how & 8 != 0, ..RecoveryInput::new(&mut blobs) };
    let options = Options { segment_size: 64 << 10, background: false, ..Options::default() };
    match Log::recover(disk.shared(), &dir, STORE, input, options) {
        Ok((log, report)) => {
            let after = sound(&disk, checkpoint);
            assert!(before.starts_with(&after), "recovery invents records: {after:?} of {before:?}");
            assert!(report.next_lsn > report.last_lsn);
            if report.last_lsn.0 < u64::MAX - (1 << 30) {
                let put = log.append_with(64, &mut |_, batch| _ = batch.push(0x18, 1, &[b"next"], 0));
                assert_eq!(put.expect("an open log appends")[0].lsn, report.next_lsn);
                log.seal().expect("an open log seals");
            }
        }
        Err(WalError::Damage { .. } | WalError::Unsupported { .. } | WalError::Missing { .. }) => {
            assert_eq!(disk.file_bytes(&path).as_deref(), Some(&*bytes), "a log that is refused is not changed");
        }
        Err(e) => panic!("no error of the disk was said: {e}"),
    }
}

fn read(bytes: &[u8], first: Option<Lsn>, bound: Lsn) {
    let framing = Framing::new(STORE, ID);
    let mut reader = SegmentReader::new(bytes, STORE, ID, first, bound);
    let (mut last, mut offset, mut steps) = (None, 0, 0);
    while let Some(next) = reader.step() {
        steps += 1;
        assert!(steps <= 2 * (bytes.len() / 32) + 4, "the reader does not end");
        match next {
            Next::Record(record) => {
                assert!(Some(record.lsn) > last && record.offset >= offset, "records are in order");
                let at = record.offset as usize;
                assert!(framing.record(&bytes[at..], record.offset).is_some_and(|head| head.lsn == record.lsn), "its checksum is right");
                assert_eq!(record.body, &bytes[record.body_offset as usize..][..record.body.len()]);
                last = Some(record.lsn);
                offset = record.offset + 32 + record.body.len() as u64;
                let _ = decode(record.kind, record.version, record.body);
            }
            Next::Sealed(_, end) => assert!(end as usize <= bytes.len() && end >= offset + FOOTER_LEN as u64),
            Next::End(at, _) => assert!(bytes[at as usize..].iter().all(|b| *b == 0), "an end has only zeros behind it"),
            // None of its bytes need be there: an active segment that is too short was cut.
            Next::TornTail(tear) => assert!(tear.offset >= HEADER_LEN.min(bytes.len()) as u64),
            Next::Corrupt(corrupt) => assert!(corrupt.offset as usize <= bytes.len()),
        }
    }
    assert!(reader.step().is_none());
}

/// The records that a check of the whole log finds.
fn sound(disk: &SimDisk, checkpoint: Lsn) -> Vec<(u64, Vec<u8>)> {
    let mut records = Vec::new();
    let bounds = Bounds { checkpoint, floor: ID };
    let verified = verify(disk, Path::new("/wal"), STORE, bounds, &mut |r| {
        records.push((r.lsn.0, r.body.to_vec()));
        Ok(None)
    });
    if let Ok(report) = verified {
        assert_ne!(report.worst, Worst::IoError);
    }
    records
}

/// Any bytes as the body of any kind: kind, body version, body. Decoding never panics, and what decodes says the same when it is encoded
/// and decoded again.
pub fn operation(data: &[u8]) {
    let mut input = Bytes(data);
    let (kind, version) = (input.u16(), input.u8());
    if let Ok(Decoded::Operation { entry, payload }) = decode(kind, version, input.0) {
        // Varints may be longer than need be in the input: what counts is that the value survives.
        let (kind, version, mut again) = encode(&entry).expect("what decodes can be encoded");
        again.extend_from_slice(payload);
        assert_eq!(decode(kind, version, &again), Ok(Decoded::Operation { entry, payload }));
    }
}

/// Any bytes as a history of log and packs on the simulated disk, with faults; see `history`.
pub fn stateful(data: &[u8]) {
    let mut input = Bytes(data);
    let steps = history::draw(
        &mut |n| {
            if input.0.is_empty() {
                return None;
            }
            Some(if n <= 256 { u64::from(input.u8()) % n } else { u64::from(input.u16()) % n })
        },
        60,
        true,
    );
    if let Err(e) = history::run(&steps) {
        panic!("{e}\n    check(&[{}]);", history::step::as_rust(&steps));
    }
}

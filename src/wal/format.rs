//! The bytes of a log segment: the one place that knows every offset, width and constant of `wal-format.md`, part "Log".
//!
//! ```text
//! | header 256 | record | record | ... | footer 128, or zeros to the allotted size |
//! ```
//! All integers are little-endian. Records and the footer stand at multiples of 8. A CRC-32 (IEEE) covers, before the bytes themselves,
//! the store id, the segment id and the file offset, so that a copy of a record at another place never passes for a record.
//! Nothing here reads or writes a file.

use std::path::{Path, PathBuf};

use crate::ids::{Lsn, SegmentId, StoreId, Time};

/// First bytes of a segment.
pub const HEADER_MAGIC: [u8; 8] = *b"IZEWAL\0\x01";
/// First bytes of a footer.
pub const FOOTER_MAGIC: [u8; 8] = *b"IZEEND\0\x01";
/// The format version this code reads and writes.
pub const FORMAT_VERSION: u32 = 1;
/// Features without which a segment cannot be read correctly, that this code knows: none.
pub const KNOWN_READ_FEATURES: u64 = 0;
/// Features without which a log cannot be appended to correctly, that this code knows: none.
pub const KNOWN_WRITE_FEATURES: u64 = 0;
/// Read feature reserved for encrypted bodies.
pub const READ_FEATURE_ENCRYPTED: u64 = 1;

/// Bytes of a segment's header.
pub const HEADER_LEN: usize = 256;
/// Bytes of a record before its body.
pub const RECORD_HEADER_LEN: usize = 32;
/// Bytes of a footer.
pub const FOOTER_LEN: usize = 128;
/// Records and the footer stand at multiples of this.
pub const ALIGN: usize = 8;
/// Largest body, in bytes.
pub const MAX_BODY: usize = 160 * 1024;
/// Most records in one batch.
pub const MAX_BATCH_RECORDS: u64 = 1 << 16;
/// Smallest and largest allotted size of a segment, and what it is unless configured, in bytes. Below 1 MiB is for tests.
pub const MIN_SEGMENT_SIZE: u64 = 64 << 10;
/// Largest allotted size of a segment.
pub const MAX_SEGMENT_SIZE: u64 = 256 << 20;
/// Allotted size of a segment unless configured.
pub const DEFAULT_SEGMENT_SIZE: u64 = 1 << 20;
/// How far the LSN jumps when an epoch begins. More than the unsynced records and one batch can be, see `recovery`.
pub const EPOCH_JUMP: u64 = 1 << 21;
/// Most records that are appended and not synced.
pub const MAX_UNSYNCED_RECORDS: u64 = 1 << 20;

/// Kind of a mark: empty body, written after a sync that left the log idle; its `durable_lsn` is what it is for. Kinds from 0xff00 on
/// belong to the log itself; 0 is none.
pub const KIND_MARK: u16 = 0xff00;

const _: () = assert!(HEADER_LEN.is_multiple_of(ALIGN) && RECORD_HEADER_LEN.is_multiple_of(ALIGN) && FOOTER_LEN.is_multiple_of(ALIGN));
// The footer's magic, read as a record header, claims a body longer than any: nothing is both a record and a footer.
const _: () = assert!(u32::from_le_bytes([FOOTER_MAGIC[4], FOOTER_MAGIC[5], FOOTER_MAGIC[6], FOOTER_MAGIC[7]]) as usize > MAX_BODY);
// appended - durable <= MAX_UNSYNCED_RECORDS + MAX_BATCH_RECORDS + 1 mark < EPOCH_JUMP
const _: () = assert!(MAX_UNSYNCED_RECORDS + MAX_BATCH_RECORDS + 1 < EPOCH_JUMP);

/// Offsets inside the header.
pub mod header_at {
    #![allow(missing_docs)]
    pub const MAGIC: usize = 0;
    pub const VERSION: usize = 8;
    pub const LENGTH: usize = 12;
    pub const READ_FEATURES: usize = 16;
    pub const WRITE_FEATURES: usize = 24;
    pub const STORE: usize = 32;
    pub const SEGMENT: usize = 48;
    pub const EPOCH: usize = 56;
    pub const FIRST_LSN: usize = 64;
    pub const DURABLE_LSN: usize = 72;
    pub const PREV_SEGMENT: usize = 80;
    pub const PREV_END_LSN: usize = 88;
    pub const PREV_LENGTH: usize = 96;
    pub const PREV_DIGEST: usize = 104;
    pub const CREATED_SECS: usize = 136;
    pub const CREATED_NANOS: usize = 144;
    pub const ALLOTTED: usize = 148;
    pub const RESERVED: usize = 152;
    pub const CRC: usize = 252;
}

/// Offsets inside a record.
pub mod record_at {
    #![allow(missing_docs)]
    pub const CRC: usize = 0;
    pub const BODY_LEN: usize = 4;
    pub const KIND: usize = 8;
    pub const VERSION: usize = 10;
    pub const FLAGS: usize = 11;
    pub const PAYLOAD: usize = 12;
    pub const LSN: usize = 16;
    pub const DURABLE_LSN: usize = 24;
    pub const BODY: usize = 32;
}

/// Offsets inside the footer.
pub mod footer_at {
    #![allow(missing_docs)]
    pub const MAGIC: usize = 0;
    pub const SEGMENT: usize = 8;
    pub const COUNT: usize = 16;
    pub const FIRST_LSN: usize = 24;
    pub const LAST_LSN: usize = 32;
    pub const PAYLOAD: usize = 40;
    pub const LAST_SECS: usize = 48;
    pub const LAST_NANOS: usize = 56;
    pub const RESERVED: usize = 60;
    pub const DIGEST: usize = 64;
    pub const DURABLE_LSN: usize = 96;
    pub const NEXT_LSN: usize = 104;
    pub const NEXT_EPOCH: usize = 112;
    pub const RESERVED_2: usize = 120;
    pub const CRC: usize = 124;
}

/// The file of segment `id` in the log's directory.
#[must_use]
pub fn segment_path(dir: &Path, id: SegmentId) -> PathBuf {
    dir.join(format!("{id}.seg"))
}

/// The segment that a file name names, if it names one.
#[must_use]
pub fn segment_of_name(name: &std::ffi::OsStr) -> Option<SegmentId> {
    let hex = name.to_str()?.strip_suffix(".seg")?;
    if hex.len() != 16 || !hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
        return None;
    }
    u64::from_str_radix(hex, 16).ok().map(SegmentId)
}

/// The file of a zero-filled spare that will become a segment.
#[must_use]
pub fn spare_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("prep-{number:x}.tmp"))
}

/// The file into which recovery copies segment `id` before it takes the segment's name.
#[must_use]
pub fn fresh_path(dir: &Path, id: SegmentId) -> PathBuf {
    dir.join(format!("fresh-{id}.tmp"))
}

/// True for the names of files that only a crash leaves behind; recovery removes them.
#[must_use]
pub fn is_temporary(name: &std::ffi::OsStr) -> bool {
    name.to_str().is_some_and(|n| n.ends_with(".tmp") && (n.starts_with("prep-") || n.starts_with("fresh-")))
}

/// Left by a log that refused writes after a failure, for the recovery that follows.
pub const POISON_MARKER: &str = "poisoned";

/// File name of the reserve, beside the segments.
pub const RESERVE_NAME: &str = "reserve";

/// Room kept back for a full disk.
#[must_use]
pub fn reserve_path(dir: &Path) -> PathBuf {
    dir.join(RESERVE_NAME)
}

/// Where recovery keeps what it cuts.
#[must_use]
pub fn torn_dir(dir: &Path) -> PathBuf {
    dir.join("torn")
}

/// Where repair keeps whole copies of what it changes: `repaired/<number>/`, or `repaired/` itself for 0.
#[must_use]
pub fn repaired_dir(dir: &Path, number: u64) -> PathBuf {
    let all = dir.join("repaired");
    if number == 0 { all } else { all.join(number.to_string()) }
}

/// Bytes that a record with `body` bytes takes.
#[must_use]
pub const fn framed_len(body: usize) -> usize {
    RECORD_HEADER_LEN + body.next_multiple_of(ALIGN)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..at + N).and_then(|b| b.try_into().ok()).unwrap_or([0; N])
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// How the segment before this one ended. All zeros before the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Predecessor {
    /// Its number; 0 when there is none.
    pub segment: SegmentId,
    /// Last LSN in it, or the LSN before its first when it is empty.
    pub end_lsn: Lsn,
    /// Bytes from its first to the last of its footer.
    pub length: u64,
    /// Its digest, as in its footer.
    pub digest: [u8; 32],
}

/// A segment's header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The store.
    pub store: StoreId,
    /// This segment.
    pub segment: SegmentId,
    /// Epoch: grows when a recovery may have lost records.
    pub epoch: u64,
    /// LSN of the first record.
    pub first_lsn: Lsn,
    /// Everything up to here was durable when the segment was made.
    pub durable_lsn: Lsn,
    /// How the predecessor ended.
    pub prev: Predecessor,
    /// When it was made; never earlier than the last record of the predecessor.
    pub created: Time,
    /// Bytes allotted to it when it was made.
    pub allotted: u32,
}

/// Why a header was not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderFault {
    /// Its bytes fail their check.
    Damaged(&'static str),
    /// It says that this code must not read it.
    Unsupported(String),
}

impl Header {
    /// The 256 bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        use header_at as at;
        let mut b = [0; HEADER_LEN];
        put(&mut b, at::MAGIC, &HEADER_MAGIC);
        put(&mut b, at::VERSION, &FORMAT_VERSION.to_le_bytes());
        put(&mut b, at::LENGTH, &(HEADER_LEN as u32).to_le_bytes());
        put(&mut b, at::STORE, &self.store.0);
        put(&mut b, at::SEGMENT, &self.segment.0.to_le_bytes());
        put(&mut b, at::EPOCH, &self.epoch.to_le_bytes());
        put(&mut b, at::FIRST_LSN, &self.first_lsn.0.to_le_bytes());
        put(&mut b, at::DURABLE_LSN, &self.durable_lsn.0.to_le_bytes());
        put(&mut b, at::PREV_SEGMENT, &self.prev.segment.0.to_le_bytes());
        put(&mut b, at::PREV_END_LSN, &self.prev.end_lsn.0.to_le_bytes());
        put(&mut b, at::PREV_LENGTH, &self.prev.length.to_le_bytes());
        put(&mut b, at::PREV_DIGEST, &self.prev.digest);
        put(&mut b, at::CREATED_SECS, &self.created.secs.to_le_bytes());
        put(&mut b, at::CREATED_NANOS, &self.created.nanos.to_le_bytes());
        put(&mut b, at::ALLOTTED, &self.allotted.to_le_bytes());
        let crc = crc32fast::hash(&b[..at::CRC]);
        put(&mut b, at::CRC, &crc.to_le_bytes());
        b
    }

    /// Reads the header of segment `id` of `store` (any store when `None`) from the file's first bytes.
    ///
    /// Magic, version and CRC keep their places in every future version: that is how an unknown version is told from damage.
    ///
    /// # Errors
    /// Damage, or the version or feature that this code does not know, by name.
    pub fn decode(bytes: &[u8], store: Option<StoreId>, id: SegmentId) -> Result<Self, HeaderFault> {
        use header_at as at;
        let Some(b) = bytes.get(..HEADER_LEN) else { return Err(HeaderFault::Damaged("the header is cut short")) };
        if b[..8] != HEADER_MAGIC {
            return Err(HeaderFault::Damaged("the magic bytes are wrong"));
        }
        if crc32fast::hash(&b[..at::CRC]) != u32_at(b, at::CRC) {
            return Err(HeaderFault::Damaged("the header's checksum is wrong"));
        }
        let version = u32_at(b, at::VERSION);
        if version != FORMAT_VERSION {
            return Err(HeaderFault::Unsupported(format!("log format version {version} (this ize knows {FORMAT_VERSION})")));
        }
        let unknown = u64_at(b, at::READ_FEATURES) & !KNOWN_READ_FEATURES;
        if unknown != 0 {
            let name = if unknown == READ_FEATURE_ENCRYPTED { " (encrypted)" } else { "" };
            return Err(HeaderFault::Unsupported(format!("read feature bits {unknown:#x}{name} are unknown")));
        }
        let unknown = u64_at(b, at::WRITE_FEATURES) & !KNOWN_WRITE_FEATURES;
        if unknown != 0 {
            return Err(HeaderFault::Unsupported(format!("write feature bits {unknown:#x} are unknown")));
        }
        let header = Self {
            store: StoreId(array_at(b, at::STORE)),
            segment: SegmentId(u64_at(b, at::SEGMENT)),
            epoch: u64_at(b, at::EPOCH),
            first_lsn: Lsn(u64_at(b, at::FIRST_LSN)),
            durable_lsn: Lsn(u64_at(b, at::DURABLE_LSN)),
            prev: Predecessor {
                segment: SegmentId(u64_at(b, at::PREV_SEGMENT)),
                end_lsn: Lsn(u64_at(b, at::PREV_END_LSN)),
                length: u64_at(b, at::PREV_LENGTH),
                digest: array_at(b, at::PREV_DIGEST),
            },
            created: Time { secs: u64_at(b, at::CREATED_SECS).cast_signed(), nanos: u32_at(b, at::CREATED_NANOS) },
            allotted: u32_at(b, at::ALLOTTED),
        };
        if u32_at(b, at::LENGTH) as usize != HEADER_LEN {
            return Err(HeaderFault::Damaged("the header's length is wrong"));
        }
        if store.is_some_and(|s| s != header.store) {
            return Err(HeaderFault::Damaged("the segment belongs to another store"));
        }
        if header.segment != id {
            return Err(HeaderFault::Damaged("the segment's number is not that of the file's name"));
        }
        if header.first_lsn == Lsn::ZERO || header.durable_lsn >= header.first_lsn || header.prev.end_lsn >= header.first_lsn {
            return Err(HeaderFault::Damaged("the header's LSNs contradict each other"));
        }
        Ok(header)
    }
}

/// A segment's footer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Footer {
    /// Records in the segment, marks included.
    pub count: u64,
    /// LSN of the first record (of the header, when there is none).
    pub first_lsn: Lsn,
    /// LSN of the last record, or the one before `first_lsn`.
    pub last_lsn: Lsn,
    /// Bytes of blobs that the records name.
    pub payload: u64,
    /// When the last record was appended, never decreasing along the log.
    pub last_time: Time,
    /// BLAKE3 over the header's bytes and then the four CRC bytes of each record.
    pub digest: [u8; 32],
    /// Everything up to here was durable when the footer was written.
    pub durable_lsn: Lsn,
    /// The successor's first LSN is at least this.
    pub next_lsn: Lsn,
    /// The successor's epoch is at least this.
    pub next_epoch: u64,
}

/// Makes the CRCs of one segment.
#[derive(Clone, Debug)]
pub struct Framing {
    segment: SegmentId,
    seed: crc32fast::Hasher,
}

/// The fixed part of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHead {
    /// Checksum.
    pub crc: u32,
    /// Bytes of the body.
    pub body_len: usize,
    /// Kind of operation, never 0.
    pub kind: u16,
    /// Version of the body's form.
    pub version: u8,
    /// Bytes of blobs that the body names.
    pub payload: u32,
    /// Its LSN.
    pub lsn: Lsn,
    /// Everything up to here was durable when it was written; below `lsn`.
    pub durable_lsn: Lsn,
}

impl RecordHead {
    /// Reads the fixed part at the start of `bytes`, checking all but the CRC; `None` when no record can look like this.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        use record_at as at;
        let b = bytes.get(..RECORD_HEADER_LEN)?;
        let head = Self {
            crc: u32_at(b, at::CRC),
            body_len: u32_at(b, at::BODY_LEN) as usize,
            kind: u16::from_le_bytes([b[at::KIND], b[at::KIND + 1]]),
            version: b[at::VERSION],
            payload: u32_at(b, at::PAYLOAD),
            lsn: Lsn(u64_at(b, at::LSN)),
            durable_lsn: Lsn(u64_at(b, at::DURABLE_LSN)),
        };
        let plausible = head.kind != 0
            && b[at::FLAGS] == 0
            && head.body_len <= MAX_BODY
            && head.lsn > head.durable_lsn
            && framed_len(head.body_len) <= bytes.len();
        plausible.then_some(head)
    }
}

impl Framing {
    /// The framing of segment `segment` of `store`.
    #[must_use]
    pub fn new(store: StoreId, segment: SegmentId) -> Self {
        let mut seed = crc32fast::Hasher::new();
        seed.update(&store.0);
        seed.update(&segment.0.to_le_bytes());
        Self { segment, seed }
    }

    fn crc(&self, offset: u64, bytes: &[u8]) -> u32 {
        let mut hasher = self.seed.clone();
        hasher.update(&offset.to_le_bytes());
        hasher.update(bytes);
        hasher.finalize()
    }

    /// Appends the framed record to `out`; `offset` is where its first byte will stand in the file. `head.crc` and `head.body_len` are
    /// not looked at. Gives the CRC.
    pub fn push(&self, out: &mut Vec<u8>, offset: u64, head: &RecordHead, body: &[&[u8]]) -> u32 {
        let start = out.len();
        let len: usize = body.iter().map(|part| part.len()).sum();
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&(len as u32).to_le_bytes());
        out.extend_from_slice(&head.kind.to_le_bytes());
        out.extend_from_slice(&[head.version, 0]);
        out.extend_from_slice(&head.payload.to_le_bytes());
        out.extend_from_slice(&head.lsn.0.to_le_bytes());
        out.extend_from_slice(&head.durable_lsn.0.to_le_bytes());
        for part in body {
            out.extend_from_slice(part);
        }
        out.resize(start + framed_len(len), 0);
        let crc = self.crc(offset, &out[start + record_at::BODY_LEN..]);
        put(out, start, &crc.to_le_bytes());
        crc
    }

    /// Reads the record at the start of `bytes`, which stands at `offset` in the file; `None` when there is no valid one.
    #[must_use]
    pub fn record(&self, bytes: &[u8], offset: u64) -> Option<RecordHead> {
        let head = RecordHead::decode(bytes)?;
        let framed = bytes.get(..framed_len(head.body_len))?;
        let padding = &framed[RECORD_HEADER_LEN + head.body_len..];
        (self.crc(offset, &framed[record_at::BODY_LEN..]) == head.crc && padding.iter().all(|b| *b == 0)).then_some(head)
    }

    /// The 128 bytes of a footer that will stand at `offset`.
    #[must_use]
    pub fn footer(&self, footer: &Footer, offset: u64) -> [u8; FOOTER_LEN] {
        use footer_at as at;
        let mut b = [0; FOOTER_LEN];
        put(&mut b, at::MAGIC, &FOOTER_MAGIC);
        put(&mut b, at::SEGMENT, &self.segment.0.to_le_bytes());
        put(&mut b, at::COUNT, &footer.count.to_le_bytes());
        put(&mut b, at::FIRST_LSN, &footer.first_lsn.0.to_le_bytes());
        put(&mut b, at::LAST_LSN, &footer.last_lsn.0.to_le_bytes());
        put(&mut b, at::PAYLOAD, &footer.payload.to_le_bytes());
        put(&mut b, at::LAST_SECS, &footer.last_time.secs.to_le_bytes());
        put(&mut b, at::LAST_NANOS, &footer.last_time.nanos.to_le_bytes());
        put(&mut b, at::DIGEST, &footer.digest);
        put(&mut b, at::DURABLE_LSN, &footer.durable_lsn.0.to_le_bytes());
        put(&mut b, at::NEXT_LSN, &footer.next_lsn.0.to_le_bytes());
        put(&mut b, at::NEXT_EPOCH, &footer.next_epoch.to_le_bytes());
        let crc = self.crc(offset, &b[..at::CRC]);
        put(&mut b, at::CRC, &crc.to_le_bytes());
        b
    }

    /// Reads the footer at the start of `bytes`, which stands at `offset` in the file; `None` when there is no valid one.
    #[must_use]
    pub fn read_footer(&self, bytes: &[u8], offset: u64) -> Option<Footer> {
        use footer_at as at;
        let b = bytes.get(..FOOTER_LEN)?;
        if b[..8] != FOOTER_MAGIC || self.crc(offset, &b[..at::CRC]) != u32_at(b, at::CRC) {
            return None;
        }
        let footer = Footer {
            count: u64_at(b, at::COUNT),
            first_lsn: Lsn(u64_at(b, at::FIRST_LSN)),
            last_lsn: Lsn(u64_at(b, at::LAST_LSN)),
            payload: u64_at(b, at::PAYLOAD),
            last_time: Time { secs: u64_at(b, at::LAST_SECS).cast_signed(), nanos: u32_at(b, at::LAST_NANOS) },
            digest: array_at(b, at::DIGEST),
            durable_lsn: Lsn(u64_at(b, at::DURABLE_LSN)),
            next_lsn: Lsn(u64_at(b, at::NEXT_LSN)),
            next_epoch: u64_at(b, at::NEXT_EPOCH),
        };
        (footer.next_lsn > footer.last_lsn && footer.durable_lsn <= footer.last_lsn).then_some(footer)
    }
}

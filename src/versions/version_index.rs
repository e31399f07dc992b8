//! The index of the version log, `meta/versions.index`: what is needed of each version to find it by number, record, time, change id and path
//! without reading it. Made from the version log and thrown away at any doubt.
//!
//! Little-endian: magic, format version u32, store id, bytes of the version log covered u64, number of versions u64, then for each 56 bytes:
//! offset u64, number u64, last LSN u64, end (seconds i64, nanoseconds u32), reserved u32, change id u64, path filter u64; then the CRC-32 of all before.

use std::io;
use std::path::Path;

use crate::ids::{Lsn, StoreId, Time, VersionSeq};
use crate::storage::Storage;
use crate::versions::version_log::{ChangeId, PathChange, What};

const MAGIC: &[u8; 8] = b"IZEVINDX";
const FORMAT: u32 = 2;
const HEADER: usize = 8 + 4 + 16 + 8 + 8;
const ENTRY: usize = 56;

/// Which paths a version may touch: a Bloom filter of 64 bits over its paths and all directories above them. Versions that touch few paths
/// are told apart by it; one that touches hundreds may touch any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathFilter(u64);

impl PathFilter {
    /// Bits per path: three give the fewest mistakes for some 15 paths (64 ln 2 / 3).
    fn bits(path: &[u8]) -> u64 {
        let hash = crc32fast::hash(path);
        [0, 6, 12].iter().fold(0, |bits, shift| bits | 1 << (hash >> shift & 63))
    }

    /// Of a version that changes these paths.
    #[must_use]
    pub fn of(paths: &[PathChange]) -> Self {
        let mut bits = 0;
        let mut add = |path: &[u8]| {
            bits |= Self::bits(path);
            for (at, _) in path.iter().enumerate().filter(|(_, b)| **b == b'/') {
                bits |= Self::bits(&path[..at]);
            }
        };
        for change in paths {
            add(&change.path);
            if let What::Moved { from } = &change.what {
                add(from);
            }
        }
        Self(bits)
    }

    /// May the version touch this path or something below it? No is certain.
    #[must_use]
    pub fn may_touch(self, path: &[u8]) -> bool {
        let bits = Self::bits(path);
        path.is_empty() || self.0 & bits == bits
    }
}

/// What is known of a version without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Light {
    /// Where its record begins.
    pub offset: u64,
    /// Its number.
    pub seq: VersionSeq,
    /// Its last record in the log.
    pub last: Lsn,
    /// When it ended, or a version before it did, if that was later.
    pub end: Time,
    /// Its change id.
    pub id: ChangeId,
    /// Its paths.
    pub paths: PathFilter,
}

/// The index as it was written: versions, and the bytes of the version log that hold them. `None` for one that is missing, damaged, of
/// another store or of another format.
#[must_use]
pub fn read(storage: &dyn Storage, path: &Path, store: StoreId) -> Option<(Vec<Light>, u64)> {
    let file = storage.open_read(path).ok()?;
    let mut bytes = vec![0; usize::try_from(file.len().ok()?).ok().filter(|len| *len >= HEADER + 4)?];
    file.read_exact_at(&mut bytes, 0).ok()?;
    let (body, crc) = bytes.split_last_chunk::<4>()?;
    if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
        return None;
    }
    let number = |at: usize| body.get(at..at + 8).and_then(|b| b.try_into().ok()).map(u64::from_le_bytes);
    let known = body.get(..8)? == MAGIC && body.get(8..12)? == FORMAT.to_le_bytes() && body.get(12..28)? == store.0;
    let (covered, count) = (number(28)?, number(36)?);
    let entries = body.get(HEADER..)?;
    if !known || entries.len() as u64 != count.checked_mul(ENTRY as u64)? {
        return None;
    }
    let light = |at: usize| {
        let nanos = body.get(at + 32..at + 36)?.try_into().ok().map(u32::from_le_bytes)?;
        Some(Light {
            offset: number(at)?,
            seq: VersionSeq(number(at + 8)?),
            last: Lsn(number(at + 16)?),
            end: Time { secs: number(at + 24)?.cast_signed(), nanos },
            id: ChangeId(number(at + 40)?),
            paths: PathFilter(number(at + 48)?),
        })
    };
    let all: Option<Vec<Light>> = (0..entries.len() / ENTRY).map(|n| light(HEADER + n * ENTRY)).collect();
    Some((all?, covered))
}

/// Writes the index beside its place and puts it there. Not synced: a torn one fails its check.
///
/// # Errors
/// I/O errors; the old one may be gone.
pub fn write(storage: &dyn Storage, path: &Path, store: StoreId, versions: &[Light], covered: u64) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(HEADER + versions.len() * ENTRY + 4);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&FORMAT.to_le_bytes());
    bytes.extend_from_slice(&store.0);
    bytes.extend_from_slice(&covered.to_le_bytes());
    bytes.extend_from_slice(&(versions.len() as u64).to_le_bytes());
    for v in versions {
        for number in [v.offset, v.seq.0, v.last.0, v.end.secs.cast_unsigned(), u64::from(v.end.nanos), v.id.0, v.paths.0] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
    }
    let crc = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    let mut tmp = path.as_os_str().to_owned();
    tmp.push(".tmp");
    let tmp = Path::new(&tmp);
    match storage.remove(tmp) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    storage.create_new(tmp)?.write_at(&[&bytes], 0)?;
    storage.rename(tmp, path)
}

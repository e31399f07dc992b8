//! The bytes of `meta/versions`, told once: its header and the frame of a record.
//!
//! A record is a 72-byte head, the body, zeros up to a multiple of 8. The head repeats what lookups need, so that opening a long log
//! reads heads only; its CRC covers store, offset and head, the head's second CRC covers body and padding.

use std::io;
use std::path::Path;

use super::log_error::VersionLogError;
use super::version::{ChangeId, Version};
use crate::ids::{Lsn, StoreId, Time, VersionSeq};
use crate::storage::{Storage, StorageFile};

const MAGIC: [u8; 8] = *b"izevers\0";
/// Format version of the file.
pub const LOG_VERSION: u32 = 1;
/// Length of the file's header.
pub(super) const HEADER_LEN: u64 = 64;
const RECORD_MAGIC: [u8; 4] = *b"\xb1ZEv";
const HEAD_LEN: usize = 72;
/// Version of a record's body: the postcard of [`Version`].
const BODY_VERSION: u32 = 1;
/// Longest body.
pub(super) const MAX_BODY: usize = 64 << 20;
/// Records start at multiples of this.
pub(super) const ALIGN: u64 = 8;

const _: () = assert!(HEADER_LEN.is_multiple_of(ALIGN) && (HEAD_LEN as u64).is_multiple_of(ALIGN));

/// What the index knows of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Number.
    pub seq: VersionSeq,
    /// Name.
    pub id: ChangeId,
    /// First record.
    pub first: Lsn,
    /// Last record.
    pub last: Lsn,
    /// Time of the last record.
    pub end: Time,
    /// Where the record starts in the file.
    pub(super) offset: u64,
    /// Length of its body.
    body_len: u32,
    /// CRC-32 of body and padding.
    body_crc: u32,
}

impl Entry {
    /// Length of the whole record.
    pub(super) fn total_len(&self) -> u64 {
        HEAD_LEN as u64 + self.padded_len() as u64
    }

    fn padded_len(&self) -> usize {
        (self.body_len as usize).next_multiple_of(ALIGN as usize)
    }
}

/// The record of `version` (encoded as `body`) at `offset`, with its index entry.
pub(super) fn encode(store: StoreId, offset: u64, version: &Version, body: &[u8]) -> (Entry, Vec<u8>) {
    let mut b = vec![0u8; HEAD_LEN];
    b.extend_from_slice(body);
    b.resize(HEAD_LEN + body.len().next_multiple_of(ALIGN as usize), 0);
    let entry = Entry {
        seq: version.seq,
        id: version.id(store),
        first: version.first,
        last: version.last,
        end: version.end,
        offset,
        body_len: body.len() as u32,
        body_crc: crc32fast::hash(&b[HEAD_LEN..]),
    };
    b[0..4].copy_from_slice(&RECORD_MAGIC);
    b[8..12].copy_from_slice(&BODY_VERSION.to_le_bytes());
    b[12..16].copy_from_slice(&entry.body_len.to_le_bytes());
    b[16..20].copy_from_slice(&entry.body_crc.to_le_bytes());
    b[20..24].copy_from_slice(&entry.end.nanos.to_le_bytes());
    b[24..32].copy_from_slice(&entry.seq.0.to_le_bytes());
    b[32..40].copy_from_slice(&entry.first.0.to_le_bytes());
    b[40..48].copy_from_slice(&entry.last.0.to_le_bytes());
    b[48..56].copy_from_slice(&entry.end.secs.to_le_bytes());
    b[56..64].copy_from_slice(&entry.id.0.to_le_bytes());
    // 64..72: zeros.
    let crc = head_crc(store, offset, &b[..HEAD_LEN]);
    b[4..8].copy_from_slice(&crc.to_le_bytes());
    (entry, b)
}

/// The record at `offset`, if its head is valid there and its body ends within `len`. The body is not read.
pub(super) fn entry_at(
    file: &dyn StorageFile,
    store: StoreId,
    offset: u64,
    len: u64,
    path: &Path,
) -> Result<Option<Entry>, VersionLogError> {
    let mut b = [0u8; HEAD_LEN];
    if len.saturating_sub(offset) < HEAD_LEN as u64 {
        return Ok(None);
    }
    match file.read_exact_at(&mut b, offset) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(source) => return Err(VersionLogError::Io { doing: "read", file: path.to_path_buf(), source }),
    }
    if b[0..4] != RECORD_MAGIC || word(&b, 4) != head_crc(store, offset, &b) {
        return Ok(None);
    }
    let version = word(&b, 8);
    if version != BODY_VERSION {
        return Err(VersionLogError::Unsupported { file: path.to_path_buf(), offset, version, features: 0 });
    }
    let entry = Entry {
        seq: VersionSeq(long(&b, 24)),
        id: ChangeId(long(&b, 56)),
        first: Lsn(long(&b, 32)),
        last: Lsn(long(&b, 40)),
        end: Time { secs: long(&b, 48).cast_signed(), nanos: word(&b, 20) },
        offset,
        body_len: word(&b, 12),
        body_crc: word(&b, 16),
    };
    let fits = entry.body_len as usize <= MAX_BODY && offset + entry.total_len() <= len;
    Ok(fits.then_some(entry))
}

/// The body of a record; `None` when it fails its check or the file ends before it.
pub(super) fn read_body(file: &dyn StorageFile, entry: &Entry) -> io::Result<Option<Vec<u8>>> {
    let mut body = vec![0u8; entry.padded_len()];
    match file.read_exact_at(&mut body, entry.offset + HEAD_LEN as u64) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(e) => return Err(e),
    }
    if crc32fast::hash(&body) != entry.body_crc {
        return Ok(None);
    }
    body.truncate(entry.body_len as usize);
    Ok(Some(body))
}

/// Creates an empty log at `path`, durable with its name; a crash leaves a whole one or none.
pub(super) fn create(storage: &dyn Storage, path: &Path, store: StoreId) -> io::Result<()> {
    let mut b = [0u8; HEADER_LEN as usize];
    b[0..8].copy_from_slice(&MAGIC);
    b[8..12].copy_from_slice(&LOG_VERSION.to_le_bytes());
    // 12..16: feature bits, none yet; 32..60: zeros.
    b[16..32].copy_from_slice(&store.0);
    let crc = crc32fast::hash(&b[..60]);
    b[60..64].copy_from_slice(&crc.to_le_bytes());
    let mut tmp = path.as_os_str().to_owned();
    tmp.push(".tmp");
    let tmp = Path::new(&tmp);
    match storage.remove(tmp) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let file = storage.create_new(tmp)?;
    file.write_at(&[&b], 0)?;
    file.sync_data()?;
    storage.rename(tmp, path)?;
    storage.sync_dir(path.parent().unwrap_or(Path::new("/")))
}

/// Whether the header is sound.
pub(super) fn read_header(file: &dyn StorageFile, store: StoreId, path: &Path) -> Result<bool, VersionLogError> {
    let mut b = [0u8; HEADER_LEN as usize];
    match file.read_exact_at(&mut b, 0) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
        Err(source) => return Err(VersionLogError::Io { doing: "read", file: path.to_path_buf(), source }),
    }
    if b[0..8] != MAGIC || word(&b, 60) != crc32fast::hash(&b[..60]) {
        return Ok(false);
    }
    let (version, features) = (word(&b, 8), word(&b, 12));
    if version != LOG_VERSION || features != 0 {
        return Err(VersionLogError::Unsupported { file: path.to_path_buf(), offset: 8, version, features });
    }
    let mut found = [0; 16];
    found.copy_from_slice(&b[16..32]);
    if StoreId(found) != store {
        return Err(VersionLogError::Foreign { file: path.to_path_buf(), found: StoreId(found) });
    }
    Ok(true)
}

fn head_crc(store: StoreId, offset: u64, head: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&store.0);
    crc.update(&offset.to_le_bytes());
    crc.update(&head[8..]);
    crc.finalize()
}

fn word(b: &[u8], at: usize) -> u32 {
    b.get(at..at + 4).and_then(|s| s.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn long(b: &[u8], at: usize) -> u64 {
    b.get(at..at + 8).and_then(|s| s.try_into().ok()).map_or(0, u64::from_le_bytes)
}

//! `meta/purged`: what was purged, when and why, so that what is gone on purpose is not taken for lost. Appended to, never changed; its
//! form is in wal-format.md, "Purged". Only while a purge goes on may its end be no whole record. A blob that is there again is no longer purged: the packs are asked first.

use std::collections::HashMap;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Blobs;
use crate::error::{Class, Error, Result};
use crate::ids::{BlobId, StoreId, Time};
use crate::project::Layout;
use crate::storage::{Storage, read_small};

const MAGIC: &[u8; 8] = b"IZEPURGD";
const FORMAT: u32 = 1;
/// Magic, format version, store id, CRC-32.
pub(crate) const HEADER: usize = 8 + 4 + 16 + 4;
/// CRC-32 and length before a body.
pub(crate) const FRAME: usize = 8;
/// No file is longer.
const MAX: u64 = 1 << 30;

/// One purge.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    /// When it was ordered.
    pub time: Time,
    /// Why, in the words of whoever ordered it; may be empty.
    pub reason: String,
    /// Files, links and directories that went from the states.
    pub inodes: u64,
    /// Blobs that went although states name them, and their lengths in bytes.
    pub blobs: Vec<(BlobId, u32)>,
}

fn header(store: StoreId) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&FORMAT.to_le_bytes());
    out.extend_from_slice(&store.0);
    let crc = crc32fast::hash(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    out
}

fn frame(store: StoreId, offset: usize, body: &[u8]) -> [u8; FRAME] {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&store.0);
    hasher.update(&(offset as u64).to_le_bytes());
    hasher.update(&(body.len() as u64).to_le_bytes());
    hasher.update(body);
    let mut out = [0; FRAME];
    out[..4].copy_from_slice(&hasher.finalize().to_le_bytes());
    out[4..].copy_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
    out
}

/// What is in the file.
#[derive(Debug, Default)]
struct Found {
    /// The purges that whole records tell of.
    all: Vec<Tombstone>,
    /// Where the last of them ends.
    end: usize,
    /// The first byte that is in no whole record.
    wrong: Option<usize>,
}

/// The record at an offset, and its length in bytes.
fn record(bytes: &[u8], store: StoreId, at: usize) -> Option<(Tombstone, usize)> {
    let len = u32::from_le_bytes(bytes.get(at + 4..at + FRAME)?.try_into().ok()?) as usize;
    let body = bytes.get(at + FRAME..at.checked_add(FRAME + len)?)?;
    if bytes.get(at..at + FRAME)? != frame(store, at, body) {
        return None;
    }
    match postcard::take_from_bytes(body) {
        Ok((tombstone, [])) => Some((tombstone, FRAME + len)),
        _ => None,
    }
}

/// Was its writer stopped before the header was durable?
fn is_cut_at_birth(bytes: &[u8]) -> bool {
    bytes.get(..HEADER).is_none_or(|header| header.iter().all(|byte| *byte == 0))
}

/// The format version, where a header is whole and says a newer one.
fn newer(bytes: &[u8], store: StoreId) -> Option<u32> {
    let (said, crc) = bytes.get(..HEADER)?.split_at(HEADER - 4);
    let form = u32::from_le_bytes(said.get(MAGIC.len()..MAGIC.len() + 4)?.try_into().ok()?);
    let whole = said.starts_with(MAGIC) && said.ends_with(&store.0) && crc == crc32fast::hash(said).to_le_bytes();
    (whole && form > FORMAT).then_some(form)
}

/// Reads everything that is whole, also behind what is not; `None` when not even the header is.
fn parse(bytes: &[u8], store: StoreId) -> Option<Found> {
    if bytes.get(..HEADER)? != header(store) {
        return None;
    }
    let (mut found, mut at) = (Found { end: HEADER, ..Found::default() }, HEADER);
    while at < bytes.len() {
        if let Some((tombstone, len)) = record(bytes, store, at) {
            found.all.push(tombstone);
            at += len;
            found.end = at;
        } else {
            found.wrong.get_or_insert(at);
            at += 1;
        }
    }
    Some(found)
}

fn bytes_of(storage: &dyn Storage, path: &Path) -> Result<Option<Vec<u8>>> {
    read_small(storage, path, MAX).map_err(|e| Error::io(format!("cannot read {}", path.display()), e))
}

/// Does a purge go on? Until it has ended, its record may be cut.
fn goes_on(storage: &dyn Storage, path: &Path) -> bool {
    let project = path.parent().and_then(Path::parent);
    project.is_some_and(|dir| storage.open_read(&Layout::new(dir).purging()).is_ok())
}

fn no_header(path: &Path, bytes: &[u8], store: StoreId) -> Error {
    match newer(bytes, store) {
        Some(form) => Error::new(Class::Refused, format!("a newer ize wrote {}: it has format version {form}", path.display()))
            .hint("use that one: it knows what was purged"),
        None => damaged(path, "its header is wrong"),
    }
}

fn damaged(path: &Path, what: &str) -> Error {
    Error::new(Class::Damage, format!("{} cannot be used: {what}", path.display()))
        .hint("an intact copy of the file mends it; without it (then move it away) what was purged counts as missing")
}

/// Every purge there was, the oldest first.
///
/// # Errors
/// `Damage` when it is another store's, or some of it is wrong that no purge is writing; `Refused` when a newer ize wrote it; I/O errors.
pub fn read(storage: &dyn Storage, path: &Path, store: StoreId) -> Result<Vec<Tombstone>> {
    let Some(bytes) = bytes_of(storage, path)? else { return Ok(Vec::new()) };
    match parse(&bytes, store) {
        Some(Found { all, wrong: None, .. }) => Ok(all),
        Some(Found { all, end, wrong: Some(at) }) if at == end && goes_on(storage, path) => Ok(all),
        // Cut at its birth.
        None if is_cut_at_birth(&bytes) && goes_on(storage, path) => Ok(Vec::new()),
        Some(Found { wrong: Some(at), .. }) => Err(damaged(path, &format!("the record at offset {at} fails its check"))),
        None => Err(no_header(path, &bytes, store)),
    }
}

/// Appends a purge, durably, behind the last record that is whole. One of the same time is there already: then an interrupted purge goes on.
///
/// # Errors
/// I/O errors; `Damage` when the header is wrong; `Refused` when a newer ize wrote it.
pub fn append(storage: &dyn Storage, path: &Path, store: StoreId, tombstone: &Tombstone) -> Result<()> {
    let failed = |e| Error::io(format!("cannot write {}", path.display()), e);
    let bytes = bytes_of(storage, path)?.unwrap_or_default();
    let Found { all, end, .. } = match parse(&bytes, store) {
        Some(found) => found,
        None if is_cut_at_birth(&bytes) => Found::default(),
        None => return Err(no_header(path, &bytes, store)),
    };
    let file = match storage.open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => storage.create_new(path),
        other => other,
    }
    .map_err(failed)?;
    let mut end = end;
    if end == 0 {
        // Durable before any record: pages become so in any order, and records without a header would be nobody's.
        let head = header(store);
        file.write_at(&[&head], 0).map_err(failed)?;
        file.sync_data().map_err(failed)?;
        end = head.len();
    }
    if all.iter().all(|t| t.time != tombstone.time) {
        let body = postcard::to_stdvec(tombstone).map_err(|e| Error::new(Class::Failed, format!("cannot write a tombstone: {e}")))?;
        let frame = frame(store, end, &body);
        file.write_at(&[&frame, &body], end as u64).map_err(failed)?;
        end += frame.len() + body.len();
    }
    // Also where it stands there already: who wrote it may have been killed before it was durable.
    file.set_len(end as u64).map_err(failed)?;
    file.sync_data().map_err(failed)?;
    path.parent().map_or(Ok(()), |dir| storage.sync_dir(dir)).map_err(failed)
}

impl Blobs {
    /// When a blob that is not there was purged, and its length in bytes. Says nothing of one that is there. The file is read once.
    pub fn purged(&self, id: &BlobId) -> Option<(Time, u32)> {
        let all = self.purged.get_or_init(|| {
            let Some(layout) = self.dir.parent().map(Layout::new) else { return HashMap::new() };
            // Of a damaged file what is whole; fsck names the rest.
            let found = bytes_of(&*self.storage, &layout.purged()).unwrap_or_else(|e| {
                tracing::warn!("{e}");
                None
            });
            let found = found.and_then(|bytes| parse(&bytes, self.store)).unwrap_or_default();
            found.all.into_iter().flat_map(|t| t.blobs.into_iter().map(move |(id, len)| (id, (t.time, len)))).collect()
        });
        all.get(id).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::sim::SimDisk;

    /// A disk with a purge that is being ended, which is when tombstones are written.
    fn begun() -> SimDisk {
        let disk = SimDisk::new();
        disk.create_dir_all(Path::new("/p/meta")).unwrap();
        disk.create_new(Path::new("/p/meta/purge")).unwrap();
        disk.sync_dir(Path::new("/p/meta")).unwrap();
        disk
    }

    /// Bytes of several pages become durable in any order: what is cut of a first, long record never stands in its own way.
    #[test]
    fn the_first_of_many_blobs_may_be_torn_anywhere_and_is_written_again() {
        let (path, store) = (Path::new("/p/meta/purged"), StoreId([4; 16]));
        let long = Tombstone { inodes: 7, blobs: (0..200).map(|n| (BlobId([n; 32]), 9)).collect(), ..Tombstone::default() };
        let mut torn = 0;
        for call in 1..12 {
            for seed in 0..40 {
                let disk = begun();
                // So that its name outlives the crash, whatever is in it.
                disk.create_new(path).unwrap();
                disk.sync_dir(Path::new("/p/meta")).unwrap();
                disk.crash_at_call(call);
                let done = append(&disk, path, store, &long).is_ok();
                let crashed = disk.crash(seed);
                let bytes = crashed.file_bytes(path).unwrap();
                torn += u32::from(bytes.len() > 4096 && parse(&bytes, store).is_none_or(|found| found.all.is_empty()));
                let found = read(&crashed, path, store).unwrap_or_else(|e| panic!("call {call}, seed {seed}: {e}"));
                assert!(found.len() == 1 || !done, "call {call}, seed {seed}");
                append(&crashed, path, store, &long).unwrap();
                assert_eq!(read(&crashed.crash(seed), path, store).unwrap(), std::slice::from_ref(&long), "call {call}, seed {seed}");
            }
        }
        assert!(torn > 10, "too little to say anything: {torn}");
        // An older ize wrote header and record at once, and only the page of the header was lost.
        let disk = begun();
        append(&disk, path, store, &long).unwrap();
        disk.open(path).unwrap().write_at(&[&[0; 4096]], 0).unwrap();
        assert_eq!(read(&disk, path, store).unwrap(), []);
        append(&disk, path, store, &long).unwrap();
        assert_eq!(read(&disk, path, store).unwrap(), [long]);
        // Without a purge that goes on nothing was being born.
        disk.open(path).unwrap().write_at(&[&[0; 4096]], 0).unwrap();
        disk.remove(Path::new("/p/meta/purge")).unwrap();
        assert_eq!(read(&disk, path, store).unwrap_err().class, Class::Damage);
        // A newer ize wrote it: that is no damage.
        let mut newer = header(store);
        newer[8] = 2;
        let crc = crc32fast::hash(&newer[..HEADER - 4]).to_le_bytes();
        newer[HEADER - 4..].copy_from_slice(&crc);
        disk.open(path).unwrap().write_at(&[&newer], 0).unwrap();
        let e = read(&disk, path, store).unwrap_err();
        assert!(e.class == Class::Refused && e.to_string().contains("newer ize"), "{e}");
    }

    #[test]
    fn tombstones_outlive_crashes_and_nothing_else_passes_for_one() {
        let (path, store) = (Path::new("/p/meta/purged"), StoreId([4; 16]));
        let tombstone = |n: u8| Tombstone {
            time: Time { secs: i64::from(n), nanos: 0 },
            reason: "why".to_owned(),
            inodes: 2,
            blobs: vec![(BlobId([n; 32]), 9)],
        };
        for call in 1..30 {
            let disk = begun();
            disk.crash_at_call(call);
            let done = (1..=3).take_while(|n| append(&disk, path, store, &tombstone(*n)).is_ok()).count();
            for seed in 0..5 {
                let crashed = disk.crash(seed);
                let found = read(&crashed, path, store).unwrap();
                assert!(found.len() >= done && found.iter().zip(1..).all(|(t, n)| *t == tombstone(n)), "call {call}: {found:?}");
                append(&crashed, path, store, &tombstone(9)).unwrap();
                append(&crashed, path, store, &tombstone(9)).unwrap();
                assert_eq!(read(&crashed, path, store).unwrap().len(), found.len() + 1);
            }
        }
        let disk = begun();
        append(&disk, path, store, &tombstone(1)).unwrap();
        assert_eq!(
            BlobId::of(&disk.file_bytes(path).unwrap()).to_string(),
            "ea0b156e3368f957bab06b4a7ef1eac8e98ada44b8210a268c8ef59861b2628b"
        );
        assert!(read(&disk, path, StoreId([5; 16])).is_err());
        // Found by whoever goes on, and not durable before.
        for call in 1..10 {
            let disk = begun();
            disk.crash_at_call(call);
            let _ = append(&disk, path, store, &tombstone(1));
            let killed = disk.kill();
            append(&killed, path, store, &tombstone(1)).unwrap();
            assert_eq!(read(&killed.crash(call), path, store).unwrap(), [tombstone(1)], "call {call}");
        }
        // Ended, every byte counts; what is whole is known all the same.
        append(&disk, path, store, &tombstone(2)).unwrap();
        disk.remove(Path::new("/p/meta/purge")).unwrap();
        let bytes = disk.file_bytes(path).unwrap();
        assert_eq!(read(&disk, path, store).unwrap(), [tombstone(1), tombstone(2)]);
        let put = |bytes: &[u8]| {
            disk.remove(path).unwrap();
            disk.create_new(path).unwrap().write_at(&[bytes], 0).unwrap();
        };
        for bit in 0..bytes.len() * 8 {
            let mut wrong = bytes.clone();
            wrong[bit / 8] ^= 1 << (bit % 8);
            put(&wrong);
            assert_eq!(read(&disk, path, store).unwrap_err().class, Class::Damage, "bit {bit}");
            assert_eq!(parse(&wrong, store).map_or(1, |found| found.all.len()), 1, "bit {bit}");
        }
        for len in (0..bytes.len()).filter(|len| *len != HEADER && *len != (bytes.len() + HEADER) / 2) {
            put(&bytes[..len]);
            assert_eq!(read(&disk, path, store).unwrap_err().class, Class::Damage, "cut to {len}");
        }
    }
}

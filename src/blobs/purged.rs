//! `meta/purged`: what was purged, when and why, so that what is gone on purpose is not taken for lost. Appended to, never changed; its
//! form is in wal-format.md, "Purged". A blob that is there again is no longer purged: the packs are asked first.

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

/// The purges that the file tells of, and where the next record goes. What is not whole is the end: a crash cut it.
fn parse(bytes: &[u8], store: StoreId) -> Option<(Vec<Tombstone>, usize)> {
    if bytes.get(..HEADER)? != header(store) {
        return None;
    }
    let (mut found, mut at) = (Vec::new(), HEADER);
    while let Some(len) = bytes.get(at + 4..at + FRAME).and_then(|b| b.try_into().ok()).map(u32::from_le_bytes) {
        let Some(body) = bytes.get(at + FRAME..(at + FRAME).saturating_add(len as usize)) else { break };
        if bytes.get(at..at + FRAME) != Some(&frame(store, at, body)) {
            break;
        }
        let Ok((tombstone, [])) = postcard::take_from_bytes(body) else { break };
        found.push(tombstone);
        at += FRAME + body.len();
    }
    Some((found, at))
}

fn bytes_of(storage: &dyn Storage, path: &Path) -> Result<Option<Vec<u8>>> {
    read_small(storage, path, MAX).map_err(|e| Error::io(format!("cannot read {}", path.display()), e))
}

/// Every purge there was, the oldest first.
///
/// # Errors
/// `Damage` when it is another store's, of another format, or its header is wrong; I/O errors.
pub fn read(storage: &dyn Storage, path: &Path, store: StoreId) -> Result<Vec<Tombstone>> {
    match bytes_of(storage, path)? {
        // Cut at its birth.
        Some(bytes) if bytes.len() >= HEADER => parse(&bytes, store).map(|(found, _)| found).ok_or_else(|| {
            Error::new(Class::Damage, format!("{} cannot be used: its header is wrong", path.display()))
                .hint("what was purged counts as missing; an intact copy of the file mends it")
        }),
        Some(_) | None => Ok(Vec::new()),
    }
}

/// Appends a purge, durably. One of the same time is there already: then an interrupted purge goes on.
///
/// # Errors
/// I/O errors; as [`read`].
pub fn append(storage: &dyn Storage, path: &Path, store: StoreId, tombstone: &Tombstone) -> Result<()> {
    let failed = |e| Error::io(format!("cannot write {}", path.display()), e);
    let bytes = bytes_of(storage, path)?.unwrap_or_default();
    let (found, at) = if bytes.len() < HEADER { (Vec::new(), 0) } else { parse(&bytes, store).unwrap_or_default() };
    if bytes.len() >= HEADER && at == 0 {
        read(storage, path, store)?;
    }
    if found.iter().any(|t| t.time == tombstone.time) {
        return Ok(());
    }
    let body = postcard::to_stdvec(tombstone).map_err(|e| Error::new(Class::Failed, format!("cannot write a tombstone: {e}")))?;
    let head = if at == 0 { header(store) } else { Vec::new() };
    let frame = frame(store, at + head.len(), &body);
    let file = match storage.open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => storage.create_new(path),
        other => other,
    }
    .map_err(failed)?;
    file.write_at(&[&head, &frame, &body], at as u64).map_err(failed)?;
    file.set_len((at + head.len() + frame.len() + body.len()) as u64).map_err(failed)?;
    file.sync_data().map_err(failed)?;
    path.parent().map_or(Ok(()), |dir| storage.sync_dir(dir)).map_err(failed)
}

impl Blobs {
    /// When a blob that is not there was purged, and its length in bytes. Says nothing of one that is there. The file is read once.
    pub fn purged(&self, id: &BlobId) -> Option<(Time, u32)> {
        let all = self.purged.get_or_init(|| {
            let Some(layout) = self.dir.parent().map(Layout::new) else { return HashMap::new() };
            let found = read(&*self.storage, &layout.purged(), self.store).unwrap_or_else(|e| {
                tracing::warn!("{e}");
                Vec::new()
            });
            found.into_iter().flat_map(|t| t.blobs.into_iter().map(move |(id, len)| (id, (t.time, len)))).collect()
        });
        all.get(id).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::sim::SimDisk;

    #[test]
    fn tombstones_outlive_crashes_and_nothing_else_passes_for_one() {
        let (path, store) = (Path::new("/purged"), StoreId([4; 16]));
        let tombstone = |n: u8| Tombstone {
            time: Time { secs: i64::from(n), nanos: 0 },
            reason: "why".to_owned(),
            inodes: 2,
            blobs: vec![(BlobId([n; 32]), 9)],
        };
        for call in 1..30 {
            let disk = SimDisk::new();
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
        let disk = SimDisk::new();
        append(&disk, path, store, &tombstone(1)).unwrap();
        assert_eq!(
            BlobId::of(&disk.file_bytes(path).unwrap()).to_string(),
            "ea0b156e3368f957bab06b4a7ef1eac8e98ada44b8210a268c8ef59861b2628b"
        );
        assert!(read(&disk, path, StoreId([5; 16])).is_err());
    }
}

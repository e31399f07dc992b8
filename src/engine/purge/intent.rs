//! `meta/purge`: a purge has begun and not ended. Replaced whole; while it is there, whoever opens the store for writing carries it out
//! first. It names no path and no bytes: inode numbers and ids say what goes. Its form is in wal-format.md, "Purged".

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Class, Error, Result};
use crate::ids::{BlobId, Ino, StoreId, Time, VersionSeq};
use crate::storage::{Storage, read_small};

const MAGIC: &[u8; 8] = b"IZEPURGE";
const FORMAT: u32 = 1;
/// Magic, format version, length of the body, CRC-32 of store, magic, version, length and body.
const HEAD: usize = 8 + 4 + 4 + 4;
/// No intent is longer.
const MAX: u64 = 1 << 30;

/// What is being purged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// When it was ordered.
    pub time: Time,
    /// Why.
    pub reason: String,
    /// Inodes that go from every state.
    pub inodes: Vec<Ino>,
    /// Blobs that go although states name them, with their lengths.
    pub blobs: Vec<(BlobId, u32)>,
    /// Given, the checkpoint's state stays as it is, and so does this version's where it is the same one. 0 is no version.
    pub keep: Option<VersionSeq>,
}

fn crc(store: StoreId, head: &[u8], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&store.0);
    hasher.update(head);
    hasher.update(body);
    hasher.finalize()
}

/// The format version that it says it has.
fn form(bytes: &[u8]) -> Option<u32> {
    (bytes.get(..8)? == MAGIC).then_some(u32::from_le_bytes(bytes.get(8..12)?.try_into().ok()?))
}

impl Intent {
    /// Does a version keep its state? Only where that is the newest one, which stays: where nothing changed since but files without a name or
    /// without history, the last version is an old one like the others. (An older ize wrote the number of the last version in any case.)
    #[must_use]
    pub fn keeps(&self, version: VersionSeq, root: &BlobId, newest: Option<&BlobId>) -> bool {
        self.keep == Some(version) && newest == Some(root)
    }

    /// What has begun, if something has.
    ///
    /// # Errors
    /// `Damage` when its bytes are wrong, `Refused` when a newer ize wrote it; I/O errors.
    pub fn read(storage: &dyn Storage, path: &Path, store: StoreId) -> Result<Option<Self>> {
        let read = read_small(storage, path, MAX).map_err(|e| Error::io(format!("cannot read {}", path.display()), e))?;
        let Some(bytes) = read else { return Ok(None) };
        if let Some(form) = form(&bytes).filter(|form| *form > FORMAT) {
            return Err(Error::new(
                Class::Refused,
                format!("a purge was begun by a newer ize ({} has format version {form})", path.display()),
            )
            .hint("use that one: it brings the purge to its end"));
        }
        Self::decode(&bytes, store).map(Some).map_err(|why| {
            Error::new(Class::Damage, format!("{}, which says what is being purged, cannot be used: {why}", path.display()))
                .hint("an intact copy of it mends that; without one, remove it and order the purge again")
        })
    }

    fn decode(bytes: &[u8], store: StoreId) -> Result<Self, String> {
        let (head, body) = bytes.split_at_checked(HEAD).ok_or("it is too short")?;
        let number = |at: usize| head.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes);
        if form(bytes) != Some(FORMAT) || number(12) as usize != body.len() || number(16) != crc(store, &head[..16], body) {
            return Err("its checksum is wrong (or it is another store's)".to_owned());
        }
        match postcard::take_from_bytes(body) {
            Ok((intent, [])) => Ok(intent),
            _ => Err("its body has another form".to_owned()),
        }
    }

    /// Puts it there, durably.
    ///
    /// # Errors
    /// `Refused` when it is too long; I/O errors.
    pub fn write(&self, storage: &dyn Storage, path: &Path, store: StoreId) -> Result<()> {
        let body = postcard::to_stdvec(self).map_err(|e| Error::new(Class::Failed, format!("cannot say what is to be purged: {e}")))?;
        if (HEAD + body.len()) as u64 > MAX {
            return Err(
                Error::new(Class::Refused, "too much is to be purged at a time").hint("name some of the paths now, the others after that")
            );
        }
        let mut bytes = Vec::with_capacity(HEAD + body.len());
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&FORMAT.to_le_bytes());
        bytes.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
        let crc = crc(store, &bytes, &body);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes.extend_from_slice(&body);
        let failed = |e| Error::io(format!("cannot write {}", path.display()), e);
        let beside = path.with_extension("tmp");
        match storage.remove(&beside) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(e)),
            Ok(()) | Err(_) => {}
        }
        let file = storage.create_new(&beside).map_err(failed)?;
        file.write_at(&[&bytes], 0).map_err(failed)?;
        file.sync_data().map_err(failed)?;
        storage.rename(&beside, path).map_err(failed)?;
        path.parent().map_or(Ok(()), |dir| storage.sync_dir(dir)).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::sim::SimDisk;

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let (path, store) = (Path::new("/purge"), StoreId([4; 16]));
        let disk = SimDisk::new();
        assert_eq!(Intent::read(&disk, path, store).unwrap(), None);
        let intent = Intent { reason: "why".to_owned(), inodes: vec![Ino(7)], blobs: vec![(BlobId([1; 32]), 5)], ..Intent::default() };
        intent.write(&disk, path, store).unwrap();
        assert_eq!(Intent::read(&disk.crash(1), path, store).unwrap(), Some(intent));
        let bytes = disk.file_bytes(path).unwrap();
        assert_eq!(BlobId::of(&bytes).to_string(), "4c2025e70104deefa43faae40c782b894f0ca00047fc7fb49a59044f7d63316e");
        for bit in 0..bytes.len() * 8 {
            let mut wrong = bytes.clone();
            wrong[bit / 8] ^= 1 << (bit % 8);
            assert!(Intent::decode(&wrong, store).is_err(), "bit {bit}");
        }
        assert!((0..bytes.len()).all(|len| Intent::decode(&bytes[..len], store).is_err()));
        // A newer one is nothing to remove.
        let mut newer = bytes.clone();
        newer[8] = 2;
        disk.remove(path).unwrap();
        disk.create_new(path).unwrap().write_at(&[&newer], 0).unwrap();
        let e = Intent::read(&disk, path, store).unwrap_err();
        assert!(e.class == Class::Refused && e.to_string().contains("format version 2"), "{e}");
    }

    #[test]
    fn only_the_newest_state_is_kept_whatever_the_last_version_is() {
        let (newest, older) = (BlobId([1; 32]), BlobId([2; 32]));
        let intent = Intent { keep: Some(VersionSeq(7)), ..Intent::default() };
        assert!(intent.keeps(VersionSeq(7), &newest, Some(&newest)) && !intent.keeps(VersionSeq(7), &older, Some(&newest)));
        assert!(!intent.keeps(VersionSeq(6), &newest, Some(&newest)) && !Intent::default().keeps(VersionSeq(7), &newest, Some(&newest)));
    }
}

//! The checkpoint: what of the log is in the base, replaced atomically. One small file; its form is in wal-format.md, "Checkpoint".

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Class, Error, Result};
use crate::ids::{BlobId, Ino, Lsn, SegmentId, StoreId, Time, VersionSeq};
use crate::storage::{Storage, read_small};

/// First bytes of the file.
const MAGIC: &[u8; 8] = b"IZECHKPT";
/// Format version.
const VERSION: u32 = 1;
/// Magic, version, length of the body, CRC-32 over store id, magic, version, length and body.
const HEAD: usize = 8 + 4 + 4 + 4;
/// No checkpoint is longer.
const MAX: u64 = 4096;

/// What is in the base. `lsn` and all before it never needs to be read again to know the newest state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Whose it is.
    pub store: StoreId,
    /// The last record whose effect is in `root`.
    pub lsn: Lsn,
    /// Segments below this one were pruned; this one and those above must exist.
    pub floor: SegmentId,
    /// Root blob of the base; `None` for the empty state.
    pub root: Option<BlobId>,
    /// The last version.
    pub version: VersionSeq,
    /// The number that the next new inode gets.
    pub next_ino: Ino,
    /// The highest clamped time.
    pub clock: Time,
    /// Epoch of the log.
    pub epoch: u64,
    /// Operations so far.
    pub operations: u64,
    /// Bytes written so far.
    pub bytes: u64,
}

impl Checkpoint {
    /// Before anything.
    #[must_use]
    pub fn first(store: StoreId) -> Self {
        Self {
            store,
            lsn: Lsn::ZERO,
            floor: SegmentId(1),
            root: None,
            version: VersionSeq(0),
            next_ino: Ino(2),
            clock: Time::default(),
            epoch: 0,
            operations: 0,
            bytes: 0,
        }
    }

    fn encode(&self) -> Result<Vec<u8>> {
        let body = postcard::to_stdvec(self).map_err(|e| Error::new(Class::Failed, format!("cannot write a checkpoint: {e}")))?;
        let mut out = Vec::with_capacity(HEAD + body.len());
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
        let crc = crc(self.store, &out, &body);
        out.extend_from_slice(&crc.to_le_bytes());
        out.extend_from_slice(&body);
        Ok(out)
    }

    fn decode(bytes: &[u8], store: StoreId) -> Result<Self, String> {
        let (head, body) = bytes.split_at_checked(HEAD).ok_or("it is too short")?;
        let number = |at: usize| head.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes);
        if head.get(..8) != Some(MAGIC) {
            return Err("it does not begin like one".to_owned());
        }
        if number(8) != VERSION {
            return Err(format!("its format version {} is not known to this version of ize", number(8)));
        }
        if number(12) as usize != body.len() || number(16) != crc(store, &head[..16], body) {
            return Err("its checksum is wrong (or it is another store's)".to_owned());
        }
        match postcard::take_from_bytes::<Self>(body) {
            Ok((checkpoint, [])) if checkpoint.store == store => Ok(checkpoint),
            Ok(_) => Err("its body has another form".to_owned()),
            Err(e) => Err(format!("its body is malformed: {e}")),
        }
    }
}

fn crc(store: StoreId, head: &[u8], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&store.0);
    hasher.update(head);
    hasher.update(body);
    hasher.finalize()
}

/// Reads the checkpoint; `None` when there is none yet.
///
/// # Errors
/// `Damage` when its bytes are wrong, I/O errors.
pub fn read(storage: &dyn Storage, path: &Path, store: StoreId) -> Result<Option<Checkpoint>> {
    let read = read_small(storage, path, MAX).map_err(|e| Error::io(format!("cannot read {}", path.display()), e))?;
    let Some(bytes) = read else { return Ok(None) };
    Checkpoint::decode(&bytes, store).map(Some).map_err(|why| {
        Error::new(Class::Damage, format!("the checkpoint {} cannot be used: {why}", path.display()))
            .hint("keep a copy of the project's directory; the version log beside it still names every version")
    })
}

/// Reads the checkpoint for whoever goes on from it, and writes it afresh: what the page cache shows may have a name that the disk does not
/// have (the process died between rename and directory sync, or that sync failed), and segments are removed, and blobs swept, on its word.
///
/// # Errors
/// As [`read`] and [`replace`].
pub fn open(storage: &dyn Storage, path: &Path, store: StoreId) -> Result<Option<Checkpoint>> {
    let found = read(storage, path, store)?;
    if let Some(checkpoint) = &found {
        replace(storage, path, checkpoint)?;
    }
    Ok(found)
}

/// Replaces the checkpoint: written beside, synced, renamed, directory synced. Whatever was there before is there until then.
///
/// # Errors
/// I/O errors; the old checkpoint or the new one is then there, whole. [`ReplaceError::Unknown`] when nobody knows which.
pub fn replace(storage: &dyn Storage, path: &Path, checkpoint: &Checkpoint) -> Result<(), ReplaceError> {
    let bytes = checkpoint.encode().map_err(ReplaceError::Old)?;
    let failed = |e| Error::io(format!("cannot replace {}", path.display()), e);
    let doing = |e| ReplaceError::Old(failed(e));
    let beside = path.with_extension("tmp");
    match storage.remove(&beside) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(doing(e)),
        Ok(()) | Err(_) => {}
    }
    let file = storage.create_new(&beside).map_err(doing)?;
    file.write_at(&[&bytes], 0).map_err(doing)?;
    file.sync_data().map_err(doing)?;
    let renamed = storage.rename(&beside, path).and_then(|()| path.parent().map_or(Ok(()), |dir| storage.sync_dir(dir)));
    renamed.map_err(|e| ReplaceError::Unknown(failed(e)))
}

/// Why a checkpoint was not replaced.
#[derive(Debug)]
pub enum ReplaceError {
    /// The old one is still there.
    Old(Error),
    /// The old one or the new one is there, and a crash may turn one into the other: what either names must stay as it is.
    Unknown(Error),
}

impl From<ReplaceError> for Error {
    fn from(e: ReplaceError) -> Self {
        match e {
            ReplaceError::Old(e) | ReplaceError::Unknown(e) => e,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::sim::{CallKind, Effect, Fault, SimDisk};

    const STORE: StoreId = StoreId([5; 16]);

    fn example() -> Checkpoint {
        Checkpoint { lsn: Lsn(77), root: Some(BlobId([9; 32])), next_ino: Ino(300), ..Checkpoint::first(STORE) }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let bytes = example().encode().unwrap();
        assert_eq!(Checkpoint::decode(&bytes, STORE).unwrap(), example());
        assert!(Checkpoint::decode(&bytes, StoreId([6; 16])).is_err(), "another store's");
        for i in 0..bytes.len() * 8 {
            let mut wrong = bytes.clone();
            wrong[i / 8] ^= 1 << (i % 8);
            assert!(Checkpoint::decode(&wrong, STORE).is_err(), "bit {i}");
        }
        for len in 0..bytes.len() {
            assert!(Checkpoint::decode(&bytes[..len], STORE).is_err(), "cut to {len}");
        }
    }

    #[test]
    fn a_file_with_a_right_checksum_and_another_magic_is_no_checkpoint() {
        let mut bytes = example().encode().unwrap();
        bytes[0] = b'X';
        let crc = crc(STORE, &bytes[..16], &bytes[HEAD..]);
        bytes[16..20].copy_from_slice(&crc.to_le_bytes());
        assert!(Checkpoint::decode(&bytes, STORE).unwrap_err().contains("begin"));
    }

    /// Another hash is another format, which needs another version number and a reader for this one.
    #[test]
    fn the_bytes_are_frozen() {
        assert_eq!(
            BlobId::of(&example().encode().unwrap()).to_string(),
            "76a7a01cbf09ecaff09822b56f1e500ba90f54bc00a4af46a192db963e3349bb"
        );
    }

    #[test]
    fn a_crash_at_any_call_of_a_replacement_leaves_the_old_or_the_new_one() {
        let path = Path::new("/meta/checkpoint");
        for call in 1..20 {
            let disk = SimDisk::new();
            disk.shared().create_dir_all(Path::new("/meta")).unwrap();
            replace(&*disk.shared(), path, &Checkpoint::first(STORE)).unwrap();
            disk.crash_at_call(call);
            let replaced = replace(&*disk.shared(), path, &example()).is_ok();
            for seed in 0..20 {
                let found = read(&*disk.crash(seed).shared(), path, STORE).unwrap().unwrap();
                assert!(found == example() || (!replaced && found == Checkpoint::first(STORE)), "call {call}, seed {seed}: {found:?}");
            }
        }
    }

    /// A checkpoint that only the page cache holds is acted upon: segments below its floor go. So it must not be taken back by a power cut.
    #[test]
    fn what_an_opening_shows_survives_a_power_cut() {
        let path = Path::new("/meta/checkpoint");
        for failed_sync in [false, true] {
            let disk = SimDisk::new();
            disk.shared().create_dir_all(Path::new("/meta")).unwrap();
            replace(&disk, path, &Checkpoint::first(STORE)).unwrap();
            if failed_sync {
                disk.fail_sync_dir(1);
            } else {
                disk.script(|call| (call.kind == CallKind::SyncDir).then_some(Fault::Crash(Effect::None)));
            }
            assert!(matches!(replace(&disk, path, &example()), Err(ReplaceError::Unknown(_))));
            let left = disk.kill();
            assert_eq!(open(&left, path, STORE).unwrap(), Some(example()));
            assert!((0..30).all(|seed| read(&left.crash(seed), path, STORE).unwrap() == Some(example())), "failed sync: {failed_sync}");
        }
    }
}

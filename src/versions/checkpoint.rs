//! `meta/checkpoint`: up to where the log has become states that last. A small file, replaced whole: written under another name, synced,
//! renamed, the directory synced. So there is always one whole checkpoint, the old or the new; a damaged one is damage, never a crash.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Class, Error};
use crate::ids::{BlobId, Ino, Lsn, SegmentId, StoreId, Time, VersionSeq};
use crate::storage::{FileRef, Storage};

const MAGIC: [u8; 8] = *b"izechkp\0";
/// Format version written here.
pub const CHECKPOINT_VERSION: u32 = 1;
const HEADER_LEN: usize = 40;
/// Longer files are damaged.
const MAX_LEN: u64 = 64 << 10;

/// Everything at or below `lsn` is in version `version`, whose state is `root`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The store.
    pub store: StoreId,
    /// Last record whose effect is in `root`; [`Lsn::ZERO`] for none.
    pub lsn: Lsn,
    /// The lowest segment that must exist: a gap below it is pruned, above it is missing.
    pub floor: SegmentId,
    /// State after `lsn`; `None` for the empty state before the first version.
    pub root: Option<BlobId>,
    /// Newest version; 0 for none.
    pub version: VersionSeq,
    /// Inode numbers from here on have never been used.
    pub next_ino: Ino,
    /// Highest clamped time in the log so far.
    pub clock: Time,
    /// Epoch of the log: grows with each recovery that cuts.
    pub epoch: u64,
    /// Operations in all versions.
    pub operations: u64,
    /// Bytes written by them.
    pub bytes: u64,
}

/// Why there is no checkpoint to go by.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The file fails its check.
    #[error("checkpoint `{file}`, offset {offset}: {what}")]
    Damaged {
        /// The file.
        file: PathBuf,
        /// Where.
        offset: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// It is of another store.
    #[error("checkpoint `{file}` belongs to store {found}")]
    Foreign {
        /// The file.
        file: PathBuf,
        /// Store in the file.
        found: StoreId,
    },
    /// Written by a later ize.
    #[error("checkpoint `{file}` has format version {version}, feature bits {features:#x}, unknown to this ize")]
    Unsupported {
        /// The file.
        file: PathBuf,
        /// Format version.
        version: u32,
        /// Feature bits.
        features: u32,
    },
    /// The operating system refused.
    #[error("cannot {doing} `{file}`: {source}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On which file.
        file: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

impl From<CheckpointError> for Error {
    fn from(e: CheckpointError) -> Self {
        let (class, hint) = match &e {
            CheckpointError::Damaged { .. } | CheckpointError::Foreign { .. } => {
                (Class::Damage, Some("`ize wal verify` says what of the log and the versions is sound"))
            }
            CheckpointError::Unsupported { .. } => (Class::Refused, Some("use the ize that wrote it, or a later one")),
            CheckpointError::Io { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => (Class::Full, Some("make room on the disk")),
                _ => (Class::Io, None),
            },
        };
        let error = Error::new(class, e.to_string()).source(e);
        match hint {
            Some(h) => error.hint(h),
            None => error,
        }
    }
}

impl Checkpoint {
    /// The checkpoint before everything: no record, no version.
    #[must_use]
    pub fn initial(store: StoreId) -> Self {
        Self {
            store,
            lsn: Lsn::ZERO,
            floor: SegmentId(1),
            root: None,
            version: VersionSeq(0),
            next_ino: Ino::ROOT.next(),
            clock: Time::default(),
            epoch: 0,
            operations: 0,
            bytes: 0,
        }
    }

    /// Reads the checkpoint at `path`; `None` when there is no such file.
    ///
    /// # Errors
    /// What is wrong with it, or the I/O error: never taken for one another.
    pub fn read(storage: &dyn Storage, path: &Path, store: StoreId) -> Result<Option<Self>, CheckpointError> {
        let io_error = |source| CheckpointError::Io { doing: "read", file: path.to_path_buf(), source };
        let file = match storage.open_read(path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(io_error(e)),
        };
        let len = file.len().map_err(io_error)?;
        if !(HEADER_LEN as u64..=MAX_LEN).contains(&len) {
            return Err(CheckpointError::Damaged { file: path.to_path_buf(), offset: 0, what: "impossible length" });
        }
        let mut bytes = vec![0; len as usize];
        file.read_exact_at(&mut bytes, 0).map_err(io_error)?;
        Self::decode(&bytes, store, path).map(Some)
    }

    /// Makes this the checkpoint at `path`: when it returns Ok, it is durable; after an error the old one or this one is there, whole,
    /// and the caller must not go on as if it were this one.
    ///
    /// # Errors
    /// I/O errors.
    pub fn replace(&self, storage: &dyn Storage, path: &Path) -> Result<(), CheckpointError> {
        let mut tmp = path.as_os_str().to_owned();
        tmp.push(".tmp");
        let tmp = PathBuf::from(tmp);
        let failed = |doing, file: &Path| {
            let file = file.to_path_buf();
            move |source| CheckpointError::Io { doing, file, source }
        };
        // Always a fresh file: of one left by a failed attempt nothing is known.
        match storage.remove(&tmp) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed("remove", &tmp)(e)),
            _ => {}
        }
        let file = storage.create_new(&tmp).map_err(failed("create", &tmp))?;
        let written = self.write_to(&file);
        if let Err(e) = written {
            let _ = storage.remove(&tmp);
            return Err(failed("write", &tmp)(e));
        }
        storage.rename(&tmp, path).map_err(failed("replace", path))?;
        let dir = path.parent().unwrap_or(Path::new("/"));
        storage.sync_dir(dir).map_err(failed("sync the directory", dir))
    }

    fn write_to(&self, file: &FileRef) -> io::Result<()> {
        file.write_at(&[&self.encode().map_err(io::Error::other)?], 0)?;
        file.sync_data()
    }

    fn encode(&self) -> Result<Vec<u8>, postcard::Error> {
        let body = postcard::to_stdvec(self)?;
        let mut b = vec![0u8; HEADER_LEN];
        b[0..8].copy_from_slice(&MAGIC);
        b[8..12].copy_from_slice(&CHECKPOINT_VERSION.to_le_bytes());
        // 12..16: feature bits, none yet.
        b[16..32].copy_from_slice(&self.store.0);
        b[32..36].copy_from_slice(&(body.len() as u32).to_le_bytes());
        b.extend_from_slice(&body);
        let crc = crc_of(&b);
        b[36..40].copy_from_slice(&crc.to_le_bytes());
        Ok(b)
    }

    fn decode(b: &[u8], store: StoreId, path: &Path) -> Result<Self, CheckpointError> {
        let damaged = |offset, what| CheckpointError::Damaged { file: path.to_path_buf(), offset, what };
        let word = |at: usize| b.get(at..at + 4).and_then(|s| s.try_into().ok()).map_or(0, u32::from_le_bytes);
        if b.len() < HEADER_LEN || b[0..8] != MAGIC {
            return Err(damaged(0, "no checkpoint"));
        }
        if word(36) != crc_of(b) {
            return Err(damaged(36, "the bytes fail their check"));
        }
        let (version, features) = (word(8), word(12));
        if version != CHECKPOINT_VERSION || features != 0 {
            return Err(CheckpointError::Unsupported { file: path.to_path_buf(), version, features });
        }
        let mut found = [0; 16];
        found.copy_from_slice(&b[16..32]);
        let found = StoreId(found);
        if found != store {
            return Err(CheckpointError::Foreign { file: path.to_path_buf(), found });
        }
        if word(32) as usize != b.len() - HEADER_LEN {
            return Err(damaged(32, "the length is not that of the body"));
        }
        match postcard::take_from_bytes::<Self>(&b[HEADER_LEN..]) {
            Ok((checkpoint, [])) if checkpoint.store == store => Ok(checkpoint),
            _ => Err(damaged(HEADER_LEN as u64, "the body cannot be decoded")),
        }
    }
}

/// CRC-32 of everything but the CRC's own place.
fn crc_of(b: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&b[..36]);
    crc.update(&b[HEADER_LEN..]);
    crc.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::sim::SimDisk;

    const STORE: StoreId = StoreId(*b"a store of tests");

    fn path() -> PathBuf {
        PathBuf::from("/p/meta/checkpoint")
    }

    fn disk() -> SimDisk {
        let disk = SimDisk::new();
        disk.shared().create_dir_all(Path::new("/p/meta")).unwrap();
        disk
    }

    fn sample(n: u64) -> Checkpoint {
        Checkpoint {
            store: STORE,
            lsn: Lsn(100 * n),
            floor: SegmentId(n),
            root: Some(BlobId([n as u8; 32])),
            version: VersionSeq(n),
            next_ino: Ino(5 * n),
            clock: Time { secs: 1_700_000_000, nanos: 999_999_999 },
            epoch: 2,
            operations: 1000 * n,
            bytes: 1 << 40,
        }
    }

    fn read(disk: &SimDisk) -> Result<Option<Checkpoint>, CheckpointError> {
        Checkpoint::read(&disk.clone(), &path(), STORE)
    }

    #[test]
    fn a_checkpoint_is_read_back_and_a_missing_one_is_none() {
        let disk = disk();
        assert_eq!(read(&disk).unwrap(), None);
        for n in [1, 2] {
            sample(n).replace(&disk.clone(), &path()).unwrap();
            assert_eq!(read(&disk.crash(n)).unwrap(), Some(sample(n)));
        }
        Checkpoint::initial(STORE).replace(&disk.clone(), &path()).unwrap();
        assert_eq!(read(&disk).unwrap(), Some(Checkpoint::initial(STORE)));
        assert!(matches!(Checkpoint::read(&disk.clone(), &path(), StoreId([0; 16])), Err(CheckpointError::Foreign { .. })));
    }

    #[test]
    fn the_bytes_of_version_1_stay() {
        let golden = include_bytes!("../../tests/golden/checkpoint-1.bin");
        let bytes = sample(7).encode().unwrap();
        if std::env::var_os("IZE_BLESS").is_some() {
            std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/checkpoint-1.bin"), &bytes).unwrap();
            return;
        }
        assert_eq!(bytes, golden);
        assert_eq!(Checkpoint::decode(golden, STORE, &path()).unwrap(), sample(7));
    }

    #[test]
    fn every_flipped_bit_and_every_truncation_is_damage() {
        let bytes = sample(1).encode().unwrap();
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut b = bytes.clone();
                b[at] ^= 1 << bit;
                let error = Checkpoint::decode(&b, STORE, &path()).unwrap_err();
                assert!(matches!(error, CheckpointError::Damaged { .. }), "{at} {bit}: {error}");
            }
            assert!(Checkpoint::decode(&bytes[..at], STORE, &path()).is_err());
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert!(Checkpoint::decode(&longer, STORE, &path()).is_err());
        let disk = disk();
        disk.shared().create_new(&path()).unwrap();
        assert_eq!(Error::from(read(&disk).unwrap_err()).class, Class::Damage, "an empty file is no missing one");
    }

    #[test]
    fn a_crash_at_any_call_leaves_the_old_or_the_new_one() {
        for at in 1..12 {
            for seed in 0..30 {
                let disk = disk();
                sample(1).replace(&disk.clone(), &path()).unwrap();
                disk.crash_at_call(at);
                let done = sample(2).replace(&disk.clone(), &path()).is_ok();
                let after = disk.crash(seed);
                let found = read(&after).unwrap().unwrap();
                assert!(found == sample(2) || (found == sample(1) && !done), "call {at}, seed {seed}");
                sample(3).replace(&after.clone(), &path()).unwrap();
                assert_eq!(read(&after.crash(seed)).unwrap(), Some(sample(3)));
            }
        }
    }

    #[test]
    fn a_failed_sync_or_a_full_disk_leaves_the_old_one() {
        let disk = disk();
        sample(1).replace(&disk.clone(), &path()).unwrap();
        disk.fail_sync(1);
        assert!(sample(2).replace(&disk.clone(), &path()).is_err());
        disk.set_capacity(Some(disk.used() + 10));
        assert_eq!(Error::from(sample(2).replace(&disk.clone(), &path()).unwrap_err()).class, Class::Full);
        assert_eq!(read(&disk).unwrap(), Some(sample(1)));
        assert_eq!(read(&disk.crash(1)).unwrap(), Some(sample(1)));
        disk.fail_read(1);
        assert!(matches!(read(&disk), Err(CheckpointError::Io { .. })), "an I/O error is no damage");
    }
}

//! What recovery and repair have in common: the valid prefix of a segment, and the fresh copy that takes its place.

use std::io;
use std::path::Path;

use crate::ids::{Lsn, SegmentId, StoreId};
use crate::storage::Storage;

use super::error::{Result, WalContext};
use super::format::{FOOTER_LEN, Footer, Framing, fresh_path, segment_path};
use super::reader::{Next, Record, SegmentReader};

/// The valid prefix of a segment.
#[derive(Default)]
pub(super) struct Prefix {
    /// Where it ends.
    pub end: u64,
    /// Records in it.
    pub count: u64,
    /// Bytes of blobs that they name.
    pub payload: u64,
    /// The last of them.
    pub last: Option<Lsn>,
    /// What they prove durable.
    pub durable: Lsn,
    /// Digest over header and records.
    pub digest: [u8; 32],
    /// The record at `end` is valid, but `go_on` said no.
    pub stopped: bool,
}

impl Prefix {
    /// Reads the records of the segment with file `bytes` to the first place that is none, or the first record for which `go_on` says no.
    /// What follows damage at or below `bound` belongs to the prefix, what follows damage above it does not.
    ///
    /// # Errors
    /// Those of `go_on`.
    pub(super) fn read(
        bytes: &[u8],
        (store, id, first): (StoreId, SegmentId, Option<Lsn>),
        bound: Lsn,
        go_on: &mut dyn FnMut(&Record<'_>) -> Result<bool>,
    ) -> Result<Self> {
        let mut reader = SegmentReader::new(bytes, store, id, first, bound);
        let mut prefix = Prefix { end: reader.offset(), digest: reader.digest(), ..Prefix::default() };
        while let Some(next) = reader.step() {
            match next {
                Next::Record(record) => {
                    if !go_on(&record)? {
                        prefix.stopped = true;
                        prefix.digest = digest_until(bytes, (store, id, first), bound, prefix.end);
                        return Ok(prefix);
                    }
                    prefix.end = reader.offset();
                    prefix.last = Some(record.lsn);
                    (prefix.count, prefix.payload, prefix.durable) = (reader.count(), reader.payload(), reader.highest_durable());
                }
                Next::Sealed(footer, _) => {
                    // Of a damaged segment below the checkpoint, the footer knows more than could be read.
                    if !reader.is_whole() {
                        prefix.last = Some(footer.last_lsn);
                        prefix.end = reader.offset();
                    }
                }
                Next::Corrupt(c) if c.through.is_none_or(|through| through > bound) => break,
                Next::End(..) | Next::TornTail(_) | Next::Corrupt(_) => {}
            }
        }
        prefix.digest = reader.digest();
        Ok(prefix)
    }
}

/// Digest over the header and the records before offset `end`. Read once more, because a reader has no way back.
fn digest_until(bytes: &[u8], (store, id, first): (StoreId, SegmentId, Option<Lsn>), bound: Lsn, end: u64) -> [u8; 32] {
    let mut reader = SegmentReader::new(bytes, store, id, first, bound);
    while reader.offset() < end && reader.step().is_some() {}
    reader.digest()
}

/// The whole file at `path`, in memory.
pub(super) fn read(storage: &dyn Storage, path: &Path) -> Result<Vec<u8>> {
    let reading = || format!("cannot read {}", path.display());
    let file = storage.open_read(path).wal(reading)?;
    super::scan::read_whole(&file).wal(reading)
}

/// `prefix` and `footer` into a new file, synced, that takes the segment's name; the directory synced. Gives the file's length.
pub(super) fn fresh_copy(
    storage: &dyn Storage,
    dir: &Path,
    (store, id): (StoreId, SegmentId),
    prefix: &[u8],
    footer: &Footer,
) -> Result<u64> {
    let (path, name) = (fresh_path(dir, id), segment_path(dir, id));
    let copying = || format!("cannot copy {} to {}", name.display(), path.display());
    let encoded = Framing::new(store, id).footer(footer, prefix.len() as u64);
    let file = match storage.create_new(&path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            // Of a copy that was cut short.
            storage.remove(&path).wal(copying)?;
            storage.create_new(&path)
        }
        other => other,
    };
    let file = file.wal(copying)?;
    let written = (|| {
        file.write_at(&[prefix, &encoded], 0)?;
        file.sync_data()
    })();
    if let Err(e) = written {
        let _ = storage.remove(&path);
        return Err(e).wal(copying);
    }
    storage.rename(&path, &name).wal(copying)?;
    storage.sync_dir(dir).wal(|| format!("cannot sync {}", dir.display()))?;
    Ok((prefix.len() + FOOTER_LEN) as u64)
}

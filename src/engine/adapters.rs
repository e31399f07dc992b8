//! The blob store and the log's segments, as the tree reads them.

use std::io;

use crate::blobs::{BlobError, Blobs, Encoding};
use crate::ids::{BlobId, SegmentId};
use crate::tree::{BlobRead, BlobWrite, LogBytes, TreeError};
use crate::wal::Segment;

fn wrong(blobs: &Blobs, id: &BlobId, e: &BlobError) -> TreeError {
    if let BlobError::Missing(_) = e
        && let Some((time, len)) = blobs.purged(id)
    {
        return TreeError::Purged { id: *id, time, len };
    }
    TreeError::Blob { id: *id, why: e.to_string(), damaged: matches!(e, BlobError::Missing(_) | BlobError::Damaged(_)), full: e.is_full() }
}

impl BlobRead for Blobs {
    fn get(&self, id: &BlobId) -> Result<Vec<u8>, TreeError> {
        Blobs::get(self, id).map_err(|e| wrong(self, id, &e))
    }

    fn read_at(&self, id: &BlobId, offset: u64, buf: &mut [u8]) -> Result<(), TreeError> {
        match Blobs::read_at(self, id, offset, buf) {
            Ok(n) if n == buf.len() => Ok(()),
            Ok(n) => Err(TreeError::Blob {
                id: *id,
                why: format!("it ends {} bytes short of what its place asks for", buf.len() - n),
                damaged: true,
                full: false,
            }),
            Err(e) => Err(wrong(self, id, &e)),
        }
    }
}

impl BlobWrite for Blobs {
    fn put(&self, bytes: &[u8]) -> Result<BlobId, TreeError> {
        Blobs::put(self, bytes, Encoding::Compress).map_err(|e| wrong(self, &BlobId::of(bytes), &e))
    }
}

/// The blob store as replay reads it: what was purged reads as zeros, or a change of a file of which some bytes were purged could never become
/// a version.
#[derive(Debug)]
pub(super) struct Blanked<'a>(pub &'a Blobs);

impl BlobRead for Blanked<'_> {
    fn get(&self, id: &BlobId) -> Result<Vec<u8>, TreeError> {
        match BlobRead::get(self.0, id) {
            Err(TreeError::Purged { len, .. }) => Ok(vec![0; len as usize]),
            other => other,
        }
    }

    fn read_at(&self, id: &BlobId, offset: u64, buf: &mut [u8]) -> Result<(), TreeError> {
        match BlobRead::read_at(self.0, id, offset, buf) {
            Err(TreeError::Purged { len, .. }) if offset.saturating_add(buf.len() as u64) <= u64::from(len) => {
                buf.fill(0);
                Ok(())
            }
            other => other,
        }
    }
}

/// The same, for who keeps it.
#[derive(Debug)]
pub(crate) struct BlankedStore(pub std::sync::Arc<Blobs>);

impl BlobRead for BlankedStore {
    fn get(&self, id: &BlobId) -> Result<Vec<u8>, TreeError> {
        Blanked(&self.0).get(id)
    }

    fn read_at(&self, id: &BlobId, offset: u64, buf: &mut [u8]) -> Result<(), TreeError> {
        Blanked(&self.0).read_at(id, offset, buf)
    }
}

impl LogBytes for Segment {
    fn segment(&self) -> SegmentId {
        self.id
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        Segment::read_at(self, buf, offset)
    }
}

//! The blob store and the log's segments, as the tree reads them.

use std::io;

use crate::blobs::{BlobError, Blobs, Encoding};
use crate::ids::{BlobId, SegmentId};
use crate::tree::{BlobRead, BlobWrite, LogBytes, TreeError};
use crate::wal::Segment;

fn wrong(id: &BlobId, e: &BlobError) -> TreeError {
    TreeError::Blob { id: *id, why: e.to_string(), damaged: matches!(e, BlobError::Missing(_) | BlobError::Damaged(_)), full: e.is_full() }
}

impl BlobRead for Blobs {
    fn get(&self, id: &BlobId) -> Result<Vec<u8>, TreeError> {
        Blobs::get(self, id).map_err(|e| wrong(id, &e))
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
            Err(e) => Err(wrong(id, &e)),
        }
    }
}

impl BlobWrite for Blobs {
    fn put(&self, bytes: &[u8]) -> Result<BlobId, TreeError> {
        Blobs::put(self, bytes, Encoding::Compress).map_err(|e| wrong(&BlobId::of(bytes), &e))
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

//! A segment file that is held open: what was pruned stays readable while somebody holds it.

use std::io;

use crate::ids::SegmentId;
use crate::storage::FileRef;

/// An open segment file.
#[derive(Debug)]
pub struct Segment {
    /// Its number.
    pub id: SegmentId,
    file: FileRef,
}

impl Segment {
    pub(crate) fn new(id: SegmentId, file: FileRef) -> Self {
        Self { id, file }
    }

    /// Reads exactly `buf.len()` bytes at `offset` of the file. What was appended is there at once; nothing is checked.
    ///
    /// # Errors
    /// `UnexpectedEof` past the end, or whatever the disk says.
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }

    pub(crate) fn file(&self) -> &FileRef {
        &self.file
    }
}

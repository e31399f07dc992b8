//! The bytes of one regular file: extents that are newer than the base, over the base's pieces, over zeros.
//!
//! Every extent carries the LSN of the operation that put it there. When the state at LSN *e* becomes the base, extents with `lsn <= e`
//! go, because the base now has their bytes at the same offsets; those above stay. For that to be right, whatever was cut off or punched
//! out is an extent too (a hole), so that no older base can shine through.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::piece_map::{Above, PieceMap};
use super::{BlobRead, LogBytes, TreeError};
use crate::ids::{BlobId, Lsn};
use crate::versions::node::{Content, Piece};

/// Where the bytes of a contiguous range are.
#[derive(Clone, Debug)]
pub enum Source {
    /// Nowhere: zeros.
    Hole,
    /// In a log segment.
    Log {
        /// The segment.
        bytes: Arc<dyn LogBytes>,
        /// Where in its file.
        offset: u64,
    },
    /// In a blob.
    Blob {
        /// The blob.
        id: BlobId,
        /// Where in it.
        offset: u64,
    },
}

impl Source {
    fn advanced(&self, by: u64) -> Source {
        match self {
            Source::Hole => Source::Hole,
            Source::Log { bytes, offset } => Source::Log { bytes: Arc::clone(bytes), offset: offset + by },
            Source::Blob { id, offset } => Source::Blob { id: *id, offset: offset + by },
        }
    }

    fn is_hole(&self) -> bool {
        matches!(self, Source::Hole)
    }
}

#[derive(Clone, Debug)]
struct Extent {
    len: u64,
    source: Source,
    lsn: Lsn,
}

/// The bytes of one regular file.
#[derive(Debug)]
pub struct FileBody {
    base: Content,
    base_size: u64,
    /// Bytes of the base that are not holes.
    base_allocated: u64,
    map: Option<Box<PieceMap>>,
    extents: BTreeMap<u64, Extent>,
    /// Bytes of extents that are not holes.
    extent_data: u64,
    /// Bytes of the base that extents hide.
    covered: u64,
}

impl FileBody {
    /// A file as committed: its content, size and allocated bytes.
    #[must_use]
    pub fn committed(base: Content, size: u64, allocated: u64) -> Self {
        FileBody { base, base_size: size, base_allocated: allocated, map: None, extents: BTreeMap::new(), extent_data: 0, covered: 0 }
    }

    /// An empty file.
    #[must_use]
    pub fn empty() -> Self {
        Self::committed(Content::Empty, 0, 0)
    }

    /// The committed content beneath the extents.
    #[must_use]
    pub fn base_content(&self) -> &Content {
        &self.base
    }

    /// Length of the committed content.
    #[must_use]
    pub fn base_size(&self) -> u64 {
        self.base_size
    }

    /// True when nothing is newer than the base.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.extents.is_empty()
    }

    /// Bytes that are not holes; exact but where extents hide holes of the base.
    #[must_use]
    pub fn allocated(&self) -> u64 {
        self.extent_data + self.base_allocated.saturating_sub(self.covered)
    }

    /// Bytes of extents in log and packs.
    #[must_use]
    pub fn overlay_bytes(&self) -> u64 {
        self.extent_data
    }

    /// The ranges that are newer than the base, as (offset, length), in order.
    pub fn changed_ranges(&self) -> impl Iterator<Item = (u64, u64)> {
        self.extents.iter().map(|(at, e)| (*at, e.len))
    }

    /// The extent that begins at `offset`, if it begins where its blob begins: the blob, and how much of it stands there.
    #[must_use]
    pub fn blob_at(&self, offset: u64) -> Option<(BlobId, u64)> {
        match self.extents.get(&offset)? {
            Extent { len, source: Source::Blob { id, offset: 0 }, .. } => Some((*id, *len)),
            _ => None,
        }
    }

    /// Puts `source` at `offset..offset + len`.
    pub(super) fn put(&mut self, offset: u64, len: u64, source: Source, lsn: Lsn) {
        if len == 0 {
            return;
        }
        self.clear(offset, len);
        self.count(offset, len, &source, true);
        self.extents.insert(offset, Extent { len, source, lsn });
    }

    /// Cuts the file to `size`; `old_size` is the length before.
    pub(super) fn truncate(&mut self, old_size: u64, size: u64, lsn: Lsn) {
        let end = old_size.max(self.base_size);
        if size < end {
            self.put(size, end - size, Source::Hole, lsn);
        }
        // Nothing lies beyond `end`: extents never reach past the length that the file had.
    }

    fn count(&mut self, offset: u64, len: u64, source: &Source, add: bool) {
        let hidden = self.base_size.min(offset + len).saturating_sub(offset);
        let data = if source.is_hole() { 0 } else { len };
        if add {
            self.covered += hidden;
            self.extent_data += data;
        } else {
            self.covered = self.covered.saturating_sub(hidden);
            self.extent_data = self.extent_data.saturating_sub(data);
        }
    }

    /// Removes extents in the range, cutting those that reach over its ends.
    fn clear(&mut self, offset: u64, len: u64) {
        let end = offset + len;
        // One that begins before and reaches in, perhaps across.
        if let Some((&at, extent)) = self.extents.range_mut(..offset).next_back()
            && at + extent.len > offset
        {
            let old_len = extent.len;
            let (source, lsn) = (extent.source.clone(), extent.lsn);
            extent.len = offset - at;
            let extent_end = at + old_len;
            let cut_to = extent_end.min(end);
            self.count(offset, cut_to - offset, &source, false);
            if extent_end > end {
                let tail = Extent { len: extent_end - end, source: source.advanced(end - at), lsn };
                self.extents.insert(end, tail);
            }
        }
        let inside: Vec<u64> = self.extents.range(offset..end).map(|(at, _)| *at).collect();
        for at in inside {
            if let Some(extent) = self.extents.remove(&at) {
                let extent_end = at + extent.len;
                self.count(at, extent_end.min(end) - at, &extent.source, false);
                if extent_end > end {
                    let tail = Extent { len: extent_end - end, source: extent.source.advanced(end - at), lsn: extent.lsn };
                    self.extents.insert(end, tail);
                }
            }
        }
    }

    /// The state at `lsn` is now the base: its content, size and allocated bytes.
    pub(crate) fn rebase(&mut self, base: Content, size: u64, allocated: u64, lsn: Lsn) {
        self.extents.retain(|_, extent| extent.lsn > lsn);
        self.base = base;
        self.base_size = size;
        self.base_allocated = allocated;
        self.map = None;
        (self.extent_data, self.covered) = (0, 0);
        for (at, extent) in &self.extents {
            self.covered += size.min(at + extent.len).saturating_sub(*at);
            self.extent_data += if extent.source.is_hole() { 0 } else { extent.len };
        }
    }

    /// Lets go of what can be read again from the base.
    pub(super) fn unload(&mut self) {
        self.map = None;
    }

    /// About how many bytes it has on the heap.
    pub(super) fn heap_bytes(&self) -> usize {
        let map = self.map.as_ref().map_or(0, |map| map.heap_bytes());
        let own = if let Content::Pieces(pieces) = &self.base { pieces.len() * size_of::<Piece>() } else { 0 };
        map + own + self.extents.len() * size_of::<(u64, Extent)>() * 4 / 3
    }

    /// Length of the base's pieces.
    ///
    /// # Errors
    /// When a list of pieces cannot be read.
    pub(crate) fn base_end(&mut self, blobs: &dyn BlobRead) -> Result<u64, TreeError> {
        self.map.get_or_insert_default().end(blobs, &self.base)
    }

    /// The highest page or list of pages of the base below this height that begins at `at`. It is not read.
    ///
    /// # Errors
    /// When a list above it cannot be read.
    pub(crate) fn base_part(&mut self, blobs: &dyn BlobRead, at: u64, below: u8) -> Result<Option<Above>, TreeError> {
        self.map.get_or_insert_default().part_at(blobs, &self.base, at, below)
    }

    /// The piece of the base that begins at `at`.
    ///
    /// # Errors
    /// When a list of pieces cannot be read.
    pub(crate) fn base_piece(&mut self, blobs: &dyn BlobRead, at: u64) -> Result<Option<Piece>, TreeError> {
        let Some((start, row)) = self.map.get_or_insert_default().page_at(blobs, &self.base, at)? else { return Ok(None) };
        let piece = row.items.get(row.index(at - start));
        Ok(piece.filter(|(offset, _)| start + offset == at).map(|(_, piece)| *piece))
    }

    /// What to read for the range (the caller has cut it to the file's length).
    pub(crate) fn plan(&mut self, blobs: &dyn BlobRead, offset: u64, len: u64) -> Result<ReadPlan, TreeError> {
        let mut plan = ReadPlan::default();
        if len == 0 {
            return Ok(plan);
        }
        let end = offset + len;
        let mut at = offset;
        let first = self.extents.range(..=offset).next_back().map_or(offset, |(at, _)| *at);
        let overlapping: Vec<(u64, u64, Source)> =
            self.extents.range(first..end).filter(|(s, e)| *s + e.len > offset).map(|(s, e)| (*s, e.len, e.source.clone())).collect();
        for (start, extent_len, source) in overlapping {
            if start > at {
                self.plan_base(blobs, at, start - at, &mut plan)?;
                at = start;
            }
            let stop = (start + extent_len).min(end);
            plan.push(stop - at, source.advanced(at - start));
            at = stop;
        }
        if at < end {
            self.plan_base(blobs, at, end - at, &mut plan)?;
        }
        Ok(plan)
    }

    fn plan_base(&mut self, blobs: &dyn BlobRead, offset: u64, len: u64, plan: &mut ReadPlan) -> Result<(), TreeError> {
        let end = offset + len;
        let mut at = offset;
        while at < end.min(self.base_size) {
            let Some((start, row)) = self.map.get_or_insert_default().page_at(blobs, &self.base, at)? else { break };
            let first = row.index(at - start);
            for (offset, piece) in row.items.get(first..).unwrap_or_default() {
                if at >= end {
                    break;
                }
                let begin = start + offset;
                let stop = (begin + piece.len()).min(end);
                let source = match piece {
                    Piece::Chunk { id, .. } => Source::Blob { id: *id, offset: at - begin },
                    Piece::Hole { .. } => Source::Hole,
                };
                plan.push(stop - at, source);
                at = stop;
            }
        }
        if at < end {
            plan.push(end - at, Source::Hole);
        }
        Ok(())
    }

    pub(super) fn live(&self, also_base: bool, see: &mut dyn FnMut(super::Live)) {
        for extent in self.extents.values() {
            if let Source::Blob { id, .. } = extent.source {
                see(super::Live::Blob(id));
            }
        }
        if also_base {
            see(super::Live::Content(self.base.clone()));
        }
    }
}

/// Ranges to read one behind the other. Holds segments open; needs no lock of the tree.
#[derive(Clone, Debug, Default)]
pub struct ReadPlan {
    parts: Vec<(u64, Source)>,
    len: u64,
}

impl ReadPlan {
    /// One range from one source.
    #[must_use]
    pub fn of(len: u64, source: Source) -> Self {
        let mut plan = Self::default();
        plan.push(len, source);
        plan
    }

    fn push(&mut self, len: u64, source: Source) {
        if len > 0 {
            self.len += len;
            self.parts.push((len, source));
        }
    }

    /// Bytes that it reads.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// True when it reads nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The parts in order: length and source.
    #[must_use]
    pub fn parts(&self) -> &[(u64, Source)] {
        &self.parts
    }

    /// Reads all of it into the first `len()` bytes of `out`, which has room.
    ///
    /// # Errors
    /// [`TreeError`] when a blob or the log cannot be read.
    pub fn read(&self, blobs: &dyn BlobRead, out: &mut [u8]) -> Result<(), TreeError> {
        let mut rest = out;
        for (len, source) in &self.parts {
            let (part, behind) = rest.split_at_mut(usize::try_from(*len).unwrap_or(usize::MAX).min(rest.len()));
            rest = behind;
            match source {
                Source::Hole => part.fill(0),
                Source::Log { bytes, offset } => {
                    bytes.read_at(part, *offset).map_err(|error| TreeError::Log { segment: bytes.segment(), offset: *offset, error })?
                }
                Source::Blob { id, offset } => blobs.read_at(id, *offset, part)?,
            }
        }
        Ok(())
    }
}

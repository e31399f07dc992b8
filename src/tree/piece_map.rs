//! Where the pieces of a file's committed content are: pages and lists of pages, read when somebody looks there and kept for the next look.

use std::collections::HashMap;
use std::sync::Arc;

use super::{BlobRead, TreeError};
use crate::ids::BlobId;
use crate::versions::node::{Content, PageRef, Piece};
use crate::versions::piece_tree::{Part, all, read};

/// Pages and lists of pages that are kept, about 14 KB each: with more all are let go. Those of 16 GiB.
const KEPT: usize = 1024;

/// Pieces, or pages, with their offsets from the first one, for binary search.
#[derive(Debug)]
pub(super) struct Row<T> {
    pub items: Vec<(u64, T)>,
    pub end: u64,
}

impl<T: Copy> Row<T> {
    fn new(items: &[T], len: impl Fn(&T) -> u64) -> Self {
        let mut end = 0u64;
        let with_offset = |item: &T| {
            let at = end;
            end = end.saturating_add(len(item));
            (at, *item)
        };
        let items = items.iter().map(with_offset).collect();
        Row { items, end }
    }

    /// The number of the item that holds the byte at `at`, which is below the end.
    pub fn index(&self, at: u64) -> usize {
        self.items.partition_point(|(start, _)| *start <= at).saturating_sub(1)
    }
}

/// A page, and where it begins in the file.
pub(super) type Page = (u64, Arc<Row<Piece>>);

#[derive(Clone, Debug)]
enum Known {
    Pieces(Arc<Row<Piece>>),
    Pages(Arc<Row<PageRef>>),
}

/// A page, or a list of pages, that the byte looked for is in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Above {
    /// Where it begins in the file.
    pub start: u64,
    /// Lists from it down to the pages; 0 for a page.
    pub height: u8,
    /// It.
    pub part: PageRef,
}

/// What has been read of one content.
#[derive(Debug, Default)]
pub(super) struct PieceMap {
    /// Of a file without pages.
    whole: Option<Arc<Row<Piece>>>,
    known: HashMap<BlobId, Known>,
}

impl PieceMap {
    /// About how many bytes it has on the heap.
    pub fn heap_bytes(&self) -> usize {
        let pieces = |row: &Row<Piece>| row.items.len() * size_of::<(u64, Piece)>();
        let known = self.known.values().map(|known| match known {
            Known::Pieces(row) => pieces(row),
            Known::Pages(row) => row.items.len() * size_of::<(u64, PageRef)>(),
        });
        self.whole.as_deref().map_or(0, pieces) + known.sum::<usize>() + self.known.len() * size_of::<(BlobId, Known)>()
    }

    /// The page that the byte at `at` is in, and where it begins. `None` behind the last one.
    pub fn page_at(&mut self, blobs: &dyn BlobRead, base: &Content, at: u64) -> Result<Option<Page>, TreeError> {
        let Content::PieceTree { root, height } = base else {
            let row = match &self.whole {
                Some(row) => row,
                None => self.whole.insert(Arc::new(Row::new(&all(blobs, base)?, Piece::len))),
            };
            return Ok((at < row.end).then(|| (0, Arc::clone(row))));
        };
        let Some(page) = self.descend(blobs, (*root, *height), at, &|_| false)? else { return Ok(None) };
        match self.load(blobs, &page.part.id, 0, Some(page.part))? {
            Known::Pieces(row) => Ok(Some((page.start, row))),
            Known::Pages(_) => Ok(None),
        }
    }

    /// The highest page or list of pages below this height that begins at `at`; the root is none. Neither it nor what is below it is read.
    pub fn part_at(&mut self, blobs: &dyn BlobRead, base: &Content, at: u64, below: u8) -> Result<Option<Above>, TreeError> {
        let Content::PieceTree { root, height } = base else { return Ok(None) };
        let part = self.descend(blobs, (*root, *height), at, &|above| above.start == at && above.height < below)?;
        Ok(part.filter(|above| above.start == at && above.height < below))
    }

    /// Length of all pieces.
    pub fn end(&mut self, blobs: &dyn BlobRead, base: &Content) -> Result<u64, TreeError> {
        match base {
            Content::PieceTree { root, height } => Ok(match self.load(blobs, root, *height, None)? {
                Known::Pages(row) => row.end,
                Known::Pieces(row) => row.end,
            }),
            _ => Ok(self.page_at(blobs, base, 0)?.map_or(0, |(_, row)| row.end)),
        }
    }

    /// Goes down to the page that `at` is in, or to the first list on the way that is enough; gives that.
    fn descend(
        &mut self,
        blobs: &dyn BlobRead,
        (root, height): (BlobId, u8),
        at: u64,
        enough: &dyn Fn(&Above) -> bool,
    ) -> Result<Option<Above>, TreeError> {
        let (mut id, mut height, mut start, mut said) = (root, height, 0u64, None);
        let mut found = None;
        while height > 0 {
            let Known::Pages(row) = self.load(blobs, &id, height, said)? else { return Ok(None) };
            if at - start >= row.end {
                return Ok(None);
            }
            let Some((offset, part)) = row.items.get(row.index(at - start)) else { return Ok(None) };
            start += offset;
            height -= 1;
            (id, said) = (part.id, Some(*part));
            let above = Above { start, height, part: *part };
            found = Some(above);
            if enough(&above) {
                break;
            }
        }
        Ok(found)
    }

    fn load(&mut self, blobs: &dyn BlobRead, id: &BlobId, height: u8, said: Option<PageRef>) -> Result<Known, TreeError> {
        if let Some(known) = self.known.get(id) {
            return Ok(known.clone());
        }
        let (known, end) = match read(blobs, id, height)? {
            Part::Pieces(pieces) => {
                let row = Row::new(&pieces, Piece::len);
                let end = row.end;
                (Known::Pieces(Arc::new(row)), end)
            }
            Part::Pages(pages) => {
                let row = Row::new(&pages, |page| page.len);
                let end = row.end;
                (Known::Pages(Arc::new(row)), end)
            }
        };
        if let Some(said) = said
            && said.len != end
        {
            let why = format!("it has {end} bytes of the file, and the list above it says {}", said.len);
            return Err(TreeError::Malformed { what: "piece list", id: *id, why });
        }
        if self.known.len() >= KEPT {
            self.known.clear();
        }
        self.known.insert(*id, known.clone());
        Ok(known)
    }
}

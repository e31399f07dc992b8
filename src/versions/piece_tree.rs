//! The pieces of a large file as blobs: pages of pieces, lists of pages above them, lists of lists. Where a page or a list ends follows from
//! what is in it alone, so that a change rewrites the page that it falls into and the lists above that page, one on each level.
//!
//! A file whose pieces fill one page at most has no list: it holds them in its node, or names the page. Equal pieces give equal blobs, whatever
//! way led to them. Upper limit: with at least [`PAGE_MIN`] entries in all but the last page of a level, [`HEIGHT_MAX`] lists above one another
//! name 2^56 pieces, more than the longest file has. A file of 16 TiB has some 2^28 pieces, a million pages and three levels of lists, and a
//! change in it writes four blobs of about 10 KB each.

use super::commit::store;
use super::node::{Content, PageRef, Piece};
use crate::ids::BlobId;
use crate::tree::{BlobRead, BlobWrite, TreeError, decode_blob};

/// A page, and a list of pages, has at least so many entries, but for the last one of its level.
pub const PAGE_MIN: usize = 128;
/// It ends behind a chunk or page whose id has these bits of the first byte clear: one in 128, so that it has 256 entries on average.
const PAGE_MASK: u8 = 0x7f;
/// It ends here at the latest.
pub const PAGE_MAX: usize = 1024;
/// Lists above one another at most.
pub const HEIGHT_MAX: u8 = 7;
/// A file with up to so many pieces has them in its node.
const INLINE: usize = 8;

/// Pieces that are brought into memory at once at most, by whoever wants all of a file's: those of 4 TiB.
pub const ALL_MAX: usize = 1 << 26;

/// What stands in a page or in a list of pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// A page.
    Pieces(Vec<Piece>),
    /// A list: what it names is one level lower.
    Pages(Vec<PageRef>),
}

/// Reads a page (`height` 0) or a list of pages.
///
/// # Errors
/// When the blob cannot be read or is no such thing.
pub fn read(blobs: &dyn BlobRead, id: &BlobId, height: u8) -> Result<Part, TreeError> {
    let malformed = |why: String| Err(TreeError::Malformed { what: "list of pages", id: *id, why });
    if height == 0 {
        return decode_blob(blobs, id, "piece list").map(Part::Pieces);
    }
    if height > HEIGHT_MAX {
        return malformed(format!("it is said to stand {height} levels above the pages, and {HEIGHT_MAX} are the most"));
    }
    let pages: Vec<PageRef> = decode_blob(blobs, id, "list of pages")?;
    match pages.iter().position(|page| page.len == 0 || page.stored > page.len) {
        Some(n) => malformed(format!("page {n} is said to have {} bytes, {} of them stored", pages[n].len, pages[n].stored)),
        None => Ok(Part::Pages(pages)),
    }
}

/// What a walk over a file's pieces meets.
#[derive(Clone, Copy, Debug)]
pub enum Met<'a> {
    /// A page or a list of pages, before it is read: the answer is whether it is to be.
    Blob(&'a BlobId),
    /// The pieces of a page: the answer is whether the walk goes on.
    Pieces(&'a [Piece]),
}

/// Shows the pieces of a regular file in order, and the blobs that they stand in. Memory: one page, and a list for each level.
///
/// # Errors
/// When a list or page cannot be read.
pub fn walk(blobs: &dyn BlobRead, content: &Content, see: &mut dyn FnMut(Met<'_>) -> bool) -> Result<(), TreeError> {
    let mut stack: Vec<(BlobId, u8)> = match content {
        Content::Pieces(pieces) => {
            see(Met::Pieces(pieces));
            return Ok(());
        }
        Content::PieceList(id) => vec![(*id, 0)],
        Content::PieceTree { root, height } => vec![(*root, *height)],
        Content::Empty | Content::Directory(_) | Content::Target(_) => return Ok(()),
    };
    while let Some((id, height)) = stack.pop() {
        if !see(Met::Blob(&id)) {
            continue;
        }
        match read(blobs, &id, height)? {
            Part::Pieces(pieces) => {
                if !see(Met::Pieces(&pieces)) {
                    return Ok(());
                }
            }
            Part::Pages(pages) => stack.extend(pages.iter().rev().map(|page| (page.id, height - 1))),
        }
    }
    Ok(())
}

/// A page, which must come to what was said of it.
///
/// # Errors
/// When it cannot be read or does not.
pub fn page(blobs: &dyn BlobRead, page: &PageRef) -> Result<Vec<Piece>, TreeError> {
    let pieces: Vec<Piece> = decode_blob(blobs, &page.id, "piece list")?;
    let (mut len, mut stored) = (0_u64, 0_u64);
    for piece in &pieces {
        len = len.saturating_add(piece.len());
        stored = stored.saturating_add(if matches!(piece, Piece::Chunk { .. }) { piece.len() } else { 0 });
    }
    if (len, stored) != (page.len, page.stored) {
        let why = format!("its pieces have {len} bytes, {stored} of them stored, where {} and {} were said", page.len, page.stored);
        return Err(TreeError::Malformed { what: "piece list", id: page.id, why });
    }
    Ok(pieces)
}

/// The pages of a file that has lists of them, in order; none are read.
///
/// # Errors
/// When a list cannot be read, or there are more than [`ALL_MAX`] pages.
pub fn pages(blobs: &dyn BlobRead, content: &Content) -> Result<Vec<PageRef>, TreeError> {
    let Content::PieceTree { root, height } = content else { return Ok(Vec::new()) };
    let mut out = Vec::new();
    let mut stack = vec![(*root, *height)];
    while let Some((id, height)) = stack.pop() {
        let Part::Pages(pages) = read(blobs, &id, height)? else { continue };
        if height > 1 {
            stack.extend(pages.iter().rev().map(|page| (page.id, height - 1)));
        } else if out.len() + pages.len() > ALL_MAX {
            return Err(TreeError::Malformed { what: "list of pages", id: *root, why: format!("it has more than {ALL_MAX} pages") });
        } else {
            out.extend(pages);
        }
    }
    Ok(out)
}

/// All pieces of a regular file.
///
/// # Errors
/// When a list or page cannot be read, or there are more than [`ALL_MAX`].
pub fn all(blobs: &dyn BlobRead, content: &Content) -> Result<Vec<Piece>, TreeError> {
    up_to(ALL_MAX, blobs, content)
}

fn up_to(max: usize, blobs: &dyn BlobRead, content: &Content) -> Result<Vec<Piece>, TreeError> {
    let mut pieces = Vec::new();
    let mut too_many = false;
    walk(blobs, content, &mut |met| {
        if let Met::Pieces(more) = met {
            too_many = pieces.len() + more.len() > max;
            if !too_many {
                pieces.extend_from_slice(more);
            }
        }
        !too_many
    })?;
    match content {
        Content::PieceList(id) | Content::PieceTree { root: id, .. } if too_many => {
            Err(TreeError::Malformed { what: "list of pages", id: *id, why: format!("it has more than {max} pieces") })
        }
        _ => Ok(pieces),
    }
}

/// The pieces that hold the first `len` bytes of a regular file.
///
/// # Errors
/// When a list or page cannot be read.
pub fn head(blobs: &dyn BlobRead, content: &Content, len: u64) -> Result<Vec<Piece>, TreeError> {
    let (mut pieces, mut there) = (Vec::new(), 0u64);
    walk(blobs, content, &mut |met| {
        if let Met::Pieces(more) = met {
            for piece in more {
                if there >= len {
                    break;
                }
                there = there.saturating_add(piece.len());
                pieces.push(*piece);
            }
        }
        there < len
    })?;
    Ok(pieces)
}

/// Something that stands in a page or list.
trait Item {
    /// Does its id say that the page ends behind it?
    fn ends(&self) -> bool;
    fn len(&self) -> u64;
    fn stored(&self) -> u64;
}

fn marked(id: &BlobId) -> bool {
    id.0[0] & PAGE_MASK == 0
}

impl Item for Piece {
    fn ends(&self) -> bool {
        matches!(self, Piece::Chunk { id, .. } if marked(id))
    }

    fn len(&self) -> u64 {
        Piece::len(self)
    }

    fn stored(&self) -> u64 {
        if let Piece::Chunk { len, .. } = self { u64::from(*len) } else { 0 }
    }
}

impl Item for PageRef {
    fn ends(&self) -> bool {
        marked(&self.id)
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn stored(&self) -> u64 {
        self.stored
    }
}

/// Does a page with these entries end here, whatever follows?
fn is_full<T: Item>(items: &[T]) -> bool {
    items.len() >= PAGE_MAX || (items.len() >= PAGE_MIN && items.last().is_some_and(Item::ends))
}

fn store_part<T: Item + serde::Serialize>(blobs: &dyn BlobWrite, items: &mut Vec<T>) -> Result<PageRef, TreeError> {
    let part = PageRef {
        id: store(blobs, items)?,
        len: items.iter().fold(0, |n, item| n.saturating_add(item.len())),
        stored: items.iter().fold(0, |n, item| n.saturating_add(item.stored())),
    };
    items.clear();
    Ok(part)
}

/// Takes the pieces of a file in order and stores them.
#[derive(Debug)]
pub struct Builder<'a> {
    blobs: &'a dyn BlobWrite,
    /// Zeros at the end, which may go on.
    hole: u64,
    /// Pieces behind the last full page.
    page: Vec<Piece>,
    /// By height: pages, and lists of them, that stand in no list yet.
    levels: Vec<Vec<PageRef>>,
    stored: u64,
}

/// What was built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Built {
    /// Where the pieces are.
    pub content: Content,
    /// Bytes that are not holes.
    pub stored: u64,
}

impl<'a> Builder<'a> {
    /// For an empty file.
    #[must_use]
    pub fn new(blobs: &'a dyn BlobWrite) -> Self {
        Self { blobs, hole: 0, page: Vec::new(), levels: Vec::new(), stored: 0 }
    }

    /// Adds a piece at the end.
    ///
    /// # Errors
    /// What storing says.
    pub fn push(&mut self, piece: Piece) -> Result<(), TreeError> {
        match piece {
            Piece::Hole { len } => self.hole = self.hole.saturating_add(len),
            Piece::Chunk { len, .. } => {
                self.end_hole()?;
                self.stored = self.stored.saturating_add(u64::from(len));
                self.add(piece)?;
            }
        }
        Ok(())
    }

    /// Could a page (`height` 0) or list of pages begin here? One that stood in a file can be taken as it is then, by [`Builder::take`].
    #[must_use]
    pub fn begins(&self, height: u8) -> bool {
        self.hole == 0 && self.page.is_empty() && self.levels.iter().take(usize::from(height)).all(Vec::is_empty)
    }

    /// Adds a page or list of pages at the end without reading it, where [`Builder::begins`]. It ended for what is in it, or nothing
    /// follows.
    ///
    /// # Errors
    /// What storing says.
    pub fn take(&mut self, height: u8, part: PageRef) -> Result<(), TreeError> {
        self.stored = self.stored.saturating_add(part.stored);
        self.add_part(usize::from(height), part)
    }

    fn end_hole(&mut self) -> Result<(), TreeError> {
        match std::mem::take(&mut self.hole) {
            0 => Ok(()),
            len => self.add(Piece::Hole { len }),
        }
    }

    fn add(&mut self, piece: Piece) -> Result<(), TreeError> {
        self.page.push(piece);
        if !is_full(&self.page) {
            return Ok(());
        }
        let page = store_part(self.blobs, &mut self.page)?;
        self.add_part(0, page)
    }

    fn add_part(&mut self, height: usize, part: PageRef) -> Result<(), TreeError> {
        let (mut height, mut part) = (height, part);
        loop {
            if self.levels.len() <= height {
                self.levels.resize_with(height + 1, Vec::new);
            }
            let level = &mut self.levels[height];
            level.push(part);
            if !is_full(level) {
                return Ok(());
            }
            part = store_part(self.blobs, level)?;
            height += 1;
        }
    }

    /// Ends the file.
    ///
    /// # Errors
    /// What storing says.
    pub fn finish(mut self) -> Result<Built, TreeError> {
        self.end_hole()?;
        if self.levels.is_empty() && self.page.len() <= INLINE {
            let content = if self.page.is_empty() { Content::Empty } else { Content::Pieces(self.page) };
            return Ok(Built { content, stored: self.stored });
        }
        if !self.page.is_empty() {
            let page = store_part(self.blobs, &mut self.page)?;
            self.add_part(0, page)?;
        }
        let mut height = 0;
        // A level that is the highest has something in it: what is taken out of one goes into the next.
        let root = loop {
            let is_top = height + 1 == self.levels.len();
            match self.levels.get_mut(height) {
                Some(level) if is_top && level.len() == 1 => break level[0].id,
                Some(level) if !level.is_empty() => {
                    let part = store_part(self.blobs, level)?;
                    self.add_part(height + 1, part)?;
                }
                Some(_) => {}
                None => return Ok(Built { content: Content::Empty, stored: self.stored }),
            }
            height += 1;
        };
        let content = match u8::try_from(height).unwrap_or(u8::MAX) {
            0 => Content::PieceList(root),
            height => Content::PieceTree { root, height },
        };
        Ok(Built { content, stored: self.stored })
    }
}

#[cfg(test)]
mod tests;

//! From a tree with changes to a committed state: changed files become chunks, changed directories and the inode table become blobs,
//! their hash is the state. Equal states have equal hashes, whatever way led there.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::chunker;
use super::inode_table;
use super::node::{Content, DirNode, Entry, FileKind, InodeEntry, Link, Piece, State};
use crate::ids::{BlobId, Ino, Lsn};
use crate::tree::{BlobRead, BlobWrite, Body, Cut, Inode, Tree, TreeError};

/// A file with more pieces than this keeps them in a blob of their own.
const INLINE_PIECES: usize = 8;
/// A directory with more entries than this is split into pages.
const PAGE_FROM: usize = 256;
/// A page ends behind a name whose CRC-32 has these bits clear: one in 128 on average.
const PAGE_MASK: u32 = 0x7f;
/// A page ends here at the latest.
const PAGE_MAX: usize = 1024;

/// What a commit made of one file or directory: for trees that share the base.
#[derive(Clone, Debug)]
pub struct NewContent {
    /// Which inode.
    pub ino: Ino,
    /// Its committed content.
    pub content: Content,
    /// Its length in bytes.
    pub size: u64,
    /// Its bytes that are not holes.
    pub allocated: u64,
}

/// A state that has been stored (and not yet synced).
#[derive(Clone, Debug)]
pub struct Committed {
    /// Its root blob.
    pub root: BlobId,
    /// The last record that it holds.
    pub lsn: Lsn,
    /// Decoded root.
    pub state: State,
    /// Files and directories whose content is another than before.
    pub contents: Vec<NewContent>,
    /// Bytes of content that were read and cut into chunks.
    pub chunked: u64,
}

/// Encodes and stores a value of the format.
pub(crate) fn store<T: Serialize>(blobs: &dyn BlobWrite, value: &T) -> Result<BlobId, TreeError> {
    let bytes =
        postcard::to_stdvec(value).map_err(|e| TreeError::Malformed { what: "value to store", id: BlobId([0; 32]), why: e.to_string() })?;
    blobs.put(&bytes)
}

/// True when the committed node of such an inode stands in the inode table.
fn belongs_in_table(inode: &Inode) -> bool {
    inode.nlink == 0 || (inode.kind != FileKind::Directory && inode.nlink != 1)
}

impl Tree {
    /// Stores the state as it is now and makes it the base.
    ///
    /// # Errors
    /// When something cannot be read or stored. The tree must then not be used further.
    pub fn commit(&mut self, blobs: &dyn BlobWrite) -> Result<Committed, TreeError> {
        let dirty: Vec<Ino> = self.dirty().iter().copied().collect();
        let mut contents = Vec::new();
        let mut chunked = 0;
        // 1. Files.
        for &ino in &dirty {
            if let Some(Inode { body: Body::File(file), .. }) = self.peek(ino)
                && (!file.is_clean() || file.base_size() != self.peek(ino).map_or(0, |i| i.size))
            {
                let (new, read) = self.commit_file(ino, blobs)?;
                chunked += read;
                contents.push(new);
            }
        }
        // 2. Which directories and table entries change.
        let mut dirs: BTreeSet<Ino> = BTreeSet::new();
        let mut table: BTreeMap<Ino, Option<InodeEntry>> = BTreeMap::new();
        for &ino in &dirty {
            let Some(inode) = self.peek(ino) else {
                table.insert(ino, None);
                continue;
            };
            if inode.kind == FileKind::Directory && inode.nlink > 0 {
                dirs.insert(ino);
            }
            let in_table = belongs_in_table(inode);
            if !in_table || !inode.in_table {
                dirs.extend(inode.names.iter().map(|n| n.dir));
            }
        }
        // 3. Their ancestors.
        let mut depths: BTreeMap<Ino, usize> = BTreeMap::new();
        for dir in dirs {
            self.mark_ancestors(dir, &mut depths)?;
        }
        depths.insert(Ino::ROOT, 0);
        // 4. Directories, the deepest first: a directory's entry holds its node.
        let mut order: Vec<(usize, Ino)> = depths.iter().map(|(ino, depth)| (*depth, *ino)).collect();
        order.sort_unstable_by(|a, b| b.cmp(a));
        for (_, dir) in order {
            let id = self.commit_dir(dir, blobs)?;
            contents.push(NewContent { ino: dir, content: id.map_or(Content::Empty, Content::Directory), size: 0, allocated: 0 });
        }
        // 5. The table.
        for &ino in &dirty {
            let Some(inode) = self.peek(ino) else { continue };
            if ino == Ino::ROOT {
                continue;
            }
            let entry = if belongs_in_table(inode) {
                InodeEntry::Node(Box::new(self.node(inode)), inode.names.iter().cloned().map(Link::from).collect())
            } else {
                InodeEntry::In(inode.names.first().map_or(Ino::ROOT, |n| n.dir))
            };
            table.insert(ino, Some(entry));
        }
        let (old_table, old_height) = self.base_table();
        let (inodes, inodes_height) = inode_table::update(blobs, old_table, old_height, &table)?;
        let root_inode = self.peek(Ino::ROOT).ok_or(TreeError::NoInode(Ino::ROOT))?;
        let state = State { version: State::VERSION, root: self.node(root_inode), inodes, inodes_height };
        let root = store(blobs, &state)?;
        let committed = Committed { root, lsn: self.applied(), state, contents, chunked };
        self.rebase(&committed);
        Ok(committed)
    }

    fn mark_ancestors(&mut self, dir: Ino, depths: &mut BTreeMap<Ino, usize>) -> Result<usize, TreeError> {
        // Walk up to a directory whose depth is known, then number the way back down.
        let mut chain = Vec::new();
        let mut at = dir;
        let mut depth = loop {
            if let Some(depth) = depths.get(&at) {
                break *depth;
            }
            if at == Ino::ROOT {
                depths.insert(at, 0);
                break 0;
            }
            chain.push(at);
            let inode = self.inode(at)?;
            match inode.names.first() {
                Some(name) => at = name.dir,
                // A removed directory has no place; it is stored by nobody.
                None => return Ok(0),
            }
        };
        for at in chain.into_iter().rev() {
            depth += 1;
            depths.insert(at, depth);
        }
        Ok(depth)
    }

    fn commit_dir(&mut self, dir: Ino, blobs: &dyn BlobWrite) -> Result<Option<BlobId>, TreeError> {
        let mut entries: Vec<Entry> = Vec::new();
        self.load_whole(dir)?;
        for (name, ino, kind) in self.children(dir)? {
            let node = match self.peek(ino) {
                Some(inode) if belongs_in_table(inode) => None,
                Some(inode) => Some(Box::new(self.node(inode))),
                // Not in memory although its directory is: it has several names and was not touched.
                None => None,
            };
            entries.push(Entry { name, ino, kind, node });
        }
        if entries.is_empty() {
            self.set_dir_base(dir, None);
            return Ok(None);
        }
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let id = if entries.len() <= PAGE_FROM {
            store(blobs, &DirNode::Entries(entries))?
        } else {
            let mut pages = Vec::new();
            let mut rest = &entries[..];
            while !rest.is_empty() {
                let end = rest.iter().take(PAGE_MAX).position(|e| crc32fast::hash(&e.name) & PAGE_MASK == 0).map_or(PAGE_MAX, |i| i + 1);
                let (page, behind) = rest.split_at(end.min(rest.len()));
                pages.push(store(blobs, &page)?);
                rest = behind;
            }
            store(blobs, &DirNode::Pages(pages))?
        };
        self.set_dir_base(dir, Some(id));
        Ok(Some(id))
    }

    /// Cuts a changed file into chunks, reusing those of the base that no change touches.
    fn commit_file(&mut self, ino: Ino, blobs: &dyn BlobWrite) -> Result<(NewContent, u64), TreeError> {
        let size = self.inode(ino)?.size;
        let reader: std::sync::Arc<dyn BlobRead> = std::sync::Arc::clone(self.blobs());
        let (old, changed) = self.file_base(ino)?;
        let old_end: u64 = old.iter().map(Piece::len).sum();
        let mut pieces: Vec<Piece> = Vec::new();
        let mut chunked = 0;
        let mut at = 0u64;
        let (mut old_at, mut old_index) = (0u64, 0usize);
        let mut window = Vec::new();
        while at < size {
            while old_index < old.len() && old_at < at {
                old_at += old[old_index].len();
                old_index += 1;
            }
            // A piece of the base that stands here and that nothing touches is kept, but for the last one of a file whose end moved:
            // it may have been cut by the end alone.
            if old_at == at
                && let Some(piece) = old.get(old_index)
                && at + piece.len() <= size
                && (at + piece.len() < old_end || size == old_end)
                && !touched(&changed, at, piece.len())
            {
                push(&mut pieces, *piece);
                at += piece.len();
                continue;
            }
            let plan = self.read_plan(ino, at, chunker::MAX as u64)?;
            let hole = plan.parts().iter().take_while(|(_, s)| matches!(s, crate::tree::Source::Hole)).map(|(len, _)| len).sum::<u64>();
            if hole >= HOLE_MIN || hole == plan.len() {
                // Holes are found through the plan: as long a one as there is.
                let hole = self.hole_at(ino, at, size)?;
                if hole >= HOLE_MIN || at + hole == size {
                    push(&mut pieces, Piece::Hole { len: hole });
                    at += hole;
                    continue;
                }
            }
            if let Some(piece) = self.known_piece(blobs, ino, at, size)? {
                push(&mut pieces, piece);
                at += piece.len();
                continue;
            }
            window.resize(usize::try_from(plan.len()).unwrap_or(chunker::MAX), 0);
            plan.read(&*reader, &mut window)?;
            let cut = chunker::next_cut(&window, at + plan.len() == size);
            let chunk = window.get(..cut).unwrap_or(&window);
            let id = blobs.put(chunk)?;
            chunked += chunk.len() as u64;
            push(&mut pieces, Piece::Chunk { id, len: u32::try_from(chunk.len()).unwrap_or(u32::MAX) });
            at += chunk.len() as u64;
        }
        let allocated = pieces.iter().filter(|p| matches!(p, Piece::Chunk { .. })).map(Piece::len).sum();
        let content = match pieces.len() {
            0 => Content::Empty,
            n if n <= INLINE_PIECES => Content::Pieces(pieces),
            _ => Content::PieceList(store(blobs, &pieces)?),
        };
        self.rebase_file(ino, &content, size, allocated);
        Ok((NewContent { ino, content, size, allocated }, chunked))
    }
}

impl Tree {
    /// The chunk that stands at `at` and was cut and stored before it was logged: it is what reading and cutting would come to.
    fn known_piece(&mut self, blobs: &dyn BlobWrite, ino: Ino, at: u64, size: u64) -> Result<Option<Piece>, TreeError> {
        let Body::File(file) = &self.inode(ino)?.body else { return Ok(None) };
        let Some((id, there)) = file.blob_at(at) else { return Ok(None) };
        let Some((cut, len)) = blobs.known_cut(&id).filter(|(_, len)| u64::from(*len) == there) else { return Ok(None) };
        let same = match cut {
            // A short rest of a file is one chunk, whatever its bytes say.
            Cut::Bytes => size - at > chunker::AVERAGE as u64 && at + there <= size,
            Cut::End => at + there == size,
        };
        Ok(same.then_some(Piece::Chunk { id, len }))
    }
}

/// Shorter runs of zeros are stored as bytes.
const HOLE_MIN: u64 = 64 * 1024;

fn touched(changed: &[(u64, u64)], at: u64, len: u64) -> bool {
    let i = changed.partition_point(|(start, l)| start + l <= at);
    changed.get(i).is_some_and(|(start, _)| *start < at + len)
}

fn push(pieces: &mut Vec<Piece>, piece: Piece) {
    if let (Some(Piece::Hole { len }), Piece::Hole { len: more }) = (pieces.last_mut(), piece) {
        *len += more;
    } else {
        pieces.push(piece);
    }
}

//! One node by itself: its kind and content agree, its pieces cover it, its chunks exist with the lengths that are told of them.

use std::collections::HashMap;

use super::{Checker, Concerns, pair};
use crate::ids::{BlobId, Time};
use crate::tree::{SIZE_MAX, TreeError};
use crate::versions::node::{Content, FileKind, Node, PageRef, Piece};
use crate::versions::piece_tree::{self, Part};

/// What a sound page or list is remembered by.
fn leaf(part: &PageRef, height: u8) -> [u8; 16] {
    pair(&[&[2, height], &part.id.0, &part.len.to_le_bytes(), &part.stored.to_le_bytes()]).to_le_bytes()
}

impl Checker<'_> {
    /// Checks a node's own fields and, of a regular file, its pieces; `holder` is the blob that it stands in. False when something is wrong.
    pub(super) fn node(&mut self, holder: &BlobId, node: &Node, path: &Concerns<'_>) -> bool {
        let times = [node.attrs.atime, node.attrs.mtime, node.attrs.ctime, node.attrs.birth];
        let wrong_time = |t: &Time| t.nanos >= 1_000_000_000;
        let mut wrong = None;
        if node.attrs.mode > 0o7777 {
            wrong = Some(format!("its mode is {:o}", node.attrs.mode));
        } else if times.iter().any(wrong_time) {
            wrong = Some("a time of it has a thousand million nanoseconds or more".to_owned());
        } else if node.size > SIZE_MAX {
            wrong = Some(format!("its size is {}", node.size));
        } else {
            let size = match (node.kind, &node.content) {
                (FileKind::File, Content::Empty | Content::Pieces(_) | Content::PieceList(_) | Content::PieceTree { .. }) => None,
                (FileKind::Directory, Content::Empty | Content::Directory(_)) => Some(0),
                (FileKind::Symlink, Content::Target(target)) => Some(target.len() as u64),
                (FileKind::Fifo | FileKind::CharDevice | FileKind::BlockDevice | FileKind::Socket, Content::Empty) => Some(0),
                _ => {
                    wrong = Some(format!("a {:?} has content of another kind", node.kind));
                    None
                }
            };
            if let Some(size) = size
                && (node.size != size || node.allocated != 0)
            {
                wrong =
                    Some(format!("its size is {} and {} bytes of it are stored, but it has {size} and none", node.size, node.allocated));
            }
        }
        if let Some(wrong) = wrong {
            self.found(Some(*holder), format!("a node in blob {holder} is wrong: {wrong}"), false, path);
            return false;
        }
        let (list, height) = match (&node.kind, &node.content) {
            (FileKind::File, Content::Empty) => return self.inline(holder, node, &[], path),
            (FileKind::File, Content::Pieces(pieces)) => return self.inline(holder, node, pieces, path),
            (FileKind::File, Content::PieceList(id)) => (id, 0),
            (FileKind::File, Content::PieceTree { root, height }) => (root, *height),
            _ => return true,
        };
        let whole = PageRef { id: *list, len: node.size, stored: node.allocated };
        if self.leaves.contains(&leaf(&whole, height)) {
            return true;
        }
        self.report.files += 1;
        self.list(&whole, height, &mut HashMap::new(), true, path)
    }

    fn inline(&mut self, holder: &BlobId, node: &Node, pieces: &[Piece], path: &Concerns<'_>) -> bool {
        self.report.files += 1;
        let (size, stored, sound) = self.pieces(holder, pieces, path);
        self.comes_to(holder, (size, stored), (node.size, node.allocated), "the node", path) && sound
    }

    /// Checks a page of pieces (`height` 0) or a list of pages with all that it names: what is known to be sound is not read again, nor what
    /// this file named `before`. `top`: a node names it.
    fn list(&mut self, part: &PageRef, height: u8, before: &mut HashMap<[u8; 16], bool>, top: bool, path: &Concerns<'_>) -> bool {
        let leaf = leaf(part, height);
        if self.leaves.contains(&leaf) {
            return true;
        }
        if let Some(sound) = before.get(&leaf) {
            return *sound;
        }
        let (size, stored, mut sound) = match piece_tree::read(self.blobs, &part.id, height) {
            Ok(Part::Pieces(pieces)) => self.pieces(&part.id, &pieces, path),
            Ok(Part::Pages(pages)) => {
                let (mut size, mut stored, mut sound) = (0u64, 0u64, true);
                for page in &pages {
                    size = size.saturating_add(page.len);
                    stored = stored.saturating_add(page.stored);
                    sound &= self.list(page, height - 1, before, false, path);
                }
                (size, stored, sound)
            }
            Err(e) => {
                self.unreadable(if height == 0 { "a list of pieces" } else { "a list of pages of pieces" }, part.id, &e, path);
                before.insert(leaf, false);
                return false;
            }
        };
        sound &= self.comes_to(&part.id, (size, stored), (part.len, part.stored), if top { "the node" } else { "the list above" }, path);
        if sound {
            self.remember(leaf);
        } else {
            before.insert(leaf, false);
        }
        sound
    }

    /// Do pieces make as many bytes, and as many stored ones, as whoever names them says?
    fn comes_to(&mut self, holder: &BlobId, made: (u64, u64), said: (u64, u64), who: &str, path: &Concerns<'_>) -> bool {
        if made != said {
            let ((size, stored), (said, kept)) = (made, said);
            let what = format!("pieces in blob {holder} make {size} bytes, {stored} of them stored; {who} says {said} and {kept}");
            self.found(Some(*holder), what, false, path);
        }
        made == said
    }

    /// Bytes that pieces make, those of them that are stored, and whether the pieces are sound.
    fn pieces(&mut self, holder: &BlobId, pieces: &[Piece], path: &Concerns<'_>) -> (u64, u64, bool) {
        let (mut size, mut stored, mut sound) = (0u64, 0u64, true);
        for piece in pieces {
            if piece.is_empty() {
                self.found(Some(*holder), format!("a piece in blob {holder} has no length"), false, path);
                sound = false;
            }
            size = size.saturating_add(piece.len());
            if let Piece::Chunk { id, len } = piece {
                stored = stored.saturating_add(u64::from(*len));
                sound &= self.chunk(id, *len, path);
            }
        }
        (size, stored, sound)
    }

    fn chunk(&mut self, id: &BlobId, len: u32, path: &Concerns<'_>) -> bool {
        let leaf = pair(&[&[3], &id.0, &len.to_le_bytes()]).to_le_bytes();
        if self.leaves.contains(&leaf) {
            return true;
        }
        self.report.chunks += 1;
        let e = match (self.length)(id) {
            Ok(Some(found)) if found == u64::from(len) => {
                self.remember(leaf);
                return true;
            }
            Ok(Some(found)) => {
                let what = format!("chunk {id} has {found} bytes and should have {len}");
                self.found(Some(*id), what, false, path);
                return false;
            }
            Ok(None) => TreeError::Blob { id: *id, why: "no pack has it".to_owned(), damaged: true, full: false },
            Err(e) => e,
        };
        self.unreadable("a chunk", *id, &e, path);
        false
    }
}

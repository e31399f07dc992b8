//! One node by itself: its kind and content agree, its pieces cover it, its chunks exist with the lengths that are told of them.

use super::{Checker, Concerns, pair};
use crate::ids::{BlobId, Time};
use crate::tree::{SIZE_MAX, TreeError, decode_blob};
use crate::versions::node::{Content, FileKind, Node, Piece};

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
                (FileKind::File, Content::Empty | Content::Pieces(_) | Content::PieceList(_)) => None,
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
        match (&node.kind, &node.content) {
            (FileKind::File, Content::Empty) => self.pieces(holder, node, &[], path),
            (FileKind::File, Content::Pieces(pieces)) => self.pieces(holder, node, pieces, path),
            (FileKind::File, Content::PieceList(id)) => {
                let leaf = pair(&[&[2], &id.0, &node.size.to_le_bytes(), &node.allocated.to_le_bytes()]).to_le_bytes();
                if self.leaves.contains(&leaf) {
                    return true;
                }
                match decode_blob::<Vec<Piece>>(self.blobs, id, "piece list") {
                    Ok(pieces) => {
                        let sound = self.pieces(id, node, &pieces, path);
                        if sound {
                            self.remember(leaf);
                        }
                        sound
                    }
                    Err(e) => {
                        self.unreadable("a list of pieces", *id, &e, path);
                        false
                    }
                }
            }
            _ => true,
        }
    }

    fn pieces(&mut self, holder: &BlobId, node: &Node, pieces: &[Piece], path: &Concerns<'_>) -> bool {
        self.report.files += 1;
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
        if (size, stored) != (node.size, node.allocated) {
            let (said, kept) = (node.size, node.allocated);
            let what = format!("pieces in blob {holder} make {size} bytes, {stored} of them stored; the node says {said} and {kept}");
            self.found(Some(*holder), what, false, path);
            sound = false;
        }
        sound
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

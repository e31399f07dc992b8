//! Do two states say the same? Equal ones have equal roots, but for content: bytes that were cut twice, or on a full disk, may stand in other
//! chunks than those that were cut once. So where roots differ, names, attributes and bytes are compared.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::PATHS;
use crate::ids::{BlobId, Ino, Lsn, Time};
use crate::tree::{BlobRead, Tree, TreeError, load_state};
use crate::versions::diff::{Difference, diff};
use crate::versions::inode_table;
use crate::versions::node::{Content, FileKind, InodeEntry, Node};

/// Bytes of a file compared at a time.
const AT_ONCE: u64 = 1 << 20;

/// Where two states differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Differing {
    /// The first paths that differ, in order: at most [`PATHS`]. A file without a name is `(inode N)`.
    pub paths: Vec<Vec<u8>>,
    /// How many differ.
    pub files: u64,
}

impl Differing {
    /// Do they say the same?
    #[must_use]
    pub const fn is_none(&self) -> bool {
        self.files == 0
    }

    fn add(&mut self, path: Vec<u8>) {
        self.files += 1;
        if self.paths.len() < PATHS {
            self.paths.push(path);
        }
    }
}

/// What differs between two states besides where their content is cut. Memory: what differs, about 1 KiB each.
///
/// # Errors
/// When either cannot be read.
pub fn differing(blobs: &Arc<dyn BlobRead>, one: &BlobId, other: &BlobId) -> Result<Differing, TreeError> {
    let mut found = Differing::default();
    if one == other {
        return Ok(found);
    }
    let mut sides = Sides { one: open(blobs, one)?, other: open(blobs, other)?, same: BTreeSet::new() };
    let mut told: BTreeSet<Ino> = BTreeSet::new();
    for Difference { path, from, was, ino, old, new } in diff(&**blobs, Some(one), other)? {
        told.insert(ino);
        let same = match (&old, &new) {
            (Some(old), Some(new)) if from.is_none() && was.is_none() => sides.same(ino, old, new)?,
            _ => false,
        };
        if !same {
            found.add(path);
        }
    }
    // What stands in no directory, or is told twice.
    let (one, other) = (load_state(&**blobs, one)?, load_state(&**blobs, other)?);
    for (ino, pair) in inode_table::diff(&**blobs, Some(&one), &other)? {
        let same = match &pair {
            (Some(InodeEntry::Node(old, here)), Some(InodeEntry::Node(new, there))) => here == there && sides.same(ino, old, new)?,
            _ => false,
        };
        if !same && told.insert(ino) {
            found.add(format!("(inode {ino})").into_bytes());
        }
    }
    Ok(found)
}

fn open(blobs: &Arc<dyn BlobRead>, root: &BlobId) -> Result<Tree, TreeError> {
    Tree::open(Arc::clone(blobs), Some(*root), Ino(2), Lsn::ZERO, Time::default())
}

struct Sides {
    one: Tree,
    other: Tree,
    /// Files whose bytes are known to be the same.
    same: BTreeSet<Ino>,
}

impl Sides {
    /// Are two nodes of an inode the same but for where their content is cut?
    fn same(&mut self, ino: Ino, old: &Node, new: &Node) -> Result<bool, TreeError> {
        // What is in a directory is compared for itself; how many bytes of a file are holes follows from its cuts.
        let rest = |node: &Node| Node { content: Content::Empty, allocated: 0, ..node.clone() };
        if rest(old) != rest(new) {
            return Ok(false);
        }
        match old.kind {
            FileKind::File => Ok(old.content == new.content || self.bytes(ino, old.size)?),
            FileKind::Directory => Ok(true),
            FileKind::Symlink | FileKind::Fifo | FileKind::CharDevice | FileKind::BlockDevice | FileKind::Socket => {
                Ok(old.content == new.content)
            }
        }
    }

    fn bytes(&mut self, ino: Ino, size: u64) -> Result<bool, TreeError> {
        if self.same.contains(&ino) {
            return Ok(true);
        }
        let read = |tree: &mut Tree, at: u64| -> Result<Vec<u8>, TreeError> {
            let plan = tree.read_plan(ino, at, AT_ONCE)?;
            let mut bytes = vec![0; usize::try_from(plan.len()).unwrap_or_default()];
            plan.read(&**tree.blobs(), &mut bytes)?;
            Ok(bytes)
        };
        let mut at = 0;
        while at < size {
            if read(&mut self.one, at)? != read(&mut self.other, at)? {
                return Ok(false);
            }
            at += AT_ONCE;
        }
        self.same.insert(ino);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use rand::prelude::*;

    use super::*;
    use crate::tree::BlobWrite;
    use crate::tree::testing::{MemoryBlobs, apply, random_operation};
    use crate::versions::commit::store;
    use crate::versions::node::{DirNode, Entry, Piece, State};

    /// Changes one file of a state.
    fn with_file(blobs: &MemoryBlobs, root: &BlobId, name: &[u8], change: impl FnOnce(&mut Node)) -> BlobId {
        let mut state: State = load_state(blobs, root).unwrap();
        let Content::Directory(id) = state.root.content else { panic!() };
        let mut entries: Vec<Entry> = crate::tree::dir_entries(blobs, &id).unwrap();
        let entry = entries.iter_mut().find(|e| e.name == name).unwrap();
        change(entry.node.as_mut().unwrap());
        state.root.content = Content::Directory(store(blobs, &DirNode::Entries(entries)).unwrap());
        store(blobs, &state).unwrap()
    }

    #[test]
    fn where_content_is_cut_makes_no_difference_and_everything_else_does() {
        let blobs = Arc::new(MemoryBlobs::default());
        let read: Arc<dyn BlobRead> = Arc::clone(&blobs) as _;
        let mut rng = StdRng::seed_from_u64(3);
        let mut compared = 0;
        for round in 0..40 {
            let mut tree = Tree::open(Arc::clone(&read), None, Ino(2), Lsn::ZERO, Time::default()).unwrap();
            for i in 0..60 {
                let (op, bytes) = random_operation(&mut tree, &blobs, &mut rng, 8);
                apply(&mut tree, Lsn(i + 1), &op, bytes.as_deref());
            }
            let root = tree.commit(&*blobs).unwrap().root;
            let state = load_state(&*read, &root).unwrap();
            let Content::Directory(id) = state.root.content else { continue };
            let entries = crate::tree::dir_entries(&*read, &id).unwrap();
            let long = |e: &&Entry| e.kind == FileKind::File && e.node.as_ref().is_some_and(|n| n.size > 1);
            let Some(file) = entries.iter().find(long) else { continue };
            let bytes = tree.read_all(file.ino).unwrap();
            let cut = |bytes: &[u8]| {
                let (front, back) = bytes.split_at(bytes.len() / 2);
                let piece = |part: &[u8]| Piece::Chunk { id: blobs.put(part).unwrap(), len: part.len() as u32 };
                Content::Pieces(vec![piece(front), piece(back)])
            };
            let mut other = bytes.clone();
            *other.last_mut().unwrap() ^= 1;
            let same = with_file(&blobs, &root, &file.name, |node| node.content = cut(&bytes));
            let bits = with_file(&blobs, &root, &file.name, |node| node.content = cut(&other));
            let mode = with_file(&blobs, &root, &file.name, |node| node.attrs.mode ^= 1);
            assert!(same != root && differing(&read, &root, &same).unwrap().is_none(), "round {round}");
            for (root, other) in [(root, bits), (bits, root), (same, bits), (root, mode)] {
                let found = differing(&read, &root, &other).unwrap();
                assert_eq!((found.files, found.paths), (1, vec![file.name.clone()]), "round {round}");
            }
            compared += 1;
            // What has no name is compared too.
            let mut less = state.clone();
            less.inodes = None;
            let found = differing(&read, &root, &store(&*blobs, &less).unwrap());
            assert!(state.inodes.is_none() || found.is_err() || !found.unwrap().is_none(), "round {round}");
        }
        assert!(compared > 20, "{compared}");
    }
}

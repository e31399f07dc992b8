//! The inode table of a state: where each inode is. A content-addressed radix tree over the inode number, 256 children a node; a leaf
//! holds up to 256 consecutive numbers. One changed inode rewrites one leaf and its ancestors.
//!
//! An inode with one name stands in its directory, and the table says in which; one with several names, or with none but still open,
//! stands here itself. So replay and recovery find any inode by its number without a walk.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::node::{InodeEntry, State};
use crate::ids::{BlobId, Ino};
use crate::tree::{BlobRead, BlobWrite, TreeError};

/// Bits of the inode number that one level decides.
pub(super) const BITS: u32 = 8;
/// Highest height that any `u64` needs: leaf 0, then 7 levels.
pub(super) const HEIGHT_MAX: u8 = 7;

/// A node: sorted by its byte of the inode number.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum TableNode {
    Leaf(Vec<(u8, InodeEntry)>),
    Inner(Vec<(u8, BlobId)>),
}

fn digit(ino: u64, height: u8) -> u8 {
    (ino >> (BITS * u32::from(height))) as u8
}

fn read(blobs: &dyn BlobRead, id: &BlobId) -> Result<TableNode, TreeError> {
    crate::tree::decode_blob(blobs, id, "inode table")
}

/// What the state says of an inode; `None` when it has none of that number (the root is never in the table).
///
/// # Errors
/// When the table cannot be read.
pub fn lookup(blobs: &dyn BlobRead, state: &State, ino: Ino) -> Result<Option<InodeEntry>, TreeError> {
    let Some(mut id) = state.inodes else { return Ok(None) };
    let mut height = state.inodes_height.min(HEIGHT_MAX);
    if height < HEIGHT_MAX && ino.0 >> (BITS * (u32::from(height) + 1)) != 0 {
        return Ok(None);
    }
    loop {
        match read(blobs, &id)? {
            TableNode::Leaf(entries) if height == 0 => {
                let found = entries.binary_search_by_key(&digit(ino.0, 0), |(d, _)| *d);
                return Ok(found.ok().and_then(|i| entries.into_iter().nth(i)).map(|(_, entry)| entry));
            }
            TableNode::Inner(children) if height > 0 => match children.binary_search_by_key(&digit(ino.0, height), |(d, _)| *d) {
                Ok(i) => {
                    id = children[i].1;
                    height -= 1;
                }
                Err(_) => return Ok(None),
            },
            TableNode::Leaf(_) | TableNode::Inner(_) => {
                return Err(TreeError::Malformed { what: "inode table", id, why: "its height is not the one stated".to_owned() });
            }
        }
    }
}

/// Inodes that have no name and still exist.
///
/// # Errors
/// When the table cannot be read.
pub fn orphans(blobs: &dyn BlobRead, state: &State) -> Result<Vec<Ino>, TreeError> {
    let mut found = Vec::new();
    walk(blobs, state, &mut |ino, entry| {
        if let InodeEntry::Node(node, _) = entry
            && node.nlink == 0
        {
            found.push(ino);
        }
    })?;
    Ok(found)
}

/// Calls `see` for every entry, in order.
///
/// # Errors
/// When the table cannot be read.
pub fn walk(blobs: &dyn BlobRead, state: &State, see: &mut dyn FnMut(Ino, &InodeEntry)) -> Result<(), TreeError> {
    walk_nodes(blobs, state, &mut |_| true, see)
}

/// The same, asking `enter` for every node's blob first; a node for which it says no is passed over with all below.
///
/// # Errors
/// When the table cannot be read.
pub fn walk_nodes(
    blobs: &dyn BlobRead,
    state: &State,
    enter: &mut dyn FnMut(&BlobId) -> bool,
    see: &mut dyn FnMut(Ino, &InodeEntry),
) -> Result<(), TreeError> {
    let Some(root) = state.inodes else { return Ok(()) };
    let mut stack = vec![(root, state.inodes_height.min(HEIGHT_MAX), 0u64)];
    while let Some((id, height, prefix)) = stack.pop() {
        if !enter(&id) {
            continue;
        }
        match read(blobs, &id)? {
            TableNode::Leaf(entries) => entries.iter().for_each(|(d, entry)| see(Ino(prefix | u64::from(*d)), entry)),
            TableNode::Inner(children) if height > 0 => {
                for (d, child) in children.into_iter().rev() {
                    stack.push((child, height - 1, prefix | u64::from(d) << (BITS * u32::from(height))));
                }
            }
            TableNode::Inner(_) => {
                return Err(TreeError::Malformed { what: "inode table", id, why: "its height is not the one stated".to_owned() });
            }
        }
    }
    Ok(())
}

/// The table with `changes` made (`None` removes). Gives the new root and height.
///
/// # Errors
/// When the table cannot be read or a node cannot be stored.
pub fn update(
    blobs: &dyn BlobWrite,
    root: Option<BlobId>,
    height: u8,
    changes: &BTreeMap<Ino, Option<InodeEntry>>,
) -> Result<(Option<BlobId>, u8), TreeError> {
    let Some((last, _)) = changes.last_key_value() else { return Ok((root, height)) };
    let needed = ((64 - last.0.leading_zeros()).div_ceil(BITS).max(1) - 1) as u8;
    let (mut root, mut height) = (root, if root.is_some() { height.min(HEIGHT_MAX) } else { needed });
    while height < needed {
        root = match root {
            Some(id) => Some(store(blobs, &TableNode::Inner(vec![(0, id)]))?),
            None => None,
        };
        height += 1;
    }
    let flat: Vec<(Ino, Option<&InodeEntry>)> = changes.iter().map(|(ino, entry)| (*ino, entry.as_ref())).collect();
    let root = update_node(blobs, root, height, &flat)?;
    Ok((root, if root.is_some() { height } else { 0 }))
}

fn update_node(
    blobs: &dyn BlobWrite,
    id: Option<BlobId>,
    height: u8,
    changes: &[(Ino, Option<&InodeEntry>)],
) -> Result<Option<BlobId>, TreeError> {
    let node = id.as_ref().map(|id| read(blobs, id)).transpose()?;
    if height == 0 {
        let mut entries: BTreeMap<u8, InodeEntry> = match node {
            Some(TableNode::Leaf(entries)) => entries.into_iter().collect(),
            _ => BTreeMap::new(),
        };
        for (ino, entry) in changes {
            match entry {
                Some(entry) => entries.insert(digit(ino.0, 0), (*entry).clone()),
                None => entries.remove(&digit(ino.0, 0)),
            };
        }
        return if entries.is_empty() { Ok(None) } else { store(blobs, &TableNode::Leaf(entries.into_iter().collect())).map(Some) };
    }
    let mut children: BTreeMap<u8, BlobId> = match node {
        Some(TableNode::Inner(children)) => children.into_iter().collect(),
        _ => BTreeMap::new(),
    };
    for group in changes.chunk_by(|a, b| digit(a.0.0, height) == digit(b.0.0, height)) {
        let d = digit(group[0].0.0, height);
        match update_node(blobs, children.get(&d).copied(), height - 1, group)? {
            Some(child) => children.insert(d, child),
            None => children.remove(&d),
        };
    }
    if children.is_empty() { Ok(None) } else { store(blobs, &TableNode::Inner(children.into_iter().collect())).map(Some) }
}

/// Entries that differ between two states, by inode number: (in `old`, in `new`).
///
/// # Errors
/// When a table cannot be read.
pub fn diff(blobs: &dyn BlobRead, old: Option<&State>, new: &State) -> Result<BTreeMap<Ino, EntryPair>, TreeError> {
    let height = new.inodes_height.max(old.map_or(0, |s| s.inodes_height)).min(HEIGHT_MAX);
    let mut found = BTreeMap::new();
    let old = old.and_then(|s| s.inodes.map(|id| (id, s.inodes_height)));
    diff_nodes(blobs, old, new.inodes.map(|id| (id, new.inodes_height)), height, 0, &mut found)?;
    Ok(found)
}

/// What two states say of one inode.
pub type EntryPair = (Option<InodeEntry>, Option<InodeEntry>);
/// A node and its height.
type At = (BlobId, u8);

fn diff_nodes(
    blobs: &dyn BlobRead,
    old: Option<At>,
    new: Option<At>,
    height: u8,
    prefix: u64,
    found: &mut BTreeMap<Ino, EntryPair>,
) -> Result<(), TreeError> {
    if old == new {
        return Ok(());
    }
    if height == 0 {
        for (at, side) in [(old, 0), (new, 1)] {
            let Some((id, _)) = at else { continue };
            if let TableNode::Leaf(entries) = read(blobs, &id)? {
                for (d, entry) in entries {
                    let pair = found.entry(Ino(prefix | u64::from(d))).or_default();
                    if side == 0 { pair.0 = Some(entry) } else { pair.1 = Some(entry) }
                }
            }
        }
        found.retain(|_, (a, b)| a != b);
        return Ok(());
    }
    let children = |at: Option<At>| -> Result<BTreeMap<u8, At>, TreeError> {
        Ok(match at {
            None => BTreeMap::new(),
            // A table that is lower than this level: all of it is below digit 0.
            Some((id, h)) if h < height => BTreeMap::from([(0, (id, h))]),
            Some((id, h)) => match read(blobs, &id)? {
                TableNode::Inner(children) => children.into_iter().map(|(d, child)| (d, (child, h - 1))).collect(),
                TableNode::Leaf(_) => BTreeMap::new(),
            },
        })
    };
    let (old, new) = (children(old)?, children(new)?);
    let digits: std::collections::BTreeSet<u8> = old.keys().chain(new.keys()).copied().collect();
    for d in digits {
        let below = prefix | u64::from(d) << (BITS * u32::from(height));
        diff_nodes(blobs, old.get(&d).copied(), new.get(&d).copied(), height - 1, below, found)?;
    }
    Ok(())
}

fn store(blobs: &dyn BlobWrite, node: &TableNode) -> Result<BlobId, TreeError> {
    super::commit::store(blobs, node)
}

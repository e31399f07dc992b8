//! The inode table of a state.

use std::collections::HashSet;

use super::{Checker, Concerns, REMEMBERED, Sum};
use crate::ids::{BlobId, Ino};
use crate::tree::decode_blob;
use crate::versions::inode_table::{BITS, HEIGHT_MAX, TableNode};
use crate::versions::node::{Content, FileKind, InodeEntry, State};

/// What the table of a state may cost beyond what its tree has: nodes of its own, files without a name.
const SPARE: u64 = 1 << 16;

struct Walk<'s> {
    state: &'s State,
    /// Nodes and entries that may still be looked at.
    left: u64,
}

impl Checker<'_> {
    pub(super) fn walk_table(&mut self, root_id: &BlobId, state: &State, tree: &Sum) -> Sum {
        let Some(id) = state.inodes else { return Sum::default() };
        if state.inodes_height > HEIGHT_MAX {
            let what = format!("the inode table is said to be {} high, {HEIGHT_MAX} is the most", state.inodes_height);
            self.found(Some(*root_id), what, false, &Concerns::Below(b""));
            return Sum::BROKEN;
        }
        let has = tree.inodes.saturating_add(tree.links);
        let left = if tree.broken { 1 << 26 } else { has.saturating_mul(16).saturating_add(SPARE) };
        self.table_node(&mut Walk { state, left }, id, state.inodes_height, 0)
    }

    /// One node with all below it; the height bounds the recursion.
    fn table_node(&mut self, walk: &mut Walk<'_>, id: BlobId, height: u8, prefix: u64) -> Sum {
        if let Some(known) = self.nodes.get(&(id, height, prefix)) {
            return *known;
        }
        let below = 1u64.checked_shl(BITS * (u32::from(height) + 1)).map_or(u64::MAX, |n| n - 1);
        let range = (Ino(prefix), Ino(prefix.saturating_add(below)));
        let node = match decode_blob::<TableNode>(self.blobs, &id, "inode table") {
            Ok(node) => node,
            Err(e) => {
                let before = self.report.findings.len();
                self.unreadable("a part of the inode table", id, &e, &Concerns::Unknown);
                if let Some(what) = self.report.findings.get(before).map(|f| f.what.clone()) {
                    self.name_inodes(Some(id), &what, walk.state, range);
                }
                return Sum::BROKEN;
            }
        };
        let size = match &node {
            TableNode::Leaf(entries) => entries.len(),
            TableNode::Inner(children) => children.len(),
        };
        walk.left = walk.left.saturating_sub(size as u64 + 1);
        let mut sum = Sum::default();
        match node {
            TableNode::Inner(children) if height > 0 => {
                self.digits(walk, &id, children.iter().map(|(d, _)| *d), &mut sum, range);
                for (d, child) in children {
                    let at = prefix | u64::from(d) << (BITS * u32::from(height));
                    if at >= self.next_ino.0 {
                        self.table_wrong(walk, &id, &mut sum, range, format!("it has a part for inode numbers from {at} on"));
                        continue;
                    }
                    if walk.left == 0 {
                        self.table_wrong(walk, &id, &mut sum, range, "it is larger than the tree can need".to_owned());
                        return Sum::BROKEN;
                    }
                    let part = self.table_node(walk, child, height - 1, at);
                    sum.add(&part);
                }
            }
            TableNode::Leaf(entries) if height == 0 => {
                self.digits(walk, &id, entries.iter().map(|(d, _)| *d), &mut sum, range);
                for (d, entry) in entries {
                    self.table_entry(walk, &id, Ino(prefix | u64::from(d)), entry, &mut sum);
                }
            }
            TableNode::Leaf(_) | TableNode::Inner(_) => {
                self.table_wrong(walk, &id, &mut sum, range, "its height is not the one stated".to_owned());
                return Sum::BROKEN;
            }
        }
        if !sum.bad {
            if self.nodes.len() >= REMEMBERED {
                self.nodes.clear();
            }
            self.nodes.insert((id, height, prefix), sum);
        }
        sum
    }

    fn digits(&mut self, walk: &Walk<'_>, id: &BlobId, digits: impl Iterator<Item = u8>, sum: &mut Sum, range: (Ino, Ino)) {
        let digits: Vec<u8> = digits.collect();
        if digits.is_empty() {
            self.table_wrong(walk, id, sum, range, "it is empty".to_owned());
        }
        if digits.windows(2).any(|two| two[0] >= two[1]) {
            self.table_wrong(walk, id, sum, range, "it is not sorted, or says something twice".to_owned());
        }
    }

    fn table_wrong(&mut self, walk: &Walk<'_>, id: &BlobId, sum: &mut Sum, range: (Ino, Ino), wrong: String) {
        sum.bad = true;
        let what = format!("the inode table in blob {id} is wrong: {wrong}");
        self.found(Some(*id), what.clone(), false, &Concerns::Unknown);
        self.name_inodes(Some(*id), &what, walk.state, range);
    }

    fn table_entry(&mut self, walk: &Walk<'_>, id: &BlobId, ino: Ino, entry: InodeEntry, sum: &mut Sum) {
        let range = (ino, ino);
        if ino <= Ino::ROOT || ino >= self.next_ino {
            let next = self.next_ino;
            self.table_wrong(walk, id, sum, range, format!("inode number {ino} was never given out (the next one is {next})"));
        }
        let (node, names) = match entry {
            InodeEntry::In(dir) => return sum.single(ino, dir),
            InodeEntry::Node(node, names) => (node, names),
        };
        let several: HashSet<_> = names.iter().collect();
        if several.len() != names.len() || names.len() as u64 != u64::from(node.nlink) {
            let (n, said) = (several.len(), node.nlink);
            self.table_wrong(walk, id, sum, range, format!("inode {ino} has {n} names and says {said} links"));
        } else if node.nlink == 1 || (node.kind == FileKind::Directory && node.nlink > 0) {
            self.table_wrong(walk, id, sum, range, format!("inode {ino} belongs in its directory"));
        } else if node.kind == FileKind::Directory && node.content != Content::Empty {
            self.report.leftovers += 1;
        }
        for name in &names {
            sum.link(ino, name.dir, node.kind, &name.name);
        }
        let mark = self.report.findings.len();
        if !self.node(id, &node, &Concerns::Unknown) {
            sum.bad = true;
            let new: Vec<_> = self.report.findings.iter().skip(mark).map(|f| (f.blob, f.what.clone())).collect();
            for (blob, what) in new {
                if names.is_empty() {
                    let nobody = format!("(inode {ino}, which has no name)").into_bytes();
                    self.found(blob, what.clone(), false, &Concerns::File(&nobody));
                }
                self.name_inodes(blob, &what, walk.state, range);
            }
        }
    }
}

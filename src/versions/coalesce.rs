//! Coalescing: what a run of operations comes to, path by path. A file that was written a thousand times is one change; one that came and
//! went is none.
//!
//! Nothing here understands operations: the interpreter ([`Tree::apply`]) carries them out on a tree in memory over the state before, in
//! which every write counts at its offset and the last one to a byte wins; then the tree is committed and compared with the state before by
//! hashes. Neither reads what was not touched. Replay makes every version through here.

use std::collections::HashMap;

use super::commit::Committed;
use super::diff::{Difference, diff};
use super::node::Node;
use super::version_log::{LISTED_MAX, PathChange, What};
use crate::ids::{BlobId, Ino};
use crate::tree::{BlobRead, BlobWrite, Body, Inode, Tree, TreeError};

/// What became of one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetChange {
    /// The path relative to the root after the run (before it, where it is gone).
    pub path: Vec<u8>,
    /// What happened to it.
    pub what: What,
    /// Its inode after the run (before it, where it is gone).
    pub ino: Ino,
    /// The inode that had the path before, where it was another one.
    pub was: Option<Ino>,
    /// What it is after the run: kind, attributes, content; `None` where it is gone.
    pub node: Option<Node>,
    /// Ranges of its bytes that may be others than before, as (offset, length), merged, in order. What lies between them and before the
    /// end is as it was in the same inode.
    pub written: Vec<(u64, u64)>,
    /// False when it only follows from other changes: times and link count of a directory, change time and link count of a file.
    pub is_notable: bool,
}

/// A run of operations, coalesced.
#[derive(Clone, Debug)]
pub struct Coalesced {
    /// The state after the run; stored, not yet synced.
    pub committed: Committed,
    /// What differs from the state before, sorted by path. A directory that moved is one change, with those of what is in it that changed.
    pub changes: Vec<NetChange>,
}

/// Coalesces what has been applied to `tree` since its base, and makes that state its base. `before` is the state to which changes are told;
/// it has the names of the tree's base.
///
/// # Errors
/// When something cannot be read or stored. The tree must then not be used further.
pub fn coalesce(tree: &mut Tree, blobs: &dyn BlobWrite, before: Option<&BlobId>) -> Result<Coalesced, TreeError> {
    let written = written(tree);
    let committed = tree.commit(blobs)?;
    let changes = changes(diff(blobs, before, &committed.root)?, &written);
    Ok(Coalesced { committed, changes })
}

/// What differs between two states, without the ranges that were written.
///
/// # Errors
/// When a state cannot be read.
pub fn between(blobs: &dyn BlobRead, before: Option<&BlobId>, after: &BlobId) -> Result<Vec<NetChange>, TreeError> {
    Ok(changes(diff(blobs, before, after)?, &HashMap::new()))
}

/// The changes as a version lists them: what follows from others is left out, unless there is nothing else.
#[must_use]
pub fn listed(changes: &[NetChange]) -> Vec<PathChange> {
    let notable = changes.iter().any(|c| c.is_notable);
    let mut bytes = 0;
    changes
        .iter()
        .filter(|c| !notable || c.is_notable)
        // The states tell the rest.
        .take_while(|c| {
            bytes += c.path.len() + if let What::Moved { from } = &c.what { from.len() } else { 0 } + 16;
            bytes <= LISTED_MAX
        })
        .map(|c| PathChange { path: c.path.clone(), what: c.what.clone() })
        .collect()
}

/// Ranges that were written, for each file that was.
fn written(tree: &Tree) -> HashMap<Ino, Vec<(u64, u64)>> {
    let files = tree.dirty().iter().filter_map(|ino| match tree.peek(*ino) {
        Some(Inode { body: Body::File(file), size, .. }) => Some((*ino, file, *size)),
        _ => None,
    });
    files
        .map(|(ino, file, size)| {
            let mut merged: Vec<(u64, u64)> = Vec::new();
            // What was cut off is a range too.
            for (at, len) in file.changed_ranges().take_while(|(at, _)| *at < size) {
                let len = len.min(size - at);
                match merged.last_mut() {
                    Some((start, so_far)) if *start + *so_far == at => *so_far += len,
                    _ => merged.push((at, len)),
                }
            }
            (ino, merged)
        })
        .collect()
}

fn changes(differences: Vec<Difference>, written: &HashMap<Ino, Vec<(u64, u64)>>) -> Vec<NetChange> {
    let change = |d: Difference| {
        let is_notable = d.is_notable();
        let what = match (d.from, &d.old, &d.new) {
            (Some(from), _, _) => What::Moved { from },
            (None, None, _) => What::Added,
            (None, Some(_), Some(_)) => What::Modified,
            (None, Some(_), None) => What::Removed,
        };
        let written = if d.new.is_some() { written.get(&d.ino).cloned().unwrap_or_default() } else { Vec::new() };
        NetChange { path: d.path, what, ino: d.ino, was: d.was, node: d.new, written, is_notable }
    };
    differences.into_iter().map(change).collect()
}

#[cfg(test)]
mod tests;

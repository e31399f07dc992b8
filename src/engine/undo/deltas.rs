//! What a change did, thing by thing, turned into the direction wanted: `from` is a thing in the state that is left behind, `to` in the one that
//! is wanted. Things are known by their inode and by directory and name, never by path alone, so that a later rename above them is no obstacle.

use std::collections::HashMap;

use super::line::Way;
use crate::error::Result;
use crate::ids::{BlobId, Ino};
use crate::tree::path::split;
use crate::tree::{BlobRead, Tree};
use crate::versions::diff::{Difference, diff};
use crate::versions::node::Node;
use crate::versions::version_log::{Version, What};

/// A directory and a name in it. The root is the empty name in itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) dir: Ino,
    pub(super) name: Vec<u8>,
}

/// What one of the two states has.
#[derive(Clone, Debug)]
pub(super) struct Thing {
    pub(super) place: Place,
    /// In that state.
    pub(super) path: Vec<u8>,
    pub(super) ino: Ino,
    pub(super) node: Node,
}

/// One thing that is to change.
#[derive(Clone, Debug)]
pub(super) struct Delta {
    pub(super) from: Option<Thing>,
    pub(super) to: Option<Thing>,
}

/// What the version did, in the direction of `way`, and the paths that are left out, because versions do not keep them (any more).
///
/// # Errors
/// What reading the states says.
pub(super) fn deltas(
    blobs: &dyn BlobRead,
    version: &Version,
    way: Way,
    before: &mut Tree,
    after: &mut Tree,
) -> Result<(Vec<Delta>, Vec<Vec<u8>>)> {
    // One path may be there twice: what had it went, and something else was moved to it.
    let mut listed: HashMap<&[u8], Vec<&What>> = HashMap::new();
    for change in &version.paths {
        listed.entry(&change.path).or_default().push(&change.what);
    }
    let parent: Option<&BlobId> = version.parent_root.as_ref();
    let (mut deltas, mut left) = (Vec::new(), Vec::new());
    for d in diff(blobs, parent, &version.root)? {
        // The birth of the root is no change that anybody made.
        if d.path.is_empty() && d.old.is_none() {
            continue;
        }
        let fits = match listed.get(d.path.as_slice()) {
            None => !d.is_notable(),
            Some(all) => all.iter().any(|what| match what {
                What::Added => d.old.is_none(),
                What::Removed => d.new.is_none(),
                What::Modified => d.old.is_some() && d.new.is_some(),
                What::Moved { .. } => d.new.is_some(),
            }),
        };
        if !fits {
            left.push(d.path);
            continue;
        }
        let old = d.old.as_ref().map(|node| old_thing(&d, node, before, after)).transpose()?;
        let new = d.new.as_ref().map(|node| thing(after, &d.path, d.ino, node)).transpose()?;
        let (from, to) = if way == Way::Undo { (new, old) } else { (old, new) };
        deltas.push(Delta { from, to });
    }
    Ok((deltas, left))
}

fn thing(tree: &mut Tree, path: &[u8], ino: Ino, node: &Node) -> Result<Thing> {
    let (dir, name) = split(path);
    let dir = tree.resolve(dir)?.unwrap_or(Ino::ROOT);
    Ok(Thing { place: Place { dir, name: name.to_vec() }, path: path.to_vec(), ino, node: node.clone() })
}

fn old_thing(d: &Difference, node: &Node, before: &mut Tree, after: &mut Tree) -> Result<Thing> {
    let ino = d.was.unwrap_or(d.ino);
    let path = d.from.as_ref().unwrap_or(&d.path);
    // What moved along with its directory is told by its new path: there the directory is the same.
    if d.from.is_none() && d.was.is_none() && d.new.is_some() && before.resolve(path)? != Some(ino) {
        let mut thing = thing(after, path, ino, node)?;
        if let Some(dir) = before.path_of(thing.place.dir)? {
            thing.path = crate::tree::path::join(&dir, &thing.place.name);
        }
        return Ok(thing);
    }
    thing(before, path, ino, node)
}

//! Which later changes stand in the way: for each obstacle the versions since that touched the same part of the same thing, wherever it was
//! moved meanwhile; for a text those that were built on the change, by Pijul's own dependencies.

use std::collections::HashMap;

use super::line::{Way, parse};
use super::plan::{Obstacle, Part};
use super::text;
use crate::engine::states::Store;
use crate::error::Result;
use crate::tree::Tree;
use crate::versions::version_log::{ChangeId, Version, What};

/// So many versions of one text are looked through for what was built on what; beyond, all of them are named.
const TEXTS_MAX: usize = 500;

/// The versions after `version`, oldest first, without those that were undone and those that undid or redid, where others are left.
///
/// # Errors
/// What reading versions or states says.
pub(super) fn later(store: &Store, version: &Version, obstacle: &Obstacle, from: &mut Tree, to: &mut Tree) -> Result<Vec<Version>> {
    let mut spoken: HashMap<ChangeId, Way> = HashMap::new();
    let mut found: Vec<(Version, Vec<u8>)> = Vec::new();
    let mut path = obstacle.path.clone();
    let mut at = version.seq;
    while let Some(next) = store.versions().after(at)? {
        at = next.seq;
        if let Some((way, id)) = next.label.as_deref().and_then(parse) {
            spoken.insert(id, way);
        }
        let before = path.clone();
        let moved = next.paths.iter().find_map(|change| match &change.what {
            What::Moved { from } => Some(from).filter(|from| is_within(&path, from)).map(|from| (from, &change.path)),
            What::Added | What::Modified | What::Removed => None,
        });
        if let Some((from, to)) = moved {
            path = [to.as_slice(), path.get(from.len()..).unwrap_or_default()].concat();
        }
        let mut touched = false;
        for change in next.paths.iter().filter(|c| c.path == before || c.path == path || is_within(&c.path, &path)) {
            let itself = change.path == before || change.path == path;
            touched |= match change.what {
                What::Added | What::Removed => itself || obstacle.part == Part::Name,
                What::Moved { .. } if obstacle.part == Part::Name => true,
                What::Modified | What::Moved { .. } => itself && differs(store, &next, &before, &path, obstacle.part)?,
            };
        }
        if touched {
            found.push((next, path.clone()));
        }
    }
    if obstacle.part == Part::Text {
        found = built_on(store, obstacle, from, to, found)?;
    }
    let is_spoken = |v: &Version| v.label.as_deref().and_then(parse).is_some() || spoken.get(&v.id) == Some(&Way::Undo);
    let own = found.iter().any(|(v, _)| !is_spoken(v));
    Ok(found.into_iter().map(|(v, _)| v).filter(|v| !own || !is_spoken(v)).collect())
}

/// Is the path this one, or below it?
fn is_within(path: &[u8], dir: &[u8]) -> bool {
    path.strip_prefix(dir).is_some_and(|rest| rest.is_empty() || rest.first() == Some(&b'/'))
}

/// Did a version change that part?
fn differs(store: &Store, version: &Version, before: &[u8], after: &[u8], part: Part) -> Result<bool> {
    let (mut old, mut new) = (store.state_of_root(version.parent_root, version)?, store.state_of_root(Some(version.root), version)?);
    let (Some(a), Some(b)) = (old.resolve(before)?, new.resolve(after)?) else { return Ok(true) };
    let (a, b) = (node(&mut old, a)?, node(&mut new, b)?);
    let attrs = |n: &crate::versions::node::Node| (n.attrs.mode, n.attrs.uid, n.attrs.gid);
    Ok(match part {
        Part::Name => false,
        Part::Bytes | Part::Text => (&a.content, a.size) != (&b.content, b.size),
        Part::Attributes => attrs(&a) != attrs(&b) || a.xattrs != b.xattrs,
    })
}

fn node(tree: &mut Tree, ino: crate::ids::Ino) -> Result<crate::versions::node::Node> {
    tree.inode(ino)?;
    tree.peek(ino).map(|inode| tree.node(inode)).ok_or_else(|| crate::tree::TreeError::NoInode(ino).into())
}

fn built_on(
    store: &Store,
    obstacle: &Obstacle,
    from: &mut Tree,
    to: &mut Tree,
    found: Vec<(Version, Vec<u8>)>,
) -> Result<Vec<(Version, Vec<u8>)>> {
    let Some((from_ino, to_ino)) = obstacle.inos.filter(|_| found.len() <= TEXTS_MAX && obstacle.conflict.is_none()) else {
        return Ok(found);
    };
    let (Some(after), Some(before)) = (text::text(from, from_ino)?, text::text(to, to_ino)?) else { return Ok(found) };
    let mut texts = Vec::with_capacity(found.len());
    for (version, path) in &found {
        let mut tree = store.state_of_root(Some(version.root), version)?;
        let there = tree.resolve(path)?;
        // Where it was no text, or was not there, it counts as empty: then all that follows is built on that.
        texts.push(there.map(|ino| text::text(&mut tree, ino)).transpose()?.flatten().unwrap_or_default());
    }
    let places = text::built_on(&before, &after, &texts)?;
    Ok(found.into_iter().enumerate().filter(|(place, _)| places.contains(place)).map(|(_, v)| v).collect())
}

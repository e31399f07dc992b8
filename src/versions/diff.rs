//! What differs between two states, found by comparing hashes: equal directories and equal parts of the inode table are not looked into.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::inode_table;
use super::node::{Content, DirNode, Entry, FileKind, InodeEntry, Node, State};
use crate::ids::{BlobId, Ino};
use crate::tree::{BlobRead, TreeError, decode_blob, load_state};

/// One path that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Its path relative to the root in the newer state (in the older one, where it is gone).
    pub path: Vec<u8>,
    /// Its path in the older state, where the same inode had another one.
    pub from: Option<Vec<u8>>,
    /// Its inode number in the newer state (in the older one, where it is gone).
    pub ino: Ino,
    /// The inode number in the older state, where another inode had the path (an atomic save).
    pub was: Option<Ino>,
    /// Its node in the older state; `None` when it is new.
    pub old: Option<Node>,
    /// Its node in the newer state; `None` when it is gone.
    pub new: Option<Node>,
}

impl Difference {
    /// False for the birth of the root, and when only what follows from other differences has changed: the times, link count and entries of a directory, the change
    /// time and link count of a file.
    #[must_use]
    pub fn is_notable(&self) -> bool {
        if self.path.is_empty() && self.old.is_none() {
            return false;
        }
        let (Some(old), Some(new), None) = (&self.old, &self.new, &self.from) else { return true };
        if (old.kind, &old.xattrs) != (new.kind, &new.xattrs) {
            return true;
        }
        let owner = |n: &Node| (n.attrs.mode, n.attrs.uid, n.attrs.gid, n.attrs.rdev);
        if owner(old) != owner(new) {
            return true;
        }
        old.kind != FileKind::Directory && (old.content != new.content || old.size != new.size || old.attrs.mtime != new.attrs.mtime)
    }
}

/// A state, opened for comparing.
struct Side<'a> {
    blobs: &'a dyn BlobRead,
    state: Option<State>,
}

/// An entry whose node has been looked up.
type Found = (Ino, Node);

impl Side<'_> {
    fn node(&self, entry: Entry) -> Result<Option<Found>, TreeError> {
        if let Some(node) = entry.node {
            return Ok(Some((entry.ino, *node)));
        }
        let Some(state) = &self.state else { return Ok(None) };
        match inode_table::lookup(self.blobs, state, entry.ino)? {
            Some(InodeEntry::Node(node, _)) => Ok(Some((entry.ino, *node))),
            Some(InodeEntry::In(_)) | None => Err(TreeError::NoInode(entry.ino)),
        }
    }

    /// Path of a directory, by the inode table.
    fn dir_path(&self, dir: Ino, known: &mut HashMap<Ino, Vec<u8>>) -> Result<Vec<u8>, TreeError> {
        let mut chain = Vec::new();
        let mut at = dir;
        let mut path = loop {
            if at == Ino::ROOT {
                break Vec::new();
            }
            if let Some(path) = known.get(&at) {
                break path.clone();
            }
            let state = self.state.as_ref().ok_or(TreeError::NoInode(at))?;
            match inode_table::lookup(self.blobs, state, at)? {
                Some(InodeEntry::In(parent)) if chain.len() < 1 << 16 => {
                    chain.push((at, parent));
                    at = parent;
                }
                Some(_) | None => return Err(TreeError::NoInode(at)),
            }
        };
        for (child, parent) in chain.into_iter().rev() {
            let content = self.dir_content(parent)?;
            let name = all_entries(self.blobs, &content)?.into_iter().find(|e| e.ino == child).ok_or(TreeError::NoInode(child))?.name;
            path = join(&path, &name);
            known.insert(child, path.clone());
        }
        Ok(path)
    }

    fn dir_content(&self, dir: Ino) -> Result<Content, TreeError> {
        let state = self.state.as_ref().ok_or(TreeError::NoInode(dir))?;
        if dir == Ino::ROOT {
            return Ok(state.root.content.clone());
        }
        match inode_table::lookup(self.blobs, state, dir)? {
            Some(InodeEntry::In(parent)) => {
                let content = self.dir_content(parent)?;
                let entry = all_entries(self.blobs, &content)?.into_iter().find(|e| e.ino == dir).ok_or(TreeError::NoInode(dir))?;
                Ok(entry.node.map_or(Content::Empty, |n| n.content))
            }
            Some(InodeEntry::Node(node, _)) => Ok(node.content),
            None => Err(TreeError::NoInode(dir)),
        }
    }
}

fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() { name.to_vec() } else { [dir, name].join(&b'/') }
}

fn all_entries(blobs: &dyn BlobRead, content: &Content) -> Result<Vec<Entry>, TreeError> {
    match content {
        Content::Directory(id) => crate::tree::dir_entries(blobs, id),
        Content::Empty | Content::Pieces(_) | Content::PieceList(_) | Content::PieceTree { .. } | Content::Target(_) => Ok(Vec::new()),
    }
}

/// Pages of a directory, or its entries where it has only one.
fn pages(blobs: &dyn BlobRead, content: &Content) -> Result<(Vec<BlobId>, Vec<Entry>), TreeError> {
    match content {
        Content::Directory(id) => Ok(match decode_blob(blobs, id, "directory")? {
            DirNode::Entries(entries) => (Vec::new(), entries),
            DirNode::Pages(pages) => (pages, Vec::new()),
        }),
        Content::Empty | Content::Pieces(_) | Content::PieceList(_) | Content::PieceTree { .. } | Content::Target(_) => {
            Ok((Vec::new(), Vec::new()))
        }
    }
}

/// The entries of two directories, without the pages that both have.
fn differing_entries(blobs: &dyn BlobRead, old: &Content, new: &Content) -> Result<(Vec<Entry>, Vec<Entry>), TreeError> {
    let ((old_pages, mut old_entries), (new_pages, mut new_entries)) = (pages(blobs, old)?, pages(blobs, new)?);
    let common: HashSet<BlobId> = {
        let olds: HashSet<&BlobId> = old_pages.iter().collect();
        new_pages.iter().filter(|p| olds.contains(p)).copied().collect()
    };
    for (pages, entries) in [(&old_pages, &mut old_entries), (&new_pages, &mut new_entries)] {
        for page in pages.iter().filter(|p| !common.contains(p)) {
            entries.append(&mut decode_blob(blobs, page, "directory page")?);
        }
    }
    Ok((old_entries, new_entries))
}

/// All differences from `old` (`None`: the empty state) to `new`, sorted by path. A directory that moved is one difference, and what is
/// in it shows only where it differs by itself.
///
/// # Errors
/// When a state cannot be read.
pub fn diff(blobs: &dyn BlobRead, old: Option<&BlobId>, new: &BlobId) -> Result<Vec<Difference>, TreeError> {
    if old == Some(new) {
        return Ok(Vec::new());
    }
    let old = Side { blobs, state: old.map(|id| load_state(blobs, id)).transpose()? };
    let new = Side { blobs, state: Some(load_state(blobs, new)?) };
    let mut changed: BTreeMap<Vec<u8>, Difference> = BTreeMap::new();
    let mut removed: BTreeMap<Vec<u8>, Found> = BTreeMap::new();
    let mut added: BTreeMap<Vec<u8>, Found> = BTreeMap::new();

    let old_root = old.state.as_ref().map(|s| s.root.clone());
    let new_root = new.state.as_ref().map(|s| s.root.clone());
    let content = |node: &Option<Node>| node.as_ref().map_or(Content::Empty, |n| n.content.clone());
    let mut work = vec![(Vec::new(), content(&old_root), content(&new_root))];
    if old_root != new_root {
        changed.insert(Vec::new(), Difference { path: Vec::new(), from: None, was: None, ino: Ino::ROOT, old: old_root, new: new_root });
    }
    while let Some((path, old_content, new_content)) = work.pop() {
        if old_content == new_content {
            continue;
        }
        let (olds, news) = differing_entries(blobs, &old_content, &new_content)?;
        let mut olds: BTreeMap<Vec<u8>, Entry> = olds.into_iter().map(|e| (e.name.clone(), e)).collect();
        for entry in news {
            let before = olds.remove(&entry.name);
            if before.as_ref() == Some(&entry) {
                continue;
            }
            let at = join(&path, &entry.name);
            let before = before.map(|e| old.node(e)).transpose()?.flatten();
            let Some((ino, node)) = new.node(entry)? else { continue };
            let below = node.content.clone();
            match before {
                Some((was, old_node)) if was == ino => {
                    if node.kind == FileKind::Directory {
                        work.push((at.clone(), old_node.content.clone(), below));
                    }
                    if old_node != node {
                        changed
                            .insert(at.clone(), Difference { path: at, from: None, was: None, ino, old: Some(old_node), new: Some(node) });
                    }
                }
                other => {
                    if let Some((was, old_node)) = other {
                        work.push((at.clone(), old_node.content.clone(), Content::Empty));
                        removed.insert(at.clone(), (was, old_node));
                    }
                    work.push((at.clone(), Content::Empty, below));
                    added.insert(at, (ino, node));
                }
            }
        }
        for (name, entry) in olds {
            let at = join(&path, &name);
            if let Some((ino, node)) = old.node(entry)? {
                work.push((at.clone(), node.content.clone(), Content::Empty));
                removed.insert(at, (ino, node));
            }
        }
    }
    linked(blobs, &old, &new, &mut changed, &added)?;
    Ok(pair_moves(changed, removed, added))
}

/// Files with several names whose node changed while their directories did not.
fn linked(
    blobs: &dyn BlobRead,
    old: &Side<'_>,
    new: &Side<'_>,
    changed: &mut BTreeMap<Vec<u8>, Difference>,
    added: &BTreeMap<Vec<u8>, Found>,
) -> Result<(), TreeError> {
    let Some(state) = &new.state else { return Ok(()) };
    let mut known = HashMap::new();
    for (ino, pair) in inode_table::diff(blobs, old.state.as_ref(), state)? {
        let (Some(InodeEntry::Node(before, old_names)), Some(InodeEntry::Node(after, names))) = pair else { continue };
        if before == after {
            continue;
        }
        for name in names.iter().filter(|n| old_names.contains(n)) {
            let path = join(&new.dir_path(name.dir, &mut known)?, &name.name);
            if !added.contains_key(&path) {
                let difference = Difference {
                    path: path.clone(),
                    from: None,
                    was: None,
                    ino,
                    old: Some((*before).clone()),
                    new: Some((*after).clone()),
                };
                changed.entry(path).or_insert(difference);
            }
        }
    }
    Ok(())
}

/// Names that went and names that came of one inode are a move; what merely moved along with its directory is left out.
fn pair_moves(
    mut changed: BTreeMap<Vec<u8>, Difference>,
    removed: BTreeMap<Vec<u8>, Found>,
    added: BTreeMap<Vec<u8>, Found>,
) -> Vec<Difference> {
    let mut by_ino: HashMap<Ino, Vec<(Vec<u8>, Node)>> = HashMap::new();
    for (path, (ino, node)) in removed.into_iter().rev() {
        by_ino.entry(ino).or_default().push((path, node));
    }
    // Sorted by path, so a directory comes before what is in it.
    let mut moved_dirs: HashMap<Vec<u8>, Vec<u8>> = HashMap::new();
    let mut all = Vec::new();
    for (path, (ino, node)) in added {
        let came_from = by_ino.get_mut(&ino).and_then(Vec::pop);
        let Some((from, old)) = came_from else {
            all.push(Difference { path, from: None, was: None, ino, old: None, new: Some(node) });
            continue;
        };
        let (dir, name) = split(&path);
        let (from_dir, from_name) = split(&from);
        let along = name == from_name && moved_dirs.get(dir).is_some_and(|d| d == from_dir);
        if node.kind == FileKind::Directory {
            moved_dirs.insert(path.clone(), from.clone());
        }
        if !along {
            all.push(Difference { path, from: Some(from), was: None, ino, old: Some(old), new: Some(node) });
        } else if old != node {
            all.push(Difference { path, from: None, was: None, ino, old: Some(old), new: Some(node) });
        }
    }
    // Another inode under the same name (an atomic save) is a change of that path.
    let born: HashMap<Vec<u8>, usize> =
        all.iter().enumerate().filter(|(_, d)| d.old.is_none()).map(|(index, d)| (d.path.clone(), index)).collect();
    for (ino, rest) in by_ino {
        for (path, node) in rest {
            match born.get(&path).and_then(|index| all.get_mut(*index)) {
                Some(successor) => (successor.old, successor.was) = (Some(node), Some(ino)),
                None => all.push(Difference { path, from: None, was: None, ino, old: Some(node), new: None }),
            }
        }
    }
    all.extend(std::mem::take(&mut changed).into_values());
    all.sort_by(|a, b| (&a.path, a.new.is_some()).cmp(&(&b.path, b.new.is_some())));
    all
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&b| b == b'/') {
        Some(i) => (&path[..i], &path[i + 1..]),
        None => (&[], path),
    }
}

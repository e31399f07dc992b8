//! Finds what a purge means: the inodes that ever stood at a path or below it, every other place of theirs, and who else holds their bytes;
//! what has no name anywhere.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::states::{Rewriter, subdir};
use crate::error::Result;
use crate::ids::{BlobId, Ino};
use crate::tree::path::{join, split};
use crate::tree::{BlobRead, TreeError, decode_blob, file_pieces, load_state};
use crate::versions::inode_table;
use crate::versions::node::{Content, DirNode, Entry, InodeEntry, Node, Piece};

/// Paths that are listed; all are counted.
pub const LISTED: usize = 1000;

/// Paths, the first of them by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Paths {
    /// At most 1,000.
    pub listed: BTreeSet<Vec<u8>>,
    /// True when there are more.
    pub more: bool,
}

impl Paths {
    fn add(&mut self, path: Vec<u8>) {
        if self.listed.len() < LISTED {
            self.listed.insert(path);
        } else if !self.listed.contains(&path) {
            self.more = true;
        }
    }
}

/// What goes.
#[derive(Debug, Default)]
pub(super) struct Selected {
    /// Inodes that stood at the paths, and everything that ever was below them, as far as states have them.
    pub inodes: BTreeSet<Ino>,
    /// The same with those that no state has.
    pub all: BTreeSet<Ino>,
    /// Inodes without a name in any state: nobody can ever reach them again, but the bytes that they hold are there.
    pub nameless: BTreeSet<Ino>,
    /// Which of the paths a state names.
    pub found: Vec<bool>,
    /// Paths that they ever had, those below others of them left out.
    pub paths: Paths,
    /// Those of the paths whose files only the log has at a purged path, or in a purged directory.
    pub by_log: Paths,
    /// Their bytes: chunks and lengths.
    pub chunks: HashMap<BlobId, u32>,
    /// Paths of other files that hold some of these bytes.
    pub others: Paths,
    /// The chunks that those hold.
    pub shared: HashMap<BlobId, u32>,
    /// Whether the newest state has any of it.
    pub in_newest: bool,
}

/// Walks states, every directory once for every path that it has.
struct Walk<'a> {
    blobs: &'a dyn BlobRead,
    seen: HashSet<[u8; 16]>,
    states: HashSet<BlobId>,
}

/// What is shown an entry, and where it is: the directory and its path.
type See<'s> = dyn FnMut(Ino, &[u8], &Entry) -> Result<(), TreeError> + 's;

impl Walk<'_> {
    fn first(&mut self, id: &BlobId, dir: Ino, path: &[u8]) -> bool {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&id.0).update(&dir.0.to_le_bytes()).update(path);
        let mut key = [0; 16];
        key.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        self.seen.insert(key)
    }

    fn state(&mut self, root: &BlobId, see: &mut See<'_>) -> Result<(), TreeError> {
        if !self.states.insert(*root) {
            return Ok(());
        }
        let Content::Directory(top) = load_state(self.blobs, root)?.root.content else { return Ok(()) };
        let mut stack = vec![(Ino::ROOT, Vec::new(), top)];
        while let Some((dir, path, id)) = stack.pop() {
            if !self.first(&id, dir, &path) {
                continue;
            }
            let pages: Vec<Vec<Entry>> = match decode_blob(self.blobs, &id, "directory")? {
                DirNode::Entries(entries) => vec![entries],
                DirNode::Pages(pages) => {
                    let mut all = Vec::new();
                    for page in pages {
                        if self.first(&page, dir, &path) {
                            all.push(decode_blob(self.blobs, &page, "directory page")?);
                        }
                    }
                    all
                }
            };
            for entry in pages.into_iter().flatten() {
                see(dir, &path, &entry)?;
                if let Some(below) = subdir(&entry) {
                    stack.push((entry.ino, join(&path, &entry.name), below));
                }
            }
        }
        Ok(())
    }
}

fn walk(blobs: &dyn BlobRead, roots: &[BlobId], see: &mut See<'_>) -> Result<(), TreeError> {
    let mut walk = Walk { blobs, seen: HashSet::new(), states: HashSet::new() };
    roots.iter().try_for_each(|root| walk.state(root, see))
}

/// What is shown a node, and whether it has a name.
type SeeNode<'s> = dyn FnMut(Ino, &Node, bool) -> Result<(), TreeError> + 's;

/// Nodes that stand in inode tables: files with several names, and those without one.
fn tables(blobs: &dyn BlobRead, roots: &[BlobId], see: &mut SeeNode<'_>) -> Result<(), TreeError> {
    let mut seen = HashSet::new();
    for root in roots {
        let state = load_state(blobs, root)?;
        let mut failed = Ok(());
        inode_table::walk_nodes(blobs, &state, &mut |id| seen.insert(*id), &mut |ino, entry| {
            if let InodeEntry::Node(node, names) = entry
                && failed.is_ok()
            {
                failed = see(ino, node, !names.is_empty());
            }
        })?;
        failed?;
    }
    Ok(())
}

/// Chunks that a file names.
fn chunks_of(blobs: &dyn BlobRead, node: &Node, into: &mut HashMap<BlobId, u32>) -> Result<(), TreeError> {
    for piece in file_pieces(blobs, &node.content)? {
        if let Piece::Chunk { id, len } = piece {
            into.insert(id, len);
        }
    }
    Ok(())
}

/// Inodes that ever stood at these paths, and at which of them there was one.
fn at_paths(blobs: &dyn BlobRead, roots: &[BlobId], paths: &[Vec<u8>]) -> Result<(BTreeSet<Ino>, Vec<bool>), TreeError> {
    let (mut inodes, mut found) = (BTreeSet::new(), vec![false; paths.len()]);
    let mut wanted: HashMap<&[u8], Vec<(&[u8], usize)>> = HashMap::new();
    for (n, path) in paths.iter().enumerate() {
        let (dir, name) = split(path);
        wanted.entry(dir).or_default().push((name, n));
    }
    walk(blobs, roots, &mut |_, path, entry| {
        for (_, n) in wanted.get(path).into_iter().flatten().filter(|(name, _)| *name == entry.name) {
            inodes.insert(entry.ino);
            found.iter_mut().skip(*n).take(1).for_each(|found| *found = true);
        }
        Ok(())
    })?;
    Ok((inodes, found))
}

/// Adds what was ever in the directories among `inodes`, as states have it and as `below` says.
fn grow(
    blobs: &dyn BlobRead,
    roots: &[BlobId],
    inodes: &mut BTreeSet<Ino>,
    below: &mut dyn FnMut(&mut BTreeSet<Ino>) -> Result<()>,
) -> Result<()> {
    loop {
        let before = inodes.len();
        below(inodes)?;
        walk(blobs, roots, &mut |dir, _, entry| {
            if inodes.contains(&dir) {
                inodes.insert(entry.ino);
            }
            Ok(())
        })?;
        if inodes.len() == before {
            return Ok(());
        }
    }
}

/// What goes with these paths. The roots are those of all versions; `newest` is the state of now. `logged` are inodes that the log has at the
/// paths; `below` adds what the log says was in the directories among inodes.
pub(super) fn by_paths(
    blobs: &dyn BlobRead,
    roots: &[BlobId],
    newest: Option<&BlobId>,
    paths: &[Vec<u8>],
    logged: &BTreeSet<Ino>,
    below: &mut dyn FnMut(&mut BTreeSet<Ino>) -> Result<()>,
) -> Result<Selected> {
    let (mut inodes, found) = at_paths(blobs, roots, paths)?;
    // What was below them, also while they had other names; and what was below that.
    grow(blobs, roots, &mut inodes, &mut |_| Ok(()))?;
    let by_states = inodes.clone();
    inodes.extend(logged);
    grow(blobs, roots, &mut inodes, below)?;
    let mut selected = Selected { inodes, found, ..Selected::default() };
    let (inodes, chunks, listed, by_log) = (&selected.inodes, &mut selected.chunks, &mut selected.paths, &mut selected.by_log);
    let mut there = BTreeSet::new();
    walk(blobs, roots, &mut |dir, path, entry| {
        if inodes.contains(&entry.ino) {
            there.insert(entry.ino);
            if !inodes.contains(&dir) {
                let path = join(path, &entry.name);
                if !by_states.contains(&entry.ino) {
                    by_log.add(path.clone());
                }
                listed.add(path);
            }
            entry.node.iter().try_for_each(|node| chunks_of(blobs, node, chunks))?;
        }
        Ok(())
    })?;
    tables(blobs, roots, &mut |ino, node, _| {
        if !inodes.contains(&ino) {
            return Ok(());
        }
        there.insert(ino);
        chunks_of(blobs, node, chunks)
    })?;
    selected.all = std::mem::replace(&mut selected.inodes, there);
    selected.nameless = nameless(blobs, roots)?.difference(&selected.inodes).copied().collect();
    others(blobs, roots, &mut selected)?;
    if let Some(newest) = newest {
        let (inodes, found) = (&selected.inodes, &mut selected.in_newest);
        walk(blobs, &[*newest], &mut |_, _, entry| {
            *found |= inodes.contains(&entry.ino);
            Ok(())
        })?;
    }
    Ok(selected)
}

/// Inodes that have no name in any state: files that were open and unlinked when a version was made.
pub(super) fn nameless(blobs: &dyn BlobRead, roots: &[BlobId]) -> Result<BTreeSet<Ino>, TreeError> {
    let (mut inodes, mut named) = (BTreeSet::new(), BTreeSet::new());
    tables(blobs, roots, &mut |ino, _, has_name| {
        if has_name {
            named.insert(ino)
        } else {
            inodes.insert(ino)
        };
        Ok(())
    })?;
    if !inodes.is_empty() {
        walk(blobs, roots, &mut |_, _, entry| {
            inodes.remove(&entry.ino);
            Ok(())
        })?;
    }
    inodes.retain(|ino| !named.contains(ino));
    Ok(inodes)
}

/// What goes with these blobs: nothing but they.
pub(super) fn by_blobs(blobs: &dyn BlobRead, roots: &[BlobId], newest: Option<&BlobId>, ids: &[BlobId]) -> Result<Selected> {
    let chunks = ids.iter().map(|id| (*id, 0)).collect();
    let mut selected = Selected { chunks, ..Selected::default() };
    others(blobs, roots, &mut selected)?;
    if let Some(newest) = newest {
        let nothing = BTreeSet::new();
        let probe = super::states::Probe(blobs);
        selected.in_newest = Rewriter::new(&probe, &nothing, &selected.shared).state(newest)?.touched;
    }
    Ok(selected)
}

/// Files that do not go and hold some of the chunks.
fn others(blobs: &dyn BlobRead, roots: &[BlobId], selected: &mut Selected) -> Result<(), TreeError> {
    let (inodes, nameless, chunks) = (&selected.inodes, &selected.nameless, &selected.chunks);
    if chunks.is_empty() {
        return Ok(());
    }
    let nothing = BTreeSet::new();
    let probe = super::states::Probe(blobs);
    let mut look = Rewriter::new(&probe, &nothing, chunks);
    let mut shared: HashMap<BlobId, u32> = HashMap::new();
    let mut share = |node: &Node| -> Result<bool, TreeError> {
        let shares = look.names_chunk(node)?;
        if shares {
            let mut all = HashMap::new();
            chunks_of(blobs, node, &mut all)?;
            shared.extend(all.into_iter().filter(|(id, _)| chunks.contains_key(id)));
        }
        Ok(shares)
    };
    let mut linked: HashSet<Ino> = HashSet::new();
    tables(blobs, roots, &mut |ino, node, _| {
        if !inodes.contains(&ino) && !nameless.contains(&ino) && share(node)? {
            linked.insert(ino);
        }
        Ok(())
    })?;
    let others = &mut selected.others;
    walk(blobs, roots, &mut |_, path, entry| {
        let shares = match &entry.node {
            _ if inodes.contains(&entry.ino) => false,
            Some(node) => share(node)?,
            None => linked.contains(&entry.ino),
        };
        if shares {
            others.add(join(path, &entry.name));
        }
        Ok(())
    })?;
    selected.shared = shared;
    Ok(())
}

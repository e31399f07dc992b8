//! Finds what a purge means: the inodes that ever stood at a path or below it, every other place of theirs, and who else holds their bytes;
//! what has no name anywhere.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::logged::Contents;
use super::states::{Rewriter, subdir};
use crate::error::Result;
use crate::ids::{BlobId, Ino};
use crate::tree::path::{join, split};
use crate::tree::{BlobRead, TreeError, decode_blob, load_state};
use crate::versions::inode_table;
use crate::versions::node::{Content, DirNode, Entry, InodeEntry, Link, Node, Piece};
use crate::versions::piece_tree::{self, Met};

/// Paths that are listed; all are counted.
pub const LISTED: usize = 1000;

/// Paths by name, those of the newest state before others where they are too many.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Paths {
    /// At most 1,000, and whether the newest state has them there.
    pub listed: BTreeMap<Vec<u8>, bool>,
    /// True when there are more.
    pub more: bool,
}

impl Paths {
    fn add(&mut self, path: Vec<u8>, in_newest: bool) {
        if let Some(known) = self.listed.get_mut(&path) {
            *known |= in_newest;
        } else if self.listed.len() < LISTED {
            self.listed.insert(path, in_newest);
        } else {
            self.more = true;
        }
    }
}

/// How many files are meant, and where they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// Files, links and directories.
    pub count: u64,
    /// Those of them that the newest state has.
    pub in_newest: u64,
    /// Every path that they have or had.
    pub paths: Paths,
}

impl Files {
    fn counted(paths: Paths, inodes: &BTreeSet<Ino>, newest: &BTreeSet<Ino>) -> Self {
        Self { count: inodes.len() as u64, in_newest: inodes.intersection(newest).count() as u64, paths }
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
    /// Those that only the log has at a purged path, or in a purged directory.
    pub by_log: Files,
    /// Those that only stood in a purged directory, and stand elsewhere in some state.
    pub moved: Files,
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

/// What is shown a node, and its names.
type SeeNode<'s> = dyn FnMut(Ino, &Node, &[Link]) -> Result<(), TreeError> + 's;

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
                failed = see(ino, node, names);
            }
        })?;
        failed?;
    }
    Ok(())
}

/// Shows the chunks that a file names, but for those in pages of pieces that were `seen` before: versions of a file share most of them.
fn chunks_of(blobs: &dyn BlobRead, node: &Node, seen: &mut HashSet<BlobId>, see: &mut dyn FnMut(BlobId, u32)) -> Result<(), TreeError> {
    piece_tree::walk(blobs, &node.content, &mut |met| match met {
        Met::Blob(id) => seen.insert(*id),
        Met::Pieces(pieces) => {
            for piece in pieces {
                if let Piece::Chunk { id, len } = piece {
                    see(*id, *len);
                }
            }
            true
        }
    })
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

/// Adds what was ever in the directories among `inodes`, as states and `contents` have it, but for those of `left`.
fn grow(
    blobs: &dyn BlobRead,
    roots: &[BlobId],
    inodes: &mut BTreeSet<Ino>,
    contents: &Contents,
    left: &BTreeSet<Ino>,
) -> Result<(), TreeError> {
    loop {
        let before = inodes.len();
        let mut look: Vec<Ino> = inodes.iter().copied().collect();
        while let Some(dir) = look.pop() {
            let new = contents.get(&dir).into_iter().flatten().filter(|ino| !left.contains(ino));
            look.extend(new.filter(|ino| inodes.insert(**ino)));
        }
        walk(blobs, roots, &mut |dir, _, entry| {
            if inodes.contains(&dir) && !left.contains(&entry.ino) {
                inodes.insert(entry.ino);
            }
            Ok(())
        })?;
        if inodes.len() == before {
            return Ok(());
        }
    }
}

/// Those of `inodes` that a state has elsewhere than in one of them, and that are not `named`: they were moved out. A file that has names here and
/// there at once was not: it goes with all of them.
fn moved(blobs: &dyn BlobRead, roots: &[BlobId], inodes: &BTreeSet<Ino>, named: &BTreeSet<Ino>) -> Result<BTreeSet<Ino>, TreeError> {
    let mut moved = BTreeSet::new();
    walk(blobs, roots, &mut |dir, _, entry| {
        if inodes.contains(&entry.ino) && !named.contains(&entry.ino) && !inodes.contains(&dir) {
            moved.insert(entry.ino);
        }
        Ok(())
    })?;
    if !moved.is_empty() {
        tables(blobs, roots, &mut |ino, _, names| {
            if names.iter().any(|name| inodes.contains(&name.dir)) && names.iter().any(|name| !inodes.contains(&name.dir)) {
                moved.remove(&ino);
            }
            Ok(())
        })?;
    }
    Ok(moved)
}

/// What the log says: who stood at the paths, and who was ever in which directory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told<'a> {
    pub inodes: &'a BTreeSet<Ino>,
    pub contents: &'a Contents,
}

/// What goes with these paths. The roots are those of all versions; `newest` is the state of now. With `leave_moved` what was moved out of their
/// directories stays.
pub(super) fn by_paths(
    blobs: &dyn BlobRead,
    roots: &[BlobId],
    newest: Option<&BlobId>,
    paths: &[Vec<u8>],
    told: Told<'_>,
    leave_moved: bool,
) -> Result<Selected> {
    let (at_states, found) = at_paths(blobs, roots, paths)?;
    let named: BTreeSet<Ino> = at_states.union(told.inodes).copied().collect();
    let (mut left, mut inodes, mut out);
    left = BTreeSet::new();
    loop {
        // What was below them, also while they had other names; and what was below that.
        inodes = named.clone();
        grow(blobs, roots, &mut inodes, told.contents, &left)?;
        out = moved(blobs, roots, &inodes, &named)?;
        // What was in a directory that is left may have been moved into it.
        if !leave_moved || out.is_empty() {
            break;
        }
        left.append(&mut out);
    }
    out.append(&mut left.clone());
    let mut by_states = at_states;
    grow(blobs, roots, &mut by_states, &Contents::new(), &left)?;
    let mut selected = Selected { inodes, found, ..Selected::default() };
    let (inodes, chunks, listed) = (&selected.inodes, &mut selected.chunks, &mut selected.paths);
    let mut pages = HashSet::new();
    let mut add = |node: &Node| chunks_of(blobs, node, &mut pages, &mut |id, len| _ = chunks.insert(id, len));
    let (mut there, mut now) = (BTreeSet::new(), BTreeSet::new());
    let (mut by_log, mut moved_to) = (Paths::default(), Paths::default());
    // The newest state first.
    let mut walk = Walk { blobs, seen: HashSet::new(), states: HashSet::new() };
    for root in newest.into_iter().chain(roots) {
        let in_newest = newest == Some(root);
        walk.state(root, &mut |dir, path, entry| {
            let (goes, outside) = (inodes.contains(&entry.ino), !inodes.contains(&dir));
            let left_or_moved = out.contains(&entry.ino);
            if in_newest && (goes || left_or_moved) {
                now.insert(entry.ino);
            }
            if left_or_moved && outside {
                moved_to.add(join(path, &entry.name), in_newest);
            }
            if !goes {
                return Ok(());
            }
            there.insert(entry.ino);
            if outside {
                let path = join(path, &entry.name);
                if !by_states.contains(&entry.ino) {
                    by_log.add(path.clone(), in_newest);
                }
                listed.add(path, in_newest);
            }
            entry.node.iter().try_for_each(|node| add(node))
        })?;
    }
    tables(blobs, roots, &mut |ino, node, _| {
        if !inodes.contains(&ino) {
            return Ok(());
        }
        there.insert(ino);
        add(node)
    })?;
    let logged_only: BTreeSet<Ino> = there.difference(&by_states).copied().collect();
    selected.in_newest = now.intersection(inodes).next().is_some();
    selected.by_log = Files::counted(by_log, &logged_only, &now);
    selected.moved = Files::counted(moved_to, &out, &now);
    selected.all = std::mem::replace(&mut selected.inodes, there);
    selected.nameless = nameless(blobs, roots)?.difference(&selected.inodes).copied().collect();
    others(blobs, roots, newest, &mut selected)?;
    Ok(selected)
}

/// Inodes that have no name in any state: files that were open and unlinked when a version was made.
pub(super) fn nameless(blobs: &dyn BlobRead, roots: &[BlobId]) -> Result<BTreeSet<Ino>, TreeError> {
    let (mut inodes, mut named) = (BTreeSet::new(), BTreeSet::new());
    tables(blobs, roots, &mut |ino, _, names| {
        if names.is_empty() {
            inodes.insert(ino)
        } else {
            named.insert(ino)
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
    others(blobs, roots, newest, &mut selected)?;
    if let Some(newest) = newest {
        let nothing = BTreeSet::new();
        let probe = super::states::Probe(blobs);
        selected.in_newest = Rewriter::new(&probe, &nothing, &selected.shared).state(newest)?.touched;
    }
    Ok(selected)
}

/// Files that do not go and hold some of the chunks.
fn others(blobs: &dyn BlobRead, roots: &[BlobId], newest: Option<&BlobId>, selected: &mut Selected) -> Result<(), TreeError> {
    let (inodes, nameless, chunks) = (&selected.inodes, &selected.nameless, &selected.chunks);
    if chunks.is_empty() {
        return Ok(());
    }
    let nothing = BTreeSet::new();
    let probe = super::states::Probe(blobs);
    let mut look = Rewriter::new(&probe, &nothing, chunks);
    let (mut shared, mut pages): (HashMap<BlobId, u32>, HashSet<BlobId>) = (HashMap::new(), HashSet::new());
    let mut share = |node: &Node| -> Result<bool, TreeError> {
        let shares = look.names_chunk(node)?;
        if shares {
            chunks_of(blobs, node, &mut pages, &mut |id, len| {
                if chunks.contains_key(&id) {
                    shared.insert(id, len);
                }
            })?;
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
    let mut walk = Walk { blobs, seen: HashSet::new(), states: HashSet::new() };
    for root in newest.into_iter().chain(roots) {
        walk.state(root, &mut |_, path, entry| {
            let shares = match &entry.node {
                _ if inodes.contains(&entry.ino) => false,
                Some(node) => share(node)?,
                None => linked.contains(&entry.ino),
            };
            if shares {
                others.add(join(path, &entry.name), newest == Some(root));
            }
            Ok(())
        })?;
    }
    selected.shared = shared;
    Ok(())
}

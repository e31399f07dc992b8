//! States without certain inodes. What does not name them stays the same blob; what does is stored anew, once however many states share it.

use std::collections::{BTreeSet, HashMap};

use crate::ids::{BlobId, Ino};
use crate::tree::{BlobRead, BlobWrite, TreeError, decode_blob, load_state};
use crate::versions::commit::store;
use crate::versions::dir_pages;
use crate::versions::inode_table::TableNode;
use crate::versions::node::{Content, DirNode, Entry, FileKind, InodeEntry, Node, Piece, State};
use crate::versions::piece_tree;

/// Directories and parts of the table that are remembered at most.
const REMEMBERED: usize = 1 << 20;

/// A store in which nothing is stored: it only says what the address would be.
#[derive(Debug)]
pub(super) struct Probe<'a>(pub &'a dyn BlobRead);

impl BlobRead for Probe<'_> {
    fn get(&self, id: &BlobId) -> Result<Vec<u8>, TreeError> {
        self.0.get(id)
    }

    fn read_at(&self, id: &BlobId, offset: u64, buf: &mut [u8]) -> Result<(), TreeError> {
        self.0.read_at(id, offset, buf)
    }
}

impl BlobWrite for Probe<'_> {
    fn put(&self, bytes: &[u8]) -> Result<BlobId, TreeError> {
        Ok(BlobId::of(bytes))
    }
}

/// What became of a directory, a part of the table, or a state.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rewritten {
    /// Its blob now; `None` when nothing is left in it.
    pub id: Option<BlobId>,
    /// Whether it names an inode or a blob that goes.
    pub touched: bool,
    /// Directories right in it that went.
    dirs: u32,
}

/// Takes inodes out of states.
pub(super) struct Rewriter<'a> {
    blobs: &'a dyn BlobWrite,
    inodes: &'a BTreeSet<Ino>,
    /// Blobs that go: what names them is touched, and stays.
    chunks: &'a HashMap<BlobId, u32>,
    dirs: HashMap<BlobId, Rewritten>,
    table: HashMap<(BlobId, u64, usize), Rewritten>,
    /// What goes with a directory that goes, though it is not among the inodes: in other states it stands elsewhere.
    lost: HashMap<BlobId, BTreeSet<Ino>>,
    /// Numbers of sets of such; 0 is none.
    sets: HashMap<BTreeSet<Ino>, usize>,
    /// Pages of pieces, and lists of them: does one of the blobs stand there?
    lists: HashMap<BlobId, bool>,
    states: HashMap<BlobId, Rewritten>,
}

impl<'a> Rewriter<'a> {
    pub fn new(blobs: &'a dyn BlobWrite, inodes: &'a BTreeSet<Ino>, chunks: &'a HashMap<BlobId, u32>) -> Self {
        let (dirs, table, lists, states) = (HashMap::new(), HashMap::new(), HashMap::new(), HashMap::new());
        let (lost, sets) = (HashMap::new(), HashMap::new());
        Self { blobs, inodes, chunks, dirs, table, lost, sets, lists, states }
    }

    /// The state without the inodes.
    pub fn state(&mut self, root: &BlobId) -> Result<Rewritten, TreeError> {
        if let Some(known) = self.states.get(root) {
            return Ok(*known);
        }
        let mut state: State = load_state(self.blobs, root)?;
        let (mut touched, mut changed) = (false, false);
        let mut lost = BTreeSet::new();
        if let Content::Directory(id) = state.root.content {
            let dir = self.dir(&id)?;
            touched |= dir.touched;
            changed |= dir.id != Some(id);
            lost = self.lost(&id)?;
            place(&mut state.root, &dir);
        }
        if let Some(id) = state.inodes {
            let number = if lost.is_empty() { 0 } else { self.sets.len() + 1 };
            let number = if number == 0 { 0 } else { *self.sets.entry(lost.clone()).or_insert(number) };
            let table = self.table(&id, state.inodes_height, 0, (&lost, number))?;
            touched |= table.touched;
            changed |= table.id != Some(id);
            state.inodes = table.id;
            if table.id.is_none() {
                state.inodes_height = 0;
            }
        }
        let id = if changed { store(self.blobs, &state)? } else { *root };
        let done = Rewritten { id: Some(id), touched, dirs: 0 };
        self.states.insert(*root, done);
        Ok(done)
    }

    /// A directory with all below it, the deepest first: its depth is the user's choice.
    fn dir(&mut self, top: &BlobId) -> Result<Rewritten, TreeError> {
        if self.dirs.len() >= REMEMBERED {
            self.dirs.clear();
        }
        let mut stack = vec![(*top, self.entries(top)?)];
        while let Some((id, entries)) = stack.last() {
            let below = entries.iter().filter(|e| !self.inodes.contains(&e.ino)).filter_map(subdir);
            let open: Vec<BlobId> = below.filter(|id| !self.dirs.contains_key(id)).collect();
            if let Some(next) = open.first() {
                let entries = self.entries(next)?;
                stack.push((*next, entries));
                continue;
            }
            let id = *id;
            let Some((_, entries)) = stack.pop() else { break };
            let done = self.directory(&id, entries)?;
            self.dirs.insert(id, done);
        }
        self.dirs.get(top).copied().ok_or_else(|| TreeError::Malformed { what: "directory", id: *top, why: "it holds itself".to_owned() })
    }

    /// Everything in directories that go from this tree that does not go everywhere. The tree was rewritten before.
    fn lost(&mut self, top: &BlobId) -> Result<BTreeSet<Ino>, TreeError> {
        let (mut all, mut stack) = (BTreeSet::new(), vec![*top]);
        while let Some(id) = stack.pop() {
            if self.dirs.get(&id).is_some_and(|done| !done.touched) {
                continue;
            }
            for entry in self.entries(&id)? {
                match subdir(&entry) {
                    Some(below) if self.inodes.contains(&entry.ino) => all.extend(self.lost_with(&below)?),
                    Some(below) => stack.push(below),
                    None => {}
                }
            }
        }
        Ok(all)
    }

    /// The same of a directory that goes.
    fn lost_with(&mut self, top: &BlobId) -> Result<&BTreeSet<Ino>, TreeError> {
        if !self.lost.contains_key(top) {
            let (mut all, mut stack) = (BTreeSet::new(), vec![*top]);
            while let Some(id) = stack.pop() {
                for entry in self.entries(&id)? {
                    if !self.inodes.contains(&entry.ino) {
                        all.insert(entry.ino);
                    }
                    stack.extend(subdir(&entry));
                }
            }
            self.lost.insert(*top, all);
        }
        Ok(self.lost.entry(*top).or_default())
    }

    fn entries(&self, id: &BlobId) -> Result<Vec<Entry>, TreeError> {
        Ok(match decode_blob(self.blobs, id, "directory")? {
            DirNode::Entries(entries) => entries,
            DirNode::Pages(pages) => {
                let mut all = Vec::new();
                for page in pages {
                    all.append(&mut decode_blob(self.blobs, &page, "directory page")?);
                }
                all
            }
        })
    }

    fn directory(&mut self, id: &BlobId, entries: Vec<Entry>) -> Result<Rewritten, TreeError> {
        let (mut kept, mut changed, mut touched, mut dirs) = (Vec::with_capacity(entries.len()), false, false, 0);
        for mut entry in entries {
            if self.inodes.contains(&entry.ino) {
                (changed, touched) = (true, true);
                dirs += u32::from(entry.kind == FileKind::Directory);
                continue;
            }
            if let Some(below) = subdir(&entry) {
                let Some(done) = self.dirs.get(&below).copied() else {
                    return Err(TreeError::Malformed { what: "directory", id: *id, why: "it holds itself".to_owned() });
                };
                touched |= done.touched;
                if done.id != Some(below) {
                    changed = true;
                    entry.node.iter_mut().for_each(|node| place(node, &done));
                }
            } else if let Some(node) = &entry.node {
                touched |= self.names_chunk(node)?;
            }
            kept.push(entry);
        }
        let new = match (changed, kept.is_empty()) {
            (false, _) => Some(*id),
            (true, true) => None,
            (true, false) => Some(dir_pages::store_all(self.blobs, kept)?.0),
        };
        Ok(Rewritten { id: new, touched, dirs })
    }

    /// Does a file hold one of the blobs that go?
    pub fn names_chunk(&mut self, node: &Node) -> Result<bool, TreeError> {
        if self.chunks.is_empty() {
            return Ok(false);
        }
        let chunks = self.chunks;
        Ok(match &node.content {
            Content::Pieces(pieces) => any(pieces, chunks),
            Content::PieceList(id) => self.list_names_chunk(id, 0)?,
            Content::PieceTree { root, height } => self.list_names_chunk(root, *height)?,
            Content::Empty | Content::Directory(_) | Content::Target(_) => false,
        })
    }

    /// The same of a page of pieces (`height` 0) or a list of pages: what versions share is read once. At most eight levels.
    fn list_names_chunk(&mut self, id: &BlobId, height: u8) -> Result<bool, TreeError> {
        if let Some(known) = self.lists.get(id) {
            return Ok(*known);
        }
        let found = match piece_tree::read(self.blobs, id, height)? {
            piece_tree::Part::Pieces(pieces) => any(&pieces, self.chunks),
            piece_tree::Part::Pages(pages) => {
                let mut found = false;
                for page in pages {
                    found = found || self.list_names_chunk(&page.id, height - 1)?;
                }
                found
            }
        };
        self.lists.insert(*id, found);
        Ok(found)
    }

    /// A part of the inode table; `prefix` is what stands above its digits. At most eight levels. `lost` go too, a set and its number.
    fn table(&mut self, id: &BlobId, height: u8, prefix: u64, lost: (&BTreeSet<Ino>, usize)) -> Result<Rewritten, TreeError> {
        let bits = 8 * u32::from(height);
        let last = prefix | 1u64.checked_shl(bits + 8).map_or(u64::MAX, |end| end - 1);
        let number = if lost.0.range(Ino(prefix)..=Ino(last)).next().is_some() { lost.1 } else { 0 };
        let key = (*id, prefix, number);
        if let Some(known) = self.table.get(&key) {
            return Ok(*known);
        }
        let (mut changed, mut touched) = (false, false);
        let new = match decode_blob(self.blobs, id, "inode table")? {
            TableNode::Leaf(mut entries) => {
                let before = entries.len();
                let goes = |ino: Ino| self.inodes.contains(&ino) || lost.0.contains(&ino);
                entries.retain(|(digit, _)| !goes(Ino(prefix | u64::from(*digit))));
                touched = entries.len() != before;
                changed = touched;
                for (_, entry) in &mut entries {
                    if let InodeEntry::Node(node, _) = entry {
                        changed |= forget_entries(node);
                        touched |= self.names_chunk(node)?;
                    }
                }
                (!entries.is_empty()).then_some(TableNode::Leaf(entries))
            }
            TableNode::Inner(children) if height > 0 => {
                let mut kept = Vec::with_capacity(children.len());
                for (digit, child) in children {
                    let done = self.table(&child, height - 1, prefix | u64::from(digit) << bits, lost)?;
                    touched |= done.touched;
                    changed |= done.id != Some(child);
                    kept.extend(done.id.map(|id| (digit, id)));
                }
                (!kept.is_empty()).then_some(TableNode::Inner(kept))
            }
            TableNode::Inner(_) => {
                return Err(TreeError::Malformed { what: "inode table", id: *id, why: "its height is not the one stated".to_owned() });
            }
        };
        let new = match new {
            Some(node) if changed => Some(store(self.blobs, &node)?),
            Some(_) => Some(*id),
            None => None,
        };
        let done = Rewritten { id: new, touched, dirs: 0 };
        if self.table.len() >= REMEMBERED {
            self.table.clear();
        }
        self.table.insert(key, done);
        Ok(done)
    }
}

fn any(pieces: &[Piece], chunks: &HashMap<BlobId, u32>) -> bool {
    pieces.iter().any(|p| matches!(p, Piece::Chunk { id, .. } if chunks.contains_key(id)))
}

/// Takes from a directory without a name the entries that an older ize stored with it: nothing leads to them, and they name what was in it once.
fn forget_entries(node: &mut Node) -> bool {
    let left = node.nlink == 0 && matches!(node.content, Content::Directory(_));
    if left {
        node.content = Content::Empty;
    }
    left
}

/// The blob of a directory's entries.
pub(super) fn subdir(entry: &Entry) -> Option<BlobId> {
    match entry.node.as_deref() {
        Some(Node { content: Content::Directory(id), .. }) => Some(*id),
        _ => None,
    }
}

fn place(node: &mut Node, dir: &Rewritten) {
    node.content = dir.id.map_or(Content::Empty, Content::Directory);
    node.nlink = node.nlink.saturating_sub(dir.dirs);
}

//! Names what eats the space: each blob is counted once, with the bytes that it takes in its pack.
//!
//! The newest state is walked first, then the versions from the newest to the oldest, then the log: a blob counts for the first that names it.
//! What only versions name goes when they go, what only the log names when it is pruned; the rest of the packs is garbage for the next
//! sweep. A directory that was looked into under one path is not looked into again.
//!
//! Memory: about 60 bytes a blob, and a row for each path, at the depth asked for.

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::core::{Item, for_each_item};
use super::states::Store;
use super::store_size::StoreSize;
use crate::error::Result;
use crate::ids::{BlobId, Ino, Lsn, Time};
use crate::project::Layout;
use crate::storage::Disk;
use crate::tree::{BlobRead, Tree, decode_blob, load_state};
use crate::versions::class::{ClassSettings, Classes, Seen};
use crate::versions::inode_table;
use crate::versions::node::{Content, DirNode, Entry, InodeEntry, Link, Node, Piece};
use crate::versions::piece_tree::{self, Met};
use crate::versions::version_log::Version;

/// What the rows are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// Paths, cut to so many names; `None` goes down to files.
    Path(Option<usize>),
    /// Programs.
    Process,
    /// Classes.
    Class,
}

/// Bytes of one row. Of a program: what it wrote, in `history`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// Path from the root, name of a program or of a class.
    pub name: Vec<u8>,
    /// Named by the newest state.
    pub present: u64,
    /// Named by older versions only.
    pub history: u64,
}

/// Where the bytes of the packs belong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackParts {
    /// To the newest state that is committed.
    pub present: u64,
    /// To older versions only.
    pub versions: u64,
    /// To the log only: older than the last prune, or newer than the last version.
    pub log: u64,
    /// To nothing: the next sweep may free them.
    pub free: u64,
}

/// What eats the space.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// By part.
    pub size: StoreSize,
    /// The packs.
    pub packs: PackParts,
    /// Versions that were looked at.
    pub versions: u64,
    /// Sorted by size, the largest first.
    pub rows: Vec<Row>,
}

/// Looks at the whole store. It may be in use meanwhile.
///
/// # Errors
/// Damage or I/O errors.
pub fn usage(layout: &Layout, store: &Store, by: By, classes: &ClassSettings) -> Result<Usage> {
    let blobs: Arc<dyn BlobRead> = Arc::clone(store.blobs()) as _;
    let mut count =
        Count { blobs: &blobs, by, classes: Classes::new(classes), marks: HashMap::new(), rows: HashMap::new(), names: Vec::new() };
    let mut versions = 0;
    if let Some(root) = store.checkpoint().root {
        count.state(&root, Part::Present)?;
    }
    let mut programs: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
    for version in store.versions().newest_first() {
        let version = version?;
        versions += 1;
        if by == By::Process {
            *programs.entry(program(&version)).or_default() += version.bytes;
        }
        count.state(&version.root, Part::Versions)?;
    }
    for_each_item(&Disk, layout, store.id(), (Lsn::ZERO, Lsn(u64::MAX)), &mut |item| {
        if let Item::Operation { entry, .. } = item
            && let Some((id, _)) = entry.op.blob()
        {
            count.marks.entry(id).or_insert((Part::Log, 0));
        }
        Ok(ControlFlow::Continue(()))
    })?;
    let mut packs = PackParts::default();
    let mut rows: Vec<Row> = count.names.iter().map(|name| Row { name: name.clone(), ..Row::default() }).collect();
    store.blobs().each_stored(&mut |id, bytes| {
        let Some((part, owner)) = count.marks.get(id) else {
            packs.free += bytes;
            return;
        };
        let row = rows.get_mut(*owner as usize);
        match (part, row) {
            (Part::Log, _) => packs.log += bytes,
            (Part::Present, row) => {
                packs.present += bytes;
                row.into_iter().for_each(|row| row.present += bytes);
            }
            (Part::Versions, row) => {
                packs.versions += bytes;
                row.into_iter().for_each(|row| row.history += bytes);
            }
        }
    })?;
    let size = StoreSize::of(layout)?;
    // Copies that a sweep left, heads of packs.
    packs.free = store.blobs().usage().pack_bytes.saturating_sub(packs.present + packs.versions + packs.log);
    if by == By::Process {
        rows = programs.into_iter().map(|(name, history)| Row { name, present: 0, history }).collect();
    }
    rows.retain(|row| row.present + row.history > 0);
    rows.sort_by(|a, b| (b.present + b.history).cmp(&(a.present + a.history)).then_with(|| a.name.cmp(&b.name)));
    Ok(Usage { size, packs, versions, rows })
}

/// Names of programs that one row joins.
const JOINED: usize = 3;

/// Who wrote a version: its programs, since it does not say how much each wrote.
fn program(version: &Version) -> Vec<u8> {
    let mut names: Vec<&[u8]> = version.processes.iter().map(|p| p.comm.as_slice()).filter(|n| !n.is_empty()).collect();
    names.sort_unstable();
    names.dedup();
    if names.is_empty() {
        return b"(not known)".to_vec();
    }
    let more = names.len().saturating_sub(JOINED);
    names.truncate(JOINED);
    let mut out = names.join(&b", "[..]);
    if more > 0 {
        out.extend_from_slice(format!(" and {more} more").as_bytes());
    }
    out
}

/// The time of the oldest version, for people who ask how far the history reaches that takes the space.
#[must_use]
pub fn oldest(store: &Store) -> Option<Time> {
    store.versions().iter().next()?.ok().map(|v| v.end)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Present,
    Versions,
    Log,
}

struct Count<'a> {
    blobs: &'a Arc<dyn BlobRead>,
    by: By,
    classes: Classes,
    /// Who a blob counts for: part, and number of the row.
    marks: HashMap<BlobId, (Part, u32)>,
    rows: HashMap<Vec<u8>, u32>,
    names: Vec<Vec<u8>>,
}

impl Count<'_> {
    /// The number of the row that a path counts for.
    fn row(&mut self, seen: &mut Seen, path: &[u8], is_dir: bool) -> Result<u32> {
        let name: Vec<u8> = match self.by {
            By::Path(None) => path.to_vec(),
            By::Path(Some(depth)) => path.split(|b| *b == b'/').take(depth).collect::<Vec<_>>().join(&b'/'),
            By::Class => self.classes.of(seen, path, is_dir)?.name().into(),
            By::Process => Vec::new(),
        };
        if let Some(row) = self.rows.get(&name) {
            return Ok(*row);
        }
        let row = u32::try_from(self.names.len()).unwrap_or(u32::MAX);
        self.names.push(name.clone());
        self.rows.insert(name, row);
        Ok(row)
    }

    /// True when the blob is new.
    fn mark(&mut self, id: BlobId, part: Part, row: u32) -> bool {
        match self.marks.entry(id) {
            std::collections::hash_map::Entry::Vacant(place) => {
                place.insert((part, row));
                true
            }
            std::collections::hash_map::Entry::Occupied(_) => false,
        }
    }

    fn state(&mut self, root: &BlobId, part: Part) -> Result<()> {
        if self.marks.contains_key(root) {
            return Ok(());
        }
        self.classes.forget();
        let mut tree = Tree::open(Arc::clone(self.blobs), Some(*root), Ino(2), Lsn::ZERO, Time::default())?;
        let blobs = Arc::clone(self.blobs);
        let state = load_state(&*blobs, root)?;
        let mut seen = Seen::default();
        // Directories still to be looked into: their path, and what holds their entries.
        let mut dirs = Vec::new();
        self.node(&mut seen, &state.root, Vec::new(), part, &mut dirs)?;
        while let Some((path, id)) = dirs.pop() {
            if self.marks.contains_key(&id) {
                continue;
            }
            let (mut entries, mut new_pages): (Vec<Entry>, Vec<BlobId>) = (Vec::new(), Vec::new());
            match decode_blob(&*blobs, &id, "directory")? {
                DirNode::Entries(all) => entries = all,
                DirNode::Pages(pages) => {
                    for page in pages {
                        let new = !self.marks.contains_key(&page);
                        // What says the classes may stand in a page that is known.
                        if new || self.by == By::Class {
                            entries.append(&mut decode_blob(&*blobs, &page, "directory page")?);
                        }
                        new_pages.extend(new.then_some(page));
                    }
                }
            }
            if self.by == By::Class {
                seen.enter(&*blobs, &state, &path, &entries)?;
            }
            let row = self.row(&mut seen, &path, true)?;
            for id in new_pages.into_iter().chain([id]) {
                self.mark(id, part, row);
            }
            for entry in entries {
                if let Some(node) = entry.node {
                    self.node(&mut seen, &node, join(&path, &entry.name), part, &mut dirs)?;
                }
            }
        }
        let top = self.row(&mut seen, b"", true)?;
        self.mark(*root, part, top);
        // The table: its blobs belong to everything, the files with several names to their first.
        let mut linked: Vec<(Vec<Link>, Node)> = Vec::new();
        let mut tables = Vec::new();
        let marks = &self.marks;
        inode_table::walk_nodes(
            &*blobs,
            &state,
            &mut |id| {
                let new = !marks.contains_key(id);
                if new {
                    tables.push(*id);
                }
                new
            },
            &mut |_, entry| {
                if let InodeEntry::Node(node, links) = entry {
                    linked.push((links.clone(), (**node).clone()));
                }
            },
        )?;
        for id in tables {
            self.mark(id, part, top);
        }
        for (links, node) in linked {
            // Without a name: open, and unlinked.
            let path = match links.first() {
                Some(link) => tree.path_of(link.dir)?.map(|dir| join(&dir, &link.name)),
                None => None,
            };
            self.node(&mut seen, &node, path.unwrap_or_default(), part, &mut Vec::new())?;
        }
        Ok(())
    }

    fn node(&mut self, seen: &mut Seen, node: &Node, path: Vec<u8>, part: Part, dirs: &mut Vec<(Vec<u8>, BlobId)>) -> Result<()> {
        match &node.content {
            Content::Empty | Content::Target(_) => {}
            Content::Directory(id) => {
                if !self.marks.contains_key(id) {
                    dirs.push((path, *id));
                }
            }
            Content::Pieces(pieces) => self.pieces(seen, pieces, &path, part)?,
            Content::PieceList(root) | Content::PieceTree { root, .. } => {
                if !self.marks.contains_key(root) {
                    let (row, blobs) = (self.row(seen, &path, false)?, Arc::clone(self.blobs));
                    piece_tree::walk(&*blobs, &node.content, &mut |met| match met {
                        Met::Blob(id) => self.mark(*id, part, row),
                        Met::Pieces(pieces) => {
                            for piece in pieces {
                                if let Piece::Chunk { id, .. } = piece {
                                    self.mark(*id, part, row);
                                }
                            }
                            true
                        }
                    })?;
                }
            }
        }
        Ok(())
    }

    fn pieces(&mut self, seen: &mut Seen, pieces: &[Piece], path: &[u8], part: Part) -> Result<()> {
        let mut row = None;
        for piece in pieces {
            if let Piece::Chunk { id, .. } = piece
                && !self.marks.contains_key(id)
            {
                let row = match row {
                    Some(row) => row,
                    None => *row.insert(self.row(seen, path, false)?),
                };
                self.mark(*id, part, row);
            }
        }
        Ok(())
    }
}

fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() { name.to_vec() } else { [dir, name].join(&b'/') }
}

//! From a tree with changes to a committed state: changed files become chunks, changed directories and the inode table become blobs,
//! their hash is the state. Equal states have equal hashes, whatever way led there.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use serde::Serialize;

use super::dir_pages;
use super::inode_table;
use super::node::{Content, Entry, FileKind, InodeEntry, Link, State};
use super::piece_tree::Built;
use crate::ids::{BlobId, Ino, Lsn};
use crate::tree::{BlobWrite, Body, Child, Inode, Tree, TreeError};

/// Directories inside one another at most.
const DEPTH_MAX: usize = 1 << 16;

/// What a commit made of one file or directory: for trees that share the base.
#[derive(Clone, Debug)]
pub struct NewContent {
    /// Which inode.
    pub ino: Ino,
    /// Its committed content.
    pub content: Content,
    /// Its length in bytes.
    pub size: u64,
    /// Its bytes that are not holes.
    pub allocated: u64,
}

/// A state that has been stored (and not yet synced).
#[derive(Clone, Debug)]
pub struct Committed {
    /// Its root blob.
    pub root: BlobId,
    /// The last record that it holds.
    pub lsn: Lsn,
    /// Decoded root.
    pub state: State,
    /// Files and directories whose content is another than before.
    pub contents: Vec<NewContent>,
    /// Bytes of content that were read and cut into chunks.
    pub chunked: u64,
}

/// Encodes and stores a value of the format.
pub(crate) fn store<T: Serialize>(blobs: &dyn BlobWrite, value: &T) -> Result<BlobId, TreeError> {
    let bytes =
        postcard::to_stdvec(value).map_err(|e| TreeError::Malformed { what: "value to store", id: BlobId([0; 32]), why: e.to_string() })?;
    blobs.put(&bytes)
}

/// True when the committed node of such an inode stands in the inode table.
fn belongs_in_table(inode: &Inode) -> bool {
    inode.nlink == 0 || (inode.kind != FileKind::Directory && inode.nlink != 1)
}

impl Tree {
    /// Stores the state as it is now and makes it the base.
    ///
    /// # Errors
    /// When something cannot be read or stored. The tree must then not be used further.
    pub fn commit(&mut self, blobs: &dyn BlobWrite) -> Result<Committed, TreeError> {
        let dirty: Vec<Ino> = self.dirty().iter().copied().collect();
        let mut contents = Vec::new();
        let mut chunked = 0;
        // 1. Files.
        for &ino in &dirty {
            if let Some(Inode { body: Body::File(file), .. }) = self.peek(ino)
                && (!file.is_clean() || file.base_size() != self.peek(ino).map_or(0, |i| i.size))
            {
                let (new, read) = self.commit_file(ino, blobs)?;
                chunked += read;
                contents.push(new);
            }
        }
        // 2. Which directories and table entries change.
        let mut dirs: BTreeSet<Ino> = BTreeSet::new();
        // Names whose entries change although they stay.
        let mut renewed: HashMap<Ino, BTreeSet<Arc<[u8]>>> = HashMap::new();
        let mut table: BTreeMap<Ino, Option<InodeEntry>> = BTreeMap::new();
        for &ino in &dirty {
            let Some(inode) = self.peek(ino) else {
                table.insert(ino, None);
                continue;
            };
            if inode.kind == FileKind::Directory && inode.nlink > 0 {
                dirs.insert(ino);
            }
            let in_table = belongs_in_table(inode);
            if !in_table || !inode.in_table {
                for name in &inode.names {
                    dirs.insert(name.dir);
                    renewed.entry(name.dir).or_default().insert(Arc::clone(&name.name));
                }
            }
        }
        // 3. Their ancestors.
        let mut depths: BTreeMap<Ino, usize> = BTreeMap::new();
        for dir in dirs {
            self.mark_ancestors(dir, &mut depths)?;
        }
        depths.insert(Ino::ROOT, 0);
        // 4. Directories, the deepest first: a directory's entry holds its node.
        let mut order: Vec<(usize, Ino)> = depths.iter().map(|(ino, depth)| (*depth, *ino)).collect();
        order.sort_unstable_by(|a, b| b.cmp(a));
        for (_, dir) in order {
            let id = self.commit_dir(dir, renewed.remove(&dir).unwrap_or_default(), blobs)?;
            // The entry above holds its node.
            if let Some(name) = self.peek(dir).and_then(|inode| inode.names.first()) {
                renewed.entry(name.dir).or_default().insert(Arc::clone(&name.name));
            }
            contents.push(NewContent { ino: dir, content: id.map_or(Content::Empty, Content::Directory), size: 0, allocated: 0 });
        }
        // What has no name any more has no entries either: those of its committed form went with it.
        for &ino in &dirty {
            if self.peek(ino).is_some_and(|inode| inode.kind == FileKind::Directory && inode.nlink == 0) {
                self.set_dir_base(ino, None);
                contents.push(NewContent { ino, content: Content::Empty, size: 0, allocated: 0 });
            }
        }
        // 5. The table.
        for &ino in &dirty {
            let Some(inode) = self.peek(ino) else { continue };
            if ino == Ino::ROOT {
                continue;
            }
            let entry = if belongs_in_table(inode) {
                InodeEntry::Node(Box::new(self.node(inode)), inode.names.iter().cloned().map(Link::from).collect())
            } else {
                InodeEntry::In(inode.names.first().map_or(Ino::ROOT, |n| n.dir))
            };
            table.insert(ino, Some(entry));
        }
        let (old_table, old_height) = self.base_table();
        let (inodes, inodes_height) = inode_table::update(blobs, old_table, old_height, &table)?;
        let root_inode = self.peek(Ino::ROOT).ok_or(TreeError::NoInode(Ino::ROOT))?;
        let state = State { version: State::VERSION, root: self.node(root_inode), inodes, inodes_height };
        let root = store(blobs, &state)?;
        let committed = Committed { root, lsn: self.applied(), state, contents, chunked };
        self.rebase(&committed);
        Ok(committed)
    }

    fn mark_ancestors(&mut self, dir: Ino, depths: &mut BTreeMap<Ino, usize>) -> Result<usize, TreeError> {
        // Walk up to a directory whose depth is known, then number the way back down.
        let mut chain = Vec::new();
        let mut at = dir;
        let mut depth = loop {
            if let Some(depth) = depths.get(&at) {
                break *depth;
            }
            if at == Ino::ROOT {
                depths.insert(at, 0);
                break 0;
            }
            // Deeper than any tree that can be loaded: it goes round.
            if chain.len() >= DEPTH_MAX {
                return Err(TreeError::NoInode(at));
            }
            chain.push(at);
            let inode = self.inode(at)?;
            match inode.names.first() {
                Some(name) => at = name.dir,
                // A removed directory has no place; it is stored by nobody.
                None => return Ok(0),
            }
        };
        for at in chain.into_iter().rev() {
            depth += 1;
            depths.insert(at, depth);
        }
        Ok(depth)
    }

    /// Stores a directory whose entries of the names in `renewed` changed, beside those that came and went.
    fn commit_dir(&mut self, dir: Ino, renewed: BTreeSet<Arc<[u8]>>, blobs: &dyn BlobWrite) -> Result<Option<BlobId>, TreeError> {
        let body = self.dir(dir)?;
        let len = body.len();
        let (pages, mut names) = (body.pages().to_vec(), renewed);
        names.extend(body.changed().cloned());
        let stored = if len == 0 {
            None
        } else if !pages.is_empty() && len > dir_pages::PAGE_FROM && names.len() <= len / 8 {
            Some(dir_pages::store_changed(blobs, &pages, &names, &mut |name| self.committed_entry(dir, name))?)
        } else {
            self.load_whole(dir)?;
            let mut entries: Vec<Entry> = Vec::with_capacity(len);
            for (name, ino, kind) in self.children(dir)? {
                // Not in memory although its directory is whole: it has several names and was not touched.
                let node = self.peek(ino).filter(|inode| !belongs_in_table(inode)).map(|inode| Box::new(self.node(inode)));
                entries.push(Entry { name, ino, kind, node });
            }
            entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
            Some(dir_pages::store_all(blobs, entries)?)
        };
        let id = stored.as_ref().map(|(id, _)| *id);
        self.set_dir_base(dir, stored);
        Ok(id)
    }

    /// The entry of one name as it is to be stored.
    fn committed_entry(&mut self, dir: Ino, name: &[u8]) -> Result<Option<Entry>, TreeError> {
        let Some(Child { ino, kind, .. }) = self.lookup(dir, name)? else { return Ok(None) };
        self.inode(ino)?;
        let node = self.peek(ino).filter(|inode| !belongs_in_table(inode)).map(|inode| Box::new(self.node(inode)));
        Ok(Some(Entry { name: name.to_vec(), ino, kind, node }))
    }

    /// Stores what is new of a changed file.
    fn commit_file(&mut self, ino: Ino, blobs: &dyn BlobWrite) -> Result<(NewContent, u64), TreeError> {
        let (Built { content, stored: allocated }, chunked) = self.cut_file(ino, blobs)?;
        let size = self.inode(ino)?.size;
        self.rebase_file(ino, &content, size, allocated);
        Ok((NewContent { ino, content, size, allocated }, chunked))
    }
}

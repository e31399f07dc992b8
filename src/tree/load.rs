//! Loading from the committed state, one directory at a time, when somebody looks. What is read is checked in form; a blob's bytes are
//! verified by the blob store.

use std::sync::Arc;

use serde::de::DeserializeOwned;

use super::{BlobRead, Body, DirBody, FileBody, Inode, Name, Tree, TreeError};
use crate::ids::{BlobId, Ino, InoMap, Lsn};
use crate::versions::dir_pages::Page;
use crate::versions::inode_table;
use crate::versions::node::{Attributes, Content, DirNode, Entry, FileKind, InodeEntry, Node, State, Xattrs};

/// Decodes a blob of the format; trailing bytes are an error.
pub(crate) fn decode<T: DeserializeOwned>(blobs: &dyn BlobRead, id: &BlobId, what: &'static str) -> Result<T, TreeError> {
    decode_bytes(&blobs.get(id)?, id, what)
}

fn decode_bytes<T: DeserializeOwned>(bytes: &[u8], id: &BlobId, what: &'static str) -> Result<T, TreeError> {
    let malformed = |why: String| TreeError::Malformed { what, id: *id, why };
    let (value, rest) = postcard::take_from_bytes(bytes).map_err(|e| malformed(e.to_string()))?;
    if rest.is_empty() { Ok(value) } else { Err(malformed("trailing bytes".to_owned())) }
}

/// Reads a state's root blob.
pub(crate) fn state(blobs: &dyn BlobRead, root: &BlobId) -> Result<State, TreeError> {
    let bytes = blobs.get(root)?;
    // The version is judged before the rest: a later state may be of a form that cannot be read.
    if let Some(version) = bytes.first().copied().filter(|version| *version > State::VERSION) {
        return Err(TreeError::LaterState { root: *root, version });
    }
    let state: State = decode_bytes(&bytes, root, "state")?;
    if state.version == 0 {
        return Err(TreeError::Malformed { what: "state", id: *root, why: "its version is 0".to_owned() });
    }
    Ok(state)
}

/// The entries of a directory node.
pub(crate) fn entries(blobs: &dyn BlobRead, id: &BlobId) -> Result<Vec<Entry>, TreeError> {
    entries_and_pages(blobs, id).map(|(entries, _)| entries)
}

/// The same with the pages that they stand in, if it has any.
fn entries_and_pages(blobs: &dyn BlobRead, id: &BlobId) -> Result<(Vec<Entry>, Vec<Page>), TreeError> {
    match decode(blobs, id, "directory")? {
        DirNode::Entries(entries) => Ok((entries, Vec::new())),
        DirNode::Pages(ids) => {
            let (mut all, mut pages) = (Vec::new(), Vec::with_capacity(ids.len()));
            for id in ids {
                let mut entries = decode::<Vec<Entry>>(blobs, &id, "directory page")?;
                let Some(last) = entries.last() else {
                    return Err(TreeError::Malformed { what: "directory page", id, why: "it is empty".to_owned() });
                };
                pages.push(Page { last: last.name.as_slice().into(), id });
                all.append(&mut entries);
            }
            Ok((all, pages))
        }
    }
}

fn inode_of(node: Node, names: Vec<Name>, in_table: bool) -> Inode {
    let body = match (node.kind, node.content) {
        (FileKind::File, content) => Body::File(FileBody::committed(content, node.size, node.allocated)),
        // One without a name has no entries; an early ize left some.
        (FileKind::Directory, Content::Directory(id)) if node.nlink > 0 => {
            Body::Dir(DirBody { base: Some(id), loaded: false, ..DirBody::default() })
        }
        (FileKind::Directory, _) => Body::Dir(DirBody { loaded: true, ..DirBody::default() }),
        (FileKind::Symlink, Content::Target(target)) => Body::Symlink(target.into()),
        (FileKind::Symlink, _) => Body::Symlink(Arc::from(&b""[..])),
        (FileKind::Fifo | FileKind::CharDevice | FileKind::BlockDevice | FileKind::Socket, _) => Body::Special,
    };
    let Node { kind, attrs, xattrs, nlink, size, .. } = Node { content: Content::Empty, ..node };
    Inode { kind, attrs, xattrs, nlink, size, names, body, changed: Lsn::ZERO, in_table }
}

impl Tree {
    pub(super) fn load_root(&mut self) -> Result<(), TreeError> {
        let root = match &self.base_root {
            Some(id) => {
                let state = state(&*self.blobs, id)?;
                let root = inode_of(state.root.clone(), Vec::new(), false);
                self.base = Some(state);
                root
            }
            None => Inode {
                kind: FileKind::Directory,
                attrs: Attributes { mode: 0o755, ..Attributes::default() },
                xattrs: Xattrs::new(),
                nlink: 2,
                size: 0,
                names: Vec::new(),
                body: Body::Dir(DirBody { loaded: true, ..DirBody::default() }),
                changed: Lsn::ZERO,
                in_table: false,
            },
        };
        self.inodes = InoMap::from_iter([(Ino::ROOT, Box::new(root))]);
        Ok(())
    }

    /// Makes sure that the inode is in memory.
    pub(super) fn load_inode(&mut self, ino: Ino) -> Result<(), TreeError> {
        self.looked += 1;
        if self.inodes.contains_key(&ino) {
            return Ok(());
        }
        self.missed += 1;
        // Directories that must be loaded, innermost first.
        let mut wanted = Vec::new();
        let mut at = ino;
        while !self.inodes.contains_key(&at) {
            let state = match &self.base {
                Some(state) if !self.gone.contains_key(&at) && wanted.len() < 1 << 16 => state,
                _ => return Err(TreeError::NoInode(at)),
            };
            match inode_table::lookup(&*self.blobs, state, at)? {
                Some(InodeEntry::In(dir)) => {
                    wanted.push(dir);
                    at = dir;
                }
                Some(InodeEntry::Node(node, names)) => {
                    let inode = inode_of(*node, names.into_iter().map(Name::from).collect(), true);
                    if inode.nlink == 0 {
                        self.orphans.insert(at);
                    }
                    self.inodes.insert(at, Box::new(inode));
                }
                None => return Err(TreeError::NoInode(at)),
            }
        }
        for (depth, dir) in wanted.iter().enumerate().rev() {
            self.load_dir(*dir)?;
            let child = if depth == 0 { ino } else { wanted[depth - 1] };
            // Its entries may have been in memory all along, and their inodes evicted.
            if !self.inodes.contains_key(&child) {
                let (entries, _) = self.committed_entries(*dir)?;
                self.bring_in(*dir, entries);
            }
        }
        if self.inodes.contains_key(&ino) { Ok(()) } else { Err(TreeError::NoInode(ino)) }
    }

    /// Makes sure that the directory's entries are in memory, and with them the inodes that have no other name.
    pub(super) fn load_dir(&mut self, dir: Ino) -> Result<(), TreeError> {
        self.load_inode(dir)?;
        match self.inodes.get(&dir).map(Box::as_ref) {
            Some(Inode { body: Body::Dir(DirBody { loaded: true, .. }), .. }) => return Ok(()),
            Some(Inode { body: Body::Dir(_), .. }) => {}
            Some(_) => return Err(TreeError::NotDirectory(dir)),
            None => return Err(TreeError::NoInode(dir)),
        }
        self.looked += 1;
        self.missed += 1;
        let (entries, pages) = self.committed_entries(dir)?;
        let children = self.bring_in(dir, entries);
        if let Some(Inode { body: Body::Dir(body), .. }) = self.inodes.get_mut(&dir).map(Box::as_mut) {
            body.load(children, pages);
        }
        Ok(())
    }

    /// Makes sure that the directory's entries are in memory and every inode that has no other name: some may have been evicted.
    pub(crate) fn load_whole(&mut self, dir: Ino) -> Result<(), TreeError> {
        self.load_dir(dir)?;
        let complete = match self.inodes.get(&dir).map(Box::as_ref) {
            Some(Inode { body: Body::Dir(body), .. }) => body.entries.values().all(|child| self.inodes.contains_key(&child.ino)),
            _ => true,
        };
        if !complete {
            let (entries, _) = self.committed_entries(dir)?;
            self.bring_in(dir, entries);
        }
        Ok(())
    }

    /// The entries that a directory in memory has in the base.
    fn committed_entries(&self, dir: Ino) -> Result<(Vec<Entry>, Vec<Page>), TreeError> {
        match self.inodes.get(&dir).map(Box::as_ref) {
            Some(Inode { body: Body::Dir(DirBody { base: Some(id), .. }), .. }) => entries_and_pages(&*self.blobs, id),
            _ => Ok((Vec::new(), Vec::new())),
        }
    }

    /// Brings the inodes into memory that the committed entries of `dir` hold, as far as they are not there or gone.
    fn bring_in(&mut self, dir: Ino, entries: Vec<Entry>) -> Vec<(Arc<[u8]>, Ino, FileKind)> {
        let mut children = Vec::with_capacity(entries.len());
        for entry in entries {
            let name: Arc<[u8]> = entry.name.into();
            if let Some(node) = entry.node
                && !self.gone.contains_key(&entry.ino)
            {
                let link = Name { dir, name: Arc::clone(&name) };
                self.inodes.entry(entry.ino).or_insert_with(|| Box::new(inode_of(*node, vec![link], false)));
            }
            children.push((name, entry.ino, entry.kind));
        }
        children
    }

    /// Loads the inodes without a name that the base has; recovery forgets them, because their openers are gone.
    ///
    /// # Errors
    /// What reading the base says.
    pub fn load_orphans(&mut self) -> Result<(), TreeError> {
        let Some(state) = self.base.clone() else { return Ok(()) };
        for ino in inode_table::orphans(&*self.blobs, &state)? {
            if !self.gone.contains_key(&ino) {
                self.load_inode(ino)?;
            }
        }
        Ok(())
    }
}

//! Makes a state what it would be if something had never been in it: entries go without a trace, times and all else stay. No operation does
//! that to the live tree; it is for states of the past that are to hold less.

use super::{Body, Inode, Name, Tree, TreeError, decode_blob};
use crate::ids::{BlobId, Ino};
use crate::versions::node::{Content, DirNode, Entry, FileKind};

impl Tree {
    /// Takes an entry out of a directory, with everything below it. The tree is one of a committed state and nothing was applied to it; what
    /// goes is not loaded: it takes some 100 bytes for each inode.
    ///
    /// # Errors
    /// When the state cannot be read, or has no such entry.
    pub(crate) fn take_out(&mut self, dir: Ino, name: &[u8]) -> Result<(), TreeError> {
        let child = self.lookup(dir, name)?.ok_or(TreeError::NoInode(dir))?;
        // Directories that go, and what holds their entries.
        let mut dirs: Vec<(Ino, Option<BlobId>)> = Vec::new();
        if child.kind == FileKind::Directory {
            let content = self.committed_dir(child.ino)?;
            dirs.push((child.ino, content));
        } else {
            self.lose(child.ino, dir, name)?;
        }
        while let Some((ino, content)) = dirs.pop() {
            self.vanish(ino);
            for entry in self.entries_of(content)? {
                match entry.node {
                    Some(node) if node.kind == FileKind::Directory => {
                        let content = if let Content::Directory(id) = node.content { Some(id) } else { None };
                        dirs.push((entry.ino, content));
                    }
                    Some(_) => self.vanish(entry.ino),
                    None => self.lose(entry.ino, ino, &entry.name)?,
                }
            }
        }
        self.dirty.insert(dir);
        if let Inode { body: Body::Dir(body), nlink, .. } = self.inode_mut(dir)? {
            body.remove(name);
            if child.kind == FileKind::Directory {
                *nlink = nlink.saturating_sub(1);
            }
        }
        Ok(())
    }

    fn committed_dir(&mut self, ino: Ino) -> Result<Option<BlobId>, TreeError> {
        match &self.inode(ino)?.body {
            Body::Dir(body) => Ok(body.base),
            Body::File(_) | Body::Symlink(_) | Body::Special => Err(TreeError::NotDirectory(ino)),
        }
    }

    fn entries_of(&self, content: Option<BlobId>) -> Result<Vec<Entry>, TreeError> {
        let Some(id) = content else { return Ok(Vec::new()) };
        Ok(match decode_blob(&*self.blobs, &id, "directory")? {
            DirNode::Entries(entries) => entries,
            DirNode::Pages(pages) => {
                let mut all = Vec::new();
                for page in pages {
                    all.append(&mut decode_blob(&*self.blobs, &page, "directory page")?);
                }
                all
            }
        })
    }

    /// An inode is in this state no more.
    fn vanish(&mut self, ino: Ino) {
        self.inodes.remove(&ino);
        self.gone.insert(ino, self.applied);
        self.dirty.insert(ino);
    }

    /// An inode loses one name, and vanishes with its last.
    fn lose(&mut self, ino: Ino, dir: Ino, name: &[u8]) -> Result<(), TreeError> {
        let inode = self.inode_mut(ino)?;
        inode.names.retain(|Name { dir: d, name: n }| (*d, &**n) != (dir, name));
        inode.nlink = u32::try_from(inode.names.len()).unwrap_or(u32::MAX);
        if inode.nlink == 0 {
            self.vanish(ino);
        } else {
            self.dirty.insert(ino);
        }
        Ok(())
    }
}

//! When a state has been committed, it becomes the base: what the overlay holds up to its LSN is let go.

use super::{Body, Inode, Source, Tree, TreeError};
use crate::ids::{BlobId, Ino};
use crate::versions::commit::Committed;
use crate::versions::dir_pages::Stored;
use crate::versions::node::{Content, FileKind, Piece};

/// Pieces of a file's committed content, and the ranges (offset, length) that are newer.
pub(crate) type FileBase = (Vec<Piece>, Vec<(u64, u64)>);

impl Tree {
    /// Makes the committed state the base. It is the state that this tree was in at `committed.lsn`; what came later stays.
    pub fn rebase(&mut self, committed: &Committed) {
        self.base_root = Some(committed.root);
        self.base = Some(committed.state.clone());
        for new in &committed.contents {
            if let Some(inode) = self.inodes.get_mut(&new.ino) {
                match &mut inode.body {
                    Body::File(file) => file.rebase(new.content.clone(), new.size, new.allocated, committed.lsn),
                    Body::Dir(dir) => {
                        let base = if let Content::Directory(id) = &new.content { Some(*id) } else { None };
                        if dir.base != base {
                            // What came later stays changed; so may what did not, which does no harm.
                            let changed = std::mem::take(&mut dir.changed);
                            dir.rebase(base.map(|id| (id, Vec::new())));
                            if inode.changed > committed.lsn {
                                dir.changed = changed;
                            }
                        }
                    }
                    Body::Symlink(_) | Body::Special => {}
                }
            }
        }
        let lsn = committed.lsn;
        let (inodes, gone) = (&mut self.inodes, &self.gone);
        self.dirty.retain(|ino| match inodes.get_mut(ino) {
            Some(inode) if inode.changed <= lsn => {
                inode.in_table = inode.nlink == 0 || (inode.kind != FileKind::Directory && inode.nlink != 1);
                false
            }
            Some(_) => true,
            None => gone.get(ino).is_some_and(|at| *at > lsn),
        });
        self.gone.retain(|_, at| *at > lsn);
    }

    pub(crate) fn rebase_file(&mut self, ino: Ino, content: &Content, size: u64, allocated: u64) {
        let lsn = self.applied;
        if let Some(Inode { body: Body::File(file), .. }) = self.inodes.get_mut(&ino) {
            // Extents of the operation being committed have an LSN of at most `applied`.
            file.rebase(content.clone(), size, allocated, lsn);
        }
    }

    pub(crate) fn set_dir_base(&mut self, dir: Ino, stored: Option<Stored>) {
        if let Some(Inode { body: Body::Dir(body), .. }) = self.inodes.get_mut(&dir) {
            body.rebase(stored);
        }
    }

    pub(crate) fn base_table(&self) -> (Option<BlobId>, u8) {
        self.base.as_ref().map_or((None, 0), |s| (s.inodes, s.inodes_height))
    }

    pub(crate) fn file_base(&mut self, ino: Ino) -> Result<FileBase, TreeError> {
        let blobs = std::sync::Arc::clone(&self.blobs);
        match self.inode_mut(ino)? {
            Inode { body: Body::File(file), .. } => {
                let pieces = file.pieces(&*blobs)?;
                Ok((pieces, file.changed_ranges().collect()))
            }
            _ => Err(TreeError::NotFile(ino)),
        }
    }

    /// Length of the run of zeros that are stored nowhere from `at`, up to `size`.
    pub(crate) fn hole_at(&mut self, ino: Ino, at: u64, size: u64) -> Result<u64, TreeError> {
        let plan = self.read_plan(ino, at, size - at)?;
        Ok(plan.parts().iter().take_while(|(_, s)| matches!(s, Source::Hole)).map(|(len, _)| len).sum())
    }

    /// The entries of a directory, in no order.
    pub(crate) fn children(&mut self, dir: Ino) -> Result<Vec<(Vec<u8>, Ino, FileKind)>, TreeError> {
        Ok(self.dir(dir)?.entries.iter().map(|(name, c)| (name.to_vec(), c.ino, c.kind)).collect())
    }
}

//! When a state has been committed, it becomes the base: what the overlay holds up to its LSN is let go.

use std::sync::Arc;

use super::{Above, BlobRead, Body, FileBody, Inode, Source, Tree, TreeError};
use crate::ids::{BlobId, Ino};
use crate::versions::commit::Committed;
use crate::versions::dir_pages::Stored;
use crate::versions::node::{Content, FileKind, Piece};

impl Tree {
    /// Makes the committed state the base. It is the state that this tree was in at `committed.lsn`; what came later stays.
    pub fn rebase(&mut self, committed: &Committed) {
        self.base_root = Some(committed.root);
        self.base = Some(committed.state.clone());
        for new in &committed.contents {
            if let Some(inode) = self.inodes.get_mut(&new.ino).map(Box::as_mut) {
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
        if let Some(Inode { body: Body::File(file), .. }) = self.inodes.get_mut(&ino).map(Box::as_mut) {
            // Extents of the operation being committed have an LSN of at most `applied`.
            file.rebase(content.clone(), size, allocated, lsn);
        }
    }

    pub(crate) fn set_dir_base(&mut self, dir: Ino, stored: Option<Stored>) {
        if let Some(Inode { body: Body::Dir(body), .. }) = self.inodes.get_mut(&dir).map(Box::as_mut) {
            body.rebase(stored);
        }
    }

    pub(crate) fn base_table(&self) -> (Option<BlobId>, u8) {
        self.base.as_ref().map_or((None, 0), |s| (s.inodes, s.inodes_height))
    }

    /// The ranges (offset, length) of a file that are newer than its committed content, and the length of that.
    pub(crate) fn file_base(&mut self, ino: Ino) -> Result<(Vec<(u64, u64)>, u64), TreeError> {
        let (file, blobs) = self.file_and_blobs(ino)?;
        Ok((file.changed_ranges().collect(), file.base_end(&*blobs)?))
    }

    /// The highest page or list of pages of a file's committed content below this height that begins at `at`.
    pub(crate) fn base_part(&mut self, ino: Ino, at: u64, below: u8) -> Result<Option<Above>, TreeError> {
        let (file, blobs) = self.file_and_blobs(ino)?;
        file.base_part(&*blobs, at, below)
    }

    /// The piece of a file's committed content that begins at `at`.
    pub(crate) fn base_piece(&mut self, ino: Ino, at: u64) -> Result<Option<Piece>, TreeError> {
        let (file, blobs) = self.file_and_blobs(ino)?;
        file.base_piece(&*blobs, at)
    }

    fn file_and_blobs(&mut self, ino: Ino) -> Result<(&mut FileBody, Arc<dyn BlobRead>), TreeError> {
        let blobs = Arc::clone(&self.blobs);
        match &mut self.inode_mut(ino)?.body {
            Body::File(file) => Ok((file, blobs)),
            Body::Dir(_) | Body::Symlink(_) | Body::Special => Err(TreeError::NotFile(ino)),
        }
    }

    /// Length of the run of zeros that are stored nowhere from `at`, up to `size`.
    pub(crate) fn hole_at(&mut self, ino: Ino, at: u64, size: u64) -> Result<u64, TreeError> {
        // Looked for in steps: behind it there may be millions of pieces.
        let (mut found, mut step) = (0, 16 << 20);
        while at + found < size {
            let plan = self.read_plan(ino, at + found, step.min(size - at - found))?;
            let run: u64 = plan.parts().iter().take_while(|(_, s)| matches!(s, Source::Hole)).map(|(len, _)| len).sum();
            found += run;
            if run < plan.len() || run == 0 {
                break;
            }
            step = step.saturating_mul(2);
        }
        Ok(found)
    }

    /// The entries of a directory, in no order.
    pub(crate) fn children(&mut self, dir: Ino) -> Result<Vec<(Vec<u8>, Ino, FileKind)>, TreeError> {
        Ok(self.dir(dir)?.entries.iter().map(|(name, c)| (name.to_vec(), c.ino, c.kind)).collect())
    }
}

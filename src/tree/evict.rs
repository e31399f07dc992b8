//! Letting go of what is as committed: it is loaded again when somebody looks.
//!
//! Only what the base has exactly as it is in memory may go: an inode that no record has changed since and that has a name, and the entries
//! of such a directory. What is open stays whole: a reader's offsets in a directory would not come back the same. Children and directories
//! go independently of each other: a child names its directory by number, a directory its children likewise.

use super::{Body, Tree};
use crate::ids::Ino;

impl Tree {
    /// Lets go of what is as committed and not `open`: inodes that `keep` does not want, entries of directories and maps of files in any
    /// case. Gives how many inodes went.
    pub fn evict(&mut self, open: &dyn Fn(Ino) -> bool, keep: &dyn Fn(Ino) -> bool) -> usize {
        let (dirty, before) = (&self.dirty, self.inodes.len());
        self.inodes.retain(|ino, inode| {
            if dirty.contains(ino) || inode.nlink == 0 || open(*ino) {
                return true;
            }
            match &mut inode.body {
                Body::Dir(dir) if dir.base.is_some() => dir.unload(),
                Body::File(file) => file.unload(),
                Body::Dir(_) | Body::Symlink(_) | Body::Special => {}
            }
            *ino == Ino::ROOT || keep(*ino)
        });
        if self.inodes.capacity() / 4 > self.inodes.len() {
            self.inodes.shrink_to_fit();
        }
        before - self.inodes.len()
    }

    /// About how many bytes of memory the inodes take: a walk over what is in memory.
    #[must_use]
    pub fn resident_bytes(&self) -> u64 {
        // A hash table keeps about a third of its slots free.
        let slot = (size_of::<(Ino, Box<super::Inode>)>() * 4 / 3 + size_of::<super::Inode>()) as u64;
        self.inodes.values().map(|inode| slot + inode.heap_bytes()).sum()
    }
}

impl super::Inode {
    /// About how many bytes it has on the heap.
    fn heap_bytes(&self) -> u64 {
        let names: usize = self.names.iter().map(|n| size_of::<super::Name>() + n.name.len() + 16).sum();
        let xattrs: usize = self.xattrs.iter().map(|(name, value)| 64 + name.len() + value.len()).sum();
        let body = match &self.body {
            Body::Dir(dir) => dir.heap_bytes(),
            Body::File(file) => file.heap_bytes(),
            Body::Symlink(target) => target.len() + 16,
            Body::Special => 0,
        };
        (names + xattrs + body) as u64
    }
}

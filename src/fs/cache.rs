//! How much of the tree is in memory, and letting go of what need not be.
//!
//! What the kernel knows stays longer than what it does not, what is open always, what is newer than the committed state too. So memory is
//! bounded by the limit, or by what is open and uncommitted where that is more.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Fs, Notify, Writer};
use crate::ids::Ino;
use crate::versions::commit::Committed;

/// Inodes that stay in memory unless told otherwise: about 100 MB.
pub const DEFAULT_LIMIT: usize = 200_000;

/// What the cache of inodes did and holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct CacheFigures {
    /// Times that an inode was looked for.
    pub lookups: u64,
    /// Times that it was in memory.
    pub hits: u64,
    /// Inodes that were let go.
    pub evictions: u64,
    /// Times that the kernel was told to forget something.
    pub invalidations: u64,
    /// Inodes in memory.
    pub resident: u64,
    /// About how many bytes they take.
    pub resident_bytes: u64,
    /// Inodes beyond which those are let go that need not stay.
    pub limit: u64,
}

#[derive(Debug)]
pub(super) struct Cache {
    limit: usize,
    /// Number of inodes at which to look again for some to let go: a walk over all that frees little must not come often.
    next: usize,
    evictions: u64,
}

impl Cache {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, next: limit, evictions: 0 }
    }
}

/// Tells the kernel, and counts how often.
pub(super) struct Counted {
    pub(super) notify: Arc<dyn Notify>,
    pub(super) count: Arc<AtomicU64>,
}

impl Notify for Counted {
    fn inval_inode(&self, ino: Ino) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.notify.inval_inode(ino);
    }

    fn inval_entry(&self, dir: Ino, name: &[u8]) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.notify.inval_entry(dir, name);
    }
}

impl Fs {
    /// What the cache of inodes did and holds. A walk over what is in memory, under the lock.
    #[must_use]
    pub fn cache(&self) -> CacheFigures {
        let writer = self.locked();
        let (tree, cache) = (&writer.guard.tree, &writer.guard.cache);
        let (lookups, hits) = tree.lookups();
        CacheFigures {
            lookups,
            hits,
            evictions: cache.evictions,
            invalidations: self.invalidations.load(Ordering::Relaxed),
            resident: tree.resident() as u64,
            resident_bytes: tree.resident_bytes(),
            limit: cache.limit as u64,
        }
    }
}

impl Writer<'_> {
    /// Makes a committed state of this tree the base, and lets go of what need not stay.
    pub fn rebase(&mut self, committed: &Committed) {
        let inner = &mut *self.guard;
        inner.tree.rebase(committed);
        // What had to stay until now need not.
        inner.cache.next = inner.cache.limit;
        self.trim();
    }

    /// Lets inodes go when there are more than the limit. Not in the middle of an operation: what was looked at may be gone afterwards.
    pub(super) fn trim(&mut self) {
        let inner = &mut *self.guard;
        if inner.tree.resident() <= inner.cache.next {
            return;
        }
        let (tree, held) = (&mut inner.tree, &inner.held);
        let open = |ino| held.get(&ino).is_some_and(|held| held.opens > 0);
        let mut gone = tree.evict(&open, &|ino| held.contains_key(&ino));
        // The kernel can ask for an inode by its number whenever it likes: it is found again.
        if tree.resident() > inner.cache.limit / 4 * 3 {
            gone += tree.evict(&open, &|_| false);
        }
        inner.cache.evictions += gone as u64;
        inner.cache.next = inner.cache.limit.max(tree.resident() / 2 * 3);
    }
}

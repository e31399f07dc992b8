//! Operations in another order than that of the log: for versions that hold one session of several ([`crate::engine::sessions`]). Whoever
//! asks for it has made sure that operations which change places touch nothing in common but directories in which both make or remove
//! names, and directories that one moves while the other makes or removes names in them.
//!
//! Two things would depend on the order all the same. Inode numbers grow along the log: here each is born once, in any order. And a
//! directory has the times of the last operation: here of the one that is last in the log.

use super::Tree;
use crate::ids::{Ino, InoMap, Lsn};

/// What a tree keeps while operations come in another order.
#[derive(Debug)]
pub(super) struct Reorder {
    /// Numbers from here on were not used before.
    born_from: Ino,
    /// The records that gave directories their modification and change times.
    stamped: InoMap<(Lsn, Lsn)>,
}

impl Tree {
    /// From here on operations may come in another order than that of the log.
    pub(crate) fn allow_reordering(&mut self) {
        self.reorder = Some(Box::new(Reorder { born_from: self.next_ino, stamped: InoMap::default() }));
    }

    /// May an inode be born with this number?
    pub(super) fn is_unused(&self, ino: Ino) -> bool {
        match &self.reorder {
            Some(reorder) => ino >= reorder.born_from && !self.inodes.contains_key(&ino) && !self.gone.contains_key(&ino),
            None => ino >= self.next_ino,
        }
    }

    /// Record `lsn` moves a directory's change time, and its modification time if its names change: which of them (modification, change)
    /// it sets, because no later record has.
    pub(super) fn sets_times(&mut self, lsn: Lsn, dir: Ino, names_change: bool) -> (bool, bool) {
        let Some(reorder) = &mut self.reorder else { return (names_change, true) };
        let (mtime, ctime) = reorder.stamped.entry(dir).or_default();
        let sets = (names_change && lsn >= *mtime, lsn >= *ctime);
        if sets.0 {
            *mtime = lsn;
        }
        if sets.1 {
            *ctime = lsn;
        }
        sets
    }
}

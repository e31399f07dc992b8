//! Replay B: versions become changes of a Pijul repository, one change a version, exactly once, in order.
//!
//! It reads versions, never the log, so it may lag, stop, or be rebuilt from nothing. Everything that touches libpijul is in here:
//! [`names`] turns byte names into names Pijul can hold, [`sidecar`] and [`manifest`] are the small texts that say what Pijul cannot,
//! `form` which of the two a file is, `plan` turns a version into puts, moves and removals of Pijul's paths, `apply` carries them out in one transaction, `wear` says when a
//! file is founded anew and `credit` who its lines are from then, `store` keeps the change files (synced before the pristine names them),
//! [`header`] is what a change says of its version, [`Repository`] is the door, [`snapshot`] looks at a repository that others may have
//! open, [`head_tree`] is what its head holds, [`reader`] reads that back, [`blame`] says who each line of a text is from, [`undo`] takes
//! one change out of a text.
//!
//! Order of a transaction, which has one version or many: a marker with the last version's number, durable; change files written and
//! renamed; change files and their directories synced; pristine committed; marker removed. A crash between any two leaves the pristine
//! without all of them (they are recorded again; stray files are swept, because the marker is there), or with all of them.

mod apply;
mod behind;
pub mod blame;
mod bulk;
mod credit;
mod form;
pub mod head_tree;
pub mod header;
pub mod manifest;
pub mod names;
mod plan;
mod pristine;
pub mod reader;
pub mod refusal;
mod repository;
pub mod sidecar;
pub mod snapshot;
mod spooled;
mod store;
#[cfg(test)]
pub(crate) mod tests;
pub mod undo;
mod view;
mod wear;

#[cfg(test)]
pub(crate) use tests::step;
/// A place between two steps, at which tests crash.
#[cfg(not(test))]
pub(crate) const fn step(_: &str) {}

use std::fmt;
use std::sync::Arc;

use crate::error::Result;
use crate::ids::{Lsn, Time, VersionSeq};
use crate::versions::node::{Node, PageRef, Piece};

pub use repository::{LogEntry, Outcome, Owner, Recorded, Repository};

/// The longest file that is recorded as text, in bytes (1 MiB); a longer one is recorded as a manifest.
pub const TEXT_MAX: u64 = 1 << 20;

/// One version, as the producer (a diff of two states) hands it over.
pub struct VersionInput {
    /// Id of the version's first operation; the message begins with its 16 hexadecimal digits.
    pub id: u64,
    /// Sequence number: the one after the last version recorded.
    pub seq: VersionSeq,
    /// First record it covers.
    pub first: Lsn,
    /// Last record it covers.
    pub last: Lsn,
    /// When it ended.
    pub time: Time,
    /// The label of `ize commit`.
    pub message: Option<String>,
    /// What was done to the first path, e.g. `write`, `create`, `rename`.
    pub op_type: String,
    /// Who did it, e.g. `cargo build`.
    pub processes: Vec<String>,
    /// What is different. See [`TreeChange`] for what must be listed.
    pub changes: Vec<TreeChange>,
}

/// One path that differs between the state before a version and the state after it. Paths are raw bytes relative to the root, without a
/// leading slash; the empty path is the root directory itself (attributes only).
///
/// - Added: `old` None, `new` Some, `path` in the new state.
/// - Removed: `old` Some, `new` None, `path` in the *old* state. What is below a removed directory may be listed or left out.
/// - Changed: both Some, `from` None, `path` in the new state (also when a directory above it was renamed).
/// - Renamed: both Some, `from` the path in the *old* state, `path` in the new state. What a renamed directory carries along unchanged
///   need not be listed, but for hard links whose [`Item::first_name`] changes with it.
///
/// A path that holds another inode than before (an editor's save by rename) is best given as changed: its history then goes on.
pub struct TreeChange {
    /// Path, see above.
    pub path: Vec<u8>,
    /// Path in the old state of what was renamed to `path`.
    pub from: Option<Vec<u8>>,
    /// What was there.
    pub old: Option<Item>,
    /// What is there.
    pub new: Option<Item>,
}

/// What a path holds.
#[derive(Clone)]
pub struct Item {
    /// Kind, attributes, extended attributes, size, symlink target.
    pub node: Node,
    /// For a hard link (several names): the path, in the same state, of the first of its names in byte order; for that name too.
    pub first_name: Option<Vec<u8>>,
    /// The bytes of a regular file; not asked for anything else.
    pub content: Arc<dyn ContentSource>,
}

/// The bytes of a regular file.
pub trait ContentSource: Send + Sync {
    /// All the bytes. Asked only of files of at most [`TEXT_MAX`] bytes.
    ///
    /// # Errors
    /// What stands in the way of reading them.
    fn read_all(&self) -> Result<Vec<u8>>;
    /// The pieces in order; what they do not cover up to the size is zeros.
    ///
    /// # Errors
    /// What stands in the way of reading the list.
    fn pieces(&self) -> Result<Vec<Piece>>;
    /// The pages that the pieces stand in, of a file that has so many that there are lists of pages; none where they are not known.
    ///
    /// # Errors
    /// What stands in the way of reading the lists.
    fn pages(&self) -> Result<Vec<PageRef>> {
        Ok(Vec::new())
    }
}

impl fmt::Debug for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Item").field("node", &self.node).field("first_name", &self.first_name).finish_non_exhaustive()
    }
}

//! The Pijul repository, as the daemon tells of it and takes orders about it.

use serde::{Deserialize, Serialize};

use crate::ids::VersionSeq;

/// How the Pijul repository stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PijulReport {
    /// The last version it has.
    pub head: VersionSeq,
    /// Its changes.
    pub changes: u64,
    /// Versions that are kept.
    pub versions: u64,
    /// Versions that are kept and that it lacks yet.
    pub lag: u64,
    /// Changes that are not what their versions should be, because Pijul refused those.
    pub refused: u64,
    /// The last one's version, and why: `safe WHY` (its files are manifests) or `left-out WHY` (nothing of it is there).
    pub last_refused: Option<(VersionSeq, String)>,
    /// The head is a change that ize did not write: which, in words.
    pub foreign: Option<String>,
    /// Versions whose changes somebody took out of the middle, in words.
    pub missing: Option<String>,
    /// Why it does not get on, and since when, if it does not.
    pub trouble: Option<String>,
    /// It is being made anew.
    pub rebuild: Option<PijulRebuild>,
}

/// How far a repository is that is being made anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PijulRebuild {
    /// Versions that it has.
    pub versions: u64,
    /// Versions that are kept.
    pub of: u64,
}

/// Order to make the repository anew from the versions that are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RebuildRequest {
    /// Also when changes go that ize did not write.
    #[serde(default)]
    pub discard: bool,
    /// Only say what would be done.
    #[serde(default)]
    pub dry_run: bool,
}

/// Answer to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RebuildReport {
    /// Versions that are kept.
    pub versions: u64,
    /// Changes of the new repository.
    pub changes: u64,
    /// Of these, not what their versions should be.
    pub refused: u64,
    /// Changes of the old one that were not ize's.
    pub foreign: u64,
    /// How long it took, in milliseconds.
    pub millis: u64,
    /// True when nothing was changed.
    pub dry_run: bool,
}

//! What a version says of itself. These types are postcard-encoded into the version log, so their shape is part of the format: a new
//! field is a new body version; new variants go to the end.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ids::{BlobId, Lsn, StoreId, Time, VersionSeq};

/// One version: the state after a group of operations, and what the group did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// Its number; the first is 1.
    pub seq: VersionSeq,
    /// First record of the group.
    pub first: Lsn,
    /// Last record of the group: the state is the one after it. `first <= last`.
    pub last: Lsn,
    /// Clamped time of the first record.
    pub begin: Time,
    /// Clamped time of the last record.
    pub end: Time,
    /// The state.
    pub root: BlobId,
    /// The state before; `None` for the first version.
    pub parent_root: Option<BlobId>,
    /// What changed, in byte order of the paths.
    pub paths: Vec<PathChange>,
    /// Who did it, in order of first appearance.
    pub processes: Vec<ProcessLabel>,
    /// What a person said of it (`ize commit -m`).
    pub label: Option<String>,
    /// Operations in the group.
    pub operations: u64,
    /// Bytes that they wrote.
    pub bytes: u64,
    /// What ended the group.
    pub origin: Origin,
}

/// What ended a version's group of operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Origin {
    /// Idle time, or a limit of paths, bytes or age.
    Burst,
    /// `ize commit`.
    Commit,
    /// Unmount.
    Unmount,
    /// The group is a restore of the state at an LSN.
    Restore {
        /// That LSN.
        at: Lsn,
    },
    /// Recovery: the daemon that took the operations died.
    Recovery,
}

/// One path of a version.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PathChange {
    /// Relative to the root, without a leading slash; empty for the root itself.
    #[serde(with = "serde_bytes")]
    pub path: Vec<u8>,
    /// What happened to it.
    pub what: What,
}

/// What happened to a path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum What {
    /// It was not there before.
    Added,
    /// Its content or attributes are others.
    Modified,
    /// It is not there any more.
    Removed,
    /// It had another name before.
    Moved {
        /// That name, relative to the root.
        #[serde(with = "serde_bytes")]
        from: Vec<u8>,
    },
}

/// A process that took part.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProcessLabel {
    /// Thread group id.
    pub pid: u32,
    /// Start time in clock ticks since boot, as /proc/PID/stat has it; tells reused pids apart. 0 when unknown.
    pub start: u64,
    /// Name, at most 15 bytes.
    #[serde(with = "serde_bytes")]
    pub comm: Vec<u8>,
    /// User.
    pub uid: u32,
    /// Session leader's pid; 0 when unknown.
    pub session: u32,
}

/// Name of a version for people: 64 bits of a hash over what it is, written as 16 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ChangeId(pub u64);

impl ChangeId {
    /// Whether the written id begins with `prefix` (hexadecimal digits of either case, at least one).
    #[must_use]
    pub fn has_prefix(self, prefix: &str) -> bool {
        !prefix.is_empty() && self.to_string().starts_with(&prefix.to_ascii_lowercase())
    }
}

impl fmt::Display for ChangeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for ChangeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChangeId({self})")
    }
}

/// Not 16 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a change id is 16 hexadecimal digits")]
pub struct BadChangeId;

impl FromStr for ChangeId {
    type Err = BadChangeId;

    fn from_str(s: &str) -> Result<Self, BadChangeId> {
        if s.len() != 16 || !s.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(BadChangeId);
        }
        u64::from_str_radix(s, 16).map(Self).map_err(|_| BadChangeId)
    }
}

impl Version {
    /// The version's name: first 8 bytes (big-endian) of BLAKE3(store ‖ seq ‖ first ‖ last ‖ root), numbers little-endian.
    #[must_use]
    pub fn id(&self, store: StoreId) -> ChangeId {
        let mut hash = blake3::Hasher::new();
        hash.update(&store.0);
        for n in [self.seq.0, self.first.0, self.last.0] {
            hash.update(&n.to_le_bytes());
        }
        hash.update(&self.root.0);
        let mut id = [0; 8];
        id.copy_from_slice(&hash.finalize().as_bytes()[..8]);
        ChangeId(u64::from_be_bytes(id))
    }
}

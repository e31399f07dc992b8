//! One record of the version log: what a version is, and its bytes. Form in wal-format.md, "Version log".

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Class, Error, Result};
use crate::ids::{BlobId, Lsn, StoreId, Time, VersionSeq};

/// What happened to a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum What {
    /// It is new.
    Added,
    /// Its bytes or attributes changed.
    Modified,
    /// It is gone.
    Removed,
    /// It had another name before.
    Moved {
        /// That name, relative to the root.
        #[serde(with = "serde_bytes")]
        from: Vec<u8>,
    },
}

/// One path of a version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathChange {
    /// Relative to the root, as bytes; empty for the root itself.
    #[serde(with = "serde_bytes")]
    pub path: Vec<u8>,
    /// What happened to it.
    pub what: What,
}

/// A process that took part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessLabel {
    /// Process id.
    pub pid: u32,
    /// Start time in clock ticks since boot.
    pub start: u64,
    /// Short name, empty where it is not known.
    #[serde(with = "serde_bytes")]
    pub comm: Vec<u8>,
    /// User.
    pub uid: u32,
    /// Session leader.
    pub session: u32,
}

/// Why a version ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Origin {
    /// A pause, or a limit was reached.
    Burst,
    /// `ize commit`.
    Commit,
    /// The mount ended.
    Unmount,
    /// It holds a restore.
    Restore {
        /// Of the state after this record.
        at: Lsn,
    },
}

/// One version: a state and how it came about. Versions cover the log without gap or overlap.
///
/// Sessions with paths of their own that share a stretch of log (a *window*) become versions of their own, its *parts*: all with the same
/// `first`, `last` and `covers`. The state of part i is the state before the window and the operations of the first i groups; that of the
/// last part is the state at `last`, those of the others are no moment of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// Its number.
    pub seq: VersionSeq,
    /// First record in it.
    pub first: Lsn,
    /// Last record in it.
    pub last: Lsn,
    /// Clamped time of its first operation.
    pub begin: Time,
    /// Clamped time of its last operation.
    pub end: Time,
    /// Root blob of its state.
    pub root: BlobId,
    /// Root blob of the version before; `None` for the first.
    pub parent_root: Option<BlobId>,
    /// What differs from the version before.
    pub paths: Vec<PathChange>,
    /// Who took part.
    pub processes: Vec<ProcessLabel>,
    /// The message of `ize commit`.
    pub label: Option<String>,
    /// Operations in it.
    pub operations: u64,
    /// Bytes written in it.
    pub bytes: u64,
    /// Why it ended.
    pub origin: Origin,
    /// What people call it. Never changes, whatever becomes of its state or of its neighbours: see [`ChangeId::of`].
    pub id: ChangeId,
    /// First record that it answers for: `first`, or an earlier one when versions before it were thinned out.
    pub covers: Lsn,
    /// Versions that were dropped and that it stands for besides itself: the one before it has the number `seq - thinned - 1`.
    pub thinned: u64,
    /// Which part of its window it is, from 1 on: see [`Version::is_whole`].
    pub part: u32,
    /// How many versions share its records. Normally 1.
    pub parts: u32,
}

/// Names a version for people: 64 bits, shown as 16 hexadecimal digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ChangeId(pub u64);

impl fmt::Display for ChangeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for ChangeId {
    type Err = std::num::ParseIntError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        u64::from_str_radix(s, 16).map(ChangeId)
    }
}

impl ChangeId {
    /// That of a new version: the first 8 bytes (big-endian) of the BLAKE3 hash over store id, seq, first, last (little-endian) and root.
    #[must_use]
    pub fn of(store: StoreId, seq: VersionSeq, first: Lsn, last: Lsn, root: &BlobId) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&store.0);
        for number in [seq.0, first.0, last.0] {
            hasher.update(&number.to_le_bytes());
        }
        hasher.update(&root.0);
        let mut id = [0; 8];
        id.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
        Self(u64::from_be_bytes(id))
    }
}

impl Version {
    /// Is its state that of the log at `last`? Not so the parts of a window but the last.
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        self.part == self.parts
    }

    /// Is `next` the next part of the same window?
    #[must_use]
    pub fn goes_on_in(&self, next: &Self) -> bool {
        !self.is_whole() && (self.first, self.last, self.parts) == (next.first, next.last, next.parts) && self.part < next.part
    }

    /// The body of its record.
    pub(super) fn encode(&self) -> Result<Vec<u8>> {
        postcard::to_stdvec(self).map_err(|e| Error::new(Class::Failed, format!("cannot write a version: {e}")))
    }

    /// Reads the body of a record of a log of that format.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn decode(format: Format, store: StoreId, body: &[u8]) -> Result<Self, String> {
        let (version, rest) = match format {
            Format::One => postcard::take_from_bytes::<FormatOne>(body).map(|(v, rest)| (v.into_version(store), rest)),
            Format::Two => postcard::take_from_bytes::<Self>(body),
        }
        .map_err(|e| format!("the record is malformed: {e}"))?;
        if !rest.is_empty() {
            return Err("the record has trailing bytes".to_owned());
        }
        if version.part == 0 || version.part > version.parts || version.thinned >= version.seq.0 || version.covers > version.first {
            return Err("the record contradicts itself".to_owned());
        }
        Ok(version)
    }
}

/// Form of the records of a version log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// Without change id, coverage and parts: every version is there, and covers its own records. Read for ever, written no more.
    One,
    /// As [`Version`] is.
    Two,
}

impl Format {
    /// What is written.
    pub(super) const NEWEST: Self = Self::Two;

    /// The number in the file's header.
    pub(super) const fn number(self) -> u32 {
        match self {
            Self::One => 1,
            Self::Two => 2,
        }
    }
}

/// The record of format 1.
#[derive(Serialize, Deserialize)]
pub(super) struct FormatOne {
    seq: VersionSeq,
    first: Lsn,
    last: Lsn,
    begin: Time,
    end: Time,
    root: BlobId,
    parent_root: Option<BlobId>,
    paths: Vec<PathChange>,
    processes: Vec<ProcessLabel>,
    label: Option<String>,
    operations: u64,
    bytes: u64,
    origin: Origin,
}

impl FormatOne {
    /// The body of a record of format 1, as ize wrote them.
    #[cfg(test)]
    pub(super) fn encode(version: Version) -> Vec<u8> {
        let Version { seq, first, last, begin, end, root, parent_root, paths, processes, label, operations, bytes, origin, .. } = version;
        let one = Self { seq, first, last, begin, end, root, parent_root, paths, processes, label, operations, bytes, origin };
        postcard::to_stdvec(&one).unwrap()
    }

    fn into_version(self, store: StoreId) -> Version {
        let Self { seq, first, last, begin, end, root, parent_root, paths, processes, label, operations, bytes, origin } = self;
        let id = ChangeId::of(store, seq, first, last, &root);
        Version {
            seq,
            first,
            last,
            begin,
            end,
            root,
            parent_root,
            paths,
            processes,
            label,
            operations,
            bytes,
            origin,
            id,
            covers: first,
            thinned: 0,
            part: 1,
            parts: 1,
        }
    }
}

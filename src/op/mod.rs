//! What a record says: one operation on the tree, when, and who did it.
//!
//! A body is the postcard encoding of a [`Stamp`], then of the operation's own struct, then, for a write of less than
//! [`BLOB_THRESHOLD`] bytes, the bytes themselves. Bodies are frozen per (kind, version): a new field is a new body version with its own
//! struct, and the old struct stays. Trailing bytes are an error. The table of kinds stands in wal-format.md, "Operations".

mod codec;
mod process;
#[cfg(test)]
mod tests;

pub use codec::{DecodeError, Decoded, KIND_MARK, KIND_OPTIONAL, KIND_PROCESS, decode, encode, kind_name};
pub use process::{Known, PROCESS_VERSION, ProcessCache, ProcessKey, ProcessRecord};

use serde::{Deserialize, Serialize};

use crate::ids::{BlobId, Ino, Lsn, Time};
use crate::versions::node::FileKind;

/// A write of this many bytes or more goes to the blob store and its record names the blob (64 KiB, measured: a put of a blob costs
/// what two 4 KiB appends cost).
pub const BLOB_THRESHOLD: usize = 64 * 1024;

/// When, and who: stands before every operation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// Wall clock when the operation was logged; the times that it sets on inodes are this one.
    pub time: Time,
    /// Nanoseconds by which the clock was behind the highest time logged before: `time + behind` never decreases. Ages and WHEN use it.
    pub behind: u64,
    /// Who asked; a process record of the same segment says more.
    pub process: ProcessKey,
    /// The operation (usually a marker) to which this one belongs, e.g. the restore that it is part of.
    pub link: Option<Lsn>,
}

impl Stamp {
    /// The time that never decreases along the log.
    #[must_use]
    pub fn clamped(&self) -> Time {
        Time::from_nanos(self.time.as_nanos().saturating_add(i64::try_from(self.behind).unwrap_or(i64::MAX)))
    }
}

/// An operation with its stamp.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// When and who.
    pub stamp: Stamp,
    /// What.
    pub op: Operation,
}

/// Where the bytes of a write are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Data {
    /// At the end of the record's body, this many of them.
    Inline(u32),
    /// In the blob store.
    Blob {
        /// Address.
        id: BlobId,
        /// Length in bytes.
        len: u32,
    },
}

impl Data {
    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        match *self {
            Data::Inline(len) | Data::Blob { len, .. } => u64::from(len),
        }
    }

    /// True when no bytes are written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// How a rename treats the new name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RenameMode {
    /// Nothing is there (also RENAME_NOREPLACE).
    Free,
    /// This inode is there and loses the name.
    Replace(Ino),
    /// RENAME_EXCHANGE: this inode is there and gets the old name.
    Exchange(Ino),
}

/// What fallocate(2) does to the range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AllocateMode {
    /// Space is promised; bytes stay; the file may grow.
    Allocate,
    /// FALLOC_FL_PUNCH_HOLE: the range reads as zeros; the length stays.
    PunchHole,
    /// FALLOC_FL_ZERO_RANGE: the range reads as zeros; the file may grow.
    ZeroRange,
}

/// Things worth a record that change no inode.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Marker {
    /// `ize commit`: ends the group of operations before it.
    Commit {
        /// The message, if one was given.
        message: Option<String>,
    },
    /// A restore begins; its operations link to this record.
    Restore {
        /// The state that is restored.
        at: Lsn,
        /// The paths, relative to the root, as bytes.
        paths: Vec<Vec<u8>>,
    },
    /// The mount was ended in order: ends the group of operations before it.
    Unmount,
}

macro_rules! operations {
    ($( $(#[$doc:meta])* $code:literal $name:ident { $( $(#[$fdoc:meta])* $field:ident : $ty:ty ),* $(,)? } )*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
            pub struct $name { $( $(#[$fdoc])* pub $field: $ty ),* }

            impl From<$name> for Operation {
                fn from(op: $name) -> Self {
                    Operation::$name(op)
                }
            }
        )*

        /// Every kind of operation.
        #[derive(Clone, Debug, PartialEq, Eq)]
        #[allow(missing_docs)]
        pub enum Operation { $( $name($name) ),* }

        impl Operation {
            /// Its record kind.
            #[must_use]
            pub fn kind(&self) -> u16 {
                match self { $( Operation::$name(_) => $code ),* }
            }

            /// Its name, lower case, as `ize wal inspect` shows it.
            #[must_use]
            pub fn name(&self) -> &'static str {
                kind_name(self.kind()).unwrap_or("unknown")
            }

            pub(crate) fn to_postcard(&self, out: Vec<u8>) -> postcard::Result<Vec<u8>> {
                match self { $( Operation::$name(op) => postcard::to_extend(op, out) ),* }
            }

            pub(crate) fn from_postcard(kind: u16, bytes: &[u8]) -> Option<postcard::Result<(Operation, &[u8])>> {
                match kind {
                    $( $code => Some(postcard::take_from_bytes::<$name>(bytes).map(|(op, rest)| (Operation::$name(op), rest))), )*
                    _ => None,
                }
            }
        }

        pub(crate) const KIND_NAMES: &[(u16, &str)] = &[ $( ($code, stringify!($name)) ),* ];
    };
}

operations! {
    /// A regular file is born.
    0x0010 Create {
        /// Directory.
        dir: Ino,
        /// Name in it.
        #[serde(with = "serde_bytes")]
        name: Vec<u8>,
        /// Its number.
        ino: Ino,
        /// Permission bits, after the umask.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
    }
    /// A directory is born.
    0x0011 Mkdir {
        /// Directory that holds it.
        dir: Ino,
        /// Name in it.
        #[serde(with = "serde_bytes")]
        name: Vec<u8>,
        /// Its number.
        ino: Ino,
        /// Permission bits, after the umask.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
    }
    /// A fifo, socket or device is born.
    0x0012 Mknod {
        /// Directory.
        dir: Ino,
        /// Name in it.
        #[serde(with = "serde_bytes")]
        name: Vec<u8>,
        /// Its number.
        ino: Ino,
        /// What it is: fifo, socket, character or block device.
        what: FileKind,
        /// Permission bits, after the umask.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
        /// Device number.
        rdev: u32,
    }
    /// A symbolic link is born.
    0x0013 Symlink {
        /// Directory.
        dir: Ino,
        /// Name in it.
        #[serde(with = "serde_bytes")]
        name: Vec<u8>,
        /// Its number.
        ino: Ino,
        /// What it points at.
        #[serde(with = "serde_bytes")]
        target: Vec<u8>,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
    }
    /// An inode gets one more name.
    0x0014 Link {
        /// The inode.
        ino: Ino,
        /// Directory of the additional name.
        dir: Ino,
        /// The additional name.
        #[serde(with = "serde_bytes")]
        name: Vec<u8>,
    }
    /// A name goes; the inode stays while it has others or is open.
    0x0015 Unlink {
        /// Directory.
        dir: Ino,
        /// Name in it.
        #[serde(with = "serde_bytes")]
        name: Vec<u8>,
        /// The inode behind the name.
        ino: Ino,
    }
    /// An empty directory goes.
    0x0016 Rmdir {
        /// Directory that holds it.
        dir: Ino,
        /// Name in it.
        #[serde(with = "serde_bytes")]
        name: Vec<u8>,
        /// The directory that goes.
        ino: Ino,
    }
    /// A name moves, or two change places.
    0x0017 Rename {
        /// Directory of the old name.
        dir: Ino,
        /// Old name.
        #[serde(with = "serde_bytes")]
        name: Vec<u8>,
        /// The inode that moves.
        ino: Ino,
        /// Directory of the new name.
        to_dir: Ino,
        /// New name.
        #[serde(with = "serde_bytes")]
        to_name: Vec<u8>,
        /// What happens to an inode that has the new name.
        mode: RenameMode,
    }
    /// Bytes are written.
    0x0018 Write {
        /// The file.
        ino: Ino,
        /// Where, in bytes from its start.
        offset: u64,
        /// The bytes.
        data: Data,
        /// Length of the file afterwards.
        size_after: u64,
        /// Permission bits afterwards, where the write clears setuid or setgid.
        mode_after: Option<u32>,
    }
    /// The length is set.
    0x0019 Truncate {
        /// The file.
        ino: Ino,
        /// Length before.
        old_size: u64,
        /// Length afterwards.
        size: u64,
        /// Permission bits afterwards, where the call clears setuid or setgid.
        mode_after: Option<u32>,
    }
    /// fallocate(2).
    0x001a Fallocate {
        /// The file.
        ino: Ino,
        /// What happens to the range.
        mode: AllocateMode,
        /// Start of the range in bytes.
        offset: u64,
        /// Its length in bytes.
        len: u64,
        /// Length of the file afterwards.
        size_after: u64,
    }
    /// copy_file_range(2) as a clone: no bytes move. Source and target may be one file, their ranges do not overlap.
    0x001b Clone {
        /// File that is read.
        from: Ino,
        /// Where in it.
        from_offset: u64,
        /// File that is written.
        ino: Ino,
        /// Where in it.
        offset: u64,
        /// How many bytes; the source holds them all.
        len: u64,
        /// Length of the target afterwards.
        size_after: u64,
        /// Permission bits of the target afterwards, where the call clears setuid or setgid.
        mode_after: Option<u32>,
    }
    /// Permission bits change.
    0x001c Chmod {
        /// The inode.
        ino: Ino,
        /// Bits before.
        old: u32,
        /// Bits afterwards.
        new: u32,
    }
    /// Owner or group change.
    0x001d Chown {
        /// The inode.
        ino: Ino,
        /// Owner and group before.
        old: (u32, u32),
        /// Owner and group afterwards.
        new: (u32, u32),
        /// Permission bits afterwards, where the call clears setuid or setgid.
        mode_after: Option<u32>,
    }
    /// Times are set; `None` leaves one as it is.
    0x001e Utimens {
        /// The inode.
        ino: Ino,
        /// Access and modification time before.
        old: (Time, Time),
        /// Access time afterwards.
        atime: Option<Time>,
        /// Modification time afterwards.
        mtime: Option<Time>,
    }
    /// An extended attribute is set.
    0x001f SetXattr {
        /// The inode.
        ino: Ino,
        /// Name with its namespace.
        #[serde(with = "serde_bytes")]
        name: Vec<u8>,
        /// Value.
        #[serde(with = "serde_bytes")]
        value: Vec<u8>,
    }
    /// An extended attribute goes.
    0x0020 RemoveXattr {
        /// The inode.
        ino: Ino,
        /// Name with its namespace.
        #[serde(with = "serde_bytes")]
        name: Vec<u8>,
    }
    /// An inode without a name was closed for the last time (or recovery found that its opener is gone).
    0x0021 Forget {
        /// The inode.
        ino: Ino,
    }
    /// Something worth a record that changes no inode.
    0x0030 Mark {
        /// What.
        marker: Marker,
    }
}

/// A directory and a name in it.
pub type Place<'a> = (Ino, &'a [u8]);

impl Operation {
    /// The blob whose bytes the operation needs, with its length.
    #[must_use]
    pub fn blob(&self) -> Option<(BlobId, u32)> {
        match self {
            Operation::Write(Write { data: Data::Blob { id, len }, .. }) => Some((*id, *len)),
            _ => None,
        }
    }

    /// The inode that it is about, for display and filters.
    #[must_use]
    pub fn ino(&self) -> Option<Ino> {
        Some(match self {
            Operation::Create(op) => op.ino,
            Operation::Mkdir(op) => op.ino,
            Operation::Mknod(op) => op.ino,
            Operation::Symlink(op) => op.ino,
            Operation::Link(op) => op.ino,
            Operation::Unlink(op) => op.ino,
            Operation::Rmdir(op) => op.ino,
            Operation::Rename(op) => op.ino,
            Operation::Write(op) => op.ino,
            Operation::Truncate(op) => op.ino,
            Operation::Fallocate(op) => op.ino,
            Operation::Clone(op) => op.ino,
            Operation::Chmod(op) => op.ino,
            Operation::Chown(op) => op.ino,
            Operation::Utimens(op) => op.ino,
            Operation::SetXattr(op) => op.ino,
            Operation::RemoveXattr(op) => op.ino,
            Operation::Forget(op) => op.ino,
            Operation::Mark(_) => return None,
        })
    }

    /// The names in it: (directory, name) of the place it is about, and of the new place for a rename.
    #[must_use]
    pub fn names(&self) -> (Option<Place<'_>>, Option<Place<'_>>) {
        match self {
            Operation::Create(op) => (Some((op.dir, &op.name)), None),
            Operation::Mkdir(op) => (Some((op.dir, &op.name)), None),
            Operation::Mknod(op) => (Some((op.dir, &op.name)), None),
            Operation::Symlink(op) => (Some((op.dir, &op.name)), None),
            Operation::Link(op) => (Some((op.dir, &op.name)), None),
            Operation::Unlink(op) => (Some((op.dir, &op.name)), None),
            Operation::Rmdir(op) => (Some((op.dir, &op.name)), None),
            Operation::Rename(op) => (Some((op.dir, &op.name)), Some((op.to_dir, &op.to_name))),
            Operation::Write(_)
            | Operation::Truncate(_)
            | Operation::Fallocate(_)
            | Operation::Clone(_)
            | Operation::Chmod(_)
            | Operation::Chown(_)
            | Operation::Utimens(_)
            | Operation::SetXattr(_)
            | Operation::RemoveXattr(_)
            | Operation::Forget(_)
            | Operation::Mark(_) => (None, None),
        }
    }
}

//! The steps of an undo: each one system call or a few, on paths as they are when its turn comes.
//!
//! A file whose bytes change is written in place, bytes before length: it keeps its inode, its other names and whoever has it open, and an
//! editor that watches it is told (IN_MODIFY, IN_CLOSE_WRITE). What a crash cuts off half-way is a recorded state like any other: it can be
//! undone, and nothing of what was there before is lost.

use std::fmt;

use super::deltas::Place;
use crate::ids::{Ino, Time};
use crate::tree::path::split;
use crate::versions::node::FileKind;

/// Bytes of a file to be.
#[derive(Clone, PartialEq, Eq)]
pub enum Bytes {
    /// These; the first `same` of them are there already.
    Held {
        /// All of them.
        bytes: Vec<u8>,
        /// How many need not be written.
        same: usize,
    },
    /// Those that the inode has in the state that is gone back to.
    Of {
        /// Which one.
        ino: Ino,
        /// How many.
        size: u64,
    },
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Held { bytes, same } => write!(f, "Held({}, {same})", blake3::hash(bytes)),
            Self::Of { ino, size } => write!(f, "Of({ino}, {size})"),
        }
    }
}

/// Attributes to set; what is `None` stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attrs {
    /// Owner and group.
    pub owner: Option<(u32, u32)>,
    /// Permission bits.
    pub mode: Option<u32>,
    /// Extended attributes; without a value it goes.
    pub xattrs: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    /// Last access.
    pub atime: Option<Time>,
    /// Last change of content.
    pub mtime: Option<Time>,
}

impl Attrs {
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A name goes; a directory is empty then.
    Remove {
        /// Which.
        path: Vec<u8>,
        /// Whether it is a directory.
        is_dir: bool,
    },
    /// A name moves; nothing has the new one.
    Rename {
        /// Old.
        from: Vec<u8>,
        /// New.
        to: Vec<u8>,
    },
    /// Something is born.
    Make {
        /// Where.
        path: Vec<u8>,
        /// What.
        what: Made,
    },
    /// Something gets one more name.
    Link {
        /// A name that it has.
        from: Vec<u8>,
        /// The additional one.
        path: Vec<u8>,
    },
    /// Bytes change.
    Write {
        /// Which file.
        path: Vec<u8>,
        /// To what.
        bytes: Bytes,
        /// Whether later changes of the text stay in it.
        merged: bool,
    },
    /// Attributes change.
    Set {
        /// Of what.
        path: Vec<u8>,
        /// To what.
        attrs: Attrs,
        /// What it is.
        kind: FileKind,
        /// Whether people are told: not the times of a directory that follow from other steps.
        shown: bool,
    },
}

/// What is born. Its attributes are set by a step of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Made {
    /// A directory.
    Dir,
    /// A regular file.
    File(Bytes),
    /// A symbolic link, and its target.
    Symlink(Vec<u8>),
    /// A fifo, socket or device.
    Node(FileKind, u32),
}

/// How something must be at the moment when the first step is done, or none is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Where.
    pub path: Vec<u8>,
    /// Its inode, length, and when anything of it changed last; `None`: nothing is there.
    pub is: Option<(Ino, u64, Time)>,
}

/// What people are shown of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// `create`, `remove`, `rename`, `write`, `merge`, `attributes`.
    pub what: &'static str,
    /// Which path.
    pub path: Vec<u8>,
    /// The path before, for a rename.
    pub from: Option<Vec<u8>>,
}

/// Begins the name that something has between two of its places.
pub(super) const PARKED: &str = ".ize-undo-";

/// The steps for people to see: without the names between two places.
pub(super) fn shown(steps: &[Step]) -> Vec<Shown> {
    let mut out: Vec<Shown> = Vec::new();
    let mut parked: Vec<(&[u8], &[u8])> = Vec::new();
    let mut add = |what, path: &[u8], from: Option<&[u8]>| {
        if what != "attributes" || !out.iter().any(|s| s.path == path) {
            out.push(Shown { what, path: path.to_vec(), from: from.map(<[u8]>::to_vec) });
        }
    };
    for step in steps {
        match step {
            Step::Remove { path, .. } => add("remove", path, None),
            Step::Rename { from, to } if split(to).1.starts_with(PARKED.as_bytes()) => parked.push((to, from)),
            Step::Rename { from, to } => {
                let first = parked.iter().find(|(at, _)| at == from).map_or(from.as_slice(), |(_, first)| first);
                add("rename", to, Some(first));
            }
            Step::Make { path, .. } | Step::Link { path, .. } => add("create", path, None),
            Step::Write { path, merged, .. } => add(if *merged { "merge" } else { "write" }, path, None),
            Step::Set { path, shown: true, .. } => add("attributes", path, None),
            Step::Set { .. } => {}
        }
    }
    out
}

/// Something that is there now, by its inode and the name that is meant.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) ino: Ino,
    pub(super) place: Place,
}

/// What is wanted, in no order.
#[derive(Debug, Default)]
pub(super) struct Wishes {
    pub(super) removes: Vec<(Target, bool)>,
    pub(super) moves: Vec<(Target, Place)>,
    /// By the inode that it was.
    pub(super) makes: Vec<(Target, Made)>,
    /// An inode that is there, or that is made, gets another name.
    pub(super) links: Vec<(Target, Place)>,
    pub(super) writes: Vec<(Target, Bytes, bool)>,
    pub(super) sets: Vec<(Target, Attrs, FileKind, bool)>,
}

//! What a version is made of: nodes (one per inode) and the content they name. Every type here is postcard-encoded into blobs, so its
//! shape is part of the format (wal-format.md, "States"): a new field is a new state version.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::{BlobId, Ino, Time};

/// What an inode is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum FileKind {
    /// Regular file.
    File,
    /// Directory.
    Directory,
    /// Symbolic link.
    Symlink,
    /// Named pipe.
    Fifo,
    /// Character device.
    CharDevice,
    /// Block device.
    BlockDevice,
    /// Unix socket.
    Socket,
}

/// Attributes of an inode, all but those that follow from its content.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    /// Permission bits with setuid, setgid and sticky: `0..=0o7777`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number (Linux encoding) of a character or block device, else 0.
    pub rdev: u32,
    /// Last access as set by utimens or at creation (reads do not move it).
    pub atime: Time,
    /// Last change of content.
    pub mtime: Time,
    /// Last change of anything.
    pub ctime: Time,
    /// Creation.
    pub birth: Time,
}

/// Extended attributes: name bytes (with their namespace, e.g. `user.tag`) to value.
pub type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

/// One inode of a state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// What it is.
    pub kind: FileKind,
    /// Its attributes.
    pub attrs: Attributes,
    /// Extended attributes.
    pub xattrs: Xattrs,
    /// Number of names; 0 for a file that is open but unlinked. For directories 2 plus the number of subdirectories.
    pub nlink: u32,
    /// Length in bytes (regular files and symlinks; 0 for others).
    pub size: u64,
    /// Bytes of a regular file that are not holes.
    pub allocated: u64,
    /// Its bytes or entries.
    pub content: Content,
}

/// Where the bytes of a node are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Content {
    /// Nothing: an empty file, a fifo, a device, a socket.
    Empty,
    /// Regular file: its pieces in order. Beyond them (up to the size) it reads as zeros.
    Pieces(Vec<Piece>),
    /// Regular file with many pieces, but not more than one page holds (an early ize put any number there): a blob that holds the postcard of
    /// `Vec<Piece>`.
    PieceList(BlobId),
    /// Directory: a blob that holds the postcard of [`DirNode`].
    Directory(BlobId),
    /// Symbolic link: its target.
    Target(#[serde(with = "serde_bytes")] Vec<u8>),
    /// Regular file with more pieces than one page holds: the root of a tree of pages (see `versions::piece_tree`). Since state version 2.
    PieceTree {
        /// A blob that holds the postcard of `Vec<PageRef>`.
        root: BlobId,
        /// Lists of pages from the root down to the pages, 1 to 7: with 1 what the root names are pages, each the postcard of `Vec<Piece>`.
        height: u8,
    },
}

/// One piece of a regular file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Piece {
    /// A content-defined chunk: a blob of `len` bytes.
    Chunk {
        /// The blob.
        id: BlobId,
        /// Its length in bytes, at least 1.
        len: u32,
    },
    /// `len` zero bytes that are stored nowhere.
    Hole {
        /// Length in bytes.
        len: u64,
    },
}

impl Piece {
    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        match *self {
            Piece::Chunk { len, .. } => u64::from(len),
            Piece::Hole { len } => len,
        }
    }

    /// True for a piece of no bytes (never written).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A page of pieces, or a list of such pages, and what it comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageRef {
    /// Its blob.
    pub id: BlobId,
    /// Bytes of the file in it, at least 1.
    pub len: u64,
    /// Those of them that are not holes.
    pub stored: u64,
}

/// A directory: its entries in byte order of their names, in one page, or in pages cut where a name's hash says so, so that one change
/// of a huge directory rewrites one page and the list of pages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DirNode {
    /// All entries.
    Entries(Vec<Entry>),
    /// Pages in order: each a blob that holds the postcard of `Vec<Entry>`.
    Pages(Vec<BlobId>),
}

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Name: any bytes but NUL and `/`, 1 to 255 of them.
    #[serde(with = "serde_bytes")]
    pub name: Vec<u8>,
    /// Inode number.
    pub ino: Ino,
    /// Kind of the inode.
    pub kind: FileKind,
    /// The node itself; `None` when it has several names and therefore stands in the inode table.
    pub node: Option<Box<Node>>,
}

/// A whole state: the blob whose id is a version's root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Format of everything below: 1 or 2.
    pub version: u8,
    /// Node of the root directory.
    pub root: Node,
    /// Inode table (see `versions::inode_table`), `None` when empty: for every inode but the root either the directory that holds its only
    /// name, or (several names, or none but still open) its node.
    pub inodes: Option<BlobId>,
    /// Height of the inode table: 0 for a single leaf.
    pub inodes_height: u8,
}

impl State {
    /// The version that is written. Version 1 had no [`Content::PieceTree`], and is read all the same.
    pub const VERSION: u8 = 2;
}

/// What the inode table says of an inode.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum InodeEntry {
    /// It has one name, in this directory.
    In(Ino),
    /// It has several names, or none but is still open: this is its node, and its names in the order in which they were made.
    Node(Box<Node>, Vec<Link>),
}

/// One name of an inode: the directory and the name in it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Link {
    /// The directory.
    pub dir: Ino,
    /// The name in it.
    #[serde(with = "serde_bytes")]
    pub name: Vec<u8>,
}

#[cfg(test)]
mod tests;

//! The tree: what is newer than a committed state (the overlay) over that state (the base), loaded as it is looked at.
//!
//! One interpreter, [`Tree::apply`], turns operations into changes here; the live mount, recovery, replay and every look into the past
//! use it, and nothing else understands operations. A tree reads blobs and never writes anything.

mod apply;
mod dir;
mod evict;
mod extents;
mod load;
#[cfg(test)]
pub(crate) mod naive;
pub(crate) mod path;
mod piece_map;
mod rebase;
mod reorder;
mod take_out;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::io;
use std::sync::Arc;

pub use apply::ApplyError;
pub use dir::{Child, DirBody};
pub use extents::{FileBody, ReadPlan, Source};
pub(crate) use load::{decode as decode_blob, entries as dir_entries, state as load_state};
pub(crate) use piece_map::Above;

use crate::ids::{BlobId, Ino, InoMap, Lsn, SegmentId, Time};
use crate::versions::node::{Attributes, Content, FileKind, Link, Node, State, Xattrs};

/// Longest name in a directory, in bytes.
pub const NAME_MAX: usize = 255;
/// Longest file, in bytes (8 EiB - 1, what off_t holds).
pub const SIZE_MAX: u64 = i64::MAX as u64;
/// Most names of one inode.
pub const LINK_MAX: u32 = 65_000;

/// Reads blobs by their address.
pub trait BlobRead: Send + Sync + Debug {
    /// The whole blob, verified.
    ///
    /// # Errors
    /// [`TreeError::Blob`] when it is missing or damaged, or cannot be read.
    fn get(&self, id: &BlobId) -> Result<Vec<u8>, TreeError>;
    /// Fills `buf` from `offset` in the blob, verified.
    ///
    /// # Errors
    /// As `get`; also when the blob is shorter.
    fn read_at(&self, id: &BlobId, offset: u64, buf: &mut [u8]) -> Result<(), TreeError>;
}

/// Writes blobs.
pub trait BlobWrite: BlobRead {
    /// Stores bytes (compressed where it shrinks them) and gives their address; durable after the store's sync.
    ///
    /// # Errors
    /// [`TreeError::Blob`], e.g. when the disk is full.
    fn put(&self, bytes: &[u8]) -> Result<BlobId, TreeError>;

    /// Whether the blob is known to be a chunk, cut and put by somebody else, and its length: then it need not be read to be cut again. A
    /// store that knows of none says no.
    fn known_cut(&self, _id: &BlobId) -> Option<(Cut, u32)> {
        None
    }
}

/// Why a chunk ends where it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Its bytes say so, whatever follows.
    Bytes,
    /// The file ends there.
    End,
    /// It was written as one, and to cut it anew there is no room.
    Whole,
}

/// Reads bytes out of a log segment; holds the segment's file open, so that it outlives its name.
pub trait LogBytes: Send + Sync + Debug {
    /// Which segment.
    fn segment(&self) -> SegmentId;
    /// Fills `buf` from `offset` in the segment's file.
    ///
    /// # Errors
    /// Whatever the disk says.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;
}

/// Why something could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// A blob is missing, damaged, cannot be read or cannot be written.
    #[error("blob {id}: {why}")]
    Blob {
        /// Which one (all zero where it has no address yet).
        id: BlobId,
        /// What is wrong with it.
        why: String,
        /// True when there is no such blob or its bytes are wrong; false when the disk refused.
        damaged: bool,
        /// True when the disk is full.
        full: bool,
    },
    /// A blob was purged: it is gone on purpose.
    #[error("blob {id} was purged on {}: its bytes are gone", crate::cli::output::time(*time))]
    Purged {
        /// Which one.
        id: BlobId,
        /// When that was ordered.
        time: Time,
        /// Its length in bytes.
        len: u32,
    },
    /// A blob's bytes do not have the form that its place asks for.
    #[error("{what} in blob {id} is malformed: {why}")]
    Malformed {
        /// What was expected there.
        what: &'static str,
        /// Which blob.
        id: BlobId,
        /// What is wrong.
        why: String,
    },
    /// A state of a version that a later ize writes.
    #[error("state {root} has version {version}, which is not known to this version of ize")]
    LaterState {
        /// Its root.
        root: BlobId,
        /// Its version.
        version: u8,
    },
    /// Bytes of the log cannot be read.
    #[error("segment {segment}, offset {offset}: {error}")]
    Log {
        /// Which segment.
        segment: SegmentId,
        /// Where in its file.
        offset: u64,
        /// Why.
        error: io::Error,
    },
    /// There is no such inode.
    #[error("there is no inode {0}")]
    NoInode(Ino),
    /// It is not a directory.
    #[error("inode {0} is not a directory")]
    NotDirectory(Ino),
    /// It is not a regular file.
    #[error("inode {0} is not a regular file")]
    NotFile(Ino),
}

impl From<TreeError> for crate::error::Error {
    fn from(e: TreeError) -> Self {
        use crate::error::{Class, Error};
        let class = match &e {
            TreeError::Blob { full: true, .. } => Class::Full,
            TreeError::Blob { damaged: false, .. } | TreeError::Log { .. } => Class::Io,
            TreeError::Blob { .. } | TreeError::Malformed { .. } => Class::Damage,
            TreeError::Purged { .. } => Class::Failed,
            TreeError::LaterState { .. } => Class::Refused,
            TreeError::NoInode(_) | TreeError::NotDirectory(_) | TreeError::NotFile(_) => Class::NotFound,
        };
        let error = Error::new(class, e.to_string());
        let error = if class == Class::Refused { error.hint("use the ize that wrote it, or a later one") } else { error };
        error.source(e)
    }
}

/// What an inode holds.
#[derive(Debug)]
pub enum Body {
    /// Regular file.
    File(FileBody),
    /// Directory.
    Dir(DirBody),
    /// Symbolic link and its target.
    Symlink(Arc<[u8]>),
    /// Fifo, socket, device.
    Special,
}

/// A name of an inode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// The directory.
    pub dir: Ino,
    /// The name in it.
    pub name: Arc<[u8]>,
}

/// One inode.
#[derive(Debug)]
pub struct Inode {
    /// What it is.
    pub kind: FileKind,
    /// Its attributes.
    pub attrs: Attributes,
    /// Extended attributes.
    pub xattrs: Xattrs,
    /// Number of names; for a directory 2 plus its subdirectories, 0 once removed.
    pub nlink: u32,
    /// Length in bytes.
    pub size: u64,
    /// Its names; exactly one for a directory that exists, none for the root.
    pub names: Vec<Name>,
    /// Its bytes or entries.
    pub body: Body,
    /// The last record that changed it; zero when it is as committed.
    pub changed: Lsn,
    /// Whether the committed state has its node in the inode table (and not in its directory).
    pub(crate) in_table: bool,
}

/// The tree.
#[derive(Debug)]
pub struct Tree {
    blobs: Arc<dyn BlobRead>,
    base: Option<State>,
    base_root: Option<BlobId>,
    inodes: InoMap<Box<Inode>>,
    /// Inodes that differ from the base.
    dirty: BTreeSet<Ino>,
    /// Inodes that the base may have and that are gone, with the record that said so.
    gone: BTreeMap<Ino, Lsn>,
    /// Inodes without a name that still exist.
    orphans: BTreeSet<Ino>,
    next_ino: Ino,
    applied: Lsn,
    clock: Time,
    /// Times that an inode was looked for, and that it had to be read.
    looked: u64,
    missed: u64,
    /// What is needed when operations come in another order than that of the log.
    reorder: Option<Box<reorder::Reorder>>,
}

/// Something that a file in memory names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Live {
    /// A blob.
    Blob(BlobId),
    /// Committed content, with all that it names in turn.
    Content(Content),
}

/// What the kernel and `stat` want to know of an inode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Its number.
    pub ino: Ino,
    /// What it is.
    pub kind: FileKind,
    /// Attributes.
    pub attrs: Attributes,
    /// Number of names.
    pub nlink: u32,
    /// Length in bytes.
    pub size: u64,
    /// Space that it takes, in units of 512 bytes (holes count nothing).
    pub blocks: u64,
}

impl Tree {
    /// A tree over a committed state: `base` is that state's root blob, `None` for the empty state of a new project. `next_ino`, `lsn` and
    /// `clock` are those of the checkpoint or version.
    ///
    /// # Errors
    /// [`TreeError`] when the state cannot be read.
    pub fn open(blobs: Arc<dyn BlobRead>, base: Option<BlobId>, next_ino: Ino, lsn: Lsn, clock: Time) -> Result<Self, TreeError> {
        let mut tree = Tree {
            blobs,
            base: None,
            base_root: base,
            inodes: InoMap::default(),
            dirty: BTreeSet::new(),
            gone: BTreeMap::new(),
            orphans: BTreeSet::new(),
            next_ino: Ino(next_ino.0.max(Ino::ROOT.0 + 1)),
            applied: lsn,
            clock,
            looked: 0,
            missed: 0,
            reorder: None,
        };
        tree.load_root()?;
        Ok(tree)
    }

    /// The number that the next new inode gets. Numbers below it were used.
    #[must_use]
    pub fn next_ino(&self) -> Ino {
        self.next_ino
    }

    /// The last record applied.
    #[must_use]
    pub fn applied(&self) -> Lsn {
        self.applied
    }

    /// The highest clamped time applied.
    #[must_use]
    pub fn clock(&self) -> Time {
        self.clock
    }

    /// Root blob of the committed state beneath.
    #[must_use]
    pub fn base_root(&self) -> Option<BlobId> {
        self.base_root
    }

    /// The blob store that it reads.
    #[must_use]
    pub fn blobs(&self) -> &Arc<dyn BlobRead> {
        &self.blobs
    }

    /// Inodes that differ from the base.
    #[must_use]
    pub fn dirty(&self) -> &BTreeSet<Ino> {
        &self.dirty
    }

    /// Inodes in memory.
    #[must_use]
    pub fn resident(&self) -> usize {
        self.inodes.len()
    }

    /// Times that an inode was looked for, and that it was in memory.
    #[must_use]
    pub fn lookups(&self) -> (u64, u64) {
        (self.looked, self.looked - self.missed)
    }

    /// Inodes without a name that still exist.
    #[must_use]
    pub fn orphans(&self) -> Vec<Ino> {
        self.orphans.iter().copied().collect()
    }

    /// Number of inodes that exist under a name, in memory or not, is not known without a walk; this is an upper bound for statfs.
    #[must_use]
    pub fn inodes_used(&self) -> u64 {
        self.next_ino.0 - 1
    }

    /// The inode, loaded from the base if need be.
    ///
    /// # Errors
    /// [`TreeError::NoInode`], or what reading the base says.
    pub fn inode(&mut self, ino: Ino) -> Result<&Inode, TreeError> {
        self.load_inode(ino)?;
        self.inodes.get(&ino).map(Box::as_ref).ok_or(TreeError::NoInode(ino))
    }

    pub(crate) fn inode_mut(&mut self, ino: Ino) -> Result<&mut Inode, TreeError> {
        self.load_inode(ino)?;
        self.inodes.get_mut(&ino).map(Box::as_mut).ok_or(TreeError::NoInode(ino))
    }

    /// The inode if it is in memory.
    #[must_use]
    pub fn peek(&self, ino: Ino) -> Option<&Inode> {
        self.inodes.get(&ino).map(Box::as_ref)
    }

    /// A directory with all its entries, loaded if need be.
    ///
    /// # Errors
    /// [`TreeError::NotDirectory`], [`TreeError::NoInode`], or what reading the base says.
    pub fn dir(&mut self, ino: Ino) -> Result<&DirBody, TreeError> {
        self.load_dir(ino)?;
        match self.inodes.get(&ino).map(Box::as_ref) {
            Some(Inode { body: Body::Dir(dir), .. }) => Ok(dir),
            Some(_) => Err(TreeError::NotDirectory(ino)),
            None => Err(TreeError::NoInode(ino)),
        }
    }

    /// The entry `name` of directory `dir`.
    ///
    /// # Errors
    /// As [`Tree::dir`].
    pub fn lookup(&mut self, dir: Ino, name: &[u8]) -> Result<Option<Child>, TreeError> {
        Ok(self.dir(dir)?.get(name))
    }

    /// Attributes of an inode.
    ///
    /// # Errors
    /// As [`Tree::inode`].
    pub fn stat(&mut self, ino: Ino) -> Result<Stat, TreeError> {
        let inode = self.inode(ino)?;
        let blocks = match &inode.body {
            Body::File(file) => file.allocated().div_ceil(512),
            Body::Dir(_) | Body::Symlink(_) | Body::Special => 0,
        };
        Ok(Stat { ino, kind: inode.kind, attrs: inode.attrs.clone(), nlink: inode.nlink, size: inode.size, blocks })
    }

    /// The directory above a directory (the root is above itself).
    ///
    /// # Errors
    /// As [`Tree::inode`].
    pub fn parent(&mut self, dir: Ino) -> Result<Ino, TreeError> {
        Ok(self.inode(dir)?.names.first().map_or(Ino::ROOT, |n| n.dir))
    }

    /// Is `below` the directory `dir` or somewhere beneath it? Both are directories.
    ///
    /// # Errors
    /// As [`Tree::inode`].
    pub fn is_within(&mut self, below: Ino, dir: Ino) -> Result<bool, TreeError> {
        let mut at = below;
        loop {
            if at == dir {
                return Ok(true);
            }
            if at == Ino::ROOT {
                return Ok(false);
            }
            match self.inode(at)?.names.first() {
                Some(name) => at = name.dir,
                None => return Ok(false),
            }
        }
    }

    /// A path of the inode relative to the root (its first name), `None` when it has none. The root's is empty.
    ///
    /// # Errors
    /// As [`Tree::inode`].
    pub fn path_of(&mut self, ino: Ino) -> Result<Option<Vec<u8>>, TreeError> {
        let mut parts: Vec<Arc<[u8]>> = Vec::new();
        let mut at = ino;
        while at != Ino::ROOT {
            match self.inode(at)?.names.first() {
                Some(name) => {
                    parts.push(Arc::clone(&name.name));
                    at = name.dir;
                }
                None => return Ok(None),
            }
        }
        parts.reverse();
        Ok(Some(parts.join(&b'/')))
    }

    /// The inode at a path relative to the root; symbolic links are not followed, empty components are passed over.
    ///
    /// # Errors
    /// As [`Tree::dir`], but a missing name or a file in the middle is `Ok(None)`.
    pub fn resolve(&mut self, path: &[u8]) -> Result<Option<Ino>, TreeError> {
        let mut at = Ino::ROOT;
        for part in path.split(|&b| b == b'/').filter(|p| !p.is_empty() && *p != b".") {
            match self.lookup(at, part) {
                Ok(Some(child)) => at = child.ino,
                Ok(None) | Err(TreeError::NotDirectory(_)) => return Ok(None),
                Err(e) => return Err(e),
            }
        }
        Ok(Some(at))
    }

    /// What to read for up to `len` bytes of a file from `offset`: shorter at the end of the file. Executed without the tree.
    ///
    /// # Errors
    /// As [`Tree::inode`]; [`TreeError::NotFile`].
    pub fn read_plan(&mut self, ino: Ino, offset: u64, len: u64) -> Result<ReadPlan, TreeError> {
        self.load_inode(ino)?;
        let blobs = Arc::clone(&self.blobs);
        match self.inodes.get_mut(&ino).map(Box::as_mut) {
            Some(Inode { body: Body::File(file), size, .. }) => {
                let end = offset.saturating_add(len).min(*size);
                file.plan(&*blobs, offset, end.saturating_sub(offset))
            }
            Some(_) => Err(TreeError::NotFile(ino)),
            None => Err(TreeError::NoInode(ino)),
        }
    }

    /// Reads a whole file or link target into memory.
    ///
    /// # Errors
    /// As [`Tree::read_plan`], or what reading says.
    pub fn read_all(&mut self, ino: Ino) -> Result<Vec<u8>, TreeError> {
        let inode = self.inode(ino)?;
        if let Body::Symlink(target) = &inode.body {
            return Ok(target.to_vec());
        }
        let size = inode.size;
        let plan = self.read_plan(ino, 0, size)?;
        let mut out = vec![0; usize::try_from(size).map_err(|_| TreeError::NotFile(ino))?];
        plan.read(&*self.blobs, &mut out)?;
        Ok(out)
    }

    /// The committed form of the inode as it is now; its content is that of the base (call after [`crate::versions::commit`] only).
    pub(crate) fn node(&self, inode: &Inode) -> Node {
        let content = match &inode.body {
            Body::File(file) => file.base_content().clone(),
            Body::Dir(dir) => dir.base.map_or(Content::Empty, Content::Directory),
            Body::Symlink(target) => Content::Target(target.to_vec()),
            Body::Special => Content::Empty,
        };
        let allocated = if let Body::File(file) = &inode.body { file.allocated() } else { 0 };
        let (attrs, xattrs) = (inode.attrs.clone(), inode.xattrs.clone());
        Node { kind: inode.kind, attrs, xattrs, nlink: inode.nlink, size: inode.size, allocated, content }
    }

    /// What inodes in memory name: blobs of extents that are newer than the base, content of files that are changed or have no name. The
    /// sweep keeps it.
    pub fn live(&self, see: &mut dyn FnMut(Live)) {
        for (ino, inode) in &self.inodes {
            if let Body::File(file) = &inode.body {
                file.live(inode.nlink == 0 || self.dirty.contains(ino), see);
            }
        }
    }

    /// Bytes of the overlay that are in log or packs and not yet in the base.
    #[must_use]
    pub fn overlay_bytes(&self) -> u64 {
        self.dirty
            .iter()
            .filter_map(|ino| self.inodes.get(ino).map(Box::as_ref))
            .map(|i| if let Body::File(f) = &i.body { f.overlay_bytes() } else { 0 })
            .sum()
    }
}

impl From<Name> for Link {
    fn from(name: Name) -> Self {
        Link { dir: name.dir, name: name.name.to_vec() }
    }
}

impl From<Link> for Name {
    fn from(link: Link) -> Self {
        Name { dir: link.dir, name: link.name.into() }
    }
}

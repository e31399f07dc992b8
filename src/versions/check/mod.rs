//! Checks states: that all of their blobs exist and decode, and that what they say fits together. Pure over [`BlobRead`] and a look-up of
//! lengths; what it is given may be hostile.
//!
//! Every state is walked in two halves, the directories from the root (`walk`) and the inode table (`table`). Each half sums up hashes
//! of its pairs (inode, place); where the sums are equal the halves say the same, and where not, both are read again, pair by pair
//! (`compare`). The sums of a subtree go by the ids of its blobs, so what two states share is walked once.
//!
//! Memory: one decoded blob (16 MiB stored, at most some 400 MiB of pieces), the subdirectories of the directories on one path, 16 bytes for
//! each directory of one state, and what is remembered: [`REMEMBERED`] directories, pages and nodes of the table (at most about 150 bytes
//! each), as many chunks and lists of pieces (16 bytes each), [`FINDINGS`] findings. What is full is emptied: that costs time, never an
//! answer. A comparison pair by pair takes some 100 bytes an inode.

mod compare;
mod content;
pub mod log;
pub mod same;
mod table;
#[cfg(test)]
mod tests;
mod walk;

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};

use super::node::State;
use crate::ids::{BlobId, Ino, VersionSeq};
use crate::tree::{BlobRead, TreeError, load_state};

/// Sound subtrees, and sound chunks, that are remembered.
pub const REMEMBERED: usize = 1 << 20;
/// Findings that are kept; further ones are counted.
pub const FINDINGS: usize = 1000;
/// Paths that a finding names.
pub const PATHS: usize = 5;
/// Paths of one finding that are told apart when they are counted.
const COUNTED: usize = 1 << 16;
/// Directories inside one another at most: no tree can be loaded that is deeper.
pub const DEPTH: usize = 1 << 16;

/// Gives the length of a blob in raw bytes without reading its content; `None` when there is none.
pub type Length<'a> = dyn Fn(&BlobId) -> Result<Option<u64>, TreeError> + 'a;

/// Whose state it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// A version's.
    Version(VersionSeq),
    /// The checkpoint's: the newest.
    Newest,
}

/// Which files and which versions a finding concerns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Affected {
    /// Files and directories, from the root (which is empty): at most [`PATHS`].
    pub paths: Vec<Vec<u8>>,
    /// How many there are.
    pub files: u64,
    /// True when all that is in these directories is concerned too.
    pub below: bool,
    /// The first version concerned, and the last.
    pub versions: Option<(VersionSeq, VersionSeq)>,
    /// How many versions are.
    pub count: u64,
    /// Whether the newest state (the checkpoint's) is concerned.
    pub newest: bool,
    /// In words, where there is more to say.
    pub note: Option<String>,
}

/// One thing that is wrong with states.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StateFinding {
    /// True when the disk refused to give bytes: then nothing is known.
    pub unreadable: bool,
    /// The blob that is wrong, missing, or says so.
    pub blob: Option<BlobId>,
    /// In words.
    pub what: String,
    /// What it concerns.
    pub affected: Affected,
}

/// What was checked, and what is wrong.
#[derive(Clone, Debug, Default)]
pub struct StatesReport {
    /// States.
    pub states: u64,
    /// Directories that were read (each once, while it is remembered).
    pub directories: u64,
    /// Regular files whose content was looked at.
    pub files: u64,
    /// Chunks looked up.
    pub chunks: u64,
    /// Directories without a name that are said to have entries: ize left those of their last committed form there once. They mean nothing.
    pub leftovers: u64,
    /// What is wrong, in the order in which it was met.
    pub findings: Vec<StateFinding>,
    /// Findings that were not kept.
    pub more: u64,
}

/// What is known of a sound subtree or part of the table.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    /// Sum of the hashes of its pairs.
    pairs: u128,
    /// Inodes that have their only name here, or are told to have.
    inodes: u64,
    /// Names of inodes with several.
    links: u64,
    /// Something is wrong in it: it is not remembered.
    bad: bool,
    /// Part of it could not be read: its sum says nothing.
    broken: bool,
}

impl Sum {
    const BROKEN: Self = Self { pairs: 0, inodes: 0, links: 0, bad: true, broken: true };

    fn add(&mut self, other: &Self) {
        self.pairs = self.pairs.wrapping_add(other.pairs);
        self.inodes = self.inodes.saturating_add(other.inodes);
        self.links = self.links.saturating_add(other.links);
        self.bad |= other.bad;
        self.broken |= other.broken;
    }

    /// An inode with one name, in this directory.
    fn single(&mut self, ino: Ino, dir: Ino) {
        self.inodes = self.inodes.saturating_add(1);
        self.pairs = self.pairs.wrapping_add(pair(&[&[0], &ino.0.to_le_bytes(), &dir.0.to_le_bytes()]));
    }

    /// One of several names of an inode.
    fn link(&mut self, ino: Ino, dir: Ino, kind: super::node::FileKind, name: &[u8]) {
        self.links = self.links.saturating_add(1);
        self.pairs = self.pairs.wrapping_add(pair(&[&[1, kind as u8], &ino.0.to_le_bytes(), &dir.0.to_le_bytes(), name]));
    }
}

fn pair(parts: &[&[u8]]) -> u128 {
    let mut hasher = blake3::Hasher::new();
    parts.iter().for_each(|part| {
        hasher.update(part);
    });
    let mut first = [0; 16];
    first.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    u128::from_le_bytes(first)
}

/// Checks one state after the other, the oldest version first.
pub struct Checker<'a> {
    blobs: &'a dyn BlobRead,
    length: &'a Length<'a>,
    /// Inode numbers are below this.
    next_ino: Ino,
    whose: Whose,
    report: StatesReport,
    known: HashMap<(Option<BlobId>, String), Known>,
    seeds: RandomState,
    dirs: HashMap<(BlobId, Ino), walk::DirSum>,
    pages: HashMap<(BlobId, Ino), walk::PageSum>,
    nodes: HashMap<(BlobId, u8, u64), Sum>,
    leaves: HashSet<[u8; 16]>,
    states: HashSet<BlobId>,
}

/// A finding's place in the report, and what was counted for it.
struct Known {
    at: usize,
    paths: HashSet<u64>,
    last: Option<VersionSeq>,
}

impl std::fmt::Debug for Checker<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Checker").field("report", &self.report).finish_non_exhaustive()
    }
}

impl<'a> Checker<'a> {
    /// Without a checkpoint, `next_ino` is `None`.
    #[must_use]
    pub fn new(blobs: &'a dyn BlobRead, length: &'a Length<'a>, next_ino: Option<Ino>) -> Self {
        Self {
            blobs,
            length,
            next_ino: next_ino.unwrap_or(Ino(u64::MAX)),
            whose: Whose::Newest,
            report: StatesReport::default(),
            known: HashMap::new(),
            seeds: RandomState::new(),
            dirs: HashMap::new(),
            pages: HashMap::new(),
            nodes: HashMap::new(),
            leaves: HashSet::new(),
            states: HashSet::new(),
        }
    }

    /// Checks one state. Give them in the order of their versions.
    pub fn state(&mut self, whose: Whose, root: &BlobId) {
        self.whose = whose;
        self.report.states += 1;
        if self.states.contains(root) {
            return;
        }
        let state = match load_state(self.blobs, root) {
            Ok(state) => state,
            Err(e) => return self.unreadable("the root of the state", *root, &e, &Concerns::Below(b"")),
        };
        let tree = self.walk_dirs(root, &state);
        let table = self.walk_table(root, &state, &tree);
        if !tree.broken && !table.broken && (tree.pairs, tree.inodes, tree.links) != (table.pairs, table.inodes, table.links) {
            if !self.compare(&state) {
                self.found(Some(*root), "the directories and the inode table do not agree".to_owned(), false, &Concerns::Below(b""));
            }
        } else if !tree.bad && !table.bad {
            if self.states.len() >= REMEMBERED {
                self.states.clear();
            }
            self.states.insert(*root);
        }
    }

    /// Ends the check.
    #[must_use]
    pub fn finish(self) -> StatesReport {
        self.report
    }

    /// A blob that is missing, wrong, of another form, or cannot be read.
    fn unreadable(&mut self, noun: &str, id: BlobId, e: &TreeError, concerns: &Concerns<'_>) {
        let refused = matches!(e, TreeError::Blob { damaged: false, .. } | TreeError::Log { .. } | TreeError::LaterState { .. });
        let why = match e {
            TreeError::Blob { why, .. } => why.clone(),
            TreeError::Malformed { why, .. } => format!("it has another form: {why}"),
            other => other.to_string(),
        };
        let verb = if refused { "cannot be read" } else { "is missing or damaged" };
        self.found(Some(id), format!("{noun}, blob {id}, {verb}: {why}"), refused, concerns);
    }

    fn found(&mut self, blob: Option<BlobId>, what: String, unreadable: bool, concerns: &Concerns<'_>) {
        let key = (blob, what);
        let known = match self.known.get_mut(&key) {
            Some(known) => known,
            None if self.report.findings.len() >= FINDINGS => {
                self.report.more += 1;
                return;
            }
            None => {
                let at = self.report.findings.len();
                self.report.findings.push(StateFinding { unreadable, blob, what: key.1.clone(), ..StateFinding::default() });
                self.known.entry(key).or_insert(Known { at, paths: HashSet::new(), last: None })
            }
        };
        let Some(StateFinding { affected, .. }) = self.report.findings.get_mut(known.at) else { return };
        let (path, below) = match concerns {
            Concerns::File(path) => (Some(*path), false),
            Concerns::Below(path) => (Some(*path), true),
            Concerns::Unknown => (None, false),
        };
        affected.below |= below;
        if let Some(path) = path
            && known.paths.len() < COUNTED
            && known.paths.insert(self.seeds.hash_one(path))
        {
            affected.files += 1;
            if affected.paths.len() < PATHS {
                affected.paths.push(path.to_vec());
            }
        }
        match self.whose {
            Whose::Newest => affected.newest = true,
            Whose::Version(seq) if known.last != Some(seq) => {
                known.last = Some(seq);
                affected.count += 1;
                affected.versions = Some((affected.versions.map_or(seq, |(first, _)| first), seq));
            }
            Whose::Version(_) => {}
        }
    }

    /// Names the files whose inode numbers are in `range` (both ends) in what was found last of `what`.
    fn name_inodes(&mut self, blob: Option<BlobId>, what: &str, state: &State, range: (Ino, Ino)) {
        let Some(known) = self.known.get(&(blob, what.to_owned())) else { return };
        if self.report.findings.get(known.at).is_none_or(|f| !f.affected.paths.is_empty()) {
            return;
        }
        let unreadable = self.report.findings.get(known.at).is_some_and(|f| f.unreadable);
        let mut named = Vec::new();
        compare::each_entry(self.blobs, state, &mut |path, entry, _| {
            if entry.ino >= range.0 && entry.ino <= range.1 && named.len() < COUNTED {
                named.push(path.to_vec());
            }
        });
        for path in named {
            self.found(blob, what.to_owned(), unreadable, &Concerns::File(&path));
        }
    }

    fn remember(&mut self, leaf: [u8; 16]) {
        if self.leaves.len() >= REMEMBERED {
            self.leaves.clear();
        }
        self.leaves.insert(leaf);
    }
}

/// What a finding concerns.
enum Concerns<'p> {
    /// This.
    File(&'p [u8]),
    /// This directory and everything in it.
    Below(&'p [u8]),
    /// It is not known yet.
    Unknown,
}

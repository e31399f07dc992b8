//! A model of a tree, versions made of two of its states, and the real client.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use crate::error::Result;
use crate::ids::{BlobId, Lsn, StoreId, Time, VersionSeq};
use crate::pijul::form::TEXT_AGAIN;
use crate::pijul::head_tree::{HeadTree, Held};
use crate::pijul::manifest::Part;
use crate::pijul::reader::{Bytes, Step, walk};
use crate::pijul::snapshot::{PATIENCE, Snapshot};
use crate::pijul::{ContentSource, Item, Outcome, Owner, Repository, TEXT_MAX, TreeChange, VersionInput};
use crate::versions::node::{Attributes, Content, FileKind, Node, Piece, Xattrs};

pub(super) const STORE: StoreId = StoreId([7; 16]);
pub(super) const OWNER: Owner = Owner { uid: 1000, gid: 1000 };

/// One path of the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Thing {
    pub(super) kind: FileKind,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) xattrs: Xattrs,
    /// Bytes of a file, target of a symlink.
    pub(super) bytes: Vec<u8>,
    pub(super) link: Option<Vec<u8>>,
}

pub(super) fn file(bytes: impl AsRef<[u8]>) -> Thing {
    Thing { kind: FileKind::File, mode: 0o644, uid: 1000, xattrs: Xattrs::new(), bytes: bytes.as_ref().to_vec(), link: None }
}

pub(super) fn dir() -> Thing {
    Thing { kind: FileKind::Directory, mode: 0o755, ..file("") }
}

pub(super) fn symlink(target: impl AsRef<[u8]>) -> Thing {
    Thing { kind: FileKind::Symlink, mode: 0o777, ..file(target) }
}

struct Memory(Vec<u8>);

impl ContentSource for Memory {
    fn read_all(&self) -> Result<Vec<u8>> {
        assert!(self.0.len() as u64 <= TEXT_MAX, "asked for all of a large file");
        Ok(self.0.clone())
    }

    fn pieces(&self) -> Result<Vec<Piece>> {
        Ok(pieces(&self.0))
    }
}

/// Chunks of 100 kB; one of zeros only is a hole.
fn pieces(bytes: &[u8]) -> Vec<Piece> {
    let piece = |c: &[u8]| match c.iter().all(|&b| b == 0) {
        true => Piece::Hole { len: c.len() as u64 },
        false => Piece::Chunk { id: BlobId::of(c), len: c.len() as u32 },
    };
    bytes.chunks(100_000).map(piece).collect()
}

fn is_text(bytes: &[u8]) -> bool {
    bytes.len() as u64 <= TEXT_MAX && !bytes.contains(&0) && std::str::from_utf8(bytes).is_ok()
}

pub(super) fn item(thing: &Thing) -> Item {
    let node = Node {
        kind: thing.kind,
        attrs: Attributes { mode: thing.mode, uid: thing.uid, gid: 1000, ..Attributes::default() },
        xattrs: thing.xattrs.clone(),
        nlink: 1,
        size: if thing.kind == FileKind::File { thing.bytes.len() as u64 } else { 0 },
        allocated: 0,
        content: match thing.kind {
            FileKind::Symlink => Content::Target(thing.bytes.clone()),
            FileKind::File => Content::PieceList(BlobId::of(b"")),
            _ => Content::Empty,
        },
    };
    Item { node, first_name: thing.link.clone(), content: Arc::new(Memory(thing.bytes.clone())) }
}

pub(super) type Tree = BTreeMap<Vec<u8>, Thing>;

/// A tree from paths and things; parents must be given.
pub(super) fn tree<P: AsRef<[u8]>>(things: impl IntoIterator<Item = (P, Thing)>) -> Tree {
    things.into_iter().map(|(p, t)| (p.as_ref().to_vec(), t)).collect()
}

/// Where an old path is after the renames; `None` when it is not carried.
pub(super) fn carried(path: &[u8], renames: &[(Vec<u8>, Vec<u8>)]) -> Option<Vec<u8>> {
    let below = |from: &[u8]| path == from || (path.starts_with(from) && path.get(from.len()) == Some(&b'/'));
    let best = renames.iter().filter(|(from, _)| below(from)).max_by_key(|(from, _)| from.len())?;
    Some([&best.1[..], &path[best.0.len()..]].concat())
}

/// The changes from one tree to another. `renames` (old path, new path) are given, not guessed; all else is told by path.
pub(super) fn changes(old: &Tree, new: &Tree, renames: &[(Vec<u8>, Vec<u8>)]) -> Vec<TreeChange> {
    let mut origin: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    let mut out = Vec::new();
    let targets: Vec<_> = renames.iter().map(|(_, to)| to.clone()).collect();
    for path in old.keys() {
        let now = carried(path, renames).unwrap_or_else(|| path.clone());
        let kept = new.get(&now).is_some_and(|t| (t.kind == FileKind::Directory) == (old[path].kind == FileKind::Directory));
        // What is not renamed itself is overwritten by what is renamed onto it.
        if kept && (renames.iter().any(|(from, _)| from == path) || !targets.contains(&now)) {
            origin.insert(now, path.clone());
        } else if !new.contains_key(path) || carried(path, renames).is_some() {
            out.push(TreeChange { path: path.clone(), from: None, old: Some(item(&old[path])), new: None });
        }
    }
    for (path, thing) in new {
        let from = origin.get(path);
        let before = from.map_or_else(|| old.get(path), |f| old.get(f));
        let renamed = from.filter(|f| renames.iter().any(|(a, b)| a == *f && b == path));
        if renamed.is_some() || before != Some(thing) || from.is_none() {
            out.push(TreeChange { path: path.clone(), from: renamed.cloned(), old: before.map(item), new: Some(item(thing)) });
        }
    }
    out
}

pub(super) fn version(seq: u64, changes: Vec<TreeChange>) -> VersionInput {
    VersionInput {
        id: seq * 16,
        seq: VersionSeq(seq),
        first: Lsn(seq * 10),
        last: Lsn(seq * 10 + 9),
        time: Time { secs: 1_700_000_000 + i64::try_from(seq).unwrap(), nanos: 0 },
        message: None,
        op_type: "write".into(),
        processes: vec!["test".into()],
        changes,
    }
}

/// A repository being filled, and the tree it should hold.
pub(super) struct Bench {
    pub(super) home: tempfile::TempDir,
    pub(super) repository: Repository,
    pub(super) tree: Tree,
    pub(super) seq: u64,
}

impl Bench {
    pub(super) fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join("project")).unwrap();
        let repository = Repository::open_or_create(&home.path().join("project"), STORE, OWNER).unwrap();
        Self { home, repository, tree: Tree::new(), seq: 0 }
    }

    pub(super) fn project(&self) -> PathBuf {
        self.home.path().join("project")
    }

    /// Records the next version: the tree becomes `new`.
    pub(super) fn step(&mut self, new: Tree, renames: &[(&[u8], &[u8])]) -> Outcome {
        let renames: Vec<_> = renames.iter().map(|(a, b)| (a.to_vec(), b.to_vec())).collect();
        let changes = changes(&self.tree, &new, &renames);
        self.seq += 1;
        let outcome = self.repository.record(&version(self.seq, changes)).unwrap();
        self.tree = new;
        outcome
    }

    /// Clones with the real client and compares every path.
    pub(super) fn check(&self) -> PathBuf {
        check_clone(self.home.path(), &self.project(), &self.tree)
    }

    /// Runs the client in the project.
    pub(super) fn pijul(&self, args: &[&str]) -> String {
        pijul(self.home.path(), &self.project(), args)
    }
}

/// Runs the client with a home of its own; fails unless it succeeds and tells of no conflict.
pub(super) fn pijul(home: &Path, dir: &Path, args: &[&str]) -> String {
    let client = std::env::var_os("IZE_TEST_PIJUL").unwrap_or_else(|| "pijul".into());
    let run = Command::new(&client).args(args).current_dir(dir).env("HOME", home).env("PIJUL_CONFIG_DIR", home).output();
    let run = run.unwrap_or_else(|e| {
        panic!("cannot run the real pijul client {client:?}: {e}. Install crate pijul 1.0.0-beta.26 or set IZE_TEST_PIJUL to its path")
    });
    let (out, err) = (String::from_utf8_lossy(&run.stdout).into_owned(), String::from_utf8_lossy(&run.stderr).into_owned());
    assert!(run.status.success(), "pijul {args:?}: {}\n{out}\n{err}", run.status);
    assert!(!err.to_lowercase().contains("conflict"), "pijul {args:?}: {err}");
    out
}

pub(super) fn check_clone(home: &Path, project: &Path, tree: &Tree) -> PathBuf {
    let clone = (0..).map(|n| home.join(format!("clone-{n}"))).find(|p| !p.exists()).unwrap();
    pijul(home, home, &["clone", project.to_str().unwrap(), clone.to_str().unwrap()]);
    let tracked = |p: &str| p != ".ignore" || tree.contains_key(&b".ignore"[..]);
    let cloned = HeadTree::of_directory(&clone, &tracked);
    // What the head holds by our own account is what the client makes of it.
    let head = Snapshot::take(project, PATIENCE).unwrap().tree("main", true, true).unwrap();
    let plain = |tree: &HeadTree| {
        let held = |held| match held {
            Held::Directory => None,
            Held::File { len, hash, executable, .. } => Some((len, hash, executable)),
        };
        tree.iter().map(|(path, h)| (path, held(h))).collect::<Vec<_>>()
    };
    assert_eq!(plain(&head), plain(&cloned));
    assert_eq!(head.conflicts(), [""; 0]);
    let mut got = Tree::new();
    walk(&cloned, &mut |step| {
        let Step::Entry(entry) = step else { return Ok(()) };
        let bytes = match (entry.bytes, entry.target) {
            (Bytes::Text { at, len }, None) => {
                let mut bytes = vec![0; len as usize];
                cloned.read_at(at, &mut bytes).unwrap();
                assert!(is_text(&bytes), "{:?} is no text, but came as one", OsStr::from_bytes(&entry.path));
                bytes
            }
            (Bytes::Manifest(m), None) => {
                // The chunks of the model are not stored: the manifest must name exactly those.
                let want = &tree[&entry.path].bytes;
                // A large text may be one because it once was.
                let text = is_text(want) && want.len() as u64 <= TEXT_AGAIN;
                assert!(!text, "{:?} is a text, but came as a manifest", OsStr::from_bytes(&entry.path));
                let pieces: Vec<Part> = pieces(want).into_iter().map(Part::Piece).collect();
                assert_eq!((m.size, &m.parts), (want.len() as u64, &pieces));
                want.clone()
            }
            (Bytes::None, Some(target)) => target,
            (Bytes::None, None) => Vec::new(),
            (b, t) => panic!("{b:?} {t:?}"),
        };
        let thing =
            Thing { kind: entry.kind, mode: entry.mode, uid: entry.uid.unwrap_or(1000), xattrs: entry.xattrs, bytes, link: entry.link };
        assert!(got.insert(entry.path, thing).is_none());
        Ok(())
    })
    .unwrap();
    if !tree.contains_key(&b""[..]) {
        assert_eq!(got.remove(&b""[..]), Some(dir()));
    }
    let names = |t: &Tree| t.keys().map(|k| String::from_utf8_lossy(k).into_owned()).collect::<Vec<_>>();
    assert_eq!(names(&got), names(tree));
    for (path, thing) in tree {
        assert!(got[path] == *thing, "{:?}: got {:?}, want {thing:?}", OsStr::from_bytes(path), got[path]);
    }
    clone
}

/// The operation ids of the client's log, newest first.
pub(super) fn logged(home: &Path, project: &Path) -> Vec<u64> {
    let out = pijul(home, project, &["log", "--output-format", "json"]);
    let entries: Vec<serde_json::Value> = serde_json::from_str(&out).unwrap();
    entries.iter().map(|e| u64::from_str_radix(&e["message"].as_str().unwrap()[..16], 16).unwrap()).collect()
}

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use rand::prelude::*;

use super::*;
use crate::ids::{Lsn, Time};
use crate::tree::testing::{MemoryBlobs, apply, random_operation};
use crate::tree::{BlobWrite, Tree};
use crate::versions::commit::store;
use crate::versions::inode_table::TableNode;
use crate::versions::node::{Attributes, Content, DirNode, Entry, FileKind, InodeEntry, Link, Node, Piece, Xattrs};
use crate::versions::piece_tree::{Builder, Part, read};

/// Blobs that may be changed behind their names, as no store of packs lets them be.
#[derive(Debug, Default)]
struct Wrong(Mutex<BTreeMap<BlobId, Option<Vec<u8>>>>, Arc<MemoryBlobs>);

impl Wrong {
    fn set(&self, id: BlobId, bytes: Option<Vec<u8>>) {
        self.0.lock().unwrap().insert(id, bytes);
    }
}

impl BlobRead for Wrong {
    fn get(&self, id: &BlobId) -> Result<Vec<u8>, TreeError> {
        match self.0.lock().unwrap().get(id) {
            Some(Some(bytes)) => Ok(bytes.clone()),
            Some(None) => Err(TreeError::Blob { id: *id, why: "gone".to_owned(), damaged: true, full: false }),
            None => self.1.get(id),
        }
    }

    fn read_at(&self, id: &BlobId, offset: u64, buf: &mut [u8]) -> Result<(), TreeError> {
        self.1.read_at(id, offset, buf)
    }
}

impl BlobWrite for Wrong {
    fn put(&self, bytes: &[u8]) -> Result<BlobId, TreeError> {
        self.1.put(bytes)
    }
}

fn check(blobs: &Wrong, next: u64, roots: &[BlobId]) -> StatesReport {
    let length = |id: &BlobId| match blobs.get(id) {
        Ok(bytes) => Ok(Some(bytes.len() as u64)),
        Err(TreeError::Blob { damaged: true, .. }) => Ok(None),
        Err(e) => Err(e),
    };
    let mut checker = Checker::new(blobs, &length, Some(Ino(next)));
    for (n, root) in roots.iter().enumerate() {
        checker.state(Whose::Version(VersionSeq(n as u64 + 1)), root);
    }
    checker.state(Whose::Newest, roots.last().unwrap());
    checker.finish()
}

fn node(kind: FileKind, nlink: u32, content: Content) -> Node {
    let attrs = Attributes { mode: 0o755, ..Attributes::default() };
    Node { kind, attrs, xattrs: Xattrs::new(), nlink, size: 0, allocated: 0, content }
}

fn dir(nlink: u32, content: Option<BlobId>) -> Node {
    node(FileKind::Directory, nlink, content.map_or(Content::Empty, Content::Directory))
}

fn entry(name: &[u8], ino: u64, node: Option<Node>) -> Entry {
    let kind = node.as_ref().map_or(FileKind::File, |n| n.kind);
    Entry { name: name.to_vec(), ino: Ino(ino), kind, node: node.map(Box::new) }
}

fn file(name: &[u8], ino: u64) -> Entry {
    entry(name, ino, Some(node(FileKind::File, 1, Content::Empty)))
}

fn entries(blobs: &Wrong, entries: Vec<Entry>) -> BlobId {
    store(blobs, &DirNode::Entries(entries)).unwrap()
}

/// A state whose root has these entries, and whose table has those inodes.
fn state(blobs: &Wrong, subdirs: u32, list: Vec<Entry>, table: Vec<(u8, InodeEntry)>) -> BlobId {
    let inodes = (!table.is_empty()).then(|| store(blobs, &TableNode::Leaf(table)).unwrap());
    let content = (!list.is_empty()).then(|| entries(blobs, list));
    store(blobs, &State { version: 1, root: dir(2 + subdirs, content), inodes, inodes_height: 0 }).unwrap()
}

fn at(dir: u64) -> InodeEntry {
    InodeEntry::In(Ino(dir))
}

fn link(dir: u64, name: &[u8]) -> Link {
    Link { dir: Ino(dir), name: name.to_vec() }
}

#[track_caller]
fn says(report: &StatesReport, what: &str, paths: &[&str]) {
    let found = report.findings.iter().find(|f| f.what.contains(what)).unwrap_or_else(|| panic!("{what}: {:#?}", report.findings));
    assert_eq!(found.affected.paths.iter().map(|p| String::from_utf8_lossy(p).into_owned()).collect::<Vec<_>>(), paths, "{found:?}");
    assert_eq!((found.affected.versions, found.affected.newest), (Some((VersionSeq(1), VersionSeq(1))), true), "{found:?}");
}

/// Histories of random operations give sound states, whose shared parts are read once, and every blob that is gone, cut or flipped is found.
#[test]
fn real_states_are_sound_and_every_wrong_blob_in_them_is_found() {
    for seed in 0..6 {
        let mut rng = StdRng::seed_from_u64(seed);
        let wrong = Wrong::default();
        let reader: Arc<dyn BlobRead> = Arc::clone(&wrong.1) as _;
        let mut tree = Tree::open(reader, None, Ino(2), Lsn(0), Time::default()).unwrap();
        let mut roots = Vec::new();
        for lsn in 1..=400 {
            let (op, bytes) = random_operation(&mut tree, &wrong.1, &mut rng, 12);
            apply(&mut tree, Lsn(lsn), &op, bytes.as_deref());
            if lsn % 50 == 0 {
                roots.push(tree.commit(&*wrong.1).unwrap().root);
            }
        }
        let next = tree.next_ino().0;
        let clean = check(&wrong, next, &roots);
        assert_eq!(clean.findings, [], "seed {seed}");
        let alone: u64 = roots.iter().map(|r| check(&wrong, next, &[*r]).directories).sum();
        assert!(clean.directories <= alone);

        let mut named: Vec<BlobId> = Vec::new();
        let seen = Mutex::new(Vec::new());
        {
            #[derive(Debug)]
            struct Noted<'a>(&'a Wrong, &'a Mutex<Vec<BlobId>>);
            impl BlobRead for Noted<'_> {
                fn get(&self, id: &BlobId) -> Result<Vec<u8>, TreeError> {
                    self.1.lock().unwrap().push(*id);
                    self.0.get(id)
                }
                fn read_at(&self, id: &BlobId, offset: u64, buf: &mut [u8]) -> Result<(), TreeError> {
                    self.0.read_at(id, offset, buf)
                }
            }
            let noted = Noted(&wrong, &seen);
            let length = |id: &BlobId| noted.get(id).map(|b| Some(b.len() as u64));
            let mut checker = Checker::new(&noted, &length, Some(Ino(next)));
            roots.iter().enumerate().for_each(|(n, r)| checker.state(Whose::Version(VersionSeq(n as u64 + 1)), r));
            assert_eq!(checker.finish().findings, []);
        }
        named.extend(seen.into_inner().unwrap());
        named.shuffle(&mut rng);
        for id in named.into_iter().take(40) {
            let bytes = wrong.get(&id).unwrap();
            let mut cut = bytes.clone();
            cut.pop();
            for bad in [None, Some(cut)] {
                wrong.set(id, bad);
                let report = check(&wrong, next, &roots);
                assert!(!report.findings.is_empty(), "seed {seed}, blob {id}");
                assert!(report.findings.iter().all(|f| f.affected.count > 0 || f.affected.newest), "{:#?}", report.findings);
                assert!(report.findings.iter().any(|f| f.affected.files > 0), "{:#?}", report.findings);
            }
            wrong.0.lock().unwrap().clear();
        }
    }
}

#[test]
fn a_sound_handmade_state_is_sound_and_each_slip_in_it_is_named_with_its_path() {
    let b = Wrong::default();
    let linked = || node(FileKind::File, 2, Content::Empty);
    let both = || InodeEntry::Node(Box::new(linked()), vec![link(1, b"a"), link(3, b"c")]);
    let sub = |nlink| entry(b"d", 3, Some(dir(nlink, Some(entries(&b, vec![entry(b"c", 2, None)])))));
    let sound = state(&b, 1, vec![entry(b"a", 2, None), sub(2)], vec![(2, both()), (3, at(1))]);
    assert_eq!(check(&b, 4, &[sound]).findings, []);
    says(&check(&b, 3, &[sound]), "inode number 3 was never given out", &["d"]);

    let bad = state(&b, 1, vec![entry(b"a", 2, None), sub(3)], vec![(2, both()), (3, at(1))]);
    says(&check(&b, 4, &[bad]), "directory 3 has 0 subdirectories and says 3 links", &["d"]);
    let bad = state(&b, 0, vec![file(b"b", 2), file(b"a", 3)], vec![(2, at(1)), (3, at(1))]);
    says(&check(&b, 4, &[bad]), "not sorted", &[""]);
    let bad = state(&b, 0, vec![file(b"a", 2), file(b"a", 3)], vec![(2, at(1)), (3, at(1))]);
    says(&check(&b, 4, &[bad]), "a name is there twice", &[""]);
    for name in [&b""[..], b".", b"..", b"x/y", b"x\0", &[b'n'; 256]] {
        let bad = state(&b, 0, vec![file(name, 2)], vec![(2, at(1))]);
        says(&check(&b, 4, &[bad]), "its name is none", &[&*String::from_utf8_lossy(name)]);
    }
    let bad = state(&b, 0, vec![entry(b"a", 2, Some(linked()))], vec![(2, at(1))]);
    says(&check(&b, 4, &[bad]), "has one name and says 2 links", &["a"]);
    // Three links, two names.
    let three = InodeEntry::Node(Box::new(node(FileKind::File, 3, Content::Empty)), vec![link(1, b"a"), link(3, b"c")]);
    let bad = state(&b, 1, vec![entry(b"a", 2, None), sub(2)], vec![(2, three), (3, at(1))]);
    let report = check(&b, 4, &[bad]);
    let found = report.findings.iter().find(|f| f.what.contains("inode 2 has 2 names and says 3 links")).unwrap();
    let mut paths = found.affected.paths.clone();
    paths.sort();
    assert_eq!(paths, [b"a".to_vec(), b"d/c".to_vec()]);
    // The table and the directories tell different stories.
    let bad = state(&b, 0, vec![file(b"a", 2), file(b"b", 3)], vec![(2, at(1)), (3, at(7))]);
    says(&check(&b, 4, &[bad]), "inode 3 is said to be in directory 1 by directories and in directory 7", &["b"]);
    let bad = state(&b, 0, vec![file(b"a", 2), file(b"b", 3)], vec![(2, at(1))]);
    says(&check(&b, 4, &[bad]), "inode 3 is in a directory and not in the inode table", &["b"]);
    let bad = state(&b, 0, vec![file(b"a", 2)], vec![(2, at(1)), (3, at(1))]);
    says(&check(&b, 4, &[bad]), "inode 3 is in the inode table and in no directory", &["(inode 3)"]);
    let bad = state(&b, 0, vec![file(b"a", 2), file(b"b", 2)], vec![(2, at(1))]);
    assert!(!check(&b, 4, &[bad]).findings.is_empty(), "one inode under two names, each with its node");
    let bad = state(&b, 0, vec![file(b"a", 2)], vec![(2, at(1)), (2, at(1))]);
    says(&check(&b, 4, &[bad]), "says something twice", &["a"]);
    // Sizes.
    let id = b.put(b"12345").unwrap();
    for (len, size, allocated, what) in
        [(5, 6, 5, "make 5 bytes"), (5, 5, 4, "make 5 bytes"), (6, 6, 6, "has 5 bytes and should have 6"), (0, 0, 0, "no length")]
    {
        let n = Node { size, allocated, ..node(FileKind::File, 1, Content::Pieces(vec![Piece::Chunk { id, len }])) };
        let bad = state(&b, 0, vec![entry(b"f", 2, Some(n))], vec![(2, at(1))]);
        says(&check(&b, 4, &[bad]), what, &["f"]);
    }
    let n = node(FileKind::File, 1, Content::Directory(id));
    let bad = state(&b, 0, vec![entry(b"f", 2, Some(n))], vec![(2, at(1))]);
    says(&check(&b, 4, &[bad]), "content of another kind", &["f"]);
    let n = node(FileKind::Symlink, 1, Content::Target(b"abc".to_vec()));
    let bad = state(&b, 0, vec![entry(b"l", 2, Some(n))], vec![(2, at(1))]);
    says(&check(&b, 4, &[bad]), "its size is 0", &["l"]);
}

/// Blobs that name themselves cannot be made, but inodes that do can, and neither must hold a check up.
#[test]
fn cycles_great_depth_and_trees_that_multiply_end_with_a_finding() {
    let b = Wrong::default();
    // A directory inside itself, by inode number.
    let inner = entries(&b, vec![entry(b"in", 2, Some(dir(2, None)))]);
    let bad = state(&b, 1, vec![entry(b"d", 2, Some(dir(3, Some(inner))))], vec![(2, at(1))]);
    assert!(!check(&b, 4, &[bad]).findings.is_empty());
    // A blob inside itself.
    let id = BlobId([7; 32]);
    let itself = DirNode::Entries(vec![entry(b"in", 3, Some(dir(3, Some(id))))]);
    b.set(id, Some(postcard::to_stdvec(&itself).unwrap()));
    let bad = state(&b, 1, vec![entry(b"d", 2, Some(dir(3, Some(id))))], vec![(2, at(1)), (3, at(2))]);
    says(&check(&b, 4, &[bad]), "directory 3 stands in more than one place", &["d/in/in"]);
    // An inode table that names itself, and one whose every part is the same.
    let id = BlobId([8; 32]);
    b.set(id, Some(postcard::to_stdvec(&TableNode::Inner((0..=255).map(|d| (d, id)).collect())).unwrap()));
    let root = |inodes, inodes_height| store(&b, &State { version: 1, root: dir(2, None), inodes: Some(inodes), inodes_height }).unwrap();
    assert!(!check(&b, u64::MAX, &[root(id, 7)]).findings.is_empty());
    assert!(!check(&b, u64::MAX, &[root(id, 255)]).findings.is_empty());
    let mut level = store(&b, &TableNode::Leaf((2..=255).map(|d| (d, at(1))).collect())).unwrap();
    for _ in 0..7 {
        level = store(&b, &TableNode::Inner((0..=255).map(|d| (d, level)).collect())).unwrap();
    }
    says(&check(&b, u64::MAX, &[root(level, 7)]), "larger than the tree can need", &[]);
    // Every directory twice in the one above it: 2^60 paths.
    let mut below = None;
    for n in (1..=60u64).rev() {
        let nlink = if below.is_some() { 4 } else { 2 };
        let two = |i| entry(if i == 0 { b"a" } else { b"b" }, 2 * n + i, Some(dir(nlink, below)));
        below = Some(entries(&b, vec![two(0), two(1)]));
    }
    let bad = store(&b, &State { version: 1, root: dir(4, below), inodes: None, inodes_height: 0 }).unwrap();
    assert!(!check(&b, u64::MAX, &[bad]).findings.is_empty());
    // Deeper than any tree that can be loaded.
    let mut below = None;
    for n in (0..=DEPTH as u64 + 10).rev() {
        let nlink = if below.is_some() { 3 } else { 2 };
        below = Some(entries(&b, vec![entry(b"d", 2 + n, Some(dir(nlink, below)))]));
    }
    let bad = store(&b, &State { version: 1, root: dir(3, below), inodes: None, inodes_height: 0 }).unwrap();
    let report = check(&b, u64::MAX, &[bad]);
    assert!(report.findings.iter().any(|f| f.what.contains("nested deeper")), "{:#?}", report.findings.len());
}

/// A page of pieces is looked at once, however many states and lists name it; a wrong one is found in each that does.
#[test]
fn wrong_pages_of_pieces_are_found_with_their_file_and_sound_ones_are_read_once() {
    let b = Wrong::default();
    let pieces: Vec<Piece> = (0..2000u64).map(|n| Piece::Chunk { id: b.put(&n.to_le_bytes()).unwrap(), len: 8 }).collect();
    let mut builder = Builder::new(&b);
    pieces.iter().for_each(|piece| builder.push(*piece).unwrap());
    let Content::PieceTree { root, height: 1 } = builder.finish().unwrap().content else { panic!() };
    let Part::Pages(pages) = read(&b, &root, 1).unwrap() else { panic!() };
    let with = |name: &[u8], list: BlobId, size: u64| {
        let file = Node { size, allocated: size, ..node(FileKind::File, 1, Content::PieceTree { root: list, height: 1 }) };
        state(&b, 0, vec![entry(name, 2, Some(file))], vec![(2, at(1))])
    };
    let sound = [with(b"a", root, 16_000), with(b"b", root, 16_000)];
    let clean = check(&b, 3, &sound);
    assert_eq!((clean.findings.len(), clean.chunks, clean.files), (0, 2000, 1), "{:?}", clean.findings);

    let mut lying = pages.clone();
    lying[1].stored -= 1;
    let told = check(&b, 3, &[with(b"a", store(&b, &lying).unwrap(), 16_000)]);
    says(&told, &format!("the list above says {} and {}", lying[1].len, lying[1].stored), &["a"]);
    let told = check(&b, 3, &[with(b"a", store(&b, &pages[1..].to_vec()).unwrap(), 16_000)]);
    says(&told, "the node says 16000 and 16000", &["a"]);
    let told = check(&b, 3, &[with(b"a", store(&b, &vec![pages[0]; 3]).unwrap(), 3 * pages[0].len)]);
    assert_eq!(told.findings, []);

    b.set(pages[1].id, None);
    let told = check(&b, 3, &sound);
    let found: Vec<_> = told.findings.iter().map(|f| (f.blob, &f.affected.paths[..], f.affected.versions, f.affected.newest)).collect();
    let versions = Some((VersionSeq(1), VersionSeq(2)));
    assert_eq!(found, [(Some(pages[1].id), &[b"a".to_vec(), b"b".to_vec()][..], versions, true)], "{:?}", told.findings);
}

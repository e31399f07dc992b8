//! Golden states, one of each version: `tests/golden/state-*.bin`, its blobs one behind the other, each behind its length (u32), the root last.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use super::*;
use crate::ids::Lsn;
use crate::tree::testing::MemoryBlobs;
use crate::tree::{BlobRead, BlobWrite, Tree, TreeError};
use crate::versions::commit::store;
use crate::versions::piece_tree::{Builder, Built, all};
use crate::versions::{dir_pages, inode_table};

/// Keeps the order in which blobs were put first.
#[derive(Debug, Default)]
struct Recorded(MemoryBlobs, Mutex<Vec<Vec<u8>>>);

impl BlobRead for Recorded {
    fn get(&self, id: &BlobId) -> Result<Vec<u8>, TreeError> {
        self.0.get(id)
    }

    fn read_at(&self, id: &BlobId, offset: u64, buf: &mut [u8]) -> Result<(), TreeError> {
        self.0.read_at(id, offset, buf)
    }
}

impl BlobWrite for Recorded {
    fn put(&self, bytes: &[u8]) -> Result<BlobId, TreeError> {
        let mut all = self.1.lock().unwrap();
        if !all.iter().any(|known| known == bytes) {
            all.push(bytes.to_vec());
        }
        self.0.put(bytes)
    }
}

fn chunk(n: u64) -> Piece {
    Piece::Chunk { id: BlobId::of(&n.to_le_bytes()), len: 16_384 + n as u32 }
}

fn node(kind: FileKind, nlink: u32, size: u64, allocated: u64, content: Content) -> Node {
    let time = |secs| Time { secs, nanos: 999_999_999 };
    let attrs = Attributes { mode: 0o6751, uid: 1000, gid: 0, rdev: 0, atime: time(-1), mtime: time(2), ctime: time(3), birth: time(0) };
    let xattrs = Xattrs::from([(b"user.tag".to_vec(), b"\0value".to_vec()), (b"user.z".to_vec(), Vec::new())]);
    Node { kind, attrs, xattrs, nlink, size, allocated, content }
}

/// The files of the state, by name: content, size, bytes that are not holes.
fn files(blobs: &dyn BlobWrite, version: u8) -> BTreeMap<&'static str, (Content, u64, u64)> {
    let list = |range: std::ops::Range<u64>| range.map(chunk).collect::<Vec<_>>();
    let of = |content, pieces: &[Piece]| {
        let stored = pieces.iter().filter(|p| matches!(p, Piece::Chunk { .. })).map(Piece::len).sum();
        (content, pieces.iter().map(Piece::len).sum(), stored)
    };
    let inline = vec![chunk(1), Piece::Hole { len: 1 << 40 }, chunk(2)];
    // Before version 2 a list had any number of pieces.
    let many = list(0..1500);
    let mut files = BTreeMap::from([
        ("empty", of(Content::Empty, &[])),
        ("inline", of(Content::Pieces(inline.clone()), &inline)),
        ("list", of(Content::PieceList(store(blobs, &many).unwrap()), &many)),
    ]);
    if version > 1 {
        let mut pieces = list(2000..2600);
        pieces.insert(300, Piece::Hole { len: 1 << 20 });
        let mut builder = Builder::new(blobs);
        pieces.iter().for_each(|piece| builder.push(*piece).unwrap());
        let Built { content, stored } = builder.finish().unwrap();
        assert!(matches!(content, Content::PieceTree { height: 1, .. }), "{content:?}");
        files.insert("pages", (content, of(Content::Empty, &pieces).1, stored));
        // Lists of lists, shorter than a writer makes them.
        let page = |n: u64| {
            let (_, len, stored) = of(Content::Empty, &list(n..n + 3));
            PageRef { id: store(blobs, &list(n..n + 3)).unwrap(), len, stored }
        };
        let above = |pages: Vec<PageRef>| {
            let (len, stored) = pages.iter().fold((0, 0), |(len, stored), p| (len + p.len, stored + p.stored));
            PageRef { id: store(blobs, &pages).unwrap(), len, stored }
        };
        let top = above(vec![above(vec![page(5000), page(5003)]), above(vec![page(5006)])]);
        files.insert("lists", (Content::PieceTree { root: top.id, height: 2 }, top.len, top.stored));
    }
    files
}

fn state(blobs: &dyn BlobWrite, version: u8) -> BlobId {
    let mut entries = Vec::new();
    let mut table = BTreeMap::new();
    for (n, (name, (content, size, allocated))) in files(blobs, version).into_iter().enumerate() {
        let ino = Ino(2 + n as u64);
        let file = node(FileKind::File, 1, size, allocated, content);
        entries.push(Entry { name: name.into(), ino, kind: FileKind::File, node: Some(Box::new(file)) });
        table.insert(ino, Some(InodeEntry::In(Ino::ROOT)));
    }
    for name in [b"hard-a".to_vec(), b"hard-\xff".to_vec()] {
        entries.push(Entry { name, ino: Ino(300), kind: FileKind::File, node: None });
    }
    let names = entries[entries.len() - 2..].iter().map(|e| Link { dir: Ino::ROOT, name: e.name.clone() }).collect();
    table.insert(Ino(300), Some(InodeEntry::Node(Box::new(node(FileKind::File, 2, 0, 0, Content::Empty)), names)));
    let link = node(FileKind::Symlink, 1, 4, 0, Content::Target(b"a\xff/b".to_vec()));
    entries.push(Entry { name: b"symlink".to_vec(), ino: Ino(301), kind: FileKind::Symlink, node: Some(Box::new(link)) });
    table.insert(Ino(301), Some(InodeEntry::In(Ino::ROOT)));
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    let (top, _) = dir_pages::store_all(blobs, entries).unwrap();
    let (inodes, inodes_height) = inode_table::update(blobs, None, 0, &table).unwrap();
    let root = node(FileKind::Directory, 2, 0, 0, Content::Directory(top));
    store(blobs, &State { version, root, inodes, inodes_height }).unwrap()
}

fn golden(version: u8) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/state-{version}.bin"))
}

fn recorded(version: u8) -> Vec<u8> {
    let blobs = Recorded::default();
    state(&blobs, version);
    let all = blobs.1.lock().unwrap();
    all.iter().flat_map(|blob| [&(blob.len() as u32).to_le_bytes()[..], blob].concat()).collect()
}

/// Writes the golden states. Only for a new version: what is there is the contract.
#[test]
#[ignore = "writes the golden files"]
fn generate() {
    (1..=State::VERSION).for_each(|version| std::fs::write(golden(version), recorded(version)).unwrap());
}

/// Other bytes are another version, and a reader for those of before stays.
#[test]
fn states_of_every_version_are_frozen_and_read() {
    for version in 1..=State::VERSION {
        let bytes = std::fs::read(golden(version)).unwrap();
        assert!(bytes == recorded(version), "version {version}");
        let blobs = Arc::new(MemoryBlobs::default());
        let (mut rest, mut root) = (&bytes[..], None);
        while let Some((len, behind)) = rest.split_first_chunk::<4>() {
            let (blob, behind) = behind.split_at(u32::from_le_bytes(*len) as usize);
            root = Some(blobs.put(blob).unwrap());
            rest = behind;
        }
        let mut tree = Tree::open(Arc::clone(&blobs) as _, root, Ino(400), Lsn(1), Time::default()).unwrap();
        let wanted = files(&MemoryBlobs::default(), version);
        assert_eq!(tree.dir(Ino::ROOT).unwrap().len(), wanted.len() + 3);
        for (name, (content, size, allocated)) in wanted {
            let ino = tree.resolve(name.as_bytes()).unwrap().unwrap();
            let found = tree.inode(ino).map(|inode| inode.size).unwrap();
            let node = tree.node(tree.peek(ino).unwrap());
            assert_eq!((node.content, node.allocated, found), (content.clone(), allocated, size), "{name}");
            let chunks: Vec<Piece> = all(&*blobs, &content).unwrap().into_iter().filter(|p| matches!(p, Piece::Chunk { .. })).collect();
            let plan = tree.read_plan(ino, 0, size).unwrap();
            let planned: Vec<Piece> = plan
                .parts()
                .iter()
                .filter_map(|(len, source)| match source {
                    crate::tree::Source::Blob { id, offset: 0 } => Some(Piece::Chunk { id: *id, len: *len as u32 }),
                    _ => None,
                })
                .collect();
            assert!(plan.len() == size && planned == chunks, "{name}");
        }
        let linked = tree.resolve(b"hard-\xff").unwrap().unwrap();
        assert_eq!(tree.inode(linked).unwrap().names.len(), 2);
        // Whoever goes on from it writes the newest version.
        let root = tree.commit(&*blobs).unwrap().root;
        assert_eq!(blobs.get(&root).unwrap()[0], State::VERSION);
    }
}

#[test]
fn a_later_state_is_refused_by_its_number_and_is_no_damage() {
    let blobs = Arc::new(MemoryBlobs::default());
    let root = blobs.put(&[State::VERSION + 1, 9, 9, 9]).unwrap();
    let e = Tree::open(Arc::clone(&blobs) as _, Some(root), Ino(2), Lsn(1), Time::default()).map(drop).unwrap_err();
    let e = crate::error::Error::from(e);
    assert!(e.class == crate::error::Class::Refused && e.message.contains(&format!("version {}", State::VERSION + 1)), "{e}");
    assert!(e.hint.is_some_and(|hint| hint.contains("the ize that wrote it")));
}

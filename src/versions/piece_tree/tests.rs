use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use proptest::prelude::*;

use super::*;
use crate::ids::{Ino, Lsn, Time};
use crate::op::{AllocateMode, Data, Fallocate, Truncate, Write};
use crate::tree::testing::{MemoryBlobs, apply};
use crate::tree::{Body, Cut, Tree};
use crate::versions::node::{Attributes, DirNode, Entry, FileKind, InodeEntry, Node, State, Xattrs};

/// Blobs of which every one is a chunk by itself, and what is put and read of them.
#[derive(Debug, Default)]
struct Counted {
    blobs: MemoryBlobs,
    there: Mutex<HashSet<BlobId>>,
    new_bytes: AtomicU64,
    reads: AtomicU64,
}

impl Counted {
    /// Bytes that were new, and blobs that were read, since the last time.
    fn since(&self) -> (u64, u64) {
        (self.new_bytes.swap(0, Ordering::Relaxed), self.reads.swap(0, Ordering::Relaxed))
    }
}

impl BlobRead for Counted {
    fn get(&self, id: &BlobId) -> Result<Vec<u8>, TreeError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.blobs.get(id)
    }

    fn read_at(&self, id: &BlobId, offset: u64, buf: &mut [u8]) -> Result<(), TreeError> {
        self.blobs.read_at(id, offset, buf)
    }
}

impl BlobWrite for Counted {
    fn put(&self, bytes: &[u8]) -> Result<BlobId, TreeError> {
        let id = self.blobs.put(bytes)?;
        if self.there.lock().unwrap().insert(id) {
            self.new_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        }
        Ok(id)
    }

    fn known_cut(&self, id: &BlobId) -> Option<(Cut, u32)> {
        self.blobs.get(id).ok().map(|bytes| (Cut::Whole, bytes.len() as u32))
    }
}

/// A chunk that is nowhere.
fn chunk(n: u64, len: u32) -> Piece {
    Piece::Chunk { id: BlobId::of(&n.to_le_bytes()), len }
}

fn built(blobs: &dyn BlobWrite, pieces: &[Piece]) -> Built {
    let mut builder = Builder::new(blobs);
    pieces.iter().for_each(|piece| builder.push(*piece).unwrap());
    builder.finish().unwrap()
}

/// A tree with one file of these pieces.
fn with_file(blobs: &Arc<Counted>, pieces: &[Piece]) -> Tree {
    let Built { content, stored } = built(&**blobs, pieces);
    let size = pieces.iter().map(Piece::len).sum();
    let attrs = Attributes { mode: 0o644, ..Attributes::default() };
    let node =
        |kind, nlink, size, allocated, content| Node { kind, attrs: attrs.clone(), xattrs: Xattrs::new(), nlink, size, allocated, content };
    let file = Box::new(node(FileKind::File, 1, size, stored, content));
    let entries = vec![Entry { name: b"big".to_vec(), ino: Ino(2), kind: FileKind::File, node: Some(file) }];
    let top = store(&**blobs, &DirNode::Entries(entries)).unwrap();
    let root = node(FileKind::Directory, 2, 0, 0, Content::Directory(top));
    let table = [(Ino(2), Some(InodeEntry::In(Ino::ROOT)))].into();
    let (inodes, inodes_height) = crate::versions::inode_table::update(&**blobs, None, 0, &table).unwrap();
    let root = store(&**blobs, &State { version: State::VERSION, root, inodes, inodes_height }).unwrap();
    open(blobs, root)
}

fn open(blobs: &Arc<Counted>, root: BlobId) -> Tree {
    Tree::open(Arc::clone(blobs) as _, Some(root), Ino(3), Lsn(1), Time::default()).unwrap()
}

fn content(tree: &mut Tree) -> Built {
    let inode = tree.inode(Ino(2)).unwrap();
    let Body::File(file) = &inode.body else { panic!() };
    Built { content: file.base_content().clone(), stored: file.allocated() }
}

/// Writes a blob of its own over `at..at + len`; gives its piece.
fn write(tree: &mut Tree, blobs: &Counted, lsn: u64, n: u64, at: u64, len: usize) -> Piece {
    let mut bytes = vec![n as u8; len];
    bytes[..8.min(len)].copy_from_slice(&n.to_le_bytes()[..8.min(len)]);
    let id = blobs.blobs.put(&bytes).unwrap();
    let size_after = tree.inode(Ino(2)).unwrap().size.max(at + len as u64);
    let op = Write { ino: Ino(2), offset: at, data: Data::Blob { id, len: len as u32 }, size_after, mode_after: None };
    apply(tree, Lsn(lsn), &op.into(), None);
    Piece::Chunk { id, len: len as u32 }
}

/// Writes the last piece again, as it is: one that ended a file is cut anew when the file goes on behind it, but for one that is known.
fn write_last(tree: &mut Tree, lsn: u64, size: u64, last: Option<&Piece>) {
    if let Some(Piece::Chunk { id, len }) = last {
        let data = Data::Blob { id: *id, len: *len };
        let op = Write { ino: Ino(2), offset: size - u64::from(*len), data, size_after: size, mode_after: None };
        apply(tree, Lsn(lsn), &op.into(), None);
    }
}

/// Every page and list below a content: its height and how many entries it has, and whether it is the last of its level.
fn parts(blobs: &dyn BlobRead, content: &Content) -> Vec<(u8, usize, bool)> {
    let (root, height) = match content {
        Content::PieceTree { root, height } => (*root, *height),
        Content::PieceList(id) => (*id, 0),
        _ => return Vec::new(),
    };
    let (mut found, mut stack) = (Vec::new(), vec![(root, height, true)]);
    while let Some((id, height, last)) = stack.pop() {
        match read(blobs, &id, height).unwrap() {
            Part::Pieces(pieces) => found.push((0, pieces.len(), last)),
            Part::Pages(pages) => {
                found.push((height, pages.len(), last));
                let end = pages.len() - 1;
                stack.extend(pages.iter().enumerate().map(|(n, page)| (page.id, height - 1, last && n == end)));
            }
        }
    }
    found
}

#[test]
fn pages_and_lists_keep_their_bounds_and_hold_what_was_put_in() {
    let blobs = MemoryBlobs::default();
    let mut sizes = vec![0, 1, INLINE, INLINE + 1, PAGE_MIN, PAGE_MAX, PAGE_MAX + 1, 5000, 120_000];
    sizes.sort_unstable();
    for count in sizes {
        // Distinct chunks; the same one again and again, marked or not; holes between.
        let marked_chunk = (0..).map(|n| chunk(n, 7)).find(Item::ends).unwrap();
        let plain = (0..).map(|n| chunk(n, 7)).find(|c| !c.ends()).unwrap();
        let distinct: Vec<Piece> = (0..count as u64).map(|n| chunk(n, 1 + (n % 9) as u32)).collect();
        let holes = (0..count as u64).map(|n| if n % 2 == 0 { chunk(n, 5) } else { Piece::Hole { len: 1 << 16 } }).collect();
        for (what, pieces) in
            [("distinct", distinct), ("marked", vec![marked_chunk; count]), ("plain", vec![plain; count]), ("holes", holes)]
        {
            let Built { content, stored } = built(&blobs, &pieces);
            assert_eq!(all(&blobs, &content).unwrap(), pieces, "{what} {count}");
            let chunks = pieces.iter().filter(|p| matches!(p, Piece::Chunk { .. })).map(Piece::len).sum::<u64>();
            assert_eq!(stored, chunks, "{what} {count}");
            let found = parts(&blobs, &content);
            for (height, entries, last) in &found {
                assert!(*entries <= PAGE_MAX && (*entries >= PAGE_MIN || *last), "{what} {count}: {entries} at height {height}");
            }
            match count {
                0 => assert_eq!(content, Content::Empty),
                n if n <= INLINE => assert_eq!(content, Content::Pieces(pieces.clone())),
                n if n <= PAGE_MIN => assert!(matches!(content, Content::PieceList(_))),
                n if n > PAGE_MAX => assert!(matches!(content, Content::PieceTree { height: 1..=HEIGHT_MAX, .. })),
                _ => {}
            }
            if (what, count) == ("distinct", 120_000) {
                let pages = found.iter().filter(|(height, ..)| *height == 0).count();
                assert!((200..320).contains(&(count / pages)), "{pages} pages");
                assert!(matches!(content, Content::PieceTree { height: 2, .. }), "{content:?}");
            }
            let first = head(&blobs, &content, 3).unwrap();
            assert!(pieces.starts_with(&first) && first.len() == count.min(3).min(first.len()));
            assert!(first.iter().map(Piece::len).sum::<u64>() >= 3 || first.len() == count, "{what} {count}");
        }
    }
}

/// Adjacent runs of zeros are one piece, also where a page would end between them.
#[test]
fn a_hole_is_one_piece_whatever_it_was_put_together_of() {
    let blobs = MemoryBlobs::default();
    let pieces: Vec<Piece> = (0..3000).map(|n| if n % 3 == 2 { Piece::Hole { len: 100_000 } } else { chunk(n, 9) }).collect();
    let mut builder = Builder::new(&blobs);
    for piece in &pieces {
        match piece {
            Piece::Hole { len } => [1, len - 3, 2].iter().for_each(|len| builder.push(Piece::Hole { len: *len }).unwrap()),
            Piece::Chunk { .. } => builder.push(*piece).unwrap(),
        }
    }
    assert_eq!(builder.finish().unwrap(), built(&blobs, &pieces));
}

/// A file of 20 GB: 10.8 MB of pieces.
#[test]
fn a_version_of_a_huge_file_stores_the_pages_that_changed_and_the_lists_above_them() {
    const LEN: u64 = 1 << 16;
    let blobs = Arc::new(Counted::default());
    let mut pieces: Vec<Piece> = (0..300_000).map(|n| chunk(n, LEN as u32)).collect();
    let mut tree = with_file(&blobs, &pieces);
    blobs.since();
    // One page and two lists: the longest take 40 KB each.
    let bound = |pages: u64| (pages + 2) * 40_000;
    let (mut total, mut lsn) = (0, 2);
    for (n, at) in [150_000usize, 0, 299_999, 7, 123_456, 150_001].into_iter().enumerate() {
        pieces[at] = write(&mut tree, &blobs, lsn, n as u64, at as u64 * LEN, LEN as usize);
        let committed = tree.commit(&*blobs).unwrap();
        let (new, reads) = blobs.since();
        assert!(new < bound(1) + 2000, "an edit at {at} stored {new} bytes");
        assert!(reads < 8, "an edit at {at} read {reads} blobs");
        assert_eq!(committed.chunked, 0);
        (total, lsn) = (total + new, lsn + 1);
        if at == 0 {
            tree = open(&blobs, committed.root);
            blobs.since();
        }
    }
    assert!(total < 6 * 60_000, "{total} bytes for six edits");
    // It grows; and grows into a second page.
    for n in 0..40u64 {
        let at = pieces.len() as u64 * LEN;
        write_last(&mut tree, lsn, at, pieces.last());
        lsn += 1;
        pieces.push(write(&mut tree, &blobs, lsn, 1000 + n, at, LEN as usize));
        tree.commit(&*blobs).unwrap();
        let (new, _) = blobs.since();
        assert!(new < bound(2) + 2000, "growth {n} stored {new} bytes");
        lsn += 1;
    }
    assert_eq!(content(&mut tree), built(&*blobs, &pieces));
    assert_eq!(blobs.since().0, 0, "building it from scratch stores nothing new");
}

/// The same content twice, each growing over many versions, but by other steps.
#[test]
fn the_same_content_again_shares_its_pages_however_it_grew() {
    let blobs = Arc::new(Counted::default());
    let (count, len) = (20_000u64, 64usize);
    let mut grown = Vec::new();
    let mut bytes = Vec::new();
    for step in [1000, 777] {
        let mut tree = with_file(&blobs, &[]);
        blobs.since();
        let (mut at, mut lsn, mut versions, mut last) = (0, 2, 0, None);
        while at < count {
            write_last(&mut tree, lsn, at * len as u64, last.as_ref());
            lsn += 1;
            for n in at..(at + step).min(count) {
                last = Some(write(&mut tree, &blobs, lsn, n, n * len as u64, len));
                lsn += 1;
            }
            at += step;
            tree.commit(&*blobs).unwrap();
            versions += 1;
        }
        grown.push(content(&mut tree));
        bytes.push((blobs.since().0, versions));
    }
    assert_eq!(grown[0], grown[1]);
    let pieces = count * 36;
    // All of it once; and for each version the page and the list at its end.
    let (once, versions) = bytes[0];
    assert!(once < pieces * 11 / 10 + versions * 20_000, "{once} bytes for {pieces} bytes of pieces");
    let (again, versions) = bytes[1];
    assert!(again < versions * 20_000, "{again} bytes for {versions} versions");
    // One version more of what is there is nothing.
    let all = all(&*blobs, &grown[0].content).unwrap();
    assert_eq!((built(&*blobs, &all), blobs.since().0), (grown[0].clone(), 0));
}

/// What is done to a file of pieces of 400 bytes.
#[derive(Clone, Debug)]
enum Edit {
    /// Other bytes for one piece.
    Replace(u16),
    /// Pieces at the end.
    Append(u16),
    /// Shorter by so many pieces.
    Cut(u16),
    /// No bytes for so many pieces from one on: they are a hole, which is 65,536 bytes at least.
    Punch(u16, u8),
    /// Longer by a hole.
    Extend,
    /// A version; then perhaps a new look at it.
    Commit(bool),
}

fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        4 => any::<u16>().prop_map(Edit::Replace),
        2 => (1..400u16).prop_map(Edit::Append),
        1 => (1..1500u16).prop_map(Edit::Cut),
        2 => (any::<u16>(), any::<u8>()).prop_map(|(at, more)| Edit::Punch(at, more)),
        1 => Just(Edit::Extend),
        4 => any::<bool>().prop_map(Edit::Commit),
    ]
}

const SHORT: u64 = 400;
/// As many short pieces as make a hole.
const HOLE: u64 = 200;

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever led to a file, its pieces stand in the pages and lists that they stand in when the file is made of them at once.
    #[test]
    fn every_way_to_the_same_pieces_gives_the_same_pages(start in 0..4000u64, edits in prop::collection::vec(edit(), 1..25)) {
        let blobs = Arc::new(Counted::default());
        let mut tree = with_file(&blobs, &[]);
        // By pieces of SHORT bytes: a chunk, or none where there is a hole.
        let mut model: Vec<Option<Piece>> = Vec::new();
        let (mut lsn, mut n) = (2, 0);
        let mut step = |tree: &mut Tree, model: &mut Vec<Option<Piece>>, edit: &Edit| {
            lsn += 2;
            let size = model.len() as u64 * SHORT;
            if matches!(edit, Edit::Append(_) | Edit::Extend) {
                write_last(tree, lsn - 1, size, model.last().and_then(Option::as_ref));
            }
            let mut put = |tree: &mut Tree, at: usize| {
                (lsn, n) = (lsn + 1, n + 1);
                Some(write(tree, &blobs, lsn, n, at as u64 * SHORT, SHORT as usize))
            };
            match edit {
                Edit::Append(count) => {
                    for _ in 0..*count {
                        let piece = put(tree, model.len());
                        model.push(piece);
                    }
                }
                // In the middle of a hole it would leave shorter ones.
                Edit::Replace(at) if !model.is_empty() => {
                    let at = usize::from(*at) % model.len();
                    if model[at].is_some() {
                        model[at] = put(tree, at);
                    }
                }
                Edit::Cut(count) => {
                    model.truncate(model.len().saturating_sub(usize::from(*count)));
                    // What is left of a hole would be bytes, were something put behind it.
                    let hole = model.iter().rev().take_while(|piece| piece.is_none()).count();
                    if hole < HOLE as usize {
                        model.truncate(model.len() - hole);
                    }
                    let left = model.len();
                    let op = Truncate { ino: Ino(2), old_size: size, size: left as u64 * SHORT, mode_after: None };
                    apply(tree, Lsn(lsn), &op.into(), None);
                }
                Edit::Punch(at, more) if model.len() as u64 > HOLE => {
                    let at = usize::from(*at) % (model.len() - HOLE as usize);
                    let count = (HOLE as usize + usize::from(*more)).min(model.len() - at);
                    model[at..at + count].fill(None);
                    let (offset, len) = (at as u64 * SHORT, count as u64 * SHORT);
                    let op = Fallocate { ino: Ino(2), mode: AllocateMode::PunchHole, offset, len, size_after: size };
                    apply(tree, Lsn(lsn), &op.into(), None);
                }
                Edit::Extend => {
                    model.extend(std::iter::repeat_n(None, HOLE as usize));
                    let op = Truncate { ino: Ino(2), old_size: size, size: size + HOLE * SHORT, mode_after: None };
                    apply(tree, Lsn(lsn), &op.into(), None);
                }
                Edit::Commit(again) => {
                    let root = tree.commit(&*blobs).unwrap().root;
                    if *again {
                        *tree = open(&blobs, root);
                    }
                }
                Edit::Replace(_) | Edit::Punch(..) => {}
            }
        };
        step(&mut tree, &mut model, &Edit::Append(start as u16));
        for edit in &edits {
            step(&mut tree, &mut model, edit);
            step(&mut tree, &mut model, &Edit::Commit(false));
            let pieces: Vec<Piece> = model.iter().map(|piece| piece.unwrap_or(Piece::Hole { len: SHORT })).collect();
            prop_assert_eq!(content(&mut tree), built(&*blobs, &pieces), "after {:?}", edit);
        }
        let all = tree.read_all(Ino(2)).unwrap();
        for (bytes, piece) in all.chunks(SHORT as usize).zip(&model) {
            match piece {
                Some(Piece::Chunk { id, .. }) => prop_assert_eq!(BlobId::of(bytes), *id),
                _ => prop_assert!(bytes.iter().all(|b| *b == 0)),
            }
        }
        prop_assert_eq!(all.len(), model.len() * SHORT as usize);
    }
}

#[test]
fn a_byte_of_a_huge_file_is_found_without_reading_its_other_pages() {
    let blobs = Arc::new(Counted::default());
    let pieces: Vec<Piece> =
        (0..200_000).map(|n| if n % 50 == 0 { Piece::Hole { len: 70_000 } } else { chunk(n, 1000 + (n % 77) as u32) }).collect();
    let mut tree = with_file(&blobs, &pieces);
    let mut starts = Vec::new();
    let size = pieces.iter().fold(0, |at, piece| {
        starts.push(at);
        at + piece.len()
    });
    tree.inode(Ino(2)).unwrap();
    blobs.since();
    for n in [0, 1, 49, 50, 51, 100_000, 199_999, 77_777, 77_778] {
        let at = starts[n] + pieces[n].len() / 2;
        let plan = tree.read_plan(Ino(2), at, 1).unwrap();
        match (&plan.parts()[0].1, pieces[n]) {
            (crate::tree::Source::Blob { id, offset }, Piece::Chunk { id: expected, len }) => {
                assert_eq!((*id, *offset), (expected, u64::from(len) / 2));
            }
            (crate::tree::Source::Hole, Piece::Hole { .. }) => {}
            other => panic!("{other:?}"),
        }
        let (_, reads) = blobs.since();
        assert!(reads <= 3, "piece {n} took {reads} blobs");
    }
    // All of it, in order.
    let plan = tree.read_plan(Ino(2), 0, size + 5).unwrap();
    assert_eq!((plan.len(), plan.parts().len()), (size, pieces.len()));
    assert!(tree.read_plan(Ino(2), size, 10).unwrap().is_empty());
}

#[test]
fn lists_that_lie_are_refused() {
    let blobs = Arc::new(Counted::default());
    let pieces: Vec<Piece> = (0..2000).map(|n| chunk(n, 100)).collect();
    let Content::PieceTree { root, height: 1 } = built(&*blobs, &pieces).content else { panic!() };
    let Part::Pages(pages) = read(&*blobs, &root, 1).unwrap() else { panic!() };
    let mut lying = pages.clone();
    lying[1].len += 1;
    let list = store(&*blobs, &lying).unwrap();
    let (len, stored) = (lying.iter().map(|p| p.len).sum(), 200_000);
    let mut file = crate::tree::FileBody::committed(Content::PieceTree { root: list, height: 1 }, len, stored);
    assert!(file.plan(&*blobs, 0, 1).is_ok());
    let e = file.plan(&*blobs, pages[0].len, 1).unwrap_err().to_string();
    assert!(e.contains(&pages[1].id.to_string()) && e.contains("says"), "{e}");
    for wrong in [PageRef { len: 0, stored: 0, ..pages[0] }, PageRef { stored: pages[0].len + 1, ..pages[0] }] {
        let list = store(&*blobs, &vec![wrong]).unwrap();
        assert!(read(&*blobs, &list, 1).unwrap_err().to_string().contains("page 0 is said"));
    }
    assert!(read(&*blobs, &root, HEIGHT_MAX + 1).is_err());
    // Lists of lists of the same page: more pieces than anybody holds.
    let (mut part, mut height) = (pages[0], 0);
    while height < HEIGHT_MAX {
        let list = vec![PageRef { len: 1, stored: 0, ..part }; 1000];
        part = PageRef { id: store(&*blobs, &list).unwrap(), len: 1, stored: 0 };
        height += 1;
    }
    let e = up_to(10_000, &*blobs, &Content::PieceTree { root: part.id, height }).unwrap_err().to_string();
    assert!(e.contains("has more than"), "{e}");
}

//! Trees, states and differences against each other: the same history through different ways must give the same tree.

use std::sync::Arc;

use rand::prelude::*;

use super::testing::{MemoryBlobs, apply, dump, random_operation};
use super::{BlobRead, Tree};
use crate::ids::{BlobId, Ino, Lsn, Time};
use crate::op::Create;
use crate::versions::chunker;
use crate::versions::commit::Committed;
use crate::versions::diff::diff;
use crate::versions::dir_pages::store_all;
use crate::versions::node::{Content, Piece};

fn open(blobs: &Arc<MemoryBlobs>, root: Option<BlobId>, next: Ino, lsn: Lsn) -> Tree {
    Tree::open(Arc::clone(blobs) as Arc<dyn BlobRead>, root, next, lsn, Time::default()).unwrap()
}

/// One tree takes every operation; a second commits now and then and is opened afresh from its state; a third takes every operation and
/// learns of the second's states late, as the live mount does. The second and third let go of what they can, now and then. All three must
/// look the same all the time, and each state must be read back as it was.
#[test]
fn committing_reopening_rebasing_and_evicting_change_nothing_that_can_be_seen() {
    let mut evicted = 0;
    for seed in 0..60 {
        let mut rng = StdRng::seed_from_u64(seed);
        let blobs = Arc::new(MemoryBlobs::default());
        let mut plain = open(&blobs, None, Ino(2), Lsn::ZERO);
        let mut committing = open(&blobs, None, Ino(2), Lsn::ZERO);
        let mut live = open(&blobs, None, Ino(2), Lsn::ZERO);
        let mut late: Option<Committed> = None;
        let mut states = Vec::new();
        // In some rounds the root is so large that it is stored in pages.
        let (names, filled) = if seed % 4 == 0 { (500, 400) } else { (12, 0) };
        for step in 1..=filled + 150u64 {
            let lsn = Lsn(step);
            let (op, bytes) = if step <= filled {
                let create = Create { dir: Ino::ROOT, name: format!("n{step}").into(), ino: plain.next_ino(), mode: 0o644, uid: 0, gid: 0 };
                (create.into(), None)
            } else {
                random_operation(&mut plain, &blobs, &mut rng, names)
            };
            for tree in [&mut plain, &mut committing, &mut live] {
                apply(tree, lsn, &op, bytes.as_deref());
            }
            if rng.random_bool(0.1) {
                let committed = committing.commit(&*blobs).unwrap();
                states.push((committed.root, dump(&mut plain)));
                for new in &committed.contents {
                    if let Content::Directory(id) = new.content {
                        let entries = crate::tree::dir_entries(&*blobs, &id).unwrap();
                        assert_eq!(store_all(&*blobs, entries).unwrap().0, id, "pages of {}, seed {seed}, step {step}", new.ino);
                    }
                }
                assert!(committing.dirty().is_empty());
                if let Some(previous) = late.replace(committed.clone()) {
                    live.rebase(&previous);
                }
                if rng.random_bool(0.5) {
                    committing = open(&blobs, Some(committed.root), committing.next_ino(), lsn);
                }
            }
            if rng.random_bool(0.3) {
                let (open, keep) = (rng.random_range(1..8), rng.random_range(1..4));
                for tree in [&mut committing, &mut live] {
                    evicted += tree.evict(&|ino| ino.0 % open == 0, &|ino| ino.0 % keep == 0);
                }
            }
            if rng.random_bool(0.2) {
                let expected = dump(&mut plain);
                assert_eq!(dump(&mut committing), expected, "committing, seed {seed}, step {step}, {op:?}");
                assert_eq!(dump(&mut live), expected, "live, seed {seed}, step {step}, {op:?}");
            }
        }
        for (root, expected) in &states {
            assert_eq!(&dump(&mut open(&blobs, Some(*root), Ino(1000), Lsn(1000))), expected, "state, seed {seed}");
        }
        // Differences between any two states name exactly the paths that look different.
        for _ in 0..10 {
            let (Some((a, before)), Some((b, after))) = (states.choose(&mut rng), states.choose(&mut rng)) else { continue };
            let found = diff(&*blobs, Some(a), b).unwrap();
            let mut named: std::collections::BTreeSet<Vec<u8>> = found.iter().map(|d| d.path.clone()).collect();
            let moved: Vec<(Vec<u8>, Vec<u8>)> = found.iter().filter_map(|d| Some((d.from.clone()?, d.path.clone()))).collect();
            named.extend(moved.iter().map(|m| m.0.clone()));
            for path in before.keys().chain(after.keys()) {
                if before.get(path) != after.get(path) && !named.contains(path) {
                    let under = |dir: &[u8]| path.starts_with(&[dir, b"/"].concat());
                    assert!(moved.iter().any(|(f, t)| under(f) || under(t)), "seed {seed}: {} is not named", path.escape_ascii());
                }
            }
            for d in &found {
                assert!(d.new.is_none() || after.contains_key(&d.path), "seed {seed}");
                if d.is_notable() && d.from.is_none() && d.old.is_some() && d.new.is_some() {
                    assert_ne!(before.get(&d.path), after.get(&d.path), "seed {seed}: {} is named for nothing", d.path.escape_ascii());
                }
            }
        }
    }
    assert!(evicted > 1000, "{evicted}");
}

/// The hash of a state does not depend on how often it was committed on the way.
#[test]
fn equal_states_have_equal_hashes() {
    for seed in 100..130 {
        let mut rng = StdRng::seed_from_u64(seed);
        let blobs = Arc::new(MemoryBlobs::default());
        let mut once = open(&blobs, None, Ino(2), Lsn::ZERO);
        let mut often = open(&blobs, None, Ino(2), Lsn::ZERO);
        for step in 1..=80u64 {
            let (op, bytes) = loop {
                // Chunk borders may depend on where an edit began: only whole-file content is canonical.
                let (op, bytes) = random_operation(&mut once, &blobs, &mut rng, 12);
                if !matches!(op.name(), "write" | "truncate" | "fallocate" | "clone") {
                    break (op, bytes);
                }
            };
            for tree in [&mut once, &mut often] {
                apply(tree, Lsn(step), &op, bytes.as_deref());
            }
            if rng.random_bool(0.3) {
                often.commit(&*blobs).unwrap();
            }
        }
        assert_eq!(once.commit(&*blobs).unwrap().root, often.commit(&*blobs).unwrap().root, "seed {seed}");
    }
}

/// A 4 KiB edit in the middle of a file stores little; an inserted byte in front moves no later border.
#[test]
fn a_small_edit_of_a_large_file_reuses_its_chunks() {
    let blobs = Arc::new(MemoryBlobs::default());
    let mut rng = StdRng::seed_from_u64(1);
    let mut bytes = vec![0; 8 << 20];
    rng.fill_bytes(&mut bytes);
    let mut tree = open(&blobs, None, Ino(2), Lsn::ZERO);
    let create = crate::op::Create { dir: Ino::ROOT, name: b"big".to_vec(), ino: Ino(2), mode: 0o644, uid: 0, gid: 0 };
    apply(&mut tree, Lsn(1), &create.into(), None);
    let write = |offset: u64, len: usize, size_after: u64| crate::op::Write {
        ino: Ino(2),
        offset,
        data: crate::op::Data::Inline(len as u32),
        size_after,
        mode_after: None,
    };
    apply(&mut tree, Lsn(2), &write(0, bytes.len(), bytes.len() as u64).into(), Some(&bytes));
    assert_eq!(tree.commit(&*blobs).unwrap().chunked, bytes.len() as u64);
    bytes[4_000_000..4_004_096].fill(7);
    apply(&mut tree, Lsn(3), &write(4_000_000, 4096, bytes.len() as u64).into(), Some(&[7; 4096]));
    let committed = tree.commit(&*blobs).unwrap();
    assert!(committed.chunked < 1 << 20, "{} bytes were cut anew", committed.chunked);
    assert_eq!(open(&blobs, Some(committed.root), Ino(3), Lsn(3)).read_all(Ino(2)).unwrap(), bytes);
}

/// A file that is read in several windows is cut where one window would be cut, and every way to the same bytes and holes gives the same
/// state.
#[test]
fn a_large_file_is_cut_at_the_same_places_whatever_led_to_it() {
    let blobs = Arc::new(MemoryBlobs::default());
    let mut rng = StdRng::seed_from_u64(3);
    let mut bytes = vec![0; 19 << 20];
    rng.fill_bytes(&mut bytes);
    let new = || {
        let mut tree = open(&blobs, None, Ino(2), Lsn::ZERO);
        let create = Create { dir: Ino::ROOT, name: b"big".to_vec(), ino: Ino(2), mode: 0o644, uid: 0, gid: 0 };
        apply(&mut tree, Lsn(1), &create.into(), None);
        tree
    };
    let write = |offset: usize, len: usize, size: usize| crate::op::Write {
        ino: Ino(2),
        offset: offset as u64,
        data: crate::op::Data::Inline(len as u32),
        size_after: size as u64,
        mode_after: None,
    };
    let content = |tree: &mut Tree| {
        let super::Body::File(file) = &tree.inode(Ino(2)).unwrap().body else { panic!() };
        crate::versions::piece_tree::all(&*blobs, file.base_content()).unwrap()
    };
    let mut once = new();
    apply(&mut once, Lsn(2), &write(0, bytes.len(), bytes.len()).into(), Some(&bytes));
    once.commit(&*blobs).unwrap();
    let (mut at, mut expected) = (0, Vec::new());
    while at < bytes.len() {
        let end = (at + chunker::MAX).min(bytes.len());
        let cut = chunker::next_cut(&bytes[at..end], end == bytes.len());
        expected.push(Piece::Chunk { id: BlobId::of(&bytes[at..at + cut]), len: cut as u32 });
        at += cut;
    }
    assert_eq!(content(&mut once), expected);

    // Holes of all lengths, a hole at the end; then the same in another order, with a commit between any two steps.
    let holes = [(100_000, 30_000), (1 << 20, 70_000), (3_000_000, 5 << 20), (9_000_000, 65_536), (17 << 20, 2 << 20)];
    let punch = |(offset, len): (u64, u64)| crate::op::Fallocate {
        ino: Ino(2),
        mode: crate::op::AllocateMode::PunchHole,
        offset,
        len,
        size_after: bytes.len() as u64,
    };
    for (n, hole) in holes.into_iter().enumerate() {
        apply(&mut once, Lsn(3 + n as u64), &punch(hole).into(), None);
    }
    once.commit(&*blobs).unwrap();
    let mut stepwise = new();
    let mut lsn = 2;
    for (n, part) in bytes.chunks(1_700_000).enumerate().rev() {
        let op = write(n * 1_700_000, part.len(), bytes.len());
        apply(&mut stepwise, Lsn(lsn), &op.into(), Some(part));
        stepwise.commit(&*blobs).unwrap();
        lsn += 1;
    }
    assert_eq!(content(&mut stepwise), expected);
    for hole in holes.into_iter().rev() {
        apply(&mut stepwise, Lsn(lsn), &punch(hole).into(), None);
        stepwise.commit(&*blobs).unwrap();
        lsn += 1;
    }
    assert_eq!(content(&mut stepwise), content(&mut once));
    // Short ones fall into a chunk that begins before them.
    let found = content(&mut once).iter().filter(|p| matches!(p, Piece::Hole { .. })).count();
    assert_eq!(found, 2);
}

/// A directory of thousands of names is split, and one new name rewrites one page.
#[test]
fn a_huge_directory_is_paged_and_read_back() {
    let blobs = Arc::new(MemoryBlobs::default());
    let mut tree = open(&blobs, None, Ino(2), Lsn::ZERO);
    for i in 2..3002u64 {
        let create = crate::op::Create { dir: Ino::ROOT, name: format!("file-{i}").into_bytes(), ino: Ino(i), mode: 0o644, uid: 0, gid: 0 };
        apply(&mut tree, Lsn(i), &create.into(), None);
    }
    let before = tree.commit(&*blobs).unwrap();
    let create = crate::op::Create { dir: Ino::ROOT, name: b"one more".to_vec(), ino: Ino(3002), mode: 0o644, uid: 0, gid: 0 };
    apply(&mut tree, Lsn(3002), &create.into(), None);
    let after = tree.commit(&*blobs).unwrap();
    let found = diff(&*blobs, Some(&before.root), &after.root).unwrap();
    assert_eq!(found.iter().filter(|d| d.is_notable()).map(|d| d.path.as_slice()).collect::<Vec<_>>(), [b"one more"]);
    let mut again = open(&blobs, Some(after.root), Ino(3003), Lsn(3002));
    assert_eq!(again.dir(Ino::ROOT).unwrap().len(), 3001);
    assert_eq!(again.path_of(Ino(2500)).unwrap().unwrap(), b"file-2500");
}

/// The blobs of a known history: another hash is another format, which needs another state version and a reader for this one.
#[test]
fn the_bytes_of_states_are_frozen() {
    let blobs = Arc::new(MemoryBlobs::default());
    let mut tree = open(&blobs, None, Ino(2), Lsn::ZERO);
    let create =
        |ino: u64, name: &str| crate::op::Create { dir: Ino::ROOT, name: name.into(), ino: Ino(ino), mode: 0o4755, uid: 7, gid: 8 };
    let bytes: Vec<u8> = (0..900_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let mut ops: Vec<(crate::op::Operation, Option<&[u8]>)> = vec![
        (create(2, "large").into(), None),
        (
            crate::op::Write {
                ino: Ino(2),
                offset: 500_000,
                data: crate::op::Data::Inline(900_000),
                size_after: 1_400_000,
                mode_after: None,
            }
            .into(),
            Some(&bytes),
        ),
        (crate::op::Link { ino: Ino(2), dir: Ino::ROOT, name: b"linked".to_vec() }.into(), None),
        (crate::op::Symlink { dir: Ino::ROOT, name: b"s".to_vec(), ino: Ino(3), target: b"t".to_vec(), uid: 1, gid: 2 }.into(), None),
        (crate::op::Mkdir { dir: Ino::ROOT, name: b"d".to_vec(), ino: Ino(4), mode: 0o1777, uid: 1, gid: 2 }.into(), None),
        (crate::op::SetXattr { ino: Ino(4), name: b"user.x".to_vec(), value: vec![0, 1] }.into(), None),
    ];
    ops.extend((5..305).map(|i| (create(i, &format!("f{i}")).into(), None)));
    for (i, (op, bytes)) in ops.iter().enumerate() {
        apply(&mut tree, Lsn(i as u64 + 1), op, *bytes);
    }
    assert_eq!(tree.commit(&*blobs).unwrap().root.to_string(), "c9b622cb7a74a9b03116742fa0b8597b6d3f2da46ca67bd40f865e46956d1320");
}

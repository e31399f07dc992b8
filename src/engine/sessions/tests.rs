//! Windows in which several sessions worked: parts whose states are those of their operations, and at the end the log's.

use std::sync::Arc;

use rand::prelude::*;

use super::*;
use crate::ids::BlobId;
use crate::op::{Chmod, Create, Data, Forget, Mark, Marker, Mkdir, Rename, Rmdir, Stamp, Unlink, Utimens, Write};
use crate::tree::naive::Naive;
use crate::tree::testing::{MemoryBlobs, MemoryLog, dump, random_operation};
use crate::tree::{BlobRead, LogBytes, Tree};
use crate::versions::node::FileKind;

const IDLE: Duration = Duration::from_secs(2);

/// A recorded operation with the session that it is of (0: nobody knows who asked) and the bytes of a write.
#[derive(Clone, Debug)]
struct Recorded {
    lsn: Lsn,
    entry: Entry,
    session: u32,
    bytes: Option<Vec<u8>>,
}

fn entry(session: u32, millis: i64, back: i64, op: Operation) -> Entry {
    let process = ProcessKey { pid: session, start: 0 };
    let clamped = 1_000_000_000 * 1_000_000 + millis * 1_000_000;
    Entry { stamp: Stamp { time: Time::from_nanos(clamped - back), behind: back as u64, process, link: None }, op }
}

/// The parts of operations: session, milliseconds, operation.
fn parts(parts_max: usize, dirs: &[u64], ops: &[(u32, i64, Operation)]) -> Vec<Vec<u64>> {
    let mut separator = Separator::new(IDLE, parts_max);
    for (i, (session, millis, op)) in ops.iter().enumerate() {
        let mut is_dir = |ino: Ino| Ok(dirs.contains(&ino.0));
        separator.add(Lsn(i as u64 + 1), &entry(*session, *millis, 0, op.clone()), *session, &mut is_dir).unwrap();
    }
    separator.finish().into_iter().map(|p| p.lsns.into_iter().map(|l| l.0).collect()).collect()
}

fn create(dir: u64, name: &str, ino: u64) -> Operation {
    Create { dir: Ino(dir), name: name.into(), ino: Ino(ino), mode: 0o644, uid: 0, gid: 0 }.into()
}

fn mkdir(dir: u64, name: &str, ino: u64) -> Operation {
    Mkdir { dir: Ino(dir), name: name.into(), ino: Ino(ino), mode: 0o755, uid: 0, gid: 0 }.into()
}

fn write(ino: u64) -> Operation {
    Write { ino: Ino(ino), offset: 0, data: Data::Inline(1), size_after: 1, mode_after: None }.into()
}

fn rename(from: (u64, &str), ino: u64, to: (u64, &str), mode: RenameMode) -> Operation {
    Rename { dir: Ino(from.0), name: from.1.into(), ino: Ino(ino), to_dir: Ino(to.0), to_name: to.1.into(), mode }.into()
}

#[test]
fn a_session_alone_is_one_part() {
    let ops = [(7, 0, create(1, "a", 10)), (7, 100, write(10)), (7, 200, create(1, "b", 11))];
    assert_eq!(parts(16, &[], &ops), [[1, 2, 3]]);
}

/// The editor saves beside a build, in one directory and into a temporary file that it renames over the old one; every save is a version.
#[test]
fn an_editor_beside_a_build_has_a_part_for_each_save() {
    let (make, editor) = (7, 8);
    let save =
        |new: u64, old: u64| [create(1, "a.c~", new), write(new), rename((1, "a.c~"), new, (1, "a.c"), RenameMode::Replace(Ino(old)))];
    let mut ops = vec![(make, 0, create(1, "x.o", 20)), (make, 100, write(20))];
    ops.extend(save(21, 10).into_iter().map(|op| (editor, 200, op)));
    ops.extend([(make, 1500, create(1, "y.o", 22)), (make, 3000, write(22))]);
    ops.extend(save(23, 21).into_iter().map(|op| (editor, 4000, op)));
    ops.push((make, 4500, create(1, "z.o", 24)));
    assert_eq!(parts(16, &[], &ops), [vec![3, 4, 5], vec![8, 9, 10], vec![1, 2, 6, 7, 11]]);
    // Both saves go on, the build ends first.
    ops.pop();
    assert_eq!(parts(16, &[], &ops), [vec![3, 4, 5], vec![1, 2, 6, 7], vec![8, 9, 10]]);
    // Two parts at most: the saves are one rather than one of them with the build.
    assert_eq!(parts(1, &[], &ops).len(), 1);
}

#[test]
fn beyond_the_limit_the_smallest_join_their_own() {
    let mut ops = vec![(7, 0, create(1, "x.o", 20))];
    for save in 0..6i64 {
        ops.push((8, 3000 * save, create(1, &format!("s{save}"), 30 + save as u64)));
        ops.extend([0, 1000, 2000].map(|more| (7, 3000 * save + more, write(20))));
    }
    assert_eq!(parts(16, &[], &ops).len(), 7);
    let three = parts(3, &[], &ops);
    assert_eq!(three.len(), 3);
    assert!(three.iter().any(|part| part.len() == 19), "the build is by itself: {three:?}");
}

#[test]
fn who_appends_to_one_file_is_one_part() {
    let ops = [(7, 0, write(10)), (8, 0, write(10)), (9, 0, write(11)), (7, 10, write(12))];
    assert_eq!(parts(16, &[], &ops), [vec![3], vec![1, 2, 4]]);
}

#[test]
fn a_name_and_a_made_or_removed_directory_join() {
    // The one takes the name that the other left.
    let unlink = |ino| Unlink { dir: Ino(1), name: b"a".to_vec(), ino: Ino(ino) }.into();
    assert_eq!(parts(16, &[], &[(7, 0, unlink(10)), (8, 0, create(1, "a", 11))]).len(), 1);
    assert_eq!(parts(16, &[], &[(7, 0, unlink(10)), (8, 0, create(2, "a", 11))]).len(), 2);
    // Made by the one, used by the other.
    assert_eq!(parts(16, &[10], &[(7, 0, mkdir(1, "d", 10)), (8, 0, create(10, "a", 11))]).len(), 1);
    // Emptied by the one, removed by the other.
    let unlink = Unlink { dir: Ino(10), name: b"a".to_vec(), ino: Ino(11) }.into();
    let rmdir = Rmdir { dir: Ino(1), name: b"d".to_vec(), ino: Ino(10) }.into();
    assert_eq!(parts(16, &[10], &[(7, 0, unlink), (8, 0, rmdir)]).len(), 1);
    // Its times set by the one, moved by what the other does in it.
    let times = Utimens { ino: Ino(10), old: Default::default(), atime: None, mtime: Some(Time::default()) }.into();
    assert_eq!(parts(16, &[10], &[(7, 0, times), (8, 0, create(10, "a", 11))]).len(), 1);
    let chmod = Chmod { ino: Ino(10), old: 0, new: 1 }.into();
    assert_eq!(parts(16, &[10], &[(7, 0, create(10, "a", 11)), (8, 0, chmod)]).len(), 1);
}

#[test]
fn a_clone_is_no_stranger_to_its_source() {
    let clone = |from, ino| {
        crate::op::Clone { from: Ino(from), from_offset: 0, ino: Ino(ino), offset: 0, len: 1, size_after: 1, mode_after: None }.into()
    };
    assert_eq!(parts(16, &[], &[(7, 0, write(10)), (8, 0, clone(10, 11))]).len(), 1);
    assert_eq!(parts(16, &[], &[(7, 0, clone(10, 11)), (8, 0, write(10))]).len(), 1);
    assert_eq!(parts(16, &[], &[(7, 0, clone(10, 11)), (8, 0, clone(10, 12))]).len(), 2);
    // Reading does not mind another name.
    assert_eq!(parts(16, &[], &[(7, 0, clone(10, 11)), (8, 0, rename((1, "a"), 10, (1, "b"), RenameMode::Free))]).len(), 2);
}

#[test]
fn moving_a_directory_minds_other_moves_only() {
    let within = |ino| rename((1, "d"), ino, (1, "e"), RenameMode::Free);
    assert_eq!(parts(16, &[10], &[(7, 0, within(10)), (8, 0, create(10, "a", 11))]).len(), 2);
    assert_eq!(parts(16, &[10], &[(7, 0, within(10)), (8, 0, rename((1, "x"), 10, (1, "y"), RenameMode::Free))]).len(), 1);
    // Into another directory: whether there is a way round depends on what moved before.
    let (out, into) = (rename((20, "x"), 10, (1, "x"), RenameMode::Free), rename((1, "y"), 20, (10, "y"), RenameMode::Free));
    assert_eq!(parts(16, &[10, 20], &[(7, 0, out), (8, 0, into)]).len(), 1);
    let (a, b) = (rename((30, "x"), 10, (31, "x"), RenameMode::Free), rename((32, "y"), 20, (33, "y"), RenameMode::Free));
    assert_eq!(parts(16, &[10, 20], &[(7, 0, a.clone()), (8, 0, b.clone())]).len(), 1);
    assert_eq!(parts(16, &[], &[(7, 0, a), (8, 0, b)]).len(), 2, "files");
}

/// The first save is one with the build, which ends last; so the second one cannot stand before it.
#[test]
fn units_of_a_session_never_change_places() {
    let ops = [(8, 0, write(10)), (7, 0, write(10)), (8, 1500, write(10)), (8, 4000, write(12)), (7, 4500, write(11))];
    // The build paused for longer than `idle`: it has two units, and only the first is one with the save.
    assert_eq!(parts(16, &[], &ops), [vec![1, 2, 3], vec![4], vec![5]]);
    let mut ops = ops.to_vec();
    ops.insert(3, (7, 1500, write(13)));
    ops.insert(4, (7, 3000, write(13)));
    assert_eq!(parts(16, &[], &ops), [vec![1, 2, 3, 4, 5, 6, 7]]);
}

#[test]
fn what_nobody_asked_for_goes_with_the_inode_and_what_has_no_name_goes_last() {
    let mark = Mark { marker: Marker::Commit { message: None } };
    let ops = [
        (7, 0, create(1, "a", 10)),
        (8, 0, create(1, "b", 11)),
        (0, 10, write(10)),
        (0, 10, Forget { ino: Ino(9) }.into()),
        (7, 20, write(10)),
        (0, 20, write(11)),
        (0, 30, mark.into()),
    ];
    assert_eq!(parts(16, &[], &ops), [vec![1, 3, 5], vec![2, 4, 6, 7]]);
    // What joins an earlier unit of a session minds what the session did since.
    let over = rename((1, "o"), 12, (1, "n"), RenameMode::Replace(Ino(14)));
    let ops = [(7, 0, write(12)), (7, 3000, create(1, "n", 14)), (0, 3500, over), (7, 3600, create(1, "q", 15)), (8, 0, write(16))];
    assert_eq!(parts(16, &[], &ops), [vec![1, 2, 3, 4], vec![5]]);
}

#[test]
fn too_many_units_are_one_version() {
    let ops: Vec<_> = (0..1200u32).map(|s| (s + 1, 0, create(1, &format!("{s}"), u64::from(s) + 10))).collect();
    assert!(parts(16, &[], &ops).is_empty());
    assert_eq!(parts(16, &[], &ops[..1000]).len(), 16);
}

fn histories(default: u64) -> u64 {
    std::env::var("IZE_TEST_HISTORIES").ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

fn apply(tree: &mut Tree, it: &Recorded) {
    let inline = matches!(&it.entry.op, Operation::Write(w) if matches!(w.data, Data::Inline(_)));
    let payload = it.bytes.as_ref().filter(|_| inline).map(|b| (Arc::new(MemoryLog(b.clone())) as Arc<dyn LogBytes>, 0));
    tree.apply(it.lsn, &it.entry, payload).unwrap_or_else(|e| panic!("{e}"));
}

/// Is everything that the operation touches the session's own, or new? Every session may make names in every directory.
fn is_own(op: &Operation, owner: &dyn Fn(Ino) -> u32, session: u32, tree: &mut Tree) -> bool {
    let born = matches!(op, Operation::Create(_) | Operation::Mkdir(_) | Operation::Mknod(_) | Operation::Symlink(_));
    let mut touched: Vec<Ino> = if born { Vec::new() } else { op.ino().into_iter().collect() };
    match op {
        Operation::Rename(o) => {
            if let RenameMode::Replace(other) | RenameMode::Exchange(other) = o.mode {
                touched.push(other);
            }
            // Moves of directories are seldom, or there would be one part always.
            if o.dir != o.to_dir && tree.inode(o.ino).is_ok_and(|i| i.kind == FileKind::Directory) {
                return false;
            }
        }
        Operation::Clone(o) => touched.push(o.from),
        _ => {}
    }
    let shared = |ino: &Ino| *ino == Ino::ROOT;
    !touched.iter().any(shared) && touched.iter().all(|ino| owner(*ino) == session)
}

struct Window {
    blobs: Arc<MemoryBlobs>,
    /// The state before, in both forms, and what the tree needs to know of it.
    root: BlobId,
    before: Naive,
    next_ino: Ino,
    ops: Vec<Recorded>,
    /// The tree at the end.
    end: Tree,
}

/// Some history, then a window in which three sessions (and sometimes nobody) work, mostly on what is their own.
fn window(seed: u64) -> Window {
    let mut rng = StdRng::seed_from_u64(seed);
    let blobs = Arc::new(MemoryBlobs::default());
    let open = |root, next, lsn| Tree::open(Arc::clone(&blobs) as Arc<dyn BlobRead>, root, next, lsn, Time::default()).unwrap();
    let mut tree = open(None, Ino(2), Lsn::ZERO);
    let mut naive = Naive::new();
    let (mut lsn, mut millis) = (0, 0);
    let mut record = |op: Operation, bytes: Option<Vec<u8>>, session: u32, pause: i64, back: i64| {
        (lsn, millis) = (lsn + 1, millis + pause);
        let bytes = match op.blob() {
            Some((id, _)) => Some(blobs.get(&id).unwrap()),
            None => bytes,
        };
        Recorded { lsn: Lsn(lsn), entry: entry(session, millis, back, op), session, bytes }
    };
    for _ in 0..rng.random_range(0..60) {
        let (op, bytes) = random_operation(&mut tree, &blobs, &mut rng, 12);
        let it = record(op, bytes, 7, 1, 0);
        apply(&mut tree, &it);
        naive.apply(&it.entry, it.bytes.as_deref());
    }
    let root = tree.commit(&*blobs).unwrap().root;
    let (before, next_ino) = (naive, tree.next_ino());
    let mut tree = open(Some(root), next_ino, tree.applied());
    tree.load_orphans().unwrap();
    let mut owners: HashMap<Ino, u32> = HashMap::new();
    let mut ops = Vec::new();
    let mut session = 1;
    // One that never rests, so that the others have units beside it.
    let strangers = rng.random_bool(0.3);
    while ops.len() < 70 {
        let session = if rng.random_bool(0.3) { 1 } else { std::mem::replace(&mut session, rng.random_range(1..4)) };
        let (op, bytes) = random_operation(&mut tree, &blobs, &mut rng, 12);
        let owner = |ino: Ino| owners.get(&ino).copied().unwrap_or(ino.0 as u32 % 3 + 1);
        let own = is_own(&op, &owner, session, &mut tree) || matches!(op, Operation::Forget(_));
        if !(own || strangers && rng.random_bool(0.01)) {
            continue;
        }
        owners.extend(op.ino().filter(|_| own).map(|ino| (ino, session)));
        let unknown = matches!(op, Operation::Forget(_)) || rng.random_bool(0.05);
        let it = record(op, bytes, if unknown { 0 } else { session }, rng.random_range(0..900), rng.random_range(0..3_000_000_000));
        apply(&mut tree, &it);
        ops.push(it);
    }
    Window { blobs, root, before, next_ino, ops, end: tree }
}

fn separate(window: &mut Window) -> Vec<Part> {
    let mut separator = Separator::new(IDLE, 16);
    let end = &mut window.end;
    for it in &window.ops {
        let mut is_dir = |ino: Ino| Ok(end.inode(ino).map_or(true, |inode| inode.kind == FileKind::Directory));
        separator.add(it.lsn, &it.entry, it.session, &mut is_dir).unwrap();
    }
    separator.finish()
}

/// The parts of random windows hold every operation once; the state of each is what its operations and those of the parts before it make of
/// the state before the window; and the last state is the one that the log gives. `IZE_TEST_HISTORIES` says how many.
#[test]
fn the_state_of_each_part_is_that_of_its_operations_and_the_last_is_the_logs() {
    let (mut split, mut made, mut equal) = (0, 0, 0);
    for seed in 0..histories(40) {
        let mut window = window(seed);
        let parts = separate(&mut window);
        let mut all: Vec<Lsn> = parts.iter().flat_map(|p| p.lsns.iter().copied()).collect();
        all.sort_unstable();
        assert!(all.iter().eq(window.ops.iter().map(|it| &it.lsn)), "seed {seed}: every operation once");
        let expected = dump(&mut window.end);
        if parts.len() < 2 {
            continue;
        }
        (split, made) = (split + 1, made + parts.len());
        let blobs: Arc<dyn BlobRead> = Arc::clone(&window.blobs) as _;
        let mut tree = Tree::open(blobs, Some(window.root), window.next_ino, Lsn::ZERO, Time::default()).unwrap();
        tree.allow_reordering();
        let mut root = window.root;
        for (at, part) in parts.iter().enumerate() {
            window.ops.iter().filter(|it| part.lsns.contains(&it.lsn)).for_each(|it| apply(&mut tree, it));
            root = tree.commit(&*window.blobs).unwrap().root;
            let mut naive = window.before.clone();
            let so_far = |it: &&Recorded| parts[..=at].iter().any(|p| p.lsns.contains(&it.lsn));
            window.ops.iter().filter(so_far).for_each(|it| naive.apply(&it.entry, it.bytes.as_deref()));
            assert_eq!(dump(&mut tree), naive.dump(), "seed {seed}, part {at}");
        }
        assert_eq!(dump(&mut tree), expected, "seed {seed}: the last state");
        assert!(parts.is_sorted_by_key(|p| p.end), "seed {seed}");
        assert_eq!((tree.next_ino(), tree.clock(), tree.applied()), (window.end.next_ino(), window.end.clock(), window.end.applied()));
        equal += u32::from(window.end.commit(&*window.blobs).unwrap().root == root);
    }
    eprintln!("{split} windows in {made} parts; {equal} have the same hash at the end");
    assert!(u64::from(split) > histories(40) / 2 && made as u32 > split * 2 && equal > split * 9 / 10);
}

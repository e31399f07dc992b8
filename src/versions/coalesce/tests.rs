//! What a window comes to, put over the state before it, is what its operations come to one by one ([`Naive`]): each case by itself, and
//! random windows. `IZE_TEST_HISTORIES` says how many of the latter.

use std::collections::BTreeMap;
use std::sync::Arc;

use rand::prelude::*;

use super::*;
use crate::ids::{Lsn, Time};
use crate::op::{
    AllocateMode, Clone, Create, Data, Entry, Fallocate, Link, Mkdir, Operation, Rename, RenameMode, Stamp, Truncate, Unlink, Write,
};
use crate::tree::BlobRead;
use crate::tree::naive::{Naive, show};
use crate::tree::testing::{MemoryBlobs, apply, random_operation};
use crate::versions::node::Content;

/// The interpreter's tree and the model, side by side.
struct World {
    blobs: Arc<MemoryBlobs>,
    tree: Tree,
    naive: Naive,
    lsn: Lsn,
    /// State before the window, in both forms.
    root: Option<BlobId>,
    before: Naive,
}

impl World {
    fn new() -> Self {
        let blobs = Arc::new(MemoryBlobs::default());
        let tree = Tree::open(Arc::clone(&blobs) as Arc<dyn BlobRead>, None, Ino(2), Lsn::ZERO, Time::default()).unwrap();
        Self { blobs, tree, naive: Naive::new(), lsn: Lsn::ZERO, root: None, before: Naive::new() }
    }

    fn run(&mut self, op: impl Into<Operation>, bytes: Option<&[u8]>) -> &mut Self {
        let op = op.into();
        self.lsn = self.lsn.next();
        apply(&mut self.tree, self.lsn, &op, bytes);
        let blob = op.blob().map(|(id, _)| self.blobs.get(&id).unwrap());
        let time = Time { secs: 1_000_000 + self.lsn.0 as i64, nanos: 5 };
        self.naive.apply(&Entry { stamp: Stamp { time, ..Stamp::default() }, op }, blob.as_deref().or(bytes));
        self
    }

    /// What was done so far is the state before the window.
    fn begin(&mut self) -> &mut Self {
        self.root = Some(self.tree.commit(&*self.blobs).unwrap().root);
        self.before = self.naive.clone();
        self
    }

    fn create(&mut self, name: &str, ino: u64) -> &mut Self {
        self.run(Create { dir: Ino::ROOT, name: name.into(), ino: Ino(ino), mode: 0o644, uid: 0, gid: 0 }, None)
    }

    fn mkdir(&mut self, name: &str, ino: u64) -> &mut Self {
        self.run(Mkdir { dir: Ino::ROOT, name: name.into(), ino: Ino(ino), mode: 0o755, uid: 0, gid: 0 }, None)
    }

    fn unlink(&mut self, name: &str, ino: u64) -> &mut Self {
        self.run(Unlink { dir: Ino::ROOT, name: name.into(), ino: Ino(ino) }, None)
    }

    fn link(&mut self, ino: u64, name: &str) -> &mut Self {
        self.run(Link { ino: Ino(ino), dir: Ino::ROOT, name: name.into() }, None)
    }

    fn rename(&mut self, name: &str, ino: u64, to: &str, mode: RenameMode) -> &mut Self {
        self.rename_into(name, ino, (Ino::ROOT, to), mode)
    }

    fn rename_into(&mut self, name: &str, ino: u64, to: (Ino, &str), mode: RenameMode) -> &mut Self {
        self.run(Rename { dir: Ino::ROOT, name: name.into(), ino: Ino(ino), to_dir: to.0, to_name: to.1.into(), mode }, None)
    }

    fn size(&self, ino: u64) -> u64 {
        self.naive.bytes(Ino(ino)).len() as u64
    }

    fn write(&mut self, ino: u64, offset: u64, bytes: &[u8]) -> &mut Self {
        let size_after = self.size(ino).max(offset + bytes.len() as u64);
        let data = Data::Inline(bytes.len() as u32);
        self.run(Write { ino: Ino(ino), offset, data, size_after, mode_after: None }, Some(bytes))
    }

    fn truncate(&mut self, ino: u64, size: u64) -> &mut Self {
        self.run(Truncate { ino: Ino(ino), old_size: self.size(ino), size, mode_after: None }, None)
    }

    /// Coalesces the window, puts what it comes to over the state before, and compares with the operations one by one. Gives what is
    /// notable.
    fn check(&mut self, story: &str) -> Vec<NetChange> {
        let Coalesced { committed, changes } = coalesce(&mut self.tree, &*self.blobs, self.root.as_ref()).unwrap();
        let mut tree =
            Tree::open(Arc::clone(&self.blobs) as Arc<dyn BlobRead>, Some(committed.root), Ino(2), Lsn::ZERO, Time::default()).unwrap();
        let mut after: BTreeMap<Vec<u8>, String> = BTreeMap::new();
        // What nobody names stays where it was, or goes where its directory goes.
        for (path, ino) in self.before.paths() {
            if let Some(to) = place(&path, ino, &changes) {
                after.insert(to, self.before.show(ino));
            }
        }
        for change in &changes {
            let Some(node) = &change.node else { continue };
            let mut bytes = self.before.bytes(change.ino);
            bytes.resize(node.size as usize, 0);
            if let Content::Target(target) = &node.content {
                bytes.clone_from(target);
            }
            let mut end = 0;
            for (at, len) in &change.written {
                assert!(*at > end || end == 0, "{story}: ranges are merged and in order");
                end = at + len;
                let plan = tree.read_plan(change.ino, *at, *len).unwrap();
                assert_eq!(plan.len(), *len, "{story}");
                plan.read(&*self.blobs, &mut bytes[*at as usize..end as usize]).unwrap();
            }
            after.insert(change.path.clone(), show(change.ino, (node.kind, &node.attrs, node.nlink, &node.xattrs), &bytes));
        }
        assert_eq!(after, self.naive.dump(), "{story}");
        changes.into_iter().filter(|c| c.is_notable).collect()
    }
}

/// Where a path of the state before is afterwards; `None` when it is gone, or another inode has it.
fn place(path: &[u8], ino: Ino, changes: &[NetChange]) -> Option<Vec<u8>> {
    if path.is_empty() {
        return Some(Vec::new());
    }
    if let Some(moved) = changes.iter().find(|c| matches!(&c.what, What::Moved { from } if from == path)) {
        return Some(moved.path.clone());
    }
    let gone = |c: &&NetChange| c.path == path && (c.what == What::Removed || c.was == Some(ino));
    if changes.iter().any(|c| gone(&c)) {
        return None;
    }
    let (dir, name) = path.iter().rposition(|b| *b == b'/').map_or((&b""[..], path), |at| (&path[..at], &path[at + 1..]));
    let dir = place(dir, Ino(0), changes)?;
    Some(if dir.is_empty() { name.to_vec() } else { [&dir[..], name].join(&b'/') })
}

/// What is notable, for people.
fn told(changes: &[NetChange]) -> Vec<String> {
    let one = |c: &NetChange| {
        let what = match &c.what {
            What::Added => "added".to_owned(),
            What::Modified => "modified".to_owned(),
            What::Removed => "removed".to_owned(),
            What::Moved { from } => format!("from {}", from.escape_ascii()),
        };
        format!("{} {what} {:?}", c.path.escape_ascii(), c.written)
    };
    changes.iter().map(one).collect()
}

#[test]
fn a_file_that_is_made_and_written_is_one_change_with_all_its_bytes() {
    let mut world = World::new();
    world.begin().create("a", 2).write(2, 0, b"hello ").write(2, 6, b"world").write(2, 100, b"!");
    assert_eq!(told(&world.check("")), ["a added [(0, 11), (100, 1)]"]);
}

/// Who keeps the latest write only loses the first.
#[test]
fn every_write_counts_at_its_offset() {
    let mut world = World::new();
    world.create("a", 2).write(2, 0, &[b'-'; 30]).begin();
    world.write(2, 20, b"late").write(2, 4, b"early").write(2, 6, b"over").write(2, 0, b"s");
    assert_eq!(told(&world.check("")), ["a modified [(0, 1), (4, 6), (20, 4)]"]);
    assert_eq!(world.naive.bytes(Ino(2)), b"s---eaover----------late------");
}

#[test]
fn a_file_that_came_and_went_is_nothing() {
    let mut world = World::new();
    world.create("b", 2).begin();
    world.create("a", 3).write(3, 0, b"gone").unlink("a", 3);
    assert_eq!(told(&world.check("")), [""; 0]);
}

#[test]
fn a_chain_of_renames_is_one_move() {
    let mut world = World::new();
    world.create("a", 2).write(2, 0, b"same").mkdir("d", 3).begin();
    world.rename("a", 2, "b", RenameMode::Free).rename("b", 2, "c", RenameMode::Free);
    world.rename_into("c", 2, (Ino(3), "e"), RenameMode::Free);
    assert_eq!(told(&world.check("")), ["d/e from a []"]);
    // There and back again; its change time tells.
    world.begin().rename("d", 3, "x", RenameMode::Free).rename("x", 3, "d", RenameMode::Free);
    assert_eq!(told(&world.check("back")), [""; 0]);
}

#[test]
fn two_that_change_places_are_two_moves() {
    let mut world = World::new();
    world.create("a", 2).write(2, 0, b"first").create("b", 3).write(3, 0, b"second").begin();
    world.rename("a", 2, "b", RenameMode::Exchange(Ino(3)));
    assert_eq!(told(&world.check("at once")), ["a from b []", "b from a []"]);
    // By a third name, and written on the way.
    world.begin().rename("a", 3, "t", RenameMode::Free).rename("b", 2, "a", RenameMode::Free).write(3, 3, b"ret");
    world.rename("t", 3, "b", RenameMode::Free);
    assert_eq!(told(&world.check("by a third")), ["a from b []", "b from a [(3, 3)]"]);
}

#[test]
fn an_atomic_save_is_a_change_of_the_path_and_nothing_of_the_old_bytes_is_left() {
    let mut world = World::new();
    world.create("a", 2).write(2, 0, b"old and long").begin();
    world.create("a~", 3).write(3, 0, b"new").rename("a~", 3, "a", RenameMode::Replace(Ino(2)));
    let changes = world.check("");
    assert_eq!(told(&changes), ["a modified [(0, 3)]"]);
    assert_eq!((changes[0].ino, changes[0].was), (Ino(3), Some(Ino(2))));
}

#[test]
fn a_file_may_become_a_directory() {
    let mut world = World::new();
    world.create("a", 2).write(2, 0, b"file").create("in", 3).begin();
    world.unlink("a", 2).mkdir("a", 4).rename_into("in", 3, (Ino(4), "in"), RenameMode::Free);
    assert_eq!(told(&world.check("")), ["a modified []", "a/in from in []"]);
}

#[test]
fn hard_links_are_one_file_under_each_name() {
    let mut world = World::new();
    world.create("a", 2).write(2, 0, b"x").link(2, "b").begin();
    world.link(2, "c").write(2, 1, b"y").unlink("a", 2);
    assert_eq!(told(&world.check("")), ["b modified [(1, 1)]", "c from a [(1, 1)]"]);
    // The second name goes within the window.
    world.begin().link(2, "d").unlink("d", 2).write(2, 0, b"z");
    assert_eq!(told(&world.check("again")), ["b modified [(0, 1)]", "c modified [(0, 1)]"]);
}

#[test]
fn what_was_cut_off_does_not_come_back_when_the_file_grows() {
    let mut world = World::new();
    world.create("a", 2).write(2, 0, b"0123456789").begin();
    world.truncate(2, 4).truncate(2, 8).write(2, 12, b"!");
    assert_eq!(told(&world.check("")), ["a modified [(4, 6), (12, 1)]"]);
    assert_eq!(world.naive.bytes(Ino(2)), b"0123\0\0\0\0\0\0\0\0!");
    // To nothing and written anew.
    world.begin().truncate(2, 0).write(2, 0, b"new");
    assert_eq!(told(&world.check("anew")), ["a modified [(0, 3)]"]);
}

#[test]
fn clones_take_what_the_source_held_then() {
    let mut world = World::new();
    world.create("a", 2).write(2, 0, b"before").create("b", 3).begin();
    let clone = |from: u64, from_offset, ino: u64, offset, len| Clone {
        from: Ino(from),
        from_offset,
        ino: Ino(ino),
        offset,
        len,
        size_after: offset + len,
        mode_after: None,
    };
    world.run(clone(2, 0, 3, 2, 6), None).write(2, 0, b"after!").create("c", 4).run(clone(3, 0, 4, 0, 8), None);
    assert_eq!(told(&world.check("")), ["a modified [(0, 6)]", "b modified [(2, 6)]", "c added [(0, 8)]"]);
    assert_eq!(world.naive.bytes(Ino(4)), b"\0\0before");
    // Within one file; then a hole is punched where the clone came from.
    world.begin().run(Clone { size_after: 14, ..clone(4, 2, 4, 8, 6) }, None);
    world.run(Fallocate { ino: Ino(4), mode: AllocateMode::PunchHole, offset: 2, len: 6, size_after: 14 }, None);
    assert_eq!(told(&world.check("within")), ["c modified [(2, 12)]"]);
    assert_eq!(world.naive.bytes(Ino(4)), b"\0\0\0\0\0\0\0\0before");
}

#[test]
fn random_windows_come_to_what_their_operations_come_to() {
    let histories = std::env::var("IZE_TEST_HISTORIES").ok().and_then(|n| n.parse().ok()).unwrap_or(40);
    let mut changes = 0;
    for seed in 0..histories {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut world = World::new();
        for window in 0..4 {
            world.begin();
            for _ in 0..rng.random_range(1..40) {
                let (op, bytes) = random_operation(&mut world.tree, &Arc::clone(&world.blobs), &mut rng, 8);
                world.run(op, bytes.as_deref());
            }
            changes += world.check(&format!("seed {seed}, window {window}")).len();
        }
    }
    assert!(changes > histories as usize * 10, "{changes}");
}

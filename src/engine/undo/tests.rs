//! Undo without a kernel, over a simulated disk: the file system inside does the steps. tests/undo.rs has the system calls.

#![cfg(feature = "pijul")]

use std::collections::BTreeMap;

use rand::prelude::*;

use super::line::Order;
use super::*;
use crate::engine::core::{Core, CoreOptions};
use crate::engine::group::GroupLimits;
use crate::engine::tests::{STORE, options};
use crate::error::Class;
use crate::fs::{RenameFlags, SetAttributes};
use crate::ids::Ino;
use crate::op::{Mark, Marker};
use crate::project::Layout;
use crate::storage::sim::SimDisk;
use crate::tree::path::{join, split};
use crate::tree::testing::all_inodes;
use crate::versions::node::FileKind;

struct World {
    disk: SimDisk,
    core: Core,
    caller: Caller,
}

type Look = BTreeMap<String, String>;

impl World {
    fn new() -> Self {
        let disk = SimDisk::new();
        let options = CoreOptions { limits: GroupLimits::default(), ..options(true, true) };
        let core = Core::open(disk.shared(), Layout::new("/p"), &options).unwrap();
        Self { disk, core, caller: Caller { pid: 0, uid: 0, gid: 0 } }
    }

    fn ino(&self, path: &str) -> Ino {
        self.core.fs.locked().tree().resolve(path.as_bytes()).unwrap().unwrap_or_else(|| panic!("no {path}"))
    }

    fn place<'p>(&self, path: &'p str) -> (Ino, &'p [u8]) {
        let (dir, name) = split(path.as_bytes());
        (self.ino(std::str::from_utf8(dir).unwrap()), name)
    }

    fn write(&self, path: &str, bytes: impl AsRef<[u8]>) -> &Self {
        let there = self.core.fs.locked().tree().resolve(path.as_bytes()).unwrap();
        let ino = there.unwrap_or_else(|| {
            let (dir, name) = self.place(path);
            self.core.fs.mknod(&self.caller, dir, name, libc::S_IFREG | 0o644, 0).unwrap().ino
        });
        self.core.fs.write(&self.caller, ino, 0, bytes.as_ref(), false).unwrap();
        let size = Some(bytes.as_ref().len() as u64);
        self.core.fs.setattr(&self.caller, ino, &SetAttributes { size, ..SetAttributes::default() }).unwrap();
        self
    }

    fn mkdir(&self, path: &str) -> &Self {
        let (dir, name) = self.place(path);
        self.core.fs.mkdir(&self.caller, dir, name, 0o755).unwrap();
        self
    }

    fn mv(&self, from: &str, to: &str) -> &Self {
        self.core.fs.rename(&self.caller, self.place(from), self.place(to), RenameFlags::default()).unwrap();
        self
    }

    fn rm(&self, path: &str) -> &Self {
        let (dir, name) = self.place(path);
        if self.core.fs.getattr(self.ino(path)).unwrap().kind == FileKind::Directory {
            self.core.fs.rmdir(&self.caller, dir, name).unwrap();
        } else {
            self.core.fs.unlink(&self.caller, dir, name).unwrap();
        }
        self
    }

    fn ln(&self, from: &str, to: &str) -> &Self {
        let (dir, name) = self.place(to);
        self.core.fs.link(&self.caller, self.ino(from), dir, name).unwrap();
        self
    }

    fn chmod(&self, path: &str, mode: u32) -> &Self {
        self.core.fs.setattr(&self.caller, self.ino(path), &SetAttributes { mode: Some(mode), ..SetAttributes::default() }).unwrap();
        self
    }

    fn mark(&self, message: Option<String>) {
        self.core.fs.locked().log(&self.caller, Mark { marker: Marker::Commit { message } }.into(), None, None).unwrap();
        self.core.replay(true).unwrap();
    }

    /// Makes a version; gives its id.
    fn commit(&self) -> String {
        self.mark(None);
        self.store().versions().last().unwrap().unwrap().id.to_string()
    }

    fn store(&self) -> Store {
        Store::open_on(self.disk.shared(), &Layout::new("/p"), STORE).unwrap()
    }

    fn prepare(&self, order: &Order) -> Result<Prepared> {
        prepare(&self.store(), order)
    }

    /// Does it; panics when something is in the way.
    fn run(&self, order: &Order) -> String {
        let mut prepared = self.prepare(order).unwrap();
        assert!(prepared.blocked.is_empty() && prepared.left.is_empty(), "{:?} {:?}", prepared.blocked, prepared.left);
        let done = self.carry_out(&mut prepared);
        if std::env::var_os("IZE_TEST_SHOW").is_some() || done.is_err() {
            eprintln!("{}", self.told(&prepared));
        }
        done.unwrap();
        prepared.version.id.to_string()
    }

    /// What was done, and what the change had done.
    fn told(&self, prepared: &Prepared) -> String {
        let blobs = std::sync::Arc::clone(self.core.fs.locked().tree().blobs());
        let (parent, root) = (prepared.version.parent_root, prepared.version.root);
        let diff = crate::versions::diff::diff(&*blobs, parent.as_ref(), &root).unwrap();
        format!("{:?} {:#?} of {:#?}", prepared.way, prepared.steps, diff)
    }

    fn carry_out(&self, prepared: &mut Prepared) -> Result<()> {
        rehearse(&mut prepared.to, &prepared.steps)?;
        prepared.do_steps(&mut Inside { fs: std::sync::Arc::clone(&self.core.fs), caller: self.caller })?;
        self.mark(Some(prepared.label()));
        Ok(())
    }

    fn undo(&self, id: &str) -> String {
        self.run(&Order::UndoChange(id.to_owned()))
    }

    /// What is in the way of an undo: path, why, ids of the later changes.
    fn blocked(&self, id: &str) -> Vec<(String, &'static str, Vec<String>)> {
        let before = self.look();
        let prepared = self.prepare(&Order::UndoChange(id.to_owned())).unwrap();
        assert!(prepared.is_empty() && !prepared.blocked.is_empty(), "nothing in the way");
        assert_eq!(self.look(), before);
        let ids = |b: &Blocked| b.later.iter().map(|v| v.id.to_string()).collect();
        prepared.blocked.iter().map(|b| (String::from_utf8(b.path.clone()).unwrap(), b.why, ids(b))).collect()
    }

    fn text(&self, path: &str) -> String {
        let ino = self.ino(path);
        String::from_utf8(self.core.fs.locked().tree().read_all(ino).unwrap()).unwrap()
    }

    /// All that can be seen but inode numbers, change and access times: kind, mode, owner, names of the same inode, mtime, bytes.
    fn look(&self) -> Look {
        let mut writer = self.core.fs.locked();
        let tree = writer.tree();
        let mut out = Look::new();
        let mut work = vec![(Vec::new(), Ino::ROOT)];
        while let Some((path, ino)) = work.pop() {
            let inode = tree.inode(ino).unwrap();
            let (kind, a, names) = (inode.kind, inode.attrs.clone(), inode.names.clone());
            let xattrs = inode.xattrs.clone();
            let bytes = if matches!(kind, FileKind::File | FileKind::Symlink) { tree.read_all(ino).unwrap() } else { Vec::new() };
            let mut same: Vec<Vec<u8>> = Vec::new();
            for name in names {
                same.push(join(&tree.path_of(name.dir).unwrap().unwrap(), &name.name));
            }
            same.sort();
            if kind == FileKind::Directory {
                for (name, child, _) in tree.children(ino).unwrap() {
                    work.push((join(&path, &name), child));
                }
            }
            let same: Vec<_> = same.iter().map(|p| p.escape_ascii().to_string()).collect();
            let hash = blake3::hash(&bytes);
            let text = format!("{kind:?} {:o} {}:{} {:?} {same:?} {xattrs:?} {hash}", a.mode, a.uid, a.gid, a.mtime);
            out.insert(path.escape_ascii().to_string(), text);
        }
        out
    }
}

fn lines(changed: &[(usize, &str)]) -> String {
    (0..20).map(|n| changed.iter().find(|c| c.0 == n).map_or_else(|| format!("{n}\n"), |c| format!("{}\n", c.1))).collect()
}

#[test]
fn undo_goes_back_one_by_one_and_redo_comes_forward() {
    let w = World::new();
    let states = [w.look()].into_iter().chain((1..5).map(|n| {
        w.write("a", format!("{n}\n")).mkdir(&format!("d{n}")).write(&format!("d{n}/f"), "x");
        w.commit();
        w.look()
    }));
    let states: Vec<Look> = states.collect();
    for state in states[1..4].iter().rev() {
        w.run(&Order::Undo);
        assert_eq!(w.look(), *state);
    }
    for state in &states[2..4] {
        w.run(&Order::Redo);
        assert_eq!(w.look(), *state);
    }
    // An edit ends the line; what is undone stays so, and can still be named.
    w.run(&Order::Undo);
    let edit = w.write("other", "y").commit();
    let error = w.prepare(&Order::Redo).unwrap_err();
    assert_eq!(error.class, Class::NotFound);
    assert!(error.hint.unwrap().contains(&edit));
    assert_eq!(w.run(&Order::Undo), edit);
    assert_eq!(w.run(&Order::Redo), edit);
    // An undo without an edit in between goes on where the last one stopped.
    w.run(&Order::Undo);
    w.run(&Order::Undo);
    assert_eq!(w.look(), states[1]);
}

#[test]
fn one_of_the_middle_goes_and_comes_again_and_the_later_ones_stay() {
    let w = World::new();
    w.write("f", lines(&[])).mkdir("d").write("d/g", "g\n");
    w.commit();
    let middle = w.write("f", lines(&[(3, "three")])).write("new", "n").chmod("d/g", 0o600).commit();
    w.write("f", lines(&[(3, "three"), (15, "fifteen")])).mv("d", "e").write("e/h", "h").commit();
    assert_eq!(w.undo(&middle), middle);
    assert_eq!(w.text("f"), lines(&[(15, "fifteen")]));
    let look = w.look();
    assert!(!look.contains_key("new") && look["e/g"].contains(" 644 ") && look.contains_key("e/h"), "{look:?}");
    // It is undone now: not again, and the label says so.
    assert_eq!(w.prepare(&Order::UndoChange(middle.clone())).unwrap_err().class, Class::Refused);
    let by = w.store().versions().last().unwrap().unwrap();
    assert_eq!(by.label, Some(format!("undo {middle}")));
    // To undo the undo is to redo.
    let prepared = w.prepare(&Order::UndoChange(by.id.to_string())).unwrap();
    assert_eq!((prepared.way, prepared.version.id.to_string()), (Way::Redo, middle.clone()));
    assert_eq!(w.run(&Order::Redo), middle);
    assert_eq!(w.text("f"), lines(&[(3, "three"), (15, "fifteen")]));
    assert!(w.look().contains_key("new") && w.look()["e/g"].contains(" 600 "));
    assert_eq!(w.prepare(&Order::RedoChange(middle)).unwrap_err().class, Class::Refused);
}

#[test]
fn what_depends_on_a_change_is_named_and_undone_first_is_the_way_out() {
    let w = World::new();
    w.write("f", lines(&[])).commit();
    let first = w.write("f", lines(&[(3, "three")])).commit();
    let beside = w.write("f", lines(&[(3, "three"), (15, "x")])).commit();
    let second = w.write("f", lines(&[(3, "THREE"), (15, "x")])).commit();
    w.chmod("f", 0o600).commit();
    let blocked = w.blocked(&first);
    assert_eq!(blocked, [("f".to_owned(), "later changes of the text were built on it", vec![second.clone()])]);
    w.undo(&second);
    w.undo(&first);
    assert_eq!(w.text("f"), lines(&[(15, "x")]));
    w.undo(&beside);
    assert_eq!(w.text("f"), lines(&[]));
}

#[test]
fn a_conflict_is_shown_and_nothing_is_done() {
    let w = World::new();
    w.write("f", "a\nb\nc\n").commit();
    let first = w.write("f", "a\nc\n").write("g", "g").commit();
    let second = w.write("f", "a\nbetween\nc\n").commit();
    let prepared = w.prepare(&Order::UndoChange(first.clone())).unwrap();
    let [blocked] = prepared.blocked.as_slice() else { panic!("{:?}", prepared.blocked) };
    let shown = String::from_utf8(blocked.conflict.clone().unwrap()).unwrap();
    assert!(shown.contains(">>>>>>>") && shown.contains("between"), "{shown}");
    assert_eq!(w.blocked(&first)[0].2, [second]);
}

#[test]
fn binary_and_large_files_go_back_only_where_nothing_touched_them_later() {
    let w = World::new();
    let large = |n: usize| format!("{}\n", "line\n".repeat(300_000 + n));
    w.write("bin", [0, 1, 2]).write("large", large(0)).commit();
    let one = w.write("bin", [0, 9, 2]).write("large", large(1)).commit();
    let two = w.write("bin", [0, 9, 3]).commit();
    w.chmod("large", 0o600).commit();
    assert_eq!(w.blocked(&one), [("bin".to_owned(), "it was changed later, and is no text that could be merged", vec![two.clone()])]);
    w.undo(&two);
    w.undo(&one);
    let ino = w.ino("bin");
    assert_eq!(w.core.fs.locked().tree().read_all(ino).unwrap(), [0, 1, 2]);
    assert_eq!(w.text("large"), large(0));
}

#[test]
fn what_was_changed_renamed_or_filled_later_stays_and_is_named() {
    let w = World::new();
    w.write("keep", "k").commit();
    let one = w.write("made", "m\n").mkdir("dir").chmod("keep", 0o600).commit();
    let edited = w.write("made", "m\nmore\n").commit();
    let filled = w.write("dir/x", "x").commit();
    let moded = w.chmod("keep", 0o640).commit();
    let blocked = w.blocked(&one);
    let found: BTreeMap<&str, &Vec<String>> = blocked.iter().map(|(path, _, ids)| (path.as_str(), ids)).collect();
    assert_eq!(found, BTreeMap::from([("made", &vec![edited.clone()]), ("dir/x", &vec![filled.clone()]), ("keep", &vec![moded.clone()])]));
    w.undo(&edited);
    w.undo(&filled);
    w.undo(&moded);
    let renamed = w.mv("made", "named").commit();
    assert_eq!(w.blocked(&one), [("made".to_owned(), "it was renamed later", vec![renamed.clone()])]);
    w.undo(&renamed);
    w.undo(&one);
    let look = w.look();
    assert!(look.keys().eq(["", "keep"]) && look["keep"].contains(" 644 "), "{look:?}");
}

#[test]
fn what_was_deleted_comes_back_as_it_was_unless_its_name_is_taken() {
    let w = World::new();
    w.mkdir("d").write("d/f", "f").write("d/g", "g").chmod("d/g", 0o4755).ln("d/f", "hard");
    let sym = w.place("link");
    w.core.fs.symlink(&w.caller, sym.0, sym.1, b"target").unwrap();
    w.core.fs.setxattr(&w.caller, w.ino("d/g"), b"user.k", b"v", 0).unwrap();
    w.commit();
    let before = w.look();
    let gone = w.rm("d/f").rm("d/g").rm("d").rm("link").commit();
    w.write("after", "a").commit();
    w.undo(&gone);
    let mut now = w.look();
    now.remove("after");
    // The root was touched later, so its time stays.
    let without_root = |mut look: Look| {
        look.remove("");
        look
    };
    assert_eq!(without_root(now), without_root(before));
    let gone = w.rm("link").commit();
    let taken = w.write("link", "else").commit();
    assert_eq!(w.blocked(&gone), [("link".to_owned(), "something else was put there later", vec![taken])]);
}

#[test]
fn renames_swaps_and_changes_of_kind_go_back() {
    let w = World::new();
    w.mkdir("a").write("a/x", "x").mkdir("b").write("b/y", "y").write("f", "f").write("g", "g").mkdir("sub").mkdir("sub/in");
    w.commit();
    let before = w.look();
    w.core.fs.rename(&w.caller, w.place("a"), w.place("b"), RenameFlags { exchange: true, no_replace: false }).unwrap();
    w.mv("f", "tmp").mv("g", "f").mv("tmp", "g").mv("sub/in", "out").mv("sub", "out/sub");
    w.mkdir("fresh").mv("a/y", "fresh/y2");
    w.commit();
    let after = w.look();
    w.run(&Order::Undo);
    assert_eq!(w.look(), before);
    w.run(&Order::Redo);
    assert_eq!(w.look(), after);
    w.run(&Order::Undo);
    // A file becomes a directory, a directory a link.
    w.rm("f").mkdir("f").write("f/in", "i").rm("b/y").rm("b");
    let link = w.place("b");
    w.core.fs.symlink(&w.caller, link.0, link.1, b"a").unwrap();
    w.commit();
    w.run(&Order::Undo);
    assert_eq!(w.look(), before);
}

#[test]
fn an_atomic_save_and_hard_links_go_back() {
    let w = World::new();
    w.write("f", "1\n2\n3\n").write("g", "g").ln("g", "h");
    w.commit();
    let before = w.look();
    w.write("f.tmp", "1\ntwo\n3\n").mv("f.tmp", "f").write("h.tmp", "other").mv("h.tmp", "h");
    w.commit();
    w.run(&Order::Undo);
    assert_eq!(w.look(), before);
    w.ln("f", "f2").rm("h").commit();
    w.run(&Order::Undo);
    assert_eq!(w.look(), before);
}

#[test]
fn who_changes_a_file_between_plan_and_first_step_is_not_overwritten() {
    let w = World::new();
    w.write("f", "1").commit();
    w.write("f", "2").write("g", "g").commit();
    for path in ["f", "g"] {
        let mut prepared = w.prepare(&Order::Undo).unwrap();
        w.write(path, "somebody's");
        let before = w.look();
        let error = w.carry_out(&mut prepared).unwrap_err();
        assert_eq!(error.class, Class::Refused);
        assert!(error.message.contains(&format!("`{path}`")), "{error}");
        assert_eq!(w.look(), before);
        w.commit();
        w.run(&Order::Undo);
    }
}

/// Random histories of one session: as many undos as there are changes go through every state in turn, as many redos come forward.
#[test]
fn random_histories_go_back_and_forth_state_by_state() {
    let first = std::env::var("IZE_TEST_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or(0);
    for seed in first..first + rounds(40) {
        let mut rng = StdRng::seed_from_u64(seed);
        let w = World::new();
        w.write("start", lines(&[])).mkdir("d").commit();
        let mut states = Vec::new();
        for _ in 0..6 {
            let before = w.look();
            for _ in 0..rng.random_range(1..6) {
                random_step(&w, &mut rng);
            }
            w.mark(None);
            let last = w.store().versions().last().unwrap().unwrap();
            // A version of nothing that can be seen is none.
            if w.look() != before && !last.paths.is_empty() {
                states.push((last.id.to_string(), before, w.look()));
            }
        }
        for (id, before, _) in states.iter().rev() {
            assert_eq!(w.run(&Order::Undo), *id, "seed {seed}");
            assert_same(&w.look(), before, seed);
        }
        for (id, _, after) in &states {
            assert_eq!(w.run(&Order::Redo), *id, "seed {seed}");
            assert_same(&w.look(), after, seed);
        }
    }
}

/// Says only what differs.
#[track_caller]
fn assert_same(is: &Look, wanted: &Look, seed: u64) {
    let differing =
        |a: &Look, b: &Look| -> Vec<String> { a.iter().filter(|(p, t)| b.get(*p) != Some(t)).map(|(p, t)| format!("{p}: {t}")).collect() };
    assert!(is == wanted, "seed {seed}: {:#?} instead of {:#?}", differing(is, wanted), differing(wanted, is));
}

/// Each change in a directory of its own: whichever goes, the directories of all others stay as they are.
#[test]
fn any_change_goes_without_a_trace_where_nobody_else_was() {
    for seed in 0..rounds(20) {
        let mut rng = StdRng::seed_from_u64(1000 + seed);
        let w = World::new();
        for n in 0..5 {
            w.mkdir(&format!("p{n}")).write(&format!("p{n}/start"), lines(&[])).mkdir(&format!("p{n}/d"));
        }
        w.commit();
        let mut history = Vec::new();
        for n in 0..5 {
            let before = w.look();
            for _ in 0..rng.random_range(1..8) {
                random_step_in(&w, &mut rng, &format!("p{n}/"));
            }
            w.mark(None);
            let id = w.store().versions().last().unwrap().unwrap().id.to_string();
            if w.look() != before {
                history.push((n, id, before));
            }
        }
        history.shuffle(&mut rng);
        for (n, id, before) in history {
            let was = w.look();
            w.undo(&id);
            let within = |look: &Look, yes: bool| -> Look {
                let (own, below) = (format!("p{n}"), format!("p{n}/"));
                look.iter().filter(|(p, _)| (**p == own || p.starts_with(&below)) == yes).map(|(p, t)| (p.clone(), t.clone())).collect()
            };
            assert_same(&within(&w.look(), true), &within(&before, true), seed);
            assert_same(&within(&w.look(), false), &within(&was, false), seed);
        }
    }
}

fn rounds(default: u64) -> u64 {
    std::env::var("IZE_TEST_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

fn random_step(w: &World, rng: &mut StdRng) {
    random_step_in(w, rng, "");
}

fn random_step_in(w: &World, rng: &mut StdRng, prefix: &str) {
    let all: Vec<(String, FileKind)> = {
        let mut writer = w.core.fs.locked();
        let inodes = all_inodes(writer.tree());
        let paths = inodes.into_iter().filter_map(|(ino, kind)| Some((writer.tree().path_of(ino).unwrap()?, kind)));
        let paths = paths.map(|(path, kind)| (String::from_utf8(path).unwrap(), kind));
        paths.filter(|(path, _)| path.starts_with(prefix) && path.len() > prefix.len()).collect()
    };
    let pick = |kind: Option<FileKind>, rng: &mut StdRng| {
        all.iter().filter(|(_, k)| kind.is_none_or(|kind| *k == kind)).map(|(p, _)| p.clone()).choose(rng)
    };
    let dir = pick(Some(FileKind::Directory), rng).filter(|_| rng.random_bool(0.6));
    let name = format!("n{}", rng.random_range(0..6));
    let fresh = dir.map_or_else(|| format!("{prefix}{name}"), |dir| format!("{dir}/{name}"));
    let (at, fs) = (w.place(&fresh), &w.core.fs);
    let free = fs.locked().tree().resolve(fresh.as_bytes()).unwrap().is_none();
    match rng.random_range(0..12) {
        0..=2 if free => drop(w.write(&fresh, lines(&[(rng.random_range(0..20), "fresh")]))),
        3 if free => drop(w.mkdir(&fresh)),
        4 if free => drop(fs.symlink(&w.caller, at.0, at.1, fresh.as_bytes())),
        5 | 6 => {
            if let Some(file) = pick(Some(FileKind::File), rng) {
                let text = w.text(&file).replace(&format!("{}\n", rng.random_range(0..20)), "changed\n");
                w.write(&file, text);
            }
        }
        7 | 8 => {
            if let Some(path) = pick(None, rng) {
                let _ =
                    fs.rename(&w.caller, w.place(&path), at, RenameFlags { no_replace: false, exchange: !free && rng.random_bool(0.5) });
            }
        }
        9 => {
            if let Some(path) = pick(None, rng) {
                let place = w.place(&path);
                let _ = fs.unlink(&w.caller, place.0, place.1).or_else(|_| fs.rmdir(&w.caller, place.0, place.1));
            }
        }
        10 => {
            // The kernel changes no link's mode.
            let kind = if rng.random_bool(0.5) { FileKind::File } else { FileKind::Directory };
            if let Some(path) = pick(Some(kind), rng) {
                w.chmod(&path, rng.random_range(0..0o777));
            }
        }
        _ => {
            if let Some(path) = pick(Some(FileKind::File), rng).filter(|_| free) {
                let _ = fs.link(&w.caller, w.ino(&path), at.0, at.1);
            }
        }
    }
}

//! Purges of random histories on the simulated disk, and a crash at every call of one.

use std::collections::{BTreeMap, BTreeSet};

use rand::prelude::*;

use super::logged::Contents;
use super::select::LISTED;
use super::*;
use crate::blobs::{BlobState, OpenMode};
use crate::engine::states::Store;
use crate::engine::tests::{Dump, STORE, Seen, now, open, step};
use crate::ids::Ino;
use crate::storage::sim::SimDisk;
use crate::tree::BlobRead;
use crate::tree::testing::{all_inodes, dump};
use crate::versions::check::log::check as check_versions;
use crate::versions::check::{Checker, Whose};
use crate::versions::checkpoint::Checkpoint;
use crate::versions::inode_table;
use crate::versions::node::{Content, DirNode, FileKind, InodeEntry, State};
use crate::versions::version_log::{Action, Version};
use crate::wal::prune::Limits;

/// Every version's state by its change id, and the newest one.
fn states(disk: &SimDisk) -> BTreeMap<String, Dump> {
    let store = Store::open_on(disk.shared(), &Layout::new("/p"), STORE).unwrap();
    let mut all: BTreeMap<String, Dump> = BTreeMap::new();
    for version in store.versions().iter() {
        let version = version.unwrap();
        all.insert(version.id.to_string(), dump(&mut store.state_of(&version).unwrap()));
    }
    all.insert("newest".to_owned(), dump(&mut store.state_at(crate::ids::Lsn(u64::MAX)).unwrap()));
    all
}

fn ino_of(text: &str) -> Ino {
    text.split(' ').next().unwrap().parse().map(Ino).unwrap()
}

/// A state without the inodes and what was below them; link counts of directories are left to the check.
fn without(state: &Dump, inodes: &BTreeSet<Ino>) -> Dump {
    let bare = |text: &str| match text.contains(" Directory ") {
        true => text.split(" } ").next().unwrap().to_owned(),
        false => text.to_owned(),
    };
    let goes = |path: &[u8]| state.get(path).is_some_and(|text| inodes.contains(&ino_of(text)));
    let stays = |path: &&[u8]| {
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(end, _)| end).chain([path.len()]);
        !ends.into_iter().any(|end| goes(&path[..end]))
    };
    state.iter().filter(|(path, _)| stays(&path.as_slice())).map(|(path, text)| (path.clone(), bare(text))).collect()
}

/// Everything that can be checked of states and versions without a word of what they should be.
fn assert_sound(disk: &SimDisk) {
    let store = Store::open_on(disk.shared(), &Layout::new("/p"), STORE).unwrap();
    let blobs = store.blobs();
    let length = |id: &BlobId| Ok(blobs.contains(id).unwrap().or_else(|| blobs.purged(id).map(|(_, len)| u64::from(len))));
    let reader: &dyn BlobRead = &**blobs;
    let mut checker = Checker::new(reader, &length, Some(store.checkpoint().next_ino));
    for version in store.versions().iter() {
        let version = version.unwrap();
        checker.state(Whose::Version(version.seq), &version.root);
    }
    checker.state(Whose::Newest, &store.checkpoint().root.unwrap());
    assert_eq!(checker.finish().findings, []);
    let layout = Layout::new("/p");
    let found = check_versions(&disk.shared(), layout.versions(), STORE, Some(store.checkpoint().version)).unwrap();
    assert_eq!(found.findings, []);
}

/// A store with a history, closed.
fn history(seed: u64, steps: u32) -> (SimDisk, Core, Seen) {
    let disk = SimDisk::new();
    let core = open(&disk, false, true).unwrap();
    let mut rng = StdRng::seed_from_u64(seed);
    let mut seen = Seen { states: vec![now(&core)], ..Seen::default() };
    for _ in 0..steps {
        step(&core, &mut rng, &mut seen).unwrap();
    }
    core.close().unwrap();
    (disk, core, seen)
}

/// The same, in which things are moved from directory to directory, too.
fn history_of_moves(seed: u64, steps: u32) -> (SimDisk, Core) {
    let (disk, core, mut seen) = history(seed, 20);
    let mut rng = StdRng::seed_from_u64(seed + 1000);
    for _ in 0..steps {
        step(&core, &mut rng, &mut seen).unwrap();
        let (from, to) = {
            let mut writer = core.fs.locked();
            let all = all_inodes(writer.tree());
            let to = all.iter().filter(|(_, kind)| *kind == FileKind::Directory).map(|(ino, _)| *ino).choose(&mut rng);
            let ino = all.iter().map(|(ino, _)| *ino).filter(|ino| *ino != Ino::ROOT).choose(&mut rng);
            let names = ino.and_then(|ino| writer.tree().inode(ino).ok()).map(|inode| inode.names.clone());
            (names.and_then(|names| names.first().cloned()), to)
        };
        if let (Some(from), Some(to)) = (from, to.filter(|_| rng.random_bool(0.4))) {
            let name = format!("n{}", rng.random_range(0..8)).into_bytes();
            // Into itself, over a directory that is not empty: no.
            let _ = core.fs.rename(&Caller::default(), (from.dir, &from.name), (to, &name), crate::fs::RenameFlags::default());
        }
    }
    core.close().unwrap();
    (disk, core)
}

#[test]
fn every_state_is_what_it_was_without_what_was_purged() {
    let (mut purged, mut left, mut asked) = (0, 0, 0);
    for seed in 0..24 {
        let (disk, core) = history_of_moves(seed, 120);
        let before = states(&disk);
        let mut rng = StdRng::seed_from_u64(seed);
        let paths: BTreeSet<Vec<u8>> = before.values().flat_map(|d| d.keys()).filter(|p| !p.is_empty()).cloned().collect();
        let path = paths.iter().choose(&mut rng).unwrap().clone();
        let keep_current = rng.random_bool(0.3);
        let request = Request { paths: vec![path.clone()], keep_current, leave_others: true, ..Request::default() };
        let leaving = Request { leave_moved: true, ..request.clone() };
        let (intent, preview, refusal) = plan(&core, &request).unwrap();
        // What was moved out is asked for.
        assert_eq!(refusal.is_some_and(|e| e.class == Class::Refused), preview.moved.count > 0);
        asked += preview.moved.count;
        let (intent, preview) = if seed % 2 == 0 {
            let (less, preview, refusal) = plan(&core, &leaving).unwrap();
            assert!(refusal.is_none() && less.inodes.iter().all(|ino| intent.inodes.contains(ino)));
            left += intent.inodes.len() - less.inodes.len();
            (less, preview)
        } else {
            assert!(plan(&core, &Request { moved_out: true, ..request }).unwrap().2.is_none());
            (intent, preview)
        };
        assert!(preview.paths.listed.len() <= LISTED && !preview.paths.listed.is_empty());
        let inodes: BTreeSet<Ino> = intent.inodes.iter().copied().collect();
        let keep = core.history().versions.last().unwrap().unwrap().id.to_string();
        begin(core, &intent).unwrap();
        finish(&disk.shared(), &Layout::new("/p"), STORE, true).unwrap().unwrap();
        let after = states(&disk);
        assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
        let (mut touched, nothing) = (0, BTreeSet::new());
        for (id, was) in &before {
            let kept = keep_current && (*id == keep || id == "newest");
            let gone = if kept { &nothing } else { &inodes };
            let expected = without(was, gone);
            touched += u64::from(id != "newest" && expected.len() != was.len());
            assert_eq!(without(&after[id], &nothing), expected, "seed {seed}, {id}, {}", path.escape_ascii());
            assert!(kept || !after[id].contains_key(&path), "seed {seed}: it is still there in {id}");
        }
        assert!(preview.versions >= touched, "seed {seed}: {} and {touched}", preview.versions);
        assert_sound(&disk);
        purged += touched;
        // It goes on.
        let core = open(&disk, true, true).unwrap();
        let mut seen = Seen { states: vec![now(&core)], ..Seen::default() };
        (0..40).for_each(|_| step(&core, &mut rng, &mut seen).unwrap());
        core.close().unwrap();
        assert_sound(&disk);
    }
    assert!(purged > 60 && left > 3 && asked > 6, "too little to say anything: {purged}, {left}, {asked}");
}

/// Inodes that stood at a path in one of these states, or in a directory that did, or in one that was in such a one.
fn stood_at(seen: &Seen, path: &[u8]) -> BTreeSet<Ino> {
    let mut found = BTreeSet::new();
    loop {
        let before = found.len();
        for (_, state) in &seen.states {
            for (at, text) in state.iter().filter(|(at, _)| !at.is_empty()) {
                let above = state.get(crate::tree::path::split(at).0).map(|dir| ino_of(dir));
                if at == path || above.is_some_and(|dir| found.contains(&dir)) {
                    found.insert(ino_of(text));
                }
            }
        }
        if found.len() == before {
            return found;
        }
    }
}

/// The log tells of names that no version has; who never stood at a path or below it keeps what it is.
#[test]
fn nothing_goes_that_never_stood_where_it_was_named() {
    let (mut named, mut logged, mut more) = (0, 0, 0);
    for seed in 0..60 {
        let (_, core, seen) = history(seed, 60);
        let nothing = BTreeSet::new();
        let roots: Vec<BlobId> = core.history().versions.iter().map(|v| v.unwrap().root).collect();
        let nameless = select::nameless(&*core.blobs, &roots).unwrap();
        let paths: BTreeSet<&Vec<u8>> = seen.states.iter().flat_map(|(_, state)| state.keys()).filter(|path| !path.is_empty()).collect();
        for path in paths {
            let stood = stood_at(&seen, path);
            let request = Request { paths: vec![path.clone()], ..Request::default() };
            let (intent, preview, _) = match plan(&core, &request) {
                Ok(plan) => plan,
                Err(e) => {
                    assert_eq!(e.class, Class::NotFound, "seed {seed}, {}: {e}", path.escape_ascii());
                    continue;
                }
            };
            assert!(
                intent.inodes.iter().all(|ino| stood.contains(ino) || nameless.contains(ino)),
                "seed {seed}, {}: {:?} of {stood:?}",
                path.escape_ascii(),
                intent.inodes
            );
            let told = Told { inodes: &nothing, contents: &Contents::new() };
            let states = select::by_paths(&*core.blobs, &roots, None, &request.paths, told, false).unwrap();
            assert!(states.inodes.iter().all(|ino| intent.inodes.contains(ino)), "seed {seed}, {}", path.escape_ascii());
            named += 1;
            logged += preview.logged.len();
            more += intent.inodes.iter().filter(|ino| !states.inodes.contains(ino) && !nameless.contains(ino)).count();
        }
    }
    assert!(named > 100 && logged > 10 && more > 10, "too little to say anything: {named}, {logged}, {more}");
}

fn commit(core: &Core) {
    core.fs.locked().log(&Caller::default(), Mark { marker: Marker::Commit { message: None } }.into(), None, None).unwrap();
    core.replay(true).unwrap();
}

/// A store with a version in which a directory `dir` holds one file. Gives the directory's inode, too.
fn one_file(name: &[u8], bytes: &[u8]) -> (SimDisk, Core, Caller, Ino) {
    let disk = SimDisk::new();
    let core = open(&disk, false, true).unwrap();
    let caller = Caller { pid: 0, uid: 1, gid: 1 };
    let dir = core.fs.mkdir(&caller, Ino::ROOT, b"dir", 0o755).unwrap().ino;
    let file = core.fs.create(&caller, dir, name, 0o644, true).unwrap().ino;
    core.fs.write(&caller, file, 0, bytes, false).unwrap();
    commit(&core);
    (disk, core, caller, dir)
}

/// A file may hold the very bytes of a directory's blob, of a state's: with them the state would go.
#[test]
fn bytes_that_states_are_made_of_never_go() {
    let (disk, core, caller, _) = one_file(b"file", b"some bytes");
    let fs = &core.fs;
    let root = core.history().checkpoint.root.unwrap();
    let Content::Directory(top) = crate::tree::load_state(&*core.blobs, &root).unwrap().root.content else { panic!("an empty state") };
    let (id, other) = (top, BlobId::of(b"some bytes"));
    for name in ["a", "b"] {
        let copy = fs.create(&caller, Ino::ROOT, name.as_bytes(), 0o644, true).unwrap().ino;
        fs.write(&caller, copy, 0, &core.blobs.get(&id).unwrap(), false).unwrap();
    }
    commit(&core);
    core.close().unwrap();
    let before = states(&disk);
    for request in [
        Request { blobs: vec![other, id], ..Request::default() },
        Request { paths: vec![b"a".to_vec()], everywhere: true, ..Request::default() },
    ] {
        let (intent, _, refusal) = plan(&core, &request).unwrap();
        let refusal = refusal.unwrap();
        assert!(refusal.class == Class::Refused && refusal.to_string().contains(&id.to_string()), "{refusal}");
        assert!(intent.blobs.iter().any(|(blob, _)| *blob == id));
    }
    // An older ize may have begun it all the same.
    let (intent, ..) = plan(&core, &Request { blobs: vec![other, id], ..Request::default() }).unwrap();
    begin(core, &intent).unwrap();
    finish(&disk.shared(), &Layout::new("/p"), STORE, true).unwrap().unwrap();
    let (blobs, _) = Blobs::open(disk.shared(), Layout::new("/p").blobs(), STORE, OpenMode::ReadOnly).unwrap();
    assert_eq!((blobs.verify(&id), blobs.verify(&other)), (BlobState::Sound, BlobState::Missing));
    let after = states(&disk);
    let is_purged = |text: &String| text.ends_with(&format!("purged {other}"));
    for (id, was) in &before {
        let same = after[id].iter().all(|(path, text)| was.get(path) == Some(text) || (path == b"dir/file" && is_purged(text)));
        assert!(same && was.len() == after[id].len(), "{id}");
    }
    assert_sound(&disk);
    // Nothing of this kind stands in the way of a path alone.
    let core = open(&disk, true, true).unwrap();
    let (.., refusal) = plan(&core, &Request { paths: vec![b"a".to_vec(), b"b".to_vec()], ..Request::default() }).unwrap();
    assert!(refusal.is_none());
}

/// Makes the newest state, and the last version, of a closed store another one.
fn change_newest(disk: &SimDisk, core: Core, change: &dyn Fn(&Blobs, &mut State)) {
    let mut history = core.history();
    let root = history.checkpoint.root.unwrap();
    let mut state = crate::tree::load_state(&*core.blobs, &root).unwrap();
    change(&core.blobs, &mut state);
    let new = crate::versions::commit::store(&*core.blobs, &state).unwrap();
    core.blobs.sync().unwrap();
    let action = |v: &Version| if v.root == root { Action::Change(Version { root: new, ..v.clone() }) } else { Action::Keep };
    history.versions.rewrite(&mut |version| Ok(action(version))).unwrap();
    let checkpoint = Checkpoint { root: Some(new), ..history.checkpoint.clone() };
    crate::versions::checkpoint::replace(&*disk.shared(), &Layout::new("/p").checkpoint(), &checkpoint).unwrap();
}

/// A store whose last version was made by an older ize: it has a directory without a name that still says what was in it once, a file. Gives
/// the file's only piece, too.
fn with_leftover() -> (SimDisk, BlobId) {
    let (disk, core, caller, dir) = one_file(b"secret", SECRET);
    let fs = &core.fs;
    let was = crate::tree::load_state(&*core.blobs, &core.history().checkpoint.root.unwrap()).unwrap();
    let Content::Directory(top) = was.root.content else { panic!("an empty state") };
    let DirNode::Entries(entries) = crate::tree::decode_blob(&*core.blobs, &top, "directory").unwrap() else { panic!("pages") };
    let mut held = *entries[0].node.clone().unwrap();
    held.nlink = 0;
    fs.unlink(&caller, dir, b"secret").unwrap();
    fs.rmdir(&caller, Ino::ROOT, b"dir").unwrap();
    fs.create(&caller, Ino::ROOT, b"other", 0o644, true).unwrap();
    core.close().unwrap();
    let left = BTreeMap::from([(dir, Some(InodeEntry::Node(Box::new(held), Vec::new())))]);
    change_newest(&disk, core, &|blobs, state| {
        (state.inodes, state.inodes_height) = inode_table::update(blobs, state.inodes, state.inodes_height, &left).unwrap();
    });
    (disk, BlobId::of(SECRET))
}

/// An older ize kept, with a directory that had no name any more, what was in it: no purge found that, and the bytes stayed.
#[test]
fn what_an_older_ize_left_in_directories_without_a_name_goes_with_every_purge() {
    let by_path = |path: &[u8]| Request { paths: vec![path.to_vec()], ..Request::default() };
    let keep_current = Request { keep_current: true, ..by_path(b"dir/secret") };
    let requests =
        [by_path(b"dir/secret"), keep_current, by_path(b"dir"), Request { blobs: vec![BlobId::of(SECRET)], ..Request::default() }];
    for request in requests {
        let (disk, chunk) = with_leftover();
        let core = open(&disk, true, true).unwrap();
        core.close().unwrap();
        let (intent, preview, refusal) = plan(&core, &request).unwrap();
        assert!(refusal.is_none() && preview.versions > 0, "{request:?}: {preview:?}");
        begin(core, &intent).unwrap();
        finish(&disk.shared(), &Layout::new("/p"), STORE, true).unwrap().unwrap();
        let (blobs, _) = Blobs::open(disk.shared(), Layout::new("/p").blobs(), STORE, OpenMode::ReadOnly).unwrap();
        assert_eq!(blobs.verify(&chunk), BlobState::Missing, "{request:?}");
        assert_sound(&disk);
        let store = Store::open_on(disk.shared(), &Layout::new("/p"), STORE).unwrap();
        for version in store.versions().iter() {
            let state = crate::tree::load_state(&**store.blobs(), &version.unwrap().root).unwrap();
            inode_table::walk(&**store.blobs(), &state, &mut |ino, entry| {
                let left = matches!(entry, InodeEntry::Node(node, _) if matches!(node.content, Content::Directory(_)));
                assert!(!left, "{request:?}: {ino}");
            })
            .unwrap();
        }
    }
    // Where nothing is named it goes all the same; the version keeps what it has a name for.
    let (disk, chunk) = with_leftover();
    let core = open(&disk, true, true).unwrap();
    core.close().unwrap();
    let before = states(&disk);
    let (intent, ..) = plan(&core, &Request::default()).unwrap();
    begin(core, &intent).unwrap();
    finish(&disk.shared(), &Layout::new("/p"), STORE, true).unwrap().unwrap();
    let (blobs, _) = Blobs::open(disk.shared(), Layout::new("/p").blobs(), STORE, OpenMode::ReadOnly).unwrap();
    assert_eq!(blobs.verify(&chunk), BlobState::Sound);
    assert!(before == states(&disk));
    assert_sound(&disk);
}

/// What the sweep cannot read keeps a purge from beginning, not from ending: then nothing could open the project any more.
#[test]
fn a_purge_that_could_not_end_does_not_begin() {
    let disk = SimDisk::new();
    let core = open(&disk, false, true).unwrap();
    let caller = Caller { pid: 0, uid: 1, gid: 1 };
    for name in ["empty", "large"] {
        core.fs.create(&caller, Ino::ROOT, name.as_bytes(), 0o644, true).unwrap();
    }
    core.close().unwrap();
    // Of a large file the list of its pieces is lost.
    let list = BlobId([9; 32]);
    change_newest(&disk, core, &|blobs, state| {
        let Content::Directory(top) = state.root.content else { panic!("an empty state") };
        let DirNode::Entries(mut entries) = crate::tree::decode_blob(blobs, &top, "directory").unwrap() else { panic!("pages") };
        let node = entries[1].node.as_mut().unwrap();
        (node.content, node.size, node.allocated) = (Content::PieceList(list), 9, 9);
        state.root.content = Content::Directory(crate::versions::commit::store(blobs, &DirNode::Entries(entries)).unwrap());
    });
    let open = || {
        let core = open(&disk, true, true).unwrap();
        core.close().unwrap();
        core
    };
    let garbage = Request::default();
    for request in [&Request { paths: vec![b"empty".to_vec()], ..Request::default() }, &garbage] {
        let e = plan(&open(), request).unwrap_err();
        assert!(e.class == Class::Damage && e.to_string().contains(&list.to_string()) && e.hint.is_some(), "{e}");
    }
    // It was damaged later: that is said, with what is to be done.
    begin(open(), &Intent::default()).unwrap();
    let e = finish(&disk.shared(), &Layout::new("/p"), STORE, true).unwrap_err();
    assert!(e.class == Class::Damage && e.to_string().contains(&list.to_string()), "{e}");
    assert!(e.hint.is_some_and(|hint| hint.contains("/p/meta/purge")));
}

/// A prune may take the first records of a version: what they did to names is in no state that comes before the others.
#[test]
fn names_that_a_prune_took_out_of_the_middle_of_a_version_are_said_to_be_unknown() {
    for pruned in [false, true] {
        let disk = SimDisk::new();
        let core = open(&disk, false, true).unwrap();
        let caller = Caller { pid: 0, uid: 1, gid: 1 };
        let fs = &core.fs;
        let dir = fs.mkdir(&caller, Ino::ROOT, b"old", 0o755).unwrap().ino;
        let file = fs.create(&caller, Ino::ROOT, b"file", 0o644, true).unwrap().ino;
        commit(&core);
        fs.rename(&caller, (Ino::ROOT, b"old"), (Ino::ROOT, b"keys"), crate::fs::RenameFlags::default()).unwrap();
        (0..60).for_each(|n| _ = fs.write(&caller, file, 0, &[n; 9000], false).unwrap());
        let secret = fs.create(&caller, dir, b"secret", 0o644, true).unwrap().ino;
        fs.write(&caller, secret, 0, SECRET, false).unwrap();
        fs.unlink(&caller, dir, b"secret").unwrap();
        commit(&core);
        assert_eq!(core.history().versions.len(), 2);
        if pruned {
            let segments = core.prune(Limits { max_size: Some(170 << 10), ..Limits::default() }, false).unwrap().segments;
            let gone = segments.iter().filter(|s| s.stays.is_none()).count();
            assert!(gone > 0 && gone < segments.len(), "{segments:?}");
        }
        core.close().unwrap();
        let named = |path: &[u8]| plan(&core, &Request { paths: vec![path.to_vec()], ..Request::default() });
        match named(b"keys/secret") {
            Ok((_, preview, _)) => assert!(!pruned && !preview.names_unknown && preview.logged.len() == 1, "{preview:?}"),
            Err(e) => assert!(pruned && e.class == Class::NotFound && e.to_string().contains("does not go back"), "{e}"),
        }
        match named(b"old/secret") {
            Ok((_, preview, _)) => assert!(pruned && preview.names_unknown, "{preview:?}"),
            Err(e) => assert!(!pruned && e.class == Class::NotFound && !e.to_string().contains("does not go back"), "{e}"),
        }
    }
}

/// Where a segment ends may be known to nobody, its footer being damaged and the next one missing. It is below the checkpoint, and goes.
#[test]
fn segments_whose_end_is_not_known_go_where_they_are_below_the_checkpoint() {
    let disk = SimDisk::new();
    let core = open(&disk, false, true).unwrap();
    let caller = Caller { pid: 0, uid: 1, gid: 1 };
    let file = core.fs.create(&caller, Ino::ROOT, b"file", 0o644, true).unwrap().ino;
    (0..60).for_each(|n| _ = core.fs.write(&caller, file, 0, &[n; 9000], false).unwrap());
    core.close().unwrap();
    drop(core);
    let layout = Layout::new("/p");
    let mut segments = disk.shared().list(&layout.wal()).unwrap();
    segments.sort();
    segments.retain(|name| name.as_encoded_bytes().ends_with(b".seg"));
    assert!(segments.len() > 3, "{segments:?}");
    let of = |n: usize| disk.open(&layout.wal().join(&segments[n])).unwrap();
    let end = of(0).len().unwrap();
    of(0).write_at(&[&[0; 600]], end - 600).unwrap();
    disk.remove(&layout.wal().join(&segments[1])).unwrap();
    let core = open(&disk, true, true).unwrap();
    core.close().unwrap();
    let (intent, preview, _) = plan(&core, &Request { paths: vec![b"file".to_vec()], ..Request::default() }).unwrap();
    assert!(preview.log_damaged);
    begin(core, &intent).unwrap();
    let done = finish(&disk.shared(), &layout, STORE, true).unwrap().unwrap();
    assert!(done.segments >= segments.len() as u64 - 1, "{done:?}");
    assert_sound(&disk);
    let core = open(&disk, true, true).unwrap();
    assert_eq!(core.recovery.findings, [] as [String; 0]);
    core.close().unwrap();
}

const SECRET: &[u8] = b"a secret that must go";

/// A purge of a small history, with a crash at every call of it. With `names_go` it is that of the request, and the file goes with its names;
/// else that of all its pieces: it stays, and they go.
fn crash_everywhere(request: &Request, names_go: bool) {
    let secret = [SECRET, b", 0123456789 "].concat().repeat(3000);
    let disk = SimDisk::new();
    let core = open(&disk, false, true).unwrap();
    let caller = Caller { pid: 0, uid: 1, gid: 1 };
    let fs = &core.fs;
    let dir = fs.mkdir(&caller, Ino::ROOT, b"dir", 0o755).unwrap().ino;
    let file = fs.create(&caller, dir, b"secret", 0o644, true).unwrap().ino;
    let other = fs.create(&caller, dir, b"other", 0o644, true).unwrap().ino;
    fs.write(&caller, file, 0, &secret, false).unwrap();
    fs.write(&caller, other, 0, b"harmless", false).unwrap();
    commit(&core);
    fs.rename(&caller, (dir, b"secret"), (Ino::ROOT, b"moved"), crate::fs::RenameFlags::default()).unwrap();
    fs.link(&caller, other, Ino::ROOT, b"link").unwrap();
    commit(&core);
    fs.write(&caller, file, 50_000, b"more", false).unwrap();
    core.close().unwrap();
    let layout = Layout::new("/p");
    let before = states(&disk);
    let chunks: Vec<BlobId> = {
        let roots: Vec<BlobId> = core.history().versions.iter().map(|v| v.unwrap().root).collect();
        let moved = [b"moved".to_vec()];
        let told = Told { inodes: &BTreeSet::new(), contents: &Contents::new() };
        let found = select::by_paths(&*core.blobs, &roots, None, &moved, told, false).unwrap();
        found.chunks.into_keys().collect()
    };
    let request = if names_go { request.clone() } else { Request { blobs: chunks.clone(), ..request.clone() } };
    let (intent, _, refusal) = plan(&core, &request).unwrap();
    assert!(refusal.is_none());
    assert!(!chunks.is_empty());
    let ready = disk.kill();
    begin(core, &intent).unwrap();
    let begun = disk.kill();
    let whole = begun.kill();
    let start = whole.calls();
    finish(&whole.shared(), &layout, STORE, true).unwrap().unwrap();
    let calls = whole.calls() - start;
    let after = states(&whole);
    assert_ne!(before, after);
    let settled = |disk: &SimDisk, purged: bool, place: &str| {
        let finished = finish(&disk.shared(), &layout, STORE, false).unwrap_or_else(|e| panic!("{place}: {e}"));
        if finished.is_some() {
            // What it said to have ended stays ended when power is lost, also where an earlier process did some of it.
            let lost = disk.crash(7);
            assert!(finish(&lost.shared(), &layout, STORE, false).unwrap().is_none(), "{place}");
            assert!(states(&lost) == after, "{place}: not durable");
            assert_sound(&lost);
        }
        let core = open(disk, false, true).unwrap_or_else(|e| panic!("{place}: {e}"));
        core.close().unwrap();
        drop(core);
        let now = states(disk);
        assert!(now == after || (!purged && finished.is_none() && now == before), "{place}: neither untouched nor purged");
        assert_sound(disk);
        if now == after {
            let (blobs, _) = Blobs::open(disk.shared(), layout.blobs(), STORE, OpenMode::ReadOnly).unwrap();
            assert!(chunks.iter().all(|id| blobs.verify(id) == BlobState::Missing), "{place}");
            for dir in [layout.wal(), layout.blobs(), layout.meta()] {
                for name in disk.shared().list(&dir).unwrap() {
                    let bytes = disk.file_bytes(&dir.join(&name)).unwrap();
                    let holds = |needle: &[u8]| bytes.windows(needle.len()).any(|w| w == needle);
                    let found = holds(SECRET) || (names_go && holds(b"moved"));
                    assert!(!found, "{place}: in {}", name.display());
                }
            }
        }
    };
    for call in 1..=calls {
        let disk = begun.kill();
        disk.crash_at_call(call);
        let error = finish(&disk.shared(), &layout, STORE, true).err();
        assert!(error.is_some(), "call {call}");
        settled(&disk.kill(), true, &format!("killed at call {call} of {calls}"));
        for seed in 0..3 {
            settled(&disk.crash(seed), true, &format!("power cut at call {call} of {calls}, seed {seed}"));
        }
    }
    // While it begins.
    for call in 1..30 {
        let disk = ready.kill();
        let core = open(&disk, true, true).unwrap();
        disk.crash_at_call(call);
        let begun = begin(core, &intent).is_ok();
        settled(&disk.kill(), begun, &format!("killed at call {call} of its beginning"));
        settled(&disk.crash(call), begun, &format!("power cut at call {call} of its beginning"));
    }
}

#[test]
fn a_crash_at_any_call_leaves_everything_or_a_purge_that_is_brought_to_its_end() {
    crash_everywhere(&Request { paths: vec![b"dir/secret".to_vec()], ..Request::default() }, true);
}

#[test]
fn a_crash_at_any_call_of_a_purge_of_blobs_leaves_everything_or_one_that_is_brought_to_its_end() {
    crash_everywhere(&Request::default(), false);
}

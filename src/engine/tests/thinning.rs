//! Thinning over a simulated disk: whenever it is cut short, each version that is left is the state that it was, with or without the paths
//! that have no history, and the next one ends what was begun.

use std::time::Duration;

use super::*;
use crate::engine::thin::{Filtered, Request};
use crate::error::Result;
use crate::storage::sim::CallKind;
use crate::versions::class::ClassSettings;
use crate::versions::thinning::Ages;

fn settings() -> ClassSettings {
    ClassSettings { none: vec!["*.o".into(), "out/".into()], ..ClassSettings::default() }
}

/// What can be seen of a state, without what follows from how many names there are.
fn paths(dump: &Dump) -> Vec<Vec<u8>> {
    dump.keys().cloned().collect()
}

/// The states of all versions, by their numbers.
type States = BTreeMap<u64, Dump>;

fn states(disk: &SimDisk) -> States {
    let store = Store::open_on(disk.shared(), &Layout::new("/p"), STORE).unwrap();
    let all: Vec<_> = store.versions().iter().map(|v| v.unwrap()).collect();
    all.iter().map(|v| (v.seq.0, dump(&mut store.state_of(v).unwrap()))).collect()
}

/// A store with versions of a few files; the third is labelled.
fn store() -> SimDisk {
    let disk = SimDisk::new();
    let core = open(&disk, false, true).unwrap();
    let caller = Caller::default();
    let out = core.fs.mkdir(&caller, Ino::ROOT, b"out", 0o755).unwrap().ino;
    for i in 0..5u8 {
        for (dir, name) in [(Ino::ROOT, "a.c"), (Ino::ROOT, "a.o"), (out, "x")] {
            let name = if i == 0 { name.to_owned() } else { format!("{i}{name}") };
            let ino = core.fs.create(&caller, dir, name.as_bytes(), 0o644, true).unwrap().ino;
            core.fs.write(&caller, ino, 0, &vec![i; 3000], false).unwrap();
            // A name that stays of something that goes, and the reverse.
            core.fs.link(&caller, ino, Ino::ROOT, format!("{name} too{}", if dir == out { "" } else { ".o" }).as_bytes()).unwrap();
        }
        let message = (i == 2).then(|| "kept".to_owned());
        core.fs.locked().log(&Caller::default(), Mark { marker: Marker::Commit { message } }.into(), None, None).unwrap();
        core.replay(true).unwrap();
        core.log.seal().unwrap();
    }
    core.prune(Limits { max_size: Some(0), ..Limits::default() }, false).unwrap();
    core.close().unwrap();
    disk
}

fn thin(core: &Core) -> Result<()> {
    core.take_out(&settings(), None, Filtered::default())?;
    let ages = Ages { all: Duration::ZERO, hourly: Duration::ZERO, daily: None };
    let request = Request { limit: Some(0), target: 0, ages, by_age: true, clock_jumped: false, dry_run: false };
    core.thin(&request, &|| Ok(1), &|| Ok(())).map(drop)
}

/// Each version is one of before, with all of its paths or without those that have no history.
fn are_of(found: &States, before: &States, story: &str) {
    for (seq, state) in found {
        let whole = &before[seq];
        let lasting = |path: &&Vec<u8>| !path.ends_with(b".o") && !path.starts_with(b"out");
        let less: Vec<Vec<u8>> = whole.keys().filter(lasting).cloned().collect();
        assert!(state == whole || paths(state) == less, "{story}: version {seq} is {:?}", paths(state));
    }
}

#[test]
fn thinning_that_is_cut_short_at_any_call_leaves_versions_as_they_were() {
    let (mut calls, mut cut) = (1, 0);
    loop {
        let disk = store();
        let before = states(&disk);
        let newest = *before.last_key_value().unwrap().0;
        assert!(before.len() >= 5);
        let core = open(&disk, true, true).unwrap();
        disk.crash_at_call(calls);
        let done = thin(&core).is_ok();
        drop(core);
        for (which, left) in [("kill", disk.kill()), ("power", disk.crash(calls))] {
            let story = format!("{which} at call {calls}");
            let core = open(&left, false, which == "kill").unwrap_or_else(|e| panic!("{story}: {e}"));
            sessions::check_versions(&left, &story);
            let found = states(&left);
            are_of(&found, &before, &story);
            assert_eq!(found[&newest], before[&newest], "{story}: the newest is whole");
            // The next one ends it.
            thin(&core).unwrap_or_else(|e| panic!("{story}: {e}"));
            let found = states(&left);
            are_of(&found, &before, &story);
            assert!(found.len() < before.len() && found.contains_key(&newest), "{story}: {:?}", found.keys());
            let labelled = core.history().versions.iter().filter(|v| v.as_ref().unwrap().label.is_some()).count();
            assert_eq!(labelled, 1, "{story}: what is labelled stays");
            sessions::check_versions(&left, &story);
            core.close().unwrap();
        }
        cut += u32::from(!done);
        if done {
            break;
        }
        calls += 1;
    }
    assert!(cut > 20, "{cut} crashes");
}

#[test]
fn thinning_on_a_disk_that_refuses_leaves_a_store_that_can_be_opened() {
    for kind in [CallKind::Rename, CallKind::Sync, CallKind::SyncDir, CallKind::Write] {
        for n in 1..6 {
            let disk = store();
            let before = states(&disk);
            let core = open(&disk, true, true).unwrap();
            let mut seen = 0;
            disk.script(move |call| {
                seen += u32::from(call.kind == kind);
                (call.kind == kind && seen == n).then_some(crate::storage::sim::Fault::EIO)
            });
            let _ = thin(&core);
            drop(core);
            let left = disk.kill();
            let story = format!("{kind:?} {n}");
            let core = open(&left, false, true).unwrap_or_else(|e| panic!("{story}: {e}"));
            are_of(&states(&left), &before, &story);
            thin(&core).unwrap_or_else(|e| panic!("{story}: {e}"));
            sessions::check_versions(&left, &story);
        }
    }
}

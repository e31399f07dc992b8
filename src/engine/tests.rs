//! The store over a simulated disk: whatever happens, what comes back is an exact prefix that holds everything synced; versions cover the
//! log without gap or overlap; every version is the state that was there at its end.

#[cfg(feature = "pijul")]
mod pijul_steps;
mod sessions;
mod streams;
mod thinning;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use rand::prelude::*;

use super::core::{Core, CoreOptions};
use super::group::GroupLimits;
use super::states::Store;
use crate::control::message::When;
use crate::fs::journal::Caller;
use crate::fs::{Fs, SetAttributes};
use crate::fsck;
use crate::ids::{Ino, Lsn, StoreId, VersionSeq};
use crate::op::{Mark, Marker};
use crate::project::Layout;
use crate::storage::Storage;
use crate::storage::sim::SimDisk;
use crate::tree::testing::{all_inodes, dump};
use crate::versions::node::FileKind;
use crate::wal::prune::Limits;

pub(super) const STORE: StoreId = StoreId([7; 16]);

pub(super) fn options(clean: bool, same_boot: bool) -> CoreOptions {
    // Small segments, so that rolling, sealing and pruning happen in short histories.
    CoreOptions {
        store: STORE,
        owner: (0, 0),
        clean,
        same_boot,
        segment_size: 160 << 10,
        prepare: false,
        limits: GroupLimits { inodes: 6, ..GroupLimits::default() },
        reserve: 0,
        command_lines: false,
        // So that nearly everything is let go and loaded again, all the time.
        cache_inodes: 2,
    }
}

pub(super) fn open(disk: &SimDisk, clean: bool, same_boot: bool) -> crate::error::Result<Core> {
    Core::open(disk.shared(), Layout::new("/p"), &options(clean, same_boot))
}

pub(super) type Dump = BTreeMap<Vec<u8>, String>;

pub(super) fn now(core: &Core) -> (Lsn, Dump) {
    let mut writer = core.fs.locked();
    (writer.tree().applied(), dump(writer.tree()))
}

fn look(fs: &Fs) -> Dump {
    dump(fs.locked().tree())
}

/// What a history has shown so far.
#[derive(Default)]
pub(super) struct Seen {
    /// The tree after each answered request, with the last record then.
    pub(super) states: Vec<(Lsn, Dump)>,
    /// Index of the state that was reported durable last.
    pub(super) durable: usize,
    /// Who made what.
    pub(super) owners: HashMap<Ino, u32>,
}

/// One random request of a program, an order to the store, or time going by. Errors end the history.
pub(super) fn step(core: &Core, rng: &mut StdRng, seen: &mut Seen) -> Result<(), String> {
    let fs = &core.fs;
    // Programs of two sessions, each mostly with names and files of its own, and somebody whom nobody knows.
    let who = rng.random_range(0..9) / 4;
    let pid = sessions::processes().get(who).copied().unwrap_or_default();
    let caller = Caller { pid, uid: 1, gid: 1 };
    let stranger = rng.random_bool(0.05);
    let (dir, file, any) = {
        let mut writer = fs.locked();
        let all = all_inodes(writer.tree());
        let own = |ino: Ino| stranger || pid == 0 || seen.owners.get(&ino).is_none_or(|owner| *owner == pid);
        let pick = |kind: FileKind, rng: &mut StdRng| all.iter().filter(|(i, k)| *k == kind && own(*i)).map(|(i, _)| *i).choose(rng);
        let any = all.iter().map(|(i, _)| *i).filter(|i| *i != Ino::ROOT && own(*i)).choose(rng);
        (pick(FileKind::Directory, rng).unwrap_or(Ino::ROOT), pick(FileKind::File, rng), any.unwrap_or(Ino::ROOT))
    };
    let own_name = |rng: &mut StdRng| format!("n{}", if stranger { rng.random_range(0..8) } else { rng.random_range(0..4) * 2 + who % 2 });
    let name = own_name(rng).into_bytes();
    let refused = |e: crate::fs::FsError| match e.errno() {
        libc::EIO | libc::ENOSPC => Err(e.to_string()),
        _ => Ok(()),
    };
    let (before, born_from) = {
        let mut writer = fs.locked();
        (writer.tree().applied(), writer.tree().next_ino())
    };
    let done = match rng.random_range(0..30) {
        0..=5 => fs.create(&caller, dir, &name, 0o644, true).map(drop),
        6 => fs.mkdir(&caller, dir, &name, 0o755).map(drop),
        7 => fs.symlink(&caller, dir, &name, b"target").map(drop),
        8 => file.map_or(Ok(()), |f| fs.link(&caller, f, dir, &name).map(drop)),
        9 | 10 => fs.unlink(&caller, dir, &name),
        11 => fs.rmdir(&caller, dir, &name),
        12 | 13 => {
            let to = own_name(rng).into_bytes();
            fs.rename(&caller, (dir, &name), (dir, &to), crate::fs::RenameFlags::default())
        }
        14..=19 => match file {
            Some(file) => {
                let len = if rng.random_bool(0.2) { rng.random_range(65_536..150_000) } else { rng.random_range(1..9000) };
                let mut bytes = vec![0; len];
                rng.fill_bytes(&mut bytes);
                fs.write(&caller, file, rng.random_range(0..5000), &bytes, false).map(drop)
            }
            None => Ok(()),
        },
        20 => file.map_or(Ok(()), |f| {
            let set = SetAttributes { size: Some(rng.random_range(0..100_000)), ..SetAttributes::default() };
            fs.setattr(&caller, f, &set).map(drop)
        }),
        21 => fs.setattr(&caller, any, &SetAttributes { mode: Some(rng.random_range(0..0o777)), ..SetAttributes::default() }).map(drop),
        22 => fs.setxattr(&caller, any, b"user.k", b"value", 0),
        23 | 24 => {
            core.sync().map_err(|e| e.to_string())?;
            seen.durable = seen.states.len() - 1;
            return Ok(());
        }
        25 | 26 => {
            let message = rng.random_bool(0.3).then(|| "said".to_owned());
            let marked = fs.locked().log(&Caller::default(), Mark { marker: Marker::Commit { message } }.into(), None, None);
            if let Err(e) = marked {
                return Err(e.to_string());
            }
            core.replay(true).map_err(|e| e.to_string())?;
            seen.durable = seen.states.len() - 1;
            return Ok(());
        }
        27 => return core.log.seal().map(drop).map_err(|e| e.to_string()),
        28 => return core.replay(false).map(drop).map_err(|e| e.to_string()),
        29 => return core.prune(Limits { max_size: Some(0), ..Limits::default() }, false).map(drop).map_err(|e| e.to_string()),
        _ => Ok(()),
    };
    done.or_else(refused)?;
    let (after, born_to) = {
        let mut writer = fs.locked();
        (writer.tree().applied(), writer.tree().next_ino())
    };
    seen.owners.extend((born_from.0..born_to.0).map(|ino| (Ino(ino), pid)));
    if after > before {
        seen.states.push((after, look(fs)));
    }
    Ok(())
}

/// Runs a history on a fresh disk until its end or until the disk dies.
fn run(seed: u64, steps: usize, disk: &SimDisk) -> Seen {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut seen = Seen::default();
    // Before anything there is an empty directory.
    seen.states.push((Lsn::ZERO, Dump::new()));
    let Ok(core) = open(disk, false, true) else { return seen };
    seen.states.push(now(&core));
    for _ in 0..steps {
        if step(&core, &mut rng, &mut seen).is_err() {
            break;
        }
    }
    seen
}

/// Recovers what a crash left and compares it with what the history had shown.
fn check(disk: &SimDisk, same_boot: bool, seen: &Seen, at_least: usize, story: &str) {
    let core = open(disk, false, same_boot).unwrap_or_else(|e| panic!("{story}: a healthy store is refused: {e}"));
    let found = look(&core.fs);
    // A request that was recorded but not answered may be there: then the history's last state is missing, not wrong.
    let index = seen.states.iter().rposition(|(_, state)| *state == found);
    let unanswered = core.recovery.last > seen.states.last().map_or(Lsn::ZERO, |s| s.0);
    match index {
        Some(index) => assert!(index >= at_least, "{story}: state {index} came back, {at_least} was durable"),
        // Cut in the middle of the birth: an empty root whose owner or times are not those of later.
        None if at_least == 0 && found.len() == 1 => {}
        None => assert!(unanswered, "{story}: what came back is no prefix"),
    }
    // The store goes on from there, and closes and opens again as it was.
    let caller = Caller::default();
    core.fs.create(&caller, Ino::ROOT, b"after", 0o600, true).unwrap_or_else(|e| panic!("{story}: {e}"));
    let expected = look(&core.fs);
    core.close().unwrap_or_else(|e| panic!("{story}: {e}"));
    drop(core);
    let core = open(disk, true, true).unwrap_or_else(|e| panic!("{story}: {e}"));
    assert_eq!(look(&core.fs), expected, "{story}: closing and opening changed something");
    drop(core);
    sessions::check_versions(disk, story);
}

fn histories(default: u64) -> u64 {
    std::env::var("IZE_TEST_HISTORIES").ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

/// Steps of a history; fewer by hand, where there are more histories.
fn steps(default: usize) -> usize {
    std::env::var("IZE_TEST_STEPS").ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

/// A power cut at every storage call of random histories: an exact prefix comes back that holds everything reported durable.
#[test]
fn a_power_cut_at_any_storage_call_leaves_a_prefix_that_holds_everything_synced() {
    let (histories, mut crashes) = (histories(6), 0);
    for seed in 0..histories {
        let whole = SimDisk::new();
        run(seed, steps(40), &whole);
        for call in 1..=whole.calls() {
            let disk = SimDisk::new();
            disk.crash_at_call(call);
            let seen = run(seed, steps(40), &disk);
            let after = disk.crash(seed * 1000 + call);
            check(&after, false, &seen, seen.durable, &format!("seed {seed}, call {call}"));
            crashes += 1;
        }
    }
    eprintln!("{crashes} power cuts in {histories} histories");
}

/// The death of the process alone loses nothing that was answered.
#[test]
fn killing_the_process_at_any_storage_call_loses_nothing_that_was_answered() {
    for seed in 0..histories(6) {
        let whole = SimDisk::new();
        run(seed, steps(30), &whole);
        for call in 1..=whole.calls() {
            let disk = SimDisk::new();
            disk.crash_at_call(call);
            let seen = run(seed, steps(30), &disk);
            let last = seen.states.len() - 1;
            check(&disk.kill(), true, &seen, last, &format!("seed {seed}, call {call}"));
        }
    }
}

/// Each version, read back through the store as `ize cat` does, is the state at its end; so is every single operation while the log holds
/// it; and a restore to any of them brings exactly that back.
#[test]
fn every_version_is_read_back_and_restored_as_it_was() {
    for seed in 0..4 {
        let disk = SimDisk::new();
        let layout = Layout::new("/p");
        let core = open(&disk, false, true).unwrap();
        let mut rng = StdRng::seed_from_u64(seed);
        let mut seen = Seen { states: vec![now(&core)], ..Seen::default() };
        for _ in 0..120 {
            step(&core, &mut rng, &mut seen).unwrap();
        }
        core.replay(true).unwrap();
        let by_lsn: BTreeMap<Lsn, &Dump> = seen.states.iter().map(|(lsn, dump)| (*lsn, dump)).collect();
        let state_at = |lsn: Lsn| by_lsn.range(..=lsn).next_back().map(|(_, d)| (*d).clone());
        let store = Store::open_on(disk.shared(), &layout, STORE).unwrap();
        let count = store.checkpoint().version.0;
        assert!(count > 3, "too few versions to say anything");
        for seq in 1..=count {
            let version = store.versions().get(VersionSeq(seq)).unwrap().unwrap();
            if !version.is_whole() {
                // No moment of the log.
                continue;
            }
            let expected = state_at(version.last).unwrap();
            assert_eq!(dump(&mut store.state_of(&version).unwrap()), expected, "seed {seed}, version {seq}");
            let id = version.id.to_string();
            assert_eq!(dump(&mut store.resolve(&When::Id(id)).unwrap()), expected);
        }
        let oldest = store.oldest_in_log().unwrap().unwrap();
        for (lsn, expected) in by_lsn.iter().filter(|(lsn, _)| **lsn >= oldest) {
            if let Ok(mut tree) = store.resolve(&When::Lsn(*lsn)) {
                assert_eq!(&dump(&mut tree), *expected, "seed {seed}, {lsn}");
            }
        }
        for seq in (1..=count).rev() {
            let version = store.versions().get(VersionSeq(seq)).unwrap().unwrap();
            let mut then = store.state_of(&version).unwrap();
            let paths = [Vec::new()];
            let mut writer = core.fs.locked();
            let steps = super::restore::plan(writer.tree(), &mut then, &paths).unwrap();
            super::restore::carry_out(&mut writer, &mut then, steps, &paths, &Caller::default()).unwrap();
            assert!(
                super::restore::plan(writer.tree(), &mut then, &paths).unwrap().is_empty(),
                "seed {seed}: restored, and still different"
            );
            assert_eq!(content(writer.tree()), content(&mut then), "seed {seed}, version {seq}");
        }
        core.replay(true).unwrap();
        core.close().unwrap();
    }
}

/// There is always an open group while operations come without a pause.
#[test]
fn replay_lets_go_of_what_is_committed_also_while_operations_come_without_a_pause() {
    let core = open(&SimDisk::new(), true, true).unwrap();
    // A directory that is changed is loaded whole.
    let mut dir = Ino::ROOT;
    for i in 0..200 {
        if i % 10 == 0 {
            dir = core.fs.mkdir(&Caller::default(), Ino::ROOT, format!("d{i}").as_bytes(), 0o755).unwrap().ino;
        }
        core.fs.create(&Caller::default(), dir, format!("f{i}").as_bytes(), 0o644, true).unwrap();
        if i % 40 == 39 {
            core.sync().unwrap();
            core.replay(false).unwrap();
        }
    }
    assert!(core.history().checkpoint.version.0 > 20 && core.pending());
    let resident = core.replayer().resident();
    assert!(resident < 60, "{resident}");
}

/// Path to what a restore brings back: kind, mode, owner, mtime, size, bytes, xattrs, and which paths are one file.
fn content(tree: &mut crate::tree::Tree) -> Dump {
    let mut out = Dump::new();
    let paths: Vec<Vec<u8>> = dump(tree).into_keys().collect();
    let mut first: std::collections::HashMap<Ino, Vec<u8>> = std::collections::HashMap::new();
    for path in paths {
        let ino = tree.resolve(&path).unwrap().unwrap();
        let inode = tree.inode(ino).unwrap();
        let (a, kind) = (inode.attrs.clone(), inode.kind);
        // The root's own time moves with the restore's record of ownership only; everything below must be equal.
        let text = format!("{kind:?} {:o} {} {} {:?} {} {:?}", a.mode, a.uid, a.gid, a.mtime, inode.size, inode.xattrs);
        let bytes = if matches!(kind, FileKind::File | FileKind::Symlink) { tree.read_all(ino).unwrap() } else { Vec::new() };
        let group = first.entry(ino).or_insert_with(|| path.clone()).clone();
        out.insert(path, format!("{text} {} {}", crate::ids::BlobId::of(&bytes), String::from_utf8_lossy(&group)));
    }
    out
}

/// A full disk is an error, nothing more: what was answered stays, and when there is room again the store goes on.
/// A blob counts with the last segment that names it, and not at all while a version or the live tree holds it.
#[test]
fn a_size_limit_counts_the_blobs_that_only_segments_name() {
    let disk = SimDisk::new();
    let core = open(&disk, true, true).unwrap();
    let caller = Caller { pid: 0, uid: 1, gid: 1 };
    let big = |seed: u8| -> Vec<u8> { (0..100_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8 ^ seed).collect() };
    let version = || {
        core.fs.locked().log(&Caller::default(), Mark { marker: Marker::Commit { message: None } }.into(), None, None).unwrap();
        core.replay(true).unwrap();
        core.log.seal().unwrap();
    };
    let file = core.fs.create(&caller, Ino::ROOT, b"f", 0o644, true).unwrap().ino;
    // The same bytes in two segments, other bytes in a third, then what is left of the file in the last. Not at the file's start, or the
    // versions would hold the very same blob as a chunk.
    core.fs.write(&caller, file, 0, b"prefix", false).unwrap();
    for seed in [1, 1, 2] {
        core.fs.write(&caller, file, 6, &big(seed), false).unwrap();
        version();
    }
    core.fs.write(&caller, file, 0, b"small", false).unwrap();
    version();
    let limits = Limits { max_size: Some(1 << 30), ..Limits::default() };
    let all = core.prune(limits, true).unwrap();
    let payload: Vec<u64> = all.segments.iter().map(|s| s.payload).collect();
    assert_eq!(payload, [0, 100_000, 100_000, 0]);
    assert!(all.segments.iter().all(|s| s.stays.is_some()) && !all.no_checkpoint);
    // Room for all but the first blob: the first two segments go.
    let size: u64 = all.segments.iter().map(|s| s.bytes + s.payload).sum();
    let limits = Limits { max_size: Some(size - 60_000), ..Limits::default() };
    let pruned = core.prune(limits, false).unwrap();
    let gone: Vec<u64> = pruned.segments.iter().filter(|s| s.stays.is_none()).map(|s| s.id.0).collect();
    assert_eq!(gone, [all.segments[0].id.0, all.segments[1].id.0]);
}

/// The disk is filled to the last byte by a program. Replay, checkpoint and prune still have the reserve, and make room with it.
#[test]
fn a_full_disk_is_got_going_again_with_the_reserve() {
    let disk = SimDisk::new();
    let options = CoreOptions { reserve: 1 << 20, ..options(true, true) };
    let core = Core::open(disk.shared(), Layout::new("/p"), &options).unwrap();
    let caller = Caller { pid: 0, uid: 1, gid: 1 };
    let file = core.fs.create(&caller, Ino::ROOT, b"f", 0o644, true).unwrap().ino;
    core.sync().unwrap();
    disk.set_capacity(Some(disk.used() + 900_000));
    let mut rng = StdRng::seed_from_u64(5);
    let mut bytes = vec![0; 9000];
    let mut written = 0u32;
    let full = loop {
        rng.fill_bytes(&mut bytes);
        // Always in the same places: the log grows, the file does not.
        match core.fs.write(&caller, file, u64::from(written % 4) * 9000, &bytes, false) {
            Ok(_) => written += 1,
            Err(e) => break e,
        }
    };
    assert_eq!(full.errno(), libc::ENOSPC);
    let expected = look(&core.fs);
    core.replay(true).unwrap();
    let dropped = core.prune(Limits { max_size: Some(0), ..Limits::default() }, false).unwrap().dropped();
    assert!(dropped.0 > 2, "{dropped:?}");
    assert_eq!(look(&core.fs), expected);
    core.fs.write(&caller, file, 0, &bytes, false).unwrap();
    core.sync().unwrap();
    core.close().unwrap();
    sessions::check_versions(&disk, "after it was full");
    // The room is kept back again for the next time.
    assert_eq!(disk.open_read(std::path::Path::new("/p/wal/reserve")).unwrap().len().unwrap(), 1 << 20);
}

/// What was made into versions with as little room as can be is cut otherwise than it would have been. A check makes it again all the same,
/// also where it may hold nothing of what would be cut otherwise.
#[test]
fn versions_that_were_made_on_a_full_disk_are_what_the_log_gives() {
    let disk = SimDisk::new();
    let options = CoreOptions { reserve: 2 << 20, segment_size: 64 << 10, ..options(true, true) };
    let core = Core::open(disk.shared(), Layout::new("/p"), &options).unwrap();
    let caller = Caller { pid: 0, uid: 1, gid: 1 };
    let file = core.fs.create(&caller, Ino::ROOT, b"f", 0o644, true).unwrap().ino;
    core.sync().unwrap();
    disk.set_capacity(Some(disk.used() + 2_500_000));
    let mut rng = StdRng::seed_from_u64(9);
    let mut bytes = vec![0; 100_000];
    let mut at = 0;
    loop {
        rng.fill_bytes(&mut bytes);
        if core.fs.write(&caller, file, at, &bytes, false).is_err() {
            break;
        }
        at += bytes.len() as u64;
    }
    core.replay(true).unwrap();
    let whole = core.fs.locked().tree().resolve(b"f").unwrap().unwrap();
    assert_eq!((whole, at > 1_500_000), (file, true), "{at}");
    let versions = core.history().versions.len();
    disk.set_capacity(None);
    core.close().unwrap();
    for held in [0, u64::MAX] {
        let report = sessions::check_whole(&disk, fsck::Options { deep: true, held, ..fsck::Options::default() }, "full");
        assert!(report.rebuilt >= versions && versions > 0, "{} of {versions}", report.rebuilt);
    }
    // It would be cut otherwise: who may hold nothing could not make it again.
    let store = Store::open_on(disk.shared(), &Layout::new("/p"), STORE).unwrap();
    let root = store.checkpoint().root.unwrap();
    let mut tree = crate::tree::Tree::open(Arc::clone(store.blobs()) as _, Some(root), Ino(2), Lsn::ZERO, Default::default()).unwrap();
    let node = {
        tree.inode(file).unwrap();
        tree.peek(file).map(|inode| tree.node(inode)).unwrap()
    };
    let pieces = crate::versions::piece_tree::all(&**store.blobs(), &node.content).unwrap();
    assert!(pieces.iter().any(|piece| piece.len() == 100_000), "{pieces:?}");
}

/// Not a byte is free, and the checkpoint, the last segment and the last pack have to be written again.
#[test]
fn a_store_is_opened_after_a_crash_on_a_disk_without_a_free_byte() {
    let disk = SimDisk::new();
    let options = CoreOptions { reserve: 1 << 20, ..options(false, true) };
    let core = Core::open(disk.shared(), Layout::new("/p"), &options).unwrap();
    let caller = Caller { pid: 0, uid: 1, gid: 1 };
    let file = core.fs.create(&caller, Ino::ROOT, b"f", 0o644, true).unwrap().ino;
    core.fs.write(&caller, file, 0, &[7; 100_000], false).unwrap();
    core.replay(true).unwrap();
    core.fs.write(&caller, file, 50_000, &[8; 100_000], false).unwrap();
    core.fs.create(&caller, Ino::ROOT, b"g", 0o644, true).unwrap();
    let expected = look(&core.fs);
    drop(core);
    let disk = disk.kill();
    disk.set_capacity(Some(disk.used()));
    let core = Core::open(disk.shared(), Layout::new("/p"), &options).unwrap();
    assert_eq!(look(&core.fs), expected);
    core.replay(true).unwrap();
    sessions::check_versions(&disk, "without a free byte");
}

#[test]
fn a_full_disk_loses_nothing() {
    for seed in 0..10 {
        let disk = SimDisk::new();
        let core = open(&disk, false, true).unwrap();
        disk.set_capacity(Some(disk.used() + 300_000));
        let mut rng = StdRng::seed_from_u64(seed);
        let mut seen = Seen { states: vec![now(&core)], ..Seen::default() };
        let mut failures = 0;
        for _ in 0..200 {
            failures += u32::from(step(&core, &mut rng, &mut seen).is_err());
        }
        assert!(failures > 0, "the disk never was full");
        let expected = look(&core.fs);
        disk.set_capacity(None);
        if core.log.poisoned().is_none() && core.fs.broken().is_none() {
            core.fs.create(&Caller::default(), Ino::ROOT, b"room again", 0o600, true).unwrap();
            core.fs.unlink(&Caller::default(), Ino::ROOT, b"room again").unwrap();
            core.replay(true).unwrap();
        }
        drop(core);
        let core = open(&disk.kill(), false, true).unwrap();
        let found: Vec<Vec<u8>> = look(&core.fs).into_keys().collect();
        assert_eq!(found, expected.into_keys().collect::<Vec<_>>(), "seed {seed}");
        core.close().unwrap();
        sessions::check_versions(&disk, &format!("seed {seed}"));
    }
}

/// What is committed and not open leaves memory, whatever the kernel knows; what is open, or has no name but is open, stays; and everything
/// is found again under the inode number that it had.
#[test]
fn committed_inodes_leave_memory_and_are_found_again() {
    let disk = SimDisk::new();
    let core = open(&disk, false, true).unwrap();
    let (fs, caller) = (&core.fs, Caller::default());
    let mut files = Vec::new();
    for d in 0..10 {
        let dir = fs.mkdir(&caller, Ino::ROOT, format!("d{d}").as_bytes(), 0o755).unwrap().ino;
        for f in 0..30 {
            let file = fs.create(&caller, dir, format!("f{f}").as_bytes(), 0o644, true).unwrap().ino;
            fs.write(&caller, file, 0, format!("{d} {f}").as_bytes(), false).unwrap();
            files.push((dir, format!("f{f}").into_bytes(), file));
        }
        fs.link(&caller, files[d * 30].2, Ino::ROOT, format!("hard{d}").as_bytes()).unwrap();
    }
    let (unnamed_dir, name, unnamed) = files.pop().unwrap();
    fs.unlink(&caller, unnamed_dir, &name).unwrap();
    let open_file = files[5].2;
    for (_, _, file) in &files {
        if *file != open_file {
            fs.release(*file);
        }
    }
    let before = look(fs);
    assert!(fs.cache().resident > 300);
    core.replay(true).unwrap();
    let cache = fs.cache();
    assert!(cache.resident <= 3 && cache.evictions > 300, "{cache:?}");
    assert!(fs.locked().tree().peek(open_file).is_some() && fs.locked().tree().peek(unnamed).is_some());
    assert_eq!(fs.read(unnamed, 0, 100).unwrap(), b"9 29");
    // By its number, by its name, as a name of several.
    assert_eq!(fs.read(files[77].2, 0, 100).unwrap(), b"2 17");
    let (dir, name, file) = &files[200];
    assert_eq!(fs.lookup(*dir, name).unwrap().unwrap().ino, *file);
    assert_eq!(fs.lookup(Ino::ROOT, b"hard3").unwrap().unwrap().ino, files[90].2);
    assert_eq!(fs.getattr(files[90].2).unwrap().nlink, 2);
    assert_eq!(look(fs), before);
    // A reader of a directory goes on where it was, whatever leaves memory meanwhile.
    let handle = fs.opendir(files[0].0).unwrap();
    let (mut seen, mut at) = (Vec::new(), 0);
    loop {
        let mut taken = 0;
        fs.readdir(files[0].0, handle, at, |entry| {
            if taken == 7 {
                return false;
            }
            taken += 1;
            seen.push(entry.name.to_vec());
            at = entry.cookie;
            true
        })
        .unwrap();
        if taken == 0 {
            break;
        }
        fs.lookup(files[250].0, &files[250].1).unwrap();
        fs.forget(files[250].2, 1);
    }
    assert_eq!(seen.len(), 32);
    assert_eq!(seen.iter().collect::<std::collections::BTreeSet<_>>().len(), 32);
}

//! Several sessions in one window: versions of their own, whatever crashes in between.

use std::ops::ControlFlow;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::*;
use crate::engine::core::{Item, for_each_item};
use crate::engine::group::Grouper;
use crate::engine::pace::Pace;
use crate::engine::parts::{Start, Window};
use crate::fsck;
use crate::ids::{BlobId, Time};
use crate::op::ProcessKey;
use crate::tree::{BlobRead, Tree};
use crate::versions::version_log::{Origin, ProcessLabel, Version, What};

/// Two processes, each the leader of its session. They end when this one does, which closes their input.
pub(super) fn processes() -> &'static [u32] {
    static CHILDREN: OnceLock<(Vec<Child>, Vec<u32>)> = OnceLock::new();
    let (_, pids) = CHILDREN.get_or_init(|| {
        let start = || Command::new("setsid").arg("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let children = vec![start(), start()];
        let pids: Vec<u32> = children.iter().map(Child::id).collect();
        let deadline = Instant::now() + Duration::from_secs(60);
        let leads = |pid: &u32| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
            let behind_name = stat.rsplit(") ").next().unwrap();
            stat.contains("(cat)") && behind_name.split(' ').nth(3) == Some(&pid.to_string())
        };
        while !pids.iter().all(leads) {
            assert!(Instant::now() < deadline, "setsid does not start cat");
            std::thread::sleep(Duration::from_millis(1));
        }
        (children, pids)
    });
    pids
}

static WINDOWS: AtomicU64 = AtomicU64::new(0);
static REBUILT: AtomicU64 = AtomicU64::new(0);
static MOVED: AtomicU64 = AtomicU64::new(0);

/// Versions cover the log without gap or overlap, parts of a window are all there and in order, and every state can be read.
pub(super) fn check_versions(disk: &SimDisk, story: &str) {
    let layout = Layout::new("/p");
    let store = Store::open_on(disk.shared(), &layout, STORE).unwrap_or_else(|e| panic!("{story}: {e}"));
    let newest = store.checkpoint().version;
    let report = crate::versions::check::log::check(&disk.shared(), layout.versions(), STORE, Some(newest)).unwrap();
    assert!(report.findings.is_empty(), "{story}: {:?}", report.findings);
    let mut next = Lsn(1);
    for version in store.versions().iter() {
        let version = version.unwrap_or_else(|e| panic!("{story}: {e}"));
        assert_eq!(version.covers, next, "{story}: versions cover the log without gap or overlap");
        if version.is_whole() {
            next = version.last.next();
        } else {
            dump(&mut store.state_of(&version).unwrap());
            WINDOWS.fetch_add(1, Ordering::Relaxed);
        }
    }
    let last = store.versions().last().unwrap();
    assert!(last.is_none_or(|last| last.is_whole() && last.seq == newest), "{story}: the checkpoint names a part");
    let report = check_whole(disk, fsck::Options { deep: true, ..fsck::Options::default() }, story);
    REBUILT.fetch_add(report.rebuilt, Ordering::Relaxed);
}

/// Nothing is wrong with the store, and all versions whose records are left are what these give.
pub(super) fn check_whole(disk: &SimDisk, options: fsck::Options, story: &str) -> fsck::Report {
    let layout = Layout::new("/p");
    let mut steps: Vec<(u64, u64)> = Vec::new();
    let report = fsck::check(&disk.shared(), &layout, STORE, &options, &mut |done, more| steps.push((done, more)))
        .unwrap_or_else(|e| panic!("{story}: {e}"));
    if report.looks == 1 && report.rebuilt > 1 {
        // A bar moves while versions are made again, too, never back, and to the end. Records that are no operations move none.
        let making: Vec<u64> = steps.iter().filter(|(_, more)| *more > 0).map(|(done, _)| *done).collect();
        let more = steps.last().map_or(0, |(_, more)| *more);
        let moved = making.first().zip(making.last()).map_or(0, |(first, last)| last - first);
        assert!(steps.is_sorted() && moved == more, "{story}: {steps:?}");
        MOVED.fetch_add(u64::from(moved > 0), Ordering::Relaxed);
    }
    // Who the project is stands on no simulated disk.
    let wrong: Vec<_> = report.findings.iter().filter(|f| f.part != fsck::Part::Identity).collect();
    assert!(wrong.is_empty() && report.passed_over == 0, "{story}: {wrong:#?}");
    assert!(report.notes.iter().all(|note| !note.contains("made again")), "{story}: {:?}", report.notes);
    assert_eq!(report.states.leftovers, 0, "{story}");
    report
}

/// The check above and the histories that use it are of worth only if they meet windows of several sessions.
#[test]
fn random_histories_hold_windows_of_several_sessions() {
    for seed in 0..4 {
        let disk = SimDisk::new();
        let seen = run(seed, 60, &disk);
        check(&disk, true, &seen, seen.states.len() - 1, &format!("seed {seed}"));
    }
    assert!(WINDOWS.load(Ordering::Relaxed) > 4);
    assert!(REBUILT.load(Ordering::Relaxed) > 10);
    assert!(MOVED.load(Ordering::Relaxed) > 1);
}

fn caller(which: usize) -> Caller {
    Caller { pid: processes()[which], uid: 1, gid: 1 }
}

fn commit(core: &Core, message: &str) {
    let message = Some(message.to_owned());
    core.fs.locked().log(&Caller::default(), Mark { marker: Marker::Commit { message } }.into(), None, None).unwrap();
    core.replay(true).unwrap();
}

fn file(core: &Core, which: usize, name: &str, bytes: &[u8]) -> Ino {
    let ino = core.fs.create(&caller(which), Ino::ROOT, name.as_bytes(), 0o644, true).unwrap().ino;
    core.fs.write(&caller(which), ino, 0, bytes, false).unwrap();
    ino
}

fn open_for(disk: &SimDisk, parts: usize, options: &CoreOptions) -> crate::error::Result<Core> {
    let limits = GroupLimits { parts, ..GroupLimits::default() };
    Core::open(disk.shared(), Layout::new("/p"), &CoreOptions { limits, ..options.clone() })
}

/// The birth of the root is a version, so that it is not in the window.
fn born(disk: &SimDisk, parts: usize) -> Core {
    let core = open_for(disk, parts, &options(true, true)).unwrap();
    commit(&core, "born");
    core
}

fn versions(core: &Core) -> Vec<Version> {
    core.history().versions.iter().map(Result::unwrap).skip(1).collect()
}

fn paths(version: &Version) -> Vec<String> {
    version.paths.iter().map(|c| String::from_utf8(c.path.clone()).unwrap()).collect()
}

fn sessions(version: &Version) -> Vec<u32> {
    version.processes.iter().map(|p| p.session).collect()
}

#[test]
fn sessions_with_paths_of_their_own_are_versions_of_their_own_and_the_label_is_the_lasts() {
    let disk = SimDisk::new();
    let core = born(&disk, 16);
    let first = core.log.appended().next();
    let a = file(&core, 0, "a", b"of the first");
    file(&core, 1, "b", b"of the second");
    core.fs.write(&caller(0), a, 0, b"OF THE FIRST", false).unwrap();
    let between = core.fs.locked().tree().applied();
    file(&core, 1, "c", b"the last");
    let (expected, now) = (look(&core.fs), core.fs.locked().tree().clock());
    commit(&core, "both");
    let made = versions(&core);
    let [one, two] = made.as_slice() else { panic!("{made:#?}") };
    assert_eq!((paths(one), paths(two)), (vec!["a".to_owned()], vec!["b".to_owned(), "c".to_owned()]));
    assert_eq!((sessions(one), sessions(two)), (vec![processes()[0]], vec![processes()[1]]));
    assert_eq!((one.part, one.parts, two.part, two.parts), (1, 2, 2, 2));
    assert_eq!((one.label.as_deref(), two.label.as_deref()), (None, Some("both")));
    assert_eq!((one.origin, two.origin), (Origin::Burst, Origin::Commit));
    assert_eq!((one.first, one.last, one.covers), (two.first, two.last, two.covers));
    assert!(one.first <= first && two.last >= between);
    assert_eq!((one.operations, one.bytes, two.operations, two.bytes), (3, 24, 4, 21));
    assert_eq!(two.parent_root, Some(one.root));
    assert!(one.end < two.end && one.begin < two.begin);
    let checkpoint = core.history().checkpoint.clone();
    assert_eq!((checkpoint.version, checkpoint.root), (two.seq, Some(two.root)));
    // The live tree goes on from there, and the state of the log is what it was.
    assert_eq!(look(&core.fs), expected);
    assert!(core.fs.locked().tree().dirty().is_empty());
    let store = Store::open_on(disk.shared(), &Layout::new("/p"), STORE).unwrap();
    let names =
        |when: &When| dump(&mut store.resolve(when).unwrap()).into_keys().map(|p| String::from_utf8(p).unwrap()).collect::<Vec<_>>();
    assert_eq!(dump(&mut store.resolve(&When::Id(two.id.to_string())).unwrap()), expected);
    assert_eq!(names(&When::Id(one.id.to_string())), ["", "a"]);
    // A moment of the log is one of the log, whichever parts there are.
    assert_eq!(names(&When::Lsn(between)), ["", "a", "b"]);
    assert_eq!(names(&When::Lsn(two.last)), ["", "a", "b", "c"]);
    assert_eq!(names(&When::Time(now)), ["", "a", "b", "c"]);
    assert_eq!(names(&When::Time(Time::from_nanos(one.end.as_nanos()))), ["", "a", "b"]);
    drop(core);
    check_versions(&disk, "two sessions");
}

#[test]
fn who_writes_the_same_file_is_one_version_that_names_both() {
    let disk = SimDisk::new();
    let core = born(&disk, 16);
    let shared = file(&core, 0, "shared", b"one\n");
    core.fs.write(&caller(1), shared, 4, b"two\n", false).unwrap();
    commit(&core, "both");
    let made = versions(&core);
    assert_eq!(made.len(), 1);
    assert_eq!((paths(&made[0]), made[0].parts), (vec!["shared".to_owned()], 1));
    let mut found = sessions(&made[0]);
    found.sort_unstable();
    let mut expected = processes().to_vec();
    expected.sort_unstable();
    assert_eq!(found, expected);
}

#[test]
fn with_one_part_allowed_sessions_share_a_version() {
    let disk = SimDisk::new();
    let core = born(&disk, 1);
    file(&core, 0, "a", b"a");
    file(&core, 1, "b", b"b");
    commit(&core, "both");
    let made = versions(&core);
    assert_eq!((made.len(), paths(&made[0])), (1, vec!["a".to_owned(), "b".to_owned()]));
}

/// One session's work comes to nothing that has a name: it is no version, its process stands with the one that is.
#[test]
fn what_changes_no_name_is_no_part() {
    for first in [0, 1] {
        let disk = SimDisk::new();
        let core = born(&disk, 16);
        file(&core, first, "t", b"gone soon");
        file(&core, 1 - first, "a", b"stays");
        core.fs.unlink(&caller(first), Ino::ROOT, b"t").unwrap();
        if first == 1 {
            file(&core, 0, "b", b"and this");
        }
        commit(&core, "one");
        let made = versions(&core);
        assert_eq!((made.len(), made[0].parts, made[0].processes.len()), (1, 1, 2), "{made:#?}");
        assert!(made[0].paths.iter().all(|c| c.what == What::Added && c.path != b"t"), "{made:#?}");
    }
    // The last of three.
    let disk = SimDisk::new();
    let core = born(&disk, 16);
    file(&core, 0, "a", b"a");
    file(&core, 1, "b", b"b");
    let nobody = Caller { pid: 0, uid: 1, gid: 1 };
    core.fs.create(&nobody, Ino::ROOT, b"t", 0o644, true).unwrap();
    core.fs.unlink(&nobody, Ino::ROOT, b"t").unwrap();
    commit(&core, "two");
    let made: Vec<_> = versions(&core).iter().map(|v| (paths(v), v.label.clone(), v.operations)).collect();
    assert_eq!(made, [(vec!["a".to_owned()], None, 2), (vec!["b".to_owned()], Some("two".to_owned()), 4)]);
    drop(core);
    check_versions(&disk, "three");
}

/// Whatever the parts come to, the version that counts is the state of the log: when they come to something else, or do not even fit, the
/// window is one version.
#[test]
fn parts_that_give_another_state_or_do_not_fit_are_not_taken() {
    let disk = SimDisk::new();
    let core = born(&disk, 16);
    let old = file(&core, 0, "old", b"before the window");
    commit(&core, "old");
    core.fs.write(&caller(0), old, 0, b"in the window", false).unwrap();
    file(&core, 1, "b", b"b");
    core.sync().unwrap();
    let checkpoint = core.history().checkpoint.clone();
    let start = Start { root: checkpoint.root, next_ino: checkpoint.next_ino, lsn: checkpoint.lsn, clock: checkpoint.clock };
    let blobs: Arc<dyn BlobRead> = Arc::clone(&core.blobs) as _;
    let mut tree = Tree::open(blobs, start.root, start.next_ino, start.lsn, start.clock).unwrap();
    let (limits, mut busy) = (GroupLimits::default(), BTreeMap::new());
    let mut grouper = Grouper::new(limits);
    for_each_item(&*core.storage, &core.layout, STORE, (start.lsn.next(), core.log.durable()), &mut |item| {
        if let Item::Operation { lsn, entry, payload, .. } = item {
            tree.apply(lsn, &entry, payload)?;
            let ProcessKey { pid, start } = entry.stamp.process;
            busy.insert(entry.stamp.process, ProcessLabel { pid, start, comm: b"x".to_vec(), uid: 1, session: pid });
            grouper.add(lsn, &entry);
        }
        Ok(ControlFlow::Continue(()))
    })
    .unwrap();
    let group = grouper.take().unwrap();
    let end = tree.commit(&*core.blobs).unwrap().root;
    let pace = Pace::new(&core, true);
    let window = |start| Window { core: &core, pace: &pace, limits: &limits, group: &group, busy: &busy, start };
    assert_eq!(window(start).separate(&mut tree, start.root, &end).unwrap().len(), 2);
    assert!(window(start).separate(&mut tree, start.root, &BlobId([1; 32])).unwrap().is_empty());
    assert!(window(Start { root: None, ..start }).separate(&mut tree, None, &end).unwrap().is_empty());
}

#[test]
fn a_restore_is_one_version_whoever_works_beside_it() {
    let disk = SimDisk::new();
    let core = born(&disk, 16);
    file(&core, 0, "a", b"old");
    commit(&core, "old");
    core.fs.unlink(&caller(0), Ino::ROOT, b"a").unwrap();
    commit(&core, "gone");
    file(&core, 1, "b", b"beside");
    let store = Store::open_on(disk.shared(), &Layout::new("/p"), STORE).unwrap();
    let mut then = store.resolve(&When::Id(versions(&core)[0].id.to_string())).unwrap();
    let paths = [b"a".to_vec()];
    let mut writer = core.fs.locked();
    let steps = crate::engine::restore::plan(writer.tree(), &mut then, &paths).unwrap();
    crate::engine::restore::carry_out(&mut writer, &mut then, steps, &paths, &caller(0)).unwrap();
    drop(writer);
    core.replay(true).unwrap();
    let made = versions(&core);
    let last = made.last().unwrap();
    assert!(made.len() == 3 && last.parts == 1 && matches!(last.origin, Origin::Restore { .. }), "{made:#?}");
    assert_eq!(last.processes.len(), 2);
}

/// The process dies, or the power fails, at every storage call while a window becomes several versions: none of them counts or all do, and
/// what is made again is the same.
#[test]
fn a_crash_between_the_parts_of_a_window_leaves_none_or_all() {
    let work = |core: &Core| -> Result<(), String> {
        for n in 0..3 {
            for which in [0, 1] {
                let name = format!("{which} {n}");
                let made = core.fs.create(&caller(which), Ino::ROOT, name.as_bytes(), 0o644, true).map_err(|e| e.to_string())?;
                core.fs.write(&caller(which), made.ino, 0, name.as_bytes(), false).map_err(|e| e.to_string())?;
            }
        }
        core.sync().map_err(|e| e.to_string())?;
        core.replay(true).map(drop).map_err(|e| e.to_string())
    };
    let whole = SimDisk::new();
    let core = born(&whole, 16);
    let from = whole.calls();
    work(&core).unwrap();
    assert_eq!(versions(&core).len(), 2);
    let mut none = 0;
    for call in from + 1..=whole.calls() {
        for power in [false, true] {
            let story = format!("call {call}, power cut {power}");
            let disk = SimDisk::new();
            let core = born(&disk, 16);
            disk.crash_at_call(call);
            let worked = work(&core);
            drop(core);
            let after = if power { disk.crash(call) } else { disk.kill() };
            let core = open_for(&after, 16, &options(false, !power)).unwrap_or_else(|e| panic!("{story}: {e}"));
            let found = versions(&core);
            assert!(found.is_empty() || found.len() == 2, "{story}: {found:#?}");
            none += u32::from(found.is_empty());
            let before = look(&core.fs);
            core.replay(true).unwrap_or_else(|e| panic!("{story}: {e}"));
            assert_eq!(look(&core.fs), before, "{story}");
            let made = versions(&core);
            if before.len() == 7 {
                // All operations are there: the versions are those that would have been.
                assert_eq!(made.iter().map(paths).collect::<Vec<_>>(), [["0 0", "0 1", "0 2"], ["1 0", "1 1", "1 2"]], "{story}");
            } else {
                assert!(worked.is_err(), "{story}: {before:#?}");
            }
            drop(core);
            check_versions(&after, &story);
        }
    }
    assert!(none > 10);
}

/// The disk is full at some moment between the states of the parts and the checkpoint: what was appended is taken back, and made when there
/// is room.
#[test]
fn a_full_disk_while_a_window_becomes_versions_leaves_none_of_them() {
    let mut failures = 0;
    for room in 0..80 {
        let disk = SimDisk::new();
        let core = born(&disk, 16);
        for n in 0..4 {
            file(&core, n % 2, &format!("f{n}"), format!("bytes of {n}").repeat(20).as_bytes());
        }
        core.sync().unwrap();
        core.log.seal().unwrap();
        disk.set_capacity(Some(disk.used() + room * 64));
        let made = core.replay(true);
        failures += u32::from(made.is_err());
        assert_eq!(versions(&core).len(), if made.is_ok() { 2 } else { 0 }, "room {room}");
        disk.set_capacity(None);
        core.replay(true).unwrap_or_else(|e| panic!("room {room}: {e}"));
        assert_eq!(versions(&core).iter().map(paths).collect::<Vec<_>>(), [["f0", "f2"], ["f1", "f3"]], "room {room}");
        drop(core);
        check_versions(&disk, &format!("room {room}"));
    }
    assert!((20..80).contains(&failures), "{failures} failures");
}

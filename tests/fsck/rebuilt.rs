//! Versions and checkpoint beside what the log gives: clean after everything that makes, changes or drops versions; and one that says
//! something else is named with its records and the first path that differs, though all of its blobs are sound.

use std::path::Path;
use std::sync::Arc;

use ize::blobs::{Blobs, OpenMode};
use ize::ids::{BlobId, Ino, Lsn, Time, VersionSeq};
use ize::op::{Chmod, Entry, Operation, Stamp, Truncate};
use ize::project::Project;
use ize::storage::Disk;
use ize::tree::{BlobRead, Tree};
use ize::versions::checkpoint;
use ize::versions::version_log::{Action, Mode, Version, VersionLog};
use serde_json::Value;

use crate::kit::*;
use crate::support::{Home, sh};

fn open(central: &Path) -> (Project, Arc<Blobs>) {
    let project = Project::open(only(&central.join("projects"))).unwrap();
    let mode = OpenMode::Write { clean: true };
    let (blobs, _) = Blobs::open(Disk::shared(), project.layout.blobs(), project.identity.id, mode).unwrap();
    (project, Arc::new(blobs))
}

/// A sound state that differs from `root` in one file.
fn other(blobs: &Arc<Blobs>, root: BlobId, path: &str, lsn: Lsn, change: impl FnOnce(Ino) -> Operation) -> BlobId {
    let mut tree = Tree::open(Arc::clone(blobs) as Arc<dyn BlobRead>, Some(root), Ino(2), lsn, Time::default()).unwrap();
    let ino = tree.resolve(path.as_bytes()).unwrap().unwrap();
    let time = tree.inode(ino).unwrap().attrs.mtime;
    let entry = Entry { stamp: Stamp { time, ..Stamp::default() }, op: change(ino) };
    tree.apply(lsn, &entry, None).unwrap();
    let root = tree.commit(&**blobs).unwrap().root;
    blobs.sync().unwrap();
    root
}

/// Gives a version another state.
fn forge_version(central: &Path, seq: u64, path: &str, change: impl FnOnce(Ino) -> Operation) {
    let (project, blobs) = open(central);
    let (layout, id) = (&project.layout, project.identity.id);
    let newest = checkpoint::read(&*Disk::shared(), &layout.checkpoint(), id).unwrap().unwrap().version;
    let mut log = VersionLog::open(Disk::shared(), layout.versions(), id, Mode::Write { keep_up_to: newest }).unwrap();
    let version = log.get(VersionSeq(seq)).unwrap().unwrap();
    let root = other(&blobs, version.root, path, version.last, change);
    log.rewrite(&mut |v| Ok(if v.seq.0 == seq { Action::Change(Version { root, ..v.clone() }) } else { Action::Keep })).unwrap();
}

fn of(checked: &Checked) -> Vec<(&str, &str, u64, u64)> {
    let found = checked.findings.iter().map(|f| {
        let path = f["paths"][0]["path"].as_str().unwrap_or_default();
        (f["part"].as_str().unwrap(), path, f["first_version"].as_u64().unwrap_or(0), f["files"].as_u64().unwrap())
    });
    found.collect()
}

#[test]
fn a_version_that_is_not_what_the_log_gives_is_named_with_its_records_and_the_first_path() {
    let home = store();
    let clean = fsck(&home, &home.central(), false);
    assert_eq!((clean.code, clean.summary["rebuilt"].as_u64()), (0, clean.summary["versions"].as_u64()));
    let version = Named::of(&home).store.versions().get(VersionSeq(2)).unwrap().unwrap();

    let (copy, told) = damaged(&home, "mode", false, |c| {
        forge_version(c, 2, "flat/file-9", |ino| Chmod { ino, old: 0o644, new: 0o604 }.into());
    });
    // The one after it, made from it, would keep the mode.
    assert_eq!((told.code, of(&told)), (5, vec![("replay", "flat/file-9", 2, 1), ("replay", "flat/file-9", 3, 1)]), "{:#?}", told.findings);
    let first = &told.findings[0];
    assert_eq!((first["lsn"].as_u64(), first["through"].as_u64()), (Some(version.covers.0), Some(version.last.0)), "{first}");
    assert_eq!((&first["newest"], &first["verdict"]), (&Value::from(false), &Value::from("damage")));
    readable(&home, &copy, &["sound", "flat/file-9"]);

    // The bytes alone.
    let (_, told) = damaged(&home, "bytes", true, |c| {
        forge_version(c, 1, "kept", |ino| Truncate { ino, old_size: 2_000_000, size: 1_999_999, mode_after: None }.into());
    });
    assert_eq!((told.code, of(&told)[0]), (5, ("replay", "kept", 1, 1)), "{:#?}", told.findings);
}

#[test]
fn a_checkpoint_that_is_not_what_the_log_gives_is_named() {
    let home = Home::new();
    home.ok(&["config", "set", "group.idle", "1h"]);
    home.ok(&["config", "set", "class.none", "*.tmp"]);
    home.mount();
    sh(&home.mount, "echo a > a; echo x > x.tmp");
    home.ok(&["commit", "p"]);
    // No version: nothing that has a history changed.
    sh(&home.mount, "echo y >> x.tmp; echo z > z.tmp");
    home.ok(&["commit", "p"]);
    home.unmount();
    let clean = fsck(&home, &home.central(), false);
    let (versions, rebuilt) = (clean.summary["versions"].as_u64().unwrap(), clean.summary["rebuilt"].as_u64().unwrap());
    assert_eq!((clean.code, rebuilt), (0, versions + 1), "{}", clean.summary);
    let (_, told) = damaged(&home, "checkpoint", false, |c| {
        let (project, blobs) = open(c);
        let (path, id) = (project.layout.checkpoint(), project.identity.id);
        let mut checkpoint = checkpoint::read(&*Disk::shared(), &path, id).unwrap().unwrap();
        let root = checkpoint.root.unwrap();
        checkpoint.root = Some(other(&blobs, root, "z.tmp", checkpoint.lsn, |ino| Chmod { ino, old: 0o644, new: 0o604 }.into()));
        checkpoint::replace(&*Disk::shared(), &path, &checkpoint).unwrap();
    });
    assert_eq!((told.code, of(&told)), (5, vec![("replay", "z.tmp", 0, 1)]), "{:#?}", told.findings);
    assert_eq!(told.findings[0]["newest"], true);
    assert!(told.findings[0]["file"].as_str().unwrap().ends_with("checkpoint"));
}

/// Imported, grouped by sessions, restored, killed, pruned, without paths that have no history, thinned, purged: nothing is found, and what the
/// log still holds is made again each time.
#[test]
fn stores_of_every_kind_are_clean() {
    let home = Home::new();
    home.ok(&["config", "set", "class.none", "*.o"]);
    home.ok(&["config", "set", "group.idle", "1h"]);
    let from = home.path().join("from");
    std::fs::create_dir(&from).unwrap();
    sh(&from, "mkdir d; head -c 3000000 /dev/urandom > large; cp large d/copy; ln large d/link; truncate -s 5000000 holes; echo x > d/x.o");
    home.ok(&["init", "p", "--from", from.to_str().unwrap()]);
    let mut rebuilt = 0;
    let mut clean = |story: &str, at_least: u64| {
        for deep in [false, true] {
            let told = fsck(&home, &home.central(), deep);
            assert_eq!((told.code, told.findings.len()), (0, 0), "{story}: {:#?}", told.findings);
            assert!(told.summary["rebuilt"].as_u64() >= Some(at_least), "{story}: {}", told.summary);
            let notes = told.summary["notes"].as_array().unwrap();
            assert!(!notes.iter().any(|n| n.as_str().unwrap().contains("earlier ize")), "{story}: {notes:?}");
            rebuilt += told.summary["rebuilt"].as_u64().unwrap();
        }
    };
    clean("imported", 1);
    home.mount();
    sh(
        &home.mount,
        "setsid -w bash -c 'for i in $(seq 20); do echo $i > one-$i; echo $i > one-$i.o; done' & \
         setsid -w bash -c 'for i in $(seq 20); do echo $i > two-$i; done; printf y | dd of=large bs=1 seek=1500000 conv=notrunc status=none' & wait",
    );
    home.ok(&["commit", "p", "-m", "sessions"]);
    assert!(home.history().iter().any(|v| v["parts"].as_u64() > Some(1)), "{:#?}", home.history());
    clean("sessions", 2);
    // A directory that goes while somebody holds it open.
    let held = {
        sh(&home.mount, "mkdir gone; echo x > gone/x");
        home.ok(&["commit", "p"]);
        let held = std::fs::File::open(home.mount.join("gone")).unwrap();
        sh(&home.mount, "rm -r gone");
        home.ok(&["commit", "p"]);
        held
    };
    clean("a directory without a name", 3);
    drop(held);
    sh(&home.mount, "rm large; mv d e; exec 9> unnamed; rm unnamed; echo still >&9; echo x > z.o");
    home.ok(&["restore", "p", "large", "--at", "now~1"]);
    clean("pending", 2);
    home.ok(&["commit", "p"]);
    sh(&home.mount, "dd if=/dev/urandom of=e/copy bs=70000 count=5 seek=3 conv=notrunc iflag=fullblock status=none; echo late > late");
    home.kill();
    sh(Path::new("/"), &format!("umount -l {}", home.mount.display()));
    let told = fsck(&home, &home.central(), true);
    assert!(told.findings.iter().all(|f| f["verdict"] == "torn-tail"), "killed: {:#?}", told.findings);
    home.mount();
    clean("recovered", 3);
    home.ok(&["commit", "p", "-m", "labelled"]);
    for i in 0..6 {
        sh(&home.mount, &format!("echo {i} > round; echo {i} >> e/copy; echo {i} > r.o"));
        home.ok(&["commit", "p"]);
    }
    home.ok(&["wal", "prune", "p", "--max-size", "0"]);
    clean("pruned", 0);
    sh(&home.mount, "echo more > more");
    home.ok(&["commit", "p"]);
    home.ok(&["thin", "p", "--max-store", "1MiB"]);
    assert!(home.history().iter().any(|v| v["stands_for"].as_u64() > Some(0)), "{:#?}", home.history());
    clean("thinned", 0);
    sh(&home.mount, "echo secret > secret; echo after > after");
    home.ok(&["commit", "p"]);
    home.unmount();
    home.ok(&["purge", "p", "secret", "--confirm", "p"]);
    clean("purged", 0);
    home.mount();
    sh(&home.mount, "echo again > again");
    // What was before the purge is not in the log any more, not even marks: the first version after it may reach back into that.
    home.ok(&["commit", "p"]);
    sh(&home.mount, "printf z | dd of=large bs=1 seek=100 conv=notrunc status=none");
    home.unmount();
    clean("after a purge", 1);
    assert!(rebuilt >= 15, "{rebuilt}");
    let told = fsck(&home, &home.central(), true);
    assert!(
        told.summary["notes"].as_array().unwrap().iter().any(|n: &Value| n.as_str().unwrap().starts_with("purged on")),
        "{}",
        told.summary
    );
}

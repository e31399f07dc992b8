//! A mount that only looks: it shows what is sound and changes no byte of the store.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::support::{Home, eventually, sh};

type Files = BTreeMap<PathBuf, (blake3::Hash, String)>;

/// Every file below `dir` with its bytes, its length, mode and times.
fn bytes(dir: &Path) -> Files {
    use std::os::unix::fs::MetadataExt;
    let mut out = BTreeMap::new();
    let mut work = vec![dir.to_owned()];
    while let Some(at) = work.pop() {
        for entry in std::fs::read_dir(&at).unwrap() {
            let path = entry.unwrap().path();
            let m = std::fs::symlink_metadata(&path).unwrap();
            let content = if m.is_file() { blake3::hash(&std::fs::read(&path).unwrap()) } else { blake3::hash(b"") };
            let stamp = format!("{:o} {} {}.{} {}.{}", m.mode(), m.len(), m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec());
            if m.is_dir() {
                work.push(path.clone());
            }
            out.insert(path, (content, stamp));
        }
    }
    out
}

#[track_caller]
fn assert_same(before: &Files, after: &Files) {
    let changed: Vec<_> = before.keys().chain(after.keys()).filter(|p| before.get(*p) != after.get(*p)).collect();
    let log = changed.iter().find(|p| p.ends_with("daemon.log")).map(|p| std::fs::read_to_string(p).unwrap_or_default());
    assert!(changed.is_empty(), "changed: {changed:?} {:?} {:?} {log:?}", before.get(changed[0]), after.get(changed[0]));
}

fn segments(home: &Home) -> Vec<PathBuf> {
    let mut all: Vec<_> = std::fs::read_dir(home.project().join("wal")).unwrap().map(|e| e.unwrap().path()).collect();
    all.retain(|p| p.extension().is_some_and(|e| e == "seg"));
    all.sort();
    all
}

fn read_only(home: &Home) -> String {
    let said = home.ize(&["mount", "p", home.mount.to_str().unwrap(), "--read-only"]);
    assert_eq!(said.code, 0, "{said:?}");
    said.err
}

/// Kills the daemon and takes its mount away, once the kernel knows that it is dead.
fn kill(home: &Home) {
    home.kill();
    eventually("the mount is dead", || std::fs::read_dir(&home.mount).is_err_and(|e| e.raw_os_error() == Some(libc::ENOTCONN)));
    sh(home.path(), "umount -l mnt");
}

fn unmount(home: &Home) {
    home.ok(&["unmount", "p"]);
    eventually("the daemon ends", || crate::support::daemons_of(home.path().to_str().unwrap()).is_empty());
}

#[test]
fn after_a_kill_it_shows_everything_answered_recovers_nothing_and_writes_nothing() {
    let home = Home::new();
    home.mount();
    std::fs::write(home.mount.join("small"), "s").unwrap();
    home.ok(&["commit", "p"]);
    std::fs::write(home.mount.join("large"), vec![7; 300_000]).unwrap();
    sh(&home.mount, "mkdir d; echo x > d/f; rm small");
    kill(&home);
    let before = bytes(&home.central());
    let said = read_only(&home);
    assert!(said.contains("read-only") && said.contains("nothing was recovered"), "{said}");
    assert_eq!(std::fs::read(home.mount.join("large")).unwrap(), vec![7; 300_000]);
    assert_eq!(std::fs::read_to_string(home.mount.join("d/f")).unwrap(), "x\n");
    assert!(!home.mount.join("small").exists());
    for result in [
        std::fs::write(home.mount.join("new"), "x"),
        std::fs::remove_file(home.mount.join("large")),
        std::fs::OpenOptions::new().append(true).open(home.mount.join("large")).map(drop),
        std::fs::rename(home.mount.join("d"), home.mount.join("e")),
    ] {
        assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EROFS));
    }
    let status = home.status();
    assert_eq!((&status["read_only"], &status["pid"]), (&true.into(), &serde_json::Value::Null));
    assert!(home.ok(&["status", "p"]).contains("(read-only)"));
    assert_eq!(home.ize(&["status", "p", "--check"]).code, 10);
    let second = home.path().join("third");
    home.ok(&["mount", "p", second.to_str().unwrap(), "--create", "-o", "ro"]);
    assert!(second.join("large").exists());
    unmount(&home);
    assert_same(&before, &bytes(&home.central()));
    // Nobody writes beneath a reader.
    read_only(&home);
    let said = home.ize(&["mount", "p", home.path().join("second").to_str().unwrap(), "--create"]);
    assert!(said.code == 7 && said.err.contains("read-only"), "{said:?}");
    assert_eq!(home.ize(&["commit", "p"]).code, 7);
    unmount(&home);
    // The next one that may write recovers.
    home.mount();
    assert!(home.status()["recovery"]["operations"].as_u64().unwrap() > 0);
    assert_eq!(std::fs::read_to_string(home.mount.join("d/f")).unwrap(), "x\n");
}

#[test]
fn of_a_damaged_log_it_shows_what_comes_before_the_damage_and_says_so() {
    let home = Home::new();
    home.mount();
    std::fs::write(home.mount.join("committed"), "c").unwrap();
    home.ok(&["commit", "p"]);
    std::fs::write(home.mount.join("first"), "f").unwrap();
    // Blocks of 4 KiB until two segments are sealed; those of the first one after the commit are hit in the middle.
    let sealed = segments(&home).len();
    let mut n = 0;
    while segments(&home).len() < sealed + 2 {
        std::fs::write(home.mount.join(format!("n{n:05}")), vec![1; 32_768]).unwrap();
        n += 1;
    }
    home.kill();
    let all = segments(&home);
    let hit = &all[all.len() - 2];
    let mut content = std::fs::read(hit).unwrap();
    let middle = content.len() / 2;
    content[middle] ^= 0x10;
    std::fs::write(hit, content).unwrap();
    let refused = home.ize(&["mount", "p", home.mount.to_str().unwrap()]);
    assert_eq!(refused.code, 5, "{refused:?}");
    for word in [hit.file_name().unwrap().to_str().unwrap(), "offset", "@", "hint: ", "ize wal repair", "--read-only"] {
        assert!(refused.err.contains(word), "{word}: {refused:?}");
    }
    // The daemon that was refused has still to say so to its log.
    eventually("the daemon ends", || crate::support::daemons_of(home.path().to_str().unwrap()).is_empty());
    let before = bytes(&home.central());
    let said = read_only(&home);
    assert!(
        said.contains("warning: ") && said.contains("not shown") && said.contains(hit.file_name().unwrap().to_str().unwrap()),
        "{said}"
    );
    assert_eq!(std::fs::read_to_string(home.mount.join("committed")).unwrap(), "c");
    assert_eq!(std::fs::read_to_string(home.mount.join("first")).unwrap(), "f");
    let shown = std::fs::read_dir(&home.mount).unwrap().count();
    assert!(shown > 2 && shown < n + 2, "{shown} of {n}");
    let status = home.ok(&["status", "p"]);
    assert!(status.contains("(read-only)") && status.contains("TROUBLE:"), "{status}");
    assert!(home.ok(&["list"]).contains("(read-only)"));
    unmount(&home);
    assert_same(&before, &bytes(&home.central()));
}

#[test]
fn bytes_of_a_large_write_that_did_not_survive_end_what_is_shown_before_it() {
    let home = Home::new();
    home.mount();
    std::fs::write(home.mount.join("before"), "b").unwrap();
    std::fs::write(home.mount.join("large"), vec![9; 200_000]).unwrap();
    std::fs::write(home.mount.join("after"), "a").unwrap();
    kill(&home);
    // The packs lose what was in no sync: as after a power cut.
    for entry in std::fs::read_dir(home.project().join("blobs")).unwrap() {
        let path = entry.unwrap().path();
        let len = std::fs::metadata(&path).unwrap().len();
        if len > 100_000 {
            std::fs::File::options().write(true).open(&path).unwrap().set_len(len / 2).unwrap();
        }
    }
    let said = read_only(&home);
    assert!(said.contains("warning: ") && said.contains("record @"), "{said}");
    assert_eq!(std::fs::read_to_string(home.mount.join("before")).unwrap(), "b");
    assert!(!home.mount.join("after").exists());
    unmount(&home);
}

#[test]
fn a_store_on_a_disk_that_cannot_be_written_can_be_looked_at() {
    let home = Home::new();
    home.mount();
    std::fs::write(home.mount.join("f"), "x").unwrap();
    kill(&home);
    sh(home.path(), "mkdir -p view; mount --bind store view; mount -o remount,bind,ro view");
    let mount = home.mount.to_str().unwrap();
    let run = |words: &[&str]| crate::support::said(home.command(words).env("IZE_CENTRAL_DIR", home.path().join("view")).output().unwrap());
    let refused = run(&["mount", "p", mount]);
    assert_eq!(refused.code, 6, "{refused:?}");
    let said = run(&["mount", "p", mount, "--read-only"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(std::fs::read_to_string(home.mount.join("f")).unwrap(), "x");
    assert_eq!(run(&["unmount", "p"]).code, 0);
    eventually("the daemon ends", || crate::support::daemons_of(home.path().to_str().unwrap()).is_empty());
    sh(home.path(), "umount -l view");
}

//! Replay B beside people who do what they should not: who hold the repository's lock, take it away, cut it short, or write to it. Writers in
//! the mount notice nothing, `ize status` names it, and it heals by itself or with `ize pijul rebuild`.

#![cfg(feature = "pijul")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops where it cannot go on")]

mod support;

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rand::prelude::*;
use rustix::fs::{FlockOperation, flock};
use serde_json::Value;
use support::{Home, eventually, kill_now, said, sh};

fn pijul(home: &Home, dir: &Path, args: &[&str]) -> String {
    let client = std::env::var_os("IZE_TEST_PIJUL").map_or_else(|| "pijul".into(), PathBuf::from);
    let output = Command::new(&client).args(args).current_dir(dir).env("HOME", home.path()).env("NO_COLOR", "1").output();
    let said = said(output.expect("the real client is needed: `.ci/pijul` builds it"));
    assert_eq!(said.code, 0, "pijul {args:?}: {said:?}");
    said.out
}

/// Hashes as the client's log has them, newest first.
fn hashes(home: &Home) -> Vec<String> {
    pijul(home, &home.project(), &["log", "--hash-only"]).lines().map(|l| l.trim().to_owned()).filter(|l| !l.is_empty()).collect()
}

/// The log has each version once and in order, and a clone is what is mounted.
fn is_whole(home: &Home) {
    let history: Vec<String> = home.history().iter().map(|c| c["hash"].as_str().unwrap_or("no hash").to_owned()).collect();
    assert_eq!(hashes(home), history, "`pijul log` and `ize history` differ");
    let clone = home.path().join("clone");
    let _ = std::fs::remove_dir_all(&clone);
    pijul(home, home.path(), &["clone", home.project().to_str().unwrap(), clone.to_str().unwrap()]);
    assert_eq!(files(&clone), files(&home.mount));
    no_stray_files(home);
}

fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut out = BTreeMap::new();
    let mut work = vec![dir.to_owned()];
    while let Some(at) = work.pop() {
        for entry in std::fs::read_dir(&at).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && ![".pijul", ".ize-meta", ".ize"].iter().any(|n| path.ends_with(n)) {
                work.push(path);
            } else if path.is_file() && !path.ends_with(".ignore") {
                out.insert(path.strip_prefix(dir).unwrap().to_owned(), std::fs::read(&path).unwrap());
            }
        }
    }
    out
}

/// Every file in `.pijul` is one that the log names, or the pristine.
fn no_stray_files(home: &Home) {
    let mut wanted: Vec<String> = hashes(home).iter().map(|h| format!("changes/{}/{}.change", &h[..2], &h[2..])).collect();
    wanted.extend(["db", "db.lock0", "db.lock1"].map(|n| format!("pristine/{n}")));
    wanted.sort();
    let dir = home.project().join(".pijul");
    let mut there: Vec<String> = files(&dir).keys().map(|p| p.to_str().unwrap().to_owned()).filter(|p| p != "config").collect();
    there.sort();
    assert_eq!(there, wanted);
    assert!(!home.project().join("meta/pijul-rebuild").exists());
}

fn write(home: &Home, name: &str, text: &str) {
    std::fs::write(home.mount.join(name), text).unwrap();
}

fn commits(home: &Home, count: usize) {
    for n in 0..count {
        write(home, &format!("f{}", n % 3), &format!("{n}\nsecond line\n"));
        home.ok(&["commit", "p"]);
    }
}

fn state(home: &Home) -> Value {
    home.status()["pijul_state"].clone()
}

fn db(home: &Home) -> PathBuf {
    home.project().join(".pijul/pristine/db")
}

#[test]
fn a_lock_that_somebody_holds_costs_lag_and_nothing_else_and_status_says_whose_it_is() {
    let home = Home::new();
    home.mount();
    commits(&home, 2);
    let open = |path: PathBuf| OpenOptions::new().read(true).write(true).open(path).unwrap();
    // A writer that hangs holds the first; a reader that hangs one of the others, which the second transaction needs.
    let held: [(Vec<File>, FlockOperation); 2] = [
        (vec![open(db(&home))], FlockOperation::LockExclusive),
        (vec![open(db(&home).with_extension("lock0")), open(db(&home).with_extension("lock1"))], FlockOperation::LockShared),
    ];
    for (files, how) in held {
        for file in &files {
            flock(file, how).unwrap();
        }
        let begun = Instant::now();
        write(&home, "a", &format!("{how:?}"));
        assert!(begun.elapsed() < Duration::from_secs(5), "a writer waited {:?}", begun.elapsed());
        let said = home.ize(&["commit", "p"]);
        let me = format!("process {}", std::process::id());
        assert!(said.code == 1 && said.err.contains("is safe") && said.err.contains(&me), "{said:?}");
        let trouble = state(&home)["trouble"].as_str().unwrap().to_owned();
        assert!(trouble.contains("waits since") && trouble.contains(&me), "{trouble}");
        assert_eq!(state(&home)["lag"], 1);
        home.ok(&["wal", "prune", "p", "--max-size", "0"]);
        home.unmount();
        assert!(begun.elapsed() < Duration::from_secs(45), "{:?}", begun.elapsed());
        home.mount();
        drop(files);
        eventually("Pijul goes on", || state(&home)["lag"] == 0 && state(&home)["trouble"].is_null());
    }
    commits(&home, 1);
    is_whole(&home);
}

#[test]
fn a_repository_that_was_taken_away_is_made_again_and_one_that_was_cut_short_is_rebuilt() {
    let home = Home::new();
    home.mount();
    commits(&home, 5);
    let pid = home.daemon();
    std::fs::remove_dir_all(home.project().join(".pijul")).unwrap();
    write(&home, "a", "after it was gone\n");
    eventually("it is made again", || db(&home).exists() && home.ize(&["commit", "p"]).code == 0 && state(&home)["lag"] == 0);
    is_whole(&home);
    for length in [0, 4096, 20_000] {
        OpenOptions::new().write(true).open(db(&home)).unwrap().set_len(length).unwrap();
        write(&home, "a", &format!("after it was cut to {length}\n"));
        let said = home.ize(&["commit", "p"]);
        assert!(said.code == 1 && said.err.contains("is safe") && said.err.contains("ize pijul rebuild"), "{said:?}");
        assert!(state(&home)["trouble"].as_str().unwrap().contains("cut"), "{}", state(&home));
        home.ok(&["pijul", "rebuild", "p"]);
        is_whole(&home);
    }
    assert_eq!(home.daemon(), pid, "the daemon died of it");
    // Not mounted.
    home.unmount();
    std::fs::write(db(&home), "nothing").unwrap();
    home.ok(&["pijul", "rebuild", "p", "--json"]);
    home.mount();
    is_whole(&home);
}

#[test]
fn changes_that_were_unrecorded_come_back_and_one_from_the_middle_is_named() {
    let home = Home::new();
    home.mount();
    commits(&home, 3);
    write(&home, "new", "new\n");
    std::fs::rename(home.mount.join("f0"), home.mount.join("moved")).unwrap();
    std::fs::remove_file(home.mount.join("f1")).unwrap();
    home.ok(&["commit", "p"]);
    let before = hashes(&home);
    for _ in 0..2 {
        pijul(&home, &home.project(), &["unrecord", &hashes(&home)[0]]);
    }
    eventually("they are recorded again", || hashes(&home).len() == before.len());
    is_whole(&home);
    // Another file is changed since, so that nothing depends on the change of `new`.
    write(&home, "other", "1\n");
    home.ok(&["commit", "p"]);
    write(&home, "third", "1\n");
    home.ok(&["commit", "p"]);
    let middle = hashes(&home)[1].clone();
    let seq = home.history().iter().find(|v| v["hash"] == middle.as_str()).unwrap()["seq"].as_u64().unwrap();
    pijul(&home, &home.project(), &["unrecord", &middle]);
    eventually("it is named", || state(&home)["missing"].as_str().is_some_and(|m| m.contains(&format!("version {seq} "))));
    let said = home.ok(&["status", "p"]);
    assert!(said.contains("MISSING") && said.contains("ize pijul rebuild"), "{said}");
    home.ok(&["pijul", "rebuild", "p"]);
    assert!(state(&home)["missing"].is_null());
    is_whole(&home);
}

#[test]
fn a_head_that_ize_did_not_write_is_named_and_nothing_is_recorded_on_top_of_it() {
    let (home, other) = (Home::new(), Home::new());
    for h in [&home, &other] {
        h.mount();
        commits(h, 2);
    }
    write(&other, "foreign", "not ours\n");
    other.ok(&["commit", "p"]);
    other.unmount();
    pijul(&home, &home.project(), &["pull", "--all", other.project().to_str().unwrap()]);
    let foreign = hashes(&home)[0].clone();
    let log = hashes(&home);
    write(&home, "a", "after it\n");
    let said = home.ize(&["commit", "p"]);
    assert!(said.code == 1 && said.err.contains(&foreign), "{said:?}");
    assert!(state(&home)["foreign"].as_str().unwrap().contains(&foreign), "{}", state(&home));
    assert!(home.ok(&["status", "p"]).contains("NOT OURS"));
    assert_eq!(hashes(&home), log, "something was recorded on top of it");
    let fsck = home.ize(&["fsck", "p"]);
    assert!((fsck.out.clone() + &fsck.err).contains(&foreign), "{fsck:?}");
    let dry = home.ok(&["pijul", "rebuild", "p", "--dry-run"]);
    assert!(dry.contains("versions"), "{dry}");
    let said = home.ize(&["pijul", "rebuild", "p"]);
    assert!(said.code == 9 && said.err.contains("are not ize's"), "{said:?}");
    assert_eq!(hashes(&home), log);
    home.ok(&["pijul", "rebuild", "p", "--yes"]);
    is_whole(&home);
    assert!(state(&home)["foreign"].is_null());
}

#[test]
fn sigkill_during_a_rebuild_leaves_the_old_repository_or_the_new_one_and_it_goes_on() {
    let home = Home::new();
    home.mount();
    sh(&home.mount, "for i in $(seq 1 40); do seq $i 300 > t$i; done");
    commits(&home, 40);
    let mut rng = StdRng::seed_from_u64(5);
    let rounds: u32 = std::env::var("IZE_TEST_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(6);
    for _ in 0..rounds {
        let pid = home.daemon();
        let rebuilding = home.command(&["pijul", "rebuild", "p"]).spawn().unwrap();
        std::thread::sleep(Duration::from_micros(rng.random_range(0..400_000)));
        kill_now(pid);
        rebuilding.wait_with_output().unwrap();
        // There is a whole one at any time.
        assert!(!hashes(&home).is_empty());
        home.mount();
        commits(&home, 1);
        eventually("it has gone on", || !home.project().join("meta/pijul-rebuild").exists() && state(&home)["lag"] == 0);
        is_whole(&home);
    }
}

/// What a large import does: Pijul is told of nothing, nobody waits for it, and whoever opens the project next tells it all.
#[test]
fn what_is_left_for_later_is_recorded_by_the_next_that_opens_the_project() {
    use ize::control::{Request, message::PijulReport};
    use ize::engine::Engine;
    use ize::fs::journal::Caller;
    let home = Home::new();
    home.ok(&["init", "p"]);
    let project = ize::project::Project::open(home.project()).unwrap();
    let open = || Engine::open(&project, &ize::project::Settings::default()).unwrap();
    let head =
        |engine: &Engine| -> PijulReport { serde_json::from_value(engine.handle(Request::Pijul, 0).into_result().unwrap()).unwrap() };
    let engine = open();
    engine.leave_pijul_for_later();
    let caller = Caller { pid: 1, uid: 0, gid: 0 };
    for n in 0..3 {
        let ino = engine.core().fs.create(&caller, ize::ids::Ino::ROOT, format!("f{n}").as_bytes(), 0o644, true).unwrap().ino;
        engine.core().fs.write(&caller, ino, 0, b"text\n", false).unwrap();
        engine.commit(Some(format!("version {n}"))).unwrap();
    }
    let report = head(&engine);
    assert_eq!((report.head.0, report.lag), (0, 3), "{report:?}");
    engine.close().unwrap();
    assert!(!home.project().join(".pijul").exists());
    home.ok(&["fsck", "p", "--deep"]);
    home.mount();
    eventually("Pijul has them", || home.status()["pijul"] == 3);
    is_whole(&home);
}

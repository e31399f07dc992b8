//! `ize undo` and `ize redo` through a real mount: what programs, watchers and the real `pijul` client see.

#![cfg(all(feature = "fuse", feature = "pijul"))]
#![allow(clippy::unwrap_used, reason = "a test stops where it cannot go on")]

mod support;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rand::prelude::*;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use serde_json::Value;

use support::{Home, Said, eventually, said, sh, tree};

fn json(said: &Said) -> Value {
    serde_json::from_str(&said.out).unwrap()
}

fn id(home: &Home) -> String {
    home.history()[0]["id"].as_str().unwrap().to_owned()
}

fn commit(home: &Home) -> String {
    home.ok(&["commit", "p"]);
    id(home)
}

fn numbers(changed: &[(usize, &str)]) -> String {
    (0..20).map(|n| changed.iter().find(|c| c.0 == n).map_or_else(|| format!("{n}\n"), |c| format!("{}\n", c.1))).collect()
}

fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path).unwrap()
}

/// What happened in a directory since the last look: name and what.
fn events(watch: &OwnedFd) -> Vec<(String, ReadFlags)> {
    let mut buffer = [std::mem::MaybeUninit::uninit(); 64 << 10];
    let mut reader = inotify::Reader::new(watch, &mut buffer);
    let mut out = Vec::new();
    while let Ok(event) = reader.next() {
        out.push((event.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default(), event.events()));
    }
    out
}

#[test]
fn editors_that_watch_see_an_undo_and_files_keep_their_inodes() {
    let home = Home::new();
    home.mount();
    let m = &home.mount;
    sh(m, "echo one > a; echo old > gone; echo g > ren; mkdir d; echo x > d/x; ln a d/hard; touch -d 2001-02-03 a");
    home.ok(&["commit", "p"]);
    let before = tree(m);
    sh(m, "echo two > a; rm gone; echo new > new; mv ren named; chmod 600 d/x; rm d/hard; ln -s a link");
    let change = commit(&home);
    let inode = std::fs::metadata(m.join("a")).unwrap().ino();
    let watch = inotify::init(CreateFlags::NONBLOCK).unwrap();
    inotify::add_watch(&watch, m, WatchFlags::ALL_EVENTS).unwrap();
    let said = home.ize(&["undo", "p", "--yes"]);
    assert_eq!(said.code, 0, "{said:?}");
    for line in ["write      a", "create     gone", "remove     new", "rename     named -> ren", "attributes d/x", "create     d/hard"] {
        assert!(said.out.lines().any(|l| l == line), "{line}: {said:?}");
    }
    assert!(said.out.contains(&change), "whose change it is: {said:?}");
    let seen = events(&watch);
    let has = |name: &str, what: ReadFlags| seen.iter().any(|(n, e)| n == name && e.contains(what));
    for (name, what) in [
        ("a", ReadFlags::MODIFY),
        ("a", ReadFlags::CLOSE_WRITE),
        ("gone", ReadFlags::CREATE),
        ("new", ReadFlags::DELETE),
        ("named", ReadFlags::MOVED_FROM),
        ("ren", ReadFlags::MOVED_TO),
    ] {
        assert!(has(name, what), "{name} {what:?}: {seen:?}");
    }
    assert_eq!(tree(m), before);
    let metadata = std::fs::metadata(m.join("a")).unwrap();
    assert_eq!((metadata.ino(), metadata.nlink()), (inode, 2));
    // It is a change of its own, which says what it is and who did it.
    let newest = &home.history()[0];
    assert_eq!(newest["label"], format!("undo {change}"));
    assert_eq!(newest["process"], "ize");
    // It survives the daemon.
    home.kill();
    home.mount();
    assert_eq!(tree(m), before);
    home.ok(&["redo", "p", "--yes"]);
    assert_eq!((read(m.join("a")), read(m.join("new"))), ("two\n".to_owned(), "new\n".to_owned()));
    home.ok(&["fsck", "p"]);
}

#[test]
fn undo_is_sequential_previews_asks_and_names_the_way_out() {
    let home = Home::new();
    home.mount();
    let m = &home.mount;
    std::fs::write(m.join("f"), numbers(&[])).unwrap();
    home.ok(&["commit", "p"]);
    std::fs::write(m.join("f"), numbers(&[(3, "three")])).unwrap();
    let one = commit(&home);
    std::fs::write(m.join("f"), numbers(&[(3, "THREE")])).unwrap();
    // What is in no version yet becomes one first.
    let look = home.ize_in(m, &["undo", "--dry-run", "--json"]);
    let two = id(&home);
    let object = json(&look);
    assert_eq!((object["way"].as_str(), object["change"]["id"].as_str(), object["made"].is_null()), (Some("undo"), Some(&*two), true));
    assert_eq!(object["steps"][0]["what"], "write");
    assert_eq!(read(m.join("f")), numbers(&[(3, "THREE")]));
    // The one before is needed by it.
    let refused = home.ize_in(m, &["undo", &one, "--yes"]);
    assert_eq!(refused.code, 9, "{refused:?}");
    assert!(refused.out.contains(&two) && refused.err.contains(&format!("ize undo {two}")), "{refused:?}");
    let refused = home.ize(&["undo", "p", &one, "--json"]);
    assert_eq!((refused.code, json(&refused)["blocked"][0]["changes"][0]["id"].as_str()), (9, Some(&*two)));
    home.ok(&["undo", "p"]);
    home.ok(&["undo", "p"]);
    assert_eq!(read(m.join("f")), numbers(&[]));
    home.ok(&["redo", "p"]);
    home.ok(&["redo", "p"]);
    assert_eq!(read(m.join("f")), numbers(&[(3, "THREE")]));
    assert_eq!(home.ize(&["redo", "p"]).code, 3);
    // What goes wants a yes.
    std::fs::write(m.join("g"), "g").unwrap();
    let asked = home.ize(&["undo", "p"]);
    assert_eq!((asked.code, m.join("g").exists()), (9, true), "{asked:?}");
    assert_eq!(home.ize(&["undo", "p", "0123456789", "--yes"]).code, 3);
    home.ok(&["undo", "p", "--yes"]);
    assert!(!m.join("g").exists());
    // The same without a mount.
    home.unmount();
    home.ok(&["redo", "p"]);
    home.ok(&["undo", "p", &two]);
    home.mount();
    assert_eq!((read(m.join("f")), read(m.join("g"))), (numbers(&[(3, "three")]), "g".to_owned()));
    let labels: Vec<Value> = home.history().iter().take(2).map(|c| c["label"].clone()).collect();
    assert_eq!(labels[0], format!("undo {two}"));
    home.ok(&["fsck", "p", "--deep"]);
}

/// The undo of one who works beside others takes only what he made; the others' work is a version of its own, and stays.
#[test]
fn others_who_write_meanwhile_keep_their_work_and_their_versions() {
    let home = Home::new();
    home.mount();
    let m = &home.mount;
    sh(m, "mkdir mine theirs; seq 1 50 > mine/f");
    home.ok(&["commit", "p"]);
    sh(m, "sed -i s/25/twenty-five/ mine/f");
    let change = commit(&home);
    let script = "i=0; while [ ! -e ../stop ]; do i=$((i+1)); echo $i > f$((i % 9)); done; echo $i > last";
    let mut other = Command::new("setsid").args(["bash", "-c", script]).current_dir(m.join("theirs")).spawn().unwrap();
    for round in 0..6 {
        let said = home.ize(&[if round % 2 == 0 { "undo" } else { "redo" }, "p", &change, "--yes"]);
        assert_eq!(said.code, 0, "round {round}: {said:?}");
    }
    std::fs::write(m.join("stop"), "").unwrap();
    assert!(other.wait().unwrap().success());
    home.ok(&["commit", "p"]);
    let count: u64 = read(m.join("theirs/last")).trim().parse().unwrap();
    assert_eq!(read(m.join(format!("theirs/f{}", count % 9))).trim(), count.to_string());
    let labelled: Vec<Value> = home.history().into_iter().filter(|c| c["label"].is_string()).collect();
    assert_eq!(labelled.len(), 6);
    for version in labelled {
        let paths: Vec<&str> = version["paths"].as_array().unwrap().iter().map(|p| p.as_str().unwrap()).collect();
        assert_eq!((paths, version["process"].as_str().unwrap()), (vec!["mine/f"], "ize"), "{version}");
    }
}

fn client() -> PathBuf {
    let given = std::env::var_os("IZE_TEST_PIJUL").map_or_else(|| "pijul".into(), PathBuf::from);
    let works = Command::new(&given).arg("--version").output().is_ok_and(|o| o.status.success());
    assert!(works, "the real pijul client is needed: `.ci/pijul` builds it and prints its path for IZE_TEST_PIJUL");
    given
}

fn pijul(dir: &Path, home: &Path, args: &[&str]) -> String {
    let output = Command::new(client()).args(args).current_dir(dir).env("HOME", home).env("NO_COLOR", "1").output().unwrap();
    let said = said(output);
    assert_eq!(said.code, 0, "pijul {args:?}: {said:?}");
    said.out
}

/// Files with their bytes, without sidecars and the client's own.
fn files(dir: &Path) -> BTreeMap<PathBuf, String> {
    let mut out = BTreeMap::new();
    let mut work = vec![dir.to_owned()];
    while let Some(at) = work.pop() {
        for entry in std::fs::read_dir(&at).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(dir).unwrap();
            if [".pijul", ".ize-meta", ".ignore"].iter().any(|n| name == Path::new(n)) {
                continue;
            }
            if path.is_dir() { work.push(path) } else { drop(out.insert(name.to_owned(), read(&path))) }
        }
    }
    out
}

/// One change in the middle of many, each with a chmod elsewhere: undone in under a second, the rest stays, and the real client's own unrecord
/// in a clone gives the same files.
#[test]
fn one_of_the_middle_of_many_goes_as_the_real_client_takes_it_out() {
    let home = Home::new();
    home.mount();
    let m = &home.mount;
    let rounds: usize = std::env::var("IZE_TEST_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(60);
    sh(m, "mkdir src other; for i in $(seq 0 19); do seq 1 200 > src/f$i; done; echo x > other/there");
    sh(m, &format!("cd other; touch $(seq -f o%.0f 0 {rounds})"));
    home.ok(&["commit", "p"]);
    let edit = |n: usize| {
        // Lines far from one another: at most ten edits of a file touch the same neighbourhood, never next to each other.
        let (file, line) = (m.join(format!("src/f{}", n % 20)), (n / 20) * 3 % 198);
        let mut lines: Vec<String> = read(&file).lines().map(str::to_owned).collect();
        lines[line] = format!("edit {n}");
        std::fs::write(file, lines.join("\n") + "\n").unwrap();
        std::fs::set_permissions(m.join(format!("other/o{n}")), std::fs::Permissions::from_mode(0o600)).unwrap();
    };
    let mut middle = String::new();
    for n in 0..rounds {
        edit(n);
        home.ok(&["commit", "p"]);
        if n == rounds / 2 {
            sh(m, "echo only here > src/middle; mv other/there other/moved");
            home.ok(&["commit", "p"]);
            middle = id(&home);
        }
    }
    // One that edits a text that later ones edit, too.
    let all = home.history();
    let of_file: Vec<&Value> = all.iter().filter(|c| c["paths"].as_array().unwrap().iter().any(|p| p == "src/f7")).collect();
    let text = of_file[1]["id"].as_str().unwrap().to_owned();
    let hash_of = |id: &str| {
        let history = home.history();
        let change = history.iter().find(|c| c["id"] == id).unwrap();
        change["hash"].as_str().unwrap().to_owned()
    };
    let clone = home.path().join("clone");
    pijul(home.path(), home.path(), &["clone", home.project().to_str().unwrap(), clone.to_str().unwrap()]);
    assert_eq!(files(&clone), files(m));
    for (n, change) in [text, middle].iter().enumerate() {
        let hash = hash_of(change);
        let begun = Instant::now();
        let said = home.ize(&["undo", "p", change, "--yes"]);
        let took = begun.elapsed();
        assert_eq!(said.code, 0, "{said:?}");
        eprintln!("undo of one of {rounds}: {took:?}");
        assert!(took.as_secs_f64() < 5.0, "{took:?}");
        pijul(&clone, home.path(), &["unrecord", &hash]);
        // Its working copy keeps what it had: what is recorded shows in a clone of it.
        let left = home.path().join(format!("left{n}"));
        pijul(home.path(), home.path(), &["clone", clone.to_str().unwrap(), left.to_str().unwrap()]);
        let (theirs, ours) = (files(&left), files(m));
        let differ: Vec<&PathBuf> = theirs.keys().chain(ours.keys()).filter(|p| theirs.get(*p) != ours.get(*p)).collect();
        assert!(differ.is_empty(), "{change}: {differ:?}");
    }
    assert!(!m.join("src/middle").exists() && m.join("other/there").exists());
    home.ok(&["commit", "p"]);
    let fresh = home.path().join("fresh");
    pijul(home.path(), home.path(), &["clone", home.project().to_str().unwrap(), fresh.to_str().unwrap()]);
    assert_eq!(files(&fresh), files(m));
    home.ok(&["fsck", "p"]);
}

/// An `ize undo` that is killed between two steps leaves recorded steps of its own, which the next undo takes back.
#[test]
fn an_undo_that_is_killed_half_way_can_be_undone() {
    let home = Home::new();
    home.mount();
    let m = &home.mount;
    sh(m, "mkdir d; for i in $(seq 400); do echo $i > d/f$i; done");
    home.ok(&["commit", "p"]);
    sh(m, "rm -r d");
    let change = commit(&home);
    let (mut cut, mut rng) = (0, StdRng::seed_from_u64(5));
    for _ in 0..40 {
        let before = tree(m);
        let mut undo = home.command(&["undo", "p", &change, "--yes"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        eventually("the first step", || m.join("d").exists() || undo.try_wait().unwrap().is_some());
        std::thread::sleep(Duration::from_micros(rng.random_range(0..40_000)));
        undo.kill().unwrap();
        undo.wait().unwrap();
        if commit(&home) == change {
            continue;
        }
        // Either it was cut short, and what it did is a change without its label, or it was done before.
        let short = home.history()[0]["label"].is_null();
        cut += u32::from(short);
        if short {
            home.ok(&["undo", "p", "--yes"]);
        } else {
            home.ok(&["redo", "p", "--yes"]);
        }
        let names = |tree: &BTreeMap<PathBuf, String>| tree.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&tree(m)), names(&before));
        if cut >= 2 {
            break;
        }
    }
    assert!(cut > 0, "it was never cut short");
    home.ok(&["fsck", "p"]);
}

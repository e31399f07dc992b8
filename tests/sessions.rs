//! Programs of several sessions at work in one mount: what has paths of its own has versions of its own. Needs `make`, `cc` and `setsid`.

#![allow(clippy::unwrap_used, reason = "a test stops where it cannot go on")]

mod support;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use support::{Home, sh};

/// Saves of the editor.
const SAVES: usize = 4;
/// Between them, longer than the pause that ends a version by default.
const PAUSE: Duration = Duration::from_millis(2500);

/// A program in a session of its own.
fn start(dir: &Path, words: &[&str]) -> Child {
    Command::new("setsid").args(words).current_dir(dir).stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap()
}

fn text(save: usize) -> String {
    format!("save {save}\n").repeat(save * 100)
}

/// A C project with a Makefile; the recipes take a while each, or the build would be over before the editor saves.
fn c_project(dir: &Path) {
    for n in 0..64 {
        std::fs::write(dir.join(format!("f{n}.c")), format!("int f{n}(void) {{ return {n}; }}\n")).unwrap();
    }
    std::fs::write(dir.join("notes.txt"), text(0)).unwrap();
    let makefile = "OBJECTS = $(patsubst %.c,%.o,$(wildcard *.c))\n\
        all: libf.a\n\
        %.o: %.c\n\tsleep 1; $(CC) -c -o $@.tmp $< && mv $@.tmp $@\n\
        libf.a: $(OBJECTS)\n\t$(AR) rc $@ $(OBJECTS)\n";
    std::fs::write(dir.join("Makefile"), makefile).unwrap();
}

fn strings(of: &Value, key: &str) -> BTreeSet<String> {
    of[key].as_array().unwrap().iter().map(|v| v.as_str().unwrap().to_owned()).collect()
}

fn sessions(version: &Value) -> BTreeSet<u64> {
    version["processes"].as_array().unwrap().iter().map(|p| p["session"].as_u64().unwrap()).collect()
}

/// Builds with `make -j8` while an editor saves in the same directory, each time by writing a new file and renaming it over the old one.
/// Gives the sessions of the two.
fn build_and_edit(dir: &Path) -> (u64, u64) {
    let mut make = start(dir, &["make", "-j8"]);
    // A shell of its own session, whose saves are processes of their own.
    let mut editor = Command::new("setsid")
        .args([
            "bash",
            "-euc",
            "while read -r save; do cat \"$save\" > .notes.txt.swp; sync .notes.txt.swp; mv .notes.txt.swp notes.txt; echo; done",
        ])
        .current_dir(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut say, mut said) = (editor.stdin.take().unwrap(), std::io::BufReader::new(editor.stdout.take().unwrap()));
    let texts = tempfile::tempdir().unwrap();
    for save in 1..=SAVES {
        std::thread::sleep(PAUSE);
        let path = texts.path().join(save.to_string());
        std::fs::write(&path, text(save)).unwrap();
        std::io::Write::write_all(&mut say, format!("{}\n", path.display()).as_bytes()).unwrap();
        let mut line = String::new();
        assert_eq!(std::io::BufRead::read_line(&mut said, &mut line).unwrap(), 1, "the editor saved");
    }
    drop(say);
    let pids = (u64::from(make.id()), u64::from(editor.id()));
    assert!(make.wait().unwrap().success() && editor.wait().unwrap().success());
    pids
}

/// Every save is in a version of its own, in which the build has no part; gives how many versions there are.
fn check(home: &Home, (make, editor): (u64, u64)) -> usize {
    let history = home.history();
    let own: BTreeSet<String> = [".notes.txt.swp", "notes.txt"].map(str::to_owned).into();
    let mut saves = BTreeSet::new();
    for version in &history {
        let (who, paths) = (sessions(version), strings(version, "paths"));
        if who.contains(&editor) {
            assert_eq!(who, BTreeSet::from([editor]), "{version}");
            assert!(paths.is_subset(&own), "{version}");
            if paths.contains("notes.txt") {
                let id = version["id"].as_str().unwrap();
                saves.insert(home.ok(&["cat", "p", "notes.txt", "--at", id]));
            }
        } else if who.contains(&make) {
            assert_eq!(who, BTreeSet::from([make]), "{version}");
            assert!(
                paths.iter().all(|p| p.ends_with(".o") || p.ends_with(".tmp") || p.ends_with(".a") || p.starts_with("st")),
                "{version}"
            );
        }
    }
    assert_eq!(saves, (1..=SAVES).map(text).collect());
    history.len()
}

#[test]
fn an_editor_that_saves_beside_a_build_has_its_own_versions_and_the_build_has_few() {
    let home = Home::new();
    home.mount();
    c_project(&home.mount);
    home.ok(&["commit", "p", "-m", "sources"]);
    let pids = build_and_edit(&home.mount);
    home.ok(&["commit", "p", "-m", "built"]);
    let versions = check(&home, pids);
    eprintln!("{versions} versions");
    assert!(versions < 20, "{versions} versions");
    let newest = home.history()[0].clone();
    assert_eq!(newest["label"], "built");
    let library = std::fs::read(home.mount.join("libf.a")).unwrap();
    assert!(library.starts_with(b"!<arch>\n"));
    // The newest version is the mount, also after a kill.
    home.kill();
    home.mount();
    assert_eq!(std::fs::read(home.mount.join("libf.a")).unwrap(), library);
    assert_eq!(home.ize(&["cat", "p", "libf.a", "--at", newest["id"].as_str().unwrap()]).bytes, library);
    home.unmount();
    let fsck = home.ize(&["fsck", "p"]);
    assert_eq!(fsck.code, 0, "{fsck:?}");
}

/// A daemon that is killed while both work makes the same of what the log holds.
#[test]
fn after_a_kill_the_log_becomes_versions_by_session_all_the_same() {
    let home = Home::new();
    // Nothing ends a version but the kill and what comes after it.
    for key in ["group.idle", "group.age"] {
        home.ok(&["config", "set", key, "1h"]);
    }
    home.mount();
    home.ok(&["commit", "p", "-m", "empty"]);
    let write = |name: &str| {
        let mut it = start(&home.mount, &["sh", "-c", &format!("for i in 1 2 3; do echo $i > {name}$i; done")]);
        let pid = u64::from(it.id());
        assert!(it.wait().unwrap().success());
        pid
    };
    let (a, b) = (write("a"), write("b"));
    home.kill();
    home.mount();
    let c = write("c");
    home.ok(&["commit", "p", "-m", "after"]);
    let history = home.history();
    let made: Vec<_> = history[..3].iter().map(|v| (sessions(v), strings(v, "paths").len())).collect();
    assert_eq!(made, [c, b, a].map(|session| (BTreeSet::from([session]), 3)), "{history:#?}");
    assert_eq!(history[0]["label"], "after");
}

#[test]
fn two_sessions_that_append_to_one_file_are_one_version_that_names_both() {
    let home = Home::new();
    for key in ["group.idle", "group.age"] {
        home.ok(&["config", "set", key, "1h"]);
    }
    home.mount();
    sh(&home.mount, "echo > shared");
    home.ok(&["commit", "p", "-m", "before"]);
    let append =
        |name: &str| start(&home.mount, &["sh", "-c", &format!("for i in 1 2 3 4 5; do echo {name} $i >> shared; done; echo > {name}")]);
    let (mut a, mut b) = (append("a"), append("b"));
    let pids = BTreeSet::from([u64::from(a.id()), u64::from(b.id())]);
    assert!(a.wait().unwrap().success() && b.wait().unwrap().success());
    home.ok(&["commit", "p"]);
    let history = home.history();
    assert_eq!((history.len(), sessions(&history[0])), (2, pids), "{history:#?}");
    assert_eq!(strings(&history[0], "paths"), ["a", "b", "shared"].map(str::to_owned).into());
    // With one part allowed, what has nothing in common is one version too.
    home.unmount();
    home.ok(&["config", "set", "group.parts", "1"]);
    home.mount();
    for name in ["c", "d"] {
        assert!(start(&home.mount, &["sh", "-c", &format!("echo > {name}")]).wait().unwrap().success());
    }
    home.ok(&["commit", "p"]);
    assert_eq!(strings(&home.history()[0], "paths"), ["c", "d"].map(str::to_owned).into());
}

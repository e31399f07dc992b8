//! The real `pijul` client on what the mount wrote: it agrees with `ize history` and with the files, also when the daemon is killed while
//! versions are being made.

#![cfg(feature = "pijul")]
#![allow(clippy::unwrap_used, reason = "a test stops where it cannot go on")]

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rand::prelude::*;

use support::{Home, kill_now, said, sh};

fn client() -> PathBuf {
    let given = std::env::var_os("IZE_TEST_PIJUL").map_or_else(|| "pijul".into(), PathBuf::from);
    let works = Command::new(&given).arg("--version").output().is_ok_and(|o| o.status.success());
    assert!(works, "the real pijul client is needed: `.ci/pijul` builds it and prints its path for IZE_TEST_PIJUL");
    given
}

fn pijul(dir: &Path, args: &[&str]) -> String {
    let output = Command::new(client()).args(args).current_dir(dir).env("HOME", dir).env("NO_COLOR", "1").output().unwrap();
    let said = said(output);
    assert_eq!(said.code, 0, "pijul {args:?}: {said:?}");
    said.out
}

/// Change ids (the first word of each message) as `pijul log` has them, newest first, and the hashes beside them.
fn logged(project: &Path) -> Vec<(String, String)> {
    let log = pijul(project, &["log"]);
    let (mut out, mut hash) = (Vec::new(), String::new());
    for line in log.lines() {
        if let Some(h) = line.strip_prefix("Change ") {
            hash = h.trim().to_owned();
        } else if let Some(message) = line.strip_prefix("    ")
            && !hash.is_empty()
        {
            out.push((message.split(' ').next().unwrap().to_owned(), std::mem::take(&mut hash)));
        }
    }
    out
}

fn agrees(home: &Home) {
    let project = home.project();
    let history: Vec<(String, String)> =
        home.history().iter().map(|c| (c["id"].as_str().unwrap().to_owned(), c["hash"].as_str().unwrap_or("no hash").to_owned())).collect();
    assert_eq!(logged(&project), history, "`pijul log` and `ize history` differ");
}

/// Files (not directories) of a tree with their bytes; what stands for sidecars and the client's own files is left out.
fn files(dir: &Path) -> std::collections::BTreeMap<PathBuf, Vec<u8>> {
    let mut out = std::collections::BTreeMap::new();
    let mut work = vec![dir.to_owned()];
    while let Some(at) = work.pop() {
        for entry in std::fs::read_dir(&at).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(dir).unwrap();
            if [".pijul", ".ize-meta", ".ignore"].iter().any(|n| name == Path::new(n)) {
                continue;
            }
            if path.is_dir() {
                work.push(path);
            } else {
                out.insert(name.to_owned(), std::fs::read(&path).unwrap());
            }
        }
    }
    out
}

#[test]
fn the_real_client_agrees_with_the_history_and_with_the_files() {
    let home = Home::new();
    home.mount();
    let m = &home.mount;
    sh(m, "mkdir -p src/deep empty; seq 1 100 > src/a.txt; echo hello > src/deep/b; printf 'no newline' > c; chmod +x c");
    home.ok(&["commit", "p", "-m", "a beginning"]);
    sh(m, "sed -i 50d src/a.txt; mv src/deep src/deeper; rm c; echo new > d; ln d hard; mv d e.tmp; mv e.tmp src/deeper/b");
    home.ok(&["commit", "p"]);
    std::fs::write(m.join("big.bin"), vec![0u8; 3_000_000]).unwrap();
    home.ok(&["commit", "p", "-m", "a large one"]);
    agrees(&home);
    let project = home.project();
    let log = pijul(&project, &["log"]);
    assert!(log.contains("a beginning") && log.contains("src/a.txt"), "{log}");
    assert!(pijul(&project, &["channel"]).contains("main"));
    let newest = logged(&project)[0].1.clone();
    assert!(pijul(&project, &["change", &newest]).contains("big.bin"));
    let list = pijul(&project, &["list"]);
    for path in ["src/a.txt", "src/deeper/b", "hard", "big.bin"] {
        assert!(list.lines().any(|l| l.trim() == path), "`pijul list` lacks {path}: {list}");
    }
    let clone = home.path().join("clone");
    pijul(home.path(), &["clone", project.to_str().unwrap(), clone.to_str().unwrap()]);
    let (mut mounted, mut cloned) = (files(m), files(&clone));
    // Large files are manifests there: their chunks are in the store.
    assert_eq!(mounted.remove(Path::new("big.bin")).unwrap().len(), 3_000_000);
    let manifest = cloned.remove(Path::new("big.bin")).unwrap();
    assert!(manifest.starts_with(b"ize-manifest 1 3000000"), "{}", String::from_utf8_lossy(&manifest));
    assert_eq!(cloned, mounted);
    assert_eq!(pijul(&clone, &["diff"]).trim(), "", "a fresh clone is not clean");
}

#[test]
fn sigkill_during_replay_leaves_each_version_in_pijul_exactly_once_and_in_order() {
    let home = Home::new();
    let mut rng = StdRng::seed_from_u64(9);
    let rounds: u32 = std::env::var("IZE_TEST_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(12);
    for round in 0..rounds {
        home.mount();
        let pid = home.daemon();
        let after = Duration::from_micros(rng.random_range(0..150_000));
        let killer = std::thread::spawn(move || {
            std::thread::sleep(after);
            kill_now(pid);
        });
        for i in 0..30 {
            let written = std::fs::write(home.mount.join(format!("f{}", i % 5)), format!("round {round}, line {i}\n"));
            if written.is_err() || home.ize(&["commit", "p"]).code != 0 {
                break;
            }
        }
        killer.join().unwrap();
    }
    home.mount();
    std::fs::write(home.mount.join("last"), "1").unwrap();
    home.ok(&["commit", "p"]);
    agrees(&home);
    let ids: Vec<String> = logged(&home.project()).into_iter().map(|(id, _)| id).collect();
    let unique: std::collections::BTreeSet<&String> = ids.iter().collect();
    assert_eq!(unique.len(), ids.len(), "a version is there twice");
    let clone = home.path().join("clone");
    pijul(home.path(), &["clone", home.project().to_str().unwrap(), clone.to_str().unwrap()]);
    assert_eq!(files(&clone), files(&home.mount));
}

/// Paths of class none or recent are not shown to Pijul, also those that a new rule takes in; thinning leaves what it still needs.
#[test]
fn pijul_has_only_what_has_a_lasting_history() {
    let home = Home::new();
    home.mount();
    let m = &home.mount;
    sh(m, "mkdir -p web/node_modules obj; echo '*.o' > .izeignore; echo a > a.c; echo o > a.o; echo o > obj/b.o; echo l > x.log");
    sh(m, "seq 1 99 > web/node_modules/lib.js; echo w > web/index.js; ln a.c hard.o; ln x.log other");
    home.ok(&["commit", "p"]);
    let project = home.project();
    let clone = |name: &str| {
        let clone = home.path().join(name);
        pijul(home.path(), &["clone", project.to_str().unwrap(), clone.to_str().unwrap()]);
        files(&clone)
    };
    let wanted = |left_out: &[&str]| {
        let mut all = files(m);
        all.retain(|path, _| !left_out.iter().any(|out| path == Path::new(out) || path.starts_with(out)));
        all
    };
    let first = ["a.o", "obj/b.o", "hard.o", "web/node_modules"];
    assert_eq!(clone("one"), wanted(&first));
    // A rule more, a rule less, and changes of both kinds beside them.
    sh(m, "printf '*.log\\n!b.o\\n' > .izeignore; echo more >> a.c; echo more >> x.log; echo more >> a.o; mv web site; echo n > new.log");
    home.ok(&["commit", "p"]);
    assert_eq!(clone("two"), wanted(&["x.log", "new.log", "site/node_modules"]));
    for i in 0..4 {
        sh(m, &format!("echo {i} >> a.c; echo {i} >> site/node_modules/lib.js; mv site site{i}; mv site{i} site"));
        home.ok(&["commit", "p"]);
    }
    home.ok(&["thin", "p", "--keep-all", "0"]);
    sh(m, "rm a.o x.log; echo last > a.c");
    home.ok(&["commit", "p"]);
    assert_eq!(clone("three"), wanted(&["new.log", "site/node_modules"]));
    home.ok(&["fsck", "p", "--deep"]);
}

/// A Pijul repository that takes nothing must not make the store grow beyond its limit; what it has last stays, so that it can go on.
#[test]
fn versions_that_pijul_lacks_go_where_the_store_is_too_large_and_pijul_goes_on_behind_them() {
    let home = Home::new();
    home.ok(&["init", "p"]);
    for (key, value) in [("group.idle", "100ms"), ("log.segment-size", "1MiB"), ("prune.max-age", "never"), ("prune.max-size", "unlimited")]
    {
        home.ok(&["config", "set", key, value, "--project", "p"]);
    }
    home.mount();
    let m = &home.mount;
    sh(m, "seq 1 2000 > a.txt; echo one > b.txt");
    home.ok(&["commit", "p", "-m", "Pijul has this one"]);
    sh(m, "rm b.txt; seq 3 1000 > a.txt");
    home.ok(&["commit", "p"]);
    let head = home.status()["pijul"].as_u64().unwrap();
    home.kill();
    let pristine = home.project().join(".pijul/pristine");
    let away = home.path().join("pristine");
    std::fs::rename(&pristine, &away).unwrap();
    std::fs::write(&pristine, "nothing").unwrap();
    home.mount();
    for i in 0..40u64 {
        let mut bytes = vec![0; 300_000];
        StdRng::seed_from_u64(i).fill(bytes.as_mut_slice());
        std::fs::write(m.join("noise"), &bytes).unwrap();
        sh(m, &format!("echo {i} >> a.txt; touch d{i}"));
        // It is safe, though not in Pijul.
        assert!([0, 1].contains(&home.ize(&["commit", "p"]).code));
    }
    let before = home.history().len();
    assert!(before >= 42, "{before}");
    // Within the limit nothing goes that Pijul lacks.
    home.ok(&["thin", "p", "--keep-all", "0", "--keep-hourly", "0"]);
    assert!(home.history().len() + 1 >= before, "{} of {before}", home.history().len());
    let size = || home.status()["size"]["packs"].as_u64().unwrap();
    let large = size();
    home.ok(&["thin", "p", "--max-store", "2MiB"]);
    let left: Vec<u64> = home.history().iter().map(|v| v["seq"].as_u64().unwrap()).collect();
    assert!(left.len() < 8 && left.contains(&head), "{left:?}");
    assert!(size() < large / 4, "{large} became {}", size());
    home.kill();
    std::fs::remove_file(&pristine).unwrap();
    std::fs::rename(&away, &pristine).unwrap();
    home.mount();
    // Of a large file Pijul has a list of its chunks.
    sh(m, "echo last > last; rm noise");
    home.ok(&["commit", "p"]);
    let clone = home.path().join("clone");
    pijul(home.path(), &["clone", home.project().to_str().unwrap(), clone.to_str().unwrap()]);
    assert!(files(&clone) == files(m));
    home.ok(&["fsck", "p", "--deep"]);
}

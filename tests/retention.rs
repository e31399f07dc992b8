//! What stays of the history, and what goes: thinning by age and by size, paths without history.

#![allow(clippy::unwrap_used, reason = "a test stops where it cannot go on")]

mod support;

use std::collections::BTreeMap;
use std::process::Command;

use ize::engine::states::Store;
use ize::error::{Class, Error};
use ize::ids::{Time, VersionSeq};
use ize::project::Project;
use ize::storage::Disk;
use ize::versions::checkpoint;
use ize::versions::version_log::{Action, Mode, Version, VersionLog};
use serde_json::Value;
use support::{Home, eventually, kill_now, lines};

const DAY: i64 = 86_400;

/// Bytes that nothing shrinks.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new_derive_key("retention").update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

/// Makes the versions of a project that nobody has open as old as `age` says, in seconds, by their numbers.
fn age(home: &Home, age: &dyn Fn(u64) -> i64) {
    let project = Project::open(home.project()).unwrap();
    let (layout, id) = (&project.layout, project.identity.id);
    let disk = Disk::shared();
    let checkpoint = checkpoint::read(&*disk, &layout.checkpoint(), id).unwrap().unwrap();
    let mode = Mode::Write { keep_up_to: checkpoint.version };
    let mut log = VersionLog::open(disk, layout.versions(), id, mode).unwrap();
    let now = Time::now();
    log.rewrite(&mut |v: &Version| {
        let then = Time { secs: now.secs - age(v.seq.0), nanos: 0 };
        Ok(Action::Change(Version { begin: then, end: then, ..v.clone() }))
    })
    .unwrap();
}

fn versions(home: &Home) -> Vec<Version> {
    let project = Project::open(home.project()).unwrap();
    let mode = Mode::ReadOnly { keep_up_to: None };
    let log = VersionLog::open(Disk::shared(), project.layout.versions(), project.identity.id, mode).unwrap();
    log.iter().map(Result::unwrap).collect()
}

/// Every path of every version, by the version's id.
fn states(home: &Home) -> BTreeMap<String, BTreeMap<std::path::PathBuf, String>> {
    let mut all = BTreeMap::new();
    for (n, version) in versions(home).iter().enumerate() {
        let dir = home.path().join(format!("state-{n}"));
        home.ok(&["export", "p", dir.to_str().unwrap(), "--at", &version.id.to_string()]);
        all.insert(version.id.to_string(), support::tree(&dir));
        std::fs::remove_dir_all(&dir).unwrap();
    }
    all
}

fn one(text: &str) -> Value {
    lines(text).remove(0)
}

/// Bytes that the project's directory takes of the disk.
fn taken(home: &Home) -> u64 {
    on_disk(&home.project())
}

fn on_disk(dir: &std::path::Path) -> u64 {
    let out = Command::new("du").args(["-s", "--block-size=1"]).arg(dir).output().unwrap();
    String::from_utf8(out.stdout).unwrap().split('\t').next().unwrap().parse().unwrap()
}

#[test]
fn by_age_the_last_version_of_each_hour_and_day_stays_and_stands_for_the_others() {
    let home = Home::new();
    home.mount();
    for i in 1..=9u64 {
        std::fs::write(home.mount.join("a"), noise(i, 70_000)).unwrap();
        std::fs::write(home.mount.join(format!("file {i}")), format!("{i}\n")).unwrap();
        let label = if i == 2 { vec!["commit", "p", "-m", "pinned"] } else { vec!["commit", "p"] };
        home.ok(&label);
    }
    home.unmount();
    assert_eq!(versions(&home).len(), 9);
    // 1 to 4 in one day, 5 and 6 in one hour, 7 and 8 young; long after noon, so that no day or hour ends in between.
    // As long as the log goes on from them, they stay.
    assert_eq!(one(&home.ok(&["thin", "p", "--keep-all", "0", "--keep-hourly", "0", "--dry-run", "--json"]))["dropped"], 0);
    home.ok(&["wal", "prune", "p", "--max-size", "0"]);
    let now = Time::now().secs;
    let noon = |days: i64| now.rem_euclid(DAY) + days * DAY - DAY / 2;
    let ages = [noon(200), noon(200) - 60, noon(200) - 120, noon(200) - 4000, noon(50), noon(50) - 60, 7200, 3600, 10];
    age(&home, &|seq| ages[seq as usize - 1]);
    let before = states(&home);
    let ids: Vec<String> = versions(&home).iter().map(|v| v.id.to_string()).collect();
    // Within max-store nothing goes.
    let report = one(&home.ok(&["thin", "p", "--json"]));
    assert_eq!((&report["dropped"], &report["left"], &report["stuck"]), (&0.into(), &9.into(), &false.into()), "{report}");
    let dry = one(&home.ok(&["thin", "p", "--keep-all", "30d", "--dry-run", "--json"]));
    let gone: Vec<u64> = dry["versions"].as_array().unwrap().iter().map(|v| v["seq"].as_u64().unwrap()).collect();
    assert_eq!(gone, [1, 3, 5], "{dry}");
    assert_eq!(versions(&home).len(), 9, "a preview changes nothing");
    let real = one(&home.ok(&["thin", "p", "--keep-all", "30d", "--json"]));
    assert_eq!((&real["versions"], &real["left"]), (&dry["versions"], &6.into()));
    let left: Vec<(u64, u64)> = versions(&home).iter().map(|v| (v.seq.0, v.thinned)).collect();
    assert_eq!(left, [(2, 1), (4, 1), (6, 1), (7, 0), (8, 0), (9, 0)]);
    let after = states(&home);
    assert_eq!(after.len(), 6);
    assert!(after.iter().all(|(id, state)| before[id] == *state), "each is what it was");
    // It is said in the history, by the number and for people, and whose id is gone is not found.
    let history = home.history();
    assert_eq!(history.iter().map(|v| v["stands_for"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 0, 0, 1, 1, 1]);
    assert!(home.ok(&["history", "p"]).contains("stands for 1 other"));
    let gone = home.ize(&["cat", "p", "a", "--at", &ids[0]]);
    assert_eq!((gone.code, gone.bytes.len()), (3, 0), "{gone:?}");
    // What a dropped version changed is listed with the one that stands for it.
    assert!(home.history()[5]["paths"].as_array().unwrap().contains(&"file 1".into()));
    let status = home.status();
    assert_eq!((&status["thinned"], &status["last_thinning"]["versions"]), (&3.into(), &3.into()), "{status}");
    assert!(home.ok(&["status", "p"]).contains("3 of them thinned out"));
    assert_eq!(one(&home.ok(&["thin", "p", "--keep-all", "30d", "--json"]))["dropped"], 0, "once is enough");
    home.ok(&["fsck", "p", "--deep"]);
    // And a mount goes on from there.
    home.mount();
    std::fs::write(home.mount.join("a"), "more").unwrap();
    home.unmount();
    assert_eq!(versions(&home).last().unwrap().seq, VersionSeq(10));
    home.ok(&["fsck", "p", "--deep"]);
}

#[test]
fn a_smaller_limit_thins_harder_and_frees_space_but_keeps_what_is_pinned() {
    let home = Home::new();
    home.mount();
    for i in 1..=12u64 {
        std::fs::write(home.mount.join("a"), noise(i, 2_000_000)).unwrap();
        let label = if i == 3 { vec!["commit", "p", "-m", "pinned"] } else { vec!["commit", "p"] };
        home.ok(&label);
    }
    home.unmount();
    home.ok(&["wal", "prune", "p", "--max-size", "0"]);
    let before = taken(&home);
    let full = states(&home);
    let limit = (before - 9_000_000).to_string();
    let report = one(&home.ok(&["thin", "p", "--max-store", &limit, "--json"]));
    assert!(report["bytes_after"].as_u64().unwrap() <= before - 9_000_000 && report["stuck"] == false, "{report}");
    assert!(taken(&home) <= before - 9_000_000, "{} of {before}: {report}", taken(&home));
    assert!(report["grain"].is_string(), "young versions go only when it has to be: {report}");
    let left = versions(&home);
    assert!(left.len() < 12 && left.iter().any(|v| v.label.as_deref() == Some("pinned")), "{report}");
    // A limit that nothing can meet: only what is pinned is left, and that is said.
    let report = one(&home.ok(&["thin", "p", "--max-store", "1MiB", "--json"]));
    assert!(report["stuck"] == true && report["grain"].is_string() && report["left"] == 2, "{report}");
    let left: Vec<u64> = versions(&home).iter().map(|v| v.seq.0).collect();
    assert_eq!(left, [3, 12]);
    let after = states(&home);
    assert!(after.len() == 2 && after.iter().all(|(id, state)| full[id] == *state));
    home.ok(&["fsck", "p", "--deep"]);
}

const MIB: u64 = 1 << 20;

/// Writes for as long as it takes to write `total` bytes, a file of `each` at a time, and waits for room before each: how fast this machine
/// writes must not matter.
fn churn(home: &Home, max: u64, total: u64, each: usize, after: &mut dyn FnMut(u64)) -> u64 {
    let mut peak = 0;
    let rounds = total / each as u64;
    for round in 0..rounds {
        std::fs::write(home.mount.join(format!("f{}", round % 3)), noise(1000 + round, each)).unwrap();
        after(round);
        eventually("room", || {
            let now = taken(home);
            peak = peak.max(now);
            now <= max / 4 * 3
        });
    }
    peak
}

fn config(home: &Home, max: &str) {
    home.ok(&["init", "p"]);
    for (key, value) in [
        ("retention.max-store", max),
        ("group.idle", "100ms"),
        ("log.segment-size", "1MiB"),
        ("prune.max-age", "never"),
        ("prune.max-size", "unlimited"),
    ] {
        home.ok(&["config", "set", key, value, "--project", "p"]);
    }
}

#[test]
fn a_loop_that_writes_many_times_the_limit_stays_under_it() {
    let home = Home::new();
    let max = 96 * MIB;
    config(&home, "96MiB");
    home.mount();
    std::fs::write(home.mount.join("wanted"), noise(1, 500_000)).unwrap();
    home.ok(&["commit", "p", "-m", "wanted"]);
    std::fs::remove_file(home.mount.join("wanted")).unwrap();
    let times: u64 = std::env::var("IZE_TEST_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(3);
    let peak = churn(&home, max, times * max, 2 << 20, &mut |_| {});
    assert!(peak <= max, "{peak} of {max}");
    let status = home.status();
    assert!(status["last_thinning"]["segments"].as_u64().unwrap() > 0 || status["thinned"].as_u64().unwrap() > 0, "{status}");
    assert!(status["thinned"].as_u64().unwrap() > 0, "{status}");
    assert!(status["max_store"] == max && status["size"]["packs"].as_u64().unwrap() > 0, "{status}");
    // The last state, and the one that was named.
    let rounds = times * max / (2 << 20);
    let last = std::fs::read(home.mount.join(format!("f{}", (rounds - 1) % 3))).unwrap();
    assert!(last == noise(1000 + rounds - 1, 2 << 20));
    home.unmount();
    let pinned = versions(&home).into_iter().find(|v| v.label.is_some()).unwrap();
    let bytes = home.ize(&["cat", "p", "wanted", "--at", &pinned.id.to_string()]).bytes;
    assert!(bytes == noise(1, 500_000));
    home.ok(&["fsck", "p", "--deep"]);
}

/// Nobody waits for room here: the writer is held back, and never refused.
#[test]
fn a_program_that_writes_as_fast_as_it_can_does_not_pass_the_limit() {
    let home = Home::new();
    let max = 192 * MIB;
    config(&home, "192MiB");
    home.mount();
    let done = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let watcher = {
        let (done, project) = (std::sync::Arc::clone(&done), home.project());
        std::thread::spawn(move || {
            let mut peak = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                peak = peak.max(on_disk(&project));
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            peak
        })
    };
    let times: u64 = std::env::var("IZE_TEST_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(4);
    let rounds = times * max / (4 << 20);
    for round in 0..rounds {
        // Small files and large ones.
        std::fs::write(home.mount.join(format!("f{}", round % 3)), noise(round, 4 << 20)).unwrap();
        std::fs::write(home.mount.join(format!("g{}", round % 50)), noise(round, 20_000)).unwrap();
    }
    done.store(true, std::sync::atomic::Ordering::Relaxed);
    let peak = watcher.join().unwrap();
    assert!(peak <= max, "{} of {} MiB", peak / MIB, max / MIB);
    for round in rounds - 3..rounds {
        assert!(std::fs::read(home.mount.join(format!("f{}", round % 3))).unwrap() == noise(round, 4 << 20));
    }
    assert!(home.status()["thinned"].as_u64().unwrap() > 0);
    home.unmount();
    home.ok(&["fsck", "p", "--deep"]);
}

#[test]
fn thinning_that_is_killed_leaves_a_store_that_goes_on() {
    let home = Home::new();
    let max = 64 * MIB;
    config(&home, "64MiB");
    let times: u64 = std::env::var("IZE_TEST_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(3);
    for time in 0..times {
        home.mount();
        let mut killed = false;
        let stop = 18 + time % 5;
        for round in 0..40 {
            let path = home.mount.join("big");
            if std::fs::write(&path, noise(time * 100 + round, 2 << 20)).is_err() {
                break;
            }
            eventually("room", || taken(&home) <= max / 16 * 15);
            if round >= stop {
                // Somewhere in the midst of it: whenever the version log is about to be replaced, or at the next thinning.
                let beside = home.project().join("meta/versions.tmp");
                for _ in 0..50 {
                    if beside.exists() {
                        break;
                    }
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
                kill_now(home.daemon());
                killed = true;
                break;
            }
        }
        assert!(killed);
        Command::new("umount").arg("-l").arg(&home.mount).status().unwrap();
        home.mount();
        home.unmount();
        home.ok(&["fsck", "p", "--deep"]);
        let all = versions(&home);
        assert!(all.windows(2).all(|two| two[1].covers == two[0].last.next()), "they cover the log");
    }
}

#[test]
fn what_is_live_may_be_larger_than_the_limit_and_that_is_said() {
    let home = Home::new();
    config(&home, "40MiB");
    home.mount();
    for i in 0..30u64 {
        std::fs::write(home.mount.join(format!("live {i}")), noise(i, 2 << 20)).unwrap();
    }
    home.ok(&["commit", "p"]);
    eventually("it is said", || home.status()["last_thinning"]["stuck"] == true);
    let text = home.ok(&["status", "p"]);
    assert!(text.contains("TOO LARGE") && text.contains("nothing more can go"), "{text}");
    std::fs::write(home.mount.join("goes on"), "yes").unwrap();
    let bytes = std::fs::read(home.mount.join("live 29")).unwrap();
    assert!(bytes == noise(29, 2 << 20));
    home.unmount();
    let metrics = home.ok(&["status", "p", "--prometheus"]);
    assert!(metrics.contains("ize_last_thinning_stuck{project=\"p\"} 1"), "{metrics}");
    home.ok(&["fsck", "p"]);
}

fn listed(home: &Home) -> Vec<Vec<String>> {
    let paths = |v: &Value| v["paths"].as_array().unwrap().iter().map(|p| p.as_str().unwrap().to_owned()).collect();
    home.history().iter().rev().map(paths).collect()
}

fn ids(home: &Home) -> Vec<String> {
    home.history().iter().rev().map(|v| v["id"].as_str().unwrap().to_owned()).collect()
}

fn paths_at(home: &Home, id: &str) -> Vec<String> {
    let dir = home.path().join(format!("at-{id}"));
    home.ok(&["export", "p", dir.to_str().unwrap(), "--at", id]);
    let paths = support::tree(&dir).keys().map(|p| p.to_str().unwrap().to_owned()).collect();
    std::fs::remove_dir_all(&dir).unwrap();
    paths
}

#[test]
fn paths_of_class_none_are_durable_and_have_no_history() {
    let home = Home::new();
    home.mount();
    let write = |path: &str, bytes: &[u8]| std::fs::write(home.mount.join(path), bytes).unwrap();
    write(".izeignore", b"*.o\n/build/\n");
    std::fs::create_dir(home.mount.join("build")).unwrap();
    write("a.c", b"one");
    write("a.o", &noise(1, 300_000));
    write("build/x", &noise(2, 300_000));
    home.ok(&["commit", "p"]);
    let many = home.history().len();
    assert!(listed(&home).concat().iter().all(|p| !p.contains("a.o") && !p.contains("build")), "{:?}", listed(&home));
    // Only what has no history changes: no version, and yet nothing is lost.
    write("a.o", &noise(3, 300_000));
    std::fs::remove_file(home.mount.join("build/x")).unwrap();
    write("build/y", &noise(4, 300_000));
    home.ok(&["commit", "p"]);
    assert_eq!(home.history().len(), many);
    home.kill();
    Command::new("umount").arg("-l").arg(&home.mount).status().unwrap();
    home.mount();
    assert!(std::fs::read(home.mount.join("a.o")).unwrap() == noise(3, 300_000));
    assert!(std::fs::read(home.mount.join("build/y")).unwrap() == noise(4, 300_000));
    // What moves out of it is new, what moves into it is gone.
    std::fs::rename(home.mount.join("build/y"), home.mount.join("kept")).unwrap();
    std::fs::rename(home.mount.join("a.c"), home.mount.join("a2.o")).unwrap();
    write("b.c", b"two");
    home.ok(&["commit", "p", "-m", "last"]);
    let changes = &home.history()[0]["changes"];
    let told: Vec<(String, String)> = changes
        .as_array()
        .unwrap()
        .iter()
        .map(|c| (c["what"].as_str().unwrap().to_owned(), c["path"].as_str().unwrap().to_owned()))
        .collect();
    let pair = |what: &str, path: &str| (what.to_owned(), path.to_owned());
    assert_eq!(told, [pair("delete", "a.c"), pair("create", "b.c"), pair("create", "kept")], "{changes}");
    // Taken out of all versions but the newest state.
    let all = ids(&home);
    let (first, last) = (&all[many - 1], &all[all.len() - 1]);
    home.ok(&["thin", "p"]);
    assert!(paths_at(&home, first).contains(&"a.o".to_owned()), "the log goes on from it");
    home.ok(&["wal", "prune", "p", "--max-size", "0"]);
    let report = one(&home.ok(&["thin", "p", "--json"]));
    assert!(report["filtered"].as_u64().unwrap() > 0, "{report}");
    assert_eq!(paths_at(&home, first), [".izeignore", "a.c"]);
    assert_eq!(paths_at(&home, last), [".izeignore", "a.o", "a2.o", "b.c", "build", "kept"]);
    assert_eq!(ids(&home), all, "ids stay");
    assert_eq!(one(&home.ok(&["thin", "p", "--json"]))["filtered"], 0, "once is enough");
    home.ok(&["fsck", "p", "--deep"]);
    // A restore of that version leaves them, and says so; the rest becomes what it was.
    let said = home.ize(&["restore", "p", ".", "--at", first, "--yes"]);
    assert!(said.code == 0 && said.err.contains("left alone") && said.err.contains("a.o"), "{said:?}");
    assert!(std::fs::read(home.mount.join("a.o")).unwrap() == noise(3, 300_000));
    assert!(home.mount.join("build").is_dir() && home.mount.join("a2.o").is_file());
    assert_eq!(std::fs::read(home.mount.join("a.c")).unwrap(), b"one");
    assert!(!home.mount.join("b.c").exists() && !home.mount.join("kept").exists());
    home.unmount();
    home.ok(&["fsck", "p", "--deep"]);
}

/// Rules that are no longer in force have left versions without some paths all the same.
#[test]
fn a_restore_leaves_alone_what_rules_of_before_took_out_of_that_version() {
    let home = Home::new();
    home.ok(&["init", "p"]);
    home.ok(&["config", "set", "class.none", "*.o", "--project", "p"]);
    home.mount();
    let write = |path: &str, bytes: &[u8]| std::fs::write(home.mount.join(path), bytes).unwrap();
    write("a.c", b"one");
    write("a.o", b"object");
    home.ok(&["commit", "p"]);
    let first = ids(&home)[0].clone();
    write("a.c", b"two");
    home.ok(&["commit", "p"]);
    // The log goes on from a later version.
    home.unmount();
    home.mount();
    write("a.c", b"three");
    home.ok(&["commit", "p"]);
    home.ok(&["wal", "prune", "p", "--max-size", "0"]);
    home.ok(&["thin", "p"]);
    assert_eq!(paths_at(&home, &first), ["a.c"]);
    home.unmount();
    // With no rule, then with another one.
    for rule in [None, Some("*.log")] {
        match rule {
            None => home.ok(&["config", "unset", "class.none", "--project", "p"]),
            Some(rule) => home.ok(&["config", "set", "class.none", rule, "--project", "p"]),
        };
        home.mount();
        write("new", b"new");
        home.ok(&["commit", "p"]);
        home.ok(&["thin", "p"]);
        let said = home.ize(&["restore", "p", ".", "--at", &first, "--yes"]);
        assert!(said.code == 0 && said.err.contains("left alone") && said.err.contains("a.o"), "{said:?}");
        assert_eq!(std::fs::read(home.mount.join("a.o")).unwrap(), b"object");
        assert_eq!(std::fs::read(home.mount.join("a.c")).unwrap(), b"one");
        assert!(!home.mount.join("new").exists());
        write("a.c", b"two");
        home.unmount();
    }
}

#[test]
fn paths_of_class_recent_are_in_versions_of_the_last_days_only() {
    let home = Home::new();
    home.mount();
    for i in 1..=5u64 {
        std::fs::create_dir_all(home.mount.join("web/node_modules/lib")).unwrap();
        std::fs::write(home.mount.join("web/node_modules/lib/x.js"), noise(i, 200_000)).unwrap();
        std::fs::write(home.mount.join("web/index.js"), format!("{i}")).unwrap();
        home.ok(&["commit", "p"]);
    }
    home.unmount();
    home.ok(&["wal", "prune", "p", "--max-size", "0"]);
    let many = versions(&home).last().unwrap().seq.0;
    age(&home, &|seq| if seq + 2 < many { 8 * DAY } else { 6 * DAY });
    home.ok(&["thin", "p"]);
    let all = ids(&home);
    let has = |id: &str| paths_at(&home, id).contains(&"web/node_modules/lib/x.js".to_owned());
    assert!(!has(&all[all.len() - 4]) && has(&all[all.len() - 3]) && has(&all[all.len() - 1]));
    assert!(paths_at(&home, &all[all.len() - 4]).contains(&"web/index.js".to_owned()));
    home.ok(&["fsck", "p", "--deep"]);
    // Another setting keeps them, and it is looked at again when that is gone.
    home.ok(&["config", "set", "class.keep", "node_modules/", "--project", "p"]);
    age(&home, &|_| 9 * DAY);
    home.ok(&["thin", "p"]);
    assert!(has(&all[all.len() - 3]), "kept by the setting");
    home.ok(&["config", "unset", "class.keep", "--project", "p"]);
    home.ok(&["thin", "p"]);
    assert!(!has(&all[all.len() - 3]) && has(&all[all.len() - 1]), "the newest is whole");
    home.mount();
    // A directory that was not there then goes, but not what has no lasting history in it.
    std::fs::create_dir_all(home.mount.join("new/node_modules")).unwrap();
    std::fs::write(home.mount.join("new/node_modules/y.js"), "y").unwrap();
    std::fs::write(home.mount.join("new/z"), "z").unwrap();
    home.ok(&["commit", "p"]);
    let said = home.ize(&["restore", "p", ".", "--at", &all[all.len() - 4], "--yes"]);
    assert!(said.code == 0 && said.err.contains("left alone"), "{said:?}");
    assert!(home.mount.join("new/node_modules/y.js").is_file() && !home.mount.join("new/z").exists());
    assert!(home.mount.join("web/node_modules/lib/x.js").is_file());
    assert_eq!(std::fs::read(home.mount.join("web/index.js")).unwrap(), b"2");
    home.unmount();
    home.ok(&["fsck", "p", "--deep"]);
}

#[test]
fn who_reads_a_version_while_it_goes_is_told_so() {
    let home = Home::new();
    home.mount();
    for i in 1..=6u64 {
        std::fs::write(home.mount.join("a"), noise(i, 1_000_000)).unwrap();
        home.ok(&["commit", "p"]);
    }
    home.unmount();
    home.ok(&["wal", "prune", "p", "--max-size", "0"]);
    let project = Project::open(home.project()).unwrap();
    let store = Store::open(&project.layout, project.identity.id).unwrap();
    let all = versions(&home);
    let (old, new) = (&all[1], all.last().unwrap());
    home.ok(&["thin", "p", "--max-store", "1MiB"]);
    assert!(versions(&home).iter().all(|v| v.seq != old.seq));
    // What it has open it may still read to the end; here it had nothing open.
    let gone = store.state_of(old).unwrap_err();
    let told = store.explain(Some(old.root), gone);
    assert!(told.class == Class::NotFound && told.message.contains("thinned out"), "{told:?}");
    // Everybody else goes on, and damage stays damage.
    let mut beside = store.state_of(new).unwrap();
    let ino = beside.resolve(b"a").unwrap().unwrap();
    assert!(beside.read_all(ino).unwrap() == noise(6, 1_000_000));
    let damage = store.explain(Some(new.root), Error::new(Class::Damage, "bad"));
    assert_eq!(damage.class, Class::Damage);
}

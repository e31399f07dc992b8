//! SIGKILL at random moments: whatever is there afterwards is a prefix of the versions, each once, in order, and the rest can follow.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::histories::mutate;
use super::kit::*;
use crate::pijul::{Repository, VersionInput};

const DIR: &str = "IZE_TEST_PIJUL_CHILD";
const VERSIONS: u64 = 400;

/// The same versions in parent and child, and the tree after each.
fn history() -> (Vec<VersionInput>, Vec<Tree>) {
    let mut rng = StdRng::seed_from_u64(11);
    let (mut versions, mut trees) = (Vec::new(), vec![Tree::new()]);
    for seq in 1..=VERSIONS {
        let mut new = trees[trees.len() - 1].clone();
        let renames = mutate(&mut rng, &mut new);
        versions.push(version(seq, changes(&trees[trees.len() - 1], &new, &renames)));
        trees.push(new);
    }
    (versions, trees)
}

/// Not a test of its own: the process that gets killed. Records in batches of 1 to 3 until it is.
const BEGUN: &str = "the child has begun";

#[test]
#[allow(clippy::print_stdout)]
fn child_records_until_killed() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let repository = Repository::open_or_create(dir.as_ref(), STORE, OWNER).unwrap();
    let (mut versions, _) = history();
    if std::env::var_os(super::CRASH_AT).is_some() {
        versions.truncate(SHORT);
    }
    println!("{BEGUN}");
    let done = repository.head().unwrap().map_or(0, |h| h.seq.0) as usize;
    let mut rest = &versions[done..];
    let mut size = 1;
    while !rest.is_empty() {
        let (batch, after) = rest.split_at(size.min(rest.len()));
        repository.record_many(batch).unwrap();
        rest = after;
        size = size % 3 + 1;
    }
}

#[test]
fn killed_at_random_moments_every_version_is_there_once_and_in_order() {
    let home = tempfile::tempdir().unwrap();
    let project = home.path().join("project");
    std::fs::create_dir(&project).unwrap();
    let mut rng = StdRng::from_os_rng();
    let (versions, trees) = history();
    let (mut kills, mut last, mut moved) = (0, 0, 0);
    let rounds = std::env::var("IZE_TEST_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(50_u32);
    for round in 0..rounds {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "pijul::tests::crash::child_records_until_killed", "--nocapture"])
            .env(DIR, &project)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // A busy machine may take long to start it: the time runs from its first own word on.
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        while lines.next().is_some_and(|line| !line.unwrap().contains(BEGUN)) {}
        std::thread::sleep(Duration::from_micros(rng.random_range(0..60_000)));
        child.kill().unwrap();
        kills += u32::from(!child.wait().unwrap().success());
        let repository = Repository::open_or_create(&project, STORE, OWNER).unwrap();
        let head = repository.head().unwrap().map_or(0, |h| h.seq.0);
        assert!(head >= last, "version {last} was there and is not");
        moved += u32::from(head > last);
        last = head;
        let log = repository.log().unwrap();
        assert_eq!(log.iter().map(|e| e.coverage.unwrap().seq.0).collect::<Vec<_>>(), (1..=head).collect::<Vec<_>>());
        nothing_left_over(&project, &log, "a random moment");
        if round % 10 == 9 && head > 0 {
            check_clone(home.path(), &project, &trees[head as usize]);
        }
    }
    assert!(
        rounds < 50 || kills >= 25 && moved >= 10,
        "the child was killed {kills} times and got on {moved} times: the test shows nothing"
    );
    let repository = Repository::open_or_create(&project, STORE, OWNER).unwrap();
    for batch in versions.chunks(50) {
        repository.record_many(batch).unwrap();
    }
    let want: Vec<u64> = (1..=VERSIONS).rev().map(|n| n * 16).collect();
    assert_eq!(logged(home.path(), &project), want);
    check_clone(home.path(), &project, &trees[VERSIONS as usize]);
}

/// Versions of the child that dies at a step, and in how many transactions it records them.
const SHORT: usize = 7;

/// A process that dies at each of its steps, one after the other, by SIGKILL or as if the power failed, also while it mends what the one before left.
#[test]
fn dead_at_any_step_every_version_is_there_once_and_in_order_and_nothing_is_left_over() {
    let home = tempfile::tempdir().unwrap();
    let (versions, trees) = history();
    let versions = &versions[..SHORT];
    let run = |project: &std::path::Path, at: &str| {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "pijul::tests::crash::child_records_until_killed", "--nocapture"])
            .env(DIR, project)
            .env(super::CRASH_AT, at)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&child.stderr).into_owned();
        (child.status.success(), said.lines().find_map(|l| l.strip_prefix("dies at ")).unwrap_or("").to_owned())
    };
    let mut steps = std::collections::BTreeSet::new();
    for kind in ["", "p"] {
        let mut through = false;
        for number in 1.. {
            let project = home.path().join(format!("project{kind}{number}"));
            std::fs::create_dir(&project).unwrap();
            let (ended, step) = run(&project, &format!("{kind}{number}"));
            through |= ended;
            if through {
                break;
            }
            steps.insert(step.clone());
            // The next one dies while it mends, or soon after.
            steps.insert(run(&project, &format!("{kind}{}", number % 4 + 1)).1);
            let repository = Repository::open_or_create(&project, STORE, OWNER).unwrap();
            let head = repository.head().unwrap().map_or(0, |h| h.seq.0);
            let log = repository.log().unwrap();
            assert_eq!(log.iter().map(|e| e.coverage.unwrap().seq.0).collect::<Vec<_>>(), (1..=head).collect::<Vec<_>>(), "at {step}");
            nothing_left_over(&project, &log, &step);
            let outcomes = repository.record_many(versions).unwrap();
            assert_eq!(outcomes.len(), SHORT);
            nothing_left_over(&project, &repository.log().unwrap(), &step);
            drop(repository);
            if number % 7 == 0 {
                check_clone(home.path(), &project, &trees[SHORT]);
            }
        }
    }
    let all = [
        "a pristine is made",
        "a pristine is born",
        "a pristine has its name",
        "marked",
        "a change file is written",
        "a change file has its name",
        "recorded",
        "change files synced",
        "committed",
        "a stray file is swept",
        "swept",
    ];
    for step in all {
        assert!(steps.contains(&format!("`{step}`")), "never died at `{step}`: {steps:?}");
    }
}

/// Every file is one that the log names, or the pristine.
pub(crate) fn nothing_left_over(project: &std::path::Path, log: &[crate::pijul::LogEntry], at: &str) {
    let dir = project.join(".pijul");
    let mut wanted: Vec<String> = log.iter().map(|e| format!("changes/{}/{}.change", &e.hash[..2], &e.hash[2..])).collect();
    wanted.extend(["db", "db.lock0", "db.lock1"].map(|n| format!("pristine/{n}")));
    wanted.sort();
    let mut there = Vec::new();
    let mut work = vec![dir.clone()];
    while let Some(at) = work.pop() {
        for entry in std::fs::read_dir(&at).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                work.push(path);
            } else {
                there.push(path.strip_prefix(&dir).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    there.sort();
    assert_eq!(there, wanted, "after it died at {at}");
}

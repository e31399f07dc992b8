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
    let (versions, _) = history();
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
    for round in 0..50 {
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
        std::thread::sleep(Duration::from_micros(rng.random_range(0..120_000)));
        child.kill().unwrap();
        kills += u32::from(!child.wait().unwrap().success());
        let repository = Repository::open_or_create(&project, STORE, OWNER).unwrap();
        let head = repository.head().unwrap().map_or(0, |h| h.seq.0);
        assert!(head >= last, "version {last} was there and is not");
        moved += u32::from(head > last);
        last = head;
        let log = repository.log().unwrap();
        assert_eq!(log.iter().map(|e| e.coverage.unwrap().seq.0).collect::<Vec<_>>(), (1..=head).collect::<Vec<_>>());
        if round % 10 == 9 && head > 0 {
            check_clone(home.path(), &project, &trees[head as usize]);
        }
    }
    assert!(kills >= 25 && moved >= 10, "the child was killed {kills} times and got on {moved} times: the test shows nothing");
    let repository = Repository::open_or_create(&project, STORE, OWNER).unwrap();
    for batch in versions.chunks(50) {
        repository.record_many(batch).unwrap();
    }
    let want: Vec<u64> = (1..=VERSIONS).rev().map(|n| n * 16).collect();
    assert_eq!(logged(home.path(), &project), want);
    check_clone(home.path(), &project, &trees[VERSIONS as usize]);
}

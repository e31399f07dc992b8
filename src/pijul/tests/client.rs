//! The door, and the client's everyday commands.

use super::kit::*;
use std::sync::atomic::Ordering;

use crate::error::Class;
use crate::ids::{Lsn, StoreId, VersionSeq};
use crate::pijul::{Outcome, Repository};

#[test]
fn a_version_is_recorded_once_and_in_order() {
    let mut b = Bench::new();
    assert_eq!(b.repository.head().unwrap(), None);
    let first = b.step(tree([("a", file("1"))]), &[]);
    let second = b.step(tree([("a", file("2"))]), &[]);
    let head = b.repository.head().unwrap().unwrap();
    assert_eq!((head.seq, head.last_lsn, head.hash.as_str()), (VersionSeq(2), Lsn(29), second.hash()));
    let again = b.repository.record(&version(1, changes(&Tree::new(), &tree([("z", file("z"))]), &[]))).unwrap();
    assert_eq!(again, Outcome::AlreadyThere(first.hash().to_owned()));
    assert_eq!(b.repository.record(&version(2, vec![])).unwrap(), Outcome::AlreadyThere(second.hash().to_owned()));
    assert_eq!(b.repository.record(&version(0, vec![])).unwrap_err().class, Class::NotFound);
    b.check();
    let log = b.repository.log().unwrap();
    assert_eq!(
        log.iter().map(|e| (e.coverage.unwrap().seq.0, e.hash.as_str())).collect::<Vec<_>>(),
        [(1, first.hash()), (2, second.hash())]
    );
    assert_eq!(log[1].paths, [b"a".to_vec()]);
    // The client shows the same hashes.
    let shown = b.pijul(&["log", "--hash-only"]);
    assert_eq!(shown.split_whitespace().collect::<Vec<_>>(), [second.hash(), first.hash()]);
    // Numbers have gaps where versions were thinned out; one of those comes too late.
    let fourth = b.repository.record(&version(4, vec![])).unwrap();
    assert_eq!(b.repository.head().unwrap().map(|head| (head.seq, head.changes)), Some((VersionSeq(4), 3)));
    assert_eq!(b.repository.record(&version(4, vec![])).unwrap(), Outcome::AlreadyThere(fourth.hash().to_owned()));
    assert_eq!(b.repository.record(&version(2, vec![])).unwrap(), Outcome::AlreadyThere(second.hash().to_owned()));
    assert_eq!(b.repository.record(&version(3, vec![])).unwrap_err().class, Class::NotFound);
}

#[test]
fn many_versions_in_one_transaction_are_many_changes() {
    let mut b = Bench::new();
    let mut versions = Vec::new();
    for n in 1..=40_u64 {
        let mut new = b.tree.clone();
        new.insert(format!("f{}", n % 7).into_bytes(), file(format!("{n}\n").repeat(5)));
        versions.push(version(n, changes(&b.tree, &new, &[])));
        b.tree = new;
    }
    assert_eq!(b.repository.record_many(&versions).unwrap().len(), 40);
    assert!(b.repository.record_many(&versions).unwrap().iter().all(|o| matches!(o, Outcome::AlreadyThere(_))));
    assert_eq!(logged(b.home.path(), &b.project()).len(), 40);
    b.check();
}

#[test]
fn a_head_that_ize_did_not_write_is_named_and_refused() {
    let mut b = Bench::new();
    let hash = b.step(tree([("a", file("1"))]), &[]).hash().to_owned();
    let Bench { home, repository, .. } = b;
    drop(repository);
    let other = Repository::open_or_create(&home.path().join("project"), StoreId([9; 16]), OWNER).unwrap();
    for error in [other.head().unwrap_err(), other.record(&version(2, vec![])).unwrap_err()] {
        assert_eq!(error.class, Class::Refused);
        assert!(error.message.contains(&hash), "{error}");
    }
    assert_eq!(other.log().unwrap()[0].coverage, None);
}

#[test]
fn a_version_that_libpijul_refuses_is_recorded_as_manifests() {
    let mut b = Bench::new();
    b.repository.refuse.text.store(true, Ordering::Relaxed);
    let (one, two) = (tree([("a", file("1"))]), tree([("a", file("1")), ("bad", file("refuse me"))]));
    let three = tree([("a", file("3")), ("bad", file("refuse me"))]);
    let versions =
        [version(1, changes(&Tree::new(), &one, &[])), version(2, changes(&one, &two, &[])), version(3, changes(&two, &three, &[]))];
    let outcomes = b.repository.record_many(&versions).unwrap();
    assert!(matches!(outcomes[..], [Outcome::Recorded(_), Outcome::Safe(..), Outcome::Recorded(_)]), "{outcomes:?}");
    let log = b.repository.log().unwrap();
    assert!(log[1].refusal.as_ref().is_some_and(|r| r.why.contains("cannot diff") && r.holds.is_none()), "{log:?}");
    let clone = b.home.path().join("clone");
    pijul(b.home.path(), b.home.path(), &["clone", b.project().to_str().unwrap(), clone.to_str().unwrap()]);
    assert!(std::fs::read_to_string(clone.join("bad")).unwrap().starts_with("ize-manifest 1 9\n"));
    assert_eq!(std::fs::read_to_string(clone.join("a")).unwrap(), "3");
    // The next ordinary version of it is a text again.
    b.tree = three;
    b.seq = 3;
    b.repository.refuse.text.store(false, Ordering::Relaxed);
    b.step(tree([("a", file("3")), ("bad", file("good now"))]), &[]);
    b.check();
}

#[test]
fn the_pristine_has_its_disk_space_before_it_is_written() {
    use std::os::unix::fs::{FileExt, MetadataExt};
    let mut b = Bench::new();
    b.step(tree([("a", file("1\n".repeat(100_000)))]), &[]);
    let db = std::fs::File::open(b.project().join(".pijul/pristine/db")).unwrap();
    let mut field = [0; 8];
    db.read_exact_at(&mut field, 8).unwrap();
    let used = u64::from_le_bytes(field);
    assert!(used > 8192 && used < 100 << 20, "no longer the offset of the first free byte: {used}");
    let there = db.metadata().unwrap().blocks() * 512;
    assert!(there >= used.min(64 << 20) + (2 << 20) && there < used + (16 << 20), "{there} bytes for {used}");
}

#[test]
fn everyday_commands_of_the_client_work() {
    let mut b = Bench::new();
    b.step(tree([("a", file("1\n2\n")), ("run", Thing { mode: 0o755, ..file("x\n") }), ("d", dir()), ("bin", file(b"\0"))]), &[]);
    let hash =
        b.step(tree([("a", file("1\ntwo\n")), ("run", Thing { mode: 0o755, ..file("x\n") }), ("d", dir()), ("bin", file(b"\0"))]), &[]);
    assert!(b.pijul(&["channel"]).contains("* main"));
    let list = b.pijul(&["list"]);
    for path in ["a", "run", "d", "bin", ".ize-meta/bin.ize"] {
        assert!(list.lines().any(|l| l.trim_end_matches('/') == path), "{list}");
    }
    let change = b.pijul(&["change", hash.hash()]);
    assert!(change.contains("two") && change.contains("0000000000000020"), "{change}");
    assert!(b.pijul(&["log"]).contains("write: a"));
    // The project directory holds no working copy, so there the client takes every file for deleted: diffs are made in a clone.
    let diff = b.pijul(&["diff", "--short"]);
    assert!(diff.lines().count() >= 5 && diff.lines().all(|l| l.starts_with('D')), "{diff}");
    let clone = b.check();
    assert_eq!(pijul(b.home.path(), &clone, &["diff", "--short"]), "");
    // The client credits what is in the working copy, so this needs a clone.
    assert!(pijul(b.home.path(), &clone, &["credit", "a"]).contains("two"));
    // A clone is pulled up to date.
    b.step(tree([("a", file("1\nthree\n")), ("e", file("e"))]), &[]);
    pijul(b.home.path(), &clone, &["pull", "--all", b.project().to_str().unwrap()]);
    assert_eq!(std::fs::read_to_string(clone.join("a")).unwrap(), "1\nthree\n");
    assert!(!clone.join(".ize-meta").exists() && !clone.join("d").exists() && clone.join("e").exists());
    assert_eq!(pijul(b.home.path(), &clone, &["diff", "--short"]), "");
}

#[test]
fn leftovers_of_a_crash_are_swept_and_nothing_else() {
    let mut b = Bench::new();
    b.step(tree([("a", file("1"))]), &[]);
    let changes_dir = b.project().join(".pijul/changes");
    let count = |what: &str| walk(&changes_dir).iter().filter(|p| p.contains(what)).count();
    assert_eq!(count(".change"), 1);
    // An unlogged change of ours, a torn one, and one of somebody else.
    let make = |store: StoreId, seq: u64| {
        let home = tempfile::tempdir().unwrap();
        let other = Repository::open_or_create(home.path(), store, OWNER).unwrap();
        let hash = other.record(&version(seq, vec![])).unwrap().hash().to_owned();
        let name = format!("{}/{}.change", &hash[..2], &hash[2..]);
        std::fs::create_dir_all(changes_dir.join(&hash[..2])).unwrap();
        std::fs::copy(home.path().join(".pijul/changes").join(&name), changes_dir.join(&name)).unwrap();
        changes_dir.join(name)
    };
    let (ours, foreign, torn) = (make(STORE, 2), make(StoreId([9; 16]), 3), make(STORE, 4));
    std::fs::write(&torn, b"").unwrap();
    std::fs::write(changes_dir.join(".ize-tmp-1-1"), b"half").unwrap();
    let reopen = |b: Bench| {
        let Bench { home, repository, tree, seq } = b;
        drop(repository);
        let repository = Repository::open_or_create(&home.path().join("project"), STORE, OWNER).unwrap();
        Bench { home, repository, tree, seq }
    };
    // Without the marker nobody looks.
    b = reopen(b);
    assert!(ours.exists());
    std::fs::write(b.project().join(".pijul/ize-recording"), b"").unwrap();
    b = reopen(b);
    assert!(!ours.exists() && !torn.exists() && foreign.exists());
    assert_eq!((count(".ize-tmp"), count(".change")), (0, 2));
    b.step(tree([("a", file("2"))]), &[]);
    b.check();
}

fn walk(dir: &std::path::Path) -> Vec<String> {
    let mut out = Vec::new();
    for e in std::fs::read_dir(dir).unwrap() {
        let p = e.unwrap().path();
        if p.is_dir() { out.extend(walk(&p)) } else { out.push(p.to_str().unwrap().to_owned()) }
    }
    out
}

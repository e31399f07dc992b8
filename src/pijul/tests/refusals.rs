//! What Pijul refuses, what somebody else holds, and a pristine that becomes too small.

use std::fs::OpenOptions;
use std::sync::atomic::Ordering;

use rustix::fs::{FlockOperation, flock};

use super::kit::*;
use crate::error::Class;
use crate::ids::VersionSeq;
use crate::pijul::{Outcome, Repository};

#[test]
fn a_version_refused_in_every_form_is_left_out_and_the_next_is_made_against_what_pijul_holds() {
    let mut b = Bench::new();
    let one = tree([("a", file("1"))]);
    let two = tree([("a", file("2")), ("never", file("x"))]);
    let three = tree([("a", file("3")), ("never", file("x"))]);
    let four = tree([("a", file("4"))]);
    b.repository.refuse.path.store(true, Ordering::Relaxed);
    let versions =
        [version(1, changes(&Tree::new(), &one, &[])), version(2, changes(&one, &two, &[])), version(3, changes(&two, &three, &[]))];
    let outcomes = b.repository.record_many(&versions).unwrap();
    assert!(matches!(&outcomes[..], [Outcome::Recorded(_), Outcome::LeftOut(_, r)] if r.holds == Some(VersionSeq(1))), "{outcomes:?}");
    let head = b.repository.head().unwrap().unwrap();
    assert_eq!((head.seq, head.holds, head.changes), (VersionSeq(2), VersionSeq(1), 2));
    // The same again, also after a restart.
    let again = b.repository.record(&version(3, changes(&one, &three, &[]))).unwrap();
    assert!(matches!(&again, Outcome::LeftOut(_, r) if r.holds == Some(VersionSeq(1)) && r.why.contains("cannot record the path")));
    b.repository = {
        let project = b.project();
        drop(b.repository);
        Repository::open_or_create(&project, STORE, OWNER).unwrap()
    };
    let head = b.repository.head().unwrap().unwrap();
    assert_eq!((head.seq, head.holds), (VersionSeq(3), VersionSeq(1)));
    b.tree = one;
    b.seq = 3;
    assert!(matches!(b.step(four.clone(), &[]), Outcome::Recorded(_)));
    assert_eq!(b.repository.head().unwrap().unwrap().holds, VersionSeq(4));
    let log = b.repository.log().unwrap();
    assert_eq!(log.iter().map(|e| e.refusal.is_some()).collect::<Vec<_>>(), [false, true, true, false]);
    assert_eq!(b.repository.log_from(2).unwrap(), log[2..]);
    b.check();
    // A version of which nothing can be read.
    assert!(matches!(b.repository.leave_out(&version(5, vec![]), "its tree is damaged").unwrap(), Outcome::LeftOut(..)));
    b.check();
    assert_eq!(logged(b.home.path(), &b.project()), [80, 64, 48, 32, 16]);
}

#[test]
fn a_lock_that_is_held_is_named_in_bounded_time_and_nothing_is_written() {
    let mut b = Bench::new();
    b.step(tree([("a", file("1"))]), &[]);
    let db = b.project().join(".pijul/pristine/db");
    for held in [vec![db.clone()], vec![db.with_extension("lock0"), db.with_extension("lock1")]] {
        let files: Vec<_> = held.iter().map(|path| OpenOptions::new().read(true).write(true).open(path).unwrap()).collect();
        let how = if files.len() == 1 { FlockOperation::LockExclusive } else { FlockOperation::LockShared };
        files.iter().for_each(|file| flock(file, how).unwrap());
        let begun = std::time::Instant::now();
        let e = b.repository.record(&version(2, vec![])).unwrap_err();
        assert!(e.class == Class::Busy && e.message.contains(&format!("process {} ", std::process::id())), "{e}");
        assert!(begun.elapsed() < std::time::Duration::from_secs(20));
        assert_eq!(b.repository.head().unwrap().unwrap().seq, VersionSeq(1));
        assert!(Repository::interrupted(&b.project()).is_none());
    }
    b.step(tree([("a", file("2"))]), &[]);
    b.check();
}

#[test]
fn a_pristine_that_was_taken_away_or_cut_short_is_not_touched() {
    let mut b = Bench::new();
    b.step(tree([("a", file("1"))]), &[]);
    let db = b.project().join(".pijul/pristine/db");
    let length = std::fs::metadata(&db).unwrap().len();
    let file = OpenOptions::new().write(true).open(&db).unwrap();
    file.set_len(8192).unwrap();
    for e in [b.repository.head().unwrap_err(), b.repository.record(&version(2, vec![])).unwrap_err(), b.repository.log().unwrap_err()] {
        assert!(e.class == Class::Damage && e.hint.as_ref().unwrap().contains("rebuild"), "{e}");
    }
    let reopened = Repository::open_or_create(&b.project(), STORE, OWNER).map(drop).unwrap_err();
    assert!(reopened.class == Class::Damage && reopened.message.contains("cut short"), "{reopened}");
    file.set_len(length).unwrap();
    std::fs::rename(&db, db.with_extension("away")).unwrap();
    assert_eq!(b.repository.head().unwrap_err().class, Class::NotFound);
    std::fs::copy(db.with_extension("away"), &db).unwrap();
    assert_eq!(b.repository.record(&version(2, vec![])).unwrap_err().class, Class::NotFound);
}

#[test]
fn a_pristine_that_fills_up_grows_while_nobody_else_has_it_open() {
    let b = Bench::new();
    let project = b.home.path().join("small");
    std::fs::create_dir(&project).unwrap();
    let mut repository = Repository::open_sized(&project, STORE, OWNER, 9 << 20).unwrap();
    let db = project.join(".pijul/pristine/db");
    let length = || std::fs::metadata(&db).unwrap().len();
    let (mut grown, mut refused, mut tree_now) = (0, 0, Tree::new());
    for seq in 1..=60 {
        let mut new = tree_now.clone();
        (0..100).for_each(|n| _ = new.insert(format!("d{seq}-{n}").into_bytes(), file(format!("{seq} {n}\n"))));
        new.insert(b"a".to_vec(), file((0..2000).map(|n| format!("{seq} {}\n", n * seq)).collect::<String>()));
        let next = version(seq, changes(&tree_now, &new, &[]));
        let before = length();
        // A client that has it open with its old size would destroy it.
        let client = std::fs::File::open(&db).unwrap();
        assert!(!repository.make_room(std::slice::from_ref(&next)).unwrap());
        assert_eq!(length(), before);
        // It goes on as long as there is room.
        if refused == 0 {
            match repository.record(&next) {
                Ok(_) => {
                    tree_now = new;
                    continue;
                }
                Err(e) => assert!(e.class == Class::Busy && e.message.contains("must grow"), "{e}"),
            }
            refused += 1;
        }
        drop(client);
        if repository.make_room(std::slice::from_ref(&next)).unwrap() {
            assert!(length() >= before * 2);
            grown += 1;
        }
        assert!(!repository.make_room(std::slice::from_ref(&next)).unwrap());
        repository.record(&next).unwrap();
        tree_now = new;
    }
    assert!(grown >= 1 && refused >= 1, "{grown} {refused}, {} bytes", length());
    check_clone(b.home.path(), &project, &tree_now);
}

/// Much in one directory beside much that stays: the rows that are taken out of the tree table meanwhile are all there again.
#[test]
fn much_in_one_directory_is_recorded_beside_what_stays() {
    let mut b = Bench::new();
    let mut new = tree([("d", dir()), ("e", dir()), ("e/f", dir())]);
    for n in 0..300 {
        new.insert(format!("d/old{n}").into_bytes(), file(format!("{n}")));
        new.insert(format!("top{n}").into_bytes(), file(format!("{n}")));
    }
    new.insert(b"d/sub".to_vec(), dir());
    new.insert(b"d/sub/x".to_vec(), file("x"));
    b.step(new.clone(), &[]);
    b.check();
    // New ones, edits, removals, a new directory, an old one whose file changes, moves in and out, and the same at the top.
    let mut renames: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    for n in 0..100 {
        new.insert(format!("d/new{n}").into_bytes(), file("new"));
        new.insert(format!("d/fresh/g{n}").into_bytes(), file("fresh"));
        new.insert(format!("d/old{n}").into_bytes(), file(format!("edited {n}")));
        new.remove(format!("d/old{}", n + 100).as_bytes());
        new.remove(format!("top{n}").as_bytes());
        let (from, to) = (format!("top{}", n + 100).into_bytes(), format!("d/moved{n}").into_bytes());
        let moved = new.remove(&from).unwrap();
        new.insert(to.clone(), moved);
        renames.push((from, to));
        let (from, to) = (format!("d/old{}", n + 200).into_bytes(), format!("e/f/moved{n}").into_bytes());
        let moved = new.remove(&from).unwrap();
        new.insert(to.clone(), moved);
        renames.push((from, to));
    }
    new.insert(b"d/fresh".to_vec(), dir());
    new.insert(b"d/sub/x".to_vec(), file("edited"));
    let pairs: Vec<(&[u8], &[u8])> = renames.iter().map(|(a, b)| (&a[..], &b[..])).collect();
    b.step(new.clone(), &pairs);
    b.check();
    // Everything goes but one.
    new.retain(|path, _| path == b"d" || path == b"d/new7");
    b.step(new.clone(), &[]);
    b.check();
    new.insert(b"d/new8".to_vec(), file("again"));
    b.step(new, &[]);
    b.check();
}

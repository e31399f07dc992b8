//! What fsck says of the Pijul repository: every way in which it can be wrong is named, with the version, the paths and the next step; and
//! nobody is kept waiting.

#![cfg(all(feature = "pijul", feature = "fuse"))]
#![allow(clippy::unwrap_used, reason = "a test stops where it cannot go on")]

mod support;

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ize::error::Result;
use ize::ids::{Lsn, StoreId, Time, VersionSeq};
use ize::pijul::{ContentSource, Item, Owner, Repository, TreeChange, VersionInput};
use ize::versions::node::{Attributes, Content, FileKind, Node, Piece};

use serde_json::Value;
use support::pijul::{client, pijul};
use support::{Home, lines, sh};

struct Bytes(Vec<u8>);

impl ContentSource for Bytes {
    fn read_all(&self) -> Result<Vec<u8>> {
        Ok(self.0.clone())
    }

    fn pieces(&self) -> Result<Vec<Piece>> {
        Ok(Vec::new())
    }
}

fn item(text: &str, mode: u32) -> Item {
    let attrs = Attributes { mode, uid: 0, gid: 0, ..Attributes::default() };
    let content = Content::Pieces(vec![Piece::Hole { len: text.len() as u64 }]);
    let node = Node { kind: FileKind::File, attrs, xattrs: Default::default(), nlink: 1, size: text.len() as u64, allocated: 0, content };
    Item { node, first_name: None, content: Arc::new(Bytes(text.into())) }
}

fn version(seq: u64, changes: Vec<(&str, Option<Item>, Option<Item>)>) -> VersionInput {
    let changes = changes.into_iter().map(|(path, old, new)| TreeChange { path: path.into(), from: None, old, new }).collect();
    let (first, last) = (Lsn(seq * 1000), Lsn(seq * 1000 + 1));
    let (message, op_type, processes) = (None, "write".into(), Vec::new());
    VersionInput { id: seq, seq: VersionSeq(seq), first, last, time: Time::default(), message, op_type, processes, changes }
}

/// The findings on Pijul, each in one line of JSON.
fn findings(home: &Home, deep: bool) -> (i32, Vec<Value>) {
    let said = home.ize(if deep { &["fsck", "p", "--deep", "--json"][..] } else { &["fsck", "p", "--json"] });
    let all = lines(&said.out);
    let of_pijul = all.into_iter().filter(|f| f["part"] == "pijul").collect();
    (said.code, of_pijul)
}

/// Two versions, and a third one that Pijul has not; nobody has the project.
fn lagging() -> (Home, Repository) {
    let home = Home::new();
    home.mount();
    sh(&home.mount, "echo a > a; echo b > b; echo c > c; mkdir d; echo e > d/e");
    home.ok(&["commit", "p"]);
    sh(&home.mount, "echo more >> a");
    home.ok(&["commit", "p"]);
    home.kill();
    let (pristine, away) = (home.project().join(".pijul/pristine"), home.path().join("away"));
    fs::rename(&pristine, &away).unwrap();
    fs::write(&pristine, "nothing").unwrap();
    home.mount();
    sh(&home.mount, "echo third >> a");
    home.ize(&["commit", "p"]);
    home.kill();
    fs::remove_file(&pristine).unwrap();
    fs::rename(&away, &pristine).unwrap();
    let id: StoreId = home.project().file_name().unwrap().to_str().unwrap().parse().unwrap();
    let repository = Repository::open_or_create(&home.project(), id, Owner { uid: 0, gid: 0 }).unwrap();
    (home, repository)
}

#[test]
fn what_pijul_has_otherwise_than_the_version_is_named_path_by_path() {
    let (home, repository) = lagging();
    // It lags: nothing wrong with that.
    assert_eq!(findings(&home, true), (0, vec![]));
    let lie = vec![
        ("a", Some(item("a\nmore\n", 0o644)), Some(item("a\nmore\nlie\n", 0o644))),
        ("b", Some(item("b\n", 0o644)), None),
        ("c", Some(item("c\n", 0o644)), Some(item("c\n", 0o600))),
        ("d/e", Some(item("e\n", 0o644)), Some(item("e\n", 0o755))),
        ("new", None, Some(item("new\n", 0o644))),
    ];
    let seq = repository.head().unwrap().unwrap().seq.0 + 1;
    repository.record(&version(seq, lie)).unwrap();
    drop(repository);
    assert_eq!(findings(&home, false).1, [Value::Null; 0], "without --deep nothing is compared");
    let (code, found) = findings(&home, true);
    assert_eq!(code, 5);
    let said: Vec<(&str, Vec<&str>)> = found
        .iter()
        .map(|f| {
            assert_eq!((f["first_version"].as_u64(), f["last_version"].as_u64()), (Some(seq), Some(seq)), "{f}");
            assert!(f["mend"].as_str().unwrap().contains("ize pijul rebuild"), "{f}");
            (f["what"].as_str().unwrap(), f["paths"].as_array().unwrap().iter().map(|p| p["path"].as_str().unwrap()).collect())
        })
        .collect();
    let [missing, extra, bytes, attributes] = said.as_slice() else { panic!("{said:?}") };
    assert!(missing.0.contains("is not in Pijul") && missing.1 == ["b"], "{missing:?}");
    assert!(extra.0.contains("not in the version") && extra.1 == ["new"], "{extra:?}");
    assert!(bytes.0.contains("other bytes") && bytes.1 == ["a"], "{bytes:?}");
    let mut paths = attributes.1.clone();
    paths.sort_unstable();
    assert!(attributes.0.contains("other attributes") && paths == ["c", "d/e"], "{attributes:?}");
}

#[test]
fn a_change_that_is_missing_or_damaged_is_named() {
    let (home, repository) = lagging();
    let hash = repository.log().unwrap()[0].hash.clone();
    drop(repository);
    let file: PathBuf = home.project().join(".pijul/changes").join(&hash[..2]).join(format!("{}.change", &hash[2..]));
    let good = fs::read(&file).unwrap();
    let mut named = 0;
    for at in (0..good.len()).step_by(good.len() / 16).chain([good.len() - 1]) {
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(&file, &bad).unwrap();
        let (code, found) = findings(&home, true);
        if found.is_empty() {
            // Checksums of frames, which nobody reads: what is in them is right.
            assert_eq!(code, 0);
            continue;
        }
        named += 1;
        assert!(code == 5 && found[0]["what"].as_str().unwrap().contains(&hash), "{found:?}");
        assert!(found[0]["mend"].as_str().unwrap().contains("ize pijul rebuild"), "{found:?}");
    }
    assert!(named >= 12, "of 17 flipped bits {named} are named");
    fs::remove_file(&file).unwrap();
    let (code, found) = findings(&home, false);
    assert!(code == 5 && found.len() == 1 && found[0]["what"].as_str().unwrap().contains("it is missing"), "{found:?}");
    fs::write(&file, &good).unwrap();
    assert_eq!(findings(&home, true), (0, vec![]));
}

#[test]
fn a_head_of_somebody_else_and_an_index_that_says_more_are_named() {
    let (home, repository) = lagging();
    let hash = repository.log().unwrap().last().unwrap().hash.clone();
    drop(repository);
    // The client takes the last change back: the index names what the log has not. The next mount records it again.
    pijul(&home.project(), &["unrecord", &hash]);
    let (code, found) = findings(&home, true);
    assert!(code == 4 && found.len() == 1, "{found:?}");
    assert!(found[0]["what"].as_str().unwrap().contains(&hash) && found[0]["mend"].as_str().unwrap().contains("next mount"), "{found:?}");
    home.mount();
    home.ok(&["commit", "p"]);
    home.kill();
    assert_eq!(findings(&home, true), (0, vec![]));
    // A repository that another store wrote.
    let foreign = Home::new();
    foreign.mount();
    sh(&foreign.mount, "echo other > other");
    foreign.ok(&["commit", "p"]);
    foreign.unmount();
    let pijul_dir = home.project().join(".pijul");
    fs::remove_dir_all(&pijul_dir).unwrap();
    sh(home.path(), &format!("cp -a {}/.pijul {}", foreign.project().display(), pijul_dir.display()));
    let (code, found) = findings(&home, false);
    assert_eq!(code, 5);
    assert!(found.iter().any(|f| f["what"].as_str().unwrap().contains("not written by ize for this store")), "{found:?}");
}

#[test]
fn a_writer_that_hangs_keeps_fsck_waiting_for_a_while_only() {
    client();
    let home = Home::new();
    home.mount();
    sh(&home.mount, "echo a > a");
    home.ok(&["commit", "p"]);
    home.unmount();
    let lock = fs::File::open(home.project().join(".pijul/pristine/db.lock1")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let begun = Instant::now();
    let said = home.ok(&["fsck", "p", "--deep"]);
    assert!(said.contains("the Pijul repository was not looked at"), "{said}");
    assert!(begun.elapsed() > Duration::from_secs(5) && begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    drop(lock);
    assert!(!home.ok(&["fsck", "p", "--deep"]).contains("not looked at"));
}

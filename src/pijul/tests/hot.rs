//! Files that are edited again and again: founded anew every few edits, they are what they were, a clone is equal, and who each line is from
//! stays known.

use std::process::{Command, Stdio};

use libpijul::Base32;
use libpijul::changestore::ChangeStore;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::crash::nothing_left_over;
use super::kit::*;
use crate::error::Class;
use crate::pijul::snapshot::{PATIENCE, Snapshot};
use crate::pijul::wear::Limits;
use crate::pijul::{Repository, TEXT_MAX, VersionInput};

/// Changes after which the tests have a file founded anew.
const FEW: usize = 5;

/// Lines of a text, and the version each is from.
type Lines = Vec<(String, u64)>;

fn text(lines: &Lines) -> Thing {
    file(lines.iter().map(|(line, _)| line.as_str()).collect::<String>())
}

fn begin(seq: u64) -> Lines {
    (0..12).map(|n| (format!("line {n} of {seq}\n"), seq)).collect()
}

fn edit(pattern: usize, rng: &mut StdRng, seq: u64, lines: &mut Lines) {
    let new = (format!("of version {seq}\n"), seq);
    match pattern {
        0 => lines.push(new),
        1 => lines[5] = new,
        2 => {
            let at = rng.random_range(0..lines.len());
            lines[at] = new;
        }
        3 => lines.insert(rng.random_range(0..=lines.len()), new),
        _ => {
            let at = rng.random_range(0..lines.len());
            lines[at] = new;
            lines.remove((at + 3) % lines.len());
            lines.insert(0, (format!("first of version {seq}\n"), seq));
        }
    }
}

fn few(b: &mut Bench) {
    b.repository.wear = Limits { touched: FEW, ..Limits::default() };
}

/// The paths that each change of the log founded anew.
fn foundings(repository: &Repository) -> Vec<Vec<String>> {
    let of = |hash: &str| {
        let header = repository.changes.get_header(&libpijul::Hash::from_base32(hash.as_bytes()).unwrap()).unwrap();
        let description = header.description.unwrap();
        let credit = description.lines().filter_map(|l| l.strip_prefix("credit "));
        credit.map(|l| l.splitn(3, ' ').nth(2).unwrap().to_owned()).collect()
    };
    repository.log().unwrap().iter().map(|entry| of(&entry.hash)).collect()
}

fn times(repository: &Repository, path: &str) -> usize {
    foundings(repository).concat().iter().filter(|p| *p == path).count()
}

/// The version that each line is from.
fn credit(b: &Bench, path: &str) -> Vec<(String, u64)> {
    let blame = Snapshot::take(&b.project(), PATIENCE).unwrap().blame("main", path.as_bytes()).unwrap();
    assert!(!blame.conflict);
    let version = |change: usize| blame.changes[change].seq.unwrap().0;
    blame.lines.iter().map(|l| (format!("{}\n", String::from_utf8(l.bytes.clone()).unwrap()), version(l.change))).collect()
}

#[test]
fn a_hot_file_is_founded_anew_and_a_clone_and_its_credit_are_equal() {
    for pattern in 0..5 {
        let mut rng = StdRng::seed_from_u64(pattern as u64);
        let mut b = Bench::new();
        few(&mut b);
        let mut lines = begin(1);
        b.step(tree([("d", dir()), ("d/hot", text(&lines)), ("cold", file("x\n"))]), &[]);
        for n in 2..=24 {
            edit(pattern, &mut rng, n, &mut lines);
            b.step(tree([("d", dir()), ("d/hot", text(&lines)), ("cold", file("x\n"))]), &[]);
            assert_eq!(credit(&b, "d/hot"), lines, "pattern {pattern}, version {n}");
            if n % 8 == 0 {
                b.check();
            }
        }
        assert_eq!(times(&b.repository, "d/hot"), 4, "{:?}", foundings(&b.repository));
        assert_eq!(times(&b.repository, "cold"), 0);
        // As the client sees it: nothing to record, every version there, and the foundings in its changes.
        let clone = b.check();
        assert_eq!(pijul(b.home.path(), &clone, &["diff", "--short"]), "");
        assert_eq!(logged(b.home.path(), &b.project()), (1..=24).rev().map(|n| n * 16).collect::<Vec<_>>());
        let newest = b.repository.log().unwrap()[20].hash.clone();
        assert!(b.pijul(&["change", &newest]).contains("credit "), "{newest}");
    }
}

#[test]
fn credit_is_that_of_a_file_that_was_never_founded_anew_and_that_of_the_client() {
    let mut rng = StdRng::seed_from_u64(3);
    let (mut hot, mut plain) = (Bench::new(), Bench::new());
    few(&mut hot);
    let mut lines = begin(1);
    for n in 1..=30 {
        if n > 1 {
            edit(4, &mut rng, n, &mut lines);
        }
        for b in [&mut hot, &mut plain] {
            b.step(tree([("f", text(&lines))]), &[]);
        }
    }
    assert_eq!((times(&hot.repository, "f"), times(&plain.repository, "f")), (5, 0));
    assert_eq!(credit(&hot, "f"), credit(&plain, "f"));
    // The client names all changes that are near a line, that which brought it among them.
    let log = plain.repository.log().unwrap();
    let clone = plain.check();
    let said = pijul(plain.home.path(), &clone, &["credit", "f", "--output-format", "json"]);
    let mut client = Vec::new();
    for run in serde_json::from_str::<Vec<serde_json::Value>>(&said).unwrap() {
        for line in run["content"].as_str().unwrap().lines() {
            client.push((format!("{line}\n"), run["changes"].clone()));
        }
    }
    assert_eq!(client.len(), lines.len());
    for ((line, changes), (ours, seq)) in client.iter().zip(credit(&hot, "f")) {
        let hash = &log[seq as usize - 1].hash;
        assert!(*line == ours && changes.as_array().unwrap().iter().any(|c| c == hash), "{line}: {changes}, not {hash}");
    }
}

#[test]
fn a_graph_with_many_vertices_is_enough() {
    let mut b = Bench::new();
    b.repository.wear = Limits { touched: 1_000, vertices: 40 };
    let mut lines: Lines = (0..60).map(|n| (format!("line {n}\n"), 1)).collect();
    b.step(tree([("f", text(&lines))]), &[]);
    // 120 vertices at once; the change after it founds.
    for n in 2..=3 {
        lines.iter_mut().step_by(2).for_each(|line| *line = (format!("{n} {}", line.0), n));
        b.step(tree([("f", text(&lines))]), &[]);
    }
    assert_eq!(foundings(&b.repository), [vec![], vec![], vec!["f".to_owned()]]);
    assert_eq!(credit(&b, "f"), lines);
    lines[1] = ("four\n".into(), 4);
    b.step(tree([("f", text(&lines))]), &[]);
    assert_eq!((times(&b.repository, "f"), credit(&b, "f")), (1, lines));
    b.check();
}

#[test]
fn a_hot_file_and_its_directory_are_renamed() {
    let mut b = Bench::new();
    few(&mut b);
    let mut rng = StdRng::seed_from_u64(1);
    let mut lines = begin(1);
    let side = |thing: Thing| Thing { mode: 0o600, ..thing };
    let make = |d: &str, name: &str, lines: &Lines| {
        tree([(d.to_owned(), dir()), (format!("{d}/{name}"), side(text(lines))), (format!("{d}/z"), side(file("z")))])
    };
    b.step(make("d", "hot", &lines), &[]);
    for n in 2..=FEW as u64 {
        edit(2, &mut rng, n, &mut lines);
        b.step(make("d", "hot", &lines), &[]);
    }
    // The version that would found it anew renames the directory above too.
    edit(2, &mut rng, 6, &mut lines);
    b.step(make("e", "hot", &lines), &[(b"d", b"e")]);
    assert_eq!((times(&b.repository, "e/hot"), credit(&b, "e/hot")), (1, lines.clone()));
    b.check();
    for n in 7..=10 {
        edit(3, &mut rng, n, &mut lines);
        b.step(make("e", "hot", &lines), &[]);
    }
    // A move founds nothing, the edit after it does.
    edit(0, &mut rng, 11, &mut lines);
    b.step(make("e", "hotter", &lines), &[(b"e/hot", b"e/hotter")]);
    assert_eq!(times(&b.repository, "e/hotter"), 0);
    edit(1, &mut rng, 12, &mut lines);
    b.step(make("e", "hotter", &lines), &[]);
    assert_eq!((times(&b.repository, "e/hotter"), credit(&b, "e/hotter")), (1, lines.clone()));
    b.check();
    b.step(make("f", "hotter", &lines), &[(b"e", b"f")]);
    for n in 14..=24 {
        edit(4, &mut rng, n, &mut lines);
        b.step(make("f", "hotter", &lines), &[]);
    }
    assert!(times(&b.repository, "f/hotter") >= 2);
    assert_eq!(credit(&b, "f/hotter"), lines);
    b.check();
}

#[test]
fn two_hot_files_their_sidecars_and_a_manifest_in_each_version() {
    let mut b = Bench::new();
    few(&mut b);
    let mut rng = StdRng::seed_from_u64(2);
    let (mut one, mut two) = (begin(1), begin(1));
    for n in 1..=17_u64 {
        if n > 1 {
            edit(2, &mut rng, n, &mut one);
            edit(3, &mut rng, n, &mut two);
        }
        // A sidecar that changes each time is as hot as its file.
        let mode = 0o600 + (n % 5) as u32;
        let binary = [&b"\0"[..], format!("{n}").as_bytes()].concat();
        b.step(tree([("a one.txt", text(&one)), ("two", Thing { mode, ..text(&two) }), ("bin", file(&binary))]), &[]);
    }
    for path in ["a one.txt", "two", "bin"] {
        assert_eq!(times(&b.repository, path), 3, "{path}: {:?}", foundings(&b.repository));
    }
    assert_eq!((credit(&b, "a one.txt"), credit(&b, "two")), (one, two));
    let refused = Snapshot::take(&b.project(), PATIENCE).unwrap().blame("main", b"bin").unwrap_err();
    assert_eq!(refused.class, Class::Refused);
    b.check();
}

#[test]
fn a_text_that_does_not_change_is_not_founded_anew() {
    let mut b = Bench::new();
    few(&mut b);
    let mut lines = begin(1);
    let mut rng = StdRng::seed_from_u64(5);
    b.step(tree([("f", text(&lines))]), &[]);
    for n in 2..=FEW as u64 {
        edit(1, &mut rng, n, &mut lines);
        b.step(tree([("f", text(&lines))]), &[]);
    }
    for mode in [0o755, 0o600, 0o644, 0o755] {
        b.step(tree([("f", Thing { mode, ..text(&lines) })]), &[]);
    }
    assert_eq!((times(&b.repository, "f"), credit(&b, "f")), (0, lines.clone()));
    b.check();
    lines[0] = ("x\n".into(), 10);
    b.step(tree([("f", Thing { mode: 0o755, ..text(&lines) })]), &[]);
    assert_eq!((times(&b.repository, "f"), credit(&b, "f")), (1, lines));
    b.check();
}

#[test]
fn a_hot_file_is_deleted_comes_again_becomes_binary_a_directory_and_a_text() {
    let mut b = Bench::new();
    few(&mut b);
    let mut rng = StdRng::seed_from_u64(6);
    let mut n = 0;
    let mut hot = |b: &mut Bench, lines: &mut Lines, edits: u64| {
        for _ in 0..edits {
            n = b.seq + 1;
            if lines.is_empty() {
                lines.extend(begin(n))
            } else {
                edit(4, &mut rng, n, lines)
            }
            b.step(tree([("f", text(lines))]), &[]);
        }
        assert_eq!(credit(b, "f"), *lines);
    };
    hot(&mut b, &mut Vec::new(), 8);
    b.step(Tree::new(), &[]);
    hot(&mut b, &mut Vec::new(), 7);
    // The version that would found it anew deletes and makes it.
    hot(&mut b, &mut Vec::new(), 5);
    let again = changes(&b.tree, &tree([("f", file("again\n"))]), &[]);
    let gone = changes(&b.tree, &Tree::new(), &[]);
    b.seq += 1;
    b.repository.record(&version(b.seq, gone.into_iter().chain(again).collect())).unwrap();
    b.tree = tree([("f", file("again\n"))]);
    b.check();
    for n in 0..7 {
        b.step(tree([("f", file([b"\0", format!("{n}").as_bytes()].concat()))]), &[]);
    }
    b.check();
    hot(&mut b, &mut Vec::new(), 13);
    b.step(tree([("f", dir()), ("f/g", file("g"))]), &[]);
    hot(&mut b, &mut Vec::new(), 6);
    b.check();
    // Empty now and then.
    for n in 0..12 {
        b.step(tree([("f", file(if n % 3 == 0 { String::new() } else { format!("{n}") }))]), &[]);
    }
    b.check();
}

#[test]
fn a_file_without_a_newline_at_its_end_has_its_credit() {
    let mut b = Bench::new();
    few(&mut b);
    for n in 1..=13 {
        let text: String = (1..=n).map(|n| format!("{n}\n")).collect();
        b.step(tree([("f", file(text.trim_end()))]), &[]);
    }
    // A line that gets its newline is another line.
    let want: Vec<_> = (1..=13_u64).map(|n| (format!("{n}\n"), (n + 1).min(13))).collect();
    assert_eq!((times(&b.repository, "f"), credit(&b, "f")), (2, want));
    b.check();
}

#[test]
fn the_same_versions_give_the_same_changes_in_whatever_transactions() {
    let mut lines = begin(1);
    let mut rng = StdRng::seed_from_u64(7);
    let (mut trees, mut versions) = (vec![Tree::new()], Vec::new());
    for n in 1..=40 {
        edit(4, &mut rng, n, &mut lines);
        let new = tree([("f", text(&lines)), ("g", file(format!("{}", n / 3)))]);
        versions.push(version(n, changes(&trees[trees.len() - 1], &new, &[])));
        trees.push(new);
    }
    let mut logs = Vec::new();
    for batch in [1, 7, 40] {
        let home = tempfile::tempdir().unwrap();
        for some in versions.chunks(batch) {
            let mut repository = Repository::open_or_create(home.path(), STORE, OWNER).unwrap();
            repository.wear.touched = FEW;
            repository.record_many(some).unwrap();
        }
        let repository = Repository::open_or_create(home.path(), STORE, OWNER).unwrap();
        assert_eq!(times(&repository, "f"), 7);
        logs.push(repository.log().unwrap().into_iter().map(|e| e.hash).collect::<Vec<_>>());
    }
    assert!(logs[0] == logs[1] && logs[1] == logs[2]);
}

/// Whether each path of the head is a manifest, by its sidecar as the client's clone has it.
fn manifest(b: &Bench, path: &str) -> bool {
    let clone = b.check();
    let name = std::path::Path::new(path);
    let mut side = clone.join(".ize-meta");
    for above in name.parent().into_iter().flat_map(|p| p.iter()) {
        side.push(format!("{}.d", above.to_str().unwrap()));
    }
    side.push(format!("{}.ize", name.file_name().unwrap().to_str().unwrap()));
    let says = std::fs::read_to_string(side).is_ok_and(|text| text.contains("form manifest"));
    assert_eq!(std::fs::read(clone.join(path)).unwrap().starts_with(b"ize-manifest 1 "), says);
    says
}

#[test]
fn a_file_at_the_border_of_a_text_keeps_its_form() {
    let max = usize::try_from(TEXT_MAX).unwrap();
    let sized = |len: usize| file(&"a line of text\n".repeat(len / 15 + 1)[..len]);
    let mut b = Bench::new();
    let at = |b: &mut Bench, path: &str, len: usize, renames: &[(&[u8], &[u8])]| {
        let (dir_name, _) = path.split_once('/').unwrap();
        b.step(tree([(dir_name, dir()), (path, sized(len))]), renames);
        manifest(b, path)
    };
    assert!(!at(&mut b, "d/f", max, &[]));
    assert!(at(&mut b, "d/f", max + 1, &[]));
    assert!(at(&mut b, "d/f", max, &[]));
    assert!(at(&mut b, "d/f", max / 2 + 1, &[]));
    // Also where it, or the directory above it, has another name.
    assert!(at(&mut b, "d/g", max / 2 + 2, &[(b"d/f", b"d/g")]));
    assert!(at(&mut b, "e/g", max / 2 + 3, &[(b"d", b"e")]));
    assert!(!at(&mut b, "e/g", max / 2, &[]));
    // And once it is a text it is one up to the border.
    assert!(!at(&mut b, "e/g", max, &[]));
    // Another file with the name of one that was a manifest is none.
    assert!(at(&mut b, "e/g", max + 1, &[]));
    b.step(Tree::new(), &[]);
    assert!(!at(&mut b, "e/g", max, &[]));
    // Binary is a manifest at any size; a large text after it stays one, a small one does not.
    b.step(tree([("e", dir()), ("e/g", file(b"\0"))]), &[]);
    assert!(manifest(&b, "e/g"));
    let at = |b: &mut Bench, len: usize| {
        b.step(tree([("e", dir()), ("e/g", sized(len))]), &[]);
        manifest(b, "e/g")
    };
    assert!(at(&mut b, max - 1));
    assert!(!at(&mut b, 1_000));
}

const DIR: &str = "IZE_TEST_PIJUL_HOT_CHILD";

/// The first four are there before; each of the two that follow founds a file anew.
fn history() -> (Vec<VersionInput>, Vec<Tree>) {
    let mut rng = StdRng::seed_from_u64(8);
    let (mut one, mut two) = (begin(1), begin(1));
    let (mut versions, mut trees) = (Vec::new(), vec![Tree::new()]);
    for n in 1..=8 {
        edit(2, &mut rng, n, &mut one);
        if n > 1 {
            edit(4, &mut rng, n, &mut two);
        }
        let mut new = tree([("one", text(&one))]);
        if n > 1 {
            new.insert(b"two".to_vec(), text(&two));
        }
        versions.push(version(n, changes(&trees[trees.len() - 1], &new, &[])));
        trees.push(new);
    }
    (versions, trees)
}

fn open(dir: &std::path::Path) -> Repository {
    let mut repository = Repository::open_or_create(dir, STORE, OWNER).unwrap();
    repository.wear.touched = 4;
    repository
}

/// Not a test of its own: the process that dies at a step.
#[test]
fn child_founds_anew_until_it_dies() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let repository = open(dir.as_ref());
    let done = repository.head().unwrap().map_or(0, |h| h.seq.0) as usize;
    for batch in history().0[done..].chunks(2) {
        repository.record_many(batch).unwrap();
    }
}

#[test]
fn dead_in_the_middle_of_a_founding_the_file_is_there_before_or_after_it() {
    let home = tempfile::tempdir().unwrap();
    let (versions, trees) = history();
    let mut whole = None;
    for kind in ["", "p"] {
        for number in 1.. {
            let project = home.path().join(format!("project{kind}{number}"));
            std::fs::create_dir(&project).unwrap();
            let repository = open(&project);
            repository.record_many(&versions[..4]).unwrap();
            assert_eq!(foundings(&repository).concat(), [""; 0]);
            drop(repository);
            let child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "pijul::tests::hot::child_founds_anew_until_it_dies", "--nocapture"])
                .env(DIR, &project)
                .env(super::CRASH_AT, format!("{kind}{number}"))
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .output()
                .unwrap();
            let repository = open(&project);
            let head = repository.head().unwrap().unwrap().seq.0 as usize;
            assert!(head == 4 || head == 6 || head == 8, "{head}");
            nothing_left_over(&project, &repository.log().unwrap(), &String::from_utf8_lossy(&child.stderr));
            repository.record_many(&versions[head..]).unwrap();
            assert_eq!(foundings(&repository).concat(), ["one", "two"]);
            let hashes: Vec<_> = repository.log().unwrap().into_iter().map(|e| e.hash).collect();
            assert_eq!(*whole.get_or_insert_with(|| hashes.clone()), hashes);
            drop(repository);
            if number % 5 == 0 || child.status.success() {
                check_clone(home.path(), &project, &trees[8]);
            }
            if child.status.success() {
                assert!(number > 15, "there are more steps than {number}");
                break;
            }
        }
    }
}

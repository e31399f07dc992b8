//! Odd contents, odd names, and changes of shape: each must come back from a clone exactly.

use super::kit::*;
use crate::pijul::{Outcome, names};
use crate::versions::node::FileKind;

#[test]
fn odd_contents_come_back_exactly() {
    let mut b = Bench::new();
    let mut new = tree([
        ("nul", file(b"a\0b")),
        ("utf8", file(b"\xff\xfe\n")),
        ("latin1", file(b"caf\xe9\n")),
        ("open-end", file("no newline at the end")),
        ("crlf", file("a\r\nb\r\n")),
        ("empty", file("")),
        ("bom", file("\u{feff}a\n")),
        ("long-line", file("x".repeat(200_000))),
        ("controls", file("\u{1}\u{1b}[0m\u{7f}\n")),
        ("looks-like-manifest", file("ize-manifest 1 0\n")),
        ("looks-like-conflict", file(">>>>>>> 1\na\n======= 1\nb\n<<<<<<< 1\n")),
        ("just-text", file("y".repeat(1 << 20))),
        ("too-long", file("z\n".repeat((1 << 19) + 1))),
        ("zeros", file(vec![0; 300_000])),
        ("empty-dir", dir()),
        ("japanese", file("日本語\n")),
    ]);
    b.step(new.clone(), &[]);
    b.check();
    // The same once more, each edited.
    for (path, thing) in &mut new {
        if thing.kind == FileKind::File && path != b"too-long" {
            let at = thing.bytes.len() / 2;
            let at = (0..=at).rev().find(|&i| std::str::from_utf8(&thing.bytes[..i]).is_ok()).unwrap();
            thing.bytes.splice(at..at, *b"\nedited\n");
        }
    }
    new.get_mut(&b"nul"[..]).unwrap().bytes = b"text now".to_vec();
    new.get_mut(&b"crlf"[..]).unwrap().bytes = b"binary\0now".to_vec();
    new.get_mut(&b"empty"[..]).unwrap().bytes = b"x".to_vec();
    b.step(new.clone(), &[]);
    b.check();
    new.get_mut(&b"empty"[..]).unwrap().bytes.clear();
    new.get_mut(&b"open-end"[..]).unwrap().bytes.clear();
    b.step(new, &[]);
    b.check();
}

#[test]
fn odd_names_come_back_exactly() {
    let mut b = Bench::new();
    let escapes_to_256 = [vec![b'a'; 253], vec![1]].concat();
    assert_eq!(names::escape(&escapes_to_256).len(), 256);
    let mut new = tree([
        (&b"\xff\xfe"[..], file("a")),
        (b"\xff\xff", file("b")),
        (b"new\nline", file("c")),
        (b" blanks ", file("d")),
        (b"back\\slash", file("e")),
        (b"quote\"'`$", file("f")),
        (b".pijul", dir()),
        (b".pijul/config", file("hooks = 1")),
        (b"sub", dir()),
        (b"sub/.pijul", file("g")),
        (b"sub/.ize-meta", file("h")),
        (b".ize-meta", dir()),
        (b".ize-meta/x.ize", Thing { mode: 0o600, ..file("i") }),
        (b"%2Epijul", file("j")),
        (b"%~long", file("k")),
        (b".ignore", file("*\n")),
        (b"x.d", Thing { mode: 0o700, ..dir() }),
        (b"x", Thing { mode: 0o700, ..dir() }),
        (b"x/y.ize", Thing { mode: 0o600, ..file("") }),
        (b"x.d/y", Thing { mode: 0o600, ..file("") }),
        (b"-n", file("l")),
        ("\u{202e}rtl".as_bytes(), file("m")),
    ]);
    new.insert(vec![b'n'; 255], file("255"));
    new.insert(vec![0xff; 255], dir());
    new.insert([vec![0xff; 255], vec![b'/'], vec![0xfe; 255]].concat(), file("deep"));
    new.insert(escapes_to_256, file("256"));
    for exact in 250..256 {
        new.insert(vec![b'p'; exact], Thing { mode: 0o600, ..file("sidecar name is near the limit") });
    }
    b.step(new.clone(), &[]);
    b.check();
    let long = vec![0xff; 255];
    let moved = tree(new.into_iter().map(|(p, t)| (if p.starts_with(&long) { [b"short", &p[255..]].concat() } else { p }, t)));
    b.step(moved, &[(&long, b"short")]);
    b.check();
}

#[test]
fn what_pijul_cannot_hold_comes_back_from_sidecars() {
    let mut b = Bench::new();
    let new = tree([
        ("", Thing { mode: 0o700, ..dir() }),
        ("run", Thing { mode: 0o755, ..file("#!/bin/sh\n") }),
        ("suid", Thing { mode: 0o6755, ..file("x") }),
        ("private", Thing { mode: 0o600, ..file("x") }),
        ("weird", Thing { mode: 0o100, ..file("x") }),
        ("root", Thing { uid: 0, ..file("x") }),
        ("tagged", Thing { xattrs: [(b"user.t a".to_vec(), vec![0, 10]), (b"user.e".to_vec(), vec![])].into(), ..file("x") }),
        ("sticky", Thing { mode: 0o1777, ..dir() }),
        ("link", symlink(b"a\nb\xff")),
        ("fifo", Thing { kind: FileKind::Fifo, ..file("") }),
        ("hard1", Thing { link: Some(b"hard1".to_vec()), ..file("h") }),
        ("hard2", Thing { link: Some(b"hard1".to_vec()), ..file("h") }),
    ]);
    b.step(new.clone(), &[]);
    b.check();
    // Every one back to the default: no sidecar and no directory of sidecars is left.
    let plain = |t: &Thing| if t.kind == FileKind::Directory { dir() } else { file("x") };
    let plain = tree(new.iter().filter(|(p, _)| !p.is_empty()).map(|(p, t)| (p, plain(t))));
    let mut changes = changes(&b.tree, &plain, &[]);
    changes.retain(|c| !c.path.is_empty());
    changes.push(crate::pijul::TreeChange { path: vec![], from: None, old: None, new: Some(item(&dir())) });
    b.seq += 1;
    b.repository.record(&version(b.seq, changes)).unwrap();
    b.tree = plain;
    let clone = b.check();
    assert!(!clone.join(names::META_DIR).exists());
}

#[test]
fn files_and_directories_may_change_places() {
    let mut b = Bench::new();
    b.step(tree([("a", file("a")), ("b", dir()), ("b/x", file("x")), ("c", dir()), ("b/y", file("y"))]), &[]);
    // A file becomes a directory, a full directory a file, an empty one a symlink.
    b.step(tree([("a", dir()), ("a/new", file("n")), ("b", file("b")), ("c", symlink("a"))]), &[]);
    b.check();
    b.step(tree([("a", file("again")), ("b", dir()), ("b/x", file("x2")), ("c", dir())]), &[]);
    b.check();
    // A file into the directory that takes its own name; a directory's child onto the directory's name.
    b.step(tree([("a", dir()), ("a/a", file("again")), ("b", file("x2")), ("c", dir())]), &[(b"a", b"a/a"), (b"b/x", b"b")]);
    b.check();
}

#[test]
fn renames_may_cross_chain_and_nest() {
    let mut b = Bench::new();
    let secret = |s: &str| Thing { mode: 0o600, ..file(s) };
    b.step(
        tree([("a", secret("a\n")), ("b", file("b\n")), ("c", file("c\n")), ("d", dir()), ("d/e", dir()), ("d/e/f", secret("f\n"))]),
        &[],
    );
    // Swap, with the sidecar of one.
    let swapped = [("a", file("b\n")), ("b", secret("a\n")), ("c", file("c\n")), ("d", dir()), ("d/e", dir()), ("d/e/f", secret("f\n"))];
    b.step(tree(swapped), &[(b"a", b"b"), (b"b", b"a")]);
    b.check();
    // A cycle of three, and a directory with what is below it.
    let turned = [("a", secret("a\n")), ("b", file("c\n")), ("c", file("b\n")), ("g", dir()), ("g/e", dir()), ("g/e/f", secret("f\n"))];
    b.step(tree(turned), &[(b"a", b"c"), (b"b", b"a"), (b"c", b"b"), (b"d", b"g")]);
    b.check();
    // The inner directory becomes the outer one.
    let inside_out = [("a", secret("a\n")), ("e", dir()), ("e/g", dir()), ("e/f", secret("f changed\n")), ("e/g/new", file("n\n"))];
    b.step(tree(inside_out), &[(b"g/e", b"e"), (b"g", b"e/g")]);
    b.check();
    // Out of a directory that is deleted, into one that is new; over an existing file.
    b.step(tree([("h", dir()), ("h/f", secret("f changed\n")), ("a", file("n\n"))]), &[(b"e/f", b"h/f"), (b"e/g/new", b"a")]);
    b.check();
    // Rotation: the old one moves on, a new one takes its name.
    b.step(tree([("h", dir()), ("h/f", secret("f changed\n")), ("a.1", file("n\n")), ("a", file("fresh\n"))]), &[(b"a", b"a.1")]);
    b.check();
    b.step(Tree::new(), &[]);
    b.check();
    b.step(tree([("h", dir()), ("h/f", file("back\n"))]), &[]);
    b.check();
}

#[test]
fn a_renamed_directory_carries_changes_additions_and_removals() {
    let mut b = Bench::new();
    let private = |s: &str| Thing { mode: 0o600, ..file(s) };
    b.step(tree([("d", dir()), ("d/keep", private("k\n")), ("d/edit", file("1\n2\n3\n")), ("d/drop", private("x")), ("d/s", dir())]), &[]);
    let after = [
        ("n", dir()),
        ("n/d", dir()),
        ("n/d/keep", private("k\n")),
        ("n/d/edit", private("1\ntwo\n3\n")),
        ("n/d/s", dir()),
        ("n/d/s/z", file("z")),
    ];
    b.step(tree(after), &[(b"d", b"n/d")]);
    b.check();
    let log = b.pijul(&["log"]);
    assert!(log.contains("n/d <- d"), "{log}");
    let change = b.pijul(&["change"]);
    assert!(change.contains("Moved: \"n/d\" \"d\"") || change.contains("Moved"), "{change}");
    assert!(!change.contains('\u{1}'), "{change}");
}

#[test]
fn a_version_without_effect_is_one_empty_change() {
    let mut b = Bench::new();
    assert!(matches!(b.step(Tree::new(), &[]), Outcome::Empty(_)));
    b.check();
    b.step(tree([("a", file("a"))]), &[]);
    // Only times differ.
    let touched = crate::pijul::TreeChange { path: b"a".to_vec(), from: None, old: Some(item(&file("a"))), new: Some(item(&file("a"))) };
    assert!(matches!(b.repository.record(&version(3, vec![touched])).unwrap(), Outcome::Empty(_)));
    b.seq = 3;
    assert!(matches!(b.step(b.tree.clone(), &[]), Outcome::Empty(_)));
    b.step(tree([("a", file("b"))]), &[]);
    b.check();
    assert_eq!(logged(b.home.path(), &b.project()), [80, 64, 48, 32, 16]);
}

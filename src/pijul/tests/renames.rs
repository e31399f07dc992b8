//! A directory with very many files is renamed: one small change, whatever is in it, and a clean clone.

use libpijul::Base32;
use libpijul::changestore::ChangeStore;

use super::kit::*;

/// More of them than a run of the suite has time for: `IZE_TEST_FILES=10000`.
fn files() -> usize {
    std::env::var("IZE_TEST_FILES").map_or(2_000, |n| n.parse().unwrap())
}

/// A directory with all its files, every tenth of them with a sidecar, in two levels.
fn full(name: &str, edited: &[usize]) -> Tree {
    let mut out = tree([(name.to_owned(), dir()), (format!("{name}/sub"), Thing { mode: 0o700, ..dir() })]);
    for n in 0..files() {
        let below = if n % 4 == 0 { "sub/" } else { "" };
        let text = if edited.contains(&n) { format!("file {n}\nedited\n") } else { format!("file {n}\n") };
        let mode = if n % 10 == 0 { 0o600 } else { 0o644 };
        out.insert(format!("{name}/{below}f{n}").into_bytes(), Thing { mode, ..file(text) });
    }
    out
}

/// Hunks and bytes of the last change.
fn size(b: &Bench) -> (usize, u64) {
    let hash = b.repository.log().unwrap().pop().unwrap().hash;
    let change = b.repository.changes.get_change(&libpijul::Hash::from_base32(hash.as_bytes()).unwrap()).unwrap();
    let path = b.project().join(".pijul/changes").join(&hash[..2]).join(format!("{}.change", &hash[2..]));
    (change.hashed.changes.len(), std::fs::metadata(path).unwrap().len())
}

#[test]
fn a_directory_with_very_many_files_is_renamed_by_one_small_change() {
    let mut b = Bench::new();
    b.step(full("d", &[]), &[]);
    b.step(full("e", &[]), &[(b"d", b"e")]);
    // The directory, and that of its sidecars.
    let (hunks, bytes) = size(&b);
    assert!(hunks == 2 && bytes < 2_000, "{hunks} hunks, {bytes} bytes");
    let clone = b.check();
    assert_eq!(pijul(b.home.path(), &clone, &["diff", "--short"]), "");

    // Some of what is below changes in the same version: a text, one with a sidecar, one in the directory below.
    let edited = [1, 10, 20];
    let mut new = full("f", &edited);
    let removed = format!("f/f{}", 30 - 1);
    assert!(new.remove(removed.as_bytes()).is_some());
    new.insert(b"f/new".to_vec(), file("new\n"));
    b.step(new, &[(b"e", b"f")]);
    let (hunks, bytes) = size(&b);
    assert!(hunks <= 8 && bytes < 4_000, "{hunks} hunks, {bytes} bytes");
    // A pull brings the same as a clone.
    pijul(b.home.path(), &clone, &["pull", "--all", b.project().to_str().unwrap()]);
    assert_eq!(pijul(b.home.path(), &clone, &["diff", "--short"]), "");
    assert!(clone.join("f/new").exists() && !clone.join("e").exists() && !clone.join(&removed).exists());
    assert_eq!(std::fs::read_to_string(clone.join("f/sub/f20")).unwrap(), "file 20\nedited\n");
    assert!(clone.join(".ize-meta/f.d/sub.d/f20.ize").exists() && !clone.join(".ize-meta/e.d").exists());
    b.check();

    // Into another directory, and one of the files out of it.
    let mut new: Tree = b.tree.iter().map(|(path, thing)| ([&b"above/"[..], path].concat(), thing.clone())).collect();
    new.insert(b"above".to_vec(), dir());
    let out = new.remove(&b"above/f/f7"[..]).unwrap();
    new.insert(b"out".to_vec(), out);
    b.step(new, &[(b"f", b"above/f"), (b"f/f7", b"out")]);
    let (hunks, _) = size(&b);
    assert!(hunks <= 6, "{hunks} hunks");
    b.check();
}

//! The real `pijul` client, and all that a tree has but its times.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, reason = "each test file uses its part, and stops where it cannot go on")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::said;

/// The client, which must be there.
pub fn client() -> PathBuf {
    let given = std::env::var_os("IZE_TEST_PIJUL").map_or_else(|| "pijul".into(), PathBuf::from);
    let works = Command::new(&given).arg("--version").output().is_ok_and(|o| o.status.success());
    assert!(works, "the real pijul client is needed: `.ci/pijul` builds it and prints its path for IZE_TEST_PIJUL");
    given
}

/// Runs it, with `dir` as its home; it must succeed.
pub fn pijul(dir: &Path, args: &[&str]) -> String {
    let output = Command::new(client()).args(args).current_dir(dir).env("HOME", dir).env("NO_COLOR", "1").output().unwrap();
    let said = said(output);
    assert_eq!(said.code, 0, "pijul {args:?}: {said:?}");
    assert!(!said.err.to_lowercase().contains("conflict"), "pijul {args:?}: {said:?}");
    said.out
}

/// Everything below `root`, and itself: kind, mode, owner, device, length, names, extended attributes, and a hash of its bytes.
pub fn picture(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut all = Vec::new();
    let mut work = vec![root.to_owned()];
    while let Some(path) = work.pop() {
        let m = std::fs::symlink_metadata(&path).unwrap();
        if m.is_dir() {
            work.extend(std::fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
        }
        all.push((path, m));
    }
    all.sort_by(|a, b| a.0.cmp(&b.0));
    let mut firsts: BTreeMap<u64, PathBuf> = BTreeMap::new();
    let mut out = BTreeMap::new();
    for (path, m) in all {
        let inside = path.strip_prefix(root).unwrap().to_owned();
        let mut look = format!("{:o} {}:{}", m.mode(), m.uid(), m.gid());
        if m.is_dir() {
        } else if m.is_symlink() {
            write!(look, " -> {}", std::fs::read_link(&path).unwrap().as_os_str().as_bytes().escape_ascii()).unwrap();
        } else if m.is_file() {
            write!(look, " {} bytes {}", m.len(), blake3::hash(&std::fs::read(&path).unwrap())).unwrap();
        } else {
            write!(look, " device {}", m.rdev()).unwrap();
        }
        if !m.is_dir() && m.nlink() > 1 {
            let first = firsts.entry(m.ino()).or_insert_with(|| inside.clone());
            write!(look, " {} names, first {first:?}", m.nlink()).unwrap();
        }
        for (name, value) in xattrs(&path) {
            write!(look, " {}={}", name.escape_ascii(), value.escape_ascii()).unwrap();
        }
        out.insert(inside, look);
    }
    out
}

fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; 65536];
    let n = rustix::fs::llistxattr(path, names.as_mut_slice()).unwrap();
    let names = names[..n].split(|b| *b == 0).filter(|n| !n.is_empty() && *n != b"user.ize.project");
    let value = |name: &[u8]| {
        let mut value = vec![0; 65536];
        let n = rustix::fs::lgetxattr(path, name, value.as_mut_slice()).unwrap();
        value.truncate(n);
        value
    };
    names.map(|name| (name.to_vec(), value(name))).collect()
}

/// Two pictures are one.
#[track_caller]
pub fn assert_same(want: &BTreeMap<PathBuf, String>, got: &BTreeMap<PathBuf, String>) {
    for (path, look) in want {
        assert_eq!(Some(look), got.get(path), "{path:?}");
    }
    let more: Vec<_> = got.keys().filter(|path| !want.contains_key(*path)).collect();
    assert!(more.is_empty(), "more than there should be: {more:?}");
}

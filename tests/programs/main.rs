//! Real programs on a mount, those of `tests/programs/run` that need no network and little time. All of them: `tests/programs/run`.
#![cfg(feature = "fuse")]
#![allow(missing_docs, clippy::unwrap_used)]

use std::path::Path;
use std::process::Command;

fn works(name: &str) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/run");
    let output = Command::new(script).arg(name).env("IZE", env!("CARGO_BIN_EXE_ize")).env("SMALL", "1").output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.contains(&format!("ok      {name}")), "{out}\n{err}");
}

#[test]
fn git_clones_collects_rebases_and_finds_all_sound() {
    works("git");
}

#[test]
fn sqlite_works_in_every_journal_mode() {
    works("sqlite");
}

#[test]
fn an_atomic_save_replaces_the_file() {
    works("save");
}

//! `ize wal ...` as a person or a script meets it: on projects, copies, single segments, damaged logs, beside a live writer. The logs are
//! written through the library; nothing is mounted.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../wal_kit/mod.rs"]
mod wal_kit;

mod changing;
mod live;
mod reading;

use std::os::unix::fs::FileExt;
use std::path::Path;

use serde_json::Value;
use wal_kit::{Home, Writer, chmod, create, json_lines, mkdir, unlink, write};

/// A project with a small history by two processes, in two segments, the second one open.
pub fn history(home: &Home) -> Writer {
    let mut w = Writer::new(home.project("notes"));
    w.by(100, "vim");
    w.at(1_767_366_000);
    w.push(mkdir(1, "docs", 2));
    w.push(create(2, "a.txt", 3));
    w.push(write(3, 0, b"hello, log"));
    w.at(1_767_366_060);
    w.by(200, "make");
    w.push(create(1, "out", 4));
    w.push(write(4, 0, &[7; 1000]));
    w.seal();
    w.by(100, "vim");
    w.at(1_767_369_600);
    w.push(chmod(3, 0o644, 0o600));
    w.by(0, "");
    w.push(write(3, 10, b"!"));
    w.by(200, "make");
    w.push(unlink(1, "out", 4));
    w
}

pub fn ops(lines: &[Value]) -> Vec<String> {
    lines.iter().filter(|l| l["type"] == "record").map(|l| l["op"].as_str().unwrap().to_owned()).collect()
}

/// Changes one byte of a file.
pub fn spoil(file: &Path, at: u64) {
    let f = std::fs::File::options().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    f.read_exact_at(&mut byte, at).unwrap();
    f.write_all_at(&[byte[0] ^ 0x40], at).unwrap();
}

pub fn record_at(home: &Home, op: &str) -> Value {
    let lines = json_lines(&home.ize(&["wal", "inspect", "notes", "--json"]).out);
    lines.into_iter().find(|l| l["op"] == op).unwrap()
}

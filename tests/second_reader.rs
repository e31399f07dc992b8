//! A second reader of the log, tests/second_reader.py, written from wal-format.md alone: it and `ize wal inspect --json` say the same of the
//! golden store, and of copies of it that are flipped, cut, mixed and missing in places.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::process::Command;

use ize::storage::sim::Seeded;
use serde_json::Value;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn lines(output: &std::process::Output) -> Vec<Value> {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    text.lines().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}"))).collect()
}

/// What the second reader prints. Needs `python3`, with nothing but its standard library.
fn second(dir: &Path) -> Vec<Value> {
    let output = Command::new("python3").arg(root().join("tests/second_reader.py")).arg(dir).output().expect("python3 is needed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    lines(&output)
}

fn ize(dir: &Path, home: &Path) -> Vec<Value> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ize"));
    command.args(["wal", "inspect", "--json"]).arg(dir).env_clear().env("HOME", home).env("PATH", std::env::var_os("PATH").unwrap());
    let output = command.output().unwrap();
    // Findings are an exit code too, and are compared.
    assert!(matches!(output.status.code(), Some(0 | 4 | 5)), "{}", String::from_utf8_lossy(&output.stderr));
    lines(&output)
}

/// A finding without its words; everything else as it is.
fn comparable(line: &Value) -> Value {
    if line["type"] != "finding" {
        return line.clone();
    }
    let keys = ["type", "verdict", "segment", "offset", "lsn", "through"];
    keys.iter().map(|k| ((*k).to_owned(), line[*k].clone())).collect::<serde_json::Map<_, _>>().into()
}

fn compare(dir: &Path, home: &Path, story: &str) -> Vec<Value> {
    let (ours, theirs) = (ize(dir, home), second(dir));
    for (n, (a, b)) in ours.iter().zip(&theirs).enumerate() {
        assert_eq!(comparable(a), *b, "{story}, line {}", n + 1);
    }
    assert_eq!(ours.len(), theirs.len(), "{story}");
    ours
}

#[test]
fn the_second_reader_lists_the_golden_store_line_by_line_as_inspect_does() {
    let home = tempfile::tempdir().unwrap();
    let ours = compare(&root().join("tests/golden/store-v1/wal"), home.path(), "golden");
    let of = |what: &str| ours.iter().filter(|l| l["type"] == what).count();
    assert_eq!((of("segment"), of("record"), of("finding")), (3, 39, 0));
}

#[test]
fn the_second_reader_judges_damage_as_inspect_does() {
    let home = tempfile::tempdir().unwrap();
    let golden: Vec<(String, Vec<u8>)> = (1..=3)
        .map(|id| format!("{id:016x}.seg"))
        .map(|name| (name.clone(), std::fs::read(root().join("tests/golden/store-v1/wal").join(name)).unwrap()))
        .collect();
    let mut rng = Seeded::new(11);
    let mut verdicts = std::collections::BTreeSet::new();
    let cases = std::env::var("IZE_TEST_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(40);
    for case in 0..cases {
        let mut files = golden.clone();
        let used = |n: usize| golden[n].1.iter().rposition(|b| *b != 0).unwrap() + 1;
        let n = rng.below(3) as usize;
        let story = match case % 5 {
            // The header of the first says whose store it is.
            0 => {
                let from = if n == 0 { 256 } else { 0 };
                let at = from + rng.below((used(n) - from) as u64 + 40) as usize % (files[n].1.len() - from);
                files[n].1[at] ^= 1 << rng.below(8);
                format!("segment {} flipped at {at:#x}", n + 1)
            }
            // Where the bound decides.
            1 => {
                let at = 256 + rng.below(used(2) as u64 - 256) as usize;
                files[2].1[at] ^= 1 << rng.below(8);
                format!("segment 3 flipped at {at:#x}")
            }
            2 => {
                let length = 256 + rng.below((used(n) - 256) as u64 + 100) as usize;
                files[n].1.truncate(length);
                format!("segment {} cut to {length:#x}", n + 1)
            }
            3 => {
                let (from, len) = (256 + rng.below((used(n) - 256) as u64) as usize, rng.below(400) as usize);
                let end = (from + len).min(files[n].1.len());
                files[n].1[from..end].fill(0);
                format!("segment {} zeroed from {from:#x} to {end:#x}", n + 1)
            }
            _ => {
                files.remove(1);
                if rng.below(2) == 0 {
                    files[1].1[300] ^= 4;
                }
                "segment 2 missing".to_owned()
            }
        };
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in &files {
            std::fs::write(dir.path().join(name), bytes).unwrap();
        }
        let ours = compare(dir.path(), home.path(), &format!("case {case}: {story}"));
        verdicts.extend(ours.iter().filter(|l| l["type"] == "finding").map(|l| l["verdict"].as_str().unwrap().to_owned()));
    }
    assert_eq!(verdicts.into_iter().collect::<Vec<_>>(), ["damage", "torn-tail"], "both were met");
}

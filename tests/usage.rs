//! `ize usage`: every byte of the packs is somebody's, once.

#![allow(clippy::unwrap_used, reason = "a test stops where it cannot go on")]

mod support;

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;
use support::{Home, lines, sh};

/// Bytes that nothing shrinks.
fn noise(seed: u8, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new_keyed(&[seed; 32]).finalize_xof().fill(&mut out);
    out
}

fn usage(home: &Home, args: &[&str]) -> (Value, Vec<Value>) {
    let mut all = lines(&home.ok(&[&["usage", "p", "--json", "-n", "0"], args].concat()));
    let summary = all.remove(0);
    assert_eq!(summary["rows"], all.len());
    (summary, all)
}

/// (present, history) by the field `name` of the rows.
fn by(rows: &[Value], name: &str) -> BTreeMap<String, (u64, u64)> {
    let bytes = |row: &Value, what: &str| row[what].as_u64().unwrap_or_default();
    rows.iter().map(|row| (row[name].as_str().unwrap().to_owned(), (bytes(row, "present"), bytes(row, "history")))).collect()
}

fn holds_together(summary: &Value, rows: &[Value], home: &Home) {
    let sum = |what: &str| rows.iter().map(|r| r[what].as_u64().unwrap()).sum::<u64>();
    let packs = &summary["packs"];
    assert_eq!((sum("present"), sum("history")), (packs["present"].as_u64().unwrap(), packs["versions"].as_u64().unwrap()), "{summary}");
    let files = std::fs::read_dir(home.project().join("blobs")).unwrap().map(|e| e.unwrap());
    let stored: u64 = files.filter(|f| f.path().extension().is_some_and(|e| e == "pack")).map(|f| f.metadata().unwrap().len()).sum();
    let parts: u64 = ["present", "versions", "log", "free"].iter().map(|p| packs[p].as_u64().unwrap()).sum();
    assert_eq!(parts, stored, "{summary}");
    let largest: Vec<u64> = rows.iter().map(|r| r["present"].as_u64().unwrap() + r["history"].as_u64().unwrap()).collect();
    assert!(largest.is_sorted_by(|a, b| a >= b), "{largest:?}");
}

#[test]
fn every_byte_of_the_packs_counts_once_for_who_names_it() {
    let home = Home::new();
    home.mount();
    let root = home.mount.clone();
    let write = |path: &str, bytes: &[u8]| {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    };
    write("a/deep/big", &noise(1, 400_000));
    write("b/copy", &noise(1, 400_000));
    write("target/debug/made", &noise(2, 200_000));
    write("target/CACHEDIR.TAG", b"Signature: 8a477f597d28d172789f06886806bc55\n");
    home.ok(&["commit", "p", "-m", "one"]);
    write("a/deep/big", &noise(3, 300_000));
    std::fs::remove_file(root.join("b/copy")).unwrap();
    home.ok(&["commit", "p", "-m", "two"]);
    // Beside the mount.
    let (summary, rows) = usage(&home, &[]);
    holds_together(&summary, &rows, &home);
    assert_eq!(summary["versions"], home.history().len());
    let paths = by(&rows, "path");
    let about = |(present, history): (u64, u64), p: u64, h: u64| present.abs_diff(p) < 20_000 && history.abs_diff(h) < 20_000;
    assert!(about(paths["target"], 200_000, 0), "{paths:?}");
    // The first contents were in two files and count for one of them.
    let first = paths["a"].1 + paths.get("b").map_or(0, |b| b.1);
    assert!(paths["a"].0.abs_diff(300_000) < 20_000 && first.abs_diff(400_000) < 20_000, "{paths:?}");
    let (_, files) = usage(&home, &["--depth", "0"]);
    assert!(about(by(&files, "path")["target/debug/made"], 200_000, 0), "{files:?}");
    let (_, two) = usage(&home, &["--depth", "2"]);
    assert!(by(&two, "path").contains_key("a/deep") && !by(&two, "path").contains_key("a/deep/big"), "{two:?}");
    let (summary, rows) = usage(&home, &["--by", "class"]);
    holds_together(&summary, &rows, &home);
    let classes = by(&rows, "name");
    assert!(about(classes["recent"], 200_000, 0), "{classes:?}");
    assert!(about(classes["keep"], 300_000, 400_000), "{classes:?}");
    let (_, programs) = usage(&home, &["--by", "process"]);
    let written: u64 = programs.iter().map(|r| r["written"].as_u64().unwrap()).sum();
    assert_eq!(written, 2 * 400_000 + 200_000 + 300_000 + 44, "{programs:?}");
    // What was written and is in no version yet is the log's.
    write("pending", &noise(4, 500_000));
    let (summary, _) = usage(&home, &[]);
    assert!(summary["packs"]["log"].as_u64().unwrap() > 450_000, "{summary}");
    home.unmount();
    // And without it; for people too.
    let (summary, rows) = usage(&home, &[]);
    holds_together(&summary, &rows, &home);
    let text = home.ok(&["usage", "p"]);
    assert!(text.contains("max-store") && text.contains("newest state") && text.contains("target"), "{text}");
    // The newest segment stays, and names what was written last.
    home.ok(&["wal", "prune", "p", "--max-size", "0"]);
    let (after, rows) = usage(&home, &[]);
    holds_together(&after, &rows, &home);
    assert!(after["packs"]["log"].as_u64().unwrap() < 510_000, "{after}");
}

#[test]
fn the_class_of_a_path_is_told_with_the_rule_that_decided_it() {
    let home = Home::new();
    home.mount();
    let root = &home.mount;
    sh(root, "mkdir -p sub/node_modules; printf '*.o\\n#ize: recent\\n*.log\\n' > .izeignore; echo '!x.o' > sub/.izeignore");
    let of = |dir: &Path, paths: &[&str]| {
        let args: Vec<&str> = ["usage", "--json"].into_iter().chain(paths.iter().flat_map(|p| ["--class-of", p])).collect();
        let said = home.ize_in(dir, &args);
        assert_eq!(said.code, 0, "{said:?}");
        let told = lines(&said.out);
        told.iter().map(|t| (t["class"].as_str().unwrap().to_owned(), t["rule"].as_str().unwrap().to_owned())).collect::<Vec<_>>()
    };
    let told = of(root, &["a.o", "sub/x.o", "sub/a.log", "sub/node_modules", "sub/node_modules/x", "plain"]);
    let classes: Vec<&str> = told.iter().map(|(class, _)| class.as_str()).collect();
    assert_eq!(classes, ["none", "keep", "recent", "recent", "recent", "keep"]);
    assert_eq!(told[0].1, "`*.o`, line 1 of .izeignore");
    assert_eq!(told[1].1, "`!x.o`, line 1 of sub/.izeignore");
    assert_eq!(told[2].1, "`*.log`, line 3 of .izeignore");
    assert_eq!(told[3].1, "`node_modules/` in class.recent");
    assert_eq!(told[4].1, "`node_modules/` in class.recent, of sub/node_modules");
    assert_eq!(told[5].1, "nothing else is said of it");
    assert_eq!(of(&root.join("sub"), &["y.o"])[0].0, "none");
    home.unmount();
}

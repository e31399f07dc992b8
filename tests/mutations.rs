//! The lists of mutations cannot rot: every text to be taken away still stands in its file, once. `tests/mutations/run` takes each away and
//! expects red.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};

#[derive(serde::Deserialize)]
struct List {
    mutation: Vec<Mutation>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Mutation {
    name: String,
    file: String,
    find: String,
    replace: String,
    tests: String,
}

fn rust_files(path: &Path, found: &mut Vec<PathBuf>) {
    if path.is_dir() {
        for entry in std::fs::read_dir(path).unwrap() {
            rust_files(&entry.unwrap().path(), found);
        }
    } else if path.extension().is_some_and(|e| e == "rs") {
        found.push(path.to_path_buf());
    }
}

#[test]
fn every_mutation_still_finds_its_text_once() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut mutations = Vec::new();
    for entry in std::fs::read_dir(root.join("tests/mutations")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "toml") {
            let list: List = toml::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            mutations.extend(list.mutation);
        }
    }
    assert!(mutations.len() > 80);
    let mut wrong = Vec::new();
    for m in &mutations {
        let mut files = Vec::new();
        rust_files(&root.join(&m.file), &mut files);
        let times: usize = files.iter().map(|f| std::fs::read_to_string(f).unwrap().matches(&m.find).count()).sum();
        if times != 1 || m.find == m.replace || m.tests.is_empty() {
            wrong.push(format!("{} in {}: found {times} times", m.name, m.file));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

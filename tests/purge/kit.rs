//! A store with a secret in it, and where a secret still is.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ize::blobs::pack::{EntryHead, PACK_HEADER_LEN, Stored};
use rand::prelude::*;

use crate::support::{Home, sh, tree};

pub const SECRET: &str = "tr0ub4dor-91c2e5f7-secret";

pub const TARGETS: [&str; 7] = ["keys", "large", "copy", "tagged", "link", "tail", "name-tr0ub4dor-91c2e5f7-secret"];

pub fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let meta = std::fs::symlink_metadata(&path).unwrap();
        found.push(path.clone());
        if meta.is_dir() {
            files(&path, found);
        }
    }
}

fn holds(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|w| w == needle)
}

/// Files of the store in whose names or bytes `needle` is, also once every blob of every pack is inflated.
pub fn places(store: &Path, needle: &str) -> Vec<String> {
    let (needle, mut all, mut found) = (needle.as_bytes(), Vec::new(), Vec::new());
    files(store, &mut all);
    for path in all {
        let shown = path.display().to_string();
        if holds(path.file_name().unwrap().as_encoded_bytes(), needle) {
            found.push(format!("name {shown}"));
        }
        if !path.is_file() {
            continue;
        }
        let bytes = std::fs::read(&path).unwrap();
        if holds(&bytes, needle) {
            found.push(format!("raw {shown}"));
        }
        if path.extension().is_none_or(|e| e != "pack") {
            continue;
        }
        let mut at = PACK_HEADER_LEN;
        while let Some(entry) = bytes.get(usize::try_from(at).unwrap()..).and_then(|b| EntryHead::parse(b, at)) {
            let data = usize::try_from(entry.data_offset()).unwrap();
            let stored = &bytes[data..data + entry.stored_len as usize];
            if entry.encoding == Stored::Zstd {
                let raw = zstd::bulk::decompress(stored, entry.raw_len as usize).unwrap();
                if holds(&raw, needle) {
                    found.push(format!("blob {} of {shown}", entry.id));
                }
            }
            at += entry.total_len();
        }
    }
    found
}

/// Every version's tree, by change id, oldest first.
pub fn versions(home: &Home) -> Vec<(String, BTreeMap<PathBuf, String>)> {
    let mut all = Vec::new();
    for change in home.history().iter().rev() {
        let id = change["id"].as_str().unwrap().to_owned();
        let dir = home.path().join(format!("export-{id}"));
        let said = home.ize(&["export", "p", dir.to_str().unwrap(), "--at", &id]);
        assert!(said.code == 0, "{said:?}");
        all.push((id, tree(&dir)));
        std::fs::remove_dir_all(&dir).unwrap();
    }
    all
}

/// Secrets of every kind in every place, saved, edited, renamed, copied, some of it in the log alone; the daemon was killed.
pub fn leaked(home: &Home) {
    home.mount();
    let at = |name: &str| home.mount.join(name);
    let mut rng = StdRng::seed_from_u64(5);
    let mut noise = vec![0; 700_000];
    rng.fill_bytes(&mut noise);
    for dir in ["keys", "many", "plain", "plain/deep"] {
        std::fs::create_dir(at(dir)).unwrap();
    }
    // More than a page of a directory.
    for n in 0..270 {
        std::fs::write(at(&format!("many/f{n}")), format!("file {n}\n")).unwrap();
    }
    std::fs::write(at("plain/noise"), &noise).unwrap();
    std::fs::write(at("plain/deep/text"), "one line\n".repeat(30_000)).unwrap();
    std::fs::hard_link(at("plain/noise"), at("plain/deep/same")).unwrap();
    std::fs::write(at("keys/small"), format!("password = {SECRET}\n")).unwrap();
    std::fs::hard_link(at("keys/small"), at("many/zlink")).unwrap();
    std::fs::write(at("large"), format!("{SECRET} in a line of text that shrinks well\n").repeat(60_000)).unwrap();
    std::fs::write(at("tagged"), "nothing here").unwrap();
    sh(&home.mount, &format!("setfattr -n user.token -v {SECRET} tagged"));
    std::os::unix::fs::symlink(format!("/run/{SECRET}/socket"), at("link")).unwrap();
    std::fs::write(at(&format!("name-{SECRET}")), "nothing here either").unwrap();
    home.ok(&["commit", "p", "-m", "leaked"]);
    std::fs::write(at("keys/small"), format!("password = {SECRET}, or another\n")).unwrap();
    std::fs::create_dir(at("moved")).unwrap();
    std::fs::rename(at("keys/small"), at("moved/elsewhere")).unwrap();
    std::fs::write(at("plain/deep/text"), "another line\n".repeat(20_000)).unwrap();
    home.ok(&["commit", "p"]);
    std::fs::copy(at("large"), at("copy")).unwrap();
    std::fs::remove_file(at("link")).unwrap();
    home.ok(&["commit", "p"]);
    std::fs::write(at("plain/noise"), &noise[1000..]).unwrap();
    std::fs::write(at("tail"), format!("{SECRET} in the log alone, {}", SECRET.repeat(9000))).unwrap();
    std::fs::write(at("plain/last"), "the last good thing").unwrap();
    home.kill();
}

pub fn purge<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&["purge", "p"], more].concat()
}

/// What has to be left of a tree.
pub fn cleaned(tree: &BTreeMap<PathBuf, String>) -> BTreeMap<PathBuf, String> {
    let gone = |path: &Path| {
        TARGETS.iter().any(|t| path.starts_with(t)) || path == Path::new("moved/elsewhere") || path == Path::new("many/zlink")
    };
    tree.iter().filter(|(path, _)| !gone(path)).map(|(path, what)| (path.clone(), what.clone())).collect()
}

/// Bytes that shrink and are too many for a record, so that they stand in a pack.
pub fn much(text: &str) -> String {
    format!("{text} in a line of text that shrinks well\n").repeat(4000)
}

pub fn shown(home: &Home, words: &[&str]) -> serde_json::Value {
    let said = home.ok(&purge(&[words, &["--dry-run", "--json"]].concat()));
    serde_json::from_str(said.lines().next().unwrap()).unwrap()
}

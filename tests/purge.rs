//! `ize purge`: a secret that was saved by accident is found nowhere afterwards, neither raw nor inflated, and all else is as it was.

#![allow(clippy::unwrap_used, reason = "a test stops where it cannot go on")]

mod support;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ize::blobs::pack::{EntryHead, PACK_HEADER_LEN, Stored};
use ize::engine::purge::Intent;
use ize::ids::BlobId;
use ize::project::Project;
use ize::storage::Disk;
use rand::prelude::*;

use support::{Home, kill_now, sh, tree};

const SECRET: &str = "tr0ub4dor-91c2e5f7-secret";

/// How often the test that kills does it; more by hand.
fn rounds(default: u32) -> u32 {
    std::env::var("IZE_TEST_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

fn files(dir: &Path, found: &mut Vec<PathBuf>) {
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
fn places(store: &Path, needle: &str) -> Vec<String> {
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
fn versions(home: &Home) -> Vec<(String, BTreeMap<PathBuf, String>)> {
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
fn leaked(home: &Home) {
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

const TARGETS: [&str; 7] = ["keys", "large", "copy", "tagged", "link", "tail", "name-tr0ub4dor-91c2e5f7-secret"];

fn purge<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&["purge", "p"], more].concat()
}

/// What has to be left of a tree.
fn cleaned(tree: &BTreeMap<PathBuf, String>) -> BTreeMap<PathBuf, String> {
    let gone = |path: &Path| {
        TARGETS.iter().any(|t| path.starts_with(t)) || path == Path::new("moved/elsewhere") || path == Path::new("many/zlink")
    };
    tree.iter().filter(|(path, _)| !gone(path)).map(|(path, what)| (path.clone(), what.clone())).collect()
}

#[test]
fn a_purged_secret_is_found_nowhere_and_everything_else_is_as_it_was() {
    let home = Home::new();
    leaked(&home);
    let busy = Home::new();
    busy.mount();
    let said = busy.ize(&["purge", "p", "x", "--confirm", "p"]);
    assert!(said.code == 7 && said.err.contains("`ize unmount p`"), "mounted: {said:?}");
    home.ok(&["commit", "p"]);
    let before = versions(&home);
    assert!(places(&home.project(), SECRET).len() > 5);
    // What Pijul would have.
    std::fs::create_dir_all(home.project().join(".pijul/changes/AB")).unwrap();
    std::fs::write(home.project().join(".pijul/changes/AB/C.change"), SECRET).unwrap();
    std::fs::write(home.project().join("meta/pijul-index"), "1 ABC\n").unwrap();

    // Refused, and nothing done: without a name, with a wrong one, while a copy would keep the bytes, for what never was, for the root.
    let all = [&TARGETS[..], &["--confirm", "p", "--reason", "saved by accident"]].concat();
    let but_copy: Vec<&str> = all.iter().copied().filter(|t| *t != "copy").collect();
    let refused = home.ize(&purge(&but_copy));
    assert!(refused.code == 9 && refused.out.contains("copy") && refused.out.contains("moved/elsewhere"), "{refused:?}");
    for (words, code) in
        [(&TARGETS[..], 2), (&["keys", "--confirm", "q"], 2), (&["nothing", "--confirm", "p"], 3), (&[".", "--confirm", "p"], 2)]
    {
        let said = home.ize(&purge(words));
        assert_eq!(said.code, code, "{words:?}: {said:?}");
    }
    let previewed = home.ok(&purge(&[&TARGETS[..], &["--dry-run", "--json"]].concat()));
    let preview: serde_json::Value = serde_json::from_str(previewed.lines().next().unwrap()).unwrap();
    assert_eq!(
        (preview["versions"].as_u64(), preview["in_newest"].as_bool(), preview["pijul"].as_bool()),
        (Some(4), Some(true), Some(true))
    );
    assert_eq!(preview["others"].as_array().unwrap().len(), 0, "{preview}");
    assert_eq!(versions(&home), before, "a dry run, or a refusal, changed something");

    home.ok(&purge(&all));
    assert_eq!(places(&home.project(), SECRET), [] as [String; 0]);
    assert!(!home.project().join(".pijul").exists() && !home.project().join("meta/pijul-index").exists());
    let after = versions(&home);
    assert_eq!(after.len(), before.len());
    for ((id, was), (now_id, now)) in before.iter().zip(&after) {
        assert_eq!((id, &cleaned(was)), (now_id, now));
    }
    for deep in [&[][..], &["--deep"]] {
        let fsck = home.ok(&[&["fsck", "p"], deep].concat());
        assert!(fsck.contains("clean") && fsck.contains("purged on") && fsck.contains("saved by accident"), "{fsck}");
    }
    let gone = home.ize(&["cat", "p", "large", "--at", &before[0].0]);
    assert_eq!(gone.code, 3, "{gone:?}");
    assert!(!home.ok(&["history", "p"]).contains(SECRET));
    // It goes on as if nothing had been: mounted, written, taken back, killed.
    home.mount();
    assert_eq!(tree(&home.mount), cleaned(&before.last().unwrap().1));
    home.ok(&["restore", "p", "plain/deep/text", "--at", &before[0].0]);
    std::fs::write(home.mount.join("large"), "new").unwrap();
    home.kill();
    home.mount();
    home.ok(&["commit", "p"]);
    assert_eq!(home.ok(&["cat", "p", "plain/deep/text"]), "one line\n".repeat(30_000));
    assert!(home.ok(&["fsck", "p", "--deep"]).contains("clean"));
    home.unmount();
    assert_eq!(places(&home.project(), SECRET), [] as [String; 0]);
}

#[test]
fn the_newest_state_may_be_kept_and_what_is_in_no_old_one_goes() {
    let home = Home::new();
    home.mount();
    std::fs::write(home.mount.join("config"), format!("token = {SECRET}\n")).unwrap();
    home.ok(&["commit", "p"]);
    std::fs::write(home.mount.join("config"), "token = none\n").unwrap();
    std::fs::write(home.mount.join("other"), "x").unwrap();
    home.ok(&["commit", "p"]);
    home.unmount();
    let ids: Vec<String> = home.history().iter().map(|c| c["id"].as_str().unwrap().to_owned()).collect();
    home.ok(&["purge", "p", "config", "--keep-current", "--confirm", "p"]);
    assert_eq!(places(&home.project(), SECRET), [] as [String; 0]);
    assert_eq!(home.ok(&["cat", "p", "config"]), "token = none\n");
    assert_eq!(home.ize(&["cat", "p", "config", "--at", &ids[1]]).code, 3);
    assert!(home.ok(&["fsck", "p", "--deep"]).contains("clean"));
}

/// The last version is not the newest state where only paths without history changed since: it is an old state like any other.
#[test]
fn the_newest_state_may_be_kept_although_the_last_version_is_an_older_one() {
    let home = Home::new();
    home.mount();
    let write = |name: &str, text: &str| std::fs::write(home.mount.join(name), text).unwrap();
    write(".izeignore", "*.env\n");
    write("a.env", &format!("token = {SECRET}\n"));
    write("other", "x");
    home.ok(&["commit", "p", "-m", "last"]);
    let (count, last) = (home.history().len(), home.history()[0]["id"].as_str().unwrap().to_owned());
    write("a.env", "token = none\n");
    home.ok(&["commit", "p"]);
    assert_eq!(home.history().len(), count, "only what has no history changed");
    home.unmount();
    assert!(home.ok(&["cat", "p", "a.env", "--at", &last]).contains(SECRET));
    home.ok(&["purge", "p", "a.env", "--keep-current", "--confirm", "p"]);
    assert_eq!(places(&home.project(), SECRET), [] as [String; 0]);
    assert_eq!(home.ok(&["cat", "p", "a.env"]), "token = none\n");
    assert_eq!(home.ize(&["cat", "p", "a.env", "--at", &last]).code, 3);
    assert!(home.ok(&["fsck", "p", "--deep"]).contains("clean"));
    home.mount();
    assert_eq!(std::fs::read_to_string(home.mount.join("a.env")).unwrap(), "token = none\n");
    write("other", "y");
    home.ok(&["commit", "p"]);
    home.unmount();
    assert!(home.ok(&["fsck", "p", "--deep"]).contains("clean"));
}

#[test]
fn paths_are_taken_by_the_letter_whatever_is_in_them() {
    let home = Home::new();
    home.mount();
    let odd = OsStr::from_bytes(b"line\nbreak \xff\x1b[31m");
    let at = |name: &str| home.mount.join(name);
    std::fs::create_dir(at("keys")).unwrap();
    std::fs::create_dir(home.mount.join(odd)).unwrap();
    std::fs::write(home.mount.join(odd).join(odd), format!("{SECRET}\n")).unwrap();
    std::fs::hard_link(home.mount.join(odd).join(odd), at("second")).unwrap();
    std::fs::rename(at("second"), at("third")).unwrap();
    std::fs::write(at("old"), format!("{SECRET} of another kind\n")).unwrap();
    std::fs::write(at("-rf"), "not a flag").unwrap();
    std::fs::write(at("shared"), "the same\n").unwrap();
    std::fs::write(at("keys/shared"), "the same\n").unwrap();
    home.ok(&["commit", "p"]);
    std::fs::rename(at("old"), at("keys/new")).unwrap();
    std::fs::write(at("keys/new"), "harmless\n").unwrap();
    home.ok(&["commit", "p"]);
    home.unmount();
    let before = versions(&home);
    let long = "x/".repeat(3000);
    for (word, code) in [
        ("keys/..", 2),
        ("./", 2),
        ("", 2),
        ("keys/new/below", 3),
        ("keys/../../old", 2),
        (".pijul/pristine", 3),
        (".pijul", 3),
        ("/etc/passwd", 2),
        ("thir", 3),
        ("third/", 0),
        ("keys/..//./third", 0),
        (long.as_str(), 3),
    ] {
        let said = home.ize(&purge(&[word, "--dry-run"]));
        assert_eq!(said.code, code, "{word}: {said:?}");
    }
    assert_eq!(versions(&home), before);
    // What others have too is theirs, if one says so.
    let words = ["purge", "p", "keys/shared", "--confirm", "p"];
    assert_eq!(home.ize(&words).code, 9);
    home.ok(&[&words[..], &["--leave-others"]].concat());
    assert_eq!(home.ok(&["cat", "p", "shared"]), "the same\n");
    home.ok(&["purge", "p", "--confirm", "p", "--", "-rf"]);
    // One name of two, one of them as it was before; shown with nothing that a terminal would obey.
    let mut name = odd.to_owned();
    name.push("/");
    name.push(odd);
    let words = [OsStr::new("purge"), OsStr::new("p"), &name, OsStr::new("old"), OsStr::new("--confirm"), OsStr::new("p")];
    let said = home.ok(&words);
    assert!(said.contains("    third\n") && said.contains("    keys/new\n") && !said.contains('\x1b'), "{said}");
    assert_eq!(places(&home.project(), SECRET), [] as [String; 0]);
    let gone =
        |path: &Path| ["third", "old", "keys/new", "keys/shared", "-rf"].iter().any(|p| path == Path::new(p)) || path == Path::new(&name);
    for ((id, was), (now_id, now)) in before.iter().zip(&versions(&home)) {
        let expected: BTreeMap<_, _> = was.clone().into_iter().filter(|(path, _)| !gone(path)).collect();
        assert_eq!((id, &expected), (now_id, now));
    }
    assert!(home.ok(&["fsck", "p", "--deep"]).contains("clean"));
}

/// Bytes that shrink and are too many for a record, so that they stand in a pack.
fn much(text: &str) -> String {
    format!("{text} in a line of text that shrinks well\n").repeat(4000)
}

#[test]
fn what_came_and_went_before_any_version_goes_from_the_log_and_the_packs() {
    let home = Home::new();
    home.mount();
    let at = |name: &str| home.mount.join(name);
    std::fs::write(at("kept"), "kept").unwrap();
    // A copy that is open and has no name when the version is made: no path leads to it, and it must not keep the bytes.
    let mut open = std::fs::File::create(at("open")).unwrap();
    std::io::Write::write_all(&mut open, format!("key = {SECRET}\n").as_bytes()).unwrap();
    std::fs::remove_file(at("open")).unwrap();
    home.ok(&["commit", "p"]);
    drop(open);
    // One burst, and nothing of it has a name at its end but one file, which has another one by then.
    std::fs::create_dir(at("keys")).unwrap();
    std::fs::write(at("keys/small"), format!("{SECRET}\n")).unwrap();
    std::fs::write(at("keys/large"), much(SECRET)).unwrap();
    std::fs::write(at("keys/.new"), format!("key = {SECRET}\n")).unwrap();
    std::fs::write(at(&format!("keys/{SECRET}")), "nothing, but for its name").unwrap();
    std::fs::rename(at("keys/.new"), at("config")).unwrap();
    std::fs::remove_dir_all(at("keys")).unwrap();
    home.ok(&["commit", "p", "-m", "nothing to see"]);
    home.unmount();
    let before = versions(&home);
    assert!(before.iter().all(|(_, tree)| !tree.contains_key(Path::new("keys"))));
    let found = places(&home.project(), SECRET);
    assert!(["seg", "pack"].iter().all(|kind| found.iter().any(|place| place.ends_with(kind))), "{found:?}");
    // A word too many is no less wrong beside a right one.
    for words in [&["nothing", "--confirm", "p"][..], &["keys", "nothing", "--confirm", "p"]] {
        let said = home.ize(&purge(words));
        assert!(said.code == 3 && said.err.contains("nothing") && said.err.contains("--garbage"), "{said:?}");
    }
    let shown = home.ok(&purge(&["keys/large", "--dry-run"]));
    assert!(shown.contains("No state names keys/large") && shown.contains("1 segment"), "{shown}");
    let shown: serde_json::Value = serde_json::from_str(home.ok(&purge(&["keys", "--dry-run", "--json"])).lines().next().unwrap()).unwrap();
    assert_eq!((shown["paths"][0]["path"].as_str(), shown["inodes"].as_u64()), (Some("config"), Some(1)), "{shown}");
    assert_eq!(shown["by_log"], shown["paths"], "{shown}");
    assert_eq!((shown["logged"][0]["path"].as_str(), shown["logged_segments"].as_u64()), (Some("keys"), Some(1)), "{shown}");
    assert_eq!(versions(&home), before);
    assert_eq!(home.ize(&purge(&["keys", "--confirm", "p"])).code, 9);
    home.ok(&purge(&["keys", "--moved-out", "--confirm", "p"]));
    assert_eq!(places(&home.project(), SECRET), [] as [String; 0]);
    for ((id, was), (now_id, now)) in before.iter().zip(&versions(&home)) {
        let expected: BTreeMap<_, _> = was.clone().into_iter().filter(|(path, _)| path != Path::new("config")).collect();
        assert_eq!((id, &expected), (now_id, now));
    }
    assert!(home.ok(&["fsck", "p", "--deep"]).contains("clean"));
    // Once is enough: nothing knows of it any more.
    assert_eq!(home.ize(&purge(&["keys", "--confirm", "p"])).code, 3);
    home.mount();
    assert_eq!(std::fs::read_to_string(at("kept")).unwrap(), "kept");
    home.unmount();
}

fn shown(home: &Home, words: &[&str]) -> serde_json::Value {
    let said = home.ok(&purge(&[words, &["--dry-run", "--json"]].concat()));
    serde_json::from_str(said.lines().next().unwrap()).unwrap()
}

/// Who writes beside a file and renames it moves it out of a directory: a purge of that directory must not take it unasked.
#[test]
fn what_was_moved_out_of_a_directory_goes_only_where_that_is_said() {
    let home = Home::new();
    home.mount();
    let at = |name: &str| home.mount.join(name);
    std::fs::create_dir_all(at("tmp/deep/er")).unwrap();
    std::fs::create_dir(at("public")).unwrap();
    std::fs::write(at("tmp/a"), format!("{SECRET} in a file\n")).unwrap();
    std::fs::write(at("tmp/stays"), format!("{SECRET} that is not moved\n")).unwrap();
    std::fs::write(at("tmp/deep/er/file"), "in a directory that is moved\n").unwrap();
    std::fs::write(at("x"), "the same\n").unwrap();
    std::fs::write(at("y"), "the same\n").unwrap();
    home.ok(&["commit", "p"]);
    std::fs::rename(at("tmp/a"), at("public/a")).unwrap();
    std::fs::write(at("public/a"), "harmless now\n").unwrap();
    std::fs::rename(at("tmp/deep"), at("public/deep")).unwrap();
    // Between two versions, so that only the log knows.
    std::fs::write(at("tmp/c"), "came that way\n").unwrap();
    std::fs::rename(at("tmp/c"), at("public/c")).unwrap();
    std::fs::remove_file(at("x")).unwrap();
    home.ok(&["commit", "p"]);
    home.unmount();
    let before = versions(&home);
    let said = home.ize(&purge(&["tmp", "--confirm", "p"]));
    assert!(said.code == 9 && said.err.contains("--moved-out") && said.err.contains("--leave-moved"), "{said:?}");
    assert!(["    public/a\n", "    public/c\n", "    public/deep\n"].iter().all(|line| said.out.contains(line)), "{said:?}");
    assert_eq!(home.ize(&purge(&["tmp", "--moved-out", "--leave-moved"])).code, 2);
    assert_eq!(home.ize(&purge(&["--garbage", "--leave-moved"])).code, 2);
    assert_eq!(versions(&home), before);
    let told = shown(&home, &["tmp"]);
    let counts = |told: &serde_json::Value| {
        ["moved_files", "moved_in_newest", "by_log_files", "by_log_in_newest"].map(|key| told[key].as_u64().unwrap())
    };
    assert_eq!((counts(&told), &told["in_newest"]), ([3, 3, 1, 1], &true.into()), "{told}");
    assert!(told["moved"].as_array().unwrap().iter().all(|one| one["in_newest"] == true), "{told}");
    assert_eq!(told["by_log"][0]["path"], "public/c", "{told}");
    // A file that is named itself is no question, wherever it is now.
    assert_eq!(counts(&shown(&home, &["tmp/a"])), [0; 4]);
    // With the same bytes in other files the newest state loses some, too, if they are to.
    let (all, left) = (shown(&home, &["x", "--everywhere"]), shown(&home, &["x", "--leave-others"]));
    assert_eq!((&all["in_newest"], &all["versions"]), (&true.into(), &2.into()), "{all}");
    assert_eq!((&left["in_newest"], &left["versions"]), (&false.into(), &1.into()), "{left}");
    assert_eq!((&all["others"][0]["path"], &all["others"][0]["in_newest"]), (&"y".into(), &true.into()), "{all}");
    home.ok(&purge(&["tmp", "--leave-moved", "--confirm", "p"]));
    assert_eq!(places(&home.project(), SECRET), [] as [String; 0]);
    for ((id, was), (now_id, now)) in before.iter().zip(&versions(&home)) {
        let expected: BTreeMap<_, _> = was.clone().into_iter().filter(|(path, _)| !path.starts_with("tmp")).collect();
        assert_eq!((id, &expected), (now_id, now));
    }
    assert!(home.ok(&["fsck", "p", "--deep"]).contains("clean"));
    home.mount();
    assert_eq!(std::fs::read_to_string(at("public/a")).unwrap(), "harmless now\n");
    assert_eq!(std::fs::read_to_string(at("public/deep/er/file")).unwrap(), "in a directory that is moved\n");
    home.unmount();
}

/// The daemon's log is no part of the store: where it cannot be emptied, that is said, and the purge ends.
#[test]
fn a_daemon_log_that_cannot_be_emptied_keeps_no_purge_from_its_end() {
    let home = Home::new();
    home.mount();
    std::fs::write(home.mount.join("a"), format!("{SECRET}\n")).unwrap();
    home.ok(&["commit", "p"]);
    home.unmount();
    let log = home.project().join("meta/daemon.log");
    std::fs::remove_file(&log).unwrap();
    std::fs::create_dir(&log).unwrap();
    home.ok(&purge(&["a", "--confirm", "p"]));
    assert!(!home.project().join("meta/purge").exists());
    assert_eq!(places(&home.project(), SECRET), [] as [String; 0]);
}

#[test]
fn what_nothing_names_any_more_goes_with_all_garbage() {
    let home = Home::new();
    home.mount();
    let at = |name: &str| home.mount.join(name);
    // Without history, so that it goes with the log; among bytes that stay (and came in small writes), so that no prune rewrites their pack.
    let mut noise = vec![0; 2_000_000];
    StdRng::seed_from_u64(3).fill_bytes(&mut noise);
    let mut file = std::fs::File::create(at("noise")).unwrap();
    noise.chunks(20_000).for_each(|piece| std::io::Write::write_all(&mut file, piece).unwrap());
    drop(file);
    std::fs::write(at(".izeignore"), "large\n").unwrap();
    home.ok(&["commit", "p"]);
    std::fs::write(at("large"), much(SECRET)).unwrap();
    home.ok(&["commit", "p"]);
    std::fs::remove_file(at("large")).unwrap();
    // And an open file without a name, which the state of the version has.
    let mut open = std::fs::File::create(at("open")).unwrap();
    std::io::Write::write_all(&mut open, format!("{SECRET} without a name").as_bytes()).unwrap();
    std::fs::remove_file(at("open")).unwrap();
    home.ok(&["commit", "p"]);
    std::fs::write(at("last"), "last").unwrap();
    home.ok(&["commit", "p"]);
    drop(open);
    home.ok(&["wal", "prune", "p", "--max-size", "0"]);
    home.unmount();
    let before = versions(&home);
    let found = places(&home.project(), SECRET);
    assert!(!found.is_empty() && found.iter().all(|place| place.ends_with("pack")), "{found:?}");
    assert!(before.iter().all(|(_, tree)| !tree.contains_key(Path::new("large"))));
    assert_eq!(home.ize(&purge(&["large", "--confirm", "p"])).code, 3);
    for words in [&["--garbage", "large"][..], &["--garbage", "--keep-current"], &["--garbage", "--everywhere"]] {
        assert_eq!(home.ize(&purge(words)).code, 2, "{words:?}");
    }
    let shown = home.ok(&purge(&["--garbage", "--dry-run", "--json"]));
    let shown: serde_json::Value = serde_json::from_str(shown.lines().next().unwrap()).unwrap();
    assert!(shown["garbage_blobs"].as_u64().unwrap() > 0 && shown["garbage_bytes"].as_u64().unwrap() > 0, "{shown}");
    assert_eq!((&shown["unlinked"], &shown["inodes"]), (&1.into(), &0.into()), "{shown}");
    home.ok(&purge(&["--garbage", "--confirm", "p"]));
    assert_eq!(places(&home.project(), SECRET), [] as [String; 0]);
    assert_eq!(versions(&home), before);
    assert!(home.ok(&["fsck", "p", "--deep"]).contains("clean"));
}

#[test]
fn a_purged_blob_leaves_entries_that_say_so_and_can_be_written_over() {
    let home = Home::new();
    home.mount();
    let secret = format!("{SECRET}\n").repeat(100);
    for name in ["a", "b"] {
        std::fs::write(home.mount.join(name), &secret).unwrap();
    }
    std::fs::write(home.mount.join("c"), "other").unwrap();
    home.ok(&["commit", "p"]);
    let first = home.history()[0]["id"].as_str().unwrap().to_owned();
    std::fs::remove_file(home.mount.join("b")).unwrap();
    home.unmount();
    let id = BlobId::of(secret.as_bytes()).to_string();
    let unknown = home.ize(&["purge", "p", "--blob", &BlobId::of(b"?").to_string(), "--confirm", "p"]);
    assert_eq!(unknown.code, 3, "{unknown:?}");
    let said = home.ok(&["purge", "p", "--blob", &id, "--confirm", "p"]);
    assert!(said.contains("    a\n") && said.contains("    b\n"), "{said}");
    assert_eq!(places(&home.project(), SECRET), [] as [String; 0]);
    let fsck = home.ok(&["fsck", "p", "--deep"]);
    assert!(fsck.contains("clean") && fsck.contains("1 blobs that states name are gone on purpose"), "{fsck}");
    for (path, at) in [("a", "now"), ("b", first.as_str())] {
        let cat = home.ize(&["cat", "p", path, "--at", at]);
        assert!(cat.code == 1 && cat.err.contains("purged on"), "{cat:?}");
    }
    assert_eq!(home.ok(&["cat", "p", "c", "--at", &first]), "other");
    home.mount();
    let a = home.mount.join("a");
    assert_eq!(std::fs::metadata(&a).unwrap().len(), secret.len() as u64);
    assert_eq!(std::fs::read(&a).unwrap_err().raw_os_error(), Some(libc::EIO));
    let restore = home.ize(&["restore", "p", "b", "--at", &first]);
    assert!(restore.code != 0 && restore.err.contains("purged on"), "{restore:?}");
    assert!(!home.mount.join("b").exists());
    // Appended to, it becomes a version all the same; the bytes before are zeros.
    use std::io::Write;
    std::fs::OpenOptions::new().append(true).open(&a).unwrap().write_all(b"more").unwrap();
    home.ok(&["commit", "p"]);
    let mut expected = vec![0; secret.len()];
    expected.extend_from_slice(b"more");
    assert_eq!(home.ize(&["cat", "p", "a"]).bytes, expected);
    // The same content saved again is content again.
    std::fs::write(home.mount.join("d"), &secret).unwrap();
    home.ok(&["commit", "p"]);
    assert_eq!(home.ok(&["cat", "p", "b", "--at", &first]), secret);
    home.unmount();
    assert!(home.ok(&["fsck", "p", "--deep"]).contains("0 blobs that states name are gone"));
    // Damage in what tells purged from missing is named, and nothing begins that could not end.
    let path = home.project().join("meta/purged");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[5] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    for words in [&["fsck", "p"][..], &["purge", "p", "c", "--confirm", "p"]] {
        let said = home.ize(words);
        assert!(said.code == 5 && format!("{}{}", said.out, said.err).contains("meta/purged"), "{words:?}: {said:?}");
    }
    assert!(!home.project().join("meta/purge").exists());
    std::fs::remove_file(&path).unwrap();
    home.ok(&["purge", "p", "c", "--confirm", "p"]);
    assert!(home.ok(&["fsck", "p", "--deep"]).contains("clean"));
}

/// Where files stood in between may then be unknown, and is said to be; what is damaged goes.
#[test]
fn damage_in_the_log_does_not_keep_a_purge_from_taking_it_away() {
    let home = Home::new();
    home.mount();
    std::fs::write(home.mount.join("a"), format!("{SECRET} of the state")).unwrap();
    std::fs::write(home.mount.join("b"), format!("{SECRET} of the log")).unwrap();
    std::fs::remove_file(home.mount.join("b")).unwrap();
    home.ok(&["commit", "p"]);
    home.unmount();
    let first = home.project().join("wal/0000000000000001.seg");
    let mut bytes = std::fs::read(&first).unwrap();
    bytes[400] ^= 1;
    std::fs::write(&first, bytes).unwrap();
    let said = home.ize(&purge(&["nothing", "--confirm", "p"]));
    assert!(said.code == 3 && said.err.contains("some of which cannot be read"), "{said:?}");
    let said = home.ize(&purge(&["a", "--confirm", "p"]));
    assert!(said.code == 0 && said.err.contains("some of the log cannot be read"), "{said:?}");
    assert_eq!(places(&home.project(), SECRET), [] as [String; 0]);
    assert!(home.ok(&["fsck", "p", "--deep"]).contains("clean"));
}

#[test]
fn a_repair_of_the_log_leaves_a_purge_that_is_half_done_to_its_end() {
    let home = Home::new();
    home.mount();
    std::fs::write(home.mount.join("a"), "a").unwrap();
    home.ok(&["commit", "p"]);
    std::fs::write(home.mount.join("b"), "b").unwrap();
    home.unmount();
    let mut segments = Vec::new();
    files(&home.project().join("wal"), &mut segments);
    segments.retain(|path| path.extension().is_some_and(|e| e == "seg"));
    segments.sort();
    let project = Project::open(home.project()).unwrap();
    Intent::default().write(&Disk, &project.layout.purging(), project.identity.id).unwrap();
    // Damage in what goes with it.
    assert!(segments.len() > 1);
    let mut bytes = std::fs::read(&segments[0]).unwrap();
    bytes[300] ^= 1;
    std::fs::write(&segments[0], &bytes).unwrap();
    for more in ["--dry-run", "--yes"] {
        let said = home.ize(&["wal", "repair", "p", more]);
        assert!(
            said.code == 9 && said.err.contains("a purge of this project was interrupted") && said.err.contains("ize commit p"),
            "{said:?}"
        );
    }
    assert_eq!(std::fs::read(&segments[0]).unwrap(), bytes);
    let said = home.ize(&["commit", "p"]);
    assert!(said.code == 0 && said.err.contains("an interrupted purge was brought to its end"), "{said:?}");
    assert!(segments[..segments.len() - 1].iter().all(|path| !path.exists()));
    assert!(home.ize(&["wal", "repair", "p", "--yes"]).err.contains("nothing to repair"));
    assert!(home.ok(&["fsck", "p", "--deep"]).contains("clean"));
    // One that cannot be read is told, and not passed over.
    std::fs::write(project.layout.purging(), "?").unwrap();
    for words in [&["wal", "repair", "p", "--yes"][..], &["commit", "p"]] {
        let said = home.ize(words);
        assert!(said.code == 5 && said.err.contains("order the purge again"), "{said:?}");
    }
}

/// Kills a purge of copies of `origin` at random moments, then opens each with `open`, which says what it printed on stderr. `check` is told
/// whether the purge had begun.
fn kill_purges(origin: &Home, args: &[&str], open: &dyn Fn(&Home) -> String, check: &dyn Fn(&Home, bool)) {
    let mut rng = StdRng::seed_from_u64(8);
    let copy = || {
        let home = Home::new();
        sh(home.path(), &format!("cp -a {} {}", origin.central().display(), home.central().display()));
        home
    };
    let whole = copy();
    let begun = Instant::now();
    whole.ok(args);
    let took = begun.elapsed();
    check(&whole, true);
    for round in 0..rounds(4) {
        let home = copy();
        let mut child = home.command(args).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
        // The half that changes something is the later one.
        std::thread::sleep(Duration::from_secs_f64(took.as_secs_f64() * rng.random_range(0.2..1.1)));
        kill_now(i32::try_from(child.id()).unwrap());
        child.wait().unwrap();
        let unfinished = home.project().join("meta/purge").exists();
        let fsck = home.ize(&["fsck", "p"]);
        assert!(fsck.code == 0 || fsck.code == 4, "round {round}: {fsck:?}");
        assert_eq!(fsck.out.contains("a purge was interrupted"), unfinished, "round {round}: {fsck:?}");
        let said = open(&home);
        assert_eq!(said.contains("an interrupted purge was brought to its end"), unfinished, "round {round}: {said}");
        assert!(home.ok(&["fsck", "p", "--deep"]).contains("clean"));
        let purged = home.project().join("meta/purged").exists();
        assert!(purged || !unfinished, "round {round}");
        check(&home, purged);
    }
}

/// Killed at any moment, a purge was not begun, or the next opening ends it: never anything between, never damage.
#[test]
fn a_purge_that_is_killed_has_not_begun_or_is_brought_to_its_end() {
    let origin = Home::new();
    leaked(&origin);
    origin.ok(&["commit", "p"]);
    let before = versions(&origin);
    let open = |home: &Home| {
        let said = home.ize(&["commit", "p"]);
        assert_eq!(said.code, 0, "{said:?}");
        said.err
    };
    kill_purges(&origin, &[&["purge", "p"], &TARGETS[..], &["--confirm", "p"]].concat(), &open, &|home, purged| {
        let after = versions(home);
        if purged {
            assert!(before.iter().zip(&after).all(|((a, was), (b, now))| a == b && cleaned(was) == *now));
            assert_eq!(places(&home.project(), SECRET), [] as [String; 0]);
        } else {
            assert_eq!(after, before);
        }
    });
}

#[test]
fn a_purge_of_a_blob_that_is_killed_has_not_begun_or_is_brought_to_its_end_by_a_mount() {
    let origin = Home::new();
    origin.mount();
    let secret = format!("{SECRET}\n").repeat(1000);
    let at = |name: &str| origin.mount.join(name);
    for n in 0..10 {
        std::fs::write(at(&format!("secret-{}", n % 2)), &secret).unwrap();
        std::fs::write(at("text"), format!("line {n}\n").repeat(50_000)).unwrap();
        origin.ok(&["commit", "p"]);
        if n == 5 {
            std::fs::remove_file(at("secret-0")).unwrap();
        }
    }
    let oldest = origin.history().iter().rev().nth(1).unwrap()["id"].as_str().unwrap().to_owned();
    origin.unmount();
    let id = BlobId::of(secret.as_bytes()).to_string();
    let open = |home: &Home| {
        let mount = home.mount.to_str().unwrap().to_owned();
        let said = home.ize(&["mount", "p", &mount]);
        assert_eq!(said.code, 0, "{said:?}");
        let read = std::fs::read_to_string(home.mount.join("secret-1"));
        assert!(read.is_err() || read.unwrap() == secret);
        home.unmount();
        let log = std::fs::read_to_string(home.project().join("meta/daemon.log")).unwrap();
        assert!(log.contains("is unmounted"), "{log}");
        said.err
    };
    kill_purges(&origin, &["purge", "p", "--blob", &id, "--confirm", "p"], &open, &|home, purged| {
        for when in [oldest.as_str(), "now"] {
            let cat = home.ize(&["cat", "p", "secret-1", "--at", when]);
            assert_eq!((cat.code, cat.out == secret), if purged { (1, false) } else { (0, true) }, "{cat:?}");
            assert_eq!(home.ok(&["cat", "p", "text", "--at", when]).len(), "line 0\n".repeat(50_000).len());
        }
        if purged {
            assert_eq!(places(&home.project(), SECRET), [] as [String; 0]);
        }
    });
}

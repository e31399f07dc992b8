//! Paths: what stood there goes from every version, and nothing else.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::kit::*;
use crate::support::{Home, tree};

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

//! What the log says, what only the log has, and a log that is damaged.

use std::collections::BTreeMap;
use std::path::Path;

use ize::engine::purge::Intent;
use ize::project::Project;
use ize::storage::Disk;

use crate::kit::*;
use crate::support::Home;

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

//! prune and repair.

use std::path::Path;

use ize::project::lock::Lock;
use serde_json::Value;

use crate::wal_kit::{Home, json_lines};
use crate::{history, ops, record_at, spoil};

#[test]
fn a_repair_asks_keeps_what_it_cuts_and_leaves_a_log_that_is_whole() {
    let home = Home::new();
    let w = history(&home);
    w.log.sync().unwrap();
    let project = w.project.clone();
    let (first, second) = (w.segment(1), w.segment(2));
    drop(w);
    let ran = home.ize(&["wal", "repair", "notes", "--yes"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.err.contains("nothing to repair"), "{}", ran.err);

    let write = record_at(&home, "write");
    spoil(&first, write["offset"].as_u64().unwrap() + 50);
    let before: Vec<Vec<u8>> = [&first, &second].into_iter().map(|f| std::fs::read(f).unwrap()).collect();
    let held = Lock::acquire(&project.layout).unwrap();
    for words in [&["wal", "repair", "notes", "--yes"][..], &["wal", "repair", "notes", "--dry-run"]] {
        assert_eq!(home.ize(words).code, 7, "somebody has it open");
    }
    drop(held);
    let ran = home.ize(&["wal", "repair", "notes", "--dry-run"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(
        ran.out.contains("would cut") && ran.out.contains("0000000000000001.seg") && ran.out.contains("docs/a.txt  0644 -> 0600"),
        "{}",
        ran.out
    );
    assert!(ran.err.contains("nothing was changed"), "{}", ran.err);
    let ran = home.ize(&["wal", "repair", "notes"]);
    assert_eq!(ran.code, 9, "nobody to ask: {}", ran.err);
    assert!(ran.err.contains("--yes"), "{}", ran.err);
    let after: Vec<Vec<u8>> = [&first, &second].into_iter().map(|f| std::fs::read(f).unwrap()).collect();
    assert!(before == after, "nothing was changed without a yes");

    let ran = home.ize(&["wal", "repair", "notes", "--yes", "--json"]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    let lines = json_lines(&ran.out);
    assert_eq!(lines.iter().find(|l| l["type"] == "cut").unwrap()["offset"], write["offset"]);
    let lost: Vec<&str> = lines.iter().filter(|l| l["type"] == "lost").map(|l| l["op"].as_str().unwrap()).collect();
    assert_eq!(lost.iter().filter(|op| **op != "process").collect::<Vec<_>>(), [&"create", &"write", &"chmod", &"write", &"unlink"]);
    let summary = lines.last().unwrap();
    assert_eq!((&summary["needed"], &summary["repaired"]), (&true.into(), &true.into()));
    let saved = Path::new(summary["saved"].as_str().unwrap()).to_owned();
    for (file, bytes) in [&first, &second].into_iter().zip(&before) {
        assert!(&std::fs::read(saved.join(file.file_name().unwrap())).unwrap() == bytes, "copies are whole");
    }
    assert!(home.ok(&["wal", "verify", "notes"]).starts_with("clean: "));
    assert_eq!(ops(&json_lines(&home.ok(&["wal", "inspect", "notes", "--json", "--kind", "mkdir,create,write"]))), ["mkdir", "create"]);
}

#[test]
fn a_bare_directory_can_be_repaired_and_has_nothing_that_may_be_pruned() {
    let home = Home::new();
    let w = history(&home);
    let copy = home.path().join("copy");
    std::fs::create_dir(&copy).unwrap();
    for id in 1..=2 {
        std::fs::copy(w.segment(id), copy.join(w.segment(id).file_name().unwrap())).unwrap();
    }
    let ran = home.ize(&["wal", "prune", "copy", "--max-age", "0", "--max-size", "0"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.err.contains("no checkpoint") && ran.out.contains("kept 0000000000000001  @1.."), "{} {}", ran.out, ran.err);
    assert_eq!(std::fs::read_dir(&copy).unwrap().count(), 2);
    let report = &json_lines(&home.ok(&["wal", "prune", "copy", "--json"]))[0];
    assert_eq!((&report["no_checkpoint"], &report["left_segments"]), (&true.into(), &2.into()));
    spoil(&copy.join("0000000000000001.seg"), 300);
    assert_eq!(home.ize(&["wal", "verify", "./copy"]).code, 5);
    assert_eq!(home.ize(&["wal", "repair", "copy", "--yes"]).code, 0);
    assert_eq!(home.ize(&["wal", "verify", "copy"]).code, 0);
    assert_eq!(home.ize(&["wal", "repair", "copy/0000000000000001.seg", "--yes"]).code, 2);
}

/// A checkpoint is there, and nobody can say whether it is that of the segments: nothing goes, and it is not said that there is none.
#[test]
fn nothing_is_pruned_of_a_project_whose_id_is_wrong() {
    let home = Home::new();
    let w = history(&home);
    let layout = w.project.layout.clone();
    drop(w);
    std::fs::write(layout.checkpoint(), "one that counts for the store with the right id").unwrap();
    let text = std::fs::read_to_string(layout.identity()).unwrap();
    let at = text.find("id = \"").unwrap() + 6;
    let other = if text[at..].starts_with('0') { "1" } else { "0" };
    std::fs::write(layout.identity(), format!("{}{other}{}", &text[..at], &text[at + 1..])).unwrap();
    let count = || std::fs::read_dir(layout.wal()).unwrap().count();
    let before = count();
    let ran = home.ize(&["wal", "prune", layout.dir().to_str().unwrap(), "--max-size", "0"]);
    assert!(ran.code == 9 && ran.err.contains("meta/project.toml") && !ran.err.contains("there is no checkpoint"), "{}", ran.err);
    assert_eq!(count(), before);
}

#[test]
fn without_a_sound_checkpoint_the_log_is_read_and_nothing_is_cut() {
    let home = Home::new();
    let w = history(&home);
    let layout = w.project.layout.clone();
    spoil(&w.segment(1), 300);
    drop(w);
    std::fs::write(layout.checkpoint(), "no checkpoint").unwrap();
    let ran = home.ize(&["wal", "inspect", "notes", "--json"]);
    assert_eq!(ran.code, 5, "{}", ran.err);
    assert!(ops(&json_lines(&ran.out)).contains(&"chmod".to_owned()), "{}", ran.out);
    let ran = home.ize(&["wal", "verify", "notes", "--json"]);
    assert_eq!(ran.code, 5);
    assert!(json_lines(&ran.out).iter().any(|l| l["file"] == layout.checkpoint().to_str().unwrap()), "{}", ran.out);
    let before = std::fs::read(layout.wal().join("0000000000000001.seg")).unwrap();
    assert_eq!(home.ize(&["wal", "repair", "notes", "--yes"]).code, 5);
    std::fs::remove_file(layout.checkpoint()).unwrap();
    // The name cannot be looked up any more; the directory can, and its lock still counts.
    std::fs::write(layout.identity(), "format = 1\n").unwrap();
    let dir = layout.dir().to_str().unwrap();
    assert_eq!(home.ize(&["wal", "verify", dir]).code, 5);
    let held = Lock::acquire(&layout).unwrap();
    assert_eq!(home.ize(&["wal", "repair", dir, "--yes"]).code, 7);
    assert!(std::fs::read(layout.wal().join("0000000000000001.seg")).unwrap() == before);
    drop(held);
    assert_eq!(home.ize(&["wal", "repair", dir, "--yes"]).code, 0);
    assert_eq!(home.ize(&["wal", "verify", dir]).code, 0);
}

#[test]
fn prune_says_of_every_segment_whether_it_went_and_why_it_stays() {
    let home = Home::new();
    let w = history(&home);
    let (first, second) = (w.segment(1), w.segment(2));
    drop(w);
    home.ize(&["commit", "notes", "-m", "so far"]);
    let report = |flags: &[&str]| {
        let words: Vec<&str> = ["wal", "prune", "notes", "--json"].into_iter().chain(flags.iter().copied()).collect();
        let ran = home.ize(&words);
        assert_eq!(ran.code, 0, "{}", ran.err);
        json_lines(&ran.out).remove(0)
    };
    let ids = |report: &Value, dropped: bool| -> Vec<u64> {
        let segments = report["segments"].as_array().unwrap().iter().filter(|s| s["dropped"] == dropped);
        segments.map(|s| s["id"].as_u64().unwrap()).collect()
    };
    let dry = report(&["--max-size", "0", "--dry-run"]);
    assert_eq!((&dry["dry_run"], dry["dropped_segments"].as_u64().unwrap() as usize), (&true.into(), ids(&dry, true).len()));
    assert!(ids(&dry, true).contains(&1) && first.exists() && second.exists(), "{dry}");
    assert!(dry["segments"].as_array().unwrap().iter().all(|s| s["dropped"] == true || !s["why"].as_str().unwrap().is_empty()), "{dry}");
    let kept = report(&["--max-age", "36500d", "--max-size", "1GiB"]);
    assert_eq!((ids(&kept, true).len(), &kept["dropped_segments"]), (0, &0.into()), "{kept}");
    let text = home.ize(&["wal", "prune", "notes", "--max-age", "0"]);
    assert_eq!(text.code, 0, "{}", text.err);
    assert!(text.out.contains("dropped 0000000000000001  @1..@"), "{}", text.out);
    assert!(text.out.lines().any(|l| l.starts_with("kept ")) && !first.exists(), "{}", text.out);
    assert_eq!(home.ize(&["wal", "verify", "notes"]).code, 0);
    for line in ["--max-age=7", "--max-size=lots", "--max-age=-1d"] {
        assert_eq!(home.ize(&["wal", "prune", "notes", line]).code, 2, "{line}");
    }
}

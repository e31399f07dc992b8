//! inspect and verify: on projects, copies, single segments, whole, torn and damaged; help, flags, exit codes.

use ize::blobs::{Blobs, Encoding, OpenMode};
use ize::ids::Ino;
use ize::op::{self, Operation};
use ize::storage::Disk;
use serde_json::Value;

use crate::wal_kit::{Home, Writer, chmod, create, json_lines, ran, time, write, write_blob};
use crate::{history, ops, record_at, spoil};

#[test]
fn inspect_lists_segments_then_records_with_paths_sizes_and_processes() {
    let home = Home::new();
    let w = history(&home);
    let text = home.ok(&["wal", "inspect", "notes"]);
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("segment 0000000000000001  sealed  @1..@") && lines[0].contains(" ago"), "{text}");
    assert!(lines[1].starts_with("segment 0000000000000002  active"), "{text}");
    let line = |what: &str| *lines.iter().find(|l| l.contains(what)).unwrap_or_else(|| panic!("no {what} in {text}"));
    assert!(line(" mkdir ").contains("2026-01-02 15:00:00.000") && line(" mkdir ").contains("docs  0755 7:8  vim[100]"), "{text}");
    assert!(line(" write ").contains("docs/a.txt  10 bytes at 0  vim[100]"), "{text}");
    assert!(line(" chmod ").contains("docs/a.txt  0644 -> 0600  vim[100]"), "{text}");
    assert!(line("1 byte at 10").ends_with("unknown"), "{text}");
    assert!(line(" unlink ").contains("out  make[200]"), "{text}");
    assert!(line(" process ").contains("vim[100] < zsh[50] uid 7 session 50  /bin/x"), "{text}");

    let json = json_lines(&home.ok(&["wal", "inspect", "notes", "--json"]));
    let segments: Vec<_> = json.iter().filter(|l| l["type"] == "segment").collect();
    assert_eq!(segments.len(), 2);
    assert_eq!((&segments[0]["state"], &segments[0]["first_lsn"], &segments[0]["id"]), (&"sealed".into(), &1.into(), &1.into()));
    assert_eq!(segments[0]["digest"].as_str().unwrap().len(), 64);
    let first_lines: Vec<&str> = json.iter().take(2).map(|l| l["type"].as_str().unwrap()).collect();
    assert_eq!(first_lines, ["segment", "segment"]);
    let chmod = json.iter().find(|l| l["op"] == "chmod").unwrap();
    assert_eq!((&chmod["old_mode"], &chmod["mode"], &chmod["path"]), (&"0644".into(), &"0600".into(), &"docs/a.txt".into()));
    assert_eq!((&chmod["pid"], &chmod["process"], &chmod["time"]), (&100.into(), &"vim".into(), &"2026-01-02T16:00:00Z".into()));
    let last = json.iter().rfind(|l| l["op"] == "write").unwrap();
    assert_eq!(
        (&last["pid"], &last["process"], &last["size"], &last["offset_in_file"]),
        (&0.into(), &"unknown".into(), &1.into(), &10.into())
    );
    drop(w);
}

#[test]
fn filters_choose_by_path_inode_kind_process_time_and_lsn() {
    let home = Home::new();
    let _w = history(&home);
    let all = json_lines(&home.ok(&["wal", "inspect", "notes", "--json"]));
    let lsn_of = |op: &str| all.iter().find(|l| l["op"] == op).unwrap()["lsn"].as_u64().unwrap();
    let chmod_at = lsn_of("chmod");
    let at = format!("@{chmod_at:x}");
    let range = format!("@{:x}..{:x}", lsn_of("create"), lsn_of("write"));
    let from = format!("{chmod_at}..");
    for (flags, expected) in [
        (&["--path", "docs"][..], &["mkdir", "create", "write", "chmod", "write"][..]),
        (&["--path", "./docs/a.txt"], &["create", "write", "chmod", "write"]),
        (&["--path", "*.txt"], &[]),
        (&["--path", "**/*.txt"], &["create", "write", "chmod", "write"]),
        (&["--path", "o?t"], &["create", "write", "unlink"]),
        (&["--path", "doc"], &[]),
        (&["--path", "#4"], &["create", "write", "unlink"]),
        (&["--ino", "2"], &["mkdir"]),
        (&["--ino", "2", "--path", "out", "--kind", "mkdir,create"], &["mkdir", "create"]),
        (&["--kind", "chmod", "--kind", "unlink"], &["chmod", "unlink"]),
        (&["--process", "make", "--kind", "create,write,unlink,chmod"], &["create", "write", "unlink"]),
        (&["--process", "100", "--kind", "chmod,unlink"], &["chmod"]),
        (&["--process", "unknown"], &["write"]),
        (&["--since", "2026-01-02T15:30:00Z"], &["chmod", "write", "unlink"]),
        (&["--until", "2026-01-02 15:00:30"], &["mkdir", "create", "write"]),
        (&["--since", "2026-01-02T15:00:30Z", "--until", "2026-01-02T15:30:00Z"], &["create", "write"]),
        (&["--since", &at, "--kind", "write,chmod"], &["chmod", "write"]),
        (&["--lsn", &at], &["chmod"]),
        (&["--lsn", &range], &["create", "write"]),
        (&["--lsn", &from, "--kind", "unlink,mkdir"], &["unlink"]),
        (&["-n", "1", "--kind", "create"], &["create"]),
        (&["-n", "2", "--kind", "create,chmod,unlink", "--reverse"], &["unlink", "chmod"]),
        (&["--kind", "create,mkdir", "--reverse"], &["create", "create", "mkdir"]),
    ] {
        let words: Vec<&str> = ["wal", "inspect", "notes", "--json"].into_iter().chain(flags.iter().copied()).collect();
        let lines = json_lines(&home.ok(&words));
        assert_eq!(ops(&lines), expected, "{flags:?}");
        assert!(lines.iter().all(|l| l["type"] == "record"), "with a filter only records: {flags:?}");
    }
    for (flags, why) in [
        (&["--kind", "wirte"][..], "did you mean `write`"),
        (&["--lsn", "x"], "no range of LSNs"),
        (&["--since", "someday"], "not a moment"),
        (&["--path", "a["], "no pattern"),
        (&["--process"], "--process"),
        (&["--follow", "--stats"], "cannot be used with"),
    ] {
        let words: Vec<&str> = ["wal", "inspect", "notes"].into_iter().chain(flags.iter().copied()).collect();
        let ran = home.ize(&words);
        assert_eq!(ran.code, 2, "{flags:?} {}", ran.err);
        assert!(ran.err.contains(why), "{flags:?}: {}", ran.err);
    }
}

#[test]
fn a_record_by_its_other_name_is_found_too() {
    let home = Home::new();
    let mut w = Writer::new(home.project("notes"));
    w.push(create(1, "a", 2));
    w.push(Operation::from(op::Link { ino: Ino(2), dir: Ino(1), name: b"b".to_vec() }));
    w.push(write(2, 0, b"x"));
    let lines = json_lines(&home.ok(&["wal", "inspect", "notes", "--json", "--path", "b"]));
    assert_eq!(ops(&lines), ["link", "write"]);
    assert_eq!(lines[1]["path"], "a", "the first name is the one that is shown");
}

#[test]
fn hex_is_the_record_as_it_stands_in_the_file() {
    let home = Home::new();
    let w = history(&home);
    let text = home.ok(&["wal", "inspect", "notes", "--hex", "--kind", "write", "-n", "1"]);
    assert!(text.contains("68 65 6c 6c 6f") && text.contains("hello"), "{text}");
    let json = json_lines(&home.ok(&["wal", "inspect", "notes", "--hex", "--json"]));
    for line in json.iter().filter(|l| l["type"] == "record") {
        let file = std::fs::read(w.segment(line["segment"].as_u64().unwrap())).unwrap();
        let bytes = line["hex"].as_str().unwrap();
        let at = line["offset"].as_u64().unwrap() as usize;
        let expected: String = file[at..at + bytes.len() / 2].iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(bytes, expected);
        assert_eq!(bytes.len() / 2, 32 + (line["bytes"].as_u64().unwrap() as usize).next_multiple_of(8));
    }
}

#[test]
fn stats_add_up_per_kind_and_per_process() {
    let home = Home::new();
    let _w = history(&home);
    let lines = json_lines(&home.ok(&["wal", "inspect", "notes", "--stats", "--json"]));
    let one = |by: &str, key: &str, value: Value| lines.iter().find(|l| l["by"] == by && l[key] == value).unwrap();
    let writes = one("kind", "kind", "write".into());
    assert_eq!((&writes["operations"], &writes["bytes"]), (&3.into(), &1011.into()));
    let make = one("process", "process", "make".into());
    assert_eq!((&make["pid"], &make["operations"], &make["bytes"]), (&200.into(), &3.into(), &1000.into()));
    assert_eq!(one("process", "process", "unknown".into())["operations"], 1);
    let all = one("all", "type", "stats".into());
    let records = json_lines(&home.ok(&["wal", "inspect", "notes", "--json"])).iter().filter(|l| l["type"] == "record").count();
    assert_eq!(all["operations"], records);
    let stored: u64 = lines.iter().filter(|l| l["by"] == "kind").map(|l| l["stored"].as_u64().unwrap()).sum();
    assert_eq!(all["stored"], stored);
    let some = json_lines(&home.ok(&["wal", "inspect", "notes", "--stats", "--json", "--path", "out"]));
    assert_eq!(some.iter().find(|l| l["by"] == "all").unwrap()["operations"], 3);
    let text = home.ok(&["wal", "inspect", "notes", "--stats"]);
    assert!(text.contains("make[200]") && text.contains("write"), "{text}");
}

#[test]
fn a_clean_log_verifies_with_zero() {
    let home = Home::new();
    let _w = history(&home);
    assert!(home.ok(&["wal", "verify", "notes"]).starts_with("clean: 2 segments, "));
    let lines = json_lines(&home.ok(&["wal", "verify", "notes", "--json"]));
    assert_eq!((&lines[0]["type"], &lines[0]["clean"], &lines[0]["segments"]), (&"summary".into(), &true.into(), &2.into()));
}

#[test]
fn a_torn_tail_is_four_damage_is_five_and_an_unreadable_file_is_six() {
    let home = Home::new();
    let w = history(&home);
    let last = record_at(&home, "unlink");
    let (at, lsn) = (last["offset"].as_u64().unwrap(), last["lsn"].as_u64().unwrap());
    spoil(&w.segment(2), at + 40);
    for verb in ["verify", "inspect"] {
        let ran = home.ize(&["wal", verb, "notes"]);
        assert_eq!(ran.code, 4, "{} {}", ran.out, ran.err);
        let place = format!("{}, offset {at}, LSN @{lsn:x}", w.segment(2).display());
        assert!(ran.out.contains(&format!("torn-tail: {place}")) && ran.err.contains(&place), "{} {}", ran.out, ran.err);
    }
    assert!(
        ops(&json_lines(&home.ize(&["wal", "inspect", "notes", "--json"]).out)).contains(&"chmod".to_owned()),
        "what is readable is shown"
    );

    let write = record_at(&home, "write");
    spoil(&w.segment(1), write["offset"].as_u64().unwrap() + 50);
    let ran = home.ize(&["wal", "verify", "notes", "--json"]);
    assert_eq!(ran.code, 5, "{}", ran.err);
    let findings: Vec<Value> = json_lines(&ran.out).into_iter().filter(|l| l["type"] == "finding").collect();
    let damage = findings.iter().find(|f| f["verdict"] == "damage").unwrap();
    assert_eq!((&damage["segment"], &damage["offset"], &damage["lsn"]), (&1.into(), &write["offset"], &write["lsn"]));
    assert_eq!(damage["file"], w.segment(1).to_str().unwrap());
    let error: Value = serde_json::from_str(&ran.err).unwrap();
    assert_eq!((&error["code"], &error["class"]), (&5.into(), &"damage".into()));
    assert!(error["message"].is_string() && error["hint"].is_string());

    std::fs::remove_file(w.segment(1)).unwrap();
    std::fs::create_dir(w.segment(1)).unwrap();
    for words in [&["wal", "verify", "notes"][..], &["wal", "inspect", "notes"], &["wal", "inspect", w.segment(1).to_str().unwrap()]] {
        let ran = home.ize(words);
        assert_eq!(ran.code, 6, "{words:?} {} {}", ran.out, ran.err);
        assert!(ran.err.contains("0000000000000001.seg"), "{}", ran.err);
    }
}

#[test]
fn wrong_flags_are_two_unknown_projects_and_directories_without_segments_three() {
    let home = Home::new();
    home.project("notes");
    std::fs::create_dir(home.path().join("empty")).unwrap();
    std::fs::write(home.path().join("text"), "no segment").unwrap();
    for verb in ["inspect", "verify", "prune", "repair"] {
        for (word, code) in [("--nope", 2), ("nots", 3), ("./nothing", 3), ("./empty", 3), ("./text", 3)] {
            let ran = home.ize(&["wal", verb, word]);
            assert_eq!(ran.code, code, "{verb} {word}: {}", ran.err);
            assert!(ran.err.starts_with("error: "), "{}", ran.err);
            let error: Value = serde_json::from_str(&home.ize(&["wal", verb, word, "--json"]).err).unwrap();
            assert_eq!(error["code"], code);
        }
        let ran = home.ize(&["wal", verb, "-p", "notes", "notes"]);
        assert_eq!(ran.code, 2, "{}", ran.err);
        assert_eq!(home.ize(&["wal", verb]).code, 2, "which project?");
    }
    assert_eq!(home.ok(&["wal", "inspect", "notes"]), "", "a log without records is no failure");
}

#[test]
fn copies_are_read_without_their_project_and_under_any_name() {
    let home = Home::new();
    let mut w = history(&home);
    w.seal();
    let whole = json_lines(&home.ok(&["wal", "inspect", "notes", "--json"]));
    let same = |words: &[&str]| {
        let mut lines = json_lines(&home.ok(words));
        let mut expected = whole.clone();
        for l in lines.iter_mut().chain(&mut expected) {
            l.as_object_mut().unwrap().remove("file");
        }
        assert_eq!(lines, expected, "{words:?}");
    };
    let copy = home.path().join("copy");
    std::fs::create_dir_all(copy.join("wal")).unwrap();
    for id in 1..=2 {
        std::fs::copy(w.segment(id), copy.join("wal").join(w.segment(id).file_name().unwrap())).unwrap();
    }
    same(&["wal", "inspect", w.project.layout.dir().to_str().unwrap(), "--json"]);
    same(&["wal", "inspect", w.project.layout.wal().to_str().unwrap(), "--json"]);
    same(&["wal", "inspect", "copy", "--json"]);
    same(&["wal", "inspect", "copy/wal", "--json"]);
    assert_eq!(home.ize(&["wal", "verify", "copy"]).code, 0);

    std::fs::copy(w.segment(2), home.path().join("some file")).unwrap();
    let alone = json_lines(&home.ok(&["wal", "inspect", "./some file", "--json"]));
    assert_eq!((&alone[0]["id"], &alone[0]["state"]), (&2.into(), &"sealed".into()));
    assert_eq!(alone[0]["file"], home.path().join("some file").to_str().unwrap());
    assert_eq!(ops(&alone), ops(&whole).split_off(ops(&whole).len() - ops(&alone).len()));
    let text = home.ok(&["wal", "inspect", "./some file"]);
    assert!(text.contains("#3  0644 -> 0600") && text.contains(" unlink      out"), "names that no record tells are numbers: {text}");
    let one = json_lines(&home.ok(&["wal", "inspect", w.segment(2).to_str().unwrap(), "--json"]));
    assert_eq!(ops(&one), ops(&alone));
    assert_eq!(one.iter().find(|l| l["op"] == "chmod").unwrap()["path"], "docs/a.txt", "its neighbours tell the names");
}

#[test]
fn a_segment_whose_header_is_damaged_still_shows_its_records() {
    let home = Home::new();
    let w = history(&home);
    std::fs::copy(w.segment(1), home.path().join("0000000000000001.seg")).unwrap();
    spoil(&home.path().join("0000000000000001.seg"), 60);
    let ran = home.ize(&["wal", "inspect", "./0000000000000001.seg", "--json"]);
    assert_eq!(ran.code, 5, "{}", ran.err);
    let lines = json_lines(&ran.out);
    assert!(ops(&lines).contains(&"mkdir".to_owned()), "{lines:?}");
    assert!(lines.iter().any(|l| l["type"] == "finding" && l["offset"] == 0));
}

#[test]
fn blobs_that_records_name_are_checked_and_so_are_those_that_none_names() {
    let home = Home::new();
    let mut w = Writer::new(home.project("notes"));
    let packs = w.project.layout.blobs();
    let (blobs, _) = Blobs::open(Disk::shared(), packs.clone(), w.project.identity.id, OpenMode::Write { clean: true }).unwrap();
    let bytes = vec![7u8; 100_000];
    let other: Vec<u8> = (0..100_000u32).map(|i| (i % 251) as u8).collect();
    let id = blobs.put(&bytes, Encoding::Raw).unwrap();
    blobs.put(&other, Encoding::Raw).unwrap();
    blobs.sync().unwrap();
    w.push(create(1, "big", 2));
    w.push(write_blob(2, id, 100_000));
    w.log.sync().unwrap();
    w.seal();
    // A successor proves the segment durable.
    w.push(chmod(2, 0o644, 0o600));
    drop(blobs);
    let text = home.ok(&["wal", "verify", "notes"]);
    assert!(text.contains("1 blob references") && text.contains("1 packs, 2 blobs"), "{text}");
    let pack = std::fs::read_dir(&packs).unwrap().next().unwrap().unwrap().path();
    let clean = std::fs::read(&pack).unwrap();
    let place = |needle: &[u8]| clean.windows(needle.len()).position(|w| w == needle).unwrap() as u64 + 10_000;

    spoil(&pack, place(&other[..1000]));
    let ran = home.ize(&["wal", "verify", "notes", "--json"]);
    assert!(ran.code == 5 || ran.code == 4, "a blob that nothing names: {} {}", ran.out, ran.err);
    assert!(json_lines(&ran.out).iter().any(|l| l["type"] == "finding" && l["file"] == pack.to_str().unwrap()), "{}", ran.out);

    std::fs::write(&pack, &clean).unwrap();
    spoil(&pack, place(&bytes[..1000]));
    let ran = home.ize(&["wal", "verify", "notes", "--json"]);
    assert_eq!(ran.code, 5, "{}", ran.err);
    assert!(json_lines(&ran.out).iter().any(|l| l["lsn"] == 3 && l["verdict"] == "damage"), "{}", ran.out);

    std::fs::remove_file(&pack).unwrap();
    let ran = home.ize(&["wal", "verify", "notes"]);
    assert_eq!(ran.code, 5);
    assert!(ran.out.contains(&format!("LSN @3: blob {id}, which it names, is missing")), "{}", ran.out);
}

#[test]
fn names_reach_the_terminal_and_json_without_doing_anything_there() {
    let home = Home::new();
    let mut w = Writer::new(home.project("notes"));
    w.by(100, "v\u{1b}[31mim");
    let name = |name: &[u8], ino: u64| -> Operation {
        op::Create { dir: Ino(1), name: name.to_vec(), ino: Ino(ino), mode: 0o644, uid: 0, gid: 0 }.into()
    };
    w.push(name(b"a\x1b[2J\nb", 2));
    w.push(name(b"\xff\xfe", 3));
    w.push(name("x\u{202e}txt.exe\u{9b}".as_bytes(), 4));
    let text = home.ok(&["wal", "inspect", "notes"]);
    for shown in ["a\\u{1b}[2J\\nb", "\\xff\\xfe", "x\\u{202e}txt.exe\\u{9b}", "v\\u{1b}[31mim[100]"] {
        assert!(text.contains(shown), "{shown}: {text}");
    }
    let json = home.ok(&["wal", "inspect", "notes", "--json"]);
    assert!(!text.contains(['\u{1b}', '\u{202e}', '\u{9b}']) && !json.contains(['\u{1b}', '\u{202e}', '\u{9b}']));
    let lines = json_lines(&json);
    let of = |ino: u64| lines.iter().find(|l| l["ino"] == ino).unwrap();
    assert_eq!(of(2)["path"], "a\u{1b}[2J\nb");
    assert_eq!((&of(3)["path_b64"], &of(3)["name_b64"]), (&"//4=".into(), &"//4=".into()));
    assert_eq!(of(4)["path"], "x\u{202e}txt.exe\u{9b}");
    assert!(home.ok(&["wal", "inspect", "notes", "--color", "always"]).contains("\x1b[33m"), "asked for");
    let coloured = |name: &str| ran(home.command(&["wal", "inspect", "notes"]).env(name, "1").output().unwrap()).out.contains('\x1b');
    assert!(coloured("CLICOLOR_FORCE") && !coloured("NO_COLOR"));
    assert!(!home.ok(&["wal", "inspect", "notes", "--json", "--color", "always"]).contains('\x1b'));
}

#[test]
fn the_store_is_chosen_by_flag_or_variable_before_or_after_the_verb() {
    let home = Home::new();
    let elsewhere = home.path().join("elsewhere");
    let project = ize::project::registry::init(&ize::project::layout::Central::new(&elsewhere), "there").unwrap();
    let mut w = Writer::new(project);
    w.push(create(1, "f", 2));
    w.at(time(0).secs);
    assert_eq!(home.ize(&["wal", "inspect", "there"]).code, 3);
    for words in [
        &["--central-dir", "elsewhere", "wal", "inspect", "there"][..],
        &["wal", "--central-dir", "elsewhere", "inspect", "there"],
        &["wal", "inspect", "there", "--central-dir", "elsewhere"],
        &["wal", "verify", "--central-dir=elsewhere", "there"],
        &["list", "--central-dir", "elsewhere"],
    ] {
        assert!(!home.ok(words).is_empty(), "{words:?}");
    }
    let output = home.command(&["wal", "inspect", "there"]).env("IZE_CENTRAL_DIR", &elsewhere).output().unwrap();
    assert!(ran(output).out.contains(" create "));
}

#[test]
fn every_verb_of_the_log_says_what_it_takes_with_examples() {
    let home = Home::new();
    for words in [&["wal", "--help"][..], &["help", "wal"]] {
        let text = home.ok(words);
        for verb in ["inspect", "verify", "prune", "repair", "Examples:"] {
            assert!(text.contains(verb), "{words:?}: {text}");
        }
    }
    for verb in ["inspect", "verify", "prune", "repair"] {
        let text = home.ok(&["wal", verb, "--help"]);
        assert!(text.contains("Examples:") && text.contains(&format!("ize wal {verb} notes")), "{text}");
        assert_eq!(home.ok(&["help", "wal", verb]), text);
    }
}

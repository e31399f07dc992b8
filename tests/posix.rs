//! What programs see of a mount is what they see of the disk beneath it, but for what docs/semantics.md says; and its examples are run.
//! Needs root and /dev/fuse.
#![cfg(feature = "fuse")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};

use support::{Home, sh};

const DOCUMENT: &str = include_str!("../docs/semantics.md");
/// f_type of ext2, ext3 and ext4.
const EXT4_MAGIC: i64 = 0xEF53;

/// A mount that other users can reach and use.
fn open_to_all() -> Home {
    let home = Home::new();
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).unwrap();
    home.ok(&["mount", "p", home.mount.to_str().unwrap(), "--create", "-o", "allow_other,dev,suid"]);
    home
}

fn lines(text: &str) -> BTreeMap<String, String> {
    text.lines().filter_map(|l| l.split_once(": ")).map(|(name, said)| (name.to_owned(), said.to_owned())).collect()
}

/// The probes' lines in a directory.
fn probed(dir: &Path) -> BTreeMap<String, String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance/probes");
    let output = Command::new("python3").arg(script).arg(dir).stdin(Stdio::null()).stderr(Stdio::inherit()).output().expect("python3 runs");
    assert!(output.status.success(), "the probes stop in {}", dir.display());
    lines(std::str::from_utf8(&output.stdout).unwrap())
}

/// The first cells of the table below a heading, in backquotes there.
fn listed_differences() -> BTreeSet<String> {
    let section = DOCUMENT.split("## What differs from ext4").nth(1).expect("the document has the section");
    let section = section.split("\n## ").next().unwrap();
    section.lines().filter_map(|l| l.strip_prefix("| `")?.split('`').next()).map(str::to_owned).collect()
}

#[test]
fn system_calls_do_on_a_mount_what_they_do_on_ext4() {
    let home = open_to_all();
    let beside = home.path().join("beside");
    fs::create_dir(&beside).unwrap();
    let ours = probed(&home.mount);
    // Where the temporary directory is not on ext4, what ext4 said elsewhere stands for it.
    let theirs = if rustix::fs::statfs(&beside).unwrap().f_type == EXT4_MAGIC {
        probed(&beside)
    } else {
        lines(include_str!("conformance/ext4.txt"))
    };
    assert!(ours.len() > 40 && ours.keys().eq(theirs.keys()), "not the same probes ran");
    let differ: BTreeSet<String> = ours.keys().filter(|name| ours[*name] != theirs[*name]).cloned().collect();
    let listed = listed_differences();
    for name in differ.difference(&listed) {
        eprintln!("{name}:\n  mount {}\n  ext4  {}", ours[name], theirs[name]);
    }
    assert_eq!(differ, listed, "docs/semantics.md lists what differs");
    home.unmount();
    home.ok(&["wal", "verify", "p"]);
}

/// Commands and what each prints, of the blocks marked `console`.
fn examples() -> Vec<Vec<(String, String)>> {
    let mut blocks = Vec::new();
    for block in DOCUMENT.split("```console\n").skip(1) {
        let mut commands: Vec<(String, String)> = Vec::new();
        for line in block.split("```").next().unwrap().lines() {
            match line.strip_prefix("$ ") {
                Some(command) => commands.push((command.to_owned(), String::new())),
                None => commands.last_mut().expect("a block begins with a command").1.push_str(&format!("{line}\n")),
            }
        }
        blocks.push(commands);
    }
    blocks
}

#[test]
fn the_examples_of_the_semantics_document_are_true() {
    let home = open_to_all();
    let blocks = examples();
    assert!(blocks.len() >= 5);
    for (i, block) in blocks.iter().enumerate() {
        let dir = home.mount.join(format!("example{i}"));
        fs::create_dir(&dir).unwrap();
        // One shell a block; a mark that no command prints ends each output.
        let script: String = block.iter().map(|(command, _)| format!("{command}\nprintf '\\001'\n")).collect();
        let mut shell = Command::new("bash");
        shell.args(["-c", &format!("exec 2>&1; umask 022\n{script}")]).current_dir(&dir).env("LC_ALL", "C").stdin(Stdio::null());
        let output = shell.output().expect("bash runs");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        for ((command, wanted), got) in block.iter().zip(said.split('\u{1}')) {
            assert_eq!(got, wanted, "$ {command}");
        }
        assert_eq!(said.matches('\u{1}').count(), block.len(), "{said}");
    }
    home.unmount();
}

#[test]
fn hard_links_are_one_inode_whoever_is_looked_up_first_after_every_end_of_the_daemon() {
    let home = Home::new();
    home.mount();
    let at = |name: &str| home.mount.join(name);
    fs::create_dir_all(at("a/b")).unwrap();
    fs::create_dir(at("c")).unwrap();
    fs::write(at("a/first"), "one").unwrap();
    fs::hard_link(at("a/first"), at("a/b/second")).unwrap();
    fs::hard_link(at("a/first"), at("c/third")).unwrap();
    fs::write(at("single"), "x").unwrap();
    let names = ["a/first", "a/b/second", "c/third"];
    let ino = fs::metadata(at("a/first")).unwrap().ino();
    let check = |order: &[usize], links: u64| {
        for i in order {
            let meta = fs::metadata(at(names[*i])).unwrap();
            assert_eq!((meta.ino(), meta.nlink()), (ino, links), "{}", names[*i]);
        }
    };
    check(&[0, 1, 2], 3);
    for round in 0..4 {
        match round {
            // From the log alone; from the base; from the base with a log above it, in order and by SIGKILL.
            0 => home.kill(),
            1 => {
                home.ok(&["commit", "p"]);
                home.unmount();
            }
            2 => home.unmount(),
            _ => {
                fs::write(at("c/third"), "more than one").unwrap();
                home.kill();
            }
        }
        home.mount();
        check(&[[2, 0, 1], [1, 2, 0], [0, 2, 1], [2, 1, 0]][round], 3);
        // What is written through one name is read through the others.
        let text = format!("round {round}");
        let mut file = fs::OpenOptions::new().write(true).truncate(true).open(at(names[round % 3])).unwrap();
        file.write_all(text.as_bytes()).unwrap();
        for name in names {
            assert_eq!(fs::read_to_string(at(name)).unwrap(), text);
        }
    }
    // Each of its names can move.
    for name in names {
        fs::rename(at(name), at("c/moved")).unwrap();
        assert_eq!(fs::metadata(at("c/moved")).unwrap().ino(), ino);
        fs::rename(at("c/moved"), at(name)).unwrap();
    }
    fs::remove_file(at("a/first")).unwrap();
    home.unmount();
    home.mount();
    check(&[2, 1], 2);
    // A number is never given again.
    let single = fs::metadata(at("single")).unwrap().ino();
    fs::remove_file(at("single")).unwrap();
    fs::write(at("single"), "another").unwrap();
    assert!(fs::metadata(at("single")).unwrap().ino() > single.max(ino));
    home.unmount();
}

#[test]
fn a_copy_by_cp_is_a_clone_that_writes_nothing() {
    let home = Home::new();
    home.mount();
    sh(&home.mount, "head -c 64M /dev/urandom > big; cp big copy; cmp big copy");
    let records = support::lines(&home.ok(&["wal", "inspect", "p", "--path", "copy", "--json"]));
    let kinds: BTreeSet<&str> = records.iter().filter_map(|r| r["op"].as_str()).collect();
    assert!(kinds.contains("clone") && !kinds.contains("write"), "{kinds:?}");
    home.kill();
    home.mount();
    sh(&home.mount, "cmp big copy; printf odd | dd of=copy bs=1 seek=1234567 conv=notrunc status=none; ! cmp -s big copy");
    home.unmount();
}

//! One flipped bit, cut or loss in the files that hold history is found, with the right files and versions, and what is sound stays readable.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use ize::versions::node::Content;
use serde_json::Value;

use crate::kit::*;
use crate::support::{Home, said, sh};

#[test]
fn one_flipped_bit_in_each_kind_of_file_is_found_and_named_and_the_rest_stays_readable() {
    let home = store();
    let named = Named::of(&home);
    let last = home.history().len() as u64;
    for deep in [false, true] {
        let clean = fsck(&home, &home.central(), deep);
        assert_eq!((clean.code, &clean.summary["verdict"], &clean.summary["pending"]), (0, &Value::from("clean"), &Value::from(0)));
        assert_eq!((clean.summary["versions"].as_u64(), clean.findings.len()), (Some(last), 0));
    }
    let all = ["sound", "kept", "d/a", "d/b", "flat/file-3", "third"];
    let rest = |without: &str| all.iter().copied().filter(|p| !p.starts_with(without)).collect::<Vec<_>>();

    // Blobs of states.
    let chunk = named.chunk_of(2, "large", 3);
    let (copy, told) = damaged(&home, "old chunk", true, |c| flip_blob(c, chunk, Where::Bytes));
    let finding = finds("old chunk", &told, 5, "state", Some("large"), (1, 2), false);
    assert!(finding["mend"].as_str().unwrap().starts_with("the newest state is sound"), "{finding}");
    finds("old chunk", &told, 5, "pack", Some("large"), (1, 2), false);
    readable(&home, &copy, &all);
    assert_eq!(fsck(&home, &copy, false).code, 0, "without --deep the bytes of chunks are not read");

    let chunk = named.chunk_of(3, "kept", 3);
    let (copy, told) = damaged(&home, "chunk", true, |c| flip_blob(c, chunk, Where::Bytes));
    finds("chunk", &told, 5, "state", Some("kept"), (1, last), true);
    readable(&home, &copy, &rest("kept"));
    let (copy, told) = damaged(&home, "chunk head", false, |c| flip_blob(c, chunk, Where::Head));
    finds("chunk head", &told, 5, "state", Some("kept"), (1, last), true);
    readable(&home, &copy, &rest("kept"));

    let list = named.list_of(3, "kept");
    let (copy, told) = damaged(&home, "list of pieces", false, |c| flip_blob(c, list, Where::Bytes));
    finds("list of pieces", &told, 5, "state", Some("kept"), (1, last), true);
    readable(&home, &copy, &rest("kept"));

    let page = named.page_of(1, "flat");
    let (copy, told) = damaged(&home, "directory page", false, |c| flip_blob(c, page, Where::Bytes));
    assert_eq!(told.code, 5);
    assert!(told.findings.iter().any(|f| f["paths"][0]["path"] == "flat" && f["below"] == true), "{:#?}", told.findings);
    readable(&home, &copy, &rest("flat"));

    let Content::Directory(dir) = named.entry(3, "d") else { panic!() };
    let (copy, told) = damaged(&home, "directory", false, |c| flip_blob(c, dir, Where::Bytes));
    finds("directory", &told, 5, "state", Some("d"), (1, last), true);
    readable(&home, &copy, &rest("d"));

    let table = named.state(1).inodes.unwrap();
    let (copy, told) = damaged(&home, "inode table", false, |c| flip_blob(c, table, Where::Bytes));
    let finding = finds("inode table", &told, 5, "state", None, (1, 1), false);
    assert!(finding["files"].as_u64() > Some(3), "{finding}");
    readable(&home, &copy, &all);

    let root = named.root(2);
    let (copy, told) = damaged(&home, "state", false, |c| flip_blob(c, root, Where::Bytes));
    finds("state", &told, 5, "state", Some(""), (2, 2), false);
    readable(&home, &copy, &all);

    // Everything else.
    let (_, told) = damaged(&home, "checkpoint", false, |c| flip(&file_of(c, "meta/checkpoint"), 30));
    finds("checkpoint", &told, 5, "checkpoint", None, (0, 0), true);
    let cut = |c: &Path, name: &str, by: u64| {
        let path = file_of(c, name);
        let len = std::fs::metadata(&path).unwrap().len();
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(len - by).unwrap();
    };
    let first = u32::from_le_bytes(std::fs::read(file_of(&home.central(), "meta/versions")).unwrap()[36..40].try_into().unwrap());
    let second = 32 + 8 + first as usize;
    let (copy, told) = damaged(&home, "version", false, |c| flip(&file_of(c, "meta/versions"), second + 20));
    finds("version", &told, 5, "versions", None, (2, 2), false);
    readable(&home, &copy, &all);
    let old = said(home.command(&["cat", "p", "sound", "--at", "now~1"]).arg("--central-dir").arg(&copy).output().unwrap());
    assert_eq!(old.code, 5, "{old:?}");
    // Its length is wrong: what is behind is found all the same.
    let (_, told) = damaged(&home, "length of a version", false, |c| flip(&file_of(c, "meta/versions"), second + 4));
    finds("length of a version", &told, 5, "versions", None, (2, 2), false);
    assert_eq!(told.summary["versions"].as_u64(), Some(last - 1));
    let (_, told) = damaged(&home, "versions cut", false, |c| cut(c, "meta/versions", 3));
    finds("versions cut", &told, 5, "versions", None, (last, last), false);
    let (_, told) = damaged(&home, "versions gone", false, |c| std::fs::remove_file(file_of(c, "meta/versions")).unwrap());
    finds("versions gone", &told, 5, "versions", None, (1, last), false);

    let segment = "wal/0000000000000001.seg";
    let (copy, told) = damaged(&home, "segment", false, |c| flip(&file_of(c, segment), 300));
    let finding = finds("segment", &told, 5, "log", None, (1, 1), false);
    assert!(finding["mend"].as_str().unwrap().contains("no state is lost"), "{finding}");
    readable(&home, &copy, &all);
    let (copy, told) = damaged(&home, "segment cut", false, |c| cut(c, segment, 200));
    assert_eq!((told.code, &told.findings[0]["part"]), (5, &Value::from("log")));
    readable(&home, &copy, &all);
    let (copy, told) = damaged(&home, "segment gone", false, |c| std::fs::remove_file(file_of(c, segment)).unwrap());
    assert_eq!((told.code, &told.findings[0]["part"]), (5, &Value::from("log")));
    readable(&home, &copy, &all);

    let pack = "blobs/0000000000000001.pack";
    let (_, told) = damaged(&home, "pack cut", false, |c| cut(c, pack, 1000));
    assert!(told.code == 5 && told.findings.iter().any(|f| f["part"] == "state" && f["newest"] == true), "{:#?}", told.findings);
    let (_, told) = damaged(&home, "pack gone", false, |c| std::fs::remove_file(file_of(c, pack)).unwrap());
    finds("pack gone", &told, 5, "state", Some(""), (1, 1), false);
    let (copy, told) = damaged(&home, "pack header", false, |c| flip(&file_of(c, pack), 20));
    assert_eq!((told.code, &told.findings[0]["part"]), (5, &Value::from("pack")), "{:#?}", told.findings);
    readable(&home, &copy, &all);
    let (_, told) = damaged(&home, "identity", false, |c| std::fs::write(file_of(c, "meta/project.toml"), "format = ").unwrap());
    finds("identity", &told, 5, "identity", None, (0, 0), false);
    assert!(!told.findings.iter().any(|f| f["part"] != "identity"), "{:#?}", told.findings);
}

/// What only a crash left is no damage, and what is above the checkpoint is carried out.
#[test]
fn a_killed_store_is_clean_or_torn_and_says_what_waits() {
    let home = store();
    home.mount();
    sh(&home.mount, "for i in $(seq 50); do echo $i > late-$i; done");
    home.ok(&["sync", "p"]);
    home.kill();
    sh(Path::new("/"), &format!("umount -l {}", home.mount.display()));
    let told = fsck(&home, &home.central(), true);
    assert_eq!(told.code, 0, "{:#?}", told.findings);
    assert!(told.summary["pending"].as_u64() >= Some(100), "{}", told.summary);
    // Bytes that a durable record names and no version yet.
    home.mount();
    sh(&home.mount, "dd if=/dev/urandom of=fresh bs=100000 count=1 iflag=fullblock status=none; sync fresh; echo x > after; sync after");
    let bytes = std::fs::read(home.mount.join("fresh")).unwrap();
    home.kill();
    sh(Path::new("/"), &format!("umount -l {}", home.mount.display()));
    let blob = entries(&home.central()).into_iter().find(|(path, at, _, head, stored)| {
        let pack = std::fs::read(path).unwrap();
        let len = (*stored).min(4096);
        bytes.windows(len).step_by(4096).any(|w| w == &pack[at + head..at + head + len])
    });
    let id = blob.expect("a write of that length is a blob").2;
    let (_, told) = damaged(&home, "named by the log", true, |c| flip_blob(c, id, Where::Bytes));
    assert_eq!(told.code, 5, "{:#?}", told.findings);
    for part in ["log", "pack"] {
        let fits = |f: &&Value| f["part"] == part && f["verdict"] == "damage" && f["paths"][0]["path"] == "fresh" && f["newest"] == true;
        assert!(told.findings.iter().any(|f| fits(&f)), "{part}: {:#?}", told.findings);
    }
    // A record of it is flipped: nothing behind it can be taken.
    let mut segments: Vec<PathBuf> = std::fs::read_dir(home.project().join("wal")).unwrap().map(|e| e.unwrap().path()).collect();
    segments.retain(|p| p.extension().is_some_and(|e| e == "seg"));
    segments.sort();
    let name = format!("wal/{}", segments.last().unwrap().file_name().unwrap().to_str().unwrap());
    let (_, told) = damaged(&home, "above", false, |c| flip(&file_of(c, &name), 300));
    assert!(told.code == 5 && told.findings.iter().any(|f| f["part"] == "log" && f["newest"] == true), "{:#?}", told.findings);
    assert!(told.findings[0]["mend"].as_str().unwrap().contains("ize wal repair --dry-run"));
}

#[test]
fn a_wrong_index_file_is_named_and_thrown_away() {
    let home = Home::new();
    home.mount();
    // More than one pack takes.
    sh(&home.mount, "head -c 70000000 /dev/urandom > huge; echo sound > sound");
    home.ok(&["commit", "p"]);
    home.unmount();
    assert_eq!(fsck(&home, &home.central(), false).code, 0);
    let index = "blobs/0000000000000001.index";
    let (copy, told) = damaged(&home, "index", false, |c| flip(&file_of(c, index), 150));
    let finding = finds("index", &told, 4, "index", None, (0, 0), false);
    assert!(told.findings.len() == 1 && finding["mend"].as_str().unwrap().contains("makes it again"), "{finding}");
    readable(&home, &copy, &["sound", "huge"]);
    let again = said(home.command(&["commit", "p", "-m", "x"]).arg("--central-dir").arg(&copy).output().unwrap());
    assert_eq!(again.code, 0, "{again:?}");
    assert_eq!(fsck(&home, &copy, true).code, 0, "it was made again");
}

#[test]
fn a_check_beside_a_live_mount_with_a_writer_finds_nothing() {
    let home = Home::new();
    home.ok(&["config", "set", "group.idle", "100ms"]);
    home.mount();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut n = 0u64;
            while !stop.load(Ordering::Relaxed) {
                n += 1;
                let dir = home.mount.join(format!("d{}", n % 7));
                std::fs::create_dir_all(&dir).unwrap();
                std::fs::write(dir.join(format!("f{}", n % 50)), vec![n as u8; (n as usize * 977) % 200_000]).unwrap();
                if n.is_multiple_of(5) {
                    std::fs::rename(dir.join(format!("f{}", n % 50)), dir.join("moved")).unwrap();
                }
                if n.is_multiple_of(40) {
                    // Pauses make versions.
                    std::thread::sleep(std::time::Duration::from_millis(300));
                }
            }
            n
        });
        let looked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let rounds = std::env::var("IZE_TEST_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(8);
            for round in 0..rounds {
                if round == rounds / 2 {
                    home.ok(&["wal", "prune", "p", "--max-age", "0s"]);
                }
                let told = fsck(&home, &home.central(), round % 2 == 1);
                assert_eq!((told.code, told.findings.len()), (0, 0), "round {round}: {:#?}", told.findings);
            }
        }));
        stop.store(true, Ordering::Relaxed);
        assert!(writer.join().unwrap() > 0);
        looked.unwrap_or_else(|e| std::panic::resume_unwind(e));
    });
    home.unmount();
    assert_eq!(fsck(&home, &home.central(), true).code, 0);
}

#[test]
fn what_is_no_store_is_refused() {
    let home = Home::new();
    home.ok(&["init", "p"]);
    assert_eq!(home.ize(&["fsck", "p"]).code, 0, "a new one is clean");
    assert_eq!(home.ize(&["fsck", "nobody"]).code, 3);
    assert_eq!(home.ize(&["fsck", "/"]).code, 3);
}

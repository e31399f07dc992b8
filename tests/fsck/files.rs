//! Every kind of file that a project's directory can hold: one flipped bit is found and named, or cannot matter, and the list is complete.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use ize::project::Project;
use ize::project::importing::Importing;
use ize::storage::Disk;
use ize::versions::version_index;
use serde_json::Value;

use crate::kit::*;
use crate::support::{Home, said, sh};

/// What a flipped bit in a file comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// A finding of this part names the file, wherever the bit is.
    Found(&'static str),
    /// The same, and it is a text without a checksum: in the byte behind this word.
    Text(&'static str, &'static str),
    /// It cannot matter, because of this.
    Harmless(&'static str),
}

/// The kind of a file by its path in the project's directory. Who adds a kind of file says here what becomes of a flipped bit in it.
fn kind(path: &str) -> Option<(&'static str, Kind)> {
    let name = |kind: &'static str, what: Kind| Some((kind, what));
    match path {
        "meta/project.toml" => return name("identity", Kind::Text("identity", "\nid = \"")),
        "meta/import.toml" => return name("import", Kind::Text("import", "source = \"")),
        "meta/checkpoint" => return name("checkpoint", Kind::Found("checkpoint")),
        "meta/versions" => return name("versions", Kind::Found("versions")),
        "meta/versions.index" => return name("versions.index", Kind::Found("index")),
        "meta/purged" => return name("purged", Kind::Found("purged")),
        "meta/purge" => return name("purge", Kind::Found("purged")),
        "meta/RESCUE.md" | "meta/rescue.py" => return name("rescue", Kind::Found("rescue")),
        "meta/retention.json" => return name("retention", Kind::Harmless("it says what was thinned, and saves work")),
        "meta/last-recovery.json" => return name("recovery", Kind::Harmless("it is only shown")),
        "meta/daemon.log" | "meta/daemon.log.1" => return name("daemon", Kind::Harmless("it is for people")),
        "meta/lock" => {
            return name(
                "lock",
                Kind::Harmless("the lock is in the kernel; what it says is believed only if it parses, and costs a recovery"),
            );
        }
        // Behind the blank: in the first hash.
        #[cfg(feature = "pijul")]
        "meta/pijul-index" => return name("pijul-index", Kind::Text("pijul", " ")),
        #[cfg(not(feature = "pijul"))]
        "meta/pijul-index" => return name("pijul-index", Kind::Harmless("it is made from the repository")),
        "wal/reserve" => return name("reserve", Kind::Harmless("it holds room, its bytes mean nothing")),
        "wal/poisoned" => return name("poisoned", Kind::Harmless("it is empty")),
        _ => {}
    }
    let (dir, file) = path.split_once('/')?;
    match (dir, file.rsplit_once('.').map_or("", |(_, e)| e)) {
        #[cfg(feature = "pijul")]
        (".pijul", "change") => name("change", Kind::Found("pijul")),
        (".pijul", _) => name("pijul", Kind::Harmless("it is made from the versions, and again if it must")),
        ("wal", "bin") if file.starts_with("torn/") => name("torn", Kind::Harmless("evidence: what a recovery cut, never read")),
        ("wal", "seg") if file.starts_with("repaired/") => name("repaired", Kind::Harmless("evidence: what a repair changed, never read")),
        ("wal", "seg") => name("segment", Kind::Found("log")),
        ("wal" | "blobs" | "meta", "tmp") => {
            name("tmp", Kind::Harmless("what a crash left of something unfinished, removed by the next writer"))
        }
        ("blobs", "pack") => name("pack", Kind::Found("pack")),
        ("blobs", "index") => name("index", Kind::Found("index")),
        _ => None,
    }
}

/// Files below `dir`, by their paths in it.
fn files(dir: &Path) -> BTreeMap<String, PathBuf> {
    let (mut found, mut work) = (BTreeMap::new(), vec![dir.to_owned()]);
    while let Some(at) = work.pop() {
        for entry in std::fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                work.push(path);
            } else {
                found.insert(path.strip_prefix(dir).unwrap().to_str().unwrap().to_owned(), path);
            }
        }
    }
    found
}

/// A store that was mounted, killed in a write, recovered, thinned, purged, and that has several packs.
fn rich() -> Home {
    let home = Home::new();
    home.ok(&["config", "set", "group.idle", "1h"]);
    // So that a pack is closed when it has 1 MiB or a little more.
    home.ok(&["config", "set", "retention.max-store", "64MiB"]);
    home.mount();
    sh(&home.mount, "mkdir d; echo sound > sound; echo linked > d/a; ln d/a d/b; head -c 9000000 /dev/urandom > large; echo s > secret");
    home.ok(&["commit", "p"]);
    for i in 0..4 {
        sh(&home.mount, &format!("echo {i} > round"));
        home.ok(&["commit", "p"]);
    }
    home.ok(&["wal", "prune", "p", "--max-size", "0"]);
    home.ok(&["thin", "p", "--max-store", "1MiB"]);
    home.unmount();
    home.ok(&["purge", "p", "secret", "--confirm", "p"]);
    home.mount();
    sh(&home.mount, "head -c 3000 /dev/urandom > next");
    home.ok(&["commit", "p"]);
    sh(&home.mount, "echo torn > torn");
    home.kill();
    sh(Path::new("/"), &format!("umount -l {}", home.mount.display()));
    // The end of the last write was not on the disk.
    let segments = files(&home.project().join("wal"));
    let last = segments.iter().rfind(|(name, _)| name.ends_with(".seg") && !name.contains('/')).unwrap().1;
    let bytes = std::fs::read(last).unwrap();
    let at = bytes.windows(5).rposition(|w| w == b"torn\n").unwrap();
    flip(last, at);
    home.mount();
    sh(&home.mount, "echo late > late");
    home.unmount();
    home
}

#[test]
fn one_flipped_bit_in_every_kind_of_file_is_named_or_cannot_matter() {
    let home = rich();
    let project = Project::open(home.project()).unwrap();
    for deep in [false, true] {
        let clean = fsck(&home, &home.central(), deep);
        assert_eq!((clean.code, clean.findings.len()), (0, 0), "{:#?}", clean.findings);
    }
    // An import that has begun.
    Importing { source: home.path().to_owned(), pijul: false }.write(&project.layout).unwrap();
    let under_way = fsck(&home, &home.central(), false);
    let note = under_way.summary["notes"].as_array().unwrap().iter().find_map(|n| n.as_str().filter(|n| n.contains("import"))).unwrap();
    assert!(under_way.code == 0 && note.contains("`ize init p --from "), "{note}");

    let (mut kinds, mut harmless) = (BTreeSet::new(), Vec::new());
    for (name, path) in files(&home.project()) {
        let Some((kind, what)) = kind(&name) else { panic!("{name}: what becomes of a flipped bit in it?") };
        kinds.insert(kind);
        let bytes = std::fs::read(&path).unwrap();
        let (part, places) = match what {
            Kind::Harmless(_) => {
                harmless.push(name);
                continue;
            }
            Kind::Found(part) => (part, vec![9, bytes.len() / 3, bytes.len() / 2, bytes.len() - 1]),
            Kind::Text(part, word) => {
                let word = word.as_bytes();
                (part, vec![bytes.windows(word.len()).position(|w| w == word).unwrap() + word.len()])
            }
        };
        for at in places {
            flip(&path, at);
            let told = fsck(&home, &home.central(), true);
            std::fs::write(&path, &bytes).unwrap();
            let names = |f: &&Value| f["part"] == part && home.project().join(&name).to_str() == f["file"].as_str();
            assert!(told.findings.iter().any(|f| names(&f)), "{name}, bit of byte {at}: {:#?}", told.findings);
            let mild = matches!(kind, "versions.index" | "index" | "rescue" | "pijul-index");
            // The end of the log is what a crash may leave, and so is that of the packs where nothing kept names it.
            let end = matches!(kind, "segment" | "pack") && told.findings.iter().all(|f| f["verdict"] == "torn-tail");
            assert_eq!(told.code, if mild || end { 4 } else { 5 }, "{name}, bit of byte {at}: {:#?}", told.findings);
        }
        // What does not stand in it stays readable. Without the checkpoint only what a version has can be.
        if !matches!(kind, "pack" | "checkpoint" | "identity") {
            flip(&path, bytes.len() / 2);
            readable(&home, &home.central(), &["sound", "d/b", "late"]);
            std::fs::write(&path, &bytes).unwrap();
        }
    }
    std::fs::remove_file(project.layout.importing()).unwrap();
    // With all of them at once the store is sound, can be written to, and is sound after that.
    let (copy, told) = damaged(&home, "harmless", true, |central| {
        for name in &harmless {
            let path = file_of(central, name);
            let len = std::fs::metadata(&path).unwrap().len() as usize;
            if len > 0 {
                flip(&path, len / 2);
            }
        }
    });
    assert_eq!((told.code, told.findings.len()), (0, 0), "{:#?}", told.findings);
    let committed = said(home.command(&["commit", "p", "-m", "x"]).arg("--central-dir").arg(&copy).output().unwrap());
    // What Pijul says of its own files is said, and holds nobody up.
    assert!(committed.code == 0 || (cfg!(feature = "pijul") && committed.err.contains("is safe, but Pijul")), "{committed:?}");
    readable(&home, &copy, &["sound", "large", "d/a", "next", "late"]);
    assert_eq!(fsck(&home, &copy, true).code, 0);

    let wanted = [
        "checkpoint",
        "daemon",
        "identity",
        "import",
        "index",
        "lock",
        "pack",
        #[cfg(feature = "pijul")]
        "change",
        #[cfg(feature = "pijul")]
        "pijul-index",
        "purged",
        "recovery",
        "rescue",
        "reserve",
        "retention",
        "segment",
        "torn",
        "versions",
        "versions.index",
    ];
    let missing: Vec<_> = wanted.iter().filter(|kind| !kinds.contains(*kind)).collect();
    assert!(missing.is_empty(), "the store is not rich enough: no {missing:?}, only {kinds:?}");
    // A purge that has begun, of which nobody can read what it wants.
    let (_, told) = damaged(&home, "purge", false, |central| std::fs::write(file_of(central, "meta/purge"), "IZEPURGE rest").unwrap());
    finds("purge", &told, 5, "purged", None, (0, 0), false);
}

#[test]
fn a_wrong_index_of_the_versions_is_named_and_made_again() {
    let home = Home::new();
    home.ok(&["config", "set", "group.idle", "1h"]);
    home.mount();
    for i in 0..6 {
        sh(&home.mount, &format!("echo {i} > file-{i}"));
        home.ok(if i % 2 == 0 { &["commit", "p", "-m", "stays"] } else { &["commit", "p"] });
    }
    home.ok(&["wal", "prune", "p", "--max-size", "0"]);
    let project = Project::open(home.project()).unwrap();
    let (path, id) = (project.layout.versions_index(), project.identity.id);
    home.ok(&["thin", "p", "--max-store", "1MiB"]);
    home.unmount();
    let (lights, end) = version_index::read(&*Disk::shared(), &path, id).expect("thinning writes it");
    assert_eq!(fsck(&home, &home.central(), false).code, 0);
    let wrong = |lights: &[version_index::Light], end| {
        version_index::write(&*Disk::shared(), &path, id, lights, end).unwrap();
        let told = fsck(&home, &home.central(), false);
        let finding = finds("versions.index", &told, 4, "index", None, (0, 0), false).clone();
        assert_eq!(told.findings.len(), 1, "{:#?}", told.findings);
        assert!(finding["mend"].as_str().unwrap().starts_with("remove it"), "{finding}");
        finding["what"].as_str().unwrap().to_owned()
    };
    let mut other = lights.clone();
    other[0].offset += 8;
    assert!(wrong(&other, end).contains("what it says of version"));
    let mut other = lights.clone();
    other[0].paths = Default::default();
    assert!(wrong(&other, end).contains("what it says of version"));
    let mut more = lights.clone();
    more.push(*lights.last().unwrap());
    more.last_mut().unwrap().seq.0 += 1;
    assert!(wrong(&more, end).contains("does not count"));
    assert!(wrong(&lights[..1], end).contains("begins elsewhere"));
    // One that does not fit the end of the log is thrown away by whoever opens it for writing.
    std::fs::write(&path, "no index").unwrap();
    let told = fsck(&home, &home.central(), false);
    finds("versions.index", &told, 4, "index", None, (0, 0), false);
    home.ok(&["commit", "p", "-m", "x"]);
    assert_eq!(fsck(&home, &home.central(), false).code, 0);
    assert!(!path.exists());
    assert_eq!(home.history().len(), lights.len() + 1);
}

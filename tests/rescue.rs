//! The way out without ize: a store whose daemon was killed, and of which only the project's directory was copied, comes out byte for byte and
//! attribute for attribute through `meta/rescue.py`. Needs `python3` and `zstd`.
#![cfg(feature = "fuse")]
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::{Home, Said, said, sh};

/// Everything that can be seen below a directory, itself included. Of one inode's names each tells all.
fn shape(dir: &Path) -> BTreeMap<PathBuf, String> {
    let mut out = BTreeMap::new();
    let mut names: BTreeMap<u64, Vec<PathBuf>> = BTreeMap::new();
    let mut all = vec![(dir.to_owned(), std::fs::symlink_metadata(dir).unwrap())];
    // All are looked at before any is read, which would move access times on a disk.
    let mut at = 0;
    while let Some((path, m)) = all.get(at).cloned() {
        at += 1;
        if m.is_dir() {
            all.extend(
                std::fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()).map(|p| (p.clone(), std::fs::symlink_metadata(p).unwrap())),
            );
        }
    }
    for (path, m) in all {
        let what = if m.is_dir() {
            "dir".to_owned()
        } else if m.is_symlink() {
            format!("-> {:?}", std::fs::read_link(&path).unwrap())
        } else if m.is_file() {
            format!("{} bytes {}", m.len(), blake3::hash(&std::fs::read(&path).unwrap()))
        } else {
            format!("rdev {}", m.rdev())
        };
        let times = (m.atime(), m.atime_nsec(), m.mtime(), m.mtime_nsec());
        let rel = path.strip_prefix(dir).unwrap().to_owned();
        if !m.is_dir() && m.nlink() > 1 {
            names.entry(m.ino()).or_default().push(rel.clone());
        }
        out.insert(rel, format!("{:o} {}:{} {times:?} {:?} {what}", m.mode(), m.uid(), m.gid(), xattrs(&path)));
    }
    for mut group in names.into_values() {
        group.sort();
        group.iter().for_each(|path| out.get_mut(path).unwrap().push_str(&format!(" links {group:?}")));
    }
    out
}

fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut list = vec![0u8; 1 << 16];
    let n = rustix::fs::llistxattr(path, &mut list[..]).unwrap();
    let names = list[..n].split(|b| *b == 0).filter(|n| !n.is_empty());
    names
        .map(|name| {
            let mut value = vec![0u8; 1 << 16];
            let n = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value[..]).unwrap();
            (name.to_vec(), value[..n].to_vec())
        })
        .collect()
}

#[track_caller]
fn same(expected: &BTreeMap<PathBuf, String>, found: &BTreeMap<PathBuf, String>) {
    for (path, what) in expected {
        assert_eq!(Some(what), found.get(path), "{path:?}");
    }
    assert_eq!(expected.len(), found.len(), "{:?}", found.keys().filter(|p| !expected.contains_key(*p)).collect::<Vec<_>>());
}

/// The script as it stands in the store.
fn rescue(store: &Path, words: &[&OsStr], path: Option<&Path>) -> Said {
    let python = sh(Path::new("/"), "python3 -c 'import sys; print(sys.executable)'");
    let mut command = Command::new(python.trim());
    command.arg(store.join("meta/rescue.py")).arg(store).args(words).current_dir("/").env("PYTHONDONTWRITEBYTECODE", "1");
    if let Some(path) = path {
        command.env("PATH", path);
    }
    said(command.output().unwrap())
}

/// A store with all kinds of things in it, killed with much of them in the log alone; its copy, and what the mount showed.
fn killed_store(home: &Home) -> (PathBuf, BTreeMap<PathBuf, String>) {
    // What is done last stays in the log alone.
    home.ok(&["config", "set", "group.idle", "1h"]);
    home.mount();
    sh(
        &home.mount,
        r"
        mkdir -p dir/deep/deeper empty flat
        echo small > dir/small; : > dir/nothing; { seq 60000 || true; } | head -c 300000 > dir/text
        head -c 200000 /dev/urandom > chunked; head -c 3000000 /dev/urandom > large; head -c 300000 /dev/urandom > torn-off
        for i in $(seq 400); do echo $i > flat/file-$i; done
        ln dir/small hard; ln dir/small dir/deep/hard; ln -s ../dir/small dir/link; ln -s /nowhere dangling; mkfifo fifo
        truncate -s 5000000 sparse; printf middle | dd of=sparse bs=1 seek=2500000 conv=notrunc status=none
        setfattr -n user.tag -v value dir/small; setfattr -n user.dir -v x dir/deep; chmod 4751 dir/text; chmod 1777 empty
        touch -d '2001-02-03 04:05:06.123456789' dir/nothing; touch -h -d '1969-01-01' dangling
        touch $'odd \n\xff\\name' '$(x)' ' ' -- -rf; mkdir $'d\xc3\x28'; echo in > $'d\xc3\x28/x'
        echo gone > gone; echo first > swap-a; echo second > swap-b
        ",
    );
    if rustix::process::geteuid().is_root() {
        sh(&home.mount, "chown 1234:5678 chunked; chown -h 7:8 dir/link; mknod null c 1 3");
    }
    home.ok(&["commit", "p", "-m", "first"]);
    // Above the version: every kind of operation over what it holds.
    sh(
        &home.mount,
        r"
        echo appended >> dir/small; printf XY | dd of=large bs=1 seek=1500000 conv=notrunc status=none
        head -c 100000 /dev/urandom | dd of=chunked bs=1000 seek=50 conv=notrunc status=none
        truncate -s 100000 torn-off; truncate -s 200000 torn-off; fallocate -p -o 65536 -l 100000 large; fallocate -l 400000 dir/text
        rm gone hard; mv flat/file-7 dir/moved; mv swap-a swap-b; mv dir/deep moved-dir; rmdir empty; mkdir -p new/er
        cp dir/text new/er/copy; ln new/er/copy new/linked; ln -s er new/link; mkfifo new/fifo; chmod 600 dir/text
        setfattr -x user.tag dir/small; setfattr -n user.new -v y new/er/copy; touch -d '2030-01-01 00:00:00.5' new/er
        python3 - <<'END'
import os
with open('open-and-gone', 'w') as f:
    os.unlink('open-and-gone')
    f.write('never to be seen')
END
        ",
    );
    home.ok(&["sync", "p"]);
    let seen = shape(&home.mount);
    home.kill();
    sh(Path::new("/"), &format!("umount -l {}", home.mount.display()));
    let copy = home.path().join("copy");
    sh(home.path(), &format!("cp -a {} {}", home.project().display(), copy.display()));
    (copy, seen)
}

#[test]
fn a_killed_store_comes_out_whole_with_nothing_but_its_directory_and_python() {
    let home = Home::new();
    let (copy, seen) = killed_store(&home);
    let out = home.path().join("out");
    let files = || sh(&copy, "find . -type f | sort | xargs sha256sum");
    let before = files();
    let ran = rescue(&copy, &[out.as_os_str()], None);
    assert_eq!(ran.code, 0, "{ran:?}");
    same(&seen, &shape(&out));
    assert!(ran.err.contains(" operations of the log") && !ran.err.contains(" 0 operations of the log"), "{ran:?}");
    assert_eq!(before, files(), "the store was only read");
    let sparse = std::fs::metadata(out.join("sparse")).unwrap();
    assert!(sparse.blocks() * 512 < 1_000_000, "{} blocks", sparse.blocks());
    assert!(!home.path().join("out.damaged").exists() && !home.path().join("out.zst").exists());
    // Not over anything.
    assert_eq!(rescue(&copy, &[out.as_os_str()], None).code, 2);
    // A version by its number, as ize has it.
    let listed = rescue(&copy, &[OsStr::new("--list")], None);
    assert!(listed.code == 0 && listed.out.contains("version 1 ") && listed.out.contains("first"), "{listed:?}");
    let old = home.path().join("old");
    let versions = home.history();
    let seq = versions.iter().position(|v| v["message"] == "first").map(|at| versions.len() - at).unwrap().to_string();
    let ran = rescue(&copy, &[old.as_os_str(), OsStr::new("--version"), OsStr::new(&seq)], None);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(std::fs::read(old.join("gone")).unwrap(), b"gone\n");
    assert_eq!(std::fs::read(old.join("hard")).unwrap(), b"small\n");
}

#[test]
fn without_zstd_the_compressed_bytes_are_written_beside_and_named_and_complete_it_once_inflated() {
    let home = Home::new();
    let (copy, seen) = killed_store(&home);
    let (out, beside, bare) = (home.path().join("out"), home.path().join("out.zst"), home.path().join("bin"));
    std::fs::create_dir(&bare).unwrap();
    if sh(Path::new("/"), "python3 -c 'import sys; print(sys.version_info >= (3, 14))'").trim() == "True" {
        // It inflates by itself.
        assert_eq!(rescue(&copy, &[out.as_os_str()], Some(&bare)).code, 0);
        return same(&seen, &shape(&out));
    }
    let ran = rescue(&copy, &[out.as_os_str()], Some(&bare));
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("LOST: ") && ran.err.contains("zstd -d "), "{ran:?}");
    assert!(std::fs::read_dir(&beside).unwrap().count() > 0);
    sh(home.path(), "zstd -dq out.zst/*.zst; rm -r out");
    let ran = rescue(&copy, &[out.as_os_str()], Some(&bare));
    assert_eq!(ran.code, 0, "{ran:?}");
    same(&seen, &shape(&out));
}

#[test]
fn a_flipped_bit_in_one_files_chunk_loses_that_file_only_and_is_named() {
    let home = Home::new();
    let (copy, seen) = killed_store(&home);
    // Bytes of the second half of `large`, which is stored as it is.
    let whole = home.path().join("whole");
    assert_eq!(rescue(&copy, &[whole.as_os_str()], None).code, 0);
    let bytes = std::fs::read(whole.join("large")).unwrap();
    let needle = &bytes[2_900_000..2_900_064];
    let mut flipped = 0;
    for entry in std::fs::read_dir(copy.join("blobs")).unwrap() {
        let path = entry.unwrap().path();
        let mut pack = std::fs::read(&path).unwrap();
        let places: Vec<usize> = pack.windows(64).enumerate().filter(|(_, w)| *w == needle).map(|(at, _)| at).collect();
        places.iter().for_each(|at| pack[*at] ^= 1);
        flipped += places.len();
        std::fs::write(&path, pack).unwrap();
    }
    assert!(flipped > 0);
    let out = home.path().join("out");
    let ran = rescue(&copy, &[out.as_os_str()], None);
    assert_eq!(ran.code, 1, "{ran:?}");
    let lost: Vec<&str> = ran.err.lines().filter(|l| l.starts_with("LOST: ")).collect();
    assert!(lost.len() == 1 && lost[0].starts_with("LOST: large: bytes "), "{lost:?}");
    let (mut expected, mut found) = (seen, shape(&out));
    expected.remove(Path::new("large")).unwrap();
    // Its directory is as it was all the same.
    same(&expected, &found);
    assert!(found.remove(Path::new("large")).is_none());
    // What is readable of it is aside.
    let rest = std::fs::read_dir(home.path().join("out.damaged")).unwrap().next().unwrap().unwrap().path();
    let rest = std::fs::read(rest).unwrap();
    assert!(rest.len() == bytes.len() && rest[..1_000_000] == bytes[..1_000_000] && rest != bytes);
}

/// The golden version logs of both formats; the second one has a version thinned out, and two that share a window.
#[test]
fn version_logs_of_both_formats_are_listed() {
    let home = tempfile::tempdir().unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (golden, numbers) in [("versions-1.bin", &["1", "2", "3"][..]), ("versions-2.bin", &["1", "3", "4", "5", "6"])] {
        let store = home.path().join(golden);
        std::fs::create_dir_all(store.join("meta")).unwrap();
        std::fs::write(store.join("meta/project.toml"), "id = \"05050505-0505-0505-0505-050505050505\"\n").unwrap();
        std::fs::copy(source.join("tests/golden").join(golden), store.join("meta/versions")).unwrap();
        std::fs::copy(source.join("src/rescue/rescue.py"), store.join("meta/rescue.py")).unwrap();
        let listed = || -> Vec<String> {
            let ran = rescue(&store, &[OsStr::new("--list")], None);
            assert_eq!(ran.code, 0, "{ran:?}");
            ran.out.lines().map(|l| l.split_whitespace().nth(1).unwrap().to_owned()).collect()
        };
        assert_eq!(listed(), numbers);
        // Its header damaged, the records tell their form.
        let mut bytes = std::fs::read(store.join("meta/versions")).unwrap();
        bytes[9] ^= 1;
        std::fs::write(store.join("meta/versions"), &bytes).unwrap();
        assert_eq!(listed(), numbers);
    }
}

#[test]
fn what_was_purged_is_told_from_what_is_lost() {
    let home = Home::new();
    home.mount();
    let secret = "a line of a secret\n".repeat(300);
    std::fs::write(home.mount.join("a"), &secret).unwrap();
    std::fs::hard_link(home.mount.join("a"), home.mount.join("b")).unwrap();
    std::fs::write(home.mount.join("c"), "other").unwrap();
    home.ok(&["commit", "p"]);
    home.unmount();
    let id = blake3::hash(secret.as_bytes()).to_string();
    home.ok(&["purge", "p", "--blob", &id, "--confirm", "p"]);
    let store = home.project();
    let told = |out: &str, word: &str| {
        let out = home.path().join(out);
        let ran = rescue(&store, &[out.as_os_str()], None);
        assert_eq!(std::fs::read(out.join("c")).unwrap(), b"other");
        assert!(!out.join("a").exists() && !out.join("b").exists(), "{ran:?}");
        let kept = std::fs::read_dir(out.with_extension("damaged")).unwrap().next().unwrap().unwrap().path();
        assert_eq!(std::fs::read(kept).unwrap(), vec![0; secret.len()]);
        let lines: Vec<String> = ran.err.lines().filter(|l| l.starts_with(word)).map(ToOwned::to_owned).collect();
        (ran, lines)
    };
    let (ran, lines) = told("out", "PURGED: ");
    assert_eq!((ran.code, lines.len(), ran.err.contains("LOST")), (0, 2, false), "{ran:?}");
    assert!(lines[0].contains(&id) && lines[0].contains(" was purged on 20"), "{lines:?}");
    assert!(ran.err.contains("2 files lack bytes"), "{ran:?}");
    // A record that is damaged says nothing: then they are missing.
    let path = store.join("meta/purged");
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&path, bytes).unwrap();
    std::fs::write(store.join("meta/purge"), "").unwrap();
    let (ran, lines) = told("again", "LOST: ");
    assert_eq!((ran.code, lines.len()), (1, 2), "{ran:?}");
    assert!(ran.err.contains("a purge was interrupted"), "{ran:?}");
}

//! Back from Pijul: what the real client clones, and the packs, are the whole tree again, but for its times; whatever the tree holds. And the
//! real client on a repository of many changes.

#![cfg(all(feature = "pijul", feature = "fuse"))]
#![allow(clippy::unwrap_used, reason = "a test stops where it cannot go on")]

mod support;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rand::prelude::*;
use rustix::fs::{CWD, FileType, Mode, RenameFlags, XattrFlags};

use support::pijul::{assert_same, picture, pijul};
use support::{Home, lines, sh};

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    StdRng::seed_from_u64(seed).fill(out.as_mut_slice());
    out
}

fn name(bytes: &[u8]) -> &OsStr {
    OsStr::from_bytes(bytes)
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A clone by the real client, beside the project.
fn clone(home: &Home, dir: &str) -> PathBuf {
    let clone = home.path().join(dir);
    pijul(home.path(), &["clone", home.project().to_str().unwrap(), clone.to_str().unwrap()]);
    assert_eq!(pijul(&clone, &["diff", "--short"]), "", "a fresh clone is not clean");
    clone
}

/// The change that the client says a line is of, as far as it is shown: a hash, a blank line, and the lines of that change.
fn credited<'a>(credit: &'a str, line: &str) -> &'a str {
    let before = credit.split(&format!("> {line}\n")).next().unwrap();
    before.lines().rev().find(|l| !l.is_empty() && !l.starts_with('>')).unwrap().trim()
}

/// A project made of a repository, mounted.
fn back(args: &[&OsStr]) -> Home {
    let home = Home::new();
    let mut all = vec![OsStr::new("init"), OsStr::new("p"), OsStr::new("--from-pijul")];
    all.extend(args);
    home.ok(&all);
    home.mount();
    home
}

/// Everything that is odd, as text or as bytes, by its name or by what it is.
fn odd(m: &Path) {
    let write = |path: &str, bytes: &[u8]| fs::write(m.join(path), bytes).unwrap();
    write("nul", b"a\0b");
    write("not utf-8", b"\xff\xfe\n");
    write("open end", b"no newline at the end");
    write("crlf", b"a\r\nb\r\n");
    write("mixed", b"a\r\nb\nc\rd\n\r");
    write("empty", b"");
    write("newlines", b"\n\n\n");
    write("long line", &vec![b'x'; 1 << 20]);
    write("longer line", &vec![b'x'; (1 << 20) + 1]);
    write("text at the limit", &"line\n".repeat(1 << 18).as_bytes()[..1 << 20]);
    write("manifest", b"ize-manifest 1 0\n");
    write("sidecar", b"ize-meta 1\nmode 0600\n");
    write("markers", b">>>>>>> 1\na\n======= 1\nb\n<<<<<<< 1\n");
    write("large", &noise(1, 3_000_000));
    fs::File::create(m.join("holes")).unwrap().set_len(5_000_000).unwrap();
    fs::File::options().write(true).open(m.join("holes")).unwrap().write_all_at(&noise(2, 100_000), 1_000_000).unwrap();
    fs::File::create(m.join("only a hole")).unwrap().set_len(100).unwrap();
    fs::create_dir_all(m.join("empty dir/below")).unwrap();
    fs::create_dir_all(m.join("d/".repeat(200))).unwrap();
    fs::write(m.join("d/".repeat(200)).join("bottom"), b"deep").unwrap();
    for (i, odd) in [
        &b"\xff\xfe"[..],
        b"\xff\xff",
        b"new\nline",
        b" blanks ",
        b"back\\slash",
        b"quote\"'`$*?",
        b"-rf",
        b"tab\tbell\x07",
        b"100%",
        b"%2Epijul",
        b"%41",
        b"%~abc",
        b"...",
        b".ignore",
        b".gitignore",
        b".pijulignore",
        b"x.d",
        b"x.ize",
        "\u{202e}rtl".as_bytes(),
        "e\u{301}".as_bytes(),
        "\u{e9}".as_bytes(),
        "日本".as_bytes(),
        &[b'n'; 255],
        &[0xff; 255],
        b"Case",
        b"case",
    ]
    .into_iter()
    .enumerate()
    {
        fs::write(m.join(name(odd)), format!("{i}\n")).unwrap();
    }
    fs::create_dir(m.join(".pijul")).unwrap();
    write(".pijul/config", b"[hooks]\nrecord = [\"false\"]\n");
    fs::create_dir(m.join(".ize-meta")).unwrap();
    write(".ize-meta/x.ize", b"ize-meta 1\nkind fifo\n");
    fs::create_dir_all(m.join("sub/.pijul/pristine")).unwrap();
    write("sub/.ize-meta", b"a file");
    fs::create_dir(m.join(name(&[0xfe; 255]))).unwrap();
    fs::write(m.join(name(&[0xfe; 255])).join(name(&[0xfd; 255])), b"both long").unwrap();
    for len in 250..255 {
        fs::write(m.join(name(&vec![b'p'; len])), b"near the limit").unwrap();
        mode(&m.join(name(&vec![b'p'; len])), 0o600);
    }
    // What Pijul has no place for.
    symlink("no/where", m.join("dangling")).unwrap();
    symlink(name(b"a\nb\xff"), m.join("odd target")).unwrap();
    for (path, what, device) in [("fifo", FileType::Fifo, 0), ("socket", FileType::Socket, 0), ("null", FileType::CharacterDevice, 0x103)] {
        rustix::fs::mknodat(CWD, m.join(path), what, Mode::from_raw_mode(0o640), device).unwrap();
    }
    rustix::fs::mknodat(CWD, m.join("disk"), FileType::BlockDevice, Mode::from_raw_mode(0o660), 0x801).unwrap();
    for (path, bits) in [("setuid", 0o4755), ("setgid", 0o2711), ("secret", 0o600), ("nobody may", 0), ("run", 0o755), ("x only", 0o100)] {
        write(path, b"#!/bin/sh\n");
        std::os::unix::fs::chown(m.join(path), Some(if path == "secret" { 12345 } else { 0 }), Some(0)).unwrap();
        mode(&m.join(path), bits);
    }
    std::os::unix::fs::lchown(m.join("dangling"), Some(4711), Some(4712)).unwrap();
    fs::create_dir(m.join("sticky")).unwrap();
    mode(&m.join("sticky"), 0o1777);
    mode(m, 0o750);
    for (path, attribute, value) in [
        ("run", "user.a b%20\n", &b"\0\xff"[..]),
        ("sticky", "user.empty", b""),
        ("large", "user.tag", b"1"),
        ("dangling", "trusted.t", b"l"),
    ] {
        rustix::fs::lsetxattr(m.join(path), attribute, value, XattrFlags::empty()).unwrap();
    }
    for (old, new) in [("large", "sub/the same"), ("run", "empty dir/run too"), ("secret", "also secret"), ("dangling", "sub/dangling")] {
        fs::hard_link(m.join(old), m.join(new)).unwrap();
    }
}

#[test]
fn everything_but_times_comes_back_from_a_clone_and_the_packs() {
    let home = Home::new();
    home.mount();
    let m = &home.mount;
    odd(m);
    home.ok(&["commit", "p"]);
    let check = |dir: &str| {
        let said = lines(&home.ok(&["fsck", "p", "--deep", "--json"]));
        assert!(said[0]["pijul"]["compared"].as_u64().unwrap() > 270, "{said:?}");
        let want = picture(m);
        let clone = clone(&home, dir);
        // The packs are found through what it was cloned from.
        let other = back(&[clone.as_os_str()]);
        assert_same(&want, &picture(&other.mount));
        other.ok(&["fsck", "p", "--deep"]);
        // Straight from the project's own repository, which has no working copy.
        let other = back(&[home.project().as_os_str()]);
        assert_same(&want, &picture(&other.mount));
        // And what came back is a repository, too, that is cloned.
        other.ok(&["commit", "p"]);
        let again = self::clone(&other, "again");
        assert_same(&want, &picture(&back(&[again.as_os_str()]).mount));
    };
    check("first");
    // Shapes change: file and directory, case, deleted and made again, text and bytes, crossing names.
    sh(m, "rm -r 'empty dir'; echo file > 'empty dir'; rm crlf; mkdir crlf; echo in > crlf/in; mv Case tmp; mv case Case; mv tmp case");
    sh(
        m,
        "rm run; echo again > run; mv sub/.pijul sub/p; rm nul; printf text > nul; printf 'b\\0' > 'open end'; mv d/d e; rm -r d; mv e d",
    );
    sh(
        m,
        "mv sticky sticky2; ln -s sticky2 sticky; rm fifo; echo was a fifo > fifo; rm dangling; mkfifo dangling; chmod 644 secret 'x only'",
    );
    sh(
        m,
        "printf x >> 'text at the limit'; truncate -s 1048576 'longer line'; printf y >> 'long line'; mv -T .pijul .pijul2; mkdir .pijul",
    );
    // Names of one file come and go, also the first one.
    sh(m, "ln large sub/third; rm 'also secret'; ln secret 'a secret'; ln secret zz; rm secret; ln 'a secret' fourth; mv 'a secret' zzz");
    let swap = |a: &str, b: &str| rustix::fs::renameat_with(CWD, m.join(a), CWD, m.join(b), RenameFlags::EXCHANGE).unwrap();
    swap("crlf", "fifo");
    swap(".ignore", "large");
    fs::rename(m.join(name(&[0xff; 255])), m.join("short now")).unwrap();
    fs::rename(m.join(name(&[0xfe; 255])), m.join(name(&[0xfc; 255]))).unwrap();
    home.ok(&["commit", "p"]);
    home.ok(&["fsck", "p", "--deep"]);
    // And all of that back at once, with an edit of what is only chunks.
    sh(m, "rm 'empty dir'; mkdir -p 'empty dir/below'; truncate -s 1048576 'text at the limit' 'long line'; rm sticky; mv sticky2 sticky");
    fs::File::options().write(true).open(m.join(".ignore")).unwrap().write_all_at(b"edited", 1_500_000).unwrap();
    home.ok(&["commit", "p"]);
    check("last");
    // A repository that is made anew is cloned as the old one was, byte for byte, and gives the same back.
    home.ok(&["pijul", "rebuild", "p"]);
    check("made anew");
    let cloned = |dir: &str| {
        let mut all = picture(&home.path().join(dir));
        all.retain(|path, _| !path.starts_with(".pijul"));
        all
    };
    assert_same(&cloned("last"), &cloned("made anew"));
}

#[test]
fn a_path_gets_the_time_of_the_change_that_touched_it_last() {
    let home = Home::new();
    home.mount();
    let m = &home.mount;
    sh(m, "mkdir dir; seq 99 > a; seq 99 > b; ln -s a link");
    home.ok(&["commit", "p"]);
    std::thread::sleep(Duration::from_millis(30));
    sh(m, "echo more >> b; chmod 600 a; rm link; ln -s b link");
    home.ok(&["commit", "p"]);
    let other = back(&[clone(&home, "clone").as_os_str()]);
    let at = |path: &str| {
        let m = fs::symlink_metadata(other.mount.join(path)).unwrap();
        (m.mtime(), m.mtime_nsec())
    };
    let times: Vec<String> = home.history().iter().map(|v| v["time"].as_str().unwrap().to_owned()).collect();
    let time = |text: &str| {
        let stamp: jiff::Timestamp = text.parse().unwrap();
        (stamp.as_second(), i64::from(stamp.subsec_nanosecond()))
    };
    let (second, first) = (time(&times[0]), time(&times[1]));
    assert!(first < second);
    assert_eq!((at("dir"), at("a"), at("b"), at("link")), (first, first, second, second));
}

/// A file of more pieces than a page holds: its manifest names pages, a change in it names one other page, and all of it comes back.
#[test]
fn the_manifest_of_a_large_file_names_pages_of_pieces_and_the_file_comes_back() {
    let home = Home::new();
    home.mount();
    let m = &home.mount;
    // At most 1,024 pieces of 64 KiB, on average, are in a page.
    let mut bytes = noise(7, 80 << 20);
    fs::write(m.join("large"), &bytes).unwrap();
    home.ok(&["commit", "p"]);
    let manifest = |clone: &Path| fs::read_to_string(clone.join("large")).unwrap();
    let first = manifest(&clone(&home, "first"));
    let pages: Vec<&str> = first.lines().skip(1).collect();
    assert!(first.starts_with("ize-manifest 2 83886080\n") && pages.len() > 1 && first.len() < 2000, "{first}");
    assert!(pages.iter().all(|line| line.starts_with("page ")), "{first}");
    // In the middle, and a hole behind it.
    bytes[40 << 20..][..4096].copy_from_slice(&noise(8, 4096));
    let file = fs::File::options().write(true).open(m.join("large")).unwrap();
    file.write_all_at(&bytes[40 << 20..][..4096], 40 << 20).unwrap();
    file.set_len(100 << 20).unwrap();
    bytes.resize(100 << 20, 0);
    drop(file);
    home.ok(&["commit", "p"]);
    home.ok(&["fsck", "p", "--deep"]);
    let clone = clone(&home, "second");
    let second = manifest(&clone);
    let kept = pages.iter().filter(|page| second.contains(*page)).count();
    assert!(kept + 2 >= pages.len() && second.starts_with("ize-manifest 2 104857600\n"), "{first}{second}");
    let other = back(&[clone.as_os_str()]);
    assert!(fs::read(other.mount.join("large")).unwrap() == bytes);
    assert!(fs::metadata(other.mount.join("large")).unwrap().blocks() * 512 < 81 << 20, "the hole is none any more");
    // Packs that lack a page, as those of a project that never had the file: it is named.
    let stranger = Home::new();
    stranger.mount();
    fs::write(stranger.mount.join("f"), noise(1, 700_000)).unwrap();
    stranger.ok(&["commit", "p"]);
    let said = Home::new().ize(&["init", "p", "--from-pijul", clone.to_str().unwrap(), "--blobs", stranger.project().to_str().unwrap()]);
    assert!(said.code == 3 && said.err.contains("large"), "{said:?}");
}

#[test]
fn what_lacks_chunks_is_named_and_refused_or_left_out_and_what_is_damaged_is_named() {
    let home = Home::new();
    home.mount();
    let m = &home.mount;
    for (file, seed) in [("one.bin", 1), ("two.bin", 2)] {
        fs::write(m.join(file), noise(seed, 700_000)).unwrap();
    }
    sh(m, "echo text > text; ln two.bin three.bin");
    home.ok(&["commit", "p"]);
    let clone = clone(&home, "clone");
    let from = |args: &[&str]| {
        let other = Home::new();
        let mut all = vec!["init", "p", "--from-pijul", clone.to_str().unwrap()];
        all.extend(args);
        let said = other.ize(&all);
        (other, said)
    };
    // No packs at all, then those of a project that has other files.
    let (nothing, other) = (home.path().join("nothing"), Home::new());
    fs::create_dir(&nothing).unwrap();
    let (at, said) = from(&["--blobs", nothing.to_str().unwrap()]);
    assert!(said.code == 3 && said.err.contains("no packs") && !at.central().join("projects").exists(), "{said:?}");
    other.mount();
    fs::write(other.mount.join("one"), noise(1, 700_000)).unwrap();
    other.ok(&["commit", "p"]);
    let packs = other.project();
    let args = ["--blobs", packs.to_str().unwrap()];
    let (at, said) = from(&args);
    assert!(said.code == 3 && said.err.contains("2 files need") && said.err.contains("--allow-missing"), "{said:?}");
    assert!(said.err.contains("two.bin") && said.err.contains("three.bin") && !said.err.contains("one.bin"), "{said:?}");
    assert!(!at.central().join("projects").exists(), "a project was made");
    let (at, said) = from(&[&args[..], &["--allow-missing", "--json"]].concat());
    assert_eq!(said.code, 0, "{said:?}");
    let told = lines(&said.out);
    let problems: Vec<_> = told.iter().filter(|l| l["type"] == "problem").map(|l| l["path"].as_str().unwrap()).collect();
    assert_eq!(problems, ["three.bin", "two.bin"]);
    at.mount();
    let mut want = picture(m);
    want.retain(|path, _| ![Path::new("two.bin"), Path::new("three.bin")].contains(&path.as_path()));
    assert_same(&want, &picture(&at.mount));
    // A copy of the right packs in which a byte is flipped: the file is named, the rest is there.
    let copy = home.path().join("copy");
    fs::create_dir(&copy).unwrap();
    let needle = &noise(2, 700_000)[300_000..300_032];
    let mut flipped = 0;
    for pack in fs::read_dir(home.project().join("blobs")).unwrap() {
        let pack = pack.unwrap();
        let mut bytes = fs::read(pack.path()).unwrap();
        // More than once: as it was written, and as a chunk.
        let places: Vec<usize> = bytes.windows(needle.len()).enumerate().filter(|(_, w)| *w == needle).map(|(at, _)| at).collect();
        for at in places {
            bytes[at] ^= 1;
            flipped += 1;
        }
        fs::write(copy.join(pack.file_name()), bytes).unwrap();
    }
    assert!(flipped > 0);
    let (at, said) = from(&["--blobs", copy.to_str().unwrap()]);
    assert!(said.code == 6 && said.err.contains("three.bin") && said.err.contains("two.bin"), "{said:?}");
    at.mount();
    assert_same(&want, &picture(&at.mount));
    // No repository, and one that is nobody's.
    let said = Home::new().ize(&["init", "p", "--from-pijul", nothing.to_str().unwrap()]);
    assert!(said.code == 3 && said.err.contains("no Pijul repository"), "{said:?}");
}

#[test]
fn an_import_from_a_clone_that_is_killed_goes_on() {
    let rounds: u64 = std::env::var("IZE_TEST_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(6);
    let home = Home::new();
    home.mount();
    let m = &home.mount;
    sh(
        m,
        "for d in $(seq 20); do mkdir d$d; for f in $(seq 25); do seq $d $((d * f + 50)) > d$d/f$f; done; ln d$d/f1 l$d; done; chmod 600 d*/f2",
    );
    for i in 0..6 {
        fs::write(m.join(format!("large{i}")), noise(i, 1_500_000)).unwrap();
    }
    home.ok(&["commit", "p"]);
    let (want, clone) = (picture(m), clone(&home, "clone"));
    let mut rng = StdRng::seed_from_u64(rounds);
    let mut killed = 0;
    let mut other = Home::new();
    for round in 0..rounds {
        let mut child = other
            .command(&["init", "p", "--from-pijul", clone.to_str().unwrap()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let projects = other.central().join("projects");
        if round == 0 {
            // Once certainly in the middle.
            support::eventually("it has begun", || projects.exists() || child.try_wait().unwrap().is_some());
        }
        std::thread::sleep(Duration::from_micros(rng.random_range(0..600_000)));
        child.kill().unwrap();
        child.wait().unwrap();
        let begun = fs::read_dir(&projects).into_iter().flatten().any(|p| p.unwrap().path().join("meta/import.toml").exists());
        if begun {
            killed += 1;
            for args in [&["mount", "p", other.mount.to_str().unwrap()][..], &["init", "p", "--from", clone.to_str().unwrap()]] {
                let said = other.ize(args);
                assert!(said.code == 9 && said.err.contains("--from-pijul"), "{args:?}: {said:?}");
            }
        } else if projects.exists() && fs::read_dir(&projects).unwrap().any(|p| p.unwrap().path().join("meta").exists()) {
            other.mount();
            assert_same(&want, &picture(&other.mount));
            drop(std::mem::replace(&mut other, Home::new()));
        }
    }
    assert!(killed > 0, "no import was killed in the middle");
    other.ok(&["init", "p", "--from-pijul", clone.to_str().unwrap()]);
    other.mount();
    assert_same(&want, &picture(&other.mount));
    other.ok(&["fsck", "p", "--deep"]);
}

/// A repository that ize has nothing to do with is a tree like any other.
#[test]
fn a_head_is_taken_and_not_what_lies_in_the_working_copy() {
    let home = Home::new();
    home.mount();
    sh(&home.mount, "echo recorded > a; mkdir d; echo b > d/b");
    home.ok(&["commit", "p"]);
    let want = picture(&home.mount);
    let clone = clone(&home, "clone");
    sh(&clone, "echo edited > a; rm -r d; echo new > new");
    assert_same(&want, &picture(&back(&[clone.as_os_str()]).mount));
    // Nothing of the repository was touched.
    assert_eq!(fs::metadata(clone.join(".pijul/pristine/db")).unwrap().len(), 1 << 20);
}

/// As `git checkout` renames, and `mv` from one file system to another.
#[test]
fn a_file_that_is_made_anew_under_another_name_keeps_the_credit_of_its_lines() {
    let home = Home::new();
    home.mount();
    let m = &home.mount;
    sh(m, "mkdir old; seq 20 > old/a; seq 100 120 > old/b");
    home.ok(&["commit", "p"]);
    sh(m, "echo second >> old/a");
    home.ok(&["commit", "p"]);
    sh(m, "mkdir new; for f in a b; do cat old/$f > new/$f; rm old/$f; done; rmdir old");
    home.ok(&["commit", "p"]);
    let hashes: Vec<String> = home.history().iter().map(|c| c["hash"].as_str().unwrap().to_owned()).collect();
    let log = pijul(&home.project(), &["log"]);
    assert!(log.contains("new/a <- old/a") && log.contains("new/b <- old/b"), "{log}");
    let clone = clone(&home, "clone");
    let credit = pijul(&clone, &["credit", "new/a"]);
    for (line, n) in [("1", 2), ("20", 2), ("second", 1)] {
        assert!(hashes[n].starts_with(credited(&credit, line)), "{line}: {credit}");
    }
    assert!(!clone.join("old").exists());
    home.ok(&["fsck", "p", "--deep"]);
}

/// The client's everyday commands on a long history, made through the mount. `IZE_TEST_CHANGES=2000` is the figure of the issue.
#[test]
fn the_real_client_reads_a_repository_of_many_changes() {
    let count: u64 = std::env::var("IZE_TEST_CHANGES").ok().and_then(|n| n.parse().ok()).unwrap_or(100);
    let home = Home::new();
    home.mount();
    let m = &home.mount;
    sh(m, "mkdir src; seq 200 > src/0.txt");
    home.ok(&["commit", "p"]);
    let mut rng = StdRng::seed_from_u64(count);
    for i in 1..count {
        let path = |i: u64| m.join(format!("src/{}.txt", i % 37));
        match i % 10 {
            0 => fs::write(m.join(format!("{}.bin", i % 7)), noise(i, 200_000)).unwrap(),
            1 => {
                // An editor's save.
                fs::write(m.join("src/.save"), fs::read(path(i)).unwrap_or_default()).unwrap();
                let mut text = fs::read_to_string(m.join("src/.save")).unwrap();
                text.push_str(&format!("saved {i}\n"));
                fs::write(m.join("src/.save"), text).unwrap();
                fs::rename(m.join("src/.save"), path(i)).unwrap();
            }
            2 if path(i).exists() => fs::rename(path(i), m.join(format!("moved{}", i % 50))).unwrap(),
            3 => fs::create_dir_all(m.join(format!("dirs/{}/{}", i % 5, i % 11))).unwrap(),
            4 if path(i).exists() => mode(&path(i), if i % 3 == 0 { 0o600 } else { 0o755 }),
            5 if path(i).exists() => fs::remove_file(path(i)).unwrap(),
            _ => {
                let mut text: Vec<String> = fs::read_to_string(path(i)).unwrap_or_default().lines().map(str::to_owned).collect();
                let at = rng.random_range(0..=text.len());
                text.insert(at, format!("line of change {i}"));
                fs::write(path(i), text.join("\n") + "\n").unwrap();
            }
        }
        sh(m, &format!("echo change {i} >> log.txt"));
        home.ok(&["commit", "p", "-m", &format!("number {i}")]);
    }
    let project = home.project();
    let history: Vec<String> = home.history().iter().map(|c| c["hash"].as_str().unwrap().to_owned()).collect();
    assert_eq!(history.len() as u64, count);
    let hashes = pijul(&project, &["log", "--hash-only"]);
    assert_eq!(hashes.split_whitespace().collect::<Vec<_>>(), history);
    let log = pijul(&project, &["log", "--output-format", "json"]);
    let log: Vec<serde_json::Value> = serde_json::from_str(&log).unwrap();
    for (n, entry) in log.iter().enumerate().take(log.len() - 1) {
        let message = entry["message"].as_str().unwrap();
        assert!(
            message.lines().next().unwrap().ends_with(&format!(" number {}", count - 1 - n as u64)) && message.contains("log.txt"),
            "{message}"
        );
    }
    let list = pijul(&project, &["list"]);
    assert!(list.lines().any(|l| l.trim() == "log.txt"), "{list}");
    for n in [0, history.len() / 2, history.len() - 2] {
        let change = pijul(&project, &["change", &history[n]]);
        assert!(change.contains(&format!("change {}", count - 1 - n as u64)), "{change}");
    }
    let clone = clone(&home, "clone");
    // A file that many changes touched was founded anew: to the client older lines are from that change, and `ize blame` looks behind it.
    let (credit, blame) = (pijul(&clone, &["credit", "log.txt"]), lines(&home.ok(&["blame", "p", "log.txt", "--json"])));
    for n in [0, history.len() / 2, history.len() - 2] {
        let line = format!("change {}", count - 1 - n as u64);
        let hash = credited(&credit, &line);
        let founded = history.iter().position(|h| h.starts_with(hash)).expect("a change of the log");
        assert!(founded <= n && (n > 0 || founded == 0), "{line} is credited to {hash}, and is of {}", history[n]);
        let blamed = blame.iter().find(|l| l["text"].as_str().is_some_and(|t| t.trim_end() == line)).expect("the line is blamed");
        assert_eq!(blamed["hash"].as_str(), Some(history[n].as_str()), "{line}");
    }
    let side = pijul(&project, &["fork", "side"]);
    let channels = pijul(&project, &["channel"]);
    assert!(channels.lines().any(|l| l == "* main") && channels.contains("side"), "{side}{channels}");
    // What the client did in the project is not in ize's way.
    sh(m, "echo behind the fork > behind");
    home.ok(&["commit", "p"]);
    assert_eq!(pijul(&project, &["log", "--hash-only", "--channel", "side"]).split_whitespace().count() as u64, count);
    assert_eq!(pijul(&project, &["log", "--hash-only"]).split_whitespace().count() as u64, count + 1);
    pijul(&clone, &["pull", "--all", project.to_str().unwrap()]);
    assert_eq!(pijul(&clone, &["diff", "--short"]), "");
    let said = lines(&home.ok(&["fsck", "p", "--deep", "--json"]));
    assert_eq!(said[0]["pijul"]["changes"], count + 1, "{said:?}");
    assert_same(&picture(m), &picture(&back(&[clone.as_os_str()]).mount));
}

//! Import and export: whatever a directory holds comes into a project, into its mount, and out again, attribute for attribute; an import that
//! is killed goes on.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use ize::cli::when::When;
use ize::engine::states::Store;
use ize::ids::BlobId;
use ize::project::Project;
use ize::tree::Body;
use ize::versions::chunker;
use ize::versions::node::{Content, Piece};
use rand::{Rng, SeedableRng};
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};
use serde_json::Value;
use support::{Home, Said, eventually, lines, said, sh};

/// Everything about one path.
#[derive(Debug, PartialEq, Eq)]
struct Look {
    mode: u32,
    owner: (u32, u32),
    size: u64,
    rdev: u64,
    nlink: u64,
    times: [(i64, i64); 2],
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    content: String,
    /// The first path that is the same inode.
    same_as: PathBuf,
}

/// Everything in a directory, itself included.
fn look(root: &Path) -> BTreeMap<PathBuf, Look> {
    let mut out = BTreeMap::new();
    let mut work = vec![root.to_owned()];
    let mut all = Vec::new();
    while let Some(path) = work.pop() {
        let m = fs::symlink_metadata(&path).unwrap();
        if m.is_dir() {
            work.extend(fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
        }
        all.push((path, m));
    }
    all.sort_by(|a, b| a.0.cmp(&b.0));
    let mut firsts: BTreeMap<u64, PathBuf> = BTreeMap::new();
    for (path, m) in all {
        let inside = path.strip_prefix(root).unwrap().to_owned();
        let content = if m.is_symlink() {
            format!("-> {}", fs::read_link(&path).unwrap().as_os_str().as_bytes().escape_ascii())
        } else if m.is_file() {
            blake3::hash(&fs::read(&path).unwrap()).to_string()
        } else {
            String::new()
        };
        let first = firsts.entry(m.ino()).or_insert_with(|| inside.clone()).clone();
        let look = Look {
            mode: m.mode(),
            owner: (m.uid(), m.gid()),
            // A directory's is the file system's own affair; so is its number of links, often.
            size: if m.is_dir() { 0 } else { m.len() },
            rdev: m.rdev(),
            nlink: if m.is_dir() { 0 } else { m.nlink() },
            times: [(m.atime(), m.atime_nsec()), (m.mtime(), m.mtime_nsec())],
            xattrs: xattrs(&path),
            content,
            same_as: first,
        };
        out.insert(inside, look);
    }
    // Looking moves access times.
    for (inside, look) in &out {
        let path = root.join(inside);
        let now = fs::symlink_metadata(&path).unwrap();
        if (now.atime(), now.atime_nsec()) != look.times[0] {
            times(&path, look.times[0], look.times[1]);
        }
    }
    out
}

/// The same but for the access times of symbolic links, which nobody can read without moving them.
fn but_links(mut all: BTreeMap<PathBuf, Look>) -> BTreeMap<PathBuf, Look> {
    all.values_mut().filter(|look| look.content.starts_with("-> ")).for_each(|look| look.times[0] = (0, 0));
    all
}

fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; 65536];
    let n = rustix::fs::llistxattr(path, names.as_mut_slice()).unwrap();
    let names = names[..n].split(|b| *b == 0).filter(|n| !n.is_empty() && *n != b"user.ize.project");
    names
        .map(|name| {
            let mut value = vec![0; 65536];
            let n = rustix::fs::lgetxattr(path, name, value.as_mut_slice()).unwrap();
            (name.to_vec(), value[..n].to_vec())
        })
        .collect()
}

#[track_caller]
fn assert_same(a: &BTreeMap<PathBuf, Look>, b: &BTreeMap<PathBuf, Look>) {
    for (path, look) in a {
        assert_eq!(Some(look), b.get(path), "{path:?}");
    }
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
}

fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    rand::rngs::StdRng::seed_from_u64(seed).fill(out.as_mut_slice());
    out
}

fn times(path: &Path, atime: (i64, i64), mtime: (i64, i64)) {
    let t = |(tv_sec, tv_nsec): (i64, i64)| Timespec { tv_sec, tv_nsec };
    let times = Timestamps { last_access: t(atime), last_modification: t(mtime) };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn set(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
}

/// A tree with everything odd. Tests run as root, like all that mount.
fn odd(root: &Path) {
    fs::create_dir_all(root.join("deep/er")).unwrap();
    fs::create_dir(root.join("empty")).unwrap();
    fs::write(root.join("nothing"), b"").unwrap();
    fs::write(root.join("one"), b"1").unwrap();
    for len in [4096, 65_535, 65_536, 65_537, 300_000, 3_000_000] {
        fs::write(root.join(format!("bytes-{len}")), bytes(len as u64, len)).unwrap();
    }
    fs::write(root.join("zeros"), vec![0; 400_000]).unwrap();
    for name in [&b"\xff\xfe not utf-8"[..], b"new\nline", b" ", b"-rf", b"\\", "\u{202e}txt".as_bytes(), &[b'x'; 255]] {
        fs::write(root.join(OsStr::from_bytes(name)), name).unwrap();
    }
    fs::hard_link(root.join("bytes-3000000"), root.join("deep/er/same")).unwrap();
    fs::hard_link(root.join("one"), root.join("deep/one too")).unwrap();
    fs::hard_link(root.join("one"), root.join("empty is not").with_extension("one")).unwrap();
    symlink("nowhere/at all", root.join("dangling")).unwrap();
    symlink(OsStr::from_bytes(b"/\xff"), root.join("deep/absolute")).unwrap();
    fs::hard_link(root.join("dangling"), root.join("dangling again")).unwrap();
    let sparse = File::create(root.join("sparse")).unwrap();
    sparse.write_all_at(&bytes(1, 5000), 1 << 20).unwrap();
    sparse.write_all_at(&bytes(2, 500_000), 8 << 20).unwrap();
    sparse.set_len(20 << 20).unwrap();
    File::create(root.join("all hole")).unwrap().set_len(1 << 30).unwrap();
    File::create(root.join("small hole")).unwrap().set_len(50_000).unwrap();
    let node = |name: &str, kind, dev| rustix::fs::mknodat(CWD, root.join(name), kind, Mode::from_raw_mode(0o640), dev).unwrap();
    node("fifo", FileType::Fifo, 0);
    node("socket", FileType::Socket, 0);
    node("char", FileType::CharacterDevice, rustix::fs::makedev(1, 3));
    node("block", FileType::BlockDevice, rustix::fs::makedev(259, 70_000));
    fs::set_permissions(root.join("char"), fs::Permissions::from_mode(0o4755)).unwrap();
    for (name, mode) in [("setuid", 0o4755), ("setgid", 0o2755), ("closed", 0), ("nobody's", 0o6640)] {
        fs::write(root.join(name), name).unwrap();
        if name == "nobody's" {
            std::os::unix::fs::chown(root.join(name), Some(65534), Some(12345)).unwrap();
        }
        fs::set_permissions(root.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    set(&root.join("one"), "user.tag", b"\0value\xff");
    set(&root.join("one"), "user.empty", b"");
    set(&root.join("bytes-300000"), "trusted.t", &bytes(3, 2000));
    set(&root.join("setuid"), "security.capability", &[1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    set(&root.join("deep"), "user.dir", b"d");
    set(&root.join("dangling"), "trusted.link", b"l");
    fs::create_dir(root.join("read only")).unwrap();
    fs::write(root.join("read only/in"), b"in").unwrap();
    fs::create_dir(root.join("read only/below")).unwrap();
    fs::set_permissions(root.join("read only"), fs::Permissions::from_mode(0o555)).unwrap();
    fs::create_dir(root.join("sticky")).unwrap();
    fs::set_permissions(root.join("sticky"), fs::Permissions::from_mode(0o3777)).unwrap();
    times(&root.join("one"), (-86_400 * 3000, 123_456_789), (-1, 999_999_999));
    times(&root.join("dangling"), (1, 1), (2_000_000_000, 2));
    times(&root.join("fifo"), (3, 3), (4, 4));
    times(&root.join("read only/below"), (5, 5), (6, 6));
    times(&root.join("read only"), (7, 7), (-8, 8));
    times(&root.join("empty"), (9, 9), (10, 10));
    fs::set_permissions(root, fs::Permissions::from_mode(0o711)).unwrap();
    set(root, "user.root", b"r");
    times(root, (11, 11), (12, 12));
}

fn import(home: &Home, source: &Path) -> Said {
    home.ize(&[OsStr::new("init"), OsStr::new("p"), OsStr::new("--from"), source.as_os_str(), OsStr::new("--json")])
}

fn export(home: &Home, to: &str) -> PathBuf {
    let dir = home.path().join(to);
    home.ok(&["export", "p", dir.to_str().unwrap()]);
    dir
}

fn summary(out: &str) -> Value {
    lines(out).pop().expect("a summary")
}

fn problems(out: &str) -> Vec<(String, String)> {
    let text = |v: &Value| v.as_str().unwrap().to_owned();
    lines(out).iter().filter(|o| o["type"] == "problem").map(|o| (text(&o["trouble"]), text(&o["path"]))).collect()
}

/// A tree of many small files and a few large ones.
fn many(root: &Path, files: u64) {
    for i in 0..files {
        let dir = root.join(format!("d{}/e{}", i % 7, i % 3));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(format!("f{i}")), bytes(i, (i * 37 % 5000) as usize)).unwrap();
        if i % 50 == 0 {
            fs::hard_link(dir.join(format!("f{i}")), root.join(format!("link{i}"))).unwrap();
            symlink(format!("f{i}"), dir.join(format!("l{i}"))).unwrap();
            fs::write(dir.join(format!("large{i}")), bytes(i, 2_000_000)).unwrap();
            set(&dir.join(format!("f{i}")), "user.i", &i.to_le_bytes());
        }
    }
}

/// What was imported, exported and looked at through a mount is what was there.
#[test]
fn everything_odd_comes_back_attribute_for_attribute() {
    let home = Home::new();
    let source = home.path().join("source");
    odd(&source);
    let before = look(&source);
    let said = import(&home, &source);
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(summary(&said.out)["problems"]["missing"], 0, "{said:?}");
    // It was only read.
    let after = but_links(look(&source));
    let out = export(&home, "out");
    // Before it is read: that moves access times.
    let blocks = |dir: &Path, name: &str| fs::metadata(dir.join(name)).unwrap().blocks();
    for name in ["sparse", "all hole", "small hole"] {
        assert!(blocks(&out, name) <= blocks(&source, name) + 16, "{name}: {}", blocks(&out, name));
    }
    assert!(blocks(&out, "zeros") > 0, "zeros that were written are not holes");
    assert_same(&before, &look(&out));
    assert_same(&after, &but_links(before));
    let before = look(&out);
    // One state has a name, and the log is sound.
    let newest = &home.history()[0];
    assert_eq!(newest["message"], format!("import {}", source.display()));
    home.ok(&["wal", "verify", "p"]);
    assert!(!home.project().join("meta/import.toml").exists());

    let mount = home.mount.to_str().unwrap().to_owned();
    home.ok(&["mount", "p", &mount, "--create", "-o", "dev,suid"]);
    assert_same(&before, &look(&home.mount));
    home.unmount();
}

/// What no version holds yet is exported too, from a live mount; earlier states are what was there then.
#[test]
fn the_newest_state_and_older_ones_are_exported_beside_a_mount() {
    let home = Home::new();
    let source = home.path().join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("a"), b"first").unwrap();
    fs::write(source.join("gone"), bytes(1, 200_000)).unwrap();
    fs::hard_link(source.join("a"), source.join("b")).unwrap();
    assert_eq!(import(&home, &source).code, 0);
    let imported = home.history()[0]["id"].as_str().unwrap().to_owned();
    let before = look(&source);
    home.mount();
    fs::write(home.mount.join("a"), b"second, longer").unwrap();
    fs::remove_file(home.mount.join("gone")).unwrap();
    fs::write(home.mount.join("new"), bytes(2, 700_000)).unwrap();
    let now = look(&home.mount);
    let out = export(&home, "now");
    assert_same(&now, &look(&out));
    assert_eq!(fs::read(out.join("b")).unwrap(), b"second, longer");
    home.ok(&["export", "p", home.path().join("then").to_str().unwrap(), "--at", &imported]);
    assert_same(&before, &look(&home.path().join("then")));
    home.ok(&["commit", "p", "-m", "x"]);
    home.unmount();
    let said = home.ize(&["-p", "p", "export", home.path().join("before").to_str().unwrap(), "--at", "now~1", "--json"]);
    assert_eq!((said.code, summary(&said.out)["entries"].as_u64()), (0, Some(before.len() as u64)), "{said:?}");
    assert_same(&before, &look(&home.path().join("before")));
}

#[test]
fn targets_and_sources_that_would_do_harm_are_refused_and_nothing_is_made() {
    let home = Home::new();
    let full = home.path().join("full");
    fs::create_dir(&full).unwrap();
    fs::write(full.join("mine"), b"mine").unwrap();
    // The store would come into being below the source.
    let said = import(&home, home.path());
    assert_eq!(said.code, 9, "{said:?}");
    assert!(!home.central().exists(), "made before it was refused");
    assert_eq!(import(&home, &full).code, 0);
    for (source, both) in [(home.path().to_owned(), "holds"), (home.central(), "is"), (home.project().join("wal"), "lies in")] {
        let said = home.ize(&[OsStr::new("init"), OsStr::new("q"), OsStr::new("--from"), source.as_os_str()]);
        let words = format!("{} {both} the store {}", source.display(), home.central().display());
        assert!(said.code == 9 && said.err.contains(&words), "{said:?}");
    }
    // Through a bind mount the store has another path.
    let source = home.path().join("source");
    fs::create_dir_all(source.join("bound")).unwrap();
    sh(home.path(), "mount --bind store source/bound");
    let said = home.ize(&[OsStr::new("init"), OsStr::new("q"), OsStr::new("--from"), source.as_os_str()]);
    sh(home.path(), "umount source/bound");
    assert!(said.code == 9 && said.err.contains("store"), "{said:?}");
    assert_eq!(home.ize(&["init", "q", "--from", "missing"]).code, 3);
    assert_eq!(home.ize(&["init", "p", "--from", full.to_str().unwrap()]).code, 9);
    assert_eq!(lines(&home.ok(&["list", "--json"])).len(), 1, "a refusal made a project");
    for target in [full.clone(), home.central().join("out"), home.project().join("wal/out"), full.join("mine")] {
        let said = home.ize(&[OsStr::new("export"), OsStr::new("p"), target.as_os_str()]);
        assert_eq!(said.code, 9, "{target:?}: {said:?}");
    }
    assert!(!home.central().join("out").exists());
    assert_eq!(fs::read(full.join("mine")).unwrap(), b"mine");
    let said = home.ize(&["export", "p", "out", "--at", "@ffff"]);
    assert!(said.code == 3 && !home.path().join("out").exists(), "{said:?}");
}

/// Other file systems below are left out, and named; that is no failure.
#[test]
fn what_is_mounted_below_the_source_is_left_out() {
    let home = Home::new();
    let source = home.path().join("source");
    fs::create_dir_all(source.join("other")).unwrap();
    fs::write(source.join("here"), b"here").unwrap();
    sh(home.path(), "mount -t tmpfs none source/other && echo there > source/other/there");
    let said = import(&home, &source);
    sh(home.path(), "umount source/other");
    assert_eq!((said.code, problems(&said.out)), (0, vec![("skipped".to_owned(), "other".to_owned())]), "{said:?}");
    let out = export(&home, "out");
    assert!(out.join("here").exists() && out.join("other").is_dir() && !out.join("other/there").exists());
}

/// What cannot be read is named and missing, the rest is in; what cannot be made or set is named.
#[test]
fn an_ordinary_user_imports_and_exports_what_is_permitted() {
    let home = Home::new();
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let source = home.path().join("source");
    fs::create_dir_all(source.join("closed")).unwrap();
    fs::write(source.join("closed/in"), b"in").unwrap();
    fs::write(source.join("secret"), b"secret").unwrap();
    fs::write(source.join("large secret"), bytes(1, 100_000)).unwrap();
    fs::write(source.join("open"), b"open").unwrap();
    for (name, mode) in [("closed", 0o700), ("secret", 0o600), ("large secret", 0o600), ("open", 0o4755)] {
        fs::set_permissions(source.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    for dir in ["store", "targets"] {
        fs::create_dir(home.path().join(dir)).unwrap();
        std::os::unix::fs::chown(home.path().join(dir), Some(65534), Some(65534)).unwrap();
    }
    let as_nobody = |args: &[&str]| {
        let mut command = std::process::Command::new("setpriv");
        // Where an ordinary user may not go, the program is: a copy is beside the test.
        let program = home.path().join("ize");
        if !program.exists() {
            fs::copy(env!("CARGO_BIN_EXE_ize"), &program).unwrap();
        }
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(program).args(args);
        command.env("IZE_CENTRAL_DIR", home.central()).env("HOME", home.path()).env("XDG_CONFIG_HOME", home.path());
        said(command.current_dir(home.path()).output().expect("setpriv runs"))
    };
    let said = as_nobody(&["init", "p", "--from", "source", "--json"]);
    assert_eq!(said.code, 6, "{said:?}");
    let missing: Vec<(String, String)> = ["closed", "large secret", "secret"].map(|p| ("missing".to_owned(), p.to_owned())).into();
    assert_eq!(problems(&said.out), missing);
    assert!(!home.project().join("meta/import.toml").exists(), "it is done as far as it goes");
    let said = as_nobody(&["export", "p", "targets/out", "--json"]);
    assert_eq!(said.code, 1, "{said:?}");
    let out = home.path().join("targets/out");
    assert_eq!(fs::read(out.join("open")).unwrap(), b"open");
    let meta = fs::metadata(out.join("open")).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.uid()), (0o755, 65534), "privileges of somebody else");
    assert!(problems(&said.out).contains(&("attribute".to_owned(), "open".to_owned())), "{said:?}");
    assert!(!out.join("secret").exists());
}

/// An import that somebody writes into.
#[test]
fn a_file_that_changes_while_it_is_read_is_named() {
    let home = Home::new();
    let source = home.path().join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("still"), bytes(1, 1_000_000)).unwrap();
    fs::write(source.join("busy"), bytes(2, 64 << 20)).unwrap();
    // Without a stop until the import is over, however long that takes.
    let stop = std::sync::atomic::AtomicBool::new(false);
    let said = std::thread::scope(|scope| {
        scope.spawn(|| {
            let file = File::options().write(true).open(source.join("busy")).unwrap();
            let mut n = 0u64;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                file.write_all_at(&n.to_le_bytes(), n % 1000 * 8).unwrap();
                n += 1;
            }
        });
        let said = import(&home, &source);
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        said
    });
    assert_eq!((said.code, problems(&said.out)), (1, vec![("changed".to_owned(), "busy".to_owned())]), "{said:?}");
    let out = export(&home, "out");
    assert_eq!(fs::read(out.join("still")).unwrap(), fs::read(source.join("still")).unwrap());
    let (was, is) = (fs::read(source.join("busy")).unwrap(), fs::read(out.join("busy")).unwrap());
    assert!(was.len() == is.len() && was[8000..] == is[8000..], "what nobody wrote to is whole");
}

/// Killed at random moments, the same command goes on, until the project is what an undisturbed import would have made of it.
#[test]
fn an_import_that_is_killed_goes_on() {
    let rounds: u64 = std::env::var("IZE_TEST_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(6);
    let home = Home::new();
    let source = home.path().join("source");
    many(&source, 400);
    let begin = |home: &Home| -> Child {
        let args = [OsStr::new("init"), OsStr::new("p"), OsStr::new("--from"), source.as_os_str()];
        home.command(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let mut rng = rand::rngs::StdRng::seed_from_u64(rounds);
    let mut killed = 0;
    for round in 0..rounds {
        let mut child = begin(&home);
        if round == 0 {
            // Once certainly in the middle.
            eventually("the log has grown", || size(&home.central()) > 1 << 20 || child.try_wait().unwrap().is_some());
        } else {
            std::thread::sleep(Duration::from_micros(rng.random_range(0..400_000)));
        }
        child.kill().unwrap();
        let unfinished = home.central().join("projects").is_dir()
            && fs::read_dir(home.central().join("projects")).unwrap().any(|p| p.unwrap().path().join("meta/import.toml").exists());
        child.wait().unwrap();
        if unfinished {
            killed += 1;
            for args in [&["init", "p"][..], &["mount", "p", home.mount.to_str().unwrap()], &["init", "p", "--from", "/proc/self"]] {
                let said = home.ize(args);
                assert!(said.code == 9 && said.err.contains("unfinished"), "{args:?}: {said:?}");
            }
        }
        // Something changes between two tries: what went, came, or became something else.
        if unfinished && round % 2 == 0 {
            let victim = source.join(format!("d{}", round % 7));
            // After hundreds of rounds none may be left.
            if let Some(file) = fs::read_dir(victim.join("e0")).unwrap().next() {
                fs::remove_file(file.unwrap().path()).ok();
            }
            fs::write(source.join(format!("came{round}")), bytes(round, 100_000)).unwrap();
            let f = source.join(format!("link{}", round * 50));
            if f.exists() {
                fs::remove_file(&f).unwrap();
                fs::create_dir(&f).unwrap();
                fs::write(f.join("in"), b"in").unwrap();
            }
        }
        // Killed before the project had its name, it is not there, and what there is of it goes with the next try.
        if !unfinished && home.ize(&["status", "p"]).code != 3 {
            // It came to its end: once more from the beginning.
            assert_same(&but_links(look(&source)), &but_links(look(&export(&home, &format!("out{round}")))));
            fs::remove_dir_all(home.central()).unwrap();
        }
    }
    assert!(killed > 0, "no import was killed in the middle");
    let before = but_links(look(&source));
    let said = import(&home, &source);
    assert_eq!(said.code, 0, "{said:?}");
    assert_same(&before, &but_links(look(&export(&home, "out"))));
    home.ok(&["wal", "verify", "p"]);
    home.mount();
    assert_same(&before, &but_links(look(&home.mount)));
    home.unmount();
}

fn size(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    entries.flatten().map(|e| if e.path().is_dir() { size(&e.path()) } else { e.metadata().map_or(0, |m| m.blocks() * 512) }).sum()
}

/// What is there already is kept and not read again; what is there and not in the source goes.
#[test]
fn an_import_that_goes_on_keeps_what_is_there() {
    let home = Home::new();
    let source = home.path().join("source");
    many(&source, 120);
    assert_eq!(import(&home, &source).code, 0);
    // As it is left by a kill before the last step.
    let note = home.project().join("meta/import.toml");
    let mut file = File::create(&note).unwrap();
    writeln!(file, "source = \"{}\"", source.display()).unwrap();
    let kept = summary(&import(&home, &source).out);
    assert_eq!((kept["new_bytes"].as_u64(), kept["resumed"].as_bool()), (Some(0), Some(true)), "{kept}");
    assert!(kept["kept"].as_u64().unwrap() > 120, "{kept}");
    assert_eq!(home.history().iter().filter(|v| v["message"].as_str().is_some_and(|m| m.starts_with("import"))).count(), 1);
    writeln!(File::create(&note).unwrap(), "source = \"{}\"", source.display()).unwrap();
    fs::remove_dir_all(source.join("d1")).unwrap();
    fs::remove_file(source.join("link50")).unwrap();
    fs::write(source.join("link50"), b"another inode").unwrap();
    fs::remove_file(source.join("link100")).unwrap();
    fs::hard_link(source.join("link50"), source.join("link100")).unwrap();
    assert_eq!(import(&home, &source).code, 0);
    assert!(!note.exists());
    assert_same(&but_links(look(&source)), &but_links(look(&export(&home, "out"))));
}

/// The chunks of a file in the newest version.
fn chunks(home: &Home, path: &str) -> Vec<(BlobId, u32)> {
    let project = Project::open(home.project()).unwrap();
    let store = Store::open(&project.layout, project.identity.id).unwrap();
    let mut tree = store.resolve(&When::Now { back: 0 }).unwrap();
    let ino = tree.resolve(path.as_bytes()).unwrap().unwrap();
    let Body::File(file) = &tree.inode(ino).unwrap().body else { panic!("{path} is no file") };
    let pieces: Vec<Piece> = match file.base_content() {
        Content::Pieces(pieces) => pieces.clone(),
        Content::PieceList(id) => postcard::from_bytes(&store.blobs().get(id).unwrap()).unwrap(),
        other => panic!("{path} has no pieces: {other:?}"),
    };
    let chunk = |p: Piece| if let Piece::Chunk { id, len } = p { (id, len) } else { panic!("{path} has holes") };
    pieces.into_iter().map(chunk).collect()
}

/// An import stores the chunks itself and replay believes it: they must be those that replay would make of the bytes.
#[test]
fn imported_files_have_the_chunks_that_any_file_with_their_bytes_has() {
    let home = Home::new();
    let source = home.path().join("source");
    fs::create_dir(&source).unwrap();
    let mut files: Vec<(String, Vec<u8>)> = Vec::new();
    for len in [1, 100, 5000, 65_535, 65_536, 65_537, 262_144, 262_145, 1_310_720, 1_310_721, 5_000_000] {
        files.push((format!("random{len}"), bytes(7, len)));
        files.push((format!("zeros{len}"), vec![0; len]));
        files.push((format!("text{len}"), b"all work and no play ".iter().copied().cycle().take(len).collect()));
    }
    // The chunks of one in the middle and at the end of others.
    let piece = bytes(7, 5_000_000);
    for len in [71_088, 100_000, 137_568, 140_000, 200_000] {
        files.push((format!("cut{len}"), piece[..len].to_vec()));
        files.push((format!("twice{len}"), [&piece[..len], &piece[..len]].concat()));
    }
    for (name, bytes) in &files {
        fs::write(source.join(name), bytes).unwrap();
    }
    let said = import(&home, &source);
    assert_eq!(said.code, 0, "{said:?}");
    for (name, bytes) in &files {
        let (mut wanted, mut at) = (Vec::new(), 0);
        while at < bytes.len() {
            let end = (at + chunker::MAX).min(bytes.len());
            let len = chunker::next_cut(&bytes[at..end], end == bytes.len());
            wanted.push((BlobId::of(&bytes[at..at + len]), u32::try_from(len).unwrap()));
            at += len;
        }
        assert_eq!(chunks(&home, name), wanted, "{name}");
    }
    // They are stored before they are logged, also the small ones.
    let records = lines(&home.ok(&["wal", "inspect", "p", "--json", "--kind", "write"]));
    let named = |name: &str| records.iter().filter(|r| r["path"] == *name).all(|r| r["blob"].is_string());
    assert!(records.len() >= files.len() && files.iter().all(|(name, _)| named(name)));
}

/// What is between versions of an import nobody asked for: they are few.
#[test]
fn an_import_of_many_files_is_few_versions() {
    let home = Home::new();
    let source = home.path().join("source");
    many(&source, 3000);
    let said = import(&home, &source);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(home.history().len() <= 2, "{:?}", home.history());
    assert_same(&but_links(look(&source)), &but_links(look(&export(&home, "out"))));
    home.ok(&["fsck", "p", "--deep"]);
}

/// Whoever reads the events may go away; the import comes to its end.
#[test]
fn nobody_need_listen() {
    let home = Home::new();
    let source = home.path().join("source");
    many(&source, 60);
    let args = [OsStr::new("init"), OsStr::new("p"), OsStr::new("--from"), source.as_os_str(), OsStr::new("--json")];
    let mut child = home.command(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let said = said(child.wait_with_output().unwrap());
    assert_eq!((said.code, said.err.as_str()), (0, ""), "{said:?}");
    assert!(!home.project().join("meta/import.toml").exists());
    assert_same(&but_links(look(&source)), &but_links(look(&export(&home, "out"))));
}

/// A directory so deep that no path can name what is in it.
#[test]
fn depth_is_no_limit() {
    let home = Home::new();
    let source = home.path().join("source");
    fs::create_dir(&source).unwrap();
    sh(&source, "for i in $(seq 600); do mkdir abcdefghij; cd -P abcdefghij; done; echo bottom > file");
    let said = import(&home, &source);
    assert_eq!((said.code, summary(&said.out)["entries"].as_u64()), (0, Some(602)), "{said:?}");
    let out = export(&home, "out");
    let bottom = sh(&out, "for i in $(seq 600); do cd -P abcdefghij; done; cat file");
    assert_eq!(bottom, "bottom\n");
}

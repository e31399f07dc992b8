//! What a mount does on its own: it prunes by age, by size and for free space, as configured, and loses nothing that is needed.
#![cfg(feature = "fuse")]
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::collections::BTreeMap;

use support::{Home, eventually, tree};

/// A mount with these settings of `[prune]`, small segments and versions that end soon.
fn mounted(prune: &str) -> Home {
    let home = Home::new();
    std::fs::create_dir(home.path().join("ize")).unwrap();
    let config = format!("[log]\nsegment-size = \"1MiB\"\n[group]\nidle = \"50ms\"\n[prune]\ninterval = \"50ms\"\n{prune}\n");
    std::fs::write(home.path().join("ize/config.toml"), config).unwrap();
    home.mount();
    home
}

/// Writes some 3 MiB in small files, none like another, and waits until versions hold them.
fn write(home: &Home, round: u32) {
    for n in 0..100u32 {
        let mut random = 1 + u64::from(round * 100 + n);
        let mut next = || {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) as u8
        };
        let bytes: Vec<u8> = (0..30_000).map(|_| next()).collect();
        std::fs::write(home.mount.join(format!("{round}-{n}")), bytes).unwrap();
    }
    eventually("versions hold everything", || home.status()["pending"] == 0);
}

fn log_bytes(home: &Home) -> u64 {
    let wal = std::fs::read_dir(home.project().join("wal")).unwrap().map(Result::unwrap);
    wal.filter(|e| e.file_name().to_str().unwrap().ends_with(".seg")).map(|e| e.metadata().unwrap().len()).sum()
}

fn all_is_there(home: &Home, expected: &BTreeMap<std::path::PathBuf, String>) {
    assert_eq!(&tree(&home.mount), expected);
    home.unmount();
    home.ok(&["wal", "verify", "p"]);
    home.mount();
    assert_eq!(&tree(&home.mount), expected);
}

#[test]
fn a_mount_keeps_the_log_within_its_size() {
    let home = mounted("max-size = \"4MiB\"\nmax-age = \"never\"\nmin-free = \"0%\"");
    for round in 0..5 {
        write(&home, round);
    }
    let before = tree(&home.mount);
    eventually("the log is small", || log_bytes(&home) <= 4 << 20);
    let last = &home.status()["last_prune"];
    assert!(last["segments"].as_u64().unwrap() > 0 && last["wal_bytes"].as_u64().unwrap() > 0, "{last}");
    assert!(home.ok(&["status", "p"]).contains("pruned:"));
    all_is_there(&home, &before);
}

#[test]
fn a_mount_drops_what_is_older_than_the_longest_age() {
    let home = mounted("max-size = \"unlimited\"\nmax-age = \"2s\"\nmin-free = \"0%\"");
    write(&home, 0);
    let first = home.project().join("wal/0000000000000001.seg");
    assert!(first.exists() || home.status()["last_prune"].is_object());
    eventually("the oldest segment is gone", || !first.exists());
    let before = tree(&home.mount);
    all_is_there(&home, &before);
}

#[test]
fn a_mount_frees_what_the_file_system_lacks() {
    let home = mounted("max-size = \"unlimited\"\nmax-age = \"never\"\nmin-free = \"90%\"");
    let s = rustix::fs::statvfs(home.path()).unwrap();
    assert!(s.f_bavail < s.f_blocks / 10 * 9, "this test needs a file system of which more than a tenth is used");
    write(&home, 0);
    eventually("what may go is gone", || home.status()["segments"] == 1);
    let before = tree(&home.mount);
    all_is_there(&home, &before);
}

#[test]
fn without_limits_nothing_goes_until_somebody_asks() {
    let home = mounted("max-size = \"unlimited\"\nmax-age = \"never\"\nmin-free = \"0%\"");
    write(&home, 0);
    // The thread has looked many times by now.
    std::thread::sleep(std::time::Duration::from_secs(1));
    assert!(home.project().join("wal/0000000000000001.seg").exists());
    assert!(home.status()["last_prune"].is_null());
    home.ok(&["wal", "prune", "p", "--max-size", "0"]);
    assert!(!home.project().join("wal/0000000000000001.seg").exists());
}

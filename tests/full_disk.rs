//! A full disk: writes wait for room, nobody else waits with them, nothing acknowledged is lost, and ize alone gets it going again.
#![cfg(feature = "fuse")]
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use support::{Home, eventually, sh, tree};

/// A project whose central directory is a file system of its own, of so many MiB.
fn mounted(mib: u64, settings: &str) -> Home {
    let home = Home::new();
    sh(home.path(), &format!("mkdir store ize && truncate -s {mib}M image && mkfs.ext4 -q -m 0 image && mount -o loop image store"));
    fs::write(home.path().join("ize/config.toml"), settings).unwrap();
    home.mount();
    home
}

const QUIET: &str =
    "[log]\nsegment-size = \"1MiB\"\n[group]\nidle = \"1h\"\n[prune]\nmin-free = \"0%\"\n[retention]\nmax-store = \"unlimited\"\n";

/// Bytes that do not shrink, other ones for each seed.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    let mut out = vec![0; len];
    hasher.finalize_xof().fill(&mut out);
    out
}

/// Fills what is left of the central directory's file system, to the last block.
fn fill(home: &Home) -> PathBuf {
    let path = home.central().join("filler");
    let mut file = fs::File::create(&path).unwrap();
    for size in [1 << 20, 4096] {
        while file.write_all(&vec![1; size]).is_ok() {}
    }
    let _ = file.sync_all();
    path
}

fn held(home: &Home) -> u64 {
    home.status()["held_writes"].as_u64().unwrap()
}

/// Waits until the number of writes that wait stays the same for two seconds.
fn settled(home: &Home) -> u64 {
    let (mut last, mut since) = (0, Instant::now());
    eventually("the writes wait", || {
        let now = held(home);
        if now != last || now == 0 {
            (last, since) = (now, Instant::now());
        }
        since.elapsed() > Duration::from_secs(2)
    });
    last
}

/// Writes one file in a thread.
fn writer(path: PathBuf, bytes: Vec<u8>) -> JoinHandle<std::io::Result<()>> {
    let file = fs::File::create(path).unwrap();
    std::thread::spawn(move || file.write_all_at(&bytes, 0))
}

#[test]
fn a_write_on_a_full_disk_waits_for_room_and_nobody_else_does() {
    let home = mounted(224, QUIET);
    let m = home.mount.clone();
    for name in ["old", "gone", "synced"] {
        fs::write(m.join(name), name).unwrap();
    }
    let filler = fill(&home);
    let bytes: Vec<Vec<u8>> = (0..64).map(|n| noise(n, 1 << 20)).collect();
    let writers: Vec<_> = (0..64).map(|n| writer(m.join(format!("f{n}")), bytes[n].clone())).collect();
    // A few find what replay and a prune can still free.
    let waiting = settled(&home);
    assert!(waiting >= 48, "{waiting}");
    // None of these may wait for the writers, nor fail for want of room.
    assert_eq!(fs::metadata(m.join("old")).unwrap().len(), 3);
    assert_eq!(fs::read_dir(&m).unwrap().count(), 67);
    fs::remove_file(m.join("gone")).unwrap();
    fs::File::open(m.join("synced")).unwrap().sync_all().unwrap();
    fs::create_dir(m.join("new")).unwrap();
    fs::rename(m.join("old"), m.join("new/old")).unwrap();
    assert_eq!(fs::read(m.join("new/old")).unwrap(), b"old");
    assert!(home.ok(&["status", "p"]).contains(&format!("{waiting} writes wait for room")));
    assert_eq!(held(&home), waiting, "the writes went on waiting");
    fs::remove_file(filler).unwrap();
    for (n, writer) in writers.into_iter().enumerate() {
        writer.join().unwrap().unwrap();
        assert_eq!(fs::read(m.join(format!("f{n}"))).unwrap(), bytes[n]);
    }
    assert_eq!(held(&home), 0);
    let before = tree(&m);
    home.unmount();
    home.ok(&["fsck", "p", "--deep"]);
    home.mount();
    assert_eq!(tree(&m), before);
}

#[test]
fn a_write_that_finds_no_room_for_long_is_refused() {
    let home = mounted(96, &QUIET.replace("[log]\n", "[log]\nfull-wait = \"1s\"\n"));
    let _filler = fill(&home);
    let begun = Instant::now();
    let refused = writer(home.mount.join("f"), noise(1, 1 << 20)).join().unwrap().unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::ENOSPC));
    assert!(begun.elapsed() >= Duration::from_secs(1), "it waited");
    assert_eq!(fs::metadata(home.mount.join("f")).unwrap().len(), 0);
}

#[test]
fn an_order_to_unmount_ends_the_waiting() {
    let home = mounted(96, &QUIET.replace("[log]\n", "[log]\nfull-wait = \"10m\"\n"));
    fs::write(home.mount.join("old"), "old").unwrap();
    let _filler = fill(&home);
    let writers: Vec<_> = (0..8).map(|n| writer(home.mount.join(format!("f{n}")), noise(n, 1 << 20))).collect();
    assert!(settled(&home) > 0);
    home.ok(&["unmount", "p", "--wait", "60s"]);
    for writer in writers {
        let done = writer.join().unwrap();
        assert!(done.as_ref().is_ok_and(|()| true) || done.unwrap_err().raw_os_error() == Some(libc::ENOSPC));
    }
    home.mount();
    assert_eq!(fs::read(home.mount.join("old")).unwrap(), b"old");
}

/// What was answered is there after a crash on a disk without a free block, removals go on, and `ize wal prune` makes room.
#[test]
fn a_disk_filled_to_the_last_byte_is_got_going_again_with_ize_alone() {
    // Nothing is made a version meanwhile: what is lent for that, another program could take.
    let quiet = QUIET.replace("[group]\n", "[group]\npaths = 1000000\nbytes = \"1GiB\"\nage = \"1h\"\n");
    let home = mounted(256, &quiet.replace("[log]\n", "[log]\nfull-wait = \"0s\"\n"));
    let m = home.mount.clone();
    let mut answered: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for n in 0u64.. {
        // Large ones go to the packs, small ones into the log.
        let (name, bytes) = (format!("f{n}"), noise(n, if n % 3 == 0 { 400_000 } else { 20_000 }));
        match fs::write(m.join(&name), &bytes) {
            Ok(()) => _ = answered.insert(name, bytes),
            Err(e) => {
                assert_eq!(e.raw_os_error(), Some(libc::ENOSPC));
                break;
            }
        }
    }
    assert!(answered.len() > 100, "{}", answered.len());
    fill(&home);
    home.kill();
    home.mount();
    let all_there = |answered: &BTreeMap<String, Vec<u8>>| {
        for (name, bytes) in answered {
            assert!(fs::read(m.join(name)).unwrap() == *bytes, "{name}");
        }
    };
    all_there(&answered);
    // Room for removals is kept.
    let names: Vec<String> = answered.keys().take(answered.len() / 2).cloned().collect();
    for name in &names {
        fs::remove_file(m.join(name)).unwrap();
        answered.remove(name);
    }
    all_there(&answered);
    // The version is made; Pijul may have to wait for room.
    let said = home.ize(&["commit", "p", "-m", "half of them"]);
    assert!(said.code == 0 || said.err.contains("is safe, but"), "{said:?}");
    home.ok(&["wal", "prune", "p", "--max-size", "0"]);
    home.ok(&["thin", "p", "--max-store", "1MiB"]);
    // What Pijul keeps free for itself must not be all that there is.
    if cfg!(feature = "pijul") {
        eventually("Pijul has the version", || home.status()["pijul"].as_u64() >= Some(1));
    }
    fs::write(m.join("after"), noise(77, 1 << 20)).unwrap();
    all_there(&answered);
    home.unmount();
    home.ok(&["fsck", "p", "--deep"]);
    home.mount();
    all_there(&answered);
    assert!(fs::read(m.join("after")).unwrap() == noise(77, 1 << 20));
}

/// Far more than the disk holds is written over the same files: what need not be kept makes room while the writer waits.
#[test]
fn a_program_that_writes_the_same_files_again_and_again_never_meets_a_full_disk() {
    let home = mounted(480, "[log]\nsegment-size = \"1MiB\"\n[prune]\ninterval = \"1h\"\nmin-free = \"0%\"\n");
    let stop = Arc::new(AtomicBool::new(false));
    let reader = {
        let (stop, dir) = (Arc::clone(&stop), home.mount.clone());
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let _ = fs::read_dir(&dir).unwrap().count();
                std::thread::sleep(Duration::from_millis(20));
            }
        })
    };
    let mut last = Vec::new();
    for n in 0..1500u64 {
        last = noise(n, 1 << 20);
        fs::write(home.mount.join(format!("f{}", n % 3)), &last).unwrap_or_else(|e| panic!("write {n}: {e}"));
    }
    stop.store(true, Ordering::Relaxed);
    reader.join().unwrap();
    assert_eq!(fs::read(home.mount.join(format!("f{}", 1499 % 3))).unwrap(), last);
    assert!(used(&home.central()) < 480 << 20);
    home.unmount();
    home.ok(&["fsck", "p", "--deep"]);
}

fn used(dir: &Path) -> u64 {
    let s = rustix::fs::statvfs(dir).unwrap();
    (s.f_blocks - s.f_bfree) * s.f_frsize
}

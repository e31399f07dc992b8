//! D4 through the real daemon: what nobody syncs is bounded in bytes. That it is bounded in time, and what D2 promises, `tests/power` shows
//! with the power cut; D1 `tests/kill_load.rs`.
#![cfg(feature = "fuse")]
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::io::Write;

use support::Home;

/// Bytes that may be unsynced.
const MOST: u64 = 256 << 20;
const BLOCK: u64 = 1 << 20;

#[test]
fn unsynced_bytes_are_bounded_when_nobody_ever_syncs() {
    let home = Home::new();
    // No timed sync, no pause that would seal the log: only the number of bytes is left.
    std::fs::create_dir(home.path().join("ize")).unwrap();
    std::fs::write(home.path().join("ize/config.toml"), "[log]\nsync-interval = \"1h\"\n[group]\nidle = \"1h\"\n").unwrap();
    home.mount();
    let mut file = std::fs::File::create(home.mount.join("large")).unwrap();
    home.ok(&["sync", "p"]);
    let before = home.status()["durable"].as_u64().unwrap();
    let mut block = vec![0; usize::try_from(BLOCK).unwrap()];
    for n in 0..MOST / BLOCK + 8 {
        // No two alike, or the packs would hold them once.
        block[..8].copy_from_slice(&n.to_le_bytes());
        file.write_all(&block).unwrap();
    }
    assert!(home.status()["durable"].as_u64().unwrap() > before, "more than {MOST} bytes were answered, and none of them synced");
}

//! Large files that are written from front to back through a mount: each byte is stored once, and is there after a kill.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::fs;
use std::io::Write;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use support::{Home, lines};

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    StdRng::seed_from_u64(seed).fill(bytes.as_mut_slice());
    bytes
}

fn packs(home: &Home) -> u64 {
    home.status()["size"]["packs"].as_u64().unwrap()
}

#[test]
fn what_is_written_from_front_to_back_is_stored_once() {
    let home = Home::new();
    home.mount();
    let bytes = noise(1, 32 << 20);
    let mut file = fs::File::create(home.mount.join("large")).unwrap();
    for (i, piece) in bytes.chunks(1 << 20).enumerate() {
        file.write_all(piece).unwrap();
        if i == 20 {
            // A version in the middle.
            home.ok(&["commit", "p"]);
        }
    }
    drop(file);
    home.ok(&["commit", "p"]);
    let once = packs(&home);
    assert!(once < (32 + 4 + 2) << 20, "{once} bytes in packs");
    assert!(fs::read(home.mount.join("large")).unwrap() == bytes);
    let written: u64 = lines(&home.ok(&["wal", "inspect", "p", "--path", "large", "--json"]))
        .iter()
        .filter(|r| r["kind"] == "write")
        .map(|r| r["op"]["length"].as_u64().or(r["op"]["len"].as_u64()).unwrap_or(0))
        .sum();
    assert!(written == 0 || written < (32 << 20) / 100 * 112, "{written} bytes in the log");
    // The same again takes next to nothing, once the log has let go of what it held in another form.
    home.ok(&["wal", "prune", "p", "--max-size", "0"]);
    let before = packs(&home);
    fs::write(home.mount.join("again"), &bytes).unwrap();
    home.ok(&["commit", "p"]);
    home.ok(&["wal", "prune", "p", "--max-size", "0"]);
    assert_eq!(home.status()["wal_records"].as_u64(), Some(0), "the last segment is a new one");
    let more = packs(&home) - before;
    assert!(more < (32 << 20) / 100, "{more} bytes");
    home.unmount();
    home.ok(&["fsck", "p", "--deep"]);
    home.mount();
    assert!(fs::read(home.mount.join("again")).unwrap() == bytes);
}

#[test]
fn a_kill_in_the_middle_keeps_what_was_answered() {
    let home = Home::new();
    for round in 0..6u64 {
        home.mount();
        let path = home.mount.join(format!("f{round}"));
        let pid = home.daemon();
        let killer = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(20 + 37 * round));
            support::kill_now(pid);
        });
        let mut answered = 0;
        if let Ok(mut file) = fs::File::create(&path) {
            let bytes = noise(round, 1 << 20);
            for n in 0..64u8 {
                let piece: Vec<u8> = bytes.iter().map(|b| b ^ n).collect();
                if file.write_all(&piece).is_err() {
                    break;
                }
                answered += 1;
            }
        }
        killer.join().unwrap();
        home.mount();
        let found = fs::read(&path).unwrap_or_default();
        assert!(found.len() >= answered << 20, "{} bytes of {answered} MiB", found.len());
        let bytes = noise(round, 1 << 20);
        for (n, piece) in found.chunks(1 << 20).enumerate() {
            assert!(piece.iter().zip(&bytes).all(|(a, b)| *a == *b ^ u8::try_from(n).unwrap()), "round {round}: MiB {n} of {answered}");
        }
        home.unmount();
    }
    home.ok(&["fsck", "p", "--deep"]);
}

//! The blob store: put, get and dedup of 1 MiB beside the floor that this machine sets, then ten million small blobs: what one takes of the
//! heap, how long a lookup and a reopening take. Prints one table.
//!
//! `cargo bench --no-default-features --bench blobs [-- throughput | index]`; `IZE_BENCH_DIR` is where (the system's directory for
//! temporary files), `IZE_BENCH_BLOBS` how many small blobs (10,000,000). Disk blocks are touched before they are measured: each round
//! writes what the round before has removed.

#![allow(missing_docs, clippy::expect_used, clippy::print_stdout, reason = "a bench that cannot go on stops, and prints what it saw")]

use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use ize::blobs::{Blobs, Encoding, OpenMode};
use ize::ids::{BlobId, StoreId};
use ize::storage::Disk;

const STORE: StoreId = StoreId([3; 16]);
const MIB: usize = 1 << 20;
/// Blobs of a round: 256 MiB.
const ROUND: usize = 256;
const ROUNDS: usize = 11;

fn draw(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn random(len: usize) -> Vec<u8> {
    let mut state = 1;
    (0..len / 8).flat_map(|_| draw(&mut state).to_le_bytes()).collect()
}

/// The sources of this crate, over and over.
fn source_text(len: usize) -> Vec<u8> {
    fn collect(dir: &Path, out: &mut Vec<u8>) {
        let mut entries: Vec<PathBuf> = std::fs::read_dir(dir).expect("sources").map(|e| e.expect("an entry").path()).collect();
        entries.sort();
        for path in entries {
            if path.is_dir() {
                collect(&path, out);
            } else {
                out.extend(std::fs::read(&path).expect("a source"));
            }
        }
    }
    let mut text = Vec::new();
    collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut text);
    text.iter().copied().cycle().take(len).collect()
}

fn open(dir: &Path, mode: OpenMode) -> Blobs {
    Blobs::open(Disk::shared(), dir.to_path_buf(), STORE, mode).expect("a store opens").0
}

/// Median and best of seconds, as GB/s for `bytes`.
fn rates(mut seconds: Vec<f64>, bytes: usize) -> String {
    seconds.sort_by(f64::total_cmp);
    let rate = |s: f64| bytes as f64 / s / 1e9;
    format!("{:.2} GB/s (best {:.2}, worst {:.2})", rate(seconds[seconds.len() / 2]), rate(seconds[0]), rate(seconds[seconds.len() - 1]))
}

/// Wall time and processor time of `f`, in microseconds for each of `n`.
fn per(n: usize, f: impl FnOnce()) -> String {
    let cpu = on_cpu();
    let s = timed(f);
    format!("{:.2} us, {:.2} us of processor", s / n as f64 * 1e6, (on_cpu() - cpu) / n as f64 * 1e6)
}

fn timed(f: impl FnOnce()) -> f64 {
    let begun = Instant::now();
    f();
    begun.elapsed().as_secs_f64()
}

fn throughput(dir: &Path) {
    for (kind, mut bytes) in [("random bytes", random(MIB)), ("source text", source_text(MIB))] {
        let names = ["put, no sync", "put again", "get", "get_into", "floor of put", "floor of put again", "floor of get"];
        let mut seen: Vec<Vec<f64>> = vec![Vec::new(); names.len()];
        let mut buf = vec![0; MIB];
        // Each put by itself: their median leaves out those that close a pack and wait for its sync.
        let mut single = Vec::new();
        for round in 0..=ROUNDS {
            let mut set = |n: usize, s: f64| {
                // The first round touches the blocks.
                if round > 0 {
                    seen[n].push(s);
                }
            };
            let number = |bytes: &mut Vec<u8>, n: usize| bytes[..8].copy_from_slice(&((round * ROUND + n) as u64).to_le_bytes());

            let at = dir.join("store");
            let blobs = open(&at, OpenMode::Write { clean: true });
            let mut ids = Vec::new();
            set(
                0,
                timed(|| {
                    for n in 0..ROUND {
                        number(&mut bytes, n);
                        let one = timed(|| ids.push(blobs.put(black_box(&bytes), Encoding::Raw).expect("stored")));
                        if round > 0 {
                            single.push(one);
                        }
                    }
                }),
            );
            set(
                1,
                timed(|| {
                    for n in 0..ROUND {
                        number(&mut bytes, n);
                        blobs.put(black_box(&bytes), Encoding::Raw).expect("there");
                    }
                }),
            );
            set(2, timed(|| ids.iter().for_each(|id| drop(black_box(blobs.get(id).expect("there"))))));
            set(3, timed(|| ids.iter().for_each(|id| blobs.get_into(black_box(id), &mut buf).expect("there"))));
            drop(blobs);
            std::fs::remove_dir_all(&at).expect("removed");

            // The same bytes with nothing around them: hash, checksums and one write; hash; read and hash.
            let path = dir.join("floor");
            set(
                4,
                timed(|| {
                    for n in 0..ROUND {
                        // As many files as packs, so that none grows longer than a pack.
                        let file = std::fs::File::options()
                            .write(true)
                            .create(true)
                            .truncate(false)
                            .open(path.with_extension(format!("{}", n / 64)))
                            .expect("a file");
                        number(&mut bytes, n);
                        black_box(blake3::hash(&bytes));
                        bytes.chunks(64 << 10).map(crc32fast::hash).for_each(|crc| _ = black_box(crc));
                        file.write_all_at(&bytes, ((n % 64) * MIB) as u64).expect("written");
                    }
                }),
            );
            set(
                5,
                timed(|| {
                    for n in 0..ROUND {
                        number(&mut bytes, n);
                        black_box(blake3::hash(&bytes));
                    }
                }),
            );
            set(
                6,
                timed(|| {
                    for n in 0..ROUND {
                        let file = std::fs::File::open(path.with_extension(format!("{}", n / 64))).expect("a file");
                        file.read_exact_at(&mut buf, ((n % 64) * MIB) as u64).expect("read");
                        black_box(blake3::hash(&buf));
                    }
                }),
            );
            for n in 0..ROUND / 64 {
                std::fs::remove_file(path.with_extension(format!("{n}"))).expect("removed");
            }
        }
        println!("{:<44} {}", format!("1 MiB, {kind}: put, no sync, one by one"), rates(single, MIB));
        for (name, seconds) in names.iter().zip(seen) {
            println!("{:<44} {}", format!("1 MiB, {kind}: {name}"), rates(seconds, ROUND * MIB));
        }
    }
    println!("(floors: bare BLAKE3 on one thread, CRC-32 a 64 KiB, one pwrite or pread into a buffer that stays)");
}

/// Small blob `n`: 32 to 100 bytes.
fn small(n: u64) -> Vec<u8> {
    let mut state = n;
    let len = 32 + (draw(&mut state) % 69) as usize;
    let mut bytes: Vec<u8> = (0..len.div_ceil(8)).flat_map(|_| draw(&mut state).to_le_bytes()).collect();
    bytes.truncate(len);
    bytes
}

/// Nanoseconds that this thread has had a processor: what a busy machine leaves out of it is in the wall clock only.
fn on_cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("linux");
    stat.split(' ').next().and_then(|n| n.parse::<f64>().ok()).expect("a number") / 1e9
}

/// Bytes of memory that the process has.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("linux");
    statm.split(' ').nth(1).and_then(|n| n.parse::<u64>().ok()).expect("a number") * 4096
}

fn index(dir: &Path) {
    let count: u64 = std::env::var("IZE_BENCH_BLOBS").ok().and_then(|n| n.parse().ok()).unwrap_or(10_000_000);
    let at = dir.join("small");
    let before = resident();
    {
        let blobs = open(&at, OpenMode::Write { clean: true });
        let s = timed(|| {
            for n in 0..count {
                blobs.put(&small(n), Encoding::Raw).expect("stored");
            }
            blobs.sync().expect("synced");
        });
        println!(
            "{:<44} {:.2} us each, index {:.1} B of heap a blob",
            format!("put of {count} small blobs"),
            s / count as f64 * 1e6,
            blobs.index_bytes() as f64 / count as f64
        );
    }
    for (what, mode, wipe) in [
        ("reopen for writing", OpenMode::Write { clean: true }, false),
        ("reopen for reading", OpenMode::ReadOnly, false),
        ("reopen after an unclean stop", OpenMode::Write { clean: false }, false),
        ("reopen without index files", OpenMode::Write { clean: true }, true),
        ("reopen for writing, again", OpenMode::Write { clean: true }, false),
    ] {
        if wipe {
            for entry in std::fs::read_dir(&at).expect("a directory") {
                let path = entry.expect("an entry").path();
                if path.extension().is_some_and(|e| e == "index") {
                    std::fs::remove_file(path).expect("removed");
                }
            }
        }
        let (begun, cpu) = (Instant::now(), on_cpu());
        let blobs = open(&at, mode);
        let (s, cpu) = (begun.elapsed().as_secs_f64(), on_cpu() - cpu);
        let usage = blobs.usage();
        assert_eq!(usage.blobs, count);
        println!(
            "{:<44} {s:.2} s, {cpu:.2} s of processor ({} packs; index {:.1} B of heap a blob)",
            what,
            usage.packs,
            blobs.index_bytes() as f64 / count as f64,
        );
        if what == "reopen for writing" {
            println!("{:<44} {:.1} B a blob", "resident memory since the start", resident().saturating_sub(before) as f64 / count as f64);
            let mut state = 99;
            let picks: Vec<u64> = (0..500_000).map(|_| draw(&mut state) % count).collect();
            let ids: Vec<BlobId> = picks.iter().map(|n| BlobId::of(&small(*n))).collect();
            let absent: Vec<BlobId> = picks.iter().map(|n| BlobId::of(&small(n + count))).collect();
            let mut buf = Vec::new();
            for warm in ["", ", again"] {
                println!(
                    "{:<44} {}",
                    format!("contains{warm}"),
                    per(picks.len(), || ids.iter().for_each(|id| assert!(black_box(blobs.contains(id).expect("readable")).is_some())))
                );
                println!(
                    "{:<44} {}",
                    format!("contains of what is not there{warm}"),
                    per(picks.len(), || absent.iter().for_each(|id| assert!(blobs.contains(id).expect("readable").is_none())))
                );
                println!(
                    "{:<44} {}",
                    format!("get{warm}"),
                    per(picks.len(), || ids.iter().for_each(|id| blobs.get_into(id, &mut buf).expect("there")))
                );
            }
        }
    }
}

fn main() {
    let which: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let wanted = |name: &str| which.is_empty() || which.iter().any(|w| w == name);
    let dir = match std::env::var_os("IZE_BENCH_DIR") {
        Some(dir) => tempfile::tempdir_in(dir),
        None => tempfile::tempdir(),
    }
    .expect("a directory");
    if wanted("throughput") {
        throughput(dir.path());
    }
    if wanted("index") {
        index(dir.path());
    }
}

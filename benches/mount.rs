//! Everyday work in a mount beside the same on the file system below it: `cargo bench --bench mount`. Interleaved rounds, medians and
//! ratios. Each round touches its own files; pass a number of rounds after `--` (default 7). Pin it (`taskset -c 0`) for figures that can
//! be compared.

#![allow(clippy::expect_used, clippy::print_stdout, reason = "a bench that cannot go on stops, and prints its table")]

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

type Work = fn(&Path) -> Duration;

fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

const WORKS: &[(&str, Work)] = &[
    ("create + write 4 KiB + close, 500 files", |dir| {
        timed(|| (0..500).for_each(|i| fs::write(dir.join(format!("f{i}")), [7; 4096]).expect("written")))
    }),
    ("open + read + close, 500 files", |dir| {
        (0..500).for_each(|i| fs::write(dir.join(format!("r{i}")), [7; 4096]).expect("written"));
        timed(|| (0..500).for_each(|i| drop(fs::read(dir.join(format!("r{i}"))).expect("read"))))
    }),
    ("unlink, 500 files", |dir| {
        (0..500).for_each(|i| fs::write(dir.join(format!("u{i}")), [7; 4096]).expect("written"));
        timed(|| (0..500).for_each(|i| fs::remove_file(dir.join(format!("u{i}"))).expect("removed")))
    }),
    ("write 4 KiB + fsync, 200 times", |dir| {
        let mut file = File::create(dir.join("synced")).expect("created");
        timed(|| {
            (0..200).for_each(|_| {
                file.write_all(&[7; 4096]).expect("written");
                file.sync_data().expect("synced");
            });
        })
    }),
    ("create + fsync + rename + directory fsync, 100 times", |dir| {
        timed(|| {
            (0..100).for_each(|i| {
                let mut file = File::create(dir.join("new")).expect("created");
                file.write_all(&[i as u8; 1000]).expect("written");
                file.sync_all().expect("synced");
                fs::rename(dir.join("new"), dir.join("kept")).expect("renamed");
                File::open(dir).and_then(|d| d.sync_all()).expect("synced");
            });
        })
    }),
    ("sequential write by 4 KiB, 16 MiB", |dir| {
        let mut file = File::create(dir.join("small")).expect("created");
        timed(|| (0..4096).for_each(|_| file.write_all(&[7; 4096]).expect("written")))
    }),
    ("sequential write by 1 MiB with fsync, 128 MiB", |dir| {
        let bytes: Vec<u8> = (0..1 << 20).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let mut file = File::create(dir.join("large")).expect("created");
        let mut block = bytes;
        timed(|| {
            for i in 0..128u64 {
                block[..8].copy_from_slice(&i.to_le_bytes());
                file.write_all(&block).expect("written");
            }
            file.sync_all().expect("synced");
        })
    }),
    ("random 4 KiB write in 16 MiB, 2,000 times", |dir| {
        fs::write(dir.join("random"), vec![1; 16 << 20]).expect("written");
        let file = OpenOptions::new().write(true).open(dir.join("random")).expect("opened");
        timed(|| (0..2000u64).for_each(|i| file.write_all_at(&[7; 4096], i * 7919 % 4096 * 4096).expect("written")))
    }),
    ("ls -l of 1,000 entries, first", |dir| {
        (0..1000).for_each(|i| drop(File::create(dir.join(format!("l{i}"))).expect("created")));
        timed(|| drop(Command::new("ls").arg("-l").arg(dir).output().expect("ls runs")))
    }),
    ("read 16 MiB, warm", |dir| {
        fs::write(dir.join("read"), vec![3; 16 << 20]).expect("written");
        let read = || {
            let mut bytes = Vec::new();
            File::open(dir.join("read")).and_then(|mut f| f.read_to_end(&mut bytes)).expect("read");
        };
        read();
        timed(read)
    }),
];

fn ize(store: &Path, args: &[&str]) {
    let status = Command::new(env!("CARGO_BIN_EXE_ize")).args(args).env("IZE_CENTRAL_DIR", store).status().expect("ize runs");
    assert!(status.success(), "ize {args:?}");
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn main() {
    let rounds: usize = std::env::args().filter_map(|a| a.parse().ok()).next().unwrap_or(7);
    // Beside each other on one file system, and not on one that lives in memory.
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let (native, mount, store) = (place.path().join("native"), place.path().join("mount"), place.path().join("store"));
    fs::create_dir(&native).expect("created");
    let point = mount.to_str().expect("a plain path").to_owned();
    ize(&store, &["mount", "bench", &point, "--create"]);
    let mut results: Vec<(Vec<Duration>, Vec<Duration>)> = vec![(Vec::new(), Vec::new()); WORKS.len()];
    for round in 0..=rounds {
        for (index, (_, work)) in WORKS.iter().enumerate() {
            for (base, is_mount) in [(&native, false), (&mount, true)] {
                let dir = base.join(format!("{round}-{index}"));
                fs::create_dir(&dir).expect("created");
                let took = work(&dir);
                // The first round only warms up.
                if round > 0 {
                    let (a, b) = &mut results[index];
                    if is_mount { b.push(took) } else { a.push(took) }
                }
                fs::remove_dir_all(&dir).expect("removed");
            }
        }
    }
    ize(&store, &["unmount", "bench"]);
    println!("| work | native | ize | ize / native |\n|---|---|---|---|");
    for ((name, _), (a, b)) in WORKS.iter().zip(results) {
        let (a, b) = (median(a), median(b));
        println!(
            "| {name} | {:.2} ms | {:.2} ms | {:.2} |",
            a.as_secs_f64() * 1e3,
            b.as_secs_f64() * 1e3,
            b.as_secs_f64() / a.as_secs_f64()
        );
    }
}

//! Everyday work in a mount beside the same on the file system below it and on two others that stand on it, bindfs and libfuse's
//! passthrough_hp (`benches/peers` gets them): `cargo bench --bench mount`.
//!
//! Interleaved rounds: in each, every contender does every work once, in a directory of its own; who goes first changes. Shown are
//! medians, and of the rounds' ratios of ize to native the median and the range that holds 90 % of them. First with everything on one CPU
//! (a wake-up costs 5 us there and 30 to 70 across two), then unpinned.
//!
//! Words behind `--`: `rounds N` (15; heavy works a third of them), `only TEXT` (works whose name contains it), `pinned` or `unpinned`
//! (else both), `touch GIB` (4: so much is written and removed first, so that all work on blocks that the disk has seen; 0 for none),
//! `peers DIR` (where passthrough_hp is). The place is `IZE_BENCH_DIR`, else the target directory.

#![allow(clippy::expect_used, clippy::print_stdout, reason = "a bench that cannot go on stops, and prints its table")]

mod contenders;
mod works;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use contenders::Contender;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use works::{WORKS, Work};

fn quantile(values: &[f64], q: f64) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let at = q * (values.len() - 1) as f64;
    let (low, high) = (values[at.floor() as usize], values[at.ceil() as usize]);
    low + (high - low) * at.fract()
}

fn touch(place: &Path, gib: u64) {
    let block = vec![0x5a; 1 << 20];
    let mut file = File::create(place.join("touch")).expect("created");
    for _ in 0..gib * 1024 {
        if file.write_all(&block).is_err() {
            break;
        }
    }
    file.sync_all().expect("synced");
    fs::remove_file(place.join("touch")).expect("removed");
}

/// Times by work and contender, a round behind the other.
fn measure(place: &Path, peers: Option<&Path>, works: &[&Work], rounds: usize) -> BTreeMap<(usize, &'static str), Vec<f64>> {
    let contenders = Contender::all(place, peers);
    let mut times = BTreeMap::<_, Vec<f64>>::new();
    // The first round only warms up.
    for round in 0..=rounds {
        for (index, work) in works.iter().enumerate() {
            if work.heavy && round > rounds.div_ceil(3) {
                continue;
            }
            for turn in 0..contenders.len() {
                let contender = &contenders[(turn + round) % contenders.len()];
                let dir = contender.dir.join(format!("{round}-{index}"));
                fs::create_dir(&dir).expect("created");
                let took = (work.run)(&dir).as_secs_f64();
                if round > 0 {
                    times.entry((index, contender.name)).or_default().push(took);
                }
                fs::remove_dir_all(&dir).expect("removed");
            }
        }
    }
    times
}

fn print(works: &[&Work], times: &BTreeMap<(usize, &'static str), Vec<f64>>) {
    println!(
        "| work | native | bindfs | passthrough_hp | ize | ize to native (90 %) | wanted | ahead of both |\n|---|---|---|---|---|---|---|---|"
    );
    for (index, work) in works.iter().enumerate() {
        let of = |name| times.get(&(index, name)).map(Vec::as_slice).unwrap_or_default();
        let shown = |name| if of(name).is_empty() { "-".to_owned() } else { work.unit.show(quantile(of(name), 0.5)) };
        let (native, ize) = (of("native"), of("ize"));
        let rate = work.unit.is_rate();
        let ratios: Vec<f64> = native.iter().zip(ize).map(|(n, i)| if rate { n / i } else { i / n }).collect();
        let [low, mid, high] = [0.05, 0.5, 0.95].map(|q| quantile(&ratios, q));
        let wanted = work.wanted.map_or(String::new(), |w| {
            let met = if rate { mid >= w } else { mid <= w };
            format!("{} {w}{}", if rate { ">=" } else { "<=" }, if met { "" } else { " **missed**" })
        });
        let peers: Vec<f64> =
            ["bindfs", "passthrough_hp"].into_iter().map(of).filter(|t| !t.is_empty()).map(|t| quantile(t, 0.5)).collect();
        let ahead = if peers.is_empty() {
            ""
        } else if peers.iter().all(|p| quantile(ize, 0.5) <= *p) {
            "yes"
        } else {
            "**no**"
        };
        println!(
            "| {} | {} | {} | {} | {} | {mid:.2} ({low:.2} to {high:.2}) | {wanted} | {ahead} |",
            work.name,
            shown("native"),
            shown("bindfs"),
            shown("passthrough_hp"),
            shown("ize"),
        );
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| args.iter().position(|a| a == name).and_then(|at| args.get(at + 1));
    let rounds = value("rounds").and_then(|v| v.parse().ok()).unwrap_or(15);
    let gib = value("touch").and_then(|v| v.parse().ok()).unwrap_or(4);
    let works: Vec<&Work> = WORKS.iter().filter(|w| value("only").is_none_or(|only| w.name.contains(only.as_str()))).collect();
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let peers = value("peers").map_or_else(|| target.parent().expect("a directory above").join("peers"), PathBuf::from);
    // Beside each other on one file system, and not on one that lives in memory.
    let place = tempfile::tempdir_in(std::env::var_os("IZE_BENCH_DIR").map_or(target.to_owned(), PathBuf::from)).expect("a directory");
    if works.iter().any(|w| w.heavy) {
        works::prepare(place.path());
    }
    touch(place.path(), gib);
    let all_cpus = sched_getaffinity(None).expect("the CPUs are known");
    for pinned in [true, false] {
        if args.iter().any(|a| a == if pinned { "unpinned" } else { "pinned" }) {
            continue;
        }
        let mut cpus = CpuSet::new();
        cpus.set(0);
        // Daemons and clients inherit it.
        sched_setaffinity(None, if pinned { &cpus } else { &all_cpus }).expect("pinned");
        println!("\n{}, {rounds} rounds, {gib} GiB of blocks touched before\n", if pinned { "pinned to one CPU" } else { "unpinned" });
        print(&works, &measure(place.path(), peers.is_dir().then_some(peers.as_path()), &works, rounds));
    }
}

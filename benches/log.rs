//! The log by itself, beside what the disk can do: `cargo bench --bench log`. Prints the table of README.md.
//!
//! Appends without a sync; durable appends by 1, 8 and 32 committers beside a bare group-commit loop (pwrite and fdatasync of a
//! zero-filled file) in interleaved rounds, with the 90 % interval of the ratio; the recovery scan of 1 GiB of 4 KiB records and the memory
//! it takes. `-- rounds N` (default 15) and `-- seconds S` a round (default 0.3) make it quicker or steadier.

#![allow(clippy::expect_used, clippy::print_stdout, clippy::unwrap_used, reason = "a bench that cannot go on stops, and prints its table")]

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use ize::ids::{Lsn, StoreId};
use ize::storage::Disk;
use ize::wal::format::framed_len;
use ize::wal::{Bounds, Log, Options, Record, RecoveryInput, scan};

const STORE: StoreId = StoreId([9; 16]);

fn open(dir: &Path) -> Log {
    open_with(dir, Options::default())
}

fn open_with(dir: &Path, options: Options) -> Log {
    let mut verify = |_: &Record<'_>| Ok(true);
    let input = RecoveryInput { clean: true, ..RecoveryInput::new(&mut verify) };
    Log::recover(Disk::shared(), dir, STORE, input, options).expect("the log opens").0
}

fn append(log: &Log, body: &[u8]) -> Lsn {
    let appended = log.append_with(framed_len(body.len()), &mut |_, batch| {
        batch.push(0x0010, 1, &[body], 0);
    });
    appended.expect("appended").last().expect("one record").lsn
}

/// Segments are zero-filled by a thread meanwhile; what counts is what the caller waits for, and its mean over many segments.
fn plain_append(dir: &Path, len: usize) -> f64 {
    let log = open(&dir.join(format!("plain-{len}")));
    let body = vec![0x5a; len];
    let total = (192usize << 20) / framed_len(len);
    for _ in 0..total / 8 {
        append(&log, &body);
    }
    let start = Instant::now();
    for _ in 0..total {
        append(&log, &body);
    }
    start.elapsed().as_secs_f64() * 1e6 / total as f64
}

/// As [`plain_append`], within one large segment: what an append costs without the birth of segments.
fn within_segment(dir: &Path, len: usize) -> f64 {
    let options = Options { segment_size: 256 << 20, background: false, max_unsynced: 1 << 30, ..Options::default() };
    let log = open_with(&dir.join(format!("within-{len}")), options);
    let body = vec![0x5a; len];
    append(&log, &body);
    let total = (200usize << 20) / framed_len(len);
    let start = Instant::now();
    for _ in 0..total {
        append(&log, &body);
    }
    start.elapsed().as_secs_f64() * 1e6 / total as f64
}

/// The loop that the log is measured against: one file, zero-filled and synced, one pwrite a record, one fdatasync for all who wait.
struct Bare {
    file: File,
    state: Mutex<BareState>,
    done: Condvar,
    size: u64,
}

#[derive(Default)]
struct BareState {
    end: u64,
    written: u64,
    durable: u64,
    leading: bool,
}

impl Bare {
    fn new(path: &Path) -> Self {
        let size = 64 << 20;
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path).expect("created");
        for at in 0..size / (1 << 20) {
            file.write_all_at(&vec![0; 1 << 20], at << 20).expect("filled");
        }
        file.sync_all().expect("synced");
        Self { file, state: Mutex::default(), done: Condvar::new(), size }
    }

    fn durable(&self, bytes: &[u8]) {
        let mut state = self.state.lock().unwrap();
        if state.end + bytes.len() as u64 > self.size {
            state.end = 0;
        }
        self.file.write_all_at(bytes, state.end).expect("written");
        state.end += bytes.len() as u64;
        state.written += 1;
        let mine = state.written;
        loop {
            if state.durable >= mine {
                return;
            }
            if !state.leading {
                break;
            }
            state = self.done.wait(state).unwrap();
        }
        state.leading = true;
        let target = state.written;
        drop(state);
        self.file.sync_data().expect("synced");
        let mut state = self.state.lock().unwrap();
        state.leading = false;
        state.durable = state.durable.max(target);
        drop(state);
        self.done.notify_all();
    }
}

/// Durable operations a second of `committers` threads that do nothing else for `length`.
fn rate(committers: usize, length: Duration, work: &(dyn Fn() + Sync)) -> f64 {
    let (stop, count) = (AtomicBool::new(false), AtomicU64::new(0));
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..committers {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    work();
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        std::thread::sleep(length);
        stop.store(true, Ordering::Relaxed);
    });
    count.load(Ordering::Relaxed) as f64 / start.elapsed().as_secs_f64()
}

fn durable_appends(dir: &Path, rounds: usize, length: Duration) {
    let body = vec![0x5a; 4096];
    let framed = vec![0x5a; framed_len(4096)];
    println!("| durable append of 4 KiB, {rounds} interleaved rounds | ize /s | bare loop /s | ratio (90 % interval) | wanted |");
    println!("|---|---|---|---|---|");
    for (committers, wanted) in [(1, 0.85), (8, 0.8), (32, 0.8)] {
        let log = open(&dir.join(format!("durable-{committers}")));
        let bare = Bare::new(&dir.join(format!("bare-{committers}")));
        let ours = || {
            let lsn = append(&log, &body);
            log.sync_to(lsn).expect("synced");
        };
        let theirs = || bare.durable(&framed);
        rate(committers, length, &ours);
        rate(committers, length, &theirs);
        let mut ratios = Vec::new();
        let (mut a, mut b) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            // Who goes first alternates, so that a drift of the disk favours nobody.
            let (x, y) = if round % 2 == 0 {
                let x = rate(committers, length, &ours);
                (x, rate(committers, length, &theirs))
            } else {
                let y = rate(committers, length, &theirs);
                (rate(committers, length, &ours), y)
            };
            a.push(x);
            b.push(y);
            ratios.push(x / y);
        }
        let (low, mid, high) = (quantile(&mut ratios, 0.05), quantile(&mut ratios, 0.5), quantile(&mut ratios, 0.95));
        println!(
            "| {committers} committers | {:.0} | {:.0} | {mid:.2} ({low:.2} to {high:.2}) | {wanted} |",
            quantile(&mut a, 0.5),
            quantile(&mut b, 0.5)
        );
    }
}

fn quantile(values: &mut [f64], q: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = q * (values.len() - 1) as f64;
    let (low, high) = (values[at.floor() as usize], values[at.ceil() as usize]);
    low + (high - low) * at.fract()
}

/// Highest resident set so far, in MiB.
fn peak() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("readable");
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).expect("there");
    line.trim().trim_end_matches(" kB").parse::<f64>().expect("a number") / 1024.0
}

fn recovery(dir: &Path) {
    let dir = dir.join("recovery");
    let body = vec![0x5a; 4096];
    let total = (1usize << 30) / framed_len(4096);
    {
        let log = open(&dir);
        for _ in 0..total {
            append(&log, &body);
        }
        log.sync().expect("synced");
    }
    // As another process would: so that the memory is that of the scan alone.
    std::fs::write("/proc/self/clear_refs", "5").ok();
    let before = peak();
    let (mut best, mut bytes) = (f64::MAX, 0);
    for _ in 0..5 {
        let start = Instant::now();
        let scanned = scan(&Disk, &dir, STORE, Bounds::default()).expect("scanned");
        best = best.min(start.elapsed().as_secs_f64());
        bytes = scanned.segments.iter().map(|s| s.bytes).sum::<u64>();
        assert!(scanned.findings.is_empty());
    }
    let (rate, memory) = (bytes as f64 / best / 1e9, peak());
    println!("| recovery scan of 1 GiB of 4 KiB records, warm | {rate:.2} GB/s | wanted 1.5 |");
    println!("| memory of the process then (before the scan {before:.0} MiB) | {memory:.0} MiB | wanted below 64 |");
    let start = Instant::now();
    drop(open(&dir));
    println!("| recovery of it after a kill, in all | {:.2} s | |", start.elapsed().as_secs_f64());
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let value = |name: &str| args.iter().position(|a| a == name).and_then(|at| args.get(at + 1)).and_then(|v| v.parse::<f64>().ok());
    let rounds = value("rounds").unwrap_or(15.0) as usize;
    let length = Duration::from_secs_f64(value("seconds").unwrap_or(0.3));
    let only = args.iter().skip(1).find(|a| ["append", "durable", "recovery"].contains(&a.as_str()));
    let temp = tempfile::tempdir_in(std::env::var_os("IZE_BENCH_DIR").unwrap_or_else(|| std::env::temp_dir().into())).expect("a directory");
    let wants = |what: &str| only.is_none_or(|o| o == what);
    if wants("append") {
        println!("| append without sync | us | wanted |\n|---|---|---|");
        for (len, wanted) in [(4096, 2.5), (200, 2.0)] {
            println!("| {len} B, segments of 4 MiB | {:.2} | {wanted} |", plain_append(temp.path(), len));
            println!("| {len} B, within one segment | {:.2} | |", within_segment(temp.path(), len));
        }
    }
    if wants("durable") {
        durable_appends(temp.path(), rounds, length);
    }
    if wants("recovery") {
        println!("| recovery | | |\n|---|---|---|");
        recovery(temp.path());
    }
}

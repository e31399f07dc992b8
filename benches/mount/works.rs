//! What is measured. Each work gets a fresh directory, prepares what it needs, and gives the time of the rest.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How a time is shown, and what is better.
#[derive(Clone, Copy)]
pub enum Unit {
    /// Microseconds each; so many in all.
    Micros(u32),
    /// A second; so many in all.
    Rate(u32),
    /// MiB a second; so many in all.
    Mib(u32),
    /// Milliseconds.
    Millis,
}

impl Unit {
    pub fn show(self, time: f64) -> String {
        match self {
            Unit::Micros(n) => format!("{:.1} us", time * 1e6 / f64::from(n)),
            Unit::Rate(n) => format!("{:.0} /s", f64::from(n) / time),
            Unit::Mib(n) => format!("{:.0} MiB/s", f64::from(n) / time),
            Unit::Millis => format!("{:.1} ms", time * 1e3),
        }
    }

    /// True when larger is better: the ratio is then one of speeds, else one of times.
    pub fn is_rate(self) -> bool {
        matches!(self, Unit::Rate(_) | Unit::Mib(_))
    }
}

pub struct Work {
    pub name: &'static str,
    pub unit: Unit,
    /// What the ratio to native is to be: at least, for a rate; at most, for a time.
    pub wanted: Option<f64>,
    /// Takes long: fewer rounds.
    pub heavy: bool,
    pub run: fn(&Path) -> Duration,
}

fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

const fn work(name: &'static str, unit: Unit, wanted: Option<f64>, run: fn(&Path) -> Duration) -> Work {
    Work { name, unit, wanted, heavy: false, run }
}

const fn heavy(name: &'static str, unit: Unit, wanted: Option<f64>, run: fn(&Path) -> Duration) -> Work {
    Work { name, unit, wanted, heavy: true, run }
}

pub const WORKS: &[Work] = &[
    work("create + write 4 KiB + close", Unit::Micros(500), Some(2.8), |dir| {
        timed(|| (0..500).for_each(|i| fs::write(dir.join(format!("f{i}")), [7; 4096]).expect("written")))
    }),
    work("open + read 4 KiB + close", Unit::Micros(500), Some(1.5), |dir| {
        (0..500).for_each(|i| fs::write(dir.join(format!("r{i}")), [7; 4096]).expect("written"));
        let read = || (0..500).for_each(|i| drop(fs::read(dir.join(format!("r{i}"))).expect("read")));
        read();
        timed(read)
    }),
    work("unlink", Unit::Micros(500), Some(3.0), |dir| {
        (0..500).for_each(|i| fs::write(dir.join(format!("u{i}")), [7; 4096]).expect("written"));
        timed(|| (0..500).for_each(|i| fs::remove_file(dir.join(format!("u{i}"))).expect("removed")))
    }),
    work("4 KiB write + fsync, 1 client", Unit::Rate(300), Some(1.2), |dir| synced_writes(dir, 1, 300)),
    work("4 KiB write + fsync, 4 clients", Unit::Rate(800), Some(1.0), |dir| synced_writes(dir, 4, 200)),
    work("4 KiB write + fsync, 8 clients", Unit::Rate(1200), Some(0.95), |dir| synced_writes(dir, 8, 150)),
    work("create + fsync + rename + directory fsync", Unit::Rate(100), Some(1.2), |dir| {
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
    work("sequential write by 1 MiB with fsync", Unit::Mib(256), Some(0.5), |dir| {
        let mut block: Vec<u8> = (0..1 << 20).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let mut file = File::create(dir.join("large")).expect("created");
        timed(|| {
            for i in 0..256u64 {
                block[..8].copy_from_slice(&i.to_le_bytes());
                file.write_all(&block).expect("written");
            }
            file.sync_all().expect("synced");
        })
    }),
    work("sequential write by 4 KiB, no sync", Unit::Mib(16), None, |dir| {
        let mut file = File::create(dir.join("small")).expect("created");
        timed(|| (0..4096).for_each(|_| file.write_all(&[7; 4096]).expect("written")))
    }),
    work("random write of 4 KiB in 16 MiB, no sync", Unit::Micros(2000), None, |dir| {
        fs::write(dir.join("random"), vec![1; 16 << 20]).expect("written");
        let file = OpenOptions::new().write(true).open(dir.join("random")).expect("opened");
        timed(|| (0..2000u64).for_each(|i| file.write_all_at(&[7; 4096], i * 7919 % 4096 * 4096).expect("written")))
    }),
    work("read 64 MiB by 128 KiB, warm", Unit::Mib(64), None, |dir| {
        fs::write(dir.join("read"), vec![3; 64 << 20]).expect("written");
        let mut buffer = vec![0; 128 << 10];
        let mut read = || {
            let mut file = File::open(dir.join("read")).expect("opened");
            while file.read(&mut buffer).expect("read") > 0 {}
        };
        read();
        timed(read)
    }),
    work("ls -l of 1,000 entries, first", Unit::Millis, Some(0.8), |dir| first_listing(dir, 1_000)),
    heavy("ls -l of 10,000 entries, first", Unit::Millis, Some(0.8), |dir| first_listing(dir, 10_000)),
    work("SQLite, WAL, synchronous FULL", Unit::Rate(300), Some(0.9), |dir| sqlite(dir, "WAL", "FULL", 300)),
    work("SQLite, WAL, synchronous NORMAL", Unit::Rate(3000), Some(0.45), |dir| sqlite(dir, "WAL", "NORMAL", 3000)),
    work("SQLite, DELETE, synchronous FULL", Unit::Rate(100), Some(1.0), |dir| sqlite(dir, "DELETE", "FULL", 100)),
    heavy("tar x of 6,000 files, 90 MB", Unit::Millis, Some(2.5), |dir| {
        let source = source(dir);
        timed(|| untar(dir, &source))
    }),
    heavy("grep -r in it, warm", Unit::Millis, Some(2.5), |dir| {
        untar(dir, &source(dir));
        sh(dir, "grep -r nowhere . || true");
        timed(|| sh(dir, "grep -r nowhere . || true"))
    }),
    heavy("rm -rf of it", Unit::Millis, Some(1.6), |dir| {
        untar(dir, &source(dir));
        timed(|| sh(dir, "rm -rf tree"))
    }),
    heavy("git clone of it", Unit::Millis, Some(2.0), |dir| {
        let source = source(dir);
        timed(|| sh(dir, &format!("git clone -q --no-local {}/tree clone", source.display())))
    }),
    heavy("cp of a file of 256 MiB in the same place", Unit::Millis, None, |dir| {
        let block: Vec<u8> = (0..1 << 20).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let mut file = File::create(dir.join("large")).expect("created");
        (0..256).for_each(|_| file.write_all(&block).expect("written"));
        timed(|| sh(dir, "cp large copy"))
    }),
];

/// Where [`prepare`] put the tree: beside the contenders' places.
fn source(dir: &Path) -> std::path::PathBuf {
    dir.parent().and_then(Path::parent).expect("a place").join("source")
}

/// A tree of 6,000 files, as a tar and as a git repository.
pub fn prepare(place: &Path) {
    let source = place.join("source");
    let tree = source.join("tree");
    let mut random = 1u64;
    let mut draw = move || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        random >> 33
    };
    for d in 0..300 {
        let dir = tree.join(format!("d{}/e{d}", d % 20));
        fs::create_dir_all(&dir).expect("created");
        for f in 0..20 {
            // 100 bytes to 60 KiB, most of them small, in lines that compress as source text does.
            let mut text = String::new();
            let len = 100 + (draw() % 245).pow(2);
            while (text.len() as u64) < len {
                text.push_str(&format!("let value_{} = compute({}, \"{:x}\");\n", draw() % 100, draw() % 10_000, draw()));
            }
            fs::write(dir.join(format!("f{f}.rs")), text).expect("written");
        }
    }
    sh(&source, "tar cf tree.tar tree; cd tree; git init -q; git add -A; git -c user.name=n -c user.email=e commit -qm tree");
}

/// passthrough_hp does not take every utimens; the bytes are there all the same.
fn untar(dir: &Path, source: &Path) {
    sh(dir, &format!("tar xf {}/tree.tar 2>errors || [ -e tree/d19/e299/f19.rs ]", source.display()));
}

fn sh(dir: &Path, script: &str) {
    let status = Command::new("sh").args(["-ec", script]).current_dir(dir).stdout(Stdio::null()).status().expect("sh runs");
    assert!(status.success(), "{script}");
}

/// Each client writes to a file of its own.
fn synced_writes(dir: &Path, clients: u32, each: u32) -> Duration {
    let files: Vec<File> = (0..clients).map(|i| File::create(dir.join(format!("synced-{i}"))).expect("created")).collect();
    timed(|| {
        std::thread::scope(|scope| {
            for mut file in files {
                scope.spawn(move || {
                    (0..each).for_each(|_| {
                        file.write_all(&[7; 4096]).expect("written");
                        file.sync_all().expect("synced");
                    });
                });
            }
        });
    })
}

/// Nothing of the directory is in the kernel's caches of names and inodes (pages of the disk are).
fn first_listing(dir: &Path, entries: u32) -> Duration {
    (0..entries).for_each(|i| drop(File::create(dir.join(format!("l{i}"))).expect("created")));
    // Only root may; otherwise the names are known and the row says less.
    let _ = fs::write("/proc/sys/vm/drop_caches", "2");
    timed(|| sh(dir, "ls -l"))
}

/// So many transactions of one insert each.
fn sqlite(dir: &Path, journal: &str, synchronous: &str, transactions: u32) -> Duration {
    let mut script = String::new();
    for i in 0..transactions {
        script.push_str(&format!("INSERT INTO t VALUES ({i}, 'some text that is as long as a row may be, {i}');\n"));
    }
    let run = |script: &str| {
        let mut child =
            Command::new("sqlite3").arg(dir.join("db")).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("sqlite3 runs");
        child.stdin.take().expect("piped").write_all(script.as_bytes()).expect("read by it");
        assert!(child.wait().expect("ends").success());
    };
    run(&format!("PRAGMA journal_mode={journal}; CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT);"));
    timed(|| run(&format!("PRAGMA journal_mode={journal}; PRAGMA synchronous={synchronous};\n{script}")))
}

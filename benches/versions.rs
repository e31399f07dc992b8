//! From a sealed log to a durable checkpoint: `cargo bench --no-default-features --bench versions`. What replay A costs by itself, without a
//! mount. Words behind `--`: `only TEXT` (rows whose name contains it). The place is `IZE_BENCH_DIR`, else the target directory.

#![allow(clippy::expect_used, clippy::print_stdout, reason = "a bench that cannot go on stops, and prints its table")]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ize::engine::core::{Core, CoreOptions};
use ize::engine::group::GroupLimits;
use ize::fs::journal::Caller;
use ize::ids::{BlobId, Ino, Lsn, StoreId, Time, VersionSeq};
use ize::project::Layout;
use ize::storage::Disk;
use ize::versions::version_log::{ChangeId, Mode, Origin, PathChange, Version, VersionLog, What};

const CALLER: Caller = Caller { pid: 0, uid: 0, gid: 0 };

struct Place {
    core: Core,
    dir: tempfile::TempDir,
    random: u64,
}

/// Every commit is one version, unless `small`.
fn open(dir: &Path, small: bool) -> Core {
    let all = GroupLimits { inodes: usize::MAX, bytes: u64::MAX, age: Duration::from_secs(3600), ..GroupLimits::default() };
    let options = CoreOptions {
        store: StoreId([7; 16]),
        owner: (0, 0),
        clean: true,
        same_boot: true,
        segment_size: 16 << 20,
        prepare: true,
        limits: if small { GroupLimits { inodes: 50_000, ..all } } else { all },
        reserve: 0,
        command_lines: false,
        cache_inodes: 200_000,
    };
    Core::open(Disk::shared(), Layout::new(dir), &options).expect("the store opens")
}

impl Place {
    fn new(small: bool) -> Self {
        let above = std::env::var_os("IZE_BENCH_DIR").map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
        let dir = tempfile::tempdir_in(above).expect("a directory");
        Self { core: open(dir.path(), small), dir, random: 1 }
    }

    fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.random >> 33
    }

    /// Lines as source text has them.
    fn text(&mut self, len: usize) -> Vec<u8> {
        let mut text = String::with_capacity(len + 64);
        while text.len() < len {
            let (a, b, c) = (self.draw() % 100, self.draw() % 10_000, self.draw());
            text.push_str(&format!("let value_{a} = compute({b}, \"{c:x}\");\n"));
        }
        text.truncate(len);
        text.into_bytes()
    }

    fn noise(&mut self, len: usize) -> Vec<u8> {
        (0..len.div_ceil(4)).flat_map(|_| (self.draw() as u32).to_le_bytes()).take(len).collect()
    }

    fn file(&mut self, dir: Ino, name: &str, bytes: &[u8]) -> Ino {
        let ino = self.core.fs.create(&CALLER, dir, name.as_bytes(), 0o644, true).expect("created").ino;
        self.write(ino, 0, bytes);
        ino
    }

    fn write(&mut self, ino: Ino, offset: u64, bytes: &[u8]) {
        for (n, part) in bytes.chunks(1 << 20).enumerate() {
            self.core.fs.write(&CALLER, ino, offset + ((n as u64) << 20), part, false).expect("written");
        }
    }

    /// Files of 2 KB of text each, `each` to a directory (0: all in the root).
    fn files(&mut self, count: usize, each: usize) -> Vec<Ino> {
        let mut dir = Ino::ROOT;
        let mut all = Vec::new();
        for n in 0..count {
            if each > 0 && n % each == 0 {
                let name = format!("d{}", n / each);
                dir = self.core.fs.mkdir(&CALLER, Ino::ROOT, name.as_bytes(), 0o755).expect("made").ino;
            }
            let text = self.text(2000);
            all.push(self.file(dir, &format!("file-{n}.rs"), &text));
        }
        all
    }

    /// Time from the sealed log to the durable checkpoint, and the bytes that packs and version log grew by.
    fn commit(&self) -> (Duration, u64) {
        self.core.log.seal().expect("sealed");
        let before = self.core.blobs.usage().pack_bytes;
        let begun = Instant::now();
        self.core.replay(true).expect("replayed");
        (begun.elapsed(), self.core.blobs.usage().pack_bytes - before)
    }
}

fn row(what: &str, (time, bytes): (Duration, u64), wanted: &str) {
    println!("| {what} | {:.1} ms | {:.2} MB | {wanted} |", time.as_secs_f64() * 1e3, bytes as f64 / 1e6);
}

/// The median of nine edits of one line.
fn edits(place: &mut Place, files: &[Ino], what: &str) {
    let mut times: Vec<(Duration, u64)> = (0..9)
        .map(|_| {
            let at = place.draw() as usize % files.len();
            place.write(files[at], 100, b"let x = 1;\n");
            place.commit()
        })
        .collect();
    times.sort();
    row(what, times[4], "15 ms");
}

fn peak_rss() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap_or("0 kB");
    line.trim().trim_end_matches(" kB").trim().parse().unwrap_or(0)
}

/// A million files in a thousand directories, one text in all of them; then a fresh process opens the store and lists everything.
fn million() {
    let mut place = Place::new(true);
    let text = place.text(2000);
    let begun = Instant::now();
    for d in 0..1000 {
        let dir = place.core.fs.mkdir(&CALLER, Ino::ROOT, format!("d{d}").as_bytes(), 0o755).expect("made").ino;
        for f in 0..1000 {
            place.file(dir, &format!("file-{f}"), &text);
        }
        if d % 50 == 49 {
            place.commit();
        }
    }
    println!("| 1,000,000 files written and committed | {:.1} s | | |", begun.elapsed().as_secs_f64());
    place.core.close().expect("closed");
    let dir = place.dir;
    drop(place.core);
    let myself = std::env::current_exe().expect("a program");
    let status = std::process::Command::new(myself).arg("reopen").arg(dir.path()).status().expect("runs");
    assert!(status.success());
}

/// A hundred thousand versions of one path each: opened and searched.
fn many() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("versions");
    let open = |mode| VersionLog::open(Disk::shared(), path.clone(), StoreId([7; 16]), mode).expect("opens");
    let mut log = open(Mode::Write { keep_up_to: VersionSeq(0) });
    let count = 100_000;
    for seq in 1..=count {
        let changed = PathChange { path: format!("src/part{}/file{}.rs", seq % 50, seq % 5000).into_bytes(), what: What::Modified };
        let time = Time { secs: i64::try_from(seq).expect("small"), nanos: 0 };
        let version = Version {
            seq: VersionSeq(seq),
            first: Lsn(seq),
            last: Lsn(seq),
            begin: time,
            end: time,
            root: BlobId::of(&seq.to_le_bytes()),
            parent_root: None,
            paths: vec![changed],
            processes: Vec::new(),
            label: None,
            operations: 1,
            bytes: 100,
            origin: Origin::Burst,
            id: ChangeId(seq),
            covers: Lsn(seq),
            thinned: 0,
            part: 1,
            parts: 1,
        };
        log.append(&version).expect("appended");
        log.counted();
    }
    drop(log);
    let reading = Mode::ReadOnly { keep_up_to: Some(VersionSeq(count)) };
    let timed = |what: &str, work: &mut dyn FnMut() -> usize| {
        let begun = Instant::now();
        let found = work();
        println!("| 100,000 versions: {what} | {:.1} ms ({found} found) | | |", begun.elapsed().as_secs_f64() * 1e3);
    };
    let mut log = None;
    timed("opening", &mut || log.insert(open(reading)).len() as usize);
    let log = log.expect("opened");
    timed("the last 20", &mut || (count - 19..=count).filter(|seq| log.get(VersionSeq(*seq)).expect("read").is_some()).count());
    timed("by time", &mut || usize::from(log.at_time(Time { secs: 54_321, nanos: 0 }).expect("read").is_some()));
    timed("by path", &mut || {
        let wanted = b"src/part17/file1017.rs";
        let may = (1..=count).filter(|seq| log.may_touch(VersionSeq(*seq), wanted));
        may.filter(|seq| log.get(VersionSeq(*seq)).expect("read").expect("there").paths[0].path == wanted).count()
    });
    std::fs::remove_file(dir.path().join("versions.index")).expect("removed");
    timed("opening without its index", &mut || usize::try_from(open(reading).len()).expect("small"));
}

/// What a process that has done nothing else needs.
fn reopen(dir: &Path) {
    let begun = Instant::now();
    let core = open(dir, true);
    println!("| 1,000,000 files: opening | {:.1} ms | | 1 s |", begun.elapsed().as_secs_f64() * 1e3);
    println!("| peak RSS | {} MB | | 150 MiB |", peak_rss() / 1000);
    let begun = Instant::now();
    let (mut dirs, mut entries) = (vec![Ino::ROOT], 0u64);
    while let Some(dir) = dirs.pop() {
        let handle = core.fs.opendir(dir).expect("opened");
        let take = |entry: &ize::fs::DirEntry, _: &ize::tree::Stat| {
            if entry.cookie > 2 {
                entries += 1;
                if entry.kind == ize::versions::node::FileKind::Directory {
                    dirs.push(entry.ino);
                }
            }
            true
        };
        core.fs.readdirplus(dir, handle, 0, take).expect("read");
        core.fs.releasedir(dir, handle);
    }
    println!("| listing all with attributes | {:.0} entries/s | | 200,000 |", entries as f64 / begun.elapsed().as_secs_f64());
    println!("| peak RSS | {} MB | | |", peak_rss() / 1000);
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|w| !w.starts_with("--")).collect();
    if let [word, dir, ..] = &words[..]
        && word == "reopen"
    {
        return reopen(Path::new(dir));
    }
    let only = words.windows(2).find(|w| w[0] == "only").map(|w| w[1].clone()).unwrap_or_default();
    println!("| work | seal to checkpoint | packs grew by | wanted |\n|---|---|---|---|");
    for (shape, each) in [("200 directories", 100), ("one flat directory", 0)] {
        if !"files edit".contains(&only) && !shape.contains(&only) {
            continue;
        }
        let mut place = Place::new(false);
        let files = place.files(20_000, each);
        row(&format!("20,000 new files of 2 KB in {shape}"), place.commit(), "4 s");
        edits(&mut place, &files, &format!("one-line edit among them, {shape}"));
        println!("| peak RSS so far | {} MB | | 300 MB |", peak_rss() / 1000);
    }
    if "large".contains(&only) {
        let mut place = Place::new(false);
        let size = 1usize << 30;
        let ino = place.core.fs.create(&CALLER, Ino::ROOT, b"large", 0o644, true).expect("created").ino;
        for n in 0..size >> 20 {
            let block = place.noise(1 << 20);
            place.write(ino, (n as u64) << 20, &block);
        }
        let (time, bytes) = place.commit();
        row("1 GiB of random bytes", (time, bytes), "");
        let block = place.noise(4096);
        place.write(ino, size as u64 / 2 + 4096, &block);
        row("4 KiB edit in its middle", place.commit(), "100 ms, 2 MB");
        println!("| peak RSS so far | {} MB | | |", peak_rss() / 1000);
    }
    if "versions".contains(&only) {
        many();
    }
    if "million".contains(&only) {
        million();
    }
}

//! From versions to Pijul changes: `cargo bench --bench pijul`. What replay B costs by itself, without a mount. Words behind `--`:
//! `only TEXT` (rows whose name contains it), `versions N` (instead of 20,000), `client PATH` (the real client: what it reads out
//! before and after the rebuild is compared). The place is `IZE_BENCH_DIR`, else the target directory.

#![allow(clippy::expect_used, clippy::print_stdout, reason = "a bench that cannot go on stops, and prints its table")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ize::control::Request;
use ize::control::message::{PijulReport, RebuildRequest};
use ize::engine::Engine;
use ize::engine::core::{Core, CoreOptions};
use ize::engine::group::GroupLimits;
use ize::fs::journal::Caller;
use ize::ids::Ino;
use ize::project::{Layout, Project, Settings, layout::Central, registry};
use ize::storage::Disk;

/// As in the daemon.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const CALLER: Caller = Caller { pid: 0, uid: 0, gid: 0 };
const FILES: usize = 20_000;

/// A project in memory, because making the versions is not what is measured; copied to the disk when it is.
struct Place {
    core: Core,
    project: Project,
    memory: tempfile::TempDir,
    files: Vec<Ino>,
}

fn project(central: &Path) -> Project {
    registry::init(&Central::new(central), "bench").expect("a project")
}

impl Place {
    fn new(each: usize) -> Self {
        let memory = tempfile::tempdir_in("/dev/shm").expect("a directory");
        let project = project(memory.path());
        let all = GroupLimits { inodes: usize::MAX, bytes: u64::MAX, age: Duration::from_secs(3600), ..GroupLimits::default() };
        let options = CoreOptions {
            store: project.identity.id,
            owner: (project.identity.owner_uid, project.identity.owner_gid),
            clean: true,
            same_boot: true,
            segment_size: 16 << 20,
            prepare: true,
            limits: all,
            reserve: 0,
            command_lines: false,
            cache_inodes: 200_000,
        };
        let core = Core::open(Disk::shared(), Layout::new(project.layout.dir()), &options).expect("the store opens");
        let mut place = Self { core, project, memory, files: Vec::new() };
        let mut dir = Ino::ROOT;
        for n in 0..FILES {
            if each > 0 && n % each == 0 {
                let name = format!("d{}", n / each);
                dir = place.core.fs.mkdir(&CALLER, Ino::ROOT, name.as_bytes(), 0o755).expect("made").ino;
            }
            let ino = place.core.fs.create(&CALLER, dir, format!("file-{n}.rs").as_bytes(), 0o644, true).expect("created").ino;
            let text: String = (0..50).map(|line| format!("let value_{line} = compute({n}, \"{:x}\");\n", n * line)).collect();
            place.core.fs.write(&CALLER, ino, 0, text.as_bytes(), false).expect("written");
            place.files.push(ino);
        }
        place.commit();
        place
    }

    fn commit(&self) {
        self.core.log.seal().expect("sealed");
        self.core.replay(true).expect("replayed");
    }

    /// So many versions, one edited line each.
    fn edits(&self, count: usize) {
        for n in 0..count {
            let ino = self.files[n * 7919 % self.files.len()];
            self.core.fs.write(&CALLER, ino, 20, format!("{:06}", n % 1_000_000).as_bytes(), false).expect("written");
            self.commit();
        }
    }

    /// On the disk, opened; nothing is in Pijul yet.
    fn open(self) -> (Arc<Engine>, tempfile::TempDir) {
        self.core.close().expect("closed");
        let above = std::env::var_os("IZE_BENCH_DIR").map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
        let disk = tempfile::tempdir_in(above).expect("a directory");
        let central = disk.path().join("central");
        let copy = |from: &Path, to: &Path| {
            assert!(std::process::Command::new("cp").arg("-r").arg(from).arg(to).status().expect("runs").success());
        };
        copy(self.memory.path(), &central);
        let dir = central.join("projects").join(self.project.identity.id.to_string());
        assert!(std::process::Command::new("sync").status().expect("runs").success());
        (Engine::open(&Project::open(dir).expect("the project"), &Settings::default()).expect("opens"), disk)
    }
}

fn report(engine: &Engine) -> PijulReport {
    serde_json::from_value(engine.handle(Request::Pijul, 0).into_result().expect("answers")).expect("a report")
}

/// When the head first was at each of these, from now on.
fn times(engine: &Engine, marks: &[u64]) -> Vec<Duration> {
    let begun = Instant::now();
    let mut out = Vec::new();
    for mark in marks {
        loop {
            let report = report(engine);
            assert!(report.trouble.is_none() && report.refused == 0, "{report:?}");
            if report.head.0 >= *mark {
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        out.push(begun.elapsed());
    }
    out
}

/// What the real client reads out of a copy of the repository: every file, and its bytes. To clone 20,001 changes takes it 40 minutes.
fn read_out(client: &str, engine: &Engine, to: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    std::fs::create_dir(to).expect("made");
    let copied = std::process::Command::new("cp").arg("-a").arg(engine.project().layout.pijul()).arg(to.join(".pijul")).status();
    assert!(copied.expect("cp runs").success());
    let reset = std::process::Command::new(client).arg("reset").current_dir(to).env("HOME", to.parent().expect("above")).status();
    assert!(reset.expect("the client runs").success());
    let (mut out, mut work) = (BTreeMap::new(), vec![to.to_owned()]);
    while let Some(dir) = work.pop() {
        for entry in std::fs::read_dir(dir).expect("read") {
            let path = entry.expect("an entry").path();
            if !path.is_dir() {
                out.insert(path.strip_prefix(to).expect("below").to_owned(), std::fs::read(&path).expect("read"));
            } else if !path.ends_with(".pijul") {
                work.push(path);
            }
        }
    }
    out
}

fn rss(key: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix(key)).unwrap_or("0 kB");
    line.trim().trim_end_matches(" kB").trim().parse().unwrap_or(0)
}

fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<f64> = stat.rsplit(')').next().unwrap_or("").split_whitespace().filter_map(|w| w.parse().ok()).collect();
    // Of those behind the command that are numbers, the state being none: user and system time are the 11th and 12th.
    (fields.get(10).unwrap_or(&0.0) + fields.get(11).unwrap_or(&0.0)) / 100.0
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|w| !w.starts_with("--")).collect();
    let after = |word: &str| words.windows(2).find(|w| w[0] == word).map(|w| w[1].clone());
    let only = after("only").unwrap_or_default();
    let count: usize = after("versions").and_then(|n| n.parse().ok()).unwrap_or(20_000);
    println!("| work | time | CPU | wanted |\n|---|---|---|---|");
    for (shape, each) in [("200 directories", 100), ("one flat directory", 0)] {
        if !only.is_empty() && !shape.contains(&only) {
            continue;
        }
        let place = Place::new(each);
        let begun = Instant::now();
        place.edits(count);
        eprintln!("made {count} versions in {:.1} s", begun.elapsed().as_secs_f64());
        let before = cpu();
        let (engine, disk) = place.open();
        let first = times(&engine, &[1])[0];
        let (first_cpu, row) = (cpu() - before, |what: &str, time: Duration, cpu: f64, wanted: &str| {
            println!("| {what} | {:.2} s | {cpu:.2} s | {wanted} |", time.as_secs_f64());
        });
        row(&format!("{FILES} new files in one version, {shape}"), first, first_cpu, "3 s");
        let before = cpu();
        let last = count as u64 + 1;
        // Seen when they are committed: several hundred in a transaction.
        let mark = |from_end: u64| last.saturating_sub(from_end).max(1);
        let at = times(&engine, &[last.min(1025), last.min(2049), mark(2048), mark(1024), last]);
        row(&format!("{count} versions of one file each, {shape}"), at[4], cpu() - before, "12 s (20,000)");
        println!(
            "| the second 1,024, and the last | {:.3} s, {:.3} s | | twice |",
            (at[1] - at[0]).as_secs_f64(),
            (at[4] - at[3]).as_secs_f64()
        );
        println!("| RSS, and its peak | {} MB, {} MB | | 300 MB |", rss("VmRSS:") / 1000, rss("VmHWM:") / 1000);
        let client = after("client");
        let old = client.as_ref().map(|client| read_out(client, &engine, &disk.path().join("old")));
        let (begun, before) = (Instant::now(), cpu());
        let request = Request::PijulRebuild(RebuildRequest::default());
        engine.handle(request, 0).into_result().expect("rebuilt");
        row(&format!("rebuild of {} versions", count + 1), begun.elapsed(), cpu() - before, "30 s (20,000)");
        if let (Some(client), Some(old)) = (client, old) {
            assert!(old.len() > FILES && old == read_out(&client, &engine, &disk.path().join("new")), "the two differ");
            println!("| the client reads the same out of that, {} files | | | |", old.len());
        }
        let db = engine.project().layout.pijul().join("pristine/db");
        let blocks = std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(db).expect("there"));
        println!("| the pristine takes | {} MB | | |", blocks * 512 / 1_000_000);
        engine.close().expect("closed");
    }
}

//! One file that is edited ten thousand times: `cargo bench --bench pijul_hot`. What recording an edit costs at the 10th, the 1,000th and the
//! 10,000th, without a mount. Words behind `--`: `only TEXT` (rows whose name contains it), `edits N` (instead of 10,000). The place is
//! `IZE_BENCH_DIR`, else the target directory. Each row is a process of its own, so that its peak of memory is its own.

#![allow(clippy::expect_used, clippy::print_stdout, reason = "a bench that cannot go on stops, and prints its table")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ize::error::Result;
use ize::ids::{BlobId, Lsn, StoreId, Time, VersionSeq};
use ize::pijul::snapshot::{PATIENCE, Snapshot};
use ize::pijul::{ContentSource, Item, Owner, Repository, TreeChange, VersionInput};
use ize::versions::node::{Attributes, Content, FileKind, Node, Piece, Xattrs};

/// As in the daemon.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Says to a child which row it is.
const ROW: &str = "IZE_BENCH_ROW";
/// Edits that a median is of.
const AROUND: usize = 300;

struct Bytes(Vec<u8>);

impl ContentSource for Bytes {
    fn read_all(&self) -> Result<Vec<u8>> {
        Ok(self.0.clone())
    }

    fn pieces(&self) -> Result<Vec<Piece>> {
        Ok(Vec::new())
    }
}

fn item(text: &[String]) -> Item {
    let bytes = text.concat().into_bytes();
    let node = Node {
        kind: FileKind::File,
        attrs: Attributes { mode: 0o644, ..Attributes::default() },
        xattrs: Xattrs::new(),
        nlink: 1,
        size: bytes.len() as u64,
        allocated: 0,
        content: Content::PieceList(BlobId::of(b"")),
    };
    Item { node, first_name: None, content: Arc::new(Bytes(bytes)) }
}

fn version(seq: u64, old: Option<Item>, new: Item) -> VersionInput {
    VersionInput {
        id: seq,
        seq: VersionSeq(seq),
        first: Lsn(seq * 2),
        last: Lsn(seq * 2 + 1),
        time: Time { secs: 1_700_000_000 + i64::try_from(seq).expect("small"), nanos: 0 },
        message: None,
        op_type: "write".to_owned(),
        processes: vec!["vim a.txt".to_owned()],
        changes: vec![TreeChange { path: b"notes.txt".to_vec(), from: None, old, new: Some(new) }],
    }
}

/// 20,000 files of 2 KB in 200 directories.
fn large_tree() -> Vec<TreeChange> {
    let mut out = Vec::new();
    let mut add = |path: String, item| out.push(TreeChange { path: path.into_bytes(), from: None, old: None, new: Some(item) });
    for n in 0..20_000 {
        if n % 100 == 0 {
            let mut dir = item(&[]);
            dir.node.kind = FileKind::Directory;
            dir.node.attrs.mode = 0o755;
            add(format!("d{}", n / 100), dir);
        }
        let text: Vec<String> = (0..50).map(|line| format!("let value_{line} = compute({n}, \"{:x}\");\n", n * line)).collect();
        add(format!("d{}/file-{n}.rs", n / 100), item(&text));
    }
    out
}

/// Where the next edit is: a plain generator, so that each run is the same.
struct Edits(u64);

impl Edits {
    fn next(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).expect("small") % below
    }

    fn edit(&mut self, pattern: &str, n: u64, text: &mut Vec<String>) {
        let line = format!("the line of edit {n}\n");
        match pattern {
            "append" => text.push(line),
            "same line" => text[100] = line,
            _ => {
                let at = self.next(text.len());
                text[at] = line;
            }
        }
    }
}

/// Peak of resident memory, and what of it now is no mapped file (the pristine is one), in MB.
fn memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let of = |key: &str| -> u64 {
        let line = status.lines().find_map(|l| l.strip_prefix(key)).unwrap_or("0 kB");
        line.trim().trim_end_matches(" kB").trim().parse().unwrap_or(0)
    };
    format!("{} ({})", of("VmHWM:") / 1000, of("RssAnon:") / 1000)
}

fn median(times: &[Duration]) -> f64 {
    let mut times = times.to_vec();
    times.sort();
    millis(times.get(times.len() / 2).copied().unwrap_or_default())
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn row(pattern: &str, batch: usize, edits: usize) {
    let above = std::env::var_os("IZE_BENCH_DIR").map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    let dir = tempfile::tempdir_in(above).expect("a directory");
    let repository = Repository::open_or_create(dir.path(), StoreId([7; 16]), Owner { uid: 0, gid: 0 }).expect("opens");
    let mut text: Vec<String> = (0..250).map(|n| format!("line {n} of a text of about ten kilobytes\n")).collect();
    let mut first = version(1, None, item(&text));
    if pattern.ends_with("large tree") {
        first.changes.extend(large_tree());
    }
    repository.record(&first).expect("recorded");
    drop(first);
    let (mut seq, mut times, mut peaks, mut random) = (1, Vec::with_capacity(edits), Vec::new(), Edits(1));
    while times.len() < edits {
        let mut versions = Vec::new();
        for _ in 0..batch {
            let old = item(&text);
            seq += 1;
            random.edit(pattern, seq, &mut text);
            versions.push(version(seq, Some(old), item(&text)));
        }
        let begun = Instant::now();
        let outcomes = repository.record_many(&versions).expect("recorded");
        let each = begun.elapsed() / u32::try_from(batch).expect("small");
        assert!(outcomes.len() == batch && outcomes.iter().all(|o| o.refusal().is_none()));
        times.extend((0..batch).map(|_| each));
        if [20, 1_000].contains(&times.len()) {
            peaks.push(memory());
        }
    }
    peaks.push(memory());
    let begun = Instant::now();
    let blame = Snapshot::take(dir.path(), PATIENCE).and_then(|s| s.blame("main", b"notes.txt")).expect("blamed");
    let blamed = begun.elapsed();
    assert_eq!(blame.text(), text.concat().into_bytes());
    let last = &times[edits.saturating_sub(1_000)..];
    let mean = last.iter().sum::<Duration>() / u32::try_from(last.len()).expect("small");
    let at = |edit: usize| median(&times[edit.saturating_sub(AROUND)..edit.min(times.len())]);
    let tenth = median(&times[4..times.len().min(15)]);
    println!(
        "| {pattern}, {batch} a transaction | {tenth:.2} ms | {:.2} ms | {:.2} ms | {:.2} ms | {:.1} ms | {:.1} | {} MB | {:.0} ms |",
        at(1_000.min(edits)),
        at(edits),
        millis(mean),
        millis(last.iter().max().copied().unwrap_or_default()),
        millis(mean) / tenth,
        peaks.join(", "),
        millis(blamed)
    );
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|w| !w.starts_with("--")).collect();
    let after = |word: &str| words.windows(2).find(|w| w[0] == word).map(|w| w[1].clone());
    let only = after("only").unwrap_or_default();
    let edits: usize = after("edits").and_then(|n| n.parse().ok()).unwrap_or(10_000);
    if let Some((pattern, batch)) = std::env::var(ROW).ok().as_deref().and_then(|row| row.rsplit_once(' ')) {
        return row(pattern, batch.parse().expect("a number"), edits);
    }
    println!(
        "| pattern | 10th edit | 1,000th | {edits}th | mean of the last 1,000 | worst of them | mean by the 10th (wanted: 3) | peak RSS (anonymous) | blame then |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for pattern in ["append", "same line", "random line", "random line of a large tree"] {
        for batch in [1, 10] {
            let row = format!("{pattern} {batch}");
            if row.contains(&only) {
                let mut child = std::process::Command::new(std::env::current_exe().expect("known"));
                let done = child.arg("edits").arg(edits.to_string()).env(ROW, row).status();
                assert!(done.expect("runs").success());
            }
        }
    }
}

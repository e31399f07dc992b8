//! The main job of log and packs on real input: the operations of a real tree go through the log, written file by file by a process that is
//! killed at random moments; recovery opens what is left; the tree is rebuilt from log and blobs alone and compared byte for byte.
//!
//! The tree is the sources of this crate; `IZE_TEST_TREE=DIR` names another one (tens of thousands of files are fine), `IZE_TEST_ROUNDS` how
//! often the process is killed.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::ops::ControlFlow;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use ize::blobs::{BlobState, Blobs, Encoding, OpenMode};
use ize::ids::{Ino, Lsn, StoreId, Time};
use ize::op::{
    BLOB_THRESHOLD, Create, Data, Decoded, Entry, Mkdir, Operation, ProcessKey, Stamp, Symlink, Unlink, Utimens, Write, decode, encode,
};
use ize::storage::Disk;
use ize::tree::{LogBytes, Tree};
use ize::versions::node::FileKind;
use ize::wal::format::framed_len;
use ize::wal::verify::{Worst, verify};
use ize::wal::{Bounds, Log, Options, Record, RecoveryInput, for_each_record};

const STORE: StoreId = StoreId(*b"real tree, sixt.");
/// Bytes of one write, as a mount asks the kernel for.
const WRITE: usize = 128 << 10;

/// An open log and its packs, and the tree that their records make.
struct Store {
    log: Log,
    blobs: Arc<Blobs>,
    tree: Tree,
}

fn open(dir: &Path) -> Store {
    let (blobs, report) = Blobs::open(Disk::shared(), dir.join("blobs"), STORE, OpenMode::Write { clean: false }).unwrap();
    assert!(report.findings.iter().all(ize::blobs::Finding::is_torn_tail), "{:?}", report.findings);
    let blobs = Arc::new(blobs);
    let mut sound = |record: &Record<'_>| {
        let Ok(Decoded::Operation { entry, .. }) = decode(record.kind, record.version, record.body) else { return Ok(true) };
        Ok(entry.op.blob().is_none_or(|(id, _)| blobs.verify(&id) == BlobState::Sound))
    };
    let sync = Arc::clone(&blobs);
    let input =
        RecoveryInput { before_sync: Box::new(move || sync.sync().map_err(std::io::Error::other)), ..RecoveryInput::new(&mut sound) };
    let (log, _) = Log::recover(Disk::shared(), &dir.join("wal"), STORE, input, Options::default()).unwrap();
    let mut tree = Tree::open(Arc::clone(&blobs) as _, None, Ino(2), Lsn::ZERO, Time::default()).unwrap();
    for_each_record(&Disk, &dir.join("wal"), STORE, Lsn::ZERO, Lsn(u64::MAX), &mut |record, segment| {
        if let Decoded::Operation { entry, payload } = decode(record.kind, record.version, record.body).unwrap() {
            let at = record.body_offset + (record.body.len() - payload.len()) as u64;
            let inline = matches!(&entry.op, Operation::Write(w) if matches!(w.data, Data::Inline(_)));
            tree.apply(record.lsn, &entry, inline.then(|| (Arc::clone(segment) as Arc<dyn LogBytes>, at))).unwrap();
        }
        Ok(ControlFlow::Continue(()))
    })
    .unwrap();
    Store { log, blobs, tree }
}

impl Store {
    /// Logs an operation and carries it out.
    fn log(&mut self, op: impl Into<Operation>, bytes: &[u8]) {
        let stamp = Stamp { time: Time::now(), behind: 0, process: ProcessKey::default(), link: None };
        let entry = Entry { stamp, op: op.into() };
        let (kind, version, body) = encode(&entry).unwrap();
        let payload = entry.op.blob().map_or(0, |(_, len)| u64::from(len));
        let room = framed_len(body.len() + bytes.len());
        let appended = self.log.append_with(room, &mut |_, batch| _ = batch.push(kind, version, &[&body, bytes], payload)).unwrap();
        let own = appended.into_iter().next_back().unwrap();
        let at = (own.segment as Arc<dyn LogBytes>, own.body_offset + body.len() as u64);
        self.tree.apply(own.lsn, &entry, (!bytes.is_empty()).then_some(at)).unwrap();
    }

    fn next(&self) -> Ino {
        self.tree.next_ino()
    }

    /// Makes `path`, of which the parent is there, what it is in the source.
    fn feed(&mut self, dir: Ino, name: &[u8], what: &What) {
        let (mode, uid, gid) = (what.mode & 0o7777, 1000, 1000);
        let ino = self.next();
        let name = name.to_vec();
        match &what.content {
            Content::Dir => self.log(Mkdir { dir, name, ino, mode, uid, gid }, b""),
            Content::Link(target) => self.log(Symlink { dir, name, ino, target: target.clone(), uid, gid }, b""),
            Content::File(bytes) => {
                self.log(Create { dir, name, ino, mode, uid, gid }, b"");
                let mut done = 0;
                for piece in bytes.chunks(WRITE) {
                    let (offset, size_after) = (done as u64, (done + piece.len()) as u64);
                    done += piece.len();
                    let write = |data| Write { ino, offset, data, size_after, mode_after: None };
                    if piece.len() >= BLOB_THRESHOLD {
                        let id = self.blobs.put(piece, Encoding::Raw).unwrap();
                        self.log(write(Data::Blob { id, len: piece.len() as u32 }), b"");
                    } else {
                        self.log(write(Data::Inline(piece.len() as u32)), piece);
                    }
                }
                self.log(Utimens { ino, old: Default::default(), atime: Some(what.mtime), mtime: Some(what.mtime) }, b"");
            }
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Content {
    Dir,
    Link(Vec<u8>),
    File(Vec<u8>),
}

/// What is at a path.
#[derive(Debug, PartialEq, Eq)]
struct What {
    mode: u32,
    mtime: Time,
    content: Content,
}

/// Paths of a tree, relative to it, parents first, always in one order.
fn paths(root: &Path) -> Vec<PathBuf> {
    let (mut all, mut todo) = (Vec::new(), vec![PathBuf::new()]);
    while let Some(dir) = todo.pop() {
        let mut here: Vec<PathBuf> = fs::read_dir(root.join(&dir)).unwrap().map(|e| dir.join(e.unwrap().file_name())).collect();
        here.sort();
        for path in here {
            let kind = fs::symlink_metadata(root.join(&path)).unwrap().file_type();
            if kind.is_dir() {
                todo.push(path.clone());
            }
            if kind.is_dir() || kind.is_file() || kind.is_symlink() {
                all.push(path);
            }
        }
    }
    all
}

fn source(root: &Path, path: &Path) -> What {
    let full = root.join(path);
    let meta = fs::symlink_metadata(&full).unwrap();
    let content = match meta.file_type() {
        kind if kind.is_dir() => Content::Dir,
        kind if kind.is_symlink() => Content::Link(fs::read_link(&full).unwrap().into_os_string().into_vec()),
        _ => Content::File(fs::read(&full).unwrap()),
    };
    let mtime = Time { secs: meta.mtime(), nanos: meta.mtime_nsec() as u32 };
    What { mode: meta.mode() & 0o7777, mtime, content }
}

/// What the rebuilt tree has at an inode; times count for files only.
fn rebuilt(tree: &mut Tree, ino: Ino) -> What {
    let inode = tree.inode(ino).unwrap();
    let (mode, mtime, kind) = (inode.attrs.mode & 0o7777, inode.attrs.mtime, inode.kind);
    let content = match kind {
        FileKind::Directory => Content::Dir,
        FileKind::Symlink => Content::Link(tree.read_all(ino).unwrap()),
        _ => Content::File(tree.read_all(ino).unwrap()),
    };
    What { mode, mtime, content }
}

fn same(ours: &What, theirs: &What) -> bool {
    match ours.content {
        Content::File(_) => ours == theirs,
        Content::Dir => (ours.mode, &ours.content) == (theirs.mode, &theirs.content),
        // Links have no mode.
        Content::Link(_) => ours.content == theirs.content,
    }
}

/// The process that is killed: goes on with the tree where the store ends, says after each path that it is in the log.
#[test]
#[ignore = "run by the other test, in a process of its own"]
fn feeder() {
    let (Some(root), Some(dir)) = (std::env::var_os("IZE_FEED_FROM"), std::env::var_os("IZE_FEED_TO")) else { return };
    let (root, mut store) = (PathBuf::from(root), open(Path::new(&dir)));
    let mut dirs: BTreeMap<PathBuf, Ino> = BTreeMap::from([(PathBuf::new(), Ino::ROOT)]);
    let from: usize = std::env::var("IZE_FEED_START").unwrap().parse().unwrap();
    for (n, path) in paths(&root).into_iter().enumerate() {
        let parent = path.parent().unwrap().to_owned();
        let dir = match dirs.get(&parent) {
            Some(ino) => *ino,
            None => store.tree.resolve(parent.as_os_str().as_bytes()).unwrap().unwrap(),
        };
        let name = path.file_name().unwrap().as_bytes().to_vec();
        if n >= from {
            let what = source(&root, &path);
            // The one that was being written when the last process died.
            if let Some(half) = store.tree.lookup(dir, &name).unwrap() {
                if rebuilt(&mut store.tree, half.ino).content == Content::Dir {
                    dirs.insert(path, half.ino);
                    continue;
                }
                store.log(Unlink { dir, name: name.clone(), ino: half.ino }, b"");
            }
            store.feed(dir, &name, &what);
            if n % 50 == 0 {
                store.log.sync().unwrap();
            }
            println!("in the log {n}");
        }
        if let Some(child) = store.tree.lookup(dir, &name).unwrap() {
            dirs.insert(path, child.ino);
        }
    }
    println!("all in the log");
    // Waits to be killed: nothing is closed in order.
    std::thread::sleep(std::time::Duration::from_secs(600));
}

/// How many of `paths`, from the first on, the store holds as they are in the source.
fn whole(store: &mut Store, root: &Path, paths: &[PathBuf]) -> usize {
    for (n, path) in paths.iter().enumerate() {
        let found = store.tree.resolve(path.as_os_str().as_bytes()).unwrap();
        if found.is_none_or(|ino| !same(&rebuilt(&mut store.tree, ino), &source(root, path))) {
            return n;
        }
    }
    paths.len()
}

#[test]
fn a_real_tree_is_rebuilt_from_log_and_blobs_alone_whenever_the_writer_is_killed() {
    let root = std::env::var_os("IZE_TEST_TREE").map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), PathBuf::from);
    let rounds: usize = std::env::var("IZE_TEST_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(5);
    let paths = paths(&root);
    let temp = tempfile::tempdir().unwrap();
    let (mut have, mut kills) = (0, 0);
    loop {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "feeder", "--nocapture"])
            .env("IZE_FEED_FROM", &root)
            .env("IZE_FEED_TO", temp.path())
            .env("IZE_FEED_START", have.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // Killed somewhere in what is left, the last time at the end.
        let left = paths.len() - have;
        let until = if kills + 1 < rounds { have + left * (kills + 1) / rounds } else { usize::MAX };
        let (mut acknowledged, mut all) = (have, false);
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            // The harness says a word of its own before the first line.
            if let Some((_, n)) = line.split_once("in the log ") {
                acknowledged = n.parse::<usize>().unwrap() + 1;
            }
            all |= line.contains("all in the log");
            if acknowledged > until || all {
                break;
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
        let mut store = open(temp.path());
        let wal = temp.path().join("wal");
        let checked = verify(&Disk, &wal, STORE, Bounds::default(), &mut |_| Ok(None)).unwrap();
        assert_eq!(checked.worst, Worst::Clean, "{:?}", checked.findings);
        have = whole(&mut store, &root, &paths);
        assert!(have >= acknowledged, "kill {kills}: {have} paths are back, {acknowledged} were acknowledged");
        if all {
            break;
        }
    }
    let mut store = open(temp.path());
    assert_eq!(whole(&mut store, &root, &paths), paths.len());
    // And nothing else is there.
    let mut count = 0;
    let mut todo = vec![Ino::ROOT];
    while let Some(dir) = todo.pop() {
        let children: Vec<_> = store.tree.dir(dir).unwrap().after(0).map(|(_, child)| child).collect();
        for child in children {
            count += 1;
            if store.tree.inode(child.ino).unwrap().kind == FileKind::Directory {
                todo.push(child.ino);
            }
        }
    }
    assert_eq!(count, paths.len());
    let usage = (store.log.usage(), store.blobs.usage());
    println!("{} paths, {kills} kills; log {:?}, blobs {:?}", paths.len(), usage.0, usage.1);
}

//! A mount whose log is slow, or has a bug: nobody else waits, and nothing dies unseen. Needs /dev/fuse.
#![cfg(feature = "fuse")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use ize::fs::Fs;
use ize::fs::journal::{Caller, Journal, JournalError, Recorded, Space};
use ize::fs::testing::MemoryJournal;
use ize::fuse::mount::Mounted;
use ize::fuse::{MountOptions, unmount};
use ize::ids::{BlobId, Ino, Lsn, Time};
use ize::op::Operation;
use ize::tree::Tree;

/// A log in memory whose syncs wait for a gate and whose appends panic on demand.
#[derive(Default)]
struct Odd {
    inner: MemoryJournal,
    shut: Mutex<bool>,
    opened: Condvar,
    begun: AtomicU64,
    panics: AtomicBool,
}

impl Odd {
    fn gate(&self, shut: bool) {
        *self.shut.lock().unwrap() = shut;
        self.opened.notify_all();
    }
}

impl Journal for Odd {
    fn record(&self, caller: &Caller, op: Operation, payload: Option<&[u8]>, link: Option<Lsn>) -> Result<Recorded, JournalError> {
        assert!(!self.panics.load(Ordering::SeqCst), "a bug, on purpose");
        self.inner.record(caller, op, payload, link)
    }

    fn put_blob(&self, bytes: &[u8]) -> Result<BlobId, JournalError> {
        self.inner.put_blob(bytes)
    }

    fn sync(&self) -> Result<(), JournalError> {
        self.begun.fetch_add(1, Ordering::SeqCst);
        let mut shut = self.shut.lock().unwrap();
        while *shut {
            shut = self.opened.wait(shut).unwrap();
        }
        self.inner.sync()
    }

    fn space(&self) -> Space {
        self.inner.space()
    }
}

struct Mount {
    dir: PathBuf,
    fs: Arc<Fs>,
    journal: Arc<Odd>,
    mounted: Option<Mounted>,
    _temp: tempfile::TempDir,
}

impl Mount {
    fn new() -> Mount {
        OpenOptions::new().read(true).write(true).open("/dev/fuse").expect("these tests need /dev/fuse");
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("mnt");
        fs::create_dir(&dir).unwrap();
        let journal = Arc::new(Odd::default());
        let tree = Tree::open(journal.inner.blobs(), None, Ino(2), Lsn::ZERO, Time::default()).unwrap();
        let fs = Arc::new(Fs::new(tree, Arc::clone(&journal) as Arc<dyn Journal>));
        let mounted = Mounted::start(Arc::clone(&fs), "odd", &dir, &MountOptions::default()).unwrap();
        Mount { dir, fs, journal, mounted: Some(mounted), _temp: temp }
    }

    fn end(mut self) {
        unmount(&self.dir, false).unwrap();
        self.mounted.take().unwrap().wait().unwrap();
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        self.journal.gate(false);
        if self.mounted.is_some() {
            let _ = unmount(&self.dir, true);
        }
    }
}

#[test]
fn programs_that_wait_for_the_disk_hold_up_nobody_and_share_one_sync() {
    let m = Mount::new();
    let files: Vec<File> = (0..8).map(|i| File::create(m.dir.join(i.to_string())).unwrap()).collect();
    m.journal.gate(true);
    let waiting: Vec<_> = files.into_iter().map(|file| std::thread::spawn(move || file.sync_all())).collect();
    while m.journal.begun.load(Ordering::SeqCst) == 0 {
        std::thread::yield_now();
    }
    // More wait than there are session threads; everybody else goes on.
    std::thread::sleep(std::time::Duration::from_millis(100));
    fs::write(m.dir.join("meanwhile"), b"x").unwrap();
    fs::rename(m.dir.join("meanwhile"), m.dir.join("moved")).unwrap();
    assert_eq!(fs::read_dir(&m.dir).unwrap().count(), 9);
    assert!(waiting.iter().all(|thread| !thread.is_finished()), "fsync returned before the disk did");
    m.journal.gate(false);
    for thread in waiting {
        thread.join().unwrap().unwrap();
    }
    assert!(m.journal.begun.load(Ordering::SeqCst) <= 3, "{} syncs for 8 waiters", m.journal.begun.load(Ordering::SeqCst));
    m.end();
}

/// Each way of asking for the disk waits for it, and none of them on a session thread.
#[test]
fn every_kind_of_sync_waits_for_the_disk_and_holds_up_nobody() {
    type Ask = Box<dyn FnOnce() -> std::io::Result<()> + Send>;
    let m = Mount::new();
    let open = |name: String, flag: i32| {
        use std::os::unix::fs::OpenOptionsExt;
        OpenOptions::new().write(true).create(true).truncate(false).custom_flags(flag).open(m.dir.join(name)).unwrap()
    };
    let mut asks: Vec<(&str, Ask)> = Vec::new();
    for i in 0..3 {
        let [plain, data, mut synchronous, mut data_synchronous] =
            [0, 0, libc::O_SYNC, libc::O_DSYNC].map(|flag| open(format!("{i}-{flag}"), flag));
        // Not the directory in which others go on: the kernel holds its lock until the answer.
        fs::create_dir(m.dir.join(format!("dir-{i}"))).unwrap();
        let dir = File::open(m.dir.join(format!("dir-{i}"))).unwrap();
        asks.push(("fsync", Box::new(move || plain.sync_all())));
        asks.push(("fdatasync", Box::new(move || data.sync_data())));
        asks.push(("fsync of a directory", Box::new(move || dir.sync_all())));
        asks.push(("O_SYNC", Box::new(move || synchronous.write_all(b"x"))));
        asks.push(("O_DSYNC", Box::new(move || data_synchronous.write_all(b"x"))));
    }
    m.journal.gate(true);
    // A call of this thread that waits for one of those would wait for ever, and in the kernel, where nothing ends it.
    let journal = Arc::clone(&m.journal);
    std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_secs(60));
        journal.gate(false);
    });
    let waiting: Vec<_> = asks.into_iter().map(|(what, ask)| (what, std::thread::spawn(ask))).collect();
    while m.journal.begun.load(Ordering::SeqCst) == 0 {
        std::thread::yield_now();
    }
    std::thread::sleep(std::time::Duration::from_millis(200));
    fs::create_dir(m.dir.join("meanwhile")).unwrap();
    fs::write(m.dir.join("meanwhile/f"), b"x").unwrap();
    assert_eq!(fs::read(m.dir.join("meanwhile/f")).unwrap(), b"x");
    let early: Vec<&str> = waiting.iter().filter(|(_, thread)| thread.is_finished()).map(|(what, _)| *what).collect();
    assert!(early.is_empty(), "answered before the disk did: {early:?}");
    m.journal.gate(false);
    for (what, thread) in waiting {
        thread.join().unwrap().unwrap_or_else(|e| panic!("{what}: {e}"));
    }
    m.end();
}

#[test]
fn a_request_that_panics_answers_eio_and_stops_changes_but_not_reads() {
    let m = Mount::new();
    fs::write(m.dir.join("f"), b"kept").unwrap();
    m.journal.panics.store(true, Ordering::SeqCst);
    // More panics than there are session threads.
    for i in 0..5 {
        assert_eq!(File::create(m.dir.join(i.to_string())).unwrap_err().raw_os_error(), Some(libc::EIO));
    }
    m.journal.panics.store(false, Ordering::SeqCst);
    assert!(m.fs.broken().is_some());
    let mut file = OpenOptions::new().append(true).open(m.dir.join("f")).unwrap();
    assert_eq!(file.write_all(b"more").unwrap_err().raw_os_error(), Some(libc::EIO));
    assert_eq!(file.sync_all().unwrap_err().raw_os_error(), Some(libc::EIO));
    drop(file);
    assert_eq!(fs::read(m.dir.join("f")).unwrap(), b"kept");
    m.end();
}

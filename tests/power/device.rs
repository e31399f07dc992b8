//! A disk with a volatile write cache, as a block device: a FUSE file system in this process serves disk images from memory, a loop device
//! with direct I/O makes a block device of each. What was written and not flushed is kept apart; [`Disk::cut`] gives what a power cut
//! leaves: all that was flushed, and of the rest any part, torn at 512 bytes.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, UNIX_EPOCH};

use fuser::{
    BackgroundSession, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags, KernelConfig,
    LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request, WriteFlags,
};
use rand::prelude::*;

/// What a disk writes as one.
const SECTOR: usize = 512;
/// For what should take milliseconds; the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is written as one there. ext4 checks its superblock, two sectors long, before it replays its journal, so it relies on having it
/// whole.
fn unit(at: usize) -> usize {
    if at < 4096 { 4096 } else { SECTOR }
}

struct State {
    /// What survives for sure.
    flushed: Vec<u8>,
    /// What is read back.
    view: Vec<u8>,
    /// Written since the last flush, in order.
    pending: Vec<(usize, Vec<u8>)>,
    /// Requests until the power goes by itself.
    left: Option<u64>,
    /// The next flush is the end.
    last: bool,
    /// Flushes fail.
    broken: bool,
}

/// One disk, from when it is attached until its power is cut.
pub struct Disk {
    state: Mutex<State>,
    off: AtomicBool,
}

impl Disk {
    fn new(image: Vec<u8>) -> Self {
        let state = State { view: image.clone(), flushed: image, pending: Vec::new(), left: None, last: false, broken: false };
        Self { state: Mutex::new(state), off: AtomicBool::new(false) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// From now on everything is accepted and forgotten.
    pub fn power_off(&self) {
        let _state = self.state();
        self.off.store(true, Ordering::SeqCst);
    }

    /// The power goes at the `n`-th write or flush from now on.
    pub fn power_off_after(&self, n: u64) {
        self.state().left = Some(n);
    }

    /// The power goes at the next flush: what is written until then is in the cache.
    pub fn power_off_at_flush(&self) {
        self.state().last = true;
    }

    /// Whether the power is gone. A flush that returned before somebody was told "no" counts.
    pub fn is_off(&self) -> bool {
        self.off.load(Ordering::SeqCst)
    }

    /// Counts a request; false when the power is gone.
    fn takes(&self, state: &mut State) -> bool {
        if let Some(left) = &mut state.left {
            *left = left.saturating_sub(1);
            if *left == 0 {
                self.off.store(true, Ordering::SeqCst);
            }
        }
        !self.is_off()
    }

    fn write(&self, at: usize, bytes: Vec<u8>) -> bool {
        let mut state = self.state();
        if at + bytes.len() > state.view.len() {
            return false;
        }
        let kept = self.takes(&mut state);
        state.view[at..at + bytes.len()].copy_from_slice(&bytes);
        if kept {
            state.pending.push((at, bytes));
        }
        true
    }

    /// From now on every flush fails.
    pub fn fail_flushes(&self) {
        self.state().broken = true;
    }

    /// False when it fails.
    fn flush(&self) -> bool {
        let mut state = self.state();
        if state.broken && !self.is_off() {
            return false;
        }
        if state.last {
            self.off.store(true, Ordering::SeqCst);
        }
        if self.takes(&mut state) {
            let state = &mut *state;
            for (at, bytes) in state.pending.drain(..) {
                state.flushed[at..at + bytes.len()].copy_from_slice(&bytes);
            }
        }
        true
    }

    /// What is on the disk after a power cut now, and in words how much of the unflushed writes is.
    pub fn cut(&self, rng: &mut StdRng) -> (Vec<u8>, String) {
        self.power_off();
        let mut state = self.state();
        let state = &mut *state;
        let mut image = std::mem::take(&mut state.flushed);
        let pending = std::mem::take(&mut state.pending);
        let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
        let all = pending.len();
        let said = match rng.random_range(0..6) {
            // Nothing but what was flushed: finds every sync that is missing.
            0..=2 => "none".to_owned(),
            3 => {
                let share = rng.random_range(0.1..1.0);
                for (at, bytes) in &pending {
                    for (n, sector) in bytes.chunks(unit(*at)).enumerate() {
                        if rng.random_bool(share) {
                            put(at + n * SECTOR, sector);
                        }
                    }
                }
                format!("sectors with probability {share:.2}")
            }
            4 => {
                let share = rng.random_range(0.05..1.0);
                for (at, bytes) in &pending {
                    if rng.random_bool(share) {
                        // The end of it is torn now and then.
                        let torn = rng.random_bool(0.2) && unit(*at) == SECTOR;
                        let len = if torn { bytes.len() / 2 / SECTOR * SECTOR } else { bytes.len() };
                        put(*at, &bytes[..len]);
                    }
                }
                format!("writes with probability {share:.2}")
            }
            _ => {
                let first = rng.random_range(0..=all);
                for (at, bytes) in &pending[..first] {
                    put(*at, bytes);
                }
                format!("the first {first}")
            }
        };
        (image, format!("{said} of {all} unflushed writes"))
    }
}

/// The file system: one file for each disk.
struct Shelf {
    disks: Arc<Mutex<HashMap<u64, Arc<Disk>>>>,
}

impl Shelf {
    fn disk(&self, number: INodeNo) -> Option<Arc<Disk>> {
        self.disks.lock().unwrap().get(&number.0).cloned()
    }

    fn attr(&self, number: INodeNo) -> Option<FileAttr> {
        let (kind, perm, size) = match number {
            INodeNo::ROOT => (FileType::Directory, 0o700, 0),
            _ => (FileType::RegularFile, 0o600, self.disk(number)?.state().view.len() as u64),
        };
        let blocks = size / SECTOR as u64;
        let time = UNIX_EPOCH;
        let (atime, mtime, ctime, crtime) = (time, time, time, time);
        Some(FileAttr {
            ino: number,
            size,
            blocks,
            atime,
            mtime,
            ctime,
            crtime,
            kind,
            perm,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }
}

const TTL: Duration = Duration::ZERO;

impl Filesystem for Shelf {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let _ = config.add_capabilities(InitFlags::FUSE_ASYNC_DIO);
        let _ = config.set_max_write(1 << 20);
        Ok(())
    }

    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let number = name.to_str().and_then(|n| n.parse().ok()).map(INodeNo);
        match number.and_then(|n| self.attr(n)) {
            Some(attr) => reply.entry(&TTL, &attr, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attr(number) {
            Some(attr) => reply.attr(&TTL, &attr),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let Some(disk) = self.disk(number) else { return reply.error(Errno::EIO) };
        let state = disk.state();
        let from = (offset as usize).min(state.view.len());
        reply.data(&state.view[from..(from + size as usize).min(state.view.len())]);
    }

    fn write(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.disk(number) {
            Some(disk) if disk.write(offset as usize, data.to_vec()) => reply.written(data.len() as u32),
            _ => reply.error(Errno::EIO),
        }
    }

    fn fallocate(&self, _: &Request, number: INodeNo, _: FileHandle, offset: u64, length: u64, mode: i32, reply: ReplyEmpty) {
        // What the block layer calls discard and write zeroes.
        let zeroes = mode & (libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_ZERO_RANGE) != 0;
        match self.disk(number) {
            Some(disk) if zeroes && disk.write(offset as usize, vec![0; length as usize]) => reply.ok(),
            _ => reply.error(Errno::EOPNOTSUPP),
        }
    }

    fn fsync(&self, _: &Request, number: INodeNo, _: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        match self.disk(number) {
            Some(disk) if disk.flush() => reply.ok(),
            _ => reply.error(Errno::EIO),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }
}

/// Where disks are plugged in.
pub struct Rack {
    dir: PathBuf,
    disks: Arc<Mutex<HashMap<u64, Arc<Disk>>>>,
    last: u64,
    /// Dropped last: unmounts.
    session: Option<BackgroundSession>,
}

impl Rack {
    /// A rack in a directory of its own.
    pub fn new(dir: &Path) -> Self {
        assert!(Path::new("/dev/loop-control").exists(), "there is no /dev/loop-control: power cuts need loop devices, and root");
        let disks = Arc::new(Mutex::new(HashMap::new()));
        let mut config = fuser::Config::default();
        config.mount_options = vec![fuser::MountOption::FSName("ize-power".to_owned())];
        let session = fuser::spawn_mount(Shelf { disks: Arc::clone(&disks) }, dir, &config).expect("mounting needs /dev/fuse, and root");
        Self { dir: dir.to_owned(), disks, last: 1, session: Some(session) }
    }

    /// Makes a disk of an image and mounts its ext4 at `point`. The loop device goes when the mount does, whoever takes that away.
    pub fn attach(&mut self, image: Vec<u8>, point: &Path, options: &str) -> Arc<Disk> {
        self.last += 1;
        let disk = Arc::new(Disk::new(image));
        self.disks.lock().unwrap().clear();
        self.disks.lock().unwrap().insert(self.last, Arc::clone(&disk));
        let file = self.dir.join(self.last.to_string());
        let device = command("losetup", &["--find".as_ref(), "--show".as_ref(), "--direct-io=on".as_ref(), file.as_os_str()])
            .unwrap_or_else(|e| panic!("no loop device: {e}; power cuts need them, and root"));
        let mounted = command("mount", &["-t", "ext4", "-o", options, device.trim(), point.to_str().unwrap()].map(OsStr::new));
        let detached = command("losetup", &["-d".as_ref(), OsStr::new(device.trim())]);
        mounted.unwrap();
        detached.unwrap();
        disk
    }

    /// Unmounts the ext4; whoever used it must be dead.
    pub fn detach(&self, point: &Path) {
        let begun = Instant::now();
        while let Err(e) = command("umount", &[point.as_os_str()]) {
            assert!(begun.elapsed() < PATIENCE, "{e}");
            std::thread::sleep(Duration::from_millis(5));
        }
        let backed_by = self.dir.join(self.last.to_string());
        while loops().iter().any(|(_, file)| *file == backed_by) {
            assert!(begun.elapsed() < PATIENCE, "the loop device stays");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Rack {
    fn drop(&mut self) {
        // What still writes must not wait for an answer; what the loop device holds, unmounting lets go lazily.
        self.disks.lock().unwrap().values().for_each(|disk| disk.power_off());
        for (device, file) in loops() {
            if file.starts_with(&self.dir) {
                let _ = command("losetup", &["-d".as_ref(), device.as_os_str()]);
            }
        }
        let _ = command("umount", &["-l".as_ref(), self.dir.as_os_str()]);
        drop(self.session.take());
    }
}

/// Every loop device in use, and its file.
pub fn loops() -> Vec<(PathBuf, PathBuf)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/sys/block").into_iter().flatten().flatten() {
        if let Ok(file) = std::fs::read_to_string(entry.path().join("loop/backing_file")) {
            found.push((Path::new("/dev").join(entry.file_name()), PathBuf::from(file.trim_end().trim_end_matches(" (deleted)"))));
        }
    }
    found
}

/// An empty ext4 file system of so many bytes.
pub fn ext4(dir: &Path, len: u64) -> Vec<u8> {
    let file = dir.join("template");
    std::fs::File::create(&file).unwrap().set_len(len).unwrap();
    let options = ["-q", "-F", "-b", "4096", "-J", "size=4", "-O", "metadata_csum,64bit", "-E", "lazy_itable_init=0,lazy_journal_init=0"];
    let words: Vec<&OsStr> = options.iter().map(OsStr::new).chain([file.as_os_str()]).collect();
    command("mkfs.ext4", &words).unwrap();
    let image = std::fs::read(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    image
}

/// Runs a command; its output, or what it said.
pub fn command(name: &str, words: &[&OsStr]) -> Result<String, String> {
    let output = Command::new(name).args(words).output().map_err(|e| format!("{name}: {e}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("{name} {words:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

//! FUSE requests to [`Fs`] and back: one call and two arms a method. What is decided here is only what the kernel may cache.
//!
//! Everything it caches stays right because every change goes through the kernel itself, or is told to it through [`Notify`]; hence
//! times to live without end, negative entries and kept pages. Permissions are the kernel's (`default_permissions`, always); locks are
//! kernel-local; open, flush and access are not served.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    InitFlags, IoctlFlags, KernelConfig, LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs,
    ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use super::MountOptions;
use super::held::{HeldWrite, HeldWrites};
use super::sync_queue::{SyncQueue, Waiting};
use crate::fs::journal::Caller;
use crate::fs::latency::Wants;
use crate::fs::{self, Fs, FsError, FsResult, Notify, SetAttributes, SetTime};
use crate::ids::{Ino, Time};
use crate::tree::{NAME_MAX, Stat};
use crate::versions::node::FileKind;

/// How long the kernel may keep what it was told: ten years, it is told when something changes.
const TTL: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Largest write request; the kernel offers no more.
const MAX_WRITE: u32 = 1 << 20;
/// Inode numbers are never reused, so one generation is enough.
const GENERATION: Generation = Generation(0);
/// Block size for stat and statfs.
const BLOCK: u32 = 4096;

/// The adapter.
pub(super) struct Adapter {
    fs: Arc<Fs>,
    syncs: Arc<SyncQueue>,
    /// Writes that wait for room.
    held: HeldWrites,
    /// The mount was made with `sync`: every change is durable before it is answered. The kernel sees to writes only.
    sync: bool,
    /// The same for names, with `sync` or `dirsync`.
    dir_sync: bool,
}

impl Adapter {
    pub(super) fn new(fs: Arc<Fs>, options: &MountOptions) -> std::io::Result<Self> {
        let (sync, dir_sync) = (options.sync, options.sync || options.dir_sync);
        let syncs = Arc::new(SyncQueue::start(Arc::clone(&fs))?);
        Ok(Adapter { syncs, held: HeldWrites::start(Arc::clone(&fs))?, fs, sync, dir_sync })
    }

    /// Sends the answer: at once, or with `durable` when what was done is on the disk.
    fn answer<T: Send + 'static>(&self, durable: bool, result: Result<T, Errno>, send: impl FnOnce(Result<T, Errno>) + Send + 'static) {
        match result {
            Ok(done) if durable => self.syncs.push(Waiting::Durable(Box::new(move |synced| send(synced.map(|()| done))))),
            other => send(other),
        }
    }

    /// Runs one request. A panic in it stops the file system and is answered with EIO, instead of ending a session thread unseen.
    fn run<T>(&self, wants: Wants, what: &'static str, request: impl FnOnce(&Fs) -> FsResult<T>) -> Result<T, Errno> {
        let begun = Instant::now();
        let done = catch_unwind(AssertUnwindSafe(|| request(&self.fs)));
        self.fs.latency().add(wants, begun.elapsed());
        match done {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(e)) => {
                tracing::trace!("{what}: {e}");
                Err(Errno::from_i32(e.errno()))
            }
            Err(_) => {
                self.fs.mark_broken(format!("a {what} request stopped in the middle (this is a bug in ize)"));
                Err(Errno::EIO)
            }
        }
    }
}

/// Tells the kernel what it does not know yet.
pub(super) struct KernelNotify(pub(super) fuser::Notifier);

impl Notify for KernelNotify {
    fn inval_inode(&self, ino: Ino) {
        log_failure(self.0.inval_inode(INodeNo(ino.0), 0, 0));
    }

    fn inval_entry(&self, dir: Ino, name: &[u8]) {
        log_failure(self.0.inval_entry(INodeNo(dir.0), OsStr::from_bytes(name)));
    }
}

fn log_failure(result: std::io::Result<()>) {
    if let Err(e) = result {
        tracing::debug!("the kernel does not take a notification: {e}");
    }
}

fn caller(request: &Request) -> Caller {
    Caller { pid: request.pid(), uid: request.uid(), gid: request.gid() }
}

fn ino(number: INodeNo) -> Ino {
    Ino(number.0)
}

fn file_type(kind: FileKind) -> FileType {
    match kind {
        FileKind::File => FileType::RegularFile,
        FileKind::Directory => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::CharDevice => FileType::CharDevice,
        FileKind::BlockDevice => FileType::BlockDevice,
        FileKind::Socket => FileType::Socket,
    }
}

fn attr(stat: &Stat) -> FileAttr {
    FileAttr {
        ino: INodeNo(stat.ino.0),
        size: stat.size,
        blocks: stat.blocks,
        atime: stat.attrs.atime.into(),
        mtime: stat.attrs.mtime.into(),
        ctime: stat.attrs.ctime.into(),
        crtime: stat.attrs.birth.into(),
        kind: file_type(stat.kind),
        // At most 0o7777.
        perm: (stat.attrs.mode & 0o7777) as u16,
        nlink: stat.nlink,
        uid: stat.attrs.uid,
        gid: stat.attrs.gid,
        rdev: stat.attrs.rdev,
        blksize: BLOCK,
        flags: 0,
    }
}

/// The answer "there is no such name", which the kernel may keep too.
fn nothing() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: BLOCK,
        flags: 0,
    }
}

/// The time that the kernel meant. For one before 1970 fuser subtracts the nanoseconds instead of adding them; that is undone here.
fn set_time(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(at) => SetTime::At(match UNIX_EPOCH.duration_since(at) {
            Ok(before) if !before.is_zero() => {
                Time { secs: i64::try_from(before.as_secs()).map_or(i64::MIN, |s| -s), nanos: before.subsec_nanos() }
            }
            _ => at.into(),
        }),
    }
}

fn send_entry(reply: ReplyEntry, result: Result<Stat, Errno>) {
    match result {
        Ok(stat) => reply.entry(&TTL, &attr(&stat), GENERATION),
        Err(e) => reply.error(e),
    }
}

fn send_empty(reply: ReplyEmpty, result: Result<(), Errno>) {
    match result {
        Ok(()) => reply.ok(),
        Err(e) => reply.error(e),
    }
}

fn send_xattr(reply: ReplyXattr, room: u32, result: Result<Vec<u8>, Errno>) {
    match result {
        Ok(bytes) => match u32::try_from(bytes.len()) {
            Ok(len) if room == 0 => reply.size(len),
            Ok(len) if len <= room => reply.data(&bytes),
            Ok(_) | Err(_) => reply.error(Errno::ERANGE),
        },
        Err(e) => reply.error(e),
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // What a kernel does not know is left out; nothing here is needed to be right.
        let wanted = [
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_CACHE_SYMLINKS,
            // Without it every write asks for security.capability first.
            InitFlags::FUSE_HANDLE_KILLPRIV_V2,
        ];
        for flag in wanted {
            if config.add_capabilities(flag).is_err() {
                tracing::debug!("the kernel does not offer {flag:?}");
            }
        }
        if let Err(most) = config.set_max_write(MAX_WRITE) {
            let _ = config.set_max_write(most);
        }
        Ok(())
    }

    fn destroy(&mut self) {
        // First: what is answered there may wait for a sync.
        self.held.stop();
        self.syncs.stop();
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.run(Wants::Attributes, "lookup", |fs| fs.lookup(ino(parent), name.as_bytes())) {
            Ok(Some(stat)) => reply.entry(&TTL, &attr(&stat), GENERATION),
            Ok(None) => reply.entry(&TTL, &nothing(), GENERATION),
            Err(e) => reply.error(e),
        }
    }

    fn forget(&self, _: &Request, number: INodeNo, count: u64) {
        let _ = self.run(Wants::Nothing, "forget", |fs| {
            fs.forget(ino(number), count);
            Ok(())
        });
    }

    fn getattr(&self, _: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.run(Wants::Attributes, "getattr", |fs| fs.getattr(ino(number))) {
            Ok(stat) => reply.attr(&TTL, &attr(&stat)),
            Err(e) => reply.error(e),
        }
    }

    fn setattr(
        &self,
        request: &Request,
        number: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let set = SetAttributes { mode, uid, gid, size, atime: atime.map(set_time), mtime: mtime.map(set_time) };
        let done = self.run(Wants::Change, "setattr", |fs| fs.setattr(&caller(request), ino(number), &set));
        self.answer(self.sync, done, |done| match done {
            Ok(stat) => reply.attr(&TTL, &attr(&stat)),
            Err(e) => reply.error(e),
        });
    }

    fn readlink(&self, _: &Request, number: INodeNo, reply: ReplyData) {
        match self.run(Wants::Attributes, "readlink", |fs| fs.readlink(ino(number))) {
            Ok(target) => reply.data(&target),
            Err(e) => reply.error(e),
        }
    }

    // The kernel applies the umask itself (no FUSE_DONT_MASK).
    fn mknod(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, _umask: u32, rdev: u32, reply: ReplyEntry) {
        self.answer(
            self.dir_sync,
            self.run(Wants::Change, "mknod", |fs| fs.mknod(&caller(request), ino(parent), name.as_bytes(), mode, rdev)),
            |done| send_entry(reply, done),
        );
    }

    fn mkdir(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, _umask: u32, reply: ReplyEntry) {
        self.answer(
            self.dir_sync,
            self.run(Wants::Change, "mkdir", |fs| fs.mkdir(&caller(request), ino(parent), name.as_bytes(), mode)),
            |done| send_entry(reply, done),
        );
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.answer(
            self.dir_sync,
            self.run(Wants::Change, "unlink", |fs| fs.unlink(&caller(request), ino(parent), name.as_bytes())),
            |done| send_empty(reply, done),
        );
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.answer(
            self.dir_sync,
            self.run(Wants::Change, "rmdir", |fs| fs.rmdir(&caller(request), ino(parent), name.as_bytes())),
            |done| send_empty(reply, done),
        );
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let target = target.as_os_str().as_bytes();
        self.answer(
            self.dir_sync,
            self.run(Wants::Change, "symlink", |fs| fs.symlink(&caller(request), ino(parent), name.as_bytes(), target)),
            |done| send_entry(reply, done),
        );
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (from, to) = ((ino(parent), name.as_bytes()), (ino(new_parent), new_name.as_bytes()));
        self.answer(
            self.dir_sync,
            self.run(Wants::Change, "rename", |fs| fs.rename(&caller(request), from, to, fs::RenameFlags::from_bits(flags.bits())?)),
            |done| send_empty(reply, done),
        );
    }

    fn link(&self, request: &Request, number: INodeNo, new_parent: INodeNo, new_name: &OsStr, reply: ReplyEntry) {
        self.answer(
            self.dir_sync,
            self.run(Wants::Change, "link", |fs| fs.link(&caller(request), ino(number), ino(new_parent), new_name.as_bytes())),
            |done| send_entry(reply, done),
        );
    }

    // ENOSYS once: the kernel then opens files by itself, with the permissions that it knows and all pages kept, and sends neither OPEN nor
    // RELEASE any more (open + read + close: 4.8 us against 18.9). An open file is a known inode, which is not forgotten before it is closed.
    // Never together with FUSE_ATOMIC_O_TRUNC: the truncation would be lost; without it, it comes as SETATTR.
    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS);
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
        match self.run(Wants::Bytes, "read", |fs| fs.read(ino(number), offset, size)) {
            Ok(bytes) => reply.data(&bytes),
            Err(e) => reply.error(e),
        }
    }

    // Write-through: O_APPEND is already in `offset`, because the kernel knows the length and holds the inode's lock.
    fn write(
        &self,
        request: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let kill = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        // Linux 6.18 follows such a write with an fsync of its own, which then finds nothing left to do; older ones are not trusted with
        // it. A page of a mapping comes with some file's flags; only msync promises anything for it.
        let sync = flags.0 & libc::O_DSYNC != 0 && !write_flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        // The kernel passes over a short count where it writes pages of a mapping.
        let least = if write_flags.contains(WriteFlags::FUSE_WRITE_CACHE) { u32::try_from(data.len()).unwrap_or(u32::MAX) } else { 0 };
        let counted = move |len: u32| if len >= least { Ok(len) } else { Err(Errno::ENOSPC) };
        let back = self.fs.pressure().is_holding_back() && self.held.takes(data.len());
        let done = if back {
            Err(Errno::ENOSPC)
        } else {
            let write = |fs: &Fs| fs.write(&caller(request), ino(number), offset, data, kill);
            self.run(Wants::Change, "write", write).and_then(|written| counted(written.len))
        };
        match done {
            Ok(len) if sync => self.syncs.push(Waiting::Write(reply, len)),
            Ok(len) => reply.written(len),
            Err(e) if back || (e.code() == libc::ENOSPC && self.held.takes(data.len())) => {
                let syncs = Arc::clone(&self.syncs);
                let answer: Box<dyn FnOnce(Result<u32, Errno>) + Send> = Box::new(move |done| match done.and_then(counted) {
                    Ok(len) if sync => syncs.push(Waiting::Write(reply, len)),
                    Ok(len) => reply.written(len),
                    Err(e) => reply.error(e),
                });
                let (caller, ino) = (caller(request), ino(number));
                self.held.push(HeldWrite { caller, ino, offset, bytes: data.to_vec(), kill, back, answer });
            }
            Err(e) => reply.error(e),
        }
    }

    // ENOSYS once, and the kernel never asks again: a close promises nothing.
    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    // Of a file that was created before the first OPEN.
    fn release(&self, _: &Request, _: INodeNo, _: FileHandle, _: OpenFlags, _: Option<LockOwner>, _flush: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.syncs.push(Waiting::Fsync(reply));
    }

    // Served, not ENOSYS: that would also make the kernel cache listings, and its cache loses entries for a reader that goes on where
    // another one's unlink has moved things.
    fn opendir(&self, _: &Request, number: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.run(Wants::Entries, "opendir", |fs| fs.opendir(ino(number))) {
            Ok(handle) => reply.opened(FileHandle(handle.0), FopenFlags::empty()),
            Err(e) => reply.error(e),
        }
    }

    fn readdir(&self, _: &Request, number: INodeNo, handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let listed = self.run(Wants::Entries, "readdir", |fs| {
            fs.readdir(ino(number), fs::DirHandle(handle.0), offset, |entry| {
                !reply.add(INodeNo(entry.ino.0), entry.cookie, file_type(entry.kind), OsStr::from_bytes(&entry.name))
            })
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(e),
        }
    }

    fn readdirplus(&self, _: &Request, number: INodeNo, handle: FileHandle, offset: u64, mut reply: ReplyDirectoryPlus) {
        let listed = self.run(Wants::Entries, "readdirplus", |fs| {
            fs.readdirplus(ino(number), fs::DirHandle(handle.0), offset, |entry, stat| {
                !reply.add(INodeNo(entry.ino.0), entry.cookie, OsStr::from_bytes(&entry.name), &TTL, &attr(stat), GENERATION)
            })
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(e),
        }
    }

    fn releasedir(&self, _: &Request, number: INodeNo, handle: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        send_empty(
            reply,
            self.run(Wants::Nothing, "releasedir", |fs| {
                fs.releasedir(ino(number), fs::DirHandle(handle.0));
                Ok(())
            }),
        );
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.syncs.push(Waiting::Fsync(reply));
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        match self.run(Wants::Attributes, "statfs", |fs| Ok(fs.space())) {
            Ok((space, inodes)) => {
                let blocks = |bytes: u64| bytes / u64::from(BLOCK);
                let (total, free, available) = (blocks(space.total), blocks(space.free), blocks(space.available));
                let files = inodes.saturating_add(space.inodes_free);
                reply.statfs(total, free, available, files, space.inodes_free, BLOCK, NAME_MAX as u32, BLOCK);
            }
            Err(e) => reply.error(e),
        }
    }

    fn setxattr(&self, request: &Request, number: INodeNo, name: &OsStr, value: &[u8], flags: i32, _: u32, reply: ReplyEmpty) {
        let done = self.run(Wants::Change, "setxattr", |fs| fs.setxattr(&caller(request), ino(number), name.as_bytes(), value, flags));
        self.answer(self.sync, done, |done| send_empty(reply, done));
    }

    fn getxattr(&self, _: &Request, number: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        send_xattr(reply, size, self.run(Wants::Attributes, "getxattr", |fs| fs.getxattr(ino(number), name.as_bytes())));
    }

    fn listxattr(&self, request: &Request, number: INodeNo, size: u32, reply: ReplyXattr) {
        send_xattr(reply, size, self.run(Wants::Attributes, "listxattr", |fs| fs.listxattr(&caller(request), ino(number))));
    }

    fn removexattr(&self, request: &Request, number: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.answer(
            self.sync,
            self.run(Wants::Change, "removexattr", |fs| fs.removexattr(&caller(request), ino(number), name.as_bytes())),
            |done| send_empty(reply, done),
        );
    }

    fn access(&self, _: &Request, _: INodeNo, _: AccessFlags, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn create(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, _umask: u32, flags: i32, reply: ReplyCreate) {
        let exclusive = flags & libc::O_EXCL != 0;
        let done = self.run(Wants::Change, "create", |fs| {
            let stat = fs.create(&caller(request), ino(parent), name.as_bytes(), mode, exclusive)?;
            // As in `open`: that it is open is not counted.
            fs.release(stat.ino);
            Ok(stat)
        });
        self.answer(self.dir_sync, done, |done| match done {
            Ok(stat) => reply.created(&TTL, &attr(&stat), GENERATION, FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE),
            Err(e) => reply.error(e),
        });
    }

    // Many programs ask every file whether it is a terminal; fuser's own answer would write a line to the log each time.
    fn ioctl(&self, _: &Request, _: INodeNo, _: FileHandle, _: IoctlFlags, _cmd: u32, _: &[u8], _out_size: u32, reply: ReplyIoctl) {
        reply.error(Errno::ENOTTY);
    }

    // ENOSYS once: the kernel then takes files as always ready, and never asks again.
    fn poll(&self, _: &Request, _: INodeNo, _: FileHandle, _: PollNotifier, _: PollEvents, _: PollFlags, reply: ReplyPoll) {
        reply.error(Errno::ENOSYS);
    }

    fn fallocate(&self, request: &Request, number: INodeNo, _: FileHandle, offset: u64, length: u64, mode: i32, reply: ReplyEmpty) {
        self.answer(
            self.sync,
            self.run(Wants::Change, "fallocate", |fs| fs.fallocate(&caller(request), ino(number), offset, length, mode)),
            |done| send_empty(reply, done),
        );
    }

    fn lseek(&self, _: &Request, number: INodeNo, _: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        match self.run(Wants::Attributes, "lseek", |fs| fs.seek(ino(number), offset, whence)) {
            Ok(at) => reply.offset(at),
            Err(e) => reply.error(e),
        }
    }

    fn copy_file_range(
        &self,
        request: &Request,
        ino_in: INodeNo,
        _: FileHandle,
        offset_in: u64,
        ino_out: INodeNo,
        _: FileHandle,
        offset_out: u64,
        len: u64,
        flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let copied = self.run(Wants::Change, "copy_file_range", |fs| {
            if !flags.is_empty() {
                return Err(FsError::Invalid);
            }
            fs.copy_range(&caller(request), (ino(ino_in), offset_in), (ino(ino_out), offset_out), len)
        });
        self.answer(self.sync, copied, |copied| match copied {
            Ok(len) => reply.written(len),
            Err(e) => reply.error(e),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_before_1970_is_the_one_the_kernel_meant() {
        // The kernel sends (-2 s, 500,000,000 ns), i.e. 1.5 s before 1970; fuser hands on 2.5 s before.
        let from_fuser = UNIX_EPOCH - Duration::new(2, 500_000_000);
        assert_eq!(set_time(TimeOrNow::SpecificTime(from_fuser)), SetTime::At(Time { secs: -2, nanos: 500_000_000 }));
        let after = UNIX_EPOCH + Duration::new(7, 9);
        assert_eq!(set_time(TimeOrNow::SpecificTime(after)), SetTime::At(Time { secs: 7, nanos: 9 }));
        assert_eq!(set_time(TimeOrNow::SpecificTime(UNIX_EPOCH)), SetTime::At(Time::default()));
    }
}

//! The pristine as a file: `.pijul/pristine/db`, and the files `db.lock0` and `db.lock1` beside it.
//!
//! Who writes holds flock on `db`, then on the lock file of the root page that is to be overwritten; who reads holds a shared one on that of
//! the root page read. libpijul waits for both without end, so both are tried here first, for a bounded time.
//!
//! The size is the address space of whoever opens it: one who has it open with a smaller one than another destroys the database when it
//! grows. So it is made larger than it needs to be (the file is sparse), and grown only while nobody else has it open.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use libpijul::pristine::sanakirja::{Pristine, SanakirjaError};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::error::{Class, Error, IoContext, Result};
use crate::pijul::apply::refused;
use crate::pijul::{TEXT_MAX, TreeChange, VersionInput};

/// Size of a new one.
pub(super) const SIZE: u64 = 1 << 30;
/// Bytes of disk space free inside the pristine at the least when a transaction begins.
const RESERVE: u64 = 4 << 20;
/// Bytes of the disk that it leaves to others.
const LEFT: u64 = 8 << 20;
/// Between two tries of a lock.
const PAUSE: Duration = Duration::from_millis(20);
/// Bytes of a page, and of a root page's place.
const PAGE: u64 = 4096;

/// Which file was opened, and how much of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Opened {
    path: PathBuf,
    identity: (u64, u64),
    mapped: u64,
}

fn rebuild(e: Error) -> Error {
    e.hint("`ize pijul rebuild` makes the Pijul history again from the versions")
}

/// Opens it, making one of `size` bytes where there is none.
///
/// # Errors
/// `Damage` when it is cut short or no pristine; `Io`; what libpijul says.
pub(super) fn open(path: &Path, size: u64) -> Result<(Pristine, Opened)> {
    let doing = || format!("cannot open `{}`", path.display());
    if let Some(file) = existing(path)? {
        let meta = file.metadata().doing(doing)?;
        if !meta.is_file() || meta.len() < 2 * PAGE || used(&file).doing(doing)? > meta.len() {
            return Err(rebuild(Error::new(Class::Damage, format!("`{}` is cut short, or no pristine", path.display()))));
        }
    }
    let pristine = super::repository::guarded("opening the pristine", || {
        Pristine::new_with_size(path, size).map_err(|e| match e {
            SanakirjaError::PristineLocked => {
                Error::new(Class::Busy, format!("`{}` is held by another process", path.display())).hint("wait for it to end")
            }
            SanakirjaError::Sanakirja(libpijul_io) => match io_of(&libpijul_io) {
                Some(e) => Error::io(doing(), e),
                None => {
                    rebuild(Error::new(Class::Damage, format!("`{}` is no pristine that libpijul knows: {libpijul_io:?}", path.display())))
                }
            },
            e => refused("cannot open the pristine")(e),
        })
    })?;
    let meta = std::fs::metadata(path).doing(doing)?;
    Ok((pristine, Opened { path: path.to_owned(), identity: (meta.dev(), meta.ino()), mapped: meta.len() }))
}

fn io_of(e: &(dyn std::error::Error + 'static)) -> Option<io::Error> {
    let mut at = Some(e);
    while let Some(e) = at {
        if let Some(io) = e.downcast_ref::<io::Error>() {
            return Some(io.raw_os_error().map_or_else(|| io::Error::new(io.kind(), io.to_string()), io::Error::from_raw_os_error));
        }
        at = e.source();
    }
    None
}

fn existing(path: &Path) -> Result<Option<File>> {
    match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => Ok(Some(file)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io(format!("cannot open `{}`", path.display()), e)),
    }
}

/// The first free byte: at offset 8 of each of the two root pages (little endian), one of which is current.
fn used(file: &File) -> io::Result<u64> {
    let mut used = 0;
    for page in [0, PAGE] {
        let mut field = [0; 8];
        file.read_exact_at(&mut field, page + 8)?;
        used = used.max(u64::from_le_bytes(field));
    }
    Ok(used)
}

impl Opened {
    /// Is it still the file that was opened, and as long? A page of a shorter one must not be touched.
    ///
    /// # Errors
    /// `NotFound` when it is gone or another one, `Damage` when it is cut short.
    pub(super) fn check(&self) -> Result<()> {
        let path = self.path.display();
        match std::fs::metadata(&self.path) {
            Ok(meta) if (meta.dev(), meta.ino()) != self.identity => {
                Err(Error::new(Class::NotFound, format!("`{path}` is another file than the one that was opened")))
            }
            Ok(meta) if meta.len() < self.mapped => {
                let what = format!("`{path}` was cut to {} bytes by somebody", meta.len());
                Err(rebuild(Error::new(Class::Damage, what)))
            }
            Ok(_) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(Error::new(Class::NotFound, format!("`{path}` was removed"))),
            Err(e) => Err(Error::io(format!("cannot look at `{path}`"), e)),
        }
    }

    /// From now on [`check`](Self::check) fails; where the file is.
    pub(super) fn close(&mut self) -> PathBuf {
        self.identity = (0, 0);
        self.path.clone()
    }

    /// The size that it should have so that these versions do not more than half fill it, when that is more than it has.
    pub(super) fn size_for(&self, versions: &[VersionInput]) -> Result<Option<u64>> {
        self.check()?;
        let file = File::open(&self.path).doing(|| format!("cannot open `{}`", self.path.display()))?;
        let used = used(&file).doing(|| format!("cannot read `{}`", self.path.display()))?;
        let want = used.saturating_add(wanted(versions, used)).saturating_mul(2);
        let sizes = std::iter::successors(Some(self.mapped), |size| size.checked_mul(2));
        Ok(sizes.take_while(|size| *size < i64::MAX as u64 / 2).find(|size| *size >= want).filter(|size| *size > self.mapped))
    }

    /// Takes disk space for what these versions may add, before they do: it is written through a mapping of a sparse file, and there a full
    /// disk is a SIGBUS, not an error.
    pub(super) fn reserve(&self, versions: &[VersionInput]) -> Result<()> {
        let doing = || format!("cannot reserve space for `{}`", self.path.display());
        let file = OpenOptions::new().read(true).write(true).open(&self.path).doing(doing)?;
        let used = used(&file).doing(doing)?;
        let want = used.saturating_add(wanted(versions, used));
        if want > self.mapped {
            let holder = holders(&self.path).map_or_else(String::new, |who| format!("; {who} has it open"));
            let what = format!("`{}` must grow, which it can only while nobody else has it open{holder}", self.path.display());
            return Err(Error::new(Class::Busy, what).hint("end the `pijul` that is open there"));
        }
        // Asked for more than there is, a file system may take all that there is before it says no, and the log would find none.
        let has = file.metadata().doing(doing)?.blocks().saturating_mul(512);
        let free = rustix::fs::fstatvfs(&file).map(|s| s.f_bavail.saturating_mul(s.f_frsize)).map_err(Into::into).doing(doing)?;
        if want.saturating_sub(has).saturating_add(LEFT) > free {
            let what = format!("`{}` may grow by {} bytes, and its disk has {free} free", self.path.display(), want.saturating_sub(has));
            return Err(Error::new(Class::Full, what).hint("make room; nothing is lost meanwhile, Pijul gets the versions then"));
        }
        match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::KEEP_SIZE, 0, want) {
            // A file system that cannot reserve.
            Ok(()) | Err(Errno::OPNOTSUPP) => Ok(()),
            Err(e) => Err(Error::io(doing(), e.into())),
        }
    }

    /// Waits until a write transaction could begin.
    ///
    /// # Errors
    /// `Busy`, with who holds the lock, when it is held for all of `patience`.
    pub(super) fn wait_for_lock(&self, patience: Duration) -> Result<()> {
        let begun = Instant::now();
        loop {
            let Some(held) = self.held()? else { return Ok(()) };
            if begun.elapsed() >= patience {
                let who = lock_holder(&held).map_or_else(|| "somebody".to_owned(), process);
                return Err(Error::new(Class::Busy, format!("the Pijul repository's lock is held by {who}"))
                    .hint("end that process; nothing is lost meanwhile, versions wait until it lets go"));
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// A file whose lock is held by somebody.
    fn held(&self) -> Result<Option<File>> {
        let try_one = |path: &Path, create: bool| -> Result<Result<File, File>> {
            let doing = || format!("cannot lock `{}`", path.display());
            let file = OpenOptions::new().read(true).write(true).create(create).truncate(false).open(path).doing(doing)?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => Ok(Ok(file)),
                Err(Errno::WOULDBLOCK) => Ok(Err(file)),
                Err(e) => Err(Error::io(doing(), e.into())),
            }
        };
        let db = match try_one(&self.path, false)? {
            Ok(db) => db,
            Err(held) => return Ok(Some(held)),
        };
        // Which root page is next stands in byte 2 of the file; it cannot change while the lock above is held.
        let mut root = [0];
        db.read_exact_at(&mut root, 2).doing(|| format!("cannot read `{}`", self.path.display()))?;
        try_one(&self.path.with_extension(format!("lock{}", root[0])), true).map(Result::err)
    }
}

/// Bytes that a transaction may add.
fn wanted(versions: &[VersionInput], used: u64) -> u64 {
    // Of text that is edited, all of which may be lines of their own (that of a new file is one vertex); of paths, each with its rows in a
    // dozen trees. No page is copied twice.
    let text = |c: &TreeChange| c.old.as_ref().and(c.new.as_ref()).map_or(0, |i| i.node.size).min(TEXT_MAX);
    let (mut paths, mut bytes) = (0_u64, 0_u64);
    for change in versions.iter().flat_map(|v| &v.changes) {
        paths += 1;
        bytes = bytes.saturating_add(text(change).saturating_mul(2));
    }
    let rows = (paths.saturating_mul(64 << 10)).min(used.saturating_mul(2).saturating_add(paths.saturating_mul(8 << 10)));
    RESERVE.saturating_add(rows).saturating_add(bytes)
}

/// Makes the file so large, if nobody has it open; whether it did. The caller must not have it open either.
///
/// # Errors
/// I/O errors.
pub(super) fn grow(path: &Path, size: u64) -> Result<bool> {
    let doing = || format!("cannot make `{}` larger", path.display());
    let file = OpenOptions::new().read(true).write(true).open(path).doing(doing)?;
    // Given only where no other descriptor and no mapping of the file is there; who opens it meanwhile waits until it is given back.
    if lease(&file, libc::F_WRLCK).is_err() {
        return Ok(false);
    }
    let grown = file.set_len(size).and_then(|()| file.sync_all());
    let back = lease(&file, libc::F_UNLCK);
    grown.and(back).doing(doing)?;
    Ok(true)
}

fn lease(file: &File, kind: libc::c_int) -> io::Result<()> {
    let call = |command, argument: libc::c_int| {
        // SAFETY: the descriptor is open while `file` is borrowed, and neither command takes a pointer.
        match unsafe { libc::fcntl(file.as_raw_fd(), command, argument) } {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    };
    // Whoever wants the file has the kernel send this; SIGIO, which it would be, ends a process that does not expect it.
    call(F_SETSIG, libc::SIGURG)?;
    call(libc::F_SETLEASE, kind)
}

/// <fcntl.h> of Linux; crate libc has it for some targets only.
const F_SETSIG: libc::c_int = 10;

/// Who holds a lock on the file, as /proc/locks says.
fn lock_holder(file: &File) -> Option<u32> {
    let meta = file.metadata().ok()?;
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    let ino = meta.ino().to_string();
    locks.lines().find_map(|line| {
        // `1: FLOCK  ADVISORY  WRITE 4711 fd:01:1234 0 EOF`
        let mut words = line.split_whitespace().skip(1);
        let (kind, _, _) = (words.next()?, words.next()?, words.next()?);
        let (pid, place) = (words.next()?, words.next()?);
        (kind == "FLOCK" && place.rsplit(':').next() == Some(&ino)).then(|| pid.parse().ok()).flatten()
    })
}

/// Other processes that have the file open, in words.
fn holders(path: &Path) -> Option<String> {
    let wanted = std::fs::metadata(path).ok()?;
    let own = std::process::id();
    let processes = std::fs::read_dir("/proc").ok()?.filter_map(|e| e.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let has = |pid: &u32| {
        let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).ok();
        let mut metas = fds.into_iter().flatten().filter_map(|fd| std::fs::metadata(fd.ok()?.path()).ok());
        metas.any(|m| (m.dev(), m.ino()) == (wanted.dev(), wanted.ino()))
    };
    let found: Vec<String> = processes.filter(|pid| *pid != own).filter(has).map(process).collect();
    (!found.is_empty()).then(|| found.join(", "))
}

/// A process, for people.
fn process(pid: u32) -> String {
    match std::fs::read_to_string(format!("/proc/{pid}/comm")) {
        Ok(comm) => format!("process {pid} ({})", comm.trim_end().escape_debug()),
        Err(_) => format!("process {pid}"),
    }
}

//! `meta/lock`: one process has a project open for writing, and the next one learns how the last one ended.
//!
//! The lock itself is flock(2), which the kernel drops with the process; the content only tells people and recovery who it was. It says
//! `running` from before the first byte of the project is touched until [`Lock::release_clean`], each synced, so that after a crash it
//! never says `clean` wrongly. Content that does not parse (a torn write) counts as not clean.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::error::{Class, Error, IoContext, Result};
use crate::ids::Time;
use crate::project::atomic;
use crate::project::layout::Layout;

/// Most bytes of content that are read.
const MAX_CONTENT: usize = 4096;

const ATTEMPTS: u32 = 5;
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(20);

/// Who holds or held a lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Holder {
    /// Name of the machine.
    pub host: String,
    /// Boot of the machine (`/proc/sys/kernel/random/boot_id`).
    pub boot_id: String,
    /// Process.
    pub pid: u32,
    /// When it took the lock.
    pub start: Time,
    /// Time since boot then: whoever comes later on this boot can tell whether the clock was set meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_time: Option<Duration>,
    /// How far it came.
    pub state: State,
}

/// How far a holder came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It has, or had when it died, the project open.
    Running,
    /// It closed the project: everything was synced.
    Clean,
}

/// How the last holder ended. A project that was never open, or whose lock file is unreadable, counts as not clean and of another boot:
/// recovery then trusts nothing that it has not checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Previous {
    /// It closed the project with everything synced.
    pub clean: bool,
    /// It ran on this machine since its last boot: what it wrote is in the page cache, whatever the disk holds.
    pub same_boot: bool,
    /// Who it was, where that can be read.
    pub holder: Option<Holder>,
}

/// A held lock. Dropped without [`Lock::release_clean`], it leaves `running` behind.
#[derive(Debug)]
pub struct Lock {
    file: File,
    holder: Holder,
    path: std::path::PathBuf,
}

impl Lock {
    /// Takes the lock of a project, within a tenth of a second or not at all, and writes `running` durably.
    ///
    /// # Errors
    /// [`Class::Busy`] naming the holder's pid; [`Class::Io`] or [`Class::Full`].
    pub fn acquire(layout: &Layout) -> Result<(Self, Previous)> {
        let path = layout.lock();
        let doing = || format!("cannot lock {}", path.display());
        let file = File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path).doing(doing)?;
        for attempt in 1.. {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                // Somebody who only looks ([`held_by`]) holds it for an instant.
                Err(Errno::WOULDBLOCK) if attempt < ATTEMPTS => std::thread::sleep(BETWEEN_ATTEMPTS),
                // What the file says is of the last one who wrote; readers leave no name.
                Err(Errno::WOULDBLOCK) if rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared).is_ok() => {
                    return Err(Error::new(Class::Busy, format!("the project in {} is mounted read-only", layout.dir().display()))
                        .hint("unmount it first: `ize list` shows where it is"));
                }
                Err(Errno::WOULDBLOCK) => return Err(busy(layout, read(&file).as_ref())),
                Err(e) => return Err(Error::io(doing(), e.into())),
            }
        }
        let last = read(&file);
        let holder = Holder {
            host: host(),
            boot_id: boot_id().doing(doing)?,
            pid: std::process::id(),
            start: Time::now(),
            boot_time: Some(since_boot()),
            state: State::Running,
        };
        let previous = Previous {
            clean: last.as_ref().is_some_and(|h| h.state == State::Clean),
            same_boot: last.as_ref().is_some_and(|h| h.boot_id == holder.boot_id),
            holder: last,
        };
        let mut lock = Self { file, holder, path: path.clone() };
        // Until the crash of another boot has been recovered from, the lock goes on naming that boot: a recovery that is cut short must not
        // hide from the next one that power was lost.
        let this_boot = lock.holder.boot_id.clone();
        if let Some(last) = previous.holder.as_ref().filter(|_| !previous.clean && !previous.same_boot) {
            lock.holder.boot_id.clone_from(&last.boot_id);
        }
        lock.write(State::Running)?;
        lock.holder.boot_id = this_boot;
        atomic::sync_dir(&layout.meta())?;
        Ok((lock, previous))
    }

    /// Says durably that recovery is done: what happens from now on happens on this boot.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub fn recovered(&mut self) -> Result<()> {
        self.write(State::Running)
    }

    /// Says durably that the project was closed with everything synced, and lets go.
    ///
    /// # Errors
    /// Whatever the disk says; the lock is let go all the same, and the next holder sees an unclean end.
    pub fn release_clean(mut self) -> Result<()> {
        self.write(State::Clean)
    }

    /// Who we are.
    #[must_use]
    pub fn holder(&self) -> &Holder {
        &self.holder
    }

    fn write(&mut self, state: State) -> Result<()> {
        let doing = || format!("cannot write {}", self.path.display());
        self.holder.state = state;
        let mut line = serde_json::to_vec(&self.holder).map_err(|e| Error::new(Class::Failed, format!("{}: {e}", doing())).source(e))?;
        writeln!(line).doing(doing)?;
        // In place and not by rename: another file under this name would be another lock. Between the cut and the write a crash leaves
        // an empty file, which reads as unclean.
        self.file.set_len(0).doing(doing)?;
        self.file.write_all_at(&line, 0).doing(doing)?;
        self.file.sync_all().doing(doing)
    }
}

/// Keeps writers out of a project and writes nothing, for as long as it lives.
#[derive(Debug)]
pub struct ReadLock {
    _file: File,
}

impl ReadLock {
    /// Takes it; `None` for a project that nobody ever opened, which has nothing to lock.
    ///
    /// # Errors
    /// [`Class::Busy`] naming the pid of whoever has the project open for writing; [`Class::Io`].
    pub fn acquire(layout: &Layout) -> Result<Option<Self>> {
        let path = layout.lock();
        let doing = || format!("cannot lock {}", path.display());
        let file = match File::open(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.doing(doing)?,
        };
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(Errno::WOULDBLOCK) => Err(busy(layout, read(&file).as_ref())),
            Err(e) => Err(Error::io(doing(), e.into())),
        }
    }
}

/// Who has the project open right now: `None` when nobody has, `Some(None)` when somebody has whose name cannot be read.
///
/// # Errors
/// [`Class::Io`].
pub fn held_by(layout: &Layout) -> Result<Option<Option<Holder>>> {
    let path = layout.lock();
    let doing = || format!("cannot look at {}", path.display());
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io(doing(), e)),
    };
    // A shared lock for an instant: it does not disturb a second looker, and `acquire` tries again.
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(None),
        Err(Errno::WOULDBLOCK) => Ok(Some(read(&file))),
        Err(e) => Err(Error::io(doing(), e.into())),
    }
}

/// Whether the last one who had the project open closed it in order; false when that cannot be read.
#[must_use]
pub fn was_closed(layout: &Layout) -> bool {
    File::open(layout.lock()).ok().as_ref().and_then(read).is_some_and(|h| h.state == State::Clean)
}

/// Waits while the project is held by a process that is dying (killed, and not gone yet), for at most `patience`.
///
/// # Errors
/// As [`held_by`].
pub fn outlive(layout: &Layout, patience: Duration) -> Result<()> {
    let until = Instant::now() + patience;
    while let Some(Some(holder)) = held_by(layout)? {
        if !is_dying(holder.pid) || Instant::now() > until {
            break;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// A zombie, a process with SIGKILL pending, or none at all.
fn is_dying(pid: u32) -> bool {
    let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) else { return true };
    status.lines().any(|line| match line.split_once(':') {
        Some(("State", state)) => state.trim_start().starts_with(['Z', 'X']),
        // Bit 8 is signal 9.
        Some(("SigPnd" | "ShdPnd", mask)) => u64::from_str_radix(mask.trim(), 16).is_ok_and(|m| m & 0x100 != 0),
        _ => false,
    })
}

/// The error that names who has the project open.
#[must_use]
pub fn busy(layout: &Layout, holder: Option<&Holder>) -> Error {
    let who = match holder {
        Some(h) if h.host == host() => format!("process {}", h.pid),
        Some(h) => format!("process {} on {}", h.pid, h.host),
        None => "another process".into(),
    };
    Error::new(Class::Busy, format!("the project in {} is open in {who}", layout.dir().display()))
        .hint("unmount it first, or ask the mount that has it: `ize list` shows where it is")
}

fn read(file: &File) -> Option<Holder> {
    let mut content = vec![0; MAX_CONTENT];
    let n = file.read_at(&mut content, 0).ok()?;
    serde_json::from_slice(content.get(..n)?).ok()
}

/// Time since this machine was booted, suspension included.
#[must_use]
pub fn since_boot() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}

fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

fn boot_id() -> std::io::Result<String> {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|s| s.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout() -> (tempfile::TempDir, Layout) {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        std::fs::create_dir(layout.meta()).unwrap();
        (dir, layout)
    }

    #[test]
    fn the_next_holder_learns_how_the_last_one_ended() {
        let (_dir, layout) = layout();
        let (lock, previous) = Lock::acquire(&layout).unwrap();
        assert_eq!((previous.clean, previous.same_boot, previous.holder), (false, false, None));
        lock.release_clean().unwrap();
        let (lock, previous) = Lock::acquire(&layout).unwrap();
        assert_eq!((previous.clean, previous.same_boot), (true, true));
        assert_eq!(previous.holder.unwrap().pid, std::process::id());
        drop(lock);
        let (_lock, previous) = Lock::acquire(&layout).unwrap();
        assert_eq!((previous.clean, previous.same_boot), (false, true));
    }

    #[test]
    fn a_held_lock_is_busy_and_names_its_holder() {
        let (_dir, layout) = layout();
        assert_eq!(held_by(&layout).unwrap(), None);
        let (lock, _) = Lock::acquire(&layout).unwrap();
        let e = Lock::acquire(&layout).unwrap_err();
        assert_eq!(e.class, Class::Busy);
        assert!(e.message.contains(&format!("process {}", std::process::id())), "{e}");
        assert_eq!(held_by(&layout).unwrap().unwrap().unwrap(), *lock.holder());
        drop(lock);
        assert_eq!(held_by(&layout).unwrap(), None);
    }

    #[test]
    fn readers_keep_writers_out_and_not_each_other_and_write_nothing() {
        let (_dir, layout) = layout();
        assert!(ReadLock::acquire(&layout).unwrap().is_none());
        let (lock, _) = Lock::acquire(&layout).unwrap();
        let e = ReadLock::acquire(&layout).unwrap_err();
        assert!(e.class == Class::Busy && e.message.contains(&std::process::id().to_string()), "{e}");
        lock.release_clean().unwrap();
        let before = std::fs::read(layout.lock()).unwrap();
        let readers = [ReadLock::acquire(&layout).unwrap().unwrap(), ReadLock::acquire(&layout).unwrap().unwrap()];
        let e = Lock::acquire(&layout).unwrap_err();
        assert!(e.class == Class::Busy && e.message.contains("read-only"), "{e}");
        assert_eq!(std::fs::read(layout.lock()).unwrap(), before);
        drop(readers);
        Lock::acquire(&layout).unwrap();
    }

    #[test]
    fn content_that_does_not_parse_or_is_of_another_boot_is_never_clean_and_same() {
        let (_dir, layout) = layout();
        for bad in ["", "{", "\u{0}\u{0}", "{\"state\":\"clean\"}"] {
            std::fs::write(layout.lock(), bad).unwrap();
            let (_lock, previous) = Lock::acquire(&layout).unwrap();
            assert_eq!((previous.clean, previous.same_boot), (false, false), "{bad}");
        }
        let (lock, _) = Lock::acquire(&layout).unwrap();
        lock.release_clean().unwrap();
        let text = std::fs::read_to_string(layout.lock()).unwrap();
        std::fs::write(layout.lock(), text.replace(&boot_id().unwrap(), "another")).unwrap();
        let (_lock, previous) = Lock::acquire(&layout).unwrap();
        assert_eq!((previous.clean, previous.same_boot), (true, false));
    }
}

//! Room that is kept back for a full disk: `reserve`, a file beside the segments.
//!
//! Bytes of files are refused while less than all of it is there, so that what gets a full disk going again (recovery, replay, checkpoint,
//! prune) has somewhere to write: it is removed when one of them finds no room, and made again when there is some. What takes no bytes (a
//! removal, a new name) goes on: it is given a part, segment by segment. The file holds no bytes that anybody reads, and needs no sync: after a power cut it is there with its
//! length or it is made again.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::storage::{FileRef, Storage};

use super::format::reserve_path;

/// What an opening needs besides the last segment: a checkpoint, blocks that name others.
const OPENING: u64 = 256 << 10;
/// Most bytes for names, and for changes.
const PART_MAX: u64 = 4 << 20;
/// To make it again is tried no more often than this by those who only want to know.
const AGAIN: Duration = Duration::from_millis(100);

/// What an append needs room for. The later ones go on where the earlier are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// Bytes of files: nothing of what is kept back.
    Bytes,
    /// A new name or attribute: an eighth of it, at most 4 MiB.
    Names,
    /// What takes away or only changes, marks: the same again, which those who make room do not get.
    Change,
}

/// The reserve of one log.
#[derive(Debug)]
pub(super) struct Reserve {
    storage: Arc<dyn Storage>,
    path: PathBuf,
    /// Bytes; 0 is no reserve.
    size: u64,
    /// Bytes of them that only an opening gets: what it takes to write the last segment afresh.
    opening: u64,
    /// Bytes of them for names, and as many for other changes.
    part: u64,
    /// How many of them are there.
    held: AtomicU64,
    /// One at a time makes, cuts or removes it.
    turn: Mutex<Turn>,
}

#[derive(Debug, Default)]
struct Turn {
    /// When making it failed last.
    failed: Option<Instant>,
    /// How many have it: see [`Loan`].
    lent: u32,
}

/// Room that is kept back, for whoever makes more of it: replay, checkpoint, prune. It is kept back again when nobody has any of it.
#[derive(Debug)]
pub struct Loan<'a> {
    reserve: &'a Reserve,
    begun: bool,
}

impl Loan<'_> {
    /// Gives the room away, but for what an opening and changes need; when that was given already, what changes need too. False when
    /// there was nothing to give.
    pub fn more(&mut self) -> bool {
        self.reserve.lend(&mut self.begun)
    }
}

impl Drop for Loan<'_> {
    fn drop(&mut self) {
        if self.begun {
            let mut turn = self.reserve.turn.lock().unwrap_or_else(PoisonError::into_inner);
            turn.lent = turn.lent.saturating_sub(1);
            self.reserve.make_unless_lent(&mut turn);
        }
    }
}

impl Reserve {
    pub(super) fn new(storage: Arc<dyn Storage>, dir: &Path, size: u64, segment: u64) -> Self {
        Self {
            storage,
            path: reserve_path(dir),
            size,
            opening: (segment + OPENING).min(size / 2),
            part: (size / 8).min(PART_MAX),
            held: AtomicU64::new(0),
            turn: Mutex::default(),
        }
    }

    /// Bytes for names, and as many for other changes.
    pub(super) fn part(&self) -> u64 {
        self.part
    }

    /// Makes it whole, unless somebody has some of it. A disk too full for that keeps what there is.
    pub(super) fn refill(&self) {
        self.make_unless_lent(&mut self.turn.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn make_unless_lent(&self, turn: &mut Turn) {
        if turn.lent == 0 {
            self.make(turn);
        }
    }

    /// Nothing of it is lent so far.
    pub(super) fn loan(&self) -> Loan<'_> {
        Loan { reserve: self, begun: false }
    }

    /// Is all of it there? Where it is not, making it is tried, though not all the time.
    pub(super) fn is_whole(&self) -> bool {
        if self.held.load(Ordering::Acquire) >= self.size {
            return true;
        }
        let mut turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if turn.lent == 0 && turn.failed.is_none_or(|at| at.elapsed() >= AGAIN) {
            self.make(&mut turn);
        }
        self.held.load(Ordering::Acquire) >= self.size
    }

    fn make(&self, turn: &mut Turn) {
        if self.size == 0 {
            return;
        }
        let opened = match self.storage.open(&self.path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => self.storage.create_new(&self.path),
            other => other,
        };
        let made = opened.and_then(|file| {
            let there = file.len()?;
            self.held.store(there, Ordering::Release);
            if there >= self.size { Ok(()) } else { self.extend(&file, there) }
        });
        turn.failed = made.as_ref().err().map(|_| Instant::now());
        if let Err(e) = made {
            tracing::debug!("less room than wanted is kept back for a full disk: cannot make {}: {e}", self.path.display());
        }
    }

    /// In steps, so that a disk without room for all of it has what matters most.
    fn extend(&self, file: &FileRef, mut there: u64) -> io::Result<()> {
        let least = self.opening + self.part;
        for step in [self.opening, least, least.midpoint(self.size), self.size] {
            if there >= step {
                continue;
            }
            if let Err(e) = file.allocate(step) {
                // What it got is somebody else's last room; an empty file says nothing.
                let back = if there == 0 { remove(&*self.storage, &self.path).map(drop) } else { file.set_len(there) };
                return back.and(Err(e));
            }
            there = step;
            self.held.store(there, Ordering::Release);
        }
        Ok(())
    }

    fn lend(&self, begun: &mut bool) -> bool {
        let mut turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let held = self.held.load(Ordering::Acquire);
        let left = if held > self.opening + self.part { self.opening + self.part } else { self.opening };
        let given = held > left && self.storage.open(&self.path).and_then(|file| file.set_len(left)).is_ok();
        if given {
            turn.lent += u32::from(!std::mem::replace(begun, true));
            self.held.store(left, Ordering::Release);
        }
        given
    }

    /// Gives `bytes` of its room to an append, as far as `need` may have them; false when not.
    pub(super) fn give(&self, bytes: u64, need: Need) -> bool {
        let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let floor = match need {
            Need::Bytes => self.size,
            // While the rest is lent, half of what is left for changes.
            Need::Names if turn.lent > 0 => self.opening + self.part / 2,
            Need::Names => self.size - self.part,
            Need::Change => self.opening,
        };
        let Some(left) = self.held.load(Ordering::Acquire).checked_sub(bytes).filter(|left| *left >= floor) else { return false };
        if self.storage.open(&self.path).and_then(|file| file.set_len(left)).is_err() {
            return false;
        }
        self.held.store(left, Ordering::Release);
        true
    }
}

/// Removes the reserve of a log that is not open; false when there is none, or it cannot be removed. Opening the log makes it again.
pub fn give_up_reserve(storage: &Arc<dyn Storage>, dir: &Path) -> bool {
    remove(&**storage, &reserve_path(dir)).unwrap_or(false)
}

/// Removes a file; false when it was not there.
fn remove(storage: &dyn Storage, path: &Path) -> io::Result<bool> {
    match storage.remove(path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

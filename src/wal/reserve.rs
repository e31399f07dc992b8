//! Room that is kept back for a full disk: `reserve`, a zero-filled file beside the segments whose bytes nobody ever reads.
//!
//! Appends are refused while it is there, so that what gets a full disk going again (recovery, replay, checkpoint, prune) has somewhere to
//! write: it is removed when one of them finds no room, and made again when there is some. It needs no sync: after a power cut it is there
//! with its length or it is made again.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::storage::Storage;

use super::format::reserve_path;
use super::spare::fill;

/// The reserve of one log.
#[derive(Debug)]
pub(super) struct Reserve {
    storage: Arc<dyn Storage>,
    path: PathBuf,
    /// Bytes; 0 is no reserve.
    size: u64,
    /// One at a time makes or removes it.
    turn: Mutex<()>,
}

impl Reserve {
    pub(super) fn new(storage: Arc<dyn Storage>, dir: &Path, size: u64) -> Self {
        Self { storage, path: reserve_path(dir), size, turn: Mutex::new(()) }
    }

    /// Makes it, unless it is there with its length. A disk too full for that goes without.
    pub(super) fn restore(&self) {
        if self.size == 0 {
            return;
        }
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if self.storage.open_read(&self.path).and_then(|f| f.len()).is_ok_and(|len| len >= self.size) {
            return;
        }
        let made = remove(&*self.storage, &self.path).and_then(|_| self.storage.create_new(&self.path)).and_then(|f| fill(&f, self.size));
        if let Err(e) = made {
            tracing::warn!("no room is kept back for a full disk: cannot make {}: {e}", self.path.display());
            let _ = remove(&*self.storage, &self.path);
        }
    }

    /// Gives its room back; false when there was none.
    pub(super) fn release(&self) -> bool {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        remove(&*self.storage, &self.path).unwrap_or(false)
    }
}

/// Removes a file; false when it was not there.
fn remove(storage: &dyn Storage, path: &Path) -> io::Result<bool> {
    match storage.remove(path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

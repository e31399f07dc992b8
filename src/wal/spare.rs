//! Zero-filled files that wait to become segments.
//!
//! A file whose blocks are written and synced needs no journal commit at fdatasync: three times the synced appends of a growing file. One
//! spare is kept ready by a thread of its own; without the thread, or when it is late, the spare is made on the spot.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::storage::{FileRef, Storage, write_zeros};

use super::format::spare_path;

/// Bytes written at once. It is also the size of the page cache's folios, and each later write looks at every block of its folio: appends
/// of 4 KiB / 200 B cost 4.0 / 2.9 us after a fill by 1 MiB, 2.0 / 1.2 by 256 KiB, 1.8 / 0.8 by 64 or 32 KiB, 2.7 / 0.8 by 4 KiB (ext4,
/// Linux 6.18, where the fill by 4 KiB takes twice as long).
const CHUNK: usize = 32 << 10;

/// A zero-filled, synced file under a temporary name.
#[derive(Debug)]
pub(super) struct Spare {
    pub(super) file: FileRef,
    pub(super) path: PathBuf,
    /// Its length in bytes.
    pub(super) size: u64,
}

#[derive(Debug, Default)]
struct State {
    ready: Option<Spare>,
    /// Size of the spare that is to be made.
    wanted: Option<u64>,
    making: bool,
    stop: bool,
    next: u64,
}

#[derive(Debug)]
struct Shared {
    storage: Arc<dyn Storage>,
    dir: PathBuf,
    state: Mutex<State>,
    wake: Condvar,
}

/// Where spares come from. Dropping it stops the thread and removes the spare.
#[derive(Debug)]
pub(super) struct Spares {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn make(&self, size: u64) -> io::Result<Spare> {
        loop {
            let number = {
                let mut state = self.state();
                state.next += 1;
                state.next
            };
            let path = spare_path(&self.dir, number);
            match self.storage.create_new(&path) {
                Ok(file) => match write_zeros(&*file, size, CHUNK).and_then(|()| file.sync_data()) {
                    Ok(()) => return Ok(Spare { file, path, size }),
                    Err(e) => {
                        // Give the room back at once: the disk may be full.
                        drop(file);
                        let _ = self.storage.remove(&path);
                        return Err(e);
                    }
                },
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
        }
    }

    fn work(&self) {
        let mut state = self.state();
        loop {
            while state.wanted.is_none() && !state.stop {
                state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if state.stop {
                return;
            }
            let Some(size) = state.wanted.take().filter(|_| state.ready.is_none()) else { continue };
            state.making = true;
            drop(state);
            // A failure is no news: whoever needs the segment makes it on the spot and gets the error.
            let made = self.make(size).ok();
            state = self.state();
            state.making = false;
            state.ready = made;
            self.wake.notify_all();
        }
    }
}

impl Spares {
    pub(super) fn new(storage: Arc<dyn Storage>, dir: &Path, background: bool) -> io::Result<Self> {
        let shared = Arc::new(Shared { storage, dir: dir.to_path_buf(), state: Mutex::default(), wake: Condvar::new() });
        let thread = if background {
            let shared = Arc::clone(&shared);
            Some(std::thread::Builder::new().name("ize-wal-spare".into()).spawn(move || shared.work())?)
        } else {
            None
        };
        Ok(Self { shared, thread })
    }

    /// A spare of `needed` bytes or more: the one that is ready or being made, else one of `wanted` bytes made now, or of
    /// `least` where there is no room for that.
    pub(super) fn take(&self, needed: u64, wanted: u64, least: u64) -> io::Result<Spare> {
        let mut state = self.shared.state();
        while state.making {
            state = self.shared.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let ready = state.ready.take();
        drop(state);
        match ready {
            Some(spare) if spare.size >= needed => Ok(spare),
            other => {
                if let Some(Spare { file, path, .. }) = other {
                    drop(file);
                    self.shared.storage.remove(&path)?;
                }
                match self.shared.make(wanted) {
                    Err(e) if e.kind() == io::ErrorKind::StorageFull && least < wanted => self.shared.make(least),
                    made => made,
                }
            }
        }
    }

    /// A spare of `size` bytes, made now.
    pub(super) fn make(&self, size: u64) -> io::Result<Spare> {
        self.shared.make(size)
    }

    /// Asks for a spare of `size` bytes to be ready for the next time.
    pub(super) fn order(&self, size: u64) {
        if self.thread.is_some() {
            self.shared.state().wanted = Some(size);
            self.shared.wake.notify_all();
        }
    }
}

impl Drop for Spares {
    fn drop(&mut self) {
        self.shared.state().stop = true;
        self.shared.wake.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        if let Some(spare) = self.shared.state().ready.take() {
            let _ = self.shared.storage.remove(&spare.path);
        }
    }
}

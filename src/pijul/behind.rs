//! Change files are written by a thread of their own while the next version is being recorded. To go on, libpijul needs the hash of a change
//! and the change itself, not its file; to put the file together, compress it and give it its name takes as long as the recording.
//!
//! What waits to be written is read from memory ([`ChangeFiles::load`]). Nothing of a transaction is committed before
//! [`finish`](Behind::finish) has said that all its files are there and they have been synced.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, Scope, ScopedJoinHandle};

use libpijul::Hash;
use libpijul::change::Change;

use super::store::{ChangeFiles, StoreError};
use crate::error::{Class, Error, Result};
use crate::pijul::apply::refused;

/// Changes that wait, at most.
const WAITING: usize = 64;
/// Bytes of contents from which on a change is written at once: two of them, the one that waits and its copy that libpijul's serialising
/// asks for, should not take memory.
const LARGE: usize = 256 << 10;

/// Writes the change files of one transaction.
pub(super) struct Behind<'scope> {
    files: ChangeFiles,
    to_write: SyncSender<(Hash, Arc<Change>)>,
    thread: ScopedJoinHandle<'scope, Result<(), StoreError>>,
}

impl<'scope> Behind<'scope> {
    /// Starts the thread.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(super) fn begin(scope: &'scope Scope<'scope, '_>, files: &ChangeFiles) -> Result<Self> {
        let (to_write, waiting) = sync_channel(WAITING);
        let writing = files.clone();
        let thread = Builder::new().name("ize-pijul-write".to_owned()).spawn_scoped(scope, move || write(&writing, &waiting));
        let thread = thread.map_err(|e| Error::io("cannot start a thread that writes change files", e))?;
        Ok(Self { files: files.clone(), to_write, thread })
    }

    /// The change files, those that wait included.
    pub(super) fn files(&self) -> &ChangeFiles {
        &self.files
    }

    /// Saves a change of this hash.
    ///
    /// # Errors
    /// What writing a large one says; that of the others comes from [`finish`](Self::finish).
    pub(super) fn save(&self, hash: Hash, mut change: Change) -> Result<()> {
        if change.contents.len() >= LARGE {
            return self.files.write(&mut change).map(drop).map_err(not_written);
        }
        let change = Arc::new(change);
        self.files.waits(hash, Arc::clone(&change));
        self.to_write.send((hash, change)).map_err(|_| died())
    }

    /// Waits until all are written.
    ///
    /// # Errors
    /// What writing one of them says.
    pub(super) fn finish(self) -> Result<()> {
        drop(self.to_write);
        self.thread.join().map_err(|_| died())?.map_err(not_written)
    }
}

/// Writes what comes; after an error nothing more, for the transaction is lost.
fn write(files: &ChangeFiles, waiting: &Receiver<(Hash, Arc<Change>)>) -> Result<(), StoreError> {
    let mut done = Ok(());
    for (hash, change) in waiting {
        if done.is_ok() {
            done = files.write(&mut (*change).clone()).map(drop);
        }
        files.is_written(&hash);
    }
    done
}

fn not_written(e: StoreError) -> Error {
    match e {
        StoreError::Io(e) => Error::io("cannot write a change file", e),
        e => refused("cannot save the change")(e),
    }
}

fn died() -> Error {
    Error::new(Class::Failed, "the thread that writes change files has died")
}

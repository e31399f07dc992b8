//! Import: a directory's tree comes into a project through the log, like everything else, so that versions cover it and recovery works.
//!
//! One thread walks through the source; workers read, store small files, and cut what is large into the chunks that replay would cut;
//! others hash, compress and store those; one syncs, so that replay has something to follow; one logs everything in the order of the walk,
//! parents before children, holding the tree's lock for one operation at a time. Replay follows beside it. Every queue between them is
//! bounded, in bytes where bytes are in it: at most `WINDOWS` windows of `WINDOW` bytes, and as many batches of small files, whatever the
//! sizes of files.
//!
//! Each part of a job has a channel of its own, made in the order of the walk: so the logging thread takes them in order however the
//! workers come to be done. Nobody waits in a ring: workers take jobs in order, hence the one that is being logged is always in work, and
//! whoever stores chunks waits for nobody.
//!
//! A second import of the same source goes on where the first was killed. A file's times are the last thing that is logged of it: what has
//! the source's mtime is complete.

mod feed;
mod logging;
#[cfg(feature = "pijul")]
pub mod pijul;
mod read;
mod walk;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Mutex, PoisonError};

pub use walk::{Source, check_apart};

use super::Engine;
use super::outside::{Meta, Problems};
use crate::error::{Class, Error, Result};
use crate::fs::journal::Caller;
use crate::project::importing::Importing;
use crate::versions::node::FileKind;
use walk::{Place, Visitor};

/// Bytes of a large file that are cut, and stored, in one go.
const WINDOW: usize = 1 << 20;
/// Threads of each kind at most: with more, memory would grow, and the disk is the bound long before.
const THREADS_MAX: usize = 8;
/// Windows that exist at a time: being read, waiting, being stored.
const WINDOWS: usize = 4 * THREADS_MAX;
const _: () = assert!(WINDOWS * (WINDOW + crate::versions::chunker::MAX) <= 48 << 20);
/// Bytes of small files in a batch, and entries, at most.
const BATCH_BYTES: u64 = 512 << 10;
const BATCH_ENTRIES: usize = 128;
/// Directories that a batch may hold open.
const BATCH_DIRS: usize = 16;
/// Batches and large files that are read ahead of the log.
const AHEAD: usize = 16;

/// Entries from which on an import leaves it to the next mount to tell Pijul: recording takes one core longer than all the rest takes two.
pub const PIJUL_LATER: u64 = 50_000;

/// How far an import or export is; all threads count.
#[derive(Debug, Default)]
pub struct Counters {
    /// Entries of any kind.
    pub entries: AtomicU64,
    /// Bytes of content (holes count nothing).
    pub bytes: AtomicU64,
    /// Entries that an earlier, killed import had taken.
    pub kept: AtomicU64,
}

impl Counters {
    pub(super) fn count(&self, entries: u64, bytes: u64) {
        self.entries.fetch_add(entries, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Entries and bytes so far.
    #[must_use]
    pub fn now(&self) -> (u64, u64) {
        (self.entries.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }
}

/// Bytes of a file that are not holes, as far as its attributes say.
fn content_of(meta: &Meta) -> u64 {
    if meta.kind == FileKind::File { meta.size.min(meta.blocks.saturating_mul(512)) } else { 0 }
}

/// Counts everything that there is to take.
///
/// # Errors
/// `Refused` when the walk comes to the store itself.
pub fn analyse(source: &Source, counters: &Counters) -> Result<()> {
    struct Count<'a>(&'a Counters, std::collections::HashSet<(u64, u64)>);
    impl Visitor for Count<'_> {
        fn enter(&mut self, _: Place<'_>, _: &Meta, _: &std::sync::Arc<std::os::fd::OwnedFd>) -> Result<()> {
            self.0.count(1, 0);
            Ok(())
        }
        fn leave(&mut self, _: &[u8], _: &Meta, _: &std::sync::Arc<std::os::fd::OwnedFd>, _: Option<&[Vec<u8>]>) -> Result<()> {
            Ok(())
        }
        fn entry(&mut self, _: Place<'_>, meta: &Meta) -> Result<()> {
            let again = meta.nlink > 1 && !self.1.insert(meta.id);
            self.0.count(1, if again { 0 } else { content_of(meta) });
            Ok(())
        }
    }
    // What goes wrong is told when it is taken.
    source.walk_ahead(&Problems::default(), &mut Count(counters, std::collections::HashSet::new()))
}

/// Where everything comes from.
#[derive(Clone, Copy, Debug)]
pub enum Origin<'a> {
    /// A directory.
    Directory(&'a Source),
    /// The head of a Pijul repository.
    #[cfg(feature = "pijul")]
    Repository(&'a pijul::Repository),
}

impl Origin<'_> {
    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Directory(source) => &source.path,
            #[cfg(feature = "pijul")]
            Self::Repository(repository) => &repository.path,
        }
    }

    fn walk(&self, problems: &Problems, feed: &mut feed::Feed<'_, '_>) -> Result<()> {
        match self {
            Self::Directory(source) => source.walk(problems, feed),
            #[cfg(feature = "pijul")]
            Self::Repository(repository) => repository.walk(problems, feed),
        }
    }
}

/// Takes everything from the source into a project that is open. What is there already, from an import that was killed, is kept where it is
/// as in the source; what the source has not goes.
///
/// # Errors
/// What logging, storing or replaying says; what was taken so far stays, and the next call goes on. What cannot be read is no error: it
/// is among the problems.
pub fn run(engine: &Engine, source: Origin<'_>, counters: &Counters, problems: &Problems, resumed: bool) -> Result<()> {
    let core = &**engine.core();
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
    let caller = Caller { pid: std::process::id(), uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() };
    let (jobs, to_log) = sync_channel(AHEAD);
    let (tasks, to_read) = sync_channel(AHEAD);
    let (windows, to_store) = sync_channel(threads);
    let (to_read, to_store) = (&Mutex::new(to_read), &Mutex::new(to_store));
    let spare = &read::Spare::default();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let windows = windows.clone();
            spawn(scope, "ize-import-read", move || {
                while let Some(task) = next(to_read) {
                    read::read(core, task, &windows, spare, problems);
                }
            })?;
            spawn(scope, "ize-import-put", move || {
                while let Some(window) = next(to_store) {
                    read::store(core, window, spare);
                }
            })?;
        }
        drop(windows);
        let walking = spawn(scope, "ize-import-walk", move || {
            let mut feed = feed::Feed::new(core, problems, jobs, tasks, resumed);
            // A logging thread that has stopped is the reason, not what happened; it says why itself.
            match source.walk(problems, &mut feed).and_then(|()| feed.flush()) {
                Err(e) if feed::is_over(&e) => Ok(()),
                done => done,
            }
        })?;
        let (syncs, wanted) = sync_channel(1);
        spawn(scope, "ize-import-sync", move || {
            for () in wanted {
                // The log takes nothing after a failure, and says why.
                let _ = core.sync();
            }
        })?;
        let logged = logging::Logging::new(engine, caller, counters, problems, resumed, syncs).run(to_log);
        // Whoever is still at work finds nobody listening, and ends.
        let walked = walking.join().unwrap_or_else(|_| Err(Error::new(Class::Failed, "the walk through the source panicked")));
        logged.and(walked)
    })
}

/// Makes what was taken one state with a name, durable, and says so in the project.
///
/// # Errors
/// What replay says; the import is then still unfinished, and the next call goes on.
pub fn finish(engine: &Engine, source: &Path) -> Result<()> {
    let message = format!("import {}", source.display());
    let last = engine.core().history().versions.last()?;
    // Killed between the two lines below: the state is there already.
    if engine.core().pending() || last.and_then(|v| v.label) != Some(message.clone()) {
        engine.commit(Some(message))?;
    }
    engine.core().cuts.clear();
    Importing::remove(&engine.project().layout)
}

/// The next of what several threads take from one queue; `None` when there is no more to come.
fn next<T>(queue: &Mutex<std::sync::mpsc::Receiver<T>>) -> Option<T> {
    queue.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

fn spawn<'s, T: Send + 's>(
    scope: &'s std::thread::Scope<'s, '_>,
    name: &str,
    work: impl FnOnce() -> T + Send + 's,
) -> Result<std::thread::ScopedJoinHandle<'s, T>> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn_scoped(scope, work)
        .map_err(|e| Error::io(format!("cannot start thread {name}"), e))
}

#[cfg(test)]
mod tests;

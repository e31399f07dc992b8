//! Writes that found no room wait here, off the session threads, until replay, prune or somebody else has made some; after a while they are
//! refused like on any full disk.
//!
//! Only writes wait. While a request waits, the kernel keeps its file locked against writers, fsync and unlink; a waiting create would lock
//! its whole directory, also against lookups. What takes no bytes needs little room, and has it for long (see `wal`, reserve).

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fuser::Errno;

use crate::fs::journal::Caller;
use crate::fs::pressure::HELD_BACK_MAX;
use crate::fs::{Fs, FsError};
use crate::ids::Ino;

/// How often it is tried again.
const AGAIN: Duration = Duration::from_millis(100);
/// How often those who can make room are asked to.
const ASK: Duration = Duration::from_secs(1);
/// Writes that wait at most, and their bytes; one more is refused at once.
const WRITES_MAX: usize = 1024;
/// See [`WRITES_MAX`].
const BYTES_MAX: usize = 256 << 20;

/// A write that found no room.
pub(super) struct HeldWrite {
    pub(super) caller: Caller,
    pub(super) ino: Ino,
    pub(super) offset: u64,
    pub(super) bytes: Vec<u8>,
    /// setuid and setgid must go.
    pub(super) kill: bool,
    /// It was held back, and has not looked for room.
    pub(super) back: bool,
    /// How it is answered: with the bytes written, which need not be durable yet.
    pub(super) answer: Box<dyn FnOnce(Result<u32, Errno>) + Send>,
}

#[derive(Default)]
struct Queue {
    writes: VecDeque<(Instant, HeldWrite)>,
    bytes: usize,
    stop: bool,
}

struct Shared {
    fs: Arc<Fs>,
    /// So long a write waits at most.
    patience: Duration,
    queue: Mutex<Queue>,
    bell: Condvar,
}

/// The queue and its thread, which ends with it.
pub(super) struct HeldWrites {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl HeldWrites {
    /// Where nobody is there to make room, nothing is ever held.
    pub(super) fn start(fs: Arc<Fs>) -> std::io::Result<Self> {
        let patience = fs.pressure().patience();
        let shared = Arc::new(Shared { fs, patience, queue: Mutex::default(), bell: Condvar::new() });
        let thread = if patience.is_zero() {
            None
        } else {
            let shared = Arc::clone(&shared);
            Some(std::thread::Builder::new().name("ize-held".to_owned()).spawn(move || shared.run())?)
        };
        Ok(Self { shared, thread })
    }

    /// Would a write of so many bytes be held now?
    pub(super) fn takes(&self, bytes: usize) -> bool {
        let queue = self.shared.queue();
        self.thread.is_some()
            && !queue.stop
            && !self.shared.fs.pressure().is_leaving()
            && queue.writes.len() < WRITES_MAX
            && queue.bytes.saturating_add(bytes) <= BYTES_MAX
    }

    /// Holds one. Nobody waits for longer than the patience, and nobody who came later.
    pub(super) fn push(&self, write: HeldWrite) {
        let mut queue = self.shared.queue();
        if queue.stop {
            drop(queue);
            (write.answer)(Err(Errno::ENOSPC));
            return;
        }
        queue.bytes += write.bytes.len();
        queue.writes.push_back((Instant::now(), write));
        self.shared.count(&queue);
        self.shared.bell.notify_all();
    }

    /// Refuses all who still wait, and ends the thread.
    pub(super) fn stop(&mut self) {
        self.shared.queue().stop = true;
        self.shared.bell.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for HeldWrites {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, queue: &Queue) {
        self.fs.pressure().held.store(queue.writes.len() as u64, Relaxed);
    }

    fn run(&self) {
        let mut asked: Option<Instant> = None;
        loop {
            let (all, refused) = {
                let mut queue =
                    self.bell.wait_while(self.queue(), |q| q.writes.is_empty() && !q.stop).unwrap_or_else(PoisonError::into_inner);
                if queue.stop && queue.writes.is_empty() {
                    return;
                }
                let refused = queue.stop || self.fs.pressure().is_leaving();
                (std::mem::take(&mut queue.writes), refused)
            };
            let (left, no_room) = self.try_all(all, refused);
            {
                let mut queue = self.queue();
                // Whoever came meanwhile stands behind them.
                let newer = std::mem::replace(&mut queue.writes, left);
                queue.writes.extend(newer);
                queue.bytes = queue.writes.iter().map(|(_, write)| write.bytes.len()).sum();
                self.count(&queue);
                if queue.writes.is_empty() {
                    continue;
                }
            }
            // Who only holds them back makes room without being asked.
            if no_room && asked.is_none_or(|at| at.elapsed() >= ASK) {
                asked = Some(Instant::now());
                self.fs.pressure().ask();
            }
            let queue = self.queue();
            let _ = self.bell.wait_timeout_while(queue, AGAIN, |q| !q.stop);
        }
    }

    /// Tries each, the oldest first, but none that is as large as one that found no room before it. Gives those that go on waiting: none when
    /// it is the `last` try; and whether one found no room.
    fn try_all(&self, all: VecDeque<(Instant, HeldWrite)>, last: bool) -> (VecDeque<(Instant, HeldWrite)>, bool) {
        let mut left = VecDeque::with_capacity(all.len());
        let mut least = usize::MAX;
        for (since, mut write) in all {
            if !last && write.back && self.fs.pressure().is_holding_back() && since.elapsed() < HELD_BACK_MAX {
                left.push_back((since, write));
                continue;
            }
            // What was held back has not looked for room so far.
            let since = if std::mem::take(&mut write.back) { Instant::now() } else { since };
            let over = last || since.elapsed() >= self.patience;
            if write.bytes.len() >= least {
                if over {
                    (write.answer)(Err(Errno::ENOSPC));
                } else {
                    left.push_back((since, write));
                }
                continue;
            }
            let HeldWrite { caller, ino, offset, ref bytes, kill, .. } = write;
            let done = catch_unwind(AssertUnwindSafe(|| self.fs.write(&caller, ino, offset, bytes, kill))).unwrap_or_else(|_| {
                self.fs.mark_broken("a write request stopped in the middle (this is a bug in ize)");
                Err(FsError::Io("write stopped in the middle".to_owned()))
            });
            match done {
                Ok(written) => (write.answer)(Ok(written.len)),
                Err(FsError::NoSpace(_)) if !over => {
                    least = write.bytes.len();
                    left.push_back((since, write));
                }
                Err(e) => (write.answer)(Err(Errno::from_i32(e.errno()))),
            }
        }
        (left, least < usize::MAX)
    }
}

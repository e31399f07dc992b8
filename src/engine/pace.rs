//! Replay beside programs that work: it rests most of the time, and catches up when they pause.
//!
//! A nice value alone is not enough. A request of FUSE goes back and forth between the program and the daemon; beside a thread that always
//! has something to do, each step may find the CPU taken.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use super::core::Core;
use crate::ids::BlobId;
use crate::tree::{BlobRead, BlobWrite, Cut, TreeError};

/// CPU time after which replay looks whether somebody works.
const SLICE: Duration = Duration::from_millis(2);
/// How many times as long it then rests.
const REST: u32 = 9;
/// The longest rest.
const REST_MAX: Duration = Duration::from_millis(50);
/// Records that replay may be behind. Beyond them memory matters more than speed: what no version holds yet stays in the overlay.
const BEHIND_MAX: u64 = 100_000;

/// The pace of one run of replay.
#[derive(Debug)]
pub(super) struct Pace<'a> {
    core: &'a Core,
    hurried: bool,
    /// CPU time of this thread when it last looked, in nanoseconds, and the file system's requests until then.
    worked: AtomicU64,
    requests: AtomicU64,
}

fn cpu_time() -> u64 {
    let t = clock_gettime(ClockId::ThreadCPUTime);
    (t.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(t.tv_nsec as u64)
}

impl<'a> Pace<'a> {
    /// A pace that gives way, unless somebody waits for what is done (`hurried`).
    pub(super) fn new(core: &'a Core, hurried: bool) -> Self {
        Self { core, hurried, worked: AtomicU64::new(cpu_time()), requests: AtomicU64::new(core.fs.latency().requests()) }
    }

    /// A moment at which a rest does no harm; `done` is how far replay is.
    pub(super) fn rest(&self, done: crate::ids::Lsn) {
        if self.hurried || self.core.is_awaited() {
            return;
        }
        let worked = Duration::from_nanos(cpu_time().saturating_sub(self.worked.load(Ordering::Relaxed)));
        if worked < SLICE {
            return;
        }
        let requests = self.core.fs.latency().requests();
        let idle = self.requests.swap(requests, Ordering::Relaxed) == requests;
        let behind = self.core.log.appended().0.saturating_sub(done.0);
        if !idle && behind < BEHIND_MAX {
            let rest = (worked * REST).min(REST_MAX);
            std::thread::sleep(rest);
            self.core.meter.rested(rest);
        }
        self.worked.store(cpu_time(), Ordering::Relaxed);
    }
}

/// A blob store whose writer rests after each blob.
#[derive(Debug)]
pub(super) struct Paced<'a> {
    pub(super) pace: &'a Pace<'a>,
    pub(super) done: crate::ids::Lsn,
}

impl BlobRead for Paced<'_> {
    fn get(&self, id: &BlobId) -> Result<Vec<u8>, TreeError> {
        BlobRead::get(&*self.pace.core.blobs, id)
    }

    fn read_at(&self, id: &BlobId, offset: u64, buf: &mut [u8]) -> Result<(), TreeError> {
        BlobRead::read_at(&*self.pace.core.blobs, id, offset, buf)
    }
}

impl BlobWrite for Paced<'_> {
    fn put(&self, bytes: &[u8]) -> Result<BlobId, TreeError> {
        let put = BlobWrite::put(&*self.pace.core.blobs, bytes);
        self.pace.rest(self.done);
        put
    }

    fn known_cut(&self, id: &BlobId) -> Option<(Cut, u32)> {
        self.pace.core.cuts.get(id)
    }
}

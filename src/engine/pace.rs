//! Replay beside programs that work: it rests most of the time, and catches up when they pause.
//!
//! A nice value alone is not enough. A request of FUSE goes back and forth between the program and the daemon; beside a thread that always
//! has something to do, each step may find the CPU taken.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use super::adapters::Blanked;
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
        Blanked(&self.pace.core.blobs).get(id)
    }

    fn read_at(&self, id: &BlobId, offset: u64, buf: &mut [u8]) -> Result<(), TreeError> {
        Blanked(&self.pace.core.blobs).read_at(id, offset, buf)
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

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::super::core::CoreOptions;
    use super::super::group::GroupLimits;
    use super::*;
    use crate::fs::latency::Wants;
    use crate::ids::{Lsn, StoreId};
    use crate::project::Layout;
    use crate::storage::sim::SimDisk;

    fn work() {
        let begun = cpu_time();
        while Duration::from_nanos(cpu_time() - begun) < SLICE * 2 {}
    }

    /// How long a rest after some work takes, as the meter counts it, and not less by the clock.
    fn rest(pace: &Pace<'_>, done: Lsn) -> Duration {
        work();
        let (before, begun) = (pace.core.meter.rested_for(), Instant::now());
        pace.rest(done);
        let rested = pace.core.meter.rested_for() - before;
        assert!(begun.elapsed() >= rested);
        rested
    }

    #[test]
    fn replay_rests_while_programs_work_unless_somebody_waits_or_it_is_far_behind() {
        let options = CoreOptions {
            store: StoreId([7; 16]),
            owner: (0, 0),
            clean: true,
            same_boot: true,
            segment_size: 1 << 20,
            prepare: false,
            limits: GroupLimits::default(),
            reserve: 0,
            command_lines: false,
            cache_inodes: 1000,
        };
        let core = Core::open(SimDisk::new().shared(), Layout::new("/p"), &options).unwrap();
        let request = || core.fs.latency().add(Wants::Attributes, Duration::ZERO);
        let pace = Pace::new(&core, false);
        assert_eq!(rest(&pace, core.log.appended()), Duration::ZERO, "nobody works");
        request();
        assert!(rest(&pace, core.log.appended()) >= SLICE * 2, "somebody works");
        assert_eq!(rest(&pace, core.log.appended()), Duration::ZERO, "nobody worked since");
        let hurried = Pace::new(&core, true);
        request();
        assert_eq!(rest(&hurried, core.log.appended()), Duration::ZERO, "somebody waits for what is done");
        let behind = Pace::new(&core, false);
        request();
        for _ in 0..BEHIND_MAX / 1000 {
            core.log
                .append_with(64 * 1000, &mut |_, batch| (0..1000).for_each(|_| _ = batch.push(crate::op::KIND_PROCESS, 9, &[], 0)))
                .unwrap();
        }
        let far = Lsn::ZERO;
        assert_eq!(rest(&behind, far), Duration::ZERO, "far behind");
        // Somebody waits for the replayer while replay holds it.
        let held = core.replayer();
        std::thread::scope(|scope| {
            scope.spawn(|| drop(core.replayer()));
            while !core.is_awaited() {
                std::thread::yield_now();
            }
            let pace = Pace::new(&core, false);
            request();
            assert_eq!(rest(&pace, core.log.appended()), Duration::ZERO, "somebody waits for the replayer");
            drop(held);
        });
        assert!(!core.is_awaited());
    }
}

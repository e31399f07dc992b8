//! What goes into the log and what replay takes out of it, as `ize status` tells it: the log above the checkpoint is a queue, its batches
//! are versions. Counting costs a writer a few atomic additions.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::control::message::{Health, Load, Queue};
use crate::op::Operation;

/// Rates and utilization are taken over so long.
const WINDOW: Duration = Duration::from_secs(60);
/// Distance of two samples.
const SAMPLE: Duration = Duration::from_secs(1);
/// When operations came is noted so often, and so many times; then half as often for what is old.
const ARRIVALS: Duration = Duration::from_millis(100);
const ARRIVALS_MAX: usize = 1024;
/// A group ends after 30 s at the latest, if nothing else is set; what waits for longer than this without any getting on, waits too long.
pub const LAGGING_AFTER: Duration = Duration::from_secs(60);
/// So long, and nobody should wait for it any more.
pub const STUCK_AFTER: Duration = Duration::from_secs(300);

/// Operations, and bytes that they write.
#[derive(Debug, Default)]
struct Count {
    operations: AtomicU64,
    bytes: AtomicU64,
}

impl Count {
    fn new((operations, bytes): (u64, u64)) -> Self {
        Self { operations: operations.into(), bytes: bytes.into() }
    }

    fn load(&self) -> Load {
        Load { operations: self.operations.load(Relaxed), bytes: self.bytes.load(Relaxed) }
    }
}

/// Counts.
#[derive(Debug)]
pub struct Meter {
    appended: Count,
    committed: Count,
    peak: Count,
    /// Versions made, and the operations in them, since the project was opened.
    batches: Count,
    /// Time that replay worked, in nanoseconds, and how much of the run that is under way it rested.
    busy: AtomicU64,
    rested: AtomicU64,
    born: Instant,
    /// When the queue last got on, or began to have something in it: nanoseconds since `born`.
    moved: AtomicU64,
    samples: Mutex<VecDeque<Sample>>,
    /// When what is pending came: how many operations had been appended before, and when, the oldest first.
    arrivals: Mutex<VecDeque<(u64, Instant)>>,
    /// When the last of these was noted: nanoseconds since `born`.
    arrived: AtomicU64,
    /// How many times as large as set versions may become.
    scale: AtomicU32,
    /// How much longer than by default operations may wait.
    grace: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Instant,
    appended: Load,
    committed: Load,
    busy: u64,
}

/// The operation as it is counted; `None` for marks, which change nothing.
#[must_use]
pub fn size_of(op: &Operation) -> Option<u64> {
    match op {
        Operation::Mark(_) => None,
        Operation::Write(write) => Some(write.data.len()),
        _ => Some(0),
    }
}

impl Meter {
    /// Goes on from what the checkpoint says was committed, and what recovery found above it: operations and bytes each.
    #[must_use]
    pub fn new(committed: (u64, u64), recovered: (u64, u64)) -> Self {
        let meter = Self {
            appended: Count::new((committed.0 + recovered.0, committed.1 + recovered.1)),
            committed: Count::new(committed),
            peak: Count::new(recovered),
            batches: Count::default(),
            busy: AtomicU64::new(0),
            rested: AtomicU64::new(0),
            born: Instant::now(),
            moved: AtomicU64::new(0),
            samples: Mutex::default(),
            arrivals: Mutex::new([(committed.0, Instant::now())].into()),
            arrived: AtomicU64::new(0),
            scale: AtomicU32::new(1),
            grace: Duration::ZERO,
        };
        meter.sample();
        meter
    }

    /// The same where a group may be as old as `age` before it ends: nothing waits too long because of that.
    #[must_use]
    pub fn with_age(self, age: Duration) -> Self {
        Self { grace: age.saturating_sub(super::group::GroupLimits::default().age), ..self }
    }

    /// An operation is in the log.
    pub fn append(&self, op: &Operation) {
        let Some(size) = size_of(op) else { return };
        let committed = self.committed.load();
        let operations = (self.appended.operations.fetch_add(1, Relaxed) + 1).saturating_sub(committed.operations);
        let bytes = (self.appended.bytes.fetch_add(size, Relaxed) + size).saturating_sub(committed.bytes);
        self.peak.operations.fetch_max(operations, Relaxed);
        self.peak.bytes.fetch_max(bytes, Relaxed);
        if operations <= 1 {
            self.moved();
        }
        self.arrive(committed.operations + operations - 1);
    }

    /// Notes when an operation came, `before` others before it.
    fn arrive(&self, before: u64) {
        let now = self.since_birth();
        if now.saturating_sub(self.arrived.load(Relaxed)) < ARRIVALS.as_nanos() as u64 && before > self.committed.operations.load(Relaxed) {
            return;
        }
        self.arrived.store(now, Relaxed);
        let mut arrivals = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        if arrivals.len() >= ARRIVALS_MAX {
            // Every other one: what is old need not be known so well.
            let mut keep = false;
            arrivals.retain(|_| {
                keep = !keep;
                keep
            });
        }
        arrivals.push_back((before, Instant::now()));
    }

    /// For how long the oldest pending operation waits.
    fn lag(&self) -> Duration {
        let committed = self.committed.operations.load(Relaxed);
        if self.appended.operations.load(Relaxed) <= committed {
            return Duration::ZERO;
        }
        let arrivals = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        // The last one that is not behind the oldest pending operation.
        let place = arrivals.partition_point(|(before, _)| *before <= committed);
        arrivals.get(place.saturating_sub(1)).map_or(Duration::ZERO, |(_, at)| at.elapsed())
    }

    fn since_birth(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Versions may become so many times as large as set.
    pub(super) fn scaled(&self, scale: u32) {
        self.scale.store(scale, Relaxed);
    }

    /// What is pending.
    pub(super) fn pending(&self) -> Load {
        left(self.appended.load(), self.committed.load())
    }

    /// So much more is covered by the checkpoint; in so many versions.
    pub fn commit(&self, operations: u64, bytes: u64, versions: u64) {
        self.committed.operations.fetch_add(operations, Relaxed);
        self.committed.bytes.fetch_add(bytes, Relaxed);
        if versions > 0 {
            self.batches.operations.fetch_add(operations, Relaxed);
            self.batches.bytes.fetch_add(versions, Relaxed);
        }
        self.moved();
        let committed = self.committed.operations.load(Relaxed);
        let mut arrivals = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        while arrivals.get(1).is_some_and(|(before, _)| *before <= committed) {
            arrivals.pop_front();
        }
    }

    fn moved(&self) {
        self.moved.store(self.since_birth(), Relaxed);
    }

    /// Replay did nothing for so long, to let others work.
    pub fn rested(&self, time: Duration) {
        self.rested.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    /// How long it rested in the run that is under way.
    #[cfg(test)]
    pub(super) fn rested_for(&self) -> Duration {
        Duration::from_nanos(self.rested.load(Relaxed))
    }

    /// Replay took so long, its rests included.
    pub fn worked(&self, time: Duration) {
        let time = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.busy.fetch_add(time.saturating_sub(self.rested.swap(0, Relaxed)), Relaxed);
        self.sample();
    }

    fn sample(&self) {
        let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        if samples.back().is_some_and(|last| last.at.elapsed() < SAMPLE) {
            return;
        }
        samples.push_back(self.now());
        // The oldest one kept is just outside of the window, so that the window is covered whole.
        while samples.get(1).is_some_and(|second| second.at.elapsed() >= WINDOW) {
            samples.pop_front();
        }
    }

    fn now(&self) -> Sample {
        Sample { at: Instant::now(), appended: self.appended.load(), committed: self.committed.load(), busy: self.busy.load(Relaxed) }
    }

    /// Bytes written that no version holds yet.
    #[must_use]
    pub fn pending_bytes(&self) -> u64 {
        self.pending().bytes
    }

    /// The figures. `stuck` and `lagging` are reasons that are known from elsewhere.
    #[must_use]
    pub fn queue(&self, stuck: Option<String>, lagging: Option<String>) -> Queue {
        let now = self.now();
        let then = self.samples.lock().unwrap_or_else(PoisonError::into_inner).front().copied().unwrap_or(now);
        let seconds = now.at.duration_since(then.at).as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "figures for people")]
        let rate = |now: u64, then: u64, unit: f64| if seconds > 0.0 { now.saturating_sub(then) as f64 / unit / seconds } else { 0.0 };
        let pending = left(now.appended, now.committed);
        let moved = Duration::from_nanos(self.moved.load(Relaxed));
        let waiting = if pending.operations == 0 { Duration::ZERO } else { self.born.elapsed().saturating_sub(moved) };
        let (health, why) = judge(waiting.saturating_sub(self.grace), stuck, lagging);
        let batches = self.batches.load();
        #[expect(clippy::cast_precision_loss, reason = "figures for people")]
        let mean_batch = (batches.bytes > 0).then(|| batches.operations as f64 / batches.bytes as f64);
        Queue {
            appended: now.appended,
            committed: now.committed,
            pending,
            peak: self.peak.load(),
            appended_per_second: rate(now.appended.operations, then.appended.operations, 1.0),
            appended_mb_per_second: rate(now.appended.bytes, then.appended.bytes, 1e6),
            committed_per_second: rate(now.committed.operations, then.committed.operations, 1.0),
            committed_mb_per_second: rate(now.committed.bytes, then.committed.bytes, 1e6),
            mean_batch,
            utilization: rate(now.busy, then.busy, 1e9).min(1.0),
            waiting_secs: waiting.as_secs_f64(),
            lag_secs: self.lag().as_secs_f64(),
            batch_scale: self.scale.load(Relaxed),
            health,
            why,
        }
    }
}

/// What was appended and is not committed.
fn left(appended: Load, committed: Load) -> Load {
    Load { operations: appended.operations.saturating_sub(committed.operations), bytes: appended.bytes.saturating_sub(committed.bytes) }
}

fn judge(waiting: Duration, stuck: Option<String>, lagging: Option<String>) -> (Health, Option<String>) {
    let waits = || format!("operations wait for {} s to become a version", waiting.as_secs());
    match (stuck, lagging) {
        (Some(why), _) => (Health::Stuck, Some(why)),
        _ if waiting >= STUCK_AFTER => (Health::Stuck, Some(waits())),
        (None, Some(why)) => (Health::Lagging, Some(why)),
        _ if waiting >= LAGGING_AFTER => (Health::Lagging, Some(waits())),
        (None, None) => (Health::Ok, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Ino;
    use crate::op::{Chmod, Mark, Marker};

    fn chmod() -> Operation {
        Chmod { ino: Ino(2), old: 0, new: 1 }.into()
    }

    #[test]
    fn what_is_appended_and_not_committed_is_pending_and_the_peak_is_kept() {
        let meter = Meter::new((100, 1000), (2, 20));
        let queue = meter.queue(None, None);
        assert_eq!((queue.pending.operations, queue.pending.bytes), (2, 20), "what recovery found is pending");
        for _ in 0..8 {
            meter.append(&chmod());
        }
        meter.append(&Mark { marker: Marker::Unmount }.into());
        assert_eq!(meter.queue(None, None).pending.operations, 10, "a mark is none");
        meter.commit(6, 20, 1);
        meter.commit(4, 0, 1);
        let queue = meter.queue(None, None);
        assert_eq!((queue.pending, queue.peak.operations), (Load::default(), 10));
        assert_eq!((queue.appended.operations, queue.committed.operations), (110, 110));
        assert_eq!(queue.mean_batch, Some(5.0));
        assert_eq!(queue.waiting_secs, 0.0);
    }

    #[test]
    fn the_lag_is_the_age_of_the_oldest_pending_operation() {
        let meter = Meter::new((5, 0), (0, 0));
        assert_eq!(meter.lag(), Duration::ZERO);
        let back = |n: usize, secs: u64| {
            let mut arrivals = meter.arrivals.lock().unwrap();
            arrivals[n].1 = Instant::now().checked_sub(Duration::from_secs(secs)).unwrap();
        };
        let again = || meter.arrived.store(0, Relaxed);
        meter.append(&chmod());
        let first = meter.arrivals.lock().unwrap().len() - 1;
        back(first, 100);
        for _ in 0..10 {
            meter.append(&chmod());
        }
        // So much later that it is noted.
        std::thread::sleep(ARRIVALS);
        again();
        meter.append(&chmod());
        let last = meter.arrivals.lock().unwrap().len() - 1;
        assert!(last > first);
        back(last, 10);
        let lag = || meter.queue(None, None).lag_secs;
        assert!((100.0..110.0).contains(&lag()), "{}", lag());
        meter.commit(5, 0, 1);
        assert!((100.0..110.0).contains(&lag()), "no better is known of those that came in between: {}", lag());
        meter.commit(6, 0, 1);
        assert!((10.0..20.0).contains(&lag()), "{}", lag());
        meter.commit(1, 0, 1);
        assert_eq!(lag(), 0.0);
        for n in 0..10 * ARRIVALS_MAX as u64 {
            meter.arrived.store(0, Relaxed);
            std::thread::yield_now();
            meter.arrive(n);
        }
        assert!(meter.arrivals.lock().unwrap().len() <= ARRIVALS_MAX);
    }

    #[test]
    fn health_is_the_worst_of_what_is_known() {
        let why = || Some("why".to_owned());
        assert_eq!(judge(Duration::ZERO, None, None), (Health::Ok, None));
        assert_eq!(judge(Duration::ZERO, None, why()), (Health::Lagging, why()));
        assert_eq!(judge(Duration::ZERO, why(), Some("other".into())), (Health::Stuck, why()));
        assert_eq!(judge(LAGGING_AFTER, None, None).0, Health::Lagging);
        assert_eq!(judge(STUCK_AFTER, None, why()).0, Health::Stuck);
        assert_eq!(judge(LAGGING_AFTER - Duration::from_millis(1), None, None).0, Health::Ok);
    }

    #[test]
    fn rates_are_those_of_the_window() {
        let meter = Meter::new((0, 0), (0, 0));
        let mut samples = meter.samples.lock().unwrap();
        samples[0].at = Instant::now().checked_sub(Duration::from_secs(10)).unwrap();
        drop(samples);
        for _ in 0..1000 {
            meter.append(&chmod());
        }
        meter.worked(Duration::from_secs(5));
        let queue = meter.queue(None, None);
        assert!((80.0..=100.0).contains(&queue.appended_per_second), "{queue:?}");
        assert!((0.4..=0.5).contains(&queue.utilization), "{queue:?}");
        assert_eq!(queue.committed_per_second, 0.0);
    }
}

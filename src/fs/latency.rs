//! How long the kernel's requests take in the daemon, from the moment that a thread has read one until it has its answer. Two atomic
//! additions a request.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Buckets: each is a fourth of a power of two wide at its lower end, the first ends at 256 ns, the last holds everything above 4 s.
const BUCKETS: usize = 4 * 24 + 1;
/// Lower end of the second octave, in nanoseconds, as a power of two.
const FIRST_OCTAVE: u32 = 8;

/// What a request wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wants {
    /// Attributes, names, links.
    Attributes,
    /// Bytes of a file.
    Bytes,
    /// Entries of a directory.
    Entries,
    /// A change.
    Change,
    /// Nothing that somebody waits for.
    Nothing,
}

/// All kinds that are told, with their names.
pub const TOLD: [(Wants, &str); 4] =
    [(Wants::Attributes, "stat"), (Wants::Bytes, "read"), (Wants::Entries, "readdir"), (Wants::Change, "change")];

/// Requests of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// How many.
    pub count: u64,
    /// Half of them took no longer.
    pub median: Duration,
    /// 99 in 100 took no longer.
    pub p99: Duration,
    /// None took longer.
    pub max: Duration,
}

#[derive(Debug)]
struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    max: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: std::array::from_fn(|_| AtomicU64::new(0)), max: AtomicU64::new(0) }
    }
}

fn bucket_of(nanos: u64) -> usize {
    let octave = (u64::BITS - 1 - nanos.max(1).leading_zeros()).max(FIRST_OCTAVE - 1) - (FIRST_OCTAVE - 1);
    if octave == 0 {
        return 0;
    }
    let quarter = (nanos >> (octave + FIRST_OCTAVE - 1 - 2)) & 3;
    (1 + 4 * (octave as usize - 1) + quarter as usize).min(BUCKETS - 1)
}

/// The first duration above the bucket, in nanoseconds.
fn end_of(bucket: usize) -> u64 {
    let (octave, quarter) = (bucket as u64 / 4, bucket as u64 % 4);
    (4 + quarter) << (octave + u64::from(FIRST_OCTAVE) - 2)
}

impl Histogram {
    fn add(&self, nanos: u64) {
        self.buckets[bucket_of(nanos)].fetch_add(1, Relaxed);
        self.max.fetch_max(nanos, Relaxed);
    }

    fn figures(&self) -> Figures {
        let counts: Vec<u64> = self.buckets.iter().map(|b| b.load(Relaxed)).collect();
        let (count, max) = (counts.iter().sum::<u64>(), self.max.load(Relaxed));
        let quantile = |hundredths: u64| {
            let mut left = (count * hundredths).div_ceil(100);
            let end = counts.iter().position(|n| {
                left = left.saturating_sub(*n);
                left == 0
            });
            Duration::from_nanos(end.map_or(max, |bucket| end_of(bucket).min(max)))
        };
        Figures { count, median: quantile(50), p99: quantile(99), max: Duration::from_nanos(max) }
    }
}

/// Requests by what they want.
#[derive(Debug, Default)]
pub struct Latency {
    kinds: [Histogram; TOLD.len()],
    all: AtomicU64,
}

impl Latency {
    /// A request took so long.
    pub fn add(&self, wants: Wants, took: Duration) {
        self.all.fetch_add(1, Relaxed);
        if let Some(kind) = self.kinds.get(wants as usize) {
            kind.add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
        }
    }

    /// Requests of any kind.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.all.load(Relaxed)
    }

    /// The figures of a kind that is told.
    #[must_use]
    pub fn of(&self, wants: Wants) -> Figures {
        self.kinds.get(wants as usize).map(Histogram::figures).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_duration_is_in_a_bucket_that_ends_no_more_than_a_fourth_above_it() {
        let mut last = 0;
        for nanos in (0..40).flat_map(|shift| [1u64 << shift, (1 << shift) + (1 << shift) / 3, (1 << (shift + 1)) - 1]) {
            let bucket = bucket_of(nanos);
            assert!(bucket >= last, "{nanos}");
            last = bucket;
            if bucket < BUCKETS - 1 {
                assert!(nanos < end_of(bucket), "{nanos} is not below {}", end_of(bucket));
                assert!(nanos < 256 || end_of(bucket) <= nanos + nanos / 4 + 1, "{nanos} {}", end_of(bucket));
            }
        }
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_are_told_by_kind() {
        let latency = Latency::default();
        for n in 1..=1000 {
            latency.add(Wants::Bytes, Duration::from_micros(if n > 985 { 5000 } else { 10 }));
            latency.add(Wants::Nothing, Duration::from_secs(1));
        }
        let read = latency.of(Wants::Bytes);
        assert_eq!(read.count, 1000);
        assert!((10_000..12_600).contains(&read.median.as_nanos()), "{read:?}");
        assert!((5_000_000..=6_300_000).contains(&read.p99.as_nanos()), "{read:?}");
        assert_eq!(read.max, Duration::from_millis(5));
        assert_eq!(latency.of(Wants::Attributes), Figures::default());
        assert_eq!(latency.requests(), 2000);
    }
}

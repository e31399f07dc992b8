//! Prune: which segments go, and how they go.
//!
//! Only sealed segments wholly at or below the checkpoint, the oldest first, never the newest. Death of a segment: the floor in the
//! checkpoint made durable, the name removed, the directory synced. A gap below the floor is pruned, one above it is missing.

use std::fmt;
use std::io;
use std::path::Path;
use std::time::Duration;

use super::error::WalError;
use super::scan::{LogScan, SegmentInfo, SegmentState};
use crate::error::Result;
use crate::ids::{Lsn, SegmentId, Time};
use crate::storage::Storage;

/// A clock that is off by more than this cannot be asked for ages.
const SANE: Duration = Duration::from_secs(24 * 3600);

/// What may stay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Segments whose last record is older go.
    pub max_age: Option<Duration>,
    /// Bytes that segments, with the blobs that they name, may take.
    pub max_size: Option<u64>,
}

/// Why a segment stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It holds records that no version holds yet.
    NotCommitted,
    /// It is being appended to.
    Active,
    /// It is the newest, which says where the log goes on.
    Newest,
    /// No limit asks for its going.
    WithinLimits,
    /// By its age it would go, but the clock cannot be trusted.
    ClockJumped,
    /// An older one stays, and segments go in order.
    Order,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotCommitted => "it holds operations that no version holds yet",
            Self::Active => "it is being written",
            Self::Newest => "it is the newest",
            Self::WithinLimits => "it is within the limits",
            Self::ClockJumped => "the clock has jumped, so ages mean nothing for now",
            Self::Order => "an older one stays",
        })
    }
}

/// What a prune will do.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Segments that go, oldest first.
    pub drop: Vec<SegmentInfo>,
    /// Segments that stay, and why.
    pub keep: Vec<(SegmentInfo, Reason)>,
}

/// Decides. `active` is the segment that takes records now, `now` the wall clock.
#[must_use]
pub fn plan(scan: &LogScan, checkpoint: Lsn, limits: &Limits, active: Option<SegmentId>, now: Time) -> Plan {
    let weight = |s: &SegmentInfo| s.bytes.saturating_add(s.payload);
    let mut total: u64 = scan.segments.iter().map(weight).sum();
    let newest = scan.segments.last().map(|s| s.id);
    let latest = scan.segments.iter().filter_map(SegmentInfo::last_time).max().unwrap_or_default();
    let sane = apart(latest, now) <= SANE || latest <= now;
    let mut plan = Plan::default();
    // Ages never decrease along the log, whatever the clock did.
    let mut clamped = Time::default();
    for segment in &scan.segments {
        clamped = clamped.max(segment.last_time().unwrap_or_default());
        let too_large = limits.max_size.is_some_and(|max| total > max);
        let too_old = limits.max_age.is_some_and(|max| clamped <= now && apart(clamped, now) >= max);
        let reason = if !plan.keep.is_empty() {
            Some(Reason::Order)
        } else if Some(segment.id) == active || segment.state == SegmentState::Active {
            Some(Reason::Active)
        } else if segment.last_lsn > checkpoint {
            Some(Reason::NotCommitted)
        } else if Some(segment.id) == newest {
            Some(Reason::Newest)
        } else if too_large || (too_old && sane) {
            None
        } else if too_old {
            Some(Reason::ClockJumped)
        } else {
            Some(Reason::WithinLimits)
        };
        match reason {
            Some(reason) => plan.keep.push((segment.clone(), reason)),
            None => {
                total -= weight(segment);
                plan.drop.push(segment.clone());
            }
        }
    }
    plan
}

fn apart(a: Time, b: Time) -> Duration {
    Duration::from_nanos(a.as_nanos().abs_diff(b.as_nanos()))
}

/// Carries a plan out. `make_floor_durable` puts the new floor into the checkpoint.
///
/// # Errors
/// What the checkpoint or the disk says; segments that went were not needed.
pub fn execute(
    storage: &dyn Storage,
    dir: &Path,
    plan: &Plan,
    make_floor_durable: &mut dyn FnMut(SegmentId) -> Result<()>,
) -> Result<()> {
    let Some(last) = plan.drop.last() else { return Ok(()) };
    make_floor_durable(last.id.next())?;
    for segment in &plan.drop {
        match storage.remove(&segment.file) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(WalError::io(format!("cannot remove {}", segment.file.display()), e).into());
            }
            Ok(()) | Err(_) => {}
        }
    }
    storage.sync_dir(dir).map_err(|e| WalError::io(format!("cannot sync {}", dir.display()), e).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(id: u64, last_lsn: u64, second: i64) -> SegmentInfo {
        let time = Time { secs: second, nanos: 0 };
        SegmentInfo {
            id: SegmentId(id),
            file: format!("/{id}").into(),
            header: None,
            footer: Some(super::super::format::Footer {
                count: 1,
                first_lsn: Lsn(last_lsn),
                last_lsn: Lsn(last_lsn),
                payload: 0,
                last_time: time,
                digest: [0; 32],
                durable_lsn: Lsn(last_lsn),
                next_lsn: Lsn(last_lsn + 1),
                next_epoch: 1,
            }),
            state: SegmentState::Sealed,
            first_lsn: Lsn(last_lsn),
            last_lsn: Lsn(last_lsn),
            records: 1,
            bytes: 100,
            used: 100,
            payload: 50,
            digest: [0; 32],
            whole: true,
        }
    }

    fn dropped(checkpoint: u64, limits: Limits, now: i64) -> Vec<u64> {
        let segments = (1..=5).map(|i| segment(i, i * 10, i as i64 * 1000)).collect();
        let scan = LogScan { segments, ..LogScan::default() };
        plan(&scan, Lsn(checkpoint), &limits, None, Time { secs: now, nanos: 0 }).drop.iter().map(|s| s.id.0).collect()
    }

    #[test]
    fn size_counts_named_blobs_and_never_takes_the_newest_or_what_is_not_committed() {
        let size = |max| Limits { max_size: Some(max), max_age: None };
        assert_eq!(dropped(99, size(0), 5000), [1, 2, 3, 4]);
        assert_eq!(dropped(99, size(450), 5000), [1, 2]);
        assert_eq!(dropped(25, size(0), 5000), [1, 2]);
        assert_eq!(dropped(99, size(750), 5000), [0; 0]);
    }

    #[test]
    fn age_is_that_of_the_last_record_and_waits_while_the_clock_is_off() {
        let age = |secs| Limits { max_size: None, max_age: Some(Duration::from_secs(secs)) };
        assert_eq!(dropped(99, age(3000), 5000), [1, 2]);
        assert_eq!(dropped(99, age(0), 5000), [1, 2, 3, 4]);
        // The clock stands two days before the newest record.
        assert_eq!(dropped(99, age(0), 5000 - 2 * 86_400), [0; 0]);
    }
}

//! Drops the oldest sealed segments that are no longer needed.
//!
//! Only segments wholly at or below the checkpoint go, oldest first, without a gap, and never the last one: the next LSN and the chain
//! hang on it. Order: the directory synced, the floor durable in the checkpoint, then the files, then the directory again. A crash in between leaves files below the
//! floor, which the next recovery removes.

use std::io;
use std::path::Path;
use std::time::Duration;

use crate::ids::{Lsn, SegmentId, Time};
use crate::storage::Storage;

use super::error::{Result, WalError};
use super::log::Log;
use super::scan::{LogScan, SegmentInfo};

/// A clock that is off by more than this makes age pruning wait.
pub const CLOCK_TOLERANCE: Duration = Duration::from_secs(24 * 60 * 60);

/// What may stay. Without any limit nothing is dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Segments whose last record is older go; all of them when it is 0.
    pub max_age: Option<Duration>,
    /// Bytes (files and the payload that only they name) that all segments together may take.
    pub max_size: Option<u64>,
    /// Bytes that must go, whatever the other limits say: what the file system lacks to its free-space floor.
    pub free_up: u64,
    /// The caller knows that the clock was changed by more than [`CLOCK_TOLERANCE`] lately: by age nothing goes.
    pub clock_jumped: bool,
}

/// Why a segment stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Keep {
    /// It takes records, or is the last: the log goes on from it.
    Last,
    /// It holds records above the checkpoint.
    AboveCheckpoint,
    /// Its end is not known.
    Unclear,
    /// Within the limits.
    WithinLimits,
    /// Perhaps too old, but the clock jumped: by age nothing goes until it is sane.
    ClockJumped,
}

/// What would go and what would stay.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// To be dropped, oldest first.
    pub drop: Vec<SegmentInfo>,
    /// To be kept, with the reason.
    pub keep: Vec<(SegmentInfo, Keep)>,
    /// Bytes that go, payload included.
    pub bytes: u64,
    /// True when age pruning waits because of the clock.
    pub clock_jumped: bool,
}

impl Plan {
    /// The floor once the plan is carried out, if it changes.
    #[must_use]
    pub fn floor(&self) -> Option<SegmentId> {
        self.drop.last().map(|s| s.id.next())
    }
}

/// What was dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Segments.
    pub segments: u64,
    /// Bytes of their files.
    pub bytes: u64,
}

fn seconds_between(from: Time, to: Time) -> i128 {
    i128::from(to.secs) - i128::from(from.secs)
}

/// Decides what goes. `payload` says how many bytes of blobs only this segment names (the footer's count is an upper bound).
#[must_use]
pub fn plan(scan: &LogScan, checkpoint: Lsn, limits: Limits, payload: &mut dyn FnMut(&SegmentInfo) -> u64, now: Time) -> Plan {
    let sizes: Vec<u64> = scan.segments.iter().map(|s| s.bytes.saturating_add(payload(s))).collect();
    let mut total: u64 = sizes.iter().fold(0, |sum, n| sum.saturating_add(*n));
    // Times never decrease along the log, so the last one is the newest.
    let newest = scan.segments.iter().filter_map(SegmentInfo::last_time).max();
    let tolerance = i128::from(CLOCK_TOLERANCE.as_secs());
    // A clock that was set back shows in the log: its newest record lies in the future. One that was set forward looks like a log that was
    // idle for long; only somebody who watched the clock can tell, hence `limits.clock_jumped`.
    let clock_jumped = limits.clock_jumped || newest.is_some_and(|newest| seconds_between(now, newest) > tolerance);
    let mut plan = Plan { clock_jumped, ..Plan::default() };
    let mut last_time: Option<Time> = None;
    for (i, (segment, size)) in scan.segments.iter().zip(&sizes).enumerate() {
        last_time = last_time.max(segment.last_time());
        // Nothing is younger than an age of 0, whatever the clock says.
        let all = limits.max_age == Some(Duration::ZERO);
        let aged = limits.max_age.is_some_and(|age| last_time.is_some_and(|t| seconds_between(t, now) > i128::from(age.as_secs())));
        let old = all || (aged && !clock_jumped);
        let large = limits.max_size.is_some_and(|max| total > max);
        let reason = if !plan.keep.is_empty() {
            plan.keep.last().map(|(_, k)| if *k == Keep::ClockJumped { Keep::WithinLimits } else { *k })
        } else if segment.last_lsn > checkpoint {
            Some(Keep::AboveCheckpoint)
        } else if !known_end(scan, i) {
            Some(Keep::Unclear)
        } else if large || old || plan.bytes < limits.free_up {
            None
        } else if limits.max_age.is_some() && clock_jumped {
            Some(Keep::ClockJumped)
        } else {
            Some(Keep::WithinLimits)
        };
        let reason = if i + 1 == scan.segments.len() { Some(Keep::Last) } else { reason };
        match reason {
            None => {
                total = total.saturating_sub(*size);
                plan.bytes = plan.bytes.saturating_add(*size);
                plan.drop.push(segment.clone());
            }
            Some(reason) => plan.keep.push((segment.clone(), reason)),
        }
    }
    plan
}

/// True when it is known which LSNs the segment holds: its footer or its successor's header says so.
fn known_end(scan: &LogScan, i: usize) -> bool {
    let here = &scan.segments[i];
    here.footer.is_some() || scan.segments.get(i + 1).is_some_and(|next| next.header.as_ref().is_some_and(|h| h.prev.segment == here.id))
}

impl Log {
    /// Carries out a plan, see [`execute`], and keeps count.
    ///
    /// # Errors
    /// Poisoned: the sync of a directory that failed may have lost the name of the last segment, which is all that a power cut then leaves
    /// above the new floor. Otherwise those of [`execute`].
    pub fn prune(
        &self,
        plan: &Plan,
        make_floor_durable: &mut dyn FnMut(SegmentId) -> crate::error::Result<()>,
    ) -> crate::error::Result<Pruned> {
        self.check()?;
        carry_out(&*self.storage, &self.dir, plan, make_floor_durable, &mut |segment| self.forget(segment))
    }
}

/// Carries out a plan for a log that nobody has open for writing, or of [`Log::prune`]. `make_floor_durable` writes the new floor to the
/// checkpoint and returns once it survives power loss; only then is a file removed.
///
/// # Errors
/// An error of `make_floor_durable` (nothing is removed), or an I/O error (what was removed stays removed, and lies below the floor).
pub fn execute(
    storage: &dyn Storage,
    dir: &Path,
    plan: &Plan,
    make_floor_durable: &mut dyn FnMut(SegmentId) -> crate::error::Result<()>,
) -> crate::error::Result<Pruned> {
    carry_out(storage, dir, plan, make_floor_durable, &mut |_| ())
}

fn carry_out(
    storage: &dyn Storage,
    dir: &Path,
    plan: &Plan,
    make_floor_durable: &mut dyn FnMut(SegmentId) -> crate::error::Result<()>,
    gone: &mut dyn FnMut(&SegmentInfo),
) -> crate::error::Result<Pruned> {
    let Some(floor) = plan.floor() else { return Ok(Pruned::default()) };
    // The name of the segment that stays may be newer than the last sync of the directory; it must not be younger than the floor.
    sync(storage, dir)?;
    make_floor_durable(floor)?;
    let mut pruned = Pruned::default();
    for segment in &plan.drop {
        match storage.remove(&segment.file) {
            Ok(()) => {
                pruned.segments += 1;
                pruned.bytes += segment.bytes;
                gone(segment);
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(WalError::io(format!("cannot remove {}", segment.file.display()), e).into()),
        }
    }
    sync(storage, dir)?;
    Ok(pruned)
}

fn sync(storage: &dyn Storage, dir: &Path) -> Result<()> {
    storage.sync_dir(dir).map_err(|e| WalError::io(format!("cannot sync {}", dir.display()), e))
}

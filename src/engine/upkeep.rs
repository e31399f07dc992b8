//! The daemon's own pruning: by age, by size and for free space, as configured, while nobody asks.
//!
//! Whether there is something to do is told from counters, because a prune reads the whole log. Their sum is an upper bound (`log_size`), so a
//! prune may find nothing to drop; then it knows how much of that was shared. One for free space, or for what is above the checkpoint, is not
//! tried again until the log has grown or time has passed.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::clock::ClockWatch;
use super::core::Core;
use super::prune::Pruned;
use crate::control::message::LastPrune;
use crate::error::Result;
use crate::ids::{Lsn, Time};
use crate::project::config::Settings;
use crate::wal::oldest;
use crate::wal::prune::Limits;

/// After a prune for size this many eighths of the limit are left, so that the next one is not due with the next segment.
const EIGHTHS_LEFT: u64 = 7;
/// A prune that found nothing is tried again after so long at the earliest, unless the log grew by an eighth of its limit.
const PATIENCE: Duration = Duration::from_secs(600);
/// The least growth that makes another try worthwhile, in bytes.
const GROWTH_MIN: u64 = 16 << 20;

/// The limits that are configured.
pub(super) fn configured(core: &Core, settings: &Settings, clock: &ClockWatch) -> Limits {
    Limits {
        max_age: settings.prune_max_age,
        max_size: settings.prune_max_size,
        free_up: lacking(core.layout.dir(), settings.prune_min_free),
        clock_jumped: clock.jumped(),
    }
}

/// Bytes that the file system of `dir` has less free than `percent` of its size.
fn lacking(dir: &std::path::Path, percent: u8) -> u64 {
    let Ok(s) = rustix::fs::statvfs(dir) else { return 0 };
    let floor = u128::from(s.f_blocks) * u128::from(s.f_frsize) * u128::from(percent) / 100;
    let free = u128::from(s.f_bavail) * u128::from(s.f_frsize);
    u64::try_from(floor.saturating_sub(free)).unwrap_or(u64::MAX)
}

/// A try that dropped nothing.
#[derive(Clone, Copy, Debug)]
struct Vain {
    at: Instant,
    /// How large the log was.
    total: u64,
    /// The checkpoint, if it was in the way.
    checkpoint: Option<Lsn>,
}

/// Looks from time to time whether to prune, and does it.
#[derive(Debug)]
pub(super) struct Upkeep {
    core: Arc<Core>,
    settings: Settings,
    clock: ClockWatch,
    last: Arc<Mutex<Option<LastPrune>>>,
    /// The last try that dropped nothing.
    vain: Option<Vain>,
}

impl Upkeep {
    pub(super) fn new(core: Arc<Core>, settings: Settings, clock: ClockWatch, last: Arc<Mutex<Option<LastPrune>>>) -> Self {
        Self { core, settings, clock, last, vain: None }
    }

    /// Prunes when a limit is passed.
    ///
    /// # Errors
    /// Damage or I/O errors; what was dropped until then was not needed.
    pub(super) fn look(&mut self) -> Result<()> {
        let Some(limits) = self.due() else { return Ok(()) };
        if self.in_vain(self.core.log_size()) {
            return Ok(());
        }
        let max_size = limits.max_size.map(|max| max / 8 * EIGHTHS_LEFT);
        let pruned = self.core.prune(Limits { max_size, ..limits }, false)?;
        self.note(&pruned);
        Ok(())
    }

    /// The limits, when one of them is passed.
    pub(super) fn due(&self) -> Option<Limits> {
        let limits = configured(&self.core, &self.settings, &self.clock);
        let passed = limits.max_size.is_some_and(|max| self.core.log_size() > max) || limits.free_up > 0 || self.is_old(limits);
        // The last segment always stays.
        (passed && self.core.log.usage().segments >= 2).then_some(limits)
    }

    fn is_old(&self, limits: Limits) -> bool {
        let Some(age) = limits.max_age.filter(|_| !limits.clock_jumped) else { return false };
        let Ok(Some((_, Some(last)))) = oldest(&*self.core.storage, &self.core.layout.wal(), self.core.store) else { return false };
        Time::now().secs.saturating_sub(last.secs) > i64::try_from(age.as_secs()).unwrap_or(i64::MAX)
    }

    fn in_vain(&self, total: u64) -> bool {
        let growth = self.settings.prune_max_size.map_or(GROWTH_MIN, |max| (max / 8).max(GROWTH_MIN));
        self.vain.is_some_and(|vain| {
            let moved = vain.checkpoint.is_some_and(|then| self.core.history().checkpoint.lsn > then);
            !moved && vain.at.elapsed() < PATIENCE && total < vain.total.saturating_add(growth)
        })
    }

    fn note(&mut self, pruned: &Pruned) {
        let (segments, bytes) = pruned.dropped();
        if segments == 0 {
            let checkpoint = self.core.history().checkpoint.lsn;
            let in_the_way = pruned.segments.first().is_some_and(|oldest| oldest.range.1 > checkpoint);
            self.vain = Some(Vain { at: Instant::now(), total: self.core.log_size(), checkpoint: in_the_way.then_some(checkpoint) });
            return;
        }
        self.vain = None;
        let size = crate::project::units::show_size(bytes + pruned.blob_bytes);
        tracing::info!("pruned {segments} segments and the blobs that only they named, {size}, as configured");
        let last = LastPrune { at: Time::now(), segments, wal_bytes: bytes, blob_bytes: pruned.blob_bytes };
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(last);
    }
}

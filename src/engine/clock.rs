//! Notices when somebody sets the clock: wall-clock time and time since boot must pass at one speed.
//!
//! Ages are differences of wall-clock times. A clock that is set forward makes everything look old, and age pruning would drop what is a
//! day old as if it were a year old; nothing in the log can tell that from a log that was idle. The holder of the project's lock leaves
//! both clocks in the lock file, so that a jump between two openings on one boot is noticed too; across a reboot it is not.

use std::time::Duration;

use crate::ids::Time;
use crate::project::lock::since_boot;
use crate::wal::prune::CLOCK_TOLERANCE;

/// Both clocks at one moment.
#[derive(Clone, Copy, Debug)]
pub struct ClockWatch {
    wall: Time,
    boot: Duration,
}

impl ClockWatch {
    /// Watches from a moment at which the clocks showed `wall` and `boot`.
    #[must_use]
    pub fn from(wall: Time, boot: Duration) -> Self {
        Self { wall, boot }
    }

    /// True when the wall clock has moved by more than a day against the time since boot.
    #[must_use]
    pub fn jumped(&self) -> bool {
        self.jumped_at(Time::now(), since_boot())
    }

    fn jumped_at(&self, wall: Time, boot: Duration) -> bool {
        let passed = i128::from(wall.secs) - i128::from(self.wall.secs);
        let really = i128::from(boot.as_secs()) - i128::from(self.boot.as_secs());
        (passed - really).unsigned_abs() > u128::from(CLOCK_TOLERANCE.as_secs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_set_by_more_than_a_day_is_noticed_either_way() {
        let watch = ClockWatch::from(Time { secs: 1_000_000, nanos: 0 }, Duration::from_secs(500));
        let at = |wall: i64, boot: u64| watch.jumped_at(Time { secs: wall, nanos: 0 }, Duration::from_secs(boot));
        assert!(!at(1_000_000, 500));
        assert!(!at(1_000_000 + 400_000, 500 + 400_000), "days may pass");
        assert!(!at(1_000_000 + 86_400, 500), "a day is tolerated");
        assert!(at(1_000_000 + 86_401, 500));
        assert!(at(1_000_000 - 86_401, 500));
        assert!(!ClockWatch::from(Time::now(), since_boot()).jumped());
    }
}

//! Holds writes back while a store is about to pass its limit faster than versions can be thinned: they wait as on a full disk
//! ([`crate::fs::pressure`]), though nobody is refused. Pure.

use std::time::{Duration, Instant};

/// How long writes are held back without any success, and how long they are then let alone.
const PATIENCE: Duration = Duration::from_secs(30);
const LET_ALONE: Duration = Duration::from_secs(600);
/// Looked at so often near the limit, and far from it; in between by how long the fastest disk would take to get there.
const TICK_MIN: Duration = Duration::from_millis(50);
const TICK_MAX: Duration = Duration::from_secs(1);
const FASTEST: u64 = 2 << 30;

/// Whether writes are held back.
#[derive(Debug, Default)]
pub(super) struct Brake {
    on: Option<Since>,
    /// It was of no use: not again before then.
    off_until: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Since {
    at: Instant,
    /// The least size since then.
    least: u64,
}

impl Brake {
    /// `size` is what the store takes, with what is still to come of operations that wait; of `max` bytes. `stuck`: nothing can be freed.
    pub(super) fn look(&mut self, now: Instant, size: u64, max: u64, stuck: bool) -> bool {
        self.off_until = self.off_until.filter(|until| now < *until);
        // Thinning begins at three quarters; below them nothing would end it.
        let bound = max / 16 * if self.on.is_some() { 12 } else { 13 };
        if stuck || size <= bound || self.off_until.is_some() {
            self.on = None;
            return false;
        }
        let since = self.on.get_or_insert(Since { at: now, least: size });
        if size.saturating_add(max / 256) <= since.least {
            *since = Since { at: now, least: size };
        } else if now.duration_since(since.at) >= PATIENCE {
            (self.on, self.off_until) = (None, Some(now + LET_ALONE));
            return false;
        }
        true
    }

    /// When to look again.
    pub(super) fn pause(size: u64, max: u64) -> Duration {
        let room = (max / 16 * 13).saturating_sub(size);
        Duration::from_micros(room.saturating_mul(1_000_000 / 2) / FASTEST).clamp(TICK_MIN, TICK_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: u64 = 1600;

    #[test]
    fn writes_are_held_back_near_the_limit_until_there_is_room_for_some() {
        let (mut brake, now) = (Brake::default(), Instant::now());
        assert!(!brake.look(now, 1300, MAX, false));
        assert!(brake.look(now, 1301, MAX, false));
        assert!(brake.look(now, 1250, MAX, false), "not at each step anew");
        assert!(!brake.look(now, 1200, MAX, false));
        assert!(!brake.look(now, 1250, MAX, false));
        assert!(brake.look(now, 5000, MAX, false));
        assert!(!brake.look(now, 5000, MAX, true), "nothing can go: writes go on");
    }

    #[test]
    fn nobody_is_held_back_for_nothing() {
        let (mut brake, begun) = (Brake::default(), Instant::now());
        let after = |secs| begun + Duration::from_secs(secs);
        assert!(brake.look(begun, 1500, MAX, false));
        assert!(brake.look(after(29), 1400, MAX, false));
        assert!(brake.look(after(58), 1400, MAX, false), "it became less");
        assert!(!brake.look(after(60), 1450, MAX, false));
        assert!(!brake.look(after(600), 1600, MAX, false));
        assert!(brake.look(after(661), 1600, MAX, false));
    }

    #[test]
    fn it_is_looked_at_in_time() {
        assert_eq!(Brake::pause(0, 1 << 40), TICK_MAX);
        assert_eq!(Brake::pause(u64::MAX, 1 << 30), TICK_MIN);
        let half = Brake::pause(1 << 30, 2 << 30);
        assert!(half > TICK_MIN && half < TICK_MAX, "{half:?}");
    }
}

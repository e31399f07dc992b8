//! Between programs that wait for room and those who can make some.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Called when somebody waits for room; returns at once.
type Ask = Box<dyn Fn() + Send + Sync>;

/// So long a write is held back at most: it is late then, and goes on.
pub const HELD_BACK_MAX: Duration = Duration::from_secs(5);

/// Who waits for room, and who makes some.
#[derive(Default)]
pub struct Pressure {
    /// Writes that wait now.
    pub held: AtomicU64,
    ask: OnceLock<(Duration, Ask)>,
    /// Writes wait although there is room.
    back: AtomicBool,
    /// Until then nobody is let wait.
    leaving: Mutex<Option<Instant>>,
}

impl Pressure {
    /// Sets who makes room, and how long a write may wait for it; the first one stays. Without it no write waits.
    pub fn relieved_by(&self, patience: Duration, ask: Ask) {
        // A second one would be a mistake of ours, and do the same.
        let _ = self.ask.set((patience, ask));
    }

    /// How long a write may wait.
    #[must_use]
    pub fn patience(&self) -> Duration {
        self.ask.get().map_or(Duration::ZERO, |(patience, _)| *patience)
    }

    /// Asks for room.
    pub fn ask(&self) {
        if let Some((_, ask)) = self.ask.get() {
            ask();
        }
    }

    /// Holds writes back although there is room, or no longer; true when that is new.
    pub fn hold_back(&self, back: bool) -> bool {
        self.back.swap(back, Ordering::Relaxed) != back
    }

    /// Are writes held back? None is for longer than [`HELD_BACK_MAX`].
    #[must_use]
    pub fn is_holding_back(&self) -> bool {
        self.back.load(Ordering::Relaxed)
    }

    /// The mount is about to end: nobody waits for room for so long.
    pub fn leave_for(&self, time: Duration) {
        *self.leaving.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + time);
    }

    /// Is the mount about to end?
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|until| Instant::now() < until)
    }

    /// Writes that wait now.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }
}

impl std::fmt::Debug for Pressure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pressure").field("waiting", &self.waiting()).finish_non_exhaustive()
    }
}

//! A full disk: what is pending becomes versions with as little room as that takes, and what need not be kept goes, so that programs that wait
//! for room get some.

use std::time::Duration;

use super::core::Core;
use crate::error::{Class, Result};
use crate::ids::Lsn;
use crate::wal::prune::Limits;

/// Bytes that are freed at least, where so much may go.
const FREE_AT_LEAST: u64 = 64 << 20;
/// The least time between two tries.
pub(super) const PAUSE: Duration = Duration::from_secs(1);

/// What the last try left behind: the same again would come to the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Vain {
    checkpoint: Lsn,
    applied: Lsn,
}

impl Core {
    /// Makes everything that is pending versions, also where only a prune makes the room for that.
    ///
    /// # Errors
    /// As [`Core::replay`].
    pub(super) fn replay_all(&self) -> Result<()> {
        match self.replay(true) {
            Err(e) if e.class == Class::Full => self.relieve(Limits::default()).map(drop),
            done => done.map(drop),
        }
    }

    /// Makes room: commits what is pending and drops the oldest segments, as many as `limits` say and enough for [`FREE_AT_LEAST`]. Where the
    /// room kept back is not enough for all that is pending, what was committed makes room for the rest. True when something went.
    ///
    /// # Errors
    /// `Full` when not all that is pending finds room; damage and I/O errors.
    pub(super) fn relieve(&self, limits: Limits) -> Result<bool> {
        let mut freed = false;
        loop {
            let before = (self.history().checkpoint.lsn, self.taken());
            // First, as long as there is room for it.
            self.turn_segment()?;
            let short = match self.replay(true) {
                Ok(_) => None,
                Err(e) if e.class == Class::Full => Some(e),
                Err(e) => return Err(e),
            };
            let free_up = if short.is_some() { u64::MAX } else { limits.free_up.max(FREE_AT_LEAST) };
            self.prune(Limits { free_up, ..limits }, false)?;
            let (checkpoint, taken) = (self.history().checkpoint.lsn, self.taken());
            freed |= taken < before.1;
            match short {
                None => return Ok(freed),
                // Again only where that came nearer to the end: a sweep that moves bytes about frees nothing.
                Some(e) if checkpoint == before.0 && taken >= before.1 => return Err(e),
                Some(_) => {}
            }
        }
    }

    /// Begins a segment behind the last one, which always stays, with all the bytes that it names and the version that it goes on from. A
    /// disk too full for that goes without.
    ///
    /// # Errors
    /// The log's.
    pub(super) fn turn_segment(&self) -> Result<()> {
        self.log.seal()?;
        if self.log.active().is_none() && self.log.usage().segments > 0 {
            match self.log.begin() {
                Err(e) if e.errno() == libc::ENOSPC => {}
                begun => begun?,
            }
        }
        Ok(())
    }

    /// Bytes of log and packs.
    fn taken(&self) -> u64 {
        self.log.usage().bytes.saturating_add(self.blobs.usage().pack_bytes)
    }

    /// How it stands now, for [`Core::relieve`].
    pub(super) fn standing(&self) -> Vain {
        let applied = self.fs.locked().tree().applied();
        Vain { checkpoint: self.history().checkpoint.lsn, applied }
    }
}

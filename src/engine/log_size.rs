//! How much the log takes by itself: its segments, and the blobs that only they name.
//!
//! The log counts every blob that its records name, for that costs nothing. Most of it may be shared: the chunks of a large file that was
//! written from front to back are named by the versions too, and stay when segments go. What a segment shares is known once a prune has looked
//! at every state; until then all of its payload counts as its own.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::core::Core;
use crate::ids::SegmentId;

/// Payload of segments that versions name too, as it was found last: 16 bytes a segment.
#[derive(Debug, Default)]
pub(super) struct Shared(Mutex<HashMap<SegmentId, u64>>);

impl Shared {
    fn with<T>(&self, f: impl FnOnce(&mut HashMap<SegmentId, u64>) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// All is known of these segments, whose operations are in versions, and nothing of others.
    pub(super) fn learn(&self, segments: impl Iterator<Item = (SegmentId, u64)>) {
        self.with(|known| *known = segments.collect());
    }

    /// Segments went.
    pub(super) fn dropped(&self, segments: impl Iterator<Item = SegmentId>) {
        self.with(|known| segments.for_each(|id| _ = known.remove(&id)));
    }

    /// Versions went, or lost something: what segments shared with them may be theirs alone now.
    pub(super) fn forget(&self) {
        self.with(HashMap::clear);
    }

    fn bytes(&self) -> u64 {
        self.with(|known| known.values().fold(0u64, |sum, bytes| sum.saturating_add(*bytes)))
    }
}

impl Core {
    /// Bytes that the log takes by itself at most.
    pub(super) fn log_size(&self) -> u64 {
        let usage = self.log.usage();
        usage.bytes.saturating_add(usage.payload.saturating_sub(self.shared.bytes()))
    }
}

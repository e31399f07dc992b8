//! How large versions may become: as set while replay keeps up, larger while much waits, so that it catches up with fewer commits and syncs.
//! Pure.

use super::group::GroupLimits;
use crate::control::message::Load;

/// How many groups as set must wait before they become larger.
const WAITING: u64 = 16;
/// How much larger at most: what a group takes in memory grows with it.
pub(super) const SCALE_MAX: u32 = 8;

/// How many times as large as `limits` the next group may become, a power of two and at least `least`, and why it is that many.
pub(super) fn scale(pending: Load, limits: &GroupLimits, least: u32) -> (u32, &'static str) {
    // Who sets smaller groups than usual wants them as long as that is little work.
    let usual = GroupLimits::default();
    // An operation in two is on a path of its own, more or less: a file is created and written.
    let paths = pending.operations / 2 / (limits.inodes.max(usual.inodes) as u64);
    let bytes = pending.bytes / limits.bytes.max(usual.bytes);
    let groups = paths.max(bytes) / WAITING;
    let scale = (groups + 1).next_power_of_two().min(u64::from(SCALE_MAX));
    if scale < u64::from(least) {
        return (least, "nobody asks for the states between");
    }
    let why = match (scale, bytes > paths) {
        (1, _) => "replay keeps up",
        (_, true) => "many bytes wait",
        (_, false) => "many operations wait",
    };
    (u32::try_from(scale).unwrap_or(SCALE_MAX), why)
}

/// How the content of a group is stored, and why, for the log.
pub(super) fn manner(inodes: usize, bytes: u64) -> (&'static str, &'static str) {
    if bytes / inodes.max(1) as u64 >= crate::versions::chunker::MAX as u64 {
        ("streamed", "few large files")
    } else {
        ("batched", "many small files")
    }
}

/// Limits so many times as large. How long a group waits for more is not changed.
pub(super) fn scaled(limits: &GroupLimits, scale: u32) -> GroupLimits {
    GroupLimits { inodes: limits.inodes.saturating_mul(scale as usize), bytes: limits.bytes.saturating_mul(u64::from(scale)), ..*limits }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scale_of(operations: u64, bytes: u64) -> u32 {
        scale(Load { operations, bytes }, &GroupLimits::default(), 1).0
    }

    #[test]
    fn groups_grow_with_what_waits_within_bounds_and_become_small_again() {
        assert_eq!(scale_of(0, 0), 1);
        assert_eq!(scale_of(20_000, 500 << 20), 1, "the usual burst");
        assert_eq!(scale_of(2 * 1000 * WAITING, 0), 2);
        assert_eq!(scale_of(0, (64 << 20) * WAITING), 2);
        assert_eq!(scale_of(2 * 1000 * WAITING * 3, 0), 4);
        assert_eq!(scale_of(u64::MAX, u64::MAX), SCALE_MAX);
        let mut last = 1;
        for waiting in 0..200 {
            let now = scale_of(waiting * 10_000, 0);
            assert!(now >= last && now <= SCALE_MAX && now.is_power_of_two());
            last = now;
        }
        let small = GroupLimits { inodes: 1, bytes: 1, ..GroupLimits::default() };
        assert_eq!(scale(Load { operations: 20_000, bytes: 500 << 20 }, &small, 1).0, 1);
        assert_eq!(scale(Load { operations: u64::MAX, bytes: u64::MAX }, &small, 1).0, SCALE_MAX);
        let scaled = scaled(&GroupLimits::default(), 8);
        assert_eq!((scaled.inodes, scaled.bytes, scaled.idle), (8000, 512 << 20, GroupLimits::default().idle));
    }

    #[test]
    fn the_reason_is_what_waits_most() {
        let limits = GroupLimits::default();
        assert_eq!(scale(Load { operations: 1 << 20, bytes: 0 }, &limits, 1).1, "many operations wait");
        assert_eq!(scale(Load { operations: 10, bytes: 1 << 40 }, &limits, 1).1, "many bytes wait");
        assert_eq!(scale(Load::default(), &limits, 1).1, "replay keeps up");
        assert_eq!(scale(Load::default(), &limits, 4), (4, "nobody asks for the states between"));
        assert_eq!(scale(Load { operations: 1 << 20, bytes: 0 }, &limits, 4), (8, "many operations wait"));
        assert_eq!(manner(1000, 2_000_000).0, "batched");
        assert_eq!(manner(1, 64 << 20).0, "streamed");
    }
}

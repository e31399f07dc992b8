//! Groups: which operations become one version. Pure: fed with operations in LSN order, it says where a group ends.
//!
//! A group is a burst. It ends before an operation that comes `idle` after the one before, that would be the first of too many inodes,
//! bytes or seconds; and behind a commit or unmount marker.

use std::collections::HashSet;
use std::time::Duration;

use crate::ids::{Ino, Lsn, Time};
use crate::op::{Entry, Marker, Operation, ProcessKey};

/// When a group ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupLimits {
    /// Time without an operation.
    pub idle: Duration,
    /// Inodes touched.
    pub inodes: usize,
    /// Bytes written.
    pub bytes: u64,
    /// Time since its first operation.
    pub age: Duration,
    /// Versions that it becomes at most, where several sessions worked in it ([`super::sessions`]).
    pub parts: usize,
}

impl Default for GroupLimits {
    /// The values of the design: 2 s idle, 1,000 paths, 64 MiB, 30 s; 16 parts.
    fn default() -> Self {
        Self { idle: Duration::from_secs(2), inodes: 1000, bytes: 64 << 20, age: Duration::from_secs(30), parts: 16 }
    }
}

/// Why a group ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// Nothing came for a while, or a limit was reached.
    Burst,
    /// `ize commit`, with its message.
    Commit {
        /// What was said.
        message: Option<String>,
        /// Whose work it is said of; the default where it is said of all.
        worker: ProcessKey,
    },
    /// Unmounted.
    Unmount,
}

/// A group that may still grow.
#[derive(Clone, Debug)]
pub struct Group {
    /// First record.
    pub first: Lsn,
    /// Last record so far.
    pub last: Lsn,
    /// Clamped time of the first operation.
    pub begin: Time,
    /// Clamped time of the last operation.
    pub end: Time,
    /// Operations that change something.
    pub operations: u64,
    /// Bytes written.
    pub bytes: u64,
    /// The restore that it holds, if any: the state restored.
    pub restored: Option<Lsn>,
    /// Whether operations in it belong to a marker, as those of a restore do.
    pub linked: bool,
    inodes: HashSet<Ino>,
}

impl Group {
    fn new(lsn: Lsn, time: Time) -> Self {
        Group {
            first: lsn,
            last: lsn,
            begin: time,
            end: time,
            operations: 0,
            bytes: 0,
            restored: None,
            linked: false,
            inodes: HashSet::new(),
        }
    }

    fn add(&mut self, lsn: Lsn, entry: &Entry) {
        self.last = lsn;
        self.end = entry.stamp.clamped();
        self.linked |= entry.stamp.link.is_some();
        match &entry.op {
            Operation::Mark(mark) => {
                if let Marker::Restore { at, .. } = &mark.marker {
                    self.restored = Some(*at);
                }
            }
            op => {
                self.operations += 1;
                self.inodes.extend(op.ino());
                if let Operation::Write(write) = op {
                    self.bytes += write.data.len();
                }
            }
        }
    }

    /// Inodes touched.
    #[must_use]
    pub fn inodes(&self) -> usize {
        self.inodes.len()
    }

    /// Would the group have to end before an operation at `time`?
    #[must_use]
    pub fn is_over_at(&self, time: Time, limits: &GroupLimits) -> bool {
        passed(self.end, time) >= limits.idle
            || passed(self.begin, time) >= limits.age
            || self.inodes.len() >= limits.inodes
            || self.bytes >= limits.bytes
    }
}

/// Time from one to the other; none when the other is earlier.
pub(super) fn passed(from: Time, to: Time) -> Duration {
    Duration::from_nanos(u64::try_from(to.as_nanos().saturating_sub(from.as_nanos())).unwrap_or(0))
}

/// Cuts a run of operations into groups.
#[derive(Debug)]
pub struct Grouper {
    limits: GroupLimits,
    open: Option<Group>,
}

impl Grouper {
    /// Starts without a group.
    #[must_use]
    pub fn new(limits: GroupLimits) -> Self {
        Self { limits, open: None }
    }

    /// Would this operation begin a new group, so that the open one must be taken first?
    #[must_use]
    pub fn ends_before(&self, entry: &Entry) -> bool {
        let marker = matches!(&entry.op, Operation::Mark(m) if !matches!(m.marker, Marker::Restore { .. }));
        // Operations of one restore stay together, and so does a commit with what it commits.
        !marker && entry.stamp.link.is_none() && self.open.as_ref().is_some_and(|g| g.is_over_at(entry.stamp.clamped(), &self.limits))
    }

    /// Takes an operation into the open group (the caller has taken the one that [`Grouper::ends_before`] it). Some when the group ends
    /// with it.
    pub fn add(&mut self, lsn: Lsn, entry: &Entry) -> Option<(Group, End)> {
        let time = entry.stamp.clamped();
        self.open.get_or_insert_with(|| Group::new(lsn, time)).add(lsn, entry);
        let end = match &entry.op {
            Operation::Mark(mark) => match &mark.marker {
                Marker::Commit { message } => End::Commit { message: message.clone(), worker: entry.stamp.process },
                Marker::Unmount => End::Unmount,
                Marker::Restore { .. } => return None,
            },
            _ => return None,
        };
        self.open.take().map(|group| (group, end))
    }

    /// Other limits from now on; call it between groups.
    pub fn limit(&mut self, limits: GroupLimits) {
        self.limits = limits;
    }

    /// The group that is still open.
    #[must_use]
    pub fn open(&self) -> Option<&Group> {
        self.open.as_ref()
    }

    /// Ends the open group here.
    pub fn take(&mut self) -> Option<Group> {
        self.open.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::{Chmod, Mark, Stamp};

    fn entry(second: i64, op: Operation) -> Entry {
        Entry { stamp: Stamp { time: Time { secs: second, nanos: 0 }, ..Stamp::default() }, op }
    }

    fn chmod(ino: u64) -> Operation {
        Chmod { ino: Ino(ino), old: 0, new: 1 }.into()
    }

    /// Runs operations (second, inode; inode 0 is a commit) and gives the groups as LSN ranges.
    fn groups(limits: GroupLimits, ops: &[(i64, u64)]) -> Vec<(u64, u64)> {
        let mut grouper = Grouper::new(limits);
        let mut out = Vec::new();
        for (i, (second, ino)) in ops.iter().enumerate() {
            let op = if *ino == 0 { Mark { marker: Marker::Commit { message: None } }.into() } else { chmod(*ino) };
            let entry = entry(*second, op);
            if grouper.ends_before(&entry) {
                out.extend(grouper.take().map(|g| (g.first.0, g.last.0)));
            }
            out.extend(grouper.add(Lsn(i as u64 + 1), &entry).map(|(g, _)| (g.first.0, g.last.0)));
        }
        out.extend(grouper.take().map(|g| (g.first.0, g.last.0)));
        out
    }

    #[test]
    fn a_pause_ends_a_group() {
        assert_eq!(groups(GroupLimits::default(), &[(0, 5), (1, 5), (3, 5), (4, 6)]), [(1, 2), (3, 4)]);
    }

    #[test]
    fn a_commit_ends_a_group_even_after_a_pause() {
        assert_eq!(groups(GroupLimits::default(), &[(0, 5), (60, 0), (60, 5)]), [(1, 2), (3, 3)]);
    }

    #[test]
    fn many_inodes_and_long_bursts_end_a_group() {
        let limits = GroupLimits { inodes: 2, ..GroupLimits::default() };
        assert_eq!(groups(limits, &[(0, 5), (0, 6), (0, 7)]), [(1, 2), (3, 3)]);
        let ops: Vec<(i64, u64)> = (0..40).map(|s| (s, 5)).collect();
        assert_eq!(groups(GroupLimits::default(), &ops), [(1, 30), (31, 40)]);
    }
}

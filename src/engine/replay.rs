//! Replay A: operations become versions. A tree of its own follows the log; where a group ends, that tree is committed, the version is
//! recorded, the checkpoint replaced, and the live tree lets go of what the base now holds.
//!
//! Order, so that a crash between any two steps loses nothing and does nothing twice: records durable, blobs of the state durable, version
//! record durable, checkpoint replaced. A version record above the checkpoint is cut when the store is opened.

use std::collections::{BTreeSet, HashMap};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use super::adapters::BlankedStore;
use super::core::{Core, Item, for_each_item};
use super::group::{End, Group, GroupLimits, Grouper};
use super::pace::{Pace, Paced};
use crate::error::Result;
use crate::ids::Lsn;
use crate::op::{Entry, ProcessKey, ProcessRecord};
use crate::tree::{BlobRead, LogBytes, Tree};
use crate::versions::checkpoint::{Checkpoint, ReplaceError};
use crate::versions::diff::{Difference, diff};
use crate::versions::version_log::{ChangeId, LISTED_MAX, Origin, PathChange, ProcessLabel, Version, What};

/// Processes remembered by name at most.
const PROCESSES: usize = 4096;

/// Follows the log.
#[derive(Debug)]
pub(super) struct Replayer {
    limits: GroupLimits,
    follower: Option<Follower>,
}

/// The tree that follows, and the group that it is in.
#[derive(Debug)]
struct Follower {
    tree: Tree,
    /// The last record read, of any kind.
    seen: Lsn,
    /// When the last operation was read, and the first one of the open group: by a clock that nobody sets.
    touched: Instant,
    since: Instant,
    grouper: Grouper,
    /// Processes by key, as their records said.
    known: HashMap<ProcessKey, ProcessRecord>,
    /// Processes of the open group.
    busy: BTreeSet<ProcessKey>,
}

impl Replayer {
    pub(super) fn new(limits: GroupLimits) -> Self {
        Self { limits, follower: None }
    }

    /// What the follower's tree names and perhaps no version does yet.
    pub(super) fn live(&self, see: &mut dyn FnMut(crate::tree::Live)) {
        if let Some(follower) = &self.follower {
            follower.tree.live(see);
        }
    }

    /// Follows the log as far as it is durable and makes a version of every group that has ended; with `all`, also of the open one.
    pub(super) fn run(&mut self, core: &Core, all: bool) -> Result<u64> {
        // A tree in which an operation or a commit failed half-way is of no use: it is made anew from the checkpoint.
        let mut follower = match self.follower.take() {
            Some(follower) => follower,
            None => Follower::new(core, self.limits)?,
        };
        let made = follower.run(core, all, &self.limits)?;
        if follower.tree.resident() < RESIDENT_MAX || follower.grouper.open().is_some() {
            self.follower = Some(follower);
        }
        Ok(made)
    }
}

/// A follower with more inodes than this in memory is dropped after a commit; the next one loads what it needs.
const RESIDENT_MAX: usize = 100_000;

impl Follower {
    fn new(core: &Core, limits: GroupLimits) -> Result<Self> {
        let checkpoint = core.history().checkpoint.clone();
        let blobs: Arc<dyn BlobRead> = Arc::new(BlankedStore(Arc::clone(&core.blobs)));
        let tree = Tree::open(blobs, checkpoint.root, checkpoint.next_ino, checkpoint.lsn, checkpoint.clock)?;
        let now = Instant::now();
        Ok(Self {
            tree,
            seen: checkpoint.lsn,
            touched: now,
            since: now,
            grouper: Grouper::new(limits),
            known: HashMap::new(),
            busy: BTreeSet::new(),
        })
    }

    fn run(&mut self, core: &Core, all: bool, limits: &GroupLimits) -> Result<u64> {
        let mut made = 0;
        let pace = Pace::new(core, all);
        if all {
            core.log.seal()?;
        }
        // Not from the last operation on: behind it there may be marks, and an idle project must not be read again and again.
        let from = self.seen.next();
        let to = core.log.durable();
        if to >= from {
            let seen = for_each_item(&*core.storage, &core.layout, core.store, (from, to), &mut |item| {
                match item {
                    Item::Process(process) => {
                        if self.known.len() >= PROCESSES {
                            self.known.clear();
                        }
                        self.known.insert(process.key, process);
                    }
                    Item::Operation { lsn, entry, payload, .. } => {
                        made += self.take(core, &pace, lsn, &entry, payload)?;
                        pace.rest(lsn);
                    }
                }
                Ok(ControlFlow::Continue(()))
            })?;
            self.seen = self.seen.max(seen);
        }
        let caught_up = core.fs.locked().tree().applied() == self.tree.applied();
        let over = self.grouper.open().is_some() && (self.touched.elapsed() >= limits.idle || self.since.elapsed() >= limits.age);
        if all || (over && caught_up) {
            if !all {
                core.log.seal()?;
            }
            if let Some(group) = self.grouper.take() {
                // Marks and process records behind the last operation belong to nobody else.
                made += self.finish(core, &pace, &group, End::Burst, self.seen.max(group.last))?;
            }
        }
        Ok(made)
    }

    fn take(&mut self, core: &Core, pace: &Pace<'_>, lsn: Lsn, entry: &Entry, payload: Option<(Arc<dyn LogBytes>, u64)>) -> Result<u64> {
        let mut made = 0;
        if self.grouper.ends_before(entry)
            && let Some(group) = self.grouper.take()
        {
            let up_to = Lsn(lsn.0 - 1);
            made += self.finish(core, pace, &group, End::Burst, up_to)?;
        }
        self.touched = Instant::now();
        if self.grouper.open().is_none() {
            self.since = self.touched;
        }
        self.tree.apply(lsn, entry, payload)?;
        if entry.stamp.process.pid != 0 {
            self.busy.insert(entry.stamp.process);
        }
        if let Some((group, end)) = self.grouper.add(lsn, entry) {
            made += self.finish(core, pace, &group, end, lsn)?;
        }
        Ok(made)
    }

    /// The tree stands at the end of `group`: makes it a version. Records up to `up_to` need never be read again.
    fn finish(&mut self, core: &Core, pace: &Pace<'_>, group: &Group, end: End, up_to: Lsn) -> Result<u64> {
        let committed = self.tree.commit(&Paced { pace, done: group.last })?;
        core.blobs.sync()?;
        let mut history = core.history();
        let last = history.versions.last()?;
        let parent = last.as_ref().map(|v| v.root);
        let differences = diff(&*core.blobs, parent.as_ref(), &committed.root)?;
        let paths = path_changes(&differences);
        let label = if let End::Commit(message) = &end { message.clone() } else { None };
        let made = if paths.is_empty() && label.is_none() {
            // Nothing that has a name differs (an unlinked file was closed): no version, the next one covers these records too.
            self.busy.clear();
            0
        } else {
            let busy = std::mem::take(&mut self.busy);
            let seq = history.versions.newest().next();
            let first = last.as_ref().map_or(Lsn(1), |v| v.last.next());
            let version = Version {
                seq,
                first,
                last: group.last,
                begin: group.begin,
                end: group.end,
                root: committed.root,
                parent_root: parent,
                paths,
                processes: busy.iter().map(|key| self.label(*key)).collect(),
                label,
                operations: group.operations,
                bytes: group.bytes,
                origin: match (group.restored, end) {
                    (Some(at), _) => Origin::Restore { at },
                    (None, End::Burst) => Origin::Burst,
                    (None, End::Commit(_)) => Origin::Commit,
                    (None, End::Unmount) => Origin::Unmount,
                },
                id: ChangeId::of(core.store, seq, first, group.last, &committed.root),
                covers: first,
                thinned: 0,
                part: 1,
                parts: 1,
            };
            history.versions.append(&version)?;
            history.versions.sync()?;
            1
        };
        let old = &history.checkpoint;
        let checkpoint = Checkpoint {
            store: core.store,
            lsn: up_to,
            floor: old.floor,
            root: Some(committed.root),
            version: history.versions.newest(),
            next_ino: self.tree.next_ino(),
            clock: self.tree.clock(),
            epoch: old.epoch,
            operations: old.operations + group.operations,
            bytes: old.bytes + group.bytes,
        };
        match crate::versions::checkpoint::replace(&*core.storage, &core.layout.checkpoint(), &checkpoint) {
            Ok(()) => {}
            Err(ReplaceError::Old(e)) => {
                // The version does not count without it; the next try makes it again.
                if made > 0 {
                    history.versions.take_back();
                }
                return Err(e);
            }
            Err(ReplaceError::Unknown(e)) => {
                // The version may count: nothing may ever be written over it. The next opening finds out.
                history.versions.fail(&e.to_string());
                return Err(e);
            }
        }
        history.checkpoint = checkpoint;
        history.versions.counted();
        drop(history);
        core.meter.commit(group.operations, group.bytes, made > 0);
        core.fs.locked().rebase(&committed);
        Ok(made)
    }

    fn label(&self, key: ProcessKey) -> ProcessLabel {
        let known = self.known.get(&key);
        ProcessLabel {
            pid: key.pid,
            start: key.start,
            comm: known.map(|p| p.comm.clone()).unwrap_or_default(),
            uid: known.map_or(0, |p| p.uid),
            session: known.map_or(0, |p| p.session),
        }
    }
}

/// The differences as a version lists them: what follows from others is left out, unless there is nothing else.
pub(super) fn path_changes(differences: &[Difference]) -> Vec<PathChange> {
    let notable = differences.iter().any(Difference::is_notable);
    let mut bytes = 0;
    differences
        .iter()
        .filter(|d| !notable || d.is_notable())
        // The states tell the rest.
        .take_while(|d| {
            bytes += d.path.len() + d.from.as_ref().map_or(0, Vec::len) + 16;
            bytes <= LISTED_MAX
        })
        .map(|d| PathChange {
            path: d.path.clone(),
            what: match (&d.from, &d.old, &d.new) {
                (Some(from), _, _) => What::Moved { from: from.clone() },
                (None, None, _) => What::Added,
                (None, Some(_), Some(_)) => What::Modified,
                (None, Some(_), None) => What::Removed,
            },
        })
        .collect()
}

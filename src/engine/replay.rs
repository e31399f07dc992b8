//! Replay A: operations become versions. A tree of its own follows the log; where a group ends, that tree is committed, the version is
//! recorded, the checkpoint replaced, and the live tree lets go of what the base now holds. Where several sessions worked, each has a version
//! of its own ([`super::parts`]): one order of syncs and one checkpoint for all of them, which names the last.
//!
//! Order, so that a crash between any two steps loses nothing and does nothing twice: records durable, blobs of the state durable, version
//! record durable, checkpoint replaced. A version record above the checkpoint is cut when the store is opened.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::adapters::BlankedStore;
use super::batch;
use super::core::{Core, Item};
use super::group::{End, Group, GroupLimits, Grouper};
use super::pace::{Pace, Paced};
use super::parts::{Piece, Start, Window};
use super::read_ahead::for_each_item_ahead;
use crate::error::{Class, Error, Result};
use crate::ids::Lsn;
use crate::op::{Entry, Operation, ProcessKey, ProcessRecord};
use crate::tree::{BlobRead, LogBytes, Tree};
use crate::versions::checkpoint::{Checkpoint, ReplaceError};
use crate::versions::coalesce::{Coalesced, coalesce, listed};
use crate::versions::version_log::{ChangeId, Origin, ProcessLabel, Version, VersionLog};

/// Processes remembered by name at most.
const PROCESSES: usize = 4096;

/// Follows the log.
#[derive(Debug)]
pub(super) struct Replayer {
    limits: GroupLimits,
    /// Groups become at least so many times as large as set.
    least: u32,
    follower: Option<Follower>,
}

/// When groups end on a full disk, where what each of them needs must fit into the room that is kept back; see also [`TIGHT_INLINE`].
const TIGHT: GroupLimits =
    GroupLimits { idle: Duration::from_secs(2), inodes: 250, bytes: 256 << 20, age: Duration::from_secs(30), parts: 1 };
/// Bytes that an inode's entry takes, more or less, in what a version stores.
const INODE_ROOM: u64 = 256;
/// Bytes that are left for checkpoints, so that what was committed can be pruned and makes room.
const CHECKPOINT_ROOM: u64 = 512 << 10;
/// Bytes of small writes after which a group ends there: large ones take no room.
const TIGHT_INLINE: u64 = 4 << 20;

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
    busy: BTreeMap<ProcessKey, ProcessLabel>,
    /// Every group is made with as little room as can be.
    saving: bool,
    /// How many times as large as set groups may become, and at least.
    scale: u32,
    least: u32,
    /// The open one is: bytes of small writes in it.
    tight: Option<u64>,
}

impl Replayer {
    pub(super) fn new(limits: GroupLimits) -> Self {
        Self { limits, least: 1, follower: None }
    }

    /// From the next group on they become as large as they may, however little waits.
    pub(super) fn make_large_groups(&mut self) {
        self.least = batch::SCALE_MAX;
    }

    /// What the follower's tree names and perhaps no version does yet.
    pub(super) fn live(&self, see: &mut dyn FnMut(crate::tree::Live)) {
        if let Some(follower) = &self.follower {
            follower.tree.live(see);
        }
    }

    /// Inodes that its tree holds in memory.
    #[cfg(test)]
    pub(super) fn resident(&self) -> usize {
        self.follower.as_ref().map_or(0, |follower| follower.tree.resident())
    }

    /// Follows the log as far as it is durable and makes a version of every group that has ended; with `all`, also of the open one.
    pub(super) fn run(&mut self, core: &Core, all: bool) -> Result<u64> {
        // A tree in which an operation or a commit failed half-way is of no use: it is made anew from the checkpoint.
        let mut follower = match self.follower.take() {
            Some(follower) => follower,
            None => Follower::new(core, self.limits)?,
        };
        follower.least = self.least;
        let made = follower.run(core, all, &self.limits)?;
        if follower.tree.resident() < RESIDENT_MAX || follower.grouper.open().is_some() {
            self.follower = Some(follower);
        } else {
            // Its tree goes, not whom it knows: the log says of a process once a segment who it is.
            let known = follower.known;
            self.follower = Some(Follower { known, ..Follower::new(core, self.limits)? });
        }
        Ok(made)
    }

    /// As [`Replayer::run`] with `all`, with as little room as can be: in small groups, and without cutting large writes anew.
    pub(super) fn run_tight(&mut self, core: &Core) -> Result<u64> {
        self.follower = None;
        let mut follower = Follower::new(core, TIGHT)?;
        follower.saving = true;
        follower.run(core, true, &TIGHT)
    }
}

/// A follower with more inodes than this in memory begins anew after a commit, and loads what it needs.
/// In tests nearly always.
const RESIDENT_MAX: usize = if cfg!(test) { 10 } else { 100_000 };

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
            busy: BTreeMap::new(),
            saving: false,
            scale: 1,
            least: 1,
            tight: None,
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
            let seen = for_each_item_ahead(core, (from, to), &mut |item| {
                match item {
                    Item::Process(process) => {
                        if self.known.len() >= PROCESSES {
                            self.known.clear();
                        }
                        self.known.insert(process.key, process);
                    }
                    Item::Operation { lsn, entry, payload, .. } => {
                        made += self.take(core, &pace, limits, lsn, &entry, payload)?;
                        // To ask for the time that was worked takes a fifth of the time of an operation.
                        if lsn.0.is_multiple_of(16) {
                            pace.rest(lsn);
                        }
                    }
                }
                Ok(())
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
                made += self.finish(core, &pace, limits, &group, End::Burst, self.seen.max(group.last))?;
            }
        }
        Ok(made)
    }

    fn take(
        &mut self,
        core: &Core,
        pace: &Pace<'_>,
        limits: &GroupLimits,
        lsn: Lsn,
        entry: &Entry,
        payload: Option<(Arc<dyn LogBytes>, u64)>,
    ) -> Result<u64> {
        let mut made = 0;
        let large = self.tight.is_some_and(|inline| inline >= TIGHT_INLINE) && entry.stamp.link.is_none();
        if (large || self.grouper.ends_before(entry))
            && let Some(group) = self.grouper.take()
        {
            let up_to = Lsn(lsn.0 - 1);
            made += self.finish(core, pace, limits, &group, End::Burst, up_to)?;
        }
        if let (Some(inline), Operation::Write(write), Some(_)) = (&mut self.tight, &entry.op, &payload) {
            *inline = inline.saturating_add(write.data.len());
        }
        self.touched = Instant::now();
        if self.grouper.open().is_none() {
            self.adapt(core, limits);
            self.since = self.touched;
            self.tight = (self.saving || core.is_short()).then_some(0);
        }
        self.tree.apply(lsn, entry, payload)?;
        let process = entry.stamp.process;
        if process.pid != 0 && self.busy.get(&process).is_none_or(|label| label.comm.is_empty()) {
            self.busy.insert(process, self.label(process));
        }
        if let Some((group, end)) = self.grouper.add(lsn, entry) {
            made += self.finish(core, pace, limits, &group, end, lsn)?;
        }
        Ok(made)
    }

    /// Lets the next group become as large as what waits asks for.
    fn adapt(&mut self, core: &Core, limits: &GroupLimits) {
        // With little room, small ones.
        let (scale, why) = if self.saving || core.is_short() {
            (1, "there is little room")
        } else {
            batch::scale(core.meter.pending(), limits, self.least)
        };
        core.meter.scaled(scale);
        if scale == self.scale {
            return;
        }
        self.scale = scale;
        self.grouper.limit(batch::scaled(limits, scale));
        tracing::info!("versions may become {scale} times as large as set from now on: {why}");
    }

    /// The tree stands at the end of `group`: makes it a version, or several. Records up to `up_to` need never be read again.
    fn finish(&mut self, core: &Core, pace: &Pace<'_>, limits: &GroupLimits, group: &Group, end: End, up_to: Lsn) -> Result<u64> {
        let (before, start) = {
            let history = core.history();
            let Checkpoint { lsn, next_ino, clock, .. } = history.checkpoint;
            (history.versions.last()?.map(|v| v.root), Start { root: self.tree.base_root(), next_ino, lsn, clock })
        };
        let inline = self.tight.take();
        let saving = inline.is_some() || core.is_short();
        if let Some(inline) = inline {
            // What cannot be finished would take the room that is left for nothing.
            let needed = inline + group.inodes() as u64 * INODE_ROOM + CHECKPOINT_ROOM;
            if core.storage.available(core.layout.dir()) < needed {
                return Err(Error::new(Class::Full, format!("there is no room for a version of {needed} bytes")));
            }
        }
        let Coalesced { committed, changes } = coalesce(&mut self.tree, &Paced { pace, done: group.last, tight: saving }, before.as_ref())?;
        let changes = core.with_history(&mut self.tree, changes)?;
        let busy = std::mem::take(&mut self.busy);
        let window = Window { core, pace, limits, group, busy: &busy, start };
        // On a full disk there is no room to make states that nobody asked for.
        let mut pieces = if saving { Vec::new() } else { window.separate(&mut self.tree, before, &committed.root)? };
        if pieces.is_empty() {
            let Group { begin, end, operations, bytes, .. } = *group;
            let processes = busy.keys().copied().collect();
            pieces.push(Piece { root: committed.root, before, changes, begin, end, operations, bytes, processes });
        }
        core.blobs.sync()?;
        let mut history = core.history();
        let made = append(core, &mut history.versions, group, end, &pieces, &busy)?;
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
                // The versions do not count without it; the next try makes them again.
                (0..made).for_each(|_| history.versions.take_back());
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
        core.meter.commit(group.operations, group.bytes, made);
        let (manner, why) = batch::manner(group.inodes(), group.bytes);
        let Group { operations, bytes, .. } = group;
        tracing::debug!("{made} versions of {operations} operations on {} inodes, {bytes} bytes {manner}: {why}", group.inodes());
        core.fs.locked().rebase(&committed);
        // While operations come without a pause, there is always an open group, and this tree is never made anew.
        if self.tree.resident() > RESIDENT_MAX {
            self.tree.evict(&|_| false, &|_| false);
        }
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

/// Appends the versions of a group and makes them durable; says how many. When that fails, none of them is there.
fn append(
    core: &Core,
    versions: &mut VersionLog,
    group: &Group,
    end: End,
    pieces: &[Piece],
    busy: &BTreeMap<ProcessKey, ProcessLabel>,
) -> Result<u64> {
    let (label, worker) =
        if let End::Commit { message, worker } = &end { (message.clone(), *worker) } else { (None, ProcessKey::default()) };
    let first = versions.last()?.map_or(Lsn(1), |v| v.last.next());
    let parts = u32::try_from(pieces.len()).unwrap_or(u32::MAX);
    // What is said of somebody's work belongs to the part that holds it.
    let own = pieces.iter().position(|piece| worker.pid != 0 && piece.processes.contains(&worker));
    let labelled = own.and_then(|place| u32::try_from(place + 1).ok()).unwrap_or(parts);
    let mut made = 0;
    for (part, piece) in (1u32..).zip(pieces) {
        let paths = listed(&piece.changes);
        let label = label.clone().filter(|_| part == labelled);
        if paths.is_empty() && label.is_none() && parts == 1 {
            // Nothing that has a name differs (an unlinked file was closed): no version, the next one covers these records too.
            continue;
        }
        let seq = versions.newest().next();
        let version = Version {
            seq,
            first,
            last: group.last,
            begin: piece.begin,
            end: piece.end,
            root: piece.root,
            parent_root: piece.before,
            paths,
            processes: piece.processes.iter().filter_map(|key| busy.get(key).cloned()).collect(),
            label,
            operations: piece.operations,
            bytes: piece.bytes,
            origin: match (group.restored, &end) {
                (Some(at), _) => Origin::Restore { at },
                (None, End::Commit { .. }) if part == labelled => Origin::Commit,
                (None, End::Unmount) if part == parts => Origin::Unmount,
                (None, End::Burst | End::Commit { .. } | End::Unmount) => Origin::Burst,
            },
            id: ChangeId::of(core.store, seq, first, group.last, &piece.root),
            covers: first,
            thinned: 0,
            part,
            parts,
        };
        if let Err(e) = versions.append(&version) {
            (0..made).for_each(|_| versions.take_back());
            return Err(e);
        }
        made += 1;
    }
    if made > 0 {
        versions.sync()?;
    }
    Ok(made)
}

//! Prune and sweep: old segments go, then the blobs that nothing names any more.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;

use super::core::{Core, Item, for_each_item};
use crate::blobs::SweepOptions;
use crate::error::Result;
use crate::ids::{BlobId, Lsn, SegmentId, Time, VersionSeq};
use crate::op::{Decoded, decode};
use crate::tree::{BlobRead, Live, TreeError, decode_blob, load_state};
use crate::versions::inode_table;
use crate::versions::node::{Content, DirNode, Entry, InodeEntry, Node, Piece};
use crate::versions::piece_tree::{self, Met};
use crate::wal::prune::{Keep, Limits};
use crate::wal::scan::SegmentInfo;
use crate::wal::{self, Bounds};

/// With fewer bytes in the log, the last segment stays where everything may go: one that is begun takes some MiB at once.
const TURN_FROM: u64 = 16 << 20;

/// What a prune did, or with a dry run would do.
#[derive(Clone, Debug, Default)]
pub struct Pruned {
    /// Every segment that there was, oldest first.
    pub segments: Vec<PrunedSegment>,
    /// Bytes of packs that went.
    pub blob_bytes: u64,
    /// Bytes of log and packs that are left.
    pub left: u64,
    /// Nothing is in a version yet: nothing may go.
    pub no_checkpoint: bool,
}

/// What became of a segment.
#[derive(Clone, Debug)]
pub struct PrunedSegment {
    /// Its number.
    pub id: SegmentId,
    /// Its first and last LSN.
    pub range: (Lsn, Lsn),
    /// Bytes of its file.
    pub bytes: u64,
    /// Bytes of the blobs that only it names: no version, no file, no later segment. Known where a size limits, else 0.
    pub payload: u64,
    /// When its last record was appended.
    pub last: Option<Time>,
    /// Why it stays; `None` when it goes.
    pub stays: Option<&'static str>,
}

impl Pruned {
    /// Segments that go, and the bytes of their files.
    #[must_use]
    pub fn dropped(&self) -> (u64, u64) {
        let gone = self.segments.iter().filter(|s| s.stays.is_none());
        gone.fold((0, 0), |(n, bytes), s| (n + 1, bytes + s.bytes))
    }
}

impl Core {
    /// Drops sealed segments at or below the checkpoint, the oldest first, until the limits are met, then sweeps the packs. Never the
    /// active segment, never anything that is still needed.
    ///
    /// # Errors
    /// Damage or I/O errors; what was dropped until then was not needed.
    pub fn prune(&self, limits: Limits, dry_run: bool) -> Result<Pruned> {
        let turned = limits.max_size == Some(0) && self.is_worth_turning();
        if turned && !dry_run {
            // Nobody wants the operations: the last segment goes too, behind an empty one.
            self.turn_segment()?;
        }
        // When a prune finds no room after it dropped segments, the next try knows nothing of those.
        let gone = RefCell::default();
        let mut pruned = self.with_reserve(|| self.prune_once(limits, dry_run, &gone))?;
        if !dry_run {
            self.log.refill_reserve();
        } else if turned && let Some(last) = pruned.segments.last_mut().filter(|last| last.stays == Some(reason(Keep::Last))) {
            last.stays = None;
        }
        Ok(pruned)
    }

    /// Is everything committed, and does the log hold more than a new segment takes?
    fn is_worth_turning(&self) -> bool {
        let usage = self.log.usage();
        usage.bytes.saturating_add(usage.payload) > TURN_FROM && !self.pending()
    }

    fn prune_once(&self, limits: Limits, dry_run: bool, gone_before: &RefCell<Vec<PrunedSegment>>) -> Result<Pruned> {
        // Replay must neither read a segment that goes nor store blobs that the sweep has not heard of.
        let replayer = self.replayer();
        let checkpoint = self.history().checkpoint.clone();
        let bounds = Bounds { checkpoint: checkpoint.lsn, floor: checkpoint.floor };
        let scan = wal::scan(&*self.storage, &self.layout.wal(), self.store, bounds)?;
        let only = match limits.max_size {
            // When everything may go, nobody needs to know how much that is.
            None | Some(0) => HashMap::new(),
            Some(_) => self.payload_of_segments(&replayer)?,
        };
        let payload = |id: SegmentId| only.get(&id).copied().unwrap_or(0);
        if limits.max_size.is_some_and(|max| max > 0) {
            // What is above the checkpoint is named by files that are about to be committed, which may be cut elsewhere then.
            let settled = scan.segments.iter().filter(|s| s.last_lsn <= checkpoint.lsn);
            self.shared.learn(settled.map(|s| (s.id, s.payload.saturating_sub(payload(s.id)))));
        }
        let plan = wal::prune::plan(&scan, checkpoint.lsn, limits, &mut |s| payload(s.id), Time::now());
        let row = |s: &SegmentInfo, stays: Option<&'static str>| PrunedSegment {
            id: s.id,
            range: (s.first_lsn, s.last_lsn),
            bytes: s.bytes,
            payload: payload(s.id),
            last: s.last_time(),
            stays,
        };
        let mut segments = gone_before.borrow().clone();
        segments.extend(plan.drop.iter().map(|s| row(s, None)));
        let gone = segments.clone();
        segments.extend(plan.keep.iter().map(|(s, why)| row(s, Some(reason(*why)))));
        let mut pruned = Pruned { segments, no_checkpoint: checkpoint.lsn == Lsn::ZERO, ..Pruned::default() };
        if !dry_run {
            self.log.prune(&plan, &mut |floor| {
                let mut history = self.history();
                let mut checkpoint = history.checkpoint.clone();
                checkpoint.floor = checkpoint.floor.max(floor);
                crate::versions::checkpoint::replace(&*self.storage, &self.layout.checkpoint(), &checkpoint)?;
                history.checkpoint = checkpoint;
                Ok(())
            })?;
            self.shared.dropped(plan.drop.iter().map(|s| s.id));
            gone_before.replace(gone);
            pruned.blob_bytes = self.sweep(&replayer, SweepOptions::default())?;
        }
        let log: u64 = plan.keep.iter().map(|(s, _)| s.bytes).sum();
        pruned.left = log + self.blobs.usage().pack_bytes + if dry_run { pruned.dropped().1 } else { 0 };
        Ok(pruned)
    }

    /// Bytes of blobs that only segments name, by the segment with which they would go: the last that names them.
    fn payload_of_segments(&self, replayer: &super::replay::Replayer) -> Result<HashMap<SegmentId, u64>> {
        let mut last: HashMap<BlobId, (SegmentId, u64)> = HashMap::new();
        wal::for_each_record(&*self.storage, &self.layout.wal(), self.store, Lsn::ZERO, Lsn(u64::MAX), &mut |record, segment| {
            if record.payload > 0
                && let Ok(Decoded::Operation { entry, .. }) = decode(record.kind, record.version, record.body)
                && let Some((id, len)) = entry.op.blob()
            {
                last.insert(id, (segment.id, u64::from(len)));
            }
            Ok(ControlFlow::Continue(()))
        })?;
        if last.is_empty() {
            return Ok(HashMap::new());
        }
        let kept = self.named_by_states(replayer)?;
        let mut only: HashMap<SegmentId, u64> = HashMap::new();
        for (id, (segment, len)) in last {
            if !kept.contains(&id) {
                *only.entry(segment).or_default() += len;
            }
        }
        Ok(only)
    }

    /// Every blob that a version, the checkpoint, the live tree or replay names.
    fn named_by_states(&self, replayer: &super::replay::Replayer) -> Result<HashSet<BlobId>> {
        self.named_by_some(replayer, &|_| true)
    }

    /// The same, of the versions that are wanted.
    pub(super) fn named_by_some(&self, replayer: &super::replay::Replayer, wanted: &dyn Fn(VersionSeq) -> bool) -> Result<HashSet<BlobId>> {
        let mut walk = Walk::new(&*self.blobs);
        let (mut live, mut named) = (Vec::new(), Vec::new());
        let base = {
            let mut writer = self.fs.locked();
            writer.tree().live(&mut |what| live.push(what));
            writer.tree().base_root()
        };
        replayer.live(&mut |what| live.push(what));
        let mut roots: Vec<BlobId> = base.into_iter().collect();
        {
            let history = self.history();
            for version in history.versions.iter() {
                let version = version?;
                if wanted(version.seq) {
                    roots.push(version.root);
                }
            }
            roots.extend(history.checkpoint.root);
        }
        for root in roots {
            walk.state(&root)?;
        }
        for what in live {
            match what {
                Live::Blob(id) => named.push(id),
                Live::Content(content) => walk.content(&content, &mut Vec::new())?,
            }
        }
        let mut keep = walk.kept();
        keep.extend(named);
        Ok(keep)
    }

    /// Drops blobs that nothing names: no version, no record that is kept, no file that is open. The caller holds the replayer, so that no
    /// state is being stored meanwhile.
    pub(super) fn sweep(&self, replayer: &super::replay::Replayer, options: SweepOptions) -> Result<u64> {
        // Begun before the tree is locked, because it syncs a pack. A blob that was stored just before has its record logged by the time the
        // lock is ours (both happen under it, or a hold keeps the sweep from beginning), hence is found below; one that is stored later is kept
        // by the sweep itself.
        let sweep = self.blobs.begin_sweep()?;
        let mut keep = self.named_by_states(replayer)?;
        self.named_by_log(&mut keep)?;
        let report = sweep.run(&|id| keep.contains(id), options)?;
        Ok(report.bytes_removed.saturating_sub(report.bytes_moved))
    }

    /// Every blob that a record names.
    pub(super) fn named_by_log(&self, keep: &mut HashSet<BlobId>) -> Result<()> {
        for_each_item(&*self.storage, &self.layout, self.store, (Lsn::ZERO, Lsn(u64::MAX)), &mut |item| {
            if let Item::Operation { entry, .. } = item
                && let Some((id, _)) = entry.op.blob()
            {
                keep.insert(id);
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(())
    }
}

fn reason(keep: Keep) -> &'static str {
    match keep {
        Keep::Last => "the newest segment says where the log goes on",
        Keep::AboveCheckpoint => "it holds operations that no version holds yet (`ize commit` makes one)",
        Keep::Unclear => "its end is not known",
        Keep::WithinLimits => "it is within the limits",
        Keep::ClockJumped => "the clock has jumped, so ages mean nothing for now",
    }
}

/// Collects every blob that a state names; what was looked into before is not looked into again.
pub(super) struct Walk<'a> {
    blobs: &'a dyn BlobRead,
    /// Chunks.
    keep: HashSet<BlobId>,
    /// Everything that names others. Apart from the chunks: a file may hold the bytes of a directory's blob, and is not looked into.
    entered: HashSet<BlobId>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(blobs: &'a dyn BlobRead) -> Self {
        Self { blobs, keep: HashSet::new(), entered: HashSet::new() }
    }

    /// What was collected that names others: states, directories, tables, lists of pieces.
    pub(super) fn structure(&self) -> &HashSet<BlobId> {
        &self.entered
    }

    /// Was it collected?
    pub(super) fn keeps(&self, id: &BlobId) -> bool {
        self.keep.contains(id) || self.entered.contains(id)
    }

    /// What was collected.
    pub(super) fn kept(self) -> HashSet<BlobId> {
        let Self { mut keep, entered, .. } = self;
        keep.extend(entered);
        keep
    }

    pub(super) fn state(&mut self, root: &BlobId) -> Result<(), TreeError> {
        if !self.entered.insert(*root) {
            return Ok(());
        }
        let state = load_state(self.blobs, root)?;
        self.node(&state.root)?;
        let mut nodes = Vec::new();
        let (blobs, entered) = (self.blobs, &mut self.entered);
        inode_table::walk_nodes(blobs, &state, &mut |id| entered.insert(*id), &mut |_, entry| {
            // No directory with a name stands here; what an older ize stored with one that has none, nobody can reach.
            if let InodeEntry::Node(node, _) = entry
                && !matches!(node.content, Content::Directory(_))
            {
                nodes.push(node.clone());
            }
        })?;
        nodes.iter().try_for_each(|node| self.node(node))
    }

    fn node(&mut self, node: &Node) -> Result<(), TreeError> {
        // Directories are walked with a stack: their depth is the user's choice.
        let mut dirs = Vec::new();
        self.content(&node.content, &mut dirs)?;
        while let Some(dir) = dirs.pop() {
            let entries: Vec<Entry> = match decode_blob(self.blobs, &dir, "directory")? {
                DirNode::Entries(entries) => entries,
                DirNode::Pages(pages) => {
                    let mut all = Vec::new();
                    for page in pages {
                        if self.entered.insert(page) {
                            all.append(&mut decode_blob(self.blobs, &page, "directory page")?);
                        }
                    }
                    all
                }
            };
            for entry in entries {
                if let Some(node) = entry.node {
                    self.content(&node.content, &mut dirs)?;
                }
            }
        }
        Ok(())
    }

    fn content(&mut self, content: &Content, dirs: &mut Vec<BlobId>) -> Result<(), TreeError> {
        match content {
            Content::Empty | Content::Target(_) => {}
            Content::Directory(id) => {
                if self.entered.insert(*id) {
                    dirs.push(*id);
                }
            }
            Content::Pieces(_) | Content::PieceList(_) | Content::PieceTree { .. } => {
                let (keep, entered) = (&mut self.keep, &mut self.entered);
                piece_tree::walk(self.blobs, content, &mut |met| match met {
                    Met::Blob(id) => entered.insert(*id),
                    Met::Pieces(pieces) => {
                        keep.extend(pieces.iter().filter_map(|p| if let Piece::Chunk { id, .. } = p { Some(*id) } else { None }));
                        true
                    }
                })?;
            }
        }
        Ok(())
    }
}

//! Prune and sweep: old segments go, then the blobs that nothing names any more.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::time::Duration;

use super::core::{Core, Item, for_each_item};
use crate::blobs::SweepOptions;
use crate::error::Result;
use crate::ids::{BlobId, Lsn, SegmentId, Time};
use crate::tree::{BlobRead, Live, TreeError, decode_blob, load_state};
use crate::versions::inode_table;
use crate::versions::node::{Content, DirNode, Entry, InodeEntry, Node, Piece};
use crate::wal::prune::{Keep, Limits};
use crate::wal::{self, Bounds};

/// What a prune did, or with a dry run would do.
#[derive(Clone, Debug, Default)]
pub struct Pruned {
    /// Segments that go.
    pub dropped: Vec<SegmentId>,
    /// Bytes of log that go.
    pub wal_bytes: u64,
    /// Segments that stay, and why.
    pub kept: Vec<(SegmentId, String)>,
    /// Bytes of packs that went.
    pub blob_bytes: u64,
    /// Bytes of log and packs that are left.
    pub left: u64,
}

impl Core {
    /// Drops sealed segments at or below the checkpoint, the oldest first, until the limits are met, then sweeps the packs. Never the
    /// active segment, never anything that is still needed.
    ///
    /// # Errors
    /// Damage or I/O errors; what was dropped until then was not needed.
    pub fn prune(&self, max_age: Option<Duration>, max_size: Option<u64>, dry_run: bool) -> Result<Pruned> {
        // Replay must neither read a segment that goes nor store blobs that the sweep has not heard of.
        let replayer = self.replayer();
        let checkpoint = self.history().checkpoint.clone();
        let bounds = Bounds { checkpoint: checkpoint.lsn, floor: checkpoint.floor };
        let scan = wal::scan(&*self.storage, &self.layout.wal(), self.store, bounds)?;
        let plan = wal::prune::plan(&scan, checkpoint.lsn, Limits { max_age, max_size }, &mut |s| s.payload, Time::now());
        let mut pruned = Pruned {
            dropped: plan.drop.iter().map(|s| s.id).collect(),
            wal_bytes: plan.drop.iter().map(|s| s.bytes).sum(),
            kept: plan.keep.iter().map(|(s, why)| (s.id, reason(*why).to_owned())).collect(),
            ..Pruned::default()
        };
        if !dry_run {
            wal::prune::execute(&*self.storage, &self.layout.wal(), &plan, &mut |floor| {
                let mut history = self.history();
                let mut checkpoint = history.checkpoint.clone();
                checkpoint.floor = checkpoint.floor.max(floor);
                crate::versions::checkpoint::replace(&*self.storage, &self.layout.checkpoint(), &checkpoint)?;
                history.checkpoint = checkpoint;
                Ok(())
            })?;
            pruned.blob_bytes = self.sweep(&replayer)?;
        }
        let log: u64 = plan.keep.iter().map(|(s, _)| s.bytes).sum();
        pruned.left = log + self.blobs.usage().pack_bytes + if dry_run { pruned.wal_bytes } else { 0 };
        Ok(pruned)
    }

    /// Drops blobs that nothing names: no version, no record that is kept, no file that is open. The caller holds the replayer, so that no
    /// state is being stored meanwhile.
    fn sweep(&self, replayer: &super::replay::Replayer) -> Result<u64> {
        let mut walk = Walk { blobs: &*self.blobs, keep: HashSet::new() };
        let mut live = Vec::new();
        // Begun before the tree is locked, because it syncs a pack. A blob that was stored just before has its record logged by the time the
        // lock is ours (both happen under it), hence is found below; one that is stored later is kept by the sweep itself.
        let sweep = self.blobs.begin_sweep()?;
        let base = {
            let mut writer = self.fs.locked();
            writer.tree().live(&mut |what| live.push(what));
            writer.tree().base_root()
        };
        replayer.live(&mut |what| live.push(what));
        let mut named = Vec::new();
        for_each_item(&*self.storage, &self.layout, self.store, (Lsn::ZERO, Lsn(u64::MAX)), &mut |item| {
            if let Item::Operation { entry, .. } = item
                && let Some((id, _)) = entry.op.blob()
            {
                named.push(id);
            }
            Ok(ControlFlow::Continue(()))
        })?;
        let mut roots: Vec<BlobId> = base.into_iter().collect();
        {
            let history = self.history();
            for version in history.versions.iter() {
                roots.push(version?.root);
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
        // Only now: the walk takes what it has kept for what it has looked into.
        let mut keep = walk.keep;
        keep.extend(named);
        let report = sweep.run(&|id| keep.contains(id), SweepOptions::default())?;
        Ok(report.bytes_removed)
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

/// Collects every blob that a state names; what was collected before is not looked into again.
struct Walk<'a> {
    blobs: &'a dyn BlobRead,
    keep: HashSet<BlobId>,
}

impl Walk<'_> {
    fn state(&mut self, root: &BlobId) -> Result<(), TreeError> {
        self.keep.insert(*root);
        let state = load_state(self.blobs, root)?;
        self.node(&state.root)?;
        let mut nodes = Vec::new();
        let (blobs, keep) = (self.blobs, &mut self.keep);
        inode_table::walk_nodes(blobs, &state, &mut |id| keep.insert(*id), &mut |_, entry| {
            if let InodeEntry::Node(node, _) = entry {
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
                        if self.keep.insert(page) {
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
                if self.keep.insert(*id) {
                    dirs.push(*id);
                }
            }
            Content::Pieces(pieces) => self.pieces(pieces),
            Content::PieceList(id) => {
                if self.keep.insert(*id) {
                    let pieces: Vec<Piece> = decode_blob(self.blobs, id, "piece list")?;
                    self.pieces(&pieces);
                }
            }
        }
        Ok(())
    }

    fn pieces(&mut self, pieces: &[Piece]) {
        self.keep.extend(pieces.iter().filter_map(|p| if let Piece::Chunk { id, .. } = p { Some(*id) } else { None }));
    }
}

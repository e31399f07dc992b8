//! What the log says of paths that a purge names: also of such as came and went between two versions, so that no state has them.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::engine::core::Core;
use crate::engine::names::Names;
use crate::error::Result;
use crate::ids::{Ino, SegmentId};
use crate::op::{Decoded, Operation, RenameMode, decode};
use crate::wal::{self, Bounds};

/// What was ever put into a directory, or taken out of it.
pub(super) type Contents = HashMap<Ino, BTreeSet<Ino>>;

/// What the records say of some paths.
#[derive(Debug, Default)]
pub(super) struct Logged {
    /// Which of the paths a record names; also where it may, because the directory's own path is not known any more.
    pub named: Vec<bool>,
    /// Inodes that stood at them.
    pub inodes: BTreeSet<Ino>,
    /// Who was in which directory.
    pub contents: Contents,
    /// Segments with records that name them.
    pub segments: BTreeSet<SegmentId>,
    /// False when some of the log cannot be read.
    pub whole: bool,
    /// Under which names files stood is not always known: the state before the oldest record is not, or a directory's path.
    pub names_unknown: bool,
}

/// Gives every operation that can be read and its segment to `see`; says whether all can be.
fn each(core: &Core, see: &mut dyn FnMut(&Operation, SegmentId)) -> Result<bool> {
    let checkpoint = core.history().checkpoint.clone();
    let bounds = Bounds { checkpoint: checkpoint.lsn, floor: checkpoint.floor };
    // Damage below the checkpoint does not stop a purge: the log goes in any case.
    let scan = wal::scan::walk(&*core.storage, &core.layout.wal(), core.store, bounds, &mut |record, segment| {
        if let Ok(Decoded::Operation { entry, .. }) = decode(record.kind, record.version, record.body) {
            see(&entry.op, segment.id);
        }
        Ok(())
    })?;
    Ok(scan.findings.is_empty())
}

/// The places of an operation: directory, name, and who stands there before it or after it.
fn places(op: &Operation) -> Vec<(Ino, &[u8], Ino)> {
    let (Some((dir, name)), Some(ino)) = (op.names().0, op.ino()) else { return Vec::new() };
    let mut all = vec![(dir, name, ino)];
    if let Operation::Rename(rename) = op {
        let to = (rename.to_dir, &*rename.to_name);
        all.push((to.0, to.1, ino));
        match rename.mode {
            RenameMode::Free => {}
            RenameMode::Replace(other) => all.push((to.0, to.1, other)),
            RenameMode::Exchange(other) => all.extend([(to.0, to.1, other), (dir, name, other)]),
        }
    }
    all
}

/// Looks for paths, each as it was when the record was written.
pub(super) fn at_paths(core: &Core, paths: &[Vec<u8>]) -> Result<Logged> {
    let mut found = Logged { named: vec![false; paths.len()], ..Logged::default() };
    let mut names = Names::on(Arc::clone(&core.storage), core.layout.clone(), core.store);
    let last = |path: &[u8]| path.rsplit(|b| *b == b'/').next().map_or_else(Vec::new, <[u8]>::to_vec);
    let wanted: Vec<Vec<u8>> = paths.iter().map(|path| last(path)).collect();
    let whole = each(core, &mut |op, segment| {
        for (dir, name, ino) in places(op) {
            found.contents.entry(dir).or_default().insert(ino);
            for (n, _) in wanted.iter().enumerate().filter(|(_, wanted)| **wanted == name) {
                let path = names.join(dir, name);
                found.names_unknown |= path.is_none();
                if path.as_ref().is_none_or(|path| paths.get(n) == Some(path)) {
                    found.segments.insert(segment);
                    found.named.iter_mut().skip(n).take(1).for_each(|named| *named = true);
                    // Who only may have stood there keeps what it is.
                    found.inodes.extend(path.map(|_| ino));
                }
            }
        }
        names.learn(op);
    })?;
    found.whole = whole;
    found.names_unknown |= names.lacks_base();
    Ok(found)
}

/// Adds the segments with operations on any of `inodes`.
pub(super) fn add_segments(core: &Core, inodes: &BTreeSet<Ino>, segments: &mut BTreeSet<SegmentId>) -> Result<()> {
    each(core, &mut |op, segment| {
        let on = op.ino().is_some_and(|ino| inodes.contains(&ino));
        if on || places(op).iter().any(|(dir, _, ino)| inodes.contains(dir) || inodes.contains(ino)) {
            segments.insert(segment);
        }
    })?;
    Ok(())
}

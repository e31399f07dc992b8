//! A window in which several sessions worked becomes several versions ([`super::sessions`] says which operations go into which): here their
//! states are made, one after the other, on a tree of their own that reads the window from the log again. The last of these states must be
//! the one that the log gives, or the window stays one version.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use super::core::{Core, Item, for_each_item};
use super::group::{Group, GroupLimits};
use super::pace::{Pace, Paced};
use super::sessions::{OPERATIONS_MAX, Part, Separator};
use crate::error::Result;
use crate::ids::{BlobId, Ino, Lsn, Time};
use crate::op::ProcessKey;
use crate::tree::{ApplyError, BlobRead, Tree, TreeError};
use crate::versions::coalesce::{self, NetChange, coalesce};
use crate::versions::node::FileKind;
use crate::versions::version_log::ProcessLabel;

/// A state that is to be a version.
#[derive(Debug)]
pub(super) struct Piece {
    /// Root blob of its state.
    pub root: BlobId,
    /// Root blob of the version before.
    pub before: Option<BlobId>,
    /// What differs between the two.
    pub changes: Vec<NetChange>,
    /// Clamped time of its first operation.
    pub begin: Time,
    /// Clamped time of its last operation.
    pub end: Time,
    /// Operations that change something.
    pub operations: u64,
    /// Bytes written.
    pub bytes: u64,
    /// Who did them.
    pub processes: BTreeSet<ProcessKey>,
}

/// The state before a window.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start {
    /// Its root blob; `None` for the empty state of a new project.
    pub root: Option<BlobId>,
    /// The number that the next new inode gets.
    pub next_ino: Ino,
    /// The last record that it holds.
    pub lsn: Lsn,
    /// The highest clamped time in it.
    pub clock: Time,
}

/// A window, and what is known of it.
#[derive(Debug)]
pub(super) struct Window<'a> {
    pub(super) core: &'a Core,
    pub(super) pace: &'a Pace<'a>,
    pub(super) limits: &'a GroupLimits,
    pub(super) group: &'a Group,
    /// Who worked in it.
    pub(super) busy: &'a BTreeMap<ProcessKey, ProcessLabel>,
    /// The state before it.
    pub(super) start: Start,
}

impl Window<'_> {
    /// May there be several versions in it? Told without reading the log again.
    fn is_shared(&self) -> bool {
        let mut sessions = self.busy.values().map(|process| process.session);
        let first = sessions.next();
        let several = sessions.any(|session| Some(session) != first);
        let restore = self.group.linked || self.group.restored.is_some();
        several && !restore && self.limits.parts > 1 && self.group.operations <= OPERATIONS_MAX
    }

    /// The versions that it becomes, when there are several: two or more, the last of which has the state `end`; else none. `tree` is the
    /// tree at its end, `before` the state of the last version.
    ///
    /// # Errors
    /// What reading the log or the states says, or storing.
    pub(super) fn separate(&self, tree: &mut Tree, before: Option<BlobId>, end: &BlobId) -> Result<Vec<Piece>> {
        if !self.is_shared() {
            return Ok(Vec::new());
        }
        let parts = self.parts(tree)?;
        if parts.len() < 2 {
            return Ok(Vec::new());
        }
        let pieces = self.pieces(Arc::clone(tree.blobs()), &parts, before)?;
        match pieces.last() {
            Some(last) if last.root == *end => Ok(if pieces.len() > 1 { pieces } else { Vec::new() }),
            Some(_) => {
                // Seldom: content that was cut twice may be cut elsewhere than content that was cut once.
                tracing::debug!("records {} to {} stay one version: by parts they give another state", self.group.first, self.group.last);
                Ok(Vec::new())
            }
            None => Ok(Vec::new()),
        }
    }

    /// Reads what the window's operations touch.
    fn parts(&self, tree: &mut Tree) -> Result<Vec<Part>> {
        let mut separator = Separator::new(self.limits.idle, self.limits.parts);
        let mut is_dir = |ino: Ino| match tree.inode(ino) {
            Ok(inode) => Ok(inode.kind == FileKind::Directory),
            // Gone meanwhile: it may have been one.
            Err(TreeError::NoInode(_)) => Ok(true),
            Err(e) => Err(e.into()),
        };
        self.each((self.group.first, self.group.last), &mut |item| {
            if let Item::Operation { lsn, entry, .. } = item {
                let session = self.busy.get(&entry.stamp.process).map_or(0, |process| process.session);
                separator.add(lsn, &entry, session, &mut is_dir)?;
                self.pace.rest(lsn);
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(separator.finish())
    }

    fn each(&self, range: (Lsn, Lsn), take: &mut dyn FnMut(Item) -> Result<ControlFlow<()>>) -> Result<()> {
        for_each_item(&*self.core.storage, &self.core.layout, self.core.store, range, take).map(drop)
    }

    /// The states of the parts. One that changes nothing that has a name is no version, its operations count in the next one.
    fn pieces(&self, blobs: Arc<dyn BlobRead>, parts: &[Part], mut before: Option<BlobId>) -> Result<Vec<Piece>> {
        let Start { root, next_ino, lsn, clock } = self.start;
        let mut tree = Tree::open(Arc::clone(&blobs), root, next_ino, lsn, clock)?;
        tree.allow_reordering();
        let (mut pieces, mut open): (Vec<Piece>, Option<Piece>) = (Vec::new(), None);
        for part in parts {
            if let Err(misfit) = self.apply(&mut tree, part)? {
                tracing::warn!("records {} to {} stay one version: {misfit}", self.group.first, self.group.last);
                return Ok(Vec::new());
            }
            let made = coalesce(&mut tree, &Paced { pace: self.pace, done: self.group.last, tight: false }, before.as_ref());
            let listed = made.and_then(|made| Ok((made.committed.root, self.core.with_history(&mut tree, made.changes)?)));
            let (root, changes) = match listed {
                Ok(listed) => listed,
                // No damage: every blob of it was read or made just now.
                Err(misfit @ (TreeError::NoInode(_) | TreeError::NotDirectory(_) | TreeError::NotFile(_))) => {
                    tracing::warn!("records {} to {} stay one version: {misfit}", self.group.first, self.group.last);
                    return Ok(Vec::new());
                }
                Err(e) => return Err(e.into()),
            };
            let Part { begin, end, operations, bytes, processes, .. } = part.clone();
            let mut piece = Piece { root, before, changes, begin, end, operations, bytes, processes };
            if let Some(earlier) = open.take() {
                piece.take_in(&earlier);
            }
            if piece.changes.iter().any(|change| change.is_notable) {
                before = Some(piece.root);
                pieces.push(piece);
            } else {
                open = Some(piece);
            }
        }
        // None follows the last: it counts in the one before.
        if let Some(rest) = open {
            match pieces.last_mut() {
                Some(last) => {
                    last.root = rest.root;
                    let changes = coalesce::between(&*blobs, last.before.as_ref(), &rest.root)?;
                    last.changes = self.core.with_history(&mut tree, changes)?;
                    last.take_in(&rest);
                }
                None => pieces.push(rest),
            }
        }
        // A part that lists nothing would be no version, and the window is whole or none.
        if pieces.iter().any(|piece| coalesce::listed(&piece.changes).is_empty()) {
            return Ok(Vec::new());
        }
        Ok(pieces)
    }

    /// Applies the operations of a part; the inner error is that one of them does not fit.
    fn apply(&self, tree: &mut Tree, part: &Part) -> Result<Result<(), ApplyError>> {
        let (Some(first), Some(last)) = (part.lsns.first(), part.lsns.last()) else { return Ok(Ok(())) };
        let mut wanted = part.lsns.iter().peekable();
        let mut fits = Ok(());
        self.each((*first, *last), &mut |item| {
            if let Item::Operation { lsn, entry, payload, .. } = item
                && wanted.next_if_eq(&&lsn).is_some()
            {
                match tree.apply(lsn, &entry, payload) {
                    Ok(()) => self.pace.rest(lsn),
                    Err(misfit @ ApplyError::Misfit { .. }) => {
                        fits = Err(misfit);
                        return Ok(ControlFlow::Break(()));
                    }
                    Err(e) => return Err(e.into()),
                }
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(fits)
    }
}

impl Piece {
    /// Counts another one's operations too.
    fn take_in(&mut self, other: &Piece) {
        self.begin = self.begin.min(other.begin);
        self.end = self.end.max(other.end);
        self.operations += other.operations;
        self.bytes += other.bytes;
        self.processes.extend(other.processes.iter().copied());
    }
}

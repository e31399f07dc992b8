//! Makes versions again from the log and holds them against those that are kept: the state of the version before, with the records of the
//! version carried out on it, is stored in memory, and its root compared. So is the checkpoint's, from the newest version and what follows it.
//!
//! What the log no longer holds whole, or where it is damaged, is passed over; so are parts of a window that are no moment of the log (the last
//! part is one). Thinning keeps every version after which the log goes on, and whole, so paths without history are in both or neither.
//! Where content is cut makes no difference (`versions::check::same`): a full disk, or a stretch of the log that became no version, may have cut
//! it otherwise.
//!
//! Memory: what one version changed, as in the daemon that made it (a restore of many files is one version), at most [`RESIDENT`] inodes
//! besides, and [`HELD`] bytes of blobs that the store does not have. What takes more is not compared, and a note says so.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::finding::{Finding, Part};
use super::{Affected, Look};
use crate::blobs::Blobs;
use crate::engine::adapters::BlankedStore;
use crate::engine::core::{Item, for_each_item};
use crate::engine::purge;
use crate::error::{Class, Error, Result};
use crate::ids::{BlobId, Ino, Lsn, Time, VersionSeq};
use crate::op::Operation;
use crate::tree::{BlobRead, BlobWrite, Cut, Tree, TreeError};
use crate::versions::check::log::{VersionSeen, VersionsReport};
use crate::versions::check::same::{Differing, differing};
use crate::versions::checkpoint;
use crate::versions::scratch::Scratch;
use crate::versions::version_log::{Mode, VersionLog};
use crate::wal::first_lsn;
use crate::wal::verify::VerifyReport;

/// Without `--deep` the newest versions are made again, up to so many operations and bytes written.
const OPERATIONS: u64 = 100_000;
const BYTES: u64 = 256 << 20;
/// Bytes held of blobs that the store does not have, unless [`super::Options`] say otherwise.
pub(super) const HELD: u64 = 128 << 20;
/// A tree with more inodes in memory, or blobs, begins anew after a version.
const RESIDENT: usize = 100_000;
const HELD_ON: u64 = 16 << 20;

/// What is made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    Version(VersionSeq),
    Checkpoint,
}

/// A stretch of the log, the state before it and the one that it should come to.
#[derive(Clone, Copy, Debug)]
struct Window {
    whose: Whose,
    before: Option<BlobId>,
    /// The version of the state before it.
    base: Option<VersionSeq>,
    first: Lsn,
    last: Lsn,
    root: BlobId,
    /// Operations, and bytes written.
    work: (u64, u64),
}

/// What operations, and bytes written, count for a bar of bytes.
fn weight(operations: u64, bytes: u64) -> u64 {
    bytes.saturating_add(operations.saturating_mul(512))
}

/// How one of them ended.
enum Outcome {
    Same,
    Differs(Differing),
    /// More than may be held.
    Large,
    Failed(Error),
}

/// Takes what the store lacks into memory.
#[derive(Debug)]
struct Fresh {
    store: Arc<Blobs>,
    scratch: Scratch,
    held: AtomicU64,
    /// It takes no more.
    limit: u64,
    /// Whether large writes stay the blobs that they are, as on a full disk.
    tight: bool,
}

impl Fresh {
    fn new(look: &Look<'_>, tight: bool) -> Arc<Self> {
        let store = Arc::clone(&look.blobs);
        let below = Arc::new(BlankedStore(Arc::clone(&store)));
        Arc::new(Self { store, scratch: Scratch::over(below), held: AtomicU64::new(0), limit: look.held, tight })
    }

    /// The tree with this state, before record `first`.
    fn open(self: &Arc<Self>, root: Option<BlobId>, first: Lsn) -> Result<Tree, TreeError> {
        // No number is given out here, and no time: the log says both.
        Tree::open(Arc::clone(self) as _, root, Ino(2), Lsn(first.0.saturating_sub(1)), Time::default())
    }
}

impl BlobRead for Fresh {
    fn get(&self, id: &BlobId) -> Result<Vec<u8>, TreeError> {
        self.scratch.get(id)
    }

    fn read_at(&self, id: &BlobId, offset: u64, buf: &mut [u8]) -> Result<(), TreeError> {
        self.scratch.read_at(id, offset, buf)
    }
}

impl BlobWrite for Fresh {
    fn put(&self, bytes: &[u8]) -> Result<BlobId, TreeError> {
        let id = BlobId::of(bytes);
        if matches!(self.store.contains(&id), Ok(Some(_))) {
            return Ok(id);
        }
        let len = bytes.len() as u64;
        if self.held.fetch_add(len, Ordering::Relaxed).saturating_add(len) > self.limit {
            return Err(TreeError::Blob { id, why: "that is more than is held in memory".to_owned(), damaged: false, full: true });
        }
        self.scratch.put(bytes)
    }

    fn known_cut(&self, id: &BlobId) -> Option<(Cut, u32)> {
        let len = if self.tight { self.store.contains(id).ok().flatten()? } else { return None };
        u32::try_from(len).ok().map(|len| (Cut::Whole, len))
    }
}

/// Stretches that follow one another, on one tree.
struct Run<'l, 'a> {
    look: &'l Look<'a>,
    windows: std::iter::Copied<std::slice::Iter<'l, Window>>,
    /// The one that is being made, and its tree; none when the tree could not be made.
    now: Option<Window>,
    fresh: Arc<Fresh>,
    tree: Result<Tree, Error>,
    ended: Vec<(Window, Outcome)>,
}

/// How many of these (operations and bytes written), from the last one back, are made again without `--deep`.
fn newest(work: impl DoubleEndedIterator<Item = (u64, u64)>) -> usize {
    let (mut operations, mut bytes) = (0u64, 0u64);
    work.rev()
        .take_while(|work| {
            (operations, bytes) = (operations.saturating_add(work.0), bytes.saturating_add(work.1));
            operations <= OPERATIONS && bytes <= BYTES
        })
        .count()
}

impl Look<'_> {
    /// Makes versions again, and the checkpoint.
    pub(super) fn rebuild(&mut self, versions: &VersionsReport, log: &VerifyReport, progress: &mut super::Progress<'_>) -> Result<()> {
        if !matches!(purge::is_unfinished(&**self.storage, self.layout, self.store), Ok(false)) {
            return Ok(());
        }
        let Some(oldest) = self.oldest() else { return Ok(()) };
        let sound = |w: &Window| w.first >= oldest && !log.findings.iter().any(|f| f.lsn <= w.last && f.through >= w.first);
        let mut windows: Vec<Window> = self.windows(&versions.versions).into_iter().filter(sound).collect();
        let all = windows.len();
        if !self.deep {
            let newest = newest(windows.iter().map(|w| w.work));
            windows.drain(..all - newest);
            self.report.passed_over = (all - newest) as u64;
        }
        let (mut ended, mut done) = (Vec::new(), 0u64);
        let total = |windows: &[Window]| windows.iter().fold(0u64, |sum, w| sum.saturating_add(weight(w.work.0, w.work.1)));
        let all = total(&windows);
        progress(0, all);
        for run in windows.chunk_by(|a, b| b.first == a.last.next()) {
            let end = self.make(run, &mut |at| progress(done.saturating_add(at).min(all), all))?;
            ended.extend(end);
            done = done.saturating_add(total(run));
            progress(done, all);
        }
        for (window, outcome) in ended {
            self.tell(&window, outcome)?;
        }
        Ok(())
    }

    /// The first record of the log. Where it cannot be told, the scan has said why.
    fn oldest(&self) -> Option<Lsn> {
        first_lsn(&**self.storage, &self.layout.wal(), self.store).ok().flatten()
    }

    /// Every window of the version log with the state before it, oldest first; then the checkpoint.
    fn windows(&self, versions: &[VersionSeen]) -> Vec<Window> {
        let mut windows = Vec::new();
        let (mut before, mut work): (Option<VersionSeen>, (u64, u64)) = (None, (0, 0));
        for version in versions {
            work = (work.0 + version.work.0, work.1 + version.work.1);
            // The state of a version whose record is lost is known from the next one's.
            if version.part.0 != version.part.1 {
                continue;
            }
            let goes_on = before.map_or(Lsn(1), |b| b.last.next()) == version.covers;
            if version.sound && goes_on {
                windows.push(Window {
                    whose: Whose::Version(version.seq),
                    before: before.map(|b| b.root),
                    base: before.map(|b| b.seq),
                    first: version.covers,
                    last: version.last,
                    root: version.root,
                    work,
                });
            }
            (before, work) = (Some(*version), (0, 0));
        }
        if let Some(checkpoint) = &self.checkpoint
            && let Some(root) = checkpoint.root
            && before.map_or(VersionSeq(0), |b| b.seq) == checkpoint.version
        {
            let first = before.map_or(Lsn(1), |b| b.last.next());
            let (before, base) = (before.map(|b| b.root), before.map(|b| b.seq));
            // Without records between the two, the states are the same, which is checked elsewhere.
            if first <= checkpoint.lsn {
                windows.push(Window { whose: Whose::Checkpoint, before, base, first, last: checkpoint.lsn, root, work: (0, 0) });
            }
        }
        windows
    }

    /// Reads stretches that follow one another.
    fn make(&self, windows: &[Window], progress: &mut dyn FnMut(u64)) -> Result<Vec<(Window, Outcome)>> {
        let (Some(first), Some(last)) = (windows.first(), windows.last()) else { return Ok(Vec::new()) };
        let fresh = Fresh::new(self, false);
        let tree = fresh.open(first.before, first.first).map_err(Error::from);
        let mut rest = windows.iter().copied();
        let now = rest.next();
        let mut run = Run { look: self, windows: rest, now, fresh, tree, ended: Vec::new() };
        let mut at = 0u64;
        let read = for_each_item(&**self.storage, self.layout, self.store, (first.first, last.last), &mut |item| {
            if let Item::Operation { lsn, entry, payload, .. } = item {
                while run.now.is_some_and(|w| lsn > w.last) {
                    run.finish();
                }
                let written = if let Operation::Write(write) = &entry.op { write.data.len() } else { 0 };
                at = at.saturating_add(weight(1, written));
                progress(at);
                if let Ok(tree) = &mut run.tree
                    && let Err(e) = tree.apply(lsn, &entry, payload)
                {
                    run.tree = Err(e.into());
                }
            }
            Ok(ControlFlow::Continue(()))
        });
        match read {
            Ok(seen) => {
                while run.now.is_some_and(|w| w.last <= seen) {
                    run.finish();
                }
            }
            Err(e) => run.ended.extend(run.now.map(|window| (window, Outcome::Failed(e)))),
        }
        Ok(run.ended)
    }

    /// Reads a window on a tree of its own; large writes stay what they are. Gives the root that it comes to.
    fn again(&self, window: &Window) -> Result<BlobId> {
        let fresh = Fresh::new(self, true);
        let mut tree = fresh.open(window.before, window.first)?;
        for_each_item(&**self.storage, self.layout, self.store, (window.first, window.last), &mut |item| {
            if let Item::Operation { lsn, entry, payload, .. } = item {
                tree.apply(lsn, &entry, payload)?;
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(tree.commit(&*fresh)?.root)
    }

    /// Is everything still there that was compared? A writer may have pruned, thinned or replayed meanwhile.
    fn stands(&self, window: &Window) -> bool {
        let Ok(now) = checkpoint::read(&**self.storage, &self.layout.checkpoint(), self.store) else { return true };
        let keep = now.as_ref().map(|c| c.version);
        let mode = Mode::ReadOnly { keep_up_to: keep };
        let Ok(log) = VersionLog::open(Arc::clone(self.storage), self.layout.versions(), self.store, mode) else { return true };
        let is = |seq: VersionSeq, root: BlobId| log.get(seq).is_ok_and(|v| v.is_some_and(|v| v.root == root));
        let root = match window.whose {
            Whose::Version(seq) => is(seq, window.root),
            Whose::Checkpoint => now.is_some_and(|c| c.root == Some(window.root) && c.lsn == window.last),
        };
        let base = window.base.zip(window.before).is_none_or(|(seq, root)| is(seq, root));
        root && base && self.oldest().is_some_and(|oldest| oldest <= window.first)
    }

    /// Says what became of a window.
    fn tell(&mut self, window: &Window, outcome: Outcome) -> Result<()> {
        let name = match window.whose {
            Whose::Version(seq) => format!("version {seq}"),
            Whose::Checkpoint => "the checkpoint".to_owned(),
        };
        let (what, verdict, differing) = match outcome {
            Outcome::Same => {
                self.report.rebuilt += 1;
                return Ok(());
            }
            _ if !self.stands(window) => return Ok(()),
            Outcome::Large => {
                self.report.notes.push(format!("{name} was not made again from the log: that takes too much memory"));
                return Ok(());
            }
            Outcome::Failed(e) if e.class == Class::Io => {
                (format!("it cannot be made again: {}", e.message), super::Verdict::IoError, None)
            }
            Outcome::Failed(e) => {
                // What it needs is damaged, and has been told of.
                if self.report.findings.iter().any(|f| matches!(f.part, Part::Log | Part::Pack | Part::State)) {
                    return Ok(());
                }
                (format!("the log does not fit the state before it: {}", e.message), super::Verdict::Damage, None)
            }
            Outcome::Differs(differing) => {
                self.report.rebuilt += 1;
                let before = window.base.map_or("nothing".to_owned(), |seq| format!("version {seq}"));
                let what = format!("what the log gives from {before} on is another state");
                (what, super::Verdict::Damage, Some(differing))
            }
        };
        let newest = self.checkpoint.as_ref().is_some_and(|c| c.root == Some(window.root));
        let file = if window.whose == Whose::Checkpoint { self.layout.checkpoint() } else { self.layout.versions() };
        let mut finding =
            Finding::new(verdict, Part::Replay, &file, format!("{name}, records {} to {}: {what}", window.first, window.last));
        (finding.lsn, finding.through) = (Some(window.first), Some(window.last));
        let Differing { paths, files } = differing.unwrap_or_default();
        let versions = if let Whose::Version(seq) = window.whose { Some((seq, seq)) } else { None };
        finding.affected = Affected { paths, files, versions, count: u64::from(versions.is_some()), newest, ..Affected::default() };
        self.report.findings.push(finding);
        Ok(())
    }
}

impl Run<'_, '_> {
    /// The log of the window has been read: compares, and begins the next one.
    fn finish(&mut self) {
        let Some(window) = self.now.take() else { return };
        self.now = self.windows.next();
        let made = match std::mem::replace(&mut self.tree, Err(Error::new(Class::Failed, "nothing was read"))) {
            Ok(mut tree) => match tree.commit(&*self.fresh) {
                Ok(committed) => Ok((committed.root, tree)),
                Err(e) => Err(e.into()),
            },
            Err(e) => Err(e),
        };
        let outcome = match made {
            Ok((root, tree)) if root == window.root => {
                if tree.resident() < RESIDENT && self.fresh.held.load(Ordering::Relaxed) < HELD_ON {
                    self.tree = Ok(tree);
                }
                Outcome::Same
            }
            Err(e) if e.class != Class::Full => Outcome::Failed(e),
            made => match self.look.again(&window) {
                Ok(root) if root == window.root => Outcome::Same,
                _ => match made {
                    Ok((root, _)) => match differing(&(Arc::clone(&self.fresh) as Arc<dyn BlobRead>), &root, &window.root) {
                        Ok(differing) if differing.is_none() => Outcome::Same,
                        Ok(differing) => Outcome::Differs(differing),
                        Err(e) => Outcome::Failed(e.into()),
                    },
                    Err(_) => Outcome::Large,
                },
            },
        };
        self.ended.push((window, outcome));
        if self.tree.is_err()
            && let Some(next) = &self.now
        {
            self.fresh = Fresh::new(self.look, false);
            self.tree = self.fresh.open(next.before, next.first).map_err(Error::from);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_deep_the_newest_are_made_again_as_far_as_that_takes_little() {
        let of = |work: &[(u64, u64)]| newest(work.iter().copied());
        assert_eq!(of(&[]), 0);
        assert_eq!(of(&[(1, 1); 5]), 5);
        assert_eq!(of(&[(OPERATIONS, 0), (1, 0), (1, 0)]), 2);
        assert_eq!(of(&[(1, 1), (1, BYTES), (0, 0)]), 2);
        assert_eq!(of(&[(1, 1), (1, u64::MAX), (1, 1)]), 1);
        assert_eq!(of(&[(1, 1), (1, BYTES + 1)]), 0, "not even the last one");
    }
}

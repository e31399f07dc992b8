//! Thinning: when a store has become too large, the log goes first, then versions, then the blobs that nothing names any more.
//!
//! Which versions go is decided by `versions::thinning`; here it is done, a batch at a time: the version log is written anew without them,
//! the packs are swept, and it is looked whether that was enough. Replay is held meanwhile, and goes on between two batches. Paths
//! without history are taken out of versions the same way: their roots become others.
//!
//! As long as the log holds the operations after a version, that version stays, and whole: with it single operations can be gone back to.
//!
//! A crash at any step leaves the old version log or the new one, and blobs that the next sweep takes. Who reads a version that goes gets
//! an error that says so ([`super::states::Store::explain`]); a restore holds replay, so nothing goes under it.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::core::{Core, Fed};
use crate::blobs::SweepOptions;
use crate::error::Result;
use crate::ids::{BlobId, Lsn, Time, VersionSeq};
use crate::tree::BlobRead;
use crate::versions::class::{Class, ClassSettings};
use crate::versions::thinning::{Ages, Grain, Known, doomed, first_quarter};
use crate::versions::version_log::{Action, ChangeId, Version};
use crate::versions::without::Filter;
use crate::wal::prune::Limits;

/// A pack of which more than this share is garbage, in percent, is written anew when room is needed.
const GARBAGE: u8 = 10;
/// So long paths are taken out of versions before replay gets its turn.
const TURN: Duration = Duration::from_secs(2);

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// Bytes that the store may take; `None` is no limit.
    pub limit: Option<u64>,
    /// Bytes that it takes when enough was freed; at most the limit.
    pub target: u64,
    /// How densely versions stay by their age.
    pub ages: Ages,
    /// Thin by age even if the store is not too large.
    pub by_age: bool,
    /// Ages mean nothing for now.
    pub clock_jumped: bool,
    /// Only say what would be done.
    pub dry_run: bool,
}

/// A version that goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone {
    /// Its number.
    pub seq: VersionSeq,
    /// Its id.
    pub id: ChangeId,
    /// When it ended.
    pub end: Time,
}

/// What was done.
#[derive(Clone, Debug, Default)]
pub struct Thinned {
    /// Bytes of the store before, and after (with a dry run: about).
    pub size: (u64, u64),
    /// Segments that went, and the bytes of their files.
    pub log: (u64, u64),
    /// Versions that went, oldest first in each batch.
    pub gone: Vec<Gone>,
    /// Versions that are left.
    pub left: u64,
    /// The coarsest grain that was used beyond what the ages say.
    pub grain: Option<Grain>,
    /// The store is still larger than the limit, and nothing more can go.
    pub stuck: bool,
}

/// How large the store is, in bytes of disk.
pub type Size<'a> = dyn Fn() -> Result<u64> + 'a;

impl Core {
    /// Thins until the store is within the target: the log, then versions by age, then harder. `take_out` is called in between, to take
    /// paths without history out of versions. What is live, pinned, or wanted by Pijul or the log stays, however small the limit.
    ///
    /// # Errors
    /// Damage or I/O errors; what went until then was not needed.
    pub fn thin(&self, request: &Request, size: &Size<'_>, take_out: &dyn Fn() -> Result<()>) -> Result<Thinned> {
        let mut before = size()?;
        if request.limit.is_some_and(|limit| before > limit) && !request.dry_run {
            if self.pending() {
                // What no version holds yet keeps its log: no version may go in its stead.
                self.replay(true)?;
                before = size()?;
            }
            self.turn_segment()?;
        }
        let mut thinned = Thinned { size: (before, before), ..Thinned::default() };
        let over = request.limit.is_some_and(|limit| before > limit);
        let mut room = Room { core: self, request, size, freed: 0 };
        let mut oldest = self.oldest_in_log()?;
        if over {
            let limits = Limits {
                // With a size, payload counts too; this one limits nothing.
                max_size: Some(u64::MAX),
                free_up: before.saturating_sub(request.target),
                ..Limits::default()
            };
            let pruned = self.prune(limits, request.dry_run)?;
            thinned.log = pruned.dropped();
            room.freed = thinned.log.1 + pruned.segments.iter().filter(|s| s.stays.is_none()).map(|s| s.payload).sum::<u64>();
            oldest = pruned.segments.iter().find(|s| s.stays.is_some()).map_or(oldest, |s| s.range.0);
        }
        if !request.dry_run {
            take_out()?;
        }
        let mut known = self.known(Unfed::Stay, oldest)?;
        let ages = (!request.clock_jumped).then_some(&request.ages);
        let mut gone = HashSet::new();
        if request.by_age || (over && room.taken(&gone)? > request.target) {
            let going = doomed(&known, Time::now(), ages, Grain::All);
            room.drop(&mut known, &going, &mut gone, &mut thinned)?;
        }
        if over {
            room.thin_harder(&mut known, ages, &mut gone, &mut thinned)?;
            let limit = request.limit.unwrap_or(u64::MAX);
            if self.history().fed != Fed::Nothing && room.taken(&gone)? > limit {
                // Pijul lags, or fails: the limit holds all the same, and one change of its will stand for several versions.
                let before = thinned.gone.len();
                known = self.known(Unfed::Go, oldest)?;
                known.retain(|v| !gone.contains(&v.seq));
                room.thin_harder(&mut known, ages, &mut gone, &mut thinned)?;
                let unfed = thinned.gone.len() - before;
                if unfed > 0 && !request.dry_run {
                    tracing::warn!("{unfed} versions went that Pijul had not been given yet: the store was larger than max-store");
                }
            }
        }
        thinned.left = known.len() as u64;
        thinned.size.1 = room.taken(&gone)?;
        if over && thinned.size.1 > request.limit.unwrap_or(u64::MAX) && !request.dry_run {
            // The last of the garbage.
            let replayer = self.replayer();
            self.with_reserve(|| self.sweep(&replayer, SweepOptions { garbage_percent: 0, ..SweepOptions::default() }))?;
            thinned.size.1 = size()?;
        }
        if !request.dry_run {
            self.log.refill_reserve();
        }
        thinned.stuck = request.limit.is_some_and(|limit| thinned.size.1 > limit);
        Ok(thinned)
    }

    /// The oldest record that the log holds, or would hold: one without a record goes on behind the checkpoint.
    fn oldest_in_log(&self) -> Result<Lsn> {
        let oldest = crate::wal::first_lsn(&*self.storage, &self.layout.wal(), self.store)?;
        Ok(oldest.unwrap_or_else(|| self.history().checkpoint.lsn.next()))
    }

    /// All versions, as far as thinning needs to know them.
    fn known(&self, unfed: Unfed, oldest: Lsn) -> Result<Vec<Known>> {
        let history = self.history();
        let newest = history.versions.newest();
        let mut known: Vec<Known> = Vec::new();
        let mut end = Time::default();
        for version in history.versions.iter() {
            let version = version?;
            // The parts of a window may have ended in another order.
            end = end.max(version.end);
            let fed = match unfed {
                Unfed::Stay => history.fed.wants(version.seq),
                Unfed::Go => history.fed.is_from(version.seq),
            };
            let wanted = fed || is_base(&version, oldest);
            let pinned = version.label.is_some() || version.seq == newest || wanted;
            known.push(Known { seq: version.seq, end, pinned, goes_on: version.part < version.parts });
        }
        // What the checkpoint does not name yet is as good as the newest.
        for version in known.iter_mut().filter(|v| v.seq >= history.checkpoint.version) {
            version.pinned = true;
        }
        Ok(known)
    }

    /// Takes paths out of versions that their class has no history for: class none out of all but the newest, class recent out of those that
    /// ended before `recent_until`. Of the versions up to `done` (of either class) that has been done. Gives how far it is done now, and how
    /// many versions became others.
    ///
    /// # Errors
    /// Damage or I/O errors; what was done until then stays.
    pub fn take_out(&self, classes: &ClassSettings, recent_until: Option<Time>, done: Filtered) -> Result<(Filtered, u64)> {
        let mut filter = Filter::new(classes);
        let (mut done, mut changed) = (done, 0);
        let oldest = self.oldest_in_log()?;
        loop {
            let replayer = self.replayer();
            let begun = Instant::now();
            let mut roots: BTreeMap<VersionSeq, BlobId> = BTreeMap::new();
            let mut next = done;
            let mut more = false;
            let work: Vec<Version> = {
                let history = self.history();
                let newest = history.versions.newest().min(history.checkpoint.version);
                let wanted = |v: &Version| {
                    let free = v.seq < newest && !is_base(v, oldest);
                    free && (v.seq > done.none || (v.seq > done.recent && recent_until.is_some_and(|until| v.end < until)))
                };
                let numbers: Vec<VersionSeq> = history.versions.numbers().filter(|seq| *seq > done.none.min(done.recent)).collect();
                let mut work = Vec::new();
                for seq in numbers {
                    let Some(version) = history.versions.get(seq)?.filter(wanted) else { continue };
                    if work.len() >= BATCH {
                        more = true;
                        break;
                    }
                    // What it lists is not needed here, and may be long.
                    work.push(Version { paths: Vec::new(), ..version });
                }
                work
            };
            let blobs: Arc<dyn BlobRead> = Arc::clone(&self.blobs) as _;
            let mut all_old = true;
            for version in work {
                if begun.elapsed() > TURN {
                    more = true;
                    break;
                }
                let old = recent_until.is_some_and(|until| version.end < until);
                all_old &= old;
                let least = if old { Class::Keep } else { Class::Recent };
                if let Some(root) = filter.without(&blobs, &*self.blobs, &version.root, least)? {
                    roots.insert(version.seq, root);
                }
                next.none = next.none.max(version.seq);
                // The parts of a window may have ended in another order.
                if all_old {
                    next.recent = next.recent.max(version.seq);
                }
            }
            changed += roots.len() as u64;
            if !roots.is_empty() {
                self.blobs.sync()?;
                self.history().versions.rewrite(&mut |version| {
                    Ok(match roots.get(&version.seq) {
                        Some(root) => Action::Change(Version { root: *root, ..version.clone() }),
                        None => Action::Keep,
                    })
                })?;
                self.shared.forget();
            }
            drop(replayer);
            let stands = next == done;
            done = next;
            if !more || stands {
                return Ok((done, changed));
            }
        }
    }
}

/// Does somebody go on from this version in the log?
fn is_base(version: &Version, oldest: Lsn) -> bool {
    version.last.next() >= oldest
}

/// Versions looked at in one go.
const BATCH: usize = 1000;

/// Up to which versions paths without history were taken out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Filtered {
    /// Those of class none.
    pub none: VersionSeq,
    /// Those of class recent.
    pub recent: VersionSeq,
}

/// What becomes of versions that Pijul lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unfed {
    /// They stay.
    Stay,
    /// They may go, but for those that it goes on from.
    Go,
}

/// Makes room, or only reckons.
struct Room<'a> {
    core: &'a Core,
    request: &'a Request,
    size: &'a Size<'a>,
    /// Reckoned so far, in a dry run: by pruning the log.
    freed: u64,
}

impl Room<'_> {
    /// What the store takes, or in a dry run would take without these versions.
    fn taken(&self, gone: &HashSet<VersionSeq>) -> Result<u64> {
        let now = (self.size)()?;
        if !self.request.dry_run {
            return Ok(now);
        }
        let replayer = self.core.replayer();
        let mut keep = self.core.named_by_some(&replayer, &|seq| !gone.contains(&seq))?;
        self.core.named_by_log(&mut keep)?;
        let (mut kept, mut all) = (0, 0);
        self.core.blobs.each_stored(&mut |id, bytes| {
            all += bytes;
            kept += if keep.contains(id) { bytes } else { 0 };
        })?;
        // Garbage of before is there too, and goes with the rest.
        let packs = self.core.blobs.usage().pack_bytes.max(all);
        Ok(now.saturating_sub(packs - kept).saturating_sub(self.freed))
    }

    /// Thins by ever coarser grains until the target is met.
    fn thin_harder(
        &mut self,
        known: &mut Vec<Known>,
        ages: Option<&Ages>,
        gone: &mut HashSet<VersionSeq>,
        thinned: &mut Thinned,
    ) -> Result<()> {
        for grain in Grain::HARDER {
            while self.taken(gone)? > self.request.target {
                let going = doomed(known, Time::now(), ages, grain);
                if going.is_empty() {
                    break;
                }
                thinned.grain = thinned.grain.max(Some(grain));
                let batch = first_quarter(known, &going);
                self.drop(known, &batch, gone, thinned)?;
            }
        }
        Ok(())
    }

    fn drop(&mut self, known: &mut Vec<Known>, going: &[VersionSeq], gone: &mut HashSet<VersionSeq>, thinned: &mut Thinned) -> Result<()> {
        if going.is_empty() {
            return Ok(());
        }
        let drop: HashSet<VersionSeq> = going.iter().copied().collect();
        let mut lost = Vec::with_capacity(going.len());
        for seq in going {
            if let Some(version) = self.core.history().versions.get(*seq)? {
                lost.push(Gone { seq: *seq, id: version.id, end: version.end });
            }
        }
        if !self.request.dry_run {
            let dropped = self.core.with_reserve(|| {
                let replayer = self.core.replayer();
                {
                    let mut history = self.core.history();
                    let fed = history.fed;
                    if drop.iter().any(|seq| fed.is_from(*seq)) {
                        return Ok(false);
                    }
                    history.versions.rewrite(&mut |version| Ok(if drop.contains(&version.seq) { Action::Drop } else { Action::Keep }))?;
                }
                self.core.shared.forget();
                self.core.sweep(&replayer, SweepOptions { garbage_percent: GARBAGE, ..SweepOptions::default() })?;
                Ok(true)
            })?;
            if !dropped {
                // Pijul has got on meanwhile, to one of these.
                let fed = self.core.history().fed;
                known.iter_mut().filter(|v| drop.contains(&v.seq) && fed.is_from(v.seq)).for_each(|v| v.pinned = true);
                return Ok(());
            }
        }
        thinned.gone.append(&mut lost);
        known.retain(|v| !drop.contains(&v.seq));
        gone.extend(drop);
        Ok(())
    }
}

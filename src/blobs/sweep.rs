//! Sweep: drops blobs that nothing names. Closed packs only; a pack is removed after everything kept in it is durable elsewhere, so a
//! crash at any step leaves every kept blob in at least one pack (twice does no harm).

use std::collections::HashSet;
use std::io;
use std::sync::MutexGuard;

use super::append::compress;
use super::error::Doing;
use super::pack::{PACK_HEADER_LEN, Stored};
use super::{BlobError, Blobs, Finding, Place, lock};
use crate::ids::{BlobId, PackId};

/// What a sweep rewrites.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SweepOptions {
    /// A pack is written afresh when more than this share of its bytes is not kept, in percent (50). Packs of which nothing is kept go
    /// in any case.
    pub garbage_percent: u8,
}

impl Default for SweepOptions {
    fn default() -> Self {
        Self { garbage_percent: 50 }
    }
}

/// What a sweep did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SweepReport {
    /// Packs removed.
    pub packs_removed: u64,
    /// Their bytes.
    pub bytes_removed: u64,
    /// Blobs dropped.
    pub blobs_dropped: u64,
    /// Blobs copied to the last pack, out of removed ones.
    pub blobs_moved: u64,
    /// Bytes that the copies take.
    pub bytes_moved: u64,
    /// Bytes of garbage in packs that stay.
    pub garbage_left: u64,
    /// Packs that stay because something in them is damaged.
    pub packs_damaged: u64,
    /// What was found damaged on the way.
    pub findings: Vec<Finding>,
}

/// A sweep that has begun: blobs put from now on are kept. Collect the roots, then [`Sweep::run`].
#[derive(Debug)]
pub struct Sweep<'a> {
    blobs: &'a Blobs,
    candidates: Vec<PackId>,
    _one: MutexGuard<'a, ()>,
}

impl Drop for Sweep<'_> {
    fn drop(&mut self) {
        lock(&self.blobs.gate).touched = None;
    }
}

impl Blobs {
    /// [`Blobs::begin_sweep`] and [`Sweep::run`] with the usual options. `keep` must know of every put made before this call.
    ///
    /// # Errors
    /// As those.
    pub fn sweep(&self, keep: &dyn Fn(&BlobId) -> bool) -> Result<SweepReport, BlobError> {
        self.begin_sweep()?.run(keep, SweepOptions::default())
    }

    /// Begins a sweep: waits for every [`super::Hold`] (and put) that began before, and keeps what is put from now on. Read the roots
    /// after this returns. One sweep at a time; another waits.
    ///
    /// # Errors
    /// `ReadOnly`, `Poisoned`, an I/O error while the last pack is closed. A full disk is none: then the last pack is left out.
    pub fn begin_sweep(&self) -> Result<Sweep<'_>, BlobError> {
        self.check_writable()?;
        let one = lock(&self.sweeping);
        {
            let mut gate = lock(&self.gate);
            gate.touched = Some(HashSet::new());
            gate.generation += 1;
            let now = gate.generation;
            let _gate = self
                .gate_moved
                .wait_while(gate, |g| g.holds.keys().next().is_some_and(|began| *began < now))
                .unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        // From here on, dropping it ends the sweep.
        let mut sweep = Sweep { blobs: self, candidates: Vec::new(), _one: one };
        let last = lock(&self.tail).pack.as_ref().map(|p| (p.id, p.end));
        if let Some((id, end)) = last
            && end > PACK_HEADER_LEN
        {
            match self.roll(Some(id)) {
                Err(e) if e.is_full() => {}
                other => other?,
            }
        }
        let last = lock(&self.tail).pack.as_ref().map(|p| p.id);
        sweep.candidates = self.index().packs.keys().copied().filter(|id| Some(*id) != last).collect();
        Ok(sweep)
    }
}

impl Sweep<'_> {
    /// Drops the blobs of closed packs for which `keep` says no and which nobody has put since the sweep began.
    ///
    /// # Errors
    /// The first I/O error (a full disk among them); what was done until then stands, nothing kept is lost.
    pub fn run(self, keep: &dyn Fn(&BlobId) -> bool, options: SweepOptions) -> Result<SweepReport, BlobError> {
        let mut report = SweepReport::default();
        let mut by_pack: std::collections::HashMap<PackId, Vec<(BlobId, Place)>> = std::collections::HashMap::new();
        for (id, place) in &self.blobs.index().places {
            by_pack.entry(place.pack).or_default().push((*id, *place));
        }
        let mut plans = Vec::new();
        for pack in &self.candidates {
            let Some(info) = self.blobs.index().packs.get(pack).cloned() else { continue };
            let blobs = by_pack.remove(pack).unwrap_or_default();
            let (kept, dropped): (Vec<_>, Vec<_>) = blobs.into_iter().partition(|(id, _)| keep(id));
            let kept_bytes: u64 = kept.iter().map(|(id, p)| p.head(*id).total_len()).sum();
            let size = info.end.saturating_sub(PACK_HEADER_LEN);
            let garbage = size.saturating_sub(kept_bytes);
            if info.damaged {
                report.packs_damaged += 1;
                report.garbage_left += garbage;
            } else if kept.is_empty() || u128::from(garbage) * 100 > u128::from(size) * u128::from(options.garbage_percent) {
                plans.push((kept_bytes, *pack, info.end, kept, dropped));
            } else {
                report.garbage_left += garbage;
            }
        }
        // What frees space without taking any first: the disk may be full.
        plans.sort_by_key(|(kept_bytes, pack, ..)| (*kept_bytes, *pack));
        for (_, pack, end, kept, dropped) in plans {
            self.empty_pack(pack, end, kept, dropped, &mut report)?;
        }
        Ok(report)
    }

    fn empty_pack(
        &self,
        pack: PackId,
        len: u64,
        mut kept: Vec<(BlobId, Place)>,
        dropped: Vec<(BlobId, Place)>,
        report: &mut SweepReport,
    ) -> Result<(), BlobError> {
        let blobs = self.blobs;
        // A put says that a blob is in use before it asks the index: under the gate either the sweep sees that, or the put sees no blob.
        {
            let gate = lock(&blobs.gate);
            let mut index = blobs.index_mut();
            for (id, place) in dropped {
                if gate.touched.as_ref().is_some_and(|t| t.contains(&id)) {
                    kept.push((id, place));
                } else if index.places.get(&id).is_some_and(|p| p.pack == pack) {
                    index.remove(&id);
                    report.blobs_dropped += 1;
                }
            }
        }
        kept.sort_by_key(|(_, place)| place.offset);
        let mut moved = Vec::new();
        for (id, place) in kept {
            // Put again meanwhile, because the copy here was found wrong.
            if blobs.place(&id).is_none_or(|p| p.pack != pack) {
                continue;
            }
            match self.copy(&id, &place) {
                Ok(new) => {
                    report.blobs_moved += 1;
                    report.bytes_moved += new.head(id).total_len();
                    moved.push((id, new));
                }
                Err(BlobError::Damaged(finding)) => {
                    // The pack stays, for whoever tries to mend it.
                    report.findings.push(finding);
                    report.packs_damaged += 1;
                    if let Some(info) = blobs.index_mut().packs.get_mut(&pack) {
                        info.damaged = true;
                    }
                    return Ok(());
                }
                Err(e) => return Err(e),
            }
        }
        blobs.sync()?;
        {
            let mut index = blobs.index_mut();
            for (id, new) in moved {
                if index.places.get(&id).is_some_and(|p| p.pack == pack) {
                    index.insert(id, new);
                }
            }
            index.packs.remove(&pack);
        }
        lock(&blobs.handles).remove(&pack);
        let path = blobs.pack_path(pack);
        match blobs.storage.remove(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            other => other.doing("remove", &path)?,
        }
        blobs.storage.sync_dir(&blobs.dir).doing("sync the directory", &blobs.dir)?;
        report.packs_removed += 1;
        report.bytes_removed += len;
        Ok(())
    }

    /// Copies a blob to the last pack, compressed where that helps. The index still names the old place.
    fn copy(&self, id: &BlobId, place: &Place) -> Result<Place, BlobError> {
        let blobs = self.blobs;
        let file = blobs.handle(place.pack)?;
        let raw = blobs.read_whole(id, place, &file)?;
        let packed = compress(&raw);
        let (encoding, stored) = match &packed {
            Some(packed) => (Stored::Zstd, packed.as_slice()),
            None => (Stored::Raw, raw.as_slice()),
        };
        let mut tail = blobs.open_tail()?;
        let (new, end) = blobs.write_only(&mut tail, *id, encoding, place.raw_len, stored)?;
        let mut index = blobs.index_mut();
        if let Some(info) = index.packs.get_mut(&new.pack) {
            info.end = end;
        }
        Ok(new)
    }
}

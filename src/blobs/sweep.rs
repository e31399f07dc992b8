//! Sweep: drops blobs that nothing names. Closed packs only; a pack is removed after everything kept in it is durable elsewhere, so a
//! crash at any step leaves every kept blob in at least one pack (twice does no harm).

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::MutexGuard;

use super::compression::compress;
use super::error::Doing;
use super::find::{BATCH, Place};
use super::open::TMP_SUFFIX;
use super::pack::{EntryHead, PACK_HEADER_LEN, Stored, pack_file_name};
use super::{BlobError, Blobs, Fault, Finding, lock};
use crate::ids::{BlobId, PackId};

/// What a sweep rewrites.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SweepOptions {
    /// A pack is written afresh when more than this share of its bytes is not kept, in percent (50). Packs of which nothing is kept go
    /// in any case.
    pub garbage_percent: u8,
    /// Files that go are overwritten with zeros first.
    pub shred: bool,
}

impl Default for SweepOptions {
    fn default() -> Self {
        Self { garbage_percent: 50, shred: false }
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
    /// The disk was too full to close the last pack: it is left out.
    left_out: bool,
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
            gate.waits = true;
            let mut gate = self
                .gate_moved
                .wait_while(gate, |g| g.holds.keys().next().is_some_and(|began| *began < now))
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            gate.waits = false;
        }
        // From here on, dropping it ends the sweep.
        let mut sweep = Sweep { blobs: self, candidates: Vec::new(), left_out: false, _one: one };
        let last = lock(&self.tail).pack.as_ref().map(|p| (p.id, p.end));
        if let Some((id, end)) = last
            && end > PACK_HEADER_LEN
        {
            match self.roll(Some(id)) {
                Err(e) if e.is_full() => sweep.left_out = true,
                other => other?,
            }
        }
        let last = lock(&self.tail).pack.as_ref().map(|p| p.id);
        sweep.candidates = self.index().packs.keys().copied().filter(|id| Some(*id) != last).collect();
        Ok(sweep)
    }
}

fn full() -> io::Error {
    io::Error::from_raw_os_error(libc::ENOSPC)
}

impl Sweep<'_> {
    /// Whether the last pack is left out, because the disk was too full to close it.
    #[must_use]
    pub fn leaves_the_last(&self) -> bool {
        self.left_out
    }

    /// Drops the blobs of closed packs for which `keep` says no and which nobody has put since the sweep began.
    ///
    /// # Errors
    /// The first I/O error (a full disk among them); what was done until then stands, nothing kept is lost.
    pub fn run(self, keep: &dyn Fn(&BlobId) -> bool, options: SweepOptions) -> Result<SweepReport, BlobError> {
        let mut report = SweepReport::default();
        let mut plans = Vec::new();
        for pack in &self.candidates {
            let Some(info) = self.blobs.index().packs.get(pack).cloned() else { continue };
            let size = info.end.saturating_sub(PACK_HEADER_LEN);
            let (mut kept, mut kept_bytes) = (0u64, 0);
            let mut count = |entry: &EntryHead, here| {
                if here && keep(&entry.id) {
                    kept += 1;
                    kept_bytes += entry.total_len();
                }
                Ok(())
            };
            // Nothing has its place in it: it need not even be readable.
            let nothing = info.live.blobs == 0 && !info.damaged;
            let whole = match if nothing { Ok(true) } else { self.blobs.each_in(*pack, &mut count) } {
                Err(BlobError::Io { source, .. }) => {
                    let (file, fault) = (self.blobs.pack_path(*pack), Fault::Unreadable(source.kind()));
                    report.findings.push(Finding { file, offset: 0, len: info.end, id: None, fault });
                    report.packs_damaged += 1;
                    // The next sweep may be luckier.
                    continue;
                }
                other => other?,
            };
            let garbage = size.saturating_sub(kept_bytes);
            if info.damaged || !whole {
                self.keep_for_evidence(*pack, &mut report);
                report.garbage_left += garbage;
            } else if kept == 0 || u128::from(garbage) * 100 > u128::from(size) * u128::from(options.garbage_percent) {
                plans.push((kept_bytes, *pack, info.end));
            } else {
                report.garbage_left += garbage;
            }
        }
        // What frees space without taking any first: the disk may be full.
        plans.sort_unstable();
        for (kept_bytes, pack, end) in plans {
            // Copies that cannot be finished would take the room that is left for nothing.
            if kept_bytes > 0 && self.blobs.storage.available(&self.blobs.dir) < kept_bytes {
                return Err(BlobError::io(format!("copy what is kept of `{}`", self.blobs.pack_path(pack).display()), full()));
            }
            if let Err(e) = self.empty_pack(pack, end, keep, options.shred, &mut report) {
                // What was taken out of the index while the pack stays is still there for whoever opens the store next.
                let _ = self.settle(&[pack]);
                return Err(e);
            }
        }
        if report.blobs_dropped > 0 {
            let shadowing: Vec<PackId> =
                self.blobs.index().packs.iter().filter(|(_, p)| p.entries > p.live.blobs && !p.damaged).map(|(id, _)| *id).collect();
            self.settle(&shadowing)?;
        }
        Ok(report)
    }

    /// The pack stays, for whoever tries to mend it.
    fn keep_for_evidence(&self, pack: PackId, report: &mut SweepReport) {
        report.packs_damaged += 1;
        if let Some(info) = self.blobs.index_mut().packs.get_mut(&pack) {
            info.damaged = true;
        }
    }

    fn empty_pack(
        &self,
        pack: PackId,
        len: u64,
        keep: &dyn Fn(&BlobId) -> bool,
        shred: bool,
        report: &mut SweepReport,
    ) -> Result<(), BlobError> {
        let blobs = self.blobs;
        let (mut kept, mut dropped) = (Vec::new(), Vec::new());
        if blobs.index().packs.get(&pack).is_some_and(|p| p.live.blobs > 0) {
            blobs.each_in(pack, &mut |entry, here| {
                match (here, here && keep(&entry.id)) {
                    (true, true) => kept.push(*entry),
                    (true, false) => dropped.push(*entry),
                    (false, _) => {}
                }
                Ok(())
            })?;
        }
        let dropped_before = report.blobs_dropped;
        // A put says that a blob is in use before it asks the index: under the gate either the sweep sees that, or the put sees no blob.
        for batch in dropped.chunks(BATCH) {
            let gate = lock(&blobs.gate);
            let mut index = blobs.index_mut();
            for entry in batch {
                if gate.touched.as_ref().is_some_and(|t| t.contains(&entry.id)) {
                    kept.push(*entry);
                } else if index.remove(pack, entry) {
                    report.blobs_dropped += 1;
                }
            }
        }
        drop(dropped);
        kept.sort_unstable_by_key(|entry| entry.offset);
        for entry in kept {
            // Put again meanwhile, because the copy here was found wrong.
            if !blobs.index().is_at(&entry.id, pack, entry.offset) {
                continue;
            }
            match self.copy(pack, &entry) {
                Ok(new) => {
                    report.blobs_moved += 1;
                    report.bytes_moved += new.total_len();
                }
                Err(BlobError::Damaged(finding)) => {
                    report.findings.push(finding);
                    self.keep_for_evidence(pack, report);
                    report.blobs_dropped = dropped_before;
                    return self.settle(&[pack]);
                }
                Err(e) => return Err(e),
            }
        }
        blobs.sync()?;
        blobs.drop_contents(pack);
        let path = blobs.pack_path(pack);
        let gone = if shred { self.put_aside(pack, &path)? } else { path };
        let forget = || {
            blobs.index_mut().remove_packs(&[pack]);
            lock(&blobs.handles).remove(&pack);
        };
        if shred {
            // It is no pack any more, whatever becomes of the file.
            forget();
            blobs.storage.sync_dir(&blobs.dir).doing("sync the directory", &blobs.dir)?;
            match blobs.storage.open(&gone).and_then(|file| crate::engine::purge::shred(&*file)) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                other => other.doing("overwrite", &gone)?,
            }
        }
        match blobs.storage.remove(&gone) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            other => other.doing("remove", &gone)?,
        }
        forget();
        blobs.storage.sync_dir(&blobs.dir).doing("sync the directory", &blobs.dir)?;
        report.packs_removed += 1;
        report.bytes_removed += len;
        Ok(())
    }

    /// Gives a pack of which everything kept stands elsewhere, durably, another name: overwritten under its own, it would be a damaged pack.
    fn put_aside(&self, pack: PackId, path: &Path) -> Result<PathBuf, BlobError> {
        let aside = self.blobs.dir.join(format!("{}{TMP_SUFFIX}", pack_file_name(pack)));
        match self.blobs.storage.rename(path, &aside) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            other => other.doing("put aside", path)?,
        }
        Ok(aside)
    }

    /// Copies a blob to the last pack, compressed where that helps, and makes that its place: durable with the sync that comes before its
    /// old pack goes, or with that of whoever puts it until then.
    fn copy(&self, pack: PackId, entry: &EntryHead) -> Result<EntryHead, BlobError> {
        let blobs = self.blobs;
        let mut raw = Vec::new();
        let place = Place { pack, entry: *entry, verified: false, file: blobs.handle(pack)? };
        blobs.read_whole(&place, &mut raw)?;
        let packed = compress(&raw);
        let (encoding, stored) = match &packed {
            Some(packed) => (Stored::Zstd, packed.as_slice()),
            None => (Stored::Raw, raw.as_slice()),
        };
        let sums = EntryHead::sums(stored);
        let mut tail = blobs.open_tail()?;
        blobs.write_entry(&mut tail, entry.id, encoding, entry.raw_len, (stored, &sums))
    }

    /// Enters what stands in these packs and has no place: after a drop, an older copy in a pack that stays is what the next open will
    /// find, and what the index says has to be the same.
    fn settle(&self, packs: &[PackId]) -> Result<(), BlobError> {
        for pack in packs {
            let mut lost = Vec::new();
            if self.blobs.index().packs.contains_key(pack) {
                self.blobs.each_in(*pack, &mut |entry, here| {
                    if !here {
                        lost.push(*entry);
                    }
                    Ok(())
                })?;
            }
            // Nobody appends meanwhile, so that each blob is entered once.
            let _tail = lock(&self.blobs.tail);
            for entry in lost {
                self.blobs.enter(*pack, &entry, false);
            }
        }
        Ok(())
    }
}

//! Makes a log usable again that recovery refuses: cuts it where the first damage above the checkpoint begins, and keeps everything that
//! it cuts. A person decides; nothing calls this by itself.
//!
//! [`plan`] reads, and says what would be cut and which operations would be lost. [`execute`] carries it out, in this order:
//! 1. Whole copies of every file that changes or goes, to `repaired/<n>/`, synced with their directories.
//! 2. *Fresh copy* of the segment with the cut: valid prefix, and a footer with the next LSN above every LSN seen anywhere, in a new
//!    epoch. From here on a log that still has later segments contradicts itself, so that no mount takes it before the repair is run again.
//! 3. The later segments go, newest first; the directory is synced.
//!
//! After a crash in any of these the next [`plan`] finds what is left to do. What is at or below the checkpoint is in the base and stays
//! there; segments wholly at or below it stay as they are, damaged or not.

use std::io;
use std::path::{Path, PathBuf};

use crate::ids::{Lsn, SegmentId, StoreId, Time};
use crate::storage::Storage;

use super::error::{Result, WalContext, WalError};
use super::format::{EPOCH_JUMP, Footer, HEADER_LEN, Header, Predecessor, repaired_dir, segment_path};
use super::mend::{self, Prefix};
use super::reader::Record;
use super::scan::{Bounds, Finding, LogScan, SegmentInfo, Verdict, walk};

/// Lost records that a plan holds; more are only counted.
pub const MAX_LOST_SHOWN: usize = 10_000;

/// Where the log would end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepairCut {
    /// The segment's file.
    pub file: PathBuf,
    /// Its number.
    pub segment: SegmentId,
    /// Where in it: what is before stays.
    pub offset: u64,
    /// First LSN that is lost.
    pub lsn: Lsn,
    /// Bytes of this file that are cut, zeros at its end not counted.
    pub bytes: u64,
}

/// A record that can still be read, but stands behind the cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostRecord {
    /// Its LSN.
    pub lsn: Lsn,
    /// Kind of operation.
    pub kind: u16,
    /// Version of the body's form.
    pub version: u8,
    /// Its segment.
    pub segment: SegmentId,
    /// Where in the segment's file.
    pub offset: u64,
    /// Its body.
    pub body: Vec<u8>,
}

/// What a repair would do.
#[derive(Clone, Debug, Default)]
pub struct Repair {
    /// Everything wrong with the log, also what a mount takes as it is.
    pub findings: Vec<Finding>,
    /// Where the log would be cut.
    pub cut: Option<RepairCut>,
    /// Segments behind the cut, with their files and lengths in bytes: they are moved away whole.
    pub set_aside: Vec<(SegmentId, PathBuf, u64)>,
    /// The first [`MAX_LOST_SHOWN`] records behind the cut that can still be read; marks are none.
    pub lost: Vec<LostRecord>,
    /// How many there are.
    pub lost_count: u64,
    /// False when nothing would be cut: a mount takes the log as it is.
    pub needed: bool,
    /// The last segment that stays, as it was read; `None` when none can.
    kept: Option<SegmentInfo>,
    /// Everything up to here is in the base.
    checkpoint: Lsn,
    /// Proven durable by the log.
    bound: Lsn,
    /// Highest LSN and epoch named anywhere.
    highest: Lsn,
    epoch: u64,
}

/// What a repair did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repaired {
    /// Where the copies are.
    pub saved: PathBuf,
    /// LSN that the next record gets.
    pub next_lsn: Lsn,
}

/// Decides where the log in `dir` must be cut for a mount to take it. `blob` says of a record above the proven bound whether the blobs it
/// names are sound; the first for which it says no is where the log is cut, as recovery does it. Reads only.
///
/// # Errors
/// A segment that this code must not read, the directory cannot be listed, or an error of `blob`. Damage and files that cannot be read are
/// findings.
pub fn plan(
    storage: &dyn Storage,
    dir: &Path,
    store: StoreId,
    bounds: Bounds,
    blob: &mut dyn FnMut(&Record<'_>) -> io::Result<bool>,
) -> Result<Repair> {
    let scan = walk(storage, dir, store, bounds, &mut |_, _| Ok(()))?;
    let mut repair = Repair {
        findings: scan.findings.clone(),
        checkpoint: bounds.checkpoint,
        bound: scan.bound,
        highest: highest(&scan, bounds.checkpoint),
        epoch: scan.epoch.max(1),
        ..Repair::default()
    };
    let found = scan.findings.iter().find(|f| f.through > bounds.checkpoint).map(Place::of);
    let place = match found {
        Some(place) => Some(place),
        None => unsound_blob(storage, dir, store, bounds, &scan, blob)?,
    };
    let Some(place) = place else { return Ok(repair) };
    repair.needed = true;
    let keeps = |s: &&SegmentInfo| s.id < place.segment || (s.id == place.segment && place.offset > HEADER_LEN as u64);
    repair.kept = scan.segments.iter().rev().find(keeps).cloned();
    let in_kept = repair.kept.as_ref().is_some_and(|k| k.id == place.segment);
    let length = |id: SegmentId| scan.segments.iter().find(|s| s.id == id).map_or(0, |s| s.bytes);
    let bytes =
        if in_kept { used(storage, &segment_path(dir, place.segment))?.saturating_sub(place.offset) } else { length(place.segment) };
    repair.cut =
        Some(RepairCut { file: segment_path(dir, place.segment), segment: place.segment, offset: place.offset, lsn: Lsn::ZERO, bytes });
    let (ids, _) = super::scan::list(storage, dir)?;
    let last_kept = repair.kept.as_ref().map_or(SegmentId(0), |k| k.id);
    for id in ids.into_iter().filter(|id| *id > last_kept && *id >= bounds.floor) {
        let path = segment_path(dir, id);
        let len = storage.open_read(&path).and_then(|f| f.len()).unwrap_or(0);
        repair.set_aside.push((id, path, len));
    }
    let mut last_kept = bounds.checkpoint;
    walk(storage, dir, store, bounds, &mut |record, segment| {
        if (segment.id, record.offset) < (place.segment, place.offset) {
            last_kept = last_kept.max(record.lsn);
        } else if !record.is_mark() {
            repair.lost_count += 1;
            if repair.lost.len() < MAX_LOST_SHOWN {
                repair.lost.push(LostRecord {
                    lsn: record.lsn,
                    kind: record.kind,
                    version: record.version,
                    segment: segment.id,
                    offset: record.offset,
                    body: record.body.to_vec(),
                });
            }
        }
        Ok(())
    })?;
    if let Some(cut) = &mut repair.cut {
        cut.lsn = last_kept.next();
    }
    Ok(repair)
}

/// Where the log would end: the first byte that does not stay.
#[derive(Clone, Copy, Debug)]
struct Place {
    segment: SegmentId,
    offset: u64,
}

impl Place {
    fn of(finding: &Finding) -> Self {
        // A finding in a header, or of a file that is not there, concerns the whole segment.
        Self { segment: finding.segment, offset: if finding.offset < HEADER_LEN as u64 { 0 } else { finding.offset } }
    }
}

fn highest(scan: &LogScan, checkpoint: Lsn) -> Lsn {
    let named = scan.segments.iter().map(|s| {
        let footer = s.footer.as_ref().map_or(Lsn::ZERO, |f| Lsn(f.next_lsn.0 - 1));
        s.last_lsn.max(footer).max(s.header.as_ref().map_or(Lsn::ZERO, |h| h.first_lsn))
    });
    named.max().unwrap_or_default().max(checkpoint).max(Lsn(scan.next_lsn.0.saturating_sub(1)))
}

fn unsound_blob(
    storage: &dyn Storage,
    dir: &Path,
    store: StoreId,
    bounds: Bounds,
    scan: &LogScan,
    blob: &mut dyn FnMut(&Record<'_>) -> io::Result<bool>,
) -> Result<Option<Place>> {
    let mut place = None;
    walk(storage, dir, store, bounds, &mut |record, segment| {
        if place.is_none()
            && record.lsn > scan.bound
            && !record.is_mark()
            && !blob(record).wal(|| format!("cannot check the blobs of LSN {}", record.lsn))?
        {
            place = Some(Place { segment: segment.id, offset: record.offset });
        }
        Ok(())
    })?;
    Ok(place)
}

/// Length of a file without the zeros at its end.
fn used(storage: &dyn Storage, path: &Path) -> Result<u64> {
    let bytes = mend::read(storage, path)?;
    Ok(bytes.iter().rposition(|b| *b != 0).map_or(0, |at| at as u64 + 1))
}

/// Carries out a plan. The caller holds the project's lock, and has asked.
///
/// # Errors
/// I/O errors. Nothing is changed before every copy is safe; after an error in the middle, plan and execute once more.
pub fn execute(storage: &dyn Storage, dir: &Path, store: StoreId, repair: &Repair) -> Result<Repaired> {
    let Some(cut) = &repair.cut else {
        return Ok(Repaired { saved: repaired_dir(dir, 0), next_lsn: repair.highest.next() });
    };
    let saved = save(storage, dir, repair)?;
    let next_lsn = Lsn(repair.highest.0.saturating_add(EPOCH_JUMP));
    let next_epoch = repair.epoch + 1;
    match &repair.kept {
        Some(kept) => shorten(storage, dir, store, repair, cut, kept, (next_lsn, next_epoch))?,
        None => begin_again(storage, dir, store, repair, cut, (next_lsn, next_epoch))?,
    }
    for (id, path, _) in repair.set_aside.iter().rev() {
        // The first segment of a log that begins again was replaced by its fresh copy.
        if repair.kept.is_none() && *id == cut.segment {
            continue;
        }
        match storage.remove(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(WalError::io(format!("cannot remove {}", path.display()), e)),
            Ok(()) | Err(_) => {}
        }
    }
    storage.sync_dir(dir).wal(|| format!("cannot sync {}", dir.display()))?;
    Ok(Repaired { saved, next_lsn })
}

/// Copies every file that will change or go, as far as the disk gives its bytes.
fn save(storage: &dyn Storage, dir: &Path, repair: &Repair) -> Result<PathBuf> {
    let mut number = 1;
    let parent = repaired_dir(dir, 0);
    let taken = storage.list(&parent).map(|names| names.iter().filter_map(|n| n.to_str()?.parse::<u64>().ok()).max());
    if let Ok(Some(highest)) = taken {
        number = highest.saturating_add(1);
    }
    let target = repaired_dir(dir, number);
    storage.create_dir_all(&target).wal(|| format!("cannot create {}", target.display()))?;
    let kept = repair.kept.iter().map(|k| &k.file);
    for file in kept.chain(repair.set_aside.iter().map(|(_, file, _)| file)) {
        let Some(name) = file.file_name() else { continue };
        let to = target.join(name);
        let copying = || format!("cannot copy {} to {}", file.display(), to.display());
        let bytes = salvage(storage, file).wal(copying)?;
        let copy = storage.create_new(&to).wal(copying)?;
        copy.write_at(&[&bytes], 0).wal(copying)?;
        copy.sync_data().wal(copying)?;
    }
    storage.sync_dir(&target).wal(|| format!("cannot sync {}", target.display()))?;
    Ok(target)
}

/// The bytes of a file, zeros where the disk does not give them.
fn salvage(storage: &dyn Storage, file: &Path) -> io::Result<Vec<u8>> {
    const PIECE: usize = 4096;
    let file = storage.open_read(file)?;
    if let Ok(bytes) = super::scan::read_whole(&file) {
        return Ok(bytes);
    }
    let len = file.len()?.min(super::format::MAX_SEGMENT_SIZE) as usize;
    let mut bytes = vec![0; len];
    for (n, piece) in bytes.chunks_mut(PIECE).enumerate() {
        if file.read_exact_at(piece, (n * PIECE) as u64).is_err() {
            piece.fill(0);
        }
    }
    Ok(bytes)
}

/// The segment that stays, up to the cut, with a footer.
fn shorten(
    storage: &dyn Storage,
    dir: &Path,
    store: StoreId,
    repair: &Repair,
    cut: &RepairCut,
    kept: &SegmentInfo,
    (next_lsn, next_epoch): (Lsn, u64),
) -> Result<()> {
    let bytes = mend::read(storage, &kept.file)?;
    let first = kept.header.as_ref().map(|h| h.first_lsn);
    let prefix = Prefix::read(&bytes, (store, kept.id, first), repair.checkpoint, &mut |record| {
        Ok(kept.id < cut.segment || record.offset < cut.offset)
    })?;
    let first = first.unwrap_or(kept.first_lsn);
    let last_lsn = prefix.last.unwrap_or(Lsn(first.0.saturating_sub(1)));
    let footer = Footer {
        count: prefix.count,
        first_lsn: first,
        last_lsn,
        payload: prefix.payload,
        last_time: kept.last_time().unwrap_or_default(),
        digest: prefix.digest,
        durable_lsn: prefix.durable.max(repair.bound).min(last_lsn),
        next_lsn,
        next_epoch,
    };
    let prefix = bytes.get(..prefix.end as usize).unwrap_or(&bytes);
    mend::fresh_copy(storage, dir, (store, kept.id), prefix, &footer)?;
    Ok(())
}

/// A segment without records in place of the first one, which has nothing that can stay.
fn begin_again(
    storage: &dyn Storage,
    dir: &Path,
    store: StoreId,
    repair: &Repair,
    cut: &RepairCut,
    (next_lsn, next_epoch): (Lsn, u64),
) -> Result<()> {
    let segment = cut.segment;
    let end_lsn = Lsn(next_lsn.0 - 1).min(repair.checkpoint);
    let now = Time::now();
    let header = Header {
        store,
        segment,
        epoch: next_epoch,
        first_lsn: next_lsn,
        durable_lsn: end_lsn,
        prev: Predecessor { segment: SegmentId(segment.0.saturating_sub(1)), end_lsn, ..Predecessor::default() },
        created: now,
        allotted: 0,
    };
    let bytes = header.encode();
    let last_lsn = Lsn(next_lsn.0 - 1);
    let footer = Footer {
        count: 0,
        first_lsn: next_lsn,
        last_lsn,
        payload: 0,
        last_time: now,
        digest: *blake3::hash(&bytes).as_bytes(),
        durable_lsn: end_lsn,
        next_lsn,
        next_epoch,
    };
    mend::fresh_copy(storage, dir, (store, segment), &bytes, &footer)?;
    Ok(())
}

/// True when the worst that a finding says is that its bytes could not be read: trying again may help more than a repair.
#[must_use]
pub fn is_unreadable(repair: &Repair) -> bool {
    repair.findings.iter().any(|f| f.verdict == Verdict::IoError)
}

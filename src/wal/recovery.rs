//! Recovery: what a crash left becomes a log that can be appended to. The only code that shortens a file, and it keeps what it cuts.
//!
//! A torn tail is copied to `torn/` before it is cut. After an unclean stop the last segment is written afresh and synced whether or not
//! it is torn: the page cache may hold what the disk does not, and a failed sync of the process before would never be heard of again.
//! Everything recovered is durable when this returns. Running it again after a crash in its middle does the same once more.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::{Result, WalContext, WalError};
use super::format::{
    FOOTER_LEN, Footer, Framing, HEADER_LEN, Header, MAX_UNSYNCED_RECORDS, POISON_MARKER, Predecessor, fresh_path, segment_path, torn_dir,
};
use super::log::{Log, Options, Position, SyncHook};
use super::reader::{Next, Record, SegmentReader};
use super::scan::{Bounds, Finding, LogScan, SegmentInfo, Verdict, scan, walk};
use crate::ids::{Lsn, SegmentId, StoreId, Time};
use crate::storage::Storage;

/// How far the LSN jumps into a new epoch. At most [`MAX_UNSYNCED_RECORDS`] records (and the last batch) are appended beyond the durable
/// ones at any time, so no LSN that anybody was ever told lies beyond twice as many behind the last record that came back.
const EPOCH_JUMP: u64 = 2 * MAX_UNSYNCED_RECORDS;

/// What recovery is told.
pub struct RecoveryInput<'a> {
    /// Everything up to here is in the base.
    pub checkpoint: Lsn,
    /// Segments below this were pruned.
    pub floor: SegmentId,
    /// True when the last writer closed the log in order.
    pub clean: bool,
    /// True when the machine has not been restarted since then.
    pub same_boot: bool,
    /// Called before every sync of the log.
    pub before_sync: SyncHook,
    /// Says whether the blobs that a record names are there and sound. Asked of every record above the proven bound.
    pub verify: &'a mut dyn FnMut(&Record<'_>) -> io::Result<bool>,
}

/// What was cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The segment.
    pub file: PathBuf,
    /// Where the cut is.
    pub offset: u64,
    /// The first LSN that went.
    pub lsn: Lsn,
    /// Bytes that went.
    pub bytes: u64,
    /// Where they are kept.
    pub saved: PathBuf,
}

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (file, saved) = (self.file.display(), self.saved.display());
        write!(f, "{} bytes of {file} from offset {} on ({} and what followed), kept in {saved}", self.bytes, self.offset, self.lsn)
    }
}

/// What recovery did.
#[derive(Clone, Debug, Default)]
pub struct RecoveryReport {
    /// The last record that came back; the checkpoint where there is none above it.
    pub last_lsn: Lsn,
    /// The epoch of what is appended from now on.
    pub epoch: u64,
    /// The torn tail that was cut off.
    pub cut: Option<Cut>,
    /// Bytes that were written afresh.
    pub fresh: u64,
    /// Damage at or below the checkpoint.
    pub findings: Vec<Finding>,
}

impl Log {
    /// Recovers the log in `dir` and opens it for appending.
    ///
    /// # Errors
    /// Damage above the checkpoint, by file, offset and LSN; I/O errors; a segment that this version of ize must not touch.
    pub fn recover(
        storage: Arc<dyn Storage>,
        dir: &Path,
        store: StoreId,
        input: RecoveryInput<'_>,
        options: Options,
    ) -> Result<(Self, RecoveryReport)> {
        let RecoveryInput { checkpoint, floor, clean, same_boot, before_sync, verify } = input;
        let bounds = Bounds { checkpoint, floor };
        let scanned = scan(&*storage, dir, store, bounds)?;
        if let Some(finding) = scanned.damage_above(checkpoint) {
            return Err(finding.to_error());
        }
        let poisoned = storage.open_read(&dir.join(POISON_MARKER)).is_ok();
        let clean = clean && !poisoned && scanned.torn.is_none() && scanned.segments.last().is_none_or(|s| s.footer.is_some());
        let mut report = RecoveryReport { findings: scanned.findings.clone(), ..RecoveryReport::default() };
        report.findings.retain(|f| f.verdict == Verdict::Damage);
        let torn = if clean { None } else { first_unsound(&*storage, dir, store, bounds, &scanned, verify)? };
        let torn = match (torn, &scanned.torn) {
            (Some((offset, lsn)), _) => Some((offset, lsn)),
            (None, Some(tear)) => Some((tear.offset, tear.lsn)),
            (None, None) => None,
        };
        let mut at = Position {
            prev: Predecessor { segment: SegmentId(floor.0.max(1) - 1), ..Predecessor::default() },
            next_lsn: scanned.next_lsn.max(checkpoint.next()),
            epoch: scanned.epoch.max(1),
            last_time: scanned.segments.iter().filter_map(SegmentInfo::last_time).max().unwrap_or_default(),
        };
        let mut end = scanned.end;
        if let (Some(last), true) = (scanned.segments.last(), clean) {
            at.prev = Predecessor { segment: last.id, end_lsn: last.last_lsn, length: last.used, digest: last.digest };
        } else if let Some(last) = scanned.segments.last() {
            let fresh = Fresh { storage: &*storage, dir, store, last };
            let bytes = fresh.read()?;
            if let Some((offset, lsn)) = torn {
                report.cut = fresh.keep(&bytes, offset, lsn)?;
                end = end.min(Lsn(lsn.0 - 1));
            }
            if report.cut.is_some() || poisoned || !same_boot {
                // Whoever was told of a record that is lost was told an LSN: it must not come back.
                at.next_lsn = at.next_lsn.max(Lsn(end.max(checkpoint).0 + 1 + EPOCH_JUMP));
                at.epoch += 1;
            }
            let kept = torn.map_or(bytes.len(), |(offset, _)| usize::try_from(offset).unwrap_or(bytes.len()));
            at.prev = fresh.write(&bytes[..kept.min(bytes.len())], &at)?;
            report.fresh = at.prev.length;
            end = at.prev.end_lsn;
        }
        tidy(&*storage, dir, &scanned)?;
        report.last_lsn = end.max(checkpoint);
        report.epoch = at.epoch;
        let end = report.last_lsn;
        Ok((Self::resume(storage, dir, store, options, before_sync, at, end)?, report))
    }
}

/// The first record above the proven bound that names a blob which is not there: offset and LSN.
fn first_unsound(
    storage: &dyn Storage,
    dir: &Path,
    store: StoreId,
    bounds: Bounds,
    scanned: &LogScan,
    verify: &mut dyn FnMut(&Record<'_>) -> io::Result<bool>,
) -> Result<Option<(u64, Lsn)>> {
    let mut unsound = None;
    walk(storage, dir, store, bounds, &mut |record, segment| {
        if unsound.is_none()
            && record.lsn > scanned.bound
            && !verify(record).wal(|| format!("cannot read what {} names in {}", record.lsn, segment_path(dir, segment.id).display()))?
        {
            unsound = Some((record.offset, record.lsn));
        }
        Ok(())
    })?;
    Ok(unsound)
}

/// The last segment, on its way to be written afresh.
struct Fresh<'a> {
    storage: &'a dyn Storage,
    dir: &'a Path,
    store: StoreId,
    last: &'a SegmentInfo,
}

impl Fresh<'_> {
    fn read(&self) -> Result<Vec<u8>> {
        let reading = || format!("cannot read {}", self.last.file.display());
        let file = self.storage.open_read(&self.last.file).wal(reading)?;
        let len = usize::try_from(file.len().wal(reading)?).unwrap_or(0);
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, 0).wal(reading)?;
        Ok(bytes)
    }

    /// Keeps what is about to be cut at `offset`; nothing when there are only zeros.
    fn keep(&self, bytes: &[u8], offset: u64, lsn: Lsn) -> Result<Option<Cut>> {
        let tail = usize::try_from(offset).ok().and_then(|at| bytes.get(at..)).unwrap_or_default();
        let Some(end) = tail.iter().rposition(|b| *b != 0) else { return Ok(None) };
        let tail = &tail[..=end];
        let dir = torn_dir(self.dir);
        self.storage.create_dir_all(&dir).wal(|| format!("cannot create {}", dir.display()))?;
        // An earlier recovery of the same tail may have been cut short here: what it kept is kept.
        let mut attempt = 0;
        let (saved, file) = loop {
            let suffix = if attempt == 0 { String::new() } else { format!("-{attempt}") };
            let saved = dir.join(format!("{}-{offset}{suffix}.bin", self.last.id));
            match self.storage.create_new(&saved) {
                Ok(file) => break (saved, file),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists && attempt < 1000 => attempt += 1,
                Err(e) => return Err(WalError::io(format!("cannot create {}", saved.display()), e)),
            }
        };
        let keeping = || format!("cannot keep the torn tail in {}", saved.display());
        file.write_at(&[tail], 0).and_then(|()| file.sync_data()).wal(keeping)?;
        self.storage.sync_dir(&dir).and_then(|()| self.storage.sync_dir(self.dir)).wal(keeping)?;
        Ok(Some(Cut { file: self.last.file.clone(), offset, lsn, bytes: tail.len() as u64, saved: saved.clone() }))
    }

    /// Writes header and valid records of `bytes` into a new file with a footer, and gives it the segment's name.
    fn write(&self, bytes: &[u8], at: &Position) -> Result<Predecessor> {
        let id = self.last.id;
        let header = Header::decode(bytes, Some(self.store), id)
            .map_err(|_| WalError::Damage { file: self.last.file.clone(), offset: 0, lsn: self.last.first_lsn, what: "the header fails its check".into() })?;
        let mut reader = SegmentReader::new(bytes, self.store, id, Some(header.first_lsn), Lsn::ZERO);
        while let Some(Next::Record(_)) = reader.step() {}
        let used = usize::try_from(reader.offset()).unwrap_or(HEADER_LEN);
        let last_lsn = reader.last_lsn().unwrap_or(Lsn(header.first_lsn.0 - 1)).max(Lsn(header.first_lsn.0 - 1));
        let footer = match &self.last.footer {
            // It was sealed: the copy is the same to the byte, but for an epoch that begins.
            Some(footer) => Footer { next_lsn: at.next_lsn, next_epoch: at.epoch, ..footer.clone() },
            None => Footer {
                count: reader.count(),
                first_lsn: header.first_lsn,
                last_lsn,
                payload: reader.payload(),
                last_time: header.created.max(Time::now()),
                digest: reader.digest(),
                durable_lsn: last_lsn,
                next_lsn: at.next_lsn,
                next_epoch: at.epoch,
            },
        };
        let sealed = Framing::new(self.store, id).footer(&footer, used as u64);
        let (path, beside) = (segment_path(self.dir, id), fresh_path(self.dir, id));
        let writing = || format!("cannot write {} afresh", path.display());
        match self.storage.remove(&beside) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(WalError::io(writing(), e)),
            Ok(()) | Err(_) => {}
        }
        let file = self.storage.create_new(&beside).wal(writing)?;
        file.write_at(&[&bytes[..used], &sealed], 0).and_then(|()| file.sync_data()).wal(writing)?;
        self.storage.rename(&beside, &path).and_then(|()| self.storage.sync_dir(self.dir)).wal(writing)?;
        Ok(Predecessor { segment: id, end_lsn: footer.last_lsn, length: (used + FOOTER_LEN) as u64, digest: footer.digest })
    }
}

/// Removes what only a crash leaves, and segments that a prune had not got to.
fn tidy(storage: &dyn Storage, dir: &Path, scanned: &LogScan) -> Result<()> {
    let marker = dir.join(POISON_MARKER);
    let leftovers = scanned.leftovers.iter().map(|id| segment_path(dir, *id));
    for path in scanned.temporary.iter().cloned().chain(leftovers).chain([marker]) {
        match storage.remove(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(WalError::io(format!("cannot remove {}", path.display()), e)),
            Ok(()) | Err(_) => {}
        }
    }
    storage.sync_dir(dir).wal(|| format!("cannot sync {}", dir.display()))
}

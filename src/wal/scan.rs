//! Walks all segments in order: which there are, how each ends, whether each follows the one before, how far the log is proven durable.
//!
//! The walk works beside a live writer: bytes that look wrong at the end of the last segment are read again before a verdict, because a
//! record may be half written when it is read, and everything before a record that was seen is there when it is read again.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::ids::{Lsn, SegmentId, StoreId, Time};
use crate::storage::{FileRef, Storage};

use super::error::{Result, WalContext, WalError};
use super::format::{FOOTER_LEN, Footer, HEADER_LEN, Header, HeaderFault, MAX_SEGMENT_SIZE, segment_of_name, segment_path};
use super::reader::{Next, Record, SegmentReader, Tear};
use super::segment::Segment;

/// Times that the end of an active segment is read again before a verdict on it stands.
const CONFIRMATIONS: usize = 8;

/// What is known from outside the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// Everything up to here is in the base, hence was durable.
    pub checkpoint: Lsn,
    /// Segments below this were pruned.
    pub floor: SegmentId,
}

/// How a segment ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SegmentState {
    /// With a valid footer.
    Sealed,
    /// With zeros: it is being appended to, or was when the process died.
    Active,
    /// In a torn tail.
    TornTail,
    /// Something in it fails its check (whether or not it can be read to its end).
    Damaged,
}

/// What kind of trouble a finding is, mildest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Remains of writes cut by a crash.
    TornTail,
    /// Bytes fail their check, or a segment is missing.
    Damage,
    /// The disk would not give the bytes.
    IoError,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The file.
    pub file: PathBuf,
    /// Its number.
    pub segment: SegmentId,
    /// Where in it.
    pub offset: u64,
    /// First LSN concerned.
    pub lsn: Lsn,
    /// Last LSN concerned; `Lsn(u64::MAX)` when nobody can know.
    pub through: Lsn,
    /// The kind of trouble.
    pub verdict: Verdict,
    /// In words.
    pub what: String,
    /// True when the file is not there at all.
    pub missing: bool,
}

impl Finding {
    /// The finding as the error that stops.
    #[must_use]
    pub fn to_error(&self) -> WalError {
        if self.missing {
            return WalError::Missing { file: self.file.clone(), segment: self.segment, lsn: self.lsn };
        }
        if self.verdict == Verdict::IoError {
            return WalError::io(format!("cannot read {}", self.file.display()), io::Error::other(self.what.clone()));
        }
        WalError::Damage { file: self.file.clone(), offset: self.offset, lsn: self.lsn, what: self.what.clone() }
    }
}

/// One segment as it was read.
#[derive(Clone, Debug)]
pub struct SegmentInfo {
    /// Its number.
    pub id: SegmentId,
    /// Its file.
    pub file: PathBuf,
    /// Its header, unless that is damaged.
    pub header: Option<Header>,
    /// Its footer, when it has one.
    pub footer: Option<Footer>,
    /// How it ends.
    pub state: SegmentState,
    /// LSN of the first record, or that it would have.
    pub first_lsn: Lsn,
    /// LSN of the last record; `first_lsn - 1` when there is none.
    pub last_lsn: Lsn,
    /// Valid records.
    pub records: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// Offset behind the last valid record, or behind the footer.
    pub used: u64,
    /// Bytes of blobs that the records name.
    pub payload: u64,
    /// Digest over header and records.
    pub digest: [u8; 32],
    /// True when every record from the first to the last was read.
    pub whole: bool,
}

impl SegmentInfo {
    /// When the last record was appended, as far as known (the footer says; before that, the header's time).
    #[must_use]
    pub fn last_time(&self) -> Option<Time> {
        self.footer.as_ref().map(|f| f.last_time).or_else(|| self.header.as_ref().map(|h| h.created))
    }
}

/// The whole log as it was read.
#[derive(Clone, Debug, Default)]
pub struct LogScan {
    /// Segments at and above the floor, in order.
    pub segments: Vec<SegmentInfo>,
    /// Segments below the floor whose files are still there.
    pub leftovers: Vec<SegmentId>,
    /// Files that only a crash leaves.
    pub temporary: Vec<PathBuf>,
    /// LSN of the last good record (zero when there is none).
    pub end: Lsn,
    /// Everything up to here is proven durable.
    pub bound: Lsn,
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// The torn tail of the last segment.
    pub torn: Option<Tear>,
    /// The highest epoch named anywhere.
    pub epoch: u64,
    /// The lowest LSN that the next record may have.
    pub next_lsn: Lsn,
}

impl LogScan {
    /// The first damage of records above `checkpoint`. What could not be read is none: [`scan`] fails of it.
    #[must_use]
    pub fn damage_above(&self, checkpoint: Lsn) -> Option<&Finding> {
        self.findings.iter().find(|f| f.verdict == Verdict::Damage && f.through > checkpoint)
    }

    /// The worst verdict, if anything is wrong.
    #[must_use]
    pub fn worst(&self) -> Option<Verdict> {
        self.findings.iter().map(|f| f.verdict).max()
    }
}

/// Numbers of the segments in `dir`, in order, and the files that only a crash leaves.
pub(crate) fn list(storage: &dyn Storage, dir: &Path) -> Result<(Vec<SegmentId>, Vec<PathBuf>)> {
    let names = storage.list(dir).wal(|| format!("cannot list {}", dir.display()))?;
    let mut ids: Vec<SegmentId> = names.iter().filter_map(|n| segment_of_name(n)).collect();
    ids.sort();
    let temporary = names.iter().filter(|n| super::format::is_temporary(n)).map(|n| dir.join(n)).collect();
    Ok((ids, temporary))
}

/// The oldest segment in `dir` and when its last record was appended, where its footer says so; reads no more than that.
///
/// # Errors
/// The directory cannot be listed, or the segment not be read.
pub fn oldest(storage: &dyn Storage, dir: &Path, store: StoreId) -> Result<Option<(SegmentId, Option<Time>)>> {
    let Some(id) = list(storage, dir)?.0.first().copied() else { return Ok(None) };
    let path = segment_path(dir, id);
    let footer = (|| {
        let file = storage.open_read(&path)?;
        let Some(offset) = file.len()?.checked_sub(FOOTER_LEN as u64) else { return Ok(None) };
        let mut bytes = [0; FOOTER_LEN];
        file.read_exact_at(&mut bytes, offset)?;
        Ok(super::format::Framing::new(store, id).read_footer(&bytes, offset))
    })();
    let footer = footer.wal(|| format!("cannot read {}", path.display()))?;
    Ok(Some((id, footer.map(|footer| footer.last_time))))
}

/// The whole file; refuses one larger than any segment.
pub(super) fn read_whole(file: &FileRef) -> io::Result<Vec<u8>> {
    let len = file.len()?;
    if len > MAX_SEGMENT_SIZE {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{len} bytes are more than a segment can have")));
    }
    let mut bytes = vec![0; len as usize];
    let mut done = 0;
    // The file may be cut (sealed) while it is read.
    while done < bytes.len() {
        match file.read_at(&mut bytes[done..], done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    bytes.truncate(done);
    Ok(bytes)
}

/// What a reading of `bytes` stops at, unless it ends in a footer or in zeros: the offset, and whether it is corruption.
fn stop(bytes: &[u8], store: StoreId, id: SegmentId, bound: Lsn) -> Option<(u64, bool)> {
    let first = Header::decode(bytes, Some(store), id).ok().map(|h| h.first_lsn);
    let mut reader = SegmentReader::new(bytes, store, id, first, bound);
    while let Some(next) = reader.step() {
        match next {
            Next::Record(_) => {}
            Next::Sealed(..) | Next::End(..) => return None,
            Next::TornTail(tear) => return Some((tear.offset, false)),
            Next::Corrupt(c) => return Some((c.offset, true)),
        }
    }
    None
}

/// The bytes of the last segment, read again until a bad end is seen twice at one place. When the first reading finds corruption, it saw
/// a later record: the bytes before that are there when they are read again, so that the second reading tells the truth.
pub(super) fn read_last(file: &FileRef, store: StoreId, id: SegmentId, bound: Lsn) -> io::Result<Vec<u8>> {
    let mut bytes = read_whole(file)?;
    let mut seen = None;
    for _ in 0..CONFIRMATIONS {
        let stopped = stop(&bytes, store, id, bound);
        if stopped.is_none() || seen == stopped {
            break;
        }
        seen = stopped;
        bytes = read_whole(file)?;
    }
    Ok(bytes)
}

pub(super) fn read_header(storage: &dyn Storage, path: &Path, store: StoreId, id: SegmentId) -> Option<Header> {
    let file = storage.open_read(path).ok()?;
    let mut bytes = [0; HEADER_LEN];
    file.read_exact_at(&mut bytes, 0).ok()?;
    Header::decode(&bytes, Some(store), id).ok()
}

/// Gets every valid record of a walk.
pub type Visit<'a> = dyn FnMut(&Record<'_>, &Arc<Segment>) -> Result<()> + 'a;

/// Reads the whole log in `dir`, every checksum.
///
/// # Errors
/// An I/O error, or a segment that this code must not read. Damage is no error here: see [`LogScan::findings`].
pub fn scan(storage: &dyn Storage, dir: &Path, store: StoreId, bounds: Bounds) -> Result<LogScan> {
    let scan = walk(storage, dir, store, bounds, &mut |_, _| Ok(()))?;
    match scan.findings.iter().find(|f| f.verdict == Verdict::IoError) {
        Some(finding) => Err(finding.to_error()),
        None => Ok(scan),
    }
}

/// As [`scan`], gives every valid record to `visit`, and takes a file that cannot be read as a finding.
///
/// # Errors
/// The directory cannot be listed, a segment that this code must not read, or an error of `visit`.
pub fn walk(storage: &dyn Storage, dir: &Path, store: StoreId, bounds: Bounds, visit: &mut Visit<'_>) -> Result<LogScan> {
    let (all, temporary) = list(storage, dir)?;
    let (leftovers, ids): (Vec<_>, Vec<_>) = all.into_iter().partition(|id| *id < bounds.floor);
    let mut walk = Walk {
        storage,
        dir,
        store,
        bounds,
        previous: None,
        scan: LogScan { leftovers, temporary, bound: bounds.checkpoint, next_lsn: bounds.checkpoint.next(), ..LogScan::default() },
    };
    if ids.is_empty() && bounds.checkpoint > Lsn::ZERO {
        // The newest segment is never pruned: an empty log under a checkpoint has lost its files.
        walk.missing(bounds.floor.max(SegmentId(1)), bounds.checkpoint.next(), Lsn(u64::MAX));
    }
    for (i, id) in ids.iter().enumerate() {
        walk.segment(*id, ids.get(i + 1).copied(), visit)?;
    }
    Ok(walk.scan)
}

struct Walk<'a> {
    storage: &'a dyn Storage,
    dir: &'a Path,
    store: StoreId,
    bounds: Bounds,
    /// Number of the segment before, whether or not it could be read.
    previous: Option<SegmentId>,
    scan: LogScan,
}

impl Walk<'_> {
    fn missing(&mut self, segment: SegmentId, lsn: Lsn, through: Lsn) {
        self.scan.findings.push(Finding {
            file: segment_path(self.dir, segment),
            segment,
            offset: 0,
            lsn,
            through,
            verdict: Verdict::Damage,
            what: "the segment is missing".into(),
            missing: true,
        });
    }

    fn segment(&mut self, id: SegmentId, successor: Option<SegmentId>, visit: &mut Visit<'_>) -> Result<()> {
        let path = segment_path(self.dir, id);
        // What the successor says about this one; its mere name proves that this one was sealed and synced.
        let next_header = successor.and_then(|s| read_header(self.storage, &segment_path(self.dir, s), self.store, s));
        let claim = next_header.as_ref().filter(|h| h.prev.segment == id).map(|h| h.prev.end_lsn);
        let ceiling = claim.unwrap_or_else(|| next_header.as_ref().map_or(Lsn(u64::MAX), |h| Lsn(h.first_lsn.0 - 1)));
        let bound = if successor.is_some() { Lsn(u64::MAX) } else { self.bounds.checkpoint };
        let expected_id = self.previous.map_or(self.bounds.floor.max(SegmentId(1)), SegmentId::next);
        let opened = self.storage.open_read(&path);
        if let Err(e) = &opened
            && e.kind() == io::ErrorKind::NotFound
            && self.previous.is_none()
        {
            // Pruned since the directory was listed.
            self.bounds.floor = id.next();
            return Ok(());
        }
        let read = opened.and_then(|file| {
            let bytes = if successor.is_some() { read_whole(&file)? } else { read_last(&file, self.store, id, bound)? };
            Ok((file, bytes))
        });
        let (file, bytes) = match read {
            Ok(read) => read,
            Err(e) => {
                self.find(&path, id, 0, self.scan.end.next(), ceiling, Verdict::IoError, e.to_string());
                self.previous = Some(id);
                self.scan.end = self.scan.end.max(claim.unwrap_or_default());
                return Ok(());
            }
        };
        let header = match Header::decode(&bytes, Some(self.store), id) {
            Ok(header) => Some(header),
            Err(HeaderFault::Unsupported(what)) => return Err(WalError::Unsupported { file: path, what }),
            Err(HeaderFault::Damaged(what)) => {
                // Its records can still be read; how far the fault reaches is known after them.
                self.find(&path, id, 0, self.scan.end.next(), ceiling, Verdict::Damage, what.into());
                None
            }
        };
        if id != expected_id {
            let through = header.as_ref().map_or(Lsn(u64::MAX), |h| Lsn(h.first_lsn.0 - 1));
            self.missing(expected_id, self.scan.end.next(), through);
        } else if let (Some(h), Some(before)) = (&header, self.scan.segments.last())
            && before.id.next() == id
        {
            self.chain(&path, h.clone(), before.clone());
        }
        let info = self.records(id, path, file, &bytes, header, (bound, claim, ceiling), visit)?;
        self.previous = Some(id);
        if info.header.is_none()
            && let Some(finding) = self.scan.findings.iter_mut().rfind(|f| f.segment == id && f.offset == 0 && !f.missing)
            && info.footer.is_some()
        {
            finding.through = info.last_lsn;
        }
        self.note(&info, successor.is_some());
        self.scan.segments.push(info);
        Ok(())
    }

    /// Takes over what the segment proves and where it ends.
    fn note(&mut self, info: &SegmentInfo, followed: bool) {
        self.scan.end = self.scan.end.max(info.last_lsn);
        if let Some(h) = &info.header {
            self.scan.epoch = self.scan.epoch.max(h.epoch);
            self.scan.bound = self.scan.bound.max(h.durable_lsn);
        }
        if let Some(f) = &info.footer {
            self.scan.epoch = self.scan.epoch.max(f.next_epoch);
            self.scan.next_lsn = self.scan.next_lsn.max(f.next_lsn);
        }
        if followed {
            self.scan.bound = self.scan.bound.max(info.last_lsn);
        }
        self.scan.next_lsn = self.scan.next_lsn.max(self.scan.end.next());
    }

    #[allow(clippy::too_many_arguments)]
    fn find(&mut self, file: &Path, segment: SegmentId, offset: u64, lsn: Lsn, through: Lsn, verdict: Verdict, what: String) {
        self.scan.findings.push(Finding { file: file.to_path_buf(), segment, offset, lsn, through, verdict, what, missing: false });
    }

    /// Checks that `header` follows `before`.
    fn chain(&mut self, path: &Path, header: Header, before: SegmentInfo) {
        let Some(footer) = &before.footer else { return };
        let said = header.prev;
        let is = (before.id, footer.last_lsn, before.used, footer.digest);
        let epoch = before.header.as_ref().map_or(0, |h| h.epoch);
        let jumps = header.first_lsn != footer.last_lsn.next();
        let what = if (said.segment, said.end_lsn, said.length, said.digest) != is {
            "the header names another end of the segment before"
        } else if header.epoch < epoch || header.first_lsn < footer.next_lsn || (jumps && header.epoch == epoch) {
            "the header's first LSN does not follow the segment before"
        } else {
            return;
        };
        let at = super::format::header_at::PREV_SEGMENT as u64;
        let through = Lsn(header.first_lsn.0 - 1).max(footer.last_lsn.next());
        self.find(path, header.segment, at, footer.last_lsn.next(), through, Verdict::Damage, what.into());
    }

    #[allow(clippy::too_many_arguments)]
    fn records(
        &mut self,
        id: SegmentId,
        path: PathBuf,
        file: FileRef,
        bytes: &[u8],
        header: Option<Header>,
        (bound, claim, ceiling): (Lsn, Option<Lsn>, Lsn),
        visit: &mut Visit<'_>,
    ) -> Result<SegmentInfo> {
        let segment = Arc::new(Segment::new(id, file));
        let mut reader = SegmentReader::new(bytes, self.store, id, header.as_ref().map(|h| h.first_lsn), bound);
        let mut state = if header.is_some() { SegmentState::Active } else { SegmentState::Damaged };
        let (mut footer, mut used) = (None, None);
        while let Some(next) = reader.step() {
            match next {
                Next::Record(record) => visit(&record, &segment)?,
                Next::Sealed(f, end) => {
                    footer = Some(f);
                    used = Some(end);
                    if state == SegmentState::Active {
                        state = SegmentState::Sealed;
                    }
                }
                Next::End(..) => {}
                Next::TornTail(tear) => {
                    state = SegmentState::TornTail;
                    self.find(
                        &path,
                        id,
                        tear.offset,
                        tear.lsn,
                        Lsn(u64::MAX),
                        Verdict::TornTail,
                        format!("a torn tail of {} bytes", tear.bytes),
                    );
                    self.scan.torn = Some(tear);
                }
                Next::Corrupt(c) => {
                    state = SegmentState::Damaged;
                    let through = c.through.unwrap_or(ceiling);
                    // All records are there and the footer is not: nothing behind the claim is concerned.
                    let (lsn, what) = if c.lsn > through { (through, "the footer fails its check") } else { (c.lsn, c.what) };
                    self.find(&path, id, c.offset, lsn, through, Verdict::Damage, what.into());
                }
            }
        }
        self.scan.bound = self.scan.bound.max(reader.highest_durable());
        let first_lsn = reader.first_lsn().unwrap_or_else(|| self.scan.end.next());
        Ok(SegmentInfo {
            id,
            file: path,
            state,
            first_lsn,
            last_lsn: reader.last_lsn().unwrap_or(Lsn(first_lsn.0.saturating_sub(1))).max(claim.unwrap_or_default()),
            records: reader.count(),
            bytes: bytes.len() as u64,
            used: used.unwrap_or(reader.offset()),
            payload: footer.as_ref().map_or(reader.payload(), |f: &Footer| f.payload),
            digest: reader.digest(),
            whole: reader.is_whole(),
            header,
            footer,
        })
    }
}

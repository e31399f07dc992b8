//! `meta/versions`: one record a version, appended in order, never changed. Bodies are read on demand; the index in memory (sequence,
//! place, LSNs, time, id) is rebuilt by walking the file at every open.
//!
//! A 64-byte header, then records aligned to 8 bytes: magic, CRC-32, length, body version, the postcard of a [`Version`], zeros. The CRC
//! covers store, offset, length, body and padding. See docs/format-blobs.md.
//!
//! What a record means is decided by the checkpoint: versions beyond the one it names were never committed and are cut at a write open
//! (replay makes them anew); below it, everything is proven durable, so what fails its check there is damage: reported, stepped over,
//! and left in the file.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard};

pub use super::log_error::{LogFault, LogFinding, VersionLogError};
pub use super::log_file::Entry;
use super::log_file::{self, HEADER_LEN, MAX_BODY};
pub use super::version::{BadChangeId, ChangeId, Origin, PathChange, ProcessLabel, Version, What};
use crate::ids::{Lsn, StoreId, Time, VersionSeq};
use crate::storage::{FileRef, Storage, StorageFile};

/// How [`VersionLog::open`] opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogMode {
    /// Never writes; may stand beside a live writer.
    ReadOnly,
    /// The only writer.
    Write,
}

/// What [`VersionLog::open`] saw and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogReport {
    /// Damage at or below the checkpoint's version.
    pub findings: Vec<LogFinding>,
    /// Whole versions beyond the checkpoint's, cut (in `ReadOnly` mode: passed over).
    pub versions_cut: u64,
    /// Bytes behind the checkpoint's version, cut (in `ReadOnly` mode: passed over).
    pub bytes_cut: u64,
}

/// What a prefix of a change id names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    /// Nothing.
    None,
    /// One version.
    One(VersionSeq),
    /// Several, oldest first.
    Ambiguous(Vec<(VersionSeq, ChangeId)>),
}

#[derive(Debug, Default)]
struct Index {
    /// In order of sequence, offset and LSN; where a record is damaged, some are missing.
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Tail {
    /// `None` in `ReadOnly` mode.
    file: Option<FileRef>,
    /// Where the next record starts.
    end: u64,
    /// The last version, also when its record is damaged.
    seq: VersionSeq,
    /// The last version whose record is sound, and its last LSN.
    last: (VersionSeq, Lsn),
    /// Versions appended since the open; `synced <= appended`.
    appended: u64,
    /// A failed append may have left bytes behind `end`.
    dirty: bool,
}

/// The version log of one project.
#[derive(Debug)]
pub struct VersionLog {
    storage: Arc<dyn Storage>,
    path: PathBuf,
    store: StoreId,
    limit: Option<VersionSeq>,
    index: RwLock<Index>,
    reader: Mutex<Option<FileRef>>,
    tail: Mutex<Tail>,
    sync_turn: Mutex<()>,
    synced: AtomicU64,
    poison: OnceLock<String>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl VersionLog {
    /// Opens the log at `path`. `keep_up_to` is the checkpoint's version (0 where there is no checkpoint): in `Write` mode everything
    /// beyond it is cut, and a missing file is created; in `ReadOnly` mode it is passed over, and a missing file is an empty log. With
    /// `None` every valid record counts, and only a torn tail is cut. Damage below is reported, not cut; the other versions stay readable.
    ///
    /// # Errors
    /// I/O errors, a log of another store or of a later format.
    pub fn open(
        storage: Arc<dyn Storage>,
        path: PathBuf,
        store: StoreId,
        mode: LogMode,
        keep_up_to: Option<VersionSeq>,
    ) -> Result<(Self, LogReport), VersionLogError> {
        let tail = Tail { file: None, end: HEADER_LEN, seq: VersionSeq(0), last: (VersionSeq(0), Lsn::ZERO), appended: 0, dirty: false };
        let log = Self {
            storage,
            path,
            store,
            limit: keep_up_to,
            index: RwLock::default(),
            reader: Mutex::new(None),
            tail: Mutex::new(tail),
            sync_turn: Mutex::new(()),
            synced: AtomicU64::new(0),
            poison: OnceLock::new(),
        };
        let file = match mode {
            LogMode::ReadOnly => log.storage.open_read(&log.path),
            LogMode::Write => log.storage.open(&log.path),
        };
        let file = match file {
            Ok(file) => Some(file),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(log.io("open", e)),
        };
        let mut report = LogReport::default();
        let file = match (file, mode) {
            (None, LogMode::Write) => {
                log_file::create(&*log.storage, &log.path, store).map_err(|e| log.io("create", e))?;
                Some(log.storage.open(&log.path).map_err(|e| log.io("open", e))?)
            }
            (file, _) => file,
        };
        let (mut len, mut end) = (HEADER_LEN, HEADER_LEN);
        if let Some(file) = &file {
            len = file.len().map_err(|e| log.io("read", e))?;
            if !log_file::read_header(&**file, store, &log.path)? {
                let bytes = 0..len.min(HEADER_LEN);
                report.findings.push(LogFinding { file: log.path.clone(), bytes, versions: 0..0, what: LogFault::Header });
            }
            end = log.walk(&**file, len, &mut report)?;
        } else {
            log.report_end(HEADER_LEN..HEADER_LEN, &mut report);
        }
        if mode == LogMode::Write
            && let Some(file) = file
        {
            if len != end {
                file.set_len(end).map_err(|e| log.io("cut", e))?;
            }
            if len != end || keep_up_to.is_none() {
                // What is kept and what is cut is settled here, whatever comes next.
                file.sync_data().map_err(|e| log.io("sync", e))?;
            }
            let last = log.last_entry();
            let seq = last.map_or(VersionSeq(0), |e| e.seq).max(keep_up_to.unwrap_or_default());
            *lock(&log.tail) = Tail {
                file: Some(file),
                end,
                seq,
                last: last.map_or((VersionSeq(0), Lsn::ZERO), |e| (e.seq, e.last)),
                appended: 0,
                dirty: false,
            };
        }
        Ok((log, report))
    }

    /// Enters the valid records in the index and reports what is wrong; gives the place behind what is kept.
    fn walk(&self, file: &dyn StorageFile, len: u64, report: &mut LogReport) -> Result<u64, VersionLogError> {
        let limit = self.limit.unwrap_or(VersionSeq(u64::MAX));
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        // Behind the last record that is kept, and where the walk is; between them are bytes that are no record.
        let (mut end, mut at) = (HEADER_LEN, HEADER_LEN);
        let mut beyond = None;
        while at < len {
            let found = log_file::entry_at(file, self.store, at, len, &self.path)?;
            let (seq, lsn) = index.entries.last().map_or((VersionSeq(0), Lsn::ZERO), |e| (e.seq, e.last));
            let Some(entry) = found.filter(|e| e.seq > seq && e.first > lsn && e.first <= e.last) else {
                // No record where the one before ends: perhaps that one was cut, and others were written into the place of its body.
                if at == end
                    && let Some(cut) = index.entries.pop_if(|e| at > HEADER_LEN && matches!(log_file::read_body(file, e), Ok(None)))
                {
                    (end, at) = (cut.offset, cut.offset);
                }
                at += log_file::ALIGN;
                continue;
            };
            if entry.seq > limit {
                beyond.get_or_insert(at);
                report.versions_cut += 1;
                at += entry.total_len();
                continue;
            }
            // Below the checkpoint a record's body is looked at when it is read.
            let is_proven = self.limit.is_some() && entry.seq < limit;
            if !is_proven && log_file::read_body(file, &entry).map_err(|e| self.io("read", e))?.is_none() {
                at += log_file::ALIGN;
                continue;
            }
            if entry.seq != seq.next() || at != end {
                let versions = seq.0 + 1..entry.seq.0;
                report.findings.push(LogFinding { file: self.path.clone(), bytes: end..at, versions, what: LogFault::Record });
            }
            index.entries.push(entry);
            at += entry.total_len();
            end = at;
        }
        drop(index);
        let last = self.last_entry().map_or(VersionSeq(0), |e| e.seq);
        if self.limit.is_some_and(|limit| last < limit) {
            // Damaged bytes stay, for their evidence.
            let start = end;
            end = beyond.unwrap_or_else(|| len.max(HEADER_LEN).next_multiple_of(log_file::ALIGN));
            self.report_end(start..end.min(len.max(start)), report);
        }
        report.bytes_cut = len.saturating_sub(end);
        Ok(end)
    }

    /// Reports the versions up to the checkpoint's that should stand in `bytes`, at the log's end.
    fn report_end(&self, bytes: std::ops::Range<u64>, report: &mut LogReport) {
        let last = self.last_entry().map_or(0, |e| e.seq.0);
        if let Some(limit) = self.limit.filter(|limit| limit.0 > last) {
            let what = if bytes.is_empty() { LogFault::Missing } else { LogFault::Record };
            report.findings.push(LogFinding { file: self.path.clone(), bytes, versions: last + 1..limit.0.saturating_add(1), what });
        }
    }

    /// Appends a version: the one after the last, beginning at the LSN after the last one's. (Where the log's LSNs jumped in between, the
    /// range begins before its first record: versions cover the log without a gap.) Durable after [`VersionLog::sync`].
    ///
    /// # Errors
    /// `NotContiguous`, `TooLong`, `Poisoned`, `ReadOnly`; after an I/O error (a full disk) the log is as it was.
    pub fn append(&self, version: &Version) -> Result<(), VersionLogError> {
        self.check_poison()?;
        let mut tail = lock(&self.tail);
        let Some(file) = tail.file.clone() else { return Err(VersionLogError::ReadOnly(self.path.clone())) };
        let (last_seq, last_lsn) = tail.last;
        // With the last record damaged, its LSN is not known.
        let follows = if last_seq == tail.seq { version.first == last_lsn.next() } else { version.first > last_lsn };
        if version.seq != tail.seq.next() || !follows || version.last < version.first {
            return Err(VersionLogError::NotContiguous {
                seq: version.seq,
                first: version.first,
                last: version.last,
                last_seq: tail.seq,
                last_lsn,
            });
        }
        let body = postcard::to_stdvec(version).map_err(|e| self.io("encode a version of", io::Error::other(e)))?;
        if body.len() > MAX_BODY {
            return Err(VersionLogError::TooLong(version.seq));
        }
        let (entry, record) = log_file::encode(self.store, tail.end, version, &body);
        if let Err(e) = file.write_at(&[&record], tail.end) {
            tail.dirty = file.set_len(tail.end).is_err();
            return Err(self.io("append to", e));
        }
        let end = tail.end + record.len() as u64;
        if tail.dirty {
            tail.dirty = file.set_len(end).is_err();
        }
        tail.end = end;
        tail.seq = version.seq;
        tail.last = (version.seq, version.last);
        tail.appended += 1;
        self.index.write().unwrap_or_else(PoisonError::into_inner).entries.push(entry);
        Ok(())
    }

    /// Makes every version appended before this call durable.
    ///
    /// # Errors
    /// The failure of the sync; from then on every append and sync fails.
    pub fn sync(&self) -> Result<(), VersionLogError> {
        self.check_poison()?;
        let _turn = lock(&self.sync_turn);
        self.check_poison()?;
        let (file, appended) = {
            let tail = lock(&self.tail);
            (tail.file.clone(), tail.appended)
        };
        let Some(file) = file else { return Err(VersionLogError::ReadOnly(self.path.clone())) };
        if self.synced.load(Ordering::Acquire) == appended {
            return Ok(());
        }
        if let Err(e) = file.sync_data() {
            let _ = self.poison.set(format!("an earlier attempt to sync `{}` failed: {e}", self.path.display()));
            return Err(self.io("sync", e));
        }
        self.synced.store(appended, Ordering::Release);
        Ok(())
    }

    /// Number of readable versions.
    #[must_use]
    pub fn len(&self) -> usize {
        self.index().entries.len()
    }

    /// True when no version is readable.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Path of the log's file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The index, oldest version first: a snapshot.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        self.index().entries.clone()
    }

    /// The index's entry of a version.
    #[must_use]
    pub fn entry(&self, seq: VersionSeq) -> Option<Entry> {
        let index = self.index();
        let at = index.entries.binary_search_by_key(&seq, |e| e.seq).ok()?;
        index.entries.get(at).copied()
    }

    /// The newest readable version's entry.
    #[must_use]
    pub fn last_entry(&self) -> Option<Entry> {
        self.index().entries.last().copied()
    }

    /// A version.
    ///
    /// # Errors
    /// `NotFound`, `Damaged`, `Io`.
    pub fn get(&self, seq: VersionSeq) -> Result<Version, VersionLogError> {
        self.read(&self.entry(seq).ok_or(VersionLogError::NotFound(seq))?)
    }

    /// The newest readable version.
    ///
    /// # Errors
    /// `Damaged`, `Io`.
    pub fn last(&self) -> Result<Option<Version>, VersionLogError> {
        self.last_entry().map(|e| self.read(&e)).transpose()
    }

    /// All readable versions, oldest first (`.rev()` for newest first), read one by one. What is appended later is not in it.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Result<Version, VersionLogError>> + '_ {
        self.entries().into_iter().map(|e| self.read(&e))
    }

    /// The newest version that ends at or before `lsn`.
    #[must_use]
    pub fn at_lsn(&self, lsn: Lsn) -> Option<Entry> {
        let index = self.index();
        let n = index.entries.partition_point(|e| e.last <= lsn);
        n.checked_sub(1).and_then(|n| index.entries.get(n)).copied()
    }

    /// The newest version that ended at or before `time`.
    #[must_use]
    pub fn at_time(&self, time: Time) -> Option<Entry> {
        self.index().entries.iter().rev().find(|e| e.end <= time).copied()
    }

    /// The version whose id begins with `prefix`.
    #[must_use]
    pub fn by_id_prefix(&self, prefix: &str) -> Match {
        let found: Vec<_> = self.index().entries.iter().filter(|e| e.id.has_prefix(prefix)).map(|e| (e.seq, e.id)).collect();
        match found[..] {
            [] => Match::None,
            [(seq, _)] => Match::One(seq),
            _ => Match::Ambiguous(found),
        }
    }

    fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn io(&self, doing: &'static str, source: io::Error) -> VersionLogError {
        VersionLogError::Io { doing, file: self.path.clone(), source }
    }

    fn check_poison(&self) -> Result<(), VersionLogError> {
        match self.poison.get() {
            Some(why) => Err(VersionLogError::Poisoned(why.clone())),
            None => Ok(()),
        }
    }

    fn reader(&self) -> Result<FileRef, VersionLogError> {
        let mut reader = lock(&self.reader);
        if let Some(file) = &*reader {
            return Ok(Arc::clone(file));
        }
        let file = self.storage.open_read(&self.path).map_err(|e| self.io("open", e))?;
        *reader = Some(Arc::clone(&file));
        Ok(file)
    }

    fn read(&self, entry: &Entry) -> Result<Version, VersionLogError> {
        let file = self.reader()?;
        let body = log_file::read_body(&*file, entry).map_err(|e| self.io("read", e))?;
        match body.as_deref().map(postcard::take_from_bytes::<Version>) {
            Some(Ok((version, []))) if (version.seq, version.first, version.last) == (entry.seq, entry.first, entry.last) => Ok(version),
            _ => Err(VersionLogError::Damaged(LogFinding {
                file: self.path.clone(),
                bytes: entry.offset..entry.offset + entry.total_len(),
                versions: entry.seq.0..entry.seq.0 + 1,
                what: LogFault::Record,
            })),
        }
    }
}

#[cfg(test)]
mod tests;

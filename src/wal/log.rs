//! Appends, syncs, seals.
//!
//! Two locks. `append` is held while a batch is built and written, while a segment is sealed and its successor made: LSN order is file
//! order. `GroupCommit` has a lock of its own for who leads a sync and how far the log is durable; it is held for moments only, never over
//! I/O, and `append` is never taken while it is held.
//!
//! Order of events. A batch: one write, then `appended` moves, then the caller is answered. A sync: remember `appended`; sync the packs
//! (the hook); fdatasync the active segment; move `durable`. A roll: packs, footer, cut, fdatasync, move `durable`; only then zero-fill
//! or take a spare, header, fdatasync, rename, directory sync, first record. So a successor's name proves its predecessor durable.
//!
//! After a failed write to the active segment, or any failed sync, the log is *poisoned*: the page cache then holds what the disk does
//! not, and a later Ok would be a lie. A full disk while a successor is made poisons nothing: nothing was promised yet.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::ids::{Lsn, SegmentId, StoreId, Time};
use crate::storage::Storage;

use super::active::{Appender, Position};
use super::batch::Batch;
use super::error::{Result, WalContext, WalError};
use super::format::{
    DEFAULT_SEGMENT_SIZE, FOOTER_LEN, HEADER_LEN, KIND_MARK, MAX_SEGMENT_SIZE, MAX_UNSYNCED_RECORDS, MIN_SEGMENT_SIZE, POISON_MARKER,
    RecordHead, framed_len,
};
use super::group_commit::GroupCommit;
use super::reserve::{Loan, Need, Reserve};
use super::scan::SegmentInfo;
use super::segment::Segment;
use super::spare::Spares;

/// Called before every sync of the log, so that blobs are durable before the records that name them.
pub type SyncHook = Box<dyn Fn() -> io::Result<()> + Send + Sync>;

/// What may be chosen when a log is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Bytes allotted to a segment at most, 64 KiB to 256 MiB (rounded into that range, up to a multiple of 4 KiB). A log that pauses gets
    /// small ones of [`DEFAULT_SEGMENT_SIZE`], each burst being worth one; where one is filled after the other they double.
    pub segment_size: u64,
    /// Bytes of named blobs after which a segment is sealed.
    pub max_payload: u64,
    /// Bytes (records and the blobs they name) appended and not synced, before an append syncs first.
    pub max_unsynced: u64,
    /// Keeps a zero-filled spare ready in a thread.
    pub background: bool,
    /// Bytes kept back for a full disk, see [`Log::loan`]; 0 is none.
    pub reserve: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { segment_size: DEFAULT_SEGMENT_SIZE, max_payload: 256 << 20, max_unsynced: 256 << 20, background: true, reserve: 0 }
    }
}

impl Options {
    pub(super) fn size(&self) -> u64 {
        self.segment_size.clamp(MIN_SEGMENT_SIZE, MAX_SEGMENT_SIZE).next_multiple_of(4096)
    }

    /// Bytes allotted to a segment that follows a pause.
    pub(super) fn first_size(&self) -> u64 {
        self.size().min(DEFAULT_SEGMENT_SIZE)
    }
}

/// What the log takes of the disk. Counted as it changes; [`Usage::of`] a scan is the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Usage {
    /// Segment files.
    pub segments: u64,
    /// Their lengths together, in bytes; the active one has its full size.
    pub bytes: u64,
    /// Records in them, marks included.
    pub records: u64,
    /// Bytes of blobs that they name.
    pub payload: u64,
}

impl Usage {
    /// As a scan found it.
    #[must_use]
    pub fn of(segments: &[SegmentInfo]) -> Self {
        segments.iter().fold(Self::default(), |sum, s| Self {
            segments: sum.segments + 1,
            bytes: sum.bytes + s.bytes,
            records: sum.records + s.records,
            payload: sum.payload + s.payload,
        })
    }
}

/// Where a record went.
#[derive(Clone, Debug)]
pub struct Appended {
    /// Its LSN.
    pub lsn: Lsn,
    /// Its segment, held open.
    pub segment: Arc<Segment>,
    /// Where its body stands in the segment's file.
    pub body_offset: u64,
}

/// The log, open for appending. Share it in an `Arc`.
pub struct Log {
    pub(super) storage: Arc<dyn Storage>,
    pub(super) dir: PathBuf,
    pub(super) store: StoreId,
    pub(super) options: Options,
    pub(super) before_sync: SyncHook,
    pub(super) spares: Spares,
    pub(super) reserve: Reserve,
    pub(super) append: Mutex<Appender>,
    pub(super) commits: GroupCommit,
    poison: OnceLock<String>,
    /// Last LSN appended, mark or not; last that is no mark; copies of what the locks guard.
    appended: AtomicU64,
    real: AtomicU64,
    /// Bytes of records and payload since the log was opened.
    pub(super) bytes: AtomicU64,
    /// Referenced payload at which a segment is sealed.
    max_payload: AtomicU64,
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log").field("dir", &self.dir).field("appended", &self.appended()).field("durable", &self.durable()).finish()
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Log {
    /// The log in `dir`, everything in which is sealed and durable, going on at `at`. Only recovery knows that.
    pub(super) fn resume(
        storage: Arc<dyn Storage>,
        dir: &Path,
        store: StoreId,
        options: Options,
        before_sync: SyncHook,
        (at, end): (Position, Lsn),
        usage: Usage,
    ) -> Result<Self> {
        let spares =
            Spares::new(Arc::clone(&storage), dir, options.background).wal(|| "cannot start the thread that prepares segments".into())?;
        let reserve = Reserve::new(Arc::clone(&storage), dir, options.reserve, options.size());
        reserve.refill();
        let max_payload = AtomicU64::new(options.max_payload);
        Ok(Self {
            storage,
            dir: dir.to_path_buf(),
            store,
            options,
            before_sync,
            spares,
            reserve,
            append: Mutex::new(Appender { active: None, at, buffer: Vec::new(), usage, size: options.first_size(), next: None }),
            commits: GroupCommit::new(end),
            poison: OnceLock::new(),
            appended: AtomicU64::new(end.0),
            real: AtomicU64::new(end.0),
            bytes: AtomicU64::new(0),
            max_payload,
        })
    }

    /// LSN of the last record appended.
    #[must_use]
    pub fn appended(&self) -> Lsn {
        Lsn(self.appended.load(Ordering::Acquire))
    }

    /// Everything up to here survives power loss.
    #[must_use]
    pub fn durable(&self) -> Lsn {
        self.commits.durable()
    }

    /// Bytes of records, and of the blobs they name, that are appended and not synced. Marks do not count.
    #[must_use]
    pub fn unsynced_bytes(&self) -> u64 {
        self.bytes.load(Ordering::Acquire).saturating_sub(self.commits.durable_bytes())
    }

    /// The segment that takes records now, if one does.
    #[must_use]
    pub fn active(&self) -> Option<SegmentId> {
        lock(&self.append).active.as_ref().map(|a| a.segment.id)
    }

    /// Seals segments from now on when they name so many bytes of blobs: at least 1 MiB, at most as many as the options say. The last segment is
    /// never pruned, and neither is what it names.
    pub fn limit_payload(&self, bytes: u64) {
        self.max_payload.store(bytes.max(1 << 20).min(self.options.max_payload), Ordering::Relaxed);
    }

    /// What the log takes of the disk.
    #[must_use]
    pub fn usage(&self) -> Usage {
        lock(&self.append).usage
    }

    /// A segment was pruned.
    pub(super) fn forget(&self, segment: &SegmentInfo) {
        let usage = &mut lock(&self.append).usage;
        usage.segments = usage.segments.saturating_sub(1);
        usage.bytes = usage.bytes.saturating_sub(segment.bytes);
        usage.records = usage.records.saturating_sub(segment.records);
        usage.payload = usage.payload.saturating_sub(segment.payload);
    }

    /// Why the log refuses writes, if it does.
    #[must_use]
    pub fn poisoned(&self) -> Option<String> {
        self.poison.get().cloned()
    }

    /// The log's directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The store it belongs to.
    #[must_use]
    pub fn store(&self) -> StoreId {
        self.store
    }

    /// The room that is kept back for a full disk, for whoever makes more of it.
    pub fn loan(&self) -> Loan<'_> {
        self.reserve.loan()
    }

    /// Is there room for bytes of files besides what is kept back? Where not all of that is there, no.
    pub fn has_room(&self) -> bool {
        self.reserve.is_whole()
    }

    /// Keeps room back again, if there is any and nobody has borrowed it.
    pub fn refill_reserve(&self) {
        self.reserve.refill();
    }

    pub(super) fn check(&self) -> Result<()> {
        match self.poison.get() {
            Some(reason) => Err(WalError::Poisoned { reason: reason.clone() }),
            None => Ok(()),
        }
    }

    /// Refuses all from now on, for the reason of `error`, and gives it back.
    pub(super) fn poison(&self, error: WalError) -> WalError {
        if self.poison.set(error.to_string()).is_ok() {
            // For the recovery that follows on this boot: what the page cache lost may look like a clean end. Needs no sync.
            let _ = self.storage.create_new(&self.dir.join(POISON_MARKER));
        }
        // Whoever waits for a sync must learn of it.
        self.commits.wake_all();
        error
    }

    /// Appends what `build` pushes: at most `max_bytes` framed ([`framed_len`] of each body). `build` is called once, under the log's
    /// append lock, with the segment that the records go to; everything it pushes is in the page cache when this returns, in one piece
    /// of the log. Nothing is appended when it pushes nothing.
    ///
    /// # Errors
    /// ENOSPC when no new segment can be made (the log goes on as soon as there is room); too large; poisoned, or a failed write, which
    /// poisons.
    pub fn append_with(&self, max_bytes: usize, build: &mut dyn FnMut(SegmentId, &mut Batch<'_>)) -> Result<Vec<Appended>> {
        self.append_for(Need::Bytes, max_bytes, build)
    }

    /// As [`Log::append_with`], with room that is kept back for what a full disk must not stop.
    ///
    /// # Errors
    /// As [`Log::append_with`].
    pub fn append_for(&self, need: Need, max_bytes: usize, build: &mut dyn FnMut(SegmentId, &mut Batch<'_>)) -> Result<Vec<Appended>> {
        let mut appender = loop {
            self.check()?;
            let appender = lock(&self.append);
            // Everything before the active segment is durable, whatever gap an epoch left.
            let known = appender.active.as_ref().map_or(appender.at.next_lsn.0, |a| a.first_lsn.0).saturating_sub(1).max(self.durable().0);
            let unsynced = (appender.at.next_lsn.0 - 1).saturating_sub(known);
            let idle = self.real.load(Ordering::Acquire) <= self.durable().0;
            if idle || (self.unsynced_bytes() < self.options.max_unsynced && unsynced < MAX_UNSYNCED_RECORDS) {
                break appender;
            }
            drop(appender);
            self.sync()?;
        };
        self.check()?;
        let room = self.options.size() - (HEADER_LEN + FOOTER_LEN + framed_len(0)) as u64;
        if max_bytes as u64 > room {
            return Err(WalError::TooLarge { bytes: max_bytes as u64, limit: room });
        }
        let keep = (FOOTER_LEN + framed_len(0)) as u64;
        let needed = (HEADER_LEN + max_bytes) as u64 + keep;
        self.leave_kept(&mut appender, needed, need)?;
        let full = appender.active.as_ref().and_then(|a| {
            let full = a.end + max_bytes as u64 + keep > a.size;
            (full || a.payload >= self.max_payload.load(Ordering::Relaxed)).then_some((full, a.size))
        });
        if let Some((full, size)) = full {
            self.seal_active(&mut appender)?;
            if full {
                appender.size = size.saturating_mul(2).min(self.options.size());
            }
        }
        self.ensure_active(&mut appender, needed, need)?;
        let mut buffer = std::mem::take(&mut appender.buffer);
        buffer.clear();
        let written = self.write_batch(&mut appender, &mut buffer, max_bytes, build);
        // One large batch must not hold its memory for ever.
        if buffer.capacity() <= 1 << 20 {
            appender.buffer = buffer;
        }
        written
    }

    fn write_batch(
        &self,
        appender: &mut Appender,
        buffer: &mut Vec<u8>,
        max_bytes: usize,
        build: &mut dyn FnMut(SegmentId, &mut Batch<'_>),
    ) -> Result<Vec<Appended>> {
        let Appender { active: Some(active), at, usage, .. } = appender else {
            return Err(WalError::Poisoned { reason: "there is no active segment".into() });
        };
        let mut batch = Batch {
            framing: &active.framing,
            out: buffer,
            base: active.end,
            limit: max_bytes,
            next: at.next_lsn,
            durable: self.durable(),
            records: Vec::new(),
            payload: 0,
            too_large: None,
        };
        build(active.segment.id, &mut batch);
        let Batch { records, payload, too_large, .. } = batch;
        if let Some((bytes, limit)) = too_large {
            return Err(WalError::TooLarge { bytes, limit });
        }
        let Some((last, ..)) = records.last().copied() else { return Ok(Vec::new()) };
        active
            .segment
            .file()
            .write_at(&[buffer], active.end)
            .wal(|| format!("cannot append to {} at offset {}", active.path.display(), active.end))
            .map_err(|e| self.poison(e))?;
        for (_, crc, _) in &records {
            active.digest.update(&crc.to_le_bytes());
        }
        active.end += buffer.len() as u64;
        active.count += records.len() as u64;
        active.payload = active.payload.saturating_add(payload);
        usage.records += records.len() as u64;
        usage.payload = usage.payload.saturating_add(payload);
        active.touched = Instant::now();
        if active.real == 0 {
            active.since = active.touched;
        }
        active.real += records.len() as u64;
        at.next_lsn = last.next();
        at.last_time = at.last_time.max(Time::now());
        self.bytes.fetch_add((buffer.len() as u64).saturating_add(payload), Ordering::AcqRel);
        self.appended.store(last.0, Ordering::Release);
        self.real.store(last.0, Ordering::Release);
        let segment = &active.segment;
        Ok(records.into_iter().map(|(lsn, _, body_offset)| Appended { lsn, segment: Arc::clone(segment), body_offset }).collect())
    }

    /// Makes everything appended before the call durable.
    ///
    /// # Errors
    /// Poisoned, or a failed sync, which poisons.
    pub fn sync(&self) -> Result<Lsn> {
        self.sync_to(Lsn(self.real.load(Ordering::Acquire)))
    }

    /// Makes everything up to `lsn` durable, and says how far the log is. One sync answers all who wait for it.
    ///
    /// # Errors
    /// Poisoned, or a failed sync, which poisons.
    pub fn sync_to(&self, lsn: Lsn) -> Result<Lsn> {
        let (durable, led) = self.commits.wait_for(lsn, &|| self.check(), &|begun| self.lead(begun))?;
        // The sync succeeded, whatever becomes of the mark; a mark that cannot be written poisons.
        if let Some(target) = led {
            let _ = self.mark(target);
        }
        Ok(durable)
    }

    /// One sync of everything appended; gives the LSN that it covers, and the bytes appended until there.
    fn lead(&self, begun: &dyn Fn(Lsn)) -> Result<(Lsn, u64)> {
        let (target, bytes, active) = {
            let appender = lock(&self.append);
            let target = Lsn(appender.at.next_lsn.0 - 1);
            (
                self.appended().min(target),
                self.bytes.load(Ordering::Acquire),
                appender.active.as_ref().map(|a| (Arc::clone(&a.segment), a.path.clone())),
            )
        };
        begun(target);
        if let Some((segment, path)) = active {
            (self.before_sync)().wal(|| "cannot sync the packs before the log".into()).map_err(|e| self.poison(e))?;
            segment.file().sync_data().wal(|| format!("cannot sync {}", path.display())).map_err(|e| self.poison(e))?;
        }
        // A sync that failed elsewhere meanwhile may have taken this one's error with it.
        self.check()?;
        Ok((target, bytes))
    }

    /// Appends a mark when nothing follows `target`: what was synced last is then proven durable by the log itself, once the mark reaches
    /// the disk. Marks are never worth a sync.
    fn mark(&self, target: Lsn) -> Result<()> {
        let mut appender = lock(&self.append);
        let Appender { active: Some(active), at, buffer, usage, .. } = &mut *appender else { return Ok(()) };
        if at.next_lsn != target.next()
            || active.real == 0
            || self.real.load(Ordering::Acquire) < active.first_lsn.0
            || self.check().is_err()
        {
            return Ok(());
        }
        buffer.clear();
        let lsn = at.next_lsn;
        let head = RecordHead { crc: 0, body_len: 0, kind: KIND_MARK, version: 0, payload: 0, lsn, durable_lsn: target };
        let crc = active.framing.push(buffer, active.end, &head, &[]);
        if active.end + (buffer.len() + FOOTER_LEN) as u64 > active.size {
            return Ok(());
        }
        active
            .segment
            .file()
            .write_at(&[buffer], active.end)
            .wal(|| format!("cannot append to {} at offset {}", active.path.display(), active.end))
            .map_err(|e| self.poison(e))?;
        active.digest.update(&crc.to_le_bytes());
        active.end += buffer.len() as u64;
        active.count += 1;
        usage.records += 1;
        at.next_lsn = lsn.next();
        self.appended.store(lsn.0, Ordering::Release);
        Ok(())
    }

    /// Seals the active segment if it holds any record that is no mark: it is then durable, immutable and of its true length. The
    /// successor is made by the next append. True when something was sealed.
    ///
    /// # Errors
    /// Poisoned, or a failed write or sync, which poisons.
    pub fn seal(&self) -> Result<bool> {
        self.check()?;
        let mut appender = lock(&self.append);
        if appender.active.as_ref().is_none_or(|a| a.real == 0) {
            return Ok(false);
        }
        self.seal_active(&mut appender)?;
        Ok(true)
    }

    /// Seals as [`Log::seal`] when nothing was appended for `idle`, or the first record is older than `age`.
    ///
    /// # Errors
    /// As [`Log::seal`].
    pub fn seal_if(&self, idle: Duration, age: Duration) -> Result<bool> {
        self.check()?;
        let mut appender = lock(&self.append);
        if appender.active.as_ref().is_none_or(|a| a.real == 0 || (a.touched.elapsed() < idle && a.since.elapsed() < age)) {
            return Ok(false);
        }
        self.seal_active(&mut appender)?;
        Ok(true)
    }
}

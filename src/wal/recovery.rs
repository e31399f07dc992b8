//! Opens the log after whatever happened to it. Nothing else shortens a log file unasked, and it keeps what it cuts.
//!
//! 1. Scan everything. Damage above the checkpoint: stop, nothing is changed.
//! 2. Ask the caller about each record above the proven bound: are the blobs it names sound? The first that is not is where the log is
//!    torn.
//! 3. Copy what is cut to `torn/`, synced.
//! 4. After an unclean stop, *fresh copy*: valid prefix and footer of the last segment into a new file, synced, renamed over the old one,
//!    directory synced. The page cache may hold what the disk does not (a sync that failed before the crash), and no sync of the old file
//!    would say so. From here on everything recovered is durable, and the last segment is sealed; the next append makes a new one.
//!
//! A crash in any of these leaves a log on which recovery finds the same records again, or, after a power cut, the same cut again.
//!
//! **No LSN is used twice.** Let E be the last LSN recovered and D the last that was reported durable: D <= E. Nobody was told an LSN above
//! A, the last appended, and the writer keeps A - D <= 2^20 unsynced + 2^16 of one batch + 1 mark < 2^21. Where records may have been lost
//! (something was cut, or power was), the next LSN is above E + 2^21 >= D + 2^21 > A. The footer of the fresh copy records the jump, so
//! that a crash before the next append does not forget it. The segment's header shows a first LSN beyond `end + 1` only with a new epoch.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::ids::{Lsn, SegmentId, StoreId, Time};
use crate::storage::Storage;

use super::active::Position;
use super::error::{Result, WalContext, WalError};
use super::format::{EPOCH_JUMP, Footer, POISON_MARKER, Predecessor, segment_path, torn_dir};
use super::log::{Log, Options, SyncHook, Usage};
use super::mend::{self, Prefix};
use super::reader::Record;
use super::reserve::give_up_reserve;
use super::scan::{Bounds, Finding, LogScan, SegmentInfo, scan};

/// What recovery must know from outside the log.
pub struct RecoveryInput<'a> {
    /// Everything up to here is in the base.
    pub checkpoint: Lsn,
    /// Segments below this were pruned.
    pub floor: SegmentId,
    /// The log was closed in order: sealed and synced by a daemon that said so durably afterwards.
    pub clean: bool,
    /// The machine has not been restarted since: the page cache still holds what the process wrote.
    pub same_boot: bool,
    /// For the log that is opened; also called before the fresh copy is synced.
    pub before_sync: SyncHook,
    /// Are the blobs that the record names there and right? Asked for records above the proven bound, in order.
    pub verify: &'a mut dyn FnMut(&Record<'_>) -> io::Result<bool>,
}

impl<'a> RecoveryInput<'a> {
    /// What is known of a log that stands by itself: nothing is checkpointed, nothing was pruned, its process died under it, and there are
    /// no packs to sync before it.
    #[must_use]
    pub fn new(verify: &'a mut dyn FnMut(&Record<'_>) -> io::Result<bool>) -> Self {
        Self { checkpoint: Lsn::ZERO, floor: SegmentId(1), clean: false, same_boot: true, before_sync: Box::new(|| Ok(())), verify }
    }
}

/// What was cut off the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The segment's file.
    pub file: PathBuf,
    /// Where the cut is.
    pub offset: u64,
    /// First LSN set aside.
    pub lsn: Lsn,
    /// Bytes set aside.
    pub bytes: u64,
    /// Where they are kept.
    pub saved: PathBuf,
    /// True when the first record set aside was valid and named a blob that is not sound.
    pub blob: bool,
}

/// What recovery found and did.
#[derive(Clone, Debug, Default)]
pub struct RecoveryReport {
    /// Segments.
    pub segments: u64,
    /// Valid records in them, marks included.
    pub records: u64,
    /// Bytes of their files.
    pub bytes: u64,
    /// LSN of the last record recovered; everything up to it is durable now.
    pub last_lsn: Lsn,
    /// LSN that the next record gets.
    pub next_lsn: Lsn,
    /// The epoch that the next segment belongs to.
    pub epoch: u64,
    /// What the log itself proved durable.
    pub bound: Lsn,
    /// What was cut.
    pub cut: Option<Cut>,
    /// Bytes rewritten by the fresh-copy rule.
    pub fresh_copied: u64,
    /// What is wrong and does not stop: damage at or below the checkpoint, a torn tail.
    pub findings: Vec<Finding>,
    /// How long it took.
    pub elapsed: Duration,
}

impl Log {
    /// Recovers the log in `dir` (made when it is not there) and opens it.
    ///
    /// # Errors
    /// Damage above the checkpoint or a missing segment (nothing is changed then), a segment of an unknown version, or an I/O error.
    pub fn recover(
        storage: Arc<dyn Storage>,
        dir: &Path,
        store: StoreId,
        input: RecoveryInput<'_>,
        options: Options,
    ) -> Result<(Log, RecoveryReport)> {
        let started = Instant::now();
        storage.create_dir_all(dir).wal(|| format!("cannot create {}", dir.display()))?;
        let scanned = scan(storage.as_ref(), dir, store, Bounds { checkpoint: input.checkpoint, floor: input.floor })?;
        if let Some(finding) = scanned.damage_above(input.checkpoint) {
            return Err(finding.to_error());
        }
        let names = storage.list(dir).wal(|| format!("cannot list {}", dir.display()))?;
        let poisoned = names.iter().any(|n| n.to_str() == Some(POISON_MARKER));
        let mut mend = Mend {
            storage: storage.as_ref(),
            dir,
            store,
            scan: &scanned,
            lossy: poisoned || (!input.clean && !input.same_boot),
            checkpoint: input.checkpoint,
            fresh: None,
        };
        let mut report = RecoveryReport {
            segments: scanned.segments.len() as u64,
            records: scanned.segments.iter().map(|s| s.records).sum(),
            bytes: scanned.segments.iter().map(|s| s.bytes).sum(),
            bound: scanned.bound,
            findings: scanned.findings.clone(),
            ..RecoveryReport::default()
        };
        let mut usage = Usage::of(&scanned.segments);
        let (position, end) = match scanned.segments.last() {
            None => {
                mend.tidy()?;
                (
                    Position {
                        prev: no_predecessor(input.floor),
                        next_lsn: scanned.next_lsn,
                        epoch: scanned.epoch.max(1),
                        last_time: Time::now(),
                    },
                    scanned.end,
                )
            }
            Some(last) => {
                let clean = input.clean && !poisoned && last.footer.is_some();
                match mend.last(last, clean, &input.before_sync, input.verify, &mut report) {
                    Err(e) if e.errno() == libc::ENOSPC && give_up_reserve(&storage, dir) => {
                        mend.last(last, clean, &input.before_sync, input.verify, &mut report)?
                    }
                    done => done?,
                }
            }
        };
        if poisoned {
            storage.remove(&dir.join(POISON_MARKER)).wal(|| format!("cannot remove {}", dir.join(POISON_MARKER).display()))?;
        }
        report.last_lsn = end;
        report.next_lsn = position.next_lsn;
        report.epoch = position.epoch;
        if let Some((last, fresh)) = scanned.segments.last().zip(mend.fresh) {
            usage.bytes = usage.bytes - last.bytes + report.fresh_copied;
            usage.records = usage.records - last.records + fresh.0;
            usage.payload = usage.payload - last.payload + fresh.1;
        }
        let log = Log::resume(storage, dir, store, options, input.before_sync, (position, end), usage)?;
        report.elapsed = started.elapsed();
        Ok((log, report))
    }
}

/// The first segment of a log is 1, or the floor where everything below it is gone.
fn no_predecessor(floor: SegmentId) -> Predecessor {
    Predecessor { segment: SegmentId(floor.0.saturating_sub(1)), ..Predecessor::default() }
}

struct Mend<'a> {
    storage: &'a dyn Storage,
    dir: &'a Path,
    store: StoreId,
    scan: &'a LogScan,
    /// Records that somebody was told of may be gone without a trace.
    lossy: bool,
    checkpoint: Lsn,
    /// Records, and bytes of blobs that they name, in the fresh copy of the last segment.
    fresh: Option<(u64, u64)>,
}

impl Mend<'_> {
    /// Removes what only a crash or an interrupted prune leaves.
    fn tidy(&self) -> Result<()> {
        let leftovers = self.scan.leftovers.iter().map(|id| segment_path(self.dir, *id));
        for path in self.scan.temporary.iter().cloned().chain(leftovers) {
            match self.storage.remove(&path) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(WalError::io(format!("cannot remove {}", path.display()), e)),
            }
        }
        Ok(())
    }

    fn last(
        &mut self,
        last: &SegmentInfo,
        clean: bool,
        before_sync: &SyncHook,
        verify: &mut dyn FnMut(&Record<'_>) -> io::Result<bool>,
        report: &mut RecoveryReport,
    ) -> Result<(Position, Lsn)> {
        let last_time = last.last_time().unwrap_or_default();
        let mut footer = last.footer.clone();
        let mut length = last.used;
        if !clean {
            let bytes = mend::read(self.storage, &last.file)?;
            let first = last.header.as_ref().map(|h| h.first_lsn);
            let prefix = Prefix::read(&bytes, (self.store, last.id, first), self.checkpoint, &mut |record| {
                if record.is_mark() || record.lsn <= self.scan.bound {
                    return Ok(true);
                }
                verify(record).wal(|| format!("cannot check the blobs of LSN {}", record.lsn))
            })?;
            let first = last.header.as_ref().map_or(last.first_lsn, |h| h.first_lsn);
            let end = prefix.last.unwrap_or(Lsn(first.0.saturating_sub(1)));
            // From here on files change. Room first: the disk may be full.
            self.tidy()?;
            let cut = self.scan.torn.is_some() || prefix.stopped;
            if cut {
                report.cut = Some(self.save(last, &bytes, &prefix, end.next())?);
                if prefix.stopped {
                    let dropped = last.records.saturating_sub(prefix.count);
                    let all: u64 = self.scan.segments.iter().map(|s| s.records).sum();
                    report.records = all.saturating_sub(dropped);
                }
            }
            self.lossy |= cut;
            let (next_lsn, next_epoch) = self.next(end);
            let fresh = Footer {
                count: prefix.count,
                first_lsn: first,
                last_lsn: end,
                payload: prefix.payload,
                last_time: last_time.max(if last.footer.is_some() { last_time } else { Time::now() }),
                digest: prefix.digest,
                durable_lsn: prefix.durable.max(self.scan.bound).min(end),
                next_lsn,
                next_epoch,
            };
            before_sync().wal(|| "cannot sync the packs before the log".into())?;
            length = mend::fresh_copy(self.storage, self.dir, (self.store, last.id), &bytes[..prefix.end as usize], &fresh)?;
            report.fresh_copied = length;
            self.fresh = Some((prefix.count, prefix.payload));
            footer = Some(fresh);
        } else {
            self.tidy()?;
        }
        let Some(footer) = footer else {
            return Err(WalError::io(format!("cannot seal {}", last.file.display()), io::ErrorKind::Other.into()));
        };
        let (next_lsn, epoch) = if clean { self.next(footer.last_lsn) } else { (footer.next_lsn, footer.next_epoch) };
        let prev = Predecessor { segment: last.id, end_lsn: footer.last_lsn, length, digest: footer.digest };
        Ok((Position { prev, next_lsn, epoch, last_time: footer.last_time }, footer.last_lsn))
    }

    /// The next LSN and the epoch after a log that ends at `end`.
    fn next(&self, end: Lsn) -> (Lsn, u64) {
        let plain = end.next();
        let named = self.scan.segments.last().and_then(|s| s.footer.as_ref()).map_or(plain, |f| f.next_lsn);
        let mut next = plain.max(named).max(self.checkpoint.next());
        let mut epoch = self.scan.epoch.max(1);
        if self.lossy {
            // Also past what was set aside: an LSN in the cut may have been told.
            next = Lsn(next.0.saturating_add(EPOCH_JUMP));
            epoch += 1;
        } else if next > plain && next > named {
            epoch += 1;
        }
        (next, epoch)
    }

    /// Copies what is cut to `torn/`, before anything is cut.
    fn save(&self, last: &SegmentInfo, bytes: &[u8], prefix: &Prefix, lsn: Lsn) -> Result<Cut> {
        let rest = &bytes[prefix.end as usize..];
        let rest = &rest[..rest.iter().rposition(|b| *b != 0).map_or(0, |at| at + 1)];
        let dir = torn_dir(self.dir);
        self.storage.create_dir_all(&dir).wal(|| format!("cannot create {}", dir.display()))?;
        let mut copy = 0u32;
        let saved = loop {
            let suffix = if copy == 0 { String::new() } else { format!("-{copy}") };
            let path = dir.join(format!("{}-{:x}{suffix}.bin", last.id, prefix.end));
            let saving = || format!("cannot save the torn tail to {}", path.display());
            match self.storage.create_new(&path) {
                Ok(file) => {
                    file.write_at(&[rest], 0).wal(saving)?;
                    file.sync_data().wal(saving)?;
                    self.storage.sync_dir(&dir).wal(saving)?;
                    break path;
                }
                // Of an earlier recovery that was itself cut off: the same bytes, or others that are worth keeping too. What is already
                // there may not be synced, hence a copy of its own.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists && copy < 1000 => copy += 1,
                Err(e) => return Err(WalError::io(saving(), e)),
            }
        };
        Ok(Cut { file: last.file.clone(), offset: prefix.end, lsn, bytes: rest.len() as u64, saved, blob: prefix.stopped })
    }
}

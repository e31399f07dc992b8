//! The segment that takes records: its birth, and its end by a seal.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::ids::{Lsn, Time};

use super::error::{Result, WalContext, WalError};
use super::format::{FOOTER_LEN, Footer, Framing, HEADER_LEN, Header, Predecessor, segment_path};
use super::log::{Log, Usage, lock};
use super::reserve::Need;
use super::segment::Segment;
use super::spare::Spare;

#[derive(Debug)]
pub(super) struct Active {
    pub(super) segment: Arc<Segment>,
    pub(super) path: PathBuf,
    pub(super) framing: Framing,
    pub(super) digest: blake3::Hasher,
    pub(super) first_lsn: Lsn,
    pub(super) end: u64,
    /// Bytes allotted to it.
    pub(super) size: u64,
    pub(super) count: u64,
    /// Records that are no marks.
    pub(super) real: u64,
    pub(super) payload: u64,
    pub(super) since: Instant,
    pub(super) touched: Instant,
    /// It was made of room that is kept back: bytes of files do not go there.
    pub(super) kept: bool,
}

/// Bytes of a segment that is made of room kept back, at most.
const KEPT_SIZE: u64 = 1 << 20;
/// Others may take room that was given before it is used; so often it is given again.
const KEPT_TRIES: usize = 3;

/// The file that becomes the next segment, and whether it was made of room that is kept back.
#[derive(Debug)]
pub(super) struct Next {
    spare: Spare,
    kept: bool,
}

/// Where the log goes on.
#[derive(Clone, Debug)]
pub(super) struct Position {
    pub(super) prev: Predecessor,
    pub(super) next_lsn: Lsn,
    pub(super) epoch: u64,
    pub(super) last_time: Time,
}

#[derive(Debug)]
pub(super) struct Appender {
    pub(super) active: Option<Active>,
    pub(super) at: Position,
    pub(super) buffer: Vec<u8>,
    pub(super) usage: Usage,
    /// Bytes that the next segment gets.
    pub(super) size: u64,
    /// Taken before the segment before it was sealed.
    pub(super) next: Option<Next>,
}

impl Log {
    /// Seals the active segment; its successor is made by the next append.
    pub(super) fn seal_active(&self, appender: &mut Appender) -> Result<()> {
        self.check()?;
        let Appender { active: slot, at, usage, size, .. } = appender;
        let Some(active) = slot.as_ref() else { return Ok(()) };
        let last = Lsn(at.next_lsn.0 - 1);
        let bytes = self.bytes.load(Ordering::Acquire);
        let footer = Footer {
            count: active.count,
            first_lsn: active.first_lsn,
            last_lsn: last,
            payload: active.payload,
            last_time: at.last_time,
            digest: *active.digest.finalize().as_bytes(),
            durable_lsn: self.durable().min(last),
            next_lsn: at.next_lsn,
            next_epoch: at.epoch,
        };
        let length = active.end + FOOTER_LEN as u64;
        let sealed = (|| {
            (self.before_sync)()?;
            active.segment.file().write_at(&[&active.framing.footer(&footer, active.end)], active.end)?;
            active.segment.file().set_len(length)?;
            active.segment.file().sync_data()
        })();
        sealed.wal(|| format!("cannot seal {}", active.path.display())).map_err(|e| self.poison(e))?;
        // A sync that another thread leads on this file may have taken the error of the same bytes.
        self.check()?;
        at.prev = Predecessor { segment: active.segment.id, end_lsn: last, length, digest: footer.digest };
        usage.bytes = usage.bytes.saturating_sub(active.size).saturating_add(length);
        *size = self.options.first_size();
        *slot = None;
        self.commits.advance(last, bytes);
        Ok(())
    }

    /// Begins a segment when none takes records, so that the one before it is not the last any more and may be pruned.
    ///
    /// # Errors
    /// ENOSPC when there is not even room kept back for one; poisoned.
    pub fn begin(&self) -> Result<()> {
        self.check()?;
        let mut appender = lock(&self.append);
        self.ensure_active(&mut appender, (HEADER_LEN + FOOTER_LEN) as u64 + 4096, Need::Change)
    }

    /// Sees to it that the active segment, if there is one, is fit for `need`: bytes of files go into none that was made of room kept back. For
    /// them its successor is taken first, so that a disk that is still full changes nothing.
    pub(super) fn leave_kept(&self, appender: &mut Appender, needed: u64, need: Need) -> Result<()> {
        if need == Need::Bytes && appender.active.as_ref().is_some_and(|a| a.kept) {
            let path = segment_path(&self.dir, appender.at.prev.segment.next().next());
            let next = self.next(appender, needed, need).wal(|| format!("cannot create {}", path.display()))?;
            appender.next = Some(next);
            self.seal_active(appender)?;
        }
        Ok(())
    }

    fn next(&self, appender: &Appender, needed: u64, need: Need) -> io::Result<Next> {
        let needed = needed.next_multiple_of(4096);
        let wanted = appender.size.max(needed).min(self.options.size());
        let least = self.options.first_size().max(needed).min(wanted);
        if need == Need::Bytes && !self.reserve.is_whole() {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        // Room that was lent must not become a segment: not a large one, and none that takes bytes of files.
        let whole = self.reserve.is_whole();
        let full = if whole {
            match self.spares.take(needed, wanted, least) {
                Err(e) if e.kind() == io::ErrorKind::StorageFull && need > Need::Bytes => e,
                taken => return taken.map(|spare| Next { spare, kept: false }),
            }
        } else {
            io::Error::from_raw_os_error(libc::ENOSPC)
        };
        let size = KEPT_SIZE.min(least).min(self.reserve.part() / 2 / 4096 * 4096).max(needed);
        for _ in 0..KEPT_TRIES {
            // A file takes some more than its bytes: for its name, and the map of its blocks.
            if !self.reserve.give(size + size / 16, need) {
                break;
            }
            match self.spares.make(size) {
                Err(e) if e.kind() == io::ErrorKind::StorageFull => {}
                made => return made.map(|spare| Next { spare, kept: true }),
            }
        }
        if !whole && need > Need::Bytes {
            // Nothing left to give; where there is some room all the same, what takes away goes on.
            return self.spares.take(needed, size, size).map(|spare| Next { spare, kept: true });
        }
        Err(full)
    }

    /// Begins a segment when there is none, with room for `needed` bytes in all.
    pub(super) fn ensure_active(&self, appender: &mut Appender, needed: u64, need: Need) -> Result<()> {
        if appender.active.is_some() {
            return Ok(());
        }
        let id = appender.at.prev.segment.next();
        let path = segment_path(&self.dir, id);
        let creating = || format!("cannot create {}", path.display());
        let Next { spare, kept } = match appender.next.take() {
            Some(next) => next,
            None => self.next(appender, needed, need).wal(creating)?,
        };
        let size = spare.size;
        let header = Header {
            store: self.store,
            segment: id,
            epoch: appender.at.epoch,
            first_lsn: appender.at.next_lsn,
            durable_lsn: self.durable().min(Lsn(appender.at.next_lsn.0 - 1)),
            prev: appender.at.prev,
            created: appender.at.last_time.max(Time::now()),
            allotted: u32::try_from(size).unwrap_or(u32::MAX),
        };
        let encoded = header.encode();
        let born = (|| {
            spare.file.write_at(&[&encoded], 0)?;
            spare.file.sync_data()?;
            self.storage.rename(&spare.path, &path)
        })();
        if let Err(e) = born {
            let _ = self.storage.remove(&spare.path);
            return Err(WalError::io(creating(), e));
        }
        // The name is there and may yet be lost: a second attempt would prove nothing.
        self.storage.sync_dir(&self.dir).wal(|| format!("cannot sync {}", self.dir.display())).map_err(|e| self.poison(e))?;
        let mut digest = blake3::Hasher::new();
        digest.update(&encoded);
        let now = Instant::now();
        appender.at.last_time = header.created;
        appender.usage.segments += 1;
        appender.usage.bytes += size;
        appender.active = Some(Active {
            segment: Arc::new(Segment::new(id, spare.file)),
            path,
            framing: Framing::new(self.store, id),
            digest,
            first_lsn: header.first_lsn,
            end: HEADER_LEN as u64,
            size,
            count: 0,
            real: 0,
            payload: 0,
            since: now,
            touched: now,
            kept,
        });
        if !kept {
            self.spares.order(appender.size);
        }
        Ok(())
    }
}

//! The log as the file system sees it: stamps operations, names who did them, appends.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use super::cuts::Cuts;
use super::meter::Meter;
use crate::blobs::{BlobError, Blobs, Encoding};
use crate::fs::journal::{Caller, Chunks, Journal, JournalError, Recorded, Space};
use crate::ids::{BlobId, Lsn, SegmentId, Time};
use crate::op::{Data, Entry, KIND_PROCESS, Known, Operation, PROCESS_VERSION, ProcessCache, ProcessKey, Stamp, encode};
use crate::tree::Cut;
use crate::wal::{Log, Need, WalError};

/// Room that a record takes beyond its bytes: header and padding.
const FRAME: usize = 40;
/// Room for most process records: nine names of up to 15 bytes, a path, and numbers.
const PROCESS_ROOM: usize = 512;

/// Appends operations to the log.
#[derive(Debug)]
pub struct LogJournal {
    log: Arc<Log>,
    blobs: Arc<Blobs>,
    /// Where statfs looks.
    dir: PathBuf,
    meter: Arc<Meter>,
    cuts: Arc<Cuts>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Highest clamped time so far.
    clock: Time,
    processes: ProcessCache,
    /// Processes that the active segment has a record of.
    written: (SegmentId, HashSet<(ProcessKey, u32)>),
    /// The last of them: a program does many things in a row.
    last: Arc<Known>,
}

impl LogJournal {
    /// A journal whose clamped time goes on from `clock` and which counts into `meter`; with `command_lines` process records hold the arguments of processes.
    #[must_use]
    pub(super) fn new(
        log: Arc<Log>,
        blobs: Arc<Blobs>,
        dir: PathBuf,
        clock: Time,
        command_lines: bool,
        meter: Arc<Meter>,
        cuts: Arc<Cuts>,
    ) -> Self {
        let (processes, written) = (ProcessCache::new(command_lines), (SegmentId(0), HashSet::new()));
        let state = State { clock, processes, written, last: Arc::default() };
        Self { log, blobs, dir, meter, cuts, state: Mutex::new(state) }
    }

    fn check_room(&self) -> Result<(), JournalError> {
        if self.log.has_room() {
            return Ok(());
        }
        Err(JournalError::Full("what is left is kept back for replay and prune".to_owned()))
    }

    fn stamp(state: &mut State, process: ProcessKey, link: Option<Lsn>) -> Stamp {
        let time = Time::now();
        let behind = u64::try_from(state.clock.as_nanos().saturating_sub(time.as_nanos())).unwrap_or(0);
        let stamp = Stamp { time, behind, process, link };
        state.clock = stamp.clamped();
        stamp
    }
}

/// What room an operation may take of a full disk: what takes no bytes must go on there.
fn need_of(op: &Operation) -> Need {
    match op {
        Operation::Write(_) => Need::Bytes,
        Operation::Create(_)
        | Operation::Mkdir(_)
        | Operation::Mknod(_)
        | Operation::Symlink(_)
        | Operation::Link(_)
        | Operation::Fallocate(_)
        | Operation::Clone(_)
        | Operation::SetXattr(_) => Need::Names,
        Operation::Unlink(_)
        | Operation::Rmdir(_)
        | Operation::Rename(_)
        | Operation::Truncate(_)
        | Operation::Chmod(_)
        | Operation::Chown(_)
        | Operation::Utimens(_)
        | Operation::RemoveXattr(_)
        | Operation::Forget(_)
        | Operation::Mark(_) => Need::Change,
    }
}

fn not_put(e: &BlobError) -> JournalError {
    if e.is_full() { JournalError::Full(e.to_string()) } else { JournalError::Io(e.to_string()) }
}

fn refused(e: &WalError) -> JournalError {
    if e.errno() == libc::ENOSPC { JournalError::Full(e.to_string()) } else { JournalError::Io(e.to_string()) }
}

impl Journal for LogJournal {
    fn record(&self, caller: &Caller, op: Operation, payload: Option<&[u8]>, link: Option<Lsn>) -> Result<Recorded, JournalError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = &mut *state;
        let who = state.processes.get(caller.pid, caller.uid).map_err(|e| JournalError::Io(e.to_string()))?;
        let key = (who.record.key, who.record.uid);
        let entry = Entry { stamp: Self::stamp(state, key.0, link), op };
        let (kind, version, body) = encode(&entry).map_err(|e| JournalError::Io(e.to_string()))?;
        let bytes = payload.unwrap_or_default();
        let referenced = entry.op.blob().map_or(0, |(_, len)| u64::from(len));
        let room = body.len() + bytes.len() + who.body.len().max(PROCESS_ROOM) + 2 * FRAME;
        let (written, last) = (&mut state.written, &mut state.last);
        let appended = self.log.append_for(need_of(&entry.op), room, &mut |segment, batch| {
            if written.0 != segment {
                *written = (segment, HashSet::new());
                *last = Arc::default();
            }
            if key.0.pid != 0 && !Arc::ptr_eq(last, &who) && !written.1.contains(&key) {
                batch.push(KIND_PROCESS, PROCESS_VERSION, &[&who.body], 0);
            }
            batch.push(kind, version, &[&body, bytes], referenced);
        });
        let mut appended = appended.map_err(|e| refused(&e))?;
        if !Arc::ptr_eq(&state.last, &who) {
            state.written.1.insert(key);
            state.last = who;
        }
        self.meter.append(&entry.op);
        let own = appended.pop().ok_or_else(|| JournalError::Io("the log took no record".to_owned()))?;
        let payload = matches!(&entry.op, Operation::Write(w) if matches!(w.data, Data::Inline(_)))
            .then(|| (own.segment as Arc<dyn crate::tree::LogBytes>, own.body_offset + body.len() as u64));
        Ok(Recorded { lsn: own.lsn, entry, payload })
    }

    fn put_blob(&self, bytes: &[u8]) -> Result<BlobId, JournalError> {
        self.check_room()?;
        self.blobs.put(bytes, Encoding::Raw).map_err(|e| not_put(&e))
    }

    fn put_chunks<'b>(&self, bytes: usize, next: &mut dyn FnMut() -> Option<&'b [u8]>) -> Result<Chunks<'_>, JournalError> {
        self.check_room()?;
        let hold = self.blobs.hold();
        let mut lens = Vec::new();
        let mut next = || next().inspect(|chunk| lens.push(chunk.len()));
        let ids = self.blobs.put_as_found(bytes, &mut next, Encoding::Compress).map_err(|e| not_put(&e))?;
        for (id, len) in ids.iter().zip(lens) {
            self.cuts.note(*id, Cut::Bytes, u32::try_from(len).unwrap_or(u32::MAX));
        }
        Ok(Chunks { ids, hold: Some(hold) })
    }

    fn sync(&self) -> Result<(), JournalError> {
        self.log.sync().map(drop).map_err(|e| refused(&e))
    }

    fn space(&self) -> Space {
        space_of(&self.dir)
    }
}

/// Space of the disk that holds `dir`; zero where it cannot be asked.
pub(super) fn space_of(dir: &std::path::Path) -> Space {
    rustix::fs::statvfs(dir).map_or_else(
        |_| Space::default(),
        |s| Space {
            total: s.f_blocks * s.f_frsize,
            free: s.f_bfree * s.f_frsize,
            available: s.f_bavail * s.f_frsize,
            inodes_free: s.f_favail,
        },
    )
}

//! Large files that are written from front to back are cut into chunks while they come, so that each byte is stored once: replay then finds
//! the chunks that it would cut, and reads nothing.
//!
//! A chunk ends where its bytes say so. What comes after the last end within a write is logged as it is, for the write is answered now;
//! the next write then begins with the chunk that these bytes are the front of, and so logs them again, as the same bytes. Whatever else
//! changes the file meanwhile ends that: then nothing is written but what the program gave.

use std::collections::HashMap;

use super::journal::Caller;
use super::{Fs, FsError, FsResult, Written};
use crate::ids::Ino;
use crate::op::{BLOB_THRESHOLD, Data, Operation, Write};
use crate::versions::chunker;

/// Shorter writes are no stream: too much of them would be logged twice.
pub(super) const WRITE_MIN: usize = 2 * BLOB_THRESHOLD;
/// So many bytes in a row, and the next ones are cut. Files below that are often temporary, or written anew.
const CUT_FROM: u64 = 4 << 20;
/// Files remembered at a time, with up to [`chunker::MAX`] bytes each.
const STREAMS_MAX: usize = 32;

/// A file that is being written from front to back.
#[derive(Debug)]
struct Stream {
    /// Where the next write is expected.
    next: u64,
    /// Bytes that came in a row.
    run: u64,
    /// The bytes before `next` that no chunk holds yet.
    rest: Vec<u8>,
    /// The write that is cutting now.
    cutting: Option<u64>,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Streams {
    files: HashMap<Ino, Stream>,
    turns: u64,
}

impl Streams {
    /// An operation is about to change the file's bytes.
    pub(super) fn changing(&mut self, op: &Operation) {
        if let Operation::Write(_) | Operation::Truncate(_) | Operation::Fallocate(_) | Operation::Clone(_) = op
            && let Some(ino) = op.ino()
        {
            self.files.remove(&ino);
        }
    }

    /// Nobody has the file open.
    pub(super) fn closed(&mut self, ino: Ino) {
        self.files.remove(&ino);
    }

    /// Bytes in a row that end at `offset`.
    pub(super) fn run_to(&self, ino: Ino, offset: u64) -> u64 {
        self.files.get(&ino).filter(|file| file.next == offset).map_or(0, |file| file.run)
    }

    /// A write of `len` bytes was logged as it is, after `run` others.
    pub(super) fn went_on(&mut self, ino: Ino, end: u64, run: u64) {
        self.keep(ino, Stream { next: end, run, rest: Vec::new(), cutting: None });
    }

    fn keep(&mut self, ino: Ino, stream: Stream) {
        if self.files.len() >= STREAMS_MAX && !self.files.contains_key(&ino) {
            // It only saves work.
            self.files.clear();
        }
        self.files.insert(ino, stream);
    }

    /// Begins to cut a write; gives its turn and the bytes before it. `None` when it is not one to be cut.
    fn begin(&mut self, ino: Ino, offset: u64) -> Option<(u64, Vec<u8>)> {
        let stream = self.files.get_mut(&ino)?;
        if stream.next != offset || stream.run < CUT_FROM || stream.cutting.is_some() {
            return None;
        }
        self.turns += 1;
        stream.cutting = Some(self.turns);
        Some((self.turns, std::mem::take(&mut stream.rest)))
    }

    fn is_turn(&self, ino: Ino, turn: u64) -> bool {
        self.files.get(&ino).is_some_and(|stream| stream.cutting == Some(turn))
    }
}

impl Fs {
    /// Writes what goes on where the file's last write ended, as chunks. `None` when it is not such a write, and nothing was written.
    pub(super) fn write_stream(&self, caller: &Caller, ino: Ino, offset: u64, bytes: &[u8], kill: bool) -> FsResult<Option<Written>> {
        let Some((turn, mut buffer)) = self.locked().guard.streams.begin(ino, offset) else { return Ok(None) };
        let begin = offset - buffer.len() as u64;
        buffer.extend_from_slice(bytes);
        let (mut lens, mut at) = (Vec::new(), 0);
        while let Some(len) = chunker::sure_cut(buffer.get(at..).unwrap_or_default()) {
            lens.push(len);
            at += len;
        }
        // Without the lock: others go on meanwhile, and a sweep waits until the records are there.
        let stored = self.journal.put_chunks(&buffer, &lens)?;
        let left_from = at.max(buffer.len() - bytes.len());
        let left = buffer.get(left_from..).unwrap_or_default();
        let mut writer = self.locked();
        if !writer.guard.streams.is_turn(ino, turn) {
            return Ok(None);
        }
        let run = writer.guard.streams.run_to(ino, offset).saturating_add(bytes.len() as u64);
        let (mut size, mut mode_after) = writer.begin_write(caller, ino, kill)?;
        let mut start = begin;
        for (id, len) in stored.ids.iter().zip(&lens) {
            let len = u32::try_from(*len).map_err(|_| FsError::Invalid)?;
            size = size.max(start + u64::from(len));
            let op = Write { ino, offset: start, data: Data::Blob { id: *id, len }, size_after: size, mode_after: mode_after.take() };
            writer.log(caller, op.into(), None, None)?;
            start += u64::from(len);
        }
        // Into the log, however much it is: in the packs it would outlast the next write, which replaces it.
        let mut start = begin + left_from as u64;
        for piece in left.chunks(BLOB_THRESHOLD - 1) {
            let len = u32::try_from(piece.len()).map_err(|_| FsError::Invalid)?;
            size = size.max(start + u64::from(len));
            let op = Write { ino, offset: start, data: Data::Inline(len), size_after: size, mode_after: mode_after.take() };
            writer.log(caller, op.into(), Some(piece), None)?;
            start += u64::from(len);
        }
        drop(stored);
        buffer.drain(..at);
        let next = offset + bytes.len() as u64;
        writer.guard.streams.keep(ino, Stream { next, run, rest: buffer, cutting: None });
        Ok(Some(Written { len: u32::try_from(bytes.len()).unwrap_or(u32::MAX) }))
    }
}

#[cfg(test)]
mod tests;

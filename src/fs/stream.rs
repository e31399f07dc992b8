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

/// Shorter writes begin no stream: too much of them would be logged twice. Less than the 128 KiB of cp and cat, of which the kernel sends up to a
/// page by itself where they do not begin on one.
pub(super) const WRITE_MIN: usize = BLOB_THRESHOLD / 2 * 3;
/// So many bytes in a row, and the next ones are cut. Files below that are often temporary, or written anew.
const CUT_FROM: u64 = 4 << 20;
/// Files remembered at a time, with up to [`chunker::MAX`] bytes each.
const STREAMS_MAX: usize = 32;
/// Buffers that are kept for the next writes: memory that was given back is taken anew page by page, which costs as much as a copy.
const SPARE_MAX: usize = 2;

/// A file that is being written from front to back.
#[derive(Debug)]
pub(super) struct Stream {
    /// Where the next write is expected.
    next: u64,
    /// Bytes that came in a row.
    run: u64,
    /// The bytes before `next` that no chunk holds yet.
    rest: Vec<u8>,
    /// The write that is cutting now.
    cutting: Option<u64>,
}

impl Stream {
    /// Bytes that came in a row.
    pub(super) fn run(&self) -> u64 {
        self.run
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Streams {
    files: HashMap<Ino, Stream>,
    turns: u64,
    /// Empty buffers.
    spare: Vec<Vec<u8>>,
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

    /// The kernel has forgotten the file.
    pub(super) fn closed(&mut self, ino: Ino) {
        self.files.remove(&ino);
    }

    /// Bytes in a row that end at `offset`.
    fn run_to(&self, ino: Ino, offset: u64) -> u64 {
        self.files.get(&ino).filter(|file| file.next == offset).map_or(0, |file| file.run)
    }

    /// A write of `len` bytes was logged as it is, after `run` others.
    pub(super) fn went_on(&mut self, ino: Ino, end: u64, run: u64) {
        self.keep(ino, Stream { next: end, run, rest: Vec::new(), cutting: None });
    }

    /// Takes out what a write at `offset` goes on with, if something was written up to there.
    pub(super) fn take(&mut self, ino: Ino, offset: u64) -> Option<Stream> {
        self.files.get(&ino).filter(|file| file.next == offset)?;
        self.files.remove(&ino)
    }

    /// Puts it back: a write too short to be cut was logged behind it as it is. It is part of the next chunk.
    pub(super) fn went_on_little(&mut self, ino: Ino, mut stream: Stream, bytes: &[u8]) {
        if stream.rest.len() + bytes.len() > chunker::MAX {
            return;
        }
        stream.next += bytes.len() as u64;
        stream.run += bytes.len() as u64;
        // Until one is long enough to be cut, nothing is held.
        if stream.run >= CUT_FROM {
            stream.rest.extend_from_slice(bytes);
        }
        // Who was cutting finds that it is no longer its turn.
        stream.cutting = None;
        self.keep(ino, stream);
    }

    fn keep(&mut self, ino: Ino, stream: Stream) {
        if self.files.len() >= STREAMS_MAX && !self.files.contains_key(&ino) {
            // One goes that is not being cut, if there is one; which, matters little: it only saves work.
            let young = self.files.iter().find(|(_, file)| file.run < CUT_FROM);
            let idle = || self.files.iter().find(|(_, file)| file.cutting.is_none());
            match young.or_else(idle).map(|(ino, _)| *ino) {
                Some(gone) => _ = self.files.remove(&gone),
                None => return,
            }
        }
        self.files.insert(ino, stream);
    }

    /// Begins to cut a write; gives its turn and a buffer with the bytes before it, which no chunk holds yet. `None` when it is not one to be
    /// cut.
    fn begin(&mut self, ino: Ino, offset: u64) -> Option<(u64, Vec<u8>)> {
        let stream = self.files.get_mut(&ino)?;
        if stream.next != offset || stream.run < CUT_FROM || stream.cutting.is_some() {
            return None;
        }
        self.turns += 1;
        stream.cutting = Some(self.turns);
        let mut buffer = self.spare.pop().unwrap_or_default();
        buffer.extend_from_slice(&stream.rest);
        Some((self.turns, buffer))
    }

    /// Takes a buffer back.
    fn give_back(&mut self, mut buffer: Vec<u8>) {
        if self.spare.len() < SPARE_MAX {
            buffer.clear();
            self.spare.push(buffer);
        }
    }

    fn is_turn(&self, ino: Ino, turn: u64) -> bool {
        self.files.get(&ino).is_some_and(|stream| stream.cutting == Some(turn))
    }
}

impl Fs {
    /// Writes what goes on where the file's last write ended, as chunks. `None` when it is not such a write, and nothing was written.
    pub(super) fn write_stream(&self, caller: &Caller, ino: Ino, offset: u64, bytes: &[u8], kill: bool) -> FsResult<Option<Written>> {
        let Some((turn, mut head)) = self.locked().guard.streams.begin(ino, offset) else { return Ok(None) };
        // Places are counted from where the first chunk begins: first come the bytes that no chunk holds yet, `before` of them, then those of
        // this write. Only for a chunk that begins in the first ones they have to stand in a row.
        let before = head.len();
        let begin = offset - before as u64;
        head.extend_from_slice(bytes.get(..chunker::MAX).unwrap_or(bytes));
        let from = |at: usize| if at < before { head.get(at..) } else { bytes.get(at - before..) }.unwrap_or_default();
        let (mut lens, mut at) = (Vec::new(), 0);
        let mut next = || {
            let chunk = chunker::sure_cut(from(at)).and_then(|len| from(at).get(..len))?;
            lens.push(chunk.len());
            at += chunk.len();
            Some(chunk)
        };
        // Without the lock: others go on meanwhile, and a sweep waits until the records are there.
        let stored = self.journal.put_chunks(before + bytes.len(), &mut next)?;
        let left_from = at.max(before);
        let left = from(left_from);
        let mut writer = self.locked();
        if !writer.guard.streams.is_turn(ino, turn) {
            return Ok(None);
        }
        let run = writer.guard.streams.run_to(ino, offset).saturating_add(bytes.len() as u64);
        let (mut size, mut mode_after) = writer.begin_write(caller, ino, kill)?;
        // Into the log, however much is left: in the packs it would outlast the next write, which replaces it.
        let chunks = stored.ids.iter().zip(&lens).map(|(id, len)| (Some(*id), *len));
        let pieces = chunks.chain(left.chunks(BLOB_THRESHOLD - 1).map(|piece| (None, piece.len())));
        let mut place = 0;
        for (id, long) in pieces {
            if id.is_none() {
                place = place.max(left_from);
            }
            let len = u32::try_from(long).map_err(|_| FsError::Invalid)?;
            let start = begin + place as u64;
            size = size.max(start + u64::from(len));
            let data = id.map_or(Data::Inline(len), |id| Data::Blob { id, len });
            let payload = if id.is_none() { from(place).get(..long) } else { None };
            let op = Write { ino, offset: start, data, size_after: size, mode_after: mode_after.take() };
            match writer.log(caller, op.into(), payload, None) {
                Ok(_) => place += long,
                // As write(2) has it: what is there counts.
                Err(FsError::NoSpace(_)) if start > offset => {
                    return Ok(Some(Written { len: u32::try_from(start - offset).unwrap_or(u32::MAX) }));
                }
                Err(e) => return Err(e),
            }
        }
        drop(stored);
        let next = offset + bytes.len() as u64;
        let rest = from(at).to_vec();
        writer.guard.streams.keep(ino, Stream { next, run, rest, cutting: None });
        writer.guard.streams.give_back(head);
        Ok(Some(Written { len: u32::try_from(bytes.len()).unwrap_or(u32::MAX) }))
    }
}

#[cfg(test)]
mod tests;

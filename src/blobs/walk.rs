//! Walking a pack: which entries it holds, and which stretches are none. One step at a time, so that a walk takes no memory to speak of;
//! never writes, never panics.

use std::io;

use super::pack::{ALIGN, BLOCK_LEN, ENTRY_HEAD_LEN, ENTRY_MAGIC, EntryHead, MAX_ENTRY_START, MAX_HEAD_LEN, table_crc};
use crate::ids::{PackId, StoreId};
use crate::storage::StorageFile;

/// One thing that a walk meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A valid entry: its head is sound, and all of it lies inside the file. Its stored bytes have not been looked at.
    Entry(EntryHead),
    /// A stretch before a valid entry that is none itself.
    Gap {
        /// Where it starts.
        offset: u64,
        /// Its length in bytes.
        len: u64,
    },
}

/// Why a walk cannot go on: the offset at which the disk refused to read.
pub(super) type Unreadable = (u64, io::Error);

/// Walks the entries of one pack.
pub(super) struct Walker<'a> {
    window: Window<'a>,
    store: StoreId,
    pack: PackId,
    end: u64,
    /// The entry behind a gap that has just been given.
    found: Option<EntryHead>,
}

impl<'a> Walker<'a> {
    /// A walk of `file` from `from` (a multiple of 8) to the length that it has now, by heads.
    pub fn new(file: &'a dyn StorageFile, store: StoreId, pack: PackId, from: u64) -> io::Result<Self> {
        Ok(Self { window: Window::new(file, file.len()?, HEADS_WINDOW), store, pack, end: from, found: None })
    }

    /// A walk in which most bytes of entries will be asked for ([`Walker::bytes`]).
    pub fn whole(file: &'a dyn StorageFile, store: StoreId, pack: PackId, from: u64) -> io::Result<Self> {
        Ok(Self { window: Window::new(file, file.len()?, WHOLE_WINDOW), store, pack, end: from, found: None })
    }

    /// Length of the file when the walk began.
    pub fn len(&self) -> u64 {
        self.window.len
    }

    /// Where the valid entries given so far end; after the last step, `end..len` is no valid entry.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// The next step; `None` behind the last valid entry.
    pub fn step(&mut self) -> Result<Option<Step>, Unreadable> {
        if let Some(entry) = self.found.take() {
            return Ok(Some(self.pass(entry)));
        }
        let start = self.end;
        if start >= self.window.len {
            return Ok(None);
        }
        if let Some(entry) = self.entry_at(start).map_err(|e| (start, e))? {
            return Ok(Some(self.pass(entry)));
        }
        let Some(entry) = self.next_entry(start + ALIGN)? else { return Ok(None) };
        self.found = Some(entry);
        Ok(Some(Step::Gap { offset: start, len: entry.offset - start }))
    }

    fn pass(&mut self, entry: EntryHead) -> Step {
        self.end = entry.offset + entry.total_len();
        Step::Entry(entry)
    }

    /// The whole entry as stored: head, table, stored bytes, padding. `None` when the file has become shorter since.
    pub fn bytes(&mut self, entry: &EntryHead) -> io::Result<Option<&[u8]>> {
        self.window.get_any(entry.offset, entry.total_len() as usize)
    }

    /// The valid entry at `offset`, if there is one.
    fn entry_at(&mut self, offset: u64) -> io::Result<Option<EntryHead>> {
        if offset >= MAX_ENTRY_START {
            return Ok(None);
        }
        let Some(entry) = self.window.get(offset, ENTRY_HEAD_LEN)?.and_then(|b| EntryHead::parse(b, offset)) else { return Ok(None) };
        if offset + entry.total_len() > self.window.len {
            return Ok(None);
        }
        let (store, pack) = (self.store, self.pack);
        Ok(self.window.get(offset, entry.head_len())?.is_some_and(|b| entry.is_sound(store, pack, b)).then_some(entry))
    }

    /// The first valid entry at or behind `from`.
    fn next_entry(&mut self, from: u64) -> Result<Option<EntryHead>, Unreadable> {
        let mut offset = from;
        loop {
            let step = self.window.rest_at(offset).map_err(|e| (offset, e))?;
            if step.len() < ENTRY_MAGIC.len() || offset >= MAX_ENTRY_START {
                return Ok(None);
            }
            let places = step.len().div_ceil(ALIGN as usize);
            let hit = step.chunks(ALIGN as usize).position(|c| c.starts_with(&ENTRY_MAGIC));
            match hit {
                None => offset += places as u64 * ALIGN,
                Some(n) => {
                    offset += n as u64 * ALIGN;
                    if let Some(entry) = self.entry_at(offset).map_err(|e| (offset, e))? {
                        return Ok(Some(entry));
                    }
                    offset += ALIGN;
                }
            }
        }
    }
}

/// A look into a file, read in pieces, so that many small entries cost few calls.
struct Window<'a> {
    file: &'a dyn StorageFile,
    len: u64,
    /// Bytes read at once.
    piece: usize,
    start: u64,
    buf: Vec<u8>,
}

/// Bytes read at once where only heads are looked at: many small entries, or one head and a few KiB for nothing.
const HEADS_WINDOW: usize = 16 << 10;
/// Bytes read at once where everything is: longer entries are read by themselves.
const WHOLE_WINDOW: usize = 256 << 10;
const _: () = assert!(HEADS_WINDOW >= MAX_HEAD_LEN && HEADS_WINDOW.is_multiple_of(ALIGN as usize));
const _: () = assert!(WHOLE_WINDOW >= MAX_HEAD_LEN && WHOLE_WINDOW.is_multiple_of(ALIGN as usize));

impl<'a> Window<'a> {
    fn new(file: &'a dyn StorageFile, len: u64, piece: usize) -> Self {
        Self { file, len, piece, start: 0, buf: Vec::new() }
    }

    fn holds(&self, offset: u64, n: usize) -> bool {
        offset >= self.start && offset + n as u64 <= self.start + self.buf.len() as u64
    }

    /// `n` bytes at `offset`, at most a piece; `None` where the file ends before them.
    fn get(&mut self, offset: u64, n: usize) -> io::Result<Option<&[u8]>> {
        if !self.holds(offset, n) {
            self.fill(offset, self.piece)?;
        }
        if !self.holds(offset, n) {
            return Ok(None);
        }
        let at = (offset - self.start) as usize;
        Ok(self.buf.get(at..at + n))
    }

    /// As [`Window::get`], for any `n`.
    fn get_any(&mut self, offset: u64, n: usize) -> io::Result<Option<&[u8]>> {
        if !self.holds(offset, n) {
            // The next entry's head too.
            self.fill(offset, self.piece.max(n + MAX_HEAD_LEN))?;
        }
        self.get(offset, n)
    }

    /// What is at hand from `offset` on; empty only at the end of the file.
    fn rest_at(&mut self, offset: u64) -> io::Result<&[u8]> {
        if offset < self.start || offset >= self.start + self.buf.len() as u64 {
            self.fill(offset, self.piece)?;
        }
        Ok(self.buf.get((offset - self.start) as usize..).unwrap_or_default())
    }

    fn fill(&mut self, offset: u64, most: usize) -> io::Result<()> {
        self.start = offset;
        self.buf.resize(most.min(usize::try_from(self.len.saturating_sub(offset)).unwrap_or(most)), 0);
        let mut done = 0;
        while done < self.buf.len() {
            match self.file.read_at(&mut self.buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    self.buf.clear();
                    return Err(e);
                }
            }
        }
        self.buf.truncate(done);
        Ok(())
    }
}

/// The first block of an entry that fails its CRC: its number. `head` is head and table, `data` the stored bytes with their padding.
pub(super) fn bad_block(entry: &EntryHead, head: &[u8], data: &[u8]) -> Option<usize> {
    (0..entry.blocks()).find(|&n| {
        let start = n * BLOCK_LEN;
        data.get(start..start + entry.block_len(n)).map(crc32fast::hash) != Some(table_crc(head, n))
    })
}

//! Walking a pack: which entries it holds, and which stretches are none. Reads heads only, never writes, never panics.

use std::io;

use super::pack::{ALIGN, BLOCK_LEN, ENTRY_HEAD_LEN, ENTRY_MAGIC, EntryHead, MAX_HEAD_LEN, table_crc};
use crate::ids::{PackId, StoreId};
use crate::storage::StorageFile;

/// What a walk found in a stretch of a pack.
#[derive(Debug, Default)]
pub(super) struct Walk {
    /// Valid entries in order of their offsets; all of each lies inside the file.
    pub entries: Vec<EntryHead>,
    /// Stretches between valid entries that are none: offset and length.
    pub gaps: Vec<(u64, u64)>,
    /// Where the valid entries end.
    pub end: u64,
    /// Length of the file when the walk began; `end..len` is no valid entry.
    pub len: u64,
    /// Where and why reading stopped, if the disk refused.
    pub unreadable: Option<(u64, io::Error)>,
}

/// Walks the entries of `file` from `from` (a multiple of 8).
pub(super) fn walk(file: &dyn StorageFile, store: StoreId, pack: PackId, from: u64) -> io::Result<Walk> {
    let len = file.len()?;
    let mut found = Walk { end: from, len, ..Walk::default() };
    let mut window = Window::new(file, len);
    if let Err((at, e)) = walk_on(&mut window, store, pack, &mut found) {
        found.unreadable = Some((at, e));
    }
    Ok(found)
}

fn walk_on(window: &mut Window<'_>, store: StoreId, pack: PackId, found: &mut Walk) -> Result<(), (u64, io::Error)> {
    while found.end < found.len {
        let start = found.end;
        let entry = match entry_at(window, store, pack, start).map_err(|e| (start, e))? {
            Some(entry) => entry,
            None => match next_entry(window, store, pack, start + ALIGN)? {
                Some(entry) => {
                    found.gaps.push((start, entry.offset - start));
                    entry
                }
                None => return Ok(()),
            },
        };
        found.end = entry.offset + entry.total_len();
        found.entries.push(entry);
    }
    Ok(())
}

/// The valid entry at `offset`, if there is one.
fn entry_at(window: &mut Window<'_>, store: StoreId, pack: PackId, offset: u64) -> io::Result<Option<EntryHead>> {
    let Some(entry) = window.get(offset, ENTRY_HEAD_LEN)?.and_then(|b| EntryHead::parse(b, offset)) else { return Ok(None) };
    if offset + entry.total_len() > window.len {
        return Ok(None);
    }
    Ok(window.get(offset, entry.head_len())?.is_some_and(|b| entry.is_sound(store, pack, b)).then_some(entry))
}

/// The first valid entry at or behind `from`.
fn next_entry(window: &mut Window<'_>, store: StoreId, pack: PackId, from: u64) -> Result<Option<EntryHead>, (u64, io::Error)> {
    let mut offset = from;
    loop {
        let step = window.rest_at(offset).map_err(|e| (offset, e))?;
        if step.len() < ENTRY_MAGIC.len() {
            return Ok(None);
        }
        let places = step.len().div_ceil(ALIGN as usize);
        let hit = step.chunks(ALIGN as usize).position(|c| c.starts_with(&ENTRY_MAGIC));
        match hit {
            None => offset += places as u64 * ALIGN,
            Some(n) => {
                offset += n as u64 * ALIGN;
                if let Some(entry) = entry_at(window, store, pack, offset).map_err(|e| (offset, e))? {
                    return Ok(Some(entry));
                }
                offset += ALIGN;
            }
        }
    }
}

/// A look into a file, read in pieces, so that many small entries cost few calls.
struct Window<'a> {
    file: &'a dyn StorageFile,
    len: u64,
    start: u64,
    buf: Vec<u8>,
}

/// Bytes read at once.
const WINDOW_LEN: usize = 16 << 10;
const _: () = assert!(WINDOW_LEN >= MAX_HEAD_LEN && WINDOW_LEN.is_multiple_of(ALIGN as usize));

impl<'a> Window<'a> {
    fn new(file: &'a dyn StorageFile, len: u64) -> Self {
        Self { file, len, start: 0, buf: Vec::new() }
    }

    /// `n` bytes at `offset`; `None` where the file ends before them.
    fn get(&mut self, offset: u64, n: usize) -> io::Result<Option<&[u8]>> {
        let inside = |w: &Self| offset >= w.start && offset + n as u64 <= w.start + w.buf.len() as u64;
        if !inside(self) {
            self.fill(offset)?;
        }
        if !inside(self) {
            return Ok(None);
        }
        let at = (offset - self.start) as usize;
        Ok(self.buf.get(at..at + n))
    }

    /// What is at hand from `offset` on; empty only at the end of the file.
    fn rest_at(&mut self, offset: u64) -> io::Result<&[u8]> {
        if offset < self.start || offset >= self.start + self.buf.len() as u64 {
            self.fill(offset)?;
        }
        Ok(self.buf.get((offset - self.start) as usize..).unwrap_or_default())
    }

    fn fill(&mut self, offset: u64) -> io::Result<()> {
        self.start = offset;
        self.buf.resize(WINDOW_LEN.min(usize::try_from(self.len.saturating_sub(offset)).unwrap_or(WINDOW_LEN)), 0);
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

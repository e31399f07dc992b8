//! Reading: whole and verified, in part with the CRCs of the blocks touched, or only to verify.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use super::compression::inflate;
use super::find::Place;
use super::hashing::{address, read_addressed};
use super::pack::{BLOCK_LEN, MAX_HEAD_LEN, Stored, table_crc};
use super::walk::bad_block;
use super::{BlobError, Blobs, Fault, Finding, lock};
use crate::ids::BlobId;

/// What [`Blobs::verify`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlobState {
    /// Everything is right: head, CRCs, padding, hash.
    Sound,
    /// Not in the store.
    Missing,
    /// The bytes fail their check.
    Damaged(Finding),
    /// The disk refused to read: neither sound nor damaged.
    Unreadable(String),
}

impl Blobs {
    /// The blob's bytes, their hash verified.
    ///
    /// # Errors
    /// `Missing`, `Damaged`, `Io`.
    pub fn get(&self, id: &BlobId) -> Result<Vec<u8>, BlobError> {
        let mut bytes = Vec::new();
        self.get_into(id, &mut bytes)?;
        Ok(bytes)
    }

    /// As [`Blobs::get`], into `buf`, whose length becomes the blob's: a buffer that is used again costs neither its pages nor zeros.
    ///
    /// # Errors
    /// As [`Blobs::get`]; `buf` is then undefined.
    pub fn get_into(&self, id: &BlobId, buf: &mut Vec<u8>) -> Result<(), BlobError> {
        self.with_place(id, |place, _| self.read_whole(place, buf))
    }

    /// Reads up to `buf.len()` bytes of the blob from `offset` on; fewer only at its end, 0 past it. Of a raw blob only the 64 KiB blocks
    /// touched are read and checked.
    ///
    /// # Errors
    /// `Missing`, `Damaged`, `Io`; `buf` is then undefined.
    pub fn read_at(&self, id: &BlobId, offset: u64, buf: &mut [u8]) -> Result<usize, BlobError> {
        self.with_place(id, |place, head| {
            let raw_len = place.entry.raw_len;
            let start = usize::try_from(offset.min(u64::from(raw_len))).unwrap_or(usize::MAX);
            let n = buf.len().min(raw_len as usize - start);
            if n == 0 {
                return Ok(0);
            }
            match place.entry.encoding {
                Stored::Raw => self.read_blocks(place, head, start, &mut buf[..n])?,
                Stored::Zstd => {
                    let cached = lock(&self.inflated).get(id);
                    let bytes = match cached {
                        Some(bytes) => bytes,
                        None => {
                            let mut bytes = Vec::new();
                            self.read_whole(place, &mut bytes)?;
                            let bytes = Arc::new(bytes);
                            lock(&self.inflated).insert(*id, Arc::clone(&bytes));
                            bytes
                        }
                    };
                    buf[..n].copy_from_slice(&bytes[start..start + n]);
                }
            }
            Ok(n)
        })
    }

    /// Reads and checks everything of the blob's entry.
    #[must_use]
    pub fn verify(&self, id: &BlobId) -> BlobState {
        match self.with_place(id, |place, head| self.check_entry(place, head)) {
            Ok(()) => BlobState::Sound,
            Err(BlobError::Missing(_)) => BlobState::Missing,
            Err(BlobError::Damaged(finding)) => BlobState::Damaged(finding),
            Err(e) => BlobState::Unreadable(e.to_string()),
        }
    }

    /// Does `read` on the blob's place, with head and table. A pack may be swept, or written afresh by a writer that recovers, while a
    /// reader is on its way to it: then the blob is looked up again.
    pub(super) fn with_place<T>(&self, id: &BlobId, mut read: impl FnMut(&Place, &[u8]) -> Result<T, BlobError>) -> Result<T, BlobError> {
        let mut head = [0; MAX_HEAD_LEN];
        let mut last = None;
        for _ in 0..4 {
            let result = match self.find(id, &mut head) {
                Ok(Some(place)) => read(&place, &head[..place.entry.head_len()]),
                Ok(None) => return Err(last.unwrap_or_else(|| self.missing(id))),
                Err(e) => Err(e),
            };
            match result {
                Err(BlobError::Io { doing, source }) if source.kind() == io::ErrorKind::NotFound => {
                    last = Some(BlobError::Missing(*id));
                    tracing::debug!(%doing, "pack is gone; looking again");
                }
                Err(BlobError::Damaged(finding)) if !self.writable && last.is_none() => last = Some(BlobError::Damaged(finding)),
                other => return other,
            }
            self.refresh()?;
        }
        Err(last.unwrap_or(BlobError::Missing(*id)))
    }

    /// The blob is not in the index: an I/O error where not everything could be indexed.
    fn missing(&self, id: &BlobId) -> BlobError {
        match self.unread.get() {
            Some(why) => BlobError::io(format!("look for blob {id}"), io::Error::other(why.clone())),
            None => BlobError::Missing(*id),
        }
    }

    /// Stored bytes, decompressed, hash verified.
    pub(super) fn read_whole(&self, place: &Place, buf: &mut Vec<u8>) -> Result<(), BlobError> {
        let entry = &place.entry;
        let found = match entry.encoding {
            Stored::Raw => {
                let len = entry.raw_len as usize;
                if buf.is_empty() {
                    // The allocator may have zeros at hand.
                    *buf = vec![0; len];
                } else {
                    buf.resize(len, 0);
                }
                let at = entry.data_offset();
                read_addressed(&*place.file, buf, at).map_err(|e| self.refused(place, at, len, e))?
            }
            Stored::Zstd => {
                let mut stored = vec![0; entry.stored_len as usize];
                self.read_exact(place, &mut stored, entry.data_offset())?;
                *buf = self.inflate(place, &stored)?;
                address(buf)
            }
        };
        if found == entry.id { Ok(()) } else { Err(self.damaged(place, entry.offset, entry.total_len(), Fault::Hash)) }
    }

    fn read_blocks(&self, place: &Place, head: &[u8], start: usize, buf: &mut [u8]) -> Result<(), BlobError> {
        let entry = &place.entry;
        let mut block = Vec::new();
        let mut done = 0;
        while done < buf.len() {
            let at = start + done;
            let n = at / BLOCK_LEN;
            let block_start = entry.data_offset() + (n * BLOCK_LEN) as u64;
            block.resize(entry.block_len(n), 0);
            self.read_exact(place, &mut block, block_start)?;
            if crc32fast::hash(&block) != table_crc(head, n) {
                return Err(self.damaged(place, block_start, block.len() as u64, Fault::Block));
            }
            let from = at % BLOCK_LEN;
            // The last block ends with padding, but `buf` ends with the blob.
            let len = (buf.len() - done).min(BLOCK_LEN - from);
            buf[done..done + len].copy_from_slice(&block[from..from + len]);
            done += len;
        }
        Ok(())
    }

    fn check_entry(&self, place: &Place, head: &[u8]) -> Result<(), BlobError> {
        let entry = &place.entry;
        let mut data = vec![0u8; entry.stored_len as usize + entry.padding()];
        self.read_exact(place, &mut data, entry.data_offset())?;
        if let Some(n) = bad_block(entry, head, &data) {
            let at = entry.data_offset() + (n * BLOCK_LEN) as u64;
            return Err(self.damaged(place, at, entry.block_len(n) as u64, Fault::Block));
        }
        let stored = &data[..entry.stored_len as usize];
        let right = match entry.encoding {
            Stored::Raw => address(stored) == entry.id,
            Stored::Zstd => address(&self.inflate(place, stored)?) == entry.id,
        };
        if right { Ok(()) } else { Err(self.damaged(place, entry.offset, entry.total_len(), Fault::Hash)) }
    }

    fn inflate(&self, place: &Place, stored: &[u8]) -> Result<Vec<u8>, BlobError> {
        match inflate(stored, place.entry.raw_len as usize) {
            Ok(raw) if raw.len() == place.entry.raw_len as usize => Ok(raw),
            _ => Err(self.damaged(place, place.entry.data_offset(), u64::from(place.entry.stored_len), Fault::Block)),
        }
    }

    fn read_exact(&self, place: &Place, buf: &mut [u8], offset: u64) -> Result<(), BlobError> {
        place.file.read_exact_at(buf, offset).map_err(|e| self.refused(place, offset, buf.len(), e))
    }

    fn refused(&self, place: &Place, offset: u64, len: usize, e: io::Error) -> BlobError {
        if e.kind() == io::ErrorKind::UnexpectedEof {
            return self.damaged(place, offset, len as u64, Fault::Entry);
        }
        let path = self.pack_path(place.pack);
        BlobError::io(format!("read blob {} in `{}` at offset {offset}", place.entry.id, path.display()), e)
    }

    fn damaged(&self, place: &Place, offset: u64, len: u64, fault: Fault) -> BlobError {
        BlobError::Damaged(Finding { file: self.pack_path(place.pack), offset, len, id: Some(place.entry.id), fault })
    }
}

/// Blobs decompressed lately, the latest first: a few reads in a row of one compressed blob decompress it once.
#[derive(Debug, Default)]
pub(super) struct Inflated {
    blobs: VecDeque<(BlobId, Arc<Vec<u8>>)>,
    bytes: usize,
}

const MAX_INFLATED: usize = 32;
const MAX_INFLATED_BYTES: usize = 32 << 20;

impl Inflated {
    fn get(&mut self, id: &BlobId) -> Option<Arc<Vec<u8>>> {
        let at = self.blobs.iter().position(|(b, _)| b == id)?;
        let hit = self.blobs.remove(at)?;
        let bytes = Arc::clone(&hit.1);
        self.blobs.push_front(hit);
        Some(bytes)
    }

    fn insert(&mut self, id: BlobId, bytes: Arc<Vec<u8>>) {
        self.bytes += bytes.len();
        self.blobs.push_front((id, bytes));
        while self.blobs.len() > MAX_INFLATED || (self.bytes > MAX_INFLATED_BYTES && self.blobs.len() > 1) {
            if let Some((_, old)) = self.blobs.pop_back() {
                self.bytes = self.bytes.saturating_sub(old.len());
            }
        }
    }
}

//! Reading: whole and verified, in part with the CRCs of the blocks touched, or only to verify.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use super::error::Doing;
use super::pack::{BLOCK_LEN, EntryHead, Stored, table_crc};
use super::walk::bad_block;
use super::{BlobError, Blobs, Fault, Finding, Place, lock};
use crate::ids::{BlobId, PackId};
use crate::storage::FileRef;

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

/// Open packs at most; the file of a pack that is being read stays open beyond that.
const MAX_HANDLES: usize = 128;

impl Blobs {
    /// The blob's bytes, their hash verified.
    ///
    /// # Errors
    /// `Missing`, `Damaged`, `Io`.
    pub fn get(&self, id: &BlobId) -> Result<Vec<u8>, BlobError> {
        self.with_place(id, |place, file| self.read_whole(id, place, file))
    }

    /// Reads up to `buf.len()` bytes of the blob from `offset` on; fewer only at its end, 0 past it. Of a raw blob only the 64 KiB blocks
    /// touched are read and checked.
    ///
    /// # Errors
    /// `Missing`, `Damaged`, `Io`; `buf` is then undefined.
    pub fn read_at(&self, id: &BlobId, offset: u64, buf: &mut [u8]) -> Result<usize, BlobError> {
        self.with_place(id, |place, file| {
            let start = usize::try_from(offset.min(u64::from(place.raw_len))).unwrap_or(usize::MAX);
            let n = buf.len().min(place.raw_len as usize - start);
            if n == 0 {
                return Ok(0);
            }
            match place.encoding {
                Stored::Raw => self.read_blocks(id, place, file, start, &mut buf[..n])?,
                Stored::Zstd => {
                    let cached = lock(&self.inflated).get(id);
                    let bytes = match cached {
                        Some(bytes) => bytes,
                        None => {
                            let bytes = Arc::new(self.read_whole(id, place, file)?);
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
        match self.with_place(id, |place, file| self.check_entry(id, place, file)) {
            Ok(()) => BlobState::Sound,
            Err(BlobError::Missing(_)) => BlobState::Missing,
            Err(BlobError::Damaged(finding)) => BlobState::Damaged(finding),
            Err(e) => BlobState::Unreadable(e.to_string()),
        }
    }

    /// Does `read` on the blob's place. A pack may be swept, or written afresh by a writer that recovers, while a reader is on its way
    /// to it: then the place is looked up again.
    fn with_place<T>(&self, id: &BlobId, mut read: impl FnMut(&Place, &FileRef) -> Result<T, BlobError>) -> Result<T, BlobError> {
        let mut last = None;
        for _ in 0..4 {
            let Some(place) = self.place(id) else { return Err(last.unwrap_or(BlobError::Missing(*id))) };
            let result = self.handle(place.pack).and_then(|file| read(&place, &file));
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

    /// The open file of a pack.
    pub(super) fn handle(&self, pack: PackId) -> Result<FileRef, BlobError> {
        if let Some(file) = lock(&self.handles).get(&pack) {
            return Ok(Arc::clone(file));
        }
        let path = self.pack_path(pack);
        let file = self.storage.open_read(&path).doing("open", &path)?;
        let mut handles = lock(&self.handles);
        if handles.len() >= MAX_HANDLES
            && let Some(any) = handles.keys().next().copied()
        {
            handles.remove(&any);
        }
        handles.insert(pack, Arc::clone(&file));
        Ok(file)
    }

    /// Stored bytes, decompressed, hash verified.
    pub(super) fn read_whole(&self, id: &BlobId, place: &Place, file: &FileRef) -> Result<Vec<u8>, BlobError> {
        let entry = place.head(*id);
        let mut stored = vec![0u8; place.stored_len as usize];
        self.read_exact(id, place, file, &mut stored, entry.data_offset())?;
        let raw = match place.encoding {
            Stored::Raw => stored,
            Stored::Zstd => self.inflate(id, place, &stored)?,
        };
        if BlobId::of(&raw) != *id {
            return Err(self.damaged(id, place, entry.offset, entry.total_len(), Fault::Hash));
        }
        Ok(raw)
    }

    fn read_blocks(&self, id: &BlobId, place: &Place, file: &FileRef, start: usize, buf: &mut [u8]) -> Result<(), BlobError> {
        let (entry, head) = self.read_head(id, place, file)?;
        let mut block = Vec::new();
        let mut done = 0;
        while done < buf.len() {
            let at = start + done;
            let n = at / BLOCK_LEN;
            let block_start = entry.data_offset() + (n * BLOCK_LEN) as u64;
            block.resize(entry.block_len(n), 0);
            self.read_exact(id, place, file, &mut block, block_start)?;
            if crc32fast::hash(&block) != table_crc(&head, n) {
                return Err(self.damaged(id, place, block_start, block.len() as u64, Fault::Block));
            }
            let from = at % BLOCK_LEN;
            // The last block ends with padding, but `buf` ends with the blob.
            let len = (buf.len() - done).min(BLOCK_LEN - from);
            buf[done..done + len].copy_from_slice(&block[from..from + len]);
            done += len;
        }
        Ok(())
    }

    fn check_entry(&self, id: &BlobId, place: &Place, file: &FileRef) -> Result<(), BlobError> {
        let (entry, head) = self.read_head(id, place, file)?;
        let mut data = vec![0u8; place.stored_len as usize + entry.padding()];
        self.read_exact(id, place, file, &mut data, entry.data_offset())?;
        if let Some(n) = bad_block(&entry, &head, &data) {
            let at = entry.data_offset() + (n * BLOCK_LEN) as u64;
            return Err(self.damaged(id, place, at, entry.block_len(n) as u64, Fault::Block));
        }
        let stored = &data[..place.stored_len as usize];
        let right = match place.encoding {
            Stored::Raw => BlobId::of(stored) == *id,
            Stored::Zstd => BlobId::of(&self.inflate(id, place, stored)?) == *id,
        };
        if right { Ok(()) } else { Err(self.damaged(id, place, entry.offset, entry.total_len(), Fault::Hash)) }
    }

    /// Head and table as they stand on the disk, checked against the index.
    fn read_head(&self, id: &BlobId, place: &Place, file: &FileRef) -> Result<(EntryHead, Vec<u8>), BlobError> {
        let entry = place.head(*id);
        let mut head = vec![0u8; entry.head_len()];
        self.read_exact(id, place, file, &mut head, entry.offset)?;
        if EntryHead::parse(&head, entry.offset) != Some(entry) || !entry.is_sound(self.store, place.pack, &head) {
            return Err(self.damaged(id, place, entry.offset, head.len() as u64, Fault::Head));
        }
        Ok((entry, head))
    }

    fn inflate(&self, id: &BlobId, place: &Place, stored: &[u8]) -> Result<Vec<u8>, BlobError> {
        match zstd::bulk::decompress(stored, place.raw_len as usize) {
            Ok(raw) if raw.len() == place.raw_len as usize => Ok(raw),
            _ => {
                let at = place.head(*id).data_offset();
                Err(self.damaged(id, place, at, u64::from(place.stored_len), Fault::Block))
            }
        }
    }

    fn read_exact(&self, id: &BlobId, place: &Place, file: &FileRef, buf: &mut [u8], offset: u64) -> Result<(), BlobError> {
        let path = self.pack_path(place.pack);
        match file.read_exact_at(buf, offset) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Err(self.damaged(id, place, offset, buf.len() as u64, Fault::Entry)),
            other => other.map_err(|e| BlobError::io(format!("read blob {id} in `{}` at offset {offset}", path.display()), e)),
        }
    }

    fn damaged(&self, id: &BlobId, place: &Place, offset: u64, len: u64, fault: Fault) -> BlobError {
        BlobError::Damaged(Finding { file: self.pack_path(place.pack), offset, len, id: Some(*id), fault })
    }
}

impl Place {
    pub(super) fn head(&self, id: BlobId) -> EntryHead {
        EntryHead { offset: u64::from(self.offset), encoding: self.encoding, raw_len: self.raw_len, stored_len: self.stored_len, id }
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

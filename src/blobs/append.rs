//! Putting bytes into the last pack, syncing it, and going on to the next.

use std::sync::MutexGuard;
use std::sync::atomic::Ordering;

use super::error::Doing;
use super::pack::{EntryHead, MAX_BLOB_LEN, PACK_HEADER_LEN, PackHeader, Stored};
use super::{BlobError, Blobs, Encoding, PackInfo, Place, lock};
use crate::ids::{BlobId, PackId};
use crate::storage::FileRef;

/// Where the next entry goes.
#[derive(Debug, Default)]
pub(super) struct Tail {
    /// The pack being appended to; `None` until the first put.
    pub pack: Option<OpenPack>,
    /// Highest pack number in use; the next pack takes the one after it.
    pub last_id: PackId,
    /// Entry bytes appended since the open. `synced <= appended`.
    pub appended: u64,
}

#[derive(Clone, Debug)]
pub(super) struct OpenPack {
    pub id: PackId,
    pub file: FileRef,
    /// Where the next entry starts.
    pub end: u64,
    /// Its name is not known to be on the disk.
    pub name_unsynced: bool,
    /// A failed append may have left bytes behind `end`.
    pub dirty_tail: bool,
}

impl Blobs {
    /// Stores `bytes` (at most 16 MiB) and gives their address. They are durable after the next [`Blobs::sync`] that begins after this
    /// returns. Bytes that the store has are not stored again, but its copy is read and compared the first time.
    ///
    /// # Errors
    /// `TooLong`, `ReadOnly`, `Poisoned`; a full disk (see [`BlobError::is_full`]) or another I/O error leaves the store as it was.
    pub fn put(&self, bytes: &[u8], encoding: Encoding) -> Result<BlobId, BlobError> {
        self.check_writable()?;
        if bytes.len() > MAX_BLOB_LEN {
            return Err(BlobError::TooLong(bytes.len()));
        }
        let id = BlobId::of(bytes);
        // A sweep that begins waits for this put, one that runs learns of it before the index is asked.
        let _hold = self.hold();
        self.touch(&id);
        if self.has_sound(&id) {
            return Ok(id);
        }
        let packed = match encoding {
            Encoding::Raw => None,
            Encoding::Compress => compress(bytes),
        };
        match &packed {
            Some(packed) => self.append(id, Stored::Zstd, bytes.len() as u32, packed)?,
            None => self.append(id, Stored::Raw, bytes.len() as u32, bytes)?,
        };
        Ok(id)
    }

    /// Whether the store has the blob and its copy is right.
    fn has_sound(&self, id: &BlobId) -> bool {
        let Some(place) = self.place(id) else { return false };
        if place.verified {
            return true;
        }
        match self.get(id) {
            Ok(_) => {
                if let Some(p) = self.index_mut().places.get_mut(id).filter(|p| (p.pack, p.offset) == (place.pack, place.offset)) {
                    p.verified = true;
                }
                true
            }
            Err(why) => {
                // The bytes are at hand: whatever is wrong with the copy, damage or a failing disk, a second one mends it.
                tracing::warn!(blob = %id, %why, "a stored copy is not readable; writing it again");
                false
            }
        }
    }

    /// Appends an entry and makes it the blob's place.
    pub(super) fn append(&self, id: BlobId, encoding: Stored, raw_len: u32, stored: &[u8]) -> Result<Place, BlobError> {
        let mut tail = self.open_tail()?;
        // Another thread may have been first.
        if let Some(place) = self.place(&id).filter(|p| p.verified) {
            return Ok(place);
        }
        let place = self.write_entry(&mut tail, id, encoding, raw_len, stored)?;
        drop(tail);
        Ok(place)
    }

    /// Writes an entry at the tail's end and enters it in the index.
    fn write_entry(&self, tail: &mut Tail, id: BlobId, encoding: Stored, raw_len: u32, stored: &[u8]) -> Result<Place, BlobError> {
        let (place, pack) = self.write_only(tail, id, encoding, raw_len, stored)?;
        let mut index = self.index_mut();
        index.insert(id, place);
        if let Some(info) = index.packs.get_mut(&place.pack) {
            info.end = pack;
        }
        Ok(place)
    }

    /// Writes an entry at the tail's end; the index does not know it yet. Gives its place and the new end.
    pub(super) fn write_only(
        &self,
        tail: &mut Tail,
        id: BlobId,
        encoding: Stored,
        raw_len: u32,
        stored: &[u8],
    ) -> Result<(Place, u64), BlobError> {
        // It may have been set while this thread waited for the tail.
        self.check_poison()?;
        let Some(open) = tail.pack.as_mut() else { return Err(BlobError::io("append to a pack", std::io::ErrorKind::NotFound.into())) };
        let head = EntryHead { offset: open.end, encoding, raw_len, stored_len: stored.len() as u32, id };
        let bytes = head.encode(self.store, open.id, stored);
        let zeros = [0u8; 8];
        let parts: [&[u8]; 3] = [&bytes, stored, &zeros[..head.padding()]];
        let path = self.pack_path(open.id);
        if let Err(e) = open.file.write_at(&parts, open.end) {
            // The next entry is written over what this one left; if that is shorter, the rest must go before the pack is closed.
            open.dirty_tail = open.file.set_len(open.end).is_err();
            return Err(e).doing("append to", &path);
        }
        let offset = open.end as u32;
        open.end += head.total_len();
        tail.appended += head.total_len();
        let end = open.end;
        Ok((Place { pack: open.id, offset, raw_len, stored_len: head.stored_len, encoding, verified: true }, end))
    }

    /// The tail, with a pack that has room.
    pub(super) fn open_tail(&self) -> Result<MutexGuard<'_, Tail>, BlobError> {
        loop {
            let tail = lock(&self.tail);
            let full = match &tail.pack {
                Some(p) if p.end < self.target_len => return Ok(tail),
                Some(p) => Some(p.id),
                None => None,
            };
            drop(tail);
            self.roll(full)?;
        }
    }

    /// Closes pack `seen` (synced before its successor takes an entry) and begins the next, unless another thread did.
    pub(super) fn roll(&self, seen: Option<PackId>) -> Result<(), BlobError> {
        let turn = lock(&self.sync_turn);
        if lock(&self.tail).pack.as_ref().map(|p| p.id) != seen {
            return Ok(());
        }
        // The long sync without the tail's lock, the rest (appended meanwhile) with it.
        self.flush(&turn)?;
        let mut tail = lock(&self.tail);
        if let Some(open) = tail.pack.as_mut() {
            let path = self.pack_path(open.id);
            let late = open.dirty_tail || self.synced.load(Ordering::Acquire) < tail.appended;
            let Some(open) = tail.pack.as_mut() else { return Ok(()) };
            if open.dirty_tail {
                open.file.set_len(open.end).doing("cut", &path)?;
                open.dirty_tail = false;
            }
            if late {
                open.file.sync_data().map_err(|e| self.poison("sync", &path, e))?;
                self.synced.store(tail.appended, Ordering::Release);
            }
        }
        self.begin_pack(&mut tail)
    }

    /// Begins the pack after the last. Its name and header become durable with its first entry's sync.
    fn begin_pack(&self, tail: &mut Tail) -> Result<(), BlobError> {
        let id = tail.last_id.next();
        let path = self.pack_path(id);
        let (previous, previous_len) = tail.pack.as_ref().map_or((PackId(0), 0), |p| (p.id, p.end));
        let header = PackHeader { store: self.store, pack: id, previous, previous_len, generation: 0 }.encode();
        let file = self.storage.create_new(&path).doing("create", &path)?;
        // Used up, even if the header cannot be written.
        tail.last_id = id;
        if let Err(e) = file.write_at(&[&header], 0) {
            let _ = self.storage.remove(&path);
            return Err(e).doing("write the header of", &path);
        }
        {
            let mut index = self.index_mut();
            if let Some(info) = index.packs.get_mut(&previous) {
                info.closed = true;
            }
            index.packs.insert(id, PackInfo { end: PACK_HEADER_LEN, closed: false, damaged: false, header: Some(header) });
        }
        tail.pack = Some(OpenPack { id, file, end: PACK_HEADER_LEN, name_unsynced: true, dirty_tail: false });
        Ok(())
    }

    /// Makes every put that returned before this call durable. One sync answers everybody who waits; free when nothing is unsynced.
    ///
    /// # Errors
    /// The failure of the sync; from then on the store is poisoned and every put and sync fails.
    pub fn sync(&self) -> Result<(), BlobError> {
        self.check_poison()?;
        let target = lock(&self.tail).appended;
        if self.synced.load(Ordering::Acquire) >= target {
            return self.check_poison();
        }
        let turn = lock(&self.sync_turn);
        self.check_poison()?;
        if self.synced.load(Ordering::Acquire) >= target {
            return Ok(());
        }
        self.flush(&turn)
    }

    /// Syncs the last pack and its name. All syncs of packs are made in `sync_turn`: of two at once, one could swallow the error that
    /// belongs to the bytes of the other.
    pub(super) fn flush(&self, _turn: &MutexGuard<'_, ()>) -> Result<(), BlobError> {
        self.check_poison()?;
        let (open, appended) = {
            let tail = lock(&self.tail);
            (tail.pack.clone(), tail.appended)
        };
        let Some(open) = open else { return Ok(()) };
        if self.synced.load(Ordering::Acquire) < appended {
            let path = self.pack_path(open.id);
            open.file.sync_data().map_err(|e| self.poison("sync", &path, e))?;
        }
        if open.name_unsynced {
            self.storage.sync_dir(&self.dir).map_err(|e| self.poison("sync the directory", &self.dir, e))?;
            if let Some(p) = lock(&self.tail).pack.as_mut().filter(|p| p.id == open.id) {
                p.name_unsynced = false;
            }
        }
        self.synced.store(appended, Ordering::Release);
        Ok(())
    }

    /// Marks the store as poisoned and gives the error for this call.
    pub(super) fn poison(&self, verb: &str, path: &std::path::Path, e: std::io::Error) -> BlobError {
        let why = format!("an earlier attempt to {verb} `{}` failed: {e}", path.display());
        tracing::error!(%why, "blob store poisoned");
        let _ = self.poison.set(why);
        BlobError::io(format!("{verb} `{}`", path.display()), e)
    }

    pub(super) fn check_writable(&self) -> Result<(), BlobError> {
        if !self.writable {
            return Err(BlobError::ReadOnly(self.dir.clone()));
        }
        self.check_poison()
    }
}

/// `bytes` as a zstd frame, if that saves at least an eighth.
pub(super) fn compress(bytes: &[u8]) -> Option<Vec<u8>> {
    let limit = bytes.len() - bytes.len() / 8;
    zstd::bulk::compress(bytes, 1).ok().filter(|packed| packed.len() <= limit && packed.len() < bytes.len())
}

//! Putting bytes into the last pack, syncing it, and going on to the next.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::compression::compress;
use super::contents::Contents;
use super::error::{Doing, is_full};
use super::hashing::{SPLIT_FROM, address};
use super::index::PackInfo;
use super::open::TMP_SUFFIX;
use super::pack::{ALIGN, EntryHead, MAX_BLOB_LEN, MAX_HEAD_LEN, PACK_HEADER_LEN, PackHeader, Stored, pack_file_name};
use super::{BlobError, Blobs, Encoding, lock};
use crate::ids::{BlobId, PackId};
use crate::storage::{FileRef, Storage, StorageFile};

/// Bytes of large entries after which the disk is told to write them: the sync at the pack's end then has little to do, and whoever writes a
/// lot does not fill the memory with what is read once more at most.
const WRITE_BEHIND: u64 = 8 << 20;
/// Entries of so many bytes are large. What is smaller is wanted again sooner, and stays in memory as long as there is room.
const LARGE: u64 = 16 << 10;

/// Bytes of pieces from which on a second thread is worth being woken.
const TWO_FROM: usize = 256 << 10;

/// Where the next entry goes.
#[derive(Debug, Default)]
pub(super) struct Tail {
    /// The pack being appended to; `None` until the first put.
    pub pack: Option<OpenPack>,
    /// What stands in it, if it was begun here: its index file is made from that when it is closed, without reading it again.
    pub contents: Option<Contents>,
    /// Highest pack number in use; the next pack takes the one after it.
    pub last_id: PackId,
    /// Bytes of headers and entries appended since the open. `synced <= appended`.
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
    /// A failed append may have left bytes behind `end`, here or on the disk alone.
    pub dirty_tail: bool,
    /// What was appended since the disk was last told to write.
    pub behind: Behind,
}

/// Bytes and entries.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Behind {
    bytes: u64,
    entries: u64,
}

impl OpenPack {
    /// The range to be written now, and before it what may have been written since: nobody wants it in memory.
    fn due(&mut self) -> Option<std::ops::Range<u64>> {
        let Behind { bytes, entries } = self.behind;
        if bytes < WRITE_BEHIND {
            return None;
        }
        self.behind = Behind::default();
        (bytes / entries.max(1) >= LARGE).then(|| self.end.saturating_sub(4 * WRITE_BEHIND)..self.end)
    }
}

/// What is known of bytes that are about to be appended.
struct Prepared {
    id: BlobId,
    /// The store has them.
    there: bool,
    /// Compressed, where that saves something.
    packed: Option<Vec<u8>>,
    /// The CRCs of what is appended.
    sums: Vec<u32>,
}

/// Pieces that one thread finds, and two take: one from the front, meanwhile, and the one that has found them from the back, then.
#[derive(Default)]
struct Found<'b> {
    waiting: Mutex<Waiting<'b>>,
    more: Condvar,
}

#[derive(Default)]
struct Waiting<'b> {
    pieces: VecDeque<(usize, &'b [u8])>,
    /// No more will be found.
    over: bool,
}

impl<'b> Found<'b> {
    fn push(&self, n: usize, piece: &'b [u8]) {
        lock(&self.waiting).pieces.push_back((n, piece));
        self.more.notify_one();
    }

    /// The next one; waits for it. `None` when there are none left.
    fn front(&self) -> Option<(usize, &'b [u8])> {
        let more = |waiting: &mut Waiting<'b>| waiting.pieces.is_empty() && !waiting.over;
        self.more.wait_while(lock(&self.waiting), more).unwrap_or_else(PoisonError::into_inner).pieces.pop_front()
    }

    fn back(&self) -> Option<(usize, &'b [u8])> {
        lock(&self.waiting).pieces.pop_back()
    }
}

/// Says that no more will be found, also when finding them panics.
struct Finding<'f, 'b>(&'f Found<'b>);

impl Drop for Finding<'_, '_> {
    fn drop(&mut self) {
        lock(&self.0.waiting).over = true;
        self.0.more.notify_one();
    }
}

impl Blobs {
    /// Stores `bytes` (at most 16 MiB) and gives their address. They are durable after the next [`Blobs::sync`] that begins after this
    /// returns. Bytes that the store has are not stored again, but its copy is read and compared the first time.
    ///
    /// # Errors
    /// `TooLong`, `ReadOnly`, `Poisoned`; a full disk (see [`BlobError::is_full`]) or another I/O error leaves the store as it was.
    pub fn put(&self, bytes: &[u8], encoding: Encoding) -> Result<BlobId, BlobError> {
        self.check_writable()?;
        // A sweep that begins waits for this put, one that runs learns of it before the index is asked.
        let _hold = self.hold();
        let prepared = self.prepare(bytes, encoding)?;
        self.store_prepared(bytes, &prepared, encoding)?;
        Ok(prepared.id)
    }

    /// The same for the pieces of `bytes` bytes, in order as `next` finds them. Where there are many, a thread of the pool hashes, compresses and
    /// appends from the front while this one finds more; then this one hashes and compresses from the back, until the two meet, and
    /// appends that. So only one appends at a time, and neither waits for the other at every piece.
    ///
    /// # Errors
    /// As [`Blobs::put`]; some may then have been stored.
    pub fn put_as_found<'b>(
        &self,
        bytes: usize,
        next: &mut dyn FnMut() -> Option<&'b [u8]>,
        encoding: Encoding,
    ) -> Result<Vec<BlobId>, BlobError> {
        self.check_writable()?;
        let _hold = self.hold();
        let found = Found::default();
        let (mut count, mut theirs, mut own) = (0, Ok(Vec::new()), Vec::new());
        let mut find = || {
            let finding = Finding(&found);
            while let Some(piece) = next() {
                finding.0.push(count, piece);
                count += 1;
            }
        };
        if bytes < TWO_FROM {
            find();
            theirs = self.put_from_front(&found, encoding);
        } else {
            // This thread waits for one of the pool then, and no third is woken.
            rayon::in_place_scope(|scope| {
                scope.spawn(|_| theirs = self.put_from_front(&found, encoding));
                find();
                while let Some((n, piece)) = found.back() {
                    own.push((n, piece, self.prepare(piece, encoding)?));
                }
                Ok::<(), BlobError>(())
            })?;
        }
        let mut ids = vec![BlobId([0; 32]); count];
        let mut put = |n: usize, id: BlobId| ids.get_mut(n).map(|place| *place = id);
        theirs?.into_iter().for_each(|(n, id)| _ = put(n, id));
        for (n, piece, prepared) in own.iter().rev() {
            self.store_prepared(piece, prepared, encoding)?;
            put(*n, prepared.id);
        }
        Ok(ids)
    }

    fn put_from_front(&self, found: &Found<'_>, encoding: Encoding) -> Result<Vec<(usize, BlobId)>, BlobError> {
        let mut ids = Vec::new();
        while let Some((n, piece)) = found.front() {
            let prepared = self.prepare(piece, encoding)?;
            self.store_prepared(piece, &prepared, encoding)?;
            ids.push((n, prepared.id));
        }
        Ok(ids)
    }

    /// Everything before the append.
    fn prepare(&self, bytes: &[u8], encoding: Encoding) -> Result<Prepared, BlobError> {
        if bytes.len() > MAX_BLOB_LEN {
            return Err(BlobError::TooLong(bytes.len()));
        }
        // What is not compressed and long is a large write, which somebody waits for.
        let (id, raw_sums) = if encoding == Encoding::Raw && bytes.len() >= SPLIT_FROM {
            let (id, sums) = rayon::join(|| address(bytes), || EntryHead::sums(bytes));
            (id, Some(sums))
        } else {
            (address(bytes), None)
        };
        self.touch(&id);
        let there = self.has_sound(&id);
        let packed = if encoding == Encoding::Compress && !there { compress(bytes) } else { None };
        let sums = match (&packed, raw_sums) {
            _ if there => Vec::new(),
            (Some(packed), _) => EntryHead::sums(packed),
            (None, Some(sums)) => sums,
            (None, None) => EntryHead::sums(bytes),
        };
        Ok(Prepared { id, there, packed, sums })
    }

    fn store_prepared(&self, bytes: &[u8], prepared: &Prepared, encoding: Encoding) -> Result<(), BlobError> {
        let Prepared { id, there, packed, sums } = prepared;
        let lasting = encoding == Encoding::Compress;
        if *there {
            if lasting {
                self.kept.count(id, bytes.len(), None);
            }
            return Ok(());
        }
        let (encoding, stored) = packed.as_ref().map_or((Stored::Raw, bytes), |packed| (Stored::Zstd, packed.as_slice()));
        let appended = self.append(*id, encoding, bytes.len() as u32, (stored, sums))?;
        if lasting {
            self.kept.count(id, bytes.len(), appended.then_some(stored.len()));
        } else {
            self.kept.payload(*id);
        }
        Ok(())
    }

    /// Whether the store has the blob and its copy is right.
    fn has_sound(&self, id: &BlobId) -> bool {
        let mut head = [0; MAX_HEAD_LEN];
        let place = match self.find(id, &mut head) {
            Ok(None) => return false,
            Ok(Some(place)) if place.verified => return true,
            other => other,
        };
        // Found anew by the read, should a sweep be moving it.
        match place
            .and_then(|_| self.with_place(id, |place, _| self.read_whole(place, &mut Vec::new()).map(|()| (place.pack, place.entry))))
        {
            Ok((pack, entry)) => {
                self.index_mut().set_verified(id, pack, entry.offset);
                true
            }
            Err(why) => {
                // The bytes are at hand: whatever is wrong with the copy, damage or a failing disk, a second one mends it.
                tracing::warn!(blob = %id, %why, "a stored copy is not readable; writing it again");
                false
            }
        }
    }

    /// Appends an entry and makes it the blob's place, unless the store has got it meanwhile: from another thread, or from what was prepared
    /// together with it.
    fn append(&self, id: BlobId, encoding: Stored, raw_len: u32, stored: (&[u8], &[u32])) -> Result<bool, BlobError> {
        let mut tail = self.open_tail()?;
        let mut head = [0; MAX_HEAD_LEN];
        if self.find(&id, &mut head).is_ok_and(|place| place.is_some_and(|p| p.verified)) {
            return Ok(false);
        }
        self.write_entry(&mut tail, id, encoding, raw_len, stored)?;
        let due = tail.pack.as_mut().and_then(|open| open.due().map(|range| (open.file.clone(), range)));
        drop(tail);
        if let Some((file, range)) = due {
            // It may wait for a slow disk, and whoever put these bytes need not.
            rayon::spawn(move || file.write_behind(range));
        }
        Ok(true)
    }

    /// Writes an entry at the tail's end and enters it in the index. What it replaces there, if anything, is older. `stored` are its bytes and
    /// their [`EntryHead::sums`]. No other thread may be waited for in here: those of the pool wait for the tail.
    pub(super) fn write_entry(
        &self,
        tail: &mut Tail,
        id: BlobId,
        encoding: Stored,
        raw_len: u32,
        (stored, sums): (&[u8], &[u32]),
    ) -> Result<EntryHead, BlobError> {
        // It may have been set while this thread waited for the tail.
        self.check_poison()?;
        let Some(open) = tail.pack.as_mut() else { return Err(BlobError::io("append to a pack", io::ErrorKind::NotFound.into())) };
        let entry = EntryHead { offset: open.end, encoding, raw_len, stored_len: stored.len() as u32, id };
        if let Err(e) = write_at_end(&*open.file, &entry.encode(self.store, open.id, sums), &entry, stored) {
            // The next entry is written over what this one left. What is longer than that must be gone, and its going durable, before the
            // pack is closed: whoever finds it in a closed pack takes it for damage.
            let _ = open.file.set_len(open.end);
            // Nor may a power cut after a clean stop bring it back: the next sync has something to do.
            tail.appended += 1;
            open.dirty_tail = true;
            return Err(e).doing("append to", &self.pack_path(open.id));
        }
        open.end += entry.total_len();
        open.behind = Behind { bytes: open.behind.bytes + entry.total_len(), entries: open.behind.entries + 1 };
        tail.appended += entry.total_len();
        let (pack, end) = (open.id, open.end);
        if let Some(info) = self.index_mut().packs.get_mut(&pack) {
            info.end = end;
            info.entries += 1;
        }
        if let Some(contents) = tail.contents.as_mut() {
            contents.push(&entry);
        }
        self.enter(pack, &entry, true);
        Ok(entry)
    }

    /// The tail, with a pack that has room.
    pub(super) fn open_tail(&self) -> Result<MutexGuard<'_, Tail>, BlobError> {
        loop {
            let tail = lock(&self.tail);
            let full = match &tail.pack {
                Some(p) if p.end < self.target_len.load(Ordering::Relaxed) => return Ok(tail),
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
        let contents = tail.contents.take();
        if let Err(e) = self.begin_pack(&mut tail) {
            tail.contents = contents;
            return Err(e);
        }
        drop(tail);
        drop(turn);
        if let Some(closed) = seen {
            self.index_closed(closed, contents);
        }
        Ok(())
    }

    /// Begins the pack after the last. Its name and header become durable with its first entry's sync.
    fn begin_pack(&self, tail: &mut Tail) -> Result<(), BlobError> {
        let id = tail.last_id.next();
        let path = self.pack_path(id);
        let (previous, previous_len) = tail.pack.as_ref().map_or((PackId(0), 0), |p| (p.id, p.end));
        let header = PackHeader { store: self.store, pack: id, previous, previous_len, generation: 0 }.encode();
        // Under another name until nothing can fail any more: a name that was given and taken back may come back with a power cut, and
        // would say of the pack before it, which goes on growing, that it was closed.
        let tmp = self.dir.join(format!("{}{TMP_SUFFIX}", pack_file_name(id)));
        let file = create_fresh(&*self.storage, &tmp).doing("create", &tmp)?;
        if let Err(e) = file.write_at(&[&header], 0) {
            let _ = self.storage.remove(&tmp);
            return Err(e).doing("write the header of", &tmp);
        }
        let info = PackInfo { end: PACK_HEADER_LEN, header: Some(header), ..PackInfo::default() };
        if self.index_mut().add_pack(id, info).is_none() {
            let _ = self.storage.remove(&tmp);
            return Err(BlobError::TooManyPacks);
        }
        tail.last_id = id;
        if let Err(e) = self.storage.rename(&tmp, &path) {
            self.index_mut().remove_packs(&[id]);
            let _ = self.storage.remove(&tmp);
            // Whether the pack has its name is not known, unless there was no room for one and it has none.
            let nameless = self.storage.open_read(&path).is_err_and(|e| e.kind() == io::ErrorKind::NotFound);
            return if is_full(&e) && nameless { Err(e).doing("name", &path) } else { Err(self.poison("name", &path, e)) };
        }
        if let Some(info) = self.index_mut().packs.get_mut(&previous) {
            info.closed = true;
        }
        // The next sync is due for the header and the name alone: a pack without an entry is there after a clean stop too.
        tail.appended += PACK_HEADER_LEN;
        tail.pack = Some(OpenPack { id, file, end: PACK_HEADER_LEN, name_unsynced: true, dirty_tail: false, behind: Behind::default() });
        tail.contents = Some(Contents::default());
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
        if let Some(p) = lock(&self.tail).pack.as_mut().filter(|p| p.id == open.id && p.dirty_tail) {
            p.file.set_len(p.end).doing("cut", &self.pack_path(p.id))?;
            p.dirty_tail = false;
        }
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
    pub(super) fn poison(&self, verb: &str, path: &Path, e: io::Error) -> BlobError {
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

/// Creates a file, in the place of one that an earlier attempt has left.
pub(super) fn create_fresh(storage: &dyn Storage, path: &Path) -> io::Result<FileRef> {
    match storage.create_new(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            storage.remove(path)?;
            storage.create_new(path)
        }
        other => other,
    }
}

/// Writes an entry in its place.
fn write_at_end(file: &dyn StorageFile, head: &[u8], entry: &EntryHead, stored: &[u8]) -> io::Result<()> {
    let zeros = [0u8; ALIGN as usize];
    file.write_at(&[head, stored, &zeros[..entry.padding()]], entry.offset)
}

//! Finding a blob: the table's hints, each confirmed at the entry's head. Every answer rests on what the pack says.

use std::io;

use super::contents::Contents;
use super::error::Doing;
use super::index::Hint;
use super::pack::{ENTRY_HEAD_LEN, EntryHead, MAX_HEAD_LEN, PACK_HEADER_LEN};
use super::walk::{Step, Walker};
use super::{BlobError, Blobs, Fault, Finding, lock};
use crate::ids::{BlobId, PackId};
use crate::storage::{FileRef, StorageFile};

/// Room for the longest head with its table.
pub(super) type HeadBuf = [u8; MAX_HEAD_LEN];

/// Read at first: head and table of every blob up to 1 MiB.
const FIRST_LOOK: usize = ENTRY_HEAD_LEN + 4 * 16;

/// Open packs at most; the file of a pack that is being read stays open beyond that.
const MAX_HANDLES: usize = 128;

/// Entries entered in the index in one critical section.
pub(super) const BATCH: usize = 1024;

/// Where a blob is: its head was read there and is sound.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub pack: PackId,
    pub entry: EntryHead,
    /// Its bytes were read and found right, or written, since the open.
    pub verified: bool,
    pub file: FileRef,
}

impl Blobs {
    /// The youngest copy of the blob whose head is sound; `head` then begins with its head and table.
    ///
    /// # Errors
    /// Where nothing sound was found: what is wrong with a place where it may be.
    pub(super) fn find(&self, id: &BlobId, head: &mut HeadBuf) -> Result<Option<Place>, BlobError> {
        let hints = self.index().hints(id);
        let mut wrong = None;
        for hint in hints.iter() {
            match self.confirm(id, hint, head) {
                Ok(Some(place)) => return Ok(Some(place)),
                // Another blob with the same bits.
                Ok(None) => {}
                Err(e) => wrong = wrong.or(Some(e)),
            }
        }
        wrong.map_or(Ok(None), Err)
    }

    /// Reads the head at a hint. `None`: it is that of another blob.
    fn confirm(&self, id: &BlobId, hint: &Hint, head: &mut HeadBuf) -> Result<Option<Place>, BlobError> {
        let file = self.handle(hint.pack)?;
        match self.head_at(&file, hint.pack, hint.offset, head)? {
            Ok(entry) if entry.id == *id => Ok(Some(Place { pack: hint.pack, entry, verified: hint.verified, file })),
            Ok(_) => Ok(None),
            Err(fault) => {
                let (offset, len) = (hint.offset, ENTRY_HEAD_LEN as u64);
                Err(BlobError::Damaged(Finding { file: self.pack_path(hint.pack), offset, len, id: Some(*id), fault }))
            }
        }
    }

    /// The sound head at `offset`, with its table in `head`, or what is wrong there.
    pub(super) fn head_at(
        &self,
        file: &FileRef,
        pack: PackId,
        offset: u64,
        head: &mut HeadBuf,
    ) -> Result<Result<EntryHead, Fault>, BlobError> {
        let refused = |e| BlobError::io(format!("read `{}` at offset {offset}", self.pack_path(pack).display()), e);
        let have = read_up_to(&**file, &mut head[..FIRST_LOOK], offset).map_err(refused)?;
        if have < ENTRY_HEAD_LEN {
            return Ok(Err(Fault::Entry));
        }
        let Some(entry) = EntryHead::parse(&head[..], offset) else { return Ok(Err(Fault::Head)) };
        let len = entry.head_len();
        if len > have && have + read_up_to(&**file, &mut head[have..len], offset + have as u64).map_err(refused)? < len {
            return Ok(Err(Fault::Entry));
        }
        Ok(if entry.is_sound(self.store, pack, &head[..entry.head_len()]) { Ok(entry) } else { Err(Fault::Head) })
    }

    /// The open file of a pack.
    pub(super) fn handle(&self, pack: PackId) -> Result<FileRef, BlobError> {
        if let Some(file) = lock(&self.handles).get(&pack) {
            return Ok(FileRef::clone(file));
        }
        let path = self.pack_path(pack);
        let file = self.storage.open_read(&path).doing("open", &path)?;
        let mut handles = lock(&self.handles);
        if handles.len() >= MAX_HANDLES
            && let Some(any) = handles.keys().next().copied()
        {
            handles.remove(&any);
        }
        handles.insert(pack, FileRef::clone(&file));
        Ok(file)
    }

    /// Enters an entry of `pack`: the youngest copy counts. Only one thread enters entries of one blob at a time: who appends holds the
    /// tail, who opens or refreshes is alone.
    pub(super) fn enter(&self, pack: PackId, entry: &EntryHead, verified: bool) {
        if !verified && self.index_mut().enter_new(pack, entry) {
            return;
        }
        let mut head = [0; MAX_HEAD_LEN];
        // A copy that cannot be read now is no reason to leave this one out.
        let old = self.find(&entry.id, &mut head).ok().flatten();
        self.index_mut().enter(pack, entry, old.as_ref().map(|p| (p.pack, &p.entry)), verified);
    }

    /// Enters entries of one pack, in their order.
    pub(super) fn enter_all(&self, pack: PackId, entries: &[EntryHead]) {
        for batch in entries.chunks(BATCH) {
            let mut doubtful = Vec::new();
            {
                let mut index = self.index_mut();
                for entry in batch {
                    if !index.enter_new(pack, entry) {
                        doubtful.push(entry);
                    }
                }
                if let Some(info) = index.packs.get_mut(&pack) {
                    info.entries += batch.len() as u64;
                }
            }
            for entry in doubtful {
                self.enter(pack, entry, false);
            }
        }
    }

    /// Enters what an index file says of a pack; false when the pack says otherwise, and then it has to be walked.
    pub(super) fn enter_contents(&self, pack: PackId, contents: &Contents) -> bool {
        let doubtful = self.index_mut().enter_contents(pack, contents);
        let mut head = [0; MAX_HEAD_LEN];
        for offset in doubtful {
            let entry = self.handle(pack).and_then(|file| self.head_at(&file, pack, offset, &mut head));
            let Ok(Ok(entry)) = entry else { return false };
            self.index_mut().doubt(pack, &entry);
            self.enter(pack, &entry, false);
        }
        true
    }

    /// Calls `each` with every blob of the store and its length in raw bytes, in the order of the packs. The packs are walked; nothing is
    /// kept in memory. What is put or swept meanwhile may be missed, or come twice.
    ///
    /// # Errors
    /// An I/O error; and whatever `each` gives, which ends the walk.
    pub fn each(&self, each: &mut dyn FnMut(BlobId, u64) -> Result<(), BlobError>) -> Result<(), BlobError> {
        let mut next = Some(PackId(0));
        while let Some(from) = next {
            let pack = self.index().packs.range(from..).next().map(|(id, _)| *id);
            next = pack.map(PackId::next);
            let Some(pack) = pack else { break };
            match self.each_in(pack, &mut |entry, here| if here { each(entry.id, u64::from(entry.raw_len)) } else { Ok(()) }) {
                // Swept: what is kept of it stands further on.
                Err(BlobError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                other => drop(other?),
            }
        }
        Ok(())
    }

    /// Calls `each` with every blob of the store and the bytes that its entry takes in its pack, as [`Blobs::each`] does.
    ///
    /// # Errors
    /// As [`Blobs::each`].
    pub fn each_stored(&self, each: &mut dyn FnMut(&BlobId, u64)) -> Result<(), BlobError> {
        let packs: Vec<PackId> = self.index().packs.keys().copied().collect();
        for pack in packs {
            let walked = self.each_in(pack, &mut |entry, here| {
                if here {
                    each(&entry.id, entry.total_len());
                }
                Ok(())
            });
            match walked {
                Err(BlobError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                other => drop(other?),
            }
        }
        Ok(())
    }

    /// Walks a pack: each entry, and whether it is its blob's place. Gives whether the pack is whole.
    pub(super) fn each_in(&self, pack: PackId, each: &mut dyn FnMut(&EntryHead, bool) -> Result<(), BlobError>) -> Result<bool, BlobError> {
        let path = self.pack_path(pack);
        let file = self.handle(pack)?;
        let mut walker = Walker::new(&*file, self.store, pack, PACK_HEADER_LEN).doing("read", &path)?;
        let mut whole = true;
        loop {
            match walker.step() {
                Ok(Some(Step::Entry(entry))) => {
                    let here = self.index().is_at(&entry.id, pack, entry.offset);
                    each(&entry, here)?;
                }
                Ok(Some(Step::Gap { .. })) => whole = false,
                Ok(None) => return Ok(whole && walker.end() == walker.len()),
                Err((offset, e)) => return Err(BlobError::io(format!("read `{}` at offset {offset}", path.display()), e)),
            }
        }
    }
}

/// Reads until `buf` is full or the file ends; gives the number of bytes.
fn read_up_to(file: &dyn StorageFile, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut have = 0;
    while have < buf.len() {
        match file.read_at(&mut buf[have..], offset + have as u64) {
            Ok(0) => break,
            Ok(n) => have += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(have)
}

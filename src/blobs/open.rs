//! Opening: the index is built from the index files of closed packs, or from the packs' entry heads where there is none. After an unclean
//! stop the last pack is written afresh, because the page cache may hold what the disk does not; no other file here changes or shortens a
//! pack.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Condvar, Mutex, OnceLock, RwLock};

use super::append::{Behind, OpenPack, Tail};
use super::contents::{Contents, parse_index_file_name};
use super::error::Doing;
use super::find::BATCH;
use super::index::PackInfo;
use super::pack::{self, BadHeader, EntryHead, PACK_HEADER_LEN, PackHeader};
use super::walk::{Step, Unreadable, Walker, bad_block};
use super::{BlobError, Blobs, BlobsReport, Fault, Finding, Gate, OpenMode, Rewritten, lock, read};
use crate::ids::{PackId, StoreId};
use crate::storage::{Storage, StorageFile};

/// Suffix of a pack that has not got its name yet; means nothing after a crash.
pub(super) const TMP_SUFFIX: &str = ".tmp";

impl Blobs {
    /// Opens the packs in `dir` and rebuilds the index. In `Write` mode `dir` is created if need be (its own name is the caller's to
    /// sync), leftovers are removed, and after an unclean stop the last pack is written afresh. Damage is reported, and every blob
    /// outside it stays readable.
    ///
    /// # Errors
    /// I/O errors on the directory or the last pack, a pack of a later format. Damage is no error.
    pub fn open(storage: Arc<dyn Storage>, dir: PathBuf, store: StoreId, mode: OpenMode) -> Result<(Self, BlobsReport), BlobError> {
        Self::open_with_target(storage, dir, store, mode, pack::PACK_TARGET_LEN)
    }

    pub(super) fn open_with_target(
        storage: Arc<dyn Storage>,
        dir: PathBuf,
        store: StoreId,
        mode: OpenMode,
        target_len: u64,
    ) -> Result<(Self, BlobsReport), BlobError> {
        let writable = mode != OpenMode::ReadOnly;
        if writable {
            storage.create_dir_all(&dir).doing("create", &dir)?;
        }
        let blobs = Self {
            storage,
            dir,
            store,
            writable,
            target_len: AtomicU64::new(target_len),
            index: RwLock::default(),
            handles: Mutex::new(HashMap::new()),
            inflated: Mutex::new(read::Inflated::default()),
            tail: Mutex::new(Tail::default()),
            sync_turn: Mutex::new(()),
            synced: AtomicU64::new(0),
            poison: OnceLock::new(),
            unread: OnceLock::new(),
            purged: OnceLock::new(),
            kept: super::KeptCounters::default(),
            gate: Mutex::new(Gate::default()),
            gate_moved: Condvar::new(),
            sweeping: Mutex::new(()),
        };
        let mut report = BlobsReport::default();
        let mut packs = blobs.pack_files(writable)?;
        let last = packs.pop_last();
        let expected = packs.iter().map(|id| blobs.contents_len(*id)).sum();
        blobs.index_mut().table.reserve(expected);
        for id in packs {
            blobs.load(id, Standing::Closed, &mut report)?;
        }
        if let Some(last) = last {
            let open = match mode {
                OpenMode::ReadOnly => {
                    blobs.load(last, Standing::Last, &mut report)?;
                    None
                }
                OpenMode::Write { clean: true } => blobs.adopt(last, &mut report)?,
                OpenMode::Write { clean: false } => blobs.rewrite(last, &mut report)?,
            };
            let mut tail = lock(&blobs.tail);
            tail.last_id = last;
            tail.pack = open;
        }
        blobs.check_lengths(&mut report);
        blobs.drop_unborn()?;
        Ok((blobs, report))
    }

    /// Learns what a live writer has done since the open or the last refresh. Does nothing in a store open for writing.
    ///
    /// # Errors
    /// As [`Blobs::open`].
    pub fn refresh(&self) -> Result<BlobsReport, BlobError> {
        let mut report = BlobsReport::default();
        if self.writable {
            return Ok(report);
        }
        let _one = lock(&self.sweeping);
        let packs = self.pack_files(false)?;
        let gone: Vec<PackId> = self.index().packs.keys().copied().filter(|id| !packs.contains(id)).collect();
        self.forget(&gone);
        let last = packs.last().copied();
        for id in packs {
            let known = self.index().packs.get(&id).cloned();
            let standing = if Some(id) == last { Standing::Last } else { Standing::Closed };
            match known {
                Some(info) if info.closed => {}
                Some(info) if self.is_same_file(id, &info)? => self.load_on(id, info, standing, &mut report)?,
                _ => {
                    self.forget(&[id]);
                    self.load(id, standing, &mut report)?;
                }
            }
        }
        self.drop_unborn()?;
        Ok(report)
    }

    fn forget(&self, packs: &[PackId]) {
        self.index_mut().remove_packs(packs);
        let mut handles = lock(&self.handles);
        for id in packs {
            handles.remove(id);
        }
    }

    /// Numbers of the pack files; with `tidy`, what a crash left of files being written is removed, and the index files of packs that are
    /// gone.
    pub(super) fn pack_files(&self, tidy: bool) -> Result<BTreeSet<PackId>, BlobError> {
        let mut packs = BTreeSet::new();
        let mut indexes = Vec::new();
        for name in self.storage.list(&self.dir).doing("list", &self.dir)? {
            let Some(name) = name.to_str() else { continue };
            let whole = name.strip_suffix(TMP_SUFFIX).unwrap_or(name);
            let (pack, index) = (pack::parse_pack_file_name(whole), parse_index_file_name(whole));
            if tidy && whole.len() < name.len() && (pack.is_some() || index.is_some()) {
                let path = self.dir.join(name);
                self.storage.remove(&path).doing("remove", &path)?;
            } else if whole.len() == name.len() {
                packs.extend(pack);
                indexes.extend(index);
            }
        }
        for id in indexes.into_iter().filter(|id| tidy && !packs.contains(id)) {
            self.drop_contents(id);
        }
        Ok(packs)
    }

    /// Reads the header of a pack. `Ok(None)`: it is no header.
    fn header_of(&self, id: PackId, file: &dyn StorageFile, report: &mut BlobsReport) -> Result<Header, BlobError> {
        let path = self.pack_path(id);
        let mut bytes = [0; PACK_HEADER_LEN as usize];
        match file.read_exact_at(&mut bytes, 0) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(Header::Damaged),
            Err(e) => return Err(e).doing("read", &path),
        }
        match PackHeader::decode(&bytes, self.store, id) {
            Ok(header) => Ok(Header::Sound(header)),
            Err(BadHeader::Damaged) => Ok(Header::Damaged),
            Err(BadHeader::Unsupported { version, features }) => Err(BlobError::Unsupported { file: path, version, features }),
            Err(BadHeader::Foreign { store, pack }) => {
                let len = file.len().doing("read", &path)?;
                report.findings.push(Finding { file: path, offset: 0, len, id: None, fault: Fault::Foreign { store, pack } });
                // Known by name, so that its number is not used again and nothing touches it.
                self.add_pack(id, PackInfo { end: len, closed: true, damaged: true, ..PackInfo::default() })?;
                Ok(Header::Foreign)
            }
        }
    }

    /// Enters the entries of a pack in the index, without changing the pack.
    fn load(&self, id: PackId, standing: Standing, report: &mut BlobsReport) -> Result<(), BlobError> {
        let path = self.pack_path(id);
        let file = match self.storage.open_read(&path) {
            Ok(file) => file,
            // Swept since it was listed.
            Err(e) if e.kind() == io::ErrorKind::NotFound && !self.writable => return Ok(()),
            Err(e) => return Err(e).doing("open", &path),
        };
        let len = file.len().doing("read", &path)?;
        if len == 0 && standing != Standing::Last {
            // What a full disk leaves of a pack that could not be begun, unless its successor says otherwise.
            return self.add_pack(id, PackInfo { closed: true, ..PackInfo::default() });
        }
        let header = match self.header_of(id, &*file, report) {
            Ok(Header::Foreign) => return Ok(()),
            Ok(Header::Sound(h)) => Some(h),
            Ok(Header::Damaged) => None,
            // One unreadable sector must not take the other packs away.
            Err(BlobError::Io { source, .. }) => {
                let _ =
                    self.unread.set(format!("when the packs were opened, ize could not read the header of `{}`: {source}", path.display()));
                let fault = Fault::Unreadable(source.kind());
                report.findings.push(Finding { file: path, offset: 0, len: PACK_HEADER_LEN, id: None, fault });
                None
            }
            Err(e) => return Err(e),
        };
        // A pack being born beside us has no header yet.
        if header.is_none()
            && (standing != Standing::Last || len >= PACK_HEADER_LEN)
            && !report.findings.iter().any(|f| f.file == self.pack_path(id))
        {
            report.findings.push(Finding { file: self.pack_path(id), offset: 0, len: PACK_HEADER_LEN, id: None, fault: Fault::PackHeader });
        }
        let info = PackInfo { end: PACK_HEADER_LEN, damaged: header.is_none(), header: header.map(|h| h.encode()), ..PackInfo::default() };
        // Of a closed pack nothing changes any more, so what was once read of it holds for the same header and length.
        if let (Standing::Closed, Some(header)) = (standing, info.header)
            && let Some(contents) = self.read_contents(id, &header, len)
        {
            self.add_pack(id, PackInfo { end: len, closed: true, ..info.clone() })?;
            if self.enter_contents(id, &contents) {
                return Ok(());
            }
        }
        self.add_pack(id, info.clone())?;
        self.load_on(id, info, standing, report)
    }

    pub(super) fn add_pack(&self, id: PackId, info: PackInfo) -> Result<(), BlobError> {
        self.index_mut().add_pack(id, info).ok_or(BlobError::TooManyPacks)
    }

    /// Enters the entries of a pack behind `info.end` in the index.
    fn load_on(&self, id: PackId, info: PackInfo, standing: Standing, report: &mut BlobsReport) -> Result<(), BlobError> {
        let path = self.pack_path(id);
        let file = match self.storage.open_read(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound && !self.writable => return Ok(()),
            Err(e) => return Err(e).doing("open", &path),
        };
        let mut contents = (standing == Standing::Closed && self.writable && info.end == PACK_HEADER_LEN).then(Contents::default);
        let mut batch = Vec::new();
        let found = self.walk(&*file, id, info.end, &mut |entry| {
            if let Some(contents) = contents.as_mut() {
                contents.push(&entry);
            }
            batch.push(entry);
            if batch.len() == BATCH {
                self.enter_all(id, &batch);
                batch.clear();
            }
        })?;
        self.enter_all(id, &batch);
        let proven = standing != Standing::Last;
        let wrong = self.report_walk(id, &found, proven, report);
        let damaged = info.damaged || (wrong && proven);
        if let Some(known) = self.index_mut().packs.get_mut(&id) {
            known.end = found.end.max(info.end);
            known.closed = standing == Standing::Closed;
            known.damaged = damaged;
        }
        if let (Some(contents), Some(header), false) = (contents, info.header, damaged) {
            self.write_contents(id, &header, found.end, &contents);
        }
        Ok(())
    }

    fn walk(&self, file: &dyn StorageFile, id: PackId, from: u64, each: &mut dyn FnMut(EntryHead)) -> Result<Walk, BlobError> {
        let mut walker = Walker::new(file, self.store, id, from).doing("read", &self.pack_path(id))?;
        let mut found = Walk { len: walker.len(), ..Walk::default() };
        loop {
            match walker.step() {
                Ok(Some(Step::Entry(entry))) => each(entry),
                Ok(Some(Step::Gap { offset, len })) => found.gaps.push((offset, len)),
                Ok(None) => break,
                Err(e) => {
                    found.unreadable = Some(e);
                    break;
                }
            }
        }
        found.end = walker.end();
        Ok(found)
    }

    /// Reports gaps, tail and read errors of a walk; true when there are any. What nothing proves durable is torn, not damaged.
    fn report_walk(&self, id: PackId, found: &Walk, proven: bool, report: &mut BlobsReport) -> bool {
        let file = self.pack_path(id);
        let fault = if proven { Fault::Entry } else { Fault::TornTail };
        let before = report.findings.len();
        for &(offset, len) in &found.gaps {
            report.findings.push(Finding { file: file.clone(), offset, len, id: None, fault: fault.clone() });
        }
        let rest = found.len.saturating_sub(found.end);
        if let Some((offset, e)) = &found.unreadable {
            let _ = self.unread.set(format!("when the packs were opened, ize could not read `{}` at offset {offset}: {e}", file.display()));
            let fault = Fault::Unreadable(e.kind());
            report.findings.push(Finding { file, offset: *offset, len: found.len.saturating_sub(*offset), id: None, fault });
        } else if rest > 0 {
            report.findings.push(Finding { file, offset: found.end, len: rest, id: None, fault });
        }
        report.findings.len() > before
    }

    /// A pack's successor says how long the pack was.
    fn check_lengths(&self, report: &mut BlobsReport) {
        let mut index = self.index_mut();
        let named: Vec<PackHeader> = index
            .packs
            .iter()
            .filter_map(|(id, info)| PackHeader::decode(info.header.as_ref()?, self.store, *id).ok())
            .filter(|h| h.previous.0 != 0)
            .collect();
        for header in named {
            let Some(info) = index.packs.get_mut(&header.previous) else { continue };
            let file = self.pack_path(header.previous);
            if info.end != header.previous_len && !report.findings.iter().any(|f| f.file == file) {
                info.damaged = true;
                let (offset, expected) = (info.end, header.previous_len);
                let len = expected.saturating_sub(offset);
                report.findings.push(Finding { file, offset, len, id: None, fault: Fault::Length { expected } });
            }
        }
    }

    /// Lets go of empty files that no successor names: packs that were never begun.
    fn drop_unborn(&self) -> Result<(), BlobError> {
        let unborn: Vec<PackId> =
            self.index().packs.iter().filter(|(_, p)| p.closed && p.end == 0 && !p.damaged).map(|(id, _)| *id).collect();
        self.forget(&unborn);
        if self.writable {
            for id in unborn {
                let path = self.pack_path(id);
                self.storage.remove(&path).doing("remove", &path)?;
            }
        }
        Ok(())
    }

    /// Whether a pack's file is still the one that was walked.
    fn is_same_file(&self, id: PackId, info: &PackInfo) -> Result<bool, BlobError> {
        let path = self.pack_path(id);
        let mut bytes = [0; PACK_HEADER_LEN as usize];
        match self.storage.open_read(&path).and_then(|f| f.read_exact_at(&mut bytes, 0)) {
            Ok(()) => Ok(info.header == Some(bytes)),
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof) => Ok(false),
            Err(e) => Err(e).doing("read", &path),
        }
    }

    /// Takes the last pack of a clean stop as the one to append to. One with anything wrong in it is left as it is, for its evidence.
    fn adopt(&self, id: PackId, report: &mut BlobsReport) -> Result<Option<OpenPack>, BlobError> {
        let path = self.pack_path(id);
        // A clean stop has synced everything: what is wrong now is no torn tail.
        self.load(id, Standing::Settled, report)?;
        let Some(info) = self.index().packs.get(&id).cloned() else { return Ok(None) };
        // One that was never begun goes too.
        if info.damaged || info.end < PACK_HEADER_LEN {
            return Ok(None);
        }
        let file = self.storage.open(&path).doing("open", &path)?;
        // Its name was synced, if all went as it should; to make sure costs one sync of a directory.
        Ok(Some(OpenPack { id, file, end: info.end, name_unsynced: true, dirty_tail: false, behind: Behind::default() }))
    }

    /// Writes the last pack afresh: every entry whose bytes are right, to a new file, synced, under the old name.
    fn rewrite(&self, id: PackId, report: &mut BlobsReport) -> Result<Option<OpenPack>, BlobError> {
        let path = self.pack_path(id);
        let old = self.storage.open_read(&path).doing("open", &path)?;
        let header = match self.header_of(id, &*old, report)? {
            Header::Foreign => return Ok(None),
            Header::Sound(h) => Some(h),
            Header::Damaged => None,
        };
        let mut entries = Vec::new();
        let found = self.walk(&*old, id, PACK_HEADER_LEN, &mut |entry| entries.push(entry))?;
        if let Some((offset, e)) = found.unreadable {
            // What cannot be read must not be cut.
            return Err(BlobError::io(format!("read `{}` at offset {offset}", path.display()), e));
        }
        if header.is_none() && found.len > 0 {
            // A header that did not reach the disk is short or zeros; other bytes are damage.
            let mut bytes = vec![0; found.len.min(PACK_HEADER_LEN) as usize];
            old.read_exact_at(&mut bytes, 0).doing("read", &path)?;
            let torn = found.len < PACK_HEADER_LEN || bytes.iter().all(|b| *b == 0);
            let fault = if torn { Fault::TornTail } else { Fault::PackHeader };
            report.findings.push(Finding { file: path.clone(), offset: 0, len: found.len.min(PACK_HEADER_LEN), id: None, fault });
        }
        self.report_walk(id, &found, false, report);

        let header_was_sound = header.is_some();
        let (previous, previous_len, generation) = header.map_or((PackId(0), 0, 0), |h| (h.previous, h.previous_len, h.generation));
        let header = PackHeader { store: self.store, pack: id, previous, previous_len, generation: generation.wrapping_add(1) };
        let tmp = self.dir.join(format!("{}{TMP_SUFFIX}", pack::pack_file_name(id)));
        let new = self.storage.create_new(&tmp).doing("create", &tmp)?;
        let mut fresh = Fresh { end: PACK_HEADER_LEN, entries: Vec::with_capacity(entries.len()) };
        let copied = self.copy_sound(id, &*old, &entries, &*new, &mut fresh, report);
        let dropped = match copied.and_then(|n| new.write_at(&[&header.encode()], 0).doing("write", &tmp).map(|()| n)) {
            Ok(n) => n,
            Err(e) => {
                drop(new);
                let _ = self.storage.remove(&tmp);
                if e.is_full() && header_was_sound && found.gaps.is_empty() {
                    tracing::warn!("no room for a copy of {}: it is written again in its place", path.display());
                    if let Some(open) = self.rewrite_in_place(id, &header, &entries, &found, report)? {
                        return Ok(Some(open));
                    }
                }
                return Err(e);
            }
        };
        new.sync_data().doing("sync", &tmp)?;
        self.storage.rename(&tmp, &path).doing("replace", &path)?;
        self.storage.sync_dir(&self.dir).doing("sync the directory", &self.dir)?;
        report.rewritten =
            Some(Rewritten { pack: id, kept: fresh.entries.len() as u64, dropped, cut: found.len.saturating_sub(found.end) });
        // Of a successor that a crash has taken away: the pack will be closed again.
        self.drop_contents(id);
        self.add_pack(id, PackInfo { end: fresh.end, header: Some(header.encode()), ..PackInfo::default() })?;
        self.enter_all(id, &fresh.entries);
        // Opened by its name: the handle of `tmp` would do, but a store that forgets to rename would not be noticed.
        let file = self.storage.open(&path).doing("open", &path)?;
        Ok(Some(OpenPack { id, file, end: fresh.end, name_unsynced: false, dirty_tail: false, behind: Behind::default() }))
    }

    /// Copies the entries of `found` whose bytes are right; gives the number of those that are not.
    fn copy_sound(
        &self,
        id: PackId,
        old: &dyn StorageFile,
        entries: &[EntryHead],
        new: &dyn StorageFile,
        fresh: &mut Fresh,
        report: &mut BlobsReport,
    ) -> Result<u64, BlobError> {
        let path = self.pack_path(id);
        let mut dropped = 0;
        let mut bytes = Vec::new();
        for entry in entries {
            bytes.resize(entry.total_len() as usize, 0);
            old.read_exact_at(&mut bytes, entry.offset).doing("read", &path)?;
            let (head, data) = bytes.split_at(entry.head_len());
            if bad_block(entry, head, data).is_some() {
                dropped += 1;
                let (offset, len) = (entry.offset, entry.total_len());
                report.findings.push(Finding { file: path.clone(), offset, len, id: Some(entry.id), fault: Fault::TornTail });
                continue;
            }
            let moved = EntryHead { offset: fresh.end, ..*entry };
            let (stored, padding) = data.split_at(entry.stored_len as usize);
            let head = moved.encode(self.store, id, &EntryHead::sums(stored));
            new.write_at(&[&head, stored, padding], moved.offset).doing("write the copy of", &path)?;
            fresh.end += moved.total_len();
            fresh.entries.push(moved);
        }
        Ok(dropped)
    }
}

/// What is known of a pack before it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// It has a successor: all of it was durable, and it will not change.
    Closed,
    /// The last one after a clean stop: all of it was durable, and it will grow.
    Settled,
    /// The last one: nothing proves its end durable, and a writer beside us may be at it.
    Last,
}

/// What a walk found in a stretch of a pack, besides entries.
#[derive(Debug, Default)]
pub(super) struct Walk {
    /// Stretches between entries that are none: offset and length.
    pub(super) gaps: Vec<(u64, u64)>,
    /// Where the valid entries end.
    pub(super) end: u64,
    /// Length of the file when the walk began.
    pub(super) len: u64,
    /// Where and why reading stopped, if the disk refused.
    unreadable: Option<Unreadable>,
}

/// A pack being written afresh.
struct Fresh {
    entries: Vec<EntryHead>,
    end: u64,
}

enum Header {
    Sound(PackHeader),
    Damaged,
    Foreign,
}

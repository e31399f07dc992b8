//! Opening: the index is rebuilt from the packs' entry heads. After an unclean stop the last pack is written afresh, because the page
//! cache may hold what the disk does not; no other file here changes or shortens a pack.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Condvar, Mutex, OnceLock, RwLock};

use super::append::{OpenPack, Tail};
use super::error::Doing;
use super::pack::{self, BadHeader, EntryHead, PACK_HEADER_LEN, PackHeader};
use super::walk::{Walk, bad_block, walk};
use super::{BlobError, Blobs, BlobsReport, Fault, Finding, Gate, OpenMode, PackInfo, Place, Rewritten, lock, read};
use crate::ids::{PackId, StoreId};
use crate::storage::{Storage, StorageFile};

/// Suffix of a pack that is being written afresh; means nothing after a crash.
const TMP_SUFFIX: &str = ".tmp";

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
            target_len,
            index: RwLock::default(),
            handles: Mutex::new(HashMap::new()),
            inflated: Mutex::new(read::Inflated::default()),
            tail: Mutex::new(Tail::default()),
            sync_turn: Mutex::new(()),
            synced: AtomicU64::new(0),
            poison: OnceLock::new(),
            gate: Mutex::new(Gate::default()),
            gate_moved: Condvar::new(),
            sweeping: Mutex::new(()),
        };
        let mut report = BlobsReport::default();
        let mut packs = blobs.pack_files(writable)?;
        let last = packs.pop_last();
        for id in packs {
            blobs.load(id, true, &mut report)?;
        }
        if let Some(last) = last {
            let open = match mode {
                OpenMode::ReadOnly => {
                    blobs.load(last, false, &mut report)?;
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
        for id in gone {
            self.index_mut().remove_pack(id);
            lock(&self.handles).remove(&id);
        }
        let last = packs.last().copied();
        for id in packs {
            let known = self.index().packs.get(&id).cloned();
            match known {
                Some(info) if info.closed => {}
                Some(info) if self.is_same_file(id, &info)? => self.load_on(id, info, Some(id) != last, &mut report)?,
                _ => {
                    self.index_mut().remove_pack(id);
                    lock(&self.handles).remove(&id);
                    self.load(id, Some(id) != last, &mut report)?;
                }
            }
        }
        Ok(report)
    }

    /// Numbers of the pack files; with `tidy`, what a crash left of a pack being written afresh is removed.
    fn pack_files(&self, tidy: bool) -> Result<BTreeSet<PackId>, BlobError> {
        let mut packs = BTreeSet::new();
        for name in self.storage.list(&self.dir).doing("list", &self.dir)? {
            let Some(name) = name.to_str() else { continue };
            if let Some(id) = pack::parse_pack_file_name(name) {
                packs.insert(id);
            } else if tidy && name.strip_suffix(TMP_SUFFIX).and_then(pack::parse_pack_file_name).is_some() {
                let path = self.dir.join(name);
                self.storage.remove(&path).doing("remove", &path)?;
            }
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
                self.index_mut().packs.insert(id, PackInfo { end: len, closed: true, damaged: true, header: None });
                Ok(Header::Foreign)
            }
        }
    }

    /// Enters the entries of a pack in the index, without changing the pack.
    fn load(&self, id: PackId, closed: bool, report: &mut BlobsReport) -> Result<(), BlobError> {
        let path = self.pack_path(id);
        let file = match self.storage.open_read(&path) {
            Ok(file) => file,
            // Swept since it was listed.
            Err(e) if e.kind() == io::ErrorKind::NotFound && !self.writable => return Ok(()),
            Err(e) => return Err(e).doing("open", &path),
        };
        let len = file.len().doing("read", &path)?;
        if len == 0 && closed {
            // What a full disk leaves of a pack that could not be begun.
            if self.writable {
                self.storage.remove(&path).doing("remove", &path)?;
            }
            return Ok(());
        }
        let header = match self.header_of(id, &*file, report) {
            Ok(Header::Foreign) => return Ok(()),
            Ok(Header::Sound(h)) => Some(h),
            Ok(Header::Damaged) => None,
            // One unreadable sector must not take the other packs away.
            Err(BlobError::Io { source, .. }) => {
                let fault = Fault::Unreadable(source.kind());
                report.findings.push(Finding { file: path, offset: 0, len: PACK_HEADER_LEN, id: None, fault });
                None
            }
            Err(e) => return Err(e),
        };
        // A pack being born beside us has no header yet.
        if header.is_none() && (closed || len >= PACK_HEADER_LEN) && !report.findings.iter().any(|f| f.file == self.pack_path(id)) {
            report.findings.push(Finding { file: self.pack_path(id), offset: 0, len: PACK_HEADER_LEN, id: None, fault: Fault::PackHeader });
        }
        let info = PackInfo { end: PACK_HEADER_LEN, closed: false, damaged: header.is_none(), header: header.map(|h| h.encode()) };
        self.index_mut().packs.insert(id, info.clone());
        self.load_on(id, info, closed, report)
    }

    /// Enters the entries of a pack behind `info.end` in the index.
    fn load_on(&self, id: PackId, info: PackInfo, closed: bool, report: &mut BlobsReport) -> Result<(), BlobError> {
        let path = self.pack_path(id);
        let file = match self.storage.open_read(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound && !self.writable => return Ok(()),
            Err(e) => return Err(e).doing("open", &path),
        };
        let found = walk(&*file, self.store, id, info.end).doing("read", &path)?;
        let wrong = self.report_walk(id, &found, closed, report);
        self.enter(id, PackInfo { closed, damaged: info.damaged || (wrong && closed), ..info }, &found);
        Ok(())
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
            let fault = Fault::Unreadable(e.kind());
            report.findings.push(Finding { file, offset: *offset, len: found.len.saturating_sub(*offset), id: None, fault });
        } else if rest > 0 {
            report.findings.push(Finding { file, offset: found.end, len: rest, id: None, fault });
        }
        report.findings.len() > before
    }

    fn enter(&self, id: PackId, info: PackInfo, found: &Walk) {
        let mut index = self.index_mut();
        for entry in &found.entries {
            // The youngest copy counts: packs are loaded in order, but a refresh of an old one must not win over a younger.
            if index.places.get(&entry.id).is_none_or(|p| p.pack <= id) {
                index.insert(entry.id, place(id, entry, entry.offset));
            }
        }
        let end = found.end.max(info.end);
        index.packs.insert(id, PackInfo { end, ..info });
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
        self.load(id, true, report)?;
        let Some(info) = self.index().packs.get(&id).cloned() else { return Ok(None) };
        if info.damaged {
            return Ok(None);
        }
        if let Some(info) = self.index_mut().packs.get_mut(&id) {
            info.closed = false;
        }
        let file = self.storage.open(&path).doing("open", &path)?;
        Ok(Some(OpenPack { id, file, end: info.end, name_unsynced: false, dirty_tail: false }))
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
        let found = walk(&*old, self.store, id, PACK_HEADER_LEN).doing("read", &path)?;
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

        let (previous, previous_len, generation) = header.map_or((PackId(0), 0, 0), |h| (h.previous, h.previous_len, h.generation));
        let header = PackHeader { store: self.store, pack: id, previous, previous_len, generation: generation.wrapping_add(1) };
        let tmp = self.dir.join(format!("{}{TMP_SUFFIX}", pack::pack_file_name(id)));
        let new = self.storage.create_new(&tmp).doing("create", &tmp)?;
        let mut fresh = Walk { end: PACK_HEADER_LEN, ..Walk::default() };
        let copied = self.copy_sound(id, &*old, &found, &*new, &mut fresh, report);
        let dropped = match copied.and_then(|n| new.write_at(&[&header.encode()], 0).doing("write", &tmp).map(|()| n)) {
            Ok(n) => n,
            Err(e) => {
                drop(new);
                let _ = self.storage.remove(&tmp);
                return Err(e);
            }
        };
        new.sync_data().doing("sync", &tmp)?;
        self.storage.rename(&tmp, &path).doing("replace", &path)?;
        self.storage.sync_dir(&self.dir).doing("sync the directory", &self.dir)?;
        report.rewritten =
            Some(Rewritten { pack: id, kept: fresh.entries.len() as u64, dropped, cut: found.len.saturating_sub(found.end) });
        let info = PackInfo { end: fresh.end, closed: false, damaged: false, header: Some(header.encode()) };
        self.enter(id, info, &fresh);
        // Opened by its name: the handle of `tmp` would do, but a store that forgets to rename would not be noticed.
        let file = self.storage.open(&path).doing("open", &path)?;
        Ok(Some(OpenPack { id, file, end: fresh.end, name_unsynced: false, dirty_tail: false }))
    }

    /// Copies the entries of `found` whose bytes are right; gives the number of those that are not.
    fn copy_sound(
        &self,
        id: PackId,
        old: &dyn StorageFile,
        found: &Walk,
        new: &dyn StorageFile,
        fresh: &mut Walk,
        report: &mut BlobsReport,
    ) -> Result<u64, BlobError> {
        let path = self.pack_path(id);
        let mut dropped = 0;
        let mut bytes = Vec::new();
        for entry in &found.entries {
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
            let head = moved.encode(self.store, id, stored);
            new.write_at(&[&head, stored, padding], moved.offset).doing("write the copy of", &path)?;
            fresh.end += moved.total_len();
            fresh.entries.push(moved);
        }
        Ok(dropped)
    }
}

enum Header {
    Sound(PackHeader),
    Damaged,
    Foreign,
}

fn place(pack: PackId, entry: &EntryHead, offset: u64) -> Place {
    Place {
        pack,
        offset: u32::try_from(offset).unwrap_or(u32::MAX),
        raw_len: entry.raw_len,
        stored_len: entry.stored_len,
        encoding: entry.encoding,
        verified: false,
    }
}

//! The version log, `meta/versions`: one record a version, appended. Its form is in wal-format.md, "Version log".
//!
//! The checkpoint names the last version that counts; a record beyond it was cut short by a crash and is dropped when the log is opened
//! for writing. Everything up to it was synced before the checkpoint was: there, a record that fails its check is damage.
//!
//! A record is never changed in its place. Versions are thinned out or changed by writing the whole log anew ([`VersionLog::rewrite`]), so
//! numbers grow and may have gaps: a version's number is not its position, and the last number is not how many there are.

mod merge;
mod record;
mod rewrite;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

pub use self::merge::{LISTED_MAX, merge_paths};
use self::record::Format;
pub use self::record::{ChangeId, Origin, PathChange, ProcessLabel, Version, What};
pub use self::rewrite::Action;
use crate::error::{Class, Error, Result};
use crate::ids::{Lsn, StoreId, Time, VersionSeq};
use crate::storage::{FileRef, Storage};
use crate::versions::version_index::{self, Light, PathFilter};

/// First bytes of the file.
const MAGIC: &[u8; 8] = b"IZEVERSN";
/// Bytes of the file header: magic, format version, store id, CRC-32.
pub(super) const HEADER: u64 = 8 + 4 + 16 + 4;
/// Bytes before a record's body: CRC-32, length.
pub(super) const FRAME: u64 = 8;
/// No record's body is longer.
const MAX_BODY: u32 = 64 << 20;

/// So many versions that the index file lacks make a new one.
const INDEX_EVERY: u64 = 256;

/// How the log is opened. Versions above `keep_up_to` (the checkpoint's) do not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// For appending; what is above is cut off.
    Write {
        /// The checkpoint's version.
        keep_up_to: VersionSeq,
    },
    /// For reading, beside a writer or not.
    ReadOnly {
        /// The checkpoint's version; `None` takes what is there.
        keep_up_to: Option<VersionSeq>,
    },
}

/// The version log.
#[derive(Debug)]
pub struct VersionLog {
    path: PathBuf,
    store: StoreId,
    /// `None` while nothing has been written.
    pub(super) file: Option<FileRef>,
    storage: Arc<dyn Storage>,
    /// Of the file.
    format: Format,
    writable: bool,
    index: Vec<Light>,
    /// How many of them the index file holds.
    indexed: u64,
    end: u64,
    /// Why nothing more can be appended: after a failed write or sync nobody knows what the file holds.
    failed: Option<String>,
}

impl VersionLog {
    /// Opens the log; a missing one is empty.
    ///
    /// # Errors
    /// `Damage` when a version that counts fails its check or is missing; I/O errors.
    pub fn open(storage: Arc<dyn Storage>, path: PathBuf, store: StoreId, mode: Mode) -> Result<Self> {
        let (writable, keep) = match mode {
            Mode::Write { keep_up_to } => (true, Some(keep_up_to)),
            Mode::ReadOnly { keep_up_to } => (false, keep_up_to),
        };
        let opened = if writable { storage.open(&path) } else { storage.open_read(&path) };
        let file = match opened {
            Ok(file) => Some(file),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(Error::io(format!("cannot open {}", path.display()), e)),
        };
        let mut log = Self { writable, ..Self::none(storage, path, store) };
        if writable {
            // What a crash left of a rewriting counts for nothing.
            let _ = log.storage.remove(&log.path.with_extension("tmp"));
        }
        if let Some(file) = file {
            log.scan(file, keep)?;
        }
        if let Some(keep) = keep
            && log.newest() < keep
        {
            return Err(log.damage(log.end, &format!("version {} is missing: the checkpoint names {keep}", log.newest().next())));
        }
        Ok(log)
    }

    /// A log that holds nothing, and takes nothing.
    pub(crate) fn none(storage: Arc<dyn Storage>, path: PathBuf, store: StoreId) -> Self {
        let format = Format::NEWEST;
        Self { path, store, file: None, storage, format, writable: false, index: Vec::new(), indexed: 0, end: 0, failed: None }
    }

    /// Opens the file for reading, without reading any version, and says its length and whether its header is right; `None` when there is
    /// none.
    ///
    /// # Errors
    /// I/O errors.
    pub(super) fn unread(storage: &Arc<dyn Storage>, path: PathBuf, store: StoreId) -> Result<Option<(Self, u64, bool)>> {
        let file = match storage.open_read(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io(format!("cannot open {}", path.display()), e)),
        };
        let mut log = Self { file: Some(Arc::clone(&file)), ..Self::none(Arc::clone(storage), path, store) };
        let len = file.len().map_err(|e| log.doing("read", e))?;
        let mut header = vec![0; usize::try_from(HEADER.min(len)).unwrap_or(0)];
        file.read_exact_at(&mut header, 0).map_err(|e| log.doing("read", e))?;
        let format = log.format_of(&header);
        if let Some(format) = format {
            log.format = format;
        } else if log.raw_frame(HEADER).is_ok_and(|(_, body)| Version::decode(Format::One, store, &body).is_ok()) {
            // The header is damaged; the first record says which it was: a record of one format is too short or too long for the other.
            log.format = Format::One;
        }
        Ok(Some((log, len, format.is_some())))
    }

    fn damage(&self, offset: u64, what: &str) -> Error {
        Error::new(Class::Damage, format!("{} at offset {offset}: {what}", self.path.display()))
            .hint("keep a copy of the project's directory before anything else")
    }

    fn doing(&self, what: &str, e: io::Error) -> Error {
        Error::io(format!("cannot {what} {}", self.path.display()), e)
    }

    fn header(&self, format: Format) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&format.number().to_le_bytes());
        out.extend_from_slice(&self.store.0);
        out.extend_from_slice(&crc32fast::hash(&out).to_le_bytes());
        out
    }

    /// What a header says; `None` for one that is wrong, another store's or of a format that is not known.
    fn format_of(&self, header: &[u8]) -> Option<Format> {
        [Format::One, Format::Two].into_iter().find(|format| header == self.header(*format))
    }

    /// Reads the frames from the start, up to `keep`; cuts the rest off when the log is open for writing.
    fn scan(&mut self, file: FileRef, keep: Option<VersionSeq>) -> Result<()> {
        let len = file.len().map_err(|e| self.doing("read", e))?;
        let mut header = vec![0; HEADER as usize];
        if len >= HEADER {
            file.read_exact_at(&mut header, 0).map_err(|e| self.doing("read", e))?;
        }
        let Some(format) = self.format_of(&header) else {
            if keep.is_some_and(|k| k.0 > 0) || (keep.is_none() && len > 0) {
                let format = header.get(8..12).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes);
                let known = format <= Format::NEWEST.number() || header.get(..8) != Some(MAGIC);
                let what = if known { "the header fails its check".to_owned() } else { format!("format version {format} is not known") };
                return Err(self.damage(0, &what));
            }
            // Cut short at its birth: nothing counts yet. The next append writes it anew.
            self.file = Some(file);
            self.end = 0;
            return Ok(());
        };
        self.file = Some(file);
        self.format = format;
        self.end = HEADER;
        self.load_index(len, keep);
        while keep.is_none_or(|k| self.newest() < k) && self.end < len {
            match self.read_frame(self.end) {
                Ok((version, next)) => {
                    let expected = VersionSeq(self.newest().next().0 + version.thinned);
                    if version.seq != expected || keep.is_some_and(|k| version.seq > k) {
                        return Err(self.damage(self.end, &format!("version {} stands where {expected} should", version.seq)));
                    }
                    self.note(&version, self.end);
                    self.end = next;
                }
                Err(e) if keep.is_some() => return Err(e),
                // Read without a checkpoint: what is not whole yet is the end.
                Err(_) => break,
            }
        }
        if self.writable
            && self.end < len
            && let Some(file) = &self.file
        {
            file.set_len(self.end).and_then(|()| file.sync_data()).map_err(|e| self.doing("cut", e))?;
        }
        self.save_index();
        Ok(())
    }

    fn index_path(&self) -> PathBuf {
        let mut name = self.path.as_os_str().to_owned();
        name.push(".index");
        name.into()
    }

    /// Takes what the index file holds, when it fits the log. Its versions are checked when they are read. Who writes throws one away that does
    /// not fit.
    fn load_index(&mut self, len: u64, keep: Option<VersionSeq>) {
        match self.fitting_index(len, keep) {
            Some((index, covered)) => (self.indexed, self.index, self.end) = (index.len() as u64, index, covered),
            None if self.writable => _ = self.storage.remove(&self.index_path()),
            None => {}
        }
    }

    fn fitting_index(&self, len: u64, keep: Option<VersionSeq>) -> Option<(Vec<Light>, u64)> {
        let (index, covered) = version_index::read(&*self.storage, &self.index_path(), self.store)?;
        let last = index.last()?;
        let wanted = covered <= len && keep.is_none_or(|k| last.seq <= k);
        // The log may have been put back to an older one, or to that of another time.
        let fits = wanted
            && self
                .read_frame(last.offset)
                .is_ok_and(|(version, next)| next == covered && (version.seq, version.id, version.last) == (last.seq, last.id, last.last));
        fits.then_some((index, covered))
    }

    /// Writes the index file when it lacks many versions. Only versions that count are in it.
    fn save_index(&mut self) {
        if self.writable && (self.index.len() as u64).saturating_sub(self.indexed) >= INDEX_EVERY {
            self.write_index();
        }
    }

    fn write_index(&mut self) {
        match version_index::write(&*self.storage, &self.index_path(), self.store, &self.index, self.end) {
            Ok(()) => self.indexed = self.index.len() as u64,
            // It only saves time.
            Err(e) => tracing::warn!("{} was not written: {e}", self.index_path().display()),
        }
    }

    fn note(&mut self, version: &Version, offset: u64) {
        // Never decreasing, so that a time can be looked up: the parts of a window may have ended in another order.
        let end = self.index.last().map_or(version.end, |before| before.end.max(version.end));
        let paths = PathFilter::of(&version.paths);
        self.index.push(Light { offset, seq: version.seq, last: version.last, end, id: version.id, paths });
    }

    pub(super) fn read_frame(&self, offset: u64) -> Result<(Version, u64)> {
        let (next, body) = self.raw_frame(offset)?;
        let version = Version::decode(self.format, self.store, &body).map_err(|what| self.damage(offset, &what))?;
        Ok((version, next))
    }

    /// The body of the record there, and where the next one begins.
    fn raw_frame(&self, offset: u64) -> Result<(u64, Vec<u8>)> {
        let Some(file) = &self.file else { return Err(self.damage(offset, "there is nothing")) };
        let short = |e: io::Error| match e.kind() {
            io::ErrorKind::UnexpectedEof => self.damage(offset, "the record is cut short"),
            _ => self.doing("read", e),
        };
        let mut frame = [0; FRAME as usize];
        file.read_exact_at(&mut frame, offset).map_err(short)?;
        let number = |at: usize| frame.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes);
        let (crc, len) = (number(0), number(4));
        let left = file.len().map_err(|e| self.doing("read", e))?.saturating_sub(offset + FRAME);
        if len > MAX_BODY || u64::from(len) > left {
            return Err(self.damage(offset, "the record's length makes no sense"));
        }
        let mut body = vec![0; len as usize];
        file.read_exact_at(&mut body, offset + FRAME).map_err(short)?;
        if crc != self.crc(offset, &body) {
            return Err(self.damage(offset, "the record's checksum is wrong"));
        }
        Ok((offset + FRAME + u64::from(len), body))
    }

    /// Over store id, offset, length and body.
    fn crc(&self, offset: u64, body: &[u8]) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&self.store.0);
        hasher.update(&offset.to_le_bytes());
        hasher.update(&(body.len() as u64).to_le_bytes());
        hasher.update(body);
        hasher.finalize()
    }

    /// # Errors
    /// When nothing can be written any more.
    fn writing(&self) -> Result<()> {
        match &self.failed {
            _ if !self.writable => Err(Error::new(Class::Failed, format!("{} is open for reading only", self.path.display()))),
            Some(why) => {
                Err(Error::new(Class::Io, format!("{} takes nothing more: {why}", self.path.display())).hint("mount the project again"))
            }
            None => Ok(()),
        }
    }

    /// Appends a version; durable after [`VersionLog::sync`]. A log of an older format is written anew first.
    ///
    /// # Errors
    /// `Failed` when it does not follow the last one; I/O errors, after which nothing more can be appended.
    pub fn append(&mut self, version: &Version) -> Result<()> {
        self.writing()?;
        let last = self.last()?;
        let follows = match &last {
            // The next part of a window: none is left out.
            Some(last) if !last.is_whole() => {
                last.goes_on_in(version) && version.part == last.part + 1 && version.covers == last.covers && version.thinned == 0
            }
            _ => {
                let first = last.as_ref().map_or(Lsn(1), |v| v.last.next());
                version.part == 1 && version.first == first && version.covers == first && version.thinned == 0
            }
        };
        if version.seq != self.newest().next() || !follows {
            return Err(Error::new(Class::Failed, format!("version {} does not follow version {}", version.seq, self.newest())));
        }
        if self.format != Format::NEWEST && self.file.is_some() {
            self.rewrite(&mut |_| Ok(Action::Keep))?;
        }
        let body = version.encode()?;
        let offset = self.end.max(HEADER);
        let header = if self.end == 0 { self.header(Format::NEWEST) } else { Vec::new() };
        let frame = self.frame(offset, &body);
        let file = match &self.file {
            Some(file) => Arc::clone(file),
            None => self.create()?,
        };
        // What a failed write left behind the end is overwritten by the next one, or cut at the next opening.
        file.write_at(&[&header, &frame, &body], offset - header.len() as u64).map_err(|e| self.doing("write", e))?;
        self.format = Format::NEWEST;
        self.note(version, offset);
        self.end = offset + FRAME + body.len() as u64;
        Ok(())
    }

    /// What stands before a body.
    fn frame(&self, offset: u64, body: &[u8]) -> Vec<u8> {
        let mut frame = Vec::with_capacity(FRAME as usize);
        frame.extend_from_slice(&self.crc(offset, body).to_le_bytes());
        frame.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
        frame
    }

    fn create(&mut self) -> Result<FileRef> {
        let file = self.storage.create_new(&self.path).map_err(|e| self.doing("create", e))?;
        if let Some(dir) = self.path.parent() {
            self.storage.sync_dir(dir).map_err(|e| self.doing("create", e))?;
        }
        self.file = Some(Arc::clone(&file));
        Ok(file)
    }

    /// Makes what was appended durable.
    ///
    /// # Errors
    /// I/O errors, after which nothing more can be appended.
    pub fn sync(&mut self) -> Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        file.sync_data().map_err(|e| {
            self.failed = Some(e.to_string());
            Error::io(format!("cannot sync {}", self.path.display()), e)
        })
    }

    /// The checkpoint names everything appended so far: it counts.
    pub fn counted(&mut self) {
        self.save_index();
    }

    /// May the version of that number touch this path or something below it? No is certain, and told without reading the version.
    #[must_use]
    pub fn may_touch(&self, seq: VersionSeq, path: &[u8]) -> bool {
        self.position(seq).and_then(|n| self.index.get(n)).is_none_or(|light| light.paths.may_touch(path))
    }

    /// Refuses every later append, because the last version may or may not count.
    pub fn fail(&mut self, why: &str) {
        self.failed = Some(why.to_owned());
    }

    /// Takes back the last appended version, whose checkpoint could not be written.
    pub fn take_back(&mut self) {
        if let Some(light) = self.index.pop() {
            self.end = light.offset;
        }
    }

    /// How many versions there are: not the number of the last one.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.index.len() as u64
    }

    /// True without versions.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// The number of the newest version; 0 without one.
    #[must_use]
    pub fn newest(&self) -> VersionSeq {
        self.index.last().map_or(VersionSeq(0), |light| light.seq)
    }

    /// The numbers of all versions, oldest first, without reading them.
    pub fn numbers(&self) -> impl DoubleEndedIterator<Item = VersionSeq> + ExactSizeIterator + '_ {
        self.index.iter().map(|light| light.seq)
    }

    /// All versions, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = Result<Version>> + '_ {
        self.index.iter().map(|light| self.read_frame(light.offset).map(|(version, _)| version))
    }

    /// All versions, newest first.
    pub fn newest_first(&self) -> impl Iterator<Item = Result<Version>> + '_ {
        self.index.iter().rev().map(|light| self.read_frame(light.offset).map(|(version, _)| version))
    }

    fn at(&self, index: usize) -> Result<Option<Version>> {
        self.index.get(index).map(|light| self.read_frame(light.offset).map(|(version, _)| version)).transpose()
    }

    fn position(&self, seq: VersionSeq) -> Option<usize> {
        self.index.binary_search_by_key(&seq, |light| light.seq).ok()
    }

    /// The version of that number; `None` also where it was thinned out.
    ///
    /// # Errors
    /// Damage or I/O errors.
    pub fn get(&self, seq: VersionSeq) -> Result<Option<Version>> {
        self.position(seq).map_or(Ok(None), |index| self.at(index))
    }

    /// The first version whose number is above `seq`.
    ///
    /// # Errors
    /// Damage or I/O errors.
    pub fn after(&self, seq: VersionSeq) -> Result<Option<Version>> {
        self.at(self.index.partition_point(|light| light.seq <= seq))
    }

    /// The oldest version.
    ///
    /// # Errors
    /// Damage or I/O errors.
    pub fn first(&self) -> Result<Option<Version>> {
        self.at(0)
    }

    /// The version that is `back` places before the newest one.
    ///
    /// # Errors
    /// Damage or I/O errors.
    pub fn back(&self, back: u64) -> Result<Option<Version>> {
        let place = usize::try_from(back).ok().and_then(|back| self.index.len().checked_sub(back)?.checked_sub(1));
        place.map_or(Ok(None), |place| self.at(place))
    }

    /// The newest version.
    ///
    /// # Errors
    /// Damage or I/O errors.
    pub fn last(&self) -> Result<Option<Version>> {
        self.at(self.index.len().wrapping_sub(1))
    }

    /// The newest version whose last record is at or below `lsn`: never a part of a window but the last, whose state is that of its `last`.
    ///
    /// # Errors
    /// Damage or I/O errors.
    pub fn at_lsn(&self, lsn: Lsn) -> Result<Option<Version>> {
        self.at(self.index.partition_point(|light| light.last <= lsn).wrapping_sub(1))
    }

    /// The newest version that ended at or before `time`. May be a part of a window, whose state is none that the log went through.
    ///
    /// # Errors
    /// Damage or I/O errors.
    pub fn at_time(&self, time: Time) -> Result<Option<Version>> {
        self.at(self.index.partition_point(|light| light.end <= time).wrapping_sub(1))
    }

    /// The version whose change id begins with `prefix` (hexadecimal digits).
    ///
    /// # Errors
    /// `Usage` when several do, naming them; damage or I/O errors.
    pub fn by_id_prefix(&self, prefix: &str) -> Result<Option<Version>> {
        let prefix = prefix.to_ascii_lowercase();
        if prefix.is_empty() || prefix.len() > 16 || !prefix.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Ok(None);
        }
        let matching = |light: &Light| light.id.to_string().starts_with(&prefix);
        let found: Vec<usize> = self.index.iter().enumerate().filter(|(_, light)| matching(light)).map(|(i, _)| i).collect();
        match found.as_slice() {
            [] => Ok(None),
            [one] => self.at(*one),
            several => {
                let names: Vec<String> = several.iter().take(5).filter_map(|i| self.index.get(*i)).map(|l| l.id.to_string()).collect();
                Err(Error::new(Class::Usage, format!("`{prefix}` begins several change ids: {}", names.join(", "))).hint("give more of it"))
            }
        }
    }
}

#[cfg(test)]
mod tests;

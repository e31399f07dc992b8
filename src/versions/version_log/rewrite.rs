//! Writing the version log anew, without versions that are thinned out, or with other ones in their places. Old log or new one, whole:
//! written beside, synced, renamed, directory synced.

use std::io;
use std::sync::Arc;

use super::{FRAME, Format, HEADER, MAX_BODY, PathChange, Version, VersionLog, merge_paths};
use crate::error::{Class, Error, Result};
use crate::ids::{BlobId, Lsn};
use crate::storage::FileRef;

/// What becomes of a version.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "one at a time")]
pub enum Action {
    /// It stays as it is.
    Keep,
    /// It goes. What it changed counts as changed in the next version that stays. Not heeded where it cannot be: for the newest version, and
    /// for the last part of a window of which another part stays.
    Drop,
    /// It becomes this one: same number, records, part and id; another state, other paths, another label.
    Change(Version),
}

/// Written at a time.
const BUFFER: usize = 1 << 20;

/// What is known of the versions before the one that is written next.
#[derive(Default)]
struct Before {
    /// State and last record of the one that was written last.
    root: Option<BlobId>,
    last: Lsn,
    /// The last record of the one before the window that is being written.
    whole: Lsn,
    /// The part that was written last, when its window goes on.
    window: Option<Version>,
    /// Dropped since.
    thinned: u64,
    paths: Vec<PathChange>,
}

/// The new file.
struct Beside {
    log: VersionLog,
    file: FileRef,
    buffer: Vec<u8>,
}

impl VersionLog {
    /// Writes the log anew: `decide` is asked for every version, oldest first. Of those that stay, `parent_root`, `covers`, `thinned` and
    /// `paths` are made to fit. The index file is made anew. Versions that a checkpoint does not name yet must not be there.
    ///
    /// The Pijul repository is fed with what differs from one version to the next: the version at its head must stay, unless the repository
    /// is made anew.
    ///
    /// # Errors
    /// What `decide` says, damage and I/O errors while the new file is written: the log is as it was. I/O errors when it takes the old one's
    /// place: either is there, and nothing more can be appended.
    pub fn rewrite(&mut self, decide: &mut dyn FnMut(&Version) -> Result<Action>) -> Result<()> {
        self.writing()?;
        if self.file.is_none() || self.end == 0 {
            return Ok(());
        }
        let path = self.path.with_extension("tmp");
        let made = self.write_beside(&path, decide);
        let beside = match made {
            Ok(beside) => beside,
            Err(e) => {
                // It counts for nothing; the next try removes it too.
                let _ = self.storage.remove(&path);
                return Err(e);
            }
        };
        self.put_in_place(&path).map_err(|e| {
            self.failed = Some(e.to_string());
            self.doing("replace", e)
        })?;
        let VersionLog { index, end, .. } = beside.log;
        (self.file, self.index, self.indexed, self.end, self.format) = (Some(beside.file), index, 0, end, Format::NEWEST);
        self.write_index();
        Ok(())
    }

    fn put_in_place(&self, beside: &std::path::Path) -> io::Result<()> {
        // An index file that a crash leaves beside the new log must not be the old one's: it may fit by its length.
        match self.storage.remove(&self.index_path()) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            Ok(()) | Err(_) => {}
        }
        let dir = self.path.parent();
        dir.map_or(Ok(()), |dir| self.storage.sync_dir(dir))?;
        self.storage.rename(beside, &self.path)?;
        dir.map_or(Ok(()), |dir| self.storage.sync_dir(dir))
    }

    fn write_beside(&self, path: &std::path::Path, decide: &mut dyn FnMut(&Version) -> Result<Action>) -> Result<Beside> {
        match self.storage.remove(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(self.doing("write beside", e)),
            Ok(()) | Err(_) => {}
        }
        let file = self.storage.create_new(path).map_err(|e| self.doing("write beside", e))?;
        let mut log = VersionLog::none(Arc::clone(&self.storage), self.path.clone(), self.store);
        log.end = HEADER;
        let mut beside = Beside { buffer: log.header(Format::NEWEST), log, file };
        let mut before = Before::default();
        let newest = self.newest();
        for old in self.iter() {
            let old = old?;
            let action = decide(&old)?;
            let in_window = before.window.as_ref().is_some_and(|part| part.goes_on_in(&old));
            let must_stay = old.seq == newest || (in_window && old.is_whole());
            let version = match action {
                Action::Drop if !must_stay => {
                    before.thinned += 1 + old.thinned;
                    before.paths = merge_paths(std::mem::take(&mut before.paths), old.paths);
                    continue;
                }
                Action::Keep | Action::Drop => old,
                Action::Change(new) => {
                    let fixed = |v: &Version| (v.seq, v.first, v.last, v.part, v.parts, v.id, v.thinned);
                    if fixed(&new) != fixed(&old) {
                        return Err(Error::new(Class::Failed, format!("version {} cannot become another one", old.seq)));
                    }
                    new
                }
            };
            let version = before.place(version, in_window);
            beside.push(&version)?;
        }
        beside.flush()?;
        beside.file.sync_data().map_err(|e| self.doing("sync", e))?;
        Ok(beside)
    }
}

impl Before {
    /// Makes a version fit what is before it.
    fn place(&mut self, mut version: Version, in_window: bool) -> Version {
        if !in_window {
            self.whole = self.last;
        }
        version.covers = self.whole.next();
        version.parent_root = self.root;
        if self.thinned > 0 {
            version.thinned += self.thinned;
            version.paths = merge_paths(std::mem::take(&mut self.paths), std::mem::take(&mut version.paths));
        }
        (self.root, self.last, self.thinned) = (Some(version.root), version.last, 0);
        self.window = (!version.is_whole()).then(|| Version { paths: Vec::new(), ..version.clone() });
        version
    }
}

impl Beside {
    fn push(&mut self, version: &Version) -> Result<()> {
        let body = version.encode()?;
        if body.len() as u64 > u64::from(MAX_BODY) {
            return Err(Error::new(Class::Failed, format!("version {} would be longer than any may be", version.seq)));
        }
        let offset = self.log.end;
        self.buffer.extend_from_slice(&self.log.frame(offset, &body));
        self.buffer.extend_from_slice(&body);
        self.log.note(version, offset);
        self.log.end = offset + FRAME + body.len() as u64;
        if self.buffer.len() >= BUFFER { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        let at = self.log.end - self.buffer.len() as u64;
        self.file.write_at(&[&self.buffer], at).map_err(|e| self.log.doing("write beside", e))?;
        self.buffer.clear();
        Ok(())
    }
}

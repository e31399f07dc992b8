//! Finds the log that a word means: a project's, a copy of one, a directory of segments, one segment, whole or not.

use std::ffi::{OsStr, OsString};
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::finding::Finding as Trouble;
use crate::cli::grammar::LogTarget;
use crate::cli::output;
use crate::cli::session::Session;
use crate::error::{Class, Error, Result};
use crate::ids::{Lsn, SegmentId, StoreId};
use crate::project::{Layout, Project};
use crate::storage::{Disk, FileRef, Storage};
use crate::versions::checkpoint;
use crate::wal::format::{HEADER_LEN, HEADER_MAGIC, Header, HeaderFault, header_at, segment_of_name, segment_path};
use crate::wal::scan::{Finding, LogScan};
use crate::wal::{self, Bounds, Record, Segment, WalError};

/// A log to look at: where, whose, and which of its segments.
#[derive(Debug)]
pub struct Target {
    /// The disk, or the part of it that is meant.
    pub storage: Arc<dyn Storage>,
    /// Directory of the segments.
    pub dir: PathBuf,
    /// Directory of the packs, where there is one.
    pub blobs: Option<PathBuf>,
    /// Whose log it is.
    pub store: StoreId,
    /// What the checkpoint says.
    pub bounds: Bounds,
    /// Where the project's own files are, when the log stands among them.
    pub layout: Option<Layout>,
    /// The project, when it is one that can be opened.
    pub project: Option<Project>,
    /// The one segment that was asked for.
    pub only: Option<SegmentId>,
    /// The file of that segment when it has another name than its number.
    file: Option<PathBuf>,
    checkpoint: Option<PathBuf>,
    /// What is wrong with the checkpoint: the log is read as if there were none.
    pub trouble: Option<Trouble>,
}

/// Gets the records of a walk; may stop it.
pub type Visit<'a> = dyn FnMut(&Record<'_>, &Arc<Segment>) -> Result<ControlFlow<()>> + 'a;

/// Finds the log that a word means.
///
/// # Errors
/// What the word means; `NotFound` when there are no segments there; `Io` or `Damage` when it cannot be said whose they are.
pub fn find(word: Option<&OsStr>, session: &Session) -> Result<Target> {
    match session.log_meant(word)? {
        LogTarget::Project(dir) => match Project::open(&dir) {
            Ok(project) => of_its_own_log(project),
            // The log is readable without its project; what is wrong with that is another matter.
            Err(e) if has_segments(&dir.join("wal")) => {
                output::warn(&format!("{}; the log is shown as a directory of segments", e.message));
                of_directory(&dir.join("wal"))
            }
            Err(e) => Err(e),
        },
        LogTarget::Path(path) => of_path(&path),
    }
}

fn of_path(path: &Path) -> Result<Target> {
    let named = path.file_name().and_then(segment_of_name);
    let meta = std::fs::metadata(path).map_err(|e| Error::io(format!("cannot look at {}", output::name_of(path)), e))?;
    if named.is_none() && meta.is_dir() {
        if let Some(project) = project_of_log(path) {
            return of_its_own_log(project);
        }
        // A copy of a project's directory without its identity, or of its wal/ alone.
        let inner = path.join("wal");
        return if !has_segments(path) && inner.is_dir() { of_directory(&inner) } else { of_directory(path) };
    }
    let dir = path.parent().unwrap_or(Path::new("/"));
    if let Some(only) = named {
        return match project_of_log(dir) {
            Some(project) => of_project(project, Some(only)),
            None => of_segment(dir, only),
        };
    }
    if !meta.is_file() {
        return Err(Error::new(Class::NotFound, format!("{} is neither a directory nor a segment", output::name_of(path))));
    }
    of_file(dir, path)
}

/// The project whose log directory this is.
fn project_of_log(dir: &Path) -> Option<Project> {
    let dir = std::fs::canonicalize(dir).ok()?;
    let project = Project::open(dir.parent()?).ok()?;
    (std::fs::canonicalize(project.layout.wal()).ok()? == dir).then_some(project)
}

/// The whole log of a project. Where all segments are another store's than the project says it is, that word is wrong: it is one against many.
fn of_its_own_log(project: Project) -> Result<Target> {
    let wal = project.layout.wal();
    let ids = list(&Disk, &wal).unwrap_or_default();
    let sound = |id: &SegmentId| {
        let head = read_head(&segment_path(&wal, *id)).ok()?;
        Header::decode(&head, None, *id).ok().map(|header| header.store)
    };
    let mut stores = ids.iter().filter_map(sound).peekable();
    if stores.peek().is_some() && stores.all(|store| store != project.identity.id) {
        output::warn("meta/project.toml names another store than every segment of its log does; the segments are believed");
        return of_directory(&wal);
    }
    of_project(project, None)
}

fn of_project(project: Project, only: Option<SegmentId>) -> Result<Target> {
    let (layout, store) = (project.layout.clone(), project.identity.id);
    let mut trouble = None;
    let bounds = match checkpoint::read(&Disk, &layout.checkpoint(), store) {
        Ok(found) => found.map_or(Bounds::default(), |c| Bounds { checkpoint: c.lsn, floor: c.floor }),
        Err(e) => {
            trouble = Some(Trouble::of_file(layout.checkpoint(), &e));
            Bounds { checkpoint: Lsn::ZERO, floor: list(&Disk, &layout.wal())?.first().copied().unwrap_or_default() }
        }
    };
    Ok(Target {
        storage: Disk::shared(),
        dir: layout.wal(),
        blobs: Some(layout.blobs()),
        store,
        bounds,
        checkpoint: Some(layout.checkpoint()),
        layout: Some(layout),
        project: Some(project),
        only,
        file: None,
        trouble,
    })
}

/// A directory of segments that no project claims.
fn of_directory(dir: &Path) -> Result<Target> {
    let ids = list(&Disk, dir)?;
    if ids.is_empty() {
        return Err(Error::new(Class::NotFound, format!("there are no segments in {}", output::name_of(dir))));
    }
    let store = store_of(&ids.iter().map(|id| (*id, segment_path(dir, *id))).collect::<Vec<_>>())?;
    let first = ids.first().copied().unwrap_or_default();
    let mut target = bare(Disk::shared(), dir, store, first);
    if dir.file_name() == Some(OsStr::new("wal"))
        && let Some(parent) = dir.parent()
    {
        let layout = Layout::new(parent);
        target.blobs = Some(layout.blobs()).filter(|b| b.is_dir());
        match checkpoint::read(&Disk, &layout.checkpoint(), store) {
            Ok(Some(c)) => {
                target.bounds = Bounds { checkpoint: c.lsn, floor: c.floor };
                target.checkpoint = Some(layout.checkpoint());
            }
            Ok(None) => {}
            Err(e) => target.trouble = Some(Trouble::of_file(layout.checkpoint(), &e)),
        }
        target.layout = Some(layout).filter(|l| l.meta().is_dir());
    }
    Ok(target)
}

/// One segment in a directory that no project claims: with those of the same store beside it, which tell names and how it must end.
fn of_segment(dir: &Path, only: SegmentId) -> Result<Target> {
    let store = store_of(&[(only, segment_path(dir, only))])?;
    let mut files = Vec::new();
    for id in list(&Disk, dir)? {
        let path = segment_path(dir, id);
        if id == only || store_of(&[(id, path.clone())]).is_ok_and(|s| s == store) {
            files.push((id, path));
        }
    }
    let first = files.first().map_or(only, |(id, _)| *id);
    Ok(Target { only: Some(only), ..bare(Arc::new(Chosen { files }), dir, store, first) })
}

/// A segment under a name that is none.
fn of_file(dir: &Path, path: &Path) -> Result<Target> {
    let head = read_head(path).map_err(|e| cannot_read(path, e))?;
    let id = claim(&head).map(|(_, id)| id).ok_or_else(|| {
        Error::new(Class::NotFound, format!("{} is no segment: it does not begin like one", output::name_of(path)))
            .hint("a segment is called like 0000000000000003.seg, and so is a damaged one")
    })?;
    let store = store_of(&[(id, path.to_owned())])?;
    let files = vec![(id, path.to_owned())];
    Ok(Target { only: Some(id), file: Some(path.to_owned()), ..bare(Arc::new(Chosen { files }), dir, store, id) })
}

fn bare(storage: Arc<dyn Storage>, dir: &Path, store: StoreId, floor: SegmentId) -> Target {
    let bounds = Bounds { checkpoint: Lsn::ZERO, floor };
    Target {
        storage,
        dir: dir.to_owned(),
        blobs: None,
        store,
        bounds,
        layout: None,
        project: None,
        only: None,
        file: None,
        checkpoint: None,
        trouble: None,
    }
}

fn list(storage: &dyn Storage, dir: &Path) -> Result<Vec<SegmentId>> {
    let names = storage.list(dir).map_err(|e| Error::io(format!("cannot list {}", output::name_of(dir)), e))?;
    let mut ids: Vec<SegmentId> = names.iter().filter_map(|n| segment_of_name(n)).collect();
    ids.sort();
    Ok(ids)
}

fn has_segments(dir: &Path) -> bool {
    list(&Disk, dir).is_ok_and(|ids| !ids.is_empty())
}

fn cannot_read(path: &Path, e: io::Error) -> Error {
    Error::io(format!("cannot read {}", output::name_of(path)), e)
}

/// The first bytes of a file, as many of a header's as it has.
fn read_head(path: &Path) -> io::Result<Vec<u8>> {
    let file = Disk.open_read(path)?;
    let mut head = vec![0; HEADER_LEN];
    let mut done = 0;
    while done < head.len() {
        match file.read_at(&mut head[done..], done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    head.truncate(done);
    Ok(head)
}

/// What a header says of store and number, whether or not it is sound.
fn claim(head: &[u8]) -> Option<(StoreId, SegmentId)> {
    let store: [u8; 16] = head.get(header_at::STORE..header_at::STORE + 16)?.try_into().ok()?;
    let id: [u8; 8] = head.get(header_at::SEGMENT..header_at::SEGMENT + 8)?.try_into().ok()?;
    (head.get(..8)? == HEADER_MAGIC).then(|| (StoreId(store), SegmentId(u64::from_le_bytes(id))))
}

/// Whose segments these are: what the first sound header says, else what a damaged one seems to say (the records decide: their checksums
/// cover it).
fn store_of(segments: &[(SegmentId, PathBuf)]) -> Result<StoreId> {
    let mut claimed = None;
    let mut failed: Option<Error> = None;
    for (id, path) in segments {
        let head = match read_head(path) {
            Ok(head) => head,
            Err(e) => {
                failed = failed.or(Some(cannot_read(path, e)));
                continue;
            }
        };
        match Header::decode(&head, None, *id) {
            Ok(header) => return Ok(header.store),
            Err(HeaderFault::Unsupported(what)) => return Err(WalError::Unsupported { file: path.clone(), what }.into()),
            Err(HeaderFault::Damaged(what)) => {
                claimed = claimed.or(head.get(header_at::STORE..header_at::STORE + 16).and_then(|b| b.try_into().ok()).map(StoreId));
                let message = format!("damage in {} at offset 0: {what}", output::name_of(path));
                failed = failed.or_else(|| {
                    Some(
                        Error::new(Class::Damage, message)
                            .hint("the header says whose segment it is; without it nothing in it can be checked"),
                    )
                });
            }
        }
    }
    claimed.ok_or_else(|| failed.unwrap_or_else(|| Error::new(Class::NotFound, "there are no segments")))
}

impl Target {
    /// Reads every segment and gives each valid record to `visit`. What is wrong is in the result, of the one segment only where one was
    /// asked for; `None` when `visit` stopped.
    ///
    /// # Errors
    /// An error of `visit`; the directory cannot be listed; a segment that this ize must not read.
    pub fn walk(&self, visit: &mut Visit<'_>) -> Result<Option<LogScan>> {
        let mut stopped: Option<Result<()>> = None;
        let walked = wal::scan::walk(&*self.storage, &self.dir, self.store, self.bounds, &mut |record, segment| {
            match visit(record, segment) {
                Ok(ControlFlow::Continue(())) => return Ok(()),
                Ok(ControlFlow::Break(())) => stopped = Some(Ok(())),
                Err(e) => stopped = Some(Err(e)),
            }
            Err(WalError::Io { doing: "stopped".into(), source: io::ErrorKind::Interrupted.into() })
        });
        if let Some(stopped) = stopped {
            return stopped.map(|()| None);
        }
        let mut scan = walked?;
        self.correct(&mut scan);
        Ok(Some(scan))
    }

    /// True for a segment that was asked for.
    #[must_use]
    pub fn wants(&self, id: SegmentId) -> bool {
        self.only.is_none_or(|only| only == id)
    }

    /// Takes out of what a walk found what does not concern this target.
    pub fn correct(&self, scan: &mut LogScan) {
        scan.findings.retain(|f| self.wants(f.segment));
        self.correct_findings(&mut scan.findings);
        scan.segments.retain(|s| self.wants(s.id));
        if let Some(file) = &self.file {
            scan.segments.iter_mut().for_each(|s| s.file.clone_from(file));
        }
    }

    /// The same for findings alone.
    pub fn correct_findings(&self, findings: &mut Vec<Finding>) {
        findings.retain(|f| self.wants(f.segment));
        if findings.iter().any(|f| f.missing)
            && let Some(floor) = self.floor_now()
        {
            // Pruned since the checkpoint was read.
            findings.retain(|f| !f.missing || f.segment >= floor);
        }
        if let Some(file) = &self.file {
            findings.iter_mut().for_each(|f| f.file.clone_from(file));
        }
    }

    fn floor_now(&self) -> Option<SegmentId> {
        checkpoint::read(&Disk, self.checkpoint.as_deref()?, self.store).ok().flatten().map(|c| c.floor)
    }

    /// Bytes of the segments and packs, for a progress bar.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let of = |dir: &Path| {
            let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
            entries.filter_map(|e| e.metadata().ok()).filter(std::fs::Metadata::is_file).map(|m| m.len()).sum::<u64>()
        };
        of(&self.dir) + self.blobs.as_deref().map_or(0, of)
    }
}

/// Only some files of a disk, for reading; each under the name of its number.
#[derive(Debug)]
struct Chosen {
    files: Vec<(SegmentId, PathBuf)>,
}

fn read_only<T>() -> io::Result<T> {
    Err(io::ErrorKind::ReadOnlyFilesystem.into())
}

impl Storage for Chosen {
    fn create_new(&self, _: &Path) -> io::Result<FileRef> {
        read_only()
    }
    fn open(&self, _: &Path) -> io::Result<FileRef> {
        read_only()
    }
    fn open_read(&self, path: &Path) -> io::Result<FileRef> {
        let id = path.file_name().and_then(segment_of_name);
        let found = self.files.iter().find(|(i, _)| Some(*i) == id).ok_or(io::ErrorKind::NotFound)?;
        Disk.open_read(&found.1)
    }
    fn rename(&self, _: &Path, _: &Path) -> io::Result<()> {
        read_only()
    }
    fn remove(&self, _: &Path) -> io::Result<()> {
        read_only()
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        Ok(self.files.iter().filter_map(|(id, _)| segment_path(dir, *id).file_name().map(OsStr::to_owned)).collect())
    }
    fn create_dir_all(&self, _: &Path) -> io::Result<()> {
        read_only()
    }
    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        read_only()
    }
}

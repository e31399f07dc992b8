//! Checks a whole store: log, packs and their index files, checkpoint, version log, every state that is kept, that the log makes the newest of
//! them (`rebuild`), the small files (`small`), and that Pijul has what the versions say (`pijul`); and says of each finding which files and versions it concerns and what can be done. Only
//! reads. Works without a mount and beside a live writer, whose moving parts are looked at again before anything is said of them: the
//! checkpoint is read first, then the versions up to it, and what they name is never changed by a writer (blobs only move, and are looked
//! for again).

mod finding;
mod mend;
#[cfg(feature = "pijul")]
mod pijul;
mod rebuild;
mod small;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

pub use finding::{Finding, Part, pack_verdict};

use crate::blobs::{BlobState, Blobs, OpenMode};
use crate::engine::core::{Item, for_each_item};
use crate::error::{Class, Error, Result};
use crate::ids::{BlobId, Ino, Lsn, SegmentId, StoreId, VersionSeq};
use crate::op::{Decoded, Operation, decode};
use crate::project::{Layout, lock};
use crate::storage::Storage;
use crate::tree::{BlobRead, Tree, TreeError};
pub use crate::versions::check::Affected;
use crate::versions::check::log::{VersionsReport, check as check_versions};
use crate::versions::check::{Checker, StatesReport, Whose};
use crate::versions::checkpoint::{self, Checkpoint};
use crate::versions::class::ClassSettings;
use crate::wal::scan::Verdict;
use crate::wal::verify::{VerifyReport, verify};
use crate::wal::{Bounds, format::segment_of_name};

/// Looks at a store that somebody has open for writing, before what is found is believed.
const LOOKS: u32 = 3;
/// Blobs that are remembered as sound, so that one which many records name is read once.
const SOUND: usize = 1 << 20;

/// What to check.
#[derive(Clone, Debug)]
pub struct Options {
    /// Read and hash every byte of the packs, too, and make every version again that the log still holds, not only the newest.
    pub deep: bool,
    /// Which paths have a history that lasts: Pijul has those.
    pub classes: ClassSettings,
    /// User and group whose files say nothing of an owner in Pijul.
    pub owner: (u32, u32),
    /// Bytes that may be held in memory of what a version made again has and the store has not.
    pub held: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { deep: false, classes: ClassSettings::default(), owner: (0, 0), held: rebuild::HELD }
    }
}

/// What was checked, and what is wrong.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What is wrong, part by part.
    pub findings: Vec<Finding>,
    /// What is worth knowing and not wrong.
    pub notes: Vec<String>,
    /// Segments, records and bytes of the log.
    pub log: (u64, u64, u64),
    /// The last record.
    pub end: Lsn,
    /// Packs; blobs in them; their bytes.
    pub packs: (u64, u64, u64),
    /// Versions whose record is sound.
    pub versions: u64,
    /// Versions (and the checkpoint) that were made again from the log, and those that were passed over although the log holds them.
    pub rebuilt: u64,
    /// See there.
    pub passed_over: u64,
    /// What the walk through the states came to, but for its findings.
    pub states: StatesReport,
    /// The last version that the Pijul repository has, its changes, and how many of its paths were compared with that version (`deep`).
    pub pijul: Option<(VersionSeq, u64, u64)>,
    /// Operations that no version holds yet; `None` when that could not be found out.
    pub pending: Option<u64>,
    /// Times that the store was looked at.
    pub looks: u32,
}

impl Report {
    /// The worst verdict, if anything is wrong.
    #[must_use]
    pub fn worst(&self) -> Option<Verdict> {
        self.findings.iter().map(|f| f.verdict).max()
    }
}

/// Is told from time to time how many bytes of work are done, and how many there are besides those of log and packs.
pub type Progress<'a> = dyn FnMut(u64, u64) + 'a;

/// Checks the store in `layout`. First log and packs are read, then what is to be made again of versions is counted as it was written.
///
/// # Errors
/// The store cannot be looked at, or is of a version that this ize must not read. Everything else is a finding.
pub fn check(
    storage: &Arc<dyn Storage>,
    layout: &Layout,
    store: StoreId,
    options: &Options,
    progress: &mut Progress<'_>,
) -> Result<Report> {
    let mut looks = 0;
    loop {
        looks += 1;
        let report = Look::new(storage, layout, store, options)?.run(progress)?;
        // Asked after the look: a writer that came meanwhile may have moved things.
        let live = || lock::held_by(layout).is_ok_and(|holder| holder.is_some());
        let moved = || checkpoint::read(&**storage, &layout.checkpoint(), store).ok().flatten();
        if report.findings.is_empty() || looks >= LOOKS || !(live() || moved().map(|c| c.lsn) != report.states_at) {
            return Ok(Report { looks, ..report.report });
        }
    }
}

/// A report, and the checkpoint that it is of.
struct Looked {
    report: Report,
    states_at: Option<Lsn>,
}

impl std::ops::Deref for Looked {
    type Target = Report;

    fn deref(&self) -> &Report {
        &self.report
    }
}

/// One look at a store.
struct Look<'a> {
    storage: &'a Arc<dyn Storage>,
    layout: &'a Layout,
    store: StoreId,
    deep: bool,
    #[cfg_attr(not(feature = "pijul"), expect(dead_code, reason = "without Pijul there is nothing to compare"))]
    options: &'a Options,
    held: u64,
    checkpoint: Option<Checkpoint>,
    blobs: Arc<Blobs>,
    report: Report,
    /// What would be said of a purge in its middle.
    between: String,
}

/// A record whose blob is not sound.
struct BadRecord {
    ino: Ino,
    blob: BlobId,
}

impl<'a> Look<'a> {
    fn new(storage: &'a Arc<dyn Storage>, layout: &'a Layout, store: StoreId, options: &'a Options) -> Result<Self> {
        let mut report = Report::default();
        // First of all: what it names is in the files that are read after it.
        let checkpoint = match checkpoint::read(&**storage, &layout.checkpoint(), store) {
            Ok(checkpoint) => checkpoint,
            Err(e) => {
                report.findings.push(Finding::of_error(Part::Checkpoint, &layout.checkpoint(), &e));
                None
            }
        };
        let (blobs, opened) = Blobs::open(Arc::clone(storage), layout.blobs(), store, OpenMode::ReadOnly).map_err(|e| {
            // A store that was never written to has no packs.
            if layout.blobs().is_dir() {
                Error::from(e)
            } else {
                Error::new(Class::NotFound, format!("there is no {}", layout.blobs().display()))
            }
        })?;
        if !options.deep {
            report.findings.extend(opened.findings.iter().map(Finding::of_pack));
        }
        let (&Options { deep, held, .. }, blobs, between) = (options, Arc::new(blobs), String::new());
        Ok(Self { storage, layout, store, deep, options, held, checkpoint, blobs, report, between })
    }

    fn run(mut self, progress: &mut Progress<'_>) -> Result<Looked> {
        let checkpoint_bad = !self.report.findings.is_empty() && self.checkpoint.is_none();
        let keep = if checkpoint_bad { None } else { Some(self.checkpoint.as_ref().map_or(VersionSeq(0), |c| c.version)) };
        let versions = check_versions(self.storage, self.layout.versions(), self.store, keep)?;
        let (log, bad) = self.log(checkpoint_bad, progress)?;
        let damaged = self.packs(log.bytes, progress)?;
        for file in self.blobs.wrong_indexes()? {
            let what = "it does not say what is in its pack";
            self.report.findings.push(Finding::new(Verdict::TornTail, Part::Index, &file, what));
        }
        self.states(&versions, &damaged);
        let read = log.bytes.saturating_add(self.report.packs.2);
        self.rebuild(&versions, &log, &mut |done, all| progress(read.saturating_add(done), all))?;
        let tree = self.overlay(&log, &bad)?;
        self.checkpoint_fits(&versions);
        self.small_files(&versions);
        #[cfg(feature = "pijul")]
        self.pijul(&versions)?;
        mend::explain(
            &mut self.report.findings,
            &mend::Known {
                layout: self.layout,
                checkpoint: self.checkpoint.as_ref(),
                versions: &versions,
                storage: self.storage,
                store: self.store,
                bad: &bad,
                tree,
            },
        );
        Ok(Looked { states_at: self.checkpoint.as_ref().map(|c| c.lsn), report: self.report })
    }

    /// Every segment, and what each record names.
    fn log(&mut self, checkpoint_bad: bool, progress: &mut Progress<'_>) -> Result<(VerifyReport, BTreeMap<Lsn, BadRecord>)> {
        let floor_now = |bad: bool| -> Result<SegmentId> {
            if !bad {
                let now = checkpoint::read(&**self.storage, &self.layout.checkpoint(), self.store);
                return Ok(now.ok().flatten().map_or(SegmentId::default(), |c| c.floor));
            }
            let names = self.storage.list(&self.layout.wal()).map_err(|e| Error::io("cannot list the log", e))?;
            Ok(names.iter().filter_map(|n| segment_of_name(n)).min().unwrap_or_default())
        };
        let bounds = match &self.checkpoint {
            Some(c) => Bounds { checkpoint: c.lsn, floor: c.floor },
            None if checkpoint_bad => Bounds { checkpoint: Lsn::ZERO, floor: floor_now(true)? },
            None => Bounds::default(),
        };
        let (blobs, deep) = (&self.blobs, self.deep);
        let next_ino = self.checkpoint.as_ref().map(|c| (c.lsn, c.next_ino));
        let (mut sound, mut bad, mut done) = (HashSet::new(), BTreeMap::new(), 0u64);
        let mut report = verify(&**self.storage, &self.layout.wal(), self.store, bounds, &mut |record| {
            done += record.body.len() as u64;
            progress(done, 0);
            let entry = match decode(record.kind, record.version, record.body) {
                Ok(Decoded::Operation { entry, .. }) => entry,
                Ok(Decoded::Process(_) | Decoded::Mark | Decoded::Skipped) => return Ok(None),
                Err(e) => return Ok(Some(e.to_string())),
            };
            if let Some((lsn, next)) = next_ino
                && record.lsn <= lsn
                && let Some(born) = birth(&entry.op)
                && born >= next
            {
                return Ok(Some(format!("it gives birth to inode {born}, and the checkpoint above it says that {next} is the next one")));
            }
            let Some((id, len)) = entry.op.blob() else { return Ok(None) };
            if sound.contains(&id) {
                return Ok(None);
            }
            let wrong = look_up(blobs, &id, len, deep)?;
            if wrong.is_none() && sound.len() < SOUND {
                sound.insert(id);
            } else if wrong.is_some() && bad.len() < SOUND {
                bad.insert(record.lsn, BadRecord { ino: entry.op.ino().unwrap_or(Ino::ROOT), blob: id });
            }
            Ok(wrong)
        })?;
        if report.findings.iter().any(|f| f.missing) {
            // Pruned since the checkpoint was read.
            let floor = floor_now(checkpoint_bad)?;
            report.findings.retain(|f| !f.missing || f.segment >= floor);
        }
        self.report.log = (report.segments, report.records, report.bytes);
        self.report.end = report.scan.end;
        self.report.findings.extend(report.findings.iter().map(Finding::of_log));
        Ok((report, bad))
    }

    /// The packs, every byte where that is wanted; blobs that are damaged.
    fn packs(&mut self, before: u64, progress: &mut Progress<'_>) -> Result<HashSet<BlobId>> {
        let usage = self.blobs.usage();
        self.report.packs = (usage.packs, usage.blobs, usage.pack_bytes);
        let mut damaged = HashSet::new();
        if self.deep {
            let seen = self.blobs.verify_packs(&mut |read| progress(before.saturating_add(read), 0))?;
            self.report.packs = (seen.packs, seen.blobs, seen.bytes);
            for finding in &seen.findings {
                // Another copy may be sound.
                if let Some(id) = finding.id
                    && self.blobs.verify(&id) != BlobState::Sound
                {
                    damaged.insert(id);
                }
            }
            self.report.findings.extend(seen.findings.iter().map(Finding::of_pack));
        }
        Ok(damaged)
    }

    fn states(&mut self, versions: &VersionsReport, damaged: &HashSet<BlobId>) {
        self.report.versions = versions.versions.iter().filter(|v| v.sound).count() as u64;
        let file = self.layout.versions();
        for f in &versions.findings {
            let verdict = if f.unreadable { Verdict::IoError } else { Verdict::Damage };
            let mut finding = Finding { offset: Some(f.offset), ..Finding::new(verdict, Part::Versions, &file, f.what.clone()) };
            finding.affected.versions = f.versions;
            finding.affected.count = f.versions.map_or(0, |(first, last)| last.0 - first.0 + 1);
            self.report.findings.push(finding);
        }
        let blobs: &dyn BlobRead = &*self.blobs;
        let length = |id: &BlobId| -> Result<Option<u64>, TreeError> {
            let wrong = |why: String, damaged| TreeError::Blob { id: *id, why, damaged, full: false };
            if damaged.contains(id) {
                return Err(wrong("its bytes fail their check".to_owned(), true));
            }
            let mut found = self.blobs.contains(id);
            if !matches!(found, Ok(Some(_))) && self.blobs.refresh().is_ok() {
                // Put, or moved, since the packs were looked at.
                found = self.blobs.contains(id);
            }
            if matches!(found, Ok(None))
                && let Some((_, len)) = self.blobs.purged(id)
            {
                return Ok(Some(u64::from(len)));
            }
            found.map_err(|e| wrong(e.to_string(), matches!(e, crate::blobs::BlobError::Damaged(_))))
        };
        let mut checker = Checker::new(blobs, &length, self.checkpoint.as_ref().map(|c| c.next_ino));
        for version in &versions.versions {
            checker.state(Whose::Version(version.seq), &version.root);
        }
        if let Some(root) = self.checkpoint.as_ref().and_then(|c| c.root) {
            checker.state(Whose::Newest, &root);
        }
        let mut states = checker.finish();
        let packs = self.layout.blobs();
        self.report.findings.extend(std::mem::take(&mut states.findings).into_iter().map(|f| Finding::of_state(f, &packs)));
        if states.more > 0 {
            self.report.notes.push(format!("{} more findings on states are not shown", states.more));
        }
        if states.leftovers > 0 {
            let what = "removed directories that were still open are stored with entries, as an earlier ize did: these mean nothing";
            self.report.notes.push(format!("{} {what}", states.leftovers));
        }
        self.report.states = states;
    }

    /// The checkpoint's state with the log above it carried out; without anything above it, nothing may differ from that state.
    fn overlay(&mut self, log: &VerifyReport, bad: &BTreeMap<Lsn, BadRecord>) -> Result<Option<Tree>> {
        let checkpoint = self.checkpoint.clone().unwrap_or_else(|| Checkpoint::first(self.store));
        // A record whose bytes are damaged says all the same what it did.
        let stops =
            |f: &crate::wal::scan::Finding| f.verdict != Verdict::TornTail && f.through > checkpoint.lsn && !bad.contains_key(&f.lsn);
        let first_bad = log.findings.iter().filter(|f| f.verdict == Verdict::TornTail || stops(f)).map(|f| f.lsn).min();
        let no_checkpoint = self.checkpoint.is_none() && self.report.findings.iter().any(|f| f.part == Part::Checkpoint);
        if no_checkpoint || log.findings.iter().any(stops) {
            return Ok(None);
        }
        let to = first_bad.map_or(log.scan.end, |lsn| Lsn(lsn.0.saturating_sub(1)).min(log.scan.end));
        let reader: Arc<dyn BlobRead> = Arc::clone(&self.blobs) as _;
        // What cannot be read of the state has been said of it.
        let opened = Tree::open(reader, checkpoint.root, checkpoint.next_ino, checkpoint.lsn, checkpoint.clock);
        let Ok(mut tree) = opened else { return Ok(None) };
        let mut pending = 0;
        let range = (checkpoint.lsn.next(), to);
        let applied = for_each_item(&**self.storage, self.layout, self.store, range, &mut |item| {
            if let Item::Operation { lsn, entry, payload, .. } = item {
                pending += u64::from(!matches!(entry.op, Operation::Mark(_)));
                tree.apply(lsn, &entry, payload)?;
            }
            Ok(std::ops::ControlFlow::Continue(()))
        });
        let states_bad = self.report.findings.iter().any(|f| f.part == Part::State && f.affected.newest);
        match applied {
            Ok(_) => {}
            Err(e) if e.class == Class::Damage && states_bad => return Ok(None),
            Err(e) if matches!(e.class, Class::Damage | Class::Io) => {
                let file = self.layout.wal();
                let mut finding = Finding { lsn: Some(range.0), ..Finding::of_error(Part::Log, &file, &e) };
                finding.what = format!("the log does not fit the checkpoint's state: {}", finding.what);
                self.report.findings.push(finding);
                return Ok(None);
            }
            Err(e) => return Err(e),
        }
        self.report.pending = Some(pending);
        if pending == 0 && (!tree.dirty().is_empty() || tree.next_ino() != checkpoint.next_ino) {
            let what = format!(
                "no operation is above it, and yet {} inodes differ from its state (the next inode number is {}, it says {})",
                tree.dirty().len(),
                tree.next_ino(),
                checkpoint.next_ino
            );
            self.report.findings.push(Finding::new(Verdict::Damage, Part::Checkpoint, &self.layout.checkpoint(), what));
        }
        Ok(Some(tree))
    }

    /// The checkpoint and its version say the same.
    fn checkpoint_fits(&mut self, versions: &VersionsReport) {
        let Some(checkpoint) = &self.checkpoint else { return };
        let path = self.layout.checkpoint();
        let mut wrong = Vec::new();
        match versions.versions.iter().find(|v| v.seq == checkpoint.version && v.sound) {
            Some(version) if version.last > checkpoint.lsn => {
                wrong
                    .push(format!("it says record {}, and its version {} holds those up to {}", checkpoint.lsn, version.seq, version.last));
            }
            Some(version) if version.last == checkpoint.lsn && checkpoint.root != Some(version.root) => {
                self.between = format!("it names another state than its version {}", version.seq);
                wrong.push(self.between.clone());
            }
            _ => {}
        }
        if checkpoint.root.is_none() && checkpoint.version.0 > 0 {
            wrong.push(format!("it names version {} and no state", checkpoint.version));
        }
        for what in wrong {
            self.report.findings.push(Finding::new(Verdict::Damage, Part::Checkpoint, &path, what));
        }
    }
}

/// What is wrong with the blob that a record names.
fn look_up(blobs: &Blobs, id: &BlobId, len: u32, deep: bool) -> std::io::Result<Option<String>> {
    let look = || -> std::io::Result<Result<(), String>> {
        if deep {
            match blobs.verify(id) {
                BlobState::Sound => {}
                BlobState::Missing => return Ok(Err(format!("blob {id}, which it names, is missing"))),
                BlobState::Damaged(e) => return Ok(Err(format!("blob {id}, which it names, is damaged: {e}"))),
                BlobState::Unreadable(e) => return Err(std::io::Error::other(format!("blob {id}, which it names, cannot be read: {e}"))),
            }
        }
        match blobs.contains(id) {
            Ok(Some(found)) if found == u64::from(len) => Ok(Ok(())),
            Ok(Some(found)) => Ok(Err(format!("blob {id}, which it names with {len} bytes, has {found}"))),
            Ok(None) => Ok(Err(format!("blob {id}, which it names, is missing"))),
            Err(crate::blobs::BlobError::Damaged(e)) => Ok(Err(format!("blob {id}, which it names, is damaged: {e}"))),
            Err(e) => Err(std::io::Error::other(format!("blob {id}, which it names, cannot be read: {e}"))),
        }
    };
    match look()? {
        Ok(()) => Ok(None),
        // Put since the packs were looked at.
        Err(_) if blobs.refresh().is_ok() => Ok(look()?.err()),
        Err(wrong) => Ok(Some(wrong)),
    }
}

/// The inode that an operation gives birth to.
fn birth(op: &Operation) -> Option<Ino> {
    match op {
        Operation::Create(op) => Some(op.ino),
        Operation::Mkdir(op) => Some(op.ino),
        Operation::Mknod(op) => Some(op.ino),
        Operation::Symlink(op) => Some(op.ino),
        _ => None,
    }
}

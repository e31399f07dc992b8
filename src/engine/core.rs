//! A project's store held open for writing: log, blobs, versions, checkpoint and the live tree; opened with recovery, driven without
//! threads of its own, over any [`Storage`]. [`super::Engine`] adds the lock, the threads and Pijul.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::cuts::Cuts;
use super::group::GroupLimits;
use super::journal::{LogJournal, space_of};
use super::log_size::Shared;
use super::meter::{self, Meter};
use super::replay::Replayer;
use crate::blobs::{self, Blobs};
use crate::error::{Class, Error, Result};
use crate::fs::Fs;
use crate::fs::journal::Caller;
use crate::ids::{Ino, Lsn, StoreId, Time, VersionSeq};
use crate::op::{Chown, Decoded, Forget, Operation, Utimens, decode};
use crate::project::Layout;
use crate::storage::Storage;
use crate::tree::{BlobRead, LogBytes, Tree};
use crate::versions::checkpoint::{self, Checkpoint};
use crate::versions::class::{ClassSettings, Classes};
use crate::versions::version_log::{self, VersionLog};
use crate::wal::{self, Log, Record, RecoveryInput, Segment};

/// What opening a store needs to know.
#[derive(Clone, Debug)]
pub struct CoreOptions {
    /// The store's id.
    pub store: StoreId,
    /// Owner of the root directory of a new project.
    pub owner: (u32, u32),
    /// True when the last writer closed the store in order.
    pub clean: bool,
    /// True when the machine has not been restarted since.
    pub same_boot: bool,
    /// Size of a log segment in bytes.
    pub segment_size: u64,
    /// Whether segments are prepared by a thread, ahead of time.
    pub prepare: bool,
    /// When operations become a version.
    pub limits: GroupLimits,
    /// Bytes kept back for a full disk; 0 is none.
    pub reserve: u64,
    /// Whether the log names the arguments of processes.
    pub command_lines: bool,
    /// Inodes that stay in memory although they are as committed.
    pub cache_inodes: usize,
}

/// What recovery found and did, for people and for `meta/last-recovery.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovery {
    /// True when the last writer had closed the store in order.
    pub clean: bool,
    /// Operations above the checkpoint that were applied again.
    pub operations: u64,
    /// Bytes of log read for them.
    pub bytes: u64,
    /// The last record.
    pub last: Lsn,
    /// The checkpoint.
    pub checkpoint: Lsn,
    /// What was cut off as a torn tail, in words; `None` when nothing was.
    pub torn: Option<String>,
    /// Damage below the checkpoint and other findings, in words.
    pub findings: Vec<String>,
    /// Files without a name that were dropped because their openers are gone.
    pub orphans: u64,
    /// How long it took, in milliseconds.
    pub millis: u64,
}

/// An open store.
#[derive(Debug)]
pub struct Core {
    /// The disk.
    pub storage: Arc<dyn Storage>,
    /// Its directories.
    pub layout: Layout,
    /// Its id.
    pub store: StoreId,
    /// Log.
    pub log: Arc<Log>,
    /// Packs.
    pub blobs: Arc<Blobs>,
    /// The live file system.
    pub fs: Arc<Fs>,
    /// What recovery did.
    pub recovery: Recovery,
    /// What goes in and out.
    pub(super) meter: Arc<Meter>,
    /// Chunks that are stored already.
    pub(super) cuts: Arc<Cuts>,
    /// Replay A; one at a time, and never beside a sweep or a prune.
    replayer: Mutex<Replayer>,
    /// Who waits for it.
    awaited: AtomicUsize,
    /// Version log and checkpoint as they are on disk.
    history: Mutex<History>,
    /// Which paths have a history.
    pub(super) classes: Mutex<Classes>,
    /// What segments share with versions.
    pub(super) shared: Shared,
}

/// Version log and checkpoint.
#[derive(Debug)]
pub struct History {
    /// The version log.
    pub versions: VersionLog,
    /// The checkpoint.
    pub checkpoint: Checkpoint,
    /// Which of the versions Pijul goes on from.
    pub fed: Fed,
}

/// How far Pijul is: the version whose state it holds, and those that it is perhaps given right now, must stay in the version log, for the next change is made
/// from there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fed {
    /// There is no Pijul.
    #[default]
    Nothing,
    /// It holds the state of this version; it is perhaps given those behind it up to the other right now.
    UpTo(VersionSeq, VersionSeq),
    /// Nobody knows.
    Unknown,
}

impl Fed {
    /// Does Pijul go on from this version?
    #[must_use]
    pub fn is_from(self, seq: VersionSeq) -> bool {
        match self {
            Self::Nothing => false,
            Self::UpTo(head, last) => seq >= head && seq <= last,
            Self::Unknown => true,
        }
    }

    /// Does Pijul lack it, or go on from it?
    #[must_use]
    pub fn wants(self, seq: VersionSeq) -> bool {
        match self {
            Self::Nothing => false,
            Self::UpTo(head, _) => seq >= head,
            Self::Unknown => true,
        }
    }
}

/// Room that replay should have besides what it stores, in bytes.
const SHORT: u64 = 8 << 20;

impl Core {
    /// Opens a store for writing and recovers what a crash left. The caller holds the project's lock.
    ///
    /// # Errors
    /// Damage above the checkpoint (with file, offset and LSN), I/O errors, a format that is not known.
    pub fn open(storage: Arc<dyn Storage>, layout: Layout, options: &CoreOptions) -> Result<Core> {
        match Self::recover(Arc::clone(&storage), layout.clone(), options) {
            // Whatever found no room: what is kept back is there for that, and a recovery that stopped can be begun again.
            Err(e) if e.class == Class::Full && wal::give_up_reserve(&storage, &layout.wal()) => Self::recover(storage, layout, options),
            opened => opened,
        }
    }

    fn recover(storage: Arc<dyn Storage>, layout: Layout, options: &CoreOptions) -> Result<Core> {
        let started = Instant::now();
        let store = options.store;
        for dir in layout.directories() {
            storage.create_dir_all(&dir).map_err(|e| Error::io(format!("cannot create {}", dir.display()), e))?;
        }
        let checkpoint = checkpoint::open(&*storage, &layout.checkpoint(), store)?.unwrap_or_else(|| Checkpoint::first(store));
        let mode = blobs::OpenMode::Write { clean: options.clean };
        let (blobs, blobs_report) = Blobs::open(Arc::clone(&storage), layout.blobs(), store, mode)?;
        let blobs = Arc::new(blobs);
        let versions =
            VersionLog::open(Arc::clone(&storage), layout.versions(), store, version_log::Mode::Write { keep_up_to: checkpoint.version })?;
        let sync_blobs = {
            let blobs = Arc::clone(&blobs);
            Box::new(move || blobs.sync().map_err(std::io::Error::other)) as wal::SyncHook
        };
        let mut verify = |record: &Record<'_>| -> std::io::Result<bool> {
            match decode(record.kind, record.version, record.body) {
                Ok(Decoded::Operation { entry, .. }) => match entry.op.blob() {
                    Some((id, _)) => match blobs.verify(&id) {
                        blobs::BlobState::Sound => Ok(true),
                        blobs::BlobState::Missing | blobs::BlobState::Damaged(_) => Ok(false),
                        blobs::BlobState::Unreadable(e) => Err(std::io::Error::other(e)),
                    },
                    None => Ok(true),
                },
                // A body that cannot be decoded is refused by name when it is applied.
                Ok(_) | Err(_) => Ok(true),
            }
        };
        let input = RecoveryInput {
            checkpoint: checkpoint.lsn,
            floor: checkpoint.floor,
            clean: options.clean,
            same_boot: options.same_boot,
            before_sync: sync_blobs,
            verify: &mut verify,
        };
        let log_options = wal::Options {
            segment_size: options.segment_size,
            background: options.prepare,
            reserve: options.reserve,
            ..wal::Options::default()
        };
        let (log, report) = Log::recover(Arc::clone(&storage), &layout.wal(), store, input, log_options)?;
        let log = Arc::new(log);

        let reader: Arc<dyn BlobRead> = Arc::clone(&blobs) as _;
        let mut tree = Tree::open(reader, checkpoint.root, checkpoint.next_ino, checkpoint.lsn, checkpoint.clock)?;
        let mut recovery = Recovery { clean: options.clean, checkpoint: checkpoint.lsn, last: report.last_lsn, ..Recovery::default() };
        recovery.torn = report.cut.as_ref().map(|cut| {
            let (file, saved) = (cut.file.display(), cut.saved.display());
            format!("{} bytes of {file} from offset {} on ({} and what followed), kept in {saved}", cut.bytes, cut.offset, cut.lsn)
        });
        recovery.findings = report.findings.iter().map(|f| f.to_error().to_string()).collect();
        recovery.findings.extend(blobs_report.findings.iter().map(ToString::to_string));
        let mut pending = (0, 0);
        apply_log(&*storage, &layout, store, &mut tree, Lsn(u64::MAX), &mut |_, body, entry| {
            recovery.operations += 1;
            recovery.bytes += body as u64;
            if let Some(bytes) = meter::size_of(&entry.op) {
                pending = (pending.0 + 1, pending.1 + bytes);
            }
            true
        })?;
        let meter = Arc::new(Meter::new((checkpoint.operations, checkpoint.bytes), pending).with_age(options.limits.age));

        tree.load_orphans()?;
        let orphans = tree.orphans();
        let cuts = Arc::new(Cuts::default());
        let journal = Arc::new(LogJournal::new(
            Arc::clone(&log),
            Arc::clone(&blobs),
            layout.dir().to_owned(),
            tree.clock(),
            options.command_lines,
            Arc::clone(&meter),
            Arc::clone(&cuts),
        ));
        // Nobody can have set the root's time to 1970 to the nanosecond before it had one: its birth was not recorded whole.
        let is_new = tree.base_root().is_none() && tree.inode(Ino::ROOT)?.attrs.mtime == Time::default();
        let project = std::os::unix::ffi::OsStrExt::as_bytes(layout.dir().as_os_str()).to_vec();
        let fs = Arc::new(Fs::new(tree, journal).with_project(project).with_cache_limit(options.cache_inodes));
        let caller = Caller { pid: std::process::id(), uid: options.owner.0, gid: options.owner.1 };
        {
            let mut writer = fs.locked();
            if is_new {
                let now = Time::now();
                let times = Utimens { ino: Ino::ROOT, old: (Time::default(), Time::default()), atime: Some(now), mtime: Some(now) };
                writer.log(&caller, Chown { ino: Ino::ROOT, old: (0, 0), new: options.owner, mode_after: None }.into(), None, None)?;
                writer.log(&caller, times.into(), None, None)?;
            }
            recovery.orphans = orphans.len() as u64;
            for ino in orphans {
                writer.log(&caller, Forget { ino }.into(), None, None)?;
            }
        }
        recovery.millis = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let replayer = Mutex::new(Replayer::new(options.limits));
        let history = Mutex::new(History { versions, checkpoint, fed: Fed::Nothing });
        Ok(Core {
            storage,
            layout,
            store,
            log,
            blobs,
            fs,
            recovery,
            meter,
            cuts,
            replayer,
            awaited: AtomicUsize::new(0),
            history,
            classes: Mutex::new(Classes::new(&ClassSettings::default())),
            shared: Shared::default(),
        })
    }

    /// Version log and checkpoint.
    pub fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replay A and everything that must not run beside it. Replay does not rest while somebody waits here.
    pub(super) fn replayer(&self) -> MutexGuard<'_, Replayer> {
        self.awaited.fetch_add(1, Ordering::AcqRel);
        let replayer = self.replayer.lock().unwrap_or_else(PoisonError::into_inner);
        self.awaited.fetch_sub(1, Ordering::AcqRel);
        replayer
    }

    /// Does somebody wait for replay to end?
    pub(super) fn is_awaited(&self) -> bool {
        self.awaited.load(Ordering::Acquire) > 0
    }

    /// Makes everything answered so far durable.
    ///
    /// # Errors
    /// The log's.
    pub fn sync(&self) -> Result<()> {
        self.log.sync()?;
        Ok(())
    }

    /// Turns groups that have ended into versions; with `all`, the open one too. Gives the number of versions made. Without `all` nobody
    /// waits for it: it gives way to programs that work.
    ///
    /// # Errors
    /// What reading the log or storing says; what was done before stays done, and the next call goes on from there.
    pub fn replay(&self, all: bool) -> Result<u64> {
        let mut replayer = if all { self.replayer() } else { self.replayer.lock().unwrap_or_else(PoisonError::into_inner) };
        let mut loan = self.log.loan();
        match replayer.run(self, all) {
            // What is kept back is for the least that this takes.
            Err(e) if e.class == Class::Full && loan.more() => replayer.run_tight(self),
            done => done,
        }
    }

    /// Is there less room than what is pending may take?
    pub(super) fn is_short(&self) -> bool {
        let space = space_of(self.layout.dir());
        let pending = self.meter.pending_bytes();
        space.total > 0 && space.available < pending.saturating_add(SHORT)
    }

    /// Does `work` again with the room that is kept back, when the disk is too full for it; keeps room back again once it is done.
    pub(super) fn with_reserve<T>(&self, work: impl Fn() -> Result<T>) -> Result<T> {
        let mut loan = self.log.loan();
        loop {
            match work() {
                // At the second time the last of it: a few blocks may be all that is lacking.
                Err(e) if e.class == Class::Full && loan.more() => {}
                done => return done,
            }
        }
    }

    /// Ends the store in order: everything becomes a version and is durable, and the log says so.
    ///
    /// # Errors
    /// As [`Core::replay`].
    pub fn close(&self) -> Result<()> {
        if self.pending() {
            self.fs.locked().log(&Caller::default(), crate::op::Mark { marker: crate::op::Marker::Unmount }.into(), None, None)?;
        }
        self.log.seal()?;
        self.replay_all()?;
        self.blobs.sync()?;
        Ok(())
    }

    /// Are there operations that no version holds yet?
    #[must_use]
    pub fn pending(&self) -> bool {
        let applied = self.fs.locked().tree().applied();
        applied > self.history().checkpoint.lsn
    }

    /// Seals the active segment when nothing came for `idle` or it is older than `age`.
    ///
    /// # Errors
    /// The log's.
    pub fn seal_if(&self, idle: Duration, age: Duration) -> Result<()> {
        self.log.seal_if(idle, age)?;
        Ok(())
    }
}

/// Applies the records after `tree.applied()` up to `to`. `each` is told every operation and the length of its body before it is applied, and
/// may stop by saying no.
///
/// # Errors
/// Damage, I/O errors, operations that do not fit.
pub(crate) fn apply_log(
    storage: &dyn Storage,
    layout: &Layout,
    store: StoreId,
    tree: &mut Tree,
    to: Lsn,
    each: &mut dyn FnMut(Lsn, usize, &crate::op::Entry) -> bool,
) -> Result<()> {
    let from = tree.applied().next();
    for_each_item(storage, layout, store, (from, to), &mut |item| {
        if let Item::Operation { lsn, entry, body, payload } = item {
            if !each(lsn, body, &entry) {
                return Ok(ControlFlow::Break(()));
            }
            tree.apply(lsn, &entry, payload)?;
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(())
}

/// What the log holds, for those who read it.
pub(crate) enum Item {
    /// An operation.
    Operation {
        /// Its record.
        lsn: Lsn,
        /// What it says.
        entry: crate::op::Entry,
        /// Length of the record's body in bytes.
        body: usize,
        /// Where the bytes of an inline write are.
        payload: Option<(Arc<dyn LogBytes>, u64)>,
    },
    /// A process record.
    Process(crate::op::ProcessRecord),
}

/// Decodes every record from `range.0` to `range.1`, in order; says the last record seen, of any kind.
///
/// # Errors
/// Damage, I/O errors, records that this version of ize does not know.
pub(crate) fn for_each_item(
    storage: &dyn Storage,
    layout: &Layout,
    store: StoreId,
    range: (Lsn, Lsn),
    take: &mut dyn FnMut(Item) -> Result<ControlFlow<()>>,
) -> Result<Lsn> {
    wal::for_each_record(storage, &layout.wal(), store, range.0, range.1, &mut |record: &Record<'_>, segment: &Arc<Segment>| {
        let lsn = record.lsn;
        match decode(record.kind, record.version, record.body) {
            Ok(Decoded::Operation { entry, payload }) => {
                let inline = matches!(&entry.op, Operation::Write(w) if matches!(w.data, crate::op::Data::Inline(_)));
                let at = record.body_offset + (record.body.len() - payload.len()) as u64;
                let payload = inline.then(|| (Arc::clone(segment) as Arc<dyn LogBytes>, at));
                take(Item::Operation { lsn, entry, body: record.body.len(), payload })
            }
            Ok(Decoded::Process(process)) => take(Item::Process(process)),
            Ok(Decoded::Mark | Decoded::Skipped) => Ok(ControlFlow::Continue(())),
            Err(e) => Err(Error::new(Class::Damage, format!("segment {}, offset {}, record {lsn}: {e}", segment.id, record.offset))
                .hint("a newer ize may have written it: use that one")
                .source(e)),
        }
    })
}

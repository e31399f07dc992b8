//! Earlier states, read-only: needs no lock, no daemon and no Pijul, and works beside a live writer.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::core::apply_log;
use crate::blobs::{self, Blobs};
use crate::cli::when::When;
use crate::error::{Class, Error, Result};
use crate::ids::{BlobId, Ino, Lsn, SegmentId, StoreId, Time, VersionSeq};
use crate::project::Layout;
use crate::storage::{Disk, Storage};
use crate::tree::{BlobRead, Tree};
use crate::versions::checkpoint::{self, Checkpoint};
use crate::versions::version_log::{self, Version, VersionLog};

/// A store opened for reading.
#[derive(Debug)]
pub struct Store {
    storage: Arc<dyn Storage>,
    layout: Layout,
    id: StoreId,
    blobs: Arc<Blobs>,
    versions: VersionLog,
    /// What is wrong with the version log, which then counts as empty.
    damage: Option<Error>,
    checkpoint: Checkpoint,
}

/// A moment of the history that WHEN named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The state after this record.
    pub lsn: Lsn,
    /// The version whose state it is; `None` between two versions or above the last one.
    pub version: Option<VersionSeq>,
}

impl Store {
    /// Opens the store of a project for reading.
    ///
    /// # Errors
    /// Damage or I/O errors.
    pub fn open(layout: &Layout, id: StoreId) -> Result<Self> {
        Self::open_on(Disk::shared(), layout, id)
    }

    /// The same on any disk.
    ///
    /// # Errors
    /// Damage or I/O errors.
    pub fn open_on(storage: Arc<dyn Storage>, layout: &Layout, id: StoreId) -> Result<Self> {
        let mut store = Self::open_damaged(storage, layout, id)?;
        store.damage.take().map_or(Ok(store), Err)
    }

    /// The same also where the version log is damaged: the newest state can be read then, and asking for another one is the error.
    ///
    /// # Errors
    /// I/O errors; damage of the checkpoint.
    pub fn open_damaged(storage: Arc<dyn Storage>, layout: &Layout, id: StoreId) -> Result<Self> {
        // The checkpoint is read first: what it names is in the version log and the packs that are read after it.
        let checkpoint = checkpoint::read(&*storage, &layout.checkpoint(), id)?.unwrap_or_else(|| Checkpoint::first(id));
        let mode = version_log::Mode::ReadOnly { keep_up_to: Some(checkpoint.version) };
        // The newest state is in the checkpoint: it stays readable where the version log is damaged.
        let (versions, damage) = match VersionLog::open(Arc::clone(&storage), layout.versions(), id, mode) {
            Ok(versions) => (versions, None),
            Err(e) if e.class == Class::Damage => (VersionLog::none(Arc::clone(&storage), layout.versions(), id), Some(e)),
            Err(e) => return Err(e),
        };
        let (blobs, _) = Blobs::open(Arc::clone(&storage), layout.blobs(), id, blobs::OpenMode::ReadOnly)?;
        Ok(Self { storage, layout: layout.clone(), id, blobs: Arc::new(blobs), versions, damage, checkpoint })
    }

    /// The version log.
    #[must_use]
    pub fn versions(&self) -> &VersionLog {
        &self.versions
    }

    /// # Errors
    /// `Damage` when the version log cannot be used.
    fn whole_versions(&self) -> Result<()> {
        match &self.damage {
            None => Ok(()),
            Some(e) => {
                let error = Error::new(e.class, e.message.clone());
                Err(error.hint("only the newest state can be read; `ize fsck` says which versions are concerned"))
            }
        }
    }

    /// The checkpoint.
    #[must_use]
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The blobs.
    #[must_use]
    pub fn blobs(&self) -> &Arc<Blobs> {
        &self.blobs
    }

    /// The store's id.
    #[must_use]
    pub fn id(&self) -> StoreId {
        self.id
    }

    /// The state after record `lsn` (`Lsn(u64::MAX)`: after the last one).
    ///
    /// # Errors
    /// `NotFound` when neither a version nor the log reaches back that far, or `lsn` is still to come; damage; I/O errors.
    pub fn state_at(&self, lsn: Lsn) -> Result<Tree> {
        self.state(lsn, None)
    }

    /// The state at a time: after the last operation whose clamped time is not later.
    ///
    /// # Errors
    /// As [`Store::state_at`].
    pub fn state_at_time(&self, time: Time) -> Result<Tree> {
        self.state(Lsn(u64::MAX), Some(time))
    }

    /// What an error of reading the state with this root means: that it was thinned out meanwhile, if it was; else what the error says.
    #[must_use]
    pub fn explain(&self, root: Option<BlobId>, e: Error) -> Error {
        let Some(root) = root.filter(|_| matches!(e.class, Class::Damage | Class::Io | Class::NotFound)) else { return e };
        let Ok(now) = Self::open_damaged(Arc::clone(&self.storage), &self.layout, self.id) else { return e };
        let named =
            now.checkpoint.root == Some(root) || now.damage.is_some() || now.versions.iter().any(|v| v.is_ok_and(|v| v.root == root));
        if named {
            return e;
        }
        Error::new(Class::NotFound, "the version that was being read has gone meanwhile: it was thinned out")
            .hint("`ize history` lists those that are left")
            .source(e)
    }

    /// The state of a version.
    ///
    /// # Errors
    /// Damage or I/O errors.
    pub fn state_of(&self, version: &Version) -> Result<Tree> {
        self.tree(Some(version.root), version.last, version.end)
    }

    /// The state with this root, around the time of a version; `None` is the empty one.
    ///
    /// # Errors
    /// Damage or I/O errors.
    pub(crate) fn state_of_root(&self, root: Option<BlobId>, around: &Version) -> Result<Tree> {
        self.tree(root, around.last, around.end)
    }

    /// The newest state that is committed, without what is only in the log.
    ///
    /// # Errors
    /// Damage or I/O errors.
    pub fn committed(&self) -> Result<Tree> {
        self.tree(self.checkpoint.root, self.checkpoint.lsn, self.checkpoint.clock)
    }

    fn tree(&self, root: Option<BlobId>, lsn: Lsn, clock: Time) -> Result<Tree> {
        let blobs: Arc<dyn BlobRead> = Arc::clone(&self.blobs) as _;
        // The numbers of new inodes come from the log's own operations; an earlier state is never given new ones.
        Ok(Tree::open(blobs, root, Ino(2), lsn, clock)?)
    }

    fn state(&self, to: Lsn, until: Option<Time>) -> Result<Tree> {
        if until.is_none() && to >= self.checkpoint.lsn {
            // The newest state needs neither the versions nor the log below it, which may be damaged.
            let mut tree = self.tree(self.checkpoint.root, self.checkpoint.lsn, self.checkpoint.clock)?;
            apply_log(&*self.storage, &self.layout, self.id, &mut tree, to, &mut |_, _, _| true)?;
            return if to != Lsn(u64::MAX) && self.end()? < to { Err(not_yet(to)) } else { Ok(tree) };
        }
        self.whole_versions()?;
        let near = match until {
            Some(time) => self.versions.at_time(time)?,
            None => self.versions.at_lsn(to)?,
        };
        // The log goes on from the end of a window only. A part of one is the best that is known where the log is pruned.
        let (base, part) = match near {
            Some(part) if !part.is_whole() => (self.versions.at_lsn(Lsn(part.first.0.saturating_sub(1)))?, Some(part)),
            near => (near, None),
        };
        let mut tree = match &base {
            Some(version) => self.state_of(version)?,
            None => self.tree(None, Lsn::ZERO, Time::default())?,
        };
        if base.as_ref().is_some_and(|v| v.last == to) {
            return Ok(tree);
        }
        let oldest = self.oldest_in_log()?;
        // The checkpoint may lie above the last version, where only files without a name or without history changed: those records may be
        // pruned.
        let reaches = oldest.is_some_and(|oldest| oldest <= tree.applied().next());
        if !reaches && base.as_ref().map_or(VersionSeq(0), |v| v.seq) == self.checkpoint.version && self.checkpoint.lsn > tree.applied() {
            let above = until.map_or(to >= self.checkpoint.lsn, |time| time >= self.checkpoint.clock);
            if !above {
                return Ok(tree);
            }
            tree = self.tree(self.checkpoint.root, self.checkpoint.lsn, self.checkpoint.clock)?;
        }
        // Between versions: the log must reach from the version's end without a gap.
        let next = self.version_after(base.as_ref())?;
        // A log without a record goes on behind the checkpoint.
        if let Some(oldest) = oldest.or_else(|| (self.checkpoint.lsn > Lsn::ZERO).then(|| self.checkpoint.lsn.next()))
            && oldest > tree.applied().next()
            && next.is_some()
        {
            return match (&base, until) {
                // A time between two versions whose operations are pruned: the last state known before it.
                (_, Some(_)) if part.is_some() => part.as_ref().map_or(Ok(tree), |part| self.state_of(part)),
                (Some(_), Some(_)) => Ok(tree),
                _ => Err(self.too_old(oldest)),
            };
        }
        if oldest.is_none() && next.is_none() && until.is_none() && to != Lsn(u64::MAX) && to > self.checkpoint.lsn {
            return Err(not_yet(to));
        }
        let mut reached = tree.applied();
        apply_log(&*self.storage, &self.layout, self.id, &mut tree, to, &mut |lsn, _, entry| {
            let goes_on = until.is_none_or(|until| entry.stamp.clamped() <= until);
            if goes_on {
                reached = lsn;
            }
            goes_on
        })?;
        if until.is_some() && reached == Lsn::ZERO {
            return Err(Error::new(Class::NotFound, "there was nothing at that time yet").hint("`ize history` lists what there is"));
        }
        if until.is_none() && to != Lsn(u64::MAX) && self.end()? < to {
            return Err(not_yet(to));
        }
        Ok(tree)
    }

    fn version_after(&self, base: Option<&Version>) -> Result<Option<Version>> {
        self.versions.after(base.map_or(VersionSeq(0), |v| v.seq))
    }

    fn too_old(&self, oldest: Lsn) -> Error {
        Error::new(Class::NotFound, format!("single operations are kept from {oldest} on; before that there are versions only"))
            .hint("name a version: `ize history` lists them")
    }

    /// The oldest record that the log still holds.
    ///
    /// # Errors
    /// I/O errors, damage.
    pub fn oldest_in_log(&self) -> Result<Option<Lsn>> {
        crate::wal::first_lsn(&*self.storage, &self.layout.wal(), self.id)
    }

    /// The last record of the log, or the checkpoint where the log holds none above it.
    ///
    /// # Errors
    /// I/O errors, damage.
    pub fn end(&self) -> Result<Lsn> {
        let from = self.checkpoint.lsn.next();
        let end = crate::wal::for_each_record(&*self.storage, &self.layout.wal(), self.id, from, Lsn(u64::MAX), &mut |_, _| {
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(end.max(self.checkpoint.lsn))
    }

    /// The state that WHEN names.
    ///
    /// # Errors
    /// `NotFound` when there is none, `Usage` when a prefix names several.
    pub fn resolve(&self, when: &When) -> Result<Tree> {
        match when {
            When::Lsn(lsn) => self.state_at(*lsn),
            When::Time(time) => self.state_at_time(*time),
            When::Now { back: 0 } => self.state_at(Lsn(u64::MAX)),
            When::Now { back } => {
                self.whole_versions()?;
                let now = self.state_at(Lsn(u64::MAX))?;
                let last = self.versions.last()?;
                // What no version holds yet counts as one.
                let pending = now.applied() > last.as_ref().map_or(Lsn::ZERO, |v| v.last) && now.dirty().iter().any(|_| true);
                match self.versions.back(u64::from(*back - u32::from(pending)))? {
                    Some(version) => self.state_of(&version),
                    None => Err(Error::new(Class::NotFound, format!("there are only {} versions before now", self.versions.len()))
                        .hint("`ize history` lists them")),
                }
            }
            When::Id(prefix) => self.state_of(&self.version_by_id(prefix)?),
        }
    }

    /// The version that a change id or a unique prefix of one (or of its Pijul hash) names.
    ///
    /// # Errors
    /// `NotFound`, or `Usage` when several match.
    pub fn version_by_id(&self, prefix: &str) -> Result<Version> {
        self.whole_versions()?;
        if let Some(version) = self.versions.by_id_prefix(prefix)? {
            return Ok(version);
        }
        if let Some(seq) = super::pijul_index::by_prefix(&self.layout, prefix)?
            && let Some(version) = self.versions.get(seq)?
        {
            return Ok(version);
        }
        Err(Error::new(Class::NotFound, format!("no change has an id that begins with `{prefix}`")).hint("`ize history` lists them"))
    }

    /// Root blobs of all versions, newest first.
    ///
    /// # Errors
    /// Damage or I/O errors.
    pub fn floor(&self) -> SegmentId {
        self.checkpoint.floor
    }
}

fn not_yet(lsn: Lsn) -> Error {
    Error::new(Class::NotFound, format!("record {lsn} does not exist (yet)")).hint("`ize status` says how far the log reaches")
}

//! How a project stands.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::PoisonError;
use std::time::Duration;

use super::Engine;
use super::core::{Item, for_each_item};
use crate::control::message::{
    Cache, Horizon, PathBytes, PijulReport, RequestLatency, StatusReport, StoredReport, UNCOMMITTED_MAX, Uncommitted,
};
use crate::error::{Class, Result};
use crate::fs::latency::TOLD;
use crate::ids::{Ino, Lsn, VersionSeq};
use crate::op::Operation;
use crate::project::Project;
use crate::storage::Storage;
use crate::tree::Tree;
use crate::versions::version_log::VersionLog;
use crate::wal::WalError;
use crate::wal::format::segment_of_name;

/// So often the log is read again when that fails.
const PRUNES_MEANWHILE: usize = 5;

impl Engine {
    /// How the project stands, as the daemon knows it.
    ///
    /// # Errors
    /// I/O errors.
    pub fn status(&self) -> Result<StatusReport> {
        let core = &self.core;
        let (checkpoint, first_version, thinned) = {
            let history = core.history();
            (history.checkpoint.clone(), first_version(&history.versions)?, thinned(&history.versions))
        };
        let (uncommitted, uncommitted_more) = beside_prune(|| self.uncommitted(checkpoint.lsn))?;
        let log = core.log.usage();
        let blobs = core.blobs.usage();
        let kept = core.blobs.kept();
        let replay_error = self.replay_error.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        let poisoned = core.log.poisoned().or_else(|| core.fs.broken());
        let stuck = match (&poisoned, &replay_error) {
            (Some(why), _) => Some(format!("writes are refused: {why}")),
            (None, Some(why)) => Some(format!("replay fails: {why}")),
            (None, None) => None,
        };
        let queue = core.meter.queue(stuck, self.feeder.error().map(|why| format!("Pijul: {why}")));
        let operations_since = beside_prune(|| first_operation(core))?;
        Ok(StatusReport {
            project: self.project.identity.name.clone(),
            dir: PathBytes::from(core.layout.dir()),
            pid: Some(std::process::id()),
            poisoned,
            held_writes: core.fs.pressure().waiting(),
            holding_back: core.fs.pressure().is_holding_back(),
            appended: core.log.appended(),
            durable: core.log.durable(),
            checkpoint: checkpoint.lsn,
            pending: queue.pending.operations,
            versions: checkpoint.version,
            pijul: self.feeder.head(),
            pijul_state: self.feeder.report(),
            last_error: replay_error.or_else(|| self.feeder.error()),
            segments: log.segments,
            wal_bytes: log.bytes,
            wal_records: log.records,
            wal_payload: log.payload,
            unsynced_bytes: core.log.unsynced_bytes(),
            blob_bytes: blobs.pack_bytes,
            packs: blobs.packs,
            blobs: blobs.blobs,
            stored: Some(StoredReport::new(kept.offered, kept.new, kept.stored)),
            operations_since,
            versions_since: first_version,
            restorable_since: older(operations_since, first_version),
            queue: Some(queue),
            uncommitted,
            uncommitted_more,
            cache: Some(self.cache()),
            latency: self.latency(),
            last_prune: *self.last_prune.lock().unwrap_or_else(PoisonError::into_inner),
            size: Some(super::store_size::StoreSize::of(&core.layout)?),
            max_store: self.retention.limit(),
            thinned,
            last_thinning: self.retention.last(),
            recovery: Some(core.recovery.clone()),
            ..StatusReport::default()
        })
    }

    /// Paths with operations above the checkpoint, most operations first.
    fn uncommitted(&self, checkpoint: Lsn) -> Result<(Vec<Uncommitted>, u64)> {
        let core = &self.core;
        if core.fs.locked().tree().applied() <= checkpoint {
            return Ok((Vec::new(), 0));
        }
        let mut counts: HashMap<Touched, u64> = HashMap::new();
        for_each_item(&*core.storage, &core.layout, core.store, (checkpoint.next(), Lsn(u64::MAX)), &mut |item| {
            if let Item::Operation { entry, .. } = item
                && let Some(touched) = Touched::by(&entry.op)
            {
                *counts.entry(touched).or_default() += 1;
            }
            Ok(ControlFlow::Continue(()))
        })?;
        let mut paths: HashMap<Vec<u8>, u64> = HashMap::new();
        let counts: Vec<_> = counts.into_iter().collect();
        // In pieces, so that nobody waits long for the tree.
        for piece in counts.chunks(1000) {
            let mut writer = core.fs.locked();
            for (touched, operations) in piece {
                // What has no name any more concerns no path.
                if let Some(path) = touched.path(writer.tree()) {
                    *paths.entry(path).or_default() += operations;
                }
            }
        }
        let mut all: Vec<_> = paths.into_iter().map(|(path, operations)| Uncommitted { path: PathBytes(path), operations }).collect();
        all.sort_by(|a, b| b.operations.cmp(&a.operations).then_with(|| a.path.cmp(&b.path)));
        let more = all.len().saturating_sub(UNCOMMITTED_MAX) as u64;
        all.truncate(UNCOMMITTED_MAX);
        Ok((all, more))
    }

    fn latency(&self) -> Vec<RequestLatency> {
        let micros = |time: Duration| time.as_secs_f64() * 1e6;
        let told = TOLD.iter().map(|(wants, kind)| (self.core.fs.latency().of(*wants), kind));
        told.filter(|(figures, _)| figures.count > 0)
            .map(|(figures, kind)| RequestLatency {
                kind: (*kind).to_owned(),
                count: figures.count,
                median_us: micros(figures.median),
                p99_us: micros(figures.p99),
                max_us: micros(figures.max),
            })
            .collect()
    }

    fn cache(&self) -> Cache {
        let figures = self.core.fs.cache();
        #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
        let hit_ratio = (figures.lookups > 0).then(|| figures.hits as f64 / figures.lookups as f64);
        Cache {
            lookups: figures.lookups,
            hits: figures.hits,
            hit_ratio,
            evictions: figures.evictions,
            invalidations: figures.invalidations,
            resident_inodes: figures.resident,
            resident_bytes: figures.resident_bytes,
            limit_inodes: figures.limit,
            limit_bytes: figures.limit.saturating_mul(INODE_BYTES),
        }
    }
}

/// What an inode takes in memory, about: itself in its table, its entry in its directory, its name twice.
const INODE_BYTES: u64 = std::mem::size_of::<crate::tree::Inode>() as u64 * 4 / 3 + 200;

/// What an operation is about: a name, where it makes or takes one, else an inode.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Touched {
    Name(Ino, Vec<u8>),
    Inode(Ino),
}

impl Touched {
    /// `None` for marks.
    fn by(op: &Operation) -> Option<Self> {
        super::meter::size_of(op)?;
        let (at, to) = op.names();
        match to.or(at) {
            Some((dir, name)) => Some(Self::Name(dir, name.to_vec())),
            None => op.ino().map(Self::Inode),
        }
    }

    fn path(&self, tree: &mut Tree) -> Option<Vec<u8>> {
        match self {
            Self::Inode(ino) => tree.path_of(*ino).ok()?,
            Self::Name(dir, name) => {
                let mut path = tree.path_of(*dir).ok()??;
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(name);
                Some(path)
            }
        }
    }
}

fn older(a: Option<Horizon>, b: Option<Horizon>) -> Option<Horizon> {
    [a, b].into_iter().flatten().min_by_key(|h| h.lsn)
}

/// Reads the log again where a prune took a segment away between its being listed and its being read.
fn beside_prune<T>(read: impl Fn() -> Result<T>) -> Result<T> {
    for _ in 0..PRUNES_MEANWHILE {
        match read() {
            Err(e) if e.class == Class::Io => std::thread::sleep(Duration::from_millis(10)),
            done => return done,
        }
    }
    read()
}

fn first_operation(core: &super::core::Core) -> Result<Option<Horizon>> {
    let mut first = None;
    for_each_item(&*core.storage, &core.layout, core.store, (Lsn::ZERO, Lsn(u64::MAX)), &mut |item| {
        Ok(match item {
            Item::Operation { lsn, entry, .. } => {
                first = Some(Horizon { lsn, time: entry.stamp.clamped() });
                ControlFlow::Break(())
            }
            Item::Process(_) => ControlFlow::Continue(()),
        })
    })?;
    Ok(first)
}

/// Number of segments and the bytes that they take.
fn log_usage(storage: &dyn Storage, dir: &std::path::Path) -> Result<(u64, u64), WalError> {
    let looking = |source| WalError::Io { doing: format!("cannot look at {}", dir.display()), source };
    let (mut count, mut bytes) = (0, 0);
    for name in storage.list(dir).map_err(looking)? {
        if segment_of_name(&name).is_none() {
            continue;
        }
        match storage.open_read(&dir.join(&name)).and_then(|f| f.len()) {
            Ok(len) => {
                count += 1;
                bytes += len;
            }
            // Pruned meanwhile.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(looking(e)),
        }
    }
    Ok((count, bytes))
}

/// Numbers that no version has any more.
fn thinned(versions: &VersionLog) -> u64 {
    versions.newest().0.saturating_sub(versions.len())
}

fn first_version(versions: &VersionLog) -> Result<Option<Horizon>> {
    Ok(versions.first()?.map(|v| Horizon { lsn: v.last, time: v.end }))
}

/// How a project stands that nobody has open, from what is on disk.
///
/// # Errors
/// I/O errors, damage.
pub fn at_rest(project: &Project) -> Result<StatusReport> {
    let store = super::states::Store::open(&project.layout, project.identity.id)?;
    let storage = crate::storage::Disk;
    let checkpoint = store.checkpoint();
    let (mut pending, mut operations_since, mut appended) = (0, None, checkpoint.lsn);
    let read = for_each_item(&storage, &project.layout, project.identity.id, (Lsn::ZERO, Lsn(u64::MAX)), &mut |item| {
        if let Item::Operation { lsn, entry, .. } = item {
            appended = appended.max(lsn);
            operations_since.get_or_insert(Horizon { lsn, time: entry.stamp.clamped() });
            pending += u64::from(lsn > checkpoint.lsn && super::meter::size_of(&entry.op).is_some());
        }
        Ok(ControlFlow::Continue(()))
    });
    // A damaged log must not hide the rest.
    let (end, last_error) = match read {
        Ok(end) => (end, None),
        Err(e) if e.class == Class::Damage => (Lsn::ZERO, Some(e.message)),
        Err(e) => return Err(e),
    };
    appended = appended.max(end);
    let log = log_usage(&storage, &project.layout.wal())?;
    let blobs = store.blobs().usage();
    let versions_since = first_version(store.versions())?;
    let pijul = cfg!(feature = "pijul").then(|| pijul_at_rest(&project.layout, store.versions())).transpose()?;
    Ok(StatusReport {
        project: project.identity.name.clone(),
        dir: PathBytes::from(project.layout.dir()),
        appended,
        durable: appended,
        checkpoint: checkpoint.lsn,
        pending,
        versions: checkpoint.version,
        pijul: pijul.as_ref().filter(|p| p.changes > 0).map(|p| p.head),
        pijul_state: pijul,
        segments: log.0,
        wal_bytes: log.1,
        blob_bytes: blobs.pack_bytes,
        last_error,
        operations_since,
        versions_since,
        restorable_since: older(operations_since, versions_since),
        packs: blobs.packs,
        blobs: blobs.blobs,
        size: Some(super::store_size::StoreSize::of(&project.layout)?),
        thinned: thinned(store.versions()),
        last_thinning: super::retention::Kept::read(&project.layout).last,
        recovery: std::fs::read(project.layout.last_recovery()).ok().and_then(|text| serde_json::from_slice(&text).ok()),
        ..StatusReport::default()
    })
}

/// How Pijul stands, as its index says.
fn pijul_at_rest(layout: &crate::project::Layout, versions: &VersionLog) -> Result<PijulReport> {
    let lines = super::pijul_index::lines(layout)?;
    let head = lines.last().map_or(VersionSeq(0), |line| line.seq);
    let refused: Vec<_> = lines.iter().filter_map(|line| Some((line.seq, line.refused.clone()?))).collect();
    Ok(PijulReport {
        head,
        changes: lines.len() as u64,
        versions: versions.len(),
        lag: versions.numbers().rev().take_while(|seq| *seq > head).count() as u64,
        refused: refused.len() as u64,
        last_refused: refused.into_iter().next_back(),
        ..PijulReport::default()
    })
}

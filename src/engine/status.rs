//! How a project stands.

use std::ops::ControlFlow;

use super::Engine;
use super::core::{Item, for_each_item};
use crate::control::message::{Horizon, PathBytes, StatusReport};
use crate::error::Result;
use crate::ids::{Lsn, VersionSeq};
use crate::project::Project;
use crate::storage::Storage;
use crate::versions::version_log::VersionLog;
use crate::wal::WalError;
use crate::wal::format::segment_of_name;

impl Engine {
    /// How the project stands, as the daemon knows it.
    ///
    /// # Errors
    /// I/O errors.
    pub fn status(&self) -> Result<StatusReport> {
        let core = &self.core;
        let (checkpoint, first_version) = {
            let history = core.history();
            (history.checkpoint.clone(), first_version(&history.versions)?)
        };
        let applied = core.fs.locked().tree().applied();
        let mut pending = 0;
        if applied > checkpoint.lsn {
            for_each_item(&*core.storage, &core.layout, core.store, (checkpoint.lsn.next(), Lsn(u64::MAX)), &mut |item| {
                pending += u64::from(matches!(item, Item::Operation { .. }));
                Ok(ControlFlow::Continue(()))
            })?;
        }
        let log = core.log.usage();
        let replay_error = self.replay_error.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        Ok(StatusReport {
            project: self.project.identity.name.clone(),
            dir: PathBytes::from(core.layout.dir()),
            pid: Some(std::process::id()),
            poisoned: core.log.poisoned().or_else(|| core.fs.broken()),
            appended: core.log.appended(),
            durable: core.log.durable(),
            checkpoint: checkpoint.lsn,
            pending,
            versions: checkpoint.version,
            pijul: self.feeder.head(),
            last_error: replay_error.or_else(|| self.feeder.error()),
            segments: log.segments,
            wal_bytes: log.bytes,
            blob_bytes: core.blobs.usage().pack_bytes,
            operations_since: first_operation(core)?,
            versions_since: first_version,
            ..StatusReport::default()
        })
    }
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

fn first_version(versions: &VersionLog) -> Result<Option<Horizon>> {
    Ok(versions.get(VersionSeq(1))?.map(|v| Horizon { lsn: v.last, time: v.end }))
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
    let end = for_each_item(&storage, &project.layout, project.identity.id, (Lsn::ZERO, Lsn(u64::MAX)), &mut |item| {
        if let Item::Operation { lsn, entry, .. } = item {
            operations_since.get_or_insert(Horizon { lsn, time: entry.stamp.clamped() });
            pending += u64::from(lsn > checkpoint.lsn);
        }
        Ok(ControlFlow::Continue(()))
    })?;
    appended = appended.max(end);
    let log = log_usage(&storage, &project.layout.wal())?;
    Ok(StatusReport {
        project: project.identity.name.clone(),
        dir: PathBytes::from(project.layout.dir()),
        appended,
        durable: appended,
        checkpoint: checkpoint.lsn,
        pending,
        versions: checkpoint.version,
        pijul: super::pijul_index::read(&project.layout)?.last_key_value().map(|(seq, _)| *seq),
        segments: log.0,
        wal_bytes: log.1,
        blob_bytes: store.blobs().usage().pack_bytes,
        operations_since,
        versions_since: first_version(store.versions())?,
        ..StatusReport::default()
    })
}

//! What an open project answers to requests, over the control socket or from a command in this process.

use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use serde_json::json;

use super::{Engine, upkeep};
use crate::control::Request;
use crate::control::message::{
    PathBytes, PruneReport, PruneRequest, Response, SegmentReport, THINNED_MAX, ThinReport, ThinRequest, ThinnedVersion,
};
use crate::error::{Class, Error, Result};
use crate::fs::journal::Caller;
use crate::ids::Time;
use crate::project::units;
use crate::wal::prune::Limits;

/// How long after an order to unmount no write waits for room.
const LEAVING: std::time::Duration = std::time::Duration::from_secs(2);

/// How a mounted project is taken down again; true: lazily.
pub type Unmount = Box<dyn Fn(bool) -> Result<()> + Send + Sync>;

/// Where an engine is mounted.
#[derive(Default)]
pub(super) struct Mounted {
    point: Option<PathBuf>,
    unmount: Option<Unmount>,
}

impl Engine {
    /// Says where it is mounted and how that ends.
    pub fn set_mounted(&self, point: &Path, unmount: Unmount) {
        *self.mounted.lock().unwrap_or_else(PoisonError::into_inner) = Mounted { point: Some(point.to_owned()), unmount: Some(unmount) };
    }

    /// Answers one request of user `uid`.
    pub fn handle(&self, request: Request, uid: u32) -> Response {
        let caller = Caller { pid: std::process::id(), uid, gid: 0 };
        match request {
            Request::Status => self.full_status().into(),
            Request::Sync => self.sync().map(|durable| json!({ "durable": durable })).into(),
            Request::Commit(commit) => self.commit_for(commit).into(),
            Request::Unmount(request) => self.unmount(request.lazy).map(|()| json!({})).into(),
            Request::Restore(restore) => self.restore(&restore, &caller).into(),
            Request::Prune(prune) => self.prune(&prune).into(),
            Request::Thin(thin) => self.thin(&thin).into(),
            Request::Pijul => self.feeder.report().ok_or_else(|| Error::new(Class::Refused, "this ize was built without Pijul")).into(),
            Request::PijulRebuild(rebuild) => self.feeder.rebuild(&rebuild).into(),
        }
    }

    fn full_status(&self) -> Result<crate::control::message::StatusReport> {
        let mut report = self.status()?;
        let mounted = self.mounted.lock().unwrap_or_else(PoisonError::into_inner);
        report.mountpoint = mounted.point.as_deref().map(PathBytes::from);
        Ok(report)
    }

    fn unmount(&self, lazy: bool) -> Result<()> {
        self.sync()?;
        // Those who wait for room hold files open.
        self.core.fs.pressure().leave_for(LEAVING);
        let mounted = self.mounted.lock().unwrap_or_else(PoisonError::into_inner);
        match &mounted.unmount {
            Some(unmount) => unmount(lazy),
            None => Err(Error::new(Class::NotFound, format!("`{}` is not mounted", self.project.identity.name))),
        }
    }

    /// Takes paths without history out of versions, then thins by what was asked for, else as configured.
    ///
    /// # Errors
    /// Damage or I/O errors.
    pub fn thin(&self, request: &ThinRequest) -> Result<ThinReport> {
        // A version that Pijul lacks goes only where the store is too large all the same: Pijul gets them first, if it can.
        let newest = self.core.history().checkpoint.version;
        if let Err(e) = self.feeder.wait_for(newest, super::PIJUL_PATIENCE) {
            tracing::warn!("{e}; what Pijul lacks stays as long as there is room for it");
        }
        let mut wanted = super::thin::Request { dry_run: request.dry_run, ..self.retention.configured() };
        if let Some(max) = request.max_store {
            (wanted.limit, wanted.target) = (Some(max), max);
        }
        let (all, hourly, daily) = (request.keep_all, request.keep_hourly, request.keep_daily);
        wanted.by_age = all.is_some() || hourly.is_some() || daily.is_some();
        wanted.ages.all = all.unwrap_or(wanted.ages.all);
        wanted.ages.hourly = hourly.unwrap_or(wanted.ages.hourly);
        wanted.ages.daily = daily.or(wanted.ages.daily);
        let (thinned, filtered) = self.retention.thin(&wanted, wanted.limit)?;
        let version = |gone: &super::thin::Gone| ThinnedVersion { seq: gone.seq, id: gone.id.to_string(), time: gone.end };
        Ok(ThinReport {
            versions: thinned.gone.iter().take(THINNED_MAX).map(version).collect(),
            dropped: thinned.gone.len() as u64,
            left: thinned.left,
            segments: thinned.log.0,
            filtered,
            grain: thinned.grain,
            bytes_before: thinned.size.0,
            bytes_after: thinned.size.1,
            max_store: wanted.limit,
            stuck: thinned.stuck,
            dry_run: request.dry_run,
        })
    }

    /// Prunes by the limits asked for, else by the configured ones.
    ///
    /// # Errors
    /// Damage or I/O errors.
    pub fn prune(&self, request: &PruneRequest) -> Result<PruneReport> {
        let limits = if request.max_age.is_none() && request.max_size.is_none() {
            upkeep::configured(&self.core, &self.settings, &self.clock)
        } else {
            Limits { max_age: request.max_age, max_size: request.max_size, free_up: 0, clock_jumped: self.clock.jumped() }
        };
        let pruned = self.core.prune(limits, request.dry_run)?;
        let now = Time::now();
        let mut reasons: Vec<String> = Vec::new();
        let mut segments = Vec::new();
        for s in &pruned.segments {
            let why = s.stays.unwrap_or_default().to_owned();
            if !why.is_empty() && !reasons.contains(&why) {
                reasons.push(why.clone());
            }
            segments.push(SegmentReport {
                id: s.id,
                first_lsn: s.range.0,
                last_lsn: s.range.1,
                bytes: s.bytes,
                payload: s.payload,
                age_secs: s.last.map(|t| u64::try_from(now.secs.saturating_sub(t.secs)).unwrap_or(0)),
                dropped: s.stays.is_none(),
                why,
            });
        }
        let (dropped, wal_bytes) = pruned.dropped();
        tracing::info!("pruned {dropped} segments, {}", units::show_size(wal_bytes + pruned.blob_bytes));
        Ok(PruneReport {
            left_segments: pruned.segments.len() as u64 - dropped,
            segments,
            no_checkpoint: pruned.no_checkpoint,
            dry_run: request.dry_run,
            dropped_segments: dropped,
            wal_bytes,
            blob_bytes: pruned.blob_bytes,
            left_bytes: pruned.left,
            kept_because: (!reasons.is_empty()).then(|| reasons.join("; ")),
            at: Time::now(),
        })
    }
}

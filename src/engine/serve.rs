//! What an open project answers to requests, over the control socket or from a command in this process.

use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use serde_json::json;

use super::Engine;
use crate::control::Request;
use crate::control::message::{PathBytes, PruneReport, PruneRequest, Response};
use crate::error::{Class, Error, Result};
use crate::fs::journal::Caller;
use crate::ids::Time;
use crate::project::{Settings, units};

/// How a mounted project is taken down again.
pub type Unmount = Box<dyn Fn() -> Result<()> + Send + Sync>;

/// Where an engine is mounted.
#[derive(Default)]
pub(super) struct Mounted {
    point: Option<PathBuf>,
    read_only: bool,
    unmount: Option<Unmount>,
}

impl Engine {
    /// Says where it is mounted and how that ends.
    pub fn set_mounted(&self, point: &Path, read_only: bool, unmount: Unmount) {
        *self.mounted.lock().unwrap_or_else(PoisonError::into_inner) =
            Mounted { point: Some(point.to_owned()), read_only, unmount: Some(unmount) };
    }

    /// Answers one request of user `uid`.
    pub fn handle(&self, request: Request, uid: u32) -> Response {
        let caller = Caller { pid: std::process::id(), uid, gid: 0 };
        match request {
            Request::Status => self.full_status().into(),
            Request::Sync => self.sync().map(|durable| json!({ "durable": durable })).into(),
            Request::Commit(commit) => self.commit(commit.message).into(),
            Request::Unmount => self.unmount().map(|()| json!({})).into(),
            Request::Restore(restore) => self.restore(&restore, &caller).into(),
            Request::Prune(prune) => self.prune(&prune).into(),
        }
    }

    fn full_status(&self) -> Result<crate::control::message::StatusReport> {
        let mut report = self.status()?;
        let mounted = self.mounted.lock().unwrap_or_else(PoisonError::into_inner);
        report.mountpoint = mounted.point.as_deref().map(PathBytes::from);
        report.read_only = mounted.read_only;
        Ok(report)
    }

    fn unmount(&self) -> Result<()> {
        self.sync()?;
        let mounted = self.mounted.lock().unwrap_or_else(PoisonError::into_inner);
        match &mounted.unmount {
            Some(unmount) => unmount(),
            None => Err(Error::new(Class::NotFound, format!("`{}` is not mounted", self.project.identity.name))),
        }
    }

    /// Prunes by the limits asked for, else by the configured ones.
    ///
    /// # Errors
    /// Damage or I/O errors.
    pub fn prune(&self, request: &PruneRequest) -> Result<PruneReport> {
        let configured = request.max_age.is_none() && request.max_size.is_none();
        let settings: &Settings = &self.settings;
        let max_age = if configured { settings.prune_max_age } else { request.max_age };
        let max_size = if configured { settings.prune_max_size } else { request.max_size };
        let pruned = self.core.prune(max_age, max_size, request.dry_run)?;
        let mut reasons: Vec<String> = Vec::new();
        for (_, why) in &pruned.kept {
            if !reasons.contains(why) {
                reasons.push(why.clone());
            }
        }
        tracing::info!("pruned {} segments, {}", pruned.dropped.len(), units::show_size(pruned.wal_bytes + pruned.blob_bytes));
        Ok(PruneReport {
            segments: pruned.dropped.len() as u64,
            wal_bytes: pruned.wal_bytes,
            blob_bytes: pruned.blob_bytes,
            left_bytes: pruned.left,
            left_segments: pruned.kept.len() as u64,
            kept_because: (!reasons.is_empty()).then(|| reasons.join("; ")),
            at: Time::now(),
        })
    }
}

//! The thread that feeds Pijul. It may lag, fail and be tried again; it never holds anybody up who writes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::core::{Core, Fed};
use crate::error::{Class, Error, Result};
use crate::ids::VersionSeq;

/// Wait after a failure before the next try.
#[cfg(feature = "pijul")]
const RETRY: Duration = Duration::from_secs(5);
/// Look for new versions at least this often.
const TICK: Duration = Duration::from_secs(1);

/// Feeds Pijul.
pub(super) struct Feeder {
    #[cfg_attr(not(feature = "pijul"), expect(dead_code, reason = "without Pijul there is nothing to feed"))]
    core: Arc<Core>,
    #[cfg_attr(not(feature = "pijul"), expect(dead_code, reason = "without Pijul there is nothing to feed"))]
    owner: (u32, u32),
    /// Last version in Pijul.
    head: AtomicU64,
    error: Mutex<Option<String>>,
    called: Mutex<bool>,
    bell: Condvar,
}

impl Feeder {
    pub(super) fn new(core: Arc<Core>, owner: (u32, u32)) -> Self {
        if cfg!(feature = "pijul") {
            // The index may lack the change that was made last: the version after what it names is as good as fed. Where it is not there
            // although there is a repository, nobody knows before that was looked at.
            let index = super::pijul_index::read(&core.layout).ok().filter(|index| !index.is_empty() || !core.layout.pijul().exists());
            let head = index.map(|index| index.last_key_value().map_or(VersionSeq(0), |(seq, _)| *seq));
            let mut history = core.history();
            let next = head.and_then(|head| history.versions.after(head).ok());
            history.fed = match (head, next) {
                (Some(head), Some(next)) => Fed::UpTo(head, next.map_or(head, |version| version.seq)),
                _ => Fed::Unknown,
            };
        }
        Self { core, owner, head: AtomicU64::new(0), error: Mutex::new(None), called: Mutex::new(false), bell: Condvar::new() }
    }

    /// There may be something to do.
    pub(super) fn wake(&self) {
        *self.called.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.bell.notify_all();
    }

    /// Last version in Pijul; `None` when ize was built without it.
    pub(super) fn head(&self) -> Option<VersionSeq> {
        cfg!(feature = "pijul").then(|| VersionSeq(self.head.load(Ordering::Acquire)))
    }

    /// Why it does not get on, if it does not.
    pub(super) fn error(&self) -> Option<String> {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until Pijul has the version.
    ///
    /// # Errors
    /// `Failed` when Pijul fails or makes no progress for `patience`.
    pub(super) fn wait_for(&self, seq: VersionSeq, patience: Duration) -> Result<()> {
        if !cfg!(feature = "pijul") {
            return Ok(());
        }
        // What went wrong before is tried again now.
        *self.error.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.wake();
        let head = || self.head.load(Ordering::Acquire);
        let arrived = super::wait_while_it_moves(&head, &|| head() >= seq.0 || self.error().is_some(), patience);
        match self.error() {
            _ if head() >= seq.0 => Ok(()),
            Some(e) => Err(Error::new(Class::Failed, format!("version {seq} is safe, but Pijul does not take it: {e}"))),
            None => {
                let why = if arrived { "stopped" } else { "makes no progress" };
                Err(Error::new(Class::Failed, format!("version {seq} is safe, but the Pijul repository {why} at version {}", head()))
                    .hint("is another `pijul` process holding its lock?"))
            }
        }
    }

    fn pause(&self, length: Duration) {
        let called = self.called.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut called, _) = self.bell.wait_timeout_while(called, length, |c| !*c).unwrap_or_else(PoisonError::into_inner);
        *called = false;
    }

    #[cfg(feature = "pijul")]
    pub(super) fn run(&self, stop: &dyn Fn() -> bool) {
        let mut feed = None;
        while !stop() {
            let result = self.feed_all(&mut feed, stop);
            let failed = result.is_err();
            if let Err(e) = &result {
                tracing::error!("pijul: {e}");
                feed = None;
            }
            *self.error.lock().unwrap_or_else(PoisonError::into_inner) = result.err().map(|e| e.to_string());
            self.pause(if failed { RETRY } else { TICK });
        }
    }

    #[cfg(not(feature = "pijul"))]
    pub(super) fn run(&self, stop: &dyn Fn() -> bool) {
        while !stop() {
            self.pause(TICK);
        }
    }

    #[cfg(feature = "pijul")]
    fn feed_all(&self, slot: &mut Option<super::pijul_feed::Feed>, stop: &dyn Fn() -> bool) -> Result<()> {
        let feed = match slot {
            Some(feed) => feed,
            None => {
                let blobs: Arc<dyn crate::tree::BlobRead> = Arc::new(super::adapters::BlankedStore(Arc::clone(&self.core.blobs)));
                let classes = self.core.class_settings();
                slot.insert(super::pijul_feed::Feed::open(&self.core.layout, self.core.store, self.owner, blobs, &classes)?)
            }
        };
        let mut head = feed.head()?;
        self.head.store(head.0, Ordering::Release);
        while !stop() {
            // The lock is held for the look-up only: what is looked up stays until the next look-up.
            let version = {
                let mut history = self.core.history();
                let version = if head >= history.checkpoint.version { None } else { history.versions.after(head)? };
                history.fed = Fed::UpTo(head, version.as_ref().map_or(head, |version| version.seq));
                version
            };
            let Some(version) = version else { return Ok(()) };
            if !self.core.log.has_room() {
                // What is left is for replay and prune; Pijul may lag.
                return Err(Error::new(Class::Full, "the disk is full; it goes on when there is room"));
            }
            feed.record(&version)?;
            head = version.seq;
            self.head.store(head.0, Ordering::Release);
        }
        Ok(())
    }
}

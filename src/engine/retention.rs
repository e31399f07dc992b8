//! Keeps a store within its limit while nobody asks, and paths without history out of versions; remembers what was done.
//!
//! How large the store is, is told from counters between two looks at its files: those of the log and the packs move fast, the rest does
//! not. Work begins at three quarters of the limit and ends at five eighths, so that a store stays below it while programs go on writing.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::clock::ClockWatch;
use super::core::Core;
use super::store_size::{StoreSize, file_system_size};
use super::thin::{Filtered, Request, Thinned};
use crate::control::message::LastThinning;
use crate::error::Result;
use crate::ids::{Lsn, Time, VersionSeq};
use crate::project::Layout;
use crate::project::config::Settings;
use crate::project::units::show_size;
use crate::versions::class::ClassSettings;

/// Nobody has looked yet.
const UNKNOWN: u64 = u64::MAX;
/// Files are looked at afresh after so long; near the limit earlier, but for no more than a fiftieth of the time.
const MEASURED_FOR: Duration = Duration::from_secs(60);
const MEASURED_FOR_MIN: Duration = Duration::from_millis(500);
const MEASURING: u32 = 50;
/// A try that could not free enough is repeated after so long at the earliest, unless there are other versions.
const PATIENCE: Duration = Duration::from_secs(600);
/// How often paths without history are taken out of versions.
const TAKE_OUT_EVERY: Duration = Duration::from_secs(600);

/// What is remembered of it in `meta/retention.json`. Without it paths are taken out of versions again; only what rules of before took out is not
/// known any more, and a restore may then plan to remove such paths (it shows its plan).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// The last thinning that dropped something, or could not.
    #[serde(default)]
    pub last: Option<LastThinning>,
    /// Up to where paths without history were taken out of versions.
    #[serde(default)]
    pub filtered: Filtered,
    /// Under which rules: a hash of them.
    #[serde(default)]
    pub rules: String,
    /// These rules.
    #[serde(default)]
    pub settings: Option<ClassSettings>,
    /// Rules of before, by which paths were taken out of versions too.
    #[serde(default)]
    pub past: Vec<ClassSettings>,
}

/// Rules of before that are remembered, the newest.
const PAST_MAX: usize = 32;

impl Kept {
    /// What the file says; nothing when there is none, or it makes no sense.
    #[must_use]
    pub fn read(layout: &Layout) -> Self {
        let text = std::fs::read(layout.retention()).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_else(|e| {
            if !text.is_empty() {
                tracing::warn!("{} makes no sense and is not used: {e}", layout.retention().display());
            }
            Self::default()
        })
    }

    /// Paths were taken out of versions up to here, by these rules.
    fn took_out(&mut self, filtered: Filtered, rules: String, settings: &ClassSettings) {
        if rules != self.rules
            && self.filtered != Filtered::default()
            && let Some(old) = self.settings.take()
            && !self.past.contains(&old)
        {
            self.past.push(old);
            let many = self.past.len().saturating_sub(PAST_MAX);
            self.past.drain(..many);
        }
        (self.filtered, self.rules, self.settings) = (filtered, rules, Some(settings.clone()));
    }

    fn write(&self, layout: &Layout) {
        let Ok(text) = serde_json::to_vec_pretty(self) else { return };
        // What was done stays done, whatever is remembered of it.
        if let Err(e) = crate::project::atomic::replace(&layout.retention(), &text) {
            tracing::warn!("{e}");
        }
    }
}

/// What retention needs of a project that is open.
pub(super) struct Retention {
    pub core: Arc<Core>,
    pub settings: Settings,
    pub clock: ClockWatch,
    kept: Mutex<Kept>,
    /// What the store takes beside log and packs, when it was last looked at; [`UNKNOWN`] before.
    beside: AtomicU64,
    /// The last try could not free enough.
    stuck: AtomicBool,
    /// Only one at a time.
    turn: Mutex<()>,
}

impl Retention {
    pub fn new(core: Arc<Core>, settings: Settings, clock: ClockWatch) -> Self {
        let kept = Mutex::new(Kept::read(&core.layout));
        Self { core, settings, clock, kept, beside: AtomicU64::new(UNKNOWN), stuck: AtomicBool::new(false), turn: Mutex::new(()) }
    }

    /// What the store may take, in bytes.
    pub fn limit(&self) -> Option<u64> {
        self.settings.max_store.bytes(file_system_size(self.core.layout.dir()))
    }

    pub fn last(&self) -> Option<LastThinning> {
        lock(&self.kept).last
    }

    /// Bytes that the store takes, with those that versions of what is pending may take; 0 before anybody has looked.
    pub fn expected_size(&self) -> u64 {
        match self.beside.load(Ordering::Relaxed) {
            UNKNOWN => 0,
            beside => beside.saturating_add(self.counted()).saturating_add(self.core.meter.pending_bytes()),
        }
    }

    /// Is there nothing more that could go?
    pub fn is_stuck(&self) -> bool {
        self.stuck.load(Ordering::Relaxed)
    }

    /// Bytes of log and packs.
    fn counted(&self) -> u64 {
        self.core.log.usage().bytes + self.core.blobs.usage().pack_bytes
    }

    /// All rules by which paths may have been taken out of versions, those of now first.
    pub fn rules(&self) -> Vec<ClassSettings> {
        let kept = lock(&self.kept);
        let mut rules = vec![self.settings.classes.clone()];
        for settings in kept.settings.iter().chain(&kept.past) {
            if !rules.contains(settings) {
                rules.push(settings.clone());
            }
        }
        rules
    }

    /// A request as the settings have it.
    pub fn configured(&self) -> Request {
        let limit = self.limit();
        Request {
            limit,
            target: limit.map_or(u64::MAX, |limit| limit / 8 * 5),
            ages: self.settings.ages,
            by_age: false,
            clock_jumped: self.clock.jumped(),
            dry_run: false,
        }
    }

    /// Thins, and remembers it; also how many versions paths without history were taken out of. `max` is the limit that people know.
    ///
    /// # Errors
    /// Damage or I/O errors.
    pub fn thin(&self, request: &Request, max: Option<u64>) -> Result<(Thinned, u64)> {
        let _turn = lock(&self.turn);
        let size = || StoreSize::of(&self.core.layout).map(|s| s.total());
        let changed = AtomicU64::new(0);
        let thinned = self.core.thin(request, &size, &|| {
            changed.fetch_add(self.take_out_now()?, Ordering::Relaxed);
            Ok(())
        })?;
        let filtered = changed.into_inner();
        let over = max.is_some_and(|max| thinned.size.1 > max);
        if !request.dry_run && (thinned.log.0 > 0 || !thinned.gone.is_empty() || over) {
            let last = LastThinning {
                at: Time::now(),
                versions: thinned.gone.len() as u64,
                left: thinned.left,
                segments: thinned.log.0,
                bytes: thinned.size.0.saturating_sub(thinned.size.1),
                grain: thinned.grain,
                stuck: over,
            };
            say(&last, &thinned);
            let mut kept = lock(&self.kept);
            kept.last = Some(last);
            kept.write(&self.core.layout);
        }
        Ok((thinned, filtered))
    }

    /// Takes paths without history out of versions; how many became others.
    ///
    /// # Errors
    /// Damage or I/O errors.
    pub fn take_out(&self) -> Result<u64> {
        let _turn = lock(&self.turn);
        self.take_out_now()
    }

    fn take_out_now(&self) -> Result<u64> {
        let classes = &self.settings.classes;
        let rules = blake3::hash(format!("{classes:?}").as_bytes()).to_hex().to_string();
        let done = {
            let kept = lock(&self.kept);
            if kept.rules == rules { kept.filtered } else { Filtered::default() }
        };
        let until = self.settings.keep_recent.filter(|_| !self.clock.jumped()).map(|keep| {
            let now = Time::now();
            Time { secs: now.secs.saturating_sub(i64::try_from(keep.as_secs()).unwrap_or(i64::MAX)), ..now }
        });
        let (filtered, changed) = self.core.take_out(classes, until, done)?;
        let mut kept = lock(&self.kept);
        if (kept.filtered, &kept.rules) != (filtered, &rules) || kept.settings.is_none() {
            kept.took_out(filtered, rules, classes);
            kept.write(&self.core.layout);
        }
        if changed > 0 {
            tracing::info!("took paths without history out of {changed} versions");
        }
        Ok(changed)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn say(last: &LastThinning, thinned: &Thinned) {
    let (before, after) = (show_size(thinned.size.0), show_size(thinned.size.1));
    if last.segments > 0 || last.versions > 0 {
        let harder = last.grain.map_or_else(String::new, |grain| format!(", down to {}", grain.words()));
        let (segments, versions, left) = (last.segments, last.versions, last.left);
        tracing::info!(
            "thinned: {segments} segments and {versions} versions went, {left} versions are left{harder}; {before} became {after}"
        );
    }
    if last.stuck {
        tracing::warn!("the store takes {after}, more than max-store, and nothing more can go; writes go on");
    }
}

/// A try that could not free enough.
struct Vain {
    at: Instant,
    /// The checkpoint before it.
    checkpoint: Lsn,
    size: u64,
}

/// What the files took, and what the counters said then.
#[derive(Clone, Copy, Debug)]
struct Measured {
    at: Instant,
    cost: Duration,
    size: u64,
    counters: u64,
}

/// Looks from time to time.
pub(super) struct Watch {
    retention: Arc<Retention>,
    measured: Option<Measured>,
    vain: Option<Vain>,
    taken_out: Option<(Instant, VersionSeq)>,
}

impl Watch {
    pub fn new(retention: Arc<Retention>) -> Self {
        Self { retention, measured: None, vain: None, taken_out: None }
    }

    /// Thins when the store is near its limit.
    ///
    /// # Errors
    /// Damage or I/O errors.
    pub fn look(&mut self) -> Result<()> {
        let Some(max) = self.retention.limit() else { return Ok(()) };
        let start = max / 4 * 3;
        let size = self.size(max)?;
        if size <= start || self.in_vain(size) {
            if size <= start {
                self.retention.stuck.store(false, Ordering::Relaxed);
            }
            return Ok(());
        }
        let request = Request { limit: Some(start), ..self.retention.configured() };
        let checkpoint = self.retention.core.history().checkpoint.lsn;
        let (thinned, _) = self.retention.thin(&request, Some(max))?;
        self.measured = None;
        self.retention.stuck.store(thinned.stuck, Ordering::Relaxed);
        self.vain = thinned.stuck.then(|| Vain { at: Instant::now(), checkpoint, size: thinned.size.1 });
        Ok(())
    }

    /// Takes paths without history out of versions, when it is time.
    ///
    /// # Errors
    /// Damage or I/O errors.
    pub fn take_out(&mut self) -> Result<()> {
        let newest = self.retention.core.history().checkpoint.version;
        if self.taken_out.is_some_and(|(at, up_to)| at.elapsed() < TAKE_OUT_EVERY || up_to == newest) {
            return Ok(());
        }
        self.taken_out = Some((Instant::now(), newest));
        self.retention.take_out().map(drop)
    }

    fn size(&mut self, max: u64) -> Result<u64> {
        let core = &self.retention.core;
        let counters = self.retention.counted();
        if let Some(m) = self.measured
            && counters >= m.counters
        {
            let size = m.size + (counters - m.counters);
            let near = size > max / 8 * 5;
            let lasts = if near { (m.cost * MEASURING).clamp(MEASURED_FOR_MIN, MEASURED_FOR) } else { MEASURED_FOR };
            if m.at.elapsed() < lasts {
                return Ok(size);
            }
        }
        let at = Instant::now();
        let size = StoreSize::of(&core.layout)?.total();
        self.retention.beside.store(size.saturating_sub(counters), Ordering::Relaxed);
        self.measured = Some(Measured { at, cost: at.elapsed(), size, counters });
        Ok(size)
    }

    fn in_vain(&self, size: u64) -> bool {
        self.vain.as_ref().is_some_and(|vain| {
            // A version more may be one that can go, or whose log can.
            let same = self.retention.core.history().checkpoint.lsn == vain.checkpoint;
            same && vain.at.elapsed() < PATIENCE && size <= vain.size.saturating_add(vain.size / 16)
        })
    }
}

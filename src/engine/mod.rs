//! A project held open for writing: the store ([`core`]), the project's lock, and the threads that make it last: timed sync, replay A,
//! replay B, pruning. The daemon holds one; commands on a project that is not mounted hold one for a moment.

pub(crate) mod adapters;
mod batch;
mod brake;
pub mod clock;
pub mod core;
mod cuts;
pub mod export;
mod feeder;
pub mod group;
pub mod import;
mod journal;
mod listed;
mod log_size;
mod meter;
pub mod names;
pub mod outside;
mod pace;
mod parts;
#[cfg(feature = "pijul")]
pub mod pijul_feed;
pub mod pijul_index;
#[cfg(feature = "pijul")]
mod pijul_rebuild;
#[cfg(feature = "pijul")]
mod pijul_renames;
#[cfg(feature = "pijul")]
pub mod pijul_states;
pub mod prune;
pub mod purge;
mod read_ahead;
pub mod read_only;
mod relief;
mod replay;
pub mod restore;
pub mod retention;
pub mod serve;
pub mod sessions;
pub mod states;
pub mod status;
pub mod store_size;
#[cfg(test)]
mod tests;
pub mod thin;
pub mod undo;
mod upkeep;
pub mod usage;

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use self::brake::Brake;
use self::clock::ClockWatch;
use self::core::{Core, CoreOptions};
use self::feeder::Feeder;
use self::group::GroupLimits;
use self::retention::{Retention, Watch};
use self::upkeep::Upkeep;
use crate::control::message::{
    CommitReport, CommitRequest, CommittedVersion, LastPrune, PathBytes, RestoreAction, RestoreReport, RestoreRequest,
};
use crate::error::{Class, Error, Result};
use crate::fs::journal::Caller;
use crate::ids::{Lsn, Time};
use crate::op::{Mark, Marker};
use crate::project::config::MaxStore;
use crate::project::lock::{Lock, since_boot};
use crate::project::units::show_size;
use crate::project::{Project, Settings};
use crate::storage::Disk;

/// Nice value of the threads that replay: beside a program that keeps a CPU busy they get about a tenth of it.
const BACKGROUND_NICE: i32 = 10;
/// How often the replay thread looks at the log.
const REPLAY_TICK: Duration = Duration::from_millis(200);
/// The same where somebody waits for what is logged to become versions.
const REPLAY_TICK_IN_FRONT: Duration = Duration::from_millis(20);
/// Durable records that are not left for the next look.
const REPLAY_AT_ONCE: u64 = 4096;
/// No pack, and no segment with what it names, takes more than such a part of max-store: a sweep copies a pack before the old one goes, and the
/// last segment always stays.
const PARTS_MIN: u64 = 32;
/// How often the size of the store is looked at.
const LIMIT_TICK: Duration = Duration::from_millis(250);
/// A segment older than this is sealed.
const SEAL_AGE: Duration = Duration::from_secs(30);
/// Bytes kept back for a full disk where it is not small: a segment for an opening, what is kept of a pack that is swept (at most half of
/// 64 MiB), and then some.
const RESERVE: u64 = 64 << 20;
/// No segment has to be smaller, in bytes.
const SEGMENT_MIN: u64 = 1 << 20;
/// How long an order to commit or unmount waits for Pijul while it makes no progress.
const PIJUL_PATIENCE: Duration = Duration::from_secs(60);
/// How long closing waits for the thread that feeds Pijul to end.
const PIJUL_FAREWELL: Duration = Duration::from_secs(10);
/// Its name.
const PIJUL_THREAD: &str = "ize-pijul";

/// A project held open for writing.
pub struct Engine {
    core: Arc<Core>,
    project: Project,
    feeder: Arc<Feeder>,
    bell: Arc<Bell>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    lock: Mutex<Option<Lock>>,
    retention: Arc<Retention>,
    /// What the daemon's own pruning did last.
    last_prune: Arc<Mutex<Option<LastPrune>>>,
    /// Why replay A does not get on, if it does not.
    replay_error: Arc<Mutex<Option<String>>>,
    settings: Settings,
    mounted: Mutex<serve::Mounted>,
    clock: ClockWatch,
}

/// Tells the threads to stop, and one of them that room is wanted.
#[derive(Debug, Default)]
struct Bell {
    stop: Mutex<bool>,
    rung: Condvar,
    full: Mutex<bool>,
    wanted: Condvar,
}

impl Bell {
    /// Sleeps; true when it is time to stop.
    fn sleep(&self, length: Duration) -> bool {
        let stop = self.stop.lock().unwrap_or_else(PoisonError::into_inner);
        let (stop, _) = self.rung.wait_timeout_while(stop, length, |stop| !*stop).unwrap_or_else(PoisonError::into_inner);
        *stop
    }

    fn ring(&self) {
        *self.stop.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.rung.notify_all();
        self.want_room();
    }

    /// The disk is full, and somebody waits.
    fn want_room(&self) {
        *self.full.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.wanted.notify_all();
    }

    /// Sleeps until somebody wants room; false when it is time to stop.
    fn wait_for_want(&self) -> bool {
        let full = self.full.lock().unwrap_or_else(PoisonError::into_inner);
        *self.wanted.wait_while(full, |full| !*full).unwrap_or_else(PoisonError::into_inner) = false;
        !*self.stop.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engine {
    /// Takes the project's lock, recovers what a crash left, starts the threads.
    ///
    /// # Errors
    /// `Busy` (with the holder's pid) when another process has the project open; `Refused` for features that this ize does not know; what
    /// recovery says.
    pub fn open(project: &Project, settings: &Settings) -> Result<Arc<Self>> {
        Self::open_at(project, settings, (background, REPLAY_TICK))
    }

    /// The same for work that ends when everything is a version: replay has the priority of this thread, and makes few large versions.
    ///
    /// # Errors
    /// As [`Engine::open`].
    pub fn open_in_front(project: &Project, settings: &Settings) -> Result<Arc<Self>> {
        let engine = Self::open_at(project, settings, (thread, REPLAY_TICK_IN_FRONT))?;
        engine.core.replayer().make_large_groups();
        Ok(engine)
    }

    fn open_at(project: &Project, settings: &Settings, replaying: (Start, Duration)) -> Result<Arc<Self>> {
        let (lock, core, clock) = take(project, settings)?;
        let core = Arc::new(core);
        crate::rescue::refresh(&project.layout);
        // It only informs: a disk too full for it must not keep the project from being opened, and pruned.
        if let Err(e) = write_recovery(&core) {
            tracing::warn!("{e}");
        }
        let owner = (project.identity.owner_uid, project.identity.owner_gid);
        let feeder = Arc::new(Feeder::new(Arc::clone(&core), owner));
        let retention = Arc::new(Retention::new(Arc::clone(&core), settings.clone(), clock));
        // What is kept of a pack, at most half of it, is copied into the room that is kept back if need be.
        let (_, reserve) = sizes(project.layout.dir(), settings);
        let part = retention.limit().map_or(u64::MAX, |max| max / PARTS_MIN);
        core.blobs.limit_packs(part.min(reserve));
        core.log.limit_payload(part);
        let engine = Arc::new(Self {
            core,
            retention,
            project: project.clone(),
            feeder,
            bell: Arc::new(Bell::default()),
            threads: Mutex::new(Vec::new()),
            lock: Mutex::new(Some(lock)),
            last_prune: Arc::new(Mutex::new(None)),
            replay_error: Arc::new(Mutex::new(None)),
            settings: settings.clone(),
            mounted: Mutex::new(serve::Mounted::default()),
            clock,
        });
        engine.start(settings, replaying)?;
        Ok(engine)
    }

    /// The store.
    #[must_use]
    pub fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// The project.
    #[must_use]
    pub fn project(&self) -> &Project {
        &self.project
    }

    /// Why replay A does not get on, if it does not.
    pub(crate) fn replay_trouble(&self) -> Option<String> {
        self.replay_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn start(&self, settings: &Settings, (replaying, tick): (Start, Duration)) -> Result<()> {
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        let (bell, core, interval) = (Arc::clone(&self.bell), Arc::clone(&self.core), settings.sync_interval);
        threads.push(thread("ize-sync", move || {
            while !bell.sleep(interval) {
                // A failure poisons the log, which status and every later write report.
                if core.log.unsynced_bytes() > 0
                    && let Err(e) = core.sync()
                {
                    tracing::error!("timed sync: {e}");
                }
            }
        })?);
        let (bell, core, idle) = (Arc::clone(&self.bell), Arc::clone(&self.core), settings.group_idle);
        let (error, feeder) = (Arc::clone(&self.replay_error), Arc::clone(&self.feeder));
        let replay = move || {
            let mut pause = tick;
            while !bell.sleep(pause) {
                let begun = Instant::now();
                let work = || core.seal_if(idle, SEAL_AGE).and_then(|()| core.replay(false));
                let made = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work))
                    .unwrap_or_else(|_| Err(Error::new(Class::Failed, "replay panicked; the daemon's log says where")));
                core.meter.worked(begun.elapsed());
                let got_on = matches!(made, Ok(n) if n > 0);
                if got_on {
                    feeder.wake();
                }
                // Much became durable meanwhile: an import, say, which waits for this.
                let waiting = core.log.durable().0.saturating_sub(core.history().checkpoint.lsn.0);
                pause = if got_on && waiting > REPLAY_AT_ONCE { Duration::ZERO } else { tick };
                if matches!(&made, Err(e) if e.class == Class::Full) {
                    bell.want_room();
                }
                let now = made.err().map(|e| e.to_string());
                let mut slot = error.lock().unwrap_or_else(PoisonError::into_inner);
                let failed = now.is_some();
                if *slot != now {
                    if let Some(e) = &now {
                        tracing::error!("replay: {e}");
                    }
                    *slot = now;
                }
                drop(slot);
                if failed && bell.sleep(Duration::from_secs(2)) {
                    break;
                }
            }
        };
        threads.push(replaying("ize-replay", Box::new(replay))?);
        let (bell, interval) = (Arc::clone(&self.bell), settings.prune_interval);
        let mut upkeep = Upkeep::new(Arc::clone(&self.core), settings.clone(), self.clock, Arc::clone(&self.last_prune));
        let mut watch = Watch::new(Arc::clone(&self.retention));
        threads.push(background("ize-prune", move || {
            let mut pruned = Instant::now();
            while !bell.sleep(interval.min(LIMIT_TICK)) {
                let look = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                    watch.look()?;
                    if pruned.elapsed() < interval {
                        return Ok(());
                    }
                    pruned = Instant::now();
                    upkeep.look()?;
                    watch.take_out()
                }));
                let failed = match look {
                    Ok(Ok(())) => continue,
                    Ok(Err(e)) => e.to_string(),
                    Err(_) => "it panicked; the lines before say where".to_owned(),
                };
                tracing::error!("prune: {failed}");
                if bell.sleep(interval) {
                    break;
                }
            }
        })?);
        if let Some(max) = self.retention.limit() {
            let (bell, retention) = (Arc::clone(&self.bell), Arc::clone(&self.retention));
            threads.push(thread("ize-brake", move || {
                let mut brake = Brake::default();
                let mut pause = Duration::ZERO;
                while !bell.sleep(pause) {
                    let size = retention.expected_size();
                    let hold = brake.look(Instant::now(), size, max, retention.is_stuck());
                    if retention.core.fs.pressure().hold_back(hold) {
                        let (size, max) = (show_size(size), show_size(max));
                        if hold {
                            tracing::info!(
                                "writes wait: the store takes {size}, with what is pending, of {max} (max-store), and is being thinned"
                            );
                        } else {
                            tracing::info!("writes go on: the store takes {size} of {max} (max-store)");
                        }
                    }
                    pause = Brake::pause(size, max);
                }
                retention.core.fs.pressure().hold_back(false);
            })?);
        }
        let bell = Arc::clone(&self.bell);
        self.core.fs.pressure().relieved_by(settings.full_wait, Box::new(move || bell.want_room()));
        let (bell, core, settings, clock) = (Arc::clone(&self.bell), Arc::clone(&self.core), settings.clone(), self.clock);
        let retention = Arc::clone(&self.retention);
        threads.push(thread("ize-relief", move || {
            let mut vain = None;
            while bell.wait_for_want() {
                let standing = core.standing();
                if vain != Some(standing) {
                    let relieve = || {
                        let freed = core.relieve(upkeep::configured(&core, &settings, &clock));
                        // Versions go only where the store is larger than it may be.
                        let thinned = retention.thin(&retention.configured(), retention.limit()).map(|(t, _)| !t.gone.is_empty());
                        Ok(freed? | thinned?)
                    };
                    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(relieve))
                        .unwrap_or_else(|_| Err(Error::new(Class::Failed, "making room panicked; the lines before say where")));
                    match done {
                        Ok(true) => tracing::info!("the disk was full; the oldest of the log made room"),
                        Ok(false) => tracing::warn!("the disk is full, and nothing in the log may go"),
                        Err(e) => tracing::error!("the disk is full: {e}"),
                    }
                    vain = Some(core.standing());
                }
                if bell.sleep(relief::PAUSE) {
                    break;
                }
            }
        })?);
        let (bell, feeder) = (Arc::clone(&self.bell), Arc::clone(&self.feeder));
        threads.push(background(PIJUL_THREAD, move || feeder.run(&|| *bell.stop.lock().unwrap_or_else(PoisonError::into_inner)))?);
        Ok(())
    }

    /// Makes everything answered so far durable; the last record that is.
    ///
    /// # Errors
    /// The log's.
    pub fn sync(&self) -> Result<Lsn> {
        self.core.sync()?;
        Ok(self.core.log.durable())
    }

    /// Ends the open group, makes it a version and waits until Pijul has it. Without a message and without anything new there is nothing
    /// to do.
    ///
    /// # Errors
    /// What replay says; `Failed` when Pijul does not get on (the version is safe all the same).
    pub fn commit(&self, message: Option<String>) -> Result<CommitReport> {
        self.commit_for(CommitRequest { message, ..CommitRequest::default() })
    }

    /// Tells Pijul of nothing more: whoever opens the project next does. Nobody waits for it then.
    pub fn leave_pijul_for_later(&self) {
        self.feeder.leave_for_later();
    }

    /// The same as the request says.
    ///
    /// # Errors
    /// As [`Engine::commit`].
    pub fn commit_for(&self, request: CommitRequest) -> Result<CommitReport> {
        let CommitRequest { message, worker, alone, lag } = request;
        let before = self.core.history().checkpoint.version;
        let pending = self.core.pending();
        if message.is_some() || pending {
            let caller = Caller { pid: worker.unwrap_or(0), ..Caller::default() };
            let mut writer = self.core.fs.locked();
            if alone && message.is_some() {
                writer.log(&Caller::default(), Mark { marker: Marker::Commit { message: None } }.into(), None, None)?;
            }
            writer.log(&caller, Mark { marker: Marker::Commit { message } }.into(), None, None)?;
            drop(writer);
            self.core.replay_all()?;
        }
        let (last, versions) = {
            let history = self.core.history();
            let last = history.checkpoint.version;
            let (mut versions, mut at) = (Vec::new(), before);
            while let Some(version) = history.versions.after(at)?.filter(|v| v.seq <= last) {
                at = version.seq;
                versions.push(version);
            }
            (last, versions)
        };
        self.feeder.wake();
        if !lag && !self.feeder.is_left_for_later() {
            self.feeder.wait_for(last, PIJUL_PATIENCE)?;
        }
        let report = |v: crate::versions::version_log::Version| CommittedVersion {
            seq: v.seq,
            id: v.id.to_string(),
            first: v.first,
            last: v.last,
            message: v.label.clone().unwrap_or_default(),
        };
        Ok(CommitReport { versions: versions.into_iter().map(report).collect() })
    }

    /// Brings paths back to an earlier state, or only says what that would do. With `expected`, the digest of an earlier preview, nothing is
    /// done unless it would still be the same.
    ///
    /// # Errors
    /// `NotFound` when the state or a path is not there; `Refused` when something else would be done than was previewed; the log's.
    pub fn restore(&self, request: &RestoreRequest, caller: &Caller) -> Result<RestoreReport> {
        let paths: Vec<Vec<u8>> = request.paths.iter().map(|p| p.0.clone()).collect();
        // Held throughout, so that no prune takes away what the earlier state names.
        let _replay = self.core.replayer();
        let store = states::Store::open(&self.project.layout, self.core.store)?;
        let mut then = store.resolve(&request.at)?;
        let mut writer = self.core.fs.locked();
        let restore::Plan { steps, left } = restore::plan_beside(writer.tree(), &mut then, &paths, &self.retention.rules())?;
        let left: Vec<PathBytes> = left.into_iter().map(PathBytes).collect();
        let actions: Vec<RestoreAction> = steps.iter().map(action).collect();
        let digest = digest(&actions)?;
        let at = then.applied();
        if request.dry_run {
            return Ok(RestoreReport { at, actions, digest, left });
        }
        if request.expected.as_ref().is_some_and(|expected| *expected != digest) {
            return Err(Error::new(Class::Refused, "the files have changed since the preview, so the restore would do something else now")
                .hint("look at the preview again"));
        }
        restore::rehearse(&mut then, &steps)?;
        let outcome = restore::carry_out(&mut writer, &mut then, steps, &paths, caller)?;
        drop(writer);
        // Only now: the kernel may ask for the tree while it forgets.
        if let Some(notify) = self.core.fs.notify() {
            outcome.entries.iter().for_each(|(dir, name)| notify.inval_entry(*dir, name));
            outcome.inodes.iter().for_each(|ino| notify.inval_inode(*ino));
        }
        if outcome.marker.is_some() {
            self.core.sync()?;
        }
        Ok(RestoreReport { at, actions, digest, left })
    }

    /// Ends everything in order: the last group becomes a version, the log is sealed, Pijul is given what it lacks, the lock says clean.
    /// Later calls do nothing.
    ///
    /// # Errors
    /// What replay or the log says; the lock then keeps saying that the store was not closed.
    pub fn close(&self) -> Result<()> {
        let Some(lock) = self.lock.lock().unwrap_or_else(PoisonError::into_inner).take() else { return Ok(()) };
        let closed = self.core.close();
        if closed.is_ok() && !self.feeder.is_rebuilding() && !self.feeder.is_left_for_later() {
            let last = self.core.history().checkpoint.version;
            self.feeder.wake();
            if let Err(e) = self.feeder.wait_for(last, PIJUL_PATIENCE) {
                tracing::warn!("{e}; it goes on at the next mount");
            }
        }
        self.bell.ring();
        self.feeder.wake();
        // What hangs in a library must not keep the mount up: the transaction that it has open is as good as never begun.
        let fed = self.feeder.has_ended_within(PIJUL_FAREWELL);
        if !fed {
            tracing::error!("the thread that feeds Pijul does not end and is left behind: {}", self.feeder.error().unwrap_or_default());
        }
        for thread in self.threads.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            if !fed && thread.thread().name() == Some(PIJUL_THREAD) {
                continue;
            }
            if thread.join().is_err() {
                tracing::error!("a thread had panicked");
            }
        }
        closed?;
        if let Some(why) = self.core.log.poisoned() {
            return Err(Error::new(Class::Io, format!("the log could not be written to the end: {why}")));
        }
        lock.release_clean()
    }
}

/// Takes the project's lock, brings a purge to its end that was interrupted, and recovers what a crash left.
fn take(project: &Project, settings: &Settings) -> Result<(Lock, Core, ClockWatch)> {
    project.identity.check(crate::project::identity::Access::Write)?;
    crate::project::lock::outlive(&project.layout, Duration::from_secs(5))?;
    let (mut lock, previous) = Lock::acquire(&project.layout)?;
    let purged = purge::finish(&Disk::shared(), &project.layout, project.identity.id, previous.clean)?.map(|done| {
        let purge::Done { versions, packs, segments, damaged, .. } = done;
        let left = if damaged > 0 { format!("; {damaged} packs are damaged and may hold the bytes still") } else { String::new() };
        format!("an interrupted purge was brought to its end: {versions} versions, {packs} packs, {segments} segments{left}")
    });
    if let Some(purged) = &purged {
        tracing::warn!("{purged}");
    }
    let clock = match previous.holder.as_ref().filter(|_| previous.same_boot).and_then(|h| Some((h.start, h.boot_time?))) {
        Some((wall, boot)) => ClockWatch::from(wall, boot),
        None => ClockWatch::from(Time::now(), since_boot()),
    };
    let limits = GroupLimits {
        idle: settings.group_idle,
        inodes: settings.group_paths,
        bytes: settings.group_bytes,
        age: settings.group_age,
        parts: settings.group_parts,
    };
    let (segment_size, reserve) = sizes(project.layout.dir(), settings);
    let options = CoreOptions {
        store: project.identity.id,
        owner: (project.identity.owner_uid, project.identity.owner_gid),
        clean: previous.clean,
        same_boot: previous.same_boot,
        segment_size,
        prepare: true,
        limits,
        reserve,
        command_lines: settings.command_lines,
        cache_inodes: settings.cache_inodes,
    };
    let mut core = Core::open(Disk::shared(), project.layout.clone(), &options)?;
    core.recovery.findings.extend(purged);
    core.set_classes(&settings.classes);
    lock.recovered()?;
    Ok((lock, core, clock))
}

fn action(step: &restore::Step) -> RestoreAction {
    let what = match step.action {
        restore::Action::Create => "create",
        restore::Action::Replace => "replace",
        restore::Action::Write => "write",
        restore::Action::Attributes => "attributes",
        restore::Action::Remove => "remove",
    };
    RestoreAction { what: what.to_owned(), path: PathBytes(step.path.clone()) }
}

/// Names a list of actions.
fn digest(actions: &[RestoreAction]) -> Result<String> {
    let text = serde_json::to_vec(actions).map_err(|e| Error::new(Class::Failed, e.to_string()))?;
    Ok(blake3::hash(&text).to_string())
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.bell.ring();
        self.feeder.wake();
    }
}

/// Begins a thread.
type Start = fn(&str, Box<dyn FnOnce() + Send>) -> Result<JoinHandle<()>>;

fn thread(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work).map_err(|e| Error::io(format!("cannot start thread {name}"), e))
}

/// A thread for work that nobody waits for.
fn background(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    thread(name, move || {
        // It may always become nicer.
        if let Err(e) = rustix::process::setpriority_process(None, BACKGROUND_NICE) {
            tracing::debug!("a thread keeps its priority: {e}");
        }
        work();
    })
}

/// The largest segment, and the bytes to keep back for a full disk. What a segment holds must fit into those, so that it can be committed and
/// dropped; in a store that may take little, both are small.
fn sizes(dir: &std::path::Path, settings: &Settings) -> (u64, u64) {
    let total = store_size::file_system_size(dir);
    // A share of a disk is as much as that and more when something live needs it; who names a size means a small store.
    let room = if let MaxStore::Bytes(max) = settings.max_store { max.min(total) } else { total };
    let segment = settings.segment_size.min((room / 16).max(SEGMENT_MIN));
    (segment, RESERVE.min(room / 8).max(3 * segment))
}

fn write_recovery(core: &Core) -> Result<()> {
    let path = core.layout.last_recovery();
    let text = serde_json::to_vec_pretty(&core.recovery).map_err(|e| Error::new(Class::Failed, e.to_string()))?;
    std::fs::write(&path, text).map_err(|e| Error::io(format!("cannot write {}", path.display()), e))
}

/// Waits until `done` says so, as long as `progress` changes at least once in `patience`; false when it does not.
fn wait_while_it_moves(progress: &dyn Fn() -> u64, done: &dyn Fn() -> bool, patience: Duration) -> bool {
    let (mut seen, mut since) = (progress(), Instant::now());
    while !done() {
        let now = progress();
        if now != seen {
            (seen, since) = (now, Instant::now());
        } else if since.elapsed() > patience {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

//! The thread that feeds Pijul. It may lag, fail and be tried again; it never holds anybody up who writes.
//!
//! Versions that are there already are recorded many in a transaction, bounded by their number, their paths, their bytes and the time that
//! it takes to look at them. What the thread does, and since when, stands where `status` reads it, so that a lock that somebody else holds,
//! and a library that hangs, have a name; whoever waits for Pijul waits for a bounded time.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use super::core::Core;
#[cfg(feature = "pijul")]
use super::core::Fed;
use crate::control::message::{PijulReport, RebuildReport, RebuildRequest};
use crate::error::{Class, Error, Result};
use crate::ids::VersionSeq;

/// Wait after a failure before the next try; twice as long after each more, up to the other.
#[cfg(feature = "pijul")]
const RETRY: Duration = Duration::from_secs(2);
#[cfg(feature = "pijul")]
const RETRY_MAX: Duration = Duration::from_secs(60);
/// Look for new versions at least this often.
const TICK: Duration = Duration::from_secs(1);
/// A step of Pijul's that takes longer is told of.
const SLOW: Duration = Duration::from_secs(10);
/// Most versions in a transaction.
#[cfg(feature = "pijul")]
pub(super) const BATCH_VERSIONS: usize = 512;
/// Most paths, unless one version has more.
#[cfg(feature = "pijul")]
const BATCH_PATHS: usize = 4000;
/// Most bytes of text, unless one version has more.
#[cfg(feature = "pijul")]
const BATCH_BYTES: u64 = 16 << 20;
/// Longest time in which they are looked at.
#[cfg(feature = "pijul")]
const BATCH_TIME: Duration = Duration::from_millis(400);

/// Is it time to stop?
pub(super) type Stop<'a> = dyn Fn() -> bool + Sync + 'a;

/// Feeds Pijul.
pub(super) struct Feeder {
    pub(super) core: Arc<Core>,
    #[cfg_attr(not(feature = "pijul"), expect(dead_code, reason = "without Pijul there is nothing to feed"))]
    pub(super) owner: (u32, u32),
    /// Last version in Pijul.
    pub(super) head: AtomicU64,
    /// Versions in a repository that is being made; goes up while that gets on.
    pub(super) remade: AtomicU64,
    pub(super) state: Mutex<State>,
    /// Who waits for Pijul.
    awaited: AtomicUsize,
    /// It is left to whoever opens the project next.
    later: AtomicBool,
    /// The thread has ended.
    ended: AtomicBool,
    called: Mutex<bool>,
    bell: Condvar,
}

/// What there is to tell.
#[derive(Default)]
pub(super) struct State {
    error: Option<Error>,
    /// Since when somebody else's lock is waited for.
    waits: Option<Instant>,
    doing: Option<(String, Instant)>,
    pub(super) report: PijulReport,
    pub(super) order: Option<Order>,
}

/// An order to make the repository anew.
#[cfg_attr(not(feature = "pijul"), expect(dead_code, reason = "without Pijul there is nothing to make anew"))]
pub(super) struct Order {
    pub(super) request: RebuildRequest,
    pub(super) answer: mpsc::Sender<Result<RebuildReport>>,
}

/// Somebody who waits for Pijul: it does not give way to others meanwhile.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Feeder {
    pub(super) fn new(core: Arc<Core>, owner: (u32, u32)) -> Self {
        #[cfg(feature = "pijul")]
        {
            // Where the index is not there although there is a repository, nobody knows before that was looked at.
            let index = super::pijul_index::read(&core.layout).ok().filter(|index| !index.is_empty() || !core.layout.pijul().exists());
            let head = index.map(|index| index.last_key_value().map_or(VersionSeq(0), |(seq, _)| *seq));
            let mut history = core.history();
            let next = head.and_then(|head| history.versions.after(head).ok());
            // The index may lack what a crash came after: the versions of a transaction, or the only one that it had.
            let interrupted = crate::pijul::Repository::interrupted(core.layout.dir()).unwrap_or_default();
            history.fed = match (head, next) {
                (Some(head), Some(next)) => Fed::UpTo(head, next.map_or(head, |version| version.seq).max(interrupted)),
                _ => Fed::Unknown,
            };
        }
        Self {
            core,
            owner,
            head: AtomicU64::new(0),
            remade: AtomicU64::new(0),
            state: Mutex::default(),
            awaited: AtomicUsize::new(0),
            later: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            called: Mutex::new(false),
            bell: Condvar::new(),
        }
    }

    pub(super) fn locked(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing more is recorded from now on; what is under way comes to its end.
    pub(super) fn leave_for_later(&self) {
        self.later.store(true, Ordering::Release);
    }

    /// Is it left to whoever opens the project next?
    pub(super) fn is_left_for_later(&self) -> bool {
        self.later.load(Ordering::Acquire)
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
        let state = self.locked();
        if let Some(error) = &state.error {
            let hint = error.hint.as_ref().map_or_else(String::new, |hint| format!(" ({hint})"));
            return Some(match state.waits {
                Some(since) => format!("waits since {} s: {error}{hint}", since.elapsed().as_secs()),
                None => format!("{error}{hint}"),
            });
        }
        let (doing, since) = state.doing.as_ref().filter(|(_, since)| since.elapsed() > SLOW)?;
        Some(format!("{doing} takes {} s by now: libpijul is slow, or hangs", since.elapsed().as_secs()))
    }

    /// How it stands.
    pub(super) fn report(&self) -> Option<PijulReport> {
        cfg!(feature = "pijul").then(|| {
            let trouble = self.error();
            let head = VersionSeq(self.head.load(Ordering::Acquire));
            let newest = self.core_newest();
            let (versions, lag) = {
                let history = self.core.history();
                let lag = history.versions.numbers().rev().take_while(|seq| *seq > head).filter(|seq| *seq <= newest).count();
                (history.versions.len(), lag as u64)
            };
            let report = self.locked().report.clone();
            PijulReport { head, versions, lag, trouble, ..report }
        })
    }

    fn core_newest(&self) -> VersionSeq {
        self.core.history().checkpoint.version
    }

    /// Is the repository being made anew?
    pub(super) fn is_rebuilding(&self) -> bool {
        self.locked().report.rebuild.is_some()
    }

    /// Waits until Pijul has the version.
    ///
    /// # Errors
    /// `Failed` when Pijul fails or makes no progress for `patience`.
    pub(super) fn wait_for(&self, seq: VersionSeq, patience: Duration) -> Result<()> {
        if !cfg!(feature = "pijul") {
            return Ok(());
        }
        let _waiting = Waiting::new(&self.awaited);
        // What went wrong before is tried again now.
        self.locked().error = None;
        self.wake();
        let head = || self.head.load(Ordering::Acquire);
        let progress = || head() + self.remade.load(Ordering::Acquire);
        let failed = || self.locked().error.is_some();
        let arrived = super::wait_while_it_moves(&progress, &|| head() >= seq.0 || failed(), patience);
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

    /// Makes the repository anew, or goes on with that.
    ///
    /// # Errors
    /// `Refused` when changes would go that ize did not write, and that was not asked for; what making it says.
    pub(super) fn rebuild(&self, request: &RebuildRequest) -> Result<RebuildReport> {
        if !cfg!(feature = "pijul") {
            return Err(Error::new(Class::Refused, "this ize was built without Pijul"));
        }
        let (answer, answered) = mpsc::channel();
        {
            let mut state = self.locked();
            if state.order.is_some() || self.ended.load(Ordering::Acquire) {
                return Err(Error::new(Class::Busy, "the Pijul repository is being made anew already").hint("`ize status` says how far"));
            }
            state.order = Some(Order { request: *request, answer });
        }
        self.wake();
        answered.recv().unwrap_or_else(|_| {
            Err(Error::new(Class::Failed, "the project was closed before the Pijul repository was made anew")
                .hint("it goes on when the project is open again"))
        })
    }

    /// Waits, for a bounded time, until the thread has ended; false when it has not.
    pub(super) fn has_ended_within(&self, patience: Duration) -> bool {
        let begun = Instant::now();
        while !self.ended.load(Ordering::Acquire) {
            if begun.elapsed() > patience {
                return false;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        true
    }

    fn pause(&self, length: Duration) {
        let called = self.called.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut called, _) = self.bell.wait_timeout_while(called, length, |c| !*c).unwrap_or_else(PoisonError::into_inner);
        *called = false;
    }

    #[cfg(not(feature = "pijul"))]
    pub(super) fn run(&self, stop: &Stop<'_>) {
        while !stop() {
            self.pause(TICK);
        }
        self.ended.store(true, Ordering::Release);
    }
}

#[cfg(feature = "pijul")]
mod feeding {
    use super::*;
    use crate::engine::adapters::BlankedStore;
    use crate::engine::pace::Pace;
    use crate::engine::pijul_feed::{Feed, Recording};
    use crate::engine::pijul_states::States;
    use crate::ids::BlobId;
    use crate::pijul::VersionInput;
    use crate::tree::BlobRead;
    use crate::versions::version_log::Version;

    /// What was looked at for one transaction.
    struct Batch {
        inputs: Vec<VersionInput>,
        /// The version behind them, which cannot be read, and why.
        unreadable: Option<(Version, Error)>,
        /// Root of the last one.
        last: Option<BlobId>,
    }

    /// A batch that was looked at while the one before was recorded.
    struct Ahead {
        /// The head, and what the repository holds, if all goes well until then.
        from: (VersionSeq, VersionSeq),
        batch: Batch,
    }

    impl Feeder {
        pub(in crate::engine) fn run(&self, stop: &Stop<'_>) {
            let mut feed = None;
            let mut retry = RETRY;
            while !stop() {
                let work = || {
                    self.rebuild_if_ordered(&mut feed, stop)?;
                    self.feed_all(&mut feed, stop)
                };
                let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work))
                    .unwrap_or_else(|_| Err(Error::new(Class::Failed, "feeding Pijul panicked; the daemon's log says where")));
                let pause = match &result {
                    Ok(()) => {
                        retry = RETRY;
                        TICK
                    }
                    // Looking whether a lock is free costs little.
                    Err(e) if e.class == Class::Busy => TICK,
                    Err(_) => {
                        feed = None;
                        let pause = retry;
                        retry = (retry * 2).min(RETRY_MAX);
                        pause
                    }
                };
                self.tell(result.err());
                self.pause(pause);
            }
            drop(feed);
            self.locked().order = None;
            self.ended.store(true, Ordering::Release);
        }

        fn tell(&self, error: Option<Error>) {
            let mut state = self.locked();
            state.doing = None;
            let busy = error.as_ref().is_some_and(|e| e.class == Class::Busy);
            state.waits = if busy { state.waits.or_else(|| Some(Instant::now())) } else { None };
            state.report.foreign = error.as_ref().filter(|e| e.class == Class::Refused).map(|e| e.message.clone());
            if let Some(e) = &error
                && state.error.as_ref().is_none_or(|old| old.message != e.message)
            {
                tracing::error!("pijul: {e}");
            }
            state.error = error;
        }

        /// Something that may take long begins.
        pub(in crate::engine) fn begins(&self, doing: impl FnOnce() -> String) {
            self.locked().doing = Some((doing(), Instant::now()));
        }

        pub(in crate::engine) fn opened(&self, dir: &std::path::Path, live: bool) -> Result<Feed> {
            let blobs: Arc<dyn BlobRead> = Arc::new(BlankedStore(Arc::clone(&self.core.blobs)));
            let classes = self.core.class_settings();
            Feed::open(dir, live.then_some(&self.core.layout), self.core.store, self.owner, blobs, &classes)
        }

        fn feed_all(&self, slot: &mut Option<Feed>, stop: &Stop<'_>) -> Result<()> {
            if self.is_left_for_later() {
                return Ok(());
            }
            self.begins(|| "opening the Pijul repository".to_owned());
            let dir = self.core.layout.dir();
            let feed = match slot {
                Some(feed) => feed,
                None => slot.insert(self.opened(dir, true)?),
            };
            let (standing, changed) = match feed.recording.standing() {
                // Somebody took it away: what was open is nothing any more. It is made anew from the first version that is kept.
                Err(e) if e.class == Class::NotFound => {
                    tracing::warn!("pijul: {e}; it is made again");
                    *slot = None;
                    return self.feed_all(slot, stop);
                }
                standing => standing?,
            };
            let head = standing.as_ref().map_or(VersionSeq(0), |s| s.seq);
            self.head.store(head.0, Ordering::Release);
            if changed {
                self.find_what_is_missing(head)?;
            }
            let fed = |_: VersionSeq, _: u64| {};
            self.feed(feed, stop, &fed, true)
        }

        /// Records every version that is kept above the head; `at` is told how far it is. `live`: this is the repository of the project.
        pub(in crate::engine) fn feed(&self, feed: &mut Feed, stop: &Stop<'_>, at: &dyn Fn(VersionSeq, u64), live: bool) -> Result<()> {
            let mut ahead: Option<Ahead> = None;
            while !stop() {
                let (standing, changed) = feed.recording.standing()?;
                if live && changed {
                    self.find_what_is_missing(standing.as_ref().map_or(VersionSeq(0), |s| s.seq))?;
                }
                let (head, holds) = standing.as_ref().map_or((VersionSeq(0), VersionSeq(0)), |s| (s.seq, s.holds));
                let changes = standing.map_or(0, |s| s.changes);
                if live {
                    self.head.store(head.0, Ordering::Release);
                }
                self.note(&feed.recording, changes, live);
                at(head, changes);
                let held = self.held(holds)?;
                // It is of no use where one was left out, or somebody else changed the repository meanwhile.
                let looked_at = ahead.take().filter(|ahead| ahead.from == (head, holds));
                if looked_at.is_none() && self.next(holds, head)?.is_none() {
                    return Ok(());
                }
                self.begins(|| "waiting for the Pijul repository's lock".to_owned());
                feed.recording.wait_for_lock()?;
                let Batch { inputs, unreadable, last } = match looked_at {
                    Some(ahead) => ahead.batch,
                    None => {
                        self.begins(|| format!("looking at the versions behind {head}"));
                        self.gather(&mut feed.states, holds, (head, held), stop)?
                    }
                };
                if let (Some(first), Some(newest)) = (inputs.first(), inputs.last()) {
                    self.begins(|| format!("recording versions {} to {}", first.seq, newest.seq));
                    ahead = self.record_and_look_ahead(feed, &inputs, holds, (newest.seq, last), stop)?;
                } else if let Some((version, why)) = unreadable {
                    self.begins(|| format!("recording version {}", version.seq));
                    feed.recording.leave_out(&version, &why.message)?;
                }
                if live && self.locked().order.is_some() {
                    return Ok(());
                }
            }
            Ok(())
        }

        /// Records versions, and looks at those behind `last` at the same time, where there are any.
        fn record_and_look_ahead(
            &self,
            feed: &mut Feed,
            inputs: &[VersionInput],
            holds: VersionSeq,
            last: (VersionSeq, Option<BlobId>),
            stop: &Stop<'_>,
        ) -> Result<Option<Ahead>> {
            let Feed { recording, states } = feed;
            if !self.has_more(last.0)? {
                return recording.record(inputs).map(|_| None);
            }
            std::thread::scope(|scope| {
                // What the repository holds until the others are recorded stays as long as that takes.
                let looking = std::thread::Builder::new().name("ize-pijul-look".to_owned());
                let looking = looking.spawn_scoped(scope, || self.gather(states, holds, last, stop));
                let looking = looking.map_err(|e| Error::io("cannot start a thread that looks at versions", e))?;
                recording.record(inputs)?;
                let batch = looking.join().map_err(|_| Error::new(Class::Failed, "looking at versions panicked"))??;
                Ok(Some(Ahead { from: (last.0, last.0), batch }))
            })
        }

        /// Is there a version behind this one?
        fn has_more(&self, after: VersionSeq) -> Result<bool> {
            let history = self.core.history();
            Ok(after < history.checkpoint.version && history.versions.after(after)?.is_some())
        }

        fn note(&self, recording: &Recording, changes: u64, live: bool) {
            if !live {
                return;
            }
            let mut state = self.locked();
            state.error = None;
            state.waits = None;
            let report = &mut state.report;
            (report.changes, report.refused) = (changes, recording.refused.count);
            report.last_refused = (recording.refused.count > 0).then(|| (recording.refused.last, recording.refused.why.clone()));
        }

        /// The root of the version whose state the repository holds.
        fn held(&self, holds: VersionSeq) -> Result<Option<BlobId>> {
            if holds.0 == 0 {
                return Ok(None);
            }
            match self.core.history().versions.get(holds)? {
                Some(version) => Ok(Some(version.root)),
                None => Err(Error::new(Class::NotFound, format!("the Pijul repository goes on from version {holds}, which is gone"))
                    .hint("`ize pijul rebuild` makes it again from the versions that are kept")),
            }
        }

        /// The next version to be recorded. It, and what the repository holds, stay from now on.
        fn next(&self, holds: VersionSeq, after: VersionSeq) -> Result<Option<Version>> {
            // The lock is held for the look-up only: what is looked up stays until it is recorded.
            let mut history = self.core.history();
            let version = if after >= history.checkpoint.version { None } else { history.versions.after(after)? };
            history.fed = Fed::UpTo(holds, version.as_ref().map_or(after, |version| version.seq));
            Ok(version)
        }

        /// What the next versions changed, as many as go into one transaction.
        fn gather(
            &self,
            states: &mut States,
            holds: VersionSeq,
            (mut head, mut held): (VersionSeq, Option<BlobId>),
            stop: &Stop<'_>,
        ) -> Result<Batch> {
            let begun = Instant::now();
            let mut batch = Batch { inputs: Vec::new(), unreadable: None, last: None };
            let (mut paths, mut bytes) = (0, 0_u64);
            let pace = Pace::new(&self.core, false);
            while batch.inputs.len() < BATCH_VERSIONS
                && paths < BATCH_PATHS
                && bytes < BATCH_BYTES
                && begun.elapsed() < BATCH_TIME
                && !stop()
            {
                let Some(version) = self.next(holds, head)? else { break };
                if !self.core.log.has_room() {
                    // What is left is for replay and prune; Pijul may lag.
                    return Err(Error::new(Class::Full, "the disk is full; it goes on when there is room"));
                }
                let input = match states.input(held.as_ref(), &version) {
                    Err(why) if why.class == Class::Damage => {
                        batch.unreadable = Some((version, why));
                        break;
                    }
                    input => input?,
                };
                (head, held) = (version.seq, Some(version.root));
                paths += input.changes.len();
                bytes += input.changes.iter().map(text).sum::<u64>();
                batch.inputs.push(input);
                batch.last = held;
                if self.awaited.load(Ordering::Acquire) == 0 {
                    pace.rest(version.last);
                }
            }
            Ok(batch)
        }

        /// Versions at or below the head that are kept and not in the repository: somebody took them out of its middle.
        fn find_what_is_missing(&self, head: VersionSeq) -> Result<()> {
            let there = crate::engine::pijul_index::read(&self.core.layout)?;
            let missing: Vec<VersionSeq> = {
                let history = self.core.history();
                history.versions.numbers().take_while(|seq| *seq <= head).filter(|seq| !there.contains_key(seq)).collect()
            };
            let what = missing.first().map(|first| {
                let more = if missing.len() > 1 { format!(" and {} more", missing.len() - 1) } else { String::new() };
                format!("somebody took the change of version {first}{more} out of the Pijul repository; `ize pijul rebuild` brings it back")
            });
            if let Some(what) = &what {
                tracing::warn!("{what}");
            }
            self.locked().report.missing = what;
            Ok(())
        }
    }

    /// Bytes of text that recording it takes.
    fn text(change: &crate::pijul::TreeChange) -> u64 {
        change.new.as_ref().map_or(0, |item| item.node.size).min(crate::pijul::TEXT_MAX)
    }
}

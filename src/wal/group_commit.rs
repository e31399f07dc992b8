//! Group commit: of those who wait for a sync one leads it, and it answers all whose records it covers.
//!
//! A caller that comes while a sync runs is served by it when its record was appended before the sync began, else by the next one. The two
//! groups wait apart: when a sync ends, its own group is woken as a whole, and of the next one a single caller, who leads it. So nobody is
//! woken for nothing, which is what a group commit of many otherwise spends its time on.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::ids::Lsn;

use super::error::Result;

/// One sync: told what to call with the LSN that it will cover, gives the one that it covered, and the bytes appended until there.
type Lead<'a> = dyn Fn(&dyn Fn(Lsn)) -> Result<(Lsn, u64)> + 'a;

#[derive(Debug, Default)]
struct State {
    leading: bool,
    /// What the running sync will make durable, once that is known.
    target: Option<Lsn>,
    /// Number of the running sync, or of the next one when none runs; its lowest bit says where its group waits.
    number: usize,
}

/// Who waits for which sync, and how far the log is durable.
#[derive(Debug)]
pub(super) struct GroupCommit {
    state: Mutex<State>,
    groups: [Condvar; 2],
    /// Both only grow, and only under the lock.
    durable: AtomicU64,
    durable_bytes: AtomicU64,
}

impl GroupCommit {
    /// Of a log that is durable up to `end`.
    pub(super) fn new(end: Lsn) -> Self {
        Self {
            state: Mutex::default(),
            groups: [Condvar::new(), Condvar::new()],
            durable: AtomicU64::new(end.0),
            durable_bytes: AtomicU64::new(0),
        }
    }

    /// Everything up to here survives power loss.
    pub(super) fn durable(&self) -> Lsn {
        Lsn(self.durable.load(Ordering::Acquire))
    }

    /// Bytes appended up to there, since the log was opened.
    pub(super) fn durable_bytes(&self) -> u64 {
        self.durable_bytes.load(Ordering::Acquire)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until everything up to `lsn` is durable. `sync` is called in the thread that leads, without the lock: it says through its
    /// argument what the sync will cover before it begins, and gives what it covered, with the bytes appended until there. `check` says why
    /// nobody needs to wait any more. Gives how far the log is durable, and what the sync covered that this caller led, if it led one.
    ///
    /// # Errors
    /// Those of `check` and `sync`.
    pub(super) fn wait_for(&self, lsn: Lsn, check: &dyn Fn() -> Result<()>, sync: &Lead<'_>) -> Result<(Lsn, Option<Lsn>)> {
        let mut state = self.state();
        loop {
            check()?;
            if self.durable() >= lsn {
                return Ok((self.durable(), None));
            }
            if !state.leading {
                break;
            }
            let later = usize::from(state.target.is_some_and(|target| target < lsn));
            let group = (state.number + later) % 2;
            state = self.groups[group].wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.leading = true;
        drop(state);
        let done = sync(&|target| self.state().target = Some(target));
        let mut state = self.state();
        if let Ok((target, bytes)) = done {
            self.raise(target, bytes);
        }
        state.leading = false;
        state.target = None;
        let group = state.number % 2;
        state.number = state.number.wrapping_add(1);
        drop(state);
        self.groups[group].notify_all();
        self.groups[1 - group].notify_one();
        done.map(|(target, _)| (self.durable(), Some(target)))
    }

    /// Everything up to `target` became durable otherwise: by a seal.
    pub(super) fn advance(&self, target: Lsn, bytes: u64) {
        let state = self.state();
        self.raise(target, bytes);
        drop(state);
        self.groups.iter().for_each(Condvar::notify_all);
    }

    /// Wakes everybody, to look at `check` again.
    pub(super) fn wake_all(&self) {
        // Whoever is between its look and its wait has the lock.
        drop(self.state());
        self.groups.iter().for_each(Condvar::notify_all);
    }

    fn raise(&self, target: Lsn, bytes: u64) {
        self.durable.fetch_max(target.0, Ordering::AcqRel);
        self.durable_bytes.fetch_max(bytes, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::time::{Duration, Instant};

    use super::*;

    /// Many threads append and wait, over and over, beside seals and a sync that takes its time. Each is answered only when its own number is
    /// durable, nobody is forgotten, and there are far fewer syncs than answers.
    #[test]
    fn everybody_is_answered_by_a_sync_that_covers_them() {
        const THREADS: u64 = 16;
        const EACH: u64 = 200;
        let commits = GroupCommit::new(Lsn::ZERO);
        let (appended, syncs) = (AtomicU64::new(0), AtomicU64::new(0));
        let covered = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let (commits, appended, syncs, covered) = (&commits, &appended, &syncs, &covered);
                scope.spawn(move || {
                    for n in 0..EACH {
                        let mine = Lsn(appended.fetch_add(1, Ordering::SeqCst) + 1);
                        if (n + thread).is_multiple_of(41) {
                            // A seal: everything appended until now.
                            let all = appended.load(Ordering::SeqCst);
                            covered.fetch_max(all, Ordering::SeqCst);
                            commits.advance(Lsn(all), 0);
                        }
                        let (durable, _) = commits
                            .wait_for(mine, &|| Ok(()), &|begun| {
                                let target = appended.load(Ordering::SeqCst);
                                begun(Lsn(target));
                                std::thread::sleep(Duration::from_micros(50));
                                covered.fetch_max(target, Ordering::SeqCst);
                                syncs.fetch_add(1, Ordering::SeqCst);
                                Ok((Lsn(target), target))
                            })
                            .unwrap();
                        assert!(durable >= mine && covered.load(Ordering::SeqCst) >= mine.0);
                    }
                });
            }
        });
        assert_eq!(commits.durable().0, THREADS * EACH);
        assert!(syncs.into_inner() < THREADS * EACH / 2);
    }

    /// Whoever waits when the log is poisoned is told, although no sync ends any more.
    #[test]
    fn waiters_learn_that_there_is_nothing_to_wait_for() {
        let commits = GroupCommit::new(Lsn::ZERO);
        let broken = AtomicBool::new(false);
        let check = || match broken.load(Ordering::SeqCst) {
            true => Err(crate::wal::WalError::Poisoned { reason: "test".into() }),
            false => Ok(()),
        };
        let sync = |_: &dyn Fn(Lsn)| -> Result<(Lsn, u64)> { unreachable!("the first leads") };
        std::thread::scope(|scope| {
            let leader = scope.spawn(|| {
                commits.wait_for(Lsn(1), &check, &|begun| {
                    begun(Lsn(1));
                    // Long enough for the others to wait, in both groups.
                    let start = Instant::now();
                    while !broken.load(Ordering::SeqCst) && start.elapsed() < Duration::from_secs(20) {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    std::thread::sleep(Duration::from_millis(200));
                    Ok((Lsn(1), 1))
                })
            });
            std::thread::sleep(Duration::from_millis(50));
            let (commits, check, sync) = (&commits, &check, &sync);
            let told = [1, 2, 2].map(|n| scope.spawn(move || commits.wait_for(Lsn(n), check, sync).is_err()));
            std::thread::sleep(Duration::from_millis(50));
            broken.store(true, Ordering::SeqCst);
            commits.wake_all();
            assert!(told.into_iter().all(|h| h.join().unwrap()));
            assert!(leader.join().unwrap().is_ok());
        });
    }
}

//! Undo and redo: one change, the last or any other, is taken back (or made again) and everything later stays, as a version of its own.
//!
//! The states come from the versions, so neither Pijul's repository nor its lag matters; texts that were changed later are merged by Pijul's
//! theory of patches (`crate::pijul::undo` says why it is done in a repository in memory). [`mod@line`] says what is undone and what comes
//! next, `deltas` what a change did, `plan` what must become of it now, `order` in which steps, `hands` who does them, `later` which
//! changes stand in the way.
//!
//! All is decided before the first step. If one thing of the change cannot go, nothing is done. The steps are recorded like everybody's
//! operations; whoever is stopped between two of them leaves a state that can be undone itself.

mod calls;
mod deltas;
mod hands;
mod inside;
mod later;
pub mod line;
mod order;
mod plan;
pub mod steps;
mod text;

use std::path::Path;

use self::calls::Calls;
use self::hands::{Hands, rehearse};
use self::inside::Inside;
use self::line::{Order, Way};
use self::plan::Planner;
use self::steps::{Expected, Shown, Step};
use super::Engine;
use super::states::Store;
use crate::error::{Error, Result};
use crate::fs::journal::Caller;
use crate::tree::Tree;
use crate::versions::version_log::Version;

/// Something that keeps a change from going.
#[derive(Clone, Debug)]
pub struct Blocked {
    /// Which path, as the change left it.
    pub path: Vec<u8>,
    /// Why, in words.
    pub why: &'static str,
    /// The later changes that are concerned, oldest first; empty where they cannot be told.
    pub later: Vec<Version>,
    /// A text with the marks of a conflict.
    pub conflict: Option<Vec<u8>>,
}

/// An undo (or redo) that has been worked out.
#[derive(Debug)]
pub struct Prepared {
    /// The change.
    pub version: Version,
    /// Which way.
    pub way: Way,
    /// What stands in the way; then there are no steps.
    pub blocked: Vec<Blocked>,
    /// Paths of the change that stay as they are, because versions do not keep them (any more).
    pub left: Vec<Vec<u8>>,
    steps: Vec<Step>,
    expected: Vec<Expected>,
    to: Tree,
}

/// Where the steps are done.
#[derive(Clone, Copy)]
pub enum Through<'a> {
    /// By system calls through a mount.
    Mount(&'a Path),
    /// In an engine that nobody has mounted.
    Engine(&'a Engine),
}

/// Works out what is asked for. Everything must be in versions: `ize commit` first.
///
/// # Errors
/// `NotFound`, `Refused` as [`line::choose`] says; what reading the states or libpijul says.
pub fn prepare(store: &Store, order: &Order) -> Result<Prepared> {
    let (version, way) = line::choose(store, order)?;
    let mut before = store.state_of_root(version.parent_root, &version)?;
    let mut after = store.state_of_root(Some(version.root), &version)?;
    let mut now = store.committed()?;
    let blobs = std::sync::Arc::clone(now.blobs());
    let (deltas, left) = deltas::deltas(&*blobs, &version, way, &mut before, &mut after)?;
    let (mut from, mut to) = if way == Way::Undo { (after, before) } else { (before, after) };
    let mut planner = Planner::new(&mut from, &mut to, &mut now, way);
    planner.run(deltas)?;
    let Planner { wishes, obstacles, expected, alias, .. } = planner;
    let mut blocked = Vec::with_capacity(obstacles.len());
    for obstacle in obstacles {
        let later = later::later(store, &version, &obstacle, &mut from, &mut to)?;
        blocked.push(Blocked { path: obstacle.path, why: obstacle.why, later, conflict: obstacle.conflict });
    }
    let steps = if blocked.is_empty() { order::order(&mut now, wishes, alias)? } else { Vec::new() };
    Ok(Prepared { version, way, blocked, left, steps, expected, to })
}

impl Prepared {
    /// The steps for people.
    #[must_use]
    pub fn shown(&self) -> Vec<Shown> {
        steps::shown(&self.steps)
    }

    /// Is there nothing to do?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Names what would be done: equal only where it is the same.
    #[must_use]
    pub fn digest(&self) -> String {
        let text = format!("{} {:?} {:?}", self.version.id, self.way, self.steps);
        blake3::hash(text.as_bytes()).to_string()
    }

    /// The label of the version that it becomes.
    #[must_use]
    pub fn label(&self) -> String {
        line::label(self.way, self.version.id)
    }

    /// Does it. The caller makes a version of it, with [`Prepared::label`].
    ///
    /// # Errors
    /// `Refused` when something has changed since it was worked out, and nothing is done then; later what stands in the way of a step, with
    /// how many were done.
    pub fn carry_out(&mut self, through: Through<'_>) -> Result<()> {
        rehearse(&mut self.to, &self.steps)?;
        let mut hands: Box<dyn Hands> = match through {
            Through::Mount(point) => Box::new(Calls::new(point)?),
            Through::Engine(engine) => {
                // Who may open the store may do with it what he wants: permissions are the kernel's work.
                let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
                let caller = Caller { pid: std::process::id(), uid, gid };
                Box::new(Inside { fs: std::sync::Arc::clone(&engine.core().fs), caller })
            }
        };
        self.do_steps(&mut *hands)
    }

    fn do_steps(&mut self, hands: &mut dyn Hands) -> Result<()> {
        hands.check(&self.expected, &self.steps)?;
        let of = self.steps.len();
        for (done, step) in self.steps.iter().enumerate() {
            hands.step(step, &mut self.to).map_err(|e| {
                let message = format!("{}; {done} of {of} steps were done, and are recorded", e.message);
                Error { message, ..e }.hint("`ize undo` takes back what was done of it")
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;

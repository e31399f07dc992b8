//! Which operations of a window become which version: one version for each session that has paths of its own. Pure: fed with the window's
//! operations in LSN order, it keeps what each of them touches, never its bytes, and gives the parts in the order in which they are made.
//!
//! A *unit* is what one session did without a pause of `idle`. Two units conflict when the order of two of their operations matters: both
//! change one inode or one name, or one makes, removes or changes a directory in which the other makes or removes names. Names of different
//! spelling in one directory do not conflict, nor does moving a directory with what is done in it: operations name inodes, not paths.
//! Units of different sessions that conflict are one part; units of one session keep their order. So operations whose order is another
//! one in the parts than in the log never touch the same, and the last part is the state that the log has at its end.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, Hash};
use std::time::Duration;

use rustc_hash::FxBuildHasher;

use super::group::passed;
use crate::error::Result;
use crate::ids::{Ino, Lsn, Time};
use crate::op::{Entry, Operation, ProcessKey, RenameMode};

/// A window of more operations than this is one version: some 250 bytes of memory go for each while it is cut up.
pub const OPERATIONS_MAX: u64 = 100_000;
/// A window of more units than this is one version.
const UNITS_MAX: usize = 1024;

/// One version of several that a window becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its operations, in order.
    pub lsns: Vec<Lsn>,
    /// Clamped time of the first.
    pub begin: Time,
    /// Clamped time of the last.
    pub end: Time,
    /// Operations that change something.
    pub operations: u64,
    /// Bytes written.
    pub bytes: u64,
    /// Who did them, as far as it is known.
    pub processes: BTreeSet<ProcessKey>,
}

/// Whose an operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Session {
    /// A session, by its leader; 0 are the processes whose session is not known.
    Of(u32),
    /// Nobody knows who asked: stores through a mapping, for instance. What is done to one inode is taken together.
    Unknown(Ino),
}

/// Something that operations touch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Thing {
    Inode(Ino),
    /// A name in a directory, by a hash: two that share one are taken for one, which does no harm.
    Name(u64),
    /// The tree of directories: who moves one to another directory may make room for, or stand in the way of, another move.
    Shape,
}

/// How it is touched; a set of bits.
type How = u8;
/// Changed, made or removed.
const CHANGED: How = 1;
/// Its bytes are read by a clone.
const READ: How = 2;
/// It got another name.
const MOVED: How = 4;
/// A name in this directory came or went.
const ENTERED: How = 8;

/// The ways that do not go together with this one.
fn against(how: How) -> How {
    match how {
        CHANGED => CHANGED | READ | MOVED | ENTERED,
        READ => CHANGED,
        MOVED => CHANGED | MOVED,
        _ => CHANGED,
    }
}

#[derive(Debug)]
struct Unit {
    session: Session,
    first: Time,
    last: (Lsn, Time),
    operations: u64,
    bytes: u64,
    processes: BTreeSet<ProcessKey>,
    /// The unit that it is one with; itself when it is the one that others name.
    one_with: usize,
}

/// Cuts a window up.
#[derive(Debug)]
pub struct Separator {
    idle: Duration,
    parts_max: usize,
    units: Vec<Unit>,
    /// The last unit of each session.
    open: HashMap<Session, usize, FxBuildHasher>,
    /// The units of one session, in order.
    next: Vec<(usize, usize)>,
    touched: HashMap<Thing, Vec<(usize, How)>, FxBuildHasher>,
    /// Whose each operation is.
    whose: Vec<(Lsn, usize)>,
    /// Operations that go to the last part: they change no name and nothing that has one.
    rest: Vec<(Lsn, Time, bool)>,
    /// Too many units.
    given_up: bool,
}

impl Separator {
    /// For units that end with a pause of `idle`, and at most `parts_max` parts.
    #[must_use]
    pub fn new(idle: Duration, parts_max: usize) -> Self {
        Self {
            idle,
            parts_max,
            units: Vec::new(),
            open: HashMap::default(),
            next: Vec::new(),
            touched: HashMap::default(),
            whose: Vec::new(),
            rest: Vec::new(),
            given_up: false,
        }
    }

    /// Takes the window's next operation, which a process of `session` asked for. `is_dir` says of an inode whether it is, or may have
    /// been, a directory.
    ///
    /// # Errors
    /// What `is_dir` says.
    pub fn add(&mut self, lsn: Lsn, entry: &Entry, session: u32, is_dir: &mut dyn FnMut(Ino) -> Result<bool>) -> Result<()> {
        let time = entry.stamp.clamped();
        // A marker says where the window ends; what has no name and is open to nobody is seen in no version.
        if matches!(entry.op, Operation::Mark(_) | Operation::Forget(_)) {
            self.rest.push((lsn, time, matches!(entry.op, Operation::Forget(_))));
            return Ok(());
        }
        if self.given_up {
            return Ok(());
        }
        let unit = self.unit(lsn, time, entry, session);
        self.whose.push((lsn, unit));
        self.given_up = self.units.len() > UNITS_MAX;
        self.note(unit, &entry.op, is_dir)
    }

    /// The unit that the operation belongs to.
    fn unit(&mut self, lsn: Lsn, time: Time, entry: &Entry, session: u32) -> usize {
        let process = entry.stamp.process;
        let known = process.pid != 0;
        let ino = entry.op.ino().unwrap_or_default();
        // What nobody asked for goes with what was done to the inode last.
        let with = if known { None } else { self.touched.get(&Thing::Inode(ino)).and_then(|all| Some(all.last()?.0)) };
        let session = if known { Session::Of(session) } else { Session::Unknown(ino) };
        let open = self.open.get(&session).copied();
        let goes_on = open.filter(|unit| self.units.get(*unit).is_some_and(|u| passed(u.last.1, time) < self.idle));
        let unit = with.or(goes_on).unwrap_or_else(|| {
            let (new, processes) = (self.units.len(), BTreeSet::new());
            self.units.push(Unit { session, first: time, last: (lsn, time), operations: 0, bytes: 0, processes, one_with: new });
            self.next.extend(open.map(|before| (before, new)));
            self.open.insert(session, new);
            new
        });
        if let Some(it) = self.units.get_mut(unit) {
            it.last = (lsn, time);
            it.operations += 1;
            it.bytes += if let Operation::Write(write) = &entry.op { write.data.len() } else { 0 };
            if known {
                it.processes.insert(process);
            }
        }
        unit
    }

    /// Notes what the operation touches.
    fn note(&mut self, unit: usize, op: &Operation, is_dir: &mut dyn FnMut(Ino) -> Result<bool>) -> Result<()> {
        let (at, to) = op.names();
        for (dir, name) in at.into_iter().chain(to) {
            self.touch(unit, Thing::Inode(dir), ENTERED);
            self.touch(unit, Thing::Name(hash(dir, name)), CHANGED);
        }
        match op {
            Operation::Rename(op) => {
                self.touch(unit, Thing::Inode(op.ino), MOVED);
                let mut moved = vec![op.ino];
                match op.mode {
                    RenameMode::Free => {}
                    RenameMode::Replace(gone) => self.touch(unit, Thing::Inode(gone), CHANGED),
                    RenameMode::Exchange(other) => {
                        self.touch(unit, Thing::Inode(other), MOVED);
                        moved.push(other);
                    }
                }
                if op.dir != op.to_dir {
                    for ino in moved {
                        if is_dir(ino)? {
                            self.touch(unit, Thing::Shape, CHANGED);
                        }
                    }
                }
            }
            Operation::Clone(op) => {
                self.touch(unit, Thing::Inode(op.from), READ);
                self.touch(unit, Thing::Inode(op.ino), CHANGED);
            }
            op => {
                if let Some(ino) = op.ino() {
                    self.touch(unit, Thing::Inode(ino), CHANGED);
                }
            }
        }
        Ok(())
    }

    fn touch(&mut self, unit: usize, thing: Thing, how: How) {
        let all = self.touched.entry(thing).or_default();
        let before = match all.iter().rposition(|(other, _)| *other == unit) {
            // Nobody came since.
            Some(at) if at + 1 == all.len() && all.get(at).is_some_and(|(_, ways)| ways & how != 0) => return,
            Some(at) => all.remove(at).1,
            None => 0,
        };
        let conflicts: Vec<usize> = all.iter().filter(|(_, ways)| ways & against(how) != 0).map(|(other, _)| *other).collect();
        // Behind all others: who touched it last stands last.
        all.push((unit, before | how));
        for other in conflicts {
            // Units of one session stay in order by themselves, but not what nobody asked for and joined an earlier one.
            if self.session(other) != self.session(unit) || other > unit {
                self.unite(other, unit);
            }
        }
    }

    fn session(&self, unit: usize) -> Option<Session> {
        self.units.get(unit).map(|u| u.session)
    }

    /// The unit that stands for all that are one with this one.
    fn root(&self, mut unit: usize) -> usize {
        while let Some(above) = self.units.get(unit).map(|u| u.one_with).filter(|above| *above != unit) {
            unit = above;
        }
        unit
    }

    fn unite(&mut self, a: usize, b: usize) -> bool {
        let (a, b) = (self.root(a), self.root(b));
        let (low, high) = (a.min(b), a.max(b));
        if let Some(unit) = self.units.get_mut(high) {
            unit.one_with = low;
        }
        low != high
    }

    /// The last record of each set of units that are one.
    fn lasts(&self) -> HashMap<usize, Lsn, FxBuildHasher> {
        let mut lasts = HashMap::default();
        for (unit, it) in self.units.iter().enumerate() {
            let last = lasts.entry(self.root(unit)).or_insert(it.last.0);
            *last = it.last.0.max(*last);
        }
        lasts
    }

    /// The parts, in their order; fewer than two when the window is to be one version.
    #[must_use]
    pub fn finish(mut self) -> Vec<Part> {
        if self.given_up {
            return Vec::new();
        }
        // Parts are made in the order of their last records. Where a session's units would change places, they are one.
        loop {
            let lasts = self.lasts();
            let last = |unit: usize| lasts.get(&self.root(unit)).copied();
            let wrong: Vec<(usize, usize)> = self.next.iter().copied().filter(|(a, b)| last(*a) > last(*b)).collect();
            if wrong.is_empty() {
                break;
            }
            for (a, b) in wrong {
                self.unite(a, b);
            }
        }
        let order = self.order();
        let mut parts: Vec<Part> = Vec::new();
        let mut place = vec![0; self.units.len()];
        for set in &order {
            let units = || set.iter().filter_map(|unit| self.units.get(*unit));
            for unit in set {
                place.get_mut(*unit).into_iter().for_each(|at| *at = parts.len());
            }
            parts.push(Part {
                lsns: Vec::new(),
                begin: units().map(|u| u.first).min().unwrap_or_default(),
                end: units().map(|u| u.last.1).max().unwrap_or_default(),
                operations: units().map(|u| u.operations).sum(),
                bytes: units().map(|u| u.bytes).sum(),
                processes: units().flat_map(|u| u.processes.iter().copied()).collect(),
            });
        }
        for (lsn, unit) in &self.whose {
            if let Some(part) = place.get(*unit).and_then(|at| parts.get_mut(*at)) {
                part.lsns.push(*lsn);
            }
        }
        if let Some(last) = parts.last_mut() {
            for (lsn, time, counts) in &self.rest {
                last.lsns.push(*lsn);
                last.end = last.end.max(*time);
                last.operations += u64::from(*counts);
            }
            last.lsns.sort_unstable();
        }
        parts
    }

    /// Sets of units, each of which is a part, in order.
    fn order(&self) -> Vec<Vec<usize>> {
        let lasts = self.lasts();
        let mut sets: HashMap<usize, Vec<usize>, FxBuildHasher> = HashMap::default();
        for unit in 0..self.units.len() {
            sets.entry(self.root(unit)).or_default().push(unit);
        }
        let mut order: Vec<(Option<Lsn>, Vec<usize>)> = sets.into_iter().map(|(root, units)| (lasts.get(&root).copied(), units)).collect();
        order.sort_unstable();
        let mut order: Vec<Vec<usize>> = order.into_iter().map(|(_, units)| units).collect();
        // Neighbours can always be one: nothing changes places then but what did before.
        while order.len() > self.parts_max.max(1) {
            let size =
                |at: usize| order.get(at).map(|set| set.iter().filter_map(|u| self.units.get(*u)).map(|u| u.operations).sum::<u64>());
            let Some(smallest) = (0..order.len()).min_by_key(|at| size(*at)) else { break };
            let neighbours = [smallest.checked_sub(1), Some(smallest + 1).filter(|n| *n < order.len())];
            // Rather with one's own than with a stranger.
            let strange = |at: usize| !self.share_a_session(order.get(at), order.get(smallest));
            let Some(other) = neighbours.into_iter().flatten().min_by_key(|at| (strange(*at), size(*at))) else { break };
            let gone = order.remove(smallest.max(other));
            if let Some(stays) = order.get_mut(smallest.min(other)) {
                stays.extend(gone);
            }
        }
        order
    }

    fn share_a_session(&self, a: Option<&Vec<usize>>, b: Option<&Vec<usize>>) -> bool {
        let of = |set: Option<&Vec<usize>>| -> Vec<Session> { set.into_iter().flatten().filter_map(|u| self.session(*u)).collect() };
        let ours = of(b);
        of(a).iter().any(|session| ours.contains(session))
    }
}

fn hash(dir: Ino, name: &[u8]) -> u64 {
    FxBuildHasher.hash_one((dir, name))
}

#[cfg(test)]
mod tests;

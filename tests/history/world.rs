//! A store, what somebody outside it knows, and the checks.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use ize::blobs::{BlobError, BlobState, Blobs, Encoding, OpenMode};
use ize::error::Class;
use ize::ids::{BlobId, Lsn, SegmentId, StoreId, Time};
use ize::storage::sim::{CallKind, Fault, SimDisk};
use ize::versions::checkpoint::{self, Checkpoint, ReplaceError};
use ize::wal::prune::{Limits, execute, plan};
use ize::wal::verify::{Worst, verify};
use ize::wal::{Bounds, Log, Options, Record, RecoveryInput, RecoveryReport, WalError, scan};

use super::Step;

const STORE: StoreId = StoreId(*b"0123456789abcdef");
const KIND: u16 = 7;

fn wal() -> PathBuf {
    PathBuf::from("/store/wal")
}

fn packs() -> PathBuf {
    PathBuf::from("/store/blobs")
}

fn checkpoint_path() -> PathBuf {
    PathBuf::from("/store/meta/checkpoint")
}

/// What `meta/lock` would say: whether the last holder closed, and on which boot it ran.
#[derive(Clone, Copy, Debug)]
struct Lock {
    clean: bool,
    boot: u64,
}

/// What somebody outside the store knows.
#[derive(Clone, Debug)]
struct Known {
    /// Every record that may be in the log: answered, then (last) in flight.
    records: BTreeMap<u64, Vec<u8>>,
    /// The last one answered.
    answered: u64,
    /// Everything up to here was reported durable.
    durable: u64,
    /// The highest LSN that anybody was told.
    told: u64,
    /// The checkpoint that was made durable, and one that perhaps was.
    checkpoint: Checkpoint,
    tried: Option<Checkpoint>,
    /// Power was lost since the store was opened last.
    cut: bool,
}

struct Open {
    log: Log,
    blobs: Arc<Blobs>,
    /// The disk would not give some of the packs: those blobs are not known until the next opening.
    unreadable: bool,
}

/// A store on a simulated disk.
pub struct World {
    pub disk: SimDisk,
    /// Whether what is found at an opening is checked. Off while a history is only repeated.
    pub checking: bool,
    open: Option<Open>,
    known: Known,
    lock: Lock,
    boot: u64,
    next_body: u64,
    /// Changing calls of the disks before this one, and the one of all at which the process dies.
    calls_before: u64,
    crash_at: Option<u64>,
    /// Somebody said a fault since the store was opened: then it may be poisoned.
    faulty: bool,
    bodies: HashMap<BlobId, Vec<u8>>,
    /// Calls of any kind of the disks before this one; a fault at the n-th of all, and what it hit; steps and openings that failed.
    all_calls_before: u64,
    fault_at: Option<(u64, Fault)>,
    hit: Arc<Mutex<Option<(CallKind, PathBuf)>>>,
    failures: u64,
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

fn options() -> Options {
    Options { segment_size: 64 << 10, background: false, ..Options::default() }
}

fn body(number: u64, len: u32, blob: Option<BlobId>) -> Vec<u8> {
    let mut body = number.to_le_bytes().to_vec();
    if let Some(id) = blob {
        body.extend_from_slice(&id.0);
    }
    body.resize(body.len() + len as usize, number as u8 | 1);
    body[8 - 1] = u8::from(blob.is_some());
    body
}

fn blob_of(body: &[u8]) -> Option<BlobId> {
    if body.get(7) == Some(&1) { body.get(8..40).and_then(|b| b.try_into().ok()).map(BlobId) } else { None }
}

macro_rules! ensure {
    ($holds:expr, $($story:tt)*) => { if !$holds { return Err(format!($($story)*)); } };
}

/// Whether the blob that the record names is there and right, as the engine asks it in recovery.
fn sound(blobs: &Blobs, record: &Record<'_>) -> io::Result<bool> {
    match blob_of(record.body).map(|id| blobs.verify(&id)) {
        None | Some(BlobState::Sound) => Ok(true),
        Some(BlobState::Missing | BlobState::Damaged(_)) => Ok(false),
        Some(BlobState::Unreadable(e)) => Err(io::Error::other(e)),
    }
}

impl World {
    /// An empty disk, and nobody who has opened a store there.
    pub fn new() -> Self {
        let disk = SimDisk::new();
        disk.put_file(Path::new("/store/meta/project.toml"), b"");
        let known = Known {
            records: BTreeMap::new(),
            answered: 0,
            durable: 0,
            told: 0,
            checkpoint: Checkpoint::first(STORE),
            tried: None,
            cut: false,
        };
        let lock = Lock { clean: false, boot: 0 };
        Self {
            disk,
            checking: true,
            open: None,
            known,
            lock,
            boot: 1,
            next_body: 0,
            calls_before: 0,
            crash_at: None,
            faulty: false,
            bodies: HashMap::new(),
            all_calls_before: 0,
            fault_at: None,
            hit: Arc::default(),
            failures: 0,
        }
    }

    /// The process dies at the `n`-th changing call of the whole history (1 is the first).
    pub fn crash_at(&mut self, n: u64) {
        self.crash_at = Some(n);
        self.arm();
    }

    /// A lie, for the test of the tests: says that everything answered was reported durable.
    pub fn claim_durable(&mut self) {
        self.known.durable = self.known.answered;
    }

    /// `fault` at the `n`-th call of any kind of the whole history (1 is the first).
    pub fn fault_at(&mut self, n: u64, fault: Fault) {
        self.fault_at = Some((n, fault));
        self.arm();
    }

    /// The kind of call that the fault of [`World::fault_at`] hit, and the file.
    pub fn hit(&self) -> Option<(CallKind, PathBuf)> {
        self.hit.lock().unwrap().clone()
    }

    /// Steps and openings that failed.
    pub fn failures(&self) -> u64 {
        self.failures
    }

    /// Calls of any kind so far, of all lives.
    pub fn all_calls(&self) -> u64 {
        self.all_calls_before + self.disk.all_calls()
    }

    /// Changing calls so far, of all lives.
    pub fn calls(&self) -> u64 {
        self.calls_before + self.disk.calls()
    }

    fn arm(&mut self) {
        if let Some((n, fault)) = self.fault_at.filter(|(n, _)| *n > self.all_calls()) {
            let (at, hit) = (n - self.all_calls_before, Arc::clone(&self.hit));
            self.faulty = true;
            self.disk.script(move |call| {
                (call.number == at).then(|| {
                    *hit.lock().unwrap() = Some((call.kind, call.path.clone()));
                    fault
                })
            });
        }
        if let Some(at) = self.crash_at.filter(|at| *at > self.calls()) {
            self.disk.crash_at_call(at - self.calls());
        }
    }

    fn another(&mut self, disk: SimDisk) {
        self.open = None;
        self.calls_before += self.disk.calls();
        self.all_calls_before += self.disk.all_calls();
        self.disk = disk;
        self.faulty = false;
        self.arm();
    }

    /// The process dies.
    pub fn kill(&mut self) {
        let disk = self.disk.kill();
        self.another(disk);
    }

    /// Power is lost.
    pub fn cut(&mut self, seed: u64) {
        let disk = self.disk.crash(seed);
        self.another(disk);
        self.known.cut = true;
        self.boot += 1;
    }

    /// The same store, to try something with: its process is dead.
    pub fn fork(&self) -> Self {
        Self {
            disk: self.disk.kill(),
            checking: self.checking,
            open: None,
            known: self.known.clone(),
            lock: self.lock,
            boot: self.boot,
            next_body: self.next_body,
            calls_before: 0,
            crash_at: None,
            faulty: false,
            bodies: self.bodies.clone(),
            all_calls_before: 0,
            fault_at: None,
            hit: Arc::default(),
            failures: 0,
        }
    }

    /// As [`World::fork`], after a power cut.
    pub fn fork_cut(&self, seed: u64) -> Self {
        let mut world = self.fork();
        world.disk = self.disk.crash(seed);
        world.known.cut = true;
        world.boot += 1;
        world
    }

    /// Does one step. A step of a process that is dead does nothing.
    ///
    /// # Errors
    /// What does not hold, in words. A failure that a fault explains is none.
    pub fn step(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Kill => self.kill(),
            Step::Cut(seed) => self.cut(*seed),
            Step::Fault(n, fault) => {
                self.faulty |= *fault != Fault::Short;
                self.disk.at_call(*n, *fault);
            }
            Step::Room(room) => {
                let room = room.map(|room| self.disk.used() + u64::from(room));
                self.disk.set_capacity(room);
            }
            Step::Append(_) | Step::Sync | Step::Seal | Step::Checkpoint | Step::Prune(_) | Step::Close => {
                let fired = self.disk.faults();
                if self.open()? {
                    self.act(step, fired)?;
                }
            }
        }
        Ok(())
    }

    /// Whatever happened: with no fault left, the store opens, holds what it must, goes on, and holds that after one more power cut.
    ///
    /// # Errors
    /// What does not hold, in words.
    pub fn finish(&mut self) -> Result<(), String> {
        self.disk.disarm();
        self.disk.set_capacity(None);
        self.crash_at = None;
        self.fault_at = None;
        self.kill();
        ensure!(self.open()?, "the store does not open");
        for step in [Step::Append(vec![(100, Some(100))]), Step::Sync] {
            self.step(&step)?;
        }
        ensure!(self.known.durable == self.known.answered, "a sync did not make all durable");
        self.cut(self.boot);
        ensure!(self.open()?, "the store does not open again");
        Ok(())
    }

    /// Opens the store unless it is open; false when a fault kept it from opening.
    ///
    /// # Errors
    /// What does not hold, in words.
    pub fn open(&mut self) -> Result<bool, String> {
        if self.open.is_some() {
            return Ok(true);
        }
        if self.disk.crashed() {
            return Ok(false);
        }
        let fired = self.disk.faults();
        let (clean, same_boot) = (self.lock.clean, self.lock.boot == self.boot);
        // As `Lock::acquire` writes it.
        self.lock = Lock { clean: false, boot: if clean || same_boot { self.boot } else { self.lock.boot } };
        match self.recover(clean, same_boot) {
            Ok((open, report)) => {
                // As `Lock::recovered` writes it.
                self.lock.boot = self.boot;
                if self.checking {
                    self.check(&open, &report)?;
                } else {
                    self.settle(report.last_lsn.0);
                }
                self.known.cut = false;
                self.open = Some(open);
                Ok(true)
            }
            Err(e) => {
                self.failures += 1;
                ensure!(self.disk.crashed() || self.disk.faults() > fired, "a healthy store was refused: {e}");
                ensure!(self.disk.crashed() || matches!(e, WalError::Io { .. }), "an error of the disk was taken for another: {e}");
                Ok(false)
            }
        }
    }

    fn recover(&mut self, clean: bool, same_boot: bool) -> Result<(Open, RecoveryReport), WalError> {
        let io = |doing: &str, e: ize::error::Error| {
            let kind = if e.class == Class::Damage { io::ErrorKind::InvalidData } else { io::ErrorKind::Other };
            let source = io::Error::new(kind, e.message.clone());
            match e.class {
                Class::Damage => WalError::Damage { file: checkpoint_path(), offset: 0, lsn: Lsn(0), what: e.message },
                _ => WalError::Io { doing: doing.into(), source },
            }
        };
        let found = checkpoint::open(&self.disk, &checkpoint_path(), STORE).map_err(|e| io("checkpoint", e))?;
        let found = found.unwrap_or_else(|| Checkpoint::first(STORE));
        if found != self.known.checkpoint && Some(&found) != self.known.tried.as_ref() {
            let what = format!("the checkpoint is {found:?}, not {:?} nor {:?}", self.known.checkpoint, self.known.tried);
            return Err(WalError::Damage { file: checkpoint_path(), offset: 0, lsn: Lsn(0), what });
        }
        self.known.checkpoint = found;
        self.known.tried = None;
        let opened = Blobs::open(self.disk.shared(), packs(), STORE, OpenMode::Write { clean });
        let (blobs, seen) = opened.map_err(|e| match e {
            BlobError::Io { source, .. } => WalError::Io { doing: "packs".into(), source },
            e => WalError::Damage { file: packs(), offset: 0, lsn: Lsn(0), what: e.to_string() },
        })?;
        let blobs = Arc::new(blobs);
        let hook = Arc::clone(&blobs);
        let mut verify = |record: &Record<'_>| sound(&blobs, record);
        let input = RecoveryInput {
            checkpoint: self.known.checkpoint.lsn,
            floor: self.known.checkpoint.floor,
            clean,
            same_boot,
            before_sync: Box::new(move || hook.sync().map_err(io::Error::other)),
            ..RecoveryInput::new(&mut verify)
        };
        let (log, report) = Log::recover(self.disk.shared(), &wal(), STORE, input, options())?;
        let unreadable = seen.findings.iter().any(|f| matches!(f.fault, ize::blobs::Fault::Unreadable(_)));
        Ok((Open { log, blobs, unreadable }, report))
    }

    /// Does a step on the open store. `fired`: faults that had happened before it, and before an opening that it caused.
    fn act(&mut self, step: &Step, fired: u64) -> Result<(), String> {
        let Some(open) = self.open.take() else { return Ok(()) };
        let was_poisoned = open.log.poisoned().is_some() || open.blobs.poisoned().is_some();
        let result = match step {
            Step::Append(records) => self.append(&open, records),
            Step::Sync => self.sync(&open, |log| log.sync().map(|_| ())),
            Step::Seal => self.sync(&open, |log| log.seal().map(|_| ())),
            Step::Checkpoint => self.move_checkpoint(&open),
            Step::Prune(max) => self.prune(&open, *max),
            Step::Close => self.sync(&open, |log| log.seal().map(|_| ())).and_then(|()| Ok(open.blobs.sync()?)),
            _ => Ok(()),
        };
        if self.disk.crashed() {
            return Ok(());
        }
        let poisoned = open.log.poisoned().is_some() || open.blobs.poisoned().is_some();
        ensure!(!poisoned || self.faulty, "poisoned without a failure, or by a full disk: {:?}", open.log.poisoned());
        match &result {
            Ok(()) if *step == Step::Close => {
                ensure!(was_poisoned || !poisoned || self.disk.faults() > fired, "poisoned by nothing");
                self.lock.clean = !poisoned;
                return Ok(());
            }
            Ok(()) => {}
            Err(Failure::Broken(story)) => return Err(story.clone()),
            Err(Failure::Disk(errno, story)) => {
                self.failures += 1;
                ensure!(was_poisoned || self.disk.faults() > fired, "it fails without a reason: {story}");
                ensure!([libc::EIO, libc::ENOSPC].contains(errno), "errno {errno} of {story}");
                if *step == Step::Close {
                    return Ok(());
                }
            }
        }
        self.open = Some(open);
        Ok(())
    }

    fn append(&mut self, open: &Open, records: &[(u32, Option<u32>)]) -> Result<(), Failure> {
        let mut bodies = Vec::new();
        for (len, blob) in records {
            self.next_body += 1;
            let id = match blob {
                Some(len) => {
                    // Some are alike, so that they are found.
                    let bytes = vec![(self.next_body % 5) as u8; *len as usize];
                    let id = open.blobs.put(&bytes, Encoding::Raw)?;
                    self.bodies.insert(id, bytes);
                    Some((id, *len))
                }
                None => None,
            };
            bodies.push((body(self.next_body, *len, id.map(|i| i.0)), id.map_or(0, |i| u64::from(i.1))));
        }
        let mut pushed = Vec::new();
        let result = open.log.append_with(62_000, &mut |_, batch| {
            pushed.clear();
            for (body, payload) in &bodies {
                pushed.push((batch.push(KIND, 1, &[body], *payload).0, body.clone()));
            }
        });
        if matches!(result, Err(WalError::TooLarge { .. })) {
            return Ok(());
        }
        if let (Some((first, _)), Some((last, _))) = (pushed.first(), pushed.last()) {
            if *first <= self.known.told {
                return Err(Failure::Broken(format!("LSN {first} is used again: {} was told", self.known.told)));
            }
            self.known.told = *last;
            self.known.records.extend(pushed.iter().cloned());
        }
        let appended = result.inspect_err(|_| {
            // What failed may be there or not; the log must not go on behind it.
        })?;
        if appended.iter().map(|a| a.lsn.0).ne(pushed.iter().map(|p| p.0)) {
            return Err(Failure::Broken("the answer names other LSNs".into()));
        }
        self.known.answered = self.known.told;
        Ok(())
    }

    fn sync(&mut self, open: &Open, sync: impl FnOnce(&Log) -> Result<(), WalError>) -> Result<(), Failure> {
        sync(&open.log)?;
        if open.log.durable().0 < self.known.answered {
            return Err(Failure::Broken(format!("durable is {}, {} was answered before", open.log.durable(), self.known.answered)));
        }
        self.known.durable = self.known.answered;
        Ok(())
    }

    fn move_checkpoint(&mut self, open: &Open) -> Result<(), Failure> {
        self.sync(open, |log| log.seal().map(|_| ()))?;
        let lsn = open.log.durable().max(self.known.checkpoint.lsn);
        self.replace(Checkpoint { lsn, ..self.known.checkpoint.clone() })
    }

    fn replace(&mut self, new: Checkpoint) -> Result<(), Failure> {
        if self.known.tried.is_some() {
            // Nobody knows which is there: nothing is built on it before the next opening.
            return Ok(());
        }
        self.known.tried = Some(new.clone());
        match checkpoint::replace(&self.disk, &checkpoint_path(), &new) {
            Ok(()) => {
                self.known.checkpoint = new;
                self.known.tried = None;
                Ok(())
            }
            Err(ReplaceError::Old(e)) => {
                // A dying process does not learn which.
                if !self.disk.crashed() {
                    self.known.tried = None;
                }
                Err(e.into())
            }
            Err(ReplaceError::Unknown(e)) => Err(e.into()),
        }
    }

    fn prune(&mut self, open: &Open, max: u32) -> Result<(), Failure> {
        if self.known.tried.is_some() || open.log.poisoned().is_some() {
            return Ok(());
        }
        let (lsn, floor) = (self.known.checkpoint.lsn, self.known.checkpoint.floor);
        let disk = self.disk.clone();
        let scanned = scan(&disk, &wal(), STORE, Bounds { checkpoint: lsn, floor })?;
        if scanned.worst() == Some(ize::wal::scan::Verdict::IoError) {
            return Err(Failure::Disk(libc::EIO, "the scan met an I/O error".into()));
        }
        let limits = Limits { max_size: Some(u64::from(max)), ..Limits::default() };
        let plan = plan(&scanned, lsn, limits, &mut |_| 0, Time::now());
        let new = Checkpoint { floor: plan.floor().unwrap_or(floor), ..self.known.checkpoint.clone() };
        let mut failure = None;
        let pruned = execute(&disk, &wal(), &plan, &mut |_: SegmentId| {
            self.replace(new.clone()).map_err(|e| {
                let error = ize::error::Error::new(Class::Io, e.to_string());
                failure = Some(e);
                error
            })
        });
        match (pruned, failure) {
            (_, Some(failure)) => Err(failure),
            (Ok(_), None) => Ok(()),
            (Err(e), None) => Err(e.into()),
        }
    }

    /// Forgets what did not come back: everything up to `last` did.
    fn settle(&mut self, last: u64) {
        self.known.records.retain(|lsn, _| *lsn <= last);
        self.known.answered = last;
        self.known.durable = last;
    }

    /// What an opening found is what must be there. Looks at a copy of the disk: no fault is met, no call counted.
    fn check(&mut self, open: &Open, report: &RecoveryReport) -> Result<(), String> {
        let disk = self.disk.kill();
        disk.disarm();
        let (checkpoint, floor) = (self.known.checkpoint.lsn, self.known.checkpoint.floor);
        let (blobs, damage) = Blobs::open(disk.shared(), packs(), STORE, OpenMode::ReadOnly).map_err(|e| e.to_string())?;
        ensure!(damage.findings.is_empty(), "findings in the packs: {:?}", damage.findings);
        let (walked, counted) = (blobs.usage(), open.blobs.usage());
        ensure!(open.unreadable || walked == counted, "usage counters say {counted:?}, a walk says {walked:?}");
        let mut found: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        let mut order = 0;
        let verified = verify(&disk, &wal(), STORE, Bounds { checkpoint, floor }, &mut |record| {
            let misplaced = record.lsn.0 <= order;
            order = record.lsn.0;
            if !record.is_mark() {
                found.insert(record.lsn.0, record.body.to_vec());
                if let Some(id) = blob_of(record.body)
                    && blobs.get(&id).ok().as_ref() != self.bodies.get(&id)
                {
                    return Ok(Some(format!("the blob of LSN {} is not what was put", record.lsn)));
                }
            }
            Ok(misplaced.then(|| "LSNs do not grow".into()))
        });
        let verified = verified.map_err(|e| e.to_string())?;
        ensure!(verified.worst == Worst::Clean, "findings in the log: {:?}", verified.findings);

        // An unbroken stretch of what was appended, from what prune left up to the end.
        let known = &self.known;
        let first = found.keys().next().copied();
        let last = report.last_lsn.0;
        let from = first.unwrap_or(u64::MAX).min(checkpoint.0 + 1);
        let expected: BTreeMap<&u64, &Vec<u8>> = known.records.range(from..).filter(|(lsn, _)| **lsn <= last).collect();
        let stretch = || format!("{:?} of {:?}", found.keys(), known.records.keys());
        ensure!(found.iter().eq(expected), "not a prefix up to {last}, checkpoint {checkpoint}: {}", stretch());
        ensure!(last >= known.durable, "{last} came back, {} was durable: {}", known.durable, stretch());
        ensure!(known.cut || last >= known.answered, "{last} came back, {} was answered: {}", known.answered, stretch());
        ensure!(last >= checkpoint.0, "{last} came back, the checkpoint is {checkpoint}");
        ensure!(report.next_lsn.0 > last && open.log.durable().0 == last, "after {last} comes {}", report.next_lsn);
        // An append in flight of which no byte arrived told nobody, unless the process lived on.
        let lost = known.told > last;
        let unseen = !known.cut && known.told > known.answered && report.cut.is_none();
        ensure!(!lost || unseen || report.next_lsn.0 > known.told, "LSN {} would be used again: {} was told", report.next_lsn, known.told);
        if lost && unseen {
            self.known.told = last;
        }
        self.settle(last);
        Ok(())
    }
}

/// How a step failed.
enum Failure {
    /// The disk's fault.
    Disk(i32, String),
    /// The store's fault.
    Broken(String),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Disk(_, story) | Self::Broken(story) => f.write_str(story),
        }
    }
}

impl From<WalError> for Failure {
    fn from(e: WalError) -> Self {
        match e {
            WalError::Io { .. } | WalError::Poisoned { .. } => Self::Disk(e.errno(), e.to_string()),
            e => Self::Broken(e.to_string()),
        }
    }
}

impl From<BlobError> for Failure {
    fn from(e: BlobError) -> Self {
        match &e {
            BlobError::Io { .. } | BlobError::Poisoned(_) => Self::Disk(if e.is_full() { libc::ENOSPC } else { libc::EIO }, e.to_string()),
            _ => Self::Broken(e.to_string()),
        }
    }
}

impl From<ize::error::Error> for Failure {
    fn from(e: ize::error::Error) -> Self {
        match e.class {
            Class::Io => Self::Disk(libc::EIO, e.message),
            Class::Full => Self::Disk(libc::ENOSPC, e.message),
            _ => Self::Broken(format!("{}: class {:?}", e.message, e.class)),
        }
    }
}

//! The repository of one project: opens it, says where it stands, records versions exactly once, in order.

use std::cell::Cell;
use std::fs;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use libpijul::changestore::ChangeStore;
use libpijul::pristine::sanakirja::{MutTxn0, Pristine};
use libpijul::small_string::SmallString;
use libpijul::{ArcTxn, Base32, ChannelRef, GraphTxnT, Hash, Merkle, MutTxnT, TxnT, TxnTExt};

use crate::error::{Class, Error, IoContext, Result};
use crate::ids::{Lsn, StoreId, VersionSeq};
use crate::pijul::apply::{apply, refused};
use crate::pijul::behind::Behind;
use crate::pijul::header::{self, Coverage};
use crate::pijul::plan::plan;
use crate::pijul::pristine::{self, Opened};
use crate::pijul::refusal::Refusal;
use crate::pijul::store::{ChangeFiles, TMP_PREFIX};
use crate::pijul::wear::Limits;
use crate::pijul::{VersionInput, form, names, step};

/// The channel everything is recorded on.
const CHANNEL: &str = "main";
/// There while a transaction is open: it holds the number of the last version that is being recorded. Found at opening, it says that a
/// crash may have left files behind.
const MARKER: &str = "ize-recording";
/// How long a transaction waits for somebody else's lock before it is given up.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// One write transaction at a time in this process: commit and drop both unlock.
static WRITING: Mutex<()> = Mutex::new(());

/// User and group whose files need no `uid` and `gid` line in a sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// Where the repository stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// The last version it holds.
    pub seq: VersionSeq,
    /// The last record that version covers.
    pub last_lsn: Lsn,
    /// Its change, in base32 as the client shows it.
    pub hash: String,
    /// How many changes there are.
    pub changes: u64,
    /// The version whose state the repository holds: that of the head, or an earlier one where the head was left out; 0 is none. The next
    /// version is to be made against it.
    pub holds: VersionSeq,
    /// Names the whole log: it is another when a change was taken out of its middle.
    pub state: String,
}

/// What became of a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is now this change.
    Recorded(String),
    /// It is now this change, which is empty: nothing that Pijul or a sidecar can hold is different (times, say).
    Empty(String),
    /// It was this change before.
    AlreadyThere(String),
    /// Pijul refused it as it is: it is now this change, in which every file is a manifest.
    Safe(String, Refusal),
    /// Pijul refused that too, or it could not be read: it is now this change, in which there is nothing.
    LeftOut(String, Refusal),
}

impl Outcome {
    /// The change.
    #[must_use]
    pub fn hash(&self) -> &str {
        match self {
            Self::Recorded(h) | Self::Empty(h) | Self::AlreadyThere(h) | Self::Safe(h, _) | Self::LeftOut(h, _) => h,
        }
    }

    /// Why it is not what the version should be, if it is not.
    #[must_use]
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Safe(_, refusal) | Self::LeftOut(_, refusal) => Some(refusal),
            Self::Recorded(_) | Self::Empty(_) | Self::AlreadyThere(_) => None,
        }
    }
}

/// One change of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// In base32.
    pub hash: String,
    /// The version it is; `None` for a change that ize did not write.
    pub coverage: Option<Coverage>,
    /// The whole message.
    pub message: String,
    /// The paths the message lists (at most 100), raw.
    pub paths: Vec<Vec<u8>>,
    /// Why it is not what its version should be, if it is not.
    pub refusal: Option<Refusal>,
}

/// The Pijul repository of a project (`PROJECT/.pijul`).
pub struct Repository {
    dir: PathBuf,
    store: StoreId,
    owner: Owner,
    pristine: Pristine,
    opened: Opened,
    pub(super) changes: ChangeFiles,
    /// When a file is founded anew; tests have it lower.
    pub(super) wear: Limits,
    #[cfg(test)]
    pub(super) refuse: super::tests::Refuse,
}

/// The last change of the log: its place, itself, and what it covers (`None`: not ize's), and the version whose state the repository holds.
#[derive(Clone, Copy)]
struct Head {
    place: u64,
    hash: Hash,
    coverage: Option<Coverage>,
    holds: VersionSeq,
    state: Option<Merkle>,
}

/// How a version is recorded.
#[derive(Clone, Copy)]
enum Form<'a> {
    AsItIs,
    /// Every file a manifest, and why.
    Safe(&'a str),
    /// Nothing of it, and why.
    LeftOut(&'a str),
}

/// Why a transaction failed.
struct Failure {
    /// At which of its versions.
    at: usize,
    /// What was wrong may be the version, and another form of it recorded.
    of_version: bool,
    error: Error,
}

impl Repository {
    /// Opens `project_dir/.pijul`, creating it when it is not there. Sweeps what a crash left behind.
    ///
    /// # Errors
    /// `Busy` when another process holds it, `Damage` when the pristine is cut short or none, `Io`, or what libpijul says.
    pub fn open_or_create(project_dir: &Path, store: StoreId, owner: Owner) -> Result<Self> {
        Self::open_sized(project_dir, store, owner, pristine::SIZE)
    }

    /// The same, with a pristine of this size where it is made now.
    pub(super) fn open_sized(project_dir: &Path, store: StoreId, owner: Owner, size: u64) -> Result<Self> {
        let dir = project_dir.join(libpijul::DOT_DIR);
        let (pristine_dir, changes_dir) = (dir.join("pristine"), dir.join("changes"));
        for d in [&dir, &pristine_dir, &changes_dir] {
            fs::create_dir_all(d).doing(|| format!("cannot create `{}`", d.display()))?;
        }
        let guard = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
        let db = pristine_dir.join("db");
        if !db.exists() {
            // Change files that are there already are nobody's.
            mark(&dir, VersionSeq(0))?;
            // Born under another name: libpijul takes a file that is there, and cut short by a crash, for a finished one.
            let unborn = pristine_dir.join("db.new");
            remove(&unborn)?;
            step("a pristine is made");
            create_channel(&pristine::open(&unborn, size)?.0)?;
            fs::File::open(&unborn).and_then(|f| f.sync_all()).doing(|| format!("cannot sync `{}`", unborn.display()))?;
            step("a pristine is born");
            fs::rename(&unborn, &db).doing(|| format!("cannot rename `{}`", unborn.display()))?;
            for lock in ["db.new.lock0", "db.new.lock1", "db.lock0", "db.lock1"] {
                remove(&pristine_dir.join(lock))?;
            }
            for d in [project_dir, &dir, &pristine_dir] {
                sync_dir(d)?;
            }
            step("a pristine has its name");
        }
        let (pristine, opened) = pristine::open(&db, size)?;
        let changes = ChangeFiles::new(changes_dir);
        let repository = Self {
            dir,
            store,
            owner,
            pristine,
            opened,
            changes,
            wear: Limits::default(),
            #[cfg(test)]
            refuse: super::tests::Refuse::default(),
        };
        if repository.dir.join(MARKER).exists() {
            repository.sweep()?;
        }
        drop(guard);
        Ok(repository)
    }

    /// Where the repository in `project_dir/.pijul` stands, beside whoever has it open; nothing is made or mended.
    ///
    /// # Errors
    /// As [`head`](Self::head).
    pub fn look(project_dir: &Path, store: StoreId) -> Result<Option<Recorded>> {
        let dir = project_dir.join(libpijul::DOT_DIR);
        let db = dir.join("pristine").join("db");
        if !db.exists() {
            return Ok(None);
        }
        let (pristine, opened) = pristine::open(&db, 0)?;
        let changes = ChangeFiles::new(dir.join("changes"));
        let owner = Owner { uid: 0, gid: 0 };
        let repository = Self {
            dir,
            store,
            owner,
            pristine,
            opened,
            changes,
            wear: Limits::default(),
            #[cfg(test)]
            refuse: super::tests::Refuse::default(),
        };
        repository.head()
    }

    /// The last of the versions that were being recorded in `project_dir/.pijul` when a crash came, if one did; the log then perhaps has
    /// them.
    #[must_use]
    pub fn interrupted(project_dir: &Path) -> Option<VersionSeq> {
        let text = fs::read_to_string(project_dir.join(libpijul::DOT_DIR).join(MARKER)).ok()?;
        // What does not read was cut short: nobody knows.
        Some(text.trim_end().parse().map_or(VersionSeq(u64::MAX), VersionSeq))
    }

    /// Waits, for two seconds at most, until a transaction could begin.
    ///
    /// # Errors
    /// `Busy`, with who holds the lock; `NotFound` or `Damage` when the pristine is no longer what was opened.
    pub fn wait_for_lock(&self) -> Result<()> {
        let _guard = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
        self.opened.check()?;
        self.opened.wait_for_lock(LOCK_PATIENCE)
    }

    /// Makes the pristine larger where these versions would more than half fill it; whether it did. While somebody else has it open it stays
    /// as it is.
    ///
    /// # Errors
    /// I/O errors. After one the repository is of no use and must be opened again.
    pub fn make_room(&mut self, versions: &[VersionInput]) -> Result<bool> {
        let _guard = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(size) = self.opened.size_for(versions)? else { return Ok(false) };
        let nothing = Pristine::new_anon_with_size(8 << 10).map_err(refused("cannot close the pristine"))?;
        // Nobody may have it open, we neither.
        drop(std::mem::replace(&mut self.pristine, nothing));
        let path = self.opened.close();
        let grown = pristine::grow(&path, size)?;
        // As large as it is now: opening with a larger size would make it larger.
        (self.pristine, self.opened) = pristine::open(&path, 0)?;
        Ok(grown)
    }

    /// Removes half-written change files, and change files of ours that the pristine does not know.
    fn sweep(&self) -> Result<()> {
        self.opened.check()?;
        // A write transaction, so that no client is in the middle of a pull.
        self.opened.wait_for_lock(LOCK_PATIENCE)?;
        guarded("sweeping", || self.sweep_in(&self.pristine.arc_txn_begin().map_err(refused("cannot begin"))?))?;
        step("swept");
        remove(&self.dir.join(MARKER))
    }

    fn sweep_in(&self, txn: &ArcTxn<MutTxn0>) -> Result<()> {
        let read = |dir: &Path| -> Result<Vec<fs::DirEntry>> {
            let entries = fs::read_dir(dir).and_then(Iterator::collect);
            entries.doing(|| format!("cannot read `{}`", dir.display()))
        };
        for entry in read(self.changes.dir())? {
            let (name, path) = (entry.file_name().to_string_lossy().into_owned(), entry.path());
            if name.starts_with(TMP_PREFIX) {
                remove(&path)?;
            } else if path.is_dir() {
                for file in read(&path)? {
                    let rest = file.file_name().to_string_lossy().into_owned();
                    let hash = rest.strip_suffix(".change").and_then(|r| Hash::from_base32(format!("{name}{r}").as_bytes()));
                    let Some(hash) = hash else { continue };
                    let known = txn.read().get_internal(&(&hash).into()).map_err(refused("cannot read the changes"))?.is_some();
                    // Unreadable means cut short: the pristine does not know it, so nobody does.
                    let header = || self.changes.get_header(&hash);
                    let ours = || header().map_or(true, |h| self.coverage(h.description.as_deref()).is_some());
                    if !known && ours() {
                        step("a stray file is swept");
                        remove(&file.path())?;
                    }
                }
                // Only an empty one goes.
                let _ = fs::remove_dir(&path);
            }
        }
        Ok(())
    }

    fn coverage(&self, description: Option<&str>) -> Option<Coverage> {
        header::parse(description?).filter(|c| c.store == self.store)
    }

    /// The last version recorded, read from the head of the log; `None` when there is none.
    ///
    /// # Errors
    /// `Refused`, naming the change, when the head is not ize's; `NotFound` when somebody took the pristine away, `Damage` when it was cut
    /// short; or what libpijul says.
    pub fn head(&self) -> Result<Option<Recorded>> {
        let _guard = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
        self.opened.check()?;
        guarded("reading the log", || {
            let txn = self.pristine.txn_begin().map_err(refused("cannot begin"))?;
            let channel = txn.load_channel(channel_name()?).map_err(refused("cannot read the channel"))?;
            let Some(channel) = channel else { return Ok(None) };
            let Some(head) = self.head_in(&txn, &channel)? else { return Ok(None) };
            let state = head.state.map_or_else(String::new, |state| state.to_base32());
            let Coverage { seq, last: last_lsn, .. } = head.coverage.ok_or_else(|| foreign(&head.hash))?;
            Ok(Some(Recorded { seq, last_lsn, hash: head.hash.to_base32(), changes: head.place + 1, holds: head.holds, state }))
        })
    }

    fn head_in<T: TxnTExt>(&self, txn: &T, channel: &ChannelRef<T>) -> Result<Option<Head>>
    where
        T::GraphError: std::fmt::Debug,
    {
        let channel = channel.read();
        let mut log = txn.reverse_log(&*channel, None).map_err(refused("cannot read the log"))?;
        let Some(entry) = log.next() else { return Ok(None) };
        let (place, (hash, state)) = entry.map_err(refused("cannot read the log"))?;
        let hash: Hash = hash.into();
        let header = self.header(&hash)?;
        let description = header.description.as_deref();
        let coverage = self.coverage(description);
        let holds = description.and_then(Refusal::parse).and_then(|r| r.holds).or(coverage.map(|c| c.seq)).unwrap_or_default();
        Ok(Some(Head { place, hash, coverage, holds, state: Some(state.into()) }))
    }

    fn header(&self, hash: &Hash) -> Result<libpijul::change::ChangeHeader> {
        self.changes.get_header(hash).map_err(|e| {
            let what = format!("change {} is in the log, but its file cannot be read: {e}", hash.to_base32());
            Error::new(Class::Damage, what).hint("`ize pijul rebuild` makes the Pijul history again from the versions")
        })
    }

    /// Records a version: the first one that is kept above [`head`](Self::head), or any when there is none. Numbers may have gaps. One that
    /// is there already is left alone. It must have been made against the state that the repository [holds](Recorded::holds).
    ///
    /// # Errors
    /// `Refused` when the head is not ize's; `Busy` when somebody holds the lock; `Io`, `Full`; `Failed` when libpijul does not even take a
    /// change without anything in it. After an error nothing of the version is there.
    pub fn record(&self, version: &VersionInput) -> Result<Outcome> {
        let mut outcomes = self.record_many(std::slice::from_ref(version))?;
        outcomes.pop().ok_or_else(|| Error::new(Class::Failed, "no outcome"))
    }

    /// Records versions in one transaction, which is several times faster than one by one. There are fewer outcomes than versions where
    /// one was [left out](Outcome::LeftOut), which is then the last: the versions behind it are to be made anew, against what the repository
    /// holds. After an error the versions before the one that failed may be there or not; [`head`](Self::head) says which.
    ///
    /// # Errors
    /// As [`record`](Self::record).
    pub fn record_many(&self, versions: &[VersionInput]) -> Result<Vec<Outcome>> {
        let _guard = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
        let mut outcomes = Vec::with_capacity(versions.len());
        while let Some(rest) = versions.get(outcomes.len()..).filter(|r| !r.is_empty()) {
            let Failure { at, of_version, error } = match self.batch(rest, Form::AsItIs) {
                Ok(done) => {
                    outcomes.extend(done);
                    break;
                }
                Err(failure) => failure,
            };
            let (Some(before), Some(failed)) = (rest.get(..at), rest.get(at..=at)) else { return Err(error) };
            if !of_version {
                return Err(error);
            }
            // The transaction is lost with all before it: those once more, then the one that failed in its safe form.
            let seq = failed.first().map_or(VersionSeq(0), |v| v.seq);
            tracing::warn!("version {seq}: {error}; recording its files as manifests");
            outcomes.extend(self.batch(before, Form::AsItIs).map_err(|f| f.error)?);
            match self.batch(failed, Form::Safe(&error.message)) {
                Ok(done) => outcomes.extend(done),
                Err(Failure { of_version: true, error, .. }) => {
                    tracing::warn!("version {seq}: {error}; it is left out");
                    outcomes.extend(self.batch(failed, Form::LeftOut(&error.message)).map_err(|f| f.error)?);
                    return Ok(outcomes);
                }
                Err(failure) => return Err(failure.error),
            }
        }
        Ok(outcomes)
    }

    /// Records that a version is there of which nothing can be recorded, with the reason.
    ///
    /// # Errors
    /// As [`record`](Self::record).
    pub fn leave_out(&self, version: &VersionInput, why: &str) -> Result<Outcome> {
        let _guard = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
        let mut outcomes = self.batch(std::slice::from_ref(version), Form::LeftOut(why)).map_err(|f| f.error)?;
        outcomes.pop().ok_or_else(|| Error::new(Class::Failed, "no outcome"))
    }

    /// One transaction. An error says at which version.
    fn batch(&self, versions: &[VersionInput], form: Form<'_>) -> Result<Vec<Outcome>, Failure> {
        let Some(last) = versions.last() else { return Ok(Vec::new()) };
        let (at, of_version) = (Cell::new(0), Cell::new(false));
        let done = guarded("recording", || {
            self.opened.check()?;
            self.opened.wait_for_lock(LOCK_PATIENCE)?;
            mark(&self.dir, last.seq)?;
            step("marked");
            self.opened.reserve(versions)?;
            let outcomes = std::thread::scope(|scope| {
                let behind = Behind::begin(scope, &self.changes)?;
                self.transaction(behind, versions, form, (&at, &of_version))
            })?;
            remove(&self.dir.join(MARKER))?;
            Ok(outcomes)
        });
        done.map_err(|error| Failure { at: at.get(), of_version: of_version.get(), error })
    }

    /// From its beginning to its commit; `at` is told at which version it is, and `of_version` whether what goes wrong now is that one's doing.
    fn transaction(
        &self,
        behind: Behind<'_>,
        versions: &[VersionInput],
        form: Form<'_>,
        (at, of_version): (&Cell<usize>, &Cell<bool>),
    ) -> Result<Vec<Outcome>> {
        let txn = self.pristine.arc_txn_begin().map_err(refused("cannot begin"))?;
        let channel = txn.write().open_or_create_channel(&channel_name()?).map_err(refused("cannot open the channel"))?;
        let mut head = self.head_in(&*txn.read(), &channel)?;
        let mut outcomes = Vec::with_capacity(versions.len());
        for (n, version) in versions.iter().enumerate() {
            at.set(n);
            if let Some(head) = head {
                let covered = head.coverage.ok_or_else(|| foreign(&head.hash))?;
                if version.seq <= covered.seq {
                    outcomes.push(self.find(&txn, &channel, head.place, version.seq).map(Outcome::AlreadyThere)?);
                    continue;
                }
            }
            // A panic is the version's too, and leaves this as it is.
            of_version.set(true);
            let holds = head.map_or(VersionSeq(0), |h| h.holds);
            let (hash, outcome) = match self.one(&txn, &channel, &behind, version, form, holds) {
                Ok(one) => one,
                Err(e) => {
                    of_version.set(e.class == Class::Failed);
                    return Err(e);
                }
            };
            of_version.set(false);
            step("recorded");
            let coverage = Coverage { seq: version.seq, first: version.first, last: version.last, store: self.store };
            let holds = if matches!(outcome, Outcome::LeftOut(..)) { holds } else { version.seq };
            head = Some(Head { place: head.map_or(0, |h| h.place + 1), hash, coverage: Some(coverage), holds, state: None });
            outcomes.push(outcome);
        }
        // A commit panics while anything still refers to the transaction.
        drop(channel);
        if outcomes.iter().any(|o| !matches!(o, Outcome::AlreadyThere(_))) {
            behind.finish()?;
            self.changes.sync().doing(|| "cannot sync the change files".into())?;
            step("change files synced");
            txn.commit().map_err(|e| Error::new(Class::Io, format!("libpijul: cannot commit: {e:?}")))?;
            step("committed");
        }
        Ok(outcomes)
    }

    fn one(
        &self,
        txn: &ArcTxn<MutTxn0>,
        channel: &ChannelRef<MutTxn0>,
        behind: &Behind<'_>,
        version: &VersionInput,
        form: Form<'_>,
        holds: VersionSeq,
    ) -> Result<(Hash, Outcome)> {
        let mut header = header::header(version, self.store);
        let refusal = match form {
            Form::AsItIs => None,
            Form::Safe(why) => Some(Refusal::safe(why)),
            Form::LeftOut(why) => Some(Refusal::left_out(why, holds)),
        };
        if let (Some(refusal), Some(description)) = (&refusal, &mut header.description) {
            description.push_str(&refusal.lines());
        }
        let changes = if matches!(form, Form::LeftOut(_)) { &[] } else { version.changes.as_slice() };
        let before = |path: &str| form::is_manifest(txn, channel, &self.changes, path);
        let plan = plan(changes, (self.owner.uid, self.owner.gid), matches!(form, Form::Safe(_)), &before);
        // A text that cannot be read is no reason not to record the rest: its manifest can be made without it.
        let plan = plan.map_err(|e| if e.class == Class::Damage { Error { class: Class::Failed, ..e } } else { e })?;
        #[cfg(test)]
        self.refuse.like_libpijul(&plan, !matches!(form, Form::AsItIs));
        // What was refused is not to be refused again for that.
        let wear = matches!(form, Form::AsItIs).then_some(self.wear);
        let (hash, empty) = apply(txn, channel, behind, plan, header, wear)?;
        let text = hash.to_base32();
        let outcome = match refusal {
            Some(refusal) if refusal.holds.is_some() => Outcome::LeftOut(text, refusal),
            Some(refusal) => Outcome::Safe(text, refusal),
            None if empty => Outcome::Empty(text),
            None => Outcome::Recorded(text),
        };
        Ok((hash, outcome))
    }

    /// The change of an earlier version, at or before place `n` of the log. Numbers grow along the log, and may have gaps.
    fn find(&self, txn: &ArcTxn<MutTxn0>, channel: &ChannelRef<MutTxn0>, n: u64, seq: VersionSeq) -> Result<String> {
        let missing = || Error::new(Class::NotFound, format!("version {seq} is not in Pijul, and a later one is"));
        let (mut from, mut to) = (0, n);
        while from <= to {
            let place = from + (to - from) / 2;
            let entry = txn.read().get_changes(channel, place).map_err(refused("cannot read the log"))?;
            let (hash, _) = entry.ok_or_else(missing)?;
            let found = self.coverage(self.header(&hash)?.description.as_deref()).ok_or_else(|| foreign(&hash))?;
            match found.seq.cmp(&seq) {
                std::cmp::Ordering::Equal => return Ok(hash.to_base32()),
                std::cmp::Ordering::Less => from = place + 1,
                std::cmp::Ordering::Greater => to = place.checked_sub(1).ok_or_else(missing)?,
            }
        }
        Err(missing())
    }

    /// The log, oldest first.
    ///
    /// # Errors
    /// `Damage` when a change file cannot be read; or what libpijul says.
    pub fn log(&self) -> Result<Vec<LogEntry>> {
        self.log_from(0)
    }

    /// The log from this place on (0 is the oldest change).
    ///
    /// # Errors
    /// As [`log`](Self::log).
    pub fn log_from(&self, place: u64) -> Result<Vec<LogEntry>> {
        let _guard = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
        self.opened.check()?;
        guarded("reading the log", || {
            let txn = self.pristine.txn_begin().map_err(refused("cannot begin"))?;
            let Some(channel) = txn.load_channel(channel_name()?).map_err(refused("cannot read the channel"))? else {
                return Ok(Vec::new());
            };
            let channel = channel.read();
            let mut out = Vec::new();
            for entry in txn.log(&*channel, place).map_err(refused("cannot read the log"))? {
                let (_, (hash, _)) = entry.map_err(refused("cannot read the log"))?;
                let hash: Hash = hash.into();
                let header = self.header(&hash)?;
                let coverage = self.coverage(header.description.as_deref());
                let listed = header.message.lines().skip(2).filter(|l| !l.starts_with("... and ") && coverage.is_some());
                let paths = listed.map(|l| names::unescape(l.split_once(" <- ").map_or(l, |(p, _)| p))).collect();
                let refusal = header.description.as_deref().filter(|_| coverage.is_some()).and_then(Refusal::parse);
                out.push(LogEntry { hash: hash.to_base32(), coverage, message: header.message, paths, refusal });
            }
            Ok(out)
        })
    }
}

fn channel_name() -> Result<SmallString> {
    CHANNEL.parse().map_err(refused("cannot name the channel"))
}

/// Creates the channel everything is recorded on, and makes it the current one.
fn create_channel(pristine: &Pristine) -> Result<()> {
    guarded("creating the channel", || {
        let txn = pristine.arc_txn_begin().map_err(refused("cannot begin"))?;
        let channel = txn.write().open_or_create_channel(&channel_name()?).map_err(refused("cannot create the channel"))?;
        drop(channel);
        txn.write().set_current_channel(CHANNEL).map_err(refused("cannot set the channel"))?;
        txn.commit().map_err(refused("cannot commit"))
    })
}

fn foreign(hash: &Hash) -> Error {
    let what = format!("change {} in the project's Pijul repository was not written by ize for this store", hash.to_base32());
    Error::new(Class::Refused, what)
        .hint("`pijul unrecord` it in the project directory, or make the history again with `ize pijul rebuild`; work in a `pijul clone`")
}

/// Runs libpijul, turning a panic into an error.
pub(super) fn guarded<T>(doing: &str, run: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<&str>().map(|s| (*s).to_owned()).or_else(|| panic.downcast_ref::<String>().cloned());
        Err(Error::new(Class::Failed, format!("libpijul panicked while {doing}: {}", said.unwrap_or_default())))
    })
}

/// Says, durably, that versions up to this one are being recorded.
fn mark(dir: &Path, last: VersionSeq) -> Result<()> {
    let path = dir.join(MARKER);
    let written = fs::File::create(&path).and_then(|mut file| writeln!(file, "{last}").and_then(|()| file.sync_all()));
    written.doing(|| format!("cannot create `{}`", path.display()))?;
    sync_dir(dir)
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io(format!("cannot remove `{}`", path.display()), e)),
        _ => Ok(()),
    }
}

fn sync_dir(dir: &Path) -> Result<()> {
    fs::File::open(dir).and_then(|d| d.sync_all()).doing(|| format!("cannot sync `{}`", dir.display()))
}

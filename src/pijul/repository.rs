//! The repository of one project: opens it, says where it stands, records versions exactly once, in order.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use libpijul::changestore::ChangeStore;
use libpijul::pristine::sanakirja::{MutTxn0, Pristine, SanakirjaError};
use libpijul::small_string::SmallString;
use libpijul::{ArcTxn, Base32, ChannelRef, GraphTxnT, Hash, MutTxnT, TxnT, TxnTExt};

use crate::error::{Class, Error, IoContext, Result};
use crate::ids::{Lsn, StoreId, VersionSeq};
use crate::pijul::apply::{apply, refused};
use crate::pijul::header::{self, Coverage};
use crate::pijul::plan::plan;
use crate::pijul::store::{ChangeFiles, TMP_PREFIX};
use crate::pijul::{TEXT_MAX, TreeChange, VersionInput, names};

/// The channel everything is recorded on.
const CHANNEL: &str = "main";
/// Address space of the pristine. Larger than it ever gets: an idle open pristine that must grow beside another writing process destroys
/// the database. The file is sparse.
const PRISTINE_SIZE: u64 = 1 << 30;
/// Bytes of disk space free inside the pristine at the least when a transaction begins.
const RESERVE: u64 = 4 << 20;
/// There while a transaction is open; found at opening, it says that a crash may have left files behind.
const MARKER: &str = "ize-recording";

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
}

impl Outcome {
    /// The change.
    #[must_use]
    pub fn hash(&self) -> &str {
        match self {
            Self::Recorded(h) | Self::Empty(h) | Self::AlreadyThere(h) => h,
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
}

/// The Pijul repository of a project (`PROJECT/.pijul`).
pub struct Repository {
    dir: PathBuf,
    store: StoreId,
    owner: Owner,
    pristine: Pristine,
    changes: ChangeFiles,
    #[cfg(test)]
    pub(super) refuse_text: bool,
}

/// Position in the log, change, and what it covers (`None`: not ize's).
type Head = Option<(u64, Hash, Option<Coverage>)>;

impl Repository {
    /// Opens `project_dir/.pijul`, creating it when it is not there. Sweeps what a crash left behind.
    ///
    /// # Errors
    /// `Busy` when another process holds it, `Io`, or what libpijul says.
    pub fn open_or_create(project_dir: &Path, store: StoreId, owner: Owner) -> Result<Self> {
        let dir = project_dir.join(libpijul::DOT_DIR);
        let (pristine_dir, changes_dir) = (dir.join("pristine"), dir.join("changes"));
        for d in [&dir, &pristine_dir, &changes_dir] {
            fs::create_dir_all(d).doing(|| format!("cannot create `{}`", d.display()))?;
        }
        let guard = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
        let db = pristine_dir.join("db");
        if !db.exists() {
            // Born under another name: libpijul takes a file that is there, and cut short by a crash, for a finished one.
            let unborn = pristine_dir.join("db.new");
            remove(&unborn)?;
            create_channel(&open_pristine(&unborn)?)?;
            fs::File::open(&unborn).and_then(|f| f.sync_all()).doing(|| format!("cannot sync `{}`", unborn.display()))?;
            fs::rename(&unborn, &db).doing(|| format!("cannot rename `{}`", unborn.display()))?;
            for d in [project_dir, &dir, &pristine_dir] {
                sync_dir(d)?;
            }
        }
        let pristine = open_pristine(&db)?;
        let changes = ChangeFiles::new(changes_dir);
        let repository = Self {
            dir,
            store,
            owner,
            pristine,
            changes,
            #[cfg(test)]
            refuse_text: false,
        };
        if repository.dir.join(MARKER).exists() {
            repository.sweep()?;
        }
        drop(guard);
        Ok(repository)
    }

    /// Removes half-written change files, and change files of ours that the pristine does not know.
    fn sweep(&self) -> Result<()> {
        // A write transaction, so that no client is in the middle of a pull.
        guarded("sweeping", || self.sweep_in(&self.pristine.arc_txn_begin().map_err(refused("cannot begin"))?))?;
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
                        remove(&file.path())?;
                    }
                }
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
    /// `Refused`, naming the change, when the head is not ize's; or what libpijul says.
    pub fn head(&self) -> Result<Option<Recorded>> {
        let _guard = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
        guarded("reading the log", || {
            let txn = self.pristine.txn_begin().map_err(refused("cannot begin"))?;
            let channel = txn.load_channel(channel_name()?).map_err(refused("cannot read the channel"))?;
            let Some(channel) = channel else { return Ok(None) };
            let head = self.head_in(&txn, &channel)?;
            let Some((n, hash, coverage)) = head else { return Ok(None) };
            let coverage = coverage.ok_or_else(|| foreign(&hash))?;
            Ok(Some(Recorded { seq: coverage.seq, last_lsn: coverage.last, hash: hash.to_base32(), changes: n + 1 }))
        })
    }

    fn head_in<T: TxnTExt>(&self, txn: &T, channel: &ChannelRef<T>) -> Result<Head>
    where
        T::GraphError: std::fmt::Debug,
    {
        let channel = channel.read();
        let mut log = txn.reverse_log(&*channel, None).map_err(refused("cannot read the log"))?;
        let Some(entry) = log.next() else { return Ok(None) };
        let (n, (hash, _)) = entry.map_err(refused("cannot read the log"))?;
        let hash: Hash = hash.into();
        let header = self.header(&hash)?;
        Ok(Some((n, hash, self.coverage(header.description.as_deref()))))
    }

    fn header(&self, hash: &Hash) -> Result<libpijul::change::ChangeHeader> {
        self.changes.get_header(hash).map_err(|e| {
            let what = format!("change {} is in the log, but its file cannot be read: {e}", hash.to_base32());
            Error::new(Class::Damage, what).hint("`ize pijul rebuild` makes the Pijul history again from the versions")
        })
    }

    /// Records a version: the first one that is kept above [`head`](Self::head), or any when there is none. Numbers may have gaps. One that
    /// is there already is left alone.
    ///
    /// # Errors
    /// `Refused` when the head is not ize's; `Io`, `Full`; `Failed` when libpijul refuses even the safe form, in
    /// which every file is a manifest. After an error nothing of the version is there.
    pub fn record(&self, version: &VersionInput) -> Result<Outcome> {
        let mut outcomes = self.record_many(std::slice::from_ref(version))?;
        outcomes.pop().ok_or_else(|| Error::new(Class::Failed, "no outcome"))
    }

    /// Records versions in one transaction, which is several times faster than one by one. After an error the versions before the one
    /// that failed may be there or not; [`head`](Self::head) says which.
    ///
    /// # Errors
    /// As [`record`](Self::record).
    pub fn record_many(&self, versions: &[VersionInput]) -> Result<Vec<Outcome>> {
        let _guard = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
        let mut outcomes = Vec::with_capacity(versions.len());
        while let Some(rest) = versions.get(outcomes.len()..).filter(|r| !r.is_empty()) {
            let (at, error) = match self.batch(rest, false) {
                Ok(done) => {
                    outcomes.extend(done);
                    break;
                }
                Err(failure) => failure,
            };
            let (Some(before), Some(failed)) = (rest.get(..at), rest.get(at..=at)) else { return Err(error) };
            if error.class != Class::Failed {
                return Err(error);
            }
            // The transaction is lost with all before it: those once more, then the one that failed in its safe form.
            tracing::warn!(
                "version {}: {error}; recording its files as manifests",
                versions.get(outcomes.len() + at).map_or(0, |v| v.seq.0)
            );
            outcomes.extend(self.batch(before, false).map_err(|(_, e)| e)?);
            outcomes.extend(self.batch(failed, true).map_err(|(_, e)| e)?);
        }
        Ok(outcomes)
    }

    /// One transaction. An error says at which version.
    fn batch(&self, versions: &[VersionInput], safe: bool) -> Result<Vec<Outcome>, (usize, Error)> {
        if versions.is_empty() {
            return Ok(Vec::new());
        }
        let marker = self.dir.join(MARKER);
        let mut at = 0;
        let done = guarded("recording", || {
            fs::write(&marker, b"").doing(|| format!("cannot create `{}`", marker.display()))?;
            reserve(&self.dir.join("pristine").join("db"), versions)?;
            let txn = self.pristine.arc_txn_begin().map_err(refused("cannot begin"))?;
            let channel = txn.write().open_or_create_channel(&channel_name()?).map_err(refused("cannot open the channel"))?;
            let mut outcomes = Vec::with_capacity(versions.len());
            for (n, version) in versions.iter().enumerate() {
                at = n;
                outcomes.push(self.one(&txn, &channel, version, safe)?);
            }
            // A commit panics while anything still refers to the transaction.
            drop(channel);
            if outcomes.iter().any(|o| !matches!(o, Outcome::AlreadyThere(_))) {
                self.changes.sync().doing(|| "cannot sync the change files".into())?;
                txn.commit().map_err(|e| Error::new(Class::Io, format!("libpijul: cannot commit: {e:?}")))?;
            }
            remove(&marker)?;
            Ok(outcomes)
        });
        done.map_err(|e| (at, e))
    }

    fn one(&self, txn: &ArcTxn<MutTxn0>, channel: &ChannelRef<MutTxn0>, version: &VersionInput, safe: bool) -> Result<Outcome> {
        if let Some((n, hash, coverage)) = self.head_in(&*txn.read(), channel)? {
            let head = coverage.ok_or_else(|| foreign(&hash))?;
            if version.seq <= head.seq {
                return self.find(txn, channel, n, version.seq).map(Outcome::AlreadyThere);
            }
        }
        let plan = plan(&version.changes, (self.owner.uid, self.owner.gid), safe)?;
        #[cfg(test)]
        if self.refuse_text && !safe {
            refuse_like_libpijul(&plan);
        }
        let (hash, empty) = apply(txn, channel, &self.changes, plan, header::header(version, self.store))?;
        let hash = hash.to_base32();
        Ok(if empty { Outcome::Empty(hash) } else { Outcome::Recorded(hash) })
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
        let _guard = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
        guarded("reading the log", || {
            let txn = self.pristine.txn_begin().map_err(refused("cannot begin"))?;
            let Some(channel) = txn.load_channel(channel_name()?).map_err(refused("cannot read the channel"))? else {
                return Ok(Vec::new());
            };
            let channel = channel.read();
            let mut out = Vec::new();
            for entry in txn.log(&*channel, 0).map_err(refused("cannot read the log"))? {
                let (_, (hash, _)) = entry.map_err(refused("cannot read the log"))?;
                let hash: Hash = hash.into();
                let header = self.header(&hash)?;
                let coverage = self.coverage(header.description.as_deref());
                let listed = header.message.lines().skip(2).filter(|l| !l.starts_with("... and ") && coverage.is_some());
                let paths = listed.map(|l| names::unescape(l.split_once(" <- ").map_or(l, |(p, _)| p))).collect();
                out.push(LogEntry { hash: hash.to_base32(), coverage, message: header.message, paths });
            }
            Ok(out)
        })
    }
}

fn channel_name() -> Result<SmallString> {
    CHANNEL.parse().map_err(refused("cannot name the channel"))
}

/// Takes disk space for what these versions may add to the pristine, before they do: it is written through a mapping of a sparse file, and
/// there a full disk is a SIGBUS, not an error.
fn reserve(db: &Path, versions: &[VersionInput]) -> Result<()> {
    // Of text, all of which may be lines of their own; of paths, each with its rows in a dozen trees.
    let text = |c: &TreeChange| c.new.as_ref().map_or(0, |i| i.node.size).min(TEXT_MAX);
    let changes = versions.iter().flat_map(|v| &v.changes);
    let want = changes.fold(RESERVE, |sum, c| sum.saturating_add(64 << 10).saturating_add(text(c).saturating_mul(2)));
    let doing = || format!("cannot reserve space for `{}`", db.display());
    let file = fs::OpenOptions::new().read(true).write(true).open(db).doing(doing)?;
    // The first free byte stands at offset 8 of each of the two root pages (little endian); one of them is current.
    let mut used = 0;
    for page in [0, 4096] {
        let mut field = [0; 8];
        file.read_exact_at(&mut field, page + 8).doing(doing)?;
        used = used.max(u64::from_le_bytes(field));
    }
    let (size, want) = (file.metadata().doing(doing)?.len(), used.saturating_add(want));
    match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::KEEP_SIZE, 0, want.min(size)) {
        // A file system that cannot reserve.
        Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
        Err(e) => Err(Error::io(doing(), e.into())),
    }
}

fn open_pristine(path: &Path) -> Result<Pristine> {
    guarded("opening the pristine", || {
        Pristine::new_with_size(path, PRISTINE_SIZE).map_err(|e| match e {
            SanakirjaError::PristineLocked => {
                Error::new(Class::Busy, format!("`{}` is held by another process", path.display())).hint("wait for it to end")
            }
            e => refused("cannot open the pristine")(e),
        })
    })
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

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io(format!("cannot remove `{}`", path.display()), e)),
        _ => Ok(()),
    }
}

fn sync_dir(dir: &Path) -> Result<()> {
    fs::File::open(dir).and_then(|d| d.sync_all()).doing(|| format!("cannot sync `{}`", dir.display()))
}

/// Panics on a text, as libpijul would on one it cannot diff.
#[cfg(test)]
fn refuse_like_libpijul(plan: &super::plan::Plan) {
    use super::view::Put;
    let text = |p: &Put| matches!(p, Put::File { bytes, .. } if bytes.starts_with(b"refuse me"));
    assert!(!plan.puts.values().any(text), "cannot diff");
}

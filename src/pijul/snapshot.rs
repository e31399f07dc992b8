//! A repository as it stands, whoever has it open: read from a copy of its pristine.
//!
//! A second process must not open the pristine itself: that could change its length under a writer, and libpijul's locks are waited for
//! without end. So the file is copied, its data and not its size, while both of its lock files are held shared: for that long writers wait,
//! and nobody else. Change files never change, and are read where they are.
//!
//! Memory: what libpijul needs for an output (each file's lines, one file at a time, and the names of one level), and 200 bytes for each
//! path of [`HeadTree`].

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use libpijul::changestore::ChangeStore;
use libpijul::pristine::sanakirja::{MutTxn0, Pristine};
use libpijul::{ArcTxn, Base32, ChannelRef, Hash, MutTxnT, TxnT, TxnTExt};
use rustix::fs::{FlockOperation, SeekFrom};
use rustix::io::Errno;

use crate::error::{Class, Error, IoContext, Result};
use crate::ids::VersionSeq;
use crate::pijul::apply::refused;
use crate::pijul::head_tree::{self, HeadTree};
use crate::pijul::header::{self, Coverage};
use crate::pijul::pristine;
use crate::pijul::refusal::Refusal;
use crate::pijul::repository::guarded;
use crate::pijul::spooled::Spooled;
use crate::pijul::store::ChangeFiles;

/// How long a writer is waited for, unless said otherwise.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes copied at a time.
const WINDOW: usize = 1 << 20;

/// See the module.
pub struct Snapshot {
    pub(super) pristine: Pristine,
    pub(super) changes: ChangeFiles,
    dir: PathBuf,
    // Last: the copy goes when nothing has it mapped any more.
    _copy: tempfile::TempDir,
}

/// One change of a log, as far as its file can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logged {
    /// In base32.
    pub hash: String,
    /// Where its file is.
    pub file: PathBuf,
    /// What it covers; `None` when ize did not write it, or its file cannot be read.
    pub coverage: Option<Coverage>,
    /// The version whose state the repository holds after it: that of the change itself, unless it was left out (0: nothing).
    pub holds: Option<VersionSeq>,
    /// What is wrong with its file.
    pub wrong: Option<String>,
}

impl Snapshot {
    /// Takes one of the repository whose `.pijul` is in `dir`. Waits for a writer, but no longer than `patience`.
    ///
    /// # Errors
    /// `NotFound` when there is no repository; `Busy` when a writer does not end; `Full`, `Io`; what libpijul says.
    pub fn take(dir: &Path, patience: Duration) -> Result<Self> {
        let dir = dir.join(libpijul::DOT_DIR);
        let db = dir.join("pristine").join("db");
        let doing = || format!("cannot read {}", db.display());
        let from = File::open(&db).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
                Error::new(Class::NotFound, format!("there is no Pijul repository in {}", dir.display())).source(e)
            }
            _ => Error::io(doing(), e),
        })?;
        let copy = tempfile::Builder::new().prefix("ize-pijul-").tempdir();
        let copy = copy.doing(|| format!("cannot create a directory in {}", std::env::temp_dir().display()))?;
        let to = copy.path().join("db");
        {
            let _held = hold(&db, patience)?;
            let made = File::create_new(&to).and_then(|to| copy_data(&from, &to));
            made.doing(|| format!("cannot copy {} to {}", db.display(), copy.path().display()))?;
        }
        let (pristine, _) = pristine::open(&to, pristine::SIZE.max(from.metadata().doing(doing)?.len()))?;
        Ok(Self { pristine, changes: ChangeFiles::new(dir.join("changes")), dir, _copy: copy })
    }

    /// The `.pijul` that it is of.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The channel that is current; `main` where none is.
    ///
    /// # Errors
    /// What libpijul says.
    pub fn channel(&self) -> Result<String> {
        guarded("reading the channel", || {
            let txn = self.pristine.txn_begin().map_err(refused("cannot begin"))?;
            Ok(txn.current_channel().map_or_else(|_| "main".to_owned(), ToString::to_string))
        })
    }

    /// The log of a channel, oldest first; empty when there is no such channel. With `read` every change file is read and its hash
    /// compared with its name, else only its header is. `progress` is told how many are done.
    ///
    /// # Errors
    /// What libpijul says. A change file that cannot be read is no error.
    pub fn log(&self, channel: &str, read: bool, progress: &mut dyn FnMut(u64)) -> Result<Vec<Logged>> {
        guarded("reading the log", || {
            let txn = self.pristine.txn_begin().map_err(refused("cannot begin"))?;
            let name = channel.parse::<libpijul::small_string::SmallString>().map_err(refused("cannot name the channel"))?;
            let Some(channel) = txn.load_channel(name).map_err(refused("cannot read the channel"))? else { return Ok(Vec::new()) };
            let channel = channel.read();
            let mut out = Vec::new();
            for entry in txn.log(&*channel, 0).map_err(refused("cannot read the log"))? {
                let (_, (hash, _)) = entry.map_err(refused("cannot read the log"))?;
                out.push(self.logged(&hash.into(), read));
                progress(out.len() as u64);
            }
            Ok(out)
        })
    }

    fn logged(&self, hash: &Hash, read: bool) -> Logged {
        let file = self.changes.path(hash);
        let header = || -> Result<(Option<Coverage>, Option<Refusal>)> {
            if read {
                let bytes = fs::read(&file).map_err(|e| Error::io("cannot read it", e))?;
                // It slices as the file's own head says, and panics where that is wrong.
                let sound = guarded("reading a change file", || {
                    libpijul::change::Change::check_from_buffer(&bytes, hash).map_err(refused("its bytes"))
                });
                sound.map_err(|e| Error::new(Class::Damage, format!("its bytes are not those that its name says: {}", e.message)))?;
            }
            let header = guarded("reading a change file", || self.changes.get_header(hash).map_err(refused("its head")))?;
            let description = header.description.as_deref();
            Ok((description.and_then(header::parse), description.and_then(Refusal::parse)))
        };
        let ((coverage, refusal), wrong) = match header() {
            Ok(said) => (said, None),
            Err(_) if !file.exists() => ((None, None), Some("it is missing".to_owned())),
            Err(e) => ((None, None), Some(e.message)),
        };
        let holds = coverage.map(|coverage| refusal.and_then(|refusal| refusal.holds).unwrap_or(coverage.seq));
        Logged { hash: hash.to_base32(), file, coverage, holds, wrong }
    }

    /// The tree at the head of a channel. With `bytes` the files can be read from it, with `times` it says when each path last changed.
    ///
    /// # Errors
    /// `NotFound` when there is no such channel; `Io`, `Full` from the temporary directory; what libpijul says.
    pub fn tree(&self, channel: &str, bytes: bool, times: bool) -> Result<HeadTree> {
        guarded("writing the tree out", || {
            let txn = self.pristine.arc_txn_begin().map_err(refused("cannot begin"))?;
            // The tree table is the working copy's, which may be in any state: not looked at.
            txn.write().begin_scratch_tree().map_err(refused("cannot begin"))?;
            let loaded = self.load(&txn, channel)?;
            let changes = Spooled::new(self.changes.clone()).doing(|| "cannot create a temporary file".to_owned())?;
            // Dropped, never committed.
            head_tree::read(&txn, &loaded, &changes, bytes, times)
        })
    }

    pub(super) fn load(&self, txn: &ArcTxn<MutTxn0>, channel: &str) -> Result<ChannelRef<MutTxn0>> {
        let name = channel.parse::<libpijul::small_string::SmallString>().map_err(refused("cannot name the channel"))?;
        let loaded = txn.read().load_channel(name).map_err(refused("cannot read the channel"))?;
        loaded.ok_or_else(|| Error::new(Class::NotFound, format!("there is no channel {channel} in {}", self.dir.display())))
    }
}

/// Both lock files of a pristine, shared: then no write is under way, and none begins.
fn hold(db: &Path, patience: Duration) -> Result<Vec<File>> {
    let deadline = Instant::now() + patience;
    let mut held = Vec::new();
    for lock in ["lock0", "lock1"] {
        let path = db.with_extension(lock);
        let file = match File::open(&path) {
            Ok(file) => file,
            // Nobody has ever opened it.
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(Error::io(format!("cannot open {}", path.display()), e)),
        };
        loop {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
                Ok(()) => break,
                Err(Errno::WOULDBLOCK | Errno::INTR) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
                Err(Errno::WOULDBLOCK | Errno::INTR) => {
                    let what = format!("another process has been writing to {} for {} s", db.display(), patience.as_secs());
                    return Err(Error::new(Class::Busy, what).hint("wait for it to end (a `pijul` command that hangs holds its lock)"));
                }
                Err(e) => return Err(Error::io(format!("cannot lock {}", path.display()), e.into())),
            }
        }
        held.push(file);
    }
    Ok(held)
}

/// Copies what is no hole.
fn copy_data(from: &File, to: &File) -> io::Result<()> {
    let size = from.metadata()?.len();
    to.set_len(size)?;
    let mut buffer = vec![0; WINDOW];
    let mut at = 0;
    while at < size {
        let start = match rustix::fs::seek(from, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            // A file system that knows of no holes.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => at,
            Err(e) => return Err(e.into()),
        };
        let end = rustix::fs::seek(from, SeekFrom::Hole(start)).unwrap_or(size).clamp(start, size);
        at = start;
        while at < end {
            let want = usize::try_from(end - at).unwrap_or(WINDOW).min(WINDOW);
            let part = buffer.get_mut(..want).unwrap_or_default();
            from.read_exact_at(part, at)?;
            to.write_all_at(part, at)?;
            at += want as u64;
        }
    }
    Ok(())
}

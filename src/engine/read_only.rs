//! A project opened for looking only: the newest state that can be read, without recovery, without a cut, without writing a byte into the
//! store. So it works on a damaged store, on a full disk and on one that is mounted read-only.
//!
//! While it is open nobody may write: a shared flock on the lock file (which writes nothing) keeps a read-write mount out, whose pruning
//! would take away what is being read.

use std::path::PathBuf;
use std::sync::Arc;

use super::core::apply_log;
use crate::blobs::{BlobState, Blobs, OpenMode};
use crate::error::{Class, Error, Result};
use crate::fs::Fs;
use crate::fs::journal::{Caller, Journal, JournalError, Recorded, Space};
use crate::ids::{BlobId, Lsn};
use crate::op::Operation;
use crate::project::Project;
use crate::project::lock::{self, ReadLock};
use crate::storage::{Disk, Storage};
use crate::tree::{BlobRead, Tree};
use crate::versions::checkpoint::{self, Checkpoint};
use crate::wal::{self, Bounds};

/// An open project of which nothing can be changed.
#[derive(Debug)]
pub struct ReadOnly {
    /// The file system over its newest sound state.
    pub fs: Arc<Fs>,
    /// The last record that is shown.
    pub end: Lsn,
    /// Operations above the checkpoint that were applied.
    pub operations: u64,
    /// What is wrong with the log, in words; what lies behind it is not shown.
    pub findings: Vec<String>,
    /// What is worth knowing and not wrong.
    pub notes: Vec<String>,
    _lock: Option<ReadLock>,
}

impl ReadOnly {
    /// Opens the newest state that is sound: up to the end of the log, or to the first record that is damaged or whose bytes are missing.
    ///
    /// # Errors
    /// [`Class::Busy`] (with the holder's pid) while somebody has the project open for writing; [`Class::Refused`] for a format that is not
    /// known; [`Class::Damage`] when not even the checkpoint's state can be read; I/O errors, which are never taken for damage.
    pub fn open(project: &Project) -> Result<Self> {
        project.identity.check(crate::project::identity::Access::Read)?;
        let layout = &project.layout;
        let read_lock = ReadLock::acquire(layout)?;
        let store = project.identity.id;
        let storage: Arc<dyn Storage> = Disk::shared();
        let checkpoint = checkpoint::read(&*storage, &layout.checkpoint(), store)?.unwrap_or_else(|| Checkpoint::first(store));
        let (blobs, report) = Blobs::open(Arc::clone(&storage), layout.blobs(), store, OpenMode::ReadOnly)?;
        let blobs = Arc::new(blobs);
        let scan = wal::scan(&*storage, &layout.wal(), store, Bounds { checkpoint: checkpoint.lsn, floor: checkpoint.floor })?;
        let mut findings: Vec<String> = scan.findings.iter().map(|f| f.to_error().to_string()).collect();
        findings.extend(report.findings.iter().map(ToString::to_string));

        let reader: Arc<dyn BlobRead> = Arc::clone(&blobs) as _;
        let mut tree = Tree::open(reader, checkpoint.root, checkpoint.next_ino, checkpoint.lsn, checkpoint.clock)?;
        // After an unclean end the last records may have outlived the bytes that they name.
        let unproven = !lock::was_closed(layout);
        let (mut operations, mut lost, mut unreadable) = (0, None, None);
        let applied = apply_log(&*storage, layout, store, &mut tree, Lsn(u64::MAX), &mut |lsn, _, entry| {
            if unproven && let Some((id, _)) = entry.op.blob() {
                match blobs.verify(&id) {
                    BlobState::Sound => {}
                    BlobState::Missing => lost = Some(format!("the bytes of record {lsn} are missing")),
                    BlobState::Damaged(finding) => lost = Some(format!("the bytes of record {lsn} are damaged: {finding}")),
                    BlobState::Unreadable(e) => unreadable = Some(Error::new(Class::Io, format!("the bytes of record {lsn}: {e}"))),
                }
            }
            let goes_on = lost.is_none() && unreadable.is_none();
            operations += u64::from(goes_on);
            goes_on
        });
        match applied {
            Ok(()) => {}
            Err(e) if e.class == Class::Damage => {
                if findings.is_empty() {
                    findings.push(e.message);
                }
            }
            Err(e) => return Err(e),
        }
        if let Some(e) = unreadable {
            return Err(e);
        }
        findings.extend(lost);
        let end = tree.applied();
        let journal = Arc::new(Nothing { dir: layout.dir().to_owned() });
        let name = std::os::unix::ffi::OsStrExt::as_bytes(layout.dir().as_os_str()).to_vec();
        let mut notes = Vec::new();
        if super::purge::is_unfinished(&*storage, layout, store)? {
            notes.push("a purge was interrupted: what it takes away may be seen until the project is opened for writing".to_owned());
        }
        Ok(Self { fs: Arc::new(Fs::new(tree, journal).with_project(name)), end, operations, findings, notes, _lock: read_lock })
    }
}

/// A log that takes nothing. The kernel refuses changes before they come here.
struct Nothing {
    /// Where statfs looks.
    dir: PathBuf,
}

fn refused() -> JournalError {
    JournalError::Io("the project is mounted read-only".to_owned())
}

impl Journal for Nothing {
    fn record(&self, _: &Caller, _: Operation, _: Option<&[u8]>, _: Option<Lsn>) -> Result<Recorded, JournalError> {
        Err(refused())
    }

    fn put_blob(&self, _: &[u8]) -> Result<BlobId, JournalError> {
        Err(refused())
    }

    fn sync(&self) -> Result<(), JournalError> {
        Ok(())
    }

    fn space(&self) -> Space {
        super::journal::space_of(&self.dir)
    }
}

//! What can go wrong at a call of the simulated disk, and how a test says so.

use std::io;
use std::path::PathBuf;

use super::seeded::Seeded;

/// What a call asks of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum CallKind {
    Create,
    Open,
    OpenRead,
    Rename,
    Remove,
    List,
    CreateDir,
    SyncDir,
    Len,
    Read,
    Write,
    SetLen,
    Sync,
}

impl CallKind {
    /// True for the calls that change something: create, rename, remove, make a directory, write, cut, sync.
    #[must_use]
    pub fn changes(self) -> bool {
        match self {
            Self::Create | Self::Rename | Self::Remove | Self::CreateDir | Self::SyncDir | Self::Write | Self::SetLen | Self::Sync => true,
            Self::Open | Self::OpenRead | Self::List | Self::Len | Self::Read => false,
        }
    }
}

/// A call as a script sees it, before it has any effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// 1 for the first call of this disk, reads included.
    pub number: u64,
    /// What it asks.
    pub kind: CallKind,
    /// The file or directory (for a rename the old name, for a file without a name the one it had when it was opened).
    pub path: PathBuf,
}

/// How much of what was asked happens all the same at a call that fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing. A sync that fails so has lost everything it was to sync.
    None,
    /// Some, chosen by the seed: some granules of a write, some writes or names of a sync; what cannot be divided happens or not.
    Some(u64),
    /// All of it.
    All,
}

impl Effect {
    /// Whether a call that cannot be divided happens.
    pub(super) fn happens(self) -> bool {
        match self {
            Self::None => false,
            Self::Some(seed) => Seeded::new(seed).below(2) == 1,
            Self::All => true,
        }
    }
}

/// What goes wrong at a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The process, or the machine, dies in the call: it and every later call fail with [`SimCrash`].
    Crash(Effect),
    /// The call fails.
    Error {
        /// With this error number.
        errno: i32,
        /// What happens all the same.
        effect: Effect,
    },
    /// A read gives fewer bytes than asked for, as it may; no other call is disturbed.
    Short,
}

impl Fault {
    /// EIO, without any effect.
    pub const EIO: Fault = Fault::Error { errno: libc::EIO, effect: Effect::None };
    /// ENOSPC, without any effect.
    pub const ENOSPC: Fault = Fault::Error { errno: libc::ENOSPC, effect: Effect::None };
}

/// Decides at each call what goes wrong. It must not call the disk.
pub type Script = Box<dyn FnMut(&Call) -> Option<Fault> + Send>;

/// The error of every call at and after the simulated crash.
#[derive(Debug, thiserror::Error)]
#[error("simulated crash")]
pub struct SimCrash;

/// True for the error of a call at or after the simulated crash.
#[must_use]
pub fn is_crash(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|e| e.is::<SimCrash>())
}

/// Faults that count calls of one kind down; 1 is the next.
#[derive(Clone, Debug, Default)]
pub(super) struct Countdowns {
    pub(super) sync: Option<u64>,
    pub(super) sync_dir: Option<u64>,
    pub(super) write: Option<(u64, i32)>,
    pub(super) read: Option<u64>,
}

/// Counts `left` down; true when it reaches its call.
fn due(left: &mut Option<u64>) -> bool {
    match left {
        Some(1) => {
            *left = None;
            true
        }
        Some(n) => {
            *n = n.saturating_sub(1);
            false
        }
        None => false,
    }
}

impl Countdowns {
    /// The fault whose turn it is at a call of this kind.
    pub(super) fn at(&mut self, kind: CallKind) -> Option<Fault> {
        match kind {
            CallKind::Sync => due(&mut self.sync).then_some(Fault::EIO),
            CallKind::SyncDir => due(&mut self.sync_dir).then_some(Fault::EIO),
            CallKind::Read => due(&mut self.read).then_some(Fault::EIO),
            CallKind::Write => {
                let (n, errno) = self.write?;
                let mut left = Some(n);
                let fault = due(&mut left).then_some(Fault::Error { errno, effect: Effect::Some(HALF) });
                self.write = left.map(|n| (n, errno));
                fault
            }
            _ => None,
        }
    }
}

/// The seed that stands for the first half of a write.
pub(super) const HALF: u64 = u64::MAX;

//! What a check of a store finds: where, what is wrong, what it concerns, and what can be done.

use std::path::{Path, PathBuf};

use crate::blobs::{self, Fault};
use crate::error::{Class, Error};
use crate::ids::{BlobId, Lsn};
use crate::versions::check::{Affected, StateFinding};
use crate::wal::scan::{self, Verdict};

/// What part of a store is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// `wal/`.
    Log,
    /// A pack.
    Pack,
    /// The index file of a pack, or of the version log.
    Index,
    /// `meta/checkpoint`.
    Checkpoint,
    /// `meta/versions`.
    Versions,
    /// States, as packs hold them.
    State,
    /// A version, or the checkpoint, beside what the log gives.
    Replay,
    /// `meta/project.toml`.
    Identity,
    /// `meta/purged`, `meta/purge`.
    Purged,
    /// `meta/import.toml`.
    Import,
    /// `.pijul`, and `meta/pijul-index`.
    Pijul,
    /// `meta/RESCUE.md`, `meta/rescue.py`.
    Rescue,
}

impl Part {
    /// Its name in JSON and in lines.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Pack => "pack",
            Self::Index => "index",
            Self::Checkpoint => "checkpoint",
            Self::Versions => "versions",
            Self::State => "state",
            Self::Replay => "replay",
            Self::Identity => "identity",
            Self::Purged => "purged",
            Self::Import => "import",
            Self::Pijul => "pijul",
            Self::Rescue => "rescue",
        }
    }
}

/// What a finding of the packs means, and what it says without the place.
#[must_use]
pub fn pack_verdict(f: &blobs::Finding) -> (Verdict, String) {
    let verdict = match f.fault {
        Fault::Unreadable(_) => Verdict::IoError,
        _ if f.is_torn_tail() => Verdict::TornTail,
        _ => Verdict::Damage,
    };
    let said = f.to_string();
    let place = format!("pack `{}`, offset {}", f.file.display(), f.offset);
    (verdict, said.strip_prefix(&place).unwrap_or(&said).trim_start_matches([',', ':', ' ']).to_owned())
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad. A torn tail is whatever the next mount mends by itself.
    pub verdict: Verdict,
    /// Of what.
    pub part: Part,
    /// The file; of a state, the directory of the packs.
    pub file: PathBuf,
    /// Where in it, where that is known.
    pub offset: Option<u64>,
    /// First LSN concerned, in the log.
    pub lsn: Option<Lsn>,
    /// Last LSN concerned, where that is known.
    pub through: Option<Lsn>,
    /// The blob concerned.
    pub blob: Option<BlobId>,
    /// In words.
    pub what: String,
    /// What it concerns.
    pub affected: Affected,
    /// What can be done.
    pub mend: String,
}

impl Finding {
    pub(super) fn new(verdict: Verdict, part: Part, file: &Path, what: impl Into<String>) -> Self {
        Self {
            verdict,
            part,
            file: file.to_owned(),
            offset: None,
            lsn: None,
            through: None,
            blob: None,
            what: what.into(),
            affected: Affected::default(),
            mend: String::new(),
        }
    }

    /// A file that cannot be used.
    pub(super) fn of_error(part: Part, file: &Path, e: &Error) -> Self {
        let verdict = if e.class == Class::Io { Verdict::IoError } else { Verdict::Damage };
        // A newer ize's file needs that one, no copy.
        let mend = e.hint.clone().filter(|_| e.class == Class::Refused).unwrap_or_default();
        Self { mend, ..Self::new(verdict, part, file, e.message.clone()) }
    }

    pub(super) fn of_log(f: &scan::Finding) -> Self {
        Self {
            offset: Some(f.offset),
            lsn: Some(f.lsn),
            through: Some(f.through).filter(|t| *t != Lsn(u64::MAX)),
            ..Self::new(f.verdict, Part::Log, &f.file, f.what.clone())
        }
    }

    pub(super) fn of_pack(f: &blobs::Finding) -> Self {
        let (verdict, what) = pack_verdict(f);
        Self { offset: Some(f.offset), blob: f.id, ..Self::new(verdict, Part::Pack, &f.file, what) }
    }

    pub(super) fn of_state(f: StateFinding, packs: &Path) -> Self {
        let verdict = if f.unreadable { Verdict::IoError } else { Verdict::Damage };
        Self { blob: f.blob, affected: f.affected, ..Self::new(verdict, Part::State, packs, f.what) }
    }
}

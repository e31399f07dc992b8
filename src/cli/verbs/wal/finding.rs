//! What is wrong, one line or object each; the worst becomes the exit code.

use std::path::PathBuf;

use serde_json::{Map, json};

use crate::cli::output::{self, Role};
use crate::cli::session::Session;
use crate::error::{Class, Error, Result};
use crate::ids::{Lsn, SegmentId};
use crate::wal::scan::{self, Verdict};

/// One thing that is wrong, in the log or in a pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The kind of trouble.
    pub verdict: Verdict,
    /// The file.
    pub file: PathBuf,
    /// Its number, for a segment.
    pub segment: Option<SegmentId>,
    /// Where in it.
    pub offset: u64,
    /// First LSN concerned, in the log.
    pub lsn: Option<Lsn>,
    /// Last LSN concerned, where that is known.
    pub through: Option<Lsn>,
    /// In words.
    pub what: String,
    /// True when the file is not there at all.
    pub missing: bool,
}

impl From<&scan::Finding> for Finding {
    fn from(f: &scan::Finding) -> Self {
        Self {
            verdict: f.verdict,
            file: f.file.clone(),
            segment: Some(f.segment),
            offset: f.offset,
            lsn: Some(f.lsn),
            through: Some(f.through).filter(|t| *t != Lsn(u64::MAX)),
            what: f.what.clone(),
            missing: f.missing,
        }
    }
}

/// The name of a verdict: `torn-tail`, `damage`, `io-error`.
#[must_use]
pub const fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::TornTail => "torn-tail",
        Verdict::Damage => "damage",
        Verdict::IoError => "io-error",
    }
}

impl Finding {
    /// A file beside the log that cannot be used.
    #[must_use]
    pub fn of_file(file: PathBuf, e: &Error) -> Self {
        let verdict = if e.class == Class::Io { Verdict::IoError } else { Verdict::Damage };
        Self { verdict, file, segment: None, offset: 0, lsn: None, through: None, what: e.message.clone(), missing: false }
    }

    fn place(&self) -> String {
        let file = output::name_of(&self.file);
        let lsn = self.lsn.map(|l| format!(", LSN {l}")).unwrap_or_default();
        format!("{file}, offset {}{lsn}", self.offset)
    }
}

/// Shows findings; the worst is the error.
///
/// # Errors
/// The worst finding; what writing says.
pub fn show(findings: &[Finding], json: bool, session: &mut Session) -> Result<()> {
    list(findings, json, session)?;
    worst(findings).map_or(Ok(()), Err)
}

/// Shows findings, and no more.
///
/// # Errors
/// What writing says.
pub fn list(findings: &[Finding], json: bool, session: &mut Session) -> Result<()> {
    for f in findings {
        if json {
            let mut object = Map::new();
            object.insert("type".into(), "finding".into());
            object.insert("verdict".into(), word(f.verdict).into());
            output::put_file(&mut object, "file", &f.file);
            object.insert("segment".into(), json!(f.segment.map(|s| s.0)));
            object.insert("offset".into(), f.offset.into());
            object.insert("lsn".into(), json!(f.lsn));
            object.insert("through".into(), json!(f.through));
            object.insert("what".into(), f.what.clone().into());
            object.insert("missing".into(), f.missing.into());
            session.out.json(&object)?;
        } else {
            let role = if f.verdict == Verdict::TornTail { Role::Warning } else { Role::Bad };
            let verdict = session.out.paint(role, word(f.verdict));
            session.out.line(&format!("{verdict}: {}: {}", f.place(), output::name(f.what.as_bytes())))?;
        }
    }
    Ok(())
}

/// The worst finding as the error that ends the command.
#[must_use]
pub fn worst(findings: &[Finding]) -> Option<Error> {
    // Of several of a kind the first: later ones may only follow from it.
    let worst = findings.iter().rev().max_by_key(|f| f.verdict)?;
    let (class, hint) = match worst.verdict {
        Verdict::TornTail => {
            (Class::TornTail, "the next mount (or `ize wal repair`) cuts it off and keeps a copy; nothing that was synced is in it")
        }
        Verdict::Damage => (
            Class::Damage,
            "copy the project's directory before anything else; then put an intact copy of the file in its place, or see `ize wal repair --dry-run`",
        ),
        Verdict::IoError => (Class::Io, "the disk does not give the bytes: check it, then try again"),
    };
    Some(Error::new(class, format!("{}: {}", worst.place(), worst.what)).hint(hint))
}

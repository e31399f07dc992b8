//! `ize wal verify`.

use serde_json::json;

use crate::blobs::{BlobState, Blobs, OpenMode};
use crate::cli::args::WalVerifyArgs;
use crate::cli::output;
use crate::cli::session::Session;
use crate::error::{Class, Error, Result};
use crate::op::{Decoded, decode};
use crate::storage::Disk;
use crate::wal::scan::{Finding, Verdict};
use crate::wal::verify::{VerifyReport, verify};

/// Checks the whole chain of segments, every checksum, and every blob that a record names. Beside a live writer it checks what has been
/// appended so far.
///
/// # Errors
/// What the word means; `TornTail`, `Damage` or `Io` by the worst finding.
pub fn run(args: &WalVerifyArgs, session: &mut Session) -> Result<()> {
    let target = super::wal_inspect::target(args.word.as_deref(), session)?;
    let storage = std::sync::Arc::new(Disk);
    // Opened after the first look at the log would miss blobs put since: so it is refreshed when one is missing.
    let blobs = match &target.layout {
        Some(layout) => Some(Blobs::open(storage.clone(), layout.blobs(), target.store, OpenMode::ReadOnly)?.0),
        None => None,
    };
    let mut named = 0u64;
    let report = verify(&*storage, &target.dir, target.store, target.bounds, &mut |record| {
        let entry = match decode(record.kind, record.version, record.body) {
            Ok(Decoded::Operation { entry, .. }) => entry,
            Ok(Decoded::Process(_) | Decoded::Mark | Decoded::Skipped) => return Ok(None),
            Err(e) => return Ok(Some(e.to_string())),
        };
        let (Some((id, _)), Some(blobs)) = (entry.op.blob(), &blobs) else { return Ok(None) };
        named += 1;
        let mut state = blobs.verify(&id);
        if matches!(state, BlobState::Missing) && blobs.refresh().is_ok() {
            state = blobs.verify(&id);
        }
        match state {
            BlobState::Sound => Ok(None),
            BlobState::Missing => Ok(Some(format!("blob {id}, which it names, is missing"))),
            BlobState::Damaged(e) => Ok(Some(format!("blob {id}, which it names, is damaged: {e}"))),
            BlobState::Unreadable(e) => Err(std::io::Error::other(format!("blob {id}, which it names, cannot be read: {e}"))),
        }
    })?;
    let VerifyReport { findings, records, bytes, scan, .. } = report;
    if args.json {
        session.out.json(&json!({
            "type": "summary", "segments": scan.segments.len(), "records": records, "bytes": bytes, "blobs": named, "end": scan.end,
            "findings": findings.len(), "clean": findings.is_empty(),
        }))?;
    } else {
        let verdict = if findings.is_empty() { "clean" } else { "NOT clean" };
        let size = crate::project::units::show_size(bytes);
        session.out.line(&format!(
            "{verdict}: {} segments, {records} records, {size}, {named} blob references, up to {}",
            scan.segments.len(),
            scan.end
        ))?;
    }
    show(&findings, args.json, session)
}

/// Shows findings; the worst is the error.
///
/// # Errors
/// The worst finding.
pub(super) fn show(findings: &[Finding], json: bool, session: &mut Session) -> Result<()> {
    for f in findings {
        let verdict = serde_json::to_value(f.verdict).unwrap_or_default();
        let verdict = verdict.as_str().unwrap_or("damage").to_owned();
        if json {
            session.out.json(&json!({
                "type": "finding", "verdict": verdict, "file": f.file.to_string_lossy(), "segment": f.segment.0, "offset": f.offset, "lsn": f.lsn,
                "what": f.what, "missing": f.missing,
            }))?;
        } else {
            session.out.line(&format!("{verdict}: {}, offset {}, {}: {}", output::name_of(&f.file), f.offset, f.lsn, f.what))?;
        }
    }
    let Some(worst) = findings.iter().max_by_key(|f| f.verdict) else { return Ok(()) };
    let (class, hint) = match worst.verdict {
        Verdict::TornTail => (Class::TornTail, "the next mount cuts it off and keeps a copy; nothing that was synced is in it"),
        Verdict::Damage => (Class::Damage, "copy the project's directory before anything else; `ize history` still shows the versions"),
        Verdict::IoError => (Class::Io, "the disk does not give the bytes: check it, then try again"),
    };
    let file = output::name_of(&worst.file);
    Err(Error::new(class, format!("{file}, offset {}, {}: {}", worst.offset, worst.lsn, worst.what)).hint(hint))
}

//! `ize wal verify`.

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::json;

use super::finding::{self, Finding};
use super::target::{self, Target};
use crate::blobs::{BlobState, Blobs, OpenMode};
use crate::cli::args::WalVerifyArgs;
use crate::cli::output::Role;
use crate::cli::output::progress::Progress;
use crate::cli::session::Session;
use crate::error::Result;
use crate::fsck::pack_verdict;
use crate::ids::BlobId;
use crate::op::{Decoded, decode};
use crate::project::units::show_size;
use crate::storage::Disk;
use crate::wal::scan::Verdict;
use crate::wal::verify::{VerifyReport, verify};

/// Blobs that are remembered as sound, so that one which many records name is read once.
const REMEMBERED: usize = 1 << 20;

/// Checks the whole chain of segments, every checksum, every blob that a record names, and every byte of the packs. Beside a live writer
/// it checks what has been appended so far.
///
/// # Errors
/// What the word means; `TornTail`, `Damage` or `Io` by the worst finding.
pub fn run(args: &WalVerifyArgs, session: &mut Session) -> Result<()> {
    let target = target::find(args.word.as_deref(), session)?;
    let blobs = open_blobs(&target)?;
    let mut progress = Progress::new("checking", target.bytes());
    let mut sound: HashSet<BlobId> = HashSet::new();
    let (mut named, mut done) = (0u64, 0u64);
    let mut report = verify(&*target.storage, &target.dir, target.store, target.bounds, &mut |record| {
        done = done.saturating_add(record.body.len() as u64);
        progress.at(done);
        let entry = match decode(record.kind, record.version, record.body) {
            Ok(Decoded::Operation { entry, .. }) => entry,
            Ok(Decoded::Process(_) | Decoded::Mark | Decoded::Skipped) => return Ok(None),
            Err(e) => return Ok(Some(e.to_string())),
        };
        let Some((id, len)) = entry.op.blob() else { return Ok(None) };
        named += 1;
        let Some(blobs) = &blobs else { return Ok(None) };
        // A copy whose head is damaged is told below.
        if let Ok(Some(found)) = blobs.contains(&id)
            && found != u64::from(len)
        {
            return Ok(Some(format!("blob {id}, which it names with {len} bytes, has {found}")));
        }
        if sound.contains(&id) {
            return Ok(None);
        }
        let mut state = blobs.verify(&id);
        if matches!(state, BlobState::Missing) && blobs.refresh().is_ok() {
            // Put since the packs were looked at.
            state = blobs.verify(&id);
        }
        match state {
            BlobState::Sound => {
                if sound.len() < REMEMBERED {
                    sound.insert(id);
                }
                Ok(None)
            }
            BlobState::Missing => Ok(Some(format!("blob {id}, which it names, is missing"))),
            BlobState::Damaged(e) => Ok(Some(format!("blob {id}, which it names, is damaged: {e}"))),
            BlobState::Unreadable(e) => Err(std::io::Error::other(format!("blob {id}, which it names, cannot be read: {e}"))),
        }
    })?;
    target.correct_findings(&mut report.findings);
    target.correct(&mut report.scan);
    let mut findings: Vec<Finding> = report.findings.iter().map(Finding::from).collect();
    findings.extend(target.trouble.clone());
    let packs = match &blobs {
        // The packs are the whole store's: one segment names only some of what is in them.
        Some(blobs) if target.only.is_none() => Some(check_packs(blobs, &mut progress, done, &mut findings)?),
        _ => None,
    };
    drop(progress);
    summary(args, session, &report, named, blobs.is_some(), packs, &findings)?;
    finding::show(&findings, args.json, session)
}

/// The packs beside a log, for reading.
///
/// # Errors
/// As [`Blobs::open`].
pub fn open_blobs(target: &Target) -> Result<Option<Blobs>> {
    match target.blobs.as_ref().filter(|dir| dir.is_dir()) {
        Some(dir) => Ok(Some(Blobs::open(Arc::new(Disk), dir.clone(), target.store, OpenMode::ReadOnly)?.0)),
        None => Ok(None),
    }
}

/// What the packs came to.
#[derive(Clone, Copy, Debug, Default)]
struct Packs {
    packs: u64,
    blobs: u64,
    bytes: u64,
}

/// Every byte of the packs, also of blobs that no record names.
fn check_packs(blobs: &Blobs, progress: &mut Progress, before: u64, findings: &mut Vec<Finding>) -> Result<Packs> {
    let seen = blobs.verify_packs(&mut |read| progress.at(before.saturating_add(read)))?;
    for f in &seen.findings {
        // The place is told beside it.
        let (verdict, what) = pack_verdict(f);
        let (file, offset) = (f.file.clone(), f.offset);
        findings.push(Finding { verdict, file, segment: None, offset, lsn: None, through: None, what, missing: false });
    }
    Ok(Packs { packs: seen.packs, blobs: seen.blobs, bytes: seen.bytes })
}

fn summary(
    args: &WalVerifyArgs,
    session: &mut Session,
    report: &VerifyReport,
    named: u64,
    blobs_checked: bool,
    packs: Option<Packs>,
    findings: &[Finding],
) -> Result<()> {
    let VerifyReport { scan, .. } = report;
    let (records, bytes) = scan.segments.iter().fold((0, 0), |(r, b), s| (r + s.records, b + s.bytes));
    let segments = scan.segments.len();
    let worst = findings.iter().map(|f| f.verdict).max();
    let verdict = worst.map_or("clean", finding::word);
    if args.json {
        return session.out.json(&json!({
            "type": "summary", "verdict": verdict, "clean": findings.is_empty(), "findings": findings.len(),
            "segments": segments, "records": records, "bytes": bytes, "end": scan.end,
            "blobs": named, "blobs_checked": blobs_checked,
            "packs": packs.map(|p| json!({ "packs": p.packs, "blobs": p.blobs, "bytes": p.bytes })),
        }));
    }
    let role = match worst {
        None => Role::Good,
        Some(Verdict::TornTail) => Role::Warning,
        Some(Verdict::Damage | Verdict::IoError) => Role::Bad,
    };
    let verdict = session.out.paint(role, verdict);
    let references =
        if blobs_checked || named == 0 { String::new() } else { " (not checked: there are no packs beside the log)".to_owned() };
    session.out.line(&format!(
        "{verdict}: {segments} segments, {records} records, {}, {named} blob references{references}, up to {}",
        show_size(bytes),
        scan.end
    ))?;
    match packs {
        Some(p) => session.out.line(&format!("{} packs, {} blobs, {}", p.packs, p.blobs, show_size(p.bytes))),
        None => Ok(()),
    }
}

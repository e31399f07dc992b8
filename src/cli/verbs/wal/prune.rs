//! `ize wal prune`.

use std::ffi::OsStr;
use std::ops::ControlFlow;

use serde_json::json;

use super::target::{self, Target};
use crate::cli::access::Access;
use crate::cli::args::WalPruneArgs;
use crate::cli::output::fit::{self, Align};
use crate::cli::output::{self, Role, times};
use crate::cli::session::Session;
use crate::control::Request;
use crate::control::message::{PruneReport, PruneRequest, SegmentReport};
use crate::error::{Class, Error, Result};
use crate::ids::Time;
use crate::project::Layout;
use crate::project::units::show_size;

/// Drops the oldest segments that versions hold, by age or size, then the blobs that nothing names any more.
///
/// # Errors
/// What the words mean; damage or I/O errors.
pub fn run(args: &WalPruneArgs, session: &mut Session) -> Result<()> {
    let target = find(args.word.as_deref(), session)?;
    let report: PruneReport = match &target.project {
        Some(project) => {
            let request = Request::Prune(PruneRequest { max_age: args.max_age, max_size: args.max_size, dry_run: args.dry_run });
            Access::open(project, session)?.ask(request)?
        }
        // There is a checkpoint, but not one that these segments can be held against: that is another thing than none.
        None if target.dir.parent().is_some_and(|dir| Layout::new(dir).checkpoint().exists()) => {
            return Err(Error::new(
                Class::Refused,
                "whose segments these are is not sure, so that no checkpoint says which of them may go",
            )
            .hint("`ize fsck` says what is wrong with meta/project.toml; mend that first"));
        }
        // Segments that no project claims have no checkpoint, hence nothing that may go.
        None => without_checkpoint(&target, args.dry_run)?,
    };
    if args.json {
        return show_json(&report, session);
    }
    show(args, &report, session)
}

fn find(word: Option<&OsStr>, session: &Session) -> Result<Target> {
    let target = target::find(word, session)?;
    if target.only.is_some() {
        return Err(
            Error::new(Class::Usage, "single segments are not pruned: the oldest go first").hint("name the project or its directory")
        );
    }
    Ok(target)
}

fn without_checkpoint(target: &Target, dry_run: bool) -> Result<PruneReport> {
    let now = Time::now();
    let scan = target.walk(&mut |_, _| Ok(ControlFlow::Continue(())))?.unwrap_or_default();
    let segments: Vec<SegmentReport> = scan
        .segments
        .iter()
        .map(|s| SegmentReport {
            id: s.id,
            first_lsn: s.first_lsn,
            last_lsn: s.last_lsn,
            bytes: s.bytes,
            payload: s.payload,
            age_secs: s.last_time().map(|t| u64::try_from(now.secs.saturating_sub(t.secs)).unwrap_or(0)),
            dropped: false,
            why: "there is no checkpoint: no version holds what is in it".to_owned(),
        })
        .collect();
    Ok(PruneReport {
        left_segments: segments.len() as u64,
        left_bytes: segments.iter().map(|s| s.bytes).sum(),
        segments,
        no_checkpoint: true,
        dry_run,
        dropped_segments: 0,
        wal_bytes: 0,
        blob_bytes: 0,
        kept_because: None,
        at: now,
    })
}

fn show_json(report: &PruneReport, session: &mut Session) -> Result<()> {
    session.out.json(&json!({
        "dry_run": report.dry_run, "segments": report.segments, "dropped_segments": report.dropped_segments,
        "left_segments": report.left_segments, "wal_bytes": report.wal_bytes, "blob_bytes": report.blob_bytes,
        "left_bytes": report.left_bytes, "no_checkpoint": report.no_checkpoint, "at": output::json_time(report.at),
    }))
}

fn show(args: &WalPruneArgs, report: &PruneReport, session: &mut Session) -> Result<()> {
    let (drop, keep) = if args.dry_run { ("would drop", "would keep") } else { ("dropped", "kept") };
    let rows: Vec<[String; 6]> = report
        .segments
        .iter()
        .map(|s| {
            let range = if s.last_lsn < s.first_lsn { "no records".to_owned() } else { format!("{}..{}", s.first_lsn, s.last_lsn) };
            let age = s.age_secs.map(|age| times::age(Time { secs: report.at.secs.saturating_sub_unsigned(age), ..report.at }, report.at));
            let word = if s.dropped { drop } else { keep };
            let size = show_size(s.bytes.saturating_add(s.payload));
            [word.to_owned(), s.id.to_string(), range, size, age.unwrap_or_default(), s.why.clone()]
        })
        .collect();
    let widths = fit::widths(&rows);
    for (row, s) in rows.iter().zip(&report.segments) {
        let [word, id, range, size, age, why] = row;
        let role = if s.dropped { Role::Change } else { Role::Good };
        session.out.line(&format!(
            "{} {}  {}  {}  {}  {}",
            session.out.paint(role, &fit::pad(word, widths[0], Align::Left)),
            session.out.paint(Role::Id, id),
            fit::pad(range, widths[2], Align::Left),
            fit::pad(size, widths[3], Align::Right),
            fit::pad(age, widths[4], Align::Right),
            output::name(why.as_bytes())
        ))?;
    }
    let (log, blobs) = (show_size(report.wal_bytes), show_size(report.blob_bytes));
    session.out.line(&format!("{drop} {} segments, {log} of log and {blobs} of blobs", report.dropped_segments))?;
    session.out.line(&format!("left {} segments, {} of log and blobs", report.left_segments, show_size(report.left_bytes)))?;
    if report.no_checkpoint {
        output::report("nothing can go: there is no checkpoint, so no version holds what is in the segments");
    }
    Ok(())
}

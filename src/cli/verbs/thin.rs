//! `ize thin`.

use serde_json::json;

use crate::cli::access::Access;
use crate::cli::args::ThinArgs;
use crate::cli::grammar::Paths;
use crate::cli::output::{self, Role};
use crate::cli::session::Session;
use crate::control::Request;
use crate::control::message::{ThinReport, ThinRequest};
use crate::engine::store_size::file_system_size;
use crate::error::Result;
use crate::project::units::show_size;

/// Versions that people are shown.
const SHOWN: usize = 20;

/// Drops versions, by age or until the store fits.
///
/// # Errors
/// What the words mean; damage or I/O errors.
pub fn run(args: &ThinArgs, session: &mut Session) -> Result<()> {
    let meant = session.meant(args.word.as_slice(), Paths::Zero)?;
    let size = file_system_size(meant.project.layout.dir());
    let request = ThinRequest {
        keep_all: args.keep_all,
        keep_hourly: args.keep_hourly,
        keep_daily: args.keep_daily,
        max_store: args.max_store.map(|max| max.bytes(size).unwrap_or(u64::MAX)),
        dry_run: args.dry_run,
    };
    let report: ThinReport = Access::open(&meant.project, session)?.ask(Request::Thin(request))?;
    if args.json { show_json(&report, session) } else { show(&report, session) }
}

fn show_json(report: &ThinReport, session: &mut Session) -> Result<()> {
    let versions: Vec<_> = report.versions.iter().map(|v| json!({ "seq": v.seq, "id": v.id, "time": output::json_time(v.time) })).collect();
    session.out.json(&json!({
        "dry_run": report.dry_run, "versions": versions, "dropped": report.dropped, "left": report.left, "segments": report.segments,
        "filtered": report.filtered, "grain": report.grain, "bytes_before": report.bytes_before, "bytes_after": report.bytes_after,
        "max_store": report.max_store.filter(|max| *max != u64::MAX), "stuck": report.stuck,
    }))
}

fn show(report: &ThinReport, session: &mut Session) -> Result<()> {
    let word = if report.dry_run { "would drop" } else { "dropped" };
    let painted = session.out.paint(Role::Change, word);
    for version in report.versions.iter().take(SHOWN) {
        let id = session.out.paint(Role::Id, &version.id);
        session.out.line(&format!("{painted} {id}  {}", output::time(version.time)))?;
    }
    let more = report.dropped.saturating_sub(SHOWN as u64);
    if more > 0 {
        session.out.line(&format!("... and {more} more"))?;
    }
    if report.filtered > 0 {
        session.out.line(&format!("took paths without history out of {} versions", report.filtered))?;
    }
    let harder = report.grain.map_or_else(String::new, |grain| format!(" ({})", grain.words()));
    session.out.line(&format!(
        "{word} {} versions and {} segments of the log; {} versions are left{harder}",
        report.dropped, report.segments, report.left
    ))?;
    let (before, after) = (show_size(report.bytes_before), show_size(report.bytes_after));
    let max = match report.max_store.filter(|max| *max != u64::MAX) {
        Some(max) => format!("max-store {}", show_size(max)),
        None => "no max-store".to_owned(),
    };
    session.out.line(&format!("the store takes {after} ({before} before; {max})"))?;
    if report.stuck && !report.dry_run {
        output::warn("that is more than max-store, and nothing more can go: it is live, pinned, or in no version yet");
    } else if report.dropped == 0 && report.segments == 0 && !report.stuck {
        output::report("nothing had to go; --keep-all, --keep-hourly and --keep-daily thin by age whatever the size");
    }
    Ok(())
}

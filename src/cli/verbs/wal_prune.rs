//! `ize wal prune`.

use crate::cli::access::Access;
use crate::cli::args::WalPruneArgs;
use crate::cli::grammar::Paths;
use crate::cli::output;
use crate::cli::session::Session;
use crate::control::Request;
use crate::control::message::{PruneReport, PruneRequest};
use crate::error::Result;
use crate::project::units::show_size;

/// Drops the oldest segments that versions hold, by age or size, then the blobs that nothing names any more.
///
/// # Errors
/// What the words mean; damage or I/O errors.
pub fn run(args: &WalPruneArgs, session: &mut Session) -> Result<()> {
    let meant = session.meant(args.word.as_slice(), Paths::Zero)?;
    let request = Request::Prune(PruneRequest { max_age: args.max_age, max_size: args.max_size, dry_run: args.dry_run });
    let report: PruneReport = Access::open(&meant.project, session)?.ask(request)?;
    if args.json {
        return session.out.json(&report);
    }
    let would = if args.dry_run { "would drop" } else { "dropped" };
    let (log, blobs) = (show_size(report.wal_bytes), show_size(report.blob_bytes));
    session.out.line(&format!("{would} {} segments, {log} of log and {blobs} of blobs", report.segments))?;
    session.out.line(&format!("left {} segments, {} of log and blobs", report.left_segments, show_size(report.left_bytes)))?;
    if let Some(why) = &report.kept_because {
        output::report(&format!("kept because: {why}"));
    }
    Ok(())
}

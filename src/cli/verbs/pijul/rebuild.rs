//! `ize pijul rebuild`.

use std::cell::RefCell;
use std::sync::Arc;

use serde_json::json;

use crate::cli::access::Access;
use crate::cli::args::PijulRebuildArgs;
use crate::cli::grammar::Paths;
use crate::cli::output;
use crate::cli::output::progress::{Amount, Stage, Stages};
use crate::cli::session::Session;
use crate::control::message::{PijulReport, RebuildReport, RebuildRequest};
use crate::control::{Client, Request};
use crate::error::Result;

/// Makes the repository anew.
///
/// # Errors
/// What the words mean; `Refused` when changes would go that ize did not write; what making it says.
pub fn run(args: &PijulRebuildArgs, session: &mut Session) -> Result<()> {
    let meant = session.meant(args.word.as_slice(), Paths::Zero)?;
    let ask = |discard, dry_run| Request::PijulRebuild(RebuildRequest { discard, dry_run });
    let access = Access::open(&meant.project, session)?;
    if args.dry_run {
        let report: RebuildReport = access.ask(ask(args.yes, true))?;
        return if args.json { show_json(&report, session) } else { preview(&report, session) };
    }
    let far = Far::beside(&access, &meant.project.layout);
    let total = far.rebuild().map_or(0, |(_, of)| of);
    let amount = |versions| Amount { entries: versions, bytes: 0 };
    let done = || amount(far.rebuild().map_or(0, |(versions, _)| versions));
    let request = ask(args.yes, false);
    let report: RebuildReport =
        Stages::new(args.json).during(&mut session.out, Stage::Processing, amount(total), &done, move || access.ask(request))?;
    if args.json { show_json(&report, session) } else { show(&report, session) }
}

/// How far it is, asked for beside the order.
enum Far {
    Daemon(RefCell<Option<Box<Client>>>),
    Here(Arc<crate::engine::Engine>),
}

impl Far {
    fn beside(access: &Access, layout: &crate::project::Layout) -> Self {
        match access {
            Access::Daemon(_) => Self::Daemon(RefCell::new(Client::connect(layout).ok().map(Box::new))),
            Access::Here(engine) => Self::Here(Arc::clone(engine)),
        }
    }

    /// Versions that are there, and how many there are to be.
    fn rebuild(&self) -> Option<(u64, u64)> {
        let report: PijulReport = match self {
            Self::Daemon(client) => client.borrow_mut().as_mut()?.call(&Request::Pijul).ok()?,
            Self::Here(engine) => serde_json::from_value(engine.handle(Request::Pijul, 0).into_result().ok()?).ok()?,
        };
        Some(report.rebuild.map_or((0, report.versions), |rebuild| (rebuild.versions, rebuild.of)))
    }
}

fn show_json(report: &RebuildReport, session: &mut Session) -> Result<()> {
    let RebuildReport { versions, changes, refused, foreign, millis, dry_run } = report;
    session.out.json(&json!({
        "type": "done", "dry_run": dry_run, "versions": versions, "changes": changes, "refused": refused, "foreign": foreign, "millis": millis,
    }))
}

fn preview(report: &RebuildReport, session: &mut Session) -> Result<()> {
    session.out.line(&format!("would make the Pijul repository anew from {} versions", report.versions))?;
    if report.foreign > 0 {
        output::warn(&format!("{} changes that ize did not write would go (only with --yes)", report.foreign));
    }
    Ok(())
}

fn show(report: &RebuildReport, session: &mut Session) -> Result<()> {
    let secs = std::time::Duration::from_millis(report.millis).as_secs_f64();
    session.out.line(&format!("made the Pijul repository anew: {} changes in {secs:.1} s", report.changes))?;
    if report.foreign > 0 {
        output::warn(&format!("{} changes that ize did not write are gone", report.foreign));
    }
    if report.refused > 0 {
        output::warn(&format!("Pijul refused {} versions; `ize status` says why", report.refused));
    }
    Ok(())
}

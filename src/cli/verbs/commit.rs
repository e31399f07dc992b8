//! `ize commit`.

use crate::cli::access::Access;
use crate::cli::args::CommitArgs;
use crate::cli::grammar::Paths;
use crate::cli::output;
use crate::cli::session::Session;
use crate::control::Request;
use crate::control::message::{CommitReport, CommitRequest};
use crate::error::Result;

/// Ends the version that is being gathered. Writes the ids of the versions it made, one a line.
///
/// # Errors
/// What the words mean, what the daemon (or, where there is none, opening the project) says.
pub fn run(args: &CommitArgs, session: &mut Session) -> Result<()> {
    let meant = session.meant(args.word.as_slice(), Paths::Zero)?;
    let request = Request::Commit(CommitRequest { message: args.message.clone(), ..CommitRequest::default() });
    let CommitReport { versions } = Access::open(&meant.project, session)?.ask(request)?;
    for v in &versions {
        session.out.line(&v.id)?;
        output::report(&format!("version {}: {} to {}", v.seq, v.first, v.last));
    }
    if versions.is_empty() {
        output::report("nothing to commit: the newest version holds everything");
    }
    Ok(())
}

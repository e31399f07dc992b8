//! `ize restore`.

use std::io::IsTerminal;
use std::os::unix::ffi::OsStrExt;

use crate::cli::access::Access;
use crate::cli::args::RestoreArgs;
use crate::cli::grammar::{self, Paths};
use crate::cli::output;
use crate::cli::session::Session;
use crate::control::Request;
use crate::control::message::{PathBytes, RestoreReport, RestoreRequest, When};
use crate::error::Result;

/// Brings paths back to what they were; first says what that does. It is itself recorded: `ize restore ... --at` the moment before
/// undoes it.
///
/// # Errors
/// What the words mean; `NotFound`; `Refused` without a yes where something would go; the log's.
pub fn run(args: &RestoreArgs, session: &mut Session) -> Result<()> {
    let (words, moment) = grammar::restore_words(&args.words, args.at.as_deref())?;
    let meant = session.meant(&words, Paths::Some)?;
    let at = session.when(&moment)?;
    let paths: Vec<PathBytes> = meant.paths.iter().map(|p| PathBytes(p.as_os_str().as_bytes().to_vec())).collect();
    let request =
        |at, expected: Option<String>| Request::Restore(RestoreRequest { paths: paths.clone(), at, dry_run: expected.is_none(), expected });
    let preview: RestoreReport = Access::open(&meant.project, session)?.ask(request(at, None))?;
    for action in &preview.actions {
        let path = if action.path.0.is_empty() { ".".to_owned() } else { output::name(&action.path.0) };
        session.out.line(&format!("{:10} {path}", action.what))?;
    }
    if let Some(first) = preview.left.first() {
        let more = preview.left.len() - 1;
        let more = if more == 0 { String::new() } else { format!(" and {more} more") };
        output::report(&format!(
            "left alone, because versions do not keep them (`ize usage --class-of`): {}{more}",
            output::name(&first.0)
        ));
    }
    if preview.actions.is_empty() {
        output::report("nothing to do: it is like that already");
        return Ok(());
    }
    if args.dry_run {
        output::report("nothing was changed (--dry-run)");
        return Ok(());
    }
    session.out.flush()?;
    let removed = preview.actions.iter().filter(|a| matches!(a.what.as_str(), "remove" | "replace")).count();
    if removed > 0 {
        output::confirm(&format!("{removed} paths that exist now go (they stay in the history). Restore?"), args.yes)?;
    } else if std::io::stdin().is_terminal() && std::io::stderr().is_terminal() {
        output::confirm("Restore?", args.yes)?;
    }
    // What `now~1` means may have moved since the preview; the record has not.
    let done: RestoreReport = Access::open(&meant.project, session)?.ask(request(When::Lsn(preview.at), Some(preview.digest)))?;
    output::report(&format!("restored: {} steps, recorded in the log; restore to the moment before to undo it", done.actions.len()));
    Ok(())
}

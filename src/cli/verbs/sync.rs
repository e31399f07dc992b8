//! `ize sync`.

use serde::Deserialize;

use crate::cli::args::SyncArgs;
use crate::cli::grammar::Paths;
use crate::cli::output;
use crate::cli::session::Session;
use crate::control::{Client, Request};
use crate::error::Result;
use crate::ids::Lsn;

#[derive(Deserialize)]
struct Synced {
    durable: Lsn,
}

/// Makes everything that was answered so far durable.
///
/// # Errors
/// What the words mean, what the daemon answers, or that there is none.
pub fn run(args: &SyncArgs, session: &mut Session) -> Result<()> {
    let meant = session.meant(args.word.as_slice(), Paths::Zero)?;
    let Synced { durable } = Client::connect(&meant.project.layout)?.call(&Request::Sync)?;
    output::report(&format!("`{}` is durable through {durable}", meant.project.identity.name));
    Ok(())
}

//! `ize export`.

use std::path::PathBuf;
use std::time::Instant;

use serde_json::json;

use super::transfer;
use crate::cli::args::ExportArgs;
use crate::cli::output::progress::{Amount, Stage, Stages};
use crate::cli::session::Session;
use crate::engine::export::{Export, Target};
use crate::engine::import::Counters;
use crate::engine::outside::Problems;
use crate::engine::states::Store;
use crate::error::{Class, Error, Result};
use crate::project::registry;
use crate::project::units::show_size;

/// Writes a state into a new or empty directory.
///
/// # Errors
/// What the words mean; `Refused` for a directory that is not empty or lies in the store; damage or I/O errors; `Failed` or `Io` when not all
/// could be made as it was.
pub fn run(args: &ExportArgs, session: &mut Session) -> Result<()> {
    let begun = Instant::now();
    let (word, dir) = match (&session.global.project, args.words.as_slice()) {
        (Some(project), [dir]) => (project.clone(), PathBuf::from(dir)),
        (None, [project, dir]) => (project.clone(), PathBuf::from(dir)),
        (Some(_), _) => return Err(Error::new(Class::Usage, "the project is named twice").hint("ize export -p NAME DIR")),
        (None, _) => return Err(Error::new(Class::Usage, "a project and a directory are wanted").hint("ize export NAME DIR")),
    };
    let central = session.central()?;
    let project = registry::find(&central, &word)?;
    project.identity.check(crate::project::identity::Access::Read)?;
    let when = session.when(&args.at)?;
    let store = Store::open(&project.layout, project.identity.id)?;
    // Before anything is made: a moment that is not there leaves no directory behind.
    let tree = store.resolve(&when)?;
    let (at, root) = (tree.applied(), tree.base_root());
    let target = Target::prepare(&dir, central.dir())?;
    let (problems, totals, counters) = (Problems::default(), Counters::default(), Counters::default());
    let mut stages = Stages::new(args.json);
    let amount = |counters: &Counters| {
        let (entries, bytes) = counters.now();
        Amount { entries, bytes }
    };
    let mut export = Export::new(&store, tree, &target, &counters, &problems);
    let none = Amount::default();
    let done = stages
        .during(&mut session.out, Stage::Analysing, none, &|| amount(&totals), || {
            export.analyse(&totals)?;
            Ok(export)
        })
        .and_then(|export| stages.during(&mut session.out, Stage::Processing, amount(&totals), &|| amount(&counters), || export.run()));
    drop(stages);
    done.map_err(|e| store.explain(root, e))?;
    let (entries, bytes) = counters.now();
    let seconds = begun.elapsed().as_secs_f64();
    let name = &project.identity.name;
    let line = format!("exported `{name}` as after {at} to {}: {entries} entries, {} in {seconds:.1} s", dir.display(), show_size(bytes));
    let figures = json!({ "project": name, "lsn": at, "entries": entries, "bytes": bytes, "seconds": seconds });
    transfer::conclude(session, args.json, &problems, "export", &line, figures).map_err(|e| store.explain(root, e))
}

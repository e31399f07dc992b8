//! `ize init NAME`.

use std::path::Path;
use std::time::Instant;

use serde_json::json;

use super::transfer::{self, ratio};
use crate::cli::args::InitArgs;
use crate::cli::output;
use crate::cli::output::progress::{Amount, Stage, Stages};
use crate::cli::session::Session;
use crate::engine::Engine;
use crate::engine::import::{self, Counters, Origin, Source};
use crate::engine::outside::Problems;
use crate::error::{Class, Error, Result};
use crate::project::importing::Importing;
use crate::project::layout::Central;
use crate::project::units::show_size;
use crate::project::{Project, mounts, registry};

/// Creates a project; with `--from`, takes a directory's tree into it, with `--from-pijul` what a Pijul repository holds.
///
/// # Errors
/// As [`registry::init`]; for an import those of [`import::run`], and `Failed` or `Io` when not all could be taken as it is.
pub fn run(args: &InitArgs, session: &mut Session) -> Result<()> {
    if session.global.project.is_some() {
        return Err(Error::new(Class::Usage, "`ize init` takes the name as a word, not with -p"));
    }
    // A name that is not UTF-8 goes on with the character that stands for what is not one, and is refused in the usual words.
    let name = args.name.to_string_lossy();
    let central = session.central()?;
    mounts::refuse_store_on_ize(central.dir())?;
    if let Some(from) = &args.from {
        return import_directory(from, &name, &central, args.json, session);
    }
    #[cfg(feature = "pijul")]
    if let Some(from) = &args.from_pijul {
        return import_repository(from, &name, &central, args, session);
    }
    let project = registry::init(&central, &name)?;
    output::report(&format!("created project `{name}` in {}", project.layout.dir().display()));
    Ok(())
}

/// What is known of an import when it begins to take things.
struct Job<'a> {
    begun: Instant,
    origin: Origin<'a>,
    name: &'a str,
    project: Project,
    resumed: bool,
    totals: Counters,
    problems: Problems,
    stages: Stages,
    json: bool,
}

fn amount(counters: &Counters) -> Amount {
    let (entries, bytes) = counters.now();
    Amount { entries, bytes }
}

fn import_directory(from: &Path, name: &str, central: &Central, json: bool, session: &mut Session) -> Result<()> {
    let begun = Instant::now();
    let source = Source::open(from, central.dir())?;
    let import = Importing { source: source.path.clone(), pijul: false };
    let unfinished = unfinished(central, name, &import)?;
    let (totals, mut stages) = (Counters::default(), Stages::new(json));
    stages.during(&mut session.out, Stage::Analysing, Amount::default(), &|| amount(&totals), || import::analyse(&source, &totals))?;
    let resumed = unfinished.is_some();
    let project = unfinished.map_or_else(|| registry::init_importing(central, name, &import), Ok)?;
    // The store may have come into being only now; the walk must not come to it.
    let source = Source::open(&source.path, central.dir())?;
    let (origin, problems) = (Origin::Directory(&source), Problems::default());
    take(Job { begun, origin, name, project, resumed, totals, problems, stages, json }, session)
}

#[cfg(feature = "pijul")]
fn import_repository(from: &Path, name: &str, central: &Central, args: &InitArgs, session: &mut Session) -> Result<()> {
    let begun = Instant::now();
    let owner = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let (totals, mut stages) = (Counters::default(), Stages::new(args.json));
    let repository = stages.during(&mut session.out, Stage::Analysing, Amount::default(), &|| amount(&totals), || {
        let repository = import::pijul::Repository::open(from, args.blobs.as_deref(), owner)?;
        if !args.allow_missing {
            repository.check_complete()?;
        }
        repository.analyse(&totals)?;
        Ok(repository)
    })?;
    let import = Importing { source: repository.path.clone(), pijul: true };
    let unfinished = unfinished(central, name, &import)?;
    let resumed = unfinished.is_some();
    let project = unfinished.map_or_else(|| registry::init_importing(central, name, &import), Ok)?;
    let (origin, problems, json) = (Origin::Repository(&repository), Problems::default(), args.json);
    take(Job { begun, origin, name, project, resumed, totals, problems, stages, json }, session)
}

/// Takes everything, and says how it went.
fn take(job: Job<'_>, session: &mut Session) -> Result<()> {
    let Job { begun, origin, name, project, resumed, totals, problems, mut stages, json } = job;
    let counters = Counters::default();
    let engine = Engine::open_in_front(&project, &session.settings(&project, &[])?)?;
    if Importing::read(&project.layout)?.is_none() {
        engine.close()?;
        return Err(Error::new(Class::Refused, format!("somebody else has just ended the import into `{name}`")));
    }
    let later = cfg!(feature = "pijul") && amount(&totals).entries > import::PIJUL_LATER;
    if later {
        engine.leave_pijul_for_later();
    }
    let core = engine.core();
    let before = core.blobs.usage();
    let done = stages
        .during(&mut session.out, Stage::Processing, amount(&totals), &|| amount(&counters), || {
            import::run(&engine, origin, &counters, &problems, resumed)
        })
        .and_then(|()| {
            let behind = || core.log.appended().0.saturating_sub(core.history().checkpoint.lsn.0);
            let all = behind();
            let done = || Amount { entries: all.saturating_sub(behind()), bytes: 0 };
            stages.during(&mut session.out, Stage::Finalising, Amount { entries: all, bytes: 0 }, &done, || {
                import::finish(&engine, origin.path())
            })
        });
    drop(stages);
    if let Err(e) = done {
        if let Err(also) = engine.close() {
            tracing::warn!("{also}");
        }
        let hint = e.hint.clone().unwrap_or_else(|| "what was taken so far is kept: the same command goes on from there".to_owned());
        return Err(e.hint(hint));
    }
    let after = core.blobs.usage();
    engine.close()?;
    let (entries, bytes) = counters.now();
    let kept = counters.kept.load(std::sync::atomic::Ordering::Relaxed);
    let (raw, stored) = (after.raw.saturating_sub(before.raw), after.stored.saturating_sub(before.stored));
    let new = after.pack_bytes.saturating_sub(before.pack_bytes);
    let seconds = begun.elapsed().as_secs_f64();
    let (dedup, compression) = (ratio(bytes, raw), ratio(raw, stored));
    let more = if resumed { format!(" ({kept} were there already)") } else { String::new() };
    let pijul = if later { "; Pijul is told of it when the project is mounted" } else { "" };
    let line = format!(
        "imported {} into `{name}`: {entries} entries{more}, {} in {seconds:.1} s; {} new in the store{pijul}",
        origin.path().display(),
        show_size(bytes),
        show_size(new),
    );
    let figures = json!({
        "project": name, "entries": entries, "kept": kept, "bytes": bytes, "new_bytes": new, "dedup_ratio": dedup,
        "compression_ratio": compression, "seconds": seconds, "resumed": resumed, "pijul_later": later,
    });
    transfer::conclude(session, json, &problems, "import", &line, figures)
}

/// The project of that name in which an import of that source has begun.
fn unfinished(central: &Central, name: &str, import: &Importing) -> Result<Option<Project>> {
    let Some(project) = registry::list(central)?.projects.into_iter().find(|p| p.identity.name == name) else { return Ok(None) };
    match Importing::read(&project.layout)? {
        Some(begun) if begun == *import => Ok(Some(project)),
        Some(begun) => Err(begun.unfinished(&project)),
        // Refused before the source is looked through.
        None => registry::init(central, name).map(|_| None),
    }
}

//! `ize mount`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::cli::args::MountArgs;
use crate::cli::output;
use crate::cli::session::Session;
use crate::control::Server;
use crate::engine::Engine;
use crate::engine::core::Recovery;
use crate::engine::read_only::ReadOnly;
use crate::error::{Class, Error, IoContext, Result};
use crate::fuse::daemon::{self, Background, Report};
use crate::fuse::{MountOptions, mount, prepare};
use crate::project::importing::Importing;
use crate::project::{Project, lock, mounts, names, registry};

/// How long requests that are being answered may take when the daemon ends.
const LAST_ANSWERS: Duration = Duration::from_secs(10);

/// How long a daemon that was killed may take to be gone.
const DEATH: Duration = Duration::from_secs(5);

/// Mounts a project: in the background, returning when the mount answers, or in the foreground until it is unmounted.
///
/// # Errors
/// What the words mean; `Busy` when it is mounted already; what recovery says; what the kernel says.
pub fn run(args: &MountArgs, session: &mut Session) -> Result<()> {
    // First thing: there must be no threads yet.
    let background = Background::here()?;
    // Re-executed through /proc/self/exe, whose name says nothing.
    if let Err(e) = rustix::thread::set_name(c"ize") {
        tracing::debug!("cannot set the process's name: {e}");
    }
    let (word, mountpoint) = words(args, session)?;
    let lists = args.options.iter().map(|o| o.to_str().ok_or_else(|| Error::new(Class::Usage, "mount options are plain text")));
    let mut options = MountOptions::parse(lists.collect::<Result<Vec<_>>>()?)?;
    options.read_only |= args.read_only;
    if let Some(dir) = &options.central_dir {
        session.global.central_dir = Some(dir.clone());
    }
    let central = session.central()?;
    let project = match registry::find(&central, &word) {
        Err(e) if e.class == Class::NotFound && args.create && !options.read_only => {
            let name = word.to_str().ok_or_else(|| Error::new(Class::Usage, "a project's name is plain text"))?;
            names::check(name)?;
            mounts::refuse_store_on_ize(central.dir())?;
            registry::create_private_dirs(&central)?;
            // First, so that a place where nothing can be mounted leaves no project behind.
            if let Some(place) = &mountpoint {
                prepare(place, central.dir(), args.over)?;
            }
            let project = registry::init(&central, name)?;
            output::report(&format!("created project `{name}`"));
            project
        }
        Err(e) if e.class == Class::NotFound => {
            let near = e.hint.clone().filter(|h| h.starts_with("did you mean")).map_or_else(String::new, |h| h + " Else ");
            return Err(e.hint(format!("{near}create it with `ize init`, or on the way with --create")));
        }
        other => other?,
    };
    // What would be changed in it would be in the way of the import when it goes on.
    if !options.read_only
        && let Some(begun) = Importing::read(&project.layout)?
    {
        return Err(begun.unfinished(&project));
    }
    let name = &project.identity.name;
    let mountpoint = mountpoint.or_else(|| project.identity.last_mountpoint.clone());
    let mountpoint = mountpoint.ok_or_else(|| {
        Error::new(Class::Usage, format!("`{name}` was not mounted before: where?")).hint(format!("ize mount {name} MOUNTPOINT"))
    })?;
    let place = Place {
        project: &project,
        central: central.dir(),
        mountpoint: std::path::absolute(&mountpoint).doing(|| format!("cannot find {}", mountpoint.display()))?,
        options: &options,
        over: args.over,
    };
    if args.foreground || background.is_some() {
        if background.is_none() {
            place.make_ready(args.create)?;
        }
        return place.serve(background, session);
    }
    // Asked here too, so that the common mistakes are answered without starting anything.
    lock::outlive(&project.layout, DEATH)?;
    if let Some(holder) = lock::held_by(&project.layout)? {
        return Err(lock::busy(&project.layout, holder.as_ref()));
    }
    let mountpoint = place.make_ready(args.create)?;
    let mut command: Vec<OsString> = vec!["--central-dir".into(), absolute(central.dir())?.into_os_string(), "mount".into()];
    for list in &args.options {
        command.extend(["-o".into(), list.clone()]);
    }
    command.extend(args.over.then(|| "--over".into()));
    command.extend(options.read_only.then(|| "--read-only".into()));
    command.extend((0..session.global.verbose).map(|_| "-v".into()));
    command.extend(["--".into(), project.identity.id.to_string().into(), mountpoint.clone().into_os_string()]);
    let log = project.layout.daemon_log();
    let said = daemon::start(&command, (!options.read_only).then_some(log.as_path()))?;
    said.reports.iter().for_each(|line| output::report(line));
    said.warnings.iter().for_each(|line| output::warn(line));
    output::report(&place.mounted());
    Ok(())
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).doing(|| format!("cannot find {}", path.display()))
}

/// The project's word and the mount point.
fn words(args: &MountArgs, session: &Session) -> Result<(OsString, Option<PathBuf>)> {
    match (&session.global.project, &args.name, &args.mountpoint) {
        (Some(_), Some(_), Some(_)) => Err(Error::new(Class::Usage, "the project is named twice").hint("ize mount -p NAME MOUNTPOINT")),
        (Some(project), point, None) => Ok((project.clone(), point.as_ref().map(PathBuf::from))),
        (Some(project), None, point) => Ok((project.clone(), point.clone())),
        (None, Some(name), point) => Ok((name.clone(), point.clone())),
        (None, None, _) => Err(Error::new(Class::Usage, "which project?").hint("ize mount NAME MOUNTPOINT; `ize list` shows the names")),
    }
}

/// What is mounted where, and how.
struct Place<'a> {
    project: &'a Project,
    central: &'a Path,
    mountpoint: PathBuf,
    options: &'a MountOptions,
    over: bool,
}

impl Place<'_> {
    fn mounted(&self) -> String {
        let how = if self.options.read_only { ", read-only" } else { "" };
        format!("`{}` is mounted at {}{how}", self.project.identity.name, self.mountpoint.display())
    }

    /// Creates the mount point if asked to, and refuses what would go wrong.
    fn make_ready(&self, create: bool) -> Result<PathBuf> {
        if !create && std::fs::symlink_metadata(&self.mountpoint).is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound) {
            return Err(Error::new(Class::NotFound, format!("there is no directory {}", self.mountpoint.display()))
                .hint("create it, or let --create do it"));
        }
        prepare(&self.mountpoint, self.central, self.over)
    }

    /// Holds the project open and serves the mount until it is taken away. Who waits for the mount is told how it went.
    fn serve(&self, background: Option<Background>, session: &Session) -> Result<()> {
        let mut waiting = background;
        let result = if self.options.read_only { self.look(&mut waiting) } else { self.open_and_serve(&mut waiting, session) };
        match &result {
            Err(e) if waiting.is_some() => {
                if let Some(waiting) = waiting {
                    waiting.failed(e);
                }
            }
            // The log is all that is left to say it to; in the foreground the caller says it.
            Err(e) if daemon::in_background() => tracing::error!("{e}"),
            _ => {}
        }
        result
    }

    /// Nobody may write: nothing in the store changes, not even a log of the daemon.
    fn look(&self, waiting: &mut Option<Background>) -> Result<()> {
        let at = prepare(&self.mountpoint, self.central, self.over)?;
        let open = ReadOnly::open(self.project)?;
        let mut report = Report::default();
        report.warnings.extend(open.findings.iter().map(|f| format!("{f}; what comes after it is not shown")));
        report.warnings.extend(open.notes.iter().cloned());
        report.reports.push(format!("shown as after {}; nothing was recovered, nothing in the store changes", open.end));
        mount::serve(Arc::clone(&open.fs), &self.project.identity.name, &at, self.options, || self.ready(waiting, report)).map(drop)
    }

    fn open_and_serve(&self, waiting: &mut Option<Background>, session: &Session) -> Result<()> {
        let project = self.project;
        let settings = session.settings(project, &[])?;
        let at = prepare(&self.mountpoint, self.central, self.over)?;
        let engine = Engine::open(project, &settings).map_err(|e| may_look(e, project))?;
        let server = {
            let engine = Arc::clone(&engine);
            Server::start(&project.layout, project.identity.owner_uid, move |request, uid| engine.handle(request, uid))?
        };
        let unmount = {
            let at = at.clone();
            Box::new(move |lazy| mount::unmount(&at, lazy))
        };
        engine.set_mounted(&at, unmount);
        let remembered = remember(project, &at);
        let report = recovery_report(&engine.core().recovery);
        let served = mount::serve(Arc::clone(&engine.core().fs), &project.identity.name, &at, self.options, || self.ready(waiting, report));
        // Said before the lock is let go: who waits for the end may look here then.
        tracing::info!("`{}` is unmounted", project.identity.name);
        let closed = engine.close();
        server.stop(LAST_ANSWERS);
        if let Err(e) = remembered {
            tracing::warn!("{e}");
        }
        served.map(drop).and(closed)
    }

    /// The mount answers: tells whoever waits.
    fn ready(&self, waiting: &mut Option<Background>, report: Report) {
        tracing::info!("{} by ize {}", self.mounted(), env!("CARGO_PKG_VERSION"));
        report.reports.iter().for_each(|line| tracing::info!("{line}"));
        report.warnings.iter().for_each(|line| tracing::warn!("{line}"));
        match waiting.take() {
            Some(waiting) => waiting.ready(report),
            None => {
                report.reports.iter().for_each(|line| output::report(line));
                output::report(&self.mounted());
            }
        }
    }
}

/// Damage stops a mount; a look at what is sound is still possible.
fn may_look(e: Error, project: &Project) -> Error {
    if e.class != Class::Damage {
        return e;
    }
    let look = format!("`ize mount {} --read-only` shows what is sound", project.identity.name);
    let hint = e.hint.as_ref().map_or_else(|| look.clone(), |hint| format!("{hint}; {look}"));
    e.hint(hint)
}

/// Keeps the place for `ize mount NAME`.
fn remember(project: &Project, mountpoint: &Path) -> Result<()> {
    // Settings may have been changed since it was read.
    let mut identity = Project::open(project.layout.dir())?.identity;
    if identity.last_mountpoint.as_deref() == Some(mountpoint) {
        return Ok(());
    }
    identity.last_mountpoint = Some(mountpoint.to_owned());
    identity.write(&project.layout.identity())
}

/// What recovery did, for people; nothing when the project had been closed in order.
fn recovery_report(recovery: &Recovery) -> Report {
    let mut report = Report::default();
    if recovery.operations > 0 && !recovery.clean {
        let (n, bytes) = (recovery.operations, crate::project::units::show_size(recovery.bytes));
        report.reports.push(format!("recovered {n} operations ({bytes}) up to {} in {} ms", recovery.last, recovery.millis));
    }
    report.warnings.extend(recovery.torn.as_ref().map(|torn| format!("a torn tail was cut off and set aside: {torn}")));
    report.warnings.extend(recovery.findings.iter().cloned());
    report
}

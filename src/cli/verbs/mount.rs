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
use crate::error::{Class, Error, IoContext, Result};
use crate::fuse::MountOptions;
use crate::fuse::daemon::{self, Background};
use crate::fuse::mount;
use crate::project::{Project, lock, registry};

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
    let options = MountOptions::parse(lists.collect::<Result<Vec<_>>>()?)?;
    let central = session.central()?;
    let project = match registry::find(&central, &word) {
        Err(e) if e.class == Class::NotFound && args.create => {
            let name = word.to_str().ok_or_else(|| Error::new(Class::Usage, "a project's name is plain text"))?;
            let project = registry::init(&central, name)?;
            output::report(&format!("created project `{name}`"));
            project
        }
        Err(e) if e.class == Class::NotFound => return Err(e.hint("create it with `ize init`, or on the way with --create")),
        other => other?,
    };
    let name = &project.identity.name;
    let mountpoint = mountpoint.or_else(|| project.identity.last_mountpoint.clone());
    let mountpoint = mountpoint.ok_or_else(|| {
        Error::new(Class::Usage, format!("`{name}` was not mounted before: where?")).hint(format!("ize mount {name} MOUNTPOINT"))
    })?;
    let mountpoint = std::path::absolute(&mountpoint).doing(|| format!("cannot find {}", mountpoint.display()))?;
    if args.foreground || background.is_some() {
        return serve(&project, &mountpoint, &options, args.over, background, session);
    }
    // Asked here too, so that the common mistakes are answered without starting anything.
    lock::outlive(&project.layout, DEATH)?;
    if let Some(holder) = lock::held_by(&project.layout)? {
        return Err(lock::busy(&project.layout, holder.as_ref()));
    }
    let mountpoint = make_ready(&mountpoint, &project, args)?;
    let mut command: Vec<OsString> = vec!["--central-dir".into(), absolute(central.dir())?.into_os_string(), "mount".into()];
    for list in &args.options {
        command.extend(["-o".into(), list.clone()]);
    }
    command.extend(args.over.then(|| "--over".into()));
    command.extend((0..session.global.verbose).map(|_| "-v".into()));
    command.extend(["--".into(), project.identity.id.to_string().into(), mountpoint.clone().into_os_string()]);
    daemon::start(&command, &project.layout.daemon_log())?;
    if let Ok(text) = std::fs::read(project.layout.last_recovery())
        && let Ok(recovery) = serde_json::from_slice::<Recovery>(&text)
    {
        say_recovery(&recovery);
    }
    output::report(&format!("`{name}` is mounted at {}", mountpoint.display()));
    Ok(())
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).doing(|| format!("cannot find {}", path.display()))
}

/// Creates the mount point if asked to, and refuses what would go wrong.
fn make_ready(mountpoint: &Path, project: &Project, args: &MountArgs) -> Result<PathBuf> {
    match std::fs::symlink_metadata(mountpoint) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && args.create => {
            std::fs::create_dir_all(mountpoint).doing(|| format!("cannot create {}", mountpoint.display()))?;
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::new(Class::NotFound, format!("there is no directory {}", mountpoint.display()))
                .hint("create it, or let --create do it"));
        }
        Ok(_) | Err(_) => {}
    }
    mount::prepare(mountpoint, project.layout.dir(), args.over)
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

/// Holds the project open and serves the mount until it is taken away. Who waits for the mount is told how it went.
fn serve(
    project: &Project,
    mountpoint: &Path,
    options: &MountOptions,
    over: bool,
    background: Option<Background>,
    session: &Session,
) -> Result<()> {
    let mut waiting = background;
    let result = open_and_serve(project, mountpoint, options, over, &mut waiting, session);
    if let (Err(e), Some(waiting)) = (&result, waiting) {
        waiting.failed(e);
    }
    result
}

fn open_and_serve(
    project: &Project,
    mountpoint: &Path,
    options: &MountOptions,
    over: bool,
    waiting: &mut Option<Background>,
    session: &Session,
) -> Result<()> {
    let settings = session.settings(project, &[])?;
    let mountpoint = mount::prepare(mountpoint, project.layout.dir(), over)?;
    let engine = Engine::open(project, &settings)?;
    if waiting.is_none() {
        say_recovery(&engine.core().recovery);
    }
    let server = {
        let engine = Arc::clone(&engine);
        Server::start(&project.layout, project.identity.owner_uid, move |request, uid| engine.handle(request, uid))?
    };
    let unmount = {
        let mountpoint = mountpoint.clone();
        Box::new(move || mount::unmount(&mountpoint, false))
    };
    engine.set_mounted(&mountpoint, options.read_only, unmount);
    let remembered = remember(project, &mountpoint);
    let in_foreground = waiting.is_none();
    let served = mount::serve(Arc::clone(&engine.core().fs), &project.identity.name, &mountpoint, options, || match waiting.take() {
        Some(waiting) => waiting.ready(),
        None if in_foreground => output::report(&format!("`{}` is mounted at {}", project.identity.name, mountpoint.display())),
        None => {}
    });
    let closed = engine.close();
    server.stop(LAST_ANSWERS);
    if let Err(e) = remembered {
        tracing::warn!("{e}");
    }
    served.map(drop).and(closed)
}

/// Keeps the place for `ize mount NAME`.
fn remember(project: &Project, mountpoint: &Path) -> Result<()> {
    if project.identity.last_mountpoint.as_deref() == Some(mountpoint) {
        return Ok(());
    }
    let mut identity = project.identity.clone();
    identity.last_mountpoint = Some(mountpoint.to_owned());
    identity.write(&project.layout.identity())
}

fn say_recovery(recovery: &Recovery) {
    if recovery.operations > 0 && !recovery.clean {
        let (n, bytes) = (recovery.operations, crate::project::units::show_size(recovery.bytes));
        output::report(&format!("recovered {n} operations ({bytes}) up to {} in {} ms", recovery.last, recovery.millis));
    }
    if let Some(torn) = &recovery.torn {
        output::warn(&format!("a torn tail was cut off and set aside: {torn}"));
    }
    for finding in &recovery.findings {
        output::warn(finding);
    }
}

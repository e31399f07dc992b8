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
use crate::error::{Class, Error, IoContext, Result};
use crate::fuse::daemon;
use crate::fuse::mount::{self, MountOptions};
use crate::project::{Project, registry};

/// How long requests that are being answered may take when the daemon ends.
const LAST_ANSWERS: Duration = Duration::from_secs(10);

/// Mounts a project: in the background, returning when the mount answers, or in the foreground until it is unmounted.
///
/// # Errors
/// What the words mean; `Busy` when it is mounted already; what recovery says; what the kernel says.
pub fn run(args: &MountArgs, session: &mut Session) -> Result<()> {
    let (word, mountpoint) = words(args, session)?;
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
    let Some(mountpoint) = mountpoint.or_else(|| project.identity.last_mountpoint.clone()) else {
        let name = &project.identity.name;
        return Err(Error::new(Class::Usage, format!("`{name}` was not mounted before: where?"))
            .hint(format!("ize mount {name} MOUNTPOINT")));
    };
    let mountpoint = std::path::absolute(&mountpoint).doing(|| format!("cannot find {}", mountpoint.display()))?;
    let options = MountOptions::parse(&args.options)?;
    if args.create {
        std::fs::create_dir_all(&mountpoint).doing(|| format!("cannot create {}", mountpoint.display()))?;
    }
    if args.foreground || daemon::is_child() {
        return serve(&project, &mountpoint, &options, session);
    }
    // Checked here too, so that the common mistakes are reported without a daemon.
    mount::check(&mountpoint, project.layout.dir(), &options)?;
    daemon::start(&project.layout.daemon_log(), &mountpoint)?;
    output::report(&format!("`{}` is mounted at {}", project.identity.name, mountpoint.display()));
    Ok(())
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

/// Holds the project open and serves the mount until it is taken away.
fn serve(project: &Project, mountpoint: &Path, options: &MountOptions, session: &Session) -> Result<()> {
    let result = open_and_serve(project, mountpoint, options, session);
    if let Err(e) = &result {
        // Does nothing when the mount had answered before.
        daemon::report_failure(e);
    }
    result
}

fn open_and_serve(project: &Project, mountpoint: &Path, options: &MountOptions, session: &Session) -> Result<()> {
    let settings = session.settings(project, &[])?;
    mount::check(mountpoint, project.layout.dir(), options)?;
    let engine = Engine::open(project, &settings)?;
    say_recovery(&engine);
    let server = {
        let engine = Arc::clone(&engine);
        Server::start(&project.layout, project.identity.owner_uid, move |request, uid| engine.handle(request, uid))?
    };
    let unmount = {
        let mountpoint = mountpoint.to_owned();
        Box::new(move || mount::unmount(&mountpoint, false))
    };
    engine.set_mounted(mountpoint, options.read_only(), unmount);
    let remembered = remember(project, mountpoint);
    let served = mount::serve(Arc::clone(&engine.core().fs), &project.identity.name, mountpoint, options, |ready| {
        if ready.is_ok() {
            daemon::report_ready();
        }
    });
    let closed = engine.close();
    server.stop(LAST_ANSWERS);
    if let Err(e) = remembered {
        output::warn(&e.to_string());
    }
    served.and(closed)
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

fn say_recovery(engine: &Engine) {
    let recovery = &engine.core().recovery;
    if !recovery.clean || recovery.torn.is_some() {
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

//! `ize unmount NAME|MOUNTPOINT`.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cli::args::UnmountArgs;
use crate::cli::grammar::Paths;
use crate::cli::output;
use crate::cli::session::Session;
use crate::control::{Client, Request};
use crate::error::{Class, Error, Result};
use crate::project::lock;
use crate::project::mounts::{self, Mounts};
use crate::project::registry::Project;

/// How long the daemon may take from its answer to its end: it makes the last version and waits for Pijul while that gets on.
const END_WITHIN: Duration = Duration::from_secs(300);

/// Has the daemon make everything durable and unmount, and waits until it has let go of the project. The mount of a dead daemon is
/// detached.
///
/// # Errors
/// [`Class::NotFound`] when it is not mounted, [`Class::Busy`] when the daemon does not end, and what the daemon answers.
pub fn run(args: &UnmountArgs, session: &mut Session) -> Result<()> {
    if let Some(word) = &args.word
        && session.global.project.is_none()
        && let Some(point) = dead_mount_at(word)?
    {
        return detach(&point);
    }
    let project = session.meant(args.word.as_slice(), Paths::Zero)?.project;
    let name = &project.identity.name;
    match Client::connect(&project.layout) {
        Ok(mut daemon) => {
            daemon.call::<Value>(&Request::Unmount)?;
            wait_for_end(&project)?;
            if !lock::was_closed(&project.layout) {
                let log = project.layout.daemon_log();
                return Err(Error::new(Class::Io, format!("`{name}` was unmounted, but could not be closed in order"))
                    .hint(format!("{} says why; mount it again to recover", log.display())));
            }
            output::report(&format!("unmounted `{name}`; everything in it is durable"));
            Ok(())
        }
        Err(e) if e.class == Class::DaemonGone => {
            let world = session.world()?;
            let dead: Vec<_> = world.mounts_of(&project).filter(|m| m.is_stale()).map(|m| m.point.clone()).collect();
            if dead.is_empty() {
                return Err(Error::new(Class::NotFound, format!("`{name}` is not mounted")).hint("`ize list` shows what is mounted where"));
            }
            dead.iter().try_for_each(|point| detach(point))
        }
        Err(e) => Err(e),
    }
}

/// The mount point that `word` says by the letter, if the daemon behind it is dead: then no project need be known.
fn dead_mount_at(word: &std::ffi::OsStr) -> Result<Option<std::path::PathBuf>> {
    let Ok(path) = std::path::absolute(word) else { return Ok(None) };
    // Through its components, which leaves out a trailing slash.
    let path: std::path::PathBuf = path.components().collect();
    let mounts = Mounts::load()?;
    Ok(mounts.at(&path).filter(|m| m.is_ize() && m.is_stale()).map(|m| m.point.clone()))
}

fn detach(point: &std::path::Path) -> Result<()> {
    mounts::detach(point)?;
    output::warn(&format!(
        "the daemon of {} was gone; its mount was taken away, the next mount recovers what it had answered",
        point.display()
    ));
    Ok(())
}

fn wait_for_end(project: &Project) -> Result<()> {
    let deadline = Instant::now() + END_WITHIN;
    while lock::held_by(&project.layout)?.is_some() {
        if Instant::now() > deadline {
            return Err(Error::new(Class::Busy, format!("`{}` was unmounted, but its daemon has not ended", project.identity.name))
                .hint("everything is durable; `ize list` and `meta/daemon.log` say more"));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

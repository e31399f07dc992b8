//! `ize unmount NAME|MOUNTPOINT`.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cli::args::UnmountArgs;
use crate::cli::grammar::Paths;
use crate::cli::output;
use crate::cli::session::Session;
use crate::control::message::UnmountRequest;
use crate::control::{Client, Request};
use crate::error::{Class, Error, Result};
use crate::project::holders::{self, Holder};
use crate::project::lock;
use crate::project::mounts::{self, Mounts};
use crate::project::registry::Project;

/// How long the daemon may take from its answer to its end: it makes the last version and waits for Pijul while that gets on.
const END_WITHIN: Duration = Duration::from_secs(300);
/// Who only looks (`ize list`, a file manager) holds a mount for an instant: so long it is tried again in any case.
const FLEETING: Duration = Duration::from_millis(500);
/// How often it is tried.
const AGAIN: Duration = Duration::from_millis(100);
/// Most lines of the table of those who hold something.
const HOLDERS_SHOWN: usize = 50;

/// Has the daemon make everything durable and unmount, and waits until it has let go of the project. The mount of a dead daemon is
/// detached.
///
/// # Errors
/// [`Class::NotFound`] when it is not mounted; [`Class::Busy`] when something in it is in use (everything is durable then, and a table on
/// stderr says who) or the daemon does not end; what the daemon answers.
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
            let request = Request::Unmount(UnmountRequest { lazy: args.lazy });
            patiently(args, &project, session, || daemon.call::<Value>(&request).map(drop))?;
            if args.lazy && !ends_soon(&project)? {
                output::report(&format!(
                    "detached `{name}`; everything in it is durable; its daemon ends when nothing in it is open any more"
                ));
                return Ok(());
            }
            wait_for_end(&project)?;
            if !lock::was_closed(&project.layout) {
                let log = project.layout.daemon_log();
                return Err(Error::new(Class::Io, format!("`{name}` was unmounted, but could not be closed in order"))
                    .hint(format!("{} says why; mount it again to recover", log.display())));
            }
            output::report(&format!("unmounted `{name}`; everything in it is durable"));
            Ok(())
        }
        Err(e) if e.class == Class::DaemonGone => without_daemon(args, &project, session),
        Err(e) => Err(e),
    }
}

/// Mounts that no daemon answers for: those of the dead are detached; those that are read-only have nothing to make durable.
fn without_daemon(args: &UnmountArgs, project: &Project, session: &Session) -> Result<()> {
    let name = &project.identity.name;
    let world = session.world()?;
    let points: Vec<_> = world.mounts_of(project).map(|m| (m.point.clone(), m.is_stale())).collect();
    if points.is_empty() {
        return Err(Error::new(Class::NotFound, format!("`{name}` is not mounted")).hint("`ize list` shows what is mounted where"));
    }
    for (point, stale) in points {
        if stale {
            detach(&point)?;
            continue;
        }
        let take = || {
            mounts::take_away(&point, args.lazy).map_err(|e| match e.raw_os_error() {
                Some(libc::EBUSY) => Error::new(Class::Busy, format!("{} is in use", point.display())),
                _ => Error::io(format!("cannot unmount {}", point.display()), e),
            })
        };
        patiently(args, project, session, take)?;
        output::report(&format!("unmounted `{name}` from {}", point.display()));
    }
    Ok(())
}

/// Tries until `--wait` is over; says then who is in the way.
fn patiently(args: &UnmountArgs, project: &Project, session: &Session, mut attempt: impl FnMut() -> Result<()>) -> Result<()> {
    let deadline = Instant::now() + args.wait.unwrap_or_default().max(FLEETING);
    loop {
        match attempt() {
            Err(e) if e.class == Class::Busy => {
                if Instant::now() < deadline {
                    std::thread::sleep(AGAIN);
                    continue;
                }
                show_holders(project, session);
                return Err(e.hint(
                    "everything that programs were told is durable; end what is listed, or use --wait 30s, or --lazy to take the name away now",
                ));
            }
            other => return other,
        }
    }
}

/// The table of those who hold something. It only informs: what cannot be found out is left out.
fn show_holders(project: &Project, session: &Session) {
    let Ok(world) = session.world() else { return };
    // Afresh: the world's table may be from before.
    let points: Vec<PathBuf> = world.mounts_of(project).map(|m| m.point.clone()).collect();
    let Ok(now) = Mounts::load() else { return };
    let found: Vec<Holder> = points.iter().filter_map(|p| now.at(p)).filter_map(|m| holders::of(m).ok()).flatten().collect();
    if found.is_empty() {
        output::report("who holds it cannot be seen from here (processes of other users are seen by root only)");
        return;
    }
    output::report(&format!("{:>8}  {:15}  {:7}  {}", "PID", "COMMAND", "HOW", "PATH"));
    for h in found.iter().take(HOLDERS_SHOWN) {
        let pid = h.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        let (comm, path) = (output::name(h.comm.as_bytes()), output::name(h.path.as_os_str().as_bytes()));
        output::report(&format!("{pid:>8}  {comm:15}  {:7}  {path}", h.how));
    }
    if found.len() > HOLDERS_SHOWN {
        output::report(&format!("{:>8}  and {} more", "", found.len() - HOLDERS_SHOWN));
    }
}

/// The mount point that `word` says by the letter, if the daemon behind it is dead: then no project need be known.
fn dead_mount_at(word: &std::ffi::OsStr) -> Result<Option<PathBuf>> {
    let Ok(path) = std::path::absolute(word) else { return Ok(None) };
    // Through its components, which leaves out a trailing slash.
    let path: PathBuf = path.components().collect();
    let mounts = Mounts::load()?;
    Ok(mounts.at(&path).filter(|m| m.is_ize() && m.is_stale()).map(|m| m.point.clone()))
}

fn detach(point: &Path) -> Result<()> {
    mounts::detach(point)?;
    output::warn(&format!(
        "the daemon of {} was gone; its mount was taken away, the next mount recovers what it had answered",
        point.display()
    ));
    Ok(())
}

/// Whether nothing was open, so that the daemon is as good as done.
fn ends_soon(project: &Project) -> Result<bool> {
    let deadline = Instant::now() + 2 * FLEETING;
    while lock::held_by(&project.layout)?.is_some() {
        if Instant::now() > deadline {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(true)
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

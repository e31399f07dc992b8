//! `ize list`.

use std::os::unix::ffi::OsStrExt;

use serde_json::{Map, Value};

use crate::cli::args::ListArgs;
use crate::cli::environment::World;
use crate::cli::output;
use crate::cli::session::Session;
use crate::error::{Error, Result};
use crate::project::registry;

/// Lists the projects by name, with where they are mounted.
///
/// # Errors
/// What is wrong with the first project that cannot be read, after the others were listed.
pub fn run(args: &ListArgs, session: &mut Session) -> Result<()> {
    let central = session.central()?;
    let world = World::new(central.clone());
    let listing = registry::list(&central)?;
    let only = session.global.project.clone();
    if let Some(word) = &only {
        registry::find(&central, word)?;
    }
    let shown = || listing.projects.iter().filter(|p| only.as_ref().is_none_or(|w| p.identity.answers_to(w)));
    let width = shown().map(|p| p.identity.name.len()).max().unwrap_or(0);
    for p in shown() {
        // A mount of a dead daemon is stale: there, but nobody answers.
        let mounts: Vec<_> = world.mounts_of(p).map(|m| (m.point.as_os_str().as_bytes(), m.is_stale(), m.read_only)).collect();
        if args.json {
            let mut object = Map::new();
            object.insert("name".into(), p.identity.name.clone().into());
            object.insert("id".into(), p.identity.id.to_string().into());
            output::put_path(&mut object, "dir", p.layout.dir().as_os_str().as_bytes());
            object.insert("created".into(), output::json_time(p.identity.created).into());
            let mounted = mounts.iter().map(|(point, stale, read_only)| {
                let mut mount = Map::new();
                output::put_path(&mut mount, "mountpoint", point);
                mount.insert("stale".into(), (*stale).into());
                mount.insert("read_only".into(), (*read_only).into());
                Value::from(mount)
            });
            object.insert("mounted".into(), mounted.collect());
            session.out.json(&object)?;
        } else {
            let place = if mounts.is_empty() {
                "not mounted".to_owned()
            } else {
                let one = |(point, stale, read_only): &(&[u8], bool, bool)| {
                    let how = match (stale, read_only) {
                        (true, _) => " (daemon gone)",
                        (false, true) => " (read-only)",
                        (false, false) => "",
                    };
                    format!("{}{how}", output::name(point))
                };
                mounts.iter().map(one).collect::<Vec<_>>().join(", ")
            };
            session.out.line(&format!("{:width$}  {}  {place}", p.identity.name, p.identity.id))?;
        }
    }
    if only.is_some() {
        return Ok(());
    }
    let mut unreadable = listing.unreadable.into_iter();
    let first = unreadable.next();
    for (_, e) in unreadable {
        output::warn(&e.message);
    }
    first.map_or(Ok(()), |(dir, e)| Err(Error { message: format!("{} is not listed: {}", dir.display(), e.message), ..e }))
}

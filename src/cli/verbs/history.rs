//! `ize history`.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;

use serde_json::{Map, Value, json};

use crate::cli::args::HistoryArgs;
use crate::cli::grammar::Paths;
use crate::cli::output::{self, Role, put_path};
use crate::cli::session::Session;
use crate::engine::pijul_index;
use crate::engine::states::Store;
use crate::error::{Class, Error, Result};
use crate::ids::{Lsn, VersionSeq};
use crate::versions::version_log::{PathChange, Version, What};

/// Paths that one change shows to people.
const SHOWN: usize = 8;

/// Lists changes, the newest first; with a path, those that touch it or something in it.
///
/// # Errors
/// What the words mean; damage or I/O errors; `Failed` when no change touches the path.
pub fn run(args: &HistoryArgs, session: &mut Session) -> Result<()> {
    let meant = session.meant(&args.words, Paths::AtMostOne)?;
    let store = Store::open(&meant.project.layout, meant.project.identity.id)?;
    let path = meant.paths.first().map(|p| p.as_os_str().as_bytes().to_vec()).unwrap_or_default();
    session.out.page(!session.global.no_pager && !args.json);
    let hashes = pijul_index::read(&meant.project.layout)?;
    let limit = args.count.unwrap_or(u64::MAX);
    let mut found = 0;
    let numbers = store.versions().numbers();
    let order: Box<dyn Iterator<Item = VersionSeq>> = if args.reverse { Box::new(numbers) } else { Box::new(numbers.rev()) };
    for seq in order {
        if found >= limit {
            break;
        }
        if !store.versions().may_touch(seq, &path) {
            continue;
        }
        let Some(version) = store.versions().get(seq)? else { continue };
        if !touches(&version, &path) {
            continue;
        }
        found += 1;
        if args.json {
            session.out.json(&object(&version, &hashes))?;
        } else {
            show(session, &version, &path)?;
        }
    }
    if found == 0 && !path.is_empty() {
        let message = format!("no change touches `{}`", output::name(&path));
        return Err(Error::new(Class::Failed, message).hint("the newest operations become a change after a pause, or with `ize commit`"));
    }
    let end = store.end()?;
    if !args.json && store.state_at(Lsn(u64::MAX)).is_ok_and(|tree| tree.applied() > store.checkpoint().lsn) {
        session.out.finish()?;
        output::report(&format!("operations up to {end} are newer than the newest change; `ize commit` makes them one now"));
    }
    Ok(())
}

fn touches(version: &Version, path: &[u8]) -> bool {
    let within = |p: &[u8]| path.is_empty() || p == path || p.strip_prefix(path).is_some_and(|rest| rest.first() == Some(&b'/'));
    version.paths.iter().any(|change| within(&change.path) || matches!(&change.what, What::Moved { from } if within(from)))
        || (path.is_empty() && version.paths.is_empty())
}

/// `write: a.txt and 2 more`.
fn summary(version: &Version) -> String {
    let Some(first) = version.paths.first() else { return "nothing changed".to_owned() };
    let more = version.paths.len() - 1;
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    format!("{}: {}{more}", word(first), shown(&first.path))
}

fn word(change: &PathChange) -> &'static str {
    match change.what {
        What::Added => "create",
        What::Modified => "write",
        What::Removed => "delete",
        What::Moved { .. } => "rename",
    }
}

fn shown(path: &[u8]) -> String {
    if path.is_empty() { ".".to_owned() } else { output::name(path) }
}

pub(super) fn object(version: &Version, hashes: &BTreeMap<VersionSeq, String>) -> Value {
    let mut object = Map::new();
    object.insert("id".into(), json!(version.id.to_string()));
    object.insert("seq".into(), json!(version.seq.0));
    object.insert("hash".into(), json!(hashes.get(&version.seq)));
    object.insert("time".into(), json!(output::json_time(version.end)));
    object.insert("begin".into(), json!(output::json_time(version.begin)));
    object.insert("lsn".into(), json!({ "first": version.first, "last": version.last, "at": version.last.to_string() }));
    let names: Vec<String> = version.processes.iter().map(|p| String::from_utf8_lossy(&p.comm).into_owned()).collect();
    object.insert("process".into(), json!(unique(&names).join(", ")));
    let processes = version.processes.iter().zip(&names);
    let processes: Vec<Value> =
        processes.map(|(p, comm)| json!({ "pid": p.pid, "comm": comm, "uid": p.uid, "session": p.session })).collect();
    object.insert("processes".into(), json!(processes));
    object.insert("message".into(), json!(version.label.clone().unwrap_or_else(|| summary(version))));
    object.insert("label".into(), json!(version.label));
    object.insert("paths".into(), json!(version.paths.iter().map(|c| String::from_utf8_lossy(&c.path).into_owned()).collect::<Vec<_>>()));
    let changes: Vec<Value> = version
        .paths
        .iter()
        .map(|change| {
            let mut entry = Map::new();
            entry.insert("what".into(), json!(word(change)));
            put_path(&mut entry, "path", &change.path);
            if let What::Moved { from } = &change.what {
                put_path(&mut entry, "from", from);
            }
            Value::Object(entry)
        })
        .collect();
    object.insert("changes".into(), json!(changes));
    object.insert("part".into(), json!(version.part));
    object.insert("parts".into(), json!(version.parts));
    object.insert("stands_for".into(), json!(version.thinned));
    object.insert("operations".into(), json!(version.operations));
    object.insert("bytes".into(), json!(version.bytes));
    Value::Object(object)
}

pub(super) fn unique(names: &[String]) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    for name in names.iter().filter(|n| !n.is_empty()) {
        if !out.contains(name) {
            out.push(name.clone());
        }
    }
    out
}

pub(super) fn show(session: &mut Session, version: &Version, path: &[u8]) -> Result<()> {
    let names: Vec<String> = version.processes.iter().map(|p| output::name(&p.comm)).collect();
    let who = unique(&names).join(", ");
    let label = version.label.as_ref().map(|l| format!("  {}", output::name(l.as_bytes()))).unwrap_or_default();
    let who = if who.is_empty() { String::new() } else { format!("  {who}") };
    let id = session.out.paint(Role::Id, &version.id.to_string());
    let (time, who) = (output::time(version.end), session.out.paint(Role::Aside, &who));
    let part = if version.parts > 1 { format!(" ({} of {})", version.part, version.parts) } else { String::new() };
    let others = if version.thinned == 1 { "other" } else { "others" };
    let stands = if version.thinned == 0 { String::new() } else { format!("  stands for {} {others}", version.thinned) };
    let stands = session.out.paint(Role::Aside, &stands);
    session.out.line(&format!("{id}  {time}  {}{part}{who}{label}{stands}", version.last))?;
    let of_path = |c: &&PathChange| path.is_empty() || touches_one(c, path);
    let changes: Vec<&PathChange> = version.paths.iter().filter(of_path).collect();
    for change in changes.iter().take(SHOWN) {
        let from = if let What::Moved { from } = &change.what { format!("{} -> ", shown(from)) } else { String::new() };
        let role = match change.what {
            What::Added => Role::Good,
            What::Removed => Role::Bad,
            What::Modified | What::Moved { .. } => Role::Change,
        };
        let what = session.out.paint(role, &format!("{:6}", word(change)));
        session.out.line(&format!("    {what} {from}{}", shown(&change.path)))?;
    }
    if changes.len() > SHOWN {
        session.out.line(&format!("    ... and {} more", changes.len() - SHOWN))?;
    }
    Ok(())
}

fn touches_one(change: &PathChange, path: &[u8]) -> bool {
    let within = |p: &[u8]| p == path || p.strip_prefix(path).is_some_and(|rest| rest.first() == Some(&b'/'));
    within(&change.path) || matches!(&change.what, What::Moved { from } if within(from))
}

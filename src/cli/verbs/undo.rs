//! `ize undo`, `ize redo`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::history;
use crate::cli::access::Access;
use crate::cli::args::UndoArgs;
use crate::cli::grammar::{Environment, Paths};
use crate::cli::output::{self, Role, put_path};
use crate::cli::session::Session;
use crate::control::Request;
use crate::control::message::{CommitReport, CommitRequest, CommittedVersion};
use crate::engine::states::Store;
use crate::engine::undo::line::{Order, Way};
use crate::engine::undo::{Blocked, Prepared, Through, prepare};
use crate::error::{Class, Error, Result};
use crate::project::Project;
use crate::versions::version_log::Version;

/// Changes that are named in a hint.
const NAMED: usize = 5;

/// Takes a change back, or makes it again; first says whose it is and what that does. It is itself a change.
///
/// # Errors
/// What the words mean; `NotFound` when there is nothing; `Refused` when later changes stand in the way, without a yes where something would
/// go, and when files have changed since the preview; what stands in the way of a step.
pub fn run(args: &UndoArgs, way: Way, session: &mut Session) -> Result<()> {
    let (front, change) = words(args, session)?;
    let project = session.meant(&front, Paths::Zero)?.project;
    let order = match (way, change) {
        (Way::Undo, None) => Order::Undo,
        (Way::Undo, Some(id)) => Order::UndoChange(id),
        (Way::Redo, None) => Order::Redo,
        (Way::Redo, Some(id)) => Order::RedoChange(id),
    };
    let (preview, _) = pass(&project, session, &order, None)?;
    if args.json {
        if args.dry_run || !preview.blocked.is_empty() {
            session.out.json(&object(&preview, args.dry_run, None))?;
        }
    } else {
        show(session, &preview)?;
    }
    if !preview.blocked.is_empty() {
        return Err(refusal(&preview));
    }
    if args.dry_run {
        output::report("nothing was changed (--dry-run)");
        return Ok(());
    }
    session.out.flush()?;
    let word = preview.way.word();
    let removed = preview.shown().iter().filter(|s| s.what == "remove").count();
    if removed > 0 {
        output::confirm(&format!("{removed} paths that exist now go (they stay in the history). {}?", capital(word)), args.yes)?;
    } else if std::io::stdin().is_terminal() && std::io::stderr().is_terminal() {
        output::confirm(&format!("{}?", capital(word)), args.yes)?;
    }
    // The same change, whatever others did since the preview.
    let id = preview.version.id.to_string();
    let order = if preview.way == Way::Undo { Order::UndoChange(id) } else { Order::RedoChange(id) };
    let (done, made) = pass(&project, session, &order, Some(preview.digest()))?;
    if args.json {
        return session.out.json(&object(&done, false, made.as_ref()));
    }
    let by = made.map_or_else(String::new, |made| format!(" by change {}", made.id));
    let back = if done.way == Way::Undo { "redo" } else { "undo" };
    let what = if done.is_empty() { "nothing had to change" } else { "done" };
    output::report(&format!("{what}: change {} is {}{by}; `ize {back}` takes that back", done.version.id, past(done.way)));
    Ok(())
}

/// Splits the words: a first one that names a project, or a path, says where; the other is the change.
fn words(args: &UndoArgs, session: &Session) -> Result<(Vec<OsString>, Option<String>)> {
    let text =
        |word: &OsString| word.to_str().map(str::to_owned).ok_or_else(|| Error::new(Class::Usage, "the id of a change is plain text"));
    Ok(match args.words.as_slice() {
        [] => (Vec::new(), None),
        [word] if session.global.project.is_some() => (Vec::new(), Some(text(word)?)),
        [word] => {
            let where_it_is = word.as_encoded_bytes().contains(&b'/') || word == "." || session.world()?.project(word)?.is_some();
            if where_it_is { (vec![word.clone()], None) } else { (Vec::new(), Some(text(word)?)) }
        }
        [front, change, ..] => (vec![front.clone()], Some(text(change)?)),
    })
}

/// Works it out; with the digest of a preview also does it, if it is still the same.
fn pass(project: &Project, session: &Session, order: &Order, digest: Option<String>) -> Result<(Prepared, Option<CommittedVersion>)> {
    let mut access = Access::open(project, session)?;
    let result = in_pass(project, session, order, digest, &mut access);
    let closed = access.close();
    let value = result?;
    closed.map(|()| value)
}

fn in_pass(
    project: &Project,
    session: &Session,
    order: &Order,
    digest: Option<String>,
    access: &mut Access,
) -> Result<(Prepared, Option<CommittedVersion>)> {
    // Only what is in versions can be compared. Pijul is not needed, so nobody waits for it.
    let _: CommitReport = access.call(Request::Commit(CommitRequest { lag: true, ..CommitRequest::default() }))?;
    let store = Store::open(&project.layout, project.identity.id)?;
    let mut prepared = prepare(&store, order)?;
    let Some(digest) = digest else { return Ok((prepared, None)) };
    if !prepared.blocked.is_empty() || prepared.digest() != digest {
        return Err(Error::new(Class::Refused, "the files have changed since the preview, so something else would be done now")
            .hint("look at the preview again"));
    }
    let point;
    let through = match access {
        Access::Here(engine) => Through::Engine(engine),
        Access::Daemon(_) => {
            point = mount_point(project, session)?;
            Through::Mount(&point)
        }
    };
    if !prepared.is_empty() {
        prepared.carry_out(through)?;
    }
    let message = prepared.label();
    let request = CommitRequest {
        message: Some(message.clone()),
        worker: Some(std::process::id()),
        // Where nothing had to change, no version of somebody else's may get the label.
        alone: prepared.is_empty(),
        lag: true,
    };
    let report: CommitReport = access.call(Request::Commit(request))?;
    Ok((prepared, report.versions.into_iter().find(|made| made.message == message)))
}

fn mount_point(project: &Project, session: &Session) -> Result<PathBuf> {
    let world = session.world()?;
    let point = world.mounts_of(project).next().map(|mount| mount.point.clone());
    point.ok_or_else(|| {
        Error::new(Class::Refused, format!("`{}` is open, but its mount is not to be seen from here", project.identity.name))
            .hint("run this where it is mounted, or unmount it first")
    })
}

fn capital(word: &str) -> String {
    let (first, rest) = word.split_at(1);
    first.to_uppercase() + rest
}

const fn past(way: Way) -> &'static str {
    match way {
        Way::Undo => "undone",
        Way::Redo => "made again",
    }
}

fn shown(path: &[u8]) -> String {
    if path.is_empty() { ".".to_owned() } else { output::name(path) }
}

fn who(version: &Version) -> String {
    let names: Vec<String> = version.processes.iter().map(|p| output::name(&p.comm)).collect();
    history::unique(&names).join(", ")
}

fn show(session: &mut Session, prepared: &Prepared) -> Result<()> {
    let word = session.out.paint(Role::Change, prepared.way.word());
    session.out.line(&format!("{word} of"))?;
    history::show(session, &prepared.version, b"")?;
    for step in prepared.shown() {
        let from = step.from.as_ref().map_or_else(String::new, |from| format!("{} -> ", shown(from)));
        session.out.line(&format!("{:10} {from}{}", step.what, shown(&step.path)))?;
    }
    for blocked in &prepared.blocked {
        let word = session.out.paint(Role::Bad, &format!("{:10}", "blocked"));
        session.out.line(&format!("{word} {}: {}", shown(&blocked.path), blocked.why))?;
        for version in &blocked.later {
            let label = version.label.as_ref().map_or_else(String::new, |l| format!("  {}", output::name(l.as_bytes())));
            let id = session.out.paint(Role::Id, &version.id.to_string());
            session.out.line(&format!("    {id}  {}  {}{label}", output::time(version.end), who(version)))?;
        }
        for line in blocked.conflict.iter().flat_map(|text| text.split(|b| *b == b'\n')) {
            session.out.line(&format!("    | {}", output::shown(&String::from_utf8_lossy(line), session.out.is_terminal())))?;
        }
    }
    if let Some(first) = prepared.left.first() {
        let more = prepared.left.len() - 1;
        let more = if more == 0 { String::new() } else { format!(" and {more} more") };
        output::report(&format!("left alone, because versions do not keep them (`ize usage --class-of`): {}{more}", shown(first)));
    }
    if prepared.blocked.is_empty() && prepared.is_empty() {
        output::report("nothing has to change: it is like that already");
    }
    Ok(())
}

/// Why it is not done, and the way out.
fn refusal(prepared: &Prepared) -> Error {
    let mut later: BTreeMap<u64, String> = BTreeMap::new();
    for version in prepared.blocked.iter().flat_map(|b: &Blocked| &b.later) {
        later.insert(version.seq.0, version.id.to_string());
    }
    let word = prepared.way.word();
    let paths = prepared.blocked.len();
    let message =
        format!("{word} of change {} would touch what was changed later, in {paths} paths; nothing was done", prepared.version.id);
    // The newest first: each may be built on the one before.
    let mut names: Vec<String> = later.values().rev().take(NAMED).map(|id| format!("`ize undo {id}`")).collect();
    if later.len() > NAMED {
        names.push(format!("and {} more", later.len() - NAMED));
    }
    let restore = "`ize restore PATH --at CHANGE` brings a path back to what it was after a change";
    let hint = if names.is_empty() {
        restore.to_owned()
    } else {
        format!("undo those first, the newest first: {}; or {restore}", names.join(", "))
    };
    Error::new(Class::Refused, message).hint(hint)
}

fn object(prepared: &Prepared, dry_run: bool, made: Option<&CommittedVersion>) -> Value {
    let path_of = |path: &[u8]| {
        let mut entry = Map::new();
        put_path(&mut entry, "path", path);
        entry
    };
    let steps: Vec<Value> = prepared
        .shown()
        .iter()
        .map(|step| {
            let mut entry = path_of(&step.path);
            entry.insert("what".into(), json!(step.what));
            if let Some(from) = &step.from {
                put_path(&mut entry, "from", from);
            }
            Value::Object(entry)
        })
        .collect();
    let blocked: Vec<Value> = prepared
        .blocked
        .iter()
        .map(|blocked| {
            let mut entry = path_of(&blocked.path);
            entry.insert("why".into(), json!(blocked.why));
            let later: Vec<Value> = blocked
                .later
                .iter()
                .map(|v| json!({ "id": v.id.to_string(), "seq": v.seq.0, "time": output::json_time(v.end), "process": who(v), "label": v.label }))
                .collect();
            entry.insert("changes".into(), json!(later));
            entry.insert("conflict".into(), json!(blocked.conflict.as_ref().map(|text| String::from_utf8_lossy(text).into_owned())));
            Value::Object(entry)
        })
        .collect();
    let left: Vec<Value> = prepared.left.iter().map(|path| Value::Object(path_of(path))).collect();
    json!({
        "way": prepared.way.word(), "dry_run": dry_run, "change": history::object(&prepared.version, &BTreeMap::new()),
        "steps": steps, "blocked": blocked, "left": left,
        "made": made.map(|made| json!({ "id": made.id, "seq": made.seq, "label": made.message })),
    })
}

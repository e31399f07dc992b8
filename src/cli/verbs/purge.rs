//! `ize purge`.

use std::io::{self, IsTerminal};
use std::os::unix::ffi::OsStrExt;

use serde_json::{Map, Value, json};

use crate::cli::args::PurgeArgs;
use crate::cli::grammar;
use crate::cli::output::{self, Role, put_path};
use crate::cli::session::{Meant, Session};
use crate::engine::purge::{Done, Files, Holding, Paths, Preview, Purge, Request};
use crate::error::{Class, Error, Result};
use crate::project::units::show_size;

/// Paths that are shown to people.
const SHOWN: usize = 20;

/// Takes something out of every version, of the log and of the packs. Says first what goes.
///
/// # Errors
/// What the words mean; `Usage` without a confirmation; `Busy` while it is mounted; `Refused` where other files would keep the bytes.
pub fn run(args: &PurgeArgs, session: &mut Session) -> Result<()> {
    let wanted = if args.blob.is_empty() && !args.garbage { grammar::Paths::Some } else { grammar::Paths::Zero };
    let meant = session.meant(&args.words, wanted)?;
    let paths: Vec<Vec<u8>> = meant.paths.iter().map(|p| p.as_os_str().as_bytes().to_vec()).collect();
    if paths.iter().any(Vec::is_empty) {
        return Err(Error::new(Class::Usage, "the root of a project cannot be purged").hint("name what is in it"));
    }
    let settings = session.settings(&meant.project, &[])?;
    let request = Request {
        paths,
        blobs: args.blob.clone(),
        keep_current: args.keep_current,
        everywhere: args.everywhere,
        leave_others: args.leave_others,
        moved_out: args.moved_out,
        leave_moved: args.leave_moved,
        reason: args.reason.clone(),
    };
    let purge = Purge::prepare(&meant.project, &settings, &request).map_err(|e| match e.class {
        Class::Busy => {
            let name = &meant.project.identity.name;
            e.hint(format!("a purge needs it unmounted: `ize unmount {name}` (`ize list` shows where it is), then order it again"))
        }
        _ => e,
    })?;
    let told = show(args, purge.preview(), session).and_then(|()| session.out.flush());
    let goes_on = told.and_then(|()| if args.dry_run { Ok(false) } else { confirmed(args, &meant).map(|()| true) });
    match goes_on {
        Ok(true) => {}
        other => {
            purge.leave()?;
            other?;
            output::report("nothing was purged (--dry-run)");
            return Ok(());
        }
    }
    let done = purge.carry_out()?;
    finished(args, done, session)
}

/// Asks for the project's name.
fn confirmed(args: &PurgeArgs, meant: &Meant) -> Result<()> {
    let name = &meant.project.identity.name;
    let nothing = |what: String| {
        Error::new(Class::Usage, format!("nothing was purged: {what}")).hint(format!("--confirm {name} does it without a question"))
    };
    let given = match &args.confirm {
        Some(given) => given.as_bytes().to_vec(),
        None if !(io::stdin().is_terminal() && io::stderr().is_terminal()) => {
            return Err(nothing("there is nobody to ask for the project's name".to_owned()));
        }
        None => {
            output::report("this cannot be undone. Type the project's name to do it:");
            let mut line = String::new();
            io::stdin().read_line(&mut line).map_err(|e| Error::io("cannot read the answer", e))?;
            line.trim_end_matches('\n').as_bytes().to_vec()
        }
    };
    if given == name.as_bytes() { Ok(()) } else { Err(nothing(format!("`{}` is not the project's name", output::name(&given)))) }
}

fn show(args: &PurgeArgs, preview: &Preview, session: &mut Session) -> Result<()> {
    if args.json {
        let holding = |h: &Option<Holding>| h.map(|h| json!({ "seq": h.seq, "id": h.id.to_string(), "time": output::json_time(h.end) }));
        return session.out.json(&json!({
            "type": "preview", "dry_run": args.dry_run, "versions": preview.versions, "first": holding(&preview.first),
            "last": holding(&preview.last), "inodes": preview.inodes, "unlinked": preview.unlinked, "paths": paths(&preview.paths), "more_paths": preview.paths.more,
            "by_log": paths(&preview.by_log.paths), "more_by_log": preview.by_log.paths.more,
            "by_log_files": preview.by_log.count, "by_log_in_newest": preview.by_log.in_newest,
            "moved": paths(&preview.moved.paths), "more_moved": preview.moved.paths.more,
            "moved_files": preview.moved.count, "moved_in_newest": preview.moved.in_newest, "leave_moved": args.leave_moved,
            "others": paths(&preview.others), "more_others": preview.others.more, "in_newest": preview.in_newest,
            "keep_current": args.keep_current, "logged": preview.logged.iter().map(|one| path(one)).collect::<Vec<_>>(),
            "logged_segments": preview.logged_segments, "log_damaged": preview.log_damaged,
            "names_unknown": preview.names_unknown,
            "garbage_blobs": preview.garbage.map(|(blobs, _)| blobs), "garbage_bytes": preview.garbage.map(|(_, bytes)| bytes),
            "segments": preview.segments.0, "wal_bytes": preview.segments.1, "pijul": preview.pijul,
        }));
    }
    let out = &mut session.out;
    if let Some((blobs, bytes)) = preview.garbage {
        out.line(&format!("What goes is {} of content that no version holds: {} of the packs.", count(blobs, "piece"), show_size(bytes)))?;
        return show_rest(preview, session);
    }
    for path in preview.logged.iter().take(SHOWN) {
        let (path, segments) = (output::name(path), count(preview.logged_segments, "segment"));
        out.line(&format!("No state names {path}; operations on it, or on what was in it, are in {segments} of the log."))?;
    }
    if preview.log_damaged {
        output::warn("some of the log cannot be read: it goes all the same, but under which other names files stood there is not known");
    }
    if preview.names_unknown {
        output::warn(
            "the log does not go back to the end of a version, or not to the path of every directory: under which names files stood in \
             between is not known, and what stood at a path only then stays in versions (name it as it is called now)",
        );
    }
    if args.blob.is_empty() && preview.inodes == 0 {
        out.line(match preview.log_damaged || preview.names_unknown {
            true => "No version is known to have anything that stood there.",
            false => "No version has anything that stood there, and none changes.",
        })?;
        return show_rest(preview, session);
    }
    if args.blob.is_empty() {
        out.line(&format!("{} files, links and directories go, under every path that they had:", preview.inodes))?;
        list(&preview.paths, out)?;
        let by_log = &preview.by_log;
        if by_log.count > 0 {
            let what =
                format!("Of these only the log says that {} stood there, between two versions ({}):", by_log.count, in_newest(by_log));
            let line = out.paint(Role::Warning, &what);
            out.line(&line)?;
            list(&by_log.paths, out)?;
        }
        show_moved(args, &preview.moved, out)?;
    } else {
        out.line("These files keep their entries and lose the bytes:")?;
        list(&preview.others, out)?;
    }
    if let (Some(first), Some(last)) = (preview.first, preview.last) {
        let since = output::time(first.end);
        let versions = count(preview.versions, "version");
        out.line(&format!("{versions} with them: {} ({}, {since}) to {} ({})", first.seq, first.id, last.seq, last.id))?;
    }
    let newest = match (preview.in_newest, args.keep_current) {
        (true, true) => "The newest state has them, and keeps them: bytes that are still in it stay.",
        (true, false) => "The newest state has them: they go from it, too.",
        (false, _) => "The newest state does not have them.",
    };
    out.line(newest)?;
    show_rest(preview, session)?;
    if args.blob.is_empty() && !preview.others.listed.is_empty() {
        let word = match (args.everywhere, args.leave_others) {
            (true, _) => "lose them, too",
            (false, true) => "keep them",
            (false, false) => "would keep them",
        };
        let line = session.out.paint(Role::Warning, &format!("Other files hold the same bytes, and {word}:"));
        session.out.line(&line)?;
        list(&preview.others, &mut session.out)?;
    }
    Ok(())
}

fn in_newest(files: &Files) -> String {
    match files.in_newest {
        0 => "none in the newest state".to_owned(),
        n => format!("{n} in the newest state, which come first"),
    }
}

/// What was only in a directory that is named.
fn show_moved(args: &PurgeArgs, moved: &Files, out: &mut output::Out) -> Result<()> {
    if moved.count == 0 {
        return Ok(());
    }
    let word = match (args.moved_out, args.leave_moved) {
        (true, _) => "go, too",
        (false, true) => "stay where they are",
        (false, false) => "would go, too",
    };
    let files = count(moved.count, "file");
    let what = format!("Moved out of a directory that is named ({files}, {}), these {word}:", in_newest(moved));
    let line = out.paint(Role::Warning, &what);
    out.line(&line)?;
    list(&moved.paths, out)
}

/// What goes in any case.
fn show_rest(preview: &Preview, session: &mut Session) -> Result<()> {
    let (segments, bytes) = preview.segments;
    let (segments, bytes) = (count(segments, "segment"), show_size(bytes));
    session.out.line(&format!("The log goes: {segments}, {bytes}. Single operations until now can no longer be looked at."))?;
    if preview.unlinked > 0 {
        let files = count(preview.unlinked, "unlinked file");
        session.out.line(&format!("What versions have of {files} goes: open and without a name when the version was made."))?;
    }
    if preview.pijul {
        session.out.line("The Pijul repository goes, and the next mount makes it anew: its changes get other hashes.")?;
    }
    Ok(())
}

fn count(n: u64, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

fn list(paths: &Paths, out: &mut output::Out) -> Result<()> {
    let (now, before): (Vec<_>, Vec<_>) = paths.listed.iter().partition(|(_, in_newest)| **in_newest);
    for (path, _) in now.into_iter().chain(before).take(SHOWN) {
        out.line(&format!("    {}", output::name(path)))?;
    }
    let more = paths.listed.len().saturating_sub(SHOWN);
    match (more, paths.more) {
        (0, false) => Ok(()),
        (more, false) => out.line(&format!("    ... and {more} more")),
        (more, true) => out.line(&format!("    ... and more than {more} more")),
    }
}

fn paths(paths: &Paths) -> Vec<Value> {
    let (now, before): (Vec<_>, Vec<_>) = paths.listed.iter().partition(|(_, in_newest)| **in_newest);
    let with = |(one, in_newest): (&Vec<u8>, &bool)| {
        let mut object = path(one);
        if let Value::Object(fields) = &mut object {
            fields.insert("in_newest".to_owned(), Value::Bool(*in_newest));
        }
        object
    };
    now.into_iter().chain(before).map(with).collect()
}

fn path(path: &[u8]) -> Value {
    let mut object = Map::new();
    put_path(&mut object, "path", path);
    Value::Object(object)
}

fn finished(args: &PurgeArgs, done: Done, session: &mut Session) -> Result<()> {
    let Done { versions, blobs, packs, segments, damaged, pijul } = done;
    if args.json {
        session.out.json(&json!({
            "type": "done", "versions": versions, "blobs": blobs, "packs": packs, "segments": segments, "damaged_packs": damaged, "pijul": pijul,
        }))?;
    } else {
        session.out.line(&format!(
            "purged: {versions} versions, {segments} segments and {packs} packs were written anew or went, {blobs} blobs are gone"
        ))?;
    }
    if damaged > 0 {
        return Err(Error::new(Class::Damage, format!("{damaged} packs are damaged and were left: they may hold the bytes still"))
            .hint("`ize fsck --deep` names them"));
    }
    output::report("backups, snapshots and copies of the store may hold the bytes still");
    Ok(())
}

//! `ize fsck`.

use serde_json::{Map, json};

use super::wal::finding::word;
use super::wal::target;
use crate::cli::args::FsckArgs;
use crate::cli::output::progress::Progress;
use crate::cli::output::{self, Role};
use crate::cli::session::Session;
use crate::error::{Class, Error, Result};
use crate::fsck::{self, Affected, Finding, Options, Report};
use crate::ids::StoreId;
use crate::project::units::show_size;
use crate::project::{Layout, Project};
use crate::storage::Disk;
use crate::wal::scan::Verdict;

/// Checks a whole store, and says of each finding which files and versions it concerns and what can be done.
///
/// # Errors
/// What the word means; `TornTail`, `Damage` or `Io` by the worst finding.
pub fn run(args: &FsckArgs, session: &mut Session) -> Result<()> {
    let target = target::find(args.word.as_deref(), session)?;
    let no_store = || {
        Error::new(Class::Usage, "this is no store: fsck needs a project, or its directory with wal/, blobs/ and meta/")
            .hint("`ize wal verify` checks a directory of segments")
    };
    if target.only.is_some() {
        return Err(no_store());
    }
    let layout: Layout = target.layout.clone().ok_or_else(no_store)?;
    let store: StoreId = target.store;
    let mut progress = Progress::new("checking", target.bytes());
    let mut options = Options { deep: args.deep, ..Options::default() };
    // What is wrong with it is among the findings; a setting that cannot be used is no obstacle.
    if let Ok(project) = Project::open(layout.dir()) {
        options.owner = (project.identity.owner_uid, project.identity.owner_gid);
        options.classes = session.settings(&project, &[]).map(|settings| settings.classes).unwrap_or_default();
    }
    let report = fsck::check(&Disk::shared(), &layout, store, &options, &mut |done, more| {
        progress.more(more);
        progress.at(done);
    })?;
    drop(progress);
    summary(args, &report, session)?;
    for finding in &report.findings {
        if args.json { session.out.json(&object(finding))? } else { lines(finding, session)? }
    }
    worst(&report.findings).map_or(Ok(()), Err)
}

fn summary(args: &FsckArgs, report: &Report, session: &mut Session) -> Result<()> {
    let verdict = report.worst().map_or("clean", word);
    let (segments, records, log_bytes) = report.log;
    let (packs, blobs, pack_bytes) = report.packs;
    let states = &report.states;
    if args.json {
        return session.out.json(&json!({
            "type": "summary", "verdict": verdict, "clean": report.findings.is_empty(), "findings": report.findings.len(), "deep": args.deep,
            "segments": segments, "records": records, "wal_bytes": log_bytes, "end": report.end,
            "packs": packs, "blobs": blobs, "blob_bytes": pack_bytes,
            "versions": report.versions, "states": states.states, "directories": states.directories, "files": states.files,
            "chunks": states.chunks, "rebuilt": report.rebuilt, "pending": report.pending,
            "pijul": report.pijul.map(|(version, changes, compared)| json!({ "version": version, "changes": changes, "compared": compared })),
            "notes": report.notes,
        }));
    }
    let role = match report.worst() {
        None => Role::Good,
        Some(Verdict::TornTail) => Role::Warning,
        Some(Verdict::Damage | Verdict::IoError) => Role::Bad,
    };
    let verdict = session.out.paint(role, verdict);
    session.out.line(&format!("{verdict}: {segments} segments, {records} records, {}, up to {}", show_size(log_bytes), report.end))?;
    session.out.line(&format!("{packs} packs, {blobs} blobs, {}", show_size(pack_bytes)))?;
    let pending = match report.pending {
        Some(0) => ", nothing above them".to_owned(),
        Some(n) => format!(", {n} operations above them"),
        None => String::new(),
    };
    session.out.line(&format!(
        "{} versions{pending}; {} directories, {} files, {} chunks looked at",
        report.versions, states.directories, states.files, states.chunks
    ))?;
    let over = if report.passed_over > 0 { format!(" ({} older ones were not: --deep)", report.passed_over) } else { String::new() };
    session.out.line(&format!("{} states made again from the log{over}", report.rebuilt))?;
    if let Some((version, changes, compared)) = report.pijul {
        let compared = if args.deep { format!(", {compared} paths compared") } else { String::new() };
        session.out.line(&format!("Pijul has {changes} changes, up to version {version}{compared}"))?;
    }
    if !args.deep {
        session.out.line("the bytes of chunks were not read (--deep reads them)")?;
    }
    for note in &report.notes {
        session.out.line(&format!("note: {}", output::name(note.as_bytes())))?;
    }
    Ok(())
}

fn place(f: &Finding) -> String {
    let offset = f.offset.map(|o| format!(", offset {o}")).unwrap_or_default();
    let lsn = f.lsn.map(|l| format!(", LSN {l}")).unwrap_or_default();
    format!("{}{offset}{lsn}", output::name_of(&f.file))
}

fn lines(f: &Finding, session: &mut Session) -> Result<()> {
    let role = if f.verdict == Verdict::TornTail { Role::Warning } else { Role::Bad };
    let verdict = session.out.paint(role, word(f.verdict));
    session.out.line(&format!("{verdict}: {}: {}: {}", f.part.word(), place(f), output::name(f.what.as_bytes())))?;
    session.out.line(&format!("  affects: {}", affects(&f.affected)))?;
    session.out.line(&format!("  mend: {}", f.mend))
}

/// In words: files, then versions.
fn affects(a: &Affected) -> String {
    let mut said = Vec::new();
    if !a.paths.is_empty() {
        let shown: Vec<String> = a.paths.iter().map(|p| if p.is_empty() { "/".to_owned() } else { output::name(p) }).collect();
        let more = a.files.saturating_sub(a.paths.len() as u64);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let below = if a.below { ", with all that is in them" } else { "" };
        said.push(format!("{}{more}{below}", shown.join(", ")));
    }
    if let Some((first, last)) = a.versions {
        let range = if first == last { format!("version {first}") } else { format!("versions {first} to {last}") };
        let some = if a.count < last.0 - first.0 + 1 { format!("{} of ", a.count) } else { String::new() };
        said.push(format!("{some}{range}{}", if a.newest { " and the newest state" } else { "" }));
    } else if a.newest {
        said.push("the newest state".to_owned());
    }
    said.extend(a.note.clone());
    said.join("; ")
}

fn object(f: &Finding) -> Map<String, serde_json::Value> {
    let mut object = Map::new();
    object.insert("type".into(), "finding".into());
    object.insert("verdict".into(), word(f.verdict).into());
    object.insert("part".into(), f.part.word().into());
    output::put_file(&mut object, "file", &f.file);
    object.insert("offset".into(), json!(f.offset));
    object.insert("lsn".into(), json!(f.lsn));
    object.insert("through".into(), json!(f.through));
    object.insert("blob".into(), json!(f.blob.map(|b| b.to_string())));
    object.insert("what".into(), f.what.clone().into());
    let a = &f.affected;
    let paths: Vec<_> = a
        .paths
        .iter()
        .map(|path| {
            let mut object = Map::new();
            output::put_path(&mut object, "path", path);
            object
        })
        .collect();
    object.insert("paths".into(), json!(paths));
    object.insert("files".into(), a.files.into());
    object.insert("below".into(), a.below.into());
    object.insert("first_version".into(), json!(a.versions.map(|v| v.0.0)));
    object.insert("last_version".into(), json!(a.versions.map(|v| v.1.0)));
    object.insert("versions".into(), a.count.into());
    object.insert("newest".into(), a.newest.into());
    object.insert("note".into(), json!(a.note));
    object.insert("mend".into(), f.mend.clone().into());
    object
}

/// The worst finding as the error that ends the command.
fn worst(findings: &[Finding]) -> Option<Error> {
    // Of several of a kind the first: later ones may only follow from it.
    let worst = findings.iter().rev().max_by_key(|f| f.verdict)?;
    let class = match worst.verdict {
        Verdict::TornTail => Class::TornTail,
        Verdict::Damage => Class::Damage,
        Verdict::IoError => Class::Io,
    };
    let hint = match worst.verdict {
        Verdict::Damage => format!("copy the project's directory before anything else; {}", worst.mend),
        Verdict::TornTail | Verdict::IoError => worst.mend.clone(),
    };
    Some(Error::new(class, format!("{}: {}", place(worst), worst.what)).hint(hint))
}

//! `ize wal repair`.

use std::ffi::OsStr;
use std::io;
use std::ops::ControlFlow;

use serde_json::{Map, Value};

use super::finding::{self, Finding};
use super::inspect::names_of;
use super::record::Seen;
use super::target::{self, Target};
use super::verify::open_blobs;
use crate::blobs::{BlobState, Blobs};
use crate::cli::args::WalRepairArgs;
use crate::cli::output::times::Clock;
use crate::cli::output::{self, Role};
use crate::cli::session::Session;
use crate::engine::purge;
use crate::error::{Class, Error, Result};
use crate::op::{Decoded, decode};
use crate::project::lock::{self, Lock};
use crate::project::units::show_size;
use crate::wal::Record;
use crate::wal::repair::{self, MAX_LOST_SHOWN, Repair, Repaired};

/// Says what would be cut and which operations are lost, asks, copies what changes, and cuts.
///
/// # Errors
/// What the word means; `Busy` when somebody has the project open; `Refused` without a yes, and while a purge is half done; damage of the checkpoint; I/O errors.
pub fn run(args: &WalRepairArgs, session: &mut Session) -> Result<()> {
    let target = find(args.word.as_deref(), session)?;
    let preview = plan(&target)?;
    if !args.json && !preview.findings.is_empty() {
        session.out.line("found:")?;
    }
    // What is found is why one is here, and no failure of this.
    let findings: Vec<Finding> = preview.findings.iter().map(Finding::from).collect();
    finding::list(&findings, args.json, session)?;
    if !preview.needed {
        summary(args, &preview, None, session)?;
        if !args.json {
            output::report("nothing to repair: a mount takes this log as it is");
        }
        return Ok(());
    }
    show_cut(args, &preview, session)?;
    show_lost(args, &target, &preview, session)?;
    if repair::is_unreadable(&preview) {
        output::warn("a file cannot be read: what is cut because of that may be whole; look at the disk first");
    }
    if args.dry_run {
        summary(args, &preview, None, session)?;
        if !args.json {
            output::report("nothing was changed (--dry-run)");
        }
        return Ok(());
    }
    session.out.flush()?;
    output::confirm(&format!("{} operations are lost to the log (copies are kept). Cut it?", preview.lost_count), args.yes)?;
    let done = carry_out(&target, &preview)?;
    summary(args, &preview, Some(&done), session)?;
    if !args.json {
        output::report(&format!("repaired; what was cut is in {}; the next record is {}", output::name_of(&done.saved), done.next_lsn));
    }
    Ok(())
}

fn find(word: Option<&OsStr>, session: &Session) -> Result<Target> {
    let target = target::find(word, session)?;
    if target.only.is_some() {
        return Err(Error::new(Class::Usage, "a single segment is not repaired: what follows it depends on it")
            .hint("name the project or the directory of the segments"));
    }
    if let Some(layout) = &target.layout
        && let Some(holder) = lock::held_by(layout)?
    {
        return Err(lock::busy(layout, holder.as_ref()));
    }
    // It only goes forward, and the next opening ends it before it reads the log, most of which goes with it. Until then a repair would set
    // copies aside of what is to be nowhere.
    if let Some(layout) = &target.layout
        && purge::is_unfinished(&*target.storage, layout, target.store)?
    {
        let opens = target.project.as_ref().map_or_else(|| "`ize commit`".to_owned(), |p| format!("`ize commit {}`", p.identity.name));
        return Err(Error::new(Class::Refused, "a purge of this project was interrupted, and comes first: most of the log goes with it")
            .hint(format!("{opens} (or a mount) brings it to its end; if that says that the log is damaged, order this again")));
    }
    // Looking does without a checkpoint; a cut that does not know what is committed might go below that.
    if let Some(trouble) = &target.trouble {
        return Err(finding::worst(std::slice::from_ref(trouble)).unwrap_or_else(|| Error::new(Class::Damage, trouble.what.clone())));
    }
    Ok(target)
}

fn plan(target: &Target) -> Result<Repair> {
    let blobs = open_blobs(target)?;
    Ok(repair::plan(&*target.storage, &target.dir, target.store, target.bounds, &mut |record| is_sound(record, blobs.as_ref()))?)
}

/// Whether the blobs that a record names are there; without packs that cannot be said, and nothing is cut for it.
fn is_sound(record: &Record<'_>, blobs: Option<&Blobs>) -> io::Result<bool> {
    let Ok(Decoded::Operation { entry, .. }) = decode(record.kind, record.version, record.body) else { return Ok(true) };
    let (Some((id, _)), Some(blobs)) = (entry.op.blob(), blobs) else { return Ok(true) };
    match blobs.verify(&id) {
        BlobState::Sound => Ok(true),
        BlobState::Missing | BlobState::Damaged(_) => Ok(false),
        BlobState::Unreadable(e) => Err(io::Error::other(format!("blob {id}: {e}"))),
    }
}

fn carry_out(target: &Target, preview: &Repair) -> Result<Repaired> {
    let Some(layout) = &target.layout else {
        return Ok(repair::execute(&*target.storage, &target.dir, target.store, preview)?);
    };
    // Dropped and not released: the next mount recovers with care.
    let (_lock, _) = Lock::acquire(layout)?;
    // Somebody may have had it open since.
    let again = plan(target)?;
    if again.cut != preview.cut || again.set_aside != preview.set_aside {
        return Err(Error::new(Class::Busy, "the log changed since it was looked at; nothing was done").hint("try again"));
    }
    Ok(repair::execute(&*target.storage, &target.dir, target.store, &again)?)
}

fn show_cut(args: &WalRepairArgs, preview: &Repair, session: &mut Session) -> Result<()> {
    let would = if args.dry_run { "would cut" } else { "cut" };
    if let Some(cut) = &preview.cut {
        if args.json {
            let mut object = typed("cut");
            output::put_file(&mut object, "file", &cut.file);
            object.insert("segment".into(), cut.segment.0.into());
            object.insert("offset".into(), cut.offset.into());
            object.insert("lsn".into(), cut.lsn.0.into());
            object.insert("bytes".into(), cut.bytes.into());
            session.out.json(&object)?;
        } else {
            let would = session.out.paint(Role::Bad, would);
            let file = output::name_of(&cut.file);
            session.out.line(&format!("{would} {file} at offset {}, LSN {}: {} bytes go", cut.offset, cut.lsn, cut.bytes))?;
        }
    }
    for (id, file, bytes) in &preview.set_aside {
        if args.json {
            let mut object = typed("set-aside");
            output::put_file(&mut object, "file", file);
            object.insert("segment".into(), id.0.into());
            object.insert("bytes".into(), (*bytes).into());
            session.out.json(&object)?;
        } else {
            let would = session.out.paint(Role::Bad, if args.dry_run { "would set aside" } else { "set aside" });
            session.out.line(&format!("{would} {}, {}", output::name_of(file), show_size(*bytes)))?;
        }
    }
    Ok(())
}

/// The operations behind the cut that can still be read, as inspect shows them.
fn show_lost(args: &WalRepairArgs, target: &Target, preview: &Repair, session: &mut Session) -> Result<()> {
    let Some(cut) = &preview.cut else { return Ok(()) };
    if !args.json {
        let n = preview.lost_count;
        let text = if n == 0 { "no operation that can still be read is lost".to_owned() } else { format!("{n} records are lost:") };
        session.out.line(&text)?;
    }
    let mut names = names_of(target);
    let mut clock = Clock::default();
    let mut shown = 0;
    target.walk(&mut |record, segment| {
        let mut seen = Seen::new(record, segment, &mut names);
        if (segment.id, record.offset) >= (cut.segment, cut.offset) && !record.is_mark() {
            if shown == MAX_LOST_SHOWN {
                return Ok(ControlFlow::Break(()));
            }
            shown += 1;
            if args.json {
                let mut object = seen.json();
                object.insert("type".into(), "lost".into());
                session.out.json(&object)?;
            } else {
                let text = seen.text(&mut clock, &session.out);
                session.out.line(&text)?;
            }
        }
        seen.learn();
        Ok(ControlFlow::Continue(()))
    })?;
    let more = preview.lost_count.saturating_sub(shown as u64);
    if more > 0 && !args.json { session.out.line(&format!("... and {more} more")) } else { Ok(()) }
}

fn summary(args: &WalRepairArgs, preview: &Repair, done: Option<&Repaired>, session: &mut Session) -> Result<()> {
    if !args.json {
        return Ok(());
    }
    let mut object = typed("summary");
    object.insert("needed".into(), preview.needed.into());
    object.insert("dry_run".into(), args.dry_run.into());
    object.insert("repaired".into(), done.is_some().into());
    object.insert("lost".into(), preview.lost_count.into());
    if let Some(done) = done {
        output::put_file(&mut object, "saved", &done.saved);
        object.insert("next_lsn".into(), done.next_lsn.0.into());
    }
    session.out.json(&object)
}

fn typed(what: &str) -> Map<String, Value> {
    let mut object = Map::new();
    object.insert("type".into(), what.into());
    object
}

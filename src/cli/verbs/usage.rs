//! `ize usage`.

use std::os::unix::ffi::OsStrExt;

use serde_json::{Map, json};

use crate::cli::args::{UsageArgs, UsageBy};
use crate::cli::grammar::Paths;
use crate::cli::output::fit::{self, Align};
use crate::cli::output::{self, Role, put_path};
use crate::cli::session::Session;
use crate::engine::states::Store;
use crate::engine::store_size::file_system_size;
use crate::engine::usage::{self, By, Row, Usage};
use crate::error::{Class, Result};
use crate::ids::Lsn;
use crate::project::units::show_size;
use crate::versions::class::{Classes, Decided, Look, Rule};
use crate::versions::node::FileKind;

/// Times that a store that changes meanwhile is looked at again.
const TRIES: u32 = 3;

/// Says what takes the space; or of paths, which class they have.
///
/// # Errors
/// What the words mean; damage or I/O errors.
pub fn run(args: &UsageArgs, session: &mut Session) -> Result<()> {
    if !args.class_of.is_empty() {
        return classes(args, session);
    }
    let meant = session.meant(args.word.as_slice(), Paths::Zero)?;
    let settings = session.settings(&meant.project, &[])?;
    let layout = &meant.project.layout;
    let by = match args.by {
        UsageBy::Path => By::Path(args.depth.filter(|d| *d > 0)),
        UsageBy::Process => By::Process,
        UsageBy::Class => By::Class,
    };
    let mut tries = 0;
    let found = loop {
        let store = Store::open(layout, meant.project.identity.id)?;
        match usage::usage(layout, &store, by, &settings.classes) {
            // Something may have been thinned out under our eyes: then it is not named any more.
            Err(e) if e.class == Class::Damage && tries < TRIES => tries += 1,
            done => break done?,
        }
    };
    let limit = settings.max_store.bytes(file_system_size(layout.dir()));
    session.out.page(!session.global.no_pager && !args.json);
    if args.json { show_json(args, &found, limit, session) } else { show(args, &found, limit, session) }
}

fn show_json(args: &UsageArgs, found: &Usage, limit: Option<u64>, session: &mut Session) -> Result<()> {
    session.out.json(&json!({
        "type": "summary", "bytes": found.size.total(), "max_store": limit, "versions": found.versions,
        "size": found.size, "packs": found.packs, "by": args.by.name(), "rows": found.rows.len(),
    }))?;
    for row in found.rows.iter().take(args.count()) {
        let mut object = Map::new();
        object.insert("type".into(), args.by.name().into());
        match args.by {
            UsageBy::Path => put_path(&mut object, "path", &row.name),
            UsageBy::Process | UsageBy::Class => put_path(&mut object, "name", &row.name),
        }
        if args.by == UsageBy::Process {
            object.insert("written".into(), row.history.into());
        } else {
            object.insert("present".into(), row.present.into());
            object.insert("history".into(), row.history.into());
        }
        session.out.json(&object)?;
    }
    Ok(())
}

fn show(args: &UsageArgs, found: &Usage, limit: Option<u64>, session: &mut Session) -> Result<()> {
    let (size, packs) = (&found.size, &found.packs);
    let of = limit.map_or_else(|| "no limit".to_owned(), |limit| format!("max-store {}", show_size(limit)));
    session.out.line(&format!("{} ({of}), {} versions", show_size(size.total()), found.versions))?;
    session.out.line(&format!("  log       {:>10}", show_size(size.log)))?;
    session.out.line(&format!(
        "  packs     {:>10}  newest state {}, only older versions {}, only the log {}, free {}",
        show_size(size.packs),
        show_size(packs.present),
        show_size(packs.versions),
        show_size(packs.log),
        show_size(packs.free)
    ))?;
    session.out.line(&format!("  metadata  {:>10}", show_size(size.metadata)))?;
    session.out.line(&format!("  pijul     {:>10}", show_size(size.pijul)))?;
    session.out.line(&format!("  reserve   {:>10}", show_size(size.reserve)))?;
    let heads = match args.by {
        UsageBy::Path => ["present", "history", "path"],
        UsageBy::Process => ["written", "", "program"],
        UsageBy::Class => ["present", "history", "class"],
    };
    let name = |row: &Row| if row.name.is_empty() { ".".to_owned() } else { output::name(&row.name) };
    let mut rows: Vec<[String; 3]> = vec![heads.map(str::to_owned)];
    rows.extend(found.rows.iter().take(args.count()).map(|row| match args.by {
        UsageBy::Process => [show_size(row.history), String::new(), name(row)],
        UsageBy::Path | UsageBy::Class => [show_size(row.present), show_size(row.history), name(row)],
    }));
    let widths = fit::widths(&rows);
    for (index, [first, second, name]) in rows.iter().enumerate() {
        let second = if widths[1] == 0 { String::new() } else { format!("  {}", fit::pad(second, widths[1], Align::Right)) };
        let line = format!("{}{second}  {name}", fit::pad(first, widths[0], Align::Right));
        session.out.line(&if index == 0 { session.out.paint(Role::Aside, &line) } else { line })?;
    }
    let more = found.rows.len().saturating_sub(args.count());
    if more > 0 {
        session.out.line(&format!("... and {more} more (-n 0 shows all)"))?;
    }
    Ok(())
}

/// `ize usage --class-of PATH...`: the class of each path in the newest state, and who decided it.
fn classes(args: &UsageArgs, session: &mut Session) -> Result<()> {
    let meant = session.meant(&args.class_of, Paths::Some)?;
    let settings = session.settings(&meant.project, &[])?;
    let store = Store::open(&meant.project.layout, meant.project.identity.id)?;
    let mut tree = store.state_at(Lsn(u64::MAX))?;
    let mut classes = Classes::new(&settings.classes);
    for path in &meant.paths {
        let path = path.as_os_str().as_bytes();
        let is_dir = match tree.resolve(path)? {
            Some(ino) => tree.inode(ino)?.kind == FileKind::Directory,
            None => false,
        };
        let decided = classes.decide(&mut tree as &mut dyn Look, path, is_dir)?;
        if args.json {
            let mut object = Map::new();
            put_path(&mut object, "path", path);
            object.insert("class".into(), decided.class.name().into());
            object.insert("rule".into(), words(&decided).into());
            session.out.json(&object)?;
        } else {
            let shown = if path.is_empty() { ".".to_owned() } else { output::name(path) };
            session.out.line(&format!("{:7} {shown}  ({})", decided.class.name(), words(&decided)))?;
        }
    }
    for problem in &classes.problems {
        output::warn(problem);
    }
    Ok(())
}

fn words(decided: &Decided) -> String {
    let said = match &decided.rule {
        Rule::Nobody => return "nothing else is said of it".to_owned(),
        Rule::Setting(key, pattern) => format!("`{}` in {key}", output::name(pattern.as_bytes())),
        Rule::Line(file, line, text) => format!("`{}`, line {line} of {}", output::name(text.as_bytes()), output::name(file)),
        Rule::Tag(dir) => format!("{}/CACHEDIR.TAG", output::name(dir)),
    };
    match &decided.above {
        Some(dir) => format!("{said}, of {}", output::name(dir)),
        None => said,
    }
}

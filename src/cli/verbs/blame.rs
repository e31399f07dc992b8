//! `ize blame`.

use std::os::unix::ffi::OsStrExt;

use serde_json::json;

use crate::cli::args::BlameArgs;
use crate::cli::args::blame::Lines;
use crate::cli::grammar::Paths;
use crate::cli::output::fit::{Align, elide, pad, width};
use crate::cli::output::{self, Role};
use crate::cli::session::Session;
use crate::cli::verbs::history::unique;
use crate::engine::states::Store;
use crate::error::{Class, Error, Result};
use crate::ids::Lsn;
use crate::pijul::TEXT_MAX;
use crate::pijul::blame::{Blame, Change};
use crate::pijul::snapshot::{PATIENCE, Snapshot};
use crate::tree::Body;

/// The channel that ize records on.
const CHANNEL: &str = "main";
/// Digits of a hash that people are shown, as the client shows them.
const DIGITS: usize = 12;
/// Columns that the processes of a change take at most.
const WHO: usize = 20;

/// Says of each line of a text which change it is from.
///
/// # Errors
/// What the words mean; `NotFound` when Pijul has no such file; `Refused` when it is no text; `Busy` when a `pijul` process holds the
/// repository for long; damage or I/O errors.
pub fn run(args: &BlameArgs, session: &mut Session) -> Result<()> {
    let meant = session.meant(&args.words, Paths::One)?;
    let path = meant.paths.first().map(|p| p.as_os_str().as_bytes().to_vec()).unwrap_or_default();
    let layout = &meant.project.layout;
    let store = Store::open(layout, meant.project.identity.id)?;
    let shown = output::name(&path);
    let blame = Snapshot::take(layout.dir(), PATIENCE).and_then(|snapshot| snapshot.blame(CHANNEL, &path));
    let blame = blame.map_err(|e| match e.class {
        Class::Refused => e.hint(format!("`ize history {shown}` lists the changes that touch it")),
        Class::NotFound => {
            e.hint("a file is in Pijul once a version has it (`ize commit`), unless its path has no lasting history (`class.*`)")
        }
        _ => e,
    })?;
    let lines = args.lines.unwrap_or(Lines { first: 1, last: usize::MAX });
    if args.lines.is_some() && lines.first > blame.lines.len() {
        let count = blame.lines.len();
        return Err(Error::new(Class::Usage, format!("`{shown}` has {count} lines, and line {} is asked for", lines.first)));
    }
    session.out.page(!session.global.no_pager && !args.json);
    if args.json {
        objects(&blame, lines, session)?
    } else {
        table(&blame, lines, session)?
    }
    session.out.finish()?;
    for note in notes(&store, &blame, &path)? {
        output::report(&note);
    }
    Ok(())
}

fn of(blame: &Blame, lines: Lines) -> impl Iterator<Item = (usize, &Change, std::borrow::Cow<'_, str>)> {
    let some = blame.lines.iter().enumerate().skip(lines.first - 1).take(lines.last - lines.first + 1);
    some.filter_map(|(n, line)| Some((n + 1, blame.changes.get(line.change)?, String::from_utf8_lossy(&line.bytes))))
}

fn who(change: &Change) -> String {
    unique(&change.processes).join(", ")
}

fn objects(blame: &Blame, lines: Lines, session: &mut Session) -> Result<()> {
    for (number, change, text) in of(blame, lines) {
        session.out.json(&json!({
            "line": number,
            "hash": change.hash,
            "version": change.seq,
            "time": output::json_time(change.time),
            "process": who(change),
            "label": (!change.label.is_empty()).then_some(&change.label),
            "text": text,
        }))?;
    }
    Ok(())
}

fn table(blame: &Blame, lines: Lines, session: &mut Session) -> Result<()> {
    // Once for each change, not for each line.
    let cells: Vec<[String; 4]> = blame
        .changes
        .iter()
        .map(|change| {
            let hash = change.hash.get(..DIGITS).unwrap_or(&change.hash).to_owned();
            let version = change.seq.map_or_else(|| "-".to_owned(), |seq| seq.to_string());
            [hash, version, output::time(change.time), elide(&output::name(who(change).as_bytes()), WHO)]
        })
        .collect();
    let widths = cells.iter().fold([0; 4], |widths, row| std::array::from_fn(|n| widths[n].max(width(&row[n]))));
    let digits = lines.last.min(blame.lines.len()).to_string().len();
    for (line, number) in blame.lines.iter().zip(1..).skip(lines.first - 1).take(lines.last - lines.first + 1) {
        let Some([hash, version, time, who]) = cells.get(line.change) else { continue };
        let hash = session.out.paint(Role::Id, &pad(hash, widths[0], Align::Left));
        let (version, time) = (pad(version, widths[1], Align::Right), pad(time, widths[2], Align::Left));
        let who = session.out.paint(Role::Aside, &pad(who, widths[3], Align::Left));
        let text = String::from_utf8_lossy(&line.bytes);
        session.out.line(&format!("{hash}  {version}  {time}  {who}  {number:digits$}) {text}"))?;
    }
    Ok(())
}

/// What the answer does not know.
fn notes(store: &Store, blame: &Blame, path: &[u8]) -> Result<Vec<String>> {
    let mut notes = Vec::new();
    let newest = store.versions().numbers().next_back().unwrap_or_default();
    if let Some(head) = blame.head.filter(|head| *head < newest) {
        notes.push(format!(
            "Pijul is at version {head}, the newest is {newest}: this is the text of version {head} (`ize status` says why)"
        ));
    } else if differs(store, blame, path)? {
        notes.push("the file has changes that are in no version yet, which are not shown; `ize commit` makes them one now".to_owned());
    }
    if blame.conflict {
        notes.push("the text is in conflict in Pijul: changes that ize did not write".to_owned());
    }
    Ok(notes)
}

/// Whether the file is another now.
fn differs(store: &Store, blame: &Blame, path: &[u8]) -> Result<bool> {
    let mut tree = store.state_at(Lsn(u64::MAX))?;
    let Some(ino) = tree.resolve(path)? else { return Ok(true) };
    let size = tree.inode(ino)?.size;
    if !matches!(tree.inode(ino)?.body, Body::File(_)) || size > TEXT_MAX {
        return Ok(true);
    }
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < size {
        let plan = tree.read_plan(ino, bytes.len() as u64, size)?;
        let at = bytes.len();
        bytes.resize(at + usize::try_from(plan.len().max(1)).unwrap_or(1), 0);
        plan.read(&**tree.blobs(), bytes.get_mut(at..).unwrap_or_default())?;
    }
    Ok(bytes != blame.text())
}

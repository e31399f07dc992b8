//! Says of each finding what it concerns, as far as the other parts of the store know, and what can be done.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::BadRecord;
use super::finding::{Finding, Part};
use crate::ids::{BlobId, Ino, Lsn, StoreId};
use crate::project::Layout;
use crate::storage::Storage;
use crate::tree::Tree;
use crate::versions::check::log::{VersionSeen, VersionsReport};
use crate::versions::check::{Affected, PATHS};
use crate::versions::checkpoint::Checkpoint;
use crate::versions::version_log::{Mode, VersionLog};
use crate::wal::scan::Verdict;

const COPY: &str = "an intact copy of the file, put in its place, mends it";

/// What the parts of the store know.
pub(super) struct Known<'a> {
    pub layout: &'a Layout,
    pub checkpoint: Option<&'a Checkpoint>,
    pub versions: &'a VersionsReport,
    pub storage: &'a Arc<dyn Storage>,
    pub store: StoreId,
    /// Records whose blobs are not sound.
    pub bad: &'a BTreeMap<Lsn, BadRecord>,
    /// The newest tree, where it could be put together.
    pub tree: Option<Tree>,
}

pub(super) fn explain(findings: &mut [Finding], known: &Known<'_>) {
    let of_blobs: HashMap<BlobId, Affected> =
        findings.iter().filter(|f| f.part == Part::State).filter_map(|f| Some((f.blob?, f.affected.clone()))).collect();
    let lost_states = findings.iter().any(|f| f.part == Part::State);
    // Blobs that durable records name.
    let damaged = |f: &&Finding| f.part == Part::Log && f.verdict == Verdict::Damage;
    let durable: HashSet<BlobId> = findings.iter().filter(damaged).filter_map(|f| known.bad.get(&f.lsn?)).map(|bad| bad.blob).collect();
    for finding in findings {
        match finding.part {
            Part::Log => log(finding, known),
            Part::Pack => pack(finding, &of_blobs, &durable, lost_states, known),
            Part::Index => {
                finding.affected.note = Some("no file and no version: it only says where to look".to_owned());
                if finding.mend.is_empty() {
                    finding.mend = "it is not used; the next mount throws it away and makes it again".to_owned();
                }
            }
            Part::Checkpoint => {
                finding.affected.newest = true;
                finding.affected.note =
                    Some("which state is the newest, and where the log goes on; versions are named by meta/versions".to_owned());
                finding.mend = format!("{COPY}; without one, `python3 meta/rescue.py` brings out the last version");
            }
            Part::Versions => {
                finding.affected.note = Some(if finding.affected.versions.is_some() {
                    "these versions cannot be listed or read by ize; the newest state needs none of them".to_owned()
                } else {
                    "which versions, nobody can say".to_owned()
                });
                finding.mend =
                    format!("{COPY}; `python3 meta/rescue.py` brings out the newest state and every version whose record is sound");
            }
            Part::Replay => {
                finding.affected.note = Some("version and log say different things: which is right, nobody can tell from here".to_owned());
                finding.mend = "copy the project's directory and report it; `ize cat PATH --at` shows what the version has, `ize wal inspect --path PATH` what programs did".to_owned();
            }
            Part::Identity => {
                finding.affected.note = Some("no file and no version: the project's name and settings".to_owned());
                finding.mend = format!("{COPY}, or mend it by hand: it is text");
            }
            Part::Purged => {
                finding.affected.note = Some("what was purged, or is being: it may be taken for missing".to_owned());
                if finding.mend.is_empty() {
                    finding.mend = COPY.to_owned();
                }
            }
            Part::Import => {
                finding.affected.note = Some("no file and no version: an import that is unfinished".to_owned());
            }
            Part::Pijul => {
                finding.affected.note =
                    Some("no file and no version: only the Pijul repository, which is made from the versions".to_owned());
                if finding.mend.is_empty() {
                    finding.mend = "`ize pijul rebuild` makes it again from the versions".to_owned();
                }
            }
            // It says so itself.
            Part::Rescue => {}
            Part::State => finding.mend = state(&finding.affected, known.versions),
        }
        if finding.verdict == Verdict::IoError {
            finding.mend = "the disk does not give the bytes: check it, then try again".to_owned();
        }
    }
}

fn log(finding: &mut Finding, known: &Known<'_>) {
    let (from, through) = (finding.lsn.unwrap_or(Lsn::ZERO), finding.through.unwrap_or(Lsn(u64::MAX)));
    let checkpoint = known.checkpoint.map_or(Lsn::ZERO, |c| c.lsn);
    let touched: Vec<&VersionSeen> = known.versions.versions.iter().filter(|v| v.covers <= through && v.last >= from).collect();
    if let (Some(first), Some(last)) = (touched.first(), touched.last()) {
        finding.affected.versions = Some((first.seq, last.seq));
        finding.affected.count = touched.len() as u64;
        paths_of_versions(&mut finding.affected, &touched, known);
    }
    if let (Some(tree), Some(bad)) = (&known.tree, known.bad.get(&from))
        && from == through
        && let Some(path) = path_of(tree, bad.ino)
    {
        (finding.affected.paths, finding.affected.files) = (vec![path], 1);
    }
    let below = through <= checkpoint;
    finding.affected.newest = !below;
    let (note, mend) = match finding.verdict {
        Verdict::TornTail => (
            "the newest operations, that a crash cut; nothing that was synced is in it",
            "the next mount cuts it off and keeps a copy in wal/torn/",
        ),
        _ if below => (
            "single operations inside of these versions; the versions themselves hold all of it",
            "no state is lost; `ize wal prune` drops the segment in time",
        ),
        _ => (
            "the newest operations from there on, which no version holds yet",
            "an intact copy of the file mends it; `ize wal repair --dry-run` shows what would be lost by a cut; `ize mount --read-only` shows what is sound",
        ),
    };
    finding.affected.note = Some(note.to_owned());
    finding.mend = mend.to_owned();
}

/// What these versions say that changed in them: more than was lost, but nothing else was.
fn paths_of_versions(affected: &mut Affected, touched: &[&VersionSeen], known: &Known<'_>) {
    let keep = known.checkpoint.map(|c| c.version);
    let Ok(log) = VersionLog::open(Arc::clone(known.storage), known.layout.versions(), known.store, Mode::ReadOnly { keep_up_to: keep })
    else {
        return;
    };
    for version in touched.iter().take(1000) {
        let Ok(Some(version)) = log.get(version.seq) else { continue };
        for change in version.paths {
            affected.files += 1;
            if affected.paths.len() < PATHS && !affected.paths.contains(&change.path) {
                affected.paths.push(change.path);
            }
        }
    }
}

/// A path of an inode in memory.
fn path_of(tree: &Tree, ino: Ino) -> Option<Vec<u8>> {
    let mut parts: Vec<Vec<u8>> = Vec::new();
    let mut at = ino;
    while at != Ino::ROOT {
        let name = tree.peek(at)?.names.first()?;
        parts.push(name.name.to_vec());
        at = name.dir;
        if parts.len() > 4096 {
            return None;
        }
    }
    parts.reverse();
    Some(parts.join(&b'/'))
}

fn pack(finding: &mut Finding, of_blobs: &HashMap<BlobId, Affected>, durable: &HashSet<BlobId>, lost_states: bool, known: &Known<'_>) {
    let kept = finding.blob.map_or(lost_states || !durable.is_empty(), |id| of_blobs.contains_key(&id) || durable.contains(&id));
    if finding.verdict == Verdict::TornTail && kept {
        // By itself the end of the last pack looks like what a crash leaves; but a version, or a durable record, names it.
        finding.verdict = Verdict::Damage;
        finding.what = finding.what.replace("torn tail of", "damage in");
    }
    if finding.verdict == Verdict::TornTail {
        finding.affected.note = Some("no file and no version: nothing in it was synced".to_owned());
        finding.mend = "the next mount cuts it off".to_owned();
        return;
    }
    let named = |id: &BlobId| known.bad.iter().find(|(_, bad)| bad.blob == *id);
    match finding.blob {
        Some(id) => match (of_blobs.get(&id), named(&id)) {
            (Some(affected), _) => {
                finding.affected = affected.clone();
                finding.mend = state(affected, known.versions);
            }
            (None, Some((lsn, bad))) => {
                finding.affected.newest = known.checkpoint.is_none_or(|c| *lsn > c.lsn);
                let path = known.tree.as_ref().and_then(|t| path_of(t, bad.ino));
                (finding.affected.files, finding.affected.paths) = (1, path.into_iter().collect());
                finding.affected.note = Some(format!("record {lsn} names it"));
                finding.mend = COPY.to_owned();
            }
            (None, None) => {
                finding.affected.note = Some("no file and no version: nothing that is kept names it".to_owned());
                finding.mend = "it does no harm; the pack stays as it is".to_owned();
            }
        },
        None => {
            let note = if lost_states { "what stood there is named by the findings on states" } else { "no file and no version" };
            finding.affected.note = Some(note.to_owned());
            finding.mend = if lost_states { COPY.to_owned() } else { "it does no harm; the pack stays as it is".to_owned() };
        }
    }
}

/// What can be done about something in states.
fn state(affected: &Affected, versions: &VersionsReport) -> String {
    let word = |v: &VersionSeen| if v.sound { format!("version {} ({})", v.seq, v.id) } else { format!("version {}", v.seq) };
    let before = affected.versions.and_then(|(first, _)| versions.versions.iter().rfind(|v| v.seq < first));
    let after = affected.versions.and_then(|(_, last)| versions.versions.iter().find(|v| v.seq > last));
    match (affected.newest, before) {
        (false, _) => {
            let next = after.map(|v| format!(" from {} on", word(v))).unwrap_or_default();
            format!(
                "the newest state is sound, as it is{next}: nothing has to be done but to do without these versions; an intact copy of the pack mends them"
            )
        }
        (true, Some(before)) => format!(
            "{} is sound, if what it names was there by then: `ize restore PATH --at {}`; an intact copy of the pack mends all",
            word(before),
            before.id
        ),
        (true, None) => {
            "no version before is sound: an intact copy of the pack mends it; writing the files anew makes later states sound".to_owned()
        }
    }
}

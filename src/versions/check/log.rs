//! Checks the version log: every record, their numbers, and that they cover the log without gap or overlap. Goes on behind what is damaged.

use std::path::PathBuf;
use std::sync::Arc;

use crate::error::{Class, Error, Result};
use crate::ids::{BlobId, Lsn, StoreId, Time, VersionSeq};
use crate::storage::{FileRef, Storage};
use crate::versions::version_index::{Light, PathFilter};
use crate::versions::version_log::{ChangeId, FRAME, HEADER, Version, VersionLog};

/// Places behind damage at which a record is tried.
const TRIES: u32 = 4096;
/// Read at a time while looking for one.
const WINDOW: usize = 1 << 20;
/// A record is at least so long, its frame included: three ids and numbers.
const SHORTEST: u64 = FRAME + 45;

/// One version, as far as it is needed to check its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VersionSeen {
    /// Its number.
    pub seq: VersionSeq,
    /// What people call it.
    pub id: ChangeId,
    /// The first record that it answers for.
    pub covers: Lsn,
    /// The first one that is its own.
    pub first: Lsn,
    /// The last of them.
    pub last: Lsn,
    /// Its state; for one whose record is lost, what the next one says of it.
    pub root: BlobId,
    /// False when its own record is lost.
    pub sound: bool,
    /// Where its record is.
    pub offset: u64,
    /// Which part of its window it is, and of how many.
    pub part: (u32, u32),
    /// Operations in it, and bytes written.
    pub work: (u64, u64),
    /// When it ended, or one before it did, if that was later.
    pub end: Time,
    /// Its paths, as the index file has them.
    pub filter: PathFilter,
}

/// One thing that is wrong with the version log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionFinding {
    /// True when the disk refused.
    pub unreadable: bool,
    /// Where in the file.
    pub offset: u64,
    /// In words.
    pub what: String,
    /// The first version concerned, and the last; `None` when nobody knows.
    pub versions: Option<(VersionSeq, VersionSeq)>,
}

/// What the version log holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VersionsReport {
    /// Versions, oldest first. About 160 bytes each.
    pub versions: Vec<VersionSeen>,
    /// What is wrong.
    pub findings: Vec<VersionFinding>,
}

/// Reads the version log at `path` up to `keep`, the checkpoint's version; all that is there without a checkpoint.
///
/// # Errors
/// None but that the file cannot be opened: everything else is a finding.
pub fn check(storage: &Arc<dyn Storage>, path: PathBuf, store: StoreId, keep: Option<VersionSeq>) -> Result<VersionsReport> {
    let mut report = VersionsReport::default();
    let wanted = keep.map_or(0, |k| k.0);
    let all = |from: u64| (wanted >= from).then_some((VersionSeq(from), VersionSeq(wanted)));
    let Some((log, len, right)) = VersionLog::unread(storage, path, store)? else {
        if wanted > 0 {
            let what = "it is missing".to_owned();
            report.findings.push(VersionFinding { unreadable: false, offset: 0, what, versions: all(1) });
        }
        return Ok(report);
    };
    if !right && (wanted > 0 || len >= HEADER) {
        let what = "its header fails its check, or is another store's or a later ize's".to_owned();
        report.findings.push(VersionFinding { unreadable: false, offset: 0, what, versions: all(1) });
    }
    let (mut at, mut expected) = (HEADER, 1u64);
    while keep.is_none_or(|k| expected <= k.0) && at < len {
        match log.read_frame(at) {
            Ok((version, next)) => {
                let seq = version.seq.0;
                // The oldest of those that were thinned out before it, or itself.
                let from = seq - version.thinned;
                if from < expected || keep.is_some_and(|k| seq > k.0) {
                    let what = format!("version {seq} stands where {expected} should");
                    report.findings.push(VersionFinding {
                        unreadable: false,
                        offset: at,
                        what,
                        versions: Some((version.seq, version.seq)),
                    });
                } else {
                    if from > expected && report.findings.last().is_none_or(|f| f.versions.is_none_or(|(_, last)| last.0 + 1 != from)) {
                        let what = format!("version {seq} stands where {expected} should");
                        let versions = Some((VersionSeq(expected), VersionSeq(from - 1)));
                        report.findings.push(VersionFinding { unreadable: false, offset: at, what, versions });
                    }
                    follow(&mut report, &version, at);
                    expected = seq + 1;
                }
                at = next;
            }
            Err(e) => {
                let found = behind(&log, at, len, expected, keep);
                if keep.is_none() && found.is_none() {
                    // Without a checkpoint, what is not whole is the end.
                    break;
                }
                let last = found.map_or(wanted, |(_, from)| from.0.saturating_sub(1)).max(expected);
                report.findings.push(VersionFinding {
                    unreadable: matches!(e.class, Class::Io),
                    offset: at,
                    what: words(&e, at),
                    versions: Some((VersionSeq(expected), VersionSeq(last))),
                });
                match found {
                    Some((place, _)) => at = place,
                    None => return Ok(report),
                }
            }
        }
    }
    if let Some(last) = report.versions.last().filter(|v| v.part.0 != v.part.1 && v.seq.0 == wanted) {
        let what = format!("it ends with version {}, and another part of that one's window should follow", last.seq);
        report.findings.push(VersionFinding { unreadable: false, offset: len, what, versions: Some((last.seq, last.seq)) });
    }
    if expected <= wanted && right {
        let what = format!("it ends before version {expected}; the checkpoint names {wanted}");
        report.findings.push(VersionFinding { unreadable: false, offset: len, what, versions: all(expected) });
    }
    Ok(report)
}

/// What an error says, without the file and the place, which are told beside it.
fn words(e: &Error, at: u64) -> String {
    let place = format!("at offset {at}: ");
    e.message.split_once(&place).map_or_else(|| e.message.clone(), |(_, what)| what.to_owned())
}

/// Enters a version, and holds it against the one before.
fn follow(report: &mut VersionsReport, version: &Version, offset: u64) {
    let before = report.versions.last().copied();
    let seq = version.seq;
    let mut wrong = Vec::new();
    match before {
        Some(before) if before.seq.0 + 1 + version.thinned == seq.0 => {
            if before.goes_on_in(version) {
                if version.covers != before.covers {
                    let (here, there) = (version.covers, before.covers);
                    wrong
                        .push(format!("version {seq} covers records from {here} on, and another part of its window those from {there} on"));
                }
            } else {
                if before.part.0 != before.part.1 {
                    wrong.push(format!("version {seq} stands where another part of version {}'s window should", before.seq));
                }
                if version.covers != before.last.next() {
                    wrong.push(format!(
                        "version {seq} covers records from {} on, and the one before ends with {}",
                        version.covers, before.last
                    ));
                }
            }
            if version.parent_root != Some(before.root) {
                wrong.push(format!("version {seq} names another state as the one before it than version {} does", before.seq));
            }
        }
        // The records of those before are lost: this one still says what the state before it was.
        _ if seq.0 > 1 + version.thinned => {
            if let Some(root) = version.parent_root {
                let last = Lsn(version.covers.0.saturating_sub(1));
                let seq = VersionSeq(seq.0 - version.thinned - 1);
                let (id, part) = (ChangeId(0), (1, 1));
                let (covers, first, sound, work) = (last, last, false, (0, 0));
                let (end, filter) = (Time::default(), PathFilter::default());
                report.versions.push(VersionSeen { seq, id, covers, first, last, root, sound, offset, part, work, end, filter });
            }
        }
        _ if version.covers != Lsn(1) || version.parent_root.is_some() => {
            wrong.push(format!("the first version covers records from {} on, or names one before it", version.covers));
        }
        _ => {}
    }
    if version.last < version.first {
        wrong.push(format!("version {seq} ends with record {}, before it begins", version.last));
    }
    if version.covers < version.first && version.thinned == 0 && version.part == 1 {
        wrong.push(format!(
            "version {seq} covers records from {} on, begins with {}, and stands for itself only",
            version.covers, version.first
        ));
    }
    for what in wrong {
        report.findings.push(VersionFinding { unreadable: false, offset, what, versions: Some((seq, seq)) });
    }
    let Version { id, covers, first, last, root, end, .. } = *version;
    // The parts of a window may have ended in another order.
    let end = report.versions.last().map_or(end, |before| before.end.max(end));
    let (part, work, filter) = ((version.part, version.parts), (version.operations, version.bytes), PathFilter::of(&version.paths));
    report.versions.push(VersionSeen { seq, id, covers, first, last, root, sound: true, offset, part, work, end, filter });
}

impl VersionSeen {
    /// What the index file should say of it.
    #[must_use]
    pub const fn light(&self) -> Light {
        Light { offset: self.offset, seq: self.seq, last: self.last, end: self.end, id: self.id, paths: self.filter }
    }

    fn goes_on_in(&self, next: &Version) -> bool {
        self.sound && self.part.0 < next.part && (self.first, self.last, self.part.1) == (next.first, next.last, next.parts)
    }
}

/// The next sound record behind `at`, and the number of the oldest version that it stands for.
fn behind(log: &VersionLog, at: u64, len: u64, expected: u64, keep: Option<VersionSeq>) -> Option<(u64, VersionSeq)> {
    let file: &FileRef = log.file.as_ref()?;
    let mut tries = 0;
    let mut buffer = vec![0; WINDOW + 32];
    let mut start = at + 1;
    while start + SHORTEST <= len {
        let have = usize::try_from((len - start).min(buffer.len() as u64)).unwrap_or(0);
        let window = buffer.get_mut(..have)?;
        file.read_exact_at(window, start).ok()?;
        let last = have.saturating_sub(FRAME as usize + 10).min(WINDOW);
        for i in 0..last.max(1) {
            let Some(frame) = window.get(i..) else { break };
            let length = frame.get(4..8).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes);
            let place = start + i as u64;
            let body = u64::from(length);
            if body + FRAME < SHORTEST || place + FRAME + body > len {
                continue;
            }
            let Some(Ok((seq, _))) = frame.get(8..).map(postcard::take_from_bytes::<u64>) else { continue };
            if seq < expected || keep.is_some_and(|k| seq > k.0) {
                continue;
            }
            tries += 1;
            if tries > TRIES {
                return None;
            }
            if let Ok((version, _)) = log.read_frame(place) {
                return Some((place, VersionSeq(version.seq.0 - version.thinned)));
            }
        }
        start += last.max(1) as u64;
    }
    None
}

//! What a change says of its version. The message is for people: first line the operation id (16 hexadecimal digits) and the label, second
//! line what was done to the first path and how many more, then the paths. The description is for ize:
//!
//! ```text
//! ize 1
//! version 12
//! lsn @1a..@2f
//! store 0b0e9a6e-...
//! process cargo build      any number of these
//! ```

use std::fmt::Write as _;

use libpijul::change::{Author, ChangeHeader};

use crate::ids::{Lsn, StoreId, Time, VersionSeq};
use crate::pijul::{VersionInput, names};

/// Paths listed in a message before `... and N more`.
const LISTED: usize = 100;

/// What a description says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Coverage {
    /// The version.
    pub seq: VersionSeq,
    /// Its first record.
    pub first: Lsn,
    /// Its last record.
    pub last: Lsn,
    /// The store it is of.
    pub store: StoreId,
}

/// One line: control characters become blanks.
fn one_line(text: &str) -> String {
    text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// The message of a version.
#[must_use]
pub fn message(version: &VersionInput) -> String {
    let mut out = format!("{:016x}", version.id);
    if let Some(label) = version.message.as_deref().map(one_line).filter(|l| !l.is_empty()) {
        out.push(' ');
        out.push_str(&label);
    }
    out.push('\n');
    out.push_str(&one_line(&version.op_type));
    let shown = |path: &[u8]| if path.is_empty() { ".".to_owned() } else { names::escape(path) };
    let count = version.changes.len();
    // Writing to a String cannot fail.
    if let Some(first) = version.changes.first() {
        let _ = write!(out, ": {}", shown(&first.path));
        if count > 1 {
            let _ = write!(out, " and {} more", count - 1);
        }
    }
    for change in version.changes.iter().take(LISTED) {
        let _ = match &change.from {
            Some(from) => write!(out, "\n{} <- {}", shown(&change.path), shown(from)),
            None => write!(out, "\n{}", shown(&change.path)),
        };
    }
    if count > LISTED {
        let _ = write!(out, "\n... and {} more", count - LISTED);
    }
    out
}

/// The description of a version.
#[must_use]
pub fn description(version: &VersionInput, store: StoreId) -> String {
    let mut out = format!("ize 1\nversion {}\nlsn {}..{}\nstore {store}", version.seq, version.first, version.last);
    for process in version.processes.iter().take(LISTED) {
        let _ = write!(out, "\nprocess {}", one_line(process));
    }
    out
}

/// Reads a description; `None` when ize did not write it.
#[must_use]
pub fn parse(description: &str) -> Option<Coverage> {
    let mut lines = description.lines();
    if lines.next()? != "ize 1" {
        return None;
    }
    let (mut seq, mut lsn, mut store) = (None, None, None);
    for line in lines {
        match line.split_once(' ')? {
            ("version", v) => seq = Some(VersionSeq(v.parse().ok()?)),
            ("lsn", v) => {
                let (a, b) = v.split_once("..")?;
                lsn = Some((a.parse().ok()?, b.parse().ok()?));
            }
            ("store", v) => store = Some(v.parse().ok()?),
            // Later versions of ize may say more.
            _ => {}
        }
    }
    let (first, last) = lsn?;
    Some(Coverage { seq: seq?, first, last, store: store? })
}

/// The processes that a description names.
pub(super) fn processes(description: &str) -> Vec<String> {
    description.lines().filter_map(|line| line.strip_prefix("process ")).map(str::to_owned).collect()
}

/// When a change was made, by its header.
pub(super) fn time(header: &ChangeHeader) -> Time {
    // Nanoseconds may count backwards from zero.
    let (secs, nanos) = (header.timestamp.as_second(), header.timestamp.subsec_nanosecond());
    let (secs, nanos) = if nanos < 0 { (secs - 1, nanos + 1_000_000_000) } else { (secs, nanos) };
    Time { secs, nanos: u32::try_from(nanos).unwrap_or(0) }
}

/// The whole header.
#[must_use]
pub(super) fn header(version: &VersionInput, store: StoreId) -> ChangeHeader {
    // The client prints `name` of each author; one author, so that `pijul log` stays one short line.
    let author = Author([("name".to_owned(), "ize".to_owned())].into());
    ChangeHeader {
        message: message(version),
        description: Some(description(version, store)),
        timestamp: timestamp(version.time),
        authors: vec![author],
    }
}

/// Pijul's clock reaches the years -9999 to 9999; a time beyond is clamped.
fn timestamp(time: Time) -> jiff::Timestamp {
    let nanos = i32::try_from(time.nanos.min(999_999_999)).unwrap_or(0);
    jiff::Timestamp::new(time.secs, nanos).unwrap_or(if time.secs < 0 { jiff::Timestamp::MIN } else { jiff::Timestamp::MAX })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version() -> VersionInput {
        VersionInput {
            id: 0x1f,
            seq: VersionSeq(7),
            first: Lsn(16),
            last: Lsn(47),
            time: Time { secs: i64::MIN, nanos: 5 },
            message: Some(" two\nlines ".into()),
            op_type: "write".into(),
            processes: vec!["version 9\nstore x".into()],
            changes: (0..103)
                .map(|i| super::super::TreeChange { path: format!("p\n{i}").into(), from: None, old: None, new: None })
                .collect(),
        }
    }

    #[test]
    fn a_description_comes_back_whatever_the_processes_are_called() {
        let store = StoreId::random();
        let text = description(&version(), store);
        assert_eq!(parse(&text), Some(Coverage { seq: VersionSeq(7), first: Lsn(16), last: Lsn(47), store }));
        for foreign in ["", "ize 2\nversion 1", "ize 1", "ize 1\nversion x", "hello\nworld"] {
            assert_eq!(parse(foreign), None);
        }
    }

    #[test]
    fn a_message_is_bounded_and_without_control_characters() {
        let text = message(&version());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..3], ["000000000000001f two lines", "write: p%0A0 and 102 more", "p%0A0"]);
        assert_eq!(lines.len(), 2 + LISTED + 1);
        assert_eq!(lines.last(), Some(&"... and 3 more"));
        assert_eq!(timestamp(version().time), jiff::Timestamp::MIN);
    }
}

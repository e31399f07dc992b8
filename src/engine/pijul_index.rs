//! Which Pijul change is which version: lines `sequence hash` in `meta/pijul-index`; where a change is not what its version should be, ` safe
//! WHY` or ` left-out WHY` follows. Disposable: the Pijul log says the same, this file only saves readers from opening it.

use std::collections::BTreeMap;
use std::io::Write;

use crate::error::{Class, Error, IoContext, Result};
use crate::ids::VersionSeq;
use crate::project::Layout;

/// Shortest prefix of a hash that is looked for.
const PREFIX_MIN: usize = 4;

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Its version.
    pub seq: VersionSeq,
    /// In base32.
    pub hash: String,
    /// Why it is not what the version should be, if it is not: `safe WHY` or `left-out WHY`, in one line.
    pub refused: Option<String>,
}

impl Line {
    fn parse(line: &[u8]) -> Option<Self> {
        let (seq, rest) = std::str::from_utf8(line).ok()?.split_once(' ')?;
        let (hash, refused) = rest.split_once(' ').map_or((rest, None), |(hash, why)| (hash, Some(why.to_owned())));
        Some(Self { seq: VersionSeq(seq.parse().ok()?), hash: hash.to_owned(), refused })
    }
}

/// Reads the index; an absent one is empty, lines that make no sense are passed over.
///
/// # Errors
/// I/O errors.
pub fn read(layout: &Layout) -> Result<BTreeMap<VersionSeq, String>> {
    Ok(lines(layout)?.into_iter().map(|line| (line.seq, line.hash)).collect())
}

/// The same, with all that it says, in order.
///
/// # Errors
/// I/O errors.
pub fn lines(layout: &Layout) -> Result<Vec<Line>> {
    let path = layout.pijul_index();
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::io(format!("cannot read {}", path.display()), e)),
    };
    Ok(text.split(|&b| b == b'\n').filter_map(Line::parse).collect())
}

/// Appends lines, durably.
///
/// # Errors
/// I/O errors.
pub fn append(layout: &Layout, lines: &[Line]) -> Result<()> {
    let path = layout.pijul_index();
    let text = text_of(lines);
    let file = std::fs::OpenOptions::new().create(true).append(true).open(&path);
    // Durable, so that it never lacks more than the changes that are being made.
    file.and_then(|mut f| f.write_all(text.as_bytes()).and_then(|()| f.sync_data())).doing(|| format!("cannot write {}", path.display()))
}

fn text_of(lines: &[Line]) -> String {
    let line = |line: &Line| match &line.refused {
        Some(why) => format!("{} {} {why}\n", line.seq, line.hash),
        None => format!("{} {}\n", line.seq, line.hash),
    };
    lines.iter().map(line).collect()
}

/// Writes the whole index anew.
///
/// # Errors
/// I/O errors.
pub fn rewrite(layout: &Layout, lines: &[Line]) -> Result<()> {
    crate::project::atomic::replace(&layout.pijul_index(), text_of(lines).as_bytes())
}

/// The version whose Pijul hash begins with `prefix`.
///
/// # Errors
/// `Usage` when several do; I/O errors.
pub fn by_prefix(layout: &Layout, prefix: &str) -> Result<Option<VersionSeq>> {
    if prefix.len() < PREFIX_MIN {
        return Ok(None);
    }
    let index = read(layout)?;
    let mut found = index.iter().filter(|(_, hash)| hash.starts_with(prefix));
    match (found.next(), found.next()) {
        (Some((a, x)), Some((b, y))) if a != b => {
            Err(Error::new(Class::Usage, format!("`{prefix}` begins several change ids: {x}, {y}")).hint("give more of it"))
        }
        (first, _) => Ok(first.map(|(seq, _)| *seq)),
    }
}

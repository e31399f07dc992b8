//! Which Pijul change is which version: lines `sequence hash` in `meta/pijul-index`. Disposable: the Pijul log says the same, this file
//! only saves readers from opening it.

use std::collections::BTreeMap;
use std::io::Write;

use crate::error::{Class, Error, IoContext, Result};
use crate::ids::VersionSeq;
use crate::project::Layout;

/// Shortest prefix of a hash that is looked for.
const PREFIX_MIN: usize = 4;

/// Reads the index; an absent one is empty, lines that make no sense are passed over.
///
/// # Errors
/// I/O errors.
pub fn read(layout: &Layout) -> Result<BTreeMap<VersionSeq, String>> {
    let path = layout.pijul_index();
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(e) => return Err(Error::io(format!("cannot read {}", path.display()), e)),
    };
    let lines = text.split(|&b| b == b'\n').filter_map(|line| std::str::from_utf8(line).ok());
    Ok(lines
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(seq, hash)| Some((VersionSeq(seq.parse().ok()?), hash.to_owned())))
        .collect())
}

/// Appends entries, durably.
///
/// # Errors
/// I/O errors.
pub fn append(layout: &Layout, entries: &[(VersionSeq, String)]) -> Result<()> {
    let path = layout.pijul_index();
    let text = text_of(entries);
    let file = std::fs::OpenOptions::new().create(true).append(true).open(&path);
    // Durable, so that it never lacks more than the change that is being made.
    file.and_then(|mut f| f.write_all(text.as_bytes()).and_then(|()| f.sync_data())).doing(|| format!("cannot write {}", path.display()))
}

fn text_of(entries: &[(VersionSeq, String)]) -> String {
    entries.iter().map(|(seq, hash)| format!("{seq} {hash}\n")).collect()
}

/// Writes the whole index anew.
///
/// # Errors
/// I/O errors.
pub fn rewrite(layout: &Layout, entries: &[(VersionSeq, String)]) -> Result<()> {
    crate::project::atomic::replace(&layout.pijul_index(), text_of(entries).as_bytes())
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

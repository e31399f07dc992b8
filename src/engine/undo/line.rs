//! What is undone and what comes next: told by the version log alone. An undo is a version whose label is `undo` and the 16 digits of the
//! change that it takes back, a redo one with `redo`; so the line survives restarts, pruning and a rebuilt Pijul, and since labelled
//! versions are never thinned out, thinning too.
//!
//! Rules: a change counts as undone when the newest version that speaks of it is an undo. Undo takes the newest change that is not undone and
//! neither undo nor redo. Redo takes the change undone last, as long as nothing else changed anything since: an edit ends the line.

use std::collections::HashMap;

use crate::engine::states::Store;
use crate::error::{Class, Error, Result};
use crate::versions::version_log::{ChangeId, Version, VersionLog};

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// A change is taken back.
    Undo,
    /// One that was taken back is made again.
    Redo,
}

impl Way {
    /// As labels and people have it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Undo => "undo",
            Self::Redo => "redo",
        }
    }
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// The last change back.
    Undo,
    /// The change whose id begins like this back.
    UndoChange(String),
    /// The change that was taken back last, again.
    Redo,
    /// The change whose id begins like this, again.
    RedoChange(String),
}

/// The label of the version that does it.
#[must_use]
pub fn label(way: Way, change: ChangeId) -> String {
    format!("{} {change}", way.word())
}

/// What a label says; `None` for what a person wrote.
#[must_use]
pub fn parse(label: &str) -> Option<(Way, ChangeId)> {
    let (word, id) = label.split_once(' ')?;
    let way = [Way::Undo, Way::Redo].into_iter().find(|way| way.word() == word)?;
    let plain = id.len() == 16 && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    plain.then(|| id.parse().ok()).flatten().map(|id| (way, id))
}

/// What a version is in the line.
fn spoken(version: &Version) -> Option<(Way, ChangeId)> {
    version.label.as_deref().and_then(parse)
}

/// The change that is meant, and which way.
///
/// # Errors
/// `NotFound` when there is none; `Refused` when it is undone already, or is not; damage or I/O errors.
pub fn choose(store: &Store, order: &Order) -> Result<(Version, Way)> {
    let versions = store.versions();
    match order {
        Order::Undo => Ok((last(versions)?, Way::Undo)),
        Order::Redo => Ok((next(versions)?, Way::Redo)),
        Order::UndoChange(prefix) => {
            let named = store.version_by_id(prefix)?;
            // To undo an undo is to redo.
            let (version, way) = match spoken(&named) {
                Some((Way::Undo, id)) => (change(versions, id)?, Way::Redo),
                Some((Way::Redo, id)) => (change(versions, id)?, Way::Undo),
                None => (named, Way::Undo),
            };
            check(versions, &version, way)?;
            Ok((version, way))
        }
        Order::RedoChange(prefix) => {
            let named = store.version_by_id(prefix)?;
            let version = match spoken(&named) {
                Some((_, id)) => change(versions, id)?,
                None => named,
            };
            check(versions, &version, Way::Redo)?;
            Ok((version, Way::Redo))
        }
    }
}

fn change(versions: &VersionLog, id: ChangeId) -> Result<Version> {
    versions.by_id_prefix(&id.to_string())?.ok_or_else(|| {
        Error::new(Class::NotFound, format!("change {id} is no longer in the history: it was thinned out"))
            .hint("`ize history` lists the changes that are left; `ize restore PATH --at CHANGE` brings paths back")
    })
}

/// The version that spoke last of a change, if one did.
pub fn spoke_last(versions: &VersionLog, of: &Version) -> Result<Option<(Way, Version)>> {
    for version in versions.newest_first() {
        let version = version?;
        if version.seq <= of.seq {
            break;
        }
        if let Some((way, id)) = spoken(&version)
            && id == of.id
        {
            return Ok(Some((way, version)));
        }
    }
    Ok(None)
}

fn check(versions: &VersionLog, version: &Version, way: Way) -> Result<()> {
    let last = spoke_last(versions, version)?;
    match (way, last) {
        (Way::Undo, Some((Way::Undo, by))) => {
            Err(Error::new(Class::Refused, format!("change {} is undone already, by change {}", version.id, by.id))
                .hint(format!("`ize redo {}` makes it again", version.id)))
        }
        (Way::Redo, None | Some((Way::Redo, _))) => Err(Error::new(Class::Refused, format!("change {} is not undone", version.id))
            .hint("`ize history` shows what was undone: the label says `undo` and the change")),
        (Way::Undo, _) | (Way::Redo, Some((Way::Undo, _))) => Ok(()),
    }
}

/// What undo takes without being told.
fn last(versions: &VersionLog) -> Result<Version> {
    let mut spoken_of: HashMap<ChangeId, Way> = HashMap::new();
    for version in versions.newest_first() {
        let version = version?;
        match spoken(&version) {
            Some((way, id)) => _ = spoken_of.entry(id).or_insert(way),
            // A label alone is nothing to take back.
            None if version.paths.is_empty() || spoken_of.get(&version.id) == Some(&Way::Undo) => {}
            None => return Ok(version),
        }
    }
    Err(Error::new(Class::NotFound, "there is nothing to undo: no change is left that is not undone")
        .hint("`ize history` lists the changes"))
}

/// What redo takes without being told.
fn next(versions: &VersionLog) -> Result<Version> {
    let (mut line, mut ended_by) = (Vec::new(), None);
    for version in versions.newest_first() {
        let version = version?;
        match spoken(&version) {
            Some(said) => line.push(said),
            None if version.paths.is_empty() => {}
            None => {
                ended_by = Some(version.id);
                break;
            }
        }
    }
    let mut undone: Vec<ChangeId> = Vec::new();
    for (way, id) in line.into_iter().rev() {
        undone.retain(|other| *other != id);
        if way == Way::Undo {
            undone.push(id);
        }
    }
    if let Some(id) = undone.pop() {
        return change(versions, id);
    }
    let error = Error::new(Class::NotFound, "there is nothing to redo: nothing was undone since the last change");
    Err(match ended_by {
        Some(id) => error.hint(format!("change {id} ended what could be redone; `ize redo CHANGE` still makes one again that is undone")),
        None => error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_labels_of_ours_are_read() {
        let id = ChangeId(0x1a2f);
        for way in [Way::Undo, Way::Redo] {
            assert_eq!(parse(&label(way, id)), Some((way, id)));
        }
        for other in
            ["undo", "undo 1a2f", "undo the last one", "undo 000000000000001A", "redo 00000000000000001", "undo  00000000000001a2", ""]
        {
            assert_eq!(parse(other), None, "{other}");
        }
    }
}

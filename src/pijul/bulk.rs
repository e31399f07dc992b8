//! Recording much in one directory. libpijul walks down from the root for each path that it is asked to record, and looks at every row of
//! each directory on the way: a thousand new files beside twenty thousand are twenty million rows. Where much of a directory is recorded,
//! the rows of what the version says nothing of are taken out of the tree table, the directory is walked once as a whole, and the rows are
//! put back, all in the same transaction.

use std::collections::{BTreeMap, BTreeSet};

use libpijul::pristine::TreeMutTxnT;
use libpijul::pristine::sanakirja::MutTxn0;
use libpijul::small_string::SmallString;
use libpijul::{Inode, OwnedPathId, TreeTxnT};

use crate::error::Result;
use crate::pijul::apply::refused;
use crate::pijul::view::Put;

/// A row costs as much to take out and put back as it costs to be looked at so many times.
const MANY: usize = 48;

/// A directory in which much is recorded.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Group {
    /// Its path; empty is the root.
    pub(super) dir: String,
    /// Names in it that are walked, with all that is below them.
    names: BTreeSet<String>,
}

/// Rows that are out of the tree table for now.
pub(super) type Hidden = Vec<(OwnedPathId, Inode)>;

/// Parts what is to be recorded (path, and whether without what is below) into directories walked as a whole and single paths. A directory
/// that is recorded without what is below is always a single path.
pub(super) fn groups(prefixes: Vec<(String, bool)>, puts: &BTreeMap<String, Put>) -> (Vec<Group>, Vec<(String, bool)>) {
    let mut by_dir: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut single = Vec::new();
    for (path, shallow) in prefixes {
        if shallow && matches!(puts.get(&path), Some(Put::Dir)) {
            single.push((path, shallow));
            continue;
        }
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", &path));
        by_dir.entry(dir.to_owned()).or_default().insert(name.to_owned());
    }
    let mut out = Vec::new();
    for (dir, names) in by_dir {
        if names.len() >= MANY {
            out.push(Group { dir, names });
            continue;
        }
        let path = |name: &String| if dir.is_empty() { name.clone() } else { format!("{dir}/{name}") };
        // A file has nothing below it, and what goes away is recorded by its name alone.
        single.extend(names.iter().map(path).map(|p| (p.clone(), !matches!(puts.get(&p), Some(Put::Dir)))));
    }
    single.sort();
    (out, single)
}

/// Takes every row of the directory out but those of the group.
pub(super) fn hide(txn: &mut MutTxn0, dir: Inode, group: &Group) -> Result<Hidden> {
    let first = OwnedPathId { parent_inode: dir, basename: SmallString::new() };
    let mut hidden = Vec::new();
    for row in txn.iter_tree(&first, None).map_err(refused("cannot read the tree"))? {
        let (id, inode) = row.map_err(refused("cannot read the tree"))?;
        if id.parent_inode > dir {
            break;
        }
        // The row without a name says that it is a directory.
        if id.parent_inode == dir && !id.basename.is_empty() && !group.names.contains(id.basename.as_str()) {
            hidden.push((id.to_owned(), *inode));
        }
    }
    for (id, inode) in &hidden {
        txn.del_tree(id, Some(inode)).map_err(refused("cannot write the tree"))?;
    }
    Ok(hidden)
}

/// Puts the rows back.
pub(super) fn show(txn: &mut MutTxn0, hidden: &Hidden) -> Result<()> {
    for (id, inode) in hidden {
        txn.put_tree(id, inode).map_err(refused("cannot write the tree"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_directory_with_much_to_record_is_walked_as_a_whole() {
        let file = || Put::File { bytes: Vec::new(), executable: false };
        let mut puts = BTreeMap::from([("a".to_owned(), Put::Dir), ("b".to_owned(), Put::Dir), ("b/x".to_owned(), file())]);
        let mut prefixes = vec![("a".to_owned(), true), ("b".to_owned(), false)];
        for n in 0..MANY {
            puts.insert(format!("a/f{n}"), file());
            prefixes.push((format!("a/f{n}"), true));
        }
        puts.insert("c/y".to_owned(), file());
        prefixes.push(("c/y".to_owned(), true));
        let (groups, single) = groups(prefixes, &puts);
        assert_eq!(groups.iter().map(|g| (g.dir.as_str(), g.names.len())).collect::<Vec<_>>(), [("a", MANY)]);
        let single: Vec<_> = single.iter().map(|(p, shallow)| (p.as_str(), *shallow)).collect();
        assert_eq!(single, [("a", true), ("b", false), ("c/y", true)]);
    }
}

//! One version, one change: carries a plan out inside a transaction.
//!
//! The tree table (which path is which inode) is brought to the new state first: what moves goes to a name of its own, what goes away to a
//! name below [`GONE`], then every path gets its inode. So crossing renames, a file where a directory was and a delete with a new file of
//! the same name need no special case: each inode is shown to libpijul once, where it is at the end. Then the paths are recorded, the
//! change is saved and applied to the graph.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use libpijul::change::{ChangeHeader, Hunk};
use libpijul::fs;
use libpijul::pristine::sanakirja::MutTxn0;
use libpijul::record::Builder;
use libpijul::{Algorithm, ArcTxn, ChannelRef, DEFAULT_SEPARATOR, Hash, Inode, MutTxnTExt, OwnedPathId, TreeTxnT};

use crate::error::{Class, Error, Result};
use crate::pijul::behind::Behind;
use crate::pijul::plan::{Move, Plan};
use crate::pijul::view::{GONE, Put, View};
use crate::pijul::wear::{self, Limits};
use crate::pijul::{bulk, names};

/// What libpijul said, with its noun.
pub(super) fn refused<E: Debug>(doing: &str) -> impl FnOnce(E) -> Error + '_ {
    move |e| {
        let said = format!("{e:?}");
        if ["PristineCorrupt", "CRC", "Corrupt("].iter().any(|word| said.contains(word)) {
            return Error::new(Class::Damage, format!("the pristine of the Pijul repository is damaged: {doing}: {said}"))
                .hint("`ize pijul rebuild` makes the Pijul history again from the versions");
        }
        Error::new(Class::Failed, format!("libpijul: {doing}: {said}"))
    }
}

/// Records a plan as one change of `channel`, and applies it; files that are worn by these limits are founded anew. Nothing is durable yet.
/// Says whether nothing was left of the plan, so that the change is an empty one.
pub(super) fn apply(
    txn: &ArcTxn<MutTxn0>,
    channel: &ChannelRef<MutTxn0>,
    behind: &Behind<'_>,
    plan: Plan,
    mut header: ChangeHeader,
    wear: Option<Limits>,
) -> Result<(Hash, bool)> {
    let store = behind.files();
    let (puts, mut changed) = {
        let mut guard = txn.write();
        let mut tree = Tree { txn: &mut guard, changed: Changed::default() };
        let puts = tree.arrange(plan)?;
        (puts, tree.changed)
    };
    for (inode, path) in std::mem::take(&mut changed.kept) {
        let (Some(limits), Some(Put::File { bytes, .. })) = (wear, puts.get(&path)) else { continue };
        let Some(carried) = wear::carried(txn, channel, store, (inode, bytes), limits)? else { continue };
        let mut guard = txn.write();
        let mut tree = Tree { txn: &mut guard, changed: std::mem::take(&mut changed) };
        tree.found_anew(inode, &path)?;
        changed = tree.changed;
        // Nobody asks who a line of a sidecar is from.
        if !names::is_meta(&path) {
            header.description.get_or_insert_default().push_str(&carried.line(&path));
        }
    }
    let Changed { gone, fresh, .. } = changed;

    let (groups, single) = bulk::groups(prefixes(&puts, &fresh, gone.len()), &puts);
    let view = View::new(puts);
    let mut builder = Builder::new();
    builder.ignore_missing = true;
    let record = |builder: &mut Builder, path: &str| {
        let sep = &DEFAULT_SEPARATOR;
        // One worker: a second only waits for the first.
        let done = builder.record(txn.clone(), Algorithm::ImaraHistogram, false, sep, channel.clone(), &view, store, path, 1);
        done.map_err(refused(&format!("cannot record `{path}`")))
    };
    for group in groups {
        let hidden = {
            let mut txn = txn.write();
            let dir = fs::find_inode(&*txn, &group.dir).map_err(refused(&format!("cannot find `{}`", group.dir)))?;
            bulk::hide(&mut txn, dir, &group)?
        };
        builder.shallow = false;
        record(&mut builder, &group.dir)?;
        bulk::show(&mut txn.write(), &hidden)?;
    }
    for (path, shallow) in single {
        builder.shallow = shallow;
        record(&mut builder, &path)?;
    }
    if let Some(path) = view.unexpected() {
        return Err(Error::new(Class::Failed, format!("the version says nothing of `{path}`, which Pijul asked about")));
    }
    let mut recorded = builder.finish();
    for hunk in &mut recorded.actions {
        if let Hunk::FileDel { path, .. } = hunk {
            restore_path(path, &gone);
        }
    }
    let empty = recorded.actions.is_empty();
    let updates = recorded.updatables.clone();
    let change = recorded.into_change(&*txn.read(), channel, header);
    let change = change.map_err(refused("cannot make the change"))?;
    let hash = change.hash().map_err(refused("cannot name the change"))?;
    let applied = txn.write().apply_local_change(channel, &change, &hash, &updates);
    applied.map_err(refused("cannot apply the change"))?;
    behind.save(hash, change)?;
    for (number, (inode, path)) in gone.iter().enumerate() {
        let mut txn = txn.write();
        if txn.get_revtree(inode, None).map_err(refused("cannot read the tree"))?.is_none() {
            continue;
        }
        if txn.get_inodes(inode, None).map_err(refused("cannot read the tree"))?.is_some() {
            return Err(Error::new(Class::Failed, format!("libpijul did not forget `{path}`, which is gone")));
        }
        // A directory of sidecars that came and went within the version: the graph never had it.
        txn.remove_file(&gone_name(number)).map_err(refused("cannot forget a directory"))?;
    }
    Ok((hash, empty))
}

/// The `number`-th name of what goes away.
fn gone_name(number: usize) -> String {
    format!("{GONE}gone-{number}")
}

/// The number is looked up in `gone`, so that a change names the path that was deleted.
fn restore_path(path: &mut String, gone: &[(Inode, String)]) {
    let Some(rest) = path.strip_prefix(GONE).and_then(|p| p.strip_prefix("gone-")) else { return };
    let (number, below) = rest.split_once('/').map_or((rest, None), |(n, b)| (n, Some(b)));
    if let Some((_, was)) = number.parse::<usize>().ok().and_then(|n| gone.get(n)) {
        *path = below.map_or_else(|| was.clone(), |b| format!("{was}/{b}"));
    }
}

/// What to record, and whether without what is below. A fresh directory that nothing was moved into is walked as a whole: libpijul scans
/// the whole directory for each path it is asked to record.
fn prefixes(puts: &BTreeMap<String, Put>, fresh: &BTreeSet<String>, gone: usize) -> Vec<(String, bool)> {
    let mut out: Vec<_> = (0..gone).map(|n| (gone_name(n), true)).collect();
    let mut whole: Option<String> = None;
    for path in puts.keys() {
        if whole.as_ref().is_some_and(|w| path.starts_with(w.as_str())) {
            continue;
        }
        let below = format!("{path}/");
        let all_fresh =
            fresh.contains(path) && puts.range(below.clone()..).take_while(|(p, _)| p.starts_with(&below)).all(|(p, _)| fresh.contains(p));
        out.push((path.clone(), !all_fresh));
        whole = all_fresh.then_some(below);
    }
    out
}

/// What a version does to the tree table.
#[derive(Default)]
struct Changed {
    /// What went away, and where it was.
    gone: Vec<(Inode, String)>,
    /// Paths added by this version.
    fresh: BTreeSet<String>,
    /// Files that stay where they are, or where a directory above them takes them.
    kept: Vec<(Inode, String)>,
    /// Directories of sidecars that something left.
    emptied: BTreeSet<String>,
}

struct Tree<'a> {
    txn: &'a mut MutTxn0,
    changed: Changed,
}

impl Tree<'_> {
    fn find(&self, path: &str) -> Option<Inode> {
        // Not found and "cannot be a name" are the same to us.
        fs::find_inode(&*self.txn, path).ok()
    }

    fn is_dir(&self, inode: Inode) -> Result<bool> {
        let marker = self.txn.get_tree(&OwnedPathId::inode(inode), None);
        Ok(marker.map_err(refused("cannot read the tree"))?.is_some())
    }

    fn path_of(&self, inode: Inode) -> Result<Option<String>> {
        fs::inode_filename(&*self.txn, inode).map_err(refused("cannot read the tree"))
    }

    fn move_to(&mut self, inode: Inode, path: &str) -> Result<()> {
        fs::move_file_by_inode(self.txn, inode, path, 0).map_err(refused(&format!("cannot move to `{path}`")))
    }

    fn left(&mut self, path: &str) {
        if let Some((dir, _)) = path.rsplit_once('/').filter(|(d, _)| d.starts_with(names::META_DIR)) {
            self.changed.emptied.insert(dir.to_owned());
        }
    }

    fn send_away(&mut self, inode: Inode, was: &str) -> Result<()> {
        // Below a directory that went away before.
        if inode.is_root() || self.path_of(inode)?.is_none_or(|p| p.starts_with(&format!("{GONE}gone-"))) {
            return Ok(());
        }
        self.move_to(inode, &gone_name(self.changed.gone.len()))?;
        self.changed.gone.push((inode, was.to_owned()));
        self.left(was);
        Ok(())
    }

    /// Brings the tree table to the new state; gives back what each path is to hold.
    fn arrange(&mut self, plan: Plan) -> Result<BTreeMap<String, Put>> {
        let Plan { gone, moves, mut puts, absent } = plan;
        // Old names are looked up before anything moves.
        let gone: Vec<_> = gone.into_iter().filter_map(|p| Some((self.find(&p)?, p))).collect();
        let moves: Vec<_> = moves.into_iter().filter_map(|m| Some((self.find(&m.from)?, m))).collect();

        let mut arriving = BTreeMap::new();
        for (n, (inode, Move { from, to, mirror })) in moves.into_iter().enumerate() {
            let dir = self.is_dir(inode)?;
            if mirror {
                puts.insert(to.clone(), Put::Dir);
            }
            if matches!(puts.get(&to), Some(Put::Dir)) != dir {
                // Not the same thing after all: the old goes, the new is added.
                self.send_away(inode, &from)?;
                continue;
            }
            self.move_to(inode, &format!("{GONE}move-{n}"))?;
            self.left(&from);
            if let Some(earlier) = arriving.insert(to, inode) {
                self.send_moved_away(earlier, &from)?;
            }
        }
        let mut gone = gone;
        gone.sort_by(|a, b| a.1.cmp(&b.1));
        for (inode, path) in gone {
            self.send_away(inode, &path)?;
        }
        // Parents before children: a path sorts before what is below it.
        for (path, put) in &puts {
            let there = self.find(path);
            if let Some(inode) = arriving.remove(path) {
                if let Some(there) = there {
                    self.send_away(there, path)?;
                }
                self.move_to(inode, path)?;
                continue;
            }
            let dir = matches!(put, Put::Dir);
            match there {
                Some(inode) if self.is_dir(inode)? == dir => {
                    if !dir {
                        self.changed.kept.push((inode, path.clone()));
                    }
                    continue;
                }
                Some(inode) => self.send_away(inode, path)?,
                None => {}
            }
            self.txn.add(path, dir, 0).map_err(refused(&format!("cannot add `{path}`")))?;
            self.changed.fresh.insert(path.clone());
        }
        for path in absent {
            if let Some(inode) = self.find(&path) {
                self.send_away(inode, &path)?;
            }
        }
        self.prune(&mut puts)?;
        Ok(puts)
    }

    /// The file goes, and comes again: see [`wear`].
    fn found_anew(&mut self, inode: Inode, path: &str) -> Result<()> {
        self.send_away(inode, path)?;
        self.txn.add(path, false, 0).map_err(refused(&format!("cannot add `{path}`")))?;
        self.changed.fresh.insert(path.to_owned());
        Ok(())
    }

    fn send_moved_away(&mut self, inode: Inode, was: &str) -> Result<()> {
        self.move_to(inode, &gone_name(self.changed.gone.len()))?;
        self.changed.gone.push((inode, was.to_owned()));
        Ok(())
    }

    /// Directories of sidecars go with their last sidecar.
    fn prune(&mut self, puts: &mut BTreeMap<String, Put>) -> Result<()> {
        // A mirror that moved may have lost its sidecars too.
        let moved = puts.iter().filter(|(p, put)| matches!(put, Put::Dir) && p.starts_with(names::META_DIR));
        self.changed.emptied.extend(moved.map(|(p, _)| p.clone()).collect::<Vec<_>>());
        while let Some(dir) = self.changed.emptied.pop_last() {
            let Some(inode) = self.find(&dir).filter(|_| names::is_meta(&dir)) else { continue };
            let empty = {
                let mut children = fs::working_copy_children(&*self.txn, inode).map_err(refused("cannot read the tree"))?;
                children.next().is_none()
            };
            if empty && self.is_dir(inode)? {
                puts.remove(&dir);
                self.send_away(inode, &dir)?;
            }
        }
        Ok(())
    }
}

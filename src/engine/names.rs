//! Names of inodes and processes, as the records told them so far, else as the state before the oldest record has them.
//!
//! An inode's path goes by its first name that is still there; once the last is gone, by that one.

use std::collections::HashMap;
use std::sync::Arc;

use crate::engine::states::Store;
use crate::ids::{Ino, Lsn, StoreId};
use crate::op::{Operation, ProcessKey, ProcessRecord, RenameMode};
use crate::project::Layout;
use crate::storage::{Disk, Storage};
use crate::tree::Tree;

/// Directories above a path that are followed at most; more are no path of ours.
const DEPTH: usize = 4096;

type Name = (Ino, Box<[u8]>);

#[derive(Debug, Default)]
struct Known {
    names: Vec<Name>,
    /// None of the names is there any more; the one that is kept was the last.
    gone: bool,
}

/// What stood before the first record that is read.
#[derive(Debug)]
enum Base {
    /// Not looked for: most commands need no name that the records do not tell.
    Unasked(Arc<dyn Storage>, Layout, StoreId),
    There(Box<Tree>),
    Nowhere,
}

/// Names of inodes and processes.
#[derive(Debug)]
pub struct Names {
    inodes: HashMap<Ino, Known>,
    processes: HashMap<ProcessKey, Box<[u8]>>,
    base: Base,
    /// The base was needed, and the state before the oldest record is not known: only an older one, or none.
    lacks_base: bool,
}

impl Names {
    /// Knows none yet; asks the versions of that project where the records do not tell.
    #[must_use]
    pub fn new(project: Option<(Layout, StoreId)>) -> Self {
        Self::over(project.map_or(Base::Nowhere, |(layout, id)| Base::Unasked(Disk::shared(), layout, id)))
    }

    /// The same of a project on any disk.
    #[must_use]
    pub fn on(storage: Arc<dyn Storage>, layout: Layout, id: StoreId) -> Self {
        Self::over(Base::Unasked(storage, layout, id))
    }

    fn over(base: Base) -> Self {
        Self { inodes: HashMap::new(), processes: HashMap::new(), base, lacks_base: false }
    }

    /// Was a name asked for that stood before the oldest record, and the state then is not known (a prune took records out of the middle of
    /// a version)? Then paths may be such as were before that, or be missing.
    #[must_use]
    pub fn lacks_base(&self) -> bool {
        self.lacks_base
    }

    /// The short name of a process, where a record told it.
    #[must_use]
    pub fn comm(&self, key: &ProcessKey) -> Option<&[u8]> {
        self.processes.get(key).map(|comm| &**comm)
    }

    /// Takes over what a process record says.
    pub fn learn_process(&mut self, process: ProcessRecord) {
        self.processes.insert(process.key, process.comm.into());
    }

    /// Takes over what an operation does to names. Its own path is asked for before.
    pub fn learn(&mut self, op: &Operation) {
        match op {
            Operation::Rename(rename) => {
                match rename.mode {
                    RenameMode::Free => {}
                    RenameMode::Replace(other) => self.leave(other, rename.to_dir, &rename.to_name),
                    RenameMode::Exchange(other) => {
                        self.leave(other, rename.to_dir, &rename.to_name);
                        self.enter(other, rename.dir, &rename.name);
                    }
                }
                self.leave(rename.ino, rename.dir, &rename.name);
                self.enter(rename.ino, rename.to_dir, &rename.to_name);
            }
            Operation::Unlink(op) => self.leave(op.ino, op.dir, &op.name),
            Operation::Rmdir(op) => self.leave(op.ino, op.dir, &op.name),
            // Numbers are never used again.
            Operation::Forget(op) => drop(self.inodes.remove(&op.ino)),
            Operation::Link(op) => {
                // The names before it, which come first.
                self.ask_base(op.ino);
                self.enter(op.ino, op.dir, &op.name);
            }
            _ => {
                if let (Some(ino), (Some((dir, name)), _)) = (op.ino(), op.names()) {
                    self.enter(ino, dir, name);
                }
            }
        }
    }

    fn enter(&mut self, ino: Ino, dir: Ino, name: &[u8]) {
        let known = self.inodes.entry(ino).or_default();
        if known.gone {
            known.names.clear();
            known.gone = false;
        }
        known.names.push((dir, name.into()));
    }

    fn leave(&mut self, ino: Ino, dir: Ino, name: &[u8]) {
        self.ask_base(ino);
        let known = self.inodes.entry(ino).or_default();
        known.names.retain(|(d, n)| *d != dir || **n != *name);
        if known.names.is_empty() {
            known.names.push((dir, name.into()));
            known.gone = true;
        }
    }

    /// Makes the names known that an inode had before the first record.
    fn ask_base(&mut self, ino: Ino) {
        if ino == Ino::ROOT || self.inodes.contains_key(&ino) {
            return;
        }
        if let Base::Unasked(storage, layout, id) = &self.base {
            let (base, exact) = open_base(storage, layout, *id);
            self.base = base.map_or(Base::Nowhere, |tree| Base::There(Box::new(tree)));
            self.lacks_base = !exact;
        }
        if let Base::There(tree) = &mut self.base
            && let Ok(inode) = tree.inode(ino)
        {
            let names = inode.names.iter().map(|n| (n.dir, Box::from(&*n.name))).collect();
            self.inodes.insert(ino, Known { names, gone: false });
        }
    }

    /// Path of an inode from the root, empty for the root itself; `None` where it is not known.
    pub fn path(&mut self, ino: Ino) -> Option<Vec<u8>> {
        self.ask_base(ino);
        if ino == Ino::ROOT {
            return Some(Vec::new());
        }
        let (dir, name) = self.inodes.get(&ino)?.names.first()?.clone();
        self.join(dir, &name)
    }

    /// Every path of an inode that has more than one name.
    pub fn paths(&mut self, ino: Ino) -> Vec<Vec<u8>> {
        let names = match self.inodes.get(&ino) {
            Some(known) if known.names.len() > 1 => known.names.clone(),
            _ => return Vec::new(),
        };
        names.iter().filter_map(|(dir, name)| self.join(*dir, name)).collect()
    }

    /// Path of a name in a directory.
    pub fn join(&mut self, dir: Ino, name: &[u8]) -> Option<Vec<u8>> {
        let mut above = 0;
        let mut len = name.len();
        let mut at = dir;
        while at != Ino::ROOT {
            self.ask_base(at);
            let (up, part) = self.inodes.get(&at)?.names.first()?;
            len += part.len() + 1;
            above += 1;
            at = *up;
            if above > DEPTH {
                return None;
            }
        }
        // From its end: the names are met in that order.
        let mut path = vec![b'/'; len];
        let mut end = len - name.len();
        path[end..].copy_from_slice(name);
        at = dir;
        while at != Ino::ROOT {
            let (up, part) = self.inodes.get(&at)?.names.first()?;
            end -= part.len() + 1;
            path[end..end + part.len()].copy_from_slice(part);
            at = *up;
        }
        Some(path)
    }
}

/// The state before the oldest record that the log keeps, and whether it is that one: where none is known, it is the last known before it.
fn open_base(storage: &Arc<dyn Storage>, layout: &Layout, id: StoreId) -> (Option<Tree>, bool) {
    let Ok(store) = Store::open_on(Arc::clone(storage), layout, id) else { return (None, false) };
    let Ok(Some(oldest)) = store.oldest_in_log() else { return (None, false) };
    let before = Lsn(oldest.0.saturating_sub(1));
    match store.state_at(before) {
        Ok(tree) => (Some(tree), true),
        Err(_) => {
            let version = store.versions().at_lsn(before).ok().flatten();
            (version.and_then(|version| store.state_of(&version).ok()), false)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::{Create, Forget, Link, Mkdir, Rename, Rmdir, Unlink};

    fn mkdir(dir: u64, name: &[u8], ino: u64) -> Operation {
        Mkdir { dir: Ino(dir), name: name.into(), ino: Ino(ino), mode: 0o755, uid: 0, gid: 0 }.into()
    }

    fn create(dir: u64, name: &[u8], ino: u64) -> Operation {
        Create { dir: Ino(dir), name: name.into(), ino: Ino(ino), mode: 0o644, uid: 0, gid: 0 }.into()
    }

    fn rename(from: (u64, &[u8]), ino: u64, to: (u64, &[u8]), mode: RenameMode) -> Operation {
        Rename { dir: Ino(from.0), name: from.1.into(), ino: Ino(ino), to_dir: Ino(to.0), to_name: to.1.into(), mode }.into()
    }

    #[test]
    fn a_path_follows_births_links_renames_and_removals() {
        let mut names = Names::new(None);
        let mut path = |op: Option<Operation>, ino: u64| {
            if let Some(op) = op {
                names.learn(&op);
            }
            names.path(Ino(ino)).map(|p| String::from_utf8(p).unwrap())
        };
        let is = |text: &str| Some(text.to_owned());
        assert_eq!(path(None, 1), is(""));
        assert_eq!(path(None, 2), None);
        assert_eq!(path(Some(mkdir(1, b"d", 2)), 2), is("d"));
        assert_eq!(path(Some(create(2, b"a", 3)), 3), is("d/a"));
        assert_eq!(path(Some(rename((1, b"d"), 2, (1, b"e"), RenameMode::Free)), 3), is("e/a"));
        assert_eq!(path(Some(Link { ino: Ino(3), dir: Ino(1), name: b"b".into() }.into()), 3), is("e/a"));
        assert_eq!(path(Some(Unlink { ino: Ino(3), dir: Ino(2), name: b"a".into() }.into()), 3), is("b"));
        assert_eq!(path(Some(create(1, b"c", 4)), 4), is("c"));
        assert_eq!(path(Some(rename((1, b"c"), 4, (1, b"b"), RenameMode::Exchange(Ino(3)))), 4), is("b"));
        assert_eq!(path(None, 3), is("c"));
        assert_eq!(path(Some(rename((1, b"b"), 4, (1, b"c"), RenameMode::Replace(Ino(3)))), 4), is("c"));
        assert_eq!(path(None, 3), is("c"), "the last name is kept for what is still open");
        assert_eq!(path(Some(Forget { ino: Ino(3) }.into()), 3), None);
        assert_eq!(path(Some(Rmdir { ino: Ino(2), dir: Ino(1), name: b"e".into() }.into()), 2), is("e"));
        assert_eq!(path(Some(create(77, b"x", 5)), 5), None, "its directory is not known");
    }

    #[test]
    fn directories_that_hold_each_other_have_no_path() {
        let mut names = Names::new(None);
        names.learn(&mkdir(3, b"a", 2));
        names.learn(&mkdir(2, b"b", 3));
        assert_eq!(names.path(Ino(2)), None);
    }
}

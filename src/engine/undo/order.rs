//! From what is wanted to steps in an order in which each can be done: files go, names move, directories go, directories come, then all else
//! comes, bytes, attributes, and last the times of directories. What cannot move to its place directly (its directory is still to come, or
//! something is in its way, as in a swap) waits under another name.

use std::collections::{HashMap, HashSet};

use super::deltas::Place;
use super::steps::{Attrs, Made, PARKED, Step, Target, Wishes};
use crate::error::{Class, Error, Result};
use crate::ids::Ino;
use crate::tree::path::join;
use crate::tree::{Tree, TreeError};
use crate::versions::node::FileKind;

/// The tree as it is after the steps so far.
struct Shadow<'a> {
    now: &'a mut Tree,
    /// Where directories are that moved or were made.
    dirs: HashMap<Ino, Place>,
    /// Where a name of an inode is that moved: a file may have several.
    names: HashMap<(Ino, Place), Place>,
    /// Directories of an earlier state for which another one stands.
    alias: HashMap<Ino, Ino>,
    /// Names that are free although they are not so now.
    freed: HashSet<Place>,
}

impl Shadow<'_> {
    fn dir(&mut self, dir: Ino) -> Result<Vec<u8>> {
        let mut parts: Vec<Vec<u8>> = Vec::new();
        let mut at = dir;
        // Nothing is deeper than its own path is long.
        while at != Ino::ROOT && parts.len() < 1 << 16 {
            at = self.alias.get(&at).copied().unwrap_or(at);
            if at == Ino::ROOT {
                break;
            }
            let place = match self.dirs.get(&at) {
                Some(place) => place.clone(),
                None => {
                    let inode = self.now.inode(at)?;
                    let name = inode.names.first().ok_or_else(|| gone(at))?;
                    Place { dir: name.dir, name: name.name.to_vec() }
                }
            };
            parts.push(place.name);
            at = place.dir;
        }
        parts.reverse();
        Ok(parts.join(&b'/'))
    }

    fn path(&mut self, place: &Place) -> Result<Vec<u8>> {
        let dir = self.dir(place.dir)?;
        Ok(if place.name.is_empty() { dir } else { join(&dir, &place.name) })
    }

    fn target(&mut self, target: &Target) -> Result<Vec<u8>> {
        let place = self.place(target);
        self.path(&place)
    }

    fn place(&self, target: &Target) -> Place {
        self.names.get(&(target.ino, target.place.clone())).unwrap_or(&target.place).clone()
    }

    fn put(&mut self, target: &Target, place: Place) {
        self.dirs.insert(target.ino, place.clone());
        self.names.insert((target.ino, target.place.clone()), place);
    }

    /// Is the directory there, and not waiting elsewhere?
    fn is_there(&mut self, dir: Ino, waiting: &HashSet<Ino>) -> Result<bool> {
        let mut at = dir;
        for _ in 0..1 << 16 {
            at = self.alias.get(&at).copied().unwrap_or(at);
            if at == Ino::ROOT {
                return Ok(true);
            }
            if waiting.contains(&at) {
                return Ok(false);
            }
            at = match (self.dirs.get(&at), self.now.inode(at)) {
                (Some(place), _) => place.dir,
                (None, Ok(inode)) => match inode.names.first() {
                    Some(name) => name.dir,
                    None => return Ok(false),
                },
                (None, Err(TreeError::NoInode(_))) => return Ok(false),
                (None, Err(e)) => return Err(e.into()),
            };
        }
        Ok(false)
    }

    fn is_free(&mut self, place: &Place) -> Result<bool> {
        if self.freed.contains(place) {
            return Ok(true);
        }
        match self.now.lookup(place.dir, &place.name) {
            Ok(child) => Ok(child.is_none()),
            Err(TreeError::NoInode(_) | TreeError::NotDirectory(_)) => Ok(true),
            Err(e) => Err(e.into()),
        }
    }
}

fn gone(ino: Ino) -> Error {
    Error::new(Class::Failed, format!("directory {ino} has no name"))
}

/// Orders the wishes.
///
/// # Errors
/// What reading the tree says.
pub(super) fn order(now: &mut Tree, wishes: Wishes, alias: HashMap<Ino, Ino>) -> Result<Vec<Step>> {
    let Wishes { removes, moves, makes, links, writes, sets } = wishes;
    let mut steps = Vec::new();
    let mut shadow = Shadow { now, dirs: HashMap::new(), names: HashMap::new(), alias, freed: HashSet::new() };

    let (dirs, files): (Vec<_>, Vec<_>) = removes.into_iter().partition(|(_, is_dir)| *is_dir);
    for (target, _) in files {
        steps.push(Step::Remove { path: shadow.path(&target.place)?, is_dir: false });
        shadow.freed.insert(target.place);
    }

    // Moves that find their place, as long as one does.
    let (made, mut dirs_to_make): (HashSet<Ino>, Vec<_>) =
        (makes.iter().map(|(t, _)| t.ino).collect(), makes.iter().filter(|(_, m)| *m == Made::Dir).cloned().collect());
    let mut left = moves;
    loop {
        let mut stayed = Vec::new();
        let before = left.len();
        for (target, to) in left {
            let itself = HashSet::from([target.ino]);
            let ready = !made.contains(&to.dir) && shadow.is_free(&to)? && shadow.is_there(to.dir, &itself)?;
            if ready {
                let from = shadow.target(&target)?;
                steps.push(Step::Rename { from, to: shadow.path(&to)? });
                shadow.freed.remove(&to);
                shadow.put(&target, to);
                shadow.freed.insert(target.place);
            } else {
                stayed.push((target, to));
            }
        }
        left = stayed;
        if left.is_empty() || left.len() == before {
            break;
        }
    }
    // The rest waits, in its own directory if that stays: then no other one's times move.
    let going: HashSet<Ino> = dirs.iter().map(|(target, _)| target.ino).collect();
    let mut waiting = HashSet::new();
    for (number, (target, _)) in left.iter().enumerate() {
        let from = shadow.target(target)?;
        let dir = Some(shadow.place(target).dir).filter(|dir| !going.contains(dir));
        let place = Place { dir: dir.unwrap_or(Ino::ROOT), name: format!("{PARKED}{}-{number}", std::process::id()).into_bytes() };
        steps.push(Step::Rename { from, to: shadow.path(&place)? });
        shadow.freed.insert(target.place.clone());
        shadow.put(target, place);
        waiting.insert(target.ino);
    }

    // The innermost first.
    let mut paths = Vec::new();
    for (target, _) in dirs {
        paths.push(shadow.target(&target)?);
        shadow.freed.insert(target.place);
    }
    paths.sort_unstable_by(|a, b| b.cmp(a));
    steps.extend(paths.into_iter().map(|path| Step::Remove { path, is_dir: true }));

    // Directories come, and what waited finds its place, the outermost first.
    while !left.is_empty() || !dirs_to_make.is_empty() {
        let before = left.len() + dirs_to_make.len();
        let mut stayed = Vec::new();
        for (target, what) in dirs_to_make {
            if shadow.is_there(target.place.dir, &waiting)? {
                let path = shadow.path(&target.place)?;
                shadow.put(&target, target.place.clone());
                steps.push(Step::Make { path, what });
            } else {
                stayed.push((target, what));
            }
        }
        dirs_to_make = stayed;
        let mut stayed = Vec::new();
        for (target, to) in left {
            if shadow.is_there(to.dir, &waiting)? {
                let from = shadow.target(&target)?;
                waiting.remove(&target.ino);
                steps.push(Step::Rename { from, to: shadow.path(&to)? });
                shadow.put(&target, to);
            } else {
                stayed.push((target, to));
            }
        }
        left = stayed;
        if left.len() + dirs_to_make.len() == before {
            return Err(Error::new(Class::Failed, "the directories of the two states do not fit into one another")
                .hint("`ize restore PATH --at CHANGE` brings back single paths"));
        }
    }

    for (target, what) in makes {
        if what != Made::Dir {
            let path = shadow.path(&target.place)?;
            steps.push(Step::Make { path, what });
        }
    }
    for (source, place) in links {
        steps.push(Step::Link { from: shadow.target(&source)?, path: shadow.path(&place)? });
    }
    for (target, bytes, merged) in writes {
        steps.push(Step::Write { path: shadow.target(&target)?, bytes, merged });
    }

    let mut times = Vec::new();
    for (target, attrs, kind, shown) in sets {
        let path = shadow.target(&target)?;
        if kind != FileKind::Directory {
            steps.push(Step::Set { path, attrs, kind, shown });
            continue;
        }
        // A directory that takes no names any more, or whose times move with every name in it, comes last.
        times.push((path, attrs, shown));
    }
    times.sort_by(|a, b| b.0.cmp(&a.0));
    let set = |(path, attrs, shown): (Vec<u8>, Attrs, bool)| Step::Set { path, attrs, kind: FileKind::Directory, shown };
    steps.extend(times.into_iter().map(set));
    Ok(steps)
}

//! What must happen so that a change is gone (or back) and everything later stays: decided thing by thing from three states, the one with the
//! change (`from`), the one without it (`to`), and now. Redo is the same with the first two in the other order.
//!
//! Rule: a part of a thing (its bytes, its name, each attribute) that is now as in `from` becomes as in `to`; one that is as in `to` already
//! stays; anything else was changed later. Then a text is merged by patch theory, and all else stands in the way and is named.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::deltas::{Delta, Place, Thing};
use super::line::Way;
use super::steps::{Attrs, Bytes, Expected, Made, Target, Wishes};
use super::text::{Merged, merge};
use crate::engine::restore::same_bytes;
use crate::error::Result;
use crate::ids::Ino;
use crate::tree::path::{join, split};
use crate::tree::{Body, Tree, TreeError};
use crate::versions::node::{Content, FileKind};

/// Which part of a thing stands in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// That it is there, under this name.
    Name,
    /// Its bytes, which are no text.
    Bytes,
    /// Its text.
    Text,
    /// Mode, owner, group or extended attributes.
    Attributes,
}

/// Why something stands in the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Obstacle {
    /// The path in the state that has the change.
    pub(super) path: Vec<u8>,
    pub(super) why: &'static str,
    pub(super) part: Part,
    /// The text with the marks of a conflict.
    pub(super) conflict: Option<Vec<u8>>,
    /// The file with and without the change, for a text.
    pub(super) inos: Option<(Ino, Ino)>,
}

/// Where a thing of `from` is now.
enum Spot {
    /// In its place, or another inode is.
    There(Target),
    /// In another place.
    Elsewhere(Target),
    Gone,
}

pub(super) struct Planner<'a> {
    pub(super) from: &'a mut Tree,
    pub(super) to: &'a mut Tree,
    pub(super) now: &'a mut Tree,
    pub(super) way: Way,
    pub(super) wishes: Wishes,
    pub(super) obstacles: Vec<Obstacle>,
    pub(super) expected: Vec<Expected>,
    /// Directories of `to` that are not there now: which are made, and which others stand in their places.
    pub(super) alias: HashMap<Ino, Ino>,
    dirs_made: HashSet<Ino>,
    /// Files with several names that are made, and the first of these.
    files_made: HashMap<Ino, Place>,
    /// Places that become free.
    leaving: HashSet<Place>,
    /// What stands now for the things of `to` that stay.
    stands: HashMap<Ino, Target>,
    /// What goes.
    going: HashSet<Ino>,
    /// Inodes whose bytes and attributes are done.
    done: BTreeSet<Ino>,
}

impl<'a> Planner<'a> {
    pub(super) fn new(from: &'a mut Tree, to: &'a mut Tree, now: &'a mut Tree, way: Way) -> Self {
        Self {
            from,
            to,
            now,
            way,
            wishes: Wishes::default(),
            obstacles: Vec::new(),
            expected: Vec::new(),
            alias: HashMap::new(),
            dirs_made: HashSet::new(),
            files_made: HashMap::new(),
            leaving: HashSet::new(),
            stands: HashMap::new(),
            going: HashSet::new(),
            done: BTreeSet::new(),
        }
    }

    /// Decides on all of them.
    pub(super) fn run(&mut self, mut deltas: Vec<Delta>) -> Result<()> {
        // Parents first where something is made.
        deltas.sort_by(|a, b| a.to.as_ref().map(|t| &t.path).cmp(&b.to.as_ref().map(|t| &t.path)));
        let mut split = Vec::with_capacity(deltas.len());
        for delta in deltas {
            match (&delta.from, &delta.to) {
                (Some(from), Some(to)) if self.is_replaced(from, to)? => {
                    split.push(Delta { from: delta.from.clone(), to: None });
                    split.push(Delta { from: None, to: delta.to });
                }
                _ => split.push(delta),
            }
        }
        for delta in &split {
            let Some(from) = &delta.from else { continue };
            let moves = delta.to.as_ref().is_none_or(|to| to.place != from.place);
            if moves && let Spot::There(at) = self.spot(from)? {
                self.leaving.insert(at.place);
                if delta.to.is_none() {
                    self.going.insert(at.ino);
                }
            }
        }
        self.dirs_made = split
            .iter()
            .filter(|d| d.from.is_none())
            .filter_map(|d| d.to.as_ref())
            .filter(|t| t.node.kind == FileKind::Directory)
            .map(|t| t.ino)
            .collect();
        // What stays first: what comes may be a name of it, or belong into it.
        for (from, to) in split.iter().filter_map(|d| d.from.as_ref().zip(d.to.as_ref())) {
            self.change(from, to)?;
        }
        for delta in &split {
            match (&delta.from, &delta.to) {
                (Some(from), None) => self.remove(from)?,
                (None, Some(to)) => self.make(to)?,
                (Some(_), Some(_)) | (None, None) => {}
            }
        }
        self.directory_times()
    }

    /// Times of directories move with every name that comes or goes: those that are as the change left them become as they were without it.
    fn directory_times(&mut self) -> Result<()> {
        let w = &self.wishes;
        let left = w.removes.iter().map(|(t, _)| t.place.dir).chain(w.moves.iter().map(|(t, _)| t.place.dir));
        let reached = w.moves.iter().map(|(_, to)| to.dir).chain(w.links.iter().map(|(_, to)| to.dir));
        let mut touched: BTreeSet<Ino> = left.chain(reached).chain(w.makes.iter().map(|(t, _)| t.place.dir)).collect();
        if !w.moves.is_empty() {
            // What waits for its place may wait there.
            touched.insert(Ino::ROOT);
        }
        touched.retain(|dir| !self.dirs_made.contains(dir) && !self.going.contains(dir));
        for dir in touched {
            if self.wishes.sets.iter().any(|(target, attrs, ..)| target.ino == dir && attrs.mtime.is_some()) {
                continue;
            }
            let time = |tree: &mut Tree| match tree.inode(dir) {
                Ok(inode) => Ok(Some(inode.attrs.mtime)),
                Err(TreeError::NoInode(_)) => Ok(None),
                Err(e) => Err(e),
            };
            let (Some(from), Some(to), Some(now)) = (time(self.from)?, time(self.to)?, time(self.now)?) else { continue };
            if from == now {
                let name = self.now.inode(dir)?.names.first().cloned();
                let place = name.map_or(Place { dir: Ino::ROOT, name: Vec::new() }, |n| Place { dir: n.dir, name: n.name.to_vec() });
                let attrs = Attrs { mtime: Some(to), ..Attrs::default() };
                self.wishes.sets.push((Target { ino: dir, place }, attrs, FileKind::Directory, false));
            }
        }
        Ok(())
    }

    /// Is it another thing, which cannot be made of what is there?
    fn is_replaced(&mut self, from: &Thing, to: &Thing) -> Result<bool> {
        let (a, b) = (&from.node, &to.node);
        if a.kind != b.kind || a.attrs.rdev != b.attrs.rdev {
            return Ok(true);
        }
        if matches!((&a.content, &b.content), (Content::Target(x), Content::Target(y)) if x != y) {
            return Ok(true);
        }
        // Other names of either must not get what is meant for this one.
        let shared = from.node.nlink > 1 || to.node.nlink > 1 || self.living(from.ino)?.is_some_and(|(_, names)| names > 1);
        Ok(from.ino != to.ino && a.kind != FileKind::Directory && shared)
    }

    fn stop(&mut self, path: &[u8], part: Part, why: &'static str) {
        if !self.obstacles.iter().any(|o| o.path == path && o.why == why) {
            self.obstacles.push(Obstacle { path: path.to_vec(), why, part, conflict: None, inos: None });
        }
    }

    /// Kind and number of names of an inode that is there now.
    fn living(&mut self, ino: Ino) -> Result<Option<(FileKind, usize)>> {
        match self.now.inode(ino) {
            Ok(inode) if ino == Ino::ROOT || !inode.names.is_empty() => Ok(Some((inode.kind, inode.names.len()))),
            Ok(_) | Err(TreeError::NoInode(_)) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// The directory that stands for one of an earlier state.
    fn dir_now(&mut self, dir: Ino, path: &[u8]) -> Result<Option<Ino>> {
        if matches!(self.living(dir)?, Some((FileKind::Directory, _))) {
            return Ok(Some(dir));
        }
        // One that was made anew, or another one under the same name, does as well. Now is nearer to `from`.
        let there = match self.from.inode(dir) {
            Ok(_) => self.from.path_of(dir)?,
            Err(TreeError::NoInode(_)) => None,
            Err(e) => return Err(e.into()),
        };
        let Some(other) = self.now.resolve(there.as_deref().unwrap_or(path))? else { return Ok(None) };
        Ok(matches!(self.living(other)?, Some((FileKind::Directory, _))).then_some(other))
    }

    fn spot(&mut self, thing: &Thing) -> Result<Spot> {
        if thing.path.is_empty() {
            return Ok(Spot::There(Target { ino: Ino::ROOT, place: thing.place.clone() }));
        }
        let dir = self.dir_now(thing.place.dir, split(&thing.path).0)?;
        let place = dir.map(|dir| Place { dir, name: thing.place.name.clone() });
        if self.living(thing.ino)?.is_some() {
            let names = self.now.inode(thing.ino)?.names.clone();
            if let Some(place) = place.clone().filter(|p| names.iter().any(|n| n.dir == p.dir && *n.name == *p.name)) {
                return Ok(Spot::There(Target { ino: thing.ino, place }));
            }
            if let [only] = names.as_slice()
                && (thing.node.kind == FileKind::Directory || thing.node.nlink <= 1)
            {
                let place = Place { dir: only.dir, name: only.name.to_vec() };
                return Ok(Spot::Elsewhere(Target { ino: thing.ino, place }));
            }
        }
        let Some(place) = place else { return Ok(Spot::Gone) };
        Ok(match self.now.lookup(place.dir, &place.name)? {
            Some(child) => Spot::There(Target { ino: child.ino, place }),
            None => Spot::Gone,
        })
    }

    /// Is a place of `to` this one?
    fn is_place(&mut self, to: &Thing, place: &Place) -> Result<bool> {
        let dir = self.dir_now(to.place.dir, split(&to.path).0)?;
        Ok(dir == Some(place.dir) && to.place.name == place.name)
    }

    /// What must not change until the first step.
    fn expect(&mut self, target: &Target) -> Result<()> {
        let path = self.path(&target.place)?;
        let inode = self.now.inode(target.ino)?;
        let is = Some((target.ino, if inode.kind == FileKind::Directory { 0 } else { inode.size }, inode.attrs.ctime));
        let expected = Expected { path, is };
        if !self.expected.contains(&expected) {
            self.expected.push(expected);
        }
        Ok(())
    }

    fn expect_free(&mut self, place: &Place) -> Result<()> {
        if !self.leaving.contains(place) {
            let path = self.path(place)?;
            self.expected.push(Expected { path, is: None });
        }
        Ok(())
    }

    fn path(&mut self, place: &Place) -> Result<Vec<u8>> {
        let dir = self.now.path_of(place.dir)?.unwrap_or_default();
        Ok(if place.name.is_empty() { dir } else { join(&dir, &place.name) })
    }

    /// Has an inode of `from` (or of `to`) the kind and bytes that one has now?
    fn same_content(&mut self, of_from: bool, then: Ino, ino: Ino) -> Result<bool> {
        let tree: &mut Tree = if of_from { self.from } else { self.to };
        let (old, new) = (tree.inode(then)?, self.now.inode(ino)?);
        if old.kind != new.kind || old.attrs.rdev != new.attrs.rdev {
            return Ok(false);
        }
        match (&old.body, &new.body) {
            (Body::Symlink(a), Body::Symlink(b)) => Ok(a == b),
            (Body::File(_), Body::File(_)) => same_bytes(tree, then, self.now, ino),
            _ => Ok(true),
        }
    }

    fn same_attrs(&mut self, thing: &Thing, ino: Ino) -> Result<bool> {
        let inode = self.now.inode(ino)?;
        let (a, b) = (&inode.attrs, &thing.node.attrs);
        Ok((a.mode, a.uid, a.gid) == (b.mode, b.uid, b.gid) && inode.xattrs == thing.node.xattrs)
    }

    fn remove(&mut self, from: &Thing) -> Result<()> {
        let target = match self.spot(from)? {
            Spot::Gone => return Ok(()),
            Spot::Elsewhere(_) => {
                self.stop(&from.path, Part::Name, "it was renamed later");
                return Ok(());
            }
            Spot::There(target) => target,
        };
        let is_dir = from.node.kind == FileKind::Directory;
        if is_dir {
            if self.now.inode(target.ino)?.kind != FileKind::Directory {
                self.stop(&from.path, Part::Name, "something else has its name now");
                return Ok(());
            }
            for (name, _, _) in self.now.children(target.ino)? {
                if !self.leaving.contains(&Place { dir: target.ino, name: name.clone() }) {
                    self.stop(&join(&from.path, &name), Part::Name, "it was put there later, into a directory that goes");
                }
            }
        } else if target.ino == from.ino && from.node.nlink > 1 && self.is_in_to(from.ino)? {
            // Only a name goes.
            self.expect(&target)?;
            self.wishes.removes.push((target, false));
            return Ok(());
        } else if !self.same_content(true, from.ino, target.ino)? {
            self.stop(&from.path, Part::Bytes, "it was changed later");
        }
        if !self.same_attrs(from, target.ino)? {
            self.stop(&from.path, Part::Attributes, "its attributes were changed later");
        }
        self.expect(&target)?;
        self.wishes.removes.push((target, is_dir));
        Ok(())
    }

    fn is_in_to(&mut self, ino: Ino) -> Result<bool> {
        match self.to.inode(ino) {
            Ok(inode) => Ok(!inode.names.is_empty()),
            Err(TreeError::NoInode(_)) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// The place where something of `to` comes, if its directory is there or is made.
    fn destination(&mut self, to: &Thing) -> Result<Option<Place>> {
        let place = |dir| Some(Place { dir, name: to.place.name.clone() });
        if let Some(dir) = self.alias.get(&to.place.dir) {
            return Ok(place(*dir));
        }
        if self.dirs_made.contains(&to.place.dir) {
            return Ok(place(to.place.dir));
        }
        match self.dir_now(to.place.dir, split(&to.path).0)? {
            Some(dir) if !self.going.contains(&dir) => Ok(place(dir)),
            _ => {
                self.stop(split(&to.path).0, Part::Name, "the directory was removed or replaced later, and something belongs into it");
                Ok(None)
            }
        }
    }

    /// What has a place now and keeps it.
    fn occupant(&mut self, place: &Place) -> Result<Option<Ino>> {
        if self.dirs_made.contains(&place.dir) || self.leaving.contains(place) {
            return Ok(None);
        }
        Ok(self.now.lookup(place.dir, &place.name)?.map(|child| child.ino))
    }

    fn make(&mut self, to: &Thing) -> Result<()> {
        let is_dir = to.node.kind == FileKind::Directory;
        let Some(place) = self.destination(to)? else { return Ok(()) };
        if let Some(there) = self.occupant(&place)? {
            if !self.same_content(false, to.ino, there)? || !self.same_attrs(to, there)? {
                self.stop(&to.path, Part::Name, "something else was put there later");
            } else if is_dir {
                self.dirs_made.remove(&to.ino);
                self.alias.insert(to.ino, there);
            }
            return Ok(());
        }
        if !self.dirs_made.contains(&place.dir) {
            self.expect_free(&place)?;
        }
        let target = Target { ino: to.ino, place: place.clone() };
        if !is_dir && to.node.nlink > 1 {
            if let Some(source) = self.remaining_name(to.ino)? {
                self.expect(&source)?;
                self.wishes.links.push((source, place));
                return Ok(());
            }
            if let Some(first) = self.files_made.get(&to.ino) {
                let source = Target { ino: to.ino, place: first.clone() };
                self.wishes.links.push((source, place));
                return Ok(());
            }
            self.files_made.insert(to.ino, place);
        }
        let made = match (to.node.kind, &to.node.content) {
            (FileKind::Directory, _) => Made::Dir,
            (FileKind::Symlink, Content::Target(to)) => Made::Symlink(to.clone()),
            (FileKind::File, _) => Made::File(Bytes::Of { ino: to.ino, size: to.node.size }),
            (kind, _) => Made::Node(kind, to.node.attrs.rdev),
        };
        self.wishes.makes.push((target.clone(), made));
        let a = &to.node.attrs;
        let attrs = Attrs {
            owner: Some((a.uid, a.gid)),
            mode: (to.node.kind != FileKind::Symlink).then_some(a.mode),
            xattrs: to.node.xattrs.iter().map(|(name, value)| (name.clone(), Some(value.clone()))).collect(),
            atime: Some(a.atime),
            mtime: Some(a.mtime),
        };
        self.wishes.sets.push((target, attrs, to.node.kind, true));
        Ok(())
    }

    /// A name that a file with several names has now and keeps: of the same inode, or, where that was made anew meanwhile, one that it had
    /// in either state, with the same bytes.
    fn remaining_name(&mut self, ino: Ino) -> Result<Option<Target>> {
        if let Some(target) = self.stands.get(&ino) {
            return Ok(Some(target.clone()));
        }
        if self.living(ino)?.is_some() {
            let names = self.now.inode(ino)?.names.clone();
            let mut places = names.into_iter().map(|n| Place { dir: n.dir, name: n.name.to_vec() });
            let place = places.find(|place| !self.leaving.contains(place));
            return Ok(place.map(|place| Target { ino, place }));
        }
        for of_from in [true, false] {
            let tree: &mut Tree = if of_from { self.from } else { self.to };
            let mut names = Vec::new();
            if tree.inode(ino).is_ok() {
                for name in tree.inode(ino)?.names.clone() {
                    names.push((tree.path_of(name.dir)?.unwrap_or_default(), name));
                }
            }
            for (path, name) in names {
                let Some(dir) = self.dir_now(name.dir, &path)? else { continue };
                let place = Place { dir, name: name.name.to_vec() };
                if let Some(child) = self.now.lookup(dir, &place.name)?
                    && !self.leaving.contains(&place)
                    && self.same_content(of_from, ino, child.ino)?
                {
                    return Ok(Some(Target { ino: child.ino, place }));
                }
            }
        }
        Ok(None)
    }

    fn change(&mut self, from: &Thing, to: &Thing) -> Result<()> {
        let moves = from.place != to.place;
        let target = match self.spot(from)? {
            Spot::There(target) => {
                if moves && let Some(place) = self.destination(to)? {
                    if self.occupant(&place)?.is_some() {
                        self.stop(&to.path, Part::Name, "something else was put there later");
                    } else if !self.dirs_made.contains(&place.dir) {
                        self.expect_free(&place)?;
                    }
                    self.expect(&target)?;
                    self.wishes.moves.push((target.clone(), place));
                }
                target
            }
            Spot::Elsewhere(target) if !moves || self.is_place(to, &target.place)? => target,
            Spot::Elsewhere(_) => {
                self.stop(&from.path, Part::Name, "it was renamed later");
                return Ok(());
            }
            Spot::Gone => {
                // Nobody misses the times of a directory that is gone.
                if moves || from.node.kind != FileKind::Directory || !same_but_times(from, to) {
                    self.stop(&from.path, Part::Name, "it was removed later");
                }
                return Ok(());
            }
        };
        if self.now.inode(target.ino)?.kind != from.node.kind {
            if from.node.kind != FileKind::Directory || !same_but_times(from, to) {
                self.stop(&from.path, Part::Name, "something else has its name now");
            }
            return Ok(());
        }
        if target.ino != to.ino && from.node.kind == FileKind::Directory {
            self.alias.insert(to.ino, target.ino);
        }
        self.stands.insert(to.ino, target.clone());
        // All names of a file are listed; one of them is enough.
        if !self.done.insert(target.ino) {
            return Ok(());
        }
        let written = self.content(from, to, &target)?;
        self.attributes(from, to, &target, written)
    }

    /// Whether the bytes become exactly those of `to` (`Some(true)`), a mixture (`Some(false)`), or stay.
    fn content(&mut self, from: &Thing, to: &Thing, target: &Target) -> Result<Option<bool>> {
        let differs = (&from.node.content, from.node.size) != (&to.node.content, to.node.size);
        if from.node.kind != FileKind::File || !differs {
            return Ok(None);
        }
        if self.same_content(true, from.ino, target.ino)? {
            self.expect(target)?;
            self.wishes.writes.push((target.clone(), Bytes::Of { ino: to.ino, size: to.node.size }, false));
            return Ok(Some(true));
        }
        if self.same_content(false, to.ino, target.ino)? {
            return Ok(None);
        }
        let merged = merge(self.way, (self.from, from.ino), (self.to, to.ino), (self.now, target.ino))?;
        match merged {
            Merged::Text(bytes, now) => {
                if bytes != now {
                    let same = bytes.iter().zip(&now).take_while(|(a, b)| a == b).count();
                    self.expect(target)?;
                    self.wishes.writes.push((target.clone(), Bytes::Held { bytes, same }, true));
                    return Ok(Some(false));
                }
            }
            Merged::Conflict(shown) => {
                let why = "what was changed later contradicts it";
                let conflict = Some(shown);
                self.obstacles.push(Obstacle { path: from.path.clone(), why, part: Part::Text, conflict, inos: None });
            }
            Merged::Needed => {
                let (why, inos) = ("later changes of the text were built on it", Some((from.ino, to.ino)));
                self.obstacles.push(Obstacle { path: from.path.clone(), why, part: Part::Text, conflict: None, inos });
            }
            Merged::NoText => self.stop(&from.path, Part::Bytes, "it was changed later, and is no text that could be merged"),
        }
        Ok(None)
    }

    fn attributes(&mut self, from: &Thing, to: &Thing, target: &Target, written: Option<bool>) -> Result<()> {
        let (f, t) = (&from.node.attrs, &to.node.attrs);
        let (now, xattrs) = {
            let inode = self.now.inode(target.ino)?;
            (inode.attrs.clone(), inode.xattrs.clone())
        };
        let mut attrs = Attrs::default();
        let mut later = false;
        let mut wanted = |from: bool, to: bool| {
            later |= !from && !to;
            from && !to
        };
        if (f.uid, f.gid) != (t.uid, t.gid) && wanted((now.uid, now.gid) == (f.uid, f.gid), (now.uid, now.gid) == (t.uid, t.gid)) {
            attrs.owner = Some((t.uid, t.gid));
        }
        if f.mode != t.mode && wanted(now.mode == f.mode, now.mode == t.mode) {
            attrs.mode = Some(t.mode);
        }
        let names: BTreeSet<&Vec<u8>> = from.node.xattrs.keys().chain(to.node.xattrs.keys()).collect();
        for name in names {
            let (f, t, now) = (from.node.xattrs.get(name), to.node.xattrs.get(name), xattrs.get(name));
            if f != t && wanted(now == f, now == t) {
                attrs.xattrs.push((name.clone(), t.cloned()));
            }
        }
        if later {
            self.stop(&from.path, Part::Attributes, "its attributes were changed later");
        }
        let shown = !attrs.is_empty() || from.node.kind != FileKind::Directory;
        // A change of bytes or owner takes these bits away.
        let privileged = (written.is_some() || attrs.owner.is_some()) && now.mode & 0o6000 != 0;
        if privileged && attrs.mode.is_none() && from.node.kind == FileKind::File {
            attrs.mode = Some(now.mode);
        }
        if (written == Some(true) || f.mtime != t.mtime) && now.mtime == f.mtime && written != Some(false) {
            attrs.mtime = Some(t.mtime);
        }
        if !attrs.is_empty() {
            // Others may make names in a directory of which only the times follow.
            if shown {
                self.expect(target)?;
            }
            self.wishes.sets.push((target.clone(), attrs, from.node.kind, shown));
        }
        Ok(())
    }
}

fn same_but_times(a: &Thing, b: &Thing) -> bool {
    let of = |t: &Thing| (t.node.attrs.mode, t.node.attrs.uid, t.node.attrs.gid);
    of(a) == of(b) && a.node.xattrs == b.node.xattrs
}

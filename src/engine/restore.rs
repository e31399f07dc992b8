//! Going back: makes named paths what they were in an earlier state, by ordinary recorded operations, so that a restore can itself be
//! undone. Nothing that is not named is touched; what is equal already is left alone; modification times come back too.

use std::collections::{BTreeSet, HashMap};

use serde::{Deserialize, Serialize};

use crate::error::{Class, Error, Result};
use crate::fs::Writer;
use crate::fs::journal::Caller;
use crate::ids::{Ino, Lsn};
use crate::op::{
    BLOB_THRESHOLD, Chmod, Chown, Create, Data, Link, Mark, Marker, Mkdir, Mknod, Operation, RemoveXattr, Rmdir, SetXattr, Symlink,
    Truncate, Unlink, Utimens, Write,
};
use crate::tree::path::{join, split};
use crate::tree::{Body, Source, Tree};
use crate::versions::class::{self, ClassSettings, Classes};
use crate::versions::node::FileKind;

/// What a restore does to one path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// It comes back.
    Create,
    /// It goes and comes back as something else (another kind, another target, other links).
    Replace,
    /// Its bytes change.
    Write,
    /// Its attributes change.
    Attributes,
    /// It goes, because it was not there then.
    Remove,
}

/// One line of the preview.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// What happens.
    pub action: Action,
    /// To which path, relative to the root, as bytes.
    #[serde(with = "serde_bytes")]
    pub path: Vec<u8>,
    /// Length in bytes afterwards (before, for what goes).
    pub size: u64,
}

/// What a restore did (or would do), and what the kernel must forget.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The steps in order.
    pub steps: Vec<Step>,
    /// Record of the restore's marker; `None` when nothing had to be done.
    pub marker: Option<Lsn>,
    /// Inodes whose bytes or attributes changed.
    pub inodes: BTreeSet<Ino>,
    /// Directory entries that changed.
    pub entries: BTreeSet<(Ino, Vec<u8>)>,
}

/// Compares the named paths and says what a restore would do, in the order in which it would.
///
/// # Errors
/// `NotFound` when a path exists neither now nor then; what reading the trees says.
pub fn plan(now: &mut Tree, then: &mut Tree, paths: &[Vec<u8>]) -> Result<Vec<Step>> {
    plan_beside(now, then, paths, &[]).map(|plan| plan.steps)
}

/// What a restore would do, and what it would leave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// In the order in which they would be done.
    pub steps: Vec<Step>,
    /// Paths that exist now and not then, and that stay: their class may have taken them out of that state, or nothing would bring them back.
    pub left: Vec<Vec<u8>>,
}

/// The same as [`plan`]; what has no lasting history now or had none then by any of these rules is not removed because it is not there then.
///
/// # Errors
/// As [`plan`].
pub fn plan_beside(now: &mut Tree, then: &mut Tree, paths: &[Vec<u8>], rules: &[ClassSettings]) -> Result<Plan> {
    let classes = rules.iter().map(|settings| (Classes::new(settings), Classes::new(settings))).collect();
    let mut planner = Planner { now, then, classes, steps: Vec::new(), left: Vec::new(), revived: BTreeSet::new() };
    let mut paths: Vec<&Vec<u8>> = paths.iter().collect();
    paths.sort();
    paths.dedup();
    for (i, path) in paths.iter().enumerate() {
        // A path inside another named one comes with it.
        if !paths[..i].iter().any(|p| p.is_empty() || path.starts_with(&[p.as_slice(), b"/"].concat())) {
            planner.top(path)?;
        }
    }
    // Directories that came back only to hold a named path get their own attributes last, the innermost first.
    for dir in std::mem::take(&mut planner.revived).into_iter().rev() {
        planner.step(Action::Attributes, &dir, 0);
    }
    Ok(Plan { steps: planner.steps, left: planner.left })
}

struct Planner<'a> {
    now: &'a mut Tree,
    then: &'a mut Tree,
    /// Of the state now, and of the one then, by each of the rules.
    classes: Vec<(Classes, Classes)>,
    steps: Vec<Step>,
    left: Vec<Vec<u8>>,
    /// Directories above named paths that are gone now and come back.
    revived: BTreeSet<Vec<u8>>,
}

impl Planner<'_> {
    fn step(&mut self, action: Action, path: &[u8], size: u64) {
        self.steps.push(Step { action, path: path.to_vec(), size });
    }

    fn top(&mut self, path: &[u8]) -> Result<()> {
        if self.then.resolve(path)?.is_none() && self.now.resolve(path)?.is_none() {
            let shown = path.escape_ascii();
            return Err(Error::new(Class::NotFound, format!("`{shown}` exists neither now nor at that time"))
                .hint(format!("`ize history {shown}` lists the changes of a path")));
        }
        // Directories above that are gone come back empty, as what they were.
        let mut above = Vec::new();
        let mut at = path;
        while !at.is_empty() {
            at = split(at).0;
            above.push(at);
        }
        for dir in above.into_iter().rev() {
            match (self.then.resolve(dir)?, self.now.resolve(dir)?) {
                (Some(_), None) => {
                    if self.revived.insert(dir.to_vec()) {
                        self.step(Action::Create, dir, 0);
                    }
                }
                (Some(_), Some(now)) if self.now.inode(now)?.kind != FileKind::Directory => {
                    return Err(Error::new(Class::Refused, format!("`{}` is no directory now, and was not named", dir.escape_ascii()))
                        .hint("name it too, or move it away first"));
                }
                (Some(_) | None, _) => {}
            }
        }
        self.compare(path).map(drop)
    }

    /// Plans one path; true when the entry in its directory changes.
    fn compare(&mut self, path: &[u8]) -> Result<bool> {
        let (then, now) = (self.then.resolve(path)?, self.now.resolve(path)?);
        match (then, now) {
            (None, None) => Ok(false),
            (None, Some(now)) => self.remove(path, now),
            (Some(then), None) => {
                self.create(Action::Create, path, then)?;
                Ok(true)
            }
            (Some(then), Some(now)) => {
                if !self.can_stay(then, now)? {
                    if self.now.inode(now)?.kind == FileKind::Directory && self.holds_what_stays(path, now)? {
                        self.left.push(path.to_vec());
                        return Ok(false);
                    }
                    self.create(Action::Replace, path, then)?;
                    return Ok(true);
                }
                let size = self.then.inode(then)?.size;
                let mut touched = false;
                let kind = self.then.inode(then)?.kind;
                match kind {
                    FileKind::Directory => touched = self.compare_children(path, then, now)?,
                    FileKind::File if !same_bytes(self.then, then, self.now, now)? => {
                        self.step(Action::Write, path, size);
                        touched = true;
                    }
                    _ => {}
                }
                if touched || !self.same_attributes(then, now)? {
                    self.step(Action::Attributes, path, size);
                }
                Ok(false)
            }
        }
    }

    /// Plans that something goes which was not there then; true when all of it does.
    fn remove(&mut self, path: &[u8], now: Ino) -> Result<bool> {
        let inode = self.now.inode(now)?;
        let (is_dir, size) = (inode.kind == FileKind::Directory, inode.size);
        if !self.is_lasting(path, is_dir)? {
            self.left.push(path.to_vec());
            return Ok(false);
        }
        let before = self.steps.len();
        let mut all = true;
        if is_dir && !self.classes.is_empty() {
            let mut children = self.now.children(now)?;
            children.sort();
            for (name, child, _) in children {
                all &= self.remove(&join(path, &name), child)?;
            }
        }
        if all {
            // With all that is in it.
            self.steps.truncate(before);
            self.step(Action::Remove, path, size);
        }
        Ok(all)
    }

    fn holds_what_stays(&mut self, path: &[u8], now: Ino) -> Result<bool> {
        if !self.is_lasting(path, true)? {
            return Ok(true);
        }
        for (name, child, kind) in self.now.children(now)? {
            let at = join(path, &name);
            let is_dir = kind == FileKind::Directory;
            if !self.is_lasting(&at, is_dir)? || (is_dir && self.holds_what_stays(&at, child)?) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Do versions keep a path, by the rules of now and by those of then?
    fn is_lasting(&mut self, path: &[u8], is_dir: bool) -> Result<bool> {
        for (now, then) in &mut self.classes {
            let lasts = now.of(self.now, path, is_dir)? == class::Class::Keep && then.of(self.then, path, is_dir)? == class::Class::Keep;
            if !lasts {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn compare_children(&mut self, path: &[u8], then: Ino, now: Ino) -> Result<bool> {
        let mut names: BTreeSet<Vec<u8>> = self.then.children(then)?.into_iter().map(|c| c.0).collect();
        names.extend(self.now.children(now)?.into_iter().map(|c| c.0));
        let mut touched = false;
        for name in names {
            touched |= self.compare(&join(path, &name))?;
        }
        Ok(touched)
    }

    fn create(&mut self, action: Action, path: &[u8], then: Ino) -> Result<()> {
        let inode = self.then.inode(then)?;
        let (kind, size) = (inode.kind, inode.size);
        self.step(action, path, size);
        if kind == FileKind::Directory {
            let mut children = self.then.children(then)?;
            children.sort();
            for (name, child, _) in children {
                self.create(Action::Create, &join(path, &name), child)?;
            }
            self.step(Action::Attributes, path, size);
        }
        Ok(())
    }

    /// Can the inode that is there now become what was there then, without touching another name?
    fn can_stay(&mut self, then: Ino, now: Ino) -> Result<bool> {
        let old = self.then.inode(then)?;
        let new = self.now.inode(now)?;
        if old.kind != new.kind || old.attrs.rdev != new.attrs.rdev {
            return Ok(false);
        }
        if let (Body::Symlink(a), Body::Symlink(b)) = (&old.body, &new.body)
            && a != b
        {
            return Ok(false);
        }
        if old.kind == FileKind::Directory || (old.nlink == 1 && new.nlink == 1) {
            return Ok(true);
        }
        Ok(self.all_paths(true, then)? == self.all_paths(false, now)?)
    }

    fn all_paths(&mut self, of_then: bool, ino: Ino) -> Result<BTreeSet<Vec<u8>>> {
        let tree: &mut Tree = if of_then { self.then } else { self.now };
        let names = tree.inode(ino)?.names.clone();
        let mut paths = BTreeSet::new();
        for name in names {
            if let Some(dir) = tree.path_of(name.dir)? {
                paths.insert(join(&dir, &name.name));
            }
        }
        Ok(paths)
    }

    fn same_attributes(&mut self, then: Ino, now: Ino) -> Result<bool> {
        let (a, b) = (self.then.inode(then)?, self.now.inode(now)?);
        let of = |i: &crate::tree::Inode| (i.attrs.mode, i.attrs.uid, i.attrs.gid, i.attrs.mtime);
        Ok(of(a) == of(b) && a.xattrs == b.xattrs)
    }
}

/// Bytes compared at a time.
const WINDOW: u64 = 1 << 20;

/// Reads everything that a plan will bring back, so that what cannot be read stops a restore before it has begun.
///
/// # Errors
/// What reading says.
pub fn rehearse(then: &mut Tree, steps: &[Step]) -> Result<()> {
    let mut buffer = Vec::new();
    for step in steps.iter().filter(|s| matches!(s.action, Action::Create | Action::Replace | Action::Write)) {
        let Some(ino) = then.resolve(&step.path)? else { continue };
        if then.inode(ino)?.kind != FileKind::File {
            continue;
        }
        let mut at = 0;
        while at < step.size {
            let plan = then.read_plan(ino, at, WINDOW)?;
            buffer.resize(usize::try_from(plan.len()).unwrap_or(0), 0);
            plan.read(&**then.blobs(), &mut buffer)?;
            at += plan.len().max(1);
        }
    }
    Ok(())
}

pub(super) fn same_bytes(a: &mut Tree, a_ino: Ino, b: &mut Tree, b_ino: Ino) -> Result<bool> {
    let size = a.inode(a_ino)?.size;
    if b.inode(b_ino)?.size != size {
        return Ok(false);
    }
    let (mut left, mut right) = (Vec::new(), Vec::new());
    let mut at = 0;
    while at < size {
        let (p, q) = (a.read_plan(a_ino, at, WINDOW)?, b.read_plan(b_ino, at, WINDOW)?);
        let blobs = |plan: &crate::tree::ReadPlan| -> Option<Vec<(u64, crate::ids::BlobId, u64)>> {
            let part =
                |(len, source): &(u64, Source)| if let Source::Blob { id, offset } = source { Some((*len, *id, *offset)) } else { None };
            plan.parts().iter().map(part).collect()
        };
        let same = matches!((blobs(&p), blobs(&q)), (Some(x), Some(y)) if x == y);
        if !same {
            let len = usize::try_from(p.len()).unwrap_or(0);
            left.resize(len, 0);
            right.resize(len, 0);
            p.read(&**a.blobs(), &mut left)?;
            q.read(&**b.blobs(), &mut right)?;
            if left != right {
                return Ok(false);
            }
        }
        at += p.len().max(1);
    }
    Ok(true)
}

/// Carries out a plan. `then` is the tree that the plan was made with, and the live tree has not changed since (the caller holds it).
///
/// # Errors
/// What the log or reading says; what was done before stays done and recorded.
pub fn carry_out(writer: &mut Writer<'_>, then: &mut Tree, steps: Vec<Step>, paths: &[Vec<u8>], caller: &Caller) -> Result<Outcome> {
    if steps.is_empty() {
        return Ok(Outcome::default());
    }
    let marker = Marker::Restore { at: then.applied(), paths: paths.to_vec() };
    let lsn = writer.log(caller, Mark { marker }.into(), None, None)?;
    let outcome = Outcome { marker: Some(lsn), ..Outcome::default() };
    let mut run = Run { writer, then, caller, link: lsn, outcome, linked: HashMap::new() };
    for step in &steps {
        run.step(step)?;
    }
    let mut outcome = run.outcome;
    outcome.steps = steps;
    Ok(outcome)
}

struct Run<'a, 'w> {
    writer: &'a mut Writer<'w>,
    then: &'a mut Tree,
    caller: &'a Caller,
    link: Lsn,
    outcome: Outcome,
    /// Inode then to inode now, for files with several names that came back.
    linked: HashMap<Ino, Ino>,
}

impl Run<'_, '_> {
    fn log(&mut self, op: impl Into<Operation>, bytes: Option<&[u8]>) -> Result<()> {
        let op = op.into();
        self.outcome.inodes.extend(op.ino());
        let (name, _) = op.names();
        self.outcome.entries.extend(name.map(|(dir, name)| (dir, name.to_vec())));
        self.writer.log(self.caller, op, bytes, Some(self.link))?;
        Ok(())
    }

    fn step(&mut self, step: &Step) -> Result<()> {
        let path = step.path.as_slice();
        let now = self.writer.tree().resolve(path)?;
        let gone = || Error::new(Class::Failed, format!("`{}` vanished during the restore", path.escape_ascii()));
        match step.action {
            Action::Remove => self.remove(path, now.ok_or_else(gone)?),
            Action::Create => self.create(path),
            Action::Replace => {
                self.remove(path, now.ok_or_else(gone)?)?;
                self.create(path)
            }
            Action::Write | Action::Attributes => {
                let then = self.then.resolve(path)?.ok_or_else(gone)?;
                let now = now.ok_or_else(gone)?;
                if step.action == Action::Write { self.write(then, now) } else { self.attributes(then, now) }
            }
        }
    }

    fn place(&mut self, path: &[u8]) -> Result<(Ino, Vec<u8>)> {
        let (dir, name) = split(path);
        let dir = self.writer.tree().resolve(dir)?;
        let dir = dir.ok_or_else(|| Error::new(Class::Failed, format!("the directory of `{}` is gone", path.escape_ascii())))?;
        Ok((dir, name.to_vec()))
    }

    fn remove(&mut self, path: &[u8], ino: Ino) -> Result<()> {
        let (dir, name) = self.place(path)?;
        if self.writer.tree().inode(ino)?.kind == FileKind::Directory {
            let mut children = self.writer.tree().children(ino)?;
            children.sort();
            for (child, child_ino, _) in children {
                self.remove(&join(path, &child), child_ino)?;
            }
            self.log(Rmdir { dir, name, ino }, None)
        } else {
            self.log(Unlink { dir, name, ino }, None)
        }
    }

    fn create(&mut self, path: &[u8]) -> Result<()> {
        let then = self.then.resolve(path)?;
        let then = then.ok_or_else(|| Error::new(Class::Failed, format!("`{}` was not there", path.escape_ascii())))?;
        let (dir, name) = self.place(path)?;
        let inode = self.then.inode(then)?;
        let (kind, nlink, attrs) = (inode.kind, inode.nlink, inode.attrs.clone());
        let target = if let Body::Symlink(target) = &inode.body { target.to_vec() } else { Vec::new() };
        if kind != FileKind::Directory
            && nlink > 1
            && let Some(&ino) = self.linked.get(&then)
        {
            return self.log(Link { ino, dir, name }, None);
        }
        let ino = self.writer.tree().next_ino();
        let (mode, uid, gid) = (attrs.mode, attrs.uid, attrs.gid);
        match kind {
            FileKind::Directory => self.log(Mkdir { dir, name, ino, mode, uid, gid }, None)?,
            FileKind::File => self.log(Create { dir, name, ino, mode, uid, gid }, None)?,
            FileKind::Symlink => self.log(Symlink { dir, name, ino, target, uid, gid }, None)?,
            what @ (FileKind::Fifo | FileKind::CharDevice | FileKind::BlockDevice | FileKind::Socket) => {
                self.log(Mknod { dir, name, ino, what, mode, uid, gid, rdev: attrs.rdev }, None)?;
            }
        }
        self.linked.insert(then, ino);
        if kind == FileKind::File {
            self.write(then, ino)?;
        }
        self.attributes(then, ino)
    }

    /// Makes the bytes of `now` those of `then`. Bytes are written before the length is cut, so that a crash in between leaves no less
    /// than there was.
    fn write(&mut self, then: Ino, now: Ino) -> Result<()> {
        let size = self.then.inode(then)?.size;
        let mut at = 0;
        while at < size {
            let plan = self.then.read_plan(then, at, WINDOW)?;
            for (len, source) in plan.parts() {
                self.write_part(now, at, *len, source)?;
                at += len;
            }
        }
        let old_size = self.writer.tree().inode(now)?.size;
        if old_size != size {
            self.log(Truncate { ino: now, old_size, size, mode_after: None }, None)?;
        }
        Ok(())
    }

    fn write_part(&mut self, ino: Ino, offset: u64, len: u64, source: &Source) -> Result<()> {
        let size = self.writer.tree().inode(ino)?.size;
        if matches!(source, Source::Hole) {
            // Beyond the end there are zeros anyway.
            let end = (offset + len).min(size);
            if end > offset {
                let mode = crate::op::AllocateMode::PunchHole;
                self.log(crate::op::Fallocate { ino, mode, offset, len: end - offset, size_after: size }, None)?;
            }
            return Ok(());
        }
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        let plan = crate::tree::ReadPlan::of(len, source.clone());
        plan.read(&**self.then.blobs(), &mut bytes)?;
        let size_after = size.max(offset + len);
        let inline = bytes.len() < BLOB_THRESHOLD;
        let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let data = if inline { Data::Inline(len) } else { Data::Blob { id: self.writer.put_blob(&bytes)?, len } };
        self.log(Write { ino, offset, data, size_after, mode_after: None }, inline.then_some(&bytes[..]))
    }

    fn attributes(&mut self, then: Ino, now: Ino) -> Result<()> {
        let old = self.then.inode(then)?;
        let (attrs, xattrs) = (old.attrs.clone(), old.xattrs.clone());
        let inode = self.writer.tree().inode(now)?;
        let (is, has) = (inode.attrs.clone(), inode.xattrs.clone());
        if (is.uid, is.gid) != (attrs.uid, attrs.gid) {
            self.log(Chown { ino: now, old: (is.uid, is.gid), new: (attrs.uid, attrs.gid), mode_after: None }, None)?;
        }
        if is.mode != attrs.mode {
            self.log(Chmod { ino: now, old: is.mode, new: attrs.mode }, None)?;
        }
        for (name, value) in &xattrs {
            if has.get(name) != Some(value) {
                self.log(SetXattr { ino: now, name: name.clone(), value: value.clone() }, None)?;
            }
        }
        for name in has.keys().filter(|name| !xattrs.contains_key(*name)) {
            self.log(RemoveXattr { ino: now, name: name.clone() }, None)?;
        }
        if (is.atime, is.mtime) != (attrs.atime, attrs.mtime) {
            let old = (is.atime, is.mtime);
            self.log(Utimens { ino: now, old, atime: Some(attrs.atime), mtime: Some(attrs.mtime) }, None)?;
        }
        Ok(())
    }
}

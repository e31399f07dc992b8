//! A state without the paths whose class is too low for it: a rewritten root, which shares with the old one everything that did not change.
//!
//! What was found to need no change is remembered by its hash and the rules that hold in it, so that of a state only what differs from those
//! before is looked into; of a large directory, only the pages that differ. Memory: 64 bytes for each of up to a million such directories and
//! pages; in a state from which something goes, 200 bytes
//! for each directory looked into and 100 for each inode that goes.

use std::collections::HashSet;
use std::sync::Arc;

use super::class::{Class, ClassSettings, Classes, Seen, Token, says_classes};
use super::node::{Content, DirNode, Entry, FileKind};
use crate::ids::{BlobId, Ino, Lsn, Time};
use crate::tree::path::{join, split};
use crate::tree::{BlobRead, BlobWrite, Tree, TreeError, decode_blob, load_state};

/// Directories and pages remembered as needing no change.
const REMEMBERED: usize = 1 << 20;

/// Takes paths of low classes out of states.
#[derive(Debug)]
pub struct Filter {
    classes: Classes,
    /// Directories with all below them, and pages of directories, under these rules, from which nothing below this class goes.
    clean: HashSet<(BlobId, Token, Class)>,
    /// Pages with files only, none of which says classes.
    files: HashSet<BlobId>,
}

/// A part of a directory.
enum Part {
    /// Its entries, and the page that they are.
    Entries(Vec<Entry>, Option<BlobId>),
    /// A page with files only, none of which says classes.
    Files(BlobId),
}

/// An entry that goes: the directory's path and the name in it.
type Victim = (Vec<u8>, Vec<u8>);

/// A directory of the walk.
struct Frame {
    path: Vec<u8>,
    id: BlobId,
    place: Token,
    token: Token,
    dirs: std::vec::IntoIter<(Vec<u8>, BlobId)>,
    clean: bool,
}

impl Filter {
    /// With these rules.
    #[must_use]
    pub fn new(settings: &ClassSettings) -> Self {
        Self { classes: Classes::new(settings), clean: HashSet::new(), files: HashSet::new() }
    }

    /// The state without every path whose class is below `least`; `None` when it has none. What is new of it is stored, not synced.
    ///
    /// # Errors
    /// When the state cannot be read, or something cannot be stored.
    pub fn without(
        &mut self,
        blobs: &Arc<dyn BlobRead>,
        store: &dyn BlobWrite,
        root: &BlobId,
        least: Class,
    ) -> Result<Option<BlobId>, TreeError> {
        let victims = self.victims(blobs, root, least)?;
        if victims.is_empty() {
            return Ok(None);
        }
        let mut tree = Tree::open(Arc::clone(blobs), Some(*root), Ino(2), Lsn::ZERO, Time::default())?;
        for (dir, name) in &victims {
            let dir = tree.resolve(dir)?.ok_or(TreeError::NoInode(Ino::ROOT))?;
            tree.take_out(dir, name)?;
        }
        tree.commit(store).map(|committed| Some(committed.root))
    }

    fn victims(&mut self, blobs: &Arc<dyn BlobRead>, root: &BlobId, least: Class) -> Result<Vec<Victim>, TreeError> {
        let state = load_state(&**blobs, root)?;
        self.classes.forget();
        let mut seen = Seen::default();
        let mut victims = Vec::new();
        let Content::Directory(top) = state.root.content else { return Ok(victims) };
        let mut stack: Vec<Frame> = Vec::new();
        let mut next = Some((Vec::new(), top));
        loop {
            let unknown = next.take().filter(|(path, id)| {
                let place = place(stack.last(), path);
                !self.clean.contains(&(*id, place, least))
            });
            if let Some((path, id)) = unknown {
                let place = place(stack.last(), &path);
                let parts = self.parts(&**blobs, &id)?;
                let speaking = parts.iter().flat_map(|part| match part {
                    Part::Entries(entries, _) => entries.as_slice(),
                    Part::Files(_) => &[],
                });
                let speaking: Vec<Entry> = speaking.filter(|e| says_classes(&e.name)).cloned().collect();
                seen.enter(&**blobs, &state, &path, &speaking)?;
                if self.classes.of(&mut seen, &path, true)? < least {
                    let (dir, name) = split(&path);
                    victims.push((dir.to_vec(), name.to_vec()));
                    stack.iter_mut().for_each(|frame| frame.clean = false);
                } else {
                    let token = self.classes.token(&mut seen, &path)?;
                    let mut frame = Frame { path, id, place, token, dirs: Vec::new().into_iter(), clean: true };
                    let mut dirs = Vec::new();
                    for part in parts {
                        let (entries, page) = match part {
                            Part::Entries(entries, page) => (entries, page.filter(|page| self.files.contains(page))),
                            Part::Files(page) if self.clean.contains(&(page, token, least)) => continue,
                            Part::Files(page) => (decode_blob(&**blobs, &page, "directory page")?, Some(page)),
                        };
                        let before = victims.len();
                        for entry in entries {
                            let at = join(&frame.path, &entry.name);
                            if entry.kind == FileKind::Directory {
                                // An empty one is judged by its name alone.
                                if let Some(Content::Directory(id)) = entry.node.as_ref().map(|n| n.content.clone()) {
                                    dirs.push((at, id));
                                    continue;
                                }
                            }
                            if self.classes.of(&mut seen, &at, entry.kind == FileKind::Directory)? < least {
                                victims.push((frame.path.clone(), entry.name));
                                frame.clean = false;
                            }
                        }
                        if let Some(page) = page.filter(|_| victims.len() == before) {
                            self.remember((page, token, least));
                        }
                    }
                    if !frame.clean {
                        stack.iter_mut().for_each(|above| above.clean = false);
                    }
                    frame.dirs = dirs.into_iter();
                    stack.push(frame);
                }
            }
            let Some(frame) = stack.last_mut() else { return Ok(victims) };
            next = frame.dirs.next();
            if next.is_none() {
                if frame.clean {
                    self.remember((frame.id, frame.place, least));
                }
                stack.pop();
            }
        }
    }

    fn remember(&mut self, clean: (BlobId, Token, Class)) {
        if self.clean.len() >= REMEMBERED {
            self.clean.clear();
        }
        self.clean.insert(clean);
    }

    fn parts(&mut self, blobs: &dyn BlobRead, id: &BlobId) -> Result<Vec<Part>, TreeError> {
        let pages = match decode_blob(blobs, id, "directory")? {
            DirNode::Entries(entries) => return Ok(vec![Part::Entries(entries, None)]),
            DirNode::Pages(pages) => pages,
        };
        let mut parts = Vec::with_capacity(pages.len());
        for page in pages {
            if self.files.contains(&page) {
                parts.push(Part::Files(page));
                continue;
            }
            let entries: Vec<Entry> = decode_blob(blobs, &page, "directory page")?;
            if entries.iter().all(|e| e.kind != FileKind::Directory && !says_classes(&e.name)) {
                if self.files.len() >= REMEMBERED {
                    self.files.clear();
                }
                self.files.insert(page);
            }
            parts.push(Part::Entries(entries, Some(page)));
        }
        Ok(parts)
    }
}

/// Names a directory's path and the rules that hold in the one above: with what it holds, that decides what goes, so that it need not be read.
fn place(above: Option<&Frame>, path: &[u8]) -> Token {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&above.map_or([0; 16], |frame| frame.token)).update(path);
    let mut out = [0; 16];
    out.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    out
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rand::prelude::*;

    use super::*;
    use crate::ids::VersionSeq;
    use crate::tree::testing::{MemoryBlobs, apply, dump, random_operation};
    use crate::versions::check::{Checker, Whose};

    /// What of a tree stays the same when others go: attributes, size, bytes; not the number of names.
    fn seen(tree: &mut Tree) -> BTreeMap<Vec<u8>, String> {
        let without_links = |text: String| {
            let (front, back) = text.split_once(" } } ").unwrap();
            format!("{front} {}", back.split_once(' ').unwrap().1)
        };
        dump(tree).into_iter().map(|(path, text)| (path, without_links(text))).collect()
    }

    fn open(blobs: &Arc<MemoryBlobs>, root: BlobId) -> Tree {
        Tree::open(Arc::clone(blobs) as _, Some(root), Ino(2), Lsn::ZERO, Time::default()).unwrap()
    }

    /// Random histories with hard links, renames and files that are open without a name; some names have no history.
    #[test]
    fn what_is_left_is_a_sound_state_with_everything_else_as_it_was() {
        let (mut went, mut linked) = (0, 0);
        for seed in 0..12 {
            let blobs = Arc::new(MemoryBlobs::default());
            let read: Arc<dyn BlobRead> = Arc::clone(&blobs) as _;
            let mut rng = StdRng::seed_from_u64(seed);
            let mut tree = Tree::open(Arc::clone(&read), None, Ino(2), Lsn::ZERO, Time::default()).unwrap();
            let settings = ClassSettings {
                none: vec!["n1".into(), "n2/".into()],
                recent: vec!["/n3/n4".into(), "n5".into()],
                keep: vec!["/n6/n1".into()],
                ..ClassSettings::default()
            };
            let mut filter = Filter::new(&settings);
            for step in 0..6 {
                for i in 0..60 {
                    let (op, bytes) = random_operation(&mut tree, &blobs, &mut rng, 8);
                    apply(&mut tree, Lsn(step * 100 + i + 1), &op, bytes.as_deref());
                }
                let root = tree.commit(&*blobs).unwrap().root;
                for least in [Class::Recent, Class::Keep] {
                    let all = seen(&mut open(&blobs, root));
                    let mut classes = Classes::new(&settings);
                    let mut look = open(&blobs, root);
                    let mut kept = |path: &[u8]| {
                        let ino = look.resolve(path).unwrap().unwrap();
                        let is_dir = look.inode(ino).unwrap().kind == FileKind::Directory;
                        classes.of(&mut look, path, is_dir).unwrap() >= least
                    };
                    let wanted: BTreeMap<_, _> = all.iter().filter(|(path, _)| kept(path)).map(|(p, t)| (p.clone(), t.clone())).collect();
                    let new = filter.without(&read, &*blobs, &root, least).unwrap();
                    assert_eq!(new.is_some(), wanted.len() < all.len(), "seed {seed}, step {step}");
                    let Some(new) = new else { continue };
                    went += all.len() - wanted.len();
                    linked += usize::from(dump(&mut open(&blobs, new)).values().any(|t| t.contains("File") && !t.contains(" } } 1 ")));
                    assert_eq!(seen(&mut open(&blobs, new)), wanted, "seed {seed}, step {step}, {least:?}");
                    let length = |id: &BlobId| blobs.get(id).map(|b| Some(b.len() as u64));
                    let mut checker = Checker::new(&*blobs, &length, Some(tree.next_ino()));
                    checker.state(Whose::Version(VersionSeq(1)), &new);
                    let report = checker.finish();
                    assert!(report.findings.is_empty(), "seed {seed}, step {step}: {:?}", report.findings);
                    assert_eq!(filter.without(&read, &*blobs, &new, least).unwrap(), None, "nothing more goes");
                    // What is kept of both is the same as what is kept of all.
                    if least == Class::Keep
                        && let Some(less) = filter.without(&read, &*blobs, &root, Class::Recent).unwrap()
                    {
                        let twice = filter.without(&read, &*blobs, &less, Class::Keep).unwrap().unwrap_or(less);
                        assert_eq!(twice, new, "seed {seed}, step {step}");
                    }
                }
            }
        }
        assert!(went > 100 && linked > 0, "{went} went, {linked} with links");
    }
}

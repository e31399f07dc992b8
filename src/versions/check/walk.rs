//! The directories of a state, from the root down, without recursion: a tree may be as deep as it likes, or name itself.

use std::collections::{HashSet, VecDeque};
use std::vec;

use super::{Checker, Concerns, DEPTH, REMEMBERED, Sum};
use crate::ids::{BlobId, Ino};
use crate::tree::{NAME_MAX, decode_blob};
use crate::versions::node::{Content, DirNode, Entry, FileKind, State};

/// A directory with everything below it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct DirSum {
    sum: Sum,
    /// Directories right in it.
    subdirs: u64,
}

/// First name and last.
type Ends = (Box<[u8]>, Box<[u8]>);

/// A page of a directory with everything below it.
#[derive(Clone, Debug, Default)]
pub(super) struct PageSum {
    dir: DirSum,
    /// First name and last.
    ends: Option<Ends>,
}

/// A directory to go into.
struct Sub {
    name: Vec<u8>,
    ino: Ino,
    nlink: u32,
    /// `None` without entries.
    content: Option<BlobId>,
}

enum Part {
    Blob(BlobId),
    Entries(Vec<Entry>),
}

enum Frame {
    Dir {
        /// Itself; the root of the state for the root directory.
        id: Option<BlobId>,
        ino: Ino,
        nlink: u32,
        /// Length of its path.
        path: usize,
        parts: VecDeque<Part>,
        last: Option<Box<[u8]>>,
        got: DirSum,
    },
    Page {
        /// Where it is remembered, when it is a page of several.
        id: Option<BlobId>,
        dir: Ino,
        /// Length of the path of its directory.
        path: usize,
        subs: vec::IntoIter<Sub>,
        got: PageSum,
    },
}

impl Checker<'_> {
    pub(super) fn walk_dirs(&mut self, root_id: &BlobId, state: &State) -> Sum {
        let root = &state.root;
        let mut sum = Sum::default();
        if root.kind != FileKind::Directory {
            let what = format!("the root of state {root_id} is no directory");
            self.found(Some(*root_id), what, false, &Concerns::Below(b""));
            return Sum::BROKEN;
        }
        sum.bad |= !self.node(root_id, root, &Concerns::File(b""));
        let content = if let Content::Directory(id) = root.content { Some(id) } else { None };
        // Directories of this state that were gone into: one inode number stands in one place.
        let mut seen: HashSet<Ino> = HashSet::new();
        let mut path: Vec<u8> = Vec::new();
        let mut stack: Vec<Frame> = Vec::new();
        let top = Sub { name: Vec::new(), ino: Ino::ROOT, nlink: root.nlink, content };
        let mut done: Option<DirSum> = self.go_into(top, &mut path, &mut stack, &mut seen, *root_id);
        while let Some(frame) = stack.last_mut() {
            match frame {
                Frame::Dir { id, ino, nlink, path: at, parts, last, got } => {
                    if let Some(page) = done.take() {
                        // Only pages with ends come through `absorb`; this is the rest of one.
                        got.sum.add(&page.sum);
                        got.subdirs += page.subdirs;
                    }
                    path.truncate(*at);
                    if let Some(part) = parts.pop_front() {
                        let (ino, holder) = (*ino, id.unwrap_or(*root_id));
                        let (page_id, entries) = match part {
                            Part::Entries(entries) => (None, entries),
                            Part::Blob(page) => {
                                if let Some(known) = self.pages.get(&(page, ino)).cloned() {
                                    let in_order = follows(last.as_deref(), &known);
                                    *last = known.ends.as_ref().map(|(_, l)| l.clone()).or(last.take());
                                    got.sum.add(&known.dir.sum);
                                    got.subdirs += known.dir.subdirs;
                                    if !in_order {
                                        got.sum.bad = true;
                                        self.unsorted(&holder, &path);
                                    }
                                    continue;
                                }
                                match decode_blob::<Vec<Entry>>(self.blobs, &page, "directory page") {
                                    Ok(entries) => (Some(page), entries),
                                    Err(e) => {
                                        got.sum.add(&Sum::BROKEN);
                                        self.unreadable("a page of a directory", page, &e, &Concerns::Below(&path));
                                        continue;
                                    }
                                }
                            }
                        };
                        let (page, subs) = self.entries(&page_id.unwrap_or(holder), ino, entries, &path);
                        if !follows(last.as_deref(), &page) {
                            got.sum.bad = true;
                            self.unsorted(&holder, &path);
                        }
                        *last = page.ends.as_ref().map(|(_, l)| l.clone()).or(last.take());
                        let frame = Frame::Page { id: page_id, dir: ino, path: *at, subs: subs.into_iter(), got: page };
                        stack.push(frame);
                    } else {
                        let (id, ino, nlink, got) = (*id, *ino, *nlink, *got);
                        if let Some(id) = id
                            && !got.sum.bad
                        {
                            if self.dirs.len() >= REMEMBERED {
                                self.dirs.clear();
                            }
                            self.dirs.insert((id, ino), got);
                        }
                        stack.pop();
                        done = Some(self.counted(got, (ino, nlink), &id.unwrap_or(*root_id), &path));
                    }
                }
                Frame::Page { id, dir, path: at, subs, got } => {
                    if let Some(child) = done.take() {
                        got.dir.sum.add(&child.sum);
                    }
                    path.truncate(*at);
                    if let Some(sub) = subs.next() {
                        let holder = id.unwrap_or(*root_id);
                        done = self.go_into(sub, &mut path, &mut stack, &mut seen, holder);
                    } else {
                        if let Some(id) = *id
                            && !got.dir.sum.bad
                        {
                            if self.pages.len() >= REMEMBERED {
                                self.pages.clear();
                            }
                            self.pages.insert((id, *dir), got.clone());
                        }
                        done = Some(got.dir);
                        stack.pop();
                    }
                }
            }
        }
        if let Some(done) = done {
            sum.add(&done.sum);
        }
        sum
    }

    /// Begins a directory, or answers at once where nothing has to be read. `path` becomes its path.
    fn go_into(&mut self, sub: Sub, path: &mut Vec<u8>, stack: &mut Vec<Frame>, seen: &mut HashSet<Ino>, holder: BlobId) -> Option<DirSum> {
        let Sub { name, ino, nlink, content } = sub;
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(&name);
        let Some(id) = content else { return Some(self.counted(DirSum::default(), (ino, nlink), &holder, path)) };
        if let Some(known) = self.dirs.get(&(id, ino)).copied() {
            return Some(self.counted(known, (ino, nlink), &id, path));
        }
        if !seen.insert(ino) {
            let what = format!("directory {ino} stands in more than one place, or in itself");
            self.found(Some(holder), what, false, &Concerns::Below(path));
            return Some(DirSum { sum: Sum::BROKEN, subdirs: 0 });
        }
        // Two frames a level.
        if stack.len() / 2 >= DEPTH {
            self.found(None, format!("directories are nested deeper than {DEPTH}"), false, &Concerns::Below(&[]));
            return Some(DirSum { sum: Sum::BROKEN, subdirs: 0 });
        }
        self.report.directories += 1;
        let parts = match decode_blob::<DirNode>(self.blobs, &id, "directory") {
            Ok(DirNode::Entries(entries)) => VecDeque::from([Part::Entries(entries)]),
            Ok(DirNode::Pages(pages)) => pages.into_iter().map(Part::Blob).collect(),
            Err(e) => {
                self.unreadable("a directory", id, &e, &Concerns::Below(path));
                return Some(DirSum { sum: Sum::BROKEN, subdirs: 0 });
            }
        };
        stack.push(Frame::Dir { id: Some(id), ino, nlink, path: path.len(), parts, last: None, got: DirSum::default() });
        None
    }

    /// Holds the number of links against the subdirectories.
    fn counted(&mut self, got: DirSum, (ino, nlink): (Ino, u32), holder: &BlobId, path: &[u8]) -> DirSum {
        let mut got = got;
        if !got.sum.broken && u64::from(nlink) != 2 + got.subdirs {
            let what = format!("directory {ino} has {} subdirectories and says {nlink} links", got.subdirs);
            self.found(Some(*holder), what, false, &Concerns::File(path));
            got.sum.bad = true;
        }
        got
    }

    fn unsorted(&mut self, holder: &BlobId, path: &[u8]) {
        let what = format!("the entries in blob {holder} are not sorted, or a name is there twice");
        self.found(Some(*holder), what, false, &Concerns::Below(path));
    }

    /// The entries of one page: what they come to, and the directories among them.
    fn entries(&mut self, holder: &BlobId, dir: Ino, entries: Vec<Entry>, path: &[u8]) -> (PageSum, Vec<Sub>) {
        let mut got = PageSum::default();
        let mut subs = Vec::new();
        if entries.windows(2).any(|two| two[0].name >= two[1].name) {
            got.dir.sum.bad = true;
            self.unsorted(holder, path);
        }
        if let (Some(first), Some(last)) = (entries.first(), entries.last()) {
            got.ends = Some((first.name.as_slice().into(), last.name.as_slice().into()));
        }
        let mut at = path.to_vec();
        for entry in entries {
            at.truncate(path.len());
            if !at.is_empty() {
                at.push(b'/');
            }
            at.extend_from_slice(&entry.name);
            let sum = &mut got.dir.sum;
            let name = &entry.name[..];
            let mut wrong = None;
            if name.is_empty() || name.len() > NAME_MAX || name == b"." || name == b".." || name.iter().any(|b| matches!(b, 0 | b'/')) {
                wrong = Some("its name is none that a file can have".to_owned());
            } else if entry.ino <= Ino::ROOT || entry.ino >= self.next_ino {
                wrong = Some(format!("inode number {} was never given out (the next one is {})", entry.ino, self.next_ino));
            } else if entry.node.as_ref().is_some_and(|n| n.kind != entry.kind) {
                wrong = Some(format!("inode {} is of another kind than its entry says", entry.ino));
            } else if entry.node.is_none() && entry.kind == FileKind::Directory {
                wrong = Some(format!("directory {} has no node in its entry", entry.ino));
            } else if let Some(node) = entry.node.as_ref()
                && node.kind != FileKind::Directory
                && node.nlink != 1
            {
                wrong = Some(format!("inode {} has one name and says {} links", entry.ino, node.nlink));
            }
            if let Some(wrong) = wrong {
                sum.bad = true;
                self.found(Some(*holder), format!("an entry in blob {holder} is wrong: {wrong}"), false, &Concerns::File(&at));
            }
            let Some(node) = entry.node else {
                sum.link(entry.ino, dir, entry.kind, name);
                continue;
            };
            sum.single(entry.ino, dir);
            sum.bad |= !self.node(holder, &node, &Concerns::File(&at));
            if node.kind == FileKind::Directory {
                got.dir.subdirs += 1;
                let content = if let Content::Directory(id) = node.content { Some(id) } else { None };
                subs.push(Sub { name: entry.name, ino: entry.ino, nlink: node.nlink, content });
            }
        }
        (got, subs)
    }
}

fn follows(last: Option<&[u8]>, page: &PageSum) -> bool {
    match (last, &page.ends) {
        (Some(last), Some((first, _))) => last < &**first,
        _ => true,
    }
}

//! A directory in memory: entries by name and by their offset for readdir, and what is known of the committed form.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::ids::{BlobId, Ino};
use crate::versions::dir_pages::{Page, Stored};
use crate::versions::node::FileKind;

/// One entry of a loaded directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Child {
    /// Inode number.
    pub ino: Ino,
    /// What it is.
    pub kind: FileKind,
    /// Offset for readdir: grows with every insertion, never reused while the directory is loaded. Starts at 3 (1 is `.`, 2 is `..`). A
    /// rename inside the directory keeps it, and what is renamed over another name takes that one's, so that nobody who reads meanwhile
    /// meets an entry twice.
    pub cookie: u64,
}

/// The entries of a directory.
#[derive(Debug, Default)]
pub struct DirBody {
    /// Its committed form, where it has one.
    pub(super) base: Option<BlobId>,
    /// Whether the committed entries are in `entries`.
    pub(super) loaded: bool,
    pub(super) entries: HashMap<Arc<[u8]>, Child>,
    pub(super) by_cookie: BTreeMap<u64, Arc<[u8]>>,
    pub(super) next_cookie: u64,
    /// The pages of the committed form, where it has some and they are known.
    pub(super) pages: Vec<Page>,
    /// Names that came, went or became another inode since.
    pub(super) changed: BTreeSet<Arc<[u8]>>,
}

impl DirBody {
    pub(super) fn insert(&mut self, name: Arc<[u8]>, ino: Ino, kind: FileKind) {
        self.next_cookie = self.next_cookie.max(3);
        let cookie = self.next_cookie;
        self.next_cookie += 1;
        self.insert_at(name, ino, kind, cookie);
    }

    /// Takes the entries of the committed form; there are none yet.
    pub(super) fn load(&mut self, entries: Vec<(Arc<[u8]>, Ino, FileKind)>, pages: Vec<Page>) {
        for (name, ino, kind) in entries {
            self.insert(name, ino, kind);
        }
        self.changed.clear();
        (self.pages, self.loaded) = (pages, true);
    }

    /// The same at an offset that an entry had before.
    pub(super) fn insert_at(&mut self, name: Arc<[u8]>, ino: Ino, kind: FileKind, cookie: u64) {
        self.changed.insert(Arc::clone(&name));
        self.by_cookie.insert(cookie, Arc::clone(&name));
        if let Some(old) = self.entries.insert(name, Child { ino, kind, cookie }) {
            self.by_cookie.remove(&old.cookie);
        }
    }

    pub(super) fn remove(&mut self, name: &[u8]) -> Option<Child> {
        let (name, child) = self.entries.remove_entry(name)?;
        self.changed.insert(name);
        self.by_cookie.remove(&child.cookie);
        Some(child)
    }

    /// Puts another inode behind a name, at the same offset.
    pub(super) fn replace(&mut self, name: &[u8], ino: Ino, kind: FileKind) {
        if let Some(child) = self.entries.get_mut(name) {
            child.ino = ino;
            child.kind = kind;
            self.changed.insert(name.into());
        }
    }

    /// Lets the entries go; they are as committed.
    pub(super) fn unload(&mut self) {
        *self = DirBody { base: self.base, ..DirBody::default() };
    }

    /// About how many bytes it has on the heap.
    pub(super) fn heap_bytes(&self) -> usize {
        let per_entry = (size_of::<(Arc<[u8]>, Child)>() + size_of::<(u64, Arc<[u8]>)>()) * 4 / 3 + 16;
        self.entries.keys().map(|name| per_entry + name.len()).sum()
    }

    /// The offset above those of all entries so far.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.next_cookie.max(3)
    }

    /// The entry of that name.
    #[must_use]
    pub fn get(&self, name: &[u8]) -> Option<Child> {
        self.entries.get(name).copied()
    }

    /// The pages of the committed form, where it has some and they are known.
    pub(crate) fn pages(&self) -> &[Page] {
        &self.pages
    }

    /// Names that came, went or became another inode since it was committed (or more than those).
    pub(crate) fn changed(&self) -> impl Iterator<Item = &Arc<[u8]>> {
        self.changed.iter()
    }

    /// It is committed as it is, in this form.
    pub(super) fn rebase(&mut self, stored: Option<Stored>) {
        (self.base, self.pages) = stored.map_or((None, Vec::new()), |(id, pages)| (Some(id), pages));
        self.changed.clear();
    }

    /// Number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True without entries.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Entries whose offset is greater than `cookie`, in order of their offsets.
    pub fn after(&self, cookie: u64) -> impl Iterator<Item = (&Arc<[u8]>, Child)> {
        self.by_cookie
            .range((std::ops::Bound::Excluded(cookie), std::ops::Bound::Unbounded))
            .filter_map(|(_, name)| self.entries.get(name).map(|child| (name, *child)))
    }
}

//! Pair by pair, where the sums say that the directories and the inode table of a state do not agree.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::{Checker, Concerns};
use crate::ids::Ino;
use crate::tree::{BlobRead, decode_blob};
use crate::versions::inode_table;
use crate::versions::node::{Content, DirNode, Entry, InodeEntry, State};

/// Inodes that are told of one state at most.
const TOLD: usize = 20;

/// Calls `see` with path, entry and directory for every entry that can be read; each directory once.
pub(super) fn each_entry(blobs: &dyn BlobRead, state: &State, see: &mut dyn FnMut(&[u8], &Entry, Ino)) {
    let mut seen = HashSet::from([Ino::ROOT]);
    let mut work = Vec::new();
    if let Content::Directory(id) = state.root.content {
        work.push((Vec::new(), Ino::ROOT, id));
    }
    while let Some((path, dir, id)) = work.pop() {
        let mut page = |entries: Vec<Entry>| {
            for entry in entries {
                let at = if path.is_empty() { entry.name.clone() } else { [path.as_slice(), &entry.name].join(&b'/') };
                see(&at, &entry, dir);
                // Longer paths are no use to anybody.
                if let Some(Content::Directory(id)) = entry.node.as_ref().map(|n| &n.content)
                    && at.len() < 1 << 16
                    && seen.insert(entry.ino)
                {
                    work.push((at, entry.ino, *id));
                }
            }
        };
        match decode_blob(blobs, &id, "directory") {
            Ok(DirNode::Entries(entries)) => page(entries),
            Ok(DirNode::Pages(pages)) => {
                for id in pages {
                    if let Ok(entries) = decode_blob(blobs, &id, "directory page") {
                        page(entries);
                    }
                }
            }
            Err(_) => {}
        }
    }
}

/// Where an inode is told to be: its directory, and its name there if it has several.
type Places = BTreeSet<(Ino, Option<Vec<u8>>)>;

impl Checker<'_> {
    /// False when nothing could be told.
    pub(super) fn compare(&mut self, state: &State) -> bool {
        let mut entries: BTreeMap<Ino, (Places, Vec<u8>, u64)> = BTreeMap::new();
        each_entry(self.blobs, state, &mut |path, entry, dir| {
            let (places, first, times) = entries.entry(entry.ino).or_default();
            if places.is_empty() {
                *first = path.to_vec();
            }
            *times += 1;
            places.insert((dir, entry.node.is_none().then(|| entry.name.clone())));
        });
        let mut table: BTreeMap<Ino, Places> = BTreeMap::new();
        let walked = inode_table::walk(self.blobs, state, &mut |ino, entry| {
            let places = match entry {
                InodeEntry::In(dir) => Places::from([(*dir, None)]),
                InodeEntry::Node(_, names) => names.iter().map(|n| (n.dir, Some(n.name.clone()))).collect(),
            };
            table.insert(ino, places);
        });
        if walked.is_err() {
            return false;
        }
        let mut told = 0;
        let inos: BTreeSet<Ino> = entries.keys().chain(table.keys()).copied().collect();
        for ino in inos {
            if told >= TOLD {
                break;
            }
            let (what, path) = match (entries.get(&ino), table.get(&ino)) {
                (Some((_, path, _)), None) => (format!("inode {ino} is in a directory and not in the inode table"), path.clone()),
                (None, Some(places)) if !places.is_empty() => {
                    (format!("inode {ino} is in the inode table and in no directory"), format!("(inode {ino})").into_bytes())
                }
                (Some((here, path, times)), Some(there)) if here != there || *times != here.len() as u64 => (
                    format!("inode {ino} is said to be in {} by directories and in {} by the inode table", show(here), show(there)),
                    path.clone(),
                ),
                _ => continue,
            };
            told += 1;
            self.found(None, what, false, &Concerns::File(&path));
        }
        told > 0
    }
}

fn show(places: &Places) -> String {
    let one = |(dir, name): &(Ino, Option<Vec<u8>>)| match name {
        Some(name) => format!("{dir}/{}", name.escape_ascii()),
        None => dir.to_string(),
    };
    let shown: Vec<String> = places.iter().take(5).map(one).collect();
    if shown.is_empty() { "none".to_owned() } else { format!("directory {}", shown.join(", ")) }
}

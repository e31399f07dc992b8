//! Directories as blobs: all entries in one, or in pages cut where a name's hash says so. Where a page ends follows from the names alone, so
//! that a change rewrites the pages that it falls into and the list of pages.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::commit::store;
use super::node::{DirNode, Entry};
use crate::ids::BlobId;
use crate::tree::{BlobWrite, TreeError, decode_blob};

/// A directory with more entries than this is split into pages.
pub const PAGE_FROM: usize = 256;
/// A page ends behind a name whose CRC-32 has these bits clear: one in 128 on average.
const PAGE_MASK: u32 = 0x7f;
/// A page ends here at the latest.
const PAGE_MAX: usize = 1024;

/// A page of a stored directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The last name in it.
    pub last: Arc<[u8]>,
    /// Its blob.
    pub id: BlobId,
}

/// A stored directory: its blob, and its pages if it has any.
pub type Stored = (BlobId, Vec<Page>);

/// Gives the entry of a name as it is now.
pub type Now<'a> = dyn FnMut(&[u8]) -> Result<Option<Entry>, TreeError> + 'a;

/// Where the first page of these entries ends; `None` when more entries could still belong to it.
fn cut(entries: &[Entry]) -> Option<usize> {
    let marked = entries.iter().take(PAGE_MAX).position(|e| crc32fast::hash(&e.name) & PAGE_MASK == 0).map(|i| i + 1);
    marked.or_else(|| (entries.len() >= PAGE_MAX).then_some(PAGE_MAX))
}

fn store_page(blobs: &dyn BlobWrite, entries: &[Entry]) -> Result<Page, TreeError> {
    let last = entries.last().map(|e| e.name.as_slice()).unwrap_or_default();
    Ok(Page { last: last.into(), id: store(blobs, &entries)? })
}

/// Stores the full pages at the front of `entries` and leaves the rest.
fn store_full(blobs: &dyn BlobWrite, entries: &mut Vec<Entry>, pages: &mut Vec<Page>) -> Result<(), TreeError> {
    let mut done = 0;
    while let Some(end) = entries.get(done..).and_then(cut) {
        pages.push(store_page(blobs, &entries[done..done + end])?);
        done += end;
    }
    entries.drain(..done);
    Ok(())
}

fn store_list(blobs: &dyn BlobWrite, pages: Vec<Page>) -> Result<Stored, TreeError> {
    let id = store(blobs, &DirNode::Pages(pages.iter().map(|p| p.id).collect()))?;
    Ok((id, pages))
}

/// Stores a directory with these entries, at least one, in byte order of their names.
///
/// # Errors
/// What storing says.
pub fn store_all(blobs: &dyn BlobWrite, mut entries: Vec<Entry>) -> Result<Stored, TreeError> {
    if entries.len() <= PAGE_FROM {
        return Ok((store(blobs, &DirNode::Entries(entries))?, Vec::new()));
    }
    let mut pages = Vec::new();
    store_full(blobs, &mut entries, &mut pages)?;
    if !entries.is_empty() {
        pages.push(store_page(blobs, &entries)?);
    }
    store_list(blobs, pages)
}

/// Stores a directory that has `old` pages and differs from them in these `names` at most; `now` gives the entry of a name as it is. It has
/// more than [`PAGE_FROM`] entries. The result is that of [`store_all`].
///
/// # Errors
/// When a page cannot be read, or what `now` or storing says.
pub fn store_changed(blobs: &dyn BlobWrite, old: &[Page], names: &BTreeSet<Arc<[u8]>>, now: &mut Now<'_>) -> Result<Stored, TreeError> {
    let mut names = names.iter().peekable();
    let mut pages: Vec<Page> = Vec::with_capacity(old.len() + 1);
    // Entries behind the last page that stands.
    let mut open: Vec<Entry> = Vec::new();
    for (index, page) in old.iter().enumerate() {
        let is_last = index + 1 == old.len();
        let mut here = Vec::new();
        while let Some(name) = names.next_if(|name| is_last || ***name <= *page.last) {
            here.push(name);
        }
        if here.is_empty() && open.is_empty() {
            pages.push(page.clone());
            continue;
        }
        let mut entries: Vec<Entry> = decode_blob(blobs, &page.id, "directory page")?;
        for name in here {
            let found = entries.binary_search_by(|e| (*e.name).cmp(name));
            match (found, now(name)?) {
                (Ok(at), Some(entry)) => entries[at] = entry,
                (Ok(at), None) => _ = entries.remove(at),
                (Err(at), Some(entry)) => entries.insert(at, entry),
                (Err(_), None) => {}
            }
        }
        open.append(&mut entries);
        store_full(blobs, &mut open, &mut pages)?;
    }
    if !open.is_empty() {
        pages.push(store_page(blobs, &open)?);
    }
    store_list(blobs, pages)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::ids::Ino;
    use crate::tree::testing::MemoryBlobs;
    use crate::versions::node::FileKind;

    fn entry(name: &[u8], ino: u64) -> Entry {
        Entry { name: name.to_vec(), ino: Ino(ino), kind: FileKind::File, node: None }
    }

    /// Random directories and changes, those of boundary names among them, long runs without a boundary too.
    #[test]
    fn a_directory_that_changes_is_stored_as_one_that_was_always_so() {
        let mut rng = crate::storage::sim::Seeded::new(7);
        let mut draw = move |n: u64| rng.below(n);
        let unmarked = |name: &Vec<u8>| crc32fast::hash(name) & PAGE_MASK != 0;
        for round in 0..40 {
            let blobs = MemoryBlobs::default();
            let mut all: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
            let long = round % 4 == 0;
            while all.len() < 300 + round * 80 {
                let name = format!("name {}", draw(1 << 40)).into_bytes();
                if !long || unmarked(&name) {
                    all.insert(name, draw(100));
                }
            }
            let entries = |all: &BTreeMap<Vec<u8>, u64>| all.iter().map(|(name, ino)| entry(name, *ino)).collect::<Vec<_>>();
            let (_, mut pages) = store_all(&blobs, entries(&all)).unwrap();
            for _ in 0..20 {
                let mut names: BTreeSet<Arc<[u8]>> = BTreeSet::new();
                for _ in 0..=draw(4) {
                    let some = all.keys().nth(draw(all.len() as u64) as usize).unwrap().clone();
                    let boundary = pages[draw(pages.len() as u64) as usize].last.to_vec();
                    let name = match draw(6) {
                        0 => format!("name {}", draw(1 << 40)).into_bytes(),
                        1 => [&some[..], b"x"].concat(),
                        2 | 3 if all.len() > PAGE_FROM + 10 => {
                            let name = if draw(2) == 0 { boundary } else { some };
                            all.remove(&name);
                            names.insert(name.into());
                            continue;
                        }
                        4 => b"zzz".to_vec(),
                        _ => some,
                    };
                    all.insert(name.clone(), 1000 + draw(100));
                    names.insert(name.into());
                }
                let mut now = |name: &[u8]| Ok(all.get(name).map(|ino| entry(name, *ino)));
                let changed = store_changed(&blobs, &pages, &names, &mut now).unwrap();
                assert_eq!(changed, store_all(&blobs, entries(&all)).unwrap());
                pages = changed.1;
            }
        }
    }
}

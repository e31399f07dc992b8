//! A pack's index file, `{pack}.index`: where the entries of a closed pack start, so that an open need not walk it. Disposable: it is made
//! from the pack, names the very pack it was made from, and is never trusted for more than where to look, since every hit is confirmed at
//! the entry's head. One that is missing, of other bytes than it was written with, or of another pack is as good as none: the pack is
//! walked. It is never synced; a crash that tears it makes it one of those.

use std::io;
use std::path::PathBuf;

use super::Blobs;
use super::append::create_fresh;
use super::pack::{ALIGN, ENTRY_HEAD_LEN, EntryHead, MAX_ENTRY_START, PACK_HEADER_LEN, parse_pack_file_name};
use super::table::PREFIX_LEN;
use super::walk::{Step, Walker};
use crate::ids::PackId;
use crate::storage::StorageFile;

/// First bytes of an index file.
const INDEX_MAGIC: [u8; 8] = *b"izeindx\0";
/// Format version of index files written here.
const INDEX_VERSION: u32 = 1;
/// Bytes before the entries.
const INDEX_HEADER_LEN: usize = 136;
/// Where the digest stands: over everything but itself.
const DIGEST_AT: usize = 104;
/// Bytes of an entry: the first of the blob's id, and the entry's offset divided by 8.
const ITEM_LEN: usize = PREFIX_LEN + 4;
/// Entries of the fullest pack.
const MAX_ITEMS: usize = (MAX_ENTRY_START / ENTRY_HEAD_LEN as u64) as usize;

/// Name of the index file of pack `id`.
pub(super) fn index_file_name(id: PackId) -> String {
    format!("{id}.index")
}

/// The pack that the name of an index file names.
pub(super) fn parse_index_file_name(name: &str) -> Option<PackId> {
    parse_pack_file_name(&format!("{}.pack", name.strip_suffix(".index")?))
}

/// What stands in a pack.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Contents {
    /// First bytes of the id and offset of each entry, by offset.
    pub items: Vec<([u8; PREFIX_LEN], u64)>,
    /// Raw bytes of all entries.
    pub raw: u64,
    /// Their stored bytes.
    pub stored: u64,
}

impl Contents {
    pub fn push(&mut self, entry: &EntryHead) {
        let mut prefix = [0; PREFIX_LEN];
        prefix.copy_from_slice(&entry.id.0[..PREFIX_LEN]);
        self.items.push((prefix, entry.offset));
        self.raw += u64::from(entry.raw_len);
        self.stored += u64::from(entry.stored_len);
    }

    /// The file's bytes, for a pack with this header and length.
    fn encode(&self, header: &[u8; PACK_HEADER_LEN as usize], pack_len: u64) -> Vec<u8> {
        let mut b = Vec::with_capacity(INDEX_HEADER_LEN + ITEM_LEN * self.items.len());
        b.extend_from_slice(&INDEX_MAGIC);
        b.extend_from_slice(&INDEX_VERSION.to_le_bytes());
        b.extend_from_slice(&(self.items.len() as u32).to_le_bytes());
        b.extend_from_slice(header);
        b.extend_from_slice(&pack_len.to_le_bytes());
        b.extend_from_slice(&self.raw.to_le_bytes());
        b.extend_from_slice(&self.stored.to_le_bytes());
        b.resize(INDEX_HEADER_LEN, 0);
        for (prefix, offset) in &self.items {
            b.extend_from_slice(prefix);
            b.extend_from_slice(&((offset / ALIGN) as u32).to_le_bytes());
        }
        let digest = digest(&b);
        b[DIGEST_AT..INDEX_HEADER_LEN].copy_from_slice(&digest);
        b
    }

    /// Reads a file's bytes; `None` unless they are what was written for a pack with this header and length.
    fn decode(b: &[u8], header: &[u8; PACK_HEADER_LEN as usize], pack_len: u64) -> Option<Self> {
        let (head, items) = b.split_at_checked(INDEX_HEADER_LEN)?;
        let sound = head[..8] == INDEX_MAGIC
            && head[8..12] == INDEX_VERSION.to_le_bytes()
            && head[16..80] == header[..]
            && head[80..88] == pack_len.to_le_bytes()
            && items.len() == ITEM_LEN * u32_at(head, 12) as usize
            && head[DIGEST_AT..] == digest(b);
        if !sound {
            return None;
        }
        let items = items.chunks_exact(ITEM_LEN).map(|item| {
            let mut prefix = [0; PREFIX_LEN];
            prefix.copy_from_slice(&item[..PREFIX_LEN]);
            (prefix, u64::from(u32_at(item, PREFIX_LEN)) * ALIGN)
        });
        Some(Self { items: items.collect(), raw: u64_at(head, 88), stored: u64_at(head, 96) })
    }
}

fn digest(b: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&b[..DIGEST_AT]);
    hasher.update(&b[INDEX_HEADER_LEN..]);
    *hasher.finalize().as_bytes()
}

fn u32_at(b: &[u8], at: usize) -> u32 {
    b.get(at..at + 4).and_then(|s| s.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn u64_at(b: &[u8], at: usize) -> u64 {
    b.get(at..at + 8).and_then(|s| s.try_into().ok()).map_or(0, u64::from_le_bytes)
}

impl Blobs {
    pub(super) fn index_path(&self, pack: PackId) -> PathBuf {
        self.dir.join(index_file_name(pack))
    }

    /// What stands in the closed pack with this header and length, if its index file knows.
    pub(super) fn read_contents(&self, id: PackId, header: &[u8; PACK_HEADER_LEN as usize], pack_len: u64) -> Option<Contents> {
        let file = self.storage.open_read(&self.index_path(id)).ok()?;
        let len = usize::try_from(file.len().ok()?).ok()?;
        if len > INDEX_HEADER_LEN + ITEM_LEN * MAX_ITEMS {
            return None;
        }
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, 0).ok()?;
        Contents::decode(&bytes, header, pack_len)
    }

    /// How many entries the index file of a pack can hold, going by its length; 0 when there is none.
    pub(super) fn contents_len(&self, id: PackId) -> usize {
        let len = self.storage.open_read(&self.index_path(id)).and_then(|file| file.len());
        let len = len.map_or(0, |len| usize::try_from(len).unwrap_or(0));
        (len.saturating_sub(INDEX_HEADER_LEN) / ITEM_LEN).min(MAX_ITEMS)
    }

    /// Writes the index file of a closed pack. Nothing depends on it: a failure is none.
    pub(super) fn write_contents(&self, id: PackId, header: &[u8; PACK_HEADER_LEN as usize], pack_len: u64, contents: &Contents) {
        let path = self.index_path(id);
        let tmp = path.with_extension("index.tmp");
        let written = (|| -> io::Result<()> {
            let file = create_fresh(&*self.storage, &tmp)?;
            file.write_at(&[&contents.encode(header, pack_len)], 0)?;
            self.storage.rename(&tmp, &path)
        })();
        if let Err(why) = written {
            tracing::debug!(path = %path.display(), %why, "no index file for a pack; the next open walks it");
            let _ = self.storage.remove(&tmp);
        }
    }

    /// Makes the index file of a pack that has just been closed, from what is known to stand in it, else from the pack itself.
    pub(super) fn index_closed(&self, id: PackId, contents: Option<Contents>) {
        let Some(info) = self.index().packs.get(&id).cloned() else { return };
        let (Some(header), false) = (info.header, info.damaged) else { return };
        let walked = || contents_of(self, id, &*self.handle(id).ok()?, info.end);
        if let Some(contents) = contents.or_else(walked) {
            self.write_contents(id, &header, info.end, &contents);
        }
        // Swept meanwhile: then it is nobody's.
        if !self.index().packs.contains_key(&id) {
            let _ = self.storage.remove(&self.index_path(id));
        }
    }

    /// Removes the index file of a pack that goes.
    pub(super) fn drop_contents(&self, id: PackId) {
        // There may be none; one that stays is removed by the next open.
        let _ = self.storage.remove(&self.index_path(id));
    }
}

/// What stands in a pack that ends at `end`; `None` when anything is wrong with it.
pub(super) fn contents_of(blobs: &Blobs, id: PackId, file: &dyn StorageFile, end: u64) -> Option<Contents> {
    let mut walker = Walker::new(file, blobs.store, id, PACK_HEADER_LEN).ok()?;
    let mut contents = Contents::default();
    while let Some(step) = walker.step().ok()? {
        let Step::Entry(entry) = step else { return None };
        contents.push(&entry);
    }
    (walker.end() == end && walker.len() == end).then_some(contents)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_file_is_read_back_and_no_other_bytes_pass_for_it() {
        let header = [5; PACK_HEADER_LEN as usize];
        let contents = Contents { items: vec![([1; 8], 64), ([2; 8], 640), ([3; 8], MAX_ENTRY_START - 8)], raw: 77, stored: 66 };
        let good = contents.encode(&header, 9000);
        assert_eq!(Contents::decode(&good, &header, 9000), Some(contents));
        assert_eq!(Contents::decode(&good, &header, 9008), None);
        assert_eq!(Contents::decode(&good, &[6; PACK_HEADER_LEN as usize], 9000), None);
        for at in 0..good.len() {
            assert_eq!(Contents::decode(&good[..at], &header, 9000), None, "cut to {at}");
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                assert_eq!(Contents::decode(&bad, &header, 9000), None, "byte {at}, bit {bit}");
            }
        }
        assert_eq!(parse_index_file_name(&index_file_name(PackId(0x1f))), Some(PackId(0x1f)));
        assert_eq!(parse_index_file_name("000000000000001f.index.tmp"), None);
    }
}

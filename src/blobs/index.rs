//! The index in memory: the table of hints, and what is known of each pack. Short critical sections, never over I/O.

use std::collections::BTreeMap;

use super::contents::Contents;
use super::pack::{EntryHead, PACK_HEADER_LEN};
use super::table::{MAX_ORDINAL, Spot, Table};
use crate::ids::{BlobId, PackId};

#[derive(Debug, Default)]
pub(super) struct Index {
    pub table: Table,
    pub packs: BTreeMap<PackId, PackInfo>,
    ordinals: Ordinals,
}

/// What is known of a pack.
#[derive(Clone, Debug, Default)]
pub(super) struct PackInfo {
    /// Stands for it in the table.
    pub ordinal: u32,
    /// Where its entries end.
    pub end: u64,
    /// Whether it has a successor: it will not grow any more.
    pub closed: bool,
    /// Something in it could not be read: sweep leaves it alone, because what it holds is not known.
    pub damaged: bool,
    /// The header as it was read; `None` when it is damaged.
    pub header: Option<[u8; PACK_HEADER_LEN as usize]>,
    /// Valid entries in it. `live.blobs <= entries`: the others have a younger copy.
    pub entries: u64,
    /// The blobs whose place is in it.
    pub live: Live,
}

/// Blobs and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Live {
    pub blobs: u64,
    pub raw: u64,
    pub stored: u64,
}

impl Live {
    fn add(&mut self, entry: &EntryHead) {
        self.blobs += 1;
        self.raw += u64::from(entry.raw_len);
        self.stored += u64::from(entry.stored_len);
    }

    fn sub(&mut self, entry: &EntryHead) {
        self.blobs = self.blobs.saturating_sub(1);
        self.raw = self.raw.saturating_sub(u64::from(entry.raw_len));
        self.stored = self.stored.saturating_sub(u64::from(entry.stored_len));
    }
}

/// Small numbers for packs; those of packs that are gone are given out again.
#[derive(Debug, Default)]
struct Ordinals {
    packs: Vec<Option<PackId>>,
    free: Vec<u32>,
}

impl Ordinals {
    fn give(&mut self, pack: PackId) -> Option<u32> {
        if let Some(ordinal) = self.free.pop() {
            self.packs[ordinal as usize - 1] = Some(pack);
            return Some(ordinal);
        }
        let ordinal = u32::try_from(self.packs.len() + 1).ok().filter(|n| *n <= MAX_ORDINAL)?;
        self.packs.push(Some(pack));
        Some(ordinal)
    }

    fn take(&mut self, ordinal: u32) {
        if let Some(pack) = (ordinal as usize).checked_sub(1).and_then(|n| self.packs.get_mut(n))
            && pack.take().is_some()
        {
            self.free.push(ordinal);
        }
    }

    fn pack(&self, ordinal: u32) -> Option<PackId> {
        self.packs.get((ordinal as usize).checked_sub(1)?).copied().flatten()
    }
}

/// Where a blob may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hint {
    pub pack: PackId,
    pub offset: u64,
    pub verified: bool,
}

impl Index {
    /// Enters a pack, empty. `None`: there are too many.
    pub fn add_pack(&mut self, id: PackId, info: PackInfo) -> Option<()> {
        self.remove_packs(&[id]);
        let ordinal = self.ordinals.give(id)?;
        self.packs.insert(id, PackInfo { ordinal, ..info });
        Some(())
    }

    /// Forgets packs and all that stands in them.
    pub fn remove_packs(&mut self, ids: &[PackId]) {
        let gone: Vec<PackInfo> = ids.iter().filter_map(|id| self.packs.remove(id)).collect();
        let filled: Vec<u32> = gone.iter().filter(|p| p.live.blobs > 0).map(|p| p.ordinal).collect();
        if !filled.is_empty() {
            self.table.purge(|ordinal| filled.contains(&ordinal));
        }
        for info in gone {
            self.ordinals.take(info.ordinal);
        }
    }

    /// Every place where the blob may be, the youngest first.
    pub fn hints(&self, id: &BlobId) -> Hints {
        let mut hints = Hints::default();
        self.table.each_spot(self.table.key(id), |spot| {
            if let Some(pack) = self.ordinals.pack(spot.ordinal) {
                hints.push(Hint { pack, offset: spot.offset, verified: spot.verified });
            }
        });
        hints.more.sort_unstable_by_key(|h| std::cmp::Reverse((h.pack, h.offset)));
        hints
    }

    fn spot(&self, pack: PackId, offset: u64, verified: bool) -> Option<Spot> {
        Some(Spot { ordinal: self.packs.get(&pack)?.ordinal, offset, verified })
    }

    /// Whether the entry of `id` at this place is its blob's place.
    pub fn is_at(&self, id: &BlobId, pack: PackId, offset: u64) -> bool {
        self.spot(pack, offset, false).is_some_and(|spot| self.table.is_at(self.table.key(id), spot))
    }

    /// Notes that the copy at this place was found right.
    pub fn set_verified(&mut self, id: &BlobId, pack: PackId, offset: u64) {
        if let Some(spot) = self.spot(pack, offset, true) {
            self.table.replace(self.table.key(id), spot, spot);
        }
    }

    /// Makes `entry` in `pack` the blob's place; `old` is the one it had, if any, and stays if it is younger.
    pub fn enter(&mut self, pack: PackId, entry: &EntryHead, old: Option<(PackId, &EntryHead)>, verified: bool) {
        if old.is_some_and(|(p, e)| (p, e.offset) >= (pack, entry.offset)) {
            return;
        }
        let Some(spot) = self.spot(pack, entry.offset, verified) else { return };
        let key = self.table.key(&entry.id);
        let old = old.and_then(|(p, e)| Some((p, e, self.spot(p, e.offset, false)?)));
        match old {
            Some((p, e, place)) if self.table.replace(key, place, spot) => {
                if let Some(info) = self.packs.get_mut(&p) {
                    info.live.sub(e);
                }
            }
            _ => self.table.insert(key, spot),
        }
        if let Some(info) = self.packs.get_mut(&pack) {
            info.live.add(entry);
        }
    }

    /// Enters a blob of which no copy may be known; false, and nothing is done, if one may.
    pub fn enter_new(&mut self, pack: PackId, entry: &EntryHead) -> bool {
        let key = self.table.key(&entry.id);
        let (false, Some(spot)) = (self.table.has(key), self.spot(pack, entry.offset, false)) else { return false };
        self.table.insert(key, spot);
        if let Some(info) = self.packs.get_mut(&pack) {
            info.live.add(entry);
        }
        true
    }

    /// Takes the blob out, if its place is this entry.
    pub fn remove(&mut self, pack: PackId, entry: &EntryHead) -> bool {
        let Some(spot) = self.spot(pack, entry.offset, false) else { return false };
        let there = self.table.remove(self.table.key(&entry.id), spot);
        if there && let Some(info) = self.packs.get_mut(&pack) {
            info.live.sub(entry);
        }
        there
    }

    /// Enters what an index file says of a pack, all as if it were new. Gives the offsets of entries of which a copy may be known.
    pub fn enter_contents(&mut self, pack: PackId, contents: &Contents) -> Vec<u64> {
        let mut doubtful = Vec::new();
        let Some(info) = self.packs.get_mut(&pack) else { return doubtful };
        info.entries = contents.items.len() as u64;
        info.live = Live { blobs: info.entries, raw: contents.raw, stored: contents.stored };
        let ordinal = info.ordinal;
        self.table.insert_new(ordinal, &contents.items, |offset| doubtful.push(offset));
        // The last of several copies in a pack counts.
        doubtful.sort_unstable();
        doubtful
    }

    /// Takes an entry that [`Index::enter_contents`] doubted out of the count, before it is entered by itself.
    pub fn doubt(&mut self, pack: PackId, entry: &EntryHead) {
        if let Some(info) = self.packs.get_mut(&pack) {
            info.live.sub(entry);
        }
    }
}

/// A few hints; nearly always none or one.
#[derive(Debug, Default)]
pub(super) struct Hints {
    first: Option<Hint>,
    /// Two or more, then all of them.
    more: Vec<Hint>,
}

impl Hints {
    fn push(&mut self, hint: Hint) {
        match self.first {
            None if self.more.is_empty() => self.first = Some(hint),
            first => {
                self.more.extend(first);
                self.first = None;
                self.more.push(hint);
            }
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = &Hint> {
        self.first.iter().chain(&self.more)
    }
}

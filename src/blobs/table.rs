//! Where blobs are, in eight bytes each: a table of hints. A slot says "a blob with these 30 bits of hash may start there"; whoever looks
//! reads the entry's head at that place and compares the whole id. So the table may be rebuilt, and may be wrong, without a wrong answer.
//!
//! ```text
//! ordinal of the pack (18 bits) | offset / 8 (23) | fingerprint (22) | verified (1)
//! ```
//!
//! 256 shards by the top 8 bits of the hash, each an open-addressed array with linear probing. A slot's home is its fingerprint scaled to
//! the array's length: so a shard grows and shrinks without asking anybody for the hash. Between 1/2 and 7/8 of the slots are in use:
//! 9.1 to 16 bytes a blob, usually about 10, and only one shard at a time is copied.

use std::hash::{BuildHasher, RandomState};

use super::pack::{ALIGN, MAX_ENTRY_START};
use crate::ids::BlobId;

const FINGERPRINT_BITS: u32 = 22;
const OFFSET_BITS: u32 = 23;
const ORDINAL_BITS: u32 = 18;
const SHARD_BITS: u32 = 8;

const VERIFIED: u64 = 1;
const FINGERPRINT_AT: u32 = 1;
const OFFSET_AT: u32 = FINGERPRINT_AT + FINGERPRINT_BITS;
const ORDINAL_AT: u32 = OFFSET_AT + OFFSET_BITS;

const _: () = assert!(ORDINAL_AT + ORDINAL_BITS == u64::BITS);
const _: () = assert!(MAX_ENTRY_START / ALIGN <= 1 << OFFSET_BITS);

/// Ordinals are 1 to this; 0 makes an empty slot.
pub(super) const MAX_ORDINAL: u32 = (1 << ORDINAL_BITS) - 1;

/// First bytes of an id: what the hash is made of, and what a pack's index file keeps of it.
pub(super) const PREFIX_LEN: usize = 8;

/// The hash of a blob's id in one table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key(u64);

/// What a slot says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spot {
    /// Stands for the pack.
    pub ordinal: u32,
    /// Where the entry starts in it: a multiple of 8 below [`MAX_ENTRY_START`].
    pub offset: u64,
    /// Read and found right, or written, since the open.
    pub verified: bool,
}

impl Spot {
    fn place_bits(self) -> u64 {
        u64::from(self.ordinal & MAX_ORDINAL) << ORDINAL_AT | ((self.offset / ALIGN) & ((1 << OFFSET_BITS) - 1)) << OFFSET_AT
    }

    fn slot(self, fingerprint: u32) -> u64 {
        self.place_bits() | u64::from(fingerprint) << FINGERPRINT_AT | if self.verified { VERIFIED } else { 0 }
    }

    fn of(slot: u64) -> Self {
        Self {
            ordinal: (slot >> ORDINAL_AT) as u32,
            offset: (slot >> OFFSET_AT & ((1 << OFFSET_BITS) - 1)) * ALIGN,
            verified: slot & VERIFIED != 0,
        }
    }
}

/// The table.
#[derive(Debug)]
pub(super) struct Table {
    /// Nobody can choose blobs that meet in one place without knowing it.
    seed: u64,
    shards: Vec<Shard>,
}

#[derive(Clone, Debug, Default)]
struct Shard {
    slots: Box<[u64]>,
    used: usize,
}

impl Default for Table {
    fn default() -> Self {
        Self { seed: RandomState::new().hash_one(0u64), shards: vec![Shard::default(); 1 << SHARD_BITS] }
    }
}

impl Table {
    /// The hash of a blob's id.
    pub fn key(&self, id: &BlobId) -> Key {
        let mut prefix = [0; PREFIX_LEN];
        prefix.copy_from_slice(&id.0[..PREFIX_LEN]);
        self.key_of_prefix(prefix)
    }

    /// As [`Table::key`], of the id's first bytes.
    pub fn key_of_prefix(&self, prefix: [u8; PREFIX_LEN]) -> Key {
        let once = folded_product(u64::from_le_bytes(prefix) ^ self.seed, 0x9e37_79b9_7f4a_7c15);
        Key(folded_product(once ^ self.seed.rotate_left(32), 0xd6e8_feb8_6659_fd93))
    }

    /// Calls `found` with every spot where the blob may be.
    pub fn each_spot(&self, key: Key, mut found: impl FnMut(Spot)) {
        let shard = &self.shards[shard_of(key)];
        let fingerprint = fingerprint_of(key);
        for at in shard.probe(fingerprint) {
            let slot = shard.slots[at];
            if fingerprint_in(slot) == fingerprint {
                found(Spot::of(slot));
            }
        }
    }

    /// Whether the blob may be anywhere.
    pub fn has(&self, key: Key) -> bool {
        let mut any = false;
        self.each_spot(key, |_| any = true);
        any
    }

    /// Makes room for `more` spots at once.
    pub fn reserve(&mut self, more: usize) {
        if more == 0 {
            return;
        }
        // Shards fill unevenly: a sixteenth for the fuller ones.
        let each = more.div_ceil(1 << SHARD_BITS);
        for shard in &mut self.shards {
            let wanted = shard.used + each + each / 16 + 4;
            if wanted * 8 > shard.slots.len() * 7 {
                shard.resize(wanted * 8 / 7 + 1);
            }
        }
    }

    /// Adds spots of the pack `ordinal`, shard by shard, so that each stays in the processor's cache. Those whose blob may be known already
    /// are not added, but given to `doubtful`.
    pub fn insert_new(&mut self, ordinal: u32, items: &[([u8; PREFIX_LEN], u64)], mut doubtful: impl FnMut(u64)) {
        let mut starts = vec![0usize; (1 << SHARD_BITS) + 1];
        for (prefix, _) in items {
            starts[shard_of(self.key_of_prefix(*prefix)) + 1] += 1;
        }
        for n in 1..starts.len() {
            starts[n] += starts[n - 1];
        }
        let mut sorted = vec![(Key(0), 0u64); items.len()];
        for (prefix, offset) in items {
            let key = self.key_of_prefix(*prefix);
            let next = &mut starts[shard_of(key)];
            sorted[*next] = (key, *offset);
            *next += 1;
        }
        for (key, offset) in sorted {
            if !self.shards[shard_of(key)].insert_new(fingerprint_of(key), Spot { ordinal, offset, verified: false }) {
                doubtful(offset);
            }
        }
    }

    /// Adds a spot.
    pub fn insert(&mut self, key: Key, spot: Spot) {
        let shard = &mut self.shards[shard_of(key)];
        shard.make_room();
        shard.put(spot.slot(fingerprint_of(key)));
        shard.used += 1;
    }

    /// Whether `spot` (verified or not) is there.
    pub fn is_at(&self, key: Key, spot: Spot) -> bool {
        self.shards[shard_of(key)].find(fingerprint_of(key), spot).is_some()
    }

    /// Puts `new` in the place of `old`; false when `old` is not there.
    pub fn replace(&mut self, key: Key, old: Spot, new: Spot) -> bool {
        let shard = &mut self.shards[shard_of(key)];
        let fingerprint = fingerprint_of(key);
        let Some(at) = shard.find(fingerprint, old) else { return false };
        shard.slots[at] = new.slot(fingerprint);
        true
    }

    /// Removes a spot; false when it is not there.
    pub fn remove(&mut self, key: Key, spot: Spot) -> bool {
        let shard = &mut self.shards[shard_of(key)];
        let Some(at) = shard.find(fingerprint_of(key), spot) else { return false };
        shard.take(at);
        shard.shrink();
        true
    }

    /// Removes every spot of the packs that `gone` names.
    pub fn purge(&mut self, gone: impl Fn(u32) -> bool) {
        for shard in &mut self.shards {
            if shard.slots.iter().any(|slot| *slot != 0 && gone(Spot::of(*slot).ordinal)) {
                let mut rest = Shard { slots: vec![0; shard.slots.len()].into_boxed_slice(), used: 0 };
                for slot in shard.slots.iter().filter(|slot| **slot != 0 && !gone(Spot::of(**slot).ordinal)) {
                    rest.put(*slot);
                    rest.used += 1;
                }
                rest.shrink();
                *shard = rest;
            }
        }
    }

    /// Spots in the table.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.shards.iter().map(|s| s.used).sum()
    }

    /// Bytes of heap that the table takes.
    pub fn heap_bytes(&self) -> u64 {
        let slots: usize = self.shards.iter().map(|s| s.slots.len()).sum();
        (slots * size_of::<u64>() + self.shards.capacity() * size_of::<Shard>()) as u64
    }
}

/// Both halves of the product mixed: every bit of `a` reaches every bit of it.
fn folded_product(a: u64, b: u64) -> u64 {
    let wide = u128::from(a) * u128::from(b);
    (wide >> 64) as u64 ^ wide as u64
}

fn shard_of(key: Key) -> usize {
    (key.0 >> (u64::BITS - SHARD_BITS)) as usize
}

fn fingerprint_of(key: Key) -> u32 {
    (key.0 >> (u64::BITS - SHARD_BITS - FINGERPRINT_BITS)) as u32 & ((1 << FINGERPRINT_BITS) - 1)
}

fn fingerprint_in(slot: u64) -> u32 {
    (slot >> FINGERPRINT_AT) as u32 & ((1 << FINGERPRINT_BITS) - 1)
}

impl Shard {
    fn home(&self, fingerprint: u32) -> usize {
        ((self.slots.len() as u64 * u64::from(fingerprint)) >> FINGERPRINT_BITS) as usize
    }

    /// Positions from a fingerprint's home to the first empty slot. There always is one: at most 7/8 are in use.
    fn probe(&self, fingerprint: u32) -> impl Iterator<Item = usize> + '_ {
        let home = self.home(fingerprint);
        (home..self.slots.len()).chain(0..home).take_while(|at| self.slots[*at] != 0)
    }

    fn make_room(&mut self) {
        if (self.used + 1) * 8 > self.slots.len() * 7 {
            self.resize(self.slots.len() * 5 / 4 + 4);
        }
    }

    /// Adds a spot unless there is one with the same fingerprint.
    fn insert_new(&mut self, fingerprint: u32, spot: Spot) -> bool {
        self.make_room();
        let mut at = self.home(fingerprint);
        while self.slots[at] != 0 {
            if fingerprint_in(self.slots[at]) == fingerprint {
                return false;
            }
            at = if at + 1 == self.slots.len() { 0 } else { at + 1 };
        }
        self.slots[at] = spot.slot(fingerprint);
        self.used += 1;
        true
    }

    fn find(&self, fingerprint: u32, spot: Spot) -> Option<usize> {
        let wanted = spot.place_bits() | u64::from(fingerprint) << FINGERPRINT_AT;
        self.probe(fingerprint).find(|at| self.slots[*at] & !VERIFIED == wanted)
    }

    fn put(&mut self, slot: u64) {
        let mut at = self.home(fingerprint_in(slot));
        while self.slots[at] != 0 {
            at = if at + 1 == self.slots.len() { 0 } else { at + 1 };
        }
        self.slots[at] = slot;
    }

    /// Empties a position, and moves back what had to step over it.
    fn take(&mut self, at: usize) {
        let len = self.slots.len();
        let mut hole = at;
        let mut next = (at + 1) % len;
        while self.slots[next] != 0 {
            let home = self.home(fingerprint_in(self.slots[next]));
            // It may move back if its home is not behind the hole, on the way round to where it stands.
            if (next + len - home) % len >= (next + len - hole) % len {
                self.slots[hole] = self.slots[next];
                hole = next;
            }
            next = (next + 1) % len;
        }
        self.slots[hole] = 0;
        self.used -= 1;
    }

    /// Gives memory back when less than half of it is in use.
    fn shrink(&mut self) {
        if self.slots.len() > 8 && self.used * 2 < self.slots.len() {
            self.resize(self.used * 4 / 3 + 2);
        }
    }

    fn resize(&mut self, len: usize) {
        let old = std::mem::replace(&mut self.slots, vec![0; len].into_boxed_slice());
        for slot in old.iter().filter(|slot| **slot != 0) {
            self.put(*slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::storage::sim::Seeded;

    fn spots(table: &Table, key: Key) -> Vec<Spot> {
        let mut spots = Vec::new();
        table.each_spot(key, |s| spots.push(s));
        spots
    }

    fn spot(ordinal: u32, offset: u64) -> Spot {
        Spot { ordinal, offset, verified: false }
    }

    #[test]
    fn a_slot_keeps_the_ends_of_every_range() {
        let mut table = Table::default();
        let key = table.key(&BlobId([9; 32]));
        for ordinal in [1, MAX_ORDINAL] {
            for offset in [64, MAX_ENTRY_START - ALIGN] {
                for verified in [false, true] {
                    let spot = Spot { ordinal, offset, verified };
                    table.insert(key, spot);
                    assert_eq!(spots(&table, key), [spot]);
                    assert!(table.is_at(key, Spot { verified: !verified, ..spot }));
                    assert!(table.remove(key, spot));
                    assert_eq!(spots(&table, key), []);
                }
            }
        }
    }

    /// Random inserts, removals, replacements and purges, many of one fingerprint, against a map.
    #[test]
    fn it_says_what_a_map_says_through_growth_shrinking_and_collisions() {
        for seed in 0..20 {
            let mut rng = Seeded::new(seed);
            let mut table = Table::default();
            let mut map: BTreeMap<(u32, u64), Key> = BTreeMap::new();
            let mut next = 0;
            for round in 0..6000 {
                // In one shard, with few fingerprints at its very end: clusters that wrap.
                let key = Key(3 << 56 | (((1 << 22) - 1 - rng.below(40 + seed * 4000)) << 34));
                match rng.below(if round < 3000 { 12 } else { 22 }) {
                    0..8 => {
                        next += 8;
                        let spot = spot(1 + rng.below(7) as u32, next);
                        table.insert(key, spot);
                        map.insert((spot.ordinal, spot.offset), key);
                    }
                    8 => {
                        let gone = 1 + rng.below(7) as u32;
                        if rng.below(30) == 0 {
                            table.purge(|o| o == gone);
                            map.retain(|(o, _), _| *o != gone);
                        }
                    }
                    9 => {
                        let Some((&(o, at), &key)) = map.iter().nth(rng.below(map.len() as u64) as usize) else { continue };
                        next += 8;
                        assert!(table.replace(key, spot(o, at), spot(7, next)));
                        assert!(!table.replace(key, spot(o, at), spot(7, next)));
                        map.remove(&(o, at));
                        map.insert((7, next), key);
                    }
                    _ => {
                        let Some((&(o, at), &key)) = map.iter().nth(rng.below(map.len() as u64) as usize) else { continue };
                        assert!(table.remove(key, spot(o, at)));
                        assert!(!table.remove(key, spot(o, at)));
                        map.remove(&(o, at));
                    }
                }
                assert_eq!(table.len(), map.len());
            }
            for (&(o, at), &key) in &map {
                assert!(table.is_at(key, spot(o, at)) && table.has(key));
                let same: Vec<_> = map.iter().filter(|(_, k)| **k == key).map(|(p, _)| *p).collect();
                let mut found: Vec<_> = spots(&table, key).iter().map(|s| (s.ordinal, s.offset)).collect();
                found.sort_unstable();
                assert_eq!(found, same);
            }
        }
    }

    #[test]
    fn many_at_once_are_the_same_as_one_by_one() {
        let (mut one, mut rng) = (Table::default(), Seeded::new(4));
        let mut many = Table { seed: one.seed, ..Table::default() };
        let items: Vec<_> = (1..50_000u64).map(|n| (rng.draw().to_le_bytes(), n * 8)).collect();
        let twice: Vec<_> = items.iter().step_by(100).map(|(prefix, at)| (*prefix, at + 500_000)).collect();
        many.reserve(items.len());
        let mut doubtful = Vec::new();
        many.insert_new(1, &[items.clone(), twice.clone()].concat(), |at| doubtful.push(at));
        assert!(many.heap_bytes() <= 16 * items.len() as u64 + 256 * 64);
        // Few are in doubt for nothing: two hashes of 30 equal bits.
        let by_chance = doubtful.iter().filter(|at| **at < 500_000).count();
        assert!(doubtful.len() - by_chance == twice.len() && by_chance < 20, "{by_chance}");
        for (prefix, at) in &items {
            let key = one.key_of_prefix(*prefix);
            one.insert(key, spot(1, *at));
            if !doubtful.contains(at) {
                assert!(many.is_at(key, spot(1, *at)) && one.is_at(key, spot(1, *at)));
            }
        }
        assert_eq!(many.len(), one.len() - by_chance);
    }

    #[test]
    fn a_blob_takes_at_most_sixteen_bytes_while_many_come_and_go() {
        let mut table = Table::default();
        let mut rng = Seeded::new(1);
        let mut put = Vec::new();
        let fixed = table.heap_bytes();
        for n in 0..400_000u64 {
            let mut id = BlobId([0; 32]);
            id.0[..8].copy_from_slice(&rng.draw().to_le_bytes());
            let spot = spot(1 + (n >> 20) as u32, (n * 8) % MAX_ENTRY_START);
            table.insert(table.key(&id), spot);
            put.push((id, spot));
            // Many blobs at once may wait for the same moment to grow: looked at often.
            if n % 997 == 0 && n > 20_000 {
                assert!(table.heap_bytes() - fixed <= 16 * n, "{n} blobs: {} bytes", table.heap_bytes());
            }
        }
        while put.len() > 20_000 {
            let at = rng.below(put.len() as u64) as usize;
            let (id, spot) = put.swap_remove(at);
            assert!(table.remove(table.key(&id), spot));
            if put.len() % 997 == 0 {
                assert!(table.heap_bytes() - fixed <= 17 * put.len() as u64, "{} blobs: {} bytes", put.len(), table.heap_bytes());
            }
        }
    }
}

//! The bytes of one simulated file: what a reader sees, what a power cut leaves, and the changes between them.

use std::collections::BTreeMap;

use super::fault::{Effect, HALF};
use super::seeded::Seeded;

#[derive(Clone, Debug)]
pub(super) enum Change {
    Write { offset: u64, bytes: Vec<u8> },
    SetLen(u64),
}

#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    pub(super) current: Vec<u8>,
    pub(super) durable: Vec<u8>,
    /// What made `current` of `durable`, oldest first; empty of what a failed sync lost.
    pub(super) unsynced: Vec<Change>,
}

fn set_len(content: &mut Vec<u8>, len: usize) {
    if len > content.len() {
        content.append(&mut vec![0; len - content.len()]);
    } else {
        content.truncate(len);
    }
}

fn apply(content: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Write { offset, bytes } => {
            let start = *offset as usize;
            if content.len() < start {
                set_len(content, start);
            }
            let over = bytes.len().min(content.len() - start);
            content[start..start + over].copy_from_slice(&bytes[..over]);
            content.extend_from_slice(&bytes[over..]);
        }
        Change::SetLen(len) => set_len(content, *len as usize),
    }
}

/// The write in pieces that end at granule boundaries of the file.
fn granules(offset: u64, bytes: &[u8], granule: usize) -> Vec<(u64, &[u8])> {
    let mut pieces = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let inside = (offset as usize + at) % granule;
        let n = (granule - inside).min(bytes.len() - at);
        pieces.push((offset + at as u64, &bytes[at..at + n]));
        at += n;
    }
    pieces
}

/// The parts of a failing write that arrive all the same.
pub(super) fn arrived(offset: u64, bytes: &[u8], effect: Effect, granule: usize) -> Vec<Change> {
    let change = |(offset, bytes): (u64, &[u8])| Change::Write { offset, bytes: bytes.to_vec() };
    let front = |n: usize| if n == 0 { Vec::new() } else { vec![change((offset, &bytes[..n]))] };
    match effect {
        Effect::None => Vec::new(),
        Effect::All => front(bytes.len()),
        Effect::Some(HALF) => front(bytes.len() / 2),
        Effect::Some(seed) => {
            let mut rng = Seeded::new(seed);
            if rng.below(2) == 0 {
                return front(rng.below(bytes.len() as u64 + 1) as usize);
            }
            granules(offset, bytes, granule).into_iter().filter(|_| rng.below(2) == 0).map(change).collect()
        }
    }
}

impl Content {
    /// A file whose bytes are on the medium.
    pub(super) fn settled(bytes: Vec<u8>) -> Self {
        Self { current: bytes.clone(), durable: bytes, unsynced: Vec::new() }
    }

    /// Does a change that is not synced yet.
    pub(super) fn change(&mut self, change: Change) {
        apply(&mut self.current, &change);
        self.unsynced.push(change);
    }

    /// Makes everything durable.
    pub(super) fn sync(&mut self) {
        for change in std::mem::take(&mut self.unsynced) {
            apply(&mut self.durable, &change);
        }
    }

    /// A sync that fails: the pages are clean, whatever of them reached the medium.
    pub(super) fn fail_sync(&mut self, effect: Effect, granule: usize) {
        match effect {
            Effect::None => {}
            Effect::Some(seed) => self.durable = self.after_power_cut(&mut Seeded::new(seed), granule),
            Effect::All => return self.sync(),
        }
        self.unsynced.clear();
    }

    /// What a power cut leaves of this file: of the unsynced pieces any, in any order; the length with or without them.
    pub(super) fn after_power_cut(&self, rng: &mut Seeded, granule: usize) -> Vec<u8> {
        let mut left = self.durable.clone();
        if self.unsynced.is_empty() {
            return left;
        }
        let mut pieces = Vec::new();
        for change in &self.unsynced {
            match change {
                Change::Write { offset, bytes } => {
                    let parts = granules(*offset, bytes, granule).into_iter();
                    pieces.extend(parts.map(|(offset, bytes)| Change::Write { offset, bytes: bytes.to_vec() }));
                }
                Change::SetLen(_) => pieces.push(change.clone()),
            }
        }
        // How a cut chooses: none, all, the first few, the last few, of each granule the first few writes to it, or each piece by itself
        // with some bias.
        let (mode, prefix, bias) = (rng.below(8), rng.below(pieces.len() as u64 + 1), 1 + rng.below(15));
        let mut versions: BTreeMap<u64, u64> = BTreeMap::new();
        for (i, piece) in pieces.iter().enumerate() {
            let keep = match (mode, piece) {
                (0, _) => false,
                (1, _) => true,
                (2, _) => (i as u64) < prefix,
                (3, _) => i as u64 >= prefix,
                (4 | 5, Change::Write { offset, .. }) => {
                    let left = versions.entry(offset / granule as u64).or_insert_with(|| rng.below(4));
                    let keep = *left > 0;
                    *left = left.saturating_sub(1);
                    keep
                }
                _ => rng.below(16) < bias,
            };
            if keep {
                apply(&mut left, piece);
            }
        }
        if let Some(len) = self.length_after_power_cut(rng, granule) {
            set_len(&mut left, len as usize);
        }
        left
    }

    /// The length is metadata: it may arrive without the bytes under it, and they without it. `None`: as the bytes that are kept say.
    fn length_after_power_cut(&self, rng: &mut Seeded, granule: usize) -> Option<u64> {
        let mut lengths = vec![self.durable.len() as u64];
        for change in &self.unsynced {
            let before = lengths.last().copied().unwrap_or_default();
            lengths.push(match change {
                Change::Write { offset, bytes } => before.max(offset + bytes.len() as u64),
                Change::SetLen(len) => *len,
            });
        }
        lengths.dedup();
        if lengths.len() == 1 || rng.below(2) == 0 {
            return None;
        }
        let at = rng.below(lengths.len() as u64) as usize;
        let (len, next) = (lengths[at], lengths.get(at + 1).copied().unwrap_or(lengths[at]));
        // A growing file may stop growing at any granule.
        let steps = next.saturating_sub(len) / granule as u64;
        Some(if rng.below(2) == 0 { len } else { len + rng.below(steps + 1) * granule as u64 })
    }
}

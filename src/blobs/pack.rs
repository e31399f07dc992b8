//! The bytes of a pack, told once: its header, the head of an entry, where everything lies. Nothing here touches a disk.
//!
//! A pack is a 64-byte header and entries behind one another, each aligned to 8 bytes:
//!
//! ```text
//! head (64 bytes) | CRC-32 of every 64 KiB of the stored bytes (4 bytes each) | stored bytes | zeros up to a multiple of 8
//! ```
//!
//! An entry is valid only at its own place: its CRC covers the store, the pack and the offset, so that no copy of an entry inside a
//! payload, and no entry of another pack, can pass for one. See wal-format.md.

use crate::ids::{BlobId, PackId, StoreId};

/// First bytes of a pack.
pub const PACK_MAGIC: [u8; 8] = *b"izepack\0";
/// Format version of packs written here.
pub const PACK_VERSION: u32 = 1;
/// Length of a pack's header; the first entry stands here.
pub const PACK_HEADER_LEN: u64 = 64;
/// First bytes of an entry.
pub const ENTRY_MAGIC: [u8; 4] = *b"\xb1ZEe";
/// Length of an entry's fixed head.
pub const ENTRY_HEAD_LEN: usize = 64;
/// Entries start at multiples of this.
pub const ALIGN: u64 = 8;
/// Stored bytes under one CRC.
pub const BLOCK_LEN: usize = 64 << 10;
/// Longest blob, in raw bytes.
pub const MAX_BLOB_LEN: usize = 16 << 20;
/// A pack that has reached this length takes no further entry.
pub const PACK_TARGET_LEN: u64 = 64 << 20;
/// An entry starts below this: no pack that has reached its length takes another, and none is looked for there.
pub const MAX_ENTRY_START: u64 = PACK_TARGET_LEN;
/// Longest head with its table.
pub const MAX_HEAD_LEN: usize = ENTRY_HEAD_LEN + 4 * (MAX_BLOB_LEN / BLOCK_LEN);

const _: () = assert!(PACK_HEADER_LEN.is_multiple_of(ALIGN));
const _: () = assert!((BLOCK_LEN as u64).is_multiple_of(ALIGN));
// An offset inside a pack fits in 32 bits.
const _: () = assert!(PACK_TARGET_LEN + (MAX_HEAD_LEN + MAX_BLOB_LEN) as u64 + ALIGN < u32::MAX as u64);

/// Name of the file of pack `id`.
#[must_use]
pub fn pack_file_name(id: PackId) -> String {
    format!("{id}.pack")
}

/// The pack that a file name names; `None` for every other name.
#[must_use]
pub fn parse_pack_file_name(name: &str) -> Option<PackId> {
    let hex = name.strip_suffix(".pack")?;
    if hex.len() != 16 || !hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
        return None;
    }
    u64::from_str_radix(hex, 16).ok().filter(|n| *n != 0).map(PackId)
}

/// How an entry's bytes are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stored {
    /// As they are.
    Raw,
    /// As one zstd frame.
    Zstd,
}

/// Header of a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackHeader {
    /// The store it belongs to.
    pub store: StoreId,
    /// Its number, also in its file's name.
    pub pack: PackId,
    /// The pack that was closed and synced before this one was born; 0 for none.
    pub previous: PackId,
    /// Length in bytes of `previous` when it was closed; 0 for none.
    pub previous_len: u64,
    /// How often recovery wrote this pack afresh; offsets do not survive that.
    pub generation: u32,
}

/// Why 64 bytes are not a header of this pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadHeader {
    /// Magic or CRC are wrong.
    Damaged,
    /// Sound, but of a version or with feature bits unknown here.
    Unsupported {
        /// Format version.
        version: u32,
        /// Feature bits.
        features: u32,
    },
    /// Sound, but of another store or another pack.
    Foreign {
        /// Store in the header.
        store: StoreId,
        /// Pack in the header.
        pack: PackId,
    },
}

impl PackHeader {
    /// The header's bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; PACK_HEADER_LEN as usize] {
        let mut b = [0u8; PACK_HEADER_LEN as usize];
        b[0..8].copy_from_slice(&PACK_MAGIC);
        b[8..12].copy_from_slice(&PACK_VERSION.to_le_bytes());
        // 12..16: feature bits, none yet.
        b[16..32].copy_from_slice(&self.store.0);
        b[32..40].copy_from_slice(&self.pack.0.to_le_bytes());
        b[40..48].copy_from_slice(&self.previous.0.to_le_bytes());
        b[48..56].copy_from_slice(&self.previous_len.to_le_bytes());
        b[56..60].copy_from_slice(&self.generation.to_le_bytes());
        let crc = crc32fast::hash(&b[0..60]);
        b[60..64].copy_from_slice(&crc.to_le_bytes());
        b
    }

    /// Reads a header of pack `pack` of store `store`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(b: &[u8; PACK_HEADER_LEN as usize], store: StoreId, pack: PackId) -> Result<Self, BadHeader> {
        if b[0..8] != PACK_MAGIC || u32_at(b, 60) != crc32fast::hash(&b[0..60]) {
            return Err(BadHeader::Damaged);
        }
        let (version, features) = (u32_at(b, 8), u32_at(b, 12));
        if version != PACK_VERSION || features != 0 {
            return Err(BadHeader::Unsupported { version, features });
        }
        let mut id = [0; 16];
        id.copy_from_slice(&b[16..32]);
        let found = Self {
            store: StoreId(id),
            pack: PackId(u64_at(b, 32)),
            previous: PackId(u64_at(b, 40)),
            previous_len: u64_at(b, 48),
            generation: u32_at(b, 56),
        };
        if found.store != store || found.pack != pack {
            return Err(BadHeader::Foreign { store: found.store, pack: found.pack });
        }
        Ok(found)
    }
}

/// Head of an entry, without its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryHead {
    /// Where the entry starts in its pack; a multiple of [`ALIGN`].
    pub offset: u64,
    /// How the bytes are stored.
    pub encoding: Stored,
    /// Length of the blob, at most [`MAX_BLOB_LEN`].
    pub raw_len: u32,
    /// Length of the stored bytes: `raw_len` when raw, less when compressed.
    pub stored_len: u32,
    /// Hash of the raw bytes.
    pub id: BlobId,
}

impl EntryHead {
    /// Number of blocks, hence of CRCs in the table.
    #[must_use]
    pub fn blocks(&self) -> usize {
        (self.stored_len as usize).div_ceil(BLOCK_LEN)
    }

    /// Length of head and table.
    #[must_use]
    pub fn head_len(&self) -> usize {
        ENTRY_HEAD_LEN + 4 * self.blocks()
    }

    /// Where the stored bytes start in the pack.
    #[must_use]
    pub fn data_offset(&self) -> u64 {
        self.offset + self.head_len() as u64
    }

    /// Zeros behind the stored bytes.
    #[must_use]
    pub fn padding(&self) -> usize {
        let end = self.head_len() + self.stored_len as usize;
        end.next_multiple_of(ALIGN as usize) - end
    }

    /// Length of the whole entry, a multiple of [`ALIGN`].
    #[must_use]
    pub fn total_len(&self) -> u64 {
        (self.head_len() + self.stored_len as usize + self.padding()) as u64
    }

    /// Length of block `n` as its CRC sees it: the last one with the padding.
    #[must_use]
    pub fn block_len(&self, n: usize) -> usize {
        let start = n * BLOCK_LEN;
        if n + 1 == self.blocks() { self.stored_len as usize - start + self.padding() } else { BLOCK_LEN }
    }

    /// The CRCs of the table, for `stored` bytes.
    #[must_use]
    pub fn sums(stored: &[u8]) -> Vec<u32> {
        let blocks = stored.len().div_ceil(BLOCK_LEN);
        let end = ENTRY_HEAD_LEN + 4 * blocks + stored.len();
        let padding = &[0u8; ALIGN as usize][..end.next_multiple_of(ALIGN as usize) - end];
        let sum = |(n, block)| {
            let mut crc = crc32fast::Hasher::new();
            crc.update(block);
            if n + 1 == blocks {
                crc.update(padding);
            }
            crc.finalize()
        };
        stored.chunks(BLOCK_LEN).enumerate().map(sum).collect()
    }

    /// Head and table for an entry with these [`EntryHead::sums`].
    #[must_use]
    pub fn encode(&self, store: StoreId, pack: PackId, sums: &[u32]) -> Vec<u8> {
        let mut b = vec![0u8; ENTRY_HEAD_LEN];
        b[0..4].copy_from_slice(&ENTRY_MAGIC);
        b[8] = match self.encoding {
            Stored::Raw => 0,
            Stored::Zstd => 1,
        };
        b[16..24].copy_from_slice(&u64::from(self.raw_len).to_le_bytes());
        b[24..32].copy_from_slice(&u64::from(self.stored_len).to_le_bytes());
        b[32..64].copy_from_slice(&self.id.0);
        b.extend(sums.iter().flat_map(|sum| sum.to_le_bytes()));
        let crc = bound_crc(store, pack, self.offset, &b);
        b[4..8].copy_from_slice(&crc.to_le_bytes());
        b
    }

    /// What the fixed 64 bytes say, if lengths and encoding are possible; the CRC is not looked at ([`EntryHead::is_sound`]).
    #[must_use]
    pub fn parse(b: &[u8], offset: u64) -> Option<Self> {
        if b.len() < ENTRY_HEAD_LEN || b[0..4] != ENTRY_MAGIC || b[9..16] != [0; 7] {
            return None;
        }
        let raw_len = u32::try_from(u64_at(b, 16)).ok().filter(|n| *n as usize <= MAX_BLOB_LEN)?;
        let stored_len = u32::try_from(u64_at(b, 24)).ok()?;
        let encoding = match b[8] {
            0 if stored_len == raw_len => Stored::Raw,
            1 if stored_len < raw_len => Stored::Zstd,
            _ => return None,
        };
        let mut id = [0; 32];
        id.copy_from_slice(&b[32..64]);
        Some(Self { offset, encoding, raw_len, stored_len, id: BlobId(id) })
    }

    /// Whether `b`, head and table as stored, is the head of an entry at this place.
    #[must_use]
    pub fn is_sound(&self, store: StoreId, pack: PackId, b: &[u8]) -> bool {
        b.len() == self.head_len() && u32_at(b, 4) == bound_crc(store, pack, self.offset, b)
    }
}

/// CRC in block `n`'s place of the table of `head` (head and table as stored).
#[must_use]
pub fn table_crc(head: &[u8], n: usize) -> u32 {
    u32_at(head, ENTRY_HEAD_LEN + 4 * n)
}

fn bound_crc(store: StoreId, pack: PackId, offset: u64, head: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&store.0);
    crc.update(&pack.0.to_le_bytes());
    crc.update(&offset.to_le_bytes());
    crc.update(&head[8..]);
    crc.finalize()
}

/// Little-endian number at `at`; 0 where `b` is too short (callers check lengths).
fn u32_at(b: &[u8], at: usize) -> u32 {
    b.get(at..at + 4).and_then(|s| s.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn u64_at(b: &[u8], at: usize) -> u64 {
    b.get(at..at + 8).and_then(|s| s.try_into().ok()).map_or(0, u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_name_is_read_back_and_others_are_not() {
        assert_eq!(parse_pack_file_name(&pack_file_name(PackId(0x1a))), Some(PackId(0x1a)));
        for bad in ["0000000000000000.pack", "1.pack", "000000000000001A.pack", "000000000000001a.pack.tmp", "000000000000001a"] {
            assert_eq!(parse_pack_file_name(bad), None, "{bad}");
        }
    }

    #[test]
    fn an_entry_is_valid_only_in_its_own_place() {
        let (store, pack) = (StoreId([7; 16]), PackId(3));
        let data = vec![9u8; BLOCK_LEN + 1];
        let head = EntryHead {
            offset: 64,
            encoding: Stored::Raw,
            raw_len: data.len() as u32,
            stored_len: data.len() as u32,
            id: BlobId::of(&data),
        };
        let b = head.encode(store, pack, &EntryHead::sums(&data));
        assert_eq!(head.blocks(), 2);
        assert_eq!(head.total_len() % ALIGN, 0);
        assert_eq!(EntryHead::parse(&b, 64), Some(head));
        assert!(head.is_sound(store, pack, &b));
        assert!(!head.is_sound(StoreId([8; 16]), pack, &b));
        assert!(!head.is_sound(store, PackId(4), &b));
        assert!(!EntryHead { offset: 72, ..head }.is_sound(store, pack, &b));
    }

    #[test]
    fn impossible_lengths_are_refused_before_anything_is_allocated() {
        let head = EntryHead { offset: 64, encoding: Stored::Raw, raw_len: 0, stored_len: 0, id: BlobId::of(b"") };
        let good = head.encode(StoreId([0; 16]), PackId(1), &[]);
        let with = |at: usize, v: u64| {
            let mut b = good.clone();
            b[at..at + 8].copy_from_slice(&v.to_le_bytes());
            EntryHead::parse(&b, 64)
        };
        assert!(EntryHead::parse(&good, 64).is_some());
        assert_eq!(with(16, u64::MAX), None);
        assert_eq!(with(24, u64::MAX), None);
        assert_eq!(with(24, 1), None);
        assert_eq!(with(16, MAX_BLOB_LEN as u64 + 1), None);
    }

    /// A header whose checksum is right is believed only if all that it says is: its magic, its version and features, its store and number.
    #[test]
    fn a_header_with_a_right_checksum_and_a_wrong_field_is_refused() {
        let (store, pack) = (StoreId([7; 16]), PackId(3));
        let header = PackHeader { store, pack, previous: PackId(2), previous_len: 640, generation: 1 };
        let with = |at: usize| {
            let mut b = header.encode();
            b[at] ^= 1;
            let crc = crc32fast::hash(&b[0..60]);
            b[60..64].copy_from_slice(&crc.to_le_bytes());
            PackHeader::decode(&b, store, pack)
        };
        assert_eq!(PackHeader::decode(&header.encode(), store, pack), Ok(header));
        for at in 0..60 {
            let said = with(at);
            let right = match at {
                0..8 => said == Err(BadHeader::Damaged),
                8..16 => matches!(said, Err(BadHeader::Unsupported { .. })),
                16..40 => matches!(said, Err(BadHeader::Foreign { .. })),
                _ => said.is_ok_and(|found| found != header),
            };
            assert!(right, "byte {at}: {said:?}");
        }
        let mut b = header.encode();
        b[61] ^= 1;
        assert_eq!(PackHeader::decode(&b, store, pack), Err(BadHeader::Damaged));
    }

    #[test]
    fn compressed_bytes_are_fewer_than_the_blobs_and_the_blob_has_a_bound() {
        let parse = |raw_len: u32, stored_len: u32| {
            let head = EntryHead { offset: 64, encoding: Stored::Zstd, raw_len, stored_len, id: BlobId([1; 32]) };
            EntryHead::parse(&head.encode(StoreId([0; 16]), PackId(1), &EntryHead::sums(&vec![0; stored_len as usize])), 64) == Some(head)
        };
        let most = MAX_BLOB_LEN as u32;
        assert!(parse(90, 89) && parse(most, 90));
        assert!(!parse(90, 90) && !parse(90, 91) && !parse(most + 1, 90));
    }

    /// The room for what a later version may say: whoever does not know it must not pass over it.
    #[test]
    fn bytes_that_must_be_zero_are() {
        let head = EntryHead { offset: 64, encoding: Stored::Raw, raw_len: 0, stored_len: 0, id: BlobId::of(b"") };
        let good = head.encode(StoreId([0; 16]), PackId(1), &[]);
        for at in 9..16 {
            let mut b = good.clone();
            b[at] = 1;
            assert_eq!(EntryHead::parse(&b, 64), None, "byte {at}");
        }
    }
}

//! Hashing of large blobs on two threads at once. BLAKE3 takes 0.2 ms a MiB here, more than the copy to or from the page cache: a tree hash
//! need not wait for one core. Small ones are hashed where they are.

use std::io;

use blake3::hazmat::{ChainingValue, HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root};

use super::pack::BLOCK_LEN;
use crate::ids::BlobId;
use crate::storage::StorageFile;

/// From this length on, work is split: below, the hand-over costs as much as it saves.
pub(super) const SPLIT_FROM: usize = 256 << 10;
const _: () = assert!(SPLIT_FROM.is_multiple_of(BLOCK_LEN));

/// The address of `bytes`.
pub(super) fn address(bytes: &[u8]) -> BlobId {
    if bytes.len() < SPLIT_FROM {
        return BlobId::of(bytes);
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update_rayon(bytes);
    BlobId(*hasher.finalize().as_bytes())
}

/// Fills `buf` from `offset` of the file and gives the address of what was read: each part is hashed while the cache still has it.
pub(super) fn read_addressed(file: &dyn StorageFile, buf: &mut [u8], offset: u64) -> io::Result<BlobId> {
    if buf.len() < SPLIT_FROM {
        file.read_exact_at(buf, offset)?;
        return Ok(BlobId::of(buf));
    }
    let (left, right) = buf.split_at_mut(left_subtree_len(buf.len() as u64) as usize);
    let middle = left.len() as u64;
    let (left, right) = rayon::join(|| read_subtree(file, left, offset, 0), || read_subtree(file, right, offset, middle));
    Ok(BlobId(*merge_subtrees_root(&left?, &right?, Mode::Hash).as_bytes()))
}

/// As [`read_addressed`], for the part of the blob from `start` on, which is a subtree of the hash.
fn read_subtree(file: &dyn StorageFile, buf: &mut [u8], offset: u64, start: u64) -> io::Result<ChainingValue> {
    if buf.len() <= SPLIT_FROM {
        file.read_exact_at(buf, offset + start)?;
        return Ok(blake3::Hasher::new().set_input_offset(start).update(buf).finalize_non_root());
    }
    let (left, right) = buf.split_at_mut(left_subtree_len(buf.len() as u64) as usize);
    let middle = start + left.len() as u64;
    let (left, right) = rayon::join(|| read_subtree(file, left, offset, start), || read_subtree(file, right, offset, middle));
    Ok(merge_subtrees_non_root(&left?, &right?, Mode::Hash))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Storage;
    use crate::storage::sim::SimDisk;
    use std::path::Path;

    #[test]
    fn the_address_does_not_depend_on_how_the_work_is_split() {
        let bytes: Vec<u8> = (0..3_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let disk = SimDisk::new();
        let file = disk.create_new(Path::new("/f")).unwrap();
        file.write_at(&[&[1; 77], &bytes], 0).unwrap();
        let edge = |n: usize| [n - 1, n, n + 1];
        let lens =
            [0, 1, 1024, 3_000_000].into_iter().chain(edge(SPLIT_FROM)).chain(edge(1 << 20)).chain(edge(3 << 18)).chain(edge(5 << 17));
        for len in lens {
            let right = BlobId::of(&bytes[..len]);
            assert_eq!(address(&bytes[..len]), right, "{len} bytes");
            let mut buf = vec![0; len];
            assert_eq!(read_addressed(&*file, &mut buf, 77).unwrap(), right, "{len} bytes read");
            assert_eq!(buf, bytes[..len]);
        }
    }
}

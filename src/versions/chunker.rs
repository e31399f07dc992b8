//! Where a file is cut into chunks: content-defined, FastCDC 2020 (crate fastcdc, module v2020), so that an edit moves only the cuts
//! near it.
//!
//! The parameters are constants of the format: with others, or with another gear table, an unchanged file would get other chunks and be
//! stored once more, though every old version would stay readable. A test pins the cuts of a generated input.
//!
//! Rules: a chunk begins at the start of the file or where the one before ends; its end depends only on the bytes from its start on, at
//! most [`MAX_CHUNK`] of them, and on where the file ends. What is left when no more than [`MIN_CHUNK`] bytes remain is one chunk, so
//! every file of up to 16 KiB is one; an empty file has none. Holes (see `versions::node::Piece`) are no chunks: content on either side
//! of one is cut by itself.

use fastcdc::v2020;

/// Shortest chunk in bytes, but for the last of a file.
pub const MIN_CHUNK: usize = 16 << 10;
/// The length that normalization aims at.
pub const AVG_CHUNK: usize = 64 << 10;
/// Longest chunk in bytes.
pub const MAX_CHUNK: usize = 256 << 10;

/// Normalization level 2: two bits more before [`AVG_CHUNK`], two bits less behind it.
const MASK_BEFORE: u64 = 0x0000_d907_0753_7000;
const MASK_BEHIND: u64 = 0x0000_d903_1353_0000;

// 2^16 is the average: masks of 16 bits, two more and two less.
const _: () = assert!(AVG_CHUNK == 1 << 16 && MASK_BEFORE.count_ones() == 18 && MASK_BEHIND.count_ones() == 14);

/// Length of the chunk that begins at the start of `buf`. `buf` holds the file's bytes from there on: at least [`MAX_CHUNK`] of them, or
/// all that are left (`is_last`). `None` when more bytes are needed to tell, and for an empty `buf`.
#[must_use]
pub fn next_cut(buf: &[u8], is_last: bool) -> Option<usize> {
    if buf.is_empty() || (!is_last && buf.len() < MAX_CHUNK) {
        return None;
    }
    let (_, cut) = v2020::cut(buf, MIN_CHUNK, AVG_CHUNK, MAX_CHUNK, MASK_BEFORE, MASK_BEHIND, MASK_BEFORE << 1, MASK_BEHIND << 1);
    // Never 0, or a caller's loop would not end.
    Some(cut.clamp(1, buf.len()))
}

/// The chunks of `bytes`, taken as a whole file.
pub fn chunks(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (chunk, rest) = bytes.split_at(next_cut(bytes, true)?);
        bytes = rest;
        Some(chunk)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Deterministic bytes for ever: splitmix64.
    fn noise(mut seed: u64, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = seed;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            bytes.extend_from_slice(&(z ^ (z >> 31)).to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }

    fn cuts(bytes: &[u8]) -> Vec<usize> {
        chunks(bytes)
            .scan(0, |at, c| {
                *at += c.len();
                Some(*at)
            })
            .collect()
    }

    #[test]
    fn the_cuts_of_a_known_input_never_move() {
        let known =
            [28128, 110164, 182221, 264797, 317028, 367399, 465518, 557851, 584860, 698742, 778984, 849084, 926334, 992291, 1048576];
        assert_eq!(cuts(&noise(1, 1 << 20)), known);
    }

    #[test]
    fn chunks_keep_their_bounds_and_their_mean() {
        let bytes = noise(2, 16 << 20);
        let lens: Vec<usize> = chunks(&bytes).map(<[u8]>::len).collect();
        assert_eq!(lens.iter().sum::<usize>(), bytes.len());
        assert!(lens[..lens.len() - 1].iter().all(|n| (MIN_CHUNK..=MAX_CHUNK).contains(n)));
        let mean = bytes.len() / lens.len();
        assert!((48 << 10..90 << 10).contains(&mean), "mean {mean}");
        assert_eq!(cuts(&vec![0; 3 * MAX_CHUNK]), [MAX_CHUNK, 2 * MAX_CHUNK, 3 * MAX_CHUNK]);
    }

    #[test]
    fn a_short_file_is_one_chunk_and_an_empty_one_none() {
        assert_eq!(cuts(&noise(3, MIN_CHUNK)), [MIN_CHUNK]);
        assert_eq!(cuts(b"x"), [1]);
        assert_eq!(cuts(b""), [0; 0]);
        assert_eq!(next_cut(b"", true), None);
        assert_eq!(next_cut(&noise(3, MAX_CHUNK - 1), false), None, "a longer window might cut elsewhere");
    }

    #[test]
    fn a_cut_depends_on_nothing_before_the_chunk_and_nothing_behind_the_window() {
        let bytes = noise(4, 4 << 20);
        let whole = cuts(&bytes);
        let mut start = 0;
        for cut in &whole {
            let window = &bytes[start..(start + MAX_CHUNK).min(bytes.len())];
            assert_eq!(next_cut(window, start + window.len() == bytes.len()), Some(cut - start));
            start = *cut;
        }
        // An insertion near the front moves only the cuts near it.
        let mut edited = bytes.clone();
        edited.splice(100_000..100_000, *b"inserted");
        let kept = cuts(&edited).iter().filter(|c| whole.contains(&c.wrapping_sub(8))).count();
        assert!(kept + 6 > whole.len(), "{kept} of {} cuts are left", whole.len());
    }
}

//! Content-defined chunks: where a file is cut, so that an edit moves few cuts. The parameters are part of the format: with others, equal
//! files would no longer have equal chunks.
//!
//! FastCDC (Xia et al., 2020; crate fastcdc, module v2020, its gear table and normalization level 1) with the sizes below.

use fastcdc::v2020::FastCDC;

/// Shortest chunk, but for a file's last one, in bytes.
pub const MIN: usize = 16 * 1024;
/// Length that chunks have on average, in bytes; a file or file's rest of up to this many is one chunk.
pub const AVERAGE: usize = 64 * 1024;
/// Longest chunk, in bytes.
pub const MAX: usize = 256 * 1024;

/// Length of the first chunk of `window`, which begins where a chunk begins and holds [`MAX`] bytes, or all there are up to the file's end
/// (`is_last`). Depends on nothing before the window. 0 for an empty window only.
#[must_use]
pub fn next_cut(window: &[u8], is_last: bool) -> usize {
    if is_last && window.len() <= AVERAGE {
        return window.len();
    }
    let sizes = (MIN as u32, AVERAGE as u32, MAX as u32);
    FastCDC::new(window, sizes.0, sizes.1, sizes.2).next().map_or(window.len(), |chunk| chunk.length)
}

/// Length of the first chunk of bytes that begin where a chunk begins and after which more may come; `None` while that says where it ends.
#[must_use]
pub fn sure_cut(bytes: &[u8]) -> Option<usize> {
    let window = bytes.get(..MAX).unwrap_or(bytes);
    // Below the average length the cut depends on how much there is.
    if window.len() <= AVERAGE {
        return None;
    }
    let len = next_cut(window, false);
    (len < window.len() || len == MAX).then_some(len)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(len: usize) -> Vec<u8> {
        let mut x = 0x9e37_79b9_7f4a_7c15u64;
        let step = |_| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            (x >> 32) as u8
        };
        (0..len).map(step).collect()
    }

    fn cuts(bytes: &[u8]) -> Vec<usize> {
        let mut out = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            let end = (at + MAX).min(bytes.len());
            at += next_cut(&bytes[at..end], end == bytes.len());
            out.push(at);
        }
        out
    }

    /// Guards the format: a library that cuts elsewhere must not come in unnoticed.
    #[test]
    fn the_cuts_of_a_known_input_stay_where_they_are() {
        assert_eq!(cuts(&noise(600_000)), GOLDEN);
    }

    const GOLDEN: &[usize] = &[71_088, 137_568, 238_220, 366_859, 469_301, 561_475, 600_000];

    #[test]
    fn chunks_have_the_stated_lengths_and_small_files_are_one() {
        for len in [0, 1, MIN, AVERAGE] {
            assert_eq!(cuts(&noise(len)), if len == 0 { vec![] } else { vec![len] });
        }
        let cuts = cuts(&noise(5_000_000));
        let lengths: Vec<usize> = cuts.iter().zip([0].iter().chain(&cuts)).map(|(b, a)| b - a).collect();
        assert!(lengths[..lengths.len() - 1].iter().all(|l| (MIN..=MAX).contains(l)));
        let mean = 5_000_000 / lengths.len();
        assert!((AVERAGE / 2..AVERAGE * 2).contains(&mean), "mean {mean}");
    }

    #[test]
    fn a_sure_cut_is_the_cut_whatever_follows() {
        let mut bytes = noise(2_000_000);
        bytes[700_000..1_300_000].fill(7);
        let (mut at, mut found) = (0, 0);
        while at < bytes.len() - MAX {
            let whole = next_cut(&bytes[at..at + MAX], false);
            for more in (0..MAX).step_by(777).chain([whole - 1, whole, whole + 1, MAX]) {
                if let Some(len) = sure_cut(&bytes[at..at + more]) {
                    assert_eq!(len, whole, "at {at} with {more} bytes");
                    found += 1;
                } else {
                    // Bytes are looked at in pairs.
                    assert!(more <= whole.max(AVERAGE) + 1, "at {at} with {more} bytes");
                }
            }
            at += whole;
        }
        assert!(found > 100);
    }

    #[test]
    fn an_inserted_byte_moves_few_cuts() {
        let bytes = noise(3_000_000);
        let mut longer = bytes.clone();
        longer.insert(10, 1);
        let before: std::collections::HashSet<usize> = cuts(&bytes).into_iter().map(|c| c + 1).collect();
        let kept = cuts(&longer).iter().filter(|c| before.contains(c)).count();
        assert!(kept + 5 >= before.len(), "{kept} of {}", before.len());
    }
}

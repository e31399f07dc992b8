//! Content-defined chunks (placeholder until the blobs branch is merged).
/// Longest chunk.
pub const MAX: usize = 256 * 1024;
/// Where the first chunk of `window` ends.
#[must_use]
pub fn next_cut(window: &[u8], _last: bool) -> usize {
    if window.len() <= 65536 {
        window.len()
    } else {
        fastcdc::v2020::FastCDC::new(window, 16384, 65536, 262_144).next().map_or(window.len(), |c| c.length)
    }
}

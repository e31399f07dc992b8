//! zstd, with what it works in kept for the next blob: its tables take longer to make than most blobs to compress or inflate.

use std::cell::RefCell;
use std::io;

use zstd::bulk::{Compressor, Decompressor};

/// The level of what is stored: the fastest of the ordinary ones.
const LEVEL: i32 = 1;

/// Room that is kept for the next blob: more than a chunk takes.
const KEPT: usize = 512 << 10;

/// What it works in, and where it writes to: most blobs of random bytes come to nothing, and a buffer for each would be memory that goes back
/// to the kernel and comes again.
struct Packing {
    compressor: Compressor<'static>,
    packed: Vec<u8>,
}

thread_local! {
    static PACKING: RefCell<Option<Packing>> =
        RefCell::new(Compressor::new(LEVEL).ok().map(|compressor| Packing { compressor, packed: Vec::new() }));
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = RefCell::new(Decompressor::new().ok());
}

/// `bytes` as a zstd frame, if that saves at least an eighth.
pub(super) fn compress(bytes: &[u8]) -> Option<Vec<u8>> {
    let limit = bytes.len() - bytes.len() / 8;
    PACKING.with_borrow_mut(|packing| {
        let Packing { compressor, packed } = packing.as_mut()?;
        packed.clear();
        packed.reserve(limit);
        // More than the buffer has room for is an error, and no saving.
        let len = compressor.compress_to_buffer(bytes, packed).ok();
        let kept = len.filter(|len| *len <= limit && *len < bytes.len()).map(|_| packed.to_vec());
        if packed.capacity() > KEPT {
            *packed = Vec::new();
        }
        kept
    })
}

/// The bytes of a zstd frame, which are `len` at most.
pub(super) fn inflate(packed: &[u8], len: usize) -> io::Result<Vec<u8>> {
    DECOMPRESSOR.with_borrow_mut(|decompressor| match decompressor {
        Some(decompressor) => decompressor.decompress(packed, len),
        None => zstd::bulk::decompress(packed, len),
    })
}

//! zstd, with what it works in kept for the next blob: its tables take longer to make than most blobs to compress or inflate.

use std::cell::RefCell;
use std::io;

use zstd::bulk::{Compressor, Decompressor};

/// The level of what is stored: the fastest of the ordinary ones.
const LEVEL: i32 = 1;

thread_local! {
    static COMPRESSOR: RefCell<Option<Compressor<'static>>> = RefCell::new(Compressor::new(LEVEL).ok());
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = RefCell::new(Decompressor::new().ok());
}

/// `bytes` as a zstd frame, if that saves at least an eighth.
pub(super) fn compress(bytes: &[u8]) -> Option<Vec<u8>> {
    let limit = bytes.len() - bytes.len() / 8;
    let packed = COMPRESSOR.with_borrow_mut(|compressor| compressor.as_mut()?.compress(bytes).ok())?;
    (packed.len() <= limit && packed.len() < bytes.len()).then_some(packed)
}

/// The bytes of a zstd frame, which are `len` at most.
pub(super) fn inflate(packed: &[u8], len: usize) -> io::Result<Vec<u8>> {
    DECOMPRESSOR.with_borrow_mut(|decompressor| match decompressor {
        Some(decompressor) => decompressor.decompress(packed, len),
        None => zstd::bulk::decompress(packed, len),
    })
}

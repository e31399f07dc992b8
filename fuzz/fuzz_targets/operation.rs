//! Any bytes as the body of any kind: decoding never panics, and what decodes encodes to the same bytes again.
#![no_main]

use ize::op::{Decoded, decode, encode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: (u16, u8, Vec<u8>)| {
    let (kind, version, body) = data;
    if let Ok(Decoded::Operation { entry, payload }) = decode(kind, version, &body) {
        // Varints may be longer than need be in the input: what counts is that the value survives.
        if let Ok((kind, version, mut again)) = encode(&entry) {
            again.extend_from_slice(payload);
            assert_eq!(decode(kind, version, &again), Ok(Decoded::Operation { entry, payload }));
        }
    }
});

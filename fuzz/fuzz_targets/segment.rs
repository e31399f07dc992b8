//! Any bytes as a segment: the reader ends, never panics, and gives records only whose checksum is right.
#![no_main]

use ize::ids::{Lsn, SegmentId, StoreId};
use ize::wal::reader::{Next, SegmentReader};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut reader = SegmentReader::new(data, StoreId([7; 16]), SegmentId(1), Some(Lsn(1)), Lsn(0));
    while let Some(next) = reader.step() {
        if let Next::Record(record) = next {
            let _ = ize::op::decode(record.kind, record.version, record.body);
        }
    }
});

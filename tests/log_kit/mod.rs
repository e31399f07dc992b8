//! What tests of a log on a simulated disk share.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use ize::ids::{Lsn, StoreId};
use ize::storage::sim::SimDisk;
use ize::wal::for_each_record;

/// The bodies of all records but marks, by LSN.
pub fn bodies(disk: &SimDisk, dir: &Path, store: StoreId) -> BTreeMap<u64, Vec<u8>> {
    let mut found = BTreeMap::new();
    for_each_record(disk, dir, store, Lsn::ZERO, Lsn(u64::MAX), &mut |r, _| {
        if !r.is_mark() {
            found.insert(r.lsn.0, r.body.to_vec());
        }
        Ok(ControlFlow::Continue(()))
    })
    .unwrap();
    found
}

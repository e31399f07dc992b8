//! The write-ahead log: every operation is here before its program gets the answer.
//!
//! [`format`] knows the bytes, [`reader`] reads one segment and says how it ends, [`scan`] walks all of them; none of the three writes.
//! [`log`] appends, syncs and seals. [`recovery`] alone shortens a file, and keeps what it cuts. [`prune`] drops what is no longer
//! needed.
//!
//! `checkpoint <= durable <= appended`, always.

pub mod error;
pub mod format;
pub mod log;
pub mod prune;
pub mod reader;
pub mod recovery;
pub mod scan;
mod segment;
mod spare;

pub use error::{Result, WalError};
pub use log::{Appended, Batch, Log, Options, SyncHook};
pub use reader::Record;
pub use recovery::{RecoveryInput, RecoveryReport};
pub use scan::{Bounds, LogScan, for_each_record, scan};
pub use segment::Segment;

/// Number of segments in `dir` and the bytes that they take.
///
/// # Errors
/// An I/O error.
pub fn usage(storage: &dyn crate::storage::Storage, dir: &std::path::Path) -> Result<(u64, u64)> {
    let listing = |e| WalError::io(format!("cannot look at {}", dir.display()), e);
    let (mut count, mut bytes) = (0, 0);
    for name in storage.list(dir).map_err(listing)? {
        if format::segment_of_name(&name).is_none() {
            continue;
        }
        match storage.open_read(&dir.join(&name)).and_then(|f| f.len()) {
            Ok(len) => {
                count += 1;
                bytes += len;
            }
            // Pruned meanwhile.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(listing(e)),
        }
    }
    Ok((count, bytes))
}

//! Reads the records of a range of LSNs, beside a live writer too: what recovery, replay and history are made of.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::ids::{Lsn, SegmentId, StoreId};
use crate::storage::Storage;

use super::error::{Result, WalContext, WalError};
use super::format::{Header, HeaderFault, segment_path};
use super::reader::{Next, Record, SegmentReader};
use super::scan::{list, read_header, read_last, read_whole};
use super::segment::Segment;

/// Gets the records of a range; may stop early.
pub type Take<'a> = dyn FnMut(&Record<'_>, &Arc<Segment>) -> crate::error::Result<ControlFlow<()>> + 'a;

/// The oldest record that the log holds; `None` when it holds none.
///
/// # Errors
/// As [`for_each_record`].
pub fn first_lsn(storage: &dyn Storage, dir: &Path, store: StoreId) -> crate::error::Result<Option<Lsn>> {
    let mut first = None;
    for_each_record(storage, dir, store, Lsn::ZERO, Lsn(u64::MAX), &mut |record, _| {
        first = Some(record.lsn);
        Ok(ControlFlow::Break(()))
    })?;
    Ok(first)
}

/// Gives every record with an LSN from `from` to `to` to `f`, in order, and says the last LSN it saw (`from - 1` when none). `from`
/// `Lsn::ZERO` means from the oldest segment kept. `f` may stop early. Works beside a live writer: at the active end it stops quietly, but
/// everything appended before the call is seen. Damage below `from` does not matter here.
///
/// # Errors
/// Damage in the range, a segment of the range that is missing, an I/O error, or an error of `f`.
pub fn for_each_record(
    storage: &dyn Storage,
    dir: &Path,
    store: StoreId,
    from: Lsn,
    to: Lsn,
    f: &mut Take<'_>,
) -> crate::error::Result<Lsn> {
    let mut seen = Lsn(from.0.saturating_sub(1));
    // Segment to go on with, and whether it was already read to an open end.
    let mut next: Option<SegmentId> = None;
    loop {
        let (ids, _) = list(storage, dir)?;
        let todo: Vec<SegmentId> = ids.into_iter().filter(|id| next.is_none_or(|n| *id >= n)).collect();
        if next.is_none() {
            next = start(storage, dir, store, &todo, from)?;
        }
        let todo: Vec<SegmentId> = todo.into_iter().filter(|id| next.is_none_or(|n| *id >= n)).collect();
        let mut sealed = false;
        for (i, id) in todo.iter().enumerate() {
            if next.is_some_and(|n| n != *id) {
                let segment = next.unwrap_or_default();
                return Err(WalError::Missing { file: segment_path(dir, segment), segment, lsn: seen.next() }.into());
            }
            let path = segment_path(dir, *id);
            let (read, end) = one_segment(storage, path, store, *id, i + 1 < todo.len(), (seen, from, to), f)?;
            seen = seen.max(read);
            if seen >= to || end == SegmentEnd::Stopped {
                return Ok(seen.min(to));
            }
            sealed = end == SegmentEnd::Sealed;
            next = Some(if sealed { id.next() } else { *id });
        }
        // Rolled since the directory was listed: there may be more.
        let more = match next {
            Some(n) if sealed => list(storage, dir)?.0.contains(&n),
            Some(n) => list(storage, dir)?.0.iter().any(|id| *id > n),
            None => false,
        };
        if !more {
            return Ok(seen);
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SegmentEnd {
    Sealed,
    Open,
    Stopped,
}

/// The segment with which to begin for `from`: the last whose first LSN is not above it.
fn start(storage: &dyn Storage, dir: &Path, store: StoreId, ids: &[SegmentId], from: Lsn) -> Result<Option<SegmentId>> {
    if from == Lsn::ZERO {
        return Ok(ids.first().copied());
    }
    for id in ids.iter().rev() {
        let path = segment_path(dir, *id);
        let Some(header) = read_header(storage, &path, store, *id) else { continue };
        if header.first_lsn <= from {
            return Ok(Some(*id));
        }
        if header.prev.end_lsn < from {
            // Between two epochs there are no records.
            return Ok(Some(*id));
        }
    }
    match ids.first() {
        // A first segment with a damaged header may hold it; reading it decides.
        Some(id) if read_header(storage, &segment_path(dir, *id), store, *id).is_none() => Ok(Some(*id)),
        Some(id) => {
            let segment = SegmentId(id.0.saturating_sub(1));
            Err(WalError::Missing { file: segment_path(dir, segment), segment, lsn: from })
        }
        None => Ok(None),
    }
}

fn one_segment(
    storage: &dyn Storage,
    path: PathBuf,
    store: StoreId,
    id: SegmentId,
    followed: bool,
    (seen, from, to): (Lsn, Lsn, Lsn),
    f: &mut Take<'_>,
) -> crate::error::Result<(Lsn, SegmentEnd)> {
    let reading = || format!("cannot read {}", path.display());
    let file = storage.open_read(&path).wal(reading)?;
    let bound = if followed { Lsn(u64::MAX) } else { Lsn::ZERO };
    let bytes = if followed { read_whole(&file).wal(reading)? } else { read_last(&file, store, id, bound).wal(reading)? };
    let segment = Arc::new(Segment::new(id, file));
    let first = match Header::decode(&bytes, Some(store), id) {
        Ok(header) => Some(header.first_lsn),
        Err(HeaderFault::Unsupported(what)) => return Err(WalError::Unsupported { file: path, what }.into()),
        Err(HeaderFault::Damaged(_)) => None,
    };
    let mut reader = SegmentReader::new(&bytes, store, id, first, bound);
    let mut last = seen;
    while let Some(next) = reader.step() {
        match next {
            Next::Record(record) => {
                if record.lsn > to {
                    return Ok((last, SegmentEnd::Stopped));
                }
                if record.lsn > seen && record.lsn >= from {
                    last = record.lsn;
                    if f(&record, &segment)?.is_break() {
                        return Ok((last, SegmentEnd::Stopped));
                    }
                }
            }
            Next::Sealed(..) => return Ok((last, SegmentEnd::Sealed)),
            // A footer missing before a successor was found corrupt; here the end is that of the log.
            Next::End(..) | Next::TornTail(_) => return Ok((last, SegmentEnd::Open)),
            Next::Corrupt(c) => {
                if c.through.is_none_or(|t| t >= from && t > seen) {
                    return Err(WalError::Damage { file: path, offset: c.offset, lsn: c.lsn, what: c.what.into() }.into());
                }
            }
        }
    }
    Ok((last, SegmentEnd::Open))
}

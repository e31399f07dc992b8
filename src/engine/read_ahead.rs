//! Reads the log on a thread of its own, ahead of whoever works on it: to check and decode a record takes about as long as to apply it.

use std::ops::ControlFlow;
use std::sync::mpsc::sync_channel;

use super::core::{Core, Item, for_each_item};
use crate::error::Result;
use crate::ids::Lsn;

/// Records from which on that is done: for fewer, a thread is not begun.
const FROM: u64 = 4096;
/// Items that are handed over together.
const BATCH: usize = 256;
/// Batches that wait. Payloads are not in them, but the segments that hold these stay in memory meanwhile: one or two.
const WAITING: usize = 4;

/// As [`for_each_item`], which see; `take` works on this thread, in order, and what it says ends the reading.
///
/// # Errors
/// As [`for_each_item`], after everything before the damage was taken.
pub(super) fn for_each_item_ahead(core: &Core, range: (Lsn, Lsn), take: &mut dyn FnMut(Item) -> Result<()>) -> Result<Lsn> {
    if range.1.0.saturating_sub(range.0.0) < FROM {
        return for_each_item(&*core.storage, &core.layout, core.store, range, &mut |item| take(item).map(ControlFlow::Continue));
    }
    ahead(core, range, take)
}

fn ahead(core: &Core, range: (Lsn, Lsn), take: &mut dyn FnMut(Item) -> Result<()>) -> Result<Lsn> {
    let read = |each: &mut dyn FnMut(Item) -> Result<ControlFlow<()>>| for_each_item(&*core.storage, &core.layout, core.store, range, each);
    std::thread::scope(|scope| {
        let (batches, taken) = sync_channel::<Vec<Item>>(WAITING);
        let reading = std::thread::Builder::new().name("ize-replay-read".to_owned()).spawn_scoped(scope, move || {
            let mut batch = Vec::with_capacity(BATCH);
            let seen = read(&mut |item| {
                batch.push(item);
                if batch.len() < BATCH {
                    return Ok(ControlFlow::Continue(()));
                }
                let full = std::mem::replace(&mut batch, Vec::with_capacity(BATCH));
                // Nobody listens any more: who worked on them has failed, and says why.
                Ok(if batches.send(full).is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
            });
            // Also before damage.
            let _ = batches.send(batch);
            seen
        });
        let Ok(reading) = reading else { return read(&mut |item| take(item).map(ControlFlow::Continue)) };
        // Consumed, so that the other thread ends when this one fails.
        taken.into_iter().flatten().try_for_each(take)?;
        reading.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::engine::tests::open;
    use crate::error::{Class, Error};
    use crate::fs::journal::Caller;
    use crate::ids::Ino;
    use crate::storage::sim::SimDisk;

    /// What is to be told of an item.
    fn told(item: Item) -> (Lsn, Vec<u8>) {
        match item {
            Item::Operation { lsn, entry, payload, .. } => {
                let mut bytes = vec![0; if payload.is_some() { 3 } else { 0 }];
                payload.inspect(|(log, at)| log.read_at(&mut bytes, *at).unwrap());
                (lsn, [format!("{entry:?}").into_bytes(), bytes].concat())
            }
            Item::Process(process) => (Lsn::ZERO, format!("{process:?}").into_bytes()),
        }
    }

    #[test]
    fn what_is_read_ahead_is_what_is_read_in_order_up_to_an_error_of_either_side() {
        let disk = SimDisk::new();
        let core = open(&disk, true, true).unwrap();
        let caller = Caller::default();
        for n in 0..BATCH * (WAITING + 2) {
            let ino = core.fs.create(&caller, Ino::ROOT, format!("{n}").as_bytes(), 0o644, true).unwrap().ino;
            core.fs.write(&caller, ino, 0, format!("{n:03}").as_bytes(), false).unwrap();
        }
        core.log.seal().unwrap();
        let range = (Lsn(1), core.log.durable());
        let mut plain = Vec::new();
        let seen = for_each_item(&*core.storage, &core.layout, core.store, range, &mut |item| {
            plain.push(told(item));
            Ok(ControlFlow::Continue(()))
        })
        .unwrap();
        let read = |most: usize| {
            let items = Mutex::new(Vec::new());
            let seen = ahead(&core, range, &mut |item| {
                let mut items = items.lock().unwrap();
                if items.len() == most {
                    return Err(Error::new(Class::Failed, "enough"));
                }
                items.push(told(item));
                Ok(())
            });
            (seen, items.into_inner().unwrap())
        };
        let (ended, items) = read(usize::MAX);
        assert_eq!(ended.unwrap(), seen);
        assert!(items == plain && items.len() > 2 * BATCH * (WAITING + 2));
        for most in [0, 1, BATCH, BATCH * (WAITING + 1) + 7] {
            let (ended, items) = read(most);
            assert_eq!(ended.unwrap_err().message, "enough");
            assert!(items == plain[..most]);
        }
        // Damage in the middle: all before it is taken.
        let wal = core.layout.wal();
        let names = disk.shared().list(&wal).unwrap();
        let mut segments: Vec<_> = names.into_iter().filter(|name| crate::wal::format::segment_of_name(name).is_some()).collect();
        segments.sort();
        let file = wal.join(&segments[0]);
        let mut byte = [0];
        let storage = disk.shared();
        let segment = storage.open(&file).unwrap();
        let middle = segment.len().unwrap() / 2;
        segment.read_exact_at(&mut byte, middle).unwrap();
        segment.write_at(&[&[!byte[0]]], middle).unwrap();
        let (ended, items) = read(usize::MAX);
        assert_eq!(ended.unwrap_err().class, Class::Damage);
        assert!(items.len() > BATCH && items.len() < plain.len() && items == plain[..items.len()]);
    }
}

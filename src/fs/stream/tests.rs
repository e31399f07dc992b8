//! Streams against a file of bytes, whatever comes between their writes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::super::journal::{Chunks, Journal, JournalError, Recorded, Space};
use super::super::testing::{MemoryJournal, memory_fs};
use super::*;
use crate::fs::SetAttributes;
use crate::ids::{BlobId, Lsn, Time};
use crate::tree::{BlobRead, Tree};

const ROOT: Caller = Caller { pid: 0, uid: 0, gid: 0 };

fn noise(rng: &mut StdRng, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    rng.fill(bytes.as_mut_slice());
    bytes
}

fn put(model: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    model.resize(model.len().max(at + bytes.len()), 0);
    model[at..at + bytes.len()].copy_from_slice(bytes);
}

fn whole(fs: &Fs, ino: Ino) -> Vec<u8> {
    fs.read(ino, 0, 1 << 30).unwrap()
}

#[test]
fn a_stream_reads_as_it_was_written_whatever_comes_between() {
    for seed in 0..6 {
        let (fs, journal) = memory_fs().unwrap();
        let mut rng = StdRng::seed_from_u64(seed);
        let ino = fs.create(&ROOT, Ino::ROOT, b"f", 0o644, true).unwrap().ino;
        let other = fs.create(&ROOT, Ino::ROOT, b"g", 0o644, true).unwrap().ino;
        let (mut model, mut next) = (Vec::new(), 0usize);
        for step in 0..40 {
            let lens = [WRITE_MIN, 300_000, 1 << 20, rng.random_range(WRITE_MIN..1 << 20), rng.random_range(1..WRITE_MIN)];
            let len = lens[rng.random_range(0..lens.len())];
            // Runs of zeros make the longest chunks.
            let bytes = if rng.random_range(0..6) == 0 { vec![0; len] } else { noise(&mut rng, len) };
            fs.write(&ROOT, ino, next as u64, &bytes, false).unwrap();
            put(&mut model, next, &bytes);
            next += len;
            let at = next.saturating_sub(rng.random_range(0..400_000));
            let few = noise(&mut rng, 1000);
            let what = rng.random_range(0..24);
            match what {
                0 => {
                    fs.write(&ROOT, ino, at as u64, &few, false).unwrap();
                    put(&mut model, at, &few);
                }
                1 => {
                    let size = SetAttributes { size: Some(at as u64), ..SetAttributes::default() };
                    fs.setattr(&ROOT, ino, &size).unwrap();
                    model.truncate(at);
                }
                2 => {
                    let len = 10_000.min(next - at);
                    if len > 0 {
                        let how = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
                        fs.fallocate(&ROOT, ino, at as u64, len as u64, how).unwrap();
                        let end = (at + len).min(model.len());
                        model.get_mut(at..end).unwrap_or_default().fill(0);
                    }
                }
                3 => {
                    fs.write(&ROOT, other, 0, &few, false).unwrap();
                    fs.copy_range(&ROOT, (other, 0), (ino, at as u64), 1000).unwrap();
                    put(&mut model, at, &few);
                }
                4 => next = model.len(),
                5 => _ = fs.setattr(&ROOT, ino, &SetAttributes { mode: Some(0o600 + step), ..SetAttributes::default() }).unwrap(),
                _ => {}
            }
            // Reading all of it takes long.
            assert!((what > 5 && step % 8 > 0) || whole(&fs, ino) == model, "seed {seed} step {step}");
        }
        assert!(whole(&fs, ino) == model, "seed {seed}");
        let mut tree: Tree = journal.replayed().unwrap();
        let plan = tree.read_plan(ino, 0, 1 << 30).unwrap();
        let mut bytes = vec![0; usize::try_from(plan.len()).unwrap()];
        plan.read(&*(journal.blobs() as Arc<dyn BlobRead>), &mut bytes).unwrap();
        assert!(bytes == model, "seed {seed}: replayed");
    }
}

/// Writes 16 MiB from front to back, by such lengths: but for the first and the last, the chunks are those of a commit.
fn are_those_of_a_commit(mut next: impl FnMut(&mut StdRng) -> usize) {
    let (fs, journal) = memory_fs().unwrap();
    let mut rng = StdRng::seed_from_u64(3);
    let bytes = noise(&mut rng, 16 << 20);
    let ino = fs.create(&ROOT, Ino::ROOT, b"f", 0o644, true).unwrap().ino;
    let mut at = 0;
    while at < bytes.len() {
        let len = next(&mut rng).min(bytes.len() - at);
        fs.write(&ROOT, ino, at as u64, &bytes[at..at + len], false).unwrap();
        at += len;
    }
    let (mut at, mut found, mut all) = (0, 0, 0);
    while at < bytes.len() {
        let end = (at + chunker::MAX).min(bytes.len());
        let len = chunker::next_cut(&bytes[at..end], end == bytes.len());
        if at > usize::try_from(CUT_FROM).unwrap() + chunker::MAX {
            all += 1;
            found += usize::from(journal.blobs().get(&BlobId::of(&bytes[at..at + len])).is_ok());
        }
        at += len;
    }
    // The file's end is logged as it is, and the first cut of all is a matter of where it began.
    assert!(all > 100 && found + 12 >= all, "{found} of {all}");
}

#[test]
fn chunks_are_those_of_a_commit_from_the_first_end_on_that_both_find() {
    are_those_of_a_commit(|rng| rng.random_range(WRITE_MIN..1 << 20));
}

#[test]
fn a_stream_that_does_not_begin_on_a_page_is_cut_like_any_other() {
    // What the kernel makes of `(printf x; cat large) > file`.
    let mut short = false;
    are_those_of_a_commit(|_| {
        short = !short;
        if short { 4095 } else { 131_072 - 4095 }
    });
}

/// Stores chunks only after somebody else has changed the file.
struct Raced {
    journal: Arc<MemoryJournal>,
    meanwhile: Mutex<Option<Box<dyn FnOnce() + Send>>>,
    refuses: AtomicBool,
}

impl Journal for Raced {
    fn record(&self, caller: &Caller, op: Operation, payload: Option<&[u8]>, link: Option<Lsn>) -> Result<Recorded, JournalError> {
        self.journal.record(caller, op, payload, link)
    }
    fn put_blob(&self, bytes: &[u8]) -> Result<BlobId, JournalError> {
        self.journal.put_blob(bytes)
    }
    fn put_chunks<'b>(&self, bytes: usize, next: &mut dyn FnMut() -> Option<&'b [u8]>) -> Result<Chunks<'_>, JournalError> {
        let meanwhile = self.meanwhile.lock().unwrap().take();
        if let Some(meanwhile) = meanwhile {
            meanwhile();
        }
        if self.refuses.swap(false, Ordering::SeqCst) {
            return Err(JournalError::Full("full".to_owned()));
        }
        self.journal.put_chunks(bytes, next)
    }
    fn sync(&self) -> Result<(), JournalError> {
        self.journal.sync()
    }
    fn space(&self) -> Space {
        self.journal.space()
    }
}

#[test]
fn what_changes_the_file_while_its_chunks_are_stored_is_not_undone_and_a_refusal_writes_nothing() {
    let journal = Arc::new(MemoryJournal::default());
    let raced = Arc::new(Raced { journal: Arc::clone(&journal), meanwhile: Mutex::default(), refuses: AtomicBool::new(false) });
    let tree = Tree::open(journal.blobs(), None, Ino(2), Lsn::ZERO, Time::default()).unwrap();
    let fs = Arc::new(Fs::new(tree, Arc::clone(&raced) as _));
    fs.locked().log(&ROOT, crate::op::Mark { marker: crate::op::Marker::Unmount }.into(), None, None).unwrap();
    let ino = fs.create(&ROOT, Ino::ROOT, b"f", 0o644, true).unwrap().ino;
    let mut rng = StdRng::seed_from_u64(5);
    let (mut model, mut at) = (Vec::new(), 0);
    for step in 0..60 {
        let bytes = noise(&mut rng, 400_000);
        let before = model.clone();
        if step % 7 == 3 {
            // In the bytes that were logged before and stand at the front of the next chunk.
            let back = at - rng.random_range(1..60_000usize).min(at);
            let few = noise(&mut rng, 100);
            put(&mut model, back, &few);
            let fs = Arc::clone(&fs);
            *raced.meanwhile.lock().unwrap() = Some(Box::new(move || _ = fs.write(&ROOT, ino, back as u64, &few, false).unwrap()));
        }
        let refused = step % 11 == 5 && at as u64 > CUT_FROM && raced.meanwhile.lock().unwrap().is_none();
        raced.refuses.store(refused, Ordering::SeqCst);
        let done = fs.write(&ROOT, ino, at as u64, &bytes, false);
        if refused && done.is_err() {
            assert!(whole(&fs, ino) == before, "step {step}: nothing was written");
            fs.write(&ROOT, ino, at as u64, &bytes, false).unwrap();
        } else {
            done.unwrap();
        }
        raced.refuses.store(false, Ordering::SeqCst);
        if raced.meanwhile.lock().unwrap().take().is_some() {
            // This write was none that is cut.
            model = before;
        }
        put(&mut model, at, &bytes);
        at += bytes.len();
        assert!(whole(&fs, ino) == model, "step {step}");
    }
    assert!(at as u64 > 4 * CUT_FROM);
}

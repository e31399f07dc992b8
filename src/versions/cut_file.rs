//! A changed file becomes chunks: those of the base that no change touches are kept, the rest is read, cut, hashed, compressed and stored, some
//! MiB at a time, on two CPUs where there is much of it. No file is in memory whole.

use std::ops::Range;
use std::sync::Arc;

use super::chunker;
use super::node::Piece;
use super::piece_tree::{Builder, Built};
use crate::ids::{BlobId, Ino};
use crate::tree::{Above, BlobRead, BlobWrite, Body, Cut, Source, Tree, TreeError};

/// Shorter runs of zeros are stored as bytes.
const HOLE_MIN: u64 = 64 * 1024;
/// Bytes that are read at first, where a change may be small. Doubled while there is more.
const WINDOW_MIN: u64 = chunker::MAX as u64;
/// Bytes that are read at once at most.
const WINDOW_MAX: u64 = 4 << 20;
/// With fewer bytes to store than this a second thread is not worth its start (some 20 us).
const SPLIT_FROM: usize = 512 << 10;

/// A part of the file in memory.
#[derive(Debug)]
struct Window {
    /// Where it begins and ends in the file.
    range: Range<u64>,
    bytes: Vec<u8>,
    /// What of it is stored nowhere.
    holes: Vec<Range<u64>>,
    /// How much to read the next time.
    next: u64,
}

impl Window {
    fn new() -> Self {
        Self { range: 0..0, bytes: Vec::new(), holes: Vec::new(), next: WINDOW_MIN }
    }

    /// Is there enough behind `at` to find the next cut?
    fn covers(&self, at: u64, size: u64) -> bool {
        self.range.start <= at && at < self.range.end && (self.range.end == size || at + chunker::MAX as u64 <= self.range.end)
    }

    fn fill(&mut self, tree: &mut Tree, blobs: &dyn BlobRead, ino: Ino, at: u64) -> Result<(), TreeError> {
        // Reading on from where the last window ended, but for what was left to find a cut in.
        let goes_on = self.range.start < at && at <= self.range.end && self.range.end - at <= chunker::MAX as u64;
        self.next = if goes_on { (self.next * 2).min(WINDOW_MAX) } else { WINDOW_MIN };
        let plan = tree.read_plan(ino, at, self.next)?;
        self.range = at..at + plan.len();
        self.bytes.resize(usize::try_from(plan.len()).unwrap_or_default(), 0);
        plan.read(blobs, &mut self.bytes)?;
        self.holes.clear();
        let mut start = at;
        for (len, source) in plan.parts() {
            if matches!(source, Source::Hole) {
                match self.holes.last_mut() {
                    Some(last) if last.end == start => last.end += len,
                    _ => self.holes.push(start..start + len),
                }
            }
            start += len;
        }
        Ok(())
    }

    /// Bytes from `at` on that are stored nowhere.
    fn hole(&self, at: u64) -> u64 {
        let index = self.holes.partition_point(|hole| hole.end <= at);
        self.holes.get(index).filter(|hole| hole.start <= at).map_or(0, |hole| hole.end - at)
    }

    /// The bytes from `at` on, as many as a chunk may have.
    fn chunk_space(&self, at: u64) -> (&[u8], usize) {
        let start = usize::try_from(at - self.range.start).unwrap_or_default();
        let end = self.bytes.len().min(start + chunker::MAX);
        (self.bytes.get(start..end).unwrap_or_default(), start)
    }
}

/// Two parts of as many bytes each, in order; the second is empty where there is too little for two CPUs.
fn halves<T>(items: &[T], bytes: impl Fn(&T) -> usize) -> (&[T], &[T]) {
    let total: usize = items.iter().map(&bytes).sum();
    let mut half = 0;
    let middle = items.iter().position(|item| {
        half += bytes(item);
        half > total / 2
    });
    items.split_at(middle.filter(|_| total >= SPLIT_FROM).unwrap_or(items.len()))
}

/// Works on items of so many bytes each, on two CPUs where there are many bytes: each half in order, the first half's results first.
fn in_two<T: Sync, R: Send, E: Send>(
    items: &[T],
    bytes: impl Fn(&T) -> usize,
    work: impl Fn(&[T]) -> Result<Vec<R>, E> + Sync,
) -> Result<Vec<R>, E> {
    let (front, back) = halves(items, bytes);
    if back.is_empty() {
        return work(front);
    }
    // A thread of its own has the priority of this one; one of a pool has that of whoever made the pool.
    std::thread::scope(|scope| {
        let other = std::thread::Builder::new().spawn_scoped(scope, || work(back));
        let mut done = work(front)?;
        done.extend(match other {
            Ok(other) => other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?,
            // No thread is to be had, because of a limit for example: one after the other, then.
            Err(_) => work(back)?,
        });
        Ok(done)
    })
}

/// What a file was cut into so far.
struct Cutting<'a> {
    blobs: &'a dyn BlobWrite,
    built: Builder<'a>,
    /// Behind that: pieces of which some are not stored yet.
    pieces: Vec<Piece>,
    /// Those that are not: which piece each is, and where it stands in the window.
    pending: Vec<(usize, Range<usize>)>,
}

impl<'a> Cutting<'a> {
    fn new(blobs: &'a dyn BlobWrite) -> Self {
        Self { blobs, built: Builder::new(blobs), pieces: Vec::new(), pending: Vec::new() }
    }

    /// Adds a piece that is stored.
    fn keep(&mut self, piece: Piece) -> Result<(), TreeError> {
        if self.pending.is_empty() {
            return self.built.push(piece);
        }
        self.pieces.push(piece);
        Ok(())
    }

    /// Adds a chunk that is this range of the window.
    fn cut(&mut self, range: Range<usize>) {
        let len = u32::try_from(range.len()).unwrap_or(u32::MAX);
        self.pending.push((self.pieces.len(), range));
        // Its name follows when it is stored.
        self.pieces.push(Piece::Chunk { id: BlobId([0; 32]), len });
    }

    /// Stores what is to be stored.
    fn store(&mut self, window: &Window) -> Result<(), TreeError> {
        let blobs = self.blobs;
        let put = |chunks: &[(usize, Range<usize>)]| -> Result<Vec<BlobId>, TreeError> {
            chunks.iter().map(|(_, range)| blobs.put(window.bytes.get(range.clone()).unwrap_or_default())).collect()
        };
        let ids = in_two(&self.pending, |(_, range)| range.len(), put)?;
        for ((index, _), new) in self.pending.drain(..).zip(ids) {
            if let Some(Piece::Chunk { id, .. }) = self.pieces.get_mut(index) {
                *id = new;
            }
        }
        self.pieces.drain(..).try_for_each(|piece| self.built.push(piece))
    }

    /// Adds a page or list of pages as it stood in the base, if one may begin here.
    fn take(&mut self, window: &Window, above: &Above) -> Result<bool, TreeError> {
        self.store(window)?;
        let begins = self.built.begins(above.height);
        if begins {
            self.built.take(above.height, above.part)?;
        }
        Ok(begins)
    }
}

impl Tree {
    /// Cuts a changed file into pieces and stores the new ones, and the new pages of pieces. Gives where they are and the number of bytes that
    /// were read. Pages of the base that no change touches are neither read nor stored.
    ///
    /// # Errors
    /// When something cannot be read or stored.
    pub(super) fn cut_file(&mut self, ino: Ino, blobs: &dyn BlobWrite) -> Result<(Built, u64), TreeError> {
        let size = self.inode(ino)?.size;
        let reader: Arc<dyn BlobRead> = Arc::clone(self.blobs());
        let (changed, old_end) = self.file_base(ino)?;
        let (mut cutting, mut window) = (Cutting::new(blobs), Window::new());
        let mut chunked = 0;
        let mut at = 0u64;
        while at < size {
            // What the base has here and nothing touches is kept, but for the end of a file whose end moved: it may have been cut by the end alone.
            let kept = |len: u64| {
                let end = at.saturating_add(len);
                end <= size && (end < old_end || size == old_end) && !touched(&changed, at, len)
            };
            if at < old_end && kept(1) {
                let (mut taken, mut below) = (0, u8::MAX);
                while let Some(above) = self.base_part(ino, at, below)? {
                    if kept(above.part.len) && cutting.take(&window, &above)? {
                        taken = above.part.len;
                        break;
                    }
                    below = above.height;
                }
                if taken > 0 {
                    at += taken;
                    continue;
                }
                if let Some(piece) = self.base_piece(ino, at)?.filter(|piece| kept(piece.len())) {
                    cutting.keep(piece)?;
                    at += piece.len();
                    continue;
                }
            }
            if let Some(piece) = self.known_piece(blobs, ino, at, size)? {
                cutting.keep(piece)?;
                at += piece.len();
                continue;
            }
            if !window.covers(at, size) {
                cutting.store(&window)?;
                window.fill(self, &*reader, ino, at)?;
            }
            let space = (size - at).min(chunker::MAX as u64);
            let hole = window.hole(at).min(space);
            if hole >= HOLE_MIN || hole == space {
                // Holes are found through the plan: as long a one as there is.
                let hole = self.hole_at(ino, at, size)?;
                if hole >= HOLE_MIN || at + hole == size {
                    cutting.keep(Piece::Hole { len: hole })?;
                    at += hole;
                    continue;
                }
            }
            let (bytes, start) = window.chunk_space(at);
            let len = chunker::next_cut(bytes, at + bytes.len() as u64 == size);
            cutting.cut(start..start + len);
            chunked += len as u64;
            at += len as u64;
        }
        cutting.store(&window)?;
        Ok((cutting.built.finish()?, chunked))
    }

    /// The chunk that stands at `at` and was cut and stored before it was logged: it is what reading and cutting would come to.
    fn known_piece(&mut self, blobs: &dyn BlobWrite, ino: Ino, at: u64, size: u64) -> Result<Option<Piece>, TreeError> {
        let Body::File(file) = &self.inode(ino)?.body else { return Ok(None) };
        let Some((id, there)) = file.blob_at(at) else { return Ok(None) };
        let Some((cut, len)) = blobs.known_cut(&id).filter(|(_, len)| u64::from(*len) == there) else { return Ok(None) };
        let same = match cut {
            // A short rest of a file is one chunk, whatever its bytes say.
            Cut::Bytes => size - at > chunker::AVERAGE as u64 && at + there <= size,
            Cut::End => at + there == size,
            Cut::Whole => at + there <= size,
        };
        Ok(same.then_some(Piece::Chunk { id, len }))
    }
}

fn touched(changed: &[(u64, u64)], at: u64, len: u64) -> bool {
    let i = changed.partition_point(|(start, l)| start + l <= at);
    changed.get(i).is_some_and(|(start, _)| *start < at + len)
}

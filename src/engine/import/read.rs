//! Reading the source: small things in batches, large files window by window, cut into chunks.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{OFlags, SeekFrom};
use rustix::io::Errno;

use super::walk::trouble_of;
use super::{WINDOW, WINDOWS};
use crate::blobs::{BlobError, Encoding, Hold};
use crate::engine::core::Core;
use crate::engine::outside::{self, Handle, Meta, Problems, Trouble};
use crate::ids::BlobId;
use crate::op::BLOB_THRESHOLD;
use crate::tree::Cut;
use crate::versions::chunker;
use crate::versions::node::{FileKind, Xattrs};

/// Bytes of a file that was small when it was looked at, and has grown since, that are taken at most.
const GROWN_MAX: u64 = 4 << 20;

/// Buffers of windows that are stored: giving memory back and taking it anew costs as much as reading.
#[derive(Debug, Default)]
pub(super) struct Spare(Mutex<Vec<Vec<u8>>>);

impl Spare {
    fn take(&self) -> Vec<u8> {
        let spare = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        spare.unwrap_or_else(|| Vec::with_capacity(WINDOW + chunker::MAX))
    }

    fn give(&self, mut bytes: Vec<u8>) {
        bytes.clear();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // As many as can be wanted at a time.
        if all.len() < WINDOWS {
            all.push(bytes);
        }
    }
}

/// Something to take.
#[derive(Debug)]
pub(super) struct Item {
    /// Its name; empty for the root.
    pub(super) name: Vec<u8>,
    /// Its path from the root.
    pub(super) path: Vec<u8>,
    /// What the walk saw.
    pub(super) meta: Meta,
    /// What is to be done.
    pub(super) what: What,
}

/// What is to be done with an item.
#[derive(Debug)]
pub(super) enum What {
    /// A directory begins; this is itself.
    Enter(Arc<OwnedFd>),
    /// It ends; the names in it.
    Leave(Arc<OwnedFd>, Option<Vec<Vec<u8>>>),
    /// A file, a symbolic link, anything special, in this directory.
    Take(Arc<OwnedFd>),
    /// What no directory has.
    #[cfg_attr(not(feature = "pijul"), expect(dead_code, reason = "only a Pijul repository gives"))]
    Given(Box<Given>),
    /// It is there already.
    Keep,
    /// One more name of what was taken before.
    Link,
}

/// What somebody else than a directory gives.
pub(super) struct Given {
    pub(super) xattrs: Xattrs,
    pub(super) body: GivenBody,
}

/// What that is.
#[cfg_attr(not(feature = "pijul"), expect(dead_code, reason = "only a Pijul repository gives"))]
pub(super) enum GivenBody {
    Enter,
    Leave(Option<Vec<Vec<u8>>>),
    File(Box<dyn GivenFile>),
    Symlink(Vec<u8>),
    Special,
}

/// The bytes of a file that is given.
pub(super) trait GivenFile: Send {
    /// Where it has bytes, in order; what lies between is a hole.
    fn ranges(&self) -> Vec<(u64, u64)>;
    /// The bytes of such a range.
    fn open(&self, start: u64, end: u64) -> Box<dyn Read + '_>;
}

impl std::fmt::Debug for Given {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Given").field("xattrs", &self.xattrs).finish_non_exhaustive()
    }
}

/// An item that has been read.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) name: Vec<u8>,
    pub(super) path: Vec<u8>,
    pub(super) meta: Meta,
    pub(super) xattrs: Xattrs,
    pub(super) body: TakenBody,
}

/// What an item turned out to be.
#[derive(Debug)]
pub(super) enum TakenBody {
    Enter,
    Leave(Option<Vec<Vec<u8>>>),
    /// Bytes, and the ranges of them that are no holes.
    File(Vec<u8>, Vec<(usize, usize)>),
    /// All bytes of a file, as the one chunk that they are in the store, and how many.
    Stored(BlobId, u32),
    Symlink(Vec<u8>),
    Special,
    Keep,
    Link,
}

/// A part of a large file.
#[derive(Debug)]
pub(super) enum Part<'a> {
    /// It begins, for the second time when it changed while it was read.
    Begin(Meta, Xattrs),
    /// Few bytes between holes.
    Inline(u64, Vec<u8>),
    /// A window that is being stored.
    Window(Receiver<Result<Stored<'a>, BlobError>>),
    /// It ends, so long.
    End(u64),
    /// It cannot be read.
    Failed(Trouble, String),
}

/// A window that is stored. As long as this lives, no sweep begins: it is kept until the records that name the chunks are logged.
#[derive(Debug)]
pub(super) struct Stored<'a> {
    pub(super) chunks: Vec<(u64, BlobId, u32)>,
    _hold: Hold<'a>,
}

/// Bytes to be stored.
pub(super) struct Window<'a> {
    offset: u64,
    bytes: Vec<u8>,
    cuts: Vec<(usize, Cut)>,
    answer: SyncSender<Result<Stored<'a>, BlobError>>,
}

/// Small things that have been read. As long as this lives, no sweep begins, as with [`Stored`].
pub(super) struct Batch<'a> {
    pub(super) items: Vec<Taken>,
    _hold: Hold<'a>,
}

/// What the logging thread takes, in order.
pub(super) enum Job<'a> {
    Batch(Receiver<Batch<'a>>),
    Large(Vec<u8>, Vec<u8>, Receiver<Part<'a>>),
}

/// What a reading thread does.
pub(super) enum Task<'a> {
    Batch(Vec<Item>, SyncSender<Batch<'a>>),
    Large(Item, SyncSender<Part<'a>>),
}

/// Nobody wants it any more.
struct Over;

impl<T> From<std::sync::mpsc::SendError<T>> for Over {
    fn from(_: std::sync::mpsc::SendError<T>) -> Self {
        Over
    }
}

/// Does a task.
pub(super) fn read<'a>(core: &'a Core, task: Task<'a>, windows: &SyncSender<Window<'a>>, spare: &Spare, problems: &Problems) {
    match task {
        Task::Batch(items, to) => {
            // One that fails is missing, and named.
            let mut items: Vec<Taken> = items.into_iter().filter_map(|item| take(item, problems)).collect();
            let hold = core.blobs.hold();
            store_small(core, &mut items);
            // Nobody is told when nobody listens.
            let _ = to.send(Batch { items, _hold: hold });
        }
        Task::Large(item, to) => {
            // Over: the other end has stopped, and says why.
            let _ = Large { item, to, windows, spare, problems }.read();
        }
    }
}

/// Stores a window's chunks.
///
/// The hold is what keeps a sweep from dropping them before their records are there: it begins before the first put, and ends after the last
/// record. After a crash there is no hold and, for some chunks, no record: then nobody needs them, and the next sweep may drop them; a
/// second import that finds them still there names them. That records never become durable before the chunks they name is the log's
/// affair: it syncs the packs first, and all were put before they were logged.
pub(super) fn store<'a>(core: &'a Core, window: Window<'a>, spare: &Spare) {
    let hold = core.blobs.hold();
    let Window { offset, bytes, cuts, answer } = window;
    let mut chunks = Vec::with_capacity(cuts.len());
    let mut at = 0;
    let mut put = || {
        for (len, cut) in &cuts {
            let chunk = bytes.get(at..at + len).unwrap_or_default();
            let id = core.blobs.put(chunk, Encoding::Compress)?;
            let len = u32::try_from(chunk.len()).unwrap_or(u32::MAX);
            core.cuts.note(id, *cut, len);
            chunks.push((offset + at as u64, id, len));
            at += chunk.len();
        }
        Ok(())
    };
    let done = put();
    spare.give(bytes);
    let _ = answer.send(done.map(|()| Stored { chunks, _hold: hold }));
}

/// Stores what replay would store as one chunk: there is one thread that replays, and there are several here.
fn store_small(core: &Core, items: &mut [Taken]) {
    let is_one = |bytes: &[u8], ranges: &[(usize, usize)]| ranges == [(0, bytes.len())] && (1..=chunker::AVERAGE).contains(&bytes.len());
    let mut bodies: Vec<&mut TakenBody> = items
        .iter_mut()
        .map(|item| &mut item.body)
        .filter(|body| matches!(body, TakenBody::File(bytes, ranges) if is_one(bytes, ranges)))
        .collect();
    let files: Vec<&[u8]> = bodies.iter().map(|body| if let TakenBody::File(bytes, _) = body { bytes.as_slice() } else { &[] }).collect();
    let mut files = files.into_iter();
    // All by this thread: there is another one that does the same.
    let ids = match core.blobs.put_as_found(0, &mut || files.next(), Encoding::Compress) {
        Ok(ids) => ids,
        // They are logged with their bytes then, or whoever tries that says what is wrong.
        Err(why) => return tracing::debug!(%why, "small files are not stored before they are logged"),
    };
    for (body, id) in bodies.iter_mut().zip(ids) {
        if let TakenBody::File(bytes, _) = body {
            let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            core.cuts.note(id, Cut::End, len);
            **body = TakenBody::Stored(id, len);
        }
    }
}

fn said(e: Errno) -> std::io::Error {
    e.into()
}

/// Reads a small thing, or only looks at it; `None` when that cannot be done.
fn take(item: Item, problems: &Problems) -> Option<Taken> {
    let Item { name, path, mut meta, what } = item;
    let mut found = Xattrs::new();
    let body = match what {
        What::Enter(fd) => {
            found = xattrs(&Handle::Open(&fd), &path, problems);
            TakenBody::Enter
        }
        What::Leave(fd, names) => {
            if Meta::of_open(&fd).is_ok_and(|now| now.changed_since(&meta)) {
                problems.add(Trouble::Changed, &path, "names came or went while the directory was read");
            }
            TakenBody::Leave(names)
        }
        What::Keep => TakenBody::Keep,
        What::Link => TakenBody::Link,
        What::Given(given) => {
            found = given.xattrs;
            match given.body {
                GivenBody::Enter => TakenBody::Enter,
                GivenBody::Leave(names) => TakenBody::Leave(names),
                GivenBody::Symlink(target) => TakenBody::Symlink(target),
                GivenBody::Special => TakenBody::Special,
                GivenBody::File(file) => match small_given(&*file, meta.size) {
                    Ok(body) => body,
                    Err(e) => {
                        problems.add(Trouble::Missing, &path, format!("cannot read it: {e}"));
                        return None;
                    }
                },
            }
        }
        What::Take(dir) => {
            let read = match meta.kind {
                FileKind::File => small(&dir, &name, &path, &mut meta, &mut found, problems),
                FileKind::Symlink => {
                    found = xattrs(&Handle::Path(outside::path_at(&dir, &name)), &path, problems);
                    rustix::fs::readlinkat(&dir, name.as_slice(), Vec::new()).map(|target| TakenBody::Symlink(target.into_bytes()))
                }
                _ => {
                    found = xattrs(&Handle::Path(outside::path_at(&dir, &name)), &path, problems);
                    Ok(TakenBody::Special)
                }
            };
            match read {
                Ok(body) => body,
                Err(e) => {
                    problems.add(trouble_of(e), &path, format!("cannot read it: {}", said(e)));
                    return None;
                }
            }
        }
    };
    Some(Taken { name, path, meta, xattrs: found, body })
}

fn xattrs(of: &Handle<'_>, path: &[u8], problems: &Problems) -> Xattrs {
    match outside::xattrs(of) {
        Ok((found, missed)) => {
            for (name, e) in missed {
                let why = format!("cannot read its attribute {}: {}", name.escape_ascii(), said(e));
                problems.add(Trouble::Attribute, path, why);
            }
            found
        }
        Err(e) => {
            problems.add(Trouble::Attribute, path, format!("cannot list its extended attributes: {}", said(e)));
            Xattrs::new()
        }
    }
}

/// Opens a regular file, as what it is now.
fn open(dir: &OwnedFd, name: &[u8]) -> Result<(OwnedFd, Meta), Errno> {
    let fd = outside::open_quietly(dir, name, OFlags::empty())?;
    let meta = Meta::of_open(&fd)?;
    // It was one when it was looked at.
    if meta.kind == FileKind::File { Ok((fd, meta)) } else { Err(Errno::NOENT) }
}

/// Where data begins and ends, from `at` on; `None` when only a hole is left.
fn data_from(fd: &OwnedFd, at: u64, size: u64) -> Result<Option<(u64, u64)>, Errno> {
    let start = match rustix::fs::seek(fd, SeekFrom::Data(at)) {
        Err(Errno::NXIO) => return Ok(None),
        // A file system that knows of no holes has none.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some((at, size))),
        other => other?,
    };
    if start >= size {
        return Ok(None);
    }
    let end = rustix::fs::seek(fd, SeekFrom::Hole(start))?;
    Ok(Some((start, end.min(size))))
}

fn small(dir: &OwnedFd, name: &[u8], path: &[u8], meta: &mut Meta, found: &mut Xattrs, problems: &Problems) -> Result<TakenBody, Errno> {
    let mut again = true;
    loop {
        let (fd, before) = open(dir, name)?;
        *found = xattrs(&Handle::Open(&fd), path, problems);
        let size = before.size.min(GROWN_MAX);
        let mut ranges = Vec::new();
        if before.blocks.saturating_mul(512) < size {
            let mut at = 0;
            while let Some((start, end)) = data_from(&fd, at, size)? {
                ranges.push((start as usize, end as usize));
                at = end;
            }
        } else if size > 0 {
            ranges.push((0, size as usize));
        }
        let file = File::from(fd);
        let mut bytes = vec![0; size as usize];
        let mut len = 0;
        while len < bytes.len() {
            match file.read_at(&mut bytes[len..], len as u64) {
                Ok(0) => break,
                Ok(n) => len += n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error)),
            }
        }
        let changed = len < bytes.len() || size < before.size || Meta::of_open(&file)?.changed_since(&before);
        if changed && std::mem::take(&mut again) {
            continue;
        }
        if changed {
            problems.add(Trouble::Changed, path, "it changed while it was read, twice: what was read may be a mixture");
        }
        bytes.truncate(len);
        ranges.iter_mut().for_each(|(start, end)| (*start, *end) = ((*start).min(len), (*end).min(len)));
        *meta = Meta { size: len as u64, ..before };
        return Ok(TakenBody::File(bytes, ranges));
    }
}

/// The bytes of a small file that is given.
fn small_given(file: &dyn GivenFile, size: u64) -> std::io::Result<TakenBody> {
    let mut bytes = vec![0; usize::try_from(size).map_err(std::io::Error::other)?];
    let mut ranges = Vec::new();
    for (start, end) in file.ranges() {
        let (from, to) = (start as usize, end as usize);
        let part = bytes.get_mut(from..to).ok_or(std::io::ErrorKind::InvalidData)?;
        file.open(start, end).read_exact(part)?;
        ranges.push((from, to));
    }
    Ok(TakenBody::File(bytes, ranges))
}

/// A large file that is being read.
struct Large<'a, 'b> {
    item: Item,
    to: SyncSender<Part<'a>>,
    windows: &'b SyncSender<Window<'a>>,
    spare: &'b Spare,
    problems: &'b Problems,
}

impl Large<'_, '_> {
    fn read(&self) -> Result<(), Over> {
        let dir = match &self.item.what {
            What::Given(given) => return self.given(given),
            What::Take(dir) => dir,
            What::Enter(_) | What::Leave(..) | What::Keep | What::Link => return Ok(()),
        };
        let mut again = true;
        loop {
            match self.once(dir)? {
                Ok(false) => return Ok(()),
                Ok(true) if std::mem::take(&mut again) => {}
                Ok(true) => {
                    let why = "it changed while it was read, twice: what was read may be a mixture";
                    self.problems.add(Trouble::Changed, &self.item.path, why);
                    return Ok(());
                }
                Err(e) => return Ok(self.to.send(Part::Failed(trouble_of(e), format!("cannot read it: {}", said(e))))?),
            }
        }
    }

    /// What is given cannot change, but may be unreadable.
    fn given(&self, given: &Given) -> Result<(), Over> {
        let GivenBody::File(file) = &given.body else { return Ok(()) };
        self.to.send(Part::Begin(self.item.meta.clone(), given.xattrs.clone()))?;
        for (start, end) in file.ranges() {
            let read = self.stream(&mut *file.open(start, end), start, end)?;
            let short = || std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
            if let Err(e) = read.and_then(|read| if read == end { Ok(()) } else { Err(short()) }) {
                return Ok(self.to.send(Part::Failed(Trouble::Missing, format!("cannot read it: {e}")))?);
            }
        }
        Ok(self.to.send(Part::End(self.item.meta.size))?)
    }

    /// Reads it through; true when it changed meanwhile.
    fn once(&self, dir: &OwnedFd) -> Result<Result<bool, Errno>, Over> {
        let (fd, before) = match open(dir, &self.item.name) {
            Ok(opened) => opened,
            Err(e) => return Ok(Err(e)),
        };
        let found = xattrs(&Handle::Open(&fd), &self.item.path, self.problems);
        self.to.send(Part::Begin(before.clone(), found))?;
        let sparse = before.blocks.saturating_mul(512) < before.size;
        let mut at = 0;
        let mut len = before.size;
        while at < before.size {
            let range = if sparse { data_from(&fd, at, before.size) } else { Ok(Some((at, before.size))) };
            let (start, end) = match range {
                Ok(Some(range)) => range,
                Ok(None) => break,
                Err(e) => return Ok(Err(e)),
            };
            if let Err(e) = rustix::fs::seek(&fd, SeekFrom::Start(start)) {
                return Ok(Err(e));
            }
            let Ok(mut file) = fd.try_clone().map(File::from) else { return Ok(Err(Errno::MFILE)) };
            match self.stream(&mut file, start, end)?.map_err(|e| e.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error)) {
                Ok(read) if read == end => at = end,
                // It has become shorter.
                Ok(read) => {
                    len = read;
                    break;
                }
                Err(e) => return Ok(Err(e)),
            }
        }
        let changed = match Meta::of_open(&fd) {
            Ok(after) => len < before.size || after.changed_since(&before),
            Err(e) => return Ok(Err(e)),
        };
        self.to.send(Part::End(len))?;
        Ok(Ok(changed))
    }

    /// Reads a range without holes; gives where it ended.
    fn stream(&self, file: &mut dyn Read, start: u64, end: u64) -> Result<std::io::Result<u64>, Over> {
        let mut file = file.take(end - start);
        let mut at = start;
        let mut bytes = self.spare.take();
        loop {
            let room = (WINDOW + chunker::MAX - bytes.len()) as u64;
            match file.by_ref().take(room).read_to_end(&mut bytes) {
                Ok(_) => {}
                Err(e) => return Ok(Err(e)),
            }
            let is_last = bytes.len() < WINDOW + chunker::MAX;
            if is_last && at == start && bytes.len() < BLOB_THRESHOLD {
                let end = at + bytes.len() as u64;
                // As long as it is: what waits to be logged is bounded by bytes.
                let few = bytes.as_slice().to_vec();
                self.spare.give(bytes);
                self.to.send(Part::Inline(at, few))?;
                return Ok(Ok(end));
            }
            let (cuts, len) = cut(&bytes, is_last);
            let rest = bytes.get(len..).unwrap_or_default();
            let mut following = if is_last { Vec::new() } else { self.spare.take() };
            following.extend_from_slice(rest);
            bytes.truncate(len);
            if len > 0 {
                let (answer, stored) = sync_channel(1);
                self.windows.send(Window { offset: at, bytes, cuts, answer })?;
                self.to.send(Part::Window(stored))?;
            }
            at += len as u64;
            if is_last {
                return Ok(Ok(at));
            }
            bytes = following;
        }
    }
}

/// Cuts bytes into chunks as a commit does, as far as they are sure: the lengths, and all of them together.
fn cut(bytes: &[u8], is_last: bool) -> (Vec<(usize, Cut)>, usize) {
    let (mut cuts, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let window = &bytes[at..(at + chunker::MAX).min(bytes.len())];
        let ends = is_last && at + window.len() == bytes.len();
        if window.len() < chunker::MAX && !ends {
            break;
        }
        let len = chunker::next_cut(window, ends);
        cuts.push((len, if len < window.len() || len == chunker::MAX { Cut::Bytes } else { Cut::End }));
        at += len;
    }
    (cuts, at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_are_those_of_a_commit_however_the_windows_fall() {
        let mut x = 7u64;
        let noise = |_| {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (x >> 56) as u8
        };
        let bytes: Vec<u8> = (0..5_000_000).map(noise).chain(std::iter::repeat_n(0, 700_000)).collect();
        for size in [bytes.len(), 65_536, 65_537, chunker::MAX, chunker::MAX + 1, 1_310_720, 5_200_000] {
            let bytes = &bytes[..size];
            let (mut whole, mut at) = (Vec::new(), 0);
            while at < size {
                let end = (at + chunker::MAX).min(size);
                whole.push(chunker::next_cut(&bytes[at..end], end == size));
                at += whole[whole.len() - 1];
            }
            let (mut parts, mut at) = (Vec::new(), 0);
            while at < size {
                let end = (at + WINDOW + chunker::MAX).min(size);
                let (cuts, len) = cut(&bytes[at..end], end == size);
                parts.extend(cuts.into_iter().map(|(len, _)| len));
                at += len;
            }
            assert_eq!(parts, whole, "{size} bytes");
        }
    }
}

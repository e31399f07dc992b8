//! Reading directories. An entry's offset never changes while it exists, so that a reader misses and repeats nothing although names come
//! and go beneath it: `.` is 1, `..` is 2, the entries follow in the order in which they were made. A reader sees what was there when it
//! opened the directory or went back to its start: one that makes an entry for each that it reads would otherwise never come to an end.

use std::sync::Arc;

use super::{Fs, FsResult, Writer};
use crate::ids::Ino;
use crate::tree::Stat;
use crate::versions::node::FileKind;

/// How many entries are taken out of the tree at a time.
const BATCH: usize = 256;

/// One open directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct DirHandle(pub u64);

/// One entry as readdir gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// Its name.
    pub name: Arc<[u8]>,
    /// Inode number.
    pub ino: Ino,
    /// What it is.
    pub kind: FileKind,
    /// Its offset; reading on after it begins here.
    pub cookie: u64,
}

impl Writer<'_> {
    /// The next entries behind offset `cookie`. Reading at offset 0 looks anew at where the directory ends.
    fn entries_after(&mut self, dir: Ino, handle: DirHandle, cookie: u64) -> FsResult<Vec<DirEntry>> {
        let above = if cookie < 2 { self.guard.tree.parent(dir)? } else { dir };
        let inner = &mut *self.guard;
        let body = inner.tree.dir(dir)?;
        let end = match inner.dir_ends.get_mut(&handle) {
            Some(end) => {
                if cookie == 0 {
                    *end = body.end();
                }
                *end
            }
            // Nobody's: everything that is there now.
            None => body.end(),
        };
        let mut out = Vec::with_capacity(body.len().min(BATCH) + 2);
        for (at, name, ino) in [(1, &b"."[..], dir), (2, &b".."[..], above)] {
            if cookie < at {
                out.push(DirEntry { name: name.into(), ino, kind: FileKind::Directory, cookie: at });
            }
        }
        out.extend(body.after(cookie.max(2)).take_while(|(_, child)| child.cookie < end).take(BATCH).map(|(name, child)| DirEntry {
            name: Arc::clone(name),
            ino: child.ino,
            kind: child.kind,
            cookie: child.cookie,
        }));
        Ok(out)
    }
}

impl Fs {
    /// Opens a directory; [`Fs::releasedir`] closes it.
    ///
    /// # Errors
    /// ENOENT, ENOTDIR, EIO.
    pub fn opendir(&self, ino: Ino) -> FsResult<DirHandle> {
        let mut writer = self.locked();
        let inner = &mut *writer.guard;
        let end = inner.tree.dir(ino)?.end();
        inner.next_handle += 1;
        let handle = DirHandle(inner.next_handle);
        inner.dir_ends.insert(handle, end);
        writer.hold_open(ino);
        writer.trim();
        Ok(handle)
    }

    /// Closes a directory.
    pub fn releasedir(&self, ino: Ino, handle: DirHandle) {
        self.locked().guard.dir_ends.remove(&handle);
        self.release(ino);
    }

    /// Hands the entries after offset `cookie` (0 from the start) to `take` until that answers false (it did not take it).
    ///
    /// # Errors
    /// ENOENT, ENOTDIR, EIO.
    pub fn readdir(&self, dir: Ino, handle: DirHandle, cookie: u64, mut take: impl FnMut(&DirEntry) -> bool) -> FsResult {
        let mut writer = self.locked();
        let mut at = cookie;
        loop {
            let batch = writer.entries_after(dir, handle, at)?;
            let Some(last) = batch.last() else { return Ok(()) };
            at = last.cookie;
            if !batch.iter().all(&mut take) {
                return Ok(());
            }
        }
    }

    /// The same with attributes: the kernel holds each entry that was taken, but for `.` and `..`.
    ///
    /// # Errors
    /// ENOENT, ENOTDIR, EIO.
    pub fn readdirplus(&self, dir: Ino, handle: DirHandle, cookie: u64, mut take: impl FnMut(&DirEntry, &Stat) -> bool) -> FsResult {
        let mut writer = self.locked();
        let mut at = cookie;
        loop {
            let batch = writer.entries_after(dir, handle, at)?;
            let Some(last) = batch.last() else { break };
            at = last.cookie;
            for entry in &batch {
                let stat = writer.guard.tree.stat(entry.ino)?;
                if !take(entry, &stat) {
                    writer.trim();
                    return Ok(());
                }
                if entry.cookie > 2 {
                    writer.hold_lookup(entry.ino);
                }
            }
        }
        writer.trim();
        Ok(())
    }
}

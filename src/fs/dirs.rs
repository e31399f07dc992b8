//! Reading directories. An entry's offset never changes while it exists, so that a reader misses and repeats nothing although names come
//! and go beneath it: `.` is 1, `..` is 2, the entries follow in the order in which they were made.

use std::sync::Arc;

use super::{Fs, FsResult, Writer};
use crate::ids::Ino;
use crate::tree::Stat;
use crate::versions::node::FileKind;

/// How many entries are taken out of the tree at a time.
const BATCH: usize = 256;

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
    fn entries_after(&mut self, dir: Ino, cookie: u64) -> FsResult<Vec<DirEntry>> {
        let mut out = Vec::new();
        let above = if cookie < 2 { self.guard.tree.parent(dir)? } else { dir };
        let body = self.guard.tree.dir(dir)?;
        for (at, name, ino) in [(1, &b"."[..], dir), (2, &b".."[..], above)] {
            if cookie < at {
                out.push(DirEntry { name: name.into(), ino, kind: FileKind::Directory, cookie: at });
            }
        }
        out.extend(body.after(cookie.max(2)).take(BATCH).map(|(name, child)| DirEntry {
            name: Arc::clone(name),
            ino: child.ino,
            kind: child.kind,
            cookie: child.cookie,
        }));
        Ok(out)
    }
}

impl Fs {
    /// Opens a directory; [`Fs::release`] closes it.
    ///
    /// # Errors
    /// ENOENT, ENOTDIR, EIO.
    pub fn opendir(&self, ino: Ino) -> FsResult {
        let mut writer = self.locked();
        writer.guard.tree.dir(ino)?;
        writer.hold_open(ino);
        writer.trim();
        Ok(())
    }

    /// Hands the entries after offset `cookie` (0 from the start) to `take` until that answers false (it did not take it).
    ///
    /// # Errors
    /// ENOENT, ENOTDIR, EIO.
    pub fn readdir(&self, dir: Ino, cookie: u64, mut take: impl FnMut(&DirEntry) -> bool) -> FsResult {
        let mut writer = self.locked();
        let mut at = cookie;
        loop {
            let batch = writer.entries_after(dir, at)?;
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
    pub fn readdirplus(&self, dir: Ino, cookie: u64, mut take: impl FnMut(&DirEntry, &Stat) -> bool) -> FsResult {
        let mut writer = self.locked();
        let mut at = cookie;
        loop {
            let batch = writer.entries_after(dir, at)?;
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

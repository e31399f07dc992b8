//! The bytes of files: read, write, allocate, seek, copy.

use super::attrs::{may_keep_privileges, without_privileges};
use super::journal::Caller;
use super::{Fs, FsError, FsResult, Writer, stream};
use crate::ids::{BlobId, Ino};
use crate::op::{AllocateMode, BLOB_THRESHOLD, Clone as CloneRange, Data, Fallocate, Write};
use crate::tree::{SIZE_MAX, Source, TreeError};
use crate::versions::node::FileKind;

/// Most bytes that one copy_file_range moves (the kernel asks again for the rest; the answer has 32 bits).
const COPY_MAX: u64 = 1 << 30;

/// What a write did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Bytes written: all of them.
    pub len: u32,
}

impl Writer<'_> {
    /// Whether the file takes a write, and what that takes from it: gives its length, and its mode after the write if that becomes another.
    pub(super) fn begin_write(&mut self, caller: &Caller, ino: Ino, kill: bool) -> FsResult<(u64, Option<u32>)> {
        match self.guard.tree.inode(ino)?.kind {
            FileKind::File => {}
            FileKind::Directory => return Err(FsError::IsDirectory),
            _ => return Err(FsError::Invalid),
        }
        self.drop_capabilities(caller, ino)?;
        let inode = self.guard.tree.inode(ino)?;
        Ok((inode.size, if kill { without_privileges(caller, inode.kind, &inode.attrs) } else { None }))
    }
}

impl Fs {
    /// Reads up to `len` bytes from `offset`; fewer at the end of the file.
    ///
    /// # Errors
    /// EISDIR, EINVAL (no regular file), ENOENT, EIO.
    pub fn read(&self, ino: Ino, offset: u64, len: u32) -> FsResult<Vec<u8>> {
        let mut out = Vec::new();
        let mut retried = false;
        loop {
            // Bound first: in a `match` the lock would live on into the arms.
            let planned = self.locked().tree().read_plan(ino, offset, u64::from(len));
            let plan = match planned {
                Err(TreeError::NotFile(_)) => return Err(self.no_file(ino)),
                other => other?,
            };
            // Never more than `len`.
            out.resize(usize::try_from(plan.len()).map_err(|_| FsError::Invalid)?, 0);
            match plan.read(&*self.blobs, &mut out) {
                Ok(()) => return Ok(out),
                // The sweep may have taken a blob between planning and reading because the file changed meanwhile.
                Err(TreeError::Blob { damaged: true, .. }) if !retried => retried = true,
                Err(e) => return Err(e.into()),
            }
        }
    }

    fn no_file(&self, ino: Ino) -> FsError {
        match self.locked().tree().inode(ino) {
            Ok(inode) if inode.kind == FileKind::Directory => FsError::IsDirectory,
            Ok(_) => FsError::Invalid,
            Err(e) => e.into(),
        }
    }

    /// Writes bytes; `kill` says that setuid and setgid must go. After Ok they survive the death of the process.
    ///
    /// # Errors
    /// EFBIG, EINVAL (no regular file), ENOENT, ENOSPC, EIO; then nothing was written (after an EIO perhaps the front of a long write).
    pub fn write(&self, caller: &Caller, ino: Ino, offset: u64, bytes: &[u8], kill: bool) -> FsResult<Written> {
        let too_long = FsError::TooLarge;
        let len = u32::try_from(bytes.len()).map_err(|_| FsError::Invalid)?;
        let end = offset.checked_add(u64::from(len)).filter(|end| *end <= SIZE_MAX).ok_or(too_long)?;
        if len == 0 {
            return Ok(Written { len });
        }
        self.check_whole()?;
        let long = bytes.len() >= stream::WRITE_MIN;
        if long && let Some(written) = self.write_stream(caller, ino, offset, bytes, kill)? {
            return Ok(written);
        }
        let mut writer = self.locked();
        // Under the lock: a sweep begins under it too, and must never find a blob whose record is still to come.
        let data = if bytes.len() >= BLOB_THRESHOLD { Data::Blob { id: writer.put_blob(bytes)?, len } } else { Data::Inline(len) };
        let (size, mode_after) = writer.begin_write(caller, ino, kill)?;
        let before = writer.guard.streams.take(ino, offset);
        let op = Write { ino, offset, data, size_after: size.max(end), mode_after };
        let payload = matches!(data, Data::Inline(_)).then_some(bytes);
        writer.log(caller, op.into(), payload, None)?;
        match before {
            Some(before) if !long => writer.guard.streams.went_on_little(ino, before, bytes),
            before if long => writer.guard.streams.went_on(ino, end, before.map_or(0, |b| b.run()).saturating_add(u64::from(len))),
            _ => {}
        }
        Ok(Written { len })
    }

    /// Writes the bytes of a blob that is stored already, of any length, whoever may write the file. The caller keeps every sweep from
    /// beginning since before the blob was put ([`crate::blobs::Blobs::hold`]): only its record says that it is needed.
    ///
    /// # Errors
    /// As [`Fs::write`].
    pub fn write_stored(&self, caller: &Caller, ino: Ino, offset: u64, id: BlobId, len: u32) -> FsResult {
        let end = offset.checked_add(u64::from(len)).filter(|end| *end <= SIZE_MAX).ok_or(FsError::TooLarge)?;
        let mut writer = self.locked();
        let inode = writer.guard.tree.inode(ino)?;
        if inode.kind != FileKind::File {
            return Err(FsError::Invalid);
        }
        let op = Write { ino, offset, data: Data::Blob { id, len }, size_after: inode.size.max(end), mode_after: None };
        writer.log(caller, op.into(), None, None)?;
        Ok(())
    }

    /// fallocate(2) with its mode bits: plain, KEEP_SIZE, PUNCH_HOLE | KEEP_SIZE, ZERO_RANGE with or without KEEP_SIZE. Like on a disk it moves
    /// mtime and ctime also where no byte changes.
    ///
    /// # Errors
    /// EOPNOTSUPP for other modes, EINVAL, EFBIG, ENODEV (no regular file), ENOSPC, EIO.
    pub fn fallocate(&self, caller: &Caller, ino: Ino, offset: u64, len: u64, mode: i32) -> FsResult {
        const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;
        const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE;
        const ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE;
        let how = match mode & !KEEP {
            0 => AllocateMode::Allocate,
            PUNCH if mode & KEEP != 0 => AllocateMode::PunchHole,
            ZERO => AllocateMode::ZeroRange,
            _ => return Err(FsError::NotSupported),
        };
        if len == 0 {
            return Err(FsError::Invalid);
        }
        let end = offset.checked_add(len).filter(|end| *end <= SIZE_MAX).ok_or(FsError::TooLarge)?;
        let mut writer = self.locked();
        let inode = writer.guard.tree.inode(ino)?;
        if inode.kind != FileKind::File {
            return Err(FsError::WrongKind);
        }
        let size_after = if mode & KEEP != 0 { inode.size } else { inode.size.max(end) };
        if how == AllocateMode::Allocate {
            // Space cannot be set aside in a log, but what can never fit is refused as a disk would.
            if end.saturating_sub(inode.size) > self.journal.space().available {
                return Err(FsError::NoSpace("the disk has less than was asked for".to_owned()));
            }
        }
        writer.drop_capabilities(caller, ino)?;
        writer.log(caller, Fallocate { ino, mode: how, offset, len, size_after }.into(), None, None)?;
        Ok(())
    }

    /// lseek(2) with SEEK_DATA or SEEK_HOLE: the end of the file counts as a hole.
    ///
    /// # Errors
    /// ENXIO at or behind the end of the file or without data behind the offset, EINVAL for another `whence`.
    pub fn seek(&self, ino: Ino, offset: i64, whence: i32) -> FsResult<i64> {
        let wants_data = match whence {
            libc::SEEK_DATA => true,
            libc::SEEK_HOLE => false,
            _ => return Err(FsError::Invalid),
        };
        let mut writer = self.locked();
        let size = writer.guard.tree.inode(ino)?.size;
        let start = u64::try_from(offset).ok().filter(|o| *o < size).ok_or(FsError::NothingThere)?;
        let plan = writer.guard.tree.read_plan(ino, start, size - start)?;
        let mut at = start;
        for (len, source) in plan.parts() {
            if matches!(source, Source::Hole) != wants_data {
                return i64::try_from(at).map_err(|_| FsError::NothingThere);
            }
            at += len;
        }
        if wants_data { Err(FsError::NothingThere) } else { i64::try_from(size).map_err(|_| FsError::NothingThere) }
    }

    /// copy_file_range(2): the target names the same bytes as the source; gives the number of bytes, 0 at the end of the source.
    ///
    /// # Errors
    /// EINVAL (ranges of one file overlap, no regular files), EFBIG, ENOSPC, EIO.
    pub fn copy_range(&self, caller: &Caller, from: (Ino, u64), to: (Ino, u64), len: u64) -> FsResult<u32> {
        let mut writer = self.locked();
        let source = writer.guard.tree.inode(from.0)?;
        let (source_kind, source_size) = (source.kind, source.size);
        let target = writer.guard.tree.inode(to.0)?;
        for kind in [source_kind, target.kind] {
            match kind {
                FileKind::File => {}
                FileKind::Directory => return Err(FsError::IsDirectory),
                _ => return Err(FsError::Invalid),
            }
        }
        let len = len.min(COPY_MAX).min(source_size.saturating_sub(from.1));
        if len == 0 {
            return Ok(0);
        }
        let end = to.1.checked_add(len).filter(|end| *end <= SIZE_MAX).ok_or(FsError::TooLarge)?;
        if from.0 == to.0 && from.1 < end && to.1 < from.1 + len {
            return Err(FsError::Invalid);
        }
        writer.drop_capabilities(caller, to.0)?;
        let target = writer.guard.tree.inode(to.0)?;
        let mode_after = if may_keep_privileges(caller) { None } else { without_privileges(caller, target.kind, &target.attrs) };
        let size_after = target.size.max(end);
        let op = CloneRange { from: from.0, from_offset: from.1, ino: to.0, offset: to.1, len, size_after, mode_after };
        writer.log(caller, op.into(), None, None)?;
        u32::try_from(len).map_err(|_| FsError::TooLarge)
    }
}

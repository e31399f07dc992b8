//! The disk, behind a trait small enough to fake. Everything that must survive a crash goes through here and through nothing else.
//!
//! Rules that a caller may rely on, and no others: bytes written are read back by this process at once; they survive power loss only
//! after `sync_data` of that file has returned Ok; a name (created, renamed, removed) survives only after `sync_dir` of its directory
//! has. After one failed sync nothing is known about the bytes written since the last good one, and a later Ok proves nothing.

pub mod disk;
pub mod sim;

pub use disk::Disk;

use std::ffi::OsString;
use std::fmt::Debug;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// An open file.
pub type FileRef = Arc<dyn StorageFile>;

/// A directory tree on a disk.
pub trait Storage: Send + Sync + Debug {
    /// Creates a file for reading and writing (mode 0600); `AlreadyExists` when the name is taken.
    ///
    /// # Errors
    /// Whatever the disk says.
    fn create_new(&self, path: &Path) -> io::Result<FileRef>;
    /// Opens an existing file for reading and writing.
    ///
    /// # Errors
    /// `NotFound`, or whatever the disk says.
    fn open(&self, path: &Path) -> io::Result<FileRef>;
    /// Opens an existing file for reading only.
    ///
    /// # Errors
    /// `NotFound`, or whatever the disk says.
    fn open_read(&self, path: &Path) -> io::Result<FileRef>;
    /// Renames, replacing `to`. Durable after `sync_dir` of both parents.
    ///
    /// # Errors
    /// Whatever the disk says.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file's name; open handles go on reading.
    ///
    /// # Errors
    /// `NotFound`, or whatever the disk says.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Names in a directory, sorted.
    ///
    /// # Errors
    /// Whatever the disk says.
    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>>;
    /// Creates a directory and its missing parents (mode 0700); an existing one is no error. Each directory made is durable on return.
    ///
    /// # Errors
    /// Whatever the disk says.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;
    /// Bytes that files in `dir` may still grow by, as far as the disk says; `u64::MAX` where it does not.
    fn available(&self, _dir: &Path) -> u64 {
        u64::MAX
    }
    /// Makes the names in `dir` durable.
    ///
    /// # Errors
    /// Whatever the disk says; then nothing is known about the names.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
}

/// Zeros that are written at once where nothing speaks for another size.
const ZEROS: usize = 256 << 10;

/// Extends a file to `len` by zeros, so many at once.
///
/// # Errors
/// As [`StorageFile::write_at`].
pub fn write_zeros<F: StorageFile + ?Sized>(file: &F, len: u64, at_once: usize) -> io::Result<()> {
    let mut at = file.len()?;
    let zeros = vec![0; at_once.min(usize::try_from(len.saturating_sub(at)).unwrap_or(at_once))];
    while at < len {
        let n = usize::try_from(len - at).unwrap_or(at_once).min(zeros.len());
        file.write_at(&[zeros.get(..n).unwrap_or_default()], at)?;
        at += n as u64;
    }
    Ok(())
}

/// The first `max` bytes of a small file; `None` when there is none.
///
/// # Errors
/// Whatever the disk says.
pub fn read_small(storage: &dyn Storage, path: &Path, max: u64) -> io::Result<Option<Vec<u8>>> {
    let file = match storage.open_read(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let mut bytes = vec![0; usize::try_from(file.len()?.min(max)).unwrap_or(0)];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(Some(bytes))
}

/// An open file of a [`Storage`].
pub trait StorageFile: Send + Sync + Debug {
    /// Length in bytes.
    ///
    /// # Errors
    /// Whatever the disk says.
    fn len(&self) -> io::Result<u64>;
    /// Reads up to `buf.len()` bytes at `offset`; 0 at and past the end. May be short.
    ///
    /// # Errors
    /// Whatever the disk says.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all the parts one behind the other at `offset`. After an error, any part of the range may hold old, new or mixed bytes.
    ///
    /// # Errors
    /// Whatever the disk says, e.g. `StorageFull`.
    fn write_at(&self, parts: &[&[u8]], offset: u64) -> io::Result<()>;
    /// Cuts or extends (with zeros) to `len`.
    ///
    /// # Errors
    /// Whatever the disk says.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Extends to `len`, with room on the disk for all of it; the new bytes are zeros. Where the disk knows no quick way they are written.
    /// After an error the file may have any length between.
    ///
    /// # Errors
    /// Whatever the disk says, e.g. `StorageFull`.
    fn allocate(&self, len: u64) -> io::Result<()> {
        write_zeros(self, len, ZEROS)
    }
    /// Says that the disk may begin to write these bytes, and that nobody will read them soon. It promises nothing: only `sync_data` does.
    fn write_behind(&self, _range: std::ops::Range<u64>) {}
    /// Makes the file's bytes and length durable (fdatasync).
    ///
    /// # Errors
    /// Whatever the disk says; see the module's rules.
    fn sync_data(&self) -> io::Result<()>;

    /// Reads exactly `buf.len()` bytes; `UnexpectedEof` when the file ends before.
    ///
    /// # Errors
    /// As `read_at`.
    fn read_exact_at(&self, mut buf: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !buf.is_empty() {
            match self.read_at(buf, offset) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => {
                    buf = &mut buf[n..];
                    offset += n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// True when the file has no bytes.
    ///
    /// # Errors
    /// As `len`.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}

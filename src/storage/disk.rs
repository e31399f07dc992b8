//! The real disk.

use std::ffi::OsString;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use super::{FileRef, Storage, StorageFile};

/// Parts handed to one pwritev(2); the rest follows in the next call.
const PARTS_PER_CALL: usize = 64;

/// Files of the operating system, opened close-on-exec, made 0600, in directories made 0700.
#[derive(Clone, Copy, Debug, Default)]
pub struct Disk;

#[derive(Debug)]
struct DiskFile(File);

impl Disk {
    /// The disk as a shared trait object.
    #[must_use]
    pub fn shared() -> Arc<dyn Storage> {
        Arc::new(Disk)
    }
}

fn wrap(file: File) -> FileRef {
    Arc::new(DiskFile(file))
}

impl Storage for Disk {
    fn available(&self, dir: &Path) -> u64 {
        rustix::fs::statvfs(dir).map_or(u64::MAX, |s| s.f_bavail.saturating_mul(s.f_frsize))
    }

    fn create_new(&self, path: &Path) -> io::Result<FileRef> {
        OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path).map(wrap)
    }

    fn open(&self, path: &Path) -> io::Result<FileRef> {
        OpenOptions::new().read(true).write(true).open(path).map(wrap)
    }

    fn open_read(&self, path: &Path) -> io::Result<FileRef> {
        File::open(path).map(wrap)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        let mut names = std::fs::read_dir(dir)?.map(|entry| entry.map(|e| e.file_name())).collect::<io::Result<Vec<_>>>()?;
        names.sort();
        Ok(names)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        if dir.is_dir() {
            return Ok(());
        }
        let parent = match dir.parent() {
            Some(p) if !p.as_os_str().is_empty() => p,
            _ => Path::new("."),
        };
        self.create_dir_all(parent)?;
        match DirBuilder::new().mode(0o700).create(dir) {
            Ok(()) => self.sync_dir(parent),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
            Err(e) => Err(e),
        }
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }
}

impl StorageFile for DiskFile {
    fn len(&self) -> io::Result<u64> {
        self.0.metadata().map(|m| m.len())
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buf, offset)
    }

    fn write_at(&self, parts: &[&[u8]], mut offset: u64) -> io::Result<()> {
        if let [one] = parts {
            return self.0.write_all_at(one, offset);
        }
        // First part not yet wholly written, and how much of it is.
        let (mut first, mut skip) = (0, 0);
        while first < parts.len() {
            let group: Vec<IoSlice<'_>> = parts[first..]
                .iter()
                .take(PARTS_PER_CALL)
                .enumerate()
                .map(|(i, part)| IoSlice::new(if i == 0 { &part[skip..] } else { part }))
                .collect();
            if group.iter().all(|part| part.is_empty()) {
                first += group.len();
                skip = 0;
                continue;
            }
            let mut done = match rustix::io::pwritev(&self.0, &group, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => n,
                Err(rustix::io::Errno::INTR) => continue,
                Err(e) => return Err(e.into()),
            };
            offset += done as u64;
            while first < parts.len() && done >= parts[first].len() - skip {
                done -= parts[first].len() - skip;
                first += 1;
                skip = 0;
            }
            skip += done;
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let at = self.0.metadata()?.len();
        match rustix::fs::fallocate(&self.0, rustix::fs::FallocateFlags::empty(), at, len.saturating_sub(at).max(1)) {
            // A file system that cannot; one that could not have the room says so.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => super::write_zeros(self, len, super::ZEROS),
            done => Ok(done?),
        }
    }

    fn write_behind(&self, range: std::ops::Range<u64>) {
        let len = std::num::NonZeroU64::new(range.end.saturating_sub(range.start));
        // It starts writing what is dirty and lets go of what is not; an error of that writing is told by the next sync (mm/fadvise.c).
        let _ = rustix::fs::fadvise(&self.0, range.start, len, rustix::fs::Advice::DontNeed);
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn vectored_writes_of_more_parts_than_one_call_takes_arrive_whole() {
        let dir = tempfile::tempdir().unwrap();
        let file = Disk.create_new(&dir.path().join("f")).unwrap();
        let owned: Vec<Vec<u8>> = (0..300usize).map(|i| vec![i as u8; i % 7]).collect();
        let parts: Vec<&[u8]> = owned.iter().map(Vec::as_slice).collect();
        file.write_at(&parts, 5).unwrap();
        let expected: Vec<u8> = owned.concat();
        let mut got = vec![0; expected.len()];
        file.read_exact_at(&mut got, 5).unwrap();
        assert_eq!(got, expected);
        assert_eq!(file.len().unwrap(), 5 + expected.len() as u64);
    }

    #[test]
    fn files_and_directories_are_for_their_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let sub = dir.path().join("a/b");
        Disk.create_dir_all(&sub).unwrap();
        Disk.create_dir_all(&sub).unwrap();
        Disk.create_new(&sub.join("f")).unwrap();
        assert_eq!(std::fs::metadata(&sub).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(std::fs::metadata(sub.join("f")).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(Disk.create_new(&sub.join("f")).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    }
}

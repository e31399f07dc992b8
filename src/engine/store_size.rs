//! What a project's directory takes of its disk, part by part.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::project::Layout;

/// Bytes of disk (blocks, not lengths) by part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreSize {
    /// Segments, with those that are prepared and what repairs set aside.
    pub log: u64,
    /// What is kept back for a full disk.
    pub reserve: u64,
    /// Packs of blobs, with their indexes.
    pub packs: u64,
    /// Versions, checkpoint and everything small.
    pub metadata: u64,
    /// The Pijul repository.
    pub pijul: u64,
}

impl StoreSize {
    /// All together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.log + self.reserve + self.packs + self.metadata + self.pijul
    }

    /// Looks at every file of a project's directory. What goes meanwhile counts as gone.
    ///
    /// # Errors
    /// I/O errors.
    pub fn of(layout: &Layout) -> Result<Self> {
        let log = bytes_below(&layout.wal(), &|name| name != RESERVE)?;
        let reserve = bytes_below(&layout.wal(), &|name| name == RESERVE)?;
        let (packs, metadata) = (bytes_below(&layout.blobs(), &|_| true)?, bytes_below(&layout.meta(), &|_| true)?);
        Ok(Self { log, reserve, packs, metadata, pijul: bytes_below(&layout.pijul(), &|_| true)? })
    }
}

/// Size of the file system that a directory is on, in bytes; 0 when nobody knows.
#[must_use]
pub fn file_system_size(dir: &Path) -> u64 {
    let Ok(s) = rustix::fs::statvfs(dir) else { return 0 };
    u64::try_from(u128::from(s.f_blocks) * u128::from(s.f_frsize)).unwrap_or(u64::MAX)
}

const RESERVE: &str = crate::wal::format::RESERVE_NAME;

fn bytes_below(dir: &Path, counts: &dyn Fn(&str) -> bool) -> Result<u64> {
    let refused = |path: &Path, e: io::Error| Error::io(format!("cannot look at {}", path.display()), e);
    let mut sum = 0;
    let mut work = vec![dir.to_owned()];
    while let Some(at) = work.pop() {
        let entries = match std::fs::read_dir(&at) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(refused(&at, e)),
        };
        for entry in entries {
            let entry = entry.map_err(|e| refused(&at, e))?;
            if !counts(&entry.file_name().to_string_lossy()) {
                continue;
            }
            match entry.path().symlink_metadata() {
                Ok(m) => {
                    sum += m.blocks() * 512;
                    if m.is_dir() {
                        work.push(entry.path());
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(refused(&entry.path(), e)),
            }
        }
    }
    Ok(sum)
}

//! Replacing a small file so that a crash leaves the old bytes or the new ones, never a mixture.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use crate::error::{Class, Error, IoContext, Result};

/// Writes `bytes` to `path` (mode 0600): temporary file beside it, sync, rename, sync of the directory.
///
/// # Errors
/// Whatever the disk says, with the path.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let doing = || format!("cannot write {}", path.display());
    let dir = path.parent().ok_or_else(|| Error::new(Class::Io, format!("{} has no parent directory", path.display())))?;
    let mut file = tempfile::NamedTempFile::new_in(dir).doing(doing)?;
    file.write_all(bytes).doing(doing)?;
    file.as_file().sync_all().doing(doing)?;
    file.persist(path).map_err(|e| Error::io(doing(), e.error))?;
    sync_dir(dir)
}

/// Makes the names in `dir` durable.
///
/// # Errors
/// Whatever the disk says, with the directory.
pub fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|d| d.sync_all()).doing(|| format!("cannot sync the directory {}", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_file_holds_the_new_bytes_and_leaves_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        replace(&path, b"old").unwrap();
        replace(&path, b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}

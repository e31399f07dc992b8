//! Where one may mount: the directory is there, empty, free, and has nothing to do with the store beneath.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::cli::output;
use crate::error::{Class, Error, IoContext, Result};
use crate::project::mounts::{self, Mounts, relation};

/// How many names of a directory that should be empty are shown.
const NAMES_SHOWN: usize = 5;
/// Mode of a directory that is made to be mounted on: nothing is saved into it by mistake while nothing is mounted.
const MADE_MODE: u32 = 0o555;

/// Absolute, without symbolic links, also when the last component is a mount whose daemon is gone.
pub(super) fn absolute(path: &Path) -> io::Result<PathBuf> {
    match fs::canonicalize(path) {
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOTCONN | libc::ECONNABORTED)) => {
            let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let name = path.file_name().ok_or(e)?;
            Ok(fs::canonicalize(parent)?.join(name))
        }
        other => other,
    }
}

/// Makes a mount point ready: detaches a mount whose daemon was killed, creates the directory (mode 0555) if it is missing, and refuses what
/// would go wrong. `store` is the directory that holds the projects; gives the absolute mount point.
///
/// # Errors
/// [`Class::Busy`] when ize is mounted there already; [`Class::Refused`] for something that is no directory, is not empty (unless `over`),
/// or lies inside, above or at the store, and for a store that is itself on a mount of ize; [`Class::Io`].
pub fn prepare(mountpoint: &Path, store: &Path, over: bool) -> Result<PathBuf> {
    let shown = mountpoint.display().to_string();
    let store = fs::canonicalize(store).doing(|| format!("cannot find {}", store.display()))?;
    if fs::symlink_metadata(mountpoint).is_err_and(|e| e.kind() == io::ErrorKind::NotFound) {
        make(mountpoint, &store)?;
    }
    let at = absolute(mountpoint).doing(|| format!("cannot find {shown}"))?;
    // Several may lie on each other.
    while mounts::is_stale(&at) {
        if !Mounts::load()?.at(&at).is_some_and(|m| m.is_ize()) {
            return Err(Error::new(Class::Refused, format!("{shown} holds a mount of something else, whose daemon is gone"))
                .hint(format!("`umount -l {shown}` detaches it")));
        }
        tracing::warn!("detaching {shown}, whose daemon is gone");
        mounts::detach(&at)?;
    }
    let meta = fs::metadata(&at).doing(|| format!("cannot look at {shown}"))?;
    if !meta.is_dir() {
        return Err(Error::new(Class::Refused, format!("{shown} is not a directory")).hint("name a directory to mount on"));
    }
    let mounted = Mounts::load()?;
    if let Some(mount) = mounted.at(&at).filter(|m| m.is_ize()) {
        let name = mount.project_name().unwrap_or(&mount.source).to_string_lossy();
        return Err(
            Error::new(Class::Busy, format!("project {name} is already mounted on {shown}")).hint(format!("`ize unmount {shown}` first"))
        );
    }
    mounts::refuse_store_on_ize(&store)?;
    check_apart(&at, &store, &mounted)?;
    if !over {
        check_empty(&at, &shown)?;
    }
    Ok(at)
}

/// Creates the mount point and what leads to it, but not inside the store.
fn make(mountpoint: &Path, store: &Path) -> Result<()> {
    let creating = || format!("cannot create the mount point {}", mountpoint.display());
    let absolute = std::path::absolute(mountpoint).doing(creating)?;
    let Some(parent) = absolute.parent() else { return Ok(()) };
    if let Some(there) = parent.ancestors().find(|p| p.exists()) {
        let there = fs::canonicalize(there).doing(creating)?;
        let mounted = Mounts::load()?;
        if let Some(relation @ ("is" | "lies in")) = relation(&there, store, &mounted)? {
            let relation = if relation == "is" { "lies in" } else { relation };
            return Err(not_apart(mountpoint, relation, store));
        }
    }
    fs::create_dir_all(parent).doing(creating)?;
    match fs::DirBuilder::new().mode(MADE_MODE).create(mountpoint) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(Error::io(creating(), e)),
        _ => Ok(()),
    }
}

fn check_empty(at: &Path, shown: &str) -> Result<()> {
    let listing = || format!("cannot list {shown}");
    let mut names = Vec::new();
    for entry in fs::read_dir(at).doing(listing)? {
        names.push(output::name(entry.doing(listing)?.file_name().as_bytes()));
    }
    names.sort_unstable();
    if names.is_empty() {
        return Ok(());
    }
    let more = names.len().saturating_sub(NAMES_SHOWN);
    let mut list = names.iter().take(NAMES_SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    if more > 0 {
        list.push_str(&format!(" and {more} more"));
    }
    Err(Error::new(Class::Refused, format!("{shown} is not empty: {list}"))
        .hint("these would be hidden while mounted; `--over` mounts all the same"))
}

/// The mount point may not be the store, nor lie in it, nor hold it: the daemon would wait for itself.
fn check_apart(at: &Path, store: &Path, mounted: &Mounts) -> Result<()> {
    relation(at, store, mounted)?.map_or(Ok(()), |relation| Err(not_apart(at, relation, store)))
}

fn not_apart(at: &Path, relation: &str, store: &Path) -> Error {
    Error::new(Class::Refused, format!("the mount point {} {relation} the store {}", at.display(), store.display()))
        .hint("mount somewhere else, or keep the store somewhere else (--central-dir)")
}

/// A directory that must be writable for an instant: fusermount3 mounts for a user only on what that user may write to, and a directory
/// that ize made is 0555. What the mode was is put back on the directory itself, which is by then under the mount.
pub(super) struct Writable {
    dir: fs::File,
    mode: Option<u32>,
}

impl Writable {
    pub(super) fn make(at: &Path) -> io::Result<Self> {
        let dir = fs::File::open(at)?;
        let meta = dir.metadata()?;
        let closed = meta.uid() == rustix::process::geteuid().as_raw() && meta.mode() & 0o200 == 0;
        if closed {
            dir.set_permissions(fs::Permissions::from_mode(meta.mode() & 0o7777 | 0o200))?;
        }
        Ok(Self { dir, mode: closed.then_some(meta.mode() & 0o7777) })
    }
}

impl Drop for Writable {
    fn drop(&mut self) {
        if let Some(mode) = self.mode
            && let Err(e) = self.dir.set_permissions(fs::Permissions::from_mode(mode))
        {
            tracing::warn!("cannot put back the mode of the mount point: {e}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_point_in_at_or_above_the_store_is_refused_with_both_paths() {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("store");
        let inside = store.join("wal/deep");
        fs::create_dir_all(&inside).unwrap();
        std::os::unix::fs::symlink(&store, dir.path().join("alias")).unwrap();
        let missing = store.join("wal/missing/too");
        for (at, relation) in [
            (inside.as_path(), "lies in"),
            (store.as_path(), "is the"),
            (dir.path(), "lies above"),
            (&dir.path().join("alias"), "is the"),
            (&dir.path().join("alias/wal"), "lies in"),
            (&missing, "lies in"),
            (&dir.path().join("alias/new"), "lies in"),
        ] {
            let error = prepare(at, &store, true).unwrap_err();
            assert_eq!(error.class, Class::Refused, "{at:?}");
            assert!(error.message.contains(relation), "{}", error.message);
            assert!(error.message.contains("store"), "{}", error.message);
        }
        assert!(!missing.parent().unwrap().exists(), "made in the store before it was refused");
        fs::create_dir(dir.path().join("beside")).unwrap();
        assert!(prepare(&dir.path().join("beside"), &store, false).is_ok());
    }

    #[test]
    fn a_mount_point_that_holds_files_is_refused_by_their_names_and_a_missing_one_is_made_unwritable() {
        let dir = tempfile::tempdir().unwrap();
        let store = tempfile::tempdir().unwrap();
        for name in ["c", "a", "b", "f", "e", "d"] {
            fs::write(dir.path().join(name), b"").unwrap();
        }
        let error = prepare(dir.path(), store.path(), false).unwrap_err();
        assert_eq!(error.class, Class::Refused);
        assert!(error.message.ends_with("is not empty: a, b, c, d, e and 1 more"), "{}", error.message);
        assert!(prepare(dir.path(), store.path(), true).is_ok());
        assert_eq!(prepare(&dir.path().join("a"), store.path(), true).unwrap_err().class, Class::Refused);
        let made = prepare(&dir.path().join("new/er"), store.path(), false).unwrap();
        assert!(made.is_absolute());
        assert_eq!(fs::metadata(&made).unwrap().mode() & 0o7777, 0o555);
        assert_ne!(fs::metadata(made.parent().unwrap()).unwrap().mode() & 0o200, 0, "only the mount point itself is closed");
    }
}

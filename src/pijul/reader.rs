//! Reads a clone back: what `pijul clone PROJECT DIR` wrote becomes what ize had, from the file, its sidecar and its manifest.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::error::{Class, Error, IoContext, Result};
use crate::pijul::manifest::Manifest;
use crate::pijul::names;
use crate::pijul::sidecar::{Sidecar, default_mode};
use crate::versions::node::{FileKind, Xattrs};

/// Longest sidecar or manifest read, in bytes (1 GiB: a manifest of 800 GB).
const TEXT_LIMIT: u64 = 1 << 30;

/// One path of a clone, as ize had it. Owner and group are `None` where they are the project's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Raw path.
    pub path: Vec<u8>,
    /// Kind.
    pub kind: FileKind,
    /// Permission bits: `0..=0o7777`.
    pub mode: u32,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Device number.
    pub rdev: u32,
    /// Extended attributes.
    pub xattrs: Xattrs,
    /// Target of a symlink.
    pub target: Option<Vec<u8>>,
    /// First name of the hard link's group; equal for all names of one group.
    pub link: Option<Vec<u8>>,
    /// The bytes.
    pub bytes: Bytes,
}

/// The bytes of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bytes {
    /// None: no regular file.
    None,
    /// This file of the clone holds them.
    Text(PathBuf),
    /// The chunks of this manifest hold them.
    Manifest(Manifest),
}

/// Everything in a clone but `.pijul` and the sidecars, parents first; the root (empty path) is first. A `.ignore` that the client wrote
/// on cloning is given like any file: `tracked` says (by Pijul path) what belongs to the repository.
///
/// # Errors
/// `Damage` when a sidecar or manifest is broken or missing; `Io`.
pub fn read_clone(dir: &Path, tracked: &dyn Fn(&str) -> bool) -> Result<Vec<Entry>> {
    let mut out = vec![entry(dir, "", b"")?];
    let mut stack = vec![(String::new(), Vec::new())];
    while let Some((pijul, raw)) = stack.pop() {
        let here = dir.join(&pijul);
        let listed = fs::read_dir(&here).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let mut listed = listed.doing(|| format!("cannot read `{}`", here.display()))?;
        listed.sort_by_key(fs::DirEntry::file_name);
        for found in listed {
            let Ok(name) = found.file_name().into_string() else { continue };
            if pijul.is_empty() && (name == libpijul::DOT_DIR || name == names::META_DIR) {
                continue;
            }
            let path = if pijul.is_empty() { name.clone() } else { format!("{pijul}/{name}") };
            if !tracked(&path) {
                continue;
            }
            let mut entry = entry(dir, &path, &raw)?;
            if entry.path.is_empty() {
                entry.path = join(&raw, &names::unescape(&name));
            }
            if entry.kind == FileKind::Directory {
                stack.push((path, entry.path.clone()));
            }
            out.push(entry);
        }
    }
    Ok(out)
}

fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() { name.to_vec() } else { [dir, b"/", name].concat() }
}

/// One path of a clone, by its Pijul name; `parent` is the raw path of its directory. The entry's path is empty unless the name was too
/// long and stands in the sidecar.
fn entry(dir: &Path, pijul: &str, parent: &[u8]) -> Result<Entry> {
    let at = dir.join(pijul);
    let meta = fs::symlink_metadata(&at).doing(|| format!("cannot read `{}`", at.display()))?;
    let side = match read_text(&dir.join(names::sidecar(pijul)))? {
        Some(text) => Sidecar::parse(&text).map_err(|e| Error::new(e.class, format!("`{}`: {e}", names::sidecar(pijul))))?,
        None => Sidecar::default(),
    };
    let name = pijul.rsplit('/').next().unwrap_or(pijul);
    let path = match side.name {
        Some(name) => join(parent, &name),
        None if names::is_long(name) => {
            return Err(Error::new(Class::Damage, format!("the sidecar of `{pijul}`, which has its name, is missing")));
        }
        None => Vec::new(),
    };
    let kind = side.kind.unwrap_or(if meta.is_dir() { FileKind::Directory } else { FileKind::File });
    let mode = side.mode.unwrap_or_else(|| default_mode(kind, meta.permissions().mode() & 0o100 != 0));
    let bytes = match kind {
        FileKind::File if side.manifest => {
            let text = read_text(&at)?.unwrap_or_default();
            Bytes::Manifest(Manifest::parse(&text).map_err(|e| Error::new(e.class, format!("`{pijul}`: {e}")))?)
        }
        FileKind::File => Bytes::Text(at),
        _ => Bytes::None,
    };
    let Sidecar { uid, gid, rdev, xattrs, target, link, .. } = side;
    Ok(Entry { path, kind, mode, uid, gid, rdev: rdev.unwrap_or(0), xattrs, target, link, bytes })
}

fn read_text(path: &Path) -> Result<Option<String>> {
    let doing = || format!("cannot read `{}`", path.display());
    match fs::symlink_metadata(path) {
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(None),
        Err(e) => return Err(Error::io(doing(), e)),
        Ok(m) if !m.is_file() || m.len() > TEXT_LIMIT => {
            return Err(Error::new(Class::Damage, format!("`{}` is no sidecar or manifest", path.display())));
        }
        Ok(_) => {}
    }
    let bytes = fs::read(path).doing(doing)?;
    String::from_utf8(bytes).map(Some).map_err(|_| Error::new(Class::Damage, format!("`{}` is not UTF-8", path.display())))
}

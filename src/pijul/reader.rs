//! Reads the tree of a repository back: what replay B wrote becomes what ize had, from each file, its sidecar and its manifest. A repository
//! of somebody else is a tree without sidecars.

use crate::error::{Class, Error, IoContext, Result};
use crate::ids::Time;
use crate::pijul::head_tree::{HeadTree, Held};
use crate::pijul::manifest::Manifest;
use crate::pijul::names;
use crate::pijul::sidecar::{Sidecar, default_mode};
use crate::versions::node::{FileKind, Xattrs};

/// Longest sidecar or manifest read, in bytes (1 GiB: a manifest of 800 GB).
const TEXT_LIMIT: u64 = 1 << 30;

/// One path, as ize had it. Owner and group are `None` where they are the project's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Raw path; empty for the root.
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
    /// When it last changed, where the tree knows that.
    pub time: Option<Time>,
}

/// The bytes of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bytes {
    /// None: no regular file.
    None,
    /// These of the tree: see [`HeadTree::read_at`].
    Text {
        /// Where they begin.
        at: u64,
        /// Their number.
        len: u64,
    },
    /// The chunks of this manifest hold them.
    Manifest(Manifest),
}

/// What a walk comes to.
#[derive(Debug)]
pub enum Step<'a> {
    /// A path; what is in a directory follows it.
    Entry(Entry),
    /// The end of a directory, by its raw path.
    Leave(&'a [u8]),
}

/// Shows everything in a tree but the sidecars, the root first, parents before children.
///
/// # Errors
/// `Damage` when a sidecar or manifest is broken or missing; `Io`; those of `visit`.
pub fn walk(tree: &HeadTree, visit: &mut dyn FnMut(Step<'_>) -> Result<()>) -> Result<()> {
    let mut open: Vec<(String, Vec<u8>)> = vec![(String::new(), Vec::new())];
    visit(Step::Entry(entry(tree, "", Held::Directory, &[])?))?;
    let meta = format!("{}/", names::META_DIR);
    for (path, held) in tree.iter() {
        if path == names::META_DIR || path.starts_with(&meta) {
            continue;
        }
        let parent = path.rsplit_once('/').map_or("", |(dir, _)| dir);
        while open.len() > 1 && open.last().is_some_and(|(dir, _)| dir != parent) {
            if let Some((_, raw)) = open.pop() {
                visit(Step::Leave(&raw))?;
            }
        }
        let entry = entry(tree, &path, held, open.last().map_or(&[], |(_, raw)| raw.as_slice()))?;
        if entry.kind == FileKind::Directory {
            open.push((path, entry.path.clone()));
        }
        visit(Step::Entry(entry))?;
    }
    while let Some((_, raw)) = open.pop() {
        visit(Step::Leave(&raw))?;
    }
    Ok(())
}

fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() { name.to_vec() } else { [dir, b"/", name].concat() }
}

/// The raw name of a path, from its Pijul name and what its sidecar says.
fn raw_name(tree: &HeadTree, pijul: &str, said: Option<Vec<u8>>) -> Result<Vec<u8>> {
    let damaged = |why: &str| Error::new(Class::Damage, format!("`{pijul}`: {why}"));
    let (dir, name) = pijul.rsplit_once('/').map_or((None, pijul), |(dir, name)| (Some(dir), name));
    let component = |raw: &[u8]| names::component(raw, dir.is_none());
    let raw = match said {
        Some(raw) if component(&raw) == name => raw,
        Some(_) => return Err(damaged("its sidecar has another name")),
        None if names::is_long(name) => return Err(damaged("its sidecar, which has its name, is missing")),
        None => {
            let raw = names::unescape(name);
            if component(&raw) == name {
                raw
            } else {
                // Not of ize: taken as it stands, where nothing else has that name.
                let escaped = component(name.as_bytes());
                let twin = dir.map_or_else(|| escaped.clone(), |dir| format!("{dir}/{escaped}"));
                if tree.get(&twin).is_some() {
                    return Err(damaged(&format!("it and `{twin}` have the same name here")));
                }
                name.as_bytes().to_vec()
            }
        }
    };
    if matches!(raw.as_slice(), b"" | b"." | b"..") || raw.len() > names::NAME_MAX || raw.iter().any(|b| matches!(b, b'/' | 0)) {
        return Err(damaged("such a name cannot be"));
    }
    Ok(raw)
}

/// One path, by its Pijul name; `parent` is the raw path of its directory.
fn entry(tree: &HeadTree, pijul: &str, held: Held, parent: &[u8]) -> Result<Entry> {
    let sidecar = names::sidecar(pijul);
    let mut side = match text(tree, &sidecar)? {
        Some(text) => Sidecar::parse(&text).map_err(|e| Error::new(e.class, format!("`{sidecar}`: {e}")))?,
        None => Sidecar::default(),
    };
    let path = if pijul.is_empty() { Vec::new() } else { join(parent, &raw_name(tree, pijul, side.name.take())?) };
    // What has become a directory, by somebody else, is one, whatever its sidecar says.
    let (kind, executable) = match held {
        Held::Directory => (FileKind::Directory, true),
        Held::File { executable, .. } => (side.kind.unwrap_or(FileKind::File), executable),
    };
    let mode = side.mode.unwrap_or_else(|| default_mode(kind, executable));
    let bytes = match held {
        Held::File { at, len, .. } if kind == FileKind::File => {
            if side.manifest {
                let text = text(tree, pijul)?.unwrap_or_default();
                Bytes::Manifest(Manifest::parse(&text).map_err(|e| Error::new(e.class, format!("`{pijul}`: {e}")))?)
            } else {
                Bytes::Text { at, len }
            }
        }
        _ => Bytes::None,
    };
    // A file that cannot be more than its sidecar changes with it.
    let time = if bytes == Bytes::None { tree.time(pijul).max(tree.time(&sidecar)) } else { tree.time(pijul) };
    let Sidecar { uid, gid, rdev, xattrs, target, link, .. } = side;
    Ok(Entry { path, kind, mode, uid, gid, rdev: rdev.unwrap_or(0), xattrs, target, link, bytes, time })
}

fn text(tree: &HeadTree, path: &str) -> Result<Option<String>> {
    match tree.get(path) {
        None => return Ok(None),
        Some(Held::File { len, .. }) if len <= TEXT_LIMIT => {}
        Some(_) => return Err(Error::new(Class::Damage, format!("`{path}` is no sidecar or manifest"))),
    }
    let bytes = tree.bytes(path).doing(|| format!("cannot read `{path}`"))?.unwrap_or_default();
    String::from_utf8(bytes).map(Some).map_err(|_| Error::new(Class::Damage, format!("`{path}` is not UTF-8")))
}

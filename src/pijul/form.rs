//! The form in which Pijul holds a file: a text (UTF-8 without NUL, of at most [`TEXT_MAX`] bytes) as itself, all else as a manifest.
//!
//! The form is sticky: what is a manifest becomes a text only at [`TEXT_AGAIN`] bytes or less. A file that grows and shrinks around
//! [`TEXT_MAX`] would else be written whole into every other change, and the credit of its lines be lost each time. What it is, the
//! repository says itself: the sidecar at the head. It does not say why; so a file that was binary, or that a refusal made a manifest (the
//! safe form), is a text again by the same rule. In the safe form every file is a manifest.

use libpijul::pristine::sanakirja::MutTxn0;
use libpijul::{ArcTxn, ChannelRef, TreeTxnT};

use crate::error::{Class, Error, Result};
use crate::pijul::apply::refused;
use crate::pijul::manifest::Manifest;
use crate::pijul::sidecar::Sidecar;
use crate::pijul::store::ChangeFiles;
use crate::pijul::view::Put;
use crate::pijul::{Item, TEXT_MAX, TreeChange, credit, names};
use crate::versions::node::FileKind;

/// The longest manifest's file that becomes a text, in bytes.
pub(super) const TEXT_AGAIN: u64 = TEXT_MAX / 2;

/// Whether the file at a path of the old state, in Pijul's names, is a manifest there.
pub(super) type Before<'a> = &'a dyn Fn(&str) -> Result<bool>;

/// What Pijul is to hold for an item, and whether that is a manifest. `path` is Pijul's; `before` says whether it was one in the old state.
pub(super) fn form(new: &Item, path: &str, safe: bool, before: &dyn Fn() -> Result<bool>) -> Result<(Put, bool)> {
    let node = &new.node;
    let empty = || Put::File { bytes: Vec::new(), executable: false };
    match node.kind {
        FileKind::Directory => return Ok((Put::Dir, false)),
        FileKind::Symlink | FileKind::Fifo | FileKind::CharDevice | FileKind::BlockDevice | FileKind::Socket => {
            return Ok((empty(), false));
        }
        FileKind::File => {}
    }
    let executable = node.attrs.mode & 0o100 != 0;
    if node.size == 0 {
        return Ok((Put::File { bytes: Vec::new(), executable }, false));
    }
    if node.size <= TEXT_MAX && !safe && !(node.size > TEXT_AGAIN && before()?) {
        let bytes = new.content.read_all()?;
        if bytes.len() as u64 != node.size {
            let (got, want) = (bytes.len(), node.size);
            return Err(Error::new(Class::Damage, format!("`{path}` has {got} bytes where its version says {want}")));
        }
        if !bytes.contains(&0) && std::str::from_utf8(&bytes).is_ok() {
            return Ok((Put::File { bytes, executable }, false));
        }
    }
    let bytes = Manifest::of(new)?.text().into_bytes();
    Ok((Put::File { bytes, executable }, true))
}

/// Where the file of a change was in the old state, in Pijul's names; `None` where no file was.
pub(super) fn old_path(changes: &[TreeChange], change: &TreeChange) -> Option<String> {
    change.old.as_ref().filter(|old| old.node.kind == FileKind::File)?;
    // A directory above it may have been renamed; the nearest says where everything below it was.
    let rest = |dir: &TreeChange| change.path.strip_prefix(&dir.path[..]).filter(|rest| rest.is_empty() || rest.starts_with(b"/"));
    let moved = changes.iter().filter_map(|c| Some((c.from.as_ref()?, rest(c)?))).min_by_key(|(_, rest)| rest.len());
    Some(moved.map_or_else(|| names::path(&change.path), |(from, rest)| names::path(&[&from[..], rest].concat())))
}

/// Whether a path, in Pijul's names, is a manifest at the head: what its sidecar says.
pub(super) fn is_manifest(txn: &ArcTxn<MutTxn0>, channel: &ChannelRef<MutTxn0>, store: &ChangeFiles, path: &str) -> Result<bool> {
    let position = {
        let txn = txn.read();
        let Ok(inode) = libpijul::fs::find_inode(&*txn, &names::sidecar(path)) else { return Ok(false) };
        txn.get_inodes(&inode, None).map_err(refused("cannot read the tree"))?.copied()
    };
    let Some(position) = position else { return Ok(false) };
    let text = credit::read(store, txn, channel, position)?;
    // Somebody else's is none.
    Ok(Sidecar::parse(&String::from_utf8_lossy(&text.bytes)).is_ok_and(|sidecar| sidecar.manifest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pijul::tests::item_of;

    #[test]
    fn where_a_file_was_is_found_by_the_nearest_directory_that_was_renamed() {
        let change = |path: &str, from: Option<&str>| TreeChange {
            path: path.into(),
            from: from.map(Into::into),
            old: Some(item_of(b"x")),
            new: Some(item_of(b"y")),
        };
        let changes = [change("b", Some("a")), change("b/d", Some("z/c")), change("bb", Some("q")), change("b/f", None)];
        let old = |path: &str, from| old_path(&changes, &change(path, from));
        assert_eq!(old("b/f", None).as_deref(), Some("a/f"));
        assert_eq!(old("b/d/f", None).as_deref(), Some("z/c/f"));
        assert_eq!(old("c/f", None).as_deref(), Some("c/f"));
        assert_eq!(old("bb", None).as_deref(), Some("q"));
        assert_eq!(old_path(&changes, &TreeChange { old: None, ..change("b/f", None) }), None);
    }
}

//! Merging a text: Pijul's work ([`crate::pijul::undo`]). What is a text is what Pijul holds as one: UTF-8 without NUL, up to 1 MiB.

use super::line::Way;
use crate::error::Result;
use crate::ids::Ino;
use crate::tree::Tree;

/// Longest text that is merged, in bytes; as [`crate::pijul::TEXT_MAX`], which is not there without Pijul.
const TEXT_MAX: u64 = 1 << 20;

/// What became of a text.
#[cfg_attr(not(feature = "pijul"), expect(dead_code, reason = "without Pijul nothing is merged"))]
pub(super) enum Merged {
    /// This; and what it is now.
    Text(Vec<u8>, Vec<u8>),
    /// With marks.
    Conflict(Vec<u8>),
    /// Later changes were built on the one that is to go.
    Needed,
    /// One of the three is no text, or this ize was built without Pijul.
    NoText,
}

/// The bytes of a file, if they are a text.
///
/// # Errors
/// What reading says.
pub(super) fn text(tree: &mut Tree, ino: Ino) -> Result<Option<Vec<u8>>> {
    if !cfg!(feature = "pijul") || tree.inode(ino)?.size > TEXT_MAX {
        return Ok(None);
    }
    let bytes = tree.read_all(ino)?;
    Ok(Some(bytes).filter(|b| !b.contains(&0) && std::str::from_utf8(b).is_ok()))
}

/// The text `now` when what made `from` out of `to` is taken out of it (undo), or what makes `to` out of `from` is put into it (redo).
///
/// # Errors
/// What reading or libpijul says.
pub(super) fn merge(way: Way, from: (&mut Tree, Ino), to: (&mut Tree, Ino), now: (&mut Tree, Ino)) -> Result<Merged> {
    let (Some(from), Some(to), Some(now)) = (text(from.0, from.1)?, text(to.0, to.1)?, text(now.0, now.1)?) else {
        return Ok(Merged::NoText);
    };
    merge_texts(way, &from, &to, now)
}

#[cfg(feature = "pijul")]
fn merge_texts(way: Way, from: &[u8], to: &[u8], now: Vec<u8>) -> Result<Merged> {
    use crate::pijul::undo::{Left, put_back, take_out};
    let left = match way {
        Way::Undo => take_out(to, from, &now)?,
        Way::Redo => put_back(from, to, &now)?,
    };
    Ok(match left {
        Left::Text(text) => Merged::Text(text, now),
        Left::Conflict(shown) => Merged::Conflict(shown),
        Left::Needed => Merged::Needed,
    })
}

#[cfg(not(feature = "pijul"))]
fn merge_texts(_: Way, _: &[u8], _: &[u8], _: Vec<u8>) -> Result<Merged> {
    Ok(Merged::NoText)
}

/// Which of the later texts were built on the change from `before` to `after`; all of them where that cannot be said.
///
/// # Errors
/// What libpijul says.
#[cfg(feature = "pijul")]
pub(super) fn built_on(before: &[u8], after: &[u8], later: &[Vec<u8>]) -> Result<Vec<usize>> {
    let found = crate::pijul::undo::built_on(before, after, later)?;
    Ok(if found.is_empty() { (0..later.len()).collect() } else { found })
}

/// The same without Pijul.
///
/// # Errors
/// None.
#[cfg(not(feature = "pijul"))]
pub(super) fn built_on(_: &[u8], _: &[u8], later: &[Vec<u8>]) -> Result<Vec<usize>> {
    Ok((0..later.len()).collect())
}

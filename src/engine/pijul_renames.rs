//! What a program renamed by making it anew: a file that is gone, and one of the same bytes that has come in the same version, are one file to
//! Pijul, and its lines stay credited to who wrote them. `git checkout` does so, and `mv` from one file system to another.

use std::collections::HashMap;

use crate::pijul::{TreeChange, names};
use crate::versions::node::{FileKind, Node};

/// Pairs files that are gone with files that have come; of several with the same bytes, those with the same name first.
pub(super) fn pair(changes: &mut Vec<TreeChange>) {
    let file = |node: &Node| node.kind == FileKind::File && node.nlink == 1 && node.size > 0;
    let mut gone: HashMap<u64, Vec<usize>> = HashMap::new();
    for (n, change) in changes.iter().enumerate() {
        if let (Some(old), None, None) = (&change.old, &change.new, &change.from)
            && file(&old.node)
        {
            gone.entry(old.node.size).or_default().push(n);
        }
    }
    if gone.is_empty() {
        return;
    }
    let mut taken = Vec::new();
    for same_name in [true, false] {
        for n in 0..changes.len() {
            let Some(come) = changes.get(n) else { continue };
            let (Some(new), None, None) = (&come.new, &come.old, &come.from) else { continue };
            let Some(candidates) = gone.get_mut(&new.node.size).filter(|_| file(&new.node)) else { continue };
            let fits = |was: &usize| {
                changes.get(*was).is_some_and(|was| {
                    let content = was.old.as_ref().is_some_and(|old| old.node.content == new.node.content);
                    content && (!same_name || names::last(&was.path) == names::last(&come.path))
                })
            };
            let Some(place) = candidates.iter().position(fits) else { continue };
            let was = candidates.remove(place);
            let from = changes.get_mut(was).map(|was| (std::mem::take(&mut was.path), was.old.take()));
            if let (Some((path, old)), Some(come)) = (from, changes.get_mut(n)) {
                (come.from, come.old) = (Some(path), old);
                taken.push(was);
            }
        }
    }
    taken.sort_unstable();
    for was in taken.into_iter().rev() {
        changes.remove(was);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::error::Result;
    use crate::ids::BlobId;
    use crate::pijul::{ContentSource, Item};
    use crate::versions::node::{Attributes, Content, Piece};

    struct Nothing;

    impl ContentSource for Nothing {
        fn read_all(&self) -> Result<Vec<u8>> {
            Ok(Vec::new())
        }

        fn pieces(&self) -> Result<Vec<Piece>> {
            Ok(Vec::new())
        }
    }

    fn item(bytes: &str, nlink: u64) -> Option<Item> {
        let content = Content::Pieces(vec![Piece::Chunk { id: BlobId::of(bytes.as_bytes()), len: bytes.len() as u32 }]);
        let attrs = Attributes::default();
        let node = Node {
            kind: FileKind::File,
            attrs,
            xattrs: Default::default(),
            nlink: nlink as _,
            size: bytes.len() as u64,
            allocated: 0,
            content,
        };
        Some(Item { node, first_name: None, content: Arc::new(Nothing) })
    }

    #[test]
    fn what_is_gone_and_has_come_with_the_same_bytes_was_renamed() {
        let gone = |path: &str, bytes| TreeChange { path: path.into(), from: None, old: item(bytes, 1), new: None };
        let come = |path: &str, bytes| TreeChange { path: path.into(), from: None, old: None, new: item(bytes, 1) };
        let mut changes = vec![
            come("a/other", "same"),
            gone("b/x", "same"),
            gone("b/y", "same"),
            come("c/y", "same"),
            come("c/z", "emas"),
            gone("d", ""),
            come("e", ""),
            TreeChange { path: b"f".to_vec(), from: None, old: item("same", 1), new: item("b", 1) },
            come("g", "same"),
            TreeChange { path: b"h".to_vec(), from: None, old: item("two", 2), new: None },
            come("i", "two"),
        ];
        pair(&mut changes);
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let said: Vec<_> = changes.iter().map(|c| (text(&c.path), c.from.as_deref().map(text), c.old.is_some())).collect();
        let want = [
            ("a/other", Some("b/x"), true),
            ("c/y", Some("b/y"), true),
            ("c/z", None, false),
            ("d", None, true),
            ("e", None, false),
            ("f", None, true),
            ("g", None, false),
            ("h", None, true),
            ("i", None, false),
        ];
        let want: Vec<_> = want.into_iter().map(|(path, from, old)| (path.to_owned(), from.map(str::to_owned), old)).collect();
        assert_eq!(said, want);
    }
}

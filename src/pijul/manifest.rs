//! Manifests: the text that stands for a large or binary file. First line `ize-manifest 1 SIZE`, then one piece a line in order: 64
//! hexadecimal digits of a chunk's BLAKE3 hash and its length, or `hole LENGTH`. Lengths in bytes, decimal; they add up to the size.
//!
//! A file of more pieces than one page of them holds (some 16 to 64 MiB) has `ize-manifest 2 SIZE`, and lines `page HASH LENGTH STORED`: the
//! blob that the pieces of that part stand in, as in a version, its length, and how many bytes of that are no holes. So the manifest of a
//! file of 5 GB has 22 KB instead of 5 MB, and a version of it costs as little. An early ize listed all pieces of any file; that is read too.
//!
//! A manifest is known by its sidecar (`form manifest`), never by its first line: a text that looks like one is a text.

use std::fmt::Write as _;

use crate::error::{Class, Error, Result};
use crate::ids::BlobId;
use crate::pijul::Item;
use crate::versions::node::{Content, PageRef, Piece};

const MAGIC: &str = "ize-manifest ";

/// A part of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// A chunk or a hole.
    Piece(Piece),
    /// A page of pieces.
    Page(PageRef),
}

impl Part {
    /// Bytes of the file in it.
    #[must_use]
    pub fn len(&self) -> u64 {
        match self {
            Self::Piece(piece) => piece.len(),
            Self::Page(page) => page.len,
        }
    }

    /// Nothing is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Those of its bytes that are no holes.
    #[must_use]
    pub fn stored(&self) -> u64 {
        match self {
            Self::Piece(Piece::Hole { .. }) => 0,
            Self::Piece(piece) => piece.len(),
            Self::Page(page) => page.stored,
        }
    }
}

/// What a manifest says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Size of the file in bytes.
    pub size: u64,
    /// Its parts; they cover the size exactly.
    pub parts: Vec<Part>,
}

impl Manifest {
    /// A file of `size` bytes; what the parts do not cover is a hole.
    ///
    /// # Errors
    /// When the parts cover more than the size.
    pub fn new(size: u64, mut parts: Vec<Part>) -> Result<Self> {
        parts.retain(|p| !p.is_empty());
        let covered = total(&parts).filter(|&t| t <= size);
        let covered =
            covered.ok_or_else(|| Error::new(Class::Damage, format!("the pieces of a file of {size} bytes cover more than it")))?;
        if covered < size {
            parts.push(Part::Piece(Piece::Hole { len: size - covered }));
        }
        Ok(Self { size, parts })
    }

    /// That of a regular file.
    ///
    /// # Errors
    /// What reading the list of its pieces says.
    pub fn of(item: &Item) -> Result<Self> {
        let pages = if matches!(item.node.content, Content::PieceTree { .. }) { item.content.pages()? } else { Vec::new() };
        if pages.is_empty() { Self::in_full(item) } else { Self::new(item.node.size, pages.into_iter().map(Part::Page).collect()) }
    }

    /// The same with all its pieces, as an early ize wrote it.
    ///
    /// # Errors
    /// As [`of`](Self::of).
    pub fn in_full(item: &Item) -> Result<Self> {
        let pieces = match &item.node.content {
            Content::Pieces(pieces) => pieces.clone(),
            Content::Empty => Vec::new(),
            Content::PieceList(_) | Content::PieceTree { .. } | Content::Directory(_) | Content::Target(_) => item.content.pieces()?,
        };
        Self::new(item.node.size, pieces.into_iter().map(Part::Piece).collect())
    }

    /// The text.
    #[must_use]
    pub fn text(&self) -> String {
        let version = if self.parts.iter().any(|part| matches!(part, Part::Page(_))) { 2 } else { 1 };
        let mut out = format!("{MAGIC}{version} {}\n", self.size);
        for part in &self.parts {
            // Writing to a String cannot fail.
            let _ = match part {
                Part::Piece(Piece::Chunk { id, len }) => writeln!(out, "{id} {len}"),
                Part::Piece(Piece::Hole { len }) => writeln!(out, "hole {len}"),
                Part::Page(PageRef { id, len, stored }) => writeln!(out, "page {id} {len} {stored}"),
            };
        }
        out
    }

    /// Reads a manifest.
    ///
    /// # Errors
    /// `Damage`, with the line, when it is not one.
    pub fn parse(text: &str) -> Result<Self> {
        let bad = |n: usize, why: &str| Error::new(Class::Damage, format!("manifest, line {n}: {why}"));
        let mut lines = text.lines().enumerate();
        let first = lines.next().and_then(|(_, l)| l.strip_prefix(MAGIC)).and_then(|l| l.split_once(' '));
        let (version, size) = first.ok_or_else(|| bad(1, "does not begin with `ize-manifest 1 SIZE`"))?;
        let pages = match version {
            "1" => false,
            "2" => true,
            _ => return Err(bad(1, &format!("is of version {version}, and this ize reads up to 2"))),
        };
        let size = decimal(size).ok_or_else(|| bad(1, "bad size"))?;
        let mut parts = Vec::new();
        for (i, line) in lines {
            let (what, len) = line.split_once(' ').ok_or_else(|| bad(i + 1, "no length"))?;
            let number = |text| decimal(text).filter(|&l| l > 0).ok_or_else(|| bad(i + 1, "bad length"));
            let id = |text: &str| text.parse::<BlobId>().map_err(|_| bad(i + 1, "bad hash"));
            parts.push(match what {
                "hole" => Part::Piece(Piece::Hole { len: number(len)? }),
                "page" if pages => {
                    let words: Vec<&str> = len.split(' ').collect();
                    let [page, len, stored] = words[..] else { return Err(bad(i + 1, "a page has a hash and two lengths")) };
                    let (len, stored) = (number(len)?, decimal(stored).ok_or_else(|| bad(i + 1, "bad length"))?);
                    if stored > len {
                        return Err(bad(i + 1, "more of the page is stored than it has"));
                    }
                    Part::Page(PageRef { id: id(page)?, len, stored })
                }
                chunk => {
                    let len = u32::try_from(number(len)?).map_err(|_| bad(i + 1, "bad length"))?;
                    Part::Piece(Piece::Chunk { id: id(chunk)?, len })
                }
            });
        }
        if total(&parts) != Some(size) {
            return Err(bad(1, "the pieces do not add up to the size"));
        }
        Ok(Self { size, parts })
    }
}

/// A decimal number without sign, blanks or leading zeros, so that every manifest has one spelling.
fn decimal(text: &str) -> Option<u64> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| plain)
}

fn total(parts: &[Part]) -> Option<u64> {
    parts.iter().try_fold(0_u64, |sum, p| sum.checked_add(p.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_comes_back_exactly() {
        let chunk = |b: &[u8]| Part::Piece(Piece::Chunk { id: BlobId::of(b), len: b.len() as u32 });
        let page = |len, stored| Part::Page(PageRef { id: BlobId::of(b"page"), len, stored });
        for (version, size, parts) in [
            (1, 0, vec![]),
            (1, 7, vec![chunk(b"abc"), Part::Piece(Piece::Hole { len: 1 }), chunk(b"xyz")]),
            (1, 1 << 40, vec![chunk(b"abc")]),
            (1, 5, vec![]),
            (2, 1 << 40, vec![page(1 << 39, 0), page(7, 7), chunk(b"abc")]),
        ] {
            let m = Manifest::new(size, parts).unwrap();
            assert!(m.text().starts_with(&format!("ize-manifest {version} {size}\n")));
            assert_eq!(Manifest::parse(&m.text()).unwrap(), m);
        }
    }

    #[test]
    fn what_is_no_manifest_is_refused() {
        for text in [
            "",
            "x",
            "ize-manifest 3 0\n",
            "ize-manifest 2 5\npage 5\n",
            "ize-manifest 2 5\npage abc 5 5\n",
            "ize-manifest 2 5\npage 0000000000000000000000000000000000000000000000000000000000000000 5 6\n",
            "ize-manifest 1 5\npage 0000000000000000000000000000000000000000000000000000000000000000 5 5\n",
            "ize-manifest 2 6\npage 0000000000000000000000000000000000000000000000000000000000000000 5 5\n",
            "ize-manifest 1 5\n",
            "ize-manifest 1 +5\nhole 5\n",
            "ize-manifest 1 5\nhole 05\n",
            "ize-manifest 1 5\nhole\n",
            "ize-manifest 1 5\nabc 5\n",
            "ize-manifest 1 0\nhole 0\n",
            "ize-manifest 1 1\nhole 18446744073709551615\nhole 2\n",
        ] {
            assert_eq!(Manifest::parse(text).unwrap_err().class, Class::Damage, "{text:?}");
        }
        assert!(Manifest::new(1, vec![Part::Piece(Piece::Hole { len: 2 })]).is_err());
    }
}

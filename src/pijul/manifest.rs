//! Manifests: the text that stands for a large or binary file. First line `ize-manifest 1 SIZE`, then one piece a line in order: 64
//! hexadecimal digits of a chunk's BLAKE3 hash and its length, or `hole LENGTH`. Lengths in bytes, decimal; they add up to the size.
//!
//! A manifest is known by its sidecar (`form manifest`), never by its first line: a text that looks like one is a text.

use std::fmt::Write as _;

use crate::error::{Class, Error, Result};
use crate::ids::BlobId;
use crate::versions::node::Piece;

const MAGIC: &str = "ize-manifest 1 ";

/// What a manifest says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Size of the file in bytes.
    pub size: u64,
    /// Its pieces; they cover the size exactly.
    pub pieces: Vec<Piece>,
}

impl Manifest {
    /// A file of `size` bytes; what the pieces do not cover is a hole.
    ///
    /// # Errors
    /// When the pieces cover more than the size.
    pub fn new(size: u64, mut pieces: Vec<Piece>) -> Result<Self> {
        pieces.retain(|p| !p.is_empty());
        let covered = total(&pieces).filter(|&t| t <= size);
        let covered =
            covered.ok_or_else(|| Error::new(Class::Damage, format!("the pieces of a file of {size} bytes cover more than it")))?;
        if covered < size {
            pieces.push(Piece::Hole { len: size - covered });
        }
        Ok(Self { size, pieces })
    }

    /// The text.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = format!("{MAGIC}{}\n", self.size);
        for piece in &self.pieces {
            // Writing to a String cannot fail.
            let _ = match piece {
                Piece::Chunk { id, len } => writeln!(out, "{id} {len}"),
                Piece::Hole { len } => writeln!(out, "hole {len}"),
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
        let size = lines.next().and_then(|(_, l)| l.strip_prefix(MAGIC)).and_then(decimal);
        let size = size.ok_or_else(|| bad(1, "does not begin with `ize-manifest 1 SIZE`"))?;
        let mut pieces = Vec::new();
        for (i, line) in lines {
            let (what, len) = line.split_once(' ').ok_or_else(|| bad(i + 1, "no length"))?;
            let len = decimal(len).filter(|&l| l > 0).ok_or_else(|| bad(i + 1, "bad length"))?;
            pieces.push(if what == "hole" {
                Piece::Hole { len }
            } else {
                let id: BlobId = what.parse().map_err(|_| bad(i + 1, "bad chunk hash"))?;
                Piece::Chunk { id, len: u32::try_from(len).map_err(|_| bad(i + 1, "bad length"))? }
            });
        }
        if total(&pieces) != Some(size) {
            return Err(bad(1, "the pieces do not add up to the size"));
        }
        Ok(Self { size, pieces })
    }
}

/// A decimal number without sign, blanks or leading zeros, so that every manifest has one spelling.
fn decimal(text: &str) -> Option<u64> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| plain)
}

fn total(pieces: &[Piece]) -> Option<u64> {
    pieces.iter().try_fold(0_u64, |sum, p| sum.checked_add(p.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_comes_back_exactly() {
        let chunk = |b: &[u8]| Piece::Chunk { id: BlobId::of(b), len: b.len() as u32 };
        for (size, pieces) in
            [(0, vec![]), (7, vec![chunk(b"abc"), Piece::Hole { len: 1 }, chunk(b"xyz")]), (1 << 40, vec![chunk(b"abc")]), (5, vec![])]
        {
            let m = Manifest::new(size, pieces).unwrap();
            assert_eq!(Manifest::parse(&m.text()).unwrap(), m);
        }
    }

    #[test]
    fn what_is_no_manifest_is_refused() {
        for text in [
            "",
            "x",
            "ize-manifest 2 0\n",
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
        assert!(Manifest::new(1, vec![Piece::Hole { len: 2 }]).is_err());
    }
}

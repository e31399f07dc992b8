//! Sidecars: one small text per path for what Pijul cannot hold, only where something is not the default. First line `ize-meta 1`, then
//! `key value` lines in this order, each only where it applies:
//!
//! ```text
//! name NAME          the real name, where it was too long to be escaped
//! kind KIND          symlink, fifo, char, block, socket (the file itself is empty)
//! target TARGET      of a symlink
//! form manifest      the file is a manifest; without this line it is itself
//! mode OCTAL         where not 0644 or 0755 (Pijul's x bit), 0755 for a directory, 0777 for a symlink
//! uid N, gid N       where not the project's
//! rdev N             of a device
//! xattr NAME HEX     `-` for an empty value; a blank in NAME is %20
//! link PATH          hard link: the first name, in byte order, of its group
//! ```
//! Names, targets and paths are escaped as in [`names`]. There are no times and no inode numbers: they would make a change of every touch.

use std::fmt::Write as _;

use crate::error::{Class, Error, Result};
use crate::pijul::{Item, names};
use crate::versions::node::{Content, FileKind, Xattrs};

const MAGIC: &str = "ize-meta 1";

/// What a sidecar says; `Default` is what no sidecar says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sidecar {
    /// The real name.
    pub name: Option<Vec<u8>>,
    /// Kind, where Pijul's (file or directory) does not tell.
    pub kind: Option<FileKind>,
    /// Target of a symlink.
    pub target: Option<Vec<u8>>,
    /// The file is a manifest.
    pub manifest: bool,
    /// Permission bits: `0..=0o7777`.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Device number.
    pub rdev: Option<u32>,
    /// Extended attributes.
    pub xattrs: Xattrs,
    /// First name of the hard link's group.
    pub link: Option<Vec<u8>>,
}

/// The mode a path has when no sidecar says otherwise. `executable` is Pijul's bit.
#[must_use]
pub fn default_mode(kind: FileKind, executable: bool) -> u32 {
    match kind {
        FileKind::File if executable => 0o755,
        FileKind::Directory => 0o755,
        FileKind::Symlink => 0o777,
        FileKind::File | FileKind::Fifo | FileKind::CharDevice | FileKind::BlockDevice | FileKind::Socket => 0o644,
    }
}

fn kind_word(kind: FileKind) -> Option<&'static str> {
    match kind {
        FileKind::File | FileKind::Directory => None,
        FileKind::Symlink => Some("symlink"),
        FileKind::Fifo => Some("fifo"),
        FileKind::CharDevice => Some("char"),
        FileKind::BlockDevice => Some("block"),
        FileKind::Socket => Some("socket"),
    }
}

impl Sidecar {
    /// What must be said of `item`. `raw` is its path, `path` the same as Pijul has it, `owner` the project's user and group.
    #[must_use]
    pub fn of(item: &Item, raw: &[u8], path: &str, owner: (u32, u32), manifest: bool) -> Self {
        let (kind, attrs) = (item.node.kind, &item.node.attrs);
        let long = names::is_long(path.rsplit('/').next().unwrap_or(path));
        let executable = kind == FileKind::File && attrs.mode & 0o100 != 0;
        let device = matches!(kind, FileKind::CharDevice | FileKind::BlockDevice);
        Self {
            name: long.then(|| names::last(raw).to_vec()),
            kind: kind_word(kind).map(|_| kind),
            target: match &item.node.content {
                Content::Target(t) => Some(t.clone()),
                Content::Empty | Content::Pieces(_) | Content::PieceList(_) | Content::PieceTree { .. } | Content::Directory(_) => None,
            },
            manifest,
            mode: Some(attrs.mode & 0o7777).filter(|&m| m != default_mode(kind, executable)),
            uid: Some(attrs.uid).filter(|&u| u != owner.0),
            gid: Some(attrs.gid).filter(|&g| g != owner.1),
            rdev: device.then_some(attrs.rdev),
            xattrs: item.node.xattrs.clone(),
            link: item.first_name.clone(),
        }
    }

    /// The text; `None` when there is nothing to say.
    #[must_use]
    pub fn text(&self) -> Option<String> {
        if *self == Self::default() {
            return None;
        }
        let mut out = format!("{MAGIC}\n");
        let mut line = |key: &str, value: &str| {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "{key} {value}");
        };
        if let Some(name) = &self.name {
            line("name", &names::escape(name));
        }
        if let Some(word) = self.kind.and_then(kind_word) {
            line("kind", word);
        }
        if let Some(target) = &self.target {
            line("target", &names::escape(target));
        }
        if self.manifest {
            line("form", "manifest");
        }
        if let Some(mode) = self.mode {
            line("mode", &format!("{mode:04o}"));
        }
        for (key, value) in [("uid", self.uid), ("gid", self.gid), ("rdev", self.rdev)] {
            if let Some(value) = value {
                line(key, &value.to_string());
            }
        }
        for (name, value) in &self.xattrs {
            let hex: String = if value.is_empty() { "-".to_owned() } else { value.iter().map(|b| format!("{b:02x}")).collect() };
            line("xattr", &format!("{} {hex}", names::escape(name).replace(' ', "%20")));
        }
        if let Some(link) = &self.link {
            line("link", &names::escape(link));
        }
        Some(out)
    }

    /// Reads a sidecar.
    ///
    /// # Errors
    /// `Damage`, with the line, when it is not one.
    pub fn parse(text: &str) -> Result<Self> {
        let bad = |n: usize, why: &str| Error::new(Class::Damage, format!("sidecar, line {n}: {why}"));
        let mut lines = text.split_terminator('\n').enumerate();
        if lines.next().map(|(_, l)| l) != Some(MAGIC) {
            return Err(bad(1, "does not begin with `ize-meta 1`"));
        }
        let mut out = Self::default();
        for (i, line) in lines {
            let n = i + 1;
            let (key, value) = line.split_once(' ').ok_or_else(|| bad(n, "no value"))?;
            let number = || value.parse::<u32>().map_err(|_| bad(n, "not a number"));
            match key {
                "name" => out.name = Some(names::unescape(value)),
                "kind" => {
                    let kinds = [FileKind::Symlink, FileKind::Fifo, FileKind::CharDevice, FileKind::BlockDevice, FileKind::Socket];
                    let kind = kinds.into_iter().find(|&k| kind_word(k) == Some(value));
                    out.kind = Some(kind.ok_or_else(|| bad(n, "unknown kind"))?);
                }
                "target" => out.target = Some(names::unescape(value)),
                "form" if value == "manifest" => out.manifest = true,
                "mode" => {
                    let mode = u32::from_str_radix(value, 8).ok().filter(|&m| m <= 0o7777);
                    out.mode = Some(mode.ok_or_else(|| bad(n, "bad mode"))?);
                }
                "uid" => out.uid = Some(number()?),
                "gid" => out.gid = Some(number()?),
                "rdev" => out.rdev = Some(number()?),
                "xattr" => {
                    let (name, hex) = value.split_once(' ').ok_or_else(|| bad(n, "no value"))?;
                    let value = unhex(hex).ok_or_else(|| bad(n, "bad hexadecimal"))?;
                    out.xattrs.insert(names::unescape(name), value);
                }
                "link" => out.link = Some(names::unescape(value)),
                _ => return Err(bad(n, "unknown key (written by a newer ize?)")),
            }
        }
        Ok(out)
    }
}

fn unhex(hex: &str) -> Option<Vec<u8>> {
    if hex == "-" {
        return Some(Vec::new());
    }
    if hex.is_empty() || !hex.len().is_multiple_of(2) || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    (0..hex.len()).step_by(2).map(|i| hex.get(i..i + 2).and_then(|d| u8::from_str_radix(d, 16).ok())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_to_say_is_no_sidecar() {
        assert_eq!(Sidecar::default().text(), None);
    }

    #[test]
    fn a_full_sidecar_comes_back_exactly() {
        let all = Sidecar {
            name: Some(vec![0xff; 255]),
            kind: Some(FileKind::Symlink),
            target: Some(b"a b\n%41\xff".to_vec()),
            manifest: true,
            mode: Some(0o6755),
            uid: Some(0),
            gid: Some(u32::MAX),
            rdev: Some(0x801),
            xattrs: [(b"user.a b%20".to_vec(), vec![]), (b"user.\xff".to_vec(), vec![0, 255, 10])].into(),
            link: Some(b" x/\ny ".to_vec()),
        };
        let text = all.text().unwrap();
        assert_eq!(Sidecar::parse(&text).unwrap(), all, "{text}");
    }

    #[test]
    fn what_is_no_sidecar_is_refused() {
        for line in
            ["", "x", "ize-meta 2\n", "ize-meta 1\nkind dog\n", "ize-meta 1\nmode 17777\n", "ize-meta 1\nuid -1\n", "ize-meta 1\nsize 3\n"]
                .into_iter()
                .chain(["ize-meta 1\nxattr a\n", "ize-meta 1\nxattr a 0\n", "ize-meta 1\nxattr a +1\n", "ize-meta 1\nuid\n"])
        {
            assert_eq!(Sidecar::parse(line).unwrap_err().class, Class::Damage, "{line:?}");
        }
    }
}

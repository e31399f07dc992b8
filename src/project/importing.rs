//! `meta/import.toml`: an import into the project has begun and not ended. It names the source, so that the same command goes on with it,
//! and goes when everything is in a version.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::{Class, Error, IoContext, Result};
use crate::project::layout::Layout;
use crate::project::{Project, atomic, base64};

/// An import that has begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Importing {
    /// Where it takes the files from: absolute, without symbolic links.
    pub source: PathBuf,
    /// The source is a Pijul repository, of which the head is taken.
    pub pijul: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct File {
    source: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    source_b64: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pijul: bool,
    /// CRC-32 of its bytes, hexadecimal: a directory that is not the one meant must not be taken for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    check: Option<String>,
}

fn check(source: &[u8]) -> String {
    format!("{:08x}", crc32fast::hash(source))
}

impl Importing {
    /// The import that has begun in a project, if one has.
    ///
    /// # Errors
    /// [`Class::Io`] when the file cannot be read, [`Class::Damage`] when it does not parse.
    pub fn read(layout: &Layout) -> Result<Option<Self>> {
        let path = layout.importing();
        let damaged = |why: &str| {
            Error::new(Class::Damage, format!("{} is damaged: {why}", path.display()))
                .hint("remove it to keep what the project holds as it is")
        };
        let bytes = match std::fs::read(&path) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            other => other.doing(|| format!("cannot read {}", path.display()))?,
        };
        let text = String::from_utf8(bytes).map_err(|_| damaged("it is no text"))?;
        let file: File = toml::from_str(&text).map_err(|e| damaged(e.message()))?;
        let source = match &file.source_b64 {
            Some(coded) => OsString::from_vec(base64::decode(coded).ok_or_else(|| damaged("`source-b64` is not base64"))?),
            None => file.source.into(),
        };
        if file.check.is_some_and(|said| said != check(source.as_bytes())) {
            return Err(damaged("`source` does not fit `check` (remove that line if the source is right)"));
        }
        Ok(Some(Self { source: source.into(), pijul: file.pijul }))
    }

    /// Writes the file durably.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub fn write(&self, layout: &Layout) -> Result<()> {
        let bytes = self.source.as_os_str().as_bytes();
        let source_b64 = std::str::from_utf8(bytes).is_err().then(|| base64::encode(bytes));
        let file = File { source: String::from_utf8_lossy(bytes).into_owned(), source_b64, pijul: self.pijul, check: Some(check(bytes)) };
        let text = toml::to_string(&file).map_err(|e| Error::new(Class::Failed, e.to_string()))?;
        atomic::replace(&layout.importing(), text.as_bytes())
    }

    /// Says durably that no import is under way.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub fn remove(layout: &Layout) -> Result<()> {
        let path = layout.importing();
        std::fs::remove_file(&path).doing(|| format!("cannot remove {}", path.display()))?;
        atomic::sync_dir(&layout.meta())
    }

    /// The command that goes on with it, for project `name`.
    #[must_use]
    pub fn command(&self, name: &str) -> String {
        format!("ize init {name} {} {}", if self.pijul { "--from-pijul" } else { "--from" }, self.source.display())
    }

    /// The error of whoever wants `project` whole.
    #[must_use]
    pub fn unfinished(&self, project: &Project) -> Error {
        let (name, source) = (&project.identity.name, self.source.display());
        Error::new(Class::Refused, format!("the import of {source} into `{name}` is unfinished")).hint(format!(
            "`{}` goes on with it; remove {} to keep what is there as it is",
            self.command(name),
            project.layout.importing().display()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_comes_back_byte_for_byte() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        std::fs::create_dir(layout.meta()).unwrap();
        assert_eq!(Importing::read(&layout).unwrap(), None);
        for source in [&b"/home/ann"[..], b"/odd \"\xff\n'"] {
            let begun = Importing { source: OsString::from_vec(source.to_vec()).into(), pijul: source[1] == b'o' };
            begun.write(&layout).unwrap();
            assert_eq!(Importing::read(&layout).unwrap(), Some(begun));
        }
        // By hand, or by an older ize.
        std::fs::write(layout.importing(), "source = \"/x\"\n").unwrap();
        assert_eq!(Importing::read(&layout).unwrap(), Some(Importing { source: "/x".into(), pijul: false }));
        Importing { source: "/x".into(), pijul: false }.write(&layout).unwrap();
        let text = std::fs::read_to_string(layout.importing()).unwrap();
        std::fs::write(layout.importing(), text.replace("/x", "/y")).unwrap();
        assert_eq!(Importing::read(&layout).unwrap_err().class, Class::Damage);
        Importing::remove(&layout).unwrap();
        assert_eq!(Importing::read(&layout).unwrap(), None);
    }
}

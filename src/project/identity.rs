//! `meta/project.toml`: who a project is. Written whole and atomically; keys that this build does not know are refused, so that an older
//! ize never drops what a newer one wrote. What may grow without a new build refusing the file stands under `[features]`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Class, Error, Result};
use crate::ids::{StoreId, Time};
use crate::project::{atomic, base64, config, names};

/// Format of the file that this build writes and reads.
pub const FORMAT: u32 = 1;

/// Features that this build can read. (`encryption` is a reserved name.)
pub const KNOWN_FOR_READING: &[&str] = &[];
/// Features that this build can write.
pub const KNOWN_FOR_WRITING: &[&str] = &[];

/// What somebody wants to do with a project.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read only.
    Read,
    /// Read and write.
    Write,
}

/// Who a project is.
#[derive(Clone, Debug, PartialEq)]
pub struct Identity {
    /// Name, checked by [`names::check`].
    pub name: String,
    /// Id; also the name of the project's directory and part of every checksum.
    pub id: StoreId,
    /// When `ize init` made it.
    pub created: Time,
    /// User that `ize init` ran as: history and commands are theirs and root's.
    pub owner_uid: u32,
    /// Their group.
    pub owner_gid: u32,
    /// Where it was mounted last.
    pub last_mountpoint: Option<PathBuf>,
    /// Features that one must know to read this project.
    pub read_features: Vec<String>,
    /// Features that one must know to write to it.
    pub write_features: Vec<String>,
    /// Settings of this project alone, as they stand in the file: `(key, value)`. Judged when they are used (`Settings::resolve`): a slip
    /// in one must not make a project unknown.
    pub settings: Vec<(String, String)>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct File {
    format: u32,
    name: String,
    id: String,
    /// RFC 3339.
    created: String,
    owner_uid: u32,
    owner_gid: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_mountpoint: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_mountpoint_b64: Option<String>,
    #[serde(default)]
    features: Features,
    #[serde(default, skip_serializing_if = "toml::Table::is_empty")]
    settings: toml::Table,
}

#[derive(Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Features {
    #[serde(default)]
    read_compat: Vec<String>,
    #[serde(default)]
    write_compat: Vec<String>,
}

impl Identity {
    /// Reads the file. Feature names are kept as they are: [`Identity::check`] judges them.
    ///
    /// # Errors
    /// [`Class::NotFound`] when there is none, [`Class::Damage`] when it does not parse, [`Class::Refused`] for a newer format.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| {
            let error = Error::io(format!("cannot read {}", path.display()), e);
            match error.source.as_ref().and_then(|s| s.downcast_ref::<std::io::Error>()).map(std::io::Error::kind) {
                Some(std::io::ErrorKind::NotFound) => Error { class: Class::NotFound, ..error },
                Some(std::io::ErrorKind::InvalidData) => Error { class: Class::Damage, ..error },
                _ => error,
            }
        })?;
        Self::parse(&text, path)
    }

    fn parse(text: &str, path: &Path) -> Result<Self> {
        let damaged = |why: String| {
            Error::new(Class::Damage, format!("{} is damaged: {why}", path.display()))
                .hint("mend it by hand; the history beside it is untouched")
        };
        // The format is judged before anything else: a newer file may have keys and types that this build cannot parse.
        let table: toml::Table = text.parse().map_err(|e: toml::de::Error| damaged(e.message().to_owned()))?;
        match table.get("format").and_then(toml::Value::as_integer) {
            Some(n) if n == i64::from(FORMAT) => {}
            Some(n) => {
                return Err(Error::new(Class::Refused, format!("{} has format {n}, this ize knows format {FORMAT}", path.display()))
                    .hint("use the ize that wrote it"));
            }
            None => return Err(damaged("it has no `format`".into())),
        }
        let file: File = table.try_into().map_err(|e: toml::de::Error| damaged(e.message().to_owned()))?;
        names::check(&file.name).map_err(|e| damaged(e.message))?;
        let last_mountpoint = match (file.last_mountpoint, file.last_mountpoint_b64) {
            (_, Some(coded)) => {
                let bytes = base64::decode(&coded).ok_or_else(|| damaged("`last-mountpoint-b64` is not base64".into()))?;
                Some(PathBuf::from(OsString::from_vec(bytes)))
            }
            (Some(plain), None) => Some(PathBuf::from(plain)),
            (None, None) => None,
        };
        let created: jiff::Timestamp =
            file.created.parse().map_err(|_| damaged(format!("`{}` is not a time", file.created.escape_debug())))?;
        let created = std::time::SystemTime::from(created).into();
        let settings = config::flatten(&file.settings).map_err(|e| damaged(e.message))?;
        Ok(Self {
            id: file.id.parse().map_err(|_| damaged(format!("`{}` is not an id", file.id.escape_debug())))?,
            name: file.name,
            created,
            owner_uid: file.owner_uid,
            owner_gid: file.owner_gid,
            last_mountpoint,
            read_features: file.features.read_compat,
            write_features: file.features.write_compat,
            settings,
        })
    }

    /// Writes the file atomically and durably.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub fn write(&self, path: &Path) -> Result<()> {
        let created =
            jiff::Timestamp::new(self.created.secs, i32::try_from(self.created.nanos).unwrap_or(0)).unwrap_or_default().to_string();
        let plain = self.last_mountpoint.as_ref().and_then(|p| p.to_str().map(str::to_owned));
        let coded = match (&self.last_mountpoint, &plain) {
            (Some(p), None) => Some(base64::encode(p.as_os_str().as_bytes())),
            _ => None,
        };
        let file = File {
            format: FORMAT,
            name: self.name.clone(),
            id: self.id.to_string(),
            created,
            owner_uid: self.owner_uid,
            owner_gid: self.owner_gid,
            last_mountpoint: plain,
            last_mountpoint_b64: coded,
            features: Features { read_compat: self.read_features.clone(), write_compat: self.write_features.clone() },
            settings: config::unflatten(&self.settings),
        };
        let text =
            toml::to_string(&file).map_err(|e| Error::new(Class::Failed, format!("cannot write {}: {e}", path.display())).source(e))?;
        atomic::replace(path, text.as_bytes())
    }

    /// Refuses, by name, features that this build does not know.
    ///
    /// # Errors
    /// [`Class::Refused`].
    pub fn check(&self, access: Access) -> Result<()> {
        let unknown = |list: &[String], known: &[&str]| list.iter().find(|f| !known.contains(&f.as_str())).cloned();
        let (what, hint) = if let Some(f) = unknown(&self.read_features, KNOWN_FOR_READING) {
            (format!("project `{}` needs the feature `{}` to be read, which this ize does not know", self.name, f.escape_debug()), None)
        } else if access == Access::Write
            && let Some(f) = unknown(&self.write_features, KNOWN_FOR_WRITING)
        {
            let what =
                format!("project `{}` needs the feature `{}` to be written to, which this ize does not know", self.name, f.escape_debug());
            (what, Some("it can be read: mount it with --read-only; or use the ize that wrote it"))
        } else {
            return Ok(());
        };
        Err(Error::new(Class::Refused, what).hint(hint.unwrap_or("use the ize that wrote it")))
    }

    /// True when `word` names this project: its name, or its id in any spelling.
    #[must_use]
    pub fn answers_to(&self, word: &OsStr) -> bool {
        word == OsStr::new(&self.name) || word.to_str().and_then(|w| w.parse::<StoreId>().ok()) == Some(self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Identity {
        Identity {
            name: "notes".into(),
            id: StoreId([7; 16]),
            created: Time { secs: 1_700_000_000, nanos: 5 },
            owner_uid: 1000,
            owner_gid: 100,
            last_mountpoint: None,
            read_features: vec![],
            write_features: vec![],
            settings: vec![("log.sync-interval".into(), "2s".into())],
        }
    }

    #[test]
    fn what_is_written_is_read_back_even_a_mountpoint_that_is_not_utf8() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("project.toml");
        for mountpoint in [None, Some("/home/a b\n\"c"), Some("/plain")] {
            let identity = Identity { last_mountpoint: mountpoint.map(PathBuf::from), ..sample() };
            identity.write(&path).unwrap();
            assert_eq!(Identity::read(&path).unwrap(), identity);
        }
        let odd = Identity { last_mountpoint: Some(OsString::from_vec(b"/mnt/\xff\xfe".to_vec()).into()), ..sample() };
        odd.write(&path).unwrap();
        assert_eq!(Identity::read(&path).unwrap(), odd);
    }

    #[test]
    fn unknown_features_are_refused_by_name_and_a_write_feature_leaves_reading() {
        let writer = Identity { write_features: vec!["sharded-log".into()], ..sample() };
        writer.check(Access::Read).unwrap();
        let e = writer.check(Access::Write).unwrap_err();
        assert_eq!(e.class, Class::Refused);
        assert!(e.message.contains("`sharded-log`"), "{}", e.message);
        let reader = Identity { read_features: vec!["encryption".into()], ..sample() };
        let e = reader.check(Access::Read).unwrap_err();
        assert!(e.message.contains("`encryption`"), "{}", e.message);
        sample().check(Access::Write).unwrap();
    }

    #[test]
    fn damage_a_newer_format_and_absence_are_three_different_answers() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("project.toml");
        assert_eq!(Identity::read(&path).unwrap_err().class, Class::NotFound);
        sample().write(&path).unwrap();
        let good = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, good.replace("format = 1", "format = 2\nfuture = {}")).unwrap();
        assert_eq!(Identity::read(&path).unwrap_err().class, Class::Refused);
        for bad in [
            good.replace("id = \"", "id = \"x"),
            good.replace("name = \"notes\"", "name = \"../x\""),
            good.replace("owner-uid", "owner-udi"),
            good.replace("format = 1\n", ""),
            good[..good.len() / 2].into(),
            String::new(),
        ] {
            std::fs::write(&path, &bad).unwrap();
            assert_eq!(Identity::read(&path).unwrap_err().class, Class::Damage, "{bad}");
        }
        std::fs::write(&path, b"name = \"\xff\"").unwrap();
        assert_eq!(Identity::read(&path).unwrap_err().class, Class::Damage);
    }

    #[test]
    fn a_project_answers_to_its_name_and_to_its_id_in_any_spelling() {
        let p = sample();
        for word in ["notes", "07070707-0707-0707-0707-070707070707", "07070707070707070707070707070707"] {
            assert!(p.answers_to(OsStr::new(word)), "{word}");
        }
        for word in ["note", "Notes", "./notes", "07070707-0707-0707-0707-070707070708", ""] {
            assert!(!p.answers_to(OsStr::new(word)), "{word}");
        }
    }
}

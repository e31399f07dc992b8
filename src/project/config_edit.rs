//! Changing one line of a `config.toml` and leaving the rest as people wrote it, comments included.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use toml_edit::{DocumentMut, Item, Table};

use crate::error::{Class, Error, IoContext, Result};
use crate::project::atomic;

/// Sets `key` (`section.key`, or a key of its own) in the file, which is made if it is missing; without a value takes it out. Says whether
/// anything was changed.
///
/// # Errors
/// [`Class::Usage`] when the file is not TOML; what the disk says.
pub fn set(path: &Path, key: &str, value: Option<&str>) -> Result<bool> {
    // Behind a link, so that a link to the file stays one.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == ErrorKind::NotFound => String::new(),
        Err(e) => return Err(Error::io(format!("cannot read {}", path.display()), e)),
    };
    let mut document: DocumentMut =
        text.parse().map_err(|e: toml_edit::TomlError| Error::new(Class::Usage, format!("{}: {}", path.display(), e.message())))?;
    change(document.as_table_mut(), key, value)
        .map_err(|why| Error::new(Class::Usage, format!("{}: {why}", path.display())).hint("mend it by hand"))?;
    let new = document.to_string();
    if new == text {
        return Ok(false);
    }
    let mode = fs::metadata(&path).map(|m| m.permissions().mode() & 0o7777);
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).doing(|| format!("cannot create {}", dir.display()))?;
    }
    atomic::replace(&path, new.as_bytes())?;
    if let Ok(mode) = mode {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).doing(|| format!("cannot set the mode of {}", path.display()))?;
    }
    Ok(true)
}

fn change(root: &mut Table, key: &str, value: Option<&str>) -> Result<(), String> {
    let (section, key) = key.split_once('.').map_or((None, key), |(s, k)| (Some(s), k));
    let table = match section {
        None => root,
        Some(section) => {
            if value.is_none() && !root.contains_key(section) {
                return Ok(());
            }
            root.entry(section)
                .or_insert_with(|| Item::Table(Table::new()))
                .as_table_mut()
                .ok_or(format!("`{section}` is not a [section]"))?
        }
    };
    let Some(text) = value else {
        table.remove(key);
        return Ok(());
    };
    let mut new = match text {
        "true" | "false" => toml_edit::Value::from(text == "true"),
        _ => toml_edit::Value::from(text),
    };
    // What stood behind the old value on its line stays.
    if let Some(old) = table.get(key).and_then(Item::as_value) {
        *new.decor_mut() = old.decor().clone();
    }
    table[key] = Item::Value(new);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_changes_and_the_rest_stays_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/config.toml");
        assert!(set(&path, "group.idle", Some("5s")).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "[group]\nidle = \"5s\"\n");
        let mine = "# mine\ncentral-dir = \"/a\"   # here\n\n[log]\n# small\nsegment-size = \"1MiB\" # why\n";
        fs::write(&path, mine).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        set(&path, "log.segment-size", Some("2MiB")).unwrap();
        set(&path, "log.command-lines", Some("true")).unwrap();
        set(&path, "central-dir", Some("/b")).unwrap();
        let expected = "# mine\ncentral-dir = \"/b\"   # here\n\n[log]\n# small\nsegment-size = \"2MiB\" # why\ncommand-lines = true\n";
        assert_eq!(fs::read_to_string(&path).unwrap(), expected);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
        set(&path, "log.command-lines", None).unwrap();
        assert!(!set(&path, "log.command-lines", None).unwrap());
        assert!(!set(&path, "prune.max-age", None).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), expected.replace("command-lines = true\n", ""));
    }

    #[test]
    fn a_link_stays_a_link_and_what_is_no_toml_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (real, link) = (dir.path().join("dotfiles.toml"), dir.path().join("config.toml"));
        fs::write(&real, "").unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        set(&link, "group.idle", Some("5s")).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert!(fs::read_to_string(&real).unwrap().contains("5s"));
        fs::write(&real, "group = 3\n").unwrap();
        assert_eq!(set(&link, "group.idle", Some("5s")).unwrap_err().class, Class::Usage);
        fs::write(&real, "= =\n").unwrap();
        assert_eq!(set(&link, "group.idle", Some("5s")).unwrap_err().class, Class::Usage);
    }
}

//! `-o` as mount(8) writes it: `-o allow_other,noexec -o ro`. A later word undoes an earlier one.

use std::ffi::OsString;

use crate::error::{Class, Error, Result};
use crate::project::config::nearest;

/// What the kernel is told about a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MountOptions {
    /// `ro`: nothing may be changed.
    pub read_only: bool,
    /// `allow_other`: every user may enter, as the modes of the files say.
    pub allow_other: bool,
    /// `allow_root`: root may enter besides the owner.
    pub allow_root: bool,
    /// `dev`: device files work.
    pub dev: bool,
    /// `suid`: setuid and setgid bits count.
    pub suid: bool,
    /// `exec`: programs may be started.
    pub exec: bool,
    /// `atime`: the kernel may move access times.
    pub atime: bool,
    /// `sync`: every write is synced.
    pub sync: bool,
    /// `dirsync`: every change of a directory is synced.
    pub dirsync: bool,
}

impl Default for MountOptions {
    fn default() -> Self {
        Self {
            read_only: false,
            allow_other: false,
            allow_root: false,
            dev: false,
            suid: false,
            exec: true,
            atime: false,
            sync: false,
            dirsync: false,
        }
    }
}

/// Every word that means something, and those that mean something to mount(8) only.
const KNOWN: &[&str] = &[
    "ro",
    "rw",
    "allow_other",
    "allow_root",
    "dev",
    "nodev",
    "suid",
    "nosuid",
    "exec",
    "noexec",
    "atime",
    "noatime",
    "sync",
    "async",
    "dirsync",
    "default_permissions",
    "defaults",
];
const FOR_MOUNT_ONLY: &[&str] = &["auto", "noauto", "user", "nouser", "users", "nofail", "_netdev", "relatime", "nodiratime"];

impl MountOptions {
    /// Reads the values of `-o`. `fsname`, `subtype` and what fstab keeps for others (`x-...`, `noauto`, ...) is passed over;
    /// `default_permissions` is always on.
    ///
    /// # Errors
    /// [`Class::Usage`] for what is not known (with the nearest known word), and for `allow_other` beside `allow_root`.
    pub fn parse(values: &[OsString]) -> Result<Self> {
        let mut o = Self::default();
        for value in values {
            let value = value.to_str().ok_or_else(|| Error::new(Class::Usage, "mount options are plain text"))?;
            for word in value.split(',').map(str::trim).filter(|w| !w.is_empty()) {
                o.set(word)?;
            }
        }
        if o.allow_other && o.allow_root {
            return Err(Error::new(Class::Usage, "`allow_other` and `allow_root` exclude each other").hint("allow_other lets root in too"));
        }
        Ok(o)
    }

    fn set(&mut self, word: &str) -> Result<()> {
        match word {
            "ro" => self.read_only = true,
            "rw" => self.read_only = false,
            "allow_other" => self.allow_other = true,
            "allow_root" => self.allow_root = true,
            "dev" => self.dev = true,
            "nodev" => self.dev = false,
            "suid" => self.suid = true,
            "nosuid" => self.suid = false,
            "exec" => self.exec = true,
            "noexec" => self.exec = false,
            "atime" => self.atime = true,
            "noatime" => self.atime = false,
            "sync" => self.sync = true,
            "async" => self.sync = false,
            "dirsync" => self.dirsync = true,
            "default_permissions" | "defaults" => {}
            other => {
                let key = other.split('=').next().unwrap_or(other);
                let passed_over =
                    FOR_MOUNT_ONLY.contains(&other) || key.starts_with("x-") || matches!(key, "fsname" | "subtype" | "comment");
                if !passed_over {
                    let error = Error::new(Class::Usage, format!("there is no mount option `{}`", other.escape_debug()));
                    return Err(match nearest(key, KNOWN.iter().copied()) {
                        Some(near) => error.hint(format!("did you mean `{near}`?")),
                        None => error.hint(format!("known are {}", KNOWN.join(", "))),
                    });
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(values: &[&str]) -> Result<MountOptions> {
        MountOptions::parse(&values.iter().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn options_add_up_and_a_later_word_undoes_an_earlier_one() {
        assert_eq!(parse(&[]).unwrap(), MountOptions::default());
        let o = parse(&["allow_other,noexec", "ro,dev", "rw", "x-systemd.automount,noauto,fsname=a,defaults,,nofail"]).unwrap();
        assert_eq!(o, MountOptions { allow_other: true, exec: false, dev: true, ..MountOptions::default() });
    }

    #[test]
    fn every_known_word_is_taken() {
        for word in KNOWN.iter().chain(FOR_MOUNT_ONLY) {
            parse(&[word]).unwrap();
        }
    }

    #[test]
    fn an_unknown_word_is_a_usage_error_that_suggests_the_nearest() {
        let e = parse(&["ro,alow_other"]).unwrap_err();
        assert_eq!((e.class, e.hint.as_deref()), (Class::Usage, Some("did you mean `allow_other`?")));
        assert_eq!(parse(&["allow_other,allow_root"]).unwrap_err().class, Class::Usage);
        assert_eq!(parse(&["umask=0"]).unwrap_err().class, Class::Usage);
    }
}

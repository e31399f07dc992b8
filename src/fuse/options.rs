//! Mount options as mount(8) writes them: `-o allow_other,ro,noatime`.

use fuser::SessionACL;
use rustix::mount::MountFlags;

use crate::error::{Class, Error, Result};

/// How to mount. Later words win over earlier ones; without words: read-write, no devices, no setuid, for the mounting user only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MountOptions {
    /// Every user may use the mount (`default_permissions` checks each of them).
    pub allow_other: bool,
    /// Root may use a user's mount.
    pub allow_root: bool,
    /// Nothing can be changed.
    pub read_only: bool,
    /// Device files work.
    pub dev: bool,
    /// Setuid and setgid work.
    pub suid: bool,
    /// Nothing can be executed.
    pub no_exec: bool,
    /// Accepted for completeness: reads never move the access time.
    pub no_atime: bool,
    /// Every write is synced.
    pub sync: bool,
    /// Every change of a directory is synced.
    pub dir_sync: bool,
}

/// Words that say something to mount(8), fstab or systemd, and nothing to a mount.
const IGNORED: &[&str] = &[
    "defaults",
    "default_permissions",
    "auto",
    "noauto",
    "nofail",
    "_netdev",
    "user",
    "nouser",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
    "diratime",
    "nodiratime",
];

impl MountOptions {
    /// Reads option lists, each a comma-separated list of words.
    ///
    /// # Errors
    /// [`Class::Usage`], naming the first word that is not known.
    pub fn parse<S: AsRef<str>>(lists: impl IntoIterator<Item = S>) -> Result<Self> {
        let mut options = MountOptions::default();
        for list in lists {
            for word in list.as_ref().split(',').filter(|word| !word.is_empty()) {
                options.set(word)?;
            }
        }
        Ok(options)
    }

    fn set(&mut self, word: &str) -> Result<()> {
        match word {
            "allow_other" => self.allow_other = true,
            "allow_root" => self.allow_root = true,
            "ro" => self.read_only = true,
            "rw" => self.read_only = false,
            "dev" => self.dev = true,
            "nodev" => self.dev = false,
            "suid" => self.suid = true,
            "nosuid" => self.suid = false,
            "exec" => self.no_exec = false,
            "noexec" => self.no_exec = true,
            "atime" => self.no_atime = false,
            "noatime" => self.no_atime = true,
            "sync" => self.sync = true,
            "async" => self.sync = false,
            "dirsync" => self.dir_sync = true,
            _ if IGNORED.contains(&word) || word.starts_with("x-") || word.starts_with("user=") => {}
            _ => {
                return Err(Error::new(Class::Usage, format!("mount option `{word}` is not known")).hint(
                    "known are allow_other, allow_root, ro, rw, dev, nodev, suid, nosuid, exec, noexec, atime, noatime, sync, async, dirsync",
                ));
            }
        }
        Ok(())
    }

    pub(super) fn acl(&self) -> SessionACL {
        match (self.allow_other, self.allow_root) {
            (true, _) => SessionACL::All,
            (false, true) => SessionACL::RootAndOwner,
            (false, false) => SessionACL::Owner,
        }
    }

    /// Whether the kernel lets other users in at all; fuser then keeps out all but root for `allow_root`.
    pub(super) fn others(&self) -> bool {
        self.allow_other || self.allow_root
    }

    /// Flags for mount(2).
    pub(super) fn flags(&self) -> MountFlags {
        let mut flags = MountFlags::empty();
        for (set, flag) in [
            (self.read_only, MountFlags::RDONLY),
            (!self.dev, MountFlags::NODEV),
            (!self.suid, MountFlags::NOSUID),
            (self.no_exec, MountFlags::NOEXEC),
            (self.no_atime, MountFlags::NOATIME),
            (self.sync, MountFlags::SYNCHRONOUS),
            (self.dir_sync, MountFlags::DIRSYNC),
        ] {
            if set {
                flags |= flag;
            }
        }
        flags
    }

    /// Words for fusermount3, which adds nodev and nosuid itself.
    pub(super) fn words(&self) -> Vec<&'static str> {
        let all = [
            (self.others(), "allow_other"),
            (self.read_only, "ro"),
            (self.dev, "dev"),
            (self.suid, "suid"),
            (self.no_exec, "noexec"),
            (self.no_atime, "noatime"),
            (self.sync, "sync"),
            (self.dir_sync, "dirsync"),
        ];
        all.into_iter().filter_map(|(set, word)| set.then_some(word)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_words_win_and_lists_add_up() {
        let options = MountOptions::parse(["ro,allow_other,,dev", "rw,noexec,nodev,x-systemd.automount"]).unwrap();
        assert_eq!(options, MountOptions { allow_other: true, no_exec: true, ..MountOptions::default() });
        assert!(options.flags().contains(MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOEXEC));
        assert!(!options.flags().contains(MountFlags::RDONLY));
    }

    #[test]
    fn an_unknown_word_is_refused_by_name() {
        let error = MountOptions::parse(["ro,writeback"]).unwrap_err();
        assert_eq!(error.class, Class::Usage);
        assert!(error.message.contains("`writeback`"), "{}", error.message);
    }
}

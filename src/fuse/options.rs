//! Mount options as mount(8) writes them: `-o allow_other,ro,noatime`.

use fuser::SessionACL;
use rustix::mount::MountFlags;

use std::path::PathBuf;

use crate::error::{Class, Error, Result};
use crate::project::config::nearest;

/// How to mount. Later words win over earlier ones; without words: read-write, no devices, no setuid, for the mounting user only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MountOptions {
    /// Every user may use the mount (`default_permissions` checks each of them).
    pub allow_other: bool,
    /// Root may use a user's mount.
    pub allow_root: bool,
    /// Nothing can be changed, the store neither.
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
    /// Accepted for completeness, as `no_atime`.
    pub no_dir_atime: bool,
    /// Every change of a directory is synced.
    pub dir_sync: bool,
    /// `central-dir=DIR`: where the projects are, for fstab, where there is no HOME and no variable.
    pub central_dir: Option<PathBuf>,
}

/// Words that mean something here, for the hint.
const KNOWN: &[&str] = &[
    "allow_other",
    "allow_root",
    "ro",
    "rw",
    "dev",
    "nodev",
    "suid",
    "nosuid",
    "exec",
    "noexec",
    "atime",
    "noatime",
    "diratime",
    "nodiratime",
    "sync",
    "async",
    "dirsync",
    "central-dir",
];

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
    "users",
    "nousers",
    "owner",
    "noowner",
    "group",
    "nogroup",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
    "lazytime",
    "nolazytime",
    "silent",
    "loud",
    "nomand",
    "noiversion",
];
/// What such words with a value begin with.
const IGNORED_PREFIXES: &[&str] = &["x-", "X-", "user=", "uhelper=", "helper=", "comment=", "fsname=", "subtype="];

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
            "diratime" => self.no_dir_atime = false,
            "nodiratime" => self.no_dir_atime = true,
            _ if IGNORED.contains(&word) || IGNORED_PREFIXES.iter().any(|p| word.starts_with(p)) => {}
            "remount" => {
                return Err(Error::new(Class::Refused, "a mount of ize cannot be remounted with other options")
                    .hint("unmount it, then mount it with those"));
            }
            _ => match word.strip_prefix("central-dir=") {
                Some(dir) if dir.starts_with('/') => self.central_dir = Some(dir.into()),
                Some(dir) => return Err(Error::new(Class::Usage, format!("mount option `central-dir={dir}`: the path must be absolute"))),
                None => return Err(unknown(word)),
            },
        }
        Ok(())
    }

    /// As [`MountOptions::parse`], but words that are not known are passed over: `mount -s`.
    ///
    /// # Errors
    /// [`Class::Refused`] for `remount`.
    pub fn parse_sloppily(list: &str) -> Result<Self> {
        let known: Vec<&str> =
            list.split(',').filter(|w| MountOptions::default().set(w).map_or_else(|e| e.class != Class::Usage, |()| true)).collect();
        Self::parse(known)
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
            (self.no_dir_atime, MountFlags::NODIRATIME),
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
        // It knows no nodiratime, which means nothing here.
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

fn unknown(word: &str) -> Error {
    let error = Error::new(Class::Usage, format!("mount option `{}` is not known", word.escape_debug()));
    match nearest(word.split('=').next().unwrap_or(word), KNOWN.iter().copied()) {
        Some(near) => error.hint(format!("did you mean `{near}`?")),
        None => error.hint(format!("known are {}", KNOWN.join(", "))),
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
        assert!(error.hint.unwrap().contains("known are"));
        let slip = MountOptions::parse(["alow_other"]).unwrap_err();
        assert_eq!(slip.hint.as_deref(), Some("did you mean `allow_other`?"));
        assert_eq!(MountOptions::parse(["remount,rw"]).unwrap_err().class, Class::Refused);
    }

    #[test]
    fn every_word_that_is_documented_or_passed_over_is_taken() {
        for word in KNOWN.iter().filter(|w| **w != "central-dir").chain(IGNORED) {
            MountOptions::parse([word]).unwrap();
        }
        MountOptions::parse(["x-systemd.automount,x-gvfs-show,X-mount.mkdir,user=ann,comment=a b,uhelper=x,fsname=ize:a"]).unwrap();
        let options = MountOptions::parse(["central-dir=/srv/ize"]).unwrap();
        assert_eq!(options.central_dir.as_deref(), Some(std::path::Path::new("/srv/ize")));
        assert_eq!(MountOptions::parse(["central-dir=srv"]).unwrap_err().class, Class::Usage);
    }

    #[test]
    fn sloppily_what_is_not_known_is_passed_over() {
        let options = MountOptions::parse_sloppily("ro,whatever=3,noexec,writeback").unwrap();
        assert_eq!(options, MountOptions { read_only: true, no_exec: true, ..MountOptions::default() });
    }
}

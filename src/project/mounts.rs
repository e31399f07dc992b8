//! What the kernel has mounted, from `/proc/self/mountinfo`: which ize mount a path is in, which one its daemon has left behind, and what
//! is the same place under another name (bind mounts). Taking a mount away is here too, for the daemon and for commands alike.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use crate::error::{Class, Error, IoContext, Result};

/// File system type of our mounts.
pub const FS_TYPE: &str = "fuse.ize";
/// What the source of our mounts starts with; the project's name follows.
pub const SOURCE_PREFIX: &str = "ize:";
/// Extended attribute of a mount's root: the project's directory.
pub const PROJECT_XATTR: &str = "user.ize.project";

/// One line of mountinfo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Number of the mount.
    pub id: u64,
    /// Number of the mount that it stands on.
    pub parent: u64,
    /// Device of the file system, major and minor: what stat(2) says of everything in it.
    pub device: (u32, u32),
    /// What of the file system is mounted here: `/`, or with a bind mount a directory in it.
    pub root: PathBuf,
    /// Where it is.
    pub point: PathBuf,
    /// Nothing can be changed through it.
    pub read_only: bool,
    /// File system type.
    pub fs_type: OsString,
    /// What is mounted.
    pub source: OsString,
}

impl Mount {
    /// True for a mount of ize.
    #[must_use]
    pub fn is_ize(&self) -> bool {
        self.fs_type == FS_TYPE
    }

    /// The project's name, as the mount's source says it.
    #[must_use]
    pub fn project_name(&self) -> Option<&OsStr> {
        self.source.as_bytes().strip_prefix(SOURCE_PREFIX.as_bytes()).map(OsStr::from_bytes)
    }

    /// The project's directory, asked from the daemon. `None` when nobody answers, or with a directory that is neither ours nor root's:
    /// the mount of a stranger must not send us to their files.
    #[must_use]
    pub fn project_dir(&self) -> Option<PathBuf> {
        if !self.is_ize() {
            return None;
        }
        let mut answer = vec![0; 4096];
        let n = rustix::fs::getxattr(&self.point, PROJECT_XATTR, answer.as_mut_slice()).ok()?;
        answer.truncate(n);
        let dir = PathBuf::from(OsString::from_vec(answer));
        let owner = std::fs::metadata(&dir).ok()?.uid();
        (dir.is_absolute() && (owner == rustix::process::geteuid().as_raw() || owner == 0)).then_some(dir)
    }

    /// True when its daemon is gone: every access answers ENOTCONN until it is detached.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        is_stale(&self.point)
    }
}

/// Is there a mount whose daemon is gone? stat(2) does not tell, because the kernel answers it from what it was told before; statfs(2) is
/// never answered from memory.
#[must_use]
pub fn is_stale(point: &Path) -> bool {
    // A request that was on its way when the daemon died is aborted; from then on there is no connection.
    matches!(rustix::fs::statfs(point), Err(Errno::NOTCONN | Errno::CONNABORTED))
}

/// The mounts of this process, in the kernel's order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mounts(pub Vec<Mount>);

impl Mounts {
    /// Reads `/proc/self/mountinfo`.
    ///
    /// # Errors
    /// [`Class::Io`].
    pub fn load() -> Result<Self> {
        let path = "/proc/self/mountinfo";
        std::fs::read(path).doing(|| format!("cannot read {path}")).map(|bytes| Self::parse(&bytes))
    }

    /// Reads the bytes of a mountinfo file. Lines that make no sense are left out: one odd mount must not hide the others.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Self {
        Self(bytes.split(|b| *b == b'\n').filter_map(parse_line).collect())
    }

    /// The mounts of ize.
    pub fn ize(&self) -> impl Iterator<Item = &Mount> {
        self.0.iter().filter(|m| m.is_ize())
    }

    /// The mount that an absolute path without `..` is on. It is the kernel's walk: from the root's mount down, at each step the child
    /// that covers the path nearest to the top, so that a mount hidden under a later one is never the answer.
    #[must_use]
    pub fn of(&self, path: &Path) -> Option<&Mount> {
        let known = |id: u64| self.0.iter().any(|m| m.id == id);
        let mut current: Option<&Mount> = None;
        // Each step goes to another mount; a file that claims a cycle ends the walk here.
        for _ in 0..=self.0.len() {
            let child = self
                .0
                .iter()
                .filter(|m| match current {
                    Some(c) => m.parent == c.id && m.id != c.id,
                    None => m.parent == m.id || !known(m.parent),
                })
                .filter(|m| path.starts_with(&m.point))
                .min_by_key(|m| m.point.as_os_str().len());
            match child {
                Some(m) => current = Some(m),
                None => break,
            }
        }
        current
    }

    /// The ize mount that a path is in.
    #[must_use]
    pub fn ize_of(&self, path: &Path) -> Option<&Mount> {
        self.of(path).filter(|m| m.is_ize())
    }

    /// Where a path is by its file system: the device, and the path from the file system's own root. Two names of one place (bind mounts)
    /// give the same.
    #[must_use]
    pub fn place(&self, path: &Path) -> Option<((u32, u32), PathBuf)> {
        let mount = self.of(path)?;
        let rest = path.strip_prefix(&mount.point).ok()?;
        Some((mount.device, if rest.as_os_str().is_empty() { mount.root.clone() } else { mount.root.join(rest) }))
    }

    /// The mount whose root is `point` (the uppermost, if several lie on it).
    #[must_use]
    pub fn at(&self, point: &Path) -> Option<&Mount> {
        self.of(point).filter(|m| m.point == point)
    }
}

fn parse_line(line: &[u8]) -> Option<Mount> {
    // id parent major:minor root point options [optional fields] - type source options
    let mut fields = line.split(|b| *b == b' ');
    let number = |field: Option<&[u8]>| std::str::from_utf8(field?).ok()?.parse().ok();
    let id = number(fields.next())?;
    let parent = number(fields.next())?;
    let (major, minor) = std::str::from_utf8(fields.next()?).ok()?.split_once(':')?;
    let device = (major.parse().ok()?, minor.parse().ok()?);
    let root = unescape(fields.next()?).into();
    let point = unescape(fields.next()?).into();
    let read_only = fields.next()?.split(|b| *b == b',').any(|word| word == b"ro");
    fields.find(|f| *f == b"-")?;
    let fs_type = unescape(fields.next()?);
    let source = unescape(fields.next()?);
    Some(Mount { id, parent, device, root, point, read_only, fs_type, source })
}

/// `\040` and the like back to bytes.
fn unescape(field: &[u8]) -> OsString {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        if let (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..]) = (*first, tail) {
            out.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
            rest = after;
        } else {
            out.push(*first);
            rest = tail;
        }
    }
    OsString::from_vec(out)
}

/// Takes a mount away: as root by umount2(2), else through `fusermount3`. `lazy` frees the name at once (MNT_DETACH), what is still open goes
/// on.
///
/// # Errors
/// EBUSY when something in it is open and it is not lazy; what umount2(2) or fusermount3 says.
pub fn take_away(point: &Path, lazy: bool) -> io::Result<()> {
    let flags = UnmountFlags::NOFOLLOW | if lazy { UnmountFlags::DETACH } else { UnmountFlags::empty() };
    match rustix::mount::unmount(point, flags) {
        Err(Errno::PERM) => {}
        other => return other.map_err(Into::into),
    }
    let output = match Command::new("fusermount3").args([if lazy { "-uz" } else { "-u" }, "--"]).arg(point).stdin(Stdio::null()).output() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(io::Error::new(e.kind(), "fusermount3 (package fuse3) is not installed"));
        }
        other => other?,
    };
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(if said.contains("busy") { Errno::BUSY.into() } else { io::Error::new(io::ErrorKind::PermissionDenied, said) })
}

/// Takes a mount away lazily. Meant for mounts whose daemon is gone; a living daemon is asked to unmount itself.
///
/// # Errors
/// [`Class::Refused`] when the mount is not ours to take away, [`Class::Io`].
pub fn detach(point: &Path) -> Result<()> {
    take_away(point, true).map_err(|e| {
        let doing = format!("cannot detach {}", point.display());
        match e.kind() {
            io::ErrorKind::NotFound => Error::new(Class::Refused, format!("{doing}: {e}")).hint("install the package fuse3"),
            io::ErrorKind::PermissionDenied => Error::new(Class::Refused, format!("{doing}: {e}")),
            _ => Error::io(doing, e),
        }
    })
}

/// Refuses a store that lies on a mount of ize, also through symbolic links and bind mounts: the daemon would wait for itself or for a
/// neighbour, and a crash of one would take both.
///
/// # Errors
/// [`Class::Refused`] with both paths; [`Class::Io`].
pub fn refuse_store_on_ize(store: &Path) -> Result<()> {
    // It may still have to be made.
    let there = store.ancestors().find(|p| p.exists()).unwrap_or(Path::new("/"));
    let full = std::fs::canonicalize(there).doing(|| format!("cannot find {}", there.display()))?;
    match Mounts::load()?.ize_of(&full) {
        None => Ok(()),
        Some(mount) => {
            Err(Error::new(Class::Refused, format!("the store {} is on a mount of ize itself, {}", store.display(), mount.point.display()))
                .hint("choose a central directory (--central-dir, IZE_CENTRAL_DIR) on a disk"))
        }
    }
}

/// How `at` lies to the store, both without symbolic links: by device and inode of all that leads to either, and by the place in the file
/// system, which a bind mount of something inside the store gives away. `None` when
/// neither is in the other.
///
/// # Errors
/// [`Class::Io`] when one of them cannot be looked at.
pub fn relation(at: &Path, store: &Path, mounted: &Mounts) -> Result<Option<&'static str>> {
    let place = |path: &Path| std::fs::metadata(path).map(|m| (m.dev(), m.ino()));
    let here = place(at).doing(|| format!("cannot look at {}", at.display()))?;
    let there = place(store).doing(|| format!("cannot look at {}", store.display()))?;
    let within = |inner: &Path, outer: &Path| match (mounted.place(inner), mounted.place(outer)) {
        (Some((a, inner)), Some((b, outer))) => a == b && inner.starts_with(outer),
        _ => false,
    };
    Ok(if here == there {
        Some("is")
    } else if at.ancestors().any(|p| place(p).is_ok_and(|x| x == there)) || within(at, store) {
        Some("lies in")
    } else if store.ancestors().any(|p| place(p).is_ok_and(|x| x == here)) || within(store, at) {
        Some("lies above")
    } else {
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &[u8] = b"\
21 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
30 21 0:26 / /home/a\\040b\\134c rw,nosuid - fuse.ize ize:notes rw,user_id=0\n\
31 30 0:27 / /home/a\\040b\\134c/sub rw - tmpfs none rw\n\
nonsense\n\
40 21 0:30 / /m rw master:3 propagate_from:2 - fuse.ize ize:work rw\n\
41 40 0:31 / /m rw - fuse.ize ize:over rw\n\
50 21 0:40 / /hidden/x rw - fuse.ize ize:hidden rw\n\
51 21 0:41 / /hidden rw - tmpfs tmpfs rw\n\
60 21 0:50 / /raw\xff\xfe rw - fuse.ize ize:raw rw\n\
61 21 0:51 / /other rw - fuse.sshfs ize:liar rw\n\
12 12";

    fn name(path: &str) -> Option<String> {
        Mounts::parse(SAMPLE).ize_of(Path::new(path)).and_then(|m| m.project_name().map(|n| n.to_string_lossy().into_owned()))
    }

    #[test]
    fn a_path_is_on_the_mount_that_the_kernel_would_reach() {
        for (path, project) in [
            ("/home/a b\\c", Some("notes")),
            ("/home/a b\\c/x/y", Some("notes")),
            ("/home/a b\\c/sub/y", None),
            ("/home/a b\\cd", None),
            ("/home", None),
            ("/m/x", Some("over")),
            ("/mm", None),
            ("/hidden/x/y", None),
            ("/other/x", None),
        ] {
            assert_eq!(name(path).as_deref(), project, "{path}");
        }
    }

    #[test]
    fn names_that_are_not_utf8_and_odd_lines_are_no_obstacle() {
        let mounts = Mounts::parse(SAMPLE);
        assert_eq!(mounts.0.len(), 9);
        let raw = mounts.0.iter().find(|m| m.project_name() == Some(OsStr::new("raw"))).unwrap();
        assert_eq!(raw.point.as_os_str().as_bytes(), b"/raw\xff\xfe");
        assert_eq!(mounts.at(Path::new("/m")).unwrap().source, "ize:over");
        assert_eq!(mounts.at(Path::new("/m/x")), None);
    }

    #[test]
    fn a_bind_mount_is_the_same_place_under_another_name() {
        let mounts = Mounts::parse(b"1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 8:1 /srv/store/wal /b ro,nosuid - ext4 /dev/a rw");
        assert_eq!(mounts.place(Path::new("/b/x")), mounts.place(Path::new("/srv/store/wal/x")));
        assert_eq!(mounts.place(Path::new("/b")), Some(((8, 1), "/srv/store/wal".into())));
        assert_eq!(mounts.0.iter().map(|m| m.read_only).collect::<Vec<_>>(), [false, true]);
    }

    #[test]
    fn mounts_that_claim_to_stand_on_each_other_end_the_walk() {
        let mounts = Mounts::parse(b"1 2 0:1 / / rw - a b c\n2 1 0:1 / / rw - a b c\n3 3 0:1 / / rw - a b c\n4 3 0:1 / / rw - a b c");
        assert_eq!(mounts.of(Path::new("/x")).unwrap().id, 4);
        assert_eq!(Mounts::parse(b"1 2 0:1 / / rw - a b c\n2 1 0:1 / / rw - a b c").of(Path::new("/x")), None);
    }

    #[test]
    fn the_mounts_of_this_process_are_read() {
        let mounts = Mounts::load().unwrap();
        assert!(mounts.of(Path::new("/proc/self")).is_some_and(|m| m.fs_type == "proc"));
    }
}

//! Mounting, serving until the end, unmounting.
//!
//! The mount(2) is made here and not by fuser: its own sets no subtype (`fuse.ize` in /proc/mounts), and when a session ends after an
//! umount(8) it unmounts the mount point once more, which takes away whatever was mounted there meanwhile.

use std::ffi::{CString, OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use super::MountOptions;
use super::adapter::{Adapter, KernelNotify};
use crate::error::{Class, Error, IoContext, Result};
use crate::fs::Fs;

/// File system type in /proc/mounts.
pub const FS_TYPE: &str = "fuse.ize";
/// Session threads: the second one lets requests go on while one waits for the disk.
const THREADS: usize = 2;
/// After a signal, how long files that are still open are served.
const GRACE: Duration = Duration::from_secs(10);
/// How many names of a directory that should be empty are shown.
const NAMES_SHOWN: usize = 5;

/// A line of the mount table that is ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountEntry {
    /// Name of the project.
    pub name: String,
    /// Where.
    pub mountpoint: PathBuf,
}

/// All ize mounts that this process sees, in the order in which they were made.
///
/// # Errors
/// [`Class::Io`] when /proc cannot be read.
pub fn mounts() -> Result<Vec<MountEntry>> {
    let table = fs::read("/proc/self/mountinfo").doing(|| "cannot read /proc/self/mountinfo".to_owned())?;
    Ok(table.split(|&b| b == b'\n').filter_map(parse_mount).collect())
}

/// `36 35 98:0 /root /mount/point rw,noatime master:1 - fuse.ize ize:NAME rw,...`
fn parse_mount(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|&b| b == b' ');
    let mountpoint = unescape(fields.nth(4)?);
    let mut behind = fields.skip_while(|f| *f != b"-").skip(1);
    if behind.next()? != FS_TYPE.as_bytes() {
        return None;
    }
    let source = unescape(behind.next()?);
    let name = String::from_utf8_lossy(source.strip_prefix(b"ize:").unwrap_or(&source)).into_owned();
    Some(MountEntry { name, mountpoint: OsString::from_vec(mountpoint).into() })
}

/// The mount table writes space, tab, newline and backslash as `\ooo`.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, behind)) = rest.split_first() {
        let octal = behind.get(..3).filter(|d| byte == b'\\' && d.iter().all(|b| (b'0'..=b'7').contains(b)));
        match octal {
            Some(digits) => {
                out.push(digits.iter().fold(0u8, |n, d| n.wrapping_mul(8).wrapping_add(d - b'0')));
                rest = &behind[3..];
            }
            None => {
                out.push(byte);
                rest = behind;
            }
        }
    }
    out
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Absolute, without symbolic links, also when the last component is a mount whose daemon is gone.
fn absolute(path: &Path) -> io::Result<PathBuf> {
    match fs::canonicalize(path) {
        Err(e) if e.raw_os_error() == Some(libc::ENOTCONN) => {
            let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let name = path.file_name().ok_or(e)?;
            Ok(fs::canonicalize(parent)?.join(name))
        }
        other => other,
    }
}

/// Is there a mount whose daemon is gone? stat(2) does not tell, because the kernel answers it from what it was told before; statfs(2) is
/// never answered from memory.
#[must_use]
pub fn is_stale(mountpoint: &Path) -> bool {
    matches!(rustix::fs::statfs(mountpoint), Err(Errno::NOTCONN))
}

/// Makes a mount point ready: detaches a mount whose daemon was killed, creates the directory if it is missing, and refuses what would go
/// wrong. `store` is the project's directory; gives the absolute mount point.
///
/// # Errors
/// [`Class::Busy`] when ize is mounted there already; [`Class::Refused`] for something that is no directory, is not empty (unless `over`),
/// or lies inside, above or at the store; [`Class::Io`].
pub fn prepare(mountpoint: &Path, store: &Path, over: bool) -> Result<PathBuf> {
    let shown = mountpoint.display().to_string();
    if fs::symlink_metadata(mountpoint).is_err_and(|e| e.kind() == io::ErrorKind::NotFound) {
        fs::create_dir(mountpoint).doing(|| format!("cannot create the mount point {shown}"))?;
    }
    let at = absolute(mountpoint).doing(|| format!("cannot find {shown}"))?;
    // Several may lie on each other.
    while is_stale(&at) {
        if !mounts()?.iter().any(|m| m.mountpoint == at) {
            return Err(Error::new(Class::Refused, format!("{shown} holds a mount of something else, whose daemon is gone"))
                .hint(format!("`umount -l {shown}` detaches it")));
        }
        tracing::warn!("detaching {shown}, whose daemon is gone");
        detach(&at, true).doing(|| format!("cannot detach {shown}, whose daemon is gone"))?;
    }
    let meta = fs::metadata(&at).doing(|| format!("cannot look at {shown}"))?;
    if !meta.is_dir() {
        return Err(Error::new(Class::Refused, format!("{shown} is not a directory")).hint("name a directory to mount on"));
    }
    if let Some(entry) = mounts()?.into_iter().find(|m| m.mountpoint == at) {
        return Err(Error::new(Class::Busy, format!("project {} is already mounted on {shown}", entry.name))
            .hint(format!("`ize unmount {shown}` first")));
    }
    check_apart(&at, store)?;
    if !over {
        check_empty(&at, &shown)?;
    }
    Ok(at)
}

fn check_empty(at: &Path, shown: &str) -> Result<()> {
    let listing = || format!("cannot list {shown}");
    let mut names = Vec::new();
    for entry in fs::read_dir(at).doing(listing)? {
        names.push(entry.doing(listing)?.file_name().to_string_lossy().into_owned());
    }
    names.sort_unstable();
    if names.is_empty() {
        return Ok(());
    }
    let more = names.len().saturating_sub(NAMES_SHOWN);
    let mut list = names.iter().take(NAMES_SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    if more > 0 {
        list.push_str(&format!(" and {more} more"));
    }
    Err(Error::new(Class::Refused, format!("{shown} is not empty: {list}"))
        .hint("these would be hidden while mounted; `--over` mounts all the same"))
}

/// The mount point may not be the store, nor lie in it, nor hold it: the daemon would wait for itself.
fn check_apart(at: &Path, store: &Path) -> Result<()> {
    let place = |path: &Path| fs::metadata(path).map(|m| (m.dev(), m.ino()));
    let store_full = fs::canonicalize(store).doing(|| format!("cannot find {}", store.display()))?;
    let here = place(at).doing(|| format!("cannot look at {}", at.display()))?;
    let there = place(&store_full).doing(|| format!("cannot look at {}", store.display()))?;
    let relation = if here == there {
        "is"
    } else if at.ancestors().any(|p| place(p).is_ok_and(|x| x == there)) {
        "lies in"
    } else if store_full.ancestors().any(|p| place(p).is_ok_and(|x| x == here)) {
        "lies above"
    } else {
        return Ok(());
    };
    Err(Error::new(Class::Refused, format!("the mount point {} {relation} the project's store {}", at.display(), store_full.display()))
        .hint("mount somewhere else"))
}

/// umount2(2) as root, `fusermount3 -u` as a user.
fn detach(mountpoint: &Path, lazy: bool) -> io::Result<()> {
    let flags = UnmountFlags::NOFOLLOW | if lazy { UnmountFlags::DETACH } else { UnmountFlags::empty() };
    match rustix::mount::unmount(mountpoint, flags) {
        Ok(()) => Ok(()),
        Err(Errno::PERM) if !is_root() => {
            let mut command = Command::new("fusermount3");
            command.arg(if lazy { "-uz" } else { "-u" }).arg("--").arg(mountpoint).stdin(Stdio::null());
            let output = command.output()?;
            if output.status.success() {
                return Ok(());
            }
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            let errno = if said.contains("busy") { Some(libc::EBUSY) } else { None };
            Err(errno.map_or_else(|| io::Error::other(said), io::Error::from_raw_os_error))
        }
        Err(e) => Err(e.into()),
    }
}

/// Unmounts an ize mount; `lazy` detaches it although files are open, which are served until they are closed.
///
/// # Errors
/// [`Class::NotFound`] when no ize is mounted there, [`Class::Busy`] when it is in use, [`Class::Io`].
pub fn unmount(mountpoint: &Path, lazy: bool) -> Result<()> {
    let shown = mountpoint.display().to_string();
    let at = absolute(mountpoint).doing(|| format!("cannot find {shown}"))?;
    if !mounts()?.iter().any(|m| m.mountpoint == at) {
        return Err(Error::new(Class::NotFound, format!("ize is not mounted on {shown}")).hint("`ize list` shows what is mounted where"));
    }
    detach(&at, lazy).map_err(|e| match e.raw_os_error() {
        Some(libc::EBUSY) => Error::new(Class::Busy, format!("{shown} is in use"))
            .hint(format!("`fuser -vm {shown}` names the programs; everything that they were told is durable")),
        _ => Error::io(format!("cannot unmount {shown}"), e),
    })
}

/// A mount that is being served by threads of this process.
pub struct Mounted {
    session: Option<fuser::BackgroundSession>,
    fs: Arc<Fs>,
    mountpoint: PathBuf,
}

impl Mounted {
    /// Mounts `fs` as project `name` and serves it; returns when it answers. `mountpoint` is an existing directory (see [`prepare`]).
    ///
    /// # Errors
    /// [`Class::Io`] or [`Class::Refused`], with what the kernel or fusermount3 said.
    pub fn start(fs: Arc<Fs>, name: &str, mountpoint: &Path, options: &MountOptions) -> Result<Self> {
        let shown = mountpoint.display().to_string();
        let at = absolute(mountpoint).doing(|| format!("cannot find {shown}"))?;
        let adapter = Adapter::new(Arc::clone(&fs), options).doing(|| "cannot start the sync thread".to_owned())?;
        let device = mount(name, &at, options)?;
        let mut config = fuser::Config::default();
        config.n_threads = Some(THREADS);
        config.acl = options.acl();
        let served = fuser::Session::from_fd(adapter, device, options.acl(), config).and_then(fuser::Session::spawn);
        let session = served.map_err(|e| {
            let _ = detach(&at, true);
            Error::io(format!("cannot serve {shown}"), e)
        })?;
        fs.set_notify(Some(Arc::new(KernelNotify(session.notifier()))));
        let mounted = Mounted { session: Some(session), fs, mountpoint: at };
        fs::metadata(&mounted.mountpoint).doing(|| format!("{shown} was mounted and does not answer"))?;
        Ok(mounted)
    }

    /// Where it is mounted, absolute.
    #[must_use]
    pub fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }

    /// Waits until it is unmounted and every open file is closed.
    ///
    /// # Errors
    /// [`Class::Io`] when a session thread failed; the mount is then detached.
    pub fn wait(mut self) -> Result<()> {
        let session = self.session.take();
        let ended = session.map_or(Ok(()), fuser::BackgroundSession::join);
        close(&self.fs, &self.mountpoint, ended)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.session.is_some() {
            let _ = detach(&self.mountpoint, true);
            self.fs.set_notify(None);
        }
    }
}

/// The session is over: nobody holds anything any more.
fn close(fs: &Fs, mountpoint: &Path, ended: io::Result<()>) -> Result<()> {
    fs.set_notify(None);
    if ended.is_err() {
        // A session thread died. The mount may still be there, half served; nobody shall wait for it.
        let _ = detach(mountpoint, true);
    }
    fs.end_session();
    ended.doing(|| format!("serving {} failed", mountpoint.display()))
}

/// How serving ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Somebody unmounted it.
    Unmounted,
    /// A signal did; everything answered was synced first.
    Signal(i32),
}

enum Event {
    Ended(io::Result<()>),
    Signal(i32),
}

/// Mounts and serves until it is unmounted or SIGTERM, SIGINT or SIGHUP arrives. `ready` is called when the mount answers; a failure before
/// that is returned and `ready` is not called. On return nothing is mounted any more and the kernel sends nothing more, so that the engine
/// can be closed.
///
/// On a signal: sync, then unmount; if it is in use, detach, and serve what is open for 10 s or until the next signal.
///
/// # Errors
/// As [`Mounted::start`] and [`Mounted::wait`].
pub fn serve(fs: Arc<Fs>, name: &str, mountpoint: &Path, options: &MountOptions, ready: impl FnOnce()) -> Result<Ended> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    // Before the mount, so that no signal can leave one behind.
    let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT, SIGHUP]).doing(|| "cannot wait for signals".to_owned())?;
    let mut mounted = Mounted::start(Arc::clone(&fs), name, mountpoint, options)?;
    let at = mounted.mountpoint.clone();
    let (sender, events) = channel();
    let handle = signals.handle();
    let session = mounted.session.take();
    let ends = sender.clone();
    let spawned = spawn("ize-session", move || {
        let _ = ends.send(Event::Ended(session.map_or(Ok(()), fuser::BackgroundSession::join)));
    })
    .and_then(|()| {
        spawn("ize-signals", move || {
            for signal in signals.forever() {
                if sender.send(Event::Signal(signal)).is_err() {
                    break;
                }
            }
        })
    });
    if let Err(e) = spawned {
        return close(&fs, &at, Err(e)).map(|()| Ended::Unmounted);
    }
    ready();
    let mut signal = None;
    let result = loop {
        let event = match signal {
            None => events.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(_) => events.recv_timeout(GRACE),
        };
        match (event, signal) {
            (Ok(Event::Ended(ended)), _) => break ended,
            (Ok(Event::Signal(number)), None) => {
                signal = Some(number);
                if let Err(e) = fs.sync() {
                    tracing::error!("sync before the unmount: {e}");
                }
                let left = detach(&at, false).or_else(|_| detach(&at, true));
                if let Err(e) = left {
                    tracing::error!("cannot unmount {}: {e}", at.display());
                }
            }
            // Files are still open; the connection ends with this process.
            (Ok(Event::Signal(_)) | Err(_), _) => break Ok(()),
        }
    };
    handle.close();
    if signal.is_some()
        && let Err(e) = fs.sync()
    {
        tracing::error!("sync after the unmount: {e}");
    }
    close(&fs, &at, result)?;
    Ok(signal.map_or(Ended::Unmounted, Ended::Signal))
}

fn spawn(name: &str, f: impl FnOnce() + Send + 'static) -> io::Result<()> {
    std::thread::Builder::new().name(name.to_owned()).spawn(f).map(drop)
}

/// Opens /dev/fuse and mounts it: as root by mount(2), else through fusermount3.
fn mount(name: &str, at: &Path, options: &MountOptions) -> Result<OwnedFd> {
    let mounting = || format!("cannot mount on {}", at.display());
    if !is_root() {
        return mount_as_user(name, at, options);
    }
    let device = fs::OpenOptions::new().read(true).write(true).open("/dev/fuse").map_err(|e| {
        let missing = e.kind() == io::ErrorKind::NotFound;
        let error = Error::io("cannot open /dev/fuse", e);
        if missing { error.hint("`modprobe fuse` loads the kernel's FUSE module") } else { error }
    })?;
    let mode = fs::metadata(at).doing(mounting)?.mode();
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let mut data = format!("fd={},rootmode={mode:o},user_id={uid},group_id={gid},default_permissions", device.as_raw_fd());
    if options.others() {
        data.push_str(",allow_other");
    }
    let data = CString::new(data).map_err(io::Error::from).doing(mounting)?;
    match rustix::mount::mount(format!("ize:{name}"), at, FS_TYPE, options.flags(), Some(data.as_c_str())) {
        Ok(()) => Ok(device.into()),
        // In a container without CAP_SYS_ADMIN the setuid helper may still be allowed to.
        Err(Errno::PERM) => mount_as_user(name, at, options),
        Err(e) => Err(Error::io(mounting(), e.into())),
    }
}

/// fusermount3 mounts for us and sends the device's descriptor over a socket, which it gets as its standard input.
fn mount_as_user(name: &str, at: &Path, options: &MountOptions) -> Result<OwnedFd> {
    let mounting = || format!("cannot mount on {}", at.display());
    let (ours, theirs) = UnixStream::pair().doing(mounting)?;
    let mut words = vec![format!("fsname=ize:{}", name.replace(',', "\\,")), "subtype=ize".to_owned(), "default_permissions".to_owned()];
    words.extend(options.words().into_iter().map(str::to_owned));
    let mut command = Command::new("fusermount3");
    command.arg("-o").arg(words.join(",")).arg("--").arg(at).env("_FUSE_COMMFD", "0");
    let child = command.stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    // With the command goes our copy of its end, so that its death ends our waiting.
    drop(command);
    let child = child.map_err(|e| Error::io("cannot run fusermount3", e).hint("`apt-get install fuse3` installs it"))?;
    let device = receive_descriptor(&ours);
    let output = child.wait_with_output().doing(mounting)?;
    match device {
        Ok(Some(device)) => Ok(device),
        Ok(None) => {
            let said = OsStr::from_bytes(output.stderr.trim_ascii()).to_string_lossy().into_owned();
            let error = Error::new(Class::Refused, format!("{}: {said}", mounting()));
            Err(if said.contains("user_allow_other") {
                error.hint("add `user_allow_other` to /etc/fuse.conf, or leave allow_other out")
            } else {
                error
            })
        }
        Err(e) => Err(Error::io(mounting(), e)),
    }
}

fn receive_descriptor(socket: &UnixStream) -> io::Result<Option<OwnedFd>> {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0u8; 1];
    rustix::io::retry_on_intr(|| recvmsg(socket, &mut [io::IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC))?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut descriptors) = message {
            return Ok(descriptors.next());
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_lines_of_the_mount_table_are_found_with_their_odd_names() {
        let line = br"41 22 0:40 / /mnt/a\040b\134c rw,nosuid - fuse.ize ize:notes rw,user_id=0";
        let entry = MountEntry { name: "notes".to_owned(), mountpoint: PathBuf::from("/mnt/a b\\c") };
        assert_eq!(parse_mount(line), Some(entry));
        assert_eq!(parse_mount(b"41 22 0:40 / /mnt rw shared:3 - ext4 /dev/sda rw"), None);
        assert_eq!(parse_mount(b""), None);
    }

    #[test]
    fn a_mount_point_in_at_or_above_the_store_is_refused_with_both_paths() {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("store");
        let inside = store.join("wal/deep");
        fs::create_dir_all(&inside).unwrap();
        std::os::unix::fs::symlink(&store, dir.path().join("alias")).unwrap();
        for (at, relation) in
            [(inside.as_path(), "lies in"), (store.as_path(), "is the"), (dir.path(), "lies above"), (&dir.path().join("alias"), "is the")]
        {
            let error = prepare(at, &store, true).unwrap_err();
            assert_eq!(error.class, Class::Refused, "{at:?}");
            assert!(error.message.contains(relation), "{}", error.message);
            assert!(error.message.contains("store"), "{}", error.message);
        }
        fs::create_dir(dir.path().join("beside")).unwrap();
        assert!(prepare(&dir.path().join("beside"), &store, false).is_ok());
    }

    #[test]
    fn a_mount_point_that_holds_files_is_refused_by_their_names_and_a_missing_one_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let store = tempfile::tempdir().unwrap();
        for name in ["c", "a", "b"] {
            fs::write(dir.path().join(name), b"").unwrap();
        }
        let error = prepare(dir.path(), store.path(), false).unwrap_err();
        assert_eq!(error.class, Class::Refused);
        assert!(error.message.ends_with("is not empty: a, b, c"), "{}", error.message);
        assert!(prepare(dir.path(), store.path(), true).is_ok());
        assert_eq!(prepare(&dir.path().join("a"), store.path(), true).unwrap_err().class, Class::Refused);
        let made = prepare(&dir.path().join("new"), store.path(), false).unwrap();
        assert!(made.is_absolute() && made.is_dir());
    }

    #[test]
    fn the_setuid_helper_hands_the_device_over() {
        let dir = tempfile::tempdir().unwrap();
        let options = MountOptions::parse(["ro,noexec"]).unwrap();
        let device = match mount_as_user("a,b", dir.path(), &options) {
            Ok(device) => device,
            Err(e) if is_root() && Path::new("/usr/bin/fusermount3").exists() => panic!("{e}"),
            Err(_) => return,
        };
        let at = fs::canonicalize(dir.path().parent().unwrap()).unwrap().join(dir.path().file_name().unwrap());
        let table = fs::read_to_string("/proc/mounts").unwrap();
        let line = table.lines().find(|l| l.contains(at.to_str().unwrap())).unwrap().to_owned();
        // The daemon is gone: the mount is stale, and the next one makes it ready again.
        drop(device);
        assert_eq!(fs::metadata(&at).unwrap_err().raw_os_error(), Some(libc::ENOTCONN));
        let store = tempfile::tempdir().unwrap();
        let ready = prepare(dir.path(), store.path(), false);
        let _ = detach(&at, true);
        assert!(line.starts_with("ize:a,b ") && line.contains(" fuse.ize ro,") && line.contains("default_permissions"), "{line}");
        assert!(line.contains("noexec") && line.contains("nosuid"), "{line}");
        assert_eq!(ready.unwrap(), at);
    }

    #[test]
    fn unmounting_what_is_not_ours_is_refused() {
        assert_eq!(unmount(Path::new("/"), false).unwrap_err().class, Class::NotFound);
    }
}

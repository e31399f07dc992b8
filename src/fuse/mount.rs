//! Mounting, serving until the end, unmounting.
//!
//! The mount(2) is made here and not by fuser: its own sets no subtype (`fuse.ize` in /proc/mounts), and when a session ends after an
//! umount(8) it unmounts the mount point once more, which takes away whatever was mounted there meanwhile.

use std::ffi::{CString, OsStr};
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use rustix::io::Errno;

use super::MountOptions;
use super::adapter::{Adapter, KernelNotify};
use super::mountpoint::{Writable, absolute};
use crate::error::{Class, Error, IoContext, Result};
use crate::fs::Fs;
use crate::project::mounts::{FS_TYPE, Mounts, SOURCE_PREFIX, take_away};

/// Session threads: the second one lets requests go on while one waits for the disk.
const THREADS: usize = 2;
/// After a signal, how long files that are still open are served.
const GRACE: Duration = Duration::from_secs(10);

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Unmounts an ize mount; `lazy` detaches it although files are open, which are served until they are closed.
///
/// # Errors
/// [`Class::NotFound`] when no ize is mounted there, [`Class::Busy`] when it is in use, [`Class::Io`].
pub fn unmount(mountpoint: &Path, lazy: bool) -> Result<()> {
    let shown = mountpoint.display().to_string();
    let at = absolute(mountpoint).doing(|| format!("cannot find {shown}"))?;
    if !Mounts::load()?.at(&at).is_some_and(|m| m.is_ize()) {
        return Err(Error::new(Class::NotFound, format!("ize is not mounted on {shown}")).hint("`ize list` shows what is mounted where"));
    }
    take_away(&at, lazy).map_err(|e| match e.raw_os_error() {
        Some(libc::EBUSY) => {
            Error::new(Class::Busy, format!("{shown} is in use")).hint("everything that programs were told is durable already")
        }
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
    /// Mounts `fs` as project `name` and serves it; returns when it answers. `mountpoint` is an existing directory (see [`super::mountpoint::prepare`]).
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
            let _ = take_away(&at, true);
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
            let _ = take_away(&self.mountpoint, true);
            self.fs.set_notify(None);
        }
    }
}

/// The session is over: nobody holds anything any more.
fn close(fs: &Fs, mountpoint: &Path, ended: io::Result<()>) -> Result<()> {
    fs.set_notify(None);
    if ended.is_err() {
        // A session thread died. The mount may still be there, half served; nobody shall wait for it.
        let _ = take_away(mountpoint, true);
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
                fs.pressure().leave_for(GRACE);
                if let Err(e) = fs.sync() {
                    tracing::error!("sync before the unmount: {e}");
                }
                let left = take_away(&at, false).or_else(|_| take_away(&at, true));
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
    match rustix::mount::mount(format!("{SOURCE_PREFIX}{name}"), at, FS_TYPE, options.flags(), Some(data.as_c_str())) {
        Ok(()) => Ok(device.into()),
        // In a container without CAP_SYS_ADMIN the setuid helper may still be allowed to.
        Err(Errno::PERM) => mount_as_user(name, at, options),
        Err(e) => Err(Error::io(mounting(), e.into())),
    }
}

/// fusermount3 mounts for us and sends the device's descriptor over a socket, which it gets as its standard input.
fn mount_as_user(name: &str, at: &Path, options: &MountOptions) -> Result<OwnedFd> {
    let mounting = || format!("cannot mount on {}", at.display());
    let writable = Writable::make(at).doing(mounting)?;
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
    drop(writable);
    match device {
        Ok(Some(device)) => {
            // E.g. that dev and suid are for root only.
            String::from_utf8_lossy(&output.stderr).lines().for_each(|line| tracing::warn!("{line}"));
            Ok(device)
        }
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
        let ready = crate::fuse::prepare(dir.path(), store.path(), false);
        let _ = take_away(&at, true);
        assert!(line.starts_with("ize:a,b ") && line.contains(" fuse.ize ro,") && line.contains("default_permissions"), "{line}");
        assert!(line.contains("noexec") && line.contains("nosuid"), "{line}");
        assert_eq!(ready.unwrap(), at);
    }

    #[test]
    fn unmounting_what_is_not_ours_is_refused() {
        assert_eq!(unmount(Path::new("/"), false).unwrap_err().class, Class::NotFound);
    }
}

//! Reaching a socket whose path is longer than a socket address holds (108 bytes): through `/proc/self/fd/<directory>/<name>`.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// A socket's address, good while this lives.
pub(super) struct Address {
    /// Keeps the number in the path ours.
    _dir: File,
    socket: SocketAddrUnix,
}

impl Address {
    /// The address of socket `name` in `dir`.
    pub(super) fn new(dir: &Path, name: &str) -> io::Result<Self> {
        let dir = File::options().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY).open(dir)?;
        let path = PathBuf::from(format!("/proc/self/fd/{}/{name}", dir.as_raw_fd()));
        Ok(Self { socket: SocketAddrUnix::new(path)?, _dir: dir })
    }

    /// A socket connected to it.
    pub(super) fn connect(&self) -> io::Result<OwnedFd> {
        let socket = stream_socket()?;
        rustix::net::connect(&socket, &self.socket)?;
        Ok(socket)
    }

    /// A socket that listens on it, reachable by its owner only from the first moment.
    pub(super) fn listen(&self) -> io::Result<OwnedFd> {
        let socket = stream_socket()?;
        // Linux gives the name the mode of the unbound socket, so there is no moment at which it is wider.
        rustix::fs::fchmod(&socket, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)?;
        rustix::net::bind(&socket, &self.socket)?;
        rustix::net::listen(&socket, 128)?;
        Ok(socket)
    }
}

fn stream_socket() -> io::Result<OwnedFd> {
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?)
}

//! The command's end of the control socket.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::address::Address;
use super::message::{Hello, PROTOCOL, Request, Response};
use crate::error::{Class, Error, Result};
use crate::project::layout::{CONTROL_SOCKET, Layout};

/// Longest answer, in bytes.
const MAX_ANSWER: u64 = 256 << 20;
/// How long a daemon may take to say hello. Requests themselves may take any time.
const HELLO_WITHIN: Duration = Duration::from_secs(20);

/// A connection to a project's daemon.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
    /// For messages.
    dir: String,
}

impl Client {
    /// Connects to the daemon that has the project open.
    ///
    /// # Errors
    /// [`Class::DaemonGone`] when there is none, [`Class::Busy`] when it does not say hello within 20 s, [`Class::Refused`] when it does
    /// not want us or speaks another protocol, [`Class::Io`].
    pub fn connect(layout: &Layout) -> Result<Self> {
        let dir = layout.dir().display().to_string();
        let doing = || format!("cannot ask the daemon of {dir}");
        let socket = Address::new(&layout.meta(), CONTROL_SOCKET).and_then(|a| a.connect()).map_err(|e| match e.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
                Error::new(Class::DaemonGone, format!("no daemon has the project in {dir} open"))
                    .hint("mount it with `ize mount`")
                    .source(e)
            }
            ErrorKind::PermissionDenied => Error::new(Class::Refused, format!("{}: {e}", doing())).hint("only its owner and root may"),
            _ => Error::io(doing(), e),
        })?;
        let stream = UnixStream::from(socket);
        stream.set_read_timeout(Some(HELLO_WITHIN)).map_err(|e| Error::io(doing(), e))?;
        let mut client = Self { stream: BufReader::new(stream), dir };
        client.send(&Hello::ours())?;
        let line = client.receive()?;
        if let Ok(refusal) = serde_json::from_slice::<Response>(&line) {
            refusal.into_result()?;
        }
        let hello: Hello = client.parse(&line)?;
        if hello.protocol != PROTOCOL {
            let what = format!("the daemon of {} speaks protocol {}, this ize {PROTOCOL}", client.dir, hello.protocol);
            return Err(Error::new(Class::Refused, what)
                .hint(format!("it is ize {}: use that one, or unmount and mount again with this one", hello.version)));
        }
        client.stream.get_ref().set_read_timeout(None).map_err(|e| Error::io("cannot ask the daemon", e))?;
        Ok(client)
    }

    /// Asks and waits for the answer.
    ///
    /// # Errors
    /// What the daemon answers; [`Class::DaemonGone`] when it goes away before it has answered.
    pub fn call<T: DeserializeOwned>(&mut self, request: &Request) -> Result<T> {
        self.send(request)?;
        let line = self.receive()?;
        let value = self.parse::<Response>(&line)?.into_result()?;
        serde_json::from_value(value).map_err(|e| self.nonsense(e))
    }

    fn send(&mut self, message: &impl serde::Serialize) -> Result<()> {
        let mut line = serde_json::to_vec(message).map_err(|e| Error::new(Class::Failed, format!("cannot write a request: {e}")))?;
        line.push(b'\n');
        match self.stream.get_mut().write_all(&line) {
            // A daemon that refuses may have answered and hung up before we finished: its answer is worth more than our EPIPE.
            Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(()),
            other => other.map_err(|e| self.lost(e)),
        }
    }

    fn receive(&mut self) -> Result<Vec<u8>> {
        let mut line = Vec::new();
        match self.stream.by_ref().take(MAX_ANSWER).read_until(b'\n', &mut line) {
            Err(e) => Err(self.lost(e)),
            Ok(_) if line.last() == Some(&b'\n') => Ok(line),
            Ok(_) => Err(self.lost(ErrorKind::UnexpectedEof.into())),
        }
    }

    fn parse<T: DeserializeOwned>(&self, line: &[u8]) -> Result<T> {
        serde_json::from_slice(line).map_err(|e| self.nonsense(e))
    }

    fn nonsense(&self, e: serde_json::Error) -> Error {
        Error::new(Class::Failed, format!("the daemon of {} answered what this ize does not understand: {e}", self.dir)).source(e)
    }

    fn lost(&self, e: std::io::Error) -> Error {
        match e.kind() {
            ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => {
                Error::new(Class::DaemonGone, format!("the daemon of {} went away before it answered", self.dir))
                    .hint("what it had answered to programs is in the log: mount the project again; `meta/daemon.log` may say why")
            }
            ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                Error::new(Class::Busy, format!("the daemon of {} does not answer", self.dir)).hint("is it stopped? Try again")
            }
            _ => Error::io(format!("cannot ask the daemon of {}", self.dir), e),
        }
    }
}

//! The daemon's end of the control socket: one thread accepts, each connection has its own.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::address::Address;
use super::message::{Hello, PROTOCOL, Request, Response};
use crate::error::{Class, Error, Result};
use crate::project::layout::{CONTROL_SOCKET, Layout};

/// Longest request, in bytes.
const MAX_REQUEST: u64 = 16 << 20;
/// Most connections at a time; the next one is told to come again.
const MAX_CONNECTIONS: usize = 64;
/// How long a client may take to say hello, and to take an answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// What answers requests.
pub trait Handler: Send + Sync + 'static {
    /// Answers `request` of user `uid`. Called from many threads at once; may take its time, but must not wait for [`Server::stop`],
    /// which waits for it.
    fn handle(&self, request: Request, uid: u32) -> Response;
}

impl<F: Fn(Request, u32) -> Response + Send + Sync + 'static> Handler for F {
    fn handle(&self, request: Request, uid: u32) -> Response {
        self(request, uid)
    }
}

/// A listening control socket. Dropped without [`Server::stop`] it goes on until the process ends.
#[derive(Debug)]
pub struct Server {
    listener: Arc<OwnedFd>,
    accepting: Option<JoinHandle<()>>,
    shared: Arc<Shared>,
    path: PathBuf,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    stopping: bool,
    /// Number for the next connection.
    next: u64,
    /// The open connections, so that `stop` can end those that say nothing.
    connections: BTreeMap<u64, UnixStream>,
    /// Requests read and not yet answered.
    answering: usize,
}

impl Shared {
    // A thread that panicked while it held the lock cannot have left a counter half changed.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, how: impl FnOnce(&mut State)) {
        how(&mut self.lock());
        self.changed.notify_all();
    }
}

impl Server {
    /// Listens on the project's control socket. The caller holds the project's [`Lock`](crate::project::lock::Lock), so a socket file on
    /// which nobody listens is a dead daemon's and is replaced. Users other than `owner` and root are refused.
    ///
    /// # Errors
    /// [`Class::Busy`] when somebody listens there, [`Class::Io`].
    pub fn start(layout: &Layout, owner: u32, handler: impl Handler) -> Result<Self> {
        let path = layout.control_socket();
        let doing = || format!("cannot listen on {}", path.display());
        let io = |e| Error::io(doing(), e);
        let address = Address::new(&layout.meta(), CONTROL_SOCKET).map_err(io)?;
        let socket = match address.listen() {
            Err(e) if e.kind() == ErrorKind::AddrInUse => {
                match address.connect() {
                    Err(e) if e.kind() == ErrorKind::ConnectionRefused => {}
                    Err(e) => return Err(io(e)),
                    Ok(_) => return Err(Error::new(Class::Busy, format!("another daemon listens on {}", path.display()))),
                }
                std::fs::remove_file(&path).map_err(io)?;
                address.listen().map_err(io)?
            }
            other => other.map_err(io)?,
        };
        let listener = UnixListener::from(socket);
        let waker = Arc::new(OwnedFd::from(listener.try_clone().map_err(io)?));
        let shared = Arc::new(Shared::default());
        let handler: Arc<dyn Handler> = Arc::new(handler);
        let accepting = {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new().name("control".into()).spawn(move || accept(&listener, owner, &handler, &shared)).map_err(io)?
        };
        Ok(Self { listener: waker, accepting: Some(accepting), shared, path })
    }

    /// Takes no more requests, waits until those already taken are answered (at most `within`), hangs up, removes the socket. Returns false
    /// when some were still unanswered; when it returns true the handler has been dropped.
    pub fn stop(mut self, within: Duration) -> bool {
        self.shared.change(|s| s.stopping = true);
        // Wakes accept(2), which then fails.
        let _ = rustix::net::shutdown(&*self.listener, rustix::net::Shutdown::Both);
        if let Some(thread) = self.accepting.take() {
            let _ = thread.join();
        }
        let _ = std::fs::remove_file(&self.path);
        let deadline = Instant::now() + within;
        let mut state = self.shared.lock();
        // Only the reading half: an answer on its way still arrives.
        for stream in state.connections.values() {
            let _ = stream.shutdown(Shutdown::Read);
        }
        while state.answering > 0 || !state.connections.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self.shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

fn accept(listener: &UnixListener, owner: u32, handler: &Arc<dyn Handler>, shared: &Arc<Shared>) {
    loop {
        let stream = listener.accept();
        if shared.lock().stopping {
            return;
        }
        match stream {
            Ok((stream, _)) => {
                // Counted here and not in the thread, or a burst would pass the limit before the first thread runs.
                let place = match Place::take(shared, &stream) {
                    Ok(place) => place,
                    Err(e) => {
                        tracing::warn!("a control connection was dropped: {e}");
                        continue;
                    }
                };
                let (handler, shared) = (Arc::clone(handler), Arc::clone(shared));
                let spawned = std::thread::Builder::new().name("control".into()).spawn(move || {
                    // Given back last, and even when the handler panics: then nobody holds the handler any more.
                    let place = place;
                    let handler = handler;
                    let _ = serve(&stream, owner, &*handler, &shared, place.full);
                });
                if let Err(e) = spawned {
                    tracing::warn!("a control connection was dropped: {e}");
                }
            }
            // The client gave up, or we are out of descriptors: others may still come, but not in a hot loop.
            Err(e) => {
                tracing::warn!("control socket: {e}");
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }
}

/// One of the places for connections.
struct Place {
    shared: Arc<Shared>,
    number: u64,
    full: bool,
}

impl Place {
    fn take(shared: &Arc<Shared>, stream: &UnixStream) -> std::io::Result<Self> {
        let stream = stream.try_clone()?;
        let mut state = shared.lock();
        let number = state.next;
        state.next += 1;
        state.connections.insert(number, stream);
        let full = state.connections.len() > MAX_CONNECTIONS;
        drop(state);
        Ok(Self { shared: Arc::clone(shared), number, full })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.change(|s| drop(s.connections.remove(&self.number)));
    }
}

/// A request that is being answered.
struct Answering<'a>(&'a Shared);

impl<'a> Answering<'a> {
    /// `None` when the server is stopping.
    fn begin(shared: &'a Shared) -> Option<Self> {
        let mut state = shared.lock();
        if state.stopping {
            return None;
        }
        state.answering += 1;
        Some(Self(shared))
    }
}

impl Drop for Answering<'_> {
    fn drop(&mut self) {
        self.0.change(|s| s.answering -= 1);
    }
}

fn serve(stream: &UnixStream, owner: u32, handler: &dyn Handler, shared: &Shared, full: bool) -> std::io::Result<()> {
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let uid = rustix::net::sockopt::socket_peercred(stream)?.uid.as_raw();
    let refuse = |e: Error| send(stream, &Response::from(e));
    if uid != owner && uid != 0 {
        return refuse(Error::new(Class::Refused, format!("this project belongs to user {owner}, not to user {uid}")));
    }
    if full {
        return refuse(Error::new(Class::Busy, "the daemon serves too many commands at once").hint("try again"));
    }
    let mut reader = BufReader::new(stream);
    let Some(line) = receive(&mut reader)? else { return Ok(()) };
    match serde_json::from_slice::<Hello>(&line) {
        Ok(hello) if hello.protocol == PROTOCOL => send(stream, &Hello::ours())?,
        Ok(hello) => {
            let what = format!("this daemon speaks protocol {PROTOCOL}, you speak {}", hello.protocol);
            let hint = format!("it is ize {}: use that one, or unmount and mount again with yours", env!("CARGO_PKG_VERSION"));
            return refuse(Error::new(Class::Refused, what).hint(hint));
        }
        Err(e) => return refuse(Error::new(Class::Usage, format!("the first line must be a hello: {e}"))),
    }
    stream.set_read_timeout(None)?;
    while let Some(line) = receive(&mut reader)? {
        let Some(answering) = Answering::begin(shared) else { return Ok(()) };
        let response = match serde_json::from_slice::<Request>(&line) {
            Ok(request) => handler.handle(request, uid),
            Err(e) => Error::new(Class::Usage, format!("not a request: {e}")).into(),
        };
        send(stream, &response)?;
        drop(answering);
    }
    Ok(())
}

/// The next line; `None` at the end, or when it never ends.
fn receive(reader: &mut BufReader<&UnixStream>) -> std::io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    reader.by_ref().take(MAX_REQUEST).read_until(b'\n', &mut line)?;
    Ok((line.last() == Some(&b'\n')).then_some(line))
}

fn send(mut stream: &UnixStream, message: &impl serde::Serialize) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    stream.write_all(&line)
}

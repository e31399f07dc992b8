//! Who did it. Read from `/proc/PID/stat`, `status` and the link `exe` only: much else there may wait for locks that a process holds while
//! it waits for us. Cached for a moment, because one reading costs some 4.5 us. A command line is read only when asked for, by a thread
//! of its own that nobody waits for long: it is behind such a lock.

use std::collections::HashMap;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// Names a process for ever (within one boot): pids are reused, start times are not. `pid` 0 is unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ProcessKey {
    /// Process id (thread group id).
    pub pid: u32,
    /// Start time in clock ticks since boot, as /proc/PID/stat has it.
    pub start: u64,
}

/// What the log says of a process, once per process and segment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessRecord {
    /// Which process.
    pub key: ProcessKey,
    /// Its short name: up to 15 bytes.
    #[serde(with = "serde_bytes")]
    pub comm: Vec<u8>,
    /// User id of the request.
    pub uid: u32,
    /// Session leader's pid.
    pub session: u32,
    /// Parents, nearest first, up to eight: pid and short name.
    pub parents: Vec<(u32, Vec<u8>)>,
    /// Path of the program's file, as bytes; empty when it is not known.
    #[serde(with = "serde_bytes")]
    pub executable: Vec<u8>,
    /// Its arguments, where `log.command-lines` asks for them; up to 4 KiB of them.
    pub command_line: Option<Vec<serde_bytes::ByteBuf>>,
}

/// Version of the body that is written for a process record.
pub const PROCESS_VERSION: u8 = 2;

/// Body version 1, as it was before programs were named by their files.
#[derive(Deserialize)]
pub(super) struct ProcessRecordV1 {
    key: ProcessKey,
    #[serde(with = "serde_bytes")]
    comm: Vec<u8>,
    uid: u32,
    session: u32,
    parents: Vec<(u32, Vec<u8>)>,
}

impl From<ProcessRecordV1> for ProcessRecord {
    fn from(old: ProcessRecordV1) -> Self {
        let ProcessRecordV1 { key, comm, uid, session, parents } = old;
        Self { key, comm, uid, session, parents, executable: Vec::new(), command_line: None }
    }
}

/// A process as it was seen, with the bytes that the log takes of it.
#[derive(Debug, Default)]
pub struct Known {
    /// What is known of it.
    pub record: ProcessRecord,
    /// The body of its record.
    pub body: Vec<u8>,
}

/// Processes seen lately.
#[derive(Debug, Default)]
pub struct ProcessCache {
    seen: HashMap<u32, (Instant, Arc<Known>)>,
    command_lines: Option<CommandLines>,
}

/// How long a reading is trusted. A pid is not reused within it, unless 32,768 processes start meanwhile.
const TRUST: Duration = Duration::from_millis(500);
/// Beyond this many the cache is emptied.
const CAPACITY: usize = 4096;
/// Parents that a record names.
const PARENTS: usize = 8;
/// Bytes of a command line that are kept.
const COMMAND_LINE: usize = 4096;
/// How long an operation waits for a command line, once per process and [`TRUST`].
const COMMAND_LINE_PATIENCE: Duration = Duration::from_millis(20);

impl ProcessCache {
    /// A cache that also reads command lines, when `command_lines` says so.
    #[must_use]
    pub fn new(command_lines: bool) -> Self {
        Self { seen: HashMap::new(), command_lines: command_lines.then(CommandLines::start).flatten() }
    }

    /// The process of thread `pid` (0 and processes that are gone give a record that says only what is known).
    ///
    /// # Errors
    /// It has no form as bytes; does not happen.
    pub fn get(&mut self, pid: u32, uid: u32) -> postcard::Result<Arc<Known>> {
        let now = Instant::now();
        if let Some((at, known)) = self.seen.get(&pid)
            && now.duration_since(*at) < TRUST
            && known.record.uid == uid
        {
            return Ok(Arc::clone(known));
        }
        if self.seen.len() >= CAPACITY {
            self.seen.clear();
        }
        let mut record = read(pid, uid);
        if let Some(lines) = self.command_lines.as_ref().filter(|_| record.key.pid != 0) {
            record.command_line = lines.of(record.key.pid);
        }
        let body = postcard::to_stdvec(&record)?;
        let known = Arc::new(Known { record, body });
        self.seen.insert(pid, (now, Arc::clone(&known)));
        Ok(known)
    }
}

/// The kernel names the thread that asked; a process is its thread group.
fn group_of(thread: u32) -> Option<u32> {
    let status = std::fs::read(format!("/proc/{thread}/status")).ok()?;
    let line = status.split(|&b| b == b'\n').find_map(|line| line.strip_prefix(b"Tgid:"))?;
    std::str::from_utf8(line).ok()?.trim().parse().ok()
}

fn read(thread: u32, uid: u32) -> ProcessRecord {
    let pid = group_of(thread).unwrap_or(thread);
    let Some(stat) = Stat::read(pid) else {
        return ProcessRecord { key: ProcessKey { pid, start: 0 }, uid, ..ProcessRecord::default() };
    };
    let mut parents = Vec::new();
    let mut next = stat.parent;
    while next != 0 && parents.len() < PARENTS {
        let Some(parent) = Stat::read(next) else { break };
        parents.push((next, parent.comm));
        next = parent.parent;
    }
    let executable = std::fs::read_link(format!("/proc/{pid}/exe")).map(|p| p.into_os_string().into_vec()).unwrap_or_default();
    ProcessRecord {
        key: ProcessKey { pid, start: stat.start },
        comm: stat.comm,
        uid,
        session: stat.session,
        parents,
        executable,
        command_line: None,
    }
}

/// A thread that reads command lines.
#[derive(Debug)]
struct CommandLines {
    ask: Sender<(u32, Sender<Vec<u8>>)>,
}

impl CommandLines {
    fn start() -> Option<Self> {
        let (ask, asked) = channel::<(u32, Sender<Vec<u8>>)>();
        let work = move || {
            for (pid, answer) in asked {
                let mut bytes = vec![0; COMMAND_LINE];
                let read = std::fs::File::open(format!("/proc/{pid}/cmdline")).and_then(|mut f| f.read(&mut bytes));
                bytes.truncate(read.unwrap_or(0));
                // Whoever asked may have given up.
                let _ = answer.send(bytes);
            }
        };
        std::thread::Builder::new().name("ize-cmdline".into()).spawn(work).ok().map(|_| Self { ask })
    }

    /// The arguments of a process; `None` when they do not come at once.
    fn of(&self, pid: u32) -> Option<Vec<serde_bytes::ByteBuf>> {
        let (answer, answered) = channel();
        self.ask.send((pid, answer)).ok()?;
        let bytes = answered.recv_timeout(COMMAND_LINE_PATIENCE).ok()?;
        let bytes = bytes.strip_suffix(b"\0").unwrap_or(&bytes);
        (!bytes.is_empty()).then(|| bytes.split(|b| *b == 0).map(|arg| serde_bytes::ByteBuf::from(arg.to_vec())).collect())
    }
}

struct Stat {
    comm: Vec<u8>,
    parent: u32,
    session: u32,
    start: u64,
}

impl Stat {
    /// Reads /proc/PID/stat: `pid (comm) state ppid pgrp session ... starttime(22nd)`; comm may hold any bytes, also `)`.
    fn read(pid: u32) -> Option<Stat> {
        if pid == 0 {
            return None;
        }
        let text = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
        let open = text.iter().position(|&b| b == b'(')?;
        let close = text.iter().rposition(|&b| b == b')')?;
        let comm = text.get(open + 1..close)?.to_vec();
        let rest = std::str::from_utf8(text.get(close + 1..)?).ok()?;
        let mut fields = rest.split_ascii_whitespace();
        let parent = fields.nth(1)?.parse().ok()?;
        let session = fields.nth(1)?.parse().ok()?;
        let start = fields.nth(15)?.parse().ok()?;
        Some(Stat { comm, parent, session, start })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_name_session_and_parents() {
        let me = std::process::id();
        let record = &ProcessCache::default().get(me, 7).unwrap().record;
        assert_eq!(record.key.pid, me);
        assert!(record.key.start > 0);
        assert_eq!(record.uid, 7);
        assert_eq!(record.comm, std::fs::read("/proc/self/comm").unwrap().strip_suffix(b"\n").unwrap());
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
        let after: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        assert_eq!(record.parents[0].0.to_string(), after[1]);
        assert_eq!(record.session.to_string(), after[3]);
        assert_eq!(record.key.start.to_string(), after[19]);
        assert_eq!(record.executable, std::env::current_exe().unwrap().into_os_string().into_vec());
        assert_eq!(record.command_line, None);
    }

    #[test]
    fn a_command_line_is_there_only_when_asked_for() {
        let record = &ProcessCache::new(true).get(std::process::id(), 0).unwrap().record;
        let args: Vec<Vec<u8>> = std::env::args_os().map(OsStringExt::into_vec).collect();
        let line: Vec<Vec<u8>> = record.command_line.clone().unwrap().into_iter().map(serde_bytes::ByteBuf::into_vec).collect();
        assert_eq!(line, args);
        assert_eq!(ProcessCache::new(false).get(std::process::id(), 0).unwrap().record.command_line, None);
    }

    #[test]
    fn a_thread_is_known_by_its_process() {
        let thread = std::thread::spawn(|| {
            let id = rustix::thread::gettid().as_raw_nonzero().get() as u32;
            assert_ne!(id, std::process::id());
            ProcessCache::default().get(id, 0).unwrap()
        });
        let record = &thread.join().unwrap().record;
        assert_eq!(record.key, ProcessCache::default().get(std::process::id(), 0).unwrap().record.key);
    }

    #[test]
    fn an_unknown_process_has_no_name() {
        let record = &ProcessCache::default().get(0, 0).unwrap().record;
        assert_eq!((record.key, record.comm.len()), (ProcessKey::default(), 0));
    }
}

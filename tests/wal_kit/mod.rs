//! What the tests of the log's commands share: a home, a log written record by record, the program.

#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use ize::ids::{BlobId, Ino, Lsn, SegmentId, Time};
use ize::op::{self, Data, Entry, Operation, ProcessKey, ProcessRecord, Stamp};
use ize::project::Project;
use ize::project::layout::Central;
use ize::project::registry;
use ize::storage::Disk;
use ize::wal::format::segment_path;
use ize::wal::{Log, Options, Record, RecoveryInput};
use serde_json::Value;

pub struct Home {
    dir: tempfile::TempDir,
}

pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

pub fn ran(output: Output) -> Ran {
    Ran {
        code: output.status.code().expect("ize was killed by a signal"),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

impl Home {
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// `ize` with nothing of the caller's environment that it would read.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ize"));
        command.args(words).env_clear().env("HOME", self.path()).env("TZ", "UTC").current_dir(self.path()).stdin(Stdio::null());
        command
    }

    pub fn ize(&self, words: &[&str]) -> Ran {
        let ran = ran(self.command(words).output().unwrap());
        assert!(!ran.err.contains("panicked"), "{words:?}: {}", ran.err);
        ran
    }

    #[track_caller]
    pub fn ok(&self, words: &[&str]) -> String {
        let ran = self.ize(words);
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{words:?}: {}", ran.out);
        ran.out
    }

    pub fn project(&self, name: &str) -> Project {
        registry::init(&Central::new(self.path().join(".local/share/ize")), name).unwrap()
    }
}

pub fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}"))).collect()
}

pub fn time(secs: i64) -> Time {
    Time { secs, nanos: 0 }
}

pub fn mkdir(dir: u64, name: &str, ino: u64) -> Operation {
    op::Mkdir { dir: Ino(dir), name: name.into(), ino: Ino(ino), mode: 0o755, uid: 7, gid: 8 }.into()
}

pub fn create(dir: u64, name: &str, ino: u64) -> Operation {
    op::Create { dir: Ino(dir), name: name.into(), ino: Ino(ino), mode: 0o644, uid: 7, gid: 8 }.into()
}

pub fn unlink(dir: u64, name: &str, ino: u64) -> Operation {
    op::Unlink { dir: Ino(dir), name: name.into(), ino: Ino(ino) }.into()
}

pub fn chmod(ino: u64, old: u32, new: u32) -> Operation {
    op::Chmod { ino: Ino(ino), old, new }.into()
}

/// A write and its bytes.
pub fn write(ino: u64, offset: u64, bytes: &[u8]) -> (Operation, Vec<u8>) {
    let data = Data::Inline(bytes.len() as u32);
    (op::Write { ino: Ino(ino), offset, data, size_after: offset + bytes.len() as u64, mode_after: None }.into(), bytes.to_vec())
}

/// A write whose bytes are in the packs.
pub fn write_blob(ino: u64, id: BlobId, len: u32) -> Operation {
    op::Write { ino: Ino(ino), offset: 0, data: Data::Blob { id, len }, size_after: u64::from(len), mode_after: None }.into()
}

/// What is pushed: an operation, with the bytes of an inline write.
pub struct Pushed(Operation, Vec<u8>);

impl From<Operation> for Pushed {
    fn from(op: Operation) -> Self {
        Self(op, Vec::new())
    }
}

impl From<(Operation, Vec<u8>)> for Pushed {
    fn from((op, bytes): (Operation, Vec<u8>)) -> Self {
        Self(op, bytes)
    }
}

/// Writes the log of a project as its daemon would.
pub struct Writer {
    pub project: Project,
    pub log: Log,
    process: ProcessRecord,
    time: Time,
    told: std::collections::HashSet<(SegmentId, ProcessKey)>,
}

impl Writer {
    pub fn new(project: Project) -> Self {
        Self::sized(project, 4 << 20)
    }

    pub fn sized(project: Project, segment_size: u64) -> Self {
        Self::open(project, segment_size, 1)
    }

    /// After its process died, and after a prune: segments below `floor` are gone.
    pub fn above(project: Project, floor: u64) -> Self {
        Self::open(project, 4 << 20, floor)
    }

    fn open(project: Project, segment_size: u64, floor: u64) -> Self {
        let mut verify = |_: &Record<'_>| Ok(true);
        let input = RecoveryInput { floor: SegmentId(floor), ..RecoveryInput::new(&mut verify) };
        let options = Options { segment_size, ..Options::default() };
        let log = Log::recover(Disk::shared(), &project.layout.wal(), project.identity.id, input, options).unwrap().0;
        let mut writer =
            Self { project, log, process: ProcessRecord::default(), time: time(1_767_366_000), told: std::collections::HashSet::new() };
        writer.by(100, "vim");
        writer
    }

    /// What follows is done by this process.
    pub fn by(&mut self, pid: u32, comm: &str) {
        let start = if pid == 0 { 0 } else { 77 };
        let parents = if pid == 0 { vec![] } else { vec![(50, b"zsh".to_vec())] };
        self.process = ProcessRecord {
            key: ProcessKey { pid, start },
            comm: comm.into(),
            uid: 7,
            session: 50,
            parents,
            executable: b"/bin/x".to_vec(),
            command_line: None,
        };
    }

    /// What follows is done at this time.
    pub fn at(&mut self, secs: i64) {
        self.time = time(secs);
    }

    pub fn push(&mut self, pushed: impl Into<Pushed>) -> Lsn {
        let Pushed(op, bytes) = pushed.into();
        let stamp = Stamp { time: self.time, behind: 0, process: self.process.key, link: None };
        let payload = op.blob().map_or(0, |(_, len)| u64::from(len));
        let (kind, version, body) = op::encode(&Entry { stamp, op }).unwrap();
        let (process, told) = (&self.process, &mut self.told);
        let record = postcard::to_stdvec(process).unwrap();
        let out = self.log.append_with(body.len() + bytes.len() + record.len() + 256, &mut |segment, batch| {
            if process.key.pid != 0 && told.insert((segment, process.key)) {
                batch.push(op::KIND_PROCESS, op::PROCESS_VERSION, &[&record], 0);
            }
            batch.push(kind, version, &[&body, &bytes], payload);
        });
        out.unwrap().last().unwrap().lsn
    }

    pub fn seal(&mut self) {
        self.log.seal().unwrap();
    }

    /// The file of a segment.
    pub fn segment(&self, id: u64) -> PathBuf {
        segment_path(&self.project.layout.wal(), SegmentId(id))
    }
}

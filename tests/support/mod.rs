//! A store and mounts of its own for each test, taken down whatever happens.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, reason = "each test file uses its part, and stops where it cannot go on")]

pub mod pijul;
pub mod sqlite;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// A central directory and a mount point, both temporary.
pub struct Home {
    dir: tempfile::TempDir,
    pub mount: PathBuf,
}

/// What a command printed and how it ended.
#[derive(Debug)]
pub struct Said {
    pub code: i32,
    pub out: String,
    pub err: String,
    pub bytes: Vec<u8>,
}

impl Home {
    pub fn new() -> Self {
        Self::within(tempfile::tempdir().expect("a temporary directory"))
    }

    /// The same in a directory that the test named.
    pub fn within(dir: tempfile::TempDir) -> Self {
        let mount = dir.path().join("mnt");
        std::fs::create_dir(&mount).unwrap();
        Self { dir, mount }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn central(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    /// `ize` with these arguments and nothing of the user's surroundings.
    pub fn command<S: AsRef<OsStr>>(&self, args: &[S]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ize"));
        command.args(args).env("IZE_CENTRAL_DIR", self.central()).env("HOME", self.dir.path()).env("XDG_CONFIG_HOME", self.dir.path());
        command.env_remove("IZE_LOG").current_dir(self.dir.path()).stdin(Stdio::null());
        command
    }

    pub fn ize<S: AsRef<OsStr>>(&self, args: &[S]) -> Said {
        said(self.command(args).output().expect("ize runs"))
    }

    /// The same in a directory.
    pub fn ize_in<S: AsRef<OsStr>>(&self, dir: &Path, args: &[S]) -> Said {
        said(self.command(args).current_dir(dir).output().expect("ize runs"))
    }

    /// The same, which must succeed; gives stdout.
    pub fn ok<S: AsRef<OsStr> + std::fmt::Debug>(&self, args: &[S]) -> String {
        let said = self.ize(args);
        assert_eq!(said.code, 0, "ize {args:?}: {said:?}");
        said.out
    }

    pub fn mount(&self) {
        let mount = self.mount.to_str().unwrap().to_owned();
        self.ok(&["mount", "p", &mount, "--create"]);
    }

    pub fn unmount(&self) {
        self.ok(&["unmount", "p"]);
    }

    pub fn status(&self) -> Value {
        serde_json::from_str(&self.ok(&["status", "p", "--json"])).expect("status is JSON")
    }

    pub fn daemon(&self) -> i32 {
        i32::try_from(self.status()["pid"].as_i64().expect("a daemon has a pid")).unwrap()
    }

    /// Kills the daemon with SIGKILL and waits until it is gone.
    pub fn kill(&self) {
        kill_now(self.daemon());
    }

    /// Changes, newest first.
    pub fn history(&self) -> Vec<Value> {
        lines(&self.ok(&["history", "p", "--json"]))
    }

    /// The project's directory in the store.
    pub fn project(&self) -> PathBuf {
        let mut all = std::fs::read_dir(self.central().join("projects")).unwrap();
        all.next().expect("a project").unwrap().path()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let ours = self.dir.path().to_string_lossy().into_owned();
        for line in mounts.lines().rev() {
            let point = line.split(' ').nth(1).unwrap_or_default();
            if point.starts_with(&ours) {
                let _ = Command::new("umount").args(["-l", point]).stderr(Stdio::null()).status();
            }
        }
        // Daemons that outlived their mount: those of this test alone, which its own directory names.
        for pid in daemons_of(&ours) {
            let pid = rustix::process::Pid::from_raw(pid).expect("a pid");
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

/// Processes of ize that name `dir` in a word of theirs.
pub fn daemons_of(dir: &str) -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
    let ours = |pid: &i32| {
        let exe = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        exe.file_name().is_some_and(|n| n.to_string_lossy().starts_with("ize")) && String::from_utf8_lossy(&words).contains(dir)
    };
    pids.filter(ours).collect()
}

/// Waits until `done`, for at most a minute.
#[track_caller]
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < deadline, "{what}: not within a minute");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Sends SIGKILL and waits for the end.
pub fn kill_now(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).expect("a pid");
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    let deadline = Instant::now() + Duration::from_secs(10);
    while Path::new(&format!("/proc/{pid}/stat")).exists() && !is_zombie(pid.as_raw_nonzero().get()) {
        assert!(Instant::now() < deadline, "the daemon does not die");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Is the process dead, but not waited for by its parent?
pub fn is_zombie(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|s| s.rsplit(')').next().is_some_and(|r| r.trim_start().starts_with('Z')))
}

pub fn said(output: Output) -> Said {
    Said {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
        bytes: output.stdout,
    }
}

pub fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("one JSON object a line")).collect()
}

/// A command that must succeed; gives stdout.
pub fn sh(dir: &Path, script: &str) -> String {
    let output = Command::new("bash").args(["-euo", "pipefail", "-c", script]).current_dir(dir).output().expect("bash runs");
    let said = said(output);
    assert_eq!(said.code, 0, "{script}: {said:?}");
    said.out
}

/// Every path below `dir` (without `.pijul`) with kind, permissions, mtime, size and a hash of its bytes or its target.
pub fn tree(dir: &Path) -> std::collections::BTreeMap<PathBuf, String> {
    use std::os::unix::fs::MetadataExt;
    let mut out = std::collections::BTreeMap::new();
    let mut work = vec![dir.to_owned()];
    while let Some(at) = work.pop() {
        for entry in std::fs::read_dir(&at).unwrap() {
            let path = entry.unwrap().path();
            let m = std::fs::symlink_metadata(&path).unwrap();
            let what = if m.is_dir() {
                work.push(path.clone());
                "dir".to_owned()
            } else if m.is_symlink() {
                format!("-> {}", std::fs::read_link(&path).unwrap().display())
            } else {
                let hash = blake3::hash(&std::fs::read(&path).unwrap());
                format!("{} bytes {hash} mtime {}.{}", m.len(), m.mtime(), m.mtime_nsec())
            };
            out.insert(path.strip_prefix(dir).unwrap().to_owned(), format!("{:o} {what}", m.mode()));
        }
    }
    out
}

//! A serving process and its ends: signals, kill -9, a request that panics. Runs `examples/memory_mount.rs`.
#![cfg(feature = "fuse")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ize::fuse::{prepare, unmount};
use ize::project::mounts::{Mounts, is_stale};

struct Daemon {
    child: Child,
    _errors: BufReader<std::process::ChildStderr>,
    dir: PathBuf,
    temp: tempfile::TempDir,
}

impl Daemon {
    /// Needs the example (`cargo test --test mount_process` alone does not build it) and /dev/fuse.
    fn start() -> Daemon {
        let exe = std::env::current_exe().unwrap();
        let example = exe.parent().unwrap().parent().unwrap().join("examples/memory_mount");
        assert!(example.exists(), "build it first: cargo build --example memory_mount");
        fs::OpenOptions::new().read(true).write(true).open("/dev/fuse").expect("these tests need /dev/fuse");
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("mnt");
        fs::create_dir(&dir).unwrap();
        let mut child = Command::new(example).arg(&dir).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        let mut errors = BufReader::new(child.stderr.take().unwrap());
        errors.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Daemon { child, _errors: errors, dir, temp }
    }

    fn signal(&self, name: &str) {
        assert!(Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap().success());
    }

    fn ends_within(&mut self, limit: Duration) -> std::process::ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(begun.elapsed() < limit, "still running after {limit:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = Command::new("umount").arg("-l").arg(&self.dir).stderr(Stdio::null()).status();
    }
}

fn is_mounted(dir: &Path) -> bool {
    Mounts::load().unwrap().ize().any(|m| m.point == dir)
}

#[test]
fn a_signal_unmounts_and_ends_the_process_in_order() {
    for name in ["-TERM", "-INT", "-HUP"] {
        let mut daemon = Daemon::start();
        fs::write(daemon.dir.join("f"), b"x").unwrap();
        daemon.signal(name);
        assert!(daemon.ends_within(Duration::from_secs(5)).success(), "{name}");
        assert!(!is_mounted(&daemon.dir));
    }
}

#[test]
fn a_signal_detaches_a_mount_in_use_and_serves_open_files_until_they_are_closed() {
    let mut daemon = Daemon::start();
    let mut file = fs::File::create(daemon.dir.join("f")).unwrap();
    daemon.signal("-TERM");
    let begun = Instant::now();
    while is_mounted(&daemon.dir) {
        assert!(begun.elapsed() < Duration::from_secs(5));
        std::thread::sleep(Duration::from_millis(10));
    }
    std::io::Write::write_all(&mut file, b"still served").unwrap();
    assert!(daemon.child.try_wait().unwrap().is_none());
    drop(file);
    assert!(daemon.ends_within(Duration::from_secs(5)).success());
}

#[test]
fn umount_ends_the_process_and_leaves_what_is_mounted_there_next() {
    let mut daemon = Daemon::start();
    // The directory beneath is a mount too; the end of the session must not take it away.
    unmount(&daemon.dir, false).unwrap();
    assert!(Command::new("mount").args(["-t", "tmpfs", "none"]).arg(&daemon.dir).status().unwrap().success());
    assert!(daemon.ends_within(Duration::from_secs(5)).success());
    fs::write(daemon.dir.join("f"), b"on the tmpfs").unwrap();
    let table = fs::read_to_string("/proc/mounts").unwrap();
    assert!(table.lines().any(|l| l.starts_with("none ") && l.contains(daemon.dir.to_str().unwrap())), "the tmpfs is gone");
}

#[test]
fn a_mount_left_by_a_killed_daemon_is_noticed_and_detached() {
    let mut daemon = Daemon::start();
    daemon.child.kill().unwrap();
    daemon.child.wait().unwrap();
    assert!(is_stale(&daemon.dir));
    let store = daemon.temp.path().join("store");
    fs::create_dir(&store).unwrap();
    prepare(&daemon.dir, &store, false).unwrap();
    assert!(!is_stale(&daemon.dir));
    assert!(!is_mounted(&daemon.dir));
}

//! The file systems that are compared: the one beneath, and three that stand on it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A place to work in; what serves it ends with it.
pub struct Contender {
    pub name: &'static str,
    pub dir: PathBuf,
    mounted: bool,
}

impl Contender {
    /// All that can be had, on the file system of `place`: native first, ize last.
    pub fn all(place: &Path, peers: Option<&Path>) -> Vec<Contender> {
        let mut all = vec![Contender::native(place)];
        match Contender::peer("bindfs", place, Path::new("bindfs"), &[]) {
            Some(bindfs) => all.push(bindfs),
            None => eprintln!("bindfs is not there: benches/peers gets it"),
        }
        match peers.and_then(|dir| Contender::peer("passthrough_hp", place, &dir.join("passthrough_hp"), &["--foreground"])) {
            Some(peer) => all.push(peer),
            None => eprintln!("passthrough_hp is not there: benches/peers builds it"),
        }
        all.push(Contender::ize(place));
        all
    }

    fn native(place: &Path) -> Self {
        let dir = place.join("native");
        fs::create_dir_all(&dir).expect("created");
        Contender { name: "native", dir, mounted: false }
    }

    /// A program that shows one directory in another place.
    fn peer(name: &'static str, place: &Path, program: &Path, flags: &[&str]) -> Option<Self> {
        let (source, dir) = (place.join(format!("{name}-source")), place.join(name));
        fs::create_dir_all(&source).expect("created");
        fs::create_dir_all(&dir).expect("created");
        let mut command = Command::new(program);
        command.args(flags).arg(&source).arg(&dir).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().ok()?;
        let mine = Contender { name, dir, mounted: true };
        let deadline = Instant::now() + Duration::from_secs(10);
        while !is_mounted(&mine.dir) {
            if Instant::now() > deadline {
                return None;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Some(mine)
    }

    fn ize(place: &Path) -> Self {
        let dir = place.join("ize");
        let status = ize(place, &["mount", "bench", dir.to_str().expect("a plain path"), "--create"]);
        assert!(status, "ize mounts");
        Contender { name: "ize", dir, mounted: true }
    }
}

fn ize(place: &Path, args: &[&str]) -> bool {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ize"));
    command.args(args).env("IZE_CENTRAL_DIR", place.join("store")).stdin(Stdio::null()).stderr(Stdio::null());
    command.status().expect("ize runs").success()
}

fn is_mounted(dir: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounts.lines().any(|line| line.split(' ').nth(1) == dir.to_str())
}

impl Drop for Contender {
    fn drop(&mut self) {
        if !self.mounted {
            return;
        }
        if self.name == "ize" {
            ize(self.dir.parent().expect("a place"), &["unmount", self.dir.to_str().expect("a plain path")]);
        }
        if is_mounted(&self.dir) {
            let _ = Command::new("umount").arg(&self.dir).status();
        }
        if is_mounted(&self.dir) {
            let _ = Command::new("umount").arg("-l").arg(&self.dir).status();
        }
    }
}

//! Who holds a mount busy, from /proc: working directories, roots, programs, open files, mappings; also mounts and loop devices on it.
//! Nobody behind the mount is asked, so that a daemon which hangs cannot hang this.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

use crate::error::Result;
use crate::project::mounts::{Mount, Mounts};

/// Somebody who holds something.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Holder {
    /// Process; `None` for the kernel itself (a mount, a loop device).
    pub pid: Option<u32>,
    /// Its name, or what the kernel holds it for.
    pub comm: OsString,
    /// How: `cwd`, `root`, `exe`, `fd 3`, `map`, `mount`, `loop`.
    pub how: String,
    /// What.
    pub path: PathBuf,
}

/// Everybody who holds something on `mount`, as far as this process may see (root sees all, others their own processes).
///
/// # Errors
/// When /proc cannot be read.
pub fn of(mount: &Mount) -> Result<Vec<Holder>> {
    let mut found = BTreeSet::new();
    for m in Mounts::load()?.0.into_iter().filter(|m| m.parent == mount.id && m.id != mount.id) {
        found.insert(Holder { pid: None, comm: m.fs_type, how: "mount".into(), path: m.point });
    }
    loops(mount, &mut found);
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        process(mount, pid, &entry.path(), &mut found);
    }
    Ok(found.into_iter().collect())
}

fn process(mount: &Mount, pid: u32, dir: &Path, found: &mut BTreeSet<Holder>) {
    let mut add = |how: String, path: PathBuf| {
        let comm = fs::read(dir.join("comm")).unwrap_or_default();
        let comm = OsString::from_vec(comm.strip_suffix(b"\n").unwrap_or(&comm).to_vec());
        found.insert(Holder { pid: Some(pid), comm, how, path });
    };
    for link in ["cwd", "root", "exe"] {
        let link_path = dir.join(link);
        if is_on(mount, &link_path) {
            add(link.into(), fs::read_link(&link_path).unwrap_or_default());
        }
    }
    for fd in fs::read_dir(dir.join("fd")).into_iter().flatten().flatten() {
        if is_on(mount, &fd.path()) {
            add(format!("fd {}", fd.file_name().to_string_lossy()), fs::read_link(fd.path()).unwrap_or_default());
        }
    }
    let maps = fs::read(dir.join("maps")).unwrap_or_default();
    let mut mapped = BTreeSet::new();
    for line in maps.split(|b| *b == b'\n') {
        if let Some((device, path)) = mapping(line)
            && device == mount.device
            && mapped.insert(path.clone())
        {
            add("map".into(), path);
        }
    }
}

/// Is what the link in /proc leads to on the mount? By the device, from what the kernel has in memory.
fn is_on(mount: &Mount, link: &Path) -> bool {
    let seen =
        statx(CWD, link, AtFlags::from_bits_retain(libc::AT_STATX_DONT_SYNC as u32 | libc::AT_NO_AUTOMOUNT as u32), StatxFlags::empty());
    seen.is_ok_and(|s| (s.stx_dev_major, s.stx_dev_minor) == mount.device)
}

/// `7f.. -7f.. r-xp 00000000 00:2f 12   /mnt/lib.so`: device and path of a line of maps.
fn mapping(line: &[u8]) -> Option<((u32, u32), PathBuf)> {
    let mut fields = line.splitn(6, |b| *b == b' ');
    let (major, minor) = std::str::from_utf8(fields.nth(3)?).ok()?.split_once(':')?;
    let device = (u32::from_str_radix(major, 16).ok()?, u32::from_str_radix(minor, 16).ok()?);
    let path = fields.nth(1)?.trim_ascii_start();
    path.starts_with(b"/").then(|| (device, PathBuf::from(OsStr::from_bytes(path))))
}

/// Loop devices whose file is on the mount.
fn loops(mount: &Mount, found: &mut BTreeSet<Holder>) {
    for entry in fs::read_dir("/sys/block").into_iter().flatten().flatten() {
        let Ok(file) = fs::read(entry.path().join("loop/backing_file")) else { continue };
        let path = PathBuf::from(OsString::from_vec(file.strip_suffix(b"\n").unwrap_or(&file).to_vec()));
        if path.starts_with(&mount.point) {
            found.insert(Holder { pid: None, comm: entry.file_name(), how: "loop".into(), path });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_maps_is_taken_apart() {
        let line = b"7f1c2a000000-7f1c2a001000 r--s 00000000 00:2f 12                         /mnt/a b (deleted)";
        assert_eq!(mapping(line), Some(((0, 0x2f), "/mnt/a b (deleted)".into())));
        assert_eq!(mapping(b"7ffd1000-7ffd2000 rw-p 00000000 00:00 0                          [stack]"), None);
        assert_eq!(mapping(b"7ffd1000-7ffd2000 rw-p 00000000 00:00 0 "), None);
        assert_eq!(mapping(b""), None);
    }

    #[test]
    fn this_process_holds_its_program_and_what_it_has_open() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mounts = Mounts::load().unwrap();
        let path = fs::canonicalize(file.path()).unwrap();
        let held = of(mounts.of(&path).unwrap()).unwrap();
        let ours: Vec<_> = held.iter().filter(|h| h.pid == Some(std::process::id())).collect();
        assert!(ours.iter().any(|h| h.how.starts_with("fd ") && h.path == path), "{ours:?}");
    }
}

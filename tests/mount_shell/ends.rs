//! How a mount ends: by command, by signal, with a terminal; and what the daemon leaves in its log.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{Home, daemons_of, eventually};

fn is_mounted(home: &Home) -> bool {
    let table = std::fs::read_to_string("/proc/self/mounts").unwrap();
    table.lines().any(|l| l.split(' ').nth(1) == home.mount.to_str())
}

fn signal(pid: u32, signal: rustix::process::Signal) {
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid.cast_signed()).unwrap(), signal).unwrap();
}

#[test]
fn unmount_while_busy_says_who_holds_what_and_everything_is_durable_already() {
    let home = Home::new();
    // Nobody else syncs.
    let mut command = home.command(&["mount", "p", home.mount.to_str().unwrap(), "--create"]);
    assert!(command.env("IZE_LOG_SYNC_INTERVAL", "1h").env("IZE_GROUP_IDLE", "1h").output().unwrap().status.success());
    std::fs::write(home.mount.join("in \u{7}use"), vec![1; 8192]).unwrap();
    std::fs::create_dir(home.mount.join("dir")).unwrap();
    let mut children = vec![
        Command::new("sleep").arg("100").stdin(File::open(home.mount.join("in \u{7}use")).unwrap()).spawn().unwrap(),
        Command::new("sleep").arg("101").current_dir(home.mount.join("dir")).spawn().unwrap(),
    ];
    std::fs::copy("/bin/sleep", home.mount.join("own-sleep")).unwrap();
    children.push(Command::new(home.mount.join("own-sleep")).arg("102").current_dir("/").spawn().unwrap());
    assert_ne!(home.status()["unsynced_bytes"], 0);
    let said = home.ize(&["unmount", "p"]);
    assert_eq!(said.code, 7, "{said:?}");
    assert_eq!(said.out, "");
    let row = |pid: u32, how: &str| said.err.lines().any(|l| l.trim_start().starts_with(&pid.to_string()) && l.contains(how));
    assert!(row(children[0].id(), "fd 0"), "{said:?}");
    assert!(row(children[1].id(), "cwd"), "{said:?}");
    assert!(row(children[2].id(), "exe") && row(children[2].id(), "map"), "{said:?}");
    assert!(said.err.contains("in \\u{7}use") && said.err.contains("own-sleep") && !said.err.contains('\u{7}'), "{said:?}");
    assert!(said.err.contains("--wait") && said.err.contains("--lazy"), "{said:?}");
    assert_eq!(home.status()["unsynced_bytes"], 0);
    // With patience it goes as soon as they do.
    let waiting = std::thread::spawn({
        let mut command = home.command(&["unmount", "p", "--wait", "60s"]);
        move || command.output().unwrap()
    });
    std::thread::sleep(Duration::from_millis(500));
    assert!(!waiting.is_finished());
    for child in &mut children {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let output = waiting.join().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(!is_mounted(&home));
}

#[test]
fn unmount_gives_up_when_its_patience_is_over() {
    let home = Home::new();
    home.mount();
    let _busy = File::open(&home.mount).unwrap();
    let begun = Instant::now();
    let said = home.ize(&["unmount", "p", "--wait", "700ms"]);
    assert_eq!(said.code, 7, "{said:?}");
    assert!(begun.elapsed() >= Duration::from_millis(700));
    assert!(said.err.contains(&std::process::id().to_string()), "{said:?}");
    assert_eq!(home.ize(&["unmount", "p", "--wait", "soon"]).code, 2);
}

#[test]
fn a_lazy_unmount_frees_the_name_and_serves_what_is_open_until_it_is_closed() {
    let home = Home::new();
    home.mount();
    let mut file = File::create(home.mount.join("f")).unwrap();
    file.write_all(b"before ").unwrap();
    let said = home.ize(&["unmount", "p", "--lazy"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.err.contains("durable") && said.err.contains("open"), "{said:?}");
    assert!(!is_mounted(&home));
    file.write_all(b"after").unwrap();
    assert_eq!(home.ize(&["mount", "p"]).code, 7, "its daemon still serves");
    drop(file);
    eventually("the daemon ends", || daemons_of(home.path().to_str().unwrap()).is_empty());
    home.mount();
    assert_eq!(std::fs::read(home.mount.join("f")).unwrap(), b"before after");
    // Nothing open: as without --lazy.
    assert!(home.ize(&["unmount", "p", "--lazy"]).code == 0 && !is_mounted(&home));
}

/// Starts `ize mount --foreground` in a session of its own on a new terminal; gives the child and the terminal's other end.
fn on_a_terminal(home: &Home) -> (std::process::Child, File) {
    // SAFETY: plain calls; the descriptor is new and ours.
    let master = unsafe {
        let fd = libc::posix_openpt(libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC);
        assert!(fd >= 0 && libc::grantpt(fd) == 0 && libc::unlockpt(fd) == 0);
        OwnedFd::from_raw_fd(fd)
    };
    let mut name = [0; 64];
    // SAFETY: the buffer is as long as it is said to be.
    assert_eq!(unsafe { libc::ptsname_r(master.as_raw_fd(), name.as_mut_ptr(), name.len()) }, 0);
    let name: Vec<u8> = name.iter().map(|c| c.cast_unsigned()).take_while(|b| *b != 0).collect();
    let slave = File::options().read(true).write(true).open(Path::new(std::str::from_utf8(&name).unwrap())).unwrap();
    let stream = || Stdio::from(slave.try_clone().unwrap());
    let mut command = home.command(&["mount", "p", home.mount.to_str().unwrap(), "--create", "--foreground", "-v"]);
    command.stdin(stream()).stdout(stream()).stderr(stream());
    // SAFETY: setsid and ioctl may be called between fork and exec.
    unsafe {
        command.pre_exec(|| {
            if libc::setsid() < 0 || libc::ioctl(0, libc::TIOCSCTTY, 0) < 0 {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        });
    }
    let child = command.spawn().unwrap();
    (child, File::from(master))
}

#[test]
fn a_terminal_that_dies_ends_a_mount_in_the_foreground_in_order() {
    let home = Home::new();
    let (mut child, master) = on_a_terminal(&home);
    let mut lines = BufReader::new(master);
    let mut said = String::new();
    while !said.contains("is mounted at") {
        assert!(lines.read_line(&mut said).unwrap() > 0, "{said}");
    }
    std::fs::write(home.mount.join("f"), "x").unwrap();
    // Also what it says now goes nowhere, and must not end it half-way.
    drop(lines);
    let status = child.wait().unwrap();
    assert!(status.success(), "{status:?}");
    assert!(!is_mounted(&home));
    home.mount();
    assert_eq!(home.status()["recovery"]["clean"], true, "closed in order");
    assert_eq!(std::fs::read(home.mount.join("f")).unwrap(), b"x");
}

#[test]
fn each_signal_ends_a_mount_in_order() {
    use rustix::process::Signal;
    let home = Home::new();
    for sent in [Signal::TERM, Signal::INT, Signal::HUP] {
        home.mount();
        std::fs::write(home.mount.join("f"), format!("{sent:?}")).unwrap();
        signal(home.daemon().cast_unsigned(), sent);
        eventually("the daemon ends", || daemons_of(home.path().to_str().unwrap()).is_empty());
        assert!(!is_mounted(&home));
        home.mount();
        assert_eq!(home.status()["recovery"]["clean"], true, "{sent:?}");
        assert_eq!(std::fs::read(home.mount.join("f")).unwrap(), format!("{sent:?}").as_bytes());
        home.unmount();
    }
}

#[test]
fn the_daemons_log_tells_of_mount_and_end_and_is_bounded() {
    let home = Home::new();
    home.mount();
    home.unmount();
    let log = home.project().join("meta/daemon.log");
    let text = std::fs::read_to_string(&log).unwrap();
    assert!(text.contains("`p` is mounted at") && text.contains("`p` is unmounted"), "{text}");
    // Everything said from now on: more than the bound in a moment.
    let mut command = home.command(&["mount", "p"]);
    assert!(command.env("IZE_LOG", "trace").status().unwrap().success());
    let bound = ize::fuse::daemon::LOG_MAX;
    let aside = home.project().join("meta/daemon.log.1");
    let deadline = Instant::now() + Duration::from_secs(60);
    while !aside.exists() {
        assert!(Instant::now() < deadline, "never put aside, {} bytes", std::fs::metadata(&log).unwrap().len());
        for n in 0..200 {
            let _ = std::fs::metadata(home.mount.join(format!("missing-{n}-{:?}", Instant::now())));
        }
    }
    home.unmount();
    for file in [&log, &aside] {
        let len = std::fs::metadata(file).unwrap().len();
        assert!(len < bound + 65_536, "{file:?} has {len} bytes");
    }
    assert!(std::fs::read_to_string(&log).unwrap().contains("is unmounted"), "the new file goes on");
}

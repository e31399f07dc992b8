//! The whole path through the real binary, real mounts and real kills: mount, write, kill -9, recover, commit, prune, go back.

#![allow(clippy::unwrap_used, reason = "a test stops where it cannot go on")]

mod support;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::prelude::*;

use support::{Home, kill_now, lines, said, sh, tree};

/// How often the tests that kill do it; more by hand.
fn rounds(default: u32) -> u32 {
    std::env::var("IZE_TEST_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

#[test]
fn what_is_written_is_there_after_unmount_and_kill_and_shows_in_the_history() {
    let home = Home::new();
    home.mount();
    let a = home.mount.join("a.txt");
    std::fs::write(&a, "one\n").unwrap();
    std::fs::create_dir(home.mount.join("d")).unwrap();
    std::os::unix::fs::symlink("a.txt", home.mount.join("link")).unwrap();
    home.ok(&["commit", "p", "-m", "first"]);
    std::fs::write(&a, "two\n").unwrap();
    std::fs::rename(home.mount.join("d"), home.mount.join("e")).unwrap();
    let before = tree(&home.mount);
    home.kill();
    // What the kernel has in memory it goes on showing, but it takes nothing more.
    assert!(std::fs::write(&a, "three").is_err() && std::fs::read_dir(&home.mount).is_err(), "a dead daemon's mount answers");
    home.mount();
    assert_eq!(tree(&home.mount), before);
    home.ok(&["commit", "p"]);
    let history = home.history();
    assert_eq!(history.len(), 2, "{history:?}");
    assert_eq!(history[1]["message"], "first");
    assert!(history[1]["paths"].as_array().unwrap().iter().any(|p| p == "a.txt"));
    for key in ["id", "time", "lsn", "process", "message", "paths"] {
        assert!(history[0].get(key).is_some(), "a change has no {key}");
    }
    let first = history[1]["id"].as_str().unwrap();
    assert_eq!(home.ok(&["cat", "p", "a.txt", "--at", &first[..6]]), "one\n");
    assert_eq!(home.ok(&["cat", "p", "a.txt", "--at", "now~1"]), "one\n");
    assert_eq!(home.ok(&["cat", "p", "a.txt"]), "two\n");
    home.unmount();
    assert!(std::fs::read_dir(&home.mount).unwrap().next().is_none());
    // Not mounted, the history is there all the same.
    assert_eq!(home.history().len(), 2);
    home.mount();
    assert_eq!(tree(&home.mount), before);
}

#[test]
fn a_restore_previews_is_recorded_keeps_times_and_can_be_undone() {
    let home = Home::new();
    home.mount();
    let (a, b) = (home.mount.join("a"), home.mount.join("b"));
    std::fs::write(&a, "old").unwrap();
    std::fs::write(&b, "untouched").unwrap();
    home.ok(&["commit", "p"]);
    let old = tree(&home.mount);
    std::thread::sleep(Duration::from_millis(20));
    std::fs::write(&a, "new and longer").unwrap();
    std::fs::write(&b, "changed").unwrap();
    home.ok(&["commit", "p"]);
    let new = tree(&home.mount);
    let id = home.history()[1]["id"].as_str().unwrap().to_owned();
    // The kernel has it cached now.
    assert_eq!(std::fs::read(&a).unwrap(), b"new and longer");
    let preview = home.ok(&["restore", "p", "a", "--at", &id, "--dry-run"]);
    assert!(preview.contains("write") && preview.contains('a'), "{preview}");
    assert_eq!(tree(&home.mount), new, "a dry run changed something");
    home.ok(&["restore", "p", "a", &id]);
    let restored = tree(&home.mount);
    assert_eq!(restored.get(Path::new("a")), old.get(Path::new("a")));
    assert_eq!(restored.get(Path::new("b")), new.get(Path::new("b")));
    home.ok(&["commit", "p"]);
    assert_eq!(home.history().len(), 3);
    home.ok(&["restore", "p", "a", "--at", "now~1", "--yes"]);
    assert_eq!(tree(&home.mount).get(Path::new("a")), new.get(Path::new("a")), "the restore cannot be undone");
    // What was not there then goes only with a yes.
    std::fs::write(home.mount.join("extra"), "x").unwrap();
    let refused = home.ize(&["restore", "p", ".", "--at", &id]);
    assert_eq!(refused.code, 9, "{refused:?}");
    assert!(home.mount.join("extra").exists());
    home.ok(&["restore", "p", ".", "--at", &id, "--yes"]);
    assert_eq!(tree(&home.mount), old);
}

#[test]
fn every_version_of_a_random_history_comes_back_by_cat_and_by_restore() {
    let home = Home::new();
    home.mount();
    let mut rng = StdRng::seed_from_u64(11);
    let mut states = Vec::new();
    for i in 0..rounds(25) {
        for _ in 0..rng.random_range(1..4) {
            let path = home.mount.join(format!("f{}", rng.random_range(0..5)));
            match rng.random_range(0..6) {
                0 if path.exists() => std::fs::remove_file(&path).unwrap(),
                1 if path.exists() => std::fs::rename(&path, home.mount.join(format!("f{}", rng.random_range(0..5)))).unwrap(),
                2 => {
                    let mut bytes = vec![0; rng.random_range(60_000..200_000)];
                    rng.fill_bytes(&mut bytes);
                    std::fs::write(&path, bytes).unwrap();
                }
                _ => {
                    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(&path).unwrap();
                    writeln!(file, "line {i} {}", rng.random::<u32>()).unwrap();
                }
            }
        }
        // A state that differs from the one before for sure.
        std::fs::write(home.mount.join("counter"), i.to_string()).unwrap();
        let committed = home.ok(&["commit", "p"]);
        states.push((committed.lines().last().unwrap().to_owned(), tree(&home.mount)));
    }
    for (id, state) in &states {
        for (path, text) in state {
            let bytes = home.ize(&["cat", "p", path.to_str().unwrap(), "--at", id]).bytes;
            assert!(text.contains(&blake3::hash(&bytes).to_string()), "{} at {id}", path.display());
        }
    }
    for (id, state) in states.iter().rev() {
        home.ok(&["restore", "p", ".", "--at", id, "--yes"]);
        assert_eq!(&tree(&home.mount), state, "restored to {id}");
    }
}

/// One thread appends numbered lines and notes each that was answered; the daemon dies at a random moment.
#[test]
fn every_acknowledged_write_survives_sigkill_at_random_moments() {
    let home = Home::new();
    let mut rng = StdRng::seed_from_u64(3);
    let (mut expected, mut in_flight) = (Vec::<String>::new(), String::new());
    for round in 0..rounds(12) {
        home.mount();
        let mut found = std::fs::read_to_string(home.mount.join("log")).unwrap_or_default();
        // The kernel makes two requests of a write over the border of a page: of the line in flight the first may be there alone.
        let whole = found.rfind('\n').map_or(0, |at| at + 1);
        if whole < found.len() {
            assert!(in_flight.starts_with(&found[whole..]), "round {round}: bytes nobody wrote: {}", &found[whole..]);
            found.truncate(whole);
            let file = std::fs::OpenOptions::new().write(true).open(home.mount.join("log")).unwrap();
            file.set_len(whole as u64).unwrap();
        }
        let found: Vec<&str> = found.lines().collect();
        assert!(found.len() >= expected.len(), "round {round}: {} of {} lines came back", found.len(), expected.len());
        assert_eq!(&found[..expected.len()], &expected[..], "round {round}");
        assert!(found[expected.len()..].iter().all(|line| *line == in_flight), "round {round}: lines nobody wrote");
        assert!(found.len() <= expected.len() + 1, "round {round}: lines nobody wrote");
        expected = found.into_iter().map(str::to_owned).collect();
        let pid = home.daemon();
        let (path, after) = (home.mount.join("log"), Duration::from_micros(rng.random_range(500..120_000)));
        let (start, stop) = (expected.len(), AtomicBool::new(false));
        let written;
        (written, in_flight) = std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let (mut answered, mut line) = (Vec::new(), String::new());
                let Ok(mut file) = std::fs::OpenOptions::new().create(true).append(true).open(&path) else { return (answered, line) };
                for n in start.. {
                    line = format!("round {round} line {n} {}", "x".repeat(n % 300));
                    if stop.load(Ordering::Relaxed) || file.write_all(format!("{line}\n").as_bytes()).is_err() {
                        break;
                    }
                    answered.push(line.clone());
                    let other = path.with_file_name(format!("saved-{}", n % 7));
                    if n % 5 == 0 && std::fs::write(path.with_extension("tmp"), &*answered[answered.len() - 1]).is_ok() {
                        let _ = std::fs::rename(path.with_extension("tmp"), other);
                    }
                }
                (answered, line)
            });
            std::thread::sleep(after);
            kill_now(pid);
            stop.store(true, Ordering::Relaxed);
            writer.join().unwrap()
        });
        expected.extend(written);
    }
    home.mount();
    let found = std::fs::read_to_string(home.mount.join("log")).unwrap();
    assert!(found.lines().count() >= expected.len());
    assert!(expected.len() > 50, "next to nothing was written");
    let said = home.ize(&["wal", "verify", "p"]);
    assert_eq!(said.code, 0, "{said:?}");
}

#[test]
fn git_works_in_the_mount_and_survives_sigkill() {
    let home = Home::new();
    let mut rng = StdRng::seed_from_u64(5);
    home.mount();
    sh(&home.mount, "git init -q r && cd r && git config user.email a@b && git config user.name n && git config gc.auto 0");
    let mut commits = 0;
    for _ in 0..rounds(6) {
        let pid = home.daemon();
        // Only a commit that succeeded is told: the loop goes on for a moment after the mount is dead.
        let script = "cd r && i=$(git rev-list --count HEAD 2>/dev/null || echo 0); while :; do i=$((i+1)); mkdir -p d$((i%5)); \
                      seq $i $((i+200)) > d$((i%5))/f$((i%17)) && git add -A && git commit -qm \"c $i\" || break; echo $i; done";
        let mut git = Command::new("bash")
            .args(["-c", script])
            .current_dir(&home.mount)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(rng.random_range(200..900)));
        kill_now(pid);
        let _ = git.kill();
        let out = git.wait_with_output().unwrap();
        let answered: usize = String::from_utf8_lossy(&out.stdout).lines().last().and_then(|l| l.trim().parse().ok()).unwrap_or(commits);
        home.mount();
        sh(&home.mount, "cd r && rm -f .git/*.lock .git/refs/heads/*.lock && git fsck --full --strict 2>&1");
        commits = sh(&home.mount, "cd r && git rev-list --count HEAD 2>/dev/null || echo 0").trim().parse().unwrap();
        assert!(commits >= answered, "git was told of {answered} commits, {commits} are there");
    }
    assert!(commits > 3);
}

#[test]
fn prune_drops_what_versions_hold_while_a_program_writes() {
    let home = Home::new();
    home.mount();
    let stop = AtomicBool::new(false);
    let path = home.mount.join("busy");
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut file = std::fs::File::create(&path).unwrap();
            let mut n = 0u64;
            while !stop.load(Ordering::Relaxed) {
                file.write_all(&[n as u8; 4096]).unwrap();
                n += 1;
                if n.is_multiple_of(50) {
                    std::fs::write(home.mount.join(format!("big-{}", n % 3)), vec![n as u8; 300_000]).unwrap();
                }
                std::thread::sleep(Duration::from_micros(200));
            }
            n
        });
        // Looked at after the writer has been told to stop, or a failure would wait for it for ever.
        let mut answers = Vec::new();
        for _ in 0..4 {
            std::thread::sleep(Duration::from_millis(400));
            for args in [&["commit", "p"][..], &["wal", "prune", "p", "--max-size", "0"], &["wal", "verify", "p"]] {
                answers.push(home.ize(args));
            }
        }
        stop.store(true, Ordering::Relaxed);
        assert!(answers.iter().all(|said| said.code == 0), "{answers:?}");
        let n = writer.join().unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(bytes.len() as u64, n * 4096);
        assert!(bytes.chunks(4096).enumerate().all(|(i, c)| c.iter().all(|b| *b == i as u8)), "bytes changed");
    });
    home.ok(&["commit", "p"]);
    let before = tree(&home.mount);
    let pruned = home.ok(&["wal", "prune", "p", "--max-size", "0", "--json"]);
    let pruned = &lines(&pruned)[0];
    assert!(pruned["left_segments"].as_u64().unwrap() <= 2, "{pruned}");
    home.kill();
    home.mount();
    assert_eq!(tree(&home.mount), before);
    assert_eq!(home.ize(&["wal", "verify", "p"]).code, 0);
}

#[test]
fn a_flipped_byte_stops_the_mount_above_the_checkpoint_and_is_reported_below_it() {
    // Above: nothing is committed yet (the group is still open), the segment is sealed by its size.
    let home = Home::new();
    home.mount();
    std::fs::write(home.mount.join("a"), vec![1; 40_000]).unwrap();
    home.ok(&["commit", "p"]);
    let mut file = std::fs::File::create(home.mount.join("b")).unwrap();
    let sealed_before = segments(&home).len();
    let mut n = 0u64;
    while segments(&home).len() < sealed_before + 2 {
        file.write_all(&n.to_le_bytes().repeat(4096)).unwrap();
        n += 1;
    }
    drop(file);
    home.kill();
    let all = segments(&home);
    let above = &all[all.len() - 2];
    let (flipped, original) = flip(above, 5000);
    let said = home.ize(&["mount", "p", home.mount.to_str().unwrap()]);
    assert_eq!(said.code, 5, "{said:?}");
    let name = above.file_name().unwrap().to_str().unwrap();
    assert!(said.err.contains(name) && said.err.contains("offset") && said.err.contains('@'), "{said:?}");
    assert_eq!(home.ize(&["wal", "verify", "p"]).code, 5);
    std::fs::write(&flipped, original).unwrap();
    // Below: after a commit the same segment is history only.
    home.mount();
    home.ok(&["commit", "p"]);
    home.unmount();
    let (_, _) = flip(above, 5000);
    let said = home.ize(&["mount", "p", home.mount.to_str().unwrap()]);
    assert_eq!(said.code, 0, "{said:?}");
    let report = std::fs::read_to_string(home.project().join("meta/last-recovery.json")).unwrap();
    assert!(report.contains(name), "{report}");
    let bytes = std::fs::read(home.mount.join("b")).unwrap();
    assert_eq!(bytes.len() as u64, n * 32_768);
    assert_eq!(home.ize(&["wal", "verify", "p"]).code, 5);
}

fn segments(home: &Home) -> Vec<std::path::PathBuf> {
    let mut all: Vec<_> = std::fs::read_dir(home.project().join("wal")).unwrap().map(|e| e.unwrap().path()).collect();
    all.retain(|p| p.extension().is_some_and(|e| e == "seg"));
    all.sort();
    all
}

fn flip(file: &Path, offset: usize) -> (std::path::PathBuf, Vec<u8>) {
    let original = std::fs::read(file).unwrap();
    let mut bytes = original.clone();
    bytes[offset] ^= 0x10;
    std::fs::write(file, bytes).unwrap();
    (file.to_owned(), original)
}

#[test]
fn mistakes_get_their_exit_codes_and_say_what_to_do() {
    let home = Home::new();
    home.mount();
    let mount = home.mount.to_str().unwrap();
    let second = home.ize(&["mount", "p", home.path().join("elsewhere").to_str().unwrap(), "--create"]);
    assert_eq!(second.code, 7, "{second:?}");
    assert!(second.err.contains(&home.daemon().to_string()), "the holder's pid is not named: {second:?}");
    assert_eq!(home.ize(&["status", "nobody"]).code, 3);
    assert_eq!(home.ize(&["cat", "p", "nothing", "--at", "now"]).code, 3);
    assert_eq!(home.ize(&["cat", "p", "nothing", "--at", "@ffffff"]).code, 3);
    assert_eq!(home.ize(&["cat", "p", "nothing", "--at", "gibberish when"]).code, 2);
    assert_eq!(home.ize(&["history", "p", "nothing"]).code, 1);
    assert_eq!(home.ize(&["mount", "q", mount, "-o", "nonsense", "--create"]).code, 2);
    std::fs::write(home.mount.join("x"), "x").unwrap();
    let busy = std::fs::File::open(home.mount.join("x")).unwrap();
    let said = home.ize(&["unmount", "p"]);
    assert_eq!(said.code, 7, "{said:?}");
    drop(busy);
    home.kill();
    let gone = home.ize(&["sync", "p"]);
    assert_eq!(gone.code, 10, "{gone:?}");
    assert!(gone.err.contains("hint:"), "{gone:?}");
}

#[test]
fn inside_a_mount_the_project_need_not_be_named() {
    let home = Home::new();
    home.mount();
    std::fs::create_dir(home.mount.join("sub")).unwrap();
    std::fs::write(home.mount.join("sub/f"), "1").unwrap();
    let sub = home.mount.join("sub");
    assert_eq!(home.ize_in(&sub, &["commit", "-m", "m"]).code, 0);
    let history = home.ize_in(&sub, &["history", "f", "--json"]);
    assert_eq!(lines(&history.out).len(), 1, "{history:?}");
    assert_eq!(home.ize_in(&sub, &["cat", "f", "--at", "now"]).out, "1");
    assert_eq!(home.ize_in(Path::new("/"), &["cat", sub.join("f").to_str().unwrap()]).out, "1");
    // Also with another central directory than the surroundings say: the mount knows its own.
    let other = said(home.command(&["status"]).env_remove("IZE_CENTRAL_DIR").current_dir(&sub).output().unwrap());
    assert_eq!(other.code, 0, "{other:?}");
    // The grammar's words for the log.
    assert_eq!(home.ize(&["wal", "verify", "p"]).code, 0);
    let inspected = lines(&home.ok(&["wal", "inspect", "p", "--json"]));
    assert!(inspected.iter().any(|r| r["type"] == "record" && r["op"] == "create" && r["path"] == "sub/f"), "{inspected:?}");
    assert!(inspected.iter().any(|r| r["type"] == "segment"));
}

/// Regression: each named path planned the missing directory above it once more, and the second birth made the log unreadable.
#[test]
fn several_paths_of_a_directory_that_is_gone_come_back_with_it() {
    let home = Home::new();
    home.mount();
    sh(&home.mount, "mkdir -p d/e; echo a > d/a; echo b > d/e/b; echo c > d/c; touch -d 2001-01-01 d/e d");
    home.ok(&["commit", "p"]);
    let before = tree(&home.mount);
    sh(&home.mount, "rm -r d");
    home.ok(&["commit", "p"]);
    let preview = home.ok(&["restore", "p", "d/a", "d/e/b", "--at", "now~1", "--dry-run"]);
    assert_eq!(preview.lines().filter(|l| l.starts_with("create") && l.ends_with(" d")).count(), 1, "{preview}");
    home.ok(&["restore", "p", "d/a", "d/e/b", "--at", "now~1", "--yes"]);
    let after = tree(&home.mount);
    for path in ["d", "d/e"] {
        assert!(home.mount.join(path).is_dir());
        let m = std::fs::metadata(home.mount.join(path)).unwrap().modified().unwrap();
        assert!(m < std::time::SystemTime::now() - Duration::from_secs(86_400), "{path} did not keep its time");
    }
    for path in ["d/a", "d/e/b"] {
        assert_eq!(after.get(Path::new(path)), before.get(Path::new(path)));
    }
    assert!(!home.mount.join("d/c").exists(), "what was not named came back");
    home.kill();
    home.mount();
    assert_eq!(tree(&home.mount), after);
}

/// Regression: records that change only files without a name make no version; when they are pruned, `now` must still be found.
#[test]
fn now_is_found_when_the_records_behind_the_last_version_are_pruned() {
    let home = Home::new();
    home.mount();
    std::fs::write(home.mount.join("kept"), "kept").unwrap();
    let mut nameless = std::fs::File::create(home.mount.join("gone")).unwrap();
    std::fs::remove_file(home.mount.join("gone")).unwrap();
    home.ok(&["commit", "p"]);
    for _ in 0..2 {
        nameless.write_all(b"more").unwrap();
        home.ok(&["commit", "p"]);
    }
    nameless.write_all(b"and more").unwrap();
    home.ok(&["wal", "prune", "p", "--max-size", "0"]);
    assert_eq!(home.ok(&["cat", "p", "kept", "--at", "now"]), "kept");
    assert_eq!(home.ok(&["cat", "p", "kept", "--at", "0s ago"]), "kept");
    assert_eq!(home.history().len(), 1);
}

#[test]
fn the_mount_of_a_dead_daemon_is_named_and_can_be_taken_away() {
    let home = Home::new();
    home.mount();
    home.kill();
    assert!(home.ok(&["status", "p"]).contains("daemon gone"));
    home.ok(&["unmount", "p"]);
    assert!(std::fs::read_dir(&home.mount).is_ok());
    assert_eq!(home.ize(&["unmount", "p"]).code, 3);
}

#[test]
fn a_signal_ends_the_mount_in_order_even_while_a_file_is_open() {
    let home = Home::new();
    home.mount();
    let mut file = std::fs::File::create(home.mount.join("open")).unwrap();
    file.write_all(b"before").unwrap();
    let pid = rustix::process::Pid::from_raw(home.daemon()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(40);
    let mut refused_at = None;
    let mut written = 6u64;
    while Path::new(&format!("/proc/{}", pid.as_raw_nonzero())).exists() {
        assert!(std::time::Instant::now() < deadline, "the daemon does not end");
        match file.write_all(b"x") {
            Ok(()) => {
                assert!(refused_at.is_none(), "answered again after the end");
                written += 1;
            }
            Err(_) => refused_at = refused_at.or(Some(written)),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    home.mount();
    let found = std::fs::metadata(home.mount.join("open")).unwrap().len();
    assert_eq!(found, written, "{written} bytes were acknowledged");
}

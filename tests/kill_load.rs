//! SIGKILL of the daemon at random moments under four writers at once: appends; renames and atomic saves; a database; git. After the next
//! mount every answered operation is there, in order, whole. Nothing is synced on purpose: an answer is enough.
//!
//! `IZE_TEST_ROUNDS=300` kills as often as issue 4 asks for.
#![cfg(feature = "fuse")]
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rand::prelude::*;

use support::sqlite::{Sqlite, check_database};
use support::{Home, kill_now, sh};

/// A fresh project after so many kills, so that the last is checked as fast as the first.
const KILLS_PER_PROJECT: u32 = 20;

/// What each writer was answered.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Answered {
    lines: usize,
    moves: usize,
    saves: usize,
    transactions: usize,
    commits: usize,
}

fn line(n: usize) -> String {
    format!("line {n} {}\n", "x".repeat(n * 37 % 900))
}

/// The `n`-th content of the file that is saved: sometimes in the packs, sometimes in the log itself.
fn content(n: usize) -> Vec<u8> {
    let mut bytes = format!("save {n} ").into_bytes();
    bytes.resize(20 + n * 7919 % 150_000, n as u8);
    bytes
}

fn append(mount: &Path, from: usize, stop: &AtomicBool) -> usize {
    let Ok(mut file) = OpenOptions::new().append(true).create(true).open(mount.join("log")) else { return from };
    let mut n = from;
    while !stop.load(Ordering::Relaxed) && file.write_all(line(n).as_bytes()).is_ok() {
        n += 1;
        std::thread::sleep(Duration::from_micros(200));
    }
    n
}

/// Where the file that is moved about is after `n` moves.
fn place(n: usize) -> PathBuf {
    Path::new(["a", "b", "a/c"][n % 3]).join(format!("moved-{}", n % 50))
}

fn move_and_save(mount: &Path, (moves, saves): (usize, usize), stop: &AtomicBool) -> (usize, usize) {
    let (mut moves, mut saves) = (moves, saves);
    let (beside, target) = (mount.join("saved.tmp"), mount.join("saved"));
    while !stop.load(Ordering::Relaxed) {
        if std::fs::rename(mount.join(place(moves)), mount.join(place(moves + 1))).is_err() {
            break;
        }
        moves += 1;
        if moves % 3 == 0 {
            // The next content is number `saves + 1`.
            if std::fs::write(&beside, content(saves + 1)).and_then(|()| std::fs::rename(&beside, &target)).is_err() {
                break;
            }
            saves += 1;
        }
        std::thread::sleep(Duration::from_micros(300));
    }
    (moves, saves)
}

fn transact(mount: &Path, from: usize, wal: bool, stop: &AtomicBool) -> usize {
    let mut n = from;
    // Killed before it was open, it is told nothing.
    let Ok(mut database) = Sqlite::open(&mount.join("db"), wal) else { return n };
    while !stop.load(Ordering::Relaxed) && database.transaction(n + 1).is_ok() {
        n += 1;
    }
    n
}

fn commit(mount: &Path, from: usize) -> usize {
    // Only a commit that succeeded is told, and the first failure ends it: what a shell prints after a failed command was never answered.
    let script = format!(
        "cd r && i={from} && while :; do i=$((i+1)); mkdir -p d$((i%5)) && seq $i $((i+300)) > d$((i%5))/f$((i%17)) && git add -A \
         && git commit -qm \"c $i\" && echo $i || exit; done"
    );
    let mut git =
        Command::new("bash").args(["-c", &script]).current_dir(mount).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let told = BufReader::new(git.stdout.take().unwrap()).lines().map_while(Result::ok).filter_map(|l| l.trim().parse().ok());
    // Ends when git does, which is when the mount is dead.
    let last = told.last().unwrap_or(from);
    let _ = git.kill();
    let _ = git.wait();
    last
}

/// Looks for all that was answered; gives what is there, which may be one more of each.
fn check(home: &Home, told: Answered, story: &str) -> Answered {
    let mount = &home.mount;
    let mut there = Answered::default();
    let text = std::fs::read_to_string(mount.join("log")).unwrap_or_default();
    let mut rest = text.as_str();
    while let Some(after) = rest.strip_prefix(line(there.lines).as_str()) {
        (rest, there.lines) = (after, there.lines + 1);
    }
    assert!(
        line(there.lines).starts_with(rest),
        "{story}: after line {} the log goes on with {:?}",
        there.lines,
        &rest[..rest.len().min(60)]
    );
    assert!((told.lines..=told.lines + 1).contains(&there.lines), "{story}: {} of {} lines", there.lines, told.lines);
    // Part of a line that was never answered.
    OpenOptions::new().write(true).open(mount.join("log")).unwrap().set_len((text.len() - rest.len()) as u64).unwrap();

    let found: Vec<usize> = (told.moves..=told.moves + 1).filter(|n| mount.join(place(*n)).exists()).collect();
    assert_eq!(found.len(), 1, "{story}: after {} moves the file is at {found:?}", told.moves);
    there.moves = found[0];
    let files = sh(mount, "find a b -type f | wc -l");
    assert_eq!(files.trim(), "1", "{story}: the file is there twice");

    let saved = std::fs::read(mount.join("saved")).unwrap_or_default();
    let which = (told.saves..=told.saves + 1).find(|n| saved == if *n == 0 { Vec::new() } else { content(*n) });
    there.saves = which.unwrap_or_else(|| panic!("{story}: after {} saves the file has {} other bytes", told.saves, saved.len()));

    there.transactions = check_database(&mount.join("db"), told.transactions);
    assert!(there.transactions <= told.transactions + 1, "{story}: {} transactions of {}", there.transactions, told.transactions);

    // Locks of a git that was killed are the user's to remove.
    sh(mount, "cd r && find .git -name '*.lock' -delete && git fsck --full --strict 2>&1");
    there.commits = sh(mount, "cd r && git rev-list --count HEAD 2>/dev/null || echo 0").trim().parse().unwrap();
    assert!((told.commits..=told.commits + 1).contains(&there.commits), "{story}: {} commits of {}", there.commits, told.commits);
    let messages = sh(mount, "cd r && git log --reverse --format=%s 2>/dev/null || true");
    assert!(messages.lines().enumerate().all(|(n, m)| m == format!("c {}", n + 1)), "{story}: {messages}");
    // What git has not committed must not be in the way of its next commit.
    sh(mount, "cd r && git reset -q --hard 2>&1 || true");
    there
}

/// A fresh project with what the writers expect.
fn begin() -> Home {
    let home = Home::new();
    home.mount();
    sh(&home.mount, "mkdir -p a/c b r && echo m > a/moved-0 && touch log");
    sh(&home.mount, "cd r && git init -q && git config user.email a@b && git config user.name n && git config gc.auto 0");
    home
}

/// The process that holds the project's lock, dead or alive.
fn holder(home: &Home) -> Option<i32> {
    let text = std::fs::read(home.project().join("meta/lock")).ok()?;
    let holder: serde_json::Value = serde_json::from_slice(&text).ok()?;
    i32::try_from(holder["pid"].as_i64()?).ok()
}

/// Mounts, and kills the new daemon while it recovers.
fn kill_a_recovery(home: &Home, killed: i32) {
    let mut mounting = home.command(&["mount", "p", home.mount.to_str().unwrap()]).stderr(Stdio::null()).spawn().unwrap();
    let begun = Instant::now();
    let next = loop {
        match holder(home) {
            Some(pid) if pid != killed => break pid,
            _ => assert!(begun.elapsed() < Duration::from_secs(60), "no new daemon takes the lock"),
        }
    };
    kill_now(next);
    let _ = mounting.wait();
}

#[test]
fn all_that_four_writers_were_answered_survives_sigkill() {
    let rounds: u32 = std::env::var("IZE_TEST_ROUNDS").ok().map_or(6, |n| n.parse().expect("IZE_TEST_ROUNDS is a number"));
    let mut rng = rand::rng();
    let (mut home, mut told, mut sum, mut recoveries) = (begin(), Answered::default(), [0; 5], 0);
    for round in 0..rounds {
        if round > 0 && round % KILLS_PER_PROJECT == 0 {
            home.unmount();
            (home, told) = (begin(), Answered::default());
        }
        let pid = home.daemon();
        let (mount, stop, wal) = (home.mount.as_path(), AtomicBool::new(false), rng.random_bool(0.5));
        let after = Duration::from_micros(rng.random_range(5_000..700_000));
        let before = told;
        std::thread::scope(|scope| {
            let stop = &stop;
            let lines = scope.spawn(move || append(mount, before.lines, stop));
            let names = scope.spawn(move || move_and_save(mount, (before.moves, before.saves), stop));
            let database = scope.spawn(move || transact(mount, before.transactions, wal, stop));
            let git = scope.spawn(move || commit(mount, before.commits));
            std::thread::sleep(after);
            kill_now(pid);
            stop.store(true, Ordering::Relaxed);
            told.lines = lines.join().unwrap();
            (told.moves, told.saves) = names.join().unwrap();
            told.transactions = database.join().unwrap();
            told.commits = git.join().unwrap();
        });
        for (sum, (now, then)) in sum.iter_mut().zip([
            (told.lines, before.lines),
            (told.moves, before.moves),
            (told.saves, before.saves),
            (told.transactions, before.transactions),
            (told.commits, before.commits),
        ]) {
            *sum += now - then;
        }
        let story = format!("round {round}, killed after {after:?}, sqlite {}", if wal { "wal" } else { "delete" });
        if rng.random_bool(0.2) {
            kill_a_recovery(&home, pid);
            recoveries += 1;
        }
        home.mount();
        told = check(&home, told, &story);
    }
    let said = home.ize(&["wal", "verify", "p"]);
    assert_eq!(said.code, 0, "{said:?}");
    let [lines, moves, saves, transactions, commits] = sum;
    eprintln!(
        "{rounds} kills, {recoveries} more in a recovery: {lines} lines, {moves} moves, {saves} saves, {transactions} transactions, \
         {commits} git commits answered and found"
    );
    assert!(lines > 0 && moves > 0 && transactions > 0, "the writers did next to nothing");
}

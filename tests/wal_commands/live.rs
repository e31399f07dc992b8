//! Beside a writer, over much log, for readers that go away.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use serde_json::Value;

use crate::ops;
use crate::wal_kit::{Home, Writer, create, json_lines, ran, write};

/// A follower and what it says, line by line.
struct Following {
    child: Child,
    lines: Receiver<String>,
}

impl Following {
    fn start(home: &Home, words: &[&str]) -> Self {
        let mut child = home.command(words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (to, lines) = channel();
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| to.send(line)));
        Self { child, lines }
    }

    fn next(&self) -> Value {
        let line = self.lines.recv_timeout(Duration::from_secs(60)).expect("the follower says nothing");
        serde_json::from_str(&line).unwrap()
    }

    /// Ends it with Ctrl-C; gives its exit code and stderr.
    fn interrupt(mut self) -> (i32, String) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        let mut err = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        (self.child.wait().unwrap().code().expect("it was killed by the signal"), err)
    }
}

#[test]
fn follow_shows_what_is_appended_across_segments_and_ends_quietly_on_ctrl_c() {
    let home = Home::new();
    let mut w = Writer::sized(home.project("notes"), 1 << 20);
    let follower = Following::start(&home, &["wal", "inspect", "notes", "--follow", "--json", "--kind", "create,write"]);
    let mut segment = 0;
    for round in 0..5u64 {
        let ino = 2 + round;
        w.push(create(1, &format!("f{round}"), ino));
        let seen = follower.next();
        assert_eq!((&seen["op"], &seen["path"]), (&"create".into(), &format!("f{round}").into()));
        // More than one window of the reader, and rolls.
        for n in 0..40u64 {
            w.push(write(ino, n * 50_000, &vec![round as u8; 50_000]));
            let seen = follower.next();
            assert_eq!(seen["offset_in_file"], n * 50_000);
            segment = seen["segment"].as_u64().unwrap();
        }
        if round % 2 == 0 {
            w.seal();
        }
    }
    assert!(segment > 5, "segments rolled");
    assert_eq!(follower.interrupt(), (0, String::new()));
}

#[test]
fn follow_begins_with_the_last_ten_and_survives_a_prune_and_a_recovery() {
    let home = Home::new();
    let mut w = Writer::new(home.project("notes"));
    for n in 0..30 {
        w.push(create(1, &format!("f{n}"), 2 + n));
        if n % 10 == 9 {
            w.seal();
        }
    }
    w.push(create(1, "open", 50));
    let follower = Following::start(&home, &["wal", "inspect", "notes", "-f", "--json", "--kind", "create"]);
    assert_eq!(follower.next()["path"], "f21");
    for n in 22..30 {
        assert_eq!(follower.next()["path"], format!("f{n}"));
    }
    assert_eq!(follower.next()["path"], "open");
    for id in 1..=3 {
        std::fs::remove_file(w.segment(id)).unwrap();
    }
    // The process dies; recovery puts a fresh, sealed copy in the place of the open segment, and the log goes on behind it.
    let Writer { project, log, .. } = w;
    drop(log);
    let mut w = Writer::above(project, 4);
    w.push(create(1, "after", 51));
    let seen = follower.next();
    assert_eq!((&seen["path"], &seen["segment"]), (&"after".into(), &5.into()));
    assert_eq!(follower.interrupt(), (0, String::new()));
}

#[test]
fn a_reader_that_goes_away_ends_inspect_and_follow_quietly() {
    let home = Home::new();
    let mut w = Writer::new(home.project("notes"));
    for n in 0..3000 {
        w.push(create(1, &format!("f{n}"), 2 + n));
    }
    for words in [&["wal", "inspect", "notes"][..], &["wal", "inspect", "notes", "--follow"]] {
        let mut child = home.command(words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut first = [0; 10];
        child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
        drop(child.stdout.take());
        let mut err = String::new();
        child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        assert_eq!((child.wait().unwrap().code(), err.as_str()), (Some(0), ""), "{words:?}");
    }
}

/// More log than the program may have memory: it is streamed, whatever is asked of it.
#[test]
fn a_large_log_is_shown_in_little_memory() {
    const RECORDS: u64 = 100_000;
    let home = Home::new();
    let mut w = Writer::new(home.project("notes"));
    w.push(create(1, "f", 2));
    let bytes = [7; 2000];
    for n in 0..RECORDS {
        w.push(write(2, n * 2000, &bytes));
    }
    for (flags, lines) in [
        (&["--kind", "write"][..], RECORDS),
        (&["--json", "--kind", "write", "--reverse"], RECORDS),
        (&["--stats", "--json", "--kind", "write"], 3),
    ] {
        let program = env!("CARGO_BIN_EXE_ize");
        let output = std::process::Command::new("/bin/sh")
            .args(["-c", "ulimit -v 131072; exec \"$0\" \"$@\"", program, "wal", "inspect", "notes"])
            .args(flags)
            .env_clear()
            .env("HOME", home.path())
            .current_dir("/")
            .output()
            .unwrap();
        let ran = ran(output);
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{flags:?}");
        assert_eq!(ran.out.lines().count() as u64, lines, "{flags:?}");
    }
}

#[test]
fn beside_a_live_writer_nothing_looks_torn_or_damaged() {
    let home = Home::new();
    let mut w = Writer::sized(home.project("notes"), 1 << 20);
    w.push(create(1, "f", 2));
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let stop = &stop;
        let writer = scope.spawn(move || {
            let mut n = 0;
            // Also where an assertion below has failed, it ends.
            while !stop.load(std::sync::atomic::Ordering::Relaxed) && n < 20_000 {
                w.push(write(2, n * 3000, &[n as u8; 3000]));
                n += 1;
            }
            n
        });
        for _ in 0..5 {
            for words in [&["wal", "inspect", "notes", "--json"][..], &["wal", "verify", "notes", "--json"]] {
                let ran = home.ize(words);
                assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{words:?}");
                let lines = json_lines(&ran.out);
                let listed: u64 = lines.iter().filter(|l| l["type"] == "segment").map(|l| l["records"].as_u64().unwrap()).sum();
                assert_eq!(ops(&lines).len() as u64, listed, "the records shown are those of the segments listed");
            }
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(writer.join().unwrap() > 0);
    });
}

//! What a mount says of itself, and through what.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::Value;

use crate::support::{Home, eventually, said, sh};

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// The mount whose versions are made by `ize commit` only, so that what is pending stays so.
fn quiet(home: &Home) {
    let mut command = home.command(&["mount", "p", home.mount.to_str().unwrap(), "--create"]);
    assert!(command.env("IZE_GROUP_IDLE", "1h").output().unwrap().status.success());
}

#[test]
fn the_queue_counts_what_is_appended_pending_and_committed_and_names_the_paths() {
    let home = Home::new();
    quiet(&home);
    sh(&home.mount, "mkdir d; for i in 1 2 3; do echo $i >> d/a; done; echo x > b; rm b");
    std::fs::write(home.mount.join("big"), vec![0; 100_000]).unwrap();
    let status = home.status();
    let queue = &status["queue"];
    let pending = number(&queue["pending"]["operations"]);
    assert!(pending >= 9, "{queue}");
    assert_eq!(number(&queue["appended"]["operations"]) - number(&queue["committed"]["operations"]), pending);
    assert_eq!(number(&status["pending"]), pending);
    assert_eq!(number(&queue["pending"]["bytes"]), 6 + 2 + 100_000);
    assert!(number(&queue["peak"]["operations"]) >= pending);
    assert_eq!(queue["health"], "ok");
    let lag = queue["lag_secs"].as_f64().unwrap();
    assert!(lag > 0.0 && lag >= queue["waiting_secs"].as_f64().unwrap() - 1.0 && queue["batch_scale"] == 1, "{queue}");
    let uncommitted: HashMap<&str, u64> =
        status["uncommitted"].as_array().unwrap().iter().map(|u| (u["path"].as_str().unwrap(), number(&u["operations"]))).collect();
    assert_eq!(uncommitted.get("d"), Some(&1), "{uncommitted:?}");
    assert!(uncommitted["d/a"] >= 4 && uncommitted["b"] >= 2 && uncommitted["big"] >= 2, "{uncommitted:?}");
    assert!(uncommitted.values().sum::<u64>() <= pending);
    let shown = home.ok(&["status", "p"]);
    assert!(shown.contains("health:      ok") && shown.contains("  d/a"), "{shown}");
    home.ok(&["commit", "p", "-m", "all"]);
    let status = home.status();
    let queue = &status["queue"];
    assert_eq!((number(&queue["pending"]["operations"]), number(&queue["pending"]["bytes"])), (0, 0), "{queue}");
    assert_eq!(queue["appended"], queue["committed"]);
    assert_eq!(queue["lag_secs"], 0.0);
    assert!(number(&queue["peak"]["operations"]) >= pending, "the peak is kept");
    assert!(queue["mean_batch"].as_f64().unwrap() >= pending as f64, "{queue}");
    assert_eq!(status["uncommitted"], Value::Array(vec![]));
    assert_eq!(status["restorable_since"], status["operations_since"]);
    // The same large file again is nothing new.
    let stored = |status: &Value| ["offered", "new", "stored"].map(|key| number(&status["stored"][key]));
    let [offered, new, kept] = stored(&status);
    assert!(offered >= new && new >= kept && new >= 100_000, "{}", status["stored"]);
    assert!(status["stored"]["compression_ratio"].as_f64().unwrap() >= 1.0);
    std::fs::copy(home.mount.join("big"), home.mount.join("bigger")).unwrap();
    home.ok(&["commit", "p"]);
    let status = home.status();
    let after = stored(&status);
    assert!(after[0] >= offered + 100_000 && after[1] < new + 50_000, "{}", status["stored"]);
    assert!(status["stored"]["dedup_ratio"].as_f64().unwrap() > 1.3, "{}", status["stored"]);
    assert!(home.ok(&["status", "p"]).contains("deduplication"));
    let queue = &status["queue"];
    // It goes on where it was, also after a crash.
    let total = number(&queue["appended"]["operations"]);
    sh(&home.mount, "echo y > c");
    home.kill();
    quiet(&home);
    let queue = home.status()["queue"].clone();
    assert!(number(&queue["appended"]["operations"]) >= total + 2 && number(&queue["pending"]["operations"]) >= 2, "{queue}");
    assert_eq!(number(&queue["pending"]["bytes"]), 2);
}

#[test]
fn usage_cache_and_recovery_are_those_of_the_project() {
    let home = Home::new();
    quiet(&home);
    sh(&home.mount, "mkdir -p d; for i in $(seq 50); do echo $i > d/$i; done");
    std::fs::write(home.mount.join("large"), vec![5; 200_000]).unwrap();
    home.kill();
    quiet(&home);
    let status = home.status();
    let recovery = &status["recovery"];
    assert!(number(&recovery["operations"]) >= 100 && number(&recovery["bytes"]) > 1000 && recovery["clean"] == false, "{recovery}");
    assert!(number(&recovery["millis"]) < 600_000 && recovery["torn"].is_null());
    let kept: Value = serde_json::from_slice(&std::fs::read(home.project().join("meta/last-recovery.json")).unwrap()).unwrap();
    assert_eq!(&kept, recovery, "what is kept is what is said");
    assert!(home.ok(&["status", "p"]).contains("recovery:"));
    let segments: u64 = std::fs::read_dir(home.project().join("wal"))
        .unwrap()
        .map(|e| e.unwrap())
        .filter(|e| e.path().extension().is_some_and(|x| x == "seg"))
        .map(|e| e.metadata().unwrap().len())
        .sum();
    assert_eq!(number(&status["wal_bytes"]), segments);
    assert!(number(&status["wal_records"]) >= 100 && number(&status["wal_payload"]) >= 200_000, "{status}");
    assert!(number(&status["blob_bytes"]) >= 200_000 && number(&status["blobs"]) >= 1 && number(&status["packs"]) >= 1, "{status}");
    home.ok(&["commit", "p"]);
    home.unmount();
    home.mount();
    let cold = home.status()["cache"].clone();
    sh(&home.mount, "ls -lR > /dev/null; cat d/* > /dev/null; ls -lR > /dev/null");
    let cache = home.status()["cache"].clone();
    assert!(number(&cache["lookups"]) > number(&cold["lookups"]) + 50, "{cache}");
    assert!(number(&cache["hits"]) < number(&cache["lookups"]), "a cold start misses: {cache}");
    let ratio = number(&cache["hits"]) as f64 / number(&cache["lookups"]) as f64;
    assert!((cache["hit_ratio"].as_f64().unwrap() - ratio).abs() < 1e-9);
    assert!(number(&cache["resident_inodes"]) >= 52 && number(&cache["resident_bytes"]) > 52 * 100, "{cache}");
    let told = number(&cache["invalidations"]);
    sh(&home.mount, "echo changed > d/1");
    home.ok(&["restore", "p", "d/1", "--at", "now~1", "--yes"]);
    assert!(number(&home.status()["cache"]["invalidations"]) > told);
    assert!(number(&cold["resident_inodes"]) < number(&cache["resident_inodes"]));
}

#[test]
fn a_torn_tail_is_told_at_the_mount_and_kept() {
    let home = Home::new();
    quiet(&home);
    sh(&home.mount, "echo 1 > a; echo 2 > b");
    home.kill();
    // The last record was being written when it died.
    let mut segments: Vec<_> = std::fs::read_dir(home.project().join("wal")).unwrap().map(|e| e.unwrap().path()).collect();
    segments.retain(|p| p.extension().is_some_and(|x| x == "seg"));
    segments.sort();
    let last = segments.last().unwrap();
    let mut bytes = std::fs::read(last).unwrap();
    let end = bytes.iter().rposition(|b| *b != 0).unwrap();
    bytes[end - 4] ^= 1;
    std::fs::write(last, bytes).unwrap();
    let said = home.ize(&["mount", "p"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.err.contains("recovered ") && said.err.contains(" operations (") && said.err.contains(" ms\n"), "{said:?}");
    assert!(said.err.contains("warning: a torn tail was cut off and set aside: ") && said.err.contains("kept in "), "{said:?}");
    let recovery = home.status()["recovery"].clone();
    assert!(recovery["torn"].as_str().unwrap().contains(last.file_name().unwrap().to_str().unwrap()), "{recovery}");
    assert!(home.ok(&["status", "p"]).contains("a torn tail was set aside"));
}

#[test]
fn check_is_an_exit_code_and_prometheus_text_has_the_same_figures() {
    let home = Home::new();
    home.ok(&["init", "p"]);
    assert_eq!(home.ize(&["status", "p", "--check"]).code, 10);
    quiet(&home);
    assert_eq!(home.ok(&["status", "p", "--check"]), "ok\n");
    std::fs::write(home.mount.join("f"), "12345").unwrap();
    let text = home.ok(&["status", "p", "--prometheus"]);
    let status = home.status();
    for line in text.lines().filter(|l| !l.starts_with('#')) {
        let (name, value) = line.split_once(' ').unwrap();
        assert!(name.starts_with("ize_") && name.contains("{project=\"p\"") && value.parse::<f64>().is_ok(), "{line}");
    }
    let value = |name: &str| {
        let line = text.lines().find(|l| l.starts_with(&format!("{name}{{"))).unwrap_or_else(|| panic!("no {name}"));
        line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()
    };
    assert_eq!(value("ize_up"), 1);
    assert_eq!(value("ize_pending_operations"), number(&status["queue"]["pending"]["operations"]));
    assert_eq!(value("ize_pending_bytes"), 5);
    assert_eq!(value("ize_log_bytes"), number(&status["wal_bytes"]));
    assert!(text.contains("ize_health{project=\"p\",state=\"ok\"} 1"), "{text}");
    assert_eq!(home.ize(&["status", "p", "--prometheus", "--json"]).code, 2);
    home.unmount();
    assert!(home.ok(&["status", "p", "--prometheus"]).contains("ize_up{project=\"p\"} 0"));
}

#[test]
fn replay_that_cannot_get_on_is_stuck_and_says_why() {
    let home = Home::new();
    home.mount();
    std::fs::write(home.mount.join("f"), "x").unwrap();
    home.ok(&["commit", "p"]);
    // Where the version log and the checkpoint belong nothing can be made: the checkpoint's new file needs the directory.
    let checkpoint = home.project().join("meta/checkpoint");
    std::fs::remove_file(&checkpoint).unwrap();
    std::fs::create_dir(&checkpoint).unwrap();
    std::fs::write(checkpoint.join("in the way"), "").unwrap();
    std::fs::write(home.mount.join("g"), "x").unwrap();
    eventually("replay fails", || home.ize(&["status", "p", "--check"]).code == 6);
    let said = home.ize(&["status", "p", "--check"]);
    assert!(said.out == "stuck\n" && said.err.contains("replay fails") && said.err.contains("hint: "), "{said:?}");
    let status = home.status();
    assert_eq!(status["queue"]["health"], "stuck");
    assert!(status["last_error"].as_str().unwrap().contains("checkpoint"), "{status}");
    assert!(home.ok(&["status", "p"]).contains("TROUBLE"));
    assert_eq!(std::fs::read(home.mount.join("g")).unwrap(), b"x", "nobody else is held up");
}

#[test]
fn a_central_directory_of_three_hundred_bytes_is_served_and_its_socket_is_private() {
    let home = Home::new();
    let deep = home.path().join("x".repeat(150)).join("y".repeat(150));
    let run = |words: &[&str]| said(home.command(words).env("IZE_CENTRAL_DIR", &deep).output().unwrap());
    let mounted = run(&["mount", "p", home.mount.to_str().unwrap(), "--create"]);
    assert_eq!(mounted.code, 0, "{mounted:?}");
    let project = std::fs::read_dir(deep.join("projects")).unwrap().next().unwrap().unwrap().path();
    let socket = project.join("meta/control.sock");
    assert!(socket.as_os_str().len() > 300);
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    for verb in ["status", "commit", "sync", "unmount"] {
        let said = run(&[verb, "p"]);
        assert_eq!(said.code, 0, "{verb}: {said:?}");
    }
    assert!(!socket.exists(), "the socket goes with its daemon");
}

#[test]
fn the_first_message_must_say_a_version_of_the_protocol_that_is_spoken() {
    let home = Home::new();
    home.mount();
    // By a short name: the kernel takes no long ones.
    let dir = std::fs::File::open(home.project().join("meta")).unwrap();
    let path = format!("/proc/self/fd/{}/control.sock", std::os::fd::AsRawFd::as_raw_fd(&dir));
    let talk = |words: &[&str]| {
        let mut stream = UnixStream::connect(Path::new(&path)).unwrap();
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        let mut answers: Vec<Value> = Vec::new();
        for word in words {
            // Who is refused finds the door closed.
            if writeln!(stream, "{word}").is_err() {
                break;
            }
            match lines.next() {
                Some(Ok(line)) => answers.push(serde_json::from_str(&line).unwrap()),
                _ => break,
            }
        }
        answers
    };
    let fine = talk(&[r#"{"protocol":1,"version":"x"}"#, r#"{"request":"status"}"#]);
    assert_eq!((&fine[0]["protocol"], &fine[1]["ok"]["project"]), (&1.into(), &"p".into()));
    let old = talk(&[r#"{"protocol":0,"version":"x"}"#, r#"{"request":"unmount"}"#]);
    assert!(old.len() == 1 && old[0]["err"]["class"] == "refused", "{old:?}");
    let none = talk(&[r#"{"request":"unmount"}"#]);
    assert_eq!(none[0]["err"]["class"], "usage", "{none:?}");
    // A client of before --lazy says no more than this.
    // (Who looks at all mounts holds this one for an instant.)
    let plain = || talk(&[r#"{"protocol":1,"version":"x"}"#, r#"{"request":"unmount"}"#]);
    eventually("unmounted", || plain()[1].get("ok").is_some());
}

//! A purge that is killed, and what the next opening makes of it.

use std::time::{Duration, Instant};

use ize::ids::BlobId;
use rand::prelude::*;

use crate::kit::*;
use crate::support::{Home, kill_now, sh};

/// How often the test that kills does it; more by hand.
fn rounds(default: u32) -> u32 {
    std::env::var("IZE_TEST_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

/// Kills a purge of copies of `origin` at random moments, then opens each with `open`, which says what it printed on stderr. `check` is told
/// whether the purge had begun.
fn kill_purges(origin: &Home, args: &[&str], open: &dyn Fn(&Home) -> String, check: &dyn Fn(&Home, bool)) {
    let mut rng = StdRng::seed_from_u64(8);
    let copy = || {
        let home = Home::new();
        sh(home.path(), &format!("cp -a {} {}", origin.central().display(), home.central().display()));
        home
    };
    let whole = copy();
    let begun = Instant::now();
    whole.ok(args);
    let took = begun.elapsed();
    check(&whole, true);
    for round in 0..rounds(4) {
        let home = copy();
        let mut child = home.command(args).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
        // The half that changes something is the later one.
        std::thread::sleep(Duration::from_secs_f64(took.as_secs_f64() * rng.random_range(0.2..1.1)));
        kill_now(i32::try_from(child.id()).unwrap());
        child.wait().unwrap();
        let unfinished = home.project().join("meta/purge").exists();
        let fsck = home.ize(&["fsck", "p"]);
        assert!(fsck.code == 0 || fsck.code == 4, "round {round}: {fsck:?}");
        assert_eq!(fsck.out.contains("a purge was interrupted"), unfinished, "round {round}: {fsck:?}");
        let said = open(&home);
        assert_eq!(said.contains("an interrupted purge was brought to its end"), unfinished, "round {round}: {said}");
        assert!(home.ok(&["fsck", "p", "--deep"]).contains("clean"));
        let purged = home.project().join("meta/purged").exists();
        assert!(purged || !unfinished, "round {round}");
        check(&home, purged);
    }
}

/// Killed at any moment, a purge was not begun, or the next opening ends it: never anything between, never damage.
#[test]
fn a_purge_that_is_killed_has_not_begun_or_is_brought_to_its_end() {
    let origin = Home::new();
    leaked(&origin);
    origin.ok(&["commit", "p"]);
    let before = versions(&origin);
    let open = |home: &Home| {
        let said = home.ize(&["commit", "p"]);
        assert_eq!(said.code, 0, "{said:?}");
        said.err
    };
    kill_purges(&origin, &[&["purge", "p"], &TARGETS[..], &["--confirm", "p"]].concat(), &open, &|home, purged| {
        let after = versions(home);
        if purged {
            assert!(before.iter().zip(&after).all(|((a, was), (b, now))| a == b && cleaned(was) == *now));
            assert_eq!(places(&home.project(), SECRET), [] as [String; 0]);
        } else {
            assert_eq!(after, before);
        }
    });
}

#[test]
fn a_purge_of_a_blob_that_is_killed_has_not_begun_or_is_brought_to_its_end_by_a_mount() {
    let origin = Home::new();
    origin.mount();
    let secret = format!("{SECRET}\n").repeat(1000);
    let at = |name: &str| origin.mount.join(name);
    for n in 0..10 {
        std::fs::write(at(&format!("secret-{}", n % 2)), &secret).unwrap();
        std::fs::write(at("text"), format!("line {n}\n").repeat(50_000)).unwrap();
        origin.ok(&["commit", "p"]);
        if n == 5 {
            std::fs::remove_file(at("secret-0")).unwrap();
        }
    }
    let oldest = origin.history().iter().rev().nth(1).unwrap()["id"].as_str().unwrap().to_owned();
    origin.unmount();
    let id = BlobId::of(secret.as_bytes()).to_string();
    let open = |home: &Home| {
        let mount = home.mount.to_str().unwrap().to_owned();
        let said = home.ize(&["mount", "p", &mount]);
        assert_eq!(said.code, 0, "{said:?}");
        let read = std::fs::read_to_string(home.mount.join("secret-1"));
        assert!(read.is_err() || read.unwrap() == secret);
        home.unmount();
        let log = std::fs::read_to_string(home.project().join("meta/daemon.log")).unwrap();
        assert!(log.contains("is unmounted"), "{log}");
        said.err
    };
    kill_purges(&origin, &["purge", "p", "--blob", &id, "--confirm", "p"], &open, &|home, purged| {
        for when in [oldest.as_str(), "now"] {
            let cat = home.ize(&["cat", "p", "secret-1", "--at", when]);
            assert_eq!((cat.code, cat.out == secret), if purged { (1, false) } else { (0, true) }, "{cat:?}");
            assert_eq!(home.ok(&["cat", "p", "text", "--at", when]).len(), "line 0\n".repeat(50_000).len());
        }
        if purged {
            assert_eq!(places(&home.project(), SECRET), [] as [String; 0]);
        }
    });
}

//! Power cuts, end to end: the real daemon on a real ext4 on a disk that forgets what was not flushed (`device.rs`). The power goes at any
//! moment of a mixed load, or of a recovery; then everything is started again and compared with what had been answered (`load.rs`):
//! nothing that was synced is lost, the files are in the state after some number of the steps (`model.rs`), over all files together; the
//! mount comes up, the log is sound, every commit, transaction and line that was told is there.
//!
//! `IZE_TEST_CUTS=200` cuts as often as issue 4 asks for; `IZE_TEST_SEED` begins elsewhere. Needs root, /dev/fuse and loop devices.
#![cfg(feature = "fuse")]
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod device;
mod load;
mod model;
#[path = "../support/mod.rs"]
mod support;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use device::{Disk, Rack, ext4};
use load::{Appender, Load, OTHERS, Told, line};
use model::{Found, Model};
use rand::prelude::*;
use serde_json::Value;
use support::sqlite::{Sqlite, check_database};
use support::{Home, is_zombie, kill_now, lines};

/// Bytes of the disk.
const DISK: u64 = 160 << 20;
/// A disk is used for so many cuts, then comes a fresh one.
const CUTS_PER_DISK: u32 = 8;
/// Names of test directories begin so; the process id follows.
const PREFIX: &str = "ize-power-";

fn variable(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |n| n.parse().unwrap_or_else(|_| panic!("{name} is no number")))
}

/// Takes away what a run that was killed left behind.
fn clean_up_after_the_dead() {
    let dead = |text: &str| {
        let rest = &text[text.find(PREFIX)? + PREFIX.len()..];
        let pid = rest.split('.').next()?;
        let name = format!("{PREFIX}{}", rest.split('/').next()?);
        // Killed while one of its threads waited for its own disk, a process stays: dead, and holding what would end the wait.
        let gone = !Path::new("/proc").join(pid).exists() || pid.parse().is_ok_and(is_zombie);
        gone.then_some(name)
    };
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else { continue };
        let words = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if dead(&String::from_utf8_lossy(&words)).is_some() {
            kill_now(pid);
        }
    }
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    for point in mounts.lines().rev().filter_map(|l| l.split(' ').nth(1)).filter(|p| dead(p).is_some()) {
        // By force first: that ends the connection, and with it every wait.
        let _ = Command::new("umount").args(["-f", point]).stderr(Stdio::null()).status();
        let _ = Command::new("umount").args(["-l", point]).stderr(Stdio::null()).status();
    }
    for (device, file) in device::loops() {
        if dead(&file.to_string_lossy()).is_some() {
            let _ = Command::new("losetup").arg("-d").arg(device).status();
        }
    }
    for entry in std::fs::read_dir(std::env::temp_dir()).unwrap().flatten() {
        if dead(&entry.file_name().to_string_lossy()).is_some() {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// A machine: disk, store, mount.
struct Machine {
    // Dropped in this order.
    home: Home,
    rack: Rack,
    disk: Arc<Disk>,
    image: Vec<u8>,
}

impl Machine {
    /// With an empty project on a fresh disk. Segments fill soon, versions form while it runs, syncs come by themselves too.
    fn new() -> Self {
        Self::with("[log]\nsegment-size = \"1MiB\"\nsync-interval = \"300ms\"\n[group]\nidle = \"400ms\"\n")
    }

    fn with(settings: &str) -> Self {
        clean_up_after_the_dead();
        let dir = tempfile::Builder::new().prefix(&format!("{PREFIX}{}.", std::process::id())).tempdir().unwrap();
        let home = Home::within(dir);
        let shelf = home.path().join("disks");
        std::fs::create_dir(&shelf).unwrap();
        std::fs::create_dir(home.central()).unwrap();
        std::fs::create_dir(home.path().join("ize")).unwrap();
        std::fs::write(home.path().join("ize/config.toml"), settings).unwrap();
        let image = ext4(home.path(), DISK);
        let mut rack = Rack::new(&shelf);
        let disk = rack.attach(image.clone(), &home.central(), "noauto_da_alloc");
        let mut machine = Self { home, rack, disk, image };
        machine.init();
        machine
    }

    fn init(&mut self) {
        self.home.ok(&["init", "p"]);
        rustix::fs::syncfs(std::fs::File::open(self.home.central()).unwrap()).unwrap();
    }

    /// The same machine with a fresh disk. The old one must be off.
    fn replace_disk(&mut self) {
        self.stop();
        self.disk = self.rack.attach(self.image.clone(), &self.home.central(), "noauto_da_alloc");
        self.init();
    }

    fn lock(&self) -> std::path::PathBuf {
        self.home.project().join("meta/lock")
    }

    /// The daemon's process, if it runs.
    fn daemon(&self) -> Option<i32> {
        let holder: Value = serde_json::from_slice(&std::fs::read(self.lock()).ok()?).ok()?;
        let pid = i32::try_from(holder["pid"].as_i64()?).ok()?;
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        String::from_utf8_lossy(&words).contains(self.home.path().to_str()?).then_some(pid)
    }

    /// Kills the daemon and takes the disk away.
    fn stop(&mut self) {
        self.disk.power_off();
        if let Some(pid) = self.daemon() {
            kill_now(pid);
        }
        self.rack.detach(&self.home.central());
    }

    /// The power goes, if it has not gone, and comes back; not yet mounted. Says what was left.
    fn cut(&mut self, rng: &mut StdRng) -> String {
        self.disk.power_off();
        if let Some(pid) = self.daemon() {
            kill_now(pid);
        }
        // A mount left behind is noticed by the next one; now and then it is taken away before.
        if rng.random_bool(0.5) {
            let _ = Command::new("umount").arg("-l").arg(&self.home.mount).stderr(Stdio::null()).status();
        }
        self.rack.detach(&self.home.central());
        let (image, left) = self.disk.cut(rng);
        let options = *["noauto_da_alloc", "noauto_da_alloc,data=writeback", "noauto_da_alloc,commit=1"].choose(rng).unwrap();
        self.disk = self.rack.attach(image, &self.home.central(), options);
        // A real power cut ends in another boot. Now and then in the same: then ize must not trust the page cache.
        let boot = if rng.random_bool(0.75) { "another" } else { "this" };
        if boot == "another" {
            self.forget_boot();
        }
        format!("{left} were kept, {options}, {boot} boot")
    }

    fn forget_boot(&self) {
        let Ok(text) = std::fs::read_to_string(self.lock()) else { return };
        let Ok(mut holder) = serde_json::from_str::<Value>(&text) else { return };
        holder["boot-id"] = Value::from("00000000-0000-4000-8000-000000000000");
        // In place, as the daemon does: the next power cut may tear it.
        std::fs::write(self.lock(), format!("{holder}\n")).unwrap();
    }

    /// Every check that needs no mount.
    fn verify_at_rest(&self) {
        let said = self.home.ize(&["wal", "verify", "p"]);
        assert!(said.code == 0 || said.code == 4, "neither clean nor torn: {said:?}");
    }

    fn try_mount(&self) -> support::Said {
        self.home.ize(&["mount", "p", self.home.mount.to_str().unwrap()])
    }
}

/// Compares the mounted project with what was told, and forgets that: all of it is durable now. Gives the steps found.
fn compare(machine: &Machine, model: &mut Model, told: &mut Told) -> usize {
    let home = &machine.home;
    let found = Found::read(&home.mount, &OTHERS);
    let Some(done) = model.advance_to(&told.steps, told.synced, &found) else {
        let mut last = model.clone();
        let before = model.advance_to(&told.steps, 0, &found);
        told.steps[..told.synced].iter().for_each(|s| last.apply(s));
        let tail: Vec<String> = told.steps.iter().map(|s| format!("{s:?}").chars().take(90).collect()).collect();
        panic!(
            "the files are in no state between step {} (synced) and {} (the last){}\nfound: {}\nsynced: {:?}\nsteps: {tail:#?}",
            told.synced,
            told.steps.len(),
            before.map_or(String::new(), |n| format!("; they are in that after step {n}: synced steps are LOST")),
            found.summary(),
            last.files(),
        );
    };
    for (path, promised) in told.noise.drain(..) {
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) => {
                assert_eq!(promised, 0, "{}: {e}", path.display());
                continue;
            }
        };
        let mut whole = String::new();
        let mut n = 0;
        while whole.len() < text.len() {
            whole += &line(n);
            n += usize::from(whole.len() <= text.len());
        }
        assert!(whole.starts_with(&text), "{} holds something else than what was appended", path.display());
        assert!(n >= promised, "{}: {promised} lines were durable, {n} are there", path.display());
        let _ = std::fs::remove_file(&path);
    }
    told.transactions = check_database(&home.mount.join("db/data"), told.transactions);
    if !told.commits.is_empty() {
        let history = lines(&home.ok(&["history", "p", "--json"]));
        let mut messages = history.iter().rev().map(|v| v["message"].as_str().unwrap_or_default());
        // In order, each once.
        for (message, _) in &told.commits {
            assert!(messages.any(|m| m == message), "commit {message} was told and is not there: {history:?}");
        }
        let (message, then) = told.commits.last().unwrap();
        let id = history.iter().find(|v| v["message"] == message.as_str()).unwrap()["id"].as_str().unwrap().to_owned();
        if let Some(name) = then.files().into_iter().max_by_key(|name| then.len(name).min(100_000)) {
            let said = home.ize(&["cat", "p", &name, "--at", &id]);
            assert_eq!(said.code, 0, "{said:?}");
            assert!(said.bytes == then.bytes(&name), "{name} at commit {message} is not what it was");
        }
    }
    told.steps.clear();
    told.synced = 0;
    let keep = told.commits.len().saturating_sub(3);
    told.commits.drain(..keep);
    done
}

#[test]
fn a_power_cut_loses_nothing_synced_and_leaves_a_prefix_of_what_was_answered() {
    let cuts = u32::try_from(variable("IZE_TEST_CUTS", 6)).unwrap();
    let seed = variable("IZE_TEST_SEED", 1);
    let begun = Instant::now();
    let mut machine = Machine::new();
    let (mut model, mut told, mut number) = (Model::default(), Told::default(), 0);
    let (mut all_steps, mut all_synced, mut in_recovery, mut torn) = (0, 0, 0, 0);
    for cut in 0..cuts {
        let mut rng = StdRng::seed_from_u64(seed << 32 | u64::from(cut));
        let rng = &mut rng;
        if cut % CUTS_PER_DISK == 0 && cut > 0 {
            machine.replace_disk();
            (model, told) = (Model::default(), Told::default());
        }
        // Now and then the power goes while what an earlier cut left is recovered.
        let early = cut % CUTS_PER_DISK > 0 && rng.random_bool(0.25);
        if early {
            machine.disk.power_off_after(rng.random_range(1..80));
        }
        let mounted = machine.try_mount();
        if machine.disk.is_off() {
            in_recovery += 1;
        } else {
            assert_eq!(mounted.code, 0, "cut {cut}: the mount does not come up: {mounted:?}");
            torn += u32::from(mounted.err.contains("torn"));
            all_steps += compare(&machine, &mut model, &mut told);
            assert_eq!(machine.home.ize(&["wal", "verify", "p"]).code, 0, "cut {cut}: the log is not sound after a recovery");
            run_until_off(&machine, &mut model, &mut told, &mut number, rng);
            all_synced += told.synced;
        }
        let how = machine.cut(rng);
        eprintln!("cut {cut}: {} steps, {} of them synced; {how}", told.steps.len(), told.synced);
        machine.verify_at_rest();
    }
    let mounted = machine.try_mount();
    assert_eq!(mounted.code, 0, "the mount does not come up: {mounted:?}");
    all_steps += compare(&machine, &mut model, &mut told);
    machine.home.unmount();
    assert_eq!(machine.home.ize(&["wal", "verify", "p"]).code, 0);
    eprintln!(
        "{cuts} cuts, {in_recovery} of them in a recovery, {torn} torn tails; {all_steps} steps found, {all_synced} had been synced; {:?}",
        begun.elapsed()
    );
    assert!(all_steps > 0 && all_synced > 0);
}

/// Runs the load until the power goes.
fn run_until_off(machine: &Machine, model: &mut Model, told: &mut Told, number: &mut u64, rng: &mut StdRng) {
    let (home, disk) = (&machine.home, &*machine.disk);
    for dir in OTHERS {
        let _ = std::fs::create_dir(home.mount.join(dir));
    }
    let appenders: Vec<(Arc<Appender>, usize)> = if rng.random_bool(0.5) {
        *number += 1;
        let name = |kind: &str| home.mount.join(format!("noise/{kind}-{number}"));
        vec![(Appender::new(name("syncs")), 9), (Appender::new(name("never")), 0)]
    } else {
        Vec::new()
    };
    let sqlite = rng.random_bool(0.4).then(|| Sqlite::open(&home.mount.join("db/data"), rng.random_bool(0.6)));
    let sqlite = sqlite.map(|s| s.expect("sqlite3 starts"));
    // The power goes right after an answered sync (what is missing then is a lie), at any request to the disk, or when nobody synced.
    let (mut syncs_left, mut actions) = (u32::MAX, rng.random_range(1..120));
    match rng.random_range(0..10) {
        0..5 => (syncs_left, actions) = (rng.random_range(1..15), 1000),
        5..7 => disk.power_off_after(rng.random_range(1..400)),
        _ => {}
    }
    let quiet = syncs_left == u32::MAX && rng.random_bool(0.7);
    let noise: Vec<Arc<Appender>> = appenders.iter().map(|(a, _)| Arc::clone(a)).collect();
    std::thread::scope(|scope| {
        for (appender, every) in &appenders {
            scope.spawn(move || appender.run(disk, *every));
        }
        // Also when the load panics, or its appenders are waited for for ever.
        let _stop = Stop(&noise);
        let mut load = Load {
            home,
            disk,
            rng: &mut *rng,
            model: model.clone(),
            told: &mut *told,
            noise: noise.clone(),
            sqlite,
            syncs_left,
            number,
            quiet,
        };
        for _ in 0..actions {
            if load.act().is_none() {
                break;
            }
        }
        // Now and then what is dirty is on its way to the disk when the power goes.
        if rng.random_bool(0.6) {
            disk.power_off_at_flush();
            let _ = rustix::fs::syncfs(std::fs::File::open(home.central()).unwrap());
        }
        disk.power_off();
    });
    told.noise = noise.iter().map(|a| (a.path.clone(), a.durable.load(Ordering::SeqCst))).collect();
}

struct Stop<'a>(&'a [Arc<Appender>]);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.iter().for_each(|a| a.stop.store(true, Ordering::SeqCst));
    }
}

/// D4: nobody syncs, and yet what was answered becomes durable while the program goes on writing.
#[test]
fn what_nobody_syncs_is_durable_soon_while_writing_goes_on() {
    let mut machine = Machine::new();
    let mut rng = StdRng::seed_from_u64(1);
    assert_eq!(machine.try_mount().code, 0);
    let path = machine.home.mount.join("log");
    let mut file = std::fs::File::create(&path).unwrap();
    file.write_all(b"first\n").unwrap();
    let wanted = machine.home.status()["appended"].as_u64().unwrap();
    // Shorter than the age at which a segment is sealed, far longer than the interval; never idle, which would seal it too.
    let begun = Instant::now();
    let mut written = 1u32;
    while machine.home.status()["durable"].as_u64().unwrap() < wanted {
        assert!(begun.elapsed() < Duration::from_secs(20), "after 20 s nothing has been synced");
        for _ in 0..10 {
            writeln!(file, "line {written}").unwrap();
            written += 1;
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    machine.disk.power_off();
    machine.cut(&mut rng);
    assert_eq!(machine.try_mount().code, 0);
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.starts_with("first\n"), "{text:?}");
    machine.stop();
}

/// Does things that nobody syncs.
fn work_unsynced(machine: &Machine, model: &mut Model, told: &mut Told, number: &mut u64, rng: &mut StdRng) {
    let mut load = Load {
        home: &machine.home,
        disk: &machine.disk,
        rng,
        model: model.clone(),
        told,
        noise: Vec::new(),
        sqlite: None,
        syncs_left: u32::MAX,
        number,
        quiet: true,
    };
    for _ in 0..40 {
        load.act().unwrap();
    }
}

/// D2: what was answered before `ize sync`, `ize unmount` or SIGTERM is all there; after the two last the log is clean too.
#[test]
fn after_ize_sync_and_after_an_unmount_everything_is_durable() {
    let mut machine = Machine::new();
    let mut rng = StdRng::seed_from_u64(2);
    let (mut model, mut told, mut number) = (Model::default(), Told::default(), 0);
    for how in ["sync", "unmount", "sync", "SIGTERM", "sync"] {
        assert_eq!(machine.try_mount().code, 0);
        compare(&machine, &mut model, &mut told);
        work_unsynced(&machine, &mut model, &mut told, &mut number, &mut rng);
        if how == "SIGTERM" {
            let pid = machine.daemon().unwrap();
            assert!(Command::new("kill").arg(pid.to_string()).status().unwrap().success());
            let begun = Instant::now();
            while machine.daemon().is_some() {
                assert!(begun.elapsed() < Duration::from_secs(60), "the daemon does not end");
                std::thread::sleep(Duration::from_millis(10));
            }
        } else {
            machine.home.ok(&[how, "p"]);
        }
        machine.disk.power_off();
        told.synced = told.steps.len();
        machine.cut(&mut rng);
        assert!(machine.home.ize(&["wal", "verify", "p"]).code == 0 || how == "sync", "{how}");
    }
    assert_eq!(machine.try_mount().code, 0);
    compare(&machine, &mut model, &mut told);
    machine.stop();
}

/// What a mount shows after the daemon was killed was perhaps only in the page cache; it is on the disk before the mount answers.
#[test]
fn what_a_recovery_shows_is_durable() {
    let mut machine = Machine::new();
    let mut rng = StdRng::seed_from_u64(3);
    let (mut model, mut told, mut number) = (Model::default(), Told::default(), 0);
    for _ in 0..2 {
        assert_eq!(machine.try_mount().code, 0);
        compare(&machine, &mut model, &mut told);
        work_unsynced(&machine, &mut model, &mut told, &mut number, &mut rng);
        kill_now(machine.daemon().unwrap());
        assert_eq!(machine.try_mount().code, 0);
        machine.disk.power_off();
        told.synced = told.steps.len();
        machine.cut(&mut rng);
    }
    assert_eq!(machine.try_mount().code, 0);
    compare(&machine, &mut model, &mut told);
    machine.stop();
}

/// A disk that cannot flush: who waits is told, nobody is answered any more, and after a power cut what had been synced before is there.
#[test]
fn a_failed_flush_is_told_and_never_trusted_again() {
    let mut machine = Machine::new();
    let mut rng = StdRng::seed_from_u64(4);
    let (mut model, mut told, mut number) = (Model::default(), Told::default(), 0);
    assert_eq!(machine.try_mount().code, 0);
    work_unsynced(&machine, &mut model, &mut told, &mut number, &mut rng);
    assert_eq!(machine.home.ize(&["sync", "p"]).code, 0);
    told.synced = told.steps.len();
    machine.disk.fail_flushes();
    let path = machine.home.mount.join("last");
    let file = std::fs::File::create(&path).and_then(|mut file| file.write_all(b"last").map(|()| file));
    // The timed sync may have been first to meet it; then not even this was answered.
    let synced = file.and_then(|file| file.sync_all());
    assert_eq!(synced.unwrap_err().raw_os_error(), Some(libc::EIO), "fsync");
    let again = std::fs::File::create(machine.home.mount.join("more")).unwrap_err();
    assert_eq!(again.raw_os_error(), Some(libc::EIO), "a write after a failed sync");
    let status = machine.home.status();
    assert!(status["poisoned"].is_string(), "{status}");
    assert_ne!(machine.home.ize(&["sync", "p"]).code, 0);
    machine.cut(&mut rng);
    assert_eq!(machine.try_mount().code, 0);
    let _ = std::fs::remove_file(&path);
    compare(&machine, &mut model, &mut told);
    assert!(!machine.home.mount.join("more").exists());
    machine.stop();
}

/// The first write after a mount goes to a segment that was born for it. Its name must be on the disk when the write is synced, and nothing
/// else that writes to the disk then may be what brings it there: preparing the next segment takes long here.
#[test]
fn the_first_synced_write_after_a_mount_is_there() {
    let mut machine = Machine::with("[log]\nsegment-size = \"24MiB\"\nsync-interval = \"1h\"\n[group]\nidle = \"1h\"\n");
    let mut rng = StdRng::seed_from_u64(5);
    let mut synced = Vec::new();
    for round in 0..6 {
        assert_eq!(machine.try_mount().code, 0);
        for name in &synced {
            assert!(machine.home.mount.join(name).exists(), "{name} was synced and is lost");
        }
        let name = format!("file-{round}");
        let file = std::fs::File::create(machine.home.mount.join(&name)).unwrap();
        file.sync_all().unwrap();
        machine.disk.power_off();
        synced.push(name);
        machine.cut(&mut rng);
    }
    machine.stop();
}

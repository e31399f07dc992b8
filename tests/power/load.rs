//! What runs when the power goes: one thread whose every step is known, two that only append, a database.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rand::prelude::*;

use super::device::Disk;
use super::model::{Model, Step};
use super::support::Home;
use super::support::sqlite::Sqlite;

/// Top names that the steps leave alone.
pub const OTHERS: [&str; 2] = ["db", "noise"];

/// What a load left to be checked.
#[derive(Default)]
pub struct Told {
    /// All steps since the last recovery; the last one may not have been answered.
    pub steps: Vec<Step>,
    /// So many of them are durable.
    pub synced: usize,
    /// Messages of commits that were answered, and the tree then.
    pub commits: Vec<(String, Model)>,
    /// Transactions of the database that were answered.
    pub transactions: usize,
    /// For each appending thread its file and the lines that are durable.
    pub noise: Vec<(PathBuf, usize)>,
}

/// The thread whose steps are known.
pub struct Load<'a> {
    pub home: &'a Home,
    pub disk: &'a Disk,
    pub rng: &'a mut StdRng,
    pub model: Model,
    pub told: &'a mut Told,
    pub noise: Vec<Arc<Appender>>,
    pub sqlite: Option<Sqlite>,
    /// Answered syncs after which the power goes.
    pub syncs_left: u32,
    pub number: &'a mut u64,
    /// Nothing is synced on purpose.
    pub quiet: bool,
}

impl Load<'_> {
    fn path(&self, name: &str) -> PathBuf {
        self.home.mount.join(name)
    }

    /// Takes a step. `None` when the power is gone: nobody knows what became of it.
    fn step<T>(&mut self, step: Step, call: impl FnOnce(&Path) -> io::Result<T>) -> Option<T> {
        self.told.steps.push(step.clone());
        let done = call(&self.home.mount);
        if self.disk.is_off() {
            return None;
        }
        let done = done.unwrap_or_else(|e| panic!("{step:?} failed with the power on: {e}"));
        self.model.apply(&step);
        Some(done)
    }

    /// Calls something after which everything answered before must be durable.
    fn sync<E: std::fmt::Debug>(&mut self, what: &str, call: impl FnOnce(&Path) -> Result<(), E>) -> Option<()> {
        let steps = self.told.steps.len();
        let answered: Vec<usize> = self.noise.iter().map(|a| a.answered.load(Ordering::SeqCst)).collect();
        let done = call(&self.home.mount);
        if self.disk.is_off() {
            return None;
        }
        done.unwrap_or_else(|e| panic!("{what} failed with the power on: {e:?}"));
        self.synced(steps, &answered)
    }

    fn synced(&mut self, steps: usize, answered: &[usize]) -> Option<()> {
        self.told.synced = steps;
        for (appender, lines) in self.noise.iter().zip(answered) {
            appender.durable.fetch_max(*lines, Ordering::SeqCst);
        }
        self.syncs_left = self.syncs_left.saturating_sub(1);
        (self.syncs_left > 0).then_some(())
    }

    fn bytes(&mut self, len: usize) -> Arc<Vec<u8>> {
        let mut bytes = vec![0; len];
        self.rng.fill_bytes(&mut bytes);
        Arc::new(bytes)
    }

    fn create(&mut self, name: &str) -> Option<File> {
        let file = self.step(Step::Create(name.to_owned(), 0o600), |mount| {
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(mount.join(name))
        })?;
        if self.rng.random_bool(0.3) {
            let mode = *[0o640, 0o755, 0o444].choose(self.rng).unwrap();
            self.step(Step::Chmod(name.to_owned(), mode), |_| file.set_permissions(std::fs::Permissions::from_mode(mode)))?;
        }
        Some(file)
    }

    fn create_or_empty(&mut self, name: &str) -> Option<File> {
        if !self.model.has(name) {
            return self.create(name);
        }
        self.step(Step::Truncate(name.to_owned(), 0), |mount| OpenOptions::new().write(true).truncate(true).open(mount.join(name)))
    }

    fn write(&mut self, file: &File, name: &str, at: usize, bytes: Arc<Vec<u8>>) -> Option<()> {
        self.step(Step::Write(name.to_owned(), at, Arc::clone(&bytes)), |_| file.write_all_at(&bytes, at as u64))
    }

    fn some_file(&mut self) -> Option<String> {
        self.model.files().choose(self.rng).cloned()
    }

    fn free_name(&mut self) -> String {
        *self.number += 1;
        let dirs = self.model.dirs();
        match dirs.choose(self.rng) {
            Some(dir) if self.rng.random_bool(0.4) => format!("{dir}/n{}", self.number),
            _ => format!("n{}", self.number),
        }
    }

    fn sync_file(&mut self, file: &File) -> Option<()> {
        match self.rng.random_range(0..3) {
            0 => self.sync("fdatasync", |_| file.sync_data()),
            _ => self.sync("fsync", |_| file.sync_all()),
        }
    }

    fn sync_dir(&mut self, name: &str) -> Option<()> {
        let dir = Path::new(name).parent().unwrap_or(Path::new("")).to_owned();
        self.sync("fsync of a directory", |mount| File::open(mount.join(dir)).and_then(|d| d.sync_all()))
    }

    /// Does something. `None` when the power is gone, or shall go now.
    pub fn act(&mut self) -> Option<()> {
        let files = self.model.files().len();
        let most = if self.quiet { 76 } else { 100 };
        match self.rng.random_range(0..most) {
            0..22 => self.append(),
            22..32 => self.overwrite(),
            32..40 => self.big(),
            40..50 => self.save(),
            50..58 => self.rename(),
            58..62 => self.names(),
            62..66 => self.directories(),
            66..71 => {
                let Some(name) = self.some_file() else { return Some(()) };
                let len = self.rng.random_range(0..=self.model.len(&name) * 5 / 4);
                let path = self.path(&name);
                self.step(Step::Truncate(name, len), |_| OpenOptions::new().write(true).open(path)?.set_len(len as u64))
            }
            71..76 if files > 3 => {
                let name = self.some_file()?;
                self.step(Step::Unlink(name.clone()), |mount| std::fs::remove_file(mount.join(name)))
            }
            71..76 => Some(()),
            76..86 => {
                let Some(name) = self.some_file() else { return Some(()) };
                let file = File::open(self.path(&name)).unwrap_or_else(|e| panic!("{name}: {e}"));
                if self.rng.random_bool(0.3) { self.sync_dir(&name) } else { self.sync_file(&file) }
            }
            86..90 => self.synchronous(),
            90..95 => self.transaction(),
            _ => self.command(),
        }
    }

    fn append(&mut self) -> Option<()> {
        let name = format!("log{}", self.rng.random_range(0..4));
        let len = self.rng.random_range(1..3000);
        let bytes = self.bytes(len);
        let file = match self.model.has(&name) {
            true => OpenOptions::new().append(true).open(self.path(&name)).unwrap(),
            false => self.create(&name)?,
        };
        let at = self.model.len(&name);
        let mut file = file;
        if at == 0 {
            return self.write(&file, &name, 0, bytes);
        }
        self.step(Step::Write(name, at, Arc::clone(&bytes)), |_| file.write_all(&bytes))
    }

    fn overwrite(&mut self) -> Option<()> {
        let Some(name) = self.some_file() else { return Some(()) };
        let file = OpenOptions::new().write(true).open(self.path(&name)).unwrap();
        for _ in 0..self.rng.random_range(1..6) {
            let at = self.rng.random_range(0..=self.model.len(&name));
            let len = self.rng.random_range(1..20_000);
            let bytes = self.bytes(len);
            self.write(&file, &name, at, bytes)?;
        }
        Some(())
    }

    /// More than fits a record: into the packs.
    fn big(&mut self) -> Option<()> {
        let name = format!("big{}", self.rng.random_range(0..3));
        let len = self.rng.random_range(64 << 10..400 << 10);
        let bytes = self.bytes(len);
        let file = self.create_or_empty(&name)?;
        self.write(&file, &name, 0, bytes)?;
        if self.rng.random_bool(0.5) && !self.quiet {
            self.sync_file(&file)?;
        }
        Some(())
    }

    /// As editors save: beside, sync, rename over, sync the directory; some leave the syncs out.
    fn save(&mut self) -> Option<()> {
        let target = format!("saved{}", self.rng.random_range(0..3));
        let beside = format!("{target}.tmp");
        let careful = self.rng.random_bool(0.7) && !self.quiet;
        let len = self.rng.random_range(100..30_000);
        let bytes = self.bytes(len);
        let file = self.create_or_empty(&beside)?;
        self.write(&file, &beside, 0, bytes)?;
        if careful {
            self.sync_file(&file)?;
        }
        self.step(Step::Rename(beside.clone(), target.clone()), |mount| std::fs::rename(mount.join(&beside), mount.join(&target)))?;
        if careful {
            self.sync_dir(&target)?;
        }
        Some(())
    }

    fn rename(&mut self) -> Option<()> {
        let Some(from) = self.some_file() else { return Some(()) };
        let other = self.some_file()?;
        if other != from && self.rng.random_bool(0.3) {
            let step = Step::Exchange(from.clone(), other.clone());
            return self.step(step, |mount| {
                let (dir, flags) = (rustix::fs::CWD, rustix::fs::RenameFlags::EXCHANGE);
                Ok(rustix::fs::renameat_with(dir, mount.join(from), dir, mount.join(other), flags)?)
            });
        }
        let to = if self.rng.random_bool(0.3) { other } else { self.free_name() };
        if to != from {
            self.step(Step::Rename(from.clone(), to.clone()), |mount| std::fs::rename(mount.join(from), mount.join(&to)))?;
            if self.rng.random_bool(0.3) && !self.quiet {
                return self.sync_dir(&to);
            }
        }
        Some(())
    }

    fn names(&mut self) -> Option<()> {
        let to = self.free_name();
        match self.some_file() {
            Some(from) if self.rng.random_bool(0.6) => {
                self.step(Step::Link(from.clone(), to.clone()), |mount| std::fs::hard_link(mount.join(from), mount.join(&to)))
            }
            _ => {
                let step = Step::Symlink(to.clone(), "log0".to_owned());
                self.step(step, |mount| std::os::unix::fs::symlink("log0", mount.join(&to)))
            }
        }
    }

    fn directories(&mut self) -> Option<()> {
        if let Some(dir) = self.model.empty_dirs().choose(self.rng).cloned()
            && self.rng.random_bool(0.4)
        {
            return self.step(Step::Rmdir(dir.clone()), |mount| std::fs::remove_dir(mount.join(dir)));
        }
        let name = self.free_name();
        self.step(Step::Mkdir(name.clone()), |mount| std::fs::create_dir(mount.join(name)))
    }

    /// A write that is durable when it is answered.
    fn synchronous(&mut self) -> Option<()> {
        let Some(name) = self.some_file() else { return Some(()) };
        let flag = *[libc::O_SYNC, libc::O_DSYNC].choose(self.rng).unwrap();
        let file = OpenOptions::new().write(true).custom_flags(flag).open(self.path(&name)).unwrap();
        let (at, len) = (self.model.len(&name), self.rng.random_range(1..5000));
        let bytes = self.bytes(len);
        let answered: Vec<usize> = self.noise.iter().map(|a| a.answered.load(Ordering::SeqCst)).collect();
        self.write(&file, &name, at, bytes)?;
        let steps = self.told.steps.len();
        self.synced(steps, &answered)
    }

    fn transaction(&mut self) -> Option<()> {
        let Some(mut sqlite) = self.sqlite.take() else { return Some(()) };
        let (steps, number) = (self.told.steps.len(), self.told.transactions + 1);
        let answered: Vec<usize> = self.noise.iter().map(|a| a.answered.load(Ordering::SeqCst)).collect();
        let done = sqlite.transaction(number);
        self.sqlite = Some(sqlite);
        if self.disk.is_off() {
            return None;
        }
        done.unwrap_or_else(|e| panic!("a transaction failed with the power on: {e}"));
        self.told.transactions = number;
        self.synced(steps, &answered)
    }

    fn command(&mut self) -> Option<()> {
        match self.rng.random_range(0..5) {
            0 | 1 => {
                *self.number += 1;
                let message = format!("c{}", self.number);
                let before = self.model.clone();
                let said = self.home.ize(&["commit", "p", "-m", &message]);
                if self.disk.is_off() {
                    return None;
                }
                assert_eq!(said.code, 0, "{said:?}");
                self.told.commits.push((message, before));
                // A commit leaves a checkpoint: durable too, with all that it covers.
                let steps = self.told.steps.len();
                self.synced(steps, &[])
            }
            2 | 3 => {
                let home = self.home;
                self.sync("ize sync", |_| if home.ize(&["sync", "p"]).code == 0 { Ok(()) } else { Err("ize sync") })
            }
            _ => {
                let said = self.home.ize(&["wal", "prune", "p", "--max-size", "0"]);
                assert!(self.disk.is_off() || said.code == 0, "{said:?}");
                (!self.disk.is_off()).then_some(())
            }
        }
    }
}

/// A thread that appends numbered lines to a file of its own.
pub struct Appender {
    pub path: PathBuf,
    pub answered: AtomicUsize,
    pub durable: AtomicUsize,
    pub stop: AtomicBool,
}

/// Line `n` of an appender.
pub fn line(n: usize) -> String {
    format!("{n} {}\n", "x".repeat(n * 7 % 200))
}

impl Appender {
    pub fn new(path: PathBuf) -> Arc<Self> {
        Arc::new(Self { path, answered: AtomicUsize::new(0), durable: AtomicUsize::new(0), stop: AtomicBool::new(false) })
    }

    /// Appends until told to stop; syncs every so many lines, never with 0.
    pub fn run(&self, disk: &Disk, every: usize) {
        let Ok(mut file) = OpenOptions::new().append(true).create(true).open(&self.path) else { return };
        for n in 0.. {
            if self.stop.load(Ordering::SeqCst) || disk.is_off() || file.write_all(line(n).as_bytes()).is_err() {
                return;
            }
            self.answered.store(n + 1, Ordering::SeqCst);
            if every > 0 && n % every == every - 1 && file.sync_data().is_ok() && !disk.is_off() {
                self.durable.fetch_max(n + 1, Ordering::SeqCst);
            }
            std::thread::sleep(std::time::Duration::from_micros(300));
        }
    }
}

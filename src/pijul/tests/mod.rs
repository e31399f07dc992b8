//! Tests against the real client: what ize records, `pijul` lists, logs and clones. The client is `IZE_TEST_PIJUL`, else `pijul` on PATH.

mod client;
mod crash;
mod histories;
mod hot;
mod kit;
mod odd;
mod refusals;
mod renames;
mod spooled;

pub(crate) use crash::nothing_left_over;

/// Any change.
pub(super) fn some_change() -> libpijul::change::Change {
    use libpijul::Base32;
    use libpijul::changestore::ChangeStore;
    let mut bench = kit::Bench::new();
    let recorded = bench.step(kit::tree([("a", kit::file("a"))]), &[]);
    bench.repository.changes.get_change(&libpijul::Hash::from_base32(recorded.hash().as_bytes()).unwrap()).unwrap()
}

/// A file with these bytes.
pub(super) fn item_of(bytes: &[u8]) -> super::Item {
    kit::item(&kit::file(bytes))
}

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::plan::Plan;
use super::view::Put;

/// What the repository is to refuse, as libpijul would.
#[derive(Default)]
pub(super) struct Refuse {
    /// Panics on a text that begins with `refuse me`, as on one that cannot be diffed.
    pub(super) text: AtomicBool,
    /// Panics on the path `never` in the safe form too.
    pub(super) path: AtomicBool,
}

impl Refuse {
    pub(super) fn like_libpijul(&self, plan: &Plan, safe: bool) {
        let text = |p: &Put| matches!(p, Put::File { bytes, .. } if bytes.starts_with(b"refuse me"));
        assert!(safe || !self.text.load(Ordering::Relaxed) || !plan.puts.values().any(text), "cannot diff");
        assert!(!self.path.load(Ordering::Relaxed) || !plan.puts.contains_key("never"), "cannot record the path");
    }
}

/// The step at which this process is to die, counted from 1; with a `p` before it, as if the power failed.
pub(crate) const CRASH_AT: &str = "IZE_TEST_PIJUL_STEP";
static STEPS: AtomicU64 = AtomicU64::new(0);
static UNSYNCED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// A place between two steps.
pub(crate) fn step(name: &str) {
    let Ok(wanted) = std::env::var(CRASH_AT) else { return };
    let (power, wanted) = wanted.strip_prefix('p').map_or((false, wanted.as_str()), |rest| (true, rest));
    if STEPS.fetch_add(1, Ordering::SeqCst) + 1 != wanted.parse::<u64>().unwrap() {
        return;
    }
    if power {
        // Each unsynced file is lost in another way.
        for (n, path) in UNSYNCED.lock().unwrap_or_else(PoisonError::into_inner).iter().enumerate() {
            match n % 3 {
                0 => std::fs::remove_file(path).unwrap(),
                1 => std::fs::write(path, "").unwrap(),
                _ => {
                    let len = std::fs::metadata(path).unwrap().len();
                    std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(len / 2).unwrap();
                }
            }
        }
    }
    eprintln!("dies at `{name}`");
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).unwrap();
    loop {
        std::thread::park();
    }
}

/// From now on, and until it is synced, a power failure may take this file.
pub(super) fn unsynced(path: &Path) {
    UNSYNCED.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned());
}

/// It is safe now.
pub(super) fn synced(path: &Path) {
    UNSYNCED.lock().unwrap_or_else(PoisonError::into_inner).remove(path);
}

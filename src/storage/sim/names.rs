//! The names of the simulated disk: those a process sees, those a power cut leaves, and the changes between them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::fault::Effect;
use super::seeded::Seeded;

#[derive(Clone, Debug)]
pub(super) enum NameChange {
    Link { path: PathBuf, file: u64 },
    Unlink { path: PathBuf },
    Rename { from: PathBuf, to: PathBuf, file: u64 },
}

impl NameChange {
    fn touches(&self, dir: &Path) -> bool {
        match self {
            NameChange::Link { path, .. } | NameChange::Unlink { path } => path.parent() == Some(dir),
            NameChange::Rename { from, to, .. } => from.parent() == Some(dir) || to.parent() == Some(dir),
        }
    }

    fn concerns(&self, wanted: &Path) -> bool {
        match self {
            NameChange::Link { path, .. } | NameChange::Unlink { path } => path == wanted,
            NameChange::Rename { from, to, .. } => from == wanted || to == wanted,
        }
    }

    fn dir(&self) -> PathBuf {
        let path = match self {
            NameChange::Link { path, .. } | NameChange::Unlink { path } => path,
            NameChange::Rename { to, .. } => to,
        };
        path.parent().unwrap_or(Path::new("/")).to_path_buf()
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, u64>) {
        match self {
            NameChange::Link { path, file } => {
                names.insert(path.clone(), *file);
            }
            NameChange::Unlink { path } => {
                names.remove(path);
            }
            NameChange::Rename { from, to, file } => {
                if names.get(from) == Some(file) {
                    names.remove(from);
                }
                names.insert(to.clone(), *file);
            }
        }
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    pub(super) current: BTreeMap<PathBuf, u64>,
    durable: BTreeMap<PathBuf, u64>,
    unsynced: Vec<NameChange>,
}

impl Names {
    pub(super) fn change(&mut self, change: NameChange) {
        change.apply(&mut self.current);
        self.unsynced.push(change);
    }

    /// Gives `path` to `file`, on the medium too.
    pub(super) fn settle(&mut self, path: &Path, file: u64) {
        self.current.insert(path.to_path_buf(), file);
        self.durable.insert(path.to_path_buf(), file);
        self.unsynced.retain(|change| !change.concerns(path));
    }

    /// The name of a file, if it has one.
    pub(super) fn of(&self, file: u64) -> Option<&PathBuf> {
        self.current.iter().find(|(_, f)| **f == file).map(|(path, _)| path)
    }

    /// A sync of `dir`; one that fails has lost what does not happen all the same.
    pub(super) fn sync(&mut self, dir: &Path, effect: Effect) {
        let (done, rest) = std::mem::take(&mut self.unsynced).into_iter().partition::<Vec<_>, _>(|c| c.touches(dir));
        self.unsynced = rest;
        let kept = match effect {
            Effect::None => 0,
            Effect::Some(seed) => Seeded::new(seed).below(done.len() as u64 + 1) as usize,
            Effect::All => done.len(),
        };
        for change in done.iter().take(kept) {
            change.apply(&mut self.durable);
        }
    }

    /// True while somebody may still find the file by a name, now or after a power cut.
    pub(super) fn may_name(&self, file: u64) -> bool {
        let linked = self.unsynced.iter().any(|c| match c {
            NameChange::Link { file: f, .. } | NameChange::Rename { file: f, .. } => *f == file,
            NameChange::Unlink { .. } => false,
        });
        linked || self.current.values().chain(self.durable.values()).any(|f| *f == file)
    }

    /// The names that a power cut leaves: of the unsynced changes any, a rename wholly or not at all.
    pub(super) fn after_power_cut(&self, rng: &mut Seeded) -> Names {
        let mut names = self.durable.clone();
        // Per directory a mode of its own: none, all, the first few, or each by itself.
        let mut modes: BTreeMap<PathBuf, (u64, u64)> = BTreeMap::new();
        let total = self.unsynced.len() as u64;
        for (i, change) in self.unsynced.iter().enumerate() {
            let (mode, prefix) = *modes.entry(change.dir()).or_insert_with(|| (rng.below(4), rng.below(total + 1)));
            let keep = match mode {
                0 => false,
                1 => true,
                2 => (i as u64) < prefix,
                _ => rng.below(2) == 0,
            };
            if keep {
                change.apply(&mut names);
            }
        }
        Names { current: names.clone(), durable: names, unsynced: Vec::new() }
    }
}

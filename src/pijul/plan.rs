//! What a version means in Pijul's terms: paths to hold something, to move, to be gone. Pure: knows nothing of the repository.

use std::collections::BTreeMap;

use crate::error::Result;
use crate::pijul::form::{self, Before};
use crate::pijul::sidecar::Sidecar;
use crate::pijul::view::Put;
use crate::pijul::{Item, TreeChange, names};

/// A move from a path of the old state to one of the new.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Move {
    pub(super) from: String,
    pub(super) to: String,
    /// A directory of sidecars, which may not be there, and then is not wanted either.
    pub(super) mirror: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Paths of the old state that go, with all below them but what moves.
    pub(super) gone: Vec<String>,
    /// Moves; where each ends up is in `puts` too, but for mirrors.
    pub(super) moves: Vec<Move>,
    /// What each path of the new state is to hold.
    pub(super) puts: BTreeMap<String, Put>,
    /// Paths of the new state that must not be there.
    pub(super) absent: Vec<String>,
}

/// The plan of a version. `owner` is the project's user and group; in the safe form (after libpijul has refused or panicked) every file is a
/// manifest.
pub(super) fn plan(changes: &[TreeChange], owner: (u32, u32), safe: bool, before: Before<'_>) -> Result<Plan> {
    let mut plan = Plan::default();
    for change in changes {
        let path = names::path(&change.path);
        let from = change.from.as_ref().map(|f| names::path(f)).filter(|f| *f != path);
        match (&change.new, from) {
            (Some(new), from) => {
                let before = || form::old_path(changes, change).map_or(Ok(false), |old| before(&old));
                let form = form::form(new, &path, safe, &before)?;
                plan.put(change, new, path, from, owner, form);
            }
            (None, _) if path.is_empty() => plan.absent.push(names::sidecar("")),
            (None, _) => {
                plan.gone.push(names::mirror(&path));
                plan.gone.push(names::sidecar(&path));
                plan.gone.push(path);
            }
        }
    }
    // What moves away is not gone, whatever else the version says of the path.
    plan.gone.retain(|p| !plan.moves.iter().any(|m| m.from == *p));
    plan.absent.retain(|p| !plan.puts.contains_key(p));
    Ok(plan)
}

impl Plan {
    fn put(&mut self, change: &TreeChange, new: &Item, path: String, from: Option<String>, owner: (u32, u32), form: (Put, bool)) {
        let (put, manifest) = form;
        let side = names::sidecar(&path);
        match Sidecar::of(new, &change.path, &path, owner, manifest).text() {
            Some(text) => {
                if let Some(from) = &from {
                    self.moves.push(Move { from: names::sidecar(from), to: side.clone(), mirror: false });
                }
                self.puts.insert(side, Put::File { bytes: text.into_bytes(), executable: false });
            }
            None => {
                self.absent.push(side);
                self.gone.extend(from.as_deref().map(names::sidecar));
            }
        }
        if path.is_empty() {
            return;
        }
        let is_dir = matches!(put, Put::Dir);
        if let Some(from) = from {
            if is_dir {
                self.moves.push(Move { from: names::mirror(&from), to: names::mirror(&path), mirror: true });
            }
            self.moves.push(Move { from, to: path.clone(), mirror: false });
        }
        if !is_dir {
            self.absent.push(names::mirror(&path));
        }
        self.puts.insert(path, put);
    }
}

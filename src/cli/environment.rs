//! The world as it is, for the [grammar](super::grammar).

use std::cell::OnceCell;
use std::ffi::OsStr;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::cli::grammar::{Environment, Named, Place};
use crate::error::Result;
use crate::project::layout::{Central, Layout};
use crate::project::mounts::{Mount, Mounts};
use crate::project::registry::{self, Project};

/// The process's surroundings.
#[derive(Debug)]
pub struct World {
    central: Central,
    mounts: OnceCell<Mounts>,
}

impl World {
    /// With the projects of `central`.
    #[must_use]
    pub fn new(central: Central) -> Self {
        Self { central, mounts: OnceCell::new() }
    }

    /// What is mounted. Without /proc nothing is: projects can still be named.
    pub fn mounts(&self) -> &Mounts {
        self.mounts.get_or_init(|| {
            Mounts::load().unwrap_or_else(|e| {
                tracing::warn!("{e}");
                Mounts::default()
            })
        })
    }

    /// The mounts of a project. Only mounts that bear its name are asked whose they are; one that does not say (its daemon is gone, or it
    /// lets us not in) may be that of a namesake in another store, so that only its place can tell.
    pub fn mounts_of<'a>(&'a self, project: &'a Project) -> impl Iterator<Item = &'a Mount> {
        let is_ours = |m: &&Mount| match m.project_dir() {
            Some(dir) => dir == project.layout.dir(),
            None => project.identity.last_mountpoint.as_ref() == Some(&m.point),
        };
        self.mounts().ize().filter(|m| m.project_name() == Some(OsStr::new(&project.identity.name))).filter(is_ours)
    }

    fn named(&self, project: &Project) -> Named {
        let points = self.mounts_of(project).map(|m| m.point.clone()).chain(project.identity.last_mountpoint.clone()).collect();
        Named { dir: project.layout.dir().to_path_buf(), points }
    }
}

impl Environment for World {
    fn current_dir(&self) -> Option<PathBuf> {
        std::env::current_dir().ok()
    }

    fn project(&self, word: &OsStr) -> Result<Option<Named>> {
        Ok(registry::lookup(&self.central, word)?.map(|p| self.named(&p)))
    }

    fn require(&self, word: &OsStr) -> Result<Named> {
        registry::find(&self.central, word).map(|p| self.named(&p))
    }

    fn mount_of(&self, path: &Path) -> Option<Place> {
        let mount = self.mounts().ize_of(path)?;
        let dir = mount.project_dir().or_else(|| {
            // Its daemon is gone, or does not say: the name it was mounted under must do.
            let project = registry::lookup(&self.central, mount.project_name()?).ok()??;
            Some(project.layout.dir().to_path_buf())
        });
        Some(Place { point: mount.point.clone(), dir })
    }

    fn exists(&self, path: &Path) -> bool {
        // What cannot be looked at (a dead mount, a closed directory) may well be there.
        !matches!(std::fs::symlink_metadata(path), Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory))
    }

    fn is_project_dir(&self, path: &Path) -> bool {
        Layout::new(path).identity().is_file()
    }

    fn canonical(&self, path: &Path) -> Option<PathBuf> {
        std::fs::canonicalize(path).ok()
    }
}

//! Every path of ize, told once. Nobody else joins a file name to a project's directory.
//!
//! ```text
//! <central-dir>/config.toml                settings for all projects in it
//! <central-dir>/projects.lock              held while a project is created
//! <central-dir>/projects/<uuid>/           one project, 0700
//!   .pijul/  wal/  blobs/  meta/
//! ```

use std::path::{Path, PathBuf};

use crate::ids::StoreId;

/// The directory that holds all projects of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Central {
    dir: PathBuf,
}

impl Central {
    /// The central directory at `dir` (need not exist yet).
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// The directory itself.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Directory whose entries are the projects, each named by its id.
    #[must_use]
    pub fn projects(&self) -> PathBuf {
        self.dir.join("projects")
    }

    /// Settings for all projects in it.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.dir.join("config.toml")
    }

    /// Held (flock) while a project is created, so that two cannot take one name.
    #[must_use]
    pub fn creation_lock(&self) -> PathBuf {
        self.dir.join("projects.lock")
    }

    /// The paths of project `id`.
    #[must_use]
    pub fn project(&self, id: StoreId) -> Layout {
        Layout::new(self.projects().join(id.to_string()))
    }

    /// Where project `id` is put together before it gets its name; never a project, whatever it holds.
    #[must_use]
    pub fn unfinished(&self, id: StoreId) -> Layout {
        Layout::new(self.projects().join(format!("{UNFINISHED_PREFIX}{id}")))
    }
}

/// Prefix of directories under `projects/` that were never finished.
pub const UNFINISHED_PREFIX: &str = ".tmp-";

/// The paths inside one project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    dir: PathBuf,
}

impl Layout {
    /// The project whose directory is `dir`.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// The project's directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The central directory that it is in, where its place says so: `<central-dir>/projects/<id>`.
    #[must_use]
    pub fn central(&self) -> Option<Central> {
        let projects = self.dir.parent()?;
        (projects.file_name()? == "projects").then(|| projects.parent().map(Central::new)).flatten()
    }

    /// The Pijul repository.
    #[must_use]
    pub fn pijul(&self) -> PathBuf {
        self.dir.join(".pijul")
    }

    /// Log segments.
    #[must_use]
    pub fn wal(&self) -> PathBuf {
        self.dir.join("wal")
    }

    /// Packs of blobs.
    #[must_use]
    pub fn blobs(&self) -> PathBuf {
        self.dir.join("blobs")
    }

    /// Everything small.
    #[must_use]
    pub fn meta(&self) -> PathBuf {
        self.dir.join("meta")
    }

    /// Name, id, owner, feature bits, settings of this project.
    #[must_use]
    pub fn identity(&self) -> PathBuf {
        self.meta().join("project.toml")
    }

    /// The version log.
    #[must_use]
    pub fn versions(&self) -> PathBuf {
        self.meta().join("versions")
    }

    /// What finds versions without reading them; disposable.
    #[must_use]
    pub fn versions_index(&self) -> PathBuf {
        self.meta().join("versions.index")
    }

    /// There while a purge has begun and not ended.
    #[must_use]
    pub fn purging(&self) -> PathBuf {
        self.meta().join("purge")
    }

    /// What was purged.
    #[must_use]
    pub fn purged(&self) -> PathBuf {
        self.meta().join("purged")
    }

    /// Zeros that hold room on the disk.
    #[must_use]
    pub fn reserve(&self) -> PathBuf {
        self.wal().join("reserve")
    }

    /// The checkpoint, replaced atomically.
    #[must_use]
    pub fn checkpoint(&self) -> PathBuf {
        self.meta().join("checkpoint")
    }

    /// Held (flock) by whoever has the project open for writing.
    #[must_use]
    pub fn lock(&self) -> PathBuf {
        self.meta().join("lock")
    }

    /// Where the daemon listens. Its path may be longer than a socket address can hold: reach it through `control` only.
    #[must_use]
    pub fn control_socket(&self) -> PathBuf {
        self.meta().join(CONTROL_SOCKET)
    }

    /// What the daemon said after it went to the background.
    #[must_use]
    pub fn daemon_log(&self) -> PathBuf {
        self.meta().join("daemon.log")
    }

    /// What it said before that, when it said much.
    #[must_use]
    pub fn older_daemon_log(&self) -> PathBuf {
        self.meta().join("daemon.log.1")
    }

    /// What the last recovery found and cut.
    #[must_use]
    pub fn last_recovery(&self) -> PathBuf {
        self.meta().join("last-recovery.json")
    }

    /// What retention did last; disposable.
    #[must_use]
    pub fn retention(&self) -> PathBuf {
        self.meta().join("retention.json")
    }

    /// How to get the files out without ize.
    #[must_use]
    pub fn rescue_text(&self) -> PathBuf {
        self.meta().join("RESCUE.md")
    }

    /// What gets them out.
    #[must_use]
    pub fn rescue_script(&self) -> PathBuf {
        self.meta().join("rescue.py")
    }

    /// Which Pijul change is which version; disposable.
    #[must_use]
    pub fn pijul_index(&self) -> PathBuf {
        self.meta().join("pijul-index")
    }

    /// Where the Pijul repository is made anew.
    #[must_use]
    pub fn pijul_rebuild(&self) -> PathBuf {
        self.meta().join("pijul-rebuild")
    }

    /// There while an import has begun and not ended.
    #[must_use]
    pub fn importing(&self) -> PathBuf {
        self.meta().join("import.toml")
    }

    /// The directories that make a project, parents first.
    #[must_use]
    pub fn directories(&self) -> [PathBuf; 4] {
        [self.dir.clone(), self.wal(), self.blobs(), self.meta()]
    }
}

/// File name of the control socket inside `meta/`.
pub const CONTROL_SOCKET: &str = "control.sock";

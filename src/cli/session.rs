//! What every verb has at hand: the global flags, the settings, the projects, stdout.

use std::cell::OnceCell;
use std::ffi::{OsStr, OsString};

use jiff::Zoned;

use crate::cli::args::Global;
use crate::cli::environment::World;
use crate::cli::grammar::{self, LogTarget, Paths};
use crate::cli::output::Out;
use crate::cli::when::{self, When};
use crate::error::{Class, Error, Result};
use crate::project::config::{self, ConfigFile, Resolved, Settings, Sources};
use crate::project::layout::Central;
use crate::project::registry::Project;

/// One run of the program.
#[derive(Debug)]
pub struct Session {
    /// The flags that every verb takes.
    pub global: Global,
    /// Where data goes.
    pub out: Out,
    user: OnceCell<ConfigFile>,
}

/// A project and the paths in it that the words mean.
#[derive(Clone, Debug, PartialEq)]
pub struct Meant {
    /// The project.
    pub project: Project,
    /// Paths from its root; see [`grammar::Target`].
    pub paths: Vec<std::path::PathBuf>,
}

impl Session {
    /// A run with these flags that writes there.
    #[must_use]
    pub fn new(global: Global, out: Out) -> Self {
        Self { global, out, user: OnceCell::new() }
    }

    /// The user's `config.toml`.
    ///
    /// # Errors
    /// As [`ConfigFile::load`].
    pub fn user_config(&self) -> Result<&ConfigFile> {
        if let Some(user) = self.user.get() {
            return Ok(user);
        }
        let user = ConfigFile::load(&config::process_env)?;
        Ok(self.user.get_or_init(|| user))
    }

    /// The central directory. A `config.toml` that does not read is no obstacle where a flag or variable says it.
    ///
    /// # Errors
    /// As [`config::central`].
    pub fn central(&self) -> Result<Central> {
        match &self.global.central_dir {
            Some(dir) => config::central(Some(dir), &ConfigFile::default(), &config::process_env),
            None => config::central(None, self.user_config()?, &config::process_env),
        }
    }

    /// The surroundings, for the grammar and for mounts.
    ///
    /// # Errors
    /// As [`Session::central`].
    pub fn world(&self) -> Result<World> {
        self.central().map(World::new)
    }

    /// The project and paths that `words` mean.
    ///
    /// # Errors
    /// As [`grammar::target`], and what is wrong with the project.
    pub fn meant(&self, words: &[OsString], paths: Paths) -> Result<Meant> {
        let target = grammar::target(&self.world()?, self.global.project.as_deref(), words, paths)?;
        Ok(Meant { project: Project::open(target.project)?, paths: target.paths })
    }

    /// The log that `word` means.
    ///
    /// # Errors
    /// As [`grammar::log_target`].
    pub fn log_meant(&self, word: Option<&OsStr>) -> Result<LogTarget> {
        grammar::log_target(&self.world()?, self.global.project.as_deref(), word)
    }

    /// The settings of a project; `flags` are those of the command line, as `(key, value)`.
    ///
    /// # Errors
    /// As [`Sources::resolve`].
    pub fn settings(&self, project: &Project, flags: &[(String, String)]) -> Result<Settings> {
        self.resolved(Some(project), flags).map(|r| r.settings)
    }

    /// What holds for a project, or for one that says nothing itself, and where each was said.
    ///
    /// # Errors
    /// As [`Sources::resolve`].
    pub fn resolved(&self, project: Option<&Project>, flags: &[(String, String)]) -> Result<Resolved> {
        let origin = project.map(|p| p.layout.identity());
        let layer = project.zip(origin.as_deref()).map(|(p, path)| (p.identity.settings.as_slice(), path));
        // A project knows its own central directory, wherever this command looks.
        let central = match project.and_then(|p| p.layout.central()) {
            Some(central) => central,
            None => self.central()?,
        };
        let central = ConfigFile::of_central(&central)?;
        Sources { user: self.user_config()?, central: &central, project: layer, env: &config::process_env, flags }.resolve()
    }

    /// The moment that a word means.
    ///
    /// # Errors
    /// As [`when::parse`].
    pub fn when(&self, word: &OsStr) -> Result<When> {
        let text = word.to_str().ok_or_else(|| Error::new(Class::Usage, "a moment is plain text"))?;
        when::parse(text, &Zoned::now())
    }
}

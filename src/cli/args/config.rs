//! Words and flags of `ize config`.

use std::ffi::OsString;

use clap::{Args as Group, Subcommand};

/// What to do with the settings.
#[derive(Debug, Subcommand)]
pub enum ConfigVerb {
    /// Write the value that holds
    Get(ConfigGetArgs),
    /// Set a value: of the user (the default), of all projects of a central directory, or of one project (-p NAME)
    Set(ConfigSetArgs),
    /// Take a value out again
    Unset(ConfigUnsetArgs),
    /// List all settings and what holds
    List(ConfigListArgs),
}

/// What `ize config --help` says at its end.
pub const HELP: &str = "\
The first that says something wins: flag, IZE_* variable, the project, config.toml of the central directory, config.toml of the user, \
default. get and list tell what holds for the project of -p, or of the mount that the current directory is in.

Examples:\n  ize config list --origin\n  ize config set group.idle 10s\n  ize config set prune.max-size 20GiB --project notes\n  ize config get central-dir";

/// Where a value is written.
#[derive(Debug, Clone, Copy, Default, Group)]
#[group(multiple = false)]
pub struct Scope {
    /// In config.toml of the user
    #[arg(long)]
    pub user: bool,
    /// In config.toml of the central directory, for all projects in it
    #[arg(long)]
    pub central: bool,
}

/// `ize config get`.
#[derive(Debug, Group)]
pub struct ConfigGetArgs {
    /// The setting, e.g. log.sync-interval
    pub key: OsString,
}

/// `ize config set`.
#[derive(Debug, Group)]
pub struct ConfigSetArgs {
    /// The setting, e.g. log.sync-interval
    pub key: OsString,
    /// Its value, e.g. 64MiB, 7d, true
    pub value: OsString,
    /// Where.
    #[command(flatten)]
    pub scope: Scope,
}

/// `ize config unset`.
#[derive(Debug, Group)]
pub struct ConfigUnsetArgs {
    /// The setting, e.g. log.sync-interval
    pub key: OsString,
    /// Where.
    #[command(flatten)]
    pub scope: Scope,
}

/// `ize config list`.
#[derive(Debug, Group)]
pub struct ConfigListArgs {
    /// Say where each value was said
    #[arg(long)]
    pub origin: bool,
    /// One JSON object a setting: key, value, origin, place
    #[arg(long)]
    pub json: bool,
}

//! The verbs about the Pijul repository. Doc comments are the help.

use std::ffi::OsString;

use clap::{Args as Group, Subcommand};

/// What to do with the Pijul repository.
#[derive(Debug, Subcommand)]
pub enum PijulVerb {
    /// Make the repository anew from the versions that are kept
    Rebuild(PijulRebuildArgs),
}

const REBUILD: &str = "\
Examples:
  ize pijul rebuild notes
  ize pijul rebuild --dry-run

The new repository is made beside the old one, and takes its place when it has everything. Works on a live mount; interrupted, it goes on the \
next time the project is open. Versions that were thinned out are in neither the new one nor its log. Change ids differ from those before.";

/// `ize pijul rebuild`.
#[derive(Debug, Group)]
#[command(after_help = REBUILD)]
pub struct PijulRebuildArgs {
    /// The project, or a path in its mount [default: that of the current directory]
    #[arg(value_name = "PROJECT")]
    pub word: Option<OsString>,
    /// Also when changes go that ize did not write
    #[arg(long)]
    pub yes: bool,
    /// Only say what would be done
    #[arg(long)]
    pub dry_run: bool,
    /// Events while it works, then one JSON object
    #[arg(long)]
    pub json: bool,
}

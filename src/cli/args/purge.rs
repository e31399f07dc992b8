//! The words of `ize purge`.

use std::ffi::OsString;

use clap::{ArgAction, Args as Group};

use crate::ids::BlobId;

/// `ize purge`.
#[derive(Debug, Group)]
#[command(
    after_help = "Not undoable. The project must not be mounted. First it says what would go, then it asks for the project's name.\nBackups, snapshots and copies of the store, and what a flash disk keeps to itself, are out of its reach.\n\nExamples:\n  ize purge notes keys/id_rsa --dry-run\n  ize purge notes keys/id_rsa\n  ize purge notes keys --confirm notes --reason 'saved by accident'\n  ize purge notes --garbage"
)]
pub struct PurgeArgs {
    /// The project, then paths in it: files, links, directories with all below; also such as exist in old versions only
    #[arg(value_name = "[PROJECT] PATH")]
    pub words: Vec<OsString>,
    /// A piece of content, by its id: every file that holds it keeps its entry and loses these bytes
    #[arg(long, value_name = "ID", action = ArgAction::Append, value_parser = blob, conflicts_with_all = ["keep_current", "everywhere"])]
    pub blob: Vec<BlobId>,
    /// Name nothing: what no version holds goes (what was thinned out, what came and went between two versions, the log)
    #[arg(long, conflicts_with_all = ["blob", "keep_current", "everywhere"])]
    pub garbage: bool,
    /// Only say what would go
    #[arg(long)]
    pub dry_run: bool,
    /// Do it without asking: the project's name
    #[arg(long, value_name = "NAME")]
    pub confirm: Option<OsString>,
    /// Leave the newest state as it is; bytes that are still in it stay
    #[arg(long, conflicts_with = "everywhere")]
    pub keep_current: bool,
    /// Take the same bytes out of other files, too: these keep their entries
    #[arg(long)]
    pub everywhere: bool,
    /// Let other files that hold some of the same bytes keep them
    #[arg(long, conflicts_with_all = ["everywhere", "blob", "garbage"])]
    pub leave_others: bool,
    /// What was only in a directory that is named, and was moved out of it, goes, too
    #[arg(long, conflicts_with_all = ["blob", "garbage"])]
    pub moved_out: bool,
    /// What was only in a directory that is named, and was moved out of it, stays where it is
    #[arg(long, conflicts_with_all = ["moved_out", "blob", "garbage"])]
    pub leave_moved: bool,
    /// Why; kept, and told by `ize fsck`
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub reason: String,
    /// As JSON: an object that says what would go, and one that says what went
    #[arg(long)]
    pub json: bool,
}

fn blob(text: &str) -> Result<BlobId, String> {
    text.to_ascii_lowercase().parse().map_err(|_| "an id is 64 hexadecimal digits".to_owned())
}

//! The words of `ize undo` and `ize redo`.

use std::ffi::OsString;

use clap::Args as Group;

/// Below the help of `ize undo`.
pub(super) const UNDO_HELP: &str = "\
Undo again goes one further back, redo comes forward. An undo is a change of its own, so `ize undo` of its id is a redo.

Examples:
  ize undo                    (inside a mount: the last change, whose it is is shown)
  ize undo notes --dry-run
  ize undo 1a2f               (any change; later ones stay)";

/// Below the help of `ize redo`.
pub(super) const REDO_HELP: &str = "\
Any other change after an undo ends what can be redone without naming it.

Examples:
  ize redo
  ize redo notes 1a2f         (a change that is undone)";

/// `ize undo`, `ize redo`.
#[derive(Debug, Group)]
pub struct UndoArgs {
    /// The project, then a change: the start of its id, or of its Pijul hash [default: the last one]
    #[arg(value_name = "[PROJECT] [CHANGE]", num_args = 0..=2)]
    pub words: Vec<OsString>,
    /// Only say what would be done
    #[arg(long)]
    pub dry_run: bool,
    /// Answer every question with yes
    #[arg(long)]
    pub yes: bool,
    /// As one JSON object: the change, the steps, what stands in the way, the change that was made
    #[arg(long)]
    pub json: bool,
}

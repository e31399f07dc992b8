//! What of a group's changes has a history: paths of class none are not listed in versions, and where only such paths changed there is no
//! version.

use std::sync::PoisonError;

use super::core::Core;
use crate::tree::{Tree, TreeError};
use crate::versions::class::{Class, ClassSettings, Classes};
use crate::versions::coalesce::NetChange;
use crate::versions::node::FileKind;
use crate::versions::version_log::What;

impl Core {
    /// Which paths have a history, from now on.
    pub fn set_classes(&self, settings: &ClassSettings) {
        *self.classes.lock().unwrap_or_else(PoisonError::into_inner) = Classes::new(settings);
    }

    /// Which paths have a history.
    #[must_use]
    pub fn class_settings(&self) -> ClassSettings {
        self.classes.lock().unwrap_or_else(PoisonError::into_inner).settings().clone()
    }

    /// The changes without those of paths that have no history; none at all when the rest only follows from them. `tree` is at the state
    /// after them.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub(super) fn with_history(&self, tree: &mut Tree, changes: Vec<NetChange>) -> Result<Vec<NetChange>, TreeError> {
        let mut classes = self.classes.lock().unwrap_or_else(PoisonError::into_inner);
        classes.forget();
        let many = changes.len();
        let mut kept = Vec::with_capacity(many);
        for change in changes {
            // What is gone may have been a directory.
            let is_dir = change.node.as_ref().is_none_or(|node| node.kind == FileKind::Directory);
            let is_gone = change.node.is_none();
            let mut has = |path: &[u8]| -> Result<bool, TreeError> {
                Ok(classes.of(tree, path, is_dir)? > Class::None && (!is_gone || classes.of(tree, path, false)? > Class::None))
            };
            let here = has(&change.path)?;
            let there = match &change.what {
                What::Moved { from } => has(from)?,
                What::Added | What::Modified | What::Removed => here,
            };
            match (there, here) {
                (true, true) => kept.push(change),
                // It came from where nothing is kept, or went there.
                (false, true) => kept.push(NetChange { what: What::Added, ..change }),
                (true, false) => {
                    let What::Moved { from } = change.what else { continue };
                    kept.push(NetChange { path: from, what: What::Removed, node: None, written: Vec::new(), ..change });
                }
                (false, false) => {}
            }
        }
        if kept.len() < many && !kept.iter().any(|change| change.is_notable) {
            kept.clear();
        }
        kept.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(kept)
    }
}

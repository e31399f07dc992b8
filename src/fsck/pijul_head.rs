//! The head of the Pijul log: is it a change that ize wrote?

use super::Look;

impl Look<'_> {
    /// What is wrong with it is no damage of the store: versions do not need it.
    pub(super) fn pijul_head(&mut self) {
        if !self.layout.pijul().join("pristine").join("db").is_file() {
            return;
        }
        if let Err(e) = crate::pijul::Repository::look(self.layout.dir(), self.store) {
            let hint = e.hint.as_ref().map_or_else(String::new, |hint| format!(" ({hint})"));
            self.report.notes.push(format!("the Pijul repository: {e}{hint}"));
        }
    }
}

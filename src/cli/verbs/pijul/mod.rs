//! The verbs about the Pijul repository, one file a verb.

pub mod rebuild;

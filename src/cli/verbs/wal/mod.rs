//! The verbs of the log. They need no mount and no Pijul, work beside a live writer, on copies and on what is left of them.
//!
//! [`target`] finds the log that a word means; [`crate::engine::names`] turns inode numbers into paths, [`filter`] chooses records, [`record`] shows
//! one, [`stats`] sums them up, [`finding`] says what is wrong.

pub mod detail;
pub mod filter;
pub mod finding;
pub mod follow;
pub mod inspect;
pub mod prune;
pub mod record;
pub mod repair;
mod spool;
pub mod stats;
pub mod target;
pub mod verify;

//! Replay A: the log becomes states that last.

pub mod check;
pub mod checkpoint;
pub mod chunker;
pub mod commit;
pub mod diff;
pub mod inode_table;
pub mod node;
pub mod version_log;

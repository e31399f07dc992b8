//! Replay A: the log becomes states that last.

pub mod check;
pub mod checkpoint;
pub mod chunker;
pub mod class;
pub mod coalesce;
pub mod commit;
mod cut_file;
pub mod diff;
pub mod dir_pages;
pub mod inode_table;
pub mod node;
pub mod piece_tree;
pub mod scratch;
pub mod thinning;
pub mod version_index;
pub mod version_log;
pub mod without;

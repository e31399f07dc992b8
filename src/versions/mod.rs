//! Replay A: the log becomes states that last.

pub mod checkpoint;
pub mod chunker;
mod log_error;
mod log_file;
pub mod node;
pub mod version;
pub mod version_log;

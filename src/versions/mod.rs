//! Replay A: the log becomes states that last.

pub mod node;

//! The kernel's side: the adapter between FUSE requests and [`crate::fs`], mounting and unmounting, and the background process.

mod adapter;
pub mod daemon;
pub mod mount;
mod options;
mod sync_queue;

pub use mount::{Ended, MountEntry, Mounted, is_stale, mounts, prepare, serve, unmount};
pub use options::MountOptions;

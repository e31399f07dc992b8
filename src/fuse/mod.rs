//! The kernel's side: the adapter between FUSE requests and [`crate::fs`], mounting and unmounting, and the background process.

mod adapter;
pub mod daemon;
mod held;
pub mod mount;
mod mountpoint;
mod options;
mod sync_queue;

pub use mount::{Ended, Mounted, serve, unmount};
pub use mountpoint::prepare;
pub use options::MountOptions;

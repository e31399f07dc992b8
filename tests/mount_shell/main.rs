//! Projects and mounts as a person or mount(8) meets them: where one may mount, how a mount ends, what it says of itself, what a user who
//! is not root can do. Real mounts, real processes. Needs root (mount namespaces) and /dev/fuse.
#![cfg(feature = "fuse")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../support/mod.rs"]
mod support;

mod ends;
mod places;
mod read_only;
mod status;
mod user;

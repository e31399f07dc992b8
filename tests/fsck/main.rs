//! `ize fsck`: clean after real work and beside a writer; what is wrong is found in every kind of file, with the right files and versions;
//! versions and checkpoint are what the log gives. Real mounts, real processes.
#![cfg(feature = "fuse")]
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../support/mod.rs"]
mod support;

mod damage;
mod files;
mod kit;
mod pages;
mod rebuilt;

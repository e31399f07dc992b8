//! `ize purge`: a secret that was saved by accident is found nowhere afterwards, neither raw nor inflated, and all else is as it was.

#![allow(clippy::unwrap_used, reason = "a test stops where it cannot go on")]

#[path = "../support/mod.rs"]
mod support;

mod blobs;
mod killed;
mod kit;
mod log;
mod pages;
mod paths;

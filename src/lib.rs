//! ize: a mounted directory in which nothing is ever lost.
//!
//! The modules stand in the order in which a write travels: [`storage`] is the disk; [`wal`] appends records to segments; [`blobs`]
//! holds large payloads; [`op`] is what a record says; [`tree`] applies operations; [`fs`] checks, logs, applies and answers; [`fuse`]
//! is the kernel's side; [`versions`] turns the log into states that last; [`pijul`] turns states into changes; [`engine`] holds a
//! project open; [`fsck`] checks all of it, [`rescue`] leads out of it without ize; [`project`], [`control`] and [`cli`] are the person's side.

pub mod blobs;
pub mod cli;
pub mod control;
pub mod engine;
pub mod error;
pub mod fs;
pub mod fsck;
#[cfg(feature = "fuse")]
pub mod fuse;
pub mod ids;
pub mod op;
#[cfg(feature = "pijul")]
pub mod pijul;
pub mod project;
pub mod rescue;
pub mod storage;
pub mod tree;
pub mod versions;
pub mod wal;

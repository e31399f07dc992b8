//! One file a verb.

#[cfg(feature = "pijul")]
pub mod blame;
pub mod cat;
pub mod commit;
pub mod config;
pub mod export;
pub mod fsck;
pub mod history;
pub mod init;
pub mod list;
#[cfg(feature = "fuse")]
pub mod mount;
#[cfg(feature = "pijul")]
pub mod pijul;
mod prometheus;
pub mod purge;
pub mod restore;
pub mod status;
pub mod sync;
pub mod thin;
mod transfer;
pub mod undo;
pub mod unmount;
pub mod usage;
pub mod wal;

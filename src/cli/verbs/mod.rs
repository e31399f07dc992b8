//! One file a verb.

pub mod commit;
pub mod init;
pub mod list;
pub mod status;
pub mod sync;
pub mod unmount;

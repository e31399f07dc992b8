//! The write-ahead log: every operation is here before its program gets the answer.
//!
//! [`mod@format`] knows the bytes, [`reader`] reads one segment and says how it ends, [`mod@scan`] walks all of them, [`range`] streams
//! a part; none of these writes.
//! [`log`] appends, syncs and seals. [`recovery`], and
//! [`repair`] when a person asks for it, alone shorten a file, and keep what they cut. [`prune`] drops what is no longer
//! needed, [`mod@verify`] checks all there is.
//!
//! `checkpoint <= durable <= appended`, always.

mod active;
mod batch;
pub mod error;
pub mod format;
mod group_commit;
pub mod log;
mod mend;
pub mod prune;
pub mod range;
pub mod reader;
pub mod recovery;
pub mod repair;
mod reserve;
pub mod scan;
mod segment;
mod spare;
pub mod verify;

pub use batch::Batch;
pub use error::{Result, WalError};
pub use log::{Appended, Log, Options, SyncHook, Usage};
pub use range::{first_lsn, for_each_record};
pub use reader::Record;
pub use recovery::{RecoveryInput, RecoveryReport};
pub use reserve::{Loan, Need, give_up_reserve};
pub use scan::{Bounds, LogScan, oldest, scan};
pub use segment::Segment;

//! Tests against the real client: what ize records, `pijul` lists, logs and clones. The client is `IZE_TEST_PIJUL`, else `pijul` on PATH.

mod client;
mod crash;
mod histories;
mod kit;
mod odd;
mod spooled;

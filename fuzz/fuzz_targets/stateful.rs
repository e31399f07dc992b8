//! See `tests/fuzzed/mod.rs`.
#![no_main]
#![allow(dead_code)]

#[path = "../../tests/fuzzed/mod.rs"]
mod fuzzed;
#[path = "../../tests/history/mod.rs"]
mod history;

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzzed::stateful(data));

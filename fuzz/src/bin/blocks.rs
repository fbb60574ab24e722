//! Blocks of a stream whose sender may compress.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| farpipe_agent::fuzz::blocks(input));

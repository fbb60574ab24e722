//! Names of files that a peer sends.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| farpipe_agent::fuzz::copy_name(input));

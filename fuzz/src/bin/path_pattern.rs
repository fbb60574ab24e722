//! Patterns of paths.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| farpipe_agent::fuzz::path_pattern(input));

//! Segments of a log, and damage in them.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| farpipe_log::fuzz::segment(input));

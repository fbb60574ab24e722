//! What the ends of a copy say to each other.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| farpipe_agent::fuzz::copy_frames(input));

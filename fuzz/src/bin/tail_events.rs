//! What a stream says that follows files.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| farpipe_sim::messages::tail_events(input));

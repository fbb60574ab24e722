//! Frames that both sides of a handshake hear.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| farpipe_sim::messages::handshake(input));

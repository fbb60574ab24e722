//! Hop frames out of arbitrary bytes, in one piece and in many.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| farpipe_sim::codec::hop(input));

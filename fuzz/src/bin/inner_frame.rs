//! Inner frames out of arbitrary bytes, and a session that hears them.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| farpipe_sim::codec::inner(input));

//! Two sessions and an unreliable link, driven by the fuzzer's bytes as operations.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| farpipe_sim::model::two_peers(input));

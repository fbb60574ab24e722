//! What a copy that was cut leaves behind, damaged.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| farpipe_agent::fuzz::copy_sidecar(input));

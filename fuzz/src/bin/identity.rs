//! Identities as texts.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| farpipe_sim::messages::identity(input));

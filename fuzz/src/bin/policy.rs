//! Policies, whole and cut off.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| farpipe_agent::fuzz::policy(input));

//! Endpoints as they are typed.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| farpipe_agent::fuzz::endpoint_spec(input));

//! Uploads.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| farpipe_relay::fuzz::gateway_body(input));

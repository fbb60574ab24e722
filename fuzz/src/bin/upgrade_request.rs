//! Requests for a WebSocket that speaks farpipe.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| farpipe_net::fuzz::upgrade_request(input));

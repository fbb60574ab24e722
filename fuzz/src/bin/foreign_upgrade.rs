//! Requests for a WebSocket by those who are no farpipe.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| farpipe_net::fuzz::foreign_upgrade(input));

//! Answers of an HTTP proxy.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| farpipe_net::fuzz::proxy_http(input));

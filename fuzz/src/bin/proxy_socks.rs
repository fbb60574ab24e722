//! Answers of a SOCKS 5 proxy.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| farpipe_net::fuzz::proxy_socks(input));

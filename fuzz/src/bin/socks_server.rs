//! What programs say to the SOCKS 5 port.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| farpipe_agent::fuzz::socks_server(input));

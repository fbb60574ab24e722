//! A neighbour that dials, from its first byte to what it asks for.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| farpipe_net::fuzz::accepted_link(input));

//! A neighbour that was dialled, from its first byte to its answer.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| farpipe_net::fuzz::dialled_link(input));

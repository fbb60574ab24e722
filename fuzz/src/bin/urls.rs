//! URLs and addresses as they are typed and shown.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| farpipe_net::fuzz::urls(input));

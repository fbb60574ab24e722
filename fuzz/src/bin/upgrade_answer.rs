//! Answers to such a request.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| farpipe_net::fuzz::upgrade_answer(input));

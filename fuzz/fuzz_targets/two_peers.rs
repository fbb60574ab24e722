//! Two sessions and an unreliable link, driven by the fuzzer's bytes as operations.

#![no_main]

use farpipe_sim::draw::Draw;
use farpipe_sim::model;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    model::run(&mut Draw::from_bytes(input));
});

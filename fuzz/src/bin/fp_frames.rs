//! Frames of the `fp` carrier.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| farpipe_net::fuzz::fp_frames(input));

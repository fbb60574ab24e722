//! Frames of the `ws` carrier.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| farpipe_net::fuzz::ws_frames(input));

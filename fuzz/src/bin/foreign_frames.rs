//! Frames of a WebSocket whose other end is no farpipe.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| farpipe_net::fuzz::foreign_frames(input));

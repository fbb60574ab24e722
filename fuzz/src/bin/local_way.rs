//! What a command says to the local agent.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| farpipe_sim::messages::local_way(input));

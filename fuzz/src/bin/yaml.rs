//! YAML files, and the places in them.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| farpipe_sim::messages::yaml(input));

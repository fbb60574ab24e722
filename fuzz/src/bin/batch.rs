//! Batches and the records in them.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| farpipe_record::fuzz::batch(input));

//! Tests of the hop frame codec.

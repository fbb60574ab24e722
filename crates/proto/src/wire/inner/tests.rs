//! Tests of the inner frame codec.

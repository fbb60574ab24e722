//! What the benchmarks share: medians, and noticing other programs.

pub mod quiet;
pub mod stats;

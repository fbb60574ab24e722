//! Trees between two ends in one process.

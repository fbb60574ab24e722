//! Moves sessions over carriers: sockets, tasks, time and the retained bytes.

pub mod carrier;
pub mod pool;
pub mod segment;

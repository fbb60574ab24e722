//! A peer that breaks the rules, one row of the fault model per test (the id begins the name).
//!
//! The peer is this test: it says frames as it likes and hears what the session answers. Every
//! breach ends the session with an error that no retry mends, and before anything is kept.

mod ids;
mod limits;
mod offsets;
mod victim;

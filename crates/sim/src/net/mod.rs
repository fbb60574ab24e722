//! The real openers, acceptors, drivers and carriers, on connections in memory and in virtual time.
//!
//! [`cable`] is a connection that breaks where the plan says, [`network`] an address to dial and
//! to listen at, [`flow`] what a stream carries. [`Scenario`] holds all that decides a run;
//! [`Stage`] plays and judges it.

pub mod cable;
pub mod chance;
pub mod flow;
pub mod network;
mod play;
mod scenario;
mod sweep;

pub use play::{Failure, Report, Stage};
pub use scenario::{Lane, Scenario};
pub use sweep::{Sweep, seeds};

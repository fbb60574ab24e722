//! The real openers, acceptors, drivers and carriers, on connections in memory and in virtual time.
//!
//! [`cable`] is a connection that breaks where the plan says, [`network`] an address to dial and
//! to listen at, [`flow`] what a stream carries. [`Scenario`] holds all that decides a run;
//! [`Stage`] plays and judges it. [`relayed`] does so for whole systems with relays between.

pub mod app;
pub mod cable;
pub mod chance;
pub mod flow;
mod hosts;
mod judge;
pub mod network;
mod play;
pub mod process;
pub mod raw;
pub mod relayed;
mod runner;
mod scenario;
mod storm;
mod sweep;
mod trace;

pub use hosts::{brave, brave_twice, storms};
pub use judge::{Ends, judge};
pub use play::{Failure, Report, Stage};
pub use scenario::{Lane, Scenario};
pub use storm::{Blow, Storm};
pub use sweep::{Sweep, Swept, seeds};
pub use trace::{Noted, Trace};

/// Lets virtual time pass; everything due meanwhile happens.
pub async fn pass(span: std::time::Duration) {
    tokio::time::sleep(span).await;
}

//! Whole systems: two relays, an agent that is registered at both, and clients that ask for it by
//! name, all of them processes that may be killed; and every connection may break at any byte.
//!
//! [`Plan`] holds all that decides a run; [`Theatre`] plays and judges it.

mod judge;
mod log;
mod plan;
mod process;
mod theatre;

pub use plan::{Blow, Caller, Plan, RELAYS};
pub use theatre::{Failed, Report, Theatre, seeds};

/// What callers ask for.
pub const AGENT: &str = "web1";

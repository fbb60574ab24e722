//! A TCP proxy that breaks connections on purpose, repeatably from a seed, on real sockets.
//!
//! A test puts it between client and server, says in a [`Plan`] what shall go wrong and in a [`Shape`] how slow each
//! way is, and reads from [`Stats`] what has. All chance follows from [`Config::seed`] and the connection's number:
//! [`Plan::derive`] says afterwards what a connection was given.
//!
//! Lifetimes are drawn in microseconds and fire up to 1 ms late, the grain of tokio's timers.

#[cfg(feature = "cli")]
pub mod command;
mod connection;
mod control;
mod draw;
mod frames;
mod gate;
mod journal;
mod line;
mod plan;
mod proxy;
mod pump;
mod shape;
mod sockets;
mod stats;
pub mod text;

pub use plan::{
    Admit, Amount, Arm, Armed, ConnectionPlan, Cut, Dir, Fault, Framing, How, MAX_REPLAY, Place,
    Plan, PlanError, Trigger, When,
};
pub use proxy::{Config, Proxy};
pub use shape::{Delay, Shape};
pub use stats::Stats;

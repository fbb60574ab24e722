//! A TCP proxy that breaks connections on purpose, repeatably from a seed, on real sockets.
//!
//! A test puts it between client and server, says in a [`Plan`] what shall go wrong and in a
//! [`Shape`] how slow each way is, and reads from [`Stats`] what has. All chance follows from
//! [`Config::seed`] and the connection's number: [`Plan::derive`] says afterwards what a connection
//! was given.
//!
//! ```
//! use std::time::Duration;
//! use farpipe_faultproxy::{Config, Cut, Plan, Proxy, When};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> std::io::Result<()> {
//! # let server = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
//! let mut config = Config::new(server.local_addr()?);
//! config.seed = 7;
//! config.plan = Plan::of(When::Lifetime(Duration::from_millis(2)..=Duration::from_millis(9)), Cut::Reset);
//! let proxy = Proxy::start(config)?;
//! let client = tokio::net::TcpStream::connect(proxy.addr()).await?;
//! // ... and when the test fails, what each connection was given and what became of it:
//! let account = proxy.account();
//! assert!(account.contains("--seed 7 --fault life:2ms..9ms@reset"));
//! let stats = proxy.stop().await;
//! # drop((stats, client));
//! # Ok(())
//! # }
//! ```
//!
//! Lifetimes are drawn in microseconds and fire up to 1 ms late, the grain of tokio's timers.

#![warn(missing_docs)]

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

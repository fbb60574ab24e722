//! Measures the pipes of this machine: how much a call should move, how large a pipe should be,
//! and which way of reading and writing is fastest here.
//!
//! A sender and a receiver are two threads of this process. What a pipe costs (copies, pages,
//! locks, wake-ups) is paid in the kernel, the same for two threads as for two processes; threads
//! share a clock, need no second program, and let shared memory be ordinary memory.
//!
//! Every figure is checked: the receiver counts the bytes of each run, and each row begins with a
//! run whose every byte is compared. A row that fails says so and has no figure.
//!
//! Linux only: elsewhere this crate is empty.

#![cfg(target_os = "linux")]

mod channel;
mod cores;
mod lessons;
mod measure;
mod mechanism;
mod others;
mod pattern;
mod report;
mod run;
mod stats;

pub use cores::Cores;
pub use measure::{Options, Progress, measure};
pub use report::Report;

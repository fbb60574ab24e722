//! `farpipe-powercut`: power cuts of a block device below a real relay, judged record by record; see docs/log.md.
//!
//! A relay keeps topics on an ext4 whose disk is ours, so that each write and each flush is known in its order. From
//! that any number of disks are made as a loss of power could have left them, and a relay is started on each.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a tool for people; its report is its output"
)]

#[cfg(target_os = "linux")]
mod linux;

use std::process::ExitCode;

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    linux::main()
}

#[cfg(not(target_os = "linux"))]
fn main() -> ExitCode {
    eprintln!("farpipe-powercut: it needs Linux: loop devices, FUSE and ext4");
    ExitCode::from(2)
}

//! `farpipe-faultproxy`: see the library's `command` module.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use farpipe_faultproxy::command::{Args, run};

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // With stderr gone too, the exit code has to do.
            let _ = writeln!(std::io::stderr(), "farpipe-faultproxy: {error}");
            ExitCode::FAILURE
        }
    }
}

//! The `farpipe` command: parses what was typed, runs one verb, exits with its status.

mod exit;
mod output;
mod progress;
mod signals;
mod status;
mod verb;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use output::Verbosity;

/// The Unix pipe, between hosts: loses, doubles and truncates nothing when the network fails.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, after_help = EXIT_HELP)]
struct Cli {
    #[command(flatten)]
    verbosity: Verbosity,
    #[command(subcommand)]
    verb: Verb,
}

const EXIT_HELP: &str = "\
Exit status: that of the command at the other end, 128+n if signal n ended it; 141 when the reader \
went away; 125 when farpipe itself failed; 126 or 127 when a command could not be run or found; \
2 for a wrong command line.";

#[derive(Debug, Subcommand)]
enum Verb {
    Listen(verb::listen::Args),
    Connect(verb::connect::Args),
    Pipe(verb::pipe::Args),
    Cert(verb::cert::Args),
    Quickstart(verb::quickstart::Args),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return exit::usage(&error),
    };
    output::init(&cli.verbosity);
    let quiet = cli.verbosity.is_quiet();
    // One thread: a pipe's work is handed from socket to pipe without waking another core. What
    // may block has threads of its own.
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return exit::failure(&anyhow::anyhow!("cannot start: {error}")),
    };
    let status = runtime.block_on(async {
        match cli.verb {
            Verb::Listen(args) => verb::listen::run(args, quiet).await,
            Verb::Connect(args) => verb::connect::run(args, quiet).await,
            Verb::Pipe(args) => verb::pipe::run(args, quiet).await,
            Verb::Cert(args) => verb::cert::run(&args),
            Verb::Quickstart(args) => verb::quickstart::run(args).await,
        }
    });
    let code = match status {
        Ok(status) => ExitCode::from(status),
        Err(error) => exit::failure(&error),
    };
    // A thread may still wait in a read from a terminal; nothing it could get is wanted any more.
    runtime.shutdown_background();
    code
}

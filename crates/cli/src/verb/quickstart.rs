//! `farpipe quickstart`: the main jobs on loopback, in one command.
//!
//! Real processes of this very program, so that what it shows is what a user gets.

mod hosts;
mod storm;
mod topic;

use std::path::PathBuf;

use anyhow::Context as _;

use crate::output::line;

/// See the main jobs done on this host, and that nothing is lost
///
/// Sends a file through a fault proxy that resets every connection after a moment, and compares the
/// hashes at both ends; publishes records while their relay is killed, and reads each once; then starts a
/// relay and an agent, runs a command by the agent's name, sends through a named pipe, and shows one on a page.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The file to send; farpipe's own program if not given
    file: Option<PathBuf>,
    /// Leave relay, agent and a live page up until a signal comes, to try things out
    #[arg(long)]
    stay: bool,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<u8> {
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let file = args.file.unwrap_or_else(|| program.clone());
    storm::run(&program, &file).await?;
    topic::run(&program).await?;
    line("");
    hosts::run(&program, args.stay).await?;
    line("\nNow in two terminals of this host:\n");
    line("  farpipe listen ws://127.0.0.1:7000 > copy");
    line("  farpipe connect ws://127.0.0.1:7000 < file");
    line("\nBetween two hosts: this prints the line to run on the other one:\n");
    line("  farpipe listen wss://0.0.0.0:7000 > copy");
    line("\nBetween many, by name: README and docs/relay.md say how to make the certificates.\n");
    line("  farpipe relay --listen wss://0.0.0.0:7000 …      # where everybody can come to");
    line("  farpipe agent wss://RELAY:7000 --allow exec …    # on each host");
    line("  farpipe exec HOST -- CMD, cp, tail, forward, send, recv, pub, sub …");
    Ok(0)
}

/// As a shell would show it.
fn code(status: std::process::ExitStatus) -> String {
    match status.code() {
        Some(code) => code.to_string(),
        None => status.to_string(),
    }
}

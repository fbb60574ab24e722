//! `farpipe kill`: sends a detached command a signal.

use std::time::Duration;

use farpipe_agent::command::ask::Here;
use farpipe_proto::wire::control::{Manage, ManageWhat};

use super::detached::{ask, id, signal};
use super::session::{SessionArgs, span};
use super::target::TargetArgs;

/// Send a detached command a signal
///
/// The signal goes to the process group of the command; 0 says that it was sent, not what the command
/// made of it. With --grace it goes to all processes of its session, SIGKILL follows to those that are
/// left after that time, and this ends when the command has. 125 if the agent knows no such command or
/// it has ended already.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    target: TargetArgs,
    /// The id that `farpipe exec -d` printed
    #[arg(value_parser = id)]
    id: String,
    /// Which signal: its name or its number
    #[arg(short, long, value_name = "SIGNAL", value_parser = signal, default_value = "TERM")]
    signal: u32,
    /// Kill what is left after this time (500ms, 10s)
    #[arg(long, value_name = "TIME", value_parser = span)]
    grace: Option<Duration>,
    #[command(flatten)]
    session: SessionArgs,
}

pub(crate) async fn run(args: Args, quiet: bool) -> anyhow::Result<u8> {
    // No grace at all is the shortest one.
    let grace = args.grace.map_or(0, |grace| {
        u64::try_from(grace.as_millis()).unwrap_or(u64::MAX).max(1)
    });
    let manage = Manage {
        what: ManageWhat::Kill as u32,
        id: args.id,
        signal: args.signal,
        grace_ms: grace,
        ..Manage::default()
    };
    ask(&args.target, &args.session, manage, Here::default(), quiet).await
}

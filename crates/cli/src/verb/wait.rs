//! `farpipe wait`: waits for the end of a detached command.

use farpipe_agent::command::ask::Here;
use farpipe_proto::wire::control::{Manage, ManageWhat};

use super::detached::{ask, id};
use super::session::SessionArgs;
use super::target::TargetArgs;

/// Wait for a detached command to end
///
/// Exits with its status, 128+n if signal n ended it; also when it has ended already, for 24 hours.
/// 125 if the agent knows no such command or its status is lost. The command does not mind when this
/// is interrupted.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    target: TargetArgs,
    /// The id that `farpipe exec -d` printed
    #[arg(value_parser = id)]
    id: String,
    #[command(flatten)]
    session: SessionArgs,
}

pub(crate) async fn run(args: Args, quiet: bool) -> anyhow::Result<u8> {
    let manage = Manage {
        what: ManageWhat::Wait as u32,
        id: args.id,
        ..Manage::default()
    };
    ask(&args.target, &args.session, manage, Here::default(), quiet).await
}

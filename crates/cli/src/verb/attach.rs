//! `farpipe attach`: joins a detached command.

use farpipe_proto::wire::control::{Manage, ManageWhat, Open};

use super::detached::id;
use super::exec::{Joining, joined};
use super::session::SessionArgs;
use super::target::TargetArgs;
use super::terminal;

/// Join a detached command
///
/// stdin, stdout and stderr are the command's own from here on, behind the output that waited; this
/// exits with its status, as farpipe exec does, also when it has ended already. If output was dropped
/// (exec --drop-output), stderr says how much and the status is 125, unless --allow-drops.
///
/// Another attach takes the place of this one, which then fails with 125. SIGINT and SIGQUIT go to the
/// command; SIGHUP, SIGTERM and a second SIGINT end this and leave the command alone, as a lost
/// connection does: what had not arrived here is there for the next one; what this process had and could
/// not write any more is not. The end of stdin is the end of the command's, unless -n.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    target: TargetArgs,
    /// The id that `farpipe exec -d` printed
    #[arg(value_parser = id)]
    id: String,
    /// The command was started with -t -d: show it on this terminal, with its size
    #[arg(short = 't', long = "tty")]
    tty: bool,
    /// Read nothing: the command's stdin stays as it is
    #[arg(short = 'n', long = "no-stdin")]
    no_stdin: bool,
    /// Dropped output is no failure
    #[arg(long)]
    allow_drops: bool,
    #[command(flatten)]
    session: SessionArgs,
}

pub(crate) async fn run(args: Args, quiet: bool) -> anyhow::Result<u8> {
    let open = Open {
        interactive: args.tty,
        manage: Some(Box::new(Manage {
            what: ManageWhat::Attach as u32,
            id: args.id,
            terminal: args.tty.then(terminal::describe),
            no_stdin: args.no_stdin,
            ..Manage::default()
        })),
        ..Open::default()
    };
    let joining = Joining {
        tty: args.tty,
        no_stdin: args.no_stdin,
        outlives: true,
        allow_drops: args.allow_drops,
    };
    joined(open, joining, &args.target, &args.session, quiet).await
}

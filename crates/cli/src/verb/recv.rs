//! `farpipe recv`: reads from a pipe by a relay.

use std::sync::Arc;
use std::time::Duration;

use farpipe_agent::endpoint::Use;
use farpipe_agent::{PipeError, client, pipe};
use farpipe_net::Opener;
use tokio::task::JoinSet;

use super::one_way::OneWayArgs;
use super::route::Way;
use super::session::{Early, conclude, settle, span};
use crate::progress::{self, Counts};
use crate::signals::Signals;
use crate::status::Status;

/// Read from a pipe that has a name at a relay
///
/// `producer | farpipe send logs` here, `farpipe recv logs | consumer` there: either side may come
/// first, and waits for the other. All relays of the list are asked in turn until one of them knows a
/// writer.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pipe: OneWayArgs,
    /// How long to try to get a lost connection back (30s, 10m, 2h)
    #[arg(long, value_name = "TIME", value_parser = span, default_value = "10m")]
    resume_for: Duration,
}

pub(crate) async fn run(args: Args, quiet: bool) -> anyhow::Result<u8> {
    let OneWayArgs {
        name,
        route,
        session,
        wait,
        ..
    } = &args.pipe;
    let spec = args.pipe.spec()?;
    let Way { dial, mut config } = route.to_pipe(name, *wait)?;
    let show = session.progress.resolve(quiet, &[(&spec, Use::Sink)]);
    let status = Status::open(session.status_fd, spec.writes_stdout(Use::Sink))?;
    let (signals, cancel) = Signals::catch()?;
    let counts = Arc::new(Counts::default());
    let mut tasks = JoinSet::new();
    config.resume_for = args.resume_for;
    config.heartbeat = session.heartbeat;
    config.events = Some(session.watch(&mut tasks, Arc::clone(&counts), status.clone(), quiet));
    let work = async {
        let early = Early::prepare(&spec, &status, quiet).await?;
        let opening = early.open(Use::Sink);
        let endpoint = match pipe::unless_cancelled(cancel.clone(), opening).await {
            Ok(opened) => opened?,
            Err(error) => return Ok(error.into()),
        };
        let meter = Arc::clone(&counts.meter);
        let running = client::run(endpoint, None, Opener::new(config), &*dial, meter, cancel);
        anyhow::Ok(progress::during(show, None, &counts, running).await)
    };
    let (outcome, signal) = signals.run(work).await;
    // How it ended is the last event.
    settle(tasks).await;
    let ended = outcome.unwrap_or_else(|| Ok(PipeError::Cancelled.into()));
    conclude(ended, signal, &status)
}

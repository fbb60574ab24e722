//! `farpipe connect`: joins an endpoint here to a listener's.

use std::sync::Arc;
use std::time::Duration;

use farpipe_agent::{PipeError, client, endpoint, pipe};
use farpipe_net::{Opener, OpenerConfig, TcpDial};
use tokio::task::JoinSet;

use super::session::{
    EndpointArgs, SessionArgs, conclude, greeting, not_opened, settle, span, url,
};
use crate::progress::{self, Counts};
use crate::signals::Signals;
use crate::status::Status;

/// Connect an endpoint here to the one of a `farpipe listen`
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where the listener is: ws://HOST:PORT[/PATH] or fp://HOST:PORT (loopback only)
    url: String,
    #[command(flatten)]
    endpoint: EndpointArgs,
    /// How long to try to get a lost connection back (30s, 10m, 2h)
    #[arg(long, value_name = "TIME", value_parser = span, default_value = "10m")]
    resume_for: Duration,
    #[command(flatten)]
    session: SessionArgs,
}

pub(crate) async fn run(args: Args, quiet: bool) -> anyhow::Result<u8> {
    let url = url(&args.url)?;
    let (spec, wanted) = args.endpoint.resolve()?;
    let show = args.session.progress.resolve(quiet, &[(&spec, wanted)]);
    let status = Status::open(args.session.status_fd, spec.writes_stdout(wanted))?;
    let (signals, cancel) = Signals::catch()?;
    let counts = Arc::new(Counts::default());
    let mut tasks = JoinSet::new();
    let mut config = OpenerConfig::new(greeting()?);
    config.resume_for = args.resume_for;
    config.heartbeat = args.session.heartbeat;
    config.events =
        Some(
            args.session
                .watch(&mut tasks, Arc::clone(&counts), status.clone(), quiet),
        );
    let work = async {
        let opening = endpoint::open(&spec, wanted);
        let endpoint = match pipe::unless_cancelled(cancel.clone(), opening).await {
            Ok(opened) => opened.map_err(not_opened)?,
            Err(error) => return Ok(error.into()),
        };
        let total = endpoint.size_hint;
        let dial = TcpDial::new(url);
        let pipe = client::run(
            endpoint,
            Opener::new(config),
            &dial,
            Arc::clone(&counts.meter),
            cancel,
        );
        anyhow::Ok(progress::during(show, total, &counts, pipe).await)
    };
    let (outcome, signal) = signals.run(work).await;
    // How it ended is the last event.
    settle(tasks).await;
    let ended = outcome.unwrap_or_else(|| Ok(PipeError::Cancelled.into()));
    conclude(ended, signal, &status)
}

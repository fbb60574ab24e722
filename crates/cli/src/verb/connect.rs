//! `farpipe connect`: joins an endpoint here to a listener's.

use std::sync::Arc;

use farpipe_agent::{client, endpoint};
use farpipe_net::{Admission, Opener, OpenerConfig, Url};
use tokio::task::JoinSet;

use super::secure::ConnectTls;
use super::session::{EndpointArgs, SessionArgs, conclude, greeting};
use crate::exit::WithStatus;
use crate::progress::{self, Counts};
use crate::signals::{self, Signals};
use crate::status::Status;

/// Connect an endpoint here to the one of a `farpipe listen`
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where the listener is: wss://HOST:PORT[/PATH] or fps://HOST:PORT; on this host also ws:// or
    /// fp://
    url: String,
    #[command(flatten)]
    endpoint: EndpointArgs,
    #[command(flatten)]
    tls: ConnectTls,
    #[command(flatten)]
    session: SessionArgs,
}

pub(crate) async fn run(args: Args, quiet: bool) -> anyhow::Result<u8> {
    args.session.check()?;
    let url: Url = args
        .url
        .parse()
        .map_err(|e: farpipe_net::UrlError| WithStatus::usage(e.to_string(), URL_HINT))?;
    let (spec, wanted) = args.endpoint.resolve()?;
    let admission = Admission::shown(url.scheme);
    let dial = args.tls.dial(url)?;
    let status = Status::open(args.session.status_fd)?;
    let (signals, cancel) = Signals::catch()?;
    let counts = Arc::new(Counts::default());
    let mut tasks = JoinSet::new();
    let mut config = OpenerConfig::new(greeting(admission)?);
    config.resume_for = args.session.resume_for;
    config.heartbeat = args.session.heartbeat;
    config.events =
        Some(
            args.session
                .watch(&mut tasks, Arc::clone(&counts), status.clone(), quiet),
        );
    let work = async {
        let endpoint = endpoint::open(&spec, wanted)
            .await
            .map_err(super::session::not_opened)?;
        let total = endpoint.size_hint;
        let pipe = client::run(
            endpoint,
            Opener::new(config),
            &dial,
            Arc::clone(&counts.meter),
            cancel,
        );
        anyhow::Ok(progress::during(args.session.progress, quiet, total, &counts, pipe).await)
    };
    let (outcome, signal) = signals.run(work).await;
    let code = match (outcome, signal) {
        (Some(outcome), signal) => conclude(&outcome?, signal, &status),
        (None, signal) => signals::status(signal.unwrap_or(15)),
    };
    super::session::settle(tasks).await;
    Ok(code)
}

pub(crate) const URL_HINT: &str = "for example ws://127.0.0.1:7000";

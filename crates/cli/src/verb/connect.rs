//! `farpipe connect`: joins an endpoint here to a listener's.

use std::sync::Arc;
use std::time::Duration;

use farpipe_agent::fan::{self, Shared};
use farpipe_agent::{Compression, PipeError, client, pipe};
use farpipe_net::{Opener, OpenerConfig};
use tokio::task::JoinSet;

use super::proxy::ProxyArgs;
use super::secure::ConnectTls;
use super::session::{
    Early, EndpointArgs, SessionArgs, conclude, dialling, listen, report, settle, span, url,
};
use crate::progress::{self, Counts};
use crate::signals::Signals;
use crate::status::Status;

/// Connect an endpoint here to the one of a `farpipe listen`
///
/// With tcp-listen:, unix-listen: or ws-listen: each connection gets a stream of the one session, joined to an
/// endpoint of its own at the listener, until a signal comes.
///
/// A listener that has no certificates prints the line to run here: $FARPIPE_TICKET (or
/// --ticket-file) says by which key it is known, and lets in, once.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where the listener is: wss://HOST:PORT[/PATH] or fps://HOST:PORT; on this host also ws:// or
    /// fp://
    url: String,
    #[command(flatten)]
    endpoint: EndpointArgs,
    /// How long to try to get a lost connection back (30s, 10m, 2h)
    #[arg(long, value_name = "TIME", value_parser = span, default_value = "10m")]
    resume_for: Duration,
    /// Compress both directions: `auto` while it shrinks the data and does not slow it down, `zstd` or
    /// `zstd:N` (1 to 19) while it shrinks
    #[arg(long, value_name = "HOW", value_parser = compression, default_value = "none")]
    compress: MaybeCompressed,
    #[command(flatten)]
    tls: ConnectTls,
    #[command(flatten)]
    proxy: ProxyArgs,
    #[command(flatten)]
    session: SessionArgs,
}

/// What `--compress` says.
#[derive(Debug, Clone, Copy)]
struct MaybeCompressed(Option<Compression>);

fn compression(text: &str) -> Result<MaybeCompressed, String> {
    let level = |text: &str| text.parse().ok().filter(|level| (1..=19).contains(level));
    Ok(MaybeCompressed(match text.split_once(':') {
        None if text == "none" => None,
        None if text == "auto" => Some(Compression::Auto),
        None if text == "zstd" => Some(Compression::Zstd(3)),
        Some(("zstd", number)) => {
            let level = level(number).ok_or("the level is a number from 1 to 19")?;
            Some(Compression::Zstd(level))
        }
        _ => return Err("write auto, zstd, zstd:N or none".to_owned()),
    }))
}

pub(crate) async fn run(args: Args, quiet: bool) -> anyhow::Result<u8> {
    let url = url(&args.url)?;
    let (spec, wanted) = args.endpoint.resolve()?;
    let show = args.session.progress.resolve(quiet, &[(&spec, wanted)]);
    let proves = args.tls.proves(&url)?;
    let admission = proves.admission(&url);
    let proxy = args.proxy.resolve(&url)?;
    let dial = args.tls.dial(url, proves.ticket())?.through(proxy);
    let status = Status::open(args.session.status_fd, spec.writes_stdout(wanted))?;
    let (signals, cancel) = Signals::catch()?;
    let counts = Arc::new(Counts::default());
    let mut tasks = JoinSet::new();
    let mut config = OpenerConfig::new(dialling(admission, proves)?);
    config.resume_for = args.resume_for;
    config.heartbeat = args.session.heartbeat;
    config.events =
        Some(
            args.session
                .watch(&mut tasks, Arc::clone(&counts), status.clone(), quiet),
        );
    let work = async {
        if args.endpoint.is_fan(&spec) {
            let listening = listen(&spec, &status, quiet).await?;
            let shared = Shared {
                meter: Arc::clone(&counts.meter),
                cancel,
                report: report(quiet),
            };
            let pipes = fan::connect_each(
                listening,
                wanted,
                client::open(args.compress.0),
                args.compress.0,
                Opener::new(config),
                &dial,
                shared,
            );
            return Ok(progress::during(show, None, &counts, pipes).await);
        }
        let early = Early::prepare(&spec, &status, quiet).await?;
        let opening = early.open(wanted);
        let endpoint = match pipe::unless_cancelled(cancel.clone(), opening).await {
            Ok(opened) => opened?,
            Err(error) => return Ok(error.into()),
        };
        let total = endpoint.size_hint;
        let pipe = client::run(
            endpoint,
            args.compress.0,
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

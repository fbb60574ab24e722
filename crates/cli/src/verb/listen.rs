//! `farpipe listen`: offers an endpoint to whoever connects.

use std::sync::Arc;
use std::time::Duration;

use farpipe_agent::endpoint::{self, EndpointSpec, Use};
use farpipe_agent::fan::{self, Shared};
use farpipe_agent::pipe::{Cancel, cancelled};
use farpipe_agent::server::{self, Target};
use farpipe_agent::{Meter, Outcome, PipeError};
use farpipe_net::{AcceptedSession, Acceptor, AcceptorConfig, Admission, Listener, Sessions};
use farpipe_proto::limits::PARK_MAX;
use tokio::task::{JoinError, JoinSet};

use super::door::{self, Invitation};
use super::secure::{Guarded, ListenTls};
use super::session::{
    EndpointArgs, SessionArgs, conclude, listening, not_opened, report, settle, span, url,
};
use crate::exit::WithStatus;
use crate::output;
use crate::progress::{self, Counts, Show};
use crate::signals::{self, Signals};
use crate::status::Status;

/// Wait for a `farpipe connect` and join it to an endpoint here
///
/// Serves one session and ends with it; a failed handshake or a port probe does not use it up.
///
/// wss:// and fps:// without --cert, --key and --ca make a certificate that lives as long as this
/// process, and print the line to run on the other host: it has a ticket, which is good for one
/// session, within 10 minutes, and as secret as a password. With --keep there is a new ticket when
/// one is used.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where to listen: wss://HOST:PORT or fps://HOST:PORT, with certificates or a ticket; ws:// or
    /// fp:// on loopback only; port 0 picks a free one
    url: String,
    #[command(flatten)]
    endpoint: EndpointArgs,
    #[command(flatten)]
    tls: ListenTls,
    /// Serve many sessions, at the same time, until told to end
    #[arg(long)]
    keep: bool,
    /// How long to keep a session whose connection is lost, at most [default: as long as the other
    /// side tries to resume, and up to a minute more]
    #[arg(long, value_name = "TIME", value_parser = span)]
    resume_for: Option<Duration>,
    #[command(flatten)]
    session: SessionArgs,
}

pub(crate) async fn run(args: Args, quiet: bool) -> anyhow::Result<u8> {
    let url = url(&args.url)?;
    let (spec, wanted) = args.endpoint.resolve()?;
    if args.keep && spec.is_shared() {
        return Err(WithStatus::usage(
            "--keep needs an endpoint that each session can have for itself",
            "use exec:CMD, sh:CMD or a PATH instead of -",
        ));
    }
    if spec.is_listening() {
        return Err(WithStatus::usage(
            format!(
                "'{spec}' cannot be the endpoint of `listen`: only the side that connects can open \
                 streams"
            ),
            format!(
                "swap the verbs: here `farpipe connect URL {spec}`, on the other side `farpipe \
                 listen URL ENDPOINT`"
            ),
        ));
    }
    let (tls, outlet) = match args.tls.server(&url, quiet)? {
        Some(Guarded { tls, outlet }) => (Some(tls), outlet),
        None => (None, None),
    };
    let tokens = args.tls.tokens()?;
    let admission = Admission::wanted(url.scheme, tls.as_ref(), tokens.is_some(), None)
        .map_err(|error| WithStatus::usage(error.to_string(), error.hint()))?;
    let status = Status::open(args.session.status_fd, spec.writes_stdout(wanted))?;
    let (signals, cancel) = Signals::catch()?;
    let counts = Arc::new(Counts::default());
    let mut tasks = JoinSet::new();
    let takes_tokens = tokens.is_some();
    let tickets = outlet.as_ref().map(|outlet| Arc::clone(&outlet.tickets));
    let mut config = AcceptorConfig::new(listening(admission, tickets, tokens)?);
    config.one_shot = !args.keep;
    config.park_max = args.resume_for.unwrap_or(PARK_MAX);
    config.heartbeat = args.session.heartbeat;
    config.events =
        Some(
            args.session
                .watch(&mut tasks, Arc::clone(&counts), status.clone(), quiet),
        );
    let (acceptor, sessions) = Acceptor::new(config);
    let ready = async {
        let early = match args.keep {
            true => Target::Spec(spec.clone(), wanted),
            false => open_early(&spec, wanted).await?,
        };
        anyhow::Ok((
            early,
            Listener::bind_with(url, tls, takes_tokens, None).await?,
        ))
    };
    let (early, listener) = match ready.await {
        Ok(ready) => ready,
        Err(error) => return conclude(Err(error), None, &status),
    };
    let invitation = Invitation {
        verb: "connect",
        rest: "",
    };
    let opened = door::open(
        listener,
        Arc::new(acceptor),
        outlet,
        &invitation,
        args.keep,
        quiet,
        &status,
    );
    let mut accepting = match opened.await {
        Ok(accepting) => accepting,
        Err(error) => return conclude(Err(error), None, &status),
    };
    let listening = Listening {
        spec,
        wanted,
        counts,
        status: status.clone(),
        quiet,
    };
    let (ended, signal) = if args.keep {
        (None, listening.keep(sessions, signals, cancel).await)
    } else {
        let used = [(&listening.spec, listening.wanted)];
        let show = args.session.progress.resolve(quiet, &used);
        let (outcome, signal) = listening.once(sessions, early, signals, cancel, show).await;
        (Some(Ok(outcome)), signal)
    };
    accepting.shutdown().await;
    // How it ended is the last event.
    settle(tasks).await;
    let Some(ended) = ended else {
        status.flush();
        return Ok(signals::status(signal.unwrap_or(15)));
    };
    conclude(ended, signal, &status)
}

/// What can be opened before anybody connects is, so that a missing file is noticed now. A FIFO to
/// write would wait for its reader.
async fn open_early(spec: &EndpointSpec, wanted: Use) -> anyhow::Result<Target> {
    let early = spec.is_shared() || spec.needs_direction() && wanted == Use::Source;
    if !early {
        return Ok(Target::Spec(spec.clone(), wanted));
    }
    let endpoint = endpoint::open(spec, wanted).await;
    Ok(Target::Open(Box::new(endpoint.map_err(not_opened)?)))
}

struct Listening {
    spec: EndpointSpec,
    wanted: Use,
    counts: Arc<Counts>,
    status: Status,
    quiet: bool,
}

impl Listening {
    /// Serves the first session and ends as it ends.
    async fn once(
        self,
        mut sessions: Sessions,
        target: Target,
        signals: Signals,
        cancel: Cancel,
        show: Show,
    ) -> (Outcome, Option<u8>) {
        let work = async {
            let session = tokio::select! {
                session = sessions.next() => session?,
                () = cancelled(cancel.clone()) => return None,
            };
            let meter = Arc::clone(&self.counts.meter);
            let pipe = self.serve(session, target, meter, cancel);
            Some(progress::during(show, None, &self.counts, pipe).await)
        };
        let (ended, signal) = signals.run(work).await;
        let outcome = ended.flatten();
        let outcome = outcome.unwrap_or_else(|| PipeError::Cancelled.into());
        (outcome, signal)
    }

    /// Each stream of the session gets an endpoint of its own if there can be many.
    fn serve(
        &self,
        session: AcceptedSession,
        target: Target,
        meter: Arc<Meter>,
        cancel: Cancel,
    ) -> impl Future<Output = Outcome> + Send + use<> {
        let report = report(self.quiet);
        async move {
            match target {
                Target::Spec(spec, wanted) if spec.is_had_anew() => {
                    let shared = Shared {
                        meter,
                        cancel,
                        report,
                    };
                    fan::serve_each(session, spec, wanted, shared).await
                }
                target => server::run(session, target, meter, cancel).await,
            }
        }
    }

    /// Serves sessions until a signal comes; then they end in order.
    async fn keep(self, mut sessions: Sessions, signals: Signals, cancel: Cancel) -> Option<u8> {
        let work = async {
            let mut running = JoinSet::new();
            loop {
                tokio::select! {
                    session = sessions.next() => {
                        let Some(session) = session else { break };
                        let name = session.name();
                        let target = Target::Spec(self.spec.clone(), self.wanted);
                        // Each session counts its own bytes.
                        let pipe = self.serve(session, target, Arc::default(), cancel.clone());
                        running.spawn(async move { (name, pipe.await) });
                    }
                    Some(ended) = running.join_next() => self.report(ended),
                    () = cancelled(cancel.clone()) => break,
                }
            }
            while let Some(ended) = running.join_next().await {
                self.report(ended);
            }
        };
        signals.run(work).await.1
    }

    fn report(&self, ended: Result<(String, Outcome), JoinError>) {
        let (session, outcome) = match ended {
            Ok(ended) => ended,
            Err(error) => return output::error(&format!("a session's task failed: {error}")),
        };
        let code = outcome.status();
        self.status.exit(Some(&session), &outcome, code);
        match &outcome.error {
            Some(error) if !self.quiet => output::error(&format!("session {session}: {error}")),
            _ => tracing::info!("session {session}: ended with status {code}"),
        }
    }
}

//! `farpipe agent`: runs the commands that callers ask for.

use std::sync::Arc;
use std::time::Duration;

use farpipe_agent::command::launch::Launcher;
use farpipe_agent::command::{AllowedEnv, Caller, serve};
use farpipe_agent::outcome::STATUS_FAILURE;
use farpipe_agent::pipe::cancelled;
use farpipe_net::tls::TlsServer;
use farpipe_net::{
    AcceptedSession, Acceptor, AcceptorConfig, Admission, Listener, SessionEnd, Sessions, Url,
};
use farpipe_proto::identity::Asserting;
use farpipe_proto::limits::PARK_MAX;
use tokio::task::{JoinError, JoinSet};

use super::door::{self, Invitation};
use super::registration::RegistrationArgs;
use super::secure::{Guarded, ListenTls};
use super::session::{SessionArgs, conclude, listening, settle, span, url};
use super::ticket::Outlet;
use crate::exit::WithStatus;
use crate::progress::Counts;
use crate::signals::{self, Signals};
use crate::status::Status;
use crate::{notify, output};

/// Run commands for `farpipe exec`
///
/// Whoever is let in may run whatever this user may: with a certificate of the authority of --ca, or
/// with a ticket, which is good for one command; on loopback this user's own processes. Commands get
/// an environment of their own, a session of their own, and the home directory as their place.
///
/// A command whose caller has lost the connection goes on; when the caller is given up (its
/// --resume-for and up to a minute more), or this agent is told to end, the command is hung up:
/// SIGHUP, and after 5 seconds SIGKILL to all that is left of its session.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    registration: RegistrationArgs,
    /// Where to listen for callers that come without a relay: wss://HOST:PORT or fps://HOST:PORT, with
    /// certificates or a ticket; ws:// or fp:// on loopback only; port 0 picks a free one
    #[arg(long, value_name = "URL")]
    listen: Option<String>,
    /// A variable that callers may set with --env, besides LANG, LANGUAGE, LC_*, TZ, TERM, COLORTERM
    /// and NO_COLOR; NAME* allows all that begin so; repeatable. LD_* and DYLD_* are never taken
    #[arg(long, value_name = "NAME")]
    allow_env: Vec<String>,
    #[command(flatten)]
    tls: ListenTls,
    /// How long to keep a session whose connection is lost, and its commands, at most [default: as
    /// long as the caller tries to resume, and up to a minute more]
    #[arg(long, value_name = "TIME", value_parser = span)]
    resume_for: Option<Duration>,
    #[command(flatten)]
    session: SessionArgs,
}

pub(crate) async fn run(args: Args, quiet: bool) -> anyhow::Result<u8> {
    let front = args.front(quiet)?;
    let status = Status::open(args.session.status_fd, false)?;
    let (signals, cancel) = Signals::catch()?;
    let counts = Arc::new(Counts::default());
    let mut tasks = JoinSet::new();
    let (admission, tickets) = match &front {
        Some(Front {
            admission, outlet, ..
        }) => (
            *admission,
            outlet.as_ref().map(|outlet| Arc::clone(&outlet.tickets)),
        ),
        // Nobody comes by a door that is not there.
        None => (Admission::ClientCertificate, None),
    };
    let mut config = AcceptorConfig::new(listening(admission, tickets)?);
    config.park_max = args.resume_for.unwrap_or(PARK_MAX);
    config.heartbeat = args.session.heartbeat;
    config.events = Some(
        args.session
            .watch(&mut tasks, counts, status.clone(), quiet),
    );
    let (acceptor, sessions) = Acceptor::new(config);
    let acceptor = Arc::new(acceptor);
    let links = args
        .registration
        .links(&args.tls, &acceptor, args.session.heartbeat)?;
    let mut accepting = match open(front, Arc::clone(&acceptor), quiet, &status).await {
        Ok(accepting) => accepting,
        Err(error) => return conclude(Err(error), None, &status),
    };
    drop(acceptor);
    notify::ready();
    let agent = serve::Agent {
        launcher: Launcher::own()?,
        allowed_env: AllowedEnv::with(args.allow_env),
        cancel,
    };
    let has_door = args.listen.is_some();
    let work = async {
        tokio::select! {
            () = keep(sessions, agent, admission, quiet) => true,
            () = links.keep(quiet, &status), if !has_door => false,
        }
    };
    let (in_order, signal) = signals.run(work).await;
    accepting.shutdown().await;
    settle(tasks).await;
    status.flush();
    if in_order == Some(false) {
        return Ok(STATUS_FAILURE);
    }
    Ok(signals::status(signal.unwrap_or(15)))
}

/// A door that callers come to without a relay.
struct Front {
    url: Url,
    tls: Option<TlsServer>,
    outlet: Option<Outlet>,
    admission: Admission,
}

impl Args {
    fn front(&self, quiet: bool) -> anyhow::Result<Option<Front>> {
        let Some(listen) = &self.listen else {
            if !self.registration.is_given() {
                return Err(WithStatus::usage(
                    "nobody could reach this agent",
                    "name a relay: farpipe agent wss://RELAY:PORT; or a door of its own: --listen URL",
                ));
            }
            return Ok(None);
        };
        let url = url(listen)?;
        let (tls, outlet) = match self.tls.server(&url, quiet)? {
            Some(Guarded { tls, outlet }) => (Some(tls), outlet),
            None => (None, None),
        };
        let admission = Admission::wanted(url.scheme, tls.as_ref())
            .map_err(|error| WithStatus::usage(error.to_string(), error.hint()))?;
        Ok(Some(Front {
            url,
            tls,
            outlet,
            admission,
        }))
    }
}

async fn open(
    front: Option<Front>,
    acceptor: Arc<Acceptor>,
    quiet: bool,
    status: &Status,
) -> anyhow::Result<JoinSet<()>> {
    let Some(front) = front else {
        return Ok(JoinSet::new());
    };
    let listener = Listener::bind_with(front.url, front.tls).await?;
    let invitation = Invitation {
        verb: "exec",
        rest: " -- CMD",
    };
    door::open(
        listener,
        acceptor,
        front.outlet,
        &invitation,
        true,
        quiet,
        status,
    )
    .await
}

/// Serves sessions until told to end; then they end in order.
async fn keep(mut sessions: Sessions, agent: serve::Agent, admission: Admission, quiet: bool) {
    let mut running = JoinSet::new();
    loop {
        tokio::select! {
            session = sessions.next() => {
                let Some(session) = session else { break };
                running.spawn(one(session, agent.clone(), admission));
            }
            Some(ended) = running.join_next() => report(ended, quiet),
            () = cancelled(agent.cancel.clone()) => break,
        }
    }
    // Who comes now hears that this process is going away.
    drop(sessions);
    while let Some(ended) = running.join_next().await {
        report(ended, quiet);
    }
}

async fn one(
    session: AcceptedSession,
    agent: serve::Agent,
    admission: Admission,
) -> (String, Result<(), SessionEnd>) {
    let name = session.name();
    let admission = match session.caller_by_relay().map(|relayed| relayed.relay) {
        None => admission,
        Some(Asserting::ThisUser) => Admission::LoopbackSecret,
        Some(Asserting::Another) => Admission::ClientCertificate,
    };
    let caller = Caller {
        peer: session.peer().to_owned(),
        admission,
    };
    (name, serve::serve(session, caller, &agent).await)
}

fn report(ended: Result<(String, Result<(), SessionEnd>), JoinError>, quiet: bool) {
    match ended {
        Ok((name, Ok(()))) => tracing::info!("session {name}: over"),
        Ok((name, Err(SessionEnd::Closed))) => tracing::info!("session {name}: closed"),
        Ok((name, Err(end))) if !quiet => output::error(&format!("session {name}: {end}")),
        Ok((name, Err(end))) => tracing::info!("session {name}: {end}"),
        Err(error) => output::error(&format!("a session's task failed: {error}")),
    }
}

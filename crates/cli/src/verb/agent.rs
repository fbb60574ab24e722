//! `farpipe agent`: runs the commands that callers ask for.

use std::sync::Arc;
use std::time::Duration;

use farpipe_agent::command::detached::Table;
use farpipe_agent::command::launch::Launcher;
use farpipe_agent::command::{AllowedEnv, Caller, serve};
use farpipe_agent::pipe::cancelled;
use farpipe_net::{
    AcceptedSession, Acceptor, AcceptorConfig, Admission, Listener, SessionEnd, Sessions,
};
use farpipe_proto::limits::PARK_MAX;
use tokio::task::{JoinError, JoinSet};

use super::door::{self, Invitation};
use super::secure::{Guarded, ListenTls};
use super::session::{SessionArgs, conclude, listening, settle, span, url};
use crate::exit::WithStatus;
use crate::output;
use crate::progress::Counts;
use crate::signals::{self, Signals};
use crate::status::Status;

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
    /// Where to listen: wss://HOST:PORT or fps://HOST:PORT, with certificates or a ticket; ws:// or
    /// fp:// on loopback only; port 0 picks a free one
    #[arg(long, value_name = "URL")]
    listen: String,
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
    let url = url(&args.listen)?;
    let (tls, outlet) = match args.tls.server(&url, quiet)? {
        Some(Guarded { tls, outlet }) => (Some(tls), outlet),
        None => (None, None),
    };
    let admission = Admission::wanted(url.scheme, tls.as_ref())
        .map_err(|error| WithStatus::usage(error.to_string(), error.hint()))?;
    let status = Status::open(args.session.status_fd, false)?;
    let (signals, cancel) = Signals::catch()?;
    let counts = Arc::new(Counts::default());
    let mut tasks = JoinSet::new();
    let tickets = outlet.as_ref().map(|outlet| Arc::clone(&outlet.tickets));
    let mut config = AcceptorConfig::new(listening(admission, tickets)?);
    config.park_max = args.resume_for.unwrap_or(PARK_MAX);
    config.heartbeat = args.session.heartbeat;
    config.events = Some(
        args.session
            .watch(&mut tasks, counts, status.clone(), quiet),
    );
    let (acceptor, sessions) = Acceptor::new(config);
    let listener = match Listener::bind_with(url, tls).await {
        Ok(listener) => listener,
        Err(error) => return conclude(Err(error.into()), None, &status),
    };
    let invitation = Invitation {
        verb: "exec",
        rest: " -- CMD",
    };
    let opened = door::open(
        listener,
        acceptor,
        outlet,
        &invitation,
        true,
        quiet,
        &status,
    );
    let mut accepting = match opened.await {
        Ok(accepting) => accepting,
        Err(error) => return conclude(Err(error), None, &status),
    };
    let agent = serve::Agent {
        launcher: Launcher::own()?,
        allowed_env: AllowedEnv::with(args.allow_env),
        detached: Table::default(),
        cancel,
    };
    let (_, signal) = signals.run(keep(sessions, agent, admission, quiet)).await;
    accepting.shutdown().await;
    settle(tasks).await;
    status.flush();
    Ok(signals::status(signal.unwrap_or(15)))
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
    agent.detached.ended().await;
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

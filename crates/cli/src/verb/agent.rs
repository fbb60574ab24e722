//! `farpipe agent`: runs the commands that callers ask for.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use farpipe_agent::command::launch::Launcher;
use farpipe_agent::command::serve;
use farpipe_agent::pipe::cancelled;
use farpipe_agent::policy::LivePolicy;
use farpipe_net::{
    AcceptedSession, Acceptor, AcceptorConfig, Admission, Listener, SessionEnd, Sessions,
};
use farpipe_proto::limits::PARK_MAX;
use tokio::signal::unix::Signal;
use tokio::task::{JoinError, JoinSet};

use super::allow::{AllowArgs, unusable};
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
/// Nobody may have anything that --policy or --allow does not say; `--allow exec` lets whoever is let
/// in run whatever this user may: with a certificate of the authority of --ca, or with a ticket, which
/// is good for one session; on loopback this user's own processes. Commands get an environment of their
/// own, a session of their own, and the home directory as their place.
///
/// A changed policy holds from the next request on, and is read at once after SIGHUP; one that is
/// malformed leaves the last good one in force. Without a policy file SIGHUP ends the agent.
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
    #[command(flatten)]
    allow: AllowArgs,
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
    let tokens = args.tls.tokens()?;
    let admission = Admission::wanted(url.scheme, tls.as_ref(), tokens.is_some())
        .map_err(|error| WithStatus::usage(error.to_string(), error.hint()))?;
    let policy = Arc::new(policy(&args.allow)?);
    let status = Status::open(args.session.status_fd, false)?;
    let (signals, cancel, hangups) = match policy.has_file() {
        true => Signals::catch_but_hangup()?,
        false => {
            let (signals, cancel) = Signals::catch()?;
            (signals, cancel, None)
        }
    };
    let counts = Arc::new(Counts::default());
    let mut tasks = JoinSet::new();
    let takes_tokens = tokens.is_some();
    let tickets = outlet.as_ref().map(|outlet| Arc::clone(&outlet.tickets));
    let mut config = AcceptorConfig::new(listening(admission, tickets, tokens)?);
    config.park_max = args.resume_for.unwrap_or(PARK_MAX);
    config.heartbeat = args.session.heartbeat;
    config.events = Some(
        args.session
            .watch(&mut tasks, counts, status.clone(), quiet),
    );
    let (acceptor, sessions) = Acceptor::new(config);
    let listener = match Listener::bind_with(url, tls, takes_tokens).await {
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
        policy: Arc::clone(&policy),
        refusals: Arc::default(),
        cancel,
    };
    if let Some(hangups) = hangups {
        accepting.spawn(reload(policy, hangups));
    }
    let (_, signal) = signals.run(keep(sessions, agent, quiet)).await;
    accepting.shutdown().await;
    settle(tasks).await;
    status.flush();
    Ok(signals::status(signal.unwrap_or(15)))
}

/// The policy of the flags, and of a file if there is one.
fn policy(args: &AllowArgs) -> anyhow::Result<LivePolicy> {
    let is_missing = |file: &PathBuf| {
        let looked = std::fs::symlink_metadata(file);
        looked.is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
    };
    let file = args
        .file()
        .filter(|file| args.is_named() || !is_missing(file));
    let is_given = file.is_some();
    let live = LivePolicy::open(file, args.flags()).map_err(|error| unusable(&error))?;
    // What an empty file comes to was said when it was read.
    if !is_given && live.current().is_empty() {
        tracing::warn!(
            "this agent allows nothing: start it with --policy FILE, or with --allow exec for whoever \
             is let in"
        );
    }
    Ok(live)
}

/// Reads the policy again when told to; never ready.
async fn reload(policy: Arc<LivePolicy>, mut hangups: Signal) {
    while hangups.recv().await.is_some() {
        let policy = Arc::clone(&policy);
        // Its errors are in the log.
        if let Err(error) = tokio::task::spawn_blocking(move || policy.reload()).await {
            tracing::error!("the policy could not be read: {error}");
        }
    }
}

/// Serves sessions until told to end; then they end in order.
async fn keep(mut sessions: Sessions, agent: serve::Agent, quiet: bool) {
    let mut running = JoinSet::new();
    loop {
        tokio::select! {
            session = sessions.next() => {
                let Some(session) = session else { break };
                running.spawn(one(session, agent.clone()));
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

async fn one(session: AcceptedSession, agent: serve::Agent) -> (String, Result<(), SessionEnd>) {
    (session.name(), serve::serve(session, &agent).await)
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

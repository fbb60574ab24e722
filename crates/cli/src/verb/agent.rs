//! `farpipe agent`: serves what callers may have of this host.

use std::path::PathBuf;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use farpipe_agent::command::detached::Table;
use farpipe_agent::command::launch::Launcher;
use farpipe_agent::command::spawner;
use farpipe_agent::outcome::STATUS_FAILURE;
use farpipe_agent::pipe::cancelled;
use farpipe_agent::policy::LivePolicy;
use farpipe_agent::serve;
use farpipe_audit::Audit;
use farpipe_net::tls::TlsServer;
use farpipe_net::token::TokenStore;
use farpipe_net::{
    AcceptedSession, Acceptor, AcceptorConfig, Admission, Greeting, Listener, LocalSocket,
    SessionEnd, Sessions, Url,
};
use farpipe_proto::limits::PARK_MAX;
use tokio::signal::unix::Signal;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};

use super::allow::{AllowArgs, unusable};
use super::audit::{self, AuditArgs};
use super::door::{self, Invitation};
use super::registration::{Links, RegistrationArgs};
use super::reuse;
use super::sandbox::SandboxArgs;
use super::secure::{Guarded, ListenTls};
use super::session::{SessionArgs, conclude, listening, nothing_to_prove, settle, span, url};
use super::ticket::Outlet;
use crate::exit::WithStatus;
use crate::progress::Counts;
use crate::signals::{self, Signals};
use crate::status::Status;
use crate::{notify, output};

mod sandbox;

/// Serve what callers may have of this host: commands, files, ports
///
/// Nobody may have anything that --policy or --allow does not say; `--allow exec` lets whoever is let
/// in run whatever this user may: with a certificate of the authority of --ca, or with a ticket, which
/// is good for one session; on loopback this user's own processes. Commands get an environment of their
/// own, a session of their own, and the home directory as their place.
///
/// A changed policy holds from the next request on, and is read at once after SIGHUP; one that is
/// malformed leaves the last good one in force. SIGHUP also opens the file of --audit-log again. With
/// neither of them SIGHUP ends the agent.
///
/// On Linux an agent gives up what it has no need of before it is reachable, other programs and files above all; what starts
/// its commands is another process, which asks the policy as well. Not by default if the policy names files, or lets
/// somebody run anything: see --sandbox. What a changed policy allows beyond that takes effect when the agent is
/// started anew; it says so.
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
    /// Serve nobody else: only keep connections for this user's own commands, which find this process
    /// by its socket in the runtime directory; it registers nowhere
    #[arg(long, conflicts_with_all = ["listen", "name"])]
    client_only: bool,
    /// Keep no connections for this user's own commands
    #[arg(long, conflicts_with = "client_only")]
    no_reuse: bool,
    #[command(flatten)]
    allow: AllowArgs,
    #[command(flatten)]
    audit: AuditArgs,
    /// Give up all but what the policy names also where it names files, as they are now (a directory that is replaced,
    /// or mounted, later is closed), or lets somebody run anything
    #[arg(long, conflicts_with = "no_sandbox")]
    sandbox: bool,
    #[command(flatten)]
    no_sandbox: SandboxArgs,
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
    output::hold();
    let front = args.front(quiet)?;
    let policy = Arc::new(policy(&args.allow, args.client_only)?);
    let log = args.audit.open()?;
    let status = Status::open_held(args.session.status_fd, false)?;
    let (signals, cancel, hangups) = match policy.has_file() || log.is_kept() {
        true => Signals::catch_but_hangup()?,
        false => {
            let (signals, cancel) = Signals::catch()?;
            (signals, cancel, None)
        }
    };
    let counts = Arc::new(Counts::default());
    let mut tasks = JoinSet::new();
    let greeting = match &front {
        Some(front) => front.greeting()?,
        // Nobody comes by a door that is not there.
        None => listening(Admission::ClientCertificate, None, None)?,
    };
    let local = args.local_socket(quiet)?;
    // Before there is another thread: what it may not do is given up by each for itself.
    let (closed, launcher) = args.close(&policy)?;
    status.begin()?;
    closed.tell(&status);
    let mut config = AcceptorConfig::new(greeting);
    config.seal = args.tls.seal()?;
    config.park_max = args.resume_for.unwrap_or(PARK_MAX);
    config.heartbeat = args.session.heartbeat;
    config.events = Some(
        args.session
            .watch(&mut tasks, counts, status.clone(), quiet),
    );
    let windows = Arc::clone(&config.windows);
    let (acceptor, sessions) = Acceptor::new(config);
    let acceptor = Arc::new(acceptor);
    let links = match args.client_only {
        // The relays of $FARPIPE_RELAY are its user's commands' to ask.
        true => Links::default(),
        false => args
            .registration
            .links(&args.tls, &acceptor, args.session.heartbeat)?,
    };
    let mut accepting = match open(front, Arc::clone(&acceptor), quiet, &status).await {
        Ok(accepting) => accepting,
        Err(error) => return conclude(Err(error), None, &status),
    };
    // Nobody comes to an agent for its user only: but it is not at its end therefore.
    let _kept = args.client_only.then_some(acceptor);
    let (left, is_left) = watch::channel(false);
    let mut reusing = JoinSet::new();
    if let Some(socket) = local {
        let mut config = AcceptorConfig::new(nothing_to_prove());
        config.windows = windows;
        let serving = farpipe_agent::reuse::serve(socket, config, reuse::roads(), is_left);
        reusing.spawn(serving);
    }
    notify::ready();
    let agent = serve::Agent {
        launcher: launcher.clone(),
        policy: Arc::clone(&policy),
        refusals: Arc::default(),
        detached: Table::default(),
        held: serve::Held::default(),
        audit: log.clone(),
        cancel,
    };
    if let Some(hangups) = hangups {
        accepting.spawn(reload(policy, log, hangups));
    }
    let has_door = args.listen.is_some();
    let work = async {
        let (leave, leaves) = watch::channel(false);
        let mut links = pin!(links.keep(quiet, &status, leaves));
        // In order: with the last link there are no more sessions either.
        let in_order = tokio::select! {
            biased;
            _ = &mut links, if !has_door => false,
            () = spawner_gone(&launcher) => {
                output::error("what starts the commands of this agent is gone: start it anew");
                false
            }
            () = keep(sessions, agent, quiet) => true,
        };
        if in_order && !has_door {
            leave.send_replace(true);
            links.await;
        }
        in_order
    };
    let (in_order, signal) = signals.run(work).await;
    accepting.shutdown().await;
    left.send_replace(true);
    while let Some(ended) = reusing.join_next().await {
        if let Err(error) = ended {
            output::error(&format!("the task of local commands failed: {error}"));
        }
    }
    settle(tasks).await;
    status.flush();
    if in_order == Some(false) {
        return Ok(STATUS_FAILURE);
    }
    Ok(signals::status(signal.unwrap_or(15)))
}

/// Ready when commands cannot be started any more.
async fn spawner_gone(launcher: &Launcher) {
    match launcher {
        Launcher::Spawner(spawner) => spawner.gone().await,
        Launcher::Binary(_) => std::future::pending().await,
    }
}

/// Starts commands for an agent whose command line this is too, until that is gone.
pub(crate) fn spawn(args: &Args) -> ExitCode {
    match policy(&args.allow, args.client_only) {
        Ok(policy) => spawner::serve(policy),
        Err(error) => {
            tracing::error!("commands cannot be started: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A door that callers come to without a relay.
struct Front {
    url: Url,
    tls: Option<TlsServer>,
    outlet: Option<Outlet>,
    tokens: Option<Arc<TokenStore>>,
    admission: Admission,
}

impl Front {
    /// What is said and wanted there.
    fn greeting(&self) -> anyhow::Result<Greeting> {
        let tickets = self.outlet.as_ref();
        let tickets = tickets.map(|outlet| Arc::clone(&outlet.tickets));
        listening(self.admission, tickets, self.tokens.clone())
    }
}

impl Args {
    /// Where this user's own commands come; `None`: they go their own way.
    fn local_socket(&self, quiet: bool) -> anyhow::Result<Option<LocalSocket>> {
        if self.no_reuse {
            return Ok(None);
        }
        match LocalSocket::bind() {
            Ok(socket) => {
                let text = format!("taking this user's commands at {}", socket.path().display());
                match self.client_only && !quiet {
                    true => output::line(&text),
                    false => tracing::info!("{text}"),
                }
                Ok(Some(socket))
            }
            Err(error) if self.client_only => Err(WithStatus::failure(
                format!("cannot take commands of this user: {error}"),
                None,
            )),
            Err(error) => {
                tracing::info!("commands of this user go their own way: {error}");
                Ok(None)
            }
        }
    }

    fn front(&self, quiet: bool) -> anyhow::Result<Option<Front>> {
        let Some(listen) = &self.listen else {
            if !self.registration.is_given() && !self.client_only {
                return Err(WithStatus::usage(
                    "nobody could reach this agent",
                    "name a relay: farpipe agent wss://RELAY:PORT; or a door of its own: --listen URL; or \
                     --client-only for your own commands",
                ));
            }
            return Ok(None);
        };
        let url = url(listen)?;
        let (tls, outlet) = match self.tls.server(&url, quiet)? {
            Some(Guarded { tls, outlet }) => (Some(tls), outlet),
            None => (None, None),
        };
        let tokens = self.tls.tokens()?;
        let admission = Admission::wanted(url.scheme, tls.as_ref(), tokens.is_some(), None)
            .map_err(|error| WithStatus::usage(error.to_string(), error.hint()))?;
        Ok(Some(Front {
            url,
            tls,
            outlet,
            tokens,
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
    let listener = Listener::bind_with(front.url, front.tls, front.tokens.is_some(), None).await?;
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

/// The policy of the flags, and of a file if there is one.
fn policy(args: &AllowArgs, client_only: bool) -> anyhow::Result<LivePolicy> {
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
    if !is_given && !client_only && live.current().is_empty() {
        tracing::warn!(
            "this agent allows nothing: start it with --policy FILE, or with --allow exec for whoever \
             is let in"
        );
    }
    Ok(live)
}

/// Reads the policy again, and opens the audit log again, when told to; never ready.
async fn reload(policy: Arc<LivePolicy>, log: Audit, mut hangups: Signal) {
    while hangups.recv().await.is_some() {
        let (policy, log) = (Arc::clone(&policy), log.clone());
        let again = move || {
            // Its errors are in the log.
            policy.reload();
            audit::reopen(&log);
        };
        if let Err(error) = tokio::task::spawn_blocking(again).await {
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
    agent.detached.ended().await;
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

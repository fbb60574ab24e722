//! What an agent does for one session: each stream that its opener opens asks for something of its own,
//! and here is the one place that knows what that can be.
//!
//! `permission.rs` asks the policy about files and addresses, `endpoint.rs` joins a stream to an endpoint
//! of this host, `listening.rs` opens one for each connection to what listens for a caller, `quota.rs` says how much
//! of something a caller may have at once, `held.rs` knows whose is what no two can have, `record.rs` writes the audit log, `standing.rs` asks the policy
//! again;
//! commands are in `command/`.

mod copy;
mod endpoint;
mod held;
mod listening;
mod permission;
mod quota;
mod record;
mod refusal;
mod standing;

use std::sync::Arc;

use farpipe_audit::Audit;
use farpipe_net::{AcceptedSession, Refusals, SessionEnd, SessionHandle, Stream};
use farpipe_proto::identity::Caller;
use farpipe_proto::limits::DRAIN;
use farpipe_proto::wire::control::Open;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};

use crate::command::detached::Table;
use crate::command::launch::Launcher;
use crate::ping;
use crate::pipe::{Cancel, cancelled};
use crate::policy::LivePolicy;

pub use self::held::Held;
pub(crate) use self::held::{Asker, Holding, Thing};
pub(crate) use self::permission::{Answer, Teller, Wants, denied_place, place};
pub(crate) use self::quota::{Full, Quota, Taken, whose};
pub(crate) use self::record::Record;
pub(crate) use self::refusal::Refusal;
pub(crate) use self::standing::Granted;

/// What an agent does for its callers.
#[derive(Debug, Clone)]
pub struct Agent {
    /// What makes processes.
    pub launcher: Launcher,
    /// What callers may have.
    pub policy: Arc<LivePolicy>,
    /// Where it says what it does not allow.
    pub refusals: Arc<Refusals>,
    /// Commands that go on without their callers.
    pub detached: Table,
    /// What their sessions have that no two can have.
    pub held: Held,
    /// Where it is written who was allowed what.
    pub audit: Audit,
    /// Ends all commands, and the sessions behind them.
    pub cancel: Cancel,
}

/// Serves one session: each stream that its opener opens is a command of its own. Returns when
/// everything is settled at both ends, or the session is lost; no process of it is left then.
///
/// # Errors
/// How the session ended, if not in order.
///
/// # Cancellation
/// Dropping it kills the commands. Use `agent.cancel`: they are hung up, and what they say meanwhile,
/// and their status, still arrives.
pub async fn serve(session: AcceptedSession, agent: &Agent) -> Result<(), SessionEnd> {
    let handle = session.handle();
    handle.hold();
    let name = session.name();
    let shown = session.caller().cloned();
    let peer: Arc<str> = session.peer().into();
    let (running, mut are_running) = watch::channel(0_usize);
    let serving = async {
        // What was shown in the session itself says more than what was shown on the way.
        let caller = handle.peer_identity().await.or(shown);
        let mut commands = JoinSet::new();
        loop {
            tokio::select! {
                opened = handle.accept() => {
                    let Some((stream, open)) = opened else { break };
                    let record = Record::new(
                        &agent.audit,
                        (&name, stream.id().0),
                        caller.as_ref(),
                        &peer,
                        &open,
                    );
                    let command = Serving {
                        record,
                        granted: Granted::default(),
                        cancel: agent.cancel.clone(),
                        handle: handle.clone(),
                        caller: caller.clone(),
                        peer: Arc::clone(&peer),
                        agent: agent.clone(),
                        running: running.clone(),
                        name: format!("session {name}, stream {}", stream.id().0),
                    };
                    commands.spawn(command.run(stream, open));
                }
                Some(ended) = commands.join_next() => log(ended),
            }
        }
        while let Some(ended) = commands.join_next().await {
            log(ended);
        }
        handle.release();
    };
    let mut linked = std::pin::pin!(session.run());
    let linked = async {
        tokio::select! {
            ended = &mut linked => return ended,
            () = cancelled(agent.cancel.clone()) => {}
        }
        // The commands end within their grace; then their last words have a moment.
        let leaving = async {
            let _ = are_running.wait_for(|running| *running == 0).await;
            tokio::time::sleep(DRAIN).await;
        };
        tokio::select! {
            ended = &mut linked => return ended,
            () = leaving => {}
        }
        handle.end(SessionEnd::Closed);
        let closing = tokio::time::timeout(DRAIN, linked).await;
        closing.unwrap_or(Err(SessionEnd::Closed))
    };
    tokio::join!(serving, linked).1
}

fn log(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!("a command's task failed: {error}");
    }
}

/// One stream, and who opened it.
pub(crate) struct Serving {
    pub(crate) handle: SessionHandle,
    pub(crate) caller: Option<Caller>,
    pub(crate) peer: Arc<str>,
    pub(crate) agent: Agent,
    /// Counts the commands of the session that have not ended.
    pub(crate) running: watch::Sender<usize>,
    pub(crate) name: String,
    pub(crate) record: Record,
    /// What the policy was asked for it, to be asked again.
    pub(crate) granted: Granted,
    /// Ends what it does: with the agent, or because the policy does not allow it any more.
    pub(crate) cancel: Cancel,
}

impl Serving {
    async fn run(mut self, stream: Stream, open: Open) {
        let (end, cancel) = watch::channel(false);
        self.cancel = cancel;
        let mut minding = std::pin::pin!(async {
            tokio::select! {
                () = cancelled(self.agent.cancel.clone()) => {}
                () = self.withdrawn() => {}
            }
            end.send_replace(true);
            std::future::pending().await
        });
        tokio::select! {
            () = self.serve(stream, open) => {}
            () = &mut minding => {}
        }
        self.record.over().await;
    }

    async fn serve(&self, stream: Stream, open: Open) {
        if ping::is_asked(&open) {
            // Whoever was let in may know that this agent is here: the relay says so as well.
            ping::answer(stream).await;
            return;
        }
        let (stream, mut open) = match self.detached(stream, open).await {
            Ok(()) => return,
            Err(other) => other,
        };
        if let Some(asked) = open.copy.take() {
            return self.copy(stream, *asked).await;
        }
        if let Some(asked) = open.tail.take() {
            return Box::pin(self.tail(stream, *asked)).await;
        }
        match open.endpoint.take() {
            Some(asked) => self.endpoint(stream, *asked, open.blocks).await,
            None => self.command(stream, open).await,
        }
    }
}

/// One command more, until dropped.
pub(crate) struct Counted<'a>(&'a watch::Sender<usize>);

impl<'a> Counted<'a> {
    pub(crate) fn new(running: &'a watch::Sender<usize>) -> Self {
        running.send_modify(|running| *running += 1);
        Self(running)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|running| *running -= 1);
    }
}

//! The opener's side of a session: what it is told. `running` dials, attaches, drives, and dials
//! again; `verdict` says what follows when there is no link.

mod running;
mod verdict;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use farpipe_proto::limits::{HANDSHAKE_STEP, HEARTBEAT, RESUME_FOR, WINDOW_SESSION_MAX};
use farpipe_proto::session::{SessionConfig, Side};
use farpipe_proto::wire::id::SessionKey;

use self::running::Running;
use crate::budget::WindowBudget;
use crate::carrier::{Carrier, Close};
use crate::clock::Clock;
use crate::event::Events;
use crate::link::Greeting;
use crate::session::SessionHandle;
use crate::shared::{SessionEnd, Shared};
use crate::tls::OpenerSeal;

/// How a failed attempt to reach the peer counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// Nobody is there, or a proxy says so: final before the first link, else retried.
    Refused,
    /// Reset or ended before it was up: retried; says that nobody is there only to one who has the
    /// peer's confirmation already.
    Reset,
    /// Timed out: retried.
    Cut,
    /// Something else answers there: final before the first link, else retried, because it may
    /// only stand in for a while.
    Stranger,
    /// There was one way there, and it is no more: the session is lost, unless all of it is confirmed.
    Gone,
    /// A retry cannot help, ever: a certificate, credential or version, or not allowed from here.
    Final,
}

/// Why a carrier could not be had.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct DialError {
    /// How it counts.
    pub blame: Blame,
    /// What happened, where.
    pub message: String,
    /// What to do about it, as long as there has been no link: later it was right before.
    pub advice: Option<String>,
}

/// A future that a [`Dial`] returns.
pub type Dialled<'a> =
    Pin<Box<dyn Future<Output = Result<Box<dyn Carrier>, DialError>> + Send + 'a>>;

/// Makes fresh carriers to one peer.
pub trait Dial: Send + Sync + std::fmt::Debug {
    /// Makes one. Bounded in time by the implementation; dropping the future gives up.
    fn dial(&self) -> Dialled<'_>;

    /// The peer, for people.
    fn peer(&self) -> String;

    /// Whom to ask for there; empty: whoever it is.
    fn route(&self) -> String {
        String::new()
    }

    /// Whether the peer stands in for another, whose last words are said as if they came from there.
    fn stands_in(&self) -> bool {
        false
    }

    /// Where it led to last is of no use now: the next one leads to another place, if there is one.
    /// `false` if all have been tried since one was of use.
    fn elsewhere(&self) -> bool {
        false
    }
}

/// How an opener waits for somebody who need not be there yet: a pipe's reader for its writer.
#[derive(Debug, Clone)]
pub struct Waits {
    /// Whom for, for people: `a writer of the pipe logs`.
    pub whom: String,
    /// How long. Default: without end.
    pub at_most: Option<Duration>,
    /// How long each relay may hold the attach, before it is asked for anew.
    pub hold: Duration,
}

/// Settings of a session's opener.
#[derive(Debug, Clone)]
pub struct OpenerConfig {
    /// How long to try to get a lost link back. Default 10 min.
    pub resume_for: Duration,
    /// Default 10 s.
    pub heartbeat: Duration,
    /// Bytes retained at most. Default 64 MiB.
    pub buffer_max: u64,
    /// As [`SessionConfig::answers_ends`]. Default: no.
    pub answers_ends: bool,
    /// Default: for this opener alone. A process with several shares one among them.
    pub windows: Arc<WindowBudget>,
    /// Covers the session's bytes with TLS up to the agent, whatever lies between. Default: nothing
    /// does; what lies between reads and may change them.
    pub seal: Option<OpenerSeal>,
    /// That nobody is there is no end before the first link, but waited out. What was asked for once may
    /// be asked for again of whoever comes then: nothing is done there twice. Default: nobody is waited
    /// for.
    pub waits: Option<Waits>,
    /// What HELLO says.
    pub greeting: Greeting,
    /// The clock; virtual in simulations.
    pub clock: Clock,
    /// Where link events go.
    pub events: Option<Events>,
}

impl OpenerConfig {
    /// The defaults.
    #[must_use]
    pub fn new(greeting: Greeting) -> Self {
        Self {
            resume_for: RESUME_FOR,
            heartbeat: HEARTBEAT,
            buffer_max: WINDOW_SESSION_MAX,
            answers_ends: false,
            windows: Arc::default(),
            seal: None,
            waits: None,
            greeting,
            clock: Clock::Boot,
            events: None,
        }
    }
}

/// A session this process opens.
///
/// Streams can be opened at once; they wait until [`Opener::run`] has a link.
#[derive(Debug)]
pub struct Opener {
    shared: Arc<Shared>,
    config: OpenerConfig,
    key: SessionKey,
}

impl Opener {
    /// A new session under a fresh random key. One that cannot be sealed as it was asked is over: the
    /// handles and [`Opener::run`] say so.
    #[must_use]
    pub fn new(config: OpenerConfig) -> Self {
        let mut key = [0; 32];
        (config.greeting.random)(&mut key);
        let mut session = SessionConfig::new(Side::Opener);
        session.buffer_max = config.buffer_max;
        session.answers_ends = config.answers_ends;
        let (seal, end) = match config.seal.as_ref().map(OpenerSeal::begin).transpose() {
            Ok(seal) => (seal, None),
            Err(error) => (None, Some(error.end("this end"))),
        };
        let windows = Arc::clone(&config.windows);
        let shared = Shared::new(session, windows, config.clock, seal);
        if let Some(end) = end {
            shared.lock().end(end);
        }
        Self {
            shared,
            config,
            key: SessionKey::new(key),
        }
    }

    /// The session's key, shortened.
    #[must_use]
    pub fn name(&self) -> String {
        self.key.to_string()
    }

    /// Opens streams.
    #[must_use]
    pub fn handle(&self) -> SessionHandle {
        SessionHandle::new(Arc::clone(&self.shared))
    }

    /// Keeps the session linked until everything is settled at both ends.
    ///
    /// # Errors
    /// [`SessionEnd`]; every handle of the session gets the same.
    ///
    /// # Cancellation
    /// Dropping it leaves the peer without a link: it parks the session and gives up later. End
    /// the streams instead.
    pub async fn run(self, dial: &dyn Dial) -> Result<(), SessionEnd> {
        let shared = Arc::clone(&self.shared);
        let name = self.name();
        tracing::info!("session {name}: opened");
        let result = Running::new(self, dial).run().await;
        match &result {
            Ok(()) => tracing::info!("session {name}: ended, all is settled"),
            Err(end) => {
                tracing::info!("session {name}: ended: {end}");
                shared.lock().end(end.clone());
            }
        }
        result
    }
}

pub(crate) const PROTOCOL_CLOSE: Close = Close {
    code: 1002,
    reason: "protocol error",
};

pub(crate) fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// A span as people write it.
pub(crate) fn span(span: Duration) -> String {
    let secs = span.as_secs();
    match secs {
        0 => format!("{} ms", span.as_millis()),
        _ if secs.is_multiple_of(3600) => format!("{} h", secs / 3600),
        _ if secs.is_multiple_of(60) => format!("{} min", secs / 60),
        _ => format!("{secs} s"),
    }
}

/// One attempt of the whole dial may take this long; each step has its own limit below it.
pub(crate) const DIAL_MAX: Duration = HANDSHAKE_STEP;

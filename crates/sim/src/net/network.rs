//! One address in a simulated network: dialling it, listening at it, and the real carriers on top.
//!
//! As `net::tcp` does it for sockets: the dialling side upgrades or greets, the listening side
//! gives each connection a task of its own until its session has it.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use farpipe_net::carrier::ws::upgrade::{self, Request};
use farpipe_net::carrier::{Carrier, fp};
use farpipe_net::{Blame, Dial, DialError, Dialled, Entrance};
use farpipe_proto::limits::HANDSHAKE_STEP;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;

use super::cable::{Cut, End, Quality, Totals, connect};
use super::chance::{Keys, random};

/// Connections nobody has accepted yet. Policy when full: the dialler is refused.
const BACKLOG_MAX: usize = 1_024;

/// The carriers there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// WebSocket.
    Ws,
    /// farpipe framing.
    Fp,
}

/// How dialling goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// A connection comes about.
    Connected,
    /// The port is closed.
    Refused,
    /// Reset while connecting.
    Reset,
    /// No answer at all.
    Silence,
}

/// What befalls one attempt to connect, and the connection if there is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fortune {
    /// How dialling goes.
    pub answer: Answer,
    /// What happens to the connection.
    pub cuts: Vec<Cut>,
}

impl Fortune {
    /// Nothing bad happens.
    #[must_use]
    pub const fn good() -> Self {
        Self {
            answer: Answer::Connected,
            cuts: Vec::new(),
        }
    }
}

/// What was counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Attempts to connect.
    pub dials: u64,
    /// Attempts that failed, and faults of connections.
    pub disconnects: u64,
    /// Bytes that went up and down in the connections.
    pub bytes: [u64; 2],
}

#[derive(Debug, Default)]
struct State {
    fortunes: VecDeque<Fortune>,
    listening: bool,
    backlog: VecDeque<End>,
    listener: Option<Waker>,
    counts: Counts,
}

/// One address and the way to it. Clones are the same.
#[derive(Debug, Clone)]
pub struct Network {
    kind: Kind,
    quality: Quality,
    state: Arc<Mutex<State>>,
    totals: Arc<Totals>,
}

impl Network {
    /// An address that nobody listens at. The `fortunes` are used up in turn by the attempts to
    /// connect; all later ones are good.
    #[must_use]
    pub fn new(kind: Kind, quality: Quality, fortunes: Vec<Fortune>) -> Self {
        Self {
            kind,
            quality,
            state: Arc::new(Mutex::new(State {
                fortunes: fortunes.into(),
                ..State::default()
            })),
            totals: Arc::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What happened so far; bytes and faults of a connection count when both its ends are gone.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let mut counts = self.lock().counts;
        let of = |total: &AtomicU64| total.load(Ordering::Relaxed);
        counts.disconnects += of(&self.totals.faults);
        counts.bytes = [of(&self.totals.bytes[0]), of(&self.totals.bytes[1])];
        counts
    }

    /// Connections whose ends are not both gone.
    #[must_use]
    pub fn live(&self) -> u64 {
        self.totals.live.load(Ordering::Relaxed)
    }

    /// Opens the address at once; the future accepts connections and hands them to `entrance` for
    /// ever.
    ///
    /// # Cancellation
    /// Dropping it is the end of a process, as far as connections in their handshake go.
    pub fn serve<E: Entrance>(self, entrance: Arc<E>) -> impl Future<Output = ()> + Send {
        let listening = Listening::begin(self);
        async move { listening.0.accept(entrance).await }
    }

    /// Opens the address, for a test that accepts connections by hand.
    #[must_use]
    pub fn listen(&self) -> Listening {
        Listening::begin(self.clone())
    }

    async fn accept<E: Entrance>(&self, entrance: Arc<E>) {
        let mut handshakes = JoinSet::new();
        let mut number = 0u64;
        loop {
            tokio::select! {
                biased;
                end = self.accepted() => {
                    number += 1;
                    let (kind, entrance) = (self.kind, Arc::clone(&entrance));
                    handshakes.spawn(handshake(end, kind, entrance, number));
                }
                Some(ended) = handshakes.join_next() => {
                    if let Err(panic) = ended.map_err(tokio::task::JoinError::try_into_panic)
                        && let Ok(panic) = panic
                    {
                        std::panic::resume_unwind(panic);
                    }
                }
            }
        }
    }

    async fn accepted(&self) -> End {
        poll_fn(|cx| {
            let mut state = self.lock();
            match state.backlog.pop_front() {
                Some(end) => Poll::Ready(end),
                None => {
                    state.listener = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// Connects as a socket would, with what fortune has in store.
    ///
    /// # Errors
    /// [`DialError`], as `net::tcp` words them.
    pub async fn connect(&self) -> Result<End, DialError> {
        let fortune = {
            let mut state = self.lock();
            state.counts.dials += 1;
            state.fortunes.pop_front().unwrap_or_else(Fortune::good)
        };
        let fail = |blame, message: &str| {
            self.lock().counts.disconnects += 1;
            DialError {
                blame,
                message: message.to_owned(),
                advice: None,
            }
        };
        if fortune.answer == Answer::Silence {
            tokio::time::sleep(HANDSHAKE_STEP).await;
            return Err(fail(Blame::Cut, "no answer"));
        }
        if self.quality.latency > Duration::ZERO {
            tokio::time::sleep(self.quality.latency * 2).await;
        }
        match fortune.answer {
            Answer::Refused => return Err(fail(Blame::Refused, "refused")),
            Answer::Reset => return Err(fail(Blame::Reset, "reset")),
            Answer::Connected | Answer::Silence => {}
        }
        let mut state = self.lock();
        if !state.listening || state.backlog.len() >= BACKLOG_MAX {
            drop(state);
            return Err(fail(Blame::Refused, "nobody listens"));
        }
        let (ours, theirs) = connect(self.quality.clone(), fortune.cuts, &self.totals);
        state.backlog.push_back(theirs);
        if let Some(waker) = state.listener.take() {
            waker.wake();
        }
        Ok(ours)
    }
}

/// The address is open as long as this lives.
#[derive(Debug)]
pub struct Listening(Network);

impl Listening {
    fn begin(network: Network) -> Self {
        network.lock().listening = true;
        Self(network)
    }

    /// The next connection.
    pub async fn accepted(&self) -> End {
        self.0.accepted().await
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.listening = false;
        let waiting = std::mem::take(&mut state.backlog);
        drop(state);
        drop(waiting);
    }
}

impl Dial for Network {
    fn dial(&self) -> Dialled<'_> {
        Box::pin(async {
            let end = self.connect().await?;
            carry(end, self.kind).await
        })
    }

    fn peer(&self) -> String {
        "sim".to_owned()
    }
}

/// Makes a carrier of a connection that was dialled.
///
/// # Errors
/// [`DialError`], as `net::tcp` makes them.
pub async fn carry<S>(stream: S, kind: Kind) -> Result<Box<dyn Carrier>, DialError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + std::fmt::Debug + 'static,
{
    if kind == Kind::Fp {
        return Ok(Box::new(fp::start(stream)));
    }
    let request = Request {
        host: "sim",
        path: "/",
        headers: &[],
    };
    let mut seed = [0; 8];
    random(&mut seed);
    let keys = Box::new(Keys::new(u64::from_ne_bytes(seed)));
    match tokio::time::timeout(HANDSHAKE_STEP, upgrade::connect_with(stream, request, keys)).await {
        Ok(Ok(carrier)) => Ok(Box::new(carrier)),
        Ok(Err(error)) => Err(DialError {
            blame: Blame::from(&error),
            message: error.to_string(),
            advice: None,
        }),
        Err(_) => Err(DialError {
            blame: Blame::Cut,
            message: "no answer to the upgrade".to_owned(),
            advice: None,
        }),
    }
}

/// Takes an accepted connection to its session.
#[expect(
    clippy::manual_async_fn,
    reason = "declared as one that can be sent: where `E` is known the compiler would not see it"
)]
pub fn handshake<E, S>(
    stream: S,
    kind: Kind,
    entrance: Arc<E>,
    number: u64,
) -> impl Future<Output = ()> + Send
where
    E: Entrance,
    S: AsyncRead + AsyncWrite + Send + Unpin + std::fmt::Debug + 'static,
{
    async move {
        let carrier = async {
            let carrier: Box<dyn Carrier> = match kind {
                Kind::Fp => Box::new(fp::start(stream)),
                Kind::Ws => Box::new(upgrade::accept(stream).await?),
            };
            Ok(carrier)
        };
        // The peer was told; the opener's events say how it went on.
        let _ = entrance
            .serve(carrier, format!("sim:{number}").into())
            .await;
    }
}

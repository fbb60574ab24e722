//! One attached link: handshake over a fresh carrier, then the loop that moves a session over it.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use farpipe_proto::limits::{AGENTS_SET_MAX, DRAIN, HANDSHAKE_STEP, HANDSHAKE_TOTAL};
pub(crate) use farpipe_proto::link::handshake::printable;
use farpipe_proto::link::handshake::refusal;
use farpipe_proto::link::{
    Accepting, Dialling, Features, Keys, LinkError, Nonce, NotLetIn, Prover, SecretId, Step,
};
use farpipe_proto::wire::DecodeError;
use farpipe_proto::wire::control::{
    Attach, Attached, Host, List, RefuseCode, Refused, Register, Registered, Welcome,
};
use farpipe_proto::wire::hop::{HopDecoder, HopFrame, HopItem};
use farpipe_proto::wire::id::TunnelId;

use crate::carrier::ws::raw::Unserved;
use crate::carrier::ws::upgrade::UpgradeError;
use crate::carrier::{Carrier, CarrierError, Close};
use crate::hop::QUEUE_MAX;
use crate::pool::Pool;
use crate::shared::SLOT_SIZE;
use crate::standing::Standing;
use crate::tls::{PeerIdentity, TlsError};
use crate::token::{Admitted, Gate, Scope, TokenError, TokenId, TokenRefusal, TokenStore};

/// The tunnel of a session on a link of its own.
pub(crate) const TUNNEL: TunnelId = TunnelId(1);
/// Slots one link reads into; bounded by what stream windows can hold, see limits.rs.
const READ_SLOTS: usize = 160;

/// What HELLO and WELCOME say of this side.
#[derive(Debug, Clone)]
pub struct Greeting {
    /// Name and version, for logs.
    pub software: String,
    /// The secret to prove when dialling, where one must be.
    pub prover: Option<Arc<dyn Prover>>,
    /// The secrets of which a neighbour must prove one when it dials.
    pub keys: Option<Arc<dyn Keys>>,
    /// The tokens of which a neighbour may prove one instead; where there are no `keys`, instead of
    /// showing a certificate.
    pub tokens: Option<Arc<TokenStore>>,
    /// Random bytes for nonces; a closure so that simulations repeat.
    pub random: fn(&mut [u8]),
}

impl Greeting {
    fn nonce(&self) -> Nonce {
        let mut nonce = [0; 32];
        (self.random)(&mut nonce);
        nonce
    }
}

/// Fills `bytes` from the system's generator.
///
/// # Panics
/// If the system has no randomness to give: no key made without it would be one.
pub fn system_random(bytes: &mut [u8]) {
    getrandom::fill(bytes).expect("the system's random generator works");
}

/// Why no link came about.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The carrier failed.
    #[error(transparent)]
    Carrier(#[from] CarrierError),
    /// The rules say no.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// Bytes that are no frames.
    #[error("the other side broke the protocol: {0}")]
    Decode(#[from] DecodeError),
    /// The tunnel was refused.
    #[error("refused: {}", .0.message)]
    Refused(Refused),
    /// Nothing came for too long.
    #[error("no answer within {} s", HANDSHAKE_STEP.as_secs())]
    TimedOut,
    /// There is no carrier to shake hands over.
    #[error(transparent)]
    Upgrade(#[from] UpgradeError),
    /// The TLS under it was refused, here or there.
    #[error("{0}")]
    Tls(String),
    /// The connection ended before the TLS under it had come about.
    #[error("{0}")]
    TlsCut(String),
    /// Each step came in time, and there was no end to them.
    #[error("the handshake took more than {} s", HANDSHAKE_TOTAL.as_secs())]
    Endless,
    /// None is due: it is no farpipe, and the gateway has it now.
    #[error("given to the gateway")]
    Foreign,
    /// It is no farpipe, and the gateway has answered it.
    #[error(transparent)]
    Unserved(#[from] Unserved),
}

impl HandshakeError {
    /// Whether nobody said no: the connection was lost, here or beyond a relay.
    pub(crate) fn is_cut(&self) -> bool {
        match self {
            Self::Carrier(CarrierError::Io(_) | CarrierError::Closed { .. }) => true,
            Self::Refused(refused) | Self::Link(LinkError::Refused(refused)) => {
                RefuseCode::from_wire(refused.code) == Some(RefuseCode::Cut)
            }
            _ => false,
        }
    }

    /// The step at which a peer was refused, or refused us, as `farpipe doctor` names it; `None` if
    /// it only went away, said nothing, or may come back in a moment.
    #[must_use]
    pub fn step(&self) -> Option<&'static str> {
        match self {
            Self::Tls(_) => Some("tls"),
            Self::Carrier(CarrierError::Io(error)) if TlsError::is_final_in(error) => Some("tls"),
            Self::Upgrade(UpgradeError::Io(_) | UpgradeError::Cut | UpgradeError::Silent) => None,
            Self::Upgrade(_) => Some("upgrade"),
            Self::Refused(refused) if !refused.is_final => None,
            Self::Unserved(unserved) if unserved.is_refusal() => Some("gateway"),
            Self::Carrier(CarrierError::Protocol { .. })
            | Self::Link(_)
            | Self::Decode(_)
            | Self::Refused(_) => Some("farpipe"),
            Self::Carrier(CarrierError::Io(_) | CarrierError::Closed { .. })
            | Self::TimedOut
            | Self::Endless
            | Self::Foreign
            | Self::Unserved(_)
            | Self::TlsCut(_) => None,
        }
    }
}

/// A carrier with the framing state that outlives single frames.
#[derive(Debug)]
pub(crate) struct Wire {
    pub(crate) carrier: Box<dyn Carrier>,
    pub(crate) decoder: HopDecoder,
    pub(crate) pool: Pool,
}

impl Wire {
    pub(crate) fn new(carrier: Box<dyn Carrier>) -> Self {
        Self {
            carrier,
            decoder: HopDecoder::default(),
            pool: Pool::new(SLOT_SIZE, READ_SLOTS),
        }
    }

    pub(crate) fn queue(&mut self, frame: &HopFrame) {
        self.carrier.queue(&frame.encode());
    }

    /// The next control frame; DATA has no place in a handshake.
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<HopFrame, HandshakeError>> {
        loop {
            if self.carrier.queued() > 0
                && let Poll::Ready(result) = self.carrier.poll_flush(cx)
            {
                result?;
            }
            let piece = ready!(self.carrier.poll_recv(cx, &mut self.pool))?;
            match self.decoder.feed(piece.first, &piece.bytes, piece.last)? {
                None => {}
                Some(HopItem::Frame(frame)) => return Poll::Ready(Ok(frame)),
                Some(HopItem::Data { .. }) => {
                    return Poll::Ready(Err(LinkError::Protocol(
                        "DATA before the handshake was over",
                    )
                    .into()));
                }
            }
        }
    }

    async fn frame(&mut self) -> Result<HopFrame, HandshakeError> {
        match tokio::time::timeout(HANDSHAKE_STEP, poll_fn(|cx| self.poll_frame(cx))).await {
            Ok(result) => result,
            Err(_) => Err(HandshakeError::TimedOut),
        }
    }

    /// Closes politely within a second: what was sent arrives, the neighbour hears why. Returns
    /// whether the neighbour closed too, and so has heard it.
    pub(crate) async fn close(&mut self, close: Close) -> bool {
        let closing = poll_fn(|cx| self.carrier.poll_close(cx, close));
        let closed = tokio::time::timeout(DRAIN, closing).await;
        let heard = matches!(closed, Ok(Ok(())));
        if !heard {
            tracing::debug!(?closed, "the other side did not close");
        }
        heard
    }

    /// Refuses and closes.
    pub(crate) async fn refuse(&mut self, frame: &HopFrame) {
        self.queue(frame);
        self.close(Close {
            code: 1008,
            reason: "refused",
        })
        .await;
    }
}

/// The dialling side: HELLO to ATTACHED. `attach` is called when its frame is due, so that the
/// offset in it is the newest.
pub(crate) async fn dial(
    wire: &mut Wire,
    greeting: &Greeting,
    attach: impl FnOnce() -> Attach,
) -> Result<Attached, HandshakeError> {
    ask_to_attach(wire, greeting, attach).await?;
    attached(wire).await
}

/// The first half of [`dial`]: this side is let in when it returns.
pub(crate) async fn ask_to_attach(
    wire: &mut Wire,
    greeting: &Greeting,
    attach: impl FnOnce() -> Attach,
) -> Result<(), HandshakeError> {
    let handshake = Dialling::new(
        greeting.nonce(),
        Features::default(),
        greeting.prover.as_deref(),
        &greeting.software,
    );
    let asked = || HopFrame::Attach(TUNNEL, attach());
    ask(wire, &handshake, greeting, asked).await
}

/// The other half.
pub(crate) async fn attached(wire: &mut Wire) -> Result<Attached, HandshakeError> {
    match answer(wire).await? {
        HopFrame::Attached(TUNNEL, attached) => Ok(attached),
        _ => Err(LinkError::Protocol("no answer to ATTACH").into()),
    }
}

/// The dialling side as an agent, or as a pipe's writer, at a relay: HELLO to REGISTERED.
pub(crate) async fn register(
    wire: &mut Wire,
    greeting: &Greeting,
    register: Register,
) -> Result<Registered, HandshakeError> {
    let handshake = Dialling::new(
        greeting.nonce(),
        Features::default(),
        greeting.prover.as_deref(),
        &greeting.software,
    );
    ask(wire, &handshake, greeting, || HopFrame::Register(register)).await?;
    match answer(wire).await? {
        HopFrame::Registered(registered) => Ok(registered),
        _ => Err(LinkError::Protocol("no answer to REGISTER").into()),
    }
}

/// The dialling side that wants to know a relay's agents, or its pipes: HELLO to LISTED, and again as
/// long as others follow.
pub(crate) async fn list(
    wire: &mut Wire,
    greeting: &Greeting,
    pipes: bool,
) -> Result<Vec<Host>, HandshakeError> {
    let handshake = Dialling::new(
        greeting.nonce(),
        Features::default(),
        greeting.prover.as_deref(),
        &greeting.software,
    );
    let first = List {
        after: String::new(),
        pipes,
    };
    ask(wire, &handshake, greeting, || HopFrame::List(first)).await?;
    let mut hosts: Vec<Host> = Vec::new();
    loop {
        let HopFrame::Listed(listed) = answer(wire).await? else {
            return Err(LinkError::Protocol("no answer to LIST").into());
        };
        for host in listed.hosts {
            // The order is what makes an end certain.
            if hosts.last().is_some_and(|last| last.name >= host.name) {
                return Err(LinkError::Protocol("names out of order").into());
            }
            if hosts.len() >= AGENTS_SET_MAX {
                return Err(LinkError::Protocol("a list without an end").into());
            }
            hosts.push(host);
        }
        match hosts.last() {
            Some(last) if listed.more => {
                let after = last.name.clone();
                wire.queue(&HopFrame::List(List { after, pipes }));
            }
            _ => return Ok(hosts),
        }
    }
}

/// HELLO, and the frame that asks for something as early as it may.
async fn ask(
    wire: &mut Wire,
    handshake: &Dialling<'_>,
    greeting: &Greeting,
    frame: impl FnOnce() -> HopFrame,
) -> Result<(), HandshakeError> {
    wire.queue(&handshake.hello());
    if greeting.prover.is_none() {
        // Nothing to prove: HELLO and the question leave together.
        wire.queue(&frame());
        handshake.handle(&wire.frame().await?)?;
    } else {
        if let Some(auth) = handshake.handle(&wire.frame().await?)? {
            wire.queue(&auth);
        }
        wire.queue(&frame());
    }
    Ok(())
}

/// The answer to what was asked. A relay may hold it; it asks meanwhile whether we are there.
async fn answer(wire: &mut Wire) -> Result<HopFrame, HandshakeError> {
    loop {
        match wire.frame().await? {
            HopFrame::Refused(_, refused) => return Err(HandshakeError::Refused(refused)),
            HopFrame::Ping(number) if wire.carrier.queued() < QUEUE_MAX => {
                wire.queue(&HopFrame::Pong(number));
            }
            // Pongs it does not read.
            HopFrame::Ping(_) => {}
            frame => return Ok(frame),
        }
    }
}

/// The dialling side up to WELCOME and no further: what was not attached is not used up.
pub(crate) async fn greet(wire: &mut Wire, greeting: &Greeting) -> Result<Welcome, HandshakeError> {
    let handshake = Dialling::new(
        greeting.nonce(),
        Features::default(),
        greeting.prover.as_deref(),
        &greeting.software,
    );
    wire.queue(&handshake.hello());
    let frame = wire.frame().await?;
    if let Some(auth) = handshake.handle(&frame)? {
        // Or it would seem that this side has another secret.
        wire.queue(&auth);
    }
    match frame {
        HopFrame::Welcome(welcome) => Ok(welcome),
        _ => Err(LinkError::Protocol("no WELCOME in answer to HELLO").into()),
    }
}

/// What a neighbour wants that was let in.
#[derive(Debug)]
pub enum Wanted {
    /// A tunnel to a session.
    Session(TunnelId, Attach),
    /// To be known to a relay as an agent, or as a pipe's writer.
    Registration(Register),
    /// The names of a relay's agents, or of its pipes.
    Names(List),
}

/// A neighbour that was let in.
#[derive(Debug)]
pub(crate) struct Asking {
    pub(crate) wanted: Wanted,
    /// The secret it has proven.
    pub(crate) proven: Option<SecretId>,
    /// What its token is good for, if that is what it has proven.
    pub(crate) token: Option<Admitted>,
    /// By what it was let in, to be looked at again.
    pub(crate) standing: Standing,
}

/// Refuses what only a relay can do.
pub(crate) async fn refuse_as_no_relay(mut wire: Wire) -> HandshakeError {
    let refused = Refused {
        code: RefuseCode::Protocol as u32,
        is_final: true,
        message: "this is no relay: it serves its own host only".to_owned(),
    };
    let frame = HopFrame::Refused(TunnelId::LINK, refused.clone());
    wire.refuse(&frame).await;
    HandshakeError::Refused(refused)
}

/// The accepting side: HELLO to ATTACH, or what is asked in its place. The answer is the caller's.
///
/// On an error of the rules the neighbour is told before this returns.
pub(crate) async fn accept(wire: &mut Wire, greeting: &Greeting) -> Result<Asking, HandshakeError> {
    let result = accept_steps(wire, greeting).await;
    if let Err(error) = &result {
        let told = match error {
            HandshakeError::Link(link) => refusal(link),
            HandshakeError::Decode(_) => refusal(&LinkError::Protocol("a malformed frame")),
            _ => None,
        };
        if let Some(frame) = told {
            wire.refuse(&frame).await;
        }
    }
    result
}

async fn accept_steps(wire: &mut Wire, greeting: &Greeting) -> Result<Asking, HandshakeError> {
    let gate = Gate::new(greeting.keys.as_deref(), greeting.tokens.as_deref());
    let mut handshake = Accepting::new(
        greeting.nonce(),
        Features::default(),
        gate.as_ref().map(|gate| gate as &dyn Keys),
        &greeting.software,
    );
    if greeting.keys.is_none() && wire.carrier.peer_identity().is_some() {
        handshake = handshake.or_transport();
    }
    loop {
        let frame = wire.frame().await.map_err(|error| {
            let is_gone = matches!(error, HandshakeError::Carrier(_));
            let gate = gate.as_ref().filter(|_| is_gone);
            let why = gate.and_then(|gate| gate.left(handshake.named()));
            why.map_or(error, HandshakeError::from)
        })?;
        match handshake.handle(&frame)? {
            Step::Send(frame) => wire.queue(&frame),
            Step::Up(frame) => {
                if let Some(frame) = frame {
                    wire.queue(&frame);
                }
                break;
            }
        }
    }
    let wanted = match wire.frame().await? {
        HopFrame::Attach(tunnel, attach) => Wanted::Session(tunnel, attach),
        HopFrame::Register(register) => Wanted::Registration(register),
        HopFrame::List(list) => Wanted::Names(list),
        _ => return Err(LinkError::Protocol("no ATTACH after the handshake").into()),
    };
    let proven = handshake.into_proven();
    let token = match (&proven, &greeting.tokens) {
        (Some(SecretId::Token(id)), Some(tokens)) => {
            let shown = wire.carrier.peer_identity().cloned();
            Some(admit(Arc::clone(tokens), id, &wanted, shown).await?)
        }
        _ => None,
    };
    let standing = Standing::of(wire.carrier.peer_identity().cloned());
    let standing = match (&token, &greeting.tokens) {
        (Some(token), Some(tokens)) => {
            standing.and_token(Arc::clone(tokens), token.id, scope_of(&wanted))
        }
        _ => standing,
    };
    Ok(Asking {
        wanted,
        proven,
        token,
        standing,
    })
}

/// What somebody must be allowed who wants that.
fn scope_of(wanted: &Wanted) -> Scope {
    match wanted {
        // The writer of a pipe does what a client does.
        Wanted::Registration(register) if !register.pipe => Scope::Register,
        Wanted::Registration(_) | Wanted::Session(..) | Wanted::Names(_) => Scope::Attach,
    }
}

/// Whom a token lets in, to what it wants. One that is good once is used up when this returns.
async fn admit(
    tokens: Arc<TokenStore>,
    id: &[u8],
    wanted: &Wanted,
    shown: Option<PeerIdentity>,
) -> Result<Admitted, HandshakeError> {
    let scope = scope_of(wanted);
    let (user, name) = match wanted {
        Wanted::Session(_, attach) => (attach.key.clone(), None),
        // Its name is not that of a host.
        Wanted::Registration(register) if register.pipe => (register.instance.clone(), None),
        Wanted::Registration(register) => (register.instance.clone(), Some(register.name.clone())),
        Wanted::Names(_) => (Vec::new(), None),
    };
    let refused = |refusal: TokenRefusal| LinkError::from(NotLetIn::from(refusal));
    let Some(id) = TokenId::of(id) else {
        return Err(refused(TokenRefusal::NoToken(TokenError::Id)).into());
    };
    // It may have to be written, and synced.
    let admitting = move || tokens.admit(id, &scope, &user, shown.as_ref());
    let admitted = tokio::task::spawn_blocking(admitting).await;
    let admitted = admitted.map_err(|error| {
        tracing::error!("a token could not be checked: {error}");
        HandshakeError::TimedOut
    })?;
    let admitted = admitted.map_err(refused)?;
    match name {
        Some(name) if admitted.identity.name() != name => {
            let identity = admitted.identity;
            Err(refused(TokenRefusal::Name { id, identity, name }).into())
        }
        _ => Ok(admitted),
    }
}

/// A timer that is only touched when the deadline moves forward.
#[derive(Debug)]
pub(crate) struct Alarm {
    sleep: Pin<Box<tokio::time::Sleep>>,
}

impl Alarm {
    pub(crate) fn new() -> Self {
        Self {
            sleep: Box::pin(tokio::time::sleep(Duration::ZERO)),
        }
    }

    /// Ready when `deadline` has passed. A sleep that ends too early only costs another look.
    pub(crate) fn poll_at(
        &mut self,
        cx: &mut Context<'_>,
        deadline: tokio::time::Instant,
    ) -> Poll<()> {
        if self.sleep.deadline() > deadline || self.sleep.is_elapsed() {
            self.sleep.as_mut().reset(deadline);
        }
        self.sleep.as_mut().poll(cx)
    }
}

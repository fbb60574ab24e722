//! Pipes for those who have no farpipe: `curl`, browsers and any WebSocket client, at `/p/NAME` on the
//! relay's doors (docs/gateway.md, docs/decisions/0012-gateway.md); and topics, at `/t/TOPIC` (`topic`).
//!
//! The gateway is the endpoint of such a pipe, and a neighbour of its own relay (`inside`). What always
//! holds: who may not ask touches no pipe; a foreign end that breaks is a failure at the other end, and
//! a broken pipe never looks like an end to the foreign one.

mod admitted;
mod answer;
mod body;
mod download;
mod ends;
mod front;
#[cfg(feature = "fuzz")]
pub(crate) mod fuzz;
mod inside;
mod page;
mod places;
mod request;
mod socket;
mod ticket;
mod topic;

use std::sync::Arc;

use farpipe_net::WindowBudget;
use farpipe_net::carrier::ws::raw::{Foreign, ForeignRequest, Messages, Transport};
use farpipe_proto::limits::RELAY_DRAIN;
use farpipe_proto::wire::control::{Abort, AbortCode};

use self::admitted::LetIn;
use self::answer::Answer;
use self::body::{Body, Framing};
use self::download::Download;
use self::ends::{Failed, recv_all, send_all};
use self::inside::{Inside, accepted, answered, going_away};
use self::places::{Place, Places};
use self::request::{Asked, Direction, Page, What};
use self::topic::Wanted;
use crate::going::Going;
use crate::relay::Relay;

pub(crate) use self::front::Front;
pub(crate) use self::inside::greeting;
pub use self::request::GatewayConfig;
pub(crate) use self::ticket::Tickets;

/// What the gateways of a relay's doors have in common.
#[derive(Debug)]
pub(crate) struct Commons {
    pub(crate) tickets: Tickets,
    windows: Arc<WindowBudget>,
    /// Policy when there is none to be had: 503.
    places: Arc<Places>,
}

impl Commons {
    pub(crate) fn new(tickets: Tickets) -> Self {
        Self {
            tickets,
            windows: Arc::default(),
            places: Arc::default(),
        }
    }
}

/// One request that was let in, until it is answered and its pipe is over.
#[derive(Debug)]
pub(crate) struct Visit {
    foreign: Foreign,
    relay: Arc<Relay>,
    asked: Asked,
    let_in: LetIn,
    place: Place,
}

impl Visit {
    /// # Cancellation
    /// Dropping it breaks the connection, and is a lost link to the other end of the pipe.
    pub(crate) async fn run(self, going: Going) {
        let over = async {
            going.said().await;
            tokio::time::sleep(RELAY_DRAIN).await;
        };
        tokio::select! {
            () = self.serve(going.clone()) => {}
            () = over => {}
        }
    }

    async fn serve(self, going: Going) {
        let Self {
            foreign,
            relay,
            asked,
            let_in,
            place: _place,
        } = self;
        let peer = foreign.peer.clone();
        let Asked { name, what, page } = asked;
        let shared = shared_with(page.as_ref());
        let commons = relay.gateway();
        let inside = Inside {
            windows: Arc::clone(&commons.windows),
            relay: Arc::clone(&relay),
            who: let_in.who.clone(),
            peer,
            going,
        };
        match what {
            What::Upload => upload(foreign, &inside, &name, &shared).await,
            What::Download => download(foreign, &inside, &name, shared).await,
            What::Socket(direction, messages) => {
                websocket(foreign, &inside, &name, direction, messages).await;
            }
            What::Ticket(direction) => {
                let ticket = commons.tickets.issue(&name, direction, let_in);
                let (mut io, _) = foreign.into_io();
                also(page::ticket(&ticket), &shared).send(&mut *io).await;
            }
            What::View => {
                let ticket = commons.tickets.issue(&name, Direction::Recv, let_in);
                let page = page::view(&foreign, &name, &ticket);
                let (mut io, _) = foreign.into_io();
                page.send(&mut *io).await;
            }
            What::Topic(Wanted::Ticket) => {
                let ticket = commons
                    .tickets
                    .issue(&topic_ticket(&name), Direction::Recv, let_in);
                let (mut io, _) = foreign.into_io();
                also(page::ticket(&ticket), &shared).send(&mut *io).await;
            }
            What::Topic(wanted) => topic::serve(foreign, &inside, &name, wanted, &shared).await,
            // It was answered by the door.
            What::Preflight => {}
        }
    }
}

/// What tells a browser that the page of a listed origin may read the answer.
fn shared_with(page: Option<&Page>) -> Vec<(&'static str, String)> {
    match page {
        Some(Page::Of(origin)) => vec![
            ("Access-Control-Allow-Origin", origin.clone()),
            ("Vary", "Origin".to_owned()),
        ],
        Some(Page::Own) | None => Vec::new(),
    }
}

/// What a ticket for a topic is made for: no pipe has such a name.
fn topic_ticket(name: &str) -> String {
    format!("t/{name}")
}

fn also(mut answer: Answer, lines: &[(&'static str, String)]) -> Answer {
    answer.lines.extend_from_slice(lines);
    answer
}

fn preflight(shared: Vec<(&'static str, String)>) -> Answer {
    let mut answer = Answer::line(204, "");
    answer.body.clear();
    also(answer, &shared)
        .with("Access-Control-Allow-Methods", "GET, PUT, POST")
        .with(
            "Access-Control-Allow-Headers",
            "Authorization, Content-Type, Last-Event-ID, Farpipe-Producer, Farpipe-Sequence",
        )
}

/// Ready when the client has gone; what it has sent may not be read yet. Cancel safe.
async fn hung_up(io: &dyn Transport) {
    let mut look = tokio::time::interval(download::LOOK);
    loop {
        look.tick().await;
        if io.is_hung_up() {
            return;
        }
    }
}

async fn upload(foreign: Foreign, inside: &Inside, name: &str, shared: &[(&'static str, String)]) {
    let framing = Framing::of(&foreign.request);
    let waits = foreign.request.lists("Expect", "100-continue");
    let (mut io, rest) = foreign.into_io();
    let framing = match framing {
        Ok(framing) => framing,
        Err(refusal) => return refusal.send_broken(&mut *io).await,
    };
    let mut body = Body::new(io, rest, framing);
    let peer = &inside.peer;
    tracing::info!("gateway: {peer}: writes p/{name}");
    match hand_over(&mut body, inside, name, waits).await {
        Ok(handed) => {
            tracing::info!("gateway: {peer}: p/{name}: {handed} bytes handed over");
            let answer = Answer::line(200, format!("{handed} bytes handed over"));
            also(answer, shared).send(body.io()).await;
        }
        Err(failed) => {
            tracing::info!("gateway: {peer}: p/{name}: {failed}");
            let status = match &failed {
                Failed::Foreign(_) => 400,
                Failed::Taken(_) => 409,
                Failed::Far(_) | Failed::ReaderGone(_) => 502,
            };
            let answer = also(Answer::line(status, failed.to_string()), shared);
            answer.send_broken(body.io()).await;
        }
    }
}

/// Hands a body to the first reader that comes.
async fn hand_over(
    body: &mut Body,
    inside: &Inside,
    name: &str,
    waits: bool,
) -> Result<u64, Failed> {
    let left = async |body: &mut Body| hung_up(body.io()).await;
    let written = inside.writing(name, body, left, async |body, send| {
        if waits {
            body.go_on().await;
        }
        send_all(body, send).await
    });
    written.await
}

async fn download(
    foreign: Foreign,
    inside: &Inside,
    name: &str,
    shared: Vec<(&'static str, String)>,
) {
    let (io, _) = foreign.into_io();
    let peer = &inside.peer;
    tracing::info!("gateway: {peer}: reads p/{name}");
    let mut io = Some(io);
    match take_over(&mut io, inside, name, &shared).await {
        Ok(got) => tracing::info!("gateway: {peer}: p/{name}: {got} bytes handed over"),
        Err(failed) => {
            tracing::info!("gateway: {peer}: p/{name}: {failed}");
            // Nothing was answered yet.
            if let Some(mut io) = io {
                let answer = Answer::line(502, failed.to_string());
                also(answer, &shared).send_broken(&mut *io).await;
            }
        }
    }
}

/// What comes out of a pipe to a client; the answer begins when there is a writer.
async fn take_over(
    io: &mut Option<Box<dyn Transport>>,
    inside: &Inside,
    name: &str,
    shared: &[(&'static str, String)],
) -> Result<u64, Failed> {
    let read = inside.reading(name, async |mut stream, leave| {
        stream.send.finish();
        let gone = async {
            if let Some(client) = io.as_deref() {
                hung_up(client).await;
            }
        };
        tokio::select! {
            biased;
            accepted = accepted(&mut stream.watch) => accepted?,
            () = inside.going.said() => {
                leave.now();
                return Err(going_away());
            }
            () = gone => {
                let why = "peer cannot resume, 0 bytes handed over: the client left";
                stream.recv.stop(Abort::new(AbortCode::Failed, why));
                leave.now();
                return Err(Failed::Foreign(why.to_owned()));
            }
        }
        let io = io
            .take()
            .ok_or_else(|| Failed::Far("answered already".to_owned()))?;
        let mut client = Download::new(io, "application/octet-stream", shared);
        let got = recv_all(&mut client, &mut stream.recv, &mut stream.watch).await?;
        answered(&mut stream.watch).await?;
        Ok(got)
    });
    read.await
}

async fn websocket(
    foreign: Foreign,
    inside: &Inside,
    name: &str,
    direction: Direction,
    messages: Messages,
) {
    let chosen = chosen(&foreign.request);
    let peer = &inside.peer;
    let way = direction.name();
    let socket = match foreign.upgrade(messages, chosen).await {
        Ok(socket) => socket,
        Err(error) => return tracing::info!("gateway: {peer}: {error}"),
    };
    tracing::info!("gateway: {peer}: WebSocket to p/{name}, {way}");
    match socket::run(socket, inside, name, direction).await {
        Ok((sent, got)) => {
            tracing::info!("gateway: {peer}: p/{name}: {sent} bytes from it, {got} to it");
        }
        Err(failed) => tracing::info!("gateway: {peer}: p/{name}: {failed}"),
    }
}

/// The subprotocol to be answered.
fn chosen(request: &ForeignRequest) -> Option<&'static str> {
    let mut offered = request.members("Sec-WebSocket-Protocol");
    let is_offered = offered.any(|name| name == SUBPROTOCOL.as_bytes());
    is_offered.then_some(SUBPROTOCOL)
}

/// What is answered to a WebSocket that offers it: a ticket must not be repeated.
const SUBPROTOCOL: &str = "farpipe";

//! The gateway at one door: finds out who asks, and only then gives a place.
//!
//! All of that is part of the listener's handshake. So who is not let in is bounded, gives way to those
//! who wait, and is counted and told of as any peer is that a listener refuses; nobody holds a place
//! before he is known.

use std::sync::Arc;

use farpipe_net::carrier::ws::raw::{Foreign, Gateway, Taken, Unserved};
use farpipe_net::token::TokenStore;

use super::admitted::{self, LetIn, NotLetIn};
use super::answer::Answer;
use super::request::{self, Asked, Direction, GatewayConfig, What};
use super::ticket;
use super::topic::Wanted;
use super::{Commons, Visit, also, preflight, shared_with, topic, topic_ticket};
use crate::relay::Relay;

/// The gateway of one door.
#[derive(Debug)]
pub(crate) struct Front {
    pub(crate) relay: Arc<Relay>,
    pub(crate) config: Arc<GatewayConfig>,
    /// What the door takes in place of a certificate.
    pub(crate) tokens: Option<Arc<TokenStore>>,
}

impl Gateway for Front {
    fn serves(&self, target: &str) -> bool {
        target.starts_with(request::PREFIX) || target.starts_with(topic::PREFIX)
    }

    fn take(&self, foreign: Foreign) -> Taken<'_> {
        Box::pin(self.serve(foreign))
    }
}

impl Front {
    async fn serve(&self, foreign: Foreign) -> Result<(), Unserved> {
        let asked = match Asked::of(&foreign.request, &self.config, foreign.is_secure) {
            Ok(asked) => asked,
            Err(mut refusal) => {
                let why = refusal.words();
                if foreign.request.method == "HEAD" {
                    refusal.body.clear();
                }
                return Err(refuse(
                    foreign,
                    NotLetIn {
                        why,
                        answer: refusal,
                    },
                )
                .await);
            }
        };
        let shared = shared_with(asked.page.as_ref());
        if asked.what == What::Preflight {
            let (mut io, _) = foreign.into_io();
            preflight(shared).send(&mut *io).await;
            return Ok(());
        }
        let commons = self.relay.gateway();
        let let_in = match self.who(&foreign, &asked, commons).await {
            Ok(let_in) => let_in,
            Err(NotLetIn { why, answer }) => {
                let answer = also(answer, &shared);
                return Err(refuse(foreign, NotLetIn { why, answer }).await);
            }
        };
        let too_many = |foreign| {
            let answer = also(Answer::line(503, "too many requests at once"), &shared);
            refuse(foreign, answer.into())
        };
        let Some(place) = commons.places.take(let_in.who.clone()) else {
            return Err(too_many(foreign).await);
        };
        let visit = Visit {
            foreign,
            relay: Arc::clone(&self.relay),
            asked,
            let_in,
            place,
        };
        match self.relay.visited(Box::new(visit)) {
            Ok(()) => Ok(()),
            Err(visit) => Err(too_many(visit.foreign).await),
        }
    }

    /// Who a request is carried out for. A page opens a WebSocket by a ticket alone: what its
    /// browser would show for it, it shows for every page.
    async fn who(
        &self,
        foreign: &Foreign,
        asked: &Asked,
        commons: &Commons,
    ) -> Result<LetIn, NotLetIn> {
        let (what, direction) = match &asked.what {
            What::Socket(direction, _) => (asked.name.clone(), *direction),
            What::Topic(Wanted::Follow(ask)) if ask.is_socket() => {
                (topic_ticket(&asked.name), Direction::Recv)
            }
            What::Upload
            | What::Download
            | What::View
            | What::Ticket(_)
            | What::Topic(_)
            | What::Preflight => return admitted::who(foreign, self.tokens.as_ref()).await,
        };
        let mut offered = foreign.request.members("Sec-WebSocket-Protocol");
        let ticket = offered.find(|name| name.starts_with(ticket::PREFIX.as_bytes()));
        match ticket {
            Some(ticket) => {
                let redeemed = commons.tickets.redeem(ticket, &what, direction);
                let why = "the ticket is not good, or not for this: POST ?ticket makes another";
                let let_in = redeemed.ok_or_else(|| admitted::unknown(why))?;
                let_in.stands(foreign).await?;
                Ok(let_in)
            }
            None if asked.page.is_some() => {
                let why = "a page needs a ticket for a WebSocket: POST ?ticket makes one";
                Err(admitted::unknown(why).into())
            }
            None => admitted::who(foreign, self.tokens.as_ref()).await,
        }
    }
}

/// Refuses a request before its pipe is touched. What would have moved bytes is answered with a body that
/// has no end: curl takes a status for a success.
async fn refuse(foreign: Foreign, NotLetIn { why, answer }: NotLetIn) -> Unserved {
    let is_transfer = request::is_transfer(&foreign.request);
    let status = answer.status;
    let (mut io, _) = foreign.into_io();
    match is_transfer {
        true => answer.send_broken(&mut *io).await,
        false => answer.send(&mut *io).await,
    }
    Unserved { status, why }
}

//! Single-use tickets: how a web page, which cannot send a header with a WebSocket, shows that it
//! may open one. A ticket travels as a subprotocol, never in a URL, and is in no log.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use farpipe_net::Clock;
use farpipe_proto::Instant;
use farpipe_proto::limits::{GATEWAY_TICKET_FOR, GATEWAY_TICKETS_MAX};
use subtle::ConstantTimeEq as _;

use super::admitted::LetIn;
use super::request::Direction;

/// What a ticket's subprotocol begins with.
pub(super) const PREFIX: &str = "farpipe.ticket.";

const SECRET_LEN: usize = 32;

/// The tickets that were not used yet.
pub(crate) struct Tickets {
    clock: Clock,
    random: fn(&mut [u8]),
    /// Oldest first. Policy when full: the oldest is forgotten.
    issued: Mutex<Vec<Issued>>,
}

struct Issued {
    secret: [u8; SECRET_LEN],
    pipe: String,
    direction: Direction,
    let_in: LetIn,
    expires: Instant,
}

impl Tickets {
    pub(crate) fn new(clock: Clock, random: fn(&mut [u8])) -> Self {
        Self {
            clock,
            random,
            issued: Mutex::default(),
        }
    }

    /// A ticket for one WebSocket to `pipe`, in the name of who was let in: the subprotocol to offer.
    pub(super) fn issue(&self, pipe: &str, direction: Direction, let_in: LetIn) -> String {
        let mut secret = [0; SECRET_LEN];
        (self.random)(&mut secret);
        let now = self.clock.now();
        let mut issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        issued.retain(|other| now < other.expires);
        if issued.len() >= GATEWAY_TICKETS_MAX {
            issued.remove(0);
        }
        issued.push(Issued {
            secret,
            pipe: pipe.to_owned(),
            direction,
            let_in,
            expires: now + GATEWAY_TICKET_FOR,
        });
        format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(secret))
    }

    /// Who was let in that `offered` was made for, which is to be good still; `None`: the ticket is not
    /// good, or not for this. It is used up in any case.
    pub(super) fn redeem(&self, offered: &[u8], pipe: &str, direction: Direction) -> Option<LetIn> {
        let text = offered.strip_prefix(PREFIX.as_bytes())?;
        let shown = URL_SAFE_NO_PAD.decode(text).ok()?;
        let now = self.clock.now();
        let mut issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        // All are looked at: the time says nothing of which one is nearly right.
        let mut found = None;
        for (at, ticket) in issued.iter().enumerate() {
            if bool::from(ticket.secret.ct_eq(shown.as_slice())) {
                found = Some(at);
            }
        }
        let ticket = issued.remove(found?);
        let is_good = now < ticket.expires && ticket.pipe == pipe && ticket.direction == direction;
        is_good.then_some(ticket.let_in)
    }
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tickets").finish_non_exhaustive()
    }
}

/// How long a ticket is good, in seconds.
pub(super) const fn good_for() -> u64 {
    let span: Duration = GATEWAY_TICKET_FOR;
    span.as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tickets() -> Tickets {
        let clock = Clock::Tokio(tokio::time::Instant::now());
        Tickets::new(clock, farpipe_net::system_random)
    }

    #[tokio::test(start_paused = true)]
    async fn a_ticket_is_good_once_for_its_pipe_and_its_direction() {
        let tickets = tickets();
        let redeem = |text: &str, pipe, direction| {
            tickets.redeem(text.as_bytes(), pipe, direction).is_some()
        };
        let good = tickets.issue("logs", Direction::Recv, LetIn::THIS_HOST);
        assert!(redeem(&good, "logs", Direction::Recv));
        assert!(!redeem(&good, "logs", Direction::Recv), "twice");
        for (pipe, direction) in [
            ("log", Direction::Recv),
            ("logs", Direction::Send),
            ("logs", Direction::Duplex),
        ] {
            let ticket = tickets.issue("logs", Direction::Recv, LetIn::THIS_HOST);
            assert!(!redeem(&ticket, pipe, direction));
            assert!(!redeem(&ticket, "logs", Direction::Recv), "it was shown");
        }
        for other in ["", "farpipe.ticket.", "farpipe.ticket.AAAA", "farpipe"] {
            assert!(!redeem(other, "logs", Direction::Recv), "{other}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_ticket_lasts_a_minute_and_there_is_a_bound() {
        let tickets = tickets();
        let ticket = tickets.issue("logs", Direction::Send, LetIn::THIS_HOST);
        tokio::time::advance(Duration::from_secs(60)).await;
        let redeemed = tickets.redeem(ticket.as_bytes(), "logs", Direction::Send);
        assert!(redeemed.is_none());
        let first = tickets.issue("logs", Direction::Send, LetIn::THIS_HOST);
        for _ in 0..GATEWAY_TICKETS_MAX {
            tickets.issue("logs", Direction::Send, LetIn::THIS_HOST);
        }
        let issued = tickets.issued.lock().expect("no panic").len();
        assert_eq!(issued, GATEWAY_TICKETS_MAX);
        assert!(
            tickets
                .redeem(first.as_bytes(), "logs", Direction::Send)
                .is_none()
        );
        assert_eq!(format!("{tickets:?}"), "Tickets { .. }");
    }
}

//! Tickets: the first pipe between two hosts without certificates of anybody's (docs/protocol.md
//! section 4.3).
//!
//! A listener makes one and prints it; whoever has it knows which key the listener will show, and
//! a secret that the listener takes once. The secret is proven, never sent; a ticket is good for
//! one session, resumes included, and expires if nobody comes.

use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use farpipe_proto::link::{Keys, NotLetIn, Prover, SecretId};
use farpipe_proto::wire::id::SessionKey;
use sha2::{Digest as _, Sha256};
use tokio::sync::Notify;
use zeroize::Zeroizing;

use crate::clock::Clock;
use crate::secret::{LoopbackSecret, SECRET_LEN};
use crate::tls::Pin;

/// What a ticket's text begins with.
pub(crate) const PREFIX: &str = "fpt1-";
const ID_LEN: usize = 8;
const PIN_LEN: usize = 32;
const SUM_LEN: usize = 4;
const LEN: usize = ID_LEN + SECRET_LEN + PIN_LEN + SUM_LEN;
/// Tickets that were used or have expired and are remembered for a clearer refusal, beside those in
/// use. Policy when full: the oldest is forgotten, and refused as unknown.
const SPENT_MAX: usize = 64;

/// What a dialling side needs to be let in, and to know whom it talks to. Its Debug form prints
/// nothing of the secret.
#[derive(Clone)]
pub struct Ticket {
    id: [u8; ID_LEN],
    /// Once, however often the ticket is copied.
    secret: Arc<LoopbackSecret>,
    pin: Pin,
}

/// Why a text is no ticket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// It looks like something else.
    #[error("not a ticket: one begins with {PREFIX}")]
    NoTicket,
    /// A part is missing, or was changed.
    #[error("the ticket is damaged")]
    Damaged,
}

impl TicketError {
    /// What to do about it.
    #[must_use]
    pub fn hint(self) -> &'static str {
        match self {
            Self::NoTicket => "copy the one that `farpipe listen` made",
            Self::Damaged => "copy the whole of it again",
        }
    }
}

impl Ticket {
    fn new(random: fn(&mut [u8]), pin: Pin) -> Self {
        let mut id = [0; ID_LEN];
        random(&mut id);
        Self {
            id,
            secret: Arc::new(LoopbackSecret::generate(random)),
            pin,
        }
    }

    /// The key that the listener shows.
    #[must_use]
    pub fn pin(&self) -> Pin {
        self.pin
    }

    /// The text that is copied to the other host; as secret as a password.
    #[must_use]
    pub fn reveal(&self) -> Zeroizing<String> {
        // Enough room at once: what grows leaves copies behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(LEN));
        bytes.extend_from_slice(&self.id);
        bytes.extend_from_slice(self.secret.bytes());
        bytes.extend_from_slice(self.pin.digest());
        let sum = sum(&bytes);
        bytes.extend_from_slice(&sum);
        let mut text = Zeroizing::new(String::with_capacity(PREFIX.len() + 2 * LEN));
        text.push_str(PREFIX);
        URL_SAFE_NO_PAD.encode_string(bytes.as_slice(), &mut text);
        text
    }
}

pub(crate) fn sum(bytes: &[u8]) -> [u8; SUM_LEN] {
    let digest = Sha256::digest(bytes);
    std::array::from_fn(|i| digest[i])
}

impl FromStr for Ticket {
    type Err = TicketError;

    fn from_str(text: &str) -> Result<Self, TicketError> {
        let text = text.trim();
        let encoded = text.strip_prefix(PREFIX).ok_or(TicketError::NoTicket)?;
        let bytes = URL_SAFE_NO_PAD
            .decode(encoded)
            .map_err(|_| TicketError::Damaged)?;
        let bytes = Zeroizing::new(bytes);
        let (id, rest) = bytes.split_first_chunk().ok_or(TicketError::Damaged)?;
        let (secret, rest) = rest
            .split_first_chunk::<SECRET_LEN>()
            .ok_or(TicketError::Damaged)?;
        let (pin, rest) = rest
            .split_first_chunk::<PIN_LEN>()
            .ok_or(TicketError::Damaged)?;
        if rest != sum(&bytes[..bytes.len() - rest.len()]) {
            return Err(TicketError::Damaged);
        }
        Ok(Self {
            id: *id,
            secret: Arc::new(LoopbackSecret::new(*secret)),
            pin: Pin::new(*pin),
        })
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").finish_non_exhaustive()
    }
}

impl Prover for Ticket {
    fn secret(&self) -> SecretId {
        SecretId::Ticket(self.id.to_vec())
    }

    fn prove(&self, label: &str, dialling: &[u8], accepting: &[u8]) -> [u8; 32] {
        self.secret.prove(label, dialling, accepting)
    }

    fn verify(&self, label: &str, dialling: &[u8], accepting: &[u8], proof: &[u8]) -> bool {
        self.secret.verify(label, dialling, accepting, proof)
    }
}

/// The tickets of one listener.
#[derive(Debug)]
pub struct Tickets {
    pin: Pin,
    valid_for: Duration,
    clock: Clock,
    random: fn(&mut [u8]),
    issued: Mutex<Vec<Issued>>,
    /// Told when the newest ticket was claimed.
    claimed: Notify,
}

#[derive(Debug)]
struct Issued {
    ticket: Ticket,
    expires: farpipe_proto::Instant,
    fate: Claim,
}

/// Why another ticket is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UsedUp {
    /// A session was opened with the last one.
    Claimed,
    /// Nobody came in time.
    Expired,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Claim {
    Open,
    /// By a session that is not over.
    By(SessionKey),
    Spent,
}

impl Tickets {
    /// Tickets of a listener whose public key is `pin`, each to be used within `valid_for`.
    #[must_use]
    pub fn new(pin: Pin, valid_for: Duration, clock: Clock, random: fn(&mut [u8])) -> Self {
        Self {
            pin,
            valid_for,
            clock,
            random,
            issued: Mutex::default(),
            claimed: Notify::new(),
        }
    }

    /// Makes a ticket.
    #[must_use]
    pub fn issue(&self) -> Ticket {
        let ticket = Ticket::new(self.random, self.pin);
        let now = self.clock.now();
        let mut issued = self.lock();
        let is_dead = |other: &Issued| match other.fate {
            Claim::Open => now >= other.expires,
            Claim::By(_) => false,
            Claim::Spent => true,
        };
        if issued.iter().filter(|other| is_dead(other)).count() > SPENT_MAX
            && let Some(oldest) = issued.iter().position(is_dead)
        {
            issued.remove(oldest);
        }
        issued.push(Issued {
            ticket: ticket.clone(),
            expires: now + self.valid_for,
            fate: Claim::Open,
        });
        ticket
    }

    /// Ready when the ticket issued last was claimed, or has expired: time for another.
    ///
    /// # Cancellation
    /// Loses nothing: a claim is remembered until it was waited for.
    pub async fn used_up(&self) -> UsedUp {
        loop {
            let expires = match self.lock().last() {
                Some(last) if last.fate != Claim::Open => return UsedUp::Claimed,
                Some(last) if self.clock.now() < last.expires => last.expires,
                Some(_) | None => return UsedUp::Expired,
            };
            tokio::select! {
                () = self.claimed.notified() => {}
                () = tokio::time::sleep_until(self.clock.deadline(expires)) => {}
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Issued>> {
        self.issued.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The ticket of that id, if it may still open a session or resume its own.
    fn find(&self, secret: &SecretId) -> Result<Ticket, String> {
        let id = secret.ticket();
        if id.is_empty() {
            return Err(format!("a ticket is needed; {COPY}"));
        }
        let now = self.clock.now();
        let issued = self.lock();
        let Some(found) = issued.iter().find(|issued| issued.ticket.id == id) else {
            return Err(format!(
                "this ticket is not known here: it is another listener's; {COPY}"
            ));
        };
        match found.fate {
            Claim::Open if now >= found.expires => {
                Err(format!("this ticket has expired unused; {COPY}"))
            }
            Claim::Spent => Err(spent()),
            Claim::Open | Claim::By(_) => Ok(found.ticket.clone()),
        }
    }
}

/// What to do about a ticket that is no good.
const COPY: &str = "copy the newest one that `farpipe listen` made";

fn spent() -> String {
    format!("this ticket was used already, each is good for one session; {COPY}")
}

impl Keys for Tickets {
    fn prove_for(
        &self,
        secret: &SecretId,
        label: &str,
        dialling: &[u8],
        accepting: &[u8],
    ) -> Result<[u8; 32], NotLetIn> {
        let ticket = self.find(secret).map_err(NotLetIn::openly)?;
        Ok(ticket.prove(label, dialling, accepting))
    }

    fn verify_for(
        &self,
        secret: &SecretId,
        label: &str,
        dialling: &[u8],
        accepting: &[u8],
        proof: &[u8],
    ) -> Result<(), NotLetIn> {
        let ticket = self.find(secret).map_err(NotLetIn::openly)?;
        if ticket.verify(label, dialling, accepting, proof) {
            return Ok(());
        }
        let why = "the ticket's secret was not proven; copy the whole ticket";
        Err(NotLetIn::openly(why))
    }

    fn claim(&self, ticket: &[u8], session: &SessionKey) -> Result<(), String> {
        let mut issued = self.lock();
        let Some(found) = issued.iter_mut().find(|issued| issued.ticket.id == ticket) else {
            return Err(spent());
        };
        match &found.fate {
            Claim::By(owner) if owner == session => Ok(()),
            Claim::By(_) | Claim::Spent => Err(spent()),
            Claim::Open => {
                found.fate = Claim::By(*session);
                self.claimed.notify_one();
                Ok(())
            }
        }
    }

    fn release(&self, session: &SessionKey) {
        for issued in self.lock().iter_mut() {
            if issued.fate == Claim::By(*session) {
                issued.fate = Claim::Spent;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counting(bytes: &mut [u8]) {
        use std::sync::atomic::{AtomicU8, Ordering};
        static NEXT: AtomicU8 = AtomicU8::new(1);
        bytes.fill(NEXT.fetch_add(1, Ordering::Relaxed));
    }

    fn tickets() -> Tickets {
        let clock = Clock::Tokio(tokio::time::Instant::now());
        Tickets::new(Pin::new([9; 32]), Duration::from_secs(60), clock, counting)
    }

    fn proves(tickets: &Tickets, ticket: &Ticket) -> bool {
        let proof = ticket.prove("label", &[1; 32], &[2; 32]);
        tickets
            .verify_for(&ticket.secret(), "label", &[1; 32], &[2; 32], &proof)
            .is_ok()
    }

    const fn session(n: u8) -> SessionKey {
        SessionKey::new([n; 32])
    }

    #[tokio::test(start_paused = true)]
    async fn a_ticket_survives_copying_and_a_slip_is_noticed() {
        let ticket = tickets().issue();
        let text = ticket.reveal();
        let read: Ticket = format!(" {}\n", *text).parse().expect("the same");
        assert_eq!((read.id, read.pin()), (ticket.id, Pin::new([9; 32])));
        assert_eq!(
            read.prove("l", &[1; 32], &[2; 32]),
            ticket.prove("l", &[1; 32], &[2; 32])
        );
        for at in PREFIX.len()..text.len() {
            let mut slip = text.as_bytes().to_vec();
            slip[at] = if slip[at] == b'A' { b'B' } else { b'A' };
            let slip = String::from_utf8(slip).expect("ASCII");
            assert_eq!(
                slip.parse::<Ticket>().expect_err(&slip),
                TicketError::Damaged
            );
        }
        assert_eq!(
            text[..40].parse::<Ticket>().expect_err("cut"),
            TicketError::Damaged
        );
        assert_eq!(
            "hello".parse::<Ticket>().expect_err("no"),
            TicketError::NoTicket
        );
        assert_eq!(format!("{ticket:?}"), "Ticket { .. }");
    }

    #[tokio::test(start_paused = true)]
    async fn a_ticket_is_good_for_one_session_and_its_resumes() {
        let tickets = tickets();
        let ticket = tickets.issue();
        assert!(proves(&tickets, &ticket));
        tickets
            .claim(&ticket.id[..], &session(1))
            .expect("the first");
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert!(
            proves(&tickets, &ticket),
            "a resume needs it again, however late"
        );
        tickets
            .claim(&ticket.id[..], &session(1))
            .expect("its own again");
        assert_eq!(tickets.claim(&ticket.id[..], &session(2)), Err(spent()));
        tickets.release(&session(1));
        assert!(!proves(&tickets, &ticket));
        assert_eq!(tickets.claim(&ticket.id[..], &session(1)), Err(spent()));
    }

    #[tokio::test(start_paused = true)]
    async fn an_unused_ticket_expires_and_others_were_never_good() {
        let (ours, others) = (tickets(), tickets());
        let ticket = ours.issue();
        assert!(!proves(&others, &ticket));
        tokio::time::advance(Duration::from_secs(61)).await;
        assert!(!proves(&ours, &ticket));
        drop(ours.issue());
        let why = ours.find(&ticket.secret()).expect_err("expired");
        assert!(why.contains("has expired unused"), "{why}");
        assert!(
            ours.find(&SecretId::Loopback)
                .expect_err("none")
                .contains("a ticket is needed")
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_one_is_due_when_the_last_was_used_or_has_expired() {
        let tickets = tickets();
        let ticket = tickets.issue();
        tickets.claim(&ticket.id[..], &session(1)).expect("open");
        assert_eq!(tickets.used_up().await, UsedUp::Claimed);
        let begin = tokio::time::Instant::now();
        drop(tickets.issue());
        assert_eq!(tickets.used_up().await, UsedUp::Expired);
        assert_eq!(begin.elapsed().as_secs(), 60);
    }
}

//! Tickets: the first pipe between two hosts without certificates of anybody's (docs/protocol.md
//! section 4.3).
//!
//! A listener makes one and prints it; whoever has it knows which key the listener will show, and
//! a secret that the listener takes once. The secret is proven, never sent; a ticket is good for
//! one session, resumes included, and expires if nobody comes.

use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use farpipe_proto::link::{Keys, Prover};
use farpipe_proto::wire::id::SessionKey;
use sha2::{Digest as _, Sha256};
use tokio::sync::Notify;

use crate::clock::Clock;
use crate::secret::LoopbackSecret;

/// What a ticket's text begins with.
const PREFIX: &str = "fpt1-";
const ID_LEN: usize = 8;
const SECRET_LEN: usize = 32;
const PIN_LEN: usize = 32;
const SUM_LEN: usize = 4;
/// Tickets that were used and are remembered for a clearer refusal, beside those in use. Policy
/// when full: the oldest is forgotten, and refused as unknown.
const SPENT_MAX: usize = 64;

/// The SHA-256 of a public key, as SubjectPublicKeyInfo.
pub type Pin = [u8; PIN_LEN];

/// What a dialling side needs to be let in, and to know whom it talks to. Its Debug form prints
/// nothing of the secret.
#[derive(Clone)]
pub struct Ticket {
    id: [u8; ID_LEN],
    secret: LoopbackSecret,
    secret_bytes: [u8; SECRET_LEN],
    pin: Pin,
}

/// Why a text is no ticket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// It looks like something else.
    #[error("not a ticket: one begins with {PREFIX}")]
    NoTicket,
    /// A part is missing, or was changed.
    #[error("the ticket is damaged: copy the whole of it again")]
    Damaged,
}

impl Ticket {
    fn new(random: fn(&mut [u8]), pin: Pin) -> Self {
        let (mut id, mut secret) = ([0; ID_LEN], [0; SECRET_LEN]);
        random(&mut id);
        random(&mut secret);
        Self {
            id,
            secret: LoopbackSecret::new(secret),
            secret_bytes: secret,
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
    pub fn reveal(&self) -> String {
        let mut bytes = Vec::with_capacity(ID_LEN + SECRET_LEN + PIN_LEN + SUM_LEN);
        bytes.extend_from_slice(&self.id);
        bytes.extend_from_slice(&self.secret_bytes);
        bytes.extend_from_slice(&self.pin);
        let sum = sum(&bytes);
        bytes.extend_from_slice(&sum);
        format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    }
}

fn sum(bytes: &[u8]) -> [u8; SUM_LEN] {
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
        let (id, rest) = bytes.split_first_chunk().ok_or(TicketError::Damaged)?;
        let (secret, rest) = rest.split_first_chunk().ok_or(TicketError::Damaged)?;
        let (pin, rest) = rest.split_first_chunk().ok_or(TicketError::Damaged)?;
        if rest != sum(&bytes[..bytes.len() - rest.len()]) {
            return Err(TicketError::Damaged);
        }
        Ok(Self {
            id: *id,
            secret: LoopbackSecret::new(*secret),
            secret_bytes: *secret,
            pin: *pin,
        })
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").finish_non_exhaustive()
    }
}

impl Prover for Ticket {
    fn ticket(&self) -> &[u8] {
        &self.id
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

    /// Makes a ticket. What expired unused is forgotten.
    #[must_use]
    pub fn issue(&self) -> Ticket {
        let ticket = Ticket::new(self.random, self.pin);
        let now = self.clock.now();
        let mut issued = self.lock();
        issued.retain(|other| other.fate != Claim::Open || now < other.expires);
        let spent = issued.iter().filter(|i| i.fate == Claim::Spent).count();
        if spent > SPENT_MAX
            && let Some(oldest) = issued.iter().position(|i| i.fate == Claim::Spent)
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
    pub async fn used_up(&self) {
        let expires = self.lock().last().map(|issued| issued.expires);
        let Some(expires) = expires else { return };
        tokio::select! {
            () = self.claimed.notified() => {}
            () = tokio::time::sleep_until(self.clock.deadline(expires)) => {}
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Issued>> {
        self.issued.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The ticket of that id, if it may still open a session or resume its own.
    fn find(&self, id: &[u8]) -> Result<Ticket, String> {
        if id.is_empty() {
            return Err(
                "a ticket is needed: copy the line that `farpipe listen` printed".to_owned(),
            );
        }
        let now = self.clock.now();
        let issued = self.lock();
        let Some(found) = issued.iter().find(|issued| issued.ticket.id == id) else {
            return Err(
                "this ticket is not known here: it expired unused, or is another listener's"
                    .to_owned(),
            );
        };
        match found.fate {
            Claim::Open if now >= found.expires => {
                Err("this ticket has expired; the listener has printed a new one".to_owned())
            }
            Claim::Spent => Err(SPENT.to_owned()),
            Claim::Open | Claim::By(_) => Ok(found.ticket.clone()),
        }
    }
}

const SPENT: &str = "this ticket was used already: each is good for one session";

impl Keys for Tickets {
    fn prove_for(
        &self,
        ticket: &[u8],
        label: &str,
        dialling: &[u8],
        accepting: &[u8],
    ) -> Result<[u8; 32], String> {
        Ok(self.find(ticket)?.prove(label, dialling, accepting))
    }

    fn verify_for(
        &self,
        ticket: &[u8],
        label: &str,
        dialling: &[u8],
        accepting: &[u8],
        proof: &[u8],
    ) -> bool {
        self.find(ticket)
            .is_ok_and(|ticket| ticket.verify(label, dialling, accepting, proof))
    }

    fn claim(&self, ticket: &[u8], session: &SessionKey) -> Result<(), String> {
        let mut issued = self.lock();
        let Some(found) = issued.iter_mut().find(|issued| issued.ticket.id == ticket) else {
            return Err(SPENT.to_owned());
        };
        match &found.fate {
            Claim::By(owner) if owner == session => Ok(()),
            Claim::By(_) | Claim::Spent => Err(SPENT.to_owned()),
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
        Tickets::new([9; 32], Duration::from_secs(60), clock, counting)
    }

    fn proves(tickets: &Tickets, ticket: &Ticket) -> bool {
        let proof = ticket.prove("label", &[1; 32], &[2; 32]);
        tickets.verify_for(ticket.ticket(), "label", &[1; 32], &[2; 32], &proof)
    }

    const fn session(n: u8) -> SessionKey {
        SessionKey::new([n; 32])
    }

    #[tokio::test(start_paused = true)]
    async fn a_ticket_survives_copying_and_a_slip_is_noticed() {
        let ticket = tickets().issue();
        let text = ticket.reveal();
        let read: Ticket = format!(" {text}\n").parse().expect("the same");
        assert_eq!((read.id, read.pin()), (ticket.id, [9; 32]));
        assert_eq!(
            read.prove("l", &[1; 32], &[2; 32]),
            ticket.prove("l", &[1; 32], &[2; 32])
        );
        for at in PREFIX.len()..text.len() {
            let mut slip = text.clone().into_bytes();
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
            .claim(ticket.ticket(), &session(1))
            .expect("the first");
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert!(
            proves(&tickets, &ticket),
            "a resume needs it again, however late"
        );
        tickets
            .claim(ticket.ticket(), &session(1))
            .expect("its own again");
        assert_eq!(
            tickets.claim(ticket.ticket(), &session(2)),
            Err(SPENT.to_owned())
        );
        tickets.release(&session(1));
        assert!(!proves(&tickets, &ticket));
        assert_eq!(
            tickets.claim(ticket.ticket(), &session(1)),
            Err(SPENT.to_owned())
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_unused_ticket_expires_and_others_were_never_good() {
        let (ours, others) = (tickets(), tickets());
        let ticket = ours.issue();
        assert!(!proves(&others, &ticket));
        tokio::time::advance(Duration::from_secs(61)).await;
        assert!(!proves(&ours, &ticket));
        assert!(
            ours.find(&[])
                .expect_err("none")
                .contains("a ticket is needed")
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_one_is_due_when_the_last_was_used_or_has_expired() {
        let tickets = tickets();
        let ticket = tickets.issue();
        tickets.claim(ticket.ticket(), &session(1)).expect("open");
        tickets.used_up().await;
        let begin = tokio::time::Instant::now();
        drop(tickets.issue());
        tickets.used_up().await;
        assert_eq!(begin.elapsed().as_secs(), 60);
    }
}

//! A host by name, through whichever relay of a list knows it.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::opener::{Dial, DialError, Dialled};
use crate::tcp::TcpDial;

/// Dials the relays of a list in turn, and asks there for one host.
///
/// It stays with a relay that was of use. One that cannot be reached is passed over within the same
/// attempt; one that does not know the host, or is going away, when the session says so.
#[derive(Debug)]
pub struct RelayDial<D = TcpDial> {
    host: String,
    relays: Vec<D>,
    /// Whose turn it is, counted on and on.
    at: AtomicUsize,
    /// Relays that were of no use since one was tried that the session had not given up.
    useless: AtomicUsize,
}

impl<D: Dial> RelayDial<D> {
    /// Asks for `host` at the first of `relays` that knows it.
    ///
    /// # Panics
    /// Without any relay: an error of the caller.
    #[must_use]
    pub fn new(host: String, relays: Vec<D>) -> Self {
        assert!(!relays.is_empty(), "no relay to ask for {host}");
        Self {
            host,
            relays,
            at: AtomicUsize::new(0),
            useless: AtomicUsize::new(0),
        }
    }

    fn relay(&self) -> &D {
        let at = self.at.load(Ordering::Relaxed);
        &self.relays[at % self.relays.len()]
    }

    async fn walk(&self) -> Result<Box<dyn crate::carrier::Carrier>, DialError> {
        let mut first: Option<DialError> = None;
        for _ in &self.relays {
            let error = match self.relay().dial().await {
                Ok(carrier) => return Ok(carrier),
                Err(error) => error,
            };
            if self.relays.len() > 1 {
                tracing::info!("{error}");
                self.at.fetch_add(1, Ordering::Relaxed);
            }
            first = Some(match first {
                None => error,
                Some(first) => worse(first, error),
            });
        }
        // The loop ran: there is a relay.
        Err(first.map_or_else(|| unreachable!("a relay was dialled"), advised))
    }
}

/// Both relays failed. What a retry cannot help at one may be no matter at the other.
fn worse(first: DialError, second: DialError) -> DialError {
    let blame = match (first.blame, second.blame) {
        (one, other) if one == other => one,
        (crate::Blame::Final | crate::Blame::Stranger, other) => other,
        (one, _) => one,
    };
    DialError {
        blame,
        message: format!("{}; {}", first.message, second.message),
        advice: first.advice.or(second.advice),
    }
}

/// What helps is a relay, not a listener.
fn advised(error: DialError) -> DialError {
    DialError {
        advice: error
            .advice
            .map(|_| "start `farpipe relay` there".to_owned()),
        ..error
    }
}

impl<D: Dial> Dial for RelayDial<D> {
    fn dial(&self) -> Dialled<'_> {
        Box::pin(self.walk())
    }

    fn peer(&self) -> String {
        self.relay().peer()
    }

    fn route(&self) -> String {
        self.host.clone()
    }

    fn elsewhere(&self) -> bool {
        self.at.fetch_add(1, Ordering::Relaxed);
        let useless = self.useless.fetch_add(1, Ordering::Relaxed) + 1;
        if useless < self.relays.len() {
            return true;
        }
        // Once around; the next round begins with the next attempt.
        self.useless.store(0, Ordering::Relaxed);
        false
    }
}

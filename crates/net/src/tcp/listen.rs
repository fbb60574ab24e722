//! Listening: each connection goes through what its URL has below the handshake, and is told of when
//! it is refused.

mod before;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use farpipe_proto::limits::HANDSHAKE_STEP;
use tokio::net::{TcpListener, TcpStream};

use super::{Frames, Scheme, Transport, Url, tls_blame, tls_words, tune_carrier};
use crate::admission::{Admission, AdmissionError};
use crate::carrier::ws::raw::{self, Arrived, Foreign, Gateway};
use crate::carrier::ws::upgrade::{self, Entered};
use crate::carrier::{Carrier, fp};
use crate::entrance::Entrance;
use crate::handshakes::{Handshakes, Known, Turn};
use crate::link::HandshakeError;
use crate::opener::Blame;
use crate::peer::Peer;
use crate::penalties::Penalties;
use crate::refusals::Refusals;
use crate::tls::TlsServer;

pub use before::ProxyBefore;

/// Wait after an accept that failed for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Why listening is not possible.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {url}: {what}")]
pub struct ListenError {
    url: Url,
    what: String,
    hint: Option<&'static str>,
}

impl ListenError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        self.hint
    }
}

/// A listening socket for one URL.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
    url: Url,
    entry: Arc<Entry>,
}

/// What every connection has to pass.
#[derive(Debug)]
struct Entry {
    scheme: Scheme,
    tls: Option<TlsServer>,
    admission: Admission,
    /// Only if connections of this scheme come by it.
    before: Option<ProxyBefore>,
    refusals: Refusals,
    penalties: Penalties,
}

impl Listener {
    /// Binds; port 0 picks a free one, which [`Listener::url`] tells.
    ///
    /// # Errors
    /// [`ListenError`]: not loopback, in use, not permitted, not resolvable.
    pub async fn bind(url: Url) -> Result<Self, ListenError> {
        Self::bind_with(url, None, false, None).await
    }

    /// As [`Listener::bind`], with TLS where the scheme has it: then on any address. Tokens let in as
    /// well, or nothing but what the scheme and the TLS ask for. What comes by a proxy is taken for
    /// strangers' ([`Admission::wanted`]).
    ///
    /// # Errors
    /// As there, and if nothing would keep strangers out.
    pub async fn bind_with(
        url: Url,
        tls: Option<TlsServer>,
        takes_tokens: bool,
        before: Option<ProxyBefore>,
    ) -> Result<Self, ListenError> {
        let fail = |what: String| ListenError {
            url: url.clone(),
            what,
            hint: None,
        };
        let admission = Admission::wanted(url.scheme, tls.as_ref(), takes_tokens, before.as_ref())
            .map_err(|error: AdmissionError| {
                let hint = Some(error.hint());
                ListenError {
                    hint,
                    ..fail(error.to_string())
                }
            })?;
        let entry = Arc::new(Entry {
            scheme: url.scheme,
            tls,
            admission,
            before: before.filter(|before| before.is_before(url.scheme)),
            refusals: Refusals::default(),
            penalties: Penalties::default(),
        });
        let addresses = url.addresses().await.map_err(|e| {
            fail(match e.blame {
                Blame::Final => "without TLS only loopback addresses are allowed".to_owned(),
                _ => e.message,
            })
        })?;
        let listener =
            TcpListener::bind(addresses.as_slice())
                .await
                .map_err(|e| match e.kind() {
                    io::ErrorKind::AddrInUse => fail(format!(
                        "another process listens on port {}; choose another, or 0 for any",
                        url.port
                    )),
                    io::ErrorKind::PermissionDenied => fail(format!(
                        "port {} needs privileges; choose one above 1023",
                        url.port
                    )),
                    _ => fail(e.to_string()),
                })?;
        let port = listener
            .local_addr()
            .map_err(|e| fail(e.to_string()))?
            .port();
        Ok(Self {
            listener,
            url: url.with_port(port),
            entry,
        })
    }

    /// What to give to `connect`.
    #[must_use]
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// Accepts connections for ever and hands them to `acceptor`.
    ///
    /// # Cancellation
    /// Dropping it closes the socket and every connection still in its handshake; sessions go on.
    ///
    /// # Panics
    /// If `acceptor` does not ask for the secret that keeps strangers out here.
    pub async fn serve<E: Entrance>(self, acceptor: Arc<E>) {
        assert!(
            self.entry.admission.is_kept_by(acceptor.greeting()),
            "{} would let in everybody",
            self.url
        );
        let mut handshakes = Handshakes::default();
        loop {
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, from)) => {
                        let peer = Peer::at(from);
                        if !self.entry.admits(&peer) {
                            continue;
                        }
                        if let Some(peer) = handshakes.come(peer, (stream, from)) {
                            let refusals = &self.entry.refusals;
                            refusals.tell(format_args!("{peer}: closed: too many wait"));
                        }
                    }
                    Err(error) => {
                        // EMFILE and the like pass; one broken connection is no reason to stop.
                        let refusals = &self.entry.refusals;
                        refusals.tell(format_args!("cannot accept a connection: {error}"));
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                Turn { peer, what: (stream, from), taken } = handshakes.next() => {
                    let known = Known::default();
                    let entry = Arc::clone(&self.entry);
                    let acceptor = Arc::clone(&acceptor);
                    let arriving = (stream, from, peer.clone());
                    let handshake = handshake(arriving, known.clone(), entry, acceptor);
                    handshakes.spawn((peer, taken), known, handshake);
                }
            }
        }
    }
}

async fn handshake<E: Entrance>(
    (mut stream, from, peer): (TcpStream, SocketAddr, Peer),
    known: Known,
    entry: Arc<Entry>,
    acceptor: Arc<E>,
) {
    tune_carrier(&stream);
    if entry.tls.is_none() && !from.ip().is_loopback() {
        let refusals = &entry.refusals;
        refusals.tell(format_args!("{peer}: not on this host, refused"));
        return;
    }
    if let Err(why) = entry.forwarded(&mut stream, from, &peer).await {
        entry.refusals.tell(format_args!("{peer}: {why}"));
        return;
    }
    // The proxy has passed; whom it speaks for may not.
    if entry.before.is_some() && !entry.admits(&peer) {
        return;
    }
    if let Err(error) = entry.serve(stream, &peer, &known, &*acceptor).await {
        entry.penalties.count(&peer, &error);
        match error.step() {
            None if matches!(error, HandshakeError::Foreign) => {}
            Some(step) => entry.refusals.tell(format_args!("{peer}: {step}: {error}")),
            None => tracing::info!("{peer}: {error}"),
        }
    }
}

impl Entry {
    /// Whether anything is spent on a connection of this source.
    fn admits(&self, peer: &Peer) -> bool {
        let is_admitted = self.penalties.admits(peer);
        if !is_admitted {
            let refusals = &self.refusals;
            refusals.tell(format_args!("{peer}: closed: it has failed too often"));
        }
        is_admitted
    }

    /// Learns whose connection it is, where a proxy says so in front of it.
    async fn forwarded(
        &self,
        stream: &mut TcpStream,
        from: SocketAddr,
        peer: &Peer,
    ) -> Result<(), String> {
        let Some(before) = &self.before else {
            return Ok(());
        };
        if !before.is_at(from.ip()) {
            return Err("not the proxy, refused".to_owned());
        }
        if matches!(before, ProxyBefore::Http) {
            return Ok(());
        }
        let header = before::of_connection(stream);
        let said = tokio::time::timeout(HANDSHAKE_STEP, header).await;
        let said = said.map_err(|_| HandshakeError::TimedOut.to_string())?;
        if let Some(whose) = said.map_err(|error| error.to_string())? {
            peer.forwarded(whose);
        }
        Ok(())
    }

    /// Takes a fresh connection to its session; all that comes before has one deadline.
    async fn serve(
        &self,
        stream: impl Connection,
        peer: &Peer,
        known: &Known,
        acceptor: &impl Entrance,
    ) -> Result<(), HandshakeError> {
        let carrier = self.carrier(stream, peer, known, acceptor.gateway());
        acceptor.serve(carrier, peer.clone()).await
    }

    /// The carrier on a fresh connection.
    async fn carrier(
        &self,
        stream: impl Connection,
        peer: &Peer,
        known: &Known,
        gateway: Option<&dyn Gateway>,
    ) -> Result<Box<dyn Carrier>, HandshakeError> {
        let arrived = |shown| Arrived {
            peer: peer.clone(),
            shown,
            // Who comes by a proxy is a stranger to this host, and the proxy is what has ended TLS.
            is_secure: self.tls.is_some() || self.before.is_some(),
        };
        let Some(tls) = &self.tls else {
            return self.framed(stream, arrived(None), gateway).await;
        };
        let shaken = tokio::time::timeout(HANDSHAKE_STEP, tls.accept(stream)).await;
        let (stream, told) = shaken
            .map_err(|_| HandshakeError::TimedOut)?
            .map_err(|error| match tls_blame(&error) {
                Blame::Reset => HandshakeError::TlsCut(tls_words(&error)),
                _ => HandshakeError::Tls(tls_words(&error)),
            })?;
        tracing::info!("{peer}: {told}");
        if !self.admission.admits(told.peer.as_ref()) {
            return Err(HandshakeError::Tls("it showed no certificate".to_owned()));
        }
        if self.admission.is_shown_by_transport(told.peer.as_ref()) {
            known.set();
        }
        self.framed(stream, arrived(told.peer), gateway).await
    }

    async fn framed<S: Connection>(
        &self,
        stream: S,
        arrived: Arrived,
        gateway: Option<&dyn Gateway>,
    ) -> Result<Box<dyn Carrier>, HandshakeError> {
        if self.scheme.frames() == Frames::Farpipe {
            return Ok(Box::new(fp::start(stream).with_peer(arrived.shown)));
        }
        let is_foreign = |head: &[u8]| {
            if matches!(self.before, Some(ProxyBefore::Http))
                && let Some(whose) = before::of_request(head)
            {
                arrived.peer.forwarded(whose);
            }
            gateway.is_some_and(|gateway| raw::is_served(gateway, head))
        };
        match upgrade::enter(stream, is_foreign).await? {
            Entered::Farpipe(carrier) => Ok(Box::new(carrier.with_peer(arrived.shown))),
            Entered::Foreign { stream, seen, head } => {
                let foreign = Foreign::new(Box::new(stream), seen, head, arrived);
                if let (Some(foreign), Some(gateway)) = (foreign, gateway) {
                    gateway.take(foreign).await?;
                }
                Err(HandshakeError::Foreign)
            }
        }
    }
}

/// What a connection can stand on, whoever is at its other end.
trait Connection: Transport + raw::Transport {}

impl<S: Transport + raw::Transport> Connection for S {}

#[cfg(test)]
mod tests;

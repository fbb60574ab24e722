//! rustls' unbuffered connections, client's and server's, as one machine that shakes hands: bytes
//! in, bytes out. No I/O, no waiting.
//!
//! rustls reports one step at a time. Once it has nothing left to say and shakes hands no more, what
//! follows in the input is the record layer's ([`Records`]): nothing of it may have been looked at,
//! so whether the handshake is over is asked before every step.

use std::sync::Arc;

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use rustls::{ClientConfig, CommonState, HandshakeKind, ServerConfig};

use super::buffer::Buffer;
use super::error::{Peer, TlsError};
use super::records::{Kernel, Records};

/// What one step was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Data of the peer was handed on.
    Data,
    /// Something of TLS itself was read, or put into the output.
    Control,
    /// More input is needed.
    Idle,
    /// The peer said that it sends no more.
    PeerClosed,
}

/// One end of a TLS connection, until both ends know each other.
pub(super) enum Machine {
    Client(Box<UnbufferedClientConnection>),
    Server(Box<UnbufferedServerConnection>),
}

/// What a handshake came to.
pub(super) struct Agreed {
    /// The certificate that the peer showed, now or when the session began that is resumed.
    pub(super) leaf: Option<CertificateDer<'static>>,
    /// It, and those above it that the peer showed.
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) resumed: bool,
}

/// What the two kinds of connection have in common and rustls has no trait for.
trait Process {
    type Data;

    fn process<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
}

impl Process for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn process<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(input)
    }
}

impl Process for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn process<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(input)
    }
}

impl Machine {
    /// The dialling end. The configuration must allow that its secrets are extracted.
    pub(super) fn client(
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> Result<Self, rustls::Error> {
        let client = UnbufferedClientConnection::new(config, name)?;
        Ok(Self::Client(Box::new(client)))
    }

    /// The accepting end, likewise.
    pub(super) fn server(config: Arc<ServerConfig>) -> Result<Self, rustls::Error> {
        let server = UnbufferedServerConnection::new(config)?;
        Ok(Self::Server(Box::new(server)))
    }

    fn state(&self) -> &CommonState {
        match self {
            Self::Client(client) => client,
            Self::Server(server) => server,
        }
    }

    /// Who is at the other end.
    pub(super) fn peer(&self) -> Peer {
        match self {
            Self::Client(_) => Peer::Server,
            Self::Server(_) => Peer::Client,
        }
    }

    /// Whether the rest is the record layer's. The output may still have to be sent.
    pub(super) fn is_done(&self) -> bool {
        !self.state().is_handshaking() && !self.state().wants_write()
    }

    /// One step: consumes input, gives data to `take`, appends to the output. After an error the
    /// alert that says so, if there is one, is in the output.
    pub(super) fn step(
        &mut self,
        input: &mut Buffer,
        output: &mut Buffer,
        take: &mut dyn FnMut(&[u8]),
    ) -> Result<Step, TlsError> {
        let len = input.len();
        let (discard, result) = self.process(input.front_mut(len), output, take);
        input.consume(discard.min(len));
        result.map_err(|error| {
            self.fetch_alert(input, output);
            TlsError::new(self.peer(), error)
        })
    }

    /// The connection that was agreed on.
    pub(super) fn open(self) -> Result<(Records, Agreed), TlsError> {
        let (peer, state) = (self.peer(), self.state());
        let chain = state.peer_certificates().unwrap_or_default();
        let chain: Vec<_> = chain
            .iter()
            .cloned()
            .map(CertificateDer::into_owned)
            .collect();
        let agreed = Agreed {
            leaf: chain.first().cloned(),
            chain,
            resumed: state.handshake_kind() == Some(HandshakeKind::Resumed),
        };
        let parts = match self {
            Self::Client(client) => client
                .dangerous_into_kernel_connection()
                .map(|(secrets, kernel)| (secrets, Kernel::Client(kernel))),
            Self::Server(server) => server
                .dangerous_into_kernel_connection()
                .map(|(secrets, kernel)| (secrets, Kernel::Server(kernel))),
        };
        let records = parts.and_then(|(secrets, kernel)| Records::new(secrets, kernel));
        records
            .map(|records| (records, agreed))
            .map_err(|error| TlsError::new(peer, error))
    }

    fn process(
        &mut self,
        input: &mut [u8],
        output: &mut Buffer,
        take: &mut dyn FnMut(&[u8]),
    ) -> (usize, Result<Step, rustls::Error>) {
        match self {
            Self::Client(client) => handle(client.process(input), output, take),
            Self::Server(server) => handle(server.process(input), output, take),
        }
    }

    fn fetch_alert(&mut self, input: &mut Buffer, output: &mut Buffer) {
        // What is to be sent comes before any further look at the input, which would be the same
        // error again.
        while self.state().wants_write() {
            let len = input.len();
            let (_, fetched) = self.process(input.front_mut(len), output, &mut |_| {});
            if fetched.is_err() {
                return;
            }
        }
    }
}

/// Does one step's work. Returns the bytes of input that are done with.
fn handle<D>(
    status: UnbufferedStatus<'_, '_, D>,
    output: &mut Buffer,
    take: &mut dyn FnMut(&[u8]),
) -> (usize, Result<Step, rustls::Error>) {
    let UnbufferedStatus { mut discard, state } = status;
    let step = match state {
        Err(error) => Err(error),
        Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
            match traffic.next_record() {
                None => break Ok(Step::Data),
                Some(Err(error)) => break Err(error),
                Some(Ok(record)) => {
                    take(record.payload);
                    discard += record.discard;
                }
            }
        },
        Ok(ConnectionState::EncodeTlsData(mut data)) => {
            encode(output, |room| data.encode(room)).map(|()| Step::Control)
        }
        Ok(ConnectionState::TransmitTlsData(sent)) => {
            // The output is sent in order whatever happens; nothing waits for it here.
            sent.done();
            Ok(Step::Control)
        }
        Ok(ConnectionState::PeerClosed) => Ok(Step::PeerClosed),
        Ok(
            ConnectionState::BlockedHandshake
            | ConnectionState::WriteTraffic(_)
            | ConnectionState::Closed,
        ) => Ok(Step::Idle),
        Ok(state) => Err(rustls::Error::General(format!(
            "TLS is in an unexpected state: {state:?}"
        ))),
    };
    (discard, step)
}

/// Lets rustls append something to the output, which grows for it: what it says by itself is
/// bounded, and the order of records must be kept.
fn encode(
    output: &mut Buffer,
    mut encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
) -> Result<(), rustls::Error> {
    loop {
        match encode(output.room_mut()) {
            Ok(len) => {
                output.commit(len);
                return Ok(());
            }
            Err(EncodeError::InsufficientSize(size)) => output.reserve(size.required_size),
            Err(EncodeError::AlreadyEncoded) => return Ok(()),
        }
    }
}

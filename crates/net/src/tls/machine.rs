//! rustls' unbuffered connections, client's and server's, as one machine: bytes in, bytes out.
//!
//! No I/O, no waiting. Three things about rustls are relied upon and hidden here. It reports one
//! step at a time, and some steps only once (that the peer closed). While part of a handshake
//! message is in the input it keeps positions in it, so it must be given the same bytes again, also
//! by a caller that only wants to write: [`Machine::seen`] says how many. And after an error the
//! alert for the peer still has to be fetched.

use std::io::IoSlice;
use std::sync::Arc;

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::pki_types::ServerName;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};
use rustls::{ClientConfig, CommonState, ServerConfig};

use super::buffer::Buffer;
use super::error::{Peer, TlsError};

/// Most plaintext in one record (RFC 8446 section 5.1).
pub(super) const RECORD_PLAIN_MAX: usize = 16 << 10;

/// What a record adds to its plaintext: header, inner content type, tag (RFC 8446 section 5.2).
const RECORD_OVERHEAD: usize = 5 + 1 + 16;

/// Room left for what rustls wants to say before our data: a key update.
const RESERVE: usize = 1 << 10;

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

/// One end of a TLS connection.
pub(super) struct Machine {
    inner: Inner,
    /// Bytes at the front of the input that rustls may have looked at and not released.
    seen: usize,
    /// The peer's close_notify was reported and not yet handed on.
    peer_closed: bool,
    /// Data that was decrypted when one wanted to write: there is no telling rustls not to. At most
    /// what the input held.
    early: Vec<u8>,
}

enum Inner {
    Client(Box<UnbufferedClientConnection>),
    Server(Box<UnbufferedServerConnection>),
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
    /// The dialling end.
    pub(super) fn client(
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> Result<Self, rustls::Error> {
        let inner = UnbufferedClientConnection::new(config, name)?;
        Ok(Self::new(Inner::Client(Box::new(inner))))
    }

    /// The accepting end.
    pub(super) fn server(config: Arc<ServerConfig>) -> Result<Self, rustls::Error> {
        let inner = UnbufferedServerConnection::new(config)?;
        Ok(Self::new(Inner::Server(Box::new(inner))))
    }

    fn new(inner: Inner) -> Self {
        Self {
            inner,
            seen: 0,
            peer_closed: false,
            early: Vec::new(),
        }
    }

    /// What was negotiated.
    pub(super) fn state(&self) -> &CommonState {
        match &self.inner {
            Inner::Client(client) => client,
            Inner::Server(server) => server,
        }
    }

    /// Who is at the other end.
    pub(super) fn peer(&self) -> Peer {
        match &self.inner {
            Inner::Client(_) => Peer::Server,
            Inner::Server(_) => Peer::Client,
        }
    }

    /// One step: consumes input, gives data to `take`, appends to the output. After an error the
    /// alert that says so, if there is one, is in the output.
    pub(super) fn step(
        &mut self,
        input: &mut Buffer,
        output: &mut Buffer,
        take: &mut dyn FnMut(&[u8]),
    ) -> Result<Step, TlsError> {
        if !self.early.is_empty() {
            take(&std::mem::take(&mut self.early));
            return Ok(Step::Data);
        }
        if std::mem::take(&mut self.peer_closed) {
            return Ok(Step::PeerClosed);
        }
        let peer = self.peer();
        let len = input.len();
        let (discard, result) = match &mut self.inner {
            Inner::Client(client) => handle(client.process(input.front_mut(len)), output, take),
            Inner::Server(server) => handle(server.process(input.front_mut(len)), output, take),
        };
        input.consume(discard.min(len));
        match result {
            Ok(step) => {
                // After data there is no handshake message under way: the two are not mixed.
                self.seen = match step {
                    Step::Data => 0,
                    Step::Control | Step::Idle | Step::PeerClosed => input.len(),
                };
                Ok(step)
            }
            Err(error) => {
                self.seen = input.len();
                self.fetch_alert(input, output);
                Err(TlsError::new(peer, error))
            }
        }
    }

    /// Encrypts as much of `data` as the output has room for, and says how much.
    pub(super) fn seal(
        &mut self,
        input: &mut Buffer,
        output: &mut Buffer,
        data: &[IoSlice<'_>],
    ) -> Result<usize, TlsError> {
        self.when_writable(input, output, &mut |write, output| write.seal(output, data))
    }

    /// Appends close_notify: this end sends no more.
    pub(super) fn close(
        &mut self,
        input: &mut Buffer,
        output: &mut Buffer,
    ) -> Result<(), TlsError> {
        self.when_writable(input, output, &mut |write, output| {
            output.reserve(RESERVE);
            write.close(output).map(|()| 0)
        })
        .map(drop)
    }

    /// Changes the keys of this end, and asks for the peer's to be changed.
    #[cfg(test)]
    pub(super) fn refresh_keys(&mut self, input: &mut Buffer, output: &mut Buffer) {
        self.seal(input, output, &[]).expect("it can be written");
        let seen = input.front_mut(self.seen);
        let refreshed = match &mut self.inner {
            Inner::Client(client) => match client.process(seen).state {
                Ok(ConnectionState::WriteTraffic(write)) => write.refresh_traffic_keys(),
                state => panic!("{state:?}"),
            },
            Inner::Server(server) => match server.process(seen).state {
                Ok(ConnectionState::WriteTraffic(write)) => write.refresh_traffic_keys(),
                state => panic!("{state:?}"),
            },
        };
        refreshed.expect("the handshake is over");
    }

    fn when_writable(
        &mut self,
        input: &mut Buffer,
        output: &mut Buffer,
        work: &mut Work<'_>,
    ) -> Result<usize, TlsError> {
        let peer = self.peer();
        loop {
            // Not more than it may have seen: it would decrypt data that nobody wants now.
            let seen = input.front_mut(self.seen);
            let early = &mut self.early;
            let (discard, result) = match &mut self.inner {
                Inner::Client(client) => write(client.process(seen), output, early, work),
                Inner::Server(server) => write(server.process(seen), output, early, work),
            };
            let discard = discard.min(self.seen);
            input.consume(discard);
            self.seen -= discard;
            match result.map_err(|error| TlsError::new(peer, error))? {
                Written::Done(len) => return Ok(len),
                Written::PeerClosed => self.peer_closed = true,
                Written::NotYet => {}
            }
        }
    }

    fn fetch_alert(&mut self, input: &mut Buffer, output: &mut Buffer) {
        // What is to be sent comes before any further look at the input, which is not to be had: it
        // would be the same error again.
        while self.state().wants_write() {
            let seen = input.front_mut(self.seen);
            let fetched = match &mut self.inner {
                Inner::Client(client) => handle(client.process(seen), output, &mut |_| {}).1,
                Inner::Server(server) => handle(server.process(seen), output, &mut |_| {}).1,
            };
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
        Ok(state) => Err(unexpected(&state)),
    };
    (discard, step)
}

/// How far a wish to write came.
enum Written {
    Done(usize),
    PeerClosed,
    NotYet,
}

/// What is done once rustls takes data.
type Work<'a> = dyn FnMut(&mut dyn Write, &mut Buffer) -> Result<usize, rustls::Error> + 'a;

/// [`rustls::unbuffered::WriteTraffic`] of either kind.
trait Write {
    fn seal(&mut self, output: &mut Buffer, data: &[IoSlice<'_>]) -> Result<usize, rustls::Error>;

    fn close(&mut self, output: &mut Buffer) -> Result<(), rustls::Error>;
}

impl<D> Write for rustls::unbuffered::WriteTraffic<'_, D> {
    fn seal(&mut self, output: &mut Buffer, data: &[IoSlice<'_>]) -> Result<usize, rustls::Error> {
        let mut sealed = 0;
        for slice in data {
            let part = &slice[..slice.len().min(plain_max(output.room_mut().len()))];
            match self.encrypt(part, output.room_mut()) {
                Ok(len) => output.commit(len),
                // It had more to say than was left for it; what is there goes out first.
                Err(EncryptError::InsufficientSize(_)) if !output.is_empty() => break,
                Err(error) => return Err(rustls::Error::General(error.to_string())),
            }
            sealed += part.len();
            if part.len() < slice.len() {
                break;
            }
        }
        Ok(sealed)
    }

    fn close(&mut self, output: &mut Buffer) -> Result<(), rustls::Error> {
        let len = self
            .queue_close_notify(output.room_mut())
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        output.commit(len);
        Ok(())
    }
}

fn write<D>(
    status: UnbufferedStatus<'_, '_, D>,
    output: &mut Buffer,
    early: &mut Vec<u8>,
    work: &mut Work<'_>,
) -> (usize, Result<Written, rustls::Error>) {
    let UnbufferedStatus { mut discard, state } = status;
    let written = match state {
        Err(error) => Err(error),
        Ok(ConnectionState::WriteTraffic(mut traffic)) => {
            work(&mut traffic, output).map(Written::Done)
        }
        Ok(ConnectionState::EncodeTlsData(mut data)) => {
            encode(output, |room| data.encode(room)).map(|()| Written::NotYet)
        }
        Ok(ConnectionState::TransmitTlsData(sent)) => {
            sent.done();
            Ok(Written::NotYet)
        }
        Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
            match traffic.next_record() {
                None => break Ok(Written::NotYet),
                Some(Err(error)) => break Err(error),
                Some(Ok(record)) => {
                    early.extend_from_slice(record.payload);
                    discard += record.discard;
                }
            }
        },
        Ok(ConnectionState::PeerClosed) => Ok(Written::PeerClosed),
        Ok(state) => Err(unexpected(&state)),
    };
    (discard, written)
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

/// Plaintext whose records fit into `room`.
fn plain_max(room: usize) -> usize {
    let room = room.saturating_sub(RESERVE);
    let rest = room % (RECORD_PLAIN_MAX + RECORD_OVERHEAD);
    room / (RECORD_PLAIN_MAX + RECORD_OVERHEAD) * RECORD_PLAIN_MAX
        + rest.saturating_sub(RECORD_OVERHEAD)
}

fn unexpected<D>(state: &ConnectionState<'_, '_, D>) -> rustls::Error {
    rustls::Error::General(format!("TLS is in an unexpected state: {state:?}"))
}

impl std::fmt::Debug for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Machine")
            .field("peer", &self.peer())
            .field("handshaking", &self.state().is_handshaking())
            .field("seen", &self.seen)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plaintext_of_the_room_fits_into_the_room() {
        for room in [0, 1_023, 1_046, 1_047, 17_430, 17_500, 512 << 10] {
            let plain = plain_max(room);
            let records = plain.div_ceil(RECORD_PLAIN_MAX);
            assert!(plain == 0 || plain + records * RECORD_OVERHEAD + RESERVE <= room);
        }
        assert!(plain_max(512 << 10) > 480 << 10);
    }
}

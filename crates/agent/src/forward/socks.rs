//! SOCKS5 (RFC 1928) for connections that say themselves where they want to go. CONNECT only, and
//! without a password: what listens is this host's own.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use farpipe_net::{HostPort, SessionHandle};
use farpipe_proto::limits::STREAMS_MAX;
use farpipe_proto::link::handshake::printable;
use farpipe_proto::wire::control::Refuse;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::client::asked;
use crate::endpoint::{self, EndpointSpec, OpenError, Use};
use crate::fan::{self, After, Pipes, Shared};
use crate::outcome::{Outcome, PipeError};
use crate::pipe::cancelled;
use crate::policy::Denied;

/// How long a program may take to say where it wants to go.
const ASKING: Duration = Duration::from_secs(10);
/// Wait after an accept that failed, mostly for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

const VERSION: u8 = 5;
const NO_PASSWORD: u8 = 0;
const NO_METHOD: u8 = 0xff;
const CONNECT: u8 = 1;

/// What a program is told (RFC 1928 section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reply {
    Granted = 0,
    Failed = 1,
    Denied = 2,
    Refused = 5,
    NoSuchCommand = 7,
    NoSuchAddress = 8,
}

impl Reply {
    /// With no address: nobody needs to know where the other host connected from.
    fn encode(self) -> [u8; 10] {
        [VERSION, self as u8, 0, 1, 0, 0, 0, 0, 0, 0]
    }
}

/// Why a program gets no connection. Its own fault.
#[derive(Debug, thiserror::Error)]
pub(super) enum Malformed {
    #[error("it speaks no SOCKS5")]
    Version,
    #[error("it wants a password")]
    Method,
    #[error("it asks for something else than a connection")]
    Command,
    #[error("it names no address that can be")]
    Address,
    #[error("it did not say in time where it wants to go")]
    TooSlow,
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Malformed {
    fn reply(&self) -> Option<Reply> {
        match self {
            Self::Command => Some(Reply::NoSuchCommand),
            Self::Address => Some(Reply::NoSuchAddress),
            Self::Version | Self::Method | Self::TooSlow | Self::Io(_) => None,
        }
    }
}

/// A port where programs ask for connections by SOCKS5. Dropping it closes the port.
#[derive(Debug)]
pub struct Socks {
    listener: TcpListener,
    address: String,
}

impl Socks {
    /// Listens. Needs a tokio runtime with I/O and time.
    ///
    /// # Errors
    /// As for an endpoint `tcp-listen:`.
    pub async fn bind(on: &HostPort) -> Result<Self, OpenError> {
        let (listener, address) = endpoint::bind_tcp(on, "tcp").await?;
        Ok(Self {
            listener,
            address: format!("tcp {address}"),
        })
    }

    /// Where it listens, for people.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Serves until `until` is ready or all is told to end; kept or closed as by [`fan::stream_each`].
    pub(super) async fn run(
        self,
        handle: &SessionHandle,
        shared: &Shared,
        until: impl Future<Output = After>,
    ) -> Option<Self> {
        let mut pipes = Pipes::new(Arc::clone(&shared.report));
        let accepting = async {
            // Once for all that fail in a row: as many as 20 a second.
            let mut is_reported = false;
            loop {
                let has_room = pipes.len() < STREAMS_MAX;
                tokio::select! {
                    accepted = self.listener.accept(), if has_room => match accepted {
                        Ok((socket, from)) => {
                            is_reported = false;
                            let name = format!("the connection from {from}");
                            let pipe = connect(socket, name.clone(), handle.clone(), shared.clone());
                            pipes.start(name, pipe);
                        }
                        Err(error) => {
                            if !is_reported {
                                let address = &self.address;
                                tracing::warn!("cannot accept a connection on {address}: {error}");
                                is_reported = true;
                            }
                            tokio::time::sleep(ACCEPT_PAUSE).await;
                        }
                    },
                    () = pipes.next_ended(), if !pipes.is_empty() => {}
                }
            }
        };
        let after = tokio::select! {
            () = accepting => After::Close,
            () = cancelled(shared.cancel.clone()) => After::Close,
            after = until => after,
        };
        let kept = after.of(self);
        pipes.finish().await;
        kept
    }
}

/// One program's connection, from its question to its end.
async fn connect(
    mut socket: TcpStream,
    name: String,
    handle: SessionHandle,
    shared: Shared,
) -> Outcome {
    farpipe_net::tune(&socket);
    let to = match tokio::time::timeout(ASKING, ask(&mut socket)).await {
        Ok(Ok(to)) => to,
        Ok(Err(why)) => return fail(socket, why.reply(), why).await,
        Err(_) => return fail(socket, None, Malformed::TooSlow).await,
    };
    let spec = EndpointSpec::tcp(to);
    let Some(mut stream) = handle.open_with(asked(&spec, Use::Both, false)) else {
        return fail(socket, Some(Reply::Failed), "no stream can be opened").await;
    };
    let decided = poll_fn(|cx| {
        stream.watch.poll_until(cx, |fate| {
            fate.accepted || fate.refused.is_some() || fate.end.is_some()
        })
    });
    let fate = tokio::select! {
        fate = decided => fate,
        () = cancelled(shared.cancel.clone()) => return PipeError::Cancelled.into(),
    };
    if let Some(end) = fate.end {
        return PipeError::from(end).into();
    }
    if let Some(refuse) = fate.refused {
        let said = format!("{spec}: {}", printable(&refuse.message));
        return fail(socket, Some(reply_to(&refuse)), said).await;
    }
    if let Err(error) = socket.write_all(&Reply::Granted.encode()).await {
        return PipeError::Local(error.to_string()).into();
    }
    match endpoint::of_connection(socket, Use::Both, &name) {
        Ok(endpoint) => {
            let (meter, cancel) = (Arc::clone(&shared.meter), shared.cancel.clone());
            fan::carry(endpoint, stream, None, meter, cancel).await
        }
        Err(error) => PipeError::Local(error.to_string()).into(),
    }
}

/// A policy's word is told apart: asking again does not help.
fn reply_to(refuse: &Refuse) -> Reply {
    match refuse.message == Denied::TOLD {
        true => Reply::Denied,
        false => Reply::Refused,
    }
}

async fn fail(mut socket: TcpStream, reply: Option<Reply>, why: impl ToString) -> Outcome {
    let why = why.to_string();
    if let Some(reply) = reply {
        // It may be gone already.
        let _ = socket.write_all(&reply.encode()).await;
        let _ = socket.shutdown().await;
    }
    PipeError::Local(why).into()
}

/// Reads the greeting and the request, and not a byte more: what follows is for the far program.
pub(super) async fn ask<S>(socket: &mut S) -> Result<HostPort, Malformed>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let [version, count] = read(socket).await?;
    if version != VERSION {
        return Err(Malformed::Version);
    }
    let mut methods = vec![0; usize::from(count)];
    socket.read_exact(&mut methods).await?;
    if !methods.contains(&NO_PASSWORD) {
        socket.write_all(&[VERSION, NO_METHOD]).await?;
        return Err(Malformed::Method);
    }
    socket.write_all(&[VERSION, NO_PASSWORD]).await?;
    let [version, command, _, kind] = read(socket).await?;
    if version != VERSION {
        return Err(Malformed::Version);
    }
    let host = match kind {
        1 => IpAddr::from(Ipv4Addr::from(read::<4>(socket).await?)).to_string(),
        4 => IpAddr::from(Ipv6Addr::from(read::<16>(socket).await?)).to_string(),
        3 => {
            let [len] = read(socket).await?;
            let mut name = vec![0; usize::from(len)];
            socket.read_exact(&mut name).await?;
            String::from_utf8(name).map_err(|_| Malformed::Address)?
        }
        _ => return Err(Malformed::Address),
    };
    let port = u16::from_be_bytes(read(socket).await?);
    if command != CONNECT {
        return Err(Malformed::Command);
    }
    let is_written = |c: char| c.is_ascii_graphic() && !"/@[]".contains(c);
    if host.is_empty() || !host.chars().all(is_written) || port == 0 {
        return Err(Malformed::Address);
    }
    let is_v6 = host.contains(':');
    let text = match is_v6 {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    };
    text.parse().map_err(|_| Malformed::Address)
}

async fn read<const N: usize>(socket: &mut (impl AsyncRead + Unpin)) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    socket.read_exact(&mut bytes).await?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes of these bytes, and what the program hears.
    async fn asking(bytes: &[u8]) -> (Result<HostPort, Malformed>, Vec<u8>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let mut program = TcpStream::connect(address).await.expect("a connection");
        let (mut socket, _) = listener.accept().await.expect("a connection");
        program.write_all(bytes).await.expect("room");
        program.shutdown().await.expect("an end");
        let asked = ask(&mut socket).await;
        drop(socket);
        let mut heard = Vec::new();
        // Bytes that were not read make it a reset.
        let _ = program.read_to_end(&mut heard).await;
        (asked, heard)
    }

    #[tokio::test]
    async fn addresses_of_each_kind_are_understood() {
        let v6 = [&[5, 1, 0, 5, 1, 0, 4][..], &[0; 15], &[1, 0, 80]].concat();
        for (bytes, to) in [
            (
                &b"\x05\x01\x00\x05\x01\x00\x01\x7f\x00\x00\x01\x15\x38"[..],
                "127.0.0.1:5432",
            ),
            (b"\x05\x02\x02\x00\x05\x01\x00\x03\x02db\x00\x50", "db:80"),
            (&v6, "[::1]:80"),
        ] {
            let (asked, heard) = asking(bytes).await;
            assert_eq!(asked.expect(to).to_string(), to);
            assert_eq!(heard, [5, 0]);
        }
    }

    #[tokio::test]
    async fn what_is_no_socks5_connection_is_refused() {
        for (bytes, why) in [
            (
                &b"\x04\x01\x00\x50\x7f\x00\x00\x01\x00"[..],
                "it speaks no SOCKS5",
            ),
            (b"\x05\x01\x02", "it wants a password"),
            (
                b"\x05\x01\x00\x05\x02\x00\x01\x7f\x00\x00\x01\x00\x50",
                "it asks for something else",
            ),
            (b"\x05\x01\x00\x05\x01\x00\x09", "it names no address"),
            (
                b"\x05\x01\x00\x05\x01\x00\x03\x00\x00\x50",
                "it names no address",
            ),
            (
                b"\x05\x01\x00\x05\x01\x00\x03\x03a\x0ab\x00\x50",
                "it names no address",
            ),
            (
                b"\x05\x01\x00\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x00",
                "it names no address",
            ),
            (b"\x05\x01\x00\x05\x01", "early eof"),
        ] {
            let (asked, _) = asking(bytes).await;
            let error = asked.expect_err(why).to_string();
            assert!(error.starts_with(why), "{error} is not: {why}");
        }
    }

    #[test]
    fn a_policys_word_is_told_apart() {
        let refused = |message: &str| Refuse {
            status: 125,
            message: message.to_owned(),
        };
        assert_eq!(reply_to(&refused(Denied::TOLD)), Reply::Denied);
        assert_eq!(reply_to(&refused("connection refused")), Reply::Refused);
        assert_eq!(Reply::Denied.encode()[..3], [5, 2, 0]);
    }
}

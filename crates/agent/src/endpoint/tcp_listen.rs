//! `tcp-listen:[HOST:]PORT`: connections from programs, on 127.0.0.1 unless another address is
//! given. Port 0 is any free one.

use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll, ready};

use farpipe_net::HostPort;
use tokio::net::TcpListener;

use super::listening::{Accept, Arrival, Listening};
use super::{OpenError, connection};

pub(super) async fn listen(on: &HostPort) -> Result<Listening, OpenError> {
    let (listener, address) = bind(on, "tcp").await?;
    Ok(Listening::new(
        TcpAccept(listener),
        format!("tcp {address}"),
    ))
}

/// Listens on a TCP port, for `what`, and says on which.
pub(super) async fn bind(
    on: &HostPort,
    what: &str,
) -> Result<(TcpListener, SocketAddr), OpenError> {
    let bound = async {
        let listener = TcpListener::bind((on.host.as_str(), on.port)).await?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    };
    bound.await.map_err(|source: io::Error| {
        let address = format!("{what} {on}");
        match source.kind() {
            io::ErrorKind::AddrInUse => OpenError::AddressInUse {
                address,
                hint: "choose another port, or 0 to let the system choose",
            },
            _ => OpenError::Listen { address, source },
        }
    })
}

#[derive(Debug)]
struct TcpAccept(TcpListener);

impl Accept for TcpAccept {
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(Arrival, String)>> {
        let (stream, from) = ready!(self.0.poll_accept(cx))?;
        farpipe_net::tune(&stream);
        let fd = stream.into_std()?.into();
        Poll::Ready(Ok((
            connection::arrival(fd),
            format!("the connection from {from}"),
        )))
    }
}

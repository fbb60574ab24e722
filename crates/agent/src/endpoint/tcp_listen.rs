//! `tcp-listen:[HOST:]PORT`: connections from programs, on 127.0.0.1 unless another address is
//! given. Port 0 is any free one; `[::]` is every address, of IPv4 too unless the system says otherwise.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::task::{Context, Poll, ready};

use farpipe_net::HostPort;
use rustix::io::Errno;
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
        let listener = match TcpListener::bind((on.host.as_str(), on.port)).await {
            Err(error) if on.host == "::" && has_no_v6(&error) => {
                TcpListener::bind((Ipv4Addr::UNSPECIFIED, on.port)).await?
            }
            bound => bound?,
        };
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

/// Whether this host has no IPv6 at all: every address is every one of IPv4 then.
fn has_no_v6(error: &io::Error) -> bool {
    let code = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(code, Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL))
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

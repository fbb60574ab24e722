//! `tcp-listen:[HOST:]PORT`: connections from programs, on 127.0.0.1 unless another address is
//! given. Port 0 is any free one.

use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll, ready};

use farpipe_net::HostPort;
use tokio::net::TcpListener;

use super::OpenError;
use super::listening::{Accept, Listening};

pub(super) async fn listen(on: &HostPort) -> Result<Listening, OpenError> {
    let bound = async {
        let listener = TcpListener::bind((on.host.as_str(), on.port)).await?;
        let address = format!("tcp {}", listener.local_addr()?);
        Ok(Listening::new(TcpAccept(listener), address))
    };
    bound.await.map_err(|source: io::Error| {
        let address = format!("tcp {on}");
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
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(OwnedFd, String)>> {
        let (stream, from) = ready!(self.0.poll_accept(cx))?;
        farpipe_net::tune(&stream);
        let fd = stream.into_std()?.into();
        Poll::Ready(Ok((fd, format!("the connection from {from}"))))
    }
}

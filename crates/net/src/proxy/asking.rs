//! One connection through a proxy, whichever address of the listener it can reach.

use std::net::SocketAddr;
use std::time::Duration;

use farpipe_proto::limits::HANDSHAKE_STEP;
use tokio::net::TcpStream;

use super::{Granted, Proxy, ProxyError};
use crate::checkup::{Seen, Watch};
use crate::host_port::HostPort;
use crate::reach::{self, happy_eyeballs};
use crate::tcp::tune_carrier;

/// Wait before the next address of a listener is asked for as well; the proxy's own way counts too: the upper end of
/// what RFC 8305 section 5 allows.
const PROXIED_DELAY: Duration = Duration::from_secs(2);

/// What it takes to ask a proxy, as often as the listener has addresses.
#[derive(Debug, Clone)]
pub(crate) struct Asking {
    pub(crate) proxy: Proxy,
    /// The proxy's own.
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) watch: Option<Watch>,
}

impl Asking {
    /// A connection to `to`.
    pub(crate) async fn ask(&self, to: &HostPort) -> Result<(TcpStream, Granted), ProxyError> {
        let connected = happy_eyeballs(&self.addresses).await;
        let mut stream = connected.map_err(ProxyError::Unreachable)?;
        tune_carrier(&stream);
        if let (Some(watch), Ok(address)) = (&self.watch, stream.peer_addr()) {
            watch.see(Seen::ProxyConnected(address));
        }
        let granted = self.proxy.ask(&mut stream, to).await?;
        Ok((stream, granted))
    }

    /// A connection to the first of `targets` that the proxy reaches.
    pub(crate) async fn ask_for_each(
        &self,
        targets: &[SocketAddr],
    ) -> Result<(TcpStream, Granted), ProxyError> {
        let attempt = |target: SocketAddr| {
            let asking = self.clone();
            let to = HostPort {
                host: target.ip().to_string(),
                port: target.port(),
            };
            async move {
                match asking.ask(&to).await {
                    // Another address changes nothing about it.
                    Err(error) if !error.is_about_target() => Ok(Err(error)),
                    Err(error) => Err(error),
                    Ok(had) => Ok(Ok(had)),
                }
            }
        };
        // Connecting and asking have a limit each.
        let time = 2 * HANDSHAKE_STEP;
        match reach::first(targets, PROXIED_DELAY, time, attempt).await {
            Ok(asked) => asked,
            Err(failed) => Err(ProxyError::for_each(failed)),
        }
    }
}

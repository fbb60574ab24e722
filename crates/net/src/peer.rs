//! Who is at the other end of a connection: for logs, for the admin, and for what counts by source.
//!
//! Behind a proxy every connection comes from the proxy. Whom it came from is known later, when the
//! proxy has said so, and all who hold the peer see it then. It is a word for people and a measure of
//! fairness; nobody is ever let in by it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, OnceLock};

/// The other end of a connection.
#[derive(Debug, Clone)]
pub struct Peer(Arc<Known>);

#[derive(Debug)]
struct Known {
    name: String,
    address: IpAddr,
    forwarded: OnceLock<Forwarded>,
}

/// Whom a proxy speaks for; one that speaks HTTP does not tell the port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Forwarded {
    pub(crate) address: IpAddr,
    pub(crate) port: Option<u16>,
}

impl Peer {
    /// At this address.
    pub(crate) fn at(address: SocketAddr) -> Self {
        Self::new(address.to_string(), address.ip())
    }

    fn new(name: String, address: IpAddr) -> Self {
        let forwarded = OnceLock::new();
        Self(Arc::new(Known {
            name,
            address,
            forwarded,
        }))
    }

    /// A trusted proxy has said whose connection it is. The first word counts.
    pub(crate) fn forwarded(&self, from: Forwarded) {
        let _ = self.0.forwarded.set(from);
    }

    /// Where it comes from, as far as that is known.
    pub(crate) fn address(&self) -> IpAddr {
        let forwarded = self.0.forwarded.get();
        forwarded.map_or(self.0.address, |from| from.address)
    }
}

/// One of this host, with a name for it.
impl From<String> for Peer {
    fn from(name: String) -> Self {
        Self::new(name, Ipv4Addr::LOCALHOST.into())
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.0.name;
        match self.0.forwarded.get() {
            None => f.write_str(name),
            Some(Forwarded {
                address,
                port: Some(port),
            }) => write!(f, "{} via {name}", SocketAddr::new(*address, *port)),
            Some(Forwarded { address, .. }) => write!(f, "{address} via {name}"),
        }
    }
}

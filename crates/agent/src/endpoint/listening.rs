//! Endpoints that others connect to: each connection is an endpoint of its own.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use super::{Endpoint, Use};

/// A connection that is to become an endpoint: with the halves that are wanted, and its name.
pub(super) type Arrival = Box<dyn FnOnce(Use, &str) -> io::Result<Endpoint> + Send>;

/// A socket that connections come out of.
pub(super) trait Accept: Send + std::fmt::Debug {
    /// The next connection, and its name for errors.
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(Arrival, String)>>;
}

/// An endpoint that listens. Dropping it closes the socket, and removes its file if it has one;
/// connections go on.
#[derive(Debug)]
pub struct Listening {
    socket: Box<dyn Accept>,
    address: String,
}

impl Listening {
    pub(super) fn new(socket: impl Accept + 'static, address: String) -> Self {
        Self {
            socket: Box::new(socket),
            address,
        }
    }

    /// Where it listens, for people: `tcp 127.0.0.1:41234`, `unix /run/socket`.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Waits for the next connection. Nobody is turned away while it is not called: who comes
    /// waits in the system's queue. Out of descriptors it tries again and again.
    ///
    /// # Cancellation
    /// Dropping it loses no connection.
    pub async fn accept(&mut self, wanted: Use) -> Connection {
        let mut is_reported = false;
        loop {
            let accepted = poll_fn(|cx| self.socket.poll_accept(cx)).await;
            let opened = accepted.and_then(|(arrival, name)| {
                let endpoint = arrival(wanted, &name)?;
                Ok(Connection { name, endpoint })
            });
            match opened {
                Ok(connection) => return connection,
                Err(error) => {
                    if !is_reported {
                        let address = &self.address;
                        tracing::warn!("cannot accept a connection on {address}: {error}");
                        is_reported = true;
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// One connection to a [`Listening`].
#[derive(Debug)]
pub struct Connection {
    /// For people: `the connection from 127.0.0.1:50000`.
    pub name: String,
    /// The connection itself.
    pub endpoint: Endpoint,
}

/// Wait after an accept that failed, mostly for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

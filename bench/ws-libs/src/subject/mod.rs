//! The ways to move messages that are compared, one file each.

use std::future::Future;
use std::net::TcpStream;

use anyhow::Result;

use crate::link::{Incoming, Link};

mod fastwebsockets;
mod in_place;
mod raw_tcp;
mod sockudo_ws;
mod tokio_tungstenite;
mod tokio_websockets;
mod tungstenite;
mod yawc;

/// One way to move messages.
pub struct Subject {
    pub name: &'static str,
    /// How the sender keeps what it sent.
    pub retention: &'static str,
    pub send: fn(TcpStream, &Link) -> Result<()>,
    pub receive: fn(TcpStream, &mut Incoming<'_>) -> Result<()>,
}

/// The name of what no framing can beat.
pub const CEILING: &str = raw_tcp::SUBJECT.name;

/// All of them.
pub const SUBJECTS: &[Subject] = &[
    in_place::SUBJECT,
    tokio_websockets::SUBJECT,
    yawc::SUBJECT,
    fastwebsockets::SUBJECT,
    sockudo_ws::SUBJECT,
    tokio_tungstenite::SUBJECT,
    tungstenite::SUBJECT,
    raw_tcp::SUBJECT,
];

/// Room for reading: what our own carrier uses, given to every library that can be told.
const READ_BUFFER: usize = 512 << 10;

/// Messages are at most 256 KiB; some libraries' limits are exclusive.
const MESSAGE_MAX: usize = 1 << 20;

/// Runs one end on this thread's own tokio runtime.
fn run<F: Future<Output = Result<()>>>(
    socket: TcpStream,
    end: impl FnOnce(tokio::net::TcpStream) -> F,
) -> Result<()> {
    socket.set_nonblocking(true)?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(async { end(tokio::net::TcpStream::from_std(socket)?).await })
}

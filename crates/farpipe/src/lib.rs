//! Streams between hosts that lose, double and truncate nothing when the network, the relay or the link
//! fails.
//!
//! A stream is an [`AsyncRead`](tokio::io::AsyncRead) and an [`AsyncWrite`](tokio::io::AsyncWrite), full
//! duplex, half-closable, with backpressure up to the far program. It outlives connections: what was on
//! its way when one broke is sent again, from the byte that is missing.
//!
//! Who wants something of a host [connects](Settings::connect) to it by its name at a relay, and opens
//! streams to what a `farpipe agent` there allows (`tcp:localhost:5432`, `unix:/run/socket`, `/var/log/app`), or to
//! what another program has made of its own with this library. That one [serves](Settings::serve) under
//! a name, and accepts.
//!
//! ```no_run
//! use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let settings = farpipe::Settings::new().relay("ws://127.0.0.1:7000");
//! let host = settings.connect("web1")?;
//! let mut stream = host.open("tcp:localhost:8080").await?;
//! stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
//! stream.shutdown().await?; // the server has all of it
//! let mut answer = Vec::new();
//! stream.read_to_end(&mut answer).await?;
//! host.close().await?;
//! # Ok(())
//! # }
//! ```
//!
//! Needs a tokio runtime with I/O and time. Limits are those of docs/protocol.md section 9: 256 streams
//! in a session, windows of 64 MiB.

mod error;
mod host;
mod service;
mod settings;
mod stream;

pub use self::error::Error;
pub use self::host::Host;
pub use self::service::{Incoming, Service};
pub use self::settings::{Certificates, Settings};
pub use self::stream::{Reader, Stream, Writer};

//! A session with a host, and the streams that are opened in it.

use std::time::Duration;

use farpipe_net::tls::OpenerSeal;
use farpipe_net::{Dial, Greeting, Opener, OpenerConfig, SessionEnd, SessionHandle, halves};
use farpipe_proto::wire::control::{self, Halves, Open};
use tokio::task::JoinSet;

use crate::{Error, Reader, Stream, Writer};

/// A session with a host. Dropped, it ends: its streams fail, and the far side hears it at once if there is
/// a connection. [`Host::close`] waits until everything is settled.
#[derive(Debug)]
pub struct Host {
    handle: SessionHandle,
    /// One task, which ends with the session.
    running: JoinSet<Result<(), SessionEnd>>,
    is_closed: bool,
}

impl Host {
    pub(crate) fn start(
        dial: impl Dial + 'static,
        greeting: Greeting,
        seal: Option<OpenerSeal>,
        resume_for: Duration,
        heartbeat: Duration,
    ) -> Self {
        let mut config = OpenerConfig::new(greeting);
        config.seal = seal;
        config.resume_for = resume_for;
        config.heartbeat = heartbeat;
        let opener = Opener::new(config);
        let handle = opener.handle();
        let mut running = JoinSet::new();
        running.spawn(async move { opener.run(&dial).await });
        Self {
            handle,
            running,
            is_closed: false,
        }
    }

    /// Opens a stream to an endpoint of the host, and waits until it is joined to it: one that an agent
    /// allows, written as on a command line, or a word that a [`Service`](crate::Service) knows.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::TooMany`], [`Error::Session`].
    ///
    /// # Cancellation
    /// Dropping it gives the stream up.
    pub async fn open(&self, endpoint: impl AsRef<[u8]>) -> Result<Stream, Error> {
        self.joined(endpoint.as_ref(), Halves::Both).await
    }

    /// As [`Host::open`], to read what is read or written but not both, as a file is.
    ///
    /// # Errors
    /// As for [`Host::open`].
    ///
    /// # Cancellation
    /// As for [`Host::open`].
    pub async fn open_source(&self, endpoint: impl AsRef<[u8]>) -> Result<Reader, Error> {
        let stream = self.joined(endpoint.as_ref(), Halves::Source).await?;
        let (reader, mut writer) = stream.into_split();
        writer.finish();
        Ok(reader)
    }

    /// As [`Host::open`], to write what is read or written but not both. A file is emptied first, and complete
    /// when `shutdown` has returned.
    ///
    /// # Errors
    /// As for [`Host::open`].
    ///
    /// # Cancellation
    /// As for [`Host::open`].
    pub async fn open_sink(&self, endpoint: impl AsRef<[u8]>) -> Result<Writer, Error> {
        let stream = self.joined(endpoint.as_ref(), Halves::Sink).await?;
        Ok(stream.into_split().1)
    }

    async fn joined(&self, endpoint: &[u8], halves_wanted: Halves) -> Result<Stream, Error> {
        let open = Open {
            endpoint: Some(Box::new(control::Endpoint {
                spec: endpoint.to_vec(),
                halves: halves_wanted as u32,
                once: false,
            })),
            ..Open::default()
        };
        let stream = self.handle.open_with(open).ok_or(Error::TooMany)?;
        let (reader, writer, watch) = halves(stream);
        let fate = watch.decided().await;
        match (fate.refused, fate.end) {
            (Some(refuse), _) => Err(Error::Refused(refuse.message)),
            (None, Some(end)) => Err(end.into()),
            (None, None) => Ok(Stream::new(reader, writer)),
        }
    }

    /// Opens no more, and waits until all that was opened is settled at both ends.
    ///
    /// # Errors
    /// [`Error::Session`]: it ended before.
    ///
    /// # Cancellation
    /// Dropping it is dropping the host.
    pub async fn close(mut self) -> Result<(), Error> {
        self.handle.finish_opening();
        self.is_closed = true;
        match self.running.join_next().await {
            Some(Ok(ended)) => Ok(ended?),
            Some(Err(_)) | None => Err(SessionEnd::Closed.into()),
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if !self.is_closed {
            self.handle.end(SessionEnd::Closed);
            // It says goodbye, and ends by itself.
            self.running.detach_all();
        }
    }
}

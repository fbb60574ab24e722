//! Joins a stream to an endpoint of this host (docs/protocol.md section 6.10), if the policy lets its
//! caller have that.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;

use farpipe_net::Stream;
use farpipe_proto::wire::control::{self, Halves};

use super::permission::Wants;
use super::{Counted, Refusal, Serving, refuse};
use crate::beneath::Place;
use crate::blocks::Compression;
use crate::endpoint::{self, Endpoint, EndpointSpec, Part, Use, Writers};
use crate::outcome::PipeError;
use crate::pipe;
use crate::pump::Meter;
use crate::server;

/// What is opened, and where it may lie.
enum Opening {
    /// As it is named.
    Spec(EndpointSpec, Use),
    /// A file.
    File(Place, Writers, Use),
    /// A Unix socket.
    Socket(Place, Use),
}

impl Serving {
    /// Serves a stream that asks for an endpoint.
    pub(crate) async fn endpoint(&self, stream: Stream, asked: control::Endpoint, blocks: bool) {
        let mut stream = stream;
        let spec = match EndpointSpec::parse(OsStr::from_bytes(&asked.spec)) {
            Ok(spec) if spec.is_listening() => return self.listen(stream, &spec).await,
            Ok(spec) => spec,
            Err(error) => return refuse(stream, &self.name, &error.into()),
        };
        let opening = match self.opening(spec, &asked).await {
            Ok(opening) => opening,
            Err(refusal) => return refuse(stream, &self.name, &refusal),
        };
        let open = opening.open();
        let opened = pipe::unless_over(&mut stream.watch, self.agent.cancel.clone(), open).await;
        let endpoint = match opened {
            Ok(Ok(endpoint)) => endpoint,
            Ok(Err(error)) => return refuse(stream, &self.name, &error.into()),
            Err(over) => return refuse(stream, &self.name, &Refusal::Over(over)),
        };
        let _counted = Counted::new(&self.running);
        let blocks = blocks.then_some(Compression::Auto);
        let (meter, cancel) = (Arc::<Meter>::default(), self.agent.cancel.clone());
        let served = server::joined(endpoint, stream, blocks, meter, cancel).await;
        match served.settled().await.error {
            None => tracing::info!("{}: its endpoint is done", self.name),
            Some(PipeError::Cancelled) => tracing::info!("{}: ended", self.name),
            Some(error) => tracing::info!("{}: {error}", self.name),
        }
    }

    /// What the words mean here, if the caller may have it.
    async fn opening(
        &self,
        spec: EndpointSpec,
        asked: &control::Endpoint,
    ) -> Result<Opening, Refusal> {
        let wanted = match Halves::from_wire(asked.halves) {
            Some(Halves::Both) => Use::Both,
            Some(Halves::Source) => Use::Source,
            Some(Halves::Sink) => Use::Sink,
            None => return Err(Refusal::NotHere(format!("half {}", asked.halves))),
        };
        match spec.part() {
            Part::File(path) => {
                let wants = match wanted {
                    Use::Both => return Err(Refusal::NeedsDirection(spec.to_string())),
                    Use::Source => Wants::Read,
                    Use::Sink => Wants::Write,
                };
                let place = self.permitted_path(wants, path).await?;
                let writers = match asked.once {
                    true => Writers::First,
                    false => Writers::InTurn,
                };
                Ok(Opening::File(place, writers, wanted))
            }
            Part::Socket(path) => {
                let place = self.permitted_path(Wants::Connect, path).await?;
                Ok(Opening::Socket(place, wanted))
            }
            Part::Connection(to) => {
                self.permitted_connect(to).await?;
                Ok(Opening::Spec(spec, wanted))
            }
            // Commands are asked for as such: they have a stderr and a status of their own.
            Part::Program(_) | Part::Line(_) | Part::Port(_) | Part::NewSocket(_) | Part::Own => {
                Err(Refusal::NotHere(spec.to_string()))
            }
        }
    }
}

impl Opening {
    async fn open(&self) -> Result<Endpoint, endpoint::OpenError> {
        match self {
            Self::Spec(spec, wanted) => endpoint::open(spec, *wanted).await,
            Self::File(place, writers, wanted) => {
                endpoint::open_file(place, *writers, *wanted).await
            }
            Self::Socket(place, wanted) => endpoint::connect_unix(place, *wanted).await,
        }
    }
}

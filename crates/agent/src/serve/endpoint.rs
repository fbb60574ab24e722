//! Joins a stream to an endpoint of this host (docs/protocol.md section 6.10), if the policy lets its
//! caller have that.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;

use farpipe_net::Stream;
use farpipe_proto::wire::control::{self, Halves};

use super::held::{Holding, Thing};
use super::permission::Wants;
use super::{Counted, Refusal, Serving};
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
            Err(error) => return self.refuse(stream, &error.into()).await,
        };
        let opening = match self.opening(spec, &asked).await {
            Ok(opening) => opening,
            Err(refusal) => return self.refuse(stream, &refusal).await,
        };
        let open = self.opened(&opening);
        let opened = pipe::unless_over(&mut stream.watch, self.cancel.clone(), open).await;
        let (endpoint, _held) = match opened {
            Ok(Ok(opened)) => opened,
            Ok(Err(error)) => return self.refuse(stream, &error.into()).await,
            Err(over) => return self.refuse(stream, &Refusal::Over(over)).await,
        };
        let _counted = Counted::new(&self.running);
        let blocks = blocks.then_some(Compression::Auto);
        let (meter, cancel) = (Arc::<Meter>::default(), self.cancel.clone());
        let served = server::joined(endpoint, stream, blocks, meter, cancel).await;
        match served.settled().await.error {
            None => self.ends("its endpoint is done"),
            Some(PipeError::Cancelled) => self.ends("ended"),
            Some(error) => self.ends(&error.to_string()),
        }
    }

    /// Opens it; what is locked is this session's as long as the second part lives.
    async fn opened(
        &self,
        opening: &Opening,
    ) -> Result<(Endpoint, Option<Holding>), endpoint::OpenError> {
        let Some(thing) = opening.thing() else {
            return Ok((opening.open().await?, None));
        };
        let mut attempts = self.attempts(&thing);
        let endpoint = loop {
            match opening.open().await {
                Err(error) if attempts.is_worth_another(&error).await => {}
                opened => break opened?,
            }
        };
        let is_locked = endpoint.sink_file.is_some() || endpoint.source_file.is_some();
        Ok((endpoint, is_locked.then(|| self.hold(thing))))
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
    /// What may be somebody else's.
    fn thing(&self) -> Option<Thing> {
        match self {
            Self::File(place, ..) => Some(Thing::Path(place.path())),
            Self::Spec(..) | Self::Socket(..) => None,
        }
    }

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

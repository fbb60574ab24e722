//! Listens for a caller: each connection is a stream that this side opens (docs/protocol.md section
//! 6.10).

use std::future::poll_fn;
use std::sync::Arc;

use farpipe_net::{Stream, StreamWatch};
use farpipe_proto::wire::control::{Accept, Open};

use super::held::{Holding, Thing};
use super::permission::Wants;
use super::{Counted, Refusal, Serving};
use crate::endpoint::{self, EndpointSpec, Listening, Part, Use};
use crate::fan::{self, After, Report, Shared};
use crate::pipe;

impl Serving {
    /// Listens until the stream that asks for it ends.
    pub(super) async fn listen(&self, mut stream: Stream, spec: &EndpointSpec) {
        let opening = self.listening(spec);
        let opened = pipe::unless_over(&mut stream.watch, self.cancel.clone(), opening).await;
        let (listening, _held) = match opened.map_err(Refusal::Over).and_then(|opened| opened) {
            Ok(opened) => opened,
            Err(refusal) => return self.refuse(stream, &refusal).await,
        };
        stream.accept(Accept::default());
        let _counted = Counted::new(&self.running);
        let address = listening.address().to_owned();
        tracing::info!("{}: listening on {address}", self.name);
        let Stream {
            mut send,
            mut recv,
            mut watch,
        } = stream;
        let open = Open {
            accepted_at: watch.id().0,
            ..Open::default()
        };
        let shared = Shared {
            meter: Arc::default(),
            cancel: self.cancel.clone(),
            report: self.report(),
        };
        let said = async {
            // An error means that the caller is gone, which ends it anyway.
            let _ = send.say(format!("{address}\n").as_bytes()).await;
            over(&mut watch, &mut recv).await;
            After::Close
        };
        fan::stream_each(
            &self.handle,
            listening,
            Use::Both,
            open,
            None,
            &shared,
            said,
        )
        .await;
        send.finish();
        recv.done();
        self.ends(&format!("no longer listening on {address}"));
    }

    async fn listening(&self, spec: &EndpointSpec) -> Result<(Listening, Holding), Refusal> {
        let (thing, place) = match spec.part() {
            Part::Port(on) => {
                self.permitted_listen(on).await?;
                (Thing::port(on), None)
            }
            Part::NewSocket(path) => {
                let place = self.permitted_path(Wants::Listen, path).await?;
                (Thing::Path(place.path()), Some(place))
            }
            Part::File(_)
            | Part::Program(_)
            | Part::Line(_)
            | Part::Connection(_)
            | Part::Socket(_)
            | Part::Own => return Err(Refusal::NotHere(spec.to_string())),
        };
        let mut attempts = self.attempts(&thing);
        let listening = loop {
            let listening = match &place {
                Some(place) => endpoint::listen_unix(place).await,
                None => endpoint::listen(spec).await,
            };
            match listening {
                Err(error) if attempts.is_worth_another(&error).await => {}
                listening => break listening?,
            }
        };
        Ok((listening, self.hold(thing)))
    }

    /// What fails is the caller's to hear, who sees the same stream.
    fn report(&self) -> Report {
        let name = self.name.clone();
        Arc::new(move |connection, error| tracing::info!("{name}: {connection}: {error}"))
    }
}

/// Ready when the caller wants no more.
async fn over(watch: &mut StreamWatch, recv: &mut farpipe_net::RecvStream) {
    let given_up = poll_fn(|cx| {
        watch.poll_until(cx, |fate| {
            fate.reset.is_some() || fate.stopped.is_some() || fate.end.is_some()
        })
    });
    tokio::select! {
        // It has nothing to say.
        () = recv.heard_out() => {}
        _ = given_up => {}
    }
}

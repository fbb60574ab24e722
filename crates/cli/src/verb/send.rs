//! `farpipe send`: writes to a pipe by a relay.

use std::sync::Arc;
use std::time::Duration;

use farpipe_agent::endpoint::{self, EndpointSpec, Use};
use farpipe_agent::pipe::{Cancel, unless_cancelled};
use farpipe_agent::send::{self, Sending};
use farpipe_agent::server::Target;
use farpipe_agent::{Outcome, PipeError};
use farpipe_net::{Acceptor, AcceptorConfig, Admission};
use farpipe_proto::limits::PARK_MAX;
use tokio::task::JoinSet;

use super::one_way::OneWayArgs;
use super::registration::Links;
use super::session::{conclude, listen, listening, not_opened, report, settle, span};
use crate::progress::{self, Counts};
use crate::signals::Signals;
use crate::status::Status;

/// Write to a pipe that has a name at a relay
///
/// `producer | farpipe send logs` here, `farpipe recv logs | consumer` there: either side may come
/// first, and waits for the other. The pipe is registered at all relays of the list; it has one writer
/// at a time, and a name of its own, whatever agents there are.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pipe: OneWayArgs,
    /// How long to keep a reader whose connection is lost, at most [default: as long as it tries to
    /// resume, and up to a minute more]
    #[arg(long, value_name = "TIME", value_parser = span)]
    resume_for: Option<Duration>,
}

pub(crate) async fn run(args: Args, quiet: bool) -> anyhow::Result<u8> {
    let OneWayArgs {
        name,
        route,
        session,
        wait,
        ..
    } = &args.pipe;
    let spec = args.pipe.spec()?;
    let legs = route.legs_of_pipe(name)?;
    let show = session.progress.resolve(quiet, &[(&spec, Use::Source)]);
    let status = Status::open(session.status_fd, false)?;
    let (signals, cancel) = Signals::catch()?;
    let counts = Arc::new(Counts::default());
    let mut tasks = JoinSet::new();
    // Nobody comes by a door that is not there.
    let mut config = AcceptorConfig::new(listening(Admission::ClientCertificate, None, None)?);
    config.is_last = true;
    config.park_max = args.resume_for.unwrap_or(PARK_MAX);
    config.heartbeat = session.heartbeat;
    config.events = Some(session.watch(&mut tasks, Arc::clone(&counts), status.clone(), quiet));
    let (acceptor, sessions) = Acceptor::new(config);
    let links = Links::of_pipe(name, legs, &Arc::new(acceptor), session.heartbeat)?;
    let sending = Sending {
        name: name.clone(),
        readers: 1,
        wait: *wait,
        admits: Arc::new(|_| true),
        report: report(quiet),
        meter: Arc::clone(&counts.meter),
        cancel: cancel.clone(),
    };
    let work = async {
        let target = match early(&spec, cancel, &status, quiet).await? {
            Ok(target) => target,
            Err(error) => return Ok(error.into()),
        };
        let running = async {
            // In order: a name that is not to be had is why nobody comes.
            tokio::select! {
                biased;
                why = links.keep(quiet, &status) => {
                    let why = why.unwrap_or_else(|| "no relay takes this pipe".to_owned());
                    Outcome::from(PipeError::Local(why))
                }
                outcome = send::run(sessions, sending, target) => outcome,
            }
        };
        anyhow::Ok(progress::during(show, None, &counts, running).await)
    };
    let (outcome, signal) = signals.run(work).await;
    // How it ended is the last event.
    settle(tasks).await;
    let ended = outcome.unwrap_or_else(|| Ok(PipeError::Cancelled.into()));
    conclude(ended, signal, &status)
}

/// What can be opened before a reader comes is, so that a missing file is noticed now, and a place to
/// connect to is there; a command is started, and a connection made, for a reader.
async fn early(
    spec: &EndpointSpec,
    cancel: Cancel,
    status: &Status,
    quiet: bool,
) -> anyhow::Result<Result<Target, PipeError>> {
    if spec.is_listening() {
        let listening = listen(spec, status, quiet).await?;
        return Ok(Ok(Target::Listening(Box::new(listening), Use::Source)));
    }
    if !spec.is_shared() && !spec.needs_direction() {
        return Ok(Ok(Target::Spec(spec.clone(), Use::Source)));
    }
    let opening = endpoint::open(spec, Use::Source);
    Ok(match unless_cancelled(cancel, opening).await {
        Ok(opened) => Ok(Target::Open(Box::new(opened.map_err(not_opened)?))),
        Err(error) => Err(error),
    })
}

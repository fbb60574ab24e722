//! `farpipe send`: writes to a pipe by a relay.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use farpipe_agent::endpoint::{self, EndpointSpec, Use};
use farpipe_agent::pipe::{Cancel, unless_cancelled};
use farpipe_agent::policy::Who;
use farpipe_agent::send::{self, Admits, Sending, TellAway, TellLost};
use farpipe_agent::server::Target;
use farpipe_agent::spread::{Lost, Slow};
use farpipe_agent::{Outcome, PipeError};
use farpipe_net::{Acceptor, AcceptorConfig, Admission};
use farpipe_proto::identity::Caller;
use farpipe_proto::limits::{PARK_MAX, READERS_MAX};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::one_way::OneWayArgs;
use super::registration::Links;
use super::session::{conclude, listen, listening, not_opened, report, settle, span};
use crate::exit::WithStatus;
use crate::output;
use crate::progress::{self, Counts};
use crate::signals::Signals;
use crate::status::Status;

/// Write to a pipe that has a name at a relay
///
/// `producer | farpipe send logs` here, `farpipe recv logs | consumer` there: either side may come
/// first, and waits for the other. The pipe is registered at all relays of the list; it has one writer
/// at a time, and a name of its own, whatever agents there are.
///
/// With --readers N nothing is sent before N have come, and each gets all of it over a session of its
/// own: this host sends everything N times. Further readers are refused; one that leaves early leaves
/// the others alone.
///
/// Exits with 0 when every reader that did not leave has confirmed everything, with 141 when all have
/// left, with 125 when one was lost. What readers lost with --slow drop is said at their ends, and is no
/// failure.
///
/// With --cert, --key and --ca the readers are encrypted to end to end and must have certificates of
/// that authority; the relays see no data. With --no-e2e those may come as well who have none.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pipe: OneWayArgs,
    /// How many readers to wait for: 1 to 64
    #[arg(long, value_name = "N", default_value = "1", value_parser = readers)]
    readers: usize,
    /// What becomes of a reader that is behind by more than 8M beside what is on its way: `block`: the
    /// writer waits for it; `drop`: it loses the oldest whole lines, with a line in their place that says
    /// how many bytes, and fails unless it has --allow-drops; a line of more than 8M is lost as a whole; `spool`: what it lacks goes to a file
    /// in $TMPDIR
    #[arg(long, value_name = "HOW", default_value = "block")]
    slow: How,
    /// With --slow spool: how large the file may be (64K, 100M, 2G); then the writer waits [default: 1G]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    spool_max: Option<u64>,
    /// Send only to this identity, or to all of a kind: farpipe://DOMAIN/client/NAME,
    /// farpipe://DOMAIN/client/*; repeatable
    #[arg(long, value_name = "IDENTITY")]
    to: Vec<Who>,
    /// How long to keep a reader whose connection is lost, at most [default: as long as it tries to
    /// resume, and up to a minute more]
    #[arg(long, value_name = "TIME", value_parser = span)]
    resume_for: Option<Duration>,
}

/// How large a spool may be if nothing else is said.
const SPOOL_MAX: u64 = 1 << 30;

/// What becomes of a slow reader.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum How {
    Block,
    Drop,
    Spool,
}

fn readers(text: &str) -> Result<usize, String> {
    let number = text.parse().ok();
    number
        .filter(|number| (1..=READERS_MAX).contains(number))
        .ok_or_else(|| format!("from 1 to {READERS_MAX}"))
}

fn size(text: &str) -> Result<u64, String> {
    let unit = |text: &str| match text.as_bytes().last()?.to_ascii_uppercase() {
        b'K' => Some(1 << 10),
        b'M' => Some(1 << 20),
        b'G' => Some(1 << 30),
        _ => None,
    };
    let (digits, unit) = match unit(text) {
        Some(unit) => (&text[..text.len() - 1], unit),
        None => (text, 1_u64),
    };
    let size = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(unit));
    size.filter(|size| *size > 0)
        .ok_or_else(|| "write a number of bytes, 64K, 100M or 2G".to_owned())
}

impl Args {
    fn slow(&self) -> anyhow::Result<Slow> {
        match (self.slow, self.spool_max) {
            (How::Block, None) => Ok(Slow::Block),
            (How::Drop, None) => Ok(Slow::Drop),
            (How::Spool, max) => Ok(Slow::Spool(max.unwrap_or(SPOOL_MAX))),
            (How::Block | How::Drop, Some(_)) => Err(WithStatus::usage(
                "--spool-max means nothing without --slow spool",
                "give --slow spool, or leave it out",
            )),
        }
    }

    /// Who may read. Where a certificate is to be shown end to end, nobody's word stands for it.
    fn admits(&self, is_plain_enough: bool) -> Admits {
        let to = self.to.clone();
        Arc::new(move |caller| {
            if !is_plain_enough && !matches!(caller, Some(Caller::EndToEnd { .. })) {
                return Err(
                    "sends to readers with a certificate only: give --cert, --key and --ca"
                        .to_owned(),
                );
            }
            let is_one = |caller: &Caller| to.iter().any(|who| who.is(caller));
            match to.is_empty() || caller.is_some_and(is_one) {
                true => Ok(()),
                false => Err("does not send to this identity".to_owned()),
            }
        })
    }
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
    let slow = args.slow()?;
    let legs = route.legs_of_pipe(name)?;
    let show = session.progress.resolve(quiet, &[(&spec, Use::Source)]);
    let status = Status::open(session.status_fd, false)?;
    let (signals, cancel) = Signals::catch()?;
    let counts = Arc::new(Counts::default());
    let mut tasks = JoinSet::new();
    // Nobody comes by a door that is not there.
    let mut config = AcceptorConfig::new(listening(Admission::ClientCertificate, None, None)?);
    let (seal, is_plain_enough) = route.seal_of_writer()?;
    if !args.to.is_empty() && seal.is_none() {
        return Err(WithStatus::usage(
            "--to means nothing without certificates: who reads is shown end to end only",
            "give --cert, --key and --ca",
        ));
    }
    config.seal = seal;
    config.is_last = true;
    config.park_max = args.resume_for.unwrap_or(PARK_MAX);
    config.heartbeat = session.heartbeat;
    config.events = Some(session.watch(&mut tasks, Arc::clone(&counts), status.clone(), quiet));
    let (acceptor, sessions) = Acceptor::new(config);
    let links = Links::of_pipe(name, legs, &Arc::new(acceptor), session.heartbeat)?;
    let sending = Sending {
        name: name.clone(),
        readers: args.readers,
        wait: *wait,
        slow,
        admits: args.admits(is_plain_enough),
        report: report(quiet),
        tell_lost: tell_lost(quiet, status.clone()),
        tell_away: tell_away(quiet),
        meter: Arc::clone(&counts.meter),
        cancel: cancel.clone(),
    };
    let work = async {
        let target = match early(&spec, cancel, &status, quiet).await? {
            Ok(target) => target,
            Err(error) => return Ok(error.into()),
        };
        let running = async {
            let (leave, leaves) = watch::channel(false);
            let mut links = pin!(links.keep(quiet, &status, leaves));
            // In order: a name that is not to be had is why nobody comes.
            let outcome = tokio::select! {
                biased;
                why = &mut links => {
                    let why = why.unwrap_or_else(|| "no relay takes this pipe".to_owned());
                    return Outcome::from(PipeError::Local(why));
                }
                outcome = send::run(sessions, sending, target) => outcome,
            };
            leave.send_replace(true);
            links.await;
            outcome
        };
        anyhow::Ok(progress::during(show, None, &counts, running).await)
    };
    let (outcome, signal) = signals.run(work).await;
    // How it ended is the last event.
    settle(tasks).await;
    let ended = outcome.unwrap_or_else(|| Ok(PipeError::Cancelled.into()));
    conclude(ended, signal, &status)
}

/// Says that a reader is waited for.
fn tell_away(quiet: bool) -> TellAway {
    Arc::new(move |reader, is_away| {
        if !quiet {
            output::line(&match is_away {
                true => format!("farpipe: {reader} has no connection; waiting for it"),
                false => format!("farpipe: {reader} is back"),
            });
        }
    })
}

/// Says what a reader lost. It was asked for, so it is no failure here.
fn tell_lost(quiet: bool, status: Status) -> TellLost {
    Arc::new(move |reader, lost| {
        let Lost { lines, bytes } = lost;
        if !quiet {
            output::line(&format!(
                "farpipe: {reader} was behind and lost {lines} lines, {bytes} bytes (--slow drop)"
            ));
        }
        status.write(serde_json::json!({
            "event": "dropped", "reader": reader, "lines": lines, "bytes": bytes,
        }));
    })
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

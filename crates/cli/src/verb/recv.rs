//! `farpipe recv`: reads from a pipe by a relay.

use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use farpipe_agent::client::{self, Late};
use farpipe_agent::endpoint::Use;
use farpipe_agent::policy::Who;
use farpipe_agent::{Compression, Outcome, PipeError, pipe};
use farpipe_net::Opener;
use farpipe_proto::identity::Caller;
use tokio::task::JoinSet;

use super::one_way::OneWayArgs;
use super::route::Way;
use super::session::{Early, conclude, settle, span};
use crate::exit::WithStatus;
use crate::output;
use crate::progress::{self, Counts};
use crate::signals::Signals;
use crate::status::Status;

/// Read from a pipe that has a name at a relay
///
/// `producer | farpipe send logs` here, `farpipe recv logs | consumer` there: either side may come
/// first, and waits for the other. All relays of the list are asked in turn until one of them knows a
/// writer.
///
/// If it is killed or told to end in the midst, what it had not written yet is lost, and the writer fails,
/// at the latest when this is run again: a rest would pass for the whole.
///
/// With --cert, --key and --ca the pipe is encrypted end to end; its writer is whoever has a
/// certificate of that authority (-v says who), or with --from one of those named.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pipe: OneWayArgs,
    /// Take the pipe only from this identity, or from all of a kind: farpipe://DOMAIN/client/NAME,
    /// farpipe://DOMAIN/client/*; repeatable
    #[arg(long, value_name = "IDENTITY")]
    from: Vec<Who>,
    /// Lines that the writer dropped (send --slow drop) are no failure
    #[arg(long)]
    allow_drops: bool,
    /// Have the pipe compressed: `auto` while it shrinks the data and does not slow it down, `none`
    #[arg(long, value_name = "HOW", default_value = "none")]
    compress: Compress,
    /// How long to try to get a lost connection back (30s, 10m, 2h)
    #[arg(long, value_name = "TIME", value_parser = span, default_value = "10m")]
    resume_for: Duration,
}

/// What the reader decides of compression; how hard is the writer's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Compress {
    Auto,
    None,
}

impl Args {
    /// Whether the pipe is taken from its writer.
    fn admits(&self, writer: Option<&Caller>) -> Result<(), String> {
        let is_one = |writer: &Caller| self.from.iter().any(|who| who.is(writer));
        if self.from.is_empty() || writer.is_some_and(is_one) {
            return Ok(());
        }
        let who = writer.map_or_else(|| "somebody".to_owned(), ToString::to_string);
        Err(format!("the writer is {who}, whom --from does not name"))
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
    let Way {
        dial, mut config, ..
    } = route.to_pipe(name, *wait)?;
    if !args.from.is_empty() && config.seal.is_none() {
        return Err(WithStatus::usage(
            "--from means nothing without certificates: who writes is shown end to end only",
            "give --cert, --key and --ca, and leave out --no-e2e",
        ));
    }
    let show = session.progress.resolve(quiet, &[(&spec, Use::Sink)]);
    let status = Status::open(session.status_fd, spec.writes_stdout(Use::Sink))?;
    let (signals, cancel) = Signals::catch()?;
    let counts = Arc::new(Counts::default());
    let mut tasks = JoinSet::new();
    config.resume_for = args.resume_for;
    config.heartbeat = session.heartbeat;
    config.events = Some(session.watch(&mut tasks, Arc::clone(&counts), status.clone(), quiet));
    let work = async {
        let early = Early::prepare(&spec, &status, quiet).await?;
        let opening = early.open(Use::Sink);
        let endpoint = match pipe::unless_cancelled(cancel.clone(), opening).await {
            Ok(opened) => opened?,
            Err(error) => return Ok(error.into()),
        };
        let compression = (args.compress == Compress::Auto).then_some(Compression::Auto);
        let late = Late {
            admits: |writer: Option<&Caller>| args.admits(writer),
            meter: Arc::clone(&counts.meter),
            cancel,
        };
        let running = client::run_late(endpoint, compression, Opener::new(config), &*dial, late);
        anyhow::Ok(progress::during(show, None, &counts, running).await)
    };
    let (outcome, signal) = signals.run(work).await;
    // How it ended is the last event.
    settle(tasks).await;
    let mut ended = outcome.unwrap_or_else(|| Ok(PipeError::Cancelled.into()));
    if let Ok(outcome) = &mut ended {
        tell_dropped(outcome, args.allow_drops);
    }
    conclude(ended, signal, &status)
}

/// Says how much the writer dropped for this reader, and makes it a failure.
fn tell_dropped(outcome: &mut Outcome, is_allowed: bool) {
    if outcome.dropped == 0 {
        return;
    }
    let text = format!(
        "{} bytes are missing: this reader was behind, and the writer dropped them (--slow drop)",
        outcome.dropped
    );
    if is_allowed {
        output::line(&format!("farpipe: {text}"));
    } else {
        outcome.error.get_or_insert(PipeError::Local(text));
    }
}

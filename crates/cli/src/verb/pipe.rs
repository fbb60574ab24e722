//! `farpipe pipe`: joins two endpoints of this host.

use std::ffi::OsString;
use std::sync::Arc;

use farpipe_agent::endpoint::{EndpointSpec, SpecError, Use};
use farpipe_agent::fan::{self, Shared, Side};
use farpipe_agent::{PipeError, local, pipe};

use super::session::{Early, conclude, listen, report};
use crate::exit::WithStatus;
use crate::progress::{self, Counts, Progress};
use crate::signals::Signals;
use crate::status::Status;

/// Join two endpoints of this host
///
/// Both ways where both have two directions; a PATH as SRC is read, as DST written, and the other
/// direction of its partner is then this process's own stdin or stdout.
///
/// tcp-listen:, unix-listen: and ws-listen: serve each connection until a signal comes, if the other
/// one can be had anew for each (exec:, sh:, tcp:, unix:, ws:); else the first connection only.
///
/// ws: and ws-listen: are WebSockets whose other end is no farpipe: bytes in binary messages, or
/// with ?lines each line a text message. Web pages are refused unless ?origin=URL admits theirs:
/// farpipe pipe 'sh:vmstat 1' 'ws-listen:8080?lines&origin=http://localhost:3000'
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    // Its help is `endpoint_help`'s.
    src: OsString,
    /// As SRC
    dst: OsString,
    /// End with a FIFO's first writer, or a listening endpoint's first connection, instead of
    /// waiting for the next one
    #[arg(long)]
    once: bool,
    /// Show progress on stderr
    #[arg(long, value_name = "HOW", default_value = "auto")]
    progress: Progress,
    /// Write an event as a JSON line to this descriptor at the end
    #[arg(long, value_name = "N")]
    status_fd: Option<u32>,
}

pub(crate) async fn run(args: Args, quiet: bool) -> anyhow::Result<u8> {
    let usage =
        |error: SpecError| WithStatus::usage(error.to_string(), "see `farpipe pipe --help`");
    let parse = |text: &OsString| EndpointSpec::parse(text).map_err(usage);
    let (mut src, dst) = (parse(&args.src)?, parse(&args.dst)?);
    if args.once && !dst.is_listening() {
        src = src.once().map_err(usage)?;
    }
    if src.is_shared() && dst.is_shared() {
        return Err(WithStatus::usage(
            "SRC and DST are both `-`: that is cat",
            "name a command or a file as one of them",
        ));
    }
    let one_way = src.needs_direction() || dst.needs_direction();
    let (src_use, dst_use) = if one_way {
        (Use::Source, Use::Sink)
    } else {
        (Use::Both, Use::Both)
    };
    let used = [(&src, src_use), (&dst, dst_use)];
    let show = args.progress.resolve(quiet, &used);
    let status = Status::open(
        args.status_fd,
        used.iter()
            .any(|(spec, wanted)| spec.writes_stdout(*wanted)),
    )?;
    let (signals, cancel) = Signals::catch()?;
    let counts = Arc::new(Counts::default());
    let fan = match (src.is_listening(), dst.is_listening()) {
        _ if args.once => None,
        (true, false) if dst.is_had_anew() => Some((&src, Side::Left, &dst)),
        (false, true) if src.is_had_anew() => Some((&dst, Side::Right, &src)),
        _ => None,
    };
    let work = async {
        if let Some((spec, side, partner)) = fan {
            let listening = listen(spec, &status, quiet).await?;
            let shared = Shared {
                meter: Arc::clone(&counts.meter),
                cancel,
                report: report(quiet),
            };
            let pipes = fan::join_each(listening, side, partner.clone(), shared);
            return Ok(progress::during(show, None, &counts, pipes).await);
        }
        let opening = async {
            let left = Early::prepare(&src, &status, quiet).await?;
            let right = Early::prepare(&dst, &status, quiet).await?;
            let left = left.open(src_use).await?;
            let right = right.open(dst_use).await?;
            anyhow::Ok((left, right))
        };
        let (left, right) = match pipe::unless_cancelled(cancel.clone(), opening).await {
            Ok(opened) => opened?,
            Err(error) => return Ok(error.into()),
        };
        let total = left.size_hint;
        let pipe = local::run(left, right, Arc::clone(&counts.meter), cancel);
        anyhow::Ok(progress::during(show, total, &counts, pipe).await)
    };
    let (outcome, signal) = signals.run(work).await;
    let ended = outcome.unwrap_or_else(|| Ok(PipeError::Cancelled.into()));
    conclude(ended, signal, &status)
}

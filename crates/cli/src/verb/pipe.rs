//! `farpipe pipe`: joins two endpoints of this host.

use std::ffi::OsString;
use std::sync::Arc;

use farpipe_agent::endpoint::{self, EndpointSpec, Use};
use farpipe_agent::{PipeError, local, pipe};

use super::session::{conclude, not_opened};
use crate::exit::WithStatus;
use crate::progress::{self, Counts, Progress};
use crate::signals::Signals;
use crate::status::Status;

/// Join two endpoints of this host
///
/// Both ways where both have two directions; a PATH as SRC is read, as DST written, and the other
/// direction of its partner is then this process's own stdin or stdout.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// `-` (stdin and stdout), PATH (file or FIFO), exec:CMD or sh:CMD
    src: OsString,
    /// As SRC
    dst: OsString,
    /// Show progress on stderr
    #[arg(long, value_name = "HOW", default_value = "auto")]
    progress: Progress,
    /// Write an event as a JSON line to this descriptor at the end
    #[arg(long, value_name = "N")]
    status_fd: Option<u32>,
}

pub(crate) async fn run(args: Args, quiet: bool) -> anyhow::Result<u8> {
    let parse = |text: &OsString| {
        EndpointSpec::parse(text)
            .map_err(|error| WithStatus::usage(error.to_string(), "see `farpipe pipe --help`"))
    };
    let (src, dst) = (parse(&args.src)?, parse(&args.dst)?);
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
    let work = async {
        let opening = async {
            let left = endpoint::open(&src, src_use).await.map_err(not_opened)?;
            let right = endpoint::open(&dst, dst_use).await.map_err(not_opened)?;
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

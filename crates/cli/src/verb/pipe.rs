//! `farpipe pipe`: joins two endpoints, of this host or of others.

mod far;

use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

use farpipe_agent::endpoint::{self, EndpointSpec, SpecError, Use, kinds};
use farpipe_agent::fan::{self, Shared, Side};
use farpipe_agent::{PipeError, local, pipe};

use super::far::Word;
use super::reuse::ReusedRoute;
use super::route::RouteArgs;
use super::session::{Early, SessionArgs, conclude, listen, report, span};
use crate::exit::WithStatus;
use crate::progress::{self, Counts};
use crate::signals::Signals;
use crate::status::Status;

/// Join two endpoints, of this host or of others
///
/// HOST: in front of an endpoint makes it one of that agent's host, if its policy allows it: a file
/// (read:DIR, write:DIR), an address (connect:H:P, listen:[H:]P) or a command (exec). HOST is a name at a
/// relay, or an agent's URL in brackets: [wss://web1:7000]:/srv/data.
///
/// Both ways where both have two directions; a PATH as SRC is read, as DST written, and the other
/// direction of its partner is then this process's own stdin or stdout.
///
/// tcp-listen: and unix-listen: at a HOST serve each connection until a signal comes, joined to what can
/// be had anew for each here. Here tcp-listen:, unix-listen: and ws-listen: do so, if the other
/// one can be had anew for each (exec:, sh:, tcp:, unix:, ws:); else the first connection only.
/// What serves each connection goes on when the host's agent is started anew.
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
    /// How long to try to get a lost connection to a host back (30s, 10m, 2h)
    #[arg(long, value_name = "TIME", value_parser = span, default_value = "10m")]
    resume_for: Duration,
    #[command(flatten)]
    route: ReusedRoute,
    #[command(flatten)]
    session: SessionArgs,
}

/// One end of the pipe.
struct End {
    /// `None`: this one.
    host: Option<String>,
    spec: EndpointSpec,
}

impl End {
    fn parse(text: &OsString) -> Result<Self, SpecError> {
        let Word { host, rest } = Word::of(text);
        let spec = EndpointSpec::parse(&rest)?;
        Ok(Self { host, spec })
    }
}

/// A word that was meant as a kind is no host.
fn check(host: &str, route: &RouteArgs) -> anyhow::Result<()> {
    if host.contains("://") || route.has_relay() {
        return Ok(());
    }
    Err(WithStatus::usage(
        format!(
            "'{host}:' is no kind of endpoint, and no relay was named that may know a host {host}"
        ),
        format!(
            "kinds are {}; a host needs --relay wss://HOST:PORT; for a file of that name write \
             ./{host}:…",
            kinds(endpoint::End::Other)
        ),
    ))
}

pub(crate) async fn run(args: Args, quiet: bool) -> anyhow::Result<u8> {
    let usage =
        |error: SpecError| WithStatus::usage(error.to_string(), "see `farpipe pipe --help`");
    let parse = |text: &OsString| End::parse(text).map_err(usage);
    let (src, dst) = (parse(&args.src)?, parse(&args.dst)?);
    if src.host.is_some() || dst.host.is_some() {
        for host in [&src.host, &dst.host].into_iter().flatten() {
            check(host, args.route.anew())?;
        }
        return far::run(&args, &src, &dst, quiet).await;
    }
    let (mut src, dst) = (src.spec, dst.spec);
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
    let show = args.session.progress.resolve(quiet, &used);
    let status = Status::open(
        args.session.status_fd,
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

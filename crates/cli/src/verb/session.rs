//! Flags and plumbing that every verb with a session has.

use std::ffi::OsString;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use clap::Args;
use farpipe_agent::endpoint::{
    self, End, Endpoint, EndpointSpec, Listening, OpenError, Use, kinds,
};
use farpipe_agent::fan::Report;
use farpipe_agent::server;
use farpipe_agent::{Outcome, PipeError};
use farpipe_net::token::TokenStore;
use farpipe_net::{
    Admission, Events, Greeting, LinkEvent, LoopbackSecret, SessionEnd, Tickets, Url, UrlError,
};
use farpipe_proto::limits::{HEARTBEAT, RESUME_FOR};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::secure::Proves;
use crate::exit::{self, WithStatus};
use crate::output;
use crate::progress::{Counts, Progress};
use crate::status::Status;

/// Link events that wait to be shown. Policy when full: see [`Events`].
const EVENTS_MAX: usize = 256;

/// Values of `--heartbeat`.
pub(super) const HEARTBEATS: RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(3600);

/// How long the last events may take to be shown: a command of `--on-alarm` may hang.
const SETTLE: Duration = Duration::from_secs(2);

/// Flags of a session.
#[derive(Debug, Args)]
pub(crate) struct SessionArgs {
    /// How often to ask whether the other side is still there; three unanswered beats are a loss
    #[arg(long, value_name = "TIME", value_parser = heartbeat, default_value = "10s")]
    pub(crate) heartbeat: Duration,
    /// Shell command to run after ten failures in a row
    /// ($FARPIPE_FAILURES, $FARPIPE_WHY)
    #[arg(long, value_name = "CMD")]
    on_alarm: Option<String>,
    /// Show progress on stderr
    #[arg(long, value_name = "HOW", default_value = "auto")]
    pub(crate) progress: Progress,
    /// Write events as JSON lines to this descriptor: connected, lost, resumed, alarm, exit
    #[arg(long, value_name = "N")]
    pub(crate) status_fd: Option<u32>,
}

/// Which way the endpoint is used.
#[derive(Debug, Args)]
pub(crate) struct EndpointArgs {
    // Its help is that of the end it stands at: see `endpoint_help`.
    #[arg(default_value = "-", value_name = "ENDPOINT")]
    pub(crate) endpoint: OsString,
    /// Only send: read the endpoint, take nothing from the other side
    #[arg(long, conflicts_with = "recv")]
    send: bool,
    /// Only receive: write the endpoint, send nothing to the other side
    #[arg(long)]
    recv: bool,
    /// End with a FIFO's first writer, or a listening endpoint's first connection, instead of
    /// waiting for the next one
    #[arg(long)]
    once: bool,
}

impl EndpointArgs {
    /// The endpoint and how it is used.
    pub(crate) fn resolve(&self) -> anyhow::Result<(EndpointSpec, Use)> {
        let spec = EndpointSpec::parse(&self.endpoint)
            .and_then(|spec| if self.once { spec.once() } else { Ok(spec) })
            .map_err(|error| WithStatus::usage(error.to_string(), "see `farpipe --help`"))?;
        let wanted = match (self.send, self.recv) {
            (true, _) => Use::Source,
            (_, true) => Use::Sink,
            _ => Use::Both,
        };
        if wanted == Use::Both && spec.needs_direction() {
            return Err(WithStatus::usage(
                format!(
                    "'{}' could be read or written",
                    self.endpoint.to_string_lossy()
                ),
                "say which: --send reads it, --recv writes it",
            ));
        }
        Ok((spec, wanted))
    }
}

/// What an endpoint can be at an end.
pub(crate) fn endpoint_help(end: End) -> String {
    let more = match end {
        End::Listener => "",
        End::Other => "; the -listen kinds not at the other end, `farpipe listen`",
    };
    format!(
        "What can be joined: {} (- is stdin and stdout, PATH a file or FIFO{more})",
        kinds(end)
    )
}

/// What the verb does with an endpoint that listens.
impl EndpointArgs {
    /// Whether each connection to `spec` is to have a stream of its own.
    pub(crate) fn is_fan(&self, spec: &EndpointSpec) -> bool {
        spec.is_listening() && !self.once
    }
}

/// Listens, and says where.
pub(crate) async fn listen(
    spec: &EndpointSpec,
    status: &Status,
    quiet: bool,
) -> anyhow::Result<Listening> {
    let listening = endpoint::listen(spec).await.map_err(not_opened)?;
    let address = listening.address();
    if !quiet {
        output::line(&format!("listening on {address}"));
    }
    status.write(serde_json::json!({"event": "listening", "address": address}));
    Ok(listening)
}

/// An endpoint before it is opened: one that listens does so already, and has said where.
#[derive(Debug)]
pub(crate) enum Early<'a> {
    Listening(Listening),
    Closed(&'a EndpointSpec),
}

impl<'a> Early<'a> {
    pub(crate) async fn prepare(
        spec: &'a EndpointSpec,
        status: &Status,
        quiet: bool,
    ) -> anyhow::Result<Self> {
        if spec.is_listening() {
            return Ok(Self::Listening(listen(spec, status, quiet).await?));
        }
        Ok(Self::Closed(spec))
    }

    /// Opens it. One that listens is its first connection, and takes no other.
    pub(crate) async fn open(self, wanted: Use) -> anyhow::Result<Endpoint> {
        match self {
            Self::Listening(mut listening) => Ok(listening.accept(wanted).await.endpoint),
            Self::Closed(spec) => endpoint::open(spec, wanted).await.map_err(not_opened),
        }
    }
}

/// Says which of many pipes failed.
pub(crate) fn report(quiet: bool) -> Report {
    Arc::new(move |name, error| {
        if !quiet {
            output::error(&format!("{name}: {error}"));
        }
    })
}

/// The URL of a listener, as typed.
pub(crate) fn url(text: &str) -> anyhow::Result<Url> {
    if text.contains("fpk1-") {
        return Err(WithStatus::usage(
            "a token in a URL, which others can now see in ps",
            "revoke it; give the next one in a file with --token-file, or in FARPIPE_TOKEN",
        ));
    }
    text.parse()
        .map_err(|e: UrlError| WithStatus::usage(e.to_string(), "for example ws://127.0.0.1:7000"))
}

/// A beat that can be kept, and that notices a loss before anybody else does.
pub(super) fn heartbeat(text: &str) -> Result<Duration, String> {
    let beat = span(text)?;
    if !HEARTBEATS.contains(&beat) {
        return Err("from 100ms to 1h; the default is 10s".to_owned());
    }
    Ok(beat)
}

/// Spans as `10s`, `5m`, `2h`, `500ms`, or seconds.
pub(super) fn span(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = &text[digits.len()..];
    let number: f64 = digits
        .parse()
        .map_err(|_| "write a number and a unit: 500ms, 30s, 10m, 2h".to_owned())?;
    let seconds = match unit {
        "ms" => number / 1e3,
        "" | "s" => number,
        "m" | "min" => number * 60.0,
        "h" => number * 3600.0,
        "d" => number * 86400.0,
        _ => return Err("the unit is ms, s, m, h or d".to_owned()),
    };
    if seconds < 0.0 {
        return Err("less than nothing".to_owned());
    }
    Duration::try_from_secs_f64(seconds).map_err(|_| "out of range".to_owned())
}

/// A span of milliseconds as people say it: its two largest units.
pub(crate) fn rough(millis: u64) -> String {
    let seconds = millis / 1000;
    let (days, hours, minutes) = (seconds / 86400, seconds / 3600 % 24, seconds / 60 % 60);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{minutes}m{}s", seconds % 60),
        3600..86400 => format!("{hours}h{minutes}m"),
        _ => format!("{days}d{hours}h"),
    }
}

impl SessionArgs {
    /// Whether somebody is to be told what becomes of links.
    pub(crate) fn tells_of_links(&self) -> bool {
        self.status_fd.is_some() || self.on_alarm.is_some()
    }

    /// Shows link events until the session is over. Returns where to send them.
    pub(crate) fn watch(
        &self,
        tasks: &mut JoinSet<()>,
        counts: Arc<Counts>,
        status: Status,
        quiet: bool,
    ) -> Events {
        let (events, received) = mpsc::channel(EVENTS_MAX);
        tasks.spawn(show(received, counts, status, self.on_alarm.clone(), quiet));
        events
    }
}

async fn show(
    mut events: mpsc::Receiver<LinkEvent>,
    counts: Arc<Counts>,
    status: Status,
    on_alarm: Option<String>,
    quiet: bool,
) {
    while let Some(event) = events.recv().await {
        status.link(&event);
        match &event {
            LinkEvent::Resumed { .. } => {
                counts.resumes.fetch_add(1, Ordering::Relaxed);
            }
            LinkEvent::Lost {
                why,
                failures,
                retry_in: Some(wait),
            } if *failures > 0 && !quiet => output::line(&format!(
                "farpipe: no connection ({why}); next try in {:.0} s",
                wait.as_secs_f64()
            )),
            LinkEvent::Alarm { failures, why } => {
                output::error(&format!(
                    "{failures} failures in a row, still trying: {why}"
                ));
                if let Some(command) = &on_alarm {
                    alarm(command, *failures, why).await;
                }
            }
            _ => {}
        }
    }
}

async fn alarm(command: &str, failures: u32, why: &str) {
    let ran = tokio::process::Command::new("/bin/sh")
        .args(["-c", command])
        .env("FARPIPE_FAILURES", failures.to_string())
        .env("FARPIPE_WHY", why)
        .env_remove("FARPIPE_TICKET")
        .env_remove("FARPIPE_TOKEN")
        .stdin(std::process::Stdio::null())
        // stdout carries data only.
        .stdout(std::process::Stdio::null())
        .kill_on_drop(true)
        .status()
        .await;
    match ran {
        Ok(status) if status.success() => {}
        Ok(status) => output::error(&format!("--on-alarm: the command ended with {status}")),
        Err(error) => output::error(&format!("--on-alarm: {error}")),
    }
}

/// What a dialling side says of itself, with what it has to prove.
pub(crate) fn dialling(admission: Admission, proves: Proves) -> anyhow::Result<Greeting> {
    let mut greeting = nothing_to_prove();
    greeting.prover = match (admission, proves) {
        (_, Proves::Ticket(ticket)) => Some(ticket),
        (_, Proves::Token(token)) => Some(token),
        (Admission::LoopbackSecret, Proves::Usual) => {
            Some(Arc::new(LoopbackSecret::load_or_create()?))
        }
        // TLS has proven already who is there.
        (Admission::ClientCertificate | Admission::Ticket | Admission::Token, Proves::Usual) => {
            None
        }
    };
    Ok(greeting)
}

/// What a listening side says of itself, with what it wants to be proven.
pub(crate) fn listening(
    admission: Admission,
    tickets: Option<Arc<Tickets>>,
    tokens: Option<Arc<TokenStore>>,
) -> anyhow::Result<Greeting> {
    let mut greeting = nothing_to_prove();
    greeting.tokens = tokens;
    greeting.keys = match admission {
        Admission::LoopbackSecret => Some(Arc::new(LoopbackSecret::load_or_create()?)),
        Admission::ClientCertificate | Admission::Token => None,
        Admission::Ticket => tickets.map(|tickets| tickets as _),
    };
    Ok(greeting)
}

/// What this program says that it is.
pub(super) const SOFTWARE: &str = concat!("farpipe ", env!("CARGO_PKG_VERSION"));

/// What a side says of itself that nobody has to let in.
pub(super) fn nothing_to_prove() -> Greeting {
    Greeting {
        software: SOFTWARE.to_owned(),
        prover: None,
        keys: None,
        tokens: None,
        random: farpipe_net::system_random,
    }
}

/// Says how a pipe ended and returns the exit status; or passes on why there was no pipe.
pub(crate) fn conclude(
    ended: anyhow::Result<Outcome>,
    signal: Option<u8>,
    status: &Status,
) -> anyhow::Result<u8> {
    let told = match &ended {
        Ok(outcome) => {
            let verdict = Verdict::of(outcome, signal);
            if let Some(error) = verdict.says {
                output::error(&error.to_string());
                if let PipeError::Session(SessionEnd::Protocol(_)) = error {
                    output::hint("is it the same farpipe? `farpipe --version` tells at both ends");
                }
            }
            status.exit(None, outcome, verdict.status);
            verdict.status
        }
        Err(error) => {
            let code = exit::status_of(error);
            let message = format!("{error:#}");
            let failed = PipeError::NotOpened {
                status: code,
                message,
            };
            status.exit(None, &failed.into(), code);
            code
        }
    };
    status.flush();
    ended.map(|_| told)
}

/// What is made of an outcome.
#[derive(Debug, PartialEq, Eq)]
struct Verdict<'a> {
    status: u8,
    /// What is worth a line: who sent a signal knows of it.
    says: Option<&'a PipeError>,
}

impl<'a> Verdict<'a> {
    fn of(outcome: &'a Outcome, signal: Option<u8>) -> Self {
        match (&outcome.error, signal) {
            (Some(PipeError::Cancelled | PipeError::Session(_)), Some(number)) => Self {
                status: crate::signals::status(number),
                says: None,
            },
            (error, _) => Self {
                status: outcome.status(),
                says: error.as_ref(),
            },
        }
    }
}

const _: () = {
    // The texts of the flags' defaults are those of the limits.
    assert!(RESUME_FOR.as_secs() == 10 * 60);
    assert!(HEARTBEAT.as_secs() == 10);
};

/// An endpoint that could not be opened, with its exit status.
pub(crate) fn not_opened(error: OpenError) -> anyhow::Error {
    WithStatus {
        status: server::status_of(&error),
        message: server::describe_open(&error),
        hint: error.hint().map(str::to_owned),
    }
    .into()
}

/// Lets the last events be shown.
pub(crate) async fn settle(mut tasks: JoinSet<()>) {
    let shown = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(SETTLE, shown).await.is_err() {
        tasks.shutdown().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_hides_no_failure_that_came_before_it() {
        let full = Outcome::from(PipeError::Local("no space left".to_owned()));
        let cancelled = Outcome::from(PipeError::Cancelled);
        for (outcome, signal, status, says) in [
            (&full, None, 125, full.error.as_ref()),
            (&full, Some(2), 125, full.error.as_ref()),
            (&cancelled, Some(2), 130, None),
        ] {
            let expected = Verdict { status, says };
            assert_eq!(Verdict::of(outcome, signal), expected, "{signal:?}");
        }
    }
}

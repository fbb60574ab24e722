//! `farpipe forward`: ports here for what is there, and the other way round.

use std::sync::Arc;

use farpipe_agent::endpoint::{self, EndpointSpec, Part, SpecError, Use};
use farpipe_agent::fan::Shared;
use farpipe_agent::forward::{Forward, Socks, Told};
use farpipe_agent::{PipeError, client, pipe};
use farpipe_net::{HostPort, Opener};
use tokio::task::JoinSet;

use super::forwards::Keeping;
use super::session::{SessionArgs, conclude, not_opened, report, settle};
use super::target::{TargetArgs, Way};
use crate::exit::WithStatus;
use crate::output;
use crate::progress::{self, Counts};
use crate::signals::Signals;
use crate::status::Status;

/// Forward ports and Unix sockets to or from an agent's host
///
/// Until a signal comes. A host that is not there when it begins is an error; one that goes away is waited
/// for, and so is an agent that is started anew, for as long as --resume-for says: what was connected is
/// reset then, and what connects meanwhile waits. Each connection is a stream of one session: a lost link is resumed, and no
/// connection notices. The end of one direction reaches the other side and leaves the other one
/// open. What a killed forward listened on there is free for the next one of the same caller.
///
/// As with ssh: [A:]P is the address and port to listen on (127.0.0.1 unless A is given; * or
/// nothing in front of the colon for all addresses, with -R those of IPv4), H:P where connections go; either can be the absolute path of a Unix socket. IPv6 addresses in brackets.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Listen here, and connect from there: [A:]P:H:P, [A:]P:/SOCKET, /SOCKET:H:P or
    /// /SOCKET:/SOCKET; repeatable. The agent must allow connect:H:P
    #[arg(short = 'L', long, value_name = "LISTEN:TO", value_parser = Pair::here)]
    local: Vec<Pair>,
    /// Listen there, and connect from here, written as for -L; repeatable. The agent must allow
    /// listen:[A:]P
    #[arg(short = 'R', long, value_name = "LISTEN:TO", value_parser = Pair::there)]
    remote: Vec<Pair>,
    /// Listen here for SOCKS5, and connect from there to wherever each connection asks for; repeatable
    #[arg(short = 'D', long, value_name = "[A:]P", value_parser = dynamic)]
    dynamic: Vec<HostPort>,
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    session: SessionArgs,
}

/// What listens, and where its connections go.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pair {
    on: EndpointSpec,
    to: EndpointSpec,
}

impl Pair {
    fn here(text: &str) -> Result<Self, String> {
        Self::parse(text, EVERY_HERE)
    }

    fn there(text: &str) -> Result<Self, String> {
        Self::parse(text, EVERY_THERE)
    }

    fn parse(text: &str, every: &str) -> Result<Self, String> {
        let usage = "write [A:]P:H:P, [A:]P:/SOCKET, /SOCKET:H:P or /SOCKET:/SOCKET";
        let (on, to) = split(text).ok_or(usage)?;
        let on = match on.starts_with('/') {
            true => format!("unix-listen:{on}"),
            false => format!("tcp-listen:{}", listening(on, every)),
        };
        let to = match to.starts_with('/') {
            true => format!("unix:{to}"),
            false => format!("tcp:{to}"),
        };
        let parse = |spec: &str| {
            // The kinds in front are not what was typed.
            let what = |error: SpecError| {
                let text = error.to_string();
                let why = text.rsplit("': ").next().unwrap_or(&text);
                format!("{why}; {usage}, with absolute paths for sockets")
            };
            spec.parse().map_err(what)
        };
        Ok(Self {
            on: parse(&on)?,
            to: parse(&to)?,
        })
    }
}

/// Takes `LISTEN:TO` apart: a path has no colon in it, and an address those of its brackets.
fn split(text: &str) -> Option<(&str, &str)> {
    if text.starts_with('/') {
        return text.split_once(':');
    }
    if let Some(at) = text.find(":/") {
        return Some((&text[..at], &text[at + 1..]));
    }
    let mut depth = 0_usize;
    let mut colons = Vec::new();
    for (at, c) in text.char_indices() {
        match c {
            '[' => depth += 1,
            ']' => depth = depth.saturating_sub(1),
            ':' if depth == 0 => colons.push(at),
            _ => {}
        }
    }
    let at = match colons[..] {
        [first, _] => first,
        [_, second, _] => second,
        _ => return None,
    };
    Some((&text[..at], &text[at + 1..]))
}

/// Every address of this host.
const EVERY_HERE: &str = "[::]";
/// Every address of the other host: policies name those of IPv4.
const EVERY_THERE: &str = "0.0.0.0";

/// Where to listen; `*` or nothing is every address.
fn listening(on: &str, every: &str) -> String {
    match on.strip_prefix("*:").or_else(|| on.strip_prefix(':')) {
        Some(port) => format!("{every}:{port}"),
        None => on.to_owned(),
    }
}

fn dynamic(text: &str) -> Result<HostPort, String> {
    let spec = format!("tcp-listen:{}", listening(text, EVERY_HERE));
    let spec: EndpointSpec = spec.parse().map_err(|error: SpecError| error.to_string())?;
    match spec.part() {
        Part::Port(on) => Ok(on.clone()),
        _ => Err("write [A:]P".to_owned()),
    }
}

pub(crate) async fn run(args: Args, quiet: bool) -> anyhow::Result<u8> {
    if args.local.is_empty() && args.remote.is_empty() && args.dynamic.is_empty() {
        return Err(WithStatus::usage(
            "nothing to forward",
            "for example: farpipe forward web1 -L 8080:localhost:80",
        ));
    }
    // What is wrong with it is told before a port is taken.
    let way = args.target.way(&args.session)?;
    let status = Status::open(args.session.status_fd, false)?;
    let (signals, cancel) = Signals::catch()?;
    let counts = Arc::new(Counts::default());
    let mut tasks = JoinSet::new();
    let events = args
        .session
        .watch(&mut tasks, Arc::clone(&counts), status.clone(), quiet);
    let show = args.session.progress.resolve(quiet, &[]);
    let host = args.target.shown().to_owned();
    let teller = Teller {
        host,
        status: status.clone(),
        quiet,
    };
    let work = async {
        let events = events;
        let opening = open(&args);
        let forwards = match pipe::unless_cancelled(cancel.clone(), opening).await {
            Ok(opened) => opened?,
            Err(error) => return Ok(error.into()),
        };
        let shared = Shared {
            meter: Arc::clone(&counts.meter),
            cancel,
            report: report(quiet),
        };
        let keeping = Keeping {
            host: args.target.shown(),
            within: args.target.resume_for(),
            quiet,
            told: told(&args, teller),
        };
        let begin = |Way {
                         dial, mut config, ..
                     }: Way| {
            config.events = Some(events.clone());
            (Opener::new(config), dial)
        };
        let next = || args.target.way(&args.session).map(begin);
        let running = keeping.run(forwards, shared, next, begin(way));
        progress::during(show, None, &counts, running).await
    };
    let (outcome, signal) = signals.run(work).await;
    settle(tasks).await;
    let ended = outcome.unwrap_or_else(|| Ok(PipeError::Cancelled.into()));
    conclude(ended, signal, &status)
}

/// Listens here; what is to listen there comes last.
async fn open(args: &Args) -> anyhow::Result<Vec<Forward>> {
    let mut forwards = Vec::new();
    for Pair { on, to } in &args.local {
        let listening = endpoint::listen(on).await.map_err(not_opened)?;
        let open = client::asked(to, Use::Both, false);
        forwards.push(Forward::Local {
            listening,
            open,
            wanted: Use::Both,
        });
    }
    for on in &args.dynamic {
        let socks = Socks::bind(on).await.map_err(not_opened)?;
        forwards.push(Forward::Dynamic(socks));
    }
    for Pair { on, to } in args.remote.iter().cloned() {
        forwards.push(Forward::Remote { on, to });
    }
    Ok(forwards)
}

/// Says what is forwarded, by the numbers that [`open`] gives.
fn told(args: &Args, teller: Teller) -> Told {
    let local = args.local.iter().map(|pair| (true, pair.to.to_string()));
    let anywhere = || (true, "wherever SOCKS5 asks for".to_owned());
    let dynamic = args.dynamic.iter().map(|_| anywhere());
    let remote = args.remote.iter().map(|pair| (false, pair.to.to_string()));
    let all: Vec<(bool, String)> = local.chain(dynamic).chain(remote).collect();
    Arc::new(move |number, address| match all.get(number) {
        Some((true, to)) => teller.here(address, to),
        Some((false, to)) => teller.there(address, to),
        None => {}
    })
}

/// Says what is forwarded.
struct Teller {
    host: String,
    status: Status,
    quiet: bool,
}

impl Teller {
    fn here(&self, address: &str, to: &str) {
        let host = &self.host;
        self.tell(&format!("forwarding {address} here to {to} at {host}"));
        self.event("here", address, to);
    }

    fn there(&self, address: &str, to: &str) {
        let host = &self.host;
        // The agent's word goes to a terminal.
        let address = address.escape_debug().to_string();
        self.tell(&format!("forwarding {address} at {host} to {to} here"));
        self.event("there", &address, to);
    }

    fn tell(&self, line: &str) {
        if !self.quiet {
            output::line(line);
        }
    }

    fn event(&self, listens: &str, address: &str, to: &str) {
        self.status.write(serde_json::json!({
            "event": "forwarding", "listens": listens, "address": address, "to": to,
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwards_are_written_as_for_ssh() {
        for (text, on, to) in [
            ("8080:web:80", "tcp-listen:127.0.0.1:8080", "tcp:web:80"),
            ("0.0.0.0:1:web:80", "tcp-listen:0.0.0.0:1", "tcp:web:80"),
            ("*:1:web:80", "tcp-listen:[::]:1", "tcp:web:80"),
            (":1:web:80", "tcp-listen:[::]:1", "tcp:web:80"),
            (
                "[::1]:1:[fe80::1]:80",
                "tcp-listen:[::1]:1",
                "tcp:[fe80::1]:80",
            ),
            (
                "5432:/run/pg/.s",
                "tcp-listen:127.0.0.1:5432",
                "unix:/run/pg/.s",
            ),
            ("/tmp/s:db:5432", "unix-listen:/tmp/s", "tcp:db:5432"),
            ("/tmp/s:/run/t", "unix-listen:/tmp/s", "unix:/run/t"),
        ] {
            let pair = Pair::here(text).expect(text);
            assert_eq!(pair.on.to_string(), on, "{text}");
            assert_eq!(pair.to.to_string(), to, "{text}");
        }
        let there = Pair::there("*:1:web:80").expect("as for -L");
        assert_eq!(there.on.to_string(), "tcp-listen:0.0.0.0:1");
        for text in [
            "",
            "80",
            "80:web",
            "a:b:c:d:e",
            "x:web:80",
            "80:web:0",
            "/tmp/s",
            "80:web:x",
        ] {
            assert!(Pair::here(text).is_err(), "{text}");
        }
    }
}

//! A pipe with an end at another host, or at two.

use std::ffi::OsStr;
use std::sync::Arc;

use farpipe_agent::between::{self, Far};
use farpipe_agent::command::ask::{self, Here};
use farpipe_agent::endpoint::{self, Endpoint, EndpointSpec, Part, Use};
use farpipe_agent::fan::Shared;
use farpipe_agent::forward::{Forward, Told};
use farpipe_agent::pipe::{self, Cancel};
use farpipe_agent::{Outcome, client};
use farpipe_net::{Events, Opener};
use farpipe_proto::wire::control::{Command, Open};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::{Args, End};
use crate::exit::WithStatus;
use crate::output;
use crate::progress::{self, Counts, Show};
use crate::signals::Signals;
use crate::status::Status;
use crate::verb::forwards::{Keeping, Next};
use crate::verb::route::Way;
use crate::verb::session::{Early, conclude, listen, not_opened, report, settle};

/// What runs, in what it shows and ends by.
struct Run<'a> {
    args: &'a Args,
    status: Status,
    counts: Arc<Counts>,
    events: Events,
    show: Show,
    cancel: Cancel,
    quiet: bool,
}

/// An end at another host.
struct There<'a> {
    host: &'a str,
    spec: &'a EndpointSpec,
    wanted: Use,
}

pub(super) async fn run(args: &Args, src: &End, dst: &End, quiet: bool) -> anyhow::Result<u8> {
    let one_way = src.spec.needs_direction() || dst.spec.needs_direction();
    let uses = match one_way {
        true => (Use::Source, Use::Sink),
        false => (Use::Both, Use::Both),
    };
    let is_here = |end: &End| end.host.is_none();
    let used: Vec<_> = [(src, uses.0), (dst, uses.1)]
        .into_iter()
        .filter(|(end, _)| is_here(end))
        .map(|(end, wanted)| (&end.spec, wanted))
        .collect();
    let session = &args.session;
    let status = Status::open(
        session.status_fd,
        used.iter()
            .any(|(spec, wanted)| spec.writes_stdout(*wanted)),
    )?;
    let (signals, cancel) = Signals::catch()?;
    let counts = Arc::new(Counts::default());
    let mut tasks = JoinSet::new();
    let events = session.watch(&mut tasks, Arc::clone(&counts), status.clone(), quiet);
    let run = Run {
        args,
        status: status.clone(),
        counts,
        events,
        show: session.progress.resolve(quiet, &used),
        cancel,
        quiet,
    };
    let work = async {
        match (&src.host, &dst.host) {
            (Some(left), Some(right)) => {
                let left = There::new(left, &src.spec, uses.0)?;
                let right = There::new(right, &dst.spec, uses.1)?;
                run.between(left, right).await
            }
            (Some(host), None) => {
                let there = There::new(host, &src.spec, uses.0)?;
                run.one(there, &dst.spec, uses.1).await
            }
            (None, Some(host)) => {
                let there = There::new(host, &dst.spec, uses.1)?;
                run.one(there, &src.spec, uses.0).await
            }
            (None, None) => unreachable!("both ends are here"),
        }
    };
    let (outcome, signal) = signals.run(work).await;
    drop(run);
    settle(tasks).await;
    let ended = outcome.unwrap_or_else(|| Ok(farpipe_agent::PipeError::Cancelled.into()));
    conclude(ended, signal, &status)
}

impl<'a> There<'a> {
    fn new(host: &'a str, spec: &'a EndpointSpec, wanted: Use) -> anyhow::Result<Self> {
        if spec.is_shared() {
            return Err(WithStatus::usage(
                format!("`-` at {host} would be the agent's own stdin and stdout"),
                "name a file, a command or an address there; `-` alone is yours",
            ));
        }
        Ok(Self { host, spec, wanted })
    }

    /// What is asked of the agent.
    fn open(&self, once: bool) -> Open {
        let bytes = |word: &OsStr| word.as_encoded_bytes().to_vec();
        let command = match self.spec.part() {
            Part::Program(words) => Command {
                argv: words.iter().map(|word| bytes(word)).collect(),
                ..Command::default()
            },
            Part::Line(line) => Command {
                argv: vec![bytes(line)],
                shell: true,
                ..Command::default()
            },
            Part::File(_)
            | Part::Connection(_)
            | Part::Socket(_)
            | Part::Port(_)
            | Part::NewSocket(_)
            | Part::Own => return client::asked(self.spec, self.wanted, once),
        };
        Open {
            command: Some(Box::new(command)),
            ..Open::default()
        }
    }

    /// A command has a stderr, and it is this process's.
    fn stderr(&self) -> anyhow::Result<Option<Box<dyn endpoint::Sink>>> {
        match self.spec.part() {
            Part::Program(_) | Part::Line(_) => {
                Ok(Some(endpoint::open_stderr().map_err(not_opened)?))
            }
            _ => Ok(None),
        }
    }

    fn no_listening(&self) -> anyhow::Result<()> {
        if !self.spec.is_listening() {
            return Ok(());
        }
        Err(WithStatus::usage(
            format!(
                "what {} takes at {} may be many connections",
                self.spec, self.host
            ),
            "join it to what can be had anew for each: tcp:, unix: or a command of this host",
        ))
    }
}

impl Run<'_> {
    fn opener(&self, host: &str) -> anyhow::Result<Next> {
        let (route, session) = (&self.args.route, &self.args.session);
        let Way {
            dial, mut config, ..
        } = route.way_of(host, self.args.resume_for, session)?;
        config.events = Some(self.events.clone());
        Ok((Opener::new(config), dial))
    }

    fn shared(&self) -> Shared {
        Shared {
            meter: Arc::clone(&self.counts.meter),
            cancel: self.cancel.clone(),
            report: report(self.quiet),
        }
    }

    /// What listens, here or there, until a signal comes.
    async fn keep(
        &self,
        host: &str,
        forward: Forward,
        told: Told,
        first: Next,
    ) -> anyhow::Result<Outcome> {
        let keeping = Keeping {
            host,
            within: self.args.resume_for,
            quiet: self.quiet,
            told,
        };
        let next = || self.opener(host);
        let running = keeping.run(vec![forward], self.shared(), next, first);
        progress::during(self.show, None, &self.counts, running).await
    }

    /// An end here, an end there.
    async fn one(
        &self,
        there: There<'_>,
        here: &EndpointSpec,
        wanted: Use,
    ) -> anyhow::Result<Outcome> {
        let first = self.opener(there.host)?;
        let once = self.args.once;
        if there.spec.is_listening() {
            if once || !here.is_had_anew() {
                there.no_listening()?;
            }
            let forward = Forward::Remote {
                on: there.spec.clone(),
                to: here.clone(),
            };
            let (host, quiet) = (there.host.to_owned(), self.quiet);
            let told = move |_, address: &str| {
                if !quiet {
                    output::line(&format!(
                        "listening on {} at {host}",
                        address.escape_debug()
                    ));
                }
            };
            return self.keep(there.host, forward, Arc::new(told), first).await;
        }
        if here.is_listening() && !once && there.spec.is_had_anew() {
            let forward = Forward::Local {
                listening: listen(here, &self.status, self.quiet).await?,
                open: there.open(once),
                wanted,
            };
            return self
                .keep(there.host, forward, Arc::new(|_, _| {}), first)
                .await;
        }
        let (opener, dial) = first;
        let early = Early::prepare(here, &self.status, self.quiet).await?;
        let opening = early.open(wanted);
        let mut main = match pipe::unless_cancelled(self.cancel.clone(), opening).await {
            Ok(opened) => opened?,
            Err(error) => return Ok(error.into()),
        };
        let total = main.size_hint;
        let meter = Arc::clone(&self.counts.meter);
        let stderr = there.stderr()?;
        let open = there.open(once);
        let work = async {
            if open.command.is_none() {
                return Ok(client::joined(
                    main,
                    open,
                    None,
                    opener,
                    &*dial,
                    meter,
                    self.cancel.clone(),
                )
                .await);
            }
            complete(&mut main).await?;
            let here = Here { main, stderr };
            // The signals of this process end the pipe, as here.
            let (_asks, asked) = mpsc::channel(1);
            Ok(ask::run(
                open,
                here,
                opener,
                &*dial,
                meter,
                asked,
                self.cancel.clone(),
            )
            .await)
        };
        progress::during(self.show, total, &self.counts, work).await
    }

    /// Both ends there.
    async fn between(&self, left: There<'_>, right: There<'_>) -> anyhow::Result<Outcome> {
        left.no_listening()?;
        right.no_listening()?;
        let (opener, dial) = self.opener(left.host)?;
        let (right_opener, right_dial) = self.opener(right.host)?;
        let source = Far {
            open: left.open(self.args.once),
            opener,
            dial: &*dial,
            stderr: left.stderr()?,
        };
        let sink = Far {
            open: right.open(self.args.once),
            opener: right_opener,
            dial: &*right_dial,
            stderr: right.stderr()?,
        };
        let meter = Arc::clone(&self.counts.meter);
        let running = between::run(source, sink, meter, self.cancel.clone());
        Ok(progress::during(self.show, None, &self.counts, running).await)
    }
}

/// A command whose partner has one direction only has the other one of this process's own.
async fn complete(main: &mut Endpoint) -> anyhow::Result<()> {
    let wanted = match (&main.source, &main.sink) {
        (Some(_), None) => Use::Sink,
        (None, Some(_)) => Use::Source,
        (Some(_), Some(_)) | (None, None) => return Ok(()),
    };
    let own = endpoint::open(&EndpointSpec::stdio(), wanted).await;
    let own = own.map_err(not_opened)?;
    main.source = main.source.take().or(own.source);
    main.sink = main.sink.take().or(own.sink);
    Ok(())
}

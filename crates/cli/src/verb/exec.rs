//! `farpipe exec`: runs a command at an agent, with this process's stdin, stdout and stderr.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::sync::Arc;
use std::time::Duration;

use farpipe_agent::command::ask::{self, Here};
use farpipe_agent::endpoint::{self, EndpointSpec, Use};
use farpipe_agent::{Outcome, PipeError, pipe};
use farpipe_net::{Opener, OpenerConfig};
use farpipe_proto::limits::INNER_OPEN_MAX;
use farpipe_proto::wire::control;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::route::RouteArgs;
use super::session::{SessionArgs, conclude, not_opened, settle, span};
use super::terminal::{self, Raw};
use crate::exit::WithStatus;
use crate::progress::{self, Counts};
use crate::signals::Forward;
use crate::status::Status;

/// Signals and sizes that wait to be passed on. Policy when full: who brings the next one waits.
const ASKS_MAX: usize = 16;

/// Run a command at an agent
///
/// stdin, stdout and stderr are the command's own, byte for byte; its exit status is this one's, 128+n
/// if signal n ended it. The words of CMD reach the program as they are: no shell reads them, unless
/// --sh asks for one.
///
/// SIGINT, SIGTERM, SIGHUP and SIGQUIT go to the command; a second one gives it up, and the agent hangs
/// it up. A lost connection is resumed, and the command goes on meanwhile; it never runs twice.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The agent: its name at a relay, or where it listens: wss://HOST:PORT[/PATH] or fps://HOST:PORT; on
    /// this host also ws:// or fp://
    target: String,
    #[command(flatten)]
    route: RouteArgs,
    /// The program and its arguments; without them, with -t, the login shell
    #[arg(trailing_var_arg = true, value_name = "CMD")]
    command: Vec<OsString>,
    /// On a terminal there, which shows stdout and stderr as one
    #[arg(short = 't', long = "tty")]
    tty: bool,
    /// Read nothing: the command's stdin is empty
    #[arg(short = 'n', long = "no-stdin")]
    no_stdin: bool,
    /// CMD, its words joined by spaces, is a line for /bin/sh
    #[arg(long)]
    sh: bool,
    /// Where to run it, from the home directory there on [default: the home directory]
    #[arg(long, value_name = "DIR")]
    cwd: Option<OsString>,
    /// Set a variable, if the agent allows its name; repeatable
    #[arg(long, value_name = "NAME=VALUE")]
    env: Vec<OsString>,
    /// How long to try to get a lost connection back (30s, 10m, 2h)
    #[arg(long, value_name = "TIME", value_parser = span, default_value = "10m")]
    resume_for: Duration,
    #[command(flatten)]
    session: SessionArgs,
}

impl Args {
    /// What is asked of the agent.
    fn command(&self) -> anyhow::Result<control::Command> {
        if self.command.is_empty() && (self.sh || !self.tty) {
            return Err(WithStatus::usage(
                "no command",
                "name one: farpipe exec URL -- CMD…; or -t alone for a login shell",
            ));
        }
        let bytes = |word: &OsString| word.as_bytes().to_vec();
        let command = control::Command {
            argv: if self.sh {
                vec![self.command.join(" ".as_ref()).into_vec()]
            } else {
                self.command.iter().map(bytes).collect()
            },
            shell: self.sh,
            cwd: self.cwd.as_ref().map(bytes).unwrap_or_default(),
            env: self.env.iter().map(bytes).collect(),
            terminal: self.tty.then(terminal::describe),
        };
        let words = command
            .argv
            .iter()
            .chain(&command.env)
            .chain([&command.cwd]);
        // Each word with the few bytes in front of it, and something for the rest.
        let len: usize = words.map(|word| word.len() + 8).sum();
        if len + 1024 > INNER_OPEN_MAX {
            return Err(WithStatus::failure(
                format!("the command is too long: {len} bytes, and 255 KiB is the limit"),
                Some("pass what is long on stdin: … | farpipe exec URL -- xargs CMD".to_owned()),
            ));
        }
        Ok(command)
    }

    /// This process's side.
    async fn here(&self) -> anyhow::Result<Here> {
        let wanted = if self.no_stdin { Use::Sink } else { Use::Both };
        let main = endpoint::open(&EndpointSpec::stdio(), wanted).await;
        let main = main.map_err(not_opened)?;
        let stderr = if self.tty {
            None
        } else {
            Some(endpoint::open_stderr().map_err(not_opened)?)
        };
        Ok(Here { main, stderr })
    }
}

pub(crate) async fn run(args: Args, quiet: bool) -> anyhow::Result<u8> {
    let command = args.command()?;
    let (dial, greeting) = args.route.dial(&args.target)?;
    let show = args.session.progress.without_bar();
    let status = Status::open(args.session.status_fd, true)?;
    let (asks, asked) = mpsc::channel(ASKS_MAX);
    let (signals, cancel) = Forward::catch(asks.clone())?;
    let counts = Arc::new(Counts::default());
    let mut tasks = JoinSet::new();
    let mut config = OpenerConfig::new(greeting);
    config.resume_for = args.resume_for;
    config.heartbeat = args.session.heartbeat;
    let events = args
        .session
        .watch(&mut tasks, Arc::clone(&counts), status.clone(), quiet);
    config.events = Some(events);
    let work = async {
        let here = match pipe::unless_cancelled(cancel.clone(), args.here()).await {
            Ok(here) => here?,
            Err(error) => return Ok(error.into()),
        };
        let total = here.main.size_hint;
        let _raw = args.tty.then(Raw::enter).flatten();
        let opener = Opener::new(config);
        let meter = Arc::clone(&counts.meter);
        let running = ask::run(command, here, opener, &*dial, meter, asked, cancel);
        let running = progress::during(show, total, &counts, running);
        if args.tty {
            return Ok(terminal::resizing(asks, running).await);
        }
        anyhow::Ok(running.await)
    };
    let (outcome, signal) = signals.run(work).await;
    // How it ended is the last event.
    settle(tasks).await;
    let ended = outcome.unwrap_or_else(|| Ok(PipeError::Cancelled.into()));
    // What it made of a signal that was passed on is the command's to say.
    let gave_up = |outcome: &Outcome| outcome.error == Some(PipeError::Cancelled);
    let signal = signal.filter(|_| ended.as_ref().is_ok_and(gave_up));
    conclude(ended, signal, &status)
}

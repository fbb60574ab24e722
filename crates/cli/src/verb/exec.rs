//! `farpipe exec`: runs a command at an agent, with this process's stdin, stdout and stderr.

use std::ffi::OsString;
use std::io::IsTerminal as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::sync::Arc;

use farpipe_agent::command::ask::{self, Here};
use farpipe_agent::endpoint::{self, EndpointSpec, Use};
use farpipe_agent::{Outcome, PipeError, pipe};
use farpipe_net::Opener;
use farpipe_proto::limits::{INNER_OPEN_MAX, KEEP_OUTPUT, KEEP_OUTPUT_MAX};
use farpipe_proto::wire::control::{self, Open};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::detached::{id, opened};
use super::session::{SessionArgs, conclude, not_opened, settle};
use super::target::{TargetArgs, Way};
use super::terminal;
use crate::exit::{self, WithStatus};
use crate::output;
use crate::progress::{self, Counts};
use crate::signals::Forward;
use crate::status::Status;

/// Signals and sizes that wait to be passed on. Policy when full: who brings the next one waits.
const ASKS_MAX: usize = 16;

/// A size as it is typed: bytes, or K, M of 1024.
fn keep_output(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.strip_suffix(['k', 'K']) {
        Some(digits) => (digits, 1 << 10),
        None => match text.strip_suffix(['m', 'M']) {
            Some(digits) => (digits, 1 << 20),
            None => (text, 1),
        },
    };
    let size = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(unit));
    size.filter(|size| (1..=KEEP_OUTPUT_MAX as u64).contains(size))
        .ok_or_else(|| "from 1 byte to 64M: 4096, 64K, 1M".to_owned())
}

/// Run a command at an agent
///
/// stdin, stdout and stderr are the command's own, byte for byte; its exit status is this one's, 128+n
/// if signal n ended it. The words of CMD reach the program as they are: no shell reads them, unless
/// --sh asks for one.
///
/// With -d it goes on without its caller, as long as the agent runs, and this ends when it has been
/// started.
///
/// SIGINT, SIGTERM, SIGHUP and SIGQUIT go to the command; a second one gives it up, and the agent hangs
/// it up. All output that was on its way still comes: little to a terminal, seconds of it to a file over a
/// slow link. A lost connection is resumed, and the command goes on meanwhile; it never runs twice.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// On a terminal there, which shows stdout and stderr as one
    #[arg(short = 't', long = "tty")]
    tty: bool,
    /// Read nothing: the command's stdin is empty
    #[arg(short = 'n', long = "no-stdin")]
    no_stdin: bool,
    /// Start it, print its id, and leave it alone: see `farpipe ps`, `attach`, `wait` and `kill`. Its
    /// stdin stays open for who attaches, unless -n
    #[arg(short, long)]
    detach: bool,
    /// Its id: 1 to 64 letters, digits, dots, hyphens and underscores. Asked again with the same id the
    /// same command is not started again; else 16 random digits
    #[arg(long, value_name = "ID", value_parser = id, requires = "detach")]
    id: Option<String>,
    /// Bytes of stdout, and as many of stderr, that wait for who attaches (64K, 1M, 64M at most); then
    /// the command waits, as before a full pipe [default: 1M]
    #[arg(long, value_name = "SIZE", value_parser = keep_output, requires = "detach")]
    keep_output: Option<u64>,
    /// Drop the oldest lines instead of making the command wait; who attaches hears how much
    #[arg(long, requires = "detach")]
    drop_output: bool,
    /// CMD, its words joined by spaces, is a line for /bin/sh
    #[arg(long)]
    sh: bool,
    /// Where to run it, from the home directory there on [default: the home directory]
    #[arg(long, value_name = "DIR")]
    cwd: Option<OsString>,
    /// Set a variable, if the agent allows its name; repeatable
    #[arg(long, value_name = "NAME=VALUE")]
    env: Vec<OsString>,
    #[command(flatten)]
    target: TargetArgs,
    /// The program and its arguments; without them, with -t, the login shell
    #[arg(trailing_var_arg = true, value_name = "CMD")]
    command: Vec<OsString>,
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
            detached: None,
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
}

pub(crate) async fn run(args: Args, quiet: bool) -> anyhow::Result<u8> {
    let mut command = args.command()?;
    if args.detach {
        let id = args.id.clone().unwrap_or_else(new_id);
        command.detached = Some(control::Detached {
            id: id.clone(),
            keep: args.keep_output.unwrap_or(KEEP_OUTPUT as u64),
            drops: args.drop_output,
            no_stdin: args.no_stdin,
        });
        return detached(command, &id, &args, quiet).await;
    }
    let open = Open {
        interactive: args.tty || is_watched(args.no_stdin),
        command: Some(Box::new(command)),
        ..Open::default()
    };
    let joining = Joining {
        tty: args.tty,
        no_stdin: args.no_stdin,
        outlives: false,
        allow_drops: false,
    };
    joined(open, joining, &args.target, &args.session, quiet).await
}

/// Whether a person sees the output and nothing but keys goes the other way: on a slow link little is on its
/// way then, and an interrupt is seen soon.
pub(super) fn is_watched(no_stdin: bool) -> bool {
    std::io::stdout().is_terminal() && (no_stdin || std::io::stdin().is_terminal())
}

/// Starts a command that goes on by itself, and prints its id.
async fn detached(
    command: control::Command,
    id: &str,
    args: &Args,
    quiet: bool,
) -> anyhow::Result<u8> {
    let open = Open {
        command: Some(Box::new(command)),
        ..Open::default()
    };
    let here = Here::default();
    let (outcome, signal, status) = opened(&args.target, &args.session, open, here, quiet).await?;
    match conclude(Ok(outcome), signal, &status)? {
        0 => exit::printed(output::data(format!("{id}\n").as_bytes())),
        code => Ok(code),
    }
}

/// An id that nobody else has.
fn new_id() -> String {
    let mut random = [0; 8];
    farpipe_net::system_random(&mut random);
    format!("{:016x}", u64::from_be_bytes(random))
}

/// How this process is joined to a far command.
pub(super) struct Joining {
    /// By a terminal.
    pub(super) tty: bool,
    /// Without its stdin.
    pub(super) no_stdin: bool,
    /// The command outlives this process: a signal that ends this one is not the command's.
    pub(super) outlives: bool,
    /// Dropped output is no failure.
    pub(super) allow_drops: bool,
}

impl Joining {
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

/// Joins stdin, stdout and stderr to what `open` asks for, until it has ended.
pub(super) async fn joined(
    open: Open,
    joining: Joining,
    target: &TargetArgs,
    session: &SessionArgs,
    quiet: bool,
) -> anyhow::Result<u8> {
    let Way {
        dial, mut config, ..
    } = target.way(session)?;
    let show = session.progress.without_bar();
    let status = Status::open(session.status_fd, true)?;
    let (asks, asked) = mpsc::channel(ASKS_MAX);
    let (signals, cancel) = Forward::catch(asks.clone(), joining.outlives)?;
    let counts = Arc::new(Counts::default());
    let mut tasks = JoinSet::new();
    config.events = Some(session.watch(&mut tasks, Arc::clone(&counts), status.clone(), quiet));
    let work = async {
        let here = match pipe::unless_cancelled(cancel.clone(), joining.here()).await {
            Ok(here) => here?,
            Err(error) => return Ok(error.into()),
        };
        let total = here.main.size_hint;
        let opener = Opener::new(config);
        let meter = Arc::clone(&counts.meter);
        // A session is large, and every future around it would have room for one on the stack.
        let running = Box::pin(ask::run(open, here, opener, &*dial, meter, asked, cancel));
        let running = progress::during(show, total, &counts, running);
        if joining.tty {
            return Ok(terminal::shown(asks, running).await);
        }
        anyhow::Ok(running.await)
    };
    let (outcome, signal) = signals.run(work).await;
    // How it ended is the last event.
    settle(tasks).await;
    let mut ended = outcome.unwrap_or_else(|| Ok(PipeError::Cancelled.into()));
    if let Ok(outcome) = &mut ended {
        tell_dropped(outcome, joining.allow_drops);
    }
    // What it made of a signal that was passed on is the command's to say.
    let gave_up = |outcome: &Outcome| outcome.error == Some(PipeError::Cancelled);
    let signal = signal.filter(|_| ended.as_ref().is_ok_and(gave_up));
    conclude(ended, signal, &status)
}

/// Says what is missing of the output, and makes it a failure.
fn tell_dropped(outcome: &mut Outcome, is_allowed: bool) {
    if outcome.dropped == 0 {
        return;
    }
    let text = format!(
        "{} bytes of the output were dropped before anybody took them (--drop-output)",
        outcome.dropped
    );
    if is_allowed {
        output::line(&format!("farpipe: {text}"));
    } else {
        outcome.error.get_or_insert(PipeError::Remote(text));
    }
}

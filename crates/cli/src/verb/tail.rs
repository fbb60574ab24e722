//! `farpipe tail`: follows files of an agent's host.

mod print;

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use farpipe_agent::endpoint::{self, EndpointSpec, Sink, Use};
use farpipe_agent::pipe::{self, Cancel};
use farpipe_agent::shown::quoted;
use farpipe_agent::tail::ask::{self, Ended};
use farpipe_agent::tail::positions::Positions;
use farpipe_agent::{Outcome, PipeError};
use farpipe_net::{Events, Opener, SessionEnd};
use farpipe_proto::limits::{INNER_OPEN_MAX, TAIL_PATHS_MAX};
use farpipe_proto::wire::tail::Tail;
use tokio::task::JoinSet;

use self::print::{Names, Printer};
use super::anew::Anew;
use super::far::Word;
use super::reuse::ReusedRoute;
use super::route::Way;
use super::session::{SessionArgs, conclude, not_opened, settle, span};
use crate::exit::WithStatus;
use crate::output;
use crate::progress::Counts;
use crate::signals::Signals;
use crate::status::Status;

/// Exit status when a file could not be read, or is not whole.
const STATUS_INCOMPLETE: u8 = 1;

/// Follow files of an agent's host
///
/// Prints the last lines of each and then what is written to it, through rotations of its name
/// (renamed, copied and emptied, taken away and made anew), until a signal comes or nobody reads
/// stdout any more. A file that is not there, or that a pattern does not find, is waited for, and stderr
/// says so; with --no-follow it is an error. If there are only directories and the like, it ends (1). Every line is printed once, also when the
/// connection is lost, the agent is started anew and the files are rotated meanwhile; if something of
/// a file is gone, stderr says so.
///
/// HOST is a name at a relay, or an agent's URL in brackets: [wss://web1:7000]:/var/log/app.log. PATH is
/// absolute or from the home directory there on; the agent must allow read:DIR. Quoted patterns (* ? [a-z])
/// are compared with the names there, and find also what comes later. -f and -F are what it does anyway.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What to follow: a path or a pattern at that host; several of one host
    #[arg(required = true, value_name = "HOST:PATH")]
    words: Vec<OsString>,
    /// Begin with the last N lines of what is there; with +N, at line N
    #[arg(short = 'n', long, value_name = "[+]N", default_value = "10", value_parser = Lines::parse)]
    lines: Lines,
    /// Begin with the last N bytes of what is there; with +N, at byte N
    #[arg(short = 'c', long, value_name = "[+]N", value_parser = Bytes::parse, conflicts_with = "lines")]
    bytes: Option<Bytes>,
    /// What it does anyway, as tail's -F
    #[arg(
        short = 'f',
        short_alias = 'F',
        long,
        overrides_with = "follow",
        conflicts_with = "no_follow"
    )]
    follow: bool,
    /// Begin at the start of what is there, as -n +1
    #[arg(long, conflicts_with_all = ["lines", "bytes"])]
    from_start: bool,
    /// End when all that is there is printed; with 1 if a file is not there or could not be read, or
    /// nothing fits a pattern
    #[arg(long)]
    no_follow: bool,
    /// How the names of the files are printed: as headers if there can be several, in front of each line,
    /// or not at all
    #[arg(long, value_name = "HOW", default_value = "auto")]
    names: NamesArg,
    /// As --names each
    #[arg(long, conflicts_with = "names")]
    prefix: bool,
    /// How long to try to get a lost connection, or a lost agent, back (30s, 10m, 2h)
    #[arg(long, value_name = "TIME", value_parser = span, default_value = "10m")]
    resume_for: Duration,
    #[command(flatten)]
    route: ReusedRoute,
    #[command(flatten)]
    session: SessionArgs,
}

/// How names are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum NamesArg {
    /// Headers if there can be several files
    Auto,
    /// Headers
    Headers,
    /// In front of each line
    Each,
    /// Not at all
    None,
}

/// Where to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lines {
    Last(u64),
    From(u64),
}

/// The same in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bytes {
    Last(u64),
    From(u64),
}

impl Bytes {
    fn parse(text: &str) -> Result<Self, String> {
        let (size, bytes): (_, fn(u64) -> Self) = match text.strip_prefix('+') {
            Some(size) => (size, Self::From),
            None => (text, Self::Last),
        };
        let (digits, unit) = match size.as_bytes().last() {
            Some(b'K' | b'k') => (&size[..size.len() - 1], 1 << 10),
            Some(b'M') => (&size[..size.len() - 1], 1 << 20),
            Some(b'G') => (&size[..size.len() - 1], 1 << 30),
            _ => (size, 1_u64),
        };
        let number = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(unit));
        number
            .map(bytes)
            .ok_or_else(|| "a number of bytes, 64K, 10M or 1G, or +N for byte N on".to_owned())
    }
}

impl Lines {
    fn parse(text: &str) -> Result<Self, String> {
        let (digits, lines): (_, fn(u64) -> Self) = match text.strip_prefix('+') {
            Some(digits) => (digits, Self::From),
            None => (text, Self::Last),
        };
        let number = digits.parse::<u64>();
        number
            .map(lines)
            .map_err(|_| "a number of lines, or +N for line N on".to_owned())
    }
}

/// What is to be followed, and of whom.
#[derive(Debug)]
struct Wanted {
    host: String,
    paths: Vec<Vec<u8>>,
}

impl Args {
    fn wanted(&self) -> anyhow::Result<Wanted> {
        let example = "for example: farpipe tail web1:/var/log/app.log";
        let mut wanted: Option<Wanted> = None;
        for text in &self.words {
            let Word { host, rest } = Word::of(text);
            let Some(host) = host.filter(|_| !rest.is_empty()) else {
                return Err(WithStatus::usage(
                    format!("{} is no HOST:PATH", quoted(text.as_bytes())),
                    example,
                ));
            };
            let path = rest.as_bytes().to_vec();
            match &mut wanted {
                None => {
                    let paths = vec![path];
                    wanted = Some(Wanted { host, paths });
                }
                Some(wanted) if wanted.host == host => wanted.paths.push(path),
                Some(wanted) => {
                    return Err(WithStatus::usage(
                        format!("two hosts: {} and {host}", wanted.host),
                        "run one tail for each",
                    ));
                }
            }
        }
        let Some(wanted) = wanted.filter(|wanted| wanted.paths.len() <= TAIL_PATHS_MAX) else {
            return Err(WithStatus::usage(
                format!("more than {TAIL_PATHS_MAX} paths"),
                "a pattern can mean many: 'web1:/var/log/*.log'",
            ));
        };
        Ok(wanted)
    }

    fn names(&self, wanted: &Wanted) -> Names {
        let is_wild = |path: &Vec<u8>| path.iter().any(|byte| b"*?[".contains(byte));
        let is_one = wanted.paths.len() == 1 && !wanted.paths.iter().any(is_wild);
        match (self.prefix, self.names) {
            (true, _) | (false, NamesArg::Each) => Names::Each,
            (false, NamesArg::Headers) => Names::Headers,
            (false, NamesArg::None) => Names::None,
            (false, NamesArg::Auto) if is_one => Names::None,
            (false, NamesArg::Auto) => Names::Headers,
        }
    }

    /// What is asked of the agent.
    fn tail(&self, wanted: &Wanted, positions: &Positions) -> anyhow::Result<Tail> {
        let lines = match self.from_start {
            true => Lines::From(1),
            false => self.lines,
        };
        let (bytes, from_byte) = match self.bytes {
            None => (0, 0),
            Some(Bytes::Last(bytes)) => (bytes, 0),
            Some(Bytes::From(byte)) => (0, byte.max(1)),
        };
        let tail = Tail {
            paths: wanted.paths.clone(),
            bytes,
            from_byte,
            lines: match lines {
                // The last 0 bytes are no lines.
                Lines::Last(_) if self.bytes.is_some() => 0,
                Lines::Last(lines) => lines,
                Lines::From(_) => 0,
            },
            from_line: match lines {
                Lines::Last(_) => 0,
                Lines::From(line) => line.max(1),
            },
            once: self.no_follow,
            resumed: positions.has_begun,
            positions: positions.all(),
        };
        // With something for the rest of OPEN.
        if tail.size() + 1024 > INNER_OPEN_MAX {
            return Err(WithStatus::failure(
                "the paths are too long: 255 KiB is the limit",
                Some("follow fewer files in one tail".to_owned()),
            ));
        }
        Ok(tail)
    }

    fn way(&self, host: &str, events: &Events) -> anyhow::Result<Way> {
        let (route, session) = (&self.route, &self.session);
        let mut way = route.way_of(host, self.resume_for, session)?;
        way.config.events = Some(events.clone());
        Ok(way)
    }
}

pub(crate) async fn run(args: Args, quiet: bool) -> anyhow::Result<u8> {
    let wanted = args.wanted()?;
    let status = Status::open(args.session.status_fd, true)?;
    let (signals, cancel) = Signals::catch()?;
    let counts = Arc::new(Counts::default());
    let mut tasks = JoinSet::new();
    let events = args
        .session
        .watch(&mut tasks, Arc::clone(&counts), status.clone(), quiet);
    let mut printer = Printer::new(&wanted.host, args.names(&wanted), args.no_follow, quiet);
    let work = async {
        let opened = endpoint::open(&EndpointSpec::stdio(), Use::Sink).await;
        let opened = opened.map_err(not_opened)?;
        let mut sink = opened.sink.expect("it was asked for");
        let going_on = GoingOn {
            args: &args,
            wanted: &wanted,
            events,
            quiet,
        };
        going_on.run(&mut *sink, &mut printer, cancel).await
    };
    let (outcome, signal) = signals.run(work).await;
    settle(tasks).await;
    let ended = outcome.unwrap_or_else(|| Ok(PipeError::Cancelled.into()));
    let code = conclude(ended, signal, &status)?;
    Ok(match code {
        0 if printer.is_incomplete => STATUS_INCOMPLETE,
        code => code,
    })
}

/// One session after the other, as long as it takes.
struct GoingOn<'a> {
    args: &'a Args,
    wanted: &'a Wanted,
    events: Events,
    quiet: bool,
}

impl GoingOn<'_> {
    async fn run(
        &self,
        sink: &mut dyn Sink,
        printer: &mut Printer,
        cancel: Cancel,
    ) -> anyhow::Result<Outcome> {
        let mut positions = Positions::default();
        let mut anew = Anew::within(self.args.resume_for);
        // Once it was there, it comes back; one that never was is a mistake.
        let mut was_there = false;
        loop {
            positions.begin();
            let tail = self.args.tail(self.wanted, &positions)?;
            let Way { dial, config, .. } = self.args.way(&self.wanted.host, &self.events)?;
            let opener = Opener::new(config);
            // A session is large, and every future around it would have room for one on the stack.
            let asking = Box::pin(ask::run(
                tail,
                &mut positions,
                (sink, printer),
                opener,
                &*dial,
                cancel.clone(),
            ));
            let end = match asking.await {
                Ended::Finished => return Ok(Outcome::default()),
                Ended::ReaderGone => {
                    return Ok(Outcome {
                        reader_gone: true,
                        ..Outcome::default()
                    });
                }
                Ended::Cancelled => return Ok(PipeError::Cancelled.into()),
                Ended::Unwritten(error) => {
                    let error = format!("cannot write to stdout: {error}");
                    return Ok(PipeError::Local(error).into());
                }
                Ended::Refused { status, message } => {
                    return Ok(PipeError::Refused { status, message }.into());
                }
                Ended::Odd(error) => return Ok(PipeError::Remote(error).into()),
                Ended::Left(_) => SessionEnd::Forgotten("the agent has given it up".to_owned()),
                Ended::Lost(SessionEnd::Forgotten(_)) => {
                    SessionEnd::Forgotten("the agent was started anew".to_owned())
                }
                Ended::Lost(end) => end,
            };
            was_there |= positions.has_begun;
            // Another session helps if the agent does not know this one any more.
            let may_help = match end {
                SessionEnd::Forgotten(_) => true,
                SessionEnd::Refused(_) => was_there,
                _ => false,
            };
            was_there |= may_help;
            if !may_help {
                return Ok(PipeError::from(end).into());
            }
            if positions.is_taken_up {
                anew.handle_progress();
            }
            let Some(wait) = anew.poll_wait() else {
                return Ok(PipeError::from(end).into());
            };
            self.tell(&end, wait);
            printer.is_asked_anew = true;
            let waiting = pipe::unless_cancelled(cancel.clone(), tokio::time::sleep(wait));
            if let Err(error) = waiting.await {
                return Ok(error.into());
            }
        }
    }

    fn tell(&self, end: &SessionEnd, wait: Duration) {
        if !self.quiet {
            let (host, secs) = (&self.wanted.host, wait.as_secs());
            let what = match end {
                SessionEnd::Refused(why) => format!("not back yet: {why}"),
                end => end.to_string(),
            };
            output::line(&format!(
                "farpipe: {what}; {host} is asked anew in {secs} s"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_written_as_for_tail() {
        for (text, expected) in [
            ("10", Some(Bytes::Last(10))),
            ("0", Some(Bytes::Last(0))),
            ("2K", Some(Bytes::Last(2048))),
            ("+1M", Some(Bytes::From(1 << 20))),
            ("+", None),
            ("K", None),
            ("-5", None),
            ("99999999999G", None),
        ] {
            assert_eq!(Bytes::parse(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn lines_are_written_as_for_tail() {
        for (text, expected) in [
            ("10", Some(Lines::Last(10))),
            ("0", Some(Lines::Last(0))),
            ("+1", Some(Lines::From(1))),
            ("", None),
            ("+", None),
            ("-5", None),
            ("ten", None),
        ] {
            assert_eq!(Lines::parse(text).ok(), expected, "{text}");
        }
    }
}

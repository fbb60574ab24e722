//! `farpipe ping`: round trips to an agent and back, end to end.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::time::{Duration, Instant};

use farpipe_agent::outcome::STATUS_FAILURE;
use farpipe_agent::ping::{self, Answers, Questions};
use farpipe_agent::pipe::{Cancel, cancelled};
use farpipe_net::{Dial, Opener, SessionEnd};
use farpipe_proto::identity::is_name;
use farpipe_proto::limits::HEARTBEAT;
use tokio::time::MissedTickBehavior;

use super::reuse::{Patience, ReusedRoute};
use super::route::Way;
use super::session::span;
use crate::exit::{self, WithStatus};
use crate::output;
use crate::signals::Signals;

/// Questions without an answer, beyond which none is asked: the agent is not there, and memory is
/// not for this.
const UNANSWERED_MAX: usize = 1024;

/// Ask an agent whether it is there, and measure how long the answer takes
///
/// Each question goes the whole way that data goes: through the session, the relay, to the agent's
/// process, and back. A lost connection is resumed, and the question with it: its answer is late, not
/// lost. Exit status 0 if every question was answered, else 125.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The agent's name at a relay
    host: String,
    /// How many questions [default: until interrupted]
    #[arg(short = 'c', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// How long from one question to the next, at least 10ms
    #[arg(short = 'i', long, value_name = "TIME", default_value = "1s", value_parser = interval)]
    interval: Duration,
    /// How long to wait for the last answers, and for a lost connection
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = span)]
    wait: Duration,
    #[command(flatten)]
    route: ReusedRoute,
}

fn interval(text: &str) -> Result<Duration, String> {
    let interval = span(text)?;
    if interval < Duration::from_millis(10) {
        return Err("at least 10ms".to_owned());
    }
    Ok(interval)
}

/// What was asked and answered.
#[derive(Debug, Default)]
struct Tally {
    asked: u64,
    /// When the questions were asked that have no answer.
    open: BTreeMap<u64, Instant>,
    answered: u64,
    sum: Duration,
    /// The shortest and the longest.
    bounds: Option<(Duration, Duration)>,
    /// Why not all could be printed.
    unwritten: Option<io::Error>,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<u8> {
    if !is_name(&args.host) {
        return Err(WithStatus::usage(
            format!("'{}' is no name of an agent", args.host.escape_debug()),
            "farpipe ping NAME --relay URL; for the way to a URL: farpipe doctor URL",
        ));
    }
    let patience = Patience {
        resume_for: args.wait,
        heartbeat: HEARTBEAT,
    };
    let reused = args.route.reused(&args.host, patience);
    let way = match reused {
        Some(way) => way,
        None => {
            let mut way = args.route.anew().way(&args.host)?;
            way.config.resume_for = args.wait;
            way
        }
    };
    let (signals, cancel) = Signals::catch()?;
    let tally = RefCell::new(Tally::default());
    let (ended, _) = signals.run(args.converse(way, cancel, &tally)).await;
    let tally = tally.into_inner();
    if let Some(error) = tally.unwritten {
        return exit::printed(Err(error));
    }
    if tally.asked > 0 {
        let printed = output::data(tally.summary(&args.host).as_bytes());
        if printed.is_err() {
            return exit::printed(printed);
        }
    }
    if let Some(Err(end)) = ended
        && end != SessionEnd::Closed
    {
        return Err(WithStatus::failure(end.to_string(), None));
    }
    Ok(match tally.open.is_empty() && tally.asked > 0 {
        true => 0,
        false => STATUS_FAILURE,
    })
}

/// Waits for one answer; how long it took. For `farpipe doctor`.
pub(crate) async fn once(way: Way, wait: Duration) -> Result<Option<Duration>, SessionEnd> {
    let Way {
        dial, mut config, ..
    } = way;
    config.resume_for = wait;
    let opener = Opener::new(config);
    let handle = opener.handle();
    let Some((mut questions, mut answers)) = ping::open(&handle) else {
        return Ok(None);
    };
    let work = async {
        let began = Instant::now();
        let asking = async {
            questions.ask(1).await.ok()?;
            answers.next().await.ok()?
        };
        let answered = tokio::time::timeout(wait, asking).await.ok().flatten();
        let took = answered.map(|_| began.elapsed());
        questions.finish();
        if took.is_some() {
            let _ = answers.next().await;
            handle.finish_opening();
        } else {
            handle.end(SessionEnd::Closed);
        }
        took
    };
    match tokio::join!(opener.run(&*dial), work) {
        (Err(end), None) if end != SessionEnd::Closed => Err(end),
        (_, took) => Ok(took),
    }
}

impl Args {
    /// Asks and hears until all is answered, nothing more is to be expected, or it is cancelled.
    async fn converse(
        &self,
        way: Way,
        cancel: Cancel,
        tally: &RefCell<Tally>,
    ) -> Result<(), SessionEnd> {
        let Way { dial, config, .. } = way;
        let opener = Opener::new(config);
        let name = opener.name();
        let handle = opener.handle();
        let Some((questions, answers)) = ping::open(&handle) else {
            return Err(SessionEnd::Lost("no stream can be opened".to_owned()));
        };
        let talk = async {
            let asking = self.ask(questions, cancel, tally);
            let hearing = self.hear(answers, &*dial, &name, tally);
            tokio::pin!(hearing);
            let heard = tokio::select! {
                asked = asking => match asked {
                    true => tokio::time::timeout(self.wait, hearing).await.unwrap_or(false),
                    false => false,
                },
                heard = &mut hearing => heard,
            };
            match heard {
                true => handle.finish_opening(),
                // It says goodbye, if it has a link to say it on.
                false => handle.end(SessionEnd::Closed),
            }
        };
        tokio::join!(opener.run(&*dial), talk).0
    }

    /// Whether all answers are to be waited for.
    async fn ask(&self, mut questions: Questions, cancel: Cancel, tally: &RefCell<Tally>) -> bool {
        let mut beat = tokio::time::interval(self.interval);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let told = cancelled(cancel);
        tokio::pin!(told);
        while self.count.is_none_or(|count| tally.borrow().asked < count) {
            tokio::select! {
                biased;
                () = &mut told => {
                    // What was asked a moment ago is not held against the agent.
                    let recent = |asked: &Instant| asked.elapsed() < self.interval;
                    let mut tally = tally.borrow_mut();
                    let before = tally.open.len();
                    tally.open.retain(|_, asked| !recent(asked));
                    tally.asked -= (before - tally.open.len()) as u64;
                    return false;
                }
                _ = beat.tick() => {}
            }
            if tally.borrow().open.len() >= UNANSWERED_MAX {
                continue;
            }
            let number = {
                let mut tally = tally.borrow_mut();
                tally.asked += 1;
                let number = tally.asked;
                tally.open.insert(number, Instant::now());
                number
            };
            if questions.ask(number).await.is_err() {
                // The answers end, too, and the session says why.
                std::future::pending::<()>().await;
            }
        }
        questions.finish();
        true
    }

    /// Whether the answers came to their end in order.
    async fn hear(
        &self,
        mut answers: Answers,
        dial: &dyn Dial,
        session: &str,
        tally: &RefCell<Tally>,
    ) -> bool {
        loop {
            let number = match answers.next().await {
                Ok(Some(number)) => number,
                Ok(None) => return true,
                Err(_) => return false,
            };
            let mut tally = tally.borrow_mut();
            let Some(asked) = tally.open.remove(&number) else {
                continue;
            };
            let took = asked.elapsed();
            tally.note(took);
            let line = format!(
                "{} by {}: n={number} time={}\n",
                self.host,
                dial.peer(),
                millis(took)
            );
            if let Err(error) = output::data(line.as_bytes()) {
                tally.unwritten = Some(error);
                return false;
            }
            tracing::debug!("session {session}: answer {number}");
        }
    }
}

impl Tally {
    fn note(&mut self, took: Duration) {
        self.answered += 1;
        self.sum += took;
        let (min, max) = self.bounds.unwrap_or((took, took));
        self.bounds = Some((min.min(took), max.max(took)));
    }

    fn summary(&self, host: &str) -> String {
        let Self {
            asked, answered, ..
        } = self;
        let missing = asked.saturating_sub(*answered);
        let mut text =
            format!("--- {host}: {asked} asked, {answered} answered, {missing} missing\n");
        if let Some((min, max)) = self.bounds {
            let mean = self.sum.as_secs_f64() / *answered as f64;
            let mean = millis(Duration::from_secs_f64(mean));
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "rtt min/mean/max = {}/{mean}/{}",
                millis(min),
                millis(max)
            );
        }
        text
    }
}

fn millis(took: Duration) -> String {
    format!("{:.3} ms", took.as_secs_f64() * 1e3)
}

//! The way to the topics of a relay: the flags of those who publish, read, and ask.

use std::time::Duration;

use clap::Args;
use farpipe_agent::topic::{Made, Told};
use farpipe_net::WallClock;
use farpipe_proto::wire::topic::{From, FromWhere, name_objection};
use farpipe_record::json::parsed;

use super::route::RouteArgs;
use super::session::{heartbeat, span};
use crate::exit::WithStatus;
use crate::output;

/// Which relay, and how it is reached.
#[derive(Debug, Args)]
pub(crate) struct TopicRouteArgs {
    #[command(flatten)]
    route: RouteArgs,
    /// The beat of the signs of life; a link silent for three beats is dead
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = heartbeat)]
    heartbeat: Duration,
}

impl TopicRouteArgs {
    /// What makes a session with the relay that keeps topics.
    pub(crate) fn made(&self) -> anyhow::Result<Made> {
        let (dial, mut config) = self.route.to_topics()?;
        config.heartbeat = self.heartbeat;
        Ok((config, dial))
    }

    /// The same, again and again, once it was made.
    pub(crate) fn maker(&self) -> anyhow::Result<impl Fn() -> Made + '_> {
        self.made()?;
        Ok(|| {
            let made = self.made();
            made.unwrap_or_else(|error| unreachable!("it was made before: {error:#}"))
        })
    }
}

/// Where reading begins.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Start {
    Earliest,
    Latest,
    Offset(u64),
    Ago(Duration),
    At(u64),
}

pub(crate) fn start(text: &str) -> Result<Start, String> {
    match text {
        "earliest" => Ok(Start::Earliest),
        "latest" => Ok(Start::Latest),
        _ => match text.parse() {
            Ok(offset) => Ok(Start::Offset(offset)),
            Err(_) => match (span(text), parsed(text)) {
                (Ok(ago), _) => Ok(Start::Ago(ago)),
                (Err(_), Some(at)) => Ok(Start::At(at)),
                (Err(_), None) => Err(
                    "earliest, latest, an offset, a time ago (10m, 2h, 7d) or a time as 2026-11-27T22:04:47Z is wanted".to_owned(),
                ),
            },
        },
    }
}

impl Start {
    pub(crate) fn place(self) -> From {
        let place = match self {
            Self::Earliest => FromWhere::Earliest(true),
            Self::Latest => FromWhere::Latest(true),
            Self::Offset(offset) => FromWhere::Offset(offset),
            Self::At(at) => FromWhere::TimeNs(at),
            Self::Ago(ago) => {
                let at = WallClock::System.now().saturating_sub(ago);
                FromWhere::TimeNs(u64::try_from(at.as_nanos()).unwrap_or(u64::MAX))
            }
        };
        From { place: Some(place) }
    }
}

/// A topic's name, from a command line.
pub(crate) fn topic(text: &str) -> Result<String, String> {
    match name_objection(text) {
        None => Ok(text.to_owned()),
        Some(why) => Err(format!("{why}; for example app.log")),
    }
}

/// One byte between a key and a value, from a command line.
pub(crate) fn separator(text: &str) -> Result<u8, String> {
    match text {
        "\\t" | "TAB" => Ok(b'\t'),
        _ if text.len() == 1 && text != "\n" => Ok(text.as_bytes()[0]),
        _ => Err("one character is wanted, or TAB".to_owned()),
    }
}

/// Says what happens on stderr.
pub(crate) struct Teller {
    pub(crate) quiet: bool,
    last: String,
}

impl Teller {
    pub(crate) fn new(quiet: bool) -> Self {
        let last = String::new();
        Self { quiet, last }
    }
}

impl Told for Teller {
    fn lost(&mut self, why: &str, wait: Duration) {
        if !self.quiet {
            let secs = wait.as_secs();
            output::line(&format!(
                "farpipe: {why}; the relay is asked anew in {secs} s"
            ));
        }
    }

    fn notice(&mut self, why: &str) {
        if !self.quiet && self.last != why {
            output::line(&format!("farpipe: {why}"));
            self.last = why.to_owned();
        }
    }
}

/// A failure of the asking side.
pub(crate) fn failed(message: String) -> anyhow::Error {
    WithStatus::failure(message, None)
}

//! The way to the topics of a relay: the flags of those who publish, read, and ask.

use std::time::Duration;

use clap::Args;
use farpipe_agent::topic::{Made, Told};
use farpipe_proto::wire::topic::name_objection;

use super::route::RouteArgs;
use super::session::heartbeat;
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

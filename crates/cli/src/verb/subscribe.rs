//! `farpipe sub`: reads a topic.

use std::time::Duration;

use farpipe_agent::outcome::PipeError;
use farpipe_agent::topic::subscribe::{Read, SubscribeConfig, subscribe};
use farpipe_agent::{Outcome, pipe};
use farpipe_net::WallClock;
use farpipe_proto::wire::topic::{From, FromWhere};

use super::session::{conclude, span};
use super::topic_route::{Teller, TopicRouteArgs, separator, topic};
use crate::output;
use crate::signals::Signals;
use crate::status::Status;

/// Read a topic of a relay
///
/// Each record is written to stdout as a line, in the order of its partition, each once, also when the connection is lost or the
/// relay started anew meanwhile. Without --count or --exit-at-end it goes on until it is told to end.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The topic; it is made if the relay makes topics on first use
    #[arg(value_name = "TOPIC", value_parser = topic)]
    topic: String,
    #[command(flatten)]
    route: TopicRouteArgs,
    /// Where to begin: earliest, latest, an offset, or a time ago (10m, 2h, 7d)
    #[arg(long, value_name = "WHERE", default_value = "latest", value_parser = from)]
    from: Start,
    /// Read these partitions only; counted from 0, repeatable
    #[arg(long, value_name = "N")]
    partition: Vec<u32>,
    /// End after so many records
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// End when all records were written that were there at the beginning
    #[arg(long)]
    exit_at_end: bool,
    /// Write a record's key in front of its value, with this character (or TAB) between them
    #[arg(long, value_name = "CHAR", value_parser = separator)]
    key_separator: Option<u8>,
    /// How long to try without progress (30s, 10m, 2h)
    #[arg(long, value_name = "TIME", value_parser = span, default_value = "10m")]
    resume_for: Duration,
}

/// Where reading begins.
#[derive(Debug, Clone, Copy)]
enum Start {
    Earliest,
    Latest,
    Offset(u64),
    Ago(Duration),
}

fn from(text: &str) -> Result<Start, String> {
    match text {
        "earliest" => Ok(Start::Earliest),
        "latest" => Ok(Start::Latest),
        _ => match text.parse() {
            Ok(offset) => Ok(Start::Offset(offset)),
            Err(_) => match span(text) {
                Ok(ago) => Ok(Start::Ago(ago)),
                Err(_) => Err(
                    "earliest, latest, an offset or a time ago (10m, 2h, 7d) is wanted".to_owned(),
                ),
            },
        },
    }
}

impl Start {
    fn place(self) -> From {
        let place = match self {
            Self::Earliest => FromWhere::Earliest(true),
            Self::Latest => FromWhere::Latest(true),
            Self::Offset(offset) => FromWhere::Offset(offset),
            Self::Ago(ago) => {
                let at = WallClock::System.now().saturating_sub(ago);
                FromWhere::TimeNs(u64::try_from(at.as_nanos()).unwrap_or(u64::MAX))
            }
        };
        From { place: Some(place) }
    }
}

pub(crate) async fn run(args: Args, quiet: bool) -> anyhow::Result<u8> {
    let status = Status::open(None, true)?;
    let (signals, cancel) = Signals::catch()?;
    let config = SubscribeConfig {
        topic: args.topic.clone(),
        from: args.from.place(),
        partitions: args.partition.clone(),
        count: args.count,
        exit_at_end: args.exit_at_end,
        key_separator: args.key_separator,
        resume_for: args.resume_for,
    };
    let maker = args.route.maker()?;
    let mut teller = Teller::new(quiet);
    let work = async {
        let reading = subscribe(&config, maker, &mut teller);
        let (read, error) = match pipe::unless_cancelled(cancel, reading).await {
            Ok(Ok(read)) => (read, None),
            Ok(Err((error, read))) => (read, Some(error)),
            Err(error) => (Read::default(), Some(error)),
        };
        Ok::<_, anyhow::Error>((read, error))
    };
    let (ended, signal) = signals.run(work).await;
    let ended = ended.unwrap_or_else(|| Ok((Read::default(), Some(PipeError::Cancelled))));
    let ended = ended.map(|(read, error)| {
        let missing = (read.missing > 0)
            .then(|| PipeError::Local(format!("{} records could not be had", read.missing)));
        Outcome {
            reader_gone: read.reader_gone,
            error: error.or(missing),
            ..Outcome::default()
        }
    });
    if let Ok(outcome) = &ended
        && matches!(outcome.error, Some(PipeError::Refused { .. }))
    {
        output::flush();
    }
    conclude(ended, signal, &status)
}

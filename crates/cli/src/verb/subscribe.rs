//! `farpipe sub`: reads a topic.

use std::time::Duration;

use farpipe_agent::outcome::PipeError;
use farpipe_agent::topic::subscribe::{Read, SubscribeConfig, subscribe};
use farpipe_agent::{Outcome, pipe};

use super::session::{conclude, span};
use super::shape::ShapeArgs;
use super::topic_route::{Start, Teller, TopicRouteArgs, start, topic};
use crate::output;
use crate::signals::Signals;
use crate::status::Status;

/// How long a member that is told to end may take to say what it has written.
const LEAVE: Duration = Duration::from_secs(2);

/// Read a topic of a relay
///
/// Each record is written to stdout as a line, or as what else --format says, in the order of its partition, each once, also when the connection is lost or the
/// relay started anew meanwhile. Without --count or --exit-at-end it goes on until it is told to end.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The topic; it is made if the relay makes topics on first use
    #[arg(value_name = "TOPIC", value_parser = topic)]
    topic: String,
    #[command(flatten)]
    route: TopicRouteArgs,
    /// Where to begin: earliest, latest, an offset, a time ago (10m, 2h, 7d) or a time as 2026-11-27T22:04:47Z
    #[arg(long, value_name = "WHERE", default_value = "latest", value_parser = start)]
    from: Start,
    /// Read these partitions only; counted from 0, repeatable
    #[arg(long, value_name = "N")]
    partition: Vec<u32>,
    /// Read as a member of this group: its members share the topic's partitions, and what one of them has written is read by none of
    /// them again, now or later. A group that has read nothing yet begins where --from says
    #[arg(long, value_name = "NAME", value_parser = topic, conflicts_with = "partition")]
    group: Option<String>,
    /// As a member: so many records of a partition may be on their way and not written
    #[arg(long, value_name = "N", requires = "group", value_parser = clap::value_parser!(u32).range(1..))]
    max_in_flight: Option<u32>,
    /// As the group's first member: put a record aside, into TOPIC.dlq, whose readers were lost so often [default: 5]
    #[arg(long, value_name = "N", requires = "group")]
    max_deliver: Option<u32>,
    /// End after so many records
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// End when all records were written that were there at the beginning
    #[arg(long)]
    exit_at_end: bool,
    #[command(flatten)]
    shape: ShapeArgs,
    /// How long to try without progress (30s, 10m, 2h)
    #[arg(long, value_name = "TIME", value_parser = span, default_value = "10m")]
    resume_for: Duration,
}

pub(crate) async fn run(args: Args, quiet: bool) -> anyhow::Result<u8> {
    let status = Status::open(None, true)?;
    let (signals, cancel) = Signals::catch()?;
    let config = SubscribeConfig {
        topic: args.topic.clone(),
        from: args.from.place(),
        partitions: args.partition.clone(),
        group: args.group.clone(),
        in_flight_max: args.max_in_flight,
        deliveries_max: args.max_deliver,
        count: args.count,
        exit_at_end: args.exit_at_end,
        shape: args.shape.shape()?,
        resume_for: args.resume_for,
    };
    let maker = args.route.maker()?;
    let mut teller = Teller::new(quiet);
    let work = async {
        let reading = subscribe(&config, maker, &mut teller, cancel.clone());
        // A member says what it has written before it goes; if it can, in time.
        let patience = match config.group {
            Some(_) => LEAVE,
            None => Duration::ZERO,
        };
        let impatient = async {
            pipe::cancelled(cancel).await;
            tokio::time::sleep(patience).await;
        };
        Ok::<_, anyhow::Error>(tokio::select! {
            read = reading => match read {
                Ok(read) => (read, None),
                Err((error, read)) => (read, Some(error)),
            },
            () = impatient => (Read::default(), Some(PipeError::Cancelled)),
        })
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

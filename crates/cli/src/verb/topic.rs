//! `farpipe topic`: makes, shows and removes the topics of a relay.

use std::time::Duration;

use clap::Subcommand;
use farpipe_agent::topic::ask::ask;
use farpipe_proto::wire::topic::{From, GroupAsk, Level, TopicSettings, TopicState, TopicWant};

use super::session::span;
use super::topic_route::{Start, TopicRouteArgs, failed, start, topic};
use crate::exit::printed;
use crate::output;

/// Make, show and remove the topics of a relay
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a topic, or say anew how one is kept: what is not named stays as it is
    Create(CreateArgs),
    /// List topics
    Ls(LsArgs),
    /// Show how a topic is kept, and what there is of it
    Describe(DescribeArgs),
    /// Remove a topic with all its records
    Rm(RmArgs),
    /// Say where a group of readers goes on; it must have no member then
    Reset(ResetArgs),
    /// Forget what a group of readers has done; it must have no member then
    Forget(ForgetArgs),
}

#[derive(Debug, clap::Args)]
struct CreateArgs {
    /// Its name
    #[arg(value_name = "TOPIC", value_parser = topic)]
    topic: String,
    #[command(flatten)]
    route: TopicRouteArgs,
    /// Its partitions, for good [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    partitions: Option<u32>,
    /// What an acknowledged record has gone through: `disk` (or `durable`), written and synced; `interval=TIME`, synced within
    /// that; `os`, in the memory of the relay's system. A loss of power takes what is not synced [default: disk]
    #[arg(long, value_name = "LEVEL", value_parser = durability)]
    durability: Option<Durability>,
    /// Keep so many bytes of a partition, about; 0: all [default: all]
    #[arg(long, value_name = "BYTES")]
    retain_bytes: Option<u64>,
    /// Keep records for so long, about [default: for ever]
    #[arg(long, value_name = "TIME", value_parser = span)]
    retain_for: Option<Duration>,
    /// Do not keep what all groups have done, about; without a group all is kept
    #[arg(long)]
    retain_unread: bool,
}

#[derive(Debug, Clone, Copy)]
enum Durability {
    Disk,
    Interval(Duration),
    Os,
}

fn durability(text: &str) -> Result<Durability, String> {
    match text {
        "disk" | "durable" => return Ok(Durability::Disk),
        "os" => return Ok(Durability::Os),
        _ => {}
    }
    let within = text.strip_prefix("interval=").map(span);
    match within {
        Some(Ok(within)) => Ok(Durability::Interval(within)),
        Some(Err(why)) => Err(why),
        None => Err("disk, interval=TIME (100ms) or os is wanted".to_owned()),
    }
}

#[derive(Debug, clap::Args)]
struct LsArgs {
    /// Of those only whose names begin so
    #[arg(value_name = "BEGINNING", default_value = "")]
    beginning: String,
    #[command(flatten)]
    route: TopicRouteArgs,
    /// As JSON, a line each
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct DescribeArgs {
    /// Its name
    #[arg(value_name = "TOPIC", value_parser = topic)]
    topic: String,
    #[command(flatten)]
    route: TopicRouteArgs,
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct RmArgs {
    /// Its name
    #[arg(value_name = "TOPIC", value_parser = topic)]
    topic: String,
    #[command(flatten)]
    route: TopicRouteArgs,
}

#[derive(Debug, clap::Args)]
struct GroupArgs {
    /// The topic
    #[arg(value_name = "TOPIC", value_parser = topic)]
    topic: String,
    #[command(flatten)]
    route: TopicRouteArgs,
    /// The group
    #[arg(long, value_name = "NAME", value_parser = topic)]
    group: String,
}

#[derive(Debug, clap::Args)]
struct ResetArgs {
    #[command(flatten)]
    of: GroupArgs,
    /// earliest, latest, an offset, a time ago (10m, 2h, 7d) or a time as 2026-11-27T22:04:47Z
    #[arg(long, value_name = "WHERE", value_parser = start)]
    to: Start,
}

#[derive(Debug, clap::Args)]
struct ForgetArgs {
    #[command(flatten)]
    of: GroupArgs,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<u8> {
    match args.action {
        Action::Create(args) => {
            let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
            let states = asked(&args.route, TopicWant::List(args.topic.clone())).await?;
            let known = states.into_iter().find(|state| name(state) == args.topic);
            let known = known.and_then(|state| state.settings).unwrap_or_default();
            let (level, interval_ms) = match args.durability {
                Some(Durability::Disk) => (Level::Disk as u32, 0),
                Some(Durability::Interval(within)) => (Level::Interval as u32, millis(within)),
                Some(Durability::Os) => (Level::Os as u32, 0),
                None => (known.level, known.interval_ms),
            };
            let settings = TopicSettings {
                name: args.topic,
                partitions: args.partitions.unwrap_or(0),
                level,
                interval_ms,
                retain_bytes: args.retain_bytes.unwrap_or(known.retain_bytes),
                retain_ms: args.retain_for.map_or(known.retain_ms, millis),
                retain_unread: args.retain_unread || known.retain_unread,
            };
            asked(&args.route, TopicWant::Create(settings)).await?;
            Ok(0)
        }
        Action::Ls(args) => {
            let states = asked(&args.route, TopicWant::List(args.beginning)).await?;
            let text: String = match args.json {
                true => states.iter().map(json).collect(),
                false => table(&states),
            };
            printed(output::data(text.as_bytes()))
        }
        Action::Describe(args) => {
            let states = asked(&args.route, TopicWant::List(args.topic.clone())).await?;
            let named = |state: &&TopicState| name(state) == args.topic;
            let Some(state) = states.iter().find(named) else {
                return Err(failed(format!("there is no topic {}", args.topic)));
            };
            let text = match args.json {
                true => json(state),
                false => description(state),
            };
            printed(output::data(text.as_bytes()))
        }
        Action::Rm(args) => {
            asked(&args.route, TopicWant::Remove(args.topic)).await?;
            Ok(0)
        }
        Action::Reset(args) => put_group(args.of, Some(args.to.place())).await,
        Action::Forget(args) => put_group(args.of, None).await,
    }
}

async fn put_group(of: GroupArgs, from: Option<From>) -> anyhow::Result<u8> {
    let ask = GroupAsk {
        topic: of.topic,
        group: of.group,
        from,
    };
    asked(&of.route, TopicWant::Group(ask)).await?;
    Ok(0)
}

async fn asked(route: &TopicRouteArgs, want: TopicWant) -> anyhow::Result<Vec<TopicState>> {
    let (config, dial) = route.made()?;
    let asked = ask(config, &*dial, want).await;
    asked.map_err(|error| failed(error.to_string()))
}

fn name(state: &TopicState) -> &str {
    state
        .settings
        .as_ref()
        .map_or("", |settings| settings.name.as_str())
}

fn records(state: &TopicState) -> u64 {
    let counts = state
        .partitions
        .iter()
        .map(|one| one.end.saturating_sub(one.start));
    counts.sum()
}

fn level(settings: &TopicSettings) -> String {
    match Level::from_wire(settings.level) {
        Some(Level::Disk) => "disk".to_owned(),
        Some(Level::Interval) => format!("interval {} ms", settings.interval_ms),
        Some(Level::Os) => "os".to_owned(),
        None => "unknown".to_owned(),
    }
}

fn table(states: &[TopicState]) -> String {
    let mut text = String::new();
    if !states.is_empty() {
        text.push_str(&format!(
            "{:<24} {:>10} {:>14} {:>14}  DURABILITY\n",
            "TOPIC", "PARTITIONS", "RECORDS", "BYTES"
        ));
    }
    for state in states {
        let bytes: u64 = state.partitions.iter().map(|one| one.bytes).sum();
        let durability = state.settings.as_ref().map(level).unwrap_or_default();
        text.push_str(&format!(
            "{:<24} {:>10} {:>14} {bytes:>14}  {durability}\n",
            name(state),
            state.partitions.len(),
            records(state),
        ));
    }
    text
}

fn description(state: &TopicState) -> String {
    let mut text = format!("topic {}\n", name(state));
    if let Some(settings) = &state.settings {
        text.push_str(&format!("durability {}\n", level(settings)));
        for (what, number, unit) in [
            ("retain_bytes", settings.retain_bytes, ""),
            ("retain_for", settings.retain_ms, " ms"),
        ] {
            if number > 0 {
                text.push_str(&format!("{what} {number}{unit}\n"));
            }
        }
        if settings.retain_unread {
            text.push_str("retain_unread\n");
        }
    }
    for (number, one) in state.partitions.iter().enumerate() {
        text.push_str(&format!(
            "partition {number}: offsets {} to {}, {} bytes{}\n",
            one.start,
            one.end,
            one.bytes,
            match one.damaged {
                0 => String::new(),
                n => format!(", {n} records damaged"),
            }
        ));
    }
    for group in &state.groups {
        text.push_str(&format!(
            "group {}: members {}\n",
            group.name, group.members
        ));
        for done in &group.done {
            let end = state
                .partitions
                .get(done.partition as usize)
                .map_or(0, |one| one.end);
            text.push_str(&format!(
                "group {}: partition {} at {}, {} behind\n",
                group.name,
                done.partition,
                done.offset,
                end.saturating_sub(done.offset)
            ));
        }
    }
    text
}

fn json(state: &TopicState) -> String {
    let partitions = state.partitions.iter().map(|one| {
        serde_json::json!({
            "start": one.start, "end": one.end, "bytes": one.bytes, "damaged": one.damaged,
        })
    });
    let groups = state.groups.iter().map(|group| {
        let done = group
            .done
            .iter()
            .map(|done| serde_json::json!({"partition": done.partition, "offset": done.offset}));
        serde_json::json!({
            "group": group.name, "members": group.members, "done": done.collect::<Vec<_>>(),
        })
    });
    let settings = state.settings.clone().unwrap_or_default();
    let line = serde_json::json!({
        "topic": settings.name,
        "durability": level(&settings),
        "retain_bytes": settings.retain_bytes,
        "retain_ms": settings.retain_ms,
        "retain_unread": settings.retain_unread,
        "partitions": partitions.collect::<Vec<_>>(),
        "groups": groups.collect::<Vec<_>>(),
    });
    format!("{line}\n")
}

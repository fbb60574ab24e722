//! `farpipe ls`: which agents, or which pipes, the relays know.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use clap::ValueEnum;
use farpipe_net::{CheckupError, Dial as _, hosts, pipes};
use farpipe_proto::wire::control::Host;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::route::RouteArgs;
use super::session::rough;
use crate::exit;
use crate::output;

/// List the agents, or the pipes, that relays know
///
/// All relays of the list are asked. Exit status 125 if one of them could not be asked; what the
/// others know is printed all the same.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What to list
    #[arg(value_enum, default_value = "hosts")]
    what: What,
    /// Print one JSON object instead: for each agent its name, tags, sessions, and relays with the
    /// time it has been up there; for each pipe its name, readers, and relays likewise
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    route: RouteArgs,
}

/// What can be listed.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum What {
    /// Agents
    Hosts,
    /// Pipes that have a writer (farpipe send), with their readers
    Pipes,
}

/// One relay's answer.
type Answer = (String, Result<Vec<Host>, CheckupError>);

/// An agent at one relay.
#[derive(Debug)]
struct Place {
    relay: String,
    host: Host,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<u8> {
    let what = args.what;
    let mut asking = JoinSet::new();
    for (number, relay) in args.route.relays("which relay to ask?")?.iter().enumerate() {
        let leg = args.route.relay(relay)?;
        let greeting = leg.greeting()?;
        asking.spawn(async move {
            let answer = match what {
                What::Hosts => hosts(&leg.dial, &greeting).await,
                What::Pipes => pipes(&leg.dial, &greeting).await,
            };
            (number, (leg.dial.peer(), answer))
        });
    }
    let mut answers: Vec<(usize, Answer)> = asking.join_all().await;
    // As they stand in the list, whoever was the quickest.
    answers.sort_by_key(|(number, _)| *number);
    let mut agents: BTreeMap<String, Vec<Place>> = BTreeMap::new();
    let mut relays = Vec::new();
    let mut all_answered = true;
    for (_, (relay, answer)) in answers {
        let error = match answer {
            Ok(hosts) => {
                for host in hosts {
                    let places = agents.entry(host.name.clone()).or_default();
                    let relay = relay.clone();
                    places.push(Place { relay, host });
                }
                None
            }
            Err(error) => {
                all_answered = false;
                let why = said(&relay, &error);
                output::error(&why);
                Some(why)
            }
        };
        relays.push(json!({"url": relay, "error": error}));
    }
    let text = if args.json {
        let all: Vec<Value> = agents.iter().map(|one| what.to_json(one)).collect();
        format!("{}\n", json!({what.key(): all, "relays": relays}))
    } else {
        what.table(&agents)
    };
    let printed = exit::printed(output::data(text.as_bytes()))?;
    Ok(match all_answered {
        true => printed,
        false => farpipe_agent::outcome::STATUS_FAILURE,
    })
}

fn said(relay: &str, error: &CheckupError) -> String {
    match error {
        // It names the relay itself.
        CheckupError::Dial(error) => error.message.clone(),
        CheckupError::Handshake(error) => format!("{relay}: {error}"),
    }
}

fn sessions(places: &[Place]) -> u64 {
    places.iter().map(|p| u64::from(p.host.sessions)).sum()
}

/// Tags are the agent's own, and the same everywhere.
fn tags(places: &[Place]) -> &[String] {
    places.first().map_or(&[], |place| &place.host.tags)
}

fn up_ms(places: &[Place]) -> u64 {
    places
        .iter()
        .map(|p| p.host.up_ms)
        .max()
        .unwrap_or_default()
}

impl What {
    fn key(self) -> &'static str {
        match self {
            Self::Hosts => "hosts",
            Self::Pipes => "pipes",
        }
    }

    fn to_json(self, (name, places): (&String, &Vec<Place>)) -> Value {
        let sessions_key = match self {
            Self::Hosts => "sessions",
            Self::Pipes => "readers",
        };
        let relays: Vec<Value> = places
            .iter()
            .map(|Place { relay, host }| {
                json!({"url": relay, "up_ms": host.up_ms, sessions_key: host.sessions})
            })
            .collect();
        let mut one = json!({
            "name": name,
            sessions_key: sessions(places),
            "up_ms": up_ms(places),
            "relays": relays,
        });
        if matches!(self, Self::Hosts) {
            one["tags"] = json!(tags(places));
        }
        one
    }

    /// Pipes have no tags.
    fn table(self, all: &BTreeMap<String, Vec<Place>>) -> String {
        let head = match self {
            Self::Hosts => ["NAME", "UP", "SESSIONS", "TAGS", "RELAYS"],
            Self::Pipes => ["NAME", "UP", "READERS", "", "RELAYS"],
        };
        let mut rows = vec![head.map(str::to_owned)];
        for (name, places) in all {
            let tags = match (self, tags(places)) {
                (Self::Pipes, _) => String::new(),
                (Self::Hosts, []) => "-".to_owned(),
                (Self::Hosts, tags) => tags.join(","),
            };
            let relays: Vec<&str> = places.iter().map(|place| place.relay.as_str()).collect();
            rows.push([
                name.clone(),
                rough(up_ms(places)),
                sessions(places).to_string(),
                tags,
                relays.join(","),
            ]);
        }
        printed(&rows)
    }
}

/// Rows with their columns beneath each other; one without any text is left out.
fn printed(rows: &[[String; 5]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..4).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for [name, up, sessions, tags, relays] in rows {
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "{name:<0$}  {up:>1$}  {sessions:>2$}  ",
            widths[0], widths[1], widths[2]
        );
        if widths[3] > 0 {
            let _ = write!(text, "{tags:<0$}  ", widths[3]);
        }
        let _ = writeln!(text, "{relays}");
    }
    text
}

//! What is asked of topics themselves: to make, remove and show them.

use std::io;
use std::time::Duration;

use farpipe_log::{AppendError, Cursor, CursorKey, Durability, Settings, Topic};
use farpipe_net::{ByteWriter, Stream};
use farpipe_proto::wire::topic::{
    GroupAsk, GroupState, Level, PartitionState, Position, TopicSettings, TopicState, TopicWant,
    name_objection,
};

use super::{Topics, accepted, level, refuse, say, subscribe};

/// Partitions of a topic at most.
const PARTITIONS_MAX: u32 = 64;

pub(super) async fn serve(topics: Topics, stream: Stream, want: TopicWant) {
    let answers = match done(&topics, want).await {
        Ok(answers) => answers,
        Err(why) => return refuse(stream, why),
    };
    let (mut messages, mut writer) = accepted(stream);
    let told = tell(&mut writer, &answers);
    // Nothing more is to come.
    let (told, _) = tokio::join!(told, messages.fill(1));
    if let Err(error) = told {
        tracing::debug!("nobody hears of topics any more: {error}");
    }
}

async fn tell(writer: &mut ByteWriter, answers: &[TopicState]) -> io::Result<()> {
    for state in answers {
        say(writer, state).await?;
    }
    writer.finish();
    Ok(())
}

/// Does it.
///
/// # Errors
/// Why not, for whoever asked.
async fn done(topics: &Topics, want: TopicWant) -> Result<Vec<TopicState>, String> {
    match want {
        TopicWant::Create(asked) => {
            let name = asked.name.clone();
            if let Some(objection) = name_objection(&name) {
                let name = name.escape_debug();
                return Err(format!("'{name}' is no topic's name: {objection}"));
            }
            let settings = settings(&asked)?;
            if let Some(known) = topics.log.topic(&name)
                && asked.partitions > 0
                && known.settings.partitions != settings.partitions
            {
                let count = known.settings.partitions;
                return Err(format!("the topic {name} has {count} partitions, for good"));
            }
            if topics.log.topic(&name).is_none() {
                topics.has_room()?;
            }
            let made = topics.log.create(&name, settings).await;
            let topic = made.map_err(|error| format!("the topic {name}: {error}"))?;
            Ok(vec![state(topics, &name, &topic)])
        }
        TopicWant::Remove(name) => {
            if topics.log.topic(&name).is_none() {
                return Err(format!("there is no topic {}", name.escape_debug()));
            }
            let removed = topics.log.remove(&name).await;
            removed.map_err(|error| format!("the topic {name}: {error}"))?;
            Ok(Vec::new())
        }
        TopicWant::List(beginning) => {
            let all = topics.log.topics(&beginning);
            Ok(all
                .iter()
                .map(|(name, topic)| state(topics, name, topic))
                .collect())
        }
        TopicWant::Group(ask) => put_group(topics, ask).await.map(|()| Vec::new()),
        TopicWant::Publish(_) | TopicWant::Subscribe(_) => {
            Err("this relay cannot do that".to_owned())
        }
    }
}

/// Says where a group goes on, or forgets it.
///
/// # Errors
/// Why not, for whoever asked.
async fn put_group(topics: &Topics, ask: GroupAsk) -> Result<(), String> {
    let (name, group) = (ask.topic.escape_debug(), ask.group.escape_debug());
    let Some(topic) = topics.log.topic(&ask.topic) else {
        return Err(format!("there is no topic {name}"));
    };
    if let Some(objection) = name_objection(&ask.group) {
        return Err(format!("'{group}' is no group's name: {objection}"));
    }
    let known = topics.log.cursors(&ask.topic);
    let is_known = known.iter().any(|(key, _)| key.group == ask.group);
    if ask.from.is_none() && !is_known {
        return Err(format!("there is no group {group} of {name}"));
    }
    has_no_member(topics, &ask)?;
    for (number, partition) in (0_u32..).zip(&topic.partitions) {
        let cursor = match ask.from {
            None => None,
            Some(from) => {
                let (start, end) = (partition.start(), partition.end());
                let offset = subscribe::begin(partition, Some(from), start, end).await?;
                if offset > end {
                    return Err(format!(
                        "offset {offset} of {name} (partition {number}) is not there yet: the next one to come is {end}"
                    ));
                }
                Some(Cursor {
                    offset: offset.max(start),
                    deliveries: 0,
                })
            }
        };
        let key = CursorKey {
            topic: ask.topic.clone(),
            group: ask.group.clone(),
            partition: number,
        };
        let done = topics.log.commit(key, cursor).await;
        let closed = |_| Err(AppendError::Failed("it is closed".to_owned()));
        let done = done.unwrap_or_else(closed);
        done.map_err(|error| format!("the group {group} of {name}: {error}"))?;
    }
    // Who has joined meanwhile may have begun where it was before.
    has_no_member(topics, &ask)
}

/// A group with members says itself where it is.
fn has_no_member(topics: &Topics, ask: &GroupAsk) -> Result<(), String> {
    match topics.groups.members(&ask.topic, &ask.group) {
        0 => Ok(()),
        count => {
            let group = ask.group.escape_debug();
            Err(format!(
                "the group {group} has members ({count}): end them first"
            ))
        }
    }
}

fn settings(asked: &TopicSettings) -> Result<Settings, String> {
    let partitions = asked.partitions.max(1);
    if partitions > PARTITIONS_MAX {
        return Err(format!("a topic has {PARTITIONS_MAX} partitions at most"));
    }
    let durability = match Level::from_wire(asked.level) {
        Some(Level::Os) => Durability::Os,
        Some(Level::Interval) => Durability::Interval(Duration::from_millis(asked.interval_ms)),
        Some(Level::Disk) => Durability::Disk,
        None if asked.level == 0 => Durability::Disk,
        None => return Err("this relay does not know that durability".to_owned()),
    };
    let some = |number: u64| (number > 0).then_some(number);
    Ok(Settings {
        partitions,
        durability,
        retain_bytes: some(asked.retain_bytes),
        retain_for: some(asked.retain_ms).map(Duration::from_millis),
        retain_unread: asked.retain_unread,
    })
}

fn state(topics: &Topics, name: &str, topic: &Topic) -> TopicState {
    let known = &topic.settings;
    let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    let settings = TopicSettings {
        name: name.to_owned(),
        partitions: known.partitions,
        level: level(known) as u32,
        interval_ms: match known.durability {
            Durability::Interval(span) => millis(span),
            Durability::Disk | Durability::Os => 0,
        },
        retain_bytes: known.retain_bytes.unwrap_or(0),
        retain_ms: known.retain_for.map_or(0, millis),
        retain_unread: known.retain_unread,
    };
    let partitions = topic.partitions.iter().map(|partition| PartitionState {
        start: partition.start(),
        end: partition.end(),
        bytes: partition.bytes(),
        damaged: partition.damaged(),
    });
    TopicState {
        settings: Some(settings),
        partitions: partitions.collect(),
        groups: groups(topics.log.cursors(name), topics.groups.of(name)),
    }
}

/// Of each group what it has done, and how many members are there.
fn groups(cursors: Vec<(CursorKey, Cursor)>, members: Vec<(String, u32)>) -> Vec<GroupState> {
    let mut groups: Vec<GroupState> = Vec::new();
    for (key, cursor) in cursors {
        if groups.last().is_none_or(|last| last.name != key.group) {
            groups.push(GroupState {
                name: key.group,
                ..GroupState::default()
            });
        }
        if let Some(group) = groups.last_mut() {
            group.done.push(Position {
                partition: key.partition,
                offset: cursor.offset,
            });
        }
    }
    for (name, members) in members {
        match groups.iter_mut().find(|group| group.name == name) {
            Some(group) => group.members = members,
            None => groups.push(GroupState {
                name,
                members,
                ..GroupState::default()
            }),
        }
    }
    groups
}

//! Groups: what their rules say (`farpipe_proto::topic::group`), carried out. A member has an inbox of what it is to be told; what is
//! to be remembered, or put aside, is done by whoever caused it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use farpipe_log::{Append, AppendError, Appended, Cursor, CursorKey, Log, Piece, Settings, Topic};
use farpipe_net::Clock;
use farpipe_proto::limits::{GROUP_DELIVERIES_MAX, GROUP_IN_FLIGHT_MAX, GROUP_RELEASE};
use farpipe_proto::topic::group::{Group, GroupConfig, GroupEvent, MemberId, NotYours};
use farpipe_proto::wire::topic::{Position, Subscribe, SubscribeWhat, Written};
use farpipe_record::{Batch, BatchBuilder, ProducerId, Record, RecordHeader, Records};
use tokio::sync::Notify;

/// All groups that have members. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Groups(Arc<Mutex<ByName>>);

/// By topic and name.
type ByName = BTreeMap<(String, String), Arc<Shared>>;

/// A group of a topic, with its members.
#[derive(Debug)]
pub(super) struct Shared {
    log: Log,
    topic: String,
    group: String,
    state: Mutex<State>,
    clock: Clock,
}

#[derive(Debug)]
struct State {
    rules: Group,
    inboxes: BTreeMap<MemberId, Arc<Inbox>>,
    last: u64,
}

/// What a member is to be told.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    said: Mutex<VecDeque<Told>>,
    pub(super) changed: Notify,
}

/// A piece of that. Bounded by the partitions, of which each is given and taken once, and by what the member says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    /// It reads the partition from there on.
    Assigned(Position),
    /// It does not any more.
    Revoked(u32),
    /// This is remembered.
    Committed(Position),
    /// This record was put aside.
    PutAside(Position),
}

impl Told {
    /// As it is said; `None`: not by itself.
    pub(super) fn what(self) -> Option<SubscribeWhat> {
        match self {
            Self::Assigned(_) => None,
            Self::Revoked(partition) => Some(SubscribeWhat::Revoked(partition)),
            Self::Committed(position) => Some(SubscribeWhat::Committed(position)),
            Self::PutAside(position) => Some(SubscribeWhat::PutAside(position)),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inbox {
    pub(super) fn take(&self) -> Option<Told> {
        lock(&self.said).pop_front()
    }

    fn put(&self, told: Told) {
        lock(&self.said).push_back(told);
        self.changed.notify_one();
    }
}

/// A member, as long as it is there.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) shared: Arc<Shared>,
    pub(super) id: MemberId,
    pub(super) inbox: Arc<Inbox>,
}

/// What is to be done, by whoever caused it.
#[derive(Debug)]
enum Due {
    Commit(u32, Cursor),
    PutAside(u32, u64, u32),
}

impl Groups {
    /// The groups of a topic that have members, and how many.
    pub(super) fn of(&self, topic: &str) -> Vec<(String, u32)> {
        let all = lock(&self.0);
        let of_it = all.iter().filter(|((of, _), _)| of == topic);
        let count = |shared: &Shared| lock(&shared.state).rules.members();
        let counts = of_it.map(|((_, name), shared)| (name.clone(), count(shared)));
        let counts = counts.filter(|(_, count)| *count > 0);
        counts
            .map(|(name, count)| (name, u32::try_from(count).unwrap_or(u32::MAX)))
            .collect()
    }

    /// Joins a group, which begins with what the log remembers of it, and where that is nothing at `begin`.
    pub(super) async fn join(
        &self,
        log: &Log,
        begin: &[u64],
        ask: &Subscribe,
        clock: Clock,
    ) -> Member {
        let (topic, group) = (ask.topic.as_str(), ask.group.as_str());
        let key = (topic.to_owned(), group.to_owned());
        let (in_flight_max, deliveries_max) = (ask.in_flight_max, ask.deliveries_max);
        let or = |said: u32, default: u32| if said == 0 { default } else { said };
        // Where a new group begins is remembered at once: what is published while its first member is away is not passed over, and not
        // removed as what all groups have done.
        let mut begun = Vec::new();
        let (member, due) = {
            let mut all = lock(&self.0);
            all.retain(|_, shared| Arc::strong_count(shared) > 1);
            let shared = all.entry(key).or_insert_with(|| {
                let cursors = log.cursors(topic);
                let known = |partition: usize| {
                    let is_it = |(key, _): &&(CursorKey, Cursor)| {
                        key.group == group && key.partition as usize == partition
                    };
                    cursors.iter().find(is_it).map(|(_, cursor)| *cursor)
                };
                let done: Vec<(u64, u32)> = (0_u32..)
                    .zip(begin)
                    .map(|(partition, offset)| match known(partition as usize) {
                        Some(cursor) => (cursor.offset, cursor.deliveries),
                        None => {
                            let (offset, deliveries) = (*offset, 0);
                            begun.push(Due::Commit(partition, Cursor { offset, deliveries }));
                            (offset, deliveries)
                        }
                    })
                    .collect();
                let config = GroupConfig {
                    in_flight_max: or(in_flight_max, GROUP_IN_FLIGHT_MAX).into(),
                    deliveries_max: or(deliveries_max, GROUP_DELIVERIES_MAX),
                    release_within: GROUP_RELEASE,
                };
                let state = State {
                    rules: Group::new(config, &done),
                    inboxes: BTreeMap::new(),
                    last: 0,
                };
                Arc::new(Shared {
                    log: log.clone(),
                    topic: topic.to_owned(),
                    group: group.to_owned(),
                    state: Mutex::new(state),
                    clock,
                })
            });
            let shared = Arc::clone(shared);
            let inbox: Arc<Inbox> = Arc::default();
            let (id, due) = {
                let mut state = lock(&shared.state);
                state.last += 1;
                let id = MemberId(state.last);
                state.inboxes.insert(id, Arc::clone(&inbox));
                for written in &ask.written {
                    let Written {
                        partition,
                        from,
                        to,
                    } = *written;
                    state.rules.handle_written(partition, from, to);
                }
                let limit = (in_flight_max > 0).then_some(u64::from(in_flight_max));
                state.rules.handle_joined(clock.now(), id, limit);
                (id, state.pump())
            };
            begun.extend(due);
            (Member { shared, id, inbox }, begun)
        };
        member.shared.perform(due, None).await;
        for Written { partition, to, .. } in &ask.written {
            let (partition, offset) = (*partition, *to);
            member
                .inbox
                .put(Told::Committed(Position { partition, offset }));
        }
        member
    }

    /// How many members a group has.
    pub(super) fn members(&self, topic: &str, group: &str) -> usize {
        let shared = lock(&self.0)
            .get(&(topic.to_owned(), group.to_owned()))
            .cloned();
        shared.map_or(0, |shared| lock(&shared.state).rules.members())
    }
}

impl State {
    /// Tells members what the rules have for them; the rest is to be done.
    fn pump(&mut self) -> Vec<Due> {
        let mut due = Vec::new();
        while let Some(event) = self.rules.poll_event() {
            let (member, told) = match event {
                GroupEvent::Assign {
                    member,
                    partition,
                    offset,
                } => (member, Told::Assigned(Position { partition, offset })),
                GroupEvent::Revoke { member, partition }
                | GroupEvent::Expelled { member, partition } => (member, Told::Revoked(partition)),
                GroupEvent::Commit {
                    partition,
                    offset,
                    deliveries,
                } => {
                    due.push(Due::Commit(partition, Cursor { offset, deliveries }));
                    continue;
                }
                GroupEvent::PutAside {
                    partition,
                    offset,
                    deliveries,
                } => {
                    due.push(Due::PutAside(partition, offset, deliveries));
                    continue;
                }
            };
            if let Some(inbox) = self.inboxes.get(&member) {
                inbox.put(told);
            }
        }
        due
    }
}

impl Shared {
    /// Has the rules take something; what is to be done then is done when this is ready.
    async fn act(
        &self,
        by: Option<(MemberId, &str)>,
        act: impl FnOnce(&mut Group, farpipe_proto::Instant) -> Result<(), NotYours>,
    ) {
        let due = {
            let mut state = lock(&self.state);
            if let Err(error) = act(&mut state.rules, self.clock.now()) {
                tracing::debug!("group {} of {}: {error}", self.group, self.topic);
            }
            state.pump()
        };
        self.perform(due, by).await;
    }

    /// Remembers and puts aside. `by`: the member that is told, and why it could not deal with a record.
    async fn perform(&self, due: Vec<Due>, by: Option<(MemberId, &str)>) {
        let mut due = VecDeque::from(due);
        while let Some(next) = due.pop_front() {
            match next {
                Due::Commit(partition, cursor) => {
                    self.commit(partition, cursor).await;
                    self.tell(
                        by,
                        Told::Committed(Position {
                            partition,
                            offset: cursor.offset,
                        }),
                    );
                }
                Due::PutAside(partition, offset, deliveries) => {
                    let why = match by {
                        Some((_, why)) if deliveries == 0 => why.to_owned(),
                        _ => format!("{deliveries} readers were lost with it"),
                    };
                    self.put_aside(partition, offset, &why).await;
                    self.tell(by, Told::PutAside(Position { partition, offset }));
                    let mut state = lock(&self.state);
                    state
                        .rules
                        .handle_put_aside(self.clock.now(), partition, offset);
                    due.extend(state.pump());
                }
            }
        }
    }

    fn tell(&self, by: Option<(MemberId, &str)>, told: Told) {
        let Some((member, _)) = by else { return };
        if let Some(inbox) = lock(&self.state).inboxes.get(&member) {
            inbox.put(told);
        }
    }

    /// Until it is remembered: a disk without room has some again, or the log has failed for good.
    async fn commit(&self, partition: u32, cursor: Cursor) {
        let key = CursorKey {
            topic: self.topic.clone(),
            group: self.group.clone(),
            partition,
        };
        loop {
            match self.log.commit(key.clone(), Some(cursor)).await {
                Err(AppendError::Full) => tokio::time::sleep(super::publish::TELL_EACH).await,
                Err(error) => {
                    tracing::error!("group {} of {}: {error}", self.group, self.topic);
                    // Nobody is told that it is remembered.
                    std::future::pending::<()>().await;
                }
                Ok(()) => return,
            }
        }
    }

    /// Copies a record to where those are that nobody could deal with.
    async fn put_aside(&self, partition: u32, offset: u64, why: &str) {
        tracing::warn!(
            "group {} of {}: record {offset} of partition {partition} is put aside: {why}",
            self.group,
            self.topic
        );
        let aside = format!("{}.dlq", self.topic);
        let found = async {
            let topic = self.log.topic(&self.topic)?;
            let record = record_at(&topic, partition, offset).await?;
            aside_batch(record, &self.topic, partition, offset, &self.group, why)
        };
        let Some(batch) = found.await else {
            tracing::error!("{aside}: record {offset} of {} cannot be read", self.topic);
            return;
        };
        loop {
            match self.append_aside(&aside, &batch).await {
                Ok(_) => return,
                Err(AppendError::Full) => tokio::time::sleep(super::publish::TELL_EACH).await,
                Err(error) => {
                    tracing::error!("{aside}: {error}");
                    // The group does not go on without it.
                    std::future::pending::<()>().await;
                }
            }
        }
    }

    /// Makes the topic if it is not there: whoever made it before has said how it is kept.
    async fn append_aside(&self, aside: &str, batch: &Batch) -> Result<Appended, AppendError> {
        if self.log.topic(aside).is_none() {
            self.log.create(aside, Settings::default()).await?;
        }
        let append = Append {
            topic: aside.to_owned(),
            partition: 0,
            batch: batch.clone(),
        };
        let closed = |_| AppendError::Failed("it is closed".to_owned());
        self.log.append(append).await.await.map_err(closed)?
    }

    /// The next moment at which something is due by time, for whoever waits.
    pub(super) fn timeout(&self) -> Option<tokio::time::Instant> {
        let at = lock(&self.state).rules.poll_timeout();
        at.map(|at| self.clock.deadline(at))
    }

    pub(super) async fn tend(&self) {
        self.act(None, |rules, now| {
            rules.handle_timeout(now);
            Ok(())
        })
        .await;
    }
}

impl Member {
    /// How many records of it may be sent now.
    pub(super) fn room(&self, partition: u32) -> u64 {
        lock(&self.shared.state).rules.room(self.id, partition)
    }

    /// Before this offset all is done by the group; another member may have said so.
    pub(super) fn done_before(&self, partition: u32) -> u64 {
        lock(&self.shared.state).rules.done(partition).unwrap_or(0)
    }

    /// Records before `end` are about to be sent; `false`: it is another one's by now.
    pub(super) fn sent(&self, partition: u32, end: u64) -> bool {
        let sent = lock(&self.shared.state)
            .rules
            .handle_sent(self.id, partition, end);
        sent.is_ok()
    }

    pub(super) async fn done(&self, position: Position) {
        let (id, Position { partition, offset }) = (self.id, position);
        let act = |rules: &mut Group, _| rules.handle_done(id, partition, offset);
        self.shared.act(Some((id, "")), act).await;
    }

    pub(super) async fn rejected(&self, partition: u32, offset: u64, why: &str) {
        let id = self.id;
        let act = |rules: &mut Group, _| rules.handle_rejected(id, partition, offset);
        self.shared.act(Some((id, why)), act).await;
    }

    pub(super) async fn released(&self, partition: u32) {
        let id = self.id;
        let act = |rules: &mut Group, now| rules.handle_released(now, id, partition);
        self.shared.act(None, act).await;
    }

    /// It is gone: of its own will, or lost.
    pub(super) async fn left(self, was_lost: bool) {
        let id = self.id;
        lock(&self.shared.state).inboxes.remove(&id);
        self.shared
            .act(None, |rules, now| {
                rules.handle_left(now, id, was_lost);
                Ok(())
            })
            .await;
    }
}

async fn record_at(topic: &Arc<Topic>, partition: u32, offset: u64) -> Option<(Record, u64)> {
    let partition = Arc::clone(topic.partitions.get(partition as usize)?);
    let read = tokio::task::spawn_blocking(move || partition.read(offset, 1));
    let Some(Piece::Batch(batch)) = read.await.ok()?.ok()?.into_iter().next() else {
        return None;
    };
    let time = batch.header().first_ns;
    let mut records = Records::of(&batch).ok()?.filter_map(Result::ok);
    let (_, record) = records.find(|(at, _)| *at == offset)?;
    let at = time.saturating_add(record.after_ns);
    Some((record, at))
}

fn aside_batch(
    (mut record, time): (Record, u64),
    topic: &str,
    partition: u32,
    offset: u64,
    group: &str,
    why: &str,
) -> Option<Batch> {
    let header = |name: &str, value: String| RecordHeader {
        name: name.to_owned(),
        value: value.into(),
    };
    let said = [
        header("farpipe-topic", topic.to_owned()),
        header("farpipe-partition", partition.to_string()),
        header("farpipe-offset", offset.to_string()),
        header("farpipe-group", group.to_owned()),
        header("farpipe-why", why.chars().take(1024).collect()),
    ];
    record.headers.extend(said.clone());
    let mut builder = BatchBuilder::default();
    if builder.push(&mut record, time).is_err() {
        // There is no room for more in a record: then where it stands is all that is kept.
        record = Record::default();
        record.headers.extend(said);
        let why = "left out, there is no room for it";
        record.headers.push(header("farpipe-value", why.to_owned()));
        builder.push(&mut record, time).ok()?;
    }
    let sealed = builder.seal(ProducerId::NONE, 0, 0).ok()?;
    Batch::parse(&sealed.into_bytes()).ok()?
}

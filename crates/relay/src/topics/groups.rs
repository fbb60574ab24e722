//! Groups: what their rules say (`farpipe_proto::topic::group`), carried out. A member has an inbox of what it is to be told; what is
//! to be remembered, or put aside, is done by whoever caused it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use farpipe_log::{
    Append, AppendError, Appended, Cursor, CursorKey, Log, Partition, Piece, ReadError, Settings,
    Topic,
};
use farpipe_net::Clock;
use farpipe_proto::limits::{GROUP_DELIVERIES_MAX, GROUP_IN_FLIGHT_MAX, GROUP_RELEASE};
use farpipe_proto::topic::group::{Group, GroupConfig, GroupEvent, MemberId, NotYours};
use farpipe_proto::wire::topic::{Position, Subscribe, SubscribeWhat, Written};
use farpipe_record::{Batch, BatchBuilder, ProducerId, Record, RecordHeader, Records};
use tokio::sync::Notify;

/// How often a record is read that is to be put aside, while the disk does not answer.
const READS_MAX: u32 = 10;

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
    /// Tells the topic from another one that had its name.
    first: Option<Arc<Partition>>,
    group: String,
    state: Mutex<State>,
    /// Whoever holds it does what is to be done, one after the other.
    turn: tokio::sync::Mutex<()>,
    clock: Clock,
}

#[derive(Debug)]
struct State {
    rules: Group,
    inboxes: BTreeMap<MemberId, Arc<Inbox>>,
    last: u64,
    /// What is to be done, in order. Bounded by what the rules have under way: a partition's commits, and one record put aside.
    jobs: VecDeque<Job>,
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

/// What is to be done, and which member is told, and why it could not deal with a record.
#[derive(Debug, Clone)]
struct Job {
    due: Due,
    by: Option<(MemberId, String)>,
}

impl Job {
    /// The partition of which something is to be remembered.
    fn commits(&self) -> Option<u32> {
        match self.due {
            Due::Commit(partition) => Some(partition),
            Due::PutAside(..) => None,
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Due {
    Commit(u32),
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
    ///
    /// # Errors
    /// That cannot be remembered.
    pub(super) async fn join(
        &self,
        log: &Log,
        (of, begin): (&Topic, &[u64]),
        ask: &Subscribe,
        clock: Clock,
    ) -> Result<Member, AppendError> {
        let (topic, group) = (ask.topic.as_str(), ask.group.as_str());
        let key = (topic.to_owned(), group.to_owned());
        let (in_flight_max, deliveries_max) = (ask.in_flight_max, ask.deliveries_max);
        let or = |said: u32, default: u32| if said == 0 { default } else { said };
        // Where a new group begins is remembered at once: what is published while its first member is away is not passed over, and not
        // removed as what all groups have done.
        let mut begun = Vec::new();
        let member = {
            let mut all = lock(&self.0);
            all.retain(|_, shared| Arc::strong_count(shared) > 1);
            let is_it = |shared: &Arc<Shared>| match (&shared.first, of.partitions.first()) {
                (Some(one), Some(other)) => Arc::ptr_eq(one, other),
                _ => false,
            };
            if all.get(&key).is_some_and(|shared| !is_it(shared)) {
                all.remove(&key);
            }
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
                        Some(cursor) => {
                            // A loss of power may have taken what it had read, if the topic does not promise more.
                            let end = of.partitions.get(partition as usize).map(|one| one.end());
                            (cursor.offset.min(end.unwrap_or(0)), cursor.deliveries)
                        }
                        None => {
                            begun.push(partition);
                            (*offset, 0)
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
                    jobs: VecDeque::new(),
                };
                Arc::new(Shared {
                    log: log.clone(),
                    topic: topic.to_owned(),
                    first: of.partitions.first().map(Arc::clone),
                    group: group.to_owned(),
                    state: Mutex::new(state),
                    turn: tokio::sync::Mutex::new(()),
                    clock,
                })
            });
            let shared = Arc::clone(shared);
            let inbox: Arc<Inbox> = Arc::default();
            let id = {
                let mut state = lock(&shared.state);
                let commit = |partition| Job {
                    due: Due::Commit(partition),
                    by: None,
                };
                state.jobs.extend(begun.into_iter().map(commit));
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
                state.pump(None);
                id
            };
            Member { shared, id, inbox }
        };
        member.shared.perform().await?;
        for Written { partition, to, .. } in &ask.written {
            let (partition, offset) = (*partition, *to);
            member
                .inbox
                .put(Told::Committed(Position { partition, offset }));
        }
        Ok(member)
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
    /// Commits that are next, or one record that is to be put aside.
    fn next_jobs(&self) -> Vec<Job> {
        let commits = self.jobs.iter().take_while(|job| job.commits().is_some());
        let count = commits.count().max(1);
        self.jobs.iter().take(count).cloned().collect()
    }

    fn tell(&self, by: Option<&(MemberId, String)>, told: Told) {
        let inbox = by.and_then(|(member, _)| self.inboxes.get(member));
        if let Some(inbox) = inbox {
            inbox.put(told);
        }
    }

    /// Tells members what the rules have for them; the rest is to be done.
    fn pump(&mut self, by: Option<(MemberId, &str)>) {
        while let Some(event) = self.rules.poll_event() {
            let (member, told) = match event {
                GroupEvent::Assign {
                    member,
                    partition,
                    offset,
                } => (member, Told::Assigned(Position { partition, offset })),
                GroupEvent::Revoke { member, partition }
                | GroupEvent::Expelled { member, partition } => (member, Told::Revoked(partition)),
                GroupEvent::Commit { partition, .. } => {
                    self.job(Due::Commit(partition), by);
                    continue;
                }
                GroupEvent::PutAside {
                    partition,
                    offset,
                    deliveries,
                } => {
                    self.job(Due::PutAside(partition, offset, deliveries), by);
                    continue;
                }
            };
            if let Some(inbox) = self.inboxes.get(&member) {
                inbox.put(told);
            }
        }
    }

    fn job(&mut self, due: Due, by: Option<(MemberId, &str)>) {
        let by = by.map(|(member, why)| (member, why.to_owned()));
        self.jobs.push_back(Job { due, by });
    }
}

impl Shared {
    /// Has the rules take something; what is to be done then is done when this is ready. `by`: the member that is told, and why it could
    /// not deal with a record.
    ///
    /// # Errors
    /// The log has failed.
    async fn act(
        &self,
        by: Option<(MemberId, &str)>,
        act: impl FnOnce(&mut Group, farpipe_proto::Instant) -> Result<(), NotYours>,
    ) -> Result<(), AppendError> {
        {
            let mut state = lock(&self.state);
            if let Err(error) = act(&mut state.rules, self.clock.now()) {
                tracing::debug!("group {} of {}: {error}", self.group, self.topic);
            }
            state.pump(by);
        }
        self.perform().await
    }

    /// Remembers and puts aside all that is to be.
    ///
    /// # Errors
    /// The log has failed.
    ///
    /// # Cancellation
    /// What was not done to its end is done by whoever comes next.
    async fn perform(&self) -> Result<(), AppendError> {
        let _turn = self.turn.lock().await;
        loop {
            let jobs = lock(&self.state).next_jobs();
            match &jobs[..] {
                [] => return Ok(()),
                [
                    Job {
                        due: Due::PutAside(partition, offset, deliveries),
                        by,
                    },
                    ..,
                ] => {
                    let why = match by {
                        Some((_, why)) if *deliveries == 0 => why.clone(),
                        _ => format!("{deliveries} readers were lost with it"),
                    };
                    let (partition, offset) = (*partition, *offset);
                    self.put_aside(partition, offset, &why).await?;
                    let mut state = lock(&self.state);
                    state.jobs.pop_front();
                    let told = Told::PutAside(Position { partition, offset });
                    state.tell(by.as_ref(), told);
                    let now = self.clock.now();
                    state.rules.handle_put_aside(now, partition, offset);
                    state.pump(None);
                }
                _ => {
                    let offsets = self.commit(&jobs).await?;
                    let mut state = lock(&self.state);
                    for job in state.jobs.drain(..jobs.len()).collect::<Vec<_>>() {
                        if let Due::Commit(partition) = job.due
                            && let Some(&offset) = offsets.get(&partition)
                        {
                            let told = Told::Committed(Position { partition, offset });
                            state.tell(job.by.as_ref(), told);
                        }
                    }
                }
            }
        }
    }

    /// Until where these partitions are by now is remembered: a disk without room has some again. Their offsets.
    ///
    /// # Errors
    /// The log has failed for good, or the topic was removed.
    async fn commit(&self, jobs: &[Job]) -> Result<BTreeMap<u32, u64>, AppendError> {
        let partitions: BTreeSet<u32> = jobs.iter().filter_map(Job::commits).collect();
        loop {
            let asked: Vec<_> = {
                let state = lock(&self.state);
                let ask = |partition: u32| {
                    let (offset, deliveries) = state.rules.cursor(partition).unwrap_or_default();
                    let key = CursorKey {
                        topic: self.topic.clone(),
                        group: self.group.clone(),
                        partition,
                    };
                    let cursor = Cursor { offset, deliveries };
                    (partition, offset, self.log.commit(key, Some(cursor)))
                };
                partitions.iter().copied().map(ask).collect()
            };
            let mut offsets = BTreeMap::new();
            let mut is_full = false;
            for (partition, offset, answer) in asked {
                match answer.await.unwrap_or_else(|_| Err(closed())) {
                    Ok(()) => drop(offsets.insert(partition, offset)),
                    Err(AppendError::Full) => is_full = true,
                    Err(error) => {
                        tracing::error!("group {} of {}: {error}", self.group, self.topic);
                        return Err(error);
                    }
                }
            }
            if !is_full {
                return Ok(offsets);
            }
            tokio::time::sleep(super::publish::TELL_EACH).await;
        }
    }

    /// Copies a record to where those are that nobody could deal with.
    ///
    /// # Errors
    /// The log has failed for good.
    async fn put_aside(&self, partition: u32, offset: u64, why: &str) -> Result<(), AppendError> {
        tracing::warn!(
            "group {} of {}: record {offset} of partition {partition} is put aside: {why}",
            self.group,
            self.topic
        );
        let aside = format!("{}.dlq", self.topic);
        let Some(record) = self.record_at(partition, offset).await else {
            tracing::error!("{aside}: record {offset} of {} cannot be read", self.topic);
            return Ok(());
        };
        let batch = aside_batch(record, &self.topic, partition, offset, &self.group, why);
        let Some(batch) = batch else {
            tracing::error!(
                "{aside}: record {offset} of {} has no room there",
                self.topic
            );
            return Ok(());
        };
        loop {
            match self.append_aside(&aside, &batch).await {
                Ok(_) => return Ok(()),
                Err(AppendError::Full) => tokio::time::sleep(super::publish::TELL_EACH).await,
                Err(error) => {
                    // The group does not go on without it.
                    tracing::error!("{aside}: {error}");
                    return Err(error);
                }
            }
        }
    }

    /// A record, and its time; `None`: it is damaged, or gone. A disk that does not answer is asked again.
    async fn record_at(&self, partition: u32, offset: u64) -> Option<(Record, u64)> {
        let topic = self.log.topic(&self.topic)?;
        let partition = topic.partitions.get(partition as usize)?;
        for _ in 0..READS_MAX {
            let partition = Arc::clone(partition);
            let read = tokio::task::spawn_blocking(move || partition.read(offset, 1)).await;
            let pieces = match read {
                Ok(Ok(pieces)) => pieces,
                Ok(Err(ReadError::OutOfRange { .. })) => return None,
                Ok(Err(_)) | Err(_) => {
                    tokio::time::sleep(super::publish::TELL_EACH).await;
                    continue;
                }
            };
            let Some(Piece::Batch(batch)) = pieces.into_iter().next() else {
                return None;
            };
            let first_ns = batch.header().first_ns;
            let mut records = Records::of(&batch).ok()?.filter_map(Result::ok);
            let (_, record) = records.find(|(at, _)| *at == offset)?;
            let at = first_ns.saturating_add(record.after_ns);
            return Some((record, at));
        }
        None
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
        let answer = self.log.append(append).await;
        answer.await.unwrap_or_else(|_| Err(closed()))
    }

    /// The next moment at which something is due by time, for whoever waits.
    pub(super) fn timeout(&self) -> Option<tokio::time::Instant> {
        let at = lock(&self.state).rules.poll_timeout();
        at.map(|at| self.clock.deadline(at))
    }

    pub(super) async fn tend(&self) -> Result<(), AppendError> {
        self.act(None, |rules, now| {
            rules.handle_timeout(now);
            Ok(())
        })
        .await
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

    pub(super) async fn done(&self, position: Position) -> Result<(), AppendError> {
        let (id, Position { partition, offset }) = (self.id, position);
        let act = |rules: &mut Group, _| rules.handle_done(id, partition, offset);
        self.shared.act(Some((id, "")), act).await
    }

    pub(super) async fn rejected(
        &self,
        partition: u32,
        offset: u64,
        why: &str,
    ) -> Result<(), AppendError> {
        let id = self.id;
        let act = |rules: &mut Group, _| rules.handle_rejected(id, partition, offset);
        self.shared.act(Some((id, why)), act).await
    }

    pub(super) async fn released(&self, partition: u32) -> Result<(), AppendError> {
        let id = self.id;
        let act = |rules: &mut Group, now| rules.handle_released(now, id, partition);
        self.shared.act(None, act).await
    }

    /// It is gone: of its own will, or lost.
    pub(super) async fn left(self, was_lost: bool) {
        let id = self.id;
        lock(&self.shared.state).inboxes.remove(&id);
        let left = self.shared.act(None, |rules, now| {
            rules.handle_left(now, id, was_lost);
            Ok(())
        });
        if let Err(error) = left.await {
            tracing::debug!("a group's member left: {error}");
        }
    }
}

fn closed() -> AppendError {
    AppendError::Failed("it is closed".to_owned())
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

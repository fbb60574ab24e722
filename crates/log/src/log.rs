//! The log as many use it: a thread that owns the store, and a bounded queue to it.
//!
//! All that has come while the last turn ran is written in the next: there is no timer. Who finds the queue full waits; a disk that is
//! full lets the batches wait that it refused, in their order, and everybody behind them.

use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, oneshot};

use crate::cursors::{Cursor, CursorKey};
use crate::disk::real::RealDisk;
use crate::settings::{Durability, Settings};
use crate::store::{
    Append, AppendError, Appended, Done, OpenError, Options, Recovered, Store, Topic, Work,
};

/// Bytes of batches that wait to be written; beyond that whoever has another one waits.
pub const QUEUE_MAX: usize = 16 << 20;
/// How long a full disk is left alone before what it refused is tried again.
const FULL_PAUSE: Duration = Duration::from_millis(100);
/// How often it is looked for what is not to be kept any more.
const RETAIN_EACH: Duration = Duration::from_secs(10);

type Answer<T> = oneshot::Sender<Result<T, AppendError>>;

/// What the thread is asked.
enum Asked {
    Append(Append, Answer<Appended>),
    Commit(CursorKey, Option<Cursor>, Answer<()>),
    Create(String, Settings, Answer<Arc<Topic>>),
    Remove(String, Answer<()>),
    /// To be told when all that was asked before is done.
    Settle(oneshot::Sender<()>),
}

#[derive(Default)]
struct Queue {
    asked: Vec<Asked>,
    bytes: usize,
    is_closing: bool,
    /// The disk has refused something for want of room.
    is_full: bool,
}

/// What the thread and everybody else share.
struct Shared {
    queue: Mutex<Queue>,
    has_come: Condvar,
    has_room: Notify,
    /// What there is, as of the last turn.
    topics: Mutex<Topics>,
}

#[derive(Default)]
struct Topics {
    all: std::collections::BTreeMap<String, Arc<Topic>>,
    cursors: std::collections::BTreeMap<CursorKey, Cursor>,
}

/// An open log. Clones are the same one; it is closed when the last of them is gone.
#[derive(Clone)]
pub struct Log(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log").finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn closed() -> AppendError {
    AppendError::Failed("it is closed".to_owned())
}

impl Log {
    /// Opens the log in a directory, or begins one there, and its thread. `now_ns` is the time of day, in nanoseconds since 1970. Blocks on the
    /// disk.
    ///
    /// # Errors
    /// [`OpenError`], also where another process has it.
    pub fn open(
        dir: &Path,
        options: Options,
        now_ns: fn() -> u64,
    ) -> Result<(Self, Vec<Recovered>), OpenError> {
        let failed = |error: io::Error| OpenError::Disk {
            path: dir.to_owned(),
            error,
        };
        let disk = Arc::new(RealDisk::take(dir).map_err(failed)?);
        let (store, recovered) = Store::open(disk, dir, options)?;
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            has_come: Condvar::new(),
            has_room: Notify::new(),
            topics: Mutex::default(),
        });
        shared.show(&store);
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("farpipe-log".to_owned())
            .spawn(move || Writer::new(store, theirs, now_ns).run())
            .map_err(failed)?;
        let thread = Mutex::new(Some(thread));
        Ok((Self(Arc::new(Inner { shared, thread })), recovered))
    }

    /// A topic.
    #[must_use]
    pub fn topic(&self, name: &str) -> Option<Arc<Topic>> {
        lock(&self.0.shared.topics).all.get(name).cloned()
    }

    /// The topics whose names begin so, in order.
    #[must_use]
    pub fn topics(&self, beginning: &str) -> Vec<(String, Arc<Topic>)> {
        let topics = lock(&self.0.shared.topics);
        let from = topics.all.range(beginning.to_owned()..);
        let of_these = from.take_while(|(name, _)| name.starts_with(beginning));
        let pair = |(name, topic): (&String, &Arc<Topic>)| (name.clone(), Arc::clone(topic));
        of_these.map(pair).collect()
    }

    /// What groups have done of a topic, in order.
    #[must_use]
    pub fn cursors(&self, topic: &str) -> Vec<(CursorKey, Cursor)> {
        let topics = lock(&self.0.shared.topics);
        let of_it = topics.cursors.iter().filter(|(key, _)| key.topic == topic);
        of_it.map(|(key, cursor)| (key.clone(), *cursor)).collect()
    }

    /// Whether the disk has no room, so that batches wait.
    #[must_use]
    pub fn is_full(&self) -> bool {
        lock(&self.0.shared.queue).is_full
    }

    /// Gives a batch to be written, as soon as the queue has room for it; what comes is its answer. Batches are written in the order in
    /// which this was ready.
    ///
    /// # Cancellation
    /// Dropped before it is ready, nothing is written. An answer that nobody waits for changes nothing.
    pub async fn append(&self, append: Append) -> oneshot::Receiver<Result<Appended, AppendError>> {
        let (answer, answered) = oneshot::channel();
        let bytes = append.batch.bytes().len();
        let mut asked = Some(Asked::Append(append, answer));
        loop {
            let room = self.0.shared.has_room.notified();
            {
                let mut queue = lock(&self.0.shared.queue);
                // One that is larger than the queue gets in when that is empty.
                if queue.bytes == 0 || queue.bytes + bytes <= QUEUE_MAX {
                    queue.bytes += bytes;
                    queue.asked.extend(asked.take());
                    self.0.shared.has_come.notify_one();
                    return answered;
                }
            }
            room.await;
        }
    }

    async fn ask<T>(&self, asked: impl FnOnce(Answer<T>) -> Asked) -> Result<T, AppendError> {
        let (answer, answered) = oneshot::channel();
        self.put(asked(answer));
        answered.await.unwrap_or_else(|_| Err(closed()))
    }

    /// Remembers what a group has done; `None`: it is forgotten. What comes is the answer, once that is durable; it is remembered in
    /// the order in which this was called.
    pub fn commit(
        &self,
        key: CursorKey,
        cursor: Option<Cursor>,
    ) -> oneshot::Receiver<Result<(), AppendError>> {
        let (answer, answered) = oneshot::channel();
        self.put(Asked::Commit(key, cursor, answer));
        answered
    }

    /// Ready when all that was given to it before is written, or refused.
    pub async fn settled(&self) {
        let (answer, answered) = oneshot::channel();
        self.put(Asked::Settle(answer));
        // It is closed: then there is nothing to wait for.
        let _ = answered.await;
    }

    fn put(&self, asked: Asked) {
        lock(&self.0.shared.queue).asked.push(asked);
        self.0.shared.has_come.notify_one();
    }

    /// Makes a topic, or gives one other settings.
    ///
    /// # Errors
    /// The disk.
    pub async fn create(&self, name: &str, settings: Settings) -> Result<Arc<Topic>, AppendError> {
        let name = name.to_owned();
        self.ask(|answer| Asked::Create(name, settings, answer))
            .await
    }

    /// Removes a topic with all that is there of it.
    ///
    /// # Errors
    /// The disk.
    pub async fn remove(&self, name: &str) -> Result<(), AppendError> {
        let name = name.to_owned();
        self.ask(|answer| Asked::Remove(name, answer)).await
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        lock(&self.shared.queue).is_closing = true;
        self.shared.has_come.notify_one();
        if let Some(thread) = lock(&self.thread).take() {
            // What is in the queue is written; then the directory is free.
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// What there is now.
    fn show(&self, store: &Store) {
        let mut topics = lock(&self.topics);
        topics.all = store.topics().clone();
        topics.cursors = store.cursors().collect();
    }

    fn note(&self, cursors: Vec<(CursorKey, Option<Cursor>)>) {
        let mut topics = lock(&self.topics);
        for (key, cursor) in cursors {
            match cursor {
                Some(cursor) => topics.cursors.insert(key, cursor),
                None => topics.cursors.remove(&key),
            };
        }
    }
}

/// The thread.
struct Writer {
    store: Store,
    shared: Arc<Shared>,
    now_ns: fn() -> u64,
    /// What a full disk refused, in order.
    waiting: Vec<(Append, Answer<Appended>)>,
    synced_at: Instant,
    retained_at: Instant,
}

impl Writer {
    fn new(store: Store, shared: Arc<Shared>, now_ns: fn() -> u64) -> Self {
        let now = Instant::now();
        Self {
            store,
            shared,
            now_ns,
            waiting: Vec::new(),
            synced_at: now,
            retained_at: now,
        }
    }

    fn run(mut self) {
        while let Some(asked) = self.next() {
            self.turn(asked);
            self.tend();
        }
        if let Err(error) = self.store.sync() {
            tracing::error!("the log could not be closed: {error}");
        }
    }

    /// All that has come; `None`: it is to be closed.
    fn next(&mut self) -> Option<Vec<Asked>> {
        let shared = Arc::clone(&self.shared);
        let mut queue = lock(&shared.queue);
        loop {
            queue.is_full = !self.waiting.is_empty();
            if !queue.asked.is_empty() || !self.waiting.is_empty() {
                let pause = match self.waiting.is_empty() {
                    true => Duration::ZERO,
                    false => FULL_PAUSE,
                };
                if !pause.is_zero() && !queue.is_closing {
                    let waited = shared.has_come.wait_timeout(queue, pause);
                    queue = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
                let asked = std::mem::take(&mut queue.asked);
                // What waits for room on the disk keeps its room here.
                queue.bytes = self
                    .waiting
                    .iter()
                    .map(|(append, _)| append.batch.bytes().len())
                    .sum();
                shared.has_room.notify_waiters();
                return match queue.is_closing && asked.is_empty() {
                    true => None,
                    false => Some(asked),
                };
            }
            if queue.is_closing {
                return None;
            }
            let pause = self.pause();
            let waited = shared.has_come.wait_timeout(queue, pause);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
            if queue.asked.is_empty() && !queue.is_closing {
                drop(queue);
                self.tend();
                queue = lock(&shared.queue);
            }
        }
    }

    /// The shortest time in which something is promised to be on the disk.
    fn interval(&self) -> Option<Duration> {
        let all = self.store.topics().values();
        all.filter_map(|topic| match topic.settings.durability {
            Durability::Interval(span) => Some(span),
            Durability::Disk | Durability::Os => None,
        })
        .min()
    }

    fn pause(&self) -> Duration {
        let next = self
            .interval()
            .map_or(RETAIN_EACH, |span| span.min(RETAIN_EACH));
        next.max(Duration::from_millis(1))
    }

    /// What is due by time.
    fn tend(&mut self) {
        if self
            .interval()
            .is_some_and(|span| self.synced_at.elapsed() >= span)
        {
            self.synced_at = Instant::now();
            if let Err(error) = self.store.sync() {
                tracing::error!("the log: {error}");
            }
        }
        if self.retained_at.elapsed() >= RETAIN_EACH {
            self.retained_at = Instant::now();
            if let Err(error) = self.store.retain((self.now_ns)()) {
                tracing::error!("the log: {error}");
            }
        }
    }

    fn turn(&mut self, asked: Vec<Asked>) {
        let mut appends = std::mem::take(&mut self.waiting);
        let (mut cursors, mut committed, mut settled) = (Vec::new(), Vec::new(), Vec::new());
        for one in asked {
            match one {
                Asked::Append(append, answer) => appends.push((append, answer)),
                // A topic that was removed has no groups; one that is made again has none of before.
                Asked::Commit(
                    CursorKey {
                        topic, partition, ..
                    },
                    Some(_),
                    answer,
                ) if !self.store.topics().contains_key(&topic) => {
                    let _ = answer.send(Err(AppendError::Unknown { topic, partition }));
                }
                Asked::Commit(key, cursor, answer) => {
                    cursors.push((key, cursor));
                    committed.push(answer);
                }
                Asked::Settle(answer) => settled.push(answer),
                // Rare, and none of those who wait for the others.
                Asked::Create(name, settings, answer) => {
                    let made = self.store.create(&name, settings);
                    self.shared.show(&self.store);
                    let _ = answer.send(made);
                }
                Asked::Remove(name, answer) => {
                    let removed = self.store.remove(&name);
                    self.shared.show(&self.store);
                    let _ = answer.send(removed);
                }
            }
        }
        let changed = cursors.clone();
        let work = Work {
            appends: appends.iter().map(|(append, _)| append.clone()).collect(),
            cursors,
        };
        let done = self.store.turn((self.now_ns)(), work);
        let Done {
            appends: answers,
            cursors,
        } = done;
        if cursors.is_ok() {
            self.shared.note(changed);
        }
        for ((append, answer), done) in appends.into_iter().zip(answers) {
            match done {
                Err(AppendError::Full) => self.waiting.push((append, answer)),
                done => {
                    // Nobody may wait for it any more.
                    let _ = answer.send(done);
                }
            }
        }
        for answer in committed {
            let _ = answer.send(cursors.clone());
        }
        for answer in settled {
            let _ = answer.send(());
        }
    }
}

//! The one who writes: takes what many want to have written, writes it by as few writes as there are files, syncs each of
//! them once, and then tells all. It has no thread and no clock of its own; `log.rs` gives it both.
//!
//! What always holds: an answer that says that a batch is kept comes after the sync of its file, if the topic promises that.
//! Readers see nothing before that. After a sync that failed nothing is written any more, because what is on the disk is not
//! known, and the system would say the next time that all is well.

mod open;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use farpipe_record::{Batch, Sealed};

use crate::cursors::{Cursor, CursorKey, Cursors};
use crate::disk::{Disk, is_full, replace};
use crate::mark::Mark;
use crate::partition::{Partition, Staged, Turn};
use crate::producers::{Producers, SequenceError, Verdict};
use crate::segment::{self, Segment};
use crate::settings::{Durability, Settings};

pub(crate) use self::open::{FORMAT, REMOVED, SETTINGS, VERSION, snapshot_base};
pub use self::open::{OpenError, Recovered};

/// How a log is kept.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Bytes of a segment; the next batch begins another one.
    pub segment_bytes: u64,
}

impl Default for Options {
    /// Segments of 64 MiB.
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
        }
    }
}

/// A batch is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// The offset behind its last record; `None`: it was kept so long ago that this is not known any more.
    pub end_offset: Option<u64>,
    /// It had been kept before.
    pub is_repeated: bool,
}

/// A batch is not kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// There is no such topic, or partition of it.
    #[error("there is no partition {partition} of a topic {topic}")]
    Unknown {
        /// The topic.
        topic: String,
        /// The partition.
        partition: u32,
    },
    /// The producer is to blame.
    #[error(transparent)]
    Sequence(#[from] SequenceError),
    /// The disk has no room. Nothing is lost: the same batch can be sent again when there is.
    #[error("the disk is full")]
    Full,
    /// The disk failed, now or before: nothing is written until the log is opened again.
    #[error("the log takes nothing more, because its disk failed: {0}")]
    Failed(String),
}

/// A topic of an open log.
#[derive(Debug)]
pub struct Topic {
    /// How it is kept.
    pub settings: Settings,
    /// In their order.
    pub partitions: Vec<Arc<Partition>>,
    dir: PathBuf,
}

/// What is to be written in one turn.
#[derive(Debug, Default)]
pub(crate) struct Work {
    /// Batches, of those of a partition in their order.
    pub(crate) appends: Vec<Append>,
    /// What groups have done; `None`: they are forgotten.
    pub(crate) cursors: Vec<(CursorKey, Option<Cursor>)>,
}

/// A batch to be written.
#[derive(Debug, Clone)]
pub struct Append {
    /// Into this topic.
    pub topic: String,
    /// Into this partition.
    pub partition: u32,
    /// The batch.
    pub batch: Batch,
}

/// What became of it.
#[derive(Debug)]
pub(crate) struct Done {
    /// Of each batch.
    pub(crate) appends: Vec<Result<Appended, AppendError>>,
    /// Of all cursors.
    pub(crate) cursors: Result<(), AppendError>,
}

/// Everything of a directory.
#[derive(Debug)]
pub(crate) struct Store {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    options: Options,
    topics: BTreeMap<String, Arc<Topic>>,
    cursors: Cursors,
    /// What was written and needs no sync yet.
    unsynced: Vec<(Arc<Partition>, Arc<Segment>)>,
    last_ns: u64,
    failed: Option<String>,
}

impl Store {
    /// The topics there are.
    #[must_use]
    pub(crate) fn topics(&self) -> &BTreeMap<String, Arc<Topic>> {
        &self.topics
    }

    /// How far all groups are.
    pub(crate) fn cursors(&self) -> impl Iterator<Item = (CursorKey, Cursor)> + '_ {
        self.cursors.all()
    }

    /// Makes a topic, or gives one that is there other settings; the number of its partitions stays.
    ///
    /// # Errors
    /// The disk.
    pub(crate) fn create(
        &mut self,
        name: &str,
        settings: Settings,
    ) -> Result<Arc<Topic>, AppendError> {
        self.check()?;
        let made = self.make(name, settings);
        let topic = made.map_err(|error| self.handle(&error))?;
        self.topics.insert(name.to_owned(), Arc::clone(&topic));
        Ok(topic)
    }

    fn make(&self, name: &str, mut settings: Settings) -> io::Result<Arc<Topic>> {
        let topics = self.dir.join("topics");
        let dir = topics.join(name);
        let path = dir.join(open::SETTINGS);
        if let Some(known) = self.topics.get(name) {
            settings.partitions = known.settings.partitions;
            replace(&*self.disk, &path, &settings.to_bytes())?;
            return Ok(Arc::new(Topic {
                settings,
                partitions: known.partitions.clone(),
                dir,
            }));
        }
        self.disk.make_dir(&dir)?;
        if self.disk.list(&dir)?.iter().any(|name| name == REMOVED) {
            // Of one of that name that was removed, and not to its end.
            open::take_away(&*self.disk, &dir)?;
            self.disk.make_dir(&dir)?;
        }
        let mut partitions = Vec::new();
        for number in 0..settings.partitions {
            let dir = dir.join(number.to_string());
            self.disk.make_dir(&dir)?;
            // What was begun and never became a topic.
            for name in self.disk.list(&dir)? {
                self.disk.remove(&dir.join(name))?;
            }
            let segment = self.new_segment(&dir, 0)?;
            let (mark, _) = Mark::open(&*self.disk, &dir)?;
            let partition = Partition::new(vec![segment], Producers::default(), 0, mark);
            partitions.push(Arc::new(partition));
        }
        self.disk.sync_dir(&dir)?;
        self.disk.sync_dir(&topics)?;
        // From here on it is one.
        replace(&*self.disk, &path, &settings.to_bytes())?;
        Ok(Arc::new(Topic {
            settings,
            partitions,
            dir,
        }))
    }

    /// Removes a topic with all its records and what groups have done of it.
    ///
    /// # Errors
    /// The disk.
    pub(crate) fn remove(&mut self, name: &str) -> Result<(), AppendError> {
        self.check()?;
        let Some(topic) = self.topics.get(name).map(Arc::clone) else {
            return Ok(());
        };
        // First of all, and needing no room but for one entry: from then on it is gone, whatever becomes of the rest.
        let marked = open::mark_removed(&*self.disk, &topic.dir);
        marked.map_err(|error| self.handle(&error))?;
        self.topics.remove(name);
        topic.partitions.iter().for_each(|one| one.end_for_good());
        let keys: Vec<_> = self
            .cursors
            .of(name)
            .map(|(key, _)| (key.clone(), None))
            .collect();
        let removed = self
            .cursors
            .write(&*self.disk, &keys)
            .and_then(|()| self.cursors.sync())
            .and_then(|()| open::take_away(&*self.disk, &topic.dir));
        removed.map_err(|error| self.handle(&error))
    }

    /// Writes all of it, and makes it durable as far as that is promised. `now_ns` is the time of day; the log's own never goes
    /// back.
    pub(crate) fn turn(&mut self, now_ns: u64, work: Work) -> Done {
        if let Err(failed) = self.check() {
            return Done {
                appends: work.appends.iter().map(|_| Err(failed.clone())).collect(),
                cursors: Err(failed),
            };
        }
        self.last_ns = now_ns.max(self.last_ns + 1);
        let mut answers = vec![None; work.appends.len()];
        let mut turns: BTreeMap<(String, u32), Turn> = BTreeMap::new();
        for (number, append) in work.appends.into_iter().enumerate() {
            answers[number] = self.stage(&mut turns, number, append);
        }
        for turn in turns.values_mut() {
            if let Err(error) = self.write_out(turn) {
                give_up(turn, &mut answers, &error);
            }
        }
        let mut cursors = Ok(());
        if !work.cursors.is_empty() {
            let written = self.cursors.write(&*self.disk, &work.cursors);
            cursors = written
                .and_then(|()| self.cursors.sync())
                .map_err(|error| self.handle(&error));
        }
        if let Err(error) = self.make_durable(&turns) {
            self.failed = Some(error.to_string());
        }
        if let Err(failed) = self.check() {
            let all = answers.iter().map(|_| Err(failed.clone())).collect();
            return Done {
                appends: all,
                cursors: Err(failed),
            };
        }
        for ((topic, _), turn) in turns {
            let durability = self
                .topics
                .get(&topic)
                .map(|topic| topic.settings.durability);
            let partition = Arc::clone(&turn.partition);
            publish(turn, &mut answers);
            if durability == Some(Durability::Disk) {
                partition.mark.set(partition.end());
            }
        }
        let unknown = || AppendError::Failed("a batch was forgotten".to_owned());
        let appends = answers
            .into_iter()
            .map(|answer| answer.unwrap_or_else(|| Err(unknown())));
        Done {
            appends: appends.collect(),
            cursors,
        }
    }

    /// Puts a batch to others of its partition; an answer if it is not to be written.
    fn stage(
        &mut self,
        turns: &mut BTreeMap<(String, u32), Turn>,
        number: usize,
        append: Append,
    ) -> Option<Result<Appended, AppendError>> {
        let Append {
            topic,
            partition,
            batch,
        } = append;
        let unknown = || AppendError::Unknown {
            topic: topic.clone(),
            partition,
        };
        let Some(known) = self.topics.get(&topic).map(Arc::clone) else {
            return Some(Err(unknown()));
        };
        let Some(shared) = known.partitions.get(partition as usize) else {
            return Some(Err(unknown()));
        };
        let key = (topic.clone(), partition);
        let turn = match turns.entry(key) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => {
                let segment = shared.lock().last();
                let Some(segment) = segment else {
                    return Some(Err(unknown()));
                };
                entry.insert(Turn {
                    next: shared.end(),
                    partition: Arc::clone(shared),
                    dir: known.dir.join(partition.to_string()),
                    touched: Vec::new(),
                    segment,
                    written: Vec::new(),
                    staged: Vec::new(),
                    bytes: Vec::new(),
                    producers: Producers::default(),
                    is_full: false,
                })
            }
        };
        let header = *batch.header();
        if turn.is_full {
            return Some(Err(AppendError::Full));
        }
        match shared.lock().producers.judge(&turn.producers, &header) {
            Ok(Verdict::New) => {}
            // Perhaps of this turn, which may find no room: it is known in the next one.
            Ok(Verdict::Repeated(_)) if turn.producers.knows(header.producer) => {
                return Some(Err(AppendError::Full));
            }
            Ok(Verdict::Repeated(end_offset)) => {
                return Some(Ok(Appended {
                    end_offset,
                    is_repeated: true,
                }));
            }
            Err(error) => return Some(Err(error.into())),
        }
        let length = batch.bytes().len() as u64;
        let end = turn.segment.end() + written_since(turn) + turn.bytes.len() as u64;
        if end > 0 && end + length > self.options.segment_bytes {
            let rolled = self.write_out(turn).and_then(|()| self.roll(turn));
            if let Err(error) = rolled {
                // What comes behind it must not overtake it.
                turn.is_full = true;
                return Some(Err(self.handle(&error)));
            }
        }
        let at = turn.segment.end() + written_since(turn) + turn.bytes.len() as u64;
        let mut sealed = Sealed::of(batch);
        let behind = u32::try_from(turn.bytes.len()).unwrap_or(u32::MAX);
        sealed.place(turn.next, self.last_ns, behind);
        turn.bytes.extend_from_slice(sealed.bytes());
        let placed = Batch::parse(&sealed.into_bytes()).ok().flatten();
        let Some(batch) = placed else {
            turn.bytes
                .truncate((at - turn.segment.end() - written_since(turn)) as usize);
            let odd = "a batch is none after it was placed".to_owned();
            return Some(Err(AppendError::Failed(odd)));
        };
        let header = *batch.header();
        turn.producers.note_after(&shared.lock().producers, &header);
        turn.next = header.end_offset();
        turn.staged.push(Staged {
            number,
            header,
            batch,
            at,
        });
        None
    }

    /// Writes what was put together for a partition.
    fn write_out(&mut self, turn: &mut Turn) -> Result<(), io::Error> {
        if turn.bytes.is_empty() {
            return Ok(());
        }
        let at = turn.segment.end() + written_since(turn);
        let max = self.options.segment_bytes;
        if let Err(error) = turn.segment.write(&turn.bytes, at, max) {
            if !is_full(&error) {
                self.failed = Some(error.to_string());
            }
            return Err(error);
        }
        if !turn
            .touched
            .iter()
            .any(|one| Arc::ptr_eq(one, &turn.segment))
        {
            turn.touched.push(Arc::clone(&turn.segment));
        }
        turn.bytes.clear();
        turn.written.append(&mut turn.staged);
        Ok(())
    }

    /// Begins a new segment.
    fn roll(&mut self, turn: &mut Turn) -> io::Result<()> {
        // What is in the old one is noted before anything is in the new one.
        let mut producers = turn.partition.lock().producers.clone();
        producers.take(turn.producers.clone());
        let snapshot = open::snapshot_path(&turn.dir, turn.next);
        // The snapshot says of batches that they are kept: so they are to be on the disk first.
        let older = [Arc::clone(&turn.segment)];
        for segment in turn.touched.iter().chain(&older) {
            segment
                .file
                .sync()
                .inspect_err(|error| self.failed = Some(error.to_string()))?;
        }
        replace(&*self.disk, &snapshot, &producers.to_bytes())?;
        turn.segment = self.new_segment(&turn.dir, turn.next)?;
        // It is the last one from now on, whether anything is written to it or not.
        turn.partition
            .lock()
            .segments
            .push(Arc::clone(&turn.segment));
        Ok(())
    }

    fn new_segment(&self, dir: &Path, base: u64) -> io::Result<Arc<Segment>> {
        let path = segment::path(dir, base);
        let file = match self.disk.create(&path) {
            // Made in a turn whose batches were not written in the end.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => self.disk.open(&path)?,
            made => made?,
        };
        self.disk.sync_dir(dir)?;
        Ok(Arc::new(Segment::empty(base, path, file)))
    }

    /// Syncs what is promised to be on the disk now.
    fn make_durable(&mut self, turns: &BTreeMap<(String, u32), Turn>) -> io::Result<()> {
        for ((topic, _), turn) in turns {
            let promised = self
                .topics
                .get(topic)
                .map(|topic| topic.settings.durability);
            for segment in &turn.touched {
                match promised.unwrap_or_default() {
                    Durability::Disk => segment.file.sync()?,
                    Durability::Interval(_) | Durability::Os => {
                        if !self
                            .unsynced
                            .iter()
                            .any(|(_, one)| Arc::ptr_eq(one, segment))
                        {
                            let both = (Arc::clone(&turn.partition), Arc::clone(segment));
                            self.unsynced.push(both);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Syncs all that was written and not promised to be on the disk yet.
    ///
    /// # Errors
    /// The disk failed.
    pub(crate) fn sync(&mut self) -> Result<(), AppendError> {
        self.check()?;
        let unsynced = std::mem::take(&mut self.unsynced);
        for (_, segment) in &unsynced {
            if let Err(error) = segment.file.sync() {
                self.failed = Some(error.to_string());
            }
        }
        self.check()?;
        for (partition, _) in &unsynced {
            partition.mark.set(partition.end());
        }
        Ok(())
    }

    /// Removes whole segments that are not to be kept any more.
    ///
    /// # Errors
    /// The disk.
    pub(crate) fn retain(&mut self, now_ns: u64) -> Result<(), AppendError> {
        self.check()?;
        let topics: Vec<_> = self
            .topics
            .iter()
            .map(|(name, topic)| (name.clone(), Arc::clone(topic)))
            .collect();
        for (name, topic) in topics {
            for (number, partition) in (0_u32..).zip(&topic.partitions) {
                let done = self.done(&name, number, &topic.settings);
                let dir = topic.dir.join(number.to_string());
                let retained = retain(&*self.disk, &dir, partition, &topic.settings, now_ns, done);
                retained.map_err(|error| self.handle(&error))?;
            }
        }
        Ok(())
    }

    /// Before this offset all groups have done everything; 0 if that is no reason to remove anything.
    fn done(&self, topic: &str, partition: u32, settings: &Settings) -> u64 {
        if !settings.retain_unread {
            return 0;
        }
        let mut groups: BTreeMap<&str, u64> = BTreeMap::new();
        for (key, cursor) in self.cursors.of(topic) {
            let done = groups.entry(&key.group).or_default();
            if key.partition == partition {
                *done = cursor.offset;
            }
        }
        groups.values().copied().min().unwrap_or(0)
    }

    fn check(&self) -> Result<(), AppendError> {
        match &self.failed {
            Some(why) => Err(AppendError::Failed(why.clone())),
            None => Ok(()),
        }
    }

    /// What an error of the disk comes to; one that is not for want of room is the last.
    fn handle(&mut self, error: &io::Error) -> AppendError {
        if is_full(error) {
            return AppendError::Full;
        }
        let why = self.failed.get_or_insert_with(|| error.to_string());
        AppendError::Failed(why.clone())
    }
}

/// Bytes that were written to the segment in this turn.
fn written_since(turn: &Turn) -> u64 {
    let here = |staged: &&Staged| staged.header.base_offset >= turn.segment.base;
    let lengths = turn
        .written
        .iter()
        .filter(here)
        .map(|staged| staged.batch.bytes().len() as u64);
    lengths.sum()
}

/// What could not be written is told; what was before stays.
fn give_up(
    turn: &mut Turn,
    answers: &mut [Option<Result<Appended, AppendError>>],
    error: &io::Error,
) {
    let failed = match is_full(error) {
        true => AppendError::Full,
        false => AppendError::Failed(error.to_string()),
    };
    for staged in turn.staged.drain(..) {
        answers[staged.number] = Some(Err(failed.clone()));
    }
    turn.bytes.clear();
}

/// What was written has what was promised: its readers see it, and its writers hear of it.
fn publish(turn: Turn, answers: &mut [Option<Result<Appended, AppendError>>]) {
    let mut end = turn.partition.end();
    let mut batches = Vec::new();
    {
        let mut state = turn.partition.lock();
        for staged in turn.written {
            let Staged {
                number,
                header,
                batch,
                at,
            } = staged;
            let of_it = state
                .segments
                .partition_point(|one| one.base <= header.base_offset);
            if let Some(segment) = of_it.checked_sub(1).and_then(|at| state.segments.get(at)) {
                segment.grew(header.base_offset, at, at + batch.bytes().len() as u64);
            }
            state.producers.note(&header);
            end = header.end_offset();
            answers[number] = Some(Ok(Appended {
                end_offset: Some(end),
                is_repeated: false,
            }));
            batches.push(batch);
        }
        state.producers.bound();
    }
    turn.partition.publish(batches, end);
}

/// Removes the first segments of a partition as far as its topic's settings say; the last one stays.
fn retain(
    disk: &dyn Disk,
    dir: &Path,
    partition: &Partition,
    settings: &Settings,
    now_ns: u64,
    done: u64,
) -> io::Result<()> {
    loop {
        let (first, second, bytes) = {
            let state = partition.lock();
            let [first, second, ..] = &state.segments[..] else {
                break;
            };
            let bytes: u64 = state.segments.iter().map(|one| one.end()).sum();
            (Arc::clone(first), Arc::clone(second), bytes)
        };
        let is_large = settings.retain_bytes.is_some_and(|max| bytes > max);
        let is_done = second.base <= done;
        let is_old = match settings.retain_for {
            // By when the log took it: what a producer says of the time removes nothing.
            Some(span) => is_older(&first, now_ns, span)?,
            None => false,
        };
        if !(is_large || is_done || is_old) {
            break;
        }
        disk.remove(&first.path)?;
        // Each by itself: without this one and with the next, there would be a hole.
        disk.sync_dir(dir)?;
        match disk.remove(&open::snapshot_path(dir, first.base)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        partition.lock().segments.remove(0);
    }
    Ok(())
}

fn is_older(segment: &Segment, now_ns: u64, span: std::time::Duration) -> io::Result<bool> {
    let last = segment.last_ns()?;
    let span = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
    Ok(last.is_some_and(|last| last.saturating_add(span) < now_ns))
}

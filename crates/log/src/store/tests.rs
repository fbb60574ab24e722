//! A scripted life of a log, whose power is cut at every operation of its disk, and what must hold then: all that was
//! acknowledged is there, once and in order, nothing is there that nobody sent, what groups have done is not forgotten, and all
//! goes on.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use farpipe_record::{HEADER_LEN, Header, ProducerId};

use super::*;
use crate::disk::sim::{Faults, SimDisk};
use crate::segment::Piece;

const DIR: &str = "/log";
/// So small that nearly every turn begins another one.
const SEGMENT: u64 = 1500;

fn open(disk: &SimDisk) -> Result<(Store, Vec<Recovered>), OpenError> {
    let options = Options {
        segment_bytes: SEGMENT,
    };
    Store::open(Arc::new(disk.clone()), Path::new(DIR), options)
}

/// Chance from a seed.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }
}

type Place = (String, u32);

/// What a producer has to say in a partition.
#[derive(Debug, Clone, Default)]
struct Said {
    /// Each batch: its length in records, and its content.
    batches: Vec<(u32, Vec<u8>)>,
    /// So many of them were acknowledged.
    acked: usize,
}

/// What whoever uses the log knows.
#[derive(Debug, Clone, Default)]
struct Model {
    said: BTreeMap<(Place, u8), Said>,
    /// Where what was acknowledged stands: the offset behind it, and whose it is.
    acked: BTreeMap<(Place, u64), (u8, usize)>,
    /// What groups were told is remembered, and the last that was asked for.
    cursors: BTreeMap<CursorKey, (u64, u64)>,
    /// Topics that are there for sure; `false`: not for sure.
    topics: BTreeMap<String, bool>,
    now: u64,
}

impl Model {
    fn batch(&mut self, place: &Place, producer: u8, random: &mut Random) -> Batch {
        let said = self.said.entry((place.clone(), producer)).or_default();
        let (number, count) = (said.batches.len(), 1 + random.below(9) as u32);
        let mut content = format!("{place:?} {producer} {number} ").into_bytes();
        content.resize(content.len() + random.below(600) as usize, b'.');
        said.batches.push((count, content));
        self.again(place, producer, number)
    }

    /// A batch that was made before.
    fn again(&self, place: &Place, producer: u8, number: usize) -> Batch {
        let said = &self.said[&(place.clone(), producer)];
        let (count, content) = &said.batches[number];
        let before: u32 = said.batches[..number].iter().map(|(count, _)| count).sum();
        let header = Header {
            count: *count,
            producer: ProducerId([producer; 16]),
            base_sequence: before.into(),
            plain_len: content.len() as u32,
            ..Header::default()
        };
        let bytes = [&[0; HEADER_LEN], &content[..]].concat();
        let sealed = Sealed::new(&header, bytes).expect("a batch");
        Batch::parse(&sealed.into_bytes())
            .expect("whole")
            .expect("all of it")
    }

    /// Forgets what was said in a topic that is gone.
    fn forget(&mut self, topic: &str) {
        self.said.retain(|(place, _), _| place.0 != topic);
        self.acked.retain(|(place, _), _| place.0 != topic);
        self.cursors.retain(|key, _| key.topic != topic);
    }
}

const TOPICS: [(&str, u32); 3] = [("a", 2), ("b", 1), ("c", 1)];

fn settings(name: &str, partitions: u32) -> Settings {
    Settings {
        partitions,
        retain_bytes: (name == "b").then_some(3000),
        ..Settings::default()
    }
}

/// Lives for so many steps, or until the disk fails. The script follows from the seed alone.
fn live(store: &mut Store, model: &mut Model, seed: u64, steps: usize) -> Result<(), AppendError> {
    let mut random = Random(seed * 2 + 1);
    for (name, partitions) in TOPICS {
        model.topics.insert(name.to_owned(), false);
        store.create(name, settings(name, partitions))?;
        model.topics.insert(name.to_owned(), true);
    }
    for _ in 0..steps {
        model.now += 1_000;
        match random.below(12) {
            0 => store.retain(model.now)?,
            1 => {
                model.topics.insert("c".to_owned(), false);
                let before = model.clone();
                model.forget("c");
                if let Err(error) = store.remove("c") {
                    // It is there, or it is not.
                    *model = before;
                    model.acked.retain(|(place, _), _| place.0 != "c");
                    return Err(error);
                }
                store.create("c", settings("c", 1))?;
                model.topics.insert("c".to_owned(), true);
            }
            _ => turn(store, model, &mut random)?,
        }
    }
    Ok(())
}

/// Appends some batches, and says what a group has done.
fn turn(store: &mut Store, model: &mut Model, random: &mut Random) -> Result<(), AppendError> {
    let mut work = Work::default();
    let mut whose = Vec::new();
    for _ in 0..random.below(5) {
        let (topic, partitions) = TOPICS[random.below(3) as usize];
        let place = (topic.to_owned(), random.below(partitions.into()) as u32);
        let producer = 1 + random.below(3) as u8;
        let batch = model.batch(&place, producer, random);
        whose.push((place.clone(), producer));
        let (topic, partition) = place;
        work.appends.push(Append {
            topic,
            partition,
            batch,
        });
    }
    if random.below(3) == 0 {
        let key = CursorKey {
            topic: "a".to_owned(),
            group: format!("g{}", random.below(2)),
            partition: 0,
        };
        let asked = model.cursors.entry(key.clone()).or_default();
        asked.1 += 1 + random.below(5);
        let cursor = Cursor {
            offset: asked.1,
            deliveries: 0,
        };
        work.cursors.push((key, Some(cursor)));
    }
    let asked: Vec<CursorKey> = work.cursors.iter().map(|(key, _)| key.clone()).collect();
    let mut retry = work.appends.clone();
    let mut done = store.turn(model.now, work);
    loop {
        let (mut again, mut theirs) = (Vec::new(), Vec::new());
        for ((place, producer), (append, answer)) in
            whose.into_iter().zip(retry.into_iter().zip(done.appends))
        {
            match answer {
                Ok(appended) => {
                    let said = model
                        .said
                        .get_mut(&(place.clone(), producer))
                        .expect("it was said");
                    let number = said.acked;
                    said.acked += 1;
                    let end = appended.end_offset.expect("just now");
                    model.acked.insert((place, end), (producer, number));
                }
                Err(AppendError::Full) => {
                    again.push(append);
                    theirs.push((place, producer));
                }
                Err(error) => return Err(error),
            }
        }
        match done.cursors {
            Ok(()) => asked.iter().for_each(|key| {
                let known = model.cursors.get_mut(key).expect("it was asked");
                known.0 = known.1;
            }),
            // It may be remembered, and may not.
            Err(AppendError::Full) => {}
            Err(error) => return Err(error),
        }
        if again.is_empty() {
            return Ok(());
        }
        (whose, retry) = (theirs, again.clone());
        model.now += 1_000;
        let appends = again;
        let cursors = Vec::new();
        done = store.turn(model.now, Work { appends, cursors });
    }
}

/// All that stands in a partition, from its first record to its end.
fn read_all(partition: &Partition) -> Vec<Piece> {
    let (mut offset, end) = (partition.start(), partition.end());
    let mut pieces = Vec::new();
    while offset < end {
        // So little that most batches come alone, and some of them with others.
        let read = partition.read(offset, 700).expect("it is there");
        assert!(
            !read.is_empty(),
            "nothing at {offset} of {end}: {:?}",
            partition.lock()
        );
        for piece in read {
            offset = match &piece {
                Piece::Batch(batch) => batch.header().end_offset(),
                Piece::Damaged { to, .. } => *to,
            };
            pieces.push(piece);
        }
    }
    assert_eq!(offset, end);
    pieces
}

/// What must hold of a log that was opened again. `missing`: so many batches may be damaged.
fn check(store: &Store, model: &Model, missing: usize) {
    for (name, is_sure) in &model.topics {
        assert!(
            !is_sure || store.topics().contains_key(name),
            "{name} is gone"
        );
    }
    let mut damaged = 0;
    let mut found: BTreeMap<(Place, u8), usize> = BTreeMap::new();
    let mut there = std::collections::BTreeSet::new();
    for (name, topic) in store.topics() {
        for (number, partition) in (0_u32..).zip(&topic.partitions) {
            let place = (name.clone(), number);
            let mut next = partition.start();
            for piece in read_all(partition) {
                let batch = match piece {
                    Piece::Batch(batch) => batch,
                    Piece::Damaged { from, to } => {
                        assert_eq!(from, next);
                        next = to;
                        damaged += 1;
                        // Of whom they are is not known.
                        found.retain(|(at, _), _| *at != place);
                        continue;
                    }
                };
                let header = *batch.header();
                assert_eq!(
                    header.base_offset,
                    next,
                    "{place:?}: {:?}",
                    partition.lock()
                );
                next = header.end_offset();
                let producer = header.producer.0[0];
                let said = model.said.get(&(place.clone(), producer));
                let said = said.unwrap_or_else(|| panic!("{place:?}: nobody said {header:?}"));
                let mut before = 0;
                let sequence = |(count, _): &(u32, Vec<u8>)| {
                    let first = before;
                    before += u64::from(*count);
                    first == header.base_sequence
                };
                let at = said
                    .batches
                    .iter()
                    .position(sequence)
                    .expect("a batch of its");
                assert_eq!(batch.body(), said.batches[at].1, "{place:?}");
                if let Some(last) = found.insert((place.clone(), producer), at) {
                    assert_eq!(at, last + 1, "{place:?}: of {producer}");
                }
                there.insert((place.clone(), next));
            }
        }
    }
    let mut lost = 0;
    for (place, end) in model.acked.keys() {
        let partition = store
            .topics()
            .get(&place.0)
            .map(|topic| &topic.partitions[place.1 as usize]);
        // What was removed by the topic's settings is nobody's loss.
        let is_kept = partition.is_some_and(|partition| *end > partition.start());
        if is_kept && !there.contains(&(place.clone(), *end)) {
            lost += 1;
        }
        assert!(
            place.0 == "b" || is_kept || missing > 0,
            "{place:?} {end} is gone"
        );
    }
    assert!(lost <= missing, "{lost} acknowledged batches are lost");
    assert!(damaged <= missing, "{damaged} damaged");
    for (key, (sure, asked)) in &model.cursors {
        let known = store.cursors().find(|(known, _)| known == key);
        let offset = known.map_or(0, |(_, cursor)| cursor.offset);
        assert!(offset <= *asked, "{key:?}: {offset}, and {asked} at most");
        // The script says of groups what is beyond the end, too: where the log is opened that is the end.
        let topic = store.topics().get(&key.topic);
        let partition = topic.and_then(|topic| topic.partitions.get(key.partition as usize));
        let end = partition.map_or(0, |partition| partition.end());
        assert!(
            offset >= end.min(*sure) || missing > 0,
            "{key:?}: {offset}, and {sure} was sure"
        );
    }
}

/// Everybody sends again what was not acknowledged, and more; then each batch is there once.
fn go_on(store: &mut Store, model: &mut Model) {
    for (name, partitions) in TOPICS {
        if !store.topics().contains_key(name) {
            model.forget(name);
        }
        store
            .create(name, settings(name, partitions))
            .expect("there is room");
    }
    let producers: Vec<_> = model.said.keys().cloned().collect();
    for (place, producer) in producers {
        let said = model.said[&(place.clone(), producer)].clone();
        for number in said.acked..said.batches.len() {
            let batch = model.again(&place, producer, number);
            let (topic, partition) = place.clone();
            let append = Append {
                topic,
                partition,
                batch,
            };
            model.now += 1_000;
            let work = Work {
                appends: vec![append],
                cursors: Vec::new(),
            };
            let done = store.turn(model.now, work);
            let appended = done.appends[0].clone().expect("it goes on");
            if let Some(end) = appended.end_offset {
                model.acked.insert((place.clone(), end), (producer, number));
            }
            model
                .said
                .get_mut(&(place.clone(), producer))
                .expect("there")
                .acked += 1;
        }
    }
    let mut random = Random(77);
    for _ in 0..5 {
        model.now += 1_000;
        turn(store, model, &mut random).expect("it goes on");
    }
    check(store, model, 0);
}

/// A life that is cut at an operation, and what is left of it.
fn cut(seed: u64, at: Option<u64>, lies: bool) -> (SimDisk, Model) {
    let disk = SimDisk::new(seed ^ at.unwrap_or(0) << 8);
    let faults = Faults {
        cut_at: at,
        lies,
        ..Faults::default()
    };
    disk.set(faults);
    let mut model = Model::default();
    if let Ok((mut store, recovered)) = open(&disk) {
        assert_eq!(recovered, []);
        let lived = live(&mut store, &mut model, seed, 40);
        // A mark that cannot be written is no failure.
        let is_cut = at.is_some_and(|at| at < disk.operations());
        assert!(is_cut || lived.is_ok(), "{lived:?}");
    }
    (disk, model)
}

/// What is left of that life is all that it must be.
fn survive(seed: u64, at: Option<u64>, lies: bool) {
    println!("life {seed}, cut at {at:?}");
    let (disk, mut model) = cut(seed, at, lies);
    let disk = disk.after_power_cut();
    let (mut store, recovered) =
        open(&disk).unwrap_or_else(|error| panic!("{seed} {at:?}: {error}"));
    let torn = |one: &Recovered| matches!(one, Recovered::Torn { .. } | Recovered::Cursors(_));
    assert!(recovered.iter().all(torn), "{seed} {at:?}: {recovered:?}");
    check(&store, &model, 0);
    go_on(&mut store, &mut model);
    drop(store);
    let (store, recovered) = open(&disk).expect("it is whole");
    assert_eq!(recovered, [], "{seed} {at:?}");
    check(&store, &model, 0);
}

#[test]
fn l1_l2_power_is_cut_at_every_operation() {
    let (disk, _) = cut(1, None, false);
    let operations = disk.operations();
    assert!(operations > 200, "{operations}");
    for at in 0..operations {
        survive(1, Some(at), false);
    }
}

#[test]
fn l1_l2_power_is_cut_somewhere_in_a_thousand_lives() {
    for seed in 2..1002 {
        let mut random = Random(seed);
        let at = random.below(400);
        survive(seed, Some(at), false);
    }
}

/// What there is: the ends of the batches of each partition, and what groups have done.
type Shown = (BTreeMap<Place, Vec<u64>>, Vec<(CursorKey, Cursor)>);

fn shown(store: &Store) -> Shown {
    let mut ends: BTreeMap<Place, Vec<u64>> = BTreeMap::new();
    for (name, topic) in store.topics() {
        for (number, partition) in (0_u32..).zip(&topic.partitions) {
            let of_it = ends.entry((name.clone(), number)).or_default();
            of_it.extend(read_all(partition).iter().map(|piece| match piece {
                Piece::Batch(batch) => batch.header().end_offset(),
                Piece::Damaged { to, .. } => *to,
            }));
        }
    }
    let cursors = store.cursors().map(|(key, cursor)| (key.clone(), cursor));
    (ends, cursors.collect())
}

/// The process is killed, which takes nothing from the system's memory; what the next one shows from there is taken for kept, and the
/// power is cut then.
#[test]
fn l1_what_a_killed_process_had_not_synced_is_on_the_disk_before_it_is_shown() {
    let (disk, _) = cut(1, None, false);
    for at in 0..disk.operations() {
        let (disk, _) = cut(1, Some(at), false);
        disk.set(Faults::default());
        let (store, _) = open(&disk).expect("the process died, and nothing else");
        let before = shown(&store);
        drop(store);
        for _ in 0..4 {
            let (store, _) = open(&disk.after_power_cut()).expect("it was whole");
            let (mut ends, cursors) = shown(&store);
            for (place, ends) in &mut ends {
                // A segment that was removed may be there again.
                let known = before.0.get(place).map_or(0, Vec::len);
                ends.drain(..ends.len().saturating_sub(known));
            }
            assert_eq!((ends, cursors), before, "killed at {at}");
        }
    }
}

/// The control: where the disk only says that it has synced, the same lives must be found out.
#[test]
fn l1_a_disk_that_does_not_sync_is_found_out() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let lives = 200..260;
    let found_out = lives
        .clone()
        .filter(|at| catch_unwind(AssertUnwindSafe(|| survive(1, Some(*at), true))).is_err());
    let found_out = found_out.count();
    std::panic::set_hook(hook);
    assert!(found_out * 2 > lives.count(), "{found_out} of 60");
}

#[test]
fn l4_after_a_sync_that_failed_nothing_is_acknowledged() {
    for at in 60..160 {
        let disk = SimDisk::new(at);
        disk.set(Faults {
            sync_fails_at: Some(at),
            ..Faults::default()
        });
        let mut model = Model::default();
        let (mut store, _) = open(&disk).expect("a new log");
        let lived = live(&mut store, &mut model, 5, 40);
        if lived.is_err() {
            let done = store.turn(model.now, Work::default());
            assert!(
                matches!(done.cursors, Err(AppendError::Failed(_))),
                "{done:?}"
            );
        }
        drop(store);
        let disk = disk.after_power_cut();
        let (mut store, _) = open(&disk).expect("it opens");
        check(&store, &model, 0);
        go_on(&mut store, &mut model);
    }
}

#[test]
fn l5_a_full_disk_takes_what_it_refused_when_there_is_room() {
    for at in (40..240).step_by(3) {
        let disk = SimDisk::new(at);
        disk.set(Faults {
            full_at: Some(at),
            full_for: 7,
            ..Faults::default()
        });
        let mut model = Model::default();
        let (mut store, _) = open(&disk).expect("a new log");
        match live(&mut store, &mut model, 9, 40) {
            Ok(()) | Err(AppendError::Full) => {}
            Err(error) => panic!("{error}"),
        }
        check(&store, &model, 0);
        drop(store);
        let (mut store, _) = open(&disk.after_power_cut()).expect("it opens");
        check(&store, &model, 0);
        go_on(&mut store, &mut model);
    }
}

#[test]
fn l3_every_flipped_bit_is_found_or_harmless() {
    let (disk, model) = cut(3, None, false);
    let mut random = Random(11);
    let mut opened = 0;
    for (path, length) in disk.files() {
        for _ in 0..60 {
            if length == 0 {
                break;
            }
            let bit = random.below(length * 8);
            let disk = disk.after_power_cut();
            disk.flip(&path, bit);
            println!("bit {bit} of {}", path.display());
            match open(&disk) {
                Ok((store, _)) => {
                    opened += 1;
                    check(&store, &model, 1);
                }
                // Nothing was changed by that.
                Err(OpenError::Format(_) | OpenError::Damaged(_)) => {}
                Err(error) => panic!("{}: {error}", path.display()),
            }
        }
    }
    assert!(opened > 300, "{opened}");
    check(&open(&disk).expect("as before").0, &model, 0);
}

/// What is kept for an hour is kept for an hour of the log's own time, which does not go back.
#[test]
fn l10_a_clock_that_goes_back_removes_nothing_and_offsets_by_time_stay_in_order() {
    const HOUR: u64 = 3_600_000_000_000;
    let disk = SimDisk::new(1);
    let (mut store, _) = open(&disk).expect("a new log");
    let kept = Settings {
        retain_for: Some(std::time::Duration::from_nanos(HOUR)),
        ..Settings::default()
    };
    store.create("t", kept).expect("made");
    let (place, mut random) = (("t".to_owned(), 0), Random(5));
    let mut model = Model::default();
    let mut append = |store: &mut Store, now: u64| {
        for _ in 0..12 {
            let append = Append {
                topic: "t".to_owned(),
                partition: 0,
                batch: model.batch(&place, 1, &mut random),
            };
            let appends = vec![append];
            let work = Work {
                appends,
                ..Work::default()
            };
            store.turn(now, work).appends[0].as_ref().expect("kept");
        }
        store.topics()["t"].partitions[0].end()
    };
    let noon = 500_000 * HOUR;
    let first = append(&mut store, noon);
    // The hour is set back in the midst of it.
    let before = append(&mut store, noon - HOUR);
    store.retain(noon - HOUR).expect("looked at");
    let partition = Arc::clone(&store.topics()["t"].partitions[0]);
    assert_eq!(partition.start(), 0, "nothing is old");
    // A batch is a nanosecond later than the one before, if the clock says nothing else.
    assert_eq!(partition.offset_at(noon + 12).expect("read"), first);
    assert_eq!(partition.offset_at(noon + 24).expect("read"), before);
    assert_eq!(partition.offset_at(noon).expect("read"), 0);
    append(&mut store, noon + HOUR / 2);
    store.retain(noon + HOUR + HOUR / 4).expect("looked at");
    let start = partition.start();
    assert!(
        start > 0 && start <= before,
        "{start}: only what is older than an hour has gone"
    );
}

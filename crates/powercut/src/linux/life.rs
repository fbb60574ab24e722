//! The life that is cut: a relay on a disk that is recorded, producers and a group on it, each killed now and then.

use std::collections::HashSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use super::device::{self, Loop};
use super::draw::Draw;
use super::journal::{DISK, Entry, Journal};
use super::process::{Ended, PATIENCE, Place, Relay};
use super::topics::{Burst, Ledger, Member, SHARED, TOPICS, Topic, numbers};

/// Small enough to be copied a thousand times.
const DISK_BYTES: usize = 64 << 20;
/// Of each topic; all of them fit on the disk.
const TOPIC_BYTES: usize = 6 << 20;
/// Never in the way.
const LONG: Duration = Duration::from_secs(600);

/// How the disk's file system is made and mounted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kind {
    pub(super) name: &'static str,
    format: &'static [&'static str],
    pub(super) options: &'static str,
}

/// What ext4 promises less by than it does by default, and the default.
pub(super) const KINDS: [Kind; 4] = [
    Kind {
        name: "ordered",
        format: &["-b", "4096"],
        options: "data=ordered,commit=1",
    },
    Kind {
        name: "writeback",
        format: &["-b", "4096"],
        // A file may be longer than what was written of it, and show what lay there before.
        options: "data=writeback,commit=1,dioread_lock,nodelalloc",
    },
    Kind {
        name: "journal",
        format: &["-b", "4096"],
        options: "data=journal,commit=1",
    },
    Kind {
        name: "1k blocks",
        format: &["-b", "1024"],
        options: "data=ordered,commit=1,nodelalloc",
    },
];

/// How often whom a kill -9 has hit.
#[derive(Debug, Default)]
pub(super) struct Kills {
    pub(super) relay: AtomicU64,
    pub(super) publish: AtomicU64,
    pub(super) subscribe: AtomicU64,
}

/// What a life has left: all that is needed to cut it.
#[derive(Debug)]
pub(super) struct Life {
    /// The disk when the relay was started first.
    pub(super) begin: Vec<u8>,
    pub(super) entries: Vec<Entry>,
    /// Of each topic.
    pub(super) ledgers: Vec<Ledger>,
    pub(super) members: Vec<Member>,
    pub(super) kills: Kills,
}

/// What the threads of a life share.
struct World<'a> {
    place: &'a Place,
    journal: &'a Journal,
    url: String,
    data: PathBuf,
    until: Instant,
    kills: Kills,
}

pub(super) fn live(place: &Place, kind: Kind, time: Duration, seed: u64) -> Result<Life> {
    let (below, at) = (place.directory("fuse")?, place.directory("live")?);
    // What lies on a disk before it is formatted is not zeros.
    let mut draw = Draw::new(seed, 0);
    let mut content = Vec::with_capacity(DISK_BYTES);
    while content.len() < DISK_BYTES {
        content.extend(draw.below(u64::MAX).to_le_bytes());
    }
    let journal = Journal::new(content);
    let server = journal.serve(&below)?;
    // Guards go in the opposite order: the mount, the device, and last the server.
    let lived = lived(place, kind, &journal, &below, &at, time, seed);
    let ended = device::unmount(&below);
    if ended.is_ok() {
        // Its thread has ended with the mount.
        server.join().context("the FUSE server failed")?;
    }
    let life = lived?;
    ended?;
    Ok(life)
}

fn lived(
    place: &Place,
    kind: Kind,
    journal: &Arc<Journal>,
    below: &Path,
    at: &Path,
    time: Duration,
    seed: u64,
) -> Result<Life> {
    let device = Loop::attach(&below.join(DISK))?;
    device.format(kind.format)?;
    let mount = device.mount(at, kind.options)?;
    let data = at.join("log");
    leftovers(place, &data)?;
    rustix::fs::syncfs(File::open(at)?).context("cannot sync the disk")?;
    let begin = journal.begin();
    let mut relay = Relay::start(place, &data, "ws://127.0.0.1:0")?;
    // Before anybody reads: whoever is first makes it.
    for topic in &TOPICS {
        let mut create = vec!["topic", "create", "--relay", relay.url(), topic.name];
        create.extend(["--partitions", topic.partitions]);
        create.extend(["--durability", topic.durability]);
        let create = place.start("create", &create, None)?;
        create.end_within(PATIENCE)?.good("topic create")?;
    }
    let world = World {
        place,
        journal,
        url: relay.url().to_owned(),
        data,
        until: Instant::now() + time,
        kills: Kills::default(),
    };
    let members = Mutex::default();
    let mut ledgers = Vec::new();
    let worked = thread::scope(|scope| {
        let writers: Vec<_> = (1..)
            .zip(&TOPICS)
            .map(|(number, topic)| {
                let (world, draw) = (&world, Draw::new(seed, number));
                scope.spawn(move || write(world, topic, draw))
            })
            .collect();
        let readers: Vec<_> = (100..102)
            .map(|number| {
                let (world, members) = (&world, &members);
                scope.spawn(move || read(world, number, Draw::new(seed, number), members))
            })
            .collect();
        let killed = kill(&world, &mut relay, Draw::new(seed, 200), || {
            writers.iter().all(thread::ScopedJoinHandle::is_finished)
                && readers.iter().all(thread::ScopedJoinHandle::is_finished)
        });
        if killed.is_err() {
            // The others wait for a relay that does not come.
            place.stop.stop();
        }
        let mut results = vec![killed];
        for writer in writers {
            match writer.join().unwrap_or_else(|_| bail!("a writer panicked")) {
                Ok(ledger) => ledgers.push(ledger),
                Err(error) => results.push(Err(error)),
            }
        }
        for reader in readers {
            results.push(reader.join().unwrap_or_else(|_| bail!("a reader panicked")));
        }
        results.into_iter().collect::<Result<()>>()
    });
    worked?;
    let entries = journal.take();
    // Without a cut, too, all is there.
    for (topic, ledger) in TOPICS.iter().zip(&ledgers) {
        let (acknowledged, end) = (ledger.acknowledged(usize::MAX), ledger.end(usize::MAX));
        let name = format!("live-{}", topic.name);
        let read = place.start(&name, &reading(topic.name, relay.url()), None)?;
        let ended = read.end_within(PATIENCE)?;
        let verdict = topic.judge(&ended.output, acknowledged, end);
        if ended.status != 0 || !verdict.is_good() {
            bail!("before any cut, {}: {verdict:?}, {ended:?}", topic.name);
        }
    }
    drop(relay);
    mount.end()?;
    Ok(Life {
        begin,
        entries,
        ledgers,
        members: members.into_inner().unwrap_or_else(PoisonError::into_inner),
        kills: world.kills,
    })
}

/// Batches of another log that was removed: where new ones are written, whole old ones stood.
fn leftovers(place: &Place, data: &Path) -> Result<()> {
    let relay = Relay::start(place, data, "ws://127.0.0.1:0")?;
    for topic in &TOPICS {
        let path = place.file("old.in");
        fs::write(&path, topic.lines(0..20_000))?;
        let args = [
            "pub",
            "--relay",
            relay.url(),
            "--window",
            "100000",
            topic.name,
        ];
        let publish = place.start("old", &args, Some(File::open(&path)?))?;
        publish.end_within(PATIENCE)?.good("pub")?;
    }
    drop(relay);
    fs::remove_dir_all(data).context("cannot remove the old log")
}

/// The arguments of a `sub` that reads all of a topic.
pub(super) fn reading<'a>(topic: &'a str, url: &'a str) -> Vec<&'a str> {
    let mut args = vec!["sub", "--relay", url, "--heartbeat", "1s", topic];
    args.extend([
        "--from",
        "earliest",
        "--exit-at-end",
        "--key-separator",
        "TAB",
    ]);
    args
}

/// The arguments of a `pub` by this producer.
pub(super) fn publishing<'a>(topic: &'a str, url: &'a str, producer: &'a str) -> Vec<&'a str> {
    let mut args = vec!["pub", "--relay", url, "--heartbeat", "1s", topic];
    args.extend(["--producer", producer, "--key-separator", "TAB"]);
    args
}

impl Ended {
    /// It was started when there was no relay, or none yet, and has done nothing.
    fn is_early(&self) -> bool {
        let early = [
            "nothing listens there",
            "this process is younger than the request",
        ];
        self.status == 125 && early.iter().any(|words| self.errors.contains(words))
    }

    pub(super) fn good(&self, what: &str) -> Result<()> {
        ensure!(
            self.status == 0,
            "{what} ended with {}: {}",
            self.status,
            self.errors.trim()
        );
        Ok(())
    }
}

/// Bursts of lines, each published until its `pub` ends with 0, and killed now and then.
fn write(world: &World<'_>, topic: &Topic, mut draw: Draw) -> Result<Ledger> {
    let place = world.place;
    let name = format!("pub-{}", topic.name);
    let mut ledger = Ledger::default();
    let input = place.file(&format!("{name}.in"));
    let (mut end, mut bytes) = (0, 0);
    while Instant::now() < world.until && bytes < TOPIC_BYTES {
        let begin = end;
        end += draw.some(topic.burst);
        let burst = if topic.is_grown { 0..end } else { begin..end };
        let text = topic.lines(burst.clone());
        bytes += topic.lines(begin..end).len();
        fs::write(&input, text)?;
        let producer = match topic.is_grown {
            true => topic.name.to_owned(),
            false => format!("{}-{begin}", topic.name),
        };
        let number = ledger.0.len();
        ledger.0.push(Burst {
            producer: producer.clone(),
            lines: burst,
            started: world.journal.len(),
            acknowledged: None,
        });
        loop {
            let args = publishing(topic.name, &world.url, &producer);
            let publish = place.start(&name, &args, Some(File::open(&input)?))?;
            let time = match draw.below(8) {
                0 => Duration::from_millis(20 + draw.below(200)),
                _ => LONG,
            };
            let ended = publish.end_within(time)?;
            if ended.is_killed && time < LONG {
                world.kills.publish.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            if ended.is_early() {
                continue;
            }
            ended.good("pub")?;
            break;
        }
        ledger.0[number].acknowledged = Some(world.journal.len());
    }
    Ok(ledger)
}

/// A member of the group, again and again, and killed now and then.
fn read(
    world: &World<'_>,
    number: u64,
    mut draw: Draw,
    members: &Mutex<Vec<Member>>,
) -> Result<()> {
    let members = || members.lock().unwrap_or_else(PoisonError::into_inner);
    let name = format!("sub-{number}");
    while Instant::now() < world.until {
        let count = draw.some(1_000).to_string();
        let mut args = group(&world.url);
        args.extend(["--count", &count]);
        let before: HashSet<u64> = members()
            .iter()
            .filter(|member| member.acknowledged.is_some())
            .flat_map(|member| member.lines.iter().copied())
            .collect();
        let mine = {
            let mut members = members();
            members.push(Member {
                started: world.journal.len(),
                acknowledged: None,
                lines: Vec::new(),
            });
            members.len() - 1
        };
        let kills = world.kills.relay.load(Ordering::SeqCst);
        let subscribe = world.place.start(&name, &args, None)?;
        let time = match draw.below(25) {
            0 => Duration::from_millis(20 + draw.below(200)),
            _ => LONG,
        };
        let ended = subscribe.end_within(time)?;
        let acknowledged = world.journal.len();
        let lines = numbers(&ended.output);
        if let Some(again) = lines.iter().find(|line| before.contains(line)) {
            bail!("before any cut: line {again} came to the group twice");
        }
        let is_killed = ended.is_killed && time < LONG;
        // What it wrote and had not said when the relay was killed, the next relay has not heard of: that comes again.
        let is_whole = kills == world.kills.relay.load(Ordering::SeqCst);
        let is_good = !is_killed && !ended.is_early();
        if is_killed {
            world.kills.subscribe.fetch_add(1, Ordering::Relaxed);
        } else if is_good {
            ended.good("sub --group")?;
        }
        let mut members = members();
        members[mine].lines = lines;
        members[mine].acknowledged = (is_good && is_whole).then_some(acknowledged);
    }
    Ok(())
}

/// The arguments of a member that reads what there is.
pub(super) fn group(url: &str) -> Vec<&str> {
    let mut args = reading(TOPICS[SHARED].name, url);
    // Nothing is put aside: it would be missing.
    args.extend(["--group", "g", "--max-deliver", "1000000"]);
    args
}

/// The relay is killed and started again until all have what they want.
fn kill(
    world: &World<'_>,
    relay: &mut Relay,
    mut draw: Draw,
    is_over: impl Fn() -> bool,
) -> Result<()> {
    let mut next = Instant::now() + Duration::from_millis(500 + draw.below(2500));
    while !is_over() {
        world.place.stop.check()?;
        thread::sleep(Duration::from_millis(5));
        if let Some(status) = relay.ended()? {
            bail!("before any cut: the relay ended by itself with {status}");
        }
        if Instant::now() < next || Instant::now() > world.until {
            continue;
        }
        world.kills.relay.fetch_add(1, Ordering::SeqCst);
        relay.kill()?;
        thread::sleep(Duration::from_millis(draw.below(200)));
        *relay = Relay::start(world.place, &world.data, &world.url)?;
        next = Instant::now() + Duration::from_millis(500 + draw.below(4000));
    }
    Ok(())
}

//! `farpipe-soak`: real processes under chaos, judged byte by byte; see docs/soak.md.
//!
//! A short round first, whose end is the baseline; then the long one, whose end must hold no more
//! than that. Whatever it started it ends by number, on ^C and SIGTERM too.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a tool for people; its report is its output"
)]

mod bytes;
mod chaos;
mod group;
mod process;
mod report;
mod talk;
mod work;
mod world;

use std::hash::{BuildHasher as _, RandomState};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::Instant;

use process::{Held, Place};
use world::World;

const WARM_UP: Duration = Duration::from_secs(20);
/// Longer than a session is kept whose other end was killed.
const SETTLING: Duration = Duration::from_secs(150);
/// What an allocator may keep of what was freed.
const SLACK_KIB: u64 = 48 << 10;

#[derive(Debug)]
struct Options {
    minutes: f64,
    seed: u64,
    pipes: usize,
    farpipe: PathBuf,
    dir: PathBuf,
    /// Only a group of readers of a topic.
    group: bool,
}

impl Options {
    fn parse() -> Result<Self> {
        let mut options = Self {
            minutes: 1.0,
            // Small enough to be typed.
            seed: RandomState::new().hash_one(()) >> 32,
            pipes: 4,
            farpipe: PathBuf::new(),
            dir: std::env::temp_dir(),
            group: false,
        };
        let mut words = std::env::args().skip(1).peekable();
        options.group = words.next_if(|word| word == "group").is_some();
        while let Some(name) = words.next() {
            let value = words
                .next()
                .with_context(|| format!("{name} wants a value"))?;
            match name.as_str() {
                "--minutes" => options.minutes = value.parse().context("--minutes is a number")?,
                "--seed" => options.seed = value.parse().context("--seed is a number")?,
                "--pipes" => options.pipes = value.parse().context("--pipes is a number")?,
                "--farpipe" => options.farpipe = std::path::absolute(value)?,
                "--dir" => options.dir = std::path::absolute(value)?,
                _ => bail!(
                    "no option {name}: --minutes N, --seed S, --pipes N, --farpipe FILE, --dir DIR"
                ),
            }
        }
        if !options.farpipe.exists() {
            bail!("no program {}", options.farpipe.display());
        }
        Ok(options)
    }
}

fn main() -> ExitCode {
    let soaked = Options::parse().and_then(|options| {
        if options.group {
            let Options { minutes, seed, .. } = options;
            println!("seed {seed}, {minutes} min");
            return group::run(&options.farpipe, &options.dir, minutes, seed);
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        runtime.block_on(soak(&options))
    });
    match soaked {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("farpipe-soak: {error:#}");
            ExitCode::from(2)
        }
    }
}

async fn soak(options: &Options) -> Result<bool> {
    let mark = format!("{}-{}", options.seed, std::process::id());
    let dir = options.dir.join(format!("farpipe-soak-{mark}"));
    let place = Place::new(options.farpipe.clone(), dir.clone(), mark.clone())?;
    println!(
        "seed {}, {} min, {} pipes, in {}",
        options.seed,
        options.minutes,
        options.pipes,
        dir.display()
    );
    let disk = SmallDisk::mount(&dir).await;
    println!(
        "disk full: {}",
        if disk.is_some() {
            "a tmpfs of 1 MiB"
        } else {
            "left out, no right to mount"
        }
    );
    let world = World::start(place, options.seed).await?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let broken_off = tokio::select! {
        done = rounds(options, &world) => {
            done?;
            false
        }
        _ = interrupt.recv() => true,
        _ = terminate.recv() => true,
    };
    // All workloads are over, or were dropped with what they had started.
    let world = alone(world).await?;
    let report = world.stop().await?;
    await_end(&mark, &report).await;
    if let Some(disk) = disk {
        disk.unmount().await;
    }
    print!("{}", report.table());
    let good = report.wrongs() == 0 && !broken_off;
    if good {
        std::fs::remove_dir_all(&dir).context("cannot remove the soak's directory")?;
    } else {
        println!(
            "again with --seed {}; logs are kept in {}",
            options.seed,
            dir.join("logs").display()
        );
    }
    Ok(good)
}

/// What was told to stop has let go of the world a moment later.
async fn alone(mut world: Arc<World>) -> Result<World> {
    for _ in 0..1000 {
        match Arc::try_unwrap(world) {
            Ok(world) => return Ok(world),
            Err(shared) => world = shared,
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    bail!("a workload goes on")
}

async fn rounds(options: &Options, world: &Arc<World>) -> Result<()> {
    round(options, world, WARM_UP, 0).await?;
    let before = settle(world, None).await;
    round(
        options,
        world,
        Duration::from_secs_f64(options.minutes * 60.0),
        1,
    )
    .await?;
    let after = settle(world, Some(&before)).await;
    for ((name, before), (_, after)) in before.iter().zip(&after) {
        println!(
            "{name}: before {before}, after {after}",
            before = shown(before),
            after = shown(after)
        );
        let grown =
            after.descriptors.len() > before.descriptors.len() || after.children > before.children;
        if grown || after.rss_kib > before.rss_kib + SLACK_KIB {
            world
                .report
                .wrong("baseline", &format!("{name} holds more than before"));
            println!("{name}: before {:?}", before.descriptors);
            println!("{name}: after {:?}", after.descriptors);
        }
    }
    for left in std::fs::read_dir(world.place.dir.join("data"))?.flatten() {
        // What was wrong is kept to be looked at, and told already.
        if world.report.wrongs() == 0 {
            world
                .report
                .wrong("baseline", &format!("{} is left", left.path().display()));
        }
    }
    Ok(())
}

async fn round(options: &Options, world: &Arc<World>, time: Duration, number: u64) -> Result<()> {
    let until = Instant::now() + time;
    let mut tasks = JoinSet::new();
    work::start(world, until, options.pipes, &mut tasks);
    tasks.spawn(chaos::run(Arc::clone(world), until, number));
    let mut minute = tokio::time::interval_at(
        Instant::now() + Duration::from_secs(60),
        Duration::from_secs(60),
    );
    let mut minutes = 0;
    loop {
        tokio::select! {
            _ = minute.tick() => {
                minutes += 1;
                line(world, minutes).await;
            }
            ended = tasks.join_next() => match ended {
                Some(ended) => ended??,
                None => return Ok(()),
            },
        }
    }
}

async fn line(world: &World, minutes: u32) {
    let (runs, bytes, gone) = world.report.sums();
    let mut held = Vec::new();
    for (name, one) in sample(world).await {
        held.push(format!("{name} {}", shown(&one)));
    }
    println!(
        "{minutes} min: {runs} runs, {} MiB, {} cuts with bytes in flight, {} wrong; {}",
        bytes >> 20,
        gone + world.in_flight(),
        world.report.wrongs(),
        held.join("; ")
    );
}

fn shown(held: &Held) -> String {
    format!(
        "{} fds, {} children, {} threads, {} KiB",
        held.descriptors.len(),
        held.children,
        held.threads,
        held.rss_kib
    )
}

/// Of the roles that were never killed: the others are too young to have lost anything.
async fn sample(world: &World) -> Vec<(String, Held)> {
    let mut all = Vec::new();
    for lane in world.lanes.iter().filter(|lane| lane.is_spared) {
        for role in [&lane.relay, &lane.agent] {
            match role.held().await {
                Some(held) => all.push((role.name.clone(), held)),
                None => world
                    .report
                    .wrong("baseline", &format!("{} is not there", role.name)),
            }
        }
    }
    all
}

/// Waits until they hold no more than before, or no more changes, at most as long as anything is kept.
async fn settle(world: &World, before: Option<&[(String, Held)]>) -> Vec<(String, Held)> {
    let begin = Instant::now();
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = sample(world).await;
        let few = |held: &Held, limit: Option<&Held>| {
            limit.map_or(held.children == 0, |limit| {
                held.children <= limit.children && held.descriptors.len() <= limit.descriptors.len()
            })
        };
        let limits = |at: usize| {
            before
                .and_then(|before| before.get(at))
                .map(|(_, held)| held)
        };
        let is_settled = now
            .iter()
            .enumerate()
            .all(|(at, (_, held))| few(held, limits(at)));
        // The first time there is nothing to compare with: as long as a killed caller is waited for.
        let is_early = before.is_none() && begin.elapsed() < Duration::from_secs(70);
        if (is_settled && !is_early) || begin.elapsed() > SETTLING {
            return now;
        }
    }
}

/// Nothing that a soak started, or that was started by that, outlives it.
async fn await_end(mark: &str, report: &report::Report) {
    let begin = Instant::now();
    loop {
        let left = process::marked(mark);
        if left.is_empty() {
            return;
        }
        if begin.elapsed() > Duration::from_secs(10) {
            for one in left {
                report.wrong("baseline", &format!("still runs: {one}"));
            }
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// A disk on which nothing large has room.
#[derive(Debug)]
struct SmallDisk(PathBuf);

impl SmallDisk {
    async fn mount(dir: &std::path::Path) -> Option<Self> {
        let path = dir.join("full");
        std::fs::create_dir(&path).ok()?;
        let mut mount = tokio::process::Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", "size=1m", "farpipe-soak"])
            .arg(&path);
        if mount
            .output()
            .await
            .is_ok_and(|output| output.status.success())
        {
            return Some(Self(path));
        }
        // Workloads go by whether it is there.
        let _ = std::fs::remove_dir(&path);
        None
    }

    async fn unmount(self) {
        let _ = tokio::process::Command::new("umount")
            .arg(&self.0)
            .output()
            .await;
    }
}

//! One run: lives on several kinds of ext4, each cut again and again.

mod check;
mod cut;
mod device;
mod draw;
mod journal;
mod life;
mod process;
mod report;
mod topics;

use std::fs;
use std::hash::{BuildHasher as _, RandomState};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use tokio::signal::unix::{SignalKind, signal};

use check::{Cut, Cutter};
use draw::Draw;
use journal::Entry;
use life::{KINDS, Kind, Life};
use process::Place;
use report::Report;

/// Who cut at the same time.
const CUTTERS: usize = 2;

#[derive(Debug)]
struct Options {
    cuts: usize,
    seed: u64,
    farpipe: PathBuf,
    dir: PathBuf,
}

impl Options {
    fn parse() -> Result<Self> {
        let memory = Path::new("/dev/shm");
        let mut options = Self {
            cuts: 1_000,
            // Small enough to be typed.
            seed: RandomState::new().hash_one(()) >> 32,
            farpipe: PathBuf::new(),
            dir: match memory.is_dir() {
                true => memory.to_owned(),
                false => std::env::temp_dir(),
            },
        };
        let mut words = std::env::args().skip(1);
        while let Some(name) = words.next() {
            let value = words
                .next()
                .with_context(|| format!("{name} wants a value"))?;
            match name.as_str() {
                "--cuts" => options.cuts = value.parse().context("--cuts is a number")?,
                "--seed" => options.seed = value.parse().context("--seed is a number")?,
                "--farpipe" => options.farpipe = std::path::absolute(value)?,
                "--dir" => options.dir = std::path::absolute(value)?,
                _ => bail!("no option {name}: --cuts N, --seed S, --farpipe FILE, --dir DIR"),
            }
        }
        ensure!(
            options.farpipe.exists(),
            "no program {}",
            options.farpipe.display()
        );
        ensure!(
            rustix::process::geteuid().is_root(),
            "it mounts file systems, which only root may"
        );
        Ok(options)
    }
}

/// Whether all is to end: heeded wherever something is waited for.
#[derive(Debug, Clone, Default)]
struct Stop(Arc<AtomicBool>);

impl Stop {
    fn stop(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    fn check(&self) -> Result<()> {
        ensure!(!self.0.load(Ordering::SeqCst), "broken off");
        Ok(())
    }

    /// From now on ^C and SIGTERM do it.
    fn catch(&self) -> Result<()> {
        let stop = self.clone();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()?;
        let (mut interrupt, mut terminate) = {
            let _inside = runtime.enter();
            (
                signal(SignalKind::interrupt())?,
                signal(SignalKind::terminate())?,
            )
        };
        thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
            });
            stop.stop();
        });
        Ok(())
    }
}

pub(super) fn main() -> ExitCode {
    match Options::parse().and_then(|options| powercut(&options)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("farpipe-powercut: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn powercut(options: &Options) -> Result<bool> {
    let stop = Stop::default();
    stop.catch()?;
    let mark = format!("farpipe-powercut-{}-{}", options.seed, std::process::id());
    let dir = options.dir.join(mark);
    println!(
        "seed {}, {} cuts, in {}",
        options.seed,
        options.cuts,
        dir.display()
    );
    let place = Place::new(options.farpipe.clone(), dir.clone(), stop)?;
    let report = Report::default();
    let ran = lives(options, &place, &report);
    // Guards have undone all by now.
    let left = device::left(&dir)?;
    print!("{}", report.table());
    for left in &left {
        report.wrong(&format!("it is left: {left}"));
    }
    let judged = ran.and_then(|()| judge(&report));
    let is_good = judged.is_ok() && report.wrongs() == 0;
    if left.is_empty() {
        // Images of cuts that went wrong stay.
        for name in ["run", "home", "files", "fuse", "live", "cut-0", "cut-1"] {
            let _ = fs::remove_dir_all(dir.join(name));
        }
        let _ = fs::remove_dir(&dir);
    }
    if !is_good {
        println!(
            "again with --seed {}; images of cuts are kept in {}, if one was wrong",
            options.seed,
            dir.display()
        );
    }
    judged?;
    Ok(is_good)
}

fn judge(report: &Report) -> Result<()> {
    let (looked, lost) = report.control();
    ensure!(looked > 0, "no cut was looked at");
    ensure!(
        lost > 0 && lost >= looked / 100,
        "the control lost nothing ({lost} of {looked} cuts): this harness proves nothing"
    );
    Ok(())
}

fn lives(options: &Options, place: &Place, report: &Report) -> Result<()> {
    for (number, kind) in (0..).zip(KINDS) {
        let seed = draw::mix(options.seed ^ draw::mix(number + 1));
        let number = number as usize;
        let cuts = options.cuts / KINDS.len() + usize::from(number < options.cuts % KINDS.len());
        if cuts == 0 {
            continue;
        }
        report.begin(kind.name);
        // More cuts are worth more to be cut.
        let time = Duration::from_millis(4_000 + 60 * cuts as u64).min(Duration::from_secs(30));
        let life = life::live(place, kind, time, seed)?;
        tell(kind, &life, report);
        cut(place, kind, &life, report, cuts, seed)?;
    }
    Ok(())
}

fn tell(kind: Kind, life: &Life, report: &Report) {
    let (mut writes, mut bytes) = (0, 0);
    for entry in &life.entries {
        if let Entry::Write(_, content) = entry {
            writes += 1;
            bytes += content.len();
        }
    }
    let bursts: usize = life.ledgers.iter().map(|ledger| ledger.0.len()).sum();
    println!(
        "{}: {writes} writes of {} MiB, {} flushes, {bursts} bursts, {} runs of members",
        kind.name,
        bytes >> 20,
        life.entries.len() - writes,
        life.members.len()
    );
    report.add(|sums| {
        sums.kills_relay += life.kills.relay.load(Ordering::Relaxed);
        sums.kills_publish += life.kills.publish.load(Ordering::Relaxed);
        sums.kills_subscribe += life.kills.subscribe.load(Ordering::Relaxed);
    });
}

fn cut(
    place: &Place,
    kind: Kind,
    life: &Life,
    report: &Report,
    cuts: usize,
    seed: u64,
) -> Result<()> {
    let begin = Instant::now();
    let mut draw = Draw::new(seed, 300);
    let mut places: Vec<usize> = (0..cuts)
        .map(|_| draw.below(life.entries.len() as u64 + 1) as usize)
        .collect();
    // In order, so that no disk is made from its beginning each time.
    places.sort_unstable();
    let places: Vec<Cut> = (0..)
        .zip(places)
        .map(|(number, at)| Cut { number, at })
        .collect();
    let done = thread::scope(|scope| {
        let cutters: Vec<_> = (0..CUTTERS)
            .map(|number| {
                let mine = places.iter().skip(number).step_by(CUTTERS).copied();
                let mine: Vec<_> = mine.collect();
                let cutter = Cutter {
                    place,
                    kind,
                    life,
                    report,
                    seed,
                    number,
                };
                scope.spawn(move || {
                    let done = cutter.run(&mine);
                    if done.is_err() {
                        place.stop.stop();
                    }
                    done
                })
            })
            .collect();
        let mut done = Vec::new();
        for cutter in cutters {
            done.push(cutter.join().unwrap_or_else(|_| bail!("a cutter panicked")));
        }
        done.into_iter().collect::<Result<()>>()
    });
    println!(
        "{}: {cuts} cuts in {:.0} s",
        kind.name,
        begin.elapsed().as_secs_f64()
    );
    done
}

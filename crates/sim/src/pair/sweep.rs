//! Many runs of a [`Pair`]: a cut at every byte, and seeded scenarios.
//!
//! A run is a function of its [`Scenario`]; a failure prints all of it, not only the seed.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use farpipe_proto::wire::control::Open;
use farpipe_proto::wire::id::StreamId;

use super::{Options, Pair, Way};
use crate::draw::Draw;

/// Bytes each way in one run of [`sweep`].
const SWEPT: usize = 64 * 1024;

/// Everything that decides a run.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// The seed it was derived from.
    pub seed: u64,
    /// What the links are like.
    pub options: Options,
    /// Whose stream, and how many bytes go up and down.
    pub streams: Vec<(Way, [usize; 2])>,
    /// What befalls one connection after the other; the last one stays.
    pub losses: Vec<Loss>,
}

/// How a connection ends.
#[derive(Debug, Clone, Copy)]
pub struct Loss {
    /// The way whose bytes are counted.
    pub way: Way,
    /// After so many bytes.
    pub after: u64,
    /// Only the opener notices, and what it sent still arrives.
    pub half_open: bool,
    /// How long the opener waits before it dials again.
    pub wait: Duration,
}

/// What runs amounted to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Report {
    /// Runs.
    pub runs: u64,
    /// Connections lost.
    pub disconnects: u64,
    /// Stream bytes that arrived.
    pub bytes: u64,
    /// Stream bytes lost, doubled or changed.
    pub wrong: u64,
    /// Virtual time.
    pub elapsed: Duration,
}

impl Report {
    /// Adds another.
    pub fn add(&mut self, other: Self) {
        self.runs += other.runs;
        self.disconnects += other.disconnects;
        self.bytes += other.bytes;
        self.wrong += other.wrong;
        self.elapsed += other.elapsed;
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} runs, {} disconnects, {} bytes, {} wrong, {} s of virtual time",
            self.runs,
            self.disconnects,
            self.bytes,
            self.wrong,
            self.elapsed.as_secs()
        )
    }
}

/// A run that went wrong.
#[derive(Debug)]
pub struct Failure {
    /// What was found.
    pub what: String,
    /// All that decided the run.
    pub scenario: Box<Scenario>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "seed {}: {}\n{:#?}",
            self.scenario.seed, self.what, self.scenario
        )
    }
}

impl std::error::Error for Failure {}

/// The scenario of the sweep: one stream, 64 KiB both ways at once, no cut yet.
fn swept() -> Scenario {
    Scenario {
        seed: 0,
        options: Options {
            latency: Duration::from_millis(1),
            // Slow enough that both ways are busy at the same time.
            rate: Some(10_000_000),
            ..Options::default()
        },
        streams: vec![(Way::Up, [SWEPT, SWEPT])],
        losses: Vec::new(),
    }
}

/// How many positions [`sweep`] has: every byte of the connection, handshake included, up and
/// down.
///
/// # Panics
/// When the run without a cut fails.
#[must_use]
pub fn positions() -> u64 {
    let [up, down] = swept_lens();
    up + down
}

fn swept_lens() -> [u64; 2] {
    let pair = swept().play();
    [Way::Up, Way::Down].map(|way| pair.delivered(way) + 1)
}

/// Cuts the connection once at each of the `positions`, one a run.
///
/// # Errors
/// The first [`Failure`].
pub fn sweep(positions: impl IntoIterator<Item = u64>) -> Result<Report, Failure> {
    let [up, _] = swept_lens();
    let mut report = Report::default();
    for position in positions {
        let mut scenario = swept();
        scenario.seed = position;
        let (way, after) = if position < up {
            (Way::Up, position)
        } else {
            (Way::Down, position - up)
        };
        scenario.losses.push(Loss {
            way,
            after,
            half_open: false,
            wait: Duration::ZERO,
        });
        report.add(scenario.run()?);
    }
    Ok(report)
}

/// Runs the scenarios of the `seeds`.
///
/// # Errors
/// The first [`Failure`].
pub fn seeds(seeds: impl IntoIterator<Item = u64>) -> Result<Report, Failure> {
    let mut report = Report::default();
    for seed in seeds {
        report.add(Scenario::from_seed(seed).run()?);
    }
    Ok(report)
}

impl Scenario {
    /// The scenario of a seed.
    #[must_use]
    pub fn from_seed(seed: u64) -> Self {
        let mut draw = Draw::from_seed(seed);
        let data_max = draw.pick(&[1, 13, 100, 4096, 16 * 1024, 64 * 1024]);
        let options = Options {
            latency: Duration::from_micros(draw.size(300_000)),
            rate: (!draw.one_in(3)).then(|| 10_000 << draw.below(16)),
            data_max,
            piece_max: draw.pick(&[1, 2, 17, 1000, usize::MAX]),
            ..Options::default()
        };
        // Small frames make many steps of few bytes.
        let size_max = (data_max as u64 * 2_000).min(400_000);
        let streams: Vec<(Way, [usize; 2])> = (0..draw.between(1, 4))
            .map(|_| {
                let way = draw.pick(&[Way::Up, Way::Down]);
                (
                    way,
                    [draw.size(size_max), draw.size(size_max)].map(|n| n as usize),
                )
            })
            .collect();
        // Near enough to each other that most of them come before everything has arrived.
        let sizes = streams.iter().flat_map(|(_, sizes)| sizes);
        let count = draw.below(24);
        let after_max = sizes.sum::<usize>() as u64 / (count + 1) + 200;
        let losses = (0..count)
            .map(|_| Loss {
                way: draw.pick(&[Way::Up, Way::Down]),
                after: draw.size(after_max),
                half_open: draw.one_in(4),
                wait: Duration::from_millis(draw.size(30_000)),
            })
            .collect();
        Self {
            seed,
            options,
            streams,
            losses,
        }
    }

    /// Plays it to the end.
    ///
    /// # Errors
    /// [`Failure`] when a session failed, did not finish, or a byte is wrong.
    pub fn run(&self) -> Result<Report, Failure> {
        let played = catch_unwind(AssertUnwindSafe(|| settled(&self.play())));
        let what = match played {
            Ok(report) if report.wrong == 0 => return Ok(report),
            Ok(report) => format!("{} wrong bytes", report.wrong),
            Err(panic) => match panic.downcast::<String>() {
                Ok(text) => *text,
                Err(panic) => panic
                    .downcast::<&str>()
                    .map_or_else(|_| "a panic".to_owned(), |text| (*text).to_owned()),
            },
        };
        Err(Failure {
            what,
            scenario: Box::new(self.clone()),
        })
    }

    /// The pair with all streams open and all bytes written; the connection is being made.
    fn start(&self) -> Pair {
        let mut pair = Pair::new(self.options.clone());
        for (n, (way, sizes)) in self.streams.iter().enumerate() {
            let open = Open {
                interactive: n % 3 == 2,
                ..Open::default()
            };
            let opener = pair.sender(*way);
            let id = opener.try_open(open).expect("room for a stream");
            opener.write(id, &self.bytes(id, *way, sizes));
            opener.finish(id);
        }
        pair.dial_in(Duration::ZERO, cuts(self.losses.first()));
        pair
    }

    /// What is sent `way` on the stream `id`.
    fn bytes(&self, id: StreamId, way: Way, sizes: &[usize; 2]) -> Vec<u8> {
        let len = sizes[way as usize];
        let mut draw = Draw::from_seed(u64::from(id.0) << 32 | way as u64);
        let words = (0..len.div_ceil(8)).flat_map(|_| draw.below(u64::MAX).to_le_bytes());
        words.take(len).collect()
    }

    /// Goes on until everything is settled or nothing happens any more.
    fn play(&self) -> Pair {
        let mut pair = self.start();
        let mut losses = self.losses.iter();
        let mut answered = false;
        loop {
            let loss = losses.next();
            let left = |pair: &Pair| {
                loss.is_some_and(|loss| loss.half_open && pair.delivered(loss.way) >= loss.after)
            };
            pair.drive_until(|pair| left(pair) || !answered && self.is_opened(pair));
            // The peers answer and say that no more streams come once they know of all.
            if !answered && self.is_opened(&pair) {
                answered = true;
                self.answer(&mut pair);
                pair.opener.session.finish_opening();
                pair.drive_until(left);
            }
            if pair.is_attached() && !left(&pair) {
                break;
            }
            pair.abandon();
            let wait = loss.map_or(Duration::ZERO, |loss| loss.wait);
            pair.dial_in(wait, cuts(losses.as_slice().first()));
        }
        pair
    }

    fn is_opened(&self, pair: &Pair) -> bool {
        let all = self.streams.len();
        pair.opener.ends.len() == all && pair.acceptor.ends.len() == all
    }

    fn answer(&self, pair: &mut Pair) {
        let mut next = [1, 2];
        for (way, sizes) in &self.streams {
            let (id, back) = match way {
                Way::Up => (&mut next[0], Way::Down),
                Way::Down => (&mut next[1], Way::Up),
            };
            let stream = StreamId(*id);
            *id += 2;
            let answerer = pair.sender(back);
            answerer.write(stream, &self.bytes(stream, back, sizes));
            answerer.finish(stream);
        }
    }
}

fn cuts(loss: Option<&Loss>) -> [Option<u64>; 2] {
    match loss {
        Some(Loss {
            way,
            after,
            half_open: false,
            ..
        }) => match way {
            Way::Up => [Some(*after), None],
            Way::Down => [None, Some(*after)],
        },
        _ => [None, None],
    }
}

/// Checks that everything is where it belongs and nothing is left over.
fn settled(pair: &Pair) -> Report {
    let mut report = Report {
        runs: 1,
        disconnects: pair.disconnects,
        elapsed: pair.now().since_origin(),
        ..Report::default()
    };
    for (from, to) in [
        (&pair.opener, &pair.acceptor),
        (&pair.acceptor, &pair.opener),
    ] {
        assert!(from.session.is_complete(), "not complete");
        assert_eq!(from.session.open_streams(), 0);
        assert_eq!(from.session.acked(), from.session.numbered());
        for (id, end) in &from.ends {
            let got = &to.end(*id).received;
            assert!(end.done, "{id}: not confirmed");
            let same = end.written.iter().zip(got).filter(|(a, b)| a == b).count();
            report.bytes += got.len() as u64;
            report.wrong += (end.written.len().max(got.len()) - same) as u64;
        }
    }
    report
}

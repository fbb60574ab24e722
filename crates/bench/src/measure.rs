//! What is measured, in which order.
//!
//! Two tables. Each is measured in interleaved rounds: every row once, then the next round, so that
//! a slow minute of the machine hits all rows. The second table needs the first one's result.

use std::io;
use std::num::{NonZeroU32, NonZeroU64};

use crate::channel::{Capacity, Channel, Kind};
use crate::cores::{Cores, Placement};
use crate::lessons::Lessons;
use crate::mechanism::{ALL, BASE, Mechanism};
use crate::others::Watch;
use crate::report::Report;
use crate::run::{Content, Job, RunError, Sample, run};
use crate::stats::median;

/// Bytes a call: from less than a page to all that the largest pipe holds.
pub(crate) const BATCHES: [usize; 7] = [
    512,
    1 << 10,
    4 << 10,
    16 << 10,
    64 << 10,
    256 << 10,
    1 << 20,
];

/// The pipes that batch sizes are measured with.
pub(crate) const CHANNELS: [Channel; 3] = [PIPE, LARGE_PIPE, FIFO];
pub(crate) const PIPE: Channel = Channel {
    kind: Kind::Pipe,
    capacity: Capacity::Default,
};
pub(crate) const LARGE_PIPE: Channel = Channel {
    kind: Kind::Pipe,
    capacity: Capacity::Large,
};
pub(crate) const FIFO: Channel = Channel {
    kind: Kind::Fifo,
    capacity: Capacity::Default,
};

/// The pipes that mechanisms are compared in.
pub(crate) const COMPARED: [Channel; 2] = [PIPE, LARGE_PIPE];

/// Enough to go round the largest pipe several times, and a bit, so that the last batch is short.
const VERIFIED: u64 = (4 << 20) + 1234;

/// What the user may choose.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Runs of each row; a figure is their median.
    pub rounds: NonZeroU32,
    /// Bytes sent in a run.
    pub size: NonZeroU64,
    /// Where the two sides run.
    pub cores: Cores,
}

/// What that means here.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) rounds: u32,
    pub(crate) size: u64,
    pub(crate) placement: Placement,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Runs done.
    pub done: u64,
    /// Runs to do.
    pub total: u64,
}

/// One row: what is measured and what came of it.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) setup: Setup,
    /// In the order of the rounds; or why there are none.
    pub(crate) samples: Result<Vec<Sample>, RunError>,
    pub(crate) plan: Plan,
}

/// What a row measures.
#[derive(Clone, Copy)]
pub(crate) struct Setup {
    pub(crate) mechanism: &'static dyn Mechanism,
    pub(crate) channel: Channel,
    pub(crate) batch: usize,
}

/// Measures everything; tells `progress` after every run. Fails only if the system does not say
/// which processors there are.
pub fn measure(options: &Options, mut progress: impl FnMut(Progress)) -> io::Result<Report> {
    let plan = Plan {
        rounds: options.rounds.get(),
        size: options.size.get(),
        placement: Placement::choose(options.cores)?,
    };
    let batches: Vec<Setup> = CHANNELS
        .into_iter()
        .flat_map(|channel| {
            BATCHES.map(|batch| Setup {
                mechanism: BASE,
                channel,
                batch,
            })
        })
        .collect();
    let watch = Watch::start();
    let rounds = u64::from(plan.rounds) + 1;
    let total = rounds * (batches.len() + ALL.len() * COMPARED.len()) as u64;
    let mut done = 0;
    let mut tick = || {
        done += 1;
        progress(Progress { done, total });
    };
    let batches = rows(batches, plan, &mut tick);
    let mechanisms = COMPARED
        .into_iter()
        .filter_map(|channel| Some((channel, best_batch(&batches, channel)?)))
        .flat_map(|(channel, batch)| {
            ALL.iter().map(move |&mechanism| Setup {
                mechanism,
                channel,
                batch,
            })
        })
        .collect();
    let mechanisms = rows(mechanisms, plan, &mut tick);
    Ok(Report {
        plan,
        others: watch.and_then(|watch| watch.others()),
        lessons: Lessons::of(&batches, &mechanisms),
        batches,
        mechanisms,
    })
}

fn rows(setups: Vec<Setup>, plan: Plan, tick: &mut impl FnMut()) -> Vec<Row> {
    let mut rows: Vec<Row> = setups
        .into_iter()
        .map(|setup| Row::verified(setup, plan))
        .collect();
    // A machine that did nothing needs about a second to come to speed: one round is for that.
    for row in &mut rows {
        row.warm_up();
        tick();
    }
    for _ in 0..plan.rounds {
        for row in &mut rows {
            row.measure();
            tick();
        }
    }
    rows
}

impl Row {
    /// A row without figures, whose every byte arrived once where it belongs.
    fn verified(setup: Setup, plan: Plan) -> Self {
        Self {
            setup,
            samples: run(
                setup.mechanism,
                &setup.job(plan, VERIFIED, Content::Pattern),
            )
            .map(|_| Vec::new()),
            plan,
        }
    }

    /// A run that must succeed and is not counted.
    fn warm_up(&mut self) {
        self.measure();
        if let Ok(samples) = &mut self.samples {
            samples.clear();
        }
    }

    /// Adds a sample, unless the row has failed.
    fn measure(&mut self) {
        let Ok(samples) = &mut self.samples else {
            return;
        };
        match run(
            self.setup.mechanism,
            &self.setup.job(self.plan, self.plan.size, Content::Any),
        ) {
            Ok(sample) => samples.push(sample),
            Err(error) => self.samples = Err(error),
        }
    }

    /// GB/s of each round; none if it failed.
    pub(crate) fn rates(&self) -> Vec<f64> {
        let rate = |sample: &Sample| self.plan.size as f64 / 1e9 / sample.elapsed.as_secs_f64();
        self.samples.iter().flatten().map(rate).collect()
    }

    /// The median rate, GB/s.
    pub(crate) fn rate(&self) -> Option<f64> {
        median(&self.rates())
    }

    /// The median CPU time of both sides, in seconds a GiB.
    pub(crate) fn cpu_per_gib(&self) -> Option<f64> {
        let gib = self.plan.size as f64 / f64::from(1 << 30);
        let cpu = |sample: &Sample| sample.cpu.as_secs_f64() / gib;
        let all: Vec<f64> = self.samples.iter().flatten().map(cpu).collect();
        median(&all)
    }
}

impl Setup {
    fn job(&self, plan: Plan, size: u64, content: Content) -> Job {
        Job {
            channel: self.channel,
            batch: self.batch,
            size,
            content,
            placement: plan.placement,
        }
    }
}

impl std::fmt::Debug for Setup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Setup")
            .field("mechanism", &self.mechanism.name())
            .field("channel", &self.channel)
            .field("batch", &self.batch)
            .finish()
    }
}

/// How near to the fastest is as good: smaller batches cost less memory and less delay.
const NEARLY: f64 = 0.95;

/// The smallest batch of a channel that is as good as its fastest.
pub(crate) fn best_batch(batches: &[Row], channel: Channel) -> Option<usize> {
    let rates: Vec<(usize, f64)> = batches
        .iter()
        .filter(|row| row.setup.channel == channel)
        .filter_map(|row| Some((row.setup.batch, row.rate()?)))
        .collect();
    let fastest = rates.iter().map(|(_, rate)| *rate).max_by(f64::total_cmp)?;
    let good = rates.iter().filter(|(_, rate)| *rate >= fastest * NEARLY);
    good.map(|(batch, _)| *batch).min()
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io;
    use std::time::Duration;

    use super::*;
    use crate::mechanism::Ends;

    pub(crate) const PLAN: Plan = Plan {
        rounds: 1,
        size: 1_000_000_000,
        placement: Placement::Free,
    };

    /// A row that moved 1 GB at these rates.
    pub(crate) fn row(
        mechanism: &'static dyn Mechanism,
        channel: Channel,
        batch: usize,
        rates: &[f64],
    ) -> Row {
        let sample = |rate: &f64| Sample {
            elapsed: Duration::from_secs_f64(1.0 / rate),
            cpu: Duration::from_secs(1),
        };
        Row {
            setup: Setup {
                mechanism,
                channel,
                batch,
            },
            samples: Ok(rates.iter().map(sample).collect()),
            plan: PLAN,
        }
    }

    pub(crate) fn failed(mechanism: &'static dyn Mechanism, channel: Channel, batch: usize) -> Row {
        Row {
            samples: Err(RunError::Content(7)),
            ..row(mechanism, channel, batch, &[])
        }
    }

    #[test]
    fn the_best_batch_is_the_smallest_that_is_nearly_as_fast_as_the_fastest() {
        let rows = [
            row(BASE, PIPE, 512, &[1.0]),
            row(BASE, PIPE, 4096, &[1.94, 9.0, 0.1]),
            row(BASE, PIPE, 65_536, &[2.0]),
            failed(BASE, PIPE, 1 << 20),
            row(BASE, FIFO, 512, &[9.0]),
        ];
        assert_eq!(best_batch(&rows, PIPE), Some(4096));
        assert_eq!(best_batch(&rows, FIFO), Some(512));
        assert_eq!(best_batch(&rows, LARGE_PIPE), None);
    }

    /// Says it has sent everything.
    struct Liar;

    impl Mechanism for Liar {
        fn name(&self) -> &'static str {
            "liar"
        }

        fn open(&self, _job: &Job) -> io::Result<Ends> {
            Ok(Ends {
                send: Box::new(|_| Ok(())),
                receive: Box::new(|_| Ok(())),
            })
        }
    }

    #[test]
    fn a_row_whose_bytes_do_not_arrive_has_no_figures() {
        let setup = Setup {
            mechanism: &Liar,
            channel: PIPE,
            batch: 512,
        };
        let rows = rows(vec![setup], PLAN, &mut || {});
        assert_eq!(rows[0].rate(), None);
        let error = rows[0].samples.as_ref().expect_err("nothing came");
        assert_eq!(error.to_string(), "0 bytes came of 4195538");
    }

    #[test]
    fn every_run_is_told() {
        let options = Options {
            rounds: NonZeroU32::MIN.saturating_add(1),
            size: NonZeroU64::MIN.saturating_add(9999),
            cores: Cores::Apart,
        };
        let mut told = Vec::new();
        let report = measure(&options, |progress| told.push(progress)).expect("processors");
        let total = 3 * (7 * 3 + ALL.len() as u64 * 2);
        let expected: Vec<_> = (1..=total).map(|done| Progress { done, total }).collect();
        assert_eq!(told, expected);
        for row in report.batches.iter().chain(&report.mechanisms) {
            assert_eq!(row.rates().len(), 2, "{row:?}");
        }
    }
}

//! One run with a cut at each byte of a connection, and many seeds.

use std::time::Duration;

use super::cable::{Cut, Fault, Quality, Way};
use super::network::{Fortune, Kind};
use super::play::{Failure, Report, Stage};
use super::scenario::{Lane, Scenario};

/// What is cut, and how.
#[derive(Debug, Clone)]
pub struct Swept {
    /// What happens at the cut.
    pub fault: Fault,
    /// Bytes that the one stream carries, each way.
    pub bytes: u64,
    /// Whether both ends prove a secret first.
    pub proven: bool,
}

impl Default for Swept {
    /// 64 KiB, reset.
    fn default() -> Self {
        Self {
            fault: Fault::Reset,
            bytes: 64 * 1024,
            proven: false,
        }
    }
}

/// Each carrier and way, with how many places there are to cut it: every byte, from before the
/// first to behind the last.
#[derive(Debug, Clone)]
pub struct Sweep {
    swept: Swept,
    parts: Vec<(Kind, Way, u64)>,
}

impl Sweep {
    /// Measures the runs without a cut.
    ///
    /// # Errors
    /// One of them fails.
    pub fn new(stage: &mut Stage, swept: Swept) -> Result<Self, Box<Failure>> {
        let mut parts = Vec::new();
        for kind in [Kind::Ws, Kind::Fp] {
            let [up, down] = stage.play_twice(&swept.scenario(kind, Vec::new()))?.carried;
            parts.push((kind, Way::Up, up + 1));
            parts.push((kind, Way::Down, down + 1));
        }
        Ok(Self { swept, parts })
    }

    /// How many places there are.
    #[must_use]
    pub fn positions(&self) -> u64 {
        self.parts.iter().map(|(_, _, count)| count).sum()
    }

    /// The run that is cut at the place of this number; `None` beyond the last.
    #[must_use]
    pub fn scenario(&self, position: u64) -> Option<Scenario> {
        let mut at = position;
        for (kind, way, count) in &self.parts {
            if at < *count {
                let cut = Cut {
                    way: *way,
                    at,
                    fault: self.swept.fault,
                };
                return Some(self.swept.scenario(*kind, vec![cut]));
            }
            at -= count;
        }
        None
    }

    /// Plays a run for each of the `positions`.
    ///
    /// # Errors
    /// The first [`Failure`].
    pub fn run(
        &self,
        stage: &mut Stage,
        positions: impl IntoIterator<Item = u64>,
    ) -> Result<Report, Box<Failure>> {
        let mut sum = Report::default();
        for scenario in positions.into_iter().filter_map(|at| self.scenario(at)) {
            sum.add(&stage.play(&scenario)?);
        }
        Ok(sum)
    }
}

impl Swept {
    /// One stream, both ways at once, and what befalls its first connection.
    fn scenario(&self, kind: Kind, cuts: Vec<Cut>) -> Scenario {
        Scenario {
            kind,
            // Slow enough that both ways are busy at the same time.
            quality: Quality {
                latency: Duration::from_millis(1),
                rate: Some(10_000_000),
                ..Quality::default()
            },
            fortunes: vec![Fortune {
                cuts,
                ..Fortune::good()
            }],
            proven: self.proven,
            lanes: vec![Lane::plain(self.bytes, self.bytes)],
            ..Scenario::default()
        }
    }
}

/// Plays each seed twice.
///
/// # Errors
/// The first [`Failure`].
pub fn seeds(
    stage: &mut Stage,
    seeds: impl IntoIterator<Item = u64>,
) -> Result<Report, Box<Failure>> {
    let mut sum = Report::default();
    for seed in seeds {
        sum.add(&stage.play_twice(&Scenario::from_seed(seed))?);
    }
    Ok(sum)
}

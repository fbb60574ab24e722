//! What befalls two hosts and the network between them, derived from a seed.

use std::time::Duration;

use super::cable::Way;
use super::flow::Flow;
use super::network::Kind;
use super::scenario::{Lane, Scenario};
use crate::draw::Draw;

/// Something that happens to the network or to a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blow {
    /// What is sent is lost, and what is under way, until the network is repaired.
    Partition,
    /// The same one way only.
    OneWay(Way),
    /// What is sent arrives when the network is released, and not before.
    Hold,
    /// Ends the three above.
    Clear,
    /// Each message takes so long from now on.
    Latency(Duration),
    /// The listening process is killed, and started again after this time.
    Kill(Duration),
}

/// All that decides a run with hosts.
#[derive(Debug, Clone)]
pub struct Storm {
    /// Carrier, streams and settings; connections are the network's business here.
    pub scenario: Scenario,
    /// How far hosts are ahead of each other at most; what a message needs at least.
    pub tick: Duration,
    /// Least and most time a message needs.
    pub latency: [Duration; 2],
    /// How many of a million messages break the link for a while.
    pub losses: u32,
    /// Segments that a connection holds before its writer waits.
    pub segments: usize,
    /// Hosts run in random order in each tick.
    pub shuffled: bool,
    /// What happens when, in order.
    pub blows: Vec<(Duration, Blow)>,
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Outages last no longer, so that nobody gives up in [`RESUME_FOR`].
const OUTAGE_MAX: u64 = 8_000;
const RESUME_FOR: Duration = Duration::from_secs(300);

impl Storm {
    /// The storm of `seed`.
    #[must_use]
    pub fn from_seed(seed: u64) -> Self {
        let draw = &mut Draw::from_seed(seed);
        let latency = draw.pick(&[[1, 5], [5, 10], [20, 20], [10, 100], [40, 250]]);
        Self {
            scenario: Scenario {
                seed,
                kind: draw.pick(&[Kind::Ws, Kind::Fp]),
                proven: draw.one_in(3),
                heartbeat: draw.pick(&[ms(400), ms(1_000), ms(2_000)]),
                resume_for: RESUME_FOR,
                buffers: [1 << 20, 1 << 20],
                keep: !draw.one_in(3),
                lanes: (0..draw.between(1, 4)).map(|_| lane(draw)).collect(),
                ..Scenario::default()
            },
            tick: ms(5),
            latency: latency.map(ms),
            losses: draw.pick(&[0, 0, 200, 2_000]),
            segments: draw.pick(&[64, 8, 1_024]),
            shuffled: draw.one_in(2),
            blows: blows(draw),
        }
    }
}

fn lane(draw: &mut Draw<'_>) -> Lane {
    let mut flow = || {
        let len = draw.size(120_000);
        let delay = |draw: &mut Draw<'_>| match draw.below(3) {
            0 => Duration::ZERO,
            _ => ms(draw.size(300)),
        };
        Flow {
            len,
            // A run lasts some seconds, so that something can happen in it.
            chunk: (len / 30).max(1) as usize,
            source_delay: delay(draw),
            sip: (len / 30).max(1) as usize,
            sink_delay: delay(draw),
            every: 1,
            reset_at: draw.one_in(15).then(|| draw.size(len)),
            stop_at: draw.one_in(15).then(|| draw.size(len)),
        }
    };
    let (up, down) = (flow(), flow());
    Lane {
        by: if draw.one_in(4) { Way::Down } else { Way::Up },
        after: ms(draw.size(1_000)),
        up,
        down,
    }
}

fn blows(draw: &mut Draw<'_>) -> Vec<(Duration, Blow)> {
    let mut at = 0;
    let mut blows = Vec::new();
    for _ in 0..draw.below(7) {
        // The first link comes about; a refusal before it would be final.
        at += draw.between(50, 3_000);
        let blow = match draw.below(16) {
            0..5 => Blow::Partition,
            5..7 => Blow::OneWay(Way::Up),
            7..9 => Blow::OneWay(Way::Down),
            9..12 => Blow::Hold,
            12..14 => Blow::Latency(ms(draw.between(5, 500))),
            14 => Blow::Kill(ms(draw.between(100, OUTAGE_MAX))),
            _ => Blow::Kill(Duration::ZERO),
        };
        blows.push((ms(at), blow));
        if matches!(blow, Blow::Partition | Blow::OneWay(_) | Blow::Hold) {
            at += draw.between(50, OUTAGE_MAX);
            blows.push((ms(at), Blow::Clear));
        }
    }
    blows
}

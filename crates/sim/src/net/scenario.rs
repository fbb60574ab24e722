//! All that decides a run, derived from a seed.

use std::sync::Arc;
use std::time::Duration;

use farpipe_net::{AcceptorConfig, Clock, Greeting, LoopbackSecret, OpenerConfig};
use farpipe_proto::limits::HEARTBEAT;

use super::cable::{Cut, Fault, Quality, Way};
use super::chance;
use super::flow::Flow;
use super::network::{Answer, Fortune, Kind};
use crate::draw::Draw;

/// One stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lane {
    /// Who opens it: [`Way::Up`], the opener of the session.
    pub by: Way,
    /// How long after the session began.
    pub after: Duration,
    /// From the session's opener to its acceptor.
    pub up: Flow,
    /// The other way.
    pub down: Flow,
}

impl Lane {
    /// A stream of the opener that carries so many bytes at once, up and down.
    #[must_use]
    pub fn plain(up: u64, down: u64) -> Self {
        let flow = |len| Flow {
            len,
            chunk: 16 * 1024,
            sip: 16 * 1024,
            ..Flow::default()
        };
        Self {
            by: Way::Up,
            after: Duration::ZERO,
            up: flow(up),
            down: flow(down),
        }
    }
}

/// All that decides a run.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// What it was derived from; decides the bytes, keys and jitter.
    pub seed: u64,
    /// The carrier.
    pub kind: Kind,
    /// What connections are like.
    pub quality: Quality,
    /// What befalls them, in turn.
    pub fortunes: Vec<Fortune>,
    /// Whether both prove the loopback secret: one more round trip.
    pub proven: bool,
    /// Of both ends.
    pub heartbeat: Duration,
    /// Of the opener.
    pub resume_for: Duration,
    /// What opener and acceptor retain at most.
    pub buffers: [u64; 2],
    /// The listener serves on after the session.
    pub keep: bool,
    /// The streams.
    pub lanes: Vec<Lane>,
}

/// Bytes of a connection that carry no stream yet, roughly.
const HANDSHAKE: u64 = 500;
/// A connection that came so far is attached.
const ATTACHED: u64 = 2_000;

impl Default for Scenario {
    fn default() -> Self {
        Self {
            seed: 0,
            kind: Kind::Fp,
            quality: Quality::default(),
            fortunes: Vec::new(),
            proven: false,
            heartbeat: HEARTBEAT,
            resume_for: Duration::from_secs(7_200),
            buffers: [1 << 20; 2],
            keep: true,
            lanes: Vec::new(),
        }
    }
}

impl Scenario {
    /// The scenario of `seed`.
    #[must_use]
    pub fn from_seed(seed: u64) -> Self {
        let draw = &mut Draw::from_seed(seed);
        let quality = Quality {
            latency: ms(draw.pick(&[0, 0, 1, 5, 20, 100, 700])),
            rate: draw.pick(&[None, None, Some(20_000_000), Some(1_000_000), Some(50_000)]),
            capacity: draw.pick(&[64 * 1024, 256 * 1024, 4_096, 1_000]),
            read_max: piece(draw),
            write_max: piece(draw),
            idle_max: None,
        };
        // Slow and crumbly connections carry less, or a run takes too long.
        let size_max = if quality.read_max.min(quality.write_max) < 20 {
            20_000
        } else if draw.one_in(20) {
            2_000_000
        } else {
            200_000
        };
        let lanes: Vec<Lane> = (0..streams(draw)).map(|_| lane(draw, size_max)).collect();
        let bytes = |flow: fn(&Lane) -> &Flow| lanes.iter().map(|lane| flow(lane).len).sum::<u64>();
        let totals = [bytes(|lane| &lane.up), bytes(|lane| &lane.down)];
        Self {
            seed,
            kind: draw.pick(&[Kind::Ws, Kind::Fp]),
            quality,
            fortunes: fortunes(draw, totals),
            proven: draw.one_in(3),
            heartbeat: draw.pick(&[HEARTBEAT, HEARTBEAT, ms(1_000), ms(60_000)]),
            buffers: [buffer(draw), buffer(draw)],
            keep: !draw.one_in(3),
            lanes,
            ..Self::default()
        }
    }

    /// Settings of its opener.
    #[must_use]
    pub fn opener(&self, clock: Clock, secret: Option<Arc<LoopbackSecret>>) -> OpenerConfig {
        let mut config = OpenerConfig::new(greeting(secret));
        config.clock = clock;
        config.heartbeat = self.heartbeat;
        config.resume_for = self.resume_for;
        config.buffer_max = self.buffers[0];
        config
    }

    /// Settings of its acceptor.
    #[must_use]
    pub fn acceptor(&self, clock: Clock, secret: Option<Arc<LoopbackSecret>>) -> AcceptorConfig {
        let mut config = AcceptorConfig::new(greeting(secret));
        config.clock = clock;
        config.heartbeat = self.heartbeat;
        config.buffer_max = self.buffers[1];
        config.one_shot = !self.keep;
        config
    }
}

fn greeting(secret: Option<Arc<LoopbackSecret>>) -> Greeting {
    Greeting {
        software: "sim".to_owned(),
        prover: secret.clone().map(|secret| secret as _),
        keys: secret.map(|secret| secret as _),
        tokens: None,
        random: chance::random,
    }
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Most bytes of one read or write.
fn piece(draw: &mut Draw<'_>) -> usize {
    match draw.below(8) {
        0 => 1,
        1 => draw.between(2, 40) as usize,
        2 => draw.between(40, 2_000) as usize,
        _ => usize::MAX,
    }
}

fn buffer(draw: &mut Draw<'_>) -> u64 {
    draw.pick(&[64 << 20, 1 << 20, 100_000, 5_000])
}

fn streams(draw: &mut Draw<'_>) -> u64 {
    match draw.below(10) {
        0..6 => 1,
        6..9 => draw.between(2, 5),
        _ => draw.between(6, 30),
    }
}

fn lane(draw: &mut Draw<'_>, size_max: u64) -> Lane {
    Lane {
        by: if draw.one_in(4) { Way::Down } else { Way::Up },
        after: ms(draw.size(2_000)),
        up: flow(draw, size_max),
        down: flow(draw, size_max),
    }
}

fn flow(draw: &mut Draw<'_>, size_max: u64) -> Flow {
    let len = draw.size(size_max);
    let delay = |draw: &mut Draw<'_>| match draw.below(4) {
        0 => ms(draw.size(2_000)),
        _ => Duration::ZERO,
    };
    let early = |draw: &mut Draw<'_>| draw.one_in(12).then(|| draw.size(len));
    // No more than some hundred turns a flow.
    let least = (len / 300).max(1);
    Flow {
        len,
        chunk: least.max(draw.size(300_000)) as usize,
        source_delay: delay(draw),
        sip: least.max(draw.size(300_000)) as usize,
        sink_delay: delay(draw),
        every: draw.between(1, 50) as u32,
        reset_at: early(draw),
        stop_at: early(draw),
    }
}

fn fortunes(draw: &mut Draw<'_>, totals: [u64; 2]) -> Vec<Fortune> {
    let count = draw.size(12);
    let mut attached = false;
    (0..count)
        .map(|_| {
            let answer = match draw.below(12) {
                // A refusal before the first link is final.
                0 if attached => Answer::Refused,
                1 => Answer::Reset,
                2 => Answer::Silence,
                _ => Answer::Connected,
            };
            let cuts: Vec<Cut> = (0..draw.between(1, 2)).map(|_| cut(draw, totals)).collect();
            attached |= answer == Answer::Connected && cuts.iter().all(|cut| cut.at >= ATTACHED);
            Fortune { answer, cuts }
        })
        .collect()
}

fn cut(draw: &mut Draw<'_>, [up, down]: [u64; 2]) -> Cut {
    let (way, total) = draw.pick(&[(Way::Up, up), (Way::Down, down)]);
    let at = match draw.below(4) {
        0 => draw.below(HANDSHAKE),
        // The end, with what is said there.
        1 => total + draw.below(HANDSHAKE),
        _ => draw.below(total + HANDSHAKE),
    };
    let fault = match draw.below(20) {
        0..8 => Fault::Reset,
        8..11 => Fault::Close,
        11..13 => Fault::HalfClose,
        13..15 => Fault::Stall(ms(draw.size(100_000))),
        15..17 => Fault::BlackHole,
        _ => Fault::Ghost(ms(draw.size(100_000))),
    };
    Cut { way, at, fault }
}

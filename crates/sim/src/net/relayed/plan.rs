//! All that decides a run through relays, derived from a seed.

use std::time::Duration;

use farpipe_net::{AcceptorConfig, AgentLinkConfig, Clock, Greeting, OpenerConfig};
use farpipe_proto::limits::HEARTBEAT;

use crate::draw::Draw;
use crate::net::cable::{Cut, Fault, Quality, Way};
use crate::net::chance;
use crate::net::flow::Flow;
use crate::net::network::{Answer, Fortune, Kind};
use crate::net::scenario::Lane;

/// Relays of a run.
pub const RELAYS: usize = 2;

/// What happens to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blow {
    /// The relay of this number is killed, with all that it knows.
    KillRelay(usize),
    /// It is told to end.
    DrainRelay(usize),
    /// It is started again, if it does not run.
    StartRelay(usize),
    /// It is started with another configuration, if it does not run: the agent is not let in.
    StartStranger(usize),
    /// The agent's process is killed, and the commands with it.
    KillAgent,
    /// It is started again, if it does not run.
    StartAgent,
    /// The caller of this number is killed.
    KillCaller(usize),
}

/// One client, and what befalls its connections to each relay.
#[derive(Debug, Clone)]
pub struct Caller {
    /// How long after the agent was registered it asks.
    pub after: Duration,
    /// Its streams; the first is opened at once.
    pub lanes: Vec<Lane>,
    /// By relay.
    pub links: [Vec<Fortune>; RELAYS],
}

/// All that decides a run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What it was derived from; decides the bytes, keys and jitter.
    pub seed: u64,
    /// The carrier.
    pub kind: Kind,
    /// What connections are like.
    pub quality: Quality,
    /// Of everybody.
    pub heartbeat: Duration,
    /// Of the callers.
    pub resume_for: Duration,
    /// What caller and agent retain at most.
    pub buffers: [u64; 2],
    /// What befalls the agent's connections, by relay.
    pub agent_links: [Vec<Fortune>; RELAYS],
    /// The clients.
    pub callers: Vec<Caller>,
    /// What happens when, in order; counted from the moment that the agent was registered.
    pub blows: Vec<(Duration, Blow)>,
}

/// Bytes of a connection that carry no stream yet, roughly.
const HANDSHAKE: u64 = 600;
/// Callers of a run at most.
pub(super) const CALLERS_MAX: usize = 4;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            seed: 0,
            kind: Kind::Fp,
            quality: Quality {
                latency: ms(5),
                rate: Some(10_000_000),
                ..Quality::default()
            },
            heartbeat: HEARTBEAT,
            resume_for: Duration::from_secs(1_200),
            buffers: [1 << 20; 2],
            agent_links: Default::default(),
            callers: Vec::new(),
            blows: Vec::new(),
        }
    }
}

impl Caller {
    /// One that asks at once, over good connections.
    #[must_use]
    pub fn plain(lanes: Vec<Lane>) -> Self {
        Self {
            after: Duration::ZERO,
            lanes,
            links: Default::default(),
        }
    }
}

impl Plan {
    /// The plan of `seed`.
    #[must_use]
    pub fn from_seed(seed: u64) -> Self {
        let draw = &mut Draw::from_seed(seed);
        let quality = Quality {
            latency: ms(draw.pick(&[0, 1, 5, 20, 100])),
            rate: draw.pick(&[None, Some(20_000_000), Some(1_000_000), Some(200_000)]),
            capacity: draw.pick(&[64 * 1024, 256 * 1024, 4_096]),
            read_max: piece(draw),
            write_max: piece(draw),
            idle_max: None,
        };
        let crumbly = quality.read_max.min(quality.write_max) < 100;
        let size_max = match draw.below(12) {
            _ if crumbly => 5_000,
            0 => 1_000_000,
            _ => 60_000,
        };
        let count = draw.pick(&[1, 1, 1, 2, 2, 3]);
        let callers: Vec<Caller> = (0..count).map(|_| caller(draw, size_max)).collect();
        let total = callers.iter().map(Caller::bytes);
        let totals = total.fold([0; 2], |sum, [up, down]| [sum[0] + up, sum[1] + down]);
        Self {
            seed,
            kind: draw.pick(&[Kind::Ws, Kind::Fp]),
            quality,
            heartbeat: draw.pick(&[HEARTBEAT, HEARTBEAT, ms(2_000)]),
            buffers: [buffer(draw), buffer(draw)],
            // What callers send down their way goes up the agent's.
            agent_links: [0; RELAYS].map(|_| fortunes(draw, [totals[1], totals[0]])),
            blows: blows(draw, count),
            callers,
            ..Self::default()
        }
    }

    fn greeting() -> Greeting {
        Greeting {
            software: "sim".to_owned(),
            prover: None,
            keys: None,
            tokens: None,
            random: chance::random,
        }
    }

    /// Settings of a caller.
    #[must_use]
    pub fn opener(&self, clock: Clock) -> OpenerConfig {
        let mut config = OpenerConfig::new(Self::greeting());
        config.clock = clock;
        config.heartbeat = self.heartbeat;
        config.resume_for = self.resume_for;
        config.buffer_max = self.buffers[0];
        config
    }

    /// Settings of the agent's sessions.
    #[must_use]
    pub fn acceptor(&self, clock: Clock) -> AcceptorConfig {
        let mut config = AcceptorConfig::new(Self::greeting());
        config.clock = clock;
        config.heartbeat = self.heartbeat;
        config.buffer_max = self.buffers[1];
        config
    }

    /// Settings of the agent's links.
    #[must_use]
    pub fn agent(&self) -> AgentLinkConfig {
        let mut config = AgentLinkConfig::new(super::AGENT.to_owned(), Self::greeting());
        config.heartbeat = self.heartbeat;
        config
    }

    /// What a relay wants of its neighbours: nothing.
    #[must_use]
    pub fn door(&self) -> Greeting {
        Self::greeting()
    }
}

impl Caller {
    /// Bytes of its streams, up and down.
    fn bytes(&self) -> [u64; 2] {
        let sum = |flow: fn(&Lane) -> &Flow| self.lanes.iter().map(|lane| flow(lane).len).sum();
        [sum(|lane| &lane.up), sum(|lane| &lane.down)]
    }
}

/// Most bytes of one read or write.
fn piece(draw: &mut Draw<'_>) -> usize {
    match draw.below(12) {
        0 => draw.between(1, 40) as usize,
        1..4 => draw.between(40, 2_000) as usize,
        _ => usize::MAX,
    }
}

fn buffer(draw: &mut Draw<'_>) -> u64 {
    draw.pick(&[64 << 20, 1 << 20, 100_000, 5_000])
}

fn caller(draw: &mut Draw<'_>, size_max: u64) -> Caller {
    let lanes = draw.pick(&[1, 1, 1, 2, 3]);
    let mut caller = Caller {
        after: ms(draw.size(3_000)),
        lanes: (0..lanes).map(|_| lane(draw, size_max)).collect(),
        links: Default::default(),
    };
    // The request itself.
    caller.lanes[0].by = Way::Up;
    caller.lanes[0].after = Duration::ZERO;
    let totals = caller.bytes();
    caller.links = [0; RELAYS].map(|_| fortunes(draw, totals));
    caller
}

fn lane(draw: &mut Draw<'_>, size_max: u64) -> Lane {
    Lane {
        by: if draw.one_in(5) { Way::Down } else { Way::Up },
        after: ms(draw.size(2_000)),
        up: flow(draw, size_max),
        down: flow(draw, size_max),
    }
}

fn flow(draw: &mut Draw<'_>, size_max: u64) -> Flow {
    let len = draw.size(size_max);
    let delay = |draw: &mut Draw<'_>| match draw.below(3) {
        0 => ms(draw.size(1_000)),
        _ => Duration::ZERO,
    };
    let early = |draw: &mut Draw<'_>| draw.one_in(16).then(|| draw.size(len));
    let least = (len / 30).max(1);
    Flow {
        len,
        chunk: least.max(draw.size(100_000)) as usize,
        source_delay: delay(draw),
        sip: least.max(draw.size(100_000)) as usize,
        sink_delay: delay(draw),
        every: draw.between(1, 10) as u32,
        reset_at: early(draw),
        stop_at: early(draw),
    }
}

fn fortunes(draw: &mut Draw<'_>, totals: [u64; 2]) -> Vec<Fortune> {
    let count = if draw.one_in(3) { 0 } else { draw.size(5) };
    (0..count)
        .map(|_| Fortune {
            answer: match draw.below(16) {
                0 => Answer::Refused,
                1 => Answer::Reset,
                2 => Answer::Silence,
                _ => Answer::Connected,
            },
            cuts: vec![cut(draw, totals)],
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
        13..15 => Fault::Stall(ms(draw.size(60_000))),
        15..17 => Fault::BlackHole,
        _ => Fault::Ghost(ms(draw.size(60_000))),
    };
    Cut { way, at, fault }
}

fn blows(draw: &mut Draw<'_>, callers: u64) -> Vec<(Duration, Blow)> {
    let mut at = 0;
    let mut blows = Vec::new();
    for _ in 0..draw.below(6) {
        at += draw.size(4_000);
        let outage = draw.size(40_000);
        let relay = draw.below(RELAYS as u64) as usize;
        match draw.below(16) {
            0..5 => {
                blows.push((at, Blow::KillRelay(relay)));
                blows.push((at + outage, Blow::StartRelay(relay)));
            }
            5..7 => {
                // Both, and one is back earlier.
                for relay in 0..RELAYS {
                    blows.push((at + draw.size(500), Blow::KillRelay(relay)));
                    blows.push((at + draw.size(40_000), Blow::StartRelay(relay)));
                }
            }
            7..11 => {
                blows.push((at, Blow::DrainRelay(relay)));
                blows.push((at + outage, Blow::StartRelay(relay)));
            }
            11..14 => {
                blows.push((at, Blow::KillAgent));
                blows.push((at + outage, Blow::StartAgent));
            }
            _ => blows.push((at, Blow::KillCaller(draw.below(callers) as usize))),
        }
    }
    blows.sort_by_key(|(at, _)| *at);
    // Outages overlap, but everybody is back in the end.
    if let Some((last, _)) = blows.last() {
        let last = *last;
        blows.extend((0..RELAYS).map(|relay| (last, Blow::StartRelay(relay))));
        blows.push((last, Blow::StartAgent));
    }
    blows.into_iter().map(|(at, blow)| (ms(at), blow)).collect()
}

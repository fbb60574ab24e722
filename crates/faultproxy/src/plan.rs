//! What shall go wrong, and when: the plan for all connections, and what one connection draws from
//! it.
//!
//! [`Plan`] has ranges; [`ConnectionPlan`] has the numbers. The second follows from the seed, the
//! plan and the connection's number only, so `derive` can be called again after a failure to see
//! what each connection was given.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::draw::{Draw, Purpose};

/// A direction of a proxied connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dir {
    /// From the client to the upstream server.
    Up,
    /// From the upstream server to the client.
    Down,
}

impl Dir {
    pub(crate) fn other(self) -> Self {
        match self {
            Self::Up => Self::Down,
            Self::Down => Self::Up,
        }
    }
}

/// When a fault happens. Positions and frame numbers are those of the bytes the source sent, before
/// any tampering.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum When {
    /// So long after the accept. Drawn in microseconds; fires up to 1 ms late, the grain of tokio's
    /// timers.
    Lifetime(RangeInclusive<Duration>),
    /// When exactly so many bytes of the direction have passed. 0: before the first byte.
    Byte {
        /// The direction whose bytes are counted.
        dir: Dir,
        /// How many bytes pass first.
        at: RangeInclusive<u64>,
    },
    /// At a frame of the direction, counted from 1.
    Frame {
        /// The direction whose frames are counted.
        dir: Dir,
        /// Which frame; the first is 1.
        nth: RangeInclusive<u64>,
        /// Count only frames whose first payload byte (farpipe's frame type) is this one.
        kind: Option<u8>,
        /// Where in the frame.
        place: Place,
    },
}

/// A place in a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Place {
    /// Before the first byte of its header.
    #[default]
    Before,
    /// After its header and so many bytes of its payload (at most all of them).
    Inside(u32),
    /// After its last byte.
    After,
}

/// How a connection is torn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// RST to both sides, also with data unread.
    Reset,
    /// FIN to both sides; what arrives afterwards is thrown away.
    Fin,
    /// Neither read nor write again, but keep both sockets open until both peers have closed.
    Stall,
    /// Read and throw away everything, write nothing, tell nobody; until both peers have closed.
    BlackHole,
}

/// What a fault does. After a `HalfClose` or `Mute` the other faults of that direction are void.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Tear the whole connection.
    Cut(Cut),
    /// FIN in one direction; what its source sends afterwards is thrown away. The other direction
    /// goes on.
    HalfClose,
    /// Black-hole one direction: from now on its bytes and its end are thrown away. The other
    /// direction goes on.
    Mute,
    /// Invert one bit (drawn from the seed) of the next byte of the direction.
    FlipBit,
    /// Send bytes that have already passed once more.
    Replay(Amount),
    /// Leave out the bytes that come next.
    Drop(Amount),
}

impl From<Cut> for How {
    fn from(cut: Cut) -> Self {
        Self::Cut(cut)
    }
}

/// How much to replay or to drop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// So many bytes; for a replay at most [`MAX_REPLAY`].
    Bytes(u32),
    /// The whole frame that triggered the fault, whatever [`Place`] says. Only with
    /// [`When::Frame`].
    Frame,
}

/// One thing to go wrong on each connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// When it happens.
    pub when: When,
    /// What happens: one of these, drawn for each connection. Never empty.
    pub how: Vec<How>,
}

impl Fault {
    /// A fault of one manner.
    #[must_use]
    pub fn new(when: When, how: impl Into<How>) -> Self {
        Self {
            when,
            how: vec![how.into()],
        }
    }
}

/// How bytes are cut into frames, for [`When::Frame`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Framing {
    /// By the first bytes of the direction: HTTP means WebSocket, TLS cannot be parsed, all else is
    /// `fp`.
    #[default]
    Auto,
    /// WebSocket after an HTTP head. A message is counted once; control frames are not counted.
    Ws,
    /// farpipe framing: a preface of 8 bytes, then messages with a u32 big-endian length in front.
    Fp,
}

/// What shall go wrong, for all connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Armed on each connection. The first [`Cut`] wins; until then all others happen.
    pub faults: Vec<Fault>,
    /// Whether a connection gets all faults of the list or one of them.
    pub arm: Arm,
    /// How frames are recognised.
    pub framing: Framing,
    /// Which connections get faults, by number from 0; the others pass unharmed.
    pub connections: RangeInclusive<u64>,
    /// The first so many connections are reset at once and the upstream never hears of them. TCP
    /// gives a listener no way to count an attempt it answers with RST, so the connect itself
    /// succeeds; for ECONNREFUSED see `refuse_for`.
    pub refuse_first: u64,
    /// After those, so many connections reach the upstream and are then reset on both sides before
    /// any byte.
    pub reset_first: u64,
    /// For so long after the start nothing listens: connects are answered with ECONNREFUSED.
    pub refuse_for: Duration,
    /// How long a stalled or black-holed connection is kept at most; then it is reset. The peers
    /// are expected to have given it up long before, but one that closes with a full send buffer
    /// can tell nobody. Default 2 minutes: farpipe takes a link for dead after 3 silent beats, at
    /// most 75 s.
    pub hold: Duration,
    /// Reset a connection on which no byte has moved, either way, for so long, as proxies that serve HTTP do.
    pub cut_idle: Option<Duration>,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            faults: Vec::new(),
            arm: Arm::All,
            framing: Framing::Auto,
            connections: 0..=u64::MAX,
            refuse_first: 0,
            reset_first: 0,
            refuse_for: Duration::ZERO,
            hold: Duration::from_secs(120),
            cut_idle: None,
        }
    }
}

/// How many faults of the list a connection gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Arm {
    /// All of them.
    #[default]
    All,
    /// One, drawn from the seed.
    One,
}

impl Plan {
    /// A plan with one fault.
    #[must_use]
    pub fn of(when: When, how: impl Into<How>) -> Self {
        Self {
            faults: vec![Fault::new(when, how)],
            ..Self::default()
        }
    }

    /// Refuses a plan that cannot mean anything.
    pub fn check(&self) -> Result<(), PlanError> {
        for fault in &self.faults {
            fault.check()?;
        }
        Ok(())
    }

    /// What the connection of this number gets. The same arguments give the same answer in every
    /// run.
    #[must_use]
    pub fn derive(&self, seed: u64, connection: u64) -> ConnectionPlan {
        let mut draw = Draw::new(seed, connection, Purpose::Plan);
        let mut armed: Vec<Armed> = self
            .faults
            .iter()
            .map(|fault| fault.arm(&mut draw))
            .collect();
        if self.arm == Arm::One {
            armed = draw.one_of(&armed).copied().into_iter().collect();
        }
        if !self.connections.contains(&connection) {
            armed.clear();
        }
        let admit = match connection {
            n if n < self.refuse_first => Admit::Refuse,
            n if n - self.refuse_first < self.reset_first => Admit::Reset,
            _ => Admit::Pass,
        };
        ConnectionPlan {
            connection,
            admit,
            armed,
        }
    }
}

impl Fault {
    fn check(&self) -> Result<(), PlanError> {
        if self.how.is_empty() {
            return Err(PlanError::NoManner);
        }
        let empty = match &self.when {
            When::Lifetime(range) => range.is_empty(),
            When::Byte { at, .. } => at.is_empty(),
            When::Frame { nth, .. } => {
                if *nth.start() == 0 {
                    return Err(PlanError::FrameZero);
                }
                nth.is_empty()
            }
        };
        if empty {
            return Err(PlanError::EmptyRange);
        }
        let of_frame = matches!(self.when, When::Frame { .. });
        for how in &self.how {
            match how {
                How::Replay(Amount::Frame) | How::Drop(Amount::Frame) if !of_frame => {
                    return Err(PlanError::NoFrame);
                }
                How::Replay(Amount::Bytes(bytes)) if *bytes as usize > MAX_REPLAY => {
                    return Err(PlanError::ReplayTooLong { bytes: *bytes });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Draws the same count of numbers whatever the fault is, so that faults do not shift one
    /// another.
    fn arm(&self, draw: &mut Draw) -> Armed {
        let (dir, trigger) = match &self.when {
            When::Lifetime(range) => (None, Trigger::After(draw.duration(range))),
            When::Byte { dir, at } => (Some(*dir), Trigger::Byte(draw.number(at))),
            When::Frame {
                dir,
                nth,
                kind,
                place,
            } => {
                let nth = draw.number(nth);
                (
                    Some(*dir),
                    Trigger::Frame {
                        nth,
                        kind: *kind,
                        place: *place,
                    },
                )
            }
        };
        let how = *draw.one_of(&self.how).unwrap_or(&How::Cut(Cut::Reset));
        let drawn_dir = if draw.number(&(0..=1)) == 0 {
            Dir::Up
        } else {
            Dir::Down
        };
        let bit = u8::try_from(draw.number(&(0..=7))).unwrap_or(0);
        Armed {
            trigger,
            dir: dir.unwrap_or(drawn_dir),
            how,
            bit,
        }
    }
}

/// Why a plan is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// A fault with an empty `how`.
    #[error("a fault names no manner")]
    NoManner,
    /// A range whose end is below its start.
    #[error("a range ends before it starts")]
    EmptyRange,
    /// Frame 0.
    #[error("frames are counted from 1")]
    FrameZero,
    /// `Amount::Frame` with a trigger that is no frame.
    #[error("a whole frame can be replayed or dropped only by a fault at a frame")]
    NoFrame,
    /// A replay of more than is remembered.
    #[error("cannot replay {bytes} bytes: the proxy remembers {MAX_REPLAY}")]
    ReplayTooLong {
        /// What was asked for.
        bytes: u32,
    },
}

/// What one connection was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionPlan {
    /// Its number, from 0 in the order of accepts.
    pub connection: u64,
    /// What happens before the first byte.
    pub admit: Admit,
    /// The faults, with their numbers drawn.
    pub armed: Vec<Armed>,
}

/// What happens to a connection before its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admit {
    /// Nothing.
    Pass,
    /// Reset at once; the upstream never hears of it.
    Refuse,
    /// Connected to the upstream, then reset on both sides.
    Reset,
}

/// A fault with its numbers drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Armed {
    /// When it fires.
    pub trigger: Trigger,
    /// The direction it counts in and, if it hits one direction only, hits. Drawn for a lifetime.
    pub dir: Dir,
    /// What it does.
    pub how: How,
    /// The bit that [`How::FlipBit`] inverts, 0 the lowest.
    pub bit: u8,
}

/// A [`When`] with its numbers drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// So long after the accept.
    After(Duration),
    /// After so many bytes of the direction.
    Byte(u64),
    /// At a frame of the direction.
    Frame {
        /// Which, from 1.
        nth: u64,
        /// Counting only frames of this type.
        kind: Option<u8>,
        /// Where in it.
        place: Place,
    },
}

/// The most bytes that can be replayed: what a direction with a replay ahead remembers.
pub const MAX_REPLAY: usize = 1 << 20;

#[cfg(test)]
mod tests;

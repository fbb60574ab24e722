//! What a run is made of: settings and operations, drawn from bytes or a seed.

use std::time::Duration;

use crate::draw::Draw;
use crate::pair::{Options, Way};

/// One operation. `by` is the peer that sends that way; `nth` picks one of its streams.
#[derive(Debug, Clone, Copy)]
pub enum Op {
    /// Opens a stream.
    Open { by: Way, interactive: bool },
    /// Writes bytes.
    Write { by: Way, nth: u64, len: u64 },
    /// Writes no more.
    Finish { by: Way, nth: u64 },
    /// Reads bytes that came.
    Read { by: Way, nth: u64, len: u64 },
    /// The reader goes away.
    Stop { by: Way, nth: u64 },
    /// The writer gives up.
    Reset { by: Way, nth: u64 },
    /// The sink is closed, if all was read.
    Done { by: Way, nth: u64 },
    /// Joins or refuses a stream that waits for it.
    Answer { by: Way, nth: u64, answer: Answer },
    /// The writer's command ended.
    Exit { by: Way, nth: u64 },
    /// The opener opens no more.
    FinishOpening,
    /// Time passes.
    Run { millis: u64 },
    /// The link breaks.
    Cut,
    /// The link will break.
    CutAfter { way: Way, bytes: u64 },
    /// The opener leaves the link, unnoticed.
    Abandon,
    /// The opener dials.
    Dial { millis: u64 },
    /// An older attach arrives.
    DialOld,
    /// One way of the link stands still for a while: what goes the other way is not acknowledged.
    Stall { way: Way, millis: u64 },
    /// The link gets faster or slower.
    Latency { millis: u64 },
}

/// What is said to an OPEN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It cannot be had.
    Refuse,
    /// It is joined.
    Accept,
    /// It is joined to a command, whose status follows.
    AcceptCommand,
}

impl Op {
    /// Draws one; no more than `len_max` bytes are written or read at once.
    pub(super) fn draw(draw: &mut Draw<'_>, len_max: u64) -> Self {
        let kind = draw.below(32);
        let by = draw.pick(&[Way::Up, Way::Down]);
        let nth = draw.below(8);
        match kind {
            0..4 => Self::Open {
                by,
                interactive: draw.one_in(3),
            },
            4..10 => Self::Write {
                by,
                nth,
                len: draw.size(len_max),
            },
            10..12 => Self::Finish { by, nth },
            12..16 => Self::Read {
                by,
                nth,
                len: draw.size(len_max),
            },
            16 => Self::Stop { by, nth },
            17 => Self::Reset { by, nth },
            18..20 => Self::Done { by, nth },
            20 => Self::Answer {
                by,
                nth,
                answer: draw.pick(&[Answer::Refuse, Answer::Accept, Answer::AcceptCommand]),
            },
            21 => Self::Exit { by, nth },
            22 => match nth {
                0 => Self::FinishOpening,
                1 => Self::Stall {
                    way: by,
                    millis: draw.size(20_000),
                },
                _ => Self::Latency {
                    millis: draw.size(300),
                },
            },
            23..26 => Self::Run {
                millis: draw.size(500),
            },
            26 => Self::Cut,
            27 | 28 => Self::CutAfter {
                way: by,
                bytes: draw.size(100_000),
            },
            29 => Self::Abandon,
            30 => Self::Dial {
                millis: draw.size(1000),
            },
            _ => Self::DialOld,
        }
    }
}

/// Draws settings: small limits and pieces are as likely as large ones.
pub(super) fn draw_options(draw: &mut Draw<'_>) -> Options {
    let mut options = Options {
        latency: Duration::from_millis(draw.size(100)),
        rate: draw.pick(&[None, Some(100_000), Some(3_000_000), Some(100_000_000)]),
        data_max: draw.pick(&[16 * 1024, 64 * 1024, 1000, 37]),
        piece_max: draw.pick(&[usize::MAX, 1500, 11]),
        ..Options::default()
    };
    for config in [&mut options.opener, &mut options.acceptor] {
        config.streams_max = draw.pick(&[256, 2, 5]);
        config.buffer_max = draw.pick(&[64 << 20, 40_000, 600_000]);
    }
    options
}

//! Decides, for the bytes of one direction, how many may pass before what fault. No I/O and no
//! clock.
//!
//! The pump tells it every byte it reads (`scan`), asks what to do with the bytes it holds
//! (`step`), and does it. Invariant: offsets are those of the source's bytes; what a fault leaves
//! out or repeats does not shift them.

use crate::frames::{Frame, Scanner};
use crate::plan::{Amount, Armed, Cut, Framing, How, MAX_REPLAY, Place, Trigger};

/// The faults ahead in one direction.
#[derive(Debug)]
pub(crate) struct Gate {
    /// The offset of the next byte to pass.
    passed: u64,
    /// Faults whose place is known.
    placed: Vec<Placed>,
    /// Faults that wait for their frame.
    waiting: Vec<Waiting>,
    /// Runs only while a fault waits for a frame.
    scanner: Option<Scanner>,
    /// How many of the next bytes a drop still takes.
    skip: u64,
    /// The last bytes that passed, if a fault will replay some.
    history: Option<History>,
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing with the bytes at hand: read more.
    Read,
    /// Let so many bytes (never 0) pass, or fewer, and ask again.
    Pass(usize),
    /// Throw so many bytes (never 0) away and ask again.
    Discard(usize),
    /// Invert these bits of the next byte, which is at hand.
    Flip { mask: u8 },
    /// Send these bytes, which have passed before.
    Replay(Vec<u8>),
    /// Tear the connection.
    Cut(Cut),
    /// End this direction for the sink.
    HalfClose,
    /// Let nothing more pass, not even the end.
    Mute,
}

#[derive(Debug)]
struct Placed {
    at: u64,
    how: How,
    bit: u8,
    /// The length of the frame that triggered it.
    frame: u64,
}

#[derive(Debug)]
struct Waiting {
    nth: u64,
    kind: Option<u8>,
    place: Place,
    how: How,
    bit: u8,
    seen: u64,
}

impl Gate {
    /// A gate for the faults of one direction; lifetimes are not its business.
    pub(crate) fn new<'a>(armed: impl Iterator<Item = &'a Armed>, framing: Framing) -> Self {
        let mut gate = Self {
            passed: 0,
            placed: Vec::new(),
            waiting: Vec::new(),
            scanner: None,
            skip: 0,
            history: None,
        };
        for &Armed {
            trigger,
            how,
            bit,
            dir: _,
        } in armed
        {
            match trigger {
                Trigger::After(_) => {}
                Trigger::Byte(at) => gate.placed.push(Placed {
                    at,
                    how,
                    bit,
                    frame: 0,
                }),
                Trigger::Frame { nth, kind, place } => {
                    gate.waiting.push(Waiting {
                        nth,
                        kind,
                        place,
                        how,
                        bit,
                        seen: 0,
                    });
                }
            }
            gate.remember_for(how);
        }
        if !gate.waiting.is_empty() {
            gate.scanner = Some(Scanner::new(framing));
        }
        gate
    }

    /// Takes bytes as they are read, before any of them passes.
    pub(crate) fn scan(&mut self, fresh: &[u8]) {
        let Self {
            scanner,
            waiting,
            placed,
            ..
        } = self;
        if let Some(scanner) = scanner {
            scanner.feed(fresh, |frame| {
                waiting.retain_mut(|fault| !fault.place_at(&frame, placed))
            });
            if waiting.is_empty() {
                self.scanner = None;
            }
        }
    }

    /// What to do next, holding `held` bytes that have been scanned and have not passed.
    pub(crate) fn step(&mut self, held: usize) -> Step {
        if self.skip > 0 && held > 0 {
            return Step::Discard(usize::try_from(self.skip).unwrap_or(usize::MAX).min(held));
        }
        let end = self.passed + held as u64;
        let may_pass = match self.scanner.as_ref().and_then(Scanner::undecided_from) {
            Some(undecided)
                if self
                    .waiting
                    .iter()
                    .any(|fault| fault.place() == Place::Before) =>
            {
                undecided.min(end)
            }
            _ => end,
        };
        // The first of equals, so that faults at one place happen in the order of the plan.
        let next = self
            .placed
            .iter()
            .enumerate()
            .min_by_key(|(_, fault)| fault.at);
        match next {
            // Late ones, armed behind bytes that a drop took along, happen at once.
            Some((_, fault))
                if fault.at <= self.passed && fault.how == How::FlipBit && held == 0 =>
            {
                Step::Read
            }
            Some((i, fault)) if fault.at <= self.passed => {
                let fault = self.placed.remove(i);
                self.act(&fault, held)
            }
            Some((_, fault)) if fault.at < may_pass => self.pass_to(fault.at),
            _ if may_pass > self.passed => self.pass_to(may_pass),
            _ => Step::Read,
        }
    }

    /// Notes bytes that have passed.
    pub(crate) fn passed(&mut self, bytes: &[u8]) {
        self.passed += bytes.len() as u64;
        if let Some(history) = &mut self.history {
            history.push(bytes);
        }
    }

    /// Notes bytes that have been thrown away.
    pub(crate) fn discarded(&mut self, bytes: usize) {
        self.passed += bytes as u64;
        self.skip -= bytes as u64;
    }

    /// Whether the next bytes will be thrown away.
    pub(crate) fn is_dropping(&self) -> bool {
        self.skip > 0
    }

    /// The source has ended: no frame will be found any more.
    pub(crate) fn end(&mut self) {
        self.scanner = None;
        self.waiting.clear();
    }

    /// Arms a fault at the next byte.
    pub(crate) fn arm_now(&mut self, how: How, bit: u8) {
        self.placed.push(Placed {
            at: self.passed,
            how,
            bit,
            frame: 0,
        });
        self.remember_for(how);
    }

    /// Whether a fault is still ahead.
    #[cfg(test)]
    pub(crate) fn is_armed(&self) -> bool {
        !self.placed.is_empty() || !self.waiting.is_empty()
    }

    /// Whether a fault waits for a frame that can never be found.
    pub(crate) fn is_blind(&self) -> bool {
        self.scanner.as_ref().is_some_and(Scanner::is_opaque)
    }

    fn pass_to(&self, offset: u64) -> Step {
        Step::Pass(usize::try_from(offset - self.passed).expect("no more than is held"))
    }

    fn act(&mut self, fault: &Placed, held: usize) -> Step {
        let length = |amount| match amount {
            Amount::Bytes(bytes) => u64::from(bytes),
            Amount::Frame => fault.frame,
        };
        match fault.how {
            How::Cut(cut) => Step::Cut(cut),
            How::HalfClose => Step::HalfClose,
            How::Mute => Step::Mute,
            How::FlipBit => Step::Flip {
                mask: 1 << fault.bit,
            },
            How::Replay(amount) => Step::Replay(
                self.history
                    .as_ref()
                    .map_or_else(Vec::new, |history| history.last(length(amount))),
            ),
            How::Drop(amount) => {
                self.skip = length(amount);
                self.step(held)
            }
        }
    }

    fn remember_for(&mut self, how: How) {
        let How::Replay(amount) = how else { return };
        let want = match amount {
            Amount::Bytes(bytes) => bytes as usize,
            Amount::Frame => MAX_REPLAY,
        };
        let history = self.history.get_or_insert_default();
        history.keep = history.keep.max(want.min(MAX_REPLAY));
    }
}

impl Waiting {
    /// Whether the frame is the one; if so, the fault gets its place.
    fn place_at(&mut self, frame: &Frame, placed: &mut Vec<Placed>) -> bool {
        if self.kind.is_some() && self.kind != frame.kind {
            return false;
        }
        self.seen += 1;
        if self.seen < self.nth {
            return false;
        }
        let at = match self.place() {
            Place::Before => frame.start,
            Place::Inside(offset) => (frame.payload + u64::from(offset)).min(frame.end),
            Place::After => frame.end,
        };
        placed.push(Placed {
            at,
            how: self.how,
            bit: self.bit,
            frame: frame.end - frame.start,
        });
        true
    }

    /// A whole frame is dropped from its start and replayed after its end.
    fn place(&self) -> Place {
        match self.how {
            How::Drop(Amount::Frame) => Place::Before,
            How::Replay(Amount::Frame) => Place::After,
            _ => self.place,
        }
    }
}

/// The last bytes that passed.
#[derive(Debug, Default)]
struct History {
    keep: usize,
    /// Up to twice `keep`, so that the old half is moved out rarely.
    bytes: Vec<u8>,
}

impl History {
    fn push(&mut self, bytes: &[u8]) {
        self.bytes
            .extend_from_slice(&bytes[bytes.len().saturating_sub(self.keep)..]);
        if self.bytes.len() > 2 * self.keep {
            self.bytes.drain(..self.bytes.len() - self.keep);
        }
    }

    fn last(&self, length: u64) -> Vec<u8> {
        let length = usize::try_from(length)
            .unwrap_or(usize::MAX)
            .min(self.keep)
            .min(self.bytes.len());
        self.bytes[self.bytes.len() - length..].to_vec()
    }
}

#[cfg(test)]
mod tests;

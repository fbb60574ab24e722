//! Random operations on a [`Pair`] against a reference: one `Vec<u8>` per stream and direction.
//!
//! Two phases. In the first the applications do as they like and links break; after each operation
//! what arrived must be a prefix of what was written. In the second nothing breaks any more, and
//! everything must come to its end within a bound. The operations come from a [`Draw`], so the
//! property test, the seeded runs and the fuzz target are the same program.

mod op;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use farpipe_proto::session::{Event, SendState};
use farpipe_proto::wire::control::{AbortCode, Accept, Exit, Open, Refuse};
use farpipe_proto::wire::id::StreamId;

use crate::draw::Draw;
use crate::pair::{Options, Pair, Peer, Way};
use op::draw_options;

pub use op::{Answer, Op};

/// Operations of one run at most: fewer resets than are a flood.
const OPS_MAX: usize = 150;
/// Rounds in which the second phase must end: every round moves each stream on by one step.
const ROUNDS_MAX: usize = 40;

/// What a run amounted to.
#[derive(Debug, Clone, Copy, Default)]
pub struct Outcome {
    /// Operations.
    pub ops: u64,
    /// Connections lost.
    pub disconnects: u64,
    /// Stream bytes that arrived.
    pub bytes: u64,
}

/// Plays the run that `input` chooses: the fuzz target.
///
/// # Panics
/// As [`run`].
pub fn two_peers(input: &[u8]) {
    run(&mut Draw::from_bytes(input));
}

/// Plays one run.
///
/// # Panics
/// When something is wrong; the message ends with the settings and all operations.
pub fn run(draw: &mut Draw<'_>) -> Outcome {
    let options = draw_options(draw);
    // Small pieces make many steps of few bytes.
    let step = options.data_max.min(options.piece_max) as u64;
    let len_max = (step * 1000).min(400_000);
    let mut ops = Vec::new();
    let played = catch_unwind(AssertUnwindSafe(|| {
        let mut model = Model::new(options.clone());
        while ops.len() < OPS_MAX && !draw.is_over() {
            let op = Op::draw(draw, len_max);
            ops.push(op);
            model.apply(op);
            model.check();
        }
        model.finish();
        Outcome {
            ops: ops.len() as u64,
            disconnects: model.pair.disconnects,
            bytes: model.arrived(),
        }
    }));
    match played {
        Ok(outcome) => outcome,
        Err(panic) => match panic.downcast::<String>() {
            Ok(what) => panic!("{what}\nwith {options:#?}\nafter {ops:#?}"),
            Err(panic) => resume_unwind(panic),
        },
    }
}

/// A pair, and what it should have.
struct Model {
    pair: Pair,
    /// What was written, by stream and sender.
    written: BTreeMap<(StreamId, Way), Vec<u8>>,
    /// Streams whose OPEN was answered, and EXITs that were said.
    answered: BTreeSet<StreamId>,
    exits: BTreeSet<(StreamId, Way)>,
    /// Streams joined to a command while they were there, and by whom.
    commands: BTreeSet<(StreamId, Way)>,
    opening_over: bool,
    next_byte: u8,
}

impl Model {
    fn new(options: Options) -> Self {
        let mut pair = Pair::connected_by(options);
        for way in [Way::Up, Way::Down] {
            let habits = &mut pair.sender(way).habits;
            habits.accepts = false;
            habits.reads = false;
            habits.says_done = false;
        }
        // EXIT may be said until the end.
        pair.acceptor.session.hold();
        Self {
            pair,
            written: BTreeMap::new(),
            answered: BTreeSet::new(),
            exits: BTreeSet::new(),
            commands: BTreeSet::new(),
            opening_over: false,
            next_byte: 0,
        }
    }

    fn stream(&mut self, by: Way, nth: u64) -> Option<(&mut Peer, StreamId)> {
        let peer = self.pair.sender(by);
        let count = peer.ends.len() as u64;
        // The newest first: old ones are mostly over.
        let id = *peer.ends.keys().rev().nth((nth % count.max(1)) as usize)?;
        Some((peer, id))
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Open { by, interactive } => {
                let open = Open {
                    interactive,
                    ..Open::default()
                };
                self.pair.sender(by).try_open(open);
            }
            Op::Write { by, nth, len } => self.write(by, nth, len as usize),
            Op::Finish { by, nth } => {
                if let Some((peer, id)) = self.stream(by, nth) {
                    peer.finish(id);
                }
            }
            Op::Read { by, nth, len } => {
                if let Some((peer, id)) = self.stream(by, nth) {
                    peer.read(id, len as usize);
                }
            }
            Op::Stop { by, nth } => {
                if let Some((peer, id)) = self.stream(by, nth) {
                    peer.stop(id, AbortCode::ReaderGone);
                }
            }
            Op::Reset { by, nth } => {
                if let Some((peer, id)) = self.stream(by, nth) {
                    peer.reset(id, AbortCode::Failed);
                }
            }
            Op::Done { by, nth } => self.done(by, nth),
            Op::Answer { by, nth, answer } => self.answer(by, nth, answer),
            Op::Exit { by, nth } => self.exit(by, nth),
            Op::FinishOpening => {
                self.opening_over = true;
                self.pair.opener.session.finish_opening();
            }
            Op::Run { millis } => self.pair.run_for(Duration::from_millis(millis)),
            Op::Cut => self.pair.cut(),
            Op::CutAfter { way, bytes } => self.pair.cut_after(way, bytes),
            Op::Abandon => self.pair.abandon(),
            Op::Dial { millis } => {
                self.pair
                    .dial_in(Duration::from_millis(millis), [None, None]);
            }
            Op::DialOld => self.pair.dial_with_old_epoch(),
            Op::Stall { way, millis } => self.pair.stall(way, Duration::from_millis(millis)),
            Op::Latency { millis } => self.pair.set_latency(Duration::from_millis(millis)),
        }
    }

    fn write(&mut self, by: Way, nth: u64, len: usize) {
        let first = self.next_byte;
        let Some((peer, id)) = self.stream(by, nth) else {
            return;
        };
        if peer.session.send_state(id) != Some(SendState::Open) || peer.end(id).closed {
            return;
        }
        // No two places near each other look alike: a prime, and not the size of anything.
        let mut bytes: Vec<u8> = (0..251).map(|i| first.wrapping_add(i)).collect();
        bytes = bytes.repeat(len.div_ceil(251));
        bytes.truncate(len);
        peer.write(id, &bytes);
        self.next_byte = first.wrapping_add(89);
        self.written.entry((id, by)).or_default().extend(bytes);
    }

    fn done(&mut self, by: Way, nth: u64) {
        if let Some((peer, id)) = self.stream(by, nth)
            && peer.end(id).read == peer.end(id).received.len()
        {
            peer.done(id);
        }
    }

    fn answer(&mut self, by: Way, nth: u64, answer: Answer) {
        let ours = if by == Way::Up { 1 } else { 0 };
        let Some((_, id)) = self.stream(by, nth) else {
            return;
        };
        if id.0 % 2 != ours && self.answered.insert(id) {
            let is_over = self.exits.contains(&(id, by));
            let session = &mut self.pair.sender(by).session;
            let has_command = answer == Answer::AcceptCommand && !is_over;
            match answer {
                Answer::Refuse => session.refuse(id, Refuse::default()),
                Answer::Accept | Answer::AcceptCommand => {
                    session.accept(id, Accept { has_command });
                }
            }
            if session.owes_exit(id) {
                self.commands.insert((id, by));
            }
        }
    }

    fn exit(&mut self, by: Way, nth: u64) {
        if let Some((_, id)) = self.stream(by, nth) {
            self.exit_of(by, id);
        }
    }

    fn exit_of(&mut self, by: Way, id: StreamId) {
        let announced = self.commands.contains(&(id, by));
        let too_late = by == Way::Up && self.opening_over && !announced;
        let peer = self.pair.sender(by);
        if peer.session.send_state(id) != Some(SendState::Open)
            && !too_late
            && self.exits.insert((id, by))
        {
            let session = &mut self.pair.sender(by).session;
            session.exit(id, Exit::default());
        }
    }

    /// Whatever can happen now happens; then everything that must hold is looked at.
    fn check(&mut self) {
        self.pair.run_for(Duration::ZERO);
        for (peer, from) in [
            (&self.pair.acceptor, Way::Up),
            (&self.pair.opener, Way::Down),
        ] {
            let retained = peer.session.numbered() - peer.session.acked();
            // What was written within the limit, the last frame of it, and control frames.
            assert!(retained <= (64 << 20) + (1 << 20), "{retained} retained");
            for (id, end) in &peer.ends {
                let written = self.written.get(&(*id, from)).map_or(&[][..], |w| w);
                let prefix = written.get(..end.received.len());
                // The pair has compared the bytes; this is the reference's word on it.
                assert!(prefix.is_some(), "{id}: more than was written");
                if end.finished {
                    assert!(end.received == written, "{id}: finished and not equal");
                }
            }
        }
        for (id, by) in self.commands.difference(&self.exits) {
            let (here, there) = match by {
                Way::Up => (&self.pair.opener, &self.pair.acceptor),
                Way::Down => (&self.pair.acceptor, &self.pair.opener),
            };
            assert!(
                here.session.owes_exit(*id),
                "{id}: settled without a status"
            );
            if there.end(*id).accepted {
                let open = there.session.send_state(*id).is_some();
                assert!(open, "{id}: settled before the status came");
            }
        }
    }

    /// Nothing breaks any more: everything must end.
    fn finish(&mut self) {
        self.pair.heal();
        self.opening_over = true;
        self.pair.opener.session.finish_opening();
        self.pair.acceptor.session.release();
        let begin = self.pair.now();
        for round in 0.. {
            assert!(round < ROUNDS_MAX, "does not end");
            if !self.pair.is_attached() {
                self.pair.dial();
            }
            for by in [Way::Up, Way::Down] {
                let peer = self.pair.sender(by);
                for id in peer.ends.keys().copied().collect::<Vec<_>>() {
                    peer.finish(id);
                    peer.read(id, usize::MAX);
                    peer.done(id);
                }
            }
            for (id, by) in self.commands.clone() {
                self.exit_of(by, id);
            }
            self.pair.drive();
            self.check();
            let sessions = [&self.pair.opener.session, &self.pair.acceptor.session];
            if sessions.iter().all(|session| session.is_complete()) {
                break;
            }
        }
        self.settled();
        // At 100 kB a second and with the largest latency.
        let bytes: usize = self.written.values().map(Vec::len).sum();
        let bound = Duration::from_secs(60) + Duration::from_micros(bytes as u64 * 40);
        let took = self.pair.now() - begin;
        assert!(took < bound, "took {took:?}, bound {bound:?}");
    }

    fn settled(&self) {
        for peer in [&self.pair.opener, &self.pair.acceptor] {
            assert_eq!(peer.session.open_streams(), 0);
            assert_eq!(peer.session.acked(), peer.session.numbered());
        }
        for ((id, by), written) in &self.written {
            let (from, to) = match by {
                Way::Up => (&self.pair.opener, &self.pair.acceptor),
                Way::Down => (&self.pair.acceptor, &self.pair.opener),
            };
            if from.end(*id).done {
                let got = &to.end(*id).received;
                assert!(got == written, "{id}: confirmed and not equal");
            }
        }
        for (id, by) in &self.exits {
            let to = match by {
                Way::Up => &self.pair.acceptor,
                Way::Down => &self.pair.opener,
            };
            // Streams that were too many are not known to the application, but their status is.
            let came = Event::Exited(*id, Exit::default());
            assert!(to.events.contains(&came), "{id}: a status was lost");
        }
    }

    fn arrived(&self) -> u64 {
        let peers = [&self.pair.opener, &self.pair.acceptor];
        let ends = peers.iter().flat_map(|peer| peer.ends.values());
        ends.map(|end| end.received.len() as u64).sum()
    }
}

//! What each end knows when a session comes to its end: confirmed, settled, complete.

use farpipe_proto::Instant;
use farpipe_proto::limits::MESSAGE_MAX;
use farpipe_proto::session::{Event, Session, SessionConfig, SessionError, Settled, Side};
use farpipe_proto::wire::control::{Abort, AbortCode, Accept, Exit, Open, Refuse, Resize, Signal};
use farpipe_proto::wire::id::StreamId;
use farpipe_proto::wire::inner::{HEADER_LEN, InnerDecoder, InnerFrame, InnerItem, bytes_header};

const NOW: Instant = Instant::from_origin(std::time::Duration::ZERO);

/// A session whose peer is the test.
struct End {
    session: Session,
    heard: u64,
}

impl End {
    fn new(side: Side) -> Self {
        Self::with(SessionConfig::new(side))
    }

    fn with(config: SessionConfig) -> Self {
        let mut session = Session::new(config);
        session.handle_attached(NOW, 0).expect("a new session");
        Self { session, heard: 0 }
    }

    fn hear(&mut self, id: StreamId, frame: &InnerFrame) {
        let bytes = frame.encode(id);
        self.hear_bytes(&bytes).expect("within the rules");
    }

    fn hear_bytes(&mut self, bytes: &[u8]) -> Result<(), SessionError> {
        let repeat = self.session.handle_arrived(NOW, self.heard, bytes.len())?;
        assert_eq!(repeat, 0);
        self.heard += bytes.len() as u64;
        self.session.handle_frames(NOW, bytes)
    }

    /// Numbers and sends what there is to say.
    fn say(&mut self) -> Vec<InnerFrame> {
        let mut said = Vec::new();
        while let Some(bytes) = self.session.poll_control() {
            self.session.handle_numbered(bytes.len());
            match InnerDecoder::default().next(&bytes) {
                Ok((_, Some(InnerItem::Frame(_, frame)))) => said.push(frame),
                other => panic!("{other:?}"),
            }
        }
        self.session.handle_sent(self.session.numbered());
        said
    }

    fn hear_ack(&mut self, offset: u64) {
        self.session.handle_ack(NOW, offset).expect("an ack");
    }

    fn hear_ack_of_all(&mut self) {
        self.hear_ack(self.session.numbered());
    }
}

/// An acceptor that has one stream, both halves finished, and heard that no more come.
fn finished_acceptor() -> (End, StreamId) {
    let id = StreamId(1);
    let mut side = End::new(Side::Acceptor);
    side.hear(id, &InnerFrame::Open(Open::default()));
    side.hear(id, &InnerFrame::Fin(0));
    side.hear(StreamId::SESSION, &InnerFrame::Done(0));
    side.session.finish(id);
    (side, id)
}

#[test]
fn the_acceptor_is_settled_when_its_last_done_is_acknowledged() {
    let (mut side, id) = finished_acceptor();
    side.say();
    side.hear(id, &InnerFrame::Done(0));
    side.hear_ack_of_all();
    assert_eq!(side.session.settled(), Settled::No);
    side.session.done(id);
    assert!(side.session.is_complete());
    assert_eq!(side.session.settled(), Settled::Said, "not even numbered");
    assert_eq!(side.say(), [InnerFrame::Done(0), InnerFrame::Complete]);
    assert_eq!(side.session.settled(), Settled::Said, "not acknowledged");
    // COMPLETE itself need not be.
    let complete = InnerFrame::Complete.encode(StreamId::SESSION).len() as u64;
    let done = side.session.numbered() - complete;
    side.hear_ack(done - 1);
    assert_eq!(side.session.settled(), Settled::Said);
    side.hear_ack(done);
    assert_eq!(side.session.settled(), Settled::Confirmed);
}

#[test]
fn the_acceptor_is_not_settled_before_a_status_is_acknowledged() {
    let (mut side, id) = finished_acceptor();
    side.session.hold();
    side.session.done(id);
    side.hear(id, &InnerFrame::Done(0));
    side.say();
    side.hear_ack_of_all();
    assert_eq!(side.session.settled(), Settled::No, "held");
    side.session.exit(id, Exit::default());
    side.session.release();
    let said = side.say();
    assert_eq!(
        said,
        [InnerFrame::Exit(Exit::default()), InnerFrame::Complete]
    );
    assert_eq!(side.session.settled(), Settled::Said);
    side.hear_ack_of_all();
    assert_eq!(side.session.settled(), Settled::Confirmed);
}

#[test]
fn the_acceptor_is_not_settled_before_a_refusal_is_acknowledged() {
    let id = StreamId(1);
    let mut side = End::new(Side::Acceptor);
    side.hear(id, &InnerFrame::Open(Open::default()));
    side.hear(id, &InnerFrame::Fin(0));
    side.hear(StreamId::SESSION, &InnerFrame::Done(0));
    side.session.refuse(id, Refuse::default());
    side.say();
    assert_eq!(side.session.settled(), Settled::Said);
    side.hear_ack_of_all();
    assert_eq!(side.session.settled(), Settled::Confirmed);
}

#[test]
fn the_opener_is_confirmed_when_every_stream_is() {
    let mut side = End::new(Side::Opener);
    let id = side.session.open(NOW, Open::default()).expect("room");
    side.session.finish(id);
    side.say();
    side.hear(id, &InnerFrame::Fin(0));
    side.session.done(id);
    assert!(!side.session.is_confirmed());
    side.hear(id, &InnerFrame::Done(0));
    assert!(!side.session.is_confirmed(), "more may be opened");
    side.session.finish_opening();
    side.session.finish_opening();
    let said = side.say();
    assert_eq!(
        said,
        [InnerFrame::Done(0), InnerFrame::Done(0)],
        "once each"
    );
    assert!(side.session.is_confirmed());
    assert!(!side.session.is_complete());
}

/// A command that closes its stdout early and runs on: both directions are over before it ends.
#[test]
fn the_opener_is_not_confirmed_before_the_status_of_a_command_is_there() {
    let mut side = End::new(Side::Opener);
    let id = side.session.open(NOW, Open::default()).expect("room");
    side.hear(id, &InnerFrame::Accept(Accept { has_command: true }));
    side.session.finish(id);
    side.session.finish_opening();
    side.say();
    side.hear(id, &InnerFrame::Fin(0));
    side.session.done(id);
    side.hear(id, &InnerFrame::Done(0));
    assert!(!side.session.is_confirmed());
    side.hear(id, &InnerFrame::Exit(Exit::default()));
    assert!(side.session.is_confirmed());
}

#[test]
fn the_acceptor_is_not_settled_before_it_said_the_status_of_its_command() {
    let (mut side, id) = finished_acceptor();
    side.session.accept(id, Accept { has_command: true });
    side.session.done(id);
    side.hear(id, &InnerFrame::Done(0));
    side.say();
    side.hear_ack_of_all();
    assert_eq!(side.session.settled(), Settled::No);
    assert!(side.session.owes_exit(id));
    // The other side's command is another one.
    side.hear(id, &InnerFrame::Exit(Exit::default()));
    assert!(side.session.owes_exit(id));
    side.session.exit(id, Exit::default());
    assert!(!side.session.owes_exit(id));
    assert_eq!(
        side.say(),
        [InnerFrame::Exit(Exit::default()), InnerFrame::Complete]
    );
}

#[test]
fn a_confirmed_opener_does_without_complete() {
    let mut side = End::new(Side::Opener);
    side.session.finish_opening();
    while side.session.poll_event().is_some() {}
    side.session.handle_peer_gone();
    assert!(side.session.is_complete());
    assert_eq!(side.session.poll_event(), Some(Event::Completed));
}

#[test]
#[should_panic(expected = "a lost session is never success")]
fn an_opener_that_is_not_confirmed_cannot_do_without_the_peer() {
    let mut side = End::new(Side::Opener);
    side.session.open(NOW, Open::default());
    side.session.finish_opening();
    side.session.handle_peer_gone();
}

#[test]
fn messages_for_people_are_cut_at_a_characters_end() {
    let long = "ü".repeat(MESSAGE_MAX);
    let abort = Abort::new(AbortCode::Failed, format!("x{long}"));
    let refuse = Refuse {
        status: 125,
        message: long,
    };
    let mut side = End::new(Side::Acceptor);
    side.hear(StreamId(1), &InnerFrame::Open(Open::default()));
    side.hear(StreamId(3), &InnerFrame::Open(Open::default()));
    side.session.reset(StreamId(1), abort.clone());
    side.session.stop(StreamId(1), abort);
    side.session.refuse(StreamId(3), refuse);
    let lens: Vec<usize> = side
        .say()
        .into_iter()
        .map(|frame| match frame {
            InnerFrame::Reset(abort) | InnerFrame::Stop(abort) => abort.message.len(),
            InnerFrame::Refuse(refuse) => refuse.message.len(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(lens, [MESSAGE_MAX - 1, MESSAGE_MAX - 1, MESSAGE_MAX]);
}

/// A sink that has ended in order says how much it took; less than was sent is a reader gone.
#[test]
fn an_end_in_order_that_left_bytes_behind_is_a_reader_gone() {
    for (taken, expected) in [
        (5, Some(AbortCode::Ended)),
        (4, Some(AbortCode::ReaderGone)),
        (6, None),
    ] {
        let mut side = End::new(Side::Opener);
        let id = side.session.open(NOW, Open::default()).expect("a stream");
        side.say();
        side.session.write(id, 5);
        side.session.handle_numbered(HEADER_LEN + 5);
        let stop = Abort {
            taken,
            ..Abort::new(AbortCode::Ended, "")
        };
        let frame = InnerFrame::Stop(stop.clone()).encode(id);
        let heard = side.hear_bytes(&frame);
        match expected {
            None => assert!(heard.is_err(), "more than was sent"),
            Some(code) => {
                let code = code as u32;
                let told = Event::Stopped(id, Abort { code, ..stop });
                assert_eq!(side.session.poll_event(), Some(told));
                let answer = Abort::new(AbortCode::Stopped, "");
                assert_eq!(side.say(), [InnerFrame::Reset(answer)]);
            }
        }
    }
}

#[test]
fn a_sink_that_ends_in_order_tells_what_it_took_and_hears_of_what_it_did_not() {
    let id = StreamId(1);
    let mut side = End::new(Side::Acceptor);
    side.hear(id, &InnerFrame::Open(Open::default()));
    let hear_byte = |side: &mut End| {
        let mut frame = bytes_header(id, 1).to_vec();
        frame.push(b'x');
        side.hear_bytes(&frame).expect("within the rules");
    };
    hear_byte(&mut side);
    side.session.consumed(NOW, id, 1);
    side.session.stop(id, Abort::new(AbortCode::Ended, ""));
    let stop = Abort {
        taken: 1,
        ..Abort::new(AbortCode::Ended, "")
    };
    assert_eq!(side.say(), [InnerFrame::Stop(stop)]);
    while side.session.poll_event().is_some() {}
    hear_byte(&mut side);
    assert_eq!(side.session.poll_event(), Some(Event::Missed(id)));
}

/// What was on its way somewhere else to a sink that has ended is told by the last word.
#[test]
fn a_stream_that_goes_on_elsewhere_answers_an_end_when_it_knows_what_was_lost() {
    let id = StreamId(1);
    for (code, is_missed) in [(AbortCode::ReaderGone, true), (AbortCode::Stopped, false)] {
        let mut config = SessionConfig::new(Side::Opener);
        config.answers_ends = true;
        let mut between = End::with(config);
        between.session.open(NOW, Open::default()).expect("room");
        between.say();
        between.hear(id, &InnerFrame::Stop(Abort::new(AbortCode::Ended, "")));
        let told = Event::Stopped(id, Abort::new(AbortCode::Ended, ""));
        assert_eq!(between.session.poll_event(), Some(told));
        assert_eq!(between.say(), []);
        between.session.reset(id, Abort::new(code, ""));
        let answer = InnerFrame::Reset(Abort::new(code, ""));
        assert_eq!(between.say(), std::slice::from_ref(&answer));

        let mut side = End::new(Side::Acceptor);
        side.hear(id, &InnerFrame::Open(Open::default()));
        side.session.stop(id, Abort::new(AbortCode::Ended, ""));
        side.say();
        while side.session.poll_event().is_some() {}
        side.hear(id, &answer);
        if is_missed {
            assert_eq!(side.session.poll_event(), Some(Event::Missed(id)));
        }
        assert_eq!(side.session.poll_event(), Some(Event::StopAnswered(id)));
    }
}

/// The acceptor opens a stream for the stderr of a command that the opener asked for last.
#[test]
fn an_acceptor_opens_streams_after_the_openers_last_word_and_none_after_its_own() {
    let (mut side, id) = finished_acceptor();
    let aside = side.session.open(NOW, Open::default()).expect("room");
    side.say();
    side.session.done(id);
    side.hear(id, &InnerFrame::Done(0));
    assert!(!side.session.is_complete(), "the second one is open");
    side.session.finish(aside);
    side.hear(aside, &InnerFrame::Fin(0));
    side.hear(aside, &InnerFrame::Done(0));
    side.session.done(aside);
    assert!(side.session.is_complete());
    assert_eq!(side.session.open(NOW, Open::default()), None);

    let mut side = End::new(Side::Opener);
    side.session.finish_opening();
    assert_eq!(side.session.open(NOW, Open::default()), None);
}

#[test]
fn what_the_opener_of_a_stream_asks_of_its_command_is_told_in_order() {
    let id = StreamId(1);
    let mut side = End::new(Side::Acceptor);
    side.hear(id, &InnerFrame::Open(Open::default()));
    let size = Resize { rows: 3, cols: 7 };
    side.hear(id, &InnerFrame::Resize(size));
    side.hear(id, &InnerFrame::Signal(Signal { number: 2 }));
    let told: Vec<Event> = std::iter::from_fn(|| side.session.poll_event()).collect();
    assert_eq!(
        told[1..],
        [Event::Resized(id, size), Event::Signalled(id, 2)]
    );

    let mut side = End::new(Side::Opener);
    let id = side.session.open(NOW, Open::default()).expect("room");
    side.session.signal(id, Signal { number: 2 });
    side.session.resize(id, size);
    let said = side.say();
    assert_eq!(
        said[1..],
        [
            InnerFrame::Signal(Signal { number: 2 }),
            InnerFrame::Resize(size)
        ]
    );
    side.session.signal(StreamId(2), Signal { number: 2 });
    assert_eq!(side.say(), [], "nobody's");
}

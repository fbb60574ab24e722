//! A peer that breaks the protocol in a session, against `listen`: it is told why, and what was
//! begun fails with 125.

use farpipe_proto::limits::RESETS_MAX;
use farpipe_proto::wire::control::{Abort, AbortCode, Exit, Hello, Open, Refuse};
use farpipe_proto::wire::hop::HopFrame;
use farpipe_proto::wire::id::StreamId;
use farpipe_proto::wire::inner::{InnerFrame, bytes_header};

use crate::support::peer::{Heard, Peer, STREAM, TUNNEL, bytes_frame};
use crate::support::{Host, SAME_FARPIPE};

/// Someone who breaks the protocol of a session is told why, and the session fails with 125.
#[track_caller]
fn session_fails(act: impl FnOnce(&mut Peer), why: &str) {
    let host = Host::new();
    let listener = host.listen("fp").open_input().start_listening();
    let mut peer = Peer::attached(&host, listener.addr());
    act(&mut peer);
    assert_eq!(peer.refusal(), why);
    peer.hang_up();
    let ended = listener.end().exits(125);
    assert_eq!(
        ended.said(),
        format!("listening on fp://127.0.0.1:PORT\nfarpipe: {why}\n{SAME_FARPIPE}\n")
    );
}

fn broken(why: &str) -> String {
    format!("the other side broke the protocol: {why}")
}

fn ignored(why: &str) -> String {
    format!("the other side ignores the limits: {why}")
}

#[test]
fn p2_a_second_handshake_ends_the_session() {
    session_fails(
        |peer| peer.send(&HopFrame::Hello(Hello::default())),
        &broken("a second handshake"),
    );
}

#[test]
fn p11_an_acknowledgement_of_what_was_never_sent_ends_the_session() {
    session_fails(
        |peer| peer.send(&HopFrame::Ack(TUNNEL, 77)),
        "the other side has bytes up to 77, but 0 to 0 is what it can have",
    );
}

#[test]
fn p11_a_gap_ends_the_connection_and_the_session_can_go_on() {
    let host = Host::new();
    let listener = host.listen("fp").open_input().start_listening();
    let mut first = Peer::attached(&host, listener.addr());
    first.open();
    first.bytes(STREAM, b"one ");
    listener.stdout_until(4);
    let offset = first.offset;
    first.data_at(offset + 1, "gap");
    assert_eq!(first.hear_frame(), Heard::Closed);
    let mut second = Peer::dial(listener.addr());
    second.introduce(&host);
    second.attach(|attach| {
        attach.established = true;
        attach.epoch = 2;
    });
    assert!(matches!(
        second.hear_frame(),
        Heard::Frame(HopFrame::Attached(..))
    ));
    second.offset = offset;
    second.bytes(STREAM, b"two");
    assert_eq!(listener.stdout_until(7), b"one two");
}

#[test]
fn p11_a_repeat_is_trimmed() {
    let host = Host::new();
    let listener = host.listen("fp").open_input().start_listening();
    let mut peer = Peer::attached(&host, listener.addr());
    peer.open();
    let offset = peer.offset;
    peer.bytes(STREAM, b"one ");
    peer.offset = offset;
    peer.bytes(STREAM, b"one ");
    peer.offset = offset;
    // Begins with the repeat and goes on behind it.
    peer.data([bytes_frame(STREAM, b"one "), bytes_frame(STREAM, b"two")].concat());
    assert_eq!(listener.stdout_until(7), b"one two");
}

#[test]
fn p3_stream_ids_used_twice_or_of_the_wrong_side_end_the_session() {
    session_fails(
        |peer| {
            peer.open();
            peer.open();
        },
        &broken("a stream id used twice or going down"),
    );
    session_fails(
        |peer| {
            peer.inner(StreamId(9), &InnerFrame::Open(Open::default()));
            peer.open();
        },
        &broken("a stream id used twice or going down"),
    );
    session_fails(
        |peer| peer.inner(StreamId(2), &InnerFrame::Open(Open::default())),
        &broken("a stream id of the wrong side"),
    );
    session_fails(
        |peer| peer.bytes(StreamId(5), b"x"),
        &broken("bytes for a stream that is not open"),
    );
    session_fails(
        |peer| peer.inner(StreamId(5), &InnerFrame::Fin(0)),
        &broken("a frame for a stream never opened"),
    );
}

#[test]
fn p5_data_beyond_credit_ends_the_session() {
    session_fails(
        |peer| {
            peer.open();
            // Announced in a header; not a byte more is needed.
            let len = 256 * 1024 + 1;
            peer.data(bytes_header(STREAM, len));
        },
        &ignored("data beyond credit"),
    );
}

#[test]
fn p4_credit_that_overflows_or_gives_nothing_ends_the_session() {
    session_fails(
        |peer| {
            peer.open();
            peer.inner(STREAM, &InnerFrame::Credit(u64::MAX));
        },
        &ignored("credit beyond any stream's length"),
    );
    session_fails(
        |peer| {
            peer.open();
            peer.inner(STREAM, &InnerFrame::Credit(0));
        },
        &ignored("credit that gives nothing"),
    );
}

#[test]
fn p7_a_flood_of_empty_frames_ends_the_session() {
    session_fails(
        |peer| {
            peer.open();
            for _ in 0..65 {
                peer.bytes(STREAM, b"");
            }
        },
        &ignored("a flood of empty frames"),
    );
}

#[test]
fn counts_that_do_not_fit_end_the_session() {
    session_fails(
        |peer| {
            peer.open();
            peer.bytes(STREAM, b"abc");
            peer.inner(STREAM, &InnerFrame::Fin(4));
        },
        &broken("FIN with another count than came"),
    );
    session_fails(
        |peer| {
            peer.open();
            peer.inner(STREAM, &InnerFrame::Done(5));
        },
        &broken("DONE with another count than sent"),
    );
    session_fails(
        |peer| {
            peer.open();
            peer.inner(STREAM, &InnerFrame::Exit(Exit::default()));
        },
        &broken("EXIT before the sender's last frame"),
    );
    session_fails(
        |peer| {
            peer.open();
            peer.inner(STREAM, &InnerFrame::Fin(0));
            peer.bytes(STREAM, b"more");
        },
        &broken("bytes after the sender's last frame"),
    );
}

#[test]
fn p2_unknown_and_malformed_inner_frames_end_the_session() {
    for (inner, why) in [
        (
            [0x7e, 0, 0, 0, 1, 0, 0, 0, 0].as_slice(),
            "unknown inner frame type 0x7e",
        ),
        (
            &[0x06, 0, 0, 0, 1, 0, 0, 0, 1, 0],
            "malformed FIN frame: its payload is not 8 bytes",
        ),
    ] {
        session_fails(
            |peer| {
                peer.open();
                peer.data(inner);
            },
            why,
        );
    }
}

#[test]
fn a_peer_that_gives_up_is_a_failure_and_its_words_cannot_move_the_cursor() {
    let host = Host::new();
    let listener = host.listen("fp").open_input().start_listening();
    let mut peer = Peer::attached(&host, listener.addr());
    peer.open();
    peer.bytes(STREAM, b"a part");
    let abort = Abort::new(AbortCode::Failed, "disk \x1b[2J on fire");
    peer.inner(STREAM, &InnerFrame::Reset(abort.clone()));
    peer.inner(STREAM, &InnerFrame::Stop(abort));
    peer.inner(StreamId::SESSION, &InnerFrame::Done(0));
    peer.send(&HopFrame::Detach(TUNNEL));
    listener.end().exits(125).printed("a part").says(
        "listening on fp://127.0.0.1:PORT
         farpipe: the far end failed: disk \u{fffd}[2J on fire",
    );
}

/// Waits for REFUSE of a stream.
fn hear_refused(peer: &mut Peer, id: StreamId) {
    let refuse = InnerFrame::Refuse(Refuse::default()).encode(id);
    let begin = &refuse[..5];
    let mut heard = Vec::new();
    while !heard.windows(begin.len()).any(|part| part == begin) {
        match peer.hear() {
            Heard::Data(.., bytes) => heard.extend(bytes),
            Heard::Frame(_) => {}
            Heard::Closed => panic!("closed before {id:?} was refused"),
        }
    }
}

#[test]
fn p8_streams_opened_and_reset_in_a_loop_end_the_session() {
    session_fails(
        |peer| {
            peer.open();
            // Each round in one piece: a stream that was refused meanwhile is reset in answer to
            // that. And no round before the last one's streams are refused, for the same reason.
            const ROUND: u32 = 100;
            for round in 0..=RESETS_MAX / ROUND {
                let ids = (1..=ROUND).map(|n| StreamId(2 * (round * ROUND + n) + 1));
                let mut last = StreamId::SESSION;
                let mut loops = Vec::new();
                for id in ids {
                    loops.extend(InnerFrame::Open(Open::default()).encode(id));
                    loops.extend(InnerFrame::Reset(Abort::default()).encode(id));
                    last = id;
                }
                peer.data(loops);
                if round < RESETS_MAX / ROUND {
                    hear_refused(peer, last);
                }
            }
        },
        &ignored("streams opened and reset in a loop"),
    );
}

#[test]
fn p9_a_stream_too_many_is_refused_by_itself() {
    const MAX: u32 = 256;
    let host = Host::new();
    let listener = host.listen("fp").open_input().start_listening();
    let mut peer = Peer::attached(&host, listener.addr());
    for number in 0..=MAX {
        let id = StreamId(2 * number + 1);
        peer.inner(id, &InnerFrame::Open(Open::default()));
    }
    let refuse = Refuse {
        status: 125,
        message: format!("more than {MAX} open streams"),
    };
    let expected = InnerFrame::Refuse(refuse).encode(StreamId(2 * MAX + 1));
    let mut heard = Vec::new();
    // Not always the last one: this is refused by the session, the others by the pipe.
    while !heard.windows(expected.len()).any(|part| part == expected) {
        match peer.hear() {
            Heard::Data(.., bytes) => heard.extend(bytes),
            Heard::Frame(_) => {}
            Heard::Closed => panic!("the whole session ended"),
        }
    }
    // The first one is none the worse for it.
    peer.bytes(STREAM, b"still here");
    listener.stdout_until(10);
}

#[test]
fn a_peer_that_gives_up_without_a_word_is_a_failure_all_the_same() {
    let host = Host::new();
    let listener = host.listen("fp").open_input().start_listening();
    let mut peer = Peer::attached(&host, listener.addr());
    peer.open();
    peer.inner(STREAM, &InnerFrame::Reset(Abort::default()));
    peer.inner(STREAM, &InnerFrame::Stop(Abort::default()));
    peer.inner(StreamId::SESSION, &InnerFrame::Done(0));
    peer.send(&HopFrame::Detach(TUNNEL));
    listener.end().exits(125).says(
        "listening on fp://127.0.0.1:PORT
         farpipe: the far end failed: it did not say why",
    );
}

#[test]
fn a_second_stream_is_refused_and_the_first_one_is_none_the_worse() {
    let host = Host::new();
    let listener = host.listen("fp").open_input().start_listening();
    let mut peer = Peer::attached(&host, listener.addr());
    peer.open();
    let second = StreamId(3);
    peer.inner(second, &InnerFrame::Open(Open::default()));
    peer.bytes(second, b"astray");
    let refuse = Refuse {
        status: 125,
        message: "this listener joins one stream to its endpoint".to_owned(),
    };
    let expected = InnerFrame::Refuse(refuse).encode(second);
    let mut heard = Vec::new();
    while !heard.ends_with(&expected) {
        match peer.hear() {
            Heard::Data(.., bytes) => heard.extend(bytes),
            Heard::Frame(_) => {}
            Heard::Closed => panic!("the whole session ended"),
        }
    }
    peer.inner(second, &InnerFrame::Reset(Abort::default()));
    peer.bytes(STREAM, b"still here");
    assert_eq!(listener.stdout_until(10), b"still here");
}

#[test]
fn a_session_without_a_stream_is_a_failure() {
    let host = Host::new();
    let listener = host.listen("fp").open_input().start_listening();
    let mut peer = Peer::attached(&host, listener.addr());
    peer.inner(StreamId::SESSION, &InnerFrame::Done(0));
    // It is told that all is settled, and leaves.
    while !matches!(peer.hear(), Heard::Data(..)) {}
    peer.send(&HopFrame::Detach(TUNNEL));
    listener.end().exits(125).printed("").says(
        "listening on fp://127.0.0.1:PORT
         farpipe: the far end failed: it opened no stream",
    );
}

//! Offsets of the session's byte stream: acknowledgements, gaps, repeats.

use farpipe_proto::session::{Event, SessionError, Side};
use farpipe_proto::wire::control::Open;
use farpipe_proto::wire::id::StreamId;
use farpipe_proto::wire::inner::{InnerFrame, bytes_header};

use crate::victim::Victim;

#[test]
fn p11_an_acknowledgement_beyond_what_was_sent_ends_the_session() {
    let mut victim = Victim::new(Side::Acceptor);
    victim.hears_open(1).expect("opens");
    victim.write(StreamId(1), 100);
    // Numbered, but not sent.
    let now = victim.now;
    let result = victim.session.handle_ack(now, 1);
    let beyond = SessionError::AckOutOfRange {
        offset: 1,
        acked: 0,
        sent: 0,
    };
    assert_eq!(result, Err(beyond));
    victim.flush();
    let numbered = victim.session.numbered();
    assert_eq!(victim.session.handle_ack(now, numbered), Ok(true));
    assert_eq!(victim.session.handle_ack(now, numbered), Ok(false));
    for offset in [numbered + 1, u64::MAX] {
        let result = victim.session.handle_ack(now, offset);
        assert!(matches!(
            result,
            Err(SessionError::AckOutOfRange { sent, .. }) if sent == numbered
        ));
    }
}

#[test]
fn p11_an_acknowledgement_beyond_what_this_tunnel_carried_ends_the_session() {
    let mut victim = Victim::new(Side::Acceptor);
    victim.hears_open(1).expect("opens");
    victim.write(StreamId(1), 100);
    victim.flush();
    // All of it left over the first tunnel, none yet over the second.
    let now = victim.now;
    assert_eq!(victim.session.handle_attached(now, 9), Ok(true));
    let beyond = SessionError::AckOutOfRange {
        offset: 50,
        acked: 9,
        sent: 9,
    };
    assert_eq!(victim.session.handle_ack(now, 50), Err(beyond));
    victim.session.handle_sent(49);
    assert_eq!(victim.session.handle_ack(now, 49), Ok(true));
    victim.session.handle_sent(109);
}

#[test]
fn p11_an_acknowledgement_going_back_ends_the_session() {
    let mut victim = Victim::new(Side::Acceptor);
    victim.hears_open(1).expect("opens");
    victim.write(StreamId(1), 100);
    victim.flush();
    let now = victim.now;
    assert_eq!(victim.session.handle_ack(now, 50), Ok(true));
    let back = SessionError::AckOutOfRange {
        offset: 49,
        acked: 50,
        sent: 109,
    };
    assert!(!back.is_transient());
    assert_eq!(victim.session.handle_ack(now, 49), Err(back.clone()));
    assert_eq!(victim.session.handle_attached(now, 49), Err(back));
}

#[test]
fn p11_an_impossible_offset_at_the_attach_ends_the_session() {
    let mut victim = Victim::new(Side::Acceptor);
    victim.hears_open(1).expect("opens");
    victim.write(StreamId(1), 100);
    victim.flush();
    let now = victim.now;
    for offset in [110, u64::MAX] {
        assert!(matches!(
            victim.session.handle_attached(now, offset),
            Err(SessionError::AckOutOfRange { .. })
        ));
    }
    assert_eq!(victim.session.handle_attached(now, 109), Ok(true));
}

#[test]
fn p11_a_gap_asks_for_another_attach_and_delivers_nothing() {
    let mut victim = Victim::new(Side::Acceptor);
    victim.hears_open(1).expect("opens");
    let expected = victim.offset;
    victim.offset += 1;
    let gap = victim.hears_payload(1, 10).expect_err("a gap");
    assert_eq!(
        gap,
        SessionError::Gap {
            offset: expected + 1,
            expected
        }
    );
    assert!(gap.is_transient());
    assert_eq!(victim.session.received(), expected);
    // The same bytes at the right place are taken.
    victim.offset = expected;
    assert_eq!(victim.hears_payload(1, 10).expect("in place").len(), 1);
}

#[test]
fn p11_a_repeat_is_trimmed_wherever_it_ends() {
    let mut frame = bytes_header(StreamId(1), 20).to_vec();
    frame.extend(0..20);
    let open = InnerFrame::Open(Open::default()).encode(StreamId(1));
    for heard in 0..=frame.len() {
        for from in 0..=heard {
            let mut victim = Victim::new(Side::Acceptor);
            victim.hears_bytes(&open).expect("opens");
            let begin = victim.offset;
            let mut got = Vec::new();
            for (start, end) in [(0, heard), (from, frame.len())] {
                victim.offset = begin + start as u64;
                let bytes = &frame[start..end];
                for event in victim.hears_bytes(bytes).expect("repeats are no breach") {
                    let Event::Bytes(_, range) = event else {
                        panic!("{event:?}");
                    };
                    got.extend_from_slice(&bytes[victim.repeat..][range]);
                }
            }
            assert_eq!(got, (0..20).collect::<Vec<u8>>(), "{heard} {from}");
        }
    }
}

//! How the streams of a session share it.

use std::collections::BTreeSet;
use std::time::Duration;

use farpipe_proto::Instant;
use farpipe_proto::limits::WINDOW_INITIAL;
use farpipe_proto::session::{Event, Session, SessionConfig, Side};
use farpipe_proto::wire::control::Open;
use farpipe_proto::wire::id::StreamId;
use farpipe_proto::wire::inner::{HEADER_LEN, InnerFrame};

fn number(session: &mut Session) {
    while let Some(bytes) = session.poll_control() {
        session.handle_numbered(bytes.len());
    }
}

fn write(session: &mut Session, id: StreamId, len: usize) {
    session.write(id, len);
    session.handle_numbered(HEADER_LEN + len);
}

#[test]
fn writers_are_woken_in_turn_and_interactive_ones_first() {
    let mut session = Session::new(SessionConfig::new(Side::Opener));
    let now = Instant::default();
    session.handle_attached(now, 0).expect("a new session");
    let interactive = Open {
        interactive: true,
        ..Open::default()
    };
    let opens = [
        Open::default(),
        interactive,
        Open::default(),
        Open::default(),
    ];
    let ids = opens.map(|open| session.open(now, open).expect("room"));
    number(&mut session);
    session.handle_sent(session.numbered());
    let grant = session.grant(ids[0]);
    write(&mut session, ids[0], grant);
    while session.grant(ids[1]) > 0 {
        let grant = session.grant(ids[1]);
        write(&mut session, ids[1], grant);
    }
    for id in ids {
        assert_eq!(session.grant(id), 0, "a backlog");
    }
    for (called, also) in [(2, Some(1)), (3, None), (0, None), (2, None)] {
        while session.poll_event().is_some() {}
        session.handle_sent(session.numbered());
        let order: Vec<Event> = std::iter::from_fn(|| session.poll_event()).collect();
        let woken: Vec<Event> = also
            .into_iter()
            .chain([called])
            .map(|n: usize| Event::Writable(ids[n]))
            .collect();
        assert_eq!(order, woken);
        for id in [ids[0], ids[2], ids[3]] {
            let grant = session.grant(id);
            assert_eq!(grant > 0, id == ids[called], "its turn only");
            if grant > 0 {
                write(&mut session, id, grant);
                assert_eq!(session.grant(id), 0);
            }
        }
    }
}

#[test]
fn who_has_nothing_to_send_when_its_turn_comes_holds_up_nobody() {
    let mut session = Session::new(SessionConfig::new(Side::Opener));
    let now = Instant::default();
    session.handle_attached(now, 0).expect("a new session");
    let ids = [(); 3].map(|()| session.open(now, Open::default()).expect("room"));
    number(&mut session);
    let grant = session.grant(ids[0]);
    write(&mut session, ids[0], grant);
    for id in ids {
        assert_eq!(session.grant(id), 0, "a backlog");
    }
    session.handle_sent(session.numbered());
    for id in [ids[1], ids[2], ids[0]] {
        assert_eq!(session.poll_event(), Some(Event::Writable(id)));
        assert_eq!(session.poll_event(), None);
        assert!(session.awaits_writer());
        session.handle_idle();
    }
    assert_eq!(session.poll_event(), None);
    assert!(!session.awaits_writer(), "nobody waits");
    assert!(session.grant(ids[0]) > 0);
}

/// What each stream of a session sent that shares it with the others, all of which always have
/// something: pieces of up to `pieces` bytes. The carrier takes a message at a time.
fn shares(pieces: &[usize], total: usize) -> Vec<usize> {
    let mut session = Session::new(SessionConfig::new(Side::Opener));
    let mut now = Instant::default();
    session.handle_attached(now, 0).expect("a new session");
    let ids: Vec<StreamId> = pieces
        .iter()
        .map(|_| session.open(now, Open::default()).expect("room"))
        .collect();
    number(&mut session);
    session.handle_sent(session.numbered());
    let mut sent = vec![0; pieces.len()];
    let mut told = BTreeSet::new();
    // Woken last runs first, as with some schedulers.
    let mut awake: Vec<usize> = (0..pieces.len()).collect();
    while sent.iter().sum::<usize>() < total {
        if awake.is_empty() {
            session.handle_idle();
            awake.extend(woken(&mut session, &ids));
        }
        while let Some(writer) = awake.pop() {
            let mut grant = session.grant(ids[writer]);
            while grant > 0 {
                let len = grant.min(pieces[writer]);
                write(&mut session, ids[writer], len);
                session.call_writers();
                sent[writer] += len;
                grant = session.grant(ids[writer]);
            }
            awake.extend(woken(&mut session, &ids));
        }
        now = now + Duration::from_millis(1);
        session.handle_sent(session.numbered());
        let numbered = session.numbered();
        session.handle_ack(now, numbered).expect("all was sent");
        for (id, sent) in ids.iter().zip(&sent) {
            // Readers that always take all; told again it would be an error.
            let limit = *sent as u64 + WINDOW_INITIAL;
            if limit > WINDOW_INITIAL && told.insert((*id, limit)) {
                let credit = InnerFrame::Credit(limit).encode(*id);
                let offset = session.received();
                let arrived = session.handle_arrived(now, offset, credit.len());
                assert_eq!(arrived, Ok(0));
                session.handle_frames(now, &credit).expect("more credit");
            }
        }
        awake.extend(woken(&mut session, &ids));
    }
    sent
}

fn woken(session: &mut Session, ids: &[StreamId]) -> Vec<usize> {
    let events = std::iter::from_fn(|| session.poll_event());
    let writable = events.filter_map(|event| match event {
        Event::Writable(id) => ids.iter().position(|known| *known == id),
        _ => None,
    });
    writable.collect()
}

#[test]
fn streams_that_always_have_something_share_by_bytes() {
    let each = 4 << 20;
    let pieces: Vec<usize> = (0..40)
        .map(|n| [100, 4096, 30_000, 256 << 10][n % 4])
        .collect();
    let sent = shares(&pieces, each * pieces.len());
    for sent in sent {
        assert!(sent.abs_diff(each) <= each / 10, "{sent} of {each}");
    }
}

//! Whatever somebody in between does, nothing wrong is believed.

use std::sync::{Arc, Mutex};

use farpipe_proto::wire::control::Exit;
use farpipe_proto::wire::id::StreamId;
use farpipe_proto::wire::inner::InnerFrame;

use super::middle::{OnAttach, Tamper, Way};
use super::{Outcome, Play, bytes, play};
use crate::SessionEnd;

/// What passes each way.
const LEN: usize = 400_000;
/// `sealed` in ATTACH: field 9, a bool.
const SEALED: [u8; 2] = [0x48, 1];

/// Both ends say that something was changed, if they say anything: one that has finished saying may
/// only hear that the other is gone.
fn assert_changed(outcome: &Outcome, len: usize, what: &str) {
    outcome.assert_no_wrong_byte(len, what);
    let (opened, accepted) = outcome.words();
    assert!(!outcome.is_success(), "{what}");
    let told = [&opened, &accepted].map(|words| words.contains("E2E_INTEGRITY"));
    assert_eq!(told, [true, true], "{what}: {opened} | {accepted}");
}

/// What somebody in between does to bytes that lie at or behind some place.
fn at(place: u64, way: Way, mut act: impl FnMut(&mut Vec<u8>, usize) + Send + 'static) -> Tamper {
    let mut done = false;
    Box::new(move |its, offset, mut bytes| {
        let end = offset + bytes.len() as u64;
        if its == way && !done && end > place + 64 {
            done = true;
            let from = usize::try_from(place.saturating_sub(offset)).expect("small");
            act(&mut bytes, from);
        }
        bytes
    })
}

#[tokio::test(start_paused = true)]
async fn bytes_that_are_changed_dropped_or_repeated_end_the_session() {
    for way in [Way::There, Way::Back] {
        for place in [5_000, 20_000, 100_001, 300_000] {
            type Act = fn(&mut Vec<u8>, usize);
            let acts: [(&str, Act); 5] = [
                ("flip", |bytes, at| bytes[at] ^= 0x10),
                ("drop", |bytes, at| drop(bytes.drain(at..at + 30))),
                ("repeat", |bytes, at| {
                    let run = bytes[at..at + 40].to_vec();
                    bytes.splice(at..at, run);
                }),
                ("reorder", |bytes, at| bytes[at..at + 60].rotate_left(20)),
                ("insert", |bytes, at| {
                    let exit = Exit {
                        code: Some(0),
                        ..Exit::default()
                    };
                    bytes.splice(at..at, InnerFrame::Exit(exit).encode(StreamId(1)));
                }),
            ];
            for (name, act) in acts {
                let outcome = play(Play {
                    tamper: at(place, way, act),
                    len: LEN,
                    ..Play::default()
                })
                .await;
                assert_changed(&outcome, LEN, &format!("{name} {way:?} {place}"));
            }
        }
    }
}

/// Whole records dropped or repeated, so that what is left is well formed.
#[tokio::test(start_paused = true)]
async fn records_that_are_dropped_repeated_or_forged_end_the_session() {
    for (name, act) in [("drop", 0), ("repeat", 1), ("forge", 2)] {
        let mut stream: Vec<u8> = Vec::new();
        let mut done = false;
        let tamper: Tamper = Box::new(move |way, _, bytes| {
            if way == Way::Back {
                return bytes;
            }
            // Passes on whole records only.
            stream.extend_from_slice(&bytes);
            let mut goes = Vec::new();
            while stream.len() >= 5 {
                let len = 5 + usize::from(u16::from_be_bytes([stream[3], stream[4]]));
                if stream.len() < len {
                    break;
                }
                let record: Vec<u8> = stream.drain(..len).collect();
                let is_long = record.len() > 3_000;
                match act {
                    _ if done || !is_long => goes.extend_from_slice(&record),
                    0 => done = true,
                    1 => {
                        done = true;
                        goes.extend_from_slice(&record);
                        goes.extend_from_slice(&record);
                    }
                    _ => {
                        done = true;
                        // As if it were an alert in clear.
                        goes.extend_from_slice(&[21, 3, 3, 0, 2, 1, 0]);
                        goes.extend_from_slice(&record);
                    }
                }
            }
            goes
        });
        let outcome = play(Play {
            tamper,
            len: LEN,
            ..Play::default()
        })
        .await;
        assert_changed(&outcome, LEN, name);
    }
}

/// The bytes of one live session in another, from some place on.
#[tokio::test(start_paused = true)]
async fn two_sessions_that_are_swapped_end() {
    for way in [Way::There, Way::Back] {
        for place in [6_000, 150_000] {
            // What each has for the other.
            let boxes = Arc::new([(); 2].map(|()| Mutex::new(Vec::new())));
            let one = |own: usize| {
                let boxes = Arc::clone(&boxes);
                play(Play {
                    tamper: Box::new(move |its, offset, bytes| {
                        if its != way || offset < place {
                            return bytes;
                        }
                        let [there, here] = [1 - own, own].map(|at| boxes[at].lock());
                        there.expect("no panic").extend(bytes);
                        std::mem::take(&mut *here.expect("no panic"))
                    }),
                    len: LEN,
                    ..Play::default()
                })
            };
            let (first, second) = tokio::join!(one(0), one(1));
            for outcome in [first, second] {
                assert_changed(&outcome, LEN, &format!("{way:?} {place}"));
            }
        }
    }
}

/// Somebody lets the link live and the handshake not come about.
#[tokio::test(start_paused = true)]
async fn bytes_that_are_kept_back_in_the_handshake_end_it_in_time() {
    const WORDS: &str = "end-to-end: no handshake in 30 s of connection";
    for (way, place) in [
        (Way::There, 0),
        (Way::There, 100),
        (Way::Back, 0),
        (Way::Back, 700),
    ] {
        let outcome = play(Play {
            tamper: Box::new(move |its, offset, mut bytes| {
                if its == way {
                    bytes.truncate(place - place.min(usize::try_from(offset).expect("small")));
                }
                bytes
            }),
            len: 1_000,
            ..Play::default()
        })
        .await;
        let (opened, accepted) = outcome.words();
        let what = format!("{way:?} {place}: {opened} | {accepted}");
        assert!(opened.contains(WORDS) && accepted.contains(WORDS), "{what}");
        assert_eq!(outcome.peer, None, "{what}");
        outcome.assert_no_wrong_byte(0, &what);
    }
    // The agent does not wait for ever either for an opener that is none.
    let outcome = play(Play {
        opener: None,
        on_attach: |attach| attach.extend(SEALED),
        tamper: Box::new(|_, _, _| Vec::new()),
        ..Play::default()
    })
    .await;
    assert!(matches!(outcome.accepted, Some(Err(SessionEnd::Lost(_)))));
    let (opened, accepted) = outcome.words();
    assert!(opened.contains(WORDS), "{opened}");
    assert!(accepted.contains(WORDS), "{accepted}");
}

#[tokio::test(start_paused = true)]
async fn no_change_of_the_handshake_leads_to_a_wrong_byte_or_to_another_peer() {
    for way in [Way::There, Way::Back] {
        for place in (0..1_500).step_by(11) {
            let outcome = play(Play {
                tamper: Box::new(move |its, offset, mut bytes| {
                    let at = usize::try_from(place - offset.min(place)).expect("small");
                    if its == way && offset <= place && at < bytes.len() {
                        bytes[at] ^= 0x01;
                    }
                    bytes
                }),
                len: 500,
                ..Play::default()
            })
            .await;
            let what = format!("{way:?} {place}");
            outcome.assert_no_wrong_byte(500, &what);
            if let Some(peer) = &outcome.peer {
                assert_eq!(
                    peer.identity().map(|who| who.name()),
                    Some("alice"),
                    "{what}"
                );
            }
            if outcome.is_success() {
                // The version in the header of a record says nothing (RFC 8446 section 5.1).
                assert_eq!(outcome.got_there, bytes(1, 500), "{what}");
                continue;
            }
            let (opened, accepted) = outcome.words();
            let told = |words: &str| {
                // A length that was made longer waits for bytes that never come; behind the handshake
                // that is a quiet session.
                let is_quiet = words == "nothing" && outcome.peer.is_some();
                is_quiet
                    || words.contains("no handshake in 30 s")
                    || words.contains("E2E_INTEGRITY")
            };
            assert!(
                told(&opened) || told(&accepted),
                "{what}: {opened} | {accepted}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_flag_that_is_stripped_or_set_ends_the_session_at_both_ends() {
    let strip: OnAttach = |attach| {
        assert!(attach.ends_with(&SEALED));
        attach.truncate(attach.len() - SEALED.len());
    };
    let outcome = play(Play {
        on_attach: strip,
        len: 1_000,
        ..Play::default()
    })
    .await;
    let (opened, accepted) = outcome.words();
    assert!(outcome.got_there.is_empty() && outcome.got_back.is_empty());
    assert!(
        opened.contains("end-to-end TLS had not come about"),
        "{opened}"
    );
    assert!(
        matches!(outcome.accepted, Some(Err(SessionEnd::Integrity(_)))),
        "{accepted}"
    );

    let outcome = play(Play {
        opener: None,
        on_attach: |attach| attach.extend(SEALED),
        len: 1_000,
        ..Play::default()
    })
    .await;
    let (opened, accepted) = outcome.words();
    assert!(outcome.got_there.is_empty() && outcome.got_back.is_empty());
    assert!(opened.contains("E2E_INTEGRITY"), "{opened}");
    assert!(accepted.contains("is not TLS"), "{accepted}");
}

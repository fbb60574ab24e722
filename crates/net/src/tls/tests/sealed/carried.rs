//! What nobody changes arrives, however often it is cut.

use std::sync::{Arc, Mutex};

use super::middle::Tamper;
use super::{Play, STATUS, bytes, play};

#[tokio::test(start_paused = true)]
async fn a_sealed_session_carries_both_ways_and_says_who_opened_it() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let wire = Arc::clone(&seen);
    let len = 3 << 20;
    let outcome = play(Play {
        tamper: Box::new(move |_, _, bytes| {
            wire.lock().expect("no panic").extend_from_slice(&bytes);
            bytes
        }),
        len,
        ..Play::default()
    })
    .await;
    assert!(outcome.is_success(), "{:?}", outcome.words());
    assert_eq!(outcome.accepted, Some(Ok(())));
    assert!(outcome.got_there == bytes(1, len) && outcome.got_back == bytes(2, len));
    assert_eq!(outcome.exit.and_then(|exit| exit.code), Some(STATUS));
    let peer = outcome.peer.expect("known");
    assert_eq!(peer.source(), "e2e-cert");
    let identity = peer.identity().expect("named").to_string();
    assert_eq!(identity, "farpipe://test/client/alice");
    let seen = seen.lock().expect("no panic");
    for seed in [1, 2] {
        let plain = bytes(seed, 64);
        assert!(!seen.windows(64).any(|window| window == plain), "plain");
    }
}

#[tokio::test(start_paused = true)]
async fn a_plain_session_has_nobody_proven() {
    let outcome = play(Play {
        opener: None,
        len: 100_000,
        ..Play::default()
    })
    .await;
    assert!(outcome.is_success(), "{:?}", outcome.words());
    assert_eq!(outcome.peer, None);
    outcome.assert_no_wrong_byte(100_000, "plain");
}

/// Passes all on; what has an offset has one content, however often it is sent: another handshake
/// would have another.
fn one_content() -> Tamper {
    let mut said = [Vec::new(), Vec::new()];
    Box::new(move |way, offset, bytes| {
        let said: &mut Vec<u8> = &mut said[way as usize];
        let at = usize::try_from(offset).expect("small");
        let known = said[at..].len().min(bytes.len());
        assert!(said[at..][..known] == bytes[..known], "other bytes");
        said.extend_from_slice(&bytes[known..]);
        bytes
    })
}

/// The handshake of both ways has less than this.
const HANDSHAKE: usize = 3_200;

#[tokio::test(start_paused = true)]
async fn a_cut_anywhere_in_the_handshake_is_resumed_without_another() {
    for at in (0..HANDSHAKE).step_by(3) {
        let outcome = play(Play {
            tamper: one_content(),
            cuts: vec![at],
            len: 1_000,
            ..Play::default()
        })
        .await;
        assert!(outcome.is_success(), "{at}: {:?}", outcome.words());
        assert_eq!(outcome.got_there, bytes(1, 1_000), "{at}");
        assert_eq!(outcome.got_back, bytes(2, 1_000), "{at}");
        assert!(outcome.peer.is_some(), "{at}");
    }
}

#[tokio::test(start_paused = true)]
async fn cuts_anywhere_in_the_data_are_resumed_with_the_same_records() {
    let len = 600_000;
    let mut draw = bytes(3, 4_000).into_iter();
    for turn in 0..12 {
        let mut next = || {
            let pair = [draw.next(), draw.next()].map(|byte| usize::from(byte.unwrap_or(1)));
            pair[0] << 8 | pair[1]
        };
        let cuts: Vec<usize> = (0..10).map(|_| 2 * next()).collect();
        let outcome = play(Play {
            tamper: one_content(),
            cuts: cuts.clone(),
            len,
            ..Play::default()
        })
        .await;
        assert!(
            outcome.is_success(),
            "{turn}: {cuts:?} {:?}",
            outcome.words()
        );
        assert!(outcome.got_there == bytes(1, len), "{turn}: {cuts:?}");
        assert!(outcome.got_back == bytes(2, len), "{turn}: {cuts:?}");
    }
}

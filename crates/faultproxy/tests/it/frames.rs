//! Cuts at the k-th frame of a direction, with frames as farpipe sends them.

use farpipe_faultproxy::{Amount, Cut, Dir, Framing, How, Place, Plan, When};
use tokio::io::AsyncWriteExt;

use crate::peer::{Ended, Link, read, read_all, within};

const UPGRADE: &[u8] =
    b"GET /farpipe HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
const SWITCHING: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n";

/// A binary WebSocket message, masked as a client does.
fn masked(payload: &[u8]) -> Vec<u8> {
    let key = [0xa5, 1, 2, 3];
    let mut frame = vec![0x82];
    match payload.len() {
        short @ 0..126 => frame.push(0x80 | short as u8),
        long => {
            frame.push(0x80 | 126);
            frame.extend(u16::try_from(long).unwrap().to_be_bytes());
        }
    }
    frame.extend(key);
    frame.extend(
        payload
            .iter()
            .zip(key.iter().cycle())
            .map(|(byte, key)| byte ^ key),
    );
    frame
}

/// The same, unmasked as a server does.
fn unmasked(payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x82, u8::try_from(payload.len()).unwrap()];
    frame.extend(payload);
    frame
}

fn fp(payload: &[u8]) -> Vec<u8> {
    [
        &u32::try_from(payload.len()).unwrap().to_be_bytes(),
        payload,
    ]
    .concat()
}

fn at_frame(dir: Dir, nth: u64, kind: Option<u8>, place: Place) -> When {
    When::Frame {
        dir,
        nth: nth..=nth,
        kind,
        place,
    }
}

/// What arrives of the pieces, each written on its own.
async fn through(plan: Plan, dir: Dir, pieces: &[Vec<u8>]) -> (Vec<u8>, Ended) {
    let link = Link::new(|config| config.plan = plan).await;
    let (mut source, mut sink) = match dir {
        Dir::Up => (link.client, link.server),
        Dir::Down => (link.server, link.client),
    };
    let write = async {
        for piece in pieces {
            // Fails when the cut comes first.
            let _ = source.write_all(piece).await;
        }
        let _ = source.shutdown().await;
    };
    let ((), arrived) = tokio::join!(write, read_all(&mut sink));
    arrived
}

#[tokio::test]
async fn the_kth_masked_frame_of_a_type_after_the_upgrade() {
    within(async {
        let long = [&[4][..], &[0; 999]].concat();
        let frames = [
            masked(b"\x01hello"),
            masked(&long),
            masked(b"\x05ack"),
            masked(b"\x04data"),
        ];
        let pieces = [&[UPGRADE.to_vec()][..], &frames].concat();
        for (kind, nth, passes) in [
            (None, 1, 0),
            (None, 3, 2),
            (Some(4), 1, 1),
            (Some(4), 2, 3),
            (Some(5), 1, 2),
        ] {
            let plan = Plan::of(at_frame(Dir::Up, nth, kind, Place::Before), Cut::Reset);
            let expected = pieces[..=passes].concat();
            assert_eq!(
                through(plan, Dir::Up, &pieces).await,
                (expected, Ended::Reset),
                "{kind:?} {nth}"
            );
        }
        let plan = Plan::of(at_frame(Dir::Up, 3, Some(4), Place::Before), Cut::Reset);
        assert_eq!(
            through(plan, Dir::Up, &pieces).await,
            (pieces.concat(), Ended::Fin),
            "there is no third"
        );
    })
    .await;
}

#[tokio::test]
async fn the_places_of_a_servers_frame() {
    within(async {
        let pieces = [
            SWITCHING.to_vec(),
            unmasked(b"\x02welcome"),
            unmasked(b"\x04data"),
        ];
        let all = pieces.concat();
        let last = all.len() - 7;
        for (place, length) in [
            (Place::Before, last),
            (Place::Inside(0), last + 2),
            (Place::Inside(3), last + 5),
            (Place::Inside(99), last + 7),
            (Place::After, last + 7),
        ] {
            let plan = Plan::of(at_frame(Dir::Down, 2, None, place), Cut::Fin);
            let arrived = through(plan, Dir::Down, &pieces).await;
            assert_eq!(arrived, (all[..length].to_vec(), Ended::Fin), "{place:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn the_kth_fp_message_of_a_type() {
    within(async {
        for framing in [Framing::Auto, Framing::Fp] {
            let pieces = [
                b"\x00farpipe".to_vec(),
                fp(b"\x01a"),
                fp(b"\x04bc"),
                fp(b""),
                fp(b"\x04def"),
            ];
            let mut plan = Plan::of(at_frame(Dir::Up, 2, Some(4), Place::Before), Cut::Reset);
            plan.framing = framing;
            assert_eq!(
                through(plan, Dir::Up, &pieces).await,
                (pieces[..4].concat(), Ended::Reset)
            );
        }
    })
    .await;
}

#[tokio::test]
async fn whole_frames_are_dropped_and_replayed() {
    within(async {
        let pieces = [
            UPGRADE.to_vec(),
            masked(b"\x01a"),
            masked(b"\x04bc"),
            masked(b"\x04def"),
        ];
        let plan = Plan::of(
            at_frame(Dir::Up, 1, Some(4), Place::Before),
            How::Drop(Amount::Frame),
        );
        let expected = [&pieces[..2], &pieces[3..]].concat().concat();
        assert_eq!(
            through(plan, Dir::Up, &pieces).await,
            (expected, Ended::Fin)
        );
        let plan = Plan::of(
            at_frame(Dir::Up, 1, Some(4), Place::Before),
            How::Replay(Amount::Frame),
        );
        let expected = [&pieces[..3], &pieces[2..]].concat().concat();
        assert_eq!(
            through(plan, Dir::Up, &pieces).await,
            (expected, Ended::Fin)
        );
    })
    .await;
}

#[tokio::test]
async fn bytes_without_frames_pass_and_are_counted_as_blind() {
    within(async {
        let plan = Plan::of(at_frame(Dir::Up, 1, None, Place::Before), Cut::Reset);
        let mut link = Link::new(|config| config.plan = plan).await;
        let hello = b"\x16\x03\x01\x00\x05hello";
        link.client.write_all(hello).await.unwrap();
        assert_eq!(read(&mut link.server, hello.len()).await, hello);
        assert_eq!(link.proxy.stop().await.blind, 1);
    })
    .await;
}

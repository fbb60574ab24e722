//! Faults of one direction: half-close, mute, and tampering with bytes.

use std::time::Duration;

use farpipe_faultproxy::{Amount, Dir, Fault, How, Plan, When};
use tokio::io::AsyncWriteExt;

use crate::peer::{Ended, Link, assert_silent, fill, pattern, read, read_all, until, within};

fn byte(dir: Dir, at: u64) -> When {
    When::Byte { dir, at: at..=at }
}

/// A lifetime of this many milliseconds, in a plan whose seed gives it this direction.
fn late(dir: Dir, millis: u64, how: How) -> (u64, Plan) {
    let life = Duration::from_millis(millis);
    let plan = Plan::of(When::Lifetime(life..=life), how);
    let seed = (0..)
        .find(|&seed| plan.derive(seed, 0).armed[0].dir == dir)
        .unwrap();
    (seed, plan)
}

#[tokio::test(start_paused = true)]
async fn a_half_close_keeps_the_other_way_open() {
    let plan = Plan::of(byte(Dir::Up, 5), How::HalfClose);
    let Link {
        proxy,
        mut client,
        mut server,
        ..
    } = Link::new(|config| config.plan = plan).await;
    client.write_all(b"hello, world").await.unwrap();
    assert_eq!(read_all(&mut server).await, (b"hello".to_vec(), Ended::Fin));
    assert!(
        fill(&mut client, 20 << 20).await >= 20 << 20,
        "what comes after the FIN is thrown away"
    );
    let answer = pattern(1_000_000);
    let (sent, got) = tokio::join!(server.write_all(&answer), read(&mut client, answer.len()));
    sent.unwrap();
    assert!(got == answer);
    assert_silent(&mut client).await;
    drop((client, server));
    assert_eq!(
        until(&proxy, |stats| stats.live == 0).await.cuts_half_close,
        1
    );
}

#[tokio::test(start_paused = true)]
async fn a_mute_way_carries_not_even_its_end() {
    let plan = Plan::of(byte(Dir::Up, 5), How::Mute);
    let Link {
        proxy,
        mut client,
        mut server,
        ..
    } = Link::new(|config| config.plan = plan).await;
    client.write_all(b"hello, world").await.unwrap();
    assert_eq!(read(&mut server, 5).await, b"hello");
    assert!(fill(&mut client, 20 << 20).await >= 20 << 20);
    client.shutdown().await.unwrap();
    assert_silent(&mut server).await;
    server.write_all(b"answer").await.unwrap();
    server.shutdown().await.unwrap();
    assert_eq!(
        read_all(&mut client).await,
        (b"answer".to_vec(), Ended::Fin)
    );
    assert_eq!(until(&proxy, |stats| stats.live == 0).await.cuts_mute, 1);
}

#[tokio::test(start_paused = true)]
async fn a_half_close_by_time_does_not_wait_for_bytes_or_for_the_sink() {
    for dir in [Dir::Up, Dir::Down] {
        for blocked in [false, true] {
            let (seed, plan) = late(dir, 60_000, How::HalfClose);
            let link = Link::new(|config| (config.seed, config.plan) = (seed, plan)).await;
            let (mut source, mut sink) = match dir {
                Dir::Up => (link.client, link.server),
                Dir::Down => (link.server, link.client),
            };
            let filled = match blocked {
                true => fill(&mut source, usize::MAX).await,
                false => 0,
            };
            until_cut(&link.proxy).await;
            let (bytes, ended) = read_all(&mut sink).await;
            assert_eq!(ended, Ended::Fin);
            assert!(bytes.len() <= filled);
            sink.write_all(b"still here").await.unwrap();
            assert_eq!(read(&mut source, 10).await, b"still here");
        }
    }
}

async fn until_cut(proxy: &farpipe_faultproxy::Proxy) {
    while proxy.stats().cuts_half_close == 0 {
        tokio::time::sleep(Duration::from_secs(1)).await; // sleep: the paused clock jumps
    }
}

/// What arrives of 100,000 bytes sent up in pieces.
async fn through(configure: (u64, Plan)) -> (Vec<u8>, Vec<u8>, farpipe_faultproxy::Stats) {
    let link = Link::new(|config| (config.seed, config.plan) = configure).await;
    let (mut client, mut server) = (link.client, link.server);
    let sent = pattern(100_000);
    let write = async {
        for piece in sent.chunks(777) {
            client.write_all(piece).await.unwrap();
        }
        client.shutdown().await.unwrap();
    };
    let ((), (got, ended)) = tokio::join!(write, read_all(&mut server));
    assert_eq!(ended, Ended::Fin);
    server.shutdown().await.unwrap();
    let stats = until(&link.proxy, |stats| stats.live == 0).await;
    (sent, got, stats)
}

#[tokio::test]
async fn a_bit_is_flipped_and_nothing_else() {
    within(async {
        let plan = Plan::of(byte(Dir::Up, 70_000), How::FlipBit);
        let bit = plan.derive(4, 0).armed[0].bit;
        let (mut sent, got, stats) = through((4, plan)).await;
        sent[70_000] ^= 1 << bit;
        assert!(sent == got);
        assert_eq!(stats.flipped, 1);
    })
    .await;
}

#[tokio::test]
async fn old_bytes_are_replayed_and_bytes_are_left_out() {
    within(async {
        let mut plan = Plan::of(byte(Dir::Up, 50_000), How::Replay(Amount::Bytes(3000)));
        plan.faults.push(Fault::new(
            byte(Dir::Up, 100),
            How::Drop(Amount::Bytes(30_000)),
        ));
        let (sent, got, stats) = through((0, plan)).await;
        let expected = [&sent[..100], &sent[30_100..50_000], &sent[47_000..]].concat();
        assert!(got == expected);
        assert_eq!(stats.replayed, 1);
        assert_eq!(stats.dropped, 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_bit_is_flipped_after_a_time() {
    let (seed, plan) = late(Dir::Up, 5_000, How::FlipBit);
    let bit = plan.derive(seed, 0).armed[0].bit;
    let Link {
        mut client,
        mut server,
        proxy: _proxy,
        ..
    } = Link::new(|config| (config.seed, config.plan) = (seed, plan)).await;
    client.write_all(b"before").await.unwrap();
    assert_eq!(read(&mut server, 6).await, b"before");
    tokio::time::sleep(Duration::from_secs(6)).await; // sleep: the paused clock jumps
    client.write_all(b"after").await.unwrap();
    assert_eq!(
        read(&mut server, 5).await,
        [b'a' ^ (1 << bit), b'f', b't', b'e', b'r']
    );
}

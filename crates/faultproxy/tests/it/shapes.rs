//! The shapes: throttle, delay, dribble. Times are tokio's, on a paused clock.

use std::num::{NonZeroU64, NonZeroUsize};
use std::time::Duration;

use farpipe_faultproxy::{Config, Cut, Delay, Dir, Plan, Shape, When};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::Instant;

use crate::peer::{Ended, Link, assert_silent, fill, pattern, proxy, read, read_all, within};

fn set(config: &mut Config, dir: Dir, shape: Shape) {
    match dir {
        Dir::Up => config.up = shape,
        Dir::Down => config.down = shape,
    }
}

/// A link with one direction shaped, as (proxy, source, sink) of that direction.
async fn shaped(dir: Dir, shape: Shape) -> (farpipe_faultproxy::Proxy, TcpStream, TcpStream) {
    let link = Link::new(|config| set(config, dir, shape)).await;
    match dir {
        Dir::Up => (link.proxy, link.client, link.server),
        Dir::Down => (link.proxy, link.server, link.client),
    }
}

fn throttle(rate: u64) -> Shape {
    Shape {
        throttle: NonZeroU64::new(rate),
        ..Shape::default()
    }
}

#[tokio::test(start_paused = true)]
async fn a_throttle_gives_its_rate_in_its_direction_only() {
    for (dir, rate, bytes) in [
        (Dir::Up, 1_000, 5_000),
        (Dir::Down, 1_000_000, 3_000_000),
        (Dir::Up, 10, 60),
    ] {
        let (_proxy, mut source, mut sink) = shaped(dir, throttle(rate)).await;
        let start = Instant::now();
        let sent = pattern(bytes);
        let (wrote, got) = tokio::join!(source.write_all(&sent), read(&mut sink, bytes));
        wrote.unwrap();
        assert!(got == sent);
        let expected = bytes as f64 / rate as f64;
        let took = start.elapsed().as_secs_f64();
        assert!(
            (expected * 0.8..=expected * 1.2).contains(&took),
            "{took} s for {bytes} bytes at {rate}/s"
        );

        let start = Instant::now();
        let (wrote, got) = tokio::join!(sink.write_all(&sent), read(&mut source, bytes));
        wrote.unwrap();
        assert!(got == sent);
        assert_eq!(
            start.elapsed(),
            Duration::ZERO,
            "the other way is not throttled"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_delay_is_kept_and_so_is_the_order() {
    let delay = Delay::new(Duration::from_millis(200), Duration::from_millis(100));
    let (_proxy, mut source, mut sink) = shaped(
        Dir::Up,
        Shape {
            delay: Some(delay),
            ..Shape::default()
        },
    )
    .await;
    let start = Instant::now();
    let write = async {
        let mut sent_at = Vec::new();
        for n in 0..100_u32 {
            sent_at.push(start.elapsed());
            source.write_all(&n.to_be_bytes()).await.unwrap();
            tokio::time::sleep(Duration::from_millis(7)).await; // sleep: the paused clock jumps
        }
        source.shutdown().await.unwrap();
        (sent_at, start.elapsed())
    };
    let take = async {
        let mut got_at = Vec::new();
        for n in 0..100_u32 {
            assert_eq!(sink.read_u32().await.unwrap(), n);
            got_at.push(start.elapsed());
        }
        assert_eq!(read_all(&mut sink).await, (Vec::new(), Ended::Fin));
        (got_at, start.elapsed())
    };
    let ((sent_at, shut_at), (got_at, ended_at)) = tokio::join!(write, take);
    let delays: Vec<Duration> = got_at
        .iter()
        .zip(&sent_at)
        .map(|(got, sent)| *got - *sent)
        .collect();
    let (least, most) = (delays.iter().min().unwrap(), delays.iter().max().unwrap());
    assert!(*least >= Duration::from_millis(200), "{least:?}");
    // Jitter up to 100 ms, and the jumps of the paused clock up to the next write.
    assert!(*most <= Duration::from_millis(330), "{most:?}");
    assert!(
        *most - *least >= Duration::from_millis(30),
        "there is no jitter"
    );
    assert!(
        ended_at - shut_at >= Duration::from_millis(200),
        "the end came too early"
    );
}

#[tokio::test(start_paused = true)]
async fn a_delay_does_not_lower_the_rate() {
    let delay = Delay::new(Duration::from_millis(500), Duration::ZERO);
    let (_proxy, mut source, mut sink) = shaped(
        Dir::Down,
        Shape {
            delay: Some(delay),
            ..Shape::default()
        },
    )
    .await;
    let sent = pattern(10_000_000);
    let start = Instant::now();
    let (wrote, got) = tokio::join!(source.write_all(&sent), read(&mut sink, sent.len()));
    wrote.unwrap();
    assert!(got == sent);
    let took = start.elapsed();
    assert!(
        took >= Duration::from_millis(500) && took < Duration::from_millis(1500),
        "{took:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_cut_behind_a_delay_counts_the_bytes_that_arrive() {
    let when = When::Byte {
        dir: Dir::Up,
        at: 100_000..=100_000,
    };
    let link = Link::new(|config| {
        config.plan = Plan::of(when, Cut::Fin);
        config.up.delay = Some(Delay::new(Duration::from_secs(1), Duration::ZERO));
    });
    let Link {
        mut client,
        mut server,
        proxy: _proxy,
        ..
    } = link.await;
    let sent = pattern(150_000);
    let start = Instant::now();
    let (wrote, arrived) = tokio::join!(client.write_all(&sent), read_all(&mut server));
    wrote.unwrap();
    assert!(arrived == (sent[..100_000].to_vec(), Ended::Fin));
    assert!(start.elapsed() >= Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_delays_buffer_is_bounded() {
    let delay = Delay {
        buffer: 1 << 20,
        ..Delay::new(Duration::from_secs(86_400), Duration::ZERO)
    };
    let (proxy, mut source, mut sink) = shaped(
        Dir::Up,
        Shape {
            delay: Some(delay),
            ..Shape::default()
        },
    )
    .await;
    let filled = fill(&mut source, 256 << 20).await;
    assert!(filled < 64 << 20, "{filled} bytes went in");
    assert_silent(&mut sink).await;
    proxy.stop().await;
}

#[tokio::test]
async fn a_dribble_arrives_in_crumbs() {
    within(async {
        for crumb in [1, 3] {
            let shape = Shape {
                dribble: NonZeroUsize::new(crumb),
                ..Shape::default()
            };
            let (_proxy, mut source, mut sink) = shaped(Dir::Up, shape).await;
            let sent = pattern(1000);
            source.write_all(&sent).await.unwrap();
            source.shutdown().await.unwrap();
            // Each crumb lets the other tasks run, so this one sees most of them alone.
            let (mut got, mut reads) = (Vec::new(), 0);
            let mut buffer = [0; 4096];
            loop {
                match sink.read(&mut buffer).await.unwrap() {
                    0 => break,
                    length => got.extend_from_slice(&buffer[..length]),
                }
                reads += 1;
            }
            assert!(got == sent);
            assert!(reads >= 1000 / crumb / 4, "{reads} reads");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn small_socket_buffers_let_a_throttle_be_felt() {
    let mut taken = Vec::new();
    for size in [None, NonZeroUsize::new(4 << 10)] {
        let (proxy, _upstream) = proxy(|config| {
            config.up = Shape {
                socket_buffer: size,
                ..throttle(1)
            }
        })
        .await;
        // What the source's own socket takes is not the proxy's to bound.
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_send_buffer_size(4 << 10).unwrap();
        let mut source = socket.connect(proxy.addr()).await.unwrap();
        taken.push(fill(&mut source, 64 << 20).await);
    }

    assert!(taken[0] > 2 * taken[1], "{taken:?}");
}

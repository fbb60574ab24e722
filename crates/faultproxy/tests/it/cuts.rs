//! Cuts of the whole connection: by time and by byte, in each manner.

use std::time::Duration;

use farpipe_faultproxy::{Admit, Cut, Dir, How, Plan, Trigger, When};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use crate::peer::{
    Ended, Link, assert_silent, connect, fill, pattern, proxy, read, read_all, until, within,
};

fn lifetime(from: u64, to: u64) -> When {
    When::Lifetime(Duration::from_millis(from)..=Duration::from_millis(to))
}

fn byte(dir: Dir, at: u64) -> When {
    When::Byte { dir, at: at..=at }
}

#[tokio::test]
async fn without_faults_bytes_and_ends_pass_both_ways() {
    within(async {
        let Link {
            proxy,
            client,
            server,
            ..
        } = Link::new(|_| {}).await;
        let (up, down) = (pattern(5_000_000), pattern(3_000_001));
        let end = |stream: TcpStream, bytes: Vec<u8>| async move {
            let (mut reader, mut writer) = stream.into_split();
            let write = async {
                writer.write_all(&bytes).await.unwrap();
                writer.shutdown().await.unwrap();
            };
            let mut got = Vec::new();
            let read = tokio::io::AsyncReadExt::read_to_end(&mut reader, &mut got);
            let ((), length) = tokio::join!(write, read);
            length.unwrap();
            got
        };
        let (at_client, at_server) =
            tokio::join!(end(client, up.clone()), end(server, down.clone()));
        assert!(at_client == down && at_server == up);
        let stats = until(&proxy, |stats| stats.live == 0).await;
        assert_eq!((stats.connections, stats.finished, stats.cuts()), (1, 1, 0));
        assert_eq!((stats.bytes_up, stats.bytes_down), (5_000_000, 3_000_001));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_lifetime_resets_both_sides_at_its_time() {
    let plan = Plan::of(lifetime(2, 9), Cut::Reset);
    let (proxy, upstream) = proxy(|config| (config.seed, config.plan) = (11, plan.clone())).await;
    for n in 0..50 {
        let Trigger::After(drawn) = plan.derive(11, n).armed[0].trigger else {
            panic!("not a lifetime")
        };
        let start = Instant::now();
        let (mut client, mut server) = connect(&proxy, &upstream).await;
        let (at_client, at_server) = tokio::join!(read_all(&mut client), read_all(&mut server));
        assert_eq!((at_client.1, at_server.1), (Ended::Reset, Ended::Reset));
        let late = start
            .elapsed()
            .checked_sub(drawn)
            .expect("not before its time");
        assert!(late <= Duration::from_millis(2), "{late:?} after {drawn:?}");
    }
    let stats = proxy.stop().await;
    assert_eq!(
        (
            stats.cuts_reset,
            stats.live,
            stats.cuts_with_bytes_in_flight
        ),
        (50, 0, 0)
    );
}

#[tokio::test]
async fn hundreds_of_lifetimes_leave_no_task() {
    within(async {
        let plan = Plan::of(lifetime(2, 9), Cut::Reset);
        let (proxy, upstream) = proxy(|config| config.plan = plan).await;
        let mut clients = tokio::task::JoinSet::new();
        let addr = proxy.addr();
        for _ in 0..400 {
            clients.spawn(async move {
                // A connection may be cut before the connect has been noticed.
                if let Ok(mut client) = TcpStream::connect(addr).await {
                    let _ = tokio::io::AsyncReadExt::read(&mut client, &mut [0]).await;
                }
            });
        }
        let accept = async {
            loop {
                drop(upstream.accept().await);
            }
        };
        tokio::select! {
            () = accept => {}
            _ = clients.join_all() => {}
        }
        let stats = until(&proxy, |stats| stats.live == 0 && stats.connections == 400).await;
        assert!(
            stats.cuts_reset + stats.broken + stats.finished + stats.upstream_failed == 400,
            "{stats:?}"
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_reset_is_a_reset_with_data_unread_everywhere() {
    let Link {
        proxy,
        mut client,
        mut server,
        ..
    } = Link::new(|_| {}).await;
    // Full pipes: the server has unread data, the proxy holds some and so does its socket.
    fill(&mut client, usize::MAX).await;
    proxy.cut_all(Cut::Reset);
    assert_eq!(read_all(&mut client).await.1, Ended::Reset);
    assert_eq!(read_all(&mut server).await.1, Ended::Reset);
    assert_eq!(proxy.stop().await.cuts_with_bytes_in_flight, 1);
}

#[tokio::test]
async fn a_cut_at_byte_n_lets_exactly_n_bytes_through() {
    within(async {
        let sent = pattern(400_000);
        for (cut, ended) in [(Cut::Reset, Ended::Reset), (Cut::Fin, Ended::Fin)] {
            for at in [0, 1, 1000, 65_536, 300_001] {
                for dir in [Dir::Up, Dir::Down] {
                    let link = Link::new(|config| config.plan = Plan::of(byte(dir, at), cut)).await;
                    let (mut source, mut sink) = match dir {
                        Dir::Up => (link.client, link.server),
                        Dir::Down => (link.server, link.client),
                    };
                    // Writing fails when the cut comes first.
                    let write = async {
                        let _ = source.write_all(&sent).await;
                        read_all(&mut source).await
                    };
                    let (at_source, at_sink) = tokio::join!(write, read_all(&mut sink));
                    assert!(
                        at_sink.0 == sent[..at as usize],
                        "{dir:?} {at}: {} bytes",
                        at_sink.0.len()
                    );
                    assert_eq!((&at_sink.1, &at_source.1), (&ended, &ended), "{dir:?} {at}");
                    let in_flight = proxy_in_flight(link.proxy).await;
                    assert_eq!(in_flight, u64::from(at > 0), "{dir:?} {at}");
                }
            }
        }
    })
    .await;
}

async fn proxy_in_flight(proxy: farpipe_faultproxy::Proxy) -> u64 {
    let stats = proxy.stop().await;
    assert_eq!(stats.cuts(), 1);
    stats.cuts_with_bytes_in_flight
}

#[tokio::test(start_paused = true)]
async fn a_fin_is_no_reset_although_data_was_unread() {
    let Link {
        proxy,
        mut client,
        mut server,
        ..
    } = Link::new(|_| {}).await;
    fill(&mut client, usize::MAX).await;
    proxy.cut_all(Cut::Fin);
    assert_eq!(read_all(&mut client).await, (Vec::new(), Ended::Fin));
    assert_eq!(read_all(&mut server).await.1, Ended::Fin);
    assert!(
        fill(&mut client, 20 << 20).await >= 20 << 20,
        "what comes after the FIN is thrown away"
    );
    drop((client, server));
    let stats = until(&proxy, |stats| stats.live == 0).await;
    assert_eq!(stats.cuts_fin, 1);
}

#[tokio::test(start_paused = true)]
async fn a_stall_reads_nothing_writes_nothing_and_closes_nothing() {
    let plan = Plan::of(byte(Dir::Up, 5), Cut::Stall);
    let Link {
        proxy,
        mut client,
        mut server,
        ..
    } = Link::new(|config| config.plan = plan).await;
    client.write_all(b"hello, world").await.unwrap();
    assert_eq!(read(&mut server, 5).await, b"hello");
    server.write_all(b"anyone?").await.unwrap();
    assert_silent(&mut server).await;
    assert_silent(&mut client).await;
    drop(client);
    assert_silent(&mut server).await;
    assert_eq!(proxy.stats().live, 1);
    drop(server);
    let stats = until(&proxy, |stats| stats.live == 0).await;
    assert_eq!(
        (stats.cuts_stall, stats.bytes_up, stats.bytes_down),
        (1, 5, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn a_stalled_connection_fills_up_and_is_reset_in_the_end() {
    let mut plan = Plan::of(byte(Dir::Up, 5), Cut::Stall);
    plan.hold = Duration::from_secs(100);
    let start = Instant::now();
    let Link {
        proxy,
        mut client,
        mut server,
        ..
    } = Link::new(|config| config.plan = plan).await;
    assert!(
        fill(&mut client, 64 << 20).await < 64 << 20,
        "the writer must block"
    );
    assert_eq!(read_all(&mut server).await.1, Ended::Reset);
    assert_eq!(read_all(&mut client).await.1, Ended::Reset);
    assert!((Duration::from_secs(100)..Duration::from_secs(102)).contains(&start.elapsed()));
    assert_eq!(proxy.stop().await.cuts_stall, 1);
}

#[tokio::test(start_paused = true)]
async fn a_black_hole_swallows_everything_and_tells_nobody() {
    let plan = Plan::of(byte(Dir::Down, 3), Cut::BlackHole);
    let Link {
        proxy,
        mut client,
        mut server,
        upstream,
    } = Link::new(|config| config.plan = plan).await;
    server.write_all(b"abcdef").await.unwrap();
    assert_eq!(read(&mut client, 3).await, b"abc");
    for stream in [&mut client, &mut server] {
        assert!(
            fill(stream, 64 << 20).await >= 64 << 20,
            "a black hole is never full"
        );
    }
    assert_silent(&mut client).await;
    drop(client);
    assert_silent(&mut server).await;
    let (_client, _server) = connect(&proxy, &upstream).await;
    assert_eq!(proxy.stats().live, 2, "new connections are accepted");
    drop(server);
    let stats = until(&proxy, |stats| stats.live == 1).await;
    assert_eq!(
        (stats.cuts_black_hole, stats.bytes_up, stats.bytes_down),
        (1, 0, 3)
    );
}

#[tokio::test]
async fn the_first_connections_are_refused_then_reset() {
    within(async {
        let plan = Plan {
            refuse_first: 2,
            reset_first: 1,
            ..Plan::default()
        };
        assert_eq!(plan.derive(0, 2).admit, Admit::Reset);
        let (proxy, upstream) = proxy(|config| config.plan = plan).await;
        for _ in 0..2 {
            let mut client = TcpStream::connect(proxy.addr()).await.unwrap();
            assert_eq!(read_all(&mut client).await, (Vec::new(), Ended::Reset));
        }
        // The first that the upstream hears of is the third.
        let (mut client, mut server) = connect(&proxy, &upstream).await;
        assert_eq!(read_all(&mut client).await.1, Ended::Reset);
        assert_eq!(read_all(&mut server).await.1, Ended::Reset);
        let (mut client, mut server) = connect(&proxy, &upstream).await;
        client.write_all(b"x").await.unwrap();
        assert_eq!(read(&mut server, 1).await, b"x");
        let stats = proxy.stats();
        assert_eq!(
            (stats.refused, stats.reset_first, stats.connections),
            (2, 1, 4)
        );
    })
    .await;
}

#[tokio::test]
async fn an_upstream_that_does_not_answer_resets_the_client() {
    within(async {
        let (proxy, upstream) = proxy(|_| {}).await;
        drop(upstream);
        let mut client = TcpStream::connect(proxy.addr()).await.unwrap();
        assert_eq!(read_all(&mut client).await.1, Ended::Reset);
        assert_eq!(proxy.stop().await.upstream_failed, 1);
    })
    .await;
}

#[tokio::test]
async fn a_peers_reset_is_passed_on_behind_its_data() {
    within(async {
        let Link {
            proxy,
            mut client,
            server,
            ..
        } = Link::new(|_| {}).await;
        // More than the client's window: the rest is still in the proxy's socket.
        let sent = pattern(250_000);
        let mut server = server;
        server.write_all(&sent).await.unwrap();
        until(&proxy, |stats| stats.bytes_down == 250_000).await;
        server.set_zero_linger().unwrap();
        drop(server);
        // Let the proxy hear of it before the client reads.
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert!(read_all(&mut client).await == (sent, Ended::Reset));
        assert_eq!(until(&proxy, |stats| stats.live == 0).await.broken, 1);
    })
    .await;
}

#[tokio::test]
async fn a_finished_connection_delivers_what_its_sockets_hold() {
    within(async {
        let Link {
            proxy,
            mut client,
            mut server,
            ..
        } = Link::new(|_| {}).await;
        server.shutdown().await.unwrap();
        let sent = pattern(250_000);
        client.write_all(&sent).await.unwrap();
        client.shutdown().await.unwrap();
        assert_eq!(until(&proxy, |stats| stats.live == 0).await.finished, 1);
        assert!(read_all(&mut server).await == (sent, Ended::Fin));
    })
    .await;
}

#[tokio::test]
async fn a_reset_after_a_half_close_is_no_finish() {
    within(async {
        let Link {
            proxy,
            mut client,
            mut server,
            ..
        } = Link::new(|_| {}).await;
        server.shutdown().await.unwrap();
        assert_eq!(read_all(&mut client).await, (Vec::new(), Ended::Fin));
        drop(server);
        while client.write_all(b"into the void").await.is_ok() {
            tokio::task::yield_now().await;
        }
        let stats = until(&proxy, |stats| stats.live == 0).await;
        assert_eq!((stats.broken, stats.finished), (1, 0));
    })
    .await;
}

/// Writing to a torn connection fails at once; what its peer sent before is still there to be read.
#[tokio::test(start_paused = true)]
async fn a_failed_write_does_not_lose_what_the_peer_sent_before_its_reset() {
    let Link {
        proxy,
        mut client,
        mut server,
        ..
    } = Link::new(|_| {}).await;
    client.write_all(b"unread").await.unwrap();
    until(&proxy, |stats| stats.bytes_up == 6).await;
    proxy.pause(true);
    tokio::task::yield_now().await;
    server.write_all(b"last words").await.unwrap();
    // With bytes unread this is a reset.
    drop(server);
    client.write_all(b"too late").await.unwrap();
    proxy.pause(false);
    let at_client = read_all(&mut client).await;
    assert_eq!(at_client, (b"last words".to_vec(), Ended::Reset));
    assert_eq!(until(&proxy, |stats| stats.live == 0).await.broken, 1);
}

#[tokio::test]
async fn a_plan_without_sense_does_not_start() {
    let mut config = farpipe_faultproxy::Config::new("127.0.0.1:1".parse().unwrap());
    config.plan.faults.push(farpipe_faultproxy::Fault {
        when: byte(Dir::Up, 1),
        how: Vec::<How>::new(),
    });
    let error = farpipe_faultproxy::Proxy::start(config).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
}

#[tokio::test]
async fn a_taken_port_is_an_error() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = farpipe_faultproxy::Config::new("127.0.0.1:1".parse().unwrap());
    config.listen = taken.local_addr().unwrap();
    let error = farpipe_faultproxy::Proxy::start(config).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
}

//! What a test can switch while the proxy runs.

use std::io::ErrorKind;
use std::time::Duration;

use farpipe_faultproxy::{Cut, Plan};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use crate::peer::{
    Ended, Link, assert_silent, connect, fill, proxy, read, read_all, until, within,
};

#[tokio::test]
async fn cut_all_hits_every_connection_and_no_later_one() {
    within(async {
        let (proxy, upstream) = proxy(|_| {}).await;
        let mut ends = Vec::new();
        for _ in 0..5 {
            ends.push(connect(&proxy, &upstream).await);
        }
        proxy.cut_all(Cut::Reset);
        for (client, server) in &mut ends {
            assert_eq!(read_all(client).await.1, Ended::Reset);
            assert_eq!(read_all(server).await.1, Ended::Reset);
        }
        let (mut client, mut server) = connect(&proxy, &upstream).await;
        client.write_all(b"new").await.unwrap();
        assert_eq!(read(&mut server, 3).await, b"new");
        assert_eq!(proxy.stats().cuts_reset, 5);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn cut_all_ends_a_stall() {
    let Link {
        proxy,
        mut client,
        mut server,
        ..
    } = Link::new(|_| {}).await;
    let start = Instant::now();
    proxy.cut_all(Cut::Stall);
    assert_silent(&mut client).await;
    proxy.cut_all(Cut::Reset);
    assert_eq!(read_all(&mut client).await.1, Ended::Reset);
    assert_eq!(read_all(&mut server).await.1, Ended::Reset);
    let hold = proxy.config().plan.hold;
    assert!(start.elapsed() < hold, "it ended by itself");
}

#[tokio::test(start_paused = true)]
async fn a_black_hole_takes_old_and_new_connections_until_it_is_off() {
    let Link {
        proxy,
        upstream,
        mut client,
        mut server,
    } = Link::new(|_| {}).await;
    proxy.black_hole(true);
    client.write_all(b"lost").await.unwrap();
    assert_silent(&mut server).await;
    let mut newcomer = TcpStream::connect(proxy.addr()).await.unwrap();
    assert!(fill(&mut newcomer, 20 << 20).await >= 20 << 20);
    assert_silent(&mut newcomer).await;

    proxy.black_hole(false);
    client.write_all(b"still lost").await.unwrap();
    assert_silent(&mut server).await;
    assert_silent(&mut newcomer).await;
    let (mut client, mut server) = connect(&proxy, &upstream).await;
    client.write_all(b"found").await.unwrap();
    assert_eq!(read(&mut server, 5).await, b"found");
    proxy.refuse(true).await.unwrap();
    assert_eq!(proxy.stop().await.connections, 3);
}

#[tokio::test(start_paused = true)]
async fn a_pause_loses_nothing() {
    let Link {
        proxy,
        mut client,
        mut server,
        ..
    } = Link::new(|_| {}).await;
    proxy.pause(true);
    tokio::task::yield_now().await;
    let written = fill(&mut client, usize::MAX).await;
    assert_silent(&mut server).await;
    proxy.pause(false);
    client.shutdown().await.unwrap();
    let (bytes, ended) = read_all(&mut server).await;
    assert_eq!((bytes.len(), ended), (written, Ended::Fin));
}

#[tokio::test(start_paused = true)]
async fn a_connection_made_during_a_pause_moves_nothing_until_its_end() {
    let (proxy, upstream) = proxy(|_| {}).await;
    proxy.pause(true);
    let (mut client, mut server) = connect(&proxy, &upstream).await;
    client.write_all(b"later").await.unwrap();
    assert_silent(&mut server).await;
    proxy.pause(false);
    assert_eq!(read(&mut server, 5).await, b"later");
}

#[tokio::test]
async fn while_refusing_connects_are_refused_and_the_port_stays_ours() {
    within(async {
        let Link {
            proxy,
            upstream,
            mut client,
            mut server,
        } = Link::new(|_| {}).await;
        for _ in 0..3 {
            proxy.refuse(true).await.unwrap();
            let error = TcpStream::connect(proxy.addr()).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
            let taken = TcpListener::bind(proxy.addr()).await.map(|_| ());
            assert_eq!(taken.unwrap_err().kind(), ErrorKind::AddrInUse);
            client.write_all(b"open connections go on").await.unwrap();
            assert_eq!(read(&mut server, 22).await, b"open connections go on");
            proxy.refuse(false).await.unwrap();
            connect(&proxy, &upstream).await;
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn refuse_for_ends_at_its_time() {
    let plan = Plan {
        refuse_for: Duration::from_secs(3),
        ..Plan::default()
    };
    let start = Instant::now();
    let (proxy, upstream) = proxy(|config| config.plan = plan).await;
    let error = TcpStream::connect(proxy.addr()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    while TcpStream::connect(proxy.addr()).await.is_err() {
        tokio::time::sleep(Duration::from_millis(100)).await; // sleep: the paused clock jumps
    }
    assert!((Duration::from_secs(3)..=Duration::from_millis(3300)).contains(&start.elapsed()));
    upstream.accept().await.unwrap();
}

#[tokio::test]
async fn new_connections_go_to_the_new_upstream() {
    within(async {
        let Link {
            proxy,
            upstream: _old,
            mut client,
            mut server,
        } = Link::new(|_| {}).await;
        let new = TcpListener::bind("127.0.0.1:0").await.unwrap();
        proxy.set_upstream(new.local_addr().unwrap());
        connect(&proxy, &new).await;
        client.write_all(b"old").await.unwrap();
        assert_eq!(read(&mut server, 3).await, b"old");
    })
    .await;
}

#[tokio::test]
async fn stop_resets_all_and_frees_the_port() {
    within(async {
        let Link {
            proxy,
            mut client,
            mut server,
            ..
        } = Link::new(|_| {}).await;
        let addr = proxy.addr();
        until(&proxy, |stats| stats.live == 1).await;
        assert_eq!(proxy.stop().await.live, 0);
        assert_eq!(read_all(&mut client).await.1, Ended::Reset);
        assert_eq!(read_all(&mut server).await.1, Ended::Reset);
        drop((client, server));
        TcpListener::bind(addr).await.unwrap();
    })
    .await;
}

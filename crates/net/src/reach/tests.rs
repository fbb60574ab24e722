//! Row N20: names with several addresses, some of which are dead.

use std::net::Ipv4Addr;

use tokio::net::TcpListener;

use super::*;

/// Addresses that nothing is sent to: the attempts are played.
fn addresses(count: u8) -> Vec<SocketAddr> {
    let address = |last| SocketAddr::from((Ipv4Addr::new(192, 0, 2, last), 7000));
    (1..=count).map(address).collect()
}

/// An address at which nobody listens, as long as the guard lives.
fn nobody() -> (SocketAddr, impl Sized) {
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    socket.bind(any).expect("a free port");
    (socket.local_addr().expect("its address"), socket)
}

#[tokio::test]
async fn n20_an_address_that_refuses_gives_way_to_the_next() {
    let (dead, _guard) = nobody();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let alive = listener.local_addr().expect("its address");
    let stream = happy_eyeballs(&[dead, alive]).await.expect("the second");
    assert_eq!(stream.peer_addr().expect("connected"), alive);
}

#[tokio::test(start_paused = true)]
async fn n20_an_address_that_swallows_everything_does_not_hold_up_the_next() {
    let all = addresses(3);
    let began = tokio::time::Instant::now();
    let had = first(
        &all,
        ATTEMPT_DELAY,
        DIAL_MAX,
        |address: SocketAddr| async move {
            if address.ip() != Ipv4Addr::new(192, 0, 2, 3) {
                std::future::pending::<()>().await;
            }
            Ok::<_, io::Error>(address)
        },
    );
    assert_eq!(had.await.expect("the third"), all[2]);
    assert_eq!(began.elapsed(), 2 * ATTEMPT_DELAY);
}

#[tokio::test(start_paused = true)]
async fn n20_a_failure_names_every_address_and_what_became_of_it() {
    let all = addresses(3);
    let began = tokio::time::Instant::now();
    let failed = first(
        &all,
        ATTEMPT_DELAY,
        DIAL_MAX,
        |address: SocketAddr| async move {
            match address.ip() {
                ip if ip == Ipv4Addr::new(192, 0, 2, 1) => std::future::pending().await,
                ip if ip == Ipv4Addr::new(192, 0, 2, 2) => {
                    Err::<(), _>(io::Error::from(io::ErrorKind::NetworkUnreachable))
                }
                _ => Err(io::Error::from(io::ErrorKind::ConnectionRefused)),
            }
        },
    );
    let unreached = Unreached(failed.await.expect_err("all are dead"));
    assert_eq!(began.elapsed(), DIAL_MAX);
    assert_eq!(
        unreached.to_string(),
        "192.0.2.1: no answer within 10 s; 192.0.2.2: network unreachable; \
         192.0.2.3: connection refused"
    );
    assert_eq!(
        unreached.tried("name.example"),
        " (tried 192.0.2.1, 192.0.2.2, 192.0.2.3)"
    );
    assert!(unreached.is_silent() && !unreached.is_refused());
}

#[tokio::test]
async fn n20_one_address_that_was_typed_is_not_named_twice() {
    let (dead, _guard) = nobody();
    let unreached = happy_eyeballs(&[dead]).await.expect_err("nobody listens");
    assert!(unreached.is_refused());
    assert_eq!(unreached.tried("127.0.0.1"), "");
    assert_eq!(unreached.tried("localhost"), " (tried 127.0.0.1)");
}

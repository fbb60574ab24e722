//! Proxies that are asked for one address after the other.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::*;

/// A SOCKS 5 proxy that knows the way to the address that ends in `good` only, and says of the others
/// `reply`. Tells what it was asked for.
async fn socks(good: u8, reply: u8) -> (Asking, JoinSet<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let at = listener.local_addr().expect("its address");
    let mut proxy = JoinSet::new();
    proxy.spawn(async move {
        let mut asked = Vec::new();
        loop {
            let (mut client, _) = listener.accept().await.expect("a connection");
            let mut request = [0; 3 + 10];
            client.read_exact(&mut request[..3]).await.expect("a hello");
            client.write_all(&[5, 0]).await.expect("room");
            client
                .read_exact(&mut request[3..])
                .await
                .expect("an address");
            let last = request[3 + 7];
            asked.push(last);
            let reply = if last == good { 0 } else { reply };
            let answer = [5, reply, 0, 1, 0, 0, 0, 0, 0, 0];
            client.write_all(&answer).await.expect("room");
            if last == good || asked.len() == 3 {
                return asked;
            }
        }
    });
    let asking = Asking {
        proxy: format!("socks5://{at}").parse().expect("a URL"),
        addresses: vec![at],
        watch: None,
    };
    (asking, proxy)
}

/// Row N20, where names are resolved here and reached through a proxy.
#[tokio::test]
async fn n20_a_proxy_is_asked_for_every_address_of_the_listener() {
    let targets = [1, 2, 3].map(|last| SocketAddr::from(([192, 0, 2, last], 7000)));
    let (asking, mut proxy) = socks(2, 4).await;
    let (_stream, granted) = asking.ask_for_each(&targets).await.expect("the second");
    assert_eq!(granted.to.to_string(), "192.0.2.2:7000");
    assert_eq!(
        proxy.join_next().await.expect("a proxy").expect("it ran"),
        [1, 2]
    );

    let (asking, _proxy) = socks(9, 4).await;
    let error = asking.ask_for_each(&targets).await.expect_err("none");
    assert_eq!(
        error.to_string(),
        "answers: host unreachable (asked for 192.0.2.1, 192.0.2.2, 192.0.2.3)"
    );
    assert_eq!(error.blame(), Blame::Refused);
    // Its rules are the same for all.
    let (asking, _proxy) = socks(9, 2).await;
    let error = asking.ask_for_each(&targets).await.expect_err("none");
    assert!(matches!(error, ProxyError::Reply(2)), "{error}");
}

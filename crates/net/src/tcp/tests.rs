//! Connections that take their time with each step below the link's handshake.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::*;
use crate::acceptor::{AcceptorConfig, Sessions};
use crate::link::{Greeting, system_random};
use crate::tls::tests::pki::Pki;

const SECOND: Duration = Duration::from_secs(1);

const UPGRADE: &[u8] = b"GET / HTTP/1.1\r\n\
    Host: localhost\r\n\
    Upgrade: websocket\r\n\
    Connection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Protocol: farpipe.1\r\n\r\n";

fn acceptor() -> (Acceptor, Sessions) {
    Acceptor::new(AcceptorConfig::new(Greeting {
        software: "test".to_owned(),
        prover: None,
        keys: None,
        random: system_random,
    }))
}

/// How a `wss` connection ends that `peer` makes, when, and whether the peer was known by then.
async fn served<F: Future<Output = ()>>(
    pki: &Pki,
    peer: impl FnOnce(DuplexStream) -> F,
) -> (HandshakeError, Duration, bool) {
    let entry = Entry {
        refusals: Refusals::default(),
        scheme: Scheme::Wss,
        tls: Some(pki.server()),
        admission: Admission::ClientCertificate,
    };
    let (acceptor, _sessions) = acceptor();
    let (near, far) = tokio::io::duplex(1 << 16);
    let (began, known) = (Instant::now(), Known::default());
    let peer = async {
        peer(near).await;
        std::future::pending().await
    };
    let ended = tokio::select! {
        ended = entry.serve(far, "peer", &known, &acceptor) => ended,
        () = peer => unreachable!("it waits for ever"),
    };
    let error = ended.expect_err("no session");
    (error, began.elapsed(), known.get())
}

#[tokio::test(start_paused = true)]
async fn tls_upgrade_and_handshake_have_one_deadline() {
    let pki = Pki::new();
    // Each step within its time, and something every 8 s.
    let (error, after, known) = served(&pki, async |near| {
        sleep(8 * SECOND).await; // sleep: virtual time, and the pause is what is tested
        let client = pki.client();
        let (mut stream, _) = client.connect(near, "localhost").await.expect("TLS");
        for half in UPGRADE.chunks(UPGRADE.len().div_ceil(2)) {
            sleep(8 * SECOND).await; // sleep: as above
            stream.write_all(half).await.expect("it is read");
            stream.flush().await.expect("it is read");
        }
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.expect("an answer");
        assert_eq!(&answer, b"HTTP/1.1 101");
        std::future::pending::<()>().await;
    })
    .await;
    assert!(matches!(error, HandshakeError::Endless), "{error}");
    assert_eq!(after.as_secs(), 30);
    assert!(known, "it showed its certificate");
}

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

#[tokio::test(start_paused = true)]
async fn tls_that_stands_still_is_given_up_after_one_step() {
    let (error, after, known) = served(&Pki::new(), async |mut near| {
        // The beginning of a record, and a byte more of it now and then.
        near.write_all(&[22, 3, 1, 2, 0]).await.expect("room");
        loop {
            sleep(SECOND).await; // sleep: virtual time, and the pause is what is tested
            if near.write_all(&[1]).await.is_err() {
                break;
            }
        }
    })
    .await;
    assert!(matches!(error, HandshakeError::TimedOut), "{error}");
    assert_eq!(after, HANDSHAKE_STEP);
    assert!(!known);
}

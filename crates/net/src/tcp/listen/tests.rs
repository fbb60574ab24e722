//! Connections that take their time with each step below the link's handshake.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::time::{Instant, sleep};

use super::*;
use crate::acceptor::{Acceptor, AcceptorConfig, Sessions};
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
        tokens: None,
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
        penalties: Penalties::default(),
        scheme: Scheme::Wss,
        tls: Some(pki.server()),
        admission: Admission::ClientCertificate,
        before: None,
    };
    let (acceptor, _sessions) = acceptor();
    let (near, far) = tokio::io::duplex(1 << 16);
    let named = Peer::from("peer".to_owned());
    let (began, known) = (Instant::now(), Known::default());
    let peer = async {
        peer(near).await;
        std::future::pending().await
    };
    let ended = tokio::select! {
        ended = entry.serve(far, &named, &known, &acceptor) => ended,
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

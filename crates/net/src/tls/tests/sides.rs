//! Who is let in, what is said to who is not, what is remembered, and what a changed file changes.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::pki::{ALPN, Pki};
use crate::clock::WallClock;
use crate::tls::{
    ClientTlsOptions, Handshaken, Pin, ServerTlsOptions, TlsClient, TlsError, TlsServer, TlsStream,
};

type End = io::Result<(TlsStream<DuplexStream>, Handshaken)>;

async fn shake(client: &TlsClient, server: &TlsServer) -> (End, End) {
    let (near, far) = tokio::io::duplex(1 << 16);
    // The server's verdict comes when the client is done: with it, or with the first byte.
    let near = async {
        let (mut stream, told) = client.connect(near, "localhost").await?;
        stream.read_u8().await?;
        Ok((stream, told))
    };
    let far = async {
        let (mut stream, told) = server.accept(far).await?;
        stream.write_u8(0).await?;
        Ok((stream, told))
    };
    tokio::join!(near, far)
}

fn words(end: End) -> String {
    let error = end.map(drop).expect_err("refused");
    assert!(TlsError::is_final_in(&error), "{error}");
    error.to_string()
}

#[tokio::test]
async fn each_side_knows_the_other_by_its_certificate() {
    let pki = Pki::new();
    let (near, far) = shake(&pki.client(), &pki.server()).await;
    let peer = near.expect("connected").1.peer.expect("a certificate");
    assert_eq!(peer.to_string(), "farpipe://test/client/server");
    let peer = far.expect("accepted").1.peer.expect("a certificate");
    let identity = peer.identity.expect("a URI");
    assert_eq!((identity.domain(), identity.name()), ("test", "client"));
}

#[tokio::test]
async fn a_refused_client_hears_why_at_its_first_read() {
    let (pki, other) = (Pki::new(), Pki::new());
    let options = ClientTlsOptions {
        identity: Some(other.files("client")),
        ..pki.client_options()
    };
    let client = TlsClient::new(options, ALPN).expect("good files");
    let (near, far) = shake(&client, &pki.server()).await;
    assert_eq!(
        words(far),
        "the client was refused: unknown certificate authority (it names \
         farpipe://test/client/client)"
    );
    assert_eq!(
        words(near),
        "the server refused this certificate: unknown certificate authority"
    );
    let options = ClientTlsOptions {
        identity: None,
        ..pki.client_options()
    };
    let client = TlsClient::new(options, ALPN).expect("good files");
    let (near, far) = shake(&client, &pki.server()).await;
    assert_eq!(words(far), "the client was refused: it has no certificate");
    assert_eq!(
        words(near),
        "the server wants a client certificate: give --cert and --key"
    );
}

#[tokio::test]
async fn a_refused_server_hears_why() {
    let (pki, other) = (Pki::new(), Pki::new());
    let (near, far) = shake(&other.client(), &pki.server()).await;
    assert_eq!(
        words(near),
        "the server was refused: unknown certificate authority; --ca names one (for ws:wss:// the variable \
         SSL_CERT_FILE does), and a listener that printed a ticket is known by that"
    );
    assert_eq!(
        words(far),
        "the client refused this certificate: unknown certificate authority"
    );
}

#[tokio::test]
async fn a_pin_is_exactly_one_key() {
    let pki = Pki::new();
    let text = fs::read(pki.path("server.pem")).expect("a file");
    let der = <rustls::pki_types::CertificateDer<'_> as rustls::pki_types::pem::PemObject>::from_pem_slice(&text).expect("PEM");
    let pin = Pin::of(&der).expect("a certificate");
    let pinned = |pins| {
        let options = ClientTlsOptions {
            ca: None,
            pins,
            ..pki.client_options()
        };
        TlsClient::new(options, ALPN).expect("good files")
    };
    let client = pinned(vec![pin]);
    let (near, far) = tokio::io::duplex(1 << 16);
    let server = pki.server();
    let (near, _far) = tokio::join!(client.connect(near, "any.other.name"), server.accept(far));
    near.expect("the key is the pinned one");
    let other = format!("sha256:{}", "00".repeat(32))
        .parse()
        .expect("a pin");
    let (near, _) = shake(&pinned(vec![other]), &pki.server()).await;
    let expected = format!(
        "the server was refused: another server answers there, or it was started anew: its key is not \
         the one of the ticket or pin (it is {pin})"
    );
    assert_eq!(words(near), expected);
}

#[tokio::test]
async fn a_reconnect_takes_up_the_session_again() {
    let pki = Pki::new();
    let (client, server) = (pki.client(), pki.server());
    for resumed in [false, true, true, true] {
        let (near, far) = shake(&client, &server).await;
        let (near, far) = (near.expect("connected").1, far.expect("accepted").1);
        assert_eq!((near.resumed, far.resumed), (resumed, resumed));
        // It is as well known as before.
        assert_eq!(
            far.peer.expect("a certificate").to_string(),
            "farpipe://test/client/client"
        );
    }
    let (near, _far) = shake(&pki.client(), &server).await;
    assert!(
        !near.expect("connected").1.resumed,
        "another dialler remembers nothing"
    );
}

/// A side whose clock is moved by what the second value holds, in seconds.
fn moved() -> (WallClock, Arc<AtomicI64>) {
    let by = Arc::new(AtomicI64::new(0));
    (WallClock::Moved(Arc::clone(&by)), by)
}

const HOUR: i64 = 3_600;
const DAY: i64 = 24 * HOUR;

/// Row N21: the time of day jumps under a connection, which has dates of its own only when it is made.
#[tokio::test]
async fn n21_a_connection_that_is_up_does_not_notice_a_jump_of_the_clock() {
    let pki = Pki::new();
    let ((near_clock, near_by), (far_clock, far_by)) = (moved(), moved());
    let (client, server) = (pki.client_by(near_clock), pki.server_by(far_clock));
    let (near, far) = shake(&client, &server).await;
    let (mut near, mut far) = (near.expect("connected").0, far.expect("accepted").0);
    for jump in [HOUR, -HOUR, 3653 * DAY, -3653 * DAY] {
        near_by.store(jump, Ordering::Relaxed);
        far_by.store(-jump, Ordering::Relaxed);
        near.write_all(b"question").await.expect("written");
        near.flush().await.expect("flushed");
        let mut heard = [0; 8];
        far.read_exact(&mut heard).await.expect("heard");
        far.write_all(&heard).await.expect("written");
        far.flush().await.expect("flushed");
        near.read_exact(&mut heard).await.expect("heard");
        assert_eq!(&heard, b"question", "{jump}");
    }
}

/// Row N21: a jump within the dates of the certificates costs a full handshake at most.
#[tokio::test]
async fn n21_a_clock_that_is_an_hour_off_lets_in_whom_the_dates_still_let_in() {
    let pki = Pki::new();
    for jump in [HOUR, -HOUR] {
        let ((near_clock, near_by), (far_clock, far_by)) = (moved(), moved());
        let (client, server) = (pki.client_by(near_clock), pki.server_by(far_clock));
        for (near_jump, far_jump) in [(0, 0), (jump, 0), (0, jump), (jump, -jump), (0, 0)] {
            near_by.store(near_jump, Ordering::Relaxed);
            far_by.store(far_jump, Ordering::Relaxed);
            let (near, far) = shake(&client, &server).await;
            near.expect("connected");
            far.expect("accepted");
        }
    }
}

/// Row N21: what is remembered does not outlive the dates, forwards or backwards; and nothing stays
/// broken when the clock is right again.
#[tokio::test]
async fn n21_a_remembered_session_goes_by_the_certificates_dates() {
    let pki = Pki::new();
    for (jump, expected) in [
        (30 * DAY, "certificate expired"),
        (3653 * DAY, "certificate expired"),
        (-30 * DAY, "certificate is not yet valid"),
    ] {
        let (clock, by) = moved();
        let (client, server) = (pki.client(), pki.server_by(clock));
        for resumed in [false, true] {
            let (near, far) = shake(&client, &server).await;
            near.expect("connected");
            assert_eq!(far.expect("accepted").1.resumed, resumed);
        }
        by.store(jump, Ordering::Relaxed);
        for _ in 0..2 {
            let told = words(shake(&client, &server).await.1);
            assert!(told.contains(expected), "{jump}: {told}");
        }
        by.store(0, Ordering::Relaxed);
        let (near, far) = shake(&client, &server).await;
        near.expect("connected");
        far.expect("accepted");
    }
}

/// A resumed handshake shows no certificate, so nothing of the old configuration may be remembered.
#[tokio::test]
async fn a1_a_revoked_client_does_not_come_back_by_a_remembered_session() {
    let pki = Pki::new();
    pki.revoke(&[]);
    let crl = Some(pki.path("crl.pem"));
    let options = ServerTlsOptions {
        crl: crl.clone(),
        ..pki.server_options()
    };
    let server = TlsServer::new(options, ALPN).expect("good files");
    let client = pki.client();
    for resumed in [false, true] {
        let (near, far) = shake(&client, &server).await;
        near.expect("connected");
        assert_eq!(far.expect("accepted").1.resumed, resumed);
    }
    pki.revoke(&["client"]);
    let (near, far) = shake(&client, &server).await;
    assert_eq!(
        words(far),
        "the client was refused: certificate revoked (it names farpipe://test/client/client)"
    );
    assert_eq!(
        words(near),
        "the server refused this certificate: certificate revoked"
    );
    // The other way round.
    let options = ClientTlsOptions {
        crl,
        ..pki.client_options()
    };
    let client = TlsClient::new(options, ALPN).expect("good files");
    let server = pki.server();
    for resumed in [false, true] {
        let (near, _far) = shake(&client, &server).await;
        assert_eq!(near.expect("connected").1.resumed, resumed);
    }
    pki.revoke(&["server"]);
    let (near, far) = shake(&client, &server).await;
    assert_eq!(words(near), "the server was refused: certificate revoked");
    assert_eq!(
        words(far),
        "the client refused this certificate: certificate revoked"
    );
}

/// Row N21, too: the list has a date, which a remembered session must not go around either.
#[tokio::test]
async fn a1_without_a_list_in_date_nobody_is_believed_not_even_from_before() {
    let pki = Pki::new();
    pki.revoke(&[]);
    let (clock, by) = moved();
    let options = ServerTlsOptions {
        crl: Some(pki.path("crl.pem")),
        clock,
        ..pki.server_options()
    };
    let server = TlsServer::new(options, ALPN).expect("good files");
    let client = pki.client();
    let (near, far) = shake(&client, &server).await;
    near.expect("connected");
    far.expect("accepted");
    // The list is good for two days, the certificates are for ten.
    by.store(3 * DAY, Ordering::Relaxed);
    for attempt in 0..2 {
        let (near, far) = shake(&client, &server).await;
        let told = words(far);
        assert!(
            told.contains("is not known: the revocation list of --crl expired 24 h ago"),
            "{told}"
        );
        // A resumed handshake is over before that is known; the next one is a full one.
        let told = near.map(drop).expect_err("refused").to_string();
        let expected = ["closing alert", "certificate not acceptable"][attempt];
        assert!(told.contains(expected), "{told}");
    }
}

#[tokio::test]
async fn a1_an_authority_without_a_list_is_not_believed_where_lists_are_wanted() {
    let (pki, other) = (Pki::new(), Pki::new());
    other.revoke(&[]);
    let options = ServerTlsOptions {
        crl: Some(other.path("crl.pem")),
        ..pki.server_options()
    };
    let server = TlsServer::new(options, ALPN).expect("good files");
    let (near, far) = shake(&pki.client(), &server).await;
    let told = words(far);
    assert!(
        told.contains("--crl has no list of the authority that issued it"),
        "{told}"
    );
    assert_eq!(
        words(near),
        "the server refused this certificate: certificate not acceptable"
    );
}

#[tokio::test]
async fn changed_files_are_read_again_and_nothing_old_is_remembered() {
    let pki = Pki::new();
    let (client, server) = (pki.client(), pki.server());
    let (near, _far) = shake(&client, &server).await;
    near.expect("connected");
    pki.issue();
    let (near, far) = shake(&client, &server).await;
    assert!(!near.expect("both sides have the new ones").1.resumed);
    assert!(!far.expect("accepted").1.resumed);
    let old = Pki::new();
    fs::copy(old.path("ca.pem"), pki.path("ca.pem")).expect("copied");
    let (near, _far) = shake(&client, &server).await;
    assert!(words(near).contains("unknown certificate authority"));
}

#[tokio::test]
async fn broken_files_leave_the_last_good_ones_in_use() {
    let pki = Pki::new();
    let (client, server) = (pki.client(), pki.server());
    for name in ["server.pem", "client-key.pem", "ca.pem"] {
        fs::write(pki.path(name), "half of a fi").expect("written");
        let (near, far) = shake(&client, &server).await;
        near.expect("connected");
        far.expect("accepted");
    }
}

#[test]
fn files_that_cannot_be_used_are_explained() {
    let pki = Pki::new();
    let told = |change: &dyn Fn(&mut ClientTlsOptions)| {
        let mut options = pki.client_options();
        change(&mut options);
        let error = TlsClient::new(options, ALPN).expect_err("not to be used");
        let dir = pki.path("");
        let hint = error.hint().unwrap_or_default();
        format!("{error}; {hint}").replace(&*dir.to_string_lossy(), "")
    };
    assert_eq!(
        told(&|options| options.ca = Some(pki.path("server.pem"))),
        "server.pem: a leaf cannot issue: this is no authority's certificate; give the certificate \
         of the authority that issued it"
    );
    assert_eq!(
        told(&|options| options.ca = Some(pki.path("none.pem"))),
        "none.pem: no such file; name the file of the authority that issued the other side's \
         certificate; `farpipe cert init` makes one: ca.pem"
    );
    let mixed = crate::tls::KeyFiles {
        cert: pki.path("client.pem"),
        key: pki.path("server-key.pem"),
    };
    assert!(told(&|options| options.identity = Some(mixed.clone())).contains("is not the key of"),);
    let key = pki.path("client-key.pem");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).expect("ours");
    assert_eq!(
        told(&|_| {}),
        format!(
            "client-key.pem: this key is open to others (mode 0644); chmod 600 {}",
            "client-key.pem"
        )
    );
}

//! Who is let in, what is said to who is not, what is remembered, and what a changed file changes.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::pki::{ALPN, Pki};
use crate::tls::{ClientTlsOptions, Handshaken, Pin, TlsClient, TlsError, TlsServer, TlsStream};

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
        "the client was refused: unknown certificate authority"
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
        "the server was refused: unknown certificate authority; --ca names one, and a listener \
         that printed a ticket is known by that"
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
        "none.pem: no such file; "
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

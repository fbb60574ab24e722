//! What an opener makes of answers that are not its acceptor's: before it was ever attached, and
//! when it comes back.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use farpipe_net::{Blame, Clock, Dial, DialError, Dialled, LoopbackSecret, Opener, SessionEnd};
use farpipe_proto::wire::control::{RefuseCode, Refused, Welcome};
use farpipe_proto::wire::hop::HopFrame;
use farpipe_proto::wire::id::TunnelId;
use farpipe_sim::net::app::{self, Ended};
use farpipe_sim::net::cable::{Cut, Fault, Quality, Way};
use farpipe_sim::net::network::{Fortune, Kind, Network, carry};
use farpipe_sim::net::process::Process;
use farpipe_sim::net::{Lane, Scenario};
use tokio::io::{AsyncWriteExt as _, DuplexStream, duplex};
use tokio::time::Instant;

/// What one attempt to dial comes to.
#[derive(Debug, Clone)]
enum Found {
    /// The acceptor.
    Peer,
    /// Someone who says this and then nothing.
    Stranger(Vec<u8>),
    /// No carrier at all.
    Nothing(Blame),
}

/// Dials a network, unless it finds something else.
#[derive(Debug)]
struct Detour {
    network: Network,
    kind: Kind,
    found: Mutex<VecDeque<Found>>,
    /// Far ends of strangers, who do not hang up.
    strangers: Mutex<Vec<DuplexStream>>,
}

impl Dial for Detour {
    fn dial(&self) -> Dialled<'_> {
        let found = self.found.lock().expect("no panic").pop_front();
        Box::pin(async move {
            match found.unwrap_or(Found::Peer) {
                Found::Peer => self.network.dial().await,
                Found::Stranger(words) => {
                    let (near, mut far) = duplex(64 * 1024);
                    far.write_all(&words).await.expect("room for a few words");
                    self.strangers.lock().expect("no panic").push(far);
                    carry(near, self.kind).await
                }
                Found::Nothing(blame) => Err(DialError {
                    blame,
                    message: "it must not be".to_owned(),
                    advice: None,
                }),
            }
        })
    }

    fn peer(&self) -> String {
        "sim".to_owned()
    }
}

/// Plays a session whose first link is cut in the middle. The dials find what `found` says.
async fn play(kind: Kind, secret: Option<Arc<LoopbackSecret>>, found: Vec<Found>) -> Ended {
    let scenario = Scenario {
        kind,
        resume_for: Duration::from_secs(600),
        lanes: vec![Lane::plain(500_000, 500_000)],
        ..Scenario::default()
    };
    let cut = Cut {
        way: Way::Up,
        at: 200_000,
        fault: Fault::Reset,
    };
    let fortune = Fortune {
        cuts: vec![cut],
        ..Fortune::good()
    };
    let network = Network::new(kind, Quality::default(), vec![fortune]);
    let clock = Clock::Tokio(Instant::now());
    let acceptor = scenario.acceptor(clock, secret.clone());
    let process = Process::start(&network, acceptor, scenario.lanes.clone(), 0);
    let dial = Detour {
        network,
        kind,
        found: Mutex::new(found.into()),
        strangers: Mutex::default(),
    };
    let opener = Opener::new(scenario.opener(clock, secret));
    let ended = app::opened(opener, &dial, &scenario.lanes, 0).await;
    process.kill().await;
    ended
}

fn http(status: &str, more: &str) -> Found {
    Found::Stranger(format!("HTTP/1.1 {status}\r\n{more}Content-Length: 0\r\n\r\n").into())
}

/// A message on `fp`.
fn said(message: &[u8]) -> Found {
    let len = u32::try_from(message.len()).expect("a short message");
    Found::Stranger([b"farpipe\x01", &len.to_be_bytes()[..], message].concat())
}

fn refused(code: RefuseCode, is_final: bool) -> Found {
    let refused = Refused {
        code: code as u32,
        is_final,
        message: "go away".to_owned(),
    };
    said(&HopFrame::Refused(TunnelId::LINK, refused).encode())
}

/// Answers that no acceptor of the session gives.
fn strangers() -> Vec<(Kind, Found)> {
    let taken = "Upgrade: websocket\r\nConnection: Upgrade\r\n";
    vec![
        (Kind::Ws, http("404 Not Found", "")),
        (Kind::Ws, http("301 Moved Permanently", "Location: /\r\n")),
        (Kind::Ws, http("429 Too Many Requests", "")),
        (Kind::Ws, http("101 Switching Protocols", taken)),
        (Kind::Ws, Found::Stranger(b"SSH-2.0-x\r\n".to_vec())),
        (
            Kind::Fp,
            Found::Stranger(b"HTTP/1.1 400 Bad\r\n\r\n".to_vec()),
        ),
        (Kind::Fp, said(&[0x7e, 0, 0, 0, 0])),
        (Kind::Fp, said(&HopFrame::Pong(1).encode())),
        (Kind::Fp, refused(RefuseCode::Limit, false)),
    ]
}

#[tokio::test(start_paused = true)]
async fn n18_a_stranger_ends_an_opener_that_was_never_attached() {
    for (kind, stranger) in strangers() {
        let ended = play(kind, None, vec![stranger.clone()]).await;
        assert!(
            matches!(
                ended.result,
                Err(SessionEnd::Refused(_) | SessionEnd::Protocol(_))
            ),
            "{stranger:?}: {:?}",
            ended.result
        );
    }
}

#[tokio::test(start_paused = true)]
async fn n18_a_stranger_is_waited_out_by_an_opener_that_was_attached() {
    for (kind, stranger) in strangers() {
        let found = vec![Found::Peer, stranger.clone(), stranger.clone()];
        let began = Instant::now();
        let ended = play(kind, None, found).await;
        assert!(ended.result.is_ok(), "{stranger:?}: {:?}", ended.result);
        // Two failures in a row were backed off from, and no more.
        let took = began.elapsed();
        assert!(
            (Duration::from_secs(2)..Duration::from_secs(5)).contains(&took),
            "{stranger:?}: {took:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn what_no_retry_mends_ends_an_opener_that_was_attached() {
    let secret: Arc<LoopbackSecret> = Arc::new(LoopbackSecret::new([1; 32]));
    let unproven = Welcome {
        version: 1,
        nonce: vec![2; 32],
        ..Welcome::default()
    };
    for (secret, last) in [
        (None, Found::Nothing(Blame::Final)),
        (None, refused(RefuseCode::Version, true)),
        (Some(secret), said(&HopFrame::Welcome(unproven).encode())),
    ] {
        let found = vec![Found::Peer, last.clone()];
        let ended = play(Kind::Fp, secret, found).await;
        assert!(
            matches!(ended.result, Err(SessionEnd::Refused(_))),
            "{last:?}: {:?}",
            ended.result
        );
    }
}

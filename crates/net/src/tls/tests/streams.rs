//! How bytes move: pieces of any size, ends and cuts, new keys, memory.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};

use super::pki::{ALPN, Pki};
use crate::carrier::ws::upgrade::{self, Request};
use crate::carrier::{Carrier, fp};
use crate::carrier_conformance;
use crate::tls::buffer::Buffers;
use crate::tls::client::{client_config, stock_verifier};
use crate::tls::judge::Shown;
use crate::tls::machine::Machine;
use crate::tls::revocation::Lists;
use crate::tls::server::ServerSide;
use crate::tls::shake::shake;
use crate::tls::{TlsError, TlsStream};

static PKI: LazyLock<Pki> = LazyLock::new(Pki::new);

type Pair = (TlsStream<DuplexStream>, TlsStream<DuplexStream>);

carrier_conformance!(wss_on_a_stream, async || wss_pair(50_021).await);
carrier_conformance!(fps_on_a_stream, async || fps_pair(50_021).await);
carrier_conformance!(fps_on_a_narrow_stream, async || fps_pair(331).await);

async fn wss_pair(room: usize) -> (Box<dyn Carrier>, Box<dyn Carrier>) {
    let (near, far) = tls_pair(room).await;
    let request = Request {
        host: "localhost",
        path: "/",
        headers: &[],
    };
    let (near, far) = tokio::join!(upgrade::connect(near, request), upgrade::accept(far));
    (
        Box::new(near.expect("upgraded")),
        Box::new(far.expect("upgraded")),
    )
}

async fn fps_pair(room: usize) -> (Box<dyn Carrier>, Box<dyn Carrier>) {
    let (near, far) = tls_pair(room).await;
    (Box::new(fp::start(near)), Box::new(fp::start(far)))
}

/// Two ends on a connection that holds `room` bytes each way, the one that dialled first.
async fn tls_pair(room: usize) -> Pair {
    let (near, far) = tokio::io::duplex(room);
    let (client, server) = (PKI.client(), PKI.server());
    let (near, far) = tokio::join!(client.connect(near, "localhost"), server.accept(far));
    (near.expect("connected").0, far.expect("accepted").0)
}

/// What a client says at once may come in one piece with its last words of the handshake; also on a
/// resumed session, whose handshake is shorter.
#[tokio::test]
async fn data_glued_to_the_end_of_the_handshake_arrives() {
    let (client, server) = (PKI.client(), PKI.server());
    for said in [1, 1_000, 100_000] {
        let (near, far) = tokio::io::duplex(1 << 20);
        let data = noise(said, 3);
        let speaking = async {
            let (mut stream, _) = client.connect(near, "localhost").await.expect("connected");
            stream.write_all(&data).await.expect("written");
            stream.shutdown().await.expect("shut down");
            stream
        };
        let (near, far) = tokio::join!(speaking, server.accept(far));
        let mut heard = Vec::new();
        let mut far = far.expect("accepted").0;
        far.read_to_end(&mut heard).await.expect("a clean end");
        assert!(heard == data, "{said} bytes");
        drop(near);
    }
}

fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed + 1;
    let step = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        state.to_be_bytes()[0]
    };
    std::iter::repeat_with(step).take(len).collect()
}

/// Polls a read once, without anybody to be woken.
fn read_now(stream: &mut TlsStream<DuplexStream>, into: &mut [u8]) -> Poll<io::Result<usize>> {
    let mut buf = ReadBuf::new(into);
    let mut cx = Context::from_waker(Waker::noop());
    Pin::new(stream)
        .poll_read(&mut cx, &mut buf)
        .map_ok(|()| buf.filled().len())
}

#[tokio::test]
async fn a_connection_of_one_byte_carries_everything() {
    let (mut near, mut far) = tls_pair(1).await;
    let data = noise(50_000, 1);
    let sending = async {
        near.write_all(&data).await.expect("written");
        near.shutdown().await.expect("shut down");
    };
    let mut got = Vec::new();
    let (received, ()) = tokio::join!(far.read_to_end(&mut got), sending);
    received.expect("to the end");
    assert!(got == data);
}

#[tokio::test]
async fn records_that_lie_together_are_read_in_pieces_of_any_size() {
    for size in [1, 7, 4_000, 16_384, 16_385, 100_000] {
        let (mut near, mut far) = tls_pair(1 << 20).await;
        let data = noise(60_000, 2);
        for part in data.chunks(777) {
            near.write_all(part).await.expect("written");
        }
        near.write_all(&data).await.expect("written");
        near.shutdown().await.expect("shut down");
        let (mut got, mut piece) = (Vec::new(), vec![0; size]);
        loop {
            let len = far.read(&mut piece).await.expect("read");
            if len == 0 {
                break;
            }
            got.extend_from_slice(&piece[..len]);
        }
        assert!(got == [&data[..], &data[..]].concat(), "pieces of {size}");
    }
}

#[tokio::test]
async fn one_write_takes_many_records_from_several_places() {
    let (mut near, mut far) = tls_pair(4 << 20).await;
    let (head, body) = (noise(20, 3), noise(400_000, 4));
    let slices = [IoSlice::new(&head), IoSlice::new(&[]), IoSlice::new(&body)];
    let written = near.write_vectored(&slices).await.expect("written");
    assert_eq!(written, 400_020, "all of it at once");
    let mut got = vec![0; written];
    far.read_exact(&mut got).await.expect("read");
    assert!(got == [head, body].concat());
}

#[tokio::test]
async fn both_directions_carry_much_at_once() {
    let (near, far) = tls_pair(70_001).await;
    let (there, back) = (noise(6 << 20, 5), noise(5 << 20, 6));
    let side = async |stream: TlsStream<DuplexStream>, send: &[u8], expected: &[u8]| {
        let (mut reader, mut writer) = tokio::io::split(stream);
        let sending = async {
            writer.write_all(send).await.expect("written");
            writer.shutdown().await.expect("shut down");
        };
        let mut got = Vec::new();
        let (received, ()) = tokio::join!(reader.read_to_end(&mut got), sending);
        received.expect("to the end");
        assert!(got == expected);
    };
    tokio::join!(side(near, &there, &back), side(far, &back, &there));
}

#[tokio::test]
async fn one_direction_ends_and_the_other_goes_on() {
    let (mut near, mut far) = tls_pair(1 << 16).await;
    near.write_all(b"question").await.expect("written");
    near.shutdown().await.expect("shut down");
    let mut question = Vec::new();
    far.read_to_end(&mut question).await.expect("to the end");
    assert_eq!(question, b"question");
    // The end stays the end, and writing is not touched by it.
    assert_eq!(far.read(&mut [0; 9]).await.expect("still the end"), 0);
    far.write_all(b"answer").await.expect("written");
    far.shutdown().await.expect("shut down");
    let mut answer = Vec::new();
    near.read_to_end(&mut answer).await.expect("to the end");
    assert_eq!(answer, b"answer");
    near.write_all(b"more").await.expect_err("it was shut down");
}

#[tokio::test]
async fn an_end_without_a_closing_alert_is_a_cut() {
    let (mut near, mut far) = tls_pair(1 << 16).await;
    near.write_all(b"half of").await.expect("written");
    drop(near);
    let mut got = Vec::new();
    let error = far.read_to_end(&mut got).await.expect_err("it was cut");
    assert_eq!(got, b"half of");
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    let again = far.read(&mut [0; 9]).await.expect_err("still cut");
    assert_eq!(again.kind(), io::ErrorKind::UnexpectedEof);
    assert!(TlsError::of(&again).is_some_and(|e| e.is_cut() && !e.is_final()));
}

#[tokio::test]
async fn p17_bytes_that_were_changed_on_the_way_are_an_error_that_the_other_side_hears() {
    let (near, mid_near) = tokio::io::duplex(1 << 16);
    let (mid_far, far) = tokio::io::duplex(1 << 16);
    let (mut near_read, mut near_write) = tokio::io::split(mid_near);
    let (mut far_read, mut far_write) = tokio::io::split(mid_far);
    let mut backward = tokio::task::JoinSet::new();
    backward.spawn(async move {
        tokio::io::copy(&mut far_read, &mut near_write)
            .await
            .map(drop)
    });
    let (client, server) = (PKI.client(), PKI.server());
    let both = async {
        let (near, far) = tokio::join!(client.connect(near, "localhost"), server.accept(far));
        (near.expect("connected").0, far.expect("accepted").0)
    };
    let mut buf = vec![0; 1 << 16];
    let mut both = std::pin::pin!(both);
    let (mut near, mut far) = loop {
        tokio::select! {
            pair = &mut both => break pair,
            len = near_read.read(&mut buf) => {
                far_write.write_all(&buf[..len.expect("read")]).await.expect("written");
            }
        }
    };
    near.write_all(b"word").await.expect("written");
    let len = near_read.read(&mut buf).await.expect("read");
    buf[len - 1] ^= 1;
    far_write.write_all(&buf[..len]).await.expect("written");
    let error = far.read(&mut [0; 9]).await.expect_err("it was changed");
    assert!(error.to_string().contains("changed on the way"), "{error}");
    far.shutdown().await.expect("the alert is out");
    drop(far);
    let heard = near.read(&mut [0; 9]).await.expect_err("it hears");
    assert!(heard.to_string().contains("changed on the way"), "{heard}");
    drop((near, far_write));
    let copied = backward.join_next().await.expect("one task");
    copied.expect("no panic").expect("copied");
}

fn ask_for_new_keys(stream: &mut TlsStream<DuplexStream>) {
    let (records, outgoing) = stream.records();
    records.change_keys(outgoing, true).expect("changed");
}

#[tokio::test]
async fn keys_change_before_the_cipher_wears_out() {
    let (mut near, mut far) = tls_pair(1 << 20).await;
    near.records().0.limit_records(3);
    for round in 0..20 {
        let data = noise(100_000, round);
        let mut got = vec![0; data.len()];
        near.write_all(&data).await.expect("written");
        far.read_exact(&mut got).await.expect("read");
        assert!(got == data);
    }
    assert!(near.records().0.next_written() <= 3);
}

/// Each costs a derivation; a peer that only changes keys is after that.
#[tokio::test]
async fn a_peer_that_changes_keys_for_ever_is_refused() {
    let (mut near, mut far) = tls_pair(1 << 20).await;
    let mut read = Ok(0);
    for _ in 0..40 {
        ask_for_new_keys(&mut near);
        near.flush().await.expect("flushed");
    }
    if let Poll::Ready(result) = read_now(&mut far, &mut [0; 9]) {
        read = result;
    }
    let error = read.expect_err("it is too much");
    assert!(error.to_string().contains("KeyUpdate"), "{error}");
}

/// The pieces of a write need not be those of its records.
#[tokio::test]
async fn pieces_of_any_size_are_sealed_into_whole_records() {
    let (mut near, mut far) = tls_pair(4 << 20).await;
    let data = noise(200_000, 3);
    let cuts = [
        0, 0, 10, 10, 16_383, 16_394, 16_395, 60_000, 199_999, 200_000,
    ];
    let slices: Vec<_> = cuts
        .windows(2)
        .map(|cut| IoSlice::new(&data[cut[0]..cut[1]]))
        .collect();
    let mut cx = Context::from_waker(Waker::noop());
    let written = Pin::new(&mut near).poll_write_vectored(&mut cx, &slices);
    assert!(matches!(written, Poll::Ready(Ok(200_000))), "{written:?}");
    // As few records as there can be.
    assert_eq!(
        near.records().0.next_written(),
        200_000_u64.div_ceil(16 << 10)
    );
    let mut got = vec![0; data.len()];
    far.read_exact(&mut got).await.expect("read");
    assert!(got == data);
}

/// Good records with contents that must not be (RFC 8446 sections 5.1, 5.4 and 6).
#[tokio::test]
async fn contents_that_cannot_be_are_refused() {
    const ALERT: u8 = 21;
    const HANDSHAKE: u8 = 22;
    const DATA: u8 = 23;
    let long = vec![7; (16 << 10) + 1];
    let mut padded = vec![0; (16 << 10) + 1];
    padded[0] = DATA;
    // The beginning of a message, and what may not lie behind it.
    let begun = [4, 0, 0, 9, 1];
    let close = [1, 0];
    let cases: [&[(u8, &[u8])]; 8] = [
        &[(DATA, &long)],
        &[(0, &padded)],
        &[(ALERT, &[])],
        &[(ALERT, &[1])],
        &[(ALERT, &[1, 0, 0])],
        &[(HANDSHAKE, &[])],
        &[(HANDSHAKE, &begun), (ALERT, &close)],
        &[(HANDSHAKE, &begun), (DATA, b"x")],
    ];
    for case in cases {
        let (mut near, mut far) = tls_pair(1 << 16).await;
        for (kind, words) in case {
            let (records, outgoing) = near.records();
            records.forge(outgoing, *kind, words);
        }
        near.flush().await.expect("flushed");
        let read = far.read(&mut [0; 9]).await;
        read.expect_err(&format!("{:?}", &case[case.len() - 1].1.first()));
        // The peer hears it, though nobody here says another word.
        let heard = near.read(&mut [0; 9]).await.expect_err("an alert");
        assert!(heard.to_string().contains("ended TLS"), "{heard}");
    }
}

/// What is no record of an open connection ends it, with an alert that the peer understands.
#[tokio::test]
async fn records_that_cannot_be_are_refused() {
    let too_long = [23, 3, 3, 0x41, 1];
    let in_clear = [22, 3, 3, 0, 1, 0];
    let forged = [&[23, 3, 3, 0, 17][..], &[7; 17]].concat();
    let short = [&[23, 3, 3, 0, 3][..], &[7; 3]].concat();
    for junk in [&too_long[..], &in_clear, &forged, &short] {
        let (near, mut relay) = tokio::io::duplex(1 << 16);
        let (client, server) = (PKI.client(), PKI.server());
        let (mut origin, far) = tokio::io::duplex(1 << 16);
        let near = client.connect(near, "localhost");
        let far = server.accept(far);
        let copying = tokio::io::copy_bidirectional(&mut relay, &mut origin);
        let (near, mut far) = tokio::select! {
            ends = async { tokio::join!(near, far) } =>
                (ends.0.expect("connected").0, ends.1.expect("accepted").0),
            copied = copying => panic!("{copied:?}"),
        };
        origin.write_all(junk).await.expect("written");
        let first = far.read(&mut [0; 9]).await.expect_err("it is no record");
        let again = far.read(&mut [0; 9]).await.expect_err("as before");
        assert_eq!(first.to_string(), again.to_string());
        // Behind the tickets lies one alert, without another call of the reader that failed.
        drop(far);
        let mut said = Vec::new();
        origin.read_to_end(&mut said).await.expect("read");
        let alert = said.len() - (5 + 2 + 17);
        assert_eq!(said[alert..alert + 5], [23, 3, 3, 0, 19], "{junk:?}");
        drop(near);
    }
}

#[tokio::test]
async fn keys_change_under_way_in_both_directions() {
    let (mut near, mut far) = tls_pair(1 << 20).await;
    for round in 0..5 {
        let data = noise(100_000, round);
        let mut got = vec![0; data.len()];
        ask_for_new_keys(&mut near);
        near.write_all(&data).await.expect("written");
        far.read_exact(&mut got).await.expect("read");
        assert!(got == data);
        // It was asked to change its own before it says anything.
        far.write_all(b"x").await.expect("written");
        assert_eq!(far.records().0.next_written(), 1);
        near.read_exact(&mut got[..1]).await.expect("read");
        ask_for_new_keys(&mut far);
        far.write_all(&data).await.expect("written");
        near.read_exact(&mut got).await.expect("read");
        assert!(got == data);
    }
}

#[tokio::test]
async fn a_connection_that_waits_holds_no_buffers() {
    let (mut near, mut far) = tls_pair(4 << 20).await;
    let mut got = vec![0; 300_000];
    for _ in 0..3 {
        near.write_all(&noise(300_000, 7)).await.expect("written");
        near.flush().await.expect("flushed");
        far.read_exact(&mut got).await.expect("read");
        assert!(read_now(&mut near, &mut got).is_pending());
        assert!(read_now(&mut far, &mut got).is_pending());
        assert_eq!((near.memory(), far.memory()), (0, 0));
    }
}

#[tokio::test]
async fn a_writer_whose_reader_does_not_read_waits_and_holds_little() {
    let (mut near, _far) = tls_pair(1 << 12).await;
    let data = noise(64 << 20, 8);
    let mut written = 0;
    let mut cx = Context::from_waker(Waker::noop());
    while let Poll::Ready(len) = Pin::new(&mut near).poll_write(&mut cx, &data[written..]) {
        written += len.expect("written");
    }
    assert!(written < 1 << 20, "{written} bytes were taken");
    assert!(near.memory() < 2 << 20);
}

/// A client may write in the moment in which it is done, and end at once: what lies behind its last
/// handshake message in one piece is data, and then the end.
#[tokio::test]
async fn data_right_behind_the_handshake_is_not_lost() {
    for ends in [false, true] {
        let (near, mut relay) = tokio::io::duplex(1 << 16);
        let (mut origin, far) = tokio::io::duplex(1 << 16);
        let (client, server) = (PKI.client(), PKI.server());
        let mut near = std::pin::pin!(async {
            let (mut near, _) = client.connect(near, "localhost").await.expect("connected");
            // Short records, so that some are complete in the first read.
            for part in noise(1_000, 9).chunks(50) {
                near.write_all(part).await.expect("written");
            }
            if ends {
                near.shutdown().await.expect("shut down");
            }
            near
        });
        let relaying = async {
            let (mut there, mut back) = (vec![0; 1 << 16], vec![0; 1 << 16]);
            let mut done = None;
            // The client's side always goes as far as it can before anything is passed on.
            for _flight in 0..2 {
                let len = tokio::select! {
                    biased;
                    near = &mut near => {
                        done = Some(near);
                        relay.read(&mut there).await
                    }
                    len = relay.read(&mut there) => len,
                };
                let sent = &there[..len.expect("read")];
                origin.write_all(sent).await.expect("written");
                if done.is_none() {
                    let len = origin.read(&mut back).await.expect("read");
                    relay.write_all(&back[..len]).await.expect("written");
                }
            }
            (done.expect("the second flight is the last"), origin)
        };
        let accepting = async { server.accept(far).await.expect("accepted").0 };
        let (_held, mut far) = tokio::join!(relaying, accepting);
        // Writing first does not disturb what is still to be read.
        far.write_all(b"answer").await.expect("written");
        let mut got = vec![0; 1_000];
        far.read_exact(&mut got).await.expect("all of it");
        assert!(got == noise(1_000, 9));
        if ends {
            assert_eq!(far.read(&mut got).await.expect("the end"), 0);
        }
    }
}

/// A message of TLS itself that comes in many records, and those byte by byte, is put together while
/// data goes the other way.
/// What TLS clients here are made of, for rustls' own connections.
fn stock_client() -> rustls::ClientConfig {
    let options = PKI.client_options();
    let stock = stock_verifier(&options, Lists::default()).expect("good files");
    client_config(&options, Some(stock), ALPN).expect("good files")
}

#[tokio::test]
async fn a_handshake_message_in_many_pieces_does_not_disturb_a_writer() {
    let (near, mut relay) = tokio::io::duplex(1 << 16);
    let (mut origin, far) = tokio::io::duplex(1 << 16);
    let client = stock_client();
    let side = ServerSide::new(&PKI.server_options(), ALPN).expect("good files");
    let mut server = side
        .config(Shown::default(), false)
        .expect("a configuration");
    server.max_fragment_size = Some(32);
    let name = "localhost".try_into().expect("a name");
    let client = Machine::client(Arc::new(client), name).expect("a machine");
    let server = Machine::server(Arc::new(server)).expect("a machine");
    let (near, far) = (
        shake(near, client, Buffers::default()),
        shake(far, server, Buffers::default()),
    );
    let (mut buf, mut back) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    let mut tickets = Vec::new();
    let (mut near, mut far) = {
        let both = async { tokio::try_join!(near, far) };
        let mut both = std::pin::pin!(both);
        let mut flights = 0;
        loop {
            tokio::select! {
                biased;
                done = &mut both => {
                    let (near, far) = done.expect("both are up");
                    break (near.0, far.0);
                }
                len = relay.read(&mut buf) => {
                    flights += 1;
                    let len = len.expect("read");
                    origin.write_all(&buf[..len]).await.expect("written");
                }
                len = origin.read(&mut back), if flights < 2 => {
                    let len = len.expect("read");
                    relay.write_all(&back[..len]).await.expect("written");
                }
            }
        }
    };
    // What the server said after the client's last flight: session tickets.
    while let Ok(len) = tokio::time::timeout(std::time::Duration::ZERO, origin.read(&mut buf)).await
    {
        tickets.extend_from_slice(&buf[..len.expect("read")]);
    }
    assert!(tickets.len() > 200, "{} bytes of tickets", tickets.len());
    for byte in &tickets {
        relay.write_all(&[*byte]).await.expect("written");
        assert!(read_now(&mut near, &mut [0; 9]).is_pending());
        near.write_all(b"x").await.expect("written");
        near.flush().await.expect("flushed");
        let len = relay.read(&mut buf).await.expect("read");
        origin.write_all(&buf[..len]).await.expect("written");
    }
    let mut got = vec![0; tickets.len()];
    far.read_exact(&mut got).await.expect("all of it");
    assert!(got.iter().all(|byte| *byte == b'x'));
}

/// Tickets are not what ends a handshake.
#[tokio::test]
async fn a_server_without_tickets_is_done_as_well() {
    let (near, far) = tokio::io::duplex(1 << 16);
    let client = stock_client();
    let side = ServerSide::new(&PKI.server_options(), ALPN).expect("good files");
    let mut server = side
        .config(Shown::default(), false)
        .expect("a configuration");
    server.send_tls13_tickets = 0;
    let name = "localhost".try_into().expect("a name");
    let client = Machine::client(Arc::new(client), name).expect("a machine");
    let server = Machine::server(Arc::new(server)).expect("a machine");
    let near = shake(near, client, Buffers::default());
    let far = shake(far, server, Buffers::default());
    let ((mut near, _), (mut far, _)) = tokio::try_join!(near, far).expect("both are up");
    far.write_all(b"hello").await.expect("written");
    assert_eq!(near.read(&mut [0; 9]).await.expect("read"), 5);
}

/// A peer that sends whatever it likes gets an error, at any point of the handshake and after it.
#[tokio::test]
async fn garbage_never_panics() {
    for seed in 0..200 {
        let (mut near, far) = tokio::io::duplex(1 << 16);
        let mut junk = noise(500, seed);
        if seed % 2 == 0 {
            // Records of every type that look right from outside.
            let kind = [20, 21, 22, 23][(seed / 2 % 4) as usize];
            junk.splice(..5, [kind, 3, 3, 0, (seed % 100) as u8 + 1]);
        }
        near.write_all(&junk).await.expect("written");
        near.shutdown().await.expect("shut down");
        let server = PKI.server();
        let draining = async {
            let mut waste = Vec::new();
            let _ = near.read_to_end(&mut waste).await;
        };
        let (accepted, ()) = tokio::join!(server.accept(far), draining);
        accepted.expect_err("it is no client");
    }
}

#[tokio::test]
async fn who_speaks_another_protocol_is_told_apart() {
    let (mut near, far) = tokio::io::duplex(1 << 16);
    near.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        .await
        .expect("written");
    near.shutdown().await.expect("shut down");
    let client = PKI.client();
    let draining = async {
        let mut waste = Vec::new();
        let _ = near.read_to_end(&mut waste).await;
    };
    let (connected, ()) = tokio::join!(client.connect(far, "localhost"), draining);
    let error = connected.expect_err("it is no TLS");
    assert!(error.to_string().contains("does not speak TLS"), "{error}");
    assert!(TlsError::of(&error).is_some_and(|error| !error.is_final()));
}

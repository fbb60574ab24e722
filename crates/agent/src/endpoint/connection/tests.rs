//! Tests of connections: what an end, a reset and a reader's end look like from either half.

use std::future::poll_fn;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::task::Waker;
use std::time::Duration;

use rustix::net::sockopt::set_socket_linger;

use super::*;

fn tcp() -> (OwnedFd, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let ours = TcpStream::connect(listener.local_addr().expect("bound")).expect("a connection");
    let (theirs, _) = listener.accept().expect("the connection");
    (ours.into(), theirs)
}

fn open(fd: OwnedFd, wanted: Use) -> Endpoint {
    endpoint(fd, wanted, "tcp:there".to_owned()).expect("an endpoint")
}

async fn read(endpoint: &mut Endpoint) -> io::Result<Vec<u8>> {
    let mut buf = BytesMut::with_capacity(1000);
    let source = endpoint.source.as_mut().expect("a source");
    poll_fn(|cx| source.poll_read(cx, &mut buf, 1000)).await?;
    Ok(buf.to_vec())
}

async fn write(endpoint: &mut Endpoint, bytes: &[u8]) -> io::Result<usize> {
    let sink = endpoint.sink.as_mut().expect("a sink");
    poll_fn(|cx| sink.poll_write(cx, &[IoSlice::new(bytes)])).await
}

async fn gone(endpoint: &mut Endpoint) -> io::Error {
    let sink = endpoint.sink.as_mut().expect("a sink");
    let gone = poll_fn(|cx| sink.poll_reader_gone(cx)).await;
    gone.expect_err("no end in order")
}

async fn close(endpoint: &mut Endpoint) -> io::Result<()> {
    let sink = endpoint.sink.as_mut().expect("a sink");
    poll_fn(|cx| sink.poll_close(cx)).await
}

fn reset(stream: TcpStream) {
    set_socket_linger(&stream, Some(Duration::ZERO)).expect("a TCP option");
    drop(stream);
}

#[tokio::test]
async fn each_direction_ends_by_itself() {
    let (ours, mut theirs) = tcp();
    let mut endpoint = open(ours, Use::Both);
    theirs.write_all(b"question").expect("room");
    theirs.shutdown(Shutdown::Write).expect("a half-close");
    assert_eq!(read(&mut endpoint).await.expect("a read"), b"question");
    assert_eq!(read(&mut endpoint).await.expect("the end"), b"");
    endpoint.source = None;
    write(&mut endpoint, b"answer").await.expect("a write");
    close(&mut endpoint).await.expect("the close");
    let mut answer = Vec::new();
    theirs.read_to_end(&mut answer).expect("the answer's end");
    assert_eq!(answer, b"answer");
}

/// Whichever half the system tells it to, the other must not take it for an end.
#[tokio::test]
async fn a_reset_is_a_failure_for_both_halves_whoever_asks_first() {
    for first in ["source", "sink", "idle sink"] {
        let (ours, theirs) = tcp();
        let mut endpoint = open(ours, Use::Both);
        reset(theirs);
        let expect = |error: io::Error| {
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{first}");
        };
        match first {
            "source" => expect(read(&mut endpoint).await.expect_err("a reset")),
            "sink" => loop {
                // The reset may still be on its way.
                if let Err(error) = write(&mut endpoint, b"x").await {
                    break expect(error);
                }
            },
            _ => expect(gone(&mut endpoint).await),
        }
        for _ in 0..2 {
            expect(read(&mut endpoint).await.expect_err("no end"));
            expect(gone(&mut endpoint).await);
            expect(write(&mut endpoint, b"x").await.expect_err("no write"));
        }
    }
}

#[tokio::test]
async fn what_came_before_a_reset_is_read_before_it_is_told() {
    let (ours, mut theirs) = tcp();
    let mut endpoint = open(ours, Use::Both);
    theirs.write_all(b"prefix").expect("room");
    assert_eq!(read(&mut endpoint).await.expect("a read"), b"prefix");
    reset(theirs);
    let error = read(&mut endpoint).await.expect_err("a reset");
    assert_eq!(error.to_string(), "reading tcp:there failed");
}

#[tokio::test]
async fn a_reader_that_is_gone_is_none_for_the_other_direction() {
    let (ours, mut theirs) = UnixStream::pair().expect("sockets");
    let mut endpoint = open(ours.into(), Use::Both);
    theirs.shutdown(Shutdown::Read).expect("a half-close");
    let error = write(&mut endpoint, b"x").await.expect_err("nobody reads");
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    theirs.write_all(b"still here").expect("room");
    assert_eq!(read(&mut endpoint).await.expect("a read"), b"still here");
    drop(theirs);
    assert_eq!(read(&mut endpoint).await.expect("the end"), b"");
    assert_eq!(gone(&mut endpoint).await.kind(), io::ErrorKind::BrokenPipe);
}

/// It had ended its own direction, and reads no more: TCP says so to the second write.
#[tokio::test]
async fn a_far_program_that_has_ended_in_order_is_a_reader_that_is_gone() {
    let (ours, theirs) = tcp();
    let mut endpoint = open(ours, Use::Both);
    drop(theirs);
    assert_eq!(read(&mut endpoint).await.expect("the end"), b"");
    let error = loop {
        if let Err(error) = write(&mut endpoint, b"x").await {
            break error;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe, "{error}");
}

/// Also when this process is killed: nothing of it runs then but the system's close.
#[tokio::test]
async fn a_sink_that_was_not_closed_is_a_reset_for_the_far_program() {
    let (ours, mut theirs) = tcp();
    let mut endpoint = open(ours, Use::Both);
    write(&mut endpoint, b"prefix").await.expect("a write");
    drop(endpoint);
    let error = theirs.read_to_end(&mut Vec::new()).expect_err("a reset");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_half_that_nobody_wants_is_over_at_once() {
    let (ours, mut theirs) = tcp();
    let mut endpoint = open(ours, Use::Source);
    assert!(endpoint.sink.is_none());
    assert_eq!(theirs.read(&mut [0; 8]).expect("the end"), 0);
    theirs.write_all(b"said").expect("room");
    assert_eq!(read(&mut endpoint).await.expect("a read"), b"said");
}

/// Were it not read, the close would reset what is on its way to the far program.
#[tokio::test]
async fn an_answer_that_nobody_wants_is_read_to_its_end() {
    let (ours, mut theirs) = tcp();
    let mut endpoint = open(ours, Use::Sink);
    assert!(endpoint.source.is_none());
    theirs.write_all(b"a greeting").expect("room");
    write(&mut endpoint, b"data").await.expect("a write");
    let sink = endpoint.sink.as_mut().expect("a sink");
    let mut cx = Context::from_waker(Waker::noop());
    assert!(sink.poll_close(&mut cx).is_pending(), "it has not ended");
    let mut data = Vec::new();
    theirs.read_to_end(&mut data).expect("the data's end");
    assert_eq!(data, b"data");
    drop(theirs);
    close(&mut endpoint).await.expect("the close");
}

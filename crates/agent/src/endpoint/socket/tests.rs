//! Tests of sockets as stdin and stdout.

use std::future::poll_fn;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::task::Waker;

use super::*;

fn source(at_end: AtEnd) -> (SocketSource, UnixStream) {
    let (ours, theirs) = UnixStream::pair().expect("sockets");
    let source = SocketSource::new(ours.into(), at_end);
    (source.expect("a source"), theirs)
}

fn sink(at_end: AtEnd) -> (SocketSink, UnixStream) {
    let (ours, theirs) = UnixStream::pair().expect("sockets");
    let sink = SocketSink::new(ours.into(), at_end);
    (sink.expect("a sink"), theirs)
}

fn is_pending<T>(mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> bool {
    poll(&mut Context::from_waker(Waker::noop())).is_pending()
}

/// Lets the runtime look at its descriptors.
async fn turn() {
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_read_of_an_empty_blocking_socket_does_not_wait() {
    let (mut source, mut theirs) = source(AtEnd::Close);
    let mut buf = BytesMut::with_capacity(100);
    for message in [b"one", b"two"] {
        theirs.write_all(message).expect("room");
        poll_fn(|cx| source.poll_ready(cx)).await.expect("ready");
        let len = poll_fn(|cx| source.poll_read(cx, &mut buf, 100)).await;
        assert_eq!(len.expect("a read"), 3);
        if message == b"one" {
            assert!(is_pending(|cx| source.poll_ready(cx)));
        } else {
            assert!(is_pending(|cx| source.poll_read(cx, &mut buf, 100)));
        }
    }
}

#[tokio::test]
async fn a_peer_that_only_stops_sending_still_reads() {
    let (mut sink, mut theirs) = sink(AtEnd::Close);
    assert!(is_pending(|cx| sink.poll_reader_gone(cx)));
    theirs.write_all(b"what we do not read").expect("room");
    theirs
        .shutdown(std::net::Shutdown::Write)
        .expect("a half-close");
    turn().await;
    assert!(is_pending(|cx| sink.poll_reader_gone(cx)));
    drop(theirs);
    let gone = poll_fn(|cx| sink.poll_reader_gone(cx)).await;
    gone.expect_err("no end in order");
}

#[tokio::test]
async fn an_end_shuts_the_direction_down_only_where_it_must() {
    for at_end in [AtEnd::Close, AtEnd::ShutDown] {
        let (mut sink, mut theirs) = sink(at_end);
        let socket = sink.socket.as_ref().expect("open");
        let _other_half = fd::dup(socket.as_fd()).expect("a duplicate");
        poll_fn(|cx| sink.poll_close(cx)).await.expect("the close");
        theirs.set_nonblocking(true).expect("flags");
        match (theirs.read(&mut [0; 8]), at_end) {
            (Ok(0), AtEnd::ShutDown) => {}
            (Err(error), AtEnd::Close) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            (other, _) => panic!("{at_end:?}: {other:?}"),
        }

        let (source, mut theirs) = source(at_end);
        let _other_half = fd::dup(source.socket.as_fd()).expect("a duplicate");
        drop(source);
        match (theirs.write(b"x"), at_end) {
            (Err(error), AtEnd::ShutDown) => assert_eq!(error.kind(), io::ErrorKind::BrokenPipe),
            (Ok(1), AtEnd::Close) => {}
            (other, _) => panic!("{at_end:?}: {other:?}"),
        }
    }
}

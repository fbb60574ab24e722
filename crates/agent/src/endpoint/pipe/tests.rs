//! Tests of pipe ends that are ours alone.

use std::future::poll_fn;
use std::io::{Read, Write};
use std::task::Waker;

use super::*;

fn poll<T>(mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
    poll(&mut Context::from_waker(Waker::noop()))
}

#[tokio::test]
async fn an_emptied_pipe_is_not_ready() {
    let (reader, mut writer) = io::pipe().expect("a pipe");
    let mut source = PipeSource::new(reader.into()).expect("a source");
    let mut buf = BytesMut::with_capacity(1000);
    assert!(poll(|cx| source.poll_ready(cx)).is_pending());
    for message in [b"one", b"two"] {
        writer.write_all(message).expect("room");
        poll_fn(|cx| source.poll_ready(cx)).await.expect("ready");
        let len = poll_fn(|cx| source.poll_read(cx, &mut buf, 1000)).await;
        assert_eq!(len.expect("a read"), 3);
        assert!(poll(|cx| source.poll_ready(cx)).is_pending());
    }
    drop(writer);
    poll_fn(|cx| source.poll_ready(cx)).await.expect("ready");
}

#[tokio::test]
async fn a_read_needs_room() {
    let (reader, mut writer) = io::pipe().expect("a pipe");
    let mut source = PipeSource::new(reader.into()).expect("a source");
    writer.write_all(b"x").expect("room");
    let mut buf = BytesMut::new();
    let read = poll_fn(|cx| source.poll_read(cx, &mut buf, 10)).await;
    let error = read.expect_err("no spare capacity is no end");
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
}

#[tokio::test]
async fn a_dropped_source_breaks_the_writers_pipe_at_once() {
    let (reader, mut writer) = io::pipe().expect("a pipe");
    let source = PipeSource::new(reader.into()).expect("a source");
    writer.write_all(b"x").expect("a reader");
    drop(source);
    let error = writer.write_all(b"x").expect_err("no reader");
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
}

#[tokio::test]
async fn a_closed_or_dropped_sink_is_the_end_at_once() {
    for by_close in [true, false] {
        let (mut reader, writer) = io::pipe().expect("a pipe");
        let mut sink = PipeSink::new(writer.into()).expect("a sink");
        // The watch holds a duplicate, which must go as well.
        assert!(poll(|cx| sink.poll_reader_gone(cx)).is_pending());
        if by_close {
            poll_fn(|cx| sink.poll_close(cx)).await.expect("the close");
            assert_eq!(reader.read(&mut [0; 8]).expect("the end"), 0);
        } else {
            drop(sink);
            assert_eq!(reader.read(&mut [0; 8]).expect("the end"), 0);
        }
    }
}

#[tokio::test]
async fn both_ends_grow_their_pipe() {
    use rustix::pipe::fcntl_getpipe_size;

    let (reader, writer) = io::pipe().expect("a pipe");
    let before = fcntl_getpipe_size(&writer).expect("a size");
    let source = PipeSource::new(reader.into()).expect("a source");
    let grown = fcntl_getpipe_size(&writer).expect("a size");
    assert!(grown > before, "{before} bytes, then {grown}");
    drop(source);
    let (reader, writer) = io::pipe().expect("a pipe");
    let _sink = PipeSink::new(writer.into()).expect("a sink");
    assert_eq!(fcntl_getpipe_size(&reader).expect("a size"), grown);
}
